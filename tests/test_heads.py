"""Heads: what they compute, and files that are refused."""

import gguf
import numpy as np
import pytest

from heads import Q8_0, evaluate, keys_of, opened_after_changes, random_tensors, write_heads
from maskprobe import Engine, Model, ModelError


@pytest.fixture(scope="module")
def model(bundled_model_path):
    with Model(bundled_model_path, n_threads=1) as model:
        yield model


def latents(model, n: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, model.info.n_embd)).astype(np.float32)


# --- what they compute -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_hidden, n_short, temperature", [(96, 50, 1.0), (32, 5, 0.7), (320, 1001, 1.5)])
def test_a_head_computes_its_formula(model, head_library, tmp_path, n_hidden, n_short, temperature):
    tensors = random_tensors(model, n_hidden, n_short)
    keys = keys_of(model) | {"maskprobe.heads.temperature": temperature}
    head = head_library.open(write_heads(tmp_path / "heads.gguf", keys, tensors), model)
    tokens, before = [3, 17, 3, 4095, 200, 11, 12], latents(model, 7)
    after, odds = evaluate(model, tensors, tokens, before, temperature)
    found_after, likely, probabilities = head.evaluate(tokens, before)
    assert np.allclose(found_after, after, rtol=1e-4, atol=1e-4)
    n = min(12, n_short)
    for row in range(7):
        best = np.argsort(-odds[row], kind="stable")[:n]
        assert np.allclose(probabilities[row, :n], odds[row, best], rtol=1e-3)
        same = likely[row, :n] == tensors["short.tokens"][best]
        assert same.all() or np.allclose(odds[row, best], probabilities[row, :n], rtol=1e-4)
        assert (likely[row, n:] == -1).all()
    # Depth by depth, from its own latents.
    again, odds = evaluate(model, tensors, tokens, after, temperature)
    found_again, _, probabilities = head.evaluate(tokens, found_after)
    assert np.allclose(found_again, again, rtol=1e-3, atol=1e-3)
    assert np.allclose(probabilities[:, 0], odds.max(1), rtol=1e-2)


def test_what_is_said_of_a_token_does_not_depend_on_the_others(model, head_library, tmp_path):
    head = head_library.open(write_heads(tmp_path / "heads.gguf", keys_of(model), random_tensors(model)), model)
    tokens, before = list(range(100, 113)), latents(model, 13)
    together = head.evaluate(tokens, before)
    for i in range(13):
        for all_of, alone in zip(together, head.evaluate(tokens[i : i + 1], before[i : i + 1]), strict=True):
            assert np.array_equal(all_of[i], alone[0])


def test_of_latents_that_are_not_finite_nothing_is_said(model, head_library, tmp_path):
    head = head_library.open(write_heads(tmp_path / "heads.gguf", keys_of(model), random_tensors(model)), model)
    before = latents(model, 3)
    alone = head.evaluate([5], before[2:])
    before[0, 7], before[1, :] = np.nan, np.inf
    _, likely, _ = head.evaluate([5, 5, 5], before)
    assert (likely[:2] == -1).all()
    assert np.array_equal(likely[2], alone[1][0])


# --- files that are refused ------------------------------------------------------------------------------------------


def changed_keys(**values):
    return lambda keys, tensors: keys.update({f"maskprobe.heads.{name}": value for name, value in values.items()})


def changed(name, change):
    return lambda keys, tensors: tensors.update({name: change(tensors[name])})


def scales(values, at, scale):
    """A quantised matrix with one other scale."""
    blocks = gguf.quantize(values, Q8_0).reshape(-1, 34)
    blocks[at, :2] = np.array([scale], np.float16).view(np.uint8)
    return blocks.reshape(len(values), -1)


def with_number(at, number):
    def change(values):
        values = values.copy()
        values[at] = number
        return values

    return change


def swapped(ids):
    return np.concatenate([ids[:2][::-1], ids[2:]])


REFUSED = {
    "another architecture": (
        lambda keys, tensors: keys.update({"general.architecture": "llama"}),
        r"general.architecture is 'llama', expected 'maskprobe-heads'",
    ),
    "a later version": (changed_keys(version=2), r"version is 2, version 1 is read"),
    "no version": (changed_keys(version=None), r"the key maskprobe.heads.version is missing"),
    "a version as text": (changed_keys(version="1"), r"maskprobe.heads.version .* is str, expected u32"),
    "another kind": (changed_keys(kind="medusa\n\x1b"), r"kind is 'medusa\?\?', this program has 'sampler' and 'mtp'"),
    "another width": (changed_keys(n_embd=256), r"states of 256 numbers and 4096 tokens, this one has 512 and 4096"),
    "another vocabulary": (changed_keys(n_vocab=4095), r"and 4095 tokens, this one has 512 and 4096"),
    "another model": (changed_keys(model="llama\nother"), r"it was trained for the model 'llama\?other', this one is"),
    "no model": (changed_keys(model=None), r"the key maskprobe.heads.model is missing"),
    "no temperature at all": (changed_keys(temperature=0.0), r"temperature is 0, it must be from 0.01 to 100"),
    "a temperature that is NaN": (changed_keys(temperature=float("nan")), r"temperature is -?nan, it must be"),
    "a tensor too few": (lambda keys, tensors: tensors.pop("head.1.bias"), r"tensor 'head.1.bias' is missing"),
    "no list": (lambda keys, tensors: tensors.pop("short.tokens"), r"tensor 'short.tokens' is missing"),
    "a tensor too many": (
        lambda keys, tensors: tensors.update({"head.2.weight": np.zeros(4, np.float32)}),
        r"tensor 'head.2.weight' is no part of a file of sampler heads",
    ),
    "a matrix that is too narrow": (
        changed("head.0.weight", lambda values: values[:, :-32]),
        r"tensor 'head.0.weight' has the shape \(1, 1, 96, 992\), expected \(96, 1024\)",
    ),
    "a matrix that is too short": (
        changed("head.1.weight", lambda values: values[:-1]),
        r"tensor 'head.1.weight' has the shape \(1, 1, 511, 96\), expected \(512, 96\)",
    ),
    "a bias that is too long": (
        changed("head.0.bias", lambda values: np.append(values, values[:1])),
        r"tensor 'head.0.bias' has the shape \(1, 1, 1, 97\), expected \(1, 96\)",
    ),
    "more rows than tokens": (
        changed("short.tokens", lambda values: values[:-1]),
        r"tensor 'short.weight' has the shape \(1, 1, 50, 512\), expected \(49, 512\)",
    ),
    "a matrix of another type": (
        changed("head.0.weight", lambda values: values.astype(np.float16)),
        r"tensor 'head.0.weight' has type f16, expected q8_0",
    ),
    "ids of another type": (
        changed("short.tokens", lambda values: values.astype(np.float32)),
        r"tensor 'short.tokens' has type f32, expected i32",
    ),
    "a bias of another type": (
        changed("head.1.norm.bias", lambda values: values.astype(np.float16)),
        r"tensor 'head.1.norm.bias' has type f16, expected f32",
    ),
    "a scale that is NaN": (
        changed("head.0.weight", lambda values: scales(values, 20, np.nan)),
        r"tensor 'head.0.weight' has -?nan at 20, it must be finite",
    ),
    "a scale that is infinite": (
        changed("short.weight", lambda values: scales(values, 799, -np.inf)),
        r"tensor 'short.weight' has -inf at 799, it must be finite",
    ),
    "a bias that is infinite": (
        changed("head.0.bias", with_number(3, np.inf)),
        r"tensor 'head.0.bias' has inf at 3, it must be finite",
    ),
    "a norm that is too large": (
        changed("head.1.norm.weight", with_number(0, -1e30)),
        r"tensor 'head.1.norm.weight' has -1e\+30 at 0, it must be finite and 1e\+06 at most",
    ),
    "a token out of range": (
        changed("short.tokens", with_number(-1, 4096)),
        r"'short.tokens' has 4096 at 49: they must be ascending, from 0 and below 4096",
    ),
    "a token below 0": (changed("short.tokens", with_number(0, -1)), r"'short.tokens' has -1 at 0"),
    "tokens out of order": (
        changed("short.tokens", swapped),
        r"'short.tokens' has \d+ at 1: they must be ascending",
    ),
    "a token twice": (
        changed("short.tokens", lambda ids: np.append(ids[:-1], ids[-2])),
        r"'short.tokens' has \d+ at 49",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_with_one_line(model, tmp_path, what):
    change, line = REFUSED[what]
    keys, tensors = keys_of(model), random_tensors(model)
    change(keys, tensors)
    path = write_heads(tmp_path / "heads.gguf", keys, tensors)
    with pytest.raises(ModelError, match=r"heads.gguf: .*" + line) as refused:
        Engine(model, n_ctx=64, n_threads=1, heads=path)
    assert "\n" not in str(refused.value)


def test_a_layer_that_is_too_wide_is_refused(model, tmp_path):
    tensors = random_tensors(model)
    tensors["head.0.weight"] = np.zeros((70_000, 2 * model.info.n_embd), np.float32)
    path = write_heads(tmp_path / "heads.gguf", keys_of(model), tensors)
    with pytest.raises(ModelError, match=r"'head.0.weight' has 70000 rows, 65536 at most"):
        Engine(model, n_ctx=64, n_threads=1, heads=path)


def test_a_file_that_is_cut_anywhere_or_no_gguf_is_refused(model, tmp_path):
    whole = write_heads(tmp_path / "whole.gguf", keys_of(model), random_tensors(model)).read_bytes()
    random = np.random.default_rng(1)
    for n in [0, 3, 4, 23, 24, *random.integers(25, len(whole) - 32, 40)]:
        path = tmp_path / "cut.gguf"
        path.write_bytes(whole[:n])
        with pytest.raises(ModelError):
            Engine(model, n_ctx=64, n_threads=1, heads=path)
    for path in (tmp_path / "missing.gguf", tmp_path, model.path):
        with pytest.raises(ModelError):
            Engine(model, n_ctx=64, n_threads=1, heads=path)


def test_no_changed_byte_does_harm(model, head_library, tmp_path):
    """Whatever is in the file: it is refused with one line, or what it says is finite or nothing."""
    tensors = random_tensors(model, 32, 8)
    whole = write_heads(tmp_path / "whole.gguf", keys_of(model), tensors)
    table = model.embedding_rows(list(range(model.info.n_vocab)))
    for head in opened_after_changes(head_library, model, whole, table, 300):
        _, likely, probabilities = head.evaluate([5, 6], latents(model, 2))
        assert ((likely >= -1) & (likely < model.info.n_vocab)).all() and (probabilities[likely >= 0] >= 0).all()

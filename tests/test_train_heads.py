"""maskprobe-train on tiny models: text in shards, a head that learns from it, its file, and runs that are cut short."""

import dataclasses
import itertools
import json

import gguf
import numpy as np
import pytest

from maskprobe import Error, Model
from maskprobe.mtp import heads_file, text_store
from maskprobe.mtp.head_weights import Layer, SamplerHeadWeights, quantised
from maskprobe.mtp.heads_file import read_heads, write_heads
from maskprobe.mtp.own_text import N_TOP, Writer, turns_of
from maskprobe.mtp.text_store import Text, TextStore
from maskprobe.mtp.work_folder import DONE, TRAINING, WorkFolder

N_EMBD, N_HIDDEN, N_SHORT = 64, 96, 40
N_TEXTS = 10


@pytest.fixture(scope="module")
def model(bundled_model_path):
    with Model(bundled_model_path, n_threads=1) as model:
        yield model


def texts(n, n_embd=N_EMBD, seed=0, n_layers=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 9, n)
    return [
        Text(
            tokens=rng.integers(0, 500, length).astype(np.int32),
            hidden=rng.normal(size=(length, n_embd)).astype(np.float16),
            between=rng.normal(size=(length, n_layers, n_embd)).astype(np.float16),
            top=rng.integers(0, 500, (length, text_store.N_TOP)).astype(np.int32),
            logprobs=-rng.random((length, text_store.N_TOP)).astype(np.float16),
        )
        for length in lengths
    ]


def weights(seed=0):
    rng = np.random.default_rng(seed)

    def of(*shape):
        return rng.normal(size=shape).astype(np.float32)

    layers = (
        Layer(of(N_HIDDEN, 2 * N_EMBD), *(of(N_HIDDEN) for _ in range(3))),
        Layer(of(N_EMBD, N_HIDDEN), *(of(N_EMBD) for _ in range(3))),
    )
    return SamplerHeadWeights(np.arange(0, 2 * N_SHORT, 2, dtype=np.int32), of(N_SHORT, N_EMBD), layers)


# --- texts ------------------------------------------------------------------------------------------------------------


def test_each_row_of_a_text_belongs_to_the_place_its_token_was_drawn_from(model):
    writer = Writer(model, [], seed=1, n_threads=1)
    try:
        found = list(itertools.islice((text for text in writer.texts() if text is not None), N_TEXTS))
    finally:
        writer.close()
    assert len(found) == N_TEXTS
    for text in found:
        n = len(text.tokens)
        assert text.hidden.shape == (n, model.info.n_embd) and text.top.shape == text.logprobs.shape == (n, N_TOP)
        assert (np.diff(text.logprobs.astype(np.float32)) <= 0).all()
    drawn = np.concatenate([(text.top == text.tokens[:, None]).any(-1) for text in found])
    assert drawn.mean() > 0.9  # the others were less likely than sixteen tokens


def test_texts_are_found_again_with_their_ends_and_an_unfinished_shard_is_not(tmp_path):
    store = TextStore(tmp_path / "text", N_EMBD)
    first, second = texts(30), texts(5, seed=1)
    store.add(first)
    store.add(second)
    (tmp_path / "text" / "text-000002.unfinished").mkdir()
    again = TextStore(tmp_path / "text", N_EMBD)
    assert len(again.shards) == 2 and again.n_tokens == sum(len(text.tokens) for text in first + second)
    shard = again.shards[0]
    assert np.array_equal(shard.hidden, np.concatenate([text.hidden for text in first]))
    assert np.array_equal(np.flatnonzero(shard.left == 1), np.cumsum([len(text.tokens) for text in first]) - 1)
    n_held_out = [len(text.tokens) for text in first[:: text_store.HELD_OUT_EVERY]]
    assert shard.held_out.sum() == sum(n_held_out)
    assert list((tmp_path / "text").glob("*.unfinished")) == []


def test_texts_of_another_width_are_refused(tmp_path):
    TextStore(tmp_path / "text", N_EMBD).add(texts(3))
    with pytest.raises(Error, match=r"has hidden of shape \(.*, 64\); delete that folder"):
        TextStore(tmp_path / "text", 2 * N_EMBD)


def test_states_after_layers_are_found_again_and_other_layers_are_refused(tmp_path):
    written = texts(7, n_layers=2)
    TextStore(tmp_path / "text", N_EMBD, [3, 8]).add(written)
    (shard,) = TextStore(tmp_path / "text", N_EMBD, [3, 8]).shards
    assert np.array_equal(shard.between, np.concatenate([text.between for text in written]))
    for layers in ([], [3], [3, 9]):
        with pytest.raises(Error, match=r"has states after the layers \[3, 8\], wanted are \[.*; delete that folder"):
            TextStore(tmp_path / "text", N_EMBD, layers)


def test_a_template_is_split_around_the_question(model):
    turns = turns_of(model)
    if model.metadata("tokenizer.chat_template") is None:
        assert turns is None


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_file_of_heads_has_what_was_written_and_says_what_it_is(tmp_path):
    path = tmp_path / "heads.gguf"
    written = weights()
    write_heads(path, written, "a model\n", 500, {"general.name": "a head", "maskprobe.train.tokens": 7})
    read = read_heads(path)
    rounded = quantised(written)
    assert np.array_equal(read.short_tokens, written.short_tokens)
    assert np.array_equal(read.short, rounded.short)
    for layer, expected in zip(read.layers, rounded.layers, strict=True):
        for field in dataclasses.fields(Layer):
            assert np.array_equal(getattr(layer, field.name), getattr(expected, field.name)), field.name
    fields = gguf.GGUFReader(path).fields
    assert fields["general.architecture"].contents() == "maskprobe-heads"
    assert fields["maskprobe.heads.model"].contents() == "a model\n"
    assert [fields[f"maskprobe.heads.{key}"].contents() for key in ("version", "kind", "n_embd", "n_vocab")] == [
        1,
        "sampler",
        N_EMBD,
        500,
    ]
    assert fields["maskprobe.train.tokens"].contents() == 7
    assert [each.name for each in tmp_path.iterdir()] == ["heads.gguf"]


def test_an_old_file_stays_where_the_new_one_would_be_too_large(tmp_path, monkeypatch):
    path = tmp_path / "heads.gguf"
    write_heads(path, weights(), "a model\n", 500, {})
    before = path.read_bytes()
    monkeypatch.setattr(heads_file, "N_BYTES_MAX", 1000)
    with pytest.raises(Error, match="at most 1000 are possible"):
        write_heads(path, weights(1), "a model\n", 500, {})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("n", [0, 20, 200, 5000, -1])
def test_a_file_that_was_cut_off_is_refused_with_one_line(tmp_path, n):
    path = tmp_path / "heads.gguf"
    write_heads(path, weights(), "a model\n", 500, {})
    path.write_bytes(path.read_bytes()[:n])
    with pytest.raises(Error, match=r"is damaged|of another kind") as error:
        read_heads(path)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    broken = weights()
    broken.layers[1].bias[3] = np.nan
    with pytest.raises(Error, match="not finite"):
        write_heads(tmp_path / "heads.gguf", broken, "a model\n", 500, {})
    assert list(tmp_path.iterdir()) == []


# --- runs that are cut short ------------------------------------------------------------------------------------------


def test_a_run_that_was_cut_short_goes_on_and_one_that_ended_does_not(tmp_path):
    folder = tmp_path / "work"
    work = WorkFolder(folder, "a\nmodel\n", 60.0, "sampler")
    assert not work.goes_on
    work.journal.writing_s, work.journal.phase = 20.0, TRAINING
    work.note()
    work.close()
    again = WorkFolder(folder, "a\nmodel\n", 600.0, "sampler")
    assert again.goes_on and again.journal.left_s == 40.0
    again.journal.phase = DONE
    again.note()
    again.close()
    assert WorkFolder(folder, "a\nmodel\n", 600.0, "sampler").journal.left_s == 600.0


def test_a_folder_is_for_one_model_and_one_process(tmp_path):
    work = WorkFolder(tmp_path / "work", "a\nmodel\n", 60.0, "sampler")
    work.note()
    with pytest.raises(Error, match="another process"):
        WorkFolder(tmp_path / "work", "a\nmodel\n", 60.0, "sampler")
    work.close()
    with pytest.raises(Error, match="text of another model"):
        WorkFolder(tmp_path / "work", "b\nother\n", 60.0, "sampler")
    with pytest.raises(Error, match=r"another kind \(sampler, not mtp\): delete it, or name another output"):
        WorkFolder(tmp_path / "work", "a\nmodel\n", 60.0, "mtp")
    (tmp_path / "work" / "journal.json").write_text(json.dumps({"no": "journal"}))
    with pytest.raises(Error, match="delete that folder"):
        WorkFolder(tmp_path / "work", "a\nmodel\n", 60.0, "sampler")

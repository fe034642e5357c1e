"""The kinds of mask embeddings, and their update."""

import numpy as np
import pytest

from fakes import N_EMBD, N_VOCAB, FakeModel
from maskprobe import ArgumentError, Pass, TokenTree, mask_embedding

PROMPT = [3, 5, 5, 11]


def embedding(token: float) -> np.ndarray:
    return FakeModel().embedding_rows([token])[0]  # linear in the token, (n_embd,)


def begun(spec: str, n_masks: int = 2, prompt=PROMPT, **settings):
    mask = mask_embedding(spec, FakeModel(), **settings)
    mask.begin(prompt, n_masks)
    return mask


def a_pass(tokens: list[int], parents: list[int], tops: list[list[int]], probabilities: list[list[float]]):
    tree = TokenTree(tokens[0])
    for token, parent in zip(tokens[1:], parents[1:], strict=True):
        tree.add(parent, token, -1.0)
    top = np.array(tops, np.int32)
    with np.errstate(divide="ignore"):
        logprobs = np.log(np.array(probabilities, np.float32))
    return tree, Pass(len(tokens), top.shape[1], top[:, 0], top, logprobs, 0, 0)


def test_mean_of_the_prompt():
    vectors = begun("mean", n_masks=3).vectors([7, 8])
    assert vectors.shape == (2, 3, N_EMBD) and vectors.dtype == np.float32
    assert np.allclose(vectors, embedding(6))


def test_mean_of_a_long_prompt_with_many_distinct_tokens():
    model = FakeModel(n_vocab=5000)
    mask = mask_embedding("mean", model)
    mask.begin(range(4001), 1)
    assert np.allclose(mask.vectors([0])[0, 0], embedding(2000), rtol=1e-6)


def test_the_last_prompt_tokens():
    assert np.allclose(begun("last-k").vectors([0])[0], [embedding(5), embedding(11)])
    assert np.allclose(begun("last-k:3").vectors([0])[0], [embedding(5), embedding(5)])
    assert np.allclose(begun("last-k:1").vectors([0])[0], [embedding(11), embedding(11)])
    assert np.allclose(begun("last-k", n_masks=3, prompt=[4]).vectors([0])[0], [embedding(4)] * 3)


def test_a_draw_from_the_table():
    model = FakeModel(n_vocab=20_000)
    mask = mask_embedding("sample", model, seed=1)
    mask.begin(PROMPT, 2000)
    drawn = mask.vectors([0])[0]  # (2000, n_embd)
    assert np.allclose(drawn.mean(axis=0), 10_000, rtol=0.1)
    assert np.allclose(drawn.std(axis=0), 20_000 / 12**0.5, rtol=0.1)
    assert len(np.unique(drawn[:, 0])) == 2000
    again = mask_embedding("sample", model, seed=1)
    again.begin([1], 2000)
    assert np.array_equal(again.vectors([0])[0], drawn)
    other = mask_embedding("sample", model, seed=2)
    other.begin(PROMPT, 2000)
    assert not np.array_equal(other.vectors([0])[0], drawn)


def test_one_token():
    assert np.allclose(begun("token:4").vectors([0]), embedding(4))


@pytest.mark.parametrize("name", ["mask.npy", "mask.f32"])
def test_a_vector_from_a_file(tmp_path, name):
    vector = np.arange(N_EMBD, dtype=np.float32)
    path = tmp_path / name
    np.save(path, vector) if name.endswith(".npy") else vector.tofile(path)
    assert np.array_equal(begun(f"file:{path}").vectors([0])[0], [vector, vector])


def test_files_that_are_refused(tmp_path):
    short, missing, other, text = (tmp_path / name for name in ("short.f32", "missing", "other.npy", "text.npy"))
    short.write_bytes(b"\0" * 20)
    np.save(other, np.zeros(N_EMBD + 1, np.float32))
    text.write_text("no numbers")
    np.save(tmp_path / "nan.npy", np.full(N_EMBD, np.nan, np.float32))
    for path, said in [
        (short, "has 20 bytes; a raw float32 vector of 6 values has 24"),
        (missing, "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (other, "has 7 values, the model's embeddings have 6"),
        (text, "not a sound .npy file"),
        (tmp_path / "nan.npy", "NaN"),
    ]:
        with pytest.raises(ArgumentError, match=said):
            mask_embedding(f"file:{path}", FakeModel())


def test_the_online_update():
    mask = begun("token:4", update=0.5)
    tree, result = a_pass([1], [-1], [[2]], [[1.0]])
    mask.observe(tree, result, [0], [8, 10])
    assert np.allclose(mask.vectors([0]), embedding(8))  # 4 -> 6 -> 8
    mask.begin(PROMPT, 1)
    assert np.allclose(mask.vectors([0]), embedding(4))


def test_soft_is_the_expected_next_embedding():
    mask = begun("soft")
    assert np.allclose(mask.vectors([9]), embedding(6))  # not seen: the mean
    tree, result = a_pass([9, 7], [-1, 0], [[2, 4, 6], [1, 3, 5]], [[0.4, 0.2, 0.2], [0.5, 0.0, 0.0]])
    mask.observe(tree, result, [0], [3])
    vectors = mask.vectors([7, 9, 8])
    assert np.allclose(vectors[:, 1], embedding(6))  # masks after the first keep the mean
    assert np.allclose(vectors[0, 0], embedding(1))  # 7 was rejected, and teaches all the same
    assert np.allclose(vectors[1, 0], embedding(0.5 * 2 + 0.25 * 4 + 0.25 * 6))
    assert np.allclose(vectors[2, 0], embedding(6))
    mask.begin([2], 1)
    assert np.allclose(mask.vectors([9])[0, 0], embedding(3.5))  # kept for the next prompt


def test_soft_keeps_what_the_accepted_row_said():
    mask = begun("soft", n_masks=1)
    tree, result = a_pass([9, 7, 8, 7], [-1, 0, 0, 2], [[1], [2], [3], [4]], [[1.0]] * 4)
    mask.observe(tree, result, [0, 1], [7, 2])
    assert np.allclose(mask.vectors([7])[0, 0], embedding(2))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("median", "use mean, last-k"),
        ("", "use mean, last-k"),
        ("mean:3", "use mean, last-k"),
        ("last-k:0", "K must be at least 1"),
        ("last-k:two", "not a whole number"),
        ("token:x", "not a whole number"),
        ("token:-1", "out of range"),
        (f"token:{N_VOCAB}", f"the vocabulary has {N_VOCAB}"),
    ],
)
def test_specs_that_are_refused(spec, said):
    with pytest.raises(ArgumentError, match=said):
        mask_embedding(spec, FakeModel())


def test_settings_that_are_refused():
    for update in (-0.1, 1.5, float("nan")):
        with pytest.raises(ArgumentError, match="between 0 and 1"):
            mask_embedding("mean", FakeModel(), update=update)

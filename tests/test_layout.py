"""Every row of a tree pass, nodes and masks, against the same row decoded one at a time in a session of its own."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import EXACT
from maskprobe import ArgumentError, ContextFull, Model, ModelError, Session, TokenTree

# Rounding of sums in another order; where GELU is looked up in a half-precision table it jumps by a step of the table.
TOLERANCE = {
    "tiny-llama": 1e-4,
    "tiny-qwen3": 1e-4,
    "tiny-granite": 1e-4,
    "tiny-gpt2": 1e-2,
    "tiny-gemma": 1e-2,
    "tiny-gemma3": 1e-2,
}
N_CTX = 256


class Pair:
    """A session that decodes trees, and one that decodes row by row."""

    def __init__(self, path):
        self.model = Model(path)
        self.trees = Session(self.model, n_ctx=N_CTX, n_rows_max=64, **EXACT)
        self.rows = Session(self.model, n_ctx=N_CTX, n_rows_max=1, **EXACT)

    def one_at_a_time(self, prefix, inputs):
        """The logits after the last of `inputs` (tokens or vectors), each decoded alone after the ones before."""
        self.rows.set_prefix(prefix)
        for value in inputs:
            self.rows.decode(TokenTree(value), 1)
            logits = self.rows.logits(0)
            self.rows.commit([0])
        return logits


@pytest.fixture(scope="module", params=list(TOLERANCE))
def pair(request, tiny_model_path):
    pair = Pair(tiny_model_path(request.param))
    pair.tolerance = TOLERANCE[request.param]
    return pair


@st.composite
def trees_with_masks(draw):
    """(parents, token seeds, owners of masks in any order, embedding nodes, the node to commit)."""
    n = draw(st.integers(1, 10))
    parents = [-1, *(draw(st.integers(0, i - 1)) for i in range(1, n))]
    tokens = draw(st.lists(st.integers(3, 500), min_size=n, max_size=n))
    owners = draw(st.lists(st.integers(0, n - 1), max_size=10))
    vectors = draw(st.sets(st.integers(1, n - 1), max_size=2)) if n > 1 else set()
    return parents, tokens, owners, vectors, draw(st.integers(0, n - 1))


def build(parents, tokens, owners, vectors, random, n_embd):
    inputs = [random.normal(0, 0.3, n_embd).astype(np.float32) if i in vectors else t for i, t in enumerate(tokens)]
    tree = TokenTree(inputs[0])
    for i in range(1, len(parents)):
        if i in vectors:
            tree.add_embedding(parents[i], inputs[i])
        elif tree.add(parents[i], inputs[i], 0.0) != i:
            return None, None, None  # two children with one token are one node
    masks = [random.normal(0, 0.3, (1, n_embd)).astype(np.float32) for _ in owners]
    for owner, mask in zip(owners, masks, strict=True):
        tree.add_masks(owner, mask)
    return tree, inputs, masks


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(steps=st.lists(trees_with_masks(), min_size=2, max_size=4))
def test_rows_of_a_tree_are_those_of_plain_decoding(pair, steps):
    """Several steps in a row, so that what a commit leaves in the cache is tested by the next pass."""
    random = np.random.default_rng(0)
    committed = [5, 9, 20, 7]
    pair.trees.set_prefix([])
    pair.trees.set_prefix(committed)
    for parents, tokens, owners, vectors, target in steps:
        tree, inputs, masks = build(parents, tokens, owners, vectors, random, pair.model.info.n_embd)
        if tree is None:
            continue
        result = pair.trees.decode(tree, 4)
        logits = [pair.trees.logits(row) for row in range(result.n_rows)]
        for node in range(tree.n_nodes):
            expected = pair.one_at_a_time(committed, [inputs[i] for i in tree.path_to(node)])
            np.testing.assert_allclose(logits[node], expected, atol=pair.tolerance)
            assert result.best[node] == logits[node].argmax()
        for j, owner in enumerate(owners):
            before = [masks[i][0] for i in range(j + 1) if owners[i] == owner]
            expected = pair.one_at_a_time(committed, [*(inputs[i] for i in tree.path_to(owner)), *before])
            np.testing.assert_allclose(logits[tree.n_nodes + j], expected, atol=pair.tolerance)
        path = [i for i in tree.path_to(target)]
        while any(i in vectors for i in path):
            path.pop()  # a committed vector could not be given to set_prefix again
        pair.trees.commit(path)
        committed = committed + [tokens[i] for i in path]
        assert pair.trees.n_past == len(committed)


def test_top_candidates_are_those_of_the_full_logits(pair):
    pair.trees.set_prefix([3, 4, 5])
    tree = TokenTree(6)
    for token in range(7, 17):
        tree.add(0, token, 0.0)
    result = pair.trees.decode(tree, 16)
    for row in range(result.n_rows):
        logits = pair.trees.logits(row).astype(np.float64)
        order = np.lexsort((np.arange(len(logits)), -logits))[:16]
        assert result.top_tokens[row].tolist() == order.tolist()
        logprobs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        np.testing.assert_allclose(result.top_logprobs[row], logprobs[order], atol=1e-5)
        assert pair.trees.logprob(row, 100) == pytest.approx(logprobs[100], abs=1e-5)


def test_a_gemma3_scale_is_found(tiny_model_path):
    """Gemma 3 multiplies token input by sqrt(n_embd), and embedding rows not."""
    info = Model(tiny_model_path("tiny-gemma3")).info
    assert info.can_probe and info.embd_scale == pytest.approx(np.sqrt(info.n_embd))


def test_mamba_decodes_plainly_and_says_so(tiny_model_path):
    model = Model(tiny_model_path("tiny-mamba"))
    assert not model.info.can_tree and not model.info.can_probe
    assert "recurrent" in model.info.note and "\n" not in model.info.note
    session = Session(model, n_ctx=N_CTX, **EXACT)
    session.set_prefix([3, 4, 5])
    tree = TokenTree(6)
    tree.add(0, 7, 0.0)
    with pytest.raises(ModelError, match="recurrent"):
        session.decode(tree)
    expected = []
    for token in (6, 7, 8):
        session.decode(TokenTree(token))
        expected.append(session.logits(0))
        session.commit([0])
    # A pass that is not committed leaves a recurrent state that must be built anew.
    session.set_prefix([3, 4, 5])
    session.decode(TokenTree(99))
    session.rollback()
    for token, logits in zip((6, 7, 8), expected, strict=True):
        session.decode(TokenTree(token))
        np.testing.assert_allclose(session.logits(0), logits, atol=1e-4)
        session.commit([0])


@pytest.mark.parametrize("shape", ["tiny-bert", "tiny-t5"])
def test_encoders_are_refused(tiny_model_path, shape):
    with pytest.raises(ModelError) as error:
        Model(tiny_model_path(shape))
    assert error.value.status == "unsupported"
    assert "\n" not in str(error.value)


def test_a_table_of_positions_is_never_passed(tiny_model_path):
    """GPT-2 has a row for each position, and llama.cpp rounds contexts up to a multiple of 256."""
    model = Model(tiny_model_path("tiny-gpt2", n_ctx=100))
    session = Session(model, n_rows_max=8, **EXACT)
    assert session.n_ctx == 100
    session.set_prefix([7] * 99)
    session.decode(TokenTree(8))
    session.commit([0])
    with pytest.raises(ContextFull):
        session.decode(TokenTree(9))
    with pytest.raises(ArgumentError, match="100"):
        Session(model, n_ctx=101, **EXACT)

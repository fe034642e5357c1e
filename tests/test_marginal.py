"""Marginalisation: one tree pass gives what one pass for each next token gives, and candidates come of it."""

import itertools
import math

import numpy as np
import pytest

from maskprobe import ArgumentError, MarginalSiblings, Model, Session, TokenTree
from maskprobe.analysis import marginal_second, marginal_third
from maskprobe.analysis.distributions import divergence, entropy, nucleus, nucleus_size, rank_of, softmax
from test_proposers import result_of

PROMPT = [260, 301, 377, 290, 411]
EXACT = {"n_ctx": 128, "n_threads": 1, "type_k": "f32", "type_v": "f32"}


@pytest.fixture(scope="module", params=["stock", "ours"])
def model(request, tiny_model_path):
    return Model(tiny_model_path("tiny-llama"), kernels=request.param, n_threads=1)


def after(session: Session, tokens: list[int]) -> np.ndarray:
    """The distribution after these tokens, from a pass of one row."""
    session.set_prefix(tokens[:-1])
    session.decode(TokenTree(tokens[-1]), 1)
    return softmax(session.logits(0))


def brute_force(session: Session, tokens: list[int], top_p: float, limit: int) -> np.ndarray:
    """p(x_{t+2} | x) by the definition, one pass for each next token."""
    following = after(session, tokens)
    taken = np.argsort(-following, kind="stable")
    n = next(n for n in range(1, len(taken) + 1) if n == limit or following[taken[:n]].sum() >= top_p)
    return sum(following[v] * after(session, [*tokens, int(v)]) for v in taken[:n])


@pytest.mark.parametrize(("top_p", "n_rows"), [(0.5, 64), (0.99, 33), (1.0, 12)])
def test_one_pass_equals_one_pass_for_each_next_token(model, top_p, n_rows):
    with Session(model, **EXACT, n_rows_max=n_rows) as session:
        following = after(session, PROMPT)
        expected = brute_force(session, PROMPT, top_p, n_rows - 1)
        session.set_prefix(PROMPT[:-1])
        found = marginal_second(session, PROMPT[-1], following, top_p)
        np.testing.assert_allclose(found.parts, expected, atol=1e-5, rtol=0)
        assert found.left_out == pytest.approx(1 - expected.sum(), abs=1e-5)
        assert found.n_rows == 1 + found.n_taken <= n_rows
        tokens, parts = found.top(5)
        assert tokens.tolist() == np.argsort(-found.parts, kind="stable")[:5].tolist()
        assert np.array_equal(parts, found.parts[tokens])


def test_over_the_whole_vocabulary_it_is_the_distribution_itself(tiny_model_path):
    """Nothing is left out, and the parts are a distribution; a smaller set has the same parts, less."""
    model = Model(tiny_model_path("tiny-llama", vocab=300), n_threads=1)
    with Session(model, **{**EXACT, "n_ctx": 512}, n_rows_max=256) as session:
        prompt = [270, 280, 265]
        following = after(session, prompt)
        session.set_prefix(prompt[:-1])
        whole = marginal_second(session, prompt[-1], following, 1.0)
        assert whole.parts.sum() + whole.left_out == pytest.approx(1.0)
        some = marginal_second(session, prompt[-1], following, 1.0, n_max=20)
        assert some.n_taken == 20 and (some.parts <= whole.parts + 1e-6).all()
        assert (whole.parts <= some.parts + some.left_out + 1e-6).all()


def test_two_tokens_ahead_by_pairs(model):
    with Session(model, **EXACT, n_rows_max=40) as session:
        following = after(session, PROMPT)
        session.set_prefix(PROMPT[:-1])
        found = marginal_third(session, PROMPT[-1], following, 0.99)
        first = [int(v) for v in nucleus(following, 0.99, 39)]
        pairs = sorted(
            ((following[v] * after(session, [*PROMPT, v])[w], v, w) for v in first for w in range(model.info.n_vocab)),
            reverse=True,
        )[: found.n_taken]
        expected = sum(weight * after(session, [*PROMPT, v, w]) for weight, v, w in pairs)
        assert found.n_taken > 5 and found.n_rows <= 40
        np.testing.assert_allclose(found.parts, expected, atol=1e-5, rtol=0)
        assert found.left_out == pytest.approx(1 - sum(weight for weight, _, _ in pairs), abs=1e-5)


def test_on_a_model_that_writes_stories(shared_folder):
    path = shared_folder / "models" / "stories260K.gguf"
    if not path.exists():
        pytest.skip("no stories260K.gguf in the shared folder")
    model = Model(path, n_threads=1)
    prompt = model.tokenize("Once upon a time there was")
    with Session(model, **EXACT, n_rows_max=64) as session:
        following = after(session, prompt)
        expected = brute_force(session, prompt, 0.99, 63)
        session.set_prefix(prompt[:-1])
        found = marginal_second(session, prompt[-1], following, 0.99)
        np.testing.assert_allclose(found.parts, expected, atol=1e-5, rtol=0)


# --- distributions ---------------------------------------------------------------------------------------------------


def test_sets_and_ranks():
    p = np.array([0.1, 0.4, 0.05, 0.4, 0.05])
    assert [nucleus_size(p, mass) for mass in (0.3, 0.4001, 0.8001, 0.91, 1.0)] == [1, 2, 3, 4, 5]
    assert nucleus(p, 0.95, 9).tolist() == [1, 3, 0, 2] and nucleus(p, 0.95, 2).tolist() == [1, 3]
    assert [rank_of(p, token) for token in range(5)] == [2, 0, 3, 1, 4]


def test_entropy_and_divergence():
    even, sure = np.log(np.full(4, 0.25)), np.array([0.0, -np.inf, -np.inf, -np.inf])
    assert entropy(even) == pytest.approx(math.log(4)) and entropy(sure) == 0.0
    assert divergence(sure, even) == pytest.approx(math.log(4)) and divergence(even, even) == 0.0
    assert softmax(np.array([1000.0, 1000.0])).tolist() == [0.5, 0.5]


# --- candidates ------------------------------------------------------------------------------------------------------


def test_candidates_are_the_marginal_over_rejected_siblings():
    """The root's row has 7, 8 and 9 with 1/2, 1/4 and 1/8. Its children 8 and 9 stood there; 7 was drawn."""
    proposer = MarginalSiblings(4)
    proposer.begin([5])
    tree = TokenTree(5)
    tree.add(0, 8, -1.0), tree.add(0, 9, -2.0)
    proposer.observe(tree, result_of([[7, 8, 9], [1, 2, 3], [2, 4, 1]]), [0], [7])
    drafted = proposer.propose([5, 7], 99)
    shares = {1: 2 / 3 * 1 / 2 + 1 / 3 * 1 / 8, 2: 2 / 3 * 1 / 4 + 1 / 3 * 1 / 2, 3: 2 / 3 * 1 / 8, 4: 1 / 3 * 1 / 4}
    children = {drafted.tokens[i]: math.exp(drafted.logprobs[i]) for i in range(1, 4) if drafted.parents[i] == 0}
    assert list(itertools.islice(children, 2)) == [1, 2]
    for token in children:
        assert children[token] == pytest.approx(0.9 * shares[token], rel=1e-5)


def test_grandchildren_say_what_comes_two_later():
    proposer = MarginalSiblings(6)
    proposer.begin([5])
    tree = TokenTree(5)
    child = tree.add(0, 8, -1.0)
    tree.add(child, 1, -2.0)
    proposer.observe(tree, result_of([[7, 8], [1, 2], [30, 31]]), [0], [7])
    drafted = proposer.propose([5, 7], 99)
    assert drafted.tokens[1] == 1 and drafted.tokens[drafted.child(1, 30)] == 30


def test_without_siblings_the_other_likely_tokens_stand():
    proposer = MarginalSiblings(3)
    proposer.begin([5])
    assert proposer.propose([5], 9).n_nodes == 1
    proposer.observe(TokenTree(5), result_of([[7, 8, 9]]), [0], [7])
    assert proposer.propose([5, 7], 9).tokens[1:] == [8, 9]
    with pytest.raises(ArgumentError, match="n_rows_max = 0 is out of range"):
        MarginalSiblings(0)

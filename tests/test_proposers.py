"""Sources of candidates that need no masks: the rules of their papers on small sequences."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskprobe import (
    LastLogits,
    Lookahead,
    NgramAutomaton,
    Pass,
    PromptLookup,
    TokenRecycling,
    TokenTree,
)
from maskprobe.proposers.ngram import SuffixAutomaton
from maskprobe.proposers.rates import AcceptanceRates
from maskprobe.proposers.recycle import RANK_SHARES

PROMPT = [3, 14, 15, 9]


def chain_after(proposer, text: list[int], room: int = 1000) -> list[int]:
    """The chain that is offered after a text."""
    proposer.begin(text)
    tree = proposer.propose(text, room)
    assert tree.tokens[0] == text[-1] and tree.parents == list(range(-1, tree.n_nodes - 1))
    return tree.tokens[1:]


def result_of(rows: list[list[int]]) -> Pass:
    """A pass whose row i has the likely tokens rows[i], each half as likely as the one before."""
    tokens = np.array(rows, np.int32)
    logprobs = np.tile(np.log(0.5) * np.arange(1, tokens.shape[1] + 1, dtype=np.float32), (len(rows), 1))
    return Pass(len(rows), tokens.shape[1], tokens[:, 0], tokens, logprobs, 0, 0)


def children(tree: TokenTree, node: int = 0) -> list[int]:
    return [tree.tokens[i] for i, parent in enumerate(tree.parents) if parent == node]


# --- prompt lookup ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "chain"),
    [
        ([1], []),
        ([1, 2, 3], []),
        ([1, 2, 3, 9, 2, 3], [9, 2, 3]),  # 2 3 stood before; all that is there
        ([5, 2, 3, 7, 8, 2, 3, 6, 8, 2, 3], [6, 8, 2, 3]),  # 8 2 3 is longer than 2 3, which comes earlier
        ([2, 3, 7, 1, 2, 3, 6, 4, 2, 3], [7, 1, 2, 3, 6, 4, 2, 3]),  # of equal matches the earliest
        ([4, 4, 4], [4]),  # 4 4 overlaps itself
        ([*range(20), 0], list(range(1, 11))),  # ten tokens at most
    ],
)
def test_prompt_lookup(text, chain):
    assert chain_after(PromptLookup(), text) == chain


def scan(text: list[int], ngram: int, n_tokens: int) -> list[int]:
    """Prompt lookup by its definition."""
    for n in range(min(ngram, len(text) - 1), 0, -1):
        for i in range(len(text) - n):
            if text[i : i + n] == text[-n:]:
                return text[i + n : i + n + n_tokens]
    return []


TEXTS = st.lists(st.integers(0, 3), min_size=1, max_size=60)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, steps=st.lists(st.integers(1, 9)), ngram=st.integers(1, 4), rows=st.integers(1, 12))
def test_the_index_finds_what_the_scan_finds(text, steps, ngram, rows):
    proposer = PromptLookup(rows, ngram)
    proposer.begin(text[:1])
    for end in [*itertools.accumulate(steps, initial=1), len(text)]:
        end = min(end, len(text))
        assert proposer.propose(text[:end], 1000).tokens[1:] == scan(text[:end], ngram, rows - 1)
        text = text if end < len(text) else text[:end]


# --- suffix automaton ------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_the_automaton_finds_the_longest_repeat(text):
    automaton = SuffixAutomaton()
    for n, token in enumerate(text, 1):
        automaton.append(token)
        ends = {
            length: next(
                end for end in range(length - 1, n) if text[end + 1 - length : end + 1] == text[n - length : n]
            )
            for length in range(1, n + 1)
        }
        length = max((length for length, end in ends.items() if end < n - 1), default=0)
        assert automaton.longest_repeat() == (length, ends[length] if length else -1)
        assert len(automaton) == n


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n_vocab=st.integers(1, 4))
def test_an_automaton_has_two_states_per_token_at_most(seed, n_vocab):
    automaton = SuffixAutomaton()
    for token in np.random.default_rng(seed).integers(0, n_vocab, 300).tolist():
        automaton.append(token)
    assert len(automaton._link) <= 2 * 300


@pytest.mark.parametrize(
    ("text", "chain"),
    [
        ([1], []),
        ([1, 2, 3], []),
        ([1, 2, 3, 4, 5, 9, 2, 3, 4], [5, 9, 2, 3, 4, 5]),  # a match of three; after the end the repetition goes on
        ([7, 2, 3, 4, 8, 8, 2, 3, 4, 6, 7, 2, 3, 4], [8, 8, 2, 3, 4, 6]),  # four match at the first place only
        ([1, 2, 1, 2], [1, 2, 1, 2, 1, 2]),
        ([5, 5], [5, 5, 5, 5, 5, 5]),
    ],
)
def test_longest_suffix_match(text, chain):
    assert chain_after(NgramAutomaton(7), text) == chain


# --- lookahead decoding ----------------------------------------------------------------------------------------------


def test_each_row_of_the_window_sees_what_the_paper_lets_it_see():
    """Tokens are 10 * level + place, all different: no two rows fall together."""
    proposer = Lookahead(window=4, ngram=4, guesses=2)
    proposer.begin([99])
    proposer._levels = [[10 * level + place for place in range(4)] for level in range(3)]
    tree = proposer.propose([99], 1000)
    seen = {tree.tokens[node]: [tree.tokens[i] for i in tree.path_to(node)][:-1] for node in range(tree.n_nodes)}
    for level, place in itertools.product(range(3), range(4)):
        token = 10 * level + place
        if token:
            before = list(range(1, place + 1 if level else place))
            assert seen[token] == [99, *before, *(10 * other + place for other in range(1, level))]
            assert tree.depths[tree.tokens.index(token)] == level + place
    assert tree.n_nodes == 3 * 4  # the root stands for place 0 of level 0


def test_n_grams_of_the_window_become_guesses():
    proposer = Lookahead(window=2, ngram=3, guesses=2)
    proposer.begin([1])
    text, fresh = [1], itertools.count(100)
    for n_pass in range(4):
        tree = proposer.propose(text, 1000)
        levels = [list(level) for level in proposer._levels]
        rows = [[next(fresh)] for _ in range(tree.n_nodes)]
        newest = [rows[node][0] for node in proposer._nodes[-1]]
        proposer.observe(tree, result_of(rows), [0], [50 + n_pass])
        assert proposer._levels == [*levels[1:], newest]  # the oldest level has left
        text.append(50 + n_pass)
        if n_pass == 0:
            assert not proposer._pool  # the window still holds tokens that nobody guessed
    for first, middle, last in (
        (levels[0][1], levels[1][1], newest[1]),
        (text[-2], levels[1][0], newest[0]),  # the root of the last pass stands for place 0 of level 0
    ):
        proposer._levels = [[7, 7], [7, 7]]
        tree = proposer.propose([*text, first], 1000)
        assert last in children(tree, tree.child(0, middle))


def test_n_grams_of_the_text_become_guesses_the_newest_first():
    proposer = Lookahead(window=1, ngram=3, guesses=2)
    text = [7, 1, 2, 7, 3, 4, 7, 5, 6, 7]
    proposer.begin(text)
    tree = proposer.propose(text, 1000)
    assert tree.tokens[:5] == [7, 5, 6, 3, 4] and tree.parents[:5] == [-1, 0, 1, 0, 3]
    assert children(tree)[2:] in ([], proposer._levels[1])  # the window; 7 1 2 is out, two are kept
    assert tree.n_nodes <= proposer.n_rows_max == 6
    text += [3, 4, 7]
    assert proposer.propose(text, 1000).tokens[:5] == [7, 3, 4, 5, 6]  # seen again: the newest


def test_equal_rows_are_computed_once():
    proposer = Lookahead(window=3, ngram=3, guesses=2)
    proposer.begin([4])
    tree = proposer.propose([4, 4, 4, 4], 1000)
    assert tree.tokens == [4] * 4  # the guess 4 4, level 0 and level 1, which goes one place further


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 8, 11, 16, 23, 32, 64, 256])
def test_lookahead_within_rows(rows):
    assert rows // 2 <= Lookahead.within(rows).n_rows_max <= rows


# --- token recycling -------------------------------------------------------------------------------------------------


def test_the_matrix_learns_from_all_rows_and_from_the_accepted_ones_last():
    proposer = TokenRecycling(8)
    proposer.begin([5])
    assert proposer.propose([5], 100).n_nodes == 1  # nothing is known
    tree = TokenTree(5)
    for parent, token in ((0, 6), (0, 7), (1, 7)):
        tree.add(parent, token, -1.0)
    rows = [[6, 7, 1], [8, 9, 2], [7, 3, 4], [1, 2, 3]]
    proposer.observe(tree, result_of(rows), [0, 2], [7, 7])
    tree = proposer.propose([5, 7, 7], 100)
    assert children(tree) == [7, 3, 4]  # from the accepted row of token 7; row 3 carried it too
    tree = proposer.propose([5, 6], 100)
    assert children(tree) == [8, 9, 2]  # token 6 was rejected
    proposer.begin([5])
    assert proposer.propose([5], 100).n_nodes == 1
    warm = TokenRecycling(8, keep=True)
    warm.observe(TokenTree(5), result_of([[6, 7]]), [0], [6])
    warm.begin([5])
    assert children(warm.propose([5], 100)) == [6, 7]


@pytest.mark.parametrize("rows", [2, 4, 16, 80])
def test_the_tree_has_the_most_probable_nodes(rows):
    """After every token stand the same eight: the whole shape is filled."""
    proposer = TokenRecycling(rows)
    proposer.begin([0])
    for token in range(8):
        proposer.observe(TokenTree(token), result_of([list(range(8))]), [0], [0])
    tree = proposer.propose([0], 1000)
    assert tree.n_nodes == rows and max(tree.depths) <= 6
    shares = sorted(
        (math.prod(path) for depth in range(1, 7) for path in itertools.product(RANK_SHARES[:4], repeat=depth)),
        reverse=True,
    )
    wide = [math.prod(RANK_SHARES[tree.tokens[i]] for i in tree.path_to(node)[1:]) for node in range(1, rows)]
    assert wide == sorted(wide, reverse=True)
    if rows <= 8:
        assert wide == pytest.approx(shares[: rows - 1])
    assert sum(tree.logprobs[1:]) == pytest.approx(sum(map(math.log, wide)))


def test_claimed_probabilities_follow_what_is_accepted():
    rates = AcceptanceRates([0.5, 0.5])
    tree = TokenTree(0)
    for kind, token in enumerate((1, 2)):
        tree.add(0, token, 0.0, kind)
    for i in range(400):
        rates.observe(tree, [0], [1 if i % 4 else 2])
    assert np.exp(rates.logprobs) == pytest.approx([0.75, 0.25], abs=0.02)
    rates = AcceptanceRates([0.75, 0.5])
    after = TokenTree(0)
    after.add(after.add(0, 1, 0.0, 1), 5, 0.0, 0)
    after.add(0, 2, 0.0)  # of no kind
    for _ in range(400):
        rates.observe(after, [0], [2])  # node 2: its parent did not stand
    assert np.exp(rates.logprobs) == pytest.approx([0.75, 0.0], abs=0.02)


# --- last logits -----------------------------------------------------------------------------------------------------


def test_the_last_row_gives_its_other_tokens():
    proposer = LastLogits(6, n_top=4)
    proposer.begin([1, 2])
    assert proposer.propose([1, 2], 100).n_nodes == 1
    proposer.observe(TokenTree(2), result_of([[3, 4, 5, 6]]), [0], [4])
    assert children(proposer.propose([1, 2, 4], 100)) == [3, 5, 6]  # 4 was drawn
    proposer.begin([1, 2])
    assert proposer.propose([1, 2], 100).n_nodes == 1


def test_rejected_rows_give_candidates():
    """Tree 2 -> 7 -> 8, drawn: 9. What followed 7 may follow 9, what followed 7 8 may follow that."""
    proposer = LastLogits(64)
    proposer.begin([1, 2])
    tree = TokenTree(2)
    tree.add(0, 7, math.log(0.5))
    tree.add(1, 8, math.log(0.5))
    proposer.observe(tree, result_of([[7, 9], [11, 12], [13, 14]]), [0], [9])
    tree = proposer.propose([1, 2, 9], 1000)
    assert set(children(tree)) == {7, 11, 12}
    for node in range(1, 4):
        assert set(children(tree, node)) >= {13, 14}


def test_candidates_are_extended_by_what_followed_them():
    text = [5, 6, 7, 8, 1, 2, 3]
    proposer = LastLogits(64, n_top=2)
    proposer.begin(text)
    proposer.observe(TokenTree(3), result_of([[9, 5]]), [0], [9])
    tree = proposer.propose([*text, 9], 1000)
    node = tree.child(0, 5)
    for token in (6, 7, 8):
        node = tree.child(node, token)
    assert children(tree, node) == []  # three tokens
    assert children(tree) == [5]


def test_the_look_up_behind_the_root_prefers_the_newest_place_with_six_tokens():
    text = [4, 1, 2, 3, 4, 11, 12, 13, 14, 15, 16, 17, 4, 21, 22, 4]
    proposer = LastLogits(7)
    assert chain_after(proposer, text) == [11, 12, 13, 14, 15, 16]

"""Sources of candidates that need no masks: the rules of their papers on small sequences, and what holds for all."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import EXACT
from fakes import N_VOCAB, FakeModel, FakeSession
from maskprobe import (
    ArgumentError,
    Cancelled,
    Engine,
    Evidence,
    LastLogits,
    Lookahead,
    MaskProbe,
    Model,
    NgramAutomaton,
    NoProposer,
    Pass,
    Planned,
    PromptLookup,
    SamplingParams,
    Session,
    TokenRecycling,
    TokenTree,
    accept,
    proposer_named,
)
from maskprobe.proposers import SOURCES
from maskprobe.proposers.ngram import SuffixAutomaton
from maskprobe.proposers.rates import AcceptanceRates
from maskprobe.proposers.recycle import RANK_SHARES

PROMPT = [3, 14, 15, 9]
GREEDY = SamplingParams(temp=0.0)
SAMPLED = SamplingParams(temp=0.8, seed=11)
FREE = {
    "lookup": PromptLookup,
    "ngram": NgramAutomaton,
    "lookahead": lambda rows: Lookahead.within(rows),
    "recycle": TokenRecycling,
    "recycle warm": lambda rows: TokenRecycling(rows, keep=True),
    "logits": LastLogits,
}


class ShortMemory(FakeModel):
    """Its next token depends on the last two, so that it repeats itself."""

    def logits(self, tokens):
        return super().logits(tokens[-2:])


MODEL = ShortMemory()


def chain_after(proposer, text: list[int], room: int = 1000) -> list[int]:
    """The chain that is offered behind a text."""
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
        ([1, 2, 3, 4, 5, 9, 2, 3, 4], [5, 9, 2, 3, 4, 5]),  # a match of three; behind the end the repetition goes on
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
    """Behind every token stand the same eight: the whole shape is filled."""
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
    for token in (1, 2):
        tree.add(0, token, 0.0)
    for i in range(400):
        rates.observe(tree, [0, 0, 1], [0], [1 if i % 4 else 2])
    assert np.exp(rates.logprobs) == pytest.approx([0.75, 0.25], abs=0.02)
    rates = AcceptanceRates([0.75, 0.5])
    behind = TokenTree(0)
    behind.add(behind.add(0, 1, 0.0), 5, 0.0)
    for _ in range(400):
        rates.observe(behind, [0, 1, 0], [0], [2])  # node 2: its parent did not stand
        rates.observe(TokenTree(0), [0, 0, 1], [0], [2])  # a tree of another source
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


# --- what holds for all ----------------------------------------------------------------------------------------------


def generate(proposer, sampling=GREEDY, model=MODEL, prompt=PROMPT, n=60, n_ctx=400):
    """Tokens and statistics of one generation."""
    engine = Engine(FakeSession(model, n_ctx=n_ctx, n_rows_max=256), proposer)
    tokens = [result.token for result in engine.generate(prompt, sampling, max_tokens=n)]
    return tokens, engine


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("rows", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("name", FREE)
def test_the_output_is_that_of_plain_decoding(name, rows, sampling):
    expected, _ = generate(None, sampling, n=100)
    tokens, engine = generate(FREE[name](rows), sampling, n=100)
    assert tokens == expected
    assert max(engine.session.rows_of_passes) <= rows
    if sampling is GREEDY:  # it falls into a loop
        assert engine.stats.tokens_per_pass > 1.15


@pytest.mark.parametrize("n_ctx", [1, 2, 5, 9, 23])
@pytest.mark.parametrize("name", FREE)
def test_the_context_is_used_to_its_last_place(name, n_ctx):
    expected, _ = generate(None, prompt=PROMPT[:1], n=40)
    tokens, engine = generate(FREE[name](16), prompt=PROMPT[:1], n=40, n_ctx=n_ctx)
    assert tokens == expected[:n_ctx] and engine.stats.finish_reason == "context"


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(list(FREE)),
    rows=st.integers(2, 40),
    rooms=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    prompt=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
)
def test_any_text_and_any_room(name, rows, rooms, prompt, seed):
    """Random outputs and draws: trees keep within their bounds, claims are log-probabilities, nothing raises."""
    numbers = np.random.default_rng(seed)
    proposer = FREE[name](rows)
    text = list(prompt)
    proposer.begin(prompt)
    for room in rooms:
        tree = proposer.propose(text, room)
        assert tree.tokens[0] == text[-1] and tree.n_rows <= min(room, proposer.n_rows_max) and tree.n_masks == 0
        assert len(set(zip(tree.parents, tree.tokens, strict=True))) == tree.n_nodes
        assert all(tree.logprobs[i] < tree.logprobs[p] for i, p in enumerate(tree.parents) if p >= 0)
        top = [numbers.permutation(12)[: proposer.n_top].tolist() for _ in range(tree.n_nodes)]
        path, emitted = accept(tree, lambda row, top=top: top[row][0] % 6, lambda token: False, 50)
        proposer.observe(tree, result_of(top), path, emitted)
        text += emitted


@pytest.mark.parametrize("name", FREE)
def test_an_interrupted_generation_leaves_nothing_behind(name):
    """The second generation makes the same passes as one of a new proposer."""
    proposer = FREE[name](8)
    session = FakeSession(MODEL, n_rows_max=256)
    session.fail_at = {9: Cancelled("cancelled")}
    engine = Engine(session, proposer)
    with pytest.raises(Cancelled):
        list(engine.generate([7, 7, 2], SAMPLED, max_tokens=40))
    tokens = [result.token for result in engine.generate(PROMPT, GREEDY, max_tokens=60)]
    expected, fresh = generate(FREE[name](8))
    assert tokens == expected
    if name not in ("recycle warm", "logits"):  # logits grows its tree by rates that it keeps
        assert session.rows_of_passes[10:] == fresh.session.rows_of_passes


@pytest.mark.parametrize("name", FREE)
def test_large_vocabularies(name):
    model = ShortMemory(n_vocab=130_000)
    prompt = [129_999, 128_000, 129_999]
    expected, _ = generate(None, model=model, prompt=prompt, n=8)
    assert generate(FREE[name](8), model=model, prompt=prompt, n=8)[0] == expected


@pytest.mark.parametrize("name", FREE)
def test_a_tree_of_another_source_can_be_observed(name):
    proposer = FREE[name](16)
    proposer.begin(PROMPT)
    proposer.propose(PROMPT, 100)
    proposer.observe(TokenTree(9), result_of([[1, 2, 3]]), [0], [2])
    assert proposer.propose([*PROMPT, 2], 100).tokens[0] == 2


@pytest.fixture(scope="module")
def tiny(tiny_model_path):
    with Model(tiny_model_path("tiny-llama"), n_threads=1) as model:
        yield Session(model, n_ctx=256, n_rows_max=64, **EXACT)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", [name for name in SOURCES if name != "none"])
def test_a_real_pass_changes_no_token(name, tiny, sampling):
    prompts = [tiny.model.tokenize(text) for text in ("def f(x): return x", "a b a b a b")]
    outputs = []
    for proposer in (None, proposer_named(name, tiny.model, rows=12)):
        engine = Engine(tiny, proposer)
        outputs.append([[r.token for r in engine.generate(p, sampling, max_tokens=60)] for p in prompts])
    assert outputs[0] == outputs[1]


# --- by name ---------------------------------------------------------------------------------------------------------


def test_sources_by_name():
    kinds = {
        "none": NoProposer,
        "all": Planned,
        "esp": MaskProbe,
        "esp-soft": MaskProbe,
        "lookup": PromptLookup,
        "ngram": NgramAutomaton,
        "lookahead": Lookahead,
        "recycle": TokenRecycling,
        "logits": LastLogits,
    }
    for name, kind in kinds.items():
        assert type(proposer_named(name, MODEL)) is kind
        for rows in (4, 8, 19):
            proposer = proposer_named(name, MODEL, rows=rows)
            assert type(proposer) is (Evidence if name == "all" else kind) and proposer.n_rows_max <= rows
    with pytest.raises(ArgumentError, match="'magic': use one of none, all, esp, esp-soft, lookup"):
        proposer_named("magic", MODEL)


def test_models_without_trees_or_probes_are_decoded_plainly():
    for name, source in SOURCES.items():
        assert type(proposer_named(name, FakeModel(can_tree=False))) is NoProposer
        unprobed = proposer_named(name, FakeModel(can_probe=False))
        assert (type(unprobed) is NoProposer) == (source.probes or name == "none")


def test_a_small_vocabulary_limits_the_candidates():
    for name in SOURCES:
        assert proposer_named(name, FakeModel(n_vocab=5), rows=16).n_top <= 5


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "none"])
@pytest.mark.parametrize("rows", [-1, 0, 257, 1000])
def test_rows_out_of_range(name, rows):
    with pytest.raises(ArgumentError, match=str(rows)):
        proposer_named(name, MODEL, rows=rows)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PromptLookup(ngram=0),
        lambda: TokenRecycling(n_top=9),
        lambda: LastLogits(n_top=0),
        lambda: Lookahead(ngram=1),
        lambda: Lookahead(window=0),
        lambda: Lookahead(window=30, guesses=40),
    ],
)
def test_settings_out_of_range(make):
    with pytest.raises(ArgumentError, match="out of range"):
        make()


def test_the_vocabulary_of_the_fakes_is_what_the_tests_assume():
    assert len(RANK_SHARES) < N_VOCAB

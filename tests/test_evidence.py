"""The drafter through its Python face and the bare C functions: its trees, what it learns, what it keeps."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maskprobe.planner import Draft, Planner
from maskprobe.proposers.evidence import N_TOP, first_nodes

from conftest import EXACT
from fakes import FakeModel, FakeSession
from maskprobe import ArgumentError, Engine, Evidence, Model, ModelError, NoProposer, Pass, SamplingParams, Session
from maskprobe._capi import check, ffi, lib
from maskprobe.errors import Error

GREEDY = SamplingParams(temp=0.0)
SAMPLED = SamplingParams(temp=0.8, seed=11)
N_VOCAB = 40
MODEL = FakeModel(n_vocab=N_VOCAB)


def pass_over(tree, random_, n_vocab: int = N_VOCAB) -> Pass:
    """Outputs as a session could give them: tokens that differ within a row, log-probabilities that fall."""
    n_top = min(N_TOP, n_vocab)
    tokens = np.array([random_.sample(range(n_vocab), n_top) for _ in range(tree.n_rows)], np.int32)
    falls = [[random_.uniform(0.05, 2.0) for _ in range(n_top)] for _ in range(tree.n_rows)]
    logprobs = -np.cumsum(np.array(falls, np.float32), axis=1, dtype=np.float32)
    return Pass(tree.n_rows, n_top, tokens[:, 0], tokens, logprobs, 0, 0)


def walk(proposer: Evidence, text: list[int], n_passes: int, seed: int) -> list[int]:
    """Lets it draft and learn: the outcomes of its passes are drawn at random. Returns the text with what was added."""
    random_, text = random.Random(seed), list(text)
    for _ in range(n_passes):
        tree = proposer.propose(text, 1000).first(random_.randint(1, proposer.n_rows_max))
        path = tree.path_to(random_.randrange(tree.n_nodes))
        emitted = [tree.tokens[node] for node in path[1:]] + [random_.randrange(N_VOCAB)]
        proposer.observe(tree, pass_over(tree, random_), path, emitted)
        text += emitted
    return text


def learned(seed: int = 1, rows: int = 16) -> Evidence:
    proposer = Evidence(MODEL, rows=rows)
    proposer.begin([1, 2, 3])
    walk(proposer, [1, 2, 3], 60, seed)
    return proposer


def draft(proposer: Evidence, text: list[int]) -> tuple:
    proposer.begin(text)
    tree = proposer.propose(text, 1000)
    return tree.tokens, tree.parents, tree.logprobs, proposer.sources


# --- trees -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    text=st.lists(st.integers(0, N_VOCAB - 1), min_size=1, max_size=50),
    n_passes=st.integers(0, 8),
    rows=st.integers(1, 64),
    room=st.integers(1, 64),
    seed=st.integers(0, 2**32),
)
def test_every_first_part_of_a_draft_is_a_tree(text, n_passes, rows, room, seed):
    proposer = Evidence(MODEL, rows=rows)
    proposer.begin(text)
    text = walk(proposer, text, n_passes, seed)
    tree = proposer.propose(text, room)
    assert tree.tokens[0] == text[-1] and tree.parents[0] == -1 and tree.logprobs[0] == 0.0
    assert tree.n_nodes <= min(rows, room)
    assert all(0 <= token < N_VOCAB for token in tree.tokens)
    assert all(0 <= parent < node for node, parent in enumerate(tree.parents) if node)
    assert all(a >= b for a, b in itertools.pairwise(tree.logprobs))
    edges = list(zip(tree.parents, tree.tokens, strict=True))
    assert len(set(edges)) == len(edges)
    probabilities = np.exp(tree.logprobs)
    for node in range(tree.n_nodes):  # children are exclusive
        behind = sum(p for p, parent in zip(probabilities, tree.parents, strict=True) if parent == node)
        assert behind <= probabilities[node] * 1.0001
    assert proposer.sources[0] is None and None not in proposer.sources[1:]


@settings(max_examples=60, deadline=None)
@given(text=st.lists(st.integers(0, 5), min_size=4, max_size=40), n_passes=st.integers(0, 6), seed=st.integers(0, 999))
def test_a_larger_draft_begins_with_the_smaller_one(text, n_passes, seed):
    small, large = Evidence(MODEL, rows=7), Evidence(MODEL, rows=31)
    state = learned(seed % 5).save()
    drafts = []
    for proposer in (small, large):
        proposer.load(state)
        proposer.begin(text)
        drafts.append(proposer.propose(text, 1000))
    n = drafts[0].n_nodes
    assert n <= 7
    assert drafts[1].tokens[:n] == drafts[0].tokens and drafts[1].parents[:n] == drafts[0].parents


def test_without_any_evidence_there_is_only_the_root():
    tokens, parents, _, sources = draft(Evidence(MODEL), [5])
    assert (tokens, parents, sources) == ([5], [-1], [None])


@pytest.mark.parametrize("rows", [-1, 0, 257])
def test_rows_out_of_range(rows):
    with pytest.raises(ArgumentError, match="out of range"):
        Evidence(MODEL, rows=rows)


# --- what it learns --------------------------------------------------------------------------------------------------


def test_a_repeated_sequence_is_foretold():
    sequence = [4, 9, 7, 30, 12, 25, 3]
    text = sequence * 4 + sequence[:2]
    tokens, parents, logprobs, sources = draft(Evidence(MODEL, rows=24), text)
    node = 0
    for depth, token in enumerate((sequence[2:] + sequence)[:5]):
        child = [i for i, parent in enumerate(parents) if parent == node and tokens[i] == token]
        assert child, f"at depth {depth}"
        node = child[0]
    assert sources[1] == "n-gram" and tokens[1] == 7
    unknown = Evidence(MODEL, rows=24)
    assert logprobs[1] > draft(unknown, [*sequence, 4, 20, 9])[2][1]


def test_what_it_saw_follow_a_token_is_offered_in_the_next_text():
    proposer = Evidence(MODEL, rows=8)
    proposer.begin([20])
    for _ in range(3):
        tree = proposer.propose([20], 1)
        tops = np.array([[17, 18, 19, 1, 2, 3, 4, 5]], np.int32)
        logprobs = np.log(np.array([[0.8, 0.1, 0.02, 0.01, 0.01, 0.01, 0.01, 0.01]], np.float32))
        proposer.observe(tree, Pass(1, 8, tops[:, 0], tops, logprobs, 0, 0), [0], [17])
        proposer.begin([20])
    tokens, _, _, sources = draft(proposer, [20])
    assert tokens[1] == 17
    assert sources[1] in ("token", "pair", "triple")


def learn_prompt(proposer: Evidence, rows: list[dict[int, float]]) -> None:
    """rows: the model's likely tokens with their probabilities, most likely first, as many in each row."""
    tops = np.array([list(row) for row in rows], np.int32)
    proposer.learn_prompt(tops, np.log(np.array([list(row.values()) for row in rows], np.float32)))


def test_what_the_model_found_likely_in_the_prompt_is_offered_at_once():
    text = [7, 8, 9, 7]
    proposer = Evidence(MODEL, rows=16)
    proposer.begin(text)
    assert set(proposer.propose(text, 1000).tokens) == {7, 8, 9}  # of the text itself
    learn_prompt(proposer, [{21: 0.9, 22: 0.05}, {23: 0.9, 24: 0.05}, {25: 0.6, 26: 0.3}])
    tree = proposer.propose(text, 1000)
    behind_root = [token for token, parent in zip(tree.tokens, tree.parents, strict=True) if parent == 0]
    assert {8, 21, 25, 26} <= set(behind_root)
    sources = dict(zip(tree.tokens, proposer.sources, strict=True))
    assert {sources[21], sources[25], sources[26]} <= {"token", "row before"}


def test_rows_of_the_prompt_belong_to_the_tokens_before_the_newest():
    """Each row is known behind its token, its pair and its triple in the text, whose beginning has no rows here."""
    proposer = Evidence(MODEL, rows=16)
    proposer.begin([1, 2, 3, 4, 2, 3, 5])
    learn_prompt(proposer, [{11: 0.95}, {12: 0.95}, {13: 0.95}, {14: 0.95}])  # of 3, 4, 2, 3

    def behind(*text: int) -> dict[int, float]:
        tokens, parents, logprobs, _ = draft(proposer, list(text))
        return {tokens[node]: logprobs[node] for node, parent in enumerate(parents) if parent == 0}

    assert behind(30, 1) == behind(30, 5) == {}
    assert behind(30, 4).keys() == {12} and behind(30, 2).keys() == {13} and behind(30, 3).keys() == {11, 14}
    assert behind(30, 3, 4)[12] > behind(30, 4)[12]  # the pair is known too,
    assert behind(2, 3, 4)[12] != behind(30, 3, 4)[12]  # and the triple: what that adds is for the weights to say

    def preferred(*text: int) -> float:
        found = behind(*text)
        return found[11] - found[14]

    assert preferred(1, 2, 3) > preferred(4, 2, 3)  # of the text's first tokens as well


def test_accepted_candidates_become_likelier_and_rejected_ones_less():
    def after(outcome: int) -> float:
        proposer = Evidence(MODEL, rows=2)
        text = [7, 7]  # too short for n-grams of earlier texts
        proposer.begin(text)
        for _ in range(25):
            tree = proposer.propose(text, 1000)
            assert tree.tokens == [7, 7]
            tops, logprobs = np.array([[7], [7]], np.int32), np.array([[-3.0], [-3.0]], np.float32)
            path, emitted = ([0, 1], [7, 8]) if outcome == 7 else ([0], [outcome])
            proposer.observe(tree, Pass(2, 1, tops[:, 0], tops, logprobs, 0, 0), path, emitted)
            proposer.begin(text)
        return draft(proposer, text)[2][1]

    assert after(7) > after(9)


# --- earlier texts ---------------------------------------------------------------------------------------------------

SONG = [4, 9, 7, 30, 12, 25, 3, 18, 22, 6, 31, 17, 2, 28]


def chain_of(proposer: Evidence, text: list[int]) -> list[int]:
    """The first child of the root, its first child, and one more."""
    tokens, parents, _, _ = draft(proposer, text)
    chain, node = [], 0
    while node in parents[1:] and len(chain) < 3:
        node = parents.index(node, 1)
        chain.append(tokens[node])
    return chain


def test_what_followed_in_an_earlier_text_is_offered():
    proposer = Evidence(MODEL, rows=12)
    proposer.begin(SONG)
    proposer.begin([1])
    assert chain_of(proposer, SONG[:5]) == SONG[5:8]
    assert proposer.sources[1] == "earlier texts"
    assert chain_of(Evidence(MODEL, rows=12), SONG[:5]) == []


def test_the_newest_three_of_the_earlier_texts_count():
    proposer = Evidence(MODEL, rows=64)
    for after in (32, 33, 34, 35):
        proposer.begin([*SONG[:5], after])
    tokens, parents, _, _ = draft(proposer, SONG[:5])
    assert {tokens[i] for i, parent in enumerate(parents) if parent == 0} == {33, 34, 35}


def test_the_text_itself_comes_before_earlier_ones():
    proposer = Evidence(MODEL, rows=64)
    proposer.begin([*SONG[:5], 33])
    tokens, parents, _, sources = draft(proposer, [*SONG[:5], 34, 1, *SONG[:5]])
    behind_root = [(tokens[i], sources[i]) for i, parent in enumerate(parents) if parent == 0]
    assert behind_root == [(34, "n-gram"), (33, "earlier texts")]


@settings(max_examples=60, deadline=None)
@given(text=st.lists(st.integers(0, 3), min_size=1, max_size=80))
def test_the_text_itself_is_no_earlier_one(text):
    assert "earlier texts" not in draft(Evidence(MODEL, rows=32), text)[3]


def test_earlier_texts_are_saved():
    proposer, other = Evidence(MODEL, rows=12), Evidence(MODEL, rows=12)
    proposer.begin(SONG)
    other.load(proposer.save())
    assert chain_of(other, SONG[:5]) == SONG[5:8]


def test_they_take_a_bounded_place():
    """New ones replace old ones."""
    proposer, model = Evidence(FakeModel(n_vocab=30_000), rows=12), random.Random(3)
    sizes = []
    for _ in range(5):
        for _ in range(4):
            text = [model.randrange(30_000) for _ in range(20_000)]
            proposer.begin(text)
        sizes.append(len(proposer.save()))
    assert sizes[-1] < 4 << 20 and sizes[-1] < 1.05 * sizes[-3]
    assert chain_of(proposer, text[-60:-40]) == text[-40:-37]


def test_passes_without_a_draft_leave_the_same_ngrams():
    text = [3, 5, 8, 3, 5, 9, 3, 5]
    whole, in_parts = Evidence(MODEL), Evidence(MODEL)
    in_parts.begin(text[:2])
    for end in (3, 4, 7, 8):
        tree = in_parts.propose(text[:end], 1000)
    assert (tree.tokens, tree.parents, tree.logprobs, in_parts.sources) == draft(whole, text)


def test_another_tree_than_its_own_is_not_learned_from():
    proposer = Evidence(MODEL, rows=4)
    proposer.begin([1, 2, 1])
    bigger = Evidence(MODEL, rows=16)
    bigger.begin([1, 2, 1, 3, 1, 4, 1])
    tree = bigger.propose([1, 2, 1, 3, 1, 4, 1], 1000)
    assert tree.n_nodes > 1
    before = proposer.save()
    proposer.observe(tree, pass_over(tree, random.Random(0)), [0], [5])
    assert proposer.save() == before


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ([5], 0),
        ([5, 6, 7], 0),
        ([5, 5, 5, 5], 1),
        ([5, 6, 7, 5, 6], 0),
        ([5, 6, 7, 5, 6, 7], 1),
        ([5, 6, 7, 5, 6, 7, 5, 6, 7, 5], 5),
        ([5, 6, 7, 5, 6, 7, 5, 6, 9], 0),
        ([5, 6, 7, 5, 6, 8, 5, 6, 7], 0),  # the last time it was 8
        ([5, 6, 7, 5, 6, 8, 5, 6, 8], 1),
        ([1, 2, 3, 4, 9, 1, 2, 3, 4], 2),
    ],
    ids=str,
)
def test_how_many_tokens_repeat_what_was_there(text, n):
    at_once, token_by_token = Evidence(MODEL), Evidence(MODEL)
    at_once.begin([1, 2, 3, 1, 2, 3])  # another text does not count
    at_once.begin(text)
    token_by_token.begin(text[:1])
    assert at_once.n_repeated(text) == n
    assert [token_by_token.n_repeated(text[:i]) for i in range(1, len(text) + 1)][-1] == n
    assert at_once.n_repeated(text) == n  # asking changes nothing


def test_accepted_tokens_repeat_too():
    proposer, text = Evidence(MODEL, rows=4), [5, 6, 7, 5, 6]
    proposer.begin(text)
    tree = proposer.propose(text, 1000)
    assert tree.tokens[:2] == [6, 7]
    proposer.observe(tree, pass_over(tree, random.Random(0)), [0, 1], [7, 5])
    assert proposer.n_repeated([*text, 7, 5]) == 2


def test_accepted_candidates_are_counted_by_what_spoke_for_them():
    proposer, expected, text = Evidence(MODEL, rows=16), Counter(), [1, 2, 3]
    random_ = random.Random(1)
    proposer.begin(text)
    for _ in range(60):
        tree = proposer.propose(text, 1000)
        path = tree.path_to(random_.randrange(tree.n_nodes))
        emitted = [tree.tokens[node] for node in path[1:]] + [random_.randrange(N_VOCAB)]
        expected.update(proposer.sources[node] for node in path[1:])
        proposer.observe(tree, pass_over(tree, random_), path, emitted)
        text += emitted
    assert proposer.earned == expected
    assert len(expected) > 2


def test_a_planned_draft_is_the_first_part_of_a_whole_one():
    """It ends where more cannot pay, and so the planner takes the rows that it would take of a whole one."""
    text = [1, 2, 3, 4]
    proposer = learned(rows=32)
    proposer.begin(text)
    whole = proposer.draft(text, 1000)
    tokens, parents = ffi.unpack(whole.tokens, whole.n_nodes), ffi.unpack(whole.parents, whole.n_nodes)
    probabilities = ffi.unpack(whole.probabilities, whole.n_nodes)
    assert whole.n_nodes == 32 and probabilities[20] > probabilities[31]
    sizes = set()
    for row_us in (0.01, 0.1, 1.0, 3.0, 10.0, 30.0, 90.0):
        one, other = planner_of(row_us), planner_of(row_us)
        n_expected = one.rows(Draft(tokens, parents, probabilities).pointer, 3)
        part, n_rows = proposer.planned(other, text, 1000)
        n = part.n_nodes
        assert n_rows == n_expected <= n
        assert (ffi.unpack(part.tokens, n), ffi.unpack(part.parents, n)) == (tokens[:n], parents[:n])
        assert ffi.unpack(part.probabilities, n) == probabilities[:n]
        sizes.add(n)
    assert min(sizes) < 8 and max(sizes) == 32
    assert proposer.planned(planner_of(0.01), text, 3)[0].n_nodes == 3


def planner_of(row_us):
    """With passes of 100 us and so much more for each row."""
    planner = Planner(32)
    planner.at_depth(3)
    planner.calibrate(lambda n: 100.0 + row_us * (n - 1), 32)
    return planner


@pytest.mark.parametrize("right", [True, False], ids=["masks are right", "masks are wrong"])
def test_what_masks_gain_is_learned(right):
    """A mask behind the root foretells a token that nothing else speaks for."""
    proposer, random_ = Evidence(MODEL, rows=8), random.Random(5)
    text = [0]
    proposer.begin(text)
    at_first = gain = proposer.draft(text, 1).mask_gain
    for _ in range(60):
        tree = first_nodes(proposer.draft(text, 1), 1)
        tree.add_masks(0, np.zeros((1, 4), np.float32))
        foretold, emitted = random_.randrange(N_VOCAB), random_.randrange(N_VOCAB)
        tokens = np.array([[emitted], [foretold]], np.int32)
        logprobs = np.array([[-3.0], [-0.05]], np.float32)
        proposer.observe(tree, Pass(2, 1, tokens[:, 0], tokens, logprobs, 0, 0), [0], [emitted])
        text.append(emitted)
        after = foretold if right else random_.randrange(N_VOCAB)
        tree = first_nodes(proposer.draft(text, 1), 1)
        proposer.observe(tree, pass_over(tree, random_), [0], [after])
        text.append(after)
        gain = proposer.draft(text, 1).mask_gain
    assert gain > 2 * at_first if right else gain < at_first / 2


# --- lossless --------------------------------------------------------------------------------------------------------


def texts(session, proposer, sampling, prompts, n: int = 60) -> list[list[int]]:
    engine = Engine(session, proposer)
    return [[r.token for r in engine.generate(p, sampling, max_tokens=n, ignore_eos=True)] for p in prompts]


@pytest.mark.parametrize("rows", [1, 2, 9, 32])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "T 0.8"])
def test_output_is_that_of_plain_decoding(rows, sampling, tiny_model_path):
    model = Model(tiny_model_path("tiny-llama", n_ctx=65536))
    prompts = [[5, 6, 7, 5, 6, 7, 5, 6], [40, 41], [5, 6, 7, 5, 6, 7, 5, 6]]
    plain = texts(Session(model, n_ctx=256, n_rows_max=1, **EXACT), NoProposer(), sampling, prompts)
    session = Session(model, n_ctx=256, n_rows_max=rows, **EXACT)
    proposer = Evidence(model, rows=rows)
    assert texts(session, proposer, sampling, prompts) == plain
    model.close()


def test_the_same_text_again_is_known_by_heart(tiny_model_path):
    model = Model(tiny_model_path("tiny-llama", n_ctx=65536))
    engine = Engine(Session(model, n_ctx=256, **EXACT), Evidence(model, rows=16))
    per_pass = []
    for _ in range(2):
        for _ in engine.generate([5, 6, 7], SAMPLED, max_tokens=80, ignore_eos=True):
            pass
        per_pass.append(engine.stats.tokens_per_pass)
    assert per_pass[1] > max(1.5, per_pass[0])
    model.close()


def test_the_end_of_the_context():
    session = FakeSession(MODEL, n_ctx=40)
    engine = Engine(session, Evidence(MODEL, rows=32))
    tokens = [r.token for r in engine.generate([3, 4, 3, 4, 3], GREEDY, ignore_eos=True)]
    plain = [r.token for r in Engine(FakeSession(MODEL, n_ctx=40)).generate([3, 4, 3, 4, 3], GREEDY, ignore_eos=True)]
    assert tokens == plain and engine.stats.finish_reason == "context"


# --- what it keeps ---------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), text=st.lists(st.integers(0, N_VOCAB - 1), min_size=1, max_size=30))
def test_a_saved_state_gives_the_same_drafts(seed, text):
    first, second = learned(seed), Evidence(MODEL)
    second.load(first.save())
    assert draft(second, text) == draft(first, text)
    second_state = second.save()
    assert len(second_state) == len(first.save())
    third = Evidence(MODEL)
    third.load(second_state)
    assert draft(third, text) == draft(first, text)


def refused(data: bytes, n_vocab: int = N_VOCAB) -> None:
    """One line, and the drafter is as new."""
    model = FakeModel(n_vocab=n_vocab)
    proposer = Evidence(model)
    if n_vocab == N_VOCAB:
        proposer.load(learned(2).save())
    with pytest.raises(ModelError) as caught:
        proposer.load(data)
    assert len(str(caught.value).splitlines()) == 1
    if data:
        assert proposer.save() == Evidence(model).save()


def test_truncated_states_are_refused():
    state = learned().save()
    for n in [0, 1, 3, 100, 3000, len(state) // 2, len(state) - 8, len(state) - 1]:
        refused(state[:n])
    refused(state + b"\0")


@pytest.mark.parametrize("n", [1, 1000, 10_000, 100_000])
def test_foreign_bytes_are_refused(n):
    refused(random.Random(n).randbytes(n))
    refused(b"\xff" * n)
    refused(b"\0" * n)


def test_a_state_of_a_larger_vocabulary_is_refused():
    refused(learned().save(), n_vocab=8)


@settings(max_examples=150, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_does_no_harm(at, bit):
    damaged = bytearray(STATE)
    damaged[int(at * len(damaged))] ^= 1 << bit
    proposer = Evidence(MODEL)
    try:
        proposer.load(bytes(damaged))
    except ModelError:
        assert proposer.save() == Evidence(MODEL).save()
    tokens, parents, logprobs, _ = draft(proposer, [1, 2, 3, 1, 2])
    assert all(0 <= token < N_VOCAB for token in tokens)
    assert all(a >= b for a, b in itertools.pairwise(logprobs)) and len(parents) == len(tokens)


STATE = learned().save()


# --- the bare functions ----------------------------------------------------------------------------------------------


@pytest.fixture
def drafter():
    out = ffi.new("mp_drafter **")
    check(lib.mp_drafter_open(N_VOCAB, out))
    yield out[0]
    lib.mp_drafter_free(out[0])


def result(**changes) -> dict:
    """What became of a draft of [1, 2] of which node 1 was accepted."""
    fields = {
        "n_nodes": 2,
        "n_masks": 0,
        "n_top": 2,
        "top_tokens": [2, 3, 1, 5],
        "top_logprobs": [-0.5, -1.5, -0.3, -2.0],
        "n_path": 2,
        "path": [0, 1],
        "emitted": [2, 1],
    }
    return {**fields, **changes}


ARRAYS = {"top_tokens": "int32_t[]", "top_logprobs": "float[]", "path": "int32_t[]", "emitted": "int32_t[]"}


def observe(drafter, fields: dict) -> int:
    """The status of mp_drafter_observe after a draft with the nodes 1 and 2."""
    check(lib.mp_drafter_begin(drafter, ffi.new("int32_t[]", [1, 2, 1]), 3))
    draft = ffi.new("mp_draft *")
    check(lib.mp_drafter_grow(drafter, 2, draft))
    assert ffi.unpack(draft.tokens, draft.n_nodes) == [1, 2]
    kept = {name: ffi.new(ARRAYS[name], fields[name]) for name in ARRAYS if fields[name] is not None}
    struct = ffi.new("mp_draft_result *", {**fields, **{name: kept.get(name, ffi.NULL) for name in ARRAYS}})
    return lib.mp_drafter_observe(drafter, struct)


def one_line_of(status: int) -> None:
    with pytest.raises(Error) as caught:
        check(status)
    assert caught.value.status in ("argument", "state", "format")
    assert len(str(caught.value).splitlines()) == 1


def test_a_sound_result_is_taken(drafter):
    check(observe(drafter, result()))


@pytest.mark.parametrize(
    "changes",
    [
        {"n_nodes": 0},
        {"n_nodes": 3},
        {"n_masks": -1},
        {"n_masks": 1},  # without owners
        {"n_masks": 1 << 30},
        {"n_top": 0},
        {"n_top": 1 << 30},
        {"n_path": 0},
        {"n_path": 3},
        {"path": [1, 0]},
        {"path": [0, 0]},
        {"path": [0, 2]},
        {"path": [0, -1]},
        {"path": None},
        {"emitted": [2, N_VOCAB]},
        {"emitted": [-1, 1]},
        {"emitted": None},
        {"top_tokens": [2, 3, N_VOCAB, 5]},
        {"top_tokens": None},
        {"top_logprobs": [-0.5, float("nan"), -0.3, -2.0]},
        {"top_logprobs": [-0.5, -1.5, float("inf"), -2.0]},
        {"top_logprobs": None},
    ],
    ids=str,
)
def test_wrong_results(drafter, changes):
    one_line_of(observe(drafter, result(**changes)))


def test_wrong_arguments(drafter):
    tokens, draft, size = ffi.new("int32_t[]", [1, N_VOCAB]), ffi.new("mp_draft *"), ffi.new("size_t *")
    out = ffi.new("mp_drafter **")
    for n_vocab in (0, -1):
        one_line_of(lib.mp_drafter_open(n_vocab, out))
    one_line_of(lib.mp_drafter_open(5, ffi.NULL))
    one_line_of(lib.mp_drafter_grow(drafter, 4, draft))  # no text yet
    for call in (lib.mp_drafter_begin, lib.mp_drafter_extend):
        one_line_of(call(ffi.NULL, tokens, 1))
        one_line_of(call(drafter, tokens, 2))
        one_line_of(call(drafter, tokens, -1))
        one_line_of(call(drafter, ffi.NULL, 1))
    check(lib.mp_drafter_begin(drafter, tokens, 1))
    for n_max in (0, -1, 257):
        one_line_of(lib.mp_drafter_grow(drafter, n_max, draft))
    one_line_of(lib.mp_drafter_grow(drafter, 4, ffi.NULL))
    one_line_of(lib.mp_drafter_observe(drafter, ffi.NULL))
    one_line_of(lib.mp_drafter_save(drafter, ffi.NULL, 0, ffi.NULL))
    one_line_of(lib.mp_drafter_save(ffi.NULL, ffi.NULL, 0, size))
    one_line_of(lib.mp_drafter_load(drafter, ffi.NULL, 3))
    one_line_of(lib.mp_drafter_load(ffi.NULL, b"abc", 3))
    one_line_of(lib.mp_drafter_earned(drafter, ffi.NULL))
    one_line_of(lib.mp_drafter_earned(ffi.NULL, ffi.new("int64_t[7]")))
    assert lib.mp_drafter_n_repeated(ffi.NULL) == 0
    lib.mp_drafter_free(ffi.NULL)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_rows": 0},
        {"n_rows": -1},
        {"n_rows": 3},  # the text has two tokens before the newest
        {"n_rows": 257},
        {"n_top": 0},
        {"n_top": 1 << 30},
        {"top_tokens": [2, 3, N_VOCAB, 5]},
        {"top_tokens": [2, 3, -1, 5]},
        {"top_tokens": None},
        {"top_logprobs": [-0.5, float("nan"), -0.3, -2.0]},
        {"top_logprobs": [-0.5, -0.7, 1.0, -2.0]},
        {"top_logprobs": None},
    ],
    ids=str,
)
def test_wrong_rows_of_a_prompt(drafter, changes):
    rows = {"n_rows": 2, "n_top": 2, "top_tokens": [2, 3, 1, 5], "top_logprobs": [-0.5, -0.7, -0.3, -2.0]}

    def learn(n_rows, n_top, **arrays) -> int:
        kept = [ffi.NULL if a is None else ffi.new(ARRAYS[name], a) for name, a in arrays.items()]
        return lib.mp_drafter_learn_prompt(drafter, n_rows, n_top, *kept)

    one_line_of(learn(**rows))  # no text yet
    check(lib.mp_drafter_begin(drafter, ffi.new("int32_t[]", [1, 2, 1]), 3))
    check(learn(**rows))
    one_line_of(learn(**{**rows, **changes}))


def test_a_result_counts_once(drafter):
    check(observe(drafter, result()))
    struct = ffi.new("mp_draft_result *")
    one_line_of(lib.mp_drafter_observe(drafter, struct))

"""What holds for all sources of candidates of Python: on a small model of Python, and in the engine."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import EXACT
from fakes import N_VOCAB, FakeModel, FakeSession, decode_with
from maskprobe import (
    ArgumentError,
    Engine,
    LastLogits,
    Lookahead,
    MarginalSiblings,
    MaskProbe,
    Model,
    NgramAutomaton,
    PromptLookup,
    SamplingParams,
    TokenRecycling,
    TokenTree,
    accept,
    proposer_named,
)
from maskprobe.proposers import SOURCES
from maskprobe.proposers.recycle import RANK_SHARES
from test_proposers import result_of

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
    "marginal": MarginalSiblings,
}
OF_PYTHON = [name for name, source in SOURCES.items() if source.make is not None]


class ShortMemory(FakeModel):
    """Its next token depends on the last two, so that it repeats itself."""

    def logits(self, tokens):
        return super().logits(tokens[-2:])


MODEL = ShortMemory()


def generate(proposer, sampling=GREEDY, model=MODEL, prompt=PROMPT, n=60, n_ctx=400):
    """Tokens of one generation, and the rows of its passes."""
    session = FakeSession(model, n_ctx)
    return decode_with(session, proposer, prompt, sampling, n), session.rows_of_passes


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("rows", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("name", FREE)
def test_the_output_is_that_of_plain_decoding(name, rows, sampling):
    expected, _ = generate(None, sampling, n=100)
    tokens, rows_of_passes = generate(FREE[name](rows), sampling, n=100)
    assert tokens == expected
    assert max(rows_of_passes) <= rows
    if sampling is GREEDY and (
        name != "marginal" or rows >= 8
    ):  # it falls into a loop; fewer rows are too few siblings
        assert len(tokens) / len(rows_of_passes) > 1.15


@pytest.mark.parametrize("n_ctx", [1, 2, 5, 9, 23])
@pytest.mark.parametrize("name", FREE)
def test_the_context_is_used_to_its_last_place(name, n_ctx):
    expected, _ = generate(None, prompt=PROMPT[:1], n=40)
    tokens, _ = generate(FREE[name](16), prompt=PROMPT[:1], n=40, n_ctx=n_ctx)
    assert tokens == expected[:n_ctx]


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
def test_a_generation_that_was_broken_off_leaves_nothing_behind(name):
    """The second generation makes the same passes as one of a new proposer."""
    proposer = FREE[name](8)
    generate(proposer, SAMPLED, prompt=[7, 7, 2], n=23)
    proposer.begin([7, 7, 2])
    proposer.propose([7, 7, 2], 8)  # and no pass over it
    tokens, rows_of_passes = generate(proposer)
    expected, rows_of_fresh_one = generate(FREE[name](8))
    assert tokens == expected
    if name not in ("recycle warm", "logits"):  # logits grows its tree by rates that it keeps
        assert rows_of_passes == rows_of_fresh_one


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
def model(tiny_model_path):
    with Model(tiny_model_path("tiny-llama"), n_threads=1) as model:
        yield model


@pytest.mark.parametrize("rows", ["auto", 12])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_engine_changes_no_token(model, sampling, rows):
    prompts = [model.tokenize(text) for text in ("def f(x): return x", "a b a b a b")]
    with Engine(model, n_ctx=256, rows=rows, **EXACT) as engine:

        def outputs(source):
            return [[r.token for r in engine.generate(p, sampling, max_tokens=60, proposer=source)] for p in prompts]

        expected = outputs("none")
        for name in SOURCES:
            assert outputs(name) == expected, name


@pytest.mark.parametrize("name", OF_PYTHON)
def test_an_engine_of_one_source(model, name):
    """It makes a new proposer for each generation, and its passes are large enough for it."""
    with Engine(model, n_ctx=256, proposer=name, **EXACT) as engine:
        generations = [engine.generate(PROMPT, GREEDY, max_tokens=20, ignore_eos=True) for _ in range(3)]
        tokens = [[r.token for r in generation] for generation in generations]
        assert tokens[0] == tokens[1] == tokens[2] and len(tokens[0]) == 20
        assert generations[0].stats.n_drafted > 0
    with Engine(model, n_ctx=256, proposer=lambda: proposer_named(name, model), **EXACT) as engine:
        assert [r.token for r in engine.generate(PROMPT, GREEDY, max_tokens=20, ignore_eos=True)] == tokens[0]


# --- by name ---------------------------------------------------------------------------------------------------------


def test_sources_by_name():
    kinds = {
        "esp": MaskProbe,
        "esp-soft": MaskProbe,
        "lookup": PromptLookup,
        "ngram": NgramAutomaton,
        "lookahead": Lookahead,
        "recycle": TokenRecycling,
        "logits": LastLogits,
        "marginal": MarginalSiblings,
    }
    assert list(SOURCES) == ["none", "all", *kinds]
    for name, kind in kinds.items():
        assert type(proposer_named(name, MODEL)) is kind
        for rows in (4, 8, 19):
            proposer = proposer_named(name, MODEL, rows=rows)
            assert type(proposer) is kind and proposer.n_rows_max <= rows and proposer.whole
    with pytest.raises(ArgumentError, match="'magic': use one of none, all, esp, esp-soft, lookup"):
        proposer_named("magic", MODEL)
    for name in ("none", "all"):
        with pytest.raises(ArgumentError, match=f"'{name}' is no proposer of its own"):
            proposer_named(name, MODEL)


def test_what_runs_on_which_models():
    def runs(**info):
        return [name for name, source in SOURCES.items() if source.runs_on(FakeModel(**info))]

    probes = ["esp", "esp-soft"]
    assert runs() == list(SOURCES)[1:]
    assert runs(can_probe=False) == [name for name in list(SOURCES)[1:] if name not in probes]
    assert runs(can_tree=False, max_chain=5) == runs(can_probe=False)
    assert runs(can_tree=False) == []


def test_a_small_vocabulary_limits_the_candidates():
    for name in OF_PYTHON:
        assert proposer_named(name, FakeModel(n_vocab=5), rows=16).n_top <= 5


@pytest.mark.parametrize("name", OF_PYTHON)
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

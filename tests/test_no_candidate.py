"""What grammar, constraint and biases leave nothing of: the text ends there, and what is forbidden never comes."""

import math

import pytest

from conftest import EXACT
from maskprobe import Engine, Model, Sampler, SamplingParams, Session, StateError, TokenTree

PROMPT = [5, 60, 7]
N = 12
KINDS = {
    "greedy": {"temp": 0.0},
    "sampled": {"temp": 1.0, "seed": 3},
    "all candidates": {"temp": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 4},
    "one candidate": {"temp": 1.0, "top_k": 1, "seed": 5},
    "as many as fit a number": {"temp": 1.0, "top_k": 2**31 - 1, "seed": 6},
    "penalties": {"temp": 0.0, "penalty_repeat": 1.5, "penalty_frequency": 0.5},
    "penalties beyond all numbers": {"temp": 1.0, "penalty_repeat": 3e38, "penalty_presence": 3e38, "seed": 7},
    "rewards beyond all numbers": {"temp": 1.0, "penalty_repeat": 1e-38, "penalty_frequency": -3e38, "seed": 8},
    "cold": {"temp": 1e-39},
}


@pytest.fixture(scope="module")
def engine(tiny_model_path):
    with (
        Model(tiny_model_path("tiny-llama"), n_threads=1) as model,
        Engine(model, n_ctx=256, **EXACT) as engine,
    ):
        yield engine


@pytest.fixture(scope="module")
def ends(engine):
    return [token for token in range(engine.model.info.n_vocab) if engine.model.is_end(token)]


@pytest.fixture(scope="module")
def with_b(engine):
    return [t for t in range(engine.model.info.n_vocab) if b"b" in engine.model.token_bytes(t, special=True)]


class Only:
    def __init__(self, tokens) -> None:
        self.tokens = tokens

    def allowed(self):
        return self.tokens


def texts(engine, sampling, constraint=None, **settings):
    """What comes with each kind of sampling, drafted or not: (tokens, why it ended)."""
    for name, kind in KINDS.items():
        drawn = []
        for proposer in ("none", "all", "recycle"):
            generation = engine.generate(
                PROMPT,
                SamplingParams(**{**kind, **sampling}),
                max_tokens=N,
                proposer=proposer,
                constraint=None if constraint is None else Only(constraint),
                **settings,
            )
            results = list(generation)
            drawn.append(([r.token for r in results if r.token >= 0], results[-1].finish_reason))
        assert drawn[0] == drawn[1] == drawn[2], name
        yield drawn[0]


def forbidding(tokens) -> dict[int, float]:
    return dict.fromkeys(tokens, -math.inf)


@pytest.mark.parametrize("how", ["ignored", "forbidden", "forbidden and ignored", "lowered and ignored"])
def test_a_finished_grammar_without_an_end(engine, ends, how):
    sampling = {"grammar": 'root ::= "ab"'}
    if "forbidden" in how:
        sampling["logit_bias"] = forbidding(ends)
    if "lowered" in how:
        sampling["logit_bias"] = dict.fromkeys(ends, -1.0)
    for tokens, reason in texts(engine, sampling, ignore_eos="ignored" in how):
        assert b"".join(engine.model.token_bytes(token) for token in tokens) == b"ab"
        assert reason == "constraint"


@pytest.mark.parametrize("grammar", ['root ::= "b"+', 'root ::= "a" "b"+', 'root ::= "aaa" ("b" | "bb")'])
def test_biases_forbid_what_the_grammar_allows(engine, with_b, grammar):
    for tokens, reason in texts(engine, {"grammar": grammar, "logit_bias": forbidding(with_b)}):
        assert reason == "constraint"
        assert b"".join(engine.model.token_bytes(token) for token in tokens) == b"a" * grammar.count("a")


def test_all_is_forbidden(engine):
    for tokens, reason in texts(engine, {"logit_bias": forbidding(range(engine.model.info.n_vocab))}):
        assert (tokens, reason) == ([], "constraint")


def test_all_but_one_is_forbidden(engine):
    others = forbidding(t for t in range(engine.model.info.n_vocab) if t != 300)
    for tokens, reason in texts(engine, {"logit_bias": others}):
        assert (tokens, reason) == ([300] * N, "length")
    for tokens, reason in texts(engine, {"logit_bias": {**others, 301: 5.0}}, [300, 302]):
        assert (tokens, reason) == ([300] * N, "length")


def test_a_constraint_and_a_grammar_have_nothing_in_common(engine, with_b):
    without = [t for t in range(engine.model.info.n_vocab) if t not in with_b]
    for tokens, reason in texts(engine, {"grammar": 'root ::= "b"+'}, without):
        assert (tokens, reason) == ([], "constraint")


def test_a_constraint_and_biases_have_nothing_in_common(engine):
    for tokens, reason in texts(engine, {"logit_bias": forbidding([300, 301])}, [300, 301]):
        assert (tokens, reason) == ([], "constraint")


def test_all_three_leave_one(engine, with_b, ends):
    kept = min(t for t in with_b if engine.model.token_bytes(t) == b"b")
    sampling = {"grammar": 'root ::= "b"+', "logit_bias": forbidding(t for t in with_b if t != kept)}
    for tokens, reason in texts(engine, sampling, [kept, 300, *ends], ignore_eos=True):
        assert (tokens, reason) == ([kept] * N, "length")


@pytest.mark.parametrize("first", [True, False])
def test_a_lowered_end_token_that_is_ignored_never_comes(engine, ends, first):
    """Two biases of one token: both count, also where only the most likely tokens are looked at."""
    others = forbidding(t for t in range(engine.model.info.n_vocab) if t not in (*ends, 300))
    bias = {**others, **dict.fromkeys(ends, -0.25)} if first else {**dict.fromkeys(ends, -0.25), **others}
    for tokens, reason in texts(engine, {"logit_bias": bias}, ignore_eos=True):
        assert (tokens, reason) == ([300] * N, "length")


def test_a_sampler_by_hand(engine):
    model = engine.model
    session = Session(model, n_ctx=64, **EXACT)
    session.set_prefix(PROMPT[:-1])
    session.decode(TokenTree(PROMPT[-1]))
    for settings in KINDS.values():
        params = {**settings, "logit_bias": forbidding(range(model.info.n_vocab))}
        with Sampler(model, SamplingParams(**params)) as sampler, pytest.raises(StateError, match="no token") as error:
            sampler.sample(session, 0)
        assert "\n" not in str(error.value)

"""Numbers that are none: a model with a damaged embedding, and settings at the ends of what a float holds."""

import math

import gguf
import numpy as np
import pytest

from conftest import N_THREADS, SHARED
from fakes import Adversary
from maskprobe import Context, DecodeError, Engine, Error, Model, Proposer, SamplingParams, Session, TokenTree
from maskprobe.proposers import SOURCES
from random_gguf import SHAPES, tiny, write_random_gguf

BAD = 77
PROMPT = [5, 60, 7, 5, 60]
N = 40
GREEDY = SamplingParams(temp=0.0, logit_bias={BAD: -math.inf})


@pytest.fixture(scope="module", params=[math.nan, math.inf, -math.inf], ids=str)
def damaged(request, tmp_path_factory):
    """Its output matrix is another one than its embeddings: only what sees the token is spoilt."""
    path = tmp_path_factory.mktemp("models") / "damaged.gguf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "untied", tiny("llama", add_begin=True, tied_head=False))
        write_random_gguf(path, "untied")
    reader = gguf.GGUFReader(path, "r+")
    for tensor in reader.tensors:
        if tensor.name == "token_embd.weight":
            tensor.data[BAD, :] = request.param
    reader.data.flush()
    return path


@pytest.fixture(scope="module", params=["ours", "stock", "stock with flash attention", "stock, shared"])
def engine(request, damaged):
    settings = {
        "ours": {"n_parallel": 2},
        "stock": {"flash_attn": 0},
        "stock with flash attention": {"flash_attn": 1},
        # llama.cpp multiplies tiles of 64 rows, and what they must not see by zero
        "stock, shared": {"n_parallel": 2, "flash_attn": 1, "n_ubatch": 512},
    }[request.param]
    with (
        Model(damaged, kernels=request.param.split()[0].rstrip(","), n_threads=1) as model,
        Engine(model, **{"n_ctx": 512, "n_parallel": 1, "n_threads": N_THREADS, **settings}) as engine,
    ):
        yield engine


def text(engine, prompt=PROMPT, n=N, **settings) -> list[int]:
    return [r.token for r in engine.generate(prompt, GREEDY, max_tokens=n, ignore_eos=True, **settings)]


class Guesses(Proposer):
    """Trees with the bad token in one place or another: alone, before, beside and after the right one."""

    n_rows_max = 8

    def __init__(self, right: list[int], whole: bool) -> None:
        self.right, self.whole = right, whole

    def propose(self, context, room):
        tree = TokenTree(context[-1])
        following = [*self.right[len(context) :], 9, 9]
        kind = len(context) % 4
        first = tree.add(0, BAD if kind < 2 else following[0], -0.1)
        if kind == 1:
            tree.add(0, following[0], -0.2)
        if kind > 1:
            tree.add(first, BAD if kind == 2 else following[1], -0.3)
        tree.add(first, 9, -0.5)
        return tree


def test_candidates_that_are_spoilt_change_nothing(engine):
    expected = text(engine, draft=False)
    assert len(expected) == N and BAD not in expected
    for source in SOURCES:
        assert text(engine, proposer=source) == expected, source
    for whole in (True, False):
        assert text(engine, proposer=Guesses(PROMPT + expected, whole)) == expected
    assert text(engine, proposer=Adversary(PROMPT + expected, 7)) == expected


@pytest.mark.parametrize("n_tokens", [4, 150])
def test_a_spoilt_prompt_leaves_nothing_behind(engine, n_tokens):
    long = [5 + i % 60 for i in range(n_tokens)]
    expected = text(engine, draft=False), text(engine, long, draft=False)
    for prompt in ([*PROMPT, BAD], [*PROMPT, BAD, *long], [BAD, *long], [*long, BAD, 5]):
        with pytest.raises(DecodeError) as error:
            text(engine, prompt)
        assert error.value.status == "numeric" and "\n" not in str(error.value)
        assert (text(engine), text(engine, long)) == expected


def test_a_text_that_comes_to_the_bad_token(engine):
    """Plain decoding fails after it; so does drafting, and what comes next is right again."""
    expected = text(engine, draft=False)
    forced = SamplingParams(temp=0.0, grammar=f"root ::= .{{0,3}} <[{BAD}]> .*", logit_bias={BAD: 90.0})
    for settings in ({"draft": False}, {"proposer": Guesses(PROMPT, False)}, {"proposer": "all"}):
        seen = []
        with pytest.raises(DecodeError) as error:
            for result in engine.generate(PROMPT, forced, max_tokens=N, **settings):
                seen.append(result.token)
        assert error.value.status == "numeric" and seen == [BAD]
        assert text(engine) == expected


def test_a_neighbour_goes_on(engine):
    if engine.context.n_sessions_max < 2:
        pytest.skip("a context of one session")
    long = [5 + i % 60 for i in range(150)]
    expected = text(engine, draft=False), text(engine, long, draft=False)
    forced = SamplingParams(temp=0.0, logit_bias={BAD: 90.0})
    for settings in ({"draft": False}, {"proposer": "all"}):
        neighbour = engine.generate(PROMPT, GREEDY, max_tokens=N, ignore_eos=True, **settings)
        tokens = [next(neighbour).token for _ in range(5)]
        for prompt, sampling in (([*PROMPT, BAD, *long], GREEDY), (PROMPT, forced)):
            with pytest.raises(DecodeError):
                list(engine.generate(prompt, sampling, max_tokens=5))
            tokens += [next(neighbour).token for _ in range(3)]
            assert text(engine, long, **settings) == expected[1]
        assert tokens + [result.token for result in neighbour] == expected[0]


def test_vectors_that_are_no_numbers_end_their_own_generation(engine):
    class Odd(Proposer):
        n_rows_max = 4

        def propose(self, context, room):
            tree = TokenTree(context[-1])
            tree.add_masks(0, np.full((1, engine.model.info.n_embd), np.nan, np.float32))
            return tree

    expected = text(engine)
    with pytest.raises(Error, match="NaN") as error:
        text(engine, proposer=Odd())
    assert "\n" not in str(error.value)
    assert text(engine) == expected


@pytest.mark.parametrize("flash_attn", [0, 1])
def test_a_session_by_hand(damaged, flash_attn):
    """A pass that is not finite, and a prefix that nobody looked at, spoil no later pass."""
    model = Model(damaged, kernels="stock", n_threads=1)
    session = Session(model, n_ctx=256, n_rows_max=8, n_threads=N_THREADS, flash_attn=flash_attn)

    def logits(tokens):
        session.set_prefix(tokens[:-1])
        assert session.decode(TokenTree(tokens[-1])).best[0] >= 0
        row = session.logits(0).copy()
        session.rollback()
        return row

    expected = logits(PROMPT)
    session.set_prefix([*PROMPT, BAD, 8, 9])
    assert session.decode(TokenTree(9)).best[0] == -1
    session.rollback()
    np.testing.assert_allclose(logits(PROMPT), expected, atol=1e-4)
    session.set_prefix(PROMPT)
    tree = TokenTree(9)
    tree.add(0, BAD, 0.0)
    session.decode(tree)
    session.rollback()
    assert session.decode(TokenTree(9)).best[0] >= 0
    session.commit([0])
    np.testing.assert_allclose(logits(PROMPT), expected, atol=1e-4)


def test_cells_are_cleaned_between_passes_only(damaged):
    """What a session has decoded and not committed yet stays, whatever becomes of another one."""
    model = Model(damaged, kernels="stock", n_threads=1)
    context = Context(model, n_ctx=128, n_sessions_max=2, n_rows_max=4, **SHARED)
    good, bad = context.session(), context.session()
    good.set_prefix(PROMPT)
    bad.set_prefix([*PROMPT, BAD])
    context.decode([(good, TokenTree(8)), (bad, TokenTree(8))])
    bad.set_prefix(PROMPT[:2])
    assert bad.decode(TokenTree(8)).best[0] >= 0
    good.commit([0])
    assert good.n_past == len(PROMPT) + 1
    result = good.decode(TokenTree(9))
    alone = Session(model, n_ctx=128, n_rows_max=4, **SHARED)
    alone.set_prefix([*PROMPT, 8])
    assert result.best[0] == alone.decode(TokenTree(9)).best[0]
    np.testing.assert_allclose(good.logits(0), alone.logits(0), atol=2e-2)  # llama.cpp's rounds by place


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tiny_model_path):
    with Model(tiny_model_path("tiny-llama"), n_threads=1) as model, Engine(model, n_ctx=256) as engine:
        yield engine


def drawn(engine, **settings) -> list[int]:
    return [r.token for r in engine.generate(PROMPT, SamplingParams(**settings), max_tokens=20, ignore_eos=True)]


@pytest.mark.parametrize("temp", [1e-45, 1e-39, 1.17e-38, 1e-30, 1e-20, 1e-10])
@pytest.mark.parametrize("others", [{}, {"top_k": 0, "top_p": 1.0, "min_p": 0.0}, {"penalty_repeat": 1.4}], ids=str)
def test_a_cold_temperature_is_greedy(sound, temp, others):
    assert drawn(sound, temp=temp, seed=5, **others) == drawn(sound, temp=0.0, **others)


EXTREMES = [
    {"logit_bias": {300: 3e38}},
    {"logit_bias": {300: 1e9}},
    {"logit_bias": {300: 1e9, 301: -3e38}, "top_k": 200},
    {"logit_bias": {300: 3e38}, "top_k": 0, "temp": 1e-7},
    {"logit_bias": {300: 3e38}, "temp": 3e38, "top_k": 1},
]


@pytest.mark.parametrize("settings", EXTREMES, ids=str)
def test_a_bias_that_decides_all(sound, settings):
    settings = {"temp": 1.0, "top_p": 1.0, "min_p": 0.0, "seed": 3, **settings}
    assert drawn(sound, **settings) == [300] * 20


PENALTIES = [
    {"penalty_repeat": 3e38},
    {"penalty_frequency": 3e38, "penalty_presence": -1e20},
    {"penalty_presence": 3e38},
    {"penalty_repeat": 3e38, "penalty_frequency": 3e38, "penalty_presence": 3e38},
]


@pytest.mark.parametrize("penalties", PENALTIES, ids=str)
@pytest.mark.parametrize(
    "kind", [{"temp": 0.0}, {"temp": 1.0, "seed": 2}, {"temp": 5.0, "top_k": 0, "seed": 2}], ids=str
)
def test_penalties_beyond_all_numbers(sound, penalties, kind):
    """They make what was seen very unlikely, and forbid nothing: where a grammar leaves nothing else, it comes."""
    tokens = drawn(sound, penalty_last_n=-1, **penalties, **kind)
    assert len(set(tokens + PROMPT)) == len(tokens) + len(set(PROMPT))
    only = drawn(sound, penalty_last_n=-1, grammar='root ::= "a"+', **penalties, **kind)
    assert len(only) == 20 and all(set(sound.model.token_bytes(token)) == {ord("a")} for token in only)


def test_a_reward_beyond_all_numbers(sound):
    for settings in ({"penalty_repeat": 1e-38}, {"penalty_presence": -3e38}, {"penalty_frequency": -3e38}):
        tokens = drawn(sound, temp=1.0, seed=2, penalty_last_n=-1, **settings)
        assert len(tokens) == 20

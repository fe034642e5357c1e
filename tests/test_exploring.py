"""A drafter that knows nothing of a small model asks it about tokens that seem likely, before the first text."""

import numpy as np
import pytest

from conftest import EXACT
from fakes import FakeModel, FakeSession
from maskprobe import (
    ArgumentError,
    Engine,
    Evidence,
    Model,
    Pass,
    Planned,
    SamplingParams,
    Session,
    StateError,
)
from maskprobe._capi import check, ffi, lib
from maskprobe.proposers.evidence import EXPLORING_ROWS, EXPLORING_WORK

GREEDY = SamplingParams(temp=0.0)
PROMPT = [3, 14, 15, 9]
N_VOCAB = 300


def fake_session(n_params: float = 1e6, **settings) -> FakeSession:
    return FakeSession(FakeModel(n_vocab=N_VOCAB, n_params=int(n_params)), **settings)


def generated(session, proposer=None, n: int = 20) -> list[int]:
    engine = Engine(session, proposer)
    return [r.token for r in engine.generate(PROMPT, GREEDY, max_tokens=n, ignore_eos=True)]


def passes_before_the_text(session, proposer) -> list[int]:
    """Rows of the passes of a generation's prompt."""
    n_before = len(session.rows_of_passes)
    Engine(session, proposer).begin(PROMPT, GREEDY, max_tokens=20, ignore_eos=True)
    assert session.committed == PROMPT[:-1] and session.pending is None
    return session.rows_of_passes[n_before:]


def test_it_asks_once_and_of_each_token_once():
    session = fake_session()
    asked = []
    decode = session.decode

    def recorded(tree, n_top=8):
        asked.extend(tree.tokens[1:])
        assert tree.tokens[0] == PROMPT[-1] and set(tree.parents[1:]) <= {0}
        return decode(tree, n_top)

    session.decode = recorded
    proposer = Evidence(session.model, rows=8)
    rows = passes_before_the_text(session, proposer)
    assert rows[0] == 1 and max(rows) == EXPLORING_ROWS
    assert len(asked) == len(set(asked)) > N_VOCAB / 2
    assert proposer.unseen(N_VOCAB) == []
    assert passes_before_the_text(session, proposer) == []


class OneTokenBack(FakeModel):
    """Its next token depends on the last one."""

    def logits(self, tokens):
        return super().logits(tokens[-1:])


def test_it_changes_no_token_and_saves_passes():
    sampling = SamplingParams(temp=1.0, seed=3)
    engine = Engine(FakeSession(OneTokenBack(n_vocab=N_VOCAB)))
    expected = [r.token for r in engine.generate(PROMPT, sampling, max_tokens=100, ignore_eos=True)]
    n_passes = []
    for n_params in (10**6, 10**10):
        session = FakeSession(OneTokenBack(n_vocab=N_VOCAB, n_params=n_params))
        engine = Engine(session, Evidence(session.model, rows=16))
        assert [r.token for r in engine.generate(PROMPT, sampling, max_tokens=100, ignore_eos=True)] == expected
        n_passes.append(engine.stats.passes)
    assert n_passes[0] < n_passes[1] - 5


@pytest.mark.parametrize("share", [1, 2, 5])
def test_the_rows_are_those_of_a_certain_work(share):
    n_params = EXPLORING_WORK / EXPLORING_ROWS / share
    session = fake_session(n_params)
    rows = sum(passes_before_the_text(session, Evidence(session.model)))
    assert EXPLORING_ROWS <= rows <= share * EXPLORING_ROWS + 1


def test_a_large_model_is_not_asked():
    session = fake_session(EXPLORING_WORK / (EXPLORING_ROWS - 1))
    assert passes_before_the_text(session, Evidence(session.model)) == []


def test_without_room_it_does_not_ask():
    for settings in ({"n_ctx": len(PROMPT) + EXPLORING_ROWS - 2}, {"n_rows_max": EXPLORING_ROWS - 1}):
        session = fake_session(**settings)
        assert passes_before_the_text(session, Evidence(session.model, rows=8)) == []


def test_one_that_knows_the_model_does_not_ask():
    session = fake_session()
    learned = Evidence(session.model)
    generated(session, learned)
    restored = Evidence(session.model)
    restored.load(learned.save())
    assert passes_before_the_text(session, restored) == []


def test_first_measurements_teach_too():
    """Of a model that is too large to be asked for that alone."""
    session = fake_session(1e10)
    source = Evidence(session.model)
    rows = passes_before_the_text(session, Planned(source))
    assert len(rows) > 4 and sum(rows) > 20
    assert source.propose(PROMPT, 16).n_nodes > 4


def test_a_failure_leaves_the_cache_as_it_was():
    session = fake_session()
    session.fail_at = {2: StateError("out of order")}
    with pytest.raises(StateError, match="out of order"):
        generated(session, Evidence(session.model))
    assert session.committed == PROMPT[:-1]
    assert generated(session, Evidence(session.model)) == generated(fake_session())


def test_the_likeliest_come_first():
    proposer = Evidence(FakeModel(n_vocab=N_VOCAB))
    proposer.begin([1, 2])
    rows = np.array([[5, 6, 7, 2], [8, 9, 5, 7]], np.int32)
    proposer.explore(_Answers(rows, [0.5, 0.3, 0.1, 0.05]), 2, [6])
    assert proposer.unseen(10) == [5, 8, 9, 7]  # 0.6, 0.5, 0.3, 0.15; 2 and 6 have rows
    assert proposer.unseen(2) == [5, 8]
    assert proposer.unseen(0) == []


class _Answers:
    """A session that gives these rows."""

    def __init__(self, tokens: np.ndarray, probabilities: list[float]) -> None:
        self.tokens = tokens
        self.logprobs = np.tile(np.log(np.array(probabilities, np.float32)), (len(tokens), 1))

    def decode(self, tree, n_top):
        assert tree.n_rows == len(self.tokens)
        return Pass(tree.n_rows, self.tokens.shape[1], self.tokens[:, 0], self.tokens, self.logprobs, 0, 0)

    def rollback(self) -> None:
        pass


def test_what_the_core_refuses():
    out = ffi.new("mp_drafter **")
    check(lib.mp_drafter_open(10, out))
    drafter, n = out[0], ffi.new("int32_t *")
    tokens, logprobs = ffi.new("int32_t[]", [1, 2, 3, 4]), ffi.new("float[]", [-1.0, -2.0, -1.0, -2.0])
    with pytest.raises(StateError, match="without a text"):
        check(lib.mp_drafter_unseen(drafter, 4, tokens, n))
    with pytest.raises(StateError, match="without a text"):
        check(lib.mp_drafter_learn_unseen(drafter, tokens, 1, 2, tokens, logprobs))
    check(lib.mp_drafter_begin(drafter, tokens, 2))
    for bad in ((-1, tokens, n), (4, ffi.NULL, n), (4, tokens, ffi.NULL)):
        with pytest.raises(ArgumentError):
            check(lib.mp_drafter_unseen(drafter, *bad))
    beyond = ffi.new("int32_t[]", [10, 1, 2, 3])
    for bad in (
        (tokens, -1, 2, tokens, logprobs),
        (tokens, 1, 0, tokens, logprobs),
        (ffi.NULL, 1, 2, tokens, logprobs),
        (tokens, 1, 2, ffi.NULL, logprobs),
        (tokens, 1, 2, tokens, ffi.NULL),
        (beyond, 1, 2, tokens, logprobs),
        (tokens, 1, 2, beyond, logprobs),
        (tokens, 1, 2, tokens, ffi.new("float[]", [-1.0, 0.5, -1.0, -2.0])),
    ):
        with pytest.raises(ArgumentError):
            check(lib.mp_drafter_learn_unseen(drafter, *bad))
    check(lib.mp_drafter_learn_unseen(drafter, tokens, 1, 2, tokens, logprobs))
    lib.mp_drafter_free(drafter)


@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(temp=0.8, seed=5)], ids=["greedy", "T 0.8"])
def test_on_a_real_model(sampling, bundled_model_path):
    """Plain decoding's tokens, as without asking; and it has learned of more tokens."""
    model = Model(bundled_model_path)
    session = Session(model, n_ctx=256, **EXACT)
    prompt = model.tokenize("def mean(values):")
    expected = [r.token for r in Engine(session).generate(prompt, sampling, max_tokens=60, ignore_eos=True)]
    sizes = []
    for is_new in (True, False):
        proposer = Evidence(model, rows=8)
        if not is_new:
            proposer.load(proposer.save())
        session.set_prefix([])
        tokens = [r.token for r in Engine(session, proposer).generate(prompt, sampling, max_tokens=60, ignore_eos=True)]
        assert tokens == expected
        sizes.append(len(proposer.save()))
    assert sizes[0] > sizes[1]

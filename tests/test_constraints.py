"""Constraints of Python: what they allow, force and change, whatever is proposed, and what happens when they fail."""

import itertools
import re

import numpy as np
import pytest

from conftest import SHARED
from fakes import Adversary, Oracle
from maskprobe import ArgumentError, Engine, Model, SamplingParams

PROMPT = [5, 60, 7]
N = 30
GREEDY = SamplingParams(temp=0.0)
SAMPLED = SamplingParams(temp=0.8, seed=3)
BOTH = pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


@pytest.fixture(scope="module")
def engine(tiny_model_path):
    with (
        Model(tiny_model_path("tiny-llama"), kernels="ours", n_threads=1) as model,
        Engine(model, n_ctx=512, n_parallel=2, rows=8, **SHARED) as engine,
    ):
        yield engine


def run(engine, constraint=None, sampling=GREEDY, n=N, **settings):
    generation = engine.generate(PROMPT, sampling, max_tokens=n, ignore_eos=True, constraint=constraint, **settings)
    return list(generation), generation


def tokens_of(results) -> list[int]:
    return [result.token for result in results]


def in_part(proposer):
    """The engine decodes of its trees what pays and passes."""
    proposer.whole = False
    return proposer


class Turns:
    """Tokens 10..19 and 20..29 in turns, as ids, as a mask of bools or as bits."""

    def __init__(self, n_vocab: int, form: str) -> None:
        self.n_vocab, self.form = n_vocab, form
        self.seen: list[int] = []

    def _ids(self, n_seen: int) -> list[int]:
        first = 20 if n_seen % 2 else 10
        return list(range(first, first + 10))

    def allowed(self):
        mask = np.zeros(self.n_vocab, bool)
        mask[self._ids(len(self.seen))] = True
        if self.form == "bools":
            return mask
        if self.form == "bits":
            bits = np.zeros((self.n_vocab + 31) // 32, np.uint32)
            for token in np.flatnonzero(mask):
                bits[token // 32] |= np.uint32(1 << (token % 32))
            return bits
        return self._ids(len(self.seen))

    def accept(self, token):
        self.seen.append(token)


class TurnsThatLookAhead(Turns):
    def n_valid(self, tokens):
        return sum(
            1
            for _ in itertools.takewhile(lambda pair: pair[1] in self._ids(pair[0]), enumerate(tokens, len(self.seen)))
        )


@BOTH
@pytest.mark.parametrize("form", ["ids", "bools", "bits"])
@pytest.mark.parametrize("kind", [Turns, TurnsThatLookAhead])
def test_what_is_allowed(engine, kind, form, sampling):
    n_vocab = engine.model.info.n_vocab
    results, _ = run(engine, kind(n_vocab, form), sampling, draft=False)
    expected = tokens_of(results)
    assert all(token // 10 == 1 + i % 2 for i, token in enumerate(expected))
    for proposer in ("all", "lookup", Oracle(PROMPT + expected, 5), Adversary(PROMPT + expected, 7)):
        constraint = kind(n_vocab, form)
        results, generation = run(engine, constraint, sampling, proposer=proposer)
        assert tokens_of(results) == constraint.seen == expected
    assert generation.stats.passes == N - 1  # the adversary's
    oracle = in_part(Oracle(PROMPT + expected, 5))
    assert run(engine, kind(n_vocab, form), sampling, proposer=oracle)[1].stats.passes < N / 2


def test_what_is_forbidden_takes_no_row(engine):
    """Candidates that would not pass are cut from the draft before they cost anything."""
    constraint = TurnsThatLookAhead(engine.model.info.n_vocab, "ids")
    wrong = in_part(Adversary([], 6))  # offers 3 to 9, of which none is ever allowed
    _, generation = run(engine, constraint, proposer=wrong)
    assert generation.stats.rows == generation.stats.passes == N - 1


class Forces(Turns):
    """After two free tokens, three that must come."""

    def _ids(self, n_seen: int) -> list[int]:
        return [100 + n_seen % 5] if n_seen % 5 >= 2 else super()._ids(n_seen)

    def forced(self):
        n_seen = len(self.seen)
        return [100 + place for place in range(n_seen % 5, 5)] if n_seen % 5 >= 2 else []


@BOTH
@pytest.mark.parametrize("draft", [True, False])
def test_what_is_forced_is_drafted(engine, sampling, draft):
    constraint = Forces(engine.model.info.n_vocab, "ids")
    results, generation = run(engine, constraint, sampling, draft=draft, proposer=Oracle([]))
    assert [token for token in tokens_of(results) if token >= 100] == [102, 103, 104] * (N // 5)
    assert tokens_of(results) == constraint.seen
    assert generation.stats.accepted_by["constraint"] == (3 * (N // 5) if draft else 0)
    assert generation.stats.passes == (2 * (N // 5) if draft else N - 1)
    without = run(engine, Turns(engine.model.info.n_vocab, "ids"), sampling, n=2)[0]
    assert tokens_of(results)[:2] == tokens_of(without)


class Changes:
    """Logits of its own: the most likely token is the one after the last token of the text."""

    def __init__(self) -> None:
        self.texts: list[list[int]] = []

    def logits(self, tokens, logits):
        self.texts.append(list(tokens))
        logits[:] = 0.0
        logits[(tokens[-1] + 1) % len(logits)] = 50.0


def test_logits_are_changed(engine):
    expected = [8 + i for i in range(N)]
    for settings in ({"draft": False}, {"proposer": "all"}, {"proposer": Oracle(PROMPT + expected, 5)}):
        constraint = Changes()
        results, _ = run(engine, constraint, **settings)
        assert tokens_of(results) == expected
        assert constraint.texts == [PROMPT + expected[:i] for i in range(N)]  # once for each token that is drawn


def test_an_answer_without_restrictions(engine):
    class Anything:
        def allowed(self):
            return None

    assert tokens_of(run(engine, Anything())[0]) == tokens_of(run(engine)[0])


def test_nothing_is_allowed(engine):
    class Two(Turns):
        def allowed(self):
            return super().allowed() if len(self.seen) < 2 else []

    results, generation = run(engine, Two(engine.model.info.n_vocab, "ids"))
    assert tokens_of(results)[2:] in ([], [-1])  # the reason comes with the last token, or alone
    assert len(generation.stats.tokens) == 2
    assert generation.stats.finish_reason == results[-1].finish_reason == "constraint"


def test_a_grammar_beside_a_constraint(engine):
    grammar = SamplingParams(temp=0.8, seed=1, grammar="root ::= [0-9]+")
    digits = [t for t in range(engine.model.info.n_vocab) if re.fullmatch(b"[0-4]", engine.model.token_bytes(t))]

    class Small:
        def allowed(self):
            return digits

    text = "".join(r.text for r in run(engine, Small(), grammar)[0])
    assert re.fullmatch("[0-4]+", text)


class Fails(Forces):
    """One of its methods raises, the third time that it is called."""

    def __init__(self, n_vocab: int, where: str) -> None:
        super().__init__(n_vocab, "ids")
        self.left = 3
        self.where = where

    def _count(self, where: str) -> None:
        self.left -= where == self.where
        if self.left == 0:
            raise LookupError(f"{where} is broken")

    def allowed(self):
        self._count("allowed")
        return super().allowed()

    def accept(self, token):
        self._count("accept")
        super().accept(token)

    def n_valid(self, tokens):
        self._count("n_valid")
        return len(tokens)

    def forced(self):
        self._count("forced")
        return super().forced()

    def logits(self, tokens, logits):
        self._count("logits")


@pytest.mark.parametrize("where", ["allowed", "accept", "n_valid", "forced", "logits"])
def test_a_failure_ends_its_own_generation_only(engine, where):
    expected = tokens_of(run(engine)[0])
    constraint = Fails(engine.model.info.n_vocab, where)
    neighbour = engine.generate(PROMPT, GREEDY, max_tokens=N, ignore_eos=True)
    tokens = [next(neighbour).token]
    with pytest.raises(LookupError, match=f"{where} is broken"):
        run(engine, constraint, proposer=in_part(Adversary([], 7)))
    assert tokens + tokens_of(neighbour) == expected
    assert tokens_of(run(engine)[0]) == expected


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"allowed": lambda self: [5, 100_000]}, "allows token 100000"),
        ({"allowed": lambda self: [-1]}, "allows token -1"),
        ({"allowed": lambda self: np.zeros(7, bool)}, r"mask has shape \(7,\)"),
        ({"allowed": lambda self: ["a"]}, "allows token ids"),
        ({"n_valid": lambda self, tokens: 99}, "99 of 1 tokens"),
        ({"allowed": lambda self: None, "forced": lambda self: [100_000]}, "100000"),
        ({"logits": lambda self, tokens, logits: logits.fill(np.nan)}, "nan"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_answers_that_make_no_sense(engine, methods, said):
    with pytest.raises(Exception, match=said) as error:
        run(engine, type("Odd", (), methods)(), proposer=in_part(Adversary([], 7)))
    assert "\n" not in str(error.value)


def test_what_is_no_constraint(engine):
    with pytest.raises(ArgumentError, match="int is no constraint: it needs one of allowed, accept, n_valid"):
        engine.generate(PROMPT, constraint=7)

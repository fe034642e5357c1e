"""A source of candidates whose passes have the rows that pay, inside an engine.

No clock of this machine is read: passes take what a formula says.
"""

import math
from types import SimpleNamespace

import pytest

from fakes import CURVES, N_VOCAB, Adversary, FakeModel, FakeSession, Oracle
from maskprobe import Engine, Evidence, Planned, Proposer, SamplingParams, mask_embedding
from maskprobe.proposers import planned as planned_module

GREEDY = SamplingParams(temp=0.0)
SAMPLED = SamplingParams(temp=0.8, seed=11)


class Clock:
    def __init__(self) -> None:
        self.us = 0.0

    def perf_counter_ns(self) -> int:
        return round(self.us * 1000)


class TimedSession(FakeSession):
    """A session whose passes take what a curve says, on a clock of its own, and a little outside the core."""

    outside_us = 10.0

    def __init__(self, clock: Clock, time_of, **settings) -> None:
        super().__init__(**settings)
        self.clock, self.time_of = clock, time_of
        self.n_masks = 0

    def decode(self, tree, n_top: int = 8):
        result = super().decode(tree, n_top)
        self.n_masks += tree.n_masks
        self.clock.us += self.time_of(tree.n_rows) + self.outside_us
        return result._replace(decode_us=round(self.time_of(tree.n_rows)))


class Slow(Proposer):
    """A proposer that takes its time."""

    def __init__(self, source: Proposer, clock: Clock, us: float) -> None:
        self.source, self.clock, self.us = source, clock, us
        self.n_rows_max, self.n_top = source.n_rows_max, source.n_top
        self.n_asked = 0

    def propose(self, context, room):
        self.n_asked += 1
        self.clock.us += self.us
        tree = self.source.propose(context, room)
        return tree if tree.n_nodes <= room else tree.first(room)


class ShortMemory(FakeModel):
    """Its next token depends on the last two, so that it repeats itself."""

    def logits(self, tokens):
        return super().logits(tokens[-2:])


PROMPT = [3, 14, 15, 9]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(planned_module, "time", SimpleNamespace(perf_counter_ns=clock.perf_counter_ns))
    return clock


def generated(session, proposer=None, sampling=GREEDY, n: int = 200, prompt=PROMPT) -> list[int]:
    engine = Engine(session, proposer)
    return [r.token for r in engine.generate(prompt, sampling, max_tokens=n, ignore_eos=True)]


def plain(sampling, n: int = 200, model=None) -> list[int]:
    return generated(FakeSession(model or FakeModel(), n_ctx=2000), None, sampling, n)


@pytest.mark.parametrize("curve_name", ["flat", "steep", "cliff"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "T 0.8"])
@pytest.mark.parametrize("kind", [Oracle, Adversary])
def test_planned_changes_no_token(kind, sampling, curve_name, clock):
    expected = plain(sampling)
    session = TimedSession(clock, CURVES[curve_name], n_ctx=2000)
    source = Slow(kind([*PROMPT, *expected]), clock, 30.0)
    proposer = Planned(source)
    assert generated(session, proposer, sampling) == expected
    rows = session.rows_of_passes
    if kind is Oracle and curve_name == "flat":
        assert len(rows) < 100  # passes
        assert max(rows) > 4
    if kind is Adversary:
        assert rows[-50:].count(1) >= 46  # but for those whose time is measured again


def test_planned_with_the_adversary_takes_no_longer_than_plain_decoding(clock):
    n = 1500
    expected = plain(GREEDY, n)
    session = TimedSession(clock, CURVES["flat"], n_ctx=4000)
    source = Slow(Adversary([*PROMPT, *expected]), clock, 400.0)
    assert generated(session, Planned(source), GREEDY, n) == expected
    assert clock.us < 1.03 * n * (CURVES["flat"](1) + session.outside_us)
    assert source.n_asked < n / 3


def test_a_text_that_repeats_itself_ends_the_naps(clock):
    """Naps while it says something new, drafts when it begins to repeat itself."""

    class ThenInCircles(FakeModel):
        def logits(self, tokens):
            key = tokens if len(tokens) < 600 else [len(tokens) % 5]
            return super().logits(key)

    model = ThenInCircles()
    expected = plain(GREEDY, 900, model)
    session = TimedSession(clock, CURVES["gentle"], model=model, n_ctx=4000)
    source = Evidence(model, rows=16)
    propose = source.planned

    def slow(planner, context, room):
        clock.us += 800.0
        return propose(planner, context, room)

    source.planned = slow
    proposer = Planned(source)
    assert generated(session, proposer, GREEDY, 900) == expected
    assert 100 < proposer.n_naps < min(700, session.rows_of_passes.count(1))
    assert len(session.rows_of_passes) < 800
    assert "off in" in proposer.summary()


def test_a_text_that_begins_to_repeat_itself_is_planned_anew(clock):
    """Passes go on like the last planned one while the text is of its kind: each kind has a usual number of rows."""

    class InTurns(FakeModel):
        def logits(self, tokens):  # something new, then five tokens in circles, then something new
            return super().logits([len(tokens) % 5] if len(tokens) // 60 % 2 else tokens[-3:])

    model = InTurns()
    expected = plain(GREEDY, 600, model)
    session = TimedSession(clock, lambda n: 200.0 + 5.0 * n, model=model, n_ctx=2000)
    source = Evidence(model, rows=8)
    proposer = Planned(source)
    planned, kinds = source.planned, []

    def dear(planner, context, room):
        clock.us += 20.0
        result = planned(planner, context, room)
        assert planner.outlook.repeats == source.repeats(context)
        return result

    propose = proposer.propose

    def watched(context, room):
        tree = propose(context, room)
        kinds.append((source.repeats(context), proposer.planner.outlook.repeats))
        return tree

    source.planned, proposer.propose = dear, watched
    assert generated(session, proposer, GREEDY, 600) == expected
    assert {now for now, _ in kinds} == {False, True}
    assert all(now == planned_for for now, planned_for in kinds)


def test_planned_with_the_oracle_is_as_fast_as_rows_allow(clock):
    n = 600
    expected = plain(GREEDY, n)
    session = TimedSession(clock, CURVES["flat"], n_ctx=4000)
    generated(session, Planned(Slow(Oracle([*PROMPT, *expected], 7), clock, 20.0)), GREEDY, n)
    assert clock.us < 0.25 * n * CURVES["flat"](1)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "T 0.8"])
def test_masks_are_tried_and_change_no_token(sampling, clock):
    model = ShortMemory()
    expected = plain(sampling, 700, model)
    session = TimedSession(clock, CURVES["flat"], model=model, n_ctx=2000)
    proposer = Planned(Evidence(model, rows=16), mask=mask_embedding("soft", model))
    assert generated(session, proposer, sampling, 700) == expected
    assert session.n_masks > 0
    assert sum(proposer.earned.values()) > 0
    assert len(session.rows_of_passes) < 700
    assert "accepted by" in proposer.summary()


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "T 0.8"])
@pytest.mark.parametrize("time_of", [lambda n: 200.0 + 5.0 * n, lambda n: 20000.0 + 500.0 * n], ids=["short", "long"])
def test_where_passes_are_short_not_each_is_planned(time_of, sampling, clock):
    """They go on like the one before, candidates and all, and change no token."""
    model = ShortMemory()
    expected = plain(sampling, 700, model)
    session = TimedSession(clock, time_of, model=model, n_ctx=2000)
    source, n_planned = Evidence(model, rows=4), 0
    planned = source.planned

    def counted(*asked):
        nonlocal n_planned
        n_planned += 1
        clock.us += 20.0
        return planned(*asked)

    source.planned = counted
    assert generated(session, Planned(source), sampling, 700) == expected
    n_wide = sum(n > 1 for n in session.rows_of_passes)  # the first measurements among them, which nobody planned
    assert (n_planned < 0.6 * n_wide) if time_of(1) < 1000 else (n_planned > 0.9 * n_wide)


def test_the_source_learns_from_the_prompt_but_in_a_nap(clock):
    model = ShortMemory()
    session = TimedSession(clock, CURVES["flat"], model=model, n_ctx=2000)
    source = Evidence(model, rows=16)
    learned = []
    source.learn_prompt = lambda tokens, logprobs: learned.append(tokens.shape)
    planned = Planned(source)
    generated(session, planned, GREEDY, 5, prompt=[3, 14, 15, 9])
    assert learned == [(3, source.n_top)] and planned.n_prompt_rows == source.n_prompt_rows
    text = generated(FakeSession(model), None, SAMPLED, 100)
    wrong = Planned(Slow(Adversary([*PROMPT, *text]), clock, 4000.0))
    wrong.source.n_prompt_rows = 7
    assert wrong.n_prompt_rows == 7
    steep = TimedSession(clock, CURVES["steep"], model=model, n_ctx=2000)
    generated(steep, wrong, SAMPLED, 100)
    assert wrong.n_naps > 0 and wrong.planner.outlook.napping and wrong.n_prompt_rows == 0
    wrong.attach(TimedSession(clock, CURVES["flat"], model=model))  # where naps are still to be earned
    assert wrong.n_prompt_rows == 7 and wrong.n_top == wrong.source.n_top


def test_without_masks_none_are_placed(clock):
    model = ShortMemory()
    session = TimedSession(clock, CURVES["flat"], model=model, n_ctx=2000)
    generated(session, Planned(Evidence(model, rows=16)), GREEDY, 300)
    assert session.n_masks == 0


@pytest.mark.parametrize("n_ctx", [4, 5, 6, 9, 24])
def test_planned_at_the_end_of_the_context(n_ctx, clock):
    model = ShortMemory()
    results = []
    for proposer in (None, Planned(Evidence(model, rows=16), mask=mask_embedding("soft", model))):
        session = TimedSession(clock, CURVES["flat"], model=model, n_ctx=n_ctx)
        engine = Engine(session, proposer)
        results.append([r.token for r in engine.generate(PROMPT, GREEDY, ignore_eos=True)])
        assert engine.stats.finish_reason == "context"
    assert results[0] == results[1]


def test_nodes_in_another_order_are_put_right(clock):
    """Siblings first, the likely chain last: the first rows still go to the likely ones."""

    class Backwards(Oracle):
        def propose(self, context, room):
            tree = super().propose(context, 1)
            for token in range(1, 6):
                tree.add(0, token, math.log(0.001))
            node = 0
            for token in self.text[len(context) :][:3]:
                node = tree.add(node, token, math.log(0.99))
            return tree

    expected = plain(GREEDY)
    source = Backwards([*PROMPT, *expected])
    source.n_rows_max = N_VOCAB
    session = TimedSession(clock, CURVES["middling"], n_ctx=2000)
    assert generated(session, Planned(source), GREEDY) == expected
    assert len(session.rows_of_passes) < 110


def test_candidates_that_were_out_of_reach_are_not_counted_as_wrong(clock):
    """Short passes never see what the end of a long chain would have been worth."""

    class Modest(Oracle):
        def propose(self, context, room):
            tree = super().propose(context, room)
            tree.logprobs = [depth * math.log(0.6) for depth in tree.depths]
            return tree

    expected = plain(GREEDY, 400)
    session = TimedSession(clock, CURVES["steep"], n_ctx=2000)
    proposer = Planned(Modest([*PROMPT, *expected[:-20]], 11))  # never wrong, but silent at the end
    assert generated(session, proposer, GREEDY, 400) == expected
    known = proposer.planner.learned()
    assert sum(known["accepted"]) > 50
    assert all(a >= c for a, c in zip(known["accepted"], known["claimed"], strict=True))

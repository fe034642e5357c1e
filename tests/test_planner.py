"""How many rows a pass gets: cost curve, calibration and planner in simulated time; Planned inside an engine.

No clock of this machine is read: passes take what a formula says.
"""

import itertools
import json
import math
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fakes import N_VOCAB, Adversary, FakeModel, FakeSession, Oracle
from maskprobe import Engine, Evidence, Planned, Proposer, SamplingParams, mask_embedding
from maskprobe.cost import SHAPES, CostCurve
from maskprobe.planner import N_BINS, Calibration, Planner
from maskprobe.proposers import planned as planned_module

GREEDY = SamplingParams(temp=0.0)
SAMPLED = SamplingParams(temp=0.8, seed=11)

CURVES = {  # microseconds of a pass of n rows
    "flat": lambda n: 5000 + 20 * n,
    "gentle": lambda n: 4000 * (1 + 0.06 * (n - 1)),
    "middling": lambda n: 4000 * (1 + 0.2 * (n - 1)),
    "steep": lambda n: 4000 * (1 + 0.7 * (n - 1)),
    "proportional": lambda n: 3000 * n,
    "in steps": lambda n: 3000 + 2000 * math.ceil(n / 4),
    "cliff": lambda n: 4000 * (1 + 0.05 * (n - 1)) + (8000 if n > 8 else 0),
}


# --- cost curve ------------------------------------------------------------------------------------------------------


def curve(times: dict[int, float], depth: int = 100) -> CostCurve:
    cost = CostCurve()
    cost.at_depth(depth)
    for n, microseconds in times.items():
        for _ in range(3):
            cost.add(n, microseconds)
    return cost


def test_between_measured_rows_it_is_a_straight_line():
    cost = curve({1: 100.0, 4: 160.0, 16: 400.0})
    assert [cost.time(n) for n in (1, 4, 16)] == [100.0, 160.0, 400.0]
    assert cost.time(2) == pytest.approx(120.0)
    assert cost.time(10) == pytest.approx(280.0)
    assert cost.time(32) == pytest.approx(720.0)  # the last two go on


def test_no_estimate_is_below_one_row():
    cost = curve({1: 100.0, 8: 300.0, 16: 110.0})
    assert all(cost.time(n) >= 100.0 for n in range(1, 65))


def test_nothing_is_measured_at_first():
    cost = CostCurve()
    assert not cost.measured
    cost.at_depth(5)
    assert not cost.measured and cost.as_json() == {}
    cost.add(1, 50.0)
    assert cost.measured and cost.time(4) > cost.time(1) == 50.0


def test_depths_are_apart_and_a_new_one_starts_with_the_nearest():
    cost = curve({1: 100.0, 4: 200.0}, depth=100)
    cost.at_depth(511)  # still the same
    assert cost.time(4) == 200.0
    cost.at_depth(3000)
    assert (cost.time(1), cost.time(4)) == (100.0, 200.0)
    for _ in range(20):
        cost.add(4, 900.0)
    assert cost.time(4) == 900.0
    cost.at_depth(20)
    assert cost.time(4) == 200.0


def test_a_depth_that_was_entered_but_not_measured_is_no_trap():
    """A first measurement that was cancelled leaves nothing behind."""
    cost = CostCurve()
    cost.at_depth(10)
    cost.at_depth(5000)
    cost.add(1, 70.0)
    cost.at_depth(10)
    assert cost.time(1) == 70.0


def test_another_shape_costs_extra():
    cost = curve({1: 100.0, 4: 150.0})
    for _ in range(40):
        for n, steady in ((1, 100.0), (4, 150.0)):
            cost.add(n, steady + 30.0)  # a change
            cost.add(n, steady)
    assert cost.change == pytest.approx(30.0)
    assert (cost.time(1), cost.time(4)) == (100.0, 150.0)
    assert cost.last_n == 4


def test_single_outliers_do_not_count():
    cost = curve({1: 100.0})
    for i in range(40):
        cost.add(1, 5000.0 if i % 5 == 0 else 100.0)
        assert cost.time(1) == 100.0


def test_it_follows_a_machine_that_slows_down():
    cost = curve({1: 100.0})
    for _ in range(24):
        cost.add(1, 180.0)
    assert cost.time(1) == 180.0


@pytest.mark.parametrize("name", CURVES)
def test_calibrating_takes_a_few_passes_and_no_hopeless_ones(name):
    asked = []

    def pass_of(n: int) -> float:
        asked.append(n)
        return CURVES[name](n) + (500.0 if n not in asked[:-1] else 0.0)

    cost = CostCurve()
    cost.at_depth(0)
    cost.calibrate(pass_of, 32)
    assert len(asked) <= 8
    assert (16 in asked) == (name != "proportional")
    for n in set(asked):
        assert cost.time(n) == pytest.approx(CURVES[name](n))
    asked.clear()
    narrow = CostCurve()
    narrow.at_depth(0)
    narrow.calibrate(pass_of, 3)
    assert set(asked) == {1}


def test_what_a_curve_keeps_comes_back():
    cost = curve({1: 100.0, 4: 160.0, 16: 400.0})
    cost.at_depth(5000)
    cost.add(4, 300.0)
    again = CostCurve()
    again.load(json.loads(json.dumps(cost.as_json())))
    for depth in (0, 400, 5000, 100_000):
        cost.at_depth(depth)
        again.at_depth(depth)
        assert [again.time(n) for n in range(1, 40)] == [cost.time(n) for n in range(1, 40)]
    assert again.measured


@pytest.mark.parametrize(
    "content",
    [
        None,
        7,
        [],
        {"9": 5},
        {"9": {"1": 5.0}},
        {"9": {"1": []}},
        {"9": {"1": [-3.0]}},
        {"9": {"1": [5.0, 0.0]}},
        {"9": {"1": [float("nan")]}},
        {"9": {"1": [float("inf")]}},
        {"9": {"1": ["x"]}},
        {"9": {"0": [5.0], "1": [5.0]}},
        {"nine": {"1": [5.0]}},
        {"9": {}},
        {"9": {"4": [5.0]}},
    ],
    ids=str,
)
def test_nonsense_is_refused_and_changes_nothing(content):
    cost = curve({1: 100.0})
    with pytest.raises((ValueError, TypeError, AttributeError)):
        cost.load(content)
    assert cost.as_json() == {"9": {"1": [100.0] * 3}}


# --- calibration -----------------------------------------------------------------------------------------------------


def trained(claims_and_rates: dict[float, float], n: int = 600) -> Calibration:
    calibration, random_ = Calibration(), random.Random(3)
    for _ in range(n):
        for claimed, rate in claims_and_rates.items():
            calibration.observe(claimed, random_.random() < rate)
        calibration.update()
    return calibration


def test_who_was_never_seen_is_trusted_by_half():
    assert Calibration().probability(0.6) == pytest.approx(0.3)


def test_who_is_always_wrong_is_believed_no_more():
    calibration = trained({0.9: 0.0, 0.3: 0.0, 0.02: 0.0})
    assert calibration.probability(0.9) < 0.01
    assert calibration.probability(0.3) < 0.01
    assert calibration.probability(0.02) < 0.01
    assert calibration.probability(0.1) < 0.01  # never claimed: judged by the others


def test_who_is_right_stays_as_he_is():
    rates = {0.9: 0.9, 0.4: 0.4, 0.1: 0.1}
    calibration = trained(rates)
    for rate in rates:
        assert calibration.probability(rate) == pytest.approx(rate, rel=0.15)


def test_who_claims_too_little_is_raised():
    calibration = trained({0.2: 0.6})
    assert calibration.probability(0.2) == pytest.approx(0.6, rel=0.15)
    assert calibration.probability(1.0) <= 1.0


def test_it_forgets():
    calibration = trained({0.4: 0.4}, n=1000)
    for _ in range(3000):
        calibration.observe(0.4, False)
    calibration.update()
    assert calibration.probability(0.4) < 0.02


@pytest.mark.parametrize("claimed", [1.0, 0.5, 1e-3, 1e-8, 1e-300, 0.0])
def test_every_claim_has_a_place(claimed):
    calibration = Calibration()
    calibration.observe(claimed, True)
    calibration.update()
    assert 0.0 <= calibration.probability(claimed) <= 1.0


def test_what_a_calibration_keeps_comes_back():
    calibration, again = trained({0.8: 0.5, 0.1: 0.2}), Calibration()
    again.load(json.loads(json.dumps(calibration.as_json())))
    for claimed in (0.9, 0.8, 0.3, 0.1, 0.001):
        assert again.probability(claimed) == calibration.probability(claimed)


FADED = [0.0] * N_BINS


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"claimed": FADED},
        {"claimed": FADED[1:], "accepted": FADED},
        {"claimed": FADED, "accepted": [*FADED, 0.0]},
        {"claimed": FADED, "accepted": [-1.0, *FADED[1:]]},
        {"claimed": [float("nan"), *FADED[1:]], "accepted": FADED},
        {"claimed": ["x", *FADED[1:]], "accepted": FADED},
        {"claimed": FADED, "accepted": 3},
    ],
    ids=lambda content: str(content)[:40],
)
def test_nonsense_is_no_calibration(content):
    calibration = trained({0.5: 0.5}, n=20)
    before = calibration.as_json()
    with pytest.raises((ValueError, TypeError, KeyError)):
        calibration.load(content)
    assert calibration.as_json() == before


# --- planner ---------------------------------------------------------------------------------------------------------


class World:
    """What a pass of n rows takes and how many tokens it brings, as a chain of candidates or as siblings of the root.

    In a chain, each candidate is right with the rate given that the one before it is. Siblings exclude each other."""

    n_nodes = 32

    def __init__(self, time_of, kind: str, rate: float, *, claim: float = 1.0, draft_us: float = 0.0) -> None:
        self.time_of, self.kind, self.draft_us = time_of, kind, draft_us
        exact = [rate**d if kind == "chain" else rate * (1 - rate) ** (d - 1) for d in range(1, self.n_nodes)]
        self.right = [1.0, *exact]
        self.claims = [1.0, *(p**claim for p in exact)]
        self.random = random.Random(f"{kind} {rate} {claim}")

    def best_fixed(self) -> tuple[float, int]:
        """Tokens per microsecond of the best number of rows, were all passes alike; one row needs no draft."""
        return max(
            (sum(self.right[:n]) / (self.time_of(n) + (self.draft_us if n > 1 else 0.0)), n)
            for n in range(1, self.n_nodes + 1)
        )

    def run(self, planner: Planner, n_passes: int) -> tuple[float, list[int]]:
        """Tokens per microsecond of a planner's choices, and these."""
        planner.cost.at_depth(100)
        if not planner.cost.measured:
            planner.cost.calibrate(self.time_of, planner.n_rows_max)
        tokens, time, chosen = 0, 0.0, []
        for _ in range(n_passes):
            draws = self.random.random()
            if planner.n_napping > 0:
                planner.n_napping -= 1
                n_rows, n_tokens, took, drafted = 1, 1, self.time_of(1), False
            else:
                claims = self.claims[: planner.widest]
                n_rows = planner.rows(claims)
                n_right = self._n_right(draws)
                n_tokens = 1 + (min(n_right, n_rows - 1) if self.kind == "chain" else 0 < n_right < n_rows)
                took, drafted = self.time_of(n_rows) + self.draft_us, True
                for node in range(1, len(claims)):
                    if self.kind == "chain" and node > n_rows:
                        break  # its parent was not decoded
                    right = node <= n_right if self.kind == "chain" else node == n_right
                    planner.calibration.observe(claims[node], right)
                planner.calibration.update()
            planner.observe(n_rows, n_tokens, self.time_of(n_rows), took, planned=drafted)
            tokens, time = tokens + n_tokens, time + took
            chosen.append(n_rows)
        return tokens / time, chosen

    def _n_right(self, draw: float) -> int:
        """Chain: how many candidates are right. Siblings: which one is, 0 for none."""
        if self.kind == "chain":
            return sum(draw < p for p in self.right[1:])
        return next((i for i, upto in enumerate(itertools.accumulate(self.right[1:]), 1) if draw < upto), 0)


RATES = (0.05, 0.3, 0.6, 0.85, 0.95)


@pytest.mark.parametrize("claim", [1.0, 0.5], ids=["true claims", "bold claims"])
@pytest.mark.parametrize("kind", ["chain", "siblings"])
@pytest.mark.parametrize("name", CURVES)
def test_within_five_per_cent_of_the_best_fixed_number_of_rows(name, kind, claim):
    for rate in RATES:
        world = World(CURVES[name], kind, rate, claim=claim, draft_us=20.0)
        speed, chosen = world.run(Planner(World.n_nodes), 3000)
        best, n_best = world.best_fixed()
        assert speed >= 0.95 * best, f"rate {rate}: {speed / best:.3f} of {n_best} rows; took {set(chosen)}"


def test_one_row_where_more_cost_too_much():
    for rate in RATES[:-1]:
        _, chosen = World(CURVES["proportional"], "chain", rate).run(Planner(32), 500)
        assert chosen[100:].count(1) >= 0.95 * len(chosen[100:])


def test_as_many_rows_as_there_are_where_they_cost_nothing():
    _, chosen = World(lambda n: 5000.0, "siblings", 0.05).run(Planner(32), 500)
    assert chosen[-1] == 32


def test_few_graphs():
    for name in CURVES:
        _, chosen = World(CURVES[name], "chain", 0.7).run(Planner(32), 800)
        assert set(chosen) <= set(SHAPES)


def test_never_more_rows_than_there_are_candidates():
    planner = Planner(32)
    planner.cost.at_depth(0)
    planner.cost.calibrate(CURVES["flat"], 32)
    for n in (1, 2, 5, 7, 31, 32):
        assert 1 <= planner.rows([1.0] + [0.9] * (n - 1)) <= n


@pytest.mark.parametrize("draft_us", [10.0, 100.0, 500.0, 2000.0])
@pytest.mark.parametrize("name", CURVES)
def test_who_is_always_wrong_costs_little(name, draft_us):
    """Under 3 % of plain decoding's time over a few thousand tokens, first measurements and all."""
    world = World(CURVES[name], "chain", 0.0, draft_us=draft_us)
    world.claims = [1.0, *(0.7**d for d in range(1, 32))]
    speed, _ = world.run(Planner(32), 4000)
    assert speed * CURVES[name](1) > 0.97


def test_naps_grow_and_end():
    world = World(CURVES["gentle"], "chain", 0.0, draft_us=800.0)
    world.claims = [1.0] + [0.5] * 31
    planner = Planner(32)
    world.run(planner, 3000)
    assert planner.n_napping > 0
    planner.begin()
    assert planner.n_napping <= 128  # another text: asked soon
    world.right = [0.9**d for d in range(32)]
    world.claims = world.right
    _, chosen = world.run(planner, 4000)
    assert max(chosen) > 2
    assert planner.n_napping == 0
    assert sum(n > 1 for n in chosen[-500:]) > 450


# --- inside an engine ------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.us = 0.0

    def perf_counter_ns(self) -> int:
        return round(self.us * 1000)


class TimedSession(FakeSession):
    """A session whose passes take what a curve says, on a clock of its own."""

    def __init__(self, clock: Clock, time_of, **settings) -> None:
        super().__init__(**settings)
        self.clock, self.time_of = clock, time_of
        self.n_masks = 0

    def decode(self, tree, n_top: int = 8):
        result = super().decode(tree, n_top)
        self.n_masks += tree.n_masks
        self.clock.us += self.time_of(tree.n_rows)
        return replace(result, decode_us=round(self.time_of(tree.n_rows)))


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
        assert rows[-50:] == [1] * 50


def test_planned_with_the_adversary_takes_no_longer_than_plain_decoding(clock):
    n = 1500
    expected = plain(GREEDY, n)
    session = TimedSession(clock, CURVES["flat"], n_ctx=4000)
    source = Slow(Adversary([*PROMPT, *expected]), clock, 400.0)
    assert generated(session, Planned(source), GREEDY, n) == expected
    assert clock.us < 1.03 * n * CURVES["flat"](1)
    assert source.n_asked < n / 8


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
    calibration = proposer.planner.calibration
    assert sum(calibration.counts) > 50
    assert all(a >= c for a, c in zip(calibration.accepted, calibration.claimed, strict=True))

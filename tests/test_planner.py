"""How many rows a planner takes, in simulated time: a formula gives the times, drafts are right at a known rate."""

import itertools
import random

import pytest
from maskprobe.planner import SHAPES, Draft, Planner
from maskprobe.proposers.planned import LOOK_EVERY

from fakes import CURVES

WRONG = 999  # a token that no candidate has


class World:
    """What a pass of n rows takes and how many tokens it brings, as a chain of candidates or as siblings of the root.

    In a chain, each candidate is right with the rate given that the one before it is. Siblings exclude each other."""

    n_nodes = 32

    def __init__(self, time_of, kind: str, rate: float, *, claim: float = 1.0, draft_us: float = 0.0) -> None:
        self.time_of, self.kind, self.draft_us = time_of, kind, draft_us
        self.set_rate(rate, claim)
        self.random = random.Random(f"{kind} {rate} {claim}")
        self.n_repeated = 0  # tokens that the text repeats
        self.n_unseen = 0  # passes of a nap before the next one that is looked at

    def set_rate(self, rate: float, claim: float = 1.0) -> None:
        depths = range(1, self.n_nodes)
        exact = [rate**d if self.kind == "chain" else rate * (1 - rate) ** (d - 1) for d in depths]
        self.right = [1.0, *exact]
        self.claim([p**claim for p in exact])

    def claim(self, probabilities: list[float]) -> None:
        """What the candidates claim, whatever they are worth."""
        self.claims = [1.0, *probabilities]
        parents = [-1, *(range(self.n_nodes - 1) if self.kind == "chain" else [0] * (self.n_nodes - 1))]
        self.draft = Draft(list(range(self.n_nodes)), parents, self.claims)  # node i has token i

    def best_fixed(self) -> tuple[float, int]:
        """Tokens per microsecond of the best number of rows, were all passes alike; one row needs no draft."""
        return max(
            (sum(self.right[:n]) / (self.time_of(n) + (self.draft_us if n > 1 else 0.0)), n)
            for n in range(1, self.n_nodes + 1)
        )

    def run(self, planner: Planner, n_passes: int) -> tuple[float, list[int]]:
        """Tokens per microsecond of a planner's choices, and these."""
        planner.at_depth(100)
        if not planner.costs():
            planner.calibrate(self.time_of, self.n_nodes)
        tokens, time, chosen = 0, 0.0, []
        for _ in range(n_passes):
            n_rows, n_tokens, took = self.step(planner)
            tokens, time = tokens + n_tokens, time + took
            chosen.append(n_rows)
        return tokens / time, chosen

    def step(self, planner: Planner) -> tuple[int, int, float]:
        """One pass: its rows, the tokens it brought, microseconds."""
        outlook, draw, one = planner.outlook, self.random.random(), self.time_of(1)
        if self.n_unseen > 0:
            self.n_unseen -= 1
            return 1, 1, one
        if outlook.napping:
            planner.rest(LOOK_EVERY, self.n_repeated)
        if outlook.plain:
            planner.observe(None, 1, 1, [0], [WRONG], one, one)
            return 1, 1, one
        if outlook.napping:
            self.n_unseen = LOOK_EVERY - 1
            planner.observe(None, 1, 1, [0], [WRONG], one, one)
            return 1, 1, one
        draft = self.draft.pointer
        n_rows = planner.rows(draft, 100)
        assert 1 <= n_rows <= draft.n_nodes
        core_us = self.time_of(n_rows)
        took = core_us + self.draft_us
        path, emitted = self.outcome(n_rows, draw)
        planner.observe(draft, n_rows, n_rows, path, emitted, core_us, took)
        return n_rows, len(path), took

    def outcome(self, n_rows: int, draw: float) -> tuple[list[int], list[int]]:
        """Path and emitted tokens of a pass."""
        if self.kind == "chain":
            n_right = sum(draw < p for p in self.right[1:])
            path = list(range(1 + min(n_right, n_rows - 1)))
            return path, [*path[1:], n_rows if n_right >= n_rows else WRONG]
        right = next((i for i, upto in enumerate(itertools.accumulate(self.right[1:]), 1) if draw < upto), WRONG)
        return ([0, right], [right, WRONG]) if right < n_rows else ([0], [right])


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
    planner.at_depth(0)
    planner.calibrate(CURVES["flat"], 32)
    for _ in range(40):  # trials of other numbers of rows among them
        for n in (1, 2, 5, 7, 31, 32):
            draft = Draft(list(range(n)), list(range(-1, n - 1)), [1.0] + [0.9] * (n - 1))
            assert 1 <= planner.rows(draft.pointer, 0) <= n


def test_never_more_rows_than_the_planner_may_take():
    planner = Planner(6)
    planner.calibrate(lambda n: 5000.0, 6)
    draft = Draft(list(range(32)), [-1] + [0] * 31, [1.0] + [0.03] * 31)
    assert {planner.rows(draft.pointer, 0) for _ in range(100)} == {6}


# --- drafts that do not pay ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draft_us", [10.0, 100.0, 500.0, 2000.0])
@pytest.mark.parametrize("name", CURVES)
def test_who_is_always_wrong_costs_little(name, draft_us):
    """Under 3 % of plain decoding's time over a few thousand tokens, first measurements and all."""
    world = World(CURVES[name], "chain", 0.0, draft_us=draft_us)
    world.claim([0.7**d for d in range(1, 32)])
    speed, _ = world.run(Planner(32), 4000)
    assert speed * CURVES[name](1) > 0.97


def napping(draft_us: float = 800.0) -> tuple[World, Planner]:
    """After drafts that never were right."""
    world, planner = World(CURVES["gentle"], "chain", 0.0, draft_us=draft_us), Planner(32)
    world.claim([0.5] * 31)
    _, chosen = world.run(planner, 3000)
    assert planner.outlook.napping
    assert sum(n > 1 for n in chosen[1000:]) < 60
    return world, planner


def test_naps_end_when_the_account_is_full():
    world, planner = napping()
    world.set_rate(0.9)
    _, chosen = world.run(planner, 4000)
    assert not planner.outlook.napping
    assert sum(n > 1 for n in chosen[-500:]) > 450


def test_a_text_that_repeats_itself_ends_a_nap():
    world, planner = napping()
    while planner.outlook.napping and world.n_unseen > 0:
        world.step(planner)
    planner.rest(1, 3)
    assert planner.outlook.napping
    planner.rest(1, 4)
    assert not planner.outlook.napping


def test_repetitions_in_vain_end_fewer_naps():
    """Of a text that goes on to repeat itself, the tokens at which a nap ends come to lie further and further apart."""
    world, planner = napping()
    ended_at = []
    for n_repeated in range(1, 1000):
        planner.rest(0, n_repeated)
        if not planner.outlook.napping:
            ended_at.append(n_repeated)
            while not planner.outlook.napping:
                world.step(planner)
    assert ended_at[0] == 4
    assert 3 <= len(ended_at) <= 8
    assert all(b >= 2 * a for a, b in itertools.pairwise(ended_at))
    planner.rest(1, 0)  # another part of the text
    planner.rest(1, 4)
    assert not planner.outlook.napping


def test_no_naps_where_a_draft_costs_next_to_nothing():
    world, planner = World(CURVES["gentle"], "chain", 0.0, draft_us=20.0), Planner(32)
    world.claim([0.5] * 31)
    world.run(planner, 3000)
    assert not planner.outlook.napping


@pytest.mark.parametrize("draft_us", [20.0, 400.0])
def test_who_was_always_wrong_gets_another_chance(draft_us):
    world = World(CURVES["gentle"], "chain", 0.0, draft_us=draft_us)
    world.claim([0.7**d for d in range(1, 32)])
    planner = Planner(32)
    world.run(planner, 1000)
    world.set_rate(0.9)
    world.run(planner, 4000)
    speed, _ = world.run(planner, 1000)
    best, _ = world.best_fixed()
    assert speed >= 0.9 * best


# --- times that were wrong at first ----------------------------------------------------------------------------------


def disturbed(time_of, random_: random.Random):
    """Passes that take up to four times as long."""
    return lambda n: time_of(n) * random_.uniform(1.0, 4.0)


@pytest.mark.parametrize("kind", ["chain", "siblings"])
@pytest.mark.parametrize("name", CURVES)
def test_times_that_something_disturbed_are_measured_again(name, kind):
    """The first measurements and the first 20 passes."""
    for seed in range(6):
        world = World(disturbed(CURVES[name], random.Random(seed)), kind, 0.7, draft_us=20.0)
        planner = Planner(World.n_nodes)
        world.run(planner, 20)
        world.time_of = CURVES[name]
        world.run(planner, 600)
        speed, chosen = world.run(planner, 2000)
        best, n_best = world.best_fixed()
        assert speed >= 0.95 * best, f"seed {seed}: {speed / best:.3f} of {n_best} rows; took {set(chosen)}"


@pytest.mark.parametrize("name", CURVES)
def test_a_disturbance_outside_the_core_is_forgotten(name):
    """The first steps with candidates take much longer than all later ones, as code runs that never ran before."""
    world, planner = World(CURVES[name], "chain", 0.7, draft_us=4000.0), Planner(World.n_nodes)
    world.run(planner, 4)
    world.draft_us = 20.0
    world.run(planner, 600)
    speed, chosen = world.run(planner, 2000)
    best, n_best = world.best_fixed()
    assert speed >= 0.95 * best, f"{speed / best:.3f} of {n_best} rows; took {set(chosen)}"


@pytest.mark.parametrize("change_us", [0.0, 40.0, 100.0])
def test_where_graphs_are_dear_the_number_of_rows_seldom_changes(change_us):
    """Drafts are good and bad in turns: beside the gain of the other number of rows, the graph decides."""
    random_, planner, last, n_passes = random.Random(2), Planner(8), 1, 3000
    changes = n_wide = 0
    planner.at_depth(100)
    planner.calibrate(lambda n: 200.0 + 60.0 * (n - 1), 8)
    for _ in range(n_passes):
        rate = random_.choice([0.05, 0.6])
        draft = Draft([0, 1, 2], [-1, 0, 0], [1.0, rate, rate / 4])
        n_rows = planner.rows(draft.pointer, 100)
        right = random_.random() < rate
        core_us = 200.0 + 60.0 * (n_rows - 1) + (change_us if n_rows != last else 0.0)
        path = [0, 1] if right and n_rows > 1 else [0]
        emitted = [1, WRONG][: len(path)] if right else [WRONG]
        planner.observe(draft.pointer, n_rows, n_rows, path, emitted, core_us, core_us + 1.0)
        changes, n_wide, last = changes + (n_rows != last), n_wide + (n_rows > 1), n_rows
    assert n_wide > n_passes / 4
    assert (changes > n_passes / 4) if change_us == 0.0 else (changes < n_passes / 10)

"""What passes cost, T(n), as a planner learns it from passes whose times a formula gives."""

import json
from collections import Counter

import pytest
from maskprobe.planner import Draft, Planner

from fakes import CURVES
from maskprobe import StateError
from maskprobe.errors import Error

ROOT = Draft([7], [-1], [1.0]).pointer


def add(planner: Planner, n_rows: int, microseconds: float) -> None:
    """One more pass of n rows, without a draft."""
    planner.observe(None, n_rows, 1, [0], [3], microseconds, microseconds)


def curve(times: dict[int, float], depth: int = 100) -> Planner:
    planner = Planner(32)
    planner.at_depth(depth)
    for n, microseconds in times.items():
        for _ in range(3):
            add(planner, n, microseconds)
    return planner


def times(planner: Planner, *rows: int) -> list[float]:
    return [planner.time(n) for n in rows]


def test_between_measured_rows_it_is_a_straight_line():
    cost = curve({1: 100.0, 4: 160.0, 16: 400.0})
    assert times(cost, 1, 4, 16) == [100.0, 160.0, 400.0]
    assert cost.time(2) == pytest.approx(120.0)
    assert cost.time(10) == pytest.approx(280.0)
    assert cost.time(32) == pytest.approx(720.0)  # the last two go on


def test_no_estimate_is_below_one_row():
    cost = curve({1: 100.0, 8: 300.0, 16: 110.0})
    assert all(time >= 100.0 for time in times(cost, *range(1, 65)))


def test_nothing_is_measured_at_first():
    planner = Planner(32)
    planner.at_depth(5)
    assert planner.costs() == []
    for call in (
        lambda: planner.time(1),
        lambda: planner.change,
        lambda: planner.rows(ROOT, 5),
        lambda: planner.rest(1, 0),
    ):
        with pytest.raises(StateError, match="measured first"):
            call()
    add(planner, 1, 50.0)
    assert planner.time(4) > planner.time(1) == 50.0
    assert planner.costs() == [(9, 1, 50.0)]


@pytest.mark.parametrize("n_rows", [0, -1, 257, 1 << 30])
def test_rows_out_of_range(n_rows):
    with pytest.raises(Error, match=str(n_rows)):
        Planner(n_rows)
    planner = curve({1: 100.0})
    with pytest.raises(Error, match=str(n_rows)):
        planner.time(n_rows)
    with pytest.raises(Error, match=str(n_rows)):
        add(planner, n_rows, 100.0)


@pytest.mark.parametrize("microseconds", [0.0, -1.0, float("nan"), float("inf")])
def test_times_that_make_no_sense(microseconds):
    planner = curve({1: 100.0})
    with pytest.raises(Error, match="microseconds"):
        add(planner, 1, microseconds)
    with pytest.raises(Error, match="microseconds"):
        planner.calibrate(lambda _: microseconds, 32)
    assert planner.costs() == [(9, 1, 100.0)] * 3


def test_depths_are_apart_and_a_new_one_starts_with_the_nearest():
    cost = curve({1: 100.0, 4: 200.0}, depth=100)
    cost.at_depth(511)  # still the same
    assert cost.time(4) == 200.0
    cost.at_depth(3000)
    assert times(cost, 1, 4) == [100.0, 200.0]
    for _ in range(20):
        add(cost, 4, 900.0)
    assert cost.time(4) == 900.0
    cost.at_depth(20)
    assert cost.time(4) == 200.0
    cost.at_depth(9000)
    assert cost.time(4) == 900.0
    assert cost.rows(ROOT, 20) == 1  # sets the depth too
    assert cost.time(4) == 200.0


def test_the_first_samples_of_a_new_depth_scale_what_it_borrowed():
    cost = curve({1: 100.0, 4: 200.0, 8: 400.0}, depth=100)
    cost.at_depth(3000)
    add(cost, 4, 400.0)
    assert times(cost, 1, 4, 8) == [200.0, 400.0, 800.0]
    add(cost, 1, 150.0)
    assert times(cost, 1, 4, 8) == [150.0, 400.0, 600.0]
    cost.at_depth(100)
    assert times(cost, 1, 4, 8) == [100.0, 200.0, 400.0]


def test_a_depth_that_was_entered_but_not_measured_is_no_trap():
    """A first measurement that was cancelled leaves nothing behind."""
    cost = Planner(32)
    cost.at_depth(10)
    cost.at_depth(5000)
    add(cost, 1, 70.0)
    cost.at_depth(10)
    assert cost.time(1) == 70.0


def test_another_shape_costs_extra():
    cost = curve({1: 100.0, 4: 150.0})
    for _ in range(40):
        for n, steady in ((1, 100.0), (4, 150.0)):
            add(cost, n, steady + 30.0)  # a change
            add(cost, n, steady)
    assert cost.change == pytest.approx(30.0)
    assert times(cost, 1, 4) == [100.0, 150.0]


def test_single_outliers_do_not_count():
    cost = curve({1: 100.0})
    for i in range(40):
        add(cost, 1, 5000.0 if i % 5 == 0 else 100.0)
        assert cost.time(1) == 100.0


def test_it_follows_a_machine_that_slows_down():
    cost = curve({1: 100.0})
    for _ in range(24):
        add(cost, 1, 180.0)
    assert cost.time(1) == 180.0


# --- first measurements ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CURVES)
def test_first_measurements_are_few_and_not_of_hopeless_rows(name):
    asked = []

    def pass_of(n: int) -> float:
        asked.append(n)
        return CURVES[name](n) + (500.0 if n not in asked[:-1] else 0.0)  # the first one makes the graph

    cost = Planner(32)
    cost.at_depth(0)
    cost.calibrate(pass_of, 32)
    assert len(asked) <= 8
    assert (16 in asked) == (name != "proportional")
    for n in set(asked):
        assert cost.time(n) == pytest.approx(CURVES[name](n))
    asked.clear()
    narrow = Planner(32)
    narrow.at_depth(0)
    narrow.calibrate(pass_of, 3)
    assert set(asked) <= {1, 2, 3}


def test_where_passes_are_short_more_is_measured_at_first_and_repeatedly():
    planner, asked, spent = Planner(32), Counter(), []

    def pass_of(n: int) -> float:
        asked[n] += 1
        spent.append(CURVES["gentle"](n) / 40)
        return spent[-1]

    planner.at_depth(0)
    planner.calibrate(pass_of, 32)
    assert set(asked) == {1, 2, 3, 4, 6, 8, 12, 16}
    assert set(asked.values()) == {6}  # each sample is the second of two passes
    assert sum(spent) < 15000


def test_first_measurements_end_after_a_few_samples():
    planner, asked = Planner(32), []
    planner.at_depth(0)
    for _ in range(5):
        planner.calibrate(lambda n: asked.append(n) or CURVES["flat"](n), 32)
    assert len(asked) == 2 * 3 * 4
    planner.at_depth(5000)  # another depth has a sample that was taken over
    planner.calibrate(lambda n: asked.append(n) or CURVES["flat"](n), 32)
    assert len(asked) == 2 * 3 * 4 + 2 * 4


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_what_costs_keeps_comes_back():
    cost = curve({1: 100.0, 4: 160.0, 16: 400.0})
    cost.at_depth(5000)
    for n_rows, microseconds in {1: 150.0, 4: 300.0, 16: 700.0}.items():
        add(cost, n_rows, microseconds)
    cost.at_depth(100_000)
    add(cost, 4, 900.0)  # of one row nothing is known there: such a depth is not kept
    again = Planner(32)
    again.load_costs(json.loads(json.dumps(cost.costs())))
    for depth in (0, 400, 5000):
        cost.at_depth(depth)
        again.at_depth(depth)
        assert times(again, *range(1, 40)) == times(cost, *range(1, 40))
    assert again.costs() == cost.costs()


def test_the_newest_samples_are_kept():
    cost = curve({1: 100.0})
    for microseconds in (110.0, 120.0, 130.0, 140.0):
        add(cost, 1, microseconds)
    assert cost.costs() == [(9, 1, 120.0), (9, 1, 130.0), (9, 1, 140.0)]


ONE = [9, 1, 5.0]


@pytest.mark.parametrize(
    "content",
    [
        None,
        7,
        "abc",
        {"9": {"1": [5.0]}},
        [9, 1, 5.0],
        [[]],
        [[9, 1]],
        [[9, 1, 5.0, 5.0]],
        [[9, 1, -3.0]],
        [ONE, [9, 1, 0.0]],
        [[9, 1, float("nan")]],
        [[9, 1, float("inf")]],
        [[9, 1, 1e9]],
        [[9, 1, "x"]],
        [[9, 1, None]],
        [["nine", 1, 5.0]],
        [[9.5, 1, 5.0]],
        [ONE, [9, 0, 5.0]],
        [ONE, [9, -1, 5.0]],
        [ONE, [9, 1 << 20, 5.0]],
        [[9, 4, 5.0]],
        [ONE, [10, 4, 5.0]],
        [[8, 1, 5.0]],
        [[-1, 1, 5.0]],
        [[63, 1, 5.0]],
        [[1 << 40, 1, 5.0]],
        [[9, 1, 10**400]],
    ],
    ids=lambda content: str(content)[:40],
)
def test_nonsense_is_refused_and_changes_nothing(content):
    cost = curve({1: 100.0})
    with pytest.raises((ValueError, TypeError, OverflowError, Error)):
        cost.load_costs(content)
    assert cost.costs() == [(9, 1, 100.0)] * 3
    assert cost.time(1) == 100.0

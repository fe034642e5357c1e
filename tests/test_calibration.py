"""What claimed probabilities turn out to be worth, as a planner learns it from the outcomes of drafts."""

import json
import random

import pytest
from maskprobe.planner import Draft, Planner

from maskprobe import ArgumentError
from maskprobe.errors import Error

RIGHT, WRONG = 1, 99


def observe(planner: Planner, claimed: float, right: bool) -> None:
    """The only candidate behind the root claims this and is emitted, or not."""
    draft = Draft([5, RIGHT], [-1, 0], [1.0, claimed])
    planner.observe(draft.pointer, 1, 1, [0], [RIGHT if right else WRONG], 100.0, 101.0)


def trained(claims_and_rates: dict[float, float], n: int = 600) -> Planner:
    planner, random_ = Planner(32), random.Random(3)
    for _ in range(n):
        for claimed, rate in claims_and_rates.items():
            observe(planner, claimed, random_.random() < rate)
    return planner


def test_who_was_never_seen_is_trusted_by_half():
    assert Planner(32).probability(0.6) == pytest.approx(0.3)


def test_who_is_always_wrong_is_believed_no_more():
    planner = trained({0.9: 0.0, 0.3: 0.0, 0.02: 0.0})
    assert planner.probability(0.9) < 0.01
    assert planner.probability(0.3) < 0.01
    assert planner.probability(0.02) < 0.01
    assert planner.probability(0.1) < 0.01  # never claimed: judged by the others


def test_who_is_right_stays_as_he_is():
    rates = {0.9: 0.9, 0.4: 0.4, 0.1: 0.1}
    planner = trained(rates)
    for rate in rates:
        assert planner.probability(rate) == pytest.approx(rate, rel=0.15)


def test_who_claims_too_little_is_raised():
    planner = trained({0.2: 0.6})
    assert planner.probability(0.2) == pytest.approx(0.6, rel=0.15)
    assert planner.probability(1.0) <= 1.0


def test_it_forgets():
    planner = trained({0.4: 0.4}, n=1000)
    for _ in range(3000):
        observe(planner, 0.4, False)
    assert planner.probability(0.4) < 0.02


@pytest.mark.parametrize("claimed", [1.0, 0.5, 1e-3, 1e-8, 1e-40, 0.0])
def test_every_claim_has_a_place(claimed):
    planner = Planner(32)
    observe(planner, claimed, True)
    assert 0.0 <= planner.probability(claimed) <= 1.0
    assert sum(planner.learned()["accepted"]) == 1.0


@pytest.mark.parametrize("claimed", [-0.1, 1.1, float("nan"), float("inf")])
def test_what_is_no_probability(claimed):
    planner = Planner(32)
    with pytest.raises(ArgumentError, match="probability"):
        planner.probability(claimed)
    with pytest.raises(ArgumentError, match="probability"):
        observe(planner, claimed, True)
    assert planner.learned() == Planner(32).learned() and planner.costs() == []


def test_only_candidates_whose_parent_was_decoded_count():
    """0 - 1 - 2 - 3 and 0 - 4, of which 0 and 1 were decoded."""
    planner = Planner(32)
    draft = Draft([5, 6, 7, 8, 9], [-1, 0, 1, 2, 0], [1.0, 0.9, 0.4, 0.2, 0.1])
    planner.observe(draft.pointer, 2, 2, [0, 1], [6, 7], 100.0, 101.0)
    known = planner.learned()
    assert known["claimed"][:4] == pytest.approx([0.9, 0.4, 0.0, 0.1])
    assert known["accepted"][:4] == [1.0, 1.0, 0.0, 0.0]


def test_what_learned_keeps_comes_back():
    planner, again = trained({0.8: 0.5, 0.1: 0.2}), Planner(32)
    again.load_learned(json.loads(json.dumps(planner.learned())))
    for claimed in (0.9, 0.8, 0.3, 0.1, 0.001):
        assert again.probability(claimed) == planner.probability(claimed)
    assert again.learned() == planner.learned()


FADED = Planner(32).learned()["claimed"]


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
        {"claimed": [float("inf"), *FADED[1:]], "accepted": FADED},
        {"claimed": [1e6, *FADED[1:]], "accepted": FADED},
        {"claimed": [10**400, *FADED[1:]], "accepted": FADED},
        {"claimed": ["x", *FADED[1:]], "accepted": FADED},
        {"claimed": "x" * len(FADED), "accepted": FADED},
        {"claimed": FADED, "accepted": 3},
    ],
    ids=lambda content: str(content)[:40],
)
def test_nonsense_is_no_calibration(content):
    planner = trained({0.5: 0.5}, n=20)
    before = planner.learned()
    with pytest.raises((ValueError, TypeError, KeyError, OverflowError, Error)):
        planner.load_learned(content)
    assert planner.learned() == before

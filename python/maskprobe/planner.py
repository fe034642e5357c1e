"""How many rows the next pass should have: as many as bring more tokens than the time they take is worth."""

import math
from collections.abc import Sequence
from typing import Any

from .cost import SHAPES, CostCurve

N_BINS = 16  # of claimed probabilities, one for each power of two
FORGETTING = 0.998  # per outcome: what was seen 500 outcomes ago counts for a third
FIRST_TRUST = 0.5  # a source that was never seen is taken to claim twice too much
TRUST_WEIGHT = 2.0  # accepted candidates that this counts for
RATE_FORGETTING = 0.97  # per pass
CHANGE_SHARE = 0.25  # of the cost of another number of rows: it is paid once and the passes after it go on from there
TRIAL = 12  # planned passes after which their tokens per second are held against plain decoding's
SHORT_TRIAL = 4  # the same where all of them had one row
NEGLIGIBLE = 0.01  # of a plain pass: a draft that costs no more is made every time
OUTSIDE_RATE = 0.1
PLAIN_SHARE = 0.4  # of the time outside the core, what is left without a draft: until that is measured
FIRST_NAP, LONGEST_NAP = 32, 1024  # passes


class Calibration:
    """What claimed probabilities turn out to be worth, in bins; also the figures of a reliability diagram."""

    def __init__(self) -> None:
        self.claimed = [0.0] * N_BINS  # sums of claimed probabilities, fading
        self.accepted = [0.0] * N_BINS  # how many of these were accepted, fading
        self.counts = [0] * N_BINS  # all there ever were
        self._factors = [FIRST_TRUST] * N_BINS

    def probability(self, claimed: float) -> float:
        """The calibrated probability of a node that is claimed to be accepted with this one."""
        return min(1.0, claimed * self._factors[_bin_of(claimed)])

    def observe(self, claimed: float, accepted: bool) -> None:
        bin_ = _bin_of(claimed)
        self.claimed[bin_] = self.claimed[bin_] * FORGETTING + claimed
        self.accepted[bin_] = self.accepted[bin_] * FORGETTING + accepted
        self.counts[bin_] += 1

    def update(self) -> None:
        """Makes the outcomes observed so far count."""
        trust = (sum(self.accepted) + TRUST_WEIGHT * FIRST_TRUST) / (sum(self.claimed) + TRUST_WEIGHT)
        self._factors = [
            (accepted + TRUST_WEIGHT * trust) / (claimed + TRUST_WEIGHT)
            for claimed, accepted in zip(self.claimed, self.accepted, strict=True)
        ]

    def as_json(self) -> dict[str, list[float]]:
        return {"claimed": self.claimed, "accepted": self.accepted}

    def load(self, content: Any) -> None:
        """Takes over what as_json() gave. Raises ValueError, TypeError or KeyError for anything else."""
        claimed, accepted = ([float(x) for x in content[name]] for name in ("claimed", "accepted"))
        if len(claimed) != N_BINS or len(accepted) != N_BINS or not all(0 <= x < 1e6 for x in claimed + accepted):
            raise ValueError("a calibration of another version")
        self.claimed, self.accepted = claimed, accepted
        self.update()


def _bin_of(probability: float) -> int:
    return min(max(-math.frexp(probability)[1], 0), N_BINS - 1)


class Planner:
    """Chooses the rows of each pass.

    With r the tokens per microsecond of the last passes, a pass of n rows brings E(n) - r T(n) more tokens than the
    same time spent as before; the n where this is largest makes the long run fastest. E(n) is 1 and the calibrated
    probabilities of the n - 1 most probable candidates. n = 1 is always among the choices.

    Where planned passes turn out slower than plain ones, all their costs included, the proposer is left alone for a
    while, longer each time: a nap. On models so large that the cost of a draft is lost in a pass, there are none.
    """

    def __init__(self, n_rows_max: int) -> None:
        self.n_rows_max = n_rows_max
        self.cost = CostCurve()
        self.calibration = Calibration()
        self._tokens = self._time = 0.0  # of the last passes, fading
        self._trial = [0, 0, 0.0, 0]  # passes, tokens, microseconds and rows of the planned passes on trial
        self._planned_us = self._plain_us = 0.0  # of a step outside the core, with a draft and without one
        self._nap = FIRST_NAP
        self.n_napping = 0  # passes still to come before the proposer is asked again
        self.widest = min(4, n_rows_max)  # candidates worth growing for the next plan

    def begin(self) -> None:
        """A new generation: another text may be worth other rows, so the proposer is asked soon."""
        self.n_napping = min(self.n_napping, LONGEST_NAP // 8)

    def rows(self, probabilities: Sequence[float]) -> int:
        """The rows for a tree whose nodes claim these probabilities of being accepted: not increasing, root first."""
        n_nodes = len(probabilities)
        rate = self._tokens / self._time if self._time > 0.0 else 1.0 / self.cost.time(1)
        time, change, last_n = self.cost.time, CHANGE_SHARE * self.cost.change, self.cost.last_n
        probability = self.calibration.probability
        best, best_gain, expected, n = 1, -math.inf, 1.0, 1
        for shape in SHAPES:
            if shape > n_nodes:
                shape = n_nodes
            while n < shape:
                expected += probability(probabilities[n])
                n += 1
            gain = expected - rate * (time(shape) + (change if shape != last_n else 0.0))
            if gain > best_gain:
                best, best_gain = shape, gain
            if shape == n_nodes:
                break
        self.widest = min(max(4, 2 * best), self.n_rows_max)
        return best

    def observe(self, n_rows: int, n_tokens: int, core_us: float, total_us: float, *, planned: bool) -> None:
        """A pass of `n_rows` gave `n_tokens`. It took `core_us` in the core and `total_us` with all that Python did; if
        it was `planned`, that includes a draft."""
        self._tokens = self._tokens * RATE_FORGETTING + n_tokens
        self._time = self._time * RATE_FORGETTING + total_us
        self.cost.add(n_rows, core_us)
        if planned:
            self._planned_us += OUTSIDE_RATE * (total_us - core_us - self._planned_us)
            self._judge(n_rows, n_tokens, total_us)
        else:
            self._plain_us += OUTSIDE_RATE * (total_us - core_us - self._plain_us)

    def _judge(self, n_rows: int, n_tokens: int, total_us: float) -> None:
        """Holds planned passes against plain ones, where drafting costs so much that leaving it out may be better."""
        plain_us = self.cost.time(1) + (self._plain_us or PLAIN_SHARE * self._planned_us)
        if self._planned_us < NEGLIGIBLE * plain_us:
            return
        trial = self._trial
        trial[0] += 1
        trial[1] += n_tokens
        trial[2] += total_us
        trial[3] += n_rows
        if trial[0] < (SHORT_TRIAL if trial[3] == trial[0] else TRIAL):
            return
        if trial[1] * plain_us >= trial[2]:
            self._nap = FIRST_NAP
        else:
            self.n_napping = self._nap
            self._nap = min(2 * self._nap, LONGEST_NAP)
        self._trial = [0, 0, 0.0, 0]

"""What a pass of n rows costs here, T(n): measured once, then kept up to date by the passes themselves."""

import statistics
from collections import deque
from collections.abc import Callable
from typing import Any

SHAPES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # rows per pass: few, so that llama.cpp's graphs are used again
FIRST_ROWS = (1, 4, 8, 16)  # measured on first use
HOPELESS = 0.8  # of 4 * T(1): where T(4) costs more than that, wider passes are not even tried at first
N_SAMPLES = 9
N_KEPT = 3  # samples between runs, and until which calibrate() goes on
REFRESH = 8  # passes between two looks at the samples
SHALLOWEST = 9  # bits: contexts of up to 512 tokens count as one depth


class CostCurve:
    """T(n) in microseconds, at every depth of the context seen so far (by powers of two).

    Lower thirds of the last samples, as what disturbs a machine only adds; between measured n a straight line, beyond
    the last the line of the last two. A pass of another number of rows than the one before it needs a new graph:
    `change` is what that adds.
    """

    def __init__(self) -> None:
        self._samples: dict[int, dict[int, deque[float]]] = {}  # depth class -> n -> microseconds
        self._depth = SHALLOWEST
        self._times: dict[int, float] = {}  # of this depth, for every n asked for; up to REFRESH passes old
        self._n_added = 0
        self._changes: deque[float] = deque([0.0], N_SAMPLES)  # microseconds that a change of n added
        self.change = 0.0
        self.last_n = 0  # rows of the last pass

    @property
    def measured(self) -> bool:
        return any(1 in samples for samples in self._samples.values())

    def at_depth(self, n_past: int) -> None:
        """Sets the number of tokens in the cache. A depth never seen starts with what the one before it had."""
        depth = max(n_past.bit_length(), SHALLOWEST)
        known_here = bool(self._samples.get(depth))
        if depth == self._depth and known_here:
            return
        if not known_here:
            nearest = min((d for d in self._samples if self._samples[d]), key=lambda d: abs(d - depth), default=None)
            known = {} if nearest is None else self._samples[nearest]
            self._samples[depth] = {n: deque([_typical(us)], N_SAMPLES) for n, us in known.items()}
        self._depth = depth
        self._times = {}

    def add(self, n_rows: int, microseconds: float) -> None:
        """One more sample."""
        samples = self._samples.setdefault(self._depth, {})
        changed, self.last_n = n_rows != self.last_n, n_rows
        known = samples.get(n_rows)
        if changed and samples:  # but for the very first: it says little about passes that go on as before
            if known is not None:
                self._changes.append(max(microseconds - self.time(n_rows), 0.0))
            return
        if known is None:
            known = samples[n_rows] = deque(maxlen=N_SAMPLES)
            self._times.clear()
        known.append(microseconds)
        self._n_added += 1
        if self._n_added % REFRESH == 0:
            self._times.clear()
            self.change = statistics.median(self._changes)

    def time(self, n_rows: int) -> float:
        """T(n_rows) in microseconds. Something must have been measured."""
        time = self._times.get(n_rows)
        if time is None:
            self._times[n_rows] = time = self._estimate(n_rows)
        return time

    def _estimate(self, n_rows: int) -> float:
        samples = self._samples[self._depth]
        if n_rows in samples:
            return _typical(samples[n_rows])
        known = sorted((n, _typical(us)) for n, us in samples.items())
        if len(known) == 1:
            return known[0][1] * (1 + 0.25 * (n_rows - known[0][0]))
        above = next((i for i, (n, _) in enumerate(known) if n > n_rows), len(known) - 1)
        (n0, t0), (n1, t1) = known[max(above, 1) - 1], known[max(above, 1)]
        return max(t0 + (t1 - t0) * (n_rows - n0) / (n1 - n0), known[0][1])

    def calibrate(self, pass_of: Callable[[int], float], n_max: int) -> None:
        """A quick measurement, as long as there are few samples: `pass_of(n)` runs a pass of n rows and returns its
        microseconds."""
        samples = self._samples.setdefault(self._depth, {})
        for n in FIRST_ROWS:
            if n > n_max or (n > FIRST_ROWS[1] and self.time(FIRST_ROWS[1]) > HOPELESS * FIRST_ROWS[1] * self.time(1)):
                break
            if len(samples.get(n, ())) < N_KEPT:
                pass_of(n)  # makes the graph
                self.last_n = n
                self.add(n, pass_of(n))
                self._times.clear()

    def as_json(self) -> dict[str, dict[str, list[float]]]:
        return {
            str(depth): {str(n): list(us)[-N_KEPT:] for n, us in samples.items()}
            for depth, samples in self._samples.items()
            if samples
        }

    def load(self, content: Any) -> None:
        """Takes over what as_json() gave. Raises ValueError, TypeError or AttributeError for anything else."""
        loaded = {
            int(depth): {int(n): deque([float(x) for x in us], N_SAMPLES) for n, us in samples.items()}
            for depth, samples in content.items()
        }
        every = [(n, us) for samples in loaded.values() for n, us in samples.items()]
        if not all(n >= 1 and us and all(0 < x < 1e9 for x in us) for n, us in every):
            raise ValueError("times of passes must be positive")
        if any(1 not in samples for samples in loaded.values()):
            raise ValueError("the time of a pass of one row is missing")
        self._samples, self._times = loaded, {}


def _typical(samples: deque[float]) -> float:
    return sorted(samples)[len(samples) // 3]

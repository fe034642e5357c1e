"""How many rows the next pass should have: the core's planner (csrc/plan/planner.h), which learns what passes cost and
what claimed probabilities turn out to be worth."""

from collections.abc import Callable, Sequence
from typing import Any

from ._capi import NULL, Handle, check, ffi, lib


def _shapes() -> tuple[int, ...]:
    n = ffi.new("int32_t *")
    shapes = lib.mp_planner_shapes(n)
    return tuple(ffi.unpack(shapes, n[0]))


SHAPES = _shapes()  # the numbers of rows that a planner chooses from


class Draft:
    """An mp_draft of the caller's own: tokens, parents and claimed probabilities of the nodes of a tree, these not
    increasing, the root first."""

    def __init__(self, tokens: Sequence[int], parents: Sequence[int], probabilities: Sequence[float]) -> None:
        self._arrays = (
            ffi.new("int32_t[]", tokens),
            ffi.new("int32_t[]", parents),
            ffi.new("float[]", probabilities),
        )
        self.pointer: Any = ffi.new("mp_draft *")
        self.pointer.n_nodes = len(tokens)
        self.pointer.tokens, self.pointer.parents, self.pointer.probabilities = self._arrays


class Planner:
    """Chooses the rows of each pass. A draft is a pointer to mp_draft: a drafter's, or that of a Draft.

    `outlook` says what the next draft should be like: outlook.napping, that there should be none; see mp_outlook.

    Raises ArgumentError for a number of rows out of range; StateError where a pass of one row was not measured yet.
    """

    def __init__(self, n_rows_max: int) -> None:
        out = ffi.new("mp_planner **")
        check(lib.mp_planner_open(n_rows_max, out))
        self._handle = Handle(out[0], lib.mp_planner_free, "planner")  # never closed: freed with this object
        self.pointer: Any = out[0]
        self.outlook: Any = lib.mp_planner_outlook(self.pointer)  # lives as long as the handle
        self._n_rows: Any = ffi.new("int32_t *")
        self._number: Any = ffi.new("double *")
        self._result: Any = ffi.new("mp_plan_result *")
        self._path: Any = ffi.new("int32_t[]", lib.MP_N_ROWS_LIMIT)
        self._emitted: Any = ffi.new("int32_t[]", lib.MP_N_ROWS_LIMIT)
        self._result.path, self._result.emitted = self._path, self._emitted

    def at_depth(self, n_past: int) -> None:
        """Sets the number of tokens in the cache."""
        check(lib.mp_planner_at_depth(self.pointer, n_past))

    def rows(self, draft: Any, n_past: int) -> int:
        """The rows for a pass over the first nodes of the draft, with `n_past` tokens in the cache."""
        check(lib.mp_planner_rows(self.pointer, n_past, draft, self._n_rows))
        return self._n_rows[0]

    def observe(
        self,
        draft: Any,
        n_rows: int,
        n_nodes: int,
        path: Sequence[int],
        emitted: Sequence[int],
        core_us: float,
        total_us: float,
    ) -> None:
        """A pass of `n_rows`, the first `n_nodes` of the draft among them, took `core_us` in the core and `total_us`
        with all that Python did. `draft` is None for a pass that was made without one."""
        result, n = self._result, len(path)
        result.n_rows, result.n_nodes, result.n_path = n_rows, n_nodes, n
        result.core_us, result.total_us = core_us, total_us
        self._path[0:n], self._emitted[0:n] = path, emitted
        check(lib.mp_planner_observe(self.pointer, NULL if draft is None else draft, result))

    def rest(self, n_passes: int, n_repeated: int) -> None:
        """In a nap, `n_passes` were made without a draft; the last `n_repeated` tokens repeat what was there before."""
        check(lib.mp_planner_rest(self.pointer, n_passes, n_repeated))

    def calibrate(self, pass_of: Callable[[int], float], n_max: int) -> None:
        """A quick measurement, as long as there are few samples: `pass_of(n)` runs a pass of n rows and returns its
        microseconds."""
        n = 0
        while True:
            check(lib.mp_planner_next_to_measure(self.pointer, n, n_max, self._n_rows))
            if not (n := self._n_rows[0]):
                return
            pass_of(n)  # makes the graph
            check(lib.mp_planner_measured(self.pointer, n, pass_of(n)))

    def time(self, n_rows: int) -> float:
        """T(n_rows) in microseconds, at this depth."""
        check(lib.mp_planner_time(self.pointer, n_rows, self._number))
        return self._number[0]

    @property
    def change(self) -> float:
        """Microseconds that another number of rows than in the pass before adds."""
        check(lib.mp_planner_change(self.pointer, self._number))
        return self._number[0]

    def probability(self, claimed: float) -> float:
        """The calibrated probability of a node that is claimed to be accepted with this one."""
        check(lib.mp_planner_probability(self.pointer, claimed, self._number))
        return self._number[0]

    def costs(self) -> list[tuple[int, int, float]]:
        """The samples of passes, for load_costs(): class of depth, rows, microseconds."""
        n = ffi.new("size_t *")
        check(lib.mp_planner_costs(self.pointer, NULL, 0, n))
        costs = ffi.new("mp_cost[]", n[0])
        check(lib.mp_planner_costs(self.pointer, costs, n[0], n))
        return [(cost.depth, cost.n_rows, cost.us) for cost in costs]

    def load_costs(self, costs: Any) -> None:
        """Takes over what costs() gave. Raises ModelError, ValueError, TypeError or OverflowError for anything else."""
        samples = ffi.new("mp_cost[]", [tuple(cost) for cost in costs])
        check(lib.mp_planner_load_costs(self.pointer, samples, len(samples)))

    def learned(self) -> dict[str, Any]:
        """What it knows of the model and the source of candidates, for load_learned()."""
        learned = ffi.new("mp_learned *")
        check(lib.mp_planner_learned(self.pointer, learned))
        return {"claimed": list(learned.claimed), "accepted": list(learned.accepted)}

    def load_learned(self, content: Any) -> None:
        """Takes over what learned() gave. Raises ModelError, ValueError, TypeError, KeyError or OverflowError for
        anything else."""
        learned = ffi.new("mp_learned *")
        for name in ("claimed", "accepted"):
            if len(content[name]) != lib.MP_N_CLAIM_BINS:
                raise ValueError("a calibration of another version")
            setattr(learned, name, content[name])
        check(lib.mp_planner_load_learned(self.pointer, learned))

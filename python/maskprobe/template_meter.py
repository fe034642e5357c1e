"""What rendering a chat template may take. A template is a program in a file from anywhere: it gets a budget of work.
That is counted the same way on every machine, and the template ends where it is used up.

Work is counted in bytes that are made or looked at; each step costs some beside, so that loops without text end too.
What an operation may make is charged before it is made."""

import sys
import time
from collections.abc import ItemsView, KeysView, ValuesView
from typing import Any

WORK_LIMIT = 64 << 20  # bytes; about as much memory, and a second of steps
WORK_PER_INPUT_BYTE = 64  # further work for each byte of the messages, tools and variables
STEP = 64  # one iteration or operator
LOOK_UP = 160  # one attribute or item
FILTER = 160  # one filter or test
CALL = 768  # one call of a macro or a function
NODE = 16  # one part of a statement in the body of a loop or a macro, each time the body is run
WALK = 8  # one item of a container whose size is taken
CPU_SECONDS = 2.0  # of the thread: for what the count above has too low
CHARGES_PER_CLOCK = 256  # the clock is read once in so many charges
NESTING_LIMIT = 100  # lists and mappings in one another
CALL_DEPTH_LIMIT = 50  # macros and recursive loops in one another

TEXT_PER_BYTE = 4  # repr() of a text or number is at most so many times its size in memory
RANGE_ITEM = 36  # bytes of a number, and of its place in a list

CONTAINERS = (list, tuple, dict, set, frozenset, KeysView, ValuesView, ItemsView)


class Exceeded(Exception):
    """The budget is used up, or something nests too deep."""


class Meter:
    """The budget of one rendering."""

    def __init__(self) -> None:
        self.limit = self.left = WORK_LIMIT
        self.call_depth = 0
        self._n_charges = 0
        self._end = time.thread_time() + CPU_SECONDS
        self._known: dict[int, tuple[Any, int, int]] = {}  # id -> the container, which it keeps alive, bytes, height

    def allow(self, value: Any) -> None:
        """Adds what a value that the caller gave is worth."""
        left, self.left = self.left, sys.maxsize  # walking through it is free
        work = WORK_PER_INPUT_BYTE * self.size(value)
        self.limit += work
        self.left = left + work

    def charge(self, work: int) -> None:
        self.left -= work
        self._n_charges += 1
        if self.left < 0:
            raise Exceeded(f"runs too long or makes too much text (more than {self.limit >> 20} MiB of work)")
        if not self._n_charges % CHARGES_PER_CLOCK and time.thread_time() > self._end:
            raise Exceeded(f"runs too long (more than {CPU_SECONDS:g} s)")

    def size(self, value: Any) -> int:
        """Bytes of a value with all that it holds, as often as it is held. Raises Exceeded where it nests too deep."""
        if isinstance(value, CONTAINERS):
            return self._measure(value, NESTING_LIMIT)[0]
        if isinstance(value, range):
            return RANGE_ITEM * len(value)
        return sys.getsizeof(value, STEP)

    def _measure(self, value: Any, room: int) -> tuple[int, int]:
        """Bytes, and how many containers are in one another. Each container is walked through once."""
        known = self._known.get(id(value))
        if known is None:
            if room == 0:
                raise Exceeded(f"has lists in one another more than {NESTING_LIMIT} deep")
            self.charge(STEP + WALK * len(value))
            total, height = sys.getsizeof(value, STEP), 1
            parts = (value, value.values()) if isinstance(value, dict) else (value,)
            for part in parts:
                for item in part:
                    if isinstance(item, CONTAINERS):
                        size, below = self._measure(item, room - 1)
                        total += size
                        height = max(height, below + 1)
                    else:
                        total += sys.getsizeof(item, STEP)
            known = self._known[id(value)] = (value, total, height)
        _, total, height = known
        if height > room:
            raise Exceeded(f"has lists in one another more than {NESTING_LIMIT} deep")
        return total, height

    def height(self, value: Any) -> int:
        """How many containers are in one another."""
        return self._measure(value, NESTING_LIMIT)[1] if isinstance(value, CONTAINERS) else 0

    def text(self, value: Any) -> str:
        """str(value), paid for."""
        if type(value) is str:
            return value
        self.charge(STEP + TEXT_PER_BYTE * self.size(value))
        return str(value)

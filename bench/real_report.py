"""The result file as markdown: what is asked beside what was measured, then a table of each section."""

from collections.abc import Sequence
from dataclasses import dataclass

from maskprobe.cli.bench_table import Column, markdown


@dataclass(frozen=True)
class Asked:
    """One line of what is asked. `limit` is a bound of `measured`: from above, or from below where `at_least`."""

    model: str
    what: str
    measured: float | None  # None: it was not measured
    limit: float
    at_least: bool = False
    unit: str = "x"
    ceiling: float | None = None  # what the machine allows, where that is known
    note: str = ""
    applies: bool = True  # False: told, not judged, because it is asked of another machine

    @property
    def holds(self) -> bool | None:
        if self.measured is None or not self.applies:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


def number(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    digits = 0 if unit in ("%", "MiB", "runs") else 2
    return f"{value:.{digits}f} {unit}".strip()


def verdict(line: Asked) -> str:
    return {True: "held", False: "**not held**", None: "-"}[line.holds]


ASKED_COLUMNS: list[Column] = [
    ("model", lambda line: line.model),
    ("what", lambda line: line.what + (f" ({line.note})" if line.note else "")),
    ("asked", lambda line: f"{'>=' if line.at_least else '<='} {number(line.limit, line.unit)}"),
    ("measured", lambda line: number(line.measured, line.unit)),
    ("machine's ceiling", lambda line: number(line.ceiling, line.unit)),
    ("", verdict),
]


def asked_table(lines: Sequence[Asked]) -> str:
    n_held = sum(line.holds is True for line in lines)
    n_judged = sum(line.holds is not None for line in lines)
    return f"{n_held} of {n_judged} held.\n\n" + markdown(lines, ASKED_COLUMNS)

"""`--compare`: the tokens of a probed run against those of plain decoding with the same seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    index: int  # of the first token that differs
    probed: str  # its text with probing, "" where that text has ended
    plain: str
    margin: float | None  # nats between the two best tokens there, None where plain decoding has ended


@dataclass(frozen=True)
class Comparison:
    n_compared: int
    difference: Difference | None
    speed_ratio: float  # tokens per second with probing over those without
    complete: bool  # False: plain decoding was interrupted, and its tokens so far were compared

    def as_json(self) -> dict[str, Any]:
        found = self.difference
        return {
            "identical": found is None,
            "complete": self.complete,
            "n_compared": self.n_compared,
            "speed_ratio": self.speed_ratio,
            "difference": None if found is None else vars(found),
        }

    def lines(self) -> list[tuple[str, str]]:
        so_far = "" if self.complete else " (interrupted)"
        if self.difference is None:
            outcome = f"identical: {self.n_compared} tokens{so_far}"
        else:
            found = self.difference
            margin = "unknown" if found.margin is None else f"{found.margin:.4g} nats"
            outcome = (
                f"differs at token {found.index}: {found.probed!r} with probing, {found.plain!r} without; "
                f"the two best tokens are {margin} apart there{so_far}"
            )
        return [("compared", outcome), ("speed", f"{self.speed_ratio:.2f} x plain decoding (one run each: noisy)")]


def compare(
    probed: Sequence[int],
    plain: Sequence[int],
    margins: Sequence[float],
    text_of: Callable[[int], str],
    speed_ratio: float,
    complete: bool,
) -> Comparison:
    """`margins` belong to `plain`; `text_of` gives a text. An incomplete `plain` is compared as far as it is."""
    if not complete:
        probed = probed[: len(plain)]
    n = max(len(probed), len(plain))
    index = next((i for i in range(n) if probed[i : i + 1] != plain[i : i + 1]), None)
    difference = None
    if index is not None:
        first, second = probed[index : index + 1], plain[index : index + 1]
        difference = Difference(
            index,
            text_of(first[0]) if first else "",
            text_of(second[0]) if second else "",
            margins[index] if second else None,
        )
    return Comparison(n if index is None else index + 1, difference, speed_ratio, complete)

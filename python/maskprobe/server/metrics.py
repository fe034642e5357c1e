"""What a server counts, as Prometheus reads it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..generation import Stats

FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # upper bounds of the histogram

# Name -> (help, attribute of Stats).
COUNTS = {
    "prompt_tokens_total": ("Tokens of prompts", "n_prompt"),
    "prompt_tokens_cached_total": ("Of these, found in the cache", "n_prompt_reused"),
    "tokens_total": ("Tokens generated", "n_gen"),
    "passes_total": ("Passes, counted once for each generation that took part", "passes"),
    "rows_total": ("Rows of these passes", "rows"),
    "drafted_tokens_total": ("Candidates in these rows", "n_drafted"),
    "accepted_tokens_total": ("Candidates accepted", "n_accepted"),
}


@dataclass(slots=True)
class ModelMetrics:
    """Of one model. What runs is counted when it ends, and live where the numbers are asked for."""

    ended: Counter[str] = field(default_factory=Counter)  # by attribute of Stats
    finished: Counter[str] = field(default_factory=Counter)  # generations by finish reason
    embedded: int = 0  # tokens
    loads: int = 0
    evictions: int = 0
    first_token_s: list[int] = field(default_factory=lambda: [0] * (len(FIRST_TOKEN_S) + 1))  # per interval
    first_token_sum_s: float = 0.0

    def first_token(self, seconds: float) -> None:
        i = next((i for i, bound in enumerate(FIRST_TOKEN_S) if seconds <= bound), len(FIRST_TOKEN_S))
        self.first_token_s[i] += 1
        self.first_token_sum_s += seconds

    def end(self, stats: Stats, reason: str) -> None:
        for _, name in COUNTS.values():
            self.ended[name] += getattr(stats, name)
        self.finished[reason] += 1

    def counts(self, running: Iterable[Stats]) -> dict[str, int]:
        stats = list(running)
        return {
            name: self.ended[attribute] + sum(getattr(one, attribute) for one in stats)
            for name, (_, attribute) in COUNTS.items()
        }


class Text:
    """Prometheus' text format."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, help: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> None:
        self._head(name, kind, help)
        for labels, value in samples:
            self._sample(name, labels, value)

    def histogram(self, name: str, help: str, samples: Iterable[tuple[Mapping[str, str], ModelMetrics]]) -> None:
        self._head(name, "histogram", help)
        for labels, metrics in samples:
            total = 0
            for bound, n in zip((*FIRST_TOKEN_S, "+Inf"), metrics.first_token_s, strict=True):
                total += n
                self._sample(f"{name}_bucket", {**labels, "le": str(bound)}, total)
            self._sample(f"{name}_sum", labels, metrics.first_token_sum_s)
            self._sample(f"{name}_count", labels, total)

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"

    def _head(self, name: str, kind: str, help: str) -> None:
        self._lines += [f"# HELP maskprobe_{name} {help}", f"# TYPE maskprobe_{name} {kind}"]

    def _sample(self, name: str, labels: Mapping[str, str], value: float) -> None:
        inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        self._lines.append(f"maskprobe_{name}{{{inner}}} {_number(value)}")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return repr(value) if isinstance(value, float) else str(value)

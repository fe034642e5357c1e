"""What a run did: the block at its end and the JSON object, from the same numbers."""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import Stats
from .compare import Comparison
from .terminal import say

HISTOGRAM_WIDTH = 30  # characters of the longest bar

FINISHED = {
    "stop": "the model ended its text, or a stop string came",
    "length": "the number of tokens asked for (-n)",
    "context": "the context is full (-c)",
    "constraint": "the grammar, schema or expression allows no further token",
    "interrupted": "interrupted",
}


@dataclass
class Report:
    model: str
    kernels: str  # ModelInfo's, and why
    kernels_reason: str
    propose: str
    tree: str | None
    seed: int
    n_prompt: int
    load_ms: float
    finish_reason: str
    stats: Stats
    comparison: Comparison | None = None

    def as_json(self) -> dict[str, Any]:
        stats = self.stats
        return {
            "model": self.model,
            "kernels": self.kernels,
            "kernels_reason": self.kernels_reason,
            "propose": self.propose,
            "tree": self.tree,
            "seed": self.seed,
            "n_prompt": self.n_prompt,
            "n_gen": stats.n_gen,
            "passes": stats.passes,
            "rows": stats.rows,
            "tokens_per_pass": stats.tokens_per_pass,
            "rows_per_pass": stats.rows_per_pass,
            "accept_hist": list(stats.accept_hist),
            **({"accepted_by": dict(stats.accepted_by)} if self.propose == "all" else {}),
            "load_ms": self.load_ms,
            "prompt_ms": stats.prompt_ms,
            "gen_ms": stats.gen_ms,
            "finish_reason": self.finish_reason,
            "tokens": list(stats.tokens),
            **({"compare": self.comparison.as_json()} if self.comparison else {}),
        }

    def lines(self) -> list[tuple[str, str]]:
        """Name and value of each line of the block."""
        stats = self.stats
        kernels = "llama.cpp's:" if self.kernels == "llama.cpp" else f"{self.kernels},"
        lines = [
            ("model", f"{Path(self.model).name}, loaded in {self.load_ms / 1000:.2f} s"),
            ("kernels", f"{kernels} {self.kernels_reason}"),
        ]
        if stats.n_gen == 0:
            lines.append(("prompt", f"{self.n_prompt} tokens"))
        else:
            lines.append(("prompt", f"{self.n_prompt} tokens, {stats.prompt_tps:.1f} tokens/s"))
        if stats.passes:
            per_pass = f"{stats.tokens_per_pass:.2f} tokens per pass, {stats.rows_per_pass:.1f} rows per pass"
            lines += [
                ("generation", f"{stats.n_gen} tokens, {stats.gen_tps:.1f} tokens/s, seed {self.seed}"),
                ("passes", f"{stats.passes}, {per_pass}"),
            ]
        if self.propose != "none" and stats.passes:
            lines.append(("accepted", histogram(stats.accept_hist)))
        if self.propose == "all" and stats.passes:
            lines.append(("drafts", guessed(stats.accepted_by)))
        lines.append(("finished", FINISHED.get(self.finish_reason, self.finish_reason)))
        if self.comparison is not None:
            lines += self.comparison.lines()
        return lines

    def show(self) -> None:
        lines = self.lines()
        if sys.stderr.isatty():
            from rich.console import Console  # only where its looks are wanted: importing it takes a while
            from rich.table import Table
            from rich.text import Text

            table = Table.grid(padding=(0, 2))
            for name, value in lines:
                shown = bars(self.stats.accept_hist) if name == "accepted" else value
                table.add_row(Text(name, "bold cyan"), Text(shown))  # Text: brackets in a value are no markup
            Console(stderr=True, highlight=False).print(table)
            return
        for name, value in lines:
            say(f"{name + ':':<12}{value}")


def guessed(accepted_by: Counter[str]) -> str:
    """What guessed the accepted candidates."""
    shares = ", ".join(f"{name} {n}" for name, n in accepted_by.most_common())
    return f"accepted by {shares}" if shares else "no candidate was accepted"


def histogram(counts: list[int]) -> str:
    """How many passes accepted no, 1, 2, ... candidates."""
    return ", ".join(f"{depth or 'none'} in {count}" for depth, count in enumerate(counts)) + " passes"


def bars(counts: list[int]) -> str:
    scale = HISTOGRAM_WIDTH / max(counts)
    return "\n".join(f"{depth}  {'█' * round(n * scale):<{HISTOGRAM_WIDTH}}  {n}" for depth, n in enumerate(counts))

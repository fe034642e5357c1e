"""What a chat shows: answers on standard output; on standard error all else, with rich where that is a terminal."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..generation import Stats
from .report import guessed
from .terminal import Completion, say

INDENT = "  "
ENDED = {"length": "cut at -n", "context": "cut, the context is full", "cancelled": "stopped"}  # other than by itself


def status(stats: Stats) -> str:
    """One line about an answer."""
    parts = [f"{stats.n_gen} token{'s' * (stats.n_gen != 1)}"]
    if stats.passes:
        parts += [
            f"{stats.gen_tps:.1f} tokens/s",
            f"{stats.tokens_per_pass:.2f} tokens per pass",
            f"{stats.rows_per_pass:.1f} rows per pass",
        ]
    parts.append(f"{stats.n_prompt_reused} of {stats.n_prompt} prompt tokens from the cache")
    if stats.finish_reason in ENDED:
        parts.append(ENDED[stats.finish_reason])
    return ", ".join(parts)


@dataclass
class Totals:
    """The sums over all answers of a chat."""

    n_answers: int = 0
    n_gen: int = 0
    n_prompt: int = 0
    n_prompt_reused: int = 0
    passes: int = 0
    rows: int = 0
    n_later: int = 0  # tokens that came with the passes: all but the first of each answer
    prompt_ms: float = 0.0
    gen_ms: float = 0.0
    accepted_by: Counter[str] = field(default_factory=Counter)

    def add(self, stats: Stats) -> None:
        self.n_answers += 1
        self.n_gen += stats.n_gen
        self.n_prompt += stats.n_prompt
        self.n_prompt_reused += stats.n_prompt_reused
        self.passes += stats.passes
        self.rows += stats.rows
        self.n_later += max(stats.n_gen - 1, 0)
        self.prompt_ms += stats.prompt_ms
        self.gen_ms += stats.gen_ms
        self.accepted_by.update(stats.accepted_by)

    def lines(self) -> list[tuple[str, str]]:
        """Name and value of each line of /stats."""
        n_new = self.n_prompt - self.n_prompt_reused
        lines = [
            ("answers", f"{self.n_answers}"),
            ("prompts", f"{self.n_prompt} tokens, {self.n_prompt_reused} from the cache, {n_new} evaluated"),
            ("tokens", f"{self.n_gen}"),
        ]
        if self.n_answers:
            lines.append(("first token", f"after {self.prompt_ms / self.n_answers / 1000:.2f} s on average"))
        if self.passes and self.gen_ms > 0:
            per_pass = f"{self.n_later / self.passes:.2f} tokens per pass, {self.rows / self.passes:.1f} rows per pass"
            lines[2] = ("tokens", f"{self.n_gen}, {1000 * self.n_later / self.gen_ms:.1f} tokens/s")
            lines += [("passes", f"{self.passes}, {per_pass}"), ("drafts", guessed(self.accepted_by))]
        return lines


class View:
    """`color` is "on", "off" or "auto": whether drafted tokens are shown in green. `prog` begins the lines of a log."""

    def __init__(self, prog: str, color: str) -> None:
        self._prog = prog
        self._out = Completion(color)
        self._styled = sys.stderr.isatty()
        self._ends_line = True

    def answer(self, text: str, drafted: bool = False) -> None:
        """A piece of an answer, as it comes. Raises OutputClosed."""
        if text:
            self._ends_line = text.endswith("\n")
            self._out.write(text, drafted)

    def end_answer(self, interrupted: bool = False) -> None:
        """Each answer ends with a line break, also in a pipe. Raises OutputClosed."""
        if interrupted and self._out.on_terminal:  # after the ^C that it shows
            self._out.end_line(echoed=True)
        elif not self._ends_line:
            self._out.write("\n")
        self._ends_line = True

    def note(self, line: str) -> None:
        """A line of the program itself."""
        if self._styled:
            self._print(line, "dim")
        else:
            say(f"{self._prog}: {line}")

    def error(self, line: str) -> None:
        line = " ".join(line.split())
        if self._styled:
            self._print(f"error: {line}", "red")
        else:
            say(f"{self._prog}: error: {line}")

    def table(self, lines: Sequence[tuple[str, str]]) -> None:
        width = max(len(name) for name, _ in lines)
        if not self._styled:
            for name, value in lines:
                say(f"{name:<{width}}  {value}")
            return
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for name, value in lines:
            table.add_row(Text(INDENT + name, "bold cyan"), Text(value))  # Text: brackets in a value are no markup
        self._print(table)

    def _print(self, what: Any, style: str = "") -> None:
        from rich.console import Console  # only where its looks are wanted: importing it takes a while
        from rich.text import Text

        Completion.end_line_before_stderr()
        try:
            shown = Text(what, style) if isinstance(what, str) else what
            Console(stderr=True, highlight=False, soft_wrap=isinstance(what, str)).print(shown)
        except OSError:  # nobody listens there any more
            self._styled = False

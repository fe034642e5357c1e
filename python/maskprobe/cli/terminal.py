"""The two streams of a command: standard output carries the completion, standard error all else."""

import contextlib
import os
import select
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from .. import Generation, TokenResult

PROGRESS_AFTER_S = 2.0  # what takes less is not worth a bar

DRAFTED = "\x1b[32m"  # green: tokens that a probe had guessed
RESET = "\x1b[0m"


class OutputClosed(Exception):
    """Standard output does not take any more: its reader is gone, or the disk is full."""


def secure_streams() -> None:
    """Puts something harmless where a standard stream is closed, before any file gets its descriptor."""
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free number, so this one
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (it lives as long as the process)


def say(line: str) -> None:
    """A line to standard error, if anybody listens there."""
    with contextlib.suppress(OSError, ValueError, OutputClosed):
        Completion.end_line_before_stderr()
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        # What was not taken stays in the buffer, and the interpreter would fail on it once more when it ends.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stderr.fileno())
            os.close(nowhere)


def write_all(descriptor: int, data: bytes) -> None:
    """Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # somebody made it non-blocking
            select.select([], [descriptor], [])


class Completion:
    """Writes text to standard output as it comes. Nothing is kept back, so nothing is left to be written at exit."""

    _unended: ClassVar["Completion | None"] = None  # whose text ends within a line of the terminal

    def __init__(self, color: str) -> None:
        if sys.stdout is None:
            raise OutputClosed("standard output is closed")
        self._descriptor = sys.stdout.fileno()
        self.on_terminal = sys.stdout.isatty()
        self._color = color == "on" or (color == "auto" and self.on_terminal)

    def write(self, text: str, drafted: bool = False) -> None:
        """Raises OutputClosed."""
        if not text:
            return
        if self.on_terminal:
            Completion._unended = None if text.endswith("\n") else self
        if drafted and self._color:
            text = f"{DRAFTED}{text}{RESET}"  # in one piece: whatever ends the process, no colour is left behind
        try:
            write_all(self._descriptor, text.encode("utf-8"))
        except OSError as error:
            raise OutputClosed(f"cannot write to standard output: {error.strerror}") from None

    def end_line(self, echoed: bool = False) -> None:
        """What comes next on the terminal begins on a line of its own. `echoed`: it showed a ^C after the text.

        Raises OutputClosed."""
        if Completion._unended is self or (echoed and self.on_terminal):
            self.write("\n")

    @classmethod
    def end_line_before_stderr(cls) -> None:
        """The same for a line of standard error, if that is the same terminal."""
        if cls._unended is not None and same_terminal(cls._unended._descriptor, sys.stderr.fileno()):
            cls._unended.end_line()


def same_terminal(one: int, other: int) -> bool:
    return os.isatty(one) and os.isatty(other) and os.fstat(one).st_rdev == os.fstat(other).st_rdev


class Progress:
    """A bar on standard error: on a terminal only, and only once the block has taken two seconds. Call it with what is
    done and what there is in all; until then it only shows that something goes on."""

    def __init__(self, label: str, unit: str = "") -> None:
        self._label = label
        self._unit = unit  # "bytes", or "" for a bare percentage
        self._done = 0.0
        self._total: float | None = None
        self._bar: Any = None
        # By the clock and not at the next call, which may be far off.
        self._timer = threading.Timer(PROGRESS_AFTER_S, self._show) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: float, total: float) -> None:
        self._done, self._total = done, total
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def _show(self) -> None:
        from rich import progress  # only when there is something to show: importing it takes a while
        from rich.console import Console

        columns = [progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TaskProgressColumn()]
        if self._unit == "bytes":
            columns += [progress.DownloadColumn(), progress.TransferSpeedColumn()]
        bar = progress.Progress(*columns, progress.TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        bar.update(bar.add_task(self._label, total=self._total), completed=self._done)
        bar.start()
        self._bar = bar


def with_bar(generation: "Generation") -> "Iterator[TokenResult]":
    """Its results; until the first one comes, a bar shows how far the prompt is."""
    with Progress("prompt") as bar:
        generation.on_wait = lambda stats: bar(stats.n_prompt_done, stats.n_prompt)
        first = next(generation, None)
        generation.on_wait = None
    if first is not None:
        yield first
        yield from generation

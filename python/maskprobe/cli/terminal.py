"""The two streams of a command: standard output carries the completion, standard error all else."""

import contextlib
import os
import select
import sys
import time
from types import TracebackType
from typing import Any, Self

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
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


class Completion:
    """Writes text to standard output as it comes. Nothing is kept back, so nothing is left to be written at exit."""

    def __init__(self, color: str) -> None:
        if sys.stdout is None:
            raise OutputClosed("standard output is closed")
        self._descriptor = sys.stdout.fileno()
        self.on_terminal = sys.stdout.isatty()
        self._color = color == "on" or (color == "auto" and self.on_terminal)

    def write(self, text: str, drafted: bool = False) -> None:
        """Raises OutputClosed."""
        if drafted and self._color and text:
            text = f"{DRAFTED}{text}{RESET}"  # in one piece: whatever ends the process, no colour is left behind
        data = memoryview(text.encode("utf-8"))
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # somebody made the terminal non-blocking
                select.select([], [self._descriptor], [])
            except OSError as error:
                raise OutputClosed(f"cannot write to standard output: {error.strerror}") from None


class Progress:
    """A bar on standard error: on a terminal only, and only once the work has taken two seconds. Call it with the done
    and total amounts."""

    def __init__(self, label: str, unit: str = "") -> None:
        self._label = label
        self._unit = unit  # "bytes", or "" for a bare percentage
        self._start = time.monotonic()
        self._enabled = sys.stderr.isatty()
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: float, total: float) -> None:
        if not self._enabled or time.monotonic() - self._start < PROGRESS_AFTER_S:
            return
        if self._bar is None:
            self._bar = self._new_bar()
            self._task = self._bar.add_task(self._label, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)

    def _new_bar(self) -> Any:
        from rich import progress  # only when there is something to show: importing it takes a while
        from rich.console import Console

        amounts = [progress.DownloadColumn(), progress.TransferSpeedColumn()] if self._unit == "bytes" else []
        columns = [progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TaskProgressColumn()]
        return progress.Progress(
            *columns, *amounts, progress.TimeRemainingColumn(), console=Console(stderr=True), transient=True
        )

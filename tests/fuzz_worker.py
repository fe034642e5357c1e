"""The process that is given the cases of a fuzz test, one a line, and answers each with a line."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path


def confine(n_bytes: int) -> None:
    """This process: one core, as two spinning threads wait for each other on a busy machine, and no more than `n_bytes`
    of address space beyond what it has."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    try:
        import resource

        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + n_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):  # not every system has the limit
        return


def peak_bytes() -> int:
    """The most memory that this process had; 0 where the system does not say.

    On Linux getrusage() would count what the parent had before exec, too.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class Worker:
    """A Python program that reads lines; a new one takes over where one died or took more than `seconds` for a case.

    They are seconds of the processor; the clock gets ten times as many, for a machine that is busy.
    """

    def __init__(self, errors: Path, seconds: float, *command: str | Path) -> None:
        self.errors = errors
        self.limit = seconds
        self.command = [sys.executable, *map(str, command)]
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}  # no debugger on each death
        with self.errors.open("wb") as errors:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                self.command, stdin=pipe, stdout=pipe, stderr=errors, env=environment, text=True
            )

    def answer(self, case: Path | str) -> str:
        """The worker's line, or how it died."""
        try:
            self.process.stdin.write(f"{case}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return self.obituary("died after its last answer")
        before = self.seconds()
        for _ in range(10):
            ready, _, _ = select.select([self.process.stdout], [], [], self.limit)
            if ready:
                return self.process.stdout.readline().strip() or self.obituary("died")
            if self.seconds() - before > self.limit:
                break
        self.process.kill()
        return self.obituary(f"took more than {self.limit} s")

    def seconds(self) -> float:
        """Processor time of the worker."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return float("inf")
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def obituary(self, what: str) -> str:
        code = self.process.wait()
        lines = self.errors.read_text(errors="replace").strip().splitlines()
        self.start()
        return f"{what} with {code}: {lines[-1] if lines else 'no message'}"

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)

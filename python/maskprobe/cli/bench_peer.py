"""A peer of maskprobe-bench peers: one way to decode a prompt, and the process that some of them have."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from .. import ArgumentError
from .bench_prompts import Job

WORKER = Path(__file__).with_name("bench_peer_worker.py")
PACKAGES_LIMIT_S = 120


@dataclass(frozen=True)
class PeerRun:
    """One prompt. tokens None: a program that gives text only. passes and rows None: it does not tell."""

    tokens: list[int] | None
    text: str | None
    n_timed: int  # tokens generated in gen_ns
    gen_ns: int
    passes: int | None
    rows: int | None


Run = Callable[[Job], PeerRun]  # raises Error


@dataclass
class Peer:
    """One way to decode. own_plain: the peer that is its plain decoding."""

    name: str
    run: Run
    own_plain: str
    is_ours: bool = False
    runs: list[PeerRun] = field(default_factory=list)
    failure: str = ""


def cannot_run(name: str, own_plain: str, why: str) -> Peer:
    """A peer that is a line and no more."""
    return Peer(name, refuse, own_plain, failure=why)


def refuse(_job: Job) -> PeerRun:
    raise ArgumentError("cannot run")


class Worker:
    """A peer in a process of its own, started with its first prompt. `python` is the interpreter that has its
    package."""

    def __init__(self, kind: str, settings: dict[str, Any], python: str = sys.executable) -> None:
        self._command = [python, str(WORKER), kind, json.dumps(settings)]
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        if self._log is not None:
            self._log.close()

    def run(self, n: int, job: Job) -> PeerRun:
        """Raises ArgumentError with the worker's last line where it has ended."""
        if self._process is None:
            pipe = subprocess.PIPE
            # A file and not a pipe, which would fill: some libraries log much.
            self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=self._log, text=True)
            self._answer(self._process)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended: the answer says why
            self._process.stdin.write(json.dumps({"tokens": job.tokens, "n": n}) + "\n")
            self._process.stdin.flush()
        answer = self._answer(self._process)
        return PeerRun(answer["tokens"], None, answer["n_timed"], answer["gen_ns"], answer["passes"], answer["rows"])

    def _answer(self, process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None and self._log is not None
        line = process.stdout.readline()
        if line:
            return json.loads(line)
        status = process.wait()
        self._log.seek(0)
        raise ArgumentError(f"ended with status {status}: {last_line(self._log.read())}")


@dataclass(frozen=True)
class Packages:
    """What an interpreter has of the peers' packages."""

    missing: dict[str, list[str]]  # kind of worker -> modules
    spec_types: Sequence[str]  # of xllamacpp
    failure: str = ""  # why it could not be asked

    def why_not(self, kind: str) -> str:
        """Why a kind cannot run; "" where it can."""
        return self.failure or (f"{' and '.join(self.missing[kind])} not installed" if self.missing[kind] else "")


def packages_of(python: str) -> Packages:
    try:
        command = [python, str(WORKER), "packages"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PACKAGES_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Packages({}, [], f"'{python}' cannot be run: {error}")
    if done.returncode:
        return Packages({}, [], f"'{python}' ended with status {done.returncode}: {last_line(done.stderr)}")
    return Packages(**json.loads(done.stdout))


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "without a word"

"""Texts damaged at random, for a worker process that may refuse them and must not die, hang or swell."""

from __future__ import annotations

import json
import os
import random
import re
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import maskprobe

MEMORY = 1 << 30  # bytes of address space that a worker may take beyond what it starts with
SECONDS = 5  # that one case may take
# of the processor, where the machine is busy with something else; the clock then gets ten times as many
PIECE = re.compile(r"\s+|\w+|[^\w\s]")
NUMBERS = ["0", "-1", "3", "1500", "65536", "99999999999", "-0", "1e400", "1e-400", "0.1", "2147483648", "9" * 30]
CHARACTERS = ["\x00", "\x7f", "\u2028", "\u00e9", "\U0001f600", "\ufeff", "\u202e", '"', "\\", "\n", "{", "[", "(", "}"]


class Mutator:
    """mutate(text): one to six changes, with pieces of the other seeds and with `words`, which mean something."""

    def __init__(self, rng: random.Random, seeds: Sequence[str], words: Sequence[str]) -> None:
        self.rng = rng
        self.seeds = seeds
        self.words = words

    def mutate(self, text: str) -> str:
        changes = [
            self.cut,
            self.repeat,
            self.swap,
            self.insert,
            self.replace,
            self.number,
            self.splice,
            self.character,
        ]
        for _ in range(self.rng.choice([1, 1, 1, 2, 3, 6])):
            text = self.rng.choice(changes)(text)
        if self.rng.random() < 0.03:
            text = text[: self.rng.randrange(len(text) + 1)]
        elif self.rng.random() < 0.03:
            text = self.nest(text)
        return text

    def span(self, text: str, longest: int = 40) -> tuple[int, int]:
        """Where some pieces begin and end."""
        bounds = [0, *(found.end() for found in PIECE.finditer(text))]
        first = self.rng.randrange(len(bounds))
        last = min(first + self.rng.randint(1, longest), len(bounds) - 1)
        return bounds[first], bounds[last]

    def cut(self, text: str) -> str:
        start, end = self.span(text, 8)
        return text[:start] + text[end:]

    def repeat(self, text: str) -> str:
        start, end = self.span(text)
        times = self.rng.choice([1, 1, 1, 2, 50])
        return text[:end] + text[start:end] * times + text[end:]

    def swap(self, text: str) -> str:
        (a, b), (c, d) = sorted([self.span(text, 6), self.span(text, 6)])
        return text if c < b else text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]

    def insert(self, text: str) -> str:
        at, _ = self.span(text)
        return text[:at] + self.rng.choice(self.words) + text[at:]

    def replace(self, text: str) -> str:
        start, end = self.span(text, 1)
        return text[:start] + self.rng.choice(self.words) + text[end:]

    def number(self, text: str) -> str:
        found = list(re.finditer(r"-?[0-9][0-9.eE+-]*", text))
        if not found:
            return self.insert(text)
        one = self.rng.choice(found)
        return text[: one.start()] + self.rng.choice(NUMBERS) + text[one.end() :]

    def splice(self, text: str) -> str:
        other = self.rng.choice(self.seeds)
        start, end = self.span(other, 60)
        at, until = self.span(text, 10)
        return text[:at] + other[start:end] + text[self.rng.choice([at, until]) :]

    def character(self, text: str) -> str:
        at = self.rng.randrange(len(text) + 1)
        return text[:at] + self.rng.choice(CHARACTERS) + text[at + self.rng.randint(0, 1) :]

    def nest(self, text: str) -> str:
        """A span within many brackets, or within itself."""
        start, end = self.span(text)
        opening, closing = self.rng.choice([("[", "]"), ("(", ")"), ("{", "}"), ('{"a":', "}"), ("((", ")")])
        times = self.rng.choice([10, 200, 3000])
        return text[:start] + opening * times + text[start:end] + closing * times + text[end:]


def serve(handle: Callable[[str], str]) -> None:
    """The worker: answers each text with a word for what became of it. handle() tells; an Error is "refused"."""
    confine()
    for line in sys.stdin:
        try:
            answer = handle(json.loads(line))
        except maskprobe.Error as error:
            lines = len(str(error).splitlines())
            answer = (
                "refused" if lines == 1 and len(str(error)) <= 600 else f"{lines} lines, {len(str(error))} characters"
            )
        except Exception as error:
            answer = f"not one of our errors: {type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)


def confine() -> None:
    """One core, as in the fuzz of model files, and no more memory than is due."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    try:
        import resource

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    except (ImportError, OSError, ValueError):  # not every system has the limit
        return


class Worker:
    """A program that calls serve(); a new one takes over where one died."""

    def __init__(self, program: Path, errors: Path) -> None:
        self.command = [sys.executable, str(program)]
        self.errors = errors
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}  # no debugger on each death
        with self.errors.open("wb") as errors:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                self.command, stdin=pipe, stdout=pipe, stderr=errors, env=environment, text=True
            )

    def answer(self, text: str) -> str:
        """The worker's word, or how it died."""
        try:
            self.process.stdin.write(json.dumps(text) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return self.obituary("died after its last answer")
        before = self.seconds()
        for _ in range(10):
            ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
            if ready:
                line = self.process.stdout.readline()
                return json.loads(line) if line else self.obituary("died")
            if self.seconds() - before > SECONDS:
                break
        self.process.kill()
        return self.obituary(f"took more than {SECONDS} s")

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


def fuzz(
    program: Path,
    folder: Path,
    seeds: Sequence[str],
    mutate: Callable[[random.Random], str],
    cases: int,
    seed: int,
    fine: Sequence[str],
) -> tuple[Counter[str], list[str]]:
    """How often the worker gave which answer for `cases` texts of mutate(), and what was none of `fine`.

    Each bad text is kept in `folder`. Raises AssertionError where one of the sound `seeds` is refused.
    """
    worker = Worker(program, folder / "worker.txt")
    answers: Counter[str] = Counter()
    bad = []
    for text in seeds:
        answer = worker.answer(text)
        assert answer in fine and answer != "refused", f"{text}: {answer}"
    for case in range(cases):
        text = mutate(random.Random(f"{seed}-{case}"))
        answer = worker.answer(text)
        answers[answer if answer in fine else "bad"] += 1
        if answer not in fine:
            kept = folder / f"bad-{seed}-{case}.txt"
            kept.write_text(json.dumps(text))
            bad.append(f"seed {seed}, case {case}: {answer}, see {kept}")
    worker.stop()
    return answers, bad

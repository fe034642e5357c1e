"""Texts damaged at random, for a worker process that may refuse them and must not die, hang or swell."""

from __future__ import annotations

import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import maskprobe
from fuzz_worker import Worker, confine

MEMORY = 1 << 30  # bytes of address space that a worker may take beyond what it starts with
SECONDS = 5  # of the processor that one case may take
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
    confine(MEMORY)
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
    worker = Worker(folder / "worker.txt", SECONDS, program)

    def answer_to(text: str) -> str:
        line = worker.answer(json.dumps(text))
        return json.loads(line) if line.startswith('"') else line

    answers: Counter[str] = Counter()
    bad = []
    for text in seeds:
        answer = answer_to(text)
        assert answer in fine and answer != "refused", f"{text}: {answer}"
    for case in range(cases):
        text = mutate(random.Random(f"{seed}-{case}"))
        answer = answer_to(text)
        answers[answer if answer in fine else "bad"] += 1
        if answer not in fine:
            kept = folder / f"bad-{seed}-{case}.txt"
            kept.write_text(json.dumps(text))
            bad.append(f"seed {seed}, case {case}: {answer}, see {kept}")
    worker.stop()
    return answers, bad

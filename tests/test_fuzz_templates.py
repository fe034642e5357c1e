"""Damaged and hostile chat templates, each rendered in a worker process: one may fail with one line, within a few
seconds and some hundred megabytes, and must not die.

    MASKPROBE_FUZZ_TEMPLATES=10000 MASKPROBE_FUZZ_SEED=7 pytest tests/test_fuzz_templates.py

As a program this file is the worker: it reads templates as JSON, and answers each with one line.
"""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from chat_templates import CONVERSATIONS, TEMPLATES, TOOLS
from fakes import TemplateModel
from template_mutations import TemplateMutator

CASES = int(os.environ.get("MASKPROBE_FUZZ_TEMPLATES", "300"))
SEED = int(os.environ.get("MASKPROBE_FUZZ_SEED", "1"))
TIMEOUT = 60  # seconds of the clock, on a machine that may be busy
CPU_SECONDS = 5.0
PEAK_BYTES = 1 << 30


def answer(source: str) -> str:
    """How the conversations come out of a template: "fine", or the class of the first error."""
    from maskprobe import Error
    from maskprobe.chat_template import ChatTemplate

    kind = "fine"
    for messages in (CONVERSATIONS["several turns"], CONVERSATIONS["a call"]):
        try:
            template = ChatTemplate(TemplateModel(source))
            tools = TOOLS if "tools" in source else None
            try:
                template.render(messages, tools=tools)
            except Error as error:
                if "no place for tools" not in str(error):
                    raise
        except Error as error:
            line = str(error)
            if not line.isprintable() or len(line) > 500:
                return f"a bad message: {line[:200]!r}"
            kind = type(error).__name__ if kind == "fine" else kind
    return kind


def peak_bytes() -> int:
    try:
        import resource
    except ImportError:  # not every system counts it
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def work() -> None:
    for line in sys.stdin:
        before = time.process_time()
        kind = answer(json.loads(line))
        print(json.dumps([kind, time.process_time() - before, peak_bytes()]), flush=True)


class Worker:
    """The process that renders; a new one takes over where one died."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True)

    def answer(self, source: str) -> tuple[str, float, int]:
        """What came of it, seconds of the processor, and the most memory that the worker ever had."""
        self.process.stdin.write(json.dumps(source) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return tuple(json.loads(line))
        self.process.kill()
        code = self.process.wait()
        self.start()
        return (f"died with {code}" if ready else "did not end"), 0.0, 0

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait(TIMEOUT)


def test_damaged_templates_end_with_a_text_or_one_line(tmp_path: Path) -> None:
    sources = list(TEMPLATES.values())
    worker = Worker()
    answers: Counter[str] = Counter()
    failures = []
    slowest = peak = 0.0
    for name, source in TEMPLATES.items():
        assert worker.answer(source)[0] in ("fine", "ArgumentError", "ModelError"), name
    for case in range(CASES):
        rng = random.Random(f"{SEED}-{case}")
        source = TemplateMutator(rng, sources).mutate(rng.choice(sources))
        kind, seconds, peak_now = worker.answer(source)
        answers[kind] += 1
        slowest, grown, peak = max(slowest, seconds), peak_now > max(peak, PEAK_BYTES), max(peak, peak_now)
        if kind not in ("fine", "ArgumentError", "ModelError") or seconds > CPU_SECONDS or grown:
            kept = tmp_path / f"template-{SEED}-{case}.json"
            kept.write_text(json.dumps(source))
            failures.append(f"case {case}: {kind}, {seconds:.1f} s, {peak_now >> 20} MiB, see {kept}")
    worker.stop()
    print(f"{CASES} cases: {dict(answers)}, at most {slowest:.2f} s and {int(peak) >> 20} MiB")
    assert not failures, "\n".join(failures[:20])
    assert answers["fine"] > CASES // 50 and answers["ModelError"] > CASES // 10  # both sides of the fence are reached


if __name__ == "__main__":
    work()

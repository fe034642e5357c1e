"""Damaged and hostile chat templates, each rendered in a worker process: one may fail with one line, within a few
seconds and some hundred megabytes, and must not die.

    MASKPROBE_FUZZ_TEMPLATES=10000 MASKPROBE_FUZZ_SEED=7 pytest tests/test_fuzz_templates.py

As a program this file is the worker: it reads templates as JSON, and answers each with one line.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

from chat_templates import CONVERSATIONS, TEMPLATES, TOOLS
from fakes import TemplateModel
from fuzz_worker import Worker, peak_bytes
from template_mutations import TemplateMutator

CASES = int(os.environ.get("MASKPROBE_FUZZ_TEMPLATES", "300"))
SEED = int(os.environ.get("MASKPROBE_FUZZ_SEED", "1"))
CPU_SECONDS = 5
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


def work() -> None:
    for line in sys.stdin:
        before = time.process_time()
        kind = answer(json.loads(line))
        print(json.dumps([kind, time.process_time() - before, peak_bytes()]), flush=True)


def test_damaged_templates_end_with_a_text_or_one_line(tmp_path: Path) -> None:
    sources = list(TEMPLATES.values())
    worker = Worker(tmp_path / "worker.txt", CPU_SECONDS, __file__)

    def answer_to(source: str) -> tuple[str, float, int]:
        line = worker.answer(json.dumps(source))
        return tuple(json.loads(line)) if line.startswith("[") else (line, 0.0, 0)

    answers: Counter[str] = Counter()
    failures = []
    slowest = peak = 0.0
    for name, source in TEMPLATES.items():
        assert answer_to(source)[0] in ("fine", "ArgumentError", "ModelError"), name
    for case in range(CASES):
        rng = random.Random(f"{SEED}-{case}")
        source = TemplateMutator(rng, sources).mutate(rng.choice(sources))
        kind, seconds, peak_now = answer_to(source)
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

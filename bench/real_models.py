"""All that is asked of maskprobe on real models, measured on this machine into one result file.

    python bench/real_models.py --spec-bench question.jsonl
    python bench/real_models.py -o bench/results/NAME --sections passes,load -m model.gguf

Writes NAME-real.json and NAME-real.md; NAME is by default the processor's, in bench/results. The sections:

    passes    T(n) with our kernels and llama.cpp's in turns, and what the machine allows
    speed     generations end to end against llama.cpp's plain decoding, prompt by prompt in one run
    planner   rows as many as pay against every fixed number of rows, and against an adversary
    first     the time to the first token of a first run, against plain decoding's
    identity  with the default flags the tokens are those of plain decoding, for every type of weights
    load      peak memory and load time

Models are the files in MASKPROBE_REAL_MODELS or ~/.cache/maskprobe-real, SmolLM2 of its package where it is not among
them, or those of -m. Whatever is done is kept at once: a run that was interrupted goes on with the sections or models
that are missing, and a section that is measured again replaces what the file had of the same models.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import real_first_token
import real_identity
import real_load
import real_passes
import real_plan
import real_planner
import real_speed
from checkout import RESULTS
from real_plan import Plan
from real_report import asked_table

from maskprobe import Error, resolve_model
from maskprobe.cli.bench_machine import heading, machine_facts, processor_file_name, today
from maskprobe.cli.bench_table import Row
from maskprobe.cli.terminal import say
from maskprobe.model import measure_machine

SECTIONS = {
    "passes": real_passes,
    "speed": real_speed,
    "planner": real_planner,
    "first": real_first_token,
    "identity": real_identity,
    "load": real_load,
}
PROG = "real_models.py"


def section_names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"there is no section {name!r}: use some of {', '.join(SECTIONS)}")
    return list(dict.fromkeys(names))


def plan_of(args: argparse.Namespace) -> Plan:
    """Raises Error for a model that is not there."""
    models = tuple(map(resolve_model, args.models)) if args.models else real_plan.find_models()
    plan = Plan(models, args.spec_bench, tuple(args.threads))
    return replace(plan, **real_plan.QUICK) if args.quick else plan


def measure(result: Row, sections: Sequence[str], plan: Plan, path: Path) -> None:
    """Each case goes into the file as soon as it is there."""
    for name in sections:
        cases = result["sections"].setdefault(name, {})
        started = time.monotonic()
        for case_name, case in SECTIONS[name].measure(plan):
            took = time.monotonic() - started
            cases[case_name] = {**case, "date": today(), "took_s": round(took, 1), "plan": plan.as_json}
            write(result, path)
            started = time.monotonic()


def write(result: Row, path: Path) -> None:
    """The JSON, never half of it, and the markdown."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", "utf-8")
    os.replace(unfinished, path)
    path.with_suffix(".md").write_text(as_markdown(result), "utf-8")


def as_markdown(result: Row) -> str:
    cases = {name: result["sections"][name] for name in SECTIONS if result["sections"].get(name)}
    lines = [line for name, found in cases.items() for line in SECTIONS[name].asked(found)]
    parts = [heading("Real models on", result["machine"]), f"## What is asked\n\n{asked_table(lines)}"]
    if any(case["plan"]["is_quick"] for found in cases.values() for case in found.values()):
        parts.insert(1, "**A quick run: its figures mean nothing.**\n")
    for name, found in cases.items():
        dates = ", ".join(sorted({case["date"] for case in found.values()}))
        took = sum(case["took_s"] for case in found.values()) / 60
        title = f"## {name.capitalize()}\n\nMeasured on {dates}, in {took:.1f} minutes.\n\n"
        parts.append(title + SECTIONS[name].tables(found))
    return "\n".join(parts)


def read(path: Path) -> dict[str, Any]:
    """Raises ValueError for a file that is something else."""
    if not path.exists():
        return {"sections": {}}
    result = json.loads(path.read_text("utf-8"))
    if not isinstance(result, dict) or not isinstance(result.get("sections"), dict):
        raise ValueError("it has no sections")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--models", nargs="+", metavar="FILE", help="real models (default: those that are found)")
    parser.add_argument(
        "--sections", type=section_names, default=list(SECTIONS), metavar="NAME,...", help="default: all"
    )
    parser.add_argument("--spec-bench", type=Path, metavar="FILE", help="Spec-Bench's question.jsonl")
    parser.add_argument("-t", "--threads", type=int, nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--quick", action="store_true", help="everything once and small: the figures mean nothing")
    parser.add_argument("-o", "--output", type=Path, metavar="NAME", help="default: the processor's, in bench/results")
    args = parser.parse_args(argv)
    name = args.output or RESULTS / processor_file_name()
    path = name.with_name(name.name + "-real.json")
    try:
        plan, result = plan_of(args), read(path)
        if not plan.models:
            parser.error("no real model was found: give files with -m")
        about = sum(SECTIONS[name].seconds(plan) for name in args.sections)
        say(f"{PROG}: about {about / 60:.0f} minutes on two cores, into '{path}'")
        path.parent.mkdir(parents=True, exist_ok=True)
        result["machine"] = machine_facts({n: measure_machine(n) for n in args.threads})
        measure(result, args.sections, plan, path)
    except KeyboardInterrupt:
        say(f"{PROG}: interrupted; what was measured is in '{path}'")
        return 130
    except (Error, OSError, ValueError) as error:
        say(f"{PROG}: error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

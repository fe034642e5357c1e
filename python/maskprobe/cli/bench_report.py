"""maskprobe-bench report: one machine in about five minutes, as a file that can be given to others."""

import argparse
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from .. import ArgumentError, Model, SamplingParams
from . import bench_cost, bench_options, files, options, values
from .bench_compare import comparison
from .bench_decoders import Decoders, jobs_of, summary
from .bench_energy import find_meter
from .bench_machine import best_speed, machine_facts, processor_file_name
from .bench_report_file import FORMAT, VERSION, as_text, read_report
from .bench_report_page import TITLE, as_markdown
from .bench_report_prompts import report_prompts
from .bench_run import ALL_TASKS
from .bench_table import Row
from .interrupt import Interrupt
from .parser import Parser
from .terminal import Progress, say

PROG = "maskprobe-bench report"
HELP = "this machine in about five minutes: what it can do, T(n), speeds; a file to give to others"
TEMPS = (0.0, 0.8)
ROWS = (1, 2, 4, 8, 16, 32)
DEPTH = 256  # tokens in the cache when passes are timed
ROUNDS = 15  # of the passes, where there is time
SHARE_OF_PASSES = 0.25  # of the time; the prompts have the rest
N_PROMPTS_MIN = 2
SEED = 7

DESCRIPTION = """\
Measures this machine: what its memory and its processor can do at most, T(n), and tokens per second of llama.cpp's
plain decoding, ours, and our drafting, prompt by prompt in turns, at temperatures 0 and 0.8; energy where Linux tells
it. The prompts lie in the package. It takes about --minutes, less on fast machines, more where two prompts take more.

Writes FILE.json and FILE.md: processor, cores, memory, versions and figures. No name of host or user, no path and no
generated text is in them. They are written at the end, both whole: Ctrl-C before leaves nothing.

--expect compares with another machine's report. With --read nothing is measured.
"""


def add_options(parser: Parser) -> None:
    add = partial(options.option, parser)
    bench_options.add_model(add)
    bench_options.add_threads(add)
    add("-n", "--predict", metavar="N", type=values.integer(2), default=100, help="tokens per prompt")
    add("--minutes", metavar="X", type=values.number(above=0), default=5, help="about how long it takes at most")
    add(
        "-o",
        "--output",
        metavar="FILE.json",
        type=report_file,
        help="the result, and FILE.md beside it (default: report-PROCESSOR.json in this folder)",
    )
    add("--read", metavar="FILE", type=values.existing_file, help="show this report instead of measuring")
    add("--expect", metavar="FILE", type=values.existing_file, help="another report to compare with")


def report_file(text: str) -> Path:
    """Raises ArgumentTypeError where one of the two files cannot be written, or is something else."""
    path = files.plain_output_file(text)
    if path.suffix != ".json":
        raise values.fail(f"must end in .json, not '{values.quoted(path.name)}'")
    page = files.plain_output_file(str(path.with_suffix(".md")))
    if path.exists():
        try:
            read_report(path)
        except ArgumentError:
            raise values.fail(f"'{values.quoted(text)}' is no report: it is left as it is, name another") from None
    if page.exists() and not page.read_bytes().startswith(f"# {TITLE} ".encode()):
        raise values.fail(f"'{values.quoted(str(page))}' is no report: it is left as it is, name another")
    return path


def run(args: argparse.Namespace) -> str:
    """All of the subcommand: the report as markdown, and the comparison."""
    expected = None if args.expect is None else read_report(Path(args.expect))
    if args.read is not None:
        if args.output is not None:
            raise ArgumentError("--read measures nothing: leave -o out")
        report = read_report(Path(args.read))
    else:
        path = args.output or own_file()
        report = measure(args)
        write(report, path)
    text = as_markdown(report)
    return text if expected is None else f"{text}\n{comparison(report, expected)}"


def own_file() -> Path:
    """Raises ArgumentError."""
    try:
        return report_file(f"report-{processor_file_name()}.json")
    except argparse.ArgumentTypeError as error:
        raise ArgumentError(f"{error} (-o)") from None


def measure(args: argparse.Namespace) -> Row:
    """The report. Raises Error."""
    began = time.monotonic()
    path = bench_options.model_path(args, PROG)
    say(f"{PROG}: about {args.minutes:g} minutes, or less; Ctrl-C ends it, and nothing is written then")
    passes = measure_passes(args, path)
    threads = passes[0]["n_threads"]
    ceilings = {n: best_speed(n) for n in sorted({1, threads})}
    meter, energy = find_meter()
    say(f"{PROG}: T(n) is measured, now the prompts")
    with ExitStack() as opened, Progress("measuring") as progress:
        model = opened.enter_context(Model(path, n_threads=threads))
        jobs, templated, _ = jobs_of(model, report_prompts(), args.predict)
        decoders = opened.enter_context(Decoders(model, jobs, args.predict, TEMPS, threads, meter))
        runs: list[Row] = []
        started = time.monotonic()
        budget_s = 60 * args.minutes - (started - began)
        for i, job in enumerate(jobs):
            took_s = time.monotonic() - started
            if i >= N_PROMPTS_MIN and took_s * (i + 1) / i > budget_s:
                break
            progress(i, len(jobs))
            for temp in TEMPS:
                runs += decoders.run(job, SamplingParams(temp=temp, seed=SEED), first=i)
        about_model = model_facts(model)
    ceilings = {n: best_speed(n, speed) for n, speed in ceilings.items()}
    return {
        FORMAT: VERSION,
        "machine": machine_facts(ceilings),
        "model": about_model,
        "settings": {"n_threads": threads, "n_predict": args.predict, "template": templated, "depth": DEPTH},
        "passes": passes,
        "speed": [summary(runs, temp, ALL_TASKS) for temp in TEMPS],
        "energy": energy,
        "runs": runs,
        "took_s": round(time.monotonic() - began, 1),
    }


def measure_passes(args: argparse.Namespace, path: Path) -> list[Row]:
    """T(n) with both kernels, and the number of threads."""
    asked = argparse.Namespace(
        model=path,
        kernels="both",
        rows=ROWS,
        prompt=None,
        depth=DEPTH,
        threads=args.threads,
        isa=None,
        repetitions=ROUNDS,
        rpc=[],
        tensor_split=[],
    )
    kept = ("kernels", "n_rows", "n_threads", "median_ns", "samples_ns", "of_one_row", "speed_up", "engine_ns")
    rows = bench_cost.measure(asked, 60 * args.minutes * SHARE_OF_PASSES)
    return [{key: row[key] for key in kept} for row in rows]


def model_facts(model: Model) -> Row:
    """Not the file's name, which is the user's."""
    info = model.info
    return {
        "name": Path(info.name).name,  # some converters write a path there
        "description": info.description,
        "size": info.size,
        "n_params": info.n_params,
        "kernels": info.kernels,
        "kernels_reason": info.kernels_reason,
    }


def write(report: Row, path: Path) -> None:
    """Both files or none, unless the disk is full between them. Raises ArgumentError."""
    page = path.with_suffix(".md")
    with Interrupt(may_exit=False) as interrupt, interrupt.cancels():
        try:
            files.write_file(path, as_text(report))
            files.write_file(page, as_markdown(report))
        except OSError as error:
            raise ArgumentError(f"cannot write '{path}' and '{page.name}': {error.strerror}") from None
    say(f"{PROG}: '{path}' and '{page.name}' are written")

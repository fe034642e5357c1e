"""maskprobe-bench run: every source of candidates against plain decoding, prompt by prompt in one run."""

import argparse
import itertools
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .. import ArgumentError, Cancelled, Engine, Model, SamplingParams
from ..proposers import SOURCES, registry, source_named
from . import bench_options, bench_pictures, files, options, values
from .bench_measure import (
    PLAIN,
    WHAT_IS_TIMED,
    Measured,
    Watched,
    draft_keys,
    first_difference,
    measure,
    speed_up,
    timing_keys,
    warm_up,
)
from .bench_prompts import Job, in_chat_template, read_prompts, tokenized
from .bench_results import ResultFile
from .bench_table import PER_PASS, SPEED, Column, Row, facts_of, plain_text, render
from .interrupt import Interrupt
from .parser import Parser
from .terminal import Progress, say

PROG = "maskprobe-bench run"
HELP = "tokens per pass and speed-up over plain decoding, for sources of candidates and prompt sets"
ALL_TASKS = "all"
AUTO = "auto"
EVIDENCE, WITH_HEADS = "all", "+heads"  # the source that is measured without and with heads
ROWS_ROOM = 64  # of the context, for candidates beyond the end of a text

DESCRIPTION = f"""\
Decodes every prompt plainly and with every source of candidates, in turns, so that what disturbs the machine disturbs
all alike. Speed-ups are ratios of the median times per token, with the quartiles of the ratios of single prompts.
{WHAT_IS_TIMED}.

A source that learns keeps what it has learned from prompt to prompt, apart for each temperature and repetition: it
never sees a prompt twice. Repetition i of a temperature above 0 has the seed + i. With heads, the engine's own evidence
(all) is measured without and with them.

Prompts: code and stories are the project's own, in a checkout. Files are told by their fields: Spec-Bench's
question.jsonl and SPEED-Bench as JSON lines (first turns only), GSM8K, HumanEval (.jsonl or .jsonl.gz), any JSON lines
with a field prompt, question or turns, and text files with one prompt per line.
"""


@dataclass(frozen=True)
class Source:
    """A source of candidates at a width. rows None: its own choice."""

    propose: str
    rows: int | None

    @property
    def width(self) -> str:
        return AUTO if self.rows is None else str(self.rows)


Case = tuple[Source, float, int]  # with a temperature and a repetition
Asked = tuple[Source, registry.Source]  # and what makes its proposers


def add_options(parser: Parser) -> None:
    add = partial(options.option, parser)
    bench_options.add_model(add)
    bench_options.add_prompts(parser, add)
    add(
        "--propose",
        metavar="NAME,...",
        type=names,
        default=",".join(name for name in SOURCES if name != PLAIN),
        help="sources of candidates, as maskprobe-run has them; plain decoding is always there",
    )
    add(
        "--rows",
        metavar="auto|N,N,...",
        type=widths,
        default=AUTO,
        help="rows of a pass; auto = the source's own choice",
    )
    options.add_heads(parser)
    add("-n", "--predict", metavar="N", type=values.integer(2), default=100, help="tokens per prompt")
    add("--temp", metavar="X,X,...", type=temperatures, default="0", help="temperatures")
    add("-s", "--seed", metavar="N", type=values.integer(0, options.SEED_MAX), default=7, help="seed")
    add("-r", "--repetitions", metavar="N", type=values.integer(1), default=1, help="runs over all prompts")
    parser.add_argument("--ignore-eos", action="store_true", help="go on after the end of a text")
    add_machine_options(parser, add)
    add(
        "--resume",
        metavar="FILE",
        type=files.plain_output_file,
        help="keep each prompt's results in this file, and skip the prompts that it has; sources start afresh then",
    )
    add("--pictures", metavar="DIR", help="also draw the results into this folder (needs matplotlib)")
    bench_options.add_form(add)


def add_machine_options(parser: Parser, add: Callable[..., None]) -> None:
    """Threads, hosts, kernels, context and cache."""
    bench_options.add_threads(add)
    options.add_hosts(parser)
    add("--kernels", choices=options.KERNELS, metavar="|".join(options.KERNELS), default="auto", help="CPU kernels")
    add(
        "-c",
        "--ctx-size",
        metavar="N",
        type=values.integer(0),
        default=0,
        help="context in tokens, 0 = what the prompts need, at most the model's",
    )
    cache = {"choices": options.CACHE_TYPES, "metavar": "TYPE", "default": "f16"}
    add("-ctk", "--cache-type-k", help="type of the K cache", **cache)
    add("-ctv", "--cache-type-v", help="type of the V cache", **cache)


def names(text: str) -> list[str]:
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise values.fail(f"must be names with commas between them, not '{text}'")
    return list(dict.fromkeys(found))


def widths(text: str) -> list[int | None]:
    one = values.integer(1, values.ROWS_MAX)
    return list(dict.fromkeys(None if part == AUTO else one(part) for part in text.split(",")))


def temperatures(text: str) -> list[float]:
    one = values.number(0)
    return list(dict.fromkeys(one(part) for part in text.split(",")))


def run(args: argparse.Namespace) -> str:
    """All of the subcommand: the result as text."""
    pictures = None if args.pictures is None else bench_pictures.folder_for(args.pictures)
    names = [name for name in args.propose if name != PLAIN]
    asked = [(Source(name, rows), source_named(name)) for name, rows in itertools.product(names, args.rows)]
    rows, notes = measure_sources(args, asked, PROG)
    if pictures is not None:
        bench_pictures.draw_run([row for row in rows if row["speed_up"] is not None], pictures)
    if any(row["margins"] and row["temp"] > 0.0 for row in rows):
        notes.append("Above temperature 0 rounding can change a draw whatever the gap of the two best tokens.")
    return render(rows, args.output, COLUMNS, notes)


def measure_sources(args: argparse.Namespace, asked: Sequence[Asked], prog: str) -> tuple[list[Row], list[str]]:
    """The rows of the result, and the lines above its table. Raises KeyboardInterrupt when it was cancelled."""
    prompts, notes = read_prompts(args.prompts)
    path = bench_options.model_path(args, prog)
    with ExitStack() as opened:
        model = opened.enter_context(
            Model(
                path,
                load_mtp=args.heads is not None,
                kernels=args.kernels,
                n_threads=max(args.threads, 0),
                rpc=args.rpc,
                tensor_split=args.tensor_split,
            )
        )
        if args.kernels == "ours" and bench_options.kernels_of(model) == "stock":
            raise ArgumentError(f"--kernels ours: {model.info.kernels_reason}")
        if args.single_turn:
            prompts = in_chat_template(model, prompts)
        limit = args.ctx_size or model.info.n_ctx_train
        jobs, left_out = tokenized(model, prompts, args.predict, limit, args.limit)
        for line in (notes := notes + left_out):
            say(f"{prog}: {line}")
        bench = Bench(args, model, jobs, with_heads(asked, model, args.heads), prog)
        opened.enter_context(bench)
        facts = facts_of(path, model, bench.n_threads)
        facts |= {"kernels": bench_options.kernels_of(model), "type_k": args.cache_type_k, "type_v": args.cache_type_v}
        results = ResultFile(args.resume, settings_of(args, facts, jobs))
        interrupt = opened.enter_context(Interrupt())
        try:
            with interrupt.cancels(bench.cancel):
                bench.measure_all(results)
        except Cancelled:
            if args.resume is not None:
                done = f"{len(results.entries)} of {len(jobs)} prompts are in '{args.resume}'"
                say(f"{prog}: {done}, the same command goes on from there")
            raise KeyboardInterrupt from None
    rows = summarize(results.entries, bench.sources, facts, args)
    return rows, [headline(facts, args), WHAT_IS_TIMED, *notes]


def with_heads(asked: Sequence[Asked], model: Model, heads: str | None) -> list[Asked]:
    """Beside the engine's own evidence the same with the model's heads, or layers of its file, where there are any."""
    if heads == "" and not Path(model.heads_path).is_file() and model.info.n_layer_mtp == 0:
        heads = None
    found = []
    for source, kind in asked:
        found.append((source, kind))
        if heads is not None and source.propose == EVIDENCE:
            found.append((Source(source.propose + WITH_HEADS, source.rows), kind))
    return found


def settings_of(args: argparse.Namespace, facts: Row, jobs: Sequence[Job]) -> Row:
    """What must be the same where a run goes on."""
    same = (
        "build_commit",
        "cpu_info",
        "model_filename",
        "model_size",
        "model_n_params",
        "n_threads",
        "type_k",
        "type_v",
        "kernels",
    )
    chosen = ("propose", "rows", "predict", "temp", "seed", "repetitions", "ignore_eos", "ctx_size", "heads")
    return {
        **{key: facts[key] for key in same},
        **{key: getattr(args, key) for key in chosen},
        "hosts": [*args.rpc, *args.tensor_split],
        "prompts": [f"{job.task}/{job.name}: {len(job.tokens)} tokens" for job in jobs],
    }


class Bench:
    """The engines that decode plainly and with candidates, and the sources of candidates. What learns is there once for
    each temperature and repetition."""

    def __init__(
        self, args: argparse.Namespace, model: Model, jobs: Sequence[Job], asked: Sequence[Asked], prog: str
    ) -> None:
        self._args, self._jobs = args, jobs
        self.sources = [Source(PLAIN, None)]
        self._watched: dict[Case, Watched] = {}
        self._engines: dict[Case, Engine] = {}
        needed = max(len(job.tokens) for job in jobs) + args.predict + ROWS_ROOM
        settings: dict[str, Any] = {
            "n_ctx": args.ctx_size or min(needed, model.info.n_ctx_train),
            "n_threads": max(args.threads, 0),
            "type_k": args.cache_type_k,
            "type_v": args.cache_type_v,
        }
        with ExitStack() as opened:
            # A context for few rows is the faster one: plain decoding is measured at its best.
            self._plain = opened.enter_context(Engine(model, proposer=PLAIN, n_rows_max=1, **settings))
            for source, kind in asked:
                if not kind.runs_on(model):
                    say(f"{prog}: {source.propose} is left out: it cannot work with this model ({model.info.note})")
                    continue
                self.sources.append(source)
                for case in itertools.product([source], args.temp, range(args.repetitions)):
                    if kind.make is not None:
                        self._watched[case] = Watched(kind.make(model, source.rows))
                    else:
                        self._engines[case] = opened.enter_context(
                            Engine(
                                model,
                                proposer=source.propose.removesuffix(WITH_HEADS),
                                rows=AUTO if source.rows is None else source.rows,
                                heads=args.heads if source.propose.endswith(WITH_HEADS) else None,
                                **settings,
                            )
                        )
            for rows in {source.rows for source, _, _ in self._watched}:  # these sources share an engine for each width
                cases = [case for case in self._watched if case[0].rows == rows]
                n_rows_max = max(self._watched[case].n_rows_max for case in cases)
                at_most: dict[str, Any] = {"rows": AUTO if rows is None else n_rows_max, "n_rows_max": n_rows_max}
                shared = opened.enter_context(Engine(model, proposer=PLAIN, **at_most, **settings))
                self._engines |= dict.fromkeys(cases, shared)
            self._opened = opened.pop_all()
        self.n_threads = self._plain.context.n_threads

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._opened.close()

    def cancel(self) -> None:
        for engine in {self._plain, *self._engines.values()}:
            engine.context.cancel()

    def measure_all(self, results: "ResultFile") -> None:
        """Raises Cancelled after cancel()."""
        todo = [(i, job) for i, job in enumerate(self._jobs) if not results.has(i)]
        if not todo:
            return
        with Progress("measuring") as progress:
            for engine in {self._plain, *self._engines.values()}:
                warm_up(engine, todo[0][1].tokens[0])
            for done, (index, job) in enumerate(todo):
                progress(done, len(todo))
                found = self._measure_prompt(index, job)
                results.add({"index": index, "task": job.task, "prompt": job.name, "results": found})

    def _measure_prompt(self, index: int, job: Job) -> list[Row]:
        """The results of one prompt: all temperatures, repetitions and sources."""
        found = []
        for temp, repetition in itertools.product(self._args.temp, range(self._args.repetitions)):
            sampling = SamplingParams(temp=temp, seed=(self._args.seed + repetition) % (options.SEED_MAX + 1))
            # Nobody is always first.
            sources = self.sources[(at := index % len(self.sources)) :] + self.sources[:at]
            runs = {source: self._generate((source, temp, repetition), job, sampling) for source in sources}
            plain = runs[Source(PLAIN, None)]
            for source, run in runs.items():
                split = first_difference(plain.tokens, run.tokens)
                margin = plain.margins[split] if split is not None and split < len(plain.margins) else None
                about = {"propose": source.propose, "rows": source.width, "temp": temp, "repetition": repetition}
                found.append({**about, "split": split, "margin": margin, "measured": asdict(run)})
        return found

    def _generate(self, case: Case, job: Job, sampling: SamplingParams) -> Measured:
        engine = self._engines.get(case, self._plain)
        rest = (self._args.predict, self._args.ignore_eos, self._watched.get(case))
        return measure(engine, job.tokens, sampling, *rest)


def summarize(entries: Sequence[Row], sources: Sequence[Source], facts: Row, args: argparse.Namespace) -> list[Row]:
    """One row for each temperature, task (and all of them together) and source."""
    tasks = list(dict.fromkeys(entry["task"] for entry in entries))
    rows = []
    for temp, task in itertools.product(args.temp, tasks if len(tasks) == 1 else [*tasks, ALL_TASKS]):
        results: dict[tuple[str, str], list[Row]] = {(source.propose, source.width): [] for source in sources}
        for entry in entries:
            if task in (entry["task"], ALL_TASKS):
                for result in sorted(entry["results"], key=lambda result: result["repetition"]):
                    if result["temp"] == temp:
                        results[result["propose"], result["rows"]].append(result)
        plain = [Measured(**result["measured"]) for result in results[PLAIN, AUTO]]
        for (propose, width), found in results.items():
            about = {"task": task, "temp": temp, "propose": propose, "rows": width}
            rows.append({**facts, **about, "seed": args.seed, **pooled(found, plain, args.predict)})
    return rows


def pooled(results: Sequence[Row], plain: Sequence[Measured], n_predict: int) -> Row:
    """What the generations of one source come to, beside those of plain decoding. Times are those of texts of more than
    a token; None where there is no such text."""
    runs = [Measured(**result["measured"]) for result in results]
    splits = [result for result in results if result["split"] is not None]
    about = {
        "n_prompt": round(statistics.mean(run.n_prompt for run in runs)),
        "n_gen": n_predict,
        "n_depth": 0,
        "n_runs": len(runs),
        "n_identical": len(runs) - len(splits),
        "margins": [result["margin"] for result in splits],
    }
    timed = [(a, b) for a, b in zip(plain, runs, strict=True) if a.n_timed and b.n_timed]
    if not timed:
        return {**about, "speed_up": None}
    of_plain, of_source = ([run.gen_ns / run.n_timed for run in side] for side in zip(*timed, strict=True))
    spread = speed_up(of_plain, of_source)
    runs = [run for _, run in timed]
    bins = [run.calibration for run in runs if run.calibration]
    return {
        **about,
        **timing_keys([run.gen_ns for run in runs], [run.n_timed for run in runs]),
        **draft_keys(runs),
        "speed_up": spread.ratio,
        "speed_up_quartiles": [spread.low, spread.high],
        "calibration": [[sum(values) for values in zip(*rows, strict=True)] for rows in zip(*bins, strict=True)],
    }


def headline(facts: Row, args: argparse.Namespace) -> str:
    return (
        f"{facts['model_filename']} ({facts['model_type']}), threads: {facts['n_threads']}, "
        f"{facts['kernels']} kernels, {args.predict} tokens per prompt, {facts['cpu_info']}"
    )


COLUMNS: list[Column] = [
    ("task", plain_text("task")),
    ("temp", plain_text("temp")),
    ("propose", plain_text("propose")),
    ("rows", plain_text("rows")),
    *PER_PASS,
    *SPEED,
    ("identical", lambda row: f"{row['n_identical']} of {row['n_runs']}"),
    ("margins at the splits", lambda row: ", ".join(margin_text(m) for m in row["margins"]) or "-"),
]


def margin_text(margin: float | None) -> str:
    return "ended" if margin is None else f"{margin:.2g}"

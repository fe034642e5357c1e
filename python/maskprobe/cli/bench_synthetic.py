"""maskprobe-bench synthetic: what a stated acceptance gains on this machine, whoever reaches it."""

import argparse
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .. import ArgumentError, Engine, Model, NoProposer, SamplingParams, Session, Step, resolve_model
from ..proposers.oracle import Oracle
from . import bench_options, options, values
from .bench_checkout import cache_folder, checkout_file
from .bench_llama_cpp import LlamaCpp
from .bench_measure import PLAIN, speed_up, timing_keys
from .bench_table import Column, Row, decimals, facts_of, plain_text, render
from .build import HelpFormatter
from .terminal import Progress, say

PROG = "maskprobe-bench synthetic"
LLAMA_CPP = "llama.cpp"  # plain decoding of llama.cpp by itself
ORACLE = "oracle"
SLACK = 64  # tokens of the text known beyond those that are asked for
TAU_AT_ROWS = re.compile(r"(\d+(?:\.\d*)?)@(\d+)")

DESCRIPTION = """\
The model's own text is recorded first. Then an oracle, which knows it, offers trees of a stated number of rows with
which a stated number of tokens per pass comes out; its other candidates are wrong ones. All else is real: engine,
trees, kernels, acceptance. So random weights of a real model's shape will do (--shape), and the result is what this
machine gains if a source of candidates reaches that acceptance, not that one does.

Decoding is greedy and end tokens are forbidden. All run in turns, in every repetition, from the same place. The
speed-up is over plain decoding of llama.cpp by itself (one llama_decode and one greedy draw per token), a ratio of
median times per token. Timed are passes with all that belongs to them, not loading and prompt evaluation. Of the
oracle's own work, its draws are timed too.
"""


@dataclass(frozen=True)
class Target:
    tau: float
    rows: int


@dataclass
class Series:
    """All repetitions of one way to decode."""

    kernels: str
    propose: str
    target: Target | None = None
    n_tokens: list[int] = field(default_factory=list)
    samples_ns: list[int] = field(default_factory=list)
    rows: int = 0
    passes: int = 0
    n_draft: int = 0
    n_splits: int = 0  # places where the text left the recorded one

    @property
    def per_token(self) -> list[float]:
        return [ns / n for ns, n in zip(self.samples_ns, self.n_tokens, strict=True)]


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "synthetic",
        prog=PROG,
        formatter_class=HelpFormatter,
        help="speed-up over llama.cpp at a stated number of tokens and rows per pass",
        description=DESCRIPTION,
    )
    parser.set_defaults(run=run)
    add = partial(options.option, parser)
    source = parser.add_mutually_exclusive_group()
    options.option(source, "-m", "--model", metavar="FILE", help="a GGUF file or a bundled model's name")
    options.option(
        source,
        "--shape",
        metavar="NAME",
        help="random weights in the shape of a model, made once: llama-3.2-1b, qwen3-4b, ... (models/random_gguf.py)",
    )
    add("--type", metavar="TYPE", default="q4_0", help="weights of that")
    add(
        "--tau",
        metavar="TAU@ROWS,...",
        type=targets,
        default="1.5@8,2@16,1.63@30",
        help="tokens per pass, bonus included, at rows per pass",
    )
    add("-n", "--predict", metavar="N", type=values.integer(4, options.INT32), default=32, help="tokens in each turn")
    add("-d", "--depth", metavar="N", type=values.integer(2, options.INT32), default=256, help="tokens in the cache")
    add("-r", "--repetitions", metavar="N", type=values.integer(1), default=5, help="turns")
    bench_options.add_threads(add)
    bench_options.add_kernels(add)
    bench_options.add_form(add)


def targets(text: str) -> list[Target]:
    found = []
    for part in text.split(","):
        match = TAU_AT_ROWS.fullmatch(part.strip())
        if match is None:
            raise values.fail(f"must look like 1.5@8,2@16 (tokens per pass at rows per pass), not '{text}'")
        found.append(Target(float(match[1]), values.integer(2, values.ROWS_MAX)(match[2])))
    return list(dict.fromkeys(found))


def run(args: argparse.Namespace) -> str:
    """All of the subcommand: the result as text."""
    path = resolve_model(args.model) if args.shape is None else random_model(args.shape, args.type)
    names = list(options.KERNELS) if args.kernels == "both" else [args.kernels]
    with ExitStack() as opened, Progress("measuring") as progress:
        decoders = []
        for name in names:
            model = opened.enter_context(
                Model(path, self_check=False, use_kernels=options.KERNELS[name], n_threads=max(args.threads, 0))
            )
            if options.KERNELS[name] and model.info.kernels == "llama.cpp":
                say(f"{PROG}: this machine has no kernels of maskprobe's own: llama.cpp's only")
                continue
            decoders.append(opened.enter_context(Decoder(name, model, args)))
        if not decoders:
            raise ArgumentError("there is nothing to measure: --kernels stock would be")
        facts = facts_of(path, model, decoders[0].n_threads)
        llama = opened.enter_context(
            LlamaCpp(
                path,
                n_ctx=args.depth + args.predict,
                n_threads=decoders[0].n_threads,
                type_k="f16",
                type_v="f16",
                forbidden=model.end_tokens,
            )
        )
        baseline = Series("stock", LLAMA_CPP)
        for decoder in decoders:
            decoder.record()
        llama.generate(decoders[0].prompt, 2)
        for repetition in range(args.repetitions):
            progress(repetition, args.repetitions)
            result = llama.generate(decoders[0].prompt, args.predict)
            baseline.n_tokens.append(len(result.tokens))
            baseline.samples_ns.append(result.gen_ns)
            for decoder in decoders:
                decoder.measure()
    baseline.passes = baseline.rows = sum(baseline.n_tokens)
    series = [baseline, *(s for decoder in decoders for s in decoder.series)]
    rows = [{**facts, **row_of(s, baseline, args)} for s in series]
    return render(rows, args.output, COLUMNS, notes(facts, series))


def random_model(shape: str, weight_type: str) -> Path:
    """The file of random weights, made if it is not there. Raises ArgumentError."""
    script = checkout_file("models/random_gguf.py")
    if script is None:
        raise ArgumentError("--shape needs models/random_gguf.py of a checkout: give a file (-m)")
    path = cache_folder("models") / f"{Path(shape).name}-{Path(weight_type).name}.gguf"
    if not path.exists():
        say(f"{PROG}: writing random weights to '{path}'")
        made = subprocess.run(
            [sys.executable, script, shape, path, "--type", weight_type], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise ArgumentError(f"models/random_gguf.py: {made.stderr.strip().splitlines()[-1]}")
    return path


class Decoder:
    """One set of kernels: a session for plain decoding and one for trees, and the text that they bring forth."""

    def __init__(self, kernels: str, model: Model, args: argparse.Namespace) -> None:
        self._args, self._model = args, model
        self.prompt = [(37 * i + 11) % model.info.n_vocab for i in range(args.depth)]
        widest = max(target.rows for target in args.tau)
        settings = {"n_ctx": args.depth + args.predict + SLACK + widest, "n_threads": max(args.threads, 0)}
        self._plain = Session(model, n_rows_max=1, n_top_max=2, **settings)
        self._trees = Session(model, n_rows_max=widest, n_top_max=2, **settings)
        self.n_threads = self._plain.n_threads
        self.series = [Series(kernels, PLAIN), *(Series(kernels, ORACLE, target) for target in args.tau)]
        self._engines: list[Engine] = []
        self._text: list[int] = []

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._plain.close()
        self._trees.close()

    def record(self) -> None:
        """What follows the prompt. Raises ArgumentError where the oracle cannot do what is asked for."""
        plain = Engine(self._plain, NoProposer())
        recorded = plain.generate(
            self.prompt, SamplingParams(temp=0.0), max_tokens=self._args.predict + SLACK, ignore_eos=True
        )
        self._text = self.prompt + [result.token for result in recorded]
        self._engines = [plain]
        for series in self.series[1:]:
            oracle = Oracle(self._text, self._model.info.n_vocab, tau=series.target.tau, rows=series.target.rows)
            self._engines.append(Engine(self._trees, oracle))
            self._begin(self._engines[-1], len(self.prompt))
            self._engines[-1].step()  # the first pass of a shape makes its graph

    def measure(self) -> None:
        """One turn of each series."""
        for engine, series in zip(self._engines, self.series, strict=True):
            n_known = len(self.prompt)
            self._begin(engine, n_known)
            n_tokens, milliseconds = 0, 0.0
            while n_tokens < self._args.predict:
                step = engine.step()
                n_tokens += len(step.tokens)
                milliseconds += step.decode_ms + step.engine_ms
                self._count(series, step)
                n_same = same(step.tokens, self._text[n_known:])
                n_known += n_same
                if n_same < len(step.tokens):  # rounding made another token the best one
                    series.n_splits += 1
                    self._begin(engine, n_known)
            series.n_tokens.append(n_tokens)
            series.samples_ns.append(round(1e6 * milliseconds))

    def _begin(self, engine: Engine, n_known: int) -> None:
        engine.begin(self._text[:n_known], SamplingParams(temp=0.0), ignore_eos=True)

    @staticmethod
    def _count(series: Series, step: Step) -> None:
        series.passes += 1
        series.rows += step.n_rows
        series.n_draft += step.n_rows - 1


def same(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens the two have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def row_of(series: Series, baseline: Series, args: argparse.Namespace) -> Row:
    spread = speed_up(baseline.per_token, series.per_token)
    n_tokens = sum(series.n_tokens)
    return {
        "n_prompt": 0,
        "n_gen": args.predict,
        "n_depth": args.depth,
        "kernels": series.kernels,
        "propose": series.propose,
        "tokens_per_step_asked": series.target and series.target.tau,
        "rows_per_step_asked": series.target and series.target.rows,
        **timing_keys(series.samples_ns, series.n_tokens),
        "draft_n": series.n_draft,
        "draft_n_accepted": n_tokens - series.passes,
        "rows_per_step": series.rows / series.passes,
        "tokens_per_step": n_tokens / series.passes,
        "median_ms_per_token": statistics.median(series.per_token) / 1e6,
        "ms_per_step": sum(series.samples_ns) / series.passes / 1e6,
        "speed_up": spread.ratio,
        "speed_up_quartiles": [spread.low, spread.high],
        "n_splits": series.n_splits,
    }


def notes(facts: Row, series: Sequence[Series]) -> list[str]:
    lines = [
        f"{facts['model_filename']} ({facts['model_type']}), threads: {facts['n_threads']}, {facts['cpu_info']}",
        "Acceptance is stated, not reached by a source of candidates: what this machine gains if one reaches it.",
    ]
    n_splits = sum(s.n_splits for s in series)
    if n_splits:
        lines.append(f"The text left the recorded one by rounding in {n_splits} passes and was taken up there again.")
    return lines


COLUMNS: list[Column] = [
    ("kernels", plain_text("kernels")),
    ("propose", plain_text("propose")),
    ("asked", lambda row: f"{row['tokens_per_step_asked']:g}@{row['rows_per_step_asked']}" if row["draft_n"] else "-"),
    ("tokens/pass", decimals("tokens_per_step", 3)),
    ("rows/pass", decimals("rows_per_step", 1)),
    ("ms/pass", decimals("ms_per_step", 2)),
    ("t/s", lambda row: f"{row['avg_ts']:.1f} ± {row['stddev_ts']:.1f}"),
    ("speed-up over llama.cpp", decimals("speed_up", 2)),
    ("quartiles", lambda row: "{:.2f} - {:.2f}".format(*row["speed_up_quartiles"])),
]

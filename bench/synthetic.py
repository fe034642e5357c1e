"""What a stated acceptance gains on this machine, whoever reaches it.

python bench/synthetic.py --shape llama-3.2-1b --tau 1.5@4
python bench/synthetic.py --shape llama-3.2-1b --right 0.6
"""

import argparse
import re
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from checkout import kept_random_model
from synthetic_turns import FIXED_ROWS, Decoder, Offer, Series, sweep

from maskprobe import ArgumentError, Model
from maskprobe.cli import bench_options, options, values
from maskprobe.cli.bench import print_result
from maskprobe.cli.bench_measure import speed_up, timing_keys
from maskprobe.cli.bench_plain import LlamaCpp
from maskprobe.cli.bench_table import PER_PASS, RATE, Column, Row, decimals, facts_of, plain_text, quartiles, render
from maskprobe.cli.parser import Parser
from maskprobe.cli.terminal import Progress, say, secure_streams

PROG = "synthetic.py"
LLAMA_CPP = "llama.cpp"  # plain decoding of llama.cpp by itself
TAU_AT_ROWS = re.compile(r"(\d+(?:\.\d*)?)@(\d+)")

DESCRIPTION = """\
The model's own text is recorded first. Then an oracle, which knows it, offers trees of a stated number of rows with
which a stated number of tokens per pass comes out; its other candidates are wrong ones. All else is real: engine,
trees, kernels, acceptance. So random weights of a real model's shape will do (--shape), and the result is what this
machine gains if a source of candidates reaches that acceptance, not that one does.

With --right the planner is held against fixed numbers of rows ({rows}): chains of candidates, each
right at that rate, and the longest of them with as many rows as the planner wants. It has learned before, in one turn
that is not timed, what passes cost here. The best fixed number, of plain decoding's one row too, is found by the times
of the same run, so a little of its lead is luck.

Decoding is greedy and end tokens are forbidden. All run in turns, in every repetition, from the same place. The
speed-up is over plain decoding of llama.cpp by itself (one llama_decode and one greedy draw per token), a ratio of
median times per token. Timed are passes with all that belongs to them, not loading and prompt evaluation. Of the
oracle's own work, its draws are timed too.
""".replace("{rows}", ", ".join(map(str, FIXED_ROWS)))


def setup_arg_parser() -> Parser:
    parser = Parser(prog=PROG, description=DESCRIPTION)
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
    acceptance = parser.add_mutually_exclusive_group()
    options.option(
        acceptance,
        "--tau",
        metavar="TAU@ROWS,...",
        type=targets,
        default="1.5@8,2@16,1.63@30",
        help="tokens per pass, bonus included, at rows per pass",
    )
    options.option(
        acceptance,
        "--right",
        metavar="RATE",
        type=values.number(0.0, 1.0),
        help="how often each candidate of a chain is right, given that the one before it is: the planner against fixed "
        f"numbers of rows, up to {FIXED_ROWS[-1]}",
    )
    add("-n", "--predict", metavar="N", type=values.integer(4), default=32, help="tokens in each turn")
    add("-d", "--depth", metavar="N", type=values.integer(2), default=256, help="tokens in the cache")
    add("-r", "--repetitions", metavar="N", type=values.integer(1), default=5, help="turns")
    bench_options.add_threads(add)
    bench_options.add_kernels(add)
    bench_options.add_form(add)
    return parser


def targets(text: str) -> list[Offer]:
    found = []
    for part in text.split(","):
        match = TAU_AT_ROWS.fullmatch(part.strip())
        if match is None:
            raise values.fail(f"must look like 1.5@8,2@16 (tokens per pass at rows per pass), not '{text}'")
        found.append(Offer(float(match[1]), values.integer(2, values.ROWS_MAX)(match[2])))
    return list(dict.fromkeys(found))


def run(args: argparse.Namespace) -> str:
    """The result as text."""
    path = bench_options.model_path(args, PROG) if args.shape is None else kept_random_model(args.shape, args.type)
    offers = args.tau if args.right is None else sweep(args.right)
    with ExitStack() as opened, Progress("measuring") as progress:
        decoders = []
        for name in bench_options.asked_kernels(args):
            model = opened.enter_context(Model(path, self_check=False, kernels=name, n_threads=max(args.threads, 0)))
            kernels = bench_options.kernels_of(model)
            if name == "ours" and kernels == "stock":
                say(f"{PROG}: llama.cpp's kernels only: {model.info.kernels_reason}")
                continue
            sizes = {"depth": args.depth, "n_predict": args.predict, "n_threads": max(args.threads, 0)}
            decoders.append(opened.enter_context(Decoder(kernels, model, offers, **sizes)))
        if not decoders:
            raise ArgumentError("there is nothing to measure: --kernels stock would be")
        facts = facts_of(path, model, decoders[0].n_threads)
        llama = opened.enter_context(
            LlamaCpp(
                path,
                n_ctx=args.depth + args.predict + 1,
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
            found = llama.generate(decoders[0].prompt, args.predict + 1)
            baseline.n_tokens.append(found.n_timed)
            baseline.samples_ns.append(found.gen_ns)
            baseline.passes_of[1] += found.n_timed
            for decoder in decoders:
                decoder.measure()
    rows = [{**facts, **row_of(baseline, baseline, args)}]
    remarks = notes(facts, [s for decoder in decoders for s in decoder.series])
    for decoder in decoders:
        of_kernels = [{**facts, **row_of(s, baseline, args)} for s in decoder.series]
        if args.right is not None:
            remarks.append(hold_against_fixed(decoder.series, of_kernels))
        rows += of_kernels
    return render(rows, args.output, COLUMNS if args.right is None else [*COLUMNS, OF_BEST_FIXED], remarks)


def row_of(series: Series, baseline: Series, args: argparse.Namespace) -> Row:
    spread = speed_up(baseline.per_token, series.per_token)
    n_tokens = sum(series.n_tokens)
    asked = None if series.planned else series.offer
    return {
        "n_prompt": 0,
        "n_gen": args.predict,
        "n_depth": args.depth,
        "kernels": series.kernels,
        "propose": series.propose,
        "tokens_per_step_asked": None if asked is None else asked.tau,
        "rows_per_step_asked": None if asked is None else asked.rows,
        **timing_keys(series.samples_ns, series.n_tokens),
        "draft_n": series.rows - series.passes,
        "draft_n_accepted": n_tokens - series.passes,
        "rows_per_step": series.rows / series.passes,
        "rows_hist": {str(n): count for n, count in sorted(series.passes_of.items())},
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


def hold_against_fixed(series: Sequence[Series], rows: Sequence[Row]) -> str:
    """Puts each one's speed by that of the best fixed number of rows into its line of the result; a line of text on the
    planner's. Plain decoding is the fixed number 1."""
    median = [statistics.median(s.per_token) for s in series]
    best = min((i for i, s in enumerate(series) if not s.planned), key=median.__getitem__)
    n_best = 1 if series[best].offer is None else series[best].offer.rows
    for row, nanoseconds in zip(rows, median, strict=True):
        row.update(of_best_fixed=median[best] / nanoseconds, best_fixed_rows=n_best)
    planned = next(i for i, s in enumerate(series) if s.planned)
    spread = speed_up(series[best].per_token, series[planned].per_token)
    chosen = ", ".join(f"{n} ({count})" for n, count in series[planned].passes_of.most_common())
    return (
        f"{series[planned].kernels}: planned / best fixed = {spread.ratio:.3f} (quartiles {spread.low:.3f} - "
        f"{spread.high:.3f}). The best fixed number of rows is {n_best}; the planner's, in how many passes: {chosen}."
    )


def asked_of(row: Row) -> str:
    tau = row["tokens_per_step_asked"]
    return "-" if tau is None else f"{tau:.4g}@{row['rows_per_step_asked']}"


COLUMNS: list[Column] = [
    ("kernels", plain_text("kernels")),
    ("propose", plain_text("propose")),
    ("asked", asked_of),
    *PER_PASS,
    ("ms/pass", decimals("ms_per_step", 2)),
    RATE,
    ("speed-up over llama.cpp", decimals("speed_up", 2)),
    quartiles("speed_up_quartiles"),
]
OF_BEST_FIXED: Column = ("of the best fixed", decimals("of_best_fixed", 3))


def main(argv: Sequence[str] | None = None) -> int:
    secure_streams()
    return print_result(PROG, run, setup_arg_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

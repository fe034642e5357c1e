"""maskprobe-bench: what a pass costs on this machine, and what candidates gain on it."""

import argparse
import json
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .. import Error, Model, Session, TokenTree, resolve_model
from . import bench_peers, bench_pictures, bench_run, bench_synthetic, bench_trace, options, values
from .bench_table import facts_of
from .build import HelpFormatter, Parser
from .interrupt import EXIT_STATUS
from .terminal import Completion, OutputClosed, Progress, say, secure_streams

PROG = "maskprobe-bench"
DEFAULT_ROWS = "1,2,4,8,12,16,24,32"


@dataclass
class Point:
    """T(n): the samples of one number of rows with one set of kernels."""

    kernels: str
    n_rows: int
    samples_ns: list[int] = field(default_factory=list)


def setup_arg_parser() -> Parser:
    parser = Parser(prog=PROG, description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    cost = commands.add_parser(
        "cost",
        prog=f"{PROG} cost",
        formatter_class=HelpFormatter,
        help="T(n): the time of one pass of n rows",
        description="Times one pass of n rows (a root and n - 1 candidates), for several n and kernels in turns: what "
        "disturbs the machine disturbs them alike. Medians; ratios are what can be trusted.",
    )
    add = partial(options.option, cost)
    add("-m", "--model", metavar="FILE", help="a GGUF file or a bundled model's name; default: that one")
    add("--rows", metavar="N,N,...", type=row_counts, default=DEFAULT_ROWS, help="rows of the passes")
    add("-d", "--depth", metavar="N", type=values.integer(0), default=256, help="tokens in the cache")
    add(
        "-t",
        "--threads",
        metavar="N",
        type=values.integer(-1, options.THREADS_MAX),
        default=-1,
        help="threads, -1 = one for each physical core",
    )
    add(
        "--kernels",
        choices=["both", *options.KERNELS],
        metavar="both|ours|stock",
        default="both",
        help="maskprobe's own, llama.cpp's, or both in turns",
    )
    add("-r", "--repetitions", metavar="N", type=values.integer(1), default=7, help="passes of each kind")
    add("--pictures", metavar="DIR", help="also draw T(n) into this folder (needs matplotlib)")
    add("-o", "--output", choices=["md", "json"], metavar="md|json", default="md", help="form of the result")
    cost.set_defaults(run=cost_text)
    for module in (bench_run, bench_synthetic, bench_peers, bench_trace):
        module.add_command(commands)
    return parser


def row_counts(text: str) -> list[int]:
    one = values.integer(1, 256)
    return [one(part) for part in text.split(",")]


def main(argv: list[str] | None = None) -> int:
    secure_streams()
    args = setup_arg_parser().parse_args(argv)
    try:
        out = Completion("off")
        out.write(args.run(args))
        return 0
    except KeyboardInterrupt:
        say(f"{PROG}: interrupted")
        return EXIT_STATUS
    except (Error, OutputClosed) as error:
        say(f"{PROG}: error: {error}")
        return 1


def cost_text(args: argparse.Namespace) -> str:
    pictures = None if args.pictures is None else bench_pictures.folder_for(args.pictures)
    points, facts = measure_cost(args)
    if pictures is not None:
        medians = {(p.kernels, p.n_rows): statistics.median(p.samples_ns) for p in points}
        bench_pictures.draw_cost(medians, pictures)
    return as_json(points, facts) if args.output == "json" else as_markdown(points, facts)


def measure_cost(args: argparse.Namespace) -> tuple[list[Point], dict[str, Any]]:
    path = resolve_model(args.model)
    names = list(options.KERNELS) if args.kernels == "both" else [args.kernels]
    points = {(name, n): Point(name, n) for name in names for n in args.rows}
    with ExitStack() as opened, Progress("measuring") as progress:
        sessions = {}
        for name in names:
            model = opened.enter_context(
                Model(path, self_check=False, use_kernels=options.KERNELS[name], n_threads=max(args.threads, 0))
            )
            if options.KERNELS[name] and model.info.kernels == "llama.cpp":
                say(f"{PROG}: this machine has no kernels of maskprobe's own: llama.cpp's only")
                points = {key: point for key, point in points.items() if key[0] != name}
                continue
            session = Session(
                model,
                n_ctx=args.depth + max(args.rows) + 8,
                n_rows_max=max(args.rows),
                n_threads=max(args.threads, 0),
            )
            sessions[name] = opened.enter_context(session)
            n_vocab = model.info.n_vocab
            sessions[name].set_prefix([(37 * i + 11) % n_vocab for i in range(args.depth)])
        trees = {n: tree_of(n, n_vocab) for n in args.rows}
        for point in points.values():  # the first pass of a shape makes its graph
            sessions[point.kernels].decode(trees[point.n_rows], 1)
        for repetition in range(args.repetitions):
            progress(repetition, args.repetitions)
            for n in args.rows:
                for name in sessions:
                    result = sessions[name].decode(trees[n], 1)
                    points[name, n].samples_ns.append(1000 * (result.decode_us + result.engine_us))
        facts = {**facts_of(path, model, session.n_threads), "n_prompt": 0, "n_gen": 0, "n_depth": args.depth}
    return list(points.values()), facts


def tree_of(n_rows: int, n_vocab: int) -> TokenTree:
    """A root and its n_rows - 1 children."""
    tree = TokenTree(1)
    for i in range(1, n_rows):
        tree.add(0, (101 * i + 2) % n_vocab, 0.0)
    return tree


def as_json(points: list[Point], facts: dict[str, Any]) -> str:
    lines = []
    for point in points:
        samples = point.samples_ns
        rates = [1e9 * point.n_rows / sample for sample in samples]
        own = {
            "kernels": point.kernels,
            "n_rows": point.n_rows,
            "avg_ns": round(statistics.mean(samples)),
            "median_ns": round(statistics.median(samples)),
            "stddev_ns": round(statistics.pstdev(samples)),
            "avg_ts": statistics.mean(rates),
            "stddev_ts": statistics.pstdev(rates),
            "samples_ns": samples,
            "samples_ts": rates,
        }
        lines.append(json.dumps({**facts, **own}))
    return "[\n" + ",\n".join(lines) + "\n]\n"


def as_markdown(points: list[Point], facts: dict[str, Any]) -> str:
    medians = {(p.kernels, p.n_rows): statistics.median(p.samples_ns) for p in points}
    lines = [
        f"{facts['model_filename']} ({facts['model_type']}), {facts['n_threads']} threads, "
        f"{facts['n_depth']} tokens in the cache, {facts['cpu_info']}",
        "",
        "| kernels | rows | ms per pass | T(n)/T(1) | GB/s of weights | GMAC/s | of stock |",
        "|---|---|---|---|---|---|---|",
    ]
    for (kernels, n_rows), ns in medians.items():
        one, stock = medians.get((kernels, 1)), medians.get(("stock", n_rows))
        cells = [
            kernels,
            str(n_rows),
            f"{ns / 1e6:.2f}",
            f"{ns / one:.2f}" if one else "-",
            f"{facts['model_size'] / ns:.1f}",
            f"{facts['model_n_params'] * n_rows / ns:.0f}",
            f"{ns / stock:.2f}" if stock else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

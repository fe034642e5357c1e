"""maskprobe-bench cost: T(n), the time of one pass of n rows, and where it goes."""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from operator import sub
from typing import Any

from .. import ArgumentError, Model, Session, TokenTree
from ..model import MachineSpeed, measure_machine
from ..session import Part
from . import bench_options, bench_pictures, options, values
from .bench_table import Column, Row, decimals, facts_of, plain_text, render
from .parser import Parser
from .terminal import Progress, say

PROG = "maskprobe-bench cost"
HELP = "T(n): the time of one pass of n rows, and where it goes"
DEFAULT_ROWS = "1,2,4,8,12,16,24,32"
N_UBATCH = 512  # rows of a prompt that are computed together, llama.cpp's default

DESCRIPTION = """\
Times one pass of n rows (a root and n - 1 candidates), for several n and kernels in turns: what disturbs the machine
disturbs them alike. Medians; ratios are what can be trusted.

With maskprobe's kernels the time is divided: products by the type of their weights, head (the output matrix),
attention, rest (llama.cpp's own operations and all else inside llama_decode), engine (maskprobe outside of it).
The ceilings are measured in the same run with as many threads: reading a large buffer, and the dot products of the
instruction set on registers alone.
"""


@dataclass
class Point:
    """The samples of one number of rows with one set of kernels."""

    kernels: str
    n_rows: int
    is_prompt: bool = False
    samples_ns: list[int] = field(default_factory=list)
    engine_ns: list[int] = field(default_factory=list)
    parts: dict[str, list[Part]] = field(default_factory=dict)  # of each sample


def add_options(parser: Parser) -> None:
    add = partial(options.option, parser)
    bench_options.add_model(add)
    add("--rows", metavar="N,N,...", type=row_counts, default=DEFAULT_ROWS, help="rows of the passes")
    add("--prompt", metavar="N", type=values.integer(1), help="also time the evaluation of a prompt of N tokens")
    add("-d", "--depth", metavar="N", type=values.integer(0), default=256, help="tokens in the cache")
    bench_options.add_threads(add)
    options.add_hosts(parser)
    bench_options.add_kernels(add)
    add(
        "--isa",
        metavar="NAME",
        help="instruction set of maskprobe's kernels, such as avx2 or portable; default: the processor's best",
    )
    add("-r", "--repetitions", metavar="N", type=values.integer(1), default=7, help="passes of each kind")
    add("--pictures", metavar="DIR", help="also draw T(n) into this folder (needs matplotlib)")
    bench_options.add_form(add)


def row_counts(text: str) -> list[int]:
    one = values.integer(1, 256)
    return [one(part) for part in text.split(",")]


def run(args: argparse.Namespace) -> str:
    pictures = None if args.pictures is None else bench_pictures.folder_for(args.pictures)
    if args.isa:
        os.environ["MASKPROBE_ISA"] = args.isa
    rows = measure(args)
    if pictures is not None:
        medians = {(row["kernels"], row["n_rows"]): row["median_ns"] for row in rows if not row["n_prompt"]}
        bench_pictures.draw_cost(medians, pictures)
    return render(rows, args.output, columns_of(rows), notes_of(rows[0]))


def measure(args: argparse.Namespace, budget_s: float = math.inf) -> list[Row]:
    """A row for each kind of pass, after about `budget_s` seconds at most."""
    path = bench_options.model_path(args, PROG)
    with ExitStack() as opened, Progress("measuring") as progress:
        sessions: dict[str, Session] = {}
        for name in bench_options.asked_kernels(args):
            session = opened.enter_context(open_session(args, path, name, rpc=args.rpc, tensor_split=args.tensor_split))
            kernels = bench_options.kernels_of(session.model)
            if name == "ours" and kernels == "stock":
                say(f"{PROG}: llama.cpp's kernels only: {session.model.info.kernels_reason}")
                continue
            sessions[kernels] = session
        if not sessions:
            raise ArgumentError("there is nothing to measure: use --kernels stock")
        speed = measure_machine(session.n_threads)
        shapes = [(n, False) for n in args.rows] + [(args.prompt, True)] * bool(args.prompt)
        pairs = [(session, Point(name, *shape)) for shape in shapes for name, session in sessions.items()]
        sample_in_turns(pairs, args.depth, args.repetitions, progress, budget_s)
        facts = facts_of(path, session.model, session.n_threads)
        isa = [session.model.info.kernels for name, session in sessions.items() if name == "ours"]
        packed = [session.model.info.packed_size for session in sessions.values()]
    facts |= {"n_gen": 0, "n_depth": args.depth, "isa": isa[0] if isa else None, "packed_size": max(packed)}
    return list(rows_of([point for _, point in pairs], facts, speed))


def open_session(args: argparse.Namespace, path: os.PathLike[str], kernels: str, **hosts: Any) -> Session:
    """`hosts` are Model's rpc and tensor_split."""
    n_threads = max(args.threads, 0)
    model = Model(path, self_check=False, kernels=kernels, n_threads=n_threads, **hosts)
    if kernels != "stock" and args.isa and model.info.kernels.lower() != args.isa:
        raise ArgumentError(f"--isa {args.isa}: this process uses {model.info.kernels} already")
    session = Session(
        model,
        n_ctx=args.depth + max(*args.rows, args.prompt or 0) + 8,
        n_rows_max=max(args.rows),
        n_ubatch=max(N_UBATCH, *args.rows),
        n_threads=n_threads,
    )
    model.close()  # the session keeps it
    session.set_prefix(tokens_of(args.depth, model.info.n_vocab))
    return session


def tokens_of(n: int, n_vocab: int) -> list[int]:
    return [(37 * i + 11) % n_vocab for i in range(n)]


def tree_of(n_rows: int, n_vocab: int) -> TokenTree:
    """A root and its n_rows - 1 children."""
    tree = TokenTree(1)
    for i in range(1, n_rows):
        tree.add(0, (101 * i + 2) % n_vocab, 0.0)
    return tree


def sample_in_turns(
    pairs: Sequence[tuple[Session, Point]],
    depth: int,
    repetitions: int,
    progress: Callable[[float, float], None],
    budget_s: float = math.inf,
) -> None:
    """So many samples of each point, all points once in every round. No round but the first begins after `budget_s`
    seconds."""
    began = time.monotonic()
    for repetition in range(-1, repetitions):  # the first pass of a shape makes its graph
        if repetition > 0 and time.monotonic() - began > budget_s:
            break
        progress(max(repetition, 0), repetitions)
        for session, point in pairs:
            sample(session, point, depth, keep=repetition >= 0)


def sample(session: Session, point: Point, depth: int, keep: bool) -> None:
    """One pass, or one prompt after the tokens in the cache."""
    n_vocab = session.model.info.n_vocab
    before = session.parts()
    if point.is_prompt:
        prompt = tokens_of(depth + point.n_rows, n_vocab)
        start = time.perf_counter_ns()
        session.set_prefix(prompt)
        ns, engine_ns = time.perf_counter_ns() - start, 0
        session.set_prefix(prompt[:depth])
    else:
        result = session.decode(tree_of(point.n_rows, n_vocab), 1)
        ns, engine_ns = 1000 * (result.decode_us + result.engine_us), 1000 * result.engine_us
    if not keep:
        return
    point.samples_ns.append(ns)
    point.engine_ns.append(engine_ns)
    for name, part in session.parts().items():
        point.parts.setdefault(name, []).append(part - before[name] if name in before else part)


def rows_of(points: list[Point], facts: Row, speed: MachineSpeed) -> Iterator[Row]:
    medians = {(p.kernels, p.n_rows, p.is_prompt): statistics.median(p.samples_ns) for p in points}
    for point in points:
        ns = medians[point.kernels, point.n_rows, point.is_prompt]
        one = medians.get((point.kernels, 1, False))
        stock = medians.get(("stock", point.n_rows, point.is_prompt))
        parts = {
            name: {key: statistics.median(getattr(part, key) for part in parts) for key in ("ns", "bytes", "macs")}
            for name, parts in point.parts.items()
        }
        ours = zip(*point.parts.values(), strict=True)  # by sample
        known = [engine + sum(part.ns for part in parts) for engine, parts in zip(point.engine_ns, ours, strict=False)]
        rates = [1e9 * point.n_rows / sample for sample in point.samples_ns]
        yield {
            **facts,
            "kernels": point.kernels,
            "n_prompt": point.n_rows if point.is_prompt else 0,
            "n_rows": point.n_rows,
            "avg_ns": round(statistics.mean(point.samples_ns)),
            "median_ns": round(ns),
            "stddev_ns": round(statistics.pstdev(point.samples_ns)),
            "avg_ts": statistics.mean(rates),
            "stddev_ts": statistics.pstdev(rates),
            "samples_ns": point.samples_ns,
            "samples_ts": rates,
            "of_one_row": ns / one if one else None,
            "speed_up": stock / ns if stock else None,
            "bytes_per_second": 1e9 * facts["model_size"] / ns,
            "macs_per_second": 1e9 * facts["model_n_params"] * point.n_rows / ns,
            "parts": parts,
            "rest_ns": round(statistics.median(map(sub, point.samples_ns, known))) if known else None,
            "engine_ns": round(statistics.median(point.engine_ns)),
            "machine_read_bytes_per_second": speed.read_bytes_per_second,
            "machine_int8_macs_per_second": speed.int8_macs_per_second,
        }


def notes_of(row: Row) -> list[str]:
    speed = f"{row['n_threads']} threads of this machine read {row['machine_read_bytes_per_second'] / 1e9:.1f} GB/s"
    if row["machine_int8_macs_per_second"]:
        speed += f" and compute {row['machine_int8_macs_per_second'] / 1e9:.0f} GMAC/s of int8 products on registers"
    lines = [
        f"{row['model_filename']} ({row['model_type']}), {row['n_threads']} threads, {row['n_depth']} tokens in the "
        f"cache, {row['cpu_info']}",
        speed,
    ]
    if row["isa"]:
        lines.append(f"ours: {row['isa']}, {row['packed_size'] / 2**20:.0f} MiB of weights packed into memory")
    return [line + "  " for line in lines]  # a line of its own in markdown


def columns_of(rows: list[Row]) -> list[Column]:
    def scaled(key: str, unit: float, digits: int) -> Callable[[Row], str]:
        return lambda row: "-" if row[key] is None else f"{row[key] / unit:.{digits}f}"

    def part(name: str) -> Callable[[Row], str]:
        return lambda row: f"{row['parts'][name]['ns'] / 1e6:.2f}" if name in row["parts"] else "-"

    names = list(dict.fromkeys(name for row in rows for name in row["parts"]))
    return [
        ("kernels", plain_text("kernels")),
        ("rows", lambda row: f"prompt of {row['n_prompt']}" if row["n_prompt"] else str(row["n_rows"])),
        ("ms", scaled("median_ns", 1e6, 2)),
        ("T(n)/T(1)", decimals("of_one_row", 2)),
        ("times stock", decimals("speed_up", 2)),
        ("GB/s of weights", scaled("bytes_per_second", 1e9, 1)),
        ("GMAC/s", scaled("macs_per_second", 1e9, 0)),
        *((f"{name} ms", part(name)) for name in names),
        ("rest ms", scaled("rest_ns", 1e6, 2)),
        ("engine ms", scaled("engine_ns", 1e6, 2)),
    ]

"""Layers on two other hosts, with time added to each round trip: what drafting gains, and how well the planner chooses.

    python bench/rpc.py -o bench/results/rpc.md

Starts two workers of ggml's RPC on this machine, each with a delaying proxy before it (delay_proxy.py). Every prompt is
decoded plainly, with fixed numbers of rows, and with as many as the planner takes, in turns. Prints Markdown. Where
llama-cpp-python was built without the RPC backend, GGML_BACKEND_PATH must name it (docs/hosts.md).
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from delay_proxy import DelayProxy
from local_worker import worker

from maskprobe import ArgumentError, Engine, Model, ModelError, SamplingParams, resolve_model
from maskprobe.cli.bench import print_result
from maskprobe.cli.bench_measure import Measured, measure
from maskprobe.cli.bench_prompts import Job, in_chat_template, read_prompts, tokenized
from maskprobe.cli.bench_run import ROWS_ROOM
from maskprobe.cli.bench_table import Column, Row, decimals, facts_of, markdown, plain_text
from maskprobe.cli.terminal import Progress, secure_streams

PROG = "rpc.py"
PLAIN, AUTO = "plain", "auto"
GREEDY = SamplingParams(temp=0.0)

HOW = (
    "Two workers on this machine with one thread each, half of the layers on each; the time is added to each round "
    "trip between this process and either of them. Greedy. Every way decodes every prompt, in turns that begin with "
    "another one each time; it has learned from the prompts before. The first prompt is not counted: with it ggml asks "
    "the workers for the sizes of each new number of rows, and the planner learns what passes take. Decoding only, "
    "from the first token to the last. As one process: answers that are those of plain decoding with llama.cpp's "
    "kernels in one process."
)


def setup_arg_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", metavar="FILE", help="a GGUF file or a known model's name (default: smollm2)")
    parser.add_argument("--prompts", metavar="SET|FILE", nargs="+", default=[], help="default: the project's own")
    parser.add_argument("--limit", metavar="N", type=int, default=5, help="prompts, evenly spread")
    parser.add_argument("--ms", metavar="X", type=float, nargs="+", default=[0.0, 20.0, 200.0], help="per round trip")
    parser.add_argument("--rows", metavar="N", type=int, nargs="+", default=[2, 4, 8, 16, 32], help="fixed numbers")
    parser.add_argument("--cache", metavar="TYPE", default="f16", help="type of keys and values")
    parser.add_argument("-n", "--predict", metavar="N", type=int, default=64, help="tokens of each answer")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="written there too")
    return parser


def run(args: argparse.Namespace) -> str:
    """The page as text."""
    path = resolve_model(args.model)
    with contextlib.ExitStack() as opened:
        ports = [opened.enter_context(worker()) for _ in range(2)]
        proxies = [opened.enter_context(DelayProxy(("127.0.0.1", port), 0.0)) for port in ports]
        hosts = [f"127.0.0.1:{proxy.port}" for proxy in proxies]
        model = opened.enter_context(Model(path, rpc=hosts, tensor_split=[1.0, 1.0], n_threads=1))
        jobs = jobs_of(model, args)
        alone = tokens_in_one_process(path, jobs, args)
        facts = facts_of(path, model, 1)
        placement = model.info.placement
        for name, proxy in zip(("the first", "the second"), proxies, strict=True):
            placement = placement.replace(f"127.0.0.1:{proxy.port}", name)
        parts = [
            f"# Layers on other hosts: {path.name}\n",
            f"{facts['test_time'][:10]}, {facts['build_commit']}, {facts['cpu_info']}; {len(jobs) - 1} prompts after "
            f"the first, {args.predict} tokens each, a cache of {args.cache}; {placement}.\n",
            HOW + "\n",
        ]
        for ms in args.ms:
            for proxy in proxies:
                proxy.delay_s = ms / 2000
            parts.append(f"## {ms:g} ms for each round trip\n")
            parts.append(section(compared(model, jobs, alone, ms, args)))
            if args.output is not None:
                args.output.write_text("\n".join(parts), encoding="utf-8")
    return "\n".join(parts)


def jobs_of(model: Model, args: argparse.Namespace) -> list[Job]:
    """Raises ArgumentError where there are fewer than two prompts."""
    prompts, _ = read_prompts(args.prompts)
    with contextlib.suppress(ModelError):  # it has no template
        prompts = in_chat_template(model, prompts)
    jobs, _ = tokenized(model, prompts, args.predict, model.info.n_ctx_train, None)
    n = min(args.limit, len(jobs))
    if n < 2:
        raise ArgumentError(f"{n} prompts: one is for the warm-up, more are needed (--prompts, --limit)")
    return [jobs[i * len(jobs) // n] for i in range(n)]


def tokens_in_one_process(path: Path, jobs: Sequence[Job], args: argparse.Namespace) -> list[list[int]]:
    with (
        Model(path, kernels="stock", n_threads=1) as model,
        Engine(model, proposer="none", **settings_for(jobs, args)) as engine,
    ):
        return [measure(engine, job.tokens, GREEDY, args.predict, ignore_eos=True).tokens for job in jobs]


def settings_for(jobs: Sequence[Job], args: argparse.Namespace) -> dict[str, Any]:
    n_ctx = max(len(job.tokens) for job in jobs) + args.predict + ROWS_ROOM
    return {"n_ctx": n_ctx, "n_threads": 1, "type_k": args.cache, "type_v": args.cache}


def compared(
    model: Model,
    jobs: Sequence[Job],
    alone: Sequence[list[int]],
    ms: float,
    args: argparse.Namespace,
) -> list[Row]:
    ways: dict[str, dict[str, Any]] = {PLAIN: {"proposer": "none"}}
    ways |= {str(n): {"rows": n} for n in args.rows}
    ways[AUTO] = {}
    runs: dict[str, list[Measured]] = {name: [] for name in ways}
    with contextlib.ExitStack() as opened, Progress(f"{ms:g} ms") as progress:
        settings = {**settings_for(jobs, args), "n_rows_max": max(args.rows)}
        engines = {name: opened.enter_context(Engine(model, **{**settings, **way})) for name, way in ways.items()}
        names = list(ways)
        for i, job in enumerate(jobs):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                runs[name].append(measure(engines[name], job.tokens, GREEDY, args.predict, ignore_eos=True))
            progress(i + 1, len(jobs))
    rows = []
    for name, found in runs.items():
        counted = found[1:]
        passes, n_gen = sum(run.passes for run in counted), sum(run.n_timed for run in counted)
        seconds = sum(run.gen_ns for run in counted) / 1e9
        n_same = sum(run.tokens == tokens for run, tokens in zip(counted, alone[1:], strict=True))
        rows.append(
            {
                "way": name,
                "per_pass": n_gen / passes,
                "rows": sum(run.rows for run in counted) / passes,
                "pass_ms": 1000 * seconds / passes,
                "rate": n_gen / seconds,
                "first": found[0].n_timed * 1e9 / found[0].gen_ns,
                "identical": f"{n_same} of {len(counted)}",
            }
        )
    for row in rows:
        row["gain"] = row["rate"] / rows[0]["rate"]
    return rows


def section(rows: Sequence[Row]) -> str:
    best = max(rows[:-1], key=lambda row: row["rate"])
    way = PLAIN if best["way"] == PLAIN else f"{best['way']} rows"
    return (
        markdown(rows, COLUMNS)
        + f"\nThe planner's choice gives {rows[-1]['gain']:.2f} times the tokens of plain decoding, and "
        + f"{rows[-1]['rate'] / best['rate']:.2f} times those of the best fixed one ({way}).\n"
    )


COLUMNS: list[Column] = [
    ("rows", plain_text("way")),
    ("tokens per pass", decimals("per_pass", 2)),
    ("rows per pass", decimals("rows", 1)),
    ("ms per pass", decimals("pass_ms", 1)),
    ("t/s", decimals("rate", 2)),
    ("over plain", decimals("gain", 2)),
    ("t/s, first prompt", decimals("first", 2)),
    ("as one process", plain_text("identical")),
]


def main(argv: Sequence[str] | None = None) -> int:
    secure_streams()
    return print_result(PROG, run, setup_arg_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

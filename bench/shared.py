"""Conversations that share passes, against the same ones one after another.

    python bench/shared.py -m SmolLM2-135M-Instruct.Q4_1.gguf --prompts question.jsonl
    python bench/shared.py --shape llama-3.2-1b --temps 0 -o bench/results/shared-passes.md

Measures, for each number of conversations and each temperature, tokens per second together and one after another, in
turns, and compares every answer with the answer alone, token for token. Then how long others wait while a long prompt
is evaluated. Prints Markdown; -o appends it to a file as a section.
"""

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from checkout import kept_random_model
from real_speed import counted

from maskprobe import ArgumentError, Engine, Generation, Model, SamplingParams, resolve_model
from maskprobe.cli import bench_cost
from maskprobe.cli.bench import print_result
from maskprobe.cli.bench_decoders import jobs_of
from maskprobe.cli.bench_measure import PLAIN
from maskprobe.cli.bench_prompts import read_prompts
from maskprobe.cli.bench_run import ROWS_ROOM
from maskprobe.cli.bench_table import Column, Row, decimals, facts_of, markdown, plain_text
from maskprobe.cli.terminal import Progress, secure_streams

PROG = "shared.py"
LONGEST_PROMPT = 200  # tokens of a conversation's prompt
MADE_PROMPT = 48  # tokens, where the weights are random
WARM_UP = 32  # tokens that are generated before the clock starts: the planner has seen passes of many rows then
BEFORE_LONG = 40  # passes of every conversation before the long prompt comes
SEED = 7
DEPTH = 256  # tokens in the cache where T(n) is measured

HOW = (
    "Together: the conversations are generations of one engine, each with a share of every pass. One after another: "
    "the same prompts and seeds, one at a time. Both draft, with rows as many as pay, and have learned nothing but "
    "from a warm-up with another prompt. They take turns; medians over the rounds. Decoding: tokens per second from "
    "the first token of the last conversation to begin until the first one ends. Whole: all tokens by all of the time, "
    "prompts included."
)
HOW_LONG = (
    "Waits: the longest time between two passes of any of the other conversations, from when the long prompt was "
    "handed over until its first token, in units of the median time between two passes before."
)


@dataclass
class Run:
    """What came of some conversations."""

    answers: list[list[int]]
    seconds: float  # of all
    decode_seconds: float  # while all of them decode
    n_decoded: int  # tokens that came then


def setup_arg_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", metavar="FILE", help="a GGUF file or a known model's name (default: smollm2)")
    parser.add_argument("--shape", metavar="NAME", help="random weights in the shape of a model instead, in Q4_0")
    parser.add_argument("--prompts", metavar="FILE", help="prompts of the conversations (default: the project's own)")
    parser.add_argument("--conversations", type=int, nargs="+", default=[4, 16], metavar="N")
    parser.add_argument("--temps", type=float, nargs="+", default=[0.0, 0.8], metavar="X")
    parser.add_argument("-n", "--predict", type=int, default=128, metavar="N", help="tokens of each answer")
    parser.add_argument("-r", "--rounds", type=int, default=5, metavar="N")
    parser.add_argument("-t", "--threads", type=int, default=1, metavar="N")
    parser.add_argument("--long", type=int, default=2000, metavar="N", help="tokens of the long prompt, 0 = without")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="a section is appended to this file")
    return parser


def run(args: argparse.Namespace) -> str:
    """The section as text."""
    path = resolve_model(args.model) if args.shape is None else kept_random_model(args.shape, "q4_0")
    with Model(path, n_threads=args.threads) as model, Progress(path.name) as progress:
        prompts = prompts_of(model, args)
        cases = [(n, temp) for n in args.conversations for temp in args.temps]
        rows = []
        for i, (n, temp) in enumerate(cases):
            rows.append(throughput(model, prompts[:n], prompts[-1], temp, args))
            progress(i + 1, len(cases) + 1)
        waits = [wait_for_long(model, prompts, args) for _ in range(args.rounds)] if args.long else []
        facts = facts_of(path, model, args.threads)
    costs = pass_costs(path, args)
    text = section(facts, rows, waits, costs, args)
    if args.output is not None:
        with args.output.open("a", encoding="utf-8") as file:
            file.write(f"\n{text}")
    return text


def prompts_of(model: Model, args: argparse.Namespace) -> list[list[int]]:
    """One for each conversation, and another one for the warm-up. Raises ArgumentError where there are too few."""
    n = max(args.conversations) + 1
    if args.shape is not None:
        n_vocab = model.info.n_vocab
        return [[(37 * i + 101 * k + 11) % n_vocab for i in range(MADE_PROMPT)] for k in range(n)]
    jobs, _, _ = jobs_of(model, read_prompts([args.prompts] if args.prompts else [])[0], args.predict)
    short = [job.tokens for job in jobs if len(job.tokens) <= LONGEST_PROMPT]
    if len(short) < n:
        raise ArgumentError(f"{len(short)} prompts have at most {LONGEST_PROMPT} tokens, {n} are needed (--prompts)")
    return [short[i * len(short) // n] for i in range(n)]


def throughput(
    model: Model, prompts: Sequence[list[int]], warm_up: list[int], temp: float, args: argparse.Namespace
) -> Row:
    n = len(prompts)
    longest = max(map(len, [*prompts, warm_up]))
    settings = {"n_ctx": longest + max(args.predict, WARM_UP) + ROWS_ROOM, "n_threads": args.threads}
    sampling = [SamplingParams(temp=temp, seed=SEED + i) for i in range(n)]
    with Engine(model, proposer=PLAIN, **settings) as engine:
        plain = one_after_another(engine, prompts, sampling, args.predict).answers
    runs: dict[bool, list[Run]] = {True: [], False: []}  # by whether they share passes
    for i in range(args.rounds):
        for shares in (True, False) if i % 2 else (False, True):
            with Engine(model, n_parallel=n if shares else 1, **settings) as engine:
                way = together if shares else one_after_another
                warm = [warm_up[k % len(warm_up) :] + warm_up[: k % len(warm_up)] for k in range(n if shares else 1)]
                way(engine, warm, sampling[: len(warm)], WARM_UP)
                found = way(engine, prompts, sampling, args.predict)
                if found.n_decoded == 0:
                    raise ArgumentError(
                        f"with {args.predict} tokens no time is left in which {n} decode: more are needed (-n)"
                    )
                runs[shares].append(found)
    answers = [(answer, k) for found in runs[True] for k, answer in enumerate(found.answers)]
    alone = [found.answers for found in runs[False]]
    rates = {shares: [found.n_decoded / found.decode_seconds for found in of_kind] for shares, of_kind in runs.items()}
    whole = {
        shares: [sum(map(len, found.answers)) / found.seconds for found in of_kind] for shares, of_kind in runs.items()
    }
    single = [a / b for a, b in zip(rates[True], rates[False], strict=True)]
    return {
        "n": n,
        "temp": temp,
        "together": statistics.median(rates[True]),
        "alone": statistics.median(rates[False]),
        "ratio": statistics.median(rates[True]) / statistics.median(rates[False]),
        "ratios": f"{min(single):.2f} - {max(single):.2f}",
        "whole_ratio": statistics.median(whole[True]) / statistics.median(whole[False]),
        "identical": f"{sum(answer == alone[0][k] for answer, k in answers)} of {len(answers)}",
        "as_plain": f"{sum(answer == plain[k] for answer, k in answers)} of {len(answers)}",
    }


def together(engine: Engine, prompts: Sequence[list[int]], sampling: Sequence[SamplingParams], n: int) -> Run:
    """All at once, one token of each in turns."""
    started = time.perf_counter()
    generations = [
        engine.generate(prompt, params, max_tokens=n, ignore_eos=True)
        for prompt, params in zip(prompts, sampling, strict=True)
    ]
    answers = [[next(generation).token] for generation in generations]
    seen = [(time.perf_counter(), [generation.stats.n_gen for generation in generations])]
    active = list(zip(generations, answers, strict=True))
    while active:
        for generation, answer in list(active):
            result = next(generation, None)
            if result is None:
                active.remove((generation, answer))
            elif result.token >= 0:
                answer.append(result.token)
            if max(seen[-1][1]) < n:  # all of them decode
                seen.append((time.perf_counter(), [generation.stats.n_gen for generation in generations]))
    ended = time.perf_counter()
    (begun, before), (first_ended, after) = seen[0], seen[-1]
    return Run(answers, ended - started, first_ended - begun, sum(after) - sum(before))


def one_after_another(engine: Engine, prompts: Sequence[list[int]], sampling: Sequence[SamplingParams], n: int) -> Run:
    runs = [together(engine, [prompt], [params], n) for prompt, params in zip(prompts, sampling, strict=True)]
    return Run(
        [answer for found in runs for answer in found.answers],
        sum(found.seconds for found in runs),
        sum(found.decode_seconds for found in runs),
        sum(found.n_decoded for found in runs),
    )


def wait_for_long(model: Model, prompts: Sequence[list[int]], args: argparse.Namespace) -> Row:
    """Some conversations go on while a long prompt is evaluated."""
    n = min(args.conversations) - 1 or 1
    n_long = min(args.long, model.info.n_ctx_train // 2)
    n_vocab = model.info.n_vocab
    long_prompt = [(37 * i + 11) % n_vocab for i in range(n_long)]
    stop = threading.Event()
    with (
        Engine(model, n_ctx=2 * n_long, n_parallel=n + 1, n_threads=args.threads) as engine,
        ThreadPoolExecutor(n) as threads,
    ):
        greedy = SamplingParams(temp=0.0)
        readers = [Reader(engine.generate(prompt, greedy, ignore_eos=True), stop) for prompt in prompts[:n]]
        try:
            done = [threads.submit(reader.read) for reader in readers]
            while any(len(reader.passes) < BEFORE_LONG for reader in readers) and not any(d.done() for d in done):
                time.sleep(0.01)
            handed_over = time.perf_counter()
            next(engine.generate(long_prompt, greedy, max_tokens=1))
            first = time.perf_counter()
        finally:
            stop.set()
        for reader in done:
            reader.result()
    usual = statistics.median(gap for reader in readers for gap in reader.gaps(0.0, handed_over))
    gaps = [gap for reader in readers for gap in reader.gaps(handed_over, first)]
    longest = max(gaps, default=first - handed_over)  # without any, nobody had a pass in all that time
    return {
        "n": n,
        "n_long": n_long,
        "usual_ms": 1000 * usual,
        "passes": longest / usual,
        "seconds": first - handed_over,
    }


class Reader:
    """Reads a generation and notes when its passes were over."""

    def __init__(self, generation: Generation, stop: threading.Event) -> None:
        self.passes: list[float] = []
        self._generation, self._stop = generation, stop

    def read(self) -> None:
        n_passes = 0
        with self._generation as generation:
            for _ in generation:
                if generation.stats.passes > n_passes:
                    self.passes.append(time.perf_counter())
                    n_passes = generation.stats.passes
                if self._stop.is_set():
                    return

    def gaps(self, begin: float, end: float) -> list[float]:
        """Seconds between two passes, where the later one was over in that time or was the first after it."""
        pairs = zip(self.passes, self.passes[1:], strict=False)
        return [after - before for before, after in pairs if after >= begin and before <= end]


def pass_costs(path: Path, args: argparse.Namespace) -> dict[int, float]:
    """Milliseconds of a pass of 1 row and of as many rows as there are conversations, in turns."""
    rows = [1, *args.conversations]
    setting = argparse.Namespace(threads=args.threads, rows=rows, depth=DEPTH, prompt=None, isa=None)
    with bench_cost.open_session(setting, path, "auto") as session:
        points = [bench_cost.Point("", n) for n in rows]
        bench_cost.sample_in_turns([(session, p) for p in points], DEPTH, 2 * args.rounds, lambda _done, _all: None)
    return {point.n_rows: statistics.median(point.samples_ns) / 1e6 for point in points}


def section(facts: Row, rows: list[Row], waits: list[Row], costs: dict[int, float], args: argparse.Namespace) -> str:
    title = f"## Throughput: {facts['model_filename']}\n"
    prompts = "made up" if args.shape else Path(args.prompts).name if args.prompts else "the project's own"
    about = (
        f"{datetime.now(UTC):%Y-%m-%d}, {facts['build_commit']}, {facts['cpu_info']}, {counted(args.threads)}; "
        f"{args.predict} tokens per answer, {args.rounds} rounds, the prompts are {prompts}.\n"
    )
    others = [n for n in costs if n != 1]
    told = ", ".join(f"T({n})/T(1) = {costs[n] / costs[1]:.2f}" for n in others)
    parts = [title, about, HOW + "\n", markdown(rows, COLUMNS), f"T(1) = {costs[1]:.2f} ms, {told}.\n"]
    if waits:
        passes = [wait["passes"] for wait in waits]
        usual, seconds = (statistics.median(wait[key] for wait in waits) for key in ("usual_ms", "seconds"))
        parts += [
            HOW_LONG + "\n",
            f"{waits[0]['n']} conversations and a prompt of {waits[0]['n_long']} tokens: the longest wait was "
            f"{statistics.median(passes):.1f} of their usual passes (median of {len(waits)} rounds; at most "
            f"{max(passes):.1f}). Their usual pass takes {usual:.2f} ms; the prompt took {seconds:.2f} s.\n",
        ]
    return "\n".join(parts)


COLUMNS: list[Column] = [
    ("conversations", plain_text("n")),
    ("temp", plain_text("temp")),
    ("together t/s", decimals("together", 1)),
    ("one after another t/s", decimals("alone", 1)),
    ("ratio", decimals("ratio", 2)),
    ("of single rounds", plain_text("ratios")),
    ("whole: ratio", decimals("whole_ratio", 2)),
    ("as alone", plain_text("identical")),
    ("as plain alone", plain_text("as_plain")),
]


def main(argv: Sequence[str] | None = None) -> int:
    secure_streams()
    return print_result(PROG, run, setup_arg_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

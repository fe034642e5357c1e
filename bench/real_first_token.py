"""Section first: the time to the first token on a first run, with nothing learned, against plain decoding's."""

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

from real_plan import Plan
from real_report import Asked
from real_speed import counted

from maskprobe import Engine, Model, SamplingParams
from maskprobe.cli.bench_decoders import turned
from maskprobe.cli.bench_measure import PLAIN, warm_up
from maskprobe.cli.bench_table import Column, Row, decimals, markdown, plain_text
from maskprobe.cli.terminal import Progress

N_PROMPT = 210
N_NEXT = 8  # tokens until which the time is told too: what is put off is seen there
ROUNDS_EACH = 4  # of plan.rounds
DRAFTED = "all"
OF_PLAIN = 1.03  # asked

HOW = (
    f"A prompt of {N_PROMPT} tokens that no cache holds, in turns: plain decoding, and the proposer `all` with rows as "
    "many as pay. For each run the model has an engine of its own that has learned nothing and reads no state; it is "
    "opened, and has made a pass, before the clock starts. Medians, and the quartiles of the first token's time."
)


def seconds(plan: Plan) -> float:
    """About how long the section takes on one core that computes 200 GMAC/s."""
    n_runs = 2 * plan.rounds * ROUNDS_EACH
    return sum(5.0 + n_runs * (0.3 + path.stat().st_size * 2e-9) for path in plan.models)


def measure(plan: Plan) -> Iterator[tuple[str, Row]]:
    """One model after another."""
    threads = plan.threads[0]
    for path in plan.models:
        yield f"{path.name}, {counted(threads)}", of_model(path, plan, threads)


def of_model(path: Path, plan: Plan, threads: int) -> Row:
    samples: dict[str, list[list[float]]] = {PLAIN: [], DRAFTED: []}
    with Model(path, n_threads=threads) as model, Progress(path.name) as progress:
        n_vocab = model.info.n_vocab
        n_rounds = plan.rounds * ROUNDS_EACH
        for i in range(n_rounds):
            progress(i, n_rounds)
            prompt = [(37 * k + 11 + i) % n_vocab for k in range(min(N_PROMPT, model.info.n_ctx_train // 2))]
            for name in turned(list(samples), i):
                samples[name].append(one_run(model, name, prompt, threads))
    return {"n_prompt": len(prompt), "samples_ms": samples}


def one_run(model: Model, name: str, prompt: list[int], threads: int) -> list[float]:
    """Milliseconds until the first token, and until token N_NEXT after it."""
    with Engine(model, n_ctx=2 * len(prompt), n_threads=threads, proposer=name) as engine:
        warm_up(engine, prompt[-1])
        generation = engine.generate(prompt, SamplingParams(temp=0.0), max_tokens=1 + N_NEXT, ignore_eos=True)
        started = time.perf_counter()
        next(generation)
        first = time.perf_counter()
        for _ in generation:
            pass
        return [1000 * (first - started), 1000 * (time.perf_counter() - started)]


def summaries(case: Row) -> list[Row]:
    medians = {
        name: [median(column) for column in zip(*runs, strict=True)] for name, runs in case["samples_ms"].items()
    }
    lines = []
    for name, (first, later) in medians.items():
        times = [run[0] for run in case["samples_ms"][name]]
        low, _, high = quantiles(times, n=4, method="inclusive")
        ratios = {"of_plain": first / medians[PLAIN][0], "later_of_plain": later / medians[PLAIN][1]}
        lines.append({"name": name, "first": first, "low": low, "high": high, "later": later, **ratios})
    return lines


def asked(cases: dict[str, Row]) -> Iterator[Asked]:
    for name, case in cases.items():
        (drafted,) = [line for line in summaries(case) if line["name"] == DRAFTED]
        yield Asked(name, "first token of a first run, of plain decoding's", drafted["of_plain"], OF_PLAIN)


COLUMNS: list[Column] = [
    ("proposer", plain_text("name")),
    ("first token ms", decimals("first", 1)),
    ("quartiles", lambda row: f"{row['low']:.1f} - {row['high']:.1f}"),
    ("of plain", decimals("of_plain", 3)),
    (f"{N_NEXT} tokens later ms", decimals("later", 1)),
    ("of plain", decimals("later_of_plain", 3)),
]


def tables(cases: dict[str, Row]) -> str:
    return "\n".join([HOW + "\n", *(f"{name}\n\n{markdown(summaries(case), COLUMNS)}" for name, case in cases.items())])

"""Section identity: with the default flags every model writes what its plain decoding writes, token for token."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from real_plan import Plan, small_models
from real_report import Asked

from maskprobe import Engine, Model, SamplingParams
from maskprobe.cli.bench_decoders import jobs_of
from maskprobe.cli.bench_measure import PLAIN, first_difference
from maskprobe.cli.bench_measure import measure as generate
from maskprobe.cli.bench_prompts import Prompt, read_prompts, spread
from maskprobe.cli.bench_table import Column, Row, markdown, plain_text
from maskprobe.cli.terminal import Progress

HOW = (
    "Plain decoding in a context of its own, then the proposer `all` with the same seed, all flags at their defaults: "
    "kernels, threads, cache types, rows. What was learned stays from prompt to prompt."
)


def seconds(plan: Plan) -> float:
    """About how long the section takes on two cores that read 25 GB/s: plain decoding at half of that, mostly."""
    n_tokens = plan.n_compared * len(plan.temps) * plan.n_predict_compared
    return 60.0 + sum(path.stat().st_size * n_tokens * 3 / 25e9 for path in plan.models)


def measure(plan: Plan) -> Iterator[tuple[str, Row]]:
    """One model after another."""
    prompts = spread(read_prompts(["code"])[0], plan.n_compared)
    for path in plan.models:
        yield path.name, compare(path, prompts, plan)
    with small_models() as models:
        for name, path in models:
            yield name, compare(path, prompts, plan)


def compare(path: Path, prompts: Sequence[Prompt], plan: Plan) -> Row:
    with ExitStack() as opened, Progress(path.name) as progress:
        model = opened.enter_context(Model(path))
        jobs, _, _ = jobs_of(model, prompts, plan.n_predict_compared)
        plain = opened.enter_context(Engine(model, proposer=PLAIN, n_rows_max=1))
        drafting = {temp: opened.enter_context(Engine(model)) for temp in plan.temps}
        splits, n_tokens, passes = [], 0, 0
        cases = list(product(jobs, plan.temps))
        for i, (job, temp) in enumerate(cases):
            progress(i, len(cases))
            sampling = SamplingParams(temp=temp, seed=plan.seed)
            rest = (job.tokens, sampling, plan.n_predict_compared)
            expected, found = generate(plain, *rest), generate(drafting[temp], *rest)
            n_tokens, passes = n_tokens + found.n_timed, passes + found.passes
            if (index := first_difference(expected.tokens, found.tokens)) is not None:
                margin = expected.margins[index] if index < len(expected.margins) else None
                splits.append({"prompt": job.name, "temp": temp, "index": index, "margin": margin})
        return {
            "model_type": model.info.description,
            "kernels": f"{model.info.kernels} ({model.info.kernels_reason})",
            "packed_size": model.info.packed_size,
            "model_size": model.info.size,
            "note": model.info.note,
            "n_threads": plain.context.n_threads,
            "n_runs": len(cases),
            "n_identical": len(cases) - len(splits),
            "tokens_per_step": n_tokens / passes,
            "splits": splits,
        }


def asked(cases: dict[str, Row]) -> Iterator[Asked]:
    """One line for all models. The table says which differ."""
    n_identical, n_runs = (sum(case[key] for case in cases.values()) for key in ("n_identical", "n_runs"))
    different = [name for name, case in cases.items() if case["splits"]]
    note = f"not {', '.join(different)}" if different else ""
    yield Asked(f"{len(cases)} models", "runs identical", n_identical, n_runs, at_least=True, unit="runs", note=note)


COLUMNS: list[Column] = [
    ("model", plain_text("name")),
    ("type", plain_text("model_type")),
    ("kernels", plain_text("kernels")),
    ("MiB packed", lambda row: f"{row['packed_size'] / 2**20:.1f} of {row['model_size'] / 2**20:.1f}"),
    ("threads", plain_text("n_threads")),
    ("tokens/pass", lambda row: f"{row['tokens_per_step']:.2f}"),
    ("identical", lambda row: f"{row['n_identical']} of {row['n_runs']}"),
    ("first differences at (margin)", lambda row: ", ".join(map(split_text, row["splits"])) or "-"),
    ("note", lambda row: row["note"] or "-"),
]


def split_text(split: Row) -> str:
    return f"{split['index']} ({'ended' if split['margin'] is None else format(split['margin'], '.2g')})"


def tables(cases: dict[str, Row]) -> str:
    return HOW + "\n\n" + markdown([{"name": name, **case} for name, case in cases.items()], COLUMNS)

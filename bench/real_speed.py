"""Section speed: generations end to end, against llama.cpp's plain decoding prompt by prompt in one run."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from real_plan import Plan
from real_report import Asked

from maskprobe import Model, SamplingParams
from maskprobe.cli.bench_decoders import COLUMNS as SPEED_COLUMNS
from maskprobe.cli.bench_decoders import DRAFTED, HOW, LLAMA_CPP, Decoders, jobs_of, summary
from maskprobe.cli.bench_machine import best_speed
from maskprobe.cli.bench_prompts import Prompt, read_prompts, spread
from maskprobe.cli.bench_run import ALL_TASKS
from maskprobe.cli.bench_table import Column, Row, facts_of, markdown, plain_text
from maskprobe.cli.terminal import Progress

OVER_LLAMA_CPP = {(1, 0.0): 2.2, (1, 0.8): 2.0, (2, 0.0): 1.7, (2, 0.8): 1.7}  # threads, temperature

PROMPTS_TOO = (
    "The prompt with the first token has a column of its own. llama.cpp finds a prompt in its cache when it comes "
    "again with another temperature, and so does our plain decoding."
)


def seconds(plan: Plan) -> float:
    """About how long the section takes on two cores that read 25 GB/s."""
    n_runs = sum(6 * n_prompts(plan, n) * len(plan.temps) for n in plan.threads)
    # In tokens of llama.cpp's plain decoding: the three generations, and prompts of 300 tokens on the average.
    n_tokens = 2.0 * plan.n_predict + 100
    return sum(10.0 + n_runs * n_tokens * 1.5 * path.stat().st_size / 25e9 for path in plan.models)


def n_prompts(plan: Plan, threads: int) -> int:
    """Of each task: half of them with more threads than one."""
    return plan.n_prompts if threads == plan.threads[0] else max(1, plan.n_prompts // 2)


def measure(plan: Plan) -> Iterator[tuple[str, Row]]:
    """One model and number of threads after another."""
    prompts, source = prompts_of(plan)
    for path in plan.models:
        for threads in plan.threads:
            chosen = spread(prompts, n_prompts(plan, threads))
            yield f"{path.name}, {counted(threads)}", measure_model(path, chosen, plan, threads) | {"prompts": source}


def prompts_of(plan: Plan) -> tuple[list[Prompt], str]:
    """All prompts, and where they come from."""
    if plan.spec_bench is None:
        return read_prompts([])[0], "the project's own (bench/prompts): no file of Spec-Bench was given"
    return read_prompts([str(plan.spec_bench)])[0], f"the first turns of {plan.spec_bench.name}"


def measure_model(path: Path, prompts: Sequence[Prompt], plan: Plan, threads: int) -> Row:
    """One row for each prompt, temperature and decoder."""
    with ExitStack() as opened, Progress(f"{path.name}, {counted(threads)}") as progress:
        model = opened.enter_context(Model(path, n_threads=threads))
        jobs, templated, left_out = jobs_of(model, prompts, plan.n_predict)
        decoders = opened.enter_context(Decoders(model, jobs, plan.n_predict, plan.temps, threads))
        rows: list[Row] = []
        speed = best_speed(threads)
        for i, job in enumerate(jobs):
            progress(i, len(jobs))
            for temp in plan.temps:
                rows += decoders.run(job, SamplingParams(temp=temp, seed=plan.seed), first=i)
        speed = best_speed(threads, speed)
        return {
            **facts_of(path, model, threads),
            "kernels": f"{model.info.kernels} ({model.info.kernels_reason})",
            "n_predict": plan.n_predict,
            "template": templated,
            "left_out": left_out,
            "machine_read_bytes_per_second": speed.read_bytes_per_second,
            "machine_int8_macs_per_second": speed.int8_macs_per_second,
            "rows": rows,
        }


def counted(threads: int) -> str:
    return f"{threads} thread" + "s" * (threads != 1)


def summaries(case: Row) -> list[Row]:
    """One row for each temperature and task, and for all tasks together."""
    tasks = list(dict.fromkeys(row["task"] for row in case["rows"]))
    temps = list(dict.fromkeys(row["temp"] for row in case["rows"]))
    return [
        with_ceiling(summary(case["rows"], temp, task), case)
        for temp in temps
        for task in (tasks if len(tasks) == 1 else [*tasks, ALL_TASKS])
    ]


def with_ceiling(row: Row, case: Row) -> Row:
    """`ceiling`: the speed-up over llama.cpp at which a pass takes no longer than the machine allows."""
    ceiling = row["tokens_per_step"] * 1e9 / row["ts"][LLAMA_CPP] / floor_ns(case, row["rows_per_step"])
    return {**row, "n_threads": case["n_threads"], "ceiling": ceiling}


def floor_ns(case: Row, n_rows: float) -> float:
    """What a pass of so many rows takes at least on this machine."""
    macs_per_second = case["machine_int8_macs_per_second"]
    computing = case["model_n_params"] * n_rows / macs_per_second if macs_per_second else 0.0
    return 1e9 * max(case["model_size"] / case["machine_read_bytes_per_second"], computing)


def asked(cases: dict[str, Row]) -> Iterator[Asked]:
    for name, case in cases.items():
        line = partial(Asked, name, at_least=True)
        rows = summaries(case)
        together = [row for row in rows if row["task"] == ALL_TASKS]
        for row in together:
            if limit := OVER_LLAMA_CPP.get((case["n_threads"], row["temp"])):
                what = f"speed-up over llama.cpp's plain decoding, temperature {row['temp']}"
                yield line(what, row["over_llama_cpp"], limit, ceiling=row["ceiling"])
        worst = min(rows, key=lambda row: row["over_plain"])
        note = f"{worst['task']}, temperature {worst['temp']}"
        yield line("the slowest task over our plain decoding", worst["over_plain"], 1.0, note=note)
        n_identical, n_runs = (sum(row[key] for row in together) for key in ("n_identical", "n_runs"))
        yield line("runs identical to our plain decoding", n_identical, n_runs, unit="runs")


COLUMNS: list[Column] = [
    ("task", plain_text("task")),
    *SPEED_COLUMNS,
    ("prompt tokens", lambda row: f"{row['n_prompt']:.0f}"),
    *((f"{name}: prompt t/s", lambda row, name=name: f"{row['prompt_ts'][name]:.0f}") for name in (LLAMA_CPP, DRAFTED)),
]


def tables(cases: dict[str, Row]) -> str:
    parts = [f"{HOW} {PROMPTS_TOO}\n"]
    for case in cases.values():
        template = "in the model's chat template" if case["template"] else "as they are: the model has no template"
        lines = [
            f"{case['model_filename']} ({case['model_type']}), {counted(case['n_threads'])}, {case['kernels']}",
            f"{case['n_predict']} tokens at most; the prompts are {case['prompts']}, {template}",
            *case["left_out"],
        ]
        parts.append("  \n".join(lines) + "\n\n" + markdown(summaries(case), COLUMNS))
    return "\n".join(parts)

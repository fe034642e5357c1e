"""Section speed: generations end to end, against llama.cpp's plain decoding prompt by prompt in one run."""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from real_plan import Plan, best_speed
from real_report import Asked

from maskprobe import Engine, Model, ModelError, SamplingParams
from maskprobe.cli.bench_measure import PLAIN as NO_DRAFT
from maskprobe.cli.bench_measure import first_difference, speed_up, warm_up
from maskprobe.cli.bench_measure import measure as generate
from maskprobe.cli.bench_plain import LlamaCpp
from maskprobe.cli.bench_prompts import Job, Prompt, read_prompts, spread, tokenized
from maskprobe.cli.bench_run import ROWS_ROOM
from maskprobe.cli.bench_table import PER_PASS, Column, Row, decimals, facts_of, markdown, plain_text, quartiles
from maskprobe.cli.terminal import Progress

LLAMA_CPP, PLAIN, DRAFTED = "llama.cpp", "ours, plain", "ours, all"
ALL_TASKS = "all"
OVER_LLAMA_CPP = {(1, 0.0): 2.2, (1, 0.8): 2.0, (2, 0.0): 1.7, (2, 0.8): 1.7}  # threads, temperature

HOW = (
    "Decoding time alone, from the first token to the last; the prompt with the first token has a column of its own. "
    "The default flags: the proposer `all`, "
    "rows as many as pay, kernels `auto`. Nothing was learned before: each model, temperature and number of threads "
    "begins without a state, and what it learns stays from prompt to prompt, as a user has it. A text ends at its end "
    "token. Speed-ups are ratios of the median times per token over the prompts, with the quartiles of the ratios of "
    "single prompts. llama.cpp decodes with one call per token and its own samplers with the same settings. It finds "
    "a prompt in its cache when it comes again with another temperature, and so does our plain decoding."
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
        decoders = opened.enter_context(Decoders(model, jobs, plan, threads))
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


def jobs_of(model: Model, prompts: Sequence[Prompt], n_predict: int) -> tuple[list[Job], bool, list[str]]:
    """The prompts as tokens, whether they are in a chat template of the model's, and lines on what was left out."""
    try:
        prompts = [replace(p, text=model.chat_format([{"role": "user", "content": p.text}])) for p in prompts]
        templated = True
    except ModelError:
        templated = False
    jobs, left_out = tokenized(model, prompts, n_predict, model.info.n_ctx_train, None)
    return jobs, templated, left_out


class Decoders:
    """llama.cpp by itself, our plain decoding and our drafting, side by side on one model."""

    def __init__(self, model: Model, jobs: Sequence[Job], plan: Plan, threads: int) -> None:
        self._n_predict = plan.n_predict
        wanted = max(len(job.tokens) for job in jobs) + plan.n_predict + ROWS_ROOM
        settings: Row = {"n_ctx": min(wanted, model.info.n_ctx_train), "n_threads": threads}
        self._plain = Engine(model, proposer=NO_DRAFT, n_rows_max=1, **settings)
        self._drafting = {temp: Engine(model, **settings) for temp in plan.temps}
        self._llama = LlamaCpp(model.path, **settings, type_k="f16", type_v="f16")
        warm_up_token = jobs[0].tokens[0]
        for engine in (self._plain, *self._drafting.values()):
            warm_up(engine, warm_up_token)
        self._llama.generate(16 * [warm_up_token], 2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._llama.__exit__(*exception)
        for engine in (self._plain, *self._drafting.values()):
            engine.close()

    def run(self, job: Job, sampling: SamplingParams, first: int) -> list[Row]:
        """The prompt with each of them, in an order that begins with another one each time."""
        runs = {
            name: row for name in turned([LLAMA_CPP, PLAIN, DRAFTED], first) for row in [self._one(name, job, sampling)]
        }
        split = first_difference(runs[PLAIN].pop("tokens"), runs[DRAFTED].pop("tokens"))
        about = {"task": job.task, "prompt": job.name, "temp": sampling.temp, "n_prompt": len(job.tokens)}
        runs[DRAFTED]["split"] = split  # the first token that differs, None where all are the same
        return [{**about, "decoder": name, **run} for name, run in runs.items()]

    def _one(self, name: str, job: Job, sampling: SamplingParams) -> Row:
        if name == LLAMA_CPP:
            found = self._llama.generate(job.tokens, self._n_predict, sampling)
            return {"n_gen": found.n_timed, "gen_ns": found.gen_ns, "prompt_ns": found.prompt_ns}
        engine = self._plain if name == PLAIN else self._drafting[sampling.temp]
        run = generate(engine, job.tokens, sampling, self._n_predict)
        figures = {"n_gen": run.n_timed, "gen_ns": run.gen_ns, "prompt_ns": run.prompt_ns}
        about = {"passes": run.passes, "n_rows": run.rows, "n_reused": run.n_prompt_reused}
        return {**figures, **about, "tokens": run.tokens}


def counted(threads: int) -> str:
    return f"{threads} thread" + "s" * (threads != 1)


def turned(names: list[str], by: int) -> list[str]:
    return names[(at := by % len(names)) :] + names[:at]


def summaries(case: Row) -> list[Row]:
    """One row for each temperature and task, and for all tasks together."""
    tasks = list(dict.fromkeys(row["task"] for row in case["rows"]))
    temps = list(dict.fromkeys(row["temp"] for row in case["rows"]))
    return [
        summary(
            case, temp, task, [row for row in case["rows"] if row["temp"] == temp and task in (row["task"], ALL_TASKS)]
        )
        for temp in temps
        for task in (tasks if len(tasks) == 1 else [*tasks, ALL_TASKS])
    ]


def summary(case: Row, temp: float, task: str, rows: Sequence[Row]) -> Row:
    short = {(row["task"], row["prompt"]) for row in rows if row["n_gen"] == 0}  # the first token ended the text
    rows = [row for row in rows if (row["task"], row["prompt"]) not in short]
    by = {name: [row for row in rows if row["decoder"] == name] for name in (LLAMA_CPP, PLAIN, DRAFTED)}
    per_token = {name: [row["gen_ns"] / row["n_gen"] for row in runs] for name, runs in by.items()}
    prompt_ts = {
        name: statistics.median(
            1e9 * (row["n_prompt"] - row.get("n_reused", 0)) / row["prompt_ns"]
            for row in case["rows"]
            if is_prompt_of(row, name, task)
        )
        for name in (LLAMA_CPP, DRAFTED)
    }
    passes, n_rows = (sum(row[key] for row in by[DRAFTED]) for key in ("passes", "n_rows"))
    tokens_per_pass = sum(row["n_gen"] for row in by[DRAFTED]) / passes
    over_llama_cpp = speed_up(per_token[LLAMA_CPP], per_token[DRAFTED])
    return {
        "task": task,
        "temp": temp,
        "n_threads": case["n_threads"],
        "n_runs": len(by[DRAFTED]),
        "n_prompt": statistics.median(row["n_prompt"] for row in by[DRAFTED]),
        "tokens_per_step": tokens_per_pass,
        "rows_per_step": n_rows / passes,
        "ts": {name: 1e9 / statistics.median(times) for name, times in per_token.items()},
        "prompt_ts": prompt_ts,
        "over_llama_cpp": over_llama_cpp.ratio,
        "over_llama_cpp_quartiles": [over_llama_cpp.low, over_llama_cpp.high],
        "over_plain": speed_up(per_token[PLAIN], per_token[DRAFTED]).ratio,
        "n_identical": sum(row["split"] is None for row in by[DRAFTED]),
        "ceiling": tokens_per_pass * statistics.median(per_token[LLAMA_CPP]) / floor_ns(case, n_rows / passes),
    }


def is_prompt_of(row: Row, decoder: str, task: str) -> bool:
    """Whether there was a prompt to evaluate, and it was not found in the cache."""
    return row["decoder"] == decoder and task in (row["task"], ALL_TASKS) and row["prompt_ns"] > 0


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
    ("temp", plain_text("temp")),
    ("runs", plain_text("n_runs")),
    *PER_PASS,
    *((f"{name} t/s", lambda row, name=name: f"{row['ts'][name]:.1f}") for name in (LLAMA_CPP, PLAIN, DRAFTED)),
    ("over llama.cpp", decimals("over_llama_cpp", 2)),
    quartiles("over_llama_cpp_quartiles"),
    ("over our plain", decimals("over_plain", 2)),
    ("identical", lambda row: f"{row['n_identical']} of {row['n_runs']}"),
    ("prompt tokens", lambda row: f"{row['n_prompt']:.0f}"),
    *((f"{name}: prompt t/s", lambda row, name=name: f"{row['prompt_ts'][name]:.0f}") for name in (LLAMA_CPP, DRAFTED)),
]


def tables(cases: dict[str, Row]) -> str:
    parts = [HOW + "\n"]
    for case in cases.values():
        template = "in the model's chat template" if case["template"] else "as they are: the model has no template"
        lines = [
            f"{case['model_filename']} ({case['model_type']}), {counted(case['n_threads'])}, {case['kernels']}",
            f"{case['n_predict']} tokens at most; the prompts are {case['prompts']}, {template}",
            *case["left_out"],
        ]
        parts.append("  \n".join(lines) + "\n\n" + markdown(summaries(case), COLUMNS))
    return "\n".join(parts)

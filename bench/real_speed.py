"""Section speed: generations end to end, against llama.cpp's plain decoding prompt by prompt in one run."""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from real_plan import Plan
from real_report import Asked

from maskprobe import Engine, Model, ModelError, NoProposer, SamplingParams, Session, proposer_named
from maskprobe.cli.bench_llama_cpp import LlamaCpp
from maskprobe.cli.bench_measure import Watched, first_difference, speed_up
from maskprobe.cli.bench_measure import measure as generate
from maskprobe.cli.bench_prompts import Job, Prompt, read_prompts, spread, tokenized
from maskprobe.cli.bench_table import Column, Row, decimals, facts_of, markdown, plain_text
from maskprobe.cli.terminal import Progress
from maskprobe.model import measure_machine

PROPOSER = "all"
LLAMA_CPP, PLAIN, DRAFTED = "llama.cpp", "ours, plain", "ours, all"
ALL_TASKS = "all"
OVER_LLAMA_CPP = {(1, 0.0): 2.2, (1, 0.8): 2.0, (2, 0.0): 1.7, (2, 0.8): 1.7}  # threads, temperature

HOW = (
    "Decoding time alone, draws included; prompts have a column of their own. The default flags: the proposer `all`, "
    "rows as many as pay, kernels `auto`. Nothing was learned before: each model, temperature and number of threads "
    "begins without a state, and what it learns stays from prompt to prompt, as a user has it. A text ends at its end "
    "token. Speed-ups are ratios of the median times per token over the prompts, with the quartiles of the ratios of "
    "single prompts. llama.cpp decodes with one call per token and its own samplers with the same settings. Plain "
    "decoding finds a prompt in its cache when it comes again with another temperature."
)


def seconds(plan: Plan) -> float:
    """About how long the section takes on two cores that read 25 GB/s, half of it used by plain decoding."""
    n_runs = sum(6 * n_prompts(plan, n) * len(plan.temps) for n in plan.threads)
    per_byte = (2.5 * plan.n_predict + 150) / 25e9  # three generations, and 3 x 300 tokens of prompts
    return sum(10.0 + n_runs * path.stat().st_size * per_byte * 1.5 for path in plan.models)


def n_prompts(plan: Plan, threads: int) -> int:
    """Of each task: half of them with more threads than one."""
    return plan.n_prompts if threads == plan.threads[0] else max(1, plan.n_prompts // 2)


def measure(plan: Plan) -> Iterator[tuple[str, Row]]:
    """One model and number of threads after another."""
    prompts, _ = read_prompts([str(plan.spec_bench)] if plan.spec_bench else [])
    source = "the project's own (bench/prompts): no file of Spec-Bench was given"
    if plan.spec_bench is not None:
        source = f"the first turns of {plan.spec_bench.name}"
    for path in plan.models:
        for threads in plan.threads:
            chosen = spread(prompts, n_prompts(plan, threads))
            yield f"{path.name}, {counted(threads)}", measure_model(path, chosen, plan, threads) | {"prompts": source}


def measure_model(path: Path, prompts: Sequence[Prompt], plan: Plan, threads: int) -> Row:
    """One row for each prompt, temperature and decoder."""
    with ExitStack() as opened, Progress(f"{path.name}, {counted(threads)}") as progress:
        model = opened.enter_context(Model(path, n_threads=threads))
        jobs, templated = jobs_of(model, prompts, plan.n_predict)
        decoders = opened.enter_context(Decoders(model, jobs, plan, threads))
        rows: list[Row] = []
        for i, job in enumerate(jobs):
            progress(i, len(jobs))
            for temp in plan.temps:
                rows += decoders.run(job, SamplingParams(temp=temp, seed=plan.seed), first=i)
        speed = measure_machine(threads)
        return {
            **facts_of(path, model, threads),
            "kernels": f"{model.info.kernels} ({model.info.kernels_reason})",
            "n_predict": plan.n_predict,
            "template": templated,
            "machine_read_bytes_per_second": speed.read_bytes_per_second,
            "machine_int8_macs_per_second": speed.int8_macs_per_second,
            "rows": rows,
        }


def jobs_of(model: Model, prompts: Sequence[Prompt], n_predict: int) -> tuple[list[Job], bool]:
    """The prompts as tokens, in the model's chat template where it has one."""
    try:
        prompts = [replace(p, text=model.chat_format([{"role": "user", "content": p.text}])) for p in prompts]
        templated = True
    except ModelError:
        templated = False
    return tokenized(model, prompts, n_predict, model.info.n_ctx_train, None)[0], templated


class Decoders:
    """llama.cpp by itself, our plain decoding and our drafting, side by side on one model."""

    def __init__(self, model: Model, jobs: Sequence[Job], plan: Plan, threads: int) -> None:
        self._n_predict = plan.n_predict
        self._sources = {temp: Watched(proposer_named(PROPOSER, model)) for temp in plan.temps}
        n_rows_max = max(source.n_rows_max for source in self._sources.values())
        n_top_max = max(2, *(source.n_top for source in self._sources.values()))
        wanted = max(len(job.tokens) for job in jobs) + plan.n_predict + n_rows_max
        settings: Row = {"n_ctx": min(wanted, model.info.n_ctx_train), "n_threads": threads}
        self._plain = Session(model, n_rows_max=1, n_top_max=2, **settings)
        self._trees = Session(model, n_rows_max=n_rows_max, n_top_max=n_top_max, **settings)
        self._llama = LlamaCpp(model.path, **settings, type_k="f16", type_v="f16")
        self._evaluated: Job | None = None  # by plain decoding
        warm_up = 16 * jobs[0].tokens[:1]  # the first passes are slower
        for session in (self._plain, self._trees):
            generate(session, Watched(NoProposer()), warm_up, SamplingParams(), 2, True)
        self._llama.generate(warm_up, 2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._llama.__exit__(*exception)
        self._trees.close()
        self._plain.close()

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
            run = self._llama.generate(job.tokens, self._n_predict, sampling)
            return {"n_gen": len(run.tokens), "gen_ns": run.gen_ns, "prompt_ns": run.prompt_ns}
        if name == PLAIN:
            if job is not self._evaluated:
                self._plain.set_prefix([])  # the same prompt again is in the cache
                self._evaluated = job
            engine = Engine(self._plain)
            for _ in engine.generate(job.tokens, sampling, max_tokens=self._n_predict):
                pass
            stats = engine.stats
            return {"n_gen": stats.n_gen, "gen_ns": round(1e6 * stats.gen_ms), "tokens": list(stats.tokens)}
        source = self._sources[sampling.temp]
        run = generate(self._trees, source, job.tokens, sampling, self._n_predict, False)
        figures = {"n_gen": len(run.tokens), "gen_ns": run.gen_ns, "prompt_ns": run.prompt_ns}
        return {**figures, "passes": run.passes, "n_rows": run.rows, "tokens": run.tokens}


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
    by = {name: [row for row in rows if row["decoder"] == name] for name in (LLAMA_CPP, PLAIN, DRAFTED)}
    per_token = {name: [row["gen_ns"] / row["n_gen"] for row in runs] for name, runs in by.items()}
    prompt_ts = {
        name: statistics.median(
            1e9 * (row["n_prompt"] - 1) / row["prompt_ns"] for row in case["rows"] if is_prompt_of(row, name, task)
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
    ("tokens/pass", decimals("tokens_per_step", 2)),
    ("rows/pass", decimals("rows_per_step", 1)),
    *((f"{name} t/s", lambda row, name=name: f"{row['ts'][name]:.1f}") for name in (LLAMA_CPP, PLAIN, DRAFTED)),
    ("over llama.cpp", decimals("over_llama_cpp", 2)),
    ("quartiles", lambda row: "{:.2f} - {:.2f}".format(*row["over_llama_cpp_quartiles"])),
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
        ]
        parts.append("  \n".join(lines) + "\n\n" + markdown(summaries(case), COLUMNS))
    return "\n".join(parts)

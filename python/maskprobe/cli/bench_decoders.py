"""llama.cpp's plain decoding, ours and our drafting, side by side on one model: prompt by prompt, and what that comes
to."""

import hashlib
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from .. import ArgumentError, Engine, Model, ModelError, SamplingParams
from .bench_energy import Meter
from .bench_measure import PLAIN as NO_DRAFT
from .bench_measure import first_difference, measure, speed_up, warm_up
from .bench_plain import LlamaCpp
from .bench_prompts import Job, Prompt, in_chat_template, tokenized
from .bench_run import ALL_TASKS, ROWS_ROOM
from .bench_table import PER_PASS, Column, Row, decimals, plain_text, quartiles

LLAMA_CPP, PLAIN, DRAFTED = "llama.cpp", "ours, plain", "ours, all"
DECODERS = (LLAMA_CPP, PLAIN, DRAFTED)

HOW = (
    "Decoding time alone, from the first token to the last. "
    "The default flags: the proposer `all`, "
    "rows as many as pay, kernels `auto`. Nothing was learned before: each model, temperature and number of threads "
    "begins without a state, and what it learns stays from prompt to prompt, as a user has it. A text ends at its end "
    "token. Speed-ups are ratios of the median times per token over the prompts, with the quartiles of the ratios of "
    "single prompts. llama.cpp decodes with one call per token and its own samplers with the same settings."
)


def jobs_of(model: Model, prompts: Sequence[Prompt], n_predict: int) -> tuple[list[Job], bool, list[str]]:
    """The prompts as tokens, whether they are in a chat template of the model's, and lines on what was left out."""
    try:
        prompts, templated = in_chat_template(model, prompts), True
    except ModelError:
        templated = False
    jobs, left_out = tokenized(model, prompts, n_predict, model.info.n_ctx_train, None)
    return jobs, templated, left_out


class Decoders:
    """The three of them, open on one model. What drafting learns at one temperature is not there at another."""

    def __init__(
        self,
        model: Model,
        jobs: Sequence[Job],
        n_predict: int,
        temps: Sequence[float],
        threads: int,
        meter: Meter | None = None,
    ) -> None:
        self._n_predict, self._meter = n_predict, meter
        wanted = max(len(job.tokens) for job in jobs) + n_predict + ROWS_ROOM
        settings: dict[str, Any] = {"n_ctx": min(wanted, model.info.n_ctx_train), "n_threads": threads}
        warm_up_token = jobs[0].tokens[0]
        with ExitStack() as opened:
            self._plain = opened.enter_context(Engine(model, proposer=NO_DRAFT, n_rows_max=1, **settings))
            self._drafting = {temp: opened.enter_context(Engine(model, **settings)) for temp in temps}
            self._llama = opened.enter_context(LlamaCpp(Path(model.path), **settings, type_k="f16", type_v="f16"))
            for engine in (self._plain, *self._drafting.values()):
                warm_up(engine, warm_up_token)
            self._llama.generate(16 * [warm_up_token], 2)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._opened.close()

    def run(self, job: Job, sampling: SamplingParams, first: int) -> list[Row]:
        """The prompt with each of them, in an order that begins with another one each time."""
        runs = {name: self._one(name, job, sampling) for name in turned(DECODERS, first)}
        tokens = {name: run.pop("tokens") for name, run in runs.items() if name != LLAMA_CPP}
        about = {"task": job.task, "prompt": job.name, "temp": sampling.temp, "n_prompt": len(job.tokens)}
        # The first token that differs, None where all are the same.
        runs[DRAFTED]["split"] = first_difference(tokens[PLAIN], tokens[DRAFTED])
        runs[PLAIN]["digest"] = hashlib.sha256(repr(tokens[PLAIN]).encode()).hexdigest()[:12]  # against other machines
        return [{**about, "decoder": name, **run} for name, run in runs.items()]

    def _one(self, name: str, job: Job, sampling: SamplingParams) -> Row:
        begin = None if self._meter is None else self._meter.start
        if name == LLAMA_CPP:
            found = self._llama.generate(job.tokens, self._n_predict, sampling, begin)
            row: Row = {"n_gen": found.n_timed, "gen_ns": found.gen_ns, "prompt_ns": found.prompt_ns}
        else:
            engine = self._plain if name == PLAIN else self._drafting[sampling.temp]
            run = measure(engine, job.tokens, sampling, self._n_predict, on_first=begin)
            row = {"n_gen": run.n_timed, "gen_ns": run.gen_ns, "prompt_ns": run.prompt_ns}
            row |= {"passes": run.passes, "n_rows": run.rows, "n_reused": run.n_prompt_reused, "tokens": run.tokens}
        if self._meter is not None:
            row["joules"] = self._meter.joules()
        return row


def turned(names: Sequence[str], by: int) -> list[str]:
    return [*names[(at := by % len(names)) :], *names[:at]]


def summary(rows: Sequence[Row], temp: float, task: str) -> Row:
    """What the runs of one temperature and task (or of all together) come to.

    Raises ArgumentError where no text has a second token."""
    of_task = [row for row in rows if task in (row["task"], ALL_TASKS)]
    chosen = [row for row in of_task if row["temp"] == temp]
    short = {(row["task"], row["prompt"]) for row in chosen if row["n_gen"] == 0}  # the first token ended the text
    chosen = [row for row in chosen if (row["task"], row["prompt"]) not in short]
    by = {name: [row for row in chosen if row["decoder"] == name] for name in DECODERS}
    if not by[DRAFTED]:
        raise ArgumentError(f"no text has a second token at temperature {temp:g}: there is nothing to time")
    per_token = {name: [row["gen_ns"] / row["n_gen"] for row in runs] for name, runs in by.items()}
    prompt_ts = {
        name: statistics.median(
            1e9 * (row["n_prompt"] - row.get("n_reused", 0)) / row["prompt_ns"]
            for row in of_task
            if row["decoder"] == name and row["prompt_ns"] > 0  # it was not found in the cache
        )
        for name in (LLAMA_CPP, DRAFTED)
    }
    passes, n_rows, n_gen = (sum(row[key] for row in by[DRAFTED]) for key in ("passes", "n_rows", "n_gen"))
    over_llama_cpp = speed_up(per_token[LLAMA_CPP], per_token[DRAFTED])
    return {
        "task": task,
        "temp": temp,
        "n_runs": len(by[DRAFTED]),
        "n_prompt": statistics.median(row["n_prompt"] for row in by[DRAFTED]),
        "tokens_per_step": n_gen / passes,
        "rows_per_step": n_rows / passes,
        "ts": {name: 1e9 / statistics.median(times) for name, times in per_token.items()},
        "prompt_ts": prompt_ts,
        "over_llama_cpp": over_llama_cpp.ratio,
        "over_llama_cpp_quartiles": [over_llama_cpp.low, over_llama_cpp.high],
        "over_plain": speed_up(per_token[PLAIN], per_token[DRAFTED]).ratio,
        "n_identical": sum(row["split"] is None for row in by[DRAFTED]),
        "joules_per_token": {name: joules_per_token(runs) for name, runs in by.items()},
    }


def joules_per_token(runs: Sequence[Row]) -> float | None:
    """None where it was not measured."""
    if any(row.get("joules") is None for row in runs):
        return None
    return float(sum(row["joules"] for row in runs) / sum(row["n_gen"] for row in runs))


def speed_of(name: str) -> Column:
    return f"{name} t/s", lambda row: f"{row['ts'][name]:.1f}"


COLUMNS: list[Column] = [
    ("temp", plain_text("temp")),
    ("runs", plain_text("n_runs")),
    *PER_PASS,
    *map(speed_of, DECODERS),
    ("over llama.cpp", decimals("over_llama_cpp", 2)),
    quartiles("over_llama_cpp_quartiles"),
    ("over our plain", decimals("over_plain", 2)),
    ("identical", lambda row: f"{row['n_identical']} of {row['n_runs']}"),
]

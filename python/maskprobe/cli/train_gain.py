"""What trained heads or masks bring: answers decoded plainly, with the engine's evidence, and with them beside it."""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from .. import Engine, Model, SamplingParams
from ..mtp.own_text import Writer
from .bench_measure import PLAIN, Measured, measure, warm_up
from .terminal import Progress

N_PROMPTS = 12
N_PREDICT = 100
ROWS_ROOM = 64  # of the context, for candidates beyond the end of a text
TEMPERATURE = 0.8
WITHOUT, WITH = "without", "with"
SEED = 1 << 30  # other questions than those of the training


@dataclass(frozen=True, slots=True)
class Gain:
    """Of one source, over all tokens after the first of each text."""

    n_prompts: int
    tokens_per_pass: float
    rows_per_pass: float
    speed: float  # the median time per token of plain decoding over the source's own


def gain_of(
    model: Model, used: dict[str, Any], prompts: Sequence[str], n_threads: int, budget_s: float
) -> dict[str, Gain]:
    """By source. New questions of the model's own, and those that the user gave, for about `budget_s` seconds; empty
    where no text has more than a token. Nothing that one answer learned is there for another source. Raises Error."""
    began = time.monotonic()
    with Progress("comparing") as progress:
        progress(0, N_PROMPTS)
        writer = Writer(model, prompts, SEED, n_threads, n_parallel=N_PROMPTS)
        try:
            asked = writer.prompts(N_PROMPTS)
        finally:
            writer.close()
        settings: dict[str, Any] = {"n_ctx": max(map(len, asked)) + N_PREDICT + ROWS_ROOM, "n_threads": n_threads}
        sources: dict[str, dict[str, Any]] = {
            PLAIN: {"proposer": PLAIN, "n_rows_max": 1},
            WITHOUT: {},
            WITH: used,
        }
        found: dict[str, list[Measured]] = {name: [] for name in sources}
        with ExitStack() as opened:
            engines = {name: opened.enter_context(Engine(model, **settings, **own)) for name, own in sources.items()}
            for engine in engines.values():
                warm_up(engine, asked[0][0])
            for done, prompt in enumerate(asked):
                progress(done, N_PROMPTS)
                if done and time.monotonic() - began > budget_s:
                    break
                for name, engine in engines.items():
                    found[name].append(measure(engine, prompt, SamplingParams(TEMPERATURE, seed=done), N_PREDICT))
    timed = {name: [run for run in runs if run.n_timed] for name, runs in found.items()}
    if not timed[PLAIN]:
        return {}
    us = {name: statistics.median(run.gen_ns / run.n_timed for run in runs) for name, runs in timed.items()}
    return {
        name: Gain(
            n_prompts=len(runs),
            tokens_per_pass=sum(run.n_timed for run in runs) / sum(run.passes for run in runs),
            rows_per_pass=sum(run.rows for run in runs) / sum(run.passes for run in runs),
            speed=us[PLAIN] / us[name],
        )
        for name, runs in timed.items()
    }

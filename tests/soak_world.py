"""What the actions of the soak share: the models, the engine of the moment, and what must hold for every text."""

import math
import random
import re
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskprobe import Cancelled, Engine, Error, Generation, Model, StateError, TokenResult
from soak_callbacks import make_rules, random_proposer
from soak_inputs import GRAMMARS, N_CTX_LEAST, Job, Vocabulary, random_job

N_KNOWN = 24  # jobs that are repeated
STATE_NAME = "learned.state"


@dataclass
class World:
    """What lasts as long as the soak."""

    path: Path
    folder: Path
    models: dict[str, Model]  # "ours" and "stock": the kernels
    vocabulary: Vocabulary
    standing: Engine  # open all the time
    known: list[Job]
    n_most: int  # tokens of a generation, unless it fills its context
    may_fork: bool = True
    texts: dict[int, list[TokenResult]] = field(default_factory=dict)  # of the known jobs, when they came first
    lock: threading.Lock = field(default_factory=threading.Lock)
    n_tokens: int = 0
    n_compared: int = 0

    @property
    def model(self) -> Model:
        return self.models["ours"]


class Round:
    """One engine with random settings, and what was done to it that others notice."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.kernels = rng.choice(["ours", "ours", "stock"])
        self.settings: dict[str, Any] = {
            "n_ctx": rng.choice([N_CTX_LEAST, N_CTX_LEAST, 300, 512]),
            "n_parallel": rng.choice([4, 4, 4, 1, 2, 7]),
            "n_threads": rng.choice([1, 2]),
            "rows": rng.choice(["auto", "auto", "auto", 1, 4, 16]),
            "masks": rng.choice(["none", "none", "mean", "soft"]),
            "proposer": rng.choice(["all", "all", "all", "none", "lookup"]),
            "state": rng.choice([None, world.folder / STATE_NAME]),
            "n_batch": rng.choice([64, 2048]),
        }
        self.is_closing = False
        self.n_cancels = 0
        self.under_way: list[Generation] = []  # whose owners let others cancel them
        self.engine = Engine(world.models[self.kernels], **self.settings)

    @property
    def is_exact(self) -> bool:
        return self.kernels == "ours"

    def close(self) -> None:
        self.is_closing = True
        for _ in range(200):
            try:
                return self.engine.close()
            except StateError as error:  # another thread is in generate() or asks for the note
                if error.status != "busy":
                    raise
            time.sleep(0.01)
        raise AssertionError("the engine stayed busy for seconds: it cannot be closed")

    def expects(self, error: Error) -> bool:
        """Whether what was done to the engine explains it."""
        if isinstance(error, StateError):
            return self.is_closing and "closed" in str(error)
        return isinstance(error, Cancelled) and self.n_cancels > 0

    def __str__(self) -> str:
        return f"kernels={self.kernels} " + " ".join(f"{name}={value}" for name, value in self.settings.items())


@dataclass
class Turn:
    """One action of one thread."""

    world: World
    round: Round
    rng: random.Random
    doing: str = ""  # for the report of a failure

    @property
    def engine(self) -> Engine:
        return self.round.engine

    @property
    def model(self) -> Model:
        return self.engine.model

    def job(self) -> Job:
        n_ctx = self.engine.context.n_ctx
        return random_job(self.rng, self.model, self.world.vocabulary, n_ctx, self.world.n_most)

    def settings(
        self, job: Job, known: Sequence[int] = (), engine: Engine | None = None, **others: Any
    ) -> dict[str, Any]:
        """Those of generate() of an engine, that of the round unless told, with a proposer by chance."""
        model = (engine or self.engine).model
        settings = {**job.limits, **others}
        settings.setdefault("draft", self.rng.random() < 0.75)
        if "proposer" not in settings:
            rows = self.round.settings["rows"]
            settings["proposer"] = random_proposer(self.rng, model, known or job.prompt, rows)
        settings["constraint"] = make_rules(job.rules, model, self.world.vocabulary)
        self.doing = f"{job} {settings}"
        return settings

    def generate(self, job: Job, known: Sequence[int] = (), **others: Any) -> Generation:
        return self.engine.generate(job.prompt, job.params, **self.settings(job, known, **others))

    def checked(self, results: list[TokenResult], job: Job, engine: Engine, cut: bool = False) -> str:
        """The finish reason of a whole text, which must be right. `cut`: it may have been cancelled."""
        reason = check_text(results, job, engine, self.world.vocabulary)
        assert cut or reason != "cancelled", "nobody cancelled it"
        with self.world.lock:
            self.world.n_tokens += len(results)
        return str(reason)


# --- what must hold for every text -----------------------------------------------------------------------------------


def check_text(results: list[TokenResult], job: Job, engine: Engine, vocabulary: Vocabulary) -> str | None:
    assert results, "a generation without a last result"
    *before, last = results
    assert all(result.finish_reason is None for result in before), "tokens after the last one"
    reason = last.finish_reason
    tokens = [result.token for result in results if result.token >= 0]
    assert all(result.token >= 0 for result in before) and all(token < vocabulary.n_vocab for token in tokens)
    assert [result.n_gen for result in results if result.token >= 0] == list(range(1, len(tokens) + 1))
    n_max, n_ctx = job.limits.get("max_tokens", -1), engine.context.n_ctx
    if reason == "length":
        assert len(tokens) == n_max, f"{len(tokens)} tokens of {n_max}"
    elif reason == "context":
        assert len(job.prompt) + len(tokens) == n_ctx + 1, f"{len(job.prompt)} and {len(tokens)} tokens in {n_ctx}"
    elif reason == "constraint":
        assert job.rules is not None or "grammar" in job.sampling, "there is no constraint"
    else:
        assert reason in ("stop", "cancelled"), f"finish reason {reason}"
    assert n_max < 0 or len(tokens) <= n_max
    text = "".join(result.text for result in results)
    for stop in job.stops:
        assert stop not in text, f"the text has the stop string {stop!r}"
    ended = bool(tokens) and tokens[-1] in vocabulary.ends
    assert reason != "stop" or ended or job.stops, "nothing to stop at"
    if job.limits.get("ignore_eos"):
        assert not set(tokens) & set(vocabulary.ends), "an end token came"
    pattern = GRAMMARS.get(job.sampling.get("grammar", ""))
    if pattern and reason == "stop" and ended and job.rules is None:
        assert re.fullmatch(pattern, text), f"{text!r} is not {pattern}"
    n_top = job.limits.get("top_logprobs", 0)
    for result in results:
        assert result.token < 0 or len(result.top) == min(n_top, vocabulary.n_vocab)
        scores = [logprob for _, logprob in result.top]
        assert scores == sorted(scores, reverse=True) and all(logprob <= 1e-3 for logprob in scores)
        assert result.token < 0 or (result.logprob <= 1e-3 and result.margin >= 0 and math.isfinite(result.margin))
    return reason


def outline(results: Iterable[TokenResult]) -> tuple[list[int], str, str | None]:
    """What must come again: tokens, text, the reason. Whether that comes with the last token or alone may differ."""
    results = list(results)
    tokens = [result.token for result in results if result.token >= 0]
    return tokens, "".join(result.text for result in results), results[-1].finish_reason

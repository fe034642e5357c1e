"""From a model to a file with a sampler head: the model writes text, a head is trained on it and judged."""

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import Error, ModelError
from ..model import Model
from .heads_file import BLOCK, SamplerHeadWeights, quantised, write_heads
from .model_tables import input_scale, sizes_for, tables_of
from .own_text import Writer
from .sampler_batches import Batch, Tables, batches, places
from .sampler_head import SamplerHead
from .sampler_training import DEPTH, N_BATCH, Quality, Training, places_per_second, quality
from .text_store import Text, TextStore
from .work_folder import DONE, TRAINING, WorkFolder

TOKENS_MIN = 2000  # of text, to train on
EPOCHS = 6  # that the text should be gone through
TRAINING_SHARE_MIN = 0.2  # of the time
SHARD_TOKENS, SHARD_S = 20_000, 60.0  # a shard is written after so much, whichever comes first
N_EVALUATIONS = 16  # in the time of the training; after each of them all is kept
EVALUATION_S_MIN = 10.0
N_EVALUATED = 10_000  # places
PATIENCE = 4  # evaluations without a better loss, after which it ends

LICENSE_KEYS = ("general.license", "general.license.name", "general.license.link")  # of the model: of its text too

OnProgress = Callable[[str, float, float], None]  # what is done, the seconds gone, and those there are


@dataclass(frozen=True, slots=True)
class Settings:
    budget_s: float
    n_threads: int
    prompts: Sequence[str] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    quality: Quality  # of the head as it was written
    n_tokens: int  # of text
    n_short: int
    n_params: int
    pass_bytes: int  # of weights that are read for a guess
    n_steps: int
    writing_s: float
    training_s: float


class Run:
    """One training of a sampler head for `model`, with what it keeps in the folder `out`.work. A run that was cut short
    goes on with the time that it had left; after one that was not, the next has new time and the text that there is.

    Raises Error; ModelError for a model that such a head cannot be made for."""

    def __init__(self, model: Model, out: Path, settings: Settings, on_progress: OnProgress) -> None:
        if model.info.n_embd % BLOCK:
            raise ModelError(f"heads need a model whose n_embd is a multiple of {BLOCK}, it is {model.info.n_embd}")
        self._model = model
        self._out = out
        self._settings = settings
        self._on_progress = on_progress
        self._n_hidden, self._n_short = sizes_for(model)
        self._work = WorkFolder(Path(f"{out}.work"), model.identity, settings.budget_s)
        self._store = TextStore(self._work.folder / "text", model.info.n_embd)
        torch.set_num_threads(settings.n_threads)

    @property
    def left_s(self) -> float:
        """Of a run that goes on; 0 for a new one."""
        return self._work.journal.left_s if self._work.goes_on else 0.0

    def __call__(self) -> Result:
        """Raises Error, KeyboardInterrupt; what was done until then is kept."""
        try:
            if self._work.journal.phase != TRAINING:
                self._write_texts()
            result = self._train()
            self._work.journal.phase = DONE
            self._work.note()
            return result
        except OSError as error:
            raise Error(f"cannot write in '{self._work.folder}': {error.strerror or error}") from None
        finally:
            self._work.close()

    def _write_texts(self) -> None:
        """Until the time that is left is what it takes to train on the text."""
        journal, store, settings = self._work.journal, self._store, self._settings
        began, before_s, n_new = time.monotonic(), journal.writing_s, 0
        speed = places_per_second(self._model.info.n_embd, self._n_hidden, self._n_short)
        pending: list[Text] = []
        since = began
        writer = Writer(self._model, settings.prompts, settings.seed + len(store.shards), settings.n_threads)
        try:
            for text in writer.texts():
                now = time.monotonic()
                journal.writing_s = before_s + now - began
                if text is not None:
                    pending.append(text)
                    n_new += len(text.tokens)
                n_pending = sum(len(text.tokens) for text in pending)
                needed = max(EPOCHS * (store.n_tokens + n_pending) / speed, TRAINING_SHARE_MIN * journal.budget_s)
                left = journal.left_s - needed
                if left <= 0:
                    break
                if pending and (n_pending >= SHARD_TOKENS or now - since >= SHARD_S):
                    store.add(pending)
                    self._work.note()
                    pending, since = [], now
                # Each further token takes its own time, and that of training on it.
                pace = n_new / (now - began)
                self._on_progress("writing text", now - began, now - began + left / (1 + EPOCHS * pace / speed))
        finally:
            writer.close()
            if rest := pending + writer.unfinished():
                store.add(rest)
            self._work.note()
        journal.phase = TRAINING
        self._work.note()

    def _train(self) -> Result:
        """For the time that is left, or until the loss on held-out texts does not fall any more; writes the heads."""
        journal, shards = self._work.journal, self._store.shards
        n_held_out = sum(len(places(shard, True)) for shard in shards)
        if self._store.n_tokens < TOKENS_MIN or n_held_out == 0:
            raise Error(
                f"the model wrote {self._store.n_tokens} tokens in {journal.writing_s:.0f} s, at least {TOKENS_MIN} are"
                " needed: give it more time (--minutes)"
            )
        tables, short = tables_of(self._model, shards, self._n_short)
        scale = input_scale(tables, shards[-1])
        training = Training(SamplerHead(self._model.info.n_embd, self._n_hidden, scale), tables)
        if self._work.checkpoint.exists():
            self._resume(training)
        began, before_s = time.monotonic(), journal.training_s
        budget_s = before_s + max(journal.left_s, EVALUATION_S_MIN)
        every_s = max(EVALUATION_S_MIN, budget_s / N_EVALUATIONS)
        next_s, n_worse = before_s + every_s, 0
        for batch in self._endless_batches(tables, training.n_steps):
            training.step(batch, journal.training_s / budget_s)
            journal.training_s = before_s + time.monotonic() - began
            self._on_progress("training", journal.training_s, budget_s)
            is_over = journal.training_s >= budget_s
            if is_over or journal.training_s >= next_s:
                n_worse = 0 if training.judge(shards, N_EVALUATED) else n_worse + 1
                training.save(self._work.checkpoint)
                self._work.note()
                next_s = journal.training_s + every_s
                if is_over or n_worse == PATIENCE:
                    break
        weights = quantised(SamplerHeadWeights(training.best.layers(), short.tokens, short.weight))
        head = SamplerHead.of(weights.layers)
        result = Result(
            quality=quality(head, shards, tables, N_EVALUATED),
            n_tokens=self._store.n_tokens,
            n_short=len(short.tokens),
            n_params=weights.n_params,
            pass_bytes=weights.n_bytes,
            n_steps=training.n_steps,
            writing_s=journal.writing_s,
            training_s=journal.training_s,
        )
        model = self._model
        write_heads(self._out, weights, model.identity, model.info.n_vocab, metadata_of(model, result))
        return result

    def _resume(self, training: Training) -> None:
        try:
            training.resume(self._work.checkpoint)
        except (RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
            why = str(error).split("\n")[0]
            raise Error(f"cannot read '{self._work.checkpoint}': {why}; delete it to train anew") from None
        if self._work.journal.training_s == 0:  # of an earlier run, with less text
            training.best_quality = None

    def _endless_batches(self, tables: Tables, seed: int) -> Iterator[Batch]:
        order = np.random.default_rng(seed)
        while True:
            yield from batches(self._store.shards, False, tables, DEPTH, N_BATCH, order)


def metadata_of(model: Model, result: Result) -> dict[str, str | int | float]:
    """What a file of heads says of itself."""
    found = result.quality
    values: dict[str, str | int | float] = {
        "general.name": f"Sampler head for {model.info.name or model.info.arch}",
        "general.description": "Trained by maskprobe on text that the model wrote itself.",
        "maskprobe.heads.temperature": 1.0,
        "maskprobe.train.parameters": result.n_params,
        "maskprobe.train.pass_bytes": result.pass_bytes,
        "maskprobe.train.tokens": result.n_tokens,
        "maskprobe.train.steps": result.n_steps,
        "maskprobe.train.writing_seconds": result.writing_s,
        "maskprobe.train.training_seconds": result.training_s,
        "maskprobe.train.held_out_places": found.n,
    }
    for key in LICENSE_KEYS:
        if (value := model.metadata(key)) is not None:
            values[key] = value
    for depth in range(DEPTH):
        for name in ("loss", "top1", "top8"):
            values[f"maskprobe.train.{name}.{depth + 1}"] = getattr(found, name)[depth]
    return values

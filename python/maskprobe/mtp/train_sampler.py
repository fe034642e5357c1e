"""From a model to a file with a sampler head: the model writes text, a head is trained on it and judged."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ModelError
from ..model import Model
from .head_blocks import Head
from .head_weights import BLOCK, HeadWeights, SamplerHeadWeights, quantised
from .heads_file import write_heads
from .model_tables import ShortList, input_scale, sizes_for, tables_of
from .sampler_batches import Batch, Tables, batches
from .sampler_head import SamplerHead
from .sampler_training import DEPTH, N_BATCH, Quality, Training, places_per_second, quality
from .training_run import OnProgress, Settings, TrainingRun, license_of

EPOCHS = 6  # that the text should be gone through
N_EVALUATIONS = 16  # in the time of the training; after each of them all is kept
EVALUATION_S_MIN = 10.0
N_EVALUATED = 10_000  # places
PATIENCE = 4  # evaluations without a better loss, after which it ends


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


class Run(TrainingRun[Result]):
    """A training of a sampler head. What another kind of heads has of its own is overridden.

    Raises Error; ModelError for a model that such a head cannot be made for."""

    KIND = SamplerHeadWeights.KIND
    TITLE = "Sampler head"
    N_WIDTHS = 3  # the first layer reads two vectors, the second writes one

    def __init__(self, model: Model, out: Path, settings: Settings, on_progress: OnProgress) -> None:
        if model.info.n_embd % BLOCK:
            raise ModelError(f"heads need a model whose n_embd is a multiple of {BLOCK}, it is {model.info.n_embd}")
        self._n_hidden, self._n_short = sizes_for(model, self.N_WIDTHS)
        super().__init__(model, out, settings, on_progress)

    def _seconds_per_token(self) -> float:
        n_embd = self._model.info.n_embd
        head = self._new_head(np.ones(2 * n_embd))
        return EPOCHS / places_per_second(head, n_embd, self._n_short, len(self._layers))

    def _train(self) -> Result:
        """For the time that is left, or until the loss on held-out texts does not fall any more; writes the heads."""
        journal, shards = self._work.journal, self._store.shards
        tables, short = tables_of(self._model, shards, self._n_short)
        training = Training(self._new_head(input_scale(tables, shards[-1])), tables)
        if self._work.checkpoint.exists():
            self._resume(training.resume)
            if journal.training_s == 0:  # of an earlier run, with less text
                training.best_quality = None
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
        weights = quantised(self._weights(training.best, short))
        result = Result(
            quality=quality(self._head_of(weights), shards, tables, N_EVALUATED),
            n_tokens=self._store.n_tokens,
            n_short=len(short.tokens),
            n_params=weights.n_params,
            pass_bytes=weights.n_bytes,
            n_steps=training.n_steps,
            writing_s=journal.writing_s,
            training_s=journal.training_s,
        )
        model = self._model
        write_heads(self._out, weights, model.identity, model.info.n_vocab, metadata_of(model, self.TITLE, result))
        return result

    def _new_head(self, scale: np.ndarray) -> Head:
        """`scale` (2 n_embd,) of the inputs: embeddings, states."""
        return SamplerHead(self._model.info.n_embd, self._n_hidden, scale)

    def _weights(self, head: Head, short: ShortList) -> HeadWeights:
        assert isinstance(head, SamplerHead)
        return SamplerHeadWeights(short.tokens, short.weight, head.layers())

    def _head_of(self, weights: HeadWeights) -> Head:
        assert isinstance(weights, SamplerHeadWeights)
        return SamplerHead.of(weights.layers)

    def _endless_batches(self, tables: Tables, seed: int) -> Iterator[Batch]:
        order = np.random.default_rng(seed)
        while True:
            yield from batches(self._store.shards, False, tables, DEPTH, N_BATCH, order)


def metadata_of(model: Model, title: str, result: Result) -> dict[str, str | int | float]:
    """What a file of heads says of itself."""
    found = result.quality
    values: dict[str, str | int | float] = {
        "general.name": f"{title} for {model.info.name or model.info.arch}",
        "general.description": "Trained by maskprobe on text that the model wrote itself.",
        "maskprobe.heads.temperature": 1.0,
        "maskprobe.train.parameters": result.n_params,
        "maskprobe.train.pass_bytes": result.pass_bytes,
        "maskprobe.train.tokens": result.n_tokens,
        "maskprobe.train.steps": result.n_steps,
        "maskprobe.train.writing_seconds": result.writing_s,
        "maskprobe.train.training_seconds": result.training_s,
        "maskprobe.train.held_out_places": found.n,
        **license_of(model),
    }
    for depth in range(DEPTH):
        for name in ("loss", "top1", "top8"):
            values[f"maskprobe.train.{name}.{depth + 1}"] = getattr(found, name)[depth]
    return values

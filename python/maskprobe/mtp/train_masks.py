"""From a model to a file of trained masks: the model writes text, and its masks learn from it."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import Error
from ..model import Model
from .gguf_weights import FrozenModel
from .mask_file import write_masks
from .mask_texts import beginning_of, texts_of
from .mask_training import MaskSettings, MaskTraining, Quality, contents_of, measure, seconds_per_text
from .masked_model import MaskedModel
from .training_run import OnProgress, Settings, TrainingRun, license_of

RANK_MAX = 16
N_BYTES_MAX = 15_500_000  # of the matrices in a file
KEEPING_S = 60.0  # after so much training all is kept
TRAINING_S_MIN = 10.0
N_EVALUATED = 64  # texts


@dataclass(frozen=True, slots=True)
class Result:
    quality: Quality
    n_tokens: int  # of text
    n_masks: int
    rank: int
    n_steps: int
    writing_s: float
    training_s: float


class Run(TrainingRun[Result]):
    """A training of masks.

    Raises Error; ArgumentError for a model whose masks cannot be trained."""

    KIND = "masks"

    def __init__(self, model: Model, out: Path, settings: Settings, on_progress: OnProgress) -> None:
        frozen = FrozenModel(model.path)
        super().__init__(model, out, settings, on_progress)
        torch.manual_seed(settings.seed)
        self._mask_settings = MaskSettings(rank=rank_for(frozen), seed=settings.seed)
        self._masked = MaskedModel(frozen, self._mask_settings.n_masks, self._mask_settings.rank)
        self._beginning = beginning_of(model)

    def _seconds_per_token(self) -> float:
        settings = self._mask_settings
        n_answer = max(settings.n_tokens_max - len(self._beginning), 1)
        return seconds_per_text(self._masked, settings) / n_answer  # each text is for one step

    def _train(self) -> Result:
        journal, settings, shards = self._work.journal, self._mask_settings, self._store.shards
        held_out, trained_on = (texts_of(shards, part, self._beginning, settings.n_masks) for part in (True, False))
        if not held_out or not trained_on:
            raise Error(f"none of the texts has more than {settings.n_masks + 1} tokens: give it more time (--minutes)")
        training = MaskTraining(self._masked, trained_on, settings)
        if self._work.checkpoint.exists():
            self._resume(training.resume)
        began, before_s = time.monotonic(), journal.training_s
        budget_s = before_s + max(journal.left_s, TRAINING_S_MIN)
        kept_s = before_s
        while journal.training_s < budget_s:
            training.step(journal.training_s / budget_s)
            journal.training_s = before_s + time.monotonic() - began
            self._on_progress("training", journal.training_s, budget_s)
            if journal.training_s >= min(kept_s + KEEPING_S, budget_s):
                training.save(self._work.checkpoint)
                self._work.note()
                kept_s = journal.training_s
        result = Result(
            quality=measure(self._masked, held_out[:N_EVALUATED], settings),
            n_tokens=self._store.n_tokens,
            n_masks=settings.n_masks,
            rank=settings.rank,
            n_steps=training.n_steps,
            writing_s=journal.writing_s,
            training_s=journal.training_s,
        )
        self._write(result)
        return result

    def _write(self, result: Result) -> None:
        info, found = self._model.info, result.quality
        training = {
            "tokens": result.n_tokens,
            "steps": result.n_steps,
            "rank": result.rank,
            "consistency": self._mask_settings.consistency,
            "writing_seconds": round(result.writing_s, 1),
            "training_seconds": round(result.training_s, 1),
            "held_out_places": found.n,
            "held_out_loss": [round(value, 4) for value in found.loss],
            "held_out_top1": [round(value, 4) for value in found.top1],
        }
        about = {
            "general.name": f"Trained masks for {info.name or info.arch}",
            "general.description": "Trained by maskprobe on text that the model wrote itself.",
            **license_of(self._model),
        }
        write_masks(self._out, contents_of(self._masked, self._model.identity, training, about))


def rank_for(model: FrozenModel) -> int:
    """The rank of matrices that fit into a file, in 16 bits, RANK_MAX at most."""
    n_bytes = 2 * sum(n_out + n_in for n_out, n_in in model.matrices().values())
    return max(1, min(RANK_MAX, N_BYTES_MAX // n_bytes))

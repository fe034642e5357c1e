"""What all trainings have in common: the model writes text, something is trained on it, and a killed run goes on."""

import pickle
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from ..errors import Error
from ..model import Model
from .own_text import Writer
from .text_store import Text, TextStore
from .work_folder import DONE, TRAINING, WorkFolder

TOKENS_MIN = 2000  # of text, to train on
TRAINING_SHARE_MIN = 0.2  # of the time
SHARD_TOKENS, SHARD_S = 20_000, 60.0  # a shard is written after so much, whichever comes first

LICENSE_KEYS = ("general.license", "general.license.name", "general.license.link")  # of the model: of its text too

OnProgress = Callable[[str, float, float], None]  # what is done, the seconds gone, and those there are
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Settings:
    budget_s: float
    n_threads: int  # 0: one for each physical core
    prompts: Sequence[str] = ()
    seed: int = 0


class TrainingRun(ABC, Generic[Result]):
    """One training for `model`, with what it keeps in the folder `out`.work. A run that was cut short goes on with the
    time that it had left; after one that was not, the next has new time and the text that there is.

    Raises Error."""

    KIND: str

    def __init__(self, model: Model, out: Path, settings: Settings, on_progress: OnProgress) -> None:
        self._model = model
        self._out = out
        self._settings = settings
        self._on_progress = on_progress
        self._layers = self._layers_read()
        self._work = WorkFolder(Path(f"{out}.work"), model.identity, settings.budget_s, self.KIND)
        self._store = TextStore(self._work.folder / "text", model.info.n_embd, self._layers)
        if settings.n_threads > 0:  # else as many as there are cores, as the engine has them
            torch.set_num_threads(settings.n_threads)

    @property
    def left_s(self) -> float:
        """Of a run that goes on; 0 for a new one."""
        return self._work.journal.left_s if self._work.goes_on else 0.0

    def __call__(self) -> Result:
        """Raises Error, KeyboardInterrupt; what was done until then is kept."""
        try:
            if self._work.journal.phase != TRAINING:
                self._write_texts(self._seconds_per_token())
            if self._store.n_tokens < TOKENS_MIN or not any(shard.held_out.any() for shard in self._store.shards):
                raise Error(
                    f"the model wrote {self._store.n_tokens} tokens in {self._work.journal.writing_s:.0f} s, at least "
                    f"{TOKENS_MIN} are needed: give it more time (--minutes)"
                )
            result = self._train()
            self._work.journal.phase = DONE
            self._work.note()
            return result
        except OSError as error:
            raise Error(f"cannot write in '{self._work.folder}': {error.strerror or error}") from None
        finally:
            self._work.close()

    def _layers_read(self) -> list[int]:
        """Layers whose hidden states are read beside that after the last norm."""
        return []

    @abstractmethod
    def _seconds_per_token(self) -> float:
        """What training takes for each token of the text."""

    @abstractmethod
    def _train(self) -> Result:
        """For the time that is left; writes the file."""

    def _resume(self, resume: Callable[[Path], None]) -> None:
        """Goes on from the checkpoint. Raises Error."""
        try:
            resume(self._work.checkpoint)
        except (RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
            why = str(error).split("\n")[0]
            raise Error(f"cannot read '{self._work.checkpoint}': {why}; delete it to train anew") from None

    def _write_texts(self, training_s_per_token: float) -> None:
        """Until the time that is left is what it takes to train on the text."""
        journal, store, settings = self._work.journal, self._store, self._settings
        began, before_s, n_new = time.monotonic(), journal.writing_s, 0
        pending: list[Text] = []
        since = began
        seed = settings.seed + len(store.shards)
        writer = Writer(self._model, settings.prompts, seed, settings.n_threads, self._layers)
        try:
            for text in writer.texts():
                now = time.monotonic()
                journal.writing_s = before_s + now - began
                if text is not None:
                    pending.append(text)
                    n_new += len(text.tokens)
                n_pending = sum(len(text.tokens) for text in pending)
                needed = max((store.n_tokens + n_pending) * training_s_per_token, TRAINING_SHARE_MIN * journal.budget_s)
                left = journal.left_s - needed
                if left <= 0:
                    break
                if pending and (n_pending >= SHARD_TOKENS or now - since >= SHARD_S):
                    store.add(pending)
                    self._work.note()
                    pending, since = [], now
                # Each further token takes its own time, and that of training on it.
                pace = n_new / (now - began)
                self._on_progress("writing text", now - began, now - began + left / (1 + pace * training_s_per_token))
        finally:
            writer.close()
            if rest := pending + writer.unfinished():
                store.add(rest)
            self._work.note()
        journal.phase = TRAINING
        self._work.note()


def license_of(model: Model) -> dict[str, str]:
    """What the model's file says of its licence."""
    found = {key: model.metadata(key) for key in LICENSE_KEYS}
    return {key: value for key, value in found.items() if value is not None}

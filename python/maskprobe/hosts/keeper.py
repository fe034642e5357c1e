"""Keeps a child with a model and an engine: starts it, and after its end again, with the texts that it knew."""

import copy
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineLost, Error, StateError
from ..model import is_verbose
from .child_process import CLOSE_S, ChildProcess
from .messages import LoadedModel, OpenedEngine, Refill

Progress = Callable[[float], bool | None]
Reloading = Callable[[], AbstractContextManager[Progress | None]]


class Text:
    """A prompt and what follows it so far."""

    def __init__(self, prompt: np.ndarray, emitted: list[int]) -> None:
        self.prompt = prompt  # int32 (n,)
        self.emitted = emitted  # grows

    def tokens(self) -> np.ndarray:
        return np.concatenate([self.prompt, np.array(self.emitted, np.int32)])

    def goes_on_in(self, prompt: np.ndarray) -> bool:
        own = self.tokens()
        return len(own) <= len(prompt) and bool((own == prompt[: len(own)]).all())


class Keeper:
    """`options`: of Model. `reloading` makes a context in which the model is loaded again, with what is told how far
    that is. Any thread may call."""

    def __init__(self, path: Path, options: dict[str, Any], reloading: Reloading) -> None:
        self._path, self._options, self._reloading = path, options, reloading
        self._folder = os.getcwd()
        self._engine_options: dict[str, Any] | None = None
        self._starting = threading.Lock()
        self._child: ChildProcess | None = None
        self._n_attempts = 0
        self._failure: Error | None = None  # of the last attempt
        self._is_leaving = False  # whoever loads the model stops
        self._closed = False
        self._texts: list[Text] = []  # the newest last
        self._unknown: list[Text] = []  # those that a new child does not know

    @property
    def pid(self) -> int | None:
        """Of the child that runs."""
        child = self.alive
        return None if child is None else child.pid

    @property
    def alive(self) -> ChildProcess | None:
        child = self._child
        return child if child is not None and child.lost is None else None

    def load(self, progress: Progress | None) -> LoadedModel:
        """Starts the first child. Raises what ChildProcess.load() does."""
        with self._starting:
            self._child, loaded = self._start(progress)
        return loaded

    def open_engine(self, options: dict[str, Any]) -> OpenedEngine:
        """Raises what Engine() raises, EngineLost, and StateError where there is one."""
        if self._engine_options is not None:
            raise StateError("the process of this model has an engine already: close it first")
        opened: OpenedEngine = self.running().ask("open_engine", options)
        # What was found out is kept: what was planned with it holds in the next child too.
        self._engine_options = {**options, "n_ctx": opened.n_ctx}
        return opened

    def close_engine(self) -> str | None:
        """The engine's last note, None where it has none any more."""
        self._is_leaving = True
        with self._starting:
            self._is_leaving = False
            child, self._engine_options = self.alive, None
            self._texts.clear()
            self._unknown.clear()
        if child is None:
            return None
        child.fail_generations(StateError("the engine is closed"))
        try:
            note: str = child.ask("close_engine", patience_s=CLOSE_S)
        except EngineLost:
            return None
        return note

    def running(self) -> ChildProcess:
        """The child; where it has ended, a new one. Those who wait for one that cannot be started share its failure.

        Raises what load() and open_engine() raise."""
        if (child := self.alive) is not None:
            return child
        seen = self._n_attempts
        with self._starting:
            if self._closed:
                raise StateError("the model is closed")
            if (child := self.alive) is not None:
                return child
            if self._n_attempts != seen and self._failure is not None:
                raise copy.copy(self._failure)
            self._n_attempts += 1
            self._failure = None
            try:
                with self._reloading() as progress:
                    self._child, _ = self._start(progress)
            except Error as error:
                self._failure = error
                raise
            self._unknown = self._texts
            return self._child

    def note_text(self, child: ChildProcess, prompt: np.ndarray, emitted: list[int], n_kept: int) -> None:
        """A generation of the child has begun. The newest n_kept texts are kept: after its end, a new child evaluates
        them again while nothing else is asked for."""
        with self._starting:
            texts = [text for text in self._texts if not text.goes_on_in(prompt)]
            lost = [text.tokens() for text in self._unknown if text in texts]
            self._texts = [*texts, Text(prompt, emitted)][-n_kept:]
            self._unknown = []
        if lost:
            child.post(Refill(lost[::-1]))

    def close(self) -> None:
        """Ends the child."""
        self._is_leaving = True
        with self._starting:
            self._closed = True
            if (child := self.alive) is not None:
                child.close()

    def _start(self, progress: Progress | None) -> tuple[ChildProcess, LoadedModel]:
        def watched(fraction: float) -> bool | None:
            return False if self._is_leaving else progress and progress(fraction)

        child = ChildProcess(self._folder, is_verbose())
        try:
            loaded = child.load(self._path, self._options, watched)
            if self._engine_options is not None:
                child.ask("open_engine", self._engine_options)
        except BaseException:
            child.kill("was ended")
            child.close()
            raise
        return child, loaded

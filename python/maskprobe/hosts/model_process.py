"""ModelProcess: a model whose weights are in a child process, and whose vocabulary is here."""

import contextlib
import os
from typing import Any

from .._capi import Handle
from ..model import Model
from .keeper import Keeper, Progress, Reloading


class ModelProcess(Model):
    """A Model that ends no process but its own: its texts, tokens and facts are here, its weights and its engine, an
    EngineProcess, in a child. Sessions and contexts cannot be opened on it. The other settings are those of Model.

    `reloading` makes a context for the time in which the model is loaded again, with what is told its progress.

    Raises what Model raises, and EngineLost where the child ends."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        reloading: Reloading = contextlib.nullcontext,
        **options: Any,
    ) -> None:
        super().__init__(path, vocab_only=True, loras=options.get("loras", ()))
        keeper = Keeper(self.path.absolute(), options, reloading)
        try:
            loaded = keeper.load(progress)
        except BaseException:
            super().close()
            raise
        self.info = loaded.info
        self._loaded_identity = loaded.identity
        self._keeper = Handle.of(keeper, Keeper.close, "model")  # an engine shares it

    @property
    def pid(self) -> int | None:
        """Of the child; None where it has ended and was not started again."""
        with self._keeper as keeper:
            found: int | None = keeper.pid
            return found

    def close(self) -> None:
        """Lets go of it; the child ends with the last of the model and its engine. Closing twice is fine."""
        super().close()
        self._keeper.close(waits=True)

    def _identity(self) -> tuple[str, str]:
        return self._loaded_identity

"""Where a model and its engine run: in this process, or in one of their own."""

import contextlib
import os
from typing import Any

from ..engine import Engine
from ..model import Model
from .engine_process import EngineProcess
from .keeper import Progress, Reloading
from .model_process import ModelProcess


def open_model(
    path: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    reloading: Reloading = contextlib.nullcontext,
    **options: Any,
) -> Model:
    """A Model. With layers on `rpc` hosts a ModelProcess, which `reloading` is for: ggml's RPC ends the process that it
    runs in where a host is lost. Raises what they raise."""
    if options.get("rpc"):
        return ModelProcess(path, progress=progress, reloading=reloading, **options)
    return Model(path, progress=progress, **options)


def open_engine(model: Model, **options: Any) -> Engine:
    """The Engine that a model of open_model() needs. Raises what it raises."""
    return EngineProcess(model, **options) if isinstance(model, ModelProcess) else Engine(model, **options)

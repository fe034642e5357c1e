"""What a model, its context and its sessions will take of memory, before anything is loaded."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from . import model, session
from ._capi import NULL, c_path, check, ffi, lib, text
from .engine import ROWS_EACH, engine_params, rows_needed


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes, but for n_ctx. `total` is the sum of what comes beside `process`."""

    process: int  # resident now, with the model's vocabulary
    mapped: int  # weights as they lie in the file: dropped and read again where memory is short
    packed: int  # weights in memory, packed for the kernels or read
    cache: int  # keys and values, or recurrent states, of all sessions
    compute: int  # of graphs
    logits: int
    tables: int  # what is learned of the model
    files: int  # adapters, heads and masks
    total: int
    free: int  # what this process may still take, -1: not known
    on_gpu: int  # in none of the others
    n_ctx: int  # tokens of each session
    kernels: str  # "llama.cpp", or the instruction set of maskprobe's own
    note: str  # the share of the weights that these compute, or why they are llama.cpp's
    problem: str  # why it does not fit, and what would; "" where it fits


def memory_needed(path: str | os.PathLike[str], **settings: Any) -> Memory:
    """What Model(path, **model_options) and an Engine with the other settings would take now: the metadata and the
    vocabulary are read for it, no weights. A proposer other than "all" may take memory of its own, which is not in it.

    The settings are model_options and those of Engine, without a model. Raises as Model and Engine do, but where
    something does not fit `problem` says so."""
    out = ffi.new("mp_memory *")
    _ask(path, out, **settings)
    values: dict[str, Any] = {field.name: getattr(out, field.name) for field in fields(Memory)}
    values |= {name: text(value) for name, value in values.items() if isinstance(value, ffi.CData)}
    return Memory(**values)


def refuse_what_does_not_fit(path: str | os.PathLike[str], **settings: Any) -> None:
    """Raises OutOfMemory, before anything is loaded, where a context was asked for that does not fit: one that was not
    is made as large as fits. The settings are those of memory_needed(); it raises what that does."""
    _ask(path, NULL, **settings)


def _ask(
    path: str | os.PathLike[str],
    out: Any,
    *,
    model_options: Mapping[str, Any] | None = None,
    n_parallel: int = 1,
    proposer: str = "all",
    rows: int | str = "auto",
    masks: str = "none",
    state: str | os.PathLike[str] | None = None,
    heads: str | os.PathLike[str] | None = None,
    n_rows_max: int = 0,
    **context_options: Any,
) -> None:
    n_rows = rows if isinstance(rows, int) else None
    n_rows_max = n_rows_max or rows_needed(n_rows or ROWS_EACH, n_parallel, context_options.get("n_ubatch", 0))
    model_params, _, _kept_model = model.c_params(**(model_options or {}))
    context, _kept_context = session.c_params(n_sessions_max=n_parallel, n_rows_max=n_rows_max, **context_options)
    engine, _kept_engine = engine_params(n_rows, masks, state, heads if proposer == "all" else None)
    check(lib.mp_memory_needed(c_path(path, "model"), model_params, context, engine, out))

"""Embeddings of texts in OpenAI's shape: the mean of the last hidden states."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine import Engine
from ..errors import ArgumentError
from .values import ContextExceeded


def unit(row: np.ndarray) -> np.ndarray:
    """A row (n_embd,) at length 1; zeros stay zeros."""
    length = float(np.linalg.norm(row))
    return row / length if length > 0 else row


def embedded(engine: Engine, texts: Sequence[str], normalize: bool, truncate: bool) -> tuple[list[list[float]], int]:
    """A row of n_embd numbers for each text, and the tokens of all. `truncate` takes the beginning of what is longer
    than the context. Raises ArgumentError, ContextExceeded, and what Engine.embed() does."""
    n_ctx = engine.context.n_ctx
    rows, n_tokens = [], 0
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ArgumentError(f"text {i} must be text, not {type(text).__name__}")
        tokens = engine.model.tokenize(text)
        if not tokens:
            raise ArgumentError(f"text {i} is empty")
        if len(tokens) > n_ctx and not truncate:
            raise ContextExceeded(f"text {i} has {len(tokens)} tokens, the context {n_ctx}")
        row = engine.embed(tokens[:n_ctx])
        rows.append([float(x) for x in (unit(row) if normalize else row)])
        n_tokens += min(len(tokens), n_ctx)
    return rows, n_tokens


def embedding_list(rows: Sequence[Sequence[float]], n_tokens: int, model: str) -> dict[str, Any]:
    """The answer of an embeddings request."""
    return {
        "object": "list",
        "data": [{"object": "embedding", "embedding": list(row), "index": i} for i, row in enumerate(rows)],
        "model": model,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }

"""Embeddings of texts: the mean of the last hidden states, of length 1."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArgumentError, ContextFull
from ..openai.embeddings import unit
from .errors import ApiError, BadField
from .models import Entry, Loaded, in_thread
from .running import Server

MOST_TEXTS = 2048  # of a request, OpenAI's limit

# Apart from other work: each may wait for a session to become free.
_threads = ThreadPoolExecutor(2, "maskprobe-embed")


@dataclass(slots=True)
class Embeddings:
    rows: list[np.ndarray]  # each float32 (n_embd,)
    n_tokens: int
    load_s: float


async def embeddings_of(
    server: Server,
    entry: Entry,
    client: str,
    texts: Sequence[Any],
    *,
    n_wanted: int | None = None,
    truncate: bool = False,
) -> Embeddings:
    """`texts`: each text or a list of tokens. n_wanted: numbers of a row, which must be the model's own. `truncate`:
    takes the beginning of what is too long.

    Raises ApiError; ArgumentError, ContextFull, ModelError."""
    started = time.perf_counter()
    if not 1 <= len(texts) <= MOST_TEXTS:
        raise BadField("input", f"input must have 1 to {MOST_TEXTS} texts, not {len(texts)}")
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(server.settings.timeout_s), server.models.use(entry) as loaded:
            load_s = time.perf_counter() - started
            n_embd = loaded.model.info.n_embd
            if n_wanted not in (None, n_embd):
                raise BadField("dimensions", f"dimensions = {n_wanted}: this model has {n_embd}")
            tokens = await in_thread(_tokens_of, loaded, texts, truncate)
            rows = []
            for one in tokens:
                async with entry.admission.turn(client):
                    row = await loop.run_in_executor(_threads, loaded.engine.embed, one)
                rows.append(unit(row))
                entry.metrics.embedded += len(one)
    except TimeoutError:
        raise ApiError(504, f"it took more than {server.settings.timeout_s:g} s (--timeout)", code="timeout") from None
    return Embeddings(rows, sum(map(len, tokens)), load_s)


def _tokens_of(loaded: Loaded, texts: Sequence[Any], truncate: bool) -> list[list[int]]:
    found = []
    n_vocab = loaded.model.info.n_vocab
    for i, text in enumerate(texts):
        if isinstance(text, str):
            tokens = loaded.model.tokenize(text, add_special=True)
        elif isinstance(text, list) and all(type(token) is int and 0 <= token < n_vocab for token in text):
            tokens = text
        else:
            raise ArgumentError(f"input[{i}] must be text or a list of tokens from 0 to {n_vocab - 1}")
        if not tokens:
            raise ArgumentError(f"input[{i}] is empty")
        if len(tokens) > loaded.n_ctx:
            if not truncate:
                raise ContextFull(f"input[{i}] has {len(tokens)} tokens, the context {loaded.n_ctx}")
            tokens = tokens[: loaded.n_ctx]
        found.append(tokens)
    return found

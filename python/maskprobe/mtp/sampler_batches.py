"""Places of the texts in batches, with what a head starts from there and what it should guess."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .text_store import Shard

GROUP_BYTES = 256 << 20  # of hidden states in memory at once


@dataclass(frozen=True, slots=True)
class Tables:
    """Rows of the model's tables that the training uses. A token that has none there is -1."""

    row_of: Tensor  # (n_vocab,) int64, into `embedding`
    embedding: Tensor  # (n_seen, n_embd) float32
    short_of: Tensor  # (n_vocab,) int64, into `short`
    short: Tensor  # (n_short, n_embd) bfloat16, of the unembedding


@dataclass(frozen=True, slots=True)
class Batch:
    """`n` places, and at each depth after them the token that the head gets and those that it should guess."""

    hidden: Tensor  # (n, n_embd) float32, after the model's last norm
    between: Tensor  # (n, n_layers, n_embd) float32, after the store's layers, of size one
    inputs: Tensor  # (depth, n, n_embd) float32
    inside: Tensor  # (depth, n) bool: the text has not ended
    targets: Tensor  # (depth, n) int64, into the short list; -1: not there, or not inside
    likely: Tensor  # (depth, n, N_TOP) int64, into the short list
    weights: Tensor  # (depth, n, N_TOP) float32, probabilities of these in the model; 0 where not there, or not inside
    states: Tensor  # (depth, n, n_embd) float32, hidden states that the head should come near


def places(shard: Shard, held_out: bool) -> np.ndarray:
    """Those with another token after theirs, (n,) int64."""
    return np.flatnonzero((shard.held_out == held_out) & (shard.left > 1))


def batches(
    shards: Sequence[Shard],
    held_out: bool,
    tables: Tables,
    depth: int,
    n_batch: int,
    order: np.random.Generator | None = None,
) -> Iterator[Batch]:
    """All places once, from first to last or in random order. A group of shards is in memory at a time."""
    numbers = list(range(len(shards)) if order is None else order.permutation(len(shards)))
    while numbers:
        group: list[tuple[Shard, np.ndarray]] = []
        n_bytes = 0
        while numbers and n_bytes < GROUP_BYTES:
            shard = shards[numbers.pop(0)]
            group.append((shard, places(shard, held_out)))
            n_bytes += shard.hidden.nbytes + shard.between.nbytes
        yield from _group_batches(group, tables, depth, n_batch, order)


def _group_batches(
    group: Sequence[tuple[Shard, np.ndarray]],
    tables: Tables,
    depth: int,
    n_batch: int,
    order: np.random.Generator | None,
) -> Iterator[Batch]:
    tokens, left, hidden, between, top, logprobs = (
        np.concatenate([getattr(shard, name) for shard, _ in group])
        for name in ("tokens", "left", "hidden", "between", "top", "logprobs")
    )
    starts = np.cumsum([0, *(len(shard.tokens) for shard, _ in group[:-1])])
    found = np.concatenate([start + of for start, (_, of) in zip(starts, group, strict=True)])
    chosen = np.arange(len(found)) if order is None else order.permutation(len(found))
    steps = np.arange(depth + 1)[:, None]
    for first in range(0, len(chosen), n_batch):
        at = found[chosen[first : first + n_batch]]
        inside = torch.from_numpy(left[at] > steps[1:])
        ahead = np.minimum(at + steps, len(tokens) - 1)  # (depth + 1, n)
        ids = torch.from_numpy(tokens[ahead].astype(np.int64))
        likely = tables.short_of[torch.from_numpy(top[ahead[1:]].astype(np.int64))]
        weights = torch.from_numpy(np.exp(logprobs[ahead[1:]].astype(np.float32)))
        yield Batch(
            hidden=torch.from_numpy(hidden[at]).float(),
            between=torch.from_numpy(between[at]).float(),
            inputs=tables.embedding[tables.row_of[ids[:-1]]],
            inside=inside,
            targets=torch.where(inside, tables.short_of[ids[1:]], -1),
            likely=likely.clamp(min=0),
            weights=weights * (likely >= 0) * inside[..., None],
            states=torch.from_numpy(hidden[ahead[1:]]).float(),
        )

"""Steps of the training of a head of any kind, and what it is worth on held-out texts. A sampler head is unrolled over
its own guesses."""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .head_blocks import Head
from .sampler_batches import Batch, Tables, batches
from .text_store import N_TOP, Shard
from .work_folder import replace

DEPTH = 3
FALLOFF = 0.7  # the loss of each further depth counts so much less
N_BATCH = 256  # places
RATE = 4e-3  # of learning, at its highest
RATE_LAST = 0.02  # of it, at the end
WARM_UP_STEPS = 50
WEIGHT_DECAY = 0.1
GRADIENT_MAX = 1.0  # norm
AVERAGED = 0.998  # of the averaged weights is kept in a step
TARGET_SHARE = 0.5  # of the loss is cross-entropy to the token that came, the rest to the model's likely tokens
STATE_WEIGHT = 4.0  # of the distance to the hidden state that came, beside the two
N_BEST = 8
N_TIMED = 4  # steps that are timed


@dataclass(frozen=True, slots=True)
class Quality:
    """On held-out texts, by depth."""

    loss: list[float]  # nats, of the tokens that came and are on the short list
    top1: list[float]  # share of all places where the best guess came
    top8: list[float]  # where one of the best eight came
    listed: list[float]  # where what came is on the short list
    n: int  # places

    @property
    def total(self) -> float:
        """What training makes small."""
        return sum(FALLOFF**depth * loss for depth, loss in enumerate(self.loss))


def unrolled(head: Head, batch: Batch, tables: Tables) -> Iterator[tuple[Tensor, Tensor]]:
    """At each depth the state that is guessed, (n, n_embd), and the log-probabilities over the short list,
    (n, n_short)."""
    for z in head.guesses(batch):
        yield z, functional.log_softmax((z @ tables.short.T).float(), -1)


def loss_of(head: Head, batch: Batch, tables: Tables) -> Tensor:
    total = torch.zeros(())
    with torch.autocast("cpu", torch.bfloat16):
        for depth, (z, logprobs) in enumerate(unrolled(head, batch, tables)):
            inside = batch.inside[depth]
            n = inside.sum().clamp(min=1)
            came = functional.nll_loss(logprobs, batch.targets[depth], ignore_index=-1, reduction="sum") / n
            likely = -(batch.weights[depth] * logprobs.gather(-1, batch.likely[depth])).sum() / n
            away = functional.smooth_l1_loss(z, batch.states[depth], reduction="none").mean(-1)
            total = total + FALLOFF**depth * (
                TARGET_SHARE * came + (1 - TARGET_SHARE) * likely + STATE_WEIGHT * (away * inside).sum() / n
            )
    return total


@torch.no_grad()
@torch.autocast("cpu", torch.bfloat16)
def quality(head: Head, shards: Sequence[Shard], tables: Tables, n_max: int) -> Quality:
    """On `n_max` places of held-out texts, or a few more."""
    was_training = head.training
    head.eval()
    sums = np.zeros((5, DEPTH))  # loss, best guess right, one of eight right, on the list, inside
    for batch in batches(shards, True, tables, DEPTH, N_BATCH):
        for depth, (_, logprobs) in enumerate(unrolled(head, batch, tables)):
            targets = batch.targets[depth]
            right = logprobs.topk(min(N_BEST, logprobs.shape[-1]), -1).indices == targets[:, None]
            loss = functional.nll_loss(logprobs, targets, ignore_index=-1, reduction="sum")
            counts = (right[:, 0].sum(), right.any(-1).sum(), (targets >= 0).sum(), batch.inside[depth].sum())
            sums[:, depth] += [float(value) for value in (loss, *counts)]
        if sums[4, 0] >= n_max:
            break
    head.train(was_training)
    losses, firsts, bests, listed, inside = sums
    return Quality(
        loss=(losses / np.maximum(listed, 1)).tolist(),
        top1=(firsts / np.maximum(inside, 1)).tolist(),
        top8=(bests / np.maximum(inside, 1)).tolist(),
        listed=(listed / np.maximum(inside, 1)).tolist(),
        n=int(inside[0]),
    )


class Training:
    """Steps of one head. The averaged weights are those that are judged; `best` are the best ones so far."""

    def __init__(self, head: Head, tables: Tables) -> None:
        self.head = head
        self.averaged = copy.deepcopy(head).eval()
        self.best = copy.deepcopy(head).eval()
        self.best_quality: Quality | None = None
        self.n_steps = 0
        self._tables = tables
        self._optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=WEIGHT_DECAY)

    def step(self, batch: Batch, progress: float) -> float:
        """`progress` is the share of the time that has gone: the rate of learning falls with it along a cosine. Gives
        the loss before the step."""
        rate = RATE_LAST + (1 - RATE_LAST) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        for group in self._optimizer.param_groups:
            group["lr"] = RATE * rate * min(1.0, (self.n_steps + 1) / WARM_UP_STEPS)
        loss = loss_of(self.head, batch, self._tables)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), GRADIENT_MAX)
        self._optimizer.step()
        self.n_steps += 1
        kept = min(AVERAGED, self.n_steps / (10 + self.n_steps))
        with torch.no_grad():
            for average, value in zip(self.averaged.parameters(), self.head.parameters(), strict=True):
                average.lerp_(value, 1 - kept)
        return float(loss.detach())

    def judge(self, shards: Sequence[Shard], n_places: int) -> bool:
        """Whether the weights are better than all before, on held-out texts."""
        found = quality(self.averaged, shards, self._tables, n_places)
        if self.best_quality is not None and found.total >= self.best_quality.total:
            return False
        self.best.load_state_dict(self.averaged.state_dict())
        self.best_quality = found
        return True

    def save(self, path: Path) -> None:
        """Raises OSError."""
        found = self.best_quality
        state = {
            "head": self.head.state_dict(),
            "averaged": self.averaged.state_dict(),
            "best": self.best.state_dict(),
            "best_quality": None if found is None else asdict(found),
            "optimizer": self._optimizer.state_dict(),
            "n_steps": self.n_steps,
        }
        replace(path, lambda beside: torch.save(state, beside))

    def resume(self, path: Path) -> None:
        """Goes on from what save() wrote. Raises OSError, and what torch raises for a file that is none of these."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        for name in ("head", "averaged", "best"):
            getattr(self, name).load_state_dict(state[name])
        self._optimizer.load_state_dict(state["optimizer"])
        found = state["best_quality"]
        self.best_quality = None if found is None else Quality(**found)
        self.n_steps = state["n_steps"]


def places_per_second(head: Head, n_embd: int, n_short: int, n_layers: int) -> float:
    """How fast a head of this size trains here, on texts with the states after `n_layers` layers."""
    embedding, short = torch.randn(N_BATCH, n_embd), torch.randn(n_short, n_embd).bfloat16()
    tables = Tables(torch.arange(N_BATCH), embedding, torch.arange(n_short), short)
    shape = (DEPTH, N_BATCH)
    batch = Batch(
        hidden=embedding,
        between=embedding[:, None].expand(-1, n_layers, -1),
        inputs=embedding.expand(DEPTH, -1, -1),
        inside=torch.ones(shape, dtype=torch.bool),
        targets=torch.zeros(shape, dtype=torch.int64),
        likely=torch.zeros((*shape, N_TOP), dtype=torch.int64),
        weights=torch.zeros((*shape, N_TOP)),
        states=embedding.expand(DEPTH, -1, -1),
    )
    training = Training(head, tables)
    training.step(batch, 0.0)
    began = time.perf_counter()
    for _ in range(N_TIMED):
        training.step(batch, 0.0)
    return N_TIMED * N_BATCH / (time.perf_counter() - began)

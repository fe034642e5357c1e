"""Training of masks for the GGUF a user has, on text that its model wrote (arXiv 2507.11851).

The loss of a mask row: cross-entropy of the token that it should name, by the model's own head and by the sampler
head, and the latent consistency (z - z_t)^2, where z_t is the latent that the text's own row has at that place.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .mask_file import MaskFile
from .mask_layout import MaskRows, places
from .mask_texts import Text
from .masked_model import MaskedModel
from .work_folder import replace

RATE_LAST = 0.1  # of the rate of learning, at the end
WARM_UP_STEPS = 20
GRADIENT_MAX = 1.0  # norm
KEPT = 0.98  # of the running losses is kept in a step
N_TIMED = 2  # steps that are timed


@dataclass(frozen=True, slots=True)
class MaskSettings:
    """n_masks: masks that may follow a token. rank: of the gated matrices, 0: none. head: with a sampler head.
    consistency: weight of the latents' loss. n_owners: places of a text that are trained at once. n_tokens_max: of a
    text, the rest is not looked at. rate: the highest rate of learning; it falls to a tenth towards the end."""

    n_masks: int = 8
    rank: int = 16
    head: bool = False
    consistency: float = 1.0
    n_owners: int = 16
    n_tokens_max: int = 192
    rate: float = 2e-3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Quality:
    """On held-out text, by the number of a mask, (n_masks,) each: the cross-entropy in nats, the share of places whose
    token is the likeliest one; the same of the sampler head, where there is one, given the tokens before."""

    loss: list[float]
    top1: list[float]
    head_top1: list[float]
    n: int  # places


class MaskTraining:
    """Steps of the training of `masked` on texts that are long enough for its masks. `losses` are running means by
    name."""

    def __init__(self, masked: MaskedModel, texts: Sequence[Text], settings: MaskSettings) -> None:
        self.masked = masked
        self.settings = settings
        self.n_steps = 0
        self.losses: dict[str, float] = {}
        self._texts = texts
        self._optimizer = torch.optim.AdamW(masked.parameters(), lr=settings.rate, betas=(0.9, 0.95), weight_decay=0.01)

    def step(self, share: float) -> None:
        """On one text. `share` is the part of the time that has gone: the rate of learning falls with it. Texts and
        places depend on the seed and the number of the step alone."""
        settings = self.settings
        for group in self._optimizer.param_groups:
            warm = min(1.0, (self.n_steps + 1) / WARM_UP_STEPS)
            group["lr"] = settings.rate * warm * (1 - (1 - RATE_LAST) * min(1.0, share))
        self._optimizer.zero_grad(set_to_none=True)
        generator = torch.Generator().manual_seed(settings.seed + self.n_steps)
        for name, value in _backward(self.masked, self._text(), settings, generator).items():
            before = self.losses.get(name, value)
            self.losses[name] = KEPT * before + (1 - KEPT) * value
        torch.nn.utils.clip_grad_norm_(self.masked.parameters(), GRADIENT_MAX)
        self._optimizer.step()
        self.n_steps += 1

    def _text(self) -> Text:
        """Each comes once in an order of its own, then all in another one."""
        epoch, number = divmod(self.n_steps, len(self._texts))
        order = torch.randperm(len(self._texts), generator=torch.Generator().manual_seed(self.settings.seed + epoch))
        return self._texts[int(order[number])]

    def save(self, path: Path) -> None:
        """Raises OSError."""
        state = {
            "masks": self.masked.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "n_steps": self.n_steps,
            "losses": self.losses,
        }
        replace(path, lambda beside: torch.save(state, beside))

    def resume(self, path: Path) -> None:
        """Goes on from what save() wrote. Raises OSError, and what torch raises for a file that is none of these."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.masked.load_state_dict(state["masks"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.n_steps, self.losses = state["n_steps"], state["losses"]


def seconds_per_text(masked: MaskedModel, settings: MaskSettings) -> float:
    """How long a step takes here. `masked` has gradients then and no other weights."""
    text = Text(np.zeros(settings.n_tokens_max, np.int32), 1)
    generator = torch.Generator().manual_seed(0)
    _backward(masked, text, settings, generator)
    began = time.perf_counter()
    for _ in range(N_TIMED):
        _backward(masked, text, settings, generator)
    return (time.perf_counter() - began) / N_TIMED


def contents_of(
    masked: MaskedModel, identity: str, training: Mapping[str, object], about: Mapping[str, str] | None = None
) -> MaskFile:
    """What the file has of trained masks."""

    def array(values: Tensor) -> np.ndarray:
        return values.detach().numpy()

    return MaskFile(
        identity=identity,
        n_vocab=masked.model.n_vocab,
        vectors=array(masked.vectors),
        pairs={name: (array(a), array(b)) for name, (a, b) in masked.pairs().items()},
        head={name: array(values) for name, values in masked.head.tensors().items()} if masked.head else {},
        training=training,
        about=about or {},
    )


def measure(masked: MaskedModel, texts: Sequence[Text], settings: MaskSettings) -> Quality:
    """How well masks name the tokens after them, at fixed places of the texts."""
    generator = torch.Generator().manual_seed(1)
    sums = torch.zeros(4, settings.n_masks)  # loss, right, right by the head, places
    for text in texts:
        with torch.no_grad():
            rows = _rows_of(text, settings, generator)
            tokens, _, latents = _forward(masked, text, rows, settings)
            targets = tokens[rows.targets]
            logits = masked.model.logits(latents)
            sums[0].index_add_(0, rows.numbers, F.cross_entropy(logits, targets, reduction="none"))
            sums[1].index_add_(0, rows.numbers, (logits.argmax(-1) == targets).float())
            if masked.head:
                guessed = masked.model.logits(_with_head(masked, tokens, rows, latents)).argmax(-1)
                sums[2].index_add_(0, rows.numbers, (guessed == targets).float())
            sums[3].index_add_(0, rows.numbers, torch.ones(len(targets)))
    means = (sums[:3] / sums[3]).tolist()
    return Quality(means[0], means[1], means[2] if masked.head else [], int(sums[3, 0]))


def _backward(masked: MaskedModel, text: Text, settings: MaskSettings, generator: torch.Generator) -> dict[str, float]:
    """Adds the gradients of one text; returns its losses by name."""
    rows = _rows_of(text, settings, generator)
    tokens, true_latents, latents = _forward(masked, text, rows, settings)
    targets = tokens[rows.targets]
    parts = {"base": F.cross_entropy(masked.model.logits(latents), targets)}
    if settings.consistency > 0:
        parts["consistency"] = (latents - true_latents[rows.positions]).square().mean()
    if masked.head:
        parts["head"] = F.cross_entropy(masked.model.logits(_with_head(masked, tokens, rows, latents)), targets)
    weights = {"base": 1.0, "head": 1.0, "consistency": settings.consistency}
    total = sum((weights[name] * value for name, value in parts.items()), torch.zeros(()))
    total.backward()
    return {name: float(value.detach()) for name, value in parts.items()}


def _forward(masked: MaskedModel, text: Text, rows: MaskRows, settings: MaskSettings) -> tuple[Tensor, Tensor, Tensor]:
    """The text's tokens, the latents of its rows, those of the mask rows."""
    tokens = torch.from_numpy(text.tokens[: settings.n_tokens_max].astype(np.int64))
    beside = masked.text_rows(tokens)
    return tokens, beside.latents, masked.mask_rows(beside, rows)


def _with_head(masked: MaskedModel, tokens: Tensor, rows: MaskRows, latents: Tensor) -> Tensor:
    assert masked.head is not None
    before = masked.model.embedding[tokens[rows.positions]].float()  # the token before the one that is named
    updated: Tensor = masked.head(before, latents)
    return updated


def _rows_of(text: Text, settings: MaskSettings, generator: torch.Generator) -> MaskRows:
    n_tokens = min(len(text.tokens), settings.n_tokens_max)
    owners = places(text.n_prompt, n_tokens, settings.n_masks, settings.n_owners, generator)
    return MaskRows.after(owners, settings.n_masks)

"""Training of masks for the GGUF a user has, on text that its model wrote (arXiv 2507.11851).

The loss of a mask row: cross-entropy of the token that it should name, by the model's own head and by the sampler
head, and the latent consistency (z - z_t)^2, where z_t is the latent that the text's own row has at that place.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ArgumentError
from ..model import Model
from .gguf_weights import FrozenModel
from .mask_file import MaskFile, write_masks
from .mask_layout import MaskRows, places
from .masked_model import MaskedModel

LEAST_HELD_OUT = 4  # texts
HELD_OUT_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Text:
    """Tokens of a prompt and its answer, of which the first n_prompt are the prompt's."""

    tokens: Sequence[int]
    n_prompt: int


@dataclass(frozen=True, slots=True)
class MaskSettings:
    """n_masks: masks that may follow a token. rank: of the gated matrices, 0: none. head: with a sampler head.
    consistency: weight of the latents' loss. n_owners: places of a text that are trained at once. n_texts: texts of a
    step. n_tokens_max: of a text, the rest is not looked at. n_steps: at most, None: as many as the time has. rate: the
    highest rate of learning; it falls to a tenth towards the end."""

    n_masks: int = 8
    rank: int = 16
    head: bool = False
    consistency: float = 1.0
    n_owners: int = 24
    n_texts: int = 4
    n_tokens_max: int = 256
    n_steps: int | None = None
    rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """After a step: how many there were, the share of the time (0..1), running means of the losses by name."""

    step: int
    share: float
    losses: dict[str, float]


@dataclass(frozen=True, slots=True)
class Quality:
    """On held-out text, by the number of a mask, (n_masks,) each: the cross-entropy in nats, the share of places whose
    token is the likeliest one; the same of the sampler head, where there is one, given the tokens before."""

    loss: list[float]
    top1: list[float]
    head_top1: list[float]


def train_masks(
    model_path: Path,
    texts: Sequence[Text],
    out: Path,
    *,
    minutes: float,
    settings: MaskSettings | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Quality:
    """Trains masks for `minutes`, writes them to `out` as a whole when it is done, and says how good they are on texts
    that were held out.

    Raises ArgumentError for a model that cannot be trained for and for too few texts, ModelError where `out` cannot be
    written."""
    settings = settings or MaskSettings()
    with Model(model_path, self_check=False, kernels="stock") as engine_model:
        identity = engine_model.identity
    torch.manual_seed(settings.seed)
    frozen = FrozenModel(model_path)
    usable = [text for text in texts if _n_places(text, settings) > 0]
    n_held_out = max(LEAST_HELD_OUT, int(HELD_OUT_SHARE * len(usable)))
    if len(usable) < 2 * n_held_out:
        raise ArgumentError(
            f"{len(usable)} of {len(texts)} texts have answers of more than {settings.n_masks + 1} tokens: "
            f"at least {2 * LEAST_HELD_OUT} are needed"
        )
    held_out, trained_on = usable[:n_held_out], usable[n_held_out:]
    masked = MaskedModel(frozen, settings.n_masks, settings.rank, head=settings.head)
    n_steps = _train(masked, trained_on, settings, minutes * 60, progress)
    quality = measure(masked, held_out, settings)
    training = {
        "minutes": minutes,
        "steps": n_steps,
        "texts": len(trained_on),
        "tokens": sum(len(text.tokens) for text in trained_on),
        "rank": settings.rank,
        "consistency": settings.consistency,
        "held_out_loss": [round(value, 4) for value in quality.loss],
        "held_out_top1": [round(value, 4) for value in quality.top1],
    }
    write_masks(out, contents_of(masked, identity, training))
    return quality


def contents_of(masked: MaskedModel, identity: str, training: dict[str, object]) -> MaskFile:
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
    return Quality(means[0], means[1], means[2] if masked.head else [])


def _train(
    masked: MaskedModel,
    texts: Sequence[Text],
    settings: MaskSettings,
    seconds: float,
    progress: Callable[[Progress], None] | None,
) -> int:
    """Returns the number of steps."""
    optimizer = torch.optim.AdamW(masked.parameters(), lr=settings.rate, betas=(0.9, 0.95), weight_decay=0.01)
    generator = torch.Generator().manual_seed(settings.seed)
    order = _shuffled(len(texts), generator)
    started = time.monotonic()
    losses: dict[str, float] = {}
    step = 0
    while True:
        share = (time.monotonic() - started) / seconds
        if settings.n_steps is not None:
            share = max(share, step / settings.n_steps)
        if share >= 1:
            return step
        warm = min(1.0, (step + 1) / 20)
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * warm * (1 - 0.9 * share)
        optimizer.zero_grad(set_to_none=True)
        for _ in range(settings.n_texts):
            for name, value in _backward(masked, texts[next(order)], settings, generator).items():
                losses[name] = losses.get(name, value) + 0.02 * (value - losses.get(name, value))
        torch.nn.utils.clip_grad_norm_(masked.parameters(), 1.0)
        optimizer.step()
        step += 1
        if progress:
            progress(Progress(step, share, dict(losses)))


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
    (total / settings.n_texts).backward()
    return {name: float(value.detach()) for name, value in parts.items()}


def _forward(masked: MaskedModel, text: Text, rows: MaskRows, settings: MaskSettings) -> tuple[Tensor, Tensor, Tensor]:
    """The text's tokens, the latents of its rows, those of the mask rows."""
    tokens = torch.tensor(text.tokens[: settings.n_tokens_max], dtype=torch.long)
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


def _n_places(text: Text, settings: MaskSettings) -> int:
    return min(len(text.tokens), settings.n_tokens_max) - settings.n_masks - max(text.n_prompt, 1)


def _shuffled(n: int, generator: torch.Generator) -> Iterator[int]:
    """0..n-1 in a new order each time."""
    while True:
        yield from torch.randperm(n, generator=generator).tolist()

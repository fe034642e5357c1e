"""What trained heads are made of in torch, and what the training asks of each kind."""

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from .head_weights import Layer
from .sampler_batches import Batch

NORM_EPS = 1e-5
FIRST_GAIN = 0.1  # of the last norm: training begins near the state that the head begins from


class Head(nn.Module):
    """A head of any kind."""

    @abstractmethod
    def guesses(self, batch: Batch) -> Iterator[Tensor]:
        """At each depth the state that is guessed, (n, n_embd)."""


class Block(nn.Module):
    """Linear, SiLU, LayerNorm."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)
        self.norm = nn.LayerNorm(n_out, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(functional.silu(self.linear(x)).float())
        return normed

    def layer(self, scale: Tensor | None = None) -> Layer:
        """Its weights; `scale` of the inputs is folded into them."""
        weight = self.linear.weight if scale is None else self.linear.weight * scale
        parts = (weight, self.linear.bias, self.norm.weight, self.norm.bias)
        return Layer(*(part.detach().float().numpy() for part in parts))

    def take(self, layer: Layer) -> None:
        """The weights of a layer whose inputs need no scale."""
        parts = (self.linear.weight, self.linear.bias, self.norm.weight, self.norm.bias)
        arrays = (layer.weight, layer.bias, layer.norm_weight, layer.norm_bias)
        with torch.no_grad():
            for part, array in zip(parts, arrays, strict=True):
                part.copy_(torch.from_numpy(array))

"""The sampler head in torch: from a token and the hidden state it was drawn from to a guess at the next hidden state.

After Samragh et al. 2025 (sampler head) and Ankner et al. 2024 (Hydra: heads that see the tokens before them).
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from .head_blocks import FIRST_GAIN, Block, Head
from .head_weights import Layer
from .sampler_batches import Batch


class SamplerHead(Head):
    """z' = z + B1(B0([E(x); z])): `z` is the hidden state after the model's last norm at the row that the token x was
    drawn from, or the z' of the depth before; E(x) the token's row of the input embedding. `scale` (2 n_embd,) brings
    both to a like size; it is folded into the first matrix where the head is written."""

    scale: Tensor

    def __init__(self, n_embd: int, n_hidden: int, scale: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32)))
        self.first = Block(2 * n_embd, n_hidden)
        self.second = Block(n_hidden, n_embd)
        nn.init.constant_(self.second.norm.weight, FIRST_GAIN)

    def forward(self, embedding: Tensor, z: Tensor) -> Tensor:
        guess: Tensor = z + self.second(self.first(torch.cat([embedding, z], -1) * self.scale))
        return guess

    def guesses(self, batch: Batch) -> Iterator[Tensor]:
        z = batch.hidden
        for embedding in batch.inputs:
            z = self(embedding, z)
            yield z

    def layers(self) -> tuple[Layer, Layer]:
        return self.first.layer(self.scale), self.second.layer()

    @classmethod
    def of(cls, layers: tuple[Layer, Layer]) -> "SamplerHead":
        """The head that a file describes."""
        n_embd, n_hidden = layers[1].weight.shape
        head = cls(n_embd, n_hidden, np.ones(2 * n_embd, np.float32))
        head.first.take(layers[0])
        head.second.take(layers[1])
        return head

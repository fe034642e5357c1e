"""MTP heads in torch: from the hidden states at one row, a head for each distance, to guesses at the states to come.

After Mehra et al. 2025, "On multi-token prediction for efficient LLM inference" (weighted hidden states): a model that
was trained for the next token specialises early on it, so a head reads a learned mix of several layers.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from .head_blocks import FIRST_GAIN, Block, Head
from .head_weights import MtpHeadsWeights
from .sampler_batches import Batch
from .text_store import NORM_EPS

LAST_AT_FIRST = 2.0  # of a mix, before softmax: what the last norm's state has more than the others


class MtpHeads(Head):
    """Head i: u = sum of softmax(a_i)_l h_l / rms(h_l), z = h + B1_i(B0_i(u)). The states h_l are those after
    `n_layers` layers and, at the end, h, that after the model's last norm."""

    def __init__(self, n_embd: int, n_hidden: int, n_layers: int, n_distances: int) -> None:
        super().__init__()
        at_first = torch.zeros(n_distances, n_layers + 1)
        at_first[:, -1] = LAST_AT_FIRST
        self.mix = nn.Parameter(at_first)
        self.first = nn.ModuleList(Block(n_embd, n_hidden) for _ in range(n_distances))
        self.second = nn.ModuleList(Block(n_hidden, n_embd) for _ in range(n_distances))
        for block in self.second:
            assert isinstance(block, Block)
            nn.init.constant_(block.norm.weight, FIRST_GAIN)

    def guesses(self, batch: Batch) -> Iterator[Tensor]:
        last = batch.hidden / (batch.hidden.square().mean(-1, keepdim=True) + NORM_EPS).sqrt()
        states = torch.cat([batch.between, last[:, None]], 1)  # (n, n_states, n_embd)
        for mix, first, second in zip(self.mix, self.first, self.second, strict=True):
            u = (states * mix.softmax(-1)[:, None]).sum(1)
            yield batch.hidden + second(first(u))

    def weights(self, layers: np.ndarray, short_tokens: np.ndarray, short: np.ndarray) -> MtpHeadsWeights:
        """For a file. `layers`: (n_states,) int32, whose states the heads read, the last norm included."""
        mixes = list(self.mix.detach().softmax(-1).numpy())
        blocks = [(first.layer(), second.layer()) for first, second in zip(self.first, self.second, strict=True)]
        return MtpHeadsWeights(short_tokens, short, layers, mixes, blocks)

    @classmethod
    def of(cls, weights: MtpHeadsWeights) -> "MtpHeads":
        """The heads that a file describes."""
        n_embd, n_hidden = weights.blocks[0][1].weight.shape
        heads = cls(n_embd, n_hidden, len(weights.read) - 1, len(weights.blocks))
        with torch.no_grad():
            heads.mix.copy_(torch.from_numpy(np.stack(weights.mixes)).log())
        for i, (first, second) in enumerate(weights.blocks):
            heads.first[i].take(first)
            heads.second[i].take(second)
        return heads

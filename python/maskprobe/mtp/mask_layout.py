"""Mask rows of many places of a text beside its own rows, and who sees whom.

    token rows     0 1 2 3 4 5           of the text; each sees itself and those before it, as always
    mask rows      2.1 2.2 4.1 4.2       two masks after token 2, two after token 4
    position       3   4   5   6         mask j of an owner stands j places after it
    2.2 sees       tokens 0..2, 2.1, 2.2
    4.1 sees       tokens 0..4, 4.1

No token row sees a mask row, so that the text is computed once, without gradients, for all its mask rows: what the
engine does in a pass (csrc/session/tree_pass.h), at every place of a text at once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class MaskRows:
    """n_owners * n_masks rows, those of an owner one after another. Each attribute has one entry per row."""

    owners: Tensor  # (n,) the token row that they stand after
    numbers: Tensor  # (n,) 0 for the first mask after an owner

    @classmethod
    def after(cls, owners: Tensor, n_masks: int) -> "MaskRows":
        return cls(owners.repeat_interleave(n_masks), torch.arange(n_masks).repeat(len(owners)))

    @property
    def positions(self) -> Tensor:
        """Where they stand, which is the token row that says what they should say, (n,)."""
        return self.owners + self.numbers + 1

    @property
    def targets(self) -> Tensor:
        """The token that they should name, (n,)."""
        return self.owners + self.numbers + 2

    def visible(self, n_tokens: int) -> Tensor:
        """Which of [token rows | mask rows] each mask row sees, bool (n, n_tokens + n)."""
        tokens = torch.arange(n_tokens)[None, :] <= self.owners[:, None]
        same = self.owners[None, :] == self.owners[:, None]
        masks = same & (self.numbers[None, :] <= self.numbers[:, None])
        return torch.cat([tokens, masks], 1)


def places(n_prompt: int, n_tokens: int, n_masks: int, n_owners: int, generator: torch.Generator) -> Tensor:
    """A random choice of at most n_owners places of an answer with n_masks + 1 tokens of it after them, ascending."""
    first, end = max(n_prompt - 1, 0), n_tokens - n_masks - 1
    if end <= first:
        return torch.empty(0, dtype=torch.long)
    chosen = torch.randperm(end - first, generator=generator)[:n_owners]
    return (chosen + first).sort().values

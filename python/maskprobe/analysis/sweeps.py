"""All places of a text in passes: its tokens as chains, with masks after them if they are wanted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..masks import MaskEmbedding
from ..session import Pass, Session
from ..tree import TokenTree


@dataclass(frozen=True)
class Text:
    """Tokens whose places from n_prompt - 1 on are looked at: first what follows the last token of the prompt."""

    task: str
    name: str
    tokens: Sequence[int]
    n_prompt: int

    @property
    def places(self) -> range:
        """Of the tokens that have a successor in the text."""
        return range(self.n_prompt - 1, len(self.tokens) - 1)


@dataclass(frozen=True)
class Sweep:
    """One pass. Node i stands at place `begin` + i of the text. It has masks where i < n_owners."""

    begin: int
    n_owners: int
    tree: TokenTree = field(repr=False)
    result: Pass = field(repr=False)

    @property
    def places(self) -> range:
        """Of the owners."""
        return range(self.begin, self.begin + self.n_owners)

    def mask_row(self, node: int, mask: int) -> int:
        """The row of the mask (from 0) after a node."""
        return self.tree.mask_rows(node)[mask]


def sweep(
    session: Session, text: Text, mask: MaskEmbedding | None = None, n_masks: int = 0, n_top: int = 1, n_ahead: int = 0
) -> Iterator[Sweep]:
    """Passes over the places of the text that have n_ahead tokens after the next one; each place is an owner of one
    pass, with n_masks masks after it. Node i + 1 follows node i, also beyond the last owner where the text goes on: the
    n_ahead nodes after an owner are always there.

    A mask learns from every pass as it would in a generation whose candidates are all accepted."""
    tokens = list(text.tokens)
    begin = text.places.start
    end = len(tokens) - 1 - n_ahead
    session.set_prefix(tokens[:begin])
    if mask is not None:
        mask.begin(tokens[: begin + 1], n_masks)
        n_top = max(n_top, mask.n_top)
    n_each = max(1, (session.n_rows_max - n_ahead) // (1 + n_masks))
    while begin < end:
        n_owners = min(n_each, end - begin)
        tree = TokenTree(tokens[begin])
        for i in range(1, n_owners + n_ahead):
            tree.add(i - 1, tokens[begin + i], 0.0)
        if mask is not None and n_masks > 0:
            blocks = mask.vectors(tokens[begin : begin + n_owners])  # (n_owners, n_masks, n_embd)
            for owner in range(n_owners):
                tree.add_masks(owner, np.asarray(blocks[owner]))
        result = session.decode(tree, n_top)
        yield Sweep(begin, n_owners, tree, result)
        path = list(range(n_owners))
        if mask is not None:
            mask.observe(tree, result, path, tokens[begin + 1 : begin + 1 + n_owners])
        session.commit(path)
        begin += n_owners

"""Plain decoding: no candidates, one token per pass."""

from collections.abc import Sequence

from ..tree import TokenTree
from .base import Proposer


class NoProposer(Proposer):
    """Offers nothing: every pass is the root alone."""

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        return TokenTree(context[-1])

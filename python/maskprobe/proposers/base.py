"""The interface between the engine and a source of candidates."""

from collections.abc import Sequence

from ..session import Pass
from ..tree import TokenTree


class Proposer:
    """A source of candidates. It can change the speed of a generation, never its output.

    `n_rows_max` is the number of rows of its largest tree, `n_top` the candidates per row it wants to see in a pass.
    """

    n_rows_max = 1
    n_top = 1

    def begin(self, tokens: Sequence[int]) -> None:
        """A new generation starts after the prompt `tokens`."""

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        """The tree of the next pass: its root is context[-1], it has at most `room` rows (>= 1)."""
        raise NotImplementedError

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        """Learns from a pass over `tree`: `path` are its accepted nodes, `emitted` the tokens drawn behind them.

        `result` is valid until this returns."""

"""The interface between an engine and a source of candidates."""

from collections.abc import Sequence

from .._capi import lib
from ..errors import ArgumentError
from ..session import Pass
from ..tree import TokenTree

N_ROWS_LIMIT = lib.MP_N_ROWS_LIMIT  # of a pass


class Proposer:
    """A source of candidates. It can change the speed of a generation, never its output. It serves one generation at a
    time.

    `n_rows_max` is the number of rows of its largest tree, `n_top` the candidates per row that it wants to see of a
    pass. `whole`: its tree is decoded as it is. Otherwise the engine decodes the nodes that pay, by the probabilities
    that the tree claims.
    """

    n_rows_max = 1
    n_top = 1
    whole = True

    _serves = False  # a generation, now

    def begin(self, tokens: Sequence[int]) -> None:
        """A new generation starts, `tokens` are its text so far: the prompt and the first token."""

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        """The tree of the next pass: its root is context[-1], it has at most `room` rows (>= 1). On a model that takes
        chains only, its best chain is decoded."""
        raise NotImplementedError

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        """Learns from a pass over `tree`: `path` are its accepted nodes, `emitted` the tokens drawn after them. It is
        the tree that was proposed, or what the engine decoded of it.

        `result` is valid until this returns."""


def checked_count(name: str, value: int, low: int = 1, high: int = N_ROWS_LIMIT) -> int:
    """`value` if it lies in low..high. Raises ArgumentError."""
    if not low <= value <= high:
        raise ArgumentError(f"{name} = {value} is out of range: {low} to {high}")
    return value

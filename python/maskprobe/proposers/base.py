"""The interface between the engine and a source of candidates."""

from collections.abc import Sequence

import numpy as np

from .._capi import lib
from ..errors import ArgumentError
from ..session import Pass, Session
from ..tree import TokenTree

N_ROWS_LIMIT = lib.MP_N_ROWS_LIMIT  # of a pass


class Proposer:
    """A source of candidates. It can change the speed of a generation, never its output.

    `n_rows_max` is the number of rows of its largest tree, `n_top` the candidates per row it wants to see in a pass,
    `n_prompt_rows` the outputs of the last rows of the prompt that it wants to learn from.
    """

    n_rows_max = 1
    n_top = 1
    n_prompt_rows = 0

    def attach(self, session: Session) -> None:
        """An engine will use it with this session."""

    def begin(self, tokens: Sequence[int]) -> None:
        """A new generation starts after the prompt `tokens`; all but the last are in the cache."""

    def learn_prompt(self, top_tokens: np.ndarray, top_logprobs: np.ndarray) -> None:
        """Called after begin() with the outputs of the last rows of the prompt, int32 and float32 (n_rows, n_top):
        those of the n_rows tokens before the newest, which has none yet. At most `n_prompt_rows`; fewer where the
        cache had held some of these tokens, and no call where it had held all."""

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        """The tree of the next pass: its root is context[-1], it has at most `room` rows (>= 1). On a model that takes
        chains only, the engine decodes the best chain of it, and that is what observe() gets."""
        raise NotImplementedError

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        """Learns from a pass over `tree`: `path` are its accepted nodes, `emitted` the tokens drawn behind them.

        `result` is valid until this returns."""

    def end(self) -> None:
        """The generation is over, however it ended."""


def checked_count(name: str, value: int, low: int = 1, high: int = N_ROWS_LIMIT) -> int:
    """`value` if it lies in low..high. Raises ArgumentError."""
    if not low <= value <= high:
        raise ArgumentError(f"{name} = {value} is out of range: {low} to {high}")
    return value

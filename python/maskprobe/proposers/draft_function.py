"""A function that guesses what follows a text, as llama-cpp-python's draft models are."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..tree import TokenTree
from .base import Proposer, checked_count

RIGHT = math.log(0.7)  # what each further guess is thought to be worth


class DraftFunction(Proposer):
    """One chain of candidates: what `guess` gives for the whole text, int32 (n,) -> token ids in one dimension.

    Raises ArgumentError for a number of rows that is out of range.
    """

    def __init__(self, guess: Callable[[np.ndarray], Sequence[int] | np.ndarray], n_rows_max: int = 16) -> None:
        self.n_rows_max = checked_count("n_rows_max", n_rows_max)
        self._guess = guess

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        tree = TokenTree(context[-1])
        tokens = np.asarray(self._guess(np.asarray(context, np.intc))).tolist()
        for depth, token in enumerate(tokens[: min(room, self.n_rows_max) - 1]):
            tree.add(depth, int(token), RIGHT * (depth + 1))
        return tree

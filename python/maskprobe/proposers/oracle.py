"""A proposer for measurements: it knows the text to come and is right as often as it is told to be."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import ArgumentError
from ..tree import TokenTree
from .base import Proposer

DEPTH_MAX = 8  # of the chain that may be right, unless told
GOLDEN_RATIO = (math.sqrt(5.0) - 1.0) / 2.0  # its multiples fill the unit interval evenly
TAIL = 16  # tokens by which the generated text is recognised


class Oracle(Proposer):
    """Trees of exactly `rows` rows with which `tau` tokens per pass come out, for a `text` (prompt and what the model
    puts after it) that is known beforehand: what an acceptance is worth on a machine, whoever reaches it.

    A candidate of the chain is right with the same rate r at each depth, given that the one before it is, so that
    tau = 1 + r + r^2 + ... down to the end of the chain, `depth_max` candidates at most. The right ones come evenly
    rather than at random: of those whose parent is right, a share r to within one, so tau settles within a few passes.
    The rest of the rows are siblings, and the chain goes on after a wrong one. No wrong candidate carries the token of
    the text at its place, so none is accepted by chance; all are distinct tokens, drawn with `seed`.

    Where the generated text has left `text` (rounding, in a pass of another size), candidates are wrong ones only.

    Raises ArgumentError for a tau that so many rows cannot give, and for a vocabulary too small for wrong candidates.
    """

    def __init__(
        self, text: Sequence[int], n_vocab: int, *, tau: float, rows: int, depth_max: int = DEPTH_MAX, seed: int = 0
    ) -> None:
        self.depth = min(rows - 1, depth_max)
        if not 1.0 <= tau <= 1 + self.depth:
            raise ArgumentError(f"{tau:g} tokens per pass cannot be had with {rows} rows: 1 to {1 + self.depth} can")
        self._n_wrong = 2 * rows + self.depth  # every second one may happen to be right
        if n_vocab < self._n_wrong:
            raise ArgumentError(
                f"{rows} rows need {self._n_wrong} tokens to be wrong with, the vocabulary has {n_vocab}"
            )
        self.n_rows_max = rows
        self.rate = _rate(tau, self.depth)
        self._text = list(text)
        self._n_vocab = n_vocab
        self._random = np.random.default_rng(seed)
        # Of right candidates at each depth; it is right where one is due. Staggered, or the first pass had all of them.
        self._due = [depth * GOLDEN_RATIO % 1.0 for depth in range(1, self.depth + 1)]

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        tree = TokenTree(context[-1])
        rows = min(self.n_rows_max, room)
        here = len(context)
        tail = list(context[-TAIL:])
        n_right = self._next_n_right() if self._text[here - len(tail) : here] == tail else 0
        coming = self._text[here : here + self.depth + 1]
        wrong = iter(self._random.choice(self._n_vocab, self._n_wrong, replace=False).tolist())
        chain = [0]
        for depth in range(min(self.depth, rows - 1)):
            token = coming[depth] if depth < min(n_right, len(coming)) else _other(wrong, coming[depth : depth + 1])
            chain.append(tree.add(chain[-1], token, math.log(max(self.rate, 1e-9))))
        while tree.n_nodes < rows:  # siblings, in turns at each depth
            depth = tree.n_nodes % len(chain)
            share = max((1.0 - self.rate) / rows, 1e-9)
            tree.add(chain[depth], _other(wrong, coming[depth : depth + 1]), math.log(share))
        return tree

    def _next_n_right(self) -> int:
        """How many candidates of the chain are right: d or more in a share rate^d of the passes."""
        for depth in range(self.depth):
            self._due[depth] += self.rate
            if self._due[depth] < 1.0:
                return depth
            self._due[depth] -= 1.0
        return self.depth


def _other(tokens: Iterator[int], than: Sequence[int]) -> int:
    """The next of `tokens` that is not in `than`."""
    return next(token for token in tokens if token not in than)


def tau_of(rate: float, depth: int) -> float:
    """Tokens per pass, bonus included, of a chain whose candidates are right at `rate`, given the one before:
    1 + r + ... + r^depth."""
    return sum(rate**d for d in range(depth + 1))


def _rate(tau: float, depth: int) -> float:
    """r with 1 + r + ... + r^depth = tau, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if tau_of(middle, depth) < tau:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0

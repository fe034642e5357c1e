"""Lookahead decoding (arXiv 2402.02057): n-grams from a Jacobi iteration that runs beside the verification."""

import random
from collections.abc import Sequence
from typing import Self

from ..session import Pass
from ..tree import TokenTree
from .base import Proposer, checked_count
from .rates import AcceptanceRates

WINDOW_KIND = 0  # kinds of candidates: rows of the window, then those of the guesses by depth
GUESS_SHARES = (0.35, 0.5, 0.6, 0.7)


class Lookahead(Proposer):
    """Two branches in one pass. W = window, N = ngram, G = guesses are the paper's names.

    The *lookahead branch* holds the last N - 1 steps of a Jacobi iteration over W places: level j, place i is a guess
    of the token j + i places after the root, made j passes after that of level 0. What each row sees, besides the
    cache, the root and itself:

        level 0, place i         level 0, places 1 to i - 1
        level j > 0, place i     level 0, places 1 to i, and levels 1 to j - 1 at its own place i

    That is the mask of the paper, and it is a tree as it stands, without a row more: level 0 is a chain after the root
    (place 0 of level 0 is the root itself), and from each of its W nodes hangs the chain of the levels at that place.

        root - 0,1 - 0,2 - ... - 0,W-1
          |     |     |            |
         1,0   1,1   1,2         1,W-1
          |     |     |            |
         ...   ...   ...          ...

    What the model finds most likely after the last level is the newest level of the next pass, the oldest falls out.
    So each pass gives W n-grams, the tokens of place i from level 0 to the new level, which go into the pool. The
    window moves on by one place per pass, however many tokens were accepted (as in the authors' own program).

    The *verification branch* holds the pool's n-grams that begin with the root, N - 1 tokens each. The pool keeps the G
    newest per first token. It also takes the n-grams of the prompt and of the output (the paper's prompt as reference).

    Differences. Rows that carry the same token after the same tokens are computed once, be they of the window or of a
    guess: they would be equal. A row of the window that the model then draws is accepted like any candidate. The window
    starts with tokens of the prompt at random (seeded, so that a generation can be repeated), all levels at once;
    n-grams are taken when those are out of it.

    A pass has at most (N - 1) (W + G) rows; that is n_rows_max.

    Raises ArgumentError for numbers out of range.
    """

    def __init__(self, window: int = 7, ngram: int = 5, guesses: int = 7) -> None:
        self.window = checked_count("window", window)
        self.ngram = checked_count("ngram", ngram, low=2)
        self.guesses = checked_count("guesses", guesses)
        self.n_rows_max = checked_count(
            "(ngram - 1) * (window + guesses), the rows of a pass,", (ngram - 1) * (window + guesses)
        )
        self._n_levels = ngram - 1
        self._levels: list[list[int]] = []  # [level][place] tokens; [0][0] stands for the root
        self._tree: TokenTree | None = None  # of the pass under way
        self._nodes: list[list[int | None]] = []  # of each place its node, None: no room
        self._n_random = 0  # passes until the random tokens are out of the window
        self._pool: dict[int, dict[tuple[int, ...], None]] = {}  # first token -> the N - 1 others, the newest last
        self._n_read = 0  # tokens of prompt and output that the pool knows
        self._rates = AcceptanceRates((0.05, *GUESS_SHARES))

    @classmethod
    def within(cls, rows: int) -> Self:
        """Settings that fit a row budget (2 and more): the paper's n-grams of 5 where W = G = 1 fits with them, shorter
        ones below 8 rows, and the rows shared equally between the branches.

        Raises ArgumentError for a number out of range."""
        checked_count("rows", rows, low=2)
        ngram = min(5, rows // 2 + 1)
        chains = rows // (ngram - 1)
        return cls(window=chains // 2, ngram=ngram, guesses=chains - chains // 2)

    def begin(self, tokens: Sequence[int]) -> None:
        numbers = random.Random(0)
        self._levels = [numbers.choices(tokens, k=self.window) for _ in range(self._n_levels)]
        self._n_random = self._n_levels
        self._pool = {}
        self._n_read = 0
        self._read(tokens)

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        self._read(context)
        self._tree = tree = TokenTree(context[-1])
        room = min(room, self.n_rows_max)
        for guess in reversed(self._pool.get(context[-1], ())):
            node: int | None = 0
            for depth, token in enumerate(guess):
                node = self._add(tree, room, node, token, 1 + min(depth, len(GUESS_SHARES) - 1))
        self._nodes = [[0]]
        for token in self._levels[0][1:]:
            self._nodes[0].append(self._add(tree, room, self._nodes[0][-1], token, WINDOW_KIND))
        for level in self._levels[1:]:
            above = self._nodes[-1]
            self._nodes.append(
                [self._add(tree, room, node, token, WINDOW_KIND) for node, token in zip(above, level, strict=True)]
            )
        return tree

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        if tree is not self._tree:
            return
        self._rates.observe(tree, path, emitted)
        newest = [
            token if node is None else int(result.best[node])
            for node, token in zip(self._nodes[-1], self._levels[-1], strict=True)
        ]
        self._levels[0][0] = tree.tokens[0]
        self._n_random = max(self._n_random - 1, 0)
        if self._n_random == 0:
            for place in range(self.window):
                if self._nodes[-1][place] is not None:
                    first, *others = (level[place] for level in self._levels)
                    self._remember(first, (*others, newest[place]))
        self._levels = [*self._levels[1:], newest]

    def _add(self, tree: TokenTree, room: int, parent: int | None, token: int, kind: int) -> int | None:
        """Adds a row, unless its parent is missing or there is no room."""
        if parent is None:
            return None
        node = tree.child(parent, token)
        if node is None and tree.n_nodes < room:
            node = tree.add(parent, token, self._rates.logprobs[kind], kind)
        return node

    def _read(self, text: Sequence[int]) -> None:
        """Puts the n-grams that end with the new tokens of the text into the pool."""
        for end in range(max(self._n_read, self.ngram - 1), len(text)):
            first, *others = text[end - self.ngram + 1 : end + 1]
            self._remember(first, tuple(others))
        self._n_read = len(text)

    def _remember(self, first: int, others: tuple[int, ...]) -> None:
        guesses = self._pool.setdefault(first, {})
        guesses.pop(others, None)
        guesses[others] = None
        if len(guesses) > self.guesses:
            del guesses[next(iter(guesses))]

"""Prompt lookup decoding (A. Saxena, 2023): what followed the same words before."""

from collections.abc import Sequence

from ..session import Pass
from ..tree import TokenTree
from .base import Proposer, checked_count
from .rates import AcceptanceRates

NGRAM_LIMIT = 16
DEPTHS = 4  # from here on, candidates of all depths are of one kind


class NgramIndex:
    """Where each n-gram of a growing text, n = 1..ngram, was followed by more text.

    span = 0: its earliest place. Otherwise the newest one after which `span` tokens stand, and the earliest as long as
    there is none. O(ngram) per token.
    """

    def __init__(self, ngram: int, span: int = 0) -> None:
        self.ngram = ngram
        self._span = span
        self._starts: list[dict[tuple[int, ...], int]] = []  # [n - 1]: n-gram -> place of the token after it
        self.clear()

    def clear(self) -> None:
        """Forgets the text."""
        self._starts = [{} for _ in range(self.ngram)]
        self._n_tokens = 1  # nothing stands before the first token

    def extend(self, text: Sequence[int]) -> None:
        """Takes in what `text` has beyond the text of the call before."""
        for start in range(self._n_tokens, len(text)):
            before = tuple(text[max(0, start - self.ngram) : start])
            for n in range(1, len(before) + 1):
                self._starts[n - 1].setdefault(before[-n:], start)
            settled = start + 1 - self._span
            if self._span and settled > 0:
                before = tuple(text[max(0, settled - self.ngram) : settled])
                for n in range(1, len(before) + 1):
                    self._starts[n - 1][before[-n:]] = settled
        self._n_tokens = max(self._n_tokens, len(text))

    def find(self, tail: Sequence[int]) -> tuple[int, int]:
        """The place of the token that followed the longest known n-gram at the end of `tail`, and n; (0, 0) if none
        is known."""
        tail = tuple(tail[-self.ngram :])
        for n in range(len(tail), 0, -1):
            start = self._starts[n - 1].get(tail[-n:])
            if start is not None:
                return start, n
        return 0, 0


class PromptLookup(Proposer):
    """The tokens that followed the earliest place where the last n tokens stood before; n = ngram, ngram - 1, ..., 1,
    the first that is found. One chain of n_rows_max - 1 tokens at most (10 in the original, with ngram = 3), fewer
    where the text ends before.

    The original, a scan over prompt and output, wants all of its 10 tokens after a match; later versions take what is
    there, and so does this one. Here an index takes the place of the scan; the result is the same.

    Raises ArgumentError for a number out of range.
    """

    def __init__(self, n_rows_max: int = 11, ngram: int = 3) -> None:
        self.n_rows_max = checked_count("n_rows_max", n_rows_max)
        self.ngram = checked_count("ngram", ngram, high=NGRAM_LIMIT)
        self._index = NgramIndex(ngram)
        # The longer the match, and the further down in the chain, the surer.
        self._rates = AcceptanceRates(
            [1 - 0.7 / (n + depth) for n in range(1, ngram + 1) for depth in range(1, DEPTHS + 1)]
        )

    def begin(self, tokens: Sequence[int]) -> None:
        self._index.clear()
        self._index.extend(tokens)

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        self._index.extend(context)
        tree = TokenTree(context[-1])
        start, n = self._index.find(context[-self.ngram :])
        if n:
            first = (n - 1) * DEPTHS
            for depth, token in enumerate(context[start : start + min(room, self.n_rows_max) - 1]):
                kind = first + min(depth, DEPTHS - 1)
                tree.add(depth, token, self._rates.logprobs[kind], kind)
        return tree

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        self._rates.observe(tree, path, emitted)

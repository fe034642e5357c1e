"""Longest-suffix match by a suffix automaton (SAM-Decoding, arXiv 2411.10666, its dynamic automaton)."""

from collections.abc import Sequence

from ..session import Pass
from ..tree import TokenTree
from .base import Proposer, checked_count
from .rates import AcceptanceRates

MATCHES, DEPTHS = 6, 3  # kinds of candidates: by the length of the match (1, 2-3, 4-7, ...) and by depth (1, 2, more)


class SuffixAutomaton:
    """The suffix automaton of a growing text, built online (Blumer et al., 1985).

    A state is a set of substrings that end at the same places. Arrays, one entry per state: `_next` its transitions,
    `_link` the state of its longest suffix that ends at more places (-1 for the empty string's), `_length` of its
    longest substring, `_first_end` the earliest place where it ends. At most two states per token, O(1) amortised time
    per token for a given vocabulary.
    """

    def __init__(self) -> None:
        self._next: list[dict[int, int]] = [{}]
        self._link = [-1]
        self._length = [0]
        self._first_end = [-1]
        self._last = 0  # the state of the whole text

    def __len__(self) -> int:
        """Tokens of the text."""
        return self._length[self._last]

    def append(self, token: int) -> None:
        """Makes the text one token longer."""
        n = len(self)
        state = self._last
        self._last = new = self._add({}, -1, n + 1, n)
        while state >= 0 and token not in self._next[state]:
            self._next[state][token] = new
            state = self._link[state]
        self._link[new] = 0 if state < 0 else self._suffix_state(state, token)

    def longest_repeat(self) -> tuple[int, int]:
        """The longest suffix of the text that also ends at an earlier place, as its length and the first place where it
        ends; (0, -1) where no suffix does. The two may overlap."""
        repeat = max(self._link[self._last], 0)
        return self._length[repeat], self._first_end[repeat]

    def _suffix_state(self, state: int, token: int) -> int:
        """The state of the longest substring of `state` followed by `token`; it is split off where its state has longer
        ones too."""
        target = self._next[state][token]
        if self._length[target] == self._length[state] + 1:
            return target
        split = self._add(
            self._next[target].copy(), self._link[target], self._length[state] + 1, self._first_end[target]
        )
        self._link[target] = split
        while state >= 0 and self._next[state].get(token) == target:
            self._next[state][token] = split
            state = self._link[state]
        return split

    def _add(self, transitions: dict[int, int], link: int, length: int, first_end: int) -> int:
        self._next.append(transitions)
        self._link.append(link)
        self._length.append(length)
        self._first_end.append(first_end)
        return len(self._link) - 1


class NgramAutomaton(Proposer):
    """The tokens that followed the longest suffix of the text that stood before, as one chain.

    Of several earlier places the first one counts, as in the paper: an automaton keeps it for nothing, while the most
    recent one would have to be written into all suffix states with each token. Two differences. A match of any length
    is used: the paper leaves short ones to another source. And where fewer tokens than asked for stand after the
    match, the text has just repeated itself, and the chain goes on with the repetition instead of ending.

    Raises ArgumentError for a number out of range.
    """

    def __init__(self, n_rows_max: int = 16) -> None:
        self.n_rows_max = checked_count("n_rows_max", n_rows_max)
        self._automaton = SuffixAutomaton()
        self._rates = AcceptanceRates(
            [1 - 0.7 / (match + depth) for match in range(1, MATCHES + 1) for depth in range(1, DEPTHS + 1)]
        )

    def begin(self, tokens: Sequence[int]) -> None:
        self._automaton = SuffixAutomaton()
        self._extend(tokens)

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        self._extend(context)
        tree = TokenTree(context[-1])
        length, end = self._automaton.longest_repeat()
        if length:
            first = DEPTHS * (min(length.bit_length(), MATCHES) - 1)
            period = len(context) - 1 - end
            for depth in range(min(room, self.n_rows_max) - 1):
                kind = first + min(depth, DEPTHS - 1)
                tree.add(depth, context[end + 1 + depth % period], self._rates.logprobs[kind], kind)
        return tree

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        self._rates.observe(tree, path, emitted)

    def _extend(self, text: Sequence[int]) -> None:
        for token in text[len(self._automaton) :]:
            self._automaton.append(token)

"""Candidates from the logits of the last pass, extended by n-gram look-up (LogitSpec, arXiv 2507.01449)."""

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

from ..session import Pass
from ..tree import TokenTree
from .base import Proposer, checked_count
from .lookup import NgramIndex
from .rates import AcceptanceRates

NGRAM = 3  # tokens of the longest look-up
SPAN = 6  # tokens that a look-up after the root gives
EXTENSION = 3  # tokens that a look-up after another candidate gives
N_TOP_LIMIT = 64
N_NEIGHBOUR_TOP = 8  # candidates of a rejected row that are looked at

LAST_ROW, BESIDE, BEYOND = range(3)  # where a list of candidates comes from, see LastLogits
LOOKUP_DEPTHS = 3  # kinds of looked-up candidates: by n and by depth (1, 2, more)
RANK_KINDS = 8  # kinds of listed candidates: by list and by rank (0, 1, 2, 3, 4-7, 8-15, ...)
FIRST_LISTED = NGRAM * LOOKUP_DEPTHS
LISTED_SHARES = {LAST_ROW: 0.06, BESIDE: 0.12, BEYOND: 0.15}  # of the first ranks, before anything was seen


class LastLogits(Proposer):
    """What the last pass thought likely, but did not become the text: it often comes a token later.

    After the root stand the *last row*'s other likely tokens, those of the row that the root was drawn from, and what
    followed the last 3, 2 or 1 tokens where they stood before (6 tokens, of the newest place that has so many). After
    each of these candidates comes such a look-up again (3 tokens).

    To the paper this adds the rows of rejected candidates. Those *beside* the root, which stood in its place with
    another token, say what may follow it: their likely tokens, weighted by the candidate's own probability, are
    candidates after the root. The rows one place *beyond*, after them, give candidates after the root's children.
    The paper gives each rank a fixed length, in a tree of 64. This one grows the most probable candidates first, by the
    shares of each kind that stood so far, so that a tree of 4 or 8 rows is of use too. These shares outlive a
    generation; all else starts afresh.

    n_top: candidates per row it looks at, None: as many as rows. Raises ArgumentError for a number out of range.
    """

    def __init__(self, n_rows_max: int = 16, *, n_top: int | None = None) -> None:
        self.n_rows_max = checked_count("n_rows_max", n_rows_max)
        if n_top is None:
            n_top = min(max(n_rows_max, 2), N_TOP_LIMIT)
        self.n_top = checked_count("n_top", n_top, high=N_TOP_LIMIT)
        self._index = NgramIndex(NGRAM, SPAN)
        self._lists: list[list[int]] = [[], [], []]  # tokens, most likely first: LAST_ROW, BESIDE, BEYOND
        looked_up = [1 - 0.7 / (n + depth) for n in range(1, NGRAM + 1) for depth in range(1, LOOKUP_DEPTHS + 1)]
        listed = [share / (1 + rank) for share in LISTED_SHARES.values() for rank in range(RANK_KINDS)]
        self._rates = AcceptanceRates(looked_up + listed)

    def begin(self, tokens: Sequence[int]) -> None:
        self._index.clear()
        self._index.extend(tokens)
        self._lists = [[], [], []]

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        self._index.extend(context)
        growth = _Growth(context, self._index, self._lists, self._rates.logprobs)
        growth.grow(min(room, self.n_rows_max))
        return growth.tree

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        self._rates.observe(tree, path, emitted)
        last = path[-1]
        beside: list[int] = []
        beyond: list[int] = []
        for node in range(last + 1, tree.n_nodes):
            if tree.parents[node] == last:
                beside.append(node)
            elif tree.parents[node] in beside:
                beyond.append(node)
        others = [token for token in result.top_tokens[last].tolist() if token != emitted[-1]]
        self._lists = [others, _mixed(tree, result, beside, last), _mixed(tree, result, beyond, last)]


class _Candidate(NamedTuple):
    """A token that waits for its turn. It is either in a list, or in the text at `place`."""

    parent: int
    token: int
    kind: int
    source: int | None  # the list, None: the text
    place: int  # its rank in the list, or its place in the text
    n: int = 0  # of a look-up: length of the match, tokens of it above this one, tokens of it at most
    depth: int = 0
    limit: int = 0


class _Growth:
    """One tree, grown from the most probable candidate on."""

    def __init__(
        self, context: Sequence[int], index: NgramIndex, lists: Sequence[Sequence[int]], logprobs: Sequence[float]
    ) -> None:
        self.tree = TokenTree(context[-1])
        self._text = context
        self._index = index
        self._lists = lists
        self._logprobs = logprobs  # of each kind
        self._waiting: list[tuple[float, int, _Candidate]] = []  # (-log-probability of the path, order of arrival, ...)
        self._n_offered = 0

    def grow(self, room: int) -> None:
        """Adds candidates until the tree has `room` rows or nothing is left."""
        tree = self.tree
        self._look_up(0, self._text[-NGRAM:], SPAN)
        self._offer_list(0, LAST_ROW, 0)
        self._offer_list(0, BESIDE, 0)
        while self._waiting and tree.n_nodes < room:
            _, _, found = heapq.heappop(self._waiting)
            n_before = tree.n_nodes
            node = tree.add(found.parent, found.token, self._logprobs[found.kind], found.kind)
            is_new = node == n_before
            if is_new and found.parent == 0:
                self._offer_list(node, BEYOND, 0)
            if found.source is None:
                self._offer_text(node, found.place + 1, found.n, found.depth + 1, found.limit)
            else:
                self._offer_list(found.parent, found.source, found.place + 1)
                if is_new:
                    tokens = [tree.tokens[i] for i in tree.path_to(node)]
                    self._look_up(node, [*self._text[-NGRAM:-1], *tokens], EXTENSION)

    def _look_up(self, parent: int, tail: Sequence[int], limit: int) -> None:
        """Offers what followed `tail` in the text."""
        start, n = self._index.find(tail)
        if n:
            self._offer_text(parent, start, n, 0, limit)

    def _offer_text(self, parent: int, place: int, n: int, depth: int, limit: int) -> None:
        if depth < limit and place < len(self._text):
            kind = (n - 1) * LOOKUP_DEPTHS + min(depth, LOOKUP_DEPTHS - 1)
            self._offer(_Candidate(parent, self._text[place], kind, None, place, n, depth, limit))

    def _offer_list(self, parent: int, source: int, rank: int) -> None:
        if rank < len(self._lists[source]):
            kind = FIRST_LISTED + source * RANK_KINDS + min(rank if rank < 4 else rank.bit_length() + 1, RANK_KINDS - 1)
            self._offer(_Candidate(parent, self._lists[source][rank], kind, source, rank))

    def _offer(self, found: _Candidate) -> None:
        cost = -(self.tree.logprobs[found.parent] + self._logprobs[found.kind])
        self._n_offered += 1
        heapq.heappush(self._waiting, (cost, self._n_offered, found))


def _mixed(tree: TokenTree, result: Pass, nodes: Sequence[int], last: int) -> list[int]:
    """The likely tokens after any of the nodes, weighted by the nodes' own probabilities as they were claimed."""
    shares: dict[int, float] = {}
    for node in nodes:
        weight = math.exp(tree.logprobs[node] - tree.logprobs[last])
        tokens = result.top_tokens[node, :N_NEIGHBOUR_TOP].tolist()
        logprobs = result.top_logprobs[node, :N_NEIGHBOUR_TOP].tolist()
        for token, logprob in zip(tokens, logprobs, strict=True):
            shares[token] = shares.get(token, 0.0) + weight * math.exp(logprob)
    return sorted(shares, key=shares.__getitem__, reverse=True)[:N_TOP_LIMIT]

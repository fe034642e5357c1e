"""Token Recycling (arXiv 2408.08696): what the model last expected after each token."""

import heapq
from collections.abc import Sequence

from ..session import Pass
from ..tree import TokenTree
from .base import Proposer, checked_count
from .rates import AcceptanceRates

# How likely the candidate of each rank stands if its parent does: the shape of the tree follows from these. Falling as
# in the paper's tree, where the first child has most of the nodes below it.
RANK_SHARES = (0.45, 0.14, 0.08, 0.05, 0.04, 0.03, 0.02, 0.02)
DEPTH_MAX = 6  # as the paper's tree


class TokenRecycling(Proposer):
    """A static tree filled from the adjacency matrix: for each token its 8 most likely successors in the last row that
    carried it. Every node of a pass updates the matrix, rejected ones too, accepted ones last.

    The paper's tree has 80 nodes, found by search. This one has n_rows_max, the most probable ones if the child of rank
    r is accepted with RANK_SHARES[r]; it does not change. A node whose token has no successors yet stays a leaf.

    The matrix starts empty with every generation; keep = True keeps it (the paper's hot start). It holds the tokens
    that were seen, so its size does not depend on the vocabulary. The rows of the prompt have no outputs here: the
    first pass teaches what follows the last prompt token, and of the others the matrix learns when they come again.

    n_top: successors kept per token, for a vocabulary of fewer than 8. Raises ArgumentError for a number out of range.
    """

    def __init__(self, n_rows_max: int = 16, *, keep: bool = False, n_top: int = len(RANK_SHARES)) -> None:
        self.n_rows_max = checked_count("n_rows_max", n_rows_max)
        self.n_top = checked_count("n_top", n_top, high=len(RANK_SHARES))
        self.keep = keep
        self._shape = _most_probable(n_rows_max - 1, RANK_SHARES[:n_top])
        self._successors: dict[int, list[int]] = {}
        self._rates = AcceptanceRates(RANK_SHARES[:n_top])

    def begin(self, tokens: Sequence[int]) -> None:
        if not self.keep:
            self._successors = {}

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        tree = TokenTree(context[-1])
        room = min(room, self.n_rows_max)
        nodes = [0]  # of each node of the shape its node in the tree, -1: it has none
        successors = [self._successors.get(context[-1], ())]  # of each node of the tree
        for parent, rank in self._shape:
            if tree.n_nodes == room:
                break
            parent = nodes[parent]
            if parent < 0 or rank >= len(successors[parent]):
                nodes.append(-1)
                continue
            token = successors[parent][rank]
            nodes.append(tree.add(parent, token, self._rates.logprobs[rank], rank))
            successors.append(self._successors.get(token, ()))
        return tree

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        rows = result.top_tokens[: tree.n_nodes, : self.n_top].tolist()
        self._successors.update(zip(tree.tokens, rows, strict=True))
        for node in path:
            self._successors[tree.tokens[node]] = rows[node]
        self._rates.observe(tree, path, emitted)


def _most_probable(n_nodes: int, shares: Sequence[float]) -> list[tuple[int, int]]:
    """The n_nodes most probable nodes below a root, parents first, as (parent, rank); node 0 is the root."""
    nodes: list[tuple[int, int]] = []
    waiting = [(-share, 1, 0, rank) for rank, share in enumerate(shares)]  # (-probability, depth, parent, rank)
    while len(nodes) < n_nodes and waiting:
        probability, depth, parent, rank = heapq.heappop(waiting)
        nodes.append((parent, rank))
        if depth < DEPTH_MAX:
            for below, share in enumerate(shares):
                heapq.heappush(waiting, (probability * share, depth + 1, len(nodes), below))
    return nodes

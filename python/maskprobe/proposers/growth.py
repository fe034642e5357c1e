"""A tree from one distribution for each depth: the most probable nodes."""

import heapq
from collections.abc import Sequence

from ..tree import TokenTree

Distribution = tuple[list[int], list[float]]  # tokens, most likely first, and their log-probabilities


def add_most_probable(tree: TokenTree, drafts: Sequence[Distribution], n_candidates: int) -> None:
    """Best first: the n_candidates nodes of highest cumulative probability, where drafts[d] is of the tokens d + 1
    places after the root, whatever stands between.

    They are those of algorithm 1 of ESP (arXiv 2603.17942), which keeps the best B - i candidates of layer i: a node
    among the best B has all its ancestors among them. A candidate equal to its parent's token is passed over for the
    next best (the paper's pruning)."""
    waiting: list[tuple[float, int, int]] = []  # (-log-probability of the path, parent, rank of the token there)

    def offer(parent: int, rank: int) -> None:
        """Puts the candidate of this rank after `parent`, or the next one if it repeats the parent's token."""
        depth = tree.depths[parent]
        if depth == len(drafts):
            return
        tokens, logprobs = drafts[depth]
        if rank < len(tokens) and tokens[rank] == tree.tokens[parent]:
            rank += 1
        if rank < len(tokens):
            heapq.heappush(waiting, (-(tree.logprobs[parent] + logprobs[rank]), parent, rank))

    offer(0, 0)
    while waiting and tree.n_nodes <= n_candidates:
        _, parent, rank = heapq.heappop(waiting)
        tokens, logprobs = drafts[tree.depths[parent]]
        node = tree.add(parent, tokens[rank], logprobs[rank])
        offer(parent, rank + 1)
        offer(node, 0)

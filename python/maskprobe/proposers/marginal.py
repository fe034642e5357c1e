"""Candidates by marginalisation over rejected siblings (Mehra, Alonso Garcia, Mauch, arXiv 2502.09419)."""

import math
from collections.abc import Mapping, Sequence

from ..session import Pass
from ..tree import TokenTree
from .base import Proposer, checked_count
from .growth import Distribution, add_most_probable

N_TOP_LIMIT = 64
FILL = 0.1  # of the probability of a place, for tokens that the marginal says nothing of


class MarginalSiblings(Proposer):
    """What follows the newest token whichever that were: p(x_{t+2} | x) = sum over v of p(x_{t+2} | v, x) p(v | x).

    The children of the last accepted node stood where the newest token stands. Their rows are p(x_{t+2} | v, x) and the
    accepted node's row has their p(v | x): together they are the marginal of the next place, over the children that the
    pass had, and grandchildren give that of the place after it. One pass is both the check of its candidates and the
    marginal for the next, so the tree is as deep as two places everywhere.

    Where nothing is known (the first pass, a leaf that was accepted) stand the other likely tokens of the row that the
    newest token was drawn from: something has to be sibling first.

    Raises ArgumentError for a number of rows out of range.
    """

    def __init__(self, n_rows_max: int = 16, *, n_top: int | None = None) -> None:
        self.n_rows_max = checked_count("n_rows_max", n_rows_max)
        if n_top is None:
            n_top = min(max(n_rows_max, 8), N_TOP_LIMIT)
        self.n_top = checked_count("n_top", n_top, high=N_TOP_LIMIT)
        self._drafts: list[Distribution] = []  # [i]: of the token i + 1 places after the next root

    def begin(self, tokens: Sequence[int]) -> None:
        self._drafts = []

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        tree = TokenTree(context[-1])
        add_most_probable(tree, self._drafts, min(room, self.n_rows_max) - 1)
        return tree

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        last = path[-1]
        others = _row(result, last)
        others.pop(emitted[-1], None)
        beside = _weighted_children(tree, result, {last: 1.0})
        second = _mixture(result, beside)
        third = _mixture(result, _weighted_children(tree, result, beside))
        self._drafts = [_draft(second, others), _draft(third, second or others)]


def _row(result: Pass, row: int) -> dict[int, float]:
    """The likely tokens of a row with their probabilities; none where the row is not finite."""
    if result.best[row] < 0:
        return {}
    logprobs = result.top_logprobs[row].tolist()
    return dict(zip(result.top_tokens[row].tolist(), map(math.exp, logprobs), strict=True))


def _weighted_children(tree: TokenTree, result: Pass, parents: Mapping[int, float]) -> dict[int, float]:
    """The children of weighted nodes, each with its probability by the parent's row; those beyond that row's likely
    tokens weigh nothing."""
    rows = {parent: _row(result, parent) for parent in parents}
    found = {}
    for node in range(1, tree.n_nodes):
        parent = tree.parents[node]
        if parent in rows and tree.tokens[node] in rows[parent]:
            found[node] = parents[parent] * rows[parent][tree.tokens[node]]
    return found


def _mixture(result: Pass, weights: Mapping[int, float]) -> dict[int, float]:
    """The rows of weighted nodes together, for a total weight of 1; empty where there are none."""
    total = sum(weights.values())
    shares: dict[int, float] = {}
    if total > 0.0:
        for node, weight in weights.items():
            for token, probability in _row(result, node).items():
                shares[token] = shares.get(token, 0.0) + weight / total * probability
    return shares


def _draft(marginal: Mapping[int, float], fill: Mapping[int, float]) -> Distribution:
    """Most likely first."""
    share = (1.0 - FILL) if marginal else 0.0
    shares = {token: share * probability for token, probability in marginal.items()}
    for token, probability in fill.items():
        shares[token] = shares.get(token, 0.0) + FILL * probability
    tokens = sorted(shares, key=lambda token: (-shares[token], token))[:N_TOP_LIMIT]
    return tokens, [math.log(max(shares[token], 1e-30)) for token in tokens]

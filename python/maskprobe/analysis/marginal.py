"""Marginalisation over the next token (Mehra, Alonso Garcia, Mauch, arXiv 2502.09419).

A next-token model says what comes two tokens ahead, without knowing the next one:

    p(x_{t+2} | x) = sum over v of p(x_{t+2} | v, x) p(v | x)

The sum goes over the likeliest v. They stand as siblings in one tree, so that one pass has all their rows. It is what a
mask after x_t is asked for, and so the measure of every mask.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..session import Session
from ..tree import TokenTree
from .distributions import nucleus, softmax


@dataclass(frozen=True)
class Marginal:
    """The part of a marginal that the taken tokens make. The true value of each token lies between its part and its
    part plus `left_out`."""

    parts: np.ndarray  # float64 (n_vocab,), their sum is 1 - left_out
    left_out: float  # probability of the tokens that were not taken
    n_taken: int  # tokens, or pairs of them
    n_rows: int  # of the last pass

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k largest parts, equals by id: tokens (k,) and parts (k,)."""
        best = np.lexsort((np.arange(len(self.parts)), -self.parts))[:k]
        return best, self.parts[best]


def marginal_second(
    session: Session, root: int, next_probabilities: np.ndarray, top_p: float = 0.99, n_max: int | None = None
) -> Marginal:
    """p(x_{t+2} | x) where x are the session's tokens and `root`, and next_probabilities is p(x_{t+1} | x), (n_vocab,).

    One pass: the root, and the tokens that have top_p of the probability together as its children, at most n_max (and
    what the context's n_rows_max allows). The pass is left for the caller to commit. Raises what Session.decode()
    raises."""
    limit = session.n_rows_max - 1
    taken = nucleus(next_probabilities, top_p, limit if n_max is None else min(n_max, limit))
    tree = TokenTree(root)
    for token in taken.tolist():
        tree.add(0, token, float(np.log(next_probabilities[token])))
    session.decode(tree, 1)
    return _mixture(session, range(1, tree.n_nodes), next_probabilities[taken], tree.n_rows)


def marginal_third(
    session: Session, root: int, next_probabilities: np.ndarray, top_p: float = 0.99, n_max: int | None = None
) -> Marginal:
    """p(x_{t+3} | x), over the likeliest pairs (v, w) of the two tokens before it, as marginal_second().

    Two passes: one for p(w | v, x) of the siblings v, one whose leaves are the pairs. Each pair takes a row, and each v
    of a pair another."""
    first = likeliest_pairs(session, root, next_probabilities, top_p, n_max)
    tree = TokenTree(root)
    leaves: list[int] = []
    weights: list[float] = []
    for probability, v, w in first:
        is_new = tree.child(0, v) is None
        if tree.n_nodes + 1 + is_new > session.n_rows_max:
            break
        parent = tree.add(0, v, float(np.log(next_probabilities[v])))
        leaves.append(tree.add(parent, w, 0.0))
        weights.append(probability)
    session.decode(tree, 1)
    return _mixture(session, leaves, np.array(weights), tree.n_rows)


def likeliest_pairs(
    session: Session, root: int, next_probabilities: np.ndarray, top_p: float, n_max: int | None
) -> list[tuple[float, int, int]]:
    """The likeliest pairs (p(v, w | x), v, w) that have top_p of the probability together, most likely first, from one
    pass over the likeliest v. They are as many as a pass has rows at most, and no more than the context's n_top_max."""
    limit = session.n_rows_max - 1
    taken = nucleus(next_probabilities, top_p, limit)
    tree = TokenTree(root)
    for token in taken.tolist():
        tree.add(0, token, 0.0)
    n_pairs = min(limit if n_max is None else n_max, limit, session.n_top_max)
    result = session.decode(tree, n_pairs)  # what is not among the n_pairs best after v is no such pair
    pairs: list[tuple[float, int, int]] = []
    for row, v in enumerate(taken.tolist(), 1):
        weights = next_probabilities[v] * np.exp(result.top_logprobs[row].astype(np.float64))
        pairs += zip(weights.tolist(), [v] * n_pairs, result.top_tokens[row].tolist(), strict=True)
    best = heapq.nlargest(n_pairs, pairs)
    reached = np.cumsum([probability for probability, _, _ in best])
    return best[: int(np.searchsorted(reached, top_p)) + 1]


def _mixture(session: Session, rows: Sequence[int], weights: np.ndarray, n_rows: int) -> Marginal:
    """The rows' distributions, weighted."""
    parts = np.zeros(session.model.info.n_vocab)
    for row, weight in zip(rows, weights.tolist(), strict=True):
        parts += weight * softmax(session.logits(row))
    return Marginal(parts, max(0.0, 1.0 - float(weights.sum())), len(weights), n_rows)

"""Running estimates of how often a candidate stands: the log-probabilities that a source without any claims."""

import math
from collections.abc import Sequence

from ..tree import NO_KIND, TokenTree

PRIOR_WEIGHT = 8  # observations that a prior counts for
WINDOW = 500  # observations after which old ones begin to fade
LOWEST, HIGHEST = 1e-3, 0.999


class AcceptanceRates:
    """How often the token of a candidate was drawn, among those whose parent stood, for each kind of candidate.

    A kind is a number from 0 (a rank, a depth, ...), `priors` has the estimate of each before anything was seen.
    `logprobs` are the logarithms of the estimates, one per kind.
    """

    def __init__(self, priors: Sequence[float]) -> None:
        self._rates = list(priors)
        self._counts = [PRIOR_WEIGHT] * len(priors)
        self.logprobs = [math.log(rate) for rate in priors]

    def observe(self, tree: TokenTree, path: Sequence[int], emitted: Sequence[int]) -> None:
        """Counts the candidates of a pass by the kinds of the tree's nodes; those without one are passed over."""
        drawn = dict(zip(path, emitted, strict=True))
        tokens, parents, kinds = tree.tokens, tree.parents, tree.kinds
        for node in range(1, tree.n_nodes):
            token = drawn.get(parents[node])
            if token is not None and kinds[node] != NO_KIND:
                self._count(kinds[node], token == tokens[node])

    def _count(self, kind: int, stood: bool) -> None:
        self._counts[kind] = count = min(self._counts[kind] + 1, WINDOW)
        self._rates[kind] = rate = self._rates[kind] + (stood - self._rates[kind]) / count
        self.logprobs[kind] = math.log(min(max(rate, LOWEST), HIGHEST))

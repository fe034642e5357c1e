"""How soon the layers know the next token: logit lens against final distribution (arXiv 2502.09419)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..session import Session
from .distributions import divergence, log_softmax
from .logit_lens import LogitLens
from .sweeps import Text, sweep


def layer_rows(
    session: Session, texts: Sequence[Text], progress: Callable[[float, float], None]
) -> list[dict[str, Any]]:
    """One row for each layer, over all places of the texts: the mean of KL(final || layer) in nats, how often the
    layer's best token is the final one, and the entropy of the layer's distribution.

    The session was opened with taps. Raises what LogitLens and Session.decode() raise."""
    lens = LogitLens(session.model)
    n_layer = session.model.info.n_layer
    session.tap(range(n_layer))
    sums = np.zeros((n_layer, 3))  # divergence, agreement, entropy
    n = 0
    for done, text in enumerate(texts):
        progress(done, len(texts))
        for part in sweep(session, text):
            rows = range(part.n_owners)
            final = log_softmax(np.array([session.logits(row) for row in rows]))  # (n_rows, n_vocab)
            for layer in range(n_layer):
                states = np.array([session.hidden(row, layer) for row in rows])
                seen = log_softmax(lens.logits(states))
                agrees = seen.argmax(axis=1) == final.argmax(axis=1)
                spread = -(np.exp(seen) * seen).sum(axis=1)
                sums[layer] += divergence(final, seen).sum(), agrees.sum(), spread.sum()
            n += part.n_owners
    means = sums / max(n, 1)
    return [
        {"layer": layer, "kl_to_final": kl, "same_best": share, "entropy": spread, "n_places": n}
        for layer, (kl, share, spread) in enumerate(means.tolist())
    ]

"""Whether layers turn a mask's row into the row of the token that it stands for (ESP, arXiv 2603.17942).

Mask j after a place stands where the j-th token after it stands. Its hidden states are compared, layer by layer, with
those of that token's own row. The paper finds that the later layers align the two, more so where a candidate of the
mask is accepted.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ModelError
from ..masks import MaskEmbedding
from ..session import Session
from .logit_lens import LogitLens
from .sweeps import Sweep, Text, sweep

ACCEPTED, REJECTED = "accepted", "rejected"


class AlignSums:
    """Per mask, outcome and layer: cosines, how often the lens has the true token first or among the best five, n."""

    def __init__(self, n_masks: int, n_layer: int) -> None:
        self.cosine = np.zeros((n_masks, 2, n_layer + 1))
        self.best = np.zeros((n_masks, 2, n_layer + 1))
        self.best_five = np.zeros((n_masks, 2, n_layer + 1))
        self.n = np.zeros((n_masks, 2), int)


def align_rows(
    session: Session,
    texts: Sequence[Text],
    mask: MaskEmbedding,
    n_masks: int,
    n_candidates: int,
    progress: Callable[[float, float], None],
) -> tuple[list[dict[str, Any]], str]:
    """One row for each mask, outcome and layer (n_layer: after the last norm). A mask's candidates are its n_candidates
    best tokens; they are accepted where the model's own best token is among them.

    The second value says why there is no logit lens, or "". The session was opened with taps."""
    n_layer = session.model.info.n_layer
    try:
        lens, reason = LogitLens(session.model), ""
    except ModelError as error:
        lens, reason = None, str(error)
    session.tap(range(n_layer + 1))
    sums = AlignSums(n_masks, n_layer)
    for done, text in enumerate(texts):
        progress(done, len(texts))
        for part in sweep(session, text, mask, n_masks, n_top=n_candidates, n_ahead=n_masks):
            for j in range(n_masks):
                _add(session, part, j, n_candidates, lens, sums)
    return _rows(sums, lens is not None), reason


def _add(session: Session, part: Sweep, j: int, n_candidates: int, lens: LogitLens | None, sums: AlignSums) -> None:
    """Mask j (from 0) of each owner i against node i + j + 1."""
    nodes = np.arange(part.n_owners) + j + 1
    masks = np.array([part.mask_row(owner, j) for owner in range(part.n_owners)])
    targets = part.result.best[nodes]
    rejected = ~(part.result.top_tokens[masks, :n_candidates] == targets[:, None]).any(axis=1)
    np.add.at(sums.n[j], rejected.astype(int), 1)
    for layer in range(sums.cosine.shape[2]):
        states = np.array([session.hidden(int(row), layer) for row in masks]).astype(np.float64)
        true = np.array([session.hidden(int(row), layer) for row in nodes]).astype(np.float64)
        norms = np.linalg.norm(states, axis=1) * np.linalg.norm(true, axis=1)
        np.add.at(
            sums.cosine[j, :, layer], rejected.astype(int), (states * true).sum(axis=1) / np.maximum(norms, 1e-30)
        )
        if lens is None:
            continue
        last = layer == sums.cosine.shape[2] - 1
        logits = np.array([session.logits(int(row)) for row in masks]) if last else lens.logits(states)
        ranks = (logits > logits[np.arange(len(masks)), targets][:, None]).sum(axis=1)
        np.add.at(sums.best[j, :, layer], rejected.astype(int), ranks < 1)
        np.add.at(sums.best_five[j, :, layer], rejected.astype(int), ranks < 5)


def _rows(sums: AlignSums, has_lens: bool) -> list[dict[str, Any]]:
    n_masks, _, n_layers = sums.cosine.shape
    found = []
    for j in range(n_masks):
        for which, outcome in enumerate((ACCEPTED, REJECTED)):
            n = int(sums.n[j, which])
            for layer in range(n_layers if n else 0):
                row: dict[str, Any] = {"mask": j + 1, "outcome": outcome, "layer": layer, "n": n}
                row["cosine"] = float(sums.cosine[j, which, layer] / n)
                row["lens_top1"] = float(sums.best[j, which, layer] / n) if has_lens else None
                row["lens_top5"] = float(sums.best_five[j, which, layer] / n) if has_lens else None
                found.append(row)
    return found

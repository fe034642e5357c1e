"""From a model to a file with MTP heads: as for a sampler head, but for what they read and what they are."""

import numpy as np

from ..model import Model
from .head_blocks import Head
from .head_weights import HeadWeights, MtpHeadsWeights
from .model_tables import ShortList
from .mtp_heads import MtpHeads
from .sampler_training import DEPTH
from .train_sampler import Run as SamplerRun

# Of the layers, those that are read: some late ones, where what comes later than the next token is not yet gone.
AFTER = (0.5, 0.75, 0.9)


def layers_for(model: Model) -> list[int]:
    """Layers whose hidden states the heads of a model read beside that after the last norm, ascending; none on a model
    without taps."""
    if not model.info.can_tree:
        return []
    n_layer = model.info.n_layer
    return sorted({min(int(share * n_layer), n_layer - 1) for share in AFTER})


class Run(SamplerRun):
    """One training of MTP heads for `model`."""

    KIND = MtpHeadsWeights.KIND
    TITLE = "MTP heads"
    N_WIDTHS = 2 * DEPTH

    def _layers_read(self) -> list[int]:
        return layers_for(self._model)

    def _new_head(self, scale: np.ndarray) -> Head:
        return MtpHeads(self._model.info.n_embd, self._n_hidden, len(self._layers), DEPTH)

    def _weights(self, head: Head, short: ShortList) -> HeadWeights:
        assert isinstance(head, MtpHeads)
        read = np.array([*self._layers, self._model.info.n_layer], np.int32)
        return head.weights(read, short.tokens, short.weight)

    def _head_of(self, weights: HeadWeights) -> Head:
        assert isinstance(weights, MtpHeadsWeights)
        return MtpHeads.of(weights)

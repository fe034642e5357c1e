"""Random blocks of every weight type stand for numbers of mean zero and of the wanted standard deviation."""

import gguf
import numpy as np
import pytest

from random_weights import BLOCK_SCALERS, FILE_TYPES, MIXES, random_tensor


@pytest.mark.parametrize("weight_type", BLOCK_SCALERS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("std", [0.02, 0.0313, 0.7])
def test_mean_and_spread(weight_type, std):
    stored = random_tensor(np.random.default_rng(0), (512, 1024), std, weight_type)
    values = gguf.quants.dequantize(stored, weight_type)
    assert values.shape == (512, 1024)
    assert abs(values.mean()) < 0.02 * std
    assert values.std() == pytest.approx(std, rel=0.03)


def test_every_mix_can_be_drawn():
    assert FILE_TYPES.keys() == MIXES.keys()
    floats = {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16}
    assert {kind for mix in MIXES.values() for kind in mix} - floats <= BLOCK_SCALERS.keys()

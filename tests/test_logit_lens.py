"""The logit lens: after the last layer it is the model's own output, by architecture."""

import numpy as np
import pytest

from contexts import star, text_of
from maskprobe import Model, ModelError, Session
from maskprobe.analysis import LogitLens

SETTINGS = {"n_ctx": 128, "n_rows_max": 16, "n_threads": 1, "taps": True}


@pytest.mark.parametrize("shape", ["tiny-llama", "tiny-qwen3", "tiny-gemma", "tiny-gemma3", "tiny-qwen3moe"])
def test_after_the_last_layer_it_gives_the_logits(tiny_model_path, shape):
    model = Model(tiny_model_path(shape), n_threads=1)
    lens = LogitLens(model)
    n_layer = model.info.n_layer
    with Session(model, **SETTINGS) as session:
        session.tap([n_layer - 1, n_layer])
        session.set_prefix(text_of(20, 1))
        session.decode(star(6), 1)
        states = np.array([session.hidden(row, n_layer - 1) for row in range(6)])
        normed = np.array([session.hidden(row, n_layer) for row in range(6)])
        logits = np.array([session.logits(row) for row in range(6)])
    np.testing.assert_allclose(lens.normed(states), normed, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(lens.logits(states), logits, atol=0.02)


@pytest.mark.parametrize("weights", ["q4_0", "q8_0", "q4_k"])
def test_quantised_matrices(tiny_model_path, weights):
    path = tiny_model_path("tiny-llama", weight_type=weights, width=256, ffn=256, head_dim=64)
    model = Model(path, n_threads=1, kernels="stock")
    lens = LogitLens(model)
    with Session(model, **SETTINGS) as session:
        session.tap([model.info.n_layer - 1])
        session.decode(star(4), 1)
        states = np.array([session.hidden(row, model.info.n_layer - 1) for row in range(4)])
        logits = np.array([session.logits(row) for row in range(4)])
    assert np.abs(lens.logits(states) - logits).max() < 0.1 * logits.std()  # the product rounds its input to 8 bits


@pytest.mark.parametrize("shape", ["tiny-gpt2", "tiny-granite", "tiny-mamba"])
def test_models_that_end_otherwise_are_refused_by_name(tiny_model_path, shape):
    arch = shape.removeprefix("tiny-")
    with pytest.raises(ModelError, match=f"no logit lens for {arch} models: it is there for gemma, gemma3, llama"):
        LogitLens(Model(tiny_model_path(shape), n_threads=1))

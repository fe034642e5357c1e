"""Embedding rows read from the model file, against gguf's own dequantisation."""

import os

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from maskprobe import ArgumentError, Engine, Model, ModelError, SamplingParams

GREEDY = SamplingParams(temp=0.0)


def table(path):
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "token_embd.weight")
    return dequantize(tensor.data, tensor.tensor_type).reshape(tuple(tensor.shape)[::-1])


@pytest.mark.parametrize("weight_type", ["f32", "f16", "q8_0", "q4_0"])
def test_rows_are_those_of_the_file(tiny_model_path, weight_type):
    path = tiny_model_path("tiny-llama", weight_type=weight_type)
    model = Model(path)
    expected = table(path)
    tokens = [0, 1, 77, model.info.n_vocab - 1, 77]
    np.testing.assert_array_equal(model.embedding_rows(tokens), expected[tokens].astype(np.float32))
    assert model.info.can_probe, model.info.note  # the self-check saw the same rows


def test_no_rows(tiny_model_path):
    assert Model(tiny_model_path("tiny-llama")).embedding_rows([]).shape == (0, 64)


@pytest.mark.parametrize("token", [-1, 512, 2**31 - 1])
def test_tokens_out_of_range(tiny_model_path, token):
    with pytest.raises(ArgumentError, match=str(token)):
        Model(tiny_model_path("tiny-llama")).embedding_rows([0, token])


def test_a_recurrent_model_has_its_table_too(tiny_model_path):
    """Heads need it; mask embeddings cannot be fed there."""
    path = tiny_model_path("tiny-mamba")
    (table,) = (tensor.data for tensor in gguf.GGUFReader(path).tensors if tensor.name == "token_embd.weight")
    model = Model(path)
    assert not model.info.can_probe
    np.testing.assert_array_equal(model.embedding_rows([0, 3]), table[[0, 3]])


@pytest.mark.parametrize("weight_type", ["f32", "q8_0"])
def test_a_file_that_has_shrunk(tiny_model_path, tmp_path, weight_type):
    """Read instead of mapped, the model goes on; rows that are asked of the file are refused with one line."""
    path = tmp_path / "shrinks.gguf"
    path.write_bytes(tiny_model_path("tiny-llama", weight_type=weight_type).read_bytes())
    with Model(path, use_mmap=False, n_threads=1) as model, Engine(model, n_ctx=256, n_threads=1) as engine:
        expected = [r.token for r in engine.generate([1, 2, 3], GREEDY, max_tokens=20)]
        os.truncate(path, 4096)
        assert [r.token for r in engine.generate([1, 2, 3], GREEDY, max_tokens=20)] == expected
        said = "^the embedding of token 400 cannot be read: the model file has shrunk since it was opened$"
        with pytest.raises(ModelError, match=said) as caught:
            model.embedding_rows([400])
        assert caught.value.status == "file"
        with pytest.raises(ModelError, match="has shrunk"):
            list(engine.generate([1, 2, 3], GREEDY, max_tokens=20, proposer="esp"))
        assert [r.token for r in engine.generate([1, 2, 3], GREEDY, max_tokens=20)] == expected

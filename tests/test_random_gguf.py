"""The generated GGUF files load in llama.cpp, decode to finite, clear-cut logits and round-trip text."""

import ctypes
import sys
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from random_gguf import SHAPES, write_random_gguf
from random_weights import MIXES
from synthetic_vocab import make_vocabulary

TINY = [name for name in SHAPES if name.startswith("tiny-")]
DECODERS = [name for name in TINY if name not in ("tiny-bert", "tiny-t5")]
TEXT = 'def naïve(x):\n    return {"näme": [x, 1.25, None]}\t# 漢字 🙂\r\n\n  done'


@pytest.fixture(scope="session", autouse=True)
def backend():
    llama_cpp.llama_backend_init()


@contextmanager
def loaded(path):
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    assert model, f"{path} did not load"
    try:
        yield model
    finally:
        llama_cpp.llama_model_free(model)


def tokenize(model, text):
    data = text.encode()
    tokens = (llama_cpp.llama_token * (len(data) + 8))()
    vocab = llama_cpp.llama_model_get_vocab(model)
    count = llama_cpp.llama_tokenize(vocab, data, len(data), tokens, len(tokens), False, False)
    assert count > 0
    return list(tokens[:count])


def piece(model, token):
    buffer = ctypes.create_string_buffer(64)
    size = llama_cpp.llama_token_to_piece(llama_cpp.llama_model_get_vocab(model), token, buffer, 64, 0, False)
    assert size >= 0
    return buffer.raw[:size]


def next_logits(model, tokens):
    """Logits after the last of the tokens."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 256, 1, 1
    context = llama_cpp.llama_init_from_model(model, params)
    assert context
    try:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))) == 0
        size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (size,)).copy()
    finally:
        llama_cpp.llama_free(context)


@pytest.mark.parametrize("shape", TINY)
def test_loads_and_round_trips_text(tmp_path, shape):
    with loaded(write_random_gguf(tmp_path / "model.gguf", shape)) as model:
        vocab = llama_cpp.llama_model_get_vocab(model)
        assert llama_cpp.llama_vocab_n_tokens(vocab) == 512
        assert llama_cpp.llama_vocab_is_eog(vocab, make_vocabulary(512).end_id)
        tokens = tokenize(model, TEXT)
        assert b"".join(piece(model, token) for token in tokens) == TEXT.encode()
        assert len(tokens) < len(TEXT.encode())


@pytest.mark.parametrize("shape", DECODERS)
def test_decodes_clear_cut_logits(tmp_path, shape):
    with loaded(write_random_gguf(tmp_path / "model.gguf", shape)) as model:
        tokens = tokenize(model, TEXT)
        logits = next_logits(model, tokens)
        assert np.isfinite(logits).all()
        assert 1.5 < logits.std() < 4.0
        # The whole context counts, not the last token alone.
        assert np.abs(logits - next_logits(model, tokens[-1:])).max() > 0.5


@pytest.mark.parametrize("weight_type", sorted(MIXES))
@pytest.mark.parametrize("shape", ["llama-3.2-1b", "qwen3-0.6b"])
def test_quantised_blocks_are_valid(tmp_path, shape, weight_type):
    """A real shape cut down to widths that every block size divides."""
    small = {"layers": 1, "width": 256, "heads": 8, "kv_heads": 4, "head_dim": 64, "ffn": 512, "vocab": 1024}
    path = write_random_gguf(tmp_path / "model.gguf", shape, weight_type, n_ctx=512, **small)
    with loaded(path) as model:
        assert llama_cpp.llama_model_n_ctx_train(model) == 512
        logits = next_logits(model, tokenize(model, TEXT))
        assert np.isfinite(logits).all()
        assert 1.5 < logits.std() < 4.0


@pytest.mark.parametrize("name", ["llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "qwen3-0.6b", "qwen3-4b"])
def test_real_shapes_divide_into_every_block(name):
    shape = SHAPES[name]
    assert shape.width % 256 == shape.ffn % 256 == shape.heads * shape.head_dim % 256 == 0


def test_same_seed_same_file(tmp_path):
    first, again, other = (
        write_random_gguf(tmp_path / f"{index}.gguf", "tiny-llama", seed=seed) for index, seed in enumerate([3, 3, 4])
    )
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


def test_rows_that_do_not_divide_are_refused(tmp_path):
    with pytest.raises(ValueError, match="do not divide"):
        write_random_gguf(tmp_path / "model.gguf", "tiny-llama", "q4_k")


@pytest.mark.parametrize("size", [258, 512, 4096, 128256])
def test_vocabulary_is_unique_and_of_the_right_size(size):
    vocabulary = make_vocabulary(size)
    assert len(vocabulary.tokens) == len(set(vocabulary.tokens)) == size
    assert len(vocabulary.merges) == len(set(vocabulary.merges)) == size - 258

"""Engine.embed: the mean of the last hidden states, also while others generate."""

import concurrent.futures
import threading

import numpy as np
import pytest

from maskprobe import ArgumentError, ContextFull, Engine, Model, SamplingParams, StateError

N_CTX = 128
GREEDY = {"sampling": SamplingParams(temp=0)}


@pytest.fixture(scope="module")
def engine(bundled_model_path):
    with Model(bundled_model_path) as model, Engine(model, n_ctx=N_CTX, n_parallel=2, n_threads=1) as engine:
        yield engine


def test_a_text_has_one_embedding_whatever_came_before(engine):
    tokens = engine.model.tokenize("import numpy as np\n" * 4)
    first = engine.embed(tokens)
    assert first.dtype == np.float32 and first.shape == (engine.model.info.n_embd,) and np.isfinite(first).all()
    other = engine.embed(tokens[::-1])
    assert not np.allclose(first, other, atol=1e-3)
    assert np.array_equal(engine.embed(tokens), first)


def test_an_embedding_waits_for_a_session_and_changes_no_text(engine):
    tokens = engine.model.tokenize("def f(x):")
    alone = [result.token for result in engine.generate(tokens, max_tokens=60, ignore_eos=True, **GREEDY)]
    wanted = engine.embed(tokens)
    stop = threading.Event()

    def embed():
        found = []
        while not stop.is_set():
            found.append(engine.embed(tokens))
        return found

    def generate():
        return [result.token for result in engine.generate(tokens, max_tokens=60, ignore_eos=True, **GREEDY)]

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        embedding = threads.submit(embed)
        texts = [threads.submit(generate) for _ in range(5)]
        assert all(text.result() == alone for text in texts)
        stop.set()
        rows = embedding.result()
    assert rows and all(np.allclose(row, wanted, atol=1e-4) for row in rows)


def test_what_cannot_be_embedded_is_refused(engine):
    for tokens, error in [([], ArgumentError), ([10**9], ArgumentError), ([5] * (N_CTX + 1), ContextFull)]:
        with pytest.raises(error):
            engine.embed(tokens)


def test_a_closed_engine_embeds_nothing(bundled_model_path):
    model = Model(bundled_model_path)
    engine = Engine(model, n_ctx=N_CTX, n_threads=1)
    engine.close()
    with pytest.raises(StateError):
        engine.embed([5])
    model.close()

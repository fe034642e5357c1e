"""The hidden states of emitted tokens: each is that of the row its token was drawn from, and none changes a token."""

import concurrent.futures

import numpy as np
import pytest

from conftest import SHARED
from hybrids import paths_in
from maskprobe import Engine, Model, ModelError, SamplingParams

SAMPLED = SamplingParams(temp=0.8, seed=11)
N = 40
LONG = "def add(first, second):\n    return first + second\n\n\n" * 4  # repeats itself: candidates are accepted


@pytest.fixture(scope="module")
def model(bundled_model_path):
    with Model(bundled_model_path, n_threads=1) as model:
        yield model


@pytest.fixture
def engine(model):
    with Engine(model, n_ctx=512, n_parallel=4, **SHARED) as engine:
        yield engine


def results(engine, prompt, **settings):
    return list(engine.generate(prompt, SAMPLED, max_tokens=N, ignore_eos=True, **settings))


def without_states(found):
    return [(r.token, r.logprob, r.margin, r.text) for r in found]


def states(found):
    return np.array([r.hidden for r in found])


def states_by_embedding(engine, text, n_prompt):
    """The state after each token from the prompt's last on, from the means over all beginnings of the text."""
    sums = [np.zeros(engine.model.info.n_embd)] if n_prompt == 1 else []
    for n in range(max(n_prompt - 1, 1), len(text)):
        sums.append(engine.embed(text[:n]).astype(np.float64) * n)
    return np.diff(sums, axis=0)


@pytest.mark.parametrize("draft", [True, False], ids=["drafted", "plain"])
def test_a_token_comes_with_the_state_that_it_was_drawn_from(engine, draft):
    prompt = engine.model.tokenize(LONG)
    found = results(engine, prompt, draft=draft, hidden=True)
    assert found[0].hidden.shape == (engine.model.info.n_embd,) and found[0].hidden.dtype == np.float32
    if draft:
        assert any(r.from_draft for r in found)
    expected = states_by_embedding(engine, prompt + [r.token for r in found], len(prompt))
    assert np.allclose(states(found), expected, rtol=1e-3, atol=2e-3)


def test_they_change_no_bit_of_the_rest(engine):
    prompt = engine.model.tokenize(LONG)
    plain = results(engine, prompt, draft=False)
    assert all(r.hidden is None for r in plain)
    for draft in (False, True):
        assert without_states(results(engine, prompt, draft=draft, hidden=True)) == without_states(plain)
        assert without_states(results(engine, prompt, draft=draft)) == without_states(plain)


def test_generations_that_share_passes_have_their_own(model):
    prompts = [model.tokenize(text) for text in (LONG, "import os\n", "class A:\n    x = 1\n", LONG + "x")]
    alone = []
    for prompt in prompts:
        with Engine(model, n_ctx=512, n_parallel=4, **SHARED) as engine:
            alone.append(results(engine, prompt, hidden=True))
    with Engine(model, n_ctx=512, n_parallel=4, **SHARED) as engine:
        wants = [True, False, True, False]
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            tasks = [threads.submit(results, engine, p, hidden=w) for p, w in zip(prompts, wants, strict=True)]
            together = [task.result() for task in tasks]
    for found, expected, wanted in zip(together, alone, wants, strict=True):
        assert [r.token for r in found] == [r.token for r in expected]
        if wanted:
            assert np.allclose(states(found), states(expected), atol=1e-4)
        else:
            assert all(r.hidden is None for r in found)


def test_a_prompt_that_is_cached_gives_the_same(engine):
    prompt = engine.model.tokenize(LONG)
    first = results(engine, prompt, hidden=True)
    generation = engine.generate(prompt, SAMPLED, max_tokens=N, ignore_eos=True, hidden=True)
    again = list(generation)
    assert generation.stats.n_prompt_reused == len(prompt) - 1
    assert without_states(again) == without_states(first) and np.array_equal(states(again), states(first))


def test_an_end_without_a_token_has_none(engine):
    prompt = engine.model.tokenize("import os\n")
    generation = engine.generate(prompt, SAMPLED, max_tokens=N, ignore_eos=True, hidden=True)
    assert next(generation).hidden is not None
    generation.cancel()
    last = list(generation)[-1]
    assert last.finish_reason == "cancelled" and (last.token == -1) == (last.hidden is None)


def test_an_architecture_without_logits_beside_them_is_refused(tmp_path):
    with Model(paths_in(tmp_path)("lfm2"), n_threads=1) as model, Engine(model, n_ctx=256, **SHARED) as engine:
        with pytest.raises(ModelError, match="hidden states or logits of this lfm2 model, not both"):
            engine.generate([10, 11], hidden=True)
        assert len(results(engine, [10, 11])) == N


@pytest.mark.parametrize("arch", ["qwen35", "nemotron_h"])
@pytest.mark.parametrize("n_parallel", [1, 2])
def test_on_models_with_a_recurrent_state(tmp_path, arch, n_parallel):
    with Model(paths_in(tmp_path)(arch), n_threads=1) as model:
        prompt = list(range(10, 30)) * 2
        with Engine(model, n_ctx=256, n_parallel=n_parallel, **SHARED) as engine:
            plain = results(engine, prompt, draft=False)
            with concurrent.futures.ThreadPoolExecutor(n_parallel) as threads:
                tasks = [threads.submit(results, engine, prompt, hidden=True) for _ in range(n_parallel)]
                for found in [task.result() for task in tasks]:
                    assert [r.token for r in found] == [r.token for r in plain]
                    expected = states_by_embedding(engine, prompt + [r.token for r in found], len(prompt))
                    assert np.allclose(states(found), expected, rtol=1e-3, atol=5e-3)

"""Engines with heads: they change no token, and what they know is drafted."""

import concurrent.futures
from pathlib import Path

import numpy as np
import pytest

from conftest import SHARED
from heads import keys_of, memory_tensors, random_tensors, write_heads
from hybrids import paths_in
from maskprobe import Engine, Model, ModelError, Regex, SamplingParams

GREEDY = SamplingParams(temp=0.0)
SAMPLED = SamplingParams(temp=0.8, seed=11)
N = 60
TEXTS = ("def add(first, second):\n", "import os\n\n\nclass Walker:\n", "for i in range(10):\n    print(")


@pytest.fixture(scope="module")
def model(bundled_model_path):
    with Model(bundled_model_path, n_threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def random_heads(model, tmp_path_factory):
    return write_heads(tmp_path_factory.mktemp("heads") / "heads.gguf", keys_of(model), random_tensors(model, 64, 300))


def opened(model, heads, n_parallel: int = 1, **settings) -> Engine:
    return Engine(model, **{"n_ctx": 256, "n_parallel": n_parallel, "rows": 8, "heads": heads, **SHARED, **settings})


def run(engine, prompt, sampling=GREEDY, n=N, **settings):
    generation = engine.generate(prompt, sampling, max_tokens=n, ignore_eos=True, **settings)
    return [(r.token, r.logprob, r.margin) for r in generation], generation.stats


def sources_of_first_draft(engine, prompt):
    generation = engine.generate(prompt, GREEDY, max_tokens=8, ignore_eos=True)
    next(generation)
    next(generation)
    return set(generation.newest_draft().sources)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "T 0.8"])
def test_heads_that_know_nothing_change_no_bit(model, random_heads, sampling):
    with opened(model, random_heads) as engine, opened(model, random_heads, rows="auto") as planning:
        for text in TEXTS:
            prompt = model.tokenize(text)
            plain, _ = run(engine, prompt, sampling, draft=False)
            drafted, stats = run(engine, prompt, sampling)
            assert drafted == plain and stats.n_drafted > stats.passes
            assert run(planning, prompt, sampling)[0] == plain


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "T 0.8"])
def test_what_heads_know_is_drafted_and_accepted(model, tmp_path, sampling):
    prompt = model.tokenize(TEXTS[0])
    with opened(model, None) as engine:
        expected, without = run(engine, prompt, sampling)
    text = prompt + [token for token, *_ in expected]
    path = write_heads(tmp_path / "heads.gguf", keys_of(model), memory_tensors(model, text))
    with opened(model, path) as engine:
        tokens, stats = run(engine, prompt, sampling)
    assert tokens == expected
    assert stats.accepted_by["heads"] > 0 and stats.passes < without.passes


def test_generations_that_share_passes_are_as_alone(model, random_heads):
    prompts = [model.tokenize(text) for text in (*TEXTS, TEXTS[0] * 3)]
    expected = []
    for prompt in prompts:
        with opened(model, None, n_parallel=3) as engine:
            expected.append(run(engine, prompt, SAMPLED, draft=False)[0])
    with opened(model, random_heads, n_parallel=3) as engine, concurrent.futures.ThreadPoolExecutor(4) as threads:
        wants = [{}, {"draft": False}, {"hidden": True}, {"proposer": "recycle"}]
        tasks = [threads.submit(run, engine, p, SAMPLED, **w) for p, w in zip(prompts, wants, strict=True)]
        for task, tokens in zip(tasks, expected, strict=True):
            assert [token for token, *_ in task.result()[0]] == [token for token, *_ in tokens]


@pytest.mark.parametrize("arch", ["qwen35", "nemotron_h"])
@pytest.mark.parametrize("n_parallel", [1, 2])
def test_chains_on_models_with_a_recurrent_state(tmp_path, arch, n_parallel):
    with Model(paths_in(tmp_path)(arch), n_threads=1) as model:
        path = write_heads(tmp_path / "heads.gguf", keys_of(model), random_tensors(model, 64, 100))
        prompt = list(range(10, 30)) * 2
        with opened(model, path, n_parallel) as engine:
            plain, _ = run(engine, prompt, SAMPLED, draft=False)
            with concurrent.futures.ThreadPoolExecutor(n_parallel) as threads:
                for task in [threads.submit(run, engine, prompt, SAMPLED) for _ in range(n_parallel)]:
                    tokens, stats = task.result()
                    assert [token for token, *_ in tokens] == [token for token, *_ in plain]
                    assert stats.n_drafted > stats.passes


def test_chains_have_what_heads_know(tmp_path):
    with Model(paths_in(tmp_path)("qwen35"), n_threads=1) as model:
        prompt = list(range(10, 30))
        with opened(model, None) as engine:
            expected, without = run(engine, prompt)
        text = prompt + [token for token, *_ in expected]
        path = write_heads(tmp_path / "heads.gguf", keys_of(model), memory_tensors(model, text))
        with opened(model, path) as engine:
            tokens, stats = run(engine, prompt)
    assert [token for token, *_ in tokens] == [token for token, *_ in expected]
    assert stats.accepted_by["heads"] > 0 and stats.passes < without.passes


def test_a_cached_prompt_has_the_latent_of_its_last_row(model, random_heads):
    prompt = model.tokenize(TEXTS[0] * 3)
    with opened(model, random_heads) as engine:
        fresh = sources_of_first_draft(engine, prompt)
        cached = sources_of_first_draft(engine, prompt)
        tokens, stats = run(engine, prompt)
        assert stats.n_prompt_reused == len(prompt) - 1
        assert tokens == run(engine, prompt, draft=False)[0]
    assert "heads" not in fresh and "heads" in cached


def test_a_cancelled_generation_leaves_the_others(model, random_heads):
    prompt = model.tokenize(TEXTS[0])
    with opened(model, random_heads, n_parallel=2) as engine:
        expected, _ = run(engine, prompt, SAMPLED, draft=False)
        given_up = engine.generate(prompt, SAMPLED, max_tokens=N, ignore_eos=True)
        kept = engine.generate(prompt, SAMPLED, max_tokens=N, ignore_eos=True)
        tokens = [next(kept).token for _ in range(5)]
        next(given_up)
        given_up.cancel()
        tokens += [r.token for r in kept]
        assert tokens == [token for token, *_ in expected]
        assert list(given_up)[-1].finish_reason == "cancelled"


def test_forced_tokens_and_heads(model, random_heads):
    prompt = model.tokenize(TEXTS[0])
    rules = Regex(model, r"    return (first|second) and the rest is certain(, [a-z]+)*\n")
    with opened(model, random_heads) as engine:
        found = [
            "".join(r.text for r in engine.generate(prompt, SAMPLED, max_tokens=N, constraint=rules, draft=draft))
            for draft in (True, False)
        ]
    assert found[0] == found[1] and "the rest is certain" in found[0]


# --- which heads -----------------------------------------------------------------------------------------------------


def at_home(model, path: Path) -> Path:
    home = Path(model.heads_path)
    home.parent.mkdir(parents=True, exist_ok=True)
    home.write_bytes(path.read_bytes())
    return home


def test_the_models_own_are_picked_up(model, random_heads):
    prompt = model.tokenize(TEXTS[0])
    with opened(model, "") as engine:  # there are none yet
        assert engine.note == "" and "heads" not in engine_sources(engine, prompt)
    at_home(model, random_heads)
    with opened(model, "") as engine:
        assert engine.note == "" and "heads" in engine_sources(engine, prompt)
    with opened(model, None) as engine:
        assert "heads" not in engine_sources(engine, prompt)


def engine_sources(engine, prompt) -> set[str]:
    generation = engine.generate(prompt, GREEDY, max_tokens=20, ignore_eos=True)
    found = set()
    for _ in generation:
        draft = generation.newest_draft()
        found |= set(draft.sources) if draft else set()
    return found


def test_of_the_models_own_that_cannot_be_used_there_is_a_line(model, tmp_path):
    tensors = random_tensors(model)
    tensors["head.0.bias"][3] = np.nan
    home = at_home(model, write_heads(tmp_path / "heads.gguf", keys_of(model), tensors))
    with opened(model, "") as engine:
        assert engine.note.startswith(f"the heads {home} are not used: {home.name}: tensor 'head.0.bias' has")
        assert len(run(engine, model.tokenize("x"))[0]) == N
    with pytest.raises(ModelError, match=r"head\.0\.bias"):
        opened(model, home)


def test_a_model_that_gives_no_hidden_states_has_none(tmp_path):
    with Model(paths_in(tmp_path)("lfm2"), n_threads=1) as model:
        path = write_heads(tmp_path / "heads.gguf", keys_of(model), random_tensors(model, 64, 100))
        with pytest.raises(ModelError, match="hidden states or logits of this lfm2 model, not both"):
            opened(model, path)
        at_home(model, path)
        with opened(model, "") as engine:
            assert "not both" in engine.note
            assert len(run(engine, [10, 11])[0]) == N

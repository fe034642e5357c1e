"""Prompts with a common beginning, and more generations than sessions: evaluated once, and nobody can tell."""

import pytest

from conftest import SHARED
from maskprobe import Engine, Model, SamplingParams

GREEDY = SamplingParams(temp=0.0)
SAMPLED = SamplingParams(temp=0.8, seed=5)
SYSTEM = [3 + 7 * i % 190 for i in range(60)]  # a system prompt
N = 12


@pytest.fixture(scope="module")
def model(tiny_model_path):
    with Model(tiny_model_path("tiny-llama"), kernels="ours", n_threads=1) as model:
        yield model


def open_engine(model, **settings) -> Engine:
    return Engine(model, **{"n_ctx": 512, **SHARED, **settings})


def answer(engine, prompt, sampling=GREEDY, n: int = N, **settings):
    """(token, log-probability) of each token, and the stats."""
    generation = engine.generate(prompt, sampling, max_tokens=n, ignore_eos=True, **settings)
    return [(result.token, result.logprob) for result in generation], generation.stats


def uncached(model, prompt, sampling=GREEDY, n: int = N, **settings):
    with open_engine(model, **settings) as engine:
        return answer(engine, prompt, sampling, n)[0]


@pytest.mark.parametrize("n_parallel", [1, 3])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_conversations_with_one_system_prompt_evaluate_it_once(model, n_parallel, sampling):
    """Three of them in turns, bit for bit what an engine gives that has nothing cached."""
    texts = [[*SYSTEM, 10 + i, 20 + i, 30 + i] for i in range(3)]
    with open_engine(model, n_parallel=n_parallel) as engine:
        for turn in range(4):
            for i, text in enumerate(texts):
                n_known = len(text) - 3 if turn else len(SYSTEM)
                found, stats = answer(engine, text, sampling)
                assert found == uncached(model, text, sampling)
                if turn or i:
                    assert n_known - 1 <= stats.n_prompt_reused < len(text)
                else:
                    assert stats.n_prompt_reused == 0
                texts[i] = [*text, *(token for token, _ in found), 40 + turn, 50 + i, 60]


def test_a_longer_conversation_is_not_lost_to_one_that_branches_off(model):
    long = [*SYSTEM, *range(100, 180)]
    with open_engine(model) as engine:
        answer(engine, long)
        _, branch = answer(engine, [*SYSTEM, 5, 6, 7])
        assert branch.n_prompt_reused == len(SYSTEM)
        found, again = answer(engine, long)
        assert again.n_prompt_reused == len(long) - 1
        assert found == uncached(model, long)


def test_the_one_used_longest_ago_goes_first(model):
    """As many conversations as there is room for; one that was used again lately is still there."""
    first, second = [[50 + i] * 40 for i in range(2)]
    with open_engine(model, n_ctx=1024) as engine:
        for prompt in (first, second):
            answer(engine, prompt)
        for i in range(10):
            answer(engine, [100 + i] * 40)
        assert answer(engine, first)[1].n_prompt_reused == len(first) - 1
        for i in range(2):
            answer(engine, [120 + i] * 40)
        assert answer(engine, first)[1].n_prompt_reused == len(first) - 1
        assert answer(engine, second)[1].n_prompt_reused == 0


def test_what_is_cached_gives_way_where_the_cells_are_needed(model):
    """Two sessions of 256 tokens: what is cached never makes a generation fail, also while both are full."""
    prompts = [[30 + i] * 180 for i in range(6)]
    with open_engine(model, n_ctx=256, n_parallel=2) as engine:
        for prompt in prompts:
            assert answer(engine, prompt, n=60)[0] == uncached(model, prompt, n=60)
        together = [engine.generate(p, GREEDY, max_tokens=-1, ignore_eos=True) for p in (prompts[0], prompts[3])]
        for generation in together:
            assert [r.finish_reason for r in generation][-1] == "context"
            assert 256 - 180 <= generation.stats.n_gen <= 256 - 180 + 1


def test_a_short_prompt_need_not_wait_for_the_end_of_a_long_one(model):
    with open_engine(model, n_parallel=3) as engine:
        first = engine.generate([9], GREEDY, ignore_eos=True)  # beside it, prompts come in pieces
        for _ in range(20):
            next(first)
        long = engine.generate([7 + i % 100 for i in range(480)], GREEDY, max_tokens=N, ignore_eos=True)
        short = engine.generate([8, 9, 10], GREEDY, max_tokens=N, ignore_eos=True)
        next(short)
        assert long.stats.n_prompt_done < 480
        assert len(list(long)) == N


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_more_generations_than_sessions_take_turns(model, sampling):
    """No one waits while another has twice its tokens, beyond a turn of 64 and one pass; each has its own tokens."""
    n_generations, n = 5, 300
    prompts = [[40 + i, 41 + i, 42, 43 + i] for i in range(n_generations)]
    with open_engine(model, n_ctx=1024, n_parallel=2, rows=4) as engine:
        generations = [engine.generate(p, sampling, max_tokens=n, ignore_eos=True) for p in prompts]
        found = [[] for _ in prompts]
        farthest = 0
        while any(len(tokens) < n for tokens in found):
            i = min((i for i in range(n_generations) if len(found[i]) < n), key=lambda i: len(found[i]))
            result = next(generations[i])  # waits for the one that has least: the others go on meanwhile
            found[i].append((result.token, result.logprob))
            running = [g.stats.n_gen for g in generations if g.stats.n_gen < n]
            if len(running) > 2:
                farthest = max(farthest, max(running) - max(2 * min(running), min(running) + 64))
        assert farthest <= 12
    for prompt, tokens in zip(prompts, found, strict=True):
        assert tokens == uncached(model, prompt, sampling, n)


def test_a_generation_that_waits_for_its_next_turn_can_be_cancelled_and_dropped(model):
    with open_engine(model, n_parallel=1) as engine:
        generations = [engine.generate([40 + i], GREEDY, max_tokens=400, ignore_eos=True) for i in range(3)]
        for generation in generations:
            for _ in range(70):
                next(generation)
        generations[0].cancel()
        assert [r.finish_reason for r in generations[0]][-1] == "cancelled"
        generations[1].close()
        rest = list(generations[2])
        assert rest[-1].finish_reason == "length"
    assert generations[2].stats.n_gen == 400

"""An engine in a child process gives the tokens of one in this process, whatever becomes of the child."""

import asyncio
import os
import re
import signal
import threading
import time

import numpy as np
import pytest

from engine_processes import ENGINE, GREEDY, SOON_S, is_gone, long_text, prompt, results, tokens, until
from maskprobe import (
    ArgumentError,
    Constraint,
    Context,
    Engine,
    EngineLost,
    EngineProcess,
    JsonSchema,
    Model,
    ModelError,
    ModelProcess,
    PromptLookup,
    Regex,
    SamplingParams,
    Session,
    StateError,
)
from maskprobe.hosts import child_process
from maskprobe.hosts.messages import WINDOW

DRAWN = SamplingParams(temp=0.9, seed=5)


@pytest.fixture(scope="module")
def here(bundled_model_path):
    with Model(bundled_model_path, n_threads=1) as model, Engine(model, **ENGINE) as engine:
        yield engine


@pytest.fixture(scope="module")
def there(bundled_model_path):
    with ModelProcess(bundled_model_path, n_threads=1) as model, EngineProcess(model, **ENGINE) as engine:
        yield engine


SETTINGS = {
    "plain": {"draft": False, "top_logprobs": 3},
    "drafted": {"ignore_eos": True},
    "rows": {"rows": 4},
    "drawn": {"sampling": DRAWN},
    "biased": {"sampling": SamplingParams(temp=0.7, seed=3, logit_bias={199: -4.0})},
    "grammar": {"sampling": SamplingParams(temp=0.5, seed=3, grammar='root ::= "a" [b-y]+ "z"')},
    "stop": {"stop": ["import"], "max_tokens": 200},
    "stops": {"stop": "\n\n"},
    "none": {"max_tokens": 0},
    "context": {"max_tokens": -1, "ignore_eos": True},
    "named proposer": {"proposer": "lookup"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_child_gives_the_same_tokens(here, there, name):
    assert results(there, **SETTINGS[name]) == results(here, **SETTINGS[name])


@pytest.mark.parametrize("make", [lambda m: Regex(m, "[a-c]{3,9}x"), lambda m: JsonSchema(m, {"enum": ["one", 2]})])
def test_a_child_obeys_the_same_rules(here, there, make):
    of_here, of_there = (results(e, constraint=make(e.model), sampling=DRAWN) for e in (here, there))
    assert of_there == of_here
    with pytest.raises(ArgumentError, match="another Model"):
        there.generate(prompt(there), constraint=make(here.model))


def test_what_comes_beside_the_tokens(here, there):
    of_here, of_there = (e.generate(prompt(e), GREEDY, max_tokens=8, draft=False, hidden=True) for e in (here, there))
    for one, other in zip(of_here, of_there, strict=True):
        assert (one.logprob, one.margin, one.source) == (other.logprob, other.margin, other.source)
        assert np.array_equal(one.hidden, other.hidden)
    assert of_there.stats.tokens == of_here.stats.tokens and of_there.stats.finish_reason == "length"
    assert (of_there.stats.passes, of_there.stats.n_prompt) == (of_here.stats.passes, of_here.stats.n_prompt)
    assert of_there.newest_draft().n_pass == of_here.newest_draft().n_pass
    assert np.array_equal(there.embed(prompt(there)), here.embed(prompt(here)))
    assert there.pass_us(1) > 0 and there.note == here.note
    assert there.model.info == here.model.info and there.model.identity == here.model.identity
    assert there.context.n_ctx == here.context.n_ctx and there.context.n_rows_max == here.context.n_rows_max


def test_many_threads_at_once(here, there):
    expected = [tokens(here, i) for i in range(4)]
    found: dict[int, list[int]] = {}

    def work(k):
        found[k] = tokens(there, k % 4)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: expected[k % 4] for k in range(12)}


def test_an_event_loop(here, there):
    async def read(i):
        return [r.token async for r in there.generate_async(prompt(there, i), GREEDY, max_tokens=30)]

    async def all_and_one_that_is_given_up():
        task = asyncio.create_task(read(0))
        found = await asyncio.gather(*(read(i) for i in range(4)))
        async for _ in (generation := there.generate_async(prompt(there), GREEDY, ignore_eos=True)):
            break
        await generation.aclose()
        await task
        return found

    assert asyncio.run(all_and_one_that_is_given_up()) == [tokens(here, i) for i in range(4)]


def test_who_reads_slowly_is_waited_for(here, there):
    generation = long_text(there)
    first = next(generation)
    time.sleep(0.5)  # 400 tokens take a second
    assert len(generation._inbox._messages) <= WINDOW
    assert [first.token, *(r.token for r in generation)] == [r.token for r in long_text(here)]


def test_cancel_and_close(there):
    generation = long_text(there)
    next(generation)
    generation.cancel()
    *_, last = generation
    assert last.finish_reason == generation.stats.finish_reason == "cancelled"
    generation.cancel()
    with long_text(there) as generation:
        next(generation)
    with pytest.raises(StopIteration):
        next(generation)
    del generation
    both = long_text(there), long_text(there, 1)
    there.context.cancel()
    assert [list(g)[-1].finish_reason for g in both] == ["cancelled"] * 2
    assert tokens(there)


def test_what_cannot_go_into_a_child_is_refused(there):
    class Own(Constraint):
        def allowed(self):
            return [1]

    model, ids = there.model, prompt(there)
    for settings, said in (
        ({"constraint": Own()}, "a constraint of Python, Own, cannot run in the engine's process"),
        ({"proposer": lambda: None}, "a proposer of Python"),
        ({"proposer": PromptLookup()}, "a proposer of Python"),
        ({"proposer": "nonsense"}, "nonsense"),
        ({"stop": [lambda: 1]}, "cannot be handed to the engine's process"),
        ({"max_tokens": -2}, "n_max = -2"),
    ):
        with pytest.raises(ArgumentError, match=said):
            there.generate(ids, **settings)
    with pytest.raises(ArgumentError, match="a proposer of Python"):
        EngineProcess(model, proposer=PromptLookup())
    with pytest.raises(StateError, match="has an engine already"):
        EngineProcess(model)
    for opens in (Session, Context, Engine):
        with pytest.raises(ModelError, match="the weights of this model are not in this process"):
            opens(model)
    with pytest.raises(ModelError, match="in a process of its own"):
        there.context.session()
    assert tokens(there)


def test_ten_times_killed_and_ten_times_back(here, there):
    expected = [tokens(here, i) for i in range(3)]
    model = there.model
    pids, n_open = set(), len(os.listdir("/dev/fd"))
    for turn in range(10):
        running = [long_text(there, i) for i in range(3)]
        first = [next(generation).token for generation in running]
        pids.add(model.pid)
        os.kill(model.pid, (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV)[turn % 3])
        started = time.monotonic()
        for token, generation in zip(first, running, strict=True):
            with pytest.raises(EngineLost) as lost:
                [r.token for r in generation]
            assert re.fullmatch(
                r"the process of the engine was ended by SIG(KILL|ABRT|SEGV); its 3 generations ended with it; "
                r"the next one starts it again",
                str(lost.value),
            )
            assert generation.stats.tokens[0] == token
            assert list(generation) == []
        assert time.monotonic() - started < 5.0
        assert model.pid is None and there.pass_us(1) == 0.0 and there.note == ""
        i = turn % 3
        assert tokens(there, i) == expected[i]
    assert len(pids) == 10
    assert len(os.listdir("/dev/fd")) <= n_open
    assert there.embed(prompt(there)).shape == (model.info.n_embd,)


def test_an_idle_child_that_dies_is_replaced_unseen(here, there):
    old = there.model.pid
    os.kill(old, signal.SIGKILL)
    until(lambda: there.model.pid is None)
    assert tokens(there) == tokens(here)
    assert there.model.pid != old


def test_what_was_under_way_is_in_the_new_cache(there):
    texts = [[7, *range(100 + 200 * i, 190 + 200 * i)] for i in range(3)]
    running = [there.generate(text, GREEDY, max_tokens=400, ignore_eos=True) for text in texts]
    [next(generation) for generation in running]
    os.kill(there.model.pid, signal.SIGKILL)
    for generation in running:
        with pytest.raises(EngineLost):
            list(generation)
    assert tokens(there)
    time.sleep(1.0)  # the child evaluates them while nothing is asked for
    for text in texts[1:]:  # the newest two, beside the one that was asked for
        again = there.generate(text, GREEDY, max_tokens=1)
        list(again)
        assert again.stats.n_prompt_reused >= len(text) - 1


def test_a_child_that_does_not_answer_is_ended(here, there, monkeypatch):
    monkeypatch.setattr(child_process, "HANG_S", 0.5)
    running = [long_text(there, i) for i in range(2)]
    [next(generation) for generation in running]
    os.kill(there.model.pid, signal.SIGSTOP)
    started = time.monotonic()
    running[0].cancel()
    assert list(running[0])[-1].finish_reason == "cancelled"
    with pytest.raises(EngineLost, match=r"did not end a generation within 0.5 s and was ended; its 2 generations"):
        list(running[1])
    assert tokens(there) == tokens(here)
    os.kill(there.model.pid, signal.SIGSTOP)
    with pytest.raises(EngineLost, match=r"did not answer for 0.5 s and was ended"):
        there.generate(prompt(there))
    assert time.monotonic() - started < SOON_S
    assert tokens(there) == tokens(here)


def test_closing_tells_who_waits(bundled_model_path, tmp_path):
    model = ModelProcess(bundled_model_path, n_threads=1)
    engine = EngineProcess(model, **ENGINE, state=tmp_path / "state")
    pid = model.pid
    generation = long_text(engine)
    next(generation)
    model.close()
    assert next(generation).token >= 0
    failures = []

    def read():
        try:
            list(generation)
        except StateError as error:
            failures.append(str(error))

    os.kill(pid, signal.SIGSTOP)  # so that it waits
    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.2)
    os.kill(pid, signal.SIGCONT)
    engine.close()
    reader.join()
    assert failures in (["the engine is closed"], [])  # [] where the text was at its end
    until(lambda: is_gone(pid))
    assert (tmp_path / "state").stat().st_size > 0
    engine.close()
    for call in (lambda: long_text(engine), lambda: engine.embed([1]), lambda: EngineProcess(model)):
        with pytest.raises(StateError):
            call()

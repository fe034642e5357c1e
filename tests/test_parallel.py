"""Several generations in shared passes, from threads and event loops: each has the tokens that it has alone."""

import asyncio
import contextlib
import gc
import threading
import weakref

import pytest

from conftest import SHARED
from fakes import Adversary, Oracle
from maskprobe import Engine, Model, SamplingParams, StateError, TokenTree

TIMEOUT_S = 120
N_PARALLEL = 4
N = 40
PROMPTS = [[5, 60, 7, 5, 60], [9, 9, 30], [1, 40, 41, 42, 43, 44, 45], list(range(20, 90)), [200], [5, 60, 7, 8]]
SAMPLINGS = [SamplingParams(temp=0.0), SamplingParams(temp=0.8, seed=1), SamplingParams(temp=0.8, seed=2)]
JOBS = [(prompt, SAMPLINGS[i % 3]) for i, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def model(tiny_model_path):
    with Model(tiny_model_path("tiny-llama"), kernels="ours", n_threads=1) as model:
        yield model


@pytest.fixture
def engine(model):
    with Engine(model, n_ctx=512, n_parallel=N_PARALLEL, **SHARED) as engine:
        yield engine


@pytest.fixture(scope="module")
def alone(model):
    """The tokens of each job, decoded plainly and alone."""
    with Engine(model, n_ctx=512, proposer="none", **SHARED) as engine:
        return [[r.token for r in generated(engine, job)] for job in JOBS]


def generated(engine, job, n: int = N, **settings):
    prompt, sampling = job
    return engine.generate(prompt, sampling, max_tokens=n, ignore_eos=True, **settings)


class Crowd:
    """Threads that each run a function to its end; what one raised comes out of results()."""

    def __init__(self, *functions) -> None:
        self._results = [None] * len(functions)
        self._failures = []
        self._threads = [
            threading.Thread(target=self._run, args=(i, function), daemon=True) for i, function in enumerate(functions)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, i: int, function) -> None:
        try:
            self._results[i] = function()
        except BaseException as error:
            self._failures.append(error)

    def results(self) -> list:
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
        if self._failures:
            raise self._failures[0]
        return self._results


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proposer", ["none", "all", "lookup", "recycle", "esp"])
def test_from_several_threads(engine, alone, proposer):
    """More of them than sessions: the last ones wait for one."""

    def run(job):
        return lambda: [r.token for r in generated(engine, job, proposer=proposer)]

    for _ in range(2):
        assert Crowd(*map(run, JOBS)).results() == alone


@pytest.mark.parametrize("whole", [True, False])
def test_a_crowd_with_oracles_and_adversaries(engine, alone, whole):
    def run(i):
        kind = (Oracle, Adversary)[i % 2]
        proposer = kind(PROMPTS[i] + alone[i], 12)
        proposer.whole = whole
        return lambda: [r.token for r in generated(engine, JOBS[i], proposer=proposer)]

    assert Crowd(*map(run, range(len(JOBS)))).results() == alone


def test_one_thread_takes_turns(engine, alone):
    """Generations that begin and end at different times, read one token at a time by one thread."""
    open_generations = {i: generated(engine, job) for i, job in enumerate(JOBS)}
    tokens = [[] for _ in JOBS]
    n_read = 0
    while open_generations:
        for i, generation in list(open_generations.items()):
            n_read += 1
            if n_read < 10 * i:  # it begins later
                continue
            result = next(generation, None)
            if result is None:
                del open_generations[i]
            else:
                tokens[i].append(result.token)
    assert tokens == alone


def test_passes_are_shared(engine, alone):
    first, second = generated(engine, JOBS[0], draft=False), generated(engine, JOBS[1], draft=False)
    assert [r.token for r in first] == alone[0]
    assert second.stats.n_gen >= N - 2  # it went along, though nobody read it
    assert [r.token for r in second] == alone[1]


def test_rows_of_its_own_are_the_room_of_a_proposer_and_no_neighbours(engine, alone):
    few, one, all_of_it = [
        generated(engine, JOBS[0], proposer=Oracle(JOBS[0][0] + alone[0], 5), rows=rows) for rows in (3, 1, None)
    ]
    assert [[r.token for r in generation] for generation in (few, one, all_of_it)] == [alone[0]] * 3
    assert few.stats.accept_hist == [0, 0, 13] and few.stats.rows == 3 * few.stats.passes
    assert one.stats.rows == one.stats.passes == N - 1
    assert all_of_it.stats.accept_hist[5] == 6


def test_a_long_prompt_beside_others(engine, alone):
    """It is evaluated in pieces between their passes; all of them have the tokens that they have alone."""
    long = ([3 + i % 200 for i in range(450)], SAMPLINGS[0])
    expected = [r.token for r in generated(engine, long, 20)]
    short = [generated(engine, job) for job in JOBS[:2]]
    tokens = [[next(generation).token] for generation in short]
    late = generated(engine, long, 20, draft=False)
    for generation, found in zip(short, tokens, strict=True):
        found += [r.token for r in generation]
    assert tokens == alone[:2]
    assert [r.token for r in late] == expected


def test_prompts_that_begin_alike_share_their_cache(engine):
    prompt = [3 + i % 200 for i in range(300)]
    first = generated(engine, (prompt, SAMPLINGS[0]))
    expected = [next(first).token]
    second = generated(engine, (prompt, SAMPLINGS[0]))
    found = [r.token for r in second]
    expected += [r.token for r in first]
    assert found == expected
    assert second.stats.n_prompt_reused > 250 > first.stats.n_prompt_reused


# --- what happens to one, touches no other ---------------------------------------------------------------------------


def test_cancel_of_one(engine, alone):
    generations = [generated(engine, job) for job in JOBS[:4]]
    tokens = [[next(generation).token] for generation in generations]
    generations[1].cancel()
    for generation, found in zip(generations, tokens, strict=True):
        found += [r.token for r in generation]
    assert [tokens[i] for i in (0, 2, 3)] == [alone[i] for i in (0, 2, 3)]
    *before, last = tokens[1]
    assert generations[1].stats.finish_reason == "cancelled" and last == -1
    assert before == alone[1][: len(before)] and len(before) < N
    generations[1].cancel()  # late: nothing happens


def test_cancel_from_another_thread_ends_a_generation_without_end(model):
    with Engine(model, n_ctx=16384, proposer="none", **SHARED) as engine:
        generation = engine.generate([5, 6, 7], SAMPLINGS[0], ignore_eos=True)
        begun = threading.Event()

        def read():
            for result in generation:
                if result.n_gen == 30:
                    begun.set()
            return result

        crowd = Crowd(read)
        assert begun.wait(TIMEOUT_S)
        generation.cancel()
        (last,) = crowd.results()
        assert (last.token, last.finish_reason) == (-1, "cancelled")
        again = [r.token for r in generated(engine, ([5, 6, 7], SAMPLINGS[0]), 20)]
        assert again == generation.stats.tokens[:20] and len(again) == 20


class Breaks(Oracle):
    """Fails in one of its methods, after a while."""

    def __init__(self, text, where: str) -> None:
        super().__init__(text, 2)
        self.where = where

    def _fail(self, where: str, ready: bool) -> None:
        if where == self.where and ready:
            raise LookupError(f"{where} is broken")

    def begin(self, tokens):
        self._fail("begin", True)

    def propose(self, context, room):
        self._fail("propose", len(context) > len(PROMPTS[0]) + 10)
        return super().propose(context, room)

    def observe(self, tree, result, path, emitted):
        self._fail("observe", True)


@pytest.mark.parametrize("where", ["begin", "propose", "observe"])
def test_a_failing_proposer_ends_its_own_generation_only(engine, alone, where):
    broken = generated(engine, JOBS[0], proposer=Breaks(PROMPTS[0] + alone[0], where))
    others = [generated(engine, job) for job in JOBS[1:4]]
    tokens = []
    with pytest.raises(LookupError, match=f"{where} is broken"):
        tokens.extend(r.token for r in broken)
    assert list(broken) == []
    assert broken.stats.tokens == alone[0][: len(broken.stats.tokens)]
    if where == "observe":  # the tokens of the pass were committed, and come out
        assert len(broken.stats.tokens) == 4
    assert [[r.token for r in generation] for generation in others] == alone[1:4]


def test_whoever_steps_the_failure_comes_out_where_it_belongs(engine, alone):
    """The thread that reads another generation makes the step in which a callback fails."""
    broken = generated(engine, JOBS[0], proposer=Breaks(PROMPTS[0] + alone[0], "observe"))
    assert [r.token for r in generated(engine, JOBS[1])] == alone[1]
    with pytest.raises(LookupError, match="observe is broken"):
        list(broken)


def test_a_callback_that_uses_its_engine_is_refused(engine):
    class Curious(Oracle):
        def propose(self, context, room):
            next(other)

    other = generated(engine, JOBS[1])
    with pytest.raises(StateError, match="a callback must not call the engine"):
        list(generated(engine, JOBS[0], proposer=Curious([])))

    class Closes(Oracle):
        def propose(self, context, room):
            engine.close()

    with pytest.raises(StateError, match="a callback must not call the engine"):
        list(generated(engine, JOBS[0], proposer=Closes([])))


def test_what_is_dropped_ends(engine, alone):
    """Without close(): its session goes to those who wait, and its proposer is let go."""
    proposers = []
    for _ in range(3 * N_PARALLEL):
        proposer = Oracle(PROMPTS[0] + alone[0], 3)
        proposers.append(weakref.ref(proposer))
        generation = engine.generate(PROMPTS[0], SAMPLINGS[0], ignore_eos=True, proposer=proposer)
        assert next(generation).token == alone[0][0]
        del proposer, generation
        gc.collect()
    assert [r.token for r in generated(engine, JOBS[1])] == alone[1]
    gc.collect()
    assert sum(reference() is not None for reference in proposers) == 0


def test_a_generation_dropped_in_the_callback_of_another(engine, alone):
    """While the core is inside the step that works on both."""

    class Drops(Oracle):
        def propose(self, context, room):
            dropped.clear()
            return super().propose(context, room)

    dropped = [generated(engine, JOBS[2], proposer=Oracle(PROMPTS[2] + alone[2], 3))]
    next(dropped[0])
    assert [r.token for r in generated(engine, JOBS[0], proposer=Drops(PROMPTS[0] + alone[0], 3))] == alone[0]
    assert dropped == []


def test_an_engine_closed_while_threads_wait(model):
    engine = Engine(model, n_ctx=16384, n_parallel=2, proposer="none", **SHARED)
    begun = threading.Semaphore(0)

    def read():
        try:
            for i, _ in enumerate(engine.generate([5, 6, 7], SAMPLINGS[0], ignore_eos=True)):
                if i == 0:
                    begun.release()
        except StateError as error:
            return str(error)

    crowd = Crowd(read, read)
    for _ in range(2):
        assert begun.acquire(timeout=TIMEOUT_S)
    engine.close()
    assert crowd.results() == ["the engine is closed"] * 2


# --- event loops -----------------------------------------------------------------------------------------------------


def in_loop(coroutine):
    async def limited():
        return await asyncio.wait_for(coroutine, TIMEOUT_S)

    return asyncio.run(limited())


async def tokens_async(engine, job, **settings):
    prompt, sampling = job
    generation = engine.generate_async(prompt, sampling, max_tokens=N, ignore_eos=True, **settings)
    return [result.token async for result in generation]


def test_async_generations(engine, alone):
    async def all_of_them():
        return await asyncio.gather(*(tokens_async(engine, job) for job in JOBS))

    assert in_loop(all_of_them()) == alone
    assert in_loop(all_of_them()) == alone  # another loop, the same engine


def test_threads_and_a_loop_at_once(engine, alone):
    async def all_of_them():
        return await asyncio.gather(*(tokens_async(engine, job) for job in JOBS[:3]))

    crowd = Crowd(
        lambda: in_loop(all_of_them()), *[lambda job=job: [r.token for r in generated(engine, job)] for job in JOBS[3:]]
    )
    first, *others = crowd.results()
    assert [*first, *others] == alone


def test_the_loop_goes_on_during_a_pass(engine):
    """A callback that waits for the loop: with a blocked loop it would wait for ever."""
    called = threading.Event()

    class Waits(Oracle):
        n_heard = 0

        def propose(self, context, room):
            loop.call_soon_threadsafe(called.set)
            Waits.n_heard += called.wait(TIMEOUT_S)
            called.clear()
            return TokenTree(context[-1])

    async def run():
        nonlocal loop
        loop = asyncio.get_running_loop()
        return await tokens_async(engine, JOBS[0], proposer=Waits([]))

    loop = None
    assert len(in_loop(run())) == N
    assert Waits.n_heard == N - 2  # before the first and for the last token nothing is proposed


def test_a_cancelled_task_cancels_its_generation(engine, alone):
    async def run():
        prompt, sampling = JOBS[0]
        endless = engine.generate_async(prompt, sampling, ignore_eos=True)
        begun = asyncio.Event()

        async def read():
            async for _ in endless:
                begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(StopAsyncIteration):
            await anext(endless)
        return endless.stats.n_gen, await tokens_async(engine, JOBS[1])

    n_gen, tokens = in_loop(run())
    assert n_gen >= 1 and tokens == alone[1]
    assert [r.token for r in generated(engine, JOBS[2])] == alone[2]


def test_cancel_and_early_exit_in_a_loop(engine, alone):
    async def run():
        prompt, sampling = JOBS[0]
        results = []
        async with contextlib.aclosing(engine.generate_async(prompt, sampling, ignore_eos=True)) as generation:
            async for result in generation:
                results.append(result)
                if len(results) == 5:
                    generation.cancel()
        async for result in engine.generate_async(prompt, sampling, ignore_eos=True):
            if result.n_gen == 5:
                break
        return results, generation.stats.finish_reason

    results, reason = in_loop(run())
    assert reason == results[-1].finish_reason == "cancelled"
    assert [r.token for r in results[:-1]] == alone[0][: len(results) - 1]


def test_a_failing_callback_in_a_loop(engine, alone):
    async def run():
        broken = tokens_async(engine, JOBS[0], proposer=Breaks(PROMPTS[0] + alone[0], "propose"))
        return await asyncio.gather(broken, tokens_async(engine, JOBS[1]), return_exceptions=True)

    failure, tokens = in_loop(run())
    assert isinstance(failure, LookupError) and tokens == alone[1]


def test_an_engine_closed_under_a_loop(model):
    engine = Engine(model, n_ctx=16384, proposer="none", **SHARED)

    async def run():
        generation = engine.generate_async([5, 6, 7], SAMPLINGS[0], ignore_eos=True)
        await anext(generation)
        closing = asyncio.get_running_loop().run_in_executor(None, engine.close)
        with pytest.raises(StateError, match="the engine is closed"):
            async for _ in generation:
                pass
        await closing

    in_loop(run())


def test_the_stepping_thread_ends_when_nobody_waits(engine, alone):
    assert in_loop(tokens_async(engine, JOBS[0])) == alone[0]
    for thread in threading.enumerate():
        if thread.name == "maskprobe-step":
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
    assert in_loop(tokens_async(engine, JOBS[1])) == alone[1]

"""What is closed, dropped or left while others are at work: each goes on or is told, as the docstrings say."""

import asyncio
import contextlib
import gc
import random
import subprocess
import sys
import threading
import time

import pytest

from conftest import SHARED
from maskprobe import ArgumentError, Cancelled, Context, Engine, Model, Sampler, SamplingParams, StateError
from test_parallel import Crowd

TIMEOUT_S = 120
PROMPT = [5, 60, 7, 5, 60]
GREEDY = SamplingParams(temp=0.0)
N = 30


@pytest.fixture(scope="module")
def path(tiny_model_path):
    return tiny_model_path("tiny-llama")


@pytest.fixture(scope="module")
def model(path):
    with Model(path, kernels="ours", n_threads=1) as model:
        yield model


@pytest.fixture
def engine(model):
    with Engine(model, n_ctx=4096, n_parallel=3, **SHARED) as engine:
        yield engine


@pytest.fixture(scope="module")
def plain(model):
    with Engine(model, n_ctx=512, proposer="none", **SHARED) as engine:
        return [r.token for r in generated(engine)]


def generated(engine, n=N, **settings):
    return engine.generate(PROMPT, GREEDY, max_tokens=n, ignore_eos=True, **settings)


def endless(engine, **settings):
    return generated(engine, -1, **settings)


def tokens_of(results) -> list[int]:
    return [r.token for r in results if r.token >= 0]


class Calls:
    """A constraint that restricts nothing and calls a function before a token is drawn, and for each candidate."""

    def __init__(self, call) -> None:
        self._call = call

    def allowed(self):
        self._call()

    def n_valid(self, tokens):
        self._call()
        return len(tokens)


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proposer", ["all", "none", "esp", "esp-soft", "lookup", "recycle", "logits"])
def test_a_model_closed_during_a_generation(path, plain, proposer):
    """It goes on, and so does the engine."""
    model = Model(path, kernels="ours", n_threads=1)
    with Engine(model, n_ctx=512, proposer=proposer, masks="mean", **SHARED) as engine:
        waits, begun = generated(engine), generated(engine)
        first = next(begun)
        model.close()
        assert [first.token, *tokens_of(begun)] == tokens_of(waits) == tokens_of(generated(engine)) == plain
        for call in (lambda: model.tokenize("a"), lambda: Engine(model), lambda: model.embedding_rows([1])):
            with pytest.raises(StateError, match=r"^the model is closed$"):
                call()


def test_a_model_closed_by_a_thread_at_any_moment(path, plain):
    for i in range(60):
        model = Model(path, kernels="ours", n_threads=1, self_check=False)
        with Engine(model, n_ctx=512, proposer=["all", "esp"][i % 2], **SHARED) as engine:
            threading.Timer(random.Random(i).uniform(0.0, 0.03), model.close).start()
            assert tokens_of(generated(engine)) == plain


def test_a_call_is_never_told_of_a_closing_that_was_refused(model):
    """close() while others are inside is "busy" for who closes; the others do not notice."""
    shared, stop = model._shared(), threading.Event()

    def closes():
        while not stop.is_set():
            with pytest.raises(StateError, match="another thread is inside this model"):
                shared.close()

    def reads():
        try:
            for _ in range(3000):
                shared.tokenize("a b c")
        finally:
            stop.set()

    with shared._handle:
        Crowd(closes, closes, reads).results()
    shared.close()
    assert shared.closed and not model.closed


# --- engines ---------------------------------------------------------------------------------------------------------


def test_an_engine_closed_while_threads_iterate(model, plain):
    """Each thread has its whole text or is told that the engine is closed; who closes is never refused."""
    for i in range(100):
        engine = Engine(model, n_ctx=512, n_parallel=2, **SHARED)

        def iterate(engine=engine):
            try:
                while True:
                    assert tokens_of(generated(engine)) == plain
            except StateError as error:
                assert str(error) == "the engine is closed", error

        crowd = Crowd(iterate, iterate, iterate)
        time.sleep(random.Random(i).uniform(0.0, 0.03))
        engine.close()
        crowd.results()  # raises what one of them met beside that


def test_closing_frees_and_writes_though_a_generation_is_kept(model, tmp_path):
    path = tmp_path / "x.state"
    engine = Engine(model, n_ctx=512, state=path, **SHARED)
    kept = endless(engine)
    for _ in range(50):
        next(kept)
    engine.close()
    assert path.stat().st_size > 0 and kept.closed
    with pytest.raises(StateError, match=r"^the engine is closed$"):
        next(kept)
    assert kept.stats.n_gen >= 50
    kept.close()


def test_context_cancel(engine, plain):
    """It stops a step: the thread that made it is told, and every generation goes on with the next token asked for."""
    n_told = 0
    for i in range(100):
        told = []

        def iterate(told=told):
            generation, found = generated(engine), []
            while len(found) < N:
                try:
                    found.append(next(generation).token)
                except Cancelled as error:
                    told.append(str(error))
            return found

        crowd = Crowd(iterate, iterate)
        time.sleep(random.Random(i).uniform(0.0, 0.02))
        engine.context.cancel()
        assert crowd.results() == [plain, plain] and told in ([], ["cancelled"])
        n_told += len(told)
        with contextlib.suppress(Cancelled):  # it came late, and the next pass is stopped
            tokens_of(generated(engine, 1))
    assert n_told > 0


# --- generations -----------------------------------------------------------------------------------------------------


def test_two_threads_on_one_generation(engine, plain):
    """The first goes on, and has all tokens; the second is busy, and may still look and cancel."""
    for _ in range(20):
        entered, stopped, refused = threading.Event(), threading.Event(), []
        calls = iter(range(10**9))

        def waits(entered=entered, stopped=stopped, refused=refused, calls=calls):
            if next(calls) == 5:
                entered.set()
                while len(refused) < 3 and not stopped.is_set():
                    time.sleep(0.0005)

        generation = generated(engine, constraint=Calls(waits))

        def second(generation=generation, entered=entered, stopped=stopped, refused=refused):
            try:
                assert entered.wait(TIMEOUT_S) and generation.stats.n_prompt == len(PROMPT)
                for call in (generation.__next__, generation.close, generation.__next__):
                    with pytest.raises(StateError) as caught:
                        call()
                    refused.append((caught.value.status, str(caught.value)))
            finally:
                stopped.set()

        tokens, _ = Crowd(lambda generation=generation: tokens_of(generation), second).results()
        assert tokens == plain
        said = "a token of this generation is being waited for already: one thread at a time"
        assert refused == [("busy", said)] * 3


def test_cancel_at_any_moment(engine, plain):
    """From many threads, also while the last token is read: no token is lost, and no error comes of it."""
    for i in range(150):
        generation = generated(engine)

        def cancels(generation=generation, i=i):
            time.sleep(random.Random(i).uniform(0.0, 0.02))
            for _ in range(20):
                generation.cancel()
                assert generation.stats.n_gen >= 0

        results, *_ = Crowd(lambda generation=generation: list(generation), cancels, cancels).results()
        assert tokens_of(results) == plain[: len(tokens_of(results))]
        assert results[-1].finish_reason == ("length" if len(tokens_of(results)) == N else "cancelled")


def test_closed_in_a_callback(path, engine, plain):
    """What the callback's own engine is needed for is refused; cancel() and all that is others' is not."""
    own = [None]  # the generation that calls back
    refused = []

    def once(call):
        done = []

        def calls():
            if not done:
                done.append(1)
                try:
                    call()
                except StateError as error:
                    refused.append((error.status, str(error)))

        return Calls(calls)

    for call in (
        engine.close,
        lambda: engine.pass_us(1),
        lambda: tokens_of(generated(engine)),
        lambda: next(own[0]),
        lambda: own[0].close(),
    ):
        refused.clear()
        own[0] = generated(engine, constraint=once(call))
        assert tokens_of(own[0]) == plain
        assert len(refused) == 1 and refused[0][0] == "busy" and "\n" not in refused[0][1]

    refused.clear()
    own[0] = endless(engine, constraint=once(lambda: own[0].cancel()))
    assert list(own[0])[-1].finish_reason == "cancelled"
    another = Model(path, n_threads=1)
    other = Engine(another, n_ctx=256, n_threads=1)
    for call in (another.close, other.close, other.close, engine.generate(PROMPT).close):
        assert tokens_of(generated(engine, constraint=once(call))) == plain
    assert not refused


USES_ANOTHER = """
import sys
from maskprobe import Engine, Model, SamplingParams
path, state, what = sys.argv[1:]
model = Model(path, n_threads=1)
settings = dict(n_ctx=256, n_threads=1, state=state)
engine, other = Engine(model, **settings), Engine(model, **settings)
GREEDY = SamplingParams(temp=0.0)
text = lambda engine, **more: [r.token for r in engine.generate([1, 2, 3], GREEDY, max_tokens=30, **more)]

class Uses:
    def n_valid(self, tokens):
        global other
        if what == "generates":
            text(other)
        elif what == "closes":
            other.close()
        else:
            other = None
        return len(tokens)

expected = text(engine)
assert text(engine, constraint=Uses()) == expected
if what == "generates":
    assert text(other) == expected
print("done")
"""


@pytest.mark.parametrize("what", ["generates", "closes", "drops"])
def test_a_callback_uses_another_engine_that_shares_the_state(path, tmp_path, what):
    command = [sys.executable, "-c", USES_ANOTHER, str(path), str(tmp_path / "x.state"), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_generations_collected_in_another_thread(model, plain):
    """Dropped in the middle, in cycles, and freed wherever the collector happens to run, callbacks among it."""

    class Cycle:
        def __init__(self) -> None:
            self.me = self
            self.generation = endless(engine, constraint=Calls(lambda: None))

    class Collects:
        def accept(self, token):
            gc.collect()

    def drops():
        for i in range(60):
            cycle = Cycle()
            for _ in range(i % 4):
                next(cycle.generation)
            del cycle
            if i % 7 == 0:
                gc.collect()

    engine = Engine(model, n_ctx=512, n_parallel=8, **SHARED)  # what waits for the collector has a session
    gc.collect()
    gc.freeze()  # what there was before is not looked through again and again
    before = gc.get_threshold()
    gc.set_threshold(50)
    try:
        collects = [lambda: tokens_of(generated(engine, constraint=Collects())) for _ in range(2)]
        _, *texts = Crowd(drops, *collects).results()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
    assert texts == [plain, plain]
    engine.close()


# --- the end of loops ---------------------------------------------------------------------------------------------


def test_a_loop_closed_under_way(engine, plain):
    """Its tasks are never finished: what they waited for ends with them, and the engine goes on."""
    for i in range(40):
        loop = asyncio.new_event_loop()
        generation = engine.generate_async(PROMPT, GREEDY, ignore_eos=True)

        async def read(generation=generation):
            async for _ in generation:
                pass

        task = loop.create_task(read())
        seconds = random.Random(i).uniform(0.0, 0.02)
        loop.run_until_complete(asyncio.wait({task}, timeout=seconds))
        loop.close()
        task._log_destroy_pending = False
        del task, read, generation
        gc.collect()
        assert tokens_of(generated(engine)) == plain


def test_two_tasks_on_one_generation(engine, plain):
    async def run():
        generation = engine.generate_async(PROMPT, GREEDY, max_tokens=N, ignore_eos=True)
        first = asyncio.create_task(anext(generation))
        await asyncio.sleep(0)
        with pytest.raises(StateError, match="one thread at a time") as caught:
            await anext(generation)
        with pytest.raises(StateError, match="one thread at a time"):
            await generation.aclose()
        return caught.value.status, [(await first).token, *[r.token async for r in generation]]

    assert asyncio.run(run()) == ("busy", plain)


# --- what errors say --------------------------------------------------------------------------------------------------


def test_errors_name_no_internals(model, engine, path):
    """Neither lambdas and addresses of what was given, nor names of functions inside."""

    class Plain:
        pass

    for odd in (lambda: 1, Plain(), Plain, object(), print, [object()], "x" * 500, "a\nb", 2**70, 1.5j):
        for call in (
            lambda odd=odd: Engine(model, n_ctx=odd),
            lambda odd=odd: Engine(model, rows=odd),
            lambda odd=odd: Engine(model, proposer=odd),
            lambda odd=odd: Context(model, n_threads=odd),
            lambda odd=odd: Model(path, kernels=odd),
            lambda odd=odd: Model(path, n_threads=odd),
            lambda odd=odd: Sampler(model, SamplingParams(top_k=odd)),
            lambda odd=odd: engine.generate(PROMPT, max_tokens=odd) and None,
            lambda odd=odd: engine.generate(PROMPT, stop=[odd, ""]),
            lambda odd=odd: engine.generate(PROMPT, proposer=odd),
            lambda odd=odd: engine.generate(PROMPT, constraint=odd),
        ):
            try:
                call()
            except ArgumentError as error:
                said = str(error)
                assert not any(part in said for part in ("lambda", " at 0x", "<", "operator", "\n")), said
                assert len(said) < 400, said


def test_what_is_busy_is_named(model):
    """By what it is, whichever call it was."""
    with (
        Context(model, n_ctx=2048, n_batch=16, n_ubatch=16, n_rows_max=8, n_threads=1) as context,
        context.session() as session,
    ):
        stop = threading.Event()

        def evaluate():
            while not stop.is_set():
                with contextlib.suppress(StateError):
                    session.set_prefix([])
                    session.set_prefix([1] * 1500)

        crowd = Crowd(evaluate)
        said, deadline = set(), time.monotonic() + TIMEOUT_S
        while len(said) < 2 and time.monotonic() < deadline:
            for call in (context.parts, lambda: session.set_prefix([2])):
                try:
                    call()
                except StateError as error:
                    said.add(str(error))
            time.sleep(0.001)
        stop.set()
        crowd.results()
    assert said == {
        "another thread is inside this context: one thread at a time",
        "another thread is inside this context",
    }

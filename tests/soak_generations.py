"""Actions of the soak: texts, their ends, and the engine under them. Each says what came of it in a word or two."""

import asyncio
import contextlib
import gc
import threading
from typing import Any

from maskprobe import Cancelled, Engine, Model, TokenResult
from soak_callbacks import Planned
from soak_inputs import N_CTX_LEAST, Job
from soak_world import N_KNOWN, STATE_NAME, Turn, outline

# --- generations -----------------------------------------------------------------------------------------------------


def generates(turn: Turn) -> str:
    job = turn.job()
    with turn.generate(job) as generation:
        return turn.checked(list(generation), job, turn.engine)


def repeats(turn: Turn) -> str:
    """A known job: with our kernels it has the same tokens each time, whatever proposes, alone or beside others."""
    world = turn.world
    number = turn.rng.randrange(N_KNOWN)
    job = world.known[number]
    first = world.texts.get(number)
    if not turn.round.is_exact:
        with turn.generate(job) as generation:
            return turn.checked(list(generation), job, turn.engine)
    if first is None:
        with turn.generate(job, draft=False) as generation:
            results = list(generation)
        reason = turn.checked(results, job, turn.engine)
        with world.lock:
            first = world.texts.setdefault(number, results)
    else:
        known = [*job.prompt, *(result.token for result in first if result.token >= 0)]
        with turn.generate(job, known) as generation:
            results = list(generation)
        reason = turn.checked(results, job, turn.engine)
        with world.lock:
            world.n_compared += 1
    assert outline(results) == outline(first), f"known job {number} differs:\n{outline(results)}\n{outline(first)}"
    return f"same, {reason}"


def takes_turns(turn: Turn) -> str:
    """Several generations, read in turn."""
    jobs = [turn.job() for _ in range(turn.rng.randint(2, 6))]
    texts: list[list[TokenResult]] = [[] for _ in jobs]
    with contextlib.ExitStack() as opened:
        left = [(i, opened.enter_context(turn.generate(job))) for i, job in enumerate(jobs)]
        while left:
            i, generation = turn.rng.choice(left)
            result = next(generation, None)
            if result is None:
                left.remove((i, generation))
            else:
                texts[i].append(result)
    for job, results in zip(jobs, texts, strict=True):
        turn.checked(results, job, turn.engine)
    return "all ended"


def generates_async(turn: Turn) -> str:
    """Some generations in an event loop; some of their tasks are cancelled, some give up early."""

    async def one(job: Job, settings: dict[str, Any], ending: str, n: int) -> str:
        generation = turn.engine.generate_async(job.prompt, job.params, **settings)
        results = []
        async with contextlib.aclosing(generation):
            async for result in generation:
                results.append(result)
                if ending == "leave" and len(results) == n:
                    return "left"
                if ending == "cancel" and len(results) == n:
                    generation.cancel()
        return turn.checked(results, job, turn.engine, cut=ending == "cancel")

    async def all_of_them() -> list[Any]:
        tasks = []
        for _ in range(turn.rng.randint(1, 4)):
            job = turn.job()
            ending = turn.rng.choice(["whole", "whole", "leave", "cancel", "late"])
            task = asyncio.create_task(one(job, turn.settings(job), ending, turn.rng.randint(1, 9)))
            if ending == "late":
                asyncio.get_running_loop().call_later(turn.rng.random() * 0.3, task.cancel)
            tasks.append(task)
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = asyncio.run(all_of_them())
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome
    return "ended or cancelled"


def cancels(turn: Turn) -> str:
    """After some tokens, from this thread or from another."""
    job = turn.job()
    n = turn.rng.randint(0, 12)
    results = []
    with turn.generate(job) as generation:
        timer = threading.Timer(turn.rng.random() * 0.2, generation.cancel)
        if turn.rng.random() < 0.5:
            timer.start()
        while len(results) < n and (result := next(generation, None)) is not None:
            results.append(result)
        generation.cancel()
        results += generation
        generation.cancel()
        if timer.ident is not None:
            timer.join()
        assert list(generation) == []
    return turn.checked(results, job, turn.engine, cut=True)


def lets_others_cancel(turn: Turn) -> str:
    job = turn.job()
    with turn.generate(job) as generation:
        turn.round.under_way.append(generation)
        try:
            return turn.checked(list(generation), job, turn.engine, cut=True)
        finally:
            turn.round.under_way.remove(generation)


def cancels_another(turn: Turn) -> str:
    others = list(turn.round.under_way)
    if not others:
        return "none there"
    generation = turn.rng.choice(others)
    generation.cancel()
    return "cancelled"


def drops(turn: Turn) -> str:
    """Without closing, some of them part of a cycle that only the garbage collector finds."""
    for _ in range(turn.rng.randint(1, 5)):
        generation = turn.generate(turn.job())
        for _ in range(turn.rng.randint(0, 4)):
            next(generation, None)
        if turn.rng.random() < 0.4:
            generation.on_wait = lambda stats, itself=[generation]: None
        del generation
    if turn.rng.random() < 0.2:
        gc.collect()
    return "dropped"


def closes_early(turn: Turn) -> str:
    generation = turn.generate(turn.job())
    for _ in range(turn.rng.randint(0, 6)):
        next(generation, None)
    generation.close()
    generation.close()
    assert list(generation) == [] and generation.stats.n_gen >= 0
    return "closed"


def uses_the_standing_engine(turn: Turn) -> str:
    """It is open from the beginning to the end, and nobody cancels or closes it."""
    number = turn.rng.randrange(N_KNOWN)
    job, engine, first = turn.world.known[number], turn.world.standing, turn.world.texts.get(number)
    known = [*job.prompt, *(result.token for result in first or () if result.token >= 0)]
    with engine.generate(job.prompt, job.params, **turn.settings(job, known, engine)) as generation:
        results = list(generation)
    reason = turn.checked(results, job, engine)
    if first is not None:
        with turn.world.lock:
            turn.world.n_compared += 1
        assert outline(results) == outline(first), f"known job {number} differs:\n{outline(results)}\n{outline(first)}"
    return reason


# --- the engine as a whole -------------------------------------------------------------------------------------------


def cancels_the_context(turn: Turn) -> str:
    turn.round.n_cancels += 1
    turn.engine.context.cancel()
    return "cancelled"


def closes_the_engine(turn: Turn) -> str:
    turn.round.close()
    return "closed"


def looks(turn: Turn) -> str:
    engine = turn.engine
    assert engine.pass_us(turn.rng.randint(1, 64)) >= 0
    assert "\n" not in engine.note
    return "looked"


def opens_another_engine(turn: Turn) -> str:
    """On one of the models, or on one that is closed under it."""
    rng, world = turn.rng, turn.world
    job = world.known[rng.randrange(N_KNOWN)]
    model = world.models[rng.choice(["ours", "stock"])]
    state = rng.choice([None, world.folder / STATE_NAME])
    with Engine(model, n_ctx=N_CTX_LEAST, n_threads=1, state=state, masks=rng.choice(["none", "soft"])) as engine:
        generation = engine.generate(job.prompt, job.params, **turn.settings(job, engine=engine))
        results = list(generation)
    return turn.checked(results, job, engine)


def opens_the_model_again(turn: Turn) -> str:
    rng, world = turn.rng, turn.world
    ending = rng.choice(["cancelled", "fails", "used", "used", "closed first"])

    def progress(fraction: float) -> bool:
        if ending == "fails":
            raise Planned("progress")
        return ending != "cancelled"

    try:
        model = Model(world.path, n_threads=1, kernels=rng.choice(["ours", "stock"]), progress=progress)
    except (Cancelled, Planned) as error:
        assert isinstance(error, Cancelled) == (ending == "cancelled")
        return ending
    assert ending in ("used", "closed first")
    job = world.known[rng.randrange(N_KNOWN)]
    with Engine(model, n_ctx=N_CTX_LEAST, n_threads=1) as engine:
        generation = engine.generate(job.prompt, job.params, max_tokens=8)
        next(generation, None)
        if ending == "closed first":
            model.close()
        assert generation.stats.n_gen >= 0
        list(generation)
    model.close()
    return ending

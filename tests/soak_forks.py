"""A forked child of the soak: whatever of the parent's it uses or opens anew, it gets a StateError at once."""

import os
import signal
from collections.abc import Callable
from typing import Any

from maskprobe import Context, Engine, Generation, Model, Sampler, SamplingParams, Session, TokenTree
from soak_world import Turn

ALARM_S = 30  # after which a child that hangs is killed


def uses(turn: Turn, of_parent: Generation) -> dict[str, Callable[[], Any]]:
    """What the child may try, by name."""
    engine, standing, model, prompt = turn.engine, turn.world.standing, turn.world.model, [1, 2, 3]
    return {
        "reads a generation": lambda: next(of_parent),
        "generates": lambda: next(standing.generate(prompt)),
        "generates with a busy engine": lambda: next(engine.generate(prompt)),
        "opens an engine": lambda: Engine(model, n_ctx=256),
        "opens a context": lambda: Context(model, n_ctx=256),
        "opens a session": lambda: Session(model, n_ctx=256).decode(TokenTree(1)),
        "opens a session in a context": lambda: standing.context.session(),
        "opens the model": lambda: Model(turn.world.path),
        "opens a sampler": lambda: Sampler(model, SamplingParams()).prime(prompt),
        "asks for times": lambda: standing.pass_us(1),
    }


def forks(turn: Turn) -> str:
    if not turn.world.may_fork:
        return "switched off"
    with turn.world.standing.generate([1, 2, 3], max_tokens=1) as of_parent:
        tries = uses(turn, of_parent)
        what = turn.rng.choice(list(tries))
        turn.doing = f"a forked child {what}"
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            _end_child(tries[what], writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as answer:
            said = answer.read().decode()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status != -signal.SIGALRM, f"a forked child that {what} hung"
    assert status == 0, f"a forked child that {what} ended with {status}"
    assert said.startswith("StateError: ") and "\n" not in said, f"a forked child that {what} got {said}"
    return f"{what}, StateError"


def _end_child(use: Callable[[], Any], writing: int) -> None:
    """Only this thread is there. Nothing of the interpreter's end may run."""
    signal.alarm(ALARM_S)
    try:
        use()
        said = "no error"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    os.write(writing, said.encode()[:4000])
    os._exit(0)

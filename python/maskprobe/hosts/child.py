"""The child: a process with a model and an engine, which does what its parent says, and ends with it."""

import contextlib
import functools
import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..engine import Engine
from ..errors import Error, StateError
from ..generation import Generation, Stats
from ..model import Model, set_verbose
from ..sampler import SamplingParams
from .keep_alive import keep_connections_alive
from .messages import (
    WINDOW,
    Allow,
    Answer,
    Cancel,
    Channel,
    Close,
    Do,
    Ended,
    Generate,
    LoadedModel,
    Loading,
    OpenedEngine,
    Part,
    Refill,
    counts_of,
    portable,
)

TICK_S = 2.0  # between two looks after the parent and connections
CLOSE_S = 5.0  # for the engine to write what it learned
TELL_S = 0.1  # between two words on how far a prompt is
KEPT_RULES = 32


def main(descriptor: int, parent: int) -> None:
    """`descriptor`: this end of the pair of sockets. `parent`: the process that started this one."""
    os.set_inheritable(descriptor, False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # of all the weights
    channel = Channel(descriptor)
    service = Service(channel)
    next_look = time.monotonic() + TICK_S
    with contextlib.suppress(EOFError, OSError):
        while not isinstance(message := channel.receive(TICK_S), Close):
            if message is not None:
                service.take(message)
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + TICK_S
                if os.getppid() != parent:  # a process that it forked may still hold its end of the pair
                    break
                keep_connections_alive()
    limit = threading.Timer(CLOSE_S, os._exit, (1,))
    limit.daemon = True
    limit.start()
    service.close()
    os._exit(0)  # threads may be inside the core


class Running:
    """A generation whose results go to the parent."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.window = threading.Semaphore(WINDOW - 1)  # the next result goes before it is asked

    def cancel(self) -> None:
        self.generation.cancel()
        self.window.release(WINDOW)  # its last result is to come out


class Service:
    """What the parent has here. take() returns at once: calls and generations have threads of their own."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._model: Model | None = None
        self._engine: Engine | None = None
        self._changed = threading.Condition()  # for what follows
        self._opening: dict[int, bool] = {}  # generations, and whether they were given up meanwhile
        self._running: dict[int, Running] = {}
        self._refilling: Generation | None = None
        self._rules_of = functools.lru_cache(KEPT_RULES)(self._compiled)

    def take(self, message: Any) -> None:
        if isinstance(message, Allow):
            if (running := self._running.get(message.id)) is not None:
                running.window.release(message.n)
        elif isinstance(message, Cancel):
            self._cancel(message.id)
        elif isinstance(message, Generate):
            self._opening[message.id] = False
            self._in_thread(self._generate, message)
        elif isinstance(message, Refill):
            self._in_thread(self._refill, message.texts)
        else:
            self._in_thread(self._do, message)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    # --- calls --------------------------------------------------------------------------------------------------------

    def load(self, id: int, path: Path, options: dict[str, Any], verbose: bool) -> LoadedModel:
        set_verbose(verbose)
        told = -1

        def progress(fraction: float) -> None:
            nonlocal told
            if int(100 * fraction) > told:
                told = int(100 * fraction)
                self._channel.send(Loading(id, fraction))

        model = self._model = Model(path, progress=progress, **options)
        return LoadedModel(model.info, (model.identity, model.heads_path))

    def open_engine(self, _id: int, options: dict[str, Any]) -> OpenedEngine:
        engine = self._engine = Engine(self._loaded(), **options)
        at = engine.context
        return OpenedEngine(
            at.n_ctx, at.n_threads, at.max_chain, at.n_rows_max, at.n_top_max, at.n_sessions_max, engine.note
        )

    def close_engine(self, _id: int) -> str:
        """The engine's last note."""
        engine, self._engine = self._opened(), None
        note = engine.note
        engine.close()
        return note

    def embed(self, _id: int, tokens: Any) -> Any:
        return self._opened().embed(tokens)

    def pass_us(self, _id: int, n_rows: int) -> float:
        return self._opened().pass_us(n_rows)

    def note(self, _id: int) -> str:
        return self._opened().note

    def _do(self, message: Do) -> None:
        try:
            answer = Answer(message.id, ACTIONS[message.action](self, message.id, *message.arguments))
        except BaseException as error:
            answer = Answer(message.id, None, portable(error))
        self._channel.send(answer)

    # --- generations --------------------------------------------------------------------------------------------------

    def _generate(self, message: Generate) -> None:
        id = message.id
        try:
            rules = None if message.rules is None else self._rules_of(*message.rules).constraint()
            generation = self._opened().generate(
                message.tokens,
                message.sampling,
                constraint=rules,
                **message.settings,
            )
        except BaseException as error:
            with self._changed:
                del self._opening[id]
                self._changed.notify_all()
            self._channel.send(Answer(id, None, portable(error)))
            return
        with self._changed:
            running = self._running[id] = Running(generation)
            if self._opening.pop(id):
                running.cancel()
            if self._refilling is not None:
                self._refilling.cancel()
        self._channel.send(Answer(id))
        try:
            self._send_results(id, running)
        except Exception as error:
            self._channel.send(Ended(id, portable(error)))
        finally:
            with self._changed:
                del self._running[id]
                self._changed.notify_all()

    def _send_results(self, id: int, running: Running) -> None:
        generation = running.generation
        told_at, told_pass = time.monotonic(), 0

        def tell(stats: Stats) -> None:
            nonlocal told_at
            if time.monotonic() > told_at + TELL_S:
                told_at = time.monotonic()
                self._channel.send(Part(id, None, counts_of(stats)))

        generation.on_wait = tell
        for result in generation:
            draft = generation.newest_draft()
            if draft is not None and draft.n_pass == told_pass:
                draft = None
            elif draft is not None:
                told_pass = draft.n_pass
            self._channel.send(Part(id, result, counts_of(generation.stats), draft))
            if result.finish_reason is None:
                running.window.acquire()

    def _cancel(self, id: int) -> None:
        with self._changed:
            if id in self._opening:
                self._opening[id] = True
            elif (running := self._running.get(id)) is not None:
                running.cancel()

    def _refill(self, texts: list[Any]) -> None:
        """One after another, and only while nobody generates: a generation that comes stops it, and it goes on later
        with what was not evaluated yet."""
        greedy = SamplingParams(temp=0.0)
        with contextlib.suppress(Error):  # it is of use, but nobody waits for it
            for text in texts:
                is_done = False
                while not is_done:
                    with self._changed:
                        self._changed.wait_for(lambda: not self._running and not self._opening)
                        generation = self._opened().generate(text, greedy, max_tokens=1, draft=False)
                        self._refilling = generation
                    with generation:
                        is_done = [result.finish_reason for result in generation][-1] != "cancelled"
                    with self._changed:
                        self._refilling = None

    def _compiled(self, what: str, grammar: str) -> Any:
        from ..structured import Rules  # only where wanted: what compiles them takes a while to import

        return Rules(self._loaded(), what, lambda: grammar)

    def _loaded(self) -> Model:
        if self._model is None:
            raise StateError("no model is loaded")
        return self._model

    def _opened(self) -> Engine:
        engine = self._engine
        if engine is None:
            raise StateError("the engine is closed")
        return engine

    def _in_thread(self, work: Callable[..., None], *arguments: Any) -> None:
        def run() -> None:
            with contextlib.suppress(OSError):  # the parent has gone
                work(*arguments)

        threading.Thread(target=run, daemon=True).start()


ACTIONS: dict[str, Callable[..., Any]] = {
    call.__name__: call
    for call in (
        Service.load,
        Service.open_engine,
        Service.close_engine,
        Service.embed,
        Service.pass_us,
        Service.note,
    )
}

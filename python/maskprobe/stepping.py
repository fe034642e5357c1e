"""Who makes the next step of an engine: whoever waits for a token and finds none. The others wait for its result."""

import asyncio
import atexit
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ._capi import Handle, check, ffi, lib, wait_for_exit
from .errors import Error, StateError

IDLE_S = 0.1  # after so long without anybody waiting, the thread that steps for event loops ends

EXIT_S = 5.0  # longer than this a callback is not waited for when the interpreter ends

Result = TypeVar("Result")
Waiter = tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]

STEPPERS: weakref.WeakSet["Stepper"] = weakref.WeakSet()


class Stepper:
    """Makes the steps of one engine, one at a time, for threads and for event loops. cancel() stops a pass.

    `retired` takes what the core may still use until the step under way is over.
    """

    def __init__(self, engine: Handle, cancel: Callable[[], None]) -> None:
        self.retired: list[Any] = []
        self._engine = engine
        self._cancel = cancel
        self._opened: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._condition = threading.Condition()
        self._inside: int | None = None  # the thread that is in a step
        self._closed = False
        self._exiting = False  # the interpreter ends
        self._n_waiting = 0  # threads that wait for a token
        self._owes_step = False  # a call was made in place of a step, and no step since
        self._waiting: list[Waiter] = []
        self._server: threading.Thread | None = None  # steps while event loops wait
        self._n_active: Any = ffi.new("int32_t *")
        STEPPERS.add(self)

    def until(self, read: Callable[[], Result | None]) -> Result:
        """What read() gives, as soon as that is not None. read() is never called by two threads at once.

        Raises what read() raises, what a step raises, and StateError when the engine is closed."""
        self._engine.check_process()
        with self._unless_exiting():
            while (found := self._next(read)) is None:
                pass
            return found

    def _next(self, read: Callable[[], Result | None]) -> Result | None:
        """What read() gives, or a step."""
        with self._condition:
            if (found := self._attempt(read)) is not None:
                return found
            self._n_waiting += 1
        try:
            with self._condition:
                while self._inside is not None:
                    self._condition.wait()
                    if (found := self._attempt(read)) is not None:
                        return found
            try:
                self._step()
            except Error:  # which may have brought the result all the same
                with self._condition:
                    if (found := self._attempt(read)) is not None:
                        return found
                raise
            return None
        finally:
            with self._condition:
                self._n_waiting -= 1
                if self._owes_step:
                    self._condition.notify_all()

    async def until_async(self, read: Callable[[], Result | None]) -> Result:
        """The same for an event loop, which is never blocked by a step."""
        self._engine.check_process()
        loop = asyncio.get_running_loop()
        with self._unless_exiting():
            while True:
                with self._condition:
                    if (found := self._attempt(read)) is not None:
                        return found
                    if self._server is None:
                        server = threading.Thread(target=self._serve, name="maskprobe-step", daemon=True)
                        server.start()
                        self._server = server
                    future = loop.create_future()
                    self._waiting.append((loop, future))
                    self._condition.notify_all()
                await future

    @contextlib.contextmanager
    def _unless_exiting(self) -> Iterator[None]:
        """What fails because the interpreter ends does not come out of here, in a daemon thread."""
        try:
            yield
        except Error:
            if self._exiting:
                wait_for_exit()
            raise

    def between_steps(self, call: Callable[[Any], int]) -> None:
        """Calls a function of the core with the engine, while no step is under way."""
        self._engine.check_process()
        with self._condition:
            self._refuse_callback()
            while self._inside is not None:
                self._condition.wait()
            with self._engine as pointer:
                check(call(pointer))

    def in_place_of_a_step(self, call: Callable[[Any], int]) -> None:
        """Calls a function of the core that takes as long as a step, and while it says MP_AGAIN, makes steps. Where
        others wait for tokens, a step is made between two such calls.

        Raises what it fails with, what a step raises, and StateError when the engine is closed."""
        self._engine.check_process()
        while not self._called_in_place(call):
            self._step()

    def _called_in_place(self, call: Callable[[Any], int]) -> bool:
        """False: MP_AGAIN."""
        with self._condition:
            self._refuse_callback()
            self._condition.wait_for(lambda: self._closed or self._may_take_a_step())
            if self._closed:
                raise StateError("the engine is closed")
            self._inside = threading.get_ident()
        try:
            with self._engine as pointer:
                status = call(pointer)
                if status == lib.MP_AGAIN:
                    return False
                check(status)
                return True
        finally:
            with self._condition:
                self._inside = None
                self._owes_step = True
                self.retired.clear()
                self._condition.notify_all()

    def _may_take_a_step(self) -> bool:
        is_waited_for = self._n_waiting > 0 or len(self._waiting) > 0
        return self._inside is None and not (self._owes_step and is_waited_for)

    def close(self) -> None:
        """Ends all waiting, and what was opened. A step that is under way is stopped."""
        if self._engine.is_inherited:
            return
        with self._condition:
            self._refuse_callback()
            self._stop(None)
            for generation in list(self._opened):
                with contextlib.suppress(StateError):  # somebody is in its cancel() or stats: freed with the object
                    generation.close()
            self.retired.clear()

    def add(self, generation: Handle) -> None:
        """A generation was opened. Raises StateError where the engine was closed in between."""
        with self._condition:
            if self._closed:
                generation.close()
                raise StateError("the engine is closed")
            self._opened.add(generation)

    def stop_at_exit(self) -> None:
        """No step, and no callback in it, may be under way when the interpreter has ended: coming back into it would
        end the process."""
        if self._engine.is_inherited:
            return
        with self._condition:
            self._exiting = True
            self._stop(EXIT_S)

    def _stop(self, seconds: float | None) -> None:
        """No further steps; the one under way is waited for. The lock is held."""
        self._closed = True
        if self._inside is not None:
            self._cancel()
        self._wake(None)
        self._condition.wait_for(lambda: self._inside is None, seconds)

    def _attempt(self, read: Callable[[], Result | None]) -> Result | None:
        if self._closed:
            raise StateError("the engine is closed")
        self._refuse_callback()
        return read()

    def _refuse_callback(self) -> None:
        if self._inside == threading.get_ident():
            raise StateError("a callback must not call the engine that calls it", "busy")

    def _step(self, serves_loops: bool = False) -> None:
        """One step, unless another thread was faster. What a step for event loops raises goes to those who wait."""
        failure: BaseException | None = None
        with self._condition:
            if self._inside is not None or self._closed:
                return
            self._inside = threading.get_ident()
        try:
            with self._engine as pointer:
                check(lib.mp_engine_step(pointer, self._n_active))
        except BaseException as error:
            failure = error
            if not serves_loops:
                raise
        finally:
            with self._condition:
                self._inside = None
                self._owes_step = False
                self.retired.clear()
                self._wake(failure if serves_loops else None)

    def _serve(self) -> None:
        """Steps while event loops wait."""
        while True:
            with self._condition:
                if not self._waiting:
                    self._condition.wait(IDLE_S)
                if not self._waiting or self._closed:
                    self._server = None
                    return
                if self._inside is not None:
                    self._condition.wait()
                    continue
            self._step(serves_loops=True)

    def _wake(self, failure: BaseException | None) -> None:
        """Lets all who wait look again, or raise the failure. The lock is held."""
        self._condition.notify_all()
        waiting, self._waiting = self._waiting, []
        for loop, future in waiting:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                loop.call_soon_threadsafe(_resolve, future, failure)


def _resolve(future: asyncio.Future[None], failure: BaseException | None) -> None:
    if future.done():  # cancelled
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)


def _stop_all() -> None:
    for stepper in list(STEPPERS):
        stepper.stop_at_exit()


# Before the objects of the core are freed at exit: what is registered first is called last, and the first finalizer
# registers all of them.
weakref.finalize(Stepper, int)
atexit.register(_stop_all)

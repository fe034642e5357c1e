"""What came from a child for one call or generation, and who waits for it."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from .messages import FromChild

Result = TypeVar("Result")


class Inbox:
    """Messages for one reader at a time, a thread or a task of an event loop. What fails is told after them."""

    def __init__(self) -> None:
        self._messages: deque[FromChild] = deque()
        self._failure: BaseException | None = None
        self._condition = threading.Condition()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    def put(self, message: FromChild) -> None:
        with self._condition:
            self._messages.append(message)
            self._wake()

    def fail(self, error: BaseException) -> None:
        """No more comes. The first failure counts."""
        with self._condition:
            self._failure = self._failure or error
            self._wake()

    def take(self) -> FromChild | None:
        """The next message, None while there is none. Raises the failure where there will be none."""
        with self._condition:
            if self._messages:
                return self._messages.popleft()
            if self._failure is not None:
                raise self._failure
            return None

    def wait(self, seconds: float | None = None) -> None:
        """Returns when take() has something to say, or after so many seconds."""
        with self._condition:
            self._condition.wait_for(self._has_news, seconds)

    def until(self, read: Callable[[], Result | None]) -> Result:
        """What read() makes of the messages, as soon as that is not None."""
        while (found := read()) is None:
            self.wait()
        return found

    async def until_async(self, read: Callable[[], Result | None]) -> Result:
        """The same for an event loop."""
        loop = asyncio.get_running_loop()
        while (found := read()) is None:
            with self._condition:
                if self._has_news():
                    continue
                future = loop.create_future()
                self._waiting = loop, future
            await future
        return found

    def _has_news(self) -> bool:
        return bool(self._messages) or self._failure is not None

    def _wake(self) -> None:
        """The lock is held."""
        self._condition.notify_all()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            loop, future = waiting
            with contextlib.suppress(RuntimeError):  # its loop is closed
                loop.call_soon_threadsafe(_resolve, future)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():  # else it was cancelled
        future.set_result(None)

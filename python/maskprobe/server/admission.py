"""Whose turn it is: the engine gets a bounded number of generations, the rest wait here.

Among those that it has, the engine shares passes by tokens, so a client that has none there gets a place although the
bound is reached. Among those that wait, the client that has had fewest tokens is next, and each client's own in the
order in which they came.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from .errors import ApiError, busy

EXTRA = 64
MOST_IDLE = 1000  # clients that are remembered without a request


@dataclass(eq=False, slots=True)
class Client:
    """Who shares one turn: an API key or, without one, an address."""

    tokens: int = 0  # that it has had, on the scale of those it competes with
    n_running: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    @property
    def is_idle(self) -> bool:
        return self.n_running == 0 and not self.waiting


class Admission:
    """For one model: n_running generations are with the engine, and up to n_extra more, one for each client that would
    have none there; n_queue wait."""

    def __init__(self, n_running: int, n_queue: int, n_extra: int = EXTRA) -> None:
        self._n_running_max, self._n_queue, self._n_extra = n_running, n_queue, n_extra
        self._clients: dict[str, Client] = {}
        self.n_running = 0
        self.n_waiting = 0

    def check_room(self, n: int) -> None:
        """Raises ApiError where so many more find no room: 400 if they never could, else 429."""
        if n > self._n_running_max + self._n_queue:
            raise ApiError(
                400, f"{n} answers are wanted, {self._n_running_max + self._n_queue} can wait and run at most"
            )
        n_free = max(0, self._n_running_max - self.n_running)  # those beyond the bound take none of the queue
        if self.n_waiting + max(0, n - n_free) > self._n_queue:
            raise busy(
                f"{self.n_waiting} requests are waiting (--queue {self._n_queue})", status=429, code="queue_full"
            )

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[Client]:
        """Within the block the caller has a place with the engine; it adds the tokens that it gets to the client's."""
        client = self._client(name)
        is_first = client.is_idle and self._has_place(client)
        if not is_first:
            self.check_room(1)
        if is_first or (self.n_waiting == 0 and self._has_place(client)):
            self._admit(client)
        else:
            await self._wait(client)
        try:
            yield client
        finally:
            client.n_running -= 1
            self.n_running -= 1
            self._next()

    async def _wait(self, client: Client) -> None:
        future = asyncio.get_running_loop().create_future()
        client.waiting.append(future)
        self.n_waiting += 1
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():  # its turn had come
                client.n_running -= 1
                self.n_running -= 1
            elif future in client.waiting:
                client.waiting.remove(future)
                self.n_waiting -= 1
            self._next()
            raise

    def _client(self, name: str) -> Client:
        """A client that was idle begins with as many tokens as the poorest that is not: nobody saves up turns."""
        client = self._clients.setdefault(name, Client())
        if client.is_idle:
            busy_ones = [other.tokens for other in self._clients.values() if not other.is_idle]
            client.tokens = max(client.tokens, min(busy_ones, default=0))
            if len(self._clients) > MOST_IDLE:
                self._clients = {key: c for key, c in self._clients.items() if c is client or not c.is_idle}
        return client

    def _has_place(self, client: Client) -> bool:
        most = self._n_running_max + (self._n_extra if client.n_running == 0 else 0)
        return self.n_running < most

    def _admit(self, client: Client) -> None:
        client.n_running += 1
        self.n_running += 1

    def _next(self) -> None:
        while candidates := [c for c in self._clients.values() if c.waiting and self._has_place(c)]:
            poorest = min(candidates, key=lambda c: (c.tokens, c.n_running))  # of equals, who has less under way
            future = poorest.waiting.popleft()
            self.n_waiting -= 1
            if not future.cancelled():
                self._admit(poorest)
                future.set_result(None)

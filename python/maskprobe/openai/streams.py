"""Drives generations into answers: whole ones and iterators of chunks, for threads and for event loops."""

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

from ..generation import AsyncGeneration, Generation, Stats, TokenResult
from .results import Answer, Result


def collect(generation: Generation, answer: Answer) -> Stats:
    """Reads the generation to its end."""
    with generation:
        for result in generation:
            answer.add(result)
        return generation.stats


async def collect_async(
    generation: AsyncGeneration, answer: Answer, prepare: Callable[[], None] | None = None
) -> Stats:
    """The same for an event loop. `prepare` is called first, on another thread: what blocks, and the answer needs."""
    try:
        if prepare is not None:
            await asyncio.to_thread(prepare)
        async for result in generation:
            answer.add(result)
        return generation.stats
    finally:
        await generation.aclose()


Source = TypeVar("Source", Generation, AsyncGeneration)


class _Chunks(Generic[Source]):
    """Chunks that are ready, and whether more can come."""

    def __init__(self, generation: Source, answer: Answer) -> None:
        self._generation: Source = generation
        self._answer = answer
        self._ready: deque[Result] = deque()
        self._has_begun = self._has_ended = False

    def cancel(self) -> None:
        """Ends the generation after the pass that is under way, from any thread."""
        self._generation.cancel()

    @property
    def stats(self) -> Stats:
        """Counts and times so far."""
        return self._generation.stats

    def _begin(self) -> None:
        self._has_begun = True
        self._ready.extend(self._answer.begin())

    def _take(self, result: TokenResult | None) -> None:
        """Makes chunks of a token; None: it has ended."""
        if result is not None:
            self._ready.extend(self._answer.add(result))
            return
        self._has_ended = True
        self._ready.extend(self._answer.end(self._generation.stats))

    def _give_up(self) -> None:
        """The generation is closed."""
        self._has_begun = self._has_ended = True
        self._ready.clear()


class ChunkStream(_Chunks[Generation]):
    """The chunks of one answer. Giving it up, by close(), by leaving a `with` block or by dropping it, ends the
    generation within a pass; cancel() does so from any thread, and the last chunks then say so.

    Raises what Generation raises.
    """

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Result:
        try:
            if not self._has_begun:
                self._begin()
            while not self._ready:
                if self._has_ended:
                    raise StopIteration
                self._take(next(self._generation, None))
        except BaseException:
            self.close()
            raise
        return self._ready.popleft()

    def close(self) -> None:
        """Ends the generation if it is under way; closing twice is fine.

        Raises StateError ("busy") while another thread waits for a chunk, which it gets."""
        self._generation.close()
        self._give_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncChunkStream(_Chunks[AsyncGeneration]):
    """A ChunkStream for an event loop. Where the task that waits for a chunk is cancelled, the generation ends.

    `prepare` is called before the first chunk, on another thread: what blocks, and the answer needs."""

    def __init__(self, generation: AsyncGeneration, answer: Answer, prepare: Callable[[], None] | None = None) -> None:
        super().__init__(generation, answer)
        self._prepare = prepare

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        try:
            if not self._has_begun:
                if self._prepare is not None:
                    await asyncio.to_thread(self._prepare)
                self._begin()
            while not self._ready:
                if self._has_ended:
                    raise StopAsyncIteration
                self._take(await anext(self._generation, None))
        except BaseException:
            await self.aclose()
            raise
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Ends the generation if it is under way; closing twice is fine.

        Raises StateError ("busy") while another task waits for a chunk, which it gets."""
        await self._generation.aclose()
        self._give_up()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.aclose()

"""Drives generations into answers: whole ones and iterators of chunks, for threads and for event loops."""

from collections import deque
from types import TracebackType
from typing import Self

from ..generation import AsyncGeneration, Generation, Stats
from .results import Answer, Result


def collect(generation: Generation, answer: Answer) -> Stats:
    """Reads the generation to its end."""
    with generation:
        for result in generation:
            answer.add(result)
        return generation.stats


async def collect_async(generation: AsyncGeneration, answer: Answer) -> Stats:
    try:
        async for result in generation:
            answer.add(result)
        return generation.stats
    finally:
        await generation.aclose()


class _Chunks:
    """Chunks that are ready, and whether more can come."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._ready: deque[Result] = deque(answer.begin())
        self._has_ended = False

    def _end(self, stats: Stats) -> None:
        self._has_ended = True
        self._ready.extend(self._answer.end(stats))

    def _give_up(self) -> None:
        self._has_ended = True
        self._ready.clear()


class ChunkStream(_Chunks):
    """The chunks of one answer. Giving it up, by close(), by leaving a `with` block or by dropping it, ends the
    generation within a pass; cancel() does so from any thread, and the last chunks then say so.

    Raises what Generation raises.
    """

    def __init__(self, generation: Generation, answer: Answer) -> None:
        super().__init__(answer)
        self._generation = generation

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Result:
        try:
            while not self._ready:
                if self._has_ended:
                    raise StopIteration
                result = next(self._generation, None)
                if result is None:
                    self._end(self._generation.stats)
                else:
                    self._ready.extend(self._answer.add(result))
        except BaseException:
            self.close()
            raise
        return self._ready.popleft()

    def cancel(self) -> None:
        """Ends the generation after the pass that is under way, from any thread."""
        self._generation.cancel()

    @property
    def stats(self) -> Stats:
        """Counts and times so far."""
        return self._generation.stats

    def close(self) -> None:
        """Ends the generation if it is under way; closing twice is fine."""
        self._give_up()
        self._generation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncChunkStream(_Chunks):
    """A ChunkStream for an event loop. Where the task that waits for a chunk is cancelled, the generation ends."""

    def __init__(self, generation: AsyncGeneration, answer: Answer) -> None:
        super().__init__(answer)
        self._generation = generation

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        try:
            while not self._ready:
                if self._has_ended:
                    raise StopAsyncIteration
                result = await anext(self._generation, None)
                if result is None:
                    self._end(self._generation.stats)
                else:
                    self._ready.extend(self._answer.add(result))
        except BaseException:
            await self.aclose()
            raise
        return self._ready.popleft()

    def cancel(self) -> None:
        """Ends the generation after the pass that is under way, from any thread."""
        self._generation.cancel()

    @property
    def stats(self) -> Stats:
        """Counts and times so far."""
        return self._generation.stats

    async def aclose(self) -> None:
        """Ends the generation if it is under way; closing twice is fine."""
        self._give_up()
        await self._generation.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.aclose()

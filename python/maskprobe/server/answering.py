"""Answers of one or several generations, whole or as a stream, for as long as the client is there."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from ..openai.requests import Plan
from ..openai.results import Answer, ChatAnswer, CompletionAnswer, Result, evidence, usage
from .errors import LOG, ApiError, api_error
from .models import Entry, Loaded, in_thread
from .running import Run, Server, counts_of

Value = TypeVar("Value")
Pair = tuple[Run, Answer]


class ClientGone(Exception):
    """The client has closed its connection: nobody reads an answer."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Value]) -> Value:
    """What `work` gives. Where the client goes, work is cancelled. Raises ClientGone then."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, watcher = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for one in (task, watcher):
            one.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def together(work: Sequence[Awaitable[Value]]) -> list[Value]:
    """All results. The first failure ends the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def client_of(request: Request) -> str:
    """Who shares its turns with other requests: the same key, or else the same address."""
    key = request.scope.get("maskprobe.key")
    return f"key {key}" if key else f"address {request.client.host if request.client else ''}"


class Job:
    """A request that generates. `plan` makes the Plans on a thread, of the loaded model; each is answered `n` times."""

    def __init__(
        self,
        server: Server,
        entry: Entry,
        client: str,
        plan: Callable[[Loaded], Sequence[Plan]],
        shape: type[ChatAnswer] | type[CompletionAnswer],
        *,
        n: int = 1,
        include_usage: bool = False,
        wants_evidence: bool = False,
    ) -> None:
        self._server, self._entry, self._client = server, entry, client
        self._plan, self._shape, self._n = plan, shape, n
        self._include_usage, self._wants_evidence = include_usage, wants_evidence
        self._deadline = asyncio.get_running_loop().time() + server.settings.timeout_s
        self._started = time.perf_counter()
        self.load_s = 0.0  # until the model was there

    async def whole(self) -> tuple[Result, list[Run]]:
        """One dict with all choices."""
        async with self._open() as pairs:
            wholes = await together([self._collect(run, answer) for run, answer in pairs])
            result = wholes[0]
            result["choices"] = [choice for whole in wholes for choice in whole["choices"]]
            result["usage"] = self._usage(pairs)
            if self._wants_evidence:
                result["maskprobe"] = [
                    self._evidence(run, whole) for (run, _), whole in zip(pairs, wholes, strict=True)
                ]
            return result, [run for run, _ in pairs]

    async def stream(self) -> AsyncIterator[tuple[Result, Run]]:
        """The chunks of all choices, as they come. The generations never wait for who reads: what is not read yet lies
        here, at most as many chunks as the context has tokens."""
        chunks: asyncio.Queue[tuple[Result, Run] | BaseException | None] = asyncio.Queue()

        async def pump(run: Run, answer: Answer) -> None:
            try:
                ready = answer.begin()
                async with contextlib.aclosing(run.results()) as results:
                    async for result in results:
                        for chunk in [*ready, *answer.add(result)]:
                            chunks.put_nowait((self._marked(run, chunk), run))
                        ready = []
                for chunk in [*ready, *answer.end(run.stats)]:
                    chunks.put_nowait((self._marked(run, chunk), run))
                chunks.put_nowait(None)
            except Exception as error:
                chunks.put_nowait(error)

        async with self._open() as pairs:
            pumps = asyncio.ensure_future(together([pump(run, answer) for run, answer in pairs]))
            try:
                n_left = len(pairs)
                while n_left:
                    item = await chunks.get()
                    if isinstance(item, BaseException):
                        raise item
                    if item is None:
                        n_left -= 1
                    else:
                        yield item
                if self._include_usage:
                    run, answer = pairs[0]
                    last = Result({**answer._items(self._shape.chunk_object, None), "usage": self._usage(pairs)}, [])
                    yield last, run
            finally:
                pumps.cancel()
                await asyncio.gather(pumps, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[list[Pair]]:
        async with self._loaded() as loaded:
            self.load_s = time.perf_counter() - self._started
            plans = await in_thread(self._plan, loaded)
            if len(plans) * self._n > 1:
                self._entry.admission.check_room(len(plans) * self._n)
            scores = [await self._prompt_scores(loaded, plan) for plan in plans]
            id, created = f"{self._shape.id_prefix}-{uuid.uuid4().hex}", int(time.time())
            pairs: list[Pair] = []
            for plan, score in zip(plans, scores, strict=True):
                for i in range(self._n):
                    index = len(pairs)
                    own = plan.of_choice(i)
                    name = f"{id}-{index}" if index else id
                    run = Run(self._server, self._entry, loaded, own, self._client, self._deadline, name)
                    identity: dict[str, Any] = {"index": index, "id": id, "created": created}
                    pairs.append((run, self._shape(own, loaded.model, self._entry.name, **identity, **score)))
            yield pairs

    @contextlib.asynccontextmanager
    async def _loaded(self) -> AsyncIterator[Loaded]:
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(self._deadline):
                    loaded = await stack.enter_async_context(self._server.models.use(self._entry))
            except TimeoutError:
                raise ApiError(504, f"the model {self._entry.name} was not loaded in time", code="timeout") from None
            yield loaded

    async def _prompt_scores(self, loaded: Loaded, plan: Plan) -> dict[str, Any]:
        if not plan.scores_prompt:
            return {}
        return {"prompt_logprobs": await in_thread(loaded.by_hand.prompt_logprobs, plan.tokens, plan.n_top or 0)}

    async def _collect(self, run: Run, answer: Answer) -> Result:
        async with contextlib.aclosing(run.results()) as results:
            async for result in results:
                answer.add(result)
        return answer.whole(run.stats)

    def _usage(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """Of all choices; each prompt counts once."""
        total: dict[str, Any] = {}
        for i, (run, answer) in enumerate(pairs):
            one = usage(run.stats, answer.n_completion)
            if i % self._n:
                one["total_tokens"] -= one["prompt_tokens"]
                one["prompt_tokens"] = one["prompt_tokens_details"]["cached_tokens"] = 0
            total = _added(total, one)
        return total

    def _marked(self, run: Run, chunk: Result) -> Result:
        if self._include_usage:
            chunk["usage"] = None
        if self._wants_evidence:
            chunk["maskprobe"] = self._evidence(run, chunk)
        return chunk

    def _evidence(self, run: Run, result: Result) -> dict[str, Any]:
        told = {"tokens": evidence(result.tokens), "stats": counts_of(run.stats)}
        tree = run.new_tree()
        return told if tree is None else {**told, "tree": tree}


def _added(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _added(a.get(key, {}), value) if isinstance(value, dict) else a.get(key, 0) + value
        for key, value in b.items()
    }


class EventStream:
    """A response whose body comes piece by piece. Its head is sent with the first piece, so that what fails before has
    its own status code. A client that takes nothing for `patience_s` is given up."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        media_type: str,
        failed: Callable[[ApiError], bytes],
        patience_s: float,
    ) -> None:
        """`failed`: what is sent for an error after the first piece."""
        self._pieces, self._media_type, self._failed, self._patience_s = pieces, media_type, failed, patience_s
        self._has_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._send_all(send))
        except ClientGone:
            if not self._has_started:
                raise

    async def _send_all(self, send: Send) -> None:
        async with contextlib.aclosing(self._pieces) as pieces:  # type: ignore[type-var]
            piece = await anext(pieces, b"")
            self._has_started = True
            headers = [(b"content-type", self._media_type.encode()), (b"cache-control", b"no-cache")]
            await send(
                {"type": "http.response.start", "status": 200, "headers": [*headers, (b"x-accel-buffering", b"no")]}
            )
            try:
                while piece:
                    await self._send(send, {"type": "http.response.body", "body": piece, "more_body": True})
                    piece = await anext(pieces, b"")
            except (asyncio.CancelledError, ClientGone):
                raise
            except Exception as error:
                await self._send(
                    send, {"type": "http.response.body", "body": self._failed(api_error(error)), "more_body": True}
                )
            await self._send(send, {"type": "http.response.body", "body": b""})

    async def _send(self, send: Send, message: Message) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await send(message)
        except TimeoutError:
            LOG.info("a client took nothing for %g s: it is given up", self._patience_s)
            raise ClientGone from None

"""One generation of a request: waits for its turn, generates, is counted; ends at its deadline."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any

from ..generation import AsyncGeneration, Stats, TokenResult
from ..openai.requests import Plan
from .errors import ApiError, busy
from .models import Entry, Loaded, Models, in_thread
from .settings import Settings


class Server:
    """What all requests share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.models = Models(settings)
        self.running: dict[str, Run] = {}  # by id
        self.n_requests = 0  # under way, waiting ones too
        self.responses: dict[tuple[str, int], int] = {}  # (route, status) -> how many
        self.draining = False  # no new requests
        self.stopping = False  # what still runs is cut off

    def stop(self) -> None:
        """Ends all that runs."""
        self.stopping = True
        for run in list(self.running.values()):
            run.cancel()


class Run:
    """One generation. results() is to be gone through once."""

    def __init__(
        self, server: Server, entry: Entry, loaded: Loaded, plan: Plan, client: str, deadline: float, id: str
    ) -> None:
        """`client`: who shares its turns. `deadline`: by the event loop's clock. `id`: its name on the page."""
        self.id = id
        self.plan, self.stats, self.entry = plan, Stats(), entry
        self._server, self._loaded, self._client, self._deadline = server, loaded, client, deadline
        self._generation: AsyncGeneration | None = None
        self._started = time.perf_counter()
        self._told_pass = 0  # by new_tree()

    async def results(self) -> AsyncGenerator[TokenResult, None]:
        """Raises ApiError: 429 (queue), 503 (the server stops), 504 (no token before the deadline); what planning and
        generating raise. At the deadline it ends with what there is."""
        self._server.running[self.id] = self
        reason = "failed"
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._server.running.pop, self.id, None)
            try:
                async with asyncio.timeout_at(self._deadline):
                    client = await stack.enter_async_context(self.entry.admission.turn(self._client))
            except TimeoutError:
                raise self._too_late() from None
            generation = self._generation = await in_thread(self.plan.start_async, self._loaded.engine)
            self.stats = generation.stats  # which each token brings up to date
            if self._server.stopping:
                generation.cancel()
            timer = asyncio.get_running_loop().call_at(self._deadline, generation.cancel)
            try:
                async for result in generation:
                    if result.token >= 0 and result.n_gen == 1:
                        self.entry.metrics.first_token(time.perf_counter() - self._started)
                    client.tokens += result.token >= 0
                    if result.finish_reason == "cancelled":
                        if self._server.stopping:
                            raise busy("the server is shutting down")
                        if not self.stats.n_gen:
                            raise self._too_late()
                    reason = result.finish_reason or reason
                    yield result
            except (asyncio.CancelledError, GeneratorExit):  # the client has gone
                reason = "cancelled"
                raise
            finally:
                timer.cancel()
                await generation.aclose()
                self.entry.metrics.end(self.stats, reason)

    def cancel(self) -> None:
        if self._generation is not None:
            self._generation.cancel()

    def _too_late(self) -> ApiError:
        return ApiError(
            504, f"no token came within {self._server.settings.timeout_s:g} seconds (--timeout)", code="timeout"
        )

    def new_tree(self) -> dict[str, Any] | None:
        """The tree of the newest pass, parents before their children; None where it was told already. Passes are read
        after they were made, so it may be ahead of the tokens."""
        draft = None if self._generation is None else self._generation.newest_draft()
        if draft is None or draft.n_pass == self._told_pass:
            return None
        self._told_pass = draft.n_pass
        accepted = set(draft.path)
        last = draft.emitted[-1] if draft.emitted else None
        own = last is not None
        for i, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True)):
            if last is not None and (parent, token) == (draft.path[-1], last):  # guessed, and the end of the text
                accepted.add(i)
                own = False
        nodes = [
            {
                "parent": parent,
                "text": self._piece(token) if token >= 0 else "",
                "source": source,
                "accepted": i in accepted,
            }
            for i, (token, parent, source) in enumerate(zip(draft.tokens, draft.parents, draft.sources, strict=True))
        ]
        if last is not None and own:
            nodes.append({"parent": draft.path[-1], "text": self._piece(last), "source": "model", "accepted": True})
        return {"pass": draft.n_pass, "nodes": nodes}

    def counts(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "model": self.entry.name,
            "prompt_tokens": len(self.plan.tokens),
            **counts_of(self.stats),
        }

    def _piece(self, token: int) -> str:
        return self._loaded.model.token_bytes(token, special=True).decode("utf-8", errors="replace")


def counts_of(stats: Stats) -> dict[str, Any]:
    """Counts and times of a generation, for JSON."""
    return {
        "n_gen": stats.n_gen,
        "passes": stats.passes,
        "rows": stats.rows,
        "drafted": stats.n_drafted,
        "accepted": stats.n_accepted,
        "prompt_ms": stats.prompt_ms,
        "gen_ms": stats.gen_ms,
        "finish_reason": stats.finish_reason,
    }

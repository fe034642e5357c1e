"""Models by name: loaded at their first use, off the event loop, and unloaded when others need their memory."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import Error, ModelError, OutOfMemory, StateError
from ..hosts.opening import open_engine, open_model
from ..llama_by_hand import ByHand
from ..memory import refuse_what_does_not_fit
from ..openai.chat_prompts import ChatPrompts
from ..openai.requests import Planner, Seeds
from ..session import Session
from .admission import Admission
from .errors import LOG, ApiError, busy
from .metrics import ModelMetrics
from .settings import Settings

SEATS = 4  # generations with the engine for each that it decodes at a time: these share its passes by tokens
CLOSE_S = 60.0
MEMORY_FACTOR = 1.3  # of a file's size, for its cache and what is packed: an estimate

Result = TypeVar("Result")


_threads = ThreadPoolExecutor(16, "maskprobe-work")


async def in_thread(call: Callable[..., Result], *args: Any, **settings: Any) -> Result:
    """For what takes a while: long prompts, templates, schemas, loading."""
    return await asyncio.get_running_loop().run_in_executor(_threads, functools.partial(call, *args, **settings))


@contextmanager
def reloading(path: Path) -> Iterator[None]:
    """While a model that has a process of its own is loaded again."""
    started = time.perf_counter()
    LOG.info("the process of %s has ended: it is started again", path.name)
    yield
    LOG.info("loaded %s again in %.1f s", path.name, time.perf_counter() - started)


class Loaded:
    """A model with its engine."""

    def __init__(self, path: Path, settings: Settings) -> None:
        started = time.perf_counter()
        options = dict(settings.engine_options)
        wanted = {**options, "model_options": settings.model_options, "n_parallel": settings.n_parallel}
        refuse_what_does_not_fit(path, **wanted)
        self.model = open_model(path, reloading=lambda: reloading(path), **settings.model_options)
        try:
            self.engine = open_engine(self.model, n_parallel=settings.n_parallel, **options)
            self.n_ctx = self.engine.context.n_ctx
            self.planner = Planner(
                self.model,
                n_ctx=self.n_ctx,
                n_top_max=self.engine.context.n_top_max,
                n_rows_max=self.engine.context.n_rows_max,
                chat=ChatPrompts(self.model),
                seeds=Seeds(),
                draft=settings.draft,
            )
        except BaseException:
            self.model.close()
            raise
        shared = ("n_batch", "n_ubatch", "n_threads", "n_threads_batch", "type_k", "type_v", "flash_attn")
        cache = {name: options[name] for name in shared if name in options}
        self.by_hand = ByHand(functools.partial(Session, self.model, n_ctx=self.n_ctx, **cache))
        self.load_s = time.perf_counter() - started

    def close(self) -> None:
        """Work on a thread, for a client that has gone, may still be in one of them."""
        for close in (self.engine.close, self.by_hand.close, self.model.close):
            end = time.monotonic() + CLOSE_S
            while True:
                try:
                    close()
                    break
                except StateError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.02)


@dataclass(eq=False)
class Entry:
    """A model that requests may name."""

    name: str
    path: Path
    admission: Admission
    metrics: ModelMetrics = field(default_factory=ModelMetrics)
    loaded: Loaded | None = None
    leaving: bool = False  # it is unloaded as soon as nobody uses it
    n_users: int = 0
    used_at: float = 0.0
    keep_s: float | None = None  # without a user, None: until its memory is needed
    failure: str = ""  # of the last attempt to load it
    idle: asyncio.Event = field(default_factory=asyncio.Event)  # set when its last user leaves
    expiry: asyncio.TimerHandle | None = None  # the end of keep_s

    @property
    def state(self) -> str:
        return "leaving" if self.leaving else "loaded" if self.loaded else "failed" if self.failure else "unloaded"

    @property
    def bytes_needed(self) -> int:
        try:
            return int(self.path.stat().st_size * MEMORY_FACTOR)
        except OSError:
            return 0


class Models:
    """All models of a server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        n_running = SEATS * settings.n_parallel
        self.entries = {
            name: Entry(name, path, Admission(n_running, settings.n_queue)) for name, path in settings.models.items()
        }
        self._loading = asyncio.Lock()  # first come, first served
        self._background: set[asyncio.Task[Any]] = set()

    def find(self, name: str | None) -> Entry:
        """None and "" stand for the first. Ollama's clients put ":latest" after a name. Raises ApiError 404."""
        if not name:
            return next(iter(self.entries.values()))
        entry = self.entries.get(name) or self.entries.get(name.removesuffix(":latest"))
        if entry is None:
            known = ", ".join(self.entries)
            raise ApiError(
                404, f"there is no model {name[:100]!r} here: {known}", code="model_not_found", param="model"
            )
        return entry

    @asynccontextmanager
    async def use(self, entry: Entry) -> AsyncIterator[Loaded]:
        """The model, loaded, for as long as the block lasts. Raises ApiError 503 where that is not possible."""
        if entry.loaded is not None and not entry.leaving:
            entry.n_users += 1
            loaded = entry.loaded
        else:
            loading = self._spawn(self._load(entry))
            try:
                loaded = await asyncio.shield(loading)
            except asyncio.CancelledError:
                loading.add_done_callback(lambda done: self._leave_after(done, entry))
                raise
        try:
            yield loaded
        finally:
            self._leave_it(entry)

    async def close(self) -> None:
        """Unloads all."""
        async with self._loading:
            for entry in self.entries.values():
                if entry.loaded is not None:
                    await self._unload(entry)

    def _leave_after(self, loading: asyncio.Task[Loaded], entry: Entry) -> None:
        """Who had it loaded has gone meanwhile."""
        if not loading.cancelled() and loading.exception() is None:
            self._leave_it(entry)

    def _leave_it(self, entry: Entry) -> None:
        """A user has done with it."""
        entry.n_users -= 1
        entry.used_at = time.monotonic()
        if entry.expiry is not None:
            entry.expiry.cancel()
            entry.expiry = None
        if entry.n_users == 0:
            entry.idle.set()
            if entry.keep_s is not None and not entry.leaving:
                entry.expiry = asyncio.get_running_loop().call_later(entry.keep_s, self._expire, entry)

    async def _load(self, entry: Entry) -> Loaded:
        """The caller is a user of it at once: nobody can unload it before he has had his turn."""
        async with self._loading:
            if entry.loaded is not None:
                entry.leaving = False  # its time without a user was over, and here is one
                entry.n_users += 1
                return entry.loaded
            while not self._has_room(entry) and await self._evict_one(entry):
                pass  # what has the machine to itself is tried in any case
            try:
                entry.loaded = await self._loaded(entry)
            except Error as error:
                entry.failure = " ".join(str(error).split())
                code = "model_not_loadable" if isinstance(error, ModelError) else "out_of_memory"
                raise ApiError(
                    503, f"the model {entry.name} cannot be loaded: {entry.failure}", code=code, param="model"
                ) from None
            entry.n_users += 1
            entry.failure = ""
            entry.metrics.loads += 1
            LOG.info("loaded %s in %.1f s", entry.name, entry.loaded.load_s)
            if placement := entry.loaded.model.info.placement:
                LOG.info("%s: %s", entry.name, placement)
            return entry.loaded

    async def _loaded(self, entry: Entry) -> Loaded:
        """The estimate of its memory may have been too low: others make room as long as there are some."""
        while True:
            try:
                return await in_thread(Loaded, entry.path, self._settings)
            except OutOfMemory:
                if not await self._evict_one(entry):
                    raise

    async def _evict_one(self, entry: Entry) -> bool:
        """Unloads the model that was used least recently, as soon as it has no requests. False: there is none."""
        others = [other for other in self.entries.values() if other.loaded is not None]
        if not others:
            return False
        victim = min(others, key=lambda other: (other.n_users > 0, other.used_at))
        victim.leaving = True  # from now on its new requests wait for their turn to load it
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                while victim.n_users:
                    victim.idle.clear()
                    await victim.idle.wait()
        except TimeoutError:
            victim.leaving = False
            raise busy(f"there is no memory for {entry.name} while {victim.name} has requests", 10) from None
        await self._unload(victim)
        victim.metrics.evictions += 1
        return True

    def _has_room(self, entry: Entry) -> bool:
        n_loaded = sum(other.loaded is not None for other in self.entries.values())
        if self._settings.models_max and n_loaded >= self._settings.models_max:
            return False
        available = available_memory()
        return available is None or entry.bytes_needed <= available

    async def _unload(self, entry: Entry) -> None:
        loaded, entry.loaded = entry.loaded, None
        entry.leaving = False
        if loaded is not None:
            await in_thread(loaded.close)
            LOG.info("unloaded %s", entry.name)

    def _expire(self, entry: Entry) -> None:
        if entry.loaded is not None and entry.n_users == 0:
            entry.leaving = True
            self._spawn(self._leave(entry))

    async def _leave(self, entry: Entry) -> None:
        async with self._loading:
            if entry.leaving and entry.n_users == 0:
                await self._unload(entry)

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # the waiter has it, if there is one
        return task


def available_memory() -> int | None:
    """Bytes, None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None

"""Generation: the tokens of one prompt as an iterator, for threads and for event loops."""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np

from ._capi import Bridge, Handle, Owner, check, ffi, lib, text
from .errors import StateError
from .stepping import Stepper

GUESSED_BY = {source: text(lib.mp_source_name(source)) for source in range(lib.MP_BY_MODEL, lib.MP_N_SOURCES)}
Result = TypeVar("Result")
FINISH_REASONS = (None, "stop", "length", "context", "constraint", "cancelled")  # by mp_finish


class TokenResult(NamedTuple):
    """One emitted token."""

    text: str  # new text, "" while a UTF-8 character or a possible stop string is incomplete
    token: int  # -1 in a last result without a token
    logprob: float  # of the token in the model's own distribution, before the sampler
    from_draft: bool  # the token was an accepted candidate
    source: str  # what guessed it; "model" where nothing did
    margin: float  # log-probability gap of the model's two best tokens at this place
    top: list[tuple[int, float]]  # the most likely tokens with their log-probabilities, as many as were wanted
    n_gen: int  # tokens emitted so far
    prompt_tps: float  # prompt tokens evaluated per second
    generation_tps: float  # tokens emitted per second
    # None until the last: "stop" (an end token, a stop string), "length" (max_tokens), "context" (it is full),
    # "constraint" (it allows no token), "cancelled"
    finish_reason: str | None
    # float32 (n_embd,): the model's state after its last norm that the token was drawn from, where it was wanted; of an
    # engine with layers (n_layers + 1, n_embd), with theirs before it
    hidden: np.ndarray | None = None


@dataclass(slots=True)
class Stats:
    """Counts and times of one generation so far. n_prompt_reused prompt tokens were in the cache already, n_prompt_done
    are now. The first token comes with the prompt, the others with the passes."""

    n_prompt: int = 0
    n_prompt_reused: int = 0
    n_prompt_done: int = 0
    n_gen: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    passes: int = 0
    rows: int = 0  # of its own, in these passes
    accept_hist: list[int] = field(default_factory=list)  # [d]: passes that accepted d candidates
    accepted_by: Counter[str] = field(default_factory=Counter)  # accepted candidates by what guessed them
    prompt_ms: float = 0.0  # of the steps until the first token
    gen_ms: float = 0.0  # of the steps after it
    decode_ms: float = 0.0  # of gen_ms, inside llama_decode
    tokens: list[int] = field(default_factory=list)  # emitted
    finish_reason: str | None = None

    @property
    def engine_ms(self) -> float:
        """Of gen_ms, all but llama_decode."""
        return self.gen_ms - self.decode_ms

    @property
    def tokens_per_pass(self) -> float:
        """1 is plain decoding."""
        return (self.n_gen - 1) / self.passes if self.passes else 0.0

    @property
    def rows_per_pass(self) -> float:
        return self.rows / self.passes if self.passes else 0.0

    @property
    def prompt_tps(self) -> float:
        """Prompt tokens evaluated per second."""
        return 1000.0 * (self.n_prompt - self.n_prompt_reused) / self.prompt_ms if self.prompt_ms > 0.0 else 0.0

    @property
    def gen_tps(self) -> float:
        """Tokens of the passes per second."""
        return 1000.0 * (self.n_gen - 1) / self.gen_ms if self.gen_ms > 0.0 and self.n_gen else 0.0


class Draft(NamedTuple):
    """The tree of a pass, and what became of it."""

    n_pass: int  # counts from 1
    tokens: list[int]  # of the nodes; node 0 is the root, -1 an embedding row
    parents: list[int]  # of the nodes, each before its children; -1: the root's
    sources: list[str]  # what guessed the nodes
    path: list[int]  # the nodes from the root on that were accepted
    emitted: list[int]  # the token after each node of the path


class Results(Protocol):
    """Waits for what read() gives, until that is not None, for a thread or for an event loop."""

    def until(self, read: Callable[[], Result | None]) -> Result: ...

    async def until_async(self, read: Callable[[], Result | None]) -> Result: ...


class Generation(Owner):
    """The tokens that follow one prompt, one TokenResult each. The last has the finish reason; where the generation
    ends without another token, its `token` is -1.

    One thread at a time waits for a token: a second one gets a StateError ("busy"), and the first goes on. cancel() and
    `stats` may come from any thread, and from a callback of the generation. Giving it up, by close(), by leaving a
    `with` block or by dropping it, ends the generation. Closing its engine ends it too; closing its model does not.

    Raises DecodeError, Cancelled (Context.cancel() on its context, in the thread whose step it stopped), StateError
    (the engine is closed; a second thread; a forked child), and what a proposer or a constraint raised.
    """

    def __init__(self, stepper: Stepper, pointer: Any, bridges: Sequence[Bridge], n_embd: int) -> None:
        self._n_embd = n_embd
        self._bridges = bridges
        self._token: Any = ffi.new("mp_token *")
        self._counts: Any = ffi.new("mp_stats *")
        self._n_run = 0  # accepted candidates since the last token that was none

        def free(pointer: Any) -> None:
            lib.mp_generation_free(pointer)
            stepper.retired.append(bridges)  # a step under way may still be in one of them
            for bridge in bridges:
                bridge.release()

        self._begin(stepper, Handle.of(pointer, free, "generation"))
        stepper.add(self._handle)

    def _begin(self, results: Results, handle: Handle) -> None:
        self._results = results
        self._handle = handle
        self._stats = Stats()
        self._draft: Draft | None = None  # the last one, when it has ended
        self._ended = False
        self._reading = threading.Lock()  # held while a token is waited for
        # Called by the thread that waits for a token, before each step that it waits for.
        self.on_wait: Callable[[Stats], None] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TokenResult:
        with self._one_at_a_time():
            if self._ended:
                raise StopIteration
            return self._results.until(self._read)

    def cancel(self) -> None:
        """Ends the generation after the pass that is under way, from any thread: its last result has the finish reason
        "cancelled". Nothing happens if it has ended."""
        try:
            with self._handle as pointer:
                lib.mp_generation_cancel(pointer)
        except StateError:
            pass

    @property
    def stats(self) -> Stats:
        """Counts and times so far, brought up to date with each look; they stay when it is closed."""
        self._count()
        return self._stats

    def newest_draft(self) -> Draft | None:
        """The tree of the newest pass, whose tokens may not have been read yet; None before there was one.

        Raises StateError ("busy") while a second thread reads."""
        if self._handle.closed:
            return self._draft
        found = ffi.new("mp_drafted *")
        with self._handle as pointer:
            check(lib.mp_generation_get_draft(pointer, found))
            n, n_path = found.n_nodes, found.n_path
            if found.n_pass == 0:
                return None
            return Draft(
                found.n_pass,
                ffi.unpack(found.tokens, n),
                ffi.unpack(found.parents, n),
                [GUESSED_BY[source] for source in ffi.unpack(found.sources, n)],
                ffi.unpack(found.path, n_path) if n_path else [],  # nothing could be drawn: no pointer
                ffi.unpack(found.emitted, n_path) if n_path else [],
            )

    def close(self) -> None:
        """Ends the generation if it is under way, and frees it; closing twice is fine.

        Raises StateError ("busy") while a token is waited for, by another thread or by the one that called the callback
        which this comes from: there, cancel() ends it."""
        if self._handle.is_inherited:
            self._end()
            return
        with self._one_at_a_time():
            self._end()

    def _end(self) -> None:
        self._count()
        with contextlib.suppress(StateError):  # it is closed, or a forked child's
            self._draft = self.newest_draft()
        self._ended = True
        with contextlib.suppress(StateError):  # somebody is in cancel() or stats: freed with the object
            self._handle.close()

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Lets one thread wait for a token or close."""
        self._handle.check_process()
        if not self._reading.acquire(blocking=False):
            raise StateError("a token of this generation is being waited for already: one thread at a time", "busy")
        try:
            yield
        finally:
            self._reading.release()

    def _read(self) -> TokenResult | None:
        """The next token; None while there is none. The last one closes the generation."""
        found = self._token
        try:
            with self._handle as pointer:
                status = lib.mp_generation_next(pointer, found)
                if status == lib.MP_AGAIN:
                    if self.on_wait is not None:
                        self.on_wait(self.stats)
                    return None
                check(status)
        except BaseException as error:
            self._end()
            for bridge in self._bridges:
                if bridge.failure is not None:
                    raise bridge.failure from None
            raise error
        self._note(found)
        result = TokenResult(
            text=ffi.unpack(found.text, found.n_text).decode("utf-8") if found.n_text else "",
            token=found.id,
            logprob=found.logprob,
            from_draft=found.source != lib.MP_BY_MODEL,
            source=GUESSED_BY[found.source],
            margin=found.margin,
            top=[(found.top_tokens[i], found.top_logprobs[i]) for i in range(found.n_top)],
            n_gen=len(self._stats.tokens),
            prompt_tps=self._stats.prompt_tps,
            generation_tps=self._stats.gen_tps,
            finish_reason=self._stats.finish_reason,
            hidden=self._hidden(found),
        )
        if result.finish_reason is not None:
            self._end()
        return result

    def _hidden(self, found: Any) -> np.ndarray | None:
        if found.hidden == ffi.NULL:
            return None
        states = np.frombuffer(ffi.buffer(found.hidden, found.n_hidden * np.float32().itemsize), np.float32).copy()
        return states if len(states) == self._n_embd else states.reshape(-1, self._n_embd)

    def _note(self, found: Any) -> None:
        """Counts an emitted token. A pass accepts some candidates and adds a token of the model's own."""
        self._count()
        stats = self._stats
        stats.finish_reason = FINISH_REASONS[found.finish]
        is_candidate = found.id >= 0 and found.source != lib.MP_BY_MODEL
        if found.id >= 0:
            stats.tokens.append(found.id)
        if is_candidate:
            self._n_run += 1
            stats.accepted_by[GUESSED_BY[found.source]] += 1
        is_own = found.id >= 0 and not is_candidate and len(stats.tokens) > 1
        if is_own or (stats.finish_reason is not None and self._n_run > 0):  # the last pass may be cut short
            stats.accept_hist.extend([0] * (self._n_run + 1 - len(stats.accept_hist)))
            stats.accept_hist[self._n_run] += 1
            self._n_run = 0

    def _count(self) -> None:
        """Brings the counts up to date, as long as the core has them."""
        counts, stats = self._counts, self._stats
        try:
            with self._handle as pointer:
                check(lib.mp_generation_get_stats(pointer, counts))
        except StateError:  # it is closed, or this is a forked child
            return
        stats.n_prompt, stats.n_prompt_reused = counts.n_prompt, counts.n_prompt_reused
        stats.n_prompt_done = counts.n_prompt_done
        stats.n_gen, stats.n_drafted, stats.n_accepted = counts.n_gen, counts.n_drafted, counts.n_accepted
        stats.passes, stats.rows = counts.n_passes, counts.n_rows
        stats.prompt_ms, stats.gen_ms = counts.prompt_us / 1000, counts.gen_us / 1000
        stats.decode_ms = counts.decode_us / 1000


class AsyncGeneration:
    """A Generation for an event loop: an async iterator of the same results. Where the task that waits for a token is
    cancelled, the generation ends."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenResult:
        generation = self._generation
        with generation._one_at_a_time():
            if generation._ended:
                raise StopAsyncIteration
            try:
                return await generation._results.until_async(generation._read)
            except asyncio.CancelledError:
                generation._end()
                raise

    def cancel(self) -> None:
        """Ends the generation after the pass that is under way, from any thread."""
        self._generation.cancel()

    @property
    def stats(self) -> Stats:
        return self._generation.stats

    def newest_draft(self) -> Draft | None:
        """The tree of the newest pass; None before there was one."""
        return self._generation.newest_draft()

    async def aclose(self) -> None:
        """Ends the generation if it is under way, and frees it; closing twice is fine."""
        self._generation.close()

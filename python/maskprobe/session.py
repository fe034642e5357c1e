"""Context and Session: a KV cache over a model, the sequences in it, and the passes that run over them."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ._capi import NULL, Handle, Owner, c_string, check, ffi, fill, lib, shown, text, token_array
from .errors import ArgumentError, StateError
from .model import Model
from .tree import TokenTree


class Pass(NamedTuple):
    """The outputs of one pass. Node i is row i, mask j is row n_nodes + j.

    The arrays are views into buffers of the session: its next decode overwrites them.
    """

    n_rows: int
    n_top: int
    best: np.ndarray  # int32 (n_rows,), the most likely token, the lowest id among equals; -1: the row is not finite
    top_tokens: np.ndarray  # int32 (n_rows, n_top), most likely first; undefined where the row is not finite
    top_logprobs: np.ndarray  # float32 (n_rows, n_top), natural logarithms
    decode_us: int  # inside llama_decode, of the whole pass
    engine_us: int  # all else inside the core's call


@dataclass(frozen=True, slots=True)
class Prefix:
    """What came of setting a prefix. Row i is the output after the prefix's token n - n_rows + i."""

    n_reused: int  # tokens that the cache held already
    top_tokens: np.ndarray  # int32 (n_rows, n_top), most likely first
    top_logprobs: np.ndarray  # float32 (n_rows, n_top), natural logarithms


@dataclass(frozen=True, slots=True)
class Part:
    """What maskprobe's kernels have cost in one kind of work."""

    n_ops: int
    ns: int  # nanoseconds of the calling thread
    bytes: int  # of packed weights, or of keys and values, that the operations went through
    macs: int  # multiplications with accumulation

    def __sub__(self, before: "Part") -> "Part":
        """What came after `before`."""
        return Part(self.n_ops - before.n_ops, self.ns - before.ns, self.bytes - before.bytes, self.macs - before.macs)


def c_params(*, type_k: str = "f16", type_v: str = "f16", **settings: Any) -> tuple[Any, Any]:
    """A Context's settings as mp_context_params, and what must live as long as C reads them. Raises ArgumentError."""
    params = ffi.new("mp_context_params *", lib.mp_context_default_params())
    types = [ffi.new("char[]", c_string(name, "a cache type")) for name in (type_k, type_v)]
    fill(params, type_k=types[0], type_v=types[1], **settings)
    return params, types


class Context(Owner):
    """A KV cache, threads and sequence ids for up to `n_sessions_max` sessions. One thread at a time in it and in all
    its sessions; only cancel() is free of that. Once it is closed, no session of it can be used any more; the cache is
    freed with the last of them.

    The settings are those of mp_context_params in maskprobe.h: n_ctx tokens of each session (0: the model's, reduced to
    what memory holds), n_rows_max rows of the largest pass, n_top_max candidates per row at most, threads (0: the
    physical cores), taps: whether tap() works, which costs nothing where it is off. After a failure, an error or a
    cancel, every session holds exactly its committed tokens.

    A model with a recurrent state takes chains instead of trees, of `max_chain` candidates and the root, all of one
    length in one pass. Each session keeps a state after each of them: fewer, where memory is short.

    Raises ArgumentError, OutOfMemory, ModelError for taps on a model that takes chains only.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int = 0,
        n_sessions_max: int = 1,
        n_batch: int = 2048,
        n_ubatch: int = 0,
        n_rows_max: int = 64,
        n_top_max: int = 64,
        n_threads: int = 0,
        n_threads_batch: int = 0,
        type_k: str = "f16",
        type_v: str = "f16",
        flash_attn: int = -1,
        offload_kqv: bool = True,
        taps: bool = False,
    ) -> None:
        self.model = model
        self.n_sessions_max = n_sessions_max
        self.n_rows_max = n_rows_max
        self.n_top_max = n_top_max
        params, _kept = c_params(
            n_ctx=n_ctx,
            n_sessions_max=n_sessions_max,
            n_batch=n_batch,
            n_ubatch=n_ubatch,
            n_rows_max=n_rows_max,
            n_top_max=n_top_max,
            n_threads=n_threads,
            n_threads_batch=n_threads_batch,
            type_k=type_k,
            type_v=type_v,
            flash_attn=flash_attn,
            offload_kqv=offload_kqv,
            taps=taps,
        )
        out = ffi.new("mp_context **")
        with model._handle as model_pointer:
            check(lib.mp_context_open(model_pointer, params, out))
        self._handle = Handle.of(out[0], lib.mp_context_free, "context")
        with self._handle as context:
            self.n_ctx: int = lib.mp_context_n_ctx(context)
            self.n_threads: int = lib.mp_context_n_threads(context)
            self.max_chain: int = lib.mp_context_max_chain(context)  # candidates, where there can be no tree
        self._inside = threading.Lock()  # outputs of the core are copied before another call may overwrite them
        self._trees = ffi.new("mp_tree[]", n_sessions_max)
        self._passes = ffi.new("mp_pass[]", n_sessions_max)
        self._sessions = ffi.new("mp_session *[]", n_sessions_max)

    def session(self) -> "Session":
        """A new, empty session. Raises StateError where n_sessions_max are open."""
        out = ffi.new("mp_session **")
        with self._handle as context:
            check(lib.mp_session_open(context, out))
        return Session._of(self, out[0])

    def decode(self, trees: Sequence[tuple["Session", TokenTree]], n_top: int = 8) -> list[Pass]:
        """One pass over the trees of several sessions, each with its masks: what came of each tree. Every row has an
        output, with its `n_top` most likely tokens.

        Raises ArgumentError, ContextFull, Cancelled, DecodeError; ModelError for a tree, too long a chain, chains of
        different lengths or masks on a model that cannot."""
        n = len(trees)
        if not 1 <= n <= self.n_sessions_max:
            raise ArgumentError(
                f"a pass over {n} sessions: it must be over 1 to n_sessions_max = {self.n_sessions_max}"
            )
        with ExitStack() as inside:
            inside.enter_context(self._entered())
            for i, (session, tree) in enumerate(trees):
                self._sessions[i] = inside.enter_context(session._handle)
                session._inputs.write(tree, n_top, self._trees[i])
            context = inside.enter_context(self._handle)
            check(lib.mp_context_decode(context, n, self._sessions, self._trees, self._passes))
            return [session._outputs.read(self._passes[i]) for i, (session, _) in enumerate(trees)]

    def tap(self, layers: Sequence[int]) -> None:
        """The tree passes that follow keep their rows' hidden states after these layers, those of 0..n_layer - 1;
        n_layer: after the last norm. No layers: none. Session.hidden() reads them.

        Raises ArgumentError for another layer, StateError where the context was opened without `taps`."""
        with self._handle as context:
            check(lib.mp_context_tap(context, ffi.new("int32_t[]", list(layers)), len(layers)))

    @contextmanager
    def _entered(self) -> Iterator[None]:
        self._handle.check_process()
        if not self._inside.acquire(blocking=False):
            raise StateError("another thread is inside this context", "busy")
        try:
            yield
        finally:
            self._inside.release()

    def parts(self) -> dict[str, Part]:
        """What maskprobe's kernels have cost so far: products by the type of their weights ("q4_0"), "head" (the output
        matrix) and "attention". Empty with llama.cpp's kernels."""
        found: dict[str, Part] = {}
        part = ffi.new("mp_part *")
        with self._handle as context:
            while (status := lib.mp_context_get_part(context, len(found), part)) != lib.MP_ERR_ARGUMENT:
                check(status)
                found[text(part.name)] = Part(part.n_ops, part.ns, part.bytes, part.macs)
        return found

    def cancel(self) -> None:
        """Stops the call that is running, or the next one: it raises Cancelled. From any thread; a signal handler of
        Python runs too late, when the call is over. Nothing happens if the context is closed."""
        try:
            with self._handle as context:
                lib.mp_context_cancel(context)
        except StateError:
            pass


class Session(Owner):
    """One sequence of a context, and the committed tokens in it.

    `Session(model, ...)` opens a context of its own with these settings (those of Context) and closes it too;
    `context.session()` and `fork()` give sessions that share one. Raises ArgumentError, OutOfMemory.
    """

    def __init__(self, model: Model, **settings: Any) -> None:
        context = Context(model, **settings)
        out = ffi.new("mp_session **")
        with context._handle as pointer:
            check(lib.mp_session_open(pointer, out))
        self._begin(context, out[0], owns_context=True)

    @classmethod
    def _of(cls, context: Context, pointer: Any) -> "Session":
        session = cls.__new__(cls)
        session._begin(context, pointer, owns_context=False)
        return session

    def _begin(self, context: Context, pointer: Any, owns_context: bool) -> None:
        self.context = context
        self.model = context.model
        self._owns_context = owns_context
        self._handle = Handle.of(pointer, lib.mp_session_free, "session")
        self._inputs = _Inputs(context.n_rows_max, self.model.info.n_embd)
        self._outputs = _Outputs(context.n_rows_max, context.n_top_max)
        self.n_ctx, self.n_threads, self.max_chain = context.n_ctx, context.n_threads, context.max_chain
        self.n_rows_max, self.n_top_max = context.n_rows_max, context.n_top_max
        self.max_rows = self.n_rows_max if self.model.info.can_tree else 1 + self.max_chain  # of a pass

    def fork(self) -> "Session":
        """Another session of the context with the same committed tokens, which are not evaluated again. An uncommitted
        pass is dropped. Raises StateError where n_sessions_max are open."""
        out = ffi.new("mp_session **")
        with self._handle as session, self.context._handle:
            check(lib.mp_session_fork(session, out))
        return Session._of(self.context, out[0])

    def close(self) -> None:
        """Frees its place in the cache; closing twice is fine.

        Raises StateError ("busy") while another thread is inside."""
        self._handle.close()
        if self._owns_context:
            self.context.close()

    @property
    def n_past(self) -> int:
        """Committed tokens in the cache."""
        with self._handle as session:
            return lib.mp_session_n_past(session)

    def set_prefix(self, tokens: Sequence[int], n_outputs: int = 0, n_top: int = 8) -> Prefix:
        """Makes the session hold exactly `tokens`. What it held already is kept, the rest is evaluated; a cancelled
        call keeps the part that is complete.

        Of the last `n_outputs` tokens that are evaluated, the `n_top` most likely successors are returned: fewer rows
        where fewer are evaluated, or where others follow a row that is not finite.

        Raises ArgumentError, ContextFull, Cancelled, DecodeError, StateError."""
        ids, pointer = token_array(tokens)
        out = ffi.new("mp_prefix *")
        with self.context._entered(), self._handle as session, self.context._handle:
            check(_set_prefix(session, pointer, len(ids), n_outputs, n_top, out))
            shape = out.n_rows, out.n_top
            top_tokens, top_logprobs = np.empty(shape, np.int32), np.empty(shape, np.float32)
            ffi.memmove(top_tokens, out.top_tokens, top_tokens.nbytes)
            ffi.memmove(top_logprobs, out.top_logprobs, top_logprobs.nbytes)
        return Prefix(out.n_reused, top_tokens, top_logprobs)

    def decode(self, tree: TokenTree, n_top: int = 8) -> Pass:
        """One pass over a tree and its masks alone: see Context.decode()."""
        return self.context.decode([(self, tree)], n_top)[0]

    def logits(self, row: int) -> np.ndarray:
        """The full logits of a row of the last pass, float32 (n_vocab,), as a copy.

        Raises ArgumentError where there is no such row, StateError after another pass of the context."""
        out = ffi.new("const float **")
        logits = np.empty(self.model.info.n_vocab, np.float32)
        with self._handle as session:
            check(lib.mp_session_logits(session, row, out))
            ffi.memmove(logits, out[0], logits.nbytes)
        return logits

    def logprob(self, row: int, token: int) -> float:
        """The log-probability of one token in a row of the last pass."""
        out = ffi.new("float *")
        with self._handle as session:
            check(lib.mp_session_logprob(session, row, token, out))
        return out[0]

    def hidden(self, row: int, layer: int) -> np.ndarray:
        """The hidden state of a row of the last pass after a tapped layer, float32 (n_embd,), as a copy.

        Raises ArgumentError where there is no such row; StateError where the layer was not tapped, and after another
        pass of the context; ModelError where llama.cpp's graph of this model does not name the place."""
        out = ffi.new("const float **")
        state = np.empty(self.model.info.n_embd, np.float32)
        with self._handle as session:
            check(lib.mp_session_hidden(session, row, layer, out))
            ffi.memmove(state, out[0], state.nbytes)
        return state

    def commit(self, path: Sequence[int]) -> None:
        """Keeps the nodes of `path` of the last pass in the cache and drops every other row. path[0] = 0, each next
        node is a child of the one before; an empty path drops them all.

        Raises ArgumentError, StateError without a pass."""
        with self._handle as session:
            check(lib.mp_session_commit(session, ffi.new("int32_t[]", path), len(path)))

    def rollback(self) -> None:
        """Drops every row of the last pass: the session holds the committed tokens only."""
        self.commit(())

    def tap(self, layers: Sequence[int]) -> None:
        """See Context.tap()."""
        self.context.tap(layers)

    def parts(self) -> dict[str, Part]:
        """See Context.parts()."""
        return self.context.parts()

    def cancel(self) -> None:
        """See Context.cancel()."""
        self.context.cancel()


def _set_prefix(session: Any, tokens: Any, n: int, n_outputs: int, n_top: int, out: Any) -> int:
    try:
        return lib.mp_session_set_prefix(session, tokens, n, n_outputs, n_top, out)
    except (TypeError, OverflowError) as error:
        raise ArgumentError(
            f"n_outputs = {shown(n_outputs)} with n_top = {shown(n_top)} is not possible: {error}"
        ) from None


class _Inputs:
    """The arrays after one mp_tree, made once and written anew for each pass."""

    def __init__(self, n_rows_max: int, n_embd: int) -> None:
        self._tokens = np.empty(n_rows_max, np.int32)
        self._parents = np.empty(n_rows_max, np.int32)
        self._owners = np.empty(n_rows_max, np.int32)
        self._masks = np.empty((n_rows_max, n_embd), np.float32)
        self._embeddings = np.empty((n_rows_max, n_embd), np.float32)
        self._pointers = {
            "tokens": ffi.from_buffer("int32_t[]", self._tokens),
            "parents": ffi.from_buffer("int32_t[]", self._parents),
            "embd": ffi.from_buffer("float[]", self._embeddings),
            "mask_owners": ffi.from_buffer("int32_t[]", self._owners),
            "masks": ffi.from_buffer("float[]", self._masks),
        }

    def write(self, tree: TokenTree, n_top: int, out: Any) -> None:
        """Into an mp_tree, which points here then."""
        n_nodes, n_masks = tree.n_nodes, tree.n_masks
        if tree.n_rows > len(self._tokens):
            raise ArgumentError(f"the tree has {tree.n_rows} rows, the context was opened for {len(self._tokens)}")
        try:
            self._tokens[:n_nodes] = tree.tokens
        except OverflowError:
            raise ArgumentError("a token of the tree does not fit 32 bits") from None
        self._parents[:n_nodes] = tree.parents
        self._owners[:n_masks] = tree.mask_owners
        for i, vector in enumerate(tree.embeddings):
            if vector.shape != self._embeddings[i].shape:
                raise ArgumentError(
                    f"embedding row {i} has shape {vector.shape}, the model takes {self._embeddings[i].shape}"
                )
            self._embeddings[i] = vector
        begin = 0
        for block in tree.mask_blocks:  # (k, n_embd)
            if block.shape[1] != self._masks.shape[1]:
                raise ArgumentError(f"mask vectors have {block.shape[1]} values, the model has {self._masks.shape[1]}")
            end = begin + len(block)
            self._masks[begin:end] = block
            begin = end
        trained = NULL if tree.trained is None else tree.trained.pointer
        fill(out, n_nodes=n_nodes, n_masks=n_masks, n_top=n_top, trained=trained, **self._pointers)


class _Outputs:
    """Python's own copy of an mp_pass: small, and the arrays in it outlive the core's buffers."""

    def __init__(self, n_rows_max: int, n_top_max: int) -> None:
        self._best = np.empty(n_rows_max, np.int32)
        self._top_tokens = np.empty(n_rows_max * n_top_max, np.int32)
        self._top_logprobs = np.empty(n_rows_max * n_top_max, np.float32)
        self._views: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}  # of each shape

    def read(self, result: Any) -> Pass:
        n_rows, n_top = result.n_rows, result.n_top
        n = n_rows * n_top
        views = self._views.get((n_rows, n_top))
        if views is None:
            shape = n_rows, n_top
            tokens, logprobs = self._top_tokens[:n].reshape(shape), self._top_logprobs[:n].reshape(shape)
            views = self._views[shape] = (self._best[:n_rows], tokens, logprobs)
        ffi.memmove(self._best, result.best, 4 * n_rows)
        ffi.memmove(self._top_tokens, result.top_tokens, 4 * n)
        ffi.memmove(self._top_logprobs, result.top_logprobs, 4 * n)
        best, top_tokens, top_logprobs = views
        return Pass(n_rows, n_top, best, top_tokens, top_logprobs, result.decode_us, result.engine_us)

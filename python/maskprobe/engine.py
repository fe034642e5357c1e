"""Engine: lossless decoding of any number of texts in shared passes. The work is done in the core (csrc/engine)."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._capi import NULL, Bridge, Handle, Owner, c_path, c_string, check, ffi, fill, lib, shown, text, token_array
from .constraints import ConstraintBridge
from .errors import ArgumentError
from .generation import AsyncGeneration, Generation
from .model import Model
from .proposers import Proposer, source_named
from .proposers.bridge import ProposerBridge
from .sampler import SamplingParams, c_params
from .session import Context
from .stepping import Stepper

DEFAULT_SAMPLING = SamplingParams()
ROWS = 64  # of the largest pass, unless more are needed
ROWS_EACH = 16  # where several generations share it

# Where candidates come from: a source by name, an object that serves one generation at a time, or what makes such.
ProposerLike = str | Proposer | Callable[[], Proposer]


class Engine(Owner):
    """Generates with a model: proposes candidates, decodes them in one pass with all other generations, keeps those
    that the sampler draws. The output is that of plain decoding with the same seed, whatever is proposed.

    `n_parallel` generations go on at the same time, each with a cache of `n_ctx` tokens (0: the model's, reduced to
    what memory holds); more of them wait. generate() may be called from any number of threads.

    proposer: "all", the engine's own (all evidence in one tree), "none" (plain decoding), another of SOURCES, a
        Proposer, or a function without arguments that makes one for each generation.
    rows: of a pass per generation; "auto": as many as pay on this machine, pass by pass.
    masks: after the nodes of the engine's own trees: "none", "mean", "soft", or "file:PATH", a file of trained masks.
    state: a file that keeps what is learned about the model; "": its place in the user's cache folder; None: none.
    heads: a file of heads that were trained for the model, evidence for the engine's own trees; "": those in the user's
        cache folder (Model.heads_path), if there are any, else the layers for multi-token prediction that the model's
        own file brings (ModelInfo.n_layer_mtp), if it does; None: none.
    layers: whose hidden states come with a token's, where those are wanted: Context.tap(). Not beside heads that read
        layers of their own.

    The other settings are those of Context. Raises ArgumentError, OutOfMemory, ModelError (heads that do not fit).
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int = 0,
        n_parallel: int = 1,
        n_threads: int = 0,
        n_threads_batch: int = 0,
        proposer: ProposerLike = "all",
        rows: int | str = "auto",
        masks: str = "none",
        state: str | os.PathLike[str] | None = None,
        heads: str | os.PathLike[str] | None = None,
        layers: Sequence[int] = (),
        n_batch: int = 2048,
        n_ubatch: int = 0,
        n_rows_max: int = 0,
        n_top_max: int = 64,
        type_k: str = "f16",
        type_v: str = "f16",
        flash_attn: int = -1,
        offload_kqv: bool = True,
    ) -> None:
        if not isinstance(rows, int) and rows != "auto":
            raise ArgumentError(f'rows must be "auto" or a number from 1, not {shown(rows)}')
        self.model = model
        self._readable = model._shared()  # of the engine's own sources: they go on when the model is closed
        self._rows = rows if isinstance(rows, int) else None
        self._proposer = proposer
        params, _kept = engine_params(self._rows, masks, state, heads)
        self.context = Context(
            model,
            n_ctx=n_ctx,
            n_sessions_max=n_parallel,
            n_batch=n_batch,
            n_ubatch=n_ubatch,
            n_rows_max=n_rows_max or self._rows_needed(n_parallel, n_ubatch),
            n_top_max=n_top_max,
            n_threads=n_threads,
            n_threads_batch=n_threads_batch,
            type_k=type_k,
            type_v=type_v,
            flash_attn=flash_attn,
            offload_kqv=offload_kqv,
            taps=bool(layers) or _need_taps(model, params.heads),
        )
        if layers:
            self.context.tap(layers)
        out = ffi.new("mp_engine **")
        with self.context._handle as context:
            check(lib.mp_engine_open(context, params, out))
        self._handle = Handle.of(out[0], lib.mp_engine_free, "engine")
        self._stepper = Stepper(self._handle, self.context.cancel)

    def generate(
        self,
        tokens: Sequence[int],
        sampling: SamplingParams = DEFAULT_SAMPLING,
        *,
        max_tokens: int = -1,
        stop: str | Sequence[str] = (),
        ignore_eos: bool = False,
        draft: bool = True,
        rows: int | None = None,
        constraint: Any = None,
        top_logprobs: int = 0,
        hidden: bool = False,
        proposer: ProposerLike | None = None,
    ) -> Generation:
        """The tokens that follow the prompt `tokens`, until an end token, a stop string, `max_tokens` (-1: no limit) or
        the end of the context. `ignore_eos` forbids end tokens. The text ends before a stop string. `draft` False
        decodes plainly. `rows`, from 1 to the context's n_rows_max, are those of this text in a pass: at most so many
        where the engine's are "auto", else instead of its number; None: as the engine has them. `constraint` is a
        Constraint, or makes one for each text: a JsonSchema, Regex or LarkGrammar. With each token come its
        `top_logprobs` most likely alternatives and, with `hidden`, the model's state after its last norm in the row
        that the token was drawn from; with the engine's `layers`, theirs before it. `proposer` takes the place of the
        engine's for this generation.

        The arguments are checked at once; work starts with the first token asked for, of this or another generation.

        Raises ArgumentError, ContextFull (the prompt does not fit), ModelError (`hidden`: this model gives none),
        StateError."""
        stop = [stop] if isinstance(stop, str) else list(stop)
        for i, string in enumerate(stop):
            if not isinstance(string, str) or not string:
                raise ArgumentError(f"stop string {i} must be non-empty text, not {shown(string)}")
        strings = [ffi.new("char[]", c_string(string, f"stop string {i}")) for i, string in enumerate(stop)]
        array = ffi.new("char * const []", strings)
        if rows is not None and (not isinstance(rows, int) or rows < 1):
            raise ArgumentError(f"rows must be None (as the engine has them) or a number from 1, not {shown(rows)}")
        sampler, _arrays = c_params(sampling)
        params = ffi.new("mp_generation_params *", lib.mp_generation_default_params())
        fill(
            params,
            sampler=sampler,
            n_max=max_tokens,
            stop=array,
            n_stop=len(strings),
            ignore_end=ignore_eos,
            n_top=top_logprobs,
            n_rows=rows or 0,
            hidden=hidden,
        )
        ids, prompt = token_array(tokens)
        bridges: list[Bridge] = []
        try:
            source = self._source(self._proposer if proposer is None else proposer) if draft else "none"
            params.draft = source != "none"
            if isinstance(source, Proposer):
                bridges.append(ProposerBridge(source, self.model))
                params.proposer = bridges[-1].pointer
            if constraint is not None:
                bridges.append(ConstraintBridge(self._constraint_of_one(constraint), self.model.info.n_vocab))
                params.constraint = bridges[-1].pointer
            out = ffi.new("mp_generation **")
            with self._handle as engine:
                check(lib.mp_generation_open(engine, prompt, len(ids), params, out))
        except BaseException:
            for bridge in bridges:
                bridge.release()
            raise
        return Generation(self._stepper, out[0], bridges, self.model.info.n_embd)

    def generate_async(
        self, tokens: Sequence[int], sampling: SamplingParams = DEFAULT_SAMPLING, **settings: Any
    ) -> AsyncGeneration:
        """As generate(), with the same settings, for an event loop, which is never blocked by a pass."""
        return AsyncGeneration(self.generate(tokens, sampling, **settings))

    def embed(self, tokens: Sequence[int]) -> np.ndarray:
        """The mean of the last hidden states after the tokens, float32 (n_embd,), not normalised. Where all sessions
        are taken, it waits for one, and makes steps meanwhile.

        Raises ArgumentError, ContextFull, DecodeError, ModelError (this model has none), StateError."""
        ids, pointer = token_array(tokens)
        mean = np.empty(self.model.info.n_embd, np.float32)
        out = ffi.from_buffer("float[]", mean)
        self._stepper.in_place_of_a_step(lambda engine: lib.mp_engine_embed(engine, pointer, len(ids), out))
        return mean

    def pass_us(self, n_rows: int) -> float:
        """What a pass of `n_rows` takes, as it was learned, in microseconds; 0 before there was any."""
        us = ffi.new("double *")
        self._stepper.between_steps(lambda engine: lib.mp_engine_pass_us(engine, n_rows, us))
        return us[0]

    @property
    def note(self) -> str:
        """A line about the state file and heads, "" where there is nothing to say."""
        with self._handle as engine:
            return text(lib.mp_engine_note(engine))

    def close(self) -> None:
        """Stops the pass that is under way, ends all generations, writes what was learned, and frees the engine and its
        context; closing twice is fine. Whoever waits for a token, or asks for one later, gets a StateError. Where
        another thread is inside a call of the engine or of its context, that call is waited for.

        Raises StateError ("busy") when a callback of this engine calls it."""
        self._stepper.close()
        self._handle.close(waits=True)
        self.context._handle.close(waits=True)
        self._readable._handle.close(waits=True)

    def _constraint_of_one(self, constraint: Any) -> Any:
        """What makes constraints makes one for each generation."""
        made_for = getattr(constraint, "model", self.model)
        if isinstance(made_for, Model) and made_for is not self.model:
            raise ArgumentError(f"this {type(constraint).__name__} is for another Model: make it with the engine's own")
        make = getattr(constraint, "constraint", None)
        return make() if callable(make) else constraint

    def _source(self, proposer: ProposerLike) -> str | Proposer:
        """ "none", "all", or a proposer for one generation."""
        if callable(proposer) and not isinstance(proposer, (str, Proposer)):
            proposer = proposer()
        if isinstance(proposer, Proposer):
            return proposer
        if not isinstance(proposer, str):
            raise ArgumentError(
                f"a proposer must be a name or a Proposer, or a function that makes one, not {shown(proposer)}"
            )
        source = source_named(proposer)
        if not source.runs_on(self.model):
            return "none"
        return proposer if source.make is None else source.make(self._readable, self._rows)

    def _rows_needed(self, n_parallel: int, n_ubatch: int) -> int:
        source = self._source(self._proposer)
        each = source.n_rows_max if isinstance(source, Proposer) else self._rows or ROWS_EACH
        return rows_needed(each, n_parallel, n_ubatch)


def rows_needed(each: int, n_parallel: int, n_ubatch: int) -> int:
    """Rows of the largest pass, of `each` text so many. It must fit into one graph."""
    most = min(n_ubatch or lib.MP_N_ROWS_LIMIT, lib.MP_N_ROWS_LIMIT)
    return max(each, min(max(ROWS, each * n_parallel), most))


def engine_params(
    rows: int | None, masks: str, state: str | os.PathLike[str] | None, heads: str | os.PathLike[str] | None
) -> tuple[Any, Any]:
    """The mp_engine_params of an Engine's settings, and what must live while C reads them. Raises ArgumentError."""
    params = ffi.new("mp_engine_params *", lib.mp_engine_default_params())
    file = NULL if state is None else ffi.new("char[]", c_path(state, "state"))
    kind = ffi.new("char[]", c_string(masks, "the kind of masks"))
    trained = NULL if heads is None else ffi.new("char[]", c_path(heads, "heads"))
    fill(params, n_rows=rows or 0, masks=kind, state=file, heads=trained)
    return params, (file, kind, trained)


def _need_taps(model: Model, heads: Any) -> bool:
    """Whether these heads, as the core takes them, read hidden states between layers."""
    found = ffi.new("bool *")
    with model._handle as handle:
        check(lib.mp_heads_need_taps(handle, heads, found))
    return bool(found[0])

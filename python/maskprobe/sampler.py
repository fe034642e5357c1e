"""Sampler: libllama's own sampler chain, which draws every token that is emitted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._capi import NULL, Handle, Owner, c_string, check, ffi, fill, lib, token_array
from .errors import ArgumentError
from .model import Model
from .session import Session

RANDOM_SEED = 0xFFFFFFFF  # libllama's value for "take one at random"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn; names and defaults are those of llama.cpp's tools."""

    temp: float = 0.8  # 0: greedy
    top_k: int = 40  # <= 0: off
    top_p: float = 0.95  # >= 1: off
    min_p: float = 0.05  # <= 0: off
    penalty_last_n: int = 64  # tokens looked back at, -1: the whole context
    penalty_repeat: float = 1.0  # 1: off
    penalty_frequency: float = 0.0  # 0: off
    penalty_presence: float = 0.0  # 0: off
    seed: int = -1  # -1: a random one
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # -inf forbids a token
    grammar: str | None = None  # GBNF with a rule named root


def c_params(params: SamplingParams) -> tuple[Any, tuple[Any, ...]]:
    """The mp_sampler_params, and what must live as long as it is in use.

    Raises ArgumentError for a value that does not fit."""
    if not -1 <= params.seed < RANDOM_SEED:
        raise ArgumentError(f"seed = {params.seed} is out of range: -1 (random) or 0..{RANDOM_SEED - 1}")
    raw = ffi.new("mp_sampler_params *", lib.mp_sampler_default_params())
    bias, bias_tokens = token_array(list(params.logit_bias))
    bias_values = ffi.new("float[]", list(params.logit_bias.values()))
    grammar = NULL if params.grammar is None else ffi.new("char[]", c_string(params.grammar, "the grammar"))
    fill(
        raw,
        temp=params.temp,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        penalty_last_n=params.penalty_last_n,
        penalty_repeat=params.penalty_repeat,
        penalty_frequency=params.penalty_frequency,
        penalty_presence=params.penalty_presence,
        seed=RANDOM_SEED if params.seed == -1 else params.seed,
        n_logit_bias=len(bias),
        bias_tokens=bias_tokens,
        bias_values=bias_values,
        grammar=grammar,
    )
    return raw, (bias, bias_tokens, bias_values, grammar)


class Sampler(Owner):
    """Draws tokens from the rows of a session's last pass, and remembers what it drew.

    Raises ArgumentError for values out of range and for a grammar that cannot be read.
    """

    def __init__(self, model: Model, params: SamplingParams) -> None:
        raw, _arrays = c_params(params)
        out = ffi.new("mp_sampler **")
        with model._handle as model_pointer:
            check(lib.mp_sampler_open(model_pointer, raw, out))
        self._handle = Handle.of(out[0], lib.mp_sampler_free, "sampler")
        self._token = ffi.new("int32_t *")

    def prime(self, tokens: Sequence[int]) -> None:
        """Shows prompt tokens to the penalties."""
        ids, pointer = token_array(tokens)
        with self._handle as sampler:
            check(lib.mp_sampler_prime(sampler, pointer, len(ids)))

    def sample(self, session: Session, row: int) -> int:
        """Draws the token that follows a row of the session's last pass: one draw per emitted token.

        Raises ArgumentError for a row without an output, StateError without a pass."""
        with self._handle as sampler, session._handle as session_pointer:
            check(lib.mp_sampler_sample(sampler, session_pointer, row, self._token))
        return self._token[0]

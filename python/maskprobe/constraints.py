"""Constraints: which tokens may come next, as an object of Python tells it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._capi import Bridge, array_of, ffi
from .errors import ArgumentError

N_BITS = 32  # of a word of a bit mask


class Constraint:
    """What a generation asks about its next tokens. Any object that has some of these methods is one; what it lacks
    restricts nothing. What a method raises ends its own generation and comes out of it.

    A constraint follows one text: a generation needs an object of its own.
    """

    # The tokens that may come next: bool (n_vocab,), a bit mask uint32 (ceil(n_vocab / 32),) with bit t % 32 of word
    # t // 32 for token t, or a list of ids. None allows all of them; an empty list ends the generation ("constraint").
    allowed: Callable[[], np.ndarray | Sequence[int] | None] | None = None
    # A token was emitted.
    accept: Callable[[int], None] | None = None
    # How many tokens of a chain would pass, from here on.
    n_valid: Callable[[Sequence[int]], int] | None = None
    # The chain that must come next, [] where there is a choice.
    forced: Callable[[], Sequence[int]] | None = None
    # (tokens, logits): the logits of what follows `tokens`, float32 (n_vocab,), to be changed in place.
    logits: Callable[[Sequence[int], np.ndarray], None] | None = None


class ConstraintBridge(Bridge):
    """Calls a constraint for the core, for one generation.

    Raises ArgumentError for an object without any of the methods.
    """

    def __init__(self, constraint: Any, n_vocab: int) -> None:
        super().__init__()
        self._constraint = constraint
        self._n_vocab = n_vocab
        self._n_words = (n_vocab + N_BITS - 1) // N_BITS
        self.pointer = ffi.new("mp_constraint *")
        self.pointer.user = self.handle
        present = {name: call for name, call in CALLBACKS.items() if callable(getattr(constraint, name, None))}
        if not present:
            raise ArgumentError(f"{type(constraint).__name__} is no constraint: it needs one of {', '.join(CALLBACKS)}")
        for name, call in present.items():
            setattr(self.pointer, name, call)

    def allowed(self, bits: Any) -> None:
        words = array_of(bits, np.uint32, self._n_words)
        tokens = self._constraint.allowed()
        if tokens is None:
            words[:] = 0xFFFFFFFF
            return
        mask = np.asarray(tokens)
        if mask.dtype == np.uint32 and mask.shape == words.shape:
            words[:] = mask
            return
        if mask.dtype != bool:
            mask = self._mask_of(mask)
        if mask.shape != (self._n_vocab,):
            raise ArgumentError(f"the constraint's mask has shape {mask.shape}, the vocabulary {self._n_vocab} tokens")
        padded = np.zeros(self._n_words * N_BITS, bool)
        padded[: self._n_vocab] = mask
        words[:] = np.packbits(padded, bitorder="little").view(np.dtype("<u4"))

    def accept(self, token: int) -> None:
        self._constraint.accept(token)

    def n_valid(self, tokens: Any, n: int) -> int:
        n_valid = int(self._constraint.n_valid(ffi.unpack(tokens, n)))
        if not 0 <= n_valid <= n:
            raise ArgumentError(f"the constraint says that {n_valid} of {n} tokens would pass")
        return n_valid

    def forced(self, tokens: Any, capacity: int) -> int:
        chain = [int(token) for token in self._constraint.forced()[:capacity]]
        tokens[0 : len(chain)] = chain
        return len(chain)

    def logits(self, tokens: Any, n: int, logits: Any) -> None:
        self._constraint.logits(ffi.unpack(tokens, n), array_of(logits, np.float32, self._n_vocab))

    def _mask_of(self, ids: np.ndarray) -> np.ndarray:
        """A list of token ids as bool (n_vocab,)."""
        mask = np.zeros(self._n_vocab, bool)
        if len(ids):
            if ids.dtype.kind not in "iu" or ids.ndim != 1:
                raise ArgumentError(f"a constraint allows token ids, a mask of bools or of bits, not {ids.dtype}")
            if ids.min() < 0 or ids.max() >= self._n_vocab:
                raise ArgumentError(
                    f"the constraint allows token {ids.min() if ids.min() < 0 else ids.max()}, "
                    f"the vocabulary has {self._n_vocab}"
                )
            mask[ids] = True
        return mask


@ffi.callback("int32_t(void *, uint32_t *)")
def _allowed(user: Any, bits: Any) -> int:
    bridge = ffi.from_handle(user)
    return bridge.guarded(bridge.allowed, bits)


@ffi.callback("int32_t(void *, int32_t)")
def _accept(user: Any, token: int) -> int:
    bridge = ffi.from_handle(user)
    return bridge.guarded(bridge.accept, token)


@ffi.callback("int32_t(void *, int32_t *, int32_t)")
def _n_valid(user: Any, tokens: Any, n: int) -> int:
    bridge = ffi.from_handle(user)
    return bridge.guarded(bridge.n_valid, tokens, n)


@ffi.callback("int32_t(void *, int32_t *, int32_t)")
def _forced(user: Any, tokens: Any, capacity: int) -> int:
    bridge = ffi.from_handle(user)
    return bridge.guarded(bridge.forced, tokens, capacity)


@ffi.callback("int32_t(void *, int32_t *, int32_t, float *)")
def _logits(user: Any, tokens: Any, n: int, logits: Any) -> int:
    bridge = ffi.from_handle(user)
    return bridge.guarded(bridge.logits, tokens, n, logits)


CALLBACKS = {"allowed": _allowed, "accept": _accept, "n_valid": _n_valid, "forced": _forced, "logits": _logits}

"""A Proposer as the engine's mp_proposer."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._capi import NULL, Bridge, array_of, ffi
from ..errors import StateError
from ..model import Model
from ..session import Pass, _Inputs
from ..tree import TokenTree
from .base import Proposer


class ProposerBridge(Bridge):
    """Calls a proposer for the core, for one generation.

    Raises StateError where the proposer serves another generation.
    """

    def __init__(self, proposer: Proposer, model: Model) -> None:
        super().__init__()
        if proposer._serves:
            raise StateError(f"this {type(proposer).__name__} serves another generation: one at a time")
        proposer._serves = True
        self._proposer = proposer
        self._can_tree = model.info.can_tree
        self._context: list[int] = []
        self._tree: TokenTree | None = None  # proposed last
        self._inputs = _Inputs(proposer.n_rows_max, model.info.n_embd)
        self._probabilities = np.empty(proposer.n_rows_max, np.float32)
        self.pointer = ffi.new("mp_proposer *")
        self.pointer.user = self.handle
        self.pointer.n_top = proposer.n_top
        self.pointer.propose, self.pointer.observe = _propose, _observe

    def release(self) -> None:
        self._proposer._serves = False

    def propose(self, context: Any, n: int, room: int, draft: Any) -> None:
        """Writes the tree that the proposer offers into *draft."""
        is_first = not self._context
        n_known = len(self._context)
        self._context += ffi.unpack(context + n_known, n - n_known)
        if is_first:
            self._proposer.begin(self._context)
        tree = self._proposer.propose(self._context, min(room, self._proposer.n_rows_max))
        if tree.tokens[0] != self._context[-1]:
            raise StateError(
                f"the proposer's root is token {tree.tokens[0]}, the newest token is {self._context[-1]}", "internal"
            )
        self._tree = tree = tree if self._can_tree else tree.best_chain()
        self._inputs.write(tree, self._proposer.n_top, draft.tree)
        draft.probabilities = NULL
        if not (self._proposer.whole and self._can_tree):  # chains of one pass have one length: they may be cut
            self._probabilities[: tree.n_nodes] = [math.exp(min(logprob, 0.0)) for logprob in tree.logprobs]
            draft.probabilities = ffi.from_buffer("float[]", self._probabilities)

    def observe(self, draft: Any, result: Any, path: Sequence[int], emitted: Sequence[int]) -> None:
        """Shows the proposer what became of its tree. A pass with a row that is not finite teaches nothing."""
        shape = result.n_rows, result.n_top
        best = array_of(result.best, np.int32, result.n_rows)
        if best.min() < 0:
            return
        seen = Pass(
            *shape,
            best,
            array_of(result.top_tokens, np.int32, *shape),
            array_of(result.top_logprobs, np.float32, *shape),
            result.decode_us,
            result.engine_us,
        )
        self._proposer.observe(self._decoded(draft.tree), seen, path, emitted)

    def _decoded(self, part: Any) -> TokenTree:
        """The tree that was decoded: the one that was proposed, or some of its nodes in another order."""
        whole = self._tree
        assert whole is not None, "a pass has a tree"
        tokens, parents = ffi.unpack(part.tokens, part.n_nodes), ffi.unpack(part.parents, part.n_nodes)
        if tokens == whole.tokens and parents == whole.parents and part.n_masks == whole.n_masks:
            return whole
        tree = whole.part(tokens, parents)
        for mask in range(part.n_masks):
            n_embd = whole.mask_blocks[0].shape[1]
            tree.add_masks(part.mask_owners[mask], array_of(part.masks + mask * n_embd, np.float32, 1, n_embd))
        return tree


@ffi.callback("int32_t(void *, int32_t *, int32_t, int32_t, mp_draft *)")
def _propose(user: Any, context: Any, n: int, room: int, draft: Any) -> int:
    bridge = ffi.from_handle(user)
    return bridge.guarded(bridge.propose, context, n, room, draft)


@ffi.callback("int32_t(void *, mp_draft *, mp_pass *, int32_t *, int32_t *, int32_t)")
def _observe(user: Any, draft: Any, result: Any, path: Any, emitted: Any, n_path: int) -> int:
    bridge = ffi.from_handle(user)
    return bridge.guarded(bridge.observe, draft, result, ffi.unpack(path, n_path), ffi.unpack(emitted, n_path))

"""One tree from all that is known without another pass: what the model gave before, n-grams, the rows of the last pass.

The work is done in the core (csrc/draft); see the drafter in maskprobe.h for the evidence and where it comes from.
"""

import math
from collections.abc import Sequence
from typing import Any

from .._capi import Handle, check, ffi, lib, token_array
from ..model import Model
from ..session import Pass
from ..tree import TokenTree
from .base import Proposer, checked_count

N_TOP = 8  # tokens of each row that are learned from
SOURCES = ("token", "pair", "triple", "n-gram", "mask", "row before", "rejected rows")  # maskprobe.h, mp_draft


class Evidence(Proposer):
    """Grows the tree best first: the nodes come in the order of their probability, so any first part of it is the best
    tree of its size. What it learns of the model stays from one generation to the next.

    `sources[i]` names what spoke most for node i of the last tree.

    Raises ArgumentError for a number of rows out of range.
    """

    def __init__(self, model: Model, *, rows: int = 16) -> None:
        self.n_rows_max = checked_count("rows", rows)
        self.n_top = min(N_TOP, model.info.n_vocab)
        out = ffi.new("mp_drafter **")
        check(lib.mp_drafter_open(model.info.n_vocab, out))
        self._handle = Handle(out[0], lib.mp_drafter_free, "drafter")
        self._draft: Any = ffi.new("mp_draft *")
        self._result: Any = ffi.new("mp_draft_result *")
        self._n_known = 0  # tokens of the context that the drafter has seen
        self._n_grown = 0  # nodes of the draft under way

    @property
    def sources(self) -> list[str | None]:
        return [SOURCES[source] if source >= 0 else None for source in ffi.unpack(self._draft.sources, self._n_grown)]

    def begin(self, tokens: Sequence[int]) -> None:
        ids, pointer = token_array(tokens)
        with self._handle as drafter:
            check(lib.mp_drafter_begin(drafter, pointer, len(ids)))
        self._n_known, self._n_grown = len(tokens), 0

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        tokens, parents, probabilities = self.draft(context, room)
        return TokenTree.grown(tokens, parents, [math.log(probability) for probability in probabilities])

    def draft(self, context: Sequence[int], room: int) -> tuple[list[int], list[int], list[float]]:
        """The tree as lists: tokens, parents and probabilities of its nodes."""
        draft = self._draft
        with self._handle as drafter:
            if self._n_known < len(context):  # passes without a draft
                ids, pointer = token_array(context[self._n_known :])
                check(lib.mp_drafter_extend(drafter, pointer, len(ids)))
                self._n_known = len(context)
            check(lib.mp_drafter_grow(drafter, min(room, self.n_rows_max), draft))
        self._n_grown = n = draft.n_nodes
        return ffi.unpack(draft.tokens, n), ffi.unpack(draft.parents, n), ffi.unpack(draft.probabilities, n)

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        if not 1 <= tree.n_nodes <= self._n_grown:  # not a tree of ours: its tokens are seen in the next context
            return
        learned = self._result
        learned.n_nodes, learned.n_masks, learned.n_top = tree.n_nodes, tree.n_masks, result.n_top
        learned.n_path = len(path)
        arrays = [ffi.new("int32_t[]", values) for values in (path, emitted, tree.mask_owners)]  # alive during the call
        learned.path, learned.emitted, learned.mask_owners = arrays
        learned.top_tokens = ffi.from_buffer("int32_t[]", result.top_tokens)
        learned.top_logprobs = ffi.from_buffer("float[]", result.top_logprobs)
        with self._handle as drafter:
            check(lib.mp_drafter_observe(drafter, learned))
        self._n_known += len(emitted)
        self._n_grown = 0

    @property
    def mask_gain(self) -> float:
        """By how much masks raised the probability of the token that came, per pass, lately."""
        with self._handle as drafter:
            return lib.mp_drafter_mask_gain(drafter)

    def save(self) -> bytes:
        """What was learned of the model, for load()."""
        size = ffi.new("size_t *")
        with self._handle as drafter:
            check(lib.mp_drafter_save(drafter, ffi.NULL, 0, size))
            data = bytearray(size[0])
            check(lib.mp_drafter_save(drafter, ffi.from_buffer(data), len(data), size))
        return bytes(data)

    def load(self, data: bytes) -> None:
        """Takes over what save() gave. Raises ModelError for anything else, and has learned nothing then."""
        with self._handle as drafter:
            check(lib.mp_drafter_load(drafter, ffi.from_buffer(data), len(data)))

"""One tree from all that is known without another pass: what the model gave before, n-grams, the rows of the last pass.

The work is done in the core (csrc/draft); see the drafter in maskprobe.h for the evidence and where it comes from.
"""

from collections import Counter
from collections.abc import Sequence
from math import log
from typing import Any

import numpy as np

from .._capi import Handle, check, ffi, lib, token_array
from ..model import Model
from ..planner import Planner
from ..session import Pass, Session
from ..tree import TokenTree
from .base import N_ROWS_LIMIT, Proposer, checked_count

N_TOP = 8  # tokens of each row that are learned from
# Rows of the prompt that are learned from. With a large vocabulary each costs the output matrix, about a fifth of a 1B
# model's row: these take no longer than a plain pass.
N_PROMPT_ROWS = 16
# A drafter that knows nothing of the model asks it about single tokens, in passes of so many rows, while these take no
# more than so many products: 200 rows of a model with 10^7 parameters, none of one with 10^8.
EXPLORING_ROWS = 32
EXPLORING_WORK = 2e9
LEAST = -690.0  # logarithm of a probability of 0
SOURCES = (
    "token",
    "pair",
    "triple",
    "n-gram",
    "mask",
    "row before",
    "rejected rows",
    "earlier texts",
)  # maskprobe.h, mp_draft


class Evidence(Proposer):
    """Grows the tree best first: the nodes come in the order of their probability, so any first part of it is the best
    tree of its size. What it learns of the model stays from one generation to the next.

    On a small model the first generation of all begins with passes over tokens that seem likely and were in no row yet,
    each right behind the prompt: their rows fill the tables. They belong to the evaluation of the prompt.

    On a model that takes no trees it grows the most probable chain, and asks nothing beforehand.

    `sources[i]` names what spoke most for node i of the last tree.

    Raises ArgumentError for a number of rows out of range.
    """

    def __init__(self, model: Model, *, rows: int = 16) -> None:
        self.n_rows_max = checked_count("rows", rows)
        self.n_top = min(N_TOP, model.info.n_vocab)
        self.n_prompt_rows = N_PROMPT_ROWS
        out = ffi.new("mp_drafter **")
        check(lib.mp_drafter_open(model.info.n_vocab, out))
        self._handle = Handle(out[0], lib.mp_drafter_free, "drafter")
        self._draft: Any = ffi.new("mp_draft *")
        self._result: Any = ffi.new("mp_draft_result *")
        self._n_rows: Any = ffi.new("int32_t *")
        self._path, self._emitted, self._owners = (ffi.new("int32_t[]", N_ROWS_LIMIT) for _ in range(3))
        self._result.path, self._result.emitted, self._result.mask_owners = self._path, self._emitted, self._owners
        self._tops: Any = None  # of the result, alive during the call
        self._n_known = 0  # tokens of the context that the drafter has seen
        self._n_grown = 0  # nodes of the draft under way
        self._session: Session | None = None
        self._is_new = True  # it knows nothing of the model

    @property
    def sources(self) -> list[str | None]:
        return [SOURCES[source] if source >= 0 else None for source in ffi.unpack(self._draft.sources, self._n_grown)]

    @property
    def earned(self) -> Counter[str]:
        """Accepted candidates so far, by what spoke most for them."""
        counts = ffi.new("int64_t[]", len(SOURCES))
        with self._handle as drafter:
            check(lib.mp_drafter_earned(drafter, counts))
        return Counter({name: n for name, n in zip(SOURCES, counts, strict=True) if n})

    @property
    def examples(self) -> np.ndarray:
        """The candidates that the last pass was learned from, uint8 (n, 2 + kinds of evidence): an mp_example each."""
        n = self._n_rows
        with self._handle as drafter:
            check(lib.mp_drafter_examples(drafter, 0, ffi.NULL, n))
            found = np.empty((n[0], ffi.sizeof("mp_example")), np.uint8)
            check(lib.mp_drafter_examples(drafter, len(found), ffi.from_buffer("mp_example[]", found), n))
        return found

    def attach(self, session: Session) -> None:
        self._session = session
        with self._handle as drafter:
            check(lib.mp_drafter_chains_only(drafter, not session.model.info.can_tree))

    def begin(self, tokens: Sequence[int]) -> None:
        ids, pointer = token_array(tokens)
        with self._handle as drafter:
            check(lib.mp_drafter_begin(drafter, pointer, len(ids)))
        self._n_known, self._n_grown = len(tokens), 0
        if self._is_new and self._session is not None:
            self._is_new = False
            if self._session.model.info.can_tree:
                self._explore_while_cheap(self._session, tokens[-1])

    def _explore_while_cheap(self, session: Session, newest: int) -> None:
        n_left = int(EXPLORING_WORK / max(session.model.info.n_params, 1))  # rows
        room = min(session.n_rows_max, session.n_ctx - session.n_past)
        if min(n_left, room) < EXPLORING_ROWS:
            return
        self.explore(session, newest, [])
        while n_left > 1 and (unseen := self.unseen(min(n_left, EXPLORING_ROWS) - 1)):
            self.explore(session, newest, unseen)
            n_left -= 1 + len(unseen)

    def unseen(self, n: int) -> list[int]:
        """At most n tokens that rows gave as likely and that were in no row yet, the likeliest first."""
        tokens = ffi.new("int32_t[]", max(n, 1))
        with self._handle as drafter:
            check(lib.mp_drafter_unseen(drafter, n, tokens, self._n_rows))
        return ffi.unpack(tokens, self._n_rows[0]) if self._n_rows[0] else []

    def explore(self, session: Session, newest: int, tokens: Sequence[int]) -> Pass:
        """Learns from a pass over the newest token of the text and `tokens` as its children. The cache is as before."""
        result = session.decode(children_of(newest, tokens), self.n_top)
        session.rollback()
        tops = ffi.from_buffer("int32_t[]", result.top_tokens), ffi.from_buffer("float[]", result.top_logprobs)
        with self._handle as drafter:
            check(lib.mp_drafter_learn_unseen(drafter, ffi.new("int32_t[]", tokens), len(tokens), result.n_top, *tops))
        return result

    def learn_prompt(self, top_tokens: np.ndarray, top_logprobs: np.ndarray) -> None:
        tops = ffi.from_buffer("int32_t[]", top_tokens), ffi.from_buffer("float[]", top_logprobs)
        with self._handle as drafter:
            check(lib.mp_drafter_learn_prompt(drafter, *top_tokens.shape, *tops))

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        draft = self.draft(context, room)
        return first_nodes(draft, draft.n_nodes)

    def draft(self, context: Sequence[int], room: int) -> Any:
        """A tree of at most `room` nodes as an mp_draft, which lives until the next call."""
        draft = self._draft
        with self._handle as drafter:
            self._read(drafter, context)
            check(lib.mp_drafter_grow(drafter, min(room, self.n_rows_max), draft))
        self._n_grown = draft.n_nodes
        return draft

    def n_repeated(self, context: Sequence[int]) -> int:
        """How many of the last tokens followed, each of them, what the same two tokens before it foretold."""
        with self._handle as drafter:
            self._read(drafter, context)
            return lib.mp_drafter_n_repeated(drafter)

    def repeats(self, context: Sequence[int]) -> bool:
        """Whether the text repeats itself."""
        return self.n_repeated(context) >= lib.MP_N_REPEATED

    def _read(self, drafter: Any, context: Sequence[int]) -> None:
        """Shows the drafter the tokens that came without a draft."""
        n_new = len(context) - self._n_known
        if n_new > 0:
            check(lib.mp_drafter_extend(drafter, ffi.new("int32_t[]", context[-n_new:]), n_new))
            self._n_known = len(context)

    def planned(self, planner: Planner, context: Sequence[int], room: int) -> tuple[Any, int]:
        """A draft as the planner wants it, and how many rows it gives to it."""
        with self._handle as drafter:
            self._read(drafter, context)
            room = min(room, self.n_rows_max)
            check(lib.mp_planner_draft(planner.pointer, drafter, len(context) - 1, room, self._draft, self._n_rows))
        self._n_grown = self._draft.n_nodes
        return self._draft, self._n_rows[0]

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        if not 1 <= tree.n_nodes <= self._n_grown:  # not a tree of ours: its tokens are seen in the next context
            return
        learned = self._learned(tree, result, path, emitted)
        with self._handle as drafter:
            check(lib.mp_drafter_observe(drafter, learned))

    def observe_planned(
        self,
        planner: Planner,
        tree: TokenTree,
        result: Pass,
        path: Sequence[int],
        emitted: Sequence[int],
        core_us: float,
        total_us: float,
    ) -> None:
        """Learns from a pass over a planned draft, the planner too."""
        learned = self._learned(tree, result, path, emitted)
        with self._handle as drafter:
            check(lib.mp_planner_learn(planner.pointer, drafter, self._draft, learned, core_us, total_us))

    def _learned(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> Any:
        """The mp_draft_result; the emitted tokens are known from here on."""
        learned, n_path = self._result, len(path)
        learned.n_nodes, learned.n_masks, learned.n_top = tree.n_nodes, tree.n_masks, result.n_top
        learned.n_path = n_path
        self._path[0:n_path], self._emitted[0:n_path] = path, emitted
        if tree.mask_owners:
            self._owners[0 : tree.n_masks] = tree.mask_owners
        self._tops = ffi.from_buffer("int32_t[]", result.top_tokens), ffi.from_buffer("float[]", result.top_logprobs)
        learned.top_tokens, learned.top_logprobs = self._tops
        self._n_known += n_path
        self._n_grown = 0
        return learned

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
        self._is_new = False


def children_of(newest: int, tokens: Sequence[int]) -> TokenTree:
    return TokenTree.grown([newest, *tokens], [-1] + [0] * len(tokens), [0.0] * (1 + len(tokens)))


def chain_of(newest: int, tokens: Sequence[int]) -> TokenTree:
    return TokenTree.grown([newest, *tokens], list(range(-1, len(tokens))), [0.0] * (1 + len(tokens)))


def first_nodes(draft: Any, n: int) -> TokenTree:
    """The tree of the first n nodes of an mp_draft."""
    if n == 1:
        return TokenTree(draft.tokens[0])
    tokens, parents = ffi.unpack(draft.tokens, n), ffi.unpack(draft.parents, n)
    logprobs = [log(p) if p > 0 else LEAST for p in ffi.unpack(draft.probabilities, n)]
    return TokenTree.grown(tokens, parents, logprobs)

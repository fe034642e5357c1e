"""The drafter of the core (csrc/draft), built by itself and driven without an engine."""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskprobe import TokenTree

CSRC = Path(__file__).parent.parent / "csrc"
SOURCES = ("acceptance_model", "drafter", "evidence_tables", "head_evidence", "knowledge", "learning")
N_EVIDENCE = 9  # csrc/draft/acceptance_model.h


@functools.cache
def library() -> ctypes.CDLL:
    """Compiled from what is there now."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if not compiler:
        raise SystemExit("the drafter is compiled from csrc/draft: no C++ compiler found, set CXX")
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "draft.so"
        sources = [Path(__file__).with_suffix(".cpp"), *(CSRC / "draft" / f"{name}.cpp" for name in SOURCES)]
        command = [compiler, "-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", f"-I{CSRC}", *sources]
        subprocess.run([*command, "-o", target, "-pthread"], check=True)
        found = ctypes.CDLL(str(target))
    found.draft_new.restype = ctypes.c_void_p
    found.draft_load.restype = ctypes.c_bool
    return found


class Drafter:
    """One text at a time, and what is known of a model of `n_vocab` tokens. It grows and learns as in the engine."""

    def __init__(self, n_vocab: int, *, chains_only: bool = False) -> None:
        self._library = library()
        self._pointer = ctypes.c_void_p(self._library.draft_new(n_vocab, chains_only))
        self._n_examples = 0

    def __del__(self) -> None:
        self._library.draft_free(self._pointer)

    def load(self, state: bytes) -> None:
        """What is known of the model, as the core keeps it."""
        if not self._library.draft_load(self._pointer, state, ctypes.c_size_t(len(state))):
            raise ValueError(f"{len(state)} bytes that are no state of a drafter")

    def begin(self, tokens: Sequence[int], rows: tuple[np.ndarray, np.ndarray]) -> None:
        """A new text, whose last token is the first root. `rows`: the likely tokens after those before it, int32
        (n_rows, n_top), and their log-probabilities, float32."""
        self._library.draft_begin(self._pointer, _ints(tokens[:-1]), len(tokens) - 1)
        if len(rows[0]):
            self._library.draft_learn_prompt(self._pointer, *rows[0].shape, *_arrays(*rows))
        self._library.draft_extend(self._pointer, _ints(tokens[-1:]), 1)

    def propose(self, n_most: int) -> TokenTree:
        """A draft of at most n_most nodes."""
        tokens, parents = ((ctypes.c_int32 * n_most)() for _ in range(2))
        n = self._library.draft_grow(self._pointer, n_most, tokens, parents)
        return tree_of(tokens[:n], parents[:n])

    def observe(
        self,
        tree: TokenTree,
        top_tokens: np.ndarray,
        top_logprobs: np.ndarray,
        path: Sequence[int],
        emitted: Sequence[int],
    ) -> None:
        """Learns from a pass: top_tokens and top_logprobs (n_nodes, n_top)."""
        n_nodes, n_top = top_tokens.shape
        shape, rows = (_ints(tree.tokens), _ints(tree.parents)), _arrays(top_tokens, top_logprobs)
        self._n_examples = self._library.draft_observe(
            self._pointer, n_nodes, *shape, n_top, *rows, len(path), _ints(path), _ints(emitted)
        )

    @property
    def examples(self) -> np.ndarray:
        """The candidates that the last pass was learned from, uint8 (n, 2 + kinds of evidence): class of depth, whether
        it was right, a level of each kind."""
        found = np.empty((self._n_examples, 2 + N_EVIDENCE), np.uint8)
        self._library.draft_examples(self._pointer, found.ctypes.data_as(ctypes.c_void_p))
        return found


def tree_of(tokens: Sequence[int], parents: Sequence[int]) -> TokenTree:
    tree = TokenTree(tokens[0])
    for token, parent in zip(tokens[1:], parents[1:], strict=True):
        tree.add(parent, token, 0.0)
    return tree


def _ints(values: Sequence[int]) -> ctypes.Array:
    return (ctypes.c_int32 * len(values))(*values)


def _arrays(tokens: np.ndarray, logprobs: np.ndarray) -> tuple[ctypes.c_void_p, ctypes.c_void_p]:
    assert tokens.dtype == np.int32 and logprobs.dtype == np.float32
    assert tokens.flags.c_contiguous and logprobs.flags.c_contiguous
    return tokens.ctypes.data_as(ctypes.c_void_p), logprobs.ctypes.data_as(ctypes.c_void_p)

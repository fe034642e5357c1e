"""Masks that were trained for a model, with matrices that act on their rows alone (docs/masks.md)."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ._capi import Handle, Owner, array_of, c_path, check, ffi, lib
from .model import Model

GGUF_MAGIC = b"GGUF"


class TrainedMasks(Owner):
    """A file of trained masks, loaded for a model. `vectors` is float32 (n_masks, n_embd), in the space of token
    embeddings.

    A TokenTree whose `trained` is this object has its matrices added on the rows of its masks, and on no other row.

    Raises ModelError for a file that cannot be read, is unsound or belongs to another model, and where the model's
    products are not those of maskprobe's kernels."""

    def __init__(self, model: Model, path: str | os.PathLike[str]) -> None:
        out = ffi.new("mp_masks **")
        with model._handle as opened:
            check(lib.mp_masks_open(opened, c_path(path, "masks"), out))
        self._handle = Handle.of(out[0], lib.mp_masks_free, "file of masks")
        n, vectors = ffi.new("int32_t *"), ffi.new("float **")
        with self._handle as masks:
            check(lib.mp_masks_vectors(masks, n, vectors))
            self.vectors = array_of(vectors[0], np.float32, n[0], model.info.n_embd).copy()

    @property
    def pointer(self) -> Any:
        """For mp_tree. Raises StateError where it is closed."""
        with self._handle as masks:
            return masks


def is_mask_file(path: Path) -> bool:
    """Whether it may be such a file, and is no bare vector."""
    try:
        with open(path, "rb") as file:
            return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC
    except OSError:
        return False

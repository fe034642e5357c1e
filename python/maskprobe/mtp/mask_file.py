"""The file of trained masks: one GGUF, which the core checks and loads (csrc/gguf/masks_file.cpp).

general.architecture      "maskprobe-masks"
maskprobe.masks.version   1
maskprobe.masks.n_embd, .n_vocab, .n_masks
maskprobe.masks.model     whose they are, as Model.identity has it
maskprobe.masks.training  one line of JSON about the data and the losses, optional

mask.embd                 (n_masks, n_embd) F32, in the space of token embeddings
NAME.lora_a, NAME.lora_b  (rank, n_in) and (n_out, rank), F16 or F32, for any matrices NAME of the model's layers
head.*                    the sampler head, optional: masked_model.py
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ..errors import ModelError
from .work_folder import replace

ARCHITECTURE = "maskprobe-masks"
VERSION = 1


@dataclass(slots=True)
class MaskFile:
    """What such a file holds. `vectors` (n_masks, n_embd); `pairs` has (A, B) by the name of the matrix, as
    "blk.0.attn_q.weight", with A (rank, n_in) and B (n_out, rank); `head` the tensors of the sampler head by their
    names; `about` further keys of the file: what it is, whose licence it has."""

    identity: str
    n_vocab: int
    vectors: np.ndarray
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    head: Mapping[str, np.ndarray] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)


def write_masks(path: Path, masks: MaskFile, *, dtype: type = np.float16) -> None:
    """Writes the file as a whole: who reads it, or kills this process, never sees half of one. Matrices get `dtype`,
    float16 or float32; vectors and the head's vectors float32.

    Raises ModelError where it cannot be written."""
    try:
        replace(path, lambda beside: _write(beside, masks, dtype))
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror or error}", "file") from None


def _write(path: Path, masks: MaskFile, dtype: type) -> None:
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_uint32("maskprobe.masks.version", VERSION)
    writer.add_uint32("maskprobe.masks.n_embd", masks.vectors.shape[1])
    writer.add_uint32("maskprobe.masks.n_vocab", masks.n_vocab)
    writer.add_uint32("maskprobe.masks.n_masks", masks.vectors.shape[0])
    writer.add_string("maskprobe.masks.model", masks.identity)
    for key, value in masks.about.items():
        writer.add_string(key, value)
    if masks.training:
        writer.add_string("maskprobe.masks.training", json.dumps(masks.training))
    writer.add_tensor("mask.embd", np.ascontiguousarray(masks.vectors, np.float32))
    for name, (a, b) in masks.pairs.items():
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(a, dtype))
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(b, dtype))
    for name, values in masks.head.items():
        writer.add_tensor(name, np.ascontiguousarray(values, dtype if values.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

"""The GGUF file of trained heads: how it is written, and read back for a check. docs/heads.md has its layout."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

from ..errors import Error
from .head_weights import KINDS, Q8_0, HeadWeights

ARCHITECTURE = "maskprobe-heads"
VERSION = 1
N_BYTES_MAX = 16_000_000


def write_heads(
    path: Path, weights: HeadWeights, model: str, n_vocab: int, metadata: Mapping[str, str | int | float]
) -> None:
    """Replaces the file at `path`, once the new one is complete and has been read back. `model` is the model's
    identity.

    Raises Error where it cannot be written, or would be too large."""
    place = Path(os.path.realpath(path))
    beside = place.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        _write(beside, weights, model, n_vocab, metadata)
        n_bytes = beside.stat().st_size
        if n_bytes > N_BYTES_MAX:
            raise Error(f"the heads would take {n_bytes} bytes, at most {N_BYTES_MAX} are possible")
        read = read_heads(beside)
        if not np.array_equal(read.short_tokens, weights.short_tokens):
            raise Error(f"what was written to '{path}' is not what can be read there")
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(place)
    except OSError as error:
        raise Error(f"cannot write '{path}': {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)


def _write(
    path: Path, weights: HeadWeights, model: str, n_vocab: int, metadata: Mapping[str, str | int | float]
) -> None:
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_uint32("maskprobe.heads.version", VERSION)
    writer.add_string("maskprobe.heads.kind", weights.KIND)
    writer.add_uint32("maskprobe.heads.n_embd", weights.short.shape[1])
    writer.add_uint32("maskprobe.heads.n_vocab", n_vocab)
    writer.add_string("maskprobe.heads.model", model)
    for key, number in weights.keys().items():
        writer.add_uint32(f"maskprobe.heads.{key}", number)
    for key, value in metadata.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint64(key, value)
        else:
            writer.add_float32(key, value)
    for name, values in weights.tensors().items():
        if values.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(values, Q8_0), raw_dtype=Q8_0)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_heads(path: Path) -> HeadWeights:
    """With the weights as they are after quantisation, of the kind that the file says.

    Raises Error for a file that has no such heads, or is damaged."""
    try:
        reader = gguf.GGUFReader(path)
        tensors = {tensor.name: _values(tensor) for tensor in reader.tensors}
        if _field(reader, "general.architecture") != ARCHITECTURE:
            raise Error(f"'{path}' is a GGUF of another kind")
        kind = KINDS.get(str(_field(reader, "maskprobe.heads.kind")))
        if kind is None or _field(reader, "maskprobe.heads.version") != VERSION:
            raise Error(f"'{path}' has heads of another kind or version")
        weights = kind.of(tensors)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise Error(f"'{path}' is damaged: {error}") from None
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise Error(f"'{path}' has weights that are not finite")
    return weights


def _values(tensor: gguf.ReaderTensor) -> np.ndarray:
    if tensor.tensor_type == gguf.GGMLQuantizationType.I32:
        return tensor.data
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def _field(reader: gguf.GGUFReader, key: str) -> object:
    return reader.fields[key].contents()

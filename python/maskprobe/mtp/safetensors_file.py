"""A reader of safetensors files that believes nothing: 8 bytes of the header's length, a header in JSON, the data."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelError

LARGEST_HEADER = 100_000_000  # bytes, as the format has it
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class Entry:
    kind: str
    shape: tuple[int, ...]
    begin: int  # of the data, in bytes
    end: int


class SafetensorsFile:
    """The float tensors of a file, by name, and `metadata`, text by name.

    Raises ModelError, in one line, for a file that cannot be read and for one that is no sound safetensors file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._data = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}", "file") from None
        n_file = len(self._data)
        n_header = int.from_bytes(self._data[:8].tobytes(), "little") if n_file >= 8 else -1
        if not 2 <= n_header <= min(LARGEST_HEADER, n_file - 8):
            raise self._refused(f"a header of {n_header} bytes in a file of {n_file}")
        try:
            header = json.loads(self._data[8 : 8 + n_header].tobytes())
        except (ValueError, RecursionError):
            raise self._refused("its header is no JSON") from None
        if not isinstance(header, dict):
            raise self._refused("its header is no object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise self._refused("its __metadata__ is no object of texts")
        self.metadata: dict[str, str] = metadata
        self._start = 8 + n_header
        self.entries = {name: self._entry(name, entry) for name, entry in header.items()}
        end = 0
        for name, entry in sorted(self.entries.items(), key=lambda item: (item[1].begin, item[1].end)):
            if entry.begin != end:
                raise self._refused(f"tensor {name!r} starts at byte {entry.begin} of the data, expected {end}")
            end = entry.end
        if end != n_file - self._start:
            raise self._refused(f"its tensors have {end} bytes, the file {n_file - self._start}")

    def _refused(self, why: str) -> ModelError:
        return ModelError(f"{self._path} is no sound safetensors file: {why}")

    def _entry(self, name: str, entry: Any) -> Entry:
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise self._refused(f"tensor {name!r} has other fields than dtype, shape and data_offsets")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if kind not in SIZES:
            raise self._refused(f"tensor {name!r} has type {kind!r}: expected {', '.join(SIZES)}")
        if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
            raise self._refused(f"tensor {name!r} has shape {shape!r} and data_offsets {offsets!r}")
        begin, end = offsets
        if end - begin != SIZES[kind] * math.prod(shape):
            raise self._refused(f"tensor {name!r} of shape {shape} has {end - begin} bytes of type {kind}")
        return Entry(kind, tuple(shape), begin, end)

    def tensor(self, name: str) -> np.ndarray:
        """One tensor as float32. Raises ModelError where it has NaN or infinite values."""
        entry = self.entries[name]
        data = self._data[self._start + entry.begin : self._start + entry.end]
        if entry.kind == "BF16":
            values = (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = data.view({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[entry.kind]).astype(np.float32)
        if not np.isfinite(values).all():
            raise ModelError(f"{self._path}: tensor {name!r} has NaN or infinite values")
        return values.reshape(entry.shape)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)

"""The keys of a GGUF file whose values are no arrays, read without the rest of the file."""

import os
import struct
from typing import BinaryIO

# Bytes of a value by its GGUF type; 8 is a string, 9 an array.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


def scalar_keys(path: str | os.PathLike[str]) -> list[str]:
    """In the order of the file. It has been opened as a Model before, so it is known to be sound."""
    keys = []
    with open(path, "rb") as file:
        _magic, _version, _n_tensors, n_keys = struct.unpack("<4sIQQ", file.read(24))
        for _ in range(n_keys):
            key = file.read(_number(file, "<Q")).decode("utf-8", errors="replace")
            kind = _number(file, "<I")
            if kind != ARRAY:
                keys.append(key)
            _skip(file, kind)
    return keys


def _number(file: BinaryIO, form: str) -> int:
    return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])


def _skip(file: BinaryIO, kind: int) -> None:
    """Goes past a value."""
    if kind == STRING:
        file.seek(_number(file, "<Q"), os.SEEK_CUR)
    elif kind == ARRAY:
        item, n = _number(file, "<I"), _number(file, "<Q")
        if item in SIZES:
            file.seek(n * SIZES[item], os.SEEK_CUR)
            return
        for _ in range(n):
            _skip(file, item)
    else:
        file.seek(SIZES[kind], os.SEEK_CUR)

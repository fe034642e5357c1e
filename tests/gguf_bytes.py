"""GGUF files in memory, packed by hand: what cannot be wrong in a GGUFWriter can be made wrong here."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}

# ggml types of tensors that the tests use: elements and bytes of a block
TENSOR_F32, TENSOR_F16, TENSOR_Q4_0, TENSOR_Q8_0, TENSOR_Q8_K, TENSOR_I32 = 0, 1, 2, 8, 15, 26
BLOCKS = {
    TENSOR_F32: (1, 4),
    TENSOR_F16: (1, 2),
    TENSOR_Q4_0: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    TENSOR_Q8_0: (32, 34),
    9: (32, 36),
    10: (256, 84),
    12: (256, 144),
    14: (256, 210),
    TENSOR_Q8_K: (256, 292),
    20: (32, 18),
    24: (1, 1),
    25: (1, 2),
    TENSOR_I32: (1, 4),
    27: (1, 8),
    28: (1, 8),
    30: (1, 2),
}
ALIGNMENT = 32


@dataclass
class Value:
    """A key's value: `item` is the type of the elements where it is an array, else None."""

    type: int
    value: object
    item: int | None = None

    def pack(self) -> bytes:
        if self.type != ARRAY:
            return struct.pack("<I", self.type) + pack_item(self.type, self.value)
        items = b"".join(pack_item(self.item, value) for value in self.value)
        return struct.pack("<IIQ", ARRAY, self.item, len(self.value)) + items


@dataclass
class Tensor:
    name: bytes
    dims: list[int]
    type: int
    data: bytes
    offset: int | None = None  # None: where it belongs

    def pack_info(self, offset: int) -> bytes:
        offset = offset if self.offset is None else self.offset
        dims = struct.pack(f"<I{len(self.dims)}Q", len(self.dims), *self.dims)
        return pack_string(self.name) + dims + struct.pack("<iQ", self.type, offset)


@dataclass
class File:
    """The key-values are a list of pairs, so that a key can be there twice."""

    values: list[tuple[bytes, Value]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    version: int = 3

    def get(self, key: str) -> Value:
        return next(value for name, value in self.values if name == key.encode())

    def set(self, key: str, value: Value | None) -> None:
        """Replaces a key's value, adds it, or removes it where the value is None."""
        name = key.encode()
        index = next((i for i, (other, _) in enumerate(self.values) if other == name), len(self.values))
        self.values[index : index + 1] = [] if value is None else [(name, value)]

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name.encode())

    def pack_header(self) -> bytes:
        infos, offset = [], 0
        for tensor in self.tensors:
            infos.append(tensor.pack_info(offset))
            offset += padded(len(tensor.data))
        values = [pack_string(key) + value.pack() for key, value in self.values]
        return struct.pack("<4sIQQ", b"GGUF", self.version, len(infos), len(values)) + b"".join(values + infos)

    def pack(self) -> bytes:
        header = self.pack_header()
        parts = [header.ljust(padded(len(header)), b"\0")] if self.tensors else [header]
        parts += [tensor.data.ljust(padded(len(tensor.data)), b"\0") for tensor in self.tensors]
        return b"".join(parts)

    @classmethod
    def parse(cls, data: bytes) -> File:
        """Reads a sound file."""
        reader = Reader(data)
        _, version, n_tensors, n_values = reader.read("4sIQQ")
        file = cls(version=version)
        for _ in range(n_values):
            key = reader.string()
            file.values.append((key, reader.value()))
        infos = []
        for _ in range(n_tensors):
            name = reader.string()
            dims = list(reader.read(f"{reader.read('I')[0]}Q"))
            infos.append((name, dims, *reader.read("iQ")))
        start = padded(reader.position)
        for name, dims, kind, offset in infos:
            tensor_data = data[start + offset : start + offset + tensor_size(dims, kind)]
            file.tensors.append(Tensor(name, dims, kind, tensor_data))
        return file


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def read(self, layout: str) -> tuple:
        values = struct.unpack_from("<" + layout, self.data, self.position)
        self.position += struct.calcsize("<" + layout)
        return values

    def string(self) -> bytes:
        (length,) = self.read("Q")
        self.position += length
        return self.data[self.position - length : self.position]

    def item(self, kind: int) -> object:
        return self.string() if kind == STR else self.read(FORMATS[kind])[0]

    def value(self) -> Value:
        (kind,) = self.read("I")
        if kind != ARRAY:
            return Value(kind, self.item(kind))
        item, count = self.read("IQ")
        return Value(ARRAY, [self.item(item) for _ in range(count)], item)


def pack_string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def pack_item(kind: int, value: object) -> bytes:
    return pack_string(value) if kind == STR else struct.pack("<" + FORMATS[kind], value)


def padded(size: int) -> int:
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def tensor_size(dims: list[int], kind: int) -> int:
    elements, size = BLOCKS[kind]
    count = 1
    for dim in dims:
        count *= dim
    return count // elements * size

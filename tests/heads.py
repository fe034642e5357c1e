"""Files of heads as maskprobe-train writes them (docs/heads.md), made up for tests, and what they compute."""

import ctypes
import itertools
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

from conftest import PROJECT
from maskprobe import Model

N_LIKELY = 12  # csrc/draft/head.h
Q8_0 = gguf.GGMLQuantizationType.Q8_0
MATRICES = re.compile(r"(head|ahead\.\d+)\.[01]\.weight|short\.weight")
N_DISTANCES_MAX = 8  # csrc/heads/mtp_heads.cpp


def random_tensors(model: Model, n_hidden: int = 96, n_short: int = 50, seed: int = 0) -> dict[str, np.ndarray]:
    """In single precision, with tokens from the whole vocabulary."""
    random = np.random.default_rng(seed)
    d, info = model.info.n_embd, model.info

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * random.standard_normal(shape)).astype(np.float32)

    return {
        "head.0.weight": normal(n_hidden, 2 * d, scale=(2 * d) ** -0.5),
        "head.0.bias": normal(n_hidden, scale=0.1),
        "head.0.norm.weight": 1 + normal(n_hidden, scale=0.1),
        "head.0.norm.bias": normal(n_hidden, scale=0.1),
        "head.1.weight": normal(d, n_hidden, scale=n_hidden**-0.5),
        "head.1.bias": normal(d, scale=0.1),
        "head.1.norm.weight": 1 + normal(d, scale=0.1),
        "head.1.norm.bias": normal(d, scale=0.1),
        "short.tokens": np.sort(random.choice(info.n_vocab, n_short, replace=False)).astype(np.int32),
        "short.weight": normal(n_short, d, scale=d**-0.5),
    }


def keys_of(model: Model) -> dict[str, object]:
    return {
        "general.architecture": "maskprobe-heads",
        "maskprobe.heads.version": 1,
        "maskprobe.heads.kind": "sampler",
        "maskprobe.heads.n_embd": model.info.n_embd,
        "maskprobe.heads.n_vocab": model.info.n_vocab,
        "maskprobe.heads.model": model.identity,
        "maskprobe.heads.temperature": 1.0,
    }


def random_mtp_tensors(
    model: Model, layers: Sequence[int] = (), n_distances: int = 3, n_hidden: int = 64, n_short: int = 50, seed: int = 0
) -> dict[str, np.ndarray]:
    """Of MTP heads that read these layers and the last norm."""
    random = np.random.default_rng(seed)
    d, n_layer = model.info.n_embd, model.info.n_layer
    tensors = {"mix.layers": np.array([*layers, n_layer], np.int32)}
    for places in range(2, 2 + n_distances):
        blocks = random_tensors(model, n_hidden, n_short, seed + places)
        blocks["head.0.weight"] = blocks["head.0.weight"][:, :d]
        for name, values in blocks.items():
            if name.startswith("head."):
                tensors[f"ahead.{places}.{name.removeprefix('head.')}"] = values
        odds = np.exp(random.standard_normal(len(layers) + 1))
        tensors[f"ahead.{places}.mix"] = (odds / odds.sum()).astype(np.float32)
    return tensors | {name: blocks[name] for name in ("short.tokens", "short.weight")}


def mtp_keys_of(model: Model, n_distances: int = 3) -> dict[str, object]:
    return keys_of(model) | {"maskprobe.heads.kind": "mtp", "maskprobe.heads.distances": n_distances}


def write_heads(path: Path, keys: dict[str, object], tensors: dict[str, np.ndarray]) -> Path:
    """Matrices in single precision are quantised, bytes are so already; None leaves a key out."""
    writer = gguf.GGUFWriter(path, str(keys["general.architecture"]))
    for key, value in keys.items():
        if key == "general.architecture" or value is None:
            continue
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    for name, values in tensors.items():
        if MATRICES.fullmatch(name) and values.dtype == np.float32:
            values = gguf.quantize(values, Q8_0)
        if values.dtype == np.uint8:
            writer.add_tensor(name, values, raw_dtype=Q8_0)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rounded(values: np.ndarray) -> np.ndarray:
    """As they are after 8 bits per block of 32."""
    return gguf.dequantize(gguf.quantize(values.astype(np.float32), Q8_0), Q8_0)


def block(values: np.ndarray, tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    """LayerNorm(SiLU(W x + b)), (n, n_out)"""
    y = rounded(values) @ rounded(tensors[f"{name}.weight"]).T + tensors[f"{name}.bias"]
    y = y / (1 + np.exp(-y))
    y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5)
    return y * tensors[f"{name}.norm.weight"] + tensors[f"{name}.norm.bias"]


def evaluate(
    model: Model, tensors: dict[str, np.ndarray], tokens: list[int], latents: np.ndarray, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The latents after tokens, (n, n_embd), and the probabilities of the short list there, (n, n_short)."""
    inputs = np.concatenate([model.embedding_rows(tokens), latents], axis=1)
    after = latents + block(block(inputs, tensors, "head.0"), tensors, "head.1")
    logits = rounded(after / temperature) @ rounded(tensors["short.weight"]).T
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return after, odds / odds.sum(1, keepdims=True)


def look_ahead(tensors: dict[str, np.ndarray], states: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """What MTP heads say of the states (n_states, n_embd): the probabilities of the short list at each distance."""
    normed = states / np.sqrt((states**2).mean(1, keepdims=True) + 1e-5)
    found = []
    while (name := f"ahead.{2 + len(found)}") + ".mix" in tensors:
        mixed = tensors[f"{name}.mix"] @ normed
        after = states[-1] + block(block(mixed[None], tensors, f"{name}.0"), tensors, f"{name}.1")
        logits = (rounded(after / temperature) @ rounded(tensors["short.weight"]).T)[0]
        odds = np.exp(logits - logits.max())
        found.append(odds / odds.sum())
    return np.array(found)


def opened_after_changes(
    library: "HeadLibrary", model: Model, whole: Path, table: np.ndarray, n: int
) -> Iterator["OpenHead"]:
    """Files with a few changed bytes, n times: those that are not refused with one line. Some are refused, some not."""
    bytes_of_whole = whole.read_bytes()
    random = np.random.default_rng(2)
    path, n_opened = whole.with_name("changed.gguf"), 0
    for _ in range(n):
        bytes_of = bytearray(bytes_of_whole)
        for at in random.integers(0, 3000 if random.integers(2) else len(bytes_of), random.integers(1, 4)):
            bytes_of[at] = random.integers(256)
        path.write_bytes(bytes_of)
        try:
            opened = library.open(path, model, table)
        except ValueError as error:
            assert str(error) and "\n" not in str(error)
            continue
        n_opened += 1
        yield opened
    assert 0 < n_opened < n


class HeadLibrary:
    """The core's heads without an engine, compiled on first use from csrc/heads."""

    def __init__(self, folder: Path, compiler: str) -> None:
        lib, csrc = Path(llama_cpp.__file__).parent / "lib", PROJECT / "csrc"
        sources = [
            PROJECT / "tests" / "heads_library.cpp",
            *sorted((csrc / "heads").glob("*.cpp")),
            *sorted((csrc / "kernels" / "gemm").glob("*.cpp")),
            *sorted((csrc / "kernels" / "rows").glob("*.cpp")),
            csrc / "gguf" / "reader.cpp",
            csrc / "platform" / "memory_room.cpp",
            csrc / "session" / "top_k.cpp",
            csrc / "status.cpp",
        ]
        options = [
            "-O2",
            "-std=c++17",
            "-ffp-contract=off",
            "-Wall",
            "-Wextra",
            "-Wno-missing-field-initializers",
            "-Wno-psabi",
        ]
        paths = [f"-I{lib.parent.parent / 'include'}", f"-I{csrc}", f"-L{lib}", f"-Wl,-rpath,{lib}"]
        target = folder / "heads.so"
        command = [compiler, *options, "-shared", "-fPIC", *paths, *sources, "-o", target, "-lggml-base", "-pthread"]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, done.stderr
        self._library = ctypes.CDLL(str(target))
        self._library.heads_open.restype = ctypes.c_void_p
        self._library.last_line.restype = ctypes.c_char_p

    def open(self, path: Path, model: Model, table: np.ndarray | None = None) -> "OpenHead":
        """Raises ValueError with the core's line."""
        info = model.info
        if table is None:
            table = model.embedding_rows(list(range(info.n_vocab)))
        found = self._library.heads_open(
            os.fsencode(path), info.n_embd, info.n_vocab, info.n_layer, model.identity.encode(), pointer_to(table)
        )
        if not found:
            raise ValueError(self._library.last_line().decode())
        return OpenHead(self._library, found, table)


class OpenHead:
    def __init__(self, library: ctypes.CDLL, pointer: int, table: np.ndarray) -> None:
        self._library, self._pointer, self._table = library, ctypes.c_void_p(pointer), table

    def __del__(self) -> None:
        self._library.heads_free(self._pointer)

    def evaluate(self, tokens: list[int], latents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As evaluate(), but of the N_LIKELY most probable tokens: the latents, ids and probabilities."""
        n = len(tokens)
        before, ids = np.ascontiguousarray(latents, np.float32), np.array(tokens, np.int32)
        after = np.empty_like(before)
        likely, probabilities = np.empty((n, N_LIKELY), np.int32), np.zeros((n, N_LIKELY), np.float32)
        self._library.heads_evaluate(self._pointer, n, *map(pointer_to, (ids, before, after, likely, probabilities)))
        return after, likely, probabilities

    def look_ahead(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of MTP heads, for states (n_states, n_embd): the N_LIKELY most probable tokens of each distance."""
        given = np.ascontiguousarray(states, np.float32)
        likely = np.empty((N_DISTANCES_MAX, N_LIKELY), np.int32)
        probabilities = np.zeros((N_DISTANCES_MAX, N_LIKELY), np.float32)
        n = self._library.heads_look_ahead(self._pointer, *map(pointer_to, (given, likely, probabilities)))
        return likely[:n], probabilities[:n]


def pointer_to(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def memory_tensors(model: Model, text: list[int], n_hidden: int = 160) -> dict[str, np.ndarray]:
    """A head that knows by heart which token followed each token of a text, the last time."""
    tokens = sorted(set(text[:-1]))[:n_hidden]
    follows = dict(itertools.pairwise(text))
    short = sorted({follows[token] for token in tokens})
    d, random = model.info.n_embd, np.random.default_rng(3)
    rows = np.array(model.embedding_rows(tokens))
    tensors = random_tensors(model, n_hidden, 1)
    for name in ("head.0", "head.1"):
        tensors[f"{name}.weight"][:] = tensors[f"{name}.bias"][:] = tensors[f"{name}.norm.bias"][:] = 0
        tensors[f"{name}.norm.weight"][:] = 1
    # Unit i of the first block wakes up for token i alone. It has the second block say its pattern.
    tensors["head.0.weight"][: len(tokens), :d] = 40 * rows / (rows**2).sum(1, keepdims=True)
    tensors["head.0.bias"][:] = -30
    patterns = random.integers(0, 2, (len(tokens), d)).astype(np.float32)
    tensors["head.1.weight"][:, : len(tokens)] = patterns.T
    tensors["head.1.norm.weight"][:] = 50
    tensors["short.tokens"] = np.array(short, np.int32)
    tensors["short.weight"] = np.zeros((len(short), d), np.float32)
    for token, pattern in zip(tokens, patterns, strict=True):
        tensors["short.weight"][short.index(follows[token])] += (pattern - 0.5) / d
    return tensors

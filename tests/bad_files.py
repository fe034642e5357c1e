"""A tiny sound model, and one bad variant of it for each thing that must be refused."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STR,
    TENSOR_F16,
    TENSOR_F32,
    TENSOR_I32,
    TENSOR_Q4_0,
    TENSOR_Q8_K,
    U16,
    U32,
    U64,
    File,
    Tensor,
    Value,
    pack_string,
)

WIDTH, HEADS, KV_HEADS, FFN, LAYERS, CONTEXT = 8, 2, 1, 16, 2, 128
HEAD = WIDTH // HEADS
TOKENS = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256)), b"a", b"b", b"ab", b"\xe2\x96\x81a"]
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def u32(value: int) -> Value:
    return Value(U32, value)


def f32(value: float) -> Value:
    return Value(F32, value)


def text(value: str) -> Value:
    return Value(STR, value.encode())


def array(item: int, values: list) -> Value:
    return Value(ARRAY, values, item)


def random_tensor(rng: random.Random, name: str, dims: list[int], kind: int) -> Tensor:
    count = 1
    for dim in dims:
        count *= dim
    centre = 1.0 if "norm" in name else 0.0
    values = [centre + rng.gauss(0, 0.1) for _ in range(count)]
    return Tensor(name.encode(), dims, kind, struct.pack(f"<{count}{'f' if kind == TENSOR_F32 else 'e'}", *values))


def tiny_llama() -> File:
    """Two layers with random weights and a SentencePiece vocabulary of bytes: about 15 KB."""
    file = File()
    file.set("general.architecture", text("llama"))
    file.set("general.name", text("tiny"))
    sizes = {
        "block_count": LAYERS,
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "feed_forward_length": FFN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "rope.dimension_count": HEAD,
    }
    for key, size in sizes.items():
        file.set(f"llama.{key}", u32(size))
    file.set("llama.attention.layer_norm_rms_epsilon", f32(1e-5))
    file.set("llama.rope.freq_base", f32(10000.0))
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(TOKENS) - 259)
    file.set("tokenizer.ggml.model", text("llama"))
    file.set("tokenizer.ggml.tokens", array(STR, list(TOKENS)))
    file.set("tokenizer.ggml.scores", array(F32, [-float(i) for i in range(len(TOKENS))]))
    file.set("tokenizer.ggml.token_type", array(I32, types))
    file.set("tokenizer.ggml.bos_token_id", u32(1))
    file.set("tokenizer.ggml.eos_token_id", u32(2))

    rng = random.Random(1)
    matrices = {"attn_q": [WIDTH, WIDTH], "attn_k": [WIDTH, KV_HEADS * HEAD], "attn_v": [WIDTH, KV_HEADS * HEAD]}
    matrices |= {"attn_output": [WIDTH, WIDTH]}
    matrices |= {"ffn_gate": [WIDTH, FFN], "ffn_up": [WIDTH, FFN], "ffn_down": [FFN, WIDTH]}
    file.tensors.append(random_tensor(rng, "token_embd.weight", [WIDTH, len(TOKENS)], TENSOR_F16))
    file.tensors.append(random_tensor(rng, "output_norm.weight", [WIDTH], TENSOR_F32))
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            file.tensors.append(random_tensor(rng, f"blk.{layer}.{norm}.weight", [WIDTH], TENSOR_F32))
        for name, dims in matrices.items():
            file.tensors.append(random_tensor(rng, f"blk.{layer}.{name}.weight", dims, TENSOR_F16))
    return file


@dataclass(frozen=True)
class BadFile:
    name: str
    data: bytes
    status: str  # the name of the mp_status
    word: str  # must stand in the message
    filename: str = "model.gguf"
    others: dict[str, bytes] = field(default_factory=dict)  # files that lie beside it


def split_parts(n_parts: int) -> list[File]:
    """The tiny model in parts, as gguf-split leaves them."""
    whole = tiny_llama()
    per_part = -(-len(whole.tensors) // n_parts)
    parts = []
    for number in range(n_parts):
        part = whole if number == 0 else File()
        part.set("split.no", Value(U16, number))
        part.set("split.count", Value(U16, n_parts))
        part.set("split.tensors.count", Value(I32, len(tiny_llama().tensors)))
        parts.append(part)
    tensors = tiny_llama().tensors
    for number, part in enumerate(parts):
        part.tensors = tensors[number * per_part : (number + 1) * per_part]
    return parts


def part_name(number: int, n_parts: int) -> str:
    return f"tiny-{number + 1:05d}-of-{n_parts:05d}.gguf"


def split_files() -> list[BadFile]:
    parts = [part.pack() for part in split_parts(3)]
    names = [part_name(number, 3) for number in range(3)]
    wrong_number = split_parts(3)[2]
    wrong_number.set("split.no", Value(U16, 1))
    twice = split_parts(3)[2]
    twice.tensors[0] = split_parts(3)[0].tensors[0]
    fewer = split_parts(3)[2]
    fewer.tensors.pop()

    def bad(name: str, word: str, first: int = 0, **others: bytes) -> BadFile:
        beside = {names[int(key[1:])]: data for key, data in others.items()}
        return BadFile(f"split: {name}", parts[first], "format", word, names[first], beside)

    return [
        bad("lone first part", names[1]),
        bad("last part missing", names[2], _1=parts[1]),
        bad("opened at the second part", names[0], first=1, _0=parts[0], _2=parts[2]),
        bad("part number wrong", "expected part 3", _1=parts[1], _2=wrong_number.pack()),
        bad("tensor in two parts", "also in part", _1=parts[1], _2=twice.pack()),
        bad("tensor missing", "split.tensors.count", _1=parts[1], _2=fewer.pack()),
        bad("part truncated", "truncated", _1=parts[1], _2=parts[2][:-40]),
        BadFile("split: name without a number", parts[0], "format", "-00001-of-00003.gguf"),
    ]


def container_files() -> list[BadFile]:
    """The file is no sound GGUF container."""
    good = tiny_llama().pack()
    header = len(tiny_llama().pack_header())

    def bad(name: str, data: bytes, word: str, status: str = "format") -> BadFile:
        return BadFile(f"container: {name}", data, status, word)

    def edited(name: str, word: str, edit: Callable[[File], None]) -> BadFile:
        file = tiny_llama()
        edit(file)
        return bad(name, file.pack(), word)

    def first_tensor(name: str, word: str, /, **changes: object) -> BadFile:
        return edited(name, word, lambda file: vars(file.tensors[0]).update(changes))

    def raw_value(name: str, word: str, packed: bytes) -> BadFile:
        """Appends a hand-made key-value to an otherwise empty file."""
        return bad(name, struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + pack_string(b"key") + packed + bytes(32), word)

    return [
        bad("empty", b"", "empty", "file"),
        bad("23 bytes", good[:23], "truncated"),
        bad("truncated in the keys", good[:200], "truncated"),
        bad("truncated in the tensor infos", good[: header - 10], "truncated"),
        bad("truncated in the data", good[:-100], "truncated"),
        bad("old GGML file", b"lmgg" + bytes(60), "GGML"),
        bad("PyTorch zip", b"PK\x03\x04" + bytes(60), "PyTorch"),
        bad("safetensors", struct.pack("<Q", 60) + b'{"__metadata__":{}}' + bytes(60), "safetensors"),
        bad("web page", b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
        bad("git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs"),
        bad("other magic", b"GGUX" + good[4:], "GGUX"),
        bad("big-endian", b"GGUF" + struct.pack(">I", 3) + good[8:], "big-endian"),
        bad("version 4", b"GGUF" + struct.pack("<I", 4) + good[8:], "version 4"),
        bad("version 1", b"GGUF" + struct.pack("<I", 1) + good[8:], "version 1"),
        bad("too many tensors", good[:8] + struct.pack("<Q", 1 << 40) + good[16:], "tensors are announced"),
        bad("too many key-values", good[:16] + struct.pack("<Q", 1 << 63) + good[24:], "key-values are announced"),
        edited("duplicate key", "twice", lambda file: file.values.append(file.values[0])),
        edited("empty key", "empty", lambda file: file.values.append((b"", u32(1)))),
        edited("key with NUL", "NUL", lambda file: file.values.append((b"a\0b", u32(1)))),
        raw_value("unknown value type", "unknown type 77", struct.pack("<I", 77)),
        raw_value("unknown array type", "unknown type 99", struct.pack("<IIQ", ARRAY, 99, 1)),
        raw_value("nested array", "nested", struct.pack("<IIQ", ARRAY, ARRAY, 1)),
        raw_value("string beyond the file", "truncated", struct.pack("<IQ", STR, 1 << 40)),
        raw_value("string of 2^64 - 1 bytes", "truncated", struct.pack("<IQ", STR, (1 << 64) - 1)),
        raw_value("array beyond the file", "truncated", struct.pack("<IIQ", ARRAY, U32, 1 << 28)),
        raw_value("array of 2^64 - 1 elements", "truncated", struct.pack("<IIQ", ARRAY, U64, (1 << 64) - 1)),
        raw_value("string array beyond the file", "truncated", struct.pack("<IIQ", ARRAY, STR, 1 << 28)),
        edited("alignment 0", "power of two", lambda file: file.set("general.alignment", u32(0))),
        edited("alignment 48", "power of two", lambda file: file.set("general.alignment", u32(48))),
        edited("alignment 2^31", "power of two", lambda file: file.set("general.alignment", u32(1 << 31))),
        edited("alignment as u64", "expected u32", lambda file: file.set("general.alignment", Value(U64, 32))),
        edited("duplicate tensor name", "twice", lambda file: file.tensors.append(copy.copy(file.tensors[0]))),
        first_tensor("tensor name too long", "name of tensor", name=b"x" * 64),
        first_tensor("tensor name with NUL", "NUL", name=b"a\0b"),
        first_tensor("no dimensions", "0 dimensions", dims=[]),
        first_tensor("five dimensions", "5 dimensions", dims=[1, 1, 1, 1, 1]),
        first_tensor("dimension 0", "dimension", dims=[0, 4]),
        first_tensor("dimensions that overflow", "overflow", dims=[1 << 40, 1 << 40]),
        first_tensor("negative dimension", "dimension", dims=[(1 << 64) - 8, 1]),
        first_tensor("unknown tensor type", "unknown type 1000", type=1000),
        first_tensor("negative tensor type", "unknown type -1", type=-1),
        first_tensor("removed tensor type", "removed type 4", type=4),
        first_tensor("row is no multiple of the block", "blocks of 32", type=TENSOR_Q4_0),
        first_tensor("misaligned tensor", "misaligned", offset=16),
        first_tensor("gap before a tensor", "gap", offset=4096),
        edited("overlapping tensors", "overlaps", lambda file: setattr(file.tensors[1], "offset", 0)),
        edited("data past the end", "ends at byte", lambda file: setattr(file.tensors[-1], "dims", [1 << 20, 1 << 20])),
    ]


def metadata_files() -> list[BadFile]:
    """The container is sound, what it says is not."""

    def bad(name: str, word: str, status: str = "format", **values: Value | None) -> BadFile:
        file = tiny_llama()
        for key, value in values.items():
            file.set(key.replace("__", "."), value)
        return BadFile(f"metadata: {name}", file.pack(), status, word)

    def llama(name: str, key: str, value: Value | None, word: str | None = None, status: str = "format") -> BadFile:
        return bad(name, word or key.rsplit(".", 1)[-1], status, **{f"llama.{key}": value})

    required = ["block_count", "context_length", "embedding_length"]
    wrong_type = [*required, "feed_forward_length", "attention.head_count", "rope.dimension_count"]
    rope = "rope.scaling"
    moe = {"llama.expert_count": u32(8), "llama.expert_used_count": u32(2)}
    return [
        bad("no architecture", "general.architecture", general__architecture=None),
        bad("architecture of the wrong type", "expected str", general__architecture=u32(1)),
        *(llama(f"{key} missing", key, None) for key in required),
        *(llama(f"{key} of the wrong type", key, text("8"), "expected u32") for key in wrong_type),
        llama("block_count 0", "block_count", u32(0)),
        llama("block_count 513", "block_count", u32(513)),
        llama("context_length 0", "context_length", u32(0)),
        llama("context_length 2^31", "context_length", u32(1 << 31)),
        llama("embedding_length 0", "embedding_length", u32(0)),
        bad(
            "embedding_length not that of the tensors",
            "embedding_length",
            llama__embedding_length=u32(16),
            llama__rope__dimension_count=u32(8),
        ),
        llama("head_count 0", "attention.head_count", u32(0)),
        llama("head_count missing", "attention.head_count", None),
        llama("head_count absurd", "attention.head_count", u32(1 << 31)),
        llama("head_count does not divide the width", "attention.head_count", u32(3), "multiple of 3"),
        llama("head_count_kv 0", "attention.head_count_kv", u32(0), "key-value heads"),
        llama("head_count_kv does not divide", "attention.head_count_kv", u32(3), "key-value heads"),
        llama("head_count of one layer 0", "attention.head_count", array(I32, [2, 0]), "layer 1"),
        llama("head_count for too many layers", "attention.head_count", array(I32, [2, 2, 2]), "3 elements"),
        llama("head_count as text array", "attention.head_count", array(STR, [b"2", b"2"]), "array of str"),
        llama("key_length 0", "attention.key_length", u32(0)),
        llama("key_length not the value length", "attention.key_length", u32(6)),
        llama("odd rope dimensions", "rope.dimension_count", u32(3)),
        llama("rope dimensions above the head", "rope.dimension_count", u32(64)),
        llama("rope dimensions below the head", "rope.dimension_count", u32(2)),
        llama("rope base 0", "rope.freq_base", f32(0.0)),
        llama("rope base NaN", "rope.freq_base", f32(float("nan"))),
        llama("rope scaling NaN", f"{rope}.factor", f32(float("nan"))),
        llama("rope scaling infinite", f"{rope}.factor", f32(float("inf"))),
        llama("rope scaling type unknown", f"{rope}.type", text("spiral")),
        llama("epsilon missing", "attention.layer_norm_rms_epsilon", None),
        llama("epsilon negative", "attention.layer_norm_rms_epsilon", f32(-1e-5)),
        llama("epsilon NaN", "attention.layer_norm_rms_epsilon", f32(float("nan"))),
        llama("experts used of none", "expert_used_count", u32(2)),
        bad("no experts used", "expert_used_count", **(moe | {"llama.expert_used_count": u32(0)})),
        bad("too many experts", "expert_count", **(moe | {"llama.expert_count": u32(100000)})),
        bad("expert groups do not divide", "expert_group_count", **moe, llama__expert_group_count=u32(3)),
        llama("windows that overflow", "attention.sliding_window", u32((1 << 32) - 1)),
        llama("pooling type unknown", "pooling_type", u32(99)),
        llama("all layers for prediction", "nextn_predict_layers", u32(LAYERS), "prediction", "unsupported"),
        llama("embedding model", "pooling_type", u32(3), status="unsupported"),
        llama("not causal", "attention.causal", Value(BOOL, False), status="unsupported"),
    ]


def vocabulary_files() -> list[BadFile]:
    def bad(name: str, key: str, value: Value | None, word: str, status: str = "format") -> BadFile:
        file = tiny_llama()
        file.set(f"tokenizer.ggml.{key}", value)
        return BadFile(f"vocabulary: {name}", file.pack(), status, word)

    def tokens(name: str, edit: Callable[[list], object], word: str) -> BadFile:
        file = tiny_llama()
        edit(file.get("tokenizer.ggml.tokens").value)
        return BadFile(f"vocabulary: {name}", file.pack(), "format", word)

    def bpe(name: str, word: str, /, **changes: Value | None) -> BadFile:
        file = tiny_llama()
        values = {"model": text("gpt2"), "pre": text("gpt-2"), "merges": array(STR, [b"a b"])} | changes
        for key, value in values.items():
            file.set(f"tokenizer.ggml.{key}", value)
        return BadFile(f"vocabulary: {name}", file.pack(), "format", word)

    count = len(TOKENS)
    return [
        bad("no tokenizer", "model", None, "tokenizer.ggml.model"),
        bad("unknown tokenizer", "model", text("abacus"), "abacus"),
        bad("declared to have none", "model", text("no_vocab"), "no vocabulary", "unsupported"),
        bad("no tokens", "tokens", None, "missing"),
        bad("empty", "tokens", array(STR, []), "empty"),
        bad("tokens of the wrong type", "tokens", array(I32, [1] * count), "expected an array of str"),
        tokens("fewer tokens than rows", lambda t: t.pop(), "elements"),
        tokens("token twice", lambda t: t.__setitem__(-1, b"a"), "twice"),
        tokens("token twice up to a NUL", lambda t: t.__setitem__(-1, b"a\0b"), "twice"),
        tokens("byte token missing", lambda t: t.__setitem__(13, b"newline"), "<0x0A>"),
        tokens("byte token too short", lambda t: t.__setitem__(13, b"\n"), "type byte"),
        tokens("token of a megabyte", lambda t: t.__setitem__(-1, b"x" * 1_000_000), "limit"),
        bad("too few scores", "scores", array(F32, [0.0] * (count - 1)), "scores"),
        bad("scores of the wrong type", "scores", array(STR, [b"0"] * count), "scores"),
        bad("score NaN", "scores", array(F32, [float("nan")] * count), "finite"),
        bad("too few types", "token_type", array(I32, [1]), "token_type"),
        bad("types of the wrong type", "token_type", array(F32, [1.0] * count), "token_type"),
        bad("type out of range", "token_type", array(I32, [1] * (count - 1) + [7]), "expected 0 to 6"),
        bad("bos out of range", "bos_token_id", u32(count), "bos_token_id"),
        bad("padding out of range", "padding_token_id", u32(1 << 31), "padding_token_id"),
        bad("eos of the wrong type", "eos_token_id", Value(I32, 2), "expected u32"),
        bpe("BPE without merges", "merges", merges=None),
        bpe("merge without a blank", "merges[0]", merges=array(STR, [b"ab"])),
        bpe("merge without a second piece", "merges[0]", merges=array(STR, [b"a "])),
        bpe("merges of the wrong type", "merges", merges=array(I32, [1])),
        bpe("begins with a token it lacks", "bos_token_id", model=text("gemma4"), bos_token_id=None),
    ]


def tensor_files() -> list[BadFile]:
    def bad(name: str, word: str, edit: Callable[[File], object]) -> BadFile:
        file = tiny_llama()
        edit(file)
        return BadFile(f"tensors: {name}", file.pack(), "format", word)

    def replaced(name: str, word: str, tensor: str, dims: list[int], kind: int, size: int) -> BadFile:
        change = {"dims": dims, "type": kind, "data": bytes(size)}
        return bad(name, word, lambda file: vars(file.tensor(tensor)).update(change))

    norm, embedding = "blk.0.attn_norm.weight", "token_embd.weight"
    return [
        bad("no embeddings", embedding, lambda file: file.tensors.pop(0)),
        bad("a tensor is missing", "refused", lambda f: f.tensors.remove(f.tensor("blk.1.ffn_up.weight"))),
        replaced("fewer embeddings than tokens", "rows", embedding, [WIDTH, 100], TENSOR_F16, WIDTH * 200),
        replaced("embeddings of another width", "rows", embedding, [16, len(TOKENS)], TENSOR_F16, 32 * len(TOKENS)),
        replaced(
            "keys of more heads", "head counts", "blk.0.attn_k.weight", [WIDTH, WIDTH], TENSOR_F16, 2 * WIDTH * WIDTH
        ),
        replaced("norm in F16", norm, norm, [WIDTH], TENSOR_F16, 2 * WIDTH),
        replaced("embeddings in I32", embedding, embedding, [WIDTH, len(TOKENS)], TENSOR_I32, 32 * len(TOKENS)),
        replaced("matrix in Q8_K", "q8_K", "blk.0.ffn_up.weight", [256, 1], TENSOR_Q8_K, 292),
    ]


def other_kinds() -> list[BadFile]:
    """Sound files of something that is not run."""

    def kind(name: str, word: str, /, **values: Value) -> BadFile:
        file = tiny_llama()
        for key, value in values.items():
            file.set(key.replace("__", "."), value)
        return BadFile(f"kind: {name}", file.pack(), "unsupported", word)

    vocabulary_only = tiny_llama()
    vocabulary_only.tensors = []
    archs = {
        "bert": "encoder",
        "nomic-bert": "encoder",
        "jina-bert-v2": "encoder",
        "modern-bert": "encoder",
        "t5encoder": "encoder",
        "t5": "encoder-decoder",
        "gemma-embedding": "embedding",
        "dream": "diffusion",
        "llada-moe": "diffusion",
        "eagle3": "draft",
        "dflash": "draft",
        "wavtokenizer-dec": "speech",
        "gptj": "unknown",
        "abacus": "unknown",
    }
    return [
        kind("LoRA adapter", "adapter", general__type=text("adapter")),
        kind("mmproj", "mmproj", general__type=text("mmproj")),
        kind("clip", "mmproj", general__architecture=text("clip")),
        kind("imatrix", "importance matrix", general__type=text("imatrix")),
        kind("control vector", "control vector", general__architecture=text("controlvector")),
        *(kind(arch, word, general__architecture=text(arch)) for arch, word in archs.items()),
        BadFile("kind: vocabulary only", vocabulary_only.pack(), "unsupported", "no weights"),
    ]


def bad_files() -> list[BadFile]:
    groups = (container_files, split_files, metadata_files, vocabulary_files, tensor_files, other_kinds)
    return [bad for group in groups for bad in group()]

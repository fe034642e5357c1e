"""Bad files whose layers do not make a model: experts that nobody uses, hybrids of one kind, parts of a model."""

from __future__ import annotations

import random
import re

from bad_files import FFN, LAYERS, WIDTH, BadFile, array, random_tensor, text, tiny_llama, u32
from gguf_bytes import BOOL, I32, TENSOR_F16, TENSOR_F32, U32, File, Value


def tiny_moe() -> File:
    """The tiny model with two experts in each layer."""
    file = tiny_llama()
    file.set("llama.expert_count", u32(2))
    file.set("llama.expert_used_count", u32(2))
    rng = random.Random(2)
    matrices = {"gate_exps": [WIDTH, FFN, 2], "up_exps": [WIDTH, FFN, 2], "down_exps": [FFN, WIDTH, 2]}
    for layer in range(LAYERS):
        for name in ("gate", "up", "down"):
            file.tensors.remove(file.tensor(f"blk.{layer}.ffn_{name}.weight"))
        file.tensors.append(random_tensor(rng, f"blk.{layer}.ffn_gate_inp.weight", [WIDTH, 2], TENSOR_F32))
        for name, dims in matrices.items():
            file.tensors.append(random_tensor(rng, f"blk.{layer}.ffn_{name}.weight", dims, TENSOR_F16))
    return file


def as_architecture(file: File, name: str) -> None:
    """The keys of llama become those of another architecture."""
    file.set("general.architecture", text(name))
    prefix = f"{name}.".encode()
    file.values[:] = [(re.sub(rb"^llama\.", prefix, key), value) for key, value in file.values]


def layer_files() -> list[BadFile]:
    """Layers that llama.cpp has no use for, or misses."""

    def bad(name: str, arch: str, word: str, status: str = "format", **values: Value | None) -> BadFile:
        file = tiny_llama()
        as_architecture(file, arch)
        for key, value in values.items():
            file.set(f"{arch}.{key.replace('__', '.')}", value)
        return BadFile(f"layers: {name}", file.pack(), status, word)

    def experts(name: str, used: list[int], word: str) -> BadFile:
        file = tiny_moe()
        file.set("llama.expert_used_count", array(U32, used))
        return BadFile(f"layers: {name}", file.pack(), "format", word)

    gate = tiny_llama()
    as_architecture(gate, "laguna")
    gate.tensors.append(random_tensor(random.Random(3), "blk.0.attn_gate.weight", [WIDTH, 3], TENSOR_F16))

    prediction = tiny_llama()
    as_architecture(prediction, "mimo2")
    prediction.set("mimo2.nextn_predict_layers", u32(1))
    prediction.tensors = [tensor for tensor in prediction.tensors if not tensor.name.startswith(b"blk.0.")]

    moe = {"expert_count": u32(4), "expert_used_count": u32(2)}
    ratios = {"attention__compress_ratios": array(I32, [0, 128]), "hyper_connection__count": u32(4)}
    cycles = {"hrm__layers_per_stack": u32(1), "hrm__h_cycles": u32(1), "hrm__l_cycles": u32(2)}
    heads, no_heads = {"attention__head_count_kv": u32(1)}, {"attention__head_count_kv": u32(0)}
    some_heads = {"attention__head_count_kv": array(I32, [1, 0])}
    interval = {"full_attention_interval": u32(3)}
    no_state = {"attention__recurrent_layers": array(BOOL, [False, False])}
    hybrid = {"block_count": u32(3), "attention__head_count_kv": array(I32, [1, 0, 1])}
    hybrid |= {"feed_forward_length": array(I32, [0, 0, FFN]), "expert_used_count": array(I32, [2, 2, 0])}
    return [
        experts("last layer uses none of its experts", [2, 0], "layer 1 has experts"),
        experts("first layer uses no experts", [0, 2], "in layer 0"),
        experts("more experts than in the first layer", [1, 2], "1 in layer 0"),
        bad("experts by the width, none used", "nemotron_h_moe", "0 in layer 2", **moe | hybrid),
        bad("fewer groups than experts used", "grovemoe", "1 groups", **moe, experts_per_group=u32(3)),
        bad("no experts at all", "qwen35moe", "expert_count", expert_count=u32(0), full_attention_interval=u32(2)),
        bad("hybrid without attention", "lfm2", "attention", **no_heads),
        bad("hybrid without states", "lfm2", "recurrent state", **heads),
        bad("hybrid with too long an interval", "qwen3next", "full_attention_interval", **interval),
        bad("hybrid whose list has no states", "qwen35", "recurrent state", **no_state),
        bad("hybrid of predicting layers", "lfm2", "of 1 layers", **some_heads, nextn_predict_layers=u32(1)),
        bad("too few for the positions", "llama4", "4 or more"),
        bad("not those of the stacks", "hrm_text", "make 3", **cycles),
        bad("too many loops", "nanbeige", "num_loops", num_loops=u32(257)),
        bad("no compressed layer", "deepseek4", "ratio 4", **ratios),
        BadFile("layers: gate of another width", gate.pack(), "format", "attn_gate"),
        BadFile("layers: only those for prediction", prediction.pack(), "unsupported", "prediction"),
    ]

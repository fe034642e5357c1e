"""Writes GGUF files with random weights: real models' shapes for timing, tiny ones of many architectures for tests.

Usage: python models/random_gguf.py llama-3.2-1b out.gguf --type q4_0
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np

from architecture_tensors import (
    BERT_TOKEN_TYPES,
    MAMBA_CONV,
    MAMBA_STATE,
    T5_BUCKETS,
    TENSORS,
    ModelShape,
    TensorSpec,
    mamba_step_rank,
)
from random_weights import FILE_TYPES, MIXES, random_tensor, stored_dims, stored_dtype
from synthetic_vocab import make_vocabulary, write_vocabulary

GRANITE_LOGIT_DIVISOR = 4.0


def llama3(layers: int, width: int, heads: int, head_dim: int, ffn: int, **more) -> ModelShape:
    sizes = {"kv_heads": 8, "vocab": 128256, "context": 131072, "rope_base": 500000.0, "add_begin": True}
    return ModelShape("llama", layers, width, heads, head_dim=head_dim, ffn=ffn, **sizes, **more)


def qwen3(layers: int, width: int, heads: int, ffn: int) -> ModelShape:
    sizes = {"kv_heads": 8, "head_dim": 128, "vocab": 151936, "context": 40960}
    return ModelShape("qwen3", layers, width, heads, ffn=ffn, rope_base=1e6, norm_eps=1e-6, **sizes)


def qwen3_mixture(layers: int, width: int, heads: int, experts: int, expert_ffn: int) -> ModelShape:
    sizes = {"kv_heads": 4, "head_dim": 128, "ffn": 3 * width, "vocab": 32768, "context": 40960, "tied_head": False}
    mixture = {"experts": experts, "experts_used": 8, "expert_ffn": expert_ffn}
    return ModelShape("qwen3moe", layers, width, heads, rope_base=1e6, norm_eps=1e-6, **sizes, **mixture)


def gpt_oss(layers: int, width: int, heads: int, experts: int) -> ModelShape:
    sizes = {"kv_heads": 8, "head_dim": 64, "ffn": width, "vocab": 32768, "context": 131072, "tied_head": False}
    mixture = {"experts": experts, "experts_used": 4, "expert_ffn": width, "sliding_window": 128}
    return ModelShape("gpt-oss", layers, width, heads, rope_base=150000.0, **sizes, **mixture)


def tiny_mixture(arch: str, **changes) -> ModelShape:
    return tiny(arch, **{"experts": 8, "experts_used": 2, "expert_ffn": 64, "rope_base": 1e6, **changes})


def tiny(arch: str, **changes) -> ModelShape:
    sizes = {"layers": 2, "width": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 128}
    return ModelShape(arch, **{**sizes, "vocab": 512, "context": 1024, **changes})


def smollm2(layers: int, width: int, heads: int, ffn: int) -> ModelShape:
    sizes = {"kv_heads": heads // 3, "head_dim": 64, "vocab": 49152, "context": 8192, "rope_base": 100000.0}
    return ModelShape("llama", layers, width, heads, ffn=ffn, **sizes)


SHAPES = {
    "smollm2-135m": smollm2(30, 576, 9, 1536),
    "llama-3.2-1b": llama3(16, 2048, 32, 64, 8192, rope_extension=32.0),
    "llama-3.2-3b": llama3(28, 3072, 24, 128, 8192, rope_extension=32.0),
    "llama-3.1-8b": llama3(32, 4096, 32, 128, 14336, rope_extension=8.0, tied_head=False),
    "qwen3-0.6b": qwen3(28, 1024, 16, 3072),
    "qwen3-4b": qwen3(36, 2560, 32, 9728),
    # A Qwen3-30B-A3B and a gpt-oss-20b with a sixth of the layers and half of the widths.
    "qwen3-a3b-small": qwen3_mixture(8, 1024, 16, experts=64, expert_ffn=512),
    "gpt-oss-small": gpt_oss(4, 1440, 32, experts=32),
    "tiny-llama": tiny("llama", add_begin=True),
    "tiny-gpt2": tiny("gpt2", kv_heads=4),
    "tiny-qwen2": tiny("qwen2", rope_base=1e6),
    "tiny-qwen3": tiny("qwen3", head_dim=32, rope_base=1e6),
    "tiny-mamba": tiny("mamba", heads=0, kv_heads=0, head_dim=0, ffn=0),
    "tiny-gemma": tiny("gemma", add_begin=True, embedding_scale=8.0),
    "tiny-gemma3": tiny("gemma3", add_begin=True, embedding_scale=8.0, sliding_window=32),
    "tiny-qwen3moe": tiny_mixture("qwen3moe", head_dim=32),
    "tiny-gpt-oss": tiny_mixture("gpt-oss", sliding_window=32, tied_head=False),
    "tiny-granite": tiny("granite", embedding_scale=12.0),
    "tiny-bert": tiny("bert", kv_heads=4, add_begin=True),
    "tiny-t5": tiny("t5", kv_heads=4),
}


def write_metadata(writer: gguf.GGUFWriter, name: str, shape: ModelShape, weight_type: str) -> None:
    writer.add_name(f"random {name}")
    writer.add_description("Random weights for timing and tests; its text means nothing")
    writer.add_file_type(FILE_TYPES[weight_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)

    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    if shape.arch in ("gpt2", "bert"):
        writer.add_layer_norm_eps(shape.norm_eps)
    else:
        writer.add_layer_norm_rms_eps(shape.norm_eps)
    if shape.head_dim:
        writer.add_head_count_kv(shape.kv_heads)
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)
        writer.add_rope_dimension_count(shape.head_dim)
        writer.add_rope_freq_base(shape.rope_base)
    write_architecture_metadata(writer, shape)
    write_vocabulary(writer, make_vocabulary(shape.vocab), shape.add_begin)


def write_architecture_metadata(writer: gguf.GGUFWriter, shape: ModelShape) -> None:
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_used)
        writer.add_expert_feed_forward_length(shape.expert_ffn)
    if shape.arch == "mamba":
        writer.add_ssm_conv_kernel(MAMBA_CONV)
        writer.add_ssm_inner_size(2 * shape.width)
        writer.add_ssm_state_size(MAMBA_STATE)
        writer.add_ssm_time_step_rank(mamba_step_rank(shape))
    elif shape.arch == "bert":
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType.MEAN)
        writer.add_token_type_count(BERT_TOKEN_TYPES)
    elif shape.arch == "t5":
        writer.add_relative_attn_buckets_count(T5_BUCKETS)
        writer.add_decoder_start_token_id(0)
    elif shape.arch == "gemma3":
        writer.add_sliding_window(shape.sliding_window)
        writer.add_sliding_window_pattern(2)
    elif shape.arch == "gpt-oss":
        writer.add_sliding_window(shape.sliding_window)
    elif shape.arch == "granite":
        writer.add_embedding_scale(shape.embedding_scale)
        writer.add_logit_scale(GRANITE_LOGIT_DIVISOR)
        writer.add_residual_scale(0.5)
        writer.add_attention_scale(1.0 / shape.head_dim)


def storage_type(spec: TensorSpec, weight_type: str) -> gguf.GGMLQuantizationType:
    matrix_type, embedding_type = MIXES[weight_type]
    return {"matrix": matrix_type, "embedding": embedding_type, "vector": gguf.GGMLQuantizationType.F32}[spec.role]


def write_random_gguf(
    path: str | os.PathLike[str],
    shape: str,
    weight_type: str = "f32",
    seed: int = 0,
    n_ctx: int | None = None,
    **overrides,
) -> Path:
    """Write the named shape to `path`, with its context length or any field of ModelShape overridden.

    The same arguments give the same file, byte for byte.
    """
    path = Path(path)
    sizes = replace(SHAPES[shape], **overrides)
    if n_ctx is not None:
        sizes = replace(sizes, context=n_ctx)
    if sizes.arch == "granite":
        sizes = replace(sizes, logit_spread=sizes.logit_spread * GRANITE_LOGIT_DIVISOR)

    unfinished = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(unfinished, sizes.arch)
    write_metadata(writer, shape, sizes, weight_type)

    specs = list(TENSORS[sizes.arch](sizes))
    for spec in specs:
        kind = storage_type(spec, weight_type)
        dims, dtype = stored_dims(spec.dims, kind), stored_dtype(kind)
        writer.add_tensor_info(spec.name, dims, dtype, int(np.prod(dims)) * dtype.itemsize, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for index, spec in enumerate(specs):
        rng = np.random.default_rng([seed, index])
        values = spec.values
        if values is None:
            values = random_tensor(rng, spec.dims, spec.std, storage_type(spec, weight_type))
        writer.write_tensor_data(values)
    writer.close()
    os.replace(unfinished, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=MIXES, help="weight format (q4_0 for real shapes, f32 for tiny ones)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ctx", type=int, help="context length to declare")
    arguments = parser.parse_args()
    weight_type = arguments.type or ("f32" if arguments.shape.startswith("tiny-") else "q4_0")
    path = write_random_gguf(arguments.out, arguments.shape, weight_type, arguments.seed, arguments.ctx)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()

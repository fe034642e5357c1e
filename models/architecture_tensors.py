"""The tensors that llama.cpp expects of each architecture, under its names and with numpy's dimension order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class ModelShape:
    """Sizes of one model; the last fields matter to some architectures only."""

    arch: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    rope_base: float = 10000.0
    norm_eps: float = 1e-5
    tied_head: bool = True
    add_begin: bool = False
    # Standard deviation of the logits: clearly apart, so that the greedy choice is not a matter of rounding.
    logit_spread: float = 2.5
    # What the architecture multiplies its token embeddings by; the drawn embeddings are smaller by as much.
    embedding_scale: float = 1.0
    # Context extension factor of the Llama 3 rotary frequencies.
    rope_extension: float = 0.0
    sliding_window: int = 0
    # Of a mixture: how many experts, how many of them a token uses, and their feed-forward width.
    experts: int = 0
    experts_used: int = 0
    expert_ffn: int = 0


@dataclass(frozen=True)
class TensorSpec:
    """Random with the given deviation, or the given values. Vectors and small tables are always F32."""

    name: str
    dims: tuple[int, ...]
    role: str = "vector"
    std: float = 0.0
    values: np.ndarray | None = None


def matrix(name: str, rows: int, columns: int) -> TensorSpec:
    """Maps `columns` inputs to `rows` outputs and keeps the size of what it is given."""
    return TensorSpec(f"{name}.weight", (rows, columns), "matrix", columns**-0.5)


def experts(name: str, count: int, rows: int, columns: int) -> TensorSpec:
    """A matrix for each expert."""
    return TensorSpec(f"{name}.weight", (count, rows, columns), "matrix", columns**-0.5)


def norm(name: str, width: int, value: float = 1.0) -> TensorSpec:
    return TensorSpec(f"{name}.weight", (width,), values=np.full(width, value, np.float32))


def bias(name: str, width: int) -> TensorSpec:
    return TensorSpec(f"{name}.bias", (width,), std=0.1)


def embedding(shape: ModelShape) -> TensorSpec:
    std = shape.width**-0.5 / shape.embedding_scale
    return TensorSpec("token_embd.weight", (shape.vocab, shape.width), "embedding", std)


def head(shape: ModelShape) -> Iterator[TensorSpec]:
    """The final norm carries the wanted spread of the logits."""
    tied_gain = shape.embedding_scale if shape.tied_head else 1.0
    yield norm("output_norm", shape.width, shape.logit_spread * tied_gain)
    if not shape.tied_head:
        yield TensorSpec("output.weight", (shape.vocab, shape.width), "embedding", shape.width**-0.5)


def attention(shape: ModelShape, prefix: str, output: str = "attn_output") -> Iterator[TensorSpec]:
    yield matrix(f"{prefix}attn_q", shape.heads * shape.head_dim, shape.width)
    yield matrix(f"{prefix}attn_k", shape.kv_heads * shape.head_dim, shape.width)
    yield matrix(f"{prefix}attn_v", shape.kv_heads * shape.head_dim, shape.width)
    yield matrix(f"{prefix}{output}", shape.width, shape.heads * shape.head_dim)


def gated_ffn(shape: ModelShape, prefix: str) -> Iterator[TensorSpec]:
    yield matrix(f"{prefix}ffn_gate", shape.ffn, shape.width)
    yield matrix(f"{prefix}ffn_up", shape.ffn, shape.width)
    yield matrix(f"{prefix}ffn_down", shape.width, shape.ffn)


def llama3_rope_factors(shape: ModelShape) -> np.ndarray:
    """Divisors of the rotary frequencies: long waves are stretched, short ones kept, the rest blended."""
    original_context, low, high = 8192, 1.0, 4.0
    wavelength = 2 * np.pi * shape.rope_base ** (np.arange(0, shape.head_dim, 2) / shape.head_dim)
    blend = np.clip((original_context / wavelength - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - blend) / shape.rope_extension + blend)).astype(np.float32)


def llama_like(shape: ModelShape) -> Iterator[TensorSpec]:
    """llama, qwen2, qwen3, gemma, gemma3 and granite: pre-norm attention and a gated feed-forward."""
    yield embedding(shape)
    yield from head(shape)
    if shape.rope_extension:
        factors = llama3_rope_factors(shape)
        yield TensorSpec("rope_freqs.weight", factors.shape, values=factors)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield norm(f"{block}attn_norm", shape.width)
        for part in attention(shape, block):
            yield part
            if shape.arch == "qwen2" and not part.name.startswith(f"{block}attn_output"):
                yield bias(part.name.removesuffix(".weight"), part.dims[0])
        if shape.arch in ("qwen3", "gemma3"):
            yield norm(f"{block}attn_q_norm", shape.head_dim)
            yield norm(f"{block}attn_k_norm", shape.head_dim)
        if shape.arch == "gemma3":
            yield norm(f"{block}post_attention_norm", shape.width)
            yield norm(f"{block}post_ffw_norm", shape.width)
        yield norm(f"{block}ffn_norm", shape.width)
        yield from gated_ffn(shape, block)


def router(shape: ModelShape, prefix: str) -> TensorSpec:
    return TensorSpec(f"{prefix}ffn_gate_inp.weight", (shape.experts, shape.width), std=shape.width**-0.5)


def expert_ffn(shape: ModelShape, prefix: str) -> Iterator[TensorSpec]:
    yield experts(f"{prefix}ffn_gate_exps", shape.experts, shape.expert_ffn, shape.width)
    yield experts(f"{prefix}ffn_up_exps", shape.experts, shape.expert_ffn, shape.width)
    yield experts(f"{prefix}ffn_down_exps", shape.experts, shape.width, shape.expert_ffn)


def qwen3moe(shape: ModelShape) -> Iterator[TensorSpec]:
    """qwen3 with a mixture of experts in every layer."""
    yield embedding(shape)
    yield from head(shape)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield norm(f"{block}attn_norm", shape.width)
        yield from attention(shape, block)
        yield norm(f"{block}attn_q_norm", shape.head_dim)
        yield norm(f"{block}attn_k_norm", shape.head_dim)
        yield norm(f"{block}ffn_norm", shape.width)
        yield router(shape, block)
        yield from expert_ffn(shape, block)


def gpt_oss(shape: ModelShape) -> Iterator[TensorSpec]:
    """A mixture with biases everywhere, attention sinks, and windows in every other layer."""
    yield embedding(shape)
    yield from head(shape)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield norm(f"{block}attn_norm", shape.width)
        for part in attention(shape, block):
            yield replace(part, role="embedding")  # of another type than the experts
            yield bias(part.name.removesuffix(".weight"), part.dims[0])
        yield TensorSpec(f"{block}attn_sinks.weight", (shape.heads,), std=1.0)
        yield norm(f"{block}post_attention_norm", shape.width)
        yield router(shape, block)
        yield bias(f"{block}ffn_gate_inp", shape.experts)
        for part in expert_ffn(shape, block):
            yield part
            yield TensorSpec(part.name.replace(".weight", ".bias"), part.dims[:2], std=0.1)


def gpt2(shape: ModelShape) -> Iterator[TensorSpec]:
    """LayerNorm with biases, learned positions, fused attention input."""
    yield embedding(shape)
    yield TensorSpec("position_embd.weight", (shape.context, shape.width), std=shape.width**-0.5)
    yield from head(shape)
    yield bias("output_norm", shape.width)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield norm(f"{block}attn_norm", shape.width)
        yield bias(f"{block}attn_norm", shape.width)
        yield matrix(f"{block}attn_qkv", 3 * shape.width, shape.width)
        yield bias(f"{block}attn_qkv", 3 * shape.width)
        yield matrix(f"{block}attn_output", shape.width, shape.width)
        yield bias(f"{block}attn_output", shape.width)
        yield norm(f"{block}ffn_norm", shape.width)
        yield bias(f"{block}ffn_norm", shape.width)
        yield matrix(f"{block}ffn_up", shape.ffn, shape.width)
        yield bias(f"{block}ffn_up", shape.ffn)
        yield matrix(f"{block}ffn_down", shape.width, shape.ffn)
        yield bias(f"{block}ffn_down", shape.width)


MAMBA_CONV = 4
MAMBA_STATE = 16


def mamba_step_rank(shape: ModelShape) -> int:
    return shape.width // 16


def mamba(shape: ModelShape) -> Iterator[TensorSpec]:
    """Selective state space layers: a recurrent state instead of a key-value cache."""
    inner = 2 * shape.width
    rank = mamba_step_rank(shape)
    decay = np.tile(-np.arange(1, MAMBA_STATE + 1, dtype=np.float32), (inner, 1))
    yield embedding(shape)
    yield from head(shape)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield norm(f"{block}attn_norm", shape.width)
        yield matrix(f"{block}ssm_in", 2 * inner, shape.width)
        yield TensorSpec(f"{block}ssm_conv1d.weight", (inner, MAMBA_CONV), std=MAMBA_CONV**-0.5)
        yield bias(f"{block}ssm_conv1d", inner)
        yield matrix(f"{block}ssm_x", rank + 2 * MAMBA_STATE, inner)
        yield TensorSpec(f"{block}ssm_dt.weight", (inner, rank), std=rank**-0.5)
        yield bias(f"{block}ssm_dt", inner)
        yield TensorSpec(f"{block}ssm_a", decay.shape, values=decay)
        yield TensorSpec(f"{block}ssm_d", (inner,), values=np.ones(inner, np.float32))
        yield matrix(f"{block}ssm_out", shape.width, inner)


BERT_TOKEN_TYPES = 2


def bert(shape: ModelShape) -> Iterator[TensorSpec]:
    """Encoder with norms after each branch and no output head."""
    yield embedding(shape)
    yield TensorSpec("token_types.weight", (BERT_TOKEN_TYPES, shape.width), std=shape.width**-0.5)
    yield TensorSpec("position_embd.weight", (shape.context, shape.width), std=shape.width**-0.5)
    yield norm("token_embd_norm", shape.width)
    yield bias("token_embd_norm", shape.width)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        for part in attention(shape, block):
            yield part
            yield bias(part.name.removesuffix(".weight"), part.dims[0])
        yield norm(f"{block}attn_output_norm", shape.width)
        yield bias(f"{block}attn_output_norm", shape.width)
        yield matrix(f"{block}ffn_up", shape.ffn, shape.width)
        yield bias(f"{block}ffn_up", shape.ffn)
        yield matrix(f"{block}ffn_down", shape.width, shape.ffn)
        yield bias(f"{block}ffn_down", shape.width)
        yield norm(f"{block}layer_output_norm", shape.width)
        yield bias(f"{block}layer_output_norm", shape.width)


T5_BUCKETS = 32


def t5(shape: ModelShape) -> Iterator[TensorSpec]:
    """Encoder and decoder of the same depth; the first layer of each holds the relative position table."""
    yield embedding(shape)
    for side in ("enc", "dec"):
        yield norm(f"{side}.output_norm", shape.width, shape.logit_spread if side == "dec" else 1.0)
        for layer in range(shape.layers):
            block = f"{side}.blk.{layer}."
            yield norm(f"{block}attn_norm", shape.width)
            yield from attention(shape, block, "attn_o")
            if layer == 0:
                yield TensorSpec(f"{block}attn_rel_b.weight", (T5_BUCKETS, shape.heads), std=1.0)
            if side == "dec":
                yield norm(f"{block}cross_attn_norm", shape.width)
                yield from attention(shape, f"{block}cross_", "attn_o")
            yield norm(f"{block}ffn_norm", shape.width)
            yield from gated_ffn(shape, block)


LLAMA_LIKE = ("llama", "qwen2", "qwen3", "gemma", "gemma3", "granite")
TENSORS = {
    "gpt2": gpt2,
    "mamba": mamba,
    "bert": bert,
    "t5": t5,
    "qwen3moe": qwen3moe,
    "gpt-oss": gpt_oss,
    **dict.fromkeys(LLAMA_LIKE, llama_like),
}

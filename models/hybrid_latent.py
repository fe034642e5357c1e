"""The tensors that llama.cpp expects of hybrids with compressed keys and values, or several streams between the layers:
Ling 3 (bailingmoe3), Kimi K3, GLM 5 Next, Qwen 4 (experimental), DeepSeek 4."""

from __future__ import annotations

from collections.abc import Iterator

import gguf
import numpy as np

from architecture_tensors import TensorSpec, matrix, norm
from hybrid_layers import describe_qwen35moe, qwen35_layer, qwen35moe_experts
from hybrid_parts import (
    CONV,
    EXPERT_FFN,
    N_EXPERT,
    N_HEAD,
    N_LAYER,
    SHARED_FFN,
    WIDTH,
    Hybrid,
    attends,
    decay,
    describe_experts,
    gated_experts,
    gated_ffn,
)

KDA_HEAD = 16  # of Kimi's delta attention
LATENT, ROPE = 32, 8  # of compressed keys and values, and of the part with positions
LATENT_HEAD, LATENT_VALUE = 24, 16  # of queries and values before and after
QUERY_LATENT = 32
STREAMS = 4  # that run from layer to layer; mixed by hyper-connections
INDEX_HEADS, INDEX_HEAD, POOL = 2, 16, 4  # of what chooses among the keys


def vector(name: str, *dims: int, std: float = 0.1) -> TensorSpec:
    return TensorSpec(name, dims, std=std)


def stack(name: str, n: int, rows: int, columns: int) -> TensorSpec:
    return TensorSpec(f"{name}.weight", (n, rows, columns), "matrix", columns**-0.5)


def delta_attention(block: str) -> Iterator[TensorSpec]:
    """What the recurrent layers of all these have."""
    inner = N_HEAD * KDA_HEAD
    for kind in "qkv":
        yield vector(f"{block}ssm_conv1d_{kind}.weight", inner, 1, CONV, std=CONV**-0.5)
        yield matrix(f"{block}attn_{kind}", inner, WIDTH)
    yield matrix(f"{block}ssm_beta", N_HEAD, WIDTH)
    yield vector(f"{block}ssm_dt.bias", inner)
    yield norm(f"{block}ssm_norm", KDA_HEAD)
    yield matrix(f"{block}attn_output", WIDTH, inner)


def low_rank(block: str, name: str) -> Iterator[TensorSpec]:
    yield matrix(f"{block}ssm_{name}_a", KDA_HEAD, WIDTH)
    yield matrix(f"{block}ssm_{name}_b", N_HEAD * KDA_HEAD, KDA_HEAD)


def latent_attention(block: str, rope: int = ROPE, query_latent: int = 0) -> Iterator[TensorSpec]:
    if query_latent:
        yield matrix(f"{block}attn_q_a", query_latent, WIDTH)
        yield norm(f"{block}attn_q_a_norm", query_latent)
        yield matrix(f"{block}attn_q_b", N_HEAD * LATENT_HEAD, query_latent)
    else:
        yield matrix(f"{block}attn_q", N_HEAD * LATENT_HEAD, WIDTH)
    yield matrix(f"{block}attn_kv_a_mqa", LATENT + rope, WIDTH)
    yield norm(f"{block}attn_kv_a_norm", LATENT)
    yield stack(f"{block}attn_k_b", N_HEAD, LATENT, LATENT_HEAD - rope)
    yield stack(f"{block}attn_v_b", N_HEAD, LATENT_VALUE, LATENT)
    yield matrix(f"{block}attn_output", WIDTH, N_HEAD * LATENT_VALUE)


def ffn(layer: int, block: str, shared: int) -> Iterator[TensorSpec]:
    yield norm(f"{block}ffn_norm", WIDTH)
    if layer == 0:  # the leading block is dense
        yield from gated_ffn(block)
        return
    yield from gated_experts(block)
    yield vector(f"{block}exp_probs_b.bias", N_EXPERT)
    yield from gated_ffn(block, "_shexp", shared)


def describe_latent(writer: gguf.GGUFWriter, rope: int = ROPE) -> None:
    arch = writer.arch
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv([int(attends(layer)) for layer in range(N_LAYER)])
    writer.add_key_length(LATENT + rope)
    writer.add_value_length(LATENT)
    writer.add_key_length_mla(LATENT_HEAD)
    writer.add_value_length_mla(LATENT_VALUE)
    writer.add_kv_lora_rank(LATENT)
    writer.add_rope_dimension_count(rope)
    writer.add_rope_freq_base(10000.0)
    writer.add_ssm_conv_kernel(CONV)
    writer.add_uint32(f"{arch}.kda.head_dim", KDA_HEAD)
    writer.add_float32(f"{arch}.kda.gate_lower_bound", -5.0)
    writer.add_leading_dense_block_count(1)
    describe_shared_experts(writer, 2)


def describe_shared_experts(writer: gguf.GGUFWriter, gating: int) -> None:
    describe_experts(writer)
    writer.add_expert_shared_count(1)
    writer.add_expert_weights_scale(1.0)
    writer.add_expert_weights_norm(True)
    writer.add_uint32(f"{writer.arch}.expert_gating_func", gating)


# --- Ling 3 ----------------------------------------------------------------------------------------------------------


def bailingmoe3(layer: int, block: str) -> Iterator[TensorSpec]:
    yield norm(f"{block}attn_norm", WIDTH)
    if attends(layer):
        yield from latent_attention(block)
        yield matrix(f"{block}attn_gate", N_HEAD, WIDTH)
    else:
        yield from delta_attention(block)
        yield matrix(f"{block}ssm_f_a", N_HEAD * KDA_HEAD, WIDTH)
        yield matrix(f"{block}ssm_g_a", N_HEAD * KDA_HEAD, WIDTH)
        yield decay(f"{block}ssm_a", (N_HEAD, 1))
    yield from ffn(layer, block, SHARED_FFN)


def describe_bailingmoe3(writer: gguf.GGUFWriter) -> None:
    describe_latent(writer)
    writer.add_bool("bailingmoe3.kda.safe_gate", True)
    writer.add_expert_shared_feed_forward_length(SHARED_FFN)


# --- Kimi K3 ---------------------------------------------------------------------------------------------------------


def kimi_k3(layer: int, block: str) -> Iterator[TensorSpec]:
    yield norm(f"{block}attn_norm", WIDTH)
    yield vector(f"{block}attn_res_score.weight", WIDTH)
    yield vector(f"{block}ffn_res_score.weight", WIDTH)
    if attends(layer):
        yield from latent_attention(block)
        yield matrix(f"{block}attn_gate", N_HEAD * LATENT_VALUE, WIDTH)
    else:
        yield from delta_attention(block)
        yield from low_rank(block, "f")
        yield matrix(f"{block}ssm_g", N_HEAD * KDA_HEAD, WIDTH)
        yield decay(f"{block}ssm_a", (N_HEAD,))
    yield from ffn(layer, block, EXPERT_FFN)


def describe_kimi_k3(writer: gguf.GGUFWriter) -> None:
    describe_latent(writer)
    writer.add_uint32("kimi-k3.attn_res.block_size", 2)
    writer.add_float32("kimi-k3.activation.situ_beta", 4.0)
    writer.add_float32("kimi-k3.activation.situ_linear_beta", 25.0)


# --- GLM 5 Next ------------------------------------------------------------------------------------------------------


def mixed_streams(block: str) -> Iterator[TensorSpec]:
    mixes = (2 + STREAMS) * STREAMS
    for part in ("attn", "ffn"):
        yield matrix(f"{block}hc_{part}_fn", mixes, STREAMS * WIDTH)
        yield vector(f"{block}hc_{part}_base.weight", mixes)
        yield vector(f"{block}hc_{part}_scale.weight", 3, std=1.0)


def glm5_next(layer: int, block: str) -> Iterator[TensorSpec]:
    yield norm(f"{block}attn_norm", WIDTH)
    yield from mixed_streams(block)
    if attends(layer):
        yield from latent_attention(block, rope=0, query_latent=QUERY_LATENT)
        yield norm(f"{block}indexer.k_norm", INDEX_HEAD)
        yield vector(f"{block}indexer.k_norm.bias", INDEX_HEAD)
        yield matrix(f"{block}indexer.proj", INDEX_HEADS, WIDTH)
        yield matrix(f"{block}indexer.attn_k", INDEX_HEAD, WIDTH)
        yield matrix(f"{block}indexer.attn_q_b", INDEX_HEADS * INDEX_HEAD, QUERY_LATENT)
        yield matrix(f"{block}indexer_compressor_gate", INDEX_HEAD, WIDTH)
        yield vector(f"{block}indexer_compressor_ape.weight", POOL, INDEX_HEAD)
    else:
        yield from delta_attention(block)
        yield from low_rank(block, "f")
        yield from low_rank(block, "g")
        yield decay(f"{block}ssm_a", (N_HEAD,))
    yield from ffn(layer, block, EXPERT_FFN)


def describe_streams(writer: gguf.GGUFWriter) -> None:
    arch = writer.arch
    writer.add_uint32(f"{arch}.hyper_connection.count", STREAMS)
    writer.add_uint32(f"{arch}.hyper_connection.sinkhorn_iterations", 2)
    writer.add_float32(f"{arch}.hyper_connection.epsilon", 1e-6)


def describe_indexer(writer: gguf.GGUFWriter, head: int = INDEX_HEAD) -> None:
    arch = writer.arch
    writer.add_uint32(f"{arch}.attention.indexer.head_count", INDEX_HEADS)
    writer.add_uint32(f"{arch}.attention.indexer.key_length", head)
    writer.add_uint32(f"{arch}.attention.indexer.top_k", 1 << 17)  # all of them: a choice would be a matter of rounding


def describe_glm5_next(writer: gguf.GGUFWriter) -> None:
    describe_latent(writer, rope=0)
    describe_streams(writer)
    describe_indexer(writer)
    writer.add_q_lora_rank(QUERY_LATENT)
    writer.add_uint32("glm5-next.attention.indexer.kpool", POOL)
    writer.add_bool("glm5-next.attention.indexer.kpool_select_tail", True)


# --- Qwen 4, experimental --------------------------------------------------------------------------------------------

STREAM_RANK = 8


def ranked_streams(prefix: str) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{prefix}_norm.weight", (STREAMS, WIDTH), values=np.ones((STREAMS, WIDTH), np.float32))
    yield matrix(f"{prefix}_down", STREAM_RANK, STREAMS * WIDTH)
    yield matrix(f"{prefix}_up", STREAMS * WIDTH, STREAM_RANK)


def qwen4exp(layer: int, block: str) -> Iterator[TensorSpec]:
    without_norms = ("attn_norm.weight", "post_attention_norm.weight")
    yield from (spec for spec in qwen35_layer(layer, block) if not spec.name.endswith(without_norms))
    for part in ("attn", "ffn"):
        yield from ranked_streams(f"{block}hc_{part}")
        yield matrix(f"{block}hc_{part}_inject", STREAMS, STREAMS * WIDTH)
    if attends(layer):
        yield matrix(f"{block}indexer.q_proj", INDEX_HEADS * INDEX_HEAD, WIDTH)
        yield matrix(f"{block}indexer.k_proj", INDEX_HEAD, WIDTH)
        yield norm(f"{block}indexer.q_norm", INDEX_HEAD)
        yield norm(f"{block}indexer.k_norm", INDEX_HEAD)
    yield from qwen35moe_experts(block)


def qwen4exp_head() -> Iterator[TensorSpec]:
    yield from ranked_streams("output_hc")


def describe_qwen4exp(writer: gguf.GGUFWriter) -> None:
    describe_qwen35moe(writer)
    describe_streams(writer)
    describe_indexer(writer)
    writer.add_uint32("qwen4exp.hyper_connection.low_rank", STREAM_RANK)
    writer.add_array("qwen4exp.attention.compress_ratios", [4] * N_LAYER)


# --- DeepSeek 4 ------------------------------------------------------------------------------------------------------

RATIOS = (0, 4, 128, 4)  # tokens that share a compressed key, 0: none is made
OUT_GROUPS, OUT_RANK = 2, 16
WIDE_HEAD = 64  # llama.cpp rotates keys in blocks of so many


def deepseek4(layer: int, block: str) -> Iterator[TensorSpec]:
    yield norm(f"{block}attn_norm", WIDTH)
    yield norm(f"{block}ffn_norm", WIDTH)
    yield vector(f"{block}attn_sinks.weight", N_HEAD)
    yield matrix(f"{block}attn_q_a", QUERY_LATENT, WIDTH)
    yield norm(f"{block}attn_q_a_norm", QUERY_LATENT)
    yield matrix(f"{block}attn_q_b", N_HEAD * WIDE_HEAD, QUERY_LATENT)
    yield matrix(f"{block}attn_kv", WIDE_HEAD, WIDTH)
    yield norm(f"{block}attn_kv_a_norm", WIDE_HEAD)
    yield matrix(f"{block}attn_output_a", OUT_RANK * OUT_GROUPS, N_HEAD * WIDE_HEAD // OUT_GROUPS)
    yield matrix(f"{block}attn_output_b", WIDTH, OUT_RANK * OUT_GROUPS)
    yield from mixed_streams(block)
    if ratio := RATIOS[layer]:
        yield from compressor(f"{block}attn_compressor", WIDE_HEAD, ratio)
    if RATIOS[layer] == 4:
        yield matrix(f"{block}indexer.proj", INDEX_HEADS, WIDTH)
        yield matrix(f"{block}indexer.attn_q_b", INDEX_HEADS * WIDE_HEAD, QUERY_LATENT)
        yield from compressor(f"{block}indexer_compressor", WIDE_HEAD, 4)
    yield from gated_experts(block)
    yield vector(f"{block}exp_probs_b.bias", N_EXPERT)
    yield from gated_ffn(block, "_shexp", EXPERT_FFN)


def compressor(prefix: str, head: int, ratio: int) -> Iterator[TensorSpec]:
    rows = head * (2 if ratio == 4 else 1)
    yield matrix(f"{prefix}_kv", rows, WIDTH)
    yield matrix(f"{prefix}_gate", rows, WIDTH)
    yield vector(f"{prefix}_ape.weight", ratio, rows)
    yield norm(f"{prefix}_norm", head)


def deepseek4_head() -> Iterator[TensorSpec]:
    yield matrix("output_hc_fn", STREAMS, STREAMS * WIDTH)
    yield vector("output_hc_base.weight", STREAMS)
    yield vector("output_hc_scale.weight", 1, std=1.0)


def describe_deepseek4(writer: gguf.GGUFWriter) -> None:
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(1)
    writer.add_key_length(WIDE_HEAD)
    writer.add_value_length(WIDE_HEAD)
    writer.add_rope_dimension_count(WIDE_HEAD // 2)
    writer.add_rope_freq_base(10000.0)
    writer.add_q_lora_rank(QUERY_LATENT)
    writer.add_sliding_window(32)
    describe_streams(writer)
    describe_indexer(writer, WIDE_HEAD)
    describe_shared_experts(writer, 4)
    writer.add_float32("deepseek4.swiglu_clamp_exp", 10.0)
    writer.add_uint32("deepseek4.attention.output_group_count", OUT_GROUPS)
    writer.add_uint32("deepseek4.attention.output_lora_rank", OUT_RANK)
    writer.add_array("deepseek4.attention.compress_ratios", list(RATIOS))
    writer.add_float32("deepseek4.attention.compress_rope_freq_base", 160000.0)
    writer.add_uint32("deepseek4.hash_layer_count", 0)


HYBRIDS = {
    "bailingmoe3": Hybrid(bailingmoe3, describe_bailingmoe3),
    "kimi-k3": Hybrid(
        kimi_k3, describe_kimi_k3, own_head=True, head=lambda: iter([vector("output_res_score.weight", WIDTH)])
    ),
    "glm5-next": Hybrid(glm5_next, describe_glm5_next, own_head=True),
    "qwen4exp": Hybrid(qwen4exp, describe_qwen4exp, output_norm="", head=qwen4exp_head),
    "deepseek4": Hybrid(deepseek4, describe_deepseek4, own_head=True, head=deepseek4_head),
}

"""The tensors that llama.cpp expects of Qwen3.5, LFM2 and Nemotron-H, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator

import gguf
import numpy as np

from architecture_tensors import TensorSpec, bias, matrix, norm
from hybrid_parts import (
    EXPERT_FFN,
    FFN,
    GROUPS,
    HEAD_DIM,
    HEADS,
    INNER,
    N_EXPERT,
    N_HEAD,
    N_HEAD_KV,
    N_LAYER,
    SHARED_FFN,
    STATE,
    WIDTH,
    Hybrid,
    attends,
    attention,
    convolution,
    decay,
    describe_attention,
    describe_experts,
    describe_state,
    experts,
    gated_experts,
    gated_ffn,
    normed_attention,
)

# --- Qwen3.5: gated delta nets ---------------------------------------------------------------------------------------


def qwen35_layer(layer: int, block: str) -> Iterator[TensorSpec]:
    yield norm(f"{block}attn_norm", WIDTH)
    yield norm(f"{block}post_attention_norm", WIDTH)
    if attends(layer):
        yield from normed_attention(block, 2 * N_HEAD * HEAD_DIM)  # a gate beside each query
        return
    key_dim = GROUPS * STATE
    yield matrix(f"{block}attn_qkv", 2 * key_dim + INNER, WIDTH)
    yield matrix(f"{block}attn_gate", INNER, WIDTH)
    yield convolution(f"{block}ssm_conv1d", 2 * key_dim + INNER)
    yield bias(f"{block}ssm_dt", HEADS)
    yield decay(f"{block}ssm_a", (HEADS,))
    yield matrix(f"{block}ssm_beta", HEADS, WIDTH)
    yield matrix(f"{block}ssm_alpha", HEADS, WIDTH)
    yield norm(f"{block}ssm_norm", STATE)
    yield matrix(f"{block}ssm_out", WIDTH, INNER)


def qwen35(layer: int, block: str) -> Iterator[TensorSpec]:
    yield from qwen35_layer(layer, block)
    yield from gated_ffn(block)


def qwen35moe(layer: int, block: str) -> Iterator[TensorSpec]:
    yield from qwen35_layer(layer, block)
    yield from qwen35moe_experts(block)


def qwen35moe_experts(block: str) -> Iterator[TensorSpec]:
    yield from gated_experts(block)
    yield TensorSpec(f"{block}ffn_gate_inp_shexp.weight", (WIDTH,), std=WIDTH**-0.5)
    yield from gated_ffn(block, "_shexp", SHARED_FFN)


def describe_qwen35(writer: gguf.GGUFWriter) -> None:
    describe_attention(writer, N_HEAD_KV)
    writer.add_rope_dimension_sections([2, 3, 3, 0])
    writer.add_full_attention_interval(2)
    describe_state(writer)


def describe_qwen35moe(writer: gguf.GGUFWriter) -> None:
    describe_qwen35(writer)
    describe_experts(writer)
    writer.add_expert_shared_feed_forward_length(SHARED_FFN)


# --- LFM2: short convolutions ----------------------------------------------------------------------------------------

SHORT_CONV = 3


def lfm2_layer(layer: int, block: str) -> Iterator[TensorSpec]:
    yield norm(f"{block}attn_norm", WIDTH)
    yield norm(f"{block}ffn_norm", WIDTH)
    if attends(layer):
        yield from normed_attention(block)
        return
    yield convolution(f"{block}shortconv.conv", WIDTH, SHORT_CONV)
    yield matrix(f"{block}shortconv.in_proj", 3 * WIDTH, WIDTH)
    yield matrix(f"{block}shortconv.out_proj", WIDTH, WIDTH)


def lfm2(layer: int, block: str) -> Iterator[TensorSpec]:
    yield from lfm2_layer(layer, block)
    yield from gated_ffn(block)


def lfm2moe(layer: int, block: str) -> Iterator[TensorSpec]:
    yield from lfm2_layer(layer, block)
    if layer == 0:  # the leading block is dense
        yield from gated_ffn(block)
        return
    yield from gated_experts(block)
    yield TensorSpec(f"{block}exp_probs_b.bias", (N_EXPERT,), std=0.1)


def describe_lfm2(writer: gguf.GGUFWriter) -> None:
    describe_attention(writer, [N_HEAD_KV if attends(layer) else 0 for layer in range(N_LAYER)])
    writer.add_shortconv_l_cache(SHORT_CONV)


def describe_lfm2moe(writer: gguf.GGUFWriter) -> None:
    describe_lfm2(writer)
    describe_experts(writer)
    writer.add_leading_dense_block_count(1)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


# --- Nemotron-H: Mamba 2; a layer attends, keeps a state, or is an FFN -----------------------------------------------

NEMOTRON_KINDS = ("state", "attention", "state", "ffn")


def nemotron_layer(layer: int, block: str) -> Iterator[TensorSpec]:
    yield norm(f"{block}attn_norm", WIDTH)
    if NEMOTRON_KINDS[layer] == "attention":
        yield from attention(block)
    elif NEMOTRON_KINDS[layer] == "state":
        channels = INNER + 2 * GROUPS * STATE
        yield matrix(f"{block}ssm_in", INNER + channels + HEADS, WIDTH)
        yield convolution(f"{block}ssm_conv1d", channels)
        yield bias(f"{block}ssm_conv1d", channels)
        yield bias(f"{block}ssm_dt", HEADS)
        yield decay(f"{block}ssm_a", (HEADS, 1))
        yield TensorSpec(f"{block}ssm_d", (HEADS, 1), values=np.ones((HEADS, 1), np.float32))
        yield TensorSpec(
            f"{block}ssm_norm.weight", (GROUPS, INNER // GROUPS), values=np.ones((GROUPS, INNER // GROUPS), np.float32)
        )
        yield matrix(f"{block}ssm_out", WIDTH, INNER)


def plain_ffn(block: str, suffix: str = "", width: int = FFN) -> Iterator[TensorSpec]:
    yield matrix(f"{block}ffn_up{suffix}", width, WIDTH)
    yield matrix(f"{block}ffn_down{suffix}", WIDTH, width)


def nemotron_h(layer: int, block: str) -> Iterator[TensorSpec]:
    yield from nemotron_layer(layer, block)
    if NEMOTRON_KINDS[layer] == "ffn":
        yield from plain_ffn(block)


def nemotron_h_moe(layer: int, block: str) -> Iterator[TensorSpec]:
    yield from nemotron_layer(layer, block)
    if NEMOTRON_KINDS[layer] == "ffn":
        yield matrix(f"{block}ffn_gate_inp", N_EXPERT, WIDTH)
        yield TensorSpec(f"{block}exp_probs_b.bias", (N_EXPERT,), std=0.1)
        yield experts(f"{block}ffn_up_exps", EXPERT_FFN, WIDTH)
        yield experts(f"{block}ffn_down_exps", WIDTH, EXPERT_FFN)
        yield from plain_ffn(block, "_shexp", SHARED_FFN)


def describe_nemotron_h(writer: gguf.GGUFWriter) -> None:
    describe_attention(writer, [N_HEAD_KV if kind == "attention" else 0 for kind in NEMOTRON_KINDS])
    writer.add_layer_norm_eps(1e-5)
    describe_state(writer)


def describe_nemotron_h_moe(writer: gguf.GGUFWriter) -> None:
    describe_nemotron_h(writer)
    describe_experts(writer)
    writer.add_expert_shared_feed_forward_length(SHARED_FFN)
    writer.add_expert_shared_count(1)
    writer.add_expert_weights_norm(True)
    writer.add_expert_weights_scale(1.0)


NEMOTRON_FFN = tuple(FFN if kind == "ffn" else 0 for kind in NEMOTRON_KINDS)
HYBRIDS = {
    "qwen35": Hybrid(qwen35, describe_qwen35),
    "qwen35moe": Hybrid(qwen35moe, describe_qwen35moe),
    "lfm2": Hybrid(lfm2, describe_lfm2, "token_embd_norm"),
    "lfm2moe": Hybrid(lfm2moe, describe_lfm2moe, "token_embd_norm"),
    "nemotron_h": Hybrid(nemotron_h, describe_nemotron_h, ffn=NEMOTRON_FFN),
    "nemotron_h_moe": Hybrid(nemotron_h_moe, describe_nemotron_h_moe, ffn=NEMOTRON_FFN),
}

"""Writes tiny hybrid models with random weights: some layers attend, the others keep a recurrent state.

One shape for each architecture whose state llama.cpp can take back. All weights are F32.

Usage: python models/random_hybrid.py lfm2 out.gguf
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from architecture_tensors import TensorSpec, bias, matrix, norm
from synthetic_vocab import make_vocabulary, write_vocabulary

N_LAYER = 4
WIDTH = 64
N_HEAD, N_HEAD_KV, HEAD_DIM = 4, 2, 16
FFN = 128
N_VOCAB, N_CTX = 512, 1024
CONV = 4  # tokens that a convolution sees
STATE, GROUPS, INNER = 16, 2, 64  # of the recurrent layers: HEADS states of STATE x INNER / HEADS
HEADS = 4
N_EXPERT, N_EXPERT_USED, EXPERT_FFN, SHARED_FFN = 4, 2, 32, 48
MLA_RANK, MLA_ROPE, MLA_HEAD, MLA_VALUE = 32, 8, 24, 16  # attention with compressed keys and values
LOGIT_SPREAD = 2.5  # standard deviation: clearly apart, so that the greedy choice is not a matter of rounding


def experts(name: str, rows: int, columns: int) -> TensorSpec:
    return TensorSpec(f"{name}.weight", (N_EXPERT, rows, columns), "matrix", columns**-0.5)


def attention(block: str, query_rows: int = N_HEAD * HEAD_DIM) -> Iterator[TensorSpec]:
    yield matrix(f"{block}attn_q", query_rows, WIDTH)
    yield matrix(f"{block}attn_k", N_HEAD_KV * HEAD_DIM, WIDTH)
    yield matrix(f"{block}attn_v", N_HEAD_KV * HEAD_DIM, WIDTH)
    yield matrix(f"{block}attn_output", WIDTH, N_HEAD * HEAD_DIM)


def normed_attention(block: str, query_rows: int = N_HEAD * HEAD_DIM) -> Iterator[TensorSpec]:
    yield from attention(block, query_rows)
    yield norm(f"{block}attn_q_norm", HEAD_DIM)
    yield norm(f"{block}attn_k_norm", HEAD_DIM)


def gated_ffn(block: str, suffix: str = "", width: int = FFN) -> Iterator[TensorSpec]:
    yield matrix(f"{block}ffn_gate{suffix}", width, WIDTH)
    yield matrix(f"{block}ffn_up{suffix}", width, WIDTH)
    yield matrix(f"{block}ffn_down{suffix}", WIDTH, width)


def gated_experts(block: str) -> Iterator[TensorSpec]:
    yield matrix(f"{block}ffn_gate_inp", N_EXPERT, WIDTH)
    yield experts(f"{block}ffn_gate_exps", EXPERT_FFN, WIDTH)
    yield experts(f"{block}ffn_up_exps", EXPERT_FFN, WIDTH)
    yield experts(f"{block}ffn_down_exps", WIDTH, EXPERT_FFN)


def decay(name: str, dims: tuple[int, ...]) -> TensorSpec:
    """Negative: a state fades, some heads' faster than others'."""
    return TensorSpec(name, dims, values=-np.linspace(0.1, 2.0, int(np.prod(dims)), dtype=np.float32).reshape(dims))


def convolution(name: str, channels: int, length: int = CONV) -> TensorSpec:
    return TensorSpec(f"{name}.weight", (channels, length), std=length**-0.5)


def attends(layer: int) -> bool:
    return layer % 2 == 1


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


# --- what is alike ---------------------------------------------------------------------------------------------------


def describe_attention(writer: gguf.GGUFWriter, kv_heads: int | list[int]) -> None:
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)


def describe_state(writer: gguf.GGUFWriter) -> None:
    writer.add_ssm_conv_kernel(CONV)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(HEADS)
    writer.add_ssm_group_count(GROUPS)


def describe_experts(writer: gguf.GGUFWriter) -> None:
    writer.add_expert_count(N_EXPERT)
    writer.add_expert_used_count(N_EXPERT_USED)
    writer.add_expert_feed_forward_length(EXPERT_FFN)


@dataclass(frozen=True)
class Hybrid:
    layer: Callable[[int, str], Iterator[TensorSpec]]  # (layer, prefix of its tensors' names)
    describe: Callable[[gguf.GGUFWriter], None]
    output_norm: str = "output_norm"
    ffn: int | tuple[int, ...] = FFN  # of each layer, where they differ


NEMOTRON_FFN = tuple(FFN if kind == "ffn" else 0 for kind in NEMOTRON_KINDS)
HYBRIDS = {
    "qwen35": Hybrid(qwen35, describe_qwen35),
    "qwen35moe": Hybrid(qwen35moe, describe_qwen35moe),
    "lfm2": Hybrid(lfm2, describe_lfm2, "token_embd_norm"),
    "lfm2moe": Hybrid(lfm2moe, describe_lfm2moe, "token_embd_norm"),
    "nemotron_h": Hybrid(nemotron_h, describe_nemotron_h, ffn=NEMOTRON_FFN),
    "nemotron_h_moe": Hybrid(nemotron_h_moe, describe_nemotron_h_moe, ffn=NEMOTRON_FFN),
}


def tensors(hybrid: Hybrid) -> Iterator[TensorSpec]:
    yield TensorSpec("token_embd.weight", (N_VOCAB, WIDTH), "embedding", WIDTH**-0.5)
    yield norm(hybrid.output_norm, WIDTH, LOGIT_SPREAD)
    for layer in range(N_LAYER):
        yield from hybrid.layer(layer, f"blk.{layer}.")


def write_random_hybrid(path: str | os.PathLike[str], arch: str, seed: int = 0) -> Path:
    """Writes a tiny model of this architecture. The same arguments give the same file, byte for byte."""
    path, hybrid = Path(path), HYBRIDS[arch]
    unfinished = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(unfinished, arch)
    writer.add_name(f"random {arch}")
    writer.add_description("Random weights for tests; its text means nothing")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(N_VOCAB)
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(hybrid.ffn if isinstance(hybrid.ffn, int) else list(hybrid.ffn))
    writer.add_layer_norm_rms_eps(1e-5)
    hybrid.describe(writer)
    write_vocabulary(writer, make_vocabulary(N_VOCAB), add_begin=False)
    for index, spec in enumerate(tensors(hybrid)):
        values = spec.values
        if values is None:
            rng = np.random.default_rng([seed, index])
            values = rng.standard_normal(spec.dims, dtype=np.float32) * np.float32(spec.std)
        writer.add_tensor(spec.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(unfinished, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arch", choices=HYBRIDS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    path = write_random_hybrid(arguments.out, arguments.arch, arguments.seed)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()

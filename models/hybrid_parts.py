"""What tiny hybrid models have in common: their sizes, parts of their layers, and the metadata about these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gguf
import numpy as np

from architecture_tensors import TensorSpec, matrix, norm

N_LAYER = 4
WIDTH = 64
N_HEAD, N_HEAD_KV, HEAD_DIM = 4, 2, 16
FFN = 128
N_VOCAB, N_CTX = 512, 1024
CONV = 4  # tokens that a convolution sees
STATE, GROUPS, INNER = 16, 2, 64  # of the recurrent layers: HEADS states of STATE x INNER / HEADS
HEADS = 4
N_EXPERT, N_EXPERT_USED, EXPERT_FFN, SHARED_FFN = 4, 2, 32, 48
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
    output_norm: str = "output_norm"  # "" where it is another part's
    ffn: int | tuple[int, ...] = FFN  # of each layer, where they differ
    own_head: bool = False  # an output matrix of its own, not the embeddings
    head: Callable[[], Iterator[TensorSpec]] = tuple  # what else stands outside the layers

"""Tiny models whose files bring a layer for multi-token prediction (MTP), some of which are right by construction.

For a token x and the state h of the trunk from which x was drawn, the layer computes

    y = eh_proj [norm(E(x)); norm(h)],   a block like those of the trunk on y,   the trunk's last norm and head

    "copy"     The trunk is one block, the layer has the same weights, and eh_proj passes E(x) on, whose rows have mean
               square 1: what the layer says after x is what the trunk says after x. It needs the cells of all tokens
               before.
    "orbit"    The blocks add nothing, so that the next token depends on the newest alone: its embedding is the newest
               one's, moved round by a place. eh_proj takes h, which is E of the token before x, to E(x): with the state
               of another token the guess is another one.
    "random"   All weights are random: it knows nothing.
    "overflow" Its numbers are too large, and what it says is not finite.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np

from architecture_tensors import TensorSpec, norm
from hybrid_layers import describe_qwen35, qwen35
from hybrid_parts import (
    EXPERT_FFN,
    LOGIT_SPREAD,
    N_EXPERT,
    N_HEAD_KV,
    N_LAYER,
    N_VOCAB,
    WIDTH,
    attention,
    describe_attention,
    describe_experts,
    gated_experts,
    gated_ffn,
)
from random_hybrid import write_tiny

N_TRUNK = {"copy": 1, "orbit": N_LAYER, "random": N_LAYER, "overflow": N_LAYER}
SHARPNESS = {"copy": 40.0, "orbit": 1.0, "random": LOGIT_SPREAD, "overflow": LOGIT_SPREAD}  # the last norm's weights
SILENCED = ("attn_output", "ssm_out", "ffn_down", "ffn_down_exps", "ffn_down_shexp")


def after(token: int, n: int = 1) -> int:
    """What follows in an "orbit", n tokens on: tokens 64 i to 64 i + 63 go round."""
    return token // WIDTH * WIDTH + (token + n) % WIDTH


def signs(kind: str) -> np.ndarray:
    """(N_VOCAB, WIDTH) of 1 and -1: the embeddings."""
    drawn = np.sign(np.random.default_rng(7).standard_normal((N_VOCAB, WIDTH))).astype(np.float32)
    if kind != "orbit":
        return drawn
    return np.stack([np.roll(drawn[token // WIDTH], token % WIDTH) for token in range(N_VOCAB)])


def head(kind: str) -> TensorSpec:
    """In an "orbit" the state after a token, its embedding, meets itself in the row of the next one."""
    if kind != "orbit":
        return TensorSpec("output.weight", (N_VOCAB, WIDTH), std=WIDTH**-0.5)
    rows = np.stack([signs(kind)[after(token, -1)] for token in range(N_VOCAB)])
    return TensorSpec("output.weight", rows.shape, values=rows)


def join(kind: str, name: str) -> TensorSpec:
    """(WIDTH, 2 WIDTH): what the layer takes of [E(x); h]."""
    nothing, same = np.zeros((WIDTH, WIDTH), np.float32), np.eye(WIDTH, dtype=np.float32)
    parts = {"copy": [same, nothing], "orbit": [nothing, np.roll(same, 1, 0)]}
    values = np.concatenate(parts[kind], 1) if kind in parts else None
    return TensorSpec(name, (WIDTH, 2 * WIDTH), values=values, std=1e37 if kind == "overflow" else 0.1)


def glm4moe(_: int, block: str) -> Iterator[TensorSpec]:
    yield norm(f"{block}attn_norm", WIDTH)
    yield from attention(block)
    yield norm(f"{block}post_attention_norm", WIDTH)
    yield from gated_experts(block)
    yield TensorSpec(f"{block}exp_probs_b.bias", (N_EXPERT,), std=0.1)
    yield from gated_ffn(block, "_shexp", EXPERT_FFN)


def describe_glm4moe(writer: gguf.GGUFWriter) -> None:
    describe_attention(writer, N_HEAD_KV)
    describe_experts(writer)
    writer.add_expert_shared_count(1)
    writer.add_leading_dense_block_count(0)


def qwen35_prediction(block: str) -> Iterator[TensorSpec]:
    """The layer attends, whichever place it has among the others."""
    yield from qwen35(1, block)


ARCHS = {
    "glm4moe": (glm4moe, lambda block: glm4moe(0, block), describe_glm4moe),
    "qwen35": (qwen35, qwen35_prediction, describe_qwen35),
}


def tensors(arch: str, kind: str, with_layer: bool) -> Iterator[TensorSpec]:
    layer, prediction, _ = ARCHS[arch]
    yield TensorSpec("token_embd.weight", (N_VOCAB, WIDTH), values=signs(kind))
    yield norm("output_norm", WIDTH, SHARPNESS[kind])
    yield head(kind)
    for i in range(N_TRUNK[kind]):
        yield from layer(i, f"blk.{i}.")
    block = f"blk.{N_TRUNK[kind]}."
    if with_layer:
        yield from prediction(block)
        yield join(kind, f"{block}nextn.eh_proj.weight")
        yield norm(f"{block}nextn.enorm", WIDTH)
        yield norm(f"{block}nextn.hnorm", WIDTH)


def shaped(kind: str, spec: TensorSpec) -> TensorSpec:
    part = spec.name.split(".")[-2]
    if kind == "orbit" and part in SILENCED:
        return replace(spec, std=0.0)
    if kind == "copy" and spec.values is None and spec.name.startswith("blk."):
        rng = np.random.default_rng([*part.encode()])  # the same in both blocks
        return replace(spec, values=rng.standard_normal(spec.dims, dtype=np.float32) * np.float32(spec.std))
    return spec


def write_mtp(path: Path, kind: str, arch: str = "glm4moe", seed: int = 0, with_layer: bool = True) -> Path:
    """A model of this kind; "copy" is for glm4moe. Without the layer, only the metadata tell of one."""

    def describe(writer: gguf.GGUFWriter) -> None:
        ARCHS[arch][2](writer)
        writer.add_nextn_predict_layers(1)

    specs = (shaped(kind, spec) for spec in tensors(arch, kind, with_layer))
    return write_tiny(path, arch, specs, describe, n_layer=N_TRUNK[kind] + 1, seed=seed)

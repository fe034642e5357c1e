"""Masks and gated LoRA from a safetensors file, as other programs leave them, into the file of trained masks.

    mask_embeddings                                       (n_masks, n_embd)
    [PREFIX.]layers.N.self_attn.q_proj.lora_A[.weight]    (rank, n_in), and .lora_B (n_out, rank); also k, v, o
    [PREFIX.]layers.N.mlp.gate_proj.lora_A[.weight]       the same; also up, down

`alpha` is that of the LoRA: what it adds is multiplied by alpha / rank, which goes into B. The rows of q and k lie in
another order in the GGUF files of llama models, and so do those of their B.

    python -m maskprobe.mtp.convert_masks model.gguf masks.safetensors masks.gguf --alpha 32
"""

import argparse
import re
import sys
from pathlib import Path

import numpy as np

from ..errors import ArgumentError, Error, ModelError
from ..model import Model
from .mask_file import MaskFile, write_masks
from .safetensors_file import SafetensorsFile

VECTORS = "mask_embeddings"
PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
PERMUTED = {"attn_q": "head_count", "attn_k": "head_count_kv"}  # in llama models
NAME = re.compile(
    r"(?:[\w.]+\.)?layers\.(\d+)\.(" + "|".join(map(re.escape, PARTS)) + r")\.lora_([AB])(?:\.default)?(?:\.weight)?"
)


def convert_masks(model: Model, source: Path, out: Path, *, alpha: float | None = None) -> None:
    """Writes `out` for `model` from the safetensors file `source`, and loads nothing: the core checks the shapes
    against the model when it opens the file. alpha None: that of the file's metadata ("lora_alpha"), or the rank.

    Raises ModelError for a file that is unsound, has tensors that are not known, or lacks some; ArgumentError for an
    alpha that is not above 0."""
    file = SafetensorsFile(source)
    if VECTORS not in file.entries:
        raise ModelError(f"{source} has no tensor {VECTORS!r}: it holds no masks")
    vectors = file.tensor(VECTORS)
    if vectors.ndim != 2 or vectors.shape[1] != model.info.n_embd:
        raise ModelError(
            f"{source}: {VECTORS!r} has shape {vectors.shape}, expected (n_masks, {model.info.n_embd}) for this model"
        )
    halves: dict[str, dict[str, np.ndarray]] = {}
    for name in file.entries:
        if name == VECTORS:
            continue
        found = NAME.fullmatch(name)
        if found is None:
            raise ModelError(f"{source}: tensor {name!r} is not known")
        layer, part, half = found.groups()
        weight = f"blk.{int(layer)}.{PARTS[part]}.weight"
        if half in halves.setdefault(weight, {}):
            raise ModelError(f"{source}: tensor {name!r} is there twice, under two names")
        halves[weight][half] = file.tensor(name)
    scale_of = _alpha(file, source, alpha)
    pairs = {}
    for weight, pair in halves.items():
        if len(pair) != 2:
            raise ModelError(f"{source}: of the matrices for {weight} there is only lora_{next(iter(pair))}")
        a, b = pair["A"], pair["B"]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or a.shape[0] == 0:
            raise ModelError(f"{source}: the matrices for {weight} have shapes {a.shape} and {b.shape}")
        rank = a.shape[0]
        pairs[weight] = a, _in_file_order(model, weight, b) * np.float32((scale_of or rank) / rank)
    write_masks(out, MaskFile(model.identity, model.info.n_vocab, vectors, pairs), dtype=np.float32)


def _alpha(file: SafetensorsFile, source: Path, alpha: float | None) -> float | None:
    text = file.metadata.get("lora_alpha")
    if alpha is None and text is not None:
        try:
            alpha = float(text)
        except ValueError:
            raise ModelError(f"{source}: its lora_alpha {text!r} is no number") from None
    if alpha is not None and not (np.isfinite(alpha) and alpha > 0):
        raise ArgumentError(f"alpha = {alpha} must be a number above 0")
    return alpha


def _in_file_order(model: Model, weight: str, b: np.ndarray) -> np.ndarray:
    """Rows of B as the GGUF file has those of the weight: in llama models the two halves of a head that are rotated
    together lie in turns."""
    key = PERMUTED.get(weight.split(".")[2])
    if model.info.arch != "llama" or key is None:
        return b
    n_heads = int(model.metadata(f"llama.attention.{key}") or model.metadata("llama.attention.head_count") or 0)
    if n_heads < 1 or b.shape[0] % (2 * n_heads):
        raise ModelError(f"the matrix for {weight} has {b.shape[0]} rows, which {n_heads} heads do not divide")
    return b.reshape(n_heads, 2, -1, b.shape[1]).swapaxes(1, 2).reshape(b.shape)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m maskprobe.mtp.convert_masks", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="the GGUF model that the masks were trained for")
    parser.add_argument("source", type=Path, help="the safetensors file")
    parser.add_argument("out", type=Path, help="the file of trained masks that is written")
    parser.add_argument("--alpha", type=float, help="of the LoRA (default: as the file says, or the rank)")
    args = parser.parse_args()
    try:
        with Model(args.model, kernels="ours") as model:
            convert_masks(model, args.source, args.out, alpha=args.alpha)
    except Error as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A GGUF model's own weights in torch, for training what is added to it. They are dequantised and never change."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from torch import Tensor

from ..errors import ArgumentError

ARCHITECTURES = {"llama": "pairs", "qwen2": "halves"}  # how a head's values are paired for the rotation
PARTS = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
SCALED_ROPE = ("none", "")


class FrozenModel:
    """The forward pass of a llama or qwen2 model, row by row, so that more rows can be put beside a sequence's.

    Attributes: `path`; `n_layer`, `n_embd`, `n_vocab`, `n_head`, `n_head_kv`, `head_size`; `embedding` and
    `unembedding`, (n_vocab, n_embd) each, the same tensor where the file has one.

    Raises ArgumentError for a file that cannot be read and for another kind of model.
    """

    def __init__(self, path: Path, dtype: torch.dtype = torch.bfloat16) -> None:
        self.path = path
        self.dtype = dtype
        try:
            reader = GGUFReader(path)
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise ArgumentError(f"{path} cannot be read as a GGUF file: {error}") from None
        self._fields = {name: field.contents() for name, field in reader.fields.items() if not _is_long(field)}
        self.arch = str(self._fields.get("general.architecture"))
        if self.arch not in ARCHITECTURES:
            raise ArgumentError(
                f"{path} is a {self.arch} model: masks are trained for {' and '.join(ARCHITECTURES)} models"
            )
        if (scaling := self._field("rope.scaling.type", "none")) not in SCALED_ROPE:
            raise ArgumentError(f"{path} scales its rotary embeddings ({scaling}): masks cannot be trained for it")
        self.n_layer = int(self._field("block_count"))
        self.n_embd = int(self._field("embedding_length"))
        self.n_head = int(self._field("attention.head_count"))
        self.n_head_kv = int(self._field("attention.head_count_kv", self.n_head))
        self.head_size = int(self._field("attention.key_length", self.n_embd // self.n_head))
        self._eps = float(self._field("attention.layer_norm_rms_epsilon"))
        self._weights: dict[str, Tensor] = {}
        for tensor in reader.tensors:
            values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), np.float32))
            self._weights[tensor.name] = values.to(dtype) if values.ndim == 2 else values
        self._check_complete()
        self.embedding = self._weights["token_embd.weight"]
        self.unembedding = self._weights.get("output.weight", self.embedding)
        self.n_vocab = self.embedding.shape[0]
        n_pairs = int(self._field("rope.dimension_count", self.head_size)) // 2
        base = float(self._field("rope.freq_base", 10000.0))
        self._frequencies = base ** (-torch.arange(n_pairs, dtype=torch.float64) / n_pairs)  # (n_pairs,)
        if "rope_freqs.weight" in self._weights:
            self._frequencies /= self._weights["rope_freqs.weight"].double()

    def _field(self, key: str, default: Any = None) -> Any:
        value = self._fields.get(f"{self.arch}.{key}", default)
        if value is None:
            raise ArgumentError(f"{self.path} has no {self.arch}.{key}")
        return value

    def _check_complete(self) -> None:
        """That this file has all the weights, and none of them is split among experts."""
        names = [f"blk.{layer}.{part}.weight" for layer in range(self.n_layer) for part in PARTS]
        for name in ("token_embd.weight", "output_norm.weight", *names):
            if name not in self._weights:
                raise ArgumentError(f"{self.path} has no {name}: masks are trained for dense models in one file")

    def matrices(self) -> dict[str, tuple[int, int]]:
        """The layers' matrices by name, "blk.0.attn_q.weight", each (n_out, n_in)."""
        return {
            name: (weight.shape[0], weight.shape[1])
            for name, weight in self._weights.items()
            if name.startswith("blk.") and weight.ndim == 2
        }

    def vector(self, name: str) -> Tensor:
        return self._weights[name]

    def product(self, name: str, x: Tensor) -> Tensor:
        """W x + b of the layer's part `name` ("blk.0.attn_q"), for x (n, n_in): (n, n_out), float32."""
        y = (x.to(self.dtype) @ self._weights[name + ".weight"].T).float()
        bias = self._weights.get(name + ".bias")
        return y if bias is None else y + bias

    def norm(self, name: str, x: Tensor) -> Tensor:
        """The root mean square norm `name` of x (n, n_embd)."""
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self._eps)
        return x * scale * self._weights[name + ".weight"]

    def rotated(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotary embeddings at positions (n,) of x (n, heads, head_size)."""
        angles = positions[:, None].double() * self._frequencies  # (n, n_pairs)
        cos, sin = angles.cos().float()[:, None], angles.sin().float()[:, None]
        n_rotated = 2 * len(self._frequencies)
        turned, rest = x[..., :n_rotated], x[..., n_rotated:]
        if ARCHITECTURES[self.arch] == "halves":
            first, second = turned.chunk(2, -1)
            turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
        else:
            first, second = turned[..., 0::2], turned[..., 1::2]
            turned = torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)
        return torch.cat([turned, rest], -1)

    def logits(self, latents: Tensor) -> Tensor:
        """The head after the last norm: (n, n_embd) to (n, n_vocab), float32."""
        return (latents.to(self.dtype) @ self.unembedding.T).float()


def _is_long(field: Any) -> bool:
    """An array of the vocabulary, which is not needed here."""
    return len(field.data) > 64

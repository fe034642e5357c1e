"""The weights of trained heads, by kind, and the tensors that they are in a file (docs/heads.md)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar

import gguf
import numpy as np

Q8_0 = gguf.GGMLQuantizationType.Q8_0
BLOCK, BLOCK_BYTES = gguf.GGML_QUANT_SIZES[Q8_0]  # weights that share a scale: a row has whole blocks

Tensors = Mapping[str, np.ndarray]  # by name; those of two dimensions are quantised in a file


@dataclass(frozen=True, slots=True)
class Layer:
    """y = LayerNorm(SiLU(weight x + bias))"""

    weight: np.ndarray  # (n_out, n_in) float32
    bias: np.ndarray  # (n_out,) float32
    norm_weight: np.ndarray  # (n_out,) float32
    norm_bias: np.ndarray  # (n_out,) float32

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        return {
            f"{name}.weight": self.weight,
            f"{name}.bias": self.bias,
            f"{name}.norm.weight": self.norm_weight,
            f"{name}.norm.bias": self.norm_bias,
        }

    @classmethod
    def of(cls, tensors: Tensors, name: str) -> "Layer":
        """Raises KeyError."""
        return cls(*(tensors[f"{name}.{part}"] for part in ("weight", "bias", "norm.weight", "norm.bias")))


@dataclass(frozen=True)
class HeadWeights:
    """What all kinds have."""

    short_tokens: np.ndarray  # (n_short,) int32, ascending
    short: np.ndarray  # (n_short, n_embd) float32, rows of the unembedding

    KIND: ClassVar[str]

    def tensors(self) -> dict[str, np.ndarray]:
        return {"short.tokens": self.short_tokens, "short.weight": self.short}

    def keys(self) -> dict[str, int]:
        """Numbers that the file needs to be read, under maskprobe.heads."""
        return {}

    @classmethod
    def of(cls, tensors: Tensors) -> Self:
        """Raises KeyError for what is missing."""
        raise NotImplementedError

    @property
    def n_params(self) -> int:
        return sum(values.size for name, values in self.tensors().items() if not name.startswith("short."))

    @property
    def n_bytes(self) -> int:
        """Of the large matrices in the file, which are read for each guess."""
        return sum(values.size for values in self.tensors().values() if values.ndim == 2) // BLOCK * BLOCK_BYTES


@dataclass(frozen=True)
class SamplerHeadWeights(HeadWeights):
    """z' = z + layers[1](layers[0]([E(x); z])), logits = short z'."""

    layers: tuple[Layer, Layer]  # (n_hidden, 2 n_embd) and (n_embd, n_hidden)

    KIND = "sampler"

    def tensors(self) -> dict[str, np.ndarray]:
        return self.layers[0].tensors("head.0") | self.layers[1].tensors("head.1") | super().tensors()

    @classmethod
    def of(cls, tensors: Tensors) -> Self:
        layers = Layer.of(tensors, "head.0"), Layer.of(tensors, "head.1")
        return cls(tensors["short.tokens"], tensors["short.weight"], layers)


@dataclass(frozen=True)
class MtpHeadsWeights(HeadWeights):
    """At distance i, places[i] = i + 2 places ahead: u = sum of mixes[i][l] h_l / rms(h_l), z = h + second(first(u)),
    logits = short z, with the states h_l after some layers, and h after the last norm, which is the last of them."""

    read: np.ndarray  # (n_states,) int32, ascending: layers, and the number of layers for the last norm
    mixes: list[np.ndarray]  # (n_distances) of (n_states,) float32
    blocks: list[tuple[Layer, Layer]]  # (n_distances) of (n_hidden, n_embd) and (n_embd, n_hidden)

    KIND = "mtp"

    def tensors(self) -> dict[str, np.ndarray]:
        found = {"mix.layers": self.read}
        for i, (mix, (first, second)) in enumerate(zip(self.mixes, self.blocks, strict=True)):
            name = f"ahead.{i + 2}"
            found |= {f"{name}.mix": mix, **first.tensors(f"{name}.0"), **second.tensors(f"{name}.1")}
        return found | super().tensors()

    def keys(self) -> dict[str, int]:
        return {"distances": len(self.blocks)}

    @classmethod
    def of(cls, tensors: Tensors) -> Self:
        mixes: list[np.ndarray] = []
        blocks: list[tuple[Layer, Layer]] = []
        while not blocks or f"ahead.{len(blocks) + 2}.mix" in tensors:
            name = f"ahead.{len(blocks) + 2}"
            mixes.append(tensors[f"{name}.mix"])
            blocks.append((Layer.of(tensors, f"{name}.0"), Layer.of(tensors, f"{name}.1")))
        return cls(tensors["short.tokens"], tensors["short.weight"], tensors["mix.layers"], mixes, blocks)


KINDS: dict[str, type[HeadWeights]] = {kind.KIND: kind for kind in (SamplerHeadWeights, MtpHeadsWeights)}


Weights = TypeVar("Weights", bound=HeadWeights)


def quantised(weights: Weights) -> Weights:
    """As they will be read back from a file."""

    def rounded(values: np.ndarray) -> np.ndarray:
        return gguf.quants.dequantize(gguf.quants.quantize(values, Q8_0), Q8_0) if values.ndim == 2 else values

    return type(weights).of({name: rounded(values) for name, values in weights.tensors().items()})

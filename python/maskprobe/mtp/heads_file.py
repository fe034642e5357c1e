"""The GGUF file of a sampler head: how it is written, and read back for a check. docs/train.md has its layout."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np

from ..errors import Error

ARCHITECTURE = "maskprobe-heads"
VERSION = 1
N_BYTES_MAX = 16_000_000
Q8_0 = gguf.GGMLQuantizationType.Q8_0
BLOCK, BLOCK_BYTES = gguf.GGML_QUANT_SIZES[Q8_0]  # weights that share a scale: a row has whole blocks


@dataclass(frozen=True, slots=True)
class Layer:
    """y = LayerNorm(SiLU(weight x + bias))"""

    weight: np.ndarray  # (n_out, n_in) float32
    bias: np.ndarray  # (n_out,) float32
    norm_weight: np.ndarray  # (n_out,) float32
    norm_bias: np.ndarray  # (n_out,) float32


@dataclass(frozen=True, slots=True)
class SamplerHeadWeights:
    """z' = z + layers[1](layers[0]([E(x); z])), logits = short z'."""

    layers: tuple[Layer, Layer]  # (n_hidden, 2 n_embd) and (n_embd, n_hidden)
    short_tokens: np.ndarray  # (n_short,) int32, ascending
    short: np.ndarray  # (n_short, n_embd) float32, rows of the unembedding

    @property
    def n_params(self) -> int:
        layers = sum(part.size for layer in self.layers for part in (layer.weight, layer.bias, layer.norm_weight))
        return layers + sum(layer.norm_bias.size for layer in self.layers)

    @property
    def n_bytes(self) -> int:
        """Of the large matrices in the file, which are read for each guess."""
        n_weights = self.short.size + sum(layer.weight.size for layer in self.layers)
        return n_weights // BLOCK * BLOCK_BYTES


def write_heads(
    path: Path, weights: SamplerHeadWeights, model: str, n_vocab: int, metadata: Mapping[str, str | int | float]
) -> None:
    """Replaces the file at `path`, once the new one is complete and has been read back. `model` is the model's
    identity.

    Raises Error where it cannot be written, or would be too large."""
    place = Path(os.path.realpath(path))
    beside = place.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        _write(beside, weights, model, n_vocab, metadata)
        n_bytes = beside.stat().st_size
        if n_bytes > N_BYTES_MAX:
            raise Error(f"the heads would take {n_bytes} bytes, at most {N_BYTES_MAX} are possible")
        read = read_heads(beside)
        if not np.array_equal(read.short_tokens, weights.short_tokens):
            raise Error(f"what was written to '{path}' is not what can be read there")
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(place)
    except OSError as error:
        raise Error(f"cannot write '{path}': {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)


def _write(
    path: Path, weights: SamplerHeadWeights, model: str, n_vocab: int, metadata: Mapping[str, str | int | float]
) -> None:
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_uint32("maskprobe.heads.version", VERSION)
    writer.add_string("maskprobe.heads.kind", "sampler")
    writer.add_uint32("maskprobe.heads.n_embd", weights.short.shape[1])
    writer.add_uint32("maskprobe.heads.n_vocab", n_vocab)
    writer.add_string("maskprobe.heads.model", model)
    for key, value in metadata.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint64(key, value)
        else:
            writer.add_float32(key, value)
    for i, layer in enumerate(weights.layers):
        _add_quantised(writer, f"head.{i}.weight", layer.weight)
        writer.add_tensor(f"head.{i}.bias", layer.bias)
        writer.add_tensor(f"head.{i}.norm.weight", layer.norm_weight)
        writer.add_tensor(f"head.{i}.norm.bias", layer.norm_bias)
    writer.add_tensor("short.tokens", weights.short_tokens)
    _add_quantised(writer, "short.weight", weights.short)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantised(weights: SamplerHeadWeights) -> SamplerHeadWeights:
    """As they will be read back from a file."""

    def rounded(array: np.ndarray) -> np.ndarray:
        return gguf.quants.dequantize(gguf.quants.quantize(array, Q8_0), Q8_0)

    first, second = (replace(layer, weight=rounded(layer.weight)) for layer in weights.layers)
    return replace(weights, layers=(first, second), short=rounded(weights.short))


def _add_quantised(writer: gguf.GGUFWriter, name: str, array: np.ndarray) -> None:
    writer.add_tensor(name, gguf.quants.quantize(array, Q8_0), raw_dtype=Q8_0)


def read_heads(path: Path) -> SamplerHeadWeights:
    """With the weights as they are after quantisation.

    Raises Error for a file that is not such heads, or is damaged."""
    try:
        reader = gguf.GGUFReader(path)
        tensors = {tensor.name: _values(tensor) for tensor in reader.tensors}
        if _field(reader, "general.architecture") != ARCHITECTURE:
            raise Error(f"'{path}' is a GGUF of another kind")
        if _field(reader, "maskprobe.heads.kind") != "sampler" or _field(reader, "maskprobe.heads.version") != VERSION:
            raise Error(f"'{path}' has heads of another kind or version")
        layers = [
            Layer(*(tensors[f"head.{i}.{name}"] for name in ("weight", "bias", "norm.weight", "norm.bias")))
            for i in range(2)
        ]
        weights = SamplerHeadWeights((layers[0], layers[1]), tensors["short.tokens"], tensors["short.weight"])
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise Error(f"'{path}' is damaged: {error}") from None
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise Error(f"'{path}' has weights that are not finite")
    return weights


def _values(tensor: gguf.ReaderTensor) -> np.ndarray:
    if tensor.tensor_type == gguf.GGMLQuantizationType.I32:
        return tensor.data
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def _field(reader: gguf.GGUFReader, key: str) -> object:
    return reader.fields[key].contents()

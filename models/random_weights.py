"""Random weights of a wanted standard deviation, written straight in ggml's storage formats.

Quantised tensors are drawn as random valid blocks instead of being quantised from floats: a model of billions of
weights then takes seconds and no memory beyond one tensor. Every format's weights have mean zero.
"""

from __future__ import annotations

import gguf
import numpy as np
from gguf import GGMLQuantizationType as WeightType

FLOAT_CHUNK = 1 << 24

# Weight types of the matrices and of the embedding and head, as the usual mixes have them.
MIXES = {
    "f32": (WeightType.F32, WeightType.F32),
    "f16": (WeightType.F16, WeightType.F16),
    "q8_0": (WeightType.Q8_0, WeightType.Q8_0),
    "q4_0": (WeightType.Q4_0, WeightType.Q8_0),
    "q4_k": (WeightType.Q4_K, WeightType.Q6_K),
}
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "q4_k": gguf.LlamaFileType.MOSTLY_Q4_K_M,
}

# Standard deviation of a block's weights when its scale is 1.
Q4_0_SPREAD = np.sqrt((16**2 - 1) / 12)
Q8_0_SPREAD = np.sqrt((256**2 - 1) / 12)
Q4_K_SPREAD = np.sqrt((16**2 - 1) / 12) * np.sqrt(np.mean(np.arange(64.0) ** 2))
Q6_K_SPREAD = np.sqrt((64**2 - 1) / 12) * np.sqrt((256**2 - 1) / 12)


def stored_dims(dims: tuple[int, ...], weight_type: WeightType) -> tuple[int, ...]:
    """Shape of the stored array: elements for floats, bytes per row for quantised types."""
    if weight_type in (WeightType.F32, WeightType.F16):
        return dims
    block, block_bytes = gguf.GGML_QUANT_SIZES[weight_type]
    if dims[-1] % block:
        raise ValueError(f"rows of {dims[-1]} weights do not divide into {weight_type.name} blocks of {block}")
    return (*dims[:-1], dims[-1] // block * block_bytes)


def stored_dtype(weight_type: WeightType) -> np.dtype:
    floats = {WeightType.F32: np.float32, WeightType.F16: np.float16}
    return np.dtype(floats.get(weight_type, np.uint8))


def random_tensor(rng: np.random.Generator, dims: tuple[int, ...], std: float, weight_type: WeightType) -> np.ndarray:
    stored = stored_dims(dims, weight_type)
    if weight_type in (WeightType.F32, WeightType.F16):
        return random_floats(rng, stored, std, stored_dtype(weight_type))
    block_bytes = gguf.GGML_QUANT_SIZES[weight_type][1]
    count = int(np.prod(stored)) // block_bytes
    blocks = np.frombuffer(bytearray(rng.bytes(count * block_bytes)), dtype=np.uint8).reshape(count, block_bytes)
    BLOCK_SCALERS[weight_type](rng, blocks, std)
    return blocks.reshape(stored)


def random_floats(rng: np.random.Generator, dims: tuple[int, ...], std: float, dtype: np.dtype) -> np.ndarray:
    out = np.empty(int(np.prod(dims)), dtype)
    for start in range(0, len(out), FLOAT_CHUNK):
        part = out[start : start + FLOAT_CHUNK]
        part[:] = rng.standard_normal(len(part), dtype=np.float32) * np.float32(std)
    return out.reshape(dims)


def signed_scales(rng: np.random.Generator, count: int, scale: float) -> np.ndarray:
    """One scale per block, of either sign: 4-bit codes reach further down than up, and signs even that out."""
    sign = rng.integers(0, 2, count, dtype=np.int8) * 2 - 1
    return (sign * np.float32(scale)).astype(np.float16)


def put_half(blocks: np.ndarray, offset: int, values: np.ndarray) -> None:
    blocks[:, offset : offset + 2] = values.view(np.uint8).reshape(-1, 2)


def scale_q4_0(rng: np.random.Generator, blocks: np.ndarray, std: float) -> None:
    """d, 16 bytes of nibbles: weight = d * (code - 8)."""
    put_half(blocks, 0, signed_scales(rng, len(blocks), std / Q4_0_SPREAD))


def scale_q8_0(rng: np.random.Generator, blocks: np.ndarray, std: float) -> None:
    """d, 32 signed bytes: weight = d * code."""
    put_half(blocks, 0, signed_scales(rng, len(blocks), std / Q8_0_SPREAD))


def scale_q4_k(rng: np.random.Generator, blocks: np.ndarray, std: float) -> None:
    """d, dmin, 8 six-bit scales and 8 six-bit minima in 12 bytes, nibbles: weight = d * scale * code - dmin * min.

    Equal scale and minimum with dmin = 7.5 d centre the codes. In the packing, bytes 4-7 mirror bytes 0-3 for the
    first four sub-blocks, and the two nibbles of bytes 8-11 belong to the last four.
    """
    d = signed_scales(rng, len(blocks), std / Q4_K_SPREAD)
    put_half(blocks, 0, d)
    put_half(blocks, 2, (d.astype(np.float32) * 7.5).astype(np.float16))
    packed = blocks[:, 4:16]
    packed[:, 4:8] = packed[:, 0:4]
    packed[:, 8:12] = (packed[:, 8:12] & 0x0F) * 0x11


def scale_q6_k(rng: np.random.Generator, blocks: np.ndarray, std: float) -> None:
    """Low bits, high bits, 16 signed scales, d: weight = d * scale * (code - 32)."""
    put_half(blocks, 208, signed_scales(rng, len(blocks), std / Q6_K_SPREAD))


BLOCK_SCALERS = {
    WeightType.Q4_0: scale_q4_0,
    WeightType.Q8_0: scale_q8_0,
    WeightType.Q4_K: scale_q4_k,
    WeightType.Q6_K: scale_q6_k,
}

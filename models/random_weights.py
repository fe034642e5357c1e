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
    "q4_1": (WeightType.Q4_1, WeightType.Q8_0),
    "q5_0": (WeightType.Q5_0, WeightType.Q8_0),
    "q5_1": (WeightType.Q5_1, WeightType.Q8_0),
    "q2_k": (WeightType.Q2_K, WeightType.Q6_K),
    "q3_k": (WeightType.Q3_K, WeightType.Q6_K),
    "q4_k": (WeightType.Q4_K, WeightType.Q6_K),
    "q5_k": (WeightType.Q5_K, WeightType.Q6_K),
    "iq4_xs": (WeightType.IQ4_XS, WeightType.Q6_K),
    "mxfp4": (WeightType.MXFP4, WeightType.Q8_0),
}
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "q4_1": gguf.LlamaFileType.MOSTLY_Q4_1,
    "q5_0": gguf.LlamaFileType.MOSTLY_Q5_0,
    "q5_1": gguf.LlamaFileType.MOSTLY_Q5_1,
    "q2_k": gguf.LlamaFileType.MOSTLY_Q2_K,
    "q3_k": gguf.LlamaFileType.MOSTLY_Q3_K_M,
    "q4_k": gguf.LlamaFileType.MOSTLY_Q4_K_M,
    "q5_k": gguf.LlamaFileType.MOSTLY_Q5_K_M,
    "iq4_xs": gguf.LlamaFileType.MOSTLY_IQ4_XS,
    "mxfp4": gguf.LlamaFileType.MOSTLY_MXFP4_MOE,
}

# The 16 numbers that the nibbles of IQ4_XS and of MXFP4 stand for.
IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
MXFP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12])


def spread_of_bits(bits: int) -> float:
    """Standard deviation of numbers of so many bits."""
    return np.sqrt((4.0**bits - 1) / 12)


def root_mean_square(values: np.ndarray) -> float:
    return np.sqrt(np.mean(values.astype(float) ** 2))


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
    """One scale per block, of either sign: codes reach further down than up, and signs even that out."""
    sign = rng.integers(0, 2, count, dtype=np.int8) * 2 - 1
    return (sign * np.float32(scale)).astype(np.float16)


def put_half(blocks: np.ndarray, offset: int, values: np.ndarray) -> None:
    blocks[:, offset : offset + 2] = values.view(np.uint8).reshape(-1, 2)


def scale_plain(bits: int):
    """d first, signed codes or codes with an offset: weight = d * (code - offset). Q4_0, Q5_0 and Q8_0."""

    def scale(rng: np.random.Generator, blocks: np.ndarray, std: float) -> None:
        put_half(blocks, 0, signed_scales(rng, len(blocks), std / spread_of_bits(bits)))

    return scale


def scale_with_m(bits: int):
    """d, m, codes: weight = d * code + m. Q4_1 and Q5_1. An m of minus half the codes' range centres them."""

    def scale(rng: np.random.Generator, blocks: np.ndarray, std: float) -> None:
        d = signed_scales(rng, len(blocks), std / spread_of_bits(bits))
        put_half(blocks, 0, d)
        put_half(blocks, 2, (d.astype(np.float32) * -((2**bits - 1) / 2)).astype(np.float16))

    return scale


def put_d_and_dmin(
    rng: np.random.Generator, blocks: np.ndarray, std: float, offset: int, bits: int, scale_bits: int
) -> None:
    """weight = d * scale * code - dmin * min, where scale and min are equal.

    A dmin of d times half the codes' range centres them.
    """
    d = signed_scales(rng, len(blocks), std / spread_of_bits(bits) / root_mean_square(np.arange(2**scale_bits)))
    put_half(blocks, offset, d)
    put_half(blocks, offset + 2, (d.astype(np.float32) * ((2**bits - 1) / 2)).astype(np.float16))


def scale_q4_k_or_q5_k(bits: int):
    """d, dmin, 8 six-bit scales and 8 six-bit minima in 12 bytes, codes.

    In the packing, bytes 4-7 mirror bytes 0-3 for the first four sub-blocks, and the two nibbles of bytes 8-11 belong
    to the last four.
    """

    def scale(rng: np.random.Generator, blocks: np.ndarray, std: float) -> None:
        put_d_and_dmin(rng, blocks, std, 0, bits, 6)
        packed = blocks[:, 4:16]
        packed[:, 4:8] = packed[:, 0:4]
        packed[:, 8:12] = (packed[:, 8:12] & 0x0F) * 0x11

    return scale


def scale_q2_k(rng: np.random.Generator, blocks: np.ndarray, std: float) -> None:
    """16 bytes with a scale in the lower nibble and a minimum in the upper one, codes, d, dmin."""
    put_d_and_dmin(rng, blocks, std, 80, 2, 4)
    blocks[:, :16] = (blocks[:, :16] & 0x0F) * 0x11


def scale_q3_k(rng: np.random.Generator, blocks: np.ndarray, std: float) -> None:
    """High bits, low bits, 16 six-bit scales, d: weight = d * (scale - 32) * (code - 4)."""
    put_half(blocks, 108, signed_scales(rng, len(blocks), std / spread_of_bits(3) / spread_of_bits(6)))


def scale_q6_k(rng: np.random.Generator, blocks: np.ndarray, std: float) -> None:
    """Low bits, high bits, 16 signed scales, d: weight = d * scale * (code - 32)."""
    put_half(blocks, 208, signed_scales(rng, len(blocks), std / spread_of_bits(6) / spread_of_bits(8)))


def scale_iq4_xs(rng: np.random.Generator, blocks: np.ndarray, std: float) -> None:
    """d, 8 six-bit scales, nibbles: weight = d * (scale - 32) * value."""
    put_half(blocks, 0, signed_scales(rng, len(blocks), std / root_mean_square(IQ4_VALUES) / spread_of_bits(6)))


def scale_mxfp4(rng: np.random.Generator, blocks: np.ndarray, std: float) -> None:
    """e, nibbles: weight = 2^(e - 128) * value. Two powers of two, mixed, have the wanted mean square."""
    wanted = std / root_mean_square(MXFP4_VALUES)
    lower = int(np.floor(np.log2(wanted)))
    share_of_upper = ((wanted / 2.0**lower) ** 2 - 1) / 3
    blocks[:, 0] = 128 + lower + (rng.random(len(blocks)) < share_of_upper)


BLOCK_SCALERS = {
    WeightType.Q4_0: scale_plain(4),
    WeightType.Q4_1: scale_with_m(4),
    WeightType.Q5_0: scale_plain(5),
    WeightType.Q5_1: scale_with_m(5),
    WeightType.Q8_0: scale_plain(8),
    WeightType.Q2_K: scale_q2_k,
    WeightType.Q3_K: scale_q3_k,
    WeightType.Q4_K: scale_q4_k_or_q5_k(4),
    WeightType.Q5_K: scale_q4_k_or_q5_k(5),
    WeightType.Q6_K: scale_q6_k,
    WeightType.IQ4_XS: scale_iq4_xs,
    WeightType.MXFP4: scale_mxfp4,
}

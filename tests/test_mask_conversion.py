"""Masks from safetensors files: the same numbers in the core's file, and one line for each thing that is wrong."""

import json

import gguf
import numpy as np
import pytest

from maskprobe import ArgumentError, Model, ModelError, TrainedMasks
from maskprobe.mtp.convert_masks import convert_masks

DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
Q = "base_model.model.model.layers.1.self_attn.q_proj"
DOWN = "layers.0.mlp.down_proj"


def safetensors(path, tensors: dict, metadata: dict | None = None, **wrong):
    """A file of these arrays; `wrong` replaces fields of its tensor "mask_embeddings"."""
    header, data = {}, b""
    for name, values in tensors.items():
        kind = {dtype: name for name, dtype in DTYPES.items()}[values.dtype.str]
        end = len(data) + values.nbytes
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [len(data), end]}
        data += values.tobytes()
    header["mask_embeddings"].update(wrong)
    if metadata is not None:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.fixture(scope="module")
def model(tiny_model_path):
    return Model(tiny_model_path("tiny-llama"), kernels="ours", n_threads=1)


@pytest.fixture
def tensors():
    draw = np.random.default_rng(1)

    def some(*shape, dtype="<f4"):
        return draw.normal(0, 0.1, shape).astype(dtype)

    return {
        "mask_embeddings": some(2, 64),
        f"{Q}.lora_A.weight": some(4, 64, dtype="<f2"),
        f"{Q}.lora_B.weight": some(64, 4),
        f"{DOWN}.lora_A": some(4, 128),
        f"{DOWN}.lora_B": some(64, 4, dtype="<f8"),
    }


def test_the_numbers(model, tensors, tmp_path):
    source = safetensors(tmp_path / "masks.safetensors", tensors, {"lora_alpha": "8"})
    convert_masks(model, source, tmp_path / "masks.gguf")
    found = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(tmp_path / "masks.gguf").tensors}
    assert np.array_equal(TrainedMasks(model, tmp_path / "masks.gguf").vectors, tensors["mask_embeddings"])
    assert np.array_equal(found["blk.1.attn_q.weight.lora_a"], tensors[f"{Q}.lora_A.weight"].astype(np.float32))
    b = tensors[f"{Q}.lora_B.weight"]
    for head in range(
        4
    ):  # of 16 rows: value i is turned with value i + 8 in the one order, with its neighbour in the other
        for i in range(8):
            for half in range(2):
                row = found["blk.1.attn_q.weight.lora_b"][16 * head + 2 * i + half]
                assert np.allclose(row, 2 * b[16 * head + i + 8 * half])
    assert np.allclose(found["blk.0.ffn_down.weight.lora_b"], 2 * tensors[f"{DOWN}.lora_B"])
    convert_masks(model, source, tmp_path / "masks.gguf", alpha=4)
    found = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(tmp_path / "masks.gguf").tensors}
    assert np.allclose(found["blk.0.ffn_down.weight.lora_b"], tensors[f"{DOWN}.lora_B"])


def without(name):
    return lambda tensors: tensors.pop(name)


def replaced(name, values):
    return lambda tensors: tensors.update({name: np.asarray(values, "<f4")})


BAD_TENSORS = {
    "no masks": (without("mask_embeddings"), "no tensor 'mask_embeddings'"),
    "width": (replaced("mask_embeddings", np.zeros((2, 63))), r"shape \(2, 63\), expected \(n_masks, 64\)"),
    "half a pair": (without(f"{DOWN}.lora_B"), "blk.0.ffn_down.weight there is only lora_A"),
    "not known": (replaced("lm_head.lora_A", np.zeros((4, 64))), "tensor 'lm_head.lora_A' is not known"),
    "twice": (replaced(f"{Q}.lora_A", np.zeros((4, 64))), "is there twice, under two names"),
    "ranks": (replaced(f"{DOWN}.lora_B", np.zeros((64, 3))), r"shapes \(4, 128\) and \(64, 3\)"),
    "heads": (replaced(f"{Q}.lora_B.weight", np.zeros((60, 4))), "has 60 rows, which 4 heads do not divide"),
    "NaN": (replaced(f"{DOWN}.lora_A", np.full((4, 128), np.nan)), "has NaN or infinite values"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_tensors_that_are_refused(model, tensors, tmp_path, name):
    change, message = BAD_TENSORS[name]
    base = {"mask_embeddings": tensors["mask_embeddings"]}
    change(tensors)
    source = safetensors(tmp_path / "bad.safetensors", tensors if "mask_embeddings" in tensors else {**base, **tensors})
    if name == "no masks":
        source.write_bytes(source.read_bytes().replace(b"mask_embeddings", b"mask_embeddingz"))
    with pytest.raises(ModelError, match=message) as refused:
        convert_masks(model, source, tmp_path / "masks.gguf")
    assert "\n" not in str(refused.value) and not (tmp_path / "masks.gguf").exists()


BAD_FIELDS = {
    "type": ({"dtype": "I64"}, "has type 'I64': expected F64, F32, F16, BF16"),
    "shape": ({"shape": [2, -64]}, r"has shape \[2, -64\]"),
    "bytes": ({"shape": [2, 65]}, "has 512 bytes of type F32"),
    "offsets": ({"data_offsets": [4, 516]}, "starts at byte 4 of the data, expected 0|expected 512"),
    "more fields": ({"stride": 1}, "has other fields than dtype, shape and data_offsets"),
}


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_fields_that_are_refused(model, tensors, tmp_path, name):
    wrong, message = BAD_FIELDS[name]
    source = safetensors(tmp_path / "bad.safetensors", tensors, **wrong)
    with pytest.raises(ModelError, match=message):
        convert_masks(model, source, tmp_path / "masks.gguf")


@pytest.mark.parametrize("size", [0, 4, 8, 100, 700, -1])
def test_truncated_files_are_refused(model, tensors, tmp_path, size):
    source = safetensors(tmp_path / "part.safetensors", tensors)
    source.write_bytes(source.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"cannot be read|is no sound safetensors file"):
        convert_masks(model, source, tmp_path / "masks.gguf")


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_an_alpha_that_is_refused(model, tensors, tmp_path, alpha):
    source = safetensors(tmp_path / "masks.safetensors", tensors)
    with pytest.raises(ArgumentError, match="must be a number above 0"):
        convert_masks(model, source, tmp_path / "masks.gguf", alpha=alpha)
    with pytest.raises(ModelError, match="lora_alpha 'much' is no number"):
        convert_masks(model, safetensors(source, tensors, {"lora_alpha": "much"}), tmp_path / "masks.gguf")

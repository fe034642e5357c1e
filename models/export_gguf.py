"""Writes a trained NanoLlama and its tokenizer as a GGUF file that llama.cpp loads as architecture "llama"."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as WeightType
from tokenizers import Tokenizer

from corpus import END_OF_TEXT, END_OF_TEXT_ID
from nano_llama import Shape

FILE_TYPES = {
    WeightType.F32: gguf.LlamaFileType.ALL_F32,
    WeightType.F16: gguf.LlamaFileType.MOSTLY_F16,
    WeightType.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
}


def write_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    types = [gguf.TokenType.CONTROL if token == END_OF_TEXT else gguf.TokenType.NORMAL for token in tokens]

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(END_OF_TEXT_ID)
    writer.add_eos_token_id(END_OF_TEXT_ID)
    writer.add_add_bos_token(True)


def write_gguf(
    path: Path,
    shape: Shape,
    weights: dict[str, torch.Tensor],
    tokenizer: Tokenizer,
    weight_type: WeightType = WeightType.Q8_0,
) -> None:
    parameters = sum(tensor.numel() for tensor in weights.values())
    unfinished = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(unfinished, "llama")

    writer.add_name(f"maskprobe-py-{round(parameters / 1e6)}m")
    writer.add_description("Small Python-source language model trained on CPython's standard library")
    writer.add_license("MIT")
    writer.add_languages(["en"])
    writer.add_tags(["text-generation", "python"])
    writer.add_dataset_count(1)
    writer.add_dataset_name(0, "CPython standard library sources")
    writer.add_dataset_organization(0, "Python Software Foundation")
    writer.add_dataset_url(0, "https://github.com/python/cpython")
    writer.add_dataset_description(0, "Every .py file of Lib/; PSF-2.0 licence")
    writer.add_file_type(FILE_TYPES[weight_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)

    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    write_vocabulary(writer, tokenizer)

    # The model's parameter names are llama.cpp's tensor names; there is no output.weight, so the head is tied.
    for name, tensor in weights.items():
        values = tensor.detach().float().numpy()
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            packed = gguf.quants.quantize(np.ascontiguousarray(values), weight_type)
            writer.add_tensor(name, packed, raw_dtype=weight_type)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(unfinished, path)

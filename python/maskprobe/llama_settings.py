"""What Llama's constructor makes of llama-cpp-python's arguments: which are refused, and how values are named here."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ._capi import shown
from .errors import ArgumentError, ModelError
from .openai.values import only
from .proposers import Proposer
from .proposers.draft_function import DraftFunction

# Arguments of a chat that a handler of llama-cpp-python's kind does not know, and their defaults.
OURS_IN_CHATS = {
    "stopping_criteria": None,
    "constraint": None,
    "draft": None,
    "rows": None,
    "ignore_eos": False,
    "stream_options": None,
    "chat_template_kwargs": None,
}

USUAL_UBATCH = 512  # llama-cpp-python's default; ours may take less where a graph would be huge
LEAST_UBATCH = 32  # a pass over a tree must fit
SPLIT_BY_LAYER = 1  # LLAMA_SPLIT_MODE_LAYER
DRAFT_TOKENS = 10  # of a draft model that does not say

ONE_DEVICE = "maskprobe leaves devices to llama.cpp's own choice"
FROM_FILE = "the model file says how positions are encoded"
POOL_MEAN = 1  # LLAMA_POOLING_TYPE_MEAN


class ModelPathError(ModelError, ValueError):
    """There is no such file."""

    status = "file"


# Argument -> (values that change nothing, why others are refused).
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "split_mode": ((SPLIT_BY_LAYER, None), ONE_DEVICE),
    "main_gpu": ((0, None), ONE_DEVICE),
    "vocab_only": ((False, None), "a model without weights cannot generate"),
    "kv_overrides": ((None, {}), "metadata are checked as the file has them"),
    "rope_scaling_type": ((-1, None), FROM_FILE),
    "rope_freq_base": ((0, None), FROM_FILE),
    "rope_freq_scale": ((0, None), FROM_FILE),
    "yarn_ext_factor": ((-1, None), FROM_FILE),
    "yarn_attn_factor": ((1, None), FROM_FILE),
    "yarn_beta_fast": ((32, None), FROM_FILE),
    "yarn_beta_slow": ((1, None), FROM_FILE),
    "yarn_orig_ctx": ((0, None), FROM_FILE),
    "pooling_type": ((-1, POOL_MEAN, None), "an embedding is the mean of the hidden states"),
    "attention_type": ((-1, None), "the model file says which attention it has"),
    "op_offload": ((None,), ONE_DEVICE),
    "swa_full": ((None,), "the engine decides how much of a sliding window it keeps"),
    "lora_base": ((None,), "adapters are added to the weights as they are"),
    "numa": ((False, 0, None), "threads stay where the system puts them"),
    "tokenizer": ((None,), "text is always the model's own tokenizer's"),
}

# ggml's numbers of cache types.
CACHE_TYPES = {0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 30: "bf16"}


def refuse(arguments: Mapping[str, Any]) -> None:
    """Raises Unsupported, a TypeError, for the first argument that would not be obeyed."""
    for name, (accepted, why) in REFUSED.items():
        only(name, arguments[name], *accepted, why=why)


def check_path(path: str | os.PathLike[str]) -> None:
    """Raises ModelPathError where there is nothing."""
    if not Path(path).exists():
        raise ModelPathError(f"there is no file {os.fspath(path)}")


def ubatch(n: int) -> int:
    """Tokens in one graph: 0, our own choice, for llama-cpp-python's default."""
    return 0 if n >= USUAL_UBATCH else max(n, LEAST_UBATCH)


def cache_type(name: str, value: Any) -> str:
    """A type of the cache by ggml's number, or by name; None: f16."""
    if value is None:
        return "f16"
    if isinstance(value, str):
        return value
    if not isinstance(value, int) or value not in CACHE_TYPES:
        known = ", ".join(f"{number} ({text})" for number, text in CACHE_TYPES.items())
        raise ArgumentError(f"{name} = {shown(value)} is no type of a cache: {known}")
    return CACHE_TYPES[value]


def draft_source(draft_model: Any) -> Callable[[], Proposer] | None:
    """A draft model of llama-cpp-python as a source of candidates, None where there is none."""
    if draft_model is None:
        return None
    if not callable(draft_model):
        raise ArgumentError(f"draft_model must be callable, not {type(draft_model).__name__}")
    n_rows = 1 + int(getattr(draft_model, "num_pred_tokens", DRAFT_TOKENS))
    return lambda: DraftFunction(draft_model, n_rows)

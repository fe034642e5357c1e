"""maskprobe: lossless embedding-space probing for GGUF models, on top of llama.cpp.

model = Model("model.gguf")
engine = Engine(model)
for result in engine.generate(model.tokenize("Once upon a time")):
    print(result.text, end="", flush=True)
"""

from typing import TYPE_CHECKING, Any

from ._capi import prefix
from .acceptance import accept
from .catalog import bundled_models, named_models, resolve_model
from .constraints import Constraint
from .engine import Engine
from .errors import (
    ArgumentError,
    CallbackError,
    Cancelled,
    ContextFull,
    DecodeError,
    EngineLost,
    Error,
    ModelError,
    OutOfMemory,
    StateError,
)
from .generation import AsyncGeneration, Draft, Generation, Stats, TokenResult
from .masks import MaskEmbedding, mask_embedding
from .model import Device, Model, ModelInfo, devices, set_verbose, version
from .proposers import (
    LastLogits,
    Lookahead,
    MarginalSiblings,
    MaskProbe,
    NgramAutomaton,
    PromptLookup,
    Proposer,
    TokenRecycling,
    proposer_named,
)
from .sampler import Sampler, SamplingParams
from .session import Context, Pass, Prefix, Session
from .trained_masks import TrainedMasks
from .tree import TokenTree

if TYPE_CHECKING:
    from .hosts.engine_process import EngineProcess
    from .hosts.model_process import ModelProcess
    from .llama import Llama
    from .llama_by_hand import LlamaState
    from .openai.steering import LlamaGrammar, LogitsProcessorList, MinTokensLogitsProcessor, StoppingCriteriaList
    from .structured import JsonSchema, LarkGrammar, Regex

__version__ = version()

# Loaded when they are first asked for: who decodes by hand needs none of them.
_LAZY = {
    "EngineProcess": "hosts.engine_process",
    "JsonSchema": "structured",
    "LarkGrammar": "structured",
    "Regex": "structured",
    "Llama": "llama",
    "LlamaState": "llama_by_hand",
    "ModelProcess": "hosts.model_process",
    "LlamaGrammar": "openai.steering",
    "LogitsProcessorList": "openai.steering",
    "MinTokensLogitsProcessor": "openai.steering",
    "StoppingCriteriaList": "openai.steering",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    return value


__all__ = [
    "ArgumentError",
    "AsyncGeneration",
    "CallbackError",
    "Cancelled",
    "Constraint",
    "Context",
    "ContextFull",
    "DecodeError",
    "Device",
    "Draft",
    "Engine",
    "EngineLost",
    "EngineProcess",
    "Error",
    "Generation",
    "JsonSchema",
    "LarkGrammar",
    "LastLogits",
    "Llama",
    "LlamaGrammar",
    "LlamaState",
    "LogitsProcessorList",
    "Lookahead",
    "MarginalSiblings",
    "MaskEmbedding",
    "MaskProbe",
    "MinTokensLogitsProcessor",
    "Model",
    "ModelError",
    "ModelInfo",
    "ModelProcess",
    "NgramAutomaton",
    "OutOfMemory",
    "Pass",
    "Prefix",
    "PromptLookup",
    "Proposer",
    "Regex",
    "Sampler",
    "SamplingParams",
    "Session",
    "StateError",
    "Stats",
    "StoppingCriteriaList",
    "TokenRecycling",
    "TokenResult",
    "TokenTree",
    "TrainedMasks",
    "accept",
    "bundled_models",
    "devices",
    "mask_embedding",
    "named_models",
    "prefix",
    "proposer_named",
    "resolve_model",
    "set_verbose",
]

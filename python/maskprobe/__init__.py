"""maskprobe: lossless embedding-space probing for GGUF models, on top of llama.cpp.

model = Model("model.gguf")
engine = Engine(model)
for result in engine.generate(model.tokenize("Once upon a time")):
    print(result.text, end="", flush=True)
"""

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
    Error,
    ModelError,
    OutOfMemory,
    StateError,
)
from .generation import AsyncGeneration, Generation, Stats, TokenResult
from .masks import MaskEmbedding, mask_embedding
from .model import Device, Model, ModelInfo, devices, set_verbose, version
from .proposers import (
    LastLogits,
    Lookahead,
    MaskProbe,
    NgramAutomaton,
    PromptLookup,
    Proposer,
    TokenRecycling,
    proposer_named,
)
from .sampler import Sampler, SamplingParams
from .session import Context, Pass, Prefix, Session
from .tree import TokenTree

__version__ = version()

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
    "Engine",
    "Error",
    "Generation",
    "LastLogits",
    "Lookahead",
    "MaskEmbedding",
    "MaskProbe",
    "Model",
    "ModelError",
    "ModelInfo",
    "NgramAutomaton",
    "OutOfMemory",
    "Pass",
    "Prefix",
    "PromptLookup",
    "Proposer",
    "Sampler",
    "SamplingParams",
    "Session",
    "StateError",
    "Stats",
    "TokenRecycling",
    "TokenResult",
    "TokenTree",
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

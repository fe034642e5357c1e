"""maskprobe: lossless embedding-space probing for GGUF models, on top of llama.cpp.

model = Model("model.gguf")
engine = Engine(Session(model), proposer_named("all", model))
for result in engine.generate(model.tokenize("Once upon a time")):
    print(result.text, end="", flush=True)
"""

from ._capi import prefix
from .acceptance import accept
from .catalog import bundled_models, named_models, resolve_model
from .engine import Engine, Stats, Step, TokenResult
from .errors import (
    ArgumentError,
    Cancelled,
    ContextFull,
    DecodeError,
    Error,
    ModelError,
    OutOfMemory,
    StateError,
)
from .masks import MaskEmbedding, mask_embedding
from .model import Device, Model, ModelInfo, devices, set_verbose, version
from .proposers import (
    Evidence,
    LastLogits,
    Lookahead,
    MaskProbe,
    NgramAutomaton,
    NoProposer,
    Planned,
    PromptLookup,
    Proposer,
    TokenRecycling,
    proposer_named,
)
from .sampler import Sampler, SamplingParams
from .session import Context, Pass, Prefix, Session
from .state import StateFile
from .text import TextStream
from .tree import TokenTree

__version__ = version()

__all__ = [
    "ArgumentError",
    "Cancelled",
    "Context",
    "ContextFull",
    "DecodeError",
    "Device",
    "Engine",
    "Error",
    "Evidence",
    "LastLogits",
    "Lookahead",
    "MaskEmbedding",
    "MaskProbe",
    "Model",
    "ModelError",
    "ModelInfo",
    "NgramAutomaton",
    "NoProposer",
    "OutOfMemory",
    "Pass",
    "Planned",
    "Prefix",
    "PromptLookup",
    "Proposer",
    "Sampler",
    "SamplingParams",
    "Session",
    "StateError",
    "StateFile",
    "Stats",
    "Step",
    "TextStream",
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

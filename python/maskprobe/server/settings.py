"""What a server is started with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Settings:
    """models: name -> GGUF file; the first is the default. model_options, engine_options: arguments of Model and Engine
    beside the path. Limits: a count, bytes or seconds."""

    models: Mapping[str, Path]
    model_options: Mapping[str, Any] = field(default_factory=dict)
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    n_parallel: int = 4  # texts of a model that share its passes
    draft: bool = True  # of requests that do not say
    api_keys: tuple[str, ...] = ()
    cors: tuple[str, ...] = ()  # origins, "*": all
    only_local_hosts: bool = False  # refuse requests whose Host is a foreign name: those of a page that rebinds its DNS
    n_queue: int = 512  # texts that wait, per model
    timeout_s: float = 600.0  # of a request
    max_body: int = 4 << 20  # bytes
    drain_s: float = 30.0  # for what runs, after SIGTERM
    models_max: int = 4  # loaded at the same time, 0: no limit but memory

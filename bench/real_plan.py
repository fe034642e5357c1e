"""What bench/real_models.py measures: on which models, how often, how far, and about how long that takes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from checkout import MIXES, PROJECT, SHAPES, write_random_gguf

from maskprobe import ModelError, resolve_model
from quantise import FILE_TYPES, quantise

BUNDLED = PROJECT / "models" / "maskprobe-py-10m-q8_0.gguf"
RANDOM_SHAPE = "llama-3.2-1b"
RANDOM_TYPES = ("q4_0", "q4_k", "q5_0", "q4_1")
MIXTURES = ("tiny-qwen3moe", "tiny-gpt-oss")
MIXTURE_TYPES = ("f32", "q8_0", "q4_0", "mxfp4")
SMOLLM2, QWEN = "smollm2", "qwen"  # in the names of the files that some figures are asked of


@dataclass(frozen=True)
class Plan:
    """Numbers of one run. The models are files of real language models."""

    models: tuple[Path, ...]
    spec_bench: Path | None = None
    threads: tuple[int, ...] = (1, 2)
    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # of passes with one thread
    rows_of_more_threads: tuple[int, ...] = (1, 8)
    depth: int = 256  # tokens in the cache
    rounds: int = 5  # samples of each pass, and of each load
    random_sizes: tuple[tuple[str, int], ...] = ()  # fields of the random models' shape that are changed
    n_prompts: int = 4  # of each task
    n_predict: int = 100
    temps: tuple[float, ...] = (0.0, 0.8)
    seed: int = 7
    n_compared: int = 8  # prompts of each model in the identity section
    n_predict_compared: int = 64
    n_planned: int = 2  # prompts of each task in the planner section
    n_stated: int = 128  # tokens of a turn there, where the acceptance is stated
    n_adversary: int = 2000  # tokens

    @property
    def is_quick(self) -> bool:
        return bool(self.random_sizes)

    @property
    def as_json(self) -> dict[str, Any]:
        chosen = {key: value for key, value in vars(self).items() if key not in ("models", "spec_bench")}
        return {**chosen, "is_quick": self.is_quick}


# Everything once, and nothing of the figures means anything.
QUICK = {
    "rows": (1, 8, 16),
    "rows_of_more_threads": (1, 8),
    "depth": 32,
    "rounds": 1,
    "random_sizes": (("layers", 1), ("width", 512), ("heads", 8), ("ffn", 1024), ("vocab", 1024)),
    "n_prompts": 1,
    "n_predict": 12,
    "n_compared": 1,
    "n_predict_compared": 12,
    "n_planned": 1,
    "n_stated": 12,
    "n_adversary": 200,
}


def find_models() -> tuple[Path, ...]:
    """The files in MASKPROBE_REAL_MODELS (or ~/.cache/maskprobe-real), and SmolLM2 where only its package is there."""
    folder = Path(os.environ.get("MASKPROBE_REAL_MODELS") or Path.home() / ".cache" / "maskprobe-real")
    found = sorted(folder.glob("*.gguf"))
    if not any(SMOLLM2 in path.name.lower() for path in found):
        with suppress(ModelError):
            found.append(resolve_model(SMOLLM2))
    return tuple(found)


@contextmanager
def random_model(weight_type: str, plan: Plan) -> Iterator[Path]:
    """Random weights in the shape of a model of a billion, in a folder of their own that goes with them."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"random-1b-{weight_type}.gguf"
        yield write_random_gguf(path, RANDOM_SHAPE, weight_type, **dict(plan.random_sizes))


def random_types() -> list[str]:
    """Those of RANDOM_TYPES that models/random_weights.py can write."""
    return [name for name in RANDOM_TYPES if name in MIXES]


@contextmanager
def small_models() -> Iterator[Iterator[tuple[str, Path]]]:
    """The bundled model, the same in every type that models/quantise.py writes, and tiny mixtures, one at a time."""
    with TemporaryDirectory() as folder:
        yield _small_models(Path(folder))


def _small_models(folder: Path) -> Iterator[tuple[str, Path]]:
    yield BUNDLED.name, BUNDLED
    for file_type in FILE_TYPES:
        yield f"{BUNDLED.stem}, as {file_type}", quantise(BUNDLED, folder / f"{file_type}.gguf", file_type)
    for shape, weight_type in product(MIXTURES, MIXTURE_TYPES):
        if shape in SHAPES and weight_type in MIXES:
            name = f"{shape}, {weight_type}"
            yield name, write_random_gguf(folder / f"{name}.gguf", shape, weight_type)

"""What the benchmarks have of the checkout, and where they keep what they make once. Makes models/ importable."""

import sys
from pathlib import Path

from maskprobe import ArgumentError
from maskprobe.cli.bench_llama_tools import cache_folder
from maskprobe.cli.terminal import say

PROJECT = Path(__file__).resolve().parent.parent
RESULTS = PROJECT / "bench" / "results"
sys.path.insert(0, str(PROJECT / "models"))

from random_gguf import SHAPES, write_random_gguf  # noqa: E402
from random_weights import MIXES  # noqa: E402


def kept_random_model(shape: str, weight_type: str) -> Path:
    """Random weights in the shape of a model, made once. Raises ArgumentError for an unknown shape or type."""
    for name, known in ((shape, SHAPES), (weight_type, MIXES)):
        if name not in known:
            raise ArgumentError(f"models/random_gguf.py has no {name!r}: use one of {', '.join(known)}")
    path = cache_folder("models") / f"{shape}-{weight_type}.gguf"
    if not path.exists():
        say(f"writing random weights to '{path}'")
        write_random_gguf(path, shape, weight_type)
    return path

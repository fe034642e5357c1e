"""Options that several commands of maskprobe-bench share."""

import argparse
from collections.abc import Callable
from pathlib import Path

from .. import Model, resolve_model
from . import options, values
from .bench_table import FORMS
from .terminal import say

LLAMA_CPP = "llama.cpp"  # ModelInfo.kernels where they are not ours

Add = Callable[..., None]  # options.option for one parser


def add_model(add: Add) -> None:
    add("-m", "--model", metavar="FILE", help="a GGUF file or a known model's name (default: smollm2)")


def model_path(args: argparse.Namespace, prog: str) -> Path:
    """The file of -m or of the default model. Raises ModelError."""
    return resolve_model(args.model, warn=lambda line: say(f"{prog}: {line}"))


def add_prompts(parser: argparse.ArgumentParser, add: Add) -> None:
    add("--prompts", metavar="SET|FILE", nargs="+", default=[], help="code, stories, or files; default: both sets")
    add("--limit", metavar="N", type=values.integer(1), help="prompts of each task at most, evenly spread")
    parser.add_argument("--single-turn", "-st", action="store_true", help="prompts in the model's chat template")


def add_threads(add: Add) -> None:
    add(
        "-t",
        "--threads",
        metavar="N",
        type=values.integer(-1, options.THREADS_MAX),
        default=-1,
        help="threads, -1 = one for each physical core",
    )


def add_kernels(add: Add, default: str = "both") -> None:
    add(
        "--kernels",
        choices=["both", *options.KERNELS],
        metavar="both|auto|ours|stock",
        default=default,
        help="maskprobe's own, llama.cpp's, what maskprobe-run takes, or both in turns",
    )


def asked_kernels(args: argparse.Namespace) -> list[str]:
    """The names that --kernels stands for, in the order of measuring."""
    return ["stock", "ours"] if args.kernels == "both" else [args.kernels]


def kernels_of(model: Model) -> str:
    """Which ones a model was loaded for, "ours" or "stock"."""
    return "stock" if model.info.kernels == LLAMA_CPP else "ours"


def add_form(add: Add) -> None:
    add("-o", "--output", choices=FORMS, metavar="|".join(FORMS), default="md", help="form of the result")

"""Options that several commands of maskprobe-bench share."""

from collections.abc import Callable

from . import options, values
from .bench_table import FORMS

Add = Callable[..., None]  # options.option for one parser


def add_model(add: Add) -> None:
    add("-m", "--model", metavar="FILE", help="a GGUF file or a bundled model's name; default: that one")


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
        metavar="both|ours|stock",
        default=default,
        help="maskprobe's own, llama.cpp's, or both in turns",
    )


def add_form(add: Add) -> None:
    add("-o", "--output", choices=FORMS, metavar="|".join(FORMS), default="md", help="form of the result")

"""maskprobe-analyze layers: how soon the layers know the next token."""

import argparse
from typing import Any

from ...analysis.layers import layer_rows
from ..bench_pictures import COLORS
from ..bench_table import Column, decimals, plain_text
from ..parser import Parser
from ..terminal import Progress
from . import results, texts

HELP = "KL of each layer's logit lens to the final distribution"
DESCRIPTION = """\
Reads the hidden states after each layer through the model's own last norm and output matrix (the logit lens), and
compares what they say with the model's final distribution: KL(final || layer) in nats, and how often the best token
is the same. In arXiv 2502.09419 layers that specialise early on the next token leave little for heads to build on.
"""


def add_options(parser: Parser) -> None:
    texts.add_options(parser)


def run(args: argparse.Namespace) -> str:
    with texts.opened(args, taps=True) as work, Progress("reading layers") as progress:
        found = layer_rows(work.session, work.texts, progress)
    rows = [{**work.facts, **row} for row in found]
    axes = ("after layer", "KL(final || layer), nats")
    return results.finish(args, rows, rows, COLUMNS, work.notes, axes, lambda plot: draw(plot, found))


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    layers = [row["layer"] for row in rows]
    axes.plot(layers, [row["kl_to_final"] for row in rows], "o-", color=COLORS[0], markersize=3, label="KL")
    axes.set_ylim(bottom=0.0)
    right = axes.twinx()
    right.set_ylabel("same best token")
    right.plot(
        layers, [row["same_best"] for row in rows], "s--", color=COLORS[1], markersize=3, label="same best token"
    )
    right.set_ylim(0.0, 1.0)


COLUMNS: list[Column] = [
    ("after layer", plain_text("layer")),
    ("KL to final, nats", decimals("kl_to_final", 3)),
    ("same best token", decimals("same_best", 3)),
    ("entropy, nats", decimals("entropy", 3)),
    ("places", plain_text("n_places")),
]

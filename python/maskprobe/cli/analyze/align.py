"""maskprobe-analyze align: whether layers turn a mask's row into the row of the token that it stands for."""

import argparse
from functools import partial
from typing import Any

from ... import mask_embedding
from ...analysis.align import ACCEPTED, REJECTED, align_rows
from .. import options, values
from ..bench_pictures import COLORS, LINES
from ..bench_table import Column, decimals, plain_text
from ..parser import Parser
from ..terminal import Progress
from . import results, texts

HELP = "cosine of a mask's row and the true token's row, layer by layer"
DESCRIPTION = """\
Puts masks after the tokens of a text and compares their hidden states, layer by layer, with those of the tokens that
really stand there: the cosine, for masks whose candidates are accepted and for those whose candidates are rejected
(ESP, arXiv 2603.17942). The logit lens says how often a mask's row has the true token first, and among the best five.
A candidate is accepted where the model's own best token is among the mask's best.
"""


def add_options(parser: Parser) -> None:
    texts.add_options(parser)
    add = partial(options.option, parser)
    add(
        "--mask-init",
        metavar="KIND",
        type=values.mask_embedding,
        default="mean",
        help="mask vectors, as maskprobe-run has them",
    )
    add("--masks", metavar="K", type=values.integer(1, 8), default=1, help="masks after each token")
    add("--candidates", metavar="N", type=values.integer(1, 64), default=4, help="candidates of each mask")


def run(args: argparse.Namespace) -> str:
    with texts.opened(args, taps=True) as work, Progress("reading layers") as progress:
        mask = mask_embedding(args.mask_init, work.session.model)
        found, reason = align_rows(work.session, work.texts, mask, args.masks, args.candidates, progress)
    about = {"mask_init": args.mask_init, "n_candidates": args.candidates, "n_layer": work.session.model.info.n_layer}
    rows = [{**work.facts, **about, **row} for row in found]
    notes = [*work.notes, f"mask vectors: {args.mask_init}, {args.candidates} candidates of each mask"]
    if reason:
        notes.append(reason)
    axes = ("after layer (the last: after the last norm)", "cosine of mask row and true row")
    return results.finish(args, rows, side_by_side(rows), COLUMNS, notes, axes, lambda plot: draw(plot, found))


def side_by_side(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each mask and layer, with the figures of both outcomes."""
    lines: dict[tuple[int, int], dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault((row["mask"], row["layer"]), {key: row[key] for key in ("mask", "layer", "n_layer")})
        line |= {f"{row['outcome']} {key}": row[key] for key in ("n", "cosine", "lens_top1", "lens_top5")}
    return list(lines.values())


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    for mask in dict.fromkeys(row["mask"] for row in rows):
        for outcome in dict.fromkeys(row["outcome"] for row in rows):
            of = [row for row in rows if (row["mask"], row["outcome"]) == (mask, outcome)]
            color, line = COLORS[outcome != ACCEPTED], LINES[(mask - 1) % len(LINES)]
            layers, cosines = [row["layer"] for row in of], [row["cosine"] for row in of]
            axes.plot(layers, cosines, f"o{line}", color=color, markersize=3, label=f"mask {mask}, {outcome}")


def layer_name(row: dict[str, Any]) -> str:
    return "last norm" if row["layer"] == row["n_layer"] else str(row["layer"])


def pair(title: str, key: str) -> list[Column]:
    return [(f"{title}, {outcome}", decimals(f"{outcome} {key}", 3)) for outcome in (ACCEPTED, REJECTED)]


COLUMNS: list[Column] = [
    ("mask", plain_text("mask")),
    ("after layer", layer_name),
    *pair("cosine", "cosine"),
    *pair("lens: true token first", "lens_top1"),
    *pair("among five", "lens_top5"),
    ("masks accepted", plain_text(f"{ACCEPTED} n")),
    ("rejected", plain_text(f"{REJECTED} n")),
]

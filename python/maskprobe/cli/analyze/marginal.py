"""maskprobe-analyze marginal: how well the tokens after the next one are known, by marginalisation and by masks."""

import argparse
from functools import partial
from typing import Any

import numpy as np

from ... import mask_embedding
from ...analysis.second_tokens import MarginalPredictor, MaskPredictor, Predictor, accuracy_rows
from .. import options, values
from ..bench_pictures import COLORS
from ..bench_table import Column, decimals, plain_text
from ..parser import Parser
from ..terminal import Progress
from . import results, texts

HELP = "accuracy of the tokens after the next one: by marginalisation, by masks"
DEFAULT_MASKS = "mean,soft"
DESCRIPTION = """\
How often the token after the next one (t+2), and the one after that (t+3), is the best guess or among the best five:
by marginalisation, p(x_{t+2}|x) = sum over v of p(x_{t+2}|v,x) p(v|x) over the likeliest v (arXiv 2502.09419), and by
mask vectors of each kind, which are asked for the same distribution in one row. Also how many tokens have 0.9 and 0.99
of the next token's probability together.
"""


def add_options(parser: Parser) -> None:
    texts.add_options(parser)
    add = partial(options.option, parser)
    add("--mask-init", metavar="KIND,...", type=kinds, default=DEFAULT_MASKS, help="mask vectors to compare with")
    add("--ahead", metavar="N", type=values.integer(1, 2), default=2, help="1: t+2 only, 2: t+3 too")
    add("--top-p", metavar="X", type=values.number(0, 1), default=0.99, help="probability that is marginalised over")
    add("--rows", metavar="N", type=values.integer(2, 256), default=64, help="rows of a pass: what fits is taken")


def kinds(text: str) -> list[str]:
    return [values.mask_embedding(part) for part in text.split(",")]


def run(args: argparse.Namespace) -> str:
    with texts.opened(args, n_rows_max=args.rows) as work, Progress("marginalising") as progress:
        marginal = MarginalPredictor(args.top_p, args.ahead)
        masks = [
            MaskPredictor(f"{kind} mask", mask_embedding(kind, work.session.model), args.ahead)
            for kind in args.mask_init
        ]
        predictors: list[Predictor] = [marginal, *masks]
        found = accuracy_rows(work.session, work.texts, predictors, progress)
    sizes = marginal.sizes
    notes = list(work.notes)
    about: dict[str, Any] = {"top_p": args.top_p, "n_rows_max": args.rows}
    for mass, counts in sizes.nucleus.items():
        about |= {f"nucleus_{mass}_mean": float(np.mean(counts)), f"nucleus_{mass}_median": float(np.median(counts))}
        quarter = np.percentile(counts, [25, 50, 75])
        notes.append(
            f"tokens that have {mass} of the next token's probability: median {quarter[1]:.0f}, quartiles "
            f"{quarter[0]:.0f} - {quarter[2]:.0f}, mean {np.mean(counts):.1f}, most {max(counts)}"
        )
    for ahead, counts in sizes.taken.items():
        if counts:
            left_out = float(np.mean(sizes.left_out[ahead]))
            about |= {f"left_out_{ahead}": left_out, f"taken_{ahead}": float(np.mean(counts))}
            notes.append(
                f"t+{1 + ahead}: {np.mean(counts):.1f} rows marginalised over, {left_out:.4f} left out (means)"
            )
    rows = [{**work.facts, **about, **row} for row in found]
    axes = ("", "what came was among the best five")
    return results.finish(args, rows, rows, COLUMNS, notes, axes, lambda plot: draw(plot, found))


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    last = rows[-1]["task"]  # all of them together
    shown = [row for row in rows if row["task"] == last]
    names = list(dict.fromkeys(row["by"] for row in shown))
    tokens = list(dict.fromkeys(row["token"] for row in shown))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        of = [row for row in shown if row["by"] == name]
        places = [tokens.index(row["token"]) + (i - (len(names) - 1) / 2) * width for row in of]
        axes.bar(places, [row["top5"] for row in of], width=0.9 * width, color=COLORS[i % len(COLORS)], label=name)
    axes.set_xticks(range(len(tokens)), tokens)
    axes.set_ylim(0.0, 1.0)


COLUMNS: list[Column] = [
    ("task", plain_text("task")),
    ("token", plain_text("token")),
    ("by", plain_text("by")),
    ("best", decimals("top1", 3)),
    ("among five", decimals("top5", 3)),
    ("places", plain_text("n")),
]

"""maskprobe-analyze entropy: how sure the model is of the next token, place by place."""

import argparse
from typing import Any

from ...analysis.entropy import by_range, entropy_rows
from ..bench_pictures import COLORS
from ..bench_table import Column, decimals, plain_text, quartiles
from ..parser import Parser
from ..terminal import Progress
from . import results, texts

HELP = "entropy of the next token, place by place along texts"
DESCRIPTION = """\
The entropy of the next token's distribution at every place, in nats, the log-probability of the token that came, and
whether it was the best one. The table has means over ranges of places; the files have every place.
"""


def add_options(parser: Parser) -> None:
    texts.add_options(parser)


def run(args: argparse.Namespace) -> str:
    with texts.opened(args) as work, Progress("reading") as progress:
        found = entropy_rows(work.session, work.texts, progress)
    ranges = by_range(found)
    rows = [{**work.facts, **row} for row in found]
    axes = ("tokens after the prompt", "entropy of the next token, nats")
    return results.finish(args, rows, ranges, COLUMNS, work.notes, axes, lambda plot: draw(plot, found, ranges))


def draw(axes: Any, rows: list[dict[str, Any]], ranges: list[dict[str, Any]]) -> None:
    places, values = [row["after_prompt"] for row in rows], [row["entropy"] for row in rows]
    axes.plot(places, values, ".", color=COLORS[0], alpha=0.25, markersize=4, label="one place")
    middles = [(row["first"] + row["last"]) / 2 for row in ranges]
    axes.plot(middles, [row["entropy"] for row in ranges], "o-", color=COLORS[1], label="mean of a range")
    axes.set_ylim(bottom=0.0)


COLUMNS: list[Column] = [
    ("tokens after the prompt", lambda row: f"{row['first']} - {row['last']}"),
    ("places", plain_text("n_places")),
    ("entropy, nats", decimals("entropy", 3)),
    quartiles("quartiles"),
    ("log-probability of what came", decimals("logprob", 3)),
    ("it was the best", decimals("is_best", 3)),
]

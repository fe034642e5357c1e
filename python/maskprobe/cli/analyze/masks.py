"""maskprobe-analyze masks: a search for the mask vector that makes the most of a text."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from ...analysis.mask_search import MaskSearch
from ...masks import tuned_place, write_tuned
from .. import files, options, values
from ..bench_pictures import COLORS
from ..bench_table import Column, decimals
from ..parser import Parser
from ..terminal import Progress, say
from . import results, texts

HELP = "search for the best mask vector, and keep it for --mask-init tuned"
DESCRIPTION = """\
Tries mask vectors, multiples of the prompt's mean embedding plus an offset, at places of the texts: the better one
gives more probability to the token after the next one. Named ones first, then rounds of random offsets around the
best (cross-entropy method, no gradients). All of a round are tried in one pass for each place. Half of the places are
kept for the judgement. The best one is kept beside the model's state, where --mask-init tuned finds it.
"""


def add_options(parser: Parser) -> None:
    texts.add_options(parser)
    add = partial(options.option, parser)
    add(
        "--places",
        metavar="N",
        type=values.integer(4),
        default=128,
        help="places that are looked at, half of them seen",
    )
    add("--rounds", metavar="N", type=values.integer(0), default=12, help="rounds of the search")
    add("--rows", metavar="N", type=values.integer(8, 256), default=32, help="rows of a pass: vectors of a round")
    add("-s", "--seed", metavar="N", type=values.integer(0, options.SEED_MAX), default=7, help="seed")
    add(
        "--out",
        metavar="FILE",
        type=files.plain_output_file,
        help="where the vector goes (default: beside the model's state)",
    )


def run(args: argparse.Namespace) -> str:
    with texts.opened(args, n_rows_max=args.rows) as work, Progress("searching") as progress:
        search = MaskSearch(work.session, work.texts, args.places, args.seed)
        chosen, found = search.run(args.rounds, progress)
        model = work.session.model
        path: Path = args.out or tuned_place(model)
        write_tuned(path, model, chosen.scale, chosen.offset)
    spec = "tuned" if args.out is None else f"tuned:{path}"
    say(f"{texts.PROG}: {chosen.name} is kept: --propose esp --mask-init {spec}")
    rows = [{**work.facts, "n_seen": len(search.seen), "n_unseen": len(search.unseen), **row} for row in found]
    notes = [*work.notes, f"{len(search.seen)} places seen by the search, {len(search.unseen)} not seen"]
    axes = ("mean log-probability of the token after the next one, places not seen", "")
    return results.finish(args, rows, rows, COLUMNS, notes, axes, lambda plot: draw(plot, found))


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    for place, row in enumerate(rows):
        axes.plot([row["unseen_logprob"]], [place], "o", color=COLORS[row["chosen"]])
    axes.set_yticks(range(len(rows)), [row["vector"] for row in rows], fontsize=8)
    axes.invert_yaxis()


COLUMNS: list[Column] = [
    ("vector", lambda row: f"{row['vector']} (kept)" if row["chosen"] else row["vector"]),
    ("seen: log-probability", decimals("seen_logprob", 3)),
    ("best", decimals("seen_top1", 3)),
    ("among five", decimals("seen_top5", 3)),
    ("not seen: log-probability", decimals("unseen_logprob", 3)),
    ("best", decimals("unseen_top1", 3)),
    ("among five", decimals("unseen_top5", 3)),
]

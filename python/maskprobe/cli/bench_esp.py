"""maskprobe-bench esp: the tables of ESP (arXiv 2603.17942) on a model of one's own, beside the paper's."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .. import MaskProbe, Model, mask_embedding
from ..proposers import Proposer, registry
from . import bench_options, files, options, values
from .bench_run import ALL_TASKS, Asked, Source, add_machine_options, margin_text, measure_sources
from .bench_table import Column, Row, decimals, plain_text, render
from .parser import Parser

PROG = "maskprobe-bench esp"
HELP = "the tables of ESP (arXiv 2603.17942) on this model, beside the paper's figures"
MASKS = ("mean", "last-k", "sample", "soft")
DYNAMIC = "dynamic"
ROWS = (10, 30, 60)

# The paper's static trees by masks after a node and rows of a pass. They take (k + 1)(1 + the sum of widths) rows, the
# last one 64.
STATIC = {(1, 10): "4", (1, 30): "14", (2, 30): "7,2", (1, 60): "29", (2, 60): "15,4", (3, 60): "7,5,3"}

# Tokens per pass in the paper, mean masks, greedy: Llama-3.2-3B and Llama-3.1-8B, None where it has no figure.
Paper = tuple[float | None, float | None]
PAPER: dict[tuple[str, int, int], Paper] = {
    ("static", 1, 60): (1.65, 1.73),
    ("static", 2, 60): (1.63, 1.71),
    ("static", 3, 60): (1.51, 1.57),
    ("static", 2, 30): (None, 1.63),
    (DYNAMIC, 2, 60): (1.63, None),
}
PAPER_MASKS = "The paper's masks, Llama-3.2-3B / 3.1-8B: mean 1.67 / 1.71, sample 1.65 / 1.69, last-k 1.62 / 1.67"

DESCRIPTION = """\
Decodes Spec-Bench greedily, plainly and by mask probes alone, in turns: masks mean, last-k, sample and soft, one to
three masks after a node, static and dynamic trees of 10, 30 and 60 rows. Tokens per pass for each task, beside the
paper's figures (data-centre GPUs, models of 3B and 8B); the speed-up over plain decoding on this machine; and whether
each text is that of plain decoding. All trees have mean masks; the other masks have the static trees with one mask
after a node, or with --grid all trees.
"""


@dataclass(frozen=True)
class Shape:
    """One line of the table."""

    mask: str
    n_masks: int
    tree: str  # widths, or "dynamic"
    rows: int

    @property
    def name(self) -> str:
        rows = f" {self.rows}" if self.tree == DYNAMIC else ""
        return f"esp {self.mask} k={self.n_masks} {self.tree}{rows}"

    @property
    def paper(self) -> Paper:
        kind = DYNAMIC if self.tree == DYNAMIC else "static"
        return PAPER.get((kind, self.n_masks, self.rows), (None, None)) if self.mask == "mean" else (None, None)

    def proposer(self, model: Model, rows: int | None) -> Proposer:
        mask = mask_embedding(self.mask, model)
        return MaskProbe(model, tree=self.tree, rows=self.rows, masks=self.n_masks, mask=mask)

    def asked(self) -> Asked:
        return Source(self.name, self.rows), registry.Source("mask probes", self.proposer, probes=True)


def add_options(parser: Parser) -> None:
    add = partial(options.option, parser)
    bench_options.add_model(add)
    parser.add_argument("--spec-bench", metavar="FILE", type=Path, required=True, help="Spec-Bench's question.jsonl")
    add("--limit", metavar="N", type=values.integer(1), default=10, help="prompts of each task at most, evenly spread")
    parser.add_argument("--single-turn", "-st", action="store_true", help="prompts in the model's chat template")
    add("--masks", metavar="KIND,...", type=mask_kinds, default=",".join(MASKS), help="mask vectors")
    add("--rows", metavar="N,...", type=row_counts, default=",".join(map(str, ROWS)), help="rows of a pass")
    parser.add_argument("--grid", action="store_true", help="every tree with every mask")
    add("-n", "--predict", metavar="N", type=values.integer(2), default=100, help="tokens per prompt")
    add_machine_options(parser, add)
    add(
        "--resume",
        metavar="FILE",
        type=files.plain_output_file,
        help="keep each prompt's results in this file, and skip the prompts that it has; soft masks start afresh then",
    )
    bench_options.add_form(add)


def mask_kinds(text: str) -> list[str]:
    return list(dict.fromkeys(values.mask_embedding(part) for part in text.split(",")))


def row_counts(text: str) -> list[int]:
    """Raises ArgumentTypeError for rows that the paper has no trees for."""
    one = values.integer(min(ROWS), max(ROWS))
    found = list(dict.fromkeys(one(part) for part in text.split(",")))
    if not set(found) <= set(ROWS):
        raise values.fail(f"must be some of {', '.join(map(str, ROWS))}, not '{text}'")
    return found


def shapes(masks: Sequence[str], rows: Sequence[int], grid: bool) -> list[Shape]:
    """The lines of the table."""
    found = []
    for mask in masks:
        for (n_masks, n_rows), tree in STATIC.items():
            has_all = grid or mask == masks[0]
            if n_rows in rows and (has_all or n_masks == 1):
                found.append(Shape(mask, n_masks, tree, n_rows))
                if has_all:
                    found.append(Shape(mask, n_masks, DYNAMIC, n_rows))
    return found


def run(args: argparse.Namespace) -> str:
    """All of the subcommand: the result as text."""
    asked = shapes(args.masks, args.rows, args.grid)
    args.prompts, args.temp, args.seed, args.repetitions, args.ignore_eos = [str(args.spec_bench)], [0.0], 0, 1, False
    args.propose, args.heads = [shape.name for shape in asked], None
    rows, notes = measure_sources(args, [shape.asked() for shape in asked], PROG)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    by_name = {shape.name: shape for shape in asked}
    for row in rows:
        shape = by_name.get(row["propose"])
        if shape is not None:
            row |= {"mask": shape.mask, "n_masks": shape.n_masks, "tree": shape.tree, "block": shape.rows}
            row["paper_3b"], row["paper_8b"] = shape.paper if row["task"] == tasks[-1] else (None, None)
    if args.output != "md":
        return render(rows, args.output, [])
    lines = [wide([row for row in rows if row["propose"] == name]) for name in by_name]
    return render(lines, "md", columns(tasks), [f"{note}  " for note in (*notes, PAPER_MASKS)])


def wide(rows: Sequence[Row]) -> Row:
    """One line of the table from the rows of all tasks: the last one is of all together."""
    return {**rows[-1], **{f"tau {row['task']}": row.get("tokens_per_step") for row in rows}}


def columns(tasks: Sequence[str]) -> list[Column]:
    return [
        ("masks", plain_text("mask")),
        ("k", plain_text("n_masks")),
        ("tree", plain_text("tree")),
        ("rows", plain_text("block")),
        *((f"**{task}**" if task == ALL_TASKS else task, decimals(f"tau {task}", 2)) for task in tasks),
        ("paper 3B", decimals("paper_3b", 2)),
        ("paper 8B", decimals("paper_8b", 2)),
        ("rows/pass", decimals("rows_per_step", 1)),
        ("speed-up", decimals("speed_up", 2)),
        ("identical", lambda row: f"{row['n_identical']} of {row['n_runs']}"),
        ("margins at the splits", lambda row: ", ".join(map(margin_text, row["margins"])) or "-"),
    ]

"""Where the results of maskprobe-analyze go: a table, and files if they are wanted."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ... import ArgumentError
from .. import files
from ..bench_pictures import new_axes, saved
from ..bench_table import Column, Row, render
from ..values import quoted

Draw = Callable[[Any], None]  # into matplotlib's axes


def add_options(add: Callable[..., None]) -> None:
    add("--json", metavar="FILE", type=files.output_file, help="also write all figures as JSON")
    add("--csv", metavar="FILE", type=files.output_file, help="also write all figures as CSV")
    add("--picture", metavar="FILE", type=files.output_file, help="also draw them into a PNG, SVG or PDF file")


def check(args: argparse.Namespace) -> None:
    """Before the work. Raises ArgumentError where a picture cannot be drawn or two results go into one file."""
    if args.picture is not None:
        try:
            import matplotlib.figure  # noqa: F401
        except ImportError:
            raise ArgumentError("--picture needs matplotlib: pip install 'maskprobe[analyze]'") from None
        if args.picture.suffix not in (".png", ".svg", ".pdf"):
            raise ArgumentError(f"--picture '{quoted(str(args.picture))}': its name must end in .png, .svg or .pdf")
    named = [path.resolve() for path in (args.json, args.csv, args.picture) if path is not None]
    if len(set(named)) < len(named):
        raise ArgumentError("--json, --csv and --picture must name different files")


def finish(
    args: argparse.Namespace,
    rows: Sequence[Row],
    shown: Sequence[Row],
    columns: Sequence[Column],
    notes: Sequence[str],
    axes: tuple[str, str],
    draw: Draw,
) -> str:
    """Writes the files with all rows, and gives the table of the rows that are shown. Raises ArgumentError."""
    for path, form in ((args.json, "json"), (args.csv, "csv")):
        if path is not None:
            write(path, render(rows, form, columns))
    if args.picture is not None:
        figure, plot = new_axes(*axes)
        draw(plot)
        saved(figure, plot, args.picture)
    return render(shown, "md", columns, [f"{note}  " for note in notes])


def write(path: Path, text: str) -> None:
    try:
        files.write_file(path, text)
    except OSError as error:
        raise ArgumentError(f"cannot write '{quoted(str(path))}': {error.strerror}") from None

"""Pictures of results, with matplotlib where it is installed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import ArgumentError
from .bench_measure import PLAIN, calibration_bins
from .bench_table import Row

# Okabe and Ito's colours, which colour-blind readers can tell apart; grey is for what the others are compared with.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933", "#000000")
GREY = "#888888"
LINES = ("-", "--", ":", "-.")  # the colour is that of the source, the line that of its rows
FEWEST = 20  # candidates that make a point of reliability
WIDTH_IN, HEIGHT_IN, DPI = 7.0, 4.2, 150


Look = tuple[str, str]  # colour and line


def folder_for(name: str) -> Path:
    """The folder, made if it is not there. Raises ArgumentError, also where matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ArgumentError("--pictures needs matplotlib: pip install 'maskprobe[pictures]'") from None
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"cannot make the folder '{name}' (--pictures): {error.strerror}") from None
    return Path(name)


def draw_run(rows: Sequence[Row], folder: Path) -> list[Path]:
    """All pictures of maskprobe-bench run, for each temperature: speed-up by task, tokens per pass against rows per
    pass, acceptance by depth, reliability."""
    paths = []
    for temp in dict.fromkeys(row["temp"] for row in rows):
        at_temp = [row for row in rows if row["temp"] == temp]
        tasks = list(dict.fromkeys(row["task"] for row in at_temp))
        together = [row for row in at_temp if row["task"] == tasks[-1]]  # the last one is all tasks
        guessing = [row for row in together if row["propose"] != PLAIN]
        paths.append(speed_up_by_task(at_temp, folder / f"speed_up_by_task-temp{temp:g}.png"))
        paths.append(tokens_against_rows(together, folder / f"tokens_against_rows-temp{temp:g}.png"))
        paths.append(acceptance_by_depth(guessing, folder / f"acceptance_by_depth-temp{temp:g}.png"))
        bins = {source_of(row): row["calibration"] for row in guessing if row["calibration"]}
        paths.append(reliability(bins, looks(guessing), folder / f"reliability-temp{temp:g}.png"))
    return paths


def speed_up_by_task(rows: Sequence[Row], path: Path) -> Path:
    """A bar for each task and source; plain decoding is the line at 1."""
    bars = []  # from top to bottom: the name of a task, then its sources
    for task in dict.fromkeys(row["task"] for row in rows):
        bars += [task, *(row for row in rows if row["task"] == task and row["propose"] != PLAIN)]
    look = looks(rows)
    figure, axes = new_axes("speed-up over plain decoding, and its quartiles", "", 1.2 + 0.2 * len(bars))
    for place, row in enumerate(bars):
        if isinstance(row, str):
            continue
        color, _ = look[source_of(row)]
        axes.barh(place, row["speed_up"], height=0.85, color=color)
        axes.plot(row["speed_up_quartiles"], [place, place], color="black", linewidth=1.0)
    axes.axvline(1.0, color=GREY, linewidth=1.0)
    labels = [bar if isinstance(bar, str) else source_of(bar) for bar in bars]
    axes.set_yticks(range(len(bars)), labels, fontsize=8)
    for label, bar in zip(axes.get_yticklabels(), bars, strict=True):
        label.set_fontweight("bold" if isinstance(bar, str) else "normal")
    axes.invert_yaxis()
    return saved(figure, axes, path)


def tokens_against_rows(rows: Sequence[Row], path: Path) -> Path:
    """What is gained against what is paid, a point for each source."""
    figure, axes = new_axes("rows per pass", "tokens per pass")
    look = looks(rows)
    for row in rows:
        color, _ = look[source_of(row)]
        x, y = row["rows_per_step"], row["tokens_per_step"]
        axes.plot([x], [y], "o", color=color)
        axes.annotate(source_of(row), (x, y), textcoords="offset points", xytext=(6, 3), fontsize=8)
    axes.set_xlim(left=0.0)
    axes.set_ylim(bottom=0.9)
    return saved(figure, axes, path)


def acceptance_by_depth(rows: Sequence[Row], path: Path) -> Path:
    """The share of passes that accepted at least d candidates."""
    figure, axes = new_axes("d", "passes that accepted d candidates or more")
    look = looks(rows)
    for row in rows:
        counts = row["accept_hist"]
        shares = [sum(counts[d:]) / sum(counts) for d in range(1, len(counts))]
        color, line = look[source_of(row)]
        axes.plot(range(1, len(counts)), shares, f"o{line}", color=color, label=source_of(row), markersize=4)
    axes.set_ylim(0.0, 1.0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return saved(figure, axes, path)


def reliability(bins: Mapping[str, Sequence[Sequence[float]]], look: Mapping[str, Look], path: Path) -> Path:
    """How often candidates were accepted against the probability that their source gave them: on the diagonal both are
    the same. `bins` are those of calibration_bins(), by source; those of fewer than FEWEST candidates are left out. The
    area of a point is the number of candidates."""
    figure, axes = new_axes("probability given", "accepted")
    axes.plot([0.0, 1.0], [0.0, 1.0], color=GREY, linewidth=1.0)
    for source, rows in bins.items():
        filled = [(n, total / n, accepted / n) for n, total, accepted in rows if n >= FEWEST]
        most = max((n for n, _, _ in filled), default=1.0)
        color, line = look[source]
        x, y = [x for _, x, _ in filled], [y for _, _, y in filled]
        axes.plot(x, y, line, color=color, linewidth=1.0, label=source)
        axes.scatter(x, y, s=[6 + 60 * n / most for n, _, _ in filled], color=color)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(0.0, 1.0)
    return saved(figure, axes, path)


def reliability_of(probabilities: Sequence[float], accepted: Sequence[bool], path: Path, source: str = "") -> Path:
    """The same from single candidates: the probability of each, and whether it was accepted."""
    return reliability({source: calibration_bins(probabilities, accepted)}, {source: (COLORS[0], LINES[0])}, path)


def draw_cost(medians: Mapping[tuple[str, int], float], folder: Path) -> Path:
    """T(n): milliseconds of a pass against its rows, from nanoseconds by kernels and rows."""
    figure, axes = new_axes("rows of a pass", "ms of a pass")
    for i, kernels in enumerate(dict.fromkeys(kernels for kernels, _ in medians)):
        points = sorted((n, ns / 1e6) for (of, n), ns in medians.items() if of == kernels)
        axes.plot(*zip(*points, strict=True), "o-", color=COLORS[i], label=kernels, markersize=4)
    axes.set_xlim(left=0.0)
    axes.set_ylim(bottom=0.0)
    return saved(figure, axes, folder / "cost.png")


def looks(rows: Sequence[Row]) -> dict[str, Look]:
    """A colour for each source and a line for each of its numbers of rows; plain decoding is grey."""
    names = list(dict.fromkeys(row["propose"] for row in rows if row["propose"] != PLAIN))
    widths = list(dict.fromkeys(row["rows"] for row in rows if row["propose"] != PLAIN))
    found = {}
    for row in rows:
        if row["propose"] == PLAIN:
            found[source_of(row)] = (GREY, LINES[0])
        else:
            name, width = names.index(row["propose"]), widths.index(row["rows"])
            found[source_of(row)] = (COLORS[name % len(COLORS)], LINES[width % len(LINES)])
    return found


def source_of(row: Row) -> str:
    return row["propose"] if row["rows"] == "auto" else f"{row['propose']} {row['rows']}"


def new_axes(x: str, y: str, height: float = HEIGHT_IN) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no display and no global state

    figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def saved(figure: Any, axes: Any, path: Path) -> Path:
    if axes.get_legend_handles_labels()[1]:
        figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    try:
        figure.savefig(path, dpi=DPI)
    except OSError as error:
        raise ArgumentError(f"cannot write '{path}': {error.strerror}") from None
    return path

"""The report of one machine as a page."""

from typing import Any

from .bench_decoders import COLUMNS, DECODERS, HOW
from .bench_machine import heading
from .bench_table import Column, Row, markdown

TITLE = "Report of"
STOCK, OURS = "stock", "ours"


def as_markdown(report: Row) -> str:
    """The page of one report."""
    model, settings = report["model"], report["settings"]
    template = "in the model's chat template" if settings["template"] else "as they are: the model has no template"
    n_prompts = len({(row["task"], row["prompt"]) for row in report["runs"]})
    return (
        heading(TITLE, report["machine"])
        + f"\n{model['name']} ({model['description']}), {model['n_params'] / 1e6:.0f} million parameters, "
        f"{model['size'] / 2**20:.0f} MiB, threads: {settings['n_threads']}  \n"
        f"Our kernels: {model['kernels']} ({model['kernels_reason']})\n\n"
        f"## Passes\n\nT(n), the time of a pass of n rows after {settings['depth']} tokens; medians, in turns.\n\n"
        + markdown(passes_of(report), PASSES)
        + f"\n## Speed\n\n{n_prompts} prompts of maskprobe-bench, {template}, at most {settings['n_predict']} tokens "
        f"each. {HOW}\n\n"
        + markdown(report["speed"], [*COLUMNS, *energy_columns(report)])
        + f"\n{report['energy']}\n\nMade by `maskprobe-bench report` in {report['took_s'] / 60:.1f} minutes.\n"
    )


def passes_of(report: Row) -> list[Row]:
    """One row for each number of rows, with both kernels side by side."""
    by: dict[int, Row] = {}
    for row in report["passes"]:
        by.setdefault(row["n_rows"], {"n_rows": row["n_rows"]})[row["kernels"]] = row
    return list(by.values())


def of_kernels(name: str, key: str, unit: float, digits: int) -> Any:
    def cell(row: Row) -> str:
        value = row[name][key] if name in row else None
        return "-" if value is None else f"{value / unit:.{digits}f}"

    return cell


PASSES: list[Column] = [
    ("rows", lambda row: str(row["n_rows"])),
    ("llama.cpp ms", of_kernels(STOCK, "median_ns", 1e6, 2)),
    ("llama.cpp T(n)/T(1)", of_kernels(STOCK, "of_one_row", 1, 2)),
    ("ours ms", of_kernels(OURS, "median_ns", 1e6, 2)),
    ("ours T(n)/T(1)", of_kernels(OURS, "of_one_row", 1, 2)),
    ("times llama.cpp", of_kernels(OURS, "speed_up", 1, 2)),
]


def energy_columns(report: Row) -> list[Column]:
    """None where no energy was measured."""

    def column(name: str) -> Column:
        return f"{name} J/token", lambda row: f"{row['joules_per_token'][name]:.3f}"

    known = all(value is not None for row in report["speed"] for value in row["joules_per_token"].values())
    return [column(name) for name in DECODERS] if known else []

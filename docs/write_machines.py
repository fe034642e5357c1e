"""Writes the table of machines into docs/machines.md, from the reports in bench/results/.

python docs/write_machines.py
"""

from pathlib import Path

from maskprobe.cli.bench_decoders import DECODERS, DRAFTED
from maskprobe.cli.bench_report_file import read_report
from maskprobe.cli.bench_report_page import OURS, passes_of
from maskprobe.cli.bench_table import Column, Row, decimals, markdown, plain_text

PAGE = Path(__file__).with_name("machines.md")
RESULTS = PAGE.parent.parent / "bench" / "results"
MARK = "<!-- What follows is written by docs/write_machines.py. -->\n"
NONE = "No machine has a report yet.\n"


def machine_row(path: Path, report: Row) -> Row:
    machine, threads = report["machine"], report["settings"]["n_threads"]
    ceilings = machine["ceilings"][str(threads)]
    steps = {row["n_rows"]: row[OURS]["of_one_row"] for row in passes_of(report) if OURS in row}
    return {
        "machine": f"[{machine['cpu_info']}](../bench/results/{path.stem}.md)",
        "system": machine["system"],
        "cores": f"{threads} of {machine['n_cpus']}",
        "memory": f"{machine['memory_bytes'] / 2**30:.0f}",
        "reads": ceilings["read_bytes_per_second"] / 1e9,
        "computes": ceilings["int8_macs_per_second"] / 1e9 or None,
        "kernels": report["model"]["kernels"],
        "t8": steps.get(8),
        "date": machine["date"],
    }


MACHINES: list[Column] = [
    ("machine", plain_text("machine")),
    ("system", plain_text("system")),
    ("threads", plain_text("cores")),
    ("memory GiB", plain_text("memory")),
    ("reads GB/s", decimals("reads", 1)),
    ("GMAC/s", decimals("computes", 0)),
    ("our kernels", plain_text("kernels")),
    ("T(8)/T(1)", decimals("t8", 2)),
    ("measured", plain_text("date")),
]


def speed_rows(report: Row) -> list[Row]:
    """A row for each temperature."""
    about = {"machine": report["machine"]["cpu_info"], "threads": report["settings"]["n_threads"]}
    return [
        {**row, **about, "model": report["model"]["description"], "joules": row["joules_per_token"][DRAFTED]}
        for row in report["speed"]
    ]


def speed_of(name: str) -> Column:
    return f"{name} t/s", lambda row: f"{row['ts'][name]:.1f}"


SPEEDS: list[Column] = [
    ("machine", plain_text("machine")),
    ("threads", plain_text("threads")),
    ("model", plain_text("model")),
    ("temp", decimals("temp", 1)),
    *map(speed_of, DECODERS),
    ("over llama.cpp", decimals("over_llama_cpp", 2)),
    ("tokens / rows per pass", lambda row: f"{row['tokens_per_step']:.2f} / {row['rows_per_step']:.1f}"),
    (f"{DRAFTED} J/token", decimals("joules", 3)),
]


def written(folder: Path = RESULTS) -> str:
    """What stands after the mark. Raises ArgumentError for a file that is no report."""
    reports = {path: read_report(path) for path in sorted(folder.glob("report-*.json"))}
    if not reports:
        return NONE
    machines = markdown([machine_row(path, report) for path, report in reports.items()], MACHINES)
    speeds = markdown([row for report in reports.values() for row in speed_rows(report)], SPEEDS)
    return f"{machines}\n{speeds}"


if __name__ == "__main__":
    head, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    PAGE.write_text(f"{head.rstrip()}\n\n{MARK}\n{written()}", encoding="utf-8")

"""What the subcommands of maskprobe-bench share: the forms of a result, and llama-bench's keys in it."""

import csv
import io
import json
import platform
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import Model

FORMS = ("md", "csv", "json", "jsonl")

Row = dict[str, Any]  # one line of a result, keys as llama-bench has them
Column = tuple[str, Callable[[Row], str]]  # title and cell of a markdown table


def facts_of(path: Path, model: Model, n_threads: int) -> Row:
    """What is the same in every line of one run."""
    return {
        "build_commit": f"maskprobe {version('maskprobe')}, llama-cpp-python {version('llama-cpp-python')}",
        "cpu_info": cpu_name(),
        "model_filename": path.name,
        "model_type": model.info.description,
        "model_size": model.info.size,
        "model_n_params": model.info.n_params,
        "n_batch": 2048,
        "n_threads": n_threads,
        "type_k": "f16",
        "type_v": "f16",
        "test_time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def cpu_name() -> str:
    """The processor's name, or the board's where Linux does not tell the processor's (ARM)."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    with suppress(OSError):
        return Path("/proc/device-tree/model").read_text("utf-8", "replace").strip("\0\n ")
    with suppress(OSError):  # macOS
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        if name := subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip():
            return name
    return platform.processor() or platform.machine()


def render(rows: Sequence[Row], form: str, columns: Sequence[Column], notes: Sequence[str] = ()) -> str:
    """The result in one of FORMS. `columns` and `notes` (lines above the table) are for markdown; the other forms have
    all keys of the rows. Lists in a CSV cell are JSON."""
    if form == "md":
        return "".join(f"{note}\n" for note in notes) + "\n" * bool(notes) + markdown(rows, columns)
    if form == "csv":
        return as_csv(rows)
    lines = [json.dumps(row, allow_nan=False) for row in rows]
    if form == "jsonl":
        return "".join(f"{line}\n" for line in lines)
    return "[\n" + ",\n".join(lines) + "\n]\n"


def markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    lines = [[title for title, _ in columns], ["---"] * len(columns)]
    lines += [[cell(row) for _, cell in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_csv(rows: Sequence[Row]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(keys)
    for row in rows:
        values = [row.get(key) for key in keys]
        writer.writerow([json.dumps(value) if isinstance(value, list | dict) else value for value in values])
    return text.getvalue()


def decimals(key: str, digits: int) -> Callable[[Row], str]:
    """The cell of a number, "-" where there is none."""
    return lambda row: "-" if row.get(key) is None else f"{row[key]:.{digits}f}"


def plain_text(key: str) -> Callable[[Row], str]:
    """The cell of a text or a whole number, "-" where there is none."""
    return lambda row: "-" if row.get(key) is None else str(row[key])


def quartiles(key: str) -> Column:
    """The column of a pair of numbers, "-" where there is none."""
    return "quartiles", lambda row: "{:.2f} - {:.2f}".format(*row[key]) if row.get(key) else "-"


PER_PASS: list[Column] = [("tokens/pass", decimals("tokens_per_step", 3)), ("rows/pass", decimals("rows_per_step", 1))]
RATE: Column = ("t/s", lambda row: f"{row['avg_ts']:.1f} ± {row['stddev_ts']:.1f}" if "avg_ts" in row else "-")
SPEED: list[Column] = [RATE, ("speed-up", decimals("speed_up", 2)), quartiles("speed_up_quartiles")]

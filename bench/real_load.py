"""Section load: peak memory and load time of a fresh process, as bench/load.py measures them."""

from collections.abc import Iterator
from pathlib import Path

import load
from real_plan import Plan, random_model
from real_report import Asked

from maskprobe.cli.bench_table import Column, Row, markdown, plain_text
from maskprobe.cli.terminal import Progress

MIB = 1 << 20
OURS, STOCK = "ours", "stock"
FILE_FACTOR, ROOM_MIB = 1.15, 150  # of the peak
LOAD_OF_STOCK = 1.3

HOW = (
    f"A process for each run, the file warm: it opens the model, evaluates a prompt of {load.N_PROMPT} tokens and one "
    f"pass of {load.N_ROWS} rows in a context of {load.N_CTX}. The runs of both kernels alternate; the median of the "
    "load times, the largest peak."
)


def seconds(plan: Plan) -> float:
    """About how long the section takes on two cores."""
    sizes = [path.stat().st_size for path in plan.models] + [8e8 if not plan.random_sizes else 1e7]
    return 10.0 + sum(2 * plan.rounds * (1.0 + size / 1.5e8) for size in sizes)


def measure(plan: Plan) -> Iterator[tuple[str, Row]]:
    """One model after another."""
    for path in plan.models:
        yield path.name, of_model(path, plan)
    with random_model("q4_0", plan) as path:
        yield path.name, of_model(path, plan)


def of_model(path: Path, plan: Plan) -> Row:
    with Progress(f"loading {path.name}"):
        found = load.measure(str(path), plan.rounds, plan.threads[0])
    return {"file_size": path.stat().st_size, "n_threads": plan.threads[0], **found}


def asked(cases: dict[str, Row]) -> Iterator[Asked]:
    for name, case in cases.items():
        limit = FILE_FACTOR * case["file_size"] / MIB + ROOM_MIB
        note = f"{FILE_FACTOR} x file + {ROOM_MIB} MiB; stock's is {case[STOCK]['peak'] / MIB:.0f} MiB"
        yield Asked(name, "peak memory", case[OURS]["peak"] / MIB, limit, unit="MiB", note=note)
        yield Asked(name, "load time of stock's", case[OURS]["seconds"] / case[STOCK]["seconds"], LOAD_OF_STOCK)


COLUMNS: list[Column] = [
    ("model", plain_text("name")),
    ("file MiB", lambda row: f"{row['file_size'] / MIB:.0f}"),
    ("kernels", plain_text("kernels")),
    ("load s", lambda row: f"{row['seconds']:.2f}"),
    *((f"{key} MiB", lambda row, key=key: f"{row[key] / MIB:.0f}") for key in ("bare", "loaded", "peak")),
]


def tables(cases: dict[str, Row]) -> str:
    rows = [
        {"name": name, "file_size": case["file_size"], "kernels": kernels, **case[kernels]}
        for name, case in cases.items()
        for kernels in (STOCK, OURS)
    ]
    return HOW + "\n\n" + markdown(rows, COLUMNS)

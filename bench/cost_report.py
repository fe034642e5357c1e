"""T(n) of this machine as a result file: runs maskprobe-bench cost and writes its points, tables and a picture.

    python models/random_gguf.py llama-3.2-1b 1b.gguf --type q4_0
    python bench/cost_report.py -m 1b.gguf --threads 1 2 --depths 256 4096

Writes NAME.json (a list of objects, one for each point, keys as llama-bench has them), NAME.md and, where matplotlib
is installed, NAME.png into bench/results/, NAME being the processor's. Points of other models, depths and thread counts
that NAME.json has already are kept, so that a report can be made in several short runs.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from checkout import RESULTS

from maskprobe.cli import bench_cost, bench_pictures
from maskprobe.cli.bench_machine import processor_file_name
from maskprobe.cli.bench_table import Row, markdown, render
from maskprobe.model import compiler

Case = tuple[str, int, int]  # model file, depth, threads


def case_of(row: Row) -> Case:
    return row["model_filename"], row["n_depth"], row["n_threads"]


def measure(model: str, depth: int, threads: int, others: Sequence[str]) -> list[Row]:
    """In a process of its own: nothing of one measurement is left in memory for the next."""
    command = [sys.executable, "-m", "maskprobe.cli.bench", "cost", "-m", model, "-d", str(depth), "-t", str(threads)]
    done = subprocess.run([*command, "-o", "json", *others], stdout=subprocess.PIPE, text=True, check=True)
    return [{**row, "compiler": compiler()} for row in json.loads(done.stdout)]


def as_markdown(rows: Sequence[Row]) -> str:
    parts = [f"# The time of a pass on {rows[0]['cpu_info']}\n\n{rows[0]['build_commit']}, {rows[0]['compiler']}\n"]
    for case in dict.fromkeys(map(case_of, rows)):
        points = [row for row in rows if case_of(row) == case]
        notes = bench_cost.notes_of(points[0])
        parts.append("\n".join(notes) + "\n\n" + markdown(points, bench_cost.columns_of(points)))
    return "\n".join(parts)


def draw(rows: Sequence[Row], path: Path) -> None:
    """The first case of the file."""
    medians = {
        (row["kernels"], row["n_rows"]): row["median_ns"]
        for row in rows
        if case_of(row) == case_of(rows[0]) and not row["n_prompt"]
    }
    bench_pictures.draw_cost(medians, path.parent).replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--models", required=True, nargs="+")
    parser.add_argument("--depths", type=int, nargs="+", default=[256])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("-o", "--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("options", nargs="*", help="options of maskprobe-bench cost, after --")
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / f"{processor_file_name()}.json"
    rows = json.loads(path.read_text("utf-8")) if path.exists() else []
    for model in args.models:
        for depth in args.depths:
            for threads in args.threads:
                new = measure(model, depth, threads, args.options)
                rows = [row for row in rows if case_of(row) != case_of(new[0])] + new
                rows.sort(key=case_of)
                path.write_text(render(rows, "json", ()), "utf-8")
    path.with_suffix(".md").write_text(as_markdown(rows), "utf-8")
    try:
        draw(rows, path.with_suffix(".png"))
    except ImportError:
        print("no picture: matplotlib is not installed", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

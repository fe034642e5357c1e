"""Attention time per row when the cells of several sessions lie mixed in one cache, token by token.

Sessions have equally many cells. What is timed is one layer of a pass on one thread, per row: with the cells in the
order of the cache, where every row pays for its neighbours' cells, and with the cells listed by session, as the kernels
take them. The list is made once for all layers of a pass; its time stands beside.

Needs a C++ compiler, and the headers and libraries that llama-cpp-python installs.
"""

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parent.parent
SHAPES = {"SmolLM2-135M": (9, 3, 64), "Qwen2.5-0.5B": (14, 2, 64), "Llama-3.2-1B": (32, 8, 64)}


def build(folder: Path) -> Path:
    """Compiles the program with the kernels; ends with the compiler's message if that fails."""
    package = Path(importlib.util.find_spec("llama_cpp").origin).parent
    csrc, program = PROJECT / "csrc", folder / "attention_sessions"
    sources = [PROJECT / "bench" / "attention_sessions.cpp", *sorted((csrc / "kernels" / "attention").glob("*.cpp"))]
    lib = package / "lib"
    command = [*shlex.split(os.environ.get("CXX", "c++")), "-O3", "-std=c++17", "-ffp-contract=off"]
    command += [f"-I{package.parent / 'include'}", f"-I{csrc}", f"-I{PROJECT / 'tests'}"]
    command += [*map(str, sources), "-o", str(program)]
    command += [f"-L{lib}", "-lggml-base", f"-Wl,-rpath,{lib}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1000, help="of each session (%(default)s)")
    parser.add_argument("--rows", default="1,8", help="of each session (%(default)s)")
    parser.add_argument("--sessions", default="1,4,16", help="%(default)s")
    arguments = parser.parse_args()
    print(f"Microseconds per row and layer, {arguments.cells} cells of each session, one thread.")
    print()
    print("| shape | rows each | sessions | in the cache's order | by session | list, us per pass |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        for name, shape in SHAPES.items():
            for rows in map(int, arguments.rows.split(",")):
                for sessions in map(int, arguments.sessions.split(",")):
                    command = [program, *map(str, shape), str(sessions), str(rows), str(arguments.cells)]
                    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                    in_order, by_session, listing = map(float, printed.split())
                    n = sessions * rows
                    times = f"{in_order / n:.1f} | {by_session / n:.1f} | {listing:.0f}"
                    print(f"| {name} | {rows} | {sessions} | {times} |", flush=True)


if __name__ == "__main__":
    main()

"""Counts the instructions that the ARM kernels take for a product of weights with n rows, in an emulator.

No time is measured: an emulator has none. What is counted are the instructions of one call of multiply() for weights of
2048 x 2048, divided by n: those that the program executes for two calls less those for one. They say how much of the
work for one row is shared by n, and how much less there is to do with better instructions.

Needs aarch64-linux-gnu-g++ and qemu-aarch64 (Debian: g++-aarch64-linux-gnu, qemu-user), a C compiler, and the headers
that llama-cpp-python installs.
"""

import argparse
import importlib.util
import shlex
import sys
import tempfile
from pathlib import Path

from instruction_counter import build_plugin, count, run

PROJECT = Path(__file__).parent.parent
SETS = ["portable", "NEON", "NEON-dotprod", "NEON-i8mm"]
N_WEIGHTS = 2048 * 2048


def build(folder, compiler):
    package = Path(importlib.util.find_spec("llama_cpp").origin).parent
    csrc = PROJECT / "csrc"
    sources = [PROJECT / "bench" / "arm_instructions.cpp", PROJECT / "tests" / "ggml_stand_in.cpp"]
    sources += sorted((csrc / "kernels" / "gemm").glob("gemm*.cpp"))
    program = folder / "arm_instructions"
    options = ["-O3", "-std=c++17", "-ffp-contract=off", "-static", f"-I{package.parent / 'include'}", f"-I{csrc}"]
    done = run(*shlex.split(compiler), *options, *sources, "-o", program)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return program


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default="q4_0,q4_1,q5_0,q8_0,q4_K,q6_K", help="of weights (%(default)s)")
    parser.add_argument("--rows", default="1,8,16", help="values of n (%(default)s)")
    parser.add_argument("--compiler", default="aarch64-linux-gnu-g++", help="for ARM (%(default)s)")
    arguments = parser.parse_args()
    rows = [int(n) for n in arguments.rows.split(",")]
    print("Thousands of instructions per row of activations, 2048 x 2048 weights (products per instruction).")
    print()
    print("| weights | instructions |", " | ".join(f"n = {n}" for n in rows), "|")
    print("|---|---|" + "---:|" * len(rows))
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder), arguments.compiler)
        plugin = build_plugin(Path(folder), program)
        for weights in arguments.types.split(","):
            for name in SETS:
                cells = []
                for n in rows:
                    once, twice = (count(plugin, "max", program, name, weights, n, times)[-1] for times in (1, 2))
                    per_row = (twice - once) / n
                    cells.append(f"{per_row / 1000:.0f} ({N_WEIGHTS / per_row:.1f})")
                print(f"| {weights} | {name} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()

"""Counts the instructions of whole passes on 64-bit ARM in an emulator, and calculates from them what passes may cost.

No time is measured: an emulator has none. A pass is one mp_context_decode() of a chain of n tokens with one thread,
layout and top-K included, with 16 tokens in the cache. The models are random weights in the shapes of real ones. All
layers of a model are alike, and so are all rows of its vocabulary: models with 1 and 2 layers and with 4,096 and 8,192
tokens are counted, and the whole one is what these give.

llama.cpp and the core are compiled for each of three processors, as their owners would: without dot products
(Cortex-A72), with them (Cortex-A76), and with 8-bit matrix products. Needs what the toolchain file
cmake/toolchains/aarch64-linux-gnu.cmake names, and a C compiler for the emulator's plug-in.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from instruction_counter import MARK, build_plugin, count, run

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT / "models"))
import random_gguf  # noqa: E402

N_CELLS = 16
N_VOCAB = 4096  # of the models that are counted, and twice as much
MODELS = {"SmolLM2-135M Q4_1": ("smollm2-135m", "q4_1"), "Llama-3.2-1B Q4_0": ("llama-3.2-1b", "q4_0")}


@dataclass
class Machine:
    name: str
    processor: str  # of the emulator
    architecture: str  # llama.cpp is compiled for it
    kernels: str  # ours, as MASKPROBE_ISA has them
    n_cores: int
    clock: float  # Hz
    ipc: float  # assumed: instructions of a core in a cycle
    bandwidth: float  # bytes/s


MACHINES = [
    Machine("Raspberry Pi 4", "cortex-a72", "armv8-a", "neon", 4, 1.5e9, 1.5, 5.56e9),
    Machine("Raspberry Pi 5", "neoverse-n1", "armv8.2-a+dotprod+fp16", "neon-dotprod", 4, 2.4e9, 2.0, 10.5e9),
    Machine("phone with i8mm", "max", "armv8.6-a+fp16", "neon-i8mm", 4, 2.37e9, 2.5, 34e9),
]


def must(*command, **settings):
    done = run(*command, **settings)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def build(machine: Machine, work: Path, llama_source: Path) -> Path:
    """The program of passes for one machine; what is there already is not compiled again."""
    folder = work / machine.processor
    options = [f"-DMASKPROBE_LLAMA_SOURCE={llama_source}", "-DBUILD_SHARED_LIBS=OFF", "-DCMAKE_BUILD_TYPE=Release"]
    options += [f"-DMASKPROBE_LLAMA_OPTIONS=-DGGML_CPU_ARM_ARCH={machine.architecture}"]
    options += [f"-DCMAKE_TOOLCHAIN_FILE={PROJECT / 'cmake' / 'toolchains' / 'aarch64-linux-gnu.cmake'}"]
    must("cmake", "-S", PROJECT, "-B", folder, *options)
    must("cmake", "--build", folder, "--parallel", os.cpu_count())
    must("cmake", "--install", folder, "--prefix", folder / "installed")
    program = folder / "pass_instructions"
    settings = {**os.environ, "PKG_CONFIG_PATH": str(folder / "installed" / "lib" / "pkgconfig")}
    flags = run("pkg-config", "--cflags", "--libs", "maskprobe", env=settings).stdout.split()
    source = PROJECT / "bench" / "pass_instructions.c"
    must("aarch64-linux-gnu-gcc", "-O2", "-static", f"-DMARK={MARK}", source, "-o", program, *flags)
    return program


def small_models(name: str, work: Path) -> list[Path]:
    """The model with one layer and a small vocabulary, one with another layer, one with twice the vocabulary."""
    shape, weights = MODELS[name]
    made = []
    for layers, n_vocab in ((1, N_VOCAB), (2, N_VOCAB), (1, 2 * N_VOCAB)):
        path = work / f"{shape}-{layers}-{n_vocab}.gguf"
        if not path.exists():
            random_gguf.write_random_gguf(path, shape, weights, layers=layers, vocab=n_vocab)
        made.append(path)
    return made


def whole(name: str, base: float, with_layer: float, with_vocabulary: float) -> float:
    """Of the whole model, from what the three small ones have."""
    shape = random_gguf.SHAPES[MODELS[name][0]]
    of_layers, of_vocabulary = with_layer - base, with_vocabulary - base
    return base + (shape.layers - 1) * of_layers + (shape.vocab / N_VOCAB - 1) * of_vocabulary


def count_passes(machine: Machine, program: Path, plugin: Path, name: str, kernels: str, rows: list[int]):
    """Instructions of a pass of n rows of the whole model, for each n."""
    counted = []
    for model in small_models(name, program.parent.parent):
        words = [model, kernels, N_CELLS, *rows]
        marks = count(plugin, machine.processor, program, *words, MASKPROBE_ISA=machine.kernels)
        counted.append([marks[2 * i + 1] - marks[2 * i] for i in range(len(rows))])
    return [whole(name, *some) for some in zip(*counted, strict=True)]


def seconds(machine: Machine, instructions: float, n_bytes: float, ipc: float) -> float:
    """Of a pass whose threads share its instructions, while the weights come from memory once."""
    return max(instructions / (machine.n_cores * machine.clock * ipc), n_bytes / machine.bandwidth)


def ratios(machine: Machine, passes: list[float], n_bytes: float) -> list[str]:
    """T(n)/T(1) for each n, and in brackets what it would be with two thirds and one and a half of the assumed IPC."""
    cells = []
    for instructions in passes:
        low, middle, high = (
            seconds(machine, instructions, n_bytes, ipc) / seconds(machine, passes[0], n_bytes, ipc)
            for ipc in (machine.ipc * 1.5, machine.ipc, machine.ipc / 1.5)
        )
        cells.append(f"{middle:.1f} ({low:.1f}-{high:.1f})")
    return cells


def print_table(title: str, lines: list[tuple], rows: list[int]) -> None:
    print(f"\n{title}\n")
    print("| model | processor | kernels |", " | ".join(f"n = {n}" for n in rows), "|")
    print("|---|---|---|" + "---:|" * len(rows))
    for line in lines:
        print("|", " | ".join(line), "|")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-source", type=Path, required=True, help="sources of the pinned llama.cpp")
    parser.add_argument("--work", type=Path, default=Path("build-arm-passes"), help="folder of builds (%(default)s)")
    parser.add_argument("--rows", default="1,4,8,16", help="values of n, 1 first (%(default)s)")
    arguments = parser.parse_args()
    rows = [int(n) for n in arguments.rows.split(",")]
    work = arguments.work.absolute()
    counted, calculated = [], []
    for machine in MACHINES:
        program = build(machine, work, arguments.llama_source.absolute())
        plugin = build_plugin(work, program)
        for name in MODELS:
            n_bytes = whole(name, *(path.stat().st_size for path in small_models(name, work)))
            for kernels in ("ours", "stock"):
                passes = count_passes(machine, program, plugin, name, kernels, rows)
                label = machine.kernels if kernels == "ours" else f"llama.cpp, {machine.architecture}"
                per_row = [f"{p / n / 1e6:.1f}" for p, n in zip(passes, rows, strict=True)]
                counted.append((name, machine.processor, label, *per_row))
                calculated.append((name, machine.name, label, *ratios(machine, passes, n_bytes)))
                print(" ".join(counted[-1]), file=sys.stderr, flush=True)
    print_table("Millions of instructions per row of a pass of n rows, counted:", counted, rows)
    print_table("T(n)/T(1), calculated and not measured:", calculated, rows)


if __name__ == "__main__":
    main()

"""Load time and peak resident memory of models, with maskprobe's kernels and with llama.cpp's.

    python models/random_gguf.py llama-3.2-1b 1b.gguf --type q4_0
    python bench/load.py 1b.gguf

Every run is a process of its own: it opens the model from a warm file, then evaluates a prompt and one pass of 16 rows
in a context of 512 tokens. The runs of the two kernels alternate. One that is not counted goes before each of them: a
virtual machine gives free memory back to its host, and to fetch it again takes longer than anything that is measured.

Prints a Markdown table: the median of the load time, the self-check included, and the largest peak. "bare" is what such
a process has in memory before it opens the model.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from maskprobe import Model, Session, TokenTree

N_CTX = 512
N_PROMPT = 256
N_ROWS = 16
KERNELS = ("stock", "ours")
MIB = 1 << 20


def peak_bytes() -> int:
    """Of this process. Linux's getrusage() would count what the parent had before exec, too."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def load_once(path: str, kernels: str, n_threads: int) -> dict[str, float]:
    bare = peak_bytes()
    started = time.perf_counter()
    model = Model(path, kernels=kernels, n_threads=n_threads)
    seconds = time.perf_counter() - started
    loaded = peak_bytes()
    session = Session(model, n_ctx=N_CTX, n_threads=n_threads)
    session.set_prefix([i % model.info.n_vocab for i in range(N_PROMPT)])
    tree = TokenTree(1)
    for token in range(2, N_ROWS + 1):
        tree.add(0, token, 0.0)
    session.decode(tree)
    return {"bare": bare, "seconds": seconds, "loaded": loaded, "peak": peak_bytes()}


def in_a_process(path: str, kernels: str, n_threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, path, "--once", kernels, "-t", str(n_threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def warm(path: str) -> None:
    with open(path, "rb") as file:
        while file.read(16 * MIB):
            pass


def measure(path: str, repetitions: int, n_threads: int) -> dict[str, dict[str, float]]:
    """kernels -> median seconds, and the largest of the figures in bytes."""
    warm(path)
    runs: dict[str, list[dict[str, float]]] = {kernels: [] for kernels in KERNELS}
    for _ in range(repetitions):
        for kernels in KERNELS:
            in_a_process(path, kernels, n_threads)
            runs[kernels].append(in_a_process(path, kernels, n_threads))
    return {
        kernels: {
            "seconds": statistics.median(run["seconds"] for run in of_kernels),
            **{name: max(run[name] for run in of_kernels) for name in ("bare", "loaded", "peak")},
        }
        for kernels, of_kernels in runs.items()
    }


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [
        "| model | file, MiB | kernels | load, s | of stock's | bare, MiB | loaded | peak | 1.15 x file + 150 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for path, result in results.items():
        size = os.path.getsize(path) / MIB
        for kernels, figures in result.items():
            seconds = figures["seconds"]
            memory = " | ".join(f"{figures[name] / MIB:.0f}" for name in ("bare", "loaded", "peak"))
            lines.append(
                f"| {Path(path).name} | {size:.0f} | {kernels} | {seconds:.2f} |"
                f" {seconds / result['stock']['seconds']:.2f} | {memory} | {1.15 * size + 150:.0f} |"
            )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="FILE")
    parser.add_argument("-r", "--repetitions", type=int, default=5)
    parser.add_argument("-t", "--threads", type=int, default=0, help="0 = the physical cores (default)")
    parser.add_argument("--once", choices=KERNELS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.once:
        print(json.dumps(load_once(args.models[0], args.once, args.threads)))
        return 0
    print(table({path: measure(path, args.repetitions, args.threads) for path in args.models}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

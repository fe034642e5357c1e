"""What each constant of the planner is worth: simulated speed with it halved and doubled, as a table in Markdown.

    python bench/planner_constants.py              # all of them
    python bench/planner_constants.py MOST=4       # these values instead

The machines and texts are those of tests/plan_simulator.h; nothing of this machine is timed.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
CONSTANT = re.compile(r"^constexpr (double|int32_t) ([A-Z_]+) = ([0-9.e+]+);", re.M)
RANGES = ("SHALLOWEST", "DEEPEST", "LONGEST_US", "MOST_CLAIMED")  # of what is kept, not of what is decided
FADING = ("FORGETTING", "FADING")  # halved and doubled is what they leave of 1

Rates = dict[tuple[str, str], list[float]]  # by kind and scenario, one for each seed


def simulated(values: dict[str, str], *arguments: str) -> Rates:
    """Tokens per second, with other values for some constants."""
    with tempfile.TemporaryDirectory() as folder:
        sources = []
        for source in sorted((PROJECT / "csrc" / "plan").glob("*.cpp")):
            text = CONSTANT.sub(lambda m: m[0].replace(f" {m[3]};", f" {values.get(m[2], m[3])};"), source.read_text())
            sources.append(Path(folder) / source.name)
            sources[-1].write_text(text)
        program = Path(folder) / "planner_constants"
        compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"
        includes = [f"-I{PROJECT / name}" for name in ("csrc", "tests")]
        main = PROJECT / "bench" / "planner_constants.cpp"
        subprocess.run([compiler, "-std=c++17", "-O2", *includes, main, *sources, "-o", program], check=True)
        lines = subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout.splitlines()
    rates: Rates = {}
    for kind, name, _, rate in (line.split("\t") for line in lines):
        rates.setdefault((kind, name), []).append(float(rate))
    return rates


def others(kind: str, name: str, value: str) -> list[str]:
    """Half and twice a constant."""
    number = float(value)
    if name in FADING:
        return [f"{1 - (1 - number) * factor:g}" for factor in (0.5, 2)]
    return [f"{number * factor:g}" if kind == "double" else f"{int(number * factor)}" for factor in (0.5, 2)]


def row(label: str, rates: Rates, by: Rates) -> str:
    """Mean ratios by kind of scenario, and the least of all."""
    ratios = {key: [a / b for a, b in zip(rates[key], by[key], strict=True)] for key in rates}
    kinds = dict.fromkeys(kind for kind, _ in ratios)
    means = [statistics.mean(r for key in ratios if key[0] == kind for r in ratios[key]) for kind in kinds]
    return (
        "| " + " | ".join([label, *(f"{mean:.3f}" for mean in means), f"{min(map(min, ratios.values())):.3f}"]) + " |"
    )


def main() -> None:
    chosen = [tuple(argument.split("=")) for argument in sys.argv[1:]]
    if not chosen:
        for source in sorted((PROJECT / "csrc" / "plan").glob("*.cpp")):
            for kind, name, value in CONSTANT.findall(source.read_text()):
                chosen += [(name, other) for other in others(kind, name, value) if name not in RANGES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        fixed, usual = pool.submit(simulated, {}, "fixed"), pool.submit(simulated, {})
        variants = [(f"{name} {value}", pool.submit(simulated, {name: value})) for name, value in chosen]
        kinds = dict.fromkeys(kind for kind, _ in usual.result())
        print("| " + " | ".join(["", *kinds, "least of all"]) + " |")
        print("| --- " * (len(kinds) + 2) + "|")
        print(row("as it is", usual.result(), fixed.result()), flush=True)
        for label, variant in variants:
            print(row(label, variant.result(), fixed.result()), flush=True)


if __name__ == "__main__":
    main()

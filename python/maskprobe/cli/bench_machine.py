"""The machine of a result file: what it is, what it can do at most, and with what it was measured. Nothing of it tells
whose machine it is."""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version

from ..model import MachineSpeed, compiler, measure_machine
from .bench_table import Column, Row, cpu_name, markdown


def today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def machine_facts(ceilings: Mapping[int, MachineSpeed]) -> Row:
    """With its ceilings by the number of threads."""
    return {
        "date": today(),
        "cpu_info": cpu_name(),
        "n_cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "maskprobe": version("maskprobe"),
        "llama_cpp_python": version("llama-cpp-python"),
        "compiler": compiler(),
        "python": platform.python_version(),
        "ceilings": {str(n): asdict(speed) for n, speed in ceilings.items()},
    }


def best_speed(threads: int, before: MachineSpeed | None = None) -> MachineSpeed:
    """What the machine can do at most: the better of two measurements, where one was made `before`."""
    now = measure_machine(threads)
    if before is None:
        return now
    return MachineSpeed(
        max(before.read_bytes_per_second, now.read_bytes_per_second),
        max(before.int8_macs_per_second, now.int8_macs_per_second),
    )


def processor_file_name() -> str:
    """What a file of this machine's results is called."""
    return re.sub(r"[^a-z0-9]+", "-", cpu_name().lower()).strip("-")


CEILINGS: list[Column] = [
    ("threads", lambda row: str(row["threads"])),
    ("reads GB/s", lambda row: f"{row['read_bytes_per_second'] / 1e9:.1f}"),
    ("computes GMAC/s of int8 products", lambda row: f"{row['int8_macs_per_second'] / 1e9:.0f}"),
]


def heading(title: str, machine: Row) -> str:
    """The machine and the versions; its ceilings for each number of threads."""
    rows = [{"threads": n, **speed} for n, speed in machine["ceilings"].items()]
    return (
        f"# {title} {machine['cpu_info']}\n\n"
        f"{machine['date']}, {machine['n_cpus']} processors, {machine['memory_bytes'] / 2**30:.0f} GiB of memory, "
        f"{machine['system']}  \n"
        f"maskprobe {machine['maskprobe']}, llama-cpp-python {machine['llama_cpp_python']}, {machine['compiler']}, "
        f"Python {machine['python']}\n\n" + markdown(rows, CEILINGS)
    )

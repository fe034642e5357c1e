"""What a stretch of work takes from the socket: the counters of the processor's packages that Linux has (RAPL)."""

import sys
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
MACOS = "on macOS `sudo powermetrics --samplers cpu_power` tells it, beside the run"


class Meter:
    """The packages' counters, all together. Anything else that runs on the processor is in them, and what it takes at
    rest. A counter moves about once in a millisecond."""

    def __init__(self, packages: list[Path]) -> None:
        self._counters = [package / "energy_uj" for package in packages]
        self._ranges = [int((package / "max_energy_range_uj").read_text()) for package in packages]
        self.start()

    def start(self) -> None:
        self._before = self._read()

    def joules(self) -> float:
        """Since start(). Counters begin at 0 again after some kilojoules: a stretch may pass that point once."""
        moved = zip(self._before, self._read(), self._ranges, strict=True)
        return 1e-6 * sum(now - before if now >= before else now - before + size for before, now, size in moved)

    def _read(self) -> list[int]:
        return [int(counter.read_text()) for counter in self._counters]


def find_meter() -> tuple[Meter | None, str]:
    """The meter of this machine, if it has one that may be read; and a line that says what is measured, or why not."""
    if sys.platform == "darwin":
        return None, f"Energy was not measured: {MACOS}."
    packages = [path for path in sorted(POWERCAP.glob("intel-rapl:*")) if name_of(path).startswith("package")]
    if not packages:
        return None, f"Energy was not measured: {POWERCAP} has no counter of the processor's packages."
    try:
        meter = Meter(packages)
    except PermissionError:
        return None, f"Energy was not measured: only root may read the counters in {POWERCAP} here."
    except (OSError, ValueError):
        return None, f"Energy was not measured: the counters in {POWERCAP} cannot be read."
    counted = "one package" if len(packages) == 1 else f"{len(packages)} packages"
    return meter, f"Energy is that of {counted} of the processor (RAPL), with all else that ran there, at rest too."


def name_of(domain: Path) -> str:
    try:
        return (domain / "name").read_text()
    except (OSError, ValueError):
        return ""

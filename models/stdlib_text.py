"""The training text: CPython's standard library, with a few whole files held out for validation."""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path

VALIDATION_PERMILLE = 15


def standard_library_files() -> dict[str, str]:
    """Relative path -> source text of every module, in a stable order."""
    root = Path(sysconfig.get_path("stdlib"))
    sources = {}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        installed = {"site-packages", "dist-packages"} & set(relative.parts)
        # _sysconfigdata describes the build machine and is not part of CPython's sources.
        if installed or relative.name.startswith("_sysconfigdata"):
            continue
        try:
            sources[relative.as_posix()] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # deliberately broken encodings in the test suite
    return sources


def is_validation(relative_path: str) -> bool:
    """Whole files are held out, chosen by a hash of their path so that the split never moves."""
    digest = hashlib.sha256(relative_path.encode()).digest()
    return int.from_bytes(digest[:4], "big") % 1000 < VALIDATION_PERMILLE

"""Programs of the tests in C++, compiled with parts of csrc alone, under sanitizers where these work."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
COMPILER = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
NO_RANDOM_ADDRESSES = ["setarch", "-R"] if shutil.which("setarch") else []  # older sanitizers know few memory layouts


def sanitizer_flags(kind: str, folder: Path) -> list[str]:
    """The flags of a sanitizer ("address,undefined", "thread"), none where it cannot be linked or does not start."""
    flags = [f"-fsanitize={kind}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]
    source, program = folder / "nothing.cpp", folder / "nothing"
    source.write_text("int main() { return 0; }\n")
    built = subprocess.run([COMPILER, *flags, source, "-o", program], capture_output=True, timeout=60)
    works = (
        built.returncode == 0 and not subprocess.run([*NO_RANDOM_ADDRESSES, program], capture_output=True).returncode
    )
    return flags if works else []


def build(program: Path, sources: Iterable[str], flags: Sequence[str] = ()) -> list[str]:
    """Compiles sources, relative to the project, into a program; the words of the command that runs it.

    Skips the test where there is no compiler."""
    if not COMPILER:
        pytest.skip("no C++ compiler")
    command = [COMPILER, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", *flags, f"-I{PROJECT / 'csrc'}"]
    command += [*(str(PROJECT / source) for source in sources), "-o", str(program), "-pthread"]
    built = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr
    sanitized = any(flag.startswith("-fsanitize") for flag in flags)
    return [*(NO_RANDOM_ADDRESSES if sanitized else []), str(program)]

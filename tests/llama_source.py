"""llama.cpp's sources of the pinned release, and what the tests compile of them: kept in the user's cache, as it takes
a while."""

import os
import shutil
import sys
from pathlib import Path

import llama_cpp

from native_build import TOOLS, run

RELEASE = llama_cpp.__version__


def cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "maskprobe-test"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def llama_source(folder: Path) -> Path | str:
    """The sources, fetched by pip into `folder` at first; why not, in one line, where they cannot be had."""
    wanted = cache() / f"llama_cpp_python-{RELEASE}"
    if not wanted.is_dir():
        options = ["--no-deps", "--no-build-isolation", "--no-binary", "llama-cpp-python", "--dest", folder]
        download = [sys.executable, "-m", "pip", "download", "--quiet", *options, f"llama-cpp-python=={RELEASE}"]
        done = run(download, env={**os.environ, "PATH": TOOLS})
        archives = list(folder.glob("llama_cpp_python-*.tar.gz"))
        if done.returncode != 0 or not archives:
            lines = done.stderr.strip().splitlines()
            return f"no sources of llama-cpp-python {RELEASE}: {lines[-1] if lines else 'pip gave a wheel'}"
        shutil.unpack_archive(archives[0], folder, filter="data")
        keep(folder / wanted.name, wanted)
    return wanted / "vendor" / "llama.cpp"


def keep(made: Path, wanted: Path) -> None:
    """Into the cache at once: another run may look there meanwhile."""
    beside = wanted.with_name(f"{wanted.name}.{os.getpid()}")
    shutil.copytree(made, beside, symlinks=True)
    try:
        beside.rename(wanted)
    except OSError:  # another run was first
        shutil.rmtree(beside)

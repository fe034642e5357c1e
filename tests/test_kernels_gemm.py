"""The kernels of quantised products, built by themselves against the installed llama.cpp."""

import os
import shutil
import subprocess
from pathlib import Path

import llama_cpp
import pytest

PROJECT = Path(__file__).parent.parent
PACKAGE = Path(llama_cpp.__file__).parent
CXX_COMPILER = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")


@pytest.mark.skipif(not CXX_COMPILER, reason="no C++ compiler")
def test_quantised_products(tmp_path):
    program = tmp_path / "kernels_gemm"
    csrc = PROJECT / "csrc"
    sources = [PROJECT / "tests" / "kernels_gemm.cpp", *sorted((csrc / "kernels" / "gemm").glob("gemm*.cpp"))]
    include = PACKAGE.parent / "include"
    libraries = [f"-L{PACKAGE / 'lib'}", f"-Wl,-rpath,{PACKAGE / 'lib'}", "-lggml", "-lggml-cpu", "-lggml-base"]
    command = [
        CXX_COMPILER,
        "-O3",
        "-std=c++17",
        "-ffp-contract=off",
        "-Wall",
        "-Wextra",
        f"-I{include}",
        f"-I{csrc}",
        *sources,
        "-o",
        program,
        *libraries,
    ]
    built = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert built.returncode == 0 and not built.stderr, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

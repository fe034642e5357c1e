"""The attention kernels, compiled as they are in the package and put through tests/kernels_attention*.cpp."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
CSRC = PROJECT / "csrc"


def compiler():
    for command in (os.environ.get("CXX"), "c++", "g++"):
        if command and shutil.which(shlex.split(command)[0]):
            return shlex.split(command)
    pytest.skip("no C++ compiler")


@pytest.fixture(scope="module")
def llama():
    """(headers, libraries) of the llama.cpp that llama-cpp-python installed."""
    package = Path(importlib.util.find_spec("llama_cpp").origin).parent
    include, lib = package.parent / "include", package / "lib"
    if not (include / "ggml.h").is_file():
        pytest.skip("llama-cpp-python was installed without headers")
    return include, lib


@pytest.mark.skipif(sys.platform == "win32", reason="compiles with the options of GCC and clang")
def test_kernels(tmp_path, llama):
    include, lib = llama
    program = tmp_path / "kernels_attention"
    sources = sorted(Path(__file__).parent.glob("kernels_attention*.cpp"))
    sources += sorted((CSRC / "kernels" / "attention").glob("attention*.cpp"))
    command = [*compiler(), "-O3", "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{include}", f"-I{CSRC}"]
    command += [str(source) for source in sources]
    command += [f"-L{lib}", "-lggml", "-lggml-base", f"-Wl,-rpath,{lib}", "-o", str(program)]
    if sys.platform == "linux":
        command.append(f"-Wl,-rpath-link,{lib}")
    compiled = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert compiled.returncode == 0, compiled.stderr
    tested = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert tested.returncode == 0, tested.stdout + tested.stderr

"""The drafter (csrc/draft), built by itself with sanitizers and put through the checks of tests/draft_*.cpp."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import llama_cpp
import pytest

PROJECT = Path(__file__).parent.parent
INCLUDE = Path(llama_cpp.__file__).parent.parent / "include"
CXX_COMPILER = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
NO_RANDOM_ADDRESSES = ["setarch", "-R"] if shutil.which("setarch") else []  # older sanitizers know few memory layouts
SOURCES = sorted((PROJECT / "tests").glob("draft_*.cpp"))
CHECKS = [
    name for source in SOURCES for name in re.findall(r"^CHECK\((\w+)\)", source.read_text("utf-8"), re.MULTILINE)
]
OF_THREADS = "threads_share_what_is_known"


def built(directory: Path, checks: list[Path], *options: str) -> Path:
    """The program with these files of checks."""
    if not CXX_COMPILER:
        pytest.skip("no C++ compiler")
    command = [CXX_COMPILER, "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Wno-missing-field-initializers", *options]
    empty = directory / "empty.cpp"
    empty.write_text("int main() { return 0; }\n")
    trial = subprocess.run([*command, empty, "-o", directory / "empty", "-pthread"], capture_output=True, text=True)
    if trial.returncode != 0 or run(directory / "empty").returncode != 0:
        pytest.skip(f"the compiler's {' '.join(options)} does not work here")
    program = directory / "draft_checks"
    sources = [*checks, *sorted((PROJECT / "csrc" / "draft").glob("*.cpp"))]
    includes = [f"-I{PROJECT / 'csrc'}", f"-I{PROJECT / 'tests'}", f"-I{INCLUDE}"]
    done = subprocess.run([*command, *includes, *sources, "-o", program, "-pthread"], capture_output=True, text=True)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    return program


def run(program: Path, *names: str) -> subprocess.CompletedProcess[str]:
    command = [*NO_RANDOM_ADDRESSES, program, *names]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Under the sanitizers of addresses and of undefined behaviour."""
    options = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    return built(tmp_path_factory.mktemp("draft"), SOURCES, *options)


@pytest.mark.parametrize("name", CHECKS)
def test_draft(program, name):
    done = run(program, name)
    assert done.returncode == 0, done.stderr


def test_a_check_that_is_not_there_fails(program):
    assert run(program, "no_such_check").returncode == 2


def test_knowledge_under_the_thread_sanitizer(tmp_path):
    checks = [PROJECT / "tests" / f"draft_{name}.cpp" for name in ("checks", "keeping", "masks")]
    done = run(built(tmp_path, checks, "-fsanitize=thread"), OF_THREADS)
    assert done.returncode == 0 and "ThreadSanitizer" not in done.stderr, done.stderr

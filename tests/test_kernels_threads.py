"""The worker pool and the backend under the thread sanitizer, built by themselves against the installed llama.cpp."""

import os
import shutil
import subprocess
from pathlib import Path

import llama_cpp
import pytest

PROJECT = Path(__file__).parent.parent
CSRC = PROJECT / "csrc"
PACKAGE = Path(llama_cpp.__file__).parent
CXX_COMPILER = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
NO_RANDOM_ADDRESSES = ["setarch", "-R"] if shutil.which("setarch") else []  # older sanitizers know few memory layouts


def build(program, sources):
    lib = PACKAGE / "lib"
    libraries = [f"-L{lib}", f"-Wl,-rpath,{lib}", "-lggml", "-lggml-cpu", "-lggml-base", "-pthread"]
    includes = [f"-I{PACKAGE.parent / 'include'}", f"-I{CSRC}"]
    command = [CXX_COMPILER, "-std=c++17", "-O1", "-g", "-fsanitize=thread", *includes]
    command += [str(source) for source in sources]
    return subprocess.run([*command, "-o", str(program), *libraries], capture_output=True, text=True, check=False)


def run(program):
    return subprocess.run([*NO_RANDOM_ADDRESSES, str(program)], capture_output=True, text=True, timeout=300)


@pytest.fixture
def sanitizer(tmp_path):
    """Skips where the compiler has no thread sanitizer, or one that does not start on this system."""
    if not CXX_COMPILER:
        pytest.skip("no C++ compiler")
    source = tmp_path / "empty.cpp"
    source.write_text("int main() { return 0; }\n")
    built = build(tmp_path / "empty", [source])
    if built.returncode != 0:
        pytest.skip(f"no thread sanitizer: {built.stderr.splitlines()[-1]}")
    done = run(tmp_path / "empty")
    if done.returncode != 0:
        pytest.skip(f"the thread sanitizer does not start: {(done.stderr.splitlines() or [''])[0]}")


def test_no_races(sanitizer, tmp_path):
    sources = [PROJECT / "tests" / "kernels_threads.cpp", *sorted((CSRC / "kernels").glob("*/*.cpp"))]
    sources += [CSRC / "platform" / name for name in ("worker_pool.cpp", "core_placement.cpp", "thread_count.cpp")]
    built = build(tmp_path / "threads", sources)
    assert built.returncode == 0, built.stderr
    done = run(tmp_path / "threads")
    assert done.returncode == 0 and "ThreadSanitizer" not in done.stderr, done.stderr


def test_the_sanitizer_would_see_one(sanitizer, tmp_path):
    source = tmp_path / "race.cpp"
    source.write_text("#include <thread>\nint n;\nint main() { std::thread t([] { n++; }); n++; t.join(); }\n")
    assert build(tmp_path / "race", [source]).returncode == 0
    assert "data race" in run(tmp_path / "race").stderr

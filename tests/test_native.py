"""The core as C and C++ programs see it: builds without Python, the examples, one copy of llama.cpp, sanitizers."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import pytest

import maskprobe
from bad_files import bad_files
from native_build import C_COMPILER, CMAKE, PROJECT, build, compile_c, configure, llama_prefix, run

EXAMPLES = PROJECT / "examples"
ONE_THREAD = {**os.environ, "OMP_THREAD_LIMIT": "1"}
PROMPTS = (
    "import os\n\ndef read_lines(path):\n",
    "class Stack:\n    def __init__(self):\n",
    "def add(a, b):\n    return a + b\n\ndef sub(a, b):\n",
    "for i in range(10):\n",
)

pytestmark = pytest.mark.skipif(not C_COMPILER, reason="no C compiler")


@dataclass
class Installation:
    """Where the core is installed, and what programs on top of it need beside the flags of pkg-config."""

    prefix: Path
    flags: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()


@pytest.fixture(scope="session", params=["wheel", "static", "shared"])
def installation(request) -> Installation:
    """By pip; without Python as an archive, under AddressSanitizer; and as a shared library, under ThreadSanitizer."""
    if request.param == "wheel":
        return Installation(maskprobe.prefix())
    kind = "address" if request.param == "static" else "thread"
    made = request.getfixturevalue("sanitized_build")(kind)
    return Installation(made.prefix, made.flags, made.launcher)


@pytest.fixture(scope="session")
def examples(installation, tmp_path_factory):
    """The examples, compiled with what pkg-config prints: run(name, arguments)."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("complete", "many"):
        compile_c(EXAMPLES / f"{name}.c", folder / name, installation.prefix, *installation.flags)
    return lambda name, *arguments: run([*installation.launcher, folder / name, *arguments], env=ONE_THREAD)


@pytest.fixture(scope="session")
def command_line_text(bundled_model_path):
    """What maskprobe-run makes of a prompt."""

    def text(prompt: str, n: int) -> str:
        command = [sys.executable, "-m", "maskprobe.cli.run", "-m", bundled_model_path, "-p", prompt]
        done = run([*command, "--temp", "0", "-n", str(n), "-no-cnv", "--no-state"], env=ONE_THREAD)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return text


def test_complete_prints_what_the_command_prints(examples, bundled_model_path, command_line_text):
    for prompt in PROMPTS[:2]:
        done = examples("complete", bundled_model_path, prompt, "40")
        assert done.returncode == 0, done.stderr
        assert done.stdout == command_line_text(prompt, 40)
        assert float(re.fullmatch(r"\n([\d.]+) tokens per pass\n", done.stderr)[1]) >= 1


def test_complete_tells_what_is_wrong_in_one_line(examples, tmp_path):
    done = examples("complete", tmp_path / "missing.gguf", "x")
    assert done.returncode == 1 and done.stdout == "" and re.fullmatch(r"error: .*missing\.gguf.*\n", done.stderr)


def test_many_prints_each_prompts_own_text(examples, bundled_model_path):
    done = examples("many", bundled_model_path, *PROMPTS)
    assert done.returncode == 0, done.stderr
    alone = [examples("complete", bundled_model_path, prompt, "64").stdout for prompt in PROMPTS]
    answers = [f"{i}: {text}\n" for i, text in enumerate(alone, 1)]
    assert len(set(alone)) > 1 and len(done.stdout) == sum(len(answer) for answer in answers)
    assert all(answer in done.stdout for answer in answers)


def test_one_interrupt_ends_the_text(installation, tiny_model_path, tmp_path):
    """Long before the context is full."""
    program = tmp_path / "complete"
    compile_c(EXAMPLES / "complete.c", program, installation.prefix, *installation.flags)
    model = tiny_model_path("tiny-llama", weight_type="q8_0", n_ctx=20000)
    command = [*installation.launcher, program, model, "abc", "100000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}
    with subprocess.Popen(command, env=ONE_THREAD, **pipes) as running:
        text = running.stdout.read(1)
        running.send_signal(signal.SIGINT)
        rest, errors = running.communicate(timeout=120)
    text += rest
    assert running.returncode == 0 and re.fullmatch(rb"(\n[\d.]+ tokens per pass\n)?", errors), errors
    first = run([*command[:-1], "50"], env=ONE_THREAD).stdout.encode("utf-8", "surrogateescape")
    assert 1 <= len(text) < 10_000 and (text.startswith(first) or first.startswith(text))


@pytest.mark.skipif(not CMAKE, reason="no cmake")
def test_cmake_finds_the_package(installation, tmp_path):
    flags = " ".join(installation.flags)
    build(tmp_path, f"-DCMAKE_PREFIX_PATH={installation.prefix}", f"-DCMAKE_C_FLAGS={flags}", source=EXAMPLES)
    done = run([*installation.launcher, tmp_path / "complete"], env=ONE_THREAD)
    assert done.returncode == 2 and "usage" in done.stderr


@pytest.mark.skipif(not CMAKE, reason="no cmake")
class TestWhatIsRefused:
    def test_another_version(self, tmp_path):
        prefix = llama_prefix(tmp_path / "prefix")
        version = prefix / "lib" / "cmake" / "ggml" / "ggml-config-version.cmake"
        version.write_text(re.sub(r'(PACKAGE_VERSION ")[\d.]+', r"\g<1>7.8.9", version.read_text()))
        made = configure(tmp_path / "build", f"-DMASKPROBE_LLAMA_DIR={prefix}")
        words = " ".join(made.stderr.split())
        pinned = re.search(
            r"set\(MASKPROBE_GGML_VERSION ([\d.]+)\)", (PROJECT / "cmake" / "llama_cpp.cmake").read_text()
        )[1]
        assert made.returncode != 0 and f"with ggml {pinned}, but" in words and "with ggml 7.8.9: install" in words

    def test_a_folder_without_llama_cpp(self, tmp_path):
        made = configure(tmp_path / "build", f"-DMASKPROBE_LLAMA_DIR={tmp_path}")
        assert made.returncode != 0 and f"MASKPROBE_LLAMA_DIR = {tmp_path}" in " ".join(made.stderr.split())

    def test_an_unknown_sanitizer(self, tmp_path):
        prefix = llama_prefix(tmp_path / "prefix")
        made = configure(tmp_path / "build", f"-DMASKPROBE_LLAMA_DIR={prefix}", "-DMASKPROBE_SANITIZE=memory")
        assert made.returncode != 0 and "neither address nor thread" in " ".join(made.stderr.split())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_there_is_one_copy_of_llama_cpp(tiny_model_path):
    code = "import maskprobe, sys; maskprobe.Model(sys.argv[1]); print(open('/proc/self/maps').read())"
    maps = run([sys.executable, "-c", code, tiny_model_path("tiny-llama")], env=ONE_THREAD).stdout
    libraries = {line.split()[-1] for line in maps.splitlines() if ".so" in line}
    for name in ("libllama.so", "libggml.so", "libggml-base.so", "libggml-cpu.so"):
        loaded = [Path(path) for path in libraries if Path(path).name.startswith(name)]
        assert len(loaded) == 1, loaded
        assert loaded[0].parent.samefile(Path(llama_cpp.__file__).parent / "lib")


def test_the_core_is_clean_under_sanitizers(sanitized_build, tiny_model_path, tmp_path):
    files = []
    for i, bad in enumerate(bad_files()):
        path = tmp_path / f"bad-{i}.gguf"
        path.write_bytes(bad.data)
        files.append(path)
    program = sanitized_build("address").folder / "core_exercise"
    done = run([program, tiny_model_path("tiny-llama"), tmp_path / "missing", tmp_path, *files], env=ONE_THREAD)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == "ok"


def test_the_engine_has_no_races(sanitized_build, tiny_model_path, tmp_path):
    """Generations from four threads while another one steps, and two engines on one model."""
    made = sanitized_build("thread")
    model = tiny_model_path("tiny-llama", weight_type="q8_0")
    done = run([*made.launcher, made.folder / "engine_threads", model, tmp_path / "state"], env=ONE_THREAD, timeout=500)
    assert done.returncode == 0 and done.stdout.strip() == "ok", done.stdout + done.stderr
    assert "ThreadSanitizer" not in done.stderr, done.stderr

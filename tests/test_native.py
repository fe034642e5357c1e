"""The core as C and C++ programs see it: header, linking, one copy of llama.cpp, sanitizers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import llama_cpp
import pytest

import maskprobe
from bad_files import bad_files

PROJECT = Path(__file__).parent.parent
LIB = maskprobe.prefix() / "lib"
C_COMPILER = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.skipif(not C_COMPILER, reason="no C compiler")


def run(command, **settings):
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        **settings,
    )


def pkg_config_flags() -> list[str]:
    """What `pkg-config --cflags --libs maskprobe` prints, read from the file itself: pkg-config may not be there."""
    folder = LIB / "pkgconfig"
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


def test_the_c_example_completes_a_prompt(tmp_path, tiny_model_path):
    program = tmp_path / "complete"
    source = PROJECT / "examples" / "complete.c"
    built = run([C_COMPILER, "-std=c11", "-Wall", "-Wextra", "-Werror", source, "-o", program, *pkg_config_flags()])
    assert built.returncode == 0, built.stderr
    path = tiny_model_path("tiny-llama")
    done = run([program, path, "one two three"], env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    model = maskprobe.Model(path)
    engine = maskprobe.Engine(model, n_ctx=512, n_threads=1)
    sampling = maskprobe.SamplingParams(temp=0.0)
    results = engine.generate(model.tokenize("one two three"), sampling, max_tokens=64)
    tokens = [r.token for r in results if not model.is_end(r.token)]
    assert done.stdout.encode("utf-8", "surrogateescape") == model.detokenize(tokens)
    wrong = run([program, tmp_path / "missing.gguf", "x"])
    assert wrong.returncode == 1 and wrong.stderr.count("\n") == 1


def test_cmake_finds_the_package(tmp_path):
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not cmake:
        pytest.skip("no cmake")
    (tmp_path / "main.c").write_text("#include <maskprobe.h>\nint main(void) { return mp_version()[0] == 0; }\n")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\nproject(app C)\nfind_package(maskprobe 0.1 REQUIRED)\n"
        "add_executable(app main.c)\ntarget_link_libraries(app maskprobe::maskprobe)\n"
    )
    build = tmp_path / "build"
    made = run([cmake, "-S", tmp_path, "-B", build, f"-DCMAKE_PREFIX_PATH={maskprobe.prefix()}"])
    assert made.returncode == 0, made.stderr
    made = run([cmake, "--build", build])
    assert made.returncode == 0, made.stdout + made.stderr
    assert run([build / "app"]).returncode == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_there_is_one_copy_of_llama_cpp(tiny_model_path):
    code = "import maskprobe, sys; maskprobe.Model(sys.argv[1]); print(open('/proc/self/maps').read())"
    maps = run([sys.executable, "-c", code, tiny_model_path("tiny-llama")], env=ONE_THREAD).stdout
    libraries = {line.split()[-1] for line in maps.splitlines() if ".so" in line}
    for name in ("libllama.so", "libggml.so", "libggml-base.so", "libggml-cpu.so"):
        loaded = [Path(path) for path in libraries if Path(path).name.startswith(name)]
        assert len(loaded) == 1, loaded
        assert loaded[0].parent.samefile(Path(llama_cpp.__file__).parent / "lib")


@pytest.fixture(scope="module")
def sanitized_program(tmp_path_factory):
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cmake = shutil.which("cmake", path=tools)
    if not cmake or not sys.platform.startswith("linux"):
        pytest.skip("no cmake, or not Linux")
    build = tmp_path_factory.mktemp("sanitized")
    site_packages = Path(llama_cpp.__file__).parent.parent
    options = ["-DMASKPROBE_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-O1"]
    made = run([cmake, "-S", PROJECT, "-B", build, *options, f"-DCMAKE_PREFIX_PATH={site_packages}"])
    assert made.returncode == 0, made.stderr
    made = run([cmake, "--build", build, "--parallel", "2"])
    assert made.returncode == 0, made.stdout + made.stderr
    return build / "core_exercise"


def test_the_core_is_clean_under_sanitizers(sanitized_program, tiny_model_path, tmp_path):
    files = []
    for i, bad in enumerate(bad_files()):
        path = tmp_path / f"bad-{i}.gguf"
        path.write_bytes(bad.data)
        files.append(path)
    done = run(
        [sanitized_program, tiny_model_path("tiny-llama"), tmp_path / "missing", tmp_path, *files], env=ONE_THREAD
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == "ok"

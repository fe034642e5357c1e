"""packaging/android: the native methods and the Kotlin classes on top of them, on this machine's Java; what the NDK and
Gradle are given. Nothing here runs on Android.

The PyPI package kotlin-jupyter-kernel brings a Kotlin compiler and the library of coroutines as JAR files."""

import importlib.metadata
import os
import platform
import re
import shutil
import urllib.parse
from pathlib import Path

import llama_cpp
import pytest

import maskprobe
from native_build import CMAKE, PROJECT, configure, pkg_config_flags, run

ANDROID = PROJECT / "packaging" / "android"
JNI = ANDROID / "src" / "main" / "cpp" / "maskprobe_jni.cpp"
JAVA = sorted(ANDROID.glob("src/main/java/**/*.java"))
KOTLIN = sorted(ANDROID.glob("src/main/kotlin/**/*.kt"))
DRIVERS = PROJECT / "tests" / "apps"
JAVAC = shutil.which("javac")
CXX_COMPILER = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
CROSS_COMPILER = shutil.which("aarch64-linux-gnu-g++")
ENVIRONMENT = {
    **os.environ,
    "LC_ALL": "C.UTF-8",
    "LD_LIBRARY_PATH": str(Path(llama_cpp.__file__).parent / "lib"),  # also where maskprobe is installed elsewhere
    "OMP_THREAD_LIMIT": "1",
}
WARNINGS = ["-std=c++17", "-Wall", "-Wextra", "-Werror"]

PROMPT = "import os\n\ndef read_lines(path):\n"
STATUS = {"argument": 1, "file": 2, "state": 11}


def jni_includes() -> list[str]:
    """Of the JDK that javac is part of."""
    include = Path(JAVAC).resolve().parents[1] / "include"
    return [f"-I{include}", *(f"-I{folder}" for folder in include.iterdir() if folder.is_dir())]


def jars() -> list[Path]:
    """The Kotlin compiler with the library of coroutines, and Kotlin's own library."""
    try:
        files = importlib.metadata.files("kotlin-jupyter-kernel") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package kotlin-jupyter-kernel, which brings a Kotlin compiler, is not installed")
    found = [
        Path(file.locate())
        for file in files
        if re.search(r"/(kotlin-jupyter-kernel.*-all|kotlin-stdlib-[\d.].*)\.jar$", str(file))
    ]
    assert len(found) == 2, found
    return sorted(found)


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> Path:
    """The compiled Java files, and a header with what their native methods must look like in C."""
    if not JAVAC:
        pytest.skip("no javac")
    folder = tmp_path_factory.mktemp("classes")
    sources = [*JAVA, DRIVERS / "DriveNative.java"]
    made = run([JAVAC, "-encoding", "UTF-8", "-Xlint:all,-serial", "-Werror", "-h", folder, "-d", folder, *sources])
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


@pytest.fixture(scope="module")
def library(classes) -> Path:
    """The native methods over the installed core; the declarations that javac wrote come first."""
    target = classes / "libmaskprobe_jni.so"
    options = [*WARNINGS, "-shared", "-fPIC", "-include", classes / "org_maskprobe_Native.h", *jni_includes()]
    made = run([CXX_COMPILER, *options, JNI, "-o", target, *pkg_config_flags(maskprobe.prefix())])
    assert made.returncode == 0, made.stderr
    return target


@pytest.fixture(scope="module")
def answers(library, bundled_model_path, expected):
    """answers(classpath, class): what a driver says, by name."""

    def drive(classpath, name):
        words = [
            "-Djava.library.path=" + str(library.parent),
            "-Xcheck:jni",
            "-cp",
            os.pathsep.join(map(str, classpath)),
        ]
        done = run(["java", *words, name, bundled_model_path, PROMPT, expected[1]], env=ENVIRONMENT, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WARNING" not in done.stdout and "FATAL" not in done.stdout, done.stdout  # of -Xcheck:jni
        said: dict[str, list[str]] = {}
        for line in done.stdout.splitlines():
            key, _, value = line.partition("=")
            said.setdefault(key, []).append(urllib.parse.unquote_plus(value))
        return said

    return drive


@pytest.fixture(scope="module")
def expected(bundled_model_path) -> tuple[str, str]:
    """What plain decoding says after the prompt; a string in the middle of it to stop at."""
    model = maskprobe.Model(bundled_model_path)
    engine = maskprobe.Engine(model, n_ctx=512, n_threads=1, proposer="none")
    sampling = maskprobe.SamplingParams(temp=0)
    text = "".join(t.text for t in engine.generate(model.tokenize(PROMPT), sampling, max_tokens=40))
    assert len(text) > 40
    return text, text[20:24]


def test_native_methods(answers, expected, bundled_model_path, library):
    said = answers([library.parent], "org.maskprobe.DriveNative")
    text, stop = expected
    model = maskprobe.Model(bundled_model_path)
    info = model.info
    assert said["described"] == [info.description, info.kernels, info.kernels_reason, info.note]
    assert said["prompt"] == [str(len(model.tokenize(PROMPT)))]
    assert said["characters"] == [str(len(model.tokenize("\N{GRINNING FACE}", add_special=False)))]
    assert said["text"] == [text] and said["stopped"] == [text[: text.index(stop)]]
    assert said["finish"] == ["2", "1", "5"]  # the length, the stop string, cancelled
    n_prompt, n_gen, n_drafted, n_accepted, n_passes = map(int, said["stats"])
    assert n_prompt == len(model.tokenize(PROMPT)) and n_gen == 40
    assert n_passes < n_gen <= 1 + n_passes + n_accepted and n_accepted <= n_drafted  # the last pass may have more
    missing, nul, empty, stop_nul, no_model = said["refused"]
    assert missing.startswith(f"{STATUS['file']} ") and f"{bundled_model_path}.missingé" in missing
    assert nul == f"{STATUS['argument']} the path of a model must not contain a NUL character"
    assert empty == f"{STATUS['argument']} a prompt of 0 tokens: it needs one at least"
    assert stop_nul == f"{STATUS['argument']} a stop string must not contain a NUL character"
    assert no_model.startswith(f"{STATUS['argument']} ")


@pytest.fixture(scope="module")
def kotlin_classes(classes, tmp_path_factory) -> list[Path]:
    """The class path of the Kotlin classes and their driver."""
    folder = tmp_path_factory.mktemp("kotlin")
    path = [classes, *jars()]
    options = ["-no-stdlib", "-no-reflect", "-jvm-target", "17", "-Werror", "-d", folder]
    compiler = ["java", "-cp", os.pathsep.join(map(str, jars())), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    sources = [*KOTLIN, DRIVERS / "DriveEngine.kt"]
    made = run([*compiler, *options, "-classpath", os.pathsep.join(map(str, path)), *sources])
    assert made.returncode == 0, made.stdout + made.stderr
    return [folder, *path]


def test_kotlin_classes(kotlin_classes, answers, expected, bundled_model_path):
    """Flows beside each other, ended early, refused; the engine closed while one goes on."""
    said = answers(kotlin_classes, "org.maskprobe.DriveEngineKt")
    text = expected[0]
    assert said["kernels"] == [maskprobe.Model(bundled_model_path).info.kernels] and said["context"] == ["512"]
    assert said["text"] == said["plain"] == said["beside"] == said["after"] == [text]
    n_gen, n_passes, n_accepted = map(int, said["stats"][0].strip("[]").split(","))
    assert n_gen == 40 and n_passes < n_gen <= 1 + n_passes + n_accepted
    assert said["finish"] == ["[0, 2]"] and said["taken"] == ["3"] and said["late"] == ["5"]
    missing, empty, temperature, grammar, closed, closed_model = said["refused"]
    assert missing.startswith(f"{STATUS['file']} ") and "missing" in missing
    assert empty == f"{STATUS['argument']} a prompt of 0 tokens: it needs one at least"
    assert temperature.startswith(f"{STATUS['argument']} ") and "temp" in temperature
    assert grammar.startswith(f"{STATUS['argument']} ") and "grammar" in grammar
    assert closed == "this engine is closed" and closed_model == "this model is closed"


def test_native_methods_compile_for_64_bit_arm(classes, tmp_path):
    if not CROSS_COMPILER or platform.machine() in ("aarch64", "arm64"):
        pytest.skip("no aarch64-linux-gnu-g++, or this is an ARM machine")
    made = run(
        [
            CROSS_COMPILER,
            *WARNINGS,
            "-O2",
            "-fPIC",
            "-c",
            "-include",
            classes / "org_maskprobe_Native.h",
            f"-I{PROJECT / 'csrc'}",
            *jni_includes(),
            JNI,
            "-o",
            tmp_path / "jni.o",
        ]
    )
    assert made.returncode == 0, made.stderr


# --- what the NDK and Gradle are given -------------------------------------------------------------------------------


def write_sources(folder: Path, llama=(0, 5, 0), ggml=(0, 25, 3)) -> Path:
    """What stands for llama.cpp's sources: its versions and the names of its libraries."""
    for prefix, version, place, library, rest in (
        ("LLAMA", llama, folder, "llama", "add_subdirectory(ggml)"),
        ("GGML", ggml, folder / "ggml", "ggml", "add_library(ggml-base nothing.c)"),
    ):
        place.mkdir(parents=True)
        numbers = "".join(
            f"set({prefix}_VERSION_{part} {n})\n" for part, n in zip(("MAJOR", "MINOR", "PATCH"), version, strict=True)
        )
        head = f"cmake_minimum_required(VERSION 3.14...3.28)\nproject({library} C CXX)\n"
        place.joinpath("CMakeLists.txt").write_text(f"{head}{numbers}add_library({library} nothing.c)\n{rest}\n")
        place.joinpath("nothing.c").write_text("int nothing(void) { return 0; }\n")
    return folder


@pytest.mark.skipif(not CMAKE, reason="no cmake")
def test_the_preset_for_the_ndk(tmp_path):
    """A toolchain file of our own in the NDK's place writes down what the NDK's would go by."""
    toolchain = tmp_path / "ndk" / "build" / "cmake" / "android.toolchain.cmake"
    toolchain.parent.mkdir(parents=True)
    toolchain.write_text(
        "if(ANDROID_ABI)\n"  # not in the small builds by which CMake tries a compiler
        f'file(WRITE {tmp_path}/asked "${{ANDROID_ABI}} ${{ANDROID_PLATFORM}} ${{ANDROID_STL}}")\n'
        "endif()\n"
    )
    sources = write_sources(tmp_path / "llama.cpp")
    environment = {**os.environ, "ANDROID_NDK": str(tmp_path / "ndk"), "MASKPROBE_LLAMA_SOURCE": str(sources)}
    made = run([CMAKE, "--preset", "android-arm64", "-S", PROJECT, "-B", tmp_path / "build"], env=environment)
    assert made.returncode == 0, made.stderr
    api = re.search(r"minSdk = (\d+)", ANDROID.joinpath("build.gradle.kts").read_text("utf-8"))[1]
    assert tmp_path.joinpath("asked").read_text() == f"arm64-v8a android-{api} c++_static"
    cache = (tmp_path / "build" / "CMakeCache.txt").read_text()
    assert (
        f"MASKPROBE_LLAMA_SOURCE:UNINITIALIZED={sources}" in cache or f"MASKPROBE_LLAMA_SOURCE:PATH={sources}" in cache
    )


@pytest.mark.skipif(not CMAKE, reason="no cmake")
@pytest.mark.parametrize(
    "versions, message",
    [
        (
            {"llama": (0, 6, 0)},
            r"made for llama\.cpp 0\.5\.0 with ggml 0\.25\.3, but .* is of llama\.cpp 0\.6\.0 with ggml 0\.25\.3",
        ),
        ({"ggml": (1, 0, 0)}, r"but .* is of llama\.cpp 0\.5\.0 with ggml 1\.0\.0"),
        (None, r"there are no sources of llama\.cpp in MASKPROBE_LLAMA_SOURCE = "),
    ],
    ids=["llama", "ggml", "none"],
)
def test_other_sources_are_refused(tmp_path, versions, message):
    sources = write_sources(tmp_path / "sources", **versions) if versions is not None else tmp_path
    made = configure(tmp_path / "build", f"-DMASKPROBE_LLAMA_SOURCE={sources}")
    assert made.returncode != 0 and re.search(message, " ".join(made.stderr.split())), made.stderr


def test_what_native_code_looks_up_by_name_is_kept():
    """R8 renames and drops what no Java code uses."""
    kept = re.findall(r"-keep class ([\w.]+)", ANDROID.joinpath("consumer-rules.pro").read_text("utf-8"))
    looked_up = re.findall(r'find_class\(env, "(org/\w+/\w+)"', JNI.read_text("utf-8"))
    assert looked_up and {name.replace("/", ".") for name in looked_up} <= set(kept)
    assert "org.maskprobe.Native" in kept

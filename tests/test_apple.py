"""packaging/apple and the core for macOS, as far as another system can tell: what the Swift files use of maskprobe.h,
their syntax, the classes themselves where there is a Swift compiler, the core compiled for macOS, and the script that
makes the XCFramework, with stand-ins for Apple's tools.

PyPI packages: ziglang has a C++ compiler with macOS' headers, tree-sitter-swift a grammar."""

import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llama_cpp
import pytest

import maskprobe
from maskprobe._capi import ffi, lib
from native_build import PROJECT, run

APPLE = PROJECT / "packaging" / "apple"
SWIFT = sorted(APPLE.glob("Sources/Maskprobe/*.swift"))
PROGRAMS = [*APPLE.glob("Sources/maskprobe-chat/*.swift"), APPLE / "Package.swift", *PROJECT.glob("tests/apps/*.swift")]
SWIFT_COMPILER = shutil.which("swiftc")
LLAMA = Path(llama_cpp.__file__).resolve().parent
CACHE = Path.home() / ".cache" / "maskprobe-test" / "zig"  # compiled files by their content

PROMPT = "import os\n\ndef read_lines(path):\n"


def without_comments(path: Path) -> str:
    return re.sub(r"//.*", "", path.read_text("utf-8"))


# --- what the Swift files use of the header --------------------------------------------------------------------------


def arguments_of(source: str, start: int) -> list[str]:
    """Of a call whose opening bracket is at `start`."""
    depth, parts = 0, [""]
    for c in source[start:]:
        depth += c in "([{"
        depth -= c in ")]}"
        if depth == 0:
            break
        if c == "," and depth == 1:
            parts.append("")
        elif depth > 1 or c not in "([{":
            parts[-1] += c
    return [part.strip() for part in parts if part.strip()]


def wrong_uses(source: str) -> list[str]:
    """Functions, constants, types and fields that maskprobe.h does not have as they are used."""
    wrong = []
    for match in re.finditer(r"\b(mp_\w+)(\()?", source):
        name, bracket = match.groups()
        if hasattr(lib, name):
            n = len(arguments_of(source, match.end() - 1)) if bracket else -1
            if n != len(ffi.typeof(getattr(lib, name)).args):
                wrong.append(f"{name} with {n} arguments")
        elif name not in TYPES:
            wrong.append(name)
    wrong += [name for name in re.findall(r"\bMP_\w+", source) if not hasattr(lib, name)]
    made = re.findall(r"var (\w+) = (mp_\w+)\(\)", source)
    made += re.findall(r"\b(\w+): (mp_\w+)\)", source)  # a parameter
    for variable, maker in made:
        kind = ffi.typeof(getattr(lib, maker)).result if hasattr(lib, maker) else ffi.typeof(maker)
        fields = [name for name, _ in kind.fields or ()] if kind.kind == "struct" else ["rawValue"]
        for field in re.findall(rf"\b{variable}\.(\w+)", source):
            if field not in fields:
                wrong.append(f"{variable}.{field} of {maker}")
    return wrong


TYPES = {name for names in ffi.list_types() for name in names}


@pytest.mark.parametrize("path", SWIFT, ids=lambda path: path.name)
def test_swift_uses_what_the_header_has(path):
    assert not wrong_uses(without_comments(path))


def test_wrong_uses_are_found():
    assert wrong_uses("mp_model_close(model)") == ["mp_model_close"]
    assert wrong_uses("try check(mp_tokenize(handle, f(a, b), 1))") == ["mp_tokenize with 3 arguments"]
    assert wrong_uses("MP_FINISHED") == ["MP_FINISHED"]
    assert wrong_uses("var p = mp_context_default_params()\np.n_ctx = 1\np.n_cells = 1") == [
        "p.n_cells of mp_context_default_params"
    ]
    assert not wrong_uses("var n = mp_stats()\nmp_generation_get_stats(handle, &n)\nprint(n.n_gen)")


def test_enumerations_have_the_numbers_of_the_header():
    """Swift's own ones count on from 1."""
    kinds = re.search(
        r"enum Kind: .*?\{(.*?)\}", without_comments(APPLE / "Sources/Maskprobe/MaskprobeError.swift"), re.S
    )
    names = [name for name in re.findall(r"\w+", kinds[1].replace("case", "").replace("= 1", ""))]
    other_names = {"CONTEXT_FULL": "contextFull", "INTERNAL": "internalFailure"}
    numbers = ffi.typeof("mp_status").relements
    errors = {name.removeprefix("MP_ERR_"): n for name, n in numbers.items() if name.startswith("MP_ERR_")}
    assert {other_names.get(name, name.lower()): n for name, n in errors.items()} == {
        name: n for n, name in enumerate(names, 1)
    }
    finishes = re.search(
        r"enum Finish: .*?case (.*?)\n", without_comments(APPLE / "Sources/Maskprobe/Generation.swift"), re.S
    )
    names = re.findall(r"[a-z]\w*", finishes[1])
    numbers = ffi.typeof("mp_finish").relements
    assert {name.removeprefix("MP_FINISH_").lower(): n for name, n in numbers.items() if n} == {
        name: n for n, name in enumerate(names, 1)
    }


@pytest.mark.parametrize("path", [*SWIFT, *PROGRAMS], ids=lambda path: path.name)
def test_syntax_of_swift(path):
    parser = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip("tree_sitter_swift")
    tree = parser.Parser(parser.Language(grammar.language())).parse(path.read_bytes())
    wrong = []
    nodes = [tree.root_node]
    while nodes:
        node = nodes.pop()
        if node.type == "ERROR" or node.is_missing:
            wrong.append(f"line {node.start_point[0] + 1}: {node.text[:60]!r}")
        nodes += node.children
    assert not wrong


# --- the classes, where there is a Swift compiler --------------------------------------------------------------------


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    """tests/apps/drive.swift on top of the classes and the installed core."""
    if not SWIFT_COMPILER:
        pytest.skip("no swiftc")
    folder = tmp_path_factory.mktemp("swift")
    prefix = maskprobe.prefix()
    options = ["-warnings-as-errors", "-parse-as-library", "-I", APPLE / "Sources" / "CMaskprobe", "-I", folder]
    options += ["-Xcc", f"-I{prefix / 'include'}", "-L", prefix / "lib", "-lmaskprobe"]
    for library in (prefix / "lib", folder):
        options += ["-Xlinker", "-rpath", "-Xlinker", library]
    if sys.platform.startswith("linux"):
        options += ["-Xlinker", "--allow-shlib-undefined"]
    module = [
        "-emit-library",
        "-emit-module",
        "-module-name",
        "Maskprobe",
        "-emit-module-path",
        folder / "Maskprobe.swiftmodule",
    ]
    made = run([SWIFT_COMPILER, *module, *options, *SWIFT, "-o", folder / "libMaskprobeSwift.so"])
    assert made.returncode == 0, made.stderr
    for name, source in (
        ("drive", PROJECT / "tests/apps/drive.swift"),
        ("chat", APPLE / "Sources/maskprobe-chat/Chat.swift"),
    ):
        made = run([SWIFT_COMPILER, *options, "-L", folder, "-lMaskprobeSwift", source, "-o", folder / name])
        assert made.returncode == 0, made.stderr
    return folder / "drive"


def test_swift_classes(driver, bundled_model_path):
    """Sequences beside each other, ended early in three ways, refused; the engine closed while one goes on."""
    model = maskprobe.Model(bundled_model_path)
    engine = maskprobe.Engine(model, n_ctx=512, n_threads=1, proposer="none")
    sampling = maskprobe.SamplingParams(temp=0)
    text = "".join(t.text for t in engine.generate(model.tokenize(PROMPT), sampling, max_tokens=40))
    stop = text[20:24]
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1", "LD_LIBRARY_PATH": str(LLAMA / "lib")}
    done = run([driver, bundled_model_path, PROMPT, stop], env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        said.setdefault(key, []).append(urllib.parse.unquote(value))
    info = model.info
    assert said["described"] == ["|".join([info.description, info.kernels, info.kernels_reason, info.note])]
    assert said["characters"] == [str(len(model.tokenize("\N{GRINNING FACE}", add_special=False)))]
    assert said["context"] == ["512"]
    assert said["text"] == said["plain"] == said["beside"] == said["after"] == [text]
    assert said["stopped"] == [text[: text.index(stop)]]
    n_prompt, n_gen, n_drafted, n_accepted, n_passes = map(int, said["stats"][0].strip("[]").split(","))
    assert (n_prompt, n_gen) == (len(model.tokenize(PROMPT)), 40)
    assert n_passes < n_gen <= 1 + n_passes + n_accepted and n_accepted <= n_drafted  # the last pass may have more
    assert said["finish"] == said["late"] == ["5"]
    missing, nul, cancelled, empty, temperature, grammar, closed = said["refused"]
    assert missing.startswith("2 ") and f"{bundled_model_path}.missingé" in missing
    assert nul == "1 the path of a model must not contain a NUL character"
    assert cancelled.startswith("7 ") and empty == "1 a prompt of 0 tokens: it needs one at least"
    assert temperature.startswith("1 ") and grammar.startswith("1 ") and closed == "11 this engine is closed"


# --- the core for macOS ----------------------------------------------------------------------------------------------

PARTS = sorted({path.parent for path in (PROJECT / "csrc").rglob("*.cpp")})


@pytest.mark.parametrize("folder", PARTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_the_core_compiles_for_macos(folder, tmp_path):
    """With libc++ and the headers of macOS, each file to an object; nothing is linked."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("the package ziglang is not installed")
    CACHE.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-macos", "-std=c++17", "-Wall", "-Wextra"]
    command += ["-Werror", "-Wno-missing-field-initializers", "-Wno-unused-private-field", "-ffp-contract=off"]
    command += ['-DMP_VERSION="0"', '-DMP_GGML_VERSION="0"', '-DMP_LLAMA_NAME="llama.cpp"']
    command += [f"-I{PROJECT / 'csrc'}", f"-I{LLAMA.parent / 'include'}", "-c"]
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(CACHE), "ZIG_LOCAL_CACHE_DIR": str(CACHE)}

    def problem_of(source: Path) -> str:
        made = run([*command, source, "-o", tmp_path / f"{source.stem}.o"], env=environment)
        return made.stderr if made.returncode else ""

    with ThreadPoolExecutor(2) as workers:
        assert not [problem for problem in workers.map(problem_of, sorted(folder.glob("*.cpp"))) if problem]


# --- the script that makes the XCFramework ---------------------------------------------------------------------------

STAND_IN = """#!/bin/sh
echo "${0##*/} $*" >>"$LOG"
[ "${0##*/}" = "$FAILS" ] && exit 1
while [ $# -gt 0 ]; do
    case "$1" in
        --build) touch "$2/libmaskprobe.a"; mkdir -p "$2/llama.cpp/src"; touch "$2/llama.cpp/src/libllama.a" ;;
        -B) mkdir -p "$2" ;;
        -o) touch "$2" ;;
        -output) case "$2" in *.a) touch "$2" ;; *) mkdir "$2" ;; esac ;;
        -filelist) cat "$2" >>"$LOG" ;;
    esac
    shift
done
"""


@pytest.fixture
def build_xcframework(tmp_path):
    """build(arguments): the script in a copy of what it reads, its tools stood in for; what they were called with."""
    copy = tmp_path / "checkout"
    for part in ("packaging/apple", "csrc/maskprobe.h"):
        (copy / part).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (PROJECT / part).is_dir() else shutil.copy)(PROJECT / part, copy / part)
    shutil.rmtree(copy / "packaging/apple/build", ignore_errors=True)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("cmake", "libtool", "lipo", "xcodebuild"):
        (tools / name).write_text(STAND_IN)
        (tools / name).chmod(stat.S_IRWXU)
    log = tmp_path / "log"

    def build(*arguments, path=f"{tools}:/usr/bin:/bin", fails=""):
        log.write_text("")
        script = copy / "packaging/apple/build_xcframework.sh"
        environment = {"PATH": path, "LOG": str(log), "FAILS": fails}
        done = subprocess.run(
            ["/bin/sh", script, *arguments], env=environment, capture_output=True, text=True, timeout=60
        )
        return done, log.read_text().splitlines(), copy / "packaging/apple/build"

    return build


@pytest.fixture
def sources(tmp_path) -> Path:
    folder = tmp_path / "llama.cpp"
    (folder / "ggml").mkdir(parents=True)
    (folder / "ggml" / "CMakeLists.txt").touch()
    return folder


def test_every_part_of_the_xcframework_is_compiled_by_itself(build_xcframework, sources):
    for _ in range(2):  # a second run writes over the first
        done, calls, out = build_xcframework(sources)
        assert done.returncode == 0, done.stderr
    configured = [line for line in calls if line.startswith("cmake -S")]
    of = [
        re.search(r"SYSTEM_NAME=(\w+) .*SYSROOT=(\w+) .*ARCHITECTURES=(\w+) .*TARGET=([\d.]+)", line).groups()
        for line in configured
    ]
    assert of == [
        ("Darwin", "macosx", "arm64", "13.3"),
        ("Darwin", "macosx", "x86_64", "13.3"),
        ("iOS", "iphoneos", "arm64", "16.4"),
        ("iOS", "iphonesimulator", "arm64", "16.4"),
        ("iOS", "iphonesimulator", "x86_64", "16.4"),
    ]
    package = (APPLE / "Package.swift").read_text("utf-8")
    assert '.macOS("13.3"), .iOS("16.4")' in package and '"build/CMaskprobe.xcframework"' in package
    assert all(f"MASKPROBE_LLAMA_SOURCE={sources}" in line and "BUILD_SHARED_LIBS=OFF" in line for line in configured)
    listed = [Path(line).name for line in calls if line.startswith("/")]
    assert sorted(listed) == 5 * ["libllama.a"] + 5 * ["libmaskprobe.a"]
    framework = next(line for line in calls if line.startswith("xcodebuild"))
    assert [Path(path).parent.name for path in re.findall(r"-library (\S+)", framework)] == [
        "macos",
        "ios",
        "simulator",
    ]
    assert (out / "CMaskprobe.xcframework").is_dir()
    headers = {path.name for path in (out / "headers").iterdir()}
    assert headers == {"maskprobe.h", "CMaskprobe.h", "module.modulemap"}


def test_the_script_stops_where_a_tool_fails(build_xcframework, sources):
    for tool in ("cmake", "libtool", "lipo", "xcodebuild"):
        done, calls, _ = build_xcframework(sources, fails=tool)
        assert done.returncode != 0 and calls[-1].split()[0] == tool


def test_the_script_says_what_is_missing(build_xcframework, sources, tmp_path):
    done, calls, _ = build_xcframework()
    assert done.returncode == 1 and not calls and "name the folder of llama.cpp's sources" in done.stderr
    done, calls, _ = build_xcframework(tmp_path)
    assert done.returncode == 1 and not calls and f"there are no sources of llama.cpp in {tmp_path}" in done.stderr
    done, calls, _ = build_xcframework(sources, path=str(tmp_path))
    assert done.returncode == 1 and not calls and "there is no cmake" in done.stderr

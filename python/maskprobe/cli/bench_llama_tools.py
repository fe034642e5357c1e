"""llama.cpp's own programs, built once from a source tree that the user names, and run with one prompt each."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from .. import ArgumentError
from .terminal import say

PLAIN = "llama-completion"
SPECULATIVE = "llama-speculative-simple"
LOOKUP = "llama-lookup"
LOOKAHEAD = "llama-lookahead"
RUN_LIMIT_S = 3600  # of one prompt
BEYOND = 256  # of the context: drafts of up to 64 tokens may pass the number of tokens asked for
ATTEMPTS = 3  # these programs log from a thread, and now and then end before their last lines are out

# Switched off because they are not needed, and would ask for more than a compiler.
CMAKE_SETTINGS = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_CURL=OFF",
]

COLOR = re.compile(r"\x1b\[[0-9;]*m")
DECODED = re.compile(r"decoded +(\d+) tokens in +([\d.]+) seconds")
N_DRAFTED = re.compile(r"n_drafted += +(\d+)")
N_ACCEPTED = re.compile(r"n_accept += +(\d+)")
EVALUATED = re.compile(r" eval time = +([\d.]+) ms / +(\d+) runs")
ENCODED = re.compile(r"encoded +(\d+) tokens")
PROMPT_EVALUATED = re.compile(r"prompt eval time = +[\d.]+ ms / +(\d+) tokens")
SAMPLED = re.compile(r"sampling time = +([\d.]+) ms")


@dataclass(frozen=True)
class Mode:
    """A program and the arguments that make it speculate."""

    program: str
    arguments: tuple[str, ...] = ()
    draft_option: str | None = None  # sets the number of tokens guessed at


MODES = {
    PLAIN: Mode(PLAIN, ("-no-cnv", "--no-warmup")),
    "ngram-simple": Mode(SPECULATIVE, ("--spec-type", "ngram-simple"), "--spec-ngram-simple-size-m"),
    "ngram-map-k": Mode(SPECULATIVE, ("--spec-type", "ngram-map-k"), "--spec-ngram-map-k-size-m"),
    "ngram-map-k4v": Mode(SPECULATIVE, ("--spec-type", "ngram-map-k4v"), "--spec-ngram-map-k4v-size-m"),
    "ngram-mod": Mode(SPECULATIVE, ("--spec-type", "ngram-mod")),
    "ngram-cache": Mode(SPECULATIVE, ("--spec-type", "ngram-cache")),
    "lookup": Mode(LOOKUP, (), "--spec-draft-n-max"),
    "lookahead": Mode(LOOKAHEAD),
}


@dataclass(frozen=True)
class ToolRun:
    """What a program says of itself, and the text it wrote, prompt included."""

    text: str
    n_tokens: int
    gen_ns: int
    passes: int
    rows: int | None


def cache_folder(name: str) -> Path:
    """A folder for files of benchmarks that can be made again; it is made if it does not exist."""
    folder = Path(huggingface_hub.cached_assets_path("maskprobe", namespace="bench", subfolder=name))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def build(source: Path) -> Path:
    """The folder with the programs, compiled where they are not there yet: minutes.

    CMAKE_ARGS of the environment goes to CMake. Raises ArgumentError with the last line of what failed."""
    source = source.resolve()
    if not (source / "CMakeLists.txt").is_file() or not (source / "examples" / "lookahead").is_dir():
        raise ArgumentError(f"'{source}' is not a source tree of llama.cpp: it has no examples/lookahead")
    if shutil.which("cmake") is None:
        raise ArgumentError("there is no cmake: install it, or leave --llama-source out")
    folder = cache_folder(f"llama.cpp-{hashlib.sha256(os.fsencode(source)).hexdigest()[:12]}")
    programs = sorted({mode.program for mode in MODES.values()})
    configure = [
        "cmake",
        "-S",
        str(source),
        "-B",
        str(folder),
        *CMAKE_SETTINGS,
        *os.environ.get("CMAKE_ARGS", "").split(),
    ]
    compile_all = ["cmake", "--build", str(folder), "--config", "Release", "--target", *programs, "-j"]
    if not all((folder / "bin" / program).exists() for program in programs):
        say(f"building llama.cpp's programs in '{folder}', once")
        for command in (configure, [*compile_all, str(os.cpu_count() or 1)]):
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode:
                lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
                wrong = next((line for line in lines if "rror" in line), lines[-1] if lines else "no output")
                raise ArgumentError(f"llama.cpp's programs cannot be built from '{source}': {wrong.strip()}")
    return folder / "bin"


def run_tool(
    folder: Path, mode: Mode, model: Path, prompt: str, n: int, *, n_ctx: int, n_threads: int, draft: int | None
) -> ToolRun:
    """One prompt, greedily. Raises ArgumentError with a line that says why it failed."""
    n_ctx += BEYOND
    with tempfile.NamedTemporaryFile("wb", suffix=".txt") as file:
        file.write(prompt.encode("utf-8"))
        file.flush()
        command = [str(folder / mode.program), "-m", str(model), "-bf", file.name, "--no-escape", "-n", str(n)]
        command += ["-c", str(n_ctx), "-b", str(max(n_ctx, 512)), "-t", str(n_threads), "-tb", str(n_threads)]
        command += ["--temp", "0", "-fa", "off", *mode.arguments]
        if draft is not None and mode.draft_option is not None:
            command += [mode.draft_option, str(draft)]
        for _ in range(ATTEMPTS):
            text, log = output_of(mode.program, command)
            found = parsed(mode.program, log, text)
            if found is not None:
                return found
    raise ArgumentError(f"{mode.program} printed no times")


def output_of(program: str, command: Sequence[str]) -> tuple[str, str]:
    """Standard output, and that with standard error. Raises ArgumentError."""
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=RUN_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ArgumentError(f"{program} cannot be run: {error}") from None
    text, log = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    if done.returncode:
        lines = [line for line in log.splitlines() if "rror" in line or "failed" in line or "ASSERT" in line]
        why = lines[-1].strip() if lines else "without a word"
        raise ArgumentError(f"{program} ended with status {done.returncode}: {why}")
    return text, f"{text}\n{log}"


def parsed(program: str, log: str, text: str) -> ToolRun | None:
    """The program's own figures, None where they are not there. In all programs but SPECULATIVE the first token comes
    from the prompt's pass and is not counted."""
    evaluated, sampled = EVALUATED.search(log), SAMPLED.search(log)
    decoded, accepted, drafted = DECODED.search(log), N_ACCEPTED.search(log), N_DRAFTED.search(log)
    n_rows: int | None
    if program == PLAIN and evaluated and sampled:
        n_tokens = passes = n_rows = int(evaluated[2])
        ms = float(evaluated[1]) + float(sampled[1])
    elif program == SPECULATIVE and decoded and accepted and drafted:
        n_tokens, ms = int(decoded[1]), 1000 * float(decoded[2])
        passes = n_tokens - int(accepted[1])
        n_rows = passes + int(drafted[1])
    elif program == LOOKUP and decoded and accepted and drafted:
        n_tokens, ms = int(decoded[1]) - 1, 1000 * float(decoded[2])
        passes = n_tokens - int(accepted[1])
        n_rows = passes + int(drafted[1])
    elif program == LOOKAHEAD and decoded and accepted and evaluated:  # it leaves the first token out by itself
        n_tokens, ms = int(decoded[1]), 1000 * float(decoded[2])
        passes = n_tokens - int(accepted[1])
        prompt, before = PROMPT_EVALUATED.search(log), ENCODED.search(log)
        n_rows = int(prompt[1]) + int(evaluated[2]) - int(before[1]) if prompt and before else None
    else:
        return None
    return ToolRun(COLOR.sub("", text), n_tokens, round(1e6 * ms), passes, n_rows)


def modes_named(names: Sequence[str]) -> dict[str, Mode]:
    """Raises ArgumentError for a name that is not known."""
    for name in names:
        if name not in MODES:
            raise ArgumentError(f"llama.cpp has no mode named {name!r} here: {', '.join(MODES)}")
    return {name: MODES[name] for name in names}

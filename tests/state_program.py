"""The program of tests/state_checks.cpp, which opens states, with stand-ins for what is learned."""

import subprocess
from pathlib import Path
from typing import NamedTuple

import llama_cpp
import pytest

from cxx import PROJECT, build, sanitizer_flags

SOURCES = ["tests/state_checks.cpp", "csrc/status.cpp", "csrc/platform/digest.cpp", "csrc/model/identity.cpp"]
SOURCES += [f"csrc/engine/{name}.cpp" for name in ("state", "state_file", "state_format", "state_place")]
INCLUDES = [f"-I{PROJECT / 'tests' / 'stand_ins'}", f"-I{Path(llama_cpp.__file__).parent.parent / 'include'}"]
MAGIC = b"maskprobe-state 5\n"
N_HEADER = len(MAGIC) + 16
REFUSED = 2
MP_ERR_ARGUMENT = 1


class Answer(NamedTuple):
    refusal: str  # the message, "" where the state was opened
    known: int = 0
    claims: int = 0
    times: str = ""
    note: str = ""


class Program:
    def __init__(self, command: list[str]) -> None:
        self.command = command

    def __call__(self, *arguments: object, **settings) -> Answer:
        done = subprocess.run(
            [*self.command, *map(str, arguments)], capture_output=True, text=True, timeout=120, **settings
        )
        if done.returncode == REFUSED:
            word, status, message = done.stdout.split(" ", 2)
            assert (word, int(status), message.count("\n")) == ("refused", MP_ERR_ARGUMENT, 1)
            return Answer(message.strip())
        assert done.returncode == 0, done.stdout + done.stderr
        values = dict(line.split("=", 1) for line in done.stdout.splitlines())
        known, claims = int(values.get("known", 0)), int(values.get("claims", 0))
        return Answer("", known, claims, values.get("times", ""), values["note"])

    def show(self, path: object, **settings) -> Answer:
        return self("show", path, **settings)

    def learn(self, path: object, number: int = 3, times: str = "1", **settings) -> Answer:
        return self("learn", path, number, times, **settings)

    def write_for_ever(self, path: object, number: int) -> subprocess.Popen:
        return subprocess.Popen([*self.command, "write", str(path), str(number)], stdout=subprocess.PIPE, text=True)


def build_program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("state")
    return Program(build(folder / "checks", SOURCES, [*INCLUDES, *sanitizer_flags("address,undefined", folder)]))

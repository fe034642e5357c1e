"""What is kept of a model between runs: damage, other processes, and sudden death."""

import contextlib
import os
import random
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxx import build, sanitizer_flags
from state_program import INCLUDES, MAGIC, N_HEADER, SOURCES, Answer, Program, build_program


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build_program(tmp_path_factory)


@pytest.fixture
def state(program, tmp_path):
    """A state that knows 3."""
    path = tmp_path / "x.state"
    assert program.learn(path).note == ""
    return path


# --- within one process ----------------------------------------------------------------------------------------------


def check_one_process(command: list[str], folder: Path) -> None:
    done = subprocess.run([*command, "checks", folder], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "ThreadSanitizer" not in done.stderr, done.stderr


def test_engines_of_one_process(program, tmp_path):
    check_one_process(program.command, tmp_path)


def test_engines_in_several_threads(tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("threads")
    flags = sanitizer_flags("thread", folder)
    if not flags:
        pytest.skip("no thread sanitizer")
    check_one_process(build(folder / "checks", SOURCES, [*INCLUDES, *flags]), tmp_path)


# --- between two runs ------------------------------------------------------------------------------------------------


def test_the_second_run_begins_with_what_the_first_learned(program, tmp_path):
    path = tmp_path / "x.state"
    assert program.show(path) == Answer("")
    assert not path.exists()  # nothing was learned
    program.learn(path, 3, "first")
    assert program.show(path) == Answer("", 3, 3, "first")
    program.learn(path, 4, "second")
    assert program.show(path) == Answer("", 7, 7, "second")
    assert os.listdir(tmp_path) == ["x.state"]


def test_its_place_and_who_may_read_it(program, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "MASKPROBE_STATE_DIR"} | {"HOME": str(tmp_path / "home")}
    environment.pop("XDG_CACHE_HOME", None)
    caches = "Library/Caches" if sys.platform == "darwin" else ".cache"
    folders = [(tmp_path / "home" / caches / "maskprobe" / "state", environment)]
    if sys.platform != "darwin":
        folders.append((tmp_path / "c" / "maskprobe" / "state", environment | {"XDG_CACHE_HOME": str(tmp_path / "c")}))
    folders.append((tmp_path / "a" / "b", environment | {"MASKPROBE_STATE_DIR": str(tmp_path / "a" / "b")}))
    for folder, variables in folders:
        assert program.learn("", env=variables | {"MODEL": "A model, von Überall"}).note == ""
        (kept,) = folder.iterdir()
        assert kept.name.startswith("A-model--von---berall-") and kept.suffix == ".state"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert program.show("", env=variables | {"MODEL": "A model, von Überall"}).known == 3


def test_models_and_adapters_have_files_of_their_own(program, tmp_path):
    def path(**variables: object) -> str:
        folder = tmp_path / "states"
        known = {entry.name for entry in folder.iterdir()} if folder.exists() else set()
        environment = {key: str(value) for key, value in variables.items()} | {"MASKPROBE_STATE_DIR": str(folder)}
        before = {name: (folder / name).stat().st_ino for name in known}
        assert program.learn("", env=os.environ | environment).note == ""
        (written,) = (entry.name for entry in folder.iterdir() if before.get(entry.name) != entry.stat().st_ino)
        return written

    adapter, other, copy = (tmp_path / name for name in ("adapter", "other", "copy"))
    adapter.write_bytes(b"numbers" * 1000)
    other.write_bytes(b"numbers" * 999 + b"numberz")
    copy.write_bytes(adapter.read_bytes())
    alone = path(MODEL="one")
    assert path(MODEL="two") != alone
    assert path(MODEL="one", ADAPTER=adapter, SCALE=0) == alone
    with_adapter = path(MODEL="one", ADAPTER=adapter, SCALE=1)
    assert (
        len({alone, with_adapter, path(MODEL="one", ADAPTER=other), path(MODEL="one", ADAPTER=adapter, SCALE=0.5)}) == 4
    )
    assert path(MODEL="one", ADAPTER=copy, SCALE=1) == with_adapter


# --- states that cannot be used --------------------------------------------------------------------------------------


def digest(data: bytes) -> int:
    value, mask = 0xCBF29CE484222325, (1 << 64) - 1
    n_words = len(data) // 8
    words = list(struct.unpack(f"<{n_words}Q", data[: 8 * n_words]))
    rest = data[8 * n_words :]
    words.append(int.from_bytes(bytes([len(rest)]) + rest, "big"))
    for word in words:
        value = (value ^ word) * 0x9E3779B97F4A7C15 & mask
        value ^= value >> 32
    return value


def sealed(body: bytes) -> bytes:
    """A whole state around any sections."""
    return MAGIC + struct.pack("<QQ", digest(body), len(body)) + body


def sections(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], N_HEADER
    while at < len(data):
        kind, length = struct.unpack_from("<QQ", data, at)
        found.append((kind, data[at + 16 : at + 16 + length]))
        at += 16 + length
    return found


def joined(parts: list[tuple[int, bytes]]) -> bytes:
    return b"".join(struct.pack("<QQ", kind, len(content)) + content for kind, content in parts)


def with_section(data: bytes, i: int, content: bytes) -> bytes:
    parts = sections(data)
    parts[i] = parts[i][0], content
    return sealed(joined(parts))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def long_length(data: bytes, length: int) -> bytes:
    return sealed(struct.pack("<QQ", 1, length) + data[N_HEADER + 16 :])


def a_circle(data: bytes) -> bytes:
    """A setting so long that its end wraps around into the first section, where times lie that reach to the end."""
    parts = sections(data)[:SETTING]
    n_body = len(joined([(0, bytes(16)), *parts[1:]])) + 16
    parts[MODEL] = parts[MODEL][0], struct.pack("<QQ", 5, n_body - 32)
    return sealed(joined(parts) + struct.pack("<QQ", 4, (16 - n_body) % (1 << 64)))


MODEL, KNOWN, CLAIMS, SETTING, TIMES = range(5)
DAMAGE = {
    "magic only": lambda data: data[: len(MAGIC)],
    "no version": lambda data: data[:16],
    "header only": lambda data: data[:N_HEADER],
    "half": lambda data: data[: len(data) // 2],
    "all but a byte": lambda data: data[:-1],
    "a byte too many": lambda data: data + b"x",
    "twice": lambda data: data * 2,
    "zeros after the magic": lambda data: MAGIC + bytes(len(data)),
    "noise after the magic": lambda data: MAGIC + random.Random(1).randbytes(5000),
    "larger than any": lambda data: MAGIC + bytes(65 << 20),
    "another version": lambda data: data.replace(b"state 5", b"state 6", 1),
    "of a version before": lambda data: b'{"maskprobe_state": 3, "model": {}, "n_bytes": 2}\nxx',
    "of an old version, cut": lambda data: b'{"maskprobe_state"',
    "a length beyond all": lambda data: data[: len(MAGIC) + 8] + b"\xff" * 8 + data[N_HEADER:],
    "a section beyond the end": lambda data: long_length(data, 1 << 20),
    "a section beyond all": lambda data: long_length(data, (1 << 64) - 1),
    "a section that wraps around": lambda data: long_length(data, (1 << 64) - 16),
    "a section that wraps around to another": a_circle,
    "no sections": lambda data: sealed(b""),
    "sections in another order": lambda data: sealed(joined(sections(data)[::-1])),
    "a setting without times": lambda data: sealed(joined(sections(data)[:TIMES])),
    "too many settings": lambda data: sealed(joined(sections(data) + sections(data)[SETTING:] * 16)),
    "an unknown section": lambda data: sealed(joined([*sections(data), (77, b"x")])),
    "nothing known": lambda data: with_section(data, KNOWN, b""),
    "tables that make no sense": lambda data: with_section(data, KNOWN, sections(data)[KNOWN][1][:-1]),
    "claims that make no sense": lambda data: with_section(data, CLAIMS, struct.pack("<q", -1)),
    "claims that are too short": lambda data: with_section(data, CLAIMS, b"1234"),
}


def test_the_format_is_the_one_that_is_damaged_here(program, state):
    data = state.read_bytes()
    assert sealed(joined(sections(data))) == data and len(sections(data)) == 5
    assert with_section(data, KNOWN, sections(data)[KNOWN][1]) == data


def assert_set_aside(program: Program, path: Path, damaged: bytes) -> None:
    path.write_bytes(damaged)
    note = program.learn(path, 5).note
    assert str(path) in note and "cannot be used (" in note and f"set aside as {path.name}.bad" in note, note
    assert path.with_name(path.name + ".bad").read_bytes() == damaged
    assert program.show(path) == Answer("", 5, 5, "1")  # a sound one is in its place


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_state_is_set_aside(kind, program, state):
    assert_set_aside(program, state, DAMAGE[kind](state.read_bytes()))


def test_cut_at_every_section_and_flipped_everywhere(program, state):
    data, at = state.read_bytes(), N_HEADER
    borders = [at]
    for _, content in sections(data):
        borders += [at + 8, at + 16, at + 16 + len(content)]
        at = borders[-1]
    cut = [data[:n] for border in borders for n in (border - 1, border) if n < len(data)]
    random_ = random.Random(3)
    bits = [flipped(data, at) for at in [*range(16, N_HEADER), *random_.sample(range(N_HEADER, len(data)), 30)]]
    for damaged in cut + bits:
        assert_set_aside(program, state, damaged)
        state.with_name(state.name + ".bad").unlink()


def test_states_set_aside_are_numbered_and_never_overwritten(program, state):
    names = ["x.state.bad", "x.state.bad.1", "x.state.bad.2"]
    (state.parent / "x.state.bad.3").symlink_to("nowhere")
    for i, name in enumerate([*names, "x.state.bad.4"]):
        state.write_bytes(MAGIC + bytes([i]))
        assert f"set aside as {name}," in program.learn(state).note
    for i, name in enumerate(names):
        assert (state.parent / name).read_bytes() == MAGIC + bytes([i])
    assert os.listdir(state.parent).count("nowhere") == 0


def test_a_state_of_another_model_is_not_used_and_replaced(program, state):
    environment = os.environ | {"MODEL": "another"}
    before = state.read_bytes()
    shown = program.show(state, env=environment)
    assert (shown.known, shown.claims, shown.times) == (0, 0, "")
    assert "belongs to another model" in shown.note and str(state) in shown.note
    assert state.read_bytes() == before  # nothing was learned
    assert "belongs to another model" in program.learn(state, 5, env=environment).note
    assert program.show(state, env=environment) == Answer("", 5, 5, "1")
    assert os.listdir(state.parent) == ["x.state"]


# --- many processes --------------------------------------------------------------------------------------------------


def wait_for_another(path: Path, before: int, writer: subprocess.Popen) -> int:
    """Until another file lies there; its inode."""
    until = time.monotonic() + 60
    while True:
        with contextlib.suppress(FileNotFoundError):
            if (inode := path.stat().st_ino) != before:
                return inode
        assert time.monotonic() < until and writer.poll() is None
        time.sleep(0.0005)


def kill(writer: subprocess.Popen) -> None:
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert writer.stdout.read() == ""  # no note
    writer.stdout.close()


def test_killed_a_hundred_times(program, tmp_path):
    path, random_, inode, known = tmp_path / "x.state", random.Random(7), 0, 0
    for _ in range(100):
        writer = program.write_for_ever(path, 7)
        inode = wait_for_another(path, inode, writer)
        time.sleep(random_.uniform(0.0, 0.01))
        kill(writer)
        shown = program.show(path)  # as its reader sees it, it is whole
        assert shown.note == "" and shown.known == shown.claims > known
        known, inode = shown.known, path.stat().st_ino
    half_written = [entry for entry in tmp_path.iterdir() if entry != path]
    assert half_written  # some were killed while they wrote
    for entry in half_written:
        assert entry.name.startswith(".x.state.") and entry.suffix == ".tmp"
        os.utime(entry, (0, 0))
    assert program.show(path).known == known
    assert os.listdir(tmp_path) == ["x.state"]


def test_two_processes_write_at_once(program, tmp_path):
    path, inode = tmp_path / "x.state", 0
    writers = [program.write_for_ever(path, number) for number in (7, 11)]
    for _ in range(60):
        inode = wait_for_another(path, inode, writers[0])
        shown = program.show(path)
        assert shown.note == "" and shown.known == shown.claims > 0
    for writer in writers:
        kill(writer)
    assert program.show(path).note == ""


def test_half_written_files_of_others_stay_while_they_are_young(program, tmp_path):
    path = tmp_path / "x.state"
    names = [".x.state.a.tmp", ".x.state.b.tmp", ".y.state.c.tmp", ".x.state.tmp", ".x.state.d.tmp"]
    young, old, *foreign, folder = (tmp_path / name for name in names)
    for entry in (young, old, *foreign):
        entry.write_bytes(b"half")
    folder.mkdir()
    for entry in (old, *foreign, folder):
        os.utime(entry, (0, 0))
    assert program.learn(path).note == ""
    assert not old.exists() and all(entry.exists() for entry in (young, *foreign, folder))

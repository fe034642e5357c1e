"""Where a state may lie: links and new folders, files of somebody else, and places that nothing can be written to."""

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from state_program import MAGIC, Answer, Program, build_program


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build_program(tmp_path_factory)


def test_a_link_stays_and_its_target_is_replaced(program, tmp_path):
    for folder in ("there", "here"):
        (tmp_path / folder).mkdir()
    target, link, second = tmp_path / "there" / "real", tmp_path / "here" / "link", tmp_path / "here" / "second"
    link.symlink_to("../there/real")
    second.symlink_to(link)
    assert program.learn(second).note == ""  # its target is made
    assert program.learn(link, 4).note == ""
    assert program.show(target).known == program.show(second).known == 7
    assert link.is_symlink() and second.is_symlink() and not target.is_symlink()
    target.write_bytes(target.read_bytes()[:-1])
    assert "set aside as real.bad" in program.learn(link).note
    assert link.is_symlink() and sorted(os.listdir(target.parent)) == ["real", "real.bad"]


def test_paths_that_are_relative_or_new(program, tmp_path):
    assert program.learn("x.state", cwd=tmp_path).note == ""
    assert program.show(tmp_path / "x.state").known == 3
    deep = tmp_path / "a" / "b" / "c" / "x.state"
    assert program.learn(deep).note == ""
    assert program.show(f"{tmp_path}/a/b/../b/c/x.state").known == 3
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    longest = tmp_path / ("x" * 255)
    assert program.learn(longest).note == "" and program.show(longest).known == 3


# --- what is no state ------------------------------------------------------------------------------------------------

FOREIGN = {
    "text": (b"a file\nof somebody else\n", "no state of maskprobe"),
    "one byte": (b"x", "no state of maskprobe"),
    "JSON": (b'{"mask": 3}', "no state of maskprobe"),
    "a beginning of the magic": (MAGIC[:15], "no state of maskprobe"),
    "the first bit": (b"\x69" + MAGIC[1:] + bytes(100), "no state of maskprobe"),
    "zeros": (bytes(5000), "no state of maskprobe"),
    "a model": (b"GGUF\x03\0\0\0" + bytes(100), "a GGUF model"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_somebody_else_is_refused_and_left(kind, program, tmp_path):
    data, what = FOREIGN[kind]
    path, link = tmp_path / "notes", tmp_path / "link"
    path.write_bytes(data)
    path.chmod(0o640)
    before = path.stat()
    link.symlink_to(path)
    for name in (path, link):
        assert program.learn(name).refusal == f"the state file '{name}' is {what}: it is left as it is, name another"
    assert path.read_bytes() == data and path.stat()[:9] == before[:9] and link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "notes"]


@pytest.mark.parametrize("kind", FOREIGN)
def test_in_a_place_that_nobody_chose_it_is_set_aside(kind, program, tmp_path):
    environment = os.environ | {"MASKPROBE_STATE_DIR": str(tmp_path)}
    program.learn("", env=environment)
    (path,) = tmp_path.iterdir()
    path.write_bytes(FOREIGN[kind][0])
    assert "set aside as" in program.learn("", 5, env=environment).note
    assert path.with_name(path.name + ".bad").read_bytes() == FOREIGN[kind][0]
    assert program.show("", env=environment) == Answer("", 5, 5, "1")


def test_a_link_in_that_place_to_a_file_of_somebody_else(program, tmp_path):
    notes = tmp_path / "notes"
    notes.write_bytes(b"notes")
    states = tmp_path / "states"
    environment = os.environ | {"MASKPROBE_STATE_DIR": str(states)}
    program.learn("", env=environment)
    (path,) = states.iterdir()
    path.unlink()
    path.symlink_to(notes)
    note = program.learn("", env=environment).note
    assert note == f"the state {path} is no state of maskprobe: it is left as it is, nothing is kept"
    assert path.is_symlink() and notes.read_bytes() == b"notes" and sorted(os.listdir(tmp_path)) == ["notes", "states"]


def a_socket(path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        here = os.getcwd()
        os.chdir(path.parent)  # the names of sockets are short
        listening.bind(path.name)
        os.chdir(here)


def a_device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        path.symlink_to("/dev/null")


def a_directory_with_a_file(path: Path) -> None:
    path.mkdir()
    (path / "notes").write_text("x")


OTHER_KINDS = {"a directory": a_directory_with_a_file, "a pipe": os.mkfifo, "a socket": a_socket, "a device": a_device}


@pytest.mark.parametrize("what", OTHER_KINDS)
def test_what_is_no_plain_file_is_refused_and_left(what, program, tmp_path):
    path, link = tmp_path / "x", tmp_path / "link"
    OTHER_KINDS[what](path)
    before = path.lstat()
    link.symlink_to(path)
    for name in (path, link):
        assert program.learn(name).refusal == f"the state file '{name}' is {what}: it is left as it is, name another"
    assert path.lstat()[:7] == before[:7] and sorted(os.listdir(tmp_path)) == ["link", "x"]


@pytest.mark.parametrize("what", OTHER_KINDS)
def test_what_is_no_plain_file_in_a_place_that_nobody_chose(what, program, tmp_path):
    environment = os.environ | {"MASKPROBE_STATE_DIR": str(tmp_path)}
    program.learn("", env=environment)
    (path,) = tmp_path.iterdir()
    path.unlink()
    OTHER_KINDS[what](path)
    before = path.lstat()
    assert program.learn("", env=environment).note.endswith(f" is {what}: it is left as it is, nothing is kept")
    assert path.lstat()[:7] == before[:7] and os.listdir(tmp_path) == [path.name]


def test_paths_that_name_no_file_are_refused(program, tmp_path):
    circle = tmp_path / "circle"
    circle.symlink_to("circle")
    assert "symbolic link that leads to no file" in program.learn(circle).refusal
    for name in (f"{tmp_path}/new/", f"{tmp_path}/new/.", f"{tmp_path}/.."):
        assert "is a directory" in program.learn(name).refusal, name
    if Path("/dev/fd").exists():
        reading, writing = os.pipe()
        assert "no place in a directory" in program.learn(f"/dev/fd/{reading}", pass_fds=[reading]).refusal
        os.close(reading)
        os.close(writing)
    assert os.listdir(tmp_path) == ["circle"]


def test_an_empty_file_is_a_place_for_a_state(program, tmp_path):
    path = tmp_path / "x.state"
    path.touch()
    assert program.learn(path).note == ""
    assert program.show(path).known == 3


# --- where nothing can be written ------------------------------------------------------------------------------------


def test_a_place_below_a_file(program, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / "file" / "x.state"
    note = program.learn(path).note
    assert note == f"the state {path} cannot be written (Not a directory): what was learned is not kept"


@pytest.fixture
def as_nobody(program):
    """A folder, and the program run by a user to whom something can be forbidden."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    copy = Path(shutil.copy(program.command[-1], folder / "checks"))
    states = folder / "states"
    states.mkdir(mode=0o755)
    settings = {}
    if os.geteuid() == 0:
        settings = {"user": 65534, "group": 65534, "extra_groups": []}
        os.chown(states, 65534, 65534)
        try:
            subprocess.run([copy], **settings)
        except PermissionError:
            pytest.skip("no other user can be had")
    yield states, lambda *arguments: Program([*program.command[:-1], str(copy)])(*arguments, **settings)
    states.chmod(0o700)
    shutil.rmtree(folder)


def test_a_directory_without_permission(as_nobody):
    folder, run = as_nobody
    path = folder / "x.state"
    run("learn", path, 3, "1")
    damaged = folder / "y.state"
    run("learn", damaged, 3, "1")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    folder.chmod(0o500)
    note = run("learn", path, 4, "1").note
    assert note == f"the state {path} cannot be written (Permission denied): what was learned is not kept"
    assert run("show", path).known == 3
    assert "cannot be written" in run("learn", folder / "new", 4, "1").note
    note = run("learn", damaged, 4, "1").note
    assert "cannot be used" in note and "nor set aside (Permission denied)" in note and "cannot be written" not in note
    assert sorted(os.listdir(folder)) == ["x.state", "y.state"]


def test_a_file_that_cannot_be_read_is_left(as_nobody):
    folder, run = as_nobody
    path = folder / "x.state"
    path.write_bytes(b"who knows")
    path.chmod(0o000)
    note = run("learn", path, 4, "1").note
    assert note == f"the state {path} cannot be read (Permission denied): starting without it, nothing is kept"
    path.chmod(0o600)
    assert path.read_bytes() == b"who knows" and os.listdir(folder) == ["x.state"]

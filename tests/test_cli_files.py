"""The files that maskprobe-run writes, --state and --stats-json: what it refuses, what it never touches, and what
happens where nothing can be written."""

import contextlib
import json
import os
import resource
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from cli_process import COMMAND, TIMEOUT_S, command, one_error_line
from maskprobe.cli import files, run

STATE = b"maskprobe-state 5\n"
NOBODY = 65534


@pytest.fixture(scope="module")
def tiny(tiny_model_path) -> Path:
    return tiny_model_path("tiny-llama", n_ctx=65536)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.fixture
def refused(tiny, tmp_path, monkeypatch, capfd):
    """refused(option, arguments): the one line that refuses them, before anything is generated."""
    monkeypatch.chdir(tmp_path)

    def check(option: str, *arguments: object, model: Path = tiny) -> str:
        with pytest.raises(SystemExit) as caught:
            run.main(["-t", "1", "-m", str(model), "-n", "2", "--ignore-eos", *map(str, arguments)])
        stdout, stderr = capfd.readouterr()
        assert (caught.value.code, stdout) == (2, "")
        line = one_error_line(stderr.encode())
        assert line.startswith(f"maskprobe-run: error: argument {option}: "), line
        return line

    return check


# --- what lies there and is left --------------------------------------------------------------------------------------


def a_directory(path: Path) -> None:
    path.mkdir()
    (path / "notes").write_text("x")


def a_socket(path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening, contextlib.chdir(path.parent):
        listening.bind(path.name)  # the names of sockets are short


STATE_PLACES = {
    "notes": lambda path: path.write_bytes(b"notes\n"),
    "a model": lambda path: path.write_bytes(b"GGUF\x03\0\0\0" + bytes(100)),
    "almost a state": lambda path: path.write_bytes(STATE[:10]),
    "a directory": a_directory,
    "a pipe": os.mkfifo,
    "a socket": a_socket,
    "a device": lambda path: path.symlink_to("/dev/null"),
    "a circle": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("what", STATE_PLACES)
@pytest.mark.parametrize("linked", [False, True], ids=["itself", "by a link"])
def test_what_is_no_state_is_refused_and_left(what, linked, refused, tmp_path):
    path = tmp_path / "place"
    STATE_PLACES[what](path)
    name = path
    if linked:
        name = tmp_path / "link"
        name.symlink_to(path)
    before = (path.lstat().st_ino, path.lstat().st_mode, files_of(tmp_path))
    refused("--state", "-p", "x", "--state", name)
    assert (path.lstat().st_ino, path.lstat().st_mode, files_of(tmp_path)) == before
    assert not list(tmp_path.glob("*.bad*"))


def test_the_model_is_never_a_state_nor_statistics(tiny, refused, tmp_path):
    model, link, hard = (tmp_path / name for name in ("model.gguf", "link", "hard"))
    shutil.copy(tiny, model)
    link.symlink_to(model)
    os.link(model, hard)
    before = model.read_bytes()
    for name in (model, link, hard):
        for option in ("--state", "--stats-json"):
            assert "GGUF" in refused(option, "-p", "x", option, name, model=model)
    assert model.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["hard", "link", "model.gguf"]


def test_damaged_states_are_numbered(tiny, tmp_path):
    """Not one is overwritten, and the link to it stays."""
    state, link = tmp_path / "x.state", tmp_path / "link"
    link.symlink_to(state)
    for i in range(3):
        state.write_bytes(STATE + bytes([i]))
        done = command("-m", tiny, "-p", "x", "-n", 2, "--ignore-eos", "--state", link)
        assert done.returncode == 0 and done.stdout
        assert len([line for line in done.stderr.splitlines() if line.startswith(b"maskprobe-run: ")]) == 1
        assert state.read_bytes().startswith(STATE) and link.is_symlink()
    kept = {name: data for name, data in files_of(tmp_path).items() if ".bad" in name}
    assert sorted(kept.values()) == [STATE + bytes([i]) for i in range(3)]


@pytest.mark.parametrize("text", ["", "-", "new/", ".", "/", "/dev/stdout", "/dev/fd/0", "/proc/self/fd/2"])
def test_names_that_are_no_place_for_a_state(text, refused, tmp_path):
    refused("--state", "-p", "x", "--state", text)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["empty", "missing", "missing folder", "dangling link"])
def test_places_for_a_state(kind, tiny, tmp_path):
    path = {"missing folder": tmp_path / "a" / "b" / "x.state"}.get(kind, tmp_path / "x.state")
    if kind == "empty":
        path.touch()
    name = path
    if kind == "dangling link":
        name = tmp_path / "link"
        name.symlink_to(path)
    done = command("-m", tiny, "-p", "a b a b", "-n", 8, "--ignore-eos", "--state", name)
    assert done.returncode == 0 and b"maskprobe-run: " not in done.stderr
    assert path.read_bytes().startswith(STATE) and name.is_symlink() == (kind == "dangling link")


# --- two names of one file --------------------------------------------------------------------------------------------


def test_no_two_options_write_one_file(refused, tmp_path):
    link = tmp_path / "link"
    link.symlink_to("x")
    for first, second in (("x", "x"), ("x", "./x"), ("link", "x"), ("x", "link"), (tmp_path / "x", "x")):
        refused("--stats-json", "-p", "x", "--state", first, "--stats-json", second)
    assert os.listdir(tmp_path) == ["link"]


@pytest.mark.parametrize("option", ["--state", "--stats-json"])
def test_what_is_read_is_not_written(option, refused, tmp_path):
    contents = {"p": "a prompt", "g": 'root ::= "a"', "j": '{"enum": ["a"]}'}
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "link").symlink_to("p")
    os.link(tmp_path / "p", tmp_path / "hard")
    for name in ("p", "link", "hard"):
        refused(option, "-f", "p", option, name)
    refused(option, "-p", "x", "--grammar-file", "g", option, "./g")
    refused(option, "-p", "x", "-jf", "j", option, "j")
    assert {name: (tmp_path / name).read_text() for name in contents} == contents


@pytest.mark.parametrize("option", ["--state", "--stats-json"])
@pytest.mark.parametrize("redirection", ["> x", "2> x", "< x"])
def test_where_a_standard_stream_leads_is_not_written(option, redirection, tiny, tmp_path):
    (tmp_path / "x").touch()
    script = f'exec "$@" {option} x {redirection}'
    arguments = ["sh", "-c", script, "sh", *COMMAND, "-m", tiny, "-p", "x", "-n", "1"]
    done = subprocess.run(arguments, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S)
    assert done.returncode == 2 and done.stdout == b""
    stderr = (tmp_path / "x").read_bytes() if redirection == "2> x" else done.stderr
    assert f"argument {option}: standard " in one_error_line(stderr)


# --- statistics to what is no file ------------------------------------------------------------------------------------


def run_in_shell(tiny: Path, script: str, **settings) -> subprocess.CompletedProcess:
    arguments = ["bash", "-c", script, "bash", *COMMAND, "-m", tiny, "-p", "x", "-n", "2", "--ignore-eos"]
    return subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, **settings)


def json_line(text: bytes) -> dict:
    (line,) = [line for line in text.splitlines() if line.startswith(b"{")]
    return json.loads(line)


def test_statistics_to_standard_error(tiny, tmp_path):
    for path in ("/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"):
        done = run_in_shell(tiny, f'"$@" --stats-json {path}')
        assert done.returncode == 0 and json_line(done.stderr)["n_gen"] == 2
        assert b"finished:" in done.stderr and b"{" not in done.stdout
    done = run_in_shell(tiny, '"$@" --stats-json /dev/stderr 2> log', cwd=tmp_path)
    log = (tmp_path / "log").read_bytes()  # all that it had before is still there
    assert done.returncode == 0 and log.startswith(b"model:") and json_line(log)["n_gen"] == 2


def test_statistics_to_pipes(tiny, tmp_path):
    done = run_in_shell(tiny, '"$@" --stats-json /proc/self/fd/5 5> five', cwd=tmp_path)
    assert done.returncode == 0 and json.loads((tmp_path / "five").read_text())["n_gen"] == 2
    done = run_in_shell(tiny, '{ "$@" --stats-json /dev/fd/5 5>&1 >/dev/null; } | cat')
    assert json_line(done.stdout)["n_gen"] == 2
    done = run_in_shell(
        tiny, '"$@" --stats-json >(cat > out; touch done); while [ ! -e done ]; do sleep 0.1; done', cwd=tmp_path
    )
    assert json.loads((tmp_path / "out").read_text())["n_gen"] == 2


def test_statistics_to_a_named_pipe(tiny, tmp_path):
    path, seen = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: seen.append(path.read_bytes()))
    reader.start()
    done = command("-m", tiny, "-p", "x", "-n", 2, "--ignore-eos", "--stats-json", path)
    reader.join(TIMEOUT_S)
    assert done.returncode == 0 and json.loads(seen[0])["n_gen"] == 2 and stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.parametrize(
    "path", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "out-link", "/dev/fd/77", "/dev/fd/3", "/dev/fd/0", ""]
)
def test_streams_that_statistics_do_not_go_to(path, refused, tmp_path):
    """Standard output is for the completion; another descriptor must be open for writing, by who starts the command."""
    (tmp_path / "out-link").symlink_to("/dev/stdout")
    refused("--stats-json", "-p", "x", "--stats-json", path)


@pytest.mark.parametrize("kind", ["a directory", "a socket", "a circle", "a state", "a trailing slash", "a long name"])
def test_places_that_statistics_do_not_go_to(kind, refused, tmp_path):
    path = tmp_path / "x"
    if kind == "a state":
        path.write_bytes(STATE)
    elif kind in STATE_PLACES:
        STATE_PLACES[kind](path)
    name = {"a trailing slash": f"{path}/", "a long name": tmp_path / ("x" * 300)}.get(kind, path)
    before = files_of(tmp_path)
    refused("--stats-json", "-p", "x", "--stats-json", name)
    assert files_of(tmp_path) == before


def test_a_link_to_a_folder_that_is_not_there(refused, tmp_path):
    link = tmp_path / "link"
    link.symlink_to("no/such/file")
    assert "no directory" in refused("--stats-json", "-p", "x", "--stats-json", link)


def test_statistics_keep_the_mode_of_the_file_they_replace(tiny, tmp_path):
    path = tmp_path / ("x" * 255)
    path.write_text("older")
    path.chmod(0o640)
    assert command("-m", tiny, "-p", "x", "-n", 2, "--stats-json", path).returncode == 0
    assert json.loads(path.read_text()) and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert len(os.listdir(tmp_path)) == 1


# --- where nothing can be written -------------------------------------------------------------------------------------


def no_more_than(n_bytes: int) -> dict:
    """Settings of a process whose files cannot grow beyond that, as on a full disk."""
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))}


def test_a_full_disk_at_the_end(tiny, tmp_path):
    state, stats = tmp_path / "x.state", tmp_path / "stats.json"
    common = ("-m", tiny, "-p", "x", "-n", 4, "--temp", 0, "--ignore-eos", "--state", state, "--stats-json", stats)
    text = command(*common).stdout
    before = files_of(tmp_path)
    done = command(*common[:-2], **no_more_than(100))
    assert (done.returncode, done.stdout) == (0, text)
    (line,) = [line for line in done.stderr.decode().splitlines() if line.startswith("maskprobe-run: ")]
    assert "cannot be written" in line and "finished:" in done.stderr.decode()
    done = command(*common, "--no-display-prompt", **no_more_than(100))
    assert (done.returncode, done.stdout) == (1, text)
    assert "--stats-json" in one_error_line(done.stderr) and "finished:" in done.stderr.decode()
    assert files_of(tmp_path) == before
    done = command("-m", tiny, "-p", "x", "-n", 4, "--temp", 0, "--ignore-eos", "--stats-json", "/dev/full")
    assert (done.returncode, done.stdout) == (1, text) and "/dev/full" in one_error_line(done.stderr)


@pytest.fixture
def forbidding():
    """A folder in which something can be forbidden: where root runs the tests, another user takes its place."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    if os.geteuid() != 0:
        yield folder
    else:
        os.chown(folder, NOBODY, NOBODY)
        os.setresgid(NOBODY, NOBODY, 0)
        os.setresuid(NOBODY, NOBODY, 0)
        yield folder
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="no other user for a while")
@pytest.mark.parametrize("kind", ["a folder", "a file", "a device", "a folder below"])
def test_without_permission(kind, forbidding, capfd):
    path = forbidding / "x"
    if kind == "a file":
        path.write_text("older")
        path.chmod(0o400)
    elif kind == "a device":
        path.symlink_to("/dev/kmsg")
    elif kind == "a folder below":
        path = forbidding / "below" / "x"
        path.parent.mkdir(mode=0o000)
    else:
        forbidding.chmod(0o500)
    with pytest.raises(SystemExit) as caught:
        run.main(["-p", "x", "--stats-json", str(path)])
    assert caught.value.code == 2
    line = one_error_line(capfd.readouterr().err.encode())
    assert "argument --stats-json: cannot write" in line and str(path) in line and "ermission" in line
    assert files_of(forbidding) == ({"x": b"older"} if kind == "a file" else {})


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="no other user for a while")
def test_a_file_that_is_ours_in_a_folder_that_is_not(forbidding):
    path = forbidding / "x"
    path.write_text("older and longer than the text that replaces it")
    forbidding.chmod(0o500)
    files.write_file(files.output_file(str(path)), "new")
    assert path.read_text() == "new" and os.listdir(forbidding) == ["x"]

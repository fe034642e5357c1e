"""maskprobe-run, its terminal, its streams and Ctrl-C."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from cli_process import COMMAND, TIMEOUT_S, one_error_line, start
from maskprobe import Cancelled
from maskprobe.cli import build, run, terminal
from maskprobe.cli.terminal import DRAFTED, RESET, Completion


@pytest.fixture(scope="module")
def tiny(tiny_model_path) -> Path:
    """With a context that a test does not come to the end of by chance."""
    return tiny_model_path("tiny-llama", n_ctx=65536)


# --- the terminal -----------------------------------------------------------------------------------------------------


class Screen:
    """A terminal, and what came out on it."""

    def __init__(self) -> None:
        self.leader, self.follower = pty.openpty()

    def run(self, tiny: Path, *arguments: object, status: int = 0, **streams: object) -> bytes:
        """What a command wrote to it. Streams are the terminal's unless told."""
        command = [*COMMAND, "-m", str(tiny), "-p", "x", *map(str, arguments)]
        streams = {"stdin": subprocess.DEVNULL, "stdout": self.follower, "stderr": self.follower, **streams}
        with subprocess.Popen(command, **streams) as process:
            os.close(self.follower)
            seen = b"".join(iter(self._read, b""))
        os.close(self.leader)
        assert process.returncode == status and b"Traceback" not in seen
        return seen

    def _read(self) -> bytes:
        try:
            return os.read(self.leader, 4096)
        except OSError:  # Linux says so at the end
            return b""


def test_on_a_terminal(tiny):
    """Both streams on a terminal: colours, the block drawn."""
    seen = Screen().run(tiny, "-n", 4)
    assert b"passes" in seen and b"\x1b[" in seen


BLOCK = re.compile(rb"(?:\x1b\[[0-9;]*m)*model")


@pytest.mark.parametrize(
    ("text", "ended"), [("a", "a\r\n"), ("a\\n", "a\r\n"), ("a\\n\\n", "a\r\n\r\n"), ("a\\nb", "a\r\nb\r\n")]
)
def test_the_block_begins_on_a_line_of_its_own(text, ended, tiny):
    """With a line break where the completion has none, and no other."""
    seen = Screen().run(tiny, "--grammar", f'root ::= "{text}"', "--color", "off")
    assert BLOCK.match(seen.removeprefix(ended.encode())), seen


def test_an_empty_completion_has_no_line(tiny):
    assert BLOCK.match(Screen().run(tiny, "-n", 0))


def test_a_line_before_the_block_begins_on_a_line_of_its_own(tiny):
    seen = Screen().run(tiny, "-c", 256, "--ignore-eos", "-l", "50+99", "--temp", 0)
    before, line, _ = seen.partition(b"maskprobe-run: the context of 256 tokens is full")
    assert line and before.endswith(b"\n") and not before.endswith(b"\n\r\n")


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_completion_that_is_no_terminal_gets_no_line_break(kind, tiny, tmp_path):
    path = tmp_path / "out"
    with path.open("wb") as file:
        reader, writer = (None, file.fileno()) if kind == "file" else os.pipe()
        seen = Screen().run(tiny, "--grammar", 'root ::= "a"', stdout=writer)
        if reader is not None:
            path.write_bytes(os.read(reader, 100))
            os.close(reader)
            os.close(writer)
    assert path.read_bytes() == b"a" and BLOCK.match(seen)


def test_two_terminals(tiny):
    other = Screen()
    seen = Screen().run(tiny, "--grammar", 'root ::= "a"', "--color", "off", stderr=other.follower)
    assert seen == b"a\r\n"  # for the prompt of the shell
    assert BLOCK.match(os.read(other.leader, 4096))


def test_ctrl_c_on_a_terminal(tiny):
    """The terminal echoes ^C after the text."""
    screen = Screen()
    follower = os.ttyname(screen.follower)
    script = f'exec 0<>{follower} 1>&0 2>&0; exec "$@"'
    process = subprocess.Popen(
        ["sh", "-c", script, "sh", *COMMAND, "-m", str(tiny), "-p", "x", "--ignore-eos"], start_new_session=True
    )
    seen = os.read(screen.leader, 4096)
    os.write(screen.leader, b"\x03")
    os.close(screen.follower)
    seen += b"".join(iter(screen._read, b""))
    assert process.wait(TIMEOUT_S) == 0
    assert re.search(rb"\n(?:\x1b\[[0-9;]*m)*model", seen[seen.index(b"^C") :])


def test_progress_is_for_terminals_and_long_work(monkeypatch):
    def shown(on_terminal: bool, after_s: float) -> bytes:
        monkeypatch.setattr(terminal, "PROGRESS_AFTER_S", after_s)
        leader, follower = pty.openpty() if on_terminal else os.pipe()
        with open(follower, "w") as stderr, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stderr)
            with terminal.Progress("working") as progress:
                progress(1, 4)
                time.sleep(0.5)
                progress(3, 4)
            stderr.write("end")
            stderr.flush()
            seen = os.read(leader, 65536)
        os.close(leader)
        return seen

    assert b"working" in shown(on_terminal=True, after_s=0.0)
    assert shown(on_terminal=True, after_s=60.0) == b"end"
    assert shown(on_terminal=False, after_s=0.0) == b"end"


def test_drafted_tokens_are_coloured(capfd):
    for color, expected in (("on", f"a{DRAFTED}b{RESET}"), ("off", "ab"), ("auto", "ab")):
        out = Completion(color)
        out.write("a")
        out.write("b", drafted=True)
        out.write("", drafted=True)
        assert capfd.readouterr().out == expected


# --- Ctrl-C and closed streams ----------------------------------------------------------------------------------------


def test_ctrl_c_stops_the_generation(tiny, tmp_path):
    path = tmp_path / "stats.json"
    process = start(
        "-m", tiny, "-p", "x", "--ignore-eos", "--stats-json", path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    assert "finished:   interrupted" in stderr.decode()
    stats = json.loads(path.read_text())
    assert stats["finish_reason"] == "interrupted"
    assert stats["n_gen"] == len(stats["tokens"]) > 0


def test_second_ctrl_c_ends_at_once(tiny):
    """Nobody reads the output, so the command hangs in a write; it cannot answer the first Ctrl-C there."""
    reader, writer = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = start("-m", tiny, "-p", "x", "--ignore-eos", "--propose", "none", stdin=subprocess.DEVNULL, stdout=writer)
    os.close(writer)
    try:
        wait_until_full(reader)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
        os.close(reader)
    assert process.returncode == 130
    assert stderr == b""


def test_ctrl_c_before_anything_is_loaded(tiny):
    reader, writer = os.pipe()
    process = start("-m", tiny, "-p", "-", stdin=reader, stdout=subprocess.PIPE)
    os.write(writer, b"half a prompt")
    wait_until_empty(reader)  # now it waits for the other half
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    os.close(reader)
    os.close(writer)
    assert process.returncode == 130
    assert (stdout, stderr) == (b"", b"maskprobe-run: interrupted\n")


def test_ctrl_c_while_the_model_is_loaded(tiny, monkeypatch, capfd):
    def slow_model(_path, *, progress, **_settings):
        os.kill(os.getpid(), signal.SIGINT)
        until = time.monotonic() + TIMEOUT_S
        while progress(0.5):
            assert time.monotonic() < until
            time.sleep(0.01)
        raise Cancelled("loading was cancelled")

    monkeypatch.setattr(build, "model_opened", slow_model)
    assert run.main(["-m", str(tiny), "-p", "x"]) == 130
    assert capfd.readouterr() == ("", "maskprobe-run: interrupted\n")


def waiting_bytes(descriptor: int) -> int:
    return struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0"))[0]


def wait_until_full(reader: int) -> None:
    """Until a pipe that nobody reads takes no more: its content has not grown for two seconds."""
    before, since = 0, time.monotonic()
    while time.monotonic() - since < 2:
        now = waiting_bytes(reader)
        if now == 0 or now > before:
            before, since = now, time.monotonic()
        time.sleep(0.05)


def wait_until_empty(reader: int) -> None:
    while waiting_bytes(reader) > 0:
        time.sleep(0.05)


def test_reader_that_goes_away(tiny):
    process = start("-m", tiny, "-p", "x", "--ignore-eos", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout.read(10)
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(TIMEOUT_S) == 1
    assert stderr.decode().splitlines() == [one_error_line(stderr)]
    assert "standard output" in one_error_line(stderr)


def test_nobody_reads_either_stream(tiny):
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [*COMMAND, "-m", str(tiny), "-p", "x", "--ignore-eos"], stdin=subprocess.DEVNULL, stdout=writer, stderr=writer
    )
    os.close(writer)
    os.read(reader, 10)
    os.close(reader)
    assert process.wait(TIMEOUT_S) == 1


@pytest.mark.parametrize(
    ("redirection", "reason"), [(">&-", "closed"), (">/dev/full", "No space left"), (">&- 2>&-", None), ("2>&-", None)]
)
def test_streams_closed_from_the_start(tiny, redirection, reason):
    script = f'exec "$@" {redirection}'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, "-m", tiny, "-p", "x", "-n", "2", "--ignore-eos"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == (0 if redirection == "2>&-" else 1)
    assert b"passes" not in done.stdout
    if reason is not None:
        assert reason in one_error_line(done.stderr)


def test_signal_handlers_are_given_back(tiny):
    before = signal.getsignal(signal.SIGINT)
    assert run.main(["-t", "1", "-m", str(tiny), "-p", "x", "-n", "1"]) == 0
    assert signal.getsignal(signal.SIGINT) is before
    assert [thread.name for thread in threading.enumerate() if thread.name == "interrupt"] == []

"""maskprobe-chat as a process: turns through a pipe, and on a terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time

COMMAND = [sys.executable, "-m", "maskprobe.cli.chat", "-t", "1"]
TIMEOUT_S = 300
SCREEN_TIMEOUT_S = 60

# What moves the cursor or changes colours.
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")


def chat(*args: object, turns: str | bytes = "", **settings) -> subprocess.CompletedProcess:
    """A chat whose turns come through a pipe, to its end."""
    data = turns.encode() if isinstance(turns, str) else turns
    done = subprocess.run([*COMMAND, *map(str, args)], input=data, capture_output=True, timeout=TIMEOUT_S, **settings)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


class Terminal:
    """A chat on a terminal of its own; `streams` go elsewhere."""

    def __init__(self, *args: object, env: dict[str, str] | None = None, **streams: object) -> None:
        self._leader, follower = pty.openpty()

        def own_terminal() -> None:
            os.setsid()
            fcntl.ioctl(follower, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        self.process = subprocess.Popen(
            [*COMMAND, *map(str, args)],
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "NO_COLOR": "1", **(env or {})},
            preexec_fn=own_terminal,
            pass_fds=(follower,),
            **{"stdin": follower, "stdout": follower, "stderr": follower, **streams},
        )
        os.close(follower)
        self.seen = b""  # all of it, without escapes

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._leader)

    def type(self, keys: str) -> None:
        os.write(self._leader, keys.encode())

    def until(self, pattern: str) -> str:
        """What comes on the screen up to the end of this pattern, which must come."""
        end = time.monotonic() + SCREEN_TIMEOUT_S
        fresh = b""
        while (found := re.search(pattern.encode(), fresh, re.DOTALL)) is None:
            assert time.monotonic() < end, fresh
            piece = self._read()
            assert piece, f"the program ended: {fresh!r}"
            self.seen += piece
            fresh = ESCAPES.sub(b"", fresh + piece)
        return fresh[: found.end()].decode("utf-8", "replace")

    def press_until(self, keys: str, pattern: str) -> None:
        """Types the keys again until the pattern is on the screen."""
        end = time.monotonic() + SCREEN_TIMEOUT_S
        fresh = b""
        while re.search(pattern.encode(), fresh) is None:
            assert time.monotonic() < end, fresh
            self.type(keys)
            if select.select([self._leader], [], [], 1)[0]:
                fresh = ESCAPES.sub(b"", fresh + self._read())
        self.seen += fresh

    def ended(self) -> int:
        """The exit status, once all output has come."""
        while piece := self._read():
            self.seen += piece
        assert b"Traceback" not in self.seen, self.seen.decode("utf-8", "replace")
        return self.process.wait(SCREEN_TIMEOUT_S)

    def _read(self) -> bytes:
        if not select.select([self._leader], [], [], SCREEN_TIMEOUT_S)[0]:
            return b""
        try:
            return os.read(self._leader, 4096)
        except OSError:  # Linux says so at the end
            return b""


def log_lines(stderr: bytes) -> list[str]:
    """What the chat said beside its answers, without its name."""
    return [line.removeprefix("maskprobe-chat: ") for line in stderr.decode().splitlines()]


def errors(stderr: bytes) -> list[str]:
    return [line.removeprefix("error: ") for line in log_lines(stderr) if line.startswith("error: ")]

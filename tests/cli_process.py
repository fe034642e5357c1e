"""maskprobe-run as a process: its two streams, its exit status, its statistics."""

import json
import signal
import subprocess
import sys
from pathlib import Path

# One thread: where tests run side by side, two wait for each other.
COMMAND = [sys.executable, "-m", "maskprobe.cli.run", "-t", "1"]
TIMEOUT_S = 300


def command(*args: object, stdin: bytes = b"", **settings) -> subprocess.CompletedProcess:
    """A command that ran to its end."""
    done = subprocess.run([*COMMAND, *map(str, args)], input=stdin, capture_output=True, timeout=TIMEOUT_S, **settings)
    assert b"Traceback" not in done.stderr
    return done


def start(*args: object, **settings) -> subprocess.Popen:
    """A running command that gets SIGINT, even where the tests run in the background."""
    return subprocess.Popen(
        [*COMMAND, *map(str, args)],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **settings,
    )


def one_error_line(stderr: bytes) -> str:
    lines = [line for line in stderr.decode().splitlines() if "error:" in line]
    assert len(lines) == 1, stderr.decode()
    assert lines[0].startswith("maskprobe-run: error: ")
    return lines[0]


def with_stats(tmp_path: Path, *args: object, **settings) -> tuple[dict, bytes]:
    """Statistics and standard output of a run that succeeds."""
    path = tmp_path / "stats.json"
    done = command("--stats-json", path, *args, **settings)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(path.read_text()), done.stdout

"""A worker of ggml's RPC on this machine, for bench/rpc.py and the tests."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from maskprobe import Error

START_S = 30


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as place:
        return place.getsockname()[1]


@contextlib.contextmanager
def worker_process(port: int) -> Iterator[subprocess.Popen]:
    """A worker with one thread at 127.0.0.1, until the end, which is SIGKILL. Raises Error where it does not start."""
    command = [sys.executable, "-m", "maskprobe.cli.worker", "-p", str(port), "-t", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + START_S
            while not listens(port):
                if process.poll() is not None or time.monotonic() > end:
                    raise Error("the worker does not start")
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextlib.contextmanager
def worker() -> Iterator[int]:
    """The port of one."""
    port = free_port()
    with worker_process(port):
        yield port

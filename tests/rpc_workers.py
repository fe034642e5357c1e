"""Workers of ggml's RPC on this machine. Where llama-cpp-python has no such backend it is compiled, once, from the
sources of the same release."""

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import llama_cpp

from llama_source import RELEASE, cache, keep, llama_source
from native_build import CMAKE, PROJECT, build

START_S = 30
MODULE = "libggml-rpc.so"
IS_BUILT_IN = llama_cpp.llama_supports_rpc()  # before this process loads the module


def problem(folder: Path) -> str | None:
    """Why there can be no workers here; else processes that are started from now on find the backend, this one too."""
    if IS_BUILT_IN:
        return None
    recipe = PROJECT / "cmake" / "rpc"
    digest = hashlib.sha256((recipe / "CMakeLists.txt").read_bytes()).hexdigest()[:12]
    kept = cache() / f"ggml-rpc-{RELEASE}-{digest}"
    if not kept.is_dir():
        if CMAKE is None:
            return "llama-cpp-python has no RPC backend, and there is no cmake to compile it"
        source = llama_source(folder)
        if isinstance(source, str):
            return f"llama-cpp-python has no RPC backend, and there are {source}"
        site_packages = Path(llama_cpp.__file__).resolve().parents[1]
        options = [f"-DLLAMA_CPP={source}", f"-DCMAKE_PREFIX_PATH={site_packages}"]
        build(folder / "build", *options, source=recipe)
        (folder / "made").mkdir()
        (folder / "build" / MODULE).rename(folder / "made" / MODULE)
        keep(folder / "made", kept)
    os.environ["GGML_BACKEND_PATH"] = str(kept / MODULE)
    return None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as place:
        return place.getsockname()[1]


@contextlib.contextmanager
def worker_process(port: int) -> Iterator[subprocess.Popen]:
    """A worker with one thread at 127.0.0.1, until the end, which is SIGKILL."""
    command = [sys.executable, "-m", "maskprobe.cli.worker", "-p", str(port), "-t", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + START_S
            while not _listens(port):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < end, "the worker does not listen"
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def worker() -> Iterator[int]:
    """The port of one."""
    port = free_port()
    with worker_process(port):
        yield port


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False

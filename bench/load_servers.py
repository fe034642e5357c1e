"""The servers that serve_load.py can start, each with one model, on a free port of this machine."""

import json
import re
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

LLAMA_SERVER = Path(__file__).with_name("load_llama_server.py")
START_LIMIT_S = 120
N_CTX = 2048  # of each text: a prompt of 1500 tokens, an answer of 300, a template


@dataclass(frozen=True)
class Setting:
    model: str
    n_parallel: int
    n_threads: int
    options: Sequence[str] = ()  # of the server's own, at the end of its command


def maskprobe(setting: Setting, _port: int) -> list[str]:
    command = ["-m", "maskprobe.cli.serve", "-m", setting.model, "--port", "0", "-c", str(N_CTX), "--no-state"]
    return [*command, "-np", str(setting.n_parallel), "-t", str(setting.n_threads)]


def llama_cpp_python(setting: Setting, port: int) -> list[str]:
    """It has one context, and one request at a time. By default a new request ends the one that streams: not here."""
    command = ["-m", "llama_cpp.server", "--model", setting.model, "--port", str(port), "--n_ctx", str(N_CTX)]
    command += ["--n_threads", str(setting.n_threads), "--n_threads_batch", str(setting.n_threads)]
    return [*command, "--interrupt_requests", "false"]


def xllamacpp(setting: Setting, _port: int) -> list[str]:
    """llama-server with a slot for each text."""
    asked = {"n_ctx": N_CTX, "n_parallel": setting.n_parallel, "n_threads": setting.n_threads}
    return [str(LLAMA_SERVER), json.dumps({"model": setting.model, **asked})]


SERVERS = {"maskprobe": maskprobe, "llama-cpp-python": llama_cpp_python, "xllamacpp": xllamacpp}


class Server:
    """One of SERVERS in a process of its own, run by `python`."""

    def __init__(self, name: str, python: str, setting: Setting) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [python, *SERVERS[name](setting, port), *setting.options]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, text=True)
        self.pid = self._process.pid
        self._log: deque[str] = deque(maxlen=20)
        self._says: str | None = None  # where it listens
        threading.Thread(target=self._read, daemon=True).start()
        self.url = self._wait(f"http://127.0.0.1:{port}")

    def _read(self) -> None:
        """Reads its log to the end, or its pipe would fill."""
        for line in self._process.stderr:
            self._log.append(line)
            if self._says is None and (found := re.search(r"listening at (\S+)", line)):
                self._says = found[1]

    def _wait(self, url: str) -> str:
        """Until it answers. Ends the program with its last lines where it does not."""
        for _ in range(10 * START_LIMIT_S):
            if self._process.poll() is not None:
                break
            try:
                if httpx.get(f"{self._says or url}/v1/models", timeout=10).is_success:
                    return self._says or url
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        self._process.kill()
        raise SystemExit("the server did not start:\n" + "".join(self._log))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()

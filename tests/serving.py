"""maskprobe-serve for tests, as a process and as an application within this one."""

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from chat_models import FILL, TEMPLATE, with_metadata
from maskprobe import bundled_models

pytest.importorskip("starlette", reason="starlette is not installed (pip install 'maskprobe[serve]')")
pytest.importorskip("uvicorn", reason="uvicorn is not installed (pip install 'maskprobe[serve]')")

from maskprobe.server.app import create_app
from maskprobe.server.settings import Settings

COMMAND = [sys.executable, "-m", "maskprobe.cli.serve", "-t", "1", "--no-state", "--port", "0"]
START_S = 120
N_CTX = 512
ENGINE = {"n_ctx": N_CTX, "n_threads": 1}


def chat_model(folder: Path) -> Path:
    """The bundled model with a chat template and tokens for filling in the middle."""
    target = folder / "chat.gguf"
    if not target.exists():
        source = next(iter(bundled_models().values()))
        with_metadata(source, target, tokenizer__chat_template=TEMPLATE, **FILL)
    return target


class Process:
    """A running server: `url`, and what it says."""

    def __init__(self, *options: object) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, options)],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.lines: list[str] = []
        self._up = threading.Event()
        self.url = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        if not self._up.wait(START_S) or not self.url:
            self.process.kill()
            raise AssertionError("the server did not start: " + " / ".join(self.lines))

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if found := re.search(r"listening at (http://\S+)", line):
                self.url = found[1]
                self._up.set()
        self._up.set()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Its exit status, when it has ended by itself."""
        status = self.process.wait(60)
        self._reader.join()
        return status


@contextlib.contextmanager
def process(*options: object):
    server = Process(*options)
    try:
        yield server
    finally:
        status = server.end()
        assert status == 0, server.lines
        assert not any("Traceback" in line for line in server.lines), server.lines


@contextlib.contextmanager
def application(**settings):
    """A client of an application in this process; its `server` is the Server."""
    from starlette.testclient import TestClient

    with tempfile.TemporaryDirectory() as folder:
        settings.setdefault("models", {"tiny": chat_model(Path(folder))})
        settings.setdefault("engine_options", ENGINE)
        settings.setdefault("model_options", {"n_threads": 1})
        app = create_app(Settings(**settings))
        with TestClient(app, raise_server_exceptions=False) as client:
            client.server = app.state.server
            yield client


def until(is_so, most_s: float = 60.0) -> None:
    """Waits for what another thread or process brings about."""
    end = time.monotonic() + most_s
    while not is_so():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)

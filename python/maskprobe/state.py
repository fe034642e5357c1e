"""What was learned about a model, kept between runs: one file per model in the user's cache directory.

A file is a line of JSON (whose it is, the planner's figures, the length and the checksum of what follows) and the
drafter's own bytes. It is written beside its place and renamed: a reader never sees half of one, whoever is killed; of
two processes the later one's file stays. One that cannot be read is set aside as NAME.bad.

It holds n-grams of prompts and answers and tokens that the model found likely: who has it can put texts together again.
Only its owner can read it.
"""

import contextlib
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import Error
from .model import Model
from .proposers.evidence import Evidence
from .session import Session

if TYPE_CHECKING:
    from .proposers.planned import Planned

VERSION = 3
N_MACHINES = 16  # cost curves kept in a file, those of the last settings
KEEP_EVERY = 5.0  # seconds between two writes of one process
LARGEST = 64 << 20  # bytes; nothing that this program wrote is as large
ABANDONED = 600.0  # seconds after which a half-written file is one whose writer was killed


def state_directory() -> Path:
    """Where states are kept: the MASKPROBE_STATE_DIR, or maskprobe/state in the user's cache directory."""
    if folder := os.environ.get("MASKPROBE_STATE_DIR"):
        return Path(folder)
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/maskprobe/state"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskprobe" / "state"


class StateFile:
    """The state of one model in a file; `path` None: its place in the cache directory.

    restore() and keep() never raise: what goes wrong is told to `warn`, one line at a time, and decoding goes on."""

    def __init__(
        self, model: Model, path: str | os.PathLike[str] | None = None, *, warn: Callable[[str], None]
    ) -> None:
        self._model = _identity(model)
        self.path = Path(path) if path is not None else state_directory() / f"{_name(self._model)}.state"
        self._warn = warn
        self._costs: dict[str, Any] = {}  # machine and settings -> cost curve
        self._last_kept = float("-inf")

    def restore(self, planned: "Planned", session: Session) -> None:
        """Gives the proposer what the file has."""
        _remove_abandoned(self.path)
        try:
            with open(self.path, "rb") as file:
                data = file.read(LARGEST)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._warn(f"the state {self.path} cannot be read ({error.strerror}): starting without it")
            return
        try:
            header, blob = _parse(data)
            if header["model"] != self._model:
                self._warn(f"the state {self.path} belongs to another model: starting without it, it will be replaced")
                return
            self._costs = dict(header["costs"])
            planned.planner.load_learned(header["planner"])
            if cost := self._costs.get(_setting(session)):
                planned.planner.load_costs(cost)
            if isinstance(planned.source, Evidence):
                planned.source.load(blob)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, Error) as error:
            self._set_aside(str(error) or type(error).__name__)

    def keep(self, planned: "Planned", session: Session, *, now: bool = False) -> None:
        """Writes what the proposer has learned; not oftener than every few seconds, unless `now`."""
        if not now and time.monotonic() - self._last_kept < KEEP_EVERY:
            return
        self._last_kept = time.monotonic()
        setting = _setting(session)
        self._costs.pop(setting, None)
        self._costs = dict([*self._costs.items(), (setting, planned.planner.costs())][-N_MACHINES:])
        blob = planned.source.save() if isinstance(planned.source, Evidence) else b""
        header = {
            "maskprobe_state": VERSION,
            "model": self._model,
            "planner": planned.planner.learned(),
            "costs": self._costs,
            "n_bytes": len(blob),
            "crc32": zlib.crc32(blob),
        }
        try:
            _write(self.path, json.dumps(header).encode() + b"\n" + blob)
        except OSError as error:
            self._warn(f"the state {self.path} cannot be written ({error.strerror}): what was learned is not kept")
            self._last_kept = float("inf")  # said once

    def _set_aside(self, reason: str) -> None:
        bad = self.path.with_name(self.path.name + ".bad")
        with contextlib.suppress(OSError):
            self.path.replace(bad)
        self._warn(f"the state {self.path} cannot be used ({reason}): set aside as {bad.name}, starting without it")


def _identity(model: Model) -> dict[str, Any]:
    info = model.info
    adapters = [[_digest(file), scale] for file, scale in model.loras if scale != 0]
    return {
        **({"adapters": adapters} if adapters else {}),
        "arch": info.arch,
        "name": info.name,
        "description": info.description,
        "n_params": info.n_params,
        "size": info.size,
        "n_vocab": info.n_vocab,
    }


def _digest(file: Path) -> str:
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:  # gone since it was loaded
        return str(file)


def _name(identity: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    readable = "".join(c if c.isalnum() or c in "-_." else "-" for c in identity["name"])[:40]
    return f"{readable}-{digest}" if readable else digest


def _setting(session: Session) -> str:
    """What a cost curve depends on."""
    kernels = session.model.info.kernels
    return f"{platform.node()}, {platform.machine()}, {session.n_threads} threads, {kernels}, {session.n_ctx} tokens"


def _parse(data: bytes) -> tuple[dict[str, Any], bytes]:
    line, newline, blob = data.partition(b"\n")
    if not newline:
        raise ValueError("it has no header")
    header = json.loads(line)
    if header["maskprobe_state"] != VERSION:
        raise ValueError(f"version {header['maskprobe_state']}, this is version {VERSION}")
    if len(blob) != header["n_bytes"] or zlib.crc32(blob) != header["crc32"]:
        raise ValueError(f"{len(blob)} bytes of {header['n_bytes']}, or other ones")
    return header, blob


def _beside(path: Path) -> tuple[str, str]:
    """Beginning and end of the name of a file under way to `path`."""
    return f".{path.name}.", ".tmp"


def _remove_abandoned(path: Path) -> None:
    prefix, suffix = _beside(path)
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and entry.name.endswith(suffix):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime > ABANDONED:
                        os.unlink(entry.path)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    prefix, suffix = _beside(path)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=suffix)  # mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise

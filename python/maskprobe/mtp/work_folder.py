"""The folder beside the heads in which a training keeps what it has, so that the next call goes on where it was."""

import fcntl
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from ..errors import Error

VERSION = 1
WRITING, TRAINING, DONE = "writing", "training", "done"


@dataclass(slots=True)
class Journal:
    """How far the training of this call, or of one that was cut short, has come. Times in seconds."""

    model: str  # its identity
    kind: str  # of what is trained
    budget_s: float = 0.0
    phase: str = DONE
    writing_s: float = 0.0
    training_s: float = 0.0
    version: int = VERSION

    @property
    def left_s(self) -> float:
        return self.budget_s - self.writing_s - self.training_s


class WorkFolder:
    """One process at a time has it. `journal` is that of the run which goes on, or of a new one.

    Raises Error where it cannot be made, belongs to another model or kind, or another process has it."""

    def __init__(self, folder: Path, model: str, budget_s: float, kind: str) -> None:
        self.folder = folder
        self._journal = folder / "journal.json"
        self.checkpoint = folder / "checkpoint.pt"
        try:
            folder.mkdir(exist_ok=True)
            self._lock: IO[str] = (folder / "lock").open("w")
            for path in folder.glob("*.tmp"):
                path.unlink()
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.journal = self._read(model, kind)
        except BlockingIOError:
            raise Error(f"another process trains in '{folder}'") from None
        except (OSError, ValueError, TypeError) as error:
            raise Error(f"cannot use '{folder}': {error}; delete that folder to begin anew") from None
        if self.journal.model != model:
            name = self.journal.model.split("\n")[1] if "\n" in self.journal.model else "another one"
            raise Error(f"'{folder}' has text of another model ({name}): delete it, or name another output (-o)")
        if self.journal.kind != kind:
            raise Error(
                f"'{folder}' has the training of another kind ({self.journal.kind}, not {kind}): delete it, or name "
                "another output (-o)"
            )
        self.goes_on = self.journal.phase != DONE
        if not self.goes_on:
            self.journal = Journal(model, kind, budget_s, WRITING)

    def note(self) -> None:
        """Keeps the journal as it is now. Raises OSError."""
        text = json.dumps(asdict(self.journal))
        replace(self._journal, lambda path: path.write_text(text))

    def close(self) -> None:
        self._lock.close()

    def _read(self, model: str, kind: str) -> Journal:
        if not self._journal.exists():
            return Journal(model, kind)
        journal = Journal(**json.loads(self._journal.read_text()))
        if journal.version != VERSION:
            raise ValueError(f"it is of version {journal.version}, not {VERSION}")
        return journal


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """What write() puts into the path that it is given takes the place of `path` once it is complete."""
    beside = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        write(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)

"""The file of a run that can go on later: a line with the settings, then one line per prompt."""

import json
from pathlib import Path
from typing import Any

from .. import ArgumentError

Entry = dict[str, Any]


class ResultFile:
    """Results of prompts, kept in a file if there is one. A line that an interruption left unfinished is dropped.

    Raises ArgumentError for a file that was made with other settings or is something else."""

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.entries: list[Entry] = []
        self._path = path
        if path is None:
            return
        settings = json.loads(json.dumps(settings))  # as they come back from the file
        try:
            data = path.read_bytes() if path.exists() else b""
            complete = data[: data.rfind(b"\n") + 1]
            first = json.dumps({"settings": settings}).encode() + b"\n"
            if complete or not first.startswith(data):
                self._read(complete, settings)
                with path.open("r+b") as file:
                    file.truncate(len(complete))
            else:
                path.write_bytes(first)
        except OSError as error:
            raise ArgumentError(f"cannot use '{path}' to resume: {error.strerror}") from None

    def has(self, index: int) -> bool:
        """Whether the prompt with this number is done."""
        return any(entry["index"] == index for entry in self.entries)

    def add(self, entry: Entry) -> None:
        """Keeps what came of one prompt: "index" is its number."""
        self.entries.append(entry)
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise ArgumentError(f"cannot write to '{self._path}': {error.strerror}") from None

    def _read(self, data: bytes, settings: dict[str, Any]) -> None:
        try:
            first, *entries = [json.loads(line) for line in data.decode("utf-8").splitlines()]
            kept = first["settings"]
            self.entries = [{**entry, "index": int(entry["index"])} for entry in entries]
        except (ValueError, KeyError, TypeError):
            raise ArgumentError(f"'{self._path}' is not a file of maskprobe-bench: give another (--resume)") from None
        for key in settings:
            if kept.get(key) != settings[key]:
                told = "" if key == "prompts" else f" {kept.get(key)!r}, not {settings[key]!r}"
                raise ArgumentError(
                    f"'{self._path}' was made with other settings ({key}{told}): give another file (--resume)"
                )

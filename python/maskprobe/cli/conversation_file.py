"""Conversations as JSON: what is written, and what a file must be to be taken."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ArgumentError
from .values import N_DIGITS_MAX, decode, quoted

FORMAT = "maskprobe_chat"
VERSION = 1
BYTES_MAX = 64 << 20
ROLE_CHARACTERS = 64


class Saved(NamedTuple):
    messages: list[dict[str, Any]]
    model: str  # "" where the file does not say
    sampling: dict[str, Any]


def to_json(messages: Sequence[Mapping[str, Any]], model: str, sampling: Mapping[str, Any]) -> str:
    saved = {FORMAT: VERSION, "model": model, "sampling": dict(sampling), "messages": list(messages)}
    return json.dumps(saved, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def read(path: Path) -> Saved:
    """A conversation that was saved, or a bare list of messages as OpenAI's clients have them.

    Raises ArgumentError that says in one line what is wrong."""
    name = quoted(path.name or str(path))
    text = read_text(path)
    try:
        found = json.loads(text, parse_int=_whole_number, parse_constant=_no_constant)
    except RecursionError:
        raise ArgumentError(f"'{name}' is nested too deeply") from None
    except ValueError as error:
        raise ArgumentError(f"'{name}' is not JSON: {error}") from None
    if isinstance(found, list):
        return Saved(_messages(name, found), "", {})
    if not isinstance(found, dict):
        raise ArgumentError(f"'{name}' is no conversation: it is {_kind(found)}, not an object or a list of messages")
    version = found.get(FORMAT)
    if FORMAT in found and (isinstance(version, bool) or version != VERSION):
        raise ArgumentError(
            f"'{name}' has version {quoted(json.dumps(version))} of the format, this program reads {VERSION}"
        )
    if "messages" not in found:
        raise ArgumentError(f"'{name}' is no conversation: it has no \"messages\"")
    model, sampling = found.get("model", ""), found.get("sampling", {})
    if not isinstance(model, str):
        raise ArgumentError(f"'{name}': \"model\" must be text, not {_kind(model)}")
    if not isinstance(sampling, dict):
        raise ArgumentError(f"'{name}': \"sampling\" must be an object, not {_kind(sampling)}")
    return Saved(_messages(name, found["messages"]), model, sampling)


def read_text(path: Path) -> str:
    """The text of a plain file. Raises ArgumentError."""
    name = quoted(path.name or str(path))
    try:
        if path.exists() and not path.is_file():
            raise ArgumentError(f"'{name}' is {'a directory' if path.is_dir() else 'no plain file'}")
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise ArgumentError(f"cannot read '{name}': {getattr(error, 'strerror', None) or error}") from None
    if len(data) > BYTES_MAX:
        raise ArgumentError(f"'{name}' is larger than {BYTES_MAX >> 20} MiB")
    return decode(data, f"'{name}'")


def _messages(name: str, found: Any) -> list[dict[str, Any]]:
    if not isinstance(found, list):
        raise ArgumentError(f"'{name}': \"messages\" must be a list, not {_kind(found)}")
    for i, message in enumerate(found):
        where = f"'{name}': message {i}"
        if not isinstance(message, dict):
            raise ArgumentError(f"{where} must be an object, not {_kind(message)}")
        for key in ("role", "content"):
            if key not in message:
                raise ArgumentError(f'{where} has no "{key}"')
            if not isinstance(message[key], str):
                raise ArgumentError(f'{where}: "{key}" must be text, not {_kind(message[key])}')
        role = message["role"]
        if not role or len(role) > ROLE_CHARACTERS or not role.isprintable():
            raise ArgumentError(f"{where} has the role '{quoted(role)}'")
        if role == "system" and i > 0:
            raise ArgumentError(f"{where} is a system message: there can be one, before the others")
        _check_text(where, message)
    return found


def _check_text(where: str, value: Any) -> None:
    """That every text in it can be given to a model: JSON can spell halves of characters and NUL."""
    todo = [value]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            todo += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, str):
            if "\0" in value:
                raise ArgumentError(f"{where} holds a NUL character")
            if any("\ud800" <= c <= "\udfff" for c in value):
                raise ArgumentError(f"{where} holds half of a character (a lone surrogate)")


def _whole_number(digits: str) -> int:
    if len(digits) > N_DIGITS_MAX:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names[type(value)]

"""Where the parts of a JSON schema lie: JSON pointers, base addresses, what a $ref names."""

import math
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote, urldefrag, urljoin

from .errors import ArgumentError

N_LEVELS = 100  # the reader of llguidance stops at 128
N_BITS = 1000  # of an integer: all become doubles somewhere
NO_SCHEMAS = {"enum", "const", "default", "example", "examples"}  # their values are data, whatever it looks like

Path = tuple[str | int, ...]


def pointer_of(path: Path) -> str:
    """The path as a JSON pointer, "the root" for the whole document."""
    pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
    return printable(pointer, 200) or "the root"


def reference_to(path: Path) -> str:
    """The value of a $ref to that part of the document."""
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in path)
    return "#" + "".join("/" + quote(step, safe="~!$&'()*+,;=:@") for step in steps)


def part_at(schema: Any, path: Path) -> Any:
    """Raises LookupError, TypeError where there is none."""
    for step in path:
        schema = schema[step]
    return schema


def printable(text: str, n_max: int = 60) -> str:
    """The text on one line, cut after n_max characters."""
    cut = text if len(text) <= n_max else text[:n_max] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


class Document:
    """A schema with what is needed to find its parts. Raises ArgumentError where it is no JSON."""

    def __init__(self, schema: Any) -> None:
        self.schema = schema
        self.bases: dict[Path, str] = {}  # of each object that may be a schema
        self.named: dict[str, Path] = {}  # address, with #anchor where it has one -> the part that is called so
        self._index()

    def at(self, path: Path) -> Any:
        return part_at(self.schema, path)

    def resolve(self, reference: str, path: Path) -> Path:
        """The path of what a $ref at `path` names. Raises KeyError where it is not in this document."""
        base = self.bases[path]
        address = base + reference if reference.startswith("#") else urljoin(base, reference)
        address, fragment = urldefrag(address)
        if fragment and not fragment.startswith("/"):
            return self.named[f"{address}#{unquote(fragment)}"]
        steps = [unquote(step).replace("~1", "/").replace("~0", "~") for step in fragment.split("/")[1:]]
        found = self.named[address]
        part = part_at(self.schema, found)
        for step in steps:
            key: str | int = step
            if isinstance(part, list):
                if not (step.isascii() and step.isdigit()) or int(step) >= len(part):
                    raise KeyError(step)
                key = int(step)
            elif not isinstance(part, dict):
                raise KeyError(step)
            part = part[key]
            found = (*found, key)
        return found

    def _index(self) -> None:
        waiting: list[tuple[Any, Path, str]] = [(self.schema, (), "")]
        self.named[""] = ()
        while waiting:
            part, path, base = waiting.pop()
            if len(path) > N_LEVELS:
                raise ArgumentError(f"the schema nests deeper than {N_LEVELS} levels")
            _check_json(part, path)
            if isinstance(part, dict):
                base = self._name(part, path, base)
            data = bool(path) and path[-1] in NO_SCHEMAS
            for step, inner in _members(part):
                waiting.append((inner, (*path, step), base))
            if isinstance(part, dict) and not data:
                self.bases[path] = base

    def _name(self, part: dict, path: Path, base: str) -> str:
        """Notes what the part is called; its base address."""
        for keyword in ("$id", "id"):
            name = part.get(keyword)
            if not isinstance(name, str) or any(step in NO_SCHEMAS for step in path):
                continue
            if name.startswith("#"):  # drafts 4 to 7 spell an anchor so
                self.named.setdefault(base + name, path)
            elif keyword == "$id" or not path:
                try:
                    base = urldefrag(urljoin(base, name))[0]
                except ValueError as error:
                    raise ArgumentError(f'"{keyword}" at {pointer_of(path)} is no address: {error}') from None
                self.named.setdefault(base, path)
        if isinstance(part.get("$anchor"), str):
            self.named.setdefault(f"{base}#{part['$anchor']}", path)
        return base


def _members(part: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(part, dict):
        yield from part.items()
    elif isinstance(part, list):
        yield from enumerate(part)


def _check_json(part: Any, path: Path) -> None:
    if not isinstance(part, (dict, list, str, int, float, type(None))):
        raise ArgumentError(f"{type(part).__name__} at {pointer_of(path)} is no JSON value")
    if isinstance(part, int) and part.bit_length() > N_BITS:
        raise ArgumentError(f"the number at {pointer_of(path)} has more than {N_BITS} bits")
    if isinstance(part, float) and not math.isfinite(part):
        raise ArgumentError(f"the number at {pointer_of(path)} is not finite")
    for text in part if isinstance(part, dict) else [part]:
        if isinstance(part, dict) and not isinstance(text, str):
            raise ArgumentError(f"an object at {pointer_of(path)} has a key that is no text")
        if isinstance(text, str) and not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                where = pointer_of(path).encode(errors="replace").decode()
                raise ArgumentError(f"half of a surrogate pair at {where}") from None

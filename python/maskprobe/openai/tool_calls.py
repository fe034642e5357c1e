"""Reads calls of tools out of what a model writes."""

import json
import re
from collections.abc import Collection
from typing import Any, NamedTuple

from .tools import HERMES, MARKERS, MISTRAL, PYTHON_TAG, ToolUse

HERMES_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
FENCED = re.compile(r"\s*```json\n(.*?)\n?```\s*", re.DOTALL)  # as small models like to have it
BARE_STARTS = ("{", "[", "```json")
MISTRAL_NAMED = re.compile(r"\s*([\w.-]+)\s*(?:\[ARGS\])?\s*(?=\{)")

DECODER = json.JSONDecoder(strict=False)  # models write line breaks into strings


class Call(NamedTuple):
    name: str
    arguments: str  # JSON


def parse_calls(text: str, names: Collection[str]) -> tuple[str, list[Call]] | None:
    """(the text before the calls, the calls) of a whole answer; None where it has none, or one that is no JSON.

    Calls that no marker announces count only where they are the whole text and name tools that there are."""
    starts = [at for marker in MARKERS if (at := text.find(marker)) >= 0]
    if not starts:
        fenced = FENCED.fullmatch(text)
        calls = _bare(text if fenced is None else fenced[1], needs_arguments=True)
        known = calls and all(call.name in names for call in calls)
        return ("", calls) if calls and known else None
    start = min(starts)
    before, rest = text[:start].rstrip(), text[start:]
    if rest.startswith(HERMES):
        calls = _hermes(rest)
    elif rest.startswith(MISTRAL):
        calls = _mistral(rest)
    else:
        calls = _bare(rest.removeprefix(PYTHON_TAG))
    return (before, calls) if calls else None


def _hermes(text: str) -> list[Call] | None:
    calls: list[Call] = []
    for block in HERMES_BLOCK.findall(text):
        found = _bare(block)
        if not found:
            return None
        calls += found
    return calls


def _mistral(text: str) -> list[Call] | None:
    """[TOOL_CALLS][{...}, ...], or [TOOL_CALLS]name{...} for each call."""
    calls: list[Call] = []
    for part in text.split(MISTRAL)[1:]:
        named = MISTRAL_NAMED.match(part)
        if named is None:
            found = _bare(part)
        else:
            values = _values(part[named.end() :])
            found = [Call(named[1], _dump(values[0]))] if values and isinstance(values[0], dict) else None
        if not found:
            return None
        calls += found
    return calls


def _bare(text: str, needs_arguments: bool = False) -> list[Call] | None:
    """Objects of JSON one after another, or in a list, and nothing else."""
    calls: list[Call] = []
    for value in _values(text):
        for item in value if isinstance(value, list) else [value]:
            call = _call_of(item)
            if call is None or (needs_arguments and not {"arguments", "parameters"} & item.keys()):
                return None
            calls.append(call)
    return calls


def _values(text: str) -> list[Any]:
    """The JSON values of a text, with white space, commas, semicolons between them; [] where anything else is."""
    values: list[Any] = []
    at = 0
    while True:
        while at < len(text) and (text[at].isspace() or text[at] in ",;"):
            at += 1
        if at == len(text):
            return values
        try:
            value, at = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        values.append(value)


def _call_of(item: Any) -> Call | None:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    arguments = item.get("arguments", item.get("parameters", {}))
    if isinstance(arguments, str):
        return Call(item["name"], arguments)
    return Call(item["name"], _dump(arguments)) if isinstance(arguments, dict) else None


def _dump(arguments: Any) -> str:
    return json.dumps(arguments, ensure_ascii=False)


class ToolReader:
    """Splits an answer, piece by piece, into content and calls.

    push() and finish() give what became certain: ("content", text), ("call", (index, name)) where a call begins, and
    ("arguments", (index, text)) for what is added to the arguments of one. Content comes as it is written; a call comes
    when the answer ends, the arguments of one that is forced by name as they are written.
    """

    def __init__(self, use: ToolUse) -> None:
        self._use = use
        self._held = ""
        self._in_calls = use.choice != "auto" and use.forced_name is None
        self.content = ""
        self.calls: list[Call] = []

    def push(self, text: str) -> list[tuple[str, Any]]:
        name = self._use.forced_name
        if name is not None:
            return self._push_arguments(name, text) if text else []
        self._held += text
        if self._in_calls:
            return []
        starts = [at for marker in MARKERS if (at := self._held.find(marker)) >= 0]
        if starts or (not self.content and self._held.lstrip().startswith(BARE_STARTS)):
            self._in_calls = True
            return self._release(len(self._held[: min(starts)].rstrip())) if starts else []
        return self._release(self._n_certain())

    def finish(self) -> list[tuple[str, Any]]:
        """The answer has ended."""
        if self._use.forced_name is not None:
            return []
        parsed = parse_calls(self._held, self._use.names) if self._in_calls else None
        if parsed is None:
            return self._release(len(self._held))
        self._held = ""
        before, calls = parsed
        found: list[tuple[str, Any]] = []
        if before:
            self.content += before
            found.append(("content", before))
        for call in calls:
            index = len(self.calls)
            self.calls.append(call)
            found += [("call", (index, call.name)), ("arguments", (index, call.arguments))]
        return found

    def _push_arguments(self, name: str, text: str) -> list[tuple[str, Any]]:
        if not self.calls:
            self.calls.append(Call(name, text))
            return [("call", (0, name)), ("arguments", (0, text))]
        self.calls[0] = Call(name, self.calls[0].arguments + text)
        return [("arguments", (0, text))]

    def _n_certain(self) -> int:
        """How much of what is held can begin no marker, with the white space before one."""
        for start in range(max(0, len(self._held) - 64), len(self._held)):
            rest = self._held[start:].lstrip()
            if any(marker.startswith(rest) for marker in (MARKERS if self.content else MARKERS + BARE_STARTS)):
                return start
        return len(self._held)

    def _release(self, n: int) -> list[tuple[str, Any]]:
        text, self._held = self._held[:n], self._held[n:]
        self.content += text
        return [("content", text)] if text else []

"""Tools: what a request says of them, how a model is made to call one, and how its answer is read back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._capi import shown
from ..errors import ArgumentError
from ..schema_references import printable
from .values import Unsupported, is_equal, items, mapping

# How a template has its model write calls, by what stands in the template. The first that fits.
STYLES = {
    "hermes": ("<tool_call>",),  # <tool_call>{"name": ..., "arguments": {...}}</tool_call>: Qwen, Hermes, SmolLM
    "mistral": ("[TOOL_CALLS]",),  # [TOOL_CALLS][{"name": ..., "arguments": {...}}]
    "llama3": ("<|python_tag|>", '"parameters"'),  # {"name": ..., "parameters": {...}}
}

# What comes before the arguments of a call to a function that the request names.
PRIMERS = {
    "hermes": '<tool_call>\n{{"name": {name}, "arguments": ',
    "mistral": '[TOOL_CALLS][{{"name": {name}, "arguments": ',
    "llama3": '{{"name": {name}, "parameters": ',
}

MARKERS = ("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>")
HERMES, MISTRAL, PYTHON_TAG = MARKERS


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a request wants of its tools."""

    tools: tuple[Mapping[str, Any], ...]
    choice: str  # "auto", "required", or "named"
    names: tuple[str, ...]  # that may be called; exactly one where it is named
    style: str  # of STYLES, or "json"
    legacy: bool  # asked for as functions: the answer has "function_call" too

    @property
    def forced_name(self) -> str | None:
        """The one function that can be called, where one must be: its arguments are all that the model writes."""
        return self.names[0] if self.choice != "auto" and len(self.names) == 1 else None

    def schema(self) -> Any:
        """What the model's text must obey; None where it is free."""
        if self.choice == "auto":
            return None
        allowed = [tool["function"] for tool in self.tools if tool["function"]["name"] in self.names]
        if len(allowed) == 1:
            return _parameters(allowed[0])
        key = "parameters" if self.style == "llama3" else "arguments"
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, key: _parameters(function)},
                "required": ["name", key],
                "additionalProperties": False,
            }
            for function in allowed
        ]
        return {"anyOf": calls}

    def primer(self) -> str:
        """What is put into the model's mouth before it writes."""
        if self.forced_name is not None:
            return PRIMERS.get(self.style, "").format(name=json.dumps(self.forced_name, ensure_ascii=False))
        return "<tool_call>\n" if self.choice == "required" and self.style == "hermes" else ""


def _parameters(function: Mapping[str, Any]) -> Any:
    """The schema of a function's arguments: an empty object where it says nothing of them."""
    return function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}


def style_of(template: str) -> str:
    for style, signs in STYLES.items():
        if all(sign in template for sign in signs):
            return style
    return "json"


def tool_use(tools: Any, tool_choice: Any, functions: Any, function_call: Any, template: str) -> ToolUse | None:
    """What a request wants, None where no tool may be called. `functions` and `function_call` are the older names.

    Raises ArgumentError for definitions and choices that make no sense, Unsupported for tools but functions."""
    legacy = functions is not None
    if legacy:
        if tools is not None:
            raise ArgumentError("tools and functions are two names of one thing: give one of them")
        tools = [{"type": "function", "function": function} for function in items("functions", functions)]
    if function_call is not None:
        if tool_choice is not None:
            raise ArgumentError("tool_choice and function_call are two names of one thing: give one of them")
        is_named = isinstance(function_call, Mapping)
        tool_choice = {"type": "function", "function": function_call} if is_named else function_call
    checked = tuple(_checked(i, tool) for i, tool in enumerate(items("tools", () if tools is None else tools)))
    names = tuple(tool["function"]["name"] for tool in checked)
    if len(set(names)) < len(names):
        raise ArgumentError(f"tools: two have the same name, of {printable(', '.join(names))}")
    choice, name = _choice(tool_choice, names)
    if choice == "none" or (choice == "auto" and not checked):
        return None
    if not checked:
        raise ArgumentError(f"tool_choice = {shown(tool_choice)} needs tools")
    style = style_of(template)
    return ToolUse(checked, choice, names if name is None else (name,), style, legacy)


def _checked(i: int, tool: Any) -> Mapping[str, Any]:
    kind = mapping(f"tools[{i}]", tool).get("type")
    if not is_equal(kind, "function"):
        raise Unsupported(f"tools[{i}].type = {shown(kind)} is not supported: only functions are")
    function = mapping(f"tools[{i}].function", tool.get("function"))
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise ArgumentError(f"tools[{i}].function.name must be non-empty text, not {shown(name)}")
    if function.get("parameters") is not None:
        mapping(f"tools[{i}].function.parameters", function["parameters"])
    return dict(tool)


def _choice(tool_choice: Any, names: Sequence[str]) -> tuple[str, str | None]:
    """("none", "auto" or "required", None), or ("named", the name)."""
    if tool_choice is None:
        return "auto", None
    if isinstance(tool_choice, str):
        if tool_choice not in ("none", "auto", "required"):
            raise ArgumentError(f"tool_choice = {shown(tool_choice)} must be none, auto, required or a function")
        return tool_choice, None
    named = mapping("tool_choice", tool_choice)
    if not is_equal(named.get("type", "function"), "function"):
        raise Unsupported(f"tool_choice.type = {shown(named.get('type'))} is not supported: only functions are")
    name = mapping("tool_choice.function", named.get("function")).get("name")
    if not isinstance(name, str) or name not in names:
        raise ArgumentError(f"tool_choice names {shown(name)}, the tools are {printable(', '.join(names)) or 'none'}")
    return "named", name

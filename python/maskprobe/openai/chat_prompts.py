"""Messages to the tokens of a prompt: through the model's own chat template, or a format by name."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .._capi import shown
from ..errors import ArgumentError
from ..model import Model
from ..schema_references import printable
from .tools import ToolUse
from .values import Unsupported, is_equal, items, mapping

TEMPLATE_KEY = "tokenizer.chat_template"
TOOLS_TEMPLATE_KEY = "tokenizer.chat_template.tool_use"
OWN_TEMPLATE = "chat_template.default"  # llama-cpp-python's name of it
FALLBACK = "llama-2"  # of models without a template, as llama-cpp-python has it

ROLES_OF_FORMATS = ("system", "user", "assistant")

# How llama-cpp-python makes a handler of a plain format: a format by name is one of these, or has steps of its own.
PLAIN_FORMAT = "chat_formatter_to_chat_completion_handler.<locals>.chat_completion_handler"


class ChatPrompt(NamedTuple):
    tokens: list[int]
    text: str
    stop: tuple[str, ...]  # beside what the request wants


def checked_messages(messages: Any) -> list[dict[str, Any]]:
    """The messages of a request, for a template: parts of text are put together, arguments of calls are objects.

    Raises ArgumentError for what is no message, Unsupported for parts other than text."""
    found = [_checked(f"messages[{i}]", message) for i, message in enumerate(items("messages", messages))]
    if not found:
        raise ArgumentError("messages must not be empty")
    return found


def _checked(where: str, message: Any) -> dict[str, Any]:
    checked = dict(mapping(where, message))
    if not isinstance(checked.get("role"), str):
        raise ArgumentError(f"{where}.role must be text, not {shown(checked.get('role'))}")
    content = checked.get("content")
    if isinstance(content, list | tuple):
        checked["content"] = "\n".join(_text_of(f"{where}.content[{i}]", part) for i, part in enumerate(content))
    elif content is None:
        if checked["role"] != "assistant":
            raise ArgumentError(f"{where}.content is missing")
        checked["content"] = ""
    elif not isinstance(content, str):
        raise ArgumentError(f"{where}.content must be text or a list of parts, not {type(content).__name__}")
    calls = checked.get("tool_calls")
    if calls is None:
        checked.pop("tool_calls", None)
    else:
        checked["tool_calls"] = [
            _call_of(f"{where}.tool_calls[{i}]", call) for i, call in enumerate(items(f"{where}.tool_calls", calls))
        ]
    return checked


def _text_of(where: str, part: Any) -> str:
    kind = mapping(where, part).get("type")
    if not is_equal(kind, "text"):
        raise Unsupported(f"{where}.type = {shown(kind)} is not supported: maskprobe reads text only")
    text = part.get("text")
    if not isinstance(text, str):
        raise ArgumentError(f"{where}.text must be text, not {shown(text)}")
    return text


def _call_of(where: str, call: Any) -> dict[str, Any]:
    """A call with its arguments as an object, which is what templates write out."""
    function = dict(mapping(f"{where}.function", mapping(where, call).get("function")))
    if isinstance(function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(function["arguments"])
        except (ValueError, RecursionError) as error:
            raise ArgumentError(f"{where}.function.arguments is no JSON: {error}") from None
    return {**call, "function": function}


class ChatPrompts:
    """Makes prompts for one model.

    chat_format: None: the model's template, or FALLBACK where it has none; else a format of llama-cpp-python by name.
    `handler` is llama-cpp-python's function of a format that has steps of its own (functionary, ...), else None.

    Raises ArgumentError for a format that is not known, or that the model has not.
    """

    def __init__(self, model: Model, chat_format: str | None = None) -> None:
        if chat_format is not None and not isinstance(chat_format, str):
            raise ArgumentError(f"chat_format must be a name, not {shown(chat_format)}")
        self._model = model
        own = model.metadata(TEMPLATE_KEY) or ""
        self.template = model.metadata(TOOLS_TEMPLATE_KEY) or own  # which says more about tools
        if chat_format == OWN_TEMPLATE and not self.template:
            raise ArgumentError(f"chat_format = {OWN_TEMPLATE!r}: the model has no chat template")
        self.format = chat_format or (OWN_TEMPLATE if self.template else FALLBACK)
        named = None if self.format == OWN_TEMPLATE else _named(self.format)
        is_plain = getattr(named, "__qualname__", "") == PLAIN_FORMAT
        self._plain: Any = named if is_plain else None
        self.handler: Any = None if is_plain else named

    @property
    def style_template(self) -> str:
        """The template that tells how the model writes calls; "" with a format by name."""
        return self.template if self.format == OWN_TEMPLATE else ""

    def prompt(
        self, messages: Sequence[Mapping[str, Any]], use: ToolUse | None, variables: Mapping[str, Any]
    ) -> ChatPrompt:
        """The tokens of a conversation whose next message is the assistant's. `variables` go to the template.

        Raises ArgumentError (the template refuses the conversation), ModelError (the template is broken)."""
        primer = "" if use is None else use.primer()
        if self._plain is not None:
            return self._in_format(messages, use, primer, variables)
        settings: dict[str, Any] = dict(variables)
        if use is not None:
            if "tools" in self.template:
                settings["tools"] = list(use.tools)
            elif use.choice == "auto":
                raise Unsupported("tools are not supported by this model: its chat template has no place for them")
        text = self._model.chat_format(messages, **settings) + primer
        adds_bos = not self._model.begins_with_bos(text)
        return ChatPrompt(self._model.tokenize(text, add_special=adds_bos, parse_special=True), text, ())

    def _in_format(
        self, messages: Sequence[Mapping[str, Any]], use: ToolUse | None, primer: str, variables: Mapping[str, Any]
    ) -> ChatPrompt:
        for i, message in enumerate(messages):
            if message["role"] not in ROLES_OF_FORMATS:
                raise ArgumentError(f"messages[{i}]: the format {self.format} has no role {shown(message['role'])}")
        if use is not None and use.choice == "auto":
            raise Unsupported(
                f"tools are not supported by chat_format = {self.format!r}, unless tool_choice forces one"
            )
        if variables:
            names = printable(", ".join(map(str, variables)))
            raise Unsupported(f"{names}: chat_format = {self.format!r} takes no variables")
        writer = _Writer(self._model, primer)
        try:
            self._plain(llama=writer, messages=list(messages))
        except _Written:
            pass
        except (KeyError, TypeError) as error:
            raise ArgumentError(f"the format {self.format} cannot write these messages: {shown(error)}") from None
        return ChatPrompt(writer.tokens, writer.text, writer.stop)


def _named(name: str) -> Any:
    from llama_cpp import llama_chat_format

    try:
        return llama_chat_format.get_chat_completion_handler(name)
    except llama_chat_format.LlamaChatCompletionHandlerNotFoundException:
        raise ArgumentError(f"chat_format = {shown(name)} is none that llama-cpp-python knows") from None


class _Written(Exception):
    """The prompt is there: nothing else is wanted of a format."""


class _Writer:
    """Stands where a format expects a llama_cpp.Llama, and keeps the prompt that it makes."""

    verbose = False

    def __init__(self, model: Model, primer: str) -> None:
        self._model, self._primer = model, primer
        self.tokens: list[int] = []
        self.text = ""
        self.stop: tuple[str, ...] = ()

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        self.text = text.decode() + self._primer
        return self._model.tokenize(self.text, add_special=add_bos, parse_special=special)

    def create_completion(self, prompt: list[int], stop: Sequence[str] | None = None, **_sampling: Any) -> None:
        self.tokens, self.stop = prompt, tuple(stop or ())
        raise _Written

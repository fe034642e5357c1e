"""The chat template that comes with a model: messages become the text that the model was trained on."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2

from . import template_sandbox
from ._capi import c_string, shown
from .errors import ArgumentError, ModelError
from .schema_references import printable
from .template_meter import Exceeded

if TYPE_CHECKING:
    from .model import Model

TEMPLATE_KEY = "tokenizer.chat_template"  # and with ".NAME" after it further ones
TOOLS_TEMPLATE = "tool_use"

# Variables of templates, and the keys of the tokens whose texts they are. BOS and EOS are always there, "" without one.
TOKEN_KEYS = {
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "sep_token": "tokenizer.ggml.seperator_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
    "cls_token": "tokenizer.ggml.cls_token_id",
    "mask_token": "tokenizer.ggml.mask_token_id",
}

MESSAGE_CHARACTERS = 300  # of what a template says in an error


class ChatTemplate:
    """The Jinja template of a model's file, as transformers renders it, in a sandbox.

    The template sees `messages`, `tools`, `documents`, `add_generation_prompt`, `bos_token`, `eos_token` and the other
    special tokens that the file has, `raise_exception()`, `strftime_now()` and Jinja's own names. It may use
    `{% break %}`, `{% continue %}` and `{% generation %}`. Where the file has a template named "tool_use", that one is
    taken for conversations with tools. There are no files, no random numbers and no filters for web pages (`urlize`,
    `striptags`, `wordwrap`, ...). A rendering has a budget of steps, text and memory: see template_meter.py.

    The text of a special token inside a message is not escaped: tokenized with `parse_special` it is that token, as
    in llama.cpp. Who takes messages from strangers must look for such texts first.

    Raises ModelError where the file has no template ("unsupported"), or one that is not sound.
    """

    def __init__(self, model: "Model") -> None:
        source = model.metadata(TEMPLATE_KEY)
        tools_source = model.metadata(f"{TEMPLATE_KEY}.{TOOLS_TEMPLATE}")
        if source is None and tools_source is None:
            arch = model.info.arch
            raise ModelError(f"this {arch} model has no chat template: give the prompt as it is", "unsupported")
        self._plain = None if source is None else _compile(source)
        self._with_tools = self._plain if tools_source is None else _compile(tools_source)
        self._tokens = _special_tokens(model)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The text of a conversation, with the beginning of the assistant's answer if `add_generation_prompt`.

        A message has "role" and "content": a text, a list of parts ({"type": "text", "text": ...}) or a mapping. An
        assistant's may have "tool_calls" and others instead of a content. `tools` are descriptions in JSON schema, and
        `variables` what the template has beside (`enable_thinking`, `documents`, `date_string`, ...).

        Raises ArgumentError for messages that are malformed or that the template refuses, for tools and variables of
        which the template knows nothing; ModelError where the template fails, takes too long or reaches out.
        """
        tools = list(tools) if tools else None
        template = self._with_tools if tools else self._plain
        if template is None:
            raise ModelError(f"this model has only a chat template for tools ({TEMPLATE_KEY}.{TOOLS_TEMPLATE})")
        checked = _checked_messages(messages)
        if not all(isinstance(tool, Mapping) for tool in tools or ()):
            raise ArgumentError("each tool must be a mapping with its description in JSON schema")
        given = {**({"tools": tools} if tools else {}), **variables}
        unknown = [name for name, value in given.items() if value is not None and name not in template.names]
        if unknown:
            raise ArgumentError(f"this model's chat template has no place for {printable(', '.join(unknown))}")
        everything = {
            **self._tokens,
            "messages": checked,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **variables,
        }
        text = _render(template, everything)
        c_string(text, "the conversation")
        return text


def _compile(source: str) -> template_sandbox.Template:
    try:
        return template_sandbox.Template(source)
    except Exception as error:
        raise ModelError(f"this model's chat template {_what_is_wrong(error, 'cannot be read')}") from None


def _render(template: template_sandbox.Template, variables: dict[str, Any]) -> str:
    try:
        return template.render(variables)
    except template_sandbox.BadValue as error:
        raise ArgumentError(_line(error)) from None
    except template_sandbox.Refused as error:
        raise ArgumentError(f"this model's chat template refuses the conversation: {_line(error)}") from None
    except Exception as error:
        raise ModelError(f"this model's chat template {_what_is_wrong(error, 'fails')}") from None


def _what_is_wrong(error: Exception, verb: str) -> str:
    line = template_sandbox.line_of(error)
    where = f" at line {line}" if line else ""
    if isinstance(error, Exceeded):
        return f"{_line(error)}{where}"
    if isinstance(error, RecursionError | MemoryError):
        return f"{verb}{where}: it nests too deep or needs too much memory"
    kind = "" if isinstance(error, jinja2.TemplateError | SyntaxError) else f"{type(error).__name__}: "
    return f"{verb}{where}: {kind}{_line(error)}"


def _line(error: Exception) -> str:
    """What an error says, on one line, without characters that a terminal would obey."""
    said = getattr(error, "message", None) or getattr(error, "msg", None) or str(error)
    words = " ".join(str(said)[: 4 * MESSAGE_CHARACTERS].split())
    text = "".join("?" if unicodedata.category(character)[0] == "C" else character for character in words)
    return text if len(text) <= MESSAGE_CHARACTERS else f"{text[:MESSAGE_CHARACTERS]}..."


def _special_tokens(model: "Model") -> dict[str, str]:
    ids = {"bos_token": model.info.token_bos, "eos_token": model.info.token_eos}
    for name, key in TOKEN_KEYS.items():
        token = model.metadata(key)
        if token is not None and token.isascii() and token.isdigit() and int(token) < model.info.n_vocab:
            ids[name] = int(token)
    return {
        name: model.token_bytes(token, special=True).decode("utf-8", "replace") if token >= 0 else ""
        for name, token in ids.items()
    }


def _checked_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise ArgumentError(f"messages must be a list of mappings, not a {type(messages).__name__}")
    if not messages:
        raise ArgumentError("a conversation needs at least one message")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ArgumentError(f"message {i} must be a mapping, not a {type(message).__name__}")
        _check_message(i, message)
    return [message if isinstance(message, dict) else dict(message) for message in messages]


def _check_message(i: int, message: Mapping[str, Any]) -> None:
    """An assistant's message may have something else than a content, and no content then."""
    role, content = message.get("role"), message.get("content")
    answers = role == "assistant" and len(message.keys() - {"role", "content"}) > 0
    if "role" not in message or ("content" not in message and not answers):
        raise ArgumentError(f'message {i} needs "role" and "content", it has {shown(sorted(map(str, message)))}')
    if not isinstance(role, str):
        raise ArgumentError(f"the role of message {i} must be a text, not a {type(role).__name__}")
    c_string(role, f"the role of message {i}")
    if isinstance(content, str):
        c_string(content, f"the content of message {i}")
    elif content is None and role == "assistant":
        pass
    elif isinstance(content, list | tuple):
        for part in content:
            if not isinstance(part, str | Mapping):
                raise ArgumentError(f"a part of the content of message {i} is a {type(part).__name__}, not a mapping")
    elif not isinstance(content, Mapping):
        raise ArgumentError(
            f"the content of message {i} must be a text or a list of parts, not a {type(content).__name__}"
        )

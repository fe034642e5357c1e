"""POST /v1/responses: OpenAI's Responses API over the chat route's machinery. Nothing is stored."""

from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ..openai.results import ChatAnswer
from .answering import EventStream, Job, while_connected
from .bodies import Fields, read_json, shown
from .openai_routes import EVENTS, common
from .response_events import Reply, encoded
from .running import Server

PARTS = ("input_text", "output_text", "text")  # of a message's content: all are text
NOTHING_STORED = "nothing is stored: send the whole conversation as input"

# Fields that change nothing at these values, and why others are refused.
ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "previous_response_id": ((), NOTHING_STORED),
    "conversation": ((), NOTHING_STORED),
    "prompt": ((), NOTHING_STORED),
    "background": ((False,), NOTHING_STORED),
    "include": (([],), "a response has all that there is"),
    "reasoning": (({},), "thoughts are not told apart from the answer"),
    "truncation": (("disabled",), "an input that does not fit is an error"),
    "parallel_tool_calls": ((True,), "a model may always call several"),
    "max_tool_calls": ((), "this server calls no tools"),
    "top_logprobs": ((0,), "/v1/chat/completions has them"),
    "n": ((1,), "a response is one answer"),
    "maskprobe": (({},), "/v1/chat/completions has the evidence"),
}


async def responses(request: Request) -> Any:
    server: Server = request.app.state.server
    fields = Fields(await read_json(request, server.settings.max_body))
    entry = server.models.find(fields.take("model", str))
    for name, (accepted, why) in ONLY.items():
        fields.only(name, *accepted, why=why)
    metadata = fields.take("metadata", dict, {})
    wants = common(fields, entry, server, max_names=("max_output_tokens",))
    wants.include_usage = wants.stream
    instructions = fields.take("instructions", str)
    messages = [] if instructions is None else [{"role": "system", "content": instructions}]
    messages += _messages(fields)
    tools = fields.take("tools", list, [])
    choice = fields.take("tool_choice", (str, dict), "auto")
    text = Fields(fields.take("text", dict, {}), "text.")
    form = text.take("format", dict, {"type": "text"})
    text.only("verbosity", "medium", why="a model writes as much as it writes")
    text.done()
    fields.done()
    arguments = {
        **wants.arguments,
        "response_format": _response_format(text, form),
        "tools": [_tool(fields, i, tool) for i, tool in enumerate(tools)] or None,
        "tool_choice": choice if isinstance(choice, str) else _named(choice),
    }
    job = wants.job(request, lambda loaded: [loaded.planner.chat(messages, **arguments)], ChatAnswer)
    reply = Reply(
        {
            "instructions": instructions,
            "max_output_tokens": arguments["max_tokens"],
            "metadata": metadata,
            "model": entry.name,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "temperature": arguments["temperature"],
            "text": {"format": form},
            "tool_choice": choice,
            "tools": tools,
            "top_p": arguments.get("top_p", 0.95),
            "truncation": "disabled",
        }
    )
    if wants.stream:
        return EventStream(_events(job, reply), EVENTS, reply.failed, server.settings.timeout_s)
    result, _ = await while_connected(request.receive, job.whole())
    (answer,) = result["choices"]
    message = answer["message"]
    calls = [{"index": i, **call} for i, call in enumerate(message.get("tool_calls", ()))]
    for _ in (*reply.add({**message, "tool_calls": calls}), *reply.end(answer["finish_reason"], result["usage"])):
        pass  # nobody wants the events
    return JSONResponse(reply.response)


async def _events(job: Job, reply: Reply) -> AsyncIterator[bytes]:
    reason = ""
    usage: dict[str, Any] = {}
    async for chunk, _ in job.stream():
        if not reply.has_begun:
            for event in reply.begin():
                yield encoded(event)
        for choice in chunk["choices"]:
            reason = choice["finish_reason"] or reason
            for event in reply.add(choice["delta"]):
                yield encoded(event)
        usage = chunk["usage"] or usage
    for event in reply.end(reason, usage):
        yield encoded(event)


# --- what a request says, as a chat has it ---------------------------------------------------------------------------


def _messages(fields: Fields) -> list[dict[str, Any]]:
    """The input. Calls that follow an answer, or one another, are one message's."""
    given = fields.take("input", (str, list))
    if not given:
        raise fields.wrong("input", "is missing" if given is None else "is empty")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict[str, Any]] = []
    for i, item in enumerate(given):
        if not isinstance(item, dict):
            raise fields.wrong(f"input[{i}]", "must be an object")
        message = _message(Fields(item, f"input[{i}]."))
        if "tool_calls" in message and messages and messages[-1]["role"] == "assistant":
            messages[-1].setdefault("tool_calls", []).extend(message["tool_calls"])
        else:
            messages.append(message)
    return messages


def _message(fields: Fields) -> dict[str, Any]:
    kind = fields.take("type", str, "message")
    fields.drop(("id", "status"))
    if kind == "message":
        role = _needed(fields, "role")
        message = {"role": "system" if role == "developer" else role, "content": _text(fields, "content")}
    elif kind == "function_call":
        function = {name: _needed(fields, name) for name in ("name", "arguments")}
        call = {"id": _needed(fields, "call_id"), "type": "function", "function": function}
        message = {"role": "assistant", "content": "", "tool_calls": [call]}
    elif kind == "function_call_output":
        message = {"role": "tool", "tool_call_id": _needed(fields, "call_id"), "content": _text(fields, "output")}
    else:
        raise fields.wrong("type", f"= {shown(kind)} is not supported: messages and calls of functions are")
    fields.done()
    return message


def _needed(fields: Fields, name: str) -> Any:
    value = fields.take(name, str)
    if value is None:
        raise fields.wrong(name, "is missing")
    return value


def _text(fields: Fields, name: str) -> str:
    given: str | list[Any] | None = fields.take(name, (str, list))
    if given is None:
        raise fields.wrong(name, "is missing")
    if isinstance(given, str):
        return given
    texts = []
    for i, part in enumerate(given):
        if not isinstance(part, dict) or part.get("type") not in PARTS:
            raise fields.wrong(f"{name}[{i}].type", "is not supported: maskprobe reads text only")
        if not isinstance(part.get("text"), str):
            raise fields.wrong(f"{name}[{i}].text", "must be text")
        texts.append(part["text"])
    return "\n".join(texts)


def _response_format(text: Fields, form: dict[str, Any]) -> dict[str, Any]:
    kind = form.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise text.wrong("format.type", "must be text, json_object or json_schema")
    if kind != "json_schema":
        return {"type": kind}
    if "schema" not in form:
        raise text.wrong("format.schema", "is missing")
    return {"type": kind, "json_schema": form}


def _tool(fields: Fields, i: int, tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise fields.wrong(f"tools[{i}].type", "is not supported: only functions are")
    given = Fields(tool, f"tools[{i}].")
    function = {"name": _needed(given, "name"), **given.some(("description", "parameters"))}
    given.drop(("type", "strict"))
    given.done()
    return {"type": "function", "function": function}


def _named(choice: dict[str, Any]) -> dict[str, Any]:
    """A function that must be called."""
    given = Fields(choice, "tool_choice.")
    given.only("type", "function", why="only functions can be called")
    function = {"name": _needed(given, "name")}
    given.done()
    return {"type": "function", "function": function}


ROUTES = [Route("/v1/responses", responses, methods=["POST"])]

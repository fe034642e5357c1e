"""/v1/...: OpenAI's completions, chat completions, embeddings and models."""

import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..openai.requests import Plan
from ..openai.results import ChatAnswer, CompletionAnswer
from .answering import EventStream, Job, client_of, while_connected
from .bodies import Fields, read_json
from .embedding import embeddings_of
from .errors import ApiError, shape
from .models import Entry, Loaded
from .running import Server

MOST_CHOICES = 64  # prompts times n
MOST_STOPS = 64
STARTED = int(time.time())

# Arguments of a Planner, which checks them.
SAMPLING = (
    "top_p",
    "min_p",
    "typical_p",
    "top_k",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "repeat_penalty",
    "tfs_z",
    "mirostat_mode",
    "mirostat_tau",
    "mirostat_eta",
    "logit_bias",
    "grammar",
    "ignore_eos",
)
OF_CHATS = (
    "functions",
    "function_call",
    "tools",
    "tool_choice",
    "response_format",
    "logprobs",
    "top_logprobs",
    "chat_template_kwargs",
)
OF_COMPLETIONS = ("suffix", "logprobs", "echo")

# They change nothing that this server does.
FOR_OTHERS = ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prediction")
TEMPERATURE = 0.8  # llama-server's
COMPLETION_TOKENS = 16  # OpenAI's
EVENTS = "text/event-stream; charset=utf-8"


async def chat_completions(request: Request) -> Any:
    server: Server = request.app.state.server
    fields = Fields(await read_json(request, server.settings.max_body))
    entry = server.models.find(fields.take("model", str))
    wants = common(fields, entry, server, max_names=("max_completion_tokens", "max_tokens", "n_predict"))
    messages = fields.take("messages", list)
    if messages is None:
        raise fields.wrong("messages", "is missing")
    arguments = {**wants.arguments, **fields.some(OF_CHATS)}
    arguments["messages"] = [
        {**message, "role": "system"} if isinstance(message, dict) and message.get("role") == "developer" else message
        for message in messages
    ]
    fields.only("parallel_tool_calls", True, why="a model may always call several")
    fields.only("modalities", ["text"], why="only text is generated")
    fields.done()
    return await wants.answer(request, lambda loaded: [loaded.planner.chat(**arguments)], ChatAnswer)


async def completions(request: Request) -> Any:
    server: Server = request.app.state.server
    fields = Fields(await read_json(request, server.settings.max_body))
    entry = server.models.find(fields.take("model", str))
    wants = common(fields, entry, server, max_names=("max_tokens", "n_predict"), max_default=COMPLETION_TOKENS)
    prompt = fields.take("prompt", (str, list))
    if prompt is None:
        raise fields.wrong("prompt", "is missing")
    prompts = prompt if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list) else [prompt]
    for i, one in enumerate(prompts):
        if not isinstance(one, str | list):
            raise fields.wrong(f"prompt[{i}]", "must be text or a list of tokens, as the others are")
    arguments = {**wants.arguments, **fields.some(OF_COMPLETIONS)}
    if len(prompts) * wants.n > MOST_CHOICES:
        raise fields.wrong("prompt", f"and n ask for {len(prompts) * wants.n} answers, {MOST_CHOICES} at most")
    fields.only("best_of", wants.n, 1, why="all answers that are generated are sent")
    fields.done()

    def plan(loaded: Loaded) -> Sequence[Plan]:
        return [loaded.planner.completion(one, **arguments) for one in prompts]

    return await wants.answer(request, plan, CompletionAnswer)


class Wants:
    """What both kinds of requests say."""

    def __init__(self, entry: Entry, server: Server, arguments: dict[str, Any]) -> None:
        self.entry, self.server, self.arguments = entry, server, arguments
        self.n = 1
        self.stream = self.include_usage = self.evidence = False

    async def answer(
        self,
        request: Request,
        plan: Callable[[Loaded], Sequence[Plan]],
        shape_of: type[ChatAnswer] | type[CompletionAnswer],
    ) -> Any:
        job = self.job(request, plan, shape_of)
        if self.stream:
            return EventStream(_events(job), EVENTS, _failed, self.server.settings.timeout_s)
        result, _ = await while_connected(request.receive, job.whole())
        return JSONResponse(result)

    def job(
        self,
        request: Request,
        plan: Callable[[Loaded], Sequence[Plan]],
        shape_of: type[ChatAnswer] | type[CompletionAnswer],
    ) -> Job:
        return Job(
            self.server,
            self.entry,
            client_of(request),
            plan,
            shape_of,
            n=self.n,
            include_usage=self.include_usage,
            wants_evidence=self.evidence,
        )


async def _events(job: Job) -> AsyncIterator[bytes]:
    async for chunk, _ in job.stream():
        yield b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def _failed(error: ApiError) -> bytes:
    return b"data: " + json.dumps(shape(error, ollama=False)).encode() + b"\n\ndata: [DONE]\n\n"


def common(
    fields: Fields, entry: Entry, server: Server, *, max_names: Sequence[str], max_default: int | None = None
) -> Wants:
    wants = Wants(entry, server, fields.some(SAMPLING))
    arguments = wants.arguments
    temperature = fields.take("temperature", (int, float), TEMPERATURE)
    if temperature < 0:
        raise fields.wrong("temperature", f"= {temperature} must not be negative")
    arguments["temperature"] = temperature
    arguments["max_tokens"] = max_tokens(fields, max_names, max_default)
    stop = fields.take("stop", (str, list), [])
    if len(stop) > MOST_STOPS and isinstance(stop, list):
        raise fields.wrong("stop", f"has {len(stop)} strings, {MOST_STOPS} at most")
    arguments["stop"] = stop
    arguments |= drafting(fields)
    wants.n = fields.integer("n", 1, 1, MOST_CHOICES)
    wants.stream = fields.take("stream", bool, False)
    options = Fields(fields.take("stream_options", dict, {}), "stream_options.")
    wants.include_usage = options.take("include_usage", bool, False)
    options.only("include_obfuscation", False, why="chunks are as long as their text")
    options.done()
    ours = Fields(fields.take("maskprobe", dict, {}), "maskprobe.")
    wants.evidence = ours.take("evidence", bool, False)
    ours.done()
    fields.only("store", False, why="nothing is stored")
    fields.only("service_tier", "auto", "default", why="there is one tier")
    fields.only("cache_prompt", True, why="the engine always keeps what prompts have in common")
    fields.drop(FOR_OTHERS)
    return wants


def max_tokens(fields: Fields, names: Sequence[str], default: int | None) -> int | None:
    """Of several names the first that is there; -1 and None: no limit."""
    found = default
    for name in reversed(names):
        value = fields.integer(name, None, -1, 2**31 - 1)
        if value == 0:
            raise fields.wrong(name, "must be at least 1, or -1 for no limit")
        found = found if value is None else value
    return None if found == -1 else found


def drafting(fields: Fields) -> dict[str, Any]:
    """draft and rows, as arguments of a Planner; None: as the server has them."""
    draft = fields.take("draft", (str, bool), "auto")
    known = {"on": True, True: True, "off": False, False: False, "auto": None}
    if draft not in known:
        raise fields.wrong("draft", 'must be "on", "off" or "auto"')
    rows = fields.take("rows", (int, float, str), "auto")
    return {"draft": known[draft], "rows": None if rows == "auto" else rows}


async def embeddings(request: Request) -> Response:
    server: Server = request.app.state.server
    fields = Fields(await read_json(request, server.settings.max_body))
    entry = server.models.find(fields.take("model", str))
    texts = fields.take("input", (str, list))
    if texts is None:
        raise fields.wrong("input", "is missing")
    encoding = fields.take("encoding_format", str, "float")
    if encoding not in ("float", "base64"):
        raise fields.wrong("encoding_format", 'must be "float" or "base64"')
    n_wanted = fields.integer("dimensions", None, 1, 2**31 - 1)
    fields.drop(FOR_OTHERS)
    fields.done()
    is_several = isinstance(texts, list) and (not texts or isinstance(texts[0], str | list))
    found = await while_connected(
        request.receive,
        embeddings_of(server, entry, client_of(request), texts if is_several else [texts], n_wanted=n_wanted),
    )
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": row.tolist()
            if encoding == "float"
            else base64.b64encode(row.astype("<f4").tobytes()).decode(),
        }
        for i, row in enumerate(found.rows)
    ]
    counts = {"prompt_tokens": found.n_tokens, "total_tokens": found.n_tokens}
    return JSONResponse({"object": "list", "data": data, "model": entry.name, "usage": counts})


async def list_models(request: Request) -> Response:
    server: Server = request.app.state.server
    return JSONResponse({"object": "list", "data": [_card(entry) for entry in server.models.entries.values()]})


async def show_model(request: Request) -> Response:
    server: Server = request.app.state.server
    return JSONResponse(_card(server.models.find(request.path_params["model"])))


def _card(entry: Entry) -> dict[str, Any]:
    card: dict[str, Any] = {"id": entry.name, "object": "model", "created": STARTED, "owned_by": "maskprobe"}
    if entry.loaded is not None:
        info = entry.loaded.model.info
        card["meta"] = {
            "n_vocab": info.n_vocab,
            "n_ctx": entry.loaded.n_ctx,
            "n_ctx_train": info.n_ctx_train,
            "n_embd": info.n_embd,
            "n_params": info.n_params,
            "size": info.size,
        }
    return card | {"status": {"value": entry.state}}


ROUTES = [
    Route("/v1/completions", completions, methods=["POST"]),
    Route("/v1/chat/completions", chat_completions, methods=["POST"]),
    Route("/v1/embeddings", embeddings, methods=["POST"]),
    Route("/v1/models", list_models, methods=["GET"]),
    Route("/v1/models/{model:path}", show_model, methods=["GET"]),
]

"""/api/...: Ollama's chat, generate, embed, tags, show, ps and version."""

import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .. import __version__
from ..generation import Stats
from ..openai.fill_in_middle import fill_tokens
from ..openai.requests import Plan
from ..openai.results import ChatAnswer, CompletionAnswer
from ..openai.schemas import schema_of_format
from ..openai.values import ContextExceeded
from .answering import EventStream, Job, client_of, while_connected
from .bodies import Fields, read_json
from .embedding import embeddings_of
from .errors import ApiError, shape
from .models import Entry, Loaded, in_thread
from .ollama_fields import KEEP_AS_IT_IS, arguments_of, keep_alive, model_name, response_format
from .openai_routes import MOST_STOPS, drafting
from .running import Run, Server

# Options as Ollama has them, and its defaults.
SAMPLING_DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "repeat_penalty": 1.1}
SAMPLING = (*SAMPLING_DEFAULTS, "typical_p", "tfs_z", "seed", "presence_penalty", "frequency_penalty")
AT_START = ("num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "use_mmap", "use_mlock", "low_vram", "vocab_only")
FINISHED = {"stop": "stop", "tool_calls": "stop", "length": "length"}


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Wants:
    """What chat and generate have in common."""

    def __init__(self, fields: Fields, server: Server) -> None:
        self.server, self.started = server, time.perf_counter()
        self.entry = server.models.find(model_name(fields))
        self.keep_s = keep_alive(fields)
        self.stream = fields.take("stream", bool, True)
        self.format = response_format(fields)
        fields.only("think", False, why="thoughts are not told apart from the answer")
        fields.only("logprobs", False, why="/v1/chat/completions has them")
        fields.only("top_logprobs", 0, why="/v1/chat/completions has them")
        self.arguments: dict[str, Any] = {}
        options = Fields(fields.take("options", dict, {}), "options.")
        for name in ("draft", "rows"):  # Ollama's own clients send what they do not know among the options only
            if name in fields and name in options:
                raise fields.wrong(name, f"and options.{name} are one thing: give one of them")
        for given in (fields, options):
            self.arguments |= {name: value for name, value in drafting(given).items() if value is not None}
        self._options(options)

    def _options(self, fields: Fields) -> None:
        arguments = self.arguments
        arguments |= SAMPLING_DEFAULTS | fields.some(SAMPLING)
        if isinstance(arguments["temperature"], int | float) and arguments["temperature"] < 0:
            raise fields.wrong("temperature", f"= {arguments['temperature']} must not be negative")
        n = fields.integer("num_predict", -1, -2, 2**31 - 1)
        if n == 0:
            raise fields.wrong("num_predict", "must be at least 1, or -1 for no limit")
        arguments["max_tokens"] = n if n > 0 else None
        stop = fields.take("stop", (str, list), [])
        if isinstance(stop, list) and len(stop) > MOST_STOPS:
            raise fields.wrong("stop", f"has {len(stop)} strings, {MOST_STOPS} at most")
        arguments["stop"] = stop
        self._repeat_last_n = fields.integer("repeat_last_n", 64, -1, 2**31 - 1)
        self._num_ctx = fields.integer("num_ctx", 0, 1, 2**31 - 1)
        fields.only("mirostat", 0, why="mirostat is not one of maskprobe's samplers")
        fields.drop(("mirostat_tau", "mirostat_eta"))  # they say something to mirostat alone
        fields.only("num_keep", 0, why="a full context ends the answer")
        fields.only("penalize_newline", True, why="all tokens are penalised alike")
        for name in AT_START:
            fields.only(name, why="the server's command line says so")
        fields.done()

    def within_context(self, plan: Plan, loaded: Loaded) -> Plan:
        """With num_ctx and repeat_last_n."""
        n_ctx = self._num_ctx or loaded.n_ctx
        if n_ctx > loaded.n_ctx:
            raise ContextExceeded(f"options.num_ctx = {n_ctx} is more than the server's context, {loaded.n_ctx} (-c)")
        n_left = n_ctx - len(plan.tokens)
        if n_left < 1:
            raise ContextExceeded(f"the prompt has {len(plan.tokens)} tokens, options.num_ctx = {n_ctx}")
        last_n = loaded.n_ctx if self._repeat_last_n < 0 else min(self._repeat_last_n, loaded.n_ctx)
        sampling = replace(plan.sampling, penalty_last_n=last_n)
        return replace(plan, max_tokens=min(plan.max_tokens, n_left), sampling=sampling)

    async def answer(
        self, request: Request, plan: Callable[[Loaded], Plan], shape_of: type[ChatAnswer] | type[CompletionAnswer]
    ) -> Any:
        if self.keep_s is not KEEP_AS_IT_IS:
            self.entry.keep_s = self.keep_s
        job = Job(
            self.server,
            self.entry,
            client_of(request),
            lambda loaded: [self.within_context(plan(loaded), loaded)],
            shape_of,
        )
        if self.stream:
            lines = self._lines(job)
            return EventStream(lines, "application/x-ndjson", _failed, self.server.settings.timeout_s)
        result, runs = await while_connected(request.receive, job.whole())
        choice = result["choices"][0]
        message = choice.get("message", {"content": choice.get("text")})
        return JSONResponse(self._last(job, runs[0], choice["finish_reason"], self._content(choice, message)))

    async def _lines(self, job: Job) -> AsyncIterator[bytes]:
        calls: list[dict[str, Any]] = []  # they come in pieces
        async for chunk, run in job.stream():
            choice = chunk["choices"][0]
            delta = choice.get("delta", {"content": choice.get("text")})
            for call in delta.get("tool_calls") or ():
                if call["index"] == len(calls):
                    calls.append({"function": {"name": "", "arguments": ""}})
                for key, text in call["function"].items():
                    calls[call["index"]]["function"][key] += text
            if choice["finish_reason"] is not None:
                if calls:
                    yield _line(
                        {**self._head(), **self._content(choice, {"content": "", "tool_calls": calls}), "done": False}
                    )
                yield _line(self._last(job, run, choice["finish_reason"], self._content(choice, {"content": ""})))
            elif delta.get("content"):
                yield _line({**self._head(), **self._content(choice, delta), "done": False})

    def _head(self) -> dict[str, Any]:
        return {"model": self.entry.name, "created_at": now()}

    def _content(self, choice: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
        """As the route has it."""
        if "text" in choice:
            return {"response": message["content"]}
        found: dict[str, Any] = {"role": "assistant", "content": message["content"] or ""}
        if message.get("tool_calls"):
            found["tool_calls"] = [
                {
                    "function": {
                        "name": call["function"]["name"],
                        "arguments": arguments_of(call["function"]["arguments"]),
                    }
                }
                for call in message["tool_calls"]
            ]
        return {"message": found}

    def _last(self, job: Job, run: Run, reason: str, content: dict[str, Any]) -> dict[str, Any]:
        return {
            **self._head(),
            **content,
            **self._times(run.stats, job.load_s),
            "done_reason": FINISHED.get(reason, reason),
        }

    def _times(self, stats: Stats, load_s: float) -> dict[str, Any]:
        return {
            "done": True,
            "total_duration": int(1e9 * (time.perf_counter() - self.started)),
            "load_duration": int(1e9 * load_s),
            "prompt_eval_count": stats.n_prompt,
            "prompt_eval_duration": int(1e6 * stats.prompt_ms),
            "eval_count": stats.n_gen,
            "eval_duration": int(1e6 * stats.gen_ms),
        }

    async def only_load(self, content: dict[str, Any]) -> Response:
        """An empty prompt loads the model, or with keep_alive 0 unloads it."""
        if self.keep_s is not KEEP_AS_IT_IS:
            self.entry.keep_s = self.keep_s
        if self.keep_s != 0 or self.entry.loaded is not None:
            async with self.server.models.use(self.entry):
                pass
        reason = "unload" if self.keep_s == 0 else "load"
        return JSONResponse({**self._head(), **content, "done": True, "done_reason": reason})


async def chat(request: Request) -> Any:
    server: Server = request.app.state.server
    fields = Fields(await read_json(request, server.settings.max_body))
    wants = Wants(fields, server)
    messages = fields.take("messages", list, [])
    tools = fields.take("tools", list, None) or None
    fields.done()
    for i, message in enumerate(messages):
        if isinstance(message, dict) and message.get("images"):
            raise fields.wrong(f"messages[{i}].images", "are not supported: maskprobe reads text only")
    if not messages:
        return await wants.only_load({"message": {"role": "assistant", "content": ""}})
    arguments = {**wants.arguments, "tools": tools, "response_format": wants.format}
    return await wants.answer(request, lambda loaded: loaded.planner.chat(messages, **arguments), ChatAnswer)


async def generate(request: Request) -> Any:
    server: Server = request.app.state.server
    fields = Fields(await read_json(request, server.settings.max_body))
    wants = Wants(fields, server)
    prompt = fields.take("prompt", str, "")
    suffix = fields.take("suffix", str, "") or None
    system = fields.take("system", str, "")
    raw = fields.take("raw", bool, False)
    fields.only("template", "", why="the model file says how a conversation is written")
    fields.only("context", [], why="send a conversation to /api/chat; what prompts have in common is kept anyway")
    fields.only("images", [], why="maskprobe reads text only")
    fields.done()
    if raw and system:
        raise fields.wrong("system", "has no place in a raw prompt")
    if not prompt and suffix is None:
        return await wants.only_load({"response": ""})

    def plan(loaded: Loaded) -> Plan:
        chats = loaded.planner.chat_prompts
        if raw or suffix is not None or not chats.template:
            if system:
                raise fields.wrong("system", "has no place: this model has no chat template")
            arguments = {**wants.arguments, "constraint": _constraint(loaded, wants.format)}
            return loaded.planner.completion(prompt, suffix=suffix, **arguments)
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        return loaded.planner.chat(messages, response_format=wants.format, **wants.arguments)

    return await wants.answer(request, plan, CompletionAnswer)


def _constraint(loaded: Loaded, format: dict[str, Any] | None) -> Any:

    schema = schema_of_format(format)
    return None if schema is None else loaded.planner.schemas.compiled(schema)


async def embed(request: Request) -> Response:
    server: Server = request.app.state.server
    started = time.perf_counter()
    fields = Fields(await read_json(request, server.settings.max_body))
    entry = server.models.find(model_name(fields))
    keep_s = keep_alive(fields)
    texts = fields.take("input", (str, list))
    if texts is None:
        raise fields.wrong("input", "is missing")
    truncate = fields.take("truncate", bool, True)
    n_wanted = fields.integer("dimensions", None, 1, 2**31 - 1)
    options = Fields(fields.take("options", dict, {}), "options.")
    options.done()
    fields.done()
    if keep_s is not KEEP_AS_IT_IS:
        entry.keep_s = keep_s
    several = texts if isinstance(texts, list) else [texts]
    if not all(isinstance(text, str) for text in several):
        raise fields.wrong("input", "must be text or a list of texts")
    found = await while_connected(
        request.receive,
        embeddings_of(server, entry, client_of(request), several, n_wanted=n_wanted, truncate=truncate),
    )
    return JSONResponse(
        {
            "model": entry.name,
            "embeddings": [row.tolist() for row in found.rows],
            "total_duration": int(1e9 * (time.perf_counter() - started)),
            "load_duration": int(1e9 * found.load_s),
            "prompt_eval_count": found.n_tokens,
        }
    )


async def tags(request: Request) -> Response:
    server: Server = request.app.state.server
    return JSONResponse({"models": [_card(entry) for entry in server.models.entries.values()]})


async def running(request: Request) -> Response:
    server: Server = request.app.state.server
    loaded = [_card(entry) for entry in server.models.entries.values() if entry.loaded is not None]
    return JSONResponse({"models": [{**card, "size_vram": 0} for card in loaded]})


async def show(request: Request) -> Response:
    server: Server = request.app.state.server
    fields = Fields(await read_json(request, server.settings.max_body))
    entry = server.models.find(model_name(fields))
    fields.drop(("verbose",))
    fields.done()
    async with server.models.use(entry) as loaded:
        chats = loaded.planner.chat_prompts
        info = loaded.model.info
        able = ["completion", "embedding"] + ["tools"] * ("tools" in chats.template)
        able += ["insert"] * (await in_thread(fill_tokens, loaded.model) is not None)
        return JSONResponse(
            {
                "modelfile": f"FROM {entry.path.name}\n",
                "parameters": "",
                "template": chats.template,
                "details": _details(entry),
                "model_info": {
                    "general.architecture": info.arch,
                    "general.name": info.name,
                    "general.parameter_count": info.n_params,
                    f"{info.arch}.context_length": info.n_ctx_train,
                    f"{info.arch}.embedding_length": info.n_embd,
                    f"{info.arch}.block_count": info.n_layer,
                },
                "capabilities": able,
                "modified_at": _modified(entry),
            }
        )


async def version(request: Request) -> Response:
    return JSONResponse({"version": __version__})


def _card(entry: Entry) -> dict[str, Any]:
    try:
        size, changed = entry.path.stat().st_size, entry.path.stat().st_mtime_ns
    except OSError:
        size = changed = 0
    digest = hashlib.sha256(f"{entry.path} {size} {changed}".encode()).hexdigest()
    return {
        "name": entry.name,
        "model": entry.name,
        "modified_at": _modified(entry),
        "size": size,
        "digest": digest,
        "details": _details(entry),
    }


def _modified(entry: Entry) -> str:
    try:
        return datetime.fromtimestamp(entry.path.stat().st_mtime, UTC).isoformat().replace("+00:00", "Z")
    except OSError:
        return "1970-01-01T00:00:00Z"


def _details(entry: Entry) -> dict[str, Any]:
    """What the file says, as far as it is loaded."""
    info = None if entry.loaded is None else entry.loaded.model.info
    arch = info.arch if info else ""
    return {
        "parent_model": "",
        "format": "gguf",
        "family": arch,
        "families": [arch] if arch else [],
        "parameter_size": f"{info.n_params / 1e6:.1f}M" if info else "",
        "quantization_level": info.description.rpartition(" ")[2] if info else "",
    }


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _failed(error: ApiError) -> bytes:
    return _line(shape(error, ollama=True))


ROUTES = [
    Route("/api/chat", chat, methods=["POST"]),
    Route("/api/generate", generate, methods=["POST"]),
    Route("/api/embed", embed, methods=["POST"]),
    Route("/api/tags", tags, methods=["GET"]),
    Route("/api/ps", running, methods=["GET"]),
    Route("/api/show", show, methods=["POST"]),
    Route("/api/version", version, methods=["GET"]),
]

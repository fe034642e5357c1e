"""llama-server's own routes, the numbers of a monitor, and what the page asks for."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .. import __version__
from .answering import while_connected
from .bodies import Fields, read_json
from .metrics import COUNTS, Text
from .models import Entry, in_thread
from .openapi import DESCRIPTION
from .running import Server

ROWS_OF_TABLE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


async def tokenize(request: Request) -> Response:
    server: Server = request.app.state.server
    fields = Fields(await read_json(request, server.settings.max_body))
    entry = server.models.find(fields.take("model", str))
    content = fields.take("content", str, "")
    add_special = fields.take("add_special", bool, False)
    parse_special = fields.take("parse_special", bool, True)
    with_pieces = fields.take("with_pieces", bool, False)
    fields.done()

    def work(model: Any) -> list[Any]:
        tokens = model.tokenize(content, add_special, parse_special)
        return (
            [{"id": id, "piece": _piece(model.token_bytes(id, special=True))} for id in tokens]
            if with_pieces
            else tokens
        )

    async def answer() -> list[Any]:
        async with server.models.use(entry) as loaded:
            return await in_thread(work, loaded.model)

    return JSONResponse({"tokens": await while_connected(request.receive, answer())})


def _piece(data: bytes) -> str | list[int]:
    """Text, or bytes that are only a part of a character."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return list(data)


async def detokenize(request: Request) -> Response:
    server: Server = request.app.state.server
    fields = Fields(await read_json(request, server.settings.max_body))
    entry = server.models.find(fields.take("model", str))
    tokens = fields.take("tokens", list, [])
    fields.done()

    def work(model: Any) -> str:
        n_vocab = model.info.n_vocab
        for i, token in enumerate(tokens):
            if type(token) is not int or not 0 <= token < n_vocab:
                raise fields.wrong(f"tokens[{i}]", f"is no token: a number from 0 to {n_vocab - 1}")
        data: bytes = model.detokenize(tokens, special=True)
        return data.decode("utf-8", errors="replace")

    async def answer() -> str:
        async with server.models.use(entry) as loaded:
            return await in_thread(work, loaded.model)

    return JSONResponse({"content": await while_connected(request.receive, answer())})


async def health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def openapi(request: Request) -> Response:
    return JSONResponse(DESCRIPTION)


async def metrics(request: Request) -> Response:
    server: Server = request.app.state.server
    entries = list(server.models.entries.values())
    labels = [{"model": entry.name} for entry in entries]
    text = Text()
    running = [[run.stats for run in server.running.values() if run.entry is entry] for entry in entries]
    counts = [entry.metrics.counts(stats) for entry, stats in zip(entries, running, strict=True)]
    for name, (help, _) in COUNTS.items():
        text.family(name, "counter", help, [(label, one[name]) for label, one in zip(labels, counts, strict=True)])

    def family(name: str, kind: str, help: str, value: Any) -> None:
        text.family(name, kind, help, [(label, value(entry)) for label, entry in zip(labels, entries, strict=True)])

    family("embedded_tokens_total", "counter", "Tokens of texts that were embedded", lambda e: e.metrics.embedded)
    family("active", "gauge", "Generations and texts to embed that the engine has", lambda e: e.admission.n_running)
    family("queue_length", "gauge", "Those that wait for a place", lambda e: e.admission.n_waiting)
    family("model_loaded", "gauge", "1 while the model is in memory", lambda e: int(e.loaded is not None))
    family("model_loads_total", "counter", "Times that it was loaded", lambda e: e.metrics.loads)
    family("model_evictions_total", "counter", "Times that it made room for another", lambda e: e.metrics.evictions)
    text.family(
        "generations_total",
        "counter",
        "Generations that have ended, by why",
        [
            ({**label, "reason": reason}, n)
            for label, entry in zip(labels, entries, strict=True)
            for reason, n in sorted(entry.metrics.finished.items())
        ],
    )
    text.histogram(
        "time_to_first_token_seconds",
        "From when a request was planned, its wait for a turn too, to its first token",
        [(label, entry.metrics) for label, entry in zip(labels, entries, strict=True)],
    )
    text.family(
        "requests_total",
        "counter",
        "Requests by route and status code",
        [({"route": route, "status": str(status)}, n) for (route, status), n in sorted(server.responses.items())],
    )
    return PlainTextResponse(str(text), media_type="text/plain; version=0.0.4")


# --- for the page ----------------------------------------------------------------------------------------------------


async def page_models(request: Request) -> Response:
    server: Server = request.app.state.server
    return JSONResponse(
        {
            "version": __version__,
            "n_parallel": server.settings.n_parallel,
            "models": [_facts(entry) for entry in server.models.entries.values()],
        }
    )


def _facts(entry: Entry) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": entry.name,
        "state": entry.state,
        "failure": entry.failure,
        "active": entry.admission.n_running,
        "waiting": entry.admission.n_waiting,
    }
    if entry.loaded is None:
        return facts
    info = entry.loaded.model.info
    return facts | {
        "description": info.description,
        "n_ctx": entry.loaded.n_ctx,
        "n_params": info.n_params,
        "size": info.size,
        "kernels": info.kernels,
        "note": info.note,
        "has_chat_template": bool(entry.loaded.planner.chat_prompts.template),
    }


async def page_pass_times(request: Request) -> Response:
    """T(n): microseconds of a pass of n rows, as the engine has learned them; null before there was a pass."""
    server: Server = request.app.state.server
    entry = server.models.find(request.query_params.get("model"))
    if entry.loaded is None:
        return JSONResponse({"model": entry.name, "state": entry.state, "times": []})

    def work(engine: Any) -> list[dict[str, Any]]:
        return [{"rows": n, "us": engine.pass_us(n) or None} for n in ROWS_OF_TABLE]

    async with server.models.use(entry) as loaded:
        times = await in_thread(work, loaded.engine)
    return JSONResponse({"model": entry.name, "state": entry.state, "times": times})


async def page_generations(request: Request) -> Response:
    """All that run, without their texts."""
    server: Server = request.app.state.server
    return JSONResponse({"generations": [run.counts() for run in server.running.values()]})


ROUTES = [
    Route("/tokenize", tokenize, methods=["POST"]),
    Route("/detokenize", detokenize, methods=["POST"]),
    Route("/health", health, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
    Route("/openapi.json", openapi, methods=["GET"]),
    Route("/internal/models", page_models, methods=["GET"]),
    Route("/internal/pass-times", page_pass_times, methods=["GET"]),
    Route("/internal/generations", page_generations, methods=["GET"]),
]

"""The description of the routes at /openapi.json: the fields that most clients need. docs/server.md has all."""

from typing import Any

Schema = dict[str, Any]


def _object(properties: Schema, required: tuple[str, ...] = ()) -> Schema:
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": list(required)} if required else found


def _integer(low: int, high: int = 2**31 - 1) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
TOKENS: Schema = {"type": "array", "items": _integer(0)}
MODEL: Schema = {"type": "string", "description": "A name of /v1/models; without one, the first of them."}
STOP: Schema = {"anyOf": [TEXT, {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 64}]}
ANYTHING: Schema = {"type": "object"}

SAMPLING: Schema = {
    "temperature": {"type": "number", "minimum": 0, "default": 0.8},
    "top_k": {"type": "integer", "default": 40},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.95},
    "min_p": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.05},
    "seed": _integer(-1, 2**32 - 1),
    "frequency_penalty": NUMBER,
    "presence_penalty": NUMBER,
    "repeat_penalty": {"type": "number", "exclusiveMinimum": 0, "default": 1},
    "logit_bias": {"type": "object", "additionalProperties": NUMBER},
    "grammar": {"type": "string", "description": "GBNF with a rule named root."},
    "ignore_eos": FLAG,
}
SHARED: Schema = {
    "model": MODEL,
    **SAMPLING,
    "stop": STOP,
    "n": _integer(1, 64),
    "stream": {"type": "boolean", "default": False},
    "stream_options": _object({"include_usage": FLAG}),
    "user": TEXT,
    "draft": {"enum": ["on", "off", "auto", True, False], "description": "Whether candidates are drafted."},
    "rows": {
        "anyOf": [_integer(1, 256), {"const": "auto"}],
        "description": "Rows of a pass that this text has at most; 1: plain decoding.",
    },
    "maskprobe": _object({"evidence": FLAG}),
}
COMPLETION = _object(
    {
        "prompt": {"anyOf": [TEXT, TOKENS, {"type": "array", "items": {"anyOf": [TEXT, TOKENS]}}]},
        "suffix": TEXT,
        "max_tokens": {"type": "integer", "minimum": -1, "default": 16, "description": "-1: no limit."},
        "logprobs": _integer(0, 64),
        "echo": FLAG,
        **SHARED,
    },
    ("prompt",),
)
MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {
            "anyOf": [
                TEXT,
                {"type": "null"},
                {"type": "array", "items": _object({"type": {"const": "text"}, "text": TEXT}, ("type", "text"))},
            ]
        },
    },
    "required": ["role", "content"],
}
TOOL = _object(
    {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {"name": {"type": "string", "minLength": 1}, "description": TEXT, "parameters": ANYTHING},
            "required": ["name"],
        },
    },
    ("type", "function"),
)
RESPONSE_FORMAT: Schema = {
    "oneOf": [
        {"type": "object", "properties": {"type": {"enum": ["text", "json_object"]}}, "required": ["type"]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "json_schema"},
                "json_schema": {"type": "object", "properties": {"schema": ANYTHING}, "required": ["schema"]},
            },
            "required": ["type", "json_schema"],
        },
    ]
}
CHAT = _object(
    {
        "messages": {"type": "array", "items": MESSAGE, "minItems": 1},
        "max_tokens": {"type": "integer", "minimum": -1},
        "max_completion_tokens": {"type": "integer", "minimum": -1},
        "logprobs": FLAG,
        "top_logprobs": _integer(0, 64),
        "response_format": RESPONSE_FORMAT,
        "tools": {"type": "array", "items": TOOL},
        "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, ANYTHING]},
        "chat_template_kwargs": ANYTHING,
        **SHARED,
    },
    ("messages",),
)
PART: Schema = {
    "type": "object",
    "properties": {"type": {"enum": ["input_text", "output_text"]}, "text": TEXT},
    "required": ["type", "text"],
}
INPUT: Schema = {
    "oneOf": [
        _object(
            {
                "type": {"const": "message"},
                "role": MESSAGE["properties"]["role"],
                "content": {"anyOf": [TEXT, {"type": "array", "items": PART}]},
            },
            ("role", "content"),
        ),
        _object(
            {"type": {"const": "function_call"}, "call_id": TEXT, "name": TEXT, "arguments": TEXT},
            ("type", "call_id", "name", "arguments"),
        ),
        _object(
            {"type": {"const": "function_call_output"}, "call_id": TEXT, "output": TEXT}, ("type", "call_id", "output")
        ),
    ]
}
RESPONSE_TEXT = _object(
    {
        "format": {
            "oneOf": [
                _object({"type": {"enum": ["text", "json_object"]}}, ("type",)),
                _object(
                    {"type": {"const": "json_schema"}, "name": TEXT, "schema": ANYTHING, "strict": FLAG},
                    ("type", "schema"),
                ),
            ]
        }
    }
)
RESPONSE = _object(
    {
        "input": {"anyOf": [TEXT, {"type": "array", "items": INPUT, "minItems": 1}]},
        "instructions": TEXT,
        "max_output_tokens": {"type": "integer", "minimum": -1, "description": "-1: no limit."},
        "text": RESPONSE_TEXT,
        "tools": {
            "type": "array",
            "items": _object(
                {
                    "type": {"const": "function"},
                    "name": {"type": "string", "minLength": 1},
                    "description": TEXT,
                    "parameters": ANYTHING,
                    "strict": FLAG,
                },
                ("type", "name"),
            ),
        },
        "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, ANYTHING]},
        "metadata": ANYTHING,
        "store": {"const": False, "description": "Nothing is stored."},
        **{name: field for name, field in SHARED.items() if name not in ("n", "maskprobe", "stream_options")},
    },
    ("input",),
)
EMBEDDING = _object(
    {
        "model": MODEL,
        "input": {"anyOf": [TEXT, TOKENS, {"type": "array", "items": {"anyOf": [TEXT, TOKENS]}}]},
        "encoding_format": {"enum": ["float", "base64"]},
        "user": TEXT,
    },
    ("input",),
)
OPTIONS = _object(
    {
        **{name: SAMPLING[name] for name in ("temperature", "top_k", "top_p", "min_p", "seed")},
        "repeat_penalty": SAMPLING["repeat_penalty"],
        "repeat_last_n": {"type": "integer", "minimum": -1},
        "presence_penalty": NUMBER,
        "frequency_penalty": NUMBER,
        "num_predict": {"type": "integer", "minimum": -2},
        "num_ctx": _integer(1),
        "stop": STOP,
        "draft": SHARED["draft"],
        "rows": SHARED["rows"],
    }
)
OLLAMA: Schema = {
    "model": MODEL,
    "options": OPTIONS,
    "stream": {"type": "boolean", "default": True},
    "keep_alive": {"anyOf": [TEXT, NUMBER]},
    "format": {"anyOf": [{"const": "json"}, ANYTHING]},
    "draft": SHARED["draft"],
    "rows": SHARED["rows"],
}


def _answer(description: str, kind: str = "application/json") -> Schema:
    return {"description": description, "content": {kind: {}}}


ERRORS: Schema = {
    "400": _answer("A field is wrong or unknown, or the prompt does not fit (code context_length_exceeded)."),
    "401": _answer("The API key is missing or wrong."),
    "404": _answer("There is no such model."),
    "408": _answer("The body came too slowly."),
    "413": _answer("The body is too large."),
    "415": _answer("The body is not application/json."),
    "429": _answer("The queue is full; see Retry-After."),
    "503": _answer("The model cannot be loaded, or the server is shutting down; see Retry-After."),
    "504": _answer("No token came before the time limit."),
}


def _post(summary: str, body: Schema, streams: str = "") -> Schema:
    answer = _answer("The answer." + (f" With stream, {streams}." if streams else ""))
    if streams:
        answer["content"] |= {streams: {}}
    content = {"application/json": {"schema": body}}
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": content},
            "responses": {"200": answer, **ERRORS},
        }
    }


def _get(summary: str, kind: str = "application/json", *parameters: str) -> Schema:
    found: Schema = {"summary": summary, "responses": {"200": _answer("The answer.", kind), "401": ERRORS["401"]}}
    if parameters:
        named = [{"name": name, "in": "path", "required": True, "schema": TEXT} for name in parameters]
        found |= {"parameters": named}
        found["responses"]["404"] = _answer("There is no such thing.")
    return {"get": found}


EVENTS = "text/event-stream"
LINES = "application/x-ndjson"

DESCRIPTION: Schema = {
    "openapi": "3.1.0",
    "info": {
        "title": "maskprobe-serve",
        "version": "1",
        "description": "Text from GGUF models, in passes of many tokens.",
    },
    "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    "security": [{}, {"key": []}],
    "paths": {
        "/v1/completions": _post("The text that follows a prompt.", COMPLETION, EVENTS),
        "/v1/chat/completions": _post("The assistant's next message.", CHAT, EVENTS),
        "/v1/responses": _post("A response, which is not stored.", RESPONSE, EVENTS),
        "/v1/embeddings": _post("Embeddings of length 1: the mean of the last hidden states.", EMBEDDING),
        "/v1/models": _get("The models by name."),
        "/v1/models/{model}": _get("One of them.", "application/json", "model"),
        "/tokenize": _post(
            "Text to tokens.",
            _object({"model": MODEL, "content": TEXT, "add_special": FLAG, "parse_special": FLAG, "with_pieces": FLAG}),
        ),
        "/detokenize": _post("Tokens to text.", _object({"model": MODEL, "tokens": TOKENS})),
        "/health": _get("Whether the server takes requests."),
        "/metrics": _get("Counts for Prometheus.", "text/plain"),
        "/api/chat": _post(
            "The assistant's next message, for clients of Ollama.",
            _object({**OLLAMA, "messages": {"type": "array", "items": MESSAGE}, "tools": CHAT["properties"]["tools"]}),
            LINES,
        ),
        "/api/generate": _post(
            "The answer to a prompt, for clients of Ollama.",
            _object({**OLLAMA, "prompt": TEXT, "suffix": TEXT, "system": TEXT, "raw": FLAG}),
            LINES,
        ),
        "/api/embed": _post(
            "Embeddings, for clients of Ollama.",
            _object(
                {
                    "model": MODEL,
                    "input": {"anyOf": [TEXT, {"type": "array", "items": TEXT}]},
                    "truncate": FLAG,
                    "keep_alive": OLLAMA["keep_alive"],
                },
                ("input",),
            ),
        ),
        "/api/tags": _get("The models, for clients of Ollama."),
        "/api/ps": _get("Those that are loaded."),
        "/api/show": _post("What a model is.", _object({"model": MODEL, "verbose": FLAG})),
        "/api/version": _get("The version."),
    },
}

"""What went wrong, as a status code and in the shape that the client expects."""

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..errors import (
    ArgumentError,
    CallbackError,
    Cancelled,
    ContextFull,
    EngineLost,
    Error,
    ModelError,
    OutOfMemory,
    StateError,
)
from ..openai.values import Unsupported

LOG = logging.getLogger("maskprobe.server")
OLLAMA_PREFIX = "/api/"
FIRST_WORD = re.compile(r"([a-z][a-z0-9_]*(?:(?:\.[a-z_]\w*)|(?:\[\d+\]))*)(?=[ :]|$)")

# Status code -> OpenAI's "type".
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that is an error. `param` is the field that is wrong, `code` OpenAI's word for it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})


class BadField(ApiError):
    """A field of the body that is missing, unknown, of the wrong type or out of range."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(400, message, code="invalid_value", param=param)


def busy(message: str, retry_after_s: int = 1, status: int = 503, code: str = "server_busy") -> ApiError:
    return ApiError(status, message, code=code, headers={"Retry-After": str(retry_after_s)})


def api_error(error: BaseException) -> ApiError:
    """What an exception means for a client. A fault of ours is logged."""
    if isinstance(error, ApiError):
        return error
    message = " ".join(str(error).split())
    if isinstance(error, ContextFull):
        return ApiError(400, message, code="context_length_exceeded")
    if isinstance(error, ArgumentError | Unsupported):
        code = "unsupported_value" if isinstance(error, Unsupported) else "invalid_value"
        return ApiError(400, message, code=code, param=field_of(message))
    if isinstance(error, CallbackError):  # a schema that cannot be followed to its end
        return ApiError(400, message, code="invalid_value", param="response_format")
    if isinstance(error, ModelError):  # a template that fails, an embedding that the model has not
        return ApiError(400, message, code="model_not_able", param="model")
    if isinstance(error, OutOfMemory):
        return busy(message, 10, code="out_of_memory")
    if isinstance(error, EngineLost):
        LOG.error("%s", message)
        return busy(message, code="engine_lost")
    if isinstance(error, Cancelled | StateError):
        return busy(f"the model is being unloaded: {message}")
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, error.detail, headers=error.headers)
    if not isinstance(error, Error):
        message = "the server failed at this request; its log says why"
    LOG.error("a request failed: %s: %s", type(error).__name__, error)
    return ApiError(500, message, code="server_error")


def field_of(message: str) -> str | None:
    """The field that a message is about: those of openai.values begin with it."""
    found = FIRST_WORD.match(message)
    return found[1] if found and ("_" in found[1] or found[1] in WORDS or not found[1].isalpha()) else None


# Names of fields that are words of the language too.
WORDS = frozenset(("prompt", "suffix", "stop", "seed", "temperature", "messages", "tools", "functions", "grammar"))
WORDS |= {"logprobs", "echo", "draft", "rows", "model"}


def shape(error: ApiError, ollama: bool) -> dict[str, Any]:
    """The body of an error."""
    if ollama:
        return {"error": error.message}
    kind = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def error_response(error: BaseException, path: str) -> Response:
    known = api_error(error)
    body = json.dumps(shape(known, path.startswith(OLLAMA_PREFIX)))  # ASCII: a name in it may be half a character
    return Response(body, known.status, known.headers, "application/json")


async def handle(request: Request, error: Exception) -> Response:
    """The exception handler of the application."""
    return error_response(error, request.url.path)

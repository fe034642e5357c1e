"""JSON bodies: read within a limit, their fields checked. What would be ignored is an error."""

import asyncio
import json
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from starlette.requests import Request

from .errors import ApiError, BadField

JSON_TYPE = "application/json"
BODY_S = 60.0  # for all of a body to come

Default = TypeVar("Default", int, None)


async def read_json(request: Request, max_body: int) -> dict[str, Any]:
    """The body, an object. Raises ApiError: 400 (no JSON, no object), 408 (slow), 413 (too large), 415 (another type).
    ClientDisconnect where the client has gone."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON_TYPE:
        raise ApiError(415, f"the body must have Content-Type: {JSON_TYPE}, not {kind or 'none'}", code="content_type")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > max_body:
        raise _too_large(max_body)
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.stream():
                data += piece
                if len(data) > max_body:
                    raise _too_large(max_body)
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {BODY_S:.0f} seconds", code="body_timeout") from None
    try:
        body = json.loads(data.decode("utf-8"), parse_constant=_no_number)
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", code="invalid_json") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, f"the body must be an object, not {type(body).__name__}", code="invalid_json")
    return body


def _too_large(max_body: int) -> ApiError:
    message = f"the body is larger than {max_body} bytes (--max-body)"
    return ApiError(413, message, code="body_too_large", headers={"Connection": "close"})


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


class Fields:
    """The fields of a body. take() gives one and counts it as understood; done() refuses what is left."""

    def __init__(self, body: Mapping[str, Any], where: str = "") -> None:
        self._left = dict(body)
        self._where = where

    def __contains__(self, name: str) -> bool:
        return self._left.get(name) is not None

    def take(self, name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A field of a type; null stands for the default."""
        value = self._left.pop(name, None)
        if value is None:
            return default
        wanted = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise self.wrong(name, f"must be {' or '.join(NAMES[one] for one in wanted)}, not {shown(value)}")
        return value

    def integer(self, name: str, default: Default, low: int, high: int) -> int | Default:
        """A whole number within bounds; null stands for the default, which need not be."""
        value = self.take(name, (int, float))
        if value is None:
            return default
        if isinstance(value, float) and not value.is_integer():
            raise self.wrong(name, f"must be a whole number, not {shown(value)}")
        if not low <= value <= high:
            raise self.wrong(name, f"= {shown(value)} is out of range: {low} to {high}")
        return int(value)

    def some(self, names: Collection[str]) -> dict[str, Any]:
        """Those of these fields that are there and not null, as they are."""
        found = {name: self._left.pop(name) for name in names if name in self._left}
        return {name: value for name, value in found.items() if value is not None}

    def only(self, name: str, *accepted: Any, why: str) -> None:
        """A field that changes nothing at these values, and is refused at others."""
        value = self._left.pop(name, None)
        if value is not None and not any(value == one and type(value) is type(one) for one in accepted):
            raise self.wrong(name, f"= {shown(value)} is not supported: {why}")

    def drop(self, names: Collection[str]) -> None:
        """Fields that say something to others alone."""
        for name in names:
            self._left.pop(name, None)

    def done(self) -> None:
        for name in self._left:
            raise self.wrong(name, "is a field that this server does not know")

    def wrong(self, name: str, message: str) -> BadField:
        name = self._where + name[:100]
        return BadField(name, f"{name} {message}")


NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def shown(value: Any) -> str:
    """A value in a message, not more of it than a line."""
    text = json.dumps(value, ensure_ascii=True) if not isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

"""Fields of Ollama's requests, and what they mean here."""

import json
import math
import re
from typing import Any

from ..openai.values import as_float
from .bodies import Fields

DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
KEEP_AS_IT_IS = -2.0


def model_name(fields: Fields) -> str | None:
    """ "name" is the older word for "model"."""
    name: str | None = fields.take("model", str)
    older: str | None = fields.take("name", str)
    return older if name is None else name


def keep_alive(fields: Fields) -> float | None:
    """Seconds for which a model stays without requests; None: until its memory is needed."""
    value = fields.take("keep_alive", (str, int, float))
    if value is None:
        return KEEP_AS_IT_IS
    seconds = _seconds(value) if isinstance(value, str) else as_float(value)
    if seconds is None or not math.isfinite(seconds):
        raise fields.wrong("keep_alive", 'must be a number of seconds, or a duration such as "5m"')
    return None if seconds < 0 else min(seconds, 1e9)


def _seconds(text: str) -> float | None:
    """ "1h30m", "-1", "300ms"; None where it is no duration."""
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text.lstrip("+-")
    if rest.isascii() and rest.isdecimal():
        return sign * float(rest[:20])
    parts = DURATION_PART.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        return None
    return sign * sum(float(number) * SECONDS[unit] for number, unit in parts)


def response_format(fields: Fields) -> dict[str, Any] | None:
    """As a response_format."""
    value = fields.take("format", (str, dict))
    if not value:
        return None
    if isinstance(value, dict):
        return {"type": "json_schema", "json_schema": {"schema": value}}
    if value != "json":
        raise fields.wrong("format", 'must be "json" or a JSON schema')
    return {"type": "json_object"}


def arguments_of(arguments: str) -> Any:
    """Of a call, as an object; an empty one where the text was cut short by a limit."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return {}

"""Arguments of a request, checked one by one: each error names the argument."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ArgumentError, ContextFull, Error


class Unsupported(Error, TypeError):
    """An argument, or a value of one, that others know and maskprobe has not."""

    status = "argument"


class ContextExceeded(ContextFull, ValueError):
    """The prompt alone does not fit into the context."""


def number(name: str, value: Any, default: float) -> float:
    """A finite number; None stands for the default."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ArgumentError(f"{name} must be a number, not {value!r}")
    return float(value)


def integer(name: str, value: Any, default: int) -> int:
    """A whole number; None stands for the default."""
    if value is None:
        return default
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        raise ArgumentError(f"{name} must be a whole number, not {value!r}")
    return int(value)


def flag(name: str, value: Any, default: bool) -> bool:
    """True or False; None stands for the default."""
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ArgumentError(f"{name} must be true or false, not {value!r}")
    return value


def within(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ArgumentError(f"{name} = {value} is out of range: {low} to {high}")
    return value


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """An object of JSON."""
    if not isinstance(value, Mapping):
        raise ArgumentError(f"{name} must be an object, not {type(value).__name__}")
    return value


def items(name: str, value: Any) -> Sequence[Any]:
    """A list."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise ArgumentError(f"{name} must be a list, not {type(value).__name__}")
    return value


def stop_strings(value: Any) -> tuple[str, ...]:
    """None, a string or a list of strings."""
    if value is None:
        return ()
    strings = [value] if isinstance(value, str) else items("stop", value)
    for i, string in enumerate(strings):
        if not isinstance(string, str) or not string:
            raise ArgumentError(f"stop[{i}] must be non-empty text, not {string!r}")
    return tuple(strings)


def logit_biases(value: Any) -> dict[int, float]:
    """Token id, as a number or as text, -> what is added to its logit."""
    if value is None:
        return {}
    biases: dict[int, float] = {}
    for key, bias in mapping("logit_bias", value).items():
        try:
            token = int(key)
        except (TypeError, ValueError):
            raise ArgumentError(f"logit_bias: {key!r} is no token id") from None
        if isinstance(bias, bool) or not isinstance(bias, int | float) or math.isnan(bias):
            raise ArgumentError(f"logit_bias: the bias of token {token} must be a number, not {bias!r}")
        biases[token] = float(bias)
    return biases


def only(name: str, value: Any, *accepted: Any, why: str) -> None:
    """Refuses every value but those that change nothing."""
    if not any(value is one or value == one for one in accepted):
        raise Unsupported(f"{name} = {value!r} is not supported: {why}")

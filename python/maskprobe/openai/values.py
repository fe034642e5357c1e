"""Arguments of a request, checked one by one: each error names the argument."""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from .._capi import shown
from ..errors import ArgumentError, ContextFull, Error

INT32 = 2**31 - 1
N_DIGITS_MAX = 10  # of a token id


class Unsupported(Error, TypeError):
    """An argument, or a value of one, that others know and maskprobe has not."""

    status = "argument"


class ContextExceeded(ContextFull, ValueError):
    """The prompt alone, or a text to be embedded, does not fit into the context."""


def as_float(value: Any) -> float:
    """A number as a float; NaN for what is none, and for one beyond all floats."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def number(name: str, value: Any, default: float) -> float:
    """A finite number; None stands for the default."""
    if value is None:
        return default
    found = as_float(value)
    if not math.isfinite(found):
        raise ArgumentError(f"{name} must be a number, not {shown(value)}")
    return found


def integer(name: str, value: Any, default: int) -> int:
    """A whole number; None stands for the default."""
    if value is None:
        return default
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        raise ArgumentError(f"{name} must be a whole number, not {shown(value)}")
    return int(value)


def flag(name: str, value: Any, default: bool) -> bool:
    """True or False; None stands for the default."""
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ArgumentError(f"{name} must be true or false, not {shown(value)}")
    return value


def within(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ArgumentError(f"{name} = {shown(value)} is out of range: {low} to {high}")
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
            raise ArgumentError(f"stop[{i}] must be non-empty text, not {shown(string)}")
    return tuple(strings)


def logit_biases(value: Any) -> dict[int, float]:
    """Token id, as a number or as text, -> what is added to its logit."""
    if value is None:
        return {}
    biases: dict[int, float] = {}
    for key, bias in mapping("logit_bias", value).items():
        is_digits = isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= N_DIGITS_MAX
        token = token_id(int(key) if is_digits else key)
        if token < 0:
            raise ArgumentError(f"logit_bias: {shown(key)} is no token id")
        biases[token] = as_float(bias)
        if math.isnan(biases[token]):
            raise ArgumentError(f"logit_bias: the bias of token {token} must be a number, not {shown(bias)}")
    return biases


def token_id(value: Any) -> int:
    """A whole number of any kind that may be a token; -1 for anything else."""
    try:
        token = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return -1
    return token if 0 <= token <= INT32 else -1


def only(name: str, value: Any, *accepted: Any, why: str) -> None:
    """Refuses every value but those that change nothing."""
    if not any(value is one or is_equal(value, one) for one in accepted):
        raise Unsupported(f"{name} = {shown(value)} is not supported: {why}")


def is_equal(a: Any, b: Any) -> bool:
    """Whether two values are; False for an array, which may be so in part."""
    try:
        return bool(a == b)
    except ValueError:
        return False

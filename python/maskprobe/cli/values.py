"""What an option's value may be. Each function turns the text of a value into its meaning or raises ArgumentTypeError,
whose message argparse puts after the option's name."""

import argparse
import codecs
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROWS_MAX = 256  # sequences that llama.cpp can keep apart, and so rows of a tree

ESCAPE = re.compile(rb"""\\(x[0-9A-Fa-f]{1,2}|[nrt'"\\])""")
ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}

LOGIT_BIAS = re.compile(r"(?P<token>\d{1,10})(?:(?P<never>=false|-inf)|(?P<bias>[+-]\d{1,9}(?:\.\d*)?))", re.IGNORECASE)
STATIC_TREE = re.compile(r"\d{1,3}(?:,\d{1,3})*")
MASK_EMBEDDING = re.compile(r"mean|last-k(?::[1-9]\d*)?|sample|soft|token:\d+|file:.+")


def fail(message: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(message)


def rows(text: str) -> int | None:
    """Rows of a pass; None for "auto"."""
    return None if text == "auto" else integer(1, ROWS_MAX)(text)


def integer(low: int, high: int | None = None, **words: int) -> Callable[[str], int]:
    """A whole number in low..high; `words` are texts that stand for a number."""
    range_text = f"at least {low}" if high is None else f"{low} to {high}"

    def parse(text: str) -> int:
        if text in words:
            return words[text]
        try:
            value = int(text)
        except ValueError:
            raise fail(f"must be a whole number, {range_text}, not '{text}'") from None
        if value < low or (high is not None and value > high):
            raise fail(f"must be {range_text}, not {value}")
        return value

    return parse


def number(low: float = -math.inf, high: float = math.inf) -> Callable[[str], float]:
    """A finite number in low..high."""
    bounds = [f"at least {low:g}"] * (low > -math.inf) + [f"at most {high:g}"] * (high < math.inf)
    range_text = ", " + " and ".join(bounds) if bounds else ""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not low <= value <= high:
            raise fail(f"must be a number{range_text}, not '{text}'")
        return value

    return parse


def logit_bias(text: str) -> tuple[int, float]:
    """TOKEN+BIAS, TOKEN-BIAS, TOKEN-inf or TOKEN=false (never)."""
    match = LOGIT_BIAS.fullmatch(text)
    if match is None:
        raise fail(f"must look like 15043+1, 15043-0.5, 15043-inf or 15043=false, not '{text}'")
    return int(match["token"]), -math.inf if match["never"] else float(match["bias"])


def tree(text: str) -> str:
    """The number of candidates at each depth, or "dynamic"."""
    if text == "dynamic":
        return text
    if STATIC_TREE.fullmatch(text) is None or 0 in map(int, text.split(",")):
        raise fail(f"must look like 14 or 7,2 (candidates at each depth) or be 'dynamic', not '{text}'")
    return text


def mask_children(text: str) -> str | int:
    return text if text == "all" else integer(0, ROWS_MAX)(text)


def mask_embedding(text: str) -> str:
    if MASK_EMBEDDING.fullmatch(text) is None:
        raise fail(f"must be mean, last-k, last-k:K, sample, soft, token:ID or file:PATH, not '{text}'")
    return text


def lora(text: str) -> tuple[str, float]:
    """FILE or FILE:SCALE. A file whose own name has a colon is found before the colon counts."""
    path, colon, scale = text.rpartition(":")
    if not colon or Path(text).exists():
        path, scale = text, "1"
    try:
        value = float(scale)
    except ValueError:
        raise fail(f"the scale '{scale}' in '{text}' is not a number") from None
    if not math.isfinite(value) or not path:
        raise fail(f"must look like FILE or FILE:SCALE with a finite scale, not '{text}'")
    return path, value


def output_file(text: str) -> Path:
    """A file that can be written when the work is done; said now rather than then."""
    path = Path(text)
    if text == "-":
        raise fail("standard output carries the completion only: give a file")
    if path.is_dir() or not path.parent.is_dir():
        raise fail(f"'{text}' is a directory" if path.is_dir() else f"there is no directory '{path.parent}'")
    return path


def text_file(text: str) -> str:
    """The content of a UTF-8 file without its last line break, as llama.cpp reads a prompt."""
    try:
        data = Path(text).read_bytes()
    except (OSError, ValueError) as error:
        raise fail(f"cannot read '{text}': {getattr(error, 'strerror', None) or error}") from None
    return decode(data, f"'{text}'").removesuffix("\n")


def standard_input() -> str:
    if sys.stdin is None:
        raise fail("standard input is closed")
    try:
        data = sys.stdin.buffer.read()
    except OSError as error:
        raise fail(f"cannot read standard input: {error.strerror}") from None
    return decode(data, "standard input").removesuffix("\n")


def decode(data: bytes, what: str) -> str:
    """Text of a prompt. It must be UTF-8 and hold no NUL, which would end it inside llama.cpp."""
    try:
        text = codecs.decode(data, "utf-8")
    except UnicodeDecodeError as error:
        raise fail(f"{what} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}") from None
    if "\0" in text:
        raise fail(f"{what} holds a NUL character at byte {data.index(0)}")
    return text


def unescape(data: bytes) -> bytes:
    r"""\n \r \t \' \" \\ and \xHH as the characters they stand for; any other backslash stays."""

    def replace(match: re.Match[bytes]) -> bytes:
        name = match[1]
        return bytes([int(name[1:], 16)]) if name.startswith(b"x") else ESCAPED.get(name, name)

    return ESCAPE.sub(replace, data)

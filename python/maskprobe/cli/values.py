"""What an option's value may be. Each function turns the text of a value into its meaning or raises ArgumentTypeError,
whose message argparse puts after the option's name."""

import argparse
import codecs
import math
import os
import re
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ArgumentError

ROWS_MAX = 256  # sequences that llama.cpp can keep apart, and so rows of a tree
INT32 = 2**31 - 1
N_DIGITS_MAX = 40  # of a number that is looked at
N_QUOTED = 60  # characters of a value that a message repeats

ESCAPE = re.compile(rb"""\\(x[0-9A-Fa-f]{1,2}|[nrt'"\\])""")
ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}

# ASCII digits: int() and float() take those of all scripts, underscores and white space too.
INTEGER = re.compile(r"[+-]?[0-9]+")
UNSIGNED = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
NUMBER = re.compile(rf"[+-]?{UNSIGNED}")
BIAS = rf"(?P<never>=false|-inf)|(?P<bias>[+-]{UNSIGNED})"
LOGIT_BIAS = re.compile(rf"(?P<token>[0-9]{{1,10}})(?:{BIAS})", re.IGNORECASE | re.ASCII)
STATIC_TREE = re.compile(r"[0-9]{1,3}(?:,[0-9]{1,3})*")
MASK_EMBEDDING = re.compile(
    r"mean|last-k(?::[1-9][0-9]{0,8})?|sample|soft|token:[0-9]{1,9}|file:.+|tuned(?::.+)?", re.DOTALL
)


def fail(message: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(message)


def quoted(text: str) -> str:
    """A value as a message shows it: the beginning of a long one, and no character that would move the cursor."""
    return printable(text if len(text) <= N_QUOTED else text[:N_QUOTED] + "...")


def printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def rows(text: str) -> int | None:
    """Rows of a pass; None for "auto"."""
    return None if text == "auto" else integer(1, ROWS_MAX)(text)


def heads(text: str) -> str | None:
    """As Engine has it: a file, "" for what there is for the model, None for "off"."""
    if text in ("off", "auto"):
        return None if text == "off" else ""
    return existing_file(text)


def hosts(text: str) -> list[str]:
    """Workers of RPC, "host:port" each."""
    found = text.split(",")
    if not all(re.fullmatch(r"[^:\s]+:[0-9]{1,5}", host) for host in found):
        raise fail(f"must be HOST:PORT with commas between them, as in 192.168.1.2:50052, not '{quoted(text)}'")
    return found


def shares(text: str) -> list[float]:
    """Of devices: numbers, of which one is not 0."""
    one = number(0)
    found = [one(part) for part in text.split(",")]
    if not any(found):
        raise fail(f"must be numbers with commas between them, not all 0: '{quoted(text)}'")
    return found


def existing_file(text: str) -> str:
    if not Path(text).is_file():
        raise fail(f"there is no file '{quoted(text)}'")
    return text


def integer(low: int, high: int = INT32, **words: int) -> Callable[[str], int]:
    """A whole number in low..high; `words` are texts that stand for a number."""
    range_text = f"at least {low}" if high == INT32 else f"{low} to {high}"

    def parse(text: str) -> int:
        if text in words:
            return words[text]
        if INTEGER.fullmatch(text) is None:
            raise fail(f"must be a whole number, {range_text}, not '{quoted(text)}'")
        value = int(text) if len(text) <= N_DIGITS_MAX else None  # None: longer than any bound
        if value is None or not low <= value <= high:
            is_low = text.startswith("-") if value is None else value < low
            raise fail(f"must be {range_text if is_low else f'at most {high}'}, not {quoted(text)}")
        return value

    return parse


def number(low: float = -math.inf, high: float = math.inf, above: float = -math.inf) -> Callable[[str], float]:
    """A number in low..high and greater than `above`, as large as a 32-bit float can be: llama.cpp keeps it as one."""
    bounds = [f"at least {low:g}"] * (low > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
    bounds += [f"at most {high:g}"] * (high < math.inf)
    range_text = ", " + " and ".join(bounds) if bounds else ""

    def parse(text: str) -> float:
        value = parse_float(text)
        if value is None or not low <= value <= high or as_float32(value) <= above:
            raise fail(f"must be a number{range_text}, not '{quoted(text)}'")
        if not math.isfinite(as_float32(value)):
            raise fail(f"{quoted(text)} is too large for a 32-bit float, at most 3.4e38 is possible")
        return value

    return parse


def parse_float(text: str) -> float | None:
    """A decimal number, infinite where it is larger than any float. None for any other text."""
    return None if NUMBER.fullmatch(text) is None else float(text)


def as_float32(value: float) -> float:
    """The nearest 32-bit float."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def logit_bias(text: str) -> tuple[int, float]:
    """TOKEN+BIAS, TOKEN-BIAS, TOKEN-inf or TOKEN=false (never)."""
    match = LOGIT_BIAS.fullmatch(text)
    if match is None:
        raise fail(f"must look like 15043+1, 15043-0.5, 15043-inf or 15043=false, not '{quoted(text)}'")
    return int(match["token"]), -math.inf if match["never"] else number()(match["bias"])


def tree(text: str) -> str:
    """The number of candidates at each depth, or "dynamic"."""
    if text == "dynamic":
        return text
    if STATIC_TREE.fullmatch(text) is None or 0 in map(int, text.split(",")):
        raise fail(f"must look like 14 or 7,2 (candidates at each depth) or be 'dynamic', not '{quoted(text)}'")
    return text


def mask_children(text: str) -> str | int:
    return text if text in ("all", "last") else integer(0, ROWS_MAX)(text)


def mask_embedding(text: str) -> str:
    if MASK_EMBEDDING.fullmatch(text) is None:
        raise fail(f"must be mean, last-k, last-k:K, sample, soft, tuned, token:ID or file:PATH, not '{quoted(text)}'")
    return text


def lora(text: str) -> tuple[str, float]:
    """FILE or FILE:SCALE. A file whose own name has a colon is found before the colon counts."""
    path, colon, scale = text.rpartition(":")
    if not colon or Path(text).exists():
        path, scale = text, "1"
    value = parse_float(scale)
    if value is None:
        raise fail(f"the scale '{quoted(scale)}' in '{quoted(text)}' is not a number")
    if not math.isfinite(as_float32(value)) or not path:
        raise fail(f"must look like FILE or FILE:SCALE with a finite scale, not '{quoted(text)}'")
    return path, value


@dataclass(frozen=True)
class TextFile:
    """A file that was read, and its text without the last line break, as llama.cpp reads a prompt."""

    path: Path
    text: str


def text_file(text: str) -> TextFile:
    """A file of UTF-8."""
    path = Path(text)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise fail(f"cannot read '{quoted(text)}': {getattr(error, 'strerror', None) or error}") from None
    return TextFile(path, decode(data, f"'{quoted(text)}'").removesuffix("\n"))


def unicode_text(text: str) -> str:
    """Text from the command line, which may hand over any bytes."""
    if not text:
        raise fail("the text is empty")
    return decode(os.fsencode(text), "the text")


def json_schema(text: str) -> str:
    """The text of a JSON schema. What is wrong with it is said before a model is loaded, as far as that goes."""
    check_schema_text(unicode_text(text))
    return text


def json_schema_file(text: str) -> TextFile:
    file = text_file(text)
    check_schema_text(file.text)
    return file


def check_schema_text(text: str) -> None:
    from ..structured import check_schema  # only where wanted: llguidance takes a while to import

    try:
        check_schema(text)
    except ArgumentError as error:
        raise fail(str(error)) from None


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

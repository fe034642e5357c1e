"""What the operators, methods, filters and tests of a chat template cost, by the names that templates use.

Each function charges the meter with what its operation may take, before the operation is done. The parameters have
Jinja's and Python's names, because templates may give them by name."""

import re
from collections.abc import Callable, Sized
from typing import Any

from markupsafe import Markup

from .template_meter import STEP, TEXT_PER_BYTE, Exceeded, Meter

CASE = 12  # bytes of a text whose case is changed, for each byte of the text: up to three characters of four bytes
ESCAPED = 12  # the same of a text that is quoted for HTML, a URL or JSON
PIECE = 60  # bytes of a short text in a list
WORDS = 64  # of a text that is taken apart word by word, for each byte
CHARACTER = 84  # bytes of a character that is no ASCII and has become a text in a list
LOOKED_AT = 8  # bytes of a text that are compared or searched at the cost of one that is made
INT_BITS_LIMIT = 1 << 14  # of a product or a power

DIRECTIVE = re.compile(r"%(?P<key>\([^()]*\))?[-#0 +]*(?P<width>\*|\d*)(?:\.(?P<precision>\*|\d*))?")
DIGITS = re.compile(r"\d+")

Cost = Callable[..., None]


# --- operators --------------------------------------------------------------------------------------------------------


def looked_at(meter: Meter, value: Any) -> None:
    """A comparison, a search or a hash of a value."""
    size = meter.size(value)
    meter.charge(STEP + (size // LOOKED_AT if isinstance(value, str) else size))


def _add(meter: Meter, left: Any, right: Any) -> None:
    for value in (left, right):
        if isinstance(value, str):
            meter.charge((ESCAPED if isinstance(left, Markup) or isinstance(right, Markup) else 1) * meter.size(value))
        elif isinstance(value, (list, tuple)):
            meter.charge(8 * len(value))


def _multiply(meter: Meter, left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, (str, list, tuple)) and isinstance(times, int) and times > 0:
            meter.charge(times * (meter.size(value) if isinstance(value, str) else 8 * len(value)))
    if isinstance(left, int) and isinstance(right, int):
        _int_of(left.bit_length() + right.bit_length())


def _power(meter: Meter, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and right > 0:
        _int_of(left.bit_length() * right)


def _int_of(bits: int) -> None:
    if bits > INT_BITS_LIMIT:
        raise Exceeded(f"makes a number of {bits} bits (at most {INT_BITS_LIMIT})")


def percent(meter: Meter, text: Any, values: Any) -> None:
    """text % values, where the text is one."""
    if not isinstance(text, str):
        return
    meter.charge(meter.size(text) * (ESCAPED if isinstance(text, Markup) else 1))
    each = TEXT_PER_BYTE * meter.size(values) * (ESCAPED if isinstance(text, Markup) else 1)
    meter.charge(each)
    for found in DIRECTIVE.finditer(text):
        if text.startswith("(", found.end()):
            raise TypeError("a key in a % format has parentheses in it")
        meter.charge(STEP + (each if found["key"] else 0))
        for digits in (found["width"], found["precision"]):
            if digits == "*":
                numbers = values if isinstance(values, tuple) else (values,)
                meter.charge(TEXT_PER_BYTE * sum(abs(n) for n in numbers if isinstance(n, int)))
            elif digits:
                _width(meter, digits)


def _width(meter: Meter, digits: str) -> None:
    meter.charge(TEXT_PER_BYTE * int(digits))  # all of them: zeros may lead, and Python refuses thousands


def format_spec(meter: Meter, value: Any, spec: str) -> None:
    """format(value, spec)."""
    meter.charge(STEP + TEXT_PER_BYTE * meter.size(value))
    for digits in DIGITS.findall(spec):
        _width(meter, digits)


OPERATORS: dict[str, Cost] = {"+": _add, "*": _multiply, "**": _power, "%": percent}


# --- methods ----------------------------------------------------------------------------------------------------------


def _bytes(factor: float) -> Cost:
    def cost(meter: Meter, value: Any, *args: Any, **kwargs: Any) -> None:
        others = sum(map(meter.size, (*args, *kwargs.values())))
        meter.charge(STEP + int(factor * (meter.size(value) + others)))

    return cost


def _repeated(meter: Meter, count: Any, size: int = TEXT_PER_BYTE) -> None:
    if isinstance(count, int) and count > 0:
        meter.charge(count * size)


def _padded(meter: Meter, value: Any, width: Any = 80, fillchar: str = " ") -> None:
    meter.charge(STEP + TEXT_PER_BYTE * meter.size(value))
    _repeated(meter, width)


def _expand_tabs(meter: Meter, text: str, tabsize: Any = 8) -> None:
    meter.charge(meter.size(text))
    _repeated(meter, tabsize, TEXT_PER_BYTE * text.count("\t"))


def _replace(meter: Meter, s: Any, old: Any, new: Any, count: Any = None) -> None:
    text, old, new = meter.text(s), meter.text(old), meter.text(new)
    escaped = ESCAPED if any(isinstance(value, Markup) for value in (text, old, new)) else 1
    meter.charge(STEP + escaped * (meter.size(text) // LOOKED_AT + text.count(old) * meter.size(new)))


def _split(meter: Meter, text: str, sep: str | None = None, maxsplit: int = -1) -> None:
    pieces = len(text) // 2 if sep is None else text.count(sep) if sep else 0
    meter.charge(STEP + meter.size(text) + PIECE * pieces)


def _split_from_right(meter: Meter, text: str, sep: str | None = None, maxsplit: int = -1) -> None:
    _split(meter, text, sep)
    if sep:
        _search_from_right(meter, text, sep)


def _search_from_right(meter: Meter, text: str, sub: str, *_bounds: Any) -> None:
    meter.charge(STEP + len(text) * len(sub) // LOOKED_AT)  # from the right Python's search may be quadratic


def _strip(meter: Meter, value: Any, chars: Any = None) -> None:
    looked_at(meter, value)
    if isinstance(chars, str):
        meter.charge(STEP + len(meter.text(value)) * len(chars) // LOOKED_AT)


def _join(meter: Meter, text: str, iterable: Any) -> None:
    escaped = ESCAPED if isinstance(text, Markup) else 1
    meter.charge(STEP + len(iterable) * meter.size(text) + escaped * meter.size(iterable))


def _look_up(meter: Meter, _value: Any, key: Any, *_default: Any) -> None:
    looked_at(meter, key)


def free(_meter: Meter, *_args: Any, **_kwargs: Any) -> None:
    """Nothing beside the call."""


_changes_case, looks = _bytes(CASE), _bytes(1 / LOOKED_AT)

# The methods that a template may call, by type. What is not here is not theirs to take.
METHODS: dict[type, dict[str, Cost]] = {
    str: {
        **dict.fromkeys(("capitalize", "casefold", "lower", "swapcase", "title", "upper"), _changes_case),
        **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padded),
        **dict.fromkeys(("count", "endswith", "find", "index", "startswith"), looks),
        **dict.fromkeys([name for name in dir(str) if name.startswith("is")], looks),
        **dict.fromkeys(("lstrip", "rstrip", "strip"), _strip),
        **dict.fromkeys(("partition", "removeprefix", "removesuffix"), _bytes(1)),
        **dict.fromkeys(("rfind", "rindex"), _search_from_right),
        "expandtabs": _expand_tabs,
        "format": free,  # each field is charged by the formatter
        "format_map": free,
        "join": _join,
        "replace": _replace,
        "rpartition": _split_from_right,
        "rsplit": _split_from_right,
        "split": _split,
        "splitlines": _bytes(PIECE),
    },
    dict: {
        **dict.fromkeys(("items", "keys", "values"), free),
        "copy": lambda meter, value: meter.charge(STEP + 100 * len(value)),
        "get": _look_up,
    },
    list: {
        "copy": lambda meter, value: meter.charge(STEP + 8 * len(value)),
        **dict.fromkeys(("count", "index"), _bytes(1)),
    },
    tuple: {**dict.fromkeys(("count", "index"), _bytes(1)), "grouper": free, "list": free},  # fields of groupby's
    range: {},
    bytes: {},
    int: {"bit_length": free, "is_integer": free},
    float: {"is_integer": free},
    type: {},
}
KINDS = tuple(METHODS)


def methods(value: Any) -> dict[str, Cost]:
    """Those of a value of one of KINDS."""
    return next(costs for kind, costs in METHODS.items() if isinstance(value, kind))


# --- filters ----------------------------------------------------------------------------------------------------------


def _items(factor: int) -> Cost:
    """Something for each item, whatever the item is."""

    def cost(meter: Meter, value: Any, *args: Any, **kwargs: Any) -> None:
        meter.charge(STEP + factor * (len(value) if isinstance(value, Sized) else 0))

    return cost


def _characters(meter: Meter, value: Any) -> None:
    """The list of a text has its characters."""
    item = CHARACTER if isinstance(value, str) and not value.isascii() else 8
    meter.charge(STEP + item * (len(value) if isinstance(value, Sized) else 0))


def _sorted(meter: Meter, value: Any, *args: Any, **kwargs: Any) -> None:
    n = len(value) if isinstance(value, Sized) else 0
    meter.charge(STEP + (meter.size(value) + 100 * n) * max(1, n.bit_length()))


def _joined_items(meter: Meter, value: Any, d: Any = "", attribute: Any = None) -> None:
    n = len(value) if isinstance(value, Sized) else 0
    meter.charge(STEP + TEXT_PER_BYTE * meter.size(value) + n * meter.size(meter.text(d)))


def _indented(meter: Meter, s: Any, width: Any = 4, first: bool = False, blank: bool = False) -> None:
    if not isinstance(s, str):
        raise TypeError(f"indent needs a text, not a {type(s).__name__}")  # Jinja would change a list in place
    meter.charge(STEP + PIECE * len(s) + meter.size(s))
    n_lines = 1 + len(s.splitlines())
    if isinstance(width, str):
        meter.charge(n_lines * meter.size(width))
    else:
        _repeated(meter, width, n_lines * TEXT_PER_BYTE)


def _batched(meter: Meter, value: Any, linecount: Any = 1, fill_with: Any = None, slices: Any = 1) -> None:
    meter.charge(STEP + PIECE * (len(value) if isinstance(value, Sized) else 0))
    for count in (linecount, slices):
        _repeated(meter, count, CHARACTER)


def _rounded(meter: Meter, value: Any, precision: Any = 0, method: str = "common") -> None:
    _number(value)
    meter.charge(STEP)
    if isinstance(precision, int):
        _int_of(abs(precision) * 4)


def _number(value: Any) -> None:
    if not isinstance(value, (int, float)):
        raise TypeError(f"a number is needed, not a {type(value).__name__}")


def _summed(meter: Meter, iterable: Any, attribute: Any = None, start: Any = 0) -> None:
    _number(start)
    meter.charge(STEP + STEP * (len(iterable) if isinstance(iterable, Sized) else 0))


def _read_int(meter: Meter, value: Any, default: Any = 0, base: Any = 10) -> None:
    meter.charge(STEP + (len(value) ** 2 // 64 if isinstance(value, str) else 0))


def _formatted(meter: Meter, value: Any, *args: Any, **kwargs: Any) -> None:
    percent(meter, meter.text(value), kwargs or args)


def json_text(
    meter: Meter,
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> None:
    size = meter.size(value)
    meter.charge(STEP + ESCAPED * size)
    width = indent if isinstance(indent, int) else meter.size(indent) if indent else 0
    between = meter.size(separators) if separators else 0
    # Once in any case: the encoder makes an indentation before it looks at the value.
    _repeated(meter, width * max(meter.height(value), 1) + between, max(size // 16, 1))


FILTERS: dict[str, Cost] = {
    **dict.fromkeys(("abs", "attr", "count", "d", "default", "first", "float", "last", "length"), _items(0)),
    **dict.fromkeys(("capitalize", "lower", "upper"), _changes_case),
    **dict.fromkeys(("e", "escape", "forceescape", "urlencode"), _bytes(ESCAPED)),
    **dict.fromkeys(("title", "wordcount"), _bytes(WORDS)),
    **dict.fromkeys(("dictsort", "groupby", "max", "min", "sort", "unique"), _sorted),
    **dict.fromkeys(("map", "reject", "rejectattr", "select", "selectattr"), _items(STEP)),
    **dict.fromkeys(("safe", "string", "truncate"), _bytes(TEXT_PER_BYTE)),
    "batch": _batched,
    "center": _padded,
    "filesizeformat": _read_int,
    "format": _formatted,
    "indent": _indented,
    "int": _read_int,
    "items": _items(CHARACTER),
    "join": _joined_items,
    "list": _characters,
    "replace": _replace,
    "reverse": _characters,
    "round": _rounded,
    "slice": lambda meter, value, slices, fill_with=None: _batched(meter, value, slices=slices),
    "sum": _summed,
    "tojson": json_text,
    "trim": _strip,
}

# Of these the value may be what another filter gives, item by item; they take all of it.
CONSUMERS = frozenset(("batch", "groupby", "join", "list", "max", "min", "slice", "sort", "sum", "unique"))


# --- tests ------------------------------------------------------------------------------------------------------------


def _numeric(meter: Meter, value: Any, *args: Any) -> None:
    _number(value)  # % of a text is a format


TESTS: dict[str, Cost] = {
    **dict.fromkeys(("divisibleby", "even", "odd"), _numeric),
    **dict.fromkeys(("==", "!=", ">", ">=", "<", "<=", "in", "lower", "upper"), _bytes(1)),
    **dict.fromkeys(("eq", "equalto", "ge", "greaterthan", "gt", "le", "lessthan", "lt", "ne"), _bytes(1)),
}  # the others cost a call

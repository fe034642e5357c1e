"""The keywords of JSON Schema, drafts 4 to 2020-12: what kind of value each takes, and which are not obeyed."""

import math
from typing import Any

from .schema_overlap import TYPES

KINDS: dict[str, str] = {
    "type": "types",
    "required": "names",
    "enum": "list",
    "const": "any",
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), "count"),
    **dict.fromkeys(("minContains", "maxContains"), "count"),
    **dict.fromkeys(("minimum", "maximum"), "number"),
    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum"), "number or bool"),
    "multipleOf": "positive number",
    **dict.fromkeys(("pattern", "format", "$ref", "$schema", "$id", "$anchor", "$comment"), "text"),
    **dict.fromkeys(("title", "description", "default", "example", "examples", "deprecated", "readOnly"), "any"),
    **dict.fromkeys(("writeOnly", "id", "contentEncoding", "contentMediaType", "contentSchema"), "any"),
    **dict.fromkeys(("$dynamicRef", "$recursiveRef", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary"), "any"),
    **dict.fromkeys(("additionalProperties", "additionalItems", "not", "if", "then", "else", "contains"), "schema"),
    **dict.fromkeys(("propertyNames", "unevaluatedItems", "unevaluatedProperties"), "schema"),
    "items": "items",
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems"), "schemas"),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"), "named schemas"),
    "dependentRequired": "named names",
    "dependencies": "dependencies",
    "uniqueItems": "bool",
    "nullable": "any",  # of OpenAPI: nothing to JSON Schema, where null is a type
    **dict.fromkeys(("disallow", "extends", "divisibleBy"), "any"),
}

# keywords as a hasty hand writes them
MISSPELT = {name.lower(): name for name, kind in KINDS.items() if kind != "any"}

_DRAFT_3 = "it is of draft 3, whose keywords are not supported"
NOT_OBEYED = {
    **dict.fromkeys(("not", "if", "then", "else", "contains", "minContains", "maxContains"), "it is not supported"),
    **dict.fromkeys(("uniqueItems", "propertyNames", "dependentSchemas", "$dynamicRef"), "it is not supported"),
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties", "$recursiveRef"), "it is not supported"),
    **dict.fromkeys(("disallow", "extends"), _DRAFT_3),
    "divisibleBy": f'{_DRAFT_3}; write "multipleOf"',
    "x-guidance": "options of the grammar engine are not taken from a schema",
}

_LEAP = "[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00"
_YEAR = "[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9]"
_DATE = (
    f"(?:{_YEAR})-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:{_LEAP})-02-29"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_POINTER = "(?:/(?:[^~/]|~[01])*)*"
_PATH = "(?:[A-Za-z0-9._~!$&'()*+,;=@/-]|%[0-9A-Fa-f]{2})"
_QUERY = "(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*"
_REFERENCE = rf"(?:https?://[A-Za-z0-9][A-Za-z0-9.-]*(?:/{_PATH}*)?|{_PATH}*)(?:\?{_QUERY})?(?:#{_QUERY})?"


def _text(rule: str) -> dict[str, str]:
    return {"pattern": f"^(?:{rule})$"}


# What each format of strings becomes: a format of llguidance, or a pattern where that is not exact or not there.
FORMATS: dict[str, dict[str, str]] = {
    **{name: {"format": name} for name in ("duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")},
    **{"idn-email": {"format": "email"}, "idn-hostname": {"format": "hostname"}, "iri": {"format": "uri"}},
    **{"url": {"format": "uri"}, "ip-address": {"format": "ipv4"}, "host-name": {"format": "hostname"}},
    "date": _text(_DATE),
    "time": _text(_TIME),
    "date-time": _text(f"(?:{_DATE})T{_TIME}"),
    "uri-reference": _text(_REFERENCE),
    "iri-reference": _text(_REFERENCE),
    "json-pointer": _text(_POINTER),
    "relative-json-pointer": _text(f"(?:0|[1-9]+)(?:#|{_POINTER})"),  # no 0 within: jsonschema refuses 101
    "byte": _text("(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"),
    "color": _text("#[0-9A-Fa-f]{6}"),
}
# Formats of OpenAPI and of forms that say how a value is shown or kept, not what it is.
HINTS = {"password", "binary", "float", "double", "textarea", "text", "markdown", "html", "multiline"}
WHOLE = {
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}


def check_value(keyword: str, value: Any) -> str:
    """What is wrong with the value of a keyword, "" if nothing."""
    kind = KINDS.get(keyword, "any")
    check = _CHECKS.get(kind)
    return "" if check is None or check[0](value) else f"it takes {check[1]}"


def _schema(value: Any) -> bool:
    return isinstance(value, (dict, bool))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _types(value: Any) -> bool:
    named = [value] if isinstance(value, str) else value
    return _names(named) and bool(named) and TYPES.issuperset(named)


def _schemas(value: Any) -> bool:
    return isinstance(value, list) and all(map(_schema, value))


def _all(check: Any, kind: Any) -> Any:
    return lambda value: isinstance(value, kind) and all(map(check, value.values()))


_CHECKS = {
    "types": (_types, f"one or several of {', '.join(sorted(TYPES))}"),
    "names": (_names, "a list of keys"),
    "list": (lambda value: isinstance(value, list), "a list of values"),
    "count": (lambda value: _number(value) and value >= 0 and value == math.floor(value), "a whole number from 0 on"),
    "number": (_number, "a number"),
    "number or bool": (lambda value: isinstance(value, bool) or _number(value), "a number"),
    "positive number": (lambda value: _number(value) and value > 0, "a number above 0"),
    "text": (lambda value: isinstance(value, str), "a text"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "schema": (_schema, "a schema: an object, true or false"),
    "schemas": (lambda value: _schemas(value) and bool(value), "a list of at least one schema"),
    "items": (lambda value: _schema(value) or _schemas(value), "a schema or a list of schemas"),
    "named schemas": (_all(_schema, dict), "an object of schemas"),
    "named names": (_all(_names, dict), "an object of lists of keys"),
    "dependencies": (_all(lambda each: _schema(each) or _names(each), dict), "an object of schemas or lists of keys"),
}

"""Some hundred JSON schemas in the shapes of public suites, of tools and of configuration files, by hand and by rule.

Texts and lists are short: a model of random weights must come to an end.
"""

from __future__ import annotations

import itertools
import random

DRAFT = "http://json-schema.org/draft-{:02}/schema#"
WORD = {"type": "string", "maxLength": 6}
NUMBER = {"type": "integer", "minimum": -99, "maximum": 999}
ID = {"type": "integer", "minimum": 1, "maximum": 99999}
FLAG = {"type": "boolean"}


def record(required: list[str] | None = None, /, **properties: object) -> dict:
    """An object of these members and no others; all are required where nothing else is said."""
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def some(items: object, most: int = 3, **more: object) -> dict:
    return {"type": "array", "items": items, "maxItems": most, **more}


def choice(*values: object) -> dict:
    return {"enum": list(values)}


SCALARS = [
    {"type": "null"},
    {"type": "boolean"},
    {"type": "integer", "minimum": 0, "maximum": 9},
    {"type": "integer", "minimum": 3, "maximum": 12},
    {"type": "integer", "minimum": -20, "maximum": -3},
    {"type": "integer", "exclusiveMinimum": -1, "exclusiveMaximum": 100},
    {"type": "integer", "exclusiveMinimum": 0.5, "exclusiveMaximum": 7.5},
    {"type": "integer", "minimum": 1.2, "maximum": 8.9},
    {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    {"type": "integer", "minimum": 1, "maximum": 65535, "multipleOf": 5},
    {"type": "integer", "multipleOf": 3, "minimum": 0, "maximum": 300},
    {"type": "integer", "format": "int32"},
    {"type": "integer", "format": "uint8"},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "minimum": -1.5, "exclusiveMaximum": -1},
    {"type": "number", "minimum": -90, "maximum": 90},
    {"type": "number", "minimum": 1e-07, "maximum": 1e-05},
    {"type": "number", "minimum": 99.5, "maximum": 100.25},
    {"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 20},
    {"type": "number", "minimum": 0, "exclusiveMinimum": 3, "maximum": 9},
    {"type": ["integer", "null"], "minimum": 10, "maximum": 20},
    {"type": ["string", "null"], "maxLength": 4},
    {"type": ["boolean", "integer"], "maximum": 10, "minimum": 0},
    {"type": "string", "maxLength": 8},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "minLength": 3, "maxLength": 3},
    {"type": "string", "maxLength": 0},
    {"type": "string", "maxLength": 1500, "pattern": "^[a-z]{0,7}$"},
    {"const": "fixed"},
    {"const": ""},
    {"const": 7},
    {"const": -2.5},
    {"const": 1e2},
    {"const": None},
    {"const": [1, "two", None, {"three": 3.0}]},
    {"const": {"a": {"b": [True, False]}, "c": "d"}},
    {"enum": ["red", "green", "blue"]},
    {"enum": ["line1\nline2", "C:\\new", "tab\t"]},
    {"enum": ['say "hi"', "no", "it's", "</script>"]},
    {"enum": ["caf\u00e9", "\u65e5\u672c", "\U0001f600", "\u2028"]},
    {"enum": [1, 2.0, 3.5, -0.25, 1e3]},
    {"enum": ["1", 1, True, None, [], {}]},
    {"enum": [0, False, ""]},
    {"type": "string", "enum": ["a", "bb", 3, None]},
    {"type": "integer", "enum": [1, 2.0, 3.5, "4"]},
    {"type": "number", "minimum": 2, "enum": [1, 2, 3, "x"]},
    {"enum": [[1], [1, 2], [[]]]},
    {"enum": ["only"], "type": "string", "description": "one value", "default": "only", "examples": ["only"]},
]
FORMATS = [
    {"type": "string", "format": name}
    for name in ("date", "time", "date-time", "duration", "ipv4", "ipv6", "uuid", "relative-json-pointer", "color")
] + [
    {"type": "string", "format": name, "maxLength": 16}
    for name in ("email", "hostname", "uri", "uri-reference", "json-pointer", "iri", "idn-email", "byte", "password")
]
PATTERNS = [
    {"type": "string", "pattern": pattern}
    for pattern in (
        "^[a-z]{1,6}$",
        "^[A-Z][a-z]{2,5}$",
        r"^\d{3}-\d{4}$",
        r"^\w{1,5}$",
        r"^\W{2}$",
        r"^\D\d$",
        r"^\S{1,4}$",
        r"^[^\s]{1,4}$",
        r"^[^\w]{1,3}$",
        r"^[^\W_]{1,4}$",
        r"^[\w.-]{1,4}@[\w-]{1,4}\.(com|org)$",
        "^(cat|dog|bird)$",
        "^(?:yes|no)(?:!|[?])?$",
        "^(?P<year>20[0-9]{2})-(?P<month>0[1-9]|1[0-2])$",
        "^#?([a-f0-9]{6}|[a-f0-9]{3})$",
        r"^v?[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{1,2}$",
        r"^\+?[0-9 ()-]{5,9}$",
        r"^/(?:[a-z]{1,3}/){0,2}$",
        r"^[\[\]{}&~|^-]{1,4}$",
        "^[[&&~]{2}$",
        r"^\u00e9\x41[\u4e00-\u9fff]$",
        "^\\.{3}\\*\\+\\?\\$$",
        "^a{2}b{0,2}c{1,3}$",
        "^.{1,3}$",
        "^$",
        "^[0-9a-fA-F]{8}$",
        r"^\$\{[a-z]{1,4}\}$",
        "^{[a-z]{2}}$",
        r"^[^\x00-\x1f\"\\]{0,5}$",
        "^(a|b)*?c$",
    )
] + [
    {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
    {"type": "string", "pattern": "x", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": "^19|^20", "format": "date"},
    {"type": ["string", "integer"], "pattern": "^[a-c]{2}$", "minimum": 5, "maximum": 6},
]
ARRAYS = [
    some({"type": "integer", "minimum": 0, "maximum": 9}),
    some(WORD, 2, minItems=1),
    some(FLAG, 4, minItems=4),
    some(choice("a", "b", "c"), 3, uniqueItems=False),
    some({"type": ["null", "boolean"]}),
    some(some({"type": "integer", "minimum": 0, "maximum": 5}, 2), 2),
    some(some(some({"type": "null"}, 1), 2), 2),
    some({"anyOf": [FLAG, {"type": "null"}]}),
    some(True, 0),
    some(False),
    {"type": "array", "prefixItems": [NUMBER, WORD], "items": False, "minItems": 2},
    {"type": "array", "prefixItems": [FLAG, NUMBER], "items": WORD, "maxItems": 3},
    {"type": "array", "prefixItems": [{"const": "point"}, NUMBER, NUMBER], "minItems": 3, "items": False},
    {"type": "array", "prefixItems": [FLAG, False]},
    {"type": "array", "prefixItems": [FLAG], "unevaluatedItems": False},
    {"$schema": DRAFT.format(7), "type": "array", "items": [NUMBER, FLAG], "additionalItems": False},
    {"$schema": DRAFT.format(7), "type": "array", "items": [NUMBER], "additionalItems": FLAG, "maxItems": 3},
    {"$schema": DRAFT.format(7), "type": "array", "items": FLAG, "additionalItems": False, "maxItems": 2},
    {"$schema": "https://json-schema.org/draft/2019-09/schema", "type": "array", "items": [FLAG], "maxItems": 1},
    {"type": "array", "items": {"type": "string", "maxLength": 3}, "uniqueItems": True, "maxItems": 1},
    {"allOf": [some(NUMBER, 4), {"minItems": 1}, {"maxItems": 2}]},
    {"allOf": [{"type": "array", "items": {"type": "integer", "minimum": 0}}, some({"maximum": 9}, 3)]},
    {"type": ["array", "null"], "items": FLAG, "maxItems": 2},
]
OBJECTS = [
    record(text=WORD),
    record(name=WORD, age={"type": "integer", "minimum": 0, "maximum": 150}),
    record([], name=WORD, nick=WORD),
    record(["b"], a=FLAG, b=NUMBER, c={"type": "null"}),
    record(),
    record(**{f"field{i:02}": {"type": "integer", "minimum": 0, "maximum": 99} for i in range(20)}),
    record(**{'quo"te': FLAG, "back\\slash": FLAG, "new\nline": FLAG, "caf\u00e9": FLAG, "": FLAG, "a/b~c%20": FLAG}),
    record(**{"$ref": FLAG, "type": WORD, "properties": NUMBER, "not": FLAG}),
    record(inner=record(deep=record(deepest=FLAG))),
    record(x=True, y={"type": "null"})
    | {"properties": {"x": {"type": "integer", "maximum": 3, "minimum": 1}, "y": False}}
    | {"required": ["x"]},
    {"type": "object", "additionalProperties": NUMBER, "maxProperties": 2},
    {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1, "maxProperties": 1},
    {"type": "object", "required": ["z", "a"], "additionalProperties": FLAG, "maxProperties": 2},
    {"type": "object", "properties": {"a": FLAG}, "required": ["a"], "additionalProperties": WORD, "maxProperties": 2},
    {"type": "object", "properties": {"a": FLAG, "b": FLAG}, "minProperties": 1, "additionalProperties": False},
    {"type": "object", "properties": {"a": FLAG, "b": FLAG}, "maxProperties": 1, "additionalProperties": False},
    {
        "type": "object",
        "properties": {"a": FLAG, "b": FLAG},
        "required": ["a", "b"],
        "minProperties": 2,
        "maxProperties": 2,
    },
    {"type": "object", "patternProperties": {"^x-": FLAG}, "additionalProperties": False, "maxProperties": 2},
    {"type": "object", "patternProperties": {"^[a-c]$": NUMBER, "^[d-f]$": FLAG}, "additionalProperties": False}
    | {"maxProperties": 2},
    {"type": "object", "patternProperties": {r"^\d{1,2}$": NUMBER}, "additionalProperties": False, "minProperties": 1}
    | {"maxProperties": 1},
    {"type": "object", "patternProperties": {r"^\w{1,2}$": NUMBER}, "additionalProperties": FLAG, "maxProperties": 2},
    {
        "type": "object",
        "properties": {"ab": {"maximum": 5}},
        "patternProperties": {"^a": {"type": "integer", "minimum": 1}},
    }
    | {"required": ["ab"], "additionalProperties": False, "maxProperties": 1},
    {"type": "object", "properties": {"a": NUMBER}, "unevaluatedProperties": False},
    {"type": "object", "properties": {"card": ID, "address": WORD}, "dependentRequired": {"card": ["address"]}}
    | {"additionalProperties": False},
    {"$schema": DRAFT.format(7), "type": "object", "properties": {"a": FLAG, "b": FLAG}, "dependencies": {"a": ["b"]}}
    | {"additionalProperties": False},
    {"type": ["object", "null"], "properties": {"a": FLAG}, "additionalProperties": False},
    {"properties": {"a": FLAG}, "required": ["a"], "type": "object", "maxProperties": 1},
]
_CIRCLE, _SQUARE = record(kind={"const": "circle"}, r=NUMBER), record(kind={"const": "square"}, side=NUMBER)
_NODE = record(["value"], value=FLAG, next={"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]})
_EXPRESSION = {"oneOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"$ref": "#/$defs/sum"}]}
COMBINED = [
    {"anyOf": [WORD, NUMBER]},
    {"anyOf": [{"type": "string", "enum": ["auto"]}, {"type": "integer", "minimum": 1, "maximum": 64}]},
    {"oneOf": [{"type": "null"}, WORD]},
    {"oneOf": [{"const": "a"}, {"const": "b"}, {"const": "c"}]},
    {"oneOf": [{"const": 1, "title": "one"}, {"const": 2, "title": "two"}]},
    {"oneOf": [{"enum": [1, 2]}, {"enum": [3, "x"]}]},
    {"oneOf": [{"type": "integer", "minimum": 0, "maximum": 4}, {"type": "integer", "minimum": 6, "maximum": 9}]},
    {
        "oneOf": [
            {"type": "number", "exclusiveMaximum": 1, "minimum": 0},
            {"type": "number", "minimum": 1, "maximum": 2},
        ]
    },
    {"oneOf": [{"type": "string", "maxLength": 2}, {"type": "string", "minLength": 3, "maxLength": 5}]},
    {"oneOf": [_CIRCLE, _SQUARE]},
    {"oneOf": [{"$ref": "#/$defs/c"}, {"$ref": "#/$defs/s"}], "$defs": {"c": _CIRCLE, "s": _SQUARE}},
    {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}
    | {"properties": {"a": FLAG, "b": FLAG}, "additionalProperties": False},
    {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    | {"properties": {"a": FLAG, "b": FLAG}, "additionalProperties": False},
    {"oneOf": [record(a=FLAG), record(b=FLAG), some(FLAG)]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}]},
    {"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}]},
    {"allOf": [{"type": "string", "minLength": 2}, {"maxLength": 4}, {"pattern": "^[a-f]+$"}]},
    {"allOf": [{"type": "object", "properties": {"a": NUMBER}, "required": ["a"]}, record(["b"], a=True, b=FLAG)]},
    {"allOf": [{"anyOf": [{"const": 1}, {"const": 2}]}, {"anyOf": [{"const": 2}, {"const": 3}]}]},
    {"anyOf": [{"allOf": [NUMBER, {"multipleOf": 2}]}, {"type": "null"}]},
    {"minimum": 3, "type": "integer", "anyOf": [{"maximum": 5}, {"maximum": 9}]},
    {"anyOf": [False, {"type": "boolean"}, False]},
    {"allOf": [True, {"type": "null"}, {}]},
    {"$ref": "#/$defs/n", "$defs": {"n": NUMBER}},
    {"$ref": "#/$defs/n", "maximum": 5, "$defs": {"n": {"type": "integer", "minimum": 1}}},
    {"$ref": "#/definitions/a%20b~1c", "definitions": {"a b/c": FLAG}},
    {"$ref": "#here", "$defs": {"x": {"$anchor": "here", "type": "boolean"}}},
    {"$id": "https://example.com/root.json", "$ref": "item.json", "$defs": {"i": {"$id": "item.json", "type": "null"}}},
    {"$id": "https://example.com/root.json", "$ref": "part.json#/$defs/p"}
    | {"$defs": {"i": {"$id": "part.json", "$defs": {"p": {"$ref": "#/$defs/q"}, "q": FLAG}}, "q": {"type": "null"}}},
    {"$schema": DRAFT.format(7), "$ref": "#word", "definitions": {"w": {"$id": "#word", "type": "boolean"}}},
    {"$schema": DRAFT.format(4), "id": "http://example.com/s", "$ref": "#/definitions/w", "definitions": {"w": FLAG}},
    {"$ref": "#/$defs/node", "$defs": {"node": _NODE}},
    record(["a"], a=FLAG, again={"$ref": "#"}),
    {"$ref": "#/$defs/tree", "$defs": {"tree": record(leaf=FLAG, kids=some({"$ref": "#/$defs/tree"}, 1))}},
    {"$ref": "#/$defs/e"}
    | {"$defs": {"e": _EXPRESSION, "sum": record(op={"const": "+"}, left=NUMBER, right={"$ref": "#/$defs/e"})}},
    {"properties": {"a": {"$ref": "#/properties/b"}, "b": FLAG}, "type": "object", "required": ["a", "b"]}
    | {"additionalProperties": False},
    {"$schema": DRAFT.format(4), "type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 5},
    {"$schema": DRAFT.format(4), "type": "integer", "minimum": 0, "maximum": 9, "exclusiveMaximum": True},
    {"$schema": DRAFT.format(6), "type": "integer", "exclusiveMinimum": 3, "maximum": 9, "examples": [4]},
    {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "boolean", "deprecated": True, "x-order": 3},
    {"$schema": "http://json-schema.org/schema#", "type": "boolean", "$comment": "the newest draft"},
]
TOOLS = [
    record(["location"], location=WORD, unit=choice("celsius", "fahrenheit")),
    record(["query"], query=WORD, top_k={"type": "integer", "minimum": 1, "maximum": 20, "default": 5}),
    record(to=some({"type": "string", "format": "email", "maxLength": 12}, 2, minItems=1), subject=WORD, body=WORD),
    record(city=WORD, days={"type": "integer", "minimum": 1, "maximum": 7}, alerts={"type": ["boolean", "null"]}),
    record(["sql"], sql={"type": "string", "maxLength": 12}, limit=ID, dry_run=FLAG),
    record(name={"const": "get_weather"}, arguments=record(["city"], city=WORD, unit=choice("C", "F"))),
    {"anyOf": [record(name={"const": "add"}, arguments=record(a=NUMBER, b=NUMBER)), record(name={"const": "stop"})]},
    some({"oneOf": [record(tool={"const": "read"}, path=WORD), record(tool={"const": "exit"}, code=NUMBER)]}, 2),
    record(expression={"type": "string", "pattern": r"^[0-9+*/ ()-]{1,8}$"}),
    record(from_currency={"type": "string", "pattern": "^[A-Z]{3}$"}, amount={"type": "number", "minimum": 0})
    | {"required": ["from_currency"]},
    record(title=WORD, start={"type": "string", "format": "date-time"}, minutes={"type": "integer", "minimum": 5})
    | {"required": ["title", "start"]},
    record(
        lat={"type": "number", "minimum": -90, "maximum": 90}, lon={"type": "number", "minimum": -180, "maximum": 180}
    ),
    record(["command"], command=choice("view", "create", "insert"), path=WORD, view_range=some(ID, 2, minItems=2)),
    record(thought=WORD, action=choice("search", "finish"), observation={"type": ["string", "null"], "maxLength": 4}),
    record(language=choice("en", "de", "fr"), text=WORD, formal=FLAG),
    record(
        user=record(["id"], id=ID, email={"type": "string", "format": "email", "maxLength": 10}), roles=some(WORD, 2)
    ),
    record(sentiment=choice("positive", "negative", "neutral"), score={"type": "number", "minimum": -1, "maximum": 1}),
    record(entities=some(record(text=WORD, label=choice("PER", "LOC", "ORG"), start=ID), 2)),
    record(answer=choice("A", "B", "C", "D"), confidence={"type": "integer", "minimum": 0, "maximum": 100}),
    record(steps=some(record(explanation=WORD, output=WORD), 2), final=WORD),
    record(items=some(record(sku={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}, qty=ID), 2), coupon=WORD)
    | {"required": ["items"]},
    record(color={"type": "string", "pattern": "^#[0-9a-f]{6}$"}, brightness={"type": "integer", "multipleOf": 10})
    | {"required": ["color"]},
    record(url={"type": "string", "format": "uri", "maxLength": 14}, method=choice("GET", "POST")),
    record(key={"type": "string", "format": "uuid"}, value={"anyOf": [WORD, NUMBER, FLAG, {"type": "null"}]}),
]
CONFIGURATIONS = [
    record(version={"const": 3}, services={"type": "object", "additionalProperties": record(image=WORD)})
    | {"required": ["version"]},
    record(
        ["name"],
        name={"type": "string", "pattern": "^[a-z-]{1,8}$"},
        version={"type": "string", "pattern": r"^\d\.\d$"},
    )
    | {"title": "package"},
    record(
        host={"type": "string", "format": "ipv4"}, port={"type": "integer", "minimum": 1, "maximum": 65535}, tls=FLAG
    ),
    record(
        [],
        extends={"oneOf": [WORD, some(WORD, 2)]},
        root=FLAG,
        rules={"type": "object", "additionalProperties": NUMBER},
    )
    | {"maxProperties": 3},
    record(on={"oneOf": [choice("push", "pull_request"), some(choice("push", "pull_request"), 2)]}, jobs=some(WORD, 1)),
    record(compilerOptions=record(["strict"], strict=FLAG, target=choice("ES5", "ES2020"), lib=some(WORD, 2))),
    record(level=choice("debug", "info", "error"), handlers=some(record(type=choice("file", "console"), path=WORD), 2)),
    record(apiVersion={"const": "v1"}, kind=choice("Pod", "Service"), metadata=record(name=WORD, labels=some(WORD, 1))),
    record(replicas={"type": "integer", "format": "int32", "minimum": 0}, paused=FLAG),
    record(type={"const": "Feature"}, geometry={"oneOf": [{"$ref": "#/definitions/point"}, {"type": "null"}]})
    | {
        "definitions": {
            "point": record(type={"const": "Point"}, coordinates=some({"type": "integer", "minimum": 0}, 2))
        }
    },
    record(
        tabWidth={"type": "integer", "minimum": 0, "maximum": 8, "default": 2},
        semi=FLAG,
        quote=choice("single", "double"),
    ),
    record(cache={"anyOf": [FLAG, record(ttl=ID)]}, retries={"type": "integer", "minimum": 0, "maximum": 5}),
    record(theme={"enum": ["light", "dark"], "enumDescriptions": ["white", "black"], "markdownDescription": "*look*"}),
    record(
        paths=some({"type": "string", "pattern": "^/[a-z]{0,4}$"}, 2),
        exclude={"type": ["array", "null"], "maxItems": 0},
    ),
    record(matrix=some(some({"type": "integer", "minimum": 0, "maximum": 1}, 2, minItems=2), 2, minItems=2)),
    record(schedule={"type": "string", "pattern": r"^(\*|[0-9]{1,2}) (\*|[0-9]{1,2})$"}, zone={"const": "UTC"}),
]
# In the proportion in which public schemas ask for what is not to be had.
REFUSED = [
    some(WORD, 3, uniqueItems=True),
    record(tags=some(WORD, 3, uniqueItems=True)),
    {"type": "string", "not": {"enum": ["root"]}},
    record(a=FLAG) | {"if": {"properties": {"a": {"const": True}}}, "then": {"required": ["b"]}},
    {"type": "array", "contains": {"type": "integer"}},
    {"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}, "additionalProperties": FLAG},
    {"type": "number", "multipleOf": 0.01, "minimum": 0},
    {"type": "string", "pattern": "^(?!foo)[a-z]+$"},
    {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 2}]},
    {"$ref": "https://example.com/other.json"},
    {"type": "string", "format": "regex"},
    {"allOf": [{"properties": {"a": FLAG}}], "unevaluatedProperties": False, "type": "object"},
]
BY_HAND = [*SCALARS, *FORMATS, *PATTERNS, *ARRAYS, *OBJECTS, *COMBINED, *TOOLS, *CONFIGURATIONS, *REFUSED]


class Maker:
    """Random schemas of up to `depth` levels."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def schema(self, depth: int) -> dict:
        kinds = [self.scalar] * 2 if depth == 0 else [self.record, self.record, self.array, self.union, self.meeting]
        return self.random.choice(kinds)(depth)

    def scalar(self, _depth: int = 0) -> dict:
        return self.random.choice([self.number, self.text, self.values, lambda: FLAG, lambda: {"type": "null"}])()

    def number(self) -> dict:
        low = self.random.choice([-1000, -7, 0, 1, 0.5, -2.25, 3.125])
        high = low + self.random.choice([1, 10, 0.75, 99.5, 12345])
        ends = self.random.choice(
            [("minimum", "maximum"), ("exclusiveMinimum", "maximum"), ("minimum", "exclusiveMaximum")]
        )
        whole = self.random.random() < 0.6
        if whole and int(high) <= int(low) + 1:
            high = low + 5
        return {"type": "integer" if whole else "number", **dict(zip(ends, (low, high), strict=True))}

    def text(self) -> dict:
        least = self.random.randint(0, 3)
        bounded = {"type": "string", "minLength": least, "maxLength": least + self.random.randint(0, 4)}
        return self.random.choice([bounded, bounded, self.random.choice(PATTERNS), self.random.choice(FORMATS)])

    def values(self) -> dict:
        pool = ["a", "b b", "\u00fc", 'q"', "\\", 1, -2, 0.5, 1e6, True, None, [], [1, "x"], {}, {"k": [None]}]
        return {"enum": self.random.sample(pool, self.random.randint(1, 4))}

    def record(self, depth: int) -> dict:
        names = self.random.sample(
            ["id", "name", "a b", "x", "y", "tags", 'k"', "\u00e9t\u00e9"], self.random.randint(1, 4)
        )
        required = [name for name in names if self.random.random() < 0.7]
        self.random.shuffle(required)
        made = record(required, **{name: self.schema(self.random.randint(0, depth - 1)) for name in names})
        if self.random.random() < 0.2 and len(required) == len(names):
            made |= {"additionalProperties": self.scalar(), "maxProperties": len(names) + 1}
        return made

    def array(self, depth: int) -> dict:
        if self.random.random() < 0.3:
            prefix = [self.schema(depth - 1) for _ in range(self.random.randint(1, 2))]
            return {
                "type": "array",
                "prefixItems": prefix,
                "items": False,
                "minItems": self.random.randint(0, len(prefix)),
            }
        least = self.random.randint(0, 2)
        return some(self.schema(depth - 1), least + self.random.randint(0, 2), minItems=least)

    def union(self, depth: int) -> dict:
        if self.random.random() < 0.5:
            tags = self.random.sample(["p", "q", "r", "s"], self.random.randint(2, 3))
            return {"oneOf": [record(["kind"], kind={"const": tag}, value=self.schema(depth - 1)) for tag in tags]}
        return {"anyOf": [self.schema(depth - 1) for _ in range(self.random.randint(2, 3))]}

    def meeting(self, depth: int) -> dict:
        whole = self.record(depth)
        name = self.random.choice(list(whole["properties"]))
        if self.random.random() < 0.5:
            return {"$ref": "#/$defs/it", "$defs": {"it": whole}} if depth == 2 else whole
        return {"allOf": [whole, {"required": [name]}], "title": "both"}


MADE = [Maker(seed).schema(1 + seed % 2) for seed in range(110)]
SCHEMAS = list(itertools.chain(BY_HAND, MADE))

"""JSON schemas as constraints: what is refused by name, and that whatever ends is valid, drafted or not."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from conftest import SHARED
from maskprobe import ArgumentError, Engine, JsonSchema, Model, SamplingParams
from maskprobe.schema_keywords import obeyed_schema
from schemas import MADE, SCHEMAS

pytestmark = pytest.mark.filterwarnings("ignore:Possible:FutureWarning")  # Python's re, of patterns
# Of the schemas, each so many-th goes to a model that takes longer.
EVERY = int(os.environ.get("MASKPROBE_SCHEMAS_EVERY", "10"))
N_TOKENS = 400  # that a text may have: half a dozen texts do not come to an end in them

RIGHT_BUT_NARROW = [  # the schema, texts of it that are valid, texts that must not pass
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, ["0.25", "0.5"], ["0", "0.0", "0.51"]),
    ({"type": "number", "exclusiveMaximum": -1, "minimum": -1.5}, ["-1.25"], ["-1", "-1.0", "-1.6"]),
    ({"type": "number", "maximum": 1.9999999999999998}, ["1.5"], ["2", "2.0"]),
    ({"type": "number", "maximum": 2**63}, ["7"], ["9223372036854775900"]),
    ({"type": "integer", "minimum": 2**53 + 1}, ["9007199254740994"], ["9007199254740992"]),
    ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, ["-5", "12"], ["9223372036854775808"]),
    ({"type": "integer", "format": "int32"}, ["2147483647"], ["2147483648"]),
    ({"type": "string", "pattern": r"^\W\D$"}, ['"-x"'], ['"\u00e9x"', '"-\u0663"']),
    ({"type": "string", "pattern": r"^[^\w]$"}, ['"-"'], ['"\u00e9"']),
    ({"type": "string", "pattern": "^[[&&a]$"}, ['"["', '"&"'], ['"b"']),
    ({"type": "string", "pattern": r"^\S$"}, ['"x"'], ['"\\u001c"', '" "']),
    ({"type": "string", "pattern": "^a\\x01?b$"}, ['"ab"'], ['"a\\u0001b"', '"a\x01b"']),
    ({"type": "string", "pattern": "^a(c|\x7f|[\\x1f])b$"}, ['"acb"'], ['"ab"', '"a\x7fb"', '"a\\u001fb"']),
    ({"type": "string", "pattern": '^[^"]$'}, ['"x"', '"\\\\"'], ['"\\""']),
    ({"type": "string", "pattern": r"^[^\\/]$"}, ['"x"', '"\\""'], ['"\\\\"', '"/"']),
    ({"type": "string", "pattern": r"^[\x00-\x1f9\\]$"}, ['"9"', '"\\n"', '"\\\\"'], ['"\\""', '"x"']),
    ({"type": "string", "format": "date"}, ['"2024-02-29"'], ['"2023-02-29"', '"1900-02-29"', '"0000-01-01"']),
    ({"properties": {"a": {"type": "integer"}}}, ['{"a": 1}'], ['{"a": 1, "\\u0061": "x"}', '{"\\u0061": "x"}']),
    (
        {"type": "object", "patternProperties": {r"^\d+$": {"type": "null"}}},
        ['{"1": null, "x": 2}'],
        ['{"1": 2}', '{"\u0663": 2}', '{"1\\n": 2}'],
    ),
    (
        {"type": "object", "properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}},
        ["{}", '{"b": 1}', '{"a": 1, "b": 1}'],
        ['{"a": 1}'],
    ),
    (
        {"type": "object", "properties": {"a": {}, "b": {}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        ['{"a": 1}', '{"b": 1}'],
        ["{}", '{"a": 1, "b": 1}'],
    ),
    (
        {"prefixItems": [{"type": "string"}], "items": {"type": "null"}, "additionalItems": False},
        ['["a", null]'],
        ['["a", 1]', "[null]"],
    ),
    (
        {"$ref": "x.json#/$defs/a", "$defs": {"x": {"$id": "x.json", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": True}}}}
        | {"type": "null"},
        ["null"],
        ["1"],
    ),
    (
        {"oneOf": [{"$ref": "#/$defs/a"}, {"type": "null"}], "$defs": {"a": {"type": "boolean"}}},
        ["null", "true"],
        ["1"],
    ),
    ({"uniqueItems": False, "propertyNames": True, "not": False, "then": False, "type": "null"}, ["null"], ["1"]),
]
REFUSED = [  # the schema, what the line says of it
    ({"uniqueItems": True}, '"uniqueItems" at /uniqueItems'),
    ({"properties": {"a": {"items": {"not": {}}}}}, '"not" at /properties/a/items/not'),
    ({"anyOf": [True, {"if": {}, "then": {}}]}, '"if" at /anyOf/1/if'),
    ({"properties": {"a/b~": {"contains": {}}}}, '"contains" at /properties/a~1b~0/contains'),
    ({"additionalProperties": {"propertyNames": {"maxLength": 3}}}, '"propertyNames" at /additionalProperties/prop'),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"minContains": 1, "contains": {}}}}, "at /$defs/a/minContains"),
    ({"allOf": [{}], "unevaluatedProperties": False}, '"unevaluatedProperties" at /unevaluatedProperties'),
    ({"dependentSchemas": {"a": {"minProperties": 2}}}, '"dependentSchemas" at /dependentSchemas'),
    ({"$dynamicRef": "#x"}, '"$dynamicRef" at /$dynamicRef'),
    ({"$ref": "https://example.com/x.json"}, "is nothing within this schema"),
    ({"$id": "http://[", "items": {"$id": "x"}}, "is no address"),
    ({"$id": "http://[", "$ref": "x"}, "is nothing within this schema"),
    ({"$ref": "http://["}, "is nothing within this schema"),
    ({"$ref": "#/$defs/none"}, '"$ref" at /$ref'),
    ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "refers to itself"),
    ({"type": "string", "format": "regex"}, '"format" at /format'),
    ({"type": "string", "format": "phone number"}, "phone number"),
    ({"multipleOf": 0.01}, '"multipleOf" at /multipleOf'),
    ({"allOf": [{"multipleOf": 65536}, {"multipleOf": 65537}]}, "multipleOf"),
    ({"const": 2**53 + 1}, '"const" at /const'),
    ({"enum": [{"a": [0.1 + 0.2]}]}, '"enum" at /enum'),
    ({"const": "\x01"}, "U+0001"),
    ({"type": "number", "minimum": 1e300}, '"minimum" at /minimum'),
    ({"minProperties": 2}, '"minProperties" at /minProperties'),
    ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, '"oneOf" at /oneOf: branches 0 and 1'),
    ({"pattern": "(?<=a)b"}, "look-behind"),
    ({"pattern": r"(a)\1"}, "back references"),
    ({"pattern": r"\bword\b"}, r"\b is not supported"),
    ({"pattern": "a++"}, "possessive"),
    ({"pattern": "["}, "does not end"),
    ({"pattern": "("}, "unclosed group"),
    ({"pattern": "a{3,1}"}, "/pattern"),
    ({"patternProperties": {"(": {}}}, '"patternProperties" at /patternProperties'),
    ({"patternProperties": {"^a": {}, "b$": {}}}, "not disjoint"),
    ({"minLength": -1}, '"minLength" at /minLength'),
    ({"minLength": "3"}, "a whole number"),
    ({"type": "any"}, '"type" at /type'),
    ({"required": True}, '"required" at /required'),
    ({"properties": {"a": 3}}, '"properties" at /properties'),
    ({"items": [{}], "prefixItems": [{}]}, '"prefixItems" at /prefixItems'),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [{}]}, "2020-12"),
    ({"divisibleBy": 3}, "multipleOf"),
    ({"min_length": 3}, '"minLength" is meant?'),
    ({"x-guidance": {"lenient": True}}, "x-guidance"),
    ({"minItems": 10**9}, '"minItems" at /minItems'),
    ({"const": float("nan")}, "not finite"),
    ({"title": "\ud800"}, "surrogate"),
    ({"enum": []}, "root"),
    (False, "no value"),
    (3, "not int"),
]


@pytest.fixture(scope="module")
def models(bundled_model_path):
    """The small model of Python code, and what makes constraints of schemas for it."""
    with Model(bundled_model_path, n_threads=1) as model:
        yield model


def text_passes(schema: JsonSchema, model: Model, text: str) -> bool:
    """Whether a constraint lets the whole text through, and an end after it."""
    constraint = schema.constraint()
    tokens = model.tokenize(text, add_special=False)
    if constraint.n_valid(tokens) < len(tokens):
        return False
    for token in tokens:
        constraint.accept(token)
    bits = constraint.allowed()
    return any(bits[end // 32] >> (end % 32) & 1 for end in model.end_tokens)


@pytest.mark.parametrize(("schema", "right", "wrong"), RIGHT_BUT_NARROW, ids=lambda value: str(value)[:50])
def test_what_is_rewritten_lets_nothing_wrong_through(models, schema, right, wrong):
    made = JsonSchema(models, schema)
    assert [text for text in right if not text_passes(made, models, text)] == []
    assert [text for text in wrong if text_passes(made, models, text)] == []


@pytest.mark.parametrize(("schema", "reason"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_is_not_obeyed_is_refused_by_name(schema, reason):
    with pytest.raises(ArgumentError) as caught:
        obeyed_schema(schema)
    message = str(caught.value)
    assert reason in message
    assert len(message.splitlines()) == 1
    assert len(message) < 500


def test_a_schema_is_left_as_it_was():
    schema = {"oneOf": [{"type": "string", "format": "date"}, {"type": "null"}], "$id": "x"}
    before = json.dumps(schema)
    obeyed_schema(schema)
    assert json.dumps(schema) == before


def test_parts_that_are_one_object_are_fine():
    word = {"type": "string", "format": "date"}
    obeyed_schema({"type": "object", "properties": {"a": word, "b": word}})


def check_all(engine: Engine, schemas: list[dict]) -> tuple[Counter, list[str]]:
    """What became of each schema, drafted and not, and what went wrong."""
    counts: Counter[str] = Counter()
    wrong = []
    prompt = engine.model.tokenize("A value:")
    for i, schema in enumerate(schemas):
        try:
            made = JsonSchema(engine.model, schema)
        except ArgumentError:
            counts["refused"] += 1
            continue
        sampling = SamplingParams(temp=1.5, top_k=0, top_p=1.0, min_p=0.0, seed=i)
        texts, reasons = [], []
        for draft in (True, False):
            generation = engine.generate(prompt, sampling, max_tokens=N_TOKENS, constraint=made, draft=draft)
            results = list(generation)
            texts.append("".join(result.text for result in results))
            reasons.append(results[-1].finish_reason)
        if texts[0] != texts[1] or reasons[0] != reasons[1]:
            counts["different"] += 1
            wrong.append(f"{json.dumps(schema)}: drafted {texts[0]!r}, plainly {texts[1]!r}")
        counts["finished" if reasons[0] == "stop" else reasons[0]] += 1
        if reasons[0] == "stop" and (problem := why_invalid(schema, texts[0])):
            counts["invalid"] += 1
            wrong.append(f"{json.dumps(schema)}: {texts[0]!r}: {problem}")
    return counts, wrong


def why_invalid(schema: dict, text: str) -> str:
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        instance = json.loads(text)
    except ValueError as error:
        return str(error)
    return next((error.message for error in kind(schema, format_checker=kind.FORMAT_CHECKER).iter_errors(instance)), "")


def test_the_schemas_are_schemas():
    assert len(SCHEMAS) >= 300
    assert len(MADE) >= 100
    for schema in SCHEMAS:
        jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator).check_schema(schema)


def check_model(path: Path, schemas: list[dict]) -> None:
    with Model(path, kernels="ours", n_threads=1) as model, Engine(model, n_ctx=512, rows=8, **SHARED) as engine:
        counts, wrong = check_all(engine, schemas)
    print(f"{len(schemas)} schemas, each drafted and plainly: {dict(counts)}")
    assert not wrong, "\n".join(wrong[:10])
    assert counts["refused"] <= 0.05 * len(schemas)
    assert counts["finished"] >= 0.8 * (len(schemas) - counts["refused"])


def test_what_ends_is_valid(tiny_model_path):
    check_model(tiny_model_path("tiny-llama"), SCHEMAS)


def test_what_ends_is_valid_with_a_vocabulary_of_words(bundled_model_path):
    check_model(bundled_model_path, SCHEMAS[1::EVERY])


def test_what_ends_is_valid_on_a_real_model(real_model_path):
    check_model(real_model_path, SCHEMAS[::EVERY])

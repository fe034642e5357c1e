"""Thousands of damaged JSON schemas: each is compiled and followed for some tokens, or refused in one line.

    MASKPROBE_FUZZ_CASES=10000 MASKPROBE_FUZZ_SEED=7 pytest tests/test_fuzz_schemas.py

As a program this file is the worker.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import jsonschema
import numpy as np

import maskprobe
from fuzz_texts import Mutator, fuzz, serve

CASES = int(os.environ.get("MASKPROBE_FUZZ_CASES", "300"))
SEED = int(os.environ.get("MASKPROBE_FUZZ_SEED", "1"))
N_TOKENS = 60  # that a walk follows
STEP_END = 0.3  # how often a walk ends where it may
FINE = ["refused", "ended", "went on", "no token"]


def words() -> list[str]:
    """What means something in a schema, as text."""
    from maskprobe.schema_values import FORMATS, KINDS

    names = [*KINDS, *FORMATS, "string", "integer", "number", "object", "array", "boolean", "null", "#", "#/$defs/it"]
    values = ["true", "false", "null", "{}", "[]", '{"$ref": "#"}', '"^(a|b)*$"', '"(?=x)"', '"["', "{", "}", "[", "]"]
    members = [f'"{name}": {value},' for name in KINDS for value in ("true", "{}", '["a"]', "3", '"#"')]
    return [*(f'"{name}"' for name in names), *values, *members, '"a{1000}{1000}"', '"\\\\u{41}"', '"\\ud800"']


class SchemaMutator:
    """Damages schemas as texts, or part by part so that they are JSON still."""

    def __init__(self, rng: random.Random, schemas: list[dict]) -> None:
        from maskprobe.schema_values import FORMATS, KINDS

        self.rng = rng
        self.schemas = schemas
        self.keywords = list(KINDS)
        self.values = [
            True,
            False,
            None,
            {},
            [],
            "",
            "a",
            "#",
            "#/$defs/it",
            "^(a|b)*$",
            "(?=x)",
            "[",
            "a{99}{99}",
            ["a"],
        ]
        self.values += [0, 1, -1, 3, 1e9, 0.1, 2**31, 2**53 + 1, 2**64, 1e300, 5e-324, 10**40, 1500, {"$ref": "#"}]
        self.values += [*FORMATS, "string", "integer", "object", "array", ["null", "object"], ["a"]]
        self.values += [[{}], [{"not": {}}, True], [False], {"a": ["b"]}, {"a": {"minLength": 2}}]

    def mutate(self) -> str:
        schema = json.loads(json.dumps(self.rng.choice(self.schemas)))
        if self.rng.random() < 0.3:
            texts = [json.dumps(other) for other in self.rng.sample(self.schemas, 5)]
            return Mutator(self.rng, texts, words()).mutate(json.dumps(schema))
        for _ in range(self.rng.choice([1, 1, 2, 3])):
            self.change(self.place(schema))
        return json.dumps(schema)

    def place(self, part: dict | list) -> dict | list:
        """An object or a list somewhere within."""
        inner = [each for each in (part.values() if isinstance(part, dict) else part) if isinstance(each, (dict, list))]
        return self.place(self.rng.choice(inner)) if inner and self.rng.random() < 0.6 else part

    def value(self) -> object:
        value = self.rng.choice(self.values) if self.rng.random() < 0.6 else self.place(self.rng.choice(self.schemas))
        return json.loads(json.dumps(value))

    def change(self, part: dict | list) -> None:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        what = self.rng.randrange(4) if keys else 3
        if what == 0:
            del part[self.rng.choice(keys)]
        elif what == 1:
            part[self.rng.choice(keys)] = self.value()
        elif what == 2:  # what stood under one keyword stands under another
            kept = part.pop(self.rng.choice(keys))
            self.add(part, kept)
        else:
            self.add(part, self.value())

    def add(self, part: dict | list, value: object) -> None:
        if isinstance(part, dict):
            part[self.rng.choice(self.keywords)] = value
        else:
            part.append(value)


def follow(model: maskprobe.Model, text: str) -> str:
    """Compiles a schema and goes a random way through it."""
    constraint = maskprobe.JsonSchema(model, text).constraint()
    rng = random.Random(len(text))
    ends = set(model.end_tokens)
    tokens: list[int] = []
    for _ in range(N_TOKENS):
        bits = np.unpackbits(constraint.allowed().view(np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits[: model.info.n_vocab])
        others = [int(token) for token in allowed if token not in ends]
        if len(others) < len(allowed) and (not others or rng.random() < STEP_END):
            return ended(text, model.detokenize(tokens))
        if not others:
            return "no token"
        tokens.append(rng.choice(others))
        constraint.accept(tokens[-1])
    return "went on"


def ended(schema_text: str, text: bytes | str) -> str:
    """What a validator says of what came out, where the damaged schema is still a schema."""
    schema = json.loads(schema_text)
    instance = json.loads(text)
    try:
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
        problem = next((error.message for error in kind(schema).iter_errors(instance)), None)
    except Exception:  # a schema that this validator does not take, or a number that it cannot reckon with
        return "ended"
    return "ended" if problem is None else f"invalid: {text!r}: {problem}"


def test_damaged_schemas_are_obeyed_or_refused(tmp_path: Path) -> None:
    from schemas import REFUSED, SCHEMAS

    sound = [schema for schema in SCHEMAS if schema not in REFUSED]
    seeds = [json.dumps(schema) for schema in sound[::10]]
    answers, bad = fuzz(
        Path(__file__), tmp_path, seeds, lambda rng: SchemaMutator(rng, SCHEMAS).mutate(), CASES, SEED, FINE
    )
    print(f"{CASES} cases: {dict(answers)}")
    assert not bad, "\n".join(bad[:20])
    assert answers["refused"] > CASES // 10
    assert answers["ended"] + answers["went on"] > CASES // 50


if __name__ == "__main__":
    with maskprobe.Model(next(iter(maskprobe.bundled_models().values())), n_threads=1) as worker_model:
        serve(lambda text: follow(worker_model, text))

"""Can one value satisfy two branches of a oneOf? Only a proof that none can says no."""

import math
import re
from typing import Any

from .schema_references import Document, Path

TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
DEPTH, STEPS = 8, 100_000  # where the search for a proof gives up


def type_of(value: Any) -> str:
    """The most special type of a JSON value: 1.0 is an integer."""
    if isinstance(value, float):
        return "integer" if value.is_integer() else "number"
    names = {type(None): "null", bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
    return names[type(value)]


def types_of(schema: Any) -> frozenset[str]:
    """What "type", "const" and "enum" of one schema leave of TYPES."""
    if not isinstance(schema, dict):
        return TYPES if schema is True else frozenset()
    types = TYPES
    if "type" in schema:
        named = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        types &= {*named, *(["integer"] if "number" in named else [])}
    values = values_of(schema)
    return types if values is None else types & {type_of(value) for value in values}


def values_of(schema: dict) -> list | None:
    """The values that "const" or "enum" leave, None without them."""
    if "const" in schema:
        return [schema["const"]]
    return schema.get("enum")


def equal(a: Any, b: Any) -> bool:
    """Equality of JSON values: 1 is 1.0, and true is not 1."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(value, b[key]) for key, value in a.items())
    return isinstance(a, bool) == isinstance(b, bool) and a == b


class Overlap:
    """Proofs over the parts of one document, whose keywords have values of their kinds."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.steps = 0

    @property
    def gave_up(self) -> bool:
        """Whether there were too many pairs to go through."""
        return self.steps > STEPS

    def excluded(self, a: Path, b: Path, types: frozenset[str] = TYPES, depth: int = 0) -> bool:
        """True where no value of these types satisfies both parts."""
        self.steps += 1
        if depth > DEPTH or self.steps > STEPS:
            return False
        of_a, of_b = self.conjuncts(a), self.conjuncts(b)
        common = types.intersection(*(types_of(self.document.at(path)) for path in (*of_a, *of_b)))
        if not common:
            return True
        if any(self._branches_exclude(path, b, common, depth) for path in of_a):
            return True
        if any(self._branches_exclude(path, a, common, depth) for path in of_b):
            return True
        if any(self._apart(self.document.at(x), self.document.at(y), common) for x in of_a for y in of_b):
            return True
        return common == {"object"} and self._keys_exclude(of_a, of_b, depth)

    def required(self, path: Path) -> set[str]:
        """The keys without which no object satisfies the part."""
        parts = [self.document.at(each) for each in self.conjuncts(path)]
        return {key for part in parts if isinstance(part, dict) for key in part.get("required", [])}

    def conjuncts(self, path: Path) -> list[Path]:
        """The part and all that must hold with it: its allOf, its $ref."""
        found: dict[Path, None] = {}
        waiting = [path]
        while waiting:
            path = waiting.pop()
            if path in found:
                continue
            found[path] = None
            part = self.document.at(path)
            if isinstance(part, dict):
                waiting += [(*path, "allOf", i) for i in range(len(part.get("allOf", [])))]
                if "$ref" in part:
                    waiting.append(self.document.resolve(part["$ref"], path))
        return list(found)

    def _branches_exclude(self, path: Path, other: Path, types: frozenset[str], depth: int) -> bool:
        part = self.document.at(path)
        for keyword in ("anyOf", "oneOf"):
            branches = part.get(keyword) if isinstance(part, dict) else None
            if branches and all(
                self.excluded((*path, keyword, i), other, types, depth + 1) for i in range(len(branches))
            ):
                return True
        return False

    def _apart(self, a: Any, b: Any, types: frozenset[str]) -> bool:
        if not isinstance(a, dict) or not isinstance(b, dict):
            return a is False or b is False
        for one, other in ((a, b), (b, a)):
            values = values_of(one)
            if values is not None:
                return all(type_of(value) not in types or fails(value, other) for value in values)
        if types <= {"integer", "number"}:
            return below(a, b) or below(b, a)
        if types == {"string"}:
            return sizes_differ(a, b, "minLength", "maxLength")
        if types == {"array"}:
            return sizes_differ(a, b, "minItems", "maxItems")
        return False

    def _keys_exclude(self, of_a: list[Path], of_b: list[Path], depth: int) -> bool:
        required: list[str] = []
        for path in (*of_a, *of_b):
            part = self.document.at(path)
            required += part.get("required", []) if isinstance(part, dict) else []
        for key in dict.fromkeys(required):
            in_a = [found for path in of_a if (found := self._property(path, key)) is not None]
            in_b = [found for path in of_b if (found := self._property(path, key)) is not None]
            if any(self.document.at(path) is False for path in in_a + in_b):
                return True
            if any(self.excluded(x, y, TYPES, depth + 1) for x in in_a for y in in_b):
                return True
        return False

    def _property(self, path: Path, key: str) -> Path | None:
        """The part that says what the key may hold, None where none does."""
        part = self.document.at(path)
        if not isinstance(part, dict):
            return None
        if key in part.get("properties", {}):
            return (*path, "properties", key)
        if part.get("patternProperties"):
            return None
        return (*path, "additionalProperties") if "additionalProperties" in part else None


def bounds(schema: dict) -> tuple[float, bool, float, bool]:
    """Lower bound, is it excluded, upper bound, is it excluded."""
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    open_low, open_high = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if isinstance(open_low, bool) or open_low is None:
        open_low, low_excluded = low, open_low is True
    else:
        low_excluded = open_low >= low
    if isinstance(open_high, bool) or open_high is None:
        open_high, high_excluded = high, open_high is True
    else:
        high_excluded = open_high <= high
    return max(low, open_low), low_excluded, min(high, open_high), high_excluded


def sizes_differ(a: dict, b: dict, least: str, most: str) -> bool:
    """Nothing has a size in both ranges; `least` and `most` are the keywords of their ends."""
    return bool(a.get(least, 0) > b.get(most, math.inf) or b.get(least, 0) > a.get(most, math.inf))


def below(a: dict, b: dict) -> bool:
    """Every number that `a` allows is less than every one of `b`."""
    low, low_excluded, _, _ = bounds(b)
    _, _, high, high_excluded = bounds(a)
    return high < low or (high == low and (low_excluded or high_excluded))


def fails(value: Any, schema: dict) -> bool:
    """True where the value certainly does not satisfy the schema."""
    values = values_of(schema)
    if values is not None and not any(equal(value, other) for other in values):
        return True
    if type_of(value) not in types_of({key: schema[key] for key in ("type",) if key in schema}):
        return True
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, low_excluded, high, high_excluded = bounds(schema)
        return value < low or value > high or (value == low and low_excluded) or (value == high and high_excluded)
    if isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf):
            return True
        try:
            return "pattern" in schema and re.search(schema["pattern"], value) is None
        except re.error:
            return False
    return False

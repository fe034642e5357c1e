"""Which keywords of a JSON schema llguidance obeys. The others are refused by name, or said in those that it knows."""

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NoReturn

from .errors import ArgumentError
from .schema_copy import NAMES, SchemaCopy, add_to_all_of, engine_problem
from .schema_numbers import EXACT, narrowed_bound, value_problem
from .schema_overlap import Overlap, types_of
from .schema_patterns import UnsupportedPattern, engine_pattern
from .schema_references import NO_SCHEMAS, Document, Path, pointer_of, printable
from .schema_values import FORMATS, HINTS, KINDS, MISSPELT, NOT_OBEYED, WHOLE, check_value

# Letters of the escapes that a constraint may write, for llguidance's "json_allowed_escapes". Without "u" a key has one
# spelling: "\\u0061" would be another key to a grammar, and the same to a reader.
ESCAPES = 'nrbtf\\"'
N_ITEMS = 10_000  # of an array's bounds: each item is a part of the grammar
N_CHARS = 1_000_000  # of a string's bounds
MULTIPLE = 2**32  # llguidance reckons multiples in 32 bits


def obeyed_schema(schema: dict | bool) -> dict:
    """A copy of the schema for llguidance: what it allows is allowed by `schema` too, under the `jsonschema` package.

    It says in keywords that llguidance knows what it does not know ("dependentRequired"), leaves out what asks for
    nothing ("uniqueItems": false), and is narrower where llguidance is not exact (bounds with many digits, \\w in
    patterns, leap seconds). Raises ArgumentError, one line with keyword and JSON pointer, for what can't be obeyed.
    """
    return _Rewriting(schema).run()


class _Rewriting:
    def __init__(self, schema: Any) -> None:
        if not isinstance(schema, (dict, bool)):
            raise ArgumentError(f"a JSON schema is an object, true or false, not {type(schema).__name__}")
        self.original = Document(schema)
        self.copy = SchemaCopy(self.original)
        self.overlap = Overlap(self.original)
        self.multiples: dict[Path, int] = {}
        self.waiting: list[Path] = [()]
        self.seen: set[Path] = set()
        self.draft = self._draft()

    def run(self) -> dict:
        self._check_values()
        while self.waiting:
            path = self.waiting.pop()
            if path not in self.seen:
                self.seen.add(path)
                self._visit(path)
        product = math.prod(set(self.multiples.values()))
        if product >= MULTIPLE:
            self._refuse(next(reversed(self.multiples)), "multipleOf", "several of them make a product beyond 2^32")
        return self.copy.finished(self.seen)

    def _check_values(self) -> None:
        """Each keyword of each part that counts has a value of its kind, so that all else need not look at that."""
        waiting: list[Path] = [()]
        seen: set[Path] = set()
        while waiting:
            path = waiting.pop()
            part = self.original.at(path)
            if path in seen or isinstance(part, bool):
                continue
            seen.add(path)
            for keyword, value in part.items():
                problem = check_value(keyword, value)
                if problem:
                    self._refuse(path, keyword, problem)
            waiting += reversed(inner_parts(part, path))
            if "$ref" in part:
                waiting.append(self._target(part["$ref"], path))
        self._check_loops(seen)

    def _target(self, reference: str, path: Path) -> Path:
        """What the $ref at `path` names."""
        try:
            target = self.original.resolve(reference, path)
        except (KeyError, ValueError):
            self._refuse(path, "$ref", f"{printable(reference)} is nothing within this schema")
        if not isinstance(self.original.at(target), (dict, bool)) or (target and target[-1] in NO_SCHEMAS):
            self._refuse(path, "$ref", f"{printable(reference)} is no schema")
        return target

    def _refuse(self, path: Path, keyword: str, why: str) -> NoReturn:
        raise ArgumentError(f'the JSON schema\'s "{printable(keyword)}" at {pointer_of((*path, keyword))}: {why}')

    def _draft(self) -> int:
        """4, 6, 7, 2019 or 2020: of which draft the schema says it is."""
        name = self.original.schema.get("$schema") if isinstance(self.original.schema, dict) else None
        if not isinstance(name, str):
            return 2020
        drafts = {"draft-03": 4, "draft-04": 4, "draft-06": 6, "draft-07": 7, "draft/2019-09": 2019}
        return next((draft for part, draft in drafts.items() if part in name), 2020)

    def _visit(self, path: Path) -> None:
        try:
            node = self.copy.at(path)
        except LookupError:
            raise ArgumentError(f"a $ref of the JSON schema names {pointer_of(path)}, which is not obeyed") from None
        if isinstance(node, bool):
            return
        self._drop_what_asks_nothing(node, path)
        for keyword in list(node):
            if keyword in NOT_OBEYED:
                self._refuse(path, keyword, NOT_OBEYED[keyword])
            meant = MISSPELT.get(keyword.lower().replace("_", "").replace("-", ""))
            if meant and keyword not in KINDS:
                self._refuse(path, keyword, f'there is no such keyword; "{meant}" is meant?')
        for rewrite in (
            self._references,
            self._values,
            self._numbers,
            self._strings,
            self._arrays,
            self._objects,
            self._dependencies,
            self._one_of,
        ):
            rewrite(node, path)
        for keyword in NAMES:
            node.pop(keyword, None)
        self.waiting += reversed(inner_parts(node, path))

    def _drop_what_asks_nothing(self, node: dict, path: Path) -> None:
        """Leaves out keywords that llguidance does not know and that refuse nothing here."""
        nothing: dict[str, Callable[[Any], bool]] = {
            "uniqueItems": lambda value: value is False or node.get("maxItems", math.inf) <= 1,
            "not": lambda value: value is False,
            "if": lambda value: "then" not in node and "else" not in node,
            "minContains": lambda value: "contains" not in node,
            "maxContains": lambda value: "contains" not in node,
            "contains": lambda value: node.get("minContains") == 0 and "maxContains" not in node,
            **dict.fromkeys(("then", "else"), lambda value: "if" not in node),
            **dict.fromkeys(("propertyNames", "unevaluatedItems", "unevaluatedProperties"), lambda v: v in (True, {})),
        }
        for keyword, asks_nothing in nothing.items():
            if keyword in node and asks_nothing(node[keyword]):
                if keyword == "contains":
                    node.pop("minContains", None)
                del node[keyword]
        if not {"$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas"} & node.keys():
            # without applicators beside it, all that is not evaluated is what "additional..." and "items" are about
            if "unevaluatedProperties" in node:
                rest = node.pop("unevaluatedProperties")
                if "additionalProperties" not in node:
                    self._move(node, "additionalProperties", rest, path, "unevaluatedProperties")
            if "unevaluatedItems" in node and self.draft == 2020 and not isinstance(node.get("items"), list):
                rest = node.pop("unevaluatedItems")
                if "items" not in node:
                    self._move(node, "items", rest, path, "unevaluatedItems")

    def _move(self, node: dict, keyword: str, value: Any, path: Path, old: str) -> None:
        """A schema under another keyword; its own references must not depend on where it stands."""
        if not isinstance(value, bool):
            self._refuse(path, old, f'it is not supported; write "{keyword}"')
        node[keyword] = value

    def _references(self, node: dict, path: Path) -> None:
        if "$ref" not in node:
            return
        target = self._target(node["$ref"], path)
        self.copy.references.append((node, target))
        self.waiting.append(target)

    def _check_loops(self, paths: set[Path]) -> None:
        """No part must hold for itself to hold: that is a loop of $ref, allOf, anyOf and oneOf."""
        done: set[Path] = set()
        for start in paths:
            trail: dict[Path, list[Path]] = {}  # from `start` to where the search is, with what is left to be seen
            path = start
            while path not in done:
                if path not in trail:
                    trail[path] = self._holds_with(path)
                if trail[path]:
                    path = trail[path].pop()
                    if path in trail:
                        by = next(each for each in reversed(trail) if "$ref" in self.original.at(each))
                        reference = self.original.at(by)["$ref"]
                        self._refuse(by, "$ref", f"{printable(reference)} refers to itself with nothing between")
                    if path not in done:
                        continue
                else:
                    done.add(path)
                    del trail[path]
                if trail:
                    path = next(reversed(trail))

    def _holds_with(self, path: Path) -> list[Path]:
        """The parts that the same value has to do with."""
        part = self.original.at(path)
        if isinstance(part, bool):
            return []
        found = [
            (*path, keyword, i) for keyword in ("allOf", "anyOf", "oneOf") for i in range(len(part.get(keyword, [])))
        ]
        return [*found, self._target(part["$ref"], path)] if "$ref" in part else found

    def _values(self, node: dict, path: Path) -> None:
        for keyword in ("const", "enum"):
            waiting = [node[keyword]] if keyword in node else []
            while waiting:
                value = waiting.pop()
                problem = value_problem(value)
                if problem:
                    self._refuse(path, keyword, problem)
                if isinstance(value, list):
                    waiting += value
                elif isinstance(value, dict):
                    waiting += [*value, *value.values()]

    def _numbers(self, node: dict, path: Path) -> None:
        types = types_of(node)
        for keyword, open_keyword in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            upper = keyword == "maximum"
            limits = [(node[keyword], False)] if keyword in node else []
            excluded = node.pop(open_keyword, False)
            if isinstance(excluded, bool):
                limits = [(value, excluded) for value, _ in limits]
            else:
                limits.append((excluded, True))
            if limits:
                sign = -1 if upper else 1
                value, is_open = max(limits, key=lambda limit: (sign * Decimal(limit[0]), limit[1]))
                bound = narrowed_bound(value, is_open, upper, "number" not in types)
                if bound is None:
                    self._refuse(path, keyword, f"{value} is beyond 2^53, where numbers are not exact")
                node[keyword] = bound
        if "multipleOf" in node:
            self._multiple(node, path, types)

    def _multiple(self, node: dict, path: Path, types: frozenset[str]) -> None:
        value = node["multipleOf"]
        if isinstance(value, float) and not (value.is_integer() or math.frexp(value)[0] == 0.5):
            self._refuse(
                path, "multipleOf", f"{value} is no binary fraction, so floating point cannot tell its multiples"
            )
        if value >= MULTIPLE or value < 2**-10:
            self._refuse(path, "multipleOf", f"{value} is not within 2^-10 and 2^32")
        if isinstance(value, float) and types & {"integer", "number"}:
            # a validator divides in floating point
            node["minimum"] = max(node.get("minimum", -EXACT), -EXACT)
            node["maximum"] = min(node.get("maximum", EXACT), EXACT)
        self.multiples[path] = math.ceil(value) if value >= 1 else round(1 / value)

    def _strings(self, node: dict, path: Path) -> None:
        for keyword in ("minLength", "maxLength"):
            if keyword in node:
                node[keyword] = int(node[keyword])
                if keyword == "minLength" and node[keyword] > N_CHARS:
                    self._refuse(path, keyword, f"{node[keyword]} characters; the limit is {N_CHARS}")
                node[keyword] = min(node[keyword], N_CHARS)
        if "pattern" in node:
            node["pattern"] = self._pattern(node["pattern"], path, "pattern")
        name = node.pop("format", None)
        if name is None or name in HINTS:
            return
        if name in WHOLE:
            if types_of(node) & {"integer", "number"}:
                low, high = WHOLE[name]
                node["minimum"] = max(low, node.get("minimum", low))
                node["maximum"] = min(high, node.get("maximum", high))
        elif "string" in types_of(node):
            if name not in FORMATS:
                self._refuse(path, "format", f'"{printable(name)}" is not one of {", ".join(sorted(FORMATS))}')
            self._also(node, path, FORMATS[name])

    def _pattern(self, pattern: str, path: Path, keyword: str, *, exact: bool = False) -> str:
        try:
            translated = engine_pattern(pattern, exact=exact)
        except UnsupportedPattern as error:
            self._refuse(path, keyword, f"{printable(pattern)}: {error}")
        problem = engine_problem({"pattern": translated})
        if problem:
            self._refuse(path, keyword, f"{printable(pattern)}: {problem}")
        return translated

    def _arrays(self, node: dict, path: Path) -> None:
        for keyword in ("minItems", "maxItems"):
            if keyword in node:
                node[keyword] = int(node[keyword])
                if keyword == "minItems" and node[keyword] > N_ITEMS:
                    self._refuse(path, keyword, f"{node[keyword]} items; the limit is {N_ITEMS}")
                node[keyword] = min(node[keyword], N_ITEMS)
        listed = isinstance(node.get("items"), list)
        if "prefixItems" in node and (listed or self.draft < 2020):
            self._refuse(path, "prefixItems", 'it is of draft 2020-12, where "items" is one schema; "$schema" is older')
        if not listed:
            node.pop("additionalItems", None)  # means something only beside a list of items

    def _objects(self, node: dict, path: Path) -> None:
        patterns = node.get("patternProperties", {})
        names = node.get("properties", {})
        closed = node.get("additionalProperties") is False
        exact = not closed or not all(map(str.isascii, names))  # keys that match none fall under something else
        translated = [self._pattern(pattern, path, "patternProperties", exact=exact) for pattern in patterns]
        if len(set(translated)) < len(translated):
            self._refuse(path, "patternProperties", "two of the patterns are the same")
        for old, new in zip(patterns, translated, strict=True):
            if new != old:
                self.copy.renamed[(*path, "patternProperties", old)] = (new,)
        for keyword in ("minProperties", "maxProperties"):
            if keyword in node:
                node[keyword] = int(node[keyword])
        required = set(node.get("required", []))
        optional = [key for key, value in names.items() if key not in required and value is not False]
        self._count_keys(node, path, len(required), optional, open_ended=not closed or bool(patterns))

    def _count_keys(self, node: dict, path: Path, n_required: int, optional: list[str], *, open_ended: bool) -> None:
        """minProperties and maxProperties: llguidance knows them where all named keys are required."""
        least, most = node.get("minProperties", 0), node.get("maxProperties", math.inf)
        if least <= n_required:
            node.pop("minProperties", None)
        if not open_ended and most >= n_required + len(optional):
            node.pop("maxProperties", None)
        if open_ended and least > n_required + 1:
            why = f"{least} keys, of which {n_required} are named: the others may repeat one key"
            self._refuse(path, "minProperties", why)
        if not optional or (not open_ended and n_required == 0 and most == 1):
            return
        if node.get("minProperties") == n_required + 1:
            del node["minProperties"]
            self._also(node, path, {"anyOf": [{"required": [key]} for key in optional]})
        if node.get("maxProperties") == n_required and not node.get("patternProperties"):
            del node["maxProperties"]
            self._also(node, path, {"properties": dict.fromkeys(optional, False)})
            node["additionalProperties"] = False
        for keyword in {"minProperties", "maxProperties"} & node.keys():
            self._refuse(path, keyword, 'it is not supported beside keys in "properties" that are not required')

    def _dependencies(self, node: dict, path: Path) -> None:
        """dependentRequired, and dependencies of keys: the key is absent, or those are there."""
        for keyword in ("dependentRequired", "dependencies", "dependentSchemas"):
            for key, then in node.pop(keyword, {}).items():
                if then in (True, {}, []):
                    continue
                if not isinstance(then, list):
                    self._refuse(path, keyword, f"a schema for {printable(key)} is not supported, a list of keys is")
                self._also(node, path, {"anyOf": [{"properties": {key: False}}, {"required": then}]})

    def _also(self, node: dict, path: Path, schema: dict) -> None:
        """What must hold too, in keywords that need no rewriting."""
        self.seen.add((*path, "allOf", add_to_all_of(node, schema)))

    def _one_of(self, node: dict, path: Path) -> None:
        """oneOf as anyOf, which is the same where no value satisfies two branches."""
        if "oneOf" not in node:
            return
        types = types_of(node)
        forbidden: dict[int, list[str]] = {}
        paths = [(*path, "oneOf", i) for i in range(len(node["oneOf"]))]
        required = [self.overlap.required(branch) for branch in paths]
        for j in range(len(paths)):
            for i in range(j):
                if self.overlap.excluded(paths[i], paths[j], types):
                    continue
                for one, other in ((i, j), (j, i)):
                    # what lacks a key that the other requires is not of the other
                    keys = sorted(required[other] - required[one])
                    if not keys or types != {"object"}:
                        doubt = "are too many to compare" if self.overlap.gave_up else "may both hold"
                        self._refuse(path, "oneOf", f"branches {i} and {j} {doubt}: not supported")
                    if not set(keys) & set(forbidden.get(one, [])):
                        forbidden.setdefault(one, []).append(keys[0])
        for i, keys in forbidden.items():
            if isinstance(node["oneOf"][i], dict):
                self._also(node["oneOf"][i], paths[i], {"properties": dict.fromkeys(keys, False)})
        self.copy.renamed[(*path, "oneOf")] = ("anyOf",)


def inner_parts(part: dict, path: Path) -> list[Path]:
    """The schemas within a schema, without those that count only where a $ref names them."""
    paths: list[Path] = []
    for keyword, value in part.items():
        kind = KINDS.get(keyword)
        if keyword in ("$defs", "definitions"):
            continue
        if kind == "schema" or (kind == "items" and not isinstance(value, list)):
            paths.append((*path, keyword))
        elif kind in ("schemas", "items"):
            paths += [(*path, keyword, i) for i in range(len(value))]
        elif kind == "named schemas":
            paths += [(*path, keyword, name) for name in value]
    return paths

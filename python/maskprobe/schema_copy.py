"""The copy of a JSON schema that llguidance gets: parts under other keywords, every $ref a plain pointer."""

import json
from typing import Any

from llguidance import LLMatcher

from .errors import ArgumentError
from .schema_references import NO_SCHEMAS, Document, Path, part_at, pointer_of, printable, reference_to

N_CHECKED = 500  # parts of a schema that llguidance tries at once here: it takes stack for each
NAMES = ("$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor")


class SchemaCopy:
    """Until finished() a part lies where it lies in the original, unless it was left out."""

    def __init__(self, original: Document) -> None:
        self.original = original
        self.schema = json.loads(json.dumps(original.schema))  # without parts that are one object in two places
        self.references: list[tuple[dict, Path]] = []  # each object with a $ref, and what it names
        self.renamed: dict[Path, tuple[str | int, ...]] = {}  # last steps of paths that are others at the end

    def at(self, path: Path) -> Any:
        return part_at(self.schema, path)

    def finished(self, visited: set[Path]) -> dict:
        """The schema. Raises ArgumentError where llguidance refuses it, with the innermost part that it refuses."""
        self._forget_names(visited)
        for path in sorted(self.renamed, key=len, reverse=True):  # the parts of a part before itself
            self._rename(path)
        for node, target in self.references:
            node["$ref"] = reference_to(self._final(target))
        if self.schema is False:
            raise ArgumentError("the JSON schema is false: it allows no value")
        if self.schema is True:
            return {}
        problem = engine_problem(self.schema) if len(visited) <= N_CHECKED else ""
        if problem:
            raise ArgumentError(f"the JSON schema, at {pointer_of(self._culprit(problem, visited))}: {problem}")
        finished: dict = self.schema
        return finished

    def _culprit(self, problem: str, visited: set[Path]) -> Path:
        """The innermost part that llguidance refuses by itself, for the same reason."""
        final = {self._final(path): path for path in visited}
        for node, target in self.references:
            node["$ref"] = "#/$defs/whole" + reference_to(self._final(target))[1:]
        for path in sorted(final, key=len, reverse=True):
            try:
                part = self.at(path)
            except (LookupError, TypeError):
                continue
            reference = "#/$defs/whole" + reference_to(path)[1:]
            if (
                isinstance(part, dict)
                and engine_problem({"$defs": {"whole": self.schema}, "$ref": reference}) == problem
            ):
                return final[path]
        return ()

    def _forget_names(self, visited: set[Path]) -> None:
        """Names are resolved here; what is not visited keeps none either, as llguidance would look at them."""
        for path in self.original.bases.keys() - visited:
            if NO_SCHEMAS.intersection(map(str, path)):
                continue
            try:
                part = self.at(path)
            except (LookupError, TypeError):  # left out with what it was part of
                continue
            for keyword in NAMES:
                if isinstance(part.get(keyword), (str, bool)):
                    del part[keyword]

    def _rename(self, path: Path) -> None:
        parent, old = self.at(path[:-1]), path[-1]
        if old == "oneOf" and "anyOf" in parent:
            at = add_to_all_of(parent, {"anyOf": parent.pop("oneOf")})
            self.renamed[path] = ("allOf", at, "anyOf")
            return
        new = self.renamed[path][0]
        members = [(new if key == old else key, value) for key, value in parent.items()]
        parent.clear()
        parent.update(members)

    def _final(self, path: Path) -> Path:
        """The path with the names of the end."""
        steps: list[str | int] = []
        for i in range(len(path)):
            steps += self.renamed.get(path[: i + 1], (path[i],))
        return tuple(steps)


def add_to_all_of(node: dict, schema: dict) -> int:
    """Lets the schema hold too; its place in "allOf"."""
    node["allOf"] = [*node.get("allOf", []), schema]
    return len(node["allOf"]) - 1


def engine_problem(schema: dict) -> str:
    """Why llguidance refuses a schema, on one line, "" where it takes it."""
    message = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    message = message.split("\n  while processing")[0].split("\nerror: ")[-1]
    return printable(" ".join(message.split()), 160)

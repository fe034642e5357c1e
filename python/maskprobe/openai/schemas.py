"""JSON schemas of requests, compiled once each."""

import functools
import json
from typing import Any

from .._capi import shown
from ..errors import ArgumentError
from ..model import Model
from .values import Unsupported, is_equal, mapping

KEPT = 32  # compiled schemas, the most recently used ones

ANY_OBJECT = {"type": "object"}


class SchemaCache:
    """Schemas of one model. Any thread may ask."""

    def __init__(self, model: Model) -> None:
        self._of_text = functools.lru_cache(KEPT)(functools.partial(_compile, model))

    def compiled(self, schema: Any) -> Any:
        """The schema (an object, a bool, or text) as an object with .constraint().

        Raises ArgumentError for what is no schema, and for a keyword that would not be obeyed."""
        try:
            text = schema if isinstance(schema, str) else json.dumps(schema)
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentError(f"the schema is no JSON: {error}") from None
        return self._of_text(text)


def _compile(model: Model, schema: str) -> Any:
    from ..structured import JsonSchema  # here, because it takes a while and is seldom needed

    return JsonSchema(model, schema)


def schema_of_format(response_format: Any) -> Any:
    """The schema of a `response_format`, None for plain text."""
    if response_format is None:
        return None
    kind = mapping("response_format", response_format).get("type")
    if is_equal(kind, "text"):
        return None
    if is_equal(kind, "json_object"):  # "schema" beside it is llama-cpp-python's
        schema = response_format.get("schema")
        return ANY_OBJECT if schema is None else schema
    if is_equal(kind, "json_schema"):
        named = mapping("response_format.json_schema", response_format.get("json_schema"))
        if "schema" not in named:
            raise ArgumentError('response_format.json_schema needs a "schema"')
        return named["schema"]
    raise Unsupported(f"response_format.type = {shown(kind)} is not supported: text, json_object or json_schema")

"""Structured output: JSON schemas, regular expressions and grammars as constraints, by llguidance.

    schema = JsonSchema(model, {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]})
    for result in engine.generate(tokens, constraint=schema): ...

Compiled once, used for any number of texts. What has only one way to go on is drafted, in the tokens that the model's
own tokenizer makes of it. The text ends with an end token where the whole is complete; where end tokens are forbidden,
or the model has none, the generation ends with "constraint".
"""

import functools
import json
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, regex_to_lark

from ._capi import shown
from .constraints import N_BITS, Constraint
from .errors import ArgumentError, CallbackError, OutOfMemory
from .model import Model
from .schema_keywords import ESCAPES, obeyed_schema
from .vocabulary import tokenizer_of

MOST_TEXT = 1_000_000  # characters of a schema,
MOST_GRAMMAR = 50_000  # of a grammar,
MOST_PATTERN = 20_000  # of a regular expression, or of those in a schema together: time grows with the square
MOST_MULTIPLE = 20_000  # of the numbers of multipleOf together, without their factors 2 and 5: each is as many states
MOST_INTERSECTIONS = 12  # in a grammar: each doubles the time
STACK = 256 << 20  # bytes for compiling. Rules that refer to each other in a chain take stack for each link
MOST_FORCED = 64  # tokens handed out at once: no pass has as many
LONGEST_REASON = 300  # characters of an error
LONGEST_NUMBER = 40  # of a number that is shown in one
LIMITS = LLParserLimits(max_lexer_states=100_000, verbose_errors=False)  # 1 to 2 kB for a state
LARK_LITERAL = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?!/)(?:\\.|[^/\\\n])+/|(?://|#)[^\n]*')
BAD_STOPS = ("MaxTokensTotal", "MaxTokensParser", "ParserTooComplex", "LexerTooComplex", "InternalError")

_compiling = threading.Lock()


class Rules:
    """What llguidance compiled for a model. `what` names it in errors; `grammar` makes llguidance's own text of it."""

    def __init__(self, model: Model, what: str, grammar: Callable[[], str]) -> None:
        self.model = model
        self.what = what
        self.grammar = ""
        self._n_vocab = model.info.n_vocab
        self._ends = frozenset(model.end_tokens)
        tokenizer = tokenizer_of(model)

        def compiled() -> LLMatcher:
            self.grammar = grammar()
            return LLMatcher(tokenizer, self.grammar, log_level=0, limits=LIMITS)

        self._matcher = _on_deep_stack(what, compiled)
        if self._matcher.is_error():
            raise ArgumentError(f"{what} cannot be used: {_reason(self._matcher.get_error())}")
        for warning in self._matcher.get_grammar_warnings():
            raise ArgumentError(f"{what} would not be obeyed: {_reason(warning)}")
        self.constraint().allowed()  # an expression may be sound and match nothing

    def constraint(self) -> "_Matching":
        """A Constraint for one text."""
        return _Matching(self._matcher.deep_copy(), self.what, self._n_vocab, self._ends)


class JsonSchema(Rules):
    """JSON that obeys a schema. `schema` is the schema or its JSON text. Members and items stand after ", ", values
    after ": "; with `flexible_whitespace` any white space may stand where JSON allows it, and less can be foretold.

    Raises ArgumentError for what is no schema, for one that nothing satisfies, and for a keyword that would not be
    obeyed."""

    def __init__(self, model: Model, schema: str | Mapping[str, Any] | bool, *, flexible_whitespace: bool = False):
        obeyed = json.dumps(check_schema(schema), allow_nan=False)
        options: Any = {
            "item_separator": "," if flexible_whitespace else ", ",
            "key_separator": ":" if flexible_whitespace else ": ",
            "whitespace_flexible": flexible_whitespace,
            "whitespace_pattern": None,
            "json_allowed_escapes": ESCAPES,
            "coerce_one_of": False,
            "lenient": False,
        }
        grammar = functools.partial(LLMatcher.grammar_from_json_schema, obeyed, None, options)
        super().__init__(model, "the JSON schema", grammar)


class Regex(Rules):
    r"""A text that matches a regular expression from its first to its last character. The syntax is that of Rust's
    regex crate: no look-around, no back-references; \d and \w are ASCII, as in JSON schemas.

    Raises ArgumentError for what is no such expression."""

    def __init__(self, model: Model, pattern: str) -> None:
        _check_text(pattern, "the regular expression", MOST_PATTERN)
        lark = f"start: /{regex_to_lark(pattern, 'dw')}/"
        super().__init__(model, "the regular expression", lambda: _lark(lark))


class LarkGrammar(Rules):
    """A text of a grammar in llguidance's variant of Lark, whose first rule is `start`.

    Raises ArgumentError for what is no such grammar."""

    def __init__(self, model: Model, text: str) -> None:
        _check_text(text, "the grammar", MOST_GRAMMAR)
        obeyed = _obeyed_lark(text)
        super().__init__(model, "the grammar", lambda: _lark(obeyed))


class _Matching(Constraint):
    """One text on its way through the rules."""

    def __init__(self, matcher: LLMatcher, what: str, n_vocab: int, ends: frozenset[int]) -> None:
        self._matcher = matcher
        self._what = what
        self._n_words = (n_vocab + N_BITS - 1) // N_BITS
        self._ends = ends
        self._chain: list[int] | None = None  # what must come, None: not asked yet
        self._at = 0  # of the chain
        self._n_tokens = 0

    def allowed(self) -> np.ndarray:
        chain = self.forced()
        if chain:  # its tokenization is one of several, all others are forbidden
            mask = np.zeros(self._n_words, np.uint32)
            mask[chain[0] // N_BITS] = 1 << chain[0] % N_BITS
            return mask
        mask = np.frombuffer(self._matcher.compute_bitmask(), "<u4")[: self._n_words]
        self._check()  # with an error, end tokens are allowed
        return mask

    def accept(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            self._fail()
        if token in self._ends and not self._matcher.is_stopped():
            raise CallbackError(f"{self._what} goes on after token {token}, with which every text of this model ends")
        self._n_tokens += 1
        self._at += 1
        if not self._chain or self._chain[self._at - 1] != token or self._at == len(self._chain):
            self._chain = None

    def n_valid(self, tokens: Sequence[int]) -> int:
        return self._matcher.validate_tokens(list(tokens))

    def forced(self) -> Sequence[int]:
        if self._chain is None:
            self._chain, self._at = self._matcher.compute_ff_tokens(), 0
        return self._chain[self._at : self._at + MOST_FORCED]

    def _check(self) -> None:
        if self._matcher.is_error() or self._matcher.stop_reason() in BAD_STOPS:
            self._fail()

    def _fail(self) -> None:
        reason = _reason(self._matcher.get_error()) or self._matcher.stop_reason()
        if "NoExtension" in reason:
            reason = "no text satisfies it" if self._n_tokens == 0 else "the model has no token for what must come"
        if self._n_tokens == 0:
            raise ArgumentError(f"{self._what} cannot be used: {reason}")
        raise CallbackError(f"{self._what} cannot be followed any further, after {self._n_tokens} tokens: {reason}")


def check_schema(schema: str | Mapping[str, Any] | bool) -> dict[str, Any]:
    """The schema as llguidance gets it. Raises ArgumentError as JsonSchema does, as far as that needs no model."""
    parsed = _json(schema)
    _check_costs(parsed)
    return obeyed_schema(parsed)


def _json(schema: str | Mapping[str, Any] | bool) -> dict[str, Any] | bool:
    """A schema without what JSON does not have."""
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema, allow_nan=False)
        _check_text(text, "the JSON schema", MOST_TEXT)
        parsed = DECODER.decode(text)
    except RecursionError:
        raise ArgumentError("the JSON schema is nested too deeply") from None
    except ArgumentError:
        raise
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"the JSON schema is not JSON: {error}") from None
    if not isinstance(parsed, (dict, bool)):
        raise ArgumentError(f"a JSON schema is an object, true or false, not {type(parsed).__name__}")
    return parsed


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"an object has the member {shown(name)} twice")
        members[name] = value
    return members


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:LONGEST_NUMBER]} is too large")
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_number, parse_float=_number)


def _check_costs(schema: Any) -> None:
    """What takes llguidance more than a second or two."""
    squares = multiples = 0
    parts = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, list):
            parts.extend(part)
        elif isinstance(part, dict):
            patterns = part.get("patternProperties")
            patterns = [*patterns] if isinstance(patterns, dict) else []
            squares += sum(len(p) ** 2 for p in [*patterns, part.get("pattern")] if isinstance(p, str))
            multiples += _states_of(part.get("multipleOf"))
            parts.extend(part.values())
    if squares > MOST_PATTERN**2:
        raise ArgumentError(f"the JSON schema's patterns are too long: {MOST_PATTERN} characters in one at most")
    if multiples > MOST_MULTIPLE:
        raise ArgumentError(
            f"the JSON schema's multipleOf takes {multiples} states, its digits without the factors 2 and 5: "
            f"{MOST_MULTIPLE} at most"
        )


def _states_of(divisor: Any) -> int:
    """Remainders that digits have to be followed through."""
    if isinstance(divisor, bool) or not isinstance(divisor, (int, float)) or divisor <= 0:
        return 0
    digits = int("".join(map(str, Decimal(str(divisor)).as_tuple().digits)))
    for factor in (2, 5):
        while digits % factor == 0:
            digits //= factor
    return digits


def _check_text(text: str, what: str, most: int) -> None:
    if not isinstance(text, str):
        raise ArgumentError(f"{what} must be text, not {type(text).__name__}")
    if len(text) > most:
        raise ArgumentError(f"{what} has {len(text)} characters, {most} at most")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ArgumentError(f"{what} is not valid Unicode: {error.reason} at character {error.start}") from None


def _obeyed_lark(text: str) -> str:
    """The grammar with its JSON schemas in the words that llguidance obeys. Refuses what nobody here would obey."""
    rules = LARK_LITERAL.sub(lambda found: " " * len(found[0]), text)
    if re.search(r"[\[,]\s*temperature\s*=", rules):
        raise ArgumentError("the grammar would not be obeyed: a rule has a temperature, which is a generation's own")
    n_intersections = rules.count("&")
    if n_intersections > MOST_INTERSECTIONS:
        raise ArgumentError(f"the grammar has {n_intersections} intersections (&), {MOST_INTERSECTIONS} at most")
    for found in reversed(list(re.finditer(r"%json\s*", rules))):
        try:
            schema, end = DECODER.raw_decode(text, found.end())
        except RecursionError:
            raise ArgumentError("a JSON schema of the grammar is nested too deeply") from None
        except ValueError as error:
            raise ArgumentError(f"a JSON schema of the grammar is not JSON: {error}") from None
        _check_costs(schema)
        obeyed = {**obeyed_schema(schema), "x-guidance": {"json_allowed_escapes": ESCAPES}}
        text = text[: found.end()] + json.dumps(obeyed, allow_nan=False) + text[end:]
    return text


def _lark(text: str) -> str:
    """The text alone would be taken for llguidance's own JSON where it begins with a brace."""
    return json.dumps({"grammars": [{"lark_grammar": text}]})


def _on_deep_stack(what: str, work: Callable[[], LLMatcher]) -> LLMatcher:
    """Runs it on a thread with a larger stack than a user's has, and makes one line of whatever goes wrong."""
    results: list[LLMatcher] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # a panic of llguidance is no Exception
            errors.append(error)

    with _compiling:
        usual = threading.stack_size(STACK)
        try:
            thread = threading.Thread(target=run, name="llguidance")
            thread.start()
        except RuntimeError:
            raise OutOfMemory(f"{what} needs a stack of {STACK >> 20} MiB to be compiled, and there is none") from None
        finally:
            threading.stack_size(usual)
    thread.join()
    if errors:
        raise ArgumentError(f"{what} cannot be used: {_reason(str(errors[0]))}") from None
    return results[0]


def _reason(message: str) -> str:
    """llguidance's message without its excerpts of the grammar, as one line."""
    lines = [line for line in message.splitlines() if not line.startswith((" ", "<"))]
    found = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines
    reason = re.sub(r"^at \d+\(\d+\): invalid regex .* \(in regex\): ", "", " ".join(found).strip())
    return reason if len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 4] + " ..."

"""What steers a generation beside its sampler: grammars, schemas, logits processors, stopping criteria."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..constraints import CALLBACKS
from .values import Unsupported

# (tokens so far int32 (n,), logits float32 (n_vocab,)) -> changed logits; the array that came in may be changed.
LogitsProcessor = Callable[[np.ndarray, np.ndarray], np.ndarray]
# (tokens so far int32 (n,), logits float32 (n_vocab,)) -> whether the text ends before another token.
StoppingCriteria = Callable[[np.ndarray, np.ndarray], bool]


class LogitsProcessorList(list[LogitsProcessor]):
    """Processors that are called one after another."""

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        for processor in self:
            scores = processor(input_ids, scores)
        return scores


class StoppingCriteriaList(list[StoppingCriteria]):
    """Criteria of which one is enough."""

    def __call__(self, input_ids: np.ndarray, logits: np.ndarray) -> bool:
        return any([criterion(input_ids, logits) for criterion in self])


class MinTokensLogitsProcessor:
    """Forbids the end token until `min_tokens` tokens were emitted. One object serves one text."""

    def __init__(self, min_tokens: int, token_eos: int) -> None:
        self.min_tokens, self.token_eos = min_tokens, token_eos
        self.prompt_tokens: int | None = None

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if self.prompt_tokens is None:
            self.prompt_tokens = len(input_ids)
        if len(input_ids) - self.prompt_tokens < self.min_tokens:
            scores[self.token_eos] = -np.inf
        return scores


class Steering:
    """A Constraint out of an inner one (or None), a processor and a criterion (each a callable or None).

    It has the inner one's methods, and logits() where processor or criterion need it. A text that the criterion ends
    has no further token: all logits are minus infinity.
    """

    def __init__(
        self, inner: Any, processor: LogitsProcessor | None = None, criterion: StoppingCriteria | None = None
    ) -> None:
        self._inner, self._processor, self._criterion = inner, processor, criterion
        for name in CALLBACKS:
            if name != "logits" and callable(getattr(inner, name, None)):
                setattr(self, name, getattr(inner, name))

    def logits(self, tokens: Sequence[int], logits: np.ndarray) -> None:
        inner = getattr(self._inner, "logits", None)
        if callable(inner):
            inner(tokens, logits)
        ids = np.asarray(tokens, np.intc)
        if self._criterion is not None and self._criterion(ids, logits.copy()):
            logits[:] = -np.inf
        elif self._processor is not None:
            changed = self._processor(ids, logits)
            if changed is not logits:
                logits[:] = changed


def steering(inner: Any, processor: LogitsProcessor | None, criterion: StoppingCriteria | None) -> Any:
    """`inner`, the constraint of one generation or None, with processor and criterion; None where nothing steers."""
    if processor is None and criterion is None:
        return inner
    return Steering(inner, processor, criterion)


class LlamaGrammar:
    """A grammar of GBNF, or a JSON schema, as an argument of a completion.

    A schema is obeyed through JsonSchema, with every keyword or an error that names it; it is not turned into GBNF.
    """

    def __init__(self, *, _grammar: str | None = None, _schema: str | None = None) -> None:
        self._grammar = _grammar  # by this name others read it
        self._schema = _schema

    @classmethod
    def from_string(cls, grammar: str, verbose: bool = True) -> "LlamaGrammar":
        """GBNF with a rule named root; it is parsed when it is used. `verbose` changes nothing."""
        return cls(_grammar=grammar)

    @classmethod
    def from_file(cls, file: Any, verbose: bool = True) -> "LlamaGrammar":
        """GBNF in a file. Raises OSError where it cannot be read, ValueError where it is empty."""
        with open(file, encoding="utf-8") as source:
            grammar = source.read()
        if not grammar.strip():
            raise ValueError(f"the grammar file {file} is empty")
        return cls.from_string(grammar)

    @classmethod
    def from_json_schema(cls, json_schema: str, verbose: bool = True) -> "LlamaGrammar":
        """A JSON schema as text."""
        return cls(_schema=json_schema)


def grammar_parts(grammar: Any) -> tuple[str | None, str | None]:
    """(GBNF, JSON schema) of a `grammar` argument: text, a LlamaGrammar, or llama-cpp-python's own."""
    if grammar is None:
        return None, None
    if isinstance(grammar, str):
        return grammar, None
    if isinstance(grammar, LlamaGrammar):
        return grammar._grammar, grammar._schema
    gbnf = getattr(grammar, "_grammar", None)
    if isinstance(gbnf, str):
        return gbnf, None
    raise Unsupported(f"grammar must be GBNF as text or a LlamaGrammar, not {type(grammar).__name__}")

"""What Llama has below its completions: text and tokens, embeddings, a state evaluated and drawn from by hand."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._capi import Owner, shown
from .engine import Engine
from .llama_by_hand import ByHand, LlamaState
from .model import Model
from .openai.embeddings import embedded, embedding_list
from .openai.requests import Planner, Seeds, seed_or_none
from .openai.results import Answer
from .openai.steering import LogitsProcessor, grammar_parts
from .openai.values import Unsupported, is_equal, only

SAMPLING = (
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "tfs_z",
    "mirostat_mode",
    "mirostat_tau",
    "mirostat_eta",
    "grammar",
)


def sampling_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the arguments of sample() or generate(), those of a request's sampler, by the names of a request."""
    only("penalize_nl", values["penalize_nl"], True, why="llama.cpp's penalties know no line breaks any more")
    return {"temperature": values["temp"], **{name: values[name] for name in SAMPLING}}


class LlamaLower(Owner):
    """The lower level of a Llama."""

    model: Model
    model_path: str
    engine: Engine
    planner: Planner
    _by_hand: ByHand
    _newest: tuple[Sequence[int], Answer] | None  # whose tokens are the state: prompt, answer
    _seeds: Seeds
    _seed: int

    # --- text --------------------------------------------------------------------------------------------------------

    def tokenize(self, text: bytes | str, add_bos: bool = True, special: bool = False) -> list[int]:
        """UTF-8 to token ids. `add_bos` puts a token that begins the text where the model wants one; `special` reads
        the texts of special tokens as these tokens. Raises ArgumentError for invalid UTF-8 and for an embedded NUL."""
        return self.model.tokenize(text, add_special=add_bos, parse_special=special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """The bytes of all tokens. A space after a token that begins the text is left out. `prev_tokens` change
        nothing, as with llama-cpp-python's own tokenizer."""
        data = self.model.detokenize(tokens, special)
        begins = len(tokens) > 0 and tokens[0] == self.token_bos()
        return data[1:] if begins and data.startswith(b" ") else data

    def tokenizer(self) -> "LlamaTokenizer":
        return LlamaTokenizer(self)

    @property
    def tokenizer_(self) -> "LlamaTokenizer":
        return LlamaTokenizer(self)

    def token_bos(self) -> int:
        """-1 where the model has none."""
        return self.model.info.token_bos

    def token_eos(self) -> int:
        """-1 where the model has none."""
        return self.model.info.token_eos

    def token_nl(self) -> int:
        """The token of a line break, the last of several."""
        return self.model.tokenize("\n", add_special=False)[-1]

    def n_vocab(self) -> int:
        return self.model.info.n_vocab

    def n_embd(self) -> int:
        return self.model.info.n_embd

    def n_ctx(self) -> int:
        """Tokens of one text, prompt and answer."""
        return self.engine.context.n_ctx

    @functools.cached_property
    def metadata(self) -> dict[str, str]:
        """The file's metadata as text, arrays left out."""
        values = ((key, self.model.metadata(key)) for key in self.model.metadata_keys())
        return {key: value for key, value in values if value is not None}

    # --- embeddings --------------------------------------------------------------------------------------------------

    def embed(
        self, input: str | list[str], normalize: bool = False, truncate: bool = True, return_count: bool = False
    ) -> Any:
        """The mean of the last hidden states: n_embd numbers for a text, a list of such rows for a list; with
        `return_count`, a pair with the number of tokens. Raises ArgumentError, ContextExceeded (not `truncate`)."""
        texts = [input] if isinstance(input, str) else list(input)
        rows, n_tokens = embedded(self.engine, texts, normalize, truncate)
        found = rows[0] if isinstance(input, str) else rows
        return (found, n_tokens) if return_count else found

    def create_embedding(self, input: str | list[str], model: str | None = None) -> dict[str, Any]:
        """The same in OpenAI's shape. Raises what embed() does."""
        rows, n_tokens = embedded(self.engine, [input] if isinstance(input, str) else list(input), False, True)
        return embedding_list(rows, n_tokens, self.model_path if model is None else model)

    # --- state, by hand ----------------------------------------------------------------------------------------------

    @property
    def eval_tokens(self) -> list[int]:
        """The tokens of the state: those of the newest answer with its prompt, or those that were evaluated by hand."""
        if self._newest is None:
            return self._by_hand.tokens
        prompt, answer = self._newest
        return [*prompt, *(result.token for result in list(answer.results) if result.token >= 0)]

    @property
    def input_ids(self) -> np.ndarray:
        """The same, int32 (n_tokens,)."""
        return np.asarray(self.eval_tokens, np.intc)

    @property
    def n_tokens(self) -> int:
        return len(self.eval_tokens)

    @property
    def eval_logits(self) -> list[list[float]]:
        """The logits of what follows the last token, [] where there is none. (1, n_vocab)"""
        self._take_over()
        return [self._by_hand.logits().tolist()] if self._by_hand.tokens else []

    def reset(self) -> None:
        """Forgets the tokens of the state."""
        self._newest = None
        self._by_hand.hold(())

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluates tokens after those of the state. Raises ArgumentError, ContextFull, DecodeError."""
        self._take_over()
        self._by_hand.evaluate(list(tokens))

    def sample(
        self,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        temp: float = 0.80,
        repeat_penalty: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_eta: float = 0.1,
        mirostat_tau: float = 5.0,
        penalize_nl: bool = True,
        logits_processor: LogitsProcessor | None = None,
        grammar: Any = None,
        idx: int | None = None,
    ) -> int:
        """Draws a token that may follow those of the state; it is not added to them.

        Raises StateError where there are none, Unsupported for a logits_processor, for a schema as grammar and for a
        place before the last."""
        if logits_processor is not None:
            raise Unsupported(
                "logits_processor is not supported by sample(), but by create_completion() and generate()"
            )
        grammar, schema = grammar_parts(grammar)
        if schema is not None:
            raise Unsupported("a JSON schema is not supported by sample(), but by create_completion() and generate()")
        if idx is not None and not is_equal(idx, self.n_tokens - 1):
            raise Unsupported(f"idx = {shown(idx)} is not supported: only the logits of the last token are kept")
        self._take_over()
        return self._by_hand.draw(self.planner.sampling(**sampling_arguments(locals()), temperature_default=0.8))

    def save_state(self) -> LlamaState:
        """See LlamaState."""
        tokens = self.input_ids
        return LlamaState(tokens, len(tokens), self._seed)

    def load_state(self, state: LlamaState) -> None:
        """See LlamaState."""
        self._newest = None
        self._by_hand.hold(np.asarray(state.input_ids[: state.n_tokens]).tolist())
        self.set_seed(state.seed)

    def set_seed(self, seed: int) -> None:
        """The seed from which requests without one get theirs, in turn; -1 or 0xFFFFFFFF: at random."""
        self._seeds.restart(seed_or_none(seed))
        self._seed = seed

    def set_cache(self, cache: Any) -> None:
        """Changes nothing: the engine itself keeps what the prompts of requests have in common."""

    def _take_over(self) -> None:
        """The state is by hand from here on."""
        if self._newest is not None:
            self._by_hand.hold(self.eval_tokens)
            self._newest = None

    @staticmethod
    def logits_to_logprobs(logits: np.ndarray | Sequence[float], axis: int = -1) -> np.ndarray:
        """Natural logarithms of the softmax, float32, of the same shape."""
        values = np.asarray(logits, np.float32)
        values = values - values.max(axis=axis, keepdims=True)
        logprobs: np.ndarray = values - np.log(np.exp(values).sum(axis=axis, keepdims=True))
        return logprobs

    @staticmethod
    def longest_token_prefix(a: Sequence[int], b: Sequence[int]) -> int:
        """How many tokens two texts have in common at their beginning."""
        return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class LlamaTokenizer:
    """The tokenizer of a Llama by itself."""

    def __init__(self, llama: LlamaLower) -> None:
        self.tokenize, self.detokenize = llama.tokenize, llama.detokenize

    def encode(self, text: str, add_bos: bool = True, special: bool = True) -> list[int]:
        return self.tokenize(text.encode("utf-8", errors="ignore"), add_bos, special)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.detokenize(tokens).decode("utf-8", errors="ignore")

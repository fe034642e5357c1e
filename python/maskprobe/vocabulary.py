"""A model's vocabulary and tokenizer as llguidance wants to see them."""

import functools
import threading
import weakref

from llguidance import LLTokenizer, TokenizerWrapper

from ._capi import check, ffi, lib
from .errors import Error, ModelError
from .model import Model

LONGEST_TOKEN = 1000  # bytes. llguidance takes no longer ones: no constrained text has them
LEAD = b"\x02"  # stands before a text where a tokenizer puts a space in front: no token joins it with anything

_tokenizers: "weakref.WeakKeyDictionary[Model, LLTokenizer]" = weakref.WeakKeyDictionary()
_building = threading.Lock()


def tokenizer_of(model: Model) -> LLTokenizer:
    """The model's tokenizer for llguidance. The first use reads the whole vocabulary, which takes half a second for
    150,000 tokens; it is kept as long as the model is.

    Raises ModelError where llguidance takes no such vocabulary, StateError where the model is closed."""
    with _building:
        known = _tokenizers.get(model)
        if known is None:
            known = _tokenizers[model] = _build(model)
        return known


def _build(model: Model) -> LLTokenizer:
    vocabulary = _Vocabulary(model)
    ends = list(model.end_tokens) or None
    try:
        return LLTokenizer(TokenizerWrapper(vocabulary), eos_token=ends)
    except BaseException as error:  # a panic of llguidance is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise ModelError(f"llguidance does not take this vocabulary of {model.info.n_vocab} tokens: {error}") from None


class _Vocabulary:
    """The tokens' bytes, and the tokenizer as a function that never fails.

    It does not keep the model alive, which is the key that it is found by."""

    bos_token_id = None

    def __init__(self, model: Model) -> None:
        self._model = weakref.ref(model)
        self.eos_token_id = model.end_tokens[0] if model.end_tokens else None  # None: llguidance adds one of its own
        self.tokens: list[bytes] = []  # of all tokens, by id
        self.special_token_ids: list[int] = []  # no text is made of these
        self._read(model)
        self._lead, self._n_lead = b"", 0
        if self._bytes_of(self._tokenize(b"a")) != b"a":
            self._n_lead = len(self._tokenize(LEAD))
            self._lead = LEAD

    def _read(self, model: Model) -> None:
        """One call for each token and two for those without text, into one buffer."""
        buffer, n = ffi.new("char[]", LONGEST_TOKEN), ffi.new("int32_t *")
        ends = set(model.end_tokens)
        with model._handle as pointer:
            for token in range(model.info.n_vocab):
                check(lib.mp_token_bytes(pointer, token, False, buffer, LONGEST_TOKEN, n))
                is_special = n[0] == 0 or token in ends
                if is_special:
                    check(lib.mp_token_bytes(pointer, token, True, buffer, LONGEST_TOKEN, n))
                data = ffi.unpack(buffer, n[0]) if n[0] <= LONGEST_TOKEN else b""
                self.tokens.append(data)
                if is_special and data:
                    self.special_token_ids.append(token)

    def __call__(self, data: bytes) -> list[int]:
        """The tokens of a text, whose bytes together are the text's own: what llguidance forces stands on that."""
        tokens = self._tokenize(self._lead + data)[self._n_lead :]
        return tokens if self._bytes_of(tokens) == data else self._longest(data)

    def _tokenize(self, data: bytes) -> list[int]:
        """[] for what the tokenizer refuses (a NUL), and after the model was closed."""
        model = self._model()
        try:
            return model.tokenize(data, add_special=False) if model is not None else []
        except Error:
            return []

    def _bytes_of(self, tokens: list[int]) -> bytes:
        return b"".join(self.tokens[token] for token in tokens)

    def _longest(self, data: bytes) -> list[int]:
        """The longest token that fits, again and again, up to a byte that no token begins with."""
        found: list[int] = []
        at = 0
        while at < len(data):
            ends = range(min(len(data), at + self._n_longest), at, -1)
            token, end = next(((self._ids[data[at:end]], end) for end in ends if data[at:end] in self._ids), (-1, at))
            if token < 0:
                break
            found.append(token)
            at = end
        return found

    @functools.cached_property
    def _ids(self) -> dict[bytes, int]:
        special = set(self.special_token_ids)
        return {data: token for token, data in enumerate(self.tokens) if data and token not in special}

    @functools.cached_property
    def _n_longest(self) -> int:
        return max(map(len, self._ids), default=0)

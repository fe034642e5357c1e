"""Log-probabilities of an answer's tokens, in the shape of completions and in that of chats."""

import codecs
from typing import Any, NamedTuple

from ..model import Model


class LoggedToken(NamedTuple):
    text: str
    data: bytes
    offset: int  # characters before it
    logprob: float | None
    top: list[tuple[int, float]]  # most likely tokens


def shown_text(data: bytes) -> str:
    """The text of a token; where its bytes are part of a character, what OpenAI's API has for them."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class LogprobLog:
    """Tokens of an answer, and which of them a chunk has had already.

    `begin` is the number of characters before the first."""

    def __init__(self, model: Model, begin: int) -> None:
        self._model = model
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._offset = begin
        self._tokens: list[LoggedToken] = []
        self._n_taken = 0

    def add(self, token: int, logprob: float | None, top: list[tuple[int, float]]) -> None:
        data = self._model.token_bytes(token, special=True)
        self._tokens.append(LoggedToken(shown_text(data), data, self._offset, logprob, top))
        self._offset += len(self._decoder.decode(self._model.token_bytes(token)))

    def take(self, end: int | None) -> list[LoggedToken]:
        """The tokens not taken yet that begin before character `end`, all with None. The others may be cut away."""
        begin = self._n_taken
        while self._n_taken < len(self._tokens) and (end is None or self._tokens[self._n_taken].offset < end):
            self._n_taken += 1
        return self._tokens[begin : self._n_taken]

    def all(self) -> list[LoggedToken]:
        return self._tokens

    def drop_from(self, end: int) -> None:
        """Forgets the tokens that begin at character `end` or after it."""
        self._tokens = [token for token in self._tokens if token.offset < end]

    def for_completion(self, tokens: list[LoggedToken]) -> dict[str, Any]:
        """{"tokens", "text_offset", "token_logprobs", "top_logprobs"}, each with one entry per token."""
        return {
            "tokens": [token.text for token in tokens],
            "text_offset": [token.offset for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._top_of_completion(token) for token in tokens],
        }

    def _top_of_completion(self, token: LoggedToken) -> dict[str, float] | None:
        """The alternatives and the token itself."""
        if token.logprob is None:
            return None
        top = {shown_text(self._model.token_bytes(id, special=True)): logprob for id, logprob in reversed(token.top)}
        return {**dict(reversed(top.items())), token.text: token.logprob}

    def for_chat(self, tokens: list[LoggedToken]) -> dict[str, Any]:
        """{"content": [{"token", "logprob", "bytes", "top_logprobs"}], "refusal": None}"""
        return {"content": [self._entry_of_chat(token) for token in tokens], "refusal": None}

    def _entry_of_chat(self, token: LoggedToken) -> dict[str, Any]:
        tops = ((self._model.token_bytes(id, special=True), logprob) for id, logprob in token.top)
        return {
            "token": token.text,
            "logprob": token.logprob,
            "bytes": list(token.data),
            "top_logprobs": [
                {"token": shown_text(data), "logprob": logprob, "bytes": list(data)} for data, logprob in tops
            ],
        }

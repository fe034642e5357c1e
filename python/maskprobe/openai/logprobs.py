"""Log-probabilities of an answer's tokens, in the shape of completions and in that of chats."""

import codecs
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..model import Model


def shown_text(data: bytes) -> str:
    """The text of a token; where its bytes are part of a character, what OpenAI's API has for them."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class Alternative(NamedTuple):
    """A token that might stand at a place."""

    data: bytes
    logprob: float | None  # None: not known

    @property
    def text(self) -> str:
        return shown_text(self.data)

    def entry(self) -> dict[str, Any]:
        """In the shape of a chat's."""
        return {"token": self.text, "logprob": self.logprob, "bytes": list(self.data)}


class LoggedToken(NamedTuple):
    token: Alternative
    offset: int  # characters before it
    top: list[Alternative]  # the most likely ones


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
        likely = [self._alternative(id, logprob) for id, logprob in top]
        self._tokens.append(LoggedToken(self._alternative(token, logprob), self._offset, likely))
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

    def _alternative(self, token: int, logprob: float | None) -> Alternative:
        return Alternative(self._model.token_bytes(token, special=True), logprob)


def logprobs_of_completion(tokens: Sequence[LoggedToken]) -> dict[str, Any]:
    """{"tokens", "text_offset", "token_logprobs", "top_logprobs"}, each with one entry per token."""
    return {
        "tokens": [logged.token.text for logged in tokens],
        "text_offset": [logged.offset for logged in tokens],
        "token_logprobs": [logged.token.logprob for logged in tokens],
        "top_logprobs": [_top_of_completion(logged) for logged in tokens],
    }


def _top_of_completion(logged: LoggedToken) -> dict[str, float] | None:
    """The alternatives and the token itself. Of several with one text, the most likely."""
    if logged.token.logprob is None:
        return None
    top: dict[str, Any] = {}
    for one in logged.top:
        top.setdefault(one.text, one.logprob)
    return {**top, logged.token.text: logged.token.logprob}


def logprobs_of_chat(tokens: Sequence[LoggedToken]) -> dict[str, Any]:
    """{"content": [{"token", "logprob", "bytes", "top_logprobs"}], "refusal": None}"""
    content = [{**logged.token.entry(), "top_logprobs": [one.entry() for one in logged.top]} for logged in tokens]
    return {"content": content, "refusal": None}

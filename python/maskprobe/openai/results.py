"""The tokens of a generation as OpenAI-shaped dicts, whole or in chunks.

    answer = CompletionAnswer(plan, model, name)      or ChatAnswer
    answer.begin()                                    chunks before the first token
    answer.add(result)                                chunks that a token makes certain
    answer.end(stats)                                 the last chunks; or whole(stats): all in one dict

Nothing here waits for anything: streams.py drives it, for threads and for event loops.
"""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ..generation import Stats, TokenResult
from ..model import Model
from .logprobs import LoggedToken, LogprobLog, logprobs_of_chat, logprobs_of_completion
from .requests import Plan
from .tool_calls import ToolReader

# Ours -> OpenAI's. A text that a constraint ends is complete; one that is cancelled was cut short.
FINISH_REASONS = {
    "stop": "stop",
    "constraint": "stop",
    "length": "length",
    "context": "length",
    "cancelled": "length",
}


class Result(dict[str, Any]):
    """A dict with OpenAI's keys, and three counts of ours in its "usage". Beside it, as attributes, what these have no
    place for."""

    tokens: list[TokenResult]  # that it is made of, each with what guessed it
    stats: Stats | None  # counts and times of the generation; None in a chunk before the last

    def __init__(self, items: dict[str, Any], tokens: list[TokenResult], stats: Stats | None = None) -> None:
        super().__init__(items)
        self.tokens, self.stats = tokens, stats


def evidence(tokens: Sequence[TokenResult]) -> list[dict[str, Any]]:
    """What a result's tokens are and what guessed them, for JSON. The likely alternatives are in its "logprobs"."""
    return [
        {
            "id": token.token,
            "text": token.text,
            "logprob": token.logprob,
            "margin": token.margin,
            "from_draft": token.from_draft,
            "source": token.source,
        }
        for token in tokens
        if token.token >= 0
    ]


def usage(stats: Stats, n_completion: int) -> dict[str, Any]:
    """Counts of a request. The details have OpenAI's names for predictions, and three of ours: draft_tokens,
    accepted_tokens, passes."""
    return {
        "prompt_tokens": stats.n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": stats.n_prompt + n_completion,
        "prompt_tokens_details": {"cached_tokens": stats.n_prompt_reused},
        "completion_tokens_details": {
            "accepted_prediction_tokens": stats.n_accepted,
            "rejected_prediction_tokens": stats.n_drafted - stats.n_accepted,
            "draft_tokens": stats.n_drafted,
            "accepted_tokens": stats.n_accepted,
            "passes": stats.passes,
        },
    }


class Answer(ABC):
    """What both shapes share: the text so far, counts, identity."""

    id_prefix: str
    whole_object: str
    chunk_object: str

    def __init__(
        self,
        plan: Plan,
        model: Model,
        name: str,
        *,
        index: int = 0,
        id: str | None = None,
        created: int | None = None,
        prompt_logprobs: dict[str, Any] | None = None,
    ) -> None:
        """`index` of several answers to one request, which have one `id` and `created` (Unix time). `prompt_logprobs`:
        those of an echoed prompt, in the shape of a completion's; they may be set until begin() or whole()."""
        self._plan, self._model, self._index = plan, model, index
        self._id = id or f"{self.id_prefix}-{uuid.uuid4()}"
        self._created = int(time.time()) if created is None else created
        self._name = plan.model_name or name
        self.prompt_logprobs = prompt_logprobs
        self.text = ""
        self.n_completion = 0  # tokens, without one that ends the text
        self.results: list[TokenResult] = []
        self._unsent: list[TokenResult] = []  # results that are in no chunk yet
        self._log = LogprobLog(model, len(plan.prompt)) if plan.n_top is not None else None

    @abstractmethod
    def begin(self) -> list[Result]:
        """Chunks before the first token."""

    def add(self, result: TokenResult) -> list[Result]:
        """Takes a token in: the chunks that it makes certain."""
        self.results.append(result)
        self._unsent.append(result)
        is_end = result.token < 0 or (result.finish_reason == "stop" and self._model.is_end(result.token))
        if not is_end:
            self.n_completion += 1
            if self._log is not None:
                self._log.add(result.token, result.logprob, result.top)
        self.text += result.text
        return self._text_chunks(result, is_end)

    def end(self, stats: Stats) -> list[Result]:
        """The last chunks."""
        chunks = self._last_chunks()
        self._drop_cut_tokens(stats)
        last = self._piece(self._delta(None), self._finish_reason(stats), is_last=True)
        last.stats = stats
        return [*chunks, last, *self._usage_chunk(stats)]

    def whole(self, stats: Stats) -> Result:
        """All in one."""
        self._last_chunks()
        self._drop_cut_tokens(stats)
        logprobs = None if self._log is None else self._logprobs(self._log.all())
        choice = {**self._content(), "logprobs": logprobs, "finish_reason": self._finish_reason(stats)}
        items = {**self._items(self.whole_object, choice), "usage": usage(stats, self.n_completion)}
        return Result(items, self.results, stats)

    @abstractmethod
    def _text_chunks(self, result: TokenResult, is_end: bool) -> list[Result]:
        """What a token makes certain of the text."""

    def _last_chunks(self) -> list[Result]:
        """What the end makes certain of it."""
        return []

    @abstractmethod
    def _delta(self, text: str | None) -> dict[str, Any]:
        """Text that is added, as an item of a chunk's choice; None: nothing."""

    @abstractmethod
    def _content(self) -> dict[str, Any]:
        """The whole text, as an item of a choice."""

    @abstractmethod
    def _logprobs(self, tokens: list[LoggedToken]) -> dict[str, Any]:
        """In the shape of a choice's."""

    def _finish_reason(self, stats: Stats) -> str:
        return FINISH_REASONS[stats.finish_reason or "cancelled"]

    def _drop_cut_tokens(self, stats: Stats) -> None:
        """Where the text was cut before a stop string, tokens after its end do not belong to it."""
        if self._log is not None and stats.finish_reason == "stop" and not self._ended_by_token():
            self._log.drop_from(len(self._plan.prompt) + len(self.text))

    def _ended_by_token(self) -> bool:
        last = self.results[-1].token if self.results else -1
        return last >= 0 and self._model.is_end(last)

    def _piece(self, delta: dict[str, Any], finish_reason: str | None = None, is_last: bool = False) -> Result:
        """A chunk, with the log-probabilities of the tokens whose text is certain."""
        logprobs = None
        if self._log is not None:
            taken = self._log.take(None if is_last else len(self._plan.prompt) + len(self.text))
            logprobs = self._logprobs(taken) if taken else None
        return self._chunk({**delta, "logprobs": logprobs, "finish_reason": finish_reason})

    def _chunk(self, choice: dict[str, Any] | None, stats: Stats | None = None) -> Result:
        """With the results that are in none yet."""
        tokens, self._unsent = self._unsent, []
        return Result(self._items(self.chunk_object, choice), tokens, stats)

    def _usage_chunk(self, stats: Stats) -> list[Result]:
        if not self._plan.include_usage:
            return []
        chunk = self._chunk(None, stats)
        chunk["usage"] = usage(stats, self.n_completion)
        return [chunk]

    def _items(self, kind: str, choice: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._name,
            "choices": [] if choice is None else [{"index": self._index, **choice}],
        }


class CompletionAnswer(Answer):
    id_prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def begin(self) -> list[Result]:
        if not self._plan.echo:
            return []
        choice = {"text": self._plan.prompt, "logprobs": self.prompt_logprobs, "finish_reason": None}
        return [self._chunk(choice)]

    def whole(self, stats: Stats) -> Result:
        whole = super().whole(stats)
        logprobs = whole["choices"][0]["logprobs"]
        for name, values in (self.prompt_logprobs or {}).items():
            logprobs[name] = values + logprobs[name]
        return whole

    def _text_chunks(self, result: TokenResult, is_end: bool) -> list[Result]:
        return [self._piece(self._delta(result.text))] if result.text else []

    def _delta(self, text: str | None) -> dict[str, Any]:
        return {"text": text or ""}

    def _content(self) -> dict[str, Any]:
        return {"text": self._plan.prompt + self.text if self._plan.echo else self.text}

    def _logprobs(self, tokens: list[LoggedToken]) -> dict[str, Any]:
        return logprobs_of_completion(tokens)


class ChatAnswer(Answer):
    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, plan: Plan, model: Model, name: str, **identity: Any) -> None:
        super().__init__(plan, model, name, **identity)
        self._reader = None if plan.tools is None else ToolReader(plan.tools)
        self._is_legacy = plan.tools is not None and plan.tools.legacy
        self._call_ids: list[str] = []

    def begin(self) -> list[Result]:
        return [self._piece({"delta": {"role": "assistant"}})]

    def _text_chunks(self, result: TokenResult, is_end: bool) -> list[Result]:
        if self._reader is None:
            return [self._piece(self._delta(result.text))] if result.text else []
        text = result.text
        if not is_end and not self._model.token_bytes(result.token):  # markers of calls are often special tokens
            text += self._model.token_bytes(result.token, special=True).decode("utf-8", errors="ignore")
        return self._read(self._reader.push(text))

    def _last_chunks(self) -> list[Result]:
        return [] if self._reader is None else self._read(self._reader.finish())

    def _delta(self, text: str | None) -> dict[str, Any]:
        return {"delta": {} if text is None else {"content": text}}

    def _content(self) -> dict[str, Any]:
        if self._reader is None:
            return {"message": {"role": "assistant", "content": self.text}}
        if not self._reader.calls:
            return {"message": {"role": "assistant", "content": self._reader.content}}
        calls = [
            {"id": id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for id, call in zip(self._call_ids, self._reader.calls, strict=True)
        ]
        content = self._reader.content or None
        message: dict[str, Any] = {"role": "assistant", "content": content, "tool_calls": calls}
        if self._is_legacy:
            message["function_call"] = calls[0]["function"]
        return {"message": message}

    def _logprobs(self, tokens: list[LoggedToken]) -> dict[str, Any]:
        return logprobs_of_chat(tokens)

    def _finish_reason(self, stats: Stats) -> str:
        reason = super()._finish_reason(stats)
        if reason == "stop" and self._reader is not None and self._reader.calls:
            return "function_call" if self._is_legacy else "tool_calls"
        return reason

    def _read(self, events: list[tuple[str, Any]]) -> list[Result]:
        """What a reader found, as chunks."""
        chunks = []
        for kind, value in events:
            if kind == "content":
                chunks.append(self._piece(self._delta(value)))
                continue
            index, text = value
            function = {"name": text, "arguments": ""} if kind == "call" else {"arguments": text}
            call: dict[str, Any] = {"index": index, "function": function}
            if kind == "call":
                self._call_ids.append(f"call_{uuid.uuid4().hex[:24]}")
                call |= {"id": self._call_ids[-1], "type": "function"}
            delta: dict[str, Any] = {"tool_calls": [call]}
            if self._is_legacy and index == 0:
                delta["function_call"] = function
            chunks.append(self._piece({"delta": delta}))
        return chunks

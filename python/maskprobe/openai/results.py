"""The tokens of a generation as OpenAI-shaped dicts, whole or in chunks.

    answer = CompletionAnswer(plan, model, name)      or ChatAnswer
    answer.begin()                                    chunks before the first token
    answer.add(result)                                chunks that a token makes certain
    answer.end(stats)                                 the last chunks; or whole(stats): all in one dict

Nothing here waits for anything: streams.py drives it, for threads and for event loops.
"""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from ..generation import Stats, TokenResult
from ..model import Model
from .logprobs import LogprobLog
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
    """A dict with exactly OpenAI's keys. Beside it, as attributes, what these have no place for."""

    tokens: list[TokenResult]  # that it is made of, each with what guessed it
    stats: Stats | None  # counts and times of the generation; None in a chunk before the last

    def __init__(self, items: dict[str, Any], tokens: list[TokenResult], stats: Stats | None = None) -> None:
        super().__init__(items)
        self.tokens, self.stats = tokens, stats


def evidence(tokens: Sequence[TokenResult]) -> list[dict[str, Any]]:
    """What a result's tokens are and what guessed them, for JSON."""
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
    """Counts of a request. The details have OpenAI's names for predictions, and ours."""
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


class Answer:
    """What both shapes share: the text so far, counts, identity."""

    id_prefix = ""
    whole_object = ""
    chunk_object = ""

    def __init__(
        self,
        plan: Plan,
        model: Model,
        name: str,
        *,
        index: int = 0,
        id: str | None = None,
        created: int | None = None,
    ) -> None:
        """`index` of several answers to one request, which have one `id` and `created` (Unix time)."""
        self._plan, self._model, self._index = plan, model, index
        self._id = id or f"{self.id_prefix}-{uuid.uuid4()}"
        self._created = int(time.time()) if created is None else created
        self._name = plan.model_name or name
        self.text = ""
        self.n_completion = 0  # tokens, without one that ends the text
        self.results: list[TokenResult] = []
        self._unsent: list[TokenResult] = []  # results that are in no chunk yet
        self._log = LogprobLog(model, len(plan.prompt)) if plan.n_top is not None else None

    def begin(self) -> list[Result]:
        return []

    def add(self, result: TokenResult) -> list[Result]:
        """Takes a token in."""
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
        raise NotImplementedError

    def whole(self, stats: Stats) -> Result:
        raise NotImplementedError

    def _text_chunks(self, result: TokenResult, is_end: bool) -> list[Result]:
        raise NotImplementedError

    def _finish_reason(self, stats: Stats) -> str:
        return FINISH_REASONS[stats.finish_reason or "cancelled"]

    def _last_tokens(self, stats: Stats) -> None:
        """Where the text was cut before a stop string, tokens after its end do not belong to it."""
        if self._log is not None and stats.finish_reason == "stop" and not self._ended_by_token():
            self._log.drop_from(len(self._plan.prompt) + len(self.text))

    def _ended_by_token(self) -> bool:
        last = self.results[-1].token if self.results else -1
        return last >= 0 and self._model.is_end(last)

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

    def _whole(self, choice: dict[str, Any], stats: Stats) -> Result:
        items = {**self._items(self.whole_object, choice), "usage": usage(stats, self.n_completion)}
        return Result(items, self.results, stats)

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

    def __init__(
        self, plan: Plan, model: Model, name: str, *, prompt_logprobs: dict[str, Any] | None = None, **identity: Any
    ) -> None:
        """`prompt_logprobs`: those of an echoed prompt, in the shape of a completion's."""
        super().__init__(plan, model, name, **identity)
        self._prompt_logprobs = prompt_logprobs

    def begin(self) -> list[Result]:
        if not self._plan.echo:
            return []
        choice = {"text": self._plan.prompt, "logprobs": self._prompt_logprobs, "finish_reason": None}
        return [self._chunk(choice)]

    def end(self, stats: Stats) -> list[Result]:
        self._last_tokens(stats)
        last = self._piece("", self._finish_reason(stats), all_tokens=True)
        last.stats = stats
        return [last, *self._usage_chunk(stats)]

    def whole(self, stats: Stats) -> Result:
        self._last_tokens(stats)
        logprobs = None if self._log is None else self._log.for_completion(self._log.all())
        if logprobs is not None and self._prompt_logprobs is not None:
            logprobs = {key: self._prompt_logprobs[key] + logprobs[key] for key in logprobs}
        text = self._plan.prompt + self.text if self._plan.echo else self.text
        choice = {"text": text, "logprobs": logprobs, "finish_reason": self._finish_reason(stats)}
        return self._whole(choice, stats)

    def _text_chunks(self, result: TokenResult, is_end: bool) -> list[Result]:
        return [self._piece(result.text, None)] if result.text else []

    def _piece(self, text: str, finish_reason: str | None, all_tokens: bool = False) -> Result:
        logprobs = None
        if self._log is not None:
            taken = self._log.take(None if all_tokens else len(self._plan.prompt) + len(self.text))
            logprobs = self._log.for_completion(taken) if taken else None
        return self._chunk({"text": text, "logprobs": logprobs, "finish_reason": finish_reason})


class ChatAnswer(Answer):
    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, plan: Plan, model: Model, name: str, **identity: Any) -> None:
        super().__init__(plan, model, name, **identity)
        self._reader = None if plan.tools is None else ToolReader(plan.tools)
        self._call_ids: list[str] = []

    def begin(self) -> list[Result]:
        return [self._delta({"role": "assistant"})]

    def end(self, stats: Stats) -> list[Result]:
        chunks = [] if self._reader is None else self._read(self._reader.finish())
        self._last_tokens(stats)
        last = self._delta({}, self._finish_reason(stats), all_tokens=True)
        last.stats = stats
        return [*chunks, last, *self._usage_chunk(stats)]

    def whole(self, stats: Stats) -> Result:
        self._last_tokens(stats)
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self._reader is not None:
            self._read(self._reader.finish())
            message = self._message(self._reader)
        choice = {
            "message": message,
            "logprobs": None if self._log is None else self._log.for_chat(self._log.all()),
            "finish_reason": self._finish_reason(stats),
        }
        return self._whole(choice, stats)

    def _message(self, reader: ToolReader) -> dict[str, Any]:
        if not reader.calls:
            return {"role": "assistant", "content": reader.content}
        calls = [
            {"id": id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for id, call in zip(self._call_ids, reader.calls, strict=True)
        ]
        message: dict[str, Any] = {"role": "assistant", "content": reader.content or None, "tool_calls": calls}
        if self._plan.tools is not None and self._plan.tools.legacy:
            message["function_call"] = calls[0]["function"]
        return message

    def _finish_reason(self, stats: Stats) -> str:
        reason = super()._finish_reason(stats)
        if reason == "stop" and self._reader is not None and self._reader.calls:
            legacy = self._plan.tools is not None and self._plan.tools.legacy
            return "function_call" if legacy else "tool_calls"
        return reason

    def _text_chunks(self, result: TokenResult, is_end: bool) -> list[Result]:
        if self._reader is None:
            return [self._delta({"content": result.text})] if result.text else []
        text = result.text
        if not is_end and not self._model.token_bytes(result.token):  # markers of calls are often special tokens
            text += self._model.token_bytes(result.token, special=True).decode("utf-8", errors="ignore")
        return self._read(self._reader.push(text))

    def _read(self, events: list[tuple[str, Any]]) -> list[Result]:
        """What a reader found, as chunks."""
        chunks = []
        for kind, value in events:
            if kind == "content":
                delta: dict[str, Any] = {"content": value}
            else:
                index, text = value
                function = {"name": text, "arguments": ""} if kind == "call" else {"arguments": text}
                call: dict[str, Any] = {"index": index, "function": function}
                if kind == "call":
                    self._call_ids.append(f"call_{uuid.uuid4().hex[:24]}")
                    call |= {"id": self._call_ids[-1], "type": "function"}
                delta = {"tool_calls": [call]}
                if self._plan.tools is not None and self._plan.tools.legacy and index == 0:
                    delta["function_call"] = function
            chunks.append(self._delta(delta))
        return chunks

    def _delta(self, delta: dict[str, Any], finish_reason: str | None = None, all_tokens: bool = False) -> Result:
        logprobs = None
        if self._log is not None:
            taken = self._log.take(None if all_tokens else len(self._plan.prompt) + len(self.text))
            logprobs = self._log.for_chat(taken) if taken else None
        return self._chunk({"delta": delta, "logprobs": logprobs, "finish_reason": finish_reason})

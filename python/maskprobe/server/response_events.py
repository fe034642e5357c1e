"""A response of OpenAI's Responses API, whole and event by event."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from .errors import ApiError

DRAFT_COUNTS = ("draft_tokens", "accepted_tokens", "passes")


def encoded(event: Mapping[str, Any]) -> bytes:
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode()


class Reply:
    """One response, and the events that tell of it. An event shows the response as it is when it is asked for."""

    def __init__(self, told: dict[str, Any]) -> None:
        """`told`: what the response repeats of its request."""
        self.response: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
            **told,
        }
        self.has_begun = False
        self._output: list[dict[str, Any]] = self.response["output"]
        self._n_events = 0

    def begin(self) -> Iterator[dict[str, Any]]:
        self.has_begun = True
        yield self._event("response.created", response=self.response)
        yield self._event("response.in_progress", response=self.response)

    def add(self, delta: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """A message of a chat, or what a chunk adds to it. Calls come after the text."""
        if text := delta.get("content"):
            yield from self._add_text(text)
        for call in delta.get("tool_calls") or ():
            function = call["function"]
            if "name" in function:
                yield from self._close("completed")
                item = {"type": "function_call", "id": f"fc_{uuid.uuid4().hex}", "call_id": call["id"]}
                yield self._open({**item, "name": function["name"], "arguments": ""})
            if arguments := function["arguments"]:
                self._output[-1]["arguments"] += arguments
                yield self._of_item("response.function_call_arguments.delta", delta=arguments)

    def end(self, reason: str, usage: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        if not self._output:
            yield from self._add_text("")
        status = "incomplete" if reason == "length" else "completed"
        yield from self._close(status)
        details = usage["completion_tokens_details"]
        self.response |= {
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if reason == "length" else None,
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage["prompt_tokens_details"],
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0, **{name: details[name] for name in DRAFT_COUNTS}},
                "total_tokens": usage["total_tokens"],
            },
        }
        yield self._event(f"response.{status}", response=self.response)

    def failed(self, error: ApiError) -> bytes:
        return encoded(self._event("error", code=error.code, message=error.message, param=error.param))

    def _add_text(self, text: str) -> Iterator[dict[str, Any]]:
        if not self._output:
            message = {"type": "message", "id": f"msg_{uuid.uuid4().hex}", "role": "assistant", "content": []}
            yield self._open(message)
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            self._output[-1]["content"].append(part)
            yield self._of_item("response.content_part.added", content_index=0, part=part)
        if text:
            self._output[-1]["content"][0]["text"] += text
            yield self._of_item("response.output_text.delta", content_index=0, delta=text, logprobs=[])

    def _open(self, item: dict[str, Any]) -> dict[str, Any]:
        self._output.append({**item, "status": "in_progress"})
        return self._event("response.output_item.added", output_index=len(self._output) - 1, item=self._output[-1])

    def _close(self, status: str) -> Iterator[dict[str, Any]]:
        """Of the newest item, where there is one."""
        if not self._output:
            return
        item = self._output[-1]
        if item["type"] == "message":
            (part,) = item["content"]
            yield self._of_item("response.output_text.done", content_index=0, text=part["text"], logprobs=[])
            yield self._of_item("response.content_part.done", content_index=0, part=part)
        else:
            told = {"name": item["name"], "arguments": item["arguments"]}
            yield self._of_item("response.function_call_arguments.done", **told)
        item["status"] = status
        yield self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)

    def _of_item(self, kind: str, **told: Any) -> dict[str, Any]:
        return self._event(kind, item_id=self._output[-1]["id"], output_index=len(self._output) - 1, **told)

    def _event(self, kind: str, **told: Any) -> dict[str, Any]:
        self._n_events += 1
        return {"type": kind, "sequence_number": self._n_events - 1, **told}

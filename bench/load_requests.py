"""The requests of serve_load.py: the same texts for every server, and schemas in the form that a server takes."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from maskprobe import Model

PROMPTS = Path(__file__).parent / "prompts"
PROMPT_TOKENS, ANSWER_TOKENS = (50, 1500), (20, 300)
WITH_SCHEMA, GREEDY = 0.1, 0.5
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 60},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 4},
        "year": {"type": "integer", "minimum": 1900, "maximum": 2100},
    },
    "required": ["title", "tags", "year"],
    "additionalProperties": False,
}
# OpenAI's own form first. llama-cpp-python's server knows the second one only.
RESPONSE_FORMATS = (
    {"type": "json_schema", "json_schema": {"name": "book", "schema": SCHEMA}},
    {"type": "json_object", "schema": SCHEMA},
)

Body = dict[str, Any]


@dataclass(frozen=True)
class Request:
    kind: str  # "greedy", "seeded" or "with a schema"
    route: str
    body: Body = field(repr=False)


class Texts:
    """Prompts of a stated number of tokens, cut from the project's own with the model's vocabulary. They go out as
    text: some servers take no tokens."""

    def __init__(self, model: Model) -> None:
        self._model = model
        whole = "\n".join(path.read_text(encoding="utf-8") for path in sorted(PROMPTS.glob("*.txt")))
        tokens = model.tokenize(whole, add_special=False)
        self._tokens = (tokens * (1 + 4 * PROMPT_TOKENS[1] // len(tokens)))[: 64 * PROMPT_TOKENS[1]]

    def cut(self, draw: random.Random) -> str:
        n = draw.randint(*PROMPT_TOKENS)
        begin = draw.randrange(max(1, len(self._tokens) - n))
        return self._model.detokenize(self._tokens[begin : begin + n]).decode("utf-8", "ignore")

    def n_tokens(self, text: str) -> int:
        return len(self._model.tokenize(text, add_special=False))


def requests(texts: Texts, seed: int, response_format: Body | None) -> Iterator[Request]:
    """Made-up requests without end, the same for the same seed. Without a `response_format` those with a schema are
    left out."""
    draw = random.Random(seed)
    while True:
        body: Body = {"max_tokens": draw.randint(*ANSWER_TOKENS), "stream": True}
        body["stream_options"] = {"include_usage": True}
        is_greedy, sampling_seed = draw.random() < GREEDY, draw.randrange(2**31)
        body |= {"temperature": 0} if is_greedy else {"temperature": 0.8, "seed": sampling_seed}
        prompt, with_schema = texts.cut(draw), draw.random() < WITH_SCHEMA
        if not with_schema:
            yield Request("greedy" if is_greedy else "seeded", "/v1/completions", body | {"prompt": prompt})
        elif response_format is not None:
            body |= {"messages": [{"role": "user", "content": "Describe a book as JSON."}]}
            yield Request("with a schema", "/v1/chat/completions", body | {"response_format": response_format})


def known_response_format(url: str) -> Body | None:
    """The form in which a server takes a JSON schema; None where it takes none."""
    for form in RESPONSE_FORMATS:
        body = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4, "response_format": form}
        if httpx.post(f"{url}/v1/chat/completions", json=body, timeout=600).is_success:
            return form
    return None

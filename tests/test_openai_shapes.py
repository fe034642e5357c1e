"""Requests and answers in OpenAI's shapes: tools and schemas, log-probabilities, streams against whole answers."""

import json
from types import SimpleNamespace

import pytest

from chat_models import TEMPLATE, with_metadata
from maskprobe import ArgumentError, Llama, Model
from maskprobe.openai.logprobs import LogprobLog, logprobs_of_completion
from maskprobe.openai.requests import Seeds
from maskprobe.openai.results import ChatAnswer, evidence
from maskprobe.openai.streams import collect

QUIET = {"verbose": False, "n_threads": 1, "rows": 8}
USER = [{"role": "user", "content": "What is the weather in Rome?"}]
CITIES = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": CITIES}},
    {"type": "function", "function": {"name": "clock", "parameters": CITIES}},
    {"type": "function", "function": {"name": "nothing"}},
]


def named(name: str) -> dict:
    return {"type": "function", "function": {"name": name}}


@pytest.fixture(scope="module")
def plain(bundled_model_path):
    """A model without a template, in the format that is its fallback."""
    with Llama(bundled_model_path, n_parallel=2, **QUIET) as llama:
        yield llama


@pytest.fixture(scope="module")
def chat(bundled_model_path, tmp_path_factory):
    """A model whose template has tools."""
    pytest.importorskip("maskprobe.chat_template")
    pytest.importorskip("maskprobe.structured")
    path = tmp_path_factory.mktemp("chat") / "chat.gguf"
    with_metadata(bundled_model_path, path, tokenizer__chat_template=TEMPLATE)
    with Llama(path, n_ctx=1024, n_parallel=2, **QUIET) as llama:
        yield llama


def joined(chunks) -> dict:
    """A message out of the deltas of a stream, and its finish reason."""
    message: dict = {"content": "", "calls": []}
    for chunk in chunks:
        (choice,) = chunk["choices"]
        delta = choice["delta"]
        message["content"] += delta.get("content") or ""
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                assert call["index"] == len(message["calls"]) and call["type"] == "function"
                message["calls"].append([call["function"]["name"], ""])
            message["calls"][call["index"]][1] += call["function"]["arguments"]
        message["finish_reason"] = choice["finish_reason"]
    return message


# --- tools -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [named("weather"), named("nothing"), "required"], ids=str)
def test_a_forced_tool_is_called(chat, choice):
    settings = {"tools": TOOLS, "tool_choice": choice, "temperature": 0.8, "seed": 3, "max_tokens": 60}
    answer = chat.create_chat_completion(USER, **settings)
    message = answer["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert answer["choices"][0]["finish_reason"] == "tool_calls" and message["content"] is None
    name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
    assert name == choice["function"]["name"] if isinstance(choice, dict) else name in ("weather", "clock", "nothing")
    assert arguments == {} if name == "nothing" else arguments["city"] in ("Rome", "Oslo")

    streamed = joined(chat.create_chat_completion(USER, stream=True, **settings))
    assert streamed["calls"] == [[name, call["function"]["arguments"]]]
    assert streamed["content"] == "" and streamed["finish_reason"] == "tool_calls"


def test_a_tool_that_is_cut_short_says_so(chat):
    settings = {"tools": TOOLS, "tool_choice": named("weather"), "max_tokens": 2}
    assert chat.create_chat_completion(USER, **settings)["choices"][0]["finish_reason"] == "length"
    settings["tool_choice"] = "required"
    answer = chat.create_chat_completion(USER, **settings)["choices"][0]
    assert answer["finish_reason"] == "length" and "tool_calls" not in answer["message"]


def test_functions_are_tools_by_another_name(chat):
    functions = [tool["function"] for tool in TOOLS]
    settings = {"functions": functions, "function_call": {"name": "clock"}, "max_tokens": 60}
    choice = chat.create_chat_completion(USER, **settings)["choices"][0]
    assert choice["message"]["function_call"] == choice["message"]["tool_calls"][0]["function"]
    assert choice["message"]["function_call"]["name"] == "clock" and choice["finish_reason"] == "function_call"


def test_what_a_template_sees(chat):
    """Tools stand in the prompt unless none may be called, and arguments of earlier calls are objects."""

    def prompt(messages, **settings):
        return chat.planner.chat(messages, **settings).prompt

    assert '"weather"' in prompt(USER, tools=TOOLS) and '"weather"' not in prompt(USER, tools=TOOLS, tool_choice="none")
    assert prompt(USER, tools=TOOLS, tool_choice=named("clock")).endswith('{"name": "clock", "arguments": ')
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    answered = [*USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>' in prompt(answered)
    parts = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]
    assert "one\ntwo" in prompt(parts)


def test_a_free_answer_with_tools(chat):
    """The model of Python code calls nothing: its text comes whole, and in a stream the same."""
    settings = {"tools": TOOLS, "temperature": 0, "max_tokens": 20}
    answer = chat.create_chat_completion(USER, **settings)["choices"][0]
    streamed = joined(chat.create_chat_completion(USER, stream=True, **settings))
    assert answer["finish_reason"] == streamed["finish_reason"] == "length"
    assert answer["message"] == {"role": "assistant", "content": streamed["content"]} and not streamed["calls"]


CALL = '{"name": "weather", "arguments": {"city": "Rome"}}'


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("text", [f"Yes.\n<tool_call>{CALL}</tool_call>", CALL], ids=["marked", "bare"])
def test_a_free_call_is_read_back(chat, text, is_streamed):
    """A grammar makes the model write what another one would."""
    grammar = f"root ::= {json.dumps(text)}"
    settings = {"tools": TOOLS, "grammar": grammar, "max_tokens": 100, "stream": is_streamed}
    answer = chat.create_chat_completion(USER, **settings)
    if is_streamed:
        found = joined(answer)
    else:
        choice = answer["choices"][0]
        calls = [[call["function"]["name"], call["function"]["arguments"]] for call in choice["message"]["tool_calls"]]
        found = {
            "content": choice["message"]["content"] or "",
            "calls": calls,
            "finish_reason": choice["finish_reason"],
        }
    content = "Yes." if text.startswith("Yes") else ""
    assert found == {"content": content, "calls": [["weather", '{"city": "Rome"}']], "finish_reason": "tool_calls"}


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"tools": {}}, ValueError, "tools"),
        ({"tools": [5]}, ValueError, r"tools\[0\]"),
        ({"tools": [{"type": "browser"}]}, TypeError, "browser"),
        ({"tools": [{"type": "function"}]}, ValueError, r"tools\[0\].function"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, ValueError, "name"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": 5}}]}, ValueError, "parameters"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, ValueError, "same name"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, ValueError, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": named("nobody")}, ValueError, "nobody"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, TypeError, "allowed_tools"),
        ({"tool_choice": "required"}, ValueError, "tools"),
        ({"tools": TOOLS, "functions": []}, ValueError, "functions"),
        ({"tools": TOOLS, "tool_choice": "auto", "function_call": "auto"}, ValueError, "function_call"),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, ValueError, "response_format"),
        ({"response_format": {"type": "xml"}}, TypeError, "xml"),
        ({"response_format": "json"}, ValueError, "response_format"),
        ({"response_format": {"type": "json_schema"}}, ValueError, "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, ValueError, "schema"),
        ({"response_format": {"type": "json_object"}, "grammar": "root ::= [a]"}, ValueError, "grammar"),
        ({"top_logprobs": 2}, ValueError, "logprobs"),
        ({"logprobs": True, "top_logprobs": 65}, ValueError, "top_logprobs = 65"),
        ({"logprobs": 2}, ValueError, "logprobs"),
        ({"messages": []}, ValueError, "empty"),
        ({"messages": "hello"}, ValueError, "messages"),
        ({"messages": [5]}, ValueError, r"messages\[0\]"),
        ({"messages": [{"content": "x"}]}, ValueError, "role"),
        ({"messages": [{"role": "user"}]}, ValueError, "content"),
        ({"messages": [{"role": "user", "content": 5}]}, ValueError, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, TypeError, "image_url"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, ValueError, "text"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}]}, ValueError, "JSON"),
        ({"chat_template_kwargs": 5}, ValueError, "chat_template_kwargs"),
        ({"parallel": 1}, TypeError, "parallel"),
    ],
    ids=str,
)
def test_refused_chats(chat, settings, error, message):
    with pytest.raises(error, match=message) as raised:
        chat.create_chat_completion(**{"messages": USER, **settings})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"tools": TOOLS}, TypeError, "tools"),
        ({"messages": [*USER, {"role": "tool", "content": "x"}]}, ValueError, "tool"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, TypeError, "enable_thinking"),
    ],
    ids=str,
)
def test_what_a_format_by_name_refuses(plain, settings, error, message):
    with pytest.raises(error, match=message):
        plain.create_chat_completion(**{"messages": USER, **settings})


# --- schemas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_object", "schema": CITIES},
        {"type": "json_schema", "json_schema": {"name": "place", "schema": CITIES, "strict": True}},
    ],
    ids=["json_object", "json_schema"],
)
def test_a_response_format(plain, response_format):
    pytest.importorskip("maskprobe.structured")
    for seed in range(3):
        settings = {"response_format": response_format, "temperature": 1.0, "seed": seed, "max_tokens": 40}
        choice = plain.create_chat_completion(USER, **settings)["choices"][0]
        assert (
            json.loads(choice["message"]["content"])["city"] in ("Rome", "Oslo") and choice["finish_reason"] == "stop"
        )
        chunks = plain.create_chat_completion(USER, stream=True, **settings)
        assert joined(chunks)["content"] == choice["message"]["content"]
    with pytest.raises(ArgumentError):
        plain.create_chat_completion(USER, response_format={"type": "json_object", "schema": {"type": "nonsense"}})
    text = plain.create_chat_completion(USER, response_format={"type": "text"}, max_tokens=2)
    assert text["usage"]["completion_tokens"] == 2


# --- log-probabilities -----------------------------------------------------------------------------------------------

EURO = 'root ::= "a€ä z"'


def test_logprobs_of_parts_of_characters(plain):
    settings = {"grammar": EURO, "max_tokens": 30}
    entries = plain.create_chat_completion(USER, logprobs=True, top_logprobs=2, **settings)["choices"][0]["logprobs"]
    content = entries["content"]
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == "a€ä z"
    assert any(entry["token"].startswith("bytes:\\x") for entry in content)
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0 for entry in content)

    found = plain("x = ", logprobs=2, **settings)["choices"][0]["logprobs"]
    offsets = [offset - len("x = ") for offset in found["text_offset"]]
    assert offsets == sorted(offsets) and offsets[0] == 0 and max(offsets) < len("a€ä z")
    assert all(token in top for token, top in zip(found["tokens"], found["top_logprobs"], strict=True))


def all_of(chunks, name: str) -> list:
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    return [item for part in parts if part is not None for item in part[name]]


@pytest.mark.parametrize("stop", [(), "sys", "import sys\n"], ids=str)
def test_logprobs_of_a_stream_are_those_of_the_whole(plain, stop):
    settings = {"max_tokens": 12, "temperature": 0, "logprobs": 2, "stop": stop}
    whole = plain("import os\n", **settings)["choices"][0]
    chunks = list(plain("import os\n", stream=True, **settings))
    for name, values in whole["logprobs"].items():
        assert all_of(chunks, name) == pytest.approx(values) if name == "token_logprobs" else True
    assert all_of(chunks, "tokens") == whole["logprobs"]["tokens"]
    assert "".join(whole["logprobs"]["tokens"]).startswith(whole["text"])
    assert all(offset < len("import os\n" + whole["text"]) for offset in whole["logprobs"]["text_offset"])


def test_an_echo_in_a_stream(plain):
    settings = {"max_tokens": 4, "temperature": 0, "echo": True, "logprobs": 1}
    whole = plain("import os\n", **settings)["choices"][0]
    chunks = list(plain("import os\n", stream=True, **settings))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]
    assert all_of(chunks, "tokens") == whole["logprobs"]["tokens"]
    assert "".join(whole["logprobs"]["tokens"]) == whole["text"]


# --- for a server ----------------------------------------------------------------------------------------------------


def test_several_answers_to_one_request(plain):
    plan = plain.planner.chat(USER, temperature=1.0, seed=5, max_tokens=8, model="mine")
    answers = [
        ChatAnswer(plan.of_choice(i), plain.model, "unused", index=i, id="chatcmpl-1", created=5) for i in range(3)
    ]
    generations = [plan.of_choice(i).start(plain.engine) for i in range(3)]
    wholes = [
        answer.whole(collect(generation, answer)) for generation, answer in zip(generations, answers, strict=True)
    ]
    assert [whole["choices"][0]["index"] for whole in wholes] == [0, 1, 2]
    assert {(whole["id"], whole["created"], whole["model"]) for whole in wholes} == {("chatcmpl-1", 5, "mine")}
    assert len({whole["choices"][0]["message"]["content"] for whole in wholes}) > 1
    first = plain.create_chat_completion(USER, temperature=1.0, seed=5, max_tokens=8)
    assert first["choices"][0]["message"] == wholes[0]["choices"][0]["message"]


def test_evidence_as_json(plain):
    answer = plain("class Foo:\n", max_tokens=40, temperature=0)
    told = json.loads(json.dumps(evidence(answer.tokens)))
    assert "".join(token["text"] for token in told) == answer["choices"][0]["text"]
    assert {token["from_draft"] for token in told} == {True, False}
    assert all((token["source"] == "model") != token["from_draft"] for token in told)


def test_null_stands_for_the_default(plain):
    names = ("temperature", "top_p", "min_p", "top_k", "max_tokens", "stop", "seed", "frequency_penalty", "logit_bias")
    null, default = plain.planner.chat(USER, **dict.fromkeys(names)), plain.planner.chat(USER, seed=1)
    assert null.sampling.temp == default.sampling.temp == 0.2 and null.max_tokens == default.max_tokens
    assert null.sampling.top_k == default.sampling.top_k and null.stop == default.stop


def test_a_constraint_of_another_model(plain, chat):
    """Whatever else steers the text."""
    structured = pytest.importorskip("maskprobe.structured")
    constraint = structured.JsonSchema(chat.model, CITIES)
    for settings in ({}, {"logits_processor": lambda tokens, scores: scores}):
        with pytest.raises(ArgumentError, match="another Model"):
            plain("x", constraint=constraint, **settings)
        assert json.loads(chat("x", constraint=constraint, **settings)["choices"][0]["text"])


@pytest.mark.parametrize(
    "bos, data, begins",
    [(1, b"<s>", True), (1, b"<t>", False), (1, b"", False), (-1, b"<s>", False)],
    ids=["its bytes", "others", "no bytes", "no such token"],
)
def test_a_text_that_begins_with_bos(bos, data, begins):
    model = SimpleNamespace(info=SimpleNamespace(token_bos=bos), token_bytes=lambda token, special: data)
    assert Model.begins_with_bos(model, "<s>Hello") is begins


def test_alternatives_with_one_text():
    """Of several tokens that are written alike the most likely one counts; the token itself is always there."""
    model = SimpleNamespace(token_bytes=lambda token, special=False: (b"a", b"a", b"b", b"c")[token])
    log = LogprobLog(model, 0)
    log.add(3, -4.0, [(0, -1.0), (2, -2.0), (1, -3.0)])
    (top,) = logprobs_of_completion(log.all())["top_logprobs"]
    assert list(top.items()) == [("a", -1.0), ("b", -2.0), ("c", -4.0)]


def test_seeds_in_turn():
    one, two = Seeds(1), Seeds(1)
    first = [one() for _ in range(5)]
    assert first == [two() for _ in range(5)] and len(set(first)) == 5
    assert Seeds(None)() != Seeds(None)()

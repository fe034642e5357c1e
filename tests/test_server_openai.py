"""The openai client against maskprobe-serve, as a process."""

import asyncio
import json

import numpy as np
import pytest

from serving import N_CTX, chat_model, process

openai = pytest.importorskip("openai", reason="the openai client is not installed")

MESSAGES = [{"role": "user", "content": "Write a function."}]
GREEDY = {"model": "tiny", "temperature": 0}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "maximum": 99, "minimum": 10},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": PERSON}}]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = chat_model(tmp_path_factory.mktemp("openai"))
    with process("-m", f"tiny={path}", "-c", N_CTX) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_completion_is_the_same_whole_and_streamed_and_asynchronously(server, client):
    wanted = {**GREEDY, "prompt": "def add(a, b):", "max_tokens": 24}
    whole = client.completions.create(**wanted)
    assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 24
    streamed = list(client.completions.create(**wanted, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == whole.choices[0].text
    assert streamed[-1].choices == [] and streamed[-1].usage.completion_tokens == 24

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as other:
            many = await asyncio.gather(*(other.completions.create(**wanted) for _ in range(8)))
            stream = await other.completions.create(**wanted, stream=True)
            text = "".join([chunk.choices[0].text async for chunk in stream])
            return {one.choices[0].text for one in many} | {text}

    assert asyncio.run(ask()) == {whole.choices[0].text}


def test_a_chat_streamed_is_the_chat_whole(client):
    wanted = {"model": "tiny", "messages": MESSAGES, "seed": 7, "temperature": 1, "max_completion_tokens": 24}
    whole = client.chat.completions.create(**wanted)
    chunks = list(client.chat.completions.create(**wanted, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_a_stop_string_is_not_in_the_text(client):
    whole = client.completions.create(**GREEDY, prompt="def add(a, b):", max_tokens=40).choices[0].text
    stop = whole[len(whole) // 2 :][:4]
    cut = client.completions.create(**GREEDY, prompt="def add(a, b):", max_tokens=40, stop=[stop]).choices[0]
    assert cut.text == whole[: whole.index(stop)] and cut.finish_reason == "stop"


def test_several_choices_are_those_of_their_seeds(client):
    wanted = {"model": "tiny", "messages": MESSAGES, "temperature": 1, "max_tokens": 16}
    several = client.chat.completions.create(**wanted, seed=40, n=3)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    alone = [client.chat.completions.create(**wanted, seed=40 + i).choices[0].message.content for i in range(3)]
    assert [choice.message.content for choice in several.choices] == alone
    n_prompt = client.chat.completions.create(**wanted).usage.prompt_tokens
    assert several.usage.prompt_tokens == n_prompt
    assert several.usage.total_tokens == n_prompt + several.usage.completion_tokens

    texts = ["", "", ""]
    for chunk in client.chat.completions.create(**wanted, seed=40, n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == alone


def test_several_prompts_are_answered_in_their_order(client):
    prompts = ["import ", "def f(", "class A"]
    several = client.completions.create(**GREEDY, prompt=prompts, max_tokens=6, n=2)
    assert [choice.index for choice in several.choices] == list(range(6))
    alone = [client.completions.create(**GREEDY, prompt=prompt, max_tokens=6).choices[0].text for prompt in prompts]
    assert [choice.text for choice in several.choices[::2]] == alone


def test_a_schema_is_obeyed(client):
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, response_format=wanted, seed=3)
    found = json.loads(answer.choices[0].message.content)
    assert set(found) == {"name", "age"} and 10 <= found["age"] <= 99
    chunks = client.chat.completions.create(
        model="tiny", messages=MESSAGES, response_format=wanted, seed=3, stream=True
    )
    assert json.loads("".join(chunk.choices[0].delta.content or "" for chunk in chunks)) == found


def test_a_forced_tool_is_called(client):
    wanted = {"model": "tiny", "messages": MESSAGES, "tools": TOOLS, "seed": 1}
    choice = {"type": "function", "function": {"name": "look_up"}}
    answer = client.chat.completions.create(**wanted, tool_choice=choice).choices[0]
    assert answer.finish_reason == "tool_calls"
    call = answer.message.tool_calls[0]
    assert call.function.name == "look_up" and set(json.loads(call.function.arguments)) == {"name", "age"}
    arguments = ""
    for chunk in client.chat.completions.create(**wanted, tool_choice=choice, stream=True):
        for piece in chunk.choices[0].delta.tool_calls or []:
            arguments += piece.function.arguments or ""
    assert arguments == call.function.arguments


def test_logprobs_add_up_to_the_text(client):
    chat = client.chat.completions.create(
        **GREEDY, messages=MESSAGES, max_tokens=12, logprobs=True, top_logprobs=3
    ).choices[0]
    assert bytes(byte for token in chat.logprobs.content for byte in token.bytes).decode() == chat.message.content
    assert all(token.logprob == token.top_logprobs[0].logprob for token in chat.logprobs.content)
    text = client.completions.create(**GREEDY, prompt="import os", max_tokens=4, logprobs=2, echo=True).choices[0]
    assert text.text.startswith("import os") and "".join(text.logprobs.tokens) == text.text
    assert text.logprobs.token_logprobs[0] is None or text.logprobs.token_logprobs[0] <= 0


def test_embeddings_have_length_one_in_both_encodings(client):
    texts = ["import numpy as np", "import numpy", "x = 5"]
    floats = client.embeddings.create(model="tiny", input=texts, encoding_format="float")
    rows = np.array([item.embedding for item in floats.data])
    assert rows.shape[0] == 3 and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    packed = np.array([item.embedding for item in client.embeddings.create(model="tiny", input=texts).data])
    assert np.allclose(rows, packed, atol=1e-6)
    assert rows[0] @ rows[1] > rows[0] @ rows[2]
    assert floats.usage.prompt_tokens > 0


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "maskprobe"


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (openai.NotFoundError, {"model": "gpt-4"}),
        (openai.BadRequestError, {"max_tokens": 0}),
        (openai.BadRequestError, {"messages": [{"role": "user", "content": "x " * 2 * N_CTX}]}),
    ],
)
def test_errors_are_those_of_the_client(client, kind, settings):
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": MESSAGES, **settings})
    assert caught.value.body["message"] and caught.value.body["type"]
    if "messages" in settings:
        assert caught.value.code == "context_length_exceeded"


def test_drafting_changes_no_text_and_is_counted(client):
    wanted = {**GREEDY, "messages": MESSAGES, "max_tokens": 32}
    said = [{"draft": what} for what in ("on", "auto", "off", True, False)] + [{"rows": n} for n in (1, 2, 64, "auto")]
    evidence = {"maskprobe": {"evidence": True}}
    answers = [client.chat.completions.create(**wanted, extra_body={**extra, **evidence}) for extra in said]
    assert len({answer.choices[0].message.content for answer in answers}) == 1
    drafted = [answer.usage.completion_tokens_details.draft_tokens for answer in answers]
    assert drafted[2] == drafted[4] == drafted[5] == 0 < min(drafted[0], drafted[3])
    one, two = (answers[i].maskprobe[0]["stats"] for i in (5, 6))
    assert one["rows"] == one["passes"] == 31 and two["rows"] <= 2 * two["passes"]


def test_evidence_comes_with_the_chunks_that_ask_for_it(client):
    extra = {"maskprobe": {"evidence": True}}
    chunks = list(
        client.chat.completions.create(**GREEDY, messages=MESSAGES, max_tokens=16, stream=True, extra_body=extra)
    )
    tokens = [token for chunk in chunks for token in chunk.maskprobe["tokens"]]
    assert "".join(token["text"] for token in tokens) == "".join(c.choices[0].delta.content or "" for c in chunks)
    assert all({"id", "source", "from_draft", "margin", "logprob"} <= token.keys() for token in tokens)
    stats = chunks[-1].maskprobe["stats"]
    assert stats["n_gen"] == len(tokens)
    trees = [chunk.maskprobe["tree"] for chunk in chunks if "tree" in chunk.maskprobe]
    assert trees and len({tree["pass"] for tree in trees}) == len(trees) and trees[-1]["pass"] == stats["passes"]
    for tree in trees:
        parents = [node["parent"] for node in tree["nodes"]]
        assert parents[0] == -1 and all(0 <= parent < i for i, parent in enumerate(parents) if i)
        accepted = [i for i, node in enumerate(tree["nodes"]) if node["accepted"]]
        assert [parents[i] for i in accepted[1:]] == accepted[:-1], "one path"

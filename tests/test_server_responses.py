"""/v1/responses with the openai client, against maskprobe-serve as a process; what it answers is the chat's answer."""

import asyncio
import json

import pytest

from serving import N_CTX, application, chat_model, process

openai = pytest.importorskip("openai", reason="the openai client is not installed")

INPUT = "Write a function."
GREEDY = {"model": "tiny", "temperature": 0, "max_output_tokens": 24}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "maximum": 99, "minimum": 10},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "name": "look_up", "parameters": PERSON, "strict": True}]
BEGINS = ["response.created", "response.in_progress"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = chat_model(tmp_path_factory.mktemp("responses"))
    with process("-m", f"tiny={path}", "-c", N_CTX) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def kinds(events) -> list[str]:
    """The kinds of events in their order, those that repeat once; their numbers count up from 0."""
    assert [event.sequence_number for event in events] == list(range(len(events)))
    found = [event.type for event in events]
    return [kind for i, kind in enumerate(found) if found[i - 1 : i] != [kind]]


def test_a_response_is_the_answer_of_a_chat(client):
    said = client.responses.create(**GREEDY, input=INPUT, instructions="Be short.", metadata={"a": "b"})
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": INPUT}]
    chat = client.chat.completions.create(model="tiny", temperature=0, max_tokens=24, messages=messages)
    assert said.output_text == chat.choices[0].message.content
    assert said.status == "incomplete" and said.incomplete_details.reason == "max_output_tokens"
    assert (said.object, said.model, said.instructions, said.metadata) == ("response", "tiny", "Be short.", {"a": "b"})
    (message,) = said.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "incomplete")
    usage, details = said.usage, said.usage.output_tokens_details
    assert usage.input_tokens == chat.usage.prompt_tokens and usage.output_tokens == 24
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert details.draft_tokens >= details.accepted_tokens > 0 and 0 < details.passes < 23
    plain = client.responses.create(**GREEDY, input=INPUT, instructions="Be short.", extra_body={"rows": 1})
    assert plain.output_text == said.output_text and plain.usage.output_tokens_details.draft_tokens == 0


def test_a_stream_tells_the_same(client):
    whole = client.responses.create(**GREEDY, input=INPUT)
    events = list(client.responses.create(**GREEDY, input=INPUT, stream=True))
    assert kinds(events) == [
        *BEGINS,
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert events[0].response.status == "in_progress" and events[0].response.output == []
    assert events[2].item.content == [] and events[3].part.text == ""
    assert "".join(event.delta for event in events if event.type.endswith(".delta")) == whole.output_text
    last = events[-1].response
    assert last.output_text == whole.output_text == events[-3].part.text and last.id == events[0].response.id
    assert last.usage.output_tokens == 24 and last.usage.output_tokens_details.passes > 0
    assert last.output[0].id == events[2].item.id == events[4].item_id
    with client.responses.stream(**GREEDY, input=INPUT) as stream:  # the client puts the events together itself
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == (
            whole.output_text
        )


def test_asynchronously_and_many_at_a_time(server, client):
    whole = client.responses.create(**GREEDY, input=INPUT).output_text

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as other:
            many = await asyncio.gather(*(other.responses.create(**GREEDY, input=INPUT) for _ in range(4)))
            stream = await other.responses.create(**GREEDY, input=INPUT, stream=True)
            pieces = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            return {one.output_text for one in many} | {"".join(pieces)}

    assert asyncio.run(ask()) == {whole}


def test_a_conversation_goes_on_with_what_came_out(client):
    first = client.responses.create(**GREEDY, input=[{"role": "user", "content": INPUT}])
    again = [{"role": "user", "content": [{"type": "input_text", "text": INPUT}]}, *first.output]
    second = client.responses.create(**GREEDY, input=[*again, {"role": "user", "content": "Another."}])
    messages = [
        {"role": "user", "content": INPUT},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Another."},
    ]
    chat = client.chat.completions.create(model="tiny", temperature=0, max_tokens=24, messages=messages)
    assert second.output_text == chat.choices[0].message.content
    assert second.usage.input_tokens_details.cached_tokens > 0


def test_a_schema_is_obeyed(client):
    form = {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}
    said = client.responses.create(model="tiny", input=INPUT, text={"format": form}, extra_body={"seed": 3})
    found = json.loads(said.output_text)
    assert set(found) == {"name", "age"} and 10 <= found["age"] <= 99
    assert said.status == "completed" and said.output[0].status == "completed" and said.text.format.name == "person"
    free = client.responses.create(**GREEDY, input=INPUT, text={"format": {"type": "json_object"}})
    assert free.output_text.startswith("{")


def test_a_forced_tool_is_called_and_its_output_taken(client):
    wanted = {"model": "tiny", "input": INPUT, "tools": TOOLS, "extra_body": {"seed": 1}}
    choice = {"type": "function", "name": "look_up"}
    said = client.responses.create(**wanted, tool_choice=choice)
    (call,) = said.output
    assert (call.type, call.name, call.status, said.status) == ("function_call", "look_up", "completed", "completed")
    assert set(json.loads(call.arguments)) == {"name", "age"} and call.call_id != call.id
    events = list(client.responses.create(**wanted, tool_choice=choice, stream=True))
    assert kinds(events) == [
        *BEGINS,
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event.delta for event in events if event.type.endswith(".delta")) == call.arguments
    assert events[-1].response.output[0].arguments == events[-2].item.arguments == call.arguments

    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"found": true}'}
    asked = [{"role": "user", "content": INPUT}, *said.output, result]
    after = client.responses.create(**GREEDY, input=asked, tools=TOOLS)
    called = {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    messages = [
        {"role": "user", "content": INPUT},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": call.call_id, "content": '{"found": true}'},
    ]
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": PERSON}}]
    chat = client.chat.completions.create(model="tiny", temperature=0, max_tokens=24, messages=messages, tools=tools)
    assert after.usage.input_tokens == chat.usage.prompt_tokens
    assert after.output_text == chat.choices[0].message.content


def test_errors_are_those_of_the_client(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**GREEDY, input=INPUT, previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id" and "nothing is stored" in caught.value.body["message"]
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**GREEDY, input="x " * 2 * N_CTX)
    assert caught.value.code == "context_length_exceeded"


def test_a_stream_that_fails_says_so_in_an_event_of_its_own():
    with application() as client:
        with client.stream("POST", "/v1/responses", json={"input": INPUT, "stream": True}) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: response.created"
            client.server.stop()
            rest = [line for line in lines if line]
        assert rest[-2] == "event: error"
        error = json.loads(rest[-1].removeprefix("data: "))
        assert error["type"] == "error" and error["message"] == "the server is shutting down"
        assert error["sequence_number"] == sum(line.startswith("event: ") for line in rest)

"""The ollama client against maskprobe-serve, as a process."""

import asyncio
import json

import numpy as np
import pytest

from serving import N_CTX, chat_model, process

ollama = pytest.importorskip("ollama", reason="the ollama client is not installed")

MESSAGES = [{"role": "user", "content": "Write a function."}]
SETTINGS = {"model": "tiny", "options": {"num_predict": 16, "seed": 5, "temperature": 1}}
POINT = {"type": "object", "properties": {"x": {"type": "integer", "maximum": 9, "minimum": 0}}, "required": ["x"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = chat_model(tmp_path_factory.mktemp("ollama"))
    with process("-m", f"tiny={path}", "-c", N_CTX) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    return ollama.Client(host=server.url)


def test_a_chat_streamed_is_the_chat_whole(server, client):
    whole = client.chat(messages=MESSAGES, **SETTINGS)
    assert whole.done and whole.done_reason == "length" and whole.eval_count == 16 and whole.prompt_eval_count > 0
    assert whole.total_duration >= whole.eval_duration > 0
    chunks = list(client.chat(messages=MESSAGES, stream=True, **SETTINGS))
    assert "".join(chunk.message.content for chunk in chunks) == whole.message.content
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]

    async def ask():
        stream = await ollama.AsyncClient(host=server.url).chat(messages=MESSAGES, stream=True, **SETTINGS)
        return "".join([chunk.message.content async for chunk in stream])

    assert asyncio.run(ask()) == whole.message.content


def test_generate_with_and_without_the_template(client):
    settings = {**SETTINGS, "options": {"num_predict": 12, "temperature": 0}}
    raw = client.generate(prompt="def f(", raw=True, **settings)
    assert raw.done and raw.eval_count == 12
    assert "".join(part.response for part in client.generate(prompt="def f(", raw=True, stream=True, **settings)) == (
        raw.response
    )
    in_chat = client.generate(prompt="def f(", system="Be short.", **settings)
    asked = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "def f("}]
    assert in_chat.response == client.chat(messages=asked, **settings).message.content
    assert in_chat.prompt_eval_count > raw.prompt_eval_count
    assert client.generate(prompt="def f(", suffix="return x", **settings).done


def test_rows_and_draft_are_options(client):
    def asked(**options):
        settings = {**SETTINGS, "options": {"num_predict": 16, "temperature": 0, **options}}
        return client.chat(messages=MESSAGES, **settings).message.content

    assert asked(rows=1) == asked(rows=4) == asked(draft="off") == asked()
    with pytest.raises(ollama.ResponseError, match="rows = 65 is out of range: 1 to 64"):
        asked(rows=65)


def test_formats_are_obeyed(client):
    settings = {"model": "tiny", "options": {"seed": 2}}
    assert set(json.loads(client.chat(messages=MESSAGES, format=POINT, **settings).message.content)) == {"x"}
    assert set(json.loads(client.generate(prompt="x", raw=True, format=POINT, **settings).response)) == {"x"}


def test_stop_and_limits(client):
    settings = {"temperature": 0, "num_predict": 40}
    whole = client.generate(model="tiny", prompt="import os", raw=True, options=settings).response
    stop = whole[len(whole) // 2 :][:4]
    cut = client.generate(model="tiny", prompt="import os", raw=True, options={**settings, "stop": [stop]})
    assert cut.response == whole[: whole.index(stop)] and cut.done_reason == "stop"


def test_a_model_is_loaded_and_unloaded_on_request(client):
    assert client.generate(model="tiny").done_reason == "load"
    assert [model.model for model in client.ps().models] == ["tiny"]
    assert client.generate(model="tiny", keep_alive=0).done_reason == "unload"
    assert client.chat(messages=MESSAGES, keep_alive="5m", **SETTINGS).done
    assert [model.model for model in client.ps().models] == ["tiny"]


def test_what_is_known_of_models(client):
    (listed,) = client.list().models
    assert listed.model == "tiny" and listed.size > 0 and listed.digest
    shown = client.show("tiny:latest")
    assert {"completion", "tools", "insert"} <= set(shown.capabilities) and "messages" in shown.template


def test_embeddings(client):
    found = client.embed(model="tiny", input=["import os", "x " * 2 * N_CTX])
    assert np.allclose(np.linalg.norm(found.embeddings, axis=1), 1, atol=1e-5)
    with pytest.raises(ollama.ResponseError, match="context"):
        client.embed(model="tiny", input="x " * 2 * N_CTX, truncate=False)


@pytest.mark.parametrize(
    ("status", "settings"),
    [
        (404, {"model": "llama3"}),
        (400, {"options": {"mirostat": 2}}),
        (400, {"options": {"num_ctx": 10**6}}),
        (400, {"options": {"temperature": -1}}),
        (400, {"keep_alive": "soon"}),
        (400, {"messages": [{"role": "user", "content": "x", "images": [b"123"]}]}),
    ],
)
def test_errors_are_those_of_the_client(client, status, settings):
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat(**{"model": "tiny", "messages": MESSAGES, **settings})
    assert caught.value.status_code == status and caught.value.error

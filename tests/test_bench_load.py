"""bench/serve_load.py: the same requests for every server, in the form that it takes, and what is counted of them."""

import asyncio
import itertools
import json
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import load_requests
import pytest
import serve_load
from load_servers import SERVERS, Server, Setting

from maskprobe import Model

TEXT = '{"a": [1, 2, 3]}'


@pytest.fixture(scope="module")
def texts(tiny_model_path):
    with Model(tiny_model_path("tiny-llama"), kernels="stock") as model:
        yield load_requests.Texts(model)


@pytest.fixture
def server():
    """It takes text only, a schema as json_object only, and does not count. Answers stream in three pieces."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            form = body.get("response_format", {"type": "json_object"})["type"]
            is_text = isinstance(body.get("prompt", ""), str)
            self.send_response(200 if form == "json_object" and is_text else 422)
            self.end_headers()
            for begin in range(0, len(TEXT), 6):
                choice = {"text": TEXT[begin : begin + 6], "finish_reason": None}
                self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
            ends = '{"choices": [{"text": "", "finish_reason": "stop"}]}' if self.path != "/broken" else "[DONE]"
            self.wfile.write(f"data: {ends}\n\n".encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def first(texts, n, form, seed=1):
    return list(itertools.islice(load_requests.requests(texts, seed, form), n))


def test_requests_are_texts_and_the_same_for_the_same_seed(texts):
    form = load_requests.RESPONSE_FORMATS[0]
    requests = first(texts, 300, form)
    assert requests == first(texts, 300, form) != first(texts, 300, form, seed=2)
    kinds = {kind: [r for r in requests if r.kind == kind] for kind in ("greedy", "seeded", "with a schema")}
    assert 100 < len(kinds["greedy"]) < 170 and 100 < len(kinds["seeded"]) < 170
    assert 15 < len(kinds["with a schema"]) < 50
    assert all(request.body["response_format"] == form for request in kinds["with a schema"])
    lengths = [texts.n_tokens(request.body["prompt"]) for request in kinds["greedy"]]
    assert min(lengths) < 150 and 1300 < max(lengths) < 1600
    # Where a server takes no schema all others stay as they are.
    plain = [request for request in requests if request.kind != "with a schema"]
    assert first(texts, len(plain), None) == plain


def test_a_server_is_asked_for_the_form_that_it_takes(texts, server):
    assert load_requests.known_response_format(server) == load_requests.RESPONSE_FORMATS[1]


def test_tokens_are_counted_where_the_server_does_not(texts, server):
    coming = load_requests.requests(texts, 1, load_requests.RESPONSE_FORMATS[1])
    found = asyncio.run(serve_load.run_load(server, coming, texts, 2, 0.3, None))
    n_finished = sum(n for kind, n in found.kinds.items() if kind != "given up")
    assert n_finished == len(found.answers) > 0 and found.errors == []
    assert found.n_tokens == n_finished * texts.n_tokens(TEXT)
    assert asyncio.run(serve_load.differences(server, found.answers[:2], texts)) == 0
    request, _ = found.answers[0]
    assert asyncio.run(serve_load.differences(server, [(request, "another text")], texts)) == 1


def test_a_stream_without_an_end_is_an_error(texts, server):
    async def ask(found):
        async with httpx.AsyncClient(base_url=server) as client:
            request = load_requests.Request("greedy", "/broken", {"prompt": "a"})
            return await serve_load.ask(client, request, texts, found, None)

    found = serve_load.Found()
    assert asyncio.run(ask(found)) is None and found.errors == ["the stream ended before its end"]


def test_our_server_is_started_and_driven(texts, tiny_model_path):
    setting = Setting(str(tiny_model_path("tiny-llama")), n_parallel=2, n_threads=1)
    with Server("maskprobe", sys.executable, setting) as server:
        request = load_requests.Request("greedy", "/v1/completions", {"prompt": "a b", "max_tokens": 4, "stream": True})
        found = asyncio.run(serve_load.run_load(server.url, itertools.repeat(request), texts, 2, 0.5, server.pid))
    assert found.errors == [] and found.answers and found.rss


def test_a_server_that_does_not_start_says_why(monkeypatch):
    monkeypatch.setitem(SERVERS, "maskprobe", lambda setting, port: ["-c", "raise SystemExit('no such model')"])
    with pytest.raises(SystemExit, match="no such model"):
        Server("maskprobe", sys.executable, Setting("none", 1, 1))


def test_middle_and_95():
    waits = [0.01 * i for i in range(101)]
    random.Random(1).shuffle(waits)
    assert serve_load.middle_and_95(serve_load.Found(first_token_s=waits)) == "0.50, 0.95"
    assert serve_load.middle_and_95(serve_load.Found()) == "-"

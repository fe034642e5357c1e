"""Clients that go away, do not read, come when all is full or too late; signals; models that make room."""

import concurrent.futures
import json
import re
import signal
import socket
import threading
import time

import pytest

from mask_files import random_masks, written
from maskprobe import Model
from maskprobe.cli import serve
from serving import ENGINE, N_CTX, Process, application, chat_model, process, until

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
PROMPT = "def f(x):"
ENDLESS = {"prompt": PROMPT, "max_tokens": -1, "ignore_eos": True, "temperature": 1, "draft": "off"}
WIDE = 4096  # a context that takes seconds to fill


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return chat_model(tmp_path_factory.mktemp("limits"))


@pytest.fixture(scope="module")
def server(path):
    with process("-m", f"tiny={path}", "-c", WIDE, "--parallel", 2) as server:
        yield server


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client
        until(lambda: value_of(client, "active") == value_of(client, "queue_length") == 0)


def client_of(server):
    return httpx.Client(base_url=server.url, timeout=60)


def value_of(client, name: str, label: str = "") -> float:
    """A sample of /metrics, summed over its labels."""
    text = client.get("/metrics").text
    found = re.findall(rf"^maskprobe_{name}\{{([^}}]*)\}} (\S+)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in found if label in labels)


def n_with_tokens(client) -> int:
    """Generations that have had some."""
    return sum(run["n_gen"] > 0 for run in client.get("/internal/generations").json()["generations"])


def post_raw(server, route: str, body: dict, buffer: int | None = None) -> socket.socket:
    """A connection on which a request was sent, and nothing is read."""
    data = json.dumps(body).encode()
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.connect(("127.0.0.1", server.port))
    head = f"POST {route} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    connection.sendall(head.encode() + b"\r\n\r\n" + data)
    return connection


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("route", "body"),
    [
        (COMPLETION, ENDLESS),
        (COMPLETION, {**ENDLESS, "n": 3}),
        ("/api/generate", {"prompt": PROMPT, "raw": True, "options": {"temperature": 2, "top_p": 1, "top_k": 0}}),
    ],
)
def test_who_goes_away_is_generated_for_no_longer(server, client, route, body, stream):
    cancelled = value_of(client, "generations_total", "cancelled")
    connection = post_raw(server, route, {**body, "stream": stream})
    until(lambda: n_with_tokens(client) == body.get("n", 1))
    if stream:
        connection.recv(100)
    connection.close()
    until(lambda: value_of(client, "active") == 0, 5)
    assert value_of(client, "generations_total", "cancelled") == cancelled + body.get("n", 1)


def test_who_goes_away_while_he_waits_leaves_the_queue(server, client):
    busy = [post_raw(server, COMPLETION, {**ENDLESS, "n": 8})]
    until(lambda: value_of(client, "active") == 8)
    waiting = post_raw(server, COMPLETION, ENDLESS)
    until(lambda: value_of(client, "queue_length") == 1)
    waiting.close()
    until(lambda: value_of(client, "queue_length") == 0)
    for connection in busy:
        connection.close()


def test_a_slow_reader_delays_nobody_and_gets_all(server, client):
    body = {**ENDLESS, "stream": True, "logprobs": 20, "max_tokens": 1500, "seed": 1}
    slow = post_raw(server, COMPLETION, body, buffer=4096)
    until(lambda: value_of(client, "generations_total", "length") >= 1)  # generated to its end, and nothing was read
    assert value_of(client, "active") == 0
    assert client.post(COMPLETION, json={"prompt": PROMPT, "max_tokens": 8}).status_code == 200
    slow.settimeout(60)
    received = b""
    while not received.endswith(b"0\r\n\r\n"):
        piece = slow.recv(1 << 16)
        assert piece
        received += piece
    slow.close()
    assert b"data: [DONE]" in received and received.count(b'"text_offset"') > 100


def test_a_body_that_does_not_come_holds_nothing_up(server, client):
    connection = socket.create_connection(("127.0.0.1", server.port))
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500"
    connection.sendall(head + b"\r\n\r\n{")
    assert client.post(COMPLETION, json={"prompt": PROMPT, "max_tokens": 2}).status_code == 200
    connection.close()


def test_any_number_of_clients_get_what_each_gets_alone(server, client):
    bodies = [
        {"prompt": f"def f{i}(x):", "max_tokens": 12 + i, "temperature": i % 2, "seed": i, "n": 1 + i % 3}
        for i in range(12)
    ]

    def ask(body):
        return [choice["text"] for choice in client.post(COMPLETION, json=body).json()["choices"]]

    with concurrent.futures.ThreadPoolExecutor(12) as threads:
        together = list(threads.map(ask, bodies))
    assert together == [ask(body) for body in bodies]


def test_embeddings_come_while_all_places_are_taken(server, client):
    alone = client.post("/v1/embeddings", json={"input": PROMPT}).json()["data"][0]["embedding"]
    busy = post_raw(server, COMPLETION, {**ENDLESS, "n": 4, "max_tokens": 400})
    until(lambda: value_of(client, "active") == 4)
    found = client.post("/v1/embeddings", json={"input": [PROMPT] * 4}).json()["data"]
    assert all(item["embedding"] == pytest.approx(alone, abs=1e-4) for item in found)
    busy.close()


def test_a_full_queue_is_said_with_the_time_to_come_again(path):
    with (
        process("-m", f"tiny={path}", "-c", WIDE, "--parallel", 1, "--queue", 1) as server,
        client_of(server) as client,
    ):
        busy = [post_raw(server, COMPLETION, {**ENDLESS, "n": 4})]
        until(lambda: value_of(client, "active") == 4)
        busy.append(post_raw(server, COMPLETION, ENDLESS))
        until(lambda: value_of(client, "queue_length") == 1)
        for stream in (False, True):
            refused = client.post(COMPLETION, json={**ENDLESS, "stream": stream})
            assert refused.status_code == 429 and refused.json()["error"]["code"] == "queue_full"
            assert int(refused.headers["retry-after"]) >= 1
        assert client.post("/api/generate", json={"prompt": "a"}).status_code == 429
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 429
        assert client.post(COMPLETION, json={**ENDLESS, "n": 6}).status_code == 400
        for connection in busy:
            connection.close()
        until(lambda: value_of(client, "active") == 0)
        assert client.post(COMPLETION, json={"prompt": PROMPT, "max_tokens": 2}).status_code == 200


def test_at_the_time_limit_an_answer_ends_with_what_is_there(path):
    with (
        process("-m", f"tiny={path}", "-c", WIDE, "--parallel", 1, "--timeout", "0.7") as server,
        client_of(server) as client,
    ):
        whole = client.post(COMPLETION, json={**ENDLESS, "draft": "off"}).json()
        assert whole["choices"][0]["finish_reason"] == "length"
        assert 0 < whole["usage"]["completion_tokens"] < WIDE - 100
        streamed = client.post(COMPLETION, json={**ENDLESS, "stream": True}).text
        assert '"finish_reason":"length"' in streamed and streamed.endswith("data: [DONE]\n\n")
        busy = post_raw(server, COMPLETION, {**ENDLESS, "n": 4})
        until(lambda: value_of(client, "active") == 4)
        late = client.post(COMPLETION, json=ENDLESS)
        # the others end first, so it may get a place just before its own time is over
        assert late.status_code == 504 or late.json()["choices"][0]["finish_reason"] == "length"
        busy.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_runs_end_and_takes_nothing_new(path, number):
    server = Process("-m", f"tiny={path}", "-c", WIDE, "--drain", 60)
    with client_of(server) as client, concurrent.futures.ThreadPoolExecutor(1) as threads:
        wanted = {**ENDLESS, "max_tokens": 1200}
        answer = threads.submit(client.post, COMPLETION, json=wanted)
        until(lambda: value_of(client, "active") == 1)
        server.process.send_signal(number)
        until(lambda: any("under way" in line for line in server.lines))
        refused = client.post(COMPLETION, json=wanted)
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert refused.json()["error"]["code"] == "shutting_down"
        assert client.get("/health").status_code == 503
        assert answer.result().json()["usage"]["completion_tokens"] == 1200
    assert server.wait() == 0
    assert not any("Traceback" in line or "rror" in line for line in server.lines), server.lines


def test_what_does_not_end_in_time_is_cut_off(path):
    server = Process("-m", f"tiny={path}", "-c", WIDE, "--drain", "0.2")
    with client_of(server) as client, concurrent.futures.ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(client.post, COMPLETION, json={**ENDLESS, "stream": s}) for s in (False, True)]
        until(lambda: value_of(client, "active") == 2)
        server.process.send_signal(signal.SIGTERM)
        whole, streamed = (answer.result() for answer in answers)
        assert whole.status_code == 503 and "shutting down" in whole.json()["error"]["message"]
        assert "shutting down" in streamed.text
    assert server.wait() == 0


def test_a_second_signal_ends_at_once(path):
    server = Process("-m", f"tiny={path}", "-c", WIDE, "--drain", 600)
    with client_of(server) as client:
        busy = post_raw(server, COMPLETION, {**ENDLESS, "n": 8, "stream": True})
        until(lambda: value_of(client, "active") == 8)
        server.process.send_signal(signal.SIGINT)
        until(lambda: any("under way" in line for line in server.lines))
        assert server.end(signal.SIGINT) == 0
        busy.close()


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["-m", "none.gguf"], 1, "none.gguf"),
        (["-m", "a=MODEL", "-m", "a=MODEL"], 2, "comes twice"),
        (["-m", "MODEL", "--parallel", "0"], 2, "-np/--parallel"),
        (["-m", "MODEL", "--timeout", "0"], 2, "--timeout"),
        (["-m", "MODEL", "--api-key", ","], 2, "--api-key"),
        (["-m", "MODEL", "--port", "99999"], 2, "--port"),
        (["-m", "MODEL", "--host", "256.1.1.1"], 1, "256.1.1.1"),
        (["-m", "MODEL", "--port", "0", "-c", "100000000"], 1, "would fit"),
        (["-m", "MODEL", "--what"], 2, "--what"),
        (["-m", "MODEL", "--trained-masks", "no-such-file"], 2, "--trained-masks: there is no file 'no-such-file'"),
        (["-m", "MODEL", "--trained-masks", "MODEL", "--propose", "none"], 2, "--trained-masks: it is for --propose"),
        (["-m", "a=MODEL", "-m", "b=MODEL", "--trained-masks", "MODEL"], 2, "a file is for one model, there are 2"),
        (["-m", "MODEL", "--port", "0", "--trained-masks", "MODEL"], 1, "it is no file of trained masks"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_one_line(path, options, status, says, capsys):
    options = [option.replace("MODEL", str(path)) for option in options]
    try:
        assert serve.main([*options, "-t", "1", "--no-state"]) == status
    except SystemExit as exit:
        assert exit.code == status
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert says in line


def test_trained_masks_change_no_text(path, tmp_path):
    masks = written(tmp_path, random_masks(Model(path, kernels="ours", n_threads=1), path))
    request = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    texts = []
    for options in ((), ("--trained-masks", masks)):
        command = ("-m", path, "-c", N_CTX, "--kernels", "ours", "--rows", 6, *options)
        with process(*command) as server, client_of(server) as client:
            texts.append(client.post(COMPLETION, json=request).json()["choices"][0]["text"])
    assert texts[0] == texts[1] != ""


def test_keys_come_from_all_places(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text("c\n\nd\n")
    monkeypatch.setenv("MASKPROBE_API_KEY", "e")
    parser = serve.setup_arg_parser()
    args = parser.parse_args(["--api-key", "a,b", "--api-key-file", str(file)])
    assert serve.api_keys(args, parser) == ("a", "b", "c", "d", "e")


# --- several models --------------------------------------------------------------------------------------------------


@pytest.fixture
def three(path):
    models = {name: path for name in ("a", "b", "c")}
    with application(models=models, models_max=2, engine_options={**ENGINE, "n_ctx": N_CTX}) as client:
        yield client


def states(client) -> dict[str, str]:
    return {model["name"]: model["state"] for model in client.get("/internal/models").json()["models"]}


def ask(client, model: str, **more):
    return client.post(COMPLETION, json={"model": model, "prompt": PROMPT, "max_tokens": 4, "temperature": 0, **more})


def test_the_model_used_least_recently_makes_room(three):
    assert set(states(three).values()) == {"unloaded"}
    text = ask(three, "a").json()["choices"][0]["text"]
    ask(three, "b")
    ask(three, "a")
    ask(three, "c")
    assert states(three) == {"a": "loaded", "b": "unloaded", "c": "loaded"}
    assert ask(three, "b").json()["choices"][0]["text"] == text
    assert states(three) == {"a": "unloaded", "b": "loaded", "c": "loaded"}


def test_a_model_with_requests_stays_until_they_are_answered(three):
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        wanted = {"max_tokens": 300, "ignore_eos": True, "draft": "off"}
        long = [threads.submit(ask, three, name, **wanted) for name in ("a", "b")]
        until(lambda: sum(model["active"] for model in three.get("/internal/models").json()["models"]) == 2)
        third = threads.submit(ask, three, "c")
        assert [answer.result().json()["usage"]["completion_tokens"] for answer in long] == [300, 300]
        assert third.result().status_code == 200
    assert states(three)["c"] == "loaded"


def test_many_requests_for_many_models_are_all_answered(three):
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda i: ask(three, "abc"[i % 3]), range(18)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["choices"][0]["text"] for answer in answers}) == 1


def test_what_the_page_asks_for(three):
    assert three.get("/").headers["content-type"].startswith("text/html")
    ask(three, "a", max_tokens=20)
    times = three.get("/internal/pass-times?model=a").json()["times"]
    assert [time["rows"] for time in times] == sorted(time["rows"] for time in times) and times[0]["us"] > 0
    assert three.get("/internal/pass-times?model=c").json()["times"] == []

    seen = []
    done = threading.Event()

    def watch():
        while not done.is_set():
            seen.extend(three.get("/internal/generations").json()["generations"])
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    ask(three, "a", max_tokens=400, ignore_eos=True, seed=1, temperature=1)
    done.set()
    watcher.join()
    assert any(run["n_gen"] > 0 for run in seen) and all(run["model"] == "a" for run in seen)
    assert three.get("/internal/generations").json() == {"generations": []}

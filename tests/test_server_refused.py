"""What maskprobe-serve refuses: the status code, one line that says why, in the shape of the client's API."""

import json

import pytest

from serving import N_CTX, application

CHAT, COMPLETION, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSE = "/v1/responses"
OLLAMA_CHAT, OLLAMA_TEXT = "/api/chat", "/api/generate"
MESSAGES = [{"role": "user", "content": "hi"}]
LONG = "x " * 2 * N_CTX

# Route, fields beside those that it needs, status, the field that the error names (None: none).
WRONG_FIELDS = [
    (CHAT, {"messages": None}, 400, "messages"),
    (CHAT, {"messages": []}, 400, "messages"),
    (CHAT, {"messages": "hi"}, 400, "messages"),
    (CHAT, {"messages": ["hi"]}, 400, "messages[0]"),
    (CHAT, {"messages": [{"content": "hi"}]}, 400, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content[0].type"),
    (CHAT, {"messages": [{"role": "user", "content": LONG}]}, 400, None),
    (CHAT, {"messages": [{"role": "user", "content": "a\0b"}]}, 400, None),
    (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, 400, None),
    (CHAT, {"model": "nothing"}, 404, "model"),
    (CHAT, {"model": 5}, 400, "model"),
    (CHAT, {"temperature": -0.5}, 400, "temperature"),
    (CHAT, {"temperature": "hot"}, 400, "temperature"),
    (CHAT, {"temperature": 1e400}, 400, None),
    (CHAT, {"top_p": "x"}, 400, "top_p"),
    (CHAT, {"top_k": 1.5}, 400, "top_k"),
    (CHAT, {"top_k": 2**40}, 400, "top_k"),
    (CHAT, {"seed": -2}, 400, "seed"),
    (CHAT, {"seed": 2**32}, 400, "seed"),
    (CHAT, {"seed": True}, 400, "seed"),
    (CHAT, {"max_tokens": 0}, 400, "max_tokens"),
    (CHAT, {"max_tokens": -5}, 400, "max_tokens"),
    (CHAT, {"max_completion_tokens": "many"}, 400, "max_completion_tokens"),
    (CHAT, {"n": 0}, 400, "n"),
    (CHAT, {"n": 65}, 400, "n"),
    (CHAT, {"stream": "yes"}, 400, "stream"),
    (CHAT, {"stream_options": {"what": 1}}, 400, "stream_options.what"),
    (CHAT, {"stop": [""]}, 400, "stop[0]"),
    (CHAT, {"stop": ["a"] * 65}, 400, "stop"),
    (CHAT, {"stop": 5}, 400, "stop"),
    (CHAT, {"logit_bias": {"a": 1}}, 400, "logit_bias"),
    (CHAT, {"logit_bias": {"99999999": 1}}, 400, None),
    (CHAT, {"top_logprobs": 3}, 400, "top_logprobs"),
    (CHAT, {"logprobs": True, "top_logprobs": 1000}, 400, "top_logprobs"),
    (CHAT, {"logprobs": 3}, 400, "logprobs"),
    (CHAT, {"response_format": "json"}, 400, "response_format"),
    (CHAT, {"response_format": {"type": "xml"}}, 400, "response_format.type"),
    (CHAT, {"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema"),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "hat"}}}}, 400, None),
    (CHAT, {"tools": [{"type": "function"}]}, 400, "tools[0].function"),
    (CHAT, {"tools": [{"type": "web_search"}]}, 400, "tools[0].type"),
    (CHAT, {"tool_choice": "required"}, 400, "tool_choice"),
    (CHAT, {"grammar": "root ::= ["}, 400, None),
    (CHAT, {"grammar": {"a": 1}}, 400, "grammar"),
    (CHAT, {"mirostat_mode": 2}, 400, "mirostat_mode"),
    (CHAT, {"draft": "maybe"}, 400, "draft"),
    (CHAT, {"rows": 0}, 400, "rows"),
    (CHAT, {"rows": 65}, 400, "rows"),
    (CHAT, {"rows": 1.5}, 400, "rows"),
    (CHAT, {"rows": True}, 400, "rows"),
    (COMPLETION, {"rows": "many"}, 400, "rows"),
    (CHAT, {"maskprobe": {"magic": True}}, 400, "maskprobe.magic"),
    (CHAT, {"store": True}, 400, "store"),
    (CHAT, {"parallel_tool_calls": False}, 400, "parallel_tool_calls"),
    (CHAT, {"unheard_of": 1}, 400, "unheard_of"),
    (CHAT, {"chat_template_kwargs": 5}, 400, "chat_template_kwargs"),
    (COMPLETION, {"prompt": None}, 400, "prompt"),
    (COMPLETION, {"prompt": ["a", 5]}, 400, "prompt[1]"),
    (COMPLETION, {"prompt": [5, "a"]}, 400, "prompt[1]"),
    (COMPLETION, {"prompt": [10**9]}, 400, "prompt[0]"),
    (COMPLETION, {"prompt": ["a"] * 65}, 400, "prompt"),
    (COMPLETION, {"prompt": LONG}, 400, None),
    (COMPLETION, {"suffix": 5}, 400, None),
    (COMPLETION, {"best_of": 5}, 400, "best_of"),
    (COMPLETION, {"logprobs": 1000}, 400, "logprobs"),
    (COMPLETION, {"echo": 1}, 400, "echo"),
    (RESPONSE, {"input": None}, 400, "input"),
    (RESPONSE, {"input": []}, 400, "input"),
    (RESPONSE, {"input": 5}, 400, "input"),
    (RESPONSE, {"input": ["hi"]}, 400, "input[0]"),
    (RESPONSE, {"input": [{"content": "hi"}]}, 400, "input[0].role"),
    (RESPONSE, {"input": [{"role": "user"}]}, 400, "input[0].content"),
    (RESPONSE, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, 400, "input[0].content[0].type"),
    (RESPONSE, {"input": [{"role": "user", "content": "hi", "hue": 1}]}, 400, "input[0].hue"),
    (RESPONSE, {"input": [{"type": "reasoning", "summary": []}]}, 400, "input[0].type"),
    (RESPONSE, {"input": [{"type": "function_call", "call_id": "1", "name": "f"}]}, 400, "input[0].arguments"),
    (RESPONSE, {"input": [{"type": "function_call_output", "output": "1"}]}, 400, "input[0].call_id"),
    (RESPONSE, {"input": LONG}, 400, None),
    (RESPONSE, {"model": "nothing"}, 404, "model"),
    (RESPONSE, {"store": True}, 400, "store"),
    (RESPONSE, {"previous_response_id": "resp_1"}, 400, "previous_response_id"),
    (RESPONSE, {"conversation": "conv_1"}, 400, "conversation"),
    (RESPONSE, {"prompt": {"id": "1"}}, 400, "prompt"),
    (RESPONSE, {"background": True}, 400, "background"),
    (RESPONSE, {"include": ["message.output_text.logprobs"]}, 400, "include"),
    (RESPONSE, {"reasoning": {"effort": "low"}}, 400, "reasoning"),
    (RESPONSE, {"truncation": "auto"}, 400, "truncation"),
    (RESPONSE, {"n": 2}, 400, "n"),
    (RESPONSE, {"max_output_tokens": 0}, 400, "max_output_tokens"),
    (RESPONSE, {"max_tokens": 5}, 400, "max_tokens"),
    (RESPONSE, {"temperature": -1}, 400, "temperature"),
    (RESPONSE, {"rows": 0}, 400, "rows"),
    (RESPONSE, {"text": {"format": {"type": "xml"}}}, 400, "text.format.type"),
    (RESPONSE, {"text": {"format": {"type": "json_schema"}}}, 400, "text.format.schema"),
    (RESPONSE, {"text": {"format": {"type": "json_schema", "schema": {"type": "hat"}}}}, 400, None),
    (RESPONSE, {"text": {"verbosity": "low"}}, 400, "text.verbosity"),
    (RESPONSE, {"tools": [{"type": "web_search"}]}, 400, "tools[0].type"),
    (RESPONSE, {"tools": [{"type": "function"}]}, 400, "tools[0].name"),
    (RESPONSE, {"tools": [{"type": "function", "name": "f", "defer": True}]}, 400, "tools[0].defer"),
    (RESPONSE, {"tool_choice": {"type": "web_search"}}, 400, "tool_choice.type"),
    (RESPONSE, {"tool_choice": "required"}, 400, "tool_choice"),
    (RESPONSE, {"unheard_of": 1}, 400, "unheard_of"),
    (EMBED, {"input": None}, 400, "input"),
    (EMBED, {"input": []}, 400, "input"),
    (EMBED, {"input": LONG}, 400, None),
    (EMBED, {"input": ["a", 5]}, 400, "input[1]"),
    (EMBED, {"input": [-1]}, 400, "input[0]"),
    (EMBED, {"dimensions": 3}, 400, "dimensions"),
    (EMBED, {"encoding_format": "hex"}, 400, "encoding_format"),
    ("/tokenize", {"content": 5}, 400, "content"),
    ("/detokenize", {"tokens": [10**9]}, 400, "tokens[0]"),
    ("/detokenize", {"tokens": "5"}, 400, "tokens"),
    (OLLAMA_CHAT, {"format": "xml"}, 400, "format"),
    (OLLAMA_CHAT, {"think": True}, 400, "think"),
    (OLLAMA_CHAT, {"options": {"num_gpu": 3}}, 400, "options.num_gpu"),
    (OLLAMA_CHAT, {"options": {"num_predict": "x"}}, 400, "options.num_predict"),
    (OLLAMA_CHAT, {"rows": 65}, 400, "rows"),
    (OLLAMA_CHAT, {"options": {"rows": 65}}, 400, "rows"),
    (OLLAMA_CHAT, {"options": {"draft": "maybe"}}, 400, "options.draft"),
    (OLLAMA_CHAT, {"rows": 2, "options": {"rows": 2}}, 400, "options.rows"),
    (OLLAMA_CHAT, {"model": "nothing"}, 404, "nothing"),
    (OLLAMA_TEXT, {"template": "x"}, 400, "template"),
    (OLLAMA_TEXT, {"raw": True, "system": "x"}, 400, "system"),
    (OLLAMA_TEXT, {"images": ["x"]}, 400, "images"),
    (OLLAMA_TEXT, {"keep_alive": "1 year"}, 400, "keep_alive"),
    (OLLAMA_TEXT, {"keep_alive": 10**400}, 400, "keep_alive"),
    (CHAT, {"temperature": 10**400}, 400, "temperature"),
    (CHAT, {"logit_bias": {"1": 10**400}}, 400, "logit_bias"),
    ("/api/embed", {"options": {"seed": 1}}, 400, "options.seed"),
    ("/api/show", {"model": "nothing"}, 404, "nothing"),
]
NEEDED = {
    CHAT: {"messages": MESSAGES, "max_tokens": 4},
    COMPLETION: {"prompt": "a", "max_tokens": 4},
    RESPONSE: {"input": "a", "max_output_tokens": 4},
    EMBED: {"input": "a"},
    OLLAMA_CHAT: {"messages": MESSAGES},
    OLLAMA_TEXT: {"prompt": "a"},
    "/api/embed": {"input": "a"},
}


@pytest.fixture(scope="module")
def client():
    with application(max_body=100_000) as client:
        yield client


def message_of(answer) -> str:
    """The error's one line, of either shape."""
    error = answer.json()["error"]
    if isinstance(error, dict):
        assert set(error) == {"message", "type", "param", "code"}
        error = error["message"]
    assert error and "\n" not in error and "Traceback" not in error
    return error


@pytest.mark.parametrize(("route", "fields", "status", "named"), WRONG_FIELDS)
@pytest.mark.parametrize("stream", [False, True])
def test_wrong_fields_are_named(client, route, fields, status, named, stream):
    body = {**NEEDED.get(route, {}), **fields}
    if route in (CHAT, COMPLETION, RESPONSE, OLLAMA_CHAT, OLLAMA_TEXT):
        body.setdefault("stream", stream)
    answer = client.post(route, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    message = message_of(answer)
    if named is not None:
        assert named in message
    if LONG in json.dumps(fields) and route.startswith("/v1"):
        assert answer.json()["error"]["code"] == "context_length_exceeded"
    if named is not None and status == 400 and route.startswith("/v1"):
        assert answer.json()["error"]["param"] == named


@pytest.mark.parametrize(
    ("method", "route", "settings", "status"),
    [
        ("GET", CHAT, {}, 405),
        ("DELETE", "/v1/models", {}, 405),
        ("GET", OLLAMA_CHAT, {}, 405),
        ("POST", "/", {"json": {}}, 405),
        ("GET", "/v1/nothing", {}, 404),
        ("GET", "/api/nothing", {}, 404),
        ("GET", "/v1/models/nothing", {}, 404),
        ("GET", "/internal/generations/nothing", {}, 404),
        ("GET", "/internal/pass-times?model=nothing", {}, 404),
        ("GET", "/../app.py", {}, 404),
        ("POST", CHAT, {"content": b"{}", "headers": {"content-type": "text/plain"}}, 415),
        ("POST", CHAT, {"content": b"{}"}, 415),
        ("POST", OLLAMA_CHAT, {"data": {"a": "b"}}, 415),
        ("POST", CHAT, {"content": b"{", "headers": {"content-type": "application/json"}}, 400),
        ("POST", CHAT, {"content": b"", "headers": {"content-type": "application/json"}}, 400),
        ("POST", CHAT, {"content": b"\xff", "headers": {"content-type": "application/json"}}, 400),
        ("POST", CHAT, {"content": b"[]", "headers": {"content-type": "application/json"}}, 400),
        ("POST", CHAT, {"content": b'{"n": NaN}', "headers": {"content-type": "application/json"}}, 400),
        ("POST", CHAT, {"content": b'{"\\ud800": 1}', "headers": {"content-type": "application/json"}}, 400),
        ("POST", CHAT, {"content": b"[" * 50_000, "headers": {"content-type": "application/json"}}, 400),
        (
            "POST",
            CHAT,
            {"content": b'{"n":' + b"9" * 5_000 + b"}", "headers": {"content-type": "application/json"}},
            400,
        ),
        ("POST", CHAT, {"content": b" " * 100_001, "headers": {"content-type": "application/json"}}, 413),
        ("POST", CHAT, {"content": iter([b" " * 60_000] * 2), "headers": {"content-type": "application/json"}}, 413),
    ],
)
def test_what_is_wrong_with_a_request_before_its_fields(client, method, route, settings, status):
    answer = client.request(method, route, **settings)
    assert answer.status_code == status, answer.text
    message_of(answer)
    if status == 405:
        assert answer.headers["allow"]


def test_numbers_that_no_sampler_can_use_fail_no_server(client):
    for name in ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repeat_penalty"):
        for value in (-1e308, -1, 0, 1e-45, 1e38, 1e308):
            answer = client.post(COMPLETION, json={"prompt": "a", "max_tokens": 2, name: value})
            assert answer.status_code in (200, 400), (name, value, answer.text)
    for bias in (-1e308, 1e308, 1e38, -1e38):
        answer = client.post(COMPLETION, json={"prompt": "a", "max_tokens": 2, "logit_bias": {"5": bias}})
        assert answer.status_code in (200, 400), (bias, answer.text)


def test_keys_are_wanted_and_compared():
    with application(api_keys=("first", "second")) as client:
        body = {"prompt": "a", "max_tokens": 1}
        for headers, status in [
            ({}, 401),
            ({"authorization": "Bearer wrong"}, 401),
            ({"authorization": "Basic first"}, 401),
            ({"authorization": "first"}, 401),
            ({"x-api-key": "firs"}, 401),
            ({"authorization": "Bearer first"}, 200),
            ({"authorization": "bearer second"}, 200),
            ({"x-api-key": "second"}, 200),
        ]:
            for answer in (
                client.post(COMPLETION, json=body, headers=headers),
                client.get("/metrics", headers=headers),
            ):
                assert answer.status_code == status, headers
                if status == 401:
                    message_of(answer)
                    assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/health").status_code == 200 and client.get("/").status_code == 200
        assert client.get("/api/tags").json() == {
            "error": "the API key is missing: Authorization: Bearer KEY, or x-api-key"
        }


def test_pages_of_other_origins_may_ask_only_where_that_was_said():
    asks = {"origin": "https://a.example", "access-control-request-method": "POST"}
    with application() as client:
        answer = client.options(CHAT, headers=asks)
        assert answer.status_code == 405 and "access-control-allow-origin" not in answer.headers
        assert (
            "access-control-allow-origin" not in client.get("/health", headers={"origin": "https://a.example"}).headers
        )
    with application(cors=("https://a.example",), api_keys=("key",)) as client:
        assert client.options(CHAT, headers=asks).headers["access-control-allow-origin"] == "https://a.example"
        refused = client.post(CHAT, json={}, headers={"origin": "https://a.example"})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://a.example"
        other = client.options(CHAT, headers={**asks, "origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


def test_a_name_that_was_pointed_here_is_refused():
    with application(only_local_hosts=True) as client:
        for host, status in [
            ("localhost:8080", 200),
            ("127.0.0.1", 200),
            ("[::1]:8080", 200),
            ("evil.example", 403),
            ("evil.example:8080", 403),
            ("127.0.0.1.evil.example", 403),
        ]:
            assert client.get("/v1/models", headers={"host": host}).status_code == status, host


def test_a_model_that_cannot_be_loaded_is_unavailable(tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(100))
    with application(models={"bad": bad, "missing": tmp_path / "none.gguf"}) as client:
        for name in ("bad", "missing", "bad"):
            for route, body in [
                (CHAT, {"messages": MESSAGES}),
                ("/tokenize", {"content": "a"}),
                (EMBED, {"input": "a"}),
            ]:
                answer = client.post(route, json={**body, "model": name})
                assert answer.status_code == 503 and name in message_of(answer)
        states = {model["name"]: model["state"] for model in client.get("/internal/models").json()["models"]}
        assert states == {"bad": "failed", "missing": "failed"}
        assert client.get("/health").status_code == 200

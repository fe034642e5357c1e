"""maskprobe-run, maskprobe-chat and maskprobe-serve with the model in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from chat_models import PLAIN_TEMPLATE, with_metadata
from maskprobe import ModelProcess, set_verbose
from maskprobe.cli import build, chat, run
from maskprobe.cli.chat_turn import Chat
from maskprobe.server import models

TIMEOUT_S = 60
SAME = ("-t", 1, "-c", 256, "--no-state", "-n", 24, "--temp", 0.8, "--seed", 3)
IN_CHILD = """
import sys
from maskprobe.cli import build, run
from maskprobe import ModelProcess
build.model_opened = ModelProcess
sys.exit(run.main())
"""


@pytest.fixture
def in_child(monkeypatch):
    monkeypatch.setattr(build, "model_opened", ModelProcess)


def until(is_so):
    end = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def outcome(command, arguments, capfd):
    """Exit status, standard output, standard error of a command in this process."""
    try:
        status = command.main([*map(str, arguments)])
    except SystemExit as ended:
        status = ended.code
    return status, *capfd.readouterr()


@pytest.mark.parametrize("options", [(), ("--regex", "[ab]{4}(c|d)", "--compare")])
def test_a_run_has_the_same_output(options, bundled_model_path, monkeypatch, tmp_path, capfd):
    found = []
    for patched in (False, True):
        with monkeypatch.context() as patch:
            if patched:
                patch.setattr(build, "model_opened", ModelProcess)
            stats = tmp_path / f"{patched}.json"
            arguments = (*SAME, "-m", bundled_model_path, "-p", "def one():", *options, "--stats-json", stats)
            status, out, _ = outcome(run, arguments, capfd)
            known = json.loads(stats.read_text())
            assert known["compare"]["identical"] if options else known["n_gen"] == 24
            found.append((status, out, known["tokens"], known["finish_reason"], known["kernels"]))
    assert found[0] == found[1] and found[0][0] == 0


def test_a_run_whose_model_dies_ends_with_one_line(in_child, bundled_model_path, monkeypatch, capfd):
    def die(generation):
        yield next(generation)
        generation._child.kill("was ended by hand")
        yield from generation

    monkeypatch.setattr(run, "with_bar", die)
    status, out, said = outcome(run, (*SAME, "-m", bundled_model_path, "-p", "def one():", "-n", 200), capfd)
    assert status == 1 and out
    assert said == (
        "maskprobe-run: error: the process of the engine was ended by hand; its generation ended with it; "
        "the next one starts it again\n"
    )


def test_what_a_child_cannot_do_names_its_option(in_child, bundled_model_path, capfd):
    arguments = ("-t", 1, "-m", bundled_model_path, "-p", "x", "--propose", "esp")
    status, _, said = outcome(run, arguments, capfd)
    assert status == 2
    assert "argument --propose: a proposer of Python, (MaskProbe), cannot run in the engine's process" in said


def test_ctrl_c_ends_the_answer_and_no_more(bundled_model_path):
    arguments = [*map(str, (*SAME, "-m", bundled_model_path, "-p", "def one():", "--ignore-eos", "-n", 10**6))]
    arguments[arguments.index("-c") + 1] = "2048"
    done = subprocess.Popen(
        [sys.executable, "-c", IN_CHILD, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with done:
        assert done.stdout.read(1)
        os.killpg(done.pid, signal.SIGINT)  # as a terminal does
        _, errors = done.communicate(timeout=TIMEOUT_S)
    assert done.returncode == 0
    assert re.search(r"^finished: +interrupted$", errors.decode(), re.MULTILINE) and b"error" not in errors


def test_a_chat_goes_on(in_child, bundled_model_path, tmp_path, monkeypatch, capfd):
    model = with_metadata(bundled_model_path, tmp_path / "talks.gguf", tokenizer__chat_template=PLAIN_TEMPLATE)
    show, turns = Chat._show, []

    def shown(self, generation, pieces):
        turns.append(self.engine.model.pid)
        if len(turns) == 2:
            next(generation)
            os.kill(self.engine.model.pid, signal.SIGKILL)
        show(self, generation, pieces)

    monkeypatch.setattr(Chat, "_show", shown)
    said = tmp_path / "said"
    said.write_text("one\ntwo\nthree\n")
    with said.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        status, _, errors = outcome(chat, (*SAME, "-m", model, "--ignore-eos", "-n", 100), capfd)
    assert status == 1 and len(turns) == 3 and turns[0] == turns[1] != turns[2]
    lines = [line for line in errors.splitlines() if "error" in line or "again" in line]
    assert len(lines) == 2
    assert "error: the process of the engine was ended by SIGKILL; its generation ended with it" in lines[0]
    assert lines[1] == "maskprobe-chat: the model is loaded again"


def test_ctrl_c_ends_the_loading_of_a_dead_model(in_child, bundled_model_path, tmp_path, monkeypatch, capfd):
    """It comes while the second answer waits for the new process."""
    model = with_metadata(bundled_model_path, tmp_path / "talks.gguf", tokenizer__chat_template=PLAIN_TEMPLATE)
    generate, turns = Chat._generate, []

    def generated(self, tokens):
        turns.append(self.engine.model.pid)
        if len(turns) == 2:
            os.kill(turns[0], signal.SIGKILL)
            until(lambda: self.engine.model.pid is None)
            signal.raise_signal(signal.SIGINT)
        return generate(self, tokens)

    monkeypatch.setattr(Chat, "_generate", generated)
    said = tmp_path / "said"
    said.write_text("one\ntwo\nthree\n")
    with said.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        _, _, errors = outcome(chat, (*SAME, "-m", model, "-n", 4), capfd)
    assert len(turns) == 3 and turns[2] is None
    lines = [line for line in errors.splitlines() if "error" in line or "again" in line]
    assert len(lines) == 3 and lines[0] == lines[2] == "maskprobe-chat: the model is loaded again"
    assert re.search(r"error: loading '.*talks.gguf' was cancelled$", lines[1])


def test_llama_cpp_is_heard_where_it_is_asked_for(in_child, bundled_model_path, capfd):
    arguments = (*SAME, "-m", bundled_model_path, "-p", "x", "-n", 1)
    try:
        heard = ["n_ctx_seq" in outcome(run, (*arguments, *more), capfd)[2] for more in ((), ("-v",))]
    finally:
        set_verbose(False)
    assert heard == [False, True]  # it is of the context, which is in the child alone


# --- the server ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clients():
    """Of servers with and without a child."""
    from serving import application

    options = {"model_options": {"n_threads": 1}}
    with application(**options) as there, application(**options) as here:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(models, "open_model", ModelProcess)
            texts(there)  # loads it
        yield there, here


def request(**settings):
    return {"model": "tiny", "prompt": "def one():", "max_tokens": 20, "temperature": 0.7, "seed": 4, **settings}


def texts(client, **settings):
    answer = client.post("/v1/completions", json=request(**settings))
    assert answer.status_code == 200, answer.text
    return [(choice["text"], choice["finish_reason"]) for choice in answer.json()["choices"]]


def test_a_server_gives_the_same_answers(clients):
    there, here = clients
    rules = {"type": "json_schema", "json_schema": {"schema": {"enum": ["a", "bc"]}}}
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "response_format": rules, "seed": 1}
    for settings in ({}, {"n": 3}, {"prompt": ["a", "b"]}, {"stop": ["\n"]}, {"draft": False}, {"logprobs": 2}):
        assert texts(there, **settings) == texts(here, **settings)
    for path, body in (("/v1/chat/completions", chat), ("/v1/embeddings", {"model": "tiny", "input": "some text"})):
        of_there, of_here = (client.post(path, json=body).json() for client in clients)
        assert of_there.get("choices") == of_here.get("choices") and of_there.get("data") == of_here.get("data")
    assert there.get("/internal/pass-times").json()["times"][0]["us"] > 0
    refused = there.post("/v1/completions", json=request(echo=True, logprobs=1))
    assert refused.status_code == 400 and "not in this process" in refused.json()["error"]["message"]


def kill_when_it_writes(client):
    """On a thread: ends the engine's process as soon as every running answer has a token."""
    server = client.server
    pid = server.models.entries["tiny"].loaded.model.pid

    def work():
        until(lambda: server.running and all(run.stats.n_gen > 2 for run in list(server.running.values())))
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_is_told_and_the_next_one_works(clients, stream):
    there, here = clients
    texts(there)  # there is a child
    killer = kill_when_it_writes(there)
    answer = there.post("/v1/completions", json=request(stream=stream, max_tokens=400, ignore_eos=True))
    killer.join()
    said = "the process of the engine was ended by SIGKILL; its generation ended with it; the next one starts it again"
    if stream:
        assert answer.status_code == 200
        events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        *chunks, last = [json.loads(event) for event in events if event != "[DONE]"]
        assert chunks and all("error" not in chunk for chunk in chunks)
    else:
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
        last = answer.json()
    assert last["error"]["message"] == said and last["error"]["code"] == "engine_lost"
    assert texts(there) == texts(here)
    assert there.get("/health").status_code == 200

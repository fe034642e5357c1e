"""Children that load models, and how they and their parents end."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from engine_processes import ENGINE, PROMPTS, SOON_S, is_gone, prompt, tokens, until
from maskprobe import ArgumentError, Cancelled, Engine, EngineLost, EngineProcess, Model, ModelError, ModelProcess
from maskprobe.hosts import child_process
from maskprobe.hosts.keep_alive import COUNT, IDLE_OPTION, IDLE_S, keep_connections_alive
from maskprobe.hosts.messages import portable

CODE = "import os, signal, sys, time\nfrom maskprobe import *\npath = sys.argv[1]\n"


@pytest.fixture(scope="module")
def here(bundled_model_path):
    with Model(bundled_model_path, n_threads=1) as model, Engine(model, **ENGINE) as engine:
        yield engine


@pytest.fixture(scope="module")
def there(bundled_model_path):
    with ModelProcess(bundled_model_path, n_threads=1) as model, EngineProcess(model, **ENGINE) as engine:
        yield engine


def program(code, path, **settings):
    return subprocess.Popen(
        [sys.executable, "-c", CODE + code, str(path)], stdout=subprocess.PIPE, text=True, **settings
    )


ABORTING = """
import ctypes, glob, os, llama_cpp, maskprobe.hosts.child as child
def Model(*_, **__):
    [base] = glob.glob(os.path.join(os.path.dirname(llama_cpp.__file__), "lib", "libggml-base.*"))[:1]
    ctypes.CDLL(base).ggml_abort(b"/build/tree/ggml-rpc.cpp", 354, b"the worker has %s", b"gone")
child.Model = Model
"""


def with_code(monkeypatch, code):
    """Children run it before they begin."""
    start = child_process.START.replace("main(", f"exec({code!r}); main(")
    monkeypatch.setattr(child_process, "START", start)


def test_a_child_that_aborts_while_it_loads(bundled_model_path, there, here, monkeypatch):
    said = (
        r"the process of the engine was ended by SIGABRT while it loaded \S+\.gguf: "
        r"ggml-rpc.cpp:354: the worker has gone"
    )
    made, start = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: made.append(start(*a, **k)) or made[-1])
    with monkeypatch.context() as patch:
        with_code(patch, ABORTING)
        with pytest.raises(EngineLost, match=said):
            ModelProcess(bundled_model_path)
        assert len(made) == 1
        os.kill(there.model.pid, signal.SIGKILL)
        until(lambda: there.model.pid is None)
        failures = []

        def ask():
            try:
                there.generate(prompt(there))
            except EngineLost as error:
                failures.append(str(error))

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(failures) == 6 and all(re.fullmatch(said, failure) for failure in failures)
        assert len(made) <= 1 + 2  # who came while one was tried shares its failure
    assert all(process.poll() is not None for process in made)
    assert tokens(there) == tokens(here)


def test_closing_does_not_wait_for_a_model_that_cannot_be_loaded(bundled_model_path, monkeypatch):
    model = ModelProcess(bundled_model_path, n_threads=1)
    engine = EngineProcess(model, **ENGINE)
    os.kill(model.pid, signal.SIGKILL)
    until(lambda: model.pid is None)
    with_code(monkeypatch, "import maskprobe.hosts.child as child, time; child.Model = lambda *_, **__: time.sleep(60)")
    failures = []

    def ask():
        try:
            engine.generate(prompt(engine))
        except Cancelled as error:
            failures.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: model._keeper._memory.pointer._starting.locked())
    engine.close()
    model.close()
    thread.join()
    assert len(failures) == 1 and "was cancelled" in failures[0]


def test_what_is_wrong_with_a_model_is_said_as_ever(bundled_model_path, tmp_path):
    with pytest.raises(ModelError, match="No such file"):
        ModelProcess(tmp_path / "none.gguf")
    with pytest.raises(ModelError, match=r"none\.lora"):
        ModelProcess(bundled_model_path, loras=[tmp_path / "none.lora"])
    with pytest.raises(ArgumentError, match="kernels"):
        ModelProcess(bundled_model_path, kernels="nonsense")
    with ModelProcess(bundled_model_path, n_threads=1) as model:
        with pytest.raises(ArgumentError, match="rows"):
            EngineProcess(model, rows="nonsense")
        with EngineProcess(model, **ENGINE) as engine:
            assert tokens(engine)
        with EngineProcess(model, **ENGINE) as engine:  # one after another
            assert tokens(engine)


def test_loading_tells_how_far_it_is_and_can_be_stopped(bundled_model_path):
    told = []
    ModelProcess(bundled_model_path, n_threads=1, progress=told.append).close()
    assert told == sorted(told) and told[0] == 0.0
    with pytest.raises(Cancelled, match="cancelled"):
        ModelProcess(bundled_model_path, progress=lambda fraction: False)


def test_a_vocabulary_alone(here, bundled_model_path):
    with Model(bundled_model_path, vocab_only=True) as model:
        assert [model.tokenize(text) for text in PROMPTS] == [here.model.tokenize(text) for text in PROMPTS]
        assert model.end_tokens == here.model.end_tokens and model.info.n_vocab == here.model.info.n_vocab
        assert {k: model.metadata(k) for k in model.metadata_keys()} == {
            k: here.model.metadata(k) for k in here.model.metadata_keys()
        }
        with pytest.raises(ModelError):
            model.embedding_rows([1])


# --- processes -------------------------------------------------------------------------------------------------------

OPENED = """
model = ModelProcess(path, n_threads=1)
engine = EngineProcess(model, n_ctx=512, n_threads=1)
generation = engine.generate(model.tokenize("import os"), SamplingParams(temp=0.0), max_tokens=400, ignore_eos=True)
next(generation)
"""


@pytest.mark.parametrize("forks", [False, True])
def test_a_child_ends_with_its_parent(bundled_model_path, forks):
    code = OPENED + f"print(model.pid, os.fork() or time.sleep(60) if {forks} else 0, flush=True)\ntime.sleep(60)"
    with program(code, bundled_model_path) as parent:
        pid, forked = map(int, parent.stdout.readline().split())
        assert not is_gone(pid)
        parent.kill()
        try:
            until(lambda: is_gone(pid))
        finally:
            if forked:  # it holds the parent's end of the pair, and of the pipe
                os.kill(forked, signal.SIGKILL)


def test_a_program_that_closes_nothing_ends(bundled_model_path):
    with program(OPENED + "print(model.pid)", bundled_model_path, stderr=subprocess.PIPE) as parent:
        out, errors = parent.communicate(timeout=SOON_S)
    assert (parent.returncode, errors) == (0, "")
    assert is_gone(int(out))


def test_nothing_is_left_to_be_waited_for(bundled_model_path):
    code = """
os.kill(model.pid, signal.SIGKILL)
try:
    list(generation)
except EngineLost:
    list(engine.generate([1, 2], max_tokens=2))
engine.close(); model.close()
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("none")
"""
    with program(OPENED + code, bundled_model_path) as parent:
        assert parent.communicate(timeout=SOON_S)[0] == "none\n"


def test_ctrl_c_is_for_the_parent(bundled_model_path):
    code = """
generation.close()
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print([r.token for r in engine.generate(model.tokenize("import os"), max_tokens=3)] != [], flush=True)
"""
    with program(OPENED + code, bundled_model_path, start_new_session=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.communicate(timeout=SOON_S)[0] == "True\n"


def test_a_forked_child_of_the_parent_is_refused(bundled_model_path):
    code = """
if (pid := os.fork()) == 0:
    for call in (lambda: next(generation), lambda: engine.generate([1]), lambda: engine.embed([1])):
        try:
            call()
        except StateError as error:
            print("forked" in str(error), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(len(list(generation)), flush=True)
"""
    with program(OPENED + code, bundled_model_path) as parent:
        assert parent.communicate(timeout=SOON_S)[0] == "True\nTrue\nTrue\n399\n"


def test_connections_are_looked_after():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        other, _ = server.accept()
        with other:
            assert keep_connections_alive() >= 2
            for connection in (client, other):
                assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert connection.getsockopt(socket.IPPROTO_TCP, IDLE_OPTION) == IDLE_S
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == COUNT
            assert not server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_any_error_can_be_told():
    class Odd(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} and {two}")

    known = ModelError("no", "file")
    assert portable(known) is known
    assert str(portable(Odd(1, 2))) == "Odd: 1 and 2"

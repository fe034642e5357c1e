"""A model on hosts whose workers die: its generations end with one error, the next ones work when a host is back."""

import contextlib
import signal
import time

import pytest
from local_worker import free_port, worker_process

import rpc_workers
from conftest import EXACT
from contexts import text_of
from maskprobe import EngineLost, Llama, ModelError, SamplingParams
from maskprobe.hosts import child_process
from maskprobe.hosts.opening import open_engine, open_model

GREEDY = SamplingParams(temp=0.0)
N_TIMES = 10
LIMIT_S = 10.0
PROMPT = text_of(12, 3) * 3
SETTINGS = {"n_ctx": 512, **EXACT}


@pytest.fixture(scope="module", autouse=True)
def backend(tmp_path_factory):
    if reason := rpc_workers.problem(tmp_path_factory.mktemp("rpc")):
        pytest.skip(reason)


def generated(engine, n=48):
    return [result.token for result in engine.generate(PROMPT, GREEDY, max_tokens=n, ignore_eos=True)]


def test_a_worker_that_is_killed_ten_times(tiny_model_path):
    path = tiny_model_path("tiny-llama")
    with (
        open_model(path, kernels="stock", n_threads=1) as model,
        open_engine(model, **SETTINGS) as engine,
    ):
        expected = generated(engine)
    ports = [free_port() for _ in range(2)]
    hosts = [f"127.0.0.1:{port}" for port in ports]
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as first:
        first.enter_context(worker_process(ports[0]))
        second = stack.enter_context(contextlib.ExitStack())
        second.enter_context(worker_process(ports[1]))
        with (
            open_model(path, rpc=hosts, tensor_split=[1, 1], n_threads=1) as model,
            open_engine(model, **SETTINGS) as engine,
        ):
            assert all(host in model.info.placement for host in hosts)
            for i in range(N_TIMES):
                assert generated(engine) == expected
                workers = (first, second)[i % 2]
                generation = engine.generate(PROMPT, GREEDY, max_tokens=400, ignore_eos=True)
                next(generation)
                workers.close()  # SIGKILL
                started = time.monotonic()
                with pytest.raises(EngineLost, match=r"process of the engine was ended by SIGABRT: .*; its generation"):
                    list(generation)
                assert time.monotonic() - started < LIMIT_S
                if i == 0:  # nobody is there: the next one says so, and nothing hangs
                    with pytest.raises(ModelError, match=f"no RPC worker answers at {hosts[i % 2]}"):
                        engine.generate(PROMPT, GREEDY)
                workers.enter_context(worker_process(ports[i % 2]))
            assert generated(engine) == expected


def test_a_llama_goes_on(bundled_model_path):
    port = free_port()
    with contextlib.ExitStack() as workers:
        workers.enter_context(worker_process(port))
        settings = {"n_ctx": 256, "n_threads": 1, "n_gpu_layers": -1, "rpc_servers": f"127.0.0.1:{port}"}
        with Llama(bundled_model_path, verbose=False, **settings) as llama:
            text = llama("def add(a, b):", max_tokens=16, temperature=0)["choices"][0]["text"]
            workers.close()
            with pytest.raises(EngineLost):
                llama("def add(a, b):", max_tokens=16, temperature=0)
            workers.enter_context(worker_process(port))
            assert llama("def add(a, b):", max_tokens=16, temperature=0)["choices"][0]["text"] == text


def test_a_worker_that_hangs_holds_nobody(tiny_model_path, monkeypatch):
    monkeypatch.setattr(child_process, "HANG_S", 1.0)
    port = free_port()
    with (
        worker_process(port) as process,
        open_model(tiny_model_path("tiny-llama"), rpc=[f"127.0.0.1:{port}"], n_threads=1) as model,
        open_engine(model, **SETTINGS) as engine,
    ):
        expected = generated(engine)
        generation = engine.generate(PROMPT, GREEDY, max_tokens=400, ignore_eos=True)
        next(generation)
        process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        try:
            generation.cancel()
            assert list(generation)[-1].finish_reason == "cancelled"
            assert time.monotonic() - started < LIMIT_S
        finally:
            process.send_signal(signal.SIGCONT)
        monkeypatch.undo()
        assert generated(engine) == expected

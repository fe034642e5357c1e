"""Layers on other hosts: two workers of ggml's RPC on this machine compute what one process computes, and hosts that
are none are refused in one line."""

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
from delay_proxy import DelayProxy
from local_worker import worker as local_worker

import rpc_workers
from conftest import EXACT, SHARED
from contexts import random_tree, rows_of, star, text_of
from hybrids import chain, paths_in
from maskprobe import ArgumentError, Engine, Llama, Model, ModelError, SamplingParams, Session
from maskprobe.cli import bench, run, worker
from test_lora import adapter_of, write

SETTINGS = {"n_ctx": 256, "n_rows_max": 32, **EXACT}
GREEDY, SAMPLED = SamplingParams(temp=0.0), SamplingParams(temp=0.8, seed=5)
ARCHITECTURES = ["tiny-llama", "tiny-qwen3", "tiny-gemma3", "tiny-qwen3moe", "tiny-gpt-oss", "tiny-granite"]
REPEATS = text_of(12, 3) * 3


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    """Of two workers."""
    before = os.environ.get("GGML_BACKEND_PATH")
    if reason := rpc_workers.problem(tmp_path_factory.mktemp("rpc")):
        pytest.skip(reason)
    with local_worker() as first, local_worker() as second:
        yield first, second
    if before is None:
        os.environ.pop("GGML_BACKEND_PATH", None)


@pytest.fixture(scope="module")
def hosts(ports):
    return [f"127.0.0.1:{port}" for port in ports]


@pytest.fixture
def opened(hosts):
    """opened(path): the model in this process, and on the hosts."""
    with contextlib.ExitStack() as stack:

        def both(path, **settings) -> tuple[Model, Model]:
            settings = {"kernels": "stock", "n_threads": 1, **settings}
            return (
                stack.enter_context(Model(path, **settings)),
                stack.enter_context(Model(path, rpc=hosts, tensor_split=[1, 1], **settings)),
            )

        yield both


def generated(engine: Engine, sampling=GREEDY, n: int = 48, prompt=REPEATS, **settings) -> list[int]:
    generation = engine.generate(prompt, sampling, max_tokens=n, ignore_eos=True, **settings)
    return [result.token for result in generation]


# --- as in one process -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ARCHITECTURES)
def test_trees_masks_and_hidden_states(opened, tiny_model_path, shape):
    random = np.random.default_rng(4)
    here, there = opened(tiny_model_path(shape))
    assert (there.info.kernels, there.info.can_tree) == ("llama.cpp", True)
    assert there.info.can_probe == here.info.can_probe
    n_layer = here.info.n_layer
    with Session(here, **SETTINGS, taps=True) as one, Session(there, **SETTINGS, taps=True) as other:
        for n_rows in (1, 7, 32):
            tree = random_tree(random, n_rows, here.info.n_embd)
            for session in (one, other):
                session.tap([0, n_layer])
                session.set_prefix(text_of(40, 1))
                session.decode(tree, 1)
            assert np.array_equal(rows_of(one, tree), rows_of(other, tree))
            for layer in (0, n_layer):
                states = [[session.hidden(row, layer) for row in range(tree.n_rows)] for session in (one, other)]
                assert np.array_equal(*states)
            for session in (one, other):
                session.commit([0])


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_generations(opened, tiny_model_path, sampling):
    here, there = opened(tiny_model_path("tiny-llama"))
    settings = {"n_ctx": 512, "rows": 8, **EXACT}
    with Engine(here, **settings) as one, Engine(there, **settings) as other:
        plain = generated(one, sampling, draft=False)
        assert generated(other, sampling, draft=False) == plain
        assert generated(other, sampling) == generated(one, sampling) == plain


def test_shared_passes(opened, tiny_model_path):
    here, there = opened(tiny_model_path("tiny-llama"))
    jobs = [(text_of(8, seed) * 2, GREEDY if seed % 2 else SAMPLED) for seed in range(4)]
    with Engine(here, n_ctx=256, **{**SHARED, "flash_attn": 1}) as engine:
        alone = [generated(engine, sampling, 24, prompt) for prompt, sampling in jobs]
    with Engine(there, n_ctx=256, n_parallel=4, **SHARED) as engine:
        under_way = [engine.generate(prompt, sampling, max_tokens=24, ignore_eos=True) for prompt, sampling in jobs]
        together = [[token] for token in (next(generation).token for generation in under_way)]
        for generation, tokens in zip(under_way, together, strict=True):
            tokens += [result.token for result in generation]
    # ggml's flash attention rounds by the order of the cells: a near tie of these flat logits may go the other way.
    same = sum(ours == theirs for ours, theirs in zip(together, alone, strict=True))
    assert same >= 3


def test_chains_of_a_recurrent_state(opened, tmp_path):
    here, there = opened(paths_in(tmp_path)("qwen35"))
    assert there.info.max_chain == here.info.max_chain > 0
    with Session(here, **SETTINGS) as one, Session(there, **SETTINGS) as other:
        for length, n_kept in ((5, 3), (8, 8), (1, 1)):
            tree = chain(text_of(length, length))
            for session in (one, other):
                session.decode(tree, 1)
            assert np.array_equal(rows_of(one, tree), rows_of(other, tree))
            for session in (one, other):
                session.commit(list(range(n_kept)))


def test_adapters_lie_with_their_layers(opened, tiny_model_path, tmp_path):
    path = tiny_model_path("tiny-llama")
    here, there = opened(path, loras=[write(tmp_path, adapter_of(path))])
    with (
        Model(path, kernels="stock", n_threads=1) as without,
        Session(without, **SETTINGS) as plain,
        Session(here, **SETTINGS) as one,
        Session(there, **SETTINGS) as other,
    ):
        tree = star(5)
        for session in (plain, one, other):
            session.decode(tree, 1)
        assert np.array_equal(rows_of(one, tree), rows_of(other, tree))
        assert not np.array_equal(rows_of(one, tree), rows_of(plain, tree))


# --- what lies where -------------------------------------------------------------------------------------------------


def test_layers_lie_as_they_are_split(hosts, tiny_model_path):
    path = tiny_model_path("tiny-llama", layers=6)
    first, second = hosts
    for split, n_gpu_layers, placement in (
        ([1, 1], -1, f"layers 0-3 at {first}, 4-5 and the output at {second}"),
        ([1, 6], -1, f"layers 0 at {first}, 1-5 and the output at {second}"),
        ([1, 0], -1, f"layers 0-5 and the output at {first}"),
        ([1, 1], 4, f"layers 0-2 at this machine, 3-4 at {first}, 5 and the output at {second}"),
    ):
        with Model(path, rpc=hosts, tensor_split=split, n_gpu_layers=n_gpu_layers, n_threads=1) as model:
            assert model.info.placement == placement
            assert model.info.kernels_reason == "layers lie on other hosts"
    with Model(path, n_threads=1) as model:
        assert model.info.placement == ""


def test_models_share_a_worker_and_leave_it(hosts, tiny_model_path):
    path = tiny_model_path("tiny-llama")
    for _ in range(2):  # a worker serves one program at a time: the first one must be gone
        with (
            Model(path, rpc=hosts[:1], n_threads=1) as one,
            Model(path, rpc=hosts, n_threads=1) as other,
            Engine(one, n_ctx=256, **EXACT) as a,
            Engine(other, n_ctx=256, **EXACT) as b,
        ):
            assert generated(a, n=8) == generated(b, n=8)
    command = [sys.executable, "-m", "maskprobe.cli.run", "-m", path, "--rpc", ",".join(hosts), "-p", "a", "-n", "1"]
    assert subprocess.run([*command, "--no-state"], capture_output=True, timeout=60).returncode == 0


def test_the_command_says_where_layers_lie(hosts, bundled_model_path, capfd):
    command = [
        "-m",
        str(bundled_model_path),
        "-p",
        "def add(a, b):",
        "-n",
        "24",
        "--temp",
        "0",
        "-t",
        "1",
        "--no-state",
    ]
    assert run.main([*command, "--kernels", "stock"]) == 0
    plain = capfd.readouterr().out
    assert run.main([*command, "--rpc", ",".join(hosts), "-ts", "1,1"]) == 0
    drafted, said = capfd.readouterr()
    assert drafted == plain
    assert re.search(rf"maskprobe-run: layers 0-\d+ at {hosts[0]}, \S+ and the output at {hosts[1]}\n", said)


@pytest.mark.parametrize("command", ["cost --rows 1,4 -r 1 -d 8", "run -n 8 --limit 1"])
def test_the_bench_measures_over_hosts(hosts, bundled_model_path, capfd, command):
    command = [*command.split(), "-m", str(bundled_model_path), "--kernels", "auto", "-o", "json"]
    assert bench.main([*command, "--rpc", ",".join(hosts), "-ts", "1,1"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert rows and {row["kernels"] for row in rows} == {"stock"}


def test_llama_takes_rpc_servers(hosts, bundled_model_path):
    settings = {"n_gpu_layers": -1, "n_ctx": 256, "n_threads": 1, "verbose": False, "seed": 1}
    with Llama(bundled_model_path, kernels="stock", **settings) as llama:
        plain = llama("def add(a, b):", max_tokens=16)["choices"][0]["text"]
    with Llama(bundled_model_path, rpc_servers=",".join(hosts), **settings) as llama:
        assert hosts[0] in llama.model.info.placement
        assert llama("def add(a, b):", max_tokens=16)["choices"][0]["text"] == plain


# --- over a slow network ---------------------------------------------------------------------------------------------


@pytest.fixture
def far(ports):
    """far(ms): proxies before the workers that add so much to each round trip."""
    with contextlib.ExitStack() as stack:
        yield lambda ms: [stack.enter_context(DelayProxy(("127.0.0.1", port), ms / 1000)) for port in ports]


def hosts_of(proxies) -> list[str]:
    return [f"127.0.0.1:{proxy.port}" for proxy in proxies]


def test_a_pass_waits_for_each_host_once(far, tiny_model_path):
    proxies = far(0)
    path = tiny_model_path("tiny-llama")
    with (
        Model(path, rpc=hosts_of(proxies), tensor_split=[1, 1], n_threads=1) as model,
        Session(model, **SETTINGS) as session,
    ):
        session.set_prefix(text_of(20, 1))
        session.decode(star(5), 1)  # ggml asks for the sizes of a new number of rows
        before = [proxy.n_round_trips for proxy in proxies]
        for _ in range(3):
            session.decode(star(5), 1)
        assert [proxy.n_round_trips - n for proxy, n in zip(proxies, before, strict=True)] == [3, 3]


def test_the_planner_drafts_more_where_a_pass_has_a_latency(far, bundled_model_path):
    proxies = far(0)
    with Model(bundled_model_path, rpc=hosts_of(proxies), tensor_split=[1, 1], n_threads=1) as model:
        first, second = (model.tokenize(text) for text in ("def add(a, b):\n", "class Stack:\n    def push("))
        found = {}
        for ms in (0, 40):
            for proxy in proxies:
                proxy.delay_s = ms / 2000
            with Engine(model, n_ctx=512, n_threads=1) as engine:
                for prompt in (first, second):  # with the first it learns what passes take
                    generation = engine.generate(prompt, GREEDY, max_tokens=80, ignore_eos=True)
                    list(generation)
                found[ms] = generation.stats
    assert found[40].tokens == found[0].tokens
    assert found[40].rows_per_pass > 1.5 * found[0].rows_per_pass
    assert found[40].passes <= found[0].passes


# --- hosts that are none ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def listener(answer: bytes | None):
    """A port where `answer` comes and the connection ends; None: nothing comes."""
    with socket.create_server(("127.0.0.1", 0)) as place:

        def serve() -> None:
            while True:
                try:
                    client, _ = place.accept()
                except OSError:
                    return
                if answer is not None:
                    with client:
                        client.recv(64)
                        client.sendall(answer)
                else:
                    waiting.append(client)

        waiting: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        yield place.getsockname()[1]
        place.shutdown(socket.SHUT_RDWR)


def hello(size: int, *version: int) -> bytes:
    return struct.pack("<Q", size) + bytes(version).ljust(size, b"\0")


@pytest.mark.parametrize(
    "answer, error",
    [
        (b"", "what answers at 127.0.0.1:{} is no RPC worker, or one of a much older llama.cpp"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what answers at 127.0.0.1:{} is no RPC worker"),
        (hello(28, 6, 0, 0), "speaks version 6.0.0, this llama.cpp 7.0.0: run the same llama.cpp on both"),
        (hello(28, 7, 9, 0), "speaks version 7.9.0"),
        (hello(3, 3, 0, 1), "speaks version 3.0.1"),
        (hello(28, 7)[:12], "what answers at 127.0.0.1:{} is no RPC worker"),
        (None, "127.0.0.1:{} takes connections, but said nothing for 5 seconds"),
    ],
)
def test_what_is_no_worker_is_refused(ports, tiny_model_path, answer, error):
    with listener(answer) as port, pytest.raises(ModelError, match=re.escape(error.format(port))):
        Model(tiny_model_path("tiny-llama"), rpc=[f"127.0.0.1:{port}"])


def test_a_worker_that_serves_another_program_is_refused(hosts, tiny_model_path):
    path = tiny_model_path("tiny-llama")
    program = f"import maskprobe; m = maskprobe.Model({str(path)!r}, rpc={hosts!r}); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(ModelError, match="its RPC worker serves another program"):
            Model(path, rpc=hosts)
        other.stdin.close()
    with Model(path, rpc=hosts) as model:
        assert model.info.placement


@pytest.mark.parametrize(
    "rpc, kind, error",
    [
        (["127.0.0.1:1"], ModelError, r"no RPC worker answers at 127.0.0.1:1 \(Connection refused\)"),
        (["no-such-host.invalid:1"], ModelError, "the RPC host 'no-such-host.invalid' cannot be found: "),
        (["127.0.0.1"], ArgumentError, "the RPC host '127.0.0.1' must be a name or an IPv4 address and a port"),
        (["127.0.0.1:0"], ArgumentError, "must be a name or an IPv4 address and a port"),
        (["127.0.0.1:65536"], ArgumentError, "must be a name or an IPv4 address and a port"),
        (["[::1]:50052"], ArgumentError, "must be a name or an IPv4 address and a port"),
        ([":50052"], ArgumentError, "must be a name or an IPv4 address and a port"),
        (["127.0.0.1:7", "127.0.0.1:7"], ArgumentError, "the RPC host '127.0.0.1:7' comes twice"),
        ("127.0.0.1:7", ArgumentError, r'must be a list of hosts, as \["192.168.1.2:50052"\]'),
        (["a:1,b:2"], ArgumentError, "must be a list of hosts"),
    ],
)
def test_bad_hosts(ports, tiny_model_path, rpc, kind, error):
    with pytest.raises(kind, match=error):
        Model(tiny_model_path("tiny-llama"), rpc=rpc)


def test_bad_splits(hosts, tiny_model_path):
    path = tiny_model_path("tiny-llama")
    for settings, error in (
        ({"tensor_split": [1, -1]}, "the share -1 of device 1 must be a number from 0"),
        ({"tensor_split": [float("nan")]}, "the share nan of device 0"),
        ({"tensor_split": [1] * 17}, "17 shares of devices are more than the 16 devices that there can be"),
        ({"tensor_split": ["a"]}, "tensor_split = .* must be a list of numbers"),
        ({"n_gpu_layers": 0}, "n_gpu_layers = 0 leaves no layer to the RPC hosts"),
    ):
        with pytest.raises(ArgumentError, match=error):
            Model(path, rpc=hosts, **settings)


@pytest.mark.parametrize(
    "option, error",
    [
        (["--rpc", "127.0.0.1"], "argument --rpc: must be HOST:PORT with commas between them"),
        (["--rpc", "a:1,"], "argument --rpc: must be HOST:PORT"),
        (["-ts", "1,x"], "argument -ts/--tensor-split: must be a number"),
        (["-ts", "0,0"], "argument -ts/--tensor-split: must be numbers with commas between them, not all 0"),
    ],
)
def test_options_are_checked(capfd, option, error):
    with pytest.raises(SystemExit) as left:
        run.main(["-p", "a", *option])
    assert left.value.code == 2
    assert error in capfd.readouterr().err


def test_without_the_backend_a_line_says_how_to_get_it(tiny_model_path):
    if rpc_workers.IS_BUILT_IN:
        pytest.skip("llama-cpp-python has it")
    program = f"import maskprobe; maskprobe.Model({str(tiny_model_path('tiny-llama'))!r}, rpc=['127.0.0.1:1'])"
    for name, error in (("", 'install it again with CMAKE_ARGS="-DGGML_RPC=on"'), (__file__, "cannot be loaded: ")):
        environment = {**os.environ, "GGML_BACKEND_PATH": name}
        found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        assert error in found.stderr.splitlines()[-1]


def test_a_worker_refuses_where_it_cannot_listen(ports, capfd):
    for arguments, status, error in (
        (["-p", str(ports[0])], 1, f"a worker cannot listen at 127.0.0.1:{ports[0]}: Address already in use"),
        (["-H", "192.0.2.1", "-p", "50999"], 1, "a worker cannot listen at 192.0.2.1:50999: Cannot assign"),
        (["-H", "localhost"], 2, "argument -H/--host: a worker listens at an IPv4 address"),
        (["-c", "/no/such/folder"], 2, "argument -c/--cache: there is no directory"),
    ):
        command = [sys.executable, "-m", worker.__name__, *arguments]
        found = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert found.returncode == status
        assert error in found.stderr
        if "192.0.2.1" in arguments:
            assert "whoever reaches 192.0.2.1:50999 can use and read this process" in found.stderr

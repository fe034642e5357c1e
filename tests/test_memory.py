"""What --memory says against what a process takes, and what happens where something does not fit."""

import resource
import subprocess
import sys

import pytest

import cli_process
import cxx
from maskprobe import ArgumentError, Model
from maskprobe.memory import memory_needed

MIB = 1 << 20
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and /proc are Linux's")

# A prompt that fills a graph, and a text after it: of the buffers nothing is left untouched but spare rows of logits.
TAKES = """
import sys
from maskprobe import Engine, Model
from maskprobe.memory import memory_needed
def resident():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmRSS"))
n_ctx, kernels = int(sys.argv[2]), sys.argv[3]
found = memory_needed(sys.argv[1], model_options={"kernels": kernels}, n_ctx=n_ctx, n_threads=1)
before = resident()
with Model(sys.argv[1], kernels=kernels, n_threads=1) as model:
    assert kernels == "stock" or model.info.packed_size == found.packed, (model.info.packed_size, found.packed)
    with Engine(model, n_ctx=n_ctx, n_threads=1) as engine:
        assert engine.context.n_ctx == found.n_ctx
        for _ in engine.generate([3 + i % 200 for i in range(600)], max_tokens=8, ignore_eos=True):
            pass
        print(resident() - before, found.total, found.cache)
"""


F32 = ("-ctk", "f32", "-ctv", "f32")


def limited(which, n_bytes):
    return lambda: resource.setrlimit(which, (n_bytes, n_bytes))


@pytest.mark.parametrize("kernels", ["auto", "stock"])
def test_figures_are_those_of_a_process(tiny_model_path, kernels):
    """The sum is an upper bound, of which buffers are missing as far as no row has needed them yet. 16 MiB are Python's
    and code that ran for the first time."""
    path = tiny_model_path("tiny-llama", weight_type="q8_0", layers=8, width=768, head_dim=192, kv_heads=4, ffn=3072)
    command = [sys.executable, "-c", TAKES, path, "8192", kernels]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    taken, said, cache = map(int, done.stdout.split())
    assert cache == 8192 * 8 * 2 * 4 * 192 * 2  # tokens, layers, keys and values, heads, their width, bytes
    assert 0.8 * said < taken < said + 16 * MIB


def test_a_larger_context_and_more_sessions_are_counted(bundled_model_path):
    small, large, many = (
        memory_needed(bundled_model_path, n_ctx=256 * n, n_parallel=p) for n, p in ((1, 1), (4, 1), (1, 4))
    )
    assert small.cache * 4 == large.cache == many.cache
    assert (small.n_ctx, large.n_ctx, many.n_ctx) == (256, 1024, 256)
    assert not (small.problem or large.problem or many.problem)
    assert small.total == sum((small.mapped, small.packed, small.cache, small.compute, small.logits, small.tables))


def test_arguments_are_refused_as_when_it_is_opened(bundled_model_path):
    with pytest.raises(ArgumentError, match="n_ctx = -1"):
        memory_needed(bundled_model_path, n_ctx=-1)


@pytest.mark.parametrize("program", ["run", "chat", "serve"])
def test_commands_print_the_figures(bundled_model_path, program):
    if program == "serve":
        pytest.importorskip("uvicorn")
    command = [sys.executable, "-m", f"maskprobe.cli.{program}", "--memory", "-m", bundled_model_path, "-c", "512"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert "weights, packed or read" in done.stdout and "512 tokens" in done.stdout and "it fits" in done.stdout
    assert done.stderr == ""


def test_a_context_that_was_asked_for_and_does_not_fit_is_refused_before_loading(tiny_model_path):
    path = tiny_model_path("tiny-llama", n_ctx=1 << 20)
    limit = limited(resource.RLIMIT_DATA, 300 * MIB)
    done = cli_process.command("-m", path, "-c", 1 << 20, *F32, "-p", "x", "-n", 1, preexec_fn=limit)
    assert done.returncode == 1
    line = cli_process.one_error_line(done.stderr)
    for part in (path.name, "MiB are needed", "ulimit -d", "n_ctx = ", "would fit"):
        assert part in line


def test_a_context_that_was_not_asked_for_is_made_to_fit(tiny_model_path):
    path = tiny_model_path("tiny-llama", n_ctx=1 << 20)
    limit = limited(resource.RLIMIT_DATA, 300 * MIB)
    done = cli_process.command("-m", path, *F32, "-p", "x", "-n", 1, preexec_fn=limit)
    assert done.returncode == 0, done.stderr.decode()


def test_limits_of_control_groups(tmp_path):
    target = tmp_path / "memory_room_checks"
    made = cxx.build(target, ["tests/memory_room_checks.cpp", "csrc/platform/memory_room.cpp"])
    done = subprocess.run([*made, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_kernels_stay_ours_where_there_is_room(bundled_model_path):
    with Model(bundled_model_path, n_threads=1) as model:
        assert model.info.packed_size == memory_needed(bundled_model_path).packed > 0

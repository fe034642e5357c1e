"""What loading with maskprobe's kernels leaves in memory, and that it packs the same from wherever the weights come."""

import json
import subprocess
import sys

import numpy as np
import pytest

from conftest import N_THREADS, PROJECT
from maskprobe import Model, Session, TokenTree

MIB = 1 << 20


def bench_load(*arguments):
    command = [sys.executable, str(PROJECT / "bench" / "load.py"), *map(str, arguments), "-t", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mapped pages are given back on Linux only")
def test_the_file_is_not_in_memory_twice(tiny_model_path):
    """What a small file of the same layers takes at its peak is not the weights of a large one."""
    sizes = {"layers": 4, "width": 1024, "heads": 16, "head_dim": 64, "ffn": 4096, "weight_type": "q8_0"}
    large = tiny_model_path("tiny-llama", **sizes)
    small = tiny_model_path("tiny-llama", **{**sizes, "ffn": 64})
    assert large.stat().st_size > 50 * MIB + small.stat().st_size
    peaks = [json.loads(bench_load(path, "--once", "ours"))["loaded"] for path in (small, large)]
    weights = large.stat().st_size - small.stat().st_size
    assert 0.5 * weights < peaks[1] - peaks[0] < 1.15 * weights + 4 * MIB


def test_the_bench_prints_a_table(tiny_model_path):
    path = tiny_model_path("tiny-llama", weight_type="q8_0")
    rows = [line.split(" | ") for line in bench_load(path, "-r", "1").splitlines()]
    assert [row[2] for row in rows[2:]] == ["stock", "ours"] and {len(row) for row in rows[2:]} == {9}
    assert rows[2][4] == "1.00" and float(rows[3][4]) > 0


@pytest.mark.parametrize("weight_type", ["q4_0", "q4_k", "f16"])
def test_weights_are_the_same_from_wherever_they_come(tiny_model_path, weight_type):
    """Mapped, read, locked, checked; several times in one process, the mapping of one load being gone in the next."""
    sizes = {"width": 512, "heads": 8, "head_dim": 64, "ffn": 2048, "vocab": 1021}
    path = tiny_model_path("tiny-llama", weight_type=weight_type, **sizes)
    ways = (
        {},
        {"use_mmap": False},
        {"use_mlock": True},
        {"check_tensors": True},
        {"use_mmap": False, "use_mlock": True},
    )
    logits = []
    for way in (*ways, *ways):
        with Model(path, kernels="ours", n_threads=N_THREADS, **way) as model:
            assert model.info.packed_size > 0.5 * model.info.size
            session = Session(model, n_ctx=256, n_threads=N_THREADS)
            session.set_prefix([5, 9, 20, 7])
            session.decode(TokenTree(31))
            logits.append(session.logits(0))
            session.close()
    for other in logits[1:]:
        np.testing.assert_array_equal(other, logits[0])

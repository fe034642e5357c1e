"""maskprobe's own CPU kernels inside llama.cpp: another rounding, and the same one for any number of rows."""

import json

import numpy as np
import pytest

from conftest import N_THREADS
from maskprobe import Model, Session, TokenTree
from maskprobe.cli import bench

N_CTX = 256
PROMPT = [5, 9, 20, 7, 31, 44]


@pytest.fixture(scope="module", params=["q8_0", "q4_0"])
def models(request, tiny_model_path):
    """The same file with llama.cpp's kernels and with ours."""
    path = tiny_model_path("tiny-llama", weight_type=request.param)
    ours = Model(path, use_kernels=True, n_threads=N_THREADS)
    assert ours.info.kernels != "llama.cpp"
    return Model(path, n_threads=N_THREADS), ours


def open_session(model, n_threads=N_THREADS):
    return Session(model, n_ctx=N_CTX, n_rows_max=64, n_threads=n_threads)


def wide_tree(n_rows):
    tree = TokenTree(8)
    for i in range(n_rows - 1):
        tree.add(0, 10 + i, 0.0)
    return tree


def rows_of_one_pass(session, tree):
    session.set_prefix(PROMPT)
    session.decode(tree, 2)
    return [session.logits(row) for row in range(tree.n_rows)]


def test_logits_are_those_of_llama_cpp(models):
    stock, ours = (rows_of_one_pass(open_session(model), wide_tree(9)) for model in models)
    for a, b in zip(stock, ours, strict=True):
        assert np.abs(a - b).max() < 0.1 * a.std()
        assert np.corrcoef(a, b)[0, 1] > 0.999


def test_a_row_is_the_same_in_any_pass(models):
    """Bit for bit: the root alone, with 1 to 40 candidates beside it, and with one thread or two."""
    _, ours = models
    session = open_session(ours)
    alone = rows_of_one_pass(session, wide_tree(1))[0]
    for n_rows in (2, 3, 7, 8, 9, 16, 17, 33, 41):
        np.testing.assert_array_equal(rows_of_one_pass(session, wide_tree(n_rows))[0], alone)
    two_threads = open_session(ours, n_threads=2)
    np.testing.assert_array_equal(rows_of_one_pass(two_threads, wide_tree(17))[0], alone)


def test_both_kinds_of_model_live_in_one_process(tiny_model_path):
    path = tiny_model_path("tiny-llama", weight_type="q8_0")
    before = rows_of_one_pass(open_session(Model(path)), wide_tree(4))
    with Model(path, use_kernels=True) as ours:
        open_session(ours).decode(wide_tree(4))
    after = rows_of_one_pass(open_session(Model(path)), wide_tree(4))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("kernels", ["stock", "ours"])
def test_the_bench_command_times_both(tiny_model_path, capfd, kernels):
    path = tiny_model_path("tiny-llama", weight_type="q8_0")
    assert bench.main(["cost", "-m", str(path), "--rows", "1,4", "-r", "2", "-t", "1", "-o", "json", "-d", "8"]) == 0
    points = [p for p in json.loads(capfd.readouterr().out) if p["kernels"] == kernels]
    assert [p["n_rows"] for p in points] == [1, 4]
    assert all(len(p["samples_ns"]) == 2 and p["avg_ns"] > 0 and p["n_depth"] == 8 for p in points)
    assert bench.main(["cost", "-m", str(path), "--rows", "1,2", "-r", "1", "-t", "1", "--kernels", kernels]) == 0
    assert f"| {kernels} | 2 |" in capfd.readouterr().out

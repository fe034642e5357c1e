"""maskprobe's own CPU kernels inside llama.cpp: another rounding, and the same one for any number of rows."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from conftest import N_THREADS, PROJECT
from maskprobe import ArgumentError, Model, Session, TokenTree
from maskprobe.cli import bench
from maskprobe.model import measure_machine

N_CTX = 256
PROMPT = [5, 9, 20, 7, 31, 44]


@pytest.fixture(scope="module", params=["q8_0", "q4_0", "f16", "f32"])
def models(request, tiny_model_path):
    """The same file with llama.cpp's kernels and with ours."""
    path = tiny_model_path("tiny-llama", weight_type=request.param)
    ours = Model(path, kernels="ours", n_threads=N_THREADS)
    assert ours.info.kernels != "llama.cpp"
    return Model(path, kernels="stock", n_threads=N_THREADS), ours


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


@pytest.mark.parametrize("weight_type", ["q8_0", "q4_0", "q4_k", "f16"])
def test_rows_of_weights_need_not_fill_a_group(tiny_model_path, weight_type):
    """A vocabulary of any size: the head of 509 rows is computed with ours, and no logit is left out."""
    sizes = {"width": 256, "heads": 8, "head_dim": 32, "ffn": 512, "vocab": 509}
    path = tiny_model_path("tiny-llama", weight_type=weight_type, **sizes)
    stock = rows_of_one_pass(open_session(Model(path, n_threads=N_THREADS)), wide_tree(9))
    for n_threads in (1, 3):
        session = open_session(Model(path, kernels="ours", n_threads=n_threads), n_threads)
        ours = rows_of_one_pass(session, wide_tree(9))
        assert "head" in session.parts()
        for a, b in zip(stock, ours, strict=True):
            assert len(b) == 509 and np.abs(a - b).max() < 0.1 * a.std()


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
    with Model(path, kernels="ours") as ours:
        open_session(ours).decode(wide_tree(4))
    after = rows_of_one_pass(open_session(Model(path)), wide_tree(4))
    np.testing.assert_array_equal(before, after)


def test_a_prompt_does_not_depend_on_its_pieces(models):
    """The attention and the products of hundreds of rows give what those of a few give."""
    _, ours = models
    prompt = [(37 * i + 11) % ours.info.n_vocab for i in range(220)]
    logits = []
    for n_ubatch, n_threads in ((256, N_THREADS), (5, N_THREADS), (256, 2), (64, 3)):
        session = Session(ours, n_ctx=N_CTX, n_ubatch=n_ubatch, n_rows_max=4, n_threads=n_threads)
        session.set_prefix(prompt)
        session.decode(wide_tree(3), 2)
        logits.append(session.logits(2))
    for other in logits[1:]:
        np.testing.assert_array_equal(other, logits[0])


def test_sessions_with_other_thread_counts_live_side_by_side(models):
    _, ours = models
    sessions = [open_session(ours, n_threads) for n_threads in (1, 2, 3)]
    batch = Session(ours, n_ctx=N_CTX, n_rows_max=64, n_threads=1, n_threads_batch=2)
    expected = rows_of_one_pass(sessions[0], wide_tree(9))
    for session in (*sessions[1:], batch, *sessions):
        np.testing.assert_array_equal(rows_of_one_pass(session, wide_tree(9)), expected)


def test_costs_are_counted_by_part(models):
    stock, ours = models
    session = open_session(ours)
    session.decode(wide_tree(4))
    first = session.parts()
    assert {"head", "attention"} < set(first)
    assert all(part.n_ops > 0 and part.ns > 0 and part.bytes > 0 and part.macs > 0 for part in first.values())
    session.decode(wide_tree(4))
    assert session.parts()["head"].macs == 2 * first["head"].macs == 2 * 4 * ours.info.n_vocab * ours.info.n_embd
    other = open_session(stock)
    other.decode(wide_tree(4))
    assert other.parts() == {}


def test_packed_weights_are_counted(models):
    stock, ours = models
    assert stock.info.packed_size == 0
    assert 0.5 * ours.info.size < ours.info.packed_size < 2 * ours.info.size


def test_the_speed_of_the_machine():
    speed = measure_machine(1)
    assert speed.read_bytes_per_second > 1e6 and speed.int8_macs_per_second >= 0
    with pytest.raises(ArgumentError, match="n_threads = 513"):
        measure_machine(513)


def test_the_instruction_set_can_be_forced(tiny_model_path):
    path = tiny_model_path("tiny-llama", weight_type="q8_0")
    code = "import sys, maskprobe; print(maskprobe.Model(sys.argv[1], kernels='ours', n_threads=1).info.kernels)"
    command = [sys.executable, "-c", code, str(path)]
    settings = {"capture_output": True, "text": True, "timeout": 60}
    for name, line in (("portable", "portable"), ("", Model(path, kernels="ours").info.kernels)):
        done = subprocess.run(command, env={**os.environ, "MASKPROBE_ISA": name}, **settings)
        assert done.stdout.strip() == line, done.stderr
    done = subprocess.run(command, env={**os.environ, "MASKPROBE_ISA": "avx9000"}, **settings)
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("maskprobe.errors.ArgumentError: MASKPROBE_ISA is 'avx9000'") and "portable" in line


@pytest.mark.parametrize("kernels", ["stock", "ours"])
def test_the_bench_command_times_both(tiny_model_path, capfd, kernels):
    path = tiny_model_path("tiny-llama", weight_type="q8_0")
    command = ["cost", "-m", str(path), "-r", "1", "-t", "1", "-d", "8"]
    assert bench.main([*command, "--rows", "1,4", "--prompt", "40", "-o", "json"]) == 0
    points = [p for p in json.loads(capfd.readouterr().out) if p["kernels"] == kernels]
    assert [(p["n_rows"], p["n_prompt"]) for p in points] == [(1, 0), (4, 0), (40, 40)]
    for p in points:
        assert len(p["samples_ns"]) == 1 and p["avg_ns"] > 0 and p["n_depth"] == 8
        assert bool(p["parts"]) == (kernels == "ours") and p["machine_read_bytes_per_second"] > 0
        if p["parts"]:
            total = p["rest_ns"] + p["engine_ns"] + sum(part["ns"] for part in p["parts"].values())
            assert total == pytest.approx(p["avg_ns"], abs=2) and p["rest_ns"] > 0
    assert bench.main([*command, "--rows", "1,2", "--kernels", kernels]) == 0
    assert f"| {kernels} | 2 |" in capfd.readouterr().out


def test_the_bench_command_forces_an_instruction_set(tiny_model_path):
    path = tiny_model_path("tiny-llama", weight_type="q8_0")
    command = [
        sys.executable,
        "-m",
        "maskprobe.cli.bench",
        "cost",
        "-m",
        str(path),
        "--rows",
        "1",
        "-r",
        "1",
        "-t",
        "1",
    ]
    settings = {"capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run([*command, "--kernels", "ours", "--isa", "portable"], **settings)
    assert done.returncode == 0 and "ours: portable, " in done.stdout, done.stderr
    done = subprocess.run([*command, "--isa", "sse9"], **settings)
    assert done.returncode == 1 and "MASKPROBE_ISA is 'sse9'" in done.stderr


def test_the_report_keeps_what_it_has(tiny_model_path, tmp_path):
    path = tiny_model_path("tiny-llama", weight_type="q8_0")
    command = [sys.executable, str(PROJECT / "bench" / "cost_report.py"), "-m", str(path), "-o", str(tmp_path)]
    for depth in ("8", "16", "16"):
        options = ["--depths", depth, "--", "--rows", "1,2", "-r", "1"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    (result,) = tmp_path.glob("*.json")
    points = json.loads(result.read_text())
    assert sorted((p["n_depth"], p["kernels"], p["n_rows"]) for p in points) == [
        (depth, kernels, n) for depth in (8, 16) for kernels in ("ours", "stock") for n in (1, 2)
    ]
    assert result.with_suffix(".md").read_text().count("| ours | 2 |") == 2
    assert str(path.parent) not in result.read_text()

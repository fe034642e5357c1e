"""The oracle is right as often as it is told, and bench/synthetic.py measures with just that."""

import json

import pytest
import synthetic
from synthetic_turns import sweep

from conftest import EXACT
from maskprobe import ArgumentError, Engine, Model, SamplingParams
from maskprobe.cli.bench_measure import Watched, measure
from maskprobe.proposers.oracle import DEPTH_MAX, Oracle, tau_of

N_VOCAB = 200
N = 220
PROMPT = [3, 4]
GREEDY = SamplingParams(temp=0.0)


@pytest.fixture(scope="module")
def engine(tiny_model_path):
    model = Model(tiny_model_path("tiny-llama"), n_threads=1)
    with Engine(model, n_ctx=512, proposer="none", rows=64, **EXACT) as engine:
        yield engine


@pytest.fixture(scope="module")
def text(engine):
    """The prompt with what the model puts after it."""
    return PROMPT + measure(engine, PROMPT, GREEDY, N + 20, ignore_eos=True).tokens


def with_oracle(engine, text, **settings):
    watched = Watched(Oracle(text, engine.model.info.n_vocab, **settings))
    return measure(engine, PROMPT, GREEDY, N, ignore_eos=True, watched=watched), watched


@pytest.mark.parametrize("tau, rows", [(1.0, 4), (1.5, 8), (1.63, 30), (2.0, 16), (2.0, 2), (4.0, 5), (9.0, 60)])
def test_the_stated_tokens_per_pass_come_out_with_the_stated_rows(engine, text, tau, rows):
    found, watched = with_oracle(engine, text, tau=tau, rows=rows)
    assert found.tokens == text[2 : 2 + N]
    assert found.passes == pytest.approx((N - 1) / tau, rel=0.01, abs=1.0)  # the last pass is cut short
    assert watched.passes_of[rows] >= found.passes - DEPTH_MAX  # the last ones need fewer candidates


def test_a_deeper_chain_where_it_is_asked_for(engine, text):
    found, _ = with_oracle(engine, text, tau=tau_of(0.8, 11), rows=12, depth_max=11)
    assert found.n_timed / found.passes == pytest.approx(tau_of(0.8, 11), rel=0.05)
    assert len(found.accept_hist) == 12  # all eleven, now and then
    assert found.accept_hist[0] / found.passes == pytest.approx(0.2, abs=0.05)


def test_a_loop_of_one_token_makes_no_wrong_candidate_right():
    oracle = Oracle([7] * 100, N_VOCAB, tau=1.0, rows=40)
    for n in range(1, 60):
        tree = oracle.propose([7] * n, 64)
        assert tree.n_rows == 40
        path = [0]
        while (node := tree.child(path[-1], 7)) is not None:
            path.append(node)
        assert path == [0]


def test_a_text_that_went_elsewhere_gets_wrong_candidates():
    text = list(range(100))
    oracle = Oracle(text, N_VOCAB, tau=5.0, rows=5)
    assert oracle.propose(text[:50], 8).tokens == [49, 50, 51, 52, 53]
    assert oracle.propose([*text[:49], 99], 8).child(0, 50) is None


@pytest.mark.parametrize("tau, rows, n_vocab", [(0.9, 8, 200), (3.1, 3, 200), (DEPTH_MAX + 1.1, 60, 200), (2, 16, 30)])
def test_what_cannot_be_had_is_refused(tau, rows, n_vocab):
    with pytest.raises(ArgumentError):
        Oracle([1, 2], n_vocab, tau=tau, rows=rows)


@pytest.fixture(scope="module")
def arguments(tiny_model_path):
    return ["-m", str(tiny_model_path("tiny-llama")), "-t", "1", "-r", "3", "-d", "20", "-n", "40"]


def test_all_are_measured_beside_llama_cpp(capfd, arguments):
    assert synthetic.main([*arguments, "--tau", "1.5@8,2@6", "--kernels", "stock", "-o", "json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert [(row["kernels"], row["propose"]) for row in rows] == [
        ("stock", "llama.cpp"),
        ("stock", "none"),
        ("stock", "oracle"),
        ("stock", "oracle"),
    ]
    for row in rows:
        assert len(row["samples_ns"]) == 3 and row["speed_up"] > 0.0 and row["n_splits"] == 0
        asked = row["tokens_per_step_asked"] or 1.0
        assert row["tokens_per_step"] == pytest.approx(asked, rel=0.06)
        assert row["rows_per_step"] == (row["rows_per_step_asked"] or 1)
    assert rows[0]["speed_up"] == 1.0


def test_the_planner_is_held_against_fixed_numbers_of_rows(capfd, arguments):
    options = ["-n", "60", "--right", "0.6", "--kernels", "stock"]
    assert synthetic.main([*arguments, *options, "-o", "json"]) == 0
    _, plain, *chains, planned = json.loads(capfd.readouterr().out)
    assert [chain["rows_per_step_asked"] for chain in chains] == [2, 3, 4, 6, 8, 12, 16]
    for chain in chains:
        n = chain["rows_per_step_asked"]
        assert chain["propose"] == "oracle" and chain["rows_hist"].keys() == {str(n)}
        assert chain["tokens_per_step_asked"] == pytest.approx(sum(0.6**d for d in range(n)))
        assert chain["tokens_per_step"] == pytest.approx(chain["tokens_per_step_asked"], rel=0.1)
    assert planned["propose"] == "planned" and planned["rows_per_step_asked"] is None
    assert len(planned["samples_ns"]) == 3 and all(1 <= int(n) <= 16 for n in planned["rows_hist"])
    best = min([plain, *chains], key=lambda row: row["median_ms_per_token"])
    for row in (plain, *chains, planned):
        assert row["of_best_fixed"] == pytest.approx(best["median_ms_per_token"] / row["median_ms_per_token"])
        assert row["best_fixed_rows"] == (best["rows_per_step_asked"] or 1)


def test_the_ratio_is_said_above_the_table(capfd, arguments):
    assert synthetic.main([*arguments, "-r", "1", "--right", "0.5", "--kernels", "stock"]) == 0
    lines = capfd.readouterr().out.splitlines()
    (said,) = [line for line in lines if line.startswith("stock: planned / best fixed = ")]
    title, planned = lines[4], lines[-1]
    assert title.endswith("| of the best fixed |") and planned.startswith("| stock | planned | - |")
    assert said.split()[6] == planned.split(" | ")[-1].rstrip(" |")


def test_what_a_rate_makes_right():
    *chains, planned = sweep(1.0)
    assert [chain.tau for chain in chains] == [chain.rows for chain in chains]
    assert planned.planned and planned.rows == chains[-1].rows
    assert {offer.tau for offer in sweep(0.0)} == {1.0}


@pytest.mark.parametrize("options", [["--right", "1.1"], ["--right", "x"], ["--right", "0.5", "--tau", "2@4"]])
def test_rates_that_cannot_be_read(capfd, arguments, options):
    with pytest.raises(SystemExit):
        synthetic.main([*arguments, *options])
    assert "argument --right" in (error := capfd.readouterr().err) or "argument --tau: not allowed" in error


def test_shapes_are_made_once(capfd, arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("checkout.cache_folder", lambda name: tmp_path)
    shaped = ["--shape", "tiny-qwen3", "--type", "f32", "-t", "1", "-r", "1", "-n", "4", "--tau", "2@4"]
    assert synthetic.main([*shaped, "--kernels", "stock"]) == 0
    text, error = capfd.readouterr()
    assert "| stock | oracle | 2@4 |" in text and "writing random weights" in error
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    assert synthetic.main([*shaped, "--kernels", "stock"]) == 0
    assert file.stat().st_mtime_ns == before
    assert synthetic.main(["--shape", "no-such"]) == 1
    assert "has no 'no-such': use one of" in capfd.readouterr().err


@pytest.mark.parametrize("tau", ["2", "x@3", "2@", "2@1", "2@300", ""])
def test_targets_that_cannot_be_read(capfd, arguments, tau):
    with pytest.raises(SystemExit):
        synthetic.main([*arguments, "--tau", tau])
    assert "argument --tau" in capfd.readouterr().err


def test_a_target_that_cannot_be_had(capfd, arguments):
    assert synthetic.main([*arguments, "--tau", "9@4"]) == 1
    assert "9 tokens per pass cannot be had with 4 rows: 1 to 4 can" in capfd.readouterr().err

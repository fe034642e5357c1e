"""maskprobe-bench run: what it counts, its forms, and the file with which it goes on."""

import csv
import io
import json
import signal
import subprocess
import sys
import time

import pytest

from heads import keys_of, random_tensors, write_heads
from maskprobe import Model
from maskprobe.cli import bench, bench_run
from maskprobe.cli.bench_measure import Watched, first_difference, speed_up
from maskprobe.proposers import Proposer
from maskprobe.tree import TokenTree

N = 16
EXACT = ["-ctk", "f32", "-ctv", "f32", "-t", "1", "-n", str(N)]


@pytest.fixture(scope="module")
def arguments(tiny_model_path, tmp_path_factory):
    """Three prompts of two tasks on a tiny model, one source of candidates, whose rows depend on no clock."""
    prompts = tmp_path_factory.mktemp("prompts") / "mine.jsonl"
    entries = [{"prompt": text, "task": task} for text, task in (("a b a b", "ab"), ("one two", "ab"), ("x y x", "xy"))]
    prompts.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return [
        "run",
        "-m",
        str(tiny_model_path("tiny-llama")),
        "--prompts",
        str(prompts),
        "--propose",
        "lookup",
        "--rows",
        "4",
        *EXACT,
    ]


def rows_of(capfd, *arguments) -> list[dict]:
    assert bench.main([*arguments, "-o", "json"]) == 0
    return json.loads(capfd.readouterr().out)


def test_heads_are_measured_beside_the_evidence_alone(capfd, arguments, tmp_path):
    path = tmp_path / "heads.gguf"
    with Model(arguments[2], n_threads=1) as model:
        write_heads(path, keys_of(model), random_tensors(model))
    rows = rows_of(capfd, *arguments, "--propose", "all,lookup", "--heads", str(path), "--temp", "0")
    assert {row["propose"] for row in rows} == {"none", "all", "all+heads", "lookup"}
    found = {row["propose"]: row for row in rows if row["task"] == "all"}
    assert all(row["n_identical"] == 3 and row["engine_us_per_step"] > 0 for row in rows if row["task"] == "all")
    assert found["all"]["rows_per_step"] > 1 < found["all+heads"]["rows_per_step"]


def error_of(capfd, *arguments) -> str:
    assert bench.main(list(arguments)) == 1
    out, error = capfd.readouterr()
    (line,) = [line for line in error.splitlines() if "error:" in line]
    assert out == ""
    return line


def test_counts_add_up(capfd, arguments):
    rows = rows_of(capfd, *arguments, "--rows", "auto,4", "--temp", "0,0.8", "-r", "2", "--ignore-eos")
    kinds = [("none", "auto"), ("lookup", "auto"), ("lookup", "4")]
    assert [(row["temp"], row["task"], row["propose"], row["rows"]) for row in rows] == [
        (temp, task, *kind) for temp in (0.0, 0.8) for task in ("ab", "xy", "all") for kind in kinds
    ]
    for row in rows:
        n_runs = {"ab": 4, "xy": 2, "all": 6}[row["task"]]
        assert row["n_runs"] == row["n_identical"] == n_runs and row["margins"] == []
        assert len(row["samples_ns"]) == len(row["samples_ts"]) == n_runs
        passes = sum(row["accept_hist"])
        n_timed = (N - 1) * n_runs  # the first token comes with the prompt
        assert row["tokens_per_step"] * passes == pytest.approx(n_timed)
        last = (
            passes + row["draft_n_accepted"] - n_timed
        )  # candidates with which a text ends; nothing is drawn after them
        assert 0 <= last <= n_runs
        assert row["rows_per_step"] * passes == pytest.approx(passes + row["draft_n"])  # lookup has no masks
        assert sum(n for n, _, _ in row["calibration"]) == row["draft_n"]
        assert sum(accepted for _, _, accepted in row["calibration"]) == row["draft_n_accepted"] - last
        assert row["speed_up_quartiles"][0] <= row["speed_up_quartiles"][1]
        if row["propose"] == "none":
            assert (row["tokens_per_step"], row["rows_per_step"], row["draft_n"]) == (1.0, 1.0, 0)
            assert row["speed_up"] == 1.0
        if row["rows"] == "4":
            assert row["rows_per_step"] <= 4
    assert any(row["draft_n_accepted"] for row in rows)


def test_a_source_that_measures_the_machine(capfd, arguments):
    rows = rows_of(capfd, *arguments, "--propose", "all", "--rows", "auto", "--ignore-eos")
    assert [row["propose"] for row in rows] == ["none", "all"] * 3
    assert all(row["n_identical"] == row["n_runs"] for row in rows)


def test_prompts_in_the_chat_template(capfd, arguments, monkeypatch):
    (bare, *_) = rows_of(capfd, *arguments)
    monkeypatch.setattr(Model, "chat_format", lambda _, messages: f"user: {messages[0]['content']} assistant:")
    (chat, *_) = rows_of(capfd, *arguments, "-st")
    assert chat["n_prompt"] > bare["n_prompt"]


def test_a_source_that_cannot_work_is_left_out(capfd, tiny_model_path, arguments):
    mamba = ["run", "-m", str(tiny_model_path("tiny-mamba")), *arguments[3:]]
    assert bench.main([*mamba, "--limit", "1", "-o", "json"]) == 0
    out, error = capfd.readouterr()
    assert {row["propose"] for row in json.loads(out)} == {"none"}
    assert "lookup is left out: it cannot work with this model (" in error


def test_forms(capfd, arguments):
    assert bench.main([*arguments, "-o", "jsonl"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert bench.main([*arguments, "-o", "csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert len(table) == len(lines) and table[1].keys() == lines[1].keys()
    assert table[1]["propose"] == "lookup" and json.loads(table[1]["accept_hist"]) == lines[1]["accept_hist"]
    llama_bench = "build_commit cpu_info model_filename model_type model_size model_n_params n_batch n_threads type_k "
    llama_bench += "type_v n_prompt n_gen n_depth test_time avg_ns stddev_ns avg_ts stddev_ts samples_ns samples_ts"
    assert lines[0].keys() >= set(llama_bench.split())
    assert bench.main(arguments) == 0
    text = capfd.readouterr().out
    assert "not timed are" in text and "| ab | 0.0 | lookup | 4 |" in text


def test_a_run_goes_on_where_it_was(capfd, arguments, tmp_path, monkeypatch):
    file = tmp_path / "results.jsonl"
    whole = [*arguments, "--resume", str(file)]
    first = rows_of(capfd, *whole)
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4  # the settings and three prompts

    file.write_bytes(b"".join(lines[:2]) + lines[2][:40])  # killed while it wrote
    second = rows_of(capfd, *whole)
    assert file.read_bytes().splitlines(keepends=True)[:2] == lines[:2]
    assert len(file.read_bytes().splitlines()) == 4
    assert [row["accept_hist"] for row in second] == [row["accept_hist"] for row in first]

    monkeypatch.setattr(bench_run.Bench, "_measure_prompt", lambda *_: pytest.fail("a prompt was measured again"))
    third = rows_of(capfd, *whole)
    assert [row["samples_ns"] for row in third] == [row["samples_ns"] for row in second]
    assert "(predict 16, not 9)" in error_of(capfd, *whole, "-n", "9")
    assert "other settings (prompts)" in error_of(capfd, *whole, "--limit", "1")


@pytest.mark.parametrize("content", ["hello\n", "hello", "{}\n", '{"settings": {}}\n[]\n', '"text"\n'])
def test_another_file_is_not_overwritten(capfd, arguments, tmp_path, content):
    file = tmp_path / "other.txt"
    file.write_text(content)
    assert str(file) in error_of(capfd, *arguments, "--resume", str(file))
    assert file.read_text() == content


def test_ctrl_c_leaves_a_file_to_go_on_with(arguments, tmp_path):
    file = tmp_path / "results.jsonl"
    many = tmp_path / "many.txt"
    many.write_text("some words\n" * 200)
    command = [sys.executable, "-m", "maskprobe.cli.bench", *arguments, "--prompts", str(many), "--resume", str(file)]
    process = subprocess.Popen(
        [*command, "-n", "400"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and (not file.exists() or file.read_bytes().count(b"\n") < 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error.decode()
    assert out == b"" and b"Traceback" not in error
    lines = file.read_text().splitlines()
    assert 2 <= len(lines) < 201
    assert f"{len(lines) - 1} of 200 prompts are in" in error.decode()
    assert all(json.loads(line) for line in lines)


def test_wrong_options_are_named(capfd, arguments):
    for option, value in (("--propose", "lookup,"), ("--rows", "0"), ("--temp", "-1"), ("--limit", "0")):
        with pytest.raises(SystemExit) as raised:
            bench.main([*arguments, option, value])
        assert raised.value.code == 2 and f"argument {option}" in capfd.readouterr().err
    assert "nothing" in error_of(capfd, *arguments, "--propose", "nothing")
    assert "no prompt fits" in error_of(capfd, *arguments, "-c", "20")


class Halves(Proposer):
    """Offers the tokens 5 and 6 after the root, with half of the probability each."""

    def propose(self, context, room):
        tree = TokenTree(context[-1])
        for token in (5, 6):
            tree.add(0, token, -0.6931472)
        return tree


def test_offers_are_counted_by_their_probability():
    watched = Watched(Halves())
    for path in ([0, 1], [0], [0, 2]):
        watched.observe(watched.propose([3], 4), None, path, [])
    (found,) = [(i, *values) for i, values in enumerate(watched.calibration()) if values[0]]
    assert found == (10, 6.0, pytest.approx(3.0, abs=1e-5), 2.0) or found == (9, 6.0, pytest.approx(3.0, abs=1e-5), 2.0)
    assert watched.passes_of == {3: 3}
    watched.reset()
    assert not watched.passes_of and not any(n for n, _, _ in watched.calibration())


def test_ratios_and_differences():
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == 2
    spread = speed_up([4.0, 4.0, 8.0], [1.0, 2.0, 4.0])
    assert (spread.ratio, spread.low, spread.high) == (2.0, 2.0, 3.0)

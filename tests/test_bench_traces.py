"""bench/traces.py: what a source would reach on recorded texts, without the model running."""

import json

import pytest
import traces

from maskprobe import Context


@pytest.fixture(scope="module")
def arguments(tiny_model_path, tmp_path_factory):
    texts = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    entries = [
        {"prompt": "count", "answer": "one two three four. " * 8, "task": "repeats"},
        {"prompt": "say", "completion": "The quick brown fox jumps over a lazy dog!", "task": "does not"},
        {"prompt": "nothing said"},
    ]
    texts.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return ["-m", str(tiny_model_path("tiny-llama")), "--texts", str(texts)]


def test_tokens_per_pass_without_the_model(capfd, arguments, monkeypatch):
    monkeypatch.setattr(Context, "__init__", lambda *_: pytest.fail("the model ran"))
    assert traces.main([*arguments, "--propose", "lookup,ngram", "--rows", "auto,3", "-o", "json"]) == 0
    out, error = capfd.readouterr()
    assert "1 of 3 texts have no answer" in error
    rows = {(row["task"], row["propose"], row["rows"]): row for row in json.loads(out)}
    for (task, _, width), row in rows.items():
        passes = sum(row["accept_hist"])
        assert row["n_gen"] == pytest.approx(passes * row["tokens_per_step"])
        assert row["n_gen"] == passes + row["draft_n_accepted"]
        assert row["rows_per_step"] * passes == pytest.approx(passes + row["draft_n"])
        assert row["n_texts"] == (2 if task == "all" else 1)
        if width == "3":
            assert row["rows_per_step"] <= 3.0
    assert rows["repeats", "lookup", "auto"]["tokens_per_step"] > 2.0
    assert rows["repeats", "lookup", "auto"]["tokens_per_step"] > rows["repeats", "lookup", "3"]["tokens_per_step"]
    assert rows["does not", "lookup", "auto"]["tokens_per_step"] < 1.5
    n_tokens = {task: rows[task, "ngram", "auto"]["n_gen"] for task in ("repeats", "does not", "all")}
    assert n_tokens["all"] == n_tokens["repeats"] + n_tokens["does not"]


def test_answers_are_cut_where_asked(capfd, arguments):
    assert traces.main([*arguments, "-n", "5", "-o", "json"]) == 0
    assert {row["n_gen"] for row in json.loads(capfd.readouterr().out)} == {5, 10}


@pytest.mark.parametrize("source", ["recycle", "logits", "lookahead", "esp"])
def test_sources_that_need_outputs_are_refused(capfd, arguments, source):
    assert traces.main([*arguments, "--propose", f"lookup,{source}"]) == 1
    out, error = capfd.readouterr()
    assert out == "" and f"error: {source} works with the model's outputs" in error


@pytest.mark.parametrize("source", ["none", "all"])
def test_what_is_no_source_of_its_own_is_refused(capfd, arguments, source):
    assert traces.main([*arguments, "--propose", source]) == 1
    assert f"error: '{source}' is no proposer of its own" in capfd.readouterr().err


def test_texts_without_answers_are_refused(capfd, arguments, tmp_path):
    texts = tmp_path / "questions.jsonl"
    texts.write_text('{"prompt": "why"}\n')
    assert traces.main([*arguments, "--texts", str(texts)]) == 1
    assert "the texts have no answers" in capfd.readouterr().err

"""Prompt sets are told by their fields, and what cannot be read is refused with the line where it is."""

import gzip
import json
from types import SimpleNamespace

import pytest

from maskprobe import ArgumentError
from maskprobe.cli.bench_prompts import Prompt, read_prompts, spread, tokenized


def jsonl(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), "utf-8")
    return str(path)


def read_one(source: str) -> Prompt:
    (prompt,), _ = read_prompts([source])
    return prompt


def test_spec_bench_has_six_tasks_and_gives_first_turns(tmp_path):
    categories = ["writing", "coding", "translation", "summarization", "qa", "math_reasoning", "rag"]
    entries = [
        {"question_id": 81 + i, "category": category, "turns": [f"first {i}", "second"]}
        for i, category in enumerate(categories)
    ]
    prompts, notes = read_prompts([jsonl(tmp_path / "question.jsonl", *entries)])
    assert {p.task for p in prompts} == {"mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag"}
    assert [p.text for p in prompts if p.task == "mt_bench"] == ["first 0", "first 1"]
    assert prompts[0].name == "81"
    assert len(notes) == 1 and "first turn only (7 later ones" in notes[0]


def test_speed_bench_keeps_its_categories(tmp_path):
    entry = {"question_id": "a1", "category": "writing", "sub_category": "", "turns": ["first"], "multiturn": False}
    prompt = read_one(jsonl(tmp_path / "qualitative.jsonl", entry))
    assert (prompt.task, prompt.name, prompt.text) == ("writing", "a1", "first")


def test_other_benchmarks(tmp_path):
    gsm8k = read_one(jsonl(tmp_path / "test.jsonl", {"question": "How many?", "answer": "Two.\n#### 2"}))
    assert (gsm8k.task, gsm8k.name, gsm8k.text) == ("gsm8k", "1", "How many?")
    entry = {"task_id": "HumanEval/3", "prompt": "def f():", "canonical_solution": "    pass"}
    packed = tmp_path / "HumanEval.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(entry).encode()))
    assert read_one(str(packed)) == Prompt("HumanEval", "3", "def f():", "    pass")
    assert read_one(jsonl(tmp_path / "mine.jsonl", {"prompt": "a\u2028b"})) == Prompt("mine", "1", "a\u2028b")
    assert read_one(jsonl(tmp_path / "x.jsonl", {"turns": ["t"], "task": "chat"})).task == "chat"
    lines = tmp_path / "lines.txt"
    lines.write_text("one\n\nthree\n")
    assert [(p.name, p.text) for p in read_prompts([str(lines)])[0]] == [("1", "one"), ("3", "three")]


def test_own_sets_are_found_in_a_checkout_only(tmp_path, monkeypatch):
    folder = tmp_path / "bench" / "prompts"
    folder.mkdir(parents=True)
    (folder / "code.txt").write_text("x = 1\n")
    monkeypatch.chdir(folder)
    assert Prompt("code", "1", "x = 1") in read_prompts(["code"])[0]
    monkeypatch.setattr("maskprobe.cli.bench_prompts.own_set", lambda name: None)
    with pytest.raises(ArgumentError, match="give a file"):
        read_prompts([])


def test_limit_is_per_task_and_evenly_spread(tmp_path):
    entries = [{"prompt": str(i), "task": "ab"[i % 2]} for i in range(20)]
    prompts, _ = read_prompts([jsonl(tmp_path / "p.jsonl", *entries)])
    assert [p.text for p in spread(prompts, 3)] == ["0", "6", "12", "1", "7", "13"]
    assert spread(prompts, 10) == spread(prompts, None) == prompts


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"prompt": "a"}\n{"prompt"\n', "line 2 is not JSON"),
        (b'{"text": "a"}\n', "line 1 has no text in a field prompt, question or turns"),
        (b'{"turns": []}\n', "line 1 has no text"),
        (b"[]\n", "line 1 has no text"),
        (b"\n", "has no prompts"),
        (b'{"prompt": "\xff"}\n', "cannot read the prompts"),
        (None, "No such file"),
    ],
)
def test_bad_files_are_refused_with_one_line(tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArgumentError, match=message) as raised:
        read_prompts([str(path)])
    assert "\n" not in str(raised.value)


def test_prompts_that_do_not_fit_are_counted():
    model = SimpleNamespace(tokenize=lambda text, **_: list(range(len(text))))
    prompts = [Prompt("t", str(n), "x" * n) for n in (5, 40, 10)]
    jobs, lines = tokenized(model, prompts, 8, 20, 5)
    assert [job.name for job in jobs] == ["5", "10"]
    assert lines[0].startswith("1 of 3 prompts are left out")
    jobs, _ = tokenized(model, prompts[1:], 8, 20, 1)  # the limit is for those that fit
    assert [job.name for job in jobs] == ["10"]
    with pytest.raises(ArgumentError, match="the shortest has 5 tokens, with 18 more"):
        tokenized(model, prompts, 18, 20, None)

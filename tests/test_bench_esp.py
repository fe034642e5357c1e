"""maskprobe-bench esp: the lines of the paper's tables, and that each text is that of plain decoding."""

import json

import pytest

from maskprobe.cli import bench, bench_esp

CATEGORIES = ("qa", "rag", "translation")


@pytest.fixture(scope="module")
def arguments(tiny_model_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "question.jsonl"
    entries = [
        {"question_id": i, "category": category, "turns": [f"one two {category}", "later"]}
        for i, category in enumerate(CATEGORIES * 2)
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    exact = ["-ctk", "f32", "-ctv", "f32", "-t", "1", "-n", "12"]
    return ["esp", "-m", str(tiny_model_path("tiny-llama")), "--spec-bench", str(path), "--limit", "1", *exact]


def test_every_tree_has_the_rows_of_its_block():
    shapes = bench_esp.shapes(bench_esp.MASKS, bench_esp.ROWS, grid=True)
    assert len(shapes) == len({shape.name for shape in shapes}) == 48
    for shape in shapes:
        if shape.tree != "dynamic":
            n_rows = (shape.n_masks + 1) * (1 + sum(map(int, shape.tree.split(","))))
            assert n_rows == (shape.rows if shape.n_masks < 3 else 64)  # the paper's own, at its block of 60
    few = bench_esp.shapes(bench_esp.MASKS, bench_esp.ROWS, grid=False)
    assert len(few) == 21 and set(few) < set(shapes)
    assert {shape.mask for shape in few if shape.n_masks > 1 or shape.tree == "dynamic"} == {"mean"}


def test_the_table(capfd, arguments):
    assert bench.main([*arguments, "--rows", "10,30", "--masks", "mean,soft"]) == 0
    out = capfd.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 8  # 4, 14 and 7,2 each static and dynamic with mean masks; 4 and 14 with soft ones
    assert all(f" {category} |" in lines[0] for category in (*CATEGORIES, "paper 3B", "identical"))
    assert all("| 3 of 3 |" in line for line in lines[2:])
    assert any("| mean | 2 | 7,2 | 30 |" in line and "| 1.63 |" in line for line in lines)
    assert "sample 1.65 / 1.69" in out


def test_passes_have_the_rows_that_are_asked_for(capfd, arguments):
    assert bench.main([*arguments, "--rows", "30", "--masks", "mean", "-o", "json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    of_all = [row for row in rows if row["task"] == "all" and row["propose"] != "none"]
    assert [(row["tree"], row["n_masks"]) for row in of_all] == [("14", 1), ("dynamic", 1), ("7,2", 2), ("dynamic", 2)]
    for row in of_all:
        assert row["rows_per_step"] <= 30 and row["tokens_per_step"] >= 1 and row["n_identical"] == row["n_runs"] == 3


@pytest.mark.parametrize(("words", "reason"), [(["--rows", "20"], "10, 30, 60"), (["--masks", "x"], "must be mean")])
def test_what_is_refused(capfd, arguments, words, reason):
    with pytest.raises(SystemExit):
        bench.main([*arguments, *words])
    assert reason in capfd.readouterr().err

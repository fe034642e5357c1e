"""maskprobe-run with every source of candidates, and what it says where options do not go together."""

import json
from pathlib import Path

import pytest

from maskprobe.cli import options, run

PROMPT = "a = 1\nb = 2\na = 1\nb = "
FREE = [name for name in options.PROPOSE if name not in ("none", "esp")]


@pytest.fixture(scope="module")
def tiny(tiny_model_path) -> Path:
    return tiny_model_path("tiny-llama", n_ctx=65536)


def statistics(tmp_path: Path, *arguments: object) -> dict:
    """What --stats-json tells of a run that succeeds."""
    path = tmp_path / "stats.json"
    common = ("-t", 1, "-p", PROMPT, "--ignore-eos", "-ctk", "f32", "-ctv", "f32", "--stats-json", path)
    assert run.main([*map(str, common), *map(str, arguments)]) == 0
    return json.loads(path.read_text())


def test_the_names():
    assert options.PROPOSE == ["none", "all", "esp", "lookup", "ngram", "lookahead", "recycle", "logits", "marginal"]


@pytest.mark.parametrize("temp", [0, 0.8])
@pytest.mark.parametrize("name", FREE)
def test_a_source_changes_no_token(name, temp, tiny, tmp_path):
    same = ("-m", tiny, "-n", 60, "--temp", temp, "--seed", 3)
    plain = statistics(tmp_path, *same, "--propose", "none")
    stats = statistics(tmp_path, *same, "--propose", name, "--rows", 8, "--compare")
    assert stats["tokens"] == plain["tokens"]
    assert (stats["propose"], stats["tree"], stats["compare"]["identical"]) == (name, None, True)
    assert plain["rows"] < stats["rows"] <= 8 * stats["passes"]


def test_a_source_has_rows_of_its_own(tiny, tmp_path, capfd):
    stats = statistics(tmp_path, "-m", tiny, "-n", 8, "--propose", "recycle")
    assert stats["rows_per_pass"] <= 16
    assert "accepted:" in capfd.readouterr().err


def test_a_model_without_trees(tiny_model_path, tmp_path, capfd):
    stats = statistics(tmp_path, "-m", tiny_model_path("tiny-mamba"), "-n", 8, "--propose", "recycle", "--compare")
    assert (stats["propose"], stats["n_gen"], stats["passes"]) == ("none", 8, 7)
    notes = [line for line in capfd.readouterr().err.splitlines() if line.startswith("maskprobe-run: ")]
    assert len(notes) == 1


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize(
    "option",
    [
        ("--tree", "14"),
        ("--tree", "dynamic"),
        ("--masks", "1"),
        ("--mask-children", "all"),
        ("--mask-children", "last"),
        ("--mask-init", "mean"),
        ("--mask-update", "0"),
    ],
    ids=" ".join,
)
def test_options_of_mask_probes_with_another_source(name, option, capfd):
    with pytest.raises(SystemExit) as caught:
        run.main(["-p", "x", "--propose", name, *option])
    assert caught.value.code == 2
    line = capfd.readouterr().err.splitlines()[0]
    assert line == f"maskprobe-run: error: argument {option[0]}: it is for --propose esp, not for {name}"


def test_plain_decoding_takes_no_notice_of_them(tiny, tmp_path):
    stats = statistics(tmp_path, "-m", tiny, "-n", 4, "--propose", "none", "--tree", "7,2", "--rows", 8)
    assert stats["propose"] == "none" and stats["rows_per_pass"] == 1


@pytest.mark.parametrize(("name", "rows"), [("lookahead", "1"), ("recycle", "257"), ("lookup", "0")])
def test_too_few_or_too_many_rows(name, rows, tiny, capfd):
    with pytest.raises(SystemExit) as caught:
        run.main(["-t", "1", "-m", str(tiny), "-p", "x", "-n", "1", "--propose", name, "--rows", rows])
    assert caught.value.code == 2
    assert capfd.readouterr().err.startswith("maskprobe-run: error: argument --rows: ")

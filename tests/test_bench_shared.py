"""bench/shared.py: the answers that it compares, and the section that it appends."""

import re

import pytest
import shared

from maskprobe import Engine, Model, SamplingParams

GREEDY = [SamplingParams(temp=0.0)] * 2
PROMPTS = [[5, 9, 20, 7], [8, 1, 30]]


@pytest.fixture(scope="module")
def model_path(tiny_model_path) -> str:
    return str(tiny_model_path("tiny-llama", n_ctx=512))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("prompts") / "lines.txt"
    file.write_text("".join(f"a b a b {i}\n" for i in range(4)))
    return str(file)


def test_answers_are_the_same_together_and_one_after_another(model_path):
    with Model(model_path, n_threads=1) as model, Engine(model, n_ctx=128, n_parallel=2, n_threads=1) as engine:
        apart = shared.one_after_another(engine, PROMPTS, GREEDY, 12)
        both = shared.together(engine, PROMPTS, GREEDY, 12)
        assert both.answers == apart.answers and apart.answers[0] != apart.answers[1]
        assert [len(answer) for answer in both.answers] == [12, 12]
        assert apart.n_decoded == 22  # without each one's first token
        assert 1 <= both.n_decoded <= 22  # the first conversation may be ahead when the second one begins
        assert 0.0 < both.decode_seconds < both.seconds


def test_a_section_is_appended(capfd, model_path, prompts, tmp_path):
    file = tmp_path / "results.md"
    file.write_text("# Before\n")
    command = ["-m", model_path, "--prompts", prompts, "--conversations", "2", "3", "--long", "200"]
    assert shared.main([*command, "-n", "100", "-r", "2", "-o", str(file)]) == 0
    text = capfd.readouterr().out
    assert file.read_text() == f"# Before\n\n{text}"
    cells = [line.split(" | ") for line in text.splitlines() if line.startswith(("| 2 |", "| 3 |"))]
    assert [(line[0], line[1]) for line in cells] == [(f"| {n}", temp) for n in (2, 3) for temp in ("0.0", "0.8")]
    for n, line in zip((2, 2, 3, 3), cells, strict=True):
        assert line[-2:] == [f"{2 * n} of {2 * n}", f"{2 * n} of {2 * n} |"]
    assert re.search(r"T\(2\)/T\(1\) = \d", text)
    assert re.search(r"1 conversations and a prompt of 200 tokens: the longest wait was \d+\.\d of their usual", text)


def test_answers_too_short_to_overlap_are_refused(capfd, model_path, prompts):
    command = ["-m", model_path, "--prompts", prompts, "--conversations", "2", "-r", "1", "--long", "0"]
    assert shared.main([*command, "-n", "1"]) == 1
    assert "with 1 tokens no time is left in which 2 decode" in capfd.readouterr().err


def test_too_few_prompts_are_refused(capfd, model_path, prompts):
    assert shared.main(["-m", model_path, "--prompts", prompts, "--conversations", "8"]) == 1
    assert "4 prompts have at most 200 tokens, 9 are needed" in capfd.readouterr().err

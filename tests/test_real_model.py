"""The default model end to end, as README's first command runs it."""

import json

import pytest

from maskprobe import Model
from maskprobe.cli import run

PROMPTS = ["Why is the sky blue?", "Write a Python function that adds two numbers.", "Name three rivers, in a list."]


def command(tmp_path, *arguments: str) -> tuple[int, dict]:
    path = tmp_path / "stats.json"
    status = run.main(["-t", "1", "-c", "1024", "--seed", "1", "--stats-json", str(path), *arguments])
    return status, json.loads(path.read_text())


def test_an_answer_ends_by_itself(real_model_path, tmp_path, capfd):
    status, stats = command(tmp_path, "-p", "What is the capital of France? Answer in one word.", "--temp", "0")
    answer = capfd.readouterr().out
    assert (status, stats["finish_reason"], stats["model"]) == (0, "stop", str(real_model_path))
    assert "Paris" in answer
    assert "<|" not in answer


def test_the_prompt_is_the_user_s_turn(real_model_path, tmp_path, capfd):
    """Special tokens of the template are tokens, not their letters, and nothing stands before the first."""
    with Model(real_model_path, self_check=False) as model:
        text = model.chat_format([{"role": "user", "content": "Hi"}])
        tokens = model.tokenize(text, add_special=False, parse_special=True)
        assert tokens[0] == model.info.token_bos != tokens[1]
        assert model.is_end(model.tokenize("<|im_end|>", add_special=False, parse_special=True)[0])
        assert len(tokens) < len(model.tokenize(text, add_special=False, parse_special=False))
    _, stats = command(tmp_path, "-p", "Hi", "-n", "1")
    assert stats["n_prompt"] == len(tokens)
    _, raw = command(tmp_path, "-p", "Hi", "-n", "1", "-no-cnv")
    assert raw["n_prompt"] < len(tokens)


def test_a_length_that_is_asked_for(real_model_path, tmp_path):
    _, stats = command(tmp_path, "-p", PROMPTS[0], "-n", "5")
    assert (stats["finish_reason"], stats["n_gen"]) == ("length", 5)


def test_kernels_by_default(real_model_path, tmp_path, capfd):
    """All of its types have a kernel of ours, so nothing is left that a neighbour in a pass could change."""
    _, stats = command(tmp_path, "-p", "Hi", "-n", "2")
    assert stats["kernels"] != "llama.cpp"
    assert stats["kernels_reason"] == "100 % of the weights"
    assert "drafting may change" not in capfd.readouterr().err


@pytest.mark.parametrize("rows", ["auto", "8"])
@pytest.mark.parametrize("temp", ["0", "0.8"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_drafting_changes_nothing(real_model_path, prompt, temp, rows, tmp_path):
    """With default flags, where a busy machine may leave drafting off, and with passes of eight rows."""
    status, stats = command(tmp_path, "-p", prompt, "--temp", temp, "--rows", rows, "-n", "60", "--compare")
    assert status == 0, stats["compare"]
    assert stats["compare"]["identical"]
    assert rows == "auto" or stats["passes"] < stats["n_gen"]

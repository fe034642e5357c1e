"""maskprobe-run -r: stop texts, those of special tokens too, which are never printed."""

import json
from pathlib import Path

import pytest
from real_plan import find_models

from maskprobe import Model
from maskprobe.cli import run

GRAMMAR = 'root ::= "one" <|im_start|> " two"'


@pytest.fixture(scope="module")
def tiny(tiny_model_path) -> Path:
    return tiny_model_path("tiny-llama", n_ctx=65536)


@pytest.fixture(scope="module")
def special(tiny) -> tuple[int, str]:
    """A special token that ends no text, and its text."""
    with Model(tiny, n_threads=1) as model:
        token = model.info.token_bos
        assert not model.is_end(token) and model.token_bytes(token) == b""
        return token, model.token_bytes(token, special=True).decode()


@pytest.fixture
def completed(tmp_path, capfd):
    """completed(model, arguments): statistics and completion of a run in this process."""

    def complete(model: Path, *arguments: object) -> tuple[dict, str]:
        path = tmp_path / "stats.json"
        common = ("-t", 1, "-m", model, "-no-cnv", "-c", 512, "--ignore-eos", "--stats-json", path)
        assert run.main([*map(str, common), *map(str, arguments)]) == 0
        return json.loads(path.read_text()), capfd.readouterr().out

    return complete


def before(model_path: Path, tokens: list[int], stop: str) -> str:
    """What is printed before a stop text, by the tokens of a text that went on."""
    with Model(model_path, n_threads=1) as model:
        pieces = [(model.token_bytes(token, special=True), bool(model.token_bytes(token))) for token in tokens]
    text = "".join(piece.decode("latin-1") for piece, _ in pieces)
    shown = [visible for piece, visible in pieces for _ in piece]
    end = text.index(stop)
    return bytes(ord(c) for c, visible in zip(text[:end], shown, strict=False) if visible).decode("utf-8", "replace")


@pytest.mark.parametrize("propose", ["none", "all", "lookup", "recycle"])
@pytest.mark.parametrize("temp", [0.7, 3])
def test_a_special_token_stops(propose, temp, tiny, special, completed):
    """Whether it was drawn or guessed; whole, a part of its text, and with text before or after it."""
    token, text = special
    same = ("-p", "a b a b", "--seed", 4, "--temp", temp, "--top-k", 0, "-n", 120, "--propose", propose)
    same += ("-l", f"{token}+7")
    stats, whole = completed(tiny, *same)
    tokens = stats["tokens"]
    assert token in tokens[3:] and text not in whole and len(tokens) == 120
    with Model(tiny, n_threads=1) as model:
        first = next(i for i, t in enumerate(tokens) if t == token and i > 2)
        around = [model.token_bytes(t, special=True).decode("utf-8", "replace") for t in tokens[first - 1 : first + 2]]
    stops = [[text], [text[1:-1]], [text[:3]], ["never", text, "nor this"]]
    stops += [[around[0] + text]] * around[0].isascii() + [[text + around[2]]] * around[2].isascii()
    for stop in stops:
        stats, cut = completed(tiny, *same, *(word for value in stop for word in ("-r", value)))
        assert stats["finish_reason"] == "stop", stop
        assert cut == min((before(tiny, tokens, s) for s in stop if s not in ("never", "nor this")), key=len), stop
        assert tokens[: len(stats["tokens"])] == stats["tokens"] and len(stats["tokens"]) < 120


def test_the_first_of_several_stop_texts_counts(tiny, special, completed):
    token, text = special
    same = ("-p", "x", "--temp", 0, "-n", 9)
    only_special = (*same, "-l", f"{token}+99")
    stats, cut = completed(tiny, *only_special, "-r", text + text + text, "-r", text + text)
    assert (len(stats["tokens"]), cut, stats["finish_reason"]) == (2, "", "stop")
    stats, cut = completed(tiny, *only_special, "-r", text + "x")
    assert (len(stats["tokens"]), cut, stats["finish_reason"]) == (9, "", "length")


@pytest.mark.parametrize("path", find_models(), ids=lambda path: path.stem)
def test_special_tokens_of_real_models(path, completed):
    with Model(path, n_threads=1) as model:
        token, *rest = model.tokenize("<|im_start|>", add_special=False, parse_special=True)
    if rest:
        pytest.skip("this model has no such token")
    for propose in ("none", "all"):
        same = ("-p", "Hello. My name is", "--temp", 0, "-n", 16, "--no-state", "--propose", propose)
        stats, whole = completed(path, *same, "--grammar", GRAMMAR)
        assert token in stats["tokens"] and whole == "one two"
        for stop in ("<|im_start|>", "im_start", "one<|im", "<|im_start|> t"):
            stats, cut = completed(path, *same, "--grammar", GRAMMAR, "-r", stop)
            assert (cut, stats["finish_reason"]) == ("one".removesuffix(stop[:3]), "stop"), stop

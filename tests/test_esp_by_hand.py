"""The example that builds, verifies and commits its own trees gives the text of plain decoding, in fewer passes."""

import importlib.util

import pytest

from cxx import PROJECT
from maskprobe import Model, Session, TokenTree

PROMPT = "import os\n\ndef read_lines(path):\n"
N = 30


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("esp_by_hand", PROJECT / "examples" / "esp_by_hand.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plainly(model: Model, prompt: list[int], n: int) -> list[int]:
    session = Session(model, n_ctx=512, n_threads=1)
    session.set_prefix(prompt[:-1])
    tokens = [prompt[-1]]
    for _ in range(n):
        tokens.append(int(session.decode(TokenTree(tokens[-1]), 1).best[0]))
        session.commit([0])
    return tokens[1:]


def test_the_text_is_that_of_plain_decoding(example, bundled_model_path):
    model = Model(bundled_model_path)
    prompt = model.tokenize(PROMPT)
    tokens, n_passes = example.generate(model, prompt, N)
    assert tokens == plainly(model, prompt, N) and n_passes < N


def test_a_guess_that_repeats_its_owner_is_pruned(example, bundled_model_path):
    model = Model(bundled_model_path)
    mask = model.embedding_rows([5]).mean(axis=0)
    tree = example.build(7, [[7, 8, 9, 10, 11], [8, 12, 13]], mask)
    assert tree.tokens == [7, 8, 9, 10, 11, 12, 13] and tree.parents == [-1, 0, 0, 0, 0, 1, 1]
    assert tree.n_rows == example.N_ROWS

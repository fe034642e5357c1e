"""Outputs of the last tokens of a prefix: the rows are right, and they change nothing."""

import gguf
import numpy as np
import pytest

from conftest import EXACT, N_THREADS
from maskprobe import Cancelled, DecodeError, Engine, Model, Sampler, SamplingParams, Session, StateError, TokenTree
from random_gguf import write_random_gguf

TOLERANCE = {  # of log-probabilities; as in test_layout.py
    "tiny-llama": 1e-4,
    "tiny-qwen3": 1e-4,
    "tiny-gpt2": 1e-2,
    "tiny-gemma3": 1e-2,
    "tiny-mamba": 1e-4,
}
N_TOP = 6
GREEDY = SamplingParams(temp=0.0)


def text_of(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 500, n).tolist()


def rows_of_passes(session: Session, tokens: list[int], first: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and log-probabilities after tokens[first:], from passes over chains, or over single rows where the model
    takes no tree."""
    session.set_prefix(tokens[:first])
    n_most = 12 if session.model.info.can_tree else 1
    tops, logprobs = [], []
    for begin in range(first, len(tokens), n_most):
        part = tokens[begin : begin + n_most]
        tree = TokenTree(part[0])
        for i, token in enumerate(part[1:]):
            tree.add(i, token, 0.0)
        result = session.decode(tree, N_TOP)
        tops.append(result.top_tokens.copy())
        logprobs.append(result.top_logprobs.copy())
        session.commit(list(range(len(part))))
    return np.concatenate(tops), np.concatenate(logprobs)


@pytest.mark.parametrize(("n_batch", "n_ubatch"), [(2048, 0), (64, 16), (16, 16)])
@pytest.mark.parametrize("shape", list(TOLERANCE))
def test_rows_are_those_of_passes(shape, n_batch, n_ubatch, tiny_model_path):
    """In whatever pieces the prefix is evaluated: 27 rows begin within one of 16 and within one of 64."""
    model = Model(tiny_model_path(shape))
    sizes = {"n_ctx": 256, "n_rows_max": 12, "n_top_max": N_TOP}
    session = Session(model, n_batch=n_batch, n_ubatch=n_ubatch, **sizes, **EXACT)
    tokens = text_of(75)
    prefix = session.set_prefix(tokens, 27, N_TOP)
    tops, logprobs = rows_of_passes(Session(model, **sizes, **EXACT), tokens, 75 - 27)
    assert prefix.n_reused == 0 and prefix.top_tokens.shape == prefix.top_logprobs.shape == (27, N_TOP)
    np.testing.assert_allclose(prefix.top_logprobs, logprobs, atol=TOLERANCE[shape])
    if TOLERANCE[shape] < 1e-3:
        assert np.array_equal(prefix.top_tokens, tops)
    else:
        assert np.mean(prefix.top_tokens == tops) > 0.95


@pytest.fixture(scope="module")
def model(tiny_model_path):
    return Model(tiny_model_path("tiny-llama"))


@pytest.fixture
def session(model):
    with Session(model, n_ctx=256, n_batch=16, n_ubatch=16, n_rows_max=12, **EXACT) as session:
        yield session


def test_only_what_is_evaluated_has_outputs(session):
    tokens = text_of(60)
    whole = session.set_prefix(tokens, 60, N_TOP)
    assert len(whole.top_tokens) == 60
    for n_kept, n_outputs in ((50, 20), (59, 20), (60, 20), (30, 5), (30, 0), (0, 200)):
        other = [*tokens[:n_kept], *text_of(60 - n_kept, seed=1)]
        session.set_prefix(tokens)
        prefix = session.set_prefix(other, n_outputs, N_TOP)
        n_rows = min(n_outputs, 60 - n_kept)
        assert prefix.n_reused == n_kept and len(prefix.top_tokens) == len(prefix.top_logprobs) == n_rows
        if n_rows:
            np.testing.assert_array_equal(prefix.top_tokens, rows_of_passes(session, other, 60 - n_rows)[0])
    session.set_prefix(tokens)
    assert len(session.set_prefix(tokens[:40], 20).top_tokens) == 0
    assert len(session.set_prefix([], 20).top_tokens) == 0


def test_a_cancelled_call_leaves_no_rows(session):
    tokens = text_of(60)
    session.set_prefix(tokens[:30])
    session.cancel()
    with pytest.raises(Cancelled):
        session.set_prefix(tokens, 40, N_TOP)
    n_past = session.n_past
    assert n_past == 30
    prefix = session.set_prefix(tokens, 40, N_TOP)
    assert prefix.n_reused == n_past and len(prefix.top_tokens) == 60 - n_past
    np.testing.assert_array_equal(prefix.top_tokens, rows_of_passes(session, tokens, n_past)[0])


@pytest.mark.parametrize("kernels", ["stock", "ours"])
@pytest.mark.parametrize("n_batch", [2048, 32])
def test_outputs_change_no_bit_of_what_follows(kernels, n_batch, tiny_model_path):
    """Keys and values are the same: so are the logits of the next pass, all of them, and the text."""
    model = Model(tiny_model_path("tiny-llama"), kernels=kernels, n_threads=N_THREADS)
    settings = {**EXACT, "flash_attn": -1} if kernels == "ours" else EXACT
    tokens = text_of(75)

    def logits(n_outputs: int) -> list[np.ndarray]:
        session = Session(model, n_ctx=256, n_batch=n_batch, n_ubatch=32, n_rows_max=12, **settings)
        session.set_prefix(tokens, n_outputs, 1)
        tree = TokenTree(9)
        for token in range(10, 20):
            tree.add(0, token, 0.0)
        session.decode(tree, 1)
        return [session.logits(row) for row in range(tree.n_rows)]

    without = logits(0)
    for n_outputs in (1, 27, 75):
        assert np.array_equal(without, logits(n_outputs))

    def generated(proposer: str) -> list[int]:
        engine = Engine(model, n_ctx=256, rows=12, n_batch=n_batch, n_ubatch=32, **settings)
        results = engine.generate(tokens, GREEDY, max_tokens=40, ignore_eos=True, proposer=proposer)
        return [result.token for result in results]

    assert generated("all") == generated("none")


def test_outputs_of_a_prefix_are_no_pass(session):
    """What is read of a pass is read before the prefix changes; outputs of a prefix do not count as one."""
    session.decode(TokenTree(5))
    assert session.logits(0).shape == (session.model.info.n_vocab,)
    session.set_prefix(text_of(10), 4)
    with pytest.raises(StateError, match="no pass since the last change of the prefix"):
        session.logits(0)


OVERFLOWING = 77  # a token whose own row overflows in the end; what other tokens see of it is finite


@pytest.fixture(scope="module")
def overflowing_model(tmp_path_factory):
    """The first dimension is that of one token's embedding alone, and the last norm makes infinity of it."""
    path = tmp_path_factory.mktemp("models") / "overflowing.gguf"
    write_random_gguf(path, "tiny-llama")
    reader = gguf.GGUFReader(path, "r+")
    for tensor in reader.tensors:
        if tensor.name == "token_embd.weight":
            tensor.data[:, 0] = 0
            tensor.data[OVERFLOWING, 0] = 1000
        elif tensor.name == "output_norm.weight":
            tensor.data[0] = 3e38
        elif tensor.name.endswith(("attn_output.weight", "ffn_down.weight")):  # (rows of the output, of the input)
            tensor.data[0] = 0
    reader.data.flush()
    return Model(path)


def test_a_row_that_is_not_finite_is_no_failure(overflowing_model):
    """Nobody would see it in plain decoding. The rows after it count, those before it are left out."""
    session = Session(overflowing_model, n_ctx=256, n_batch=16, n_ubatch=16, n_rows_max=12, **EXACT)
    assert session.decode(TokenTree(OVERFLOWING)).best[0] == -1
    with pytest.raises(DecodeError, match="row 0 have NaN or infinite"):
        Sampler(overflowing_model, GREEDY).sample(session, 0)
    tokens = text_of(40)
    for places, n_rows in (([], 30), ([0], 30), ([9], 30), ([10], 29), ([15, 20], 19), ([16, 31], 8), ([39], 0)):
        text = [OVERFLOWING if i in places else token for i, token in enumerate(tokens)]
        session.set_prefix([])
        prefix = session.set_prefix(text, 30, N_TOP)
        assert session.n_past == 40 and len(prefix.top_tokens) == n_rows
        if n_rows:
            np.testing.assert_array_equal(prefix.top_tokens, rows_of_passes(session, text, 40 - n_rows)[0])
    prompt = [*tokens[:20], OVERFLOWING, *tokens[20:]]
    texts = []
    for proposer in ("none", "all"):
        engine = Engine(overflowing_model, n_ctx=256, rows=12, **EXACT)
        results = engine.generate(prompt, GREEDY, max_tokens=30, ignore_eos=True, proposer=proposer)
        texts.append([result.token for result in results])
    assert texts[0] == texts[1] and len(texts[0]) == 30

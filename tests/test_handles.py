"""Models, sessions and samplers as Python objects over the real core: order of closing, threads, forks, errors."""

import contextlib
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from maskprobe import (
    ArgumentError,
    Cancelled,
    Model,
    ModelError,
    Sampler,
    SamplingParams,
    Session,
    StateError,
    TokenTree,
    devices,
)
from random_gguf import write_random_gguf

GREEDY = SamplingParams(temp=0.0)
F32 = {"type_k": "f32", "type_v": "f32"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny-llama.gguf"
    write_random_gguf(path, "tiny-llama")
    return path


@pytest.fixture(scope="module")
def model(path):
    with Model(path) as model:
        yield model


@pytest.fixture
def session(model):
    with Session(model, n_ctx=512, n_threads=1, **F32) as session:
        yield session


def tokens_of(session, n=40) -> list[int]:
    """Greedy tokens, by hand."""
    text = [1, 40, 41, 42]
    session.set_prefix(text[:-1])
    for _ in range(n):
        text.append(int(session.decode(TokenTree(text[-1])).best[0]))
        session.commit([0])
    return text[4:]


# --- what the objects give -------------------------------------------------------------------------------------------


def test_facts_and_text(model, path):
    assert model.path == path and model.info.arch == "llama" and model.info.can_probe and model.info.can_tree
    assert model.metadata("general.architecture") == "llama" and model.metadata("no.such.key") is None
    text = "naïve 漢字 🙂\n"
    tokens = model.tokenize(text)
    assert tokens[0] == model.info.token_bos
    assert model.detokenize(model.tokenize(text, add_special=False)).decode().strip() == text.strip()
    assert model.tokenize(text.encode()) == tokens
    assert model.end_tokens == tuple(t for t in range(model.info.n_vocab) if model.is_end(t)) != ()
    rows = model.embedding_rows([3, 3, 4])
    assert rows.shape == (3, model.info.n_embd) and np.array_equal(rows[0], rows[1])
    assert "cpu" in [device.kind for device in devices()]


def test_outputs_of_a_pass(session):
    tree = TokenTree(7)
    tree.add(0, 8, -1.0)
    result = session.decode(tree, n_top=5)
    assert result.best.shape == (2,) and result.top_tokens.shape == result.top_logprobs.shape == (2, 5)
    for row in range(2):
        logits = session.logits(row).astype(np.float64)
        logprobs = logits - math.log(np.exp(logits - logits.max()).sum()) - logits.max()
        assert result.best[row] == result.top_tokens[row, 0] == logits.argmax()
        assert np.allclose(result.top_logprobs[row], np.sort(logprobs)[::-1][:5], atol=1e-4)
        assert session.logprob(row, 9) == pytest.approx(logprobs[9], abs=1e-4)
    session.commit([0, 1])
    assert session.n_past == 2
    session.rollback()
    assert session.n_past == 2 and session.set_prefix([7, 8]).n_reused == 2
    assert session.set_prefix([7]).n_reused == 1


def test_a_result_outlives_its_session(model):
    with Session(model, n_ctx=256, n_threads=1) as session:
        result = session.decode(TokenTree(7))
        logits = session.logits(0)
        best = int(result.best[0])
    assert result.best[0] == best == logits.argmax()


# --- order of closing ------------------------------------------------------------------------------------------------


def test_use_after_close(path):
    model = Model(path)
    session, sampler = Session(model, n_ctx=256, n_threads=1), Sampler(model, GREEDY)
    session.close(), session.close(), sampler.close()
    assert session.closed
    for call in (lambda: session.n_past, lambda: session.decode(TokenTree(1)), session.rollback):
        with pytest.raises(StateError, match="is closed"):
            call()
    session.cancel()  # a signal may come late
    with Session(model, n_ctx=256, n_threads=1) as other, pytest.raises(StateError, match="the sampler is closed"):
        sampler.sample(other, 0)
    model.token_bytes(5)
    model.close()
    with pytest.raises(StateError, match="the model is closed"):
        model.token_bytes(5)  # which it said before
    with pytest.raises(StateError, match="the model is closed"):
        model.tokenize("x")
    with pytest.raises(StateError, match="the model is closed"):
        Session(model)


def test_a_model_closed_before_its_session(path):
    model = Model(path)
    session, sampler = Session(model, n_ctx=256, n_threads=1), Sampler(model, GREEDY)
    model.close()
    result = session.decode(TokenTree(7))
    assert sampler.sample(session, 0) == result.best[0]


def test_the_interpreter_ends_with_everything_open(path):
    code = f"""
import maskprobe
model = maskprobe.Model({str(path)!r})
session = maskprobe.Session(model, n_ctx=256, n_threads=1)
sampler = maskprobe.Sampler(model, maskprobe.SamplingParams())
engine = maskprobe.Engine(model, n_ctx=256, n_threads=1, proposer="esp", n_parallel=2)
generations = [engine.generate([1, 2, 3]), engine.generate([1, 2])]
print(next(generations[0]).token)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.strip().isdigit()


# --- threads, signals, forks -----------------------------------------------------------------------------------------


def test_cancel_from_another_thread(model):
    """The call that is running ends; afterwards the session goes on as if nothing had been."""
    with Session(model, n_ctx=1024, n_threads=1, n_batch=64, **F32) as session:
        expected = tokens_of(session)
        timer = threading.Timer(0.2, session.cancel)
        timer.start()
        with pytest.raises(Cancelled):
            while True:
                session.set_prefix([])
                session.set_prefix([1] * 900)
        timer.join()
        assert tokens_of(session) == expected


def test_a_second_thread_is_refused(model):
    with Session(model, n_ctx=1024, n_threads=1, n_batch=16, **F32) as session:
        stop = threading.Event()

        def evaluate():
            while not stop.is_set():
                with contextlib.suppress(StateError):  # the other thread was inside
                    session.set_prefix([])
                    session.set_prefix([1] * 900)

        thread = threading.Thread(target=evaluate)
        thread.start()
        refused = ""
        deadline = time.monotonic() + 30
        while not refused and time.monotonic() < deadline:
            try:
                session.set_prefix([2])
            except StateError as error:
                refused = error.status
            time.sleep(0.001)  # outside: else the other thread may always come while this one is inside
        stop.set()
        thread.join()
        assert refused == "busy"


def test_close_waits_for_no_one(model):
    session = Session(model, n_ctx=256, n_threads=1)
    with session._handle, pytest.raises(StateError, match="another thread is inside this session"):
        session.close()
    assert not session.closed and session.set_prefix([1, 2]).n_reused == 0
    session.close()


def test_a_forked_child_is_told_and_frees_nothing(session):
    expected = tokens_of(session)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            session.decode(TokenTree(1))
        except StateError as error:
            session.close()
            status = 0 if error.status == "state" else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert tokens_of(session) == expected


# --- errors ----------------------------------------------------------------------------------------------------------


def test_files_that_are_refused(tmp_path):
    other = tmp_path / "other.gguf"
    other.write_bytes(b"not a model, whatever its name says")
    for path, status in [(tmp_path / "missing.gguf", "file"), (tmp_path, "file"), (other, "format")]:
        with pytest.raises(ModelError) as caught:
            Model(path)
        assert caught.value.status == status and str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ArgumentError, match="NUL"):
        Model("a\0b")


def test_progress_and_its_failures(path):
    seen = []
    Model(path, progress=seen.append).close()
    assert seen and seen == sorted(seen) and 0.0 <= seen[0] <= seen[-1] <= 1.0
    with pytest.raises(Cancelled):
        Model(path, progress=lambda fraction: False)

    def fails(fraction):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        Model(path, progress=fails)


def test_values_that_are_refused(model, session):
    n_vocab, n_embd = model.info.n_vocab, model.info.n_embd
    masked, short, wide = TokenTree(1), TokenTree(1), TokenTree(1)
    masked.add_masks(0, np.zeros((1, n_embd + 1), np.float32))
    short.add(0, n_vocab, 0.0)
    for token in range(64):
        wide.add(0, token, 0.0)
    for call, said in [
        (lambda: session.decode(masked), f"{n_embd + 1} values, the model has {n_embd}"),
        (lambda: session.decode(short), f"token {n_vocab}"),
        (lambda: session.decode(wide), "65 rows, the context was opened for 64"),
        (lambda: session.decode(TokenTree(2**40)), "does not fit 32 bits"),
        (lambda: session.decode(TokenTree(1), n_top=0), "n_top = 0"),
        (lambda: session.set_prefix([1, -1]), "token -1 at 1"),
        (lambda: session.set_prefix([1.5]), "must be integers"),
        (lambda: session.set_prefix([[1]]), r"of shape \(1, 1\)"),
        (lambda: session.set_prefix([2**40]), "do not fit 32 bits"),
        (lambda: session.set_prefix([1], -1), "n_outputs = -1 must be between 0 and 256"),
        (lambda: session.set_prefix([1], 257), "n_outputs = 257 must be between 0 and 256"),
        (lambda: session.set_prefix([1], 1, 0), "n_top = 0 must be between 1 and .* 64"),
        (lambda: session.set_prefix([1], 1, 65), "n_top = 65 must be between 1 and .* 64"),
        (lambda: session.set_prefix([1], 2**40), "n_outputs = 1099511627776 .* is not possible"),
        (lambda: model.embedding_rows([n_vocab]), f"{n_vocab}"),
        (lambda: model.tokenize("\ud800"), "not valid Unicode"),
        (lambda: model.tokenize("a\0b"), "NUL"),
        (lambda: model.tokenize(b"\xff"), "UTF-8"),
        (lambda: model.token_bytes(n_vocab), f"{n_vocab}"),
        (lambda: Session(model, n_ctx=2**40), "n_ctx = 1099511627776 is not possible"),
        (lambda: Session(model, n_rows_max=300), "300"),
        (lambda: Session(model, type_k="f12"), "f12"),
        (lambda: Sampler(model, SamplingParams(temp=math.nan)), "temp"),
        (lambda: Sampler(model, SamplingParams(seed=-2)), "seed = -2 is out of range"),
        (lambda: Sampler(model, SamplingParams(seed=2**32)), "seed = 4294967296 is out of range"),
        (lambda: Sampler(model, SamplingParams(logit_bias={n_vocab: 1.0})), f"{n_vocab}"),
        (lambda: Sampler(model, SamplingParams(grammar="root :=")), "grammar"),
        (lambda: Sampler(model, SamplingParams(top_k="x")), "top_k = 'x' is not possible"),
    ]:
        with pytest.raises(ArgumentError, match=said):
            call()
    assert session.n_past == 0


def test_a_commit_without_a_pass(session):
    with pytest.raises(StateError, match="nothing to commit"):
        session.commit([0])


@pytest.mark.parametrize(
    ("stub", "said"),
    [
        (
            "__version__ = '0.3.1'",
            "needs llama-cpp-python 0.3.36, installed is 0.3.1: pip install llama-cpp-python==0.3.36",
        ),
        (
            "raise OSError('libgomp is missing')",
            "cannot be imported (libgomp is missing): pip install llama-cpp-python==",
        ),
    ],
)
def test_another_llama_cpp_python_is_refused(tmp_path, stub, said):
    (tmp_path / "llama_cpp.py").write_text(stub)
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", "import maskprobe"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and said in done.stderr.strip().splitlines()[-1]

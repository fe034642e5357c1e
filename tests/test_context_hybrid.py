"""Several sessions with recurrent states in one context: each state follows its own tokens."""

import gguf
import numpy as np
import pytest

from maskprobe import ArgumentError, Cancelled, Context, Model, ModelError, Session, StateError, TokenTree
from random_gguf import SHAPES, tiny, write_random_gguf
from random_hybrid import HYBRIDS, N_VOCAB, write_random_hybrid

MAX_CHAIN = 7
SETTINGS = {"n_ctx": 256, "n_rows_max": 64, "n_threads": 1, "type_k": "f32", "type_v": "f32"}
NAN_TOKEN = 77


@pytest.fixture(scope="module")
def path_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrids")

    def path(arch: str):
        target = folder / f"{arch}.gguf"
        if arch == "mamba":
            return target if target.exists() else write_random_gguf(target, "tiny-mamba") or target
        return target if target.exists() else write_random_hybrid(target, arch)

    return path


@pytest.fixture(scope="module", params=[arch for arch in HYBRIDS if arch != "deepseek4"])
def model(request, path_of):
    return Model(path_of(request.param), n_threads=1)


@pytest.fixture(scope="module")
def lfm2(path_of):
    return Model(path_of("lfm2"), n_threads=1)


def opened(model: Model, n_sessions_max: int = 4, **settings) -> Context:
    return Context(model, n_sessions_max=n_sessions_max, **{**SETTINGS, **settings})


def text_of(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(100, N_VOCAB - 2, n).tolist()


def chain(tokens: list[int]) -> TokenTree:
    tree = TokenTree(tokens[0])
    for node, token in enumerate(tokens[1:]):
        tree.add(node, token, 0.0)
    return tree


def plain_logits(model: Model, tokens: list[int]) -> np.ndarray:
    """What follows `tokens`, from a context of its own."""
    with Session(model, **SETTINGS, flash_attn=1) as session:
        session.set_prefix(tokens[:-1])
        session.decode(TokenTree(tokens[-1]))
        return session.logits(0)


def assert_holds(session: Session, tokens: list[int]) -> None:
    assert session.n_past == len(tokens)
    session.decode(TokenTree(9))
    logits = session.logits(0)
    session.rollback()
    # ggml's flash attention, for heads that are not ours, sums in half precision
    np.testing.assert_allclose(logits, plain_logits(session.model, [*tokens, 9]), atol=0.05)


def test_chains_of_one_pass(model):
    """Whatever is accepted of each; with a session between them that is not in the pass."""
    random = np.random.default_rng(0)
    context = opened(model)
    sessions = [context.session() for _ in range(4)]
    texts = [text_of(n, seed=n) for n in (40, 5, 90, 17)]
    for session, text in zip(sessions, texts, strict=True):
        session.set_prefix(text)
    for _ in range(8):
        chosen = [i for i in range(4) if random.integers(3)] or [3]
        n_rows = int(random.integers(1, 2 + MAX_CHAIN))
        new = [text_of(n_rows, int(random.integers(1000))) for _ in chosen]
        passes = context.decode([(sessions[i], chain(tokens)) for i, tokens in zip(chosen, new, strict=True)])
        for i, tokens, result in zip(chosen, new, passes, strict=True):
            row = int(random.integers(n_rows))
            expected = plain_logits(model, texts[i] + tokens[: row + 1])
            np.testing.assert_allclose(sessions[i].logits(row), expected, atol=0.05)
            assert result.n_rows == n_rows
        for i, tokens in zip(chosen, new, strict=True):
            n_accepted = int(random.integers(1, n_rows + 1))
            sessions[i].commit(list(range(n_accepted)))
            texts[i] += tokens[:n_accepted]
    for session, text in zip(sessions, texts, strict=True):
        assert_holds(session, text)


def test_chains_of_one_pass_have_one_length(lfm2):
    context = opened(lfm2)
    a, b = context.session(), context.session()
    a.set_prefix(text_of(20))
    with pytest.raises(ModelError, match="chains of 3 and of 2 rows in one pass on a lfm2 model"):
        context.decode([(a, chain([3, 4, 5])), (b, chain([3, 4]))])
    assert_holds(a, text_of(20))


def test_a_fork_takes_the_state_along(model):
    """Also one that was taken back, and one that is lost with a pass."""
    context = opened(model)
    tokens = text_of(30, 3)
    a = context.session()
    a.set_prefix(tokens)
    a.decode(chain([7, 8, 9, 10, 11]))
    a.commit([0, 1, 2])
    tokens += [7, 8, 9]
    b = a.fork()
    a.decode(chain([20, 21, 22]))
    c = a.fork()
    for session, root in ((b, 30), (a, 40)):
        session.decode(chain([root, 31, 32]))
        session.commit([0, 1])
        assert_holds(session, [*tokens, root, 31])
    assert_holds(c, tokens)
    a.close()
    assert b.set_prefix(tokens[:30]).n_reused == 30  # the place to return to went along
    assert_holds(b, tokens[:30])
    assert_holds(c, tokens)


def test_a_pass_between_a_pass_and_its_commit(model):
    context = opened(model)
    sessions = [context.session() for _ in range(3)]
    texts = [text_of(20 + 5 * i, seed=i) for i in range(3)]
    for session, text in zip(sessions, texts, strict=True):
        session.set_prefix(text)
    sessions[2].decode(chain([5, 6, 7, 8]))
    context.decode([(sessions[0], chain([7, 8, 9])), (sessions[1], chain([10, 11, 12]))])
    sessions[2].commit([0, 1])
    sessions[1].commit([0])
    sessions[0].commit([0, 1, 2])
    for session, text, new in zip(sessions, texts, ([7, 8, 9], [10], [5, 6]), strict=True):
        assert_holds(session, text + new)


def test_a_cancelled_pass_of_some(model):
    context = opened(model)
    sessions = [context.session() for _ in range(3)]
    texts = [text_of(20 + 5 * i, seed=i) for i in range(3)]
    for session, text in zip(sessions, texts, strict=True):
        session.set_prefix(text)
        session.decode(chain([3, 4, 5, 6]))
        session.commit([0, 1])
    context.cancel()
    with pytest.raises(Cancelled):
        context.decode([(session, chain([3, 4])) for session in sessions[:2]])
    for session, text in zip(sessions, texts, strict=True):
        assert_holds(session, [*text, 3, 4])


def test_where_llama_cpp_keeps_one_state(path_of):
    model = Model(path_of("deepseek4"), n_threads=1)
    with pytest.raises(ArgumentError, match=r"n_sessions_max = 2: .* keeps one state of a deepseek4 model"):
        opened(model, 2)
    session = opened(model, 1).session()
    session.set_prefix(text_of(20))
    assert_holds(session, text_of(20))


def test_a_pure_recurrent_model_has_several_sessions_too(path_of):
    model = Model(path_of("mamba"), n_threads=1)
    context = opened(model)
    sessions = [context.session() for _ in range(4)]
    texts = [text_of(10 + i, seed=i) for i in range(4)]
    for session, text in zip(sessions, texts, strict=True):
        session.set_prefix(text)
    for step in range(3):
        chosen = [i for i in range(4) if i != step]
        context.decode([(sessions[i], TokenTree(20 + i)) for i in chosen])
        for i in chosen:
            np.testing.assert_allclose(sessions[i].logits(0), plain_logits(model, [*texts[i], 20 + i]), atol=1e-3)
            sessions[i].commit([0])
            texts[i].append(20 + i)
    sessions[0].close()
    fork = sessions[1].fork()
    for session, text in ((fork, texts[1]), (sessions[1], texts[1]), (sessions[3], texts[3])):
        assert_holds(session, text)
    with pytest.raises(StateError, match="n_sessions_max = 4"):
        context.session()


@pytest.fixture(scope="module")
def nan_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "nan-mamba.gguf"
    sizes = {"heads": 0, "kv_heads": 0, "head_dim": 0, "ffn": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "untied-mamba", tiny("mamba", tied_head=False, **sizes))
        write_random_gguf(path, "untied-mamba")
    reader = gguf.GGUFReader(path, "r+")
    for tensor in reader.tensors:
        if tensor.name == "token_embd.weight":
            tensor.data[NAN_TOKEN, :] = np.nan
    reader.data.flush()
    return Model(path, n_threads=1)


def test_a_state_that_is_nan_stays_with_its_session(nan_model):
    """llama.cpp clears a state by multiplying it by zero."""
    context = opened(nan_model, 3)
    good, bad, third = (context.session() for _ in range(3))
    good.set_prefix(text_of(20, 1))
    third.set_prefix(text_of(9, 2))
    bad.set_prefix([5, NAN_TOKEN, 6])
    passes = context.decode([(good, TokenTree(5)), (bad, TokenTree(5)), (third, TokenTree(6))])
    assert [result.best[0] >= 0 for result in passes] == [True, False, True]
    for session in (good, bad, third):
        session.commit([0])
    bad.set_prefix(text_of(12, 3))
    assert_holds(bad, text_of(12, 3))
    bad.set_prefix([5, NAN_TOKEN, 6])
    third.close()
    bad.close()
    for seed in (4, 5):
        late = context.session()
        late.set_prefix(text_of(12, seed))
        assert np.isfinite(plain_logits(nan_model, text_of(12, seed))).all()
        assert_holds(late, text_of(12, seed))
    assert_holds(good, [*text_of(20, 1), 5])

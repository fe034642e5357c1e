"""Models with a recurrent state draft chains: the state goes back to the last accepted token, whatever happens."""

import contextlib
import threading

import gguf
import numpy as np
import pytest

from conftest import EXACT
from hybrid_layers import HYBRIDS as PLAIN_HYBRIDS
from hybrids import GREEDY, MAX_CHAIN, chain, engine_on, generated, pair_of, paths_in, text_of
from maskprobe import (
    Cancelled,
    ContextFull,
    DecodeError,
    Model,
    ModelError,
    Sampler,
    Session,
    StateError,
    TokenTree,
)
from maskprobe.proposers import SOURCES
from random_hybrid import HYBRIDS, N_CTX, N_VOCAB, write_random_hybrid

N_TOP = 8
ROUNDING = 1e-3  # of logits with a deviation of about 10: llama.cpp's F32 products differ in one row and in several


@pytest.fixture(scope="module")
def path_of(tmp_path_factory):
    return paths_in(tmp_path_factory.mktemp("hybrids"))


@pytest.fixture(scope="module", params=HYBRIDS)
def arch(request):
    return request.param


@pytest.fixture(scope="module")
def model(arch, path_of):
    return Model(path_of(arch), n_threads=1)


@pytest.fixture(scope="module", params=["stock", "ours"])
def pair(request, arch, path_of):
    return pair_of(path_of(arch), arch, request.param)


@pytest.fixture(scope="module")
def lfm2(path_of):
    return Model(path_of("lfm2"), n_threads=1)


def opened(model: Model, settings: dict = EXACT, **more) -> Session:
    return Session(model, **{"n_ctx": 256, "n_rows_max": 16, "n_top_max": 16, **settings, **more})


def plain_logits(model: Model, tokens: list[int], settings: dict = EXACT) -> np.ndarray:
    """What follows `tokens`, from a session of its own that takes single rows."""
    with opened(model, settings, n_rows_max=1) as session:
        session.set_prefix(tokens[:-1])
        session.decode(TokenTree(tokens[-1]))
        return session.logits(0)


def assert_same(logits: np.ndarray, expected: np.ndarray, settings: dict) -> None:
    """Bit for bit with our kernels."""
    if settings["flash_attn"]:
        np.testing.assert_array_equal(logits, expected)
    else:
        np.testing.assert_allclose(logits, expected, atol=ROUNDING)


def assert_holds(session: Session, tokens: list[int], settings: dict = EXACT) -> None:
    """The cache and the state are those of `tokens`: what follows another token is what it should be."""
    assert session.n_past == len(tokens)
    session.decode(TokenTree(9))
    logits = session.logits(0)
    session.rollback()
    assert_same(logits, plain_logits(session.model, [*tokens, 9], settings), settings)


# --- facts -----------------------------------------------------------------------------------------------------------


def test_what_the_model_says(model):
    info = model.info
    assert not info.can_tree and not info.can_probe and info.max_chain == MAX_CHAIN and info.state_size > 0
    assert f"chains of up to {MAX_CHAIN} candidates" in info.note and f"{1 + MAX_CHAIN} states of" in info.note
    assert "\n" not in info.note and len(info.note) < 255
    for n_rows_max in (1, 2, 5, 8, 64):
        session = opened(model, n_rows_max=n_rows_max)
        assert session.max_chain == min(MAX_CHAIN, n_rows_max - 1) and session.max_rows == 1 + session.max_chain


def test_without_the_trial_llama_cpps_word_counts(path_of):
    assert Model(path_of("lfm2"), self_check=False).info.max_chain == MAX_CHAIN


def test_a_pure_recurrent_model_decodes_plainly(tiny_model_path):
    model = Model(tiny_model_path("tiny-mamba"))
    assert model.info.max_chain == 0 and "decoding plainly" in model.info.note
    session = opened(model)
    assert session.max_chain == 0 and session.max_rows == 1
    assert not any(source.runs_on(model) for source in SOURCES.values())
    with pytest.raises(ModelError, match="recurrent"):
        session.decode(chain([3, 4]))


def test_a_model_with_trees_has_no_chain(tiny_model_path):
    model = Model(tiny_model_path("tiny-llama"))
    session = opened(model)
    assert (model.info.max_chain, model.info.state_size, session.max_chain, session.max_rows) == (0, 0, 0, 16)


@pytest.mark.parametrize("flash_attn", [0, 1])
def test_either_kind_of_kernels_gives_these_logits(path_of, arch, flash_attn):
    tokens = text_of(50)
    settings = {**EXACT, "flash_attn": flash_attn}
    both = [plain_logits(Model(path_of(arch), kernels=k, n_threads=1), tokens, settings) for k in ("stock", "ours")]
    np.testing.assert_allclose(*both, atol=ROUNDING if flash_attn == 0 else 0.1)  # ggml's has half precision there


# --- passes ----------------------------------------------------------------------------------------------------------


def test_rows_of_a_chain_are_those_of_single_passes(pair):
    """And what follows, whatever part of the chain is accepted."""
    model, settings = pair
    tokens = text_of(40)
    prefix, rest = tokens[:20], tokens[20:]
    single = opened(model, settings, n_rows_max=1)
    single.set_prefix(prefix)
    expected = []
    for token in rest:
        single.decode(TokenTree(token))
        expected.append(single.logits(0))
        single.commit([0])

    session = opened(model, settings)
    for n_accepted in range(1, 2 + MAX_CHAIN):
        for n_rows in range(n_accepted, 2 + MAX_CHAIN):
            session.set_prefix(prefix)
            wrong = [3] * (n_rows - n_accepted)
            session.decode(chain([*rest[:n_accepted], *wrong]))
            for row in range(n_accepted):
                assert_same(session.logits(row), expected[row], settings)
            session.commit(list(range(n_accepted)))
            assert session.n_past == len(prefix) + n_accepted
            # One that is taken back at once again, and one that is accepted.
            session.decode(chain([*rest[n_accepted : n_accepted + 2], 5, 6]))
            assert_same(session.logits(0), expected[n_accepted], settings)
            session.commit([0, 1])
            session.decode(TokenTree(rest[n_accepted + 2]))
            assert_same(session.logits(0), expected[n_accepted + 2], settings)
            session.rollback()


def test_what_is_no_chain_is_refused(lfm2):
    session = opened(lfm2)
    tokens = text_of(10)
    session.set_prefix(tokens)
    tree = TokenTree(5)
    tree.add(0, 6, 0.0)
    tree.add(0, 7, 0.0)
    with pytest.raises(ModelError, match="node 2 has parent 0: a lfm2 model has one recurrent state"):
        session.decode(tree)
    with pytest.raises(ModelError, match="a chain of 9 rows on a lfm2 model: 7 can be taken back, so 8 rows at most"):
        session.decode(chain(list(range(3, 12))))
    masked = TokenTree(5)
    masked.add_masks(0, np.zeros((1, lfm2.info.n_embd), np.float32))
    with pytest.raises(ModelError, match="embedding rows"):
        session.decode(masked)
    assert_holds(session, tokens)


# --- the state after all that may happen -----------------------------------------------------------------------------


def test_a_whole_pass_is_taken_back(pair):
    """After a prefix, and after tokens that were committed since."""
    model, settings = pair
    tokens = text_of(30)
    session = opened(model, settings)
    session.set_prefix(tokens[:20])
    assert_holds(session, tokens[:20], settings)
    for _ in range(2):
        session.decode(chain([7, 8, 9, 10]))
        session.rollback()
        assert_holds(session, tokens[:20], settings)
    session.decode(chain([*tokens[20:24], 3, 3, 3]))
    session.commit([0, 1, 2, 3])
    session.decode(chain([3, 4, 5]))
    session.rollback()
    assert_holds(session, tokens[:24], settings)


def test_another_prefix(pair):
    """Shorter, longer, different in the middle; before and after the place where the last prefix ended."""
    model, settings = pair
    tokens, others = text_of(60), text_of(60, seed=1)
    session = opened(model, settings)
    session.set_prefix(tokens[:30])
    session.decode(chain([*tokens[30:34], 3, 3]))
    session.commit([0, 1, 2, 3])
    for prefix, n_reused in (
        (tokens[:34], 34),
        (tokens[:32], 30),  # where the prefix before ended
        ([*tokens[:32], *others[:9]], 32),
        (tokens[:10], 0),
        ([], 0),
        (others, 0),
        (others[:59], 0),
        ([*others[:59], 7], 59),
    ):
        assert session.set_prefix(prefix).n_reused == n_reused
        assert_holds(session, list(prefix), settings)
    session.set_prefix(tokens[:30])
    session.decode(chain([7, 8]))  # uncommitted
    session.set_prefix(tokens[:40])
    assert_holds(session, tokens[:40], settings)


def test_the_end_of_the_last_prefix_is_a_place_to_return_to(pair):
    """The same prompt once more is not evaluated again."""
    model, settings = pair
    tokens = text_of(60)
    session = opened(model, settings)
    assert session.set_prefix(tokens[:30]).n_reused == 0
    for prefix, n_reused in ((tokens[:30], 30), (tokens[:32], 30), (tokens[:31], 0)):
        session.decode(chain([*tokens[len(prefix) : len(prefix) + 4], 3, 3]))
        session.commit([0, 1, 2, 3])
        assert session.n_past > len(prefix) and session.set_prefix(prefix).n_reused == n_reused
    assert_holds(session, tokens[:31], settings)


def test_a_cancelled_pass_or_prefix(pair):
    model, settings = pair
    tokens = text_of(60)
    session = opened(model, settings, n_batch=16, n_ubatch=16)
    session.set_prefix(tokens[:20])
    session.decode(chain([*tokens[20:23], 4]))
    session.commit([0, 1, 2])
    session.cancel()
    with pytest.raises(Cancelled):
        session.decode(chain([5, 6, 7]))
    assert_holds(session, tokens[:23], settings)
    session.cancel()
    with pytest.raises(Cancelled):
        session.set_prefix(tokens)
    assert_holds(session, tokens[: session.n_past], settings)
    session.set_prefix(tokens[:20])
    session.decode(chain([*tokens[20:23], 4]))
    session.commit([0, 1, 2])
    session.decode(TokenTree(5))
    session.rollback()
    session.cancel()  # while the lost state comes back
    with pytest.raises(Cancelled):
        session.decode(chain([5, 6, 7]))
    assert_holds(session, tokens[:23], settings)
    session.set_prefix(tokens)
    assert_holds(session, tokens, settings)


def test_a_pass_that_is_aborted_from_another_thread(lfm2):
    """Within llama.cpp: some layers have the new state then, others the old one."""
    session = opened(lfm2, n_batch=512, n_ubatch=512, n_ctx=N_CTX)
    tokens = text_of(900)
    session.set_prefix(tokens[:100])
    session.decode(chain(tokens[100:105]))
    session.commit([0, 1, 2, 3, 4])
    n_cancelled = 0
    for microseconds in range(0, 4000, 200):
        timer = threading.Timer(microseconds / 1e6, session.cancel)
        timer.start()
        try:
            session.set_prefix(tokens)
        except Cancelled:
            n_cancelled += 1
        timer.join()
        with contextlib.suppress(Cancelled):  # one that came too late for the prefix
            session.decode(TokenTree(3))
        session.rollback()
        assert_holds(session, tokens[: session.n_past])
        session.set_prefix(tokens[:105])
    assert n_cancelled > 0


def test_the_end_of_the_context(pair):
    model, settings = pair
    session = opened(model, settings)
    tokens = text_of(session.n_ctx)
    session.set_prefix(tokens[:-5])
    with pytest.raises(ContextFull):
        session.decode(chain(list(range(3, 10))))
    assert_holds(session, tokens[:-5], settings)
    session.decode(chain(tokens[-5:]))
    session.commit([0, 1, 2, 3, 4])
    with pytest.raises(ContextFull):
        session.decode(TokenTree(3))
    session.set_prefix(tokens[:-2])
    assert_holds(session, tokens[:-2], settings)
    engine = engine_on(model, settings)
    plain, _ = generated(engine, "none", GREEDY, tokens[:-20], 100)
    drafted, stats = generated(engine, "ngram", GREEDY, tokens[:-20], 100)
    assert drafted == plain and len(plain) == 21 and stats.finish_reason == "context"


OVERFLOWING = 77  # a token whose own row overflows in the end; what other tokens see of it is finite


@pytest.fixture(scope="module", params=PLAIN_HYBRIDS)
def overflowing_model(request, tmp_path_factory):
    """The first dimension is that of one token's embedding alone, and the last norm makes infinity of it."""
    arch = request.param
    path = write_random_hybrid(tmp_path_factory.mktemp("overflowing") / f"{arch}.gguf", arch)
    reader = gguf.GGUFReader(path, "r+")
    for tensor in reader.tensors:
        if tensor.name == "token_embd.weight":
            tensor.data[:, 0] = 0
            tensor.data[OVERFLOWING, 0] = 1000
        elif tensor.name == f"{PLAIN_HYBRIDS[arch].output_norm}.weight":
            tensor.data[0] = 3e38
        elif tensor.name.endswith(("attn_output.weight", "out_proj.weight", "ssm_out.weight", "ffn_down.weight")):
            tensor.data[0] = 0
        elif tensor.name.endswith("ffn_down_exps.weight"):
            tensor.data[:, 0] = 0
        elif tensor.name.endswith("ffn_down_shexp.weight"):
            tensor.data[0] = 0
    reader.data.flush()
    return Model(path, n_threads=1)


def test_a_row_that_is_not_finite(overflowing_model):
    """It is no failure of the pass, but nothing can be drawn there."""
    session = opened(overflowing_model)
    tokens = text_of(30)
    session.set_prefix(tokens[:20])
    session.decode(chain([*tokens[20:22], 3]))
    session.commit([0, 1])
    result = session.decode(chain([5, OVERFLOWING, 7]))
    assert result.best[1] == -1 and result.best[0] >= 0 and result.best[2] >= 0
    with pytest.raises(DecodeError, match="row 1 have NaN or infinite"):
        Sampler(overflowing_model, GREEDY).sample(session, 1)
    session.rollback()
    assert_holds(session, tokens[:22])
    with pytest.raises(StateError, match="no pass"):
        session.commit([0])


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_the_state_is_that_of_the_tokens(pair, seed):
    model, settings = pair
    random = np.random.default_rng(seed)
    session = opened(model, settings, n_batch=16, n_ubatch=16)
    held: list[int] = []
    for _ in range(40):
        action = random.integers(6)
        new = random.integers(3, N_VOCAB - 2, int(random.integers(1, 2 + MAX_CHAIN))).tolist()
        if len(held) > 200 or action == 0:
            held = [*held[: int(random.integers(len(held) + 1))], *new]
            session.set_prefix(held)
        elif action == 1:
            session.cancel()
            with pytest.raises(Cancelled):
                session.decode(chain(new))
        elif action == 2:
            session.decode(chain(new))
            session.rollback()
        else:
            session.decode(chain(new))
            n_accepted = int(random.integers(1, len(new) + 1))
            session.commit(list(range(n_accepted)))
            held += new[:n_accepted]
        assert session.n_past == len(held)
        if held and random.integers(4) == 0:
            assert_holds(session, held, settings)

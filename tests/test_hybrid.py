"""Models with a recurrent state draft chains: the state goes back to the last accepted token, whatever happens."""

import contextlib
import json
import math
import threading

import gguf
import numpy as np
import pytest

from conftest import EXACT
from fakes import FakeModel, FakeSession, decode_with
from hybrid_layers import HYBRIDS as PLAIN_HYBRIDS
from maskprobe import (
    ArgumentError,
    Cancelled,
    Context,
    ContextFull,
    DecodeError,
    Engine,
    MaskProbe,
    Model,
    ModelError,
    Proposer,
    Sampler,
    SamplingParams,
    Session,
    StateError,
    TokenTree,
    proposer_named,
)
from maskprobe.cli import run
from maskprobe.proposers import SOURCES
from maskprobe.proposers.oracle import Oracle
from random_hybrid import HYBRIDS, N_CTX, N_VOCAB, write_random_hybrid

MAX_CHAIN = 7
N_TOP = 8
GREEDY = SamplingParams(temp=0.0)
SAMPLED = SamplingParams(temp=0.8, seed=7)
ROUNDING = 1e-3  # of logits with a deviation of about 10: llama.cpp's F32 products differ in one row and in several
# Their keys and values differ in width: attention is llama.cpp's, which rounds by the number of rows.
WITHOUT_OUR_ATTENTION = ("bailingmoe3", "kimi-k3")
CHAINED = ("all", "lookup", "ngram", "lookahead", "recycle", "logits")  # sources that need no masks


@pytest.fixture(scope="module")
def path_of(tmp_path_factory):
    """path(arch): a tiny model, made on first use."""
    folder = tmp_path_factory.mktemp("hybrids")

    def path(arch: str):
        target = folder / f"{arch}.gguf"
        return target if target.exists() else write_random_hybrid(target, arch)

    return path


@pytest.fixture(scope="module", params=HYBRIDS)
def arch(request):
    return request.param


@pytest.fixture(scope="module")
def model(arch, path_of):
    return Model(path_of(arch), n_threads=1)


@pytest.fixture(scope="module", params=["stock", "ours"])
def pair(request, arch, path_of):
    """A model with either kind of kernels, and the settings of its sessions."""
    exact = request.param == "ours" and arch not in WITHOUT_OUR_ATTENTION
    return Model(path_of(arch), kernels=request.param, n_threads=1), {**EXACT, "flash_attn": 1 if exact else 0}


@pytest.fixture(scope="module")
def lfm2(path_of):
    return Model(path_of("lfm2"), n_threads=1)


def text_of(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, N_VOCAB - 2, n).tolist()


def chain(tokens: list[int]) -> TokenTree:
    tree = TokenTree(tokens[0])
    for node, token in enumerate(tokens[1:]):
        tree.add(node, token, 0.0)
    return tree


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


def engine_on(model: Model, settings: dict = EXACT, **more) -> Engine:
    return Engine(model, **{"n_ctx": 256, "rows": 1 + MAX_CHAIN, **settings, **more})


def generated(engine: Engine, proposer: Proposer | str, sampling: SamplingParams, prompt: list[int], n: int):
    """The tokens and the counts."""
    generation = engine.generate(prompt, sampling, max_tokens=n, ignore_eos=True, proposer=proposer)
    return [r.token for r in generation], generation.stats


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


# --- generations -----------------------------------------------------------------------------------------------------

PROMPT = text_of(24, seed=2) * 2  # it repeats itself: look-ups find something


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "T 0.8"])
def test_drafting_changes_no_token(pair, sampling):
    """With every source on the commoner models, with two on the others."""
    model, settings = pair
    engine = engine_on(model, settings)
    expected, _ = generated(engine, "none", sampling, PROMPT, 60)
    for source in CHAINED if model.info.arch in PLAIN_HYBRIDS else ("all", "recycle"):
        for _ in range(2):  # the second time it has learned something
            assert generated(engine, source, sampling, PROMPT, 60)[0] == expected, source


def right_candidates(text: list[int]) -> Oracle:
    return Oracle(text, N_VOCAB, tau=1 + MAX_CHAIN, rows=1 + MAX_CHAIN, depth_max=MAX_CHAIN)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "T 0.8"])
def test_an_oracle_gives_whole_chains(pair, sampling):
    model, settings = pair
    n = 1 + 10 * (1 + MAX_CHAIN)
    engine = engine_on(model, settings)
    expected, plain = generated(engine, "none", sampling, PROMPT, n)
    tokens, stats = generated(engine, right_candidates(PROMPT + expected), sampling, PROMPT, n)
    assert tokens == expected
    assert plain.passes == n - 1 and stats.passes == 10
    assert stats.accept_hist == [0] * MAX_CHAIN + [10]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "T 0.8"])
def test_an_adversary_gives_plain_decoding(pair, sampling):
    model, settings = pair
    engine = engine_on(model, settings)
    expected, _ = generated(engine, "none", sampling, PROMPT, 60)
    tokens, stats = generated(engine, Adversary(PROMPT + expected), sampling, PROMPT, 60)
    assert tokens == expected and stats.passes == 59 and stats.accept_hist == [59]
    assert stats.rows > 60


class Adversary(Proposer):
    """Knows the text, and offers chains that are wrong from the first or the second token on."""

    n_rows_max = 1 + MAX_CHAIN

    def __init__(self, text: list[int]) -> None:
        self._text = text

    def propose(self, context, room):
        coming = self._text[len(context) : len(context) + 1]
        tokens = [token for token in range(3, 3 + 1 + MAX_CHAIN) if token not in coming]
        return chain([context[-1], *tokens][: min(room, self.n_rows_max)])


class CancelsAt(Proposer):
    """Stops the pass number n of a source of candidates."""

    def __init__(self, source: Proposer, context: Context, n: int) -> None:
        self.n_rows_max, self.n_top = source.n_rows_max, source.n_top
        self._source, self._context, self._n_left = source, context, n

    def propose(self, context, room):
        self._n_left -= 1
        if self._n_left == 0:
            self._context.cancel()
        return self._source.propose(context, room)


def test_a_generation_goes_on_after_a_pass_that_was_cancelled(pair):
    model, settings = pair
    engine = engine_on(model, settings)
    expected, _ = generated(engine, "none", GREEDY, PROMPT, 60)
    text = PROMPT + expected
    for n in (1, 2, 5):
        proposer = CancelsAt(right_candidates(text), engine.context, n)
        generation = engine.generate(PROMPT, GREEDY, max_tokens=60, ignore_eos=True, proposer=proposer)
        tokens = []
        with pytest.raises(Cancelled):
            tokens.extend(r.token for r in generation)
        assert len(tokens) == 1 + (n - 1) * (1 + MAX_CHAIN)
        assert tokens + [r.token for r in generation] == expected


def test_probing_is_refused(lfm2):
    with pytest.raises(ArgumentError, match="recurrent state"):
        MaskProbe(lfm2)
    assert not SOURCES["esp"].runs_on(lfm2) and SOURCES["all"].runs_on(lfm2)


@pytest.mark.parametrize("name", ["all", "recycle", "esp"])
def test_the_command(name, path_of, tmp_path, capfd):
    stats = tmp_path / "stats.json"
    arguments = ["-m", path_of("lfm2"), "-p", "def x def x def x", "-n", 40, "-t", 1, "--temp", 0, "--ignore-eos"]
    assert run.main([*map(str, arguments), "--propose", name, "--compare", "--stats-json", str(stats)]) == 0
    notes = [line for line in capfd.readouterr().err.splitlines() if line.startswith("maskprobe-run: ")]
    assert len(notes) == 1 and f"chains of up to {MAX_CHAIN} candidates" in notes[0]
    found = json.loads(stats.read_text())
    assert found["n_gen"] == 40 and found["rows"] <= (1 + MAX_CHAIN) * found["passes"]
    assert found["propose"] == "none" if name == "esp" else found["compare"]["identical"]


# --- candidates ------------------------------------------------------------------------------------------------------


class ChainsOnly(FakeSession):
    """It refuses what a recurrent state cannot follow."""

    def __init__(self, max_chain: int = MAX_CHAIN) -> None:
        model = FakeModel(n_vocab=N_VOCAB, can_tree=False, can_probe=False, max_chain=max_chain)
        super().__init__(model, n_rows_max=1 + max_chain)

    def decode(self, tree, n_top):
        assert tree.parents == list(range(-1, tree.n_nodes - 1)) and tree.n_masks == 0
        return super().decode(tree, n_top)


@pytest.mark.parametrize("source", CHAINED[1:])
def test_every_source_gives_chains(source):
    session = ChainsOnly()
    plain = decode_with(ChainsOnly(), None, [3, 4, 5], SAMPLED, 60)
    for rows in (2, 1 + MAX_CHAIN):
        proposer = proposer_named(source, session.model, rows=rows)
        assert len(decode_with(session, proposer, [3, 4, 5] * 4, SAMPLED, 60)) == 60
        assert decode_with(session, proposer, [3, 4, 5], SAMPLED, 60) == plain
    assert max(session.rows_of_passes) > 1


def test_the_best_chain_of_a_tree():
    tree = TokenTree(5)
    a, b = tree.add(0, 1, math.log(0.3)), tree.add(0, 2, math.log(0.6))
    tree.add(a, 3, math.log(0.9))
    c = tree.add(b, 3, math.log(0.2))
    tree.add(b, 4, math.log(0.1))
    tree.add_masks(0, np.zeros((1, 4), np.float32))
    chained = tree.best_chain()
    assert chained.tokens == [5, 2, 3] and chained.parents == [-1, 0, 1] and chained.n_masks == 0
    assert chained.logprobs == pytest.approx([0.0, tree.logprobs[b], tree.logprobs[c]])
    assert chained.best_chain() is chained
    tree = TokenTree(5)
    tree.add_embedding(0, np.zeros(4, np.float32))
    assert tree.best_chain().tokens == [5]

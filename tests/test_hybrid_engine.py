"""Engines on models with a recurrent state: drafts are chains, and change no token."""

import json
import math

import numpy as np
import pytest

from fakes import FakeModel, FakeSession, decode_with
from hybrid_layers import HYBRIDS as PLAIN_HYBRIDS
from hybrids import GREEDY, MAX_CHAIN, SAMPLED, chain, engine_on, generated, pair_of, paths_in, text_of
from maskprobe import (
    ArgumentError,
    Cancelled,
    Context,
    MaskProbe,
    Model,
    Proposer,
    TokenTree,
    proposer_named,
)
from maskprobe.cli import run
from maskprobe.proposers import SOURCES
from maskprobe.proposers.oracle import Oracle
from random_hybrid import HYBRIDS, N_VOCAB

CHAINED = ("all", "lookup", "ngram", "lookahead", "recycle", "logits", "marginal")  # sources that need no masks
PROMPT = text_of(24, seed=2) * 2  # it repeats itself: look-ups find something


@pytest.fixture(scope="module")
def path_of(tmp_path_factory):
    return paths_in(tmp_path_factory.mktemp("hybrids"))


@pytest.fixture(scope="module", params=HYBRIDS)
def arch(request):
    return request.param


@pytest.fixture(scope="module", params=["stock", "ours"])
def pair(request, arch, path_of):
    return pair_of(path_of(arch), arch, request.param)


@pytest.fixture(scope="module")
def lfm2(path_of):
    return Model(path_of("lfm2"), n_threads=1)


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

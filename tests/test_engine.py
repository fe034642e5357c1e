"""The engine: the same tokens as plain decoding whatever is proposed, where it ends, and what it reports."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import EXACT
from fakes import Adversary, Oracle
from maskprobe import (
    ArgumentError,
    ContextFull,
    Engine,
    MaskProbe,
    Model,
    Proposer,
    SamplingParams,
    Session,
    StateError,
    TokenTree,
    mask_embedding,
)

PROMPT = [5, 60, 7, 5, 60]
GREEDY = SamplingParams(temp=0.0)
SAMPLED = SamplingParams(temp=1.0, seed=11)
BOTH = pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


@pytest.fixture(scope="module")
def model(tiny_model_path):
    with Model(tiny_model_path("tiny-llama"), n_threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def engine(model):
    with Engine(model, n_ctx=512, **EXACT) as engine:
        yield engine


def run(engine, proposer=None, sampling=GREEDY, prompt=PROMPT, **limits):
    """All results of one generation, and its counts."""
    limits = {"ignore_eos": True, "draft": proposer is not None, **limits}
    with engine.generate(prompt, sampling, proposer=proposer, **limits) as generation:
        return list(generation), generation.stats


def tokens_of(results) -> list[int]:
    return [result.token for result in results]


def text_of(results) -> str:
    return "".join(result.text for result in results)


@pytest.fixture(scope="module")
def plain(engine):
    """plain(sampling, n): what plain decoding gives after PROMPT."""
    known: dict[float, list[int]] = {}

    def tokens(sampling=GREEDY, n: int = 60) -> list[int]:
        if sampling.temp not in known:
            known[sampling.temp] = tokens_of(run(engine, sampling=sampling, max_tokens=120)[0])
        return known[sampling.temp][:n]

    return tokens


# --- the same output, whatever is proposed ---------------------------------------------------------------------------


def test_greedy_tokens_are_those_of_a_session_driven_by_hand(model, plain):
    with Session(model, n_ctx=512, **EXACT) as session:
        text = list(PROMPT)
        for token in plain():
            session.set_prefix(text[:-1])
            session.decode(TokenTree(text[-1]))
            logits = session.logits(0)
            logits[list(model.end_tokens)] = -math.inf
            assert token == logits.argmax()
            text.append(token)


@BOTH
def test_plain_decoding(engine, plain, sampling):
    results, stats = run(engine, sampling=sampling, max_tokens=30)
    assert tokens_of(results) == stats.tokens == plain(sampling, 30)
    assert (stats.accept_hist, stats.rows, stats.passes, stats.tokens_per_pass) == ([29], 29, 29, 1.0)
    assert {result.source for result in results} == {"model"} and not any(result.from_draft for result in results)


@BOTH
def test_every_node_of_the_oracle_is_accepted(engine, plain, sampling):
    expected = plain(sampling, 61)
    results, stats = run(engine, Oracle(PROMPT + expected, n_ahead=5), sampling, max_tokens=61)
    assert tokens_of(results) == expected
    assert stats.accept_hist == [0, 0, 0, 0, 0, 10] and stats.tokens_per_pass == 6.0
    assert [result.from_draft for result in results] == [False] + [True, True, True, True, True, False] * 10
    assert stats.accepted_by == {"proposer": 50}


@BOTH
def test_the_adversary_gives_plain_decoding(engine, plain, sampling):
    expected = plain(sampling, 41)
    results, stats = run(engine, Adversary(PROMPT + expected, 20), sampling, max_tokens=41)
    assert tokens_of(results) == expected
    assert stats.accept_hist == [40]
    assert stats.rows == 39 * 21 + 1  # after the last token nothing is wanted


@BOTH
@pytest.mark.parametrize("kind", [Oracle, Adversary])
def test_what_is_decoded_in_part_gives_plain_decoding(engine, plain, sampling, kind):
    """Where the engine takes of a tree what pays."""
    expected = plain(sampling)
    proposer = kind(PROMPT + expected, 16)
    proposer.whole = False
    results, stats = run(engine, proposer, sampling, max_tokens=60)
    assert tokens_of(results) == expected
    assert stats.rows <= 17 * stats.passes


@BOTH
@pytest.mark.parametrize("rows", ["auto", 1, 2, 8, 32])
@pytest.mark.parametrize("masks", ["none", "mean", "soft"])
def test_the_engines_own_drafts_change_no_token(model, plain, sampling, rows, masks):
    with Engine(model, n_ctx=512, rows=rows, masks=masks, **EXACT) as engine:
        for _ in range(2):  # the second time it knows the text
            results, stats = run(engine, "all", sampling, max_tokens=60)
            assert tokens_of(results) == plain(sampling)
    if isinstance(rows, int):
        assert stats.rows <= rows * stats.passes
        assert (stats.tokens_per_pass > 1.5) == (rows > 1)


@BOTH
@pytest.mark.parametrize("own", ["auto", 4])
def test_a_generation_may_have_its_own_rows(model, plain, sampling, own):
    """At most so many where the engine plans them, else in place of the engine's number."""
    with Engine(model, n_ctx=512, rows=own, n_rows_max=16, **EXACT) as engine:
        run(engine, "all", sampling, max_tokens=60)  # from here on it knows the text
        for rows in (1, 3, 16):
            results, stats = run(engine, "all", sampling, max_tokens=60, rows=rows)
            assert tokens_of(results) == plain(sampling) and stats.rows <= rows * stats.passes
            assert stats.n_drafted == 0 if rows == 1 else stats.n_drafted > 0 or own == "auto"
        if own == 4:
            assert stats.rows > 4 * stats.passes
        assert run(engine, "all", sampling, max_tokens=60)[1].rows_per_pass <= (4 if own == 4 else 16)


class RandomTrees(Proposer):
    """Trees from drawn numbers. Every third candidate is the true token at its place, if its parents are too."""

    n_rows_max = 40

    def __init__(self, text: list[int], numbers: list[int], n_vocab: int) -> None:
        self.text = text
        self.n_vocab = n_vocab
        self.numbers = itertools.cycle(numbers)
        self.whole = numbers[0] % 2 == 0
        self.n_paths = 0

    def propose(self, context, room):
        tree = TokenTree(context[-1])
        for _ in range(next(self.numbers) % min(self.n_rows_max, room)):
            number = next(self.numbers)
            parent = number % tree.n_nodes
            place = len(context) + tree.depths[parent]
            true = number % 3 == 0 and place < len(self.text)
            tree.add(parent, self.text[place] if true else number % self.n_vocab, -1.0, kind=number)
        self.proposed = tree
        return tree

    def observe(self, tree, result, path, emitted):
        """What it is shown is a part of its tree, with kinds and outputs of the same nodes."""
        assert result.n_rows == tree.n_rows <= self.proposed.n_rows
        assert [tree.tokens[node] for node in path[1:]] == emitted[:-1]
        nodes = [0]
        for node in range(1, tree.n_nodes):
            nodes.append(self.proposed.child(nodes[tree.parents[node]], tree.tokens[node]))
            assert tree.kinds[node] == self.proposed.kinds[nodes[node]]
            assert tree.logprobs[node] == pytest.approx(self.proposed.logprobs[nodes[node]])
        self.n_paths += len(path)


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 10**6), min_size=1, max_size=80),
    sampling=st.sampled_from([GREEDY, SAMPLED]),
    n=st.integers(1, 40),
)
def test_random_trees_never_change_the_output(engine, plain, numbers, sampling, n):
    proposer = RandomTrees(PROMPT + plain(sampling, n), numbers, engine.model.info.n_vocab)
    results, stats = run(engine, proposer, sampling, max_tokens=n)
    assert tokens_of(results) == plain(sampling, n)
    assert sum(stats.accept_hist) == stats.passes
    assert sum(d * count for d, count in enumerate(stats.accept_hist)) == stats.accepted_by["proposer"]


@BOTH
@pytest.mark.parametrize(
    "probing",
    [
        {"tree": "4"},
        {"tree": "14"},
        {"tree": "7,5,3"},
        {"tree": "dynamic", "rows": 30},
        {"tree": "dynamic", "rows": 16, "masks": 1},
        {"tree": "14", "mask_children": 2},
        {"tree": "7,2", "mask_children": 0},
    ],
    ids=str,
)
def test_mask_probing_changes_the_speed_only(engine, plain, probing, sampling):
    proposer = MaskProbe(engine.model, **probing)
    results, stats = run(engine, proposer, sampling, max_tokens=60)
    assert tokens_of(results) == plain(sampling)
    assert stats.passes < stats.rows <= proposer.n_rows_max * stats.passes


@pytest.mark.parametrize("spec", ["mean", "last-k", "sample", "token:3", "soft"])
def test_every_kind_of_mask_runs(engine, plain, spec):
    mask = mask_embedding(spec, engine.model, update=0.1)
    results, stats = run(engine, MaskProbe(engine.model, tree="7,2", mask=mask), max_tokens=42)
    assert tokens_of(results) == plain(n=42)
    # The first tree is the root with its masks; after the last token nothing is wanted.
    assert stats.rows in (3 + 30 * (stats.passes - 1), 3 + 30 * (stats.passes - 2) + 1)


# --- where it ends ---------------------------------------------------------------------------------------------------


def finish_reason(results) -> str | None:
    assert all(result.finish_reason is None for result in results[:-1])
    return results[-1].finish_reason


@pytest.mark.parametrize("n_ahead", [0, 1, 7])
def test_max_tokens(engine, plain, n_ahead):
    for n in (1, 2, 13):
        results, stats = run(engine, Oracle(PROMPT + plain(), n_ahead), max_tokens=n)
        assert tokens_of(results) == plain(n=n) and finish_reason(results) == stats.finish_reason == "length"


def test_no_tokens_are_wanted(engine):
    results, stats = run(engine, max_tokens=0)
    assert [(r.token, r.text, r.finish_reason) for r in results] == [(-1, "", "length")]
    assert (stats.tokens, stats.passes, stats.finish_reason) == ([], 0, "length")


@pytest.mark.parametrize("proposer", [None, "all", "lookup", "esp"])
def test_the_context_is_used_to_its_last_place(model, proposer):
    with Engine(model, n_ctx=256, **EXACT) as engine:
        n_ctx = engine.context.n_ctx
        for n_prompt in (n_ctx - 20, n_ctx - 1, n_ctx):
            results, _ = run(engine, proposer, prompt=[5] * n_prompt)
            assert len(results) == n_ctx - n_prompt + 1 and finish_reason(results) == "context"
        with pytest.raises(ContextFull, match=f"the prompt has {n_ctx + 1} tokens"):
            engine.generate([5] * (n_ctx + 1))


def test_an_end_token(engine, model, plain):
    """It is emitted without text, and nothing after it, with a draft over it as without."""
    end = model.info.token_eos
    sampling = SamplingParams(temp=0.0, logit_bias={end: 1000.0})
    for proposer in (None, Oracle([*PROMPT, end, *plain()], 5)):
        results, stats = run(engine, proposer, sampling, ignore_eos=False)
        assert [(r.token, r.text) for r in results] == [(end, "")]
        assert finish_reason(results) == stats.finish_reason == "stop"


def test_end_tokens_that_are_ignored_are_forbidden(engine, model):
    likely = dict.fromkeys(model.end_tokens, 1000.0)
    results, _ = run(engine, None, SamplingParams(temp=0.0, logit_bias=likely), max_tokens=20)
    assert len(results) == 20 and not set(tokens_of(results)) & set(model.end_tokens)


@pytest.mark.parametrize("n_ahead", [0, 3, 20])
def test_stop_strings_are_found_over_the_borders_of_tokens(engine, plain, n_ahead):
    expected = plain(n=40)
    whole = text_of(run(engine, max_tokens=40)[0])
    stop = whole[len(whole) // 2 : len(whole) // 2 + 5]
    end = whole.index(stop)
    for stops in (stop, [stop], ["never comes", stop]):
        results, _ = run(engine, Oracle(PROMPT + expected, n_ahead), max_tokens=40, stop=stops)
        assert text_of(results) == whole[:end] and finish_reason(results) == "stop"
        assert tokens_of(results) == expected[: len(results)]
        before = text_of(run(engine, max_tokens=len(results) - 1)[0])
        assert stop not in before  # it ended with the token that completes the stop string


def test_text_held_back_comes_with_the_last_token(engine, plain):
    whole = text_of(run(engine, max_tokens=10)[0])
    for n_ahead in (0, 4):
        results, _ = run(engine, Oracle(PROMPT + plain(), n_ahead), max_tokens=10, stop=whole[-2:] + "x")
        assert text_of(results) == whole


def test_characters_are_not_split(engine, model):
    """Tokens of single bytes, forced one after another."""
    whole = "añ€🙂b"
    tokens = [next(t for t in range(model.info.n_vocab) if model.token_bytes(t) == bytes([b])) for b in whole.encode()]

    class Spells:
        def __init__(self) -> None:
            self.left = list(tokens)

        def allowed(self):
            return self.left[:1]

        def accept(self, token):
            self.left.pop(0)

    results, _ = run(engine, constraint=Spells())
    assert tokens_of(results) == [*tokens, -1] and finish_reason(results) == "constraint"
    assert [r.text for r in results] == ["a", "", "ñ", "", "", "€", "", "", "", "🙂", "b", ""]


# --- what it reports -------------------------------------------------------------------------------------------------


def test_scores_of_the_tokens(engine, model, plain):
    expected = plain(SAMPLED, 20)
    with Session(model, n_ctx=512, **EXACT) as session:
        for n_ahead in (0, 4):
            proposer = Oracle(PROMPT + expected, n_ahead)
            results, _ = run(engine, proposer, SAMPLED, max_tokens=20, top_logprobs=3)
            text = list(PROMPT)
            for result in results:
                session.set_prefix(text[:-1])
                session.decode(TokenTree(text[-1]))
                logits = session.logits(0).astype(np.float64)
                logprobs = logits - math.log(np.exp(logits - logits.max()).sum()) - logits.max()
                order = np.argsort(-logprobs)
                assert result.logprob == pytest.approx(logprobs[result.token], abs=1e-4)
                assert result.margin == pytest.approx(logprobs[order[0]] - logprobs[order[1]], abs=1e-4)
                assert [token for token, _ in result.top] == order[:3].tolist()
                assert [logprob for _, logprob in result.top] == pytest.approx(logprobs[order[:3]], abs=1e-4)
                text.append(result.token)


def test_stats(engine, plain):
    prompt = [9, 8, 7, 6]
    results, stats = run(engine, Oracle([*prompt, *plain()], 3), prompt=prompt, max_tokens=30)
    assert (stats.n_prompt, stats.n_prompt_reused, stats.n_gen) == (4, 0, 30)
    assert stats.passes == sum(stats.accept_hist) and stats.rows > stats.passes
    assert stats.tokens_per_pass == 29 / stats.passes and stats.rows_per_pass == stats.rows / stats.passes
    assert stats.gen_ms == pytest.approx(stats.decode_ms + stats.engine_ms) and stats.gen_ms > 0 < stats.prompt_ms
    assert stats.prompt_tps == pytest.approx(4000 / stats.prompt_ms)
    assert stats.gen_tps == pytest.approx(29_000 / stats.gen_ms)
    assert [result.n_gen for result in results] == list(range(1, 31))
    assert results[-1].generation_tps == pytest.approx(stats.gen_tps)
    longer = [*prompt, *tokens_of(results)[:10], 1]
    _, stats = run(engine, prompt=longer, max_tokens=2)
    assert stats.n_prompt_reused == 14 and stats.n_gen == 2


def test_what_guessed_the_tokens(model, plain):
    with Engine(model, n_ctx=512, rows=8, **EXACT) as engine:
        for _ in range(2):
            results, stats = run(engine, "all", max_tokens=60)
    sources = Counter(r.source for r in results if r.from_draft)
    assert sources == stats.accepted_by and sources.total() == stats.n_accepted > 0
    assert sources.keys() <= {"token", "pair", "triple", "n-gram", "row before", "rejected rows", "earlier texts"}


class Listener(Oracle):
    """Notes what it is told."""

    def __init__(self, text) -> None:
        super().__init__(text, 2)
        self.heard = []

    def begin(self, tokens):
        self.heard.append(("begin", list(tokens)))

    def propose(self, context, room):
        self.heard.append(("propose", list(context)))
        return super().propose(context, room)

    def observe(self, tree, result, path, emitted):
        self.heard.append(("observe", list(path), list(emitted)))


def test_what_a_proposer_is_told(engine, plain):
    expected = plain(n=6)
    listener = Listener(PROMPT + expected)
    run(engine, listener, max_tokens=6)
    assert listener.heard == [
        ("begin", PROMPT + expected[:1]),
        ("propose", PROMPT + expected[:1]),
        ("observe", [0, 1, 2], expected[1:4]),
        ("propose", PROMPT + expected[:4]),
        ("observe", [0, 1], expected[4:]),
    ]


# --- what is refused, and what is left behind ------------------------------------------------------------------------


def test_arguments_are_checked_at_once(engine, model):
    n_vocab = model.info.n_vocab
    for call, said in [
        (lambda: engine.generate([]), "0 tokens"),
        (lambda: engine.generate([1, n_vocab]), f"token {n_vocab}"),
        (lambda: engine.generate([1, -1]), "token -1"),
        (lambda: engine.generate(PROMPT, max_tokens=-2), "-2"),
        (lambda: engine.generate(PROMPT, max_tokens="x"), "'x' is not possible"),
        (lambda: engine.generate(PROMPT, stop=["a", ""]), "stop string 1"),
        (lambda: engine.generate(PROMPT, stop=[3]), "stop string 0"),
        (lambda: engine.generate(PROMPT, stop="a\0b"), "NUL"),
        (lambda: engine.generate(PROMPT, rows=0), "not 0"),
        (lambda: engine.generate(PROMPT, rows="auto"), "not 'auto'"),
        (lambda: engine.generate(PROMPT, rows=65), "n_rows = 65 .* n_rows_max = 64"),
        (lambda: engine.generate(PROMPT, top_logprobs=-1), "-1"),
        (lambda: engine.generate(PROMPT, top_logprobs=65), "65"),
        (lambda: engine.generate(PROMPT, SamplingParams(temp=-1.0)), "temp"),
        (lambda: engine.generate(PROMPT, SamplingParams(seed=-2)), "seed"),
        (lambda: engine.generate(PROMPT, proposer="magic"), "'magic'"),
        (lambda: engine.generate(PROMPT, constraint=7), "int is no constraint"),
        (lambda: Engine(model, rows="many"), "'many'"),
        (lambda: Engine(model, rows=-1), "-1"),
        (lambda: Engine(model, rows=300), "300"),
        (lambda: Engine(model, masks="magic"), "magic"),
        (lambda: Engine(model, n_parallel=0), "0"),
        (lambda: Engine(model, n_parallel=65), "65"),
        (lambda: Engine(model, proposer="magic"), "'magic'"),
        (lambda: Engine(model, state="a\0b"), "NUL"),
        (lambda: Engine(model, proposer=MaskProbe(model, tree="100"), n_rows_max=300), "300"),
    ]:
        with pytest.raises(ArgumentError, match=said):
            call()


@BOTH
def test_a_consumer_that_stops_early(engine, plain, sampling):
    for _ in range(3):
        generation = engine.generate(PROMPT, sampling, proposer=Oracle(PROMPT + plain(sampling), 3), ignore_eos=True)
        assert tokens_of(itertools.islice(generation, 5)) == plain(sampling, 5)
        generation.close()
        generation.close()
        assert list(generation) == [] and generation.stats.n_gen >= 5
    for result in engine.generate(PROMPT, sampling, ignore_eos=True):
        if result.n_gen == 7:
            break
    assert tokens_of(run(engine, None, sampling, max_tokens=9)[0]) == plain(sampling, 9)


def test_a_proposer_serves_one_generation_at_a_time(engine, plain):
    proposer = Oracle(PROMPT + plain(), 3)
    first = engine.generate(PROMPT, GREEDY, proposer=proposer)
    with pytest.raises(StateError, match="this Oracle serves another generation"):
        engine.generate(PROMPT, GREEDY, proposer=proposer)
    first.close()
    assert tokens_of(run(engine, proposer, max_tokens=9)[0]) == plain(n=9)
    assert tokens_of(run(engine, proposer, max_tokens=9)[0]) == plain(n=9)


def test_a_wrong_root_is_refused(engine):
    class Wrong(Proposer):
        def propose(self, context, room):
            return TokenTree(context[-1] + 1)

    with pytest.raises(StateError, match=r"the proposer's root is token \d+, the newest token is"):
        run(engine, Wrong())


def test_a_closed_engine(model, plain):
    engine = Engine(model, n_ctx=512, **EXACT)
    generation = engine.generate(PROMPT, GREEDY)
    assert next(generation).token == plain(n=1)[0]
    engine.close(), engine.close()
    with pytest.raises(StateError, match="the engine is closed"):
        next(generation)
    with pytest.raises(StateError, match="the engine is closed"):
        engine.generate(PROMPT)
    assert generation.stats.n_gen >= 1
    generation.close()


def test_a_recurrent_model(tiny_model_path):
    """No trees, no masks: where it takes chains, the best ones are decoded, and no token changes."""
    with Model(tiny_model_path("tiny-mamba"), n_threads=1) as model, Engine(model, n_ctx=256, **EXACT) as engine:
        expected = tokens_of(run(engine, max_tokens=30)[0])
        for proposer in ("all", "esp", "lookup", Oracle(PROMPT + expected, 3), Adversary(PROMPT + expected, 9)):
            results, stats = run(engine, proposer, max_tokens=30)
            assert tokens_of(results) == expected
            assert stats.rows <= (1 + engine.context.max_chain) * stats.passes
        results, stats = run(engine, Oracle(PROMPT + expected, 3), max_tokens=30, rows=2)
        assert tokens_of(results) == expected and stats.rows <= 2 * stats.passes

"""The engine: the same tokens as plain decoding whatever is proposed, and a clean session however it ends."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import END, N_VOCAB, Adversary, FakeModel, FakeSession, Oracle
from maskprobe import (
    ArgumentError,
    Cancelled,
    ContextFull,
    Engine,
    MaskProbe,
    Proposer,
    SamplingParams,
    StateError,
    TokenTree,
    mask_embedding,
)

PROMPT = [3, 14, 15, 9]
GREEDY = SamplingParams(temp=0.0)
SAMPLED = SamplingParams(temp=1.0, seed=11)
MODEL = FakeModel()  # deterministic; its cache of distributions is shared by all tests


def run(proposer=None, session=None, sampling=GREEDY, prompt=PROMPT, **limits):
    """All results of one generation, and the engine."""
    engine = Engine(session or FakeSession(MODEL), proposer)
    return list(engine.generate(prompt, sampling, **limits)), engine


def tokens_of(results) -> list[int]:
    return [result.token for result in results]


def text_of(results) -> str:
    return "".join(result.text for result in results)


def plain(sampling=GREEDY, prompt=PROMPT, **limits) -> list[int]:
    return tokens_of(run(sampling=sampling, prompt=prompt, **limits)[0])


def assert_clean(session: FakeSession, emitted: list[int], prompt=PROMPT) -> None:
    """Prompt and emitted tokens but for the newest are in the cache, and nothing else."""
    assert session.committed == [*prompt, *emitted][:-1]
    assert session.pending is None


# --- the same output, whatever is proposed ---------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_plain_decoding(sampling):
    results, engine = run(sampling=sampling, max_tokens=30)
    sampler = engine.session.model.samplers[-1]
    assert tokens_of(results) == sampler.drawn == engine.stats.tokens and len(results) == 30
    assert sampler.primed == PROMPT and sampler.closed
    assert engine.stats.accept_hist == [30] and engine.stats.rows == 30
    assert not any(result.from_draft for result in results)
    assert_clean(engine.session, tokens_of(results))
    if sampling is GREEDY:
        context = list(PROMPT)
        for token in tokens_of(results):
            assert token == int(MODEL.logits(context).argmax())
            context.append(token)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_every_node_of_the_oracle_is_accepted(sampling):
    expected = plain(sampling, max_tokens=60)
    results, engine = run(Oracle(PROMPT + expected, n_ahead=5), sampling=sampling, max_tokens=60)
    assert tokens_of(results) == expected
    assert engine.stats.accept_hist == [0, 0, 0, 0, 0, 10] and engine.stats.tokens_per_pass == 6.0
    assert [result.from_draft for result in results] == [True, True, True, True, True, False] * 10
    assert_clean(engine.session, expected)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_the_adversary_gives_plain_decoding(sampling):
    expected = plain(sampling, max_tokens=40)
    results, engine = run(Adversary(PROMPT + expected), sampling=sampling, max_tokens=40)
    assert tokens_of(results) == expected
    assert engine.stats.accept_hist == [40]
    assert engine.session.rows_of_passes == [N_VOCAB] * 39 + [1]  # behind the last token nothing is wanted
    assert_clean(engine.session, expected)


class RandomTrees(Proposer):
    """Trees from drawn numbers. Every third candidate is the true token at its place, if its parents are too."""

    n_rows_max = 40

    def __init__(self, text: list[int], numbers: list[int]) -> None:
        self.text = text
        self.numbers = itertools.cycle(numbers)

    def propose(self, context, room):
        tree = TokenTree(context[-1])
        for _ in range(next(self.numbers) % min(self.n_rows_max, room)):
            number = next(self.numbers)
            parent = number % tree.n_nodes
            place = len(context) + tree.depths[parent]
            true = number % 3 == 0 and place < len(self.text)
            tree.add(parent, self.text[place] if true else number % N_VOCAB, -1.0)
        return tree


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 10**6), min_size=1, max_size=80),
    sampling=st.sampled_from([GREEDY, SAMPLED, SamplingParams(temp=0.3, seed=5)]),
    max_tokens=st.integers(1, 40),
)
def test_random_trees_never_change_the_output(numbers, sampling, max_tokens):
    expected = plain(sampling, max_tokens=max_tokens)
    results, engine = run(RandomTrees(PROMPT + expected, numbers), sampling=sampling, max_tokens=max_tokens)
    assert tokens_of(results) == expected
    assert MODEL.samplers[-1].drawn == expected  # one draw per emitted token
    assert sum(d * n for d, n in enumerate(engine.stats.accept_hist)) + engine.stats.passes == len(expected)
    assert_clean(engine.session, expected)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
@pytest.mark.parametrize(
    "probing",
    [
        {"tree": "4"},
        {"tree": "14"},
        {"tree": "7,2"},
        {"tree": "7,5,3"},
        {"tree": "dynamic", "rows": 30},
        {"tree": "dynamic", "rows": 16, "masks": 1},
        {"tree": "14", "mask_children": 2},
        {"tree": "7,2", "mask_children": 0},
    ],
)
def test_mask_probing_changes_the_speed_only(probing, sampling):
    expected = plain(sampling, max_tokens=80)
    results, engine = run(MaskProbe(MODEL, **probing), sampling=sampling, max_tokens=80)
    assert tokens_of(results) == expected
    assert engine.stats.tokens_per_pass > 1.1
    assert max(engine.session.rows_of_passes) <= engine.proposer.n_rows_max
    assert_clean(engine.session, expected)


@pytest.mark.parametrize("spec", ["mean", "last-k", "sample", "token:3", "soft"])
def test_every_kind_of_mask_runs(spec):
    mask = mask_embedding(spec, MODEL, update=0.1)
    results, engine = run(MaskProbe(MODEL, tree="7,2", mask=mask), max_tokens=40)
    assert tokens_of(results) == plain(max_tokens=40)
    assert engine.session.rows_of_passes[0] == 3  # the first tree is the root with its masks
    assert set(engine.session.rows_of_passes[1:]) == {30}


# --- where it ends ---------------------------------------------------------------------------------------------------


def finish_reasons(results) -> set:
    assert all(result.finish_reason is None for result in results[:-1])
    return results[-1].finish_reason


@pytest.mark.parametrize("n_ahead", [0, 1, 7])
def test_max_tokens(n_ahead):
    expected = plain(max_tokens=50)
    for n in (1, 2, 13):
        results, engine = run(Oracle(PROMPT + expected, n_ahead), max_tokens=n)
        assert tokens_of(results) == expected[:n] and finish_reasons(results) == "length"
        assert_clean(engine.session, expected[:n])


def test_no_tokens_are_wanted():
    results, engine = run(max_tokens=0)
    assert results == [] and engine.stats.finish_reason == "length" and engine.stats.passes == 0
    assert_clean(engine.session, [])


@pytest.mark.parametrize("probing", [None, {"tree": "14"}, {"tree": "7,2"}, {"tree": "dynamic"}])
@pytest.mark.parametrize("n_ctx", [4, 5, 9, 37])
def test_the_context_is_used_to_its_last_place(n_ctx, probing):
    expected = plain(max_tokens=60)
    session = FakeSession(MODEL, n_ctx=n_ctx)
    results, _ = run(probing and MaskProbe(MODEL, **probing), session)
    assert tokens_of(results) == expected[: n_ctx - len(PROMPT) + 1]
    assert finish_reasons(results) == "context" and session.n_past == n_ctx


def test_an_end_token():
    model = FakeModel()
    model.end_tokens = (END, plain(max_tokens=12)[11])
    for proposer in (None, Oracle(PROMPT + plain(max_tokens=40), 5)):
        results, engine = run(proposer, FakeSession(model), max_tokens=40)
        n = len(results)
        assert n <= 12 and model.is_end(results[-1].token) and finish_reasons(results) == "stop"
        assert results[-1].text == "" and "<" in text_of(results)
        assert_clean(engine.session, plain(max_tokens=40)[:n])


def test_end_tokens_that_are_ignored_are_forbidden():
    model = FakeModel()
    model.end_tokens = (END, *plain(max_tokens=3))
    sampling = replace(GREEDY, logit_bias={7: 1.5})
    results, _ = run(None, FakeSession(model), sampling, max_tokens=30, ignore_eos=True)
    assert len(results) == 30 and not set(tokens_of(results)) & set(model.end_tokens)
    assert model.samplers[-1].params.logit_bias == {7: 1.5, **dict.fromkeys(model.end_tokens, -math.inf)}


@pytest.mark.parametrize("n_ahead", [0, 3, 20])
def test_stop_strings_are_found_over_the_borders_of_tokens(n_ahead):
    expected = plain(max_tokens=30)
    whole = "".join(f"<{token}>" for token in expected)
    border = len("".join(f"<{token}>" for token in expected[:12]))
    stop = whole[border - 2 : border + 2]  # the end of the 12th token and the beginning of the 13th
    end = whole.index(stop)
    n_emitted = next(n for n in range(31) if len("".join(f"<{t}>" for t in expected[:n])) >= end + len(stop))
    for stops in (stop, [stop], ["never", stop]):
        results, engine = run(Oracle(PROMPT + expected, n_ahead), max_tokens=30, stop=stops)
        assert text_of(results) == whole[:end] and finish_reasons(results) == "stop"
        assert tokens_of(results) == expected[:n_emitted] == MODEL.samplers[-1].drawn
        assert_clean(engine.session, expected[:n_emitted])


def test_text_held_back_comes_with_the_last_token():
    expected = plain(max_tokens=10)
    whole = "".join(f"<{token}>" for token in expected)
    for n_ahead in (0, 4):
        results, _ = run(Oracle(PROMPT + expected, n_ahead), max_tokens=10, stop=whole[-2:] + "x")
        assert text_of(results) == whole


@pytest.mark.parametrize("n_ahead", [0, 4])
def test_characters_are_not_split(n_ahead):
    expected = plain(max_tokens=24)
    whole = "añ€🙂" * 40
    cycle = itertools.cycle([whole.encode()[i : i + 1] for i in range(10)])
    pieces = {token: b"".join(next(cycle) for _ in range(2)) for token in dict.fromkeys(expected)}
    model = FakeModel(pieces=pieces)
    results, _ = run(Oracle(PROMPT + expected, n_ahead), FakeSession(model), max_tokens=24)
    data = b"".join(pieces[token] for token in expected)
    assert text_of(results) == data.decode("utf-8", errors="replace")
    assert any(result.text == "" for result in results)


# --- what it reports -------------------------------------------------------------------------------------------------


def test_scores_of_the_tokens():
    expected = plain(SAMPLED, max_tokens=20)
    for n_ahead in (0, 4):
        results, _ = run(Oracle(PROMPT + expected, n_ahead), sampling=SAMPLED, max_tokens=20)
        context = list(PROMPT)
        for result in results:
            logits = MODEL.logits(context)
            best = sorted(logits)[::-1]
            total = math.log(sum(math.exp(logit) for logit in logits))
            assert result.logprob == pytest.approx(logits[result.token] - total, abs=1e-5)
            assert result.margin == pytest.approx(best[0] - best[1], abs=1e-5)
            context.append(result.token)


def test_stats():
    results, engine = run(MaskProbe(MODEL, tree="4"), max_tokens=30)
    stats = engine.stats
    assert (stats.n_prompt, stats.n_prompt_reused, stats.n_gen) == (4, 0, 30)
    assert stats.passes == len(engine.session.rows_of_passes) == sum(stats.accept_hist)
    assert stats.rows == sum(engine.session.rows_of_passes)
    assert stats.tokens_per_pass == 30 / stats.passes and stats.rows_per_pass == stats.rows / stats.passes
    assert stats.gen_ms == pytest.approx(stats.decode_ms + stats.engine_ms) and stats.gen_ms > 0 < stats.prompt_ms
    assert stats.prompt_tps == pytest.approx(3000 / stats.prompt_ms)
    assert stats.gen_tps == pytest.approx(30_000 / stats.gen_ms)
    assert [result.n_gen for result in results] == list(range(1, 31))
    assert results[-1].generation_tps == pytest.approx(stats.gen_tps)
    longer = [*PROMPT, *tokens_of(results)[:10], 1]
    list(engine.generate(longer, GREEDY, max_tokens=2))
    assert engine.stats.n_prompt_reused == 14 and engine.stats.n_gen == 2


class Listener(Proposer):
    """Learns from the prompt, and notes what it is told."""

    n_top = 3

    def __init__(self, n_prompt_rows: int) -> None:
        self.n_prompt_rows = n_prompt_rows
        self.heard: list[tuple[str, list]] = []

    def begin(self, tokens):
        self.heard.append(("begin", list(tokens)))

    def learn_prompt(self, top_tokens, top_logprobs):
        self.heard.append(("learn", top_tokens.tolist()))
        assert top_logprobs.shape == (len(top_tokens), 3) and (top_logprobs <= 0).all()

    def propose(self, context, room):
        return TokenTree(context[-1])


def test_a_proposer_learns_from_the_last_rows_of_the_prompt():
    def best(n: int) -> list[int]:
        return (-MODEL.logits(prompt[:n])).argsort(kind="stable")[:3].tolist()

    prompt, session, listener = list(range(3, 13)), FakeSession(MODEL), Listener(4)
    run(listener, session, prompt=prompt, max_tokens=1)
    assert listener.heard == [("begin", prompt), ("learn", [best(n) for n in (6, 7, 8, 9)])]
    session.set_prefix(prompt[:7])
    listener.heard.clear()
    run(listener, session, prompt=prompt, max_tokens=1)
    assert listener.heard == [("begin", prompt), ("learn", [best(8), best(9)])]
    listener.heard.clear()
    run(listener, session, prompt=prompt, max_tokens=1)  # all of it is in the cache
    assert listener.heard == [("begin", prompt)]
    uninterested = Listener(0)
    run(uninterested, FakeSession(MODEL), prompt=prompt, max_tokens=1)
    assert uninterested.heard == [("begin", prompt)]


def test_steps_one_by_one():
    expected = plain(max_tokens=9)
    engine = Engine(FakeSession(MODEL), Oracle(PROMPT + expected, 3))
    engine.begin(PROMPT, GREEDY, max_tokens=9)
    steps = [engine.step() for _ in range(3)]
    assert [step.tokens for step in steps] == [expected[:4], expected[4:8], expected[8:]]
    assert [step.path for step in steps] == [[0, 1, 2, 3], [0, 1, 2, 3], [0]]
    assert [step.n_rows for step in steps] == [4, 4, 1]
    assert engine.stats.finish_reason == "length"
    with pytest.raises(StateError, match="no generation is under way"):
        engine.step()


# --- what is refused, and what is left behind ------------------------------------------------------------------------


def test_arguments_are_checked_at_once():
    engine = Engine(FakeSession(MODEL, n_ctx=10))
    with pytest.raises(ArgumentError, match="no tokens"):
        engine.generate([])
    with pytest.raises(ContextFull, match="the prompt has 11 tokens, the context holds 10"):
        engine.generate([1] * 11)
    with pytest.raises(ArgumentError, match="max_tokens = -2"):
        engine.generate(PROMPT, max_tokens=-2)
    with pytest.raises(ArgumentError, match="stop string 0"):
        engine.generate(PROMPT, stop=[""])
    with pytest.raises(StateError, match="no generation is under way"):
        engine.step()


def test_a_session_too_small_for_the_proposer_is_refused():
    with pytest.raises(ArgumentError, match="needs 60 rows in a tree, the session was opened for 32"):
        Engine(FakeSession(MODEL, n_rows_max=32), MaskProbe(MODEL, tree="29"))
    with pytest.raises(ArgumentError, match="needs 15 candidates per row, the session was opened for 8"):
        Engine(FakeSession(MODEL, n_top_max=8), MaskProbe(MODEL, tree="14"))


def test_a_consumer_that_stops_early():
    expected = plain(max_tokens=20)
    engine = Engine(FakeSession(MODEL), Oracle(PROMPT + expected, 3))
    generator = engine.generate(PROMPT, GREEDY)
    assert tokens_of(itertools.islice(generator, 5)) == expected[:5]
    generator.close()
    assert MODEL.samplers[-1].closed
    assert_clean(engine.session, expected[:8])  # two passes were committed
    assert tokens_of(engine.generate(PROMPT, GREEDY, max_tokens=9)) == expected[:9]


def test_a_failure_in_the_pass_and_in_the_proposer():
    expected = plain(max_tokens=20)

    class Breaks(Oracle):
        armed = True

        def observe(self, tree, result, path, emitted):
            if self.armed:
                raise RuntimeError("a bug")

    for failure in (Cancelled("cancelled"), KeyboardInterrupt()):
        session = FakeSession(MODEL)
        session.fail_at = {2: failure}
        engine = Engine(session, Oracle(PROMPT + expected, 3))
        seen = []
        with pytest.raises(type(failure)):
            seen.extend(engine.generate(PROMPT, GREEDY))
        assert_clean(session, expected[:8])
        assert tokens_of(engine.generate(PROMPT, GREEDY, max_tokens=20)) == expected

    proposer = Breaks(PROMPT + expected, 3)
    engine = Engine(FakeSession(MODEL), proposer)
    with pytest.raises(RuntimeError, match="a bug"):
        list(engine.generate(PROMPT, GREEDY, max_tokens=20))
    assert_clean(engine.session, expected[:4])
    proposer.armed = False
    assert tokens_of(engine.generate(PROMPT, GREEDY, max_tokens=20)) == expected


def test_a_failure_in_the_sampler_drops_the_pass():
    expected = plain(max_tokens=20)
    model = FakeModel()
    engine = Engine(FakeSession(model), Oracle(PROMPT + expected, 3))
    generator = engine.generate(PROMPT, GREEDY)
    for _ in range(4):
        next(generator)
    model.samplers[-1].bias = None
    with pytest.raises(TypeError):
        next(generator)
    assert_clean(engine.session, expected[:4])


def test_a_wrong_root_is_refused():
    class Wrong(Proposer):
        def propose(self, context, room):
            return TokenTree(context[-1] + 1)

    with pytest.raises(StateError, match="root is token 10, the newest token is 9"):
        run(Wrong())


def test_a_second_generation_ends_the_first():
    engine = Engine(FakeSession(MODEL))
    first = engine.generate(PROMPT, GREEDY)
    next(first)
    second = engine.generate([1, 2, 3, 4, 5, 6], GREEDY, max_tokens=3)
    next(second)
    with pytest.raises(StateError, match="another generation"):
        next(first)
    assert len(list(second)) == 2


def test_a_session_changed_by_others():
    session = FakeSession(MODEL)
    generator = Engine(session).generate(PROMPT, GREEDY)
    next(generator)
    session.set_prefix([1, 2])
    with pytest.raises(StateError, match="it holds 2 tokens, not 4"):
        next(generator)


def test_a_closed_session_does_not_hide_the_error():
    session = FakeSession(MODEL)
    generator = Engine(session).generate(PROMPT, GREEDY)
    next(generator)
    session.closed = True
    generator.close()

"""Several sessions in one context: each has what it would have alone, whatever its neighbours do."""

import contextlib
import os
import threading
import time

import gguf
import numpy as np
import pytest

from contexts import (
    alone,
    assert_holds,
    assert_same,
    is_ours,
    opened,
    random_tree,
    rows_of,
    star,
    text_of,
)
from maskprobe import (
    ArgumentError,
    Cancelled,
    ContextFull,
    Model,
    Session,
    StateError,
    TokenTree,
)
from random_gguf import SHAPES, tiny, write_random_gguf

NAN_TOKEN = 77  # its embedding is NaN in one of the models: whatever sees it is NaN too


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny-llama.gguf"
    write_random_gguf(path, "tiny-llama")
    return path


@pytest.fixture(scope="module")
def nan_path(path):
    """Its output matrix is another one than its embeddings: only what sees the token is NaN."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "untied", tiny("llama", add_begin=True, tied_head=False))
        write_random_gguf(path.with_name("nan.gguf"), "untied")
    reader = gguf.GGUFReader(path.with_name("nan.gguf"), "r+")
    for tensor in reader.tensors:
        if tensor.name == "token_embd.weight":
            tensor.data[NAN_TOKEN, :] = np.nan
    reader.data.flush()
    return path.with_name("nan.gguf")


@pytest.fixture(scope="module", params=["stock", "ours"])
def model(request, path):
    return Model(path, kernels=request.param, n_threads=1)


@pytest.fixture(scope="module")
def ours(path):
    return Model(path, kernels="ours", n_threads=1)


# --- one pass --------------------------------------------------------------------------------------------------------


def test_trees_of_one_pass_have_the_rows_they_have_alone(model):
    random = np.random.default_rng(1)
    context = opened(model)
    sessions = [context.session() for _ in range(4)]
    texts = [text_of(n, seed=n) for n in (40, 0, 7, 150)]
    n_values = n_different = 0
    for session, text in zip(sessions, texts, strict=True):
        session.set_prefix(text)
    for step in range(12):
        chosen = [i for i in range(4) if step == 0 or random.integers(4)] or [2]
        trees = {i: random_tree(random, int(random.integers(1, 9)), model.info.n_embd, step % 3 == 0) for i in chosen}
        passes = context.decode([(sessions[i], trees[i]) for i in chosen], 4)
        for i, result in zip(chosen, passes, strict=True):
            logits = rows_of(sessions[i], trees[i])
            expected = alone(model, texts[i], trees[i])
            assert_same(model, logits, expected)
            assert result.n_rows == trees[i].n_rows
            assert result.best.tolist() == result.top_tokens[:, 0].tolist() == logits.argmax(axis=1).tolist()
            n_values += logits.size
            n_different += int((logits != expected).sum())
        for i in chosen:
            path = trees[i].path_to(int(random.integers(trees[i].n_nodes)))
            sessions[i].commit(path)
            texts[i] += [trees[i].tokens[node] for node in path]
    for session, text in zip(sessions, texts, strict=True):
        assert_holds(session, text)
    if is_ours(model):  # cells lie in another order: the last bit of a sum may differ
        assert n_different < n_values / 10**4


def test_a_pass_costs_one_decode_for_all(ours):
    """Its times are those of the whole pass, and say so in every session."""
    context = opened(ours)
    a, b = context.session(), context.session()
    first, second = context.decode([(a, star(3)), (b, star(5))])
    assert first.decode_us == second.decode_us > 0 and first.engine_us == second.engine_us >= 0
    assert (first.n_rows, second.n_rows) == (3, 5)


def test_what_is_not_decoded_is_not_touched(ours):
    context = opened(ours)
    a, b = context.session(), context.session()
    a.set_prefix(text_of(30, 1))
    b.set_prefix(text_of(50, 2))
    result = a.decode(star(6), 3)
    best = result.best.tolist()
    b.decode(star(4))
    with pytest.raises(StateError, match="another session"):
        a.logits(0)
    a.commit([0, 2])  # the pass is still there
    b.commit([0])
    assert_holds(a, [*text_of(30, 1), 120, 201])
    assert_holds(b, [*text_of(50, 2), 120])
    assert best == alone(ours, text_of(30, 1), star(6)).argmax(axis=1).tolist()


# --- forks -----------------------------------------------------------------------------------------------------------


def test_a_fork_shares_and_goes_its_own_way(model):
    context = opened(model)
    system = text_of(100, 3)
    a = context.session()
    a.set_prefix(system)
    a.decode(star(5))  # not committed: the fork is one of the committed tokens
    b = a.fork()
    assert b.n_past == 100 and b.set_prefix(system).n_reused == 100
    texts = [[*system], [*system]]
    for step in range(3):
        trees = [star(4, root=130 + step), star(6, root=150 + step)]
        context.decode(list(zip((a, b), trees, strict=True)))
        for i, session in enumerate((a, b)):
            session.commit([0, 1 + i])
            texts[i] += [trees[i].tokens[0], trees[i].tokens[1 + i]]
    c = b.fork()
    a.close()
    for session, text in ((b, texts[1]), (c, texts[1])):
        assert_holds(session, text)
    b.set_prefix(system[:50])
    assert_holds(c, texts[1])
    assert_holds(b, system[:50])


def test_a_forked_context_has_room_for_all(ours):
    """Shared cells do not count against anyone: each session has n_ctx tokens."""
    context = opened(ours, 3)
    a = context.session()
    a.set_prefix(text_of(200, 4))
    forks = [a.fork(), a.fork()]
    for i, session in enumerate([a, *forks]):
        session.set_prefix([*text_of(200, 4), *text_of(context.n_ctx - 200, 5 + i)])
    for session in (a, *forks):
        assert session.n_past == context.n_ctx
        with pytest.raises(ContextFull, match=f"1 places, 0 of the session's {context.n_ctx}"):
            session.decode(TokenTree(120))


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_each_session_holds_its_tokens(ours, seed):
    random = np.random.default_rng(seed)
    context = opened(ours, n_rows_max=16, n_batch=64, n_ubatch=32)
    held: dict[Session, list[int]] = {}
    for _ in range(60):
        action = int(random.integers(8))
        session = list(held)[int(random.integers(len(held)))] if held else None
        if session is None or (action == 0 and len(held) < 4):
            held[context.session()] = []
        elif action == 1 and len(held) < 4:
            held[session.fork()] = list(held[session])
        elif action == 2:
            del held[session]
            session.close()
        elif action == 3:
            n_kept = int(random.integers(len(held[session]) + 1))
            held[session] = [*held[session][:n_kept], *text_of(int(random.integers(1, 70)), int(random.integers(99)))][
                :180
            ]
            session.set_prefix(held[session])
        elif action == 4:
            context.cancel()
            with pytest.raises(Cancelled):
                context.decode([(s, TokenTree(120)) for s in held])
        else:
            chosen = [s for s in held if random.integers(3)] or [session]
            n_rows = 16 // len(chosen)
            trees = [random_tree(random, int(random.integers(1, n_rows + 1)), ours.info.n_embd) for _ in chosen]
            context.decode(list(zip(chosen, trees, strict=True)))
            for s, tree in zip(chosen, trees, strict=True):
                what = int(random.integers(4))
                if what == 0:
                    s.rollback()
                elif what > 1:  # else it stays, and the next call drops it
                    path = tree.path_to(int(random.integers(tree.n_nodes)))
                    s.commit(path)
                    held[s] += [tree.tokens[node] for node in path]
        if random.integers(6) == 0:
            for s, tokens in held.items():
                assert_holds(s, tokens)
    for s, tokens in held.items():
        assert_holds(s, tokens)


# --- sequence ids ----------------------------------------------------------------------------------------------------


def test_ids_that_ran_out_are_lent_again(ours):
    """23 ids for four sessions, twelve that a cache may have, and passes of eight rows: a star of eight takes seven."""
    context = opened(ours, n_rows_max=8)
    sessions = [context.session() for _ in range(4)]
    texts = [text_of(20 + i, seed=i) for i in range(4)]
    for session, text in zip(sessions, texts, strict=True):
        session.set_prefix(text)
    for round_ in range(3):
        for i, session in enumerate(sessions):
            tree = star(8, root=140 + i)
            session.decode(tree, 1)
            assert_same(ours, rows_of(session, tree), alone(ours, texts[i], tree))
            session.commit([0, 1 + round_])
            texts[i] += [140 + i, tree.tokens[1 + round_]]
    for session in sessions[:3]:
        session.decode(star(8))  # not committed: its ids are not to be had
    with pytest.raises(ContextFull, match="need 7 sequences, 5 more than are left beside the 3 other sessions"):
        sessions[3].decode(star(8))
    for session in sessions[:3]:
        session.rollback()
    for session, text in zip(sessions, texts, strict=True):
        assert_holds(session, text)


def test_sixty_four_sessions_and_a_full_pass(ours):
    context = opened(ours, 64, n_rows_max=256, n_top_max=8)
    system = text_of(12, 9)
    first = context.session()
    first.set_prefix(system)
    sessions = [first, *(first.fork() for _ in range(63))]
    with pytest.raises(StateError, match="all n_sessions_max = 64 sessions of the context are open"):
        first.fork()
    texts = [[*system] for _ in sessions]
    for step in range(3):
        trees = [star(4, root=100 + i + step) for i in range(64)]
        passes = context.decode(list(zip(sessions, trees, strict=True)), 2)
        assert sum(result.n_rows for result in passes) == 256
        for i, session in enumerate(sessions):
            if i % 9 == 0:
                assert_same(ours, rows_of(session, trees[i]), alone(ours, texts[i], trees[i]))
        for i, session in enumerate(sessions):
            path = [0, 1 + (i + step) % 3] if i % 5 else [0]
            session.commit(path)
            texts[i] += [trees[i].tokens[node] for node in path]
    wide = star(194)  # 193 leaves: what 63 other sessions leave of 256
    sessions[5].decode(wide, 1)
    assert_same(ours, rows_of(sessions[5], wide), alone(ours, texts[5], wide, n_rows_max=256))
    sessions[5].rollback()
    with pytest.raises(ContextFull, match="1 more than are left beside the 63 other sessions"):
        sessions[5].decode(star(195))
    for i in (0, 5, 33, 63):
        assert_holds(sessions[i], texts[i])


def test_a_place_that_was_freed_can_be_taken_again(ours):
    context = opened(ours, 2)
    a, b = context.session(), context.session()
    b.set_prefix(text_of(60, 1))
    for i in range(5):
        a.set_prefix(text_of(250, i))
        a.decode(star(6))
        a.close()
        a = context.session()
        assert a.n_past == 0
    assert_holds(b, text_of(60, 1))
    assert_holds(a, [])


# --- what must not spread --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", ["stock", "ours"])
def test_nan_of_one_session_harms_no_other(nan_path, kernels):
    """Neither in a pass nor in a prompt of many rows; nor does it stay where it was when the session is gone."""
    model = Model(nan_path, kernels=kernels, n_threads=1)
    context = opened(model, 3)
    good, bad = context.session(), context.session()
    texts = [text_of(30, 1), [*text_of(10, 2), NAN_TOKEN, *text_of(100, 3)]]
    bad.set_prefix(texts[1])
    good.set_prefix(texts[0])
    for step in range(3):
        trees = [star(4, root=140 + step), star(3)]
        passes = context.decode(list(zip((good, bad), trees, strict=True)), 3)
        assert passes[1].best.tolist() == [-1, -1, -1]
        assert_same(model, rows_of(good, trees[0]), alone(model, texts[0], trees[0]))
        good.commit([0, 1])
        bad.commit([0])
        texts[0] += [140 + step, 200]
    bad.set_prefix(texts[1][:10])  # before the token
    assert_holds(bad, texts[1][:10])
    late = context.session()  # in cells that were NaN
    prefix = late.set_prefix(text_of(150, 4), 150)
    assert len(prefix.top_tokens) == 150
    assert_holds(late, text_of(150, 4))
    mixed = TokenTree(NAN_TOKEN)
    result = good.decode(mixed)
    assert result.best.tolist() == [-1]
    good.rollback()
    assert_holds(good, texts[0])


def test_a_shared_context_needs_flash_attention(model):
    with pytest.raises(ArgumentError, match="n_sessions_max = 2 sessions in one context need flash attention"):
        opened(model, 2, flash_attn=0)
    opened(model, 1, flash_attn=0)


def test_a_cancel_stops_the_pass_of_all(model):
    context = opened(model, n_batch=32, n_ubatch=32)
    sessions = [context.session() for _ in range(3)]
    texts = [text_of(20 + i, seed=i) for i in range(3)]
    for session, text in zip(sessions, texts, strict=True):
        session.set_prefix(text)
    context.cancel()
    with pytest.raises(Cancelled):
        context.decode([(session, star(4)) for session in sessions])
    with pytest.raises(StateError, match="no pass"):
        sessions[0].commit([0])
    for session, text in zip(sessions, texts, strict=True):
        assert_holds(session, text)
    context.decode([(session, star(4)) for session in sessions])
    context.cancel()
    with pytest.raises(Cancelled):
        sessions[1].set_prefix(text_of(200, 9))
    for i, n_rows in ((0, 2), (2, 3)):  # their pass is not touched
        sessions[i].commit([0, n_rows])
        texts[i] += [120, 199 + n_rows]
        assert_holds(sessions[i], texts[i])


def test_a_pass_that_is_aborted_in_the_middle(model):
    context = opened(model, 8, n_rows_max=256, n_ubatch=256)
    sessions = [context.session() for _ in range(8)]
    for i, session in enumerate(sessions):
        session.set_prefix(text_of(60, i))
    n_cancelled = 0
    for microseconds in range(0, 8000, 250):
        timer = threading.Timer(microseconds / 1e6, context.cancel)
        timer.start()
        try:
            context.decode([(session, star(30)) for session in sessions])
        except Cancelled:
            n_cancelled += 1
        timer.join()
        with contextlib.suppress(Cancelled):  # one that came too late for the pass
            sessions[0].decode(TokenTree(120))
        for session in sessions:
            session.rollback()
    assert n_cancelled > 0
    for i, session in enumerate(sessions):
        assert_holds(session, text_of(60, i))


# --- threads, forks, order of closing --------------------------------------------------------------------------------


def test_the_guard_is_the_contexts(ours):
    """While one session is evaluated, another one of the context is busy; its owner may close it all the same."""
    context = opened(ours, 3, n_ctx=2048, n_batch=16, n_ubatch=16, n_rows_max=8)
    long, other, third = (context.session() for _ in range(3))
    other.set_prefix(text_of(10, 1))
    stop = threading.Event()

    def evaluate():
        while not stop.is_set():
            with contextlib.suppress(StateError):
                long.set_prefix([])
                long.set_prefix(text_of(1500, 2))

    thread = threading.Thread(target=evaluate)
    thread.start()
    calls = [lambda: other.set_prefix([2]), lambda: other.commit([]), context.session, other.fork, context.parts]
    statuses = [""] * len(calls)
    deadline = time.monotonic() + 60
    while set(statuses) != {"busy"} and time.monotonic() < deadline:
        for i, call in enumerate(calls):
            try:
                call()
            except StateError as error:
                statuses[i] = error.status if error.status == "busy" else statuses[i]
        time.sleep(0.001)  # outside: else the other thread may always come while this one is inside
    third.close()
    stop.set()
    thread.join()
    assert statuses == ["busy"] * len(calls)
    context.session().close()  # the place of the closed one


def test_order_of_closing(path):
    model = Model(path, n_threads=1)
    context = opened(model, 2)
    a, b = context.session(), context.session()
    a.set_prefix(text_of(20, 1))
    model.close()
    context.close()
    for call in (context.session, lambda: a.decode(star(2)), lambda: a.set_prefix([1]), a.fork):
        with pytest.raises(StateError, match="the context is closed"):
            call()
    assert a.n_past == 20
    context.cancel()  # a signal may come late
    a.close(), b.close(), context.close()
    with pytest.raises(StateError, match="the session is closed"):
        a.commit([0])


def test_a_forked_child_is_told_and_frees_nothing(ours):
    context = opened(ours, 2)
    a, b = context.session(), context.session()
    a.set_prefix(text_of(20, 1))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            context.decode([(a, star(2)), (b, star(2))])
        except StateError as error:
            a.close(), b.close(), context.close()
            status = 0 if error.status == "state" and "spawn" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert_holds(a, text_of(20, 1))

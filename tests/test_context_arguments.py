"""What a context refuses, with one line, and how small it may be."""

import pytest

from contexts import N_VOCAB, assert_holds, opened, star, text_of
from maskprobe import ArgumentError, Context, ContextFull, Model, StateError, TokenTree
from random_gguf import write_random_gguf


@pytest.fixture(scope="module")
def ours(tiny_model_path):
    return Model(tiny_model_path("tiny-llama"), kernels="ours", n_threads=1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_sessions_max": 0}, "n_sessions_max = 0 must be between 1 and 64"),
        ({"n_sessions_max": 65}, "n_sessions_max = 65 must be between 1 and 64"),
        ({"n_sessions_max": -1}, "n_sessions_max = -1"),
        ({"n_rows_max": -1}, "n_rows_max = -1 must be between 1 and 256"),
        ({"n_rows_max": 0}, "n_rows_max = 0"),
        ({"n_rows_max": 2**31 - 1}, "n_rows_max = 2147483647 must be between 1 and 256"),
        ({"n_top_max": 0}, "n_top_max = 0"),
        ({"n_top_max": 2**31 - 1}, "n_top_max = 2147483647"),
        ({"n_ctx": -1}, "n_ctx = -1"),
        ({"n_ctx": 2**28, "n_sessions_max": 64}, "n_ctx = 268435456 for n_sessions_max = 64"),
        ({"n_batch": 0}, "n_batch = 0"),
        ({"n_threads": -1}, "n_threads = -1"),
        ({"n_threads": 2**31 - 1}, "n_threads = 2147483647"),
        ({"n_threads_batch": 2**31 - 1}, "n_threads_batch = 2147483647"),
        ({"flash_attn": 2}, "flash_attn = 2"),
        ({"n_ubatch": 8}, "32 rows must fit into n_ubatch = 8"),
    ],
)
def test_sizes_that_are_refused(ours, settings, said):
    with pytest.raises(ArgumentError) as caught:
        opened(ours, **settings)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_passes_that_are_refused(ours):
    context, elsewhere = opened(ours), opened(ours)
    a, b, other = context.session(), context.session(), elsewhere.session()
    a.set_prefix(text_of(20, 1))
    bad = TokenTree(120)
    bad.add(0, N_VOCAB, 0.0)
    for trees, said in [
        ([], "over 0 sessions"),
        ([(a, star(2))] * 5, "over 5 sessions"),
        ([(a, star(2)), (a, star(3))], "session 1 of the pass is its session 0 too"),
        ([(a, star(2)), (other, star(2))], "session 1 of the pass is not one of this context"),
        ([(a, star(2)), (b, bad)], f"tree 1: token {N_VOCAB} of node 1"),
        ([(a, bad)], f"^token {N_VOCAB} of node 1"),
        ([(a, star(17)), (b, star(16))], "the 2 trees have 33 rows together, the context takes n_rows_max = 32"),
        ([(a, star(33))], "33 rows"),
    ]:
        with pytest.raises(ArgumentError, match=said):
            context.decode(trees)
    for n_top in (0, 65, -1):
        with pytest.raises(ArgumentError, match=f"n_top = {n_top} must be between 1 and the context's n_top_max = 64"):
            context.decode([(a, star(2))], n_top)
    with pytest.raises(StateError, match="no pass"):
        a.logits(0)
    assert_holds(a, text_of(20, 1))


@pytest.mark.parametrize("n_ctx", [1, 16, 300])
def test_a_context_smaller_than_a_pass(ours, n_ctx):
    context = opened(ours, 1, n_ctx=n_ctx, n_rows_max=256)
    session = context.session()
    n = context.n_ctx
    session.set_prefix(text_of(n - 100, 1))
    with pytest.raises(ContextFull, match=f"the tree needs 256 places, 100 of the session's {n} are left"):
        session.decode(star(256))
    session.decode(star(100))
    session.commit([0])
    assert session.n_past == n - 99
    with pytest.raises(ContextFull, match=f"{n + 1} tokens do not fit into a context of {n}"):
        session.set_prefix(text_of(n + 1, 1))


def test_a_pass_of_more_rows_than_the_model_has_places(tmp_path):
    write_random_gguf(tmp_path / "gpt2.gguf", "tiny-gpt2", n_ctx=20)
    model = Model(tmp_path / "gpt2.gguf", n_threads=1)
    context = Context(model, n_rows_max=64, n_sessions_max=2, n_threads=1)
    assert context.n_ctx == 20
    session = context.session()
    with pytest.raises(ContextFull, match="the tree needs 21 places, 20 of the session's 20 are left"):
        session.decode(star(21))
    session.decode(star(20))

"""Hidden states between layers: what they are, that reading them changes nothing, and what is refused."""

import gguf
import numpy as np
import pytest

from contexts import random_tree, rows_of, star, text_of
from maskprobe import ArgumentError, Context, Model, ModelError, Session, StateError

SETTINGS = {"n_ctx": 256, "n_rows_max": 32, "n_threads": 1}
ARCHITECTURES = [
    "tiny-llama",
    "tiny-qwen3",
    "tiny-gpt2",
    "tiny-gemma3",
    "tiny-qwen3moe",
    "tiny-gpt-oss",
    "tiny-granite",
]


@pytest.fixture(scope="module", params=["stock", "ours"])
def model(request, tiny_model_path):
    return Model(tiny_model_path("tiny-llama"), kernels=request.param, n_threads=1)


def head_of(path) -> np.ndarray:
    """The tied output matrix, (n_vocab, n_embd)."""
    (tensor,) = (tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "token_embd.weight")
    return tensor.data


def test_rows_are_bit_identical_with_taps(model):
    random = np.random.default_rng(3)
    trees = [random_tree(random, n_rows, model.info.n_embd) for n_rows in (1, 2, 7, 32)]
    text = text_of(40, 1)
    with Session(model, **SETTINGS) as plain, Session(model, **SETTINGS, taps=True) as tapped:
        for layers in ([], [0], [2], [0, 1, 2]):
            tapped.tap(layers)
            for tree in trees:
                for session in (plain, tapped):
                    session.set_prefix(text)
                    session.decode(tree, 1)
                assert np.array_equal(rows_of(plain, tree), rows_of(tapped, tree))


def test_the_head_makes_the_logits_of_the_last_norm(model):
    """Of nodes and masks alike, each row its own."""
    tree = random_tree(np.random.default_rng(4), 20, model.info.n_embd)
    assert tree.n_masks > 0
    with Session(model, **SETTINGS, taps=True) as session:
        session.tap([model.info.n_layer])
        session.set_prefix(text_of(30, 2))
        session.decode(tree, 1)
        states = np.array([session.hidden(row, model.info.n_layer) for row in range(tree.n_rows)])
        logits = rows_of(session, tree)
    np.testing.assert_allclose(states @ head_of(model.path).T, logits, atol=2e-3)
    assert len({state.tobytes() for state in states}) == tree.n_rows


@pytest.mark.parametrize("shape", ARCHITECTURES)
def test_every_layer_of_every_architecture_can_be_read(tiny_model_path, shape):
    model = Model(tiny_model_path(shape), n_threads=1)
    n_layer = model.info.n_layer
    with Session(model, **SETTINGS, taps=True) as session:
        session.tap(range(n_layer + 1))
        session.set_prefix(text_of(10, 1))
        session.decode(star(5), 1)
        states = np.array([[session.hidden(row, layer) for layer in range(n_layer + 1)] for row in range(5)])
    assert states.shape == (5, n_layer + 1, model.info.n_embd) and np.isfinite(states).all()
    assert all(np.abs(states[:, i] - states[:, i + 1]).max() > 1e-3 for i in range(n_layer))


def test_sessions_of_one_pass_have_their_own_rows(tiny_model_path):
    model = Model(tiny_model_path("tiny-llama"), kernels="ours", n_threads=1)
    texts, trees = [text_of(20, 5), text_of(33, 6)], [star(4), star(9, root=150)]
    with Context(model, **SETTINGS, n_sessions_max=2, taps=True) as context:
        context.tap([1])
        sessions = [context.session() for _ in texts]
        for session, text in zip(sessions, texts, strict=True):
            session.set_prefix(text)
        context.decode(list(zip(sessions, trees, strict=True)))
        together = [
            [session.hidden(row, 1) for row in range(tree.n_rows)]
            for session, tree in zip(sessions, trees, strict=True)
        ]
        for session, tree, states in zip(sessions, trees, together, strict=True):
            session.decode(tree)
            alone = [session.hidden(row, 1) for row in range(tree.n_rows)]
            np.testing.assert_allclose(states, alone, atol=1e-5)


def test_states_go_with_their_pass(model):
    with Context(model, **SETTINGS, n_sessions_max=2, flash_attn=1, taps=True) as context:
        one, other = context.session(), context.session()
        context.tap([0])
        with pytest.raises(StateError, match="there are no outputs"):
            one.hidden(0, 0)
        one.decode(star(3))
        first = one.hidden(2, 0)
        one.commit([0])
        assert np.array_equal(one.hidden(2, 0), first)  # as the logits
        context.tap([1])
        assert np.array_equal(one.hidden(2, 0), first)  # of the pass that was
        other.decode(star(2))
        with pytest.raises(StateError, match="are gone: there was another one"):
            one.hidden(2, 0)
        with pytest.raises(StateError, match="layer 0 was not tapped in the last pass"):
            other.hidden(0, 0)
        with pytest.raises(ArgumentError, match="row 2 is not one of the last pass's 2 rows"):
            other.hidden(2, 1)


def test_what_cannot_be_tapped_is_refused(model, tiny_model_path):
    with Session(model, **SETTINGS) as session:
        with pytest.raises(StateError, match="opened without taps"):
            session.tap([0])
        session.decode(star(2))
        with pytest.raises(StateError, match="opened without taps"):
            session.hidden(0, 0)
    with Session(model, **SETTINGS, taps=True) as session:
        for layer in (-1, 3):
            with pytest.raises(ArgumentError, match=f"layer {layer} is out of range: 0 to 1, or 2 for the last norm"):
                session.tap([0, layer])
        session.tap([])
        session.decode(star(2))
        with pytest.raises(StateError, match="layer 0 was not tapped"):
            session.hidden(0, 0)
    recurrent = Model(tiny_model_path("tiny-mamba"), n_threads=1)
    with pytest.raises(ModelError, match="a mamba model has no taps"):
        Session(recurrent, **SETTINGS, taps=True)

"""Contexts of a tiny model, trees for them, and what their sessions hold."""

import numpy as np

from maskprobe import Context, Model, Session, TokenTree

N_VOCAB = 512
F32 = {"type_k": "f32", "type_v": "f32", "n_threads": 1}


def opened(model: Model, n_sessions_max: int = 4, **settings) -> Context:
    return Context(model, **{"n_ctx": 256, "n_rows_max": 32, "n_sessions_max": n_sessions_max, **F32, **settings})


def text_of(n: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(100, N_VOCAB - 2, n).tolist()


def random_tree(random: np.random.Generator, n_rows: int, n_embd: int, with_masks: bool = True) -> TokenTree:
    """At most n_rows rows: nodes anywhere below the root, masks after any of them."""
    tree = TokenTree(int(random.integers(100, N_VOCAB - 2)))
    while tree.n_rows < n_rows:
        if with_masks and random.integers(4) == 0:
            vectors = random.normal(0, 0.3, (1, n_embd)).astype(np.float32)
            tree.add_masks(int(random.integers(tree.n_nodes)), vectors)
        else:
            tree.add(int(random.integers(tree.n_nodes)), int(random.integers(100, N_VOCAB - 2)), 0.0)
    return tree


def star(n_rows: int, root: int = 120) -> TokenTree:
    tree = TokenTree(root)
    for token in range(200, 199 + n_rows):
        tree.add(0, token, 0.0)
    return tree


def alone(model: Model, tokens: list[int], tree: TokenTree, **settings) -> np.ndarray:
    """The logits of the tree's rows after `tokens`, (n_rows, n_vocab), from a context of its own."""
    with Session(model, **{"n_ctx": 256, "n_rows_max": 32, **F32, "flash_attn": 1, **settings}) as session:
        session.set_prefix(tokens)
        session.decode(tree, 1)
        return rows_of(session, tree)


def rows_of(session: Session, tree: TokenTree) -> np.ndarray:
    return np.array([session.logits(row) for row in range(tree.n_rows)])


def is_ours(model: Model) -> bool:
    return model.info.kernels != "llama.cpp"


def assert_same(model: Model, logits: np.ndarray, expected: np.ndarray) -> None:
    """Logits have a deviation of about 2; ggml's flash attention sums in half precision, by the order of the cells."""
    if is_ours(model):
        assert np.array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
    np.testing.assert_allclose(logits, expected, atol=1e-5 if is_ours(model) else 0.05)


def assert_holds(session: Session, tokens: list[int]) -> None:
    """What follows is what follows `tokens` in a fresh session, and nothing of a pass is left."""
    assert session.n_past == len(tokens)
    tree = star(3)
    session.decode(tree, 1)
    logits = rows_of(session, tree)
    assert np.isfinite(logits).all()
    session.rollback()
    assert_same(session.model, logits, alone(session.model, tokens, tree))

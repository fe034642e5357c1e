"""Embedding-space probing by hand:  python esp_by_hand.py model.gguf "prompt" [n]

A mask is a vector that is no token's. What the model expects after it guesses the tokens after the next one. Each token
that comes out is the model's own choice: the text is that of plain greedy decoding."""

import sys

import numpy as np

from maskprobe import Model, Session, TokenTree

WIDTHS = (4, 2)  # candidates for the token after the root, and for the one after the best of these
N_ROWS = (1 + sum(WIDTHS)) * (1 + len(WIDTHS))  # nodes, each with a mask per level


def build(root: int, guesses: list[list[int]], mask: np.ndarray) -> TokenTree:
    """A tree of guesses[level], the most likely first, with masks after each node. mask is (n_embd,)."""
    tree, parent = TokenTree(root), 0
    for width, tokens in zip(WIDTHS, guesses, strict=False):
        kept = [token for token in tokens if token != tree.tokens[parent]][:width]  # pruned: a mask repeats its owner
        nodes = [tree.add(parent, token, 0.0) for token in kept]
        parent = nodes[0]
    for node in range(tree.n_nodes):
        tree.add_masks(node, np.tile(mask, (len(WIDTHS), 1)))
    return tree


def verify(tree: TokenTree, best: np.ndarray) -> tuple[list[int], list[int]]:
    """The accepted path, and the model's token after each node of it. best is (n_rows,)."""
    path, tokens = [0], [int(best[0])]
    while (child := tree.child(path[-1], tokens[-1])) is not None:
        path.append(child)
        tokens.append(int(best[child]))
    return path, tokens


def generate(model: Model, prompt: list[int], n: int) -> tuple[list[int], int]:
    """At most n tokens after the prompt, and the passes that they took."""
    session = Session(model, n_ctx=len(prompt) + n + N_ROWS, n_rows_max=N_ROWS)
    mask = model.embedding_rows(prompt).mean(axis=0)  # (n_embd,)
    session.set_prefix(prompt[:-1])
    root, guesses, text, n_passes = prompt[-1], [], [], 0
    while len(text) < n:
        tree = build(root, guesses, mask)
        result = session.decode(tree, n_top=max(WIDTHS) + 1)
        path, tokens = verify(tree, result.best)
        session.commit(path)
        guesses = [result.top_tokens[row].tolist() for row in tree.mask_rows(path[-1])]
        root, n_passes = tokens[-1], n_passes + 1
        for token in tokens[: n - len(text)]:
            if model.is_end(token):
                return text, n_passes
            text.append(token)
    return text, n_passes


if __name__ == "__main__":
    model = Model(sys.argv[1])
    tokens, n_passes = generate(model, model.tokenize(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 64)
    print(model.detokenize(tokens).decode(errors="replace"))
    print(f"{len(tokens) / n_passes:.2f} tokens per pass", file=sys.stderr)

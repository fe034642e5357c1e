"""Which candidates of a pass stand: those that the model's own sampler draws."""

from collections.abc import Callable

from .tree import TokenTree


def accept(
    tree: TokenTree, draw: Callable[[int], int], is_end: Callable[[int], bool], limit: int
) -> tuple[list[int], list[int]]:
    """Walks down the tree with the sampler's own tokens (ESP, arXiv 2603.17942: exact match).

    `draw(row)` gives the token that follows node `row` and is called once per emitted token, in order, so the output is
    that of plain decoding whatever the tree holds. `is_end(token)` is likewise called once per emitted token: the walk
    stops where it is true, after `limit` tokens (>= 1), or where no child carries the token.

    Returns (path, emitted), of equal length: emitted[i] was drawn after node path[i]; path[0] = 0 is the root, and
    the nodes after it are the accepted candidates. The last emitted token is in no node of the path.
    """
    path, emitted = [0], []
    while True:
        token = draw(path[-1])
        emitted.append(token)
        if is_end(token) or len(emitted) >= limit:
            return path, emitted
        node = tree.child(path[-1], token)
        if node is None:
            return path, emitted
        path.append(node)

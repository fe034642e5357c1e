"""accept(): the walk down a tree with the sampler's tokens."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from maskprobe import TokenTree, accept

NO_LIMIT = sys.maxsize


def small_tree() -> TokenTree:
    """5 -> 6 -> 7 -> 8, and 5 -> 9."""
    tree = TokenTree(5)
    tree.add(tree.add(tree.add(0, 6, 0.0), 7, 0.0), 8, 0.0)
    tree.add(0, 9, 0.0)
    return tree


class Draws:
    """A sampler with a fixed answer per row."""

    def __init__(self, answers: dict[int, int]) -> None:
        self.answers = answers
        self.rows: list[int] = []

    def __call__(self, row: int) -> int:
        self.rows.append(row)
        return self.answers[row]


def never(token: int) -> bool:
    return False


def test_a_whole_path_and_the_bonus():
    draw = Draws({0: 6, 1: 7, 2: 8, 3: 1})
    assert accept(small_tree(), draw, never, NO_LIMIT) == ([0, 1, 2, 3], [6, 7, 8, 1])
    assert draw.rows == [0, 1, 2, 3]


def test_the_first_token_without_a_child_ends_the_walk():
    assert accept(small_tree(), Draws({0: 2}), never, NO_LIMIT) == ([0], [2])
    assert accept(small_tree(), Draws({0: 9, 4: 6}), never, NO_LIMIT) == ([0, 4], [9, 6])


def test_the_limit_counts_tokens():
    draw = Draws({0: 6, 1: 7, 2: 8, 3: 1})
    assert accept(small_tree(), draw, never, 2) == ([0, 1], [6, 7])
    assert draw.rows == [0, 1]


def test_an_end_token_is_emitted_but_not_followed():
    draw = Draws({0: 6, 1: 7, 2: 8, 3: 1})
    asked = []

    def is_end(token: int) -> bool:
        asked.append(token)
        return token == 7

    assert accept(small_tree(), draw, is_end, NO_LIMIT) == ([0, 1], [6, 7])
    assert draw.rows == [0, 1] and asked == [6, 7]


@given(
    nodes=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 3)), max_size=40),
    answers=st.lists(st.integers(0, 3), min_size=41, max_size=41),
    limit=st.integers(1, 10),
    end=st.integers(0, 5),
)
def test_random_trees(nodes, answers, limit, end):
    tree = TokenTree(0)
    for parent, token in nodes:
        tree.add(parent % tree.n_nodes, token, 0.0)
    draw = Draws(dict(enumerate(answers)))
    path, emitted = accept(tree, draw, lambda token: token == end, limit)
    assert draw.rows == path  # one draw per emitted token, in order
    assert emitted == [answers[row] for row in path]
    assert [tree.tokens[node] for node in path[1:]] == emitted[:-1]
    assert len(emitted) <= limit and end not in emitted[:-1]
    if len(emitted) < limit and emitted[-1] != end:
        assert tree.child(path[-1], emitted[-1]) is None

"""TokenTree, and the trees that the mask probe builds."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import N_EMBD, N_VOCAB, FakeModel
from maskprobe import ArgumentError, MaskProbe, Pass, TokenTree

VECTORS = np.ones((2, N_EMBD), np.float32)


def random_tree(draws: list[tuple[int, int]]) -> TokenTree:
    tree = TokenTree(7)
    for parent, token in draws:
        tree.add(parent % tree.n_nodes, token, -0.5)
    return tree


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 3)), max_size=60))
def test_nodes_of_a_random_tree(draws):
    tree = random_tree(draws)
    siblings = set()
    for node in range(tree.n_nodes):
        path = tree.path_to(node)
        assert path[0] == 0 and path[-1] == node and len(path) == tree.depths[node] + 1
        assert all(tree.parents[b] == a for a, b in itertools.pairwise(path))
        assert tree.logprobs[node] == pytest.approx(-0.5 * tree.depths[node])
        if node:
            assert tree.parents[node] < node
            assert tree.child(tree.parents[node], tree.tokens[node]) == node
            siblings.add((tree.parents[node], tree.tokens[node]))
    assert len(siblings) == tree.n_nodes - 1  # no token twice after one node


def test_a_child_that_exists_is_returned():
    tree = TokenTree(1)
    first = tree.add(0, 5, -1.0)
    assert tree.add(0, 5, -9.0) == first
    assert tree.n_nodes == 2 and tree.logprobs[first] == -1.0
    assert tree.child(0, 6) is None


def test_rows_of_masks():
    tree = TokenTree(1)
    a = tree.add(0, 5, -1.0)
    tree.add_masks(a, VECTORS)
    tree.add_masks(0, 2 * VECTORS)
    tree.add(a, 6, -1.0)  # shifts every mask row
    tree.add_masks(a, 3 * VECTORS[:1])
    assert (tree.n_nodes, tree.n_masks, tree.n_rows) == (3, 5, 8)
    assert tree.mask_owners == [a, a, 0, 0, a]
    assert tree.mask_rows(a) == [3, 4, 7] and tree.mask_rows(0) == [5, 6] and tree.mask_rows(2) == []
    assert tree.mask_vectors[:, 0].tolist() == [1, 1, 2, 2, 3]


def test_what_a_tree_refuses():
    tree = TokenTree(1)
    tree.add_masks(0, VECTORS)
    for call, said in [
        (lambda: tree.add(1, 5, 0.0), "parent 1 does not exist: the tree has 1 nodes"),
        (lambda: tree.add(-1, 5, 0.0), "parent -1"),
        (lambda: tree.path_to(3), "node 3"),
        (lambda: tree.add_masks(4, VECTORS), "owner 4"),
        (lambda: tree.add_masks(0, VECTORS[0]), r"\(6,\)"),
        (lambda: tree.add_masks(0, np.ones((1, 9))), "9 values do not go with those of 6"),
    ]:
        with pytest.raises(ArgumentError, match=said):
            call()


# --- trees of the mask probe -----------------------------------------------------------------------------------------


def probe_after_a_pass(root: int = 1, n_top: int | None = None, **settings) -> MaskProbe:
    """A probe that has seen one pass: the root with its masks. Mask j gives the tokens j, j + 1, j + 2, ... (mod
    N_VOCAB) with falling probabilities."""
    probe = MaskProbe(FakeModel(), **settings)
    probe.begin([root])
    tree = probe.propose([root], 1000)
    assert tree.n_nodes == 1 and tree.n_masks == probe.n_masks
    n_top = n_top or probe.n_top
    order = (np.arange(tree.n_rows)[:, None] + np.arange(n_top)) % N_VOCAB
    logprobs = np.tile(np.log(0.5) * np.arange(1, n_top + 1), (tree.n_rows, 1))
    probe.observe(tree, Pass(tree.n_rows, n_top, order[:, 0], order, logprobs, 0, 0), [0], [9])
    return probe


@pytest.mark.parametrize(
    ("shape", "n_rows"), [("4", 10), ("14", 30), ("7,2", 30), ("29", 60), ("15,4", 60), ("7,5,3", 64)]
)
def test_block_complexity_of_static_trees(shape, n_rows):
    """(k + 1) (1 + sum K) rows, the paper's figure."""
    model = FakeModel(n_vocab=200)
    probe = MaskProbe(model, tree=shape)
    assert probe.n_rows_max == n_rows
    probe.begin([1])
    tree = probe.propose([1], 1000)
    top = np.tile(np.arange(10, 10 + probe.n_top), (tree.n_rows, 1))
    probe.observe(tree, Pass(tree.n_rows, probe.n_top, top[:, 0], top, -1.0 * top, 0, 0), [0], [9])
    assert probe.propose([1, 9], 1000).n_rows == n_rows


def test_top_1_expansion():
    tree = probe_after_a_pass(tree="3,2").propose([1, 9], 100)
    assert tree.tokens == [9, 1, 2, 3, 2, 3]  # mask 1 gives 1, 2, 3; mask 2 gives 2, 3
    assert tree.parents == [-1, 0, 0, 0, 1, 1]
    assert tree.mask_owners == [owner for owner in range(6) for _ in range(2)]


def test_a_token_is_not_offered_behind_itself():
    tree = probe_after_a_pass(tree="3,2").propose([1, 2], 100)
    assert tree.tokens == [2, 1, 3, 4, 2, 3]
    tree = probe_after_a_pass(tree="3,2").propose([1, 1], 100)
    assert tree.tokens == [1, 2, 3, 4, 3, 4]  # mask 2 would give 2 after 2
    tree = probe_after_a_pass(tree="dynamic", rows=30).propose([1, 1], 100)
    assert all(tree.tokens[p] != t for t, p in zip(tree.tokens[1:], tree.parents[1:], strict=True))


@given(
    shape=st.sampled_from(["1", "4", "14", "7,2", "15,4", "7,5,3", "2,2,2,2", "dynamic"]),
    rows=st.integers(8, 256),
    more_masks=st.integers(0, 2),
    children=st.one_of(st.just("all"), st.integers(0, 20)),
    room=st.integers(1, 300),
    root=st.integers(0, N_VOCAB - 1),
)
def test_the_budget_is_never_exceeded(shape, rows, more_masks, children, room, root):
    masks = None if more_masks == 0 else shape.count(",") + more_masks
    probe = probe_after_a_pass(tree=shape, rows=rows, masks=masks, mask_children=children)
    if shape == "dynamic":
        assert probe.n_rows_max == rows
    tree = probe.propose([1, root], room)
    assert tree.tokens[0] == root
    assert tree.n_rows <= min(room, probe.n_rows_max)
    owners = sorted(set(tree.mask_owners))
    if tree.n_rows > 1:
        assert owners[0] == 0 and tree.mask_owners.count(0) == min(probe.n_masks, tree.n_rows - 1)
    if tree.n_nodes > 1:
        assert all(tree.mask_owners.count(owner) == probe.n_masks for owner in owners)
        best = [node for node in range(1, tree.n_nodes) if tree.depths[node] == 1]
        assert owners == (list(range(tree.n_nodes)) if children == "all" else [0, *best[:children]])
    if room >= probe.n_rows_max and children == "all" and shape != "dynamic":
        widths = [int(width) for width in shape.split(",")]
        assert [tree.depths.count(depth) for depth in range(1, len(widths) + 1)] == widths


@given(rows=st.integers(6, 60), masks=st.integers(1, 3), root=st.integers(0, N_VOCAB - 1))
def test_a_dynamic_tree_holds_the_most_probable_nodes(rows, masks, root):
    """Against the plain enumeration of every path (algorithm 1 of the paper with an unlimited frontier)."""
    if rows < 2 * (masks + 1):
        rows = 2 * (masks + 1)
    n_top = 10
    probe = probe_after_a_pass(tree="dynamic", rows=rows, masks=masks, n_top=n_top)
    tree = probe.propose([1, root], 1000)
    every = []
    for depth in range(1, masks + 1):
        for ranks in itertools.product(range(n_top), repeat=depth):
            tokens = [root, *((level + 1 + rank) % N_VOCAB for level, rank in enumerate(ranks))]
            if all(a != b for a, b in itertools.pairwise(tokens)):
                every.append(sum(np.log(0.5) * (rank + 1) for rank in ranks))
    n_nodes = min(rows // (masks + 1) - 1, len(every))
    assert sorted(tree.logprobs[1:], reverse=True) == pytest.approx(sorted(every, reverse=True)[:n_nodes])


def test_masks_after_the_last_node_alone():
    probe = probe_after_a_pass(tree="1,1,1", mask_children="last")
    assert probe.n_rows_max == 7
    tree = probe.propose([1, 9], 100)
    assert tree.parents == [-1, 0, 1, 2] and tree.mask_owners == [3, 3, 3]
    for room in range(1, 7):
        tree = probe.propose([1, 9], room)
        assert tree.n_rows == room and set(tree.mask_owners) <= {tree.n_nodes - 1}


def test_without_masks_behind_the_last_node_the_next_tree_is_the_root():
    probe = probe_after_a_pass(tree="4", mask_children=1)
    tree = probe.propose([1, 9], 100)
    assert tree.n_rows == 1 + 4 + 1 * 2
    top = np.tile(np.arange(probe.n_top), (tree.n_rows, 1))
    probe.observe(tree, Pass(tree.n_rows, probe.n_top, top[:, 0], top, -1.0 * top, 0, 0), [0, 2], [tree.tokens[2], 3])
    tree = probe.propose([1, 9, 2, 3], 100)
    assert tree.n_nodes == 1 and tree.n_masks == 1
    assert probe.propose([1], 1).n_rows == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tree": ""}, "cannot be read"),
        ({"tree": "4,x"}, "cannot be read"),
        ({"tree": "4,0"}, "cannot be read"),
        ({"tree": "-3"}, "cannot be read"),
        ({"tree": "128"}, "takes 258 rows, a pass has at most 256"),
        ({"tree": "7,2", "masks": 1}, "masks = 1 is too few: this tree needs 2"),
        ({"tree": "dynamic", "masks": 0}, "masks = 0 is too few: this tree needs 1"),
        ({"tree": "dynamic", "rows": 5}, "rows = 5 is too few: .* take 6"),
        ({"tree": "dynamic", "rows": 257}, "257 rows"),
        ({"mask_children": -1}, "mask_children must be"),
        ({"mask_children": "some"}, "mask_children must be"),
    ],
)
def test_shapes_that_are_refused(settings, said):
    with pytest.raises(ArgumentError, match=said):
        MaskProbe(FakeModel(), **settings)


@pytest.mark.parametrize("missing", ["can_tree", "can_probe"])
def test_a_model_that_cannot_be_probed_is_refused(missing):
    with pytest.raises(ArgumentError, match="recurrent"):
        MaskProbe(FakeModel(**{missing: False}, note="recurrent"))

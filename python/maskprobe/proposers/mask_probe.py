"""Embedding-space probing (ESP, arXiv 2603.17942): candidates from masks that were decoded with the last pass."""

from collections.abc import Sequence

from .._capi import shown
from ..errors import ArgumentError
from ..masks import MaskEmbedding
from ..model import Model
from ..session import Pass
from ..tree import TokenTree
from .base import N_ROWS_LIMIT, Proposer
from .growth import Distribution, add_most_probable

N_TOP_LIMIT = 64  # candidates looked at after one node of a dynamic tree
DYNAMIC_MASKS = 2  # masks per owner of a dynamic tree, unless told


class MaskProbe(Proposer):
    """Probes the model itself: k masks after a node predict the tokens 2..k+1 places after it.

    tree: the shape of the candidates.
        "14" or "7,2": static, top-1 expansion. The first number counts the children of the root, taken from mask 1 of
            the last accepted node; the next the children of the best of these, from mask 2; and so on. k is the number
            of levels. A pass has (k + 1) (1 + sum) rows, the paper's block complexity.
        "dynamic": the most probable nodes that fit `rows` rows (the paper's algorithm 1), k = 2.
    masks: another k, at least the number of levels.
    mask_children: "all" puts masks after every node; a number c after the root and its best c children only; "last"
        after the deepest node only. Where the last accepted node had none, the next pass is the root with its masks.
        With one candidate per level, "last" is the linear decoding and "all" the quadratic one of arXiv 2507.11851.
    mask: the vectors, the mean of the prompt's embeddings unless told.

    A candidate equal to its parent's token is passed over for the next best (the paper's pruning).

    Raises ArgumentError for a shape that cannot be read or has too many rows, and for a model that cannot be probed.
    """

    def __init__(
        self,
        model: Model,
        *,
        tree: str = "14",
        rows: int = 30,
        masks: int | None = None,
        mask_children: str | int = "all",
        mask: MaskEmbedding | None = None,
    ) -> None:
        if not (model.info.can_probe and model.info.can_tree):
            raise ArgumentError(f"this model cannot be probed ({model.info.note}): decode it plainly")
        self.mask = mask or MaskEmbedding(model)
        self.widths = _parse_widths(tree)
        self.n_masks = _checked_masks(masks, self.widths)
        self._last_only = mask_children == "last"
        self._owner_children = None if self._last_only else _checked_mask_children(mask_children)  # None: every node
        if self.widths:
            self.n_rows_max = self._n_rows(sum(self.widths))
            n_top = max(self.widths) + 1  # one more, should the parent's own token be among them
        else:
            self.n_rows_max = rows
            if rows < (smallest := self._n_rows(1)):
                raise ArgumentError(
                    f"rows = {rows} is too few: a root and one candidate with {self.n_masks} masks each take {smallest}"
                )
            n_top = min(self._n_candidates(rows) + 1, N_TOP_LIMIT)
        if self.n_rows_max > N_ROWS_LIMIT:
            raise ArgumentError(f"the tree {tree} takes {self.n_rows_max} rows, a pass has at most {N_ROWS_LIMIT}")
        self.n_top = min(max(n_top, self.mask.n_top), model.info.n_vocab)
        self._drafts: list[Distribution] = []  # [i]: of the token i + 1 places after the next root

    def begin(self, tokens: Sequence[int]) -> None:
        self.mask.begin(tokens, self.n_masks)
        self._drafts = []

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        tree = TokenTree(context[-1])
        tree.trained = self.mask.trained
        room = min(room, self.n_rows_max)
        n_candidates = self._n_candidates(room)
        if self.widths:
            self._add_levels(tree, n_candidates)
        else:
            add_most_probable(tree, self._drafts, n_candidates)
        self._add_masks(tree, room)
        return tree

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        """The masks of the last accepted node become the next candidates."""
        self._drafts = [
            (result.top_tokens[row].tolist(), result.top_logprobs[row].tolist()) for row in tree.mask_rows(path[-1])
        ]
        self.mask.observe(tree, result, path, emitted)

    def _n_rows(self, n_candidates: int) -> int:
        """Rows of a tree with so many candidates and all its masks."""
        n_owners = 1 if self._last_only else 1 + self._n_owners(n_candidates)
        return 1 + n_candidates + self.n_masks * n_owners

    def _n_owners(self, n_candidates: int) -> int:
        """Candidates that own masks, at most."""
        return n_candidates if self._owner_children is None else min(n_candidates, self._owner_children)

    def _n_candidates(self, room: int) -> int:
        """The most candidates that fit with their masks; negative where the root's masks do not fit."""
        if self._last_only:
            return room - 1 - self.n_masks
        n_candidates = room // (1 + self.n_masks) - 1
        if self._owner_children is not None and n_candidates > self._owner_children:
            n_candidates = room - 1 - self.n_masks * (1 + self._owner_children)
        return n_candidates

    def _add_levels(self, tree: TokenTree, n_candidates: int) -> None:
        """Top-1 expansion: each level hangs from the first node of the level before."""
        parent = 0
        for width, (tokens, logprobs) in zip(self.widths, self._drafts, strict=False):
            first = tree.n_nodes
            for token, logprob in zip(tokens, logprobs, strict=True):
                if tree.n_nodes - first == width or tree.n_nodes > n_candidates:
                    break
                if token != tree.tokens[parent]:
                    tree.add(parent, token, logprob)
            if tree.n_nodes == first:
                return
            parent = first

    def _add_masks(self, tree: TokenTree, room: int) -> None:
        """Masks after the root first, then after the owners among the candidates, as far as they fit."""
        if self._last_only:
            owners = [max(range(tree.n_nodes), key=tree.depths.__getitem__)]
        elif self._owner_children is None:
            owners = list(range(tree.n_nodes))
        else:
            children = [node for node in range(1, tree.n_nodes) if tree.depths[node] == 1]
            owners = [0, *children[: self._owner_children]]
        blocks = self.mask.vectors([tree.tokens[owner] for owner in owners])  # (n_owners, n_masks, n_embd)
        for owner, block in zip(owners, blocks, strict=True):
            n_masks = min(self.n_masks, room - tree.n_rows)
            if n_masks <= 0:
                return
            tree.add_masks(owner, block[:n_masks])


def _parse_widths(tree: str) -> tuple[int, ...]:
    """The widths of a static tree; () for a dynamic one."""
    if tree == "dynamic":
        return ()
    try:
        widths = tuple(int(width) for width in tree.split(","))
    except ValueError:
        widths = (0,)
    if min(widths) < 1:
        raise ArgumentError(
            f'tree {shown(tree)} cannot be read: use "dynamic" or widths of 1 and more, as "14" or "7,2"'
        )
    return widths


def _checked_masks(masks: int | None, widths: tuple[int, ...]) -> int:
    if masks is None:
        return len(widths) or DYNAMIC_MASKS
    fewest = max(1, len(widths))
    if masks < fewest:
        raise ArgumentError(f"masks = {masks} is too few: this tree needs {fewest}, one per level")
    return masks


def _checked_mask_children(mask_children: str | int) -> int | None:
    if mask_children == "all":
        return None
    if not isinstance(mask_children, int) or mask_children < 0:
        raise ArgumentError(f'mask_children must be "all", "last" or a number from 0, not {shown(mask_children)}')
    return mask_children

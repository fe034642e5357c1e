"""TokenTree: what one pass evaluates. Pure data; the core turns it into rows, positions and visibility."""

from typing import TYPE_CHECKING

import numpy as np

from .errors import ArgumentError

if TYPE_CHECKING:
    from .trained_masks import TrainedMasks

EMBEDDING = -1  # the "token" of a node that is an embedding row
NO_KIND = -1


class TokenTree:
    """A tree of candidate tokens with mask vectors after some of its nodes.

    Node 0 is the root, the newest token or a vector in its place. Rows of a pass are numbered nodes first, then masks:
    node i is row i, mask j is row n_nodes + j.

    Attributes, one entry per node: `tokens`, `parents` (-1 for the root), `depths` (0 for the root), `logprobs` (of the
    whole path down to the node, as the proposer has it; natural logarithms), `kinds` (a number from 0 that means
    something to the proposer alone, NO_KIND unless told). `mask_owners` has one entry per mask, in the order of their
    places after the owner. A node whose token is -1 is an embedding row: `embeddings` has its vector. `trained` has
    matrices that act on the rows of the masks, or is None.
    """

    __slots__ = (
        "_children",
        "_masks_of",
        "depths",
        "embeddings",
        "kinds",
        "logprobs",
        "mask_blocks",
        "mask_owners",
        "parents",
        "tokens",
        "trained",
    )

    def __init__(self, root: int | np.ndarray) -> None:
        self.tokens: list[int] = [EMBEDDING if isinstance(root, np.ndarray) else root]
        self.parents: list[int] = [-1]
        self.depths: list[int] = [0]
        self.logprobs: list[float] = [0.0]
        self.kinds: list[int] = [NO_KIND]
        self.mask_owners: list[int] = []
        self.mask_blocks: list[np.ndarray] = []  # each (k, n_embd), one after another the vectors of all masks
        self.embeddings: list[np.ndarray] = (
            [root] if isinstance(root, np.ndarray) else []
        )  # each (n_embd,), of the nodes whose token is -1, in their order
        self.trained: TrainedMasks | None = None
        self._children: dict[tuple[int, int], int] = {}
        self._masks_of: dict[int, list[int]] = {}

    @classmethod
    def grown(cls, tokens: list[int], parents: list[int], logprobs: list[float], kinds: list[int]) -> "TokenTree":
        """A whole tree at once: parents come before their children, no parent has two children of one token."""
        tree = cls(tokens[0])
        tree.tokens, tree.parents, tree.logprobs, tree.kinds = tokens, parents, logprobs, kinds
        depths, children = tree.depths, tree._children
        for node in range(1, len(tokens)):
            parent = parents[node]
            depths.append(depths[parent] + 1)
            children[parent, tokens[node]] = node
        return tree

    def part(self, tokens: list[int], parents: list[int]) -> "TokenTree":
        """The tree of these nodes, each with the log-probability and the kind that the node after the same tokens has
        here. A node that is not here has those of no node: the log-probability of its parent, and NO_KIND."""
        origins: list[int | None] = [0]
        logprobs, kinds = [self.logprobs[0]], [self.kinds[0]]
        for token, parent in zip(tokens[1:], parents[1:], strict=True):
            above = origins[parent]
            origin = None if above is None else self.child(above, token)
            origins.append(origin)
            logprobs.append(logprobs[parent] if origin is None else self.logprobs[origin])
            kinds.append(NO_KIND if origin is None else self.kinds[origin])
        return TokenTree.grown(tokens, parents, logprobs, kinds)

    def best_chain(self) -> "TokenTree":
        """The most probable child of the root, of that one, and so on: no branches, no masks, no vectors. A tree that
        is such a chain already is returned itself."""
        if not self.mask_owners and not self.embeddings and self.parents == list(range(-1, len(self.parents) - 1)):
            return self
        best: dict[int, int] = {}  # of each node its most probable child
        for node in range(1, len(self.tokens)):
            other = best.get(self.parents[node])
            if self.tokens[node] != EMBEDDING and (other is None or self.logprobs[node] > self.logprobs[other]):
                best[self.parents[node]] = node
        chain = [0]
        while chain[-1] in best:
            chain.append(best[chain[-1]])
        return TokenTree.grown(
            [self.tokens[node] for node in chain],
            list(range(-1, len(chain) - 1)),
            [self.logprobs[node] for node in chain],
            [self.kinds[node] for node in chain],
        )

    @property
    def n_nodes(self) -> int:
        return len(self.tokens)

    @property
    def n_masks(self) -> int:
        return len(self.mask_owners)

    @property
    def n_rows(self) -> int:
        return len(self.tokens) + len(self.mask_owners)

    @property
    def mask_vectors(self) -> np.ndarray:
        """The vectors of all masks, float32 (n_masks, n_embd); (0, 0) without masks."""
        if not self.mask_blocks:
            return np.empty((0, 0), np.float32)
        return np.concatenate(self.mask_blocks)

    def add(self, parent: int, token: int, logprob: float, kind: int = NO_KIND) -> int:
        """Adds a candidate after node `parent` and returns its index. `logprob` is that of the token, given the path.

        A token that the parent already has as a child is not added again: the index of that child is returned.
        Raises ArgumentError for a parent that does not exist."""
        n = len(self.tokens)
        if not 0 <= parent < n:
            raise ArgumentError(f"parent {parent} does not exist: the tree has {n} nodes")
        node = self._children.setdefault((parent, token), n)
        if node == n:
            self.tokens.append(token)
            self.parents.append(parent)
            self.depths.append(self.depths[parent] + 1)
            self.logprobs.append(self.logprobs[parent] + logprob)
            self.kinds.append(kind)
        return node

    def add_embedding(self, parent: int, vector: np.ndarray) -> int:
        """Adds a node that is a vector instead of a token, float32 (n_embd,), and returns its index. It is seen by its
        descendants as a token would be; no sampled token can match it.

        Raises ArgumentError for a parent that does not exist."""
        n = len(self.tokens)
        if not 0 <= parent < n:
            raise ArgumentError(f"parent {parent} does not exist: the tree has {n} nodes")
        self.tokens.append(EMBEDDING)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1)
        self.logprobs.append(self.logprobs[parent])
        self.kinds.append(NO_KIND)
        self.embeddings.append(np.asarray(vector, np.float32))
        return n

    def add_masks(self, owner: int, vectors: np.ndarray) -> None:
        """Puts masks after node `owner`, after those it has: `vectors` is (k, n_embd), k >= 1. They are not copied.

        Raises ArgumentError for an owner that does not exist and for vectors of another shape."""
        vectors = np.asarray(vectors, np.float32)
        if not 0 <= owner < len(self.tokens):
            raise ArgumentError(f"mask owner {owner} does not exist: the tree has {len(self.tokens)} nodes")
        if vectors.ndim != 2 or len(vectors) == 0:
            raise ArgumentError(f"mask vectors must have shape (k, n_embd) with k >= 1, not {vectors.shape}")
        if self.mask_blocks and vectors.shape[1] != self.mask_blocks[0].shape[1]:
            raise ArgumentError(
                f"mask vectors of {vectors.shape[1]} values do not go with those of {self.mask_blocks[0].shape[1]}"
            )
        first = len(self.mask_owners)
        self._masks_of.setdefault(owner, []).extend(range(first, first + len(vectors)))
        self.mask_owners.extend([owner] * len(vectors))
        self.mask_blocks.append(vectors)

    def child(self, node: int, token: int) -> int | None:
        """The child of `node` that carries `token`."""
        return self._children.get((node, token))

    def mask_rows(self, owner: int) -> list[int]:
        """The rows of the masks after `owner`, nearest first. Ask when all nodes are added."""
        n_nodes = len(self.tokens)
        return [n_nodes + mask for mask in self._masks_of.get(owner, ())]

    def path_to(self, node: int) -> list[int]:
        """The nodes from the root to `node`, both included.

        Raises ArgumentError for a node that does not exist."""
        if not 0 <= node < len(self.tokens):
            raise ArgumentError(f"node {node} does not exist: the tree has {len(self.tokens)} nodes")
        path = []
        while node >= 0:
            path.append(node)
            node = self.parents[node]
        return path[::-1]

"""A model, a session and a sampler in plain Python: what the engine needs to see of them, with all they do recorded.

The next token depends on all tokens before it, through a hash. A mask's distribution is that of the greedy continuation
behind its owner, so masks predict well, but not perfectly, what a sampler draws.
"""

import itertools
import math
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from maskprobe import ArgumentError, ContextFull, Pass, Prefix, Proposer, SamplingParams, StateError, TokenTree

N_VOCAB = 24
N_EMBD = 6
N_PARAMS = 10**9  # too many for a drafter to explore what it says of single tokens
END = 0  # the end token

CURVES = {  # microseconds of a pass of n rows
    "flat": lambda n: 5000 + 20 * n,
    "gentle": lambda n: 4000 * (1 + 0.06 * (n - 1)),
    "middling": lambda n: 4000 * (1 + 0.2 * (n - 1)),
    "steep": lambda n: 4000 * (1 + 0.7 * (n - 1)),
    "proportional": lambda n: 3000 * n,
    "in steps": lambda n: 3000 + 2000 * math.ceil(n / 4),
    "cliff": lambda n: 4000 * (1 + 0.05 * (n - 1)) + (8000 if n > 8 else 0),
}


class FakeModel:
    def __init__(self, n_vocab: int = N_VOCAB, pieces: dict[int, bytes] | None = None, **info) -> None:
        facts = {
            "n_vocab": n_vocab,
            "n_embd": N_EMBD,
            "can_tree": True,
            "max_chain": 0,
            "can_probe": True,
            "note": "",
            "n_params": N_PARAMS,
            **info,
        }
        self.info = SimpleNamespace(**facts)
        self.end_tokens = (END,)
        self.pieces = pieces or {}
        self.samplers: list[FakeSampler] = []
        self._logits: dict[tuple[int, ...], np.ndarray] = {}

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """What follows `tokens`, (n_vocab,); the end token is unlikely."""
        key = tuple(tokens)
        if key not in self._logits:
            logits = np.random.default_rng([len(key), *key]).normal(0.0, 2.0, self.info.n_vocab)
            logits[END] -= 8.0
            self._logits[key] = logits
        return self._logits[key]

    def is_end(self, token: int) -> bool:
        return token in self.end_tokens

    def token_bytes(self, token: int) -> bytes:
        return self.pieces.get(token, b"<%d>" % token)

    def embedding_rows(self, tokens: Sequence[int]) -> np.ndarray:
        """Row t is [t, t + 0.1, ...], float32 (n, n_embd)."""
        return (np.asarray(tokens)[:, None] + 0.1 * np.arange(self.info.n_embd)).astype(np.float32)

    def sampler(self, params: SamplingParams) -> "FakeSampler":
        self.samplers.append(FakeSampler(self, params))
        return self.samplers[-1]


class FakeSampler:
    """Greedy at temperature 0, else one Gumbel draw per token."""

    def __init__(self, model: FakeModel, params: SamplingParams) -> None:
        self.params = params
        self.bias = np.zeros(model.info.n_vocab)
        for token, value in params.logit_bias.items():
            self.bias[token] = value
        self.noise = np.random.default_rng(params.seed if params.seed >= 0 else None)
        self.primed: list[int] = []
        self.drawn: list[int] = []
        self.closed = False

    def prime(self, tokens: Sequence[int]) -> None:
        self.primed += tokens

    def sample(self, session: "FakeSession", row: int) -> int:
        scores = session.row_logits[row] + self.bias
        if self.params.temp > 0:
            scores = scores / self.params.temp + self.noise.gumbel(size=len(scores))
        self.drawn.append(int(np.argmax(scores)))
        return self.drawn[-1]

    def close(self) -> None:
        self.closed = True


def most_likely(rows: Sequence[np.ndarray], n_top: int) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of rows of logits, int32 (n_rows, n_top), and their log-probabilities."""
    if not rows:
        return np.empty((0, n_top), np.int32), np.empty((0, n_top), np.float32)
    logprobs = np.array([x - np.log(np.exp(x).sum()) for x in rows])
    top = np.argsort(-logprobs, axis=1, kind="stable")[:, :n_top]
    return top.astype(np.int32), np.take_along_axis(logprobs, top, axis=1).astype(np.float32)


class FakeSession:
    def __init__(
        self, model: FakeModel | None = None, n_ctx: int = 400, n_rows_max: int = 64, n_top_max: int = 64
    ) -> None:
        self.model = model or FakeModel()
        self.n_ctx, self.n_rows_max, self.n_top_max = n_ctx, n_rows_max, n_top_max
        self.max_rows = n_rows_max if self.model.info.can_tree else 1 + self.model.info.max_chain
        self.closed = False
        self.committed: list[int] = []
        self.pending: TokenTree | None = None  # the pass whose rows lie in the cache, uncommitted
        self.rows_of_passes: list[int] = []
        self.row_logits: list[np.ndarray] = []
        self.fail_at: dict[int, Exception] = {}  # number of the pass -> what it raises

    @property
    def n_past(self) -> int:
        return len(self.committed)

    def set_prefix(self, tokens: Sequence[int], n_outputs: int = 0, n_top: int = 8) -> Prefix:
        same = 0
        while same < min(len(tokens), self.n_past) and tokens[same] == self.committed[same]:
            same += 1
        self.committed = list(tokens)
        self.pending = None
        first = max(len(tokens) - n_outputs, same)
        top, logprobs = most_likely([self.model.logits(tokens[: end + 1]) for end in range(first, len(tokens))], n_top)
        return Prefix(same, top, logprobs)

    def decode(self, tree: TokenTree, n_top: int = 8) -> Pass:
        if tree.n_rows > self.n_rows_max or not 1 <= n_top <= self.n_top_max:
            raise ArgumentError(f"{tree.n_rows} rows, {n_top} candidates")
        if tree.n_rows > self.n_ctx - self.n_past:
            raise ContextFull(f"{tree.n_rows} rows, {self.n_ctx - self.n_past} left")
        assert tree.parents[0] == -1 and all(0 <= p < i for i, p in enumerate(tree.parents) if i)
        assert tree.mask_vectors.shape == ((tree.n_masks, N_EMBD) if tree.n_masks else (0, 0))
        self.rows_of_passes.append(tree.n_rows)
        if failure := self.fail_at.get(len(self.rows_of_passes) - 1):
            raise failure
        self.pending = tree
        behind = [self.committed + [tree.tokens[i] for i in tree.path_to(node)] for node in range(tree.n_nodes)]
        self.row_logits = [self.model.logits(tokens) for tokens in behind]
        for owner in tree.mask_owners:
            tokens = behind[owner] = [*behind[owner], int(np.argmax(self.model.logits(behind[owner])))]
            self.row_logits.append(self.model.logits(tokens))
        top, logprobs = most_likely(self.row_logits, n_top)
        return Pass(tree.n_rows, top.shape[1], top[:, 0], top, logprobs, 0, 0)

    def logprob(self, row: int, token: int) -> float:
        logits = self.row_logits[row]
        return float(logits[token] - math.log(np.exp(logits).sum()))

    def commit(self, path: Sequence[int]) -> None:
        tree, self.pending = self.pending, None
        if not path:
            return
        if tree is None:
            raise StateError("nothing to commit")
        assert path[0] == 0 and all(tree.parents[b] == a for a, b in itertools.pairwise(path))
        self.committed += [tree.tokens[node] for node in path]

    def rollback(self) -> None:
        self.commit(())


class Oracle(Proposer):
    """Knows the whole text: every node of its chain is accepted."""

    def __init__(self, text: Sequence[int], n_ahead: int = 5) -> None:
        self.text = list(text)
        self.n_rows_max = n_ahead + 1

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        tree = TokenTree(context[-1])
        for token in self.text[len(context) :][: min(self.n_rows_max, room) - 1]:
            tree.add(tree.n_nodes - 1, token, 0.0)
        return tree


class Adversary(Oracle):
    """Knows the whole text, and offers every token but the next one."""

    n_rows_max = N_VOCAB

    def __init__(self, text: Sequence[int]) -> None:
        self.text = list(text)

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        tree = TokenTree(context[-1])
        for token in range(min(N_VOCAB, room)):
            if token not in self.text[len(context) : len(context) + 1] and tree.n_nodes < room:
                tree.add(0, token, 0.0)
        return tree

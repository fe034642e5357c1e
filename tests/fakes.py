"""A model and a session in plain Python: what sources of candidates need to see of them, with all they do recorded, and
the loop around them.

The next token depends on all tokens before it, through a hash. A mask's distribution is that of the greedy continuation
after its owner, so masks predict well, but not perfectly, what a sampler draws.
"""

import itertools
import math
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from maskprobe import ArgumentError, ContextFull, Pass, Proposer, SamplingParams, StateError, TokenTree, accept

N_VOCAB = 24
N_EMBD = 6


class FakeModel:
    def __init__(self, n_vocab: int = N_VOCAB, **info) -> None:
        facts = {"n_vocab": n_vocab, "n_embd": N_EMBD, "can_tree": True, "max_chain": 0, "can_probe": True, "note": ""}
        self.info = SimpleNamespace(**{**facts, **info})
        self._logits: dict[tuple[int, ...], np.ndarray] = {}

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """What follows `tokens`, (n_vocab,); token 0 is unlikely."""
        key = tuple(tokens)
        if key not in self._logits:
            logits = np.random.default_rng([len(key), *key]).normal(0.0, 2.0, self.info.n_vocab)
            logits[0] -= 8.0
            self._logits[key] = logits
        return self._logits[key]

    def embedding_rows(self, tokens: Sequence[int]) -> np.ndarray:
        """Row t is [t, t + 0.1, ...], float32 (n, n_embd)."""
        return (np.asarray(tokens)[:, None] + 0.1 * np.arange(self.info.n_embd)).astype(np.float32)


class TemplateModel:
    """A model of which only the chat templates are looked at: `named` are further ones of the file."""

    def __init__(self, source: str | None, metadata: dict[str, str] | None = None, bos: int = 1, **named: str) -> None:
        self.info = SimpleNamespace(arch="llama", n_vocab=8, token_bos=bos, token_eos=2)
        self._metadata = {**(metadata or {}), **{f"tokenizer.chat_template.{k}": v for k, v in named.items()}}
        if source is not None:
            self._metadata["tokenizer.chat_template"] = source

    def metadata(self, key: str) -> str | None:
        return self._metadata.get(key)

    def token_bytes(self, token: int, special: bool = False) -> bytes:
        return (b"<unk>", b"<s>", b"</s>", b"<pad>")[token] if special else b""


def most_likely(rows: Sequence[np.ndarray], n_top: int) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of rows of logits, int32 (n_rows, n_top), and their log-probabilities."""
    logprobs = np.array([x - np.log(np.exp(x).sum()) for x in rows])
    top = np.argsort(-logprobs, axis=1, kind="stable")[:, :n_top]
    return top.astype(np.int32), np.take_along_axis(logprobs, top, axis=1).astype(np.float32)


class FakeSession:
    def __init__(self, model: FakeModel, n_ctx: int = 400, n_rows_max: int = 256) -> None:
        self.model, self.n_ctx, self.n_rows_max = model, n_ctx, n_rows_max
        self.committed: list[int] = []
        self.pending: TokenTree | None = None  # the pass whose rows lie in the cache, uncommitted
        self.rows_of_passes: list[int] = []
        self.row_logits: list[np.ndarray] = []

    def set_prefix(self, tokens: Sequence[int]) -> None:
        self.committed, self.pending = list(tokens), None

    def decode(self, tree: TokenTree, n_top: int) -> Pass:
        if tree.n_rows > self.n_rows_max:
            raise ArgumentError(f"{tree.n_rows} rows, {self.n_rows_max} at most")
        if tree.n_rows > self.n_ctx - len(self.committed):
            raise ContextFull(f"{tree.n_rows} rows, {self.n_ctx - len(self.committed)} left")
        assert tree.parents[0] == -1 and all(0 <= p < i for i, p in enumerate(tree.parents) if i)
        assert tree.mask_vectors.shape == ((tree.n_masks, N_EMBD) if tree.n_masks else (0, 0))
        self.rows_of_passes.append(tree.n_rows)
        self.pending = tree
        after = [self.committed + [tree.tokens[i] for i in tree.path_to(node)] for node in range(tree.n_nodes)]
        self.row_logits = [self.model.logits(tokens) for tokens in after]
        for owner in tree.mask_owners:
            tokens = after[owner] = [*after[owner], int(np.argmax(self.model.logits(after[owner])))]
            self.row_logits.append(self.model.logits(tokens))
        top, logprobs = most_likely(self.row_logits, n_top)
        return Pass(tree.n_rows, top.shape[1], top[:, 0], top, logprobs, 0, 0)

    def commit(self, path: Sequence[int]) -> None:
        tree, self.pending = self.pending, None
        if tree is None:
            raise StateError("nothing to commit")
        assert path[0] == 0 and all(tree.parents[b] == a for a, b in itertools.pairwise(path))
        self.committed += [tree.tokens[node] for node in path]


class FakeSampler:
    """Greedy at temperature 0, else one Gumbel draw per token."""

    def __init__(self, params: SamplingParams) -> None:
        self.temp = params.temp
        self.noise = np.random.default_rng(max(params.seed, 0))
        self.drawn: list[int] = []

    def sample(self, logits: np.ndarray) -> int:
        scores = logits if self.temp == 0 else logits / self.temp + self.noise.gumbel(size=len(logits))
        self.drawn.append(int(np.argmax(scores)))
        return self.drawn[-1]


def decode_with(
    session: FakeSession, proposer: Proposer | None, prompt: Sequence[int], sampling: SamplingParams, n: int
) -> list[int]:
    """The tokens of one generation: what the engine does, by hand. It ends where the context is full."""
    sampler, text = FakeSampler(sampling), list(prompt)
    session.set_prefix(text[:-1])
    if proposer is not None:
        proposer.begin(text)
    while len(text) < len(prompt) + n and len(session.committed) < session.n_ctx:
        n_left = len(prompt) + n - len(text)
        room = session.n_ctx - len(session.committed) if n_left > 1 else 1
        tree = TokenTree(text[-1]) if proposer is None else proposer.propose(text, room)
        if not session.model.info.can_tree:
            tree = tree.best_chain()
        result = session.decode(tree, 1 if proposer is None else proposer.n_top)
        path, emitted = accept(tree, lambda row: sampler.sample(session.row_logits[row]), lambda _: False, n_left)
        session.commit(path)
        text += emitted
        if proposer is not None:
            proposer.observe(tree, result, path, emitted)
        assert session.committed == text[:-1] and session.pending is None
    assert sampler.drawn == text[len(prompt) :]  # one draw per emitted token
    return sampler.drawn


class Oracle(Proposer):
    """Knows the whole text: every node of its chain is accepted."""

    def __init__(self, text: Sequence[int], n_ahead: int = 5) -> None:
        self.text = list(text)
        self.n_rows_max = n_ahead + 1

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        tree = TokenTree(context[-1])
        for token in self.text[len(context) :][: min(self.n_rows_max, room) - 1]:
            tree.add(tree.n_nodes - 1, token, math.log(0.9))
        return tree


class Adversary(Oracle):
    """Knows the whole text, and offers tokens of which none comes next."""

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        tree = TokenTree(context[-1])
        coming = self.text[len(context) : len(context) + 1]
        for token in range(3, 4 + self.n_rows_max):
            if token not in coming and tree.n_nodes < min(self.n_rows_max, room):
                tree.add(0, token, math.log(0.9 / self.n_rows_max))
        return tree

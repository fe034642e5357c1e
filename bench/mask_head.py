"""Chains of candidates by hand, named by masks or by their sampler head, which the core does not compute."""

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from maskprobe import MaskProbe, Model, Session, TokenTree
from maskprobe.session import Pass

EPS = 1e-5
N_BEST = 4  # candidates after a token, of which the first that is not the token itself is taken


class NumpyHead:
    """z' = z + LN(SiLU(W1 LN(SiLU(W0 [E(x); z] + b0)) + b1)), then the model's own output matrix."""

    def __init__(self, model: Model, path: Path) -> None:
        found = {t.name: np.array(t.data, np.float32) for t in gguf.GGUFReader(path).tensors}
        self._tensors = {name: values for name, values in found.items() if name.startswith("head.")}
        if not self._tensors:
            raise ValueError(f"{path} has no sampler head")
        self._model = model
        from maskprobe.mtp.model_tables import Unembedding  # here: it needs PyTorch, the bench's options do not

        self._unembedding = Unembedding(model.path).rows(np.arange(model.info.n_vocab))  # (n_vocab, n_embd)

    @staticmethod
    def is_in(path: Path) -> bool:
        return any(tensor.name.startswith("head.") for tensor in gguf.GGUFReader(path).tensors)

    def best(self, token: int, latent: np.ndarray) -> list[int]:
        """The likeliest tokens after `token`, by a mask's latent (n_embd,) and the head."""
        v = np.concatenate([self._model.embedding_rows([token])[0], latent])
        for layer in range(2):
            weight, bias, scale, shift = (
                self._tensors[f"head.{layer}.{part}"] for part in ("weight", "bias", "norm.weight", "norm.bias")
            )
            v = weight @ v + bias
            v = v / (1 + np.exp(-v))
            v = (v - v.mean()) / np.sqrt(v.var() + EPS) * scale + shift
        logits = self._unembedding @ (latent + v)  # (n_vocab,)
        likeliest = np.argpartition(-logits, N_BEST)[:N_BEST]
        return [int(each) for each in likeliest[np.argsort(-logits[likeliest])]]


class HeadProbe(MaskProbe):
    """A chain: the first candidate from mask 1 and the root's token, the next from mask 2 and that candidate, ..."""

    def __init__(self, model: Model, session: Session, head: NumpyHead, **settings: object) -> None:
        super().__init__(model, **settings)  # type: ignore[arg-type]
        self._session = session
        self._head = head
        self._latents: list[np.ndarray] = []
        session.context.tap([model.info.n_layer])

    def begin(self, tokens: Sequence[int]) -> None:
        super().begin(tokens)
        self._latents = []

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        self._drafts, token = [], context[-1]
        for latent in self._latents:
            best = self._head.best(token, latent)
            self._drafts.append((best, [0.0] * len(best)))
            token = next(each for each in best if each != token)  # which the tree takes, too
        return super().propose(context, room)

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        super().observe(tree, result, path, emitted)
        n_layer = self._session.model.info.n_layer
        self._latents = [self._session.hidden(row, n_layer) for row in tree.mask_rows(path[-1])]


def greedy(session: Session, source: MaskProbe | None, prompt: list[int], n: int) -> tuple[list[int], int]:
    """At most n tokens after the prompt, without an end, and the passes after the one that decodes the prompt's last
    token. No source: plain decoding."""
    if source is not None:
        source.begin(prompt)
    session.set_prefix(prompt[:-1])
    context, text, n_passes = list(prompt), list[int](), -1
    while len(text) < n:
        tree = TokenTree(context[-1]) if source is None else source.propose(context, session.n_rows_max)
        result = session.decode(tree, 1 if source is None else source.n_top)
        path, emitted = [0], [int(result.best[0])]
        while (child := tree.child(path[-1], emitted[-1])) is not None:
            path.append(child)
            emitted.append(int(result.best[child]))
        if source is not None:
            source.observe(tree, result, path, emitted)
        session.commit(path)
        context += emitted
        n_passes += 1
        for token in emitted[: n - len(text)]:
            if session.model.is_end(token):
                return text, n_passes
            text.append(token)
    return text, n_passes

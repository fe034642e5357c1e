"""A search for the mask vector that makes the most of a text: a multiple of the prompt's mean plus an offset.

A mask is better the more probability its row gives to the token that came after the next one. All vectors of a round
are tried at one place in one pass, as embedding rows beside one another after the same root: none sees another. No
gradients are needed: the cross-entropy method moves a normal distribution of offsets towards the better ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArgumentError
from ..masks import MaskEmbedding, SampleMask
from ..session import Session
from ..tree import TokenTree
from .distributions import log_softmax
from .sweeps import Text

SCALES = (0.0, 0.5, 0.75, 1.25, 1.5, 2.0)
KEPT = 0.25  # of a round's vectors, those that the next round starts from
FIRST_STEP = 0.5  # of the deviation of the embedding table
SLOWER = 0.7  # times the step after a round that found nothing better


@dataclass(frozen=True)
class Place:
    """A root and what came two tokens later, after a text whose prompt has this mean embedding."""

    text: int
    at: int
    mean: np.ndarray  # (n_embd,)


@dataclass
class Vector:
    """scale * mean + offset."""

    name: str
    scale: float
    offset: np.ndarray  # (n_embd,)

    def at(self, place: Place) -> np.ndarray:
        vector: np.ndarray = (self.scale * place.mean + self.offset).astype(np.float32)
        return vector


class MaskSearch:
    """Vectors are tried at one half of the places and judged at the other, which no round sees.

    Raises ArgumentError where the texts have too few places."""

    def __init__(self, session: Session, texts: Sequence[Text], n_places: int, seed: int = 0) -> None:
        self._session = session
        self._texts = texts
        self._random = np.random.default_rng(seed)
        self._means = [MaskEmbedding(session.model).initial(text.tokens[: text.n_prompt], 1)[0] for text in texts]
        self.table = SampleMask(session.model, seed)  # mean and deviation of the embedding table
        all_places = [(i, at) for i, text in enumerate(texts) for at in text.places if at + 2 < len(text.tokens)]
        if len(all_places) < 4:
            raise ArgumentError(f"the texts have {len(all_places)} places with two tokens after them: 4 are needed")
        n = min(n_places, len(all_places))
        chosen = sorted(self._random.choice(len(all_places), n, replace=False).tolist())  # texts one after another
        places = [Place(i, at, self._means[i]) for i, at in (all_places[index] for index in chosen)]
        self.seen, self.unseen = places[::2], places[1::2]

    def run(self, n_rounds: int, progress: Callable[[float, float], None]) -> tuple[Vector, list[dict[str, Any]]]:
        """The best vector by the seen places, and a row for each named one: mean log-probability of what came, and how
        often that was the best token and among the best five, at the seen and the unseen places."""
        n_steps = n_rounds + 2
        zero = np.zeros(self._session.model.info.n_embd)
        table = self.table.table_mean
        named = [Vector("mean", 1.0, zero), Vector("table mean", 0.0, table), Vector("mean + table mean", 1.0, table)]
        named += [Vector(f"{scale:g} mean", scale, zero) for scale in SCALES if scale > 0.0]
        named += [Vector("zero", 0.0, zero)]
        scores = self._scores(named, self.seen)  # (n_vectors, 3)
        progress(1, n_steps)
        best = named[int(scores[:, 0].argmax())]
        found = self._improve(best, float(scores[:, 0].max()), n_rounds, lambda done: progress(1 + done, n_steps))
        if found is not None:
            named.append(found)
            scores = np.vstack([scores, self._scores([found], self.seen)])
        unseen = self._scores(named, self.unseen)
        chosen = named[int(scores[:, 0].argmax())]
        rows = []
        for vector, at_seen, at_unseen in zip(named, scores.tolist(), unseen.tolist(), strict=True):
            row: dict[str, Any] = {"vector": vector.name, "chosen": vector is chosen}
            for where, values in (("seen", at_seen), ("unseen", at_unseen)):
                row |= {f"{where}_{key}": value for key, value in zip(("logprob", "top1", "top5"), values, strict=True)}
            rows.append(row)
        return chosen, rows

    def _improve(self, start: Vector, score: float, n_rounds: int, progress: Callable[[int], None]) -> Vector | None:
        """The cross-entropy method on the offset: each round's best vectors give the next one's centre."""
        n_each = self._session.n_rows_max - 1
        n_kept = max(2, round(KEPT * n_each))
        deviation = self.table.table_deviation
        step, centre, best = FIRST_STEP, start.offset, None
        for done in range(n_rounds):
            noise = self._random.standard_normal((n_each - 1, len(centre)))
            offsets = np.vstack([centre, centre + step * deviation * noise])
            tried = [Vector("searched", start.scale, offset) for offset in offsets]
            logprobs = self._scores(tried, self.seen)[:, 0]
            order = np.argsort(-logprobs)
            centre = offsets[order[:n_kept]].mean(axis=0)
            if logprobs[order[0]] > score:
                score, best = float(logprobs[order[0]]), tried[int(order[0])]
            else:
                step *= SLOWER
            progress(1 + done)
        return best

    def _scores(self, vectors: Sequence[Vector], places: Sequence[Place]) -> np.ndarray:
        """Means over the places for each vector, (n_vectors, 3): log-probability of what came two tokens after the
        root, whether it was the best token, whether among the best five."""
        session = self._session
        total = np.zeros((len(vectors), 3))
        n_each = session.n_rows_max - 1
        for place in places:
            tokens = list(self._texts[place.text].tokens)
            came = tokens[place.at + 2]
            session.set_prefix(tokens[: place.at])
            for begin in range(0, len(vectors), n_each):
                some = vectors[begin : begin + n_each]
                tree = TokenTree(tokens[place.at])
                for vector in some:
                    tree.add_embedding(0, vector.at(place))
                session.decode(tree, 1)
                logits = np.array([session.logits(row) for row in range(1, tree.n_nodes)])
                rank = (logits > logits[:, came : came + 1]).sum(axis=1)
                of = log_softmax(logits)[:, came]
                total[begin : begin + len(some)] += np.stack([of, rank < 1, rank < 5], axis=1)
        return total / len(places)

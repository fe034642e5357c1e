"""How well the tokens after the next one are known: by marginalisation, and by masks (arXiv 2502.09419)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..masks import MaskEmbedding
from ..session import Session
from .distributions import nucleus_size, rank_of, softmax
from .marginal import marginal_second, marginal_third
from .sweeps import Text, sweep

MASSES = (0.9, 0.99)
TOP = 5
ALL_TASKS = "all"

Ranks = Iterator[tuple[int, int]]  # places after the next token (1: t+2), and the rank of what came


class Predictor(Protocol):
    """What guesses the tokens after the next one. Heads of a model fit in here beside masks."""

    name: str

    def ranks(self, session: Session, text: Text) -> Ranks:
        """For every place of the text and each distance it can guess, the rank of the token that came; TOP or more
        where it is not among the best."""


class MaskPredictor:
    """Mask j after the newest token guesses token t + 1 + j."""

    def __init__(self, name: str, mask: MaskEmbedding, n_masks: int) -> None:
        self.name, self._mask, self._n_masks = name, mask, n_masks

    def ranks(self, session: Session, text: Text) -> Ranks:
        for part in sweep(session, text, self._mask, self._n_masks, n_top=TOP):
            tops = part.result.top_tokens[:, :TOP]
            for owner, place in enumerate(part.places):
                for j in range(self._n_masks):
                    if place + 2 + j < len(text.tokens):
                        found = np.flatnonzero(tops[part.mask_row(owner, j)] == text.tokens[place + 2 + j])
                        yield 1 + j, int(found[0]) if len(found) else TOP


@dataclass
class Sizes:
    """What marginalisation took, place by place."""

    nucleus: dict[float, list[int]] = field(default_factory=lambda: {mass: [] for mass in MASSES})
    taken: dict[int, list[int]] = field(default_factory=lambda: {1: [], 2: []})
    left_out: dict[int, list[float]] = field(default_factory=lambda: {1: [], 2: []})


class MarginalPredictor:
    """The model itself, marginalised over what it does not know: what the others are measured against."""

    name = "marginal"

    def __init__(self, top_p: float, n_ahead: int) -> None:
        self._top_p, self._n_ahead = top_p, n_ahead
        self.sizes = Sizes()

    def ranks(self, session: Session, text: Text) -> Ranks:
        following = [
            softmax(session.logits(row)) for part in sweep(session, text) for row in range(part.n_owners)
        ]  # p(x_{t+1} | x) of each place
        tokens = list(text.tokens)
        for place, probabilities in zip(text.places, following, strict=True):
            for mass in MASSES:
                self.sizes.nucleus[mass].append(nucleus_size(probabilities, mass))
            session.set_prefix(tokens[:place])
            for ahead, marginal in ((1, marginal_second), (2, marginal_third))[: self._n_ahead]:
                if place + 1 + ahead < len(tokens):
                    found = marginal(session, tokens[place], probabilities, self._top_p)
                    self.sizes.taken[ahead].append(found.n_taken)
                    self.sizes.left_out[ahead].append(found.left_out)
                    yield ahead, rank_of(found.parts, tokens[place + 1 + ahead])


def accuracy_rows(
    session: Session,
    texts: Sequence[Text],
    predictors: Sequence[Predictor],
    progress: Callable[[float, float], None],
) -> list[dict[str, Any]]:
    """One row for each predictor, task (and all of them together) and distance: how often the token that came was the
    best guess, and among the best five."""
    hits: dict[tuple[str, int, str], list[int]] = {}
    n_done = 0
    for text in texts:
        for predictor in predictors:
            progress(n_done, len(texts) * len(predictors))
            n_done += 1
            for ahead, rank in predictor.ranks(session, text):
                hits.setdefault((text.task, ahead, predictor.name), []).append(rank)
    tasks = list(dict.fromkeys(text.task for text in texts))
    found = []
    for task in tasks if len(tasks) == 1 else [*tasks, ALL_TASKS]:
        within = tasks if task == ALL_TASKS else [task]
        for ahead in sorted({ahead for _, ahead, _ in hits}):
            for predictor in predictors:
                ranks = np.array([r for each in within for r in hits.get((each, ahead, predictor.name), [])])
                if len(ranks):
                    about = {"task": task, "token": f"t+{1 + ahead}", "by": predictor.name, "n": len(ranks)}
                    found.append({**about, "top1": float((ranks < 1).mean()), "top5": float((ranks < TOP).mean())})
    return found

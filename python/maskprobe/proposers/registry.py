"""The sources of candidates by name, as commands and benchmarks ask for them."""

from collections.abc import Callable
from dataclasses import dataclass

from .._capi import shown
from ..errors import ArgumentError
from ..masks import mask_embedding
from ..model import Model
from .base import Proposer, checked_count
from .last_logits import LastLogits
from .lookahead import Lookahead
from .lookup import PromptLookup
from .marginal import MarginalSiblings
from .mask_probe import MaskProbe
from .ngram import NgramAutomaton
from .recycle import RANK_SHARES, TokenRecycling

ESP_ROWS = 4  # the root, a candidate and their masks

Factory = Callable[[Model, int | None], Proposer]  # (model, rows or None for the source's own number)


@dataclass(frozen=True, slots=True)
class Source:
    """One way to propose. `describes` is a line for help texts."""

    describes: str
    make: Factory | None = None  # None: it is no Proposer
    drafts: bool = True
    probes: bool = False  # it needs a model that takes embedding rows

    def runs_on(self, model: Model) -> bool:
        """Whether it has anything to propose for this model. Where only chains are possible, the best one of each tree
        is decoded; masks need trees."""
        info = model.info
        if self.probes:
            return info.can_tree and info.can_probe
        return self.drafts and (info.can_tree or info.max_chain > 0)


def _esp(model: Model, rows: int | None, mask: str = "mean") -> Proposer:
    """One level of candidates, one mask each: at equal rows the best of the static trees on the models measured."""
    if rows is None:
        return MaskProbe(model, mask=mask_embedding(mask, model))
    return MaskProbe(
        model, tree=str(checked_count("rows", rows, low=ESP_ROWS) // 2 - 1), mask=mask_embedding(mask, model)
    )


def _lookup(model: Model, rows: int | None) -> Proposer:
    return _in_part(PromptLookup()) if rows is None else PromptLookup(rows)


def _ngram(model: Model, rows: int | None) -> Proposer:
    return _in_part(NgramAutomaton()) if rows is None else NgramAutomaton(rows)


def _lookahead(model: Model, rows: int | None) -> Proposer:
    return Lookahead() if rows is None else Lookahead.within(rows)


def _recycle(model: Model, rows: int | None) -> Proposer:
    n_top = min(len(RANK_SHARES), model.info.n_vocab)
    return _in_part(TokenRecycling(n_top=n_top)) if rows is None else TokenRecycling(rows, n_top=n_top)


def _logits(model: Model, rows: int | None) -> Proposer:
    proposer = _in_part(LastLogits()) if rows is None else LastLogits(rows)
    proposer.n_top = min(proposer.n_top, model.info.n_vocab)
    return proposer


def _marginal(model: Model, rows: int | None) -> Proposer:
    """Whole: a candidate that does not pay may still be a sibling that the next marginal needs."""
    proposer = MarginalSiblings() if rows is None else MarginalSiblings(rows)
    proposer.n_top = min(proposer.n_top, model.info.n_vocab)
    return proposer


def _in_part(proposer: Proposer) -> Proposer:
    """Its claims decide what of its trees is decoded."""
    proposer.whole = False
    return proposer


SOURCES: dict[str, Source] = {
    "none": Source("plain decoding", drafts=False),
    "all": Source("all evidence in one tree, as large as pays here"),
    "esp": Source("mask probes", _esp, probes=True),
    "esp-soft": Source("mask probes, soft masks", lambda model, rows: _esp(model, rows, "soft"), probes=True),
    "lookup": Source("prompt lookup", _lookup),
    "ngram": Source("longest repeated suffix", _ngram),
    "lookahead": Source("lookahead decoding", _lookahead),
    "recycle": Source("token recycling", _recycle),
    "logits": Source("last logits", _logits),
    "marginal": Source("marginals over siblings", _marginal),
}


def source_named(name: str) -> Source:
    """Raises ArgumentError for a name that is not known."""
    source = SOURCES.get(name)
    if source is None:
        raise ArgumentError(f"there is no source of candidates named {shown(name)}: use one of {', '.join(SOURCES)}")
    return source


def proposer_named(name: str, model: Model, *, rows: int | None = None) -> Proposer:
    """A new proposer of the source `name`, with at most `rows` rows in a pass; None: the source's own number, and the
    engine decodes of it what pays.

    Raises ArgumentError for a name that is not known, for one that is no Proposer ("none", "all"), for rows out of
    range, and for a source that probes on a model that cannot be probed."""
    source = source_named(name)
    if source.make is None:
        raise ArgumentError(
            f"{shown(name)} is no proposer of its own: it is part of the engine, Engine(proposer={shown(name)})"
        )
    return source.make(model, rows)

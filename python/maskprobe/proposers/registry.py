"""The sources of candidates by name, as commands and benchmarks ask for them."""

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ArgumentError
from ..masks import mask_embedding
from ..model import Model
from .base import Proposer, checked_count
from .evidence import Evidence
from .last_logits import LastLogits
from .lookahead import Lookahead
from .lookup import PromptLookup
from .mask_probe import MaskProbe
from .ngram import NgramAutomaton
from .plain import NoProposer
from .planned import Planned
from .recycle import RANK_SHARES, TokenRecycling

PLANNED_ROWS = 32  # at most, where the planner chooses
ESP_ROWS = 4  # the root, a candidate and their masks

Factory = Callable[[Model, int | None], Proposer]  # (model, rows or None for the source's own number)


@dataclass(frozen=True, slots=True)
class Source:
    """One way to propose. `describes` is a line for help texts."""

    describes: str
    make: Factory
    probes: bool = False  # it needs a model that takes embedding rows


def _esp(model: Model, rows: int | None, mask: str = "mean") -> Proposer:
    """One level of candidates, one mask each: at equal rows the best of the static trees on the models measured."""
    if rows is None:
        return MaskProbe(model, mask=mask_embedding(mask, model))
    return MaskProbe(
        model, tree=str(checked_count("rows", rows, low=ESP_ROWS) // 2 - 1), mask=mask_embedding(mask, model)
    )


def _all(model: Model, rows: int | None) -> Proposer:
    """Without a number of rows, the planner chooses it for every pass."""
    if rows is not None:
        return Evidence(model, rows=rows)
    mask = mask_embedding("soft", model) if model.info.can_probe else None
    most = PLANNED_ROWS if model.info.can_tree else 1 + model.info.max_chain
    return Planned(Evidence(model, rows=min(PLANNED_ROWS, most)), mask=mask)


def _lookahead(model: Model, rows: int | None) -> Proposer:
    return Lookahead() if rows is None else Lookahead.within(rows)


def _recycle(model: Model, rows: int | None) -> Proposer:
    n_top = min(len(RANK_SHARES), model.info.n_vocab)
    return TokenRecycling(n_top=n_top) if rows is None else TokenRecycling(rows, n_top=n_top)


def _logits(model: Model, rows: int | None) -> Proposer:
    proposer = LastLogits() if rows is None else LastLogits(rows)
    proposer.n_top = min(proposer.n_top, model.info.n_vocab)
    return proposer


SOURCES: dict[str, Source] = {
    "none": Source("plain decoding", lambda model, rows: NoProposer()),
    "all": Source("all evidence in one tree, as large as pays here", _all),
    "esp": Source("mask probes", _esp, probes=True),
    "esp-soft": Source("mask probes, soft masks", lambda model, rows: _esp(model, rows, "soft"), probes=True),
    "lookup": Source("prompt lookup", lambda model, rows: PromptLookup() if rows is None else PromptLookup(rows)),
    "ngram": Source(
        "longest repeated suffix", lambda model, rows: NgramAutomaton() if rows is None else NgramAutomaton(rows)
    ),
    "lookahead": Source("lookahead decoding", _lookahead),
    "recycle": Source("token recycling", _recycle),
    "logits": Source("last logits", _logits),
}


def proposer_named(spec: str, model: Model, *, rows: int | None = None) -> Proposer:
    """A new proposer of the source `spec`, with at most `rows` rows in a pass; None: the source's own number.

    On a model that can decode neither trees nor chains, or cannot be probed where the source probes, it is NoProposer:
    plain decoding. Where only chains are possible, the engine takes the best one of each tree.

    Raises ArgumentError for a name that is not known and for rows out of range."""
    source = SOURCES.get(spec)
    if source is None:
        raise ArgumentError(f"there is no source of candidates named {spec!r}: use one of {', '.join(SOURCES)}")
    can_draft = model.info.can_tree or model.info.max_chain > 0
    if not can_draft or (source.probes and not (model.info.can_tree and model.info.can_probe)):
        return NoProposer()
    return source.make(model, rows)

"""Proposers: where candidates come from. One file per source, one small interface."""

from .base import Proposer
from .evidence import Evidence
from .last_logits import LastLogits
from .lookahead import Lookahead
from .lookup import PromptLookup
from .mask_probe import MaskProbe
from .ngram import NgramAutomaton
from .plain import NoProposer
from .planned import Planned
from .recycle import TokenRecycling
from .registry import SOURCES, proposer_named

__all__ = [
    "SOURCES",
    "Evidence",
    "LastLogits",
    "Lookahead",
    "MaskProbe",
    "NgramAutomaton",
    "NoProposer",
    "Planned",
    "PromptLookup",
    "Proposer",
    "TokenRecycling",
    "proposer_named",
]

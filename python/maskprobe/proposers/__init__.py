"""Proposers: where candidates come from. One file per source, one small interface."""

from .base import Proposer
from .last_logits import LastLogits
from .lookahead import Lookahead
from .lookup import PromptLookup
from .marginal import MarginalSiblings
from .mask_probe import MaskProbe
from .ngram import NgramAutomaton
from .recycle import TokenRecycling
from .registry import SOURCES, proposer_named, source_named

__all__ = [
    "SOURCES",
    "LastLogits",
    "Lookahead",
    "MarginalSiblings",
    "MaskProbe",
    "NgramAutomaton",
    "PromptLookup",
    "Proposer",
    "TokenRecycling",
    "proposer_named",
    "source_named",
]

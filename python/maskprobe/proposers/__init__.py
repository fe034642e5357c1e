"""Proposers: where candidates come from. One file per source, one small interface."""

from .base import Proposer
from .mask_probe import MaskProbe
from .plain import NoProposer

__all__ = ["MaskProbe", "NoProposer", "Proposer"]

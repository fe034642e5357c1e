"""What a model knows of the tokens after the next one, measured on texts. maskprobe-analyze prints it."""

from .logit_lens import LogitLens
from .marginal import Marginal, marginal_second, marginal_third
from .sweeps import Sweep, Text, sweep

__all__ = ["LogitLens", "Marginal", "Sweep", "Text", "marginal_second", "marginal_third", "sweep"]

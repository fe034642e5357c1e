"""Fill in the middle: the tokens that mark prefix, suffix and the place to fill, as models have them."""

from typing import NamedTuple

from ..model import Model


class FillTokens(NamedTuple):
    prefix: int
    suffix: int
    middle: int


def fill_tokens(model: Model) -> FillTokens | None:
    """The three tokens of a model, as llama.cpp knows them; None where it has not all of them."""
    found = FillTokens(model.info.token_fim_pre, model.info.token_fim_suf, model.info.token_fim_mid)
    return found if min(found) >= 0 else None


def fill_prompt(model: Model, marks: FillTokens, prefix: str, suffix: str, suffix_first: bool) -> list[int]:
    """Prefix and suffix with their marks, then the mark after which the middle comes. `suffix_first`: as models
    trained on suffix, prefix, middle have it."""
    before = [marks.prefix, *model.tokenize(prefix, add_special=False)]
    after = [marks.suffix, *model.tokenize(suffix, add_special=False)]
    begin = [model.info.token_bos] if model.info.add_bos and model.info.token_bos >= 0 else []
    return begin + (after + before if suffix_first else before + after) + [marks.middle]

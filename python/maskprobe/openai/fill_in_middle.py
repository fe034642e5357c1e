"""Fill in the middle: the tokens that mark prefix, suffix and the place to fill, as models have them."""

from typing import NamedTuple

from ..model import Model


class FillTokens(NamedTuple):
    prefix: int
    suffix: int
    middle: int


# Keys of the metadata that name them, newest first.
KEYS = (
    ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.fim_mid_token_id"),
    ("tokenizer.ggml.prefix_token_id", "tokenizer.ggml.suffix_token_id", "tokenizer.ggml.middle_token_id"),
)

# Where the file does not name them, the vocabulary may have tokens that are written so.
TEXTS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, SantaCoder with dashes
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek  # noqa: RUF001
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
    ("<PRE>", "<SUF>", "<MID>"),  # Code Llama
)


def fill_tokens(model: Model) -> FillTokens | None:
    """The three tokens of a model, None where it has not all of them."""
    for keys in KEYS:
        ids = [model.metadata(key) for key in keys]
        if all(ids):
            return FillTokens(*(int(token) for token in ids if token))
    for texts in TEXTS:
        found = [_token_of(model, text) for text in texts]
        if all(token is not None for token in found):
            return FillTokens(*(token for token in found if token is not None))
    return None


def _token_of(model: Model, text: str) -> int | None:
    """The one token that is written so."""
    tokens = model.tokenize(text, add_special=False, parse_special=True)
    if len(tokens) == 1 and model.token_bytes(tokens[0], special=True) == text.encode():
        return tokens[0]
    return None


def fill_prompt(model: Model, marks: FillTokens, prefix: str, suffix: str, suffix_first: bool) -> list[int]:
    """Prefix and suffix with their marks, then the mark after which the middle comes. `suffix_first`: as models
    trained on suffix, prefix, middle have it."""
    before = [marks.prefix, *model.tokenize(prefix, add_special=False)]
    after = [marks.suffix, *model.tokenize(suffix, add_special=False)]
    begin = [model.info.token_bos] if model.info.add_bos and model.info.token_bos >= 0 else []
    return begin + (after + before if suffix_first else before + after) + [marks.middle]

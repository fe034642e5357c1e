"""Texts that masks learn from: what the model wrote (text_store.py), after the beginning of a conversation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..model import Model
from .own_text import turns_of
from .text_store import Shard


@dataclass(frozen=True, slots=True)
class Text:
    """`tokens` (n,) int32 of a beginning and an answer, of which the first n_prompt are the beginning's."""

    tokens: np.ndarray
    n_prompt: int


def beginning_of(model: Model) -> list[int]:
    """What stands before an answer: the chat template around an empty question, since texts are kept without their
    questions; BOS where there is no template."""
    if (turns := turns_of(model)) is not None:
        return turns.before + turns.after
    return [model.info.token_bos] if model.info.token_bos >= 0 else []


def texts_of(shards: Sequence[Shard], held_out: bool, beginning: Sequence[int], n_masks: int) -> list[Text]:
    """The answers that are long enough for a place with n_masks masks, each with a token to name."""
    before = np.array(beginning, np.int32)
    texts = []
    for shard in shards:
        ends = np.flatnonzero(shard.left == 1) + 1
        for begin, end in zip([0, *ends], ends, strict=False):
            if shard.held_out[begin] == held_out and end - begin > n_masks + 1:
                texts.append(Text(np.concatenate([before, shard.tokens[begin:end]]), len(before)))
    return texts

"""Texts that a model wrote, with the hidden state and the likely tokens at each place, in a folder of shards.

A shard is a folder of arrays, which are mapped into memory and never read as a whole. It gets its name when it is
complete, so it is there with all that belongs to it or not at all, whoever is killed.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ..errors import Error

N_TOP = 16  # likely tokens that are kept of each place
HELD_OUT_EVERY = 12  # one text of so many is kept for validation

UNFINISHED = ".unfinished"


@dataclass(frozen=True, slots=True)
class Text:
    """One answer. Row i of each array belongs to the place that its token i was drawn from."""

    tokens: np.ndarray  # (n,) int32
    hidden: np.ndarray  # (n, n_embd) float16, after the model's last norm
    top: np.ndarray  # (n, N_TOP) int32, the most likely tokens
    logprobs: np.ndarray  # (n, N_TOP) float16, theirs in the model's own distribution


@dataclass(frozen=True, slots=True)
class Shard:
    """Some texts, one after another, mapped."""

    tokens: np.ndarray  # (n,) int32
    left: np.ndarray  # (n,) int32, tokens from here to the end of the text, this one included
    held_out: np.ndarray  # (n,) bool
    hidden: np.ndarray  # (n, n_embd) float16
    top: np.ndarray  # (n, N_TOP) int32
    logprobs: np.ndarray  # (n, N_TOP) float16


class TextStore:
    """The shards in a folder.

    Raises Error for a folder that cannot be made or read, and for shards of another model."""

    def __init__(self, folder: Path, n_embd: int) -> None:
        self.folder = folder
        self._n_embd = n_embd
        self.shards: list[Shard] = []
        try:
            folder.mkdir(exist_ok=True)
            for path in sorted(folder.glob("text-*")):
                if path.suffix == UNFINISHED:
                    shutil.rmtree(path)
                else:
                    self.shards.append(self._opened(path))
        except (OSError, ValueError) as error:
            raise Error(f"cannot read the texts in '{folder}': {error}; delete that folder to begin anew") from None

    @property
    def n_tokens(self) -> int:
        return sum(len(shard.tokens) for shard in self.shards)

    def add(self, texts: Sequence[Text]) -> None:
        """Writes a shard. Raises OSError."""
        path = self.folder / f"text-{len(self.shards):06d}"
        beside = path.with_suffix(UNFINISHED)
        beside.mkdir()
        lengths = [len(text.tokens) for text in texts]
        arrays = {
            "tokens": np.concatenate([text.tokens for text in texts]),
            "left": np.concatenate([np.arange(n, 0, -1, dtype=np.int32) for n in lengths]),
            "held_out": np.repeat([i % HELD_OUT_EVERY == 0 for i in range(len(texts))], lengths),
            "hidden": np.concatenate([text.hidden for text in texts]),
            "top": np.concatenate([text.top for text in texts]),
            "logprobs": np.concatenate([text.logprobs for text in texts]),
        }
        for name, array in arrays.items():
            np.save(beside / f"{name}.npy", array)
        beside.rename(path)
        self.shards.append(self._opened(path))

    def _opened(self, path: Path) -> Shard:
        arrays = {field.name: np.load(path / f"{field.name}.npy", mmap_mode="r") for field in fields(Shard)}
        n = len(arrays["tokens"])
        shapes = {"hidden": (n, self._n_embd), "top": (n, N_TOP), "logprobs": (n, N_TOP)}
        for name, array in arrays.items():
            if array.shape != shapes.get(name, (n,)):
                raise ValueError(f"{path.name} has {name} of shape {array.shape}")
        return Shard(**arrays)

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
NORM_EPS = 1e-5

UNFINISHED = ".unfinished"


@dataclass(frozen=True, slots=True)
class Text:
    """One answer. Row i of each array belongs to the place that its token i was drawn from."""

    tokens: np.ndarray  # (n,) int32
    hidden: np.ndarray  # (n, n_embd) float16, after the model's last norm
    between: np.ndarray  # (n, n_layers, n_embd) float16, after each of the store's layers: of_size_one()
    top: np.ndarray  # (n, N_TOP) int32, the most likely tokens
    logprobs: np.ndarray  # (n, N_TOP) float16, theirs in the model's own distribution


@dataclass(frozen=True, slots=True)
class Shard:
    """Some texts, one after another, mapped."""

    tokens: np.ndarray  # (n,) int32
    left: np.ndarray  # (n,) int32, tokens from here to the end of the text, this one included
    held_out: np.ndarray  # (n,) bool
    hidden: np.ndarray  # (n, n_embd) float16
    between: np.ndarray  # (n, n_layers, n_embd) float16
    top: np.ndarray  # (n, N_TOP) int32
    logprobs: np.ndarray  # (n, N_TOP) float16


def of_size_one(states: np.ndarray) -> np.ndarray:
    """Each state (.., n_embd) divided by the root of its mean square: sizes differ much from layer to layer, and may
    be more than 16 bits hold."""
    return states / np.sqrt(np.mean(np.square(states, dtype=np.float32), -1, keepdims=True) + NORM_EPS)


class TextStore:
    """The shards in a folder. `layers`: whose hidden states they have beside those after the last norm.

    Raises Error for a folder that cannot be made or read, and for shards of another model or with other layers."""

    def __init__(self, folder: Path, n_embd: int, layers: Sequence[int] = ()) -> None:
        self.folder = folder
        self._n_embd = n_embd
        self._layers = list(layers)
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
        if len(self._layers) > 0:
            arrays |= {
                "between": np.concatenate([text.between for text in texts]),
                "layers": np.array(self._layers, np.int32),
            }
        for name, array in arrays.items():
            np.save(beside / f"{name}.npy", array)
        beside.rename(path)
        self.shards.append(self._opened(path))

    def _opened(self, path: Path) -> Shard:
        def read(name: str) -> np.ndarray:
            array: np.ndarray = np.load(path / f"{name}.npy", mmap_mode="r")
            return array

        has_layers = (path / "layers.npy").exists()
        layers = read("layers").tolist() if has_layers else []
        if layers != self._layers:
            raise ValueError(f"{path.name} has states after the layers {layers}, wanted are {self._layers}")
        arrays = {field.name: read(field.name) for field in fields(Shard) if has_layers or field.name != "between"}
        n = len(arrays["tokens"])
        arrays.setdefault("between", np.empty((n, 0, self._n_embd), np.float16))
        shapes = {
            "hidden": (n, self._n_embd),
            "between": (n, len(self._layers), self._n_embd),
            "top": (n, N_TOP),
            "logprobs": (n, N_TOP),
        }
        for name, array in arrays.items():
            if array.shape != shapes.get(name, (n,)):
                raise ValueError(f"{path.name} has {name} of shape {array.shape}")
        return Shard(**arrays)

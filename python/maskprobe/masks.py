"""Mask embeddings: the vectors that stand where the next tokens would (ESP, arXiv 2603.17942).

spec         mask j (1-based) after any owner
mean         the mean of the prompt's input embeddings (the paper's default)
last-k       the embeddings of the last k prompt tokens, in their order, k = the number of masks
last-k:K     the same with the last K; masks beyond them repeat the newest
sample       a draw from N(mean, variance) of the embedding table, each mask its own
token:ID     the embedding of one token
file:PATH    a vector of n_embd values: .npy, or raw little-endian float32; or a file of trained masks (docs/masks.md)
tuned        a multiple of the prompt's mean plus an offset, as maskprobe-analyze masks found them for this model
tuned:PATH   the same from another file
soft         mask 1: the expected embedding of what followed the owner's token last time; further masks: mean
"""

import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ._capi import shown
from .errors import ArgumentError
from .model import Model
from .session import Pass
from .trained_masks import TrainedMasks, is_mask_file
from .tree import TokenTree

TABLE_ROWS = 4096  # rows of the embedding table that the statistics of `sample` are taken from, at most
CHUNK_ROWS = 1024  # rows of the table held at once
SUCCESSORS = 8  # most likely next tokens that `soft` remembers per token


class MaskEmbedding:
    """The mean of the prompt's input embeddings, and the base of the other kinds.

    `update` (lambda, 0..1) moves the vectors towards each emitted token: m += lambda * (e_token - m), the online update
    of the paper (0.1 there); 0 is off.

    Raises ArgumentError for values out of range.
    """

    n_top = 1  # candidates per row that observe() wants to see
    trained: TrainedMasks | None = None  # of the trees that have these masks

    def __init__(self, model: Model, *, update: float = 0.0) -> None:
        if not 0.0 <= update <= 1.0:
            raise ArgumentError(f"the mask update must lie between 0 and 1, not {update}")
        self.model = model
        self.n_embd = model.info.n_embd
        self.rate = update
        self._base = np.empty((0, self.n_embd), np.float32)  # (n_masks, n_embd)

    def begin(self, prompt: Sequence[int], n_masks: int) -> None:
        """A new generation after `prompt` (not empty): sets the vectors of the `n_masks` masks after an owner."""
        self._base = np.array(self.initial(prompt, n_masks), np.float32)

    def initial(self, prompt: Sequence[int], n_masks: int) -> np.ndarray:
        """The vectors before any token is generated, (n_masks, n_embd)."""
        return np.tile(_mean_embedding(self.model, prompt), (n_masks, 1))

    def vectors(self, owners: Sequence[int]) -> np.ndarray:
        """The masks after nodes that carry the tokens `owners`, float32 (n_owners, n_masks, n_embd)."""
        return np.broadcast_to(self._base, (len(owners), *self._base.shape))

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        """Learns from a pass: here, the online update by the emitted tokens, in their order."""
        if self.rate > 0.0:
            for embedding in _embeddings(self.model, emitted):  # (n_embd,)
                self._base += self.rate * (embedding - self._base)


class LastTokensMask(MaskEmbedding):
    """Mask j is the embedding of the j-th of the last `n_last` prompt tokens; n_last = None: as many as masks."""

    def __init__(self, model: Model, n_last: int | None = None, *, update: float = 0.0) -> None:
        super().__init__(model, update=update)
        if n_last is not None and n_last < 1:
            raise ArgumentError(f"last-k:{n_last}: K must be at least 1")
        self.n_last = n_last

    def initial(self, prompt: Sequence[int], n_masks: int) -> np.ndarray:
        rows = _embeddings(self.model, prompt[-(self.n_last or n_masks) :])  # (<= n_last, n_embd)
        return rows[np.minimum(np.arange(n_masks), len(rows) - 1)]


class SampleMask(MaskEmbedding):
    """A seeded draw from N(mean, variance) of the embedding table, dimension by dimension, the same each generation.

    Mean and variance are estimated from at most TABLE_ROWS rows, chosen with the same seed."""

    def __init__(self, model: Model, seed: int = 0, *, update: float = 0.0) -> None:
        super().__init__(model, update=update)
        self.seed = seed
        n_vocab = model.info.n_vocab
        tokens = np.random.default_rng(seed).choice(n_vocab, min(n_vocab, TABLE_ROWS), replace=False)
        rows = _embeddings(model, tokens)
        self.table_mean, self.table_deviation = rows.mean(axis=0), rows.std(axis=0)  # (n_embd,) each

    def initial(self, prompt: Sequence[int], n_masks: int) -> np.ndarray:
        noise = np.random.default_rng(self.seed).standard_normal((n_masks, self.n_embd), np.float32)
        return self.table_mean + self.table_deviation * noise


class ConstantMask(MaskEmbedding):
    """One given vector (n_embd,) for every mask."""

    def __init__(self, model: Model, vector: np.ndarray, *, update: float = 0.0) -> None:
        super().__init__(model, update=update)
        self.vector = _checked_vector(vector, self.n_embd, "the mask vector")

    def initial(self, prompt: Sequence[int], n_masks: int) -> np.ndarray:
        return np.tile(self.vector, (n_masks, 1))


class TunedMask(MaskEmbedding):
    """scale * (the mean of the prompt's input embeddings) + offset (n_embd,), for every mask."""

    def __init__(self, model: Model, scale: float, offset: np.ndarray, *, update: float = 0.0) -> None:
        super().__init__(model, update=update)
        self.scale = float(scale)
        self.offset = _checked_vector(offset, self.n_embd, "the offset of the mask")
        if not np.isfinite(self.scale):
            raise ArgumentError(f"the scale of the mask is {self.scale}")

    def initial(self, prompt: Sequence[int], n_masks: int) -> np.ndarray:
        return self.scale * super().initial(prompt, n_masks) + self.offset


class TrainedMask(MaskEmbedding):
    """Mask j is the j-th vector of a file of trained masks, whose matrices act on its row."""

    def __init__(self, model: Model, path: Path, *, update: float = 0.0) -> None:
        super().__init__(model, update=update)
        self.trained = TrainedMasks(model, path)

    def initial(self, prompt: Sequence[int], n_masks: int) -> np.ndarray:
        assert self.trained is not None
        n_known = len(self.trained.vectors)
        if n_masks > n_known:
            raise ArgumentError(f"{n_masks} masks after a node are too many: the file has {n_known}")
        return self.trained.vectors[:n_masks]


class SoftMask(MaskEmbedding):
    """Mask 1 is the expected embedding of the token that follows the owner: the sum of p * e over the SUCCESSORS most
    likely tokens of the last pass in which the owner's token was a row, accepted or not, p renormalised. An owner never
    seen, and every further mask, gets the mean. What was seen is kept from one generation to the next.

    Marginalisation over the next token (arXiv 2502.09419), done in the space of embeddings."""

    n_top = SUCCESSORS

    def __init__(self, model: Model, *, update: float = 0.0) -> None:
        super().__init__(model, update=update)
        n_kept = min(SUCCESSORS, model.info.n_vocab)
        self._successors = np.zeros((model.info.n_vocab, n_kept), np.int32)
        self._probabilities = np.zeros((model.info.n_vocab, n_kept), np.float32)  # all 0: never seen

    def vectors(self, owners: Sequence[int]) -> np.ndarray:
        vectors = np.array(super().vectors(owners))  # (n_owners, n_masks, n_embd)
        tokens = np.asarray(owners, np.intp)
        weights = self._probabilities[tokens]  # (n_owners, n_kept)
        seen = np.flatnonzero(weights[:, 0])
        if len(seen):
            successors = self._successors[tokens[seen]]  # (n_seen, n_kept)
            distinct, places = np.unique(successors, return_inverse=True)
            embeddings = _embeddings(self.model, distinct)[places.reshape(successors.shape)]
            # Not a matrix product: the threads of BLAS would fight with those of llama.cpp over a sum this small.
            vectors[seen, 0] = np.einsum("sk,ske->se", weights[seen], embeddings)  # (n_seen, n_embd)
        return vectors

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        """Learns the successors of every node's token, the accepted ones last: of equal tokens they are kept."""
        super().observe(tree, result, path, emitted)
        rows = np.concatenate([np.arange(tree.n_nodes), path])
        tokens = np.asarray(tree.tokens)[rows]
        n_kept = min(self._successors.shape[1], result.n_top)
        probabilities = np.exp(result.top_logprobs[rows, :n_kept])
        self._successors[tokens, :n_kept] = result.top_tokens[rows, :n_kept]
        self._probabilities[tokens, :n_kept] = probabilities / probabilities.sum(axis=1, keepdims=True)


def mask_embedding(spec: str, model: Model, *, update: float = 0.0, seed: int = 0) -> MaskEmbedding:
    """The mask embedding that `spec` names; the list is at the top of this file. `seed` is that of `sample`.

    Raises ArgumentError for a spec that is none of these, and for a token or a file that does not fit the model."""
    kind, _, value = spec.partition(":")
    if spec == "mean":
        return MaskEmbedding(model, update=update)
    if spec == "soft":
        return SoftMask(model, update=update)
    if spec == "sample":
        return SampleMask(model, seed, update=update)
    if spec == "last-k":
        return LastTokensMask(model, update=update)
    if kind == "last-k":
        return LastTokensMask(model, _integer(value, spec), update=update)
    if kind == "token":
        token = _integer(value, spec)
        if not 0 <= token < model.info.n_vocab:
            raise ArgumentError(f"mask {spec}: token {token} is out of range, the vocabulary has {model.info.n_vocab}")
        return ConstantMask(model, model.embedding_rows([token])[0], update=update)
    if spec == "tuned" or kind == "tuned":
        return read_tuned(Path(value) if value else tuned_place(model), model, update=update)
    if kind == "file" and is_mask_file(Path(value)):
        return TrainedMask(model, Path(value), update=update)
    if kind == "file":
        return ConstantMask(model, read_vector(Path(value), model.info.n_embd), update=update)
    raise ArgumentError(
        f"mask {shown(spec)} is not known: use mean, last-k, last-k:K, sample, token:ID, file:PATH, tuned, tuned:PATH "
        "or soft"
    )


def read_vector(path: Path, n_embd: int) -> np.ndarray:
    """A vector of n_embd values from a .npy file or a file of raw little-endian float32.

    Raises ArgumentError for a file that cannot be read or holds another number of values."""
    try:
        if path.suffix == ".npy":
            vector = np.load(path, allow_pickle=False)
        else:
            data = path.read_bytes()
            if len(data) != 4 * n_embd:
                raise ArgumentError(
                    f"{path} has {len(data)} bytes; a raw float32 vector of {n_embd} values has {4 * n_embd}"
                )
            vector = np.frombuffer(data, "<f4")
    except (OSError, EOFError) as error:
        raise ArgumentError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except ValueError as error:
        if isinstance(error, ArgumentError):
            raise
        raise ArgumentError(f"{path} is not a sound .npy file: {error}") from None
    return _checked_vector(vector, n_embd, str(path))


def tuned_place(model: Model) -> Path:
    """The file of `tuned`, in the folder of the model's state file."""
    folder = os.environ.get("MASKPROBE_STATE_DIR", "")
    if not folder:
        cache = os.environ.get("XDG_CACHE_HOME", "")
        folder = os.path.join(cache or os.path.join(os.path.expanduser("~"), ".cache"), "maskprobe", "state")
    name = re.sub(r"[^\w.-]", "-", model.info.name or model.path.stem, flags=re.ASCII)[:40]
    return Path(folder) / f"{name}-{model.info.n_params}-{model.info.n_embd}.mask.npz"


def write_tuned(path: Path, model: Model, scale: float, offset: np.ndarray) -> None:
    """For TunedMask; what was there is replaced when the new file is whole. Raises ArgumentError."""
    unfinished = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            about = np.array([model.info.arch, model.info.name, str(model.info.n_params)])
            np.savez(file, scale=np.float64(scale), offset=offset.astype(np.float32), model=about)
        os.replace(unfinished, path)
    except OSError as error:
        raise ArgumentError(f"the mask cannot be written to {path}: {error.strerror}") from None


def read_tuned(path: Path, model: Model, *, update: float = 0.0) -> TunedMask:
    """Raises ArgumentError for a file that is not there or is not one of write_tuned(), and for another model's."""
    try:
        with np.load(path, allow_pickle=False) as file:
            scale, offset, about = file["scale"], file["offset"], file["model"].tolist()
        mask = TunedMask(model, float(scale), offset, update=update)
    except FileNotFoundError:
        raise ArgumentError(f"there is no tuned mask at {path}: maskprobe-analyze masks makes one") from None
    except OSError as error:
        raise ArgumentError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        if isinstance(error, ArgumentError):
            raise
        raise ArgumentError(f"{path} is not a file of maskprobe-analyze masks") from None
    info = model.info
    if about != [info.arch, info.name, str(info.n_params)]:
        raise ArgumentError(f"{path} is the mask of another model: {about[1] or about[0]}, {about[2]} parameters")
    return mask


def _embeddings(model: Model, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """The tokens' embeddings, (n, n_embd); zeros for a token whose row in the file is not finite."""
    rows = model.embedding_rows(tokens)
    rows[~np.isfinite(rows).all(axis=1)] = 0.0
    return rows


def _mean_embedding(model: Model, tokens: Sequence[int]) -> np.ndarray:
    """The mean of the tokens' embeddings, (n_embd,). Each distinct token is looked up once."""
    distinct, counts = np.unique(np.asarray(tokens), return_counts=True)
    total = np.zeros(model.info.n_embd, np.float64)
    for begin in range(0, len(distinct), CHUNK_ROWS):
        chunk = slice(begin, begin + CHUNK_ROWS)
        total += np.einsum("n,ne->e", counts[chunk], _embeddings(model, distinct[chunk]))
    return total / len(tokens)


def _checked_vector(values: np.ndarray, n_embd: int, what: str) -> np.ndarray:
    vector = np.asarray(values)
    if vector.dtype.kind not in "fiu":
        raise ArgumentError(f"{what} holds {vector.dtype}, not numbers")
    if vector.size != n_embd:
        raise ArgumentError(f"{what} has {vector.size} values, the model's embeddings have {n_embd}")
    vector = vector.reshape(n_embd).astype(np.float32)
    if not np.isfinite(vector).all():
        raise ArgumentError(f"{what} holds NaN or infinite values")
    return vector


def _integer(value: str, spec: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ArgumentError(f"mask {spec}: {value!r} is not a whole number") from None

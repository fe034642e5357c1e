"""What the training of a head needs of its model's file: rows of the embedding and of the unembedding."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch

from ..errors import ModelError
from ..model import Model
from .head_weights import BLOCK, BLOCK_BYTES
from .sampler_batches import Tables
from .text_store import Shard

# What a head takes: a share of the model's bytes, within bounds. A guess reads all of it.
SHARE_OF_MODEL = 0.05
N_BYTES_LEAST, N_BYTES_MOST = 1_000_000, 15_500_000
LAYERS_SHARE = 0.45  # of it for the layers, the rest for the short list
HIDDEN_RATIO_MAX = 2  # n_hidden / n_embd
N_SHORT_LEAST, N_SHORT_MAX = 256, 12_288

N_FITTED = 512  # places at which the unembedding is compared with the model's own probabilities
CORRELATION_MIN = 0.98


def sizes_for(model: Model, n_widths: int) -> tuple[int, int]:
    """n_hidden and n_short of a head that takes so much of the model's bytes that its guesses pay. Its layers have
    n_widths n_embd n_hidden weights."""
    n_embd = model.info.n_embd
    n_bytes = min(max(SHARE_OF_MODEL * model.info.size, N_BYTES_LEAST), N_BYTES_MOST)
    n_weights = int(n_bytes) * BLOCK // BLOCK_BYTES
    n_hidden = int(LAYERS_SHARE * n_weights) // (n_widths * n_embd) // BLOCK * BLOCK
    n_hidden = min(max(n_hidden, BLOCK), HIDDEN_RATIO_MAX * n_embd)
    n_short = (n_weights - n_widths * n_embd * n_hidden) // n_embd
    return n_hidden, min(max(n_short, N_SHORT_LEAST), N_SHORT_MAX, model.info.n_vocab)


@dataclass(frozen=True, slots=True)
class ShortList:
    """The tokens that a head can guess."""

    tokens: np.ndarray  # (n_short,) int32, ascending
    weight: np.ndarray  # (n_short, n_embd) float32: products with hidden states are the model's logits


class Unembedding:
    """Rows of the model's output matrix, by token.

    Raises ModelError where the file has none."""

    def __init__(self, path: Path) -> None:
        tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
        found = tensors.get("output.weight", tensors.get("token_embd.weight"))
        if found is None:
            raise ModelError(f"'{path}' has no output matrix: heads cannot be trained for a model in several files")
        self._tensor = found

    def rows(self, tokens: np.ndarray) -> np.ndarray:
        """(n, n_embd) float32."""
        return gguf.quants.dequantize(self._tensor.data[tokens], self._tensor.tensor_type).astype(np.float32)


def logit_scale(unembedding: Unembedding, shard: Shard) -> float:
    """What the products of unembedding and hidden states are multiplied by to be the model's logits, by least squares
    over the differences to the most likely token.

    Raises ModelError where they do not follow the model's probabilities: its logits are made in another way."""
    at = np.linspace(0, len(shard.tokens) - 1, min(N_FITTED, len(shard.tokens))).astype(np.int64)
    rows = unembedding.rows(shard.top[at].reshape(-1)).reshape(len(at), -1, shard.hidden.shape[1])
    products = np.einsum("nkd,nd->nk", rows, shard.hidden[at].astype(np.float32))
    logprobs = shard.logprobs[at].astype(np.float32)
    x, y = (products - products[:, :1])[:, 1:].ravel(), (logprobs - logprobs[:, :1])[:, 1:].ravel()
    correlation = float(np.corrcoef(x, y)[0, 1])
    if not correlation >= CORRELATION_MIN:  # NaN too
        raise ModelError(
            f"this model's logits are not the products of its output matrix and its last states (correlation "
            f"{correlation:.3f}, at least {CORRELATION_MIN} is required): a head cannot use that matrix"
        )
    return float(x @ y / (x @ x))


def short_list(shards: Sequence[Shard], n_vocab: int, n: int) -> np.ndarray:
    """The `n` tokens that training texts expect most, ascending, int32. Likely tokens count with their probability,
    which says more about rare ones than what came."""
    expected = np.zeros(n_vocab)
    for shard in shards:
        kept = ~shard.held_out
        np.add.at(expected, shard.tokens[kept], 1.0)
        np.add.at(expected, shard.top[kept].ravel(), np.exp(shard.logprobs[kept].astype(np.float32)).ravel())
    return np.sort(np.argsort(-expected, kind="stable")[:n]).astype(np.int32)


def tables_of(model: Model, shards: Sequence[Shard], n_short: int) -> tuple[Tables, ShortList]:
    """Raises ModelError."""
    n_vocab = model.info.n_vocab
    seen = np.zeros(n_vocab, bool)
    for shard in shards:
        seen[shard.tokens] = True
    tokens = np.flatnonzero(seen)
    likely = short_list(shards, n_vocab, n_short)
    unembedding = Unembedding(model.path)
    weight = unembedding.rows(likely) * logit_scale(unembedding, shards[0])
    tables = Tables(
        row_of=places_of(tokens, n_vocab),
        embedding=torch.from_numpy(model.embedding_rows(tokens)),
        short_of=places_of(likely, n_vocab),
        short=torch.from_numpy(weight).bfloat16(),
    )
    return tables, ShortList(likely, weight)


def places_of(tokens: np.ndarray, n_vocab: int) -> torch.Tensor:
    """Where each token of the vocabulary is in `tokens`, -1 where it is not, (n_vocab,) int64."""
    places = np.full(n_vocab, -1, np.int64)
    places[tokens] = np.arange(len(tokens))
    return torch.from_numpy(places)


def input_scale(tables: Tables, shard: Shard) -> np.ndarray:
    """That brings embeddings and hidden states to a size of one, (2 n_embd,) float32."""
    n_embd = shard.hidden.shape[1]
    sizes = (
        float(tables.embedding.square().mean().sqrt()),
        float(np.sqrt(np.mean(shard.hidden.astype(np.float32) ** 2))),
    )
    return np.repeat(np.float32(1.0) / np.array(sizes, np.float32), n_embd)

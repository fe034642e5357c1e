"""The logit lens: what hidden states between layers say through the model's own last norm and output matrix."""

import gguf
import numpy as np

from ..errors import ModelError
from ..model import Model

# Architectures whose output is  head @ (RMSNorm(state) * weight): no bias, no scale, no bound of the logits.
ARCHITECTURES = ("gemma", "gemma3", "llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "smollm3")


class LogitLens:
    """Dequantises the last norm and the output matrix of the model's file, 4 * n_vocab * n_embd bytes.

    Raises ModelError for an architecture that ends otherwise, and for a file that does not hold these tensors itself
    (split models, models with adapters)."""

    def __init__(self, model: Model) -> None:
        arch = model.info.arch
        if arch not in ARCHITECTURES:
            raise ModelError(f"no logit lens for {arch} models: it is there for {', '.join(ARCHITECTURES)}")
        if model.loras:
            raise ModelError("no logit lens for a model with adapters: it would not see them")
        reader = gguf.GGUFReader(model.path)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        head = tensors.get("output.weight", tensors.get("token_embd.weight"))
        norm = tensors.get("output_norm.weight")
        if head is None or norm is None:
            raise ModelError(f"no logit lens: '{model.path.name}' has no output matrix or no last norm")
        self._head = _values(head, model.info.n_vocab, model.info.n_embd)  # (n_vocab, n_embd)
        self._norm = _values(norm, 1, model.info.n_embd)[0]  # (n_embd,)
        self._epsilon = float(model.metadata(f"{arch}.attention.layer_norm_rms_epsilon") or 1e-5)

    def normed(self, states: np.ndarray) -> np.ndarray:
        """The last norm of hidden states (n, n_embd)."""
        squares = np.mean(np.square(states, dtype=np.float64), axis=-1, keepdims=True)
        normed: np.ndarray = (states / np.sqrt(squares + self._epsilon)).astype(np.float32) * self._norm
        return normed

    def logits(self, states: np.ndarray) -> np.ndarray:
        """Of hidden states after a layer (n, n_embd): float32 (n, n_vocab)."""
        logits: np.ndarray = self.normed(states) @ self._head.T
        return logits


def _values(tensor: gguf.ReaderTensor, n_rows: int, n_columns: int) -> np.ndarray:
    """As float32 (n_rows, n_columns). Raises ModelError for a type that gguf does not read, and for another size."""
    try:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(-1, n_columns)
    except NotImplementedError:
        raise ModelError(f"no logit lens: tensor {tensor.name} has type {tensor.tensor_type.name}") from None
    if len(values) < n_rows:
        raise ModelError(f"no logit lens: tensor {tensor.name} has {len(values)} rows, the vocabulary has {n_rows}")
    return np.ascontiguousarray(values[:n_rows], np.float32)

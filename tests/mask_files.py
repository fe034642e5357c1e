"""Files of trained masks with random numbers, and a llama model in numpy whose mask rows have their matrices."""

from pathlib import Path

import gguf
import numpy as np

from maskprobe import Model, TokenTree
from maskprobe.mtp.mask_file import MaskFile, write_masks


def random_masks(
    model: Model, path: Path, *, n_masks: int = 4, rank: int = 4, scale: float = 0.3, seed: int = 1
) -> MaskFile:
    """Of all matrices in the layers of the model in that file."""
    draw = np.random.default_rng(seed)
    pairs = {}
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            n_in, n_out = (int(size) for size in tensor.shape)
            a, b = draw.normal(0, n_in**-0.5, (rank, n_in)), draw.normal(0, scale, (n_out, rank))
            pairs[tensor.name] = (a.astype(np.float16), b.astype(np.float16))
    vectors = draw.normal(0, 0.3, (n_masks, model.info.n_embd)).astype(np.float32)
    return MaskFile(model.identity, model.info.n_vocab, vectors, pairs)


def written(folder: Path, masks: MaskFile, name: str = "masks.gguf", **settings) -> Path:
    write_masks(folder / name, masks, **settings)
    return folder / name


class NumpyLlama:
    """A llama model with F32 weights, one row of logits for each row of a tree with masks; double precision."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        field = {name: part.contents() for name, part in reader.fields.items()}
        self.weights = {t.name: gguf.dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}
        self.n_layer = field["llama.block_count"]
        self.n_head, self.n_head_kv = field["llama.attention.head_count"], field["llama.attention.head_count_kv"]
        self.eps = field["llama.attention.layer_norm_rms_epsilon"]
        self.head_size = self.weights["blk.0.attn_q.weight"].shape[0] // self.n_head
        self.base = field.get("llama.rope.freq_base", 10000.0)

    def logits(self, prefix: list[int], tree: TokenTree, pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Of the rows of the tree after `prefix`, (n_rows, n_vocab)."""
        table = self.weights["token_embd.weight"]
        n_past, n_rows = len(prefix), tree.n_rows
        x = np.concatenate([table[prefix], table[tree.tokens], tree.mask_vectors.reshape(-1, table.shape[1])])
        sees = np.zeros((n_past + n_rows, n_past + n_rows), bool)  # row, what it sees
        sees[:n_past, :n_past] = np.tri(n_past, dtype=bool)
        sees[n_past:, :n_past] = True
        positions = np.arange(n_past + n_rows)
        for node in range(tree.n_nodes):
            path = tree.path_to(node)
            positions[n_past + node] = n_past + len(path) - 1
            sees[n_past + node, [n_past + other for other in path]] = True
        for owner in set(tree.mask_owners):
            for number, row in enumerate(tree.mask_rows(owner)):
                sees[n_past + row] = sees[n_past + owner]
                sees[n_past + row, [n_past + other for other in tree.mask_rows(owner)[: number + 1]]] = True
                positions[n_past + row] = positions[n_past + owner] + number + 1
        is_mask = np.arange(n_past + n_rows) >= n_past + tree.n_nodes

        def product(name: str, x: np.ndarray) -> np.ndarray:
            y = x @ self.weights[name].T
            if name in pairs:
                a, b = (part.astype(np.float64) for part in pairs[name])
                y[is_mask] += x[is_mask] @ a.T @ b.T
            return y

        for layer in range(self.n_layer):
            block = f"blk.{layer}."
            h = self._norm(x, block + "attn_norm.weight")
            q, k, v = (product(f"{block}attn_{part}.weight", h) for part in "qkv")
            x = x + product(block + "attn_output.weight", self._attention(q, k, v, positions, sees))
            h = self._norm(x, block + "ffn_norm.weight")
            gate = product(block + "ffn_gate.weight", h)
            x = x + product(block + "ffn_down.weight", gate / (1 + np.exp(-gate)) * product(block + "ffn_up.weight", h))
        head = self.weights.get("output.weight", table)
        return self._norm(x[n_past:], "output_norm.weight") @ head.T

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.weights[name]

    def _attention(self, q, k, v, positions, sees) -> np.ndarray:
        n = len(q)
        q, k = (
            self._rotated(q.reshape(n, -1, self.head_size), positions),
            self._rotated(k.reshape(n, -1, self.head_size), positions),
        )
        share = self.n_head // self.n_head_kv
        k, v = k.repeat(share, 1), v.reshape(n, -1, self.head_size).repeat(share, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / self.head_size**0.5
        scores = np.where(sees, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1)

    def _rotated(self, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
        n_pairs = self.head_size // 2
        angles = positions[:, None, None] * self.base ** (-np.arange(n_pairs) / n_pairs)
        first, second = x[..., 0::2], x[..., 1::2]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.stack([first * cos - second * sin, second * cos + first * sin], -1).reshape(x.shape)

"""Masks that are trained on a frozen model, as in "Your LLM Knows the Future" (arXiv 2507.11851).

Mask rows start from learned vectors and pass through y = W x + B (A x) where ordinary rows pass through y = W x: the
gated low-rank matrices. Ordinary rows are those of the model itself.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .gguf_weights import FrozenModel
from .mask_layout import MaskRows


@dataclass(frozen=True, slots=True)
class TextRows:
    """What a text's own rows leave for mask rows: the keys and values of each layer, (n, n_head_kv, head_size), and the
    latents after the last norm, (n, n_embd)."""

    keys: list[Tensor]
    values: list[Tensor]
    latents: Tensor


class SamplerHead(nn.Module):
    """Makes a mask's latent depend on the token before it: v = [E(x); z], y = LN(SiLU(W0 v + b0)),
    u = LN(SiLU(W1 y + b1)), z' = z + u (its sampler head, added to the latent)."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Linear(2 * n_embd, n_embd), nn.LayerNorm(n_embd)
        self.second, self.second_norm = nn.Linear(n_embd, n_embd), nn.LayerNorm(n_embd)
        nn.init.zeros_(self.second_norm.weight)  # it starts as nothing

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """Token embeddings and latents (n, n_embd) to latents (n, n_embd)."""
        y = self.first_norm(F.silu(self.first(torch.cat([tokens, latents], -1))))
        update: Tensor = self.second_norm(F.silu(self.second(y)))
        return latents + update

    def tensors(self) -> dict[str, Tensor]:
        """By their names in the file."""
        return {
            "head.0.weight": self.first.weight,
            "head.0.bias": self.first.bias,
            "head.0.norm.weight": self.first_norm.weight,
            "head.0.norm.bias": self.first_norm.bias,
            "head.1.weight": self.second.weight,
            "head.1.bias": self.second.bias,
            "head.1.norm.weight": self.second_norm.weight,
            "head.1.norm.bias": self.second_norm.bias,
        }


class MaskedModel(nn.Module):
    """n_masks learned vectors and, for each matrix of the layers, a pair of rank `rank` (0: none); with `head` a
    sampler head. The model itself has no parameters here."""

    def __init__(self, model: FrozenModel, n_masks: int, rank: int, *, head: bool = False) -> None:
        super().__init__()
        self.model = model
        self.n_masks = n_masks
        table = model.embedding.float()
        noise = 0.1 * table.std(0) * torch.randn(n_masks, model.n_embd)
        self.vectors = nn.Parameter(table.mean(0) + noise)  # (n_masks, n_embd)
        self.a, self.b = nn.ParameterDict(), nn.ParameterDict()  # by the name with "/" for ".", which torch wants
        if rank > 0:
            for name, (n_out, n_in) in model.matrices().items():
                self.a[_key(name)] = nn.Parameter(torch.randn(rank, n_in) / n_in**0.5)
                self.b[_key(name)] = nn.Parameter(torch.zeros(n_out, rank))
        self.head = SamplerHead(model.n_embd) if head else None

    def pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """(A, B) of each matrix by its name in the model: (rank, n_in) and (n_out, rank)."""
        return {name.replace("/", "."): (self.a[name], self.b[name]) for name in self.a}

    @torch.no_grad()
    def text_rows(self, tokens: Tensor) -> TextRows:
        """The rows of a text (n,), as the model has them."""
        model = self.model
        positions = torch.arange(len(tokens))
        x = model.embedding[tokens].float()  # (n, n_embd)
        keys, values = [], []
        for layer in range(model.n_layer):
            block = f"blk.{layer}."
            h = model.norm(block + "attn_norm", x)
            q, k, v = (self._heads(model.product(block + part, h)) for part in ("attn_q", "attn_k", "attn_v"))
            q, k = model.rotated(q, positions), model.rotated(k, positions)
            keys.append(k)
            values.append(v)
            x = x + model.product(block + "attn_output", self._attention(q, k, v, None))
            h = model.norm(block + "ffn_norm", x)
            gated = F.silu(model.product(block + "ffn_gate", h)) * model.product(block + "ffn_up", h)
            x = x + model.product(block + "ffn_down", gated)
        return TextRows(keys, values, model.norm("output_norm", x))

    def mask_rows(self, text: TextRows, rows: MaskRows) -> Tensor:
        """The latents of mask rows beside a text, (n, n_embd)."""
        model = self.model
        positions, visible = rows.positions, rows.visible(len(text.latents))
        x = self.vectors[rows.numbers]  # (n, n_embd)
        for layer in range(model.n_layer):
            block = f"blk.{layer}."
            h = model.norm(block + "attn_norm", x)
            q, k, v = (self._heads(self._gated(block + part, h)) for part in ("attn_q", "attn_k", "attn_v"))
            q, k = model.rotated(q, positions), model.rotated(k, positions)
            k, v = torch.cat([text.keys[layer], k]), torch.cat([text.values[layer], v])
            x = x + self._gated(block + "attn_output", self._attention(q, k, v, visible))
            h = model.norm(block + "ffn_norm", x)
            gated = F.silu(self._gated(block + "ffn_gate", h)) * self._gated(block + "ffn_up", h)
            x = x + self._gated(block + "ffn_down", gated)
        return model.norm("output_norm", x)

    def _gated(self, name: str, x: Tensor) -> Tensor:
        y = self.model.product(name, x)
        key = _key(name + ".weight")
        if key not in self.a:
            return y
        dtype = self.model.dtype
        added = (x.to(dtype) @ self.a[key].to(dtype).T) @ self.b[key].to(dtype).T
        return y + added.float()

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1, self.model.head_size)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        """q (n, n_head, head_size) over k, v (n_kv, n_head_kv, head_size). visible None: each sees those before."""
        model = self.model
        share = model.n_head // model.n_head_kv
        k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
        q, k, v = (part.to(model.dtype).transpose(0, 1)[None] for part in (q, k, v))  # (1, n_head, n, head_size)
        mask = None if visible is None else visible[None, None]
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=visible is None)[0]
        return out.transpose(0, 1).flatten(1).float()


def _key(name: str) -> str:
    return name.replace(".", "/")

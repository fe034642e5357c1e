"""Writes tiny hybrid models with random weights: some layers attend, the others keep a recurrent state.

One shape for each architecture whose state llama.cpp can take back. All weights are F32.

Usage: python models/random_hybrid.py lfm2 out.gguf
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import gguf
import numpy as np

from architecture_tensors import TensorSpec, matrix, norm
from hybrid_latent import HYBRIDS as LATENT_HYBRIDS
from hybrid_layers import HYBRIDS as PLAIN_HYBRIDS
from hybrid_parts import FFN, LOGIT_SPREAD, N_CTX, N_LAYER, N_VOCAB, WIDTH, Hybrid
from synthetic_vocab import make_vocabulary, write_vocabulary

HYBRIDS = {**PLAIN_HYBRIDS, **LATENT_HYBRIDS}


def tensors(hybrid: Hybrid) -> Iterator[TensorSpec]:
    yield TensorSpec("token_embd.weight", (N_VOCAB, WIDTH), "embedding", WIDTH**-0.5)
    if hybrid.output_norm:
        yield norm(hybrid.output_norm, WIDTH, LOGIT_SPREAD)
    if hybrid.own_head:
        yield matrix("output", N_VOCAB, WIDTH)
    yield from hybrid.head()
    for layer in range(N_LAYER):
        yield from hybrid.layer(layer, f"blk.{layer}.")


def write_random_hybrid(path: str | os.PathLike[str], arch: str, seed: int = 0) -> Path:
    """Writes a tiny model of this architecture. The same arguments give the same file, byte for byte."""
    hybrid = HYBRIDS[arch]
    return write_tiny(path, arch, tensors(hybrid), hybrid.describe, ffn=hybrid.ffn, seed=seed)


def write_tiny(
    path: str | os.PathLike[str],
    arch: str,
    specs: Iterable[TensorSpec],
    describe: Callable[[gguf.GGUFWriter], None],
    *,
    ffn: int | tuple[int, ...] = FFN,
    n_layer: int = N_LAYER,
    seed: int = 0,
) -> Path:
    """Writes a model of the common sizes, with these tensors; describe() adds what else its metadata say."""
    path = Path(path)
    unfinished = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(unfinished, arch)
    writer.add_name(f"random {arch}")
    writer.add_description("Random weights for tests; its text means nothing")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(N_VOCAB)
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(ffn if isinstance(ffn, int) else list(ffn))
    writer.add_layer_norm_rms_eps(1e-5)
    describe(writer)
    write_vocabulary(writer, make_vocabulary(N_VOCAB), add_begin=False)
    for index, spec in enumerate(specs):
        values = spec.values
        if values is None:
            rng = np.random.default_rng([seed, index])
            values = rng.standard_normal(spec.dims, dtype=np.float32) * np.float32(spec.std)
        writer.add_tensor(spec.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(unfinished, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arch", choices=HYBRIDS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    path = write_random_hybrid(arguments.out, arguments.arch, arguments.seed)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()

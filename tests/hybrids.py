"""Tiny models with a recurrent state, their settings, texts and chains."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from conftest import EXACT
from maskprobe import Engine, Model, Proposer, SamplingParams, TokenTree
from random_hybrid import N_VOCAB, write_random_hybrid

MAX_CHAIN = 7
GREEDY = SamplingParams(temp=0.0)
SAMPLED = SamplingParams(temp=0.8, seed=7)
# Their keys and values differ in width: attention is llama.cpp's, which rounds by the number of rows.
WITHOUT_OUR_ATTENTION = ("bailingmoe3", "kimi-k3")


def paths_in(folder: Path) -> Callable[[str], Path]:
    """path(arch): a tiny model, made on first use."""

    def path(arch: str) -> Path:
        target = folder / f"{arch}.gguf"
        return target if target.exists() else write_random_hybrid(target, arch)

    return path


def pair_of(path: Path, arch: str, kernels: str) -> tuple[Model, dict]:
    """A model with either kind of kernels, and the settings of its sessions."""
    exact = kernels == "ours" and arch not in WITHOUT_OUR_ATTENTION
    return Model(path, kernels=kernels, n_threads=1), {**EXACT, "flash_attn": 1 if exact else 0}


def text_of(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, N_VOCAB - 2, n).tolist()


def chain(tokens: list[int]) -> TokenTree:
    tree = TokenTree(tokens[0])
    for node, token in enumerate(tokens[1:]):
        tree.add(node, token, 0.0)
    return tree


def engine_on(model: Model, settings: dict = EXACT, **more) -> Engine:
    return Engine(model, **{"n_ctx": 256, "rows": 1 + MAX_CHAIN, **settings, **more})


def generated(engine: Engine, proposer: Proposer | str, sampling: SamplingParams, prompt: list[int], n: int):
    """The tokens and the counts."""
    generation = engine.generate(prompt, sampling, max_tokens=n, ignore_eos=True, proposer=proposer)
    return [r.token for r in generation], generation.stats

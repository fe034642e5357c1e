"""llama.cpp by itself, through llama_cpp's low-level functions: plain decoding with one call per token."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import llama_cpp

from .. import ArgumentError, DecodeError, OutOfMemory, SamplingParams

CACHE_TYPES = {
    "f32": llama_cpp.GGML_TYPE_F32,
    "f16": llama_cpp.GGML_TYPE_F16,
    "q8_0": llama_cpp.GGML_TYPE_Q8_0,
    "q4_0": llama_cpp.GGML_TYPE_Q4_0,
}

GREEDY = SamplingParams(temp=0.0)


@dataclass(frozen=True)
class PlainRun:
    tokens: list[int]
    gen_ns: int  # of the passes and the sampler after the first token
    prompt_ns: int  # until the first token; 0: the prompt was in the cache

    @property
    def n_timed(self) -> int:
        """Tokens generated in gen_ns, one in each pass."""
        return len(self.tokens) - 1


class LlamaCpp:
    """A model and a context as llama.cpp opens them by default, but for what is said here. Flash attention is off, as
    in maskprobe: it is slower for single rows on a CPU. Tokens of `forbidden` are never drawn.

    Raises ArgumentError, OutOfMemory."""

    def __init__(
        self, path: Path, *, n_ctx: int, n_threads: int, type_k: str, type_v: str, forbidden: Sequence[int] = ()
    ) -> None:
        for name in (type_k, type_v):
            if name not in CACHE_TYPES:
                raise ArgumentError(f"a cache of type {name} is not offered here: {', '.join(CACHE_TYPES)} are")
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise OutOfMemory(f"llama.cpp cannot load '{path}'")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_threads = params.n_threads_batch = n_threads
        params.type_k, params.type_v = CACHE_TYPES[type_k], CACHE_TYPES[type_v]
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            llama_cpp.llama_model_free(self._model)
            raise OutOfMemory(f"llama.cpp cannot open a context of {n_ctx} tokens")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._forbidden = forbidden
        self._in_cache: list[int] = []  # the prompt before
        self._n_batch = llama_cpp.llama_n_batch(self._context)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def generate(
        self,
        prompt: Sequence[int],
        n: int,
        sampling: SamplingParams = GREEDY,
        on_first: Callable[[], object] | None = None,
    ) -> PlainRun:
        """At most `n` tokens after the prompt, which is evaluated unless it is that of the call before. `on_first` is
        called once the first token is there.

        Raises DecodeError."""
        sampler = sampler_chain(sampling, self._forbidden, llama_cpp.llama_vocab_n_tokens(self._vocab))
        try:
            return self._generate(prompt, n, sampler, on_first)
        finally:
            llama_cpp.llama_sampler_free(sampler)

    def _generate(self, prompt: Sequence[int], n: int, sampler: Any, on_first: Callable[[], object] | None) -> PlainRun:
        started = time.perf_counter_ns()
        is_new = self._evaluate(prompt)
        tokens = [self._next(prompt[-1], sampler)]
        prompt_ns = time.perf_counter_ns() - started
        if on_first is not None:
            on_first()
        while len(tokens) < n and not llama_cpp.llama_vocab_is_eog(self._vocab, tokens[-1]):
            tokens.append(self._next(tokens[-1], sampler))
        gen_ns = time.perf_counter_ns() - started - prompt_ns
        return PlainRun(tokens, gen_ns, prompt_ns if is_new else 0)

    def _next(self, token: int, sampler: Any) -> int:
        self._decode([token])
        return int(llama_cpp.llama_sampler_sample(sampler, self._context, -1))

    def _evaluate(self, prompt: Sequence[int]) -> bool:
        """All but the last token. False where they are in the cache."""
        memory = llama_cpp.llama_get_memory(self._context)
        known = self._in_cache == list(prompt)
        if known and llama_cpp.llama_memory_seq_rm(memory, 0, len(prompt) - 1, -1):
            return False
        self._in_cache = []
        llama_cpp.llama_memory_clear(memory, True)
        for begin in range(0, len(prompt) - 1, self._n_batch):
            self._decode(prompt[begin : min(begin + self._n_batch, len(prompt) - 1)])
        self._in_cache = list(prompt)
        return True

    def _decode(self, tokens: Sequence[int]) -> None:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        status = llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(array, len(tokens)))
        if status:
            raise DecodeError(f"llama.cpp failed a pass of {len(tokens)} tokens with status {status}")


def sampler_chain(sampling: SamplingParams, forbidden: Sequence[int], n_vocab: int) -> Any:
    """llama.cpp's own samplers, in its own order, as maskprobe has them too; to be freed by the caller. Penalties, a
    grammar and biases are not offered. Tokens of `forbidden` are never drawn."""
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())

    def add(link: Any) -> None:
        llama_cpp.llama_sampler_chain_add(chain, link)

    if forbidden:
        biases = (llama_cpp.llama_logit_bias * len(forbidden))()
        for bias, token in zip(biases, forbidden, strict=True):
            bias.token, bias.bias = token, -math.inf
        add(llama_cpp.llama_sampler_init_logit_bias(n_vocab, len(forbidden), biases))
    if sampling.temp == 0.0:
        add(llama_cpp.llama_sampler_init_greedy())
        return chain
    if sampling.top_k > 0:
        add(llama_cpp.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1.0:
        add(llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0.0:
        add(llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1))
    add(llama_cpp.llama_sampler_init_temp(sampling.temp))
    add(llama_cpp.llama_sampler_init_dist(sampling.seed))
    return chain

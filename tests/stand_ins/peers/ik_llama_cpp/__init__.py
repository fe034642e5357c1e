"""Stands in for ik-llama-cpp-python: its names, as far as bench_peer_worker.py uses them."""

import greedy

from . import _ctypes_api


class Model:
    def __init__(self, n_vocab):
        self.n_vocab = n_vocab


class Context:
    def __init__(self, llama):
        self._llama = llama

    def get_logits(self, index):
        return self._llama._ctx.get_logits_ith(index)

    def sample(self, index, *, temperature=0.0):
        assert (index, temperature) == (-1, 0.0)
        return greedy.draw(self._llama)


class IkLlama:
    def __init__(self, path, *, n_ctx, n_threads, use_mmap, flash_attn, verbose):
        assert use_mmap != _ctypes_api.llama_model_default_params().repack_tensors
        self._llama = greedy.opened(path, n_ctx, n_threads)
        self._model, self._context = Model(self._llama.n_vocab()), Context(self._llama)

    def generate(self, tokens, *, max_tokens, temperature):
        print("a line that is no answer")
        self._llama.reset()
        self._llama.eval(tokens)
        for _ in range(max_tokens):
            token = self._context.sample(-1, temperature=temperature)
            if token == self._llama.token_eos():
                break
            self._llama.eval([token])

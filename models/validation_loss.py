"""Measures a GGUF's loss on the held-out standard library files with llama.cpp's own tokenizer and arithmetic.

Usage: python models/validation_loss.py models/maskprobe-py-10m-q8_0.gguf
"""

from __future__ import annotations

import argparse
import ctypes
import math

import llama_cpp
import numpy as np

from stdlib_text import is_validation, standard_library_files

WINDOW = 1024


class Model:
    def __init__(self, path: str):
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"{path} does not load")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = WINDOW
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(WINDOW, 0, 1)

    def tokenize(self, text: str) -> np.ndarray:
        """The text's tokens after the begin token, which also separates files."""
        data = text.encode()
        tokens = (llama_cpp.llama_token * (len(data) + 1))()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), tokens, len(tokens), True, False)
        return np.array(tokens[:count])

    def losses(self, window: np.ndarray) -> np.ndarray:
        """Negative log-likelihood of each token of the window but its first."""
        inputs, targets = window[:-1], window[1:]
        for position, token in enumerate(inputs):
            self.batch.token[position] = int(token)
            self.batch.pos[position] = position
            self.batch.n_seq_id[position] = 1
            self.batch.seq_id[position][0] = 0
            self.batch.logits[position] = 1
        self.batch.n_tokens = len(inputs)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("decoding failed")
        rows = np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.context), (len(inputs), self.vocab_size))
        rows = rows.astype(np.float64)
        top = rows.max(axis=1, keepdims=True)
        normaliser = top[:, 0] + np.log(np.exp(rows - top).sum(axis=1))
        return normaliser - rows[np.arange(len(inputs)), targets]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf")
    parser.add_argument("--windows", type=int, help=f"only the first windows of {WINDOW} tokens")
    arguments = parser.parse_args()

    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    model = Model(arguments.gguf)
    texts = [text for name, text in standard_library_files().items() if is_validation(name)]
    stream = np.concatenate([model.tokenize(text) for text in texts])
    bytes_per_token = sum(len(text.encode()) for text in texts) / len(stream)
    starts = range(0, len(stream) - WINDOW, WINDOW)[: arguments.windows]
    loss = np.mean([model.losses(stream[start : start + WINDOW + 1]).mean() for start in starts])
    print(f"{len(starts)} windows of {WINDOW} tokens, {len(texts)} files, {bytes_per_token:.2f} bytes per token")
    print(f"{loss:.4f} nats per token, {loss / math.log(2) / bytes_per_token:.4f} bits per byte")


if __name__ == "__main__":
    main()

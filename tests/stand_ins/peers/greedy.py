"""What the stand-ins of peers share: a text decoded plainly with llama-cpp-python."""

import llama_cpp


def opened(path: str, n_ctx: int, n_threads: int) -> llama_cpp.Llama:
    return llama_cpp.Llama(path, n_ctx=n_ctx, n_threads=n_threads, flash_attn=False, verbose=False)


def draw(llama: llama_cpp.Llama) -> int:
    """The most probable token after what was evaluated last."""
    logits = llama._ctx.get_logits_ith(-1)
    return max(range(llama.n_vocab()), key=lambda token: logits[token])

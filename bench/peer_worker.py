"""A peer in a process of its own: what crashes there is a line in the table and not the end of the benchmark.

    python bench/peer_worker.py KIND SETTINGS

SETTINGS is a JSON object. Each line of standard input is a prompt, {"tokens": [...], "n": 100}; each line of standard
output is an answer, {"tokens": [...], "gen_ns": ..., "n_timed": ..., "passes": ..., "rows": ...}, n_timed of whose
tokens were generated in gen_ns by so many passes and rows. The first line of output is {}: the model is loaded.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Answer = dict[str, Any]
Generate = Callable[[Sequence[int], int], Answer]  # (prompt, n) -> answer


def llama_cpp_python(settings: dict[str, Any]) -> Generate:
    """llama-cpp-python's prompt lookup, as its documentation has it."""
    import llama_cpp
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    class Counted(llama_cpp.Llama):
        passes = rows = 0

        def eval(self, tokens: Sequence[int]) -> None:
            self.passes += 1
            self.rows += len(tokens)
            super().eval(tokens)

    lookup = {} if settings["draft"] is None else {"num_pred_tokens": settings["draft"]}
    llama = Counted(
        settings["model"],
        n_ctx=settings["n_ctx"],
        n_threads=settings["n_threads"],
        n_threads_batch=settings["n_threads"],
        flash_attn=False,
        draft_model=LlamaPromptLookupDecoding(**lookup),
        verbose=False,
    )

    def generate(prompt: Sequence[int], n: int) -> Answer:
        tokens: list[int] = []
        started = passes = rows = 0
        llama.reset()
        for token in llama.generate(list(prompt), temp=0.0, repeat_penalty=1.0):
            tokens.append(token)
            if len(tokens) == 1:  # its pass was that of the prompt
                started, passes, rows = time.perf_counter_ns(), llama.passes, llama.rows
            if len(tokens) == n or token in settings["end_tokens"]:
                break
        gen_ns = time.perf_counter_ns() - started
        return {
            "tokens": [int(token) for token in tokens],
            "gen_ns": gen_ns,
            "n_timed": len(tokens) - 1,
            "passes": llama.passes - passes,
            "rows": llama.rows - rows,
        }

    return generate


def transformers(settings: dict[str, Any]) -> Generate:
    """transformers on the weights of the same file, as F32: greedy, with prompt lookup where `draft` is not 0."""
    import torch
    from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

    torch.set_num_threads(settings["n_threads"])
    path = Path(settings["model"])
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    lookup = {"prompt_lookup_num_tokens": settings["draft"]} if settings["draft"] else {}

    class Watch(StoppingCriteria):
        """Asked after every pass; it never stops."""

        def __init__(self) -> None:
            self.seen: list[tuple[int, int]] = []  # time and length of the text after each pass

        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            self.seen.append((time.perf_counter_ns(), input_ids.shape[1]))
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    def generate(prompt: Sequence[int], n: int) -> Answer:
        watch = Watch()
        with torch.inference_mode():
            output = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=n,
                do_sample=False,
                eos_token_id=settings["end_tokens"] or None,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([watch]),
                **lookup,
            )
        (first_ns, first), (last_ns, last) = watch.seen[0], watch.seen[-1]
        return {
            "tokens": output[0, len(prompt) :].tolist(),
            "gen_ns": last_ns - first_ns,
            "n_timed": last - first,
            "passes": len(watch.seen) - 1,
            "rows": None,
        }

    return generate


KINDS: dict[str, Callable[[dict[str, Any]], Generate]] = {
    "llama-cpp-python": llama_cpp_python,
    "transformers": transformers,
}


def main() -> None:
    generate = KINDS[sys.argv[1]](json.loads(sys.argv[2]))
    print("{}", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(generate(request["tokens"], request["n"])), flush=True)


if __name__ == "__main__":
    main()

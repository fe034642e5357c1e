"""A peer in a process of its own: what crashes there is a line in the table and not the end of the benchmark.

    PYTHON bench_peer_worker.py KIND SETTINGS
    PYTHON bench_peer_worker.py packages

PYTHON may be another environment's: nothing of maskprobe is imported. SETTINGS is a JSON object. Each line of standard
input is a prompt, {"tokens": [...], "n": 100}; each line of standard output is an answer, {"tokens": [...], "gen_ns":
..., "n_timed": ..., "passes": ..., "rows": ...}, n_timed of whose tokens were generated in gen_ns by so many passes and
rows. The first line of output is {}: the model is loaded. `packages` answers with what PYTHON has, see packages().
"""

import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Answer = dict[str, Any]
Generate = Callable[[Sequence[int], int], Answer]  # (prompt, n) -> answer

SPEC_TYPE = "COMMON_SPECULATIVE_TYPE_"
NEEDS_A_MODEL = {"draft-simple", "draft-eagle3", "draft-dflash", "draft-dspark"}  # all but one's own file

# Of a prompt in one pass; prompts are not timed. 0.1.5 gives other logits for Q4_1 in passes of 32 rows and more: 2 off
# in 30 on SmolLM2, an end token instead of an answer. Passes of 1 to 31 rows agree.
IK_PROMPT_ROWS = 16


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
        logits_all=True,  # without, its buffer is too small for the rows of a prompt beyond one batch
        draft_model=LlamaPromptLookupDecoding(**lookup),
        verbose=False,
    )

    def generate(prompt: Sequence[int], n: int) -> Answer:
        tokens: list[int] = []
        started = passes = rows = 0
        llama.reset()
        for token in llama.generate(list(prompt), temp=0.0, repeat_penalty=1.0):
            tokens.append(int(token))
            if len(tokens) == 1:  # its pass was that of the prompt
                started, passes, rows = time.perf_counter_ns(), llama.passes, llama.rows
            if len(tokens) == n or token in settings["end_tokens"]:
                break
        gen_ns = time.perf_counter_ns() - started
        return answer(tokens, len(tokens) - 1, gen_ns, llama.passes - passes, llama.rows - rows)

    return generate


def ik_llama_cpp_python(settings: dict[str, Any]) -> Generate:
    """ik-llama-cpp-python's own loop of one pass per token. Its draw goes over the vocabulary in Python; `fast_draw` is
    numpy's argmax in its place. `repack`: weights in its library's interleaved order, which it leaves off by itself."""
    import numpy as np
    from ik_llama_cpp import IkLlama
    from ik_llama_cpp import _ctypes_api as api

    if settings["repack"]:
        default_params = api.llama_model_default_params

        def repacking_params() -> Any:
            params = default_params()
            params.repack_tensors = True
            return params

        api.llama_model_default_params = repacking_params
    llama = IkLlama(
        settings["model"],
        n_ctx=settings["n_ctx"],
        n_threads=settings["n_threads"],
        use_mmap=not settings["repack"],
        flash_attn=False,
        verbose=False,
    )
    context = llama._context
    context._n_ubatch = IK_PROMPT_ROWS
    own_draw, shape = context.sample, (llama._model.n_vocab,)
    seen: list[tuple[int, int]] = []  # each token, and when it was drawn

    def draw(index: int, **sampling: Any) -> int:
        if settings["fast_draw"]:
            token = int(np.ctypeslib.as_array(context.get_logits(index), shape).argmax())
        else:
            token = own_draw(index, **sampling)
        seen.append((time.perf_counter_ns(), token))
        return token

    context.sample = draw

    def generate(prompt: Sequence[int], n: int) -> Answer:
        seen.clear()
        llama.generate(list(prompt), max_tokens=n, temperature=0.0)
        n_timed = len(seen) - 1
        return answer([token for _, token in seen], n_timed, seen[-1][0] - seen[0][0], n_timed, n_timed)

    return generate


def xllamacpp(settings: dict[str, Any]) -> Generate:
    """llama-server in this process with `spec_type`, one slot, by its own clock. Its prompt cache is off: every prompt
    is another one."""
    import xllamacpp as server_of

    params = server_of.CommonParams()
    params.model.path = settings["model"]
    params.n_ctx, params.n_parallel = settings["n_ctx"], 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["n_threads"]
    params.flash_attn_type = server_of.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.verbosity = 0
    name = settings["spec_type"]
    params.speculative.types = [server_of.common_speculative_type[SPEC_TYPE + name.upper().replace("-", "_")]]
    with_size: Any = getattr(params.speculative, name.replace("-", "_"), None)
    if settings["draft"] is not None and hasattr(with_size, "size_m"):
        with_size.size_m = settings["draft"]
    server = server_of.Server(params)

    def generate(prompt: Sequence[int], n: int) -> Answer:
        body = {"prompt": list(prompt), "n_predict": n, "temperature": 0, "cache_prompt": False, "return_tokens": True}
        request = urllib.request.Request(
            f"{server.listening_address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            found = json.load(response)
        times = found["timings"]
        n_timed = times["predicted_n"] - 1  # its first token is the prompt's
        passes = n_timed - times.get("draft_n_accepted", 0)
        return answer(
            found["tokens"], n_timed, round(1e6 * times["predicted_ms"]), passes, passes + times.get("draft_n", 0)
        )

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
        return answer(output[0, len(prompt) :].tolist(), last - first, last_ns - first_ns, len(watch.seen) - 1, None)

    return generate


def answer(tokens: list[int], n_timed: int, gen_ns: int, passes: int, rows: int | None) -> Answer:
    return {"tokens": tokens, "n_timed": n_timed, "gen_ns": gen_ns, "passes": passes, "rows": rows}


KINDS: dict[str, Callable[[dict[str, Any]], Generate]] = {
    "llama-cpp-python": llama_cpp_python,
    "ik-llama-cpp-python": ik_llama_cpp_python,
    "xllamacpp": xllamacpp,
    "transformers": transformers,
}
MODULES = {
    "llama-cpp-python": ["llama_cpp"],
    "ik-llama-cpp-python": ["ik_llama_cpp"],
    "xllamacpp": ["xllamacpp"],
    "transformers": ["torch", "transformers"],
}


def packages() -> dict[str, Any]:
    """Which modules each kind misses here, and the types of speculation that xllamacpp has without a second file."""
    missing = {kind: [name for name in names if find_spec(name) is None] for kind, names in MODULES.items()}
    spec_types: list[str] = []
    if not missing["xllamacpp"]:
        import xllamacpp

        every = [kind.name.removeprefix(SPEC_TYPE) for kind in xllamacpp.common_speculative_type]
        spec_types = [name.lower().replace("_", "-") for name in every if name != "COUNT"]
    return {"missing": missing, "spec_types": [name for name in spec_types if name not in NEEDS_A_MODEL]}


def main() -> None:
    sys.path.pop(0)  # this file's folder: its other modules are not for the peers
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)  # what libraries print is no answer
        if sys.argv[1] == "packages":
            print(json.dumps(packages()), file=output)
            return
        generate = KINDS[sys.argv[1]](json.loads(sys.argv[2]))
        print("{}", file=output, flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            print(json.dumps(generate(request["tokens"], request["n"])), file=output, flush=True)


if __name__ == "__main__":
    main()

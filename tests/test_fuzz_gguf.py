"""Thousands of damaged model files, each opened and run in a worker process: it may refuse them, it must not die.

    MASKPROBE_FUZZ_CASES=50000 MASKPROBE_FUZZ_SEED=7 pytest tests/test_fuzz_gguf.py

As a program this file is the worker: it reads paths, and answers each with one line.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from pathlib import Path

import maskprobe
from fuzz_worker import Worker, confine

CASES = int(os.environ.get("MASKPROBE_FUZZ_CASES", "5000"))
SEED = int(os.environ.get("MASKPROBE_FUZZ_SEED", "1"))
SECONDS = 10  # of the processor that one case may take
ADDRESS_SPACE = 4 << 30  # bytes beyond what the worker starts with
DENSE = ["tiny-llama", "tiny-gpt2", "tiny-qwen3", "tiny-gemma3", "tiny-granite", "tiny-mamba"]
SHAPES = [*DENSE, "tiny-qwen3moe", "tiny-gpt-oss"]
SMALLER = {"vocab": 320, "width": 32, "ffn": 32, "context": 128}


def run_model(path: str) -> None:
    with maskprobe.Model(path) as model:
        info = model.info
        tokens = [token for token in model.tokenize("Hello w\u00f6rld 1\n") if token >= 0]
        model.detokenize(range(min(info.n_vocab, 400)))
        with maskprobe.Session(model, n_ctx=64, n_rows_max=8, n_threads=1) as session:
            room = min(session.n_ctx, info.n_ctx_train) - 2
            session.set_prefix((tokens + [token % info.n_vocab for token in range(12)])[: max(room, 0)])
            for _ in range(2):
                tree = maskprobe.TokenTree(1 % info.n_vocab)
                if info.can_tree:
                    tree.add(0, 2 % info.n_vocab, -1.0)
                session.decode(tree, n_top=1)
                session.commit([0])


def work() -> None:
    confine(ADDRESS_SPACE)
    for line in sys.stdin:
        try:
            run_model(line.rstrip("\n"))
            answer = "ran"
        except maskprobe.Error as error:
            answer = error.status if "\n" not in str(error) else "more than one line"
        print(answer, flush=True)


def sound_files(folder: Path) -> dict[str, bytes]:
    from bad_files import tiny_llama
    from bad_layers import tiny_moe
    from random_gguf import write_random_gguf

    files = {"spm-llama": tiny_llama().pack(), "spm-moe": tiny_moe().pack()}
    for shape in SHAPES:
        heads = {} if shape == "tiny-mamba" else {"heads": 2, "kv_heads": 2 if shape == "tiny-gpt2" else 1}
        path = folder / f"{shape}.gguf"
        write_random_gguf(path, shape, **SMALLER, **heads)
        files[shape] = path.read_bytes()
    return files


def test_damaged_files_never_kill_the_process(tmp_path: Path) -> None:
    from gguf_mutations import Mutator

    files = sound_files(tmp_path)
    path = tmp_path / "case.gguf"
    worker = Worker(tmp_path / "worker.txt", SECONDS, __file__)
    answers: Counter[str] = Counter()
    deaths = []
    for name, data in files.items():
        path.write_bytes(data)
        assert worker.answer(path) == "ran", name
    for case in range(CASES):
        rng = random.Random(f"{SEED}-{case}")
        name = rng.choice(sorted(files))
        path.write_bytes(Mutator(rng, list(files.values())).mutate(files[name]))
        answer = worker.answer(path)
        answers[answer] += 1
        if answer not in ("ran", "format", "unsupported", "file", "memory", "decode", "numeric", "context full"):
            kept = path.rename(tmp_path / f"death-{SEED}-{case}.gguf")
            deaths.append(f"seed {SEED}, case {case}, {name}: {answer}, see {kept}")
    worker.stop()
    print(f"{CASES} cases: {dict(answers)}")
    assert not deaths, "\n".join(deaths[:20])
    if CASES >= 1000:  # the damage must reach both sides of the check
        assert answers["ran"] > CASES // 50 and answers["format"] > CASES // 10


if __name__ == "__main__":
    work()

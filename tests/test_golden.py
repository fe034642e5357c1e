"""Byte-exact goldens: greedy tokens that never change, from plain decoding, probing and llama-cpp-python alike.

`python tests/test_golden.py` writes tests/golden.json anew, from llama-cpp-python's own decoding. Prompts are chosen so
that the two best tokens are never close: rounding on another processor must not change the golden.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conftest import EXACT, N_THREADS
from maskprobe import Engine, MaskProbe, Model, SamplingParams, bundled_models, mask_embedding

GOLDEN = Path(__file__).parent / "golden.json"
N_GEN = 48
N_CTX = 256
GREEDY = SamplingParams(temp=0.0)
N_CASES = 4
WORDS = [
    "one two three",
    "the cat",
    "abc",
    "In the year",
    "x = 1",
    "A long time ago",
    "to be or not",
    "0 1 2 3",
    "yes",
    "zebra",
]
CODE = [
    "def fibonacci(n):\n",
    "import os\nimport sys\n\ndef main():\n",
    "class TestCase(unittest.TestCase):\n    def test_",
    "for i in range(",
    "if __name__ == ",
    "try:\n    import ",
    "    def __init__(self, ",
    "with open(path) as ",
    "raise ValueError(",
]
PROMPTS = {"tiny-llama": WORDS, "tiny-gpt2": WORDS, "tiny-qwen3": WORDS, "bundled": CODE}
# What rounding cannot move: far above that of F32 sums, of the half-precision GELU table, of 8-bit activations.
SMALLEST_MARGIN = {"tiny-llama": 0.004, "tiny-gpt2": 0.02, "tiny-qwen3": 0.004, "bundled": 0.1}


def reference_tokens(path: Path, prompt: list[int]) -> list[int]:
    """llama-cpp-python's own greedy decoding, flash attention off, F32 cache."""
    import llama_cpp

    llama = llama_cpp.Llama(
        str(path), n_ctx=N_CTX, n_threads=N_THREADS, verbose=False, flash_attn=False, type_k=0, type_v=0
    )
    tokens = []
    for token in llama.generate(prompt, temp=0.0, repeat_penalty=1.0):
        tokens.append(int(token))
        if len(tokens) == N_GEN:
            break
    llama.close()
    return tokens


def model_path(name: str, tiny_model_path) -> Path:
    return next(iter(bundled_models().values())) if name == "bundled" else tiny_model_path(name)


def generate(engine: Engine, prompt: list[int], proposer) -> list:
    return list(engine.generate(prompt, GREEDY, max_tokens=N_GEN, ignore_eos=True, proposer=proposer))


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads(GOLDEN.read_text("utf-8"))


@pytest.mark.parametrize("name", list(PROMPTS))
def test_greedy_tokens_are_the_golden_ones(name, golden, tiny_model_path):
    model = Model(model_path(name, tiny_model_path))
    proposers = [
        "none",
        "all",
        "lookahead",
        MaskProbe(model, tree="14"),
        MaskProbe(model, tree="7,2"),
        MaskProbe(model, tree="dynamic", rows=30),
        MaskProbe(model, tree="14", mask_children=2),
        MaskProbe(model, tree="4", mask=mask_embedding("soft", model)),
    ]
    assert golden[name]
    engine = Engine(model, n_ctx=N_CTX, **EXACT)
    for case in golden[name]:
        assert model.tokenize(case["prompt"]) == case["prompt_tokens"]
        for proposer in proposers:
            results = generate(engine, case["prompt_tokens"], proposer)
            assert [r.token for r in results] == case["tokens"]


@pytest.mark.parametrize("name", list(PROMPTS))
def test_llama_cpp_python_gives_the_golden_tokens(name, golden, tiny_model_path):
    path = model_path(name, tiny_model_path)
    for case in golden[name]:
        assert reference_tokens(path, case["prompt_tokens"]) == case["tokens"]


def write_goldens() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
    from random_gguf import write_random_gguf

    with tempfile.TemporaryDirectory() as folder:

        def made(shape: str) -> Path:
            return write_random_gguf(Path(folder) / f"{shape}.gguf", shape)

        goldens = {}
        for name, prompts in PROMPTS.items():
            path = model_path(name, made)
            model = Model(path)
            engine = Engine(model, n_ctx=N_CTX, **EXACT)
            goldens[name] = []
            for prompt in prompts:
                tokens = model.tokenize(prompt)
                expected = reference_tokens(path, tokens)
                results = generate(engine, tokens, "none")
                margin = min(r.margin for r in results)
                same = [r.token for r in results] == expected
                print(f"{name}: {prompt!r}: margin {margin:.3f}, {'same' if same else 'NOT THE SAME'}")
                if margin >= SMALLEST_MARGIN[name] and same and len(goldens[name]) < N_CASES:
                    goldens[name].append({"prompt": prompt, "prompt_tokens": tokens, "tokens": expected})
    lines = json.dumps(goldens, indent=1).replace(",\n    ", ", ").replace("[\n    ", "[").replace("\n   ]", "]")
    GOLDEN.write_text(lines + "\n", "utf-8")


if __name__ == "__main__":
    write_goldens()

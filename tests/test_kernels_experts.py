"""Products of mixtures by tests/kernels_experts.cpp, and tiny mixtures from the file to the tokens."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import maskprobe
from fakes import Oracle
from maskprobe import Engine, Model, SamplingParams, Session, TokenTree

PROJECT = Path(__file__).parent.parent
MODULE = Path(maskprobe.prefix(), "lib", "libggml-maskprobe.so")
SETS = ["portable", "avx2", "avx-vnni", "avx512-vnni", "neon", "neon-dotprod", "neon-i8mm"]
N_GEN = 40
N_VOCAB = 512

WIDE = {"width": 256, "heads": 8, "head_dim": 32, "ffn": 512, "expert_ffn": 256}  # a block of Q4_K is 256 weights
TINY = {
    "qwen3moe f32": ("tiny-qwen3moe", "f32", {}),
    "qwen3moe f16": ("tiny-qwen3moe", "f16", {}),
    "qwen3moe q4_0": ("tiny-qwen3moe", "q4_0", {}),
    "qwen3moe q3_k": ("tiny-qwen3moe", "q3_k", WIDE),
    "qwen3moe q4_k": ("tiny-qwen3moe", "q4_k", WIDE),
    "qwen3moe f16, 45 wide": ("tiny-qwen3moe", "f16", {"expert_ffn": 45}),
    "gpt-oss f16": ("tiny-gpt-oss", "f16", {}),
    "gpt-oss q8_0": ("tiny-gpt-oss", "q8_0", {}),
    "gpt-oss mxfp4": ("tiny-gpt-oss", "mxfp4", {}),
}


# --- products --------------------------------------------------------------------------------------------------------


def compiler():
    for command in (os.environ.get("CXX"), "c++", "g++"):
        if command and shutil.which(shlex.split(command)[0]):
            return shlex.split(command)
    pytest.skip("no C++ compiler")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    package = Path(importlib.util.find_spec("llama_cpp").origin).parent
    include, lib = package.parent / "include", package / "lib"
    if not (include / "ggml.h").is_file():
        pytest.skip("llama-cpp-python was installed without headers")
    source, target = PROJECT / "tests" / "kernels_experts.cpp", tmp_path_factory.mktemp("program") / "kernels_experts"
    command = [*compiler(), "-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{include}", str(source)]
    command += [f"-L{lib}", "-lggml", "-lggml-base", f"-Wl,-rpath,{lib}", f"-Wl,-rpath-link,{lib}", "-o", str(target)]
    compiled = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert compiled.returncode == 0, compiled.stderr
    return target


@pytest.mark.skipif(sys.platform != "linux", reason="libraries have other names here")
@pytest.mark.parametrize("instruction_set", SETS)
def test_stacks_of_matrices(program, instruction_set):
    environment = {**os.environ, "MASKPROBE_ISA": instruction_set}
    tested = subprocess.run([program, MODULE], env=environment, capture_output=True, text=True, timeout=300)
    if "which this processor has no kernels for" in tested.stderr:
        pytest.skip(f"this processor has no {instruction_set}")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert tested.stdout.lower().startswith(instruction_set)


# --- whole models ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=TINY)
def path(request, tiny_model_path):
    shape, weight_type, sizes = TINY[request.param]
    return tiny_model_path(shape, weight_type=weight_type, **sizes)


class Adversary(Oracle):
    """Knows the whole text, and offers tokens that do not come next."""

    n_rows_max = 24

    def __init__(self, text) -> None:
        self.text = text

    def propose(self, context, room):
        tree = TokenTree(context[-1])
        for i in range(1, min(self.n_rows_max, room)):
            token = (self.text[len(context)] + 7 * i) % N_VOCAB if len(context) < len(self.text) else i
            tree.add(i // 2, token, 0.0)
        return tree


def open_session(model, n_threads=1, **settings):
    return Session(model, n_ctx=256, n_rows_max=64, n_threads=n_threads, **settings)


def arbitrary_tokens(n):
    return [(37 * i + 11) % N_VOCAB for i in range(n)]


def wide_tree(n_rows):
    """A root with candidates that go on in chains of three."""
    tree = TokenTree(8)
    for i in range(1, n_rows):
        tree.add(i - 1 if i % 3 else 0, 10 + i, 0.0)
    return tree


def rows_of_one_pass(session, tree, prompt):
    session.set_prefix(prompt)
    session.decode(tree, 2)
    return [session.logits(row) for row in range(tree.n_rows)]


def test_logits_are_those_of_llama_cpp(path):
    """Where no row stands between two experts; a router's near tie may go the other way, and the row with it."""
    prompt = arbitrary_tokens(50)  # longer than the window of gpt-oss
    stock, ours = (
        rows_of_one_pass(open_session(Model(path, kernels=kernels, n_threads=1)), wide_tree(9), prompt)
        for kernels in ("stock", "ours")
    )
    differences = [np.abs(a - b).max() / a.std() for a, b in zip(stock, ours, strict=True)]
    assert np.median(differences) < 0.2 and not all(np.array_equal(a, b) for a, b in zip(stock, ours, strict=True))


def test_a_row_is_the_same_in_any_pass(path):
    """Bit for bit: with other rows, other threads, and a prompt in other pieces."""
    model = Model(path, kernels="ours", n_threads=1)
    session, prompt = open_session(model), arbitrary_tokens(50)
    alone = rows_of_one_pass(session, wide_tree(1), prompt)[0]
    widest = rows_of_one_pass(session, wide_tree(41), prompt)
    np.testing.assert_array_equal(widest[0], alone)
    for n_rows in (2, 3, 8, 17, 33):
        np.testing.assert_array_equal(rows_of_one_pass(session, wide_tree(n_rows), prompt), widest[:n_rows])
    for other in (open_session(model, n_threads=3), open_session(model, n_ubatch=64, n_threads_batch=2)):
        np.testing.assert_array_equal(rows_of_one_pass(other, wide_tree(17), prompt), widest[:17])
    pieces = Session(model, n_ctx=256, n_ubatch=7, n_rows_max=4, n_threads=1)
    np.testing.assert_array_equal(rows_of_one_pass(pieces, wide_tree(3), prompt), widest[:3])


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_drafted_tokens_are_those_of_plain_decoding(path, temperature):
    sampling = SamplingParams(temp=temperature, seed=7)
    model = Model(path, kernels="ours", n_threads=1)
    assert model.info.n_vocab == N_VOCAB
    engine, prompt = Engine(model, n_ctx=256, n_threads=1), arbitrary_tokens(23)

    def generate(proposer):
        generation = engine.generate(prompt, sampling, max_tokens=N_GEN, ignore_eos=True, proposer=proposer)
        results = list(generation)
        return [r.token for r in results], [r.margin for r in results], generation.stats

    tokens, margins, _ = generate("none")
    text = prompt + tokens
    for proposer, passes in (
        (Oracle(text, 7), (N_GEN - 1 + 7) // 8),
        (Adversary(text), N_GEN - 1),
        ("all", None),
    ):
        drafted, drafted_margins, stats = generate(proposer)
        assert drafted == tokens
        # A sum over the cells in another order may round its last bit differently, once in about 10^8 times.
        np.testing.assert_allclose(drafted_margins, margins, rtol=0, atol=1e-5)
        assert passes is None or stats.passes == passes


def test_every_product_is_ours_and_counted(tiny_model_path):
    """Routers too: two layers, of each four matrices of the attention, a router and three stacks of experts."""
    model = Model(tiny_model_path("tiny-qwen3moe", weight_type="q8_0"), kernels="ours", n_threads=1)
    session = open_session(model)
    rows_of_one_pass(session, wide_tree(1), [])
    parts = session.parts()
    assert parts["f32"].n_ops == 2 and parts["q8_0"].n_ops == 2 * (4 + 3)
    attention = 64 * (4 + 2 + 2) * 32 + 4 * 32 * 64
    assert parts["q8_0"].macs == 2 * (attention + 2 * 3 * 64 * 64)  # two of eight experts
    assert parts["q8_0"].bytes == 2 * (attention + 2 * 3 * 64 * 64) * 34 // 32
    assert model.info.packed_size > 0.99 * model.info.size

"""LoRA adapters: their effect against merged weights, batch invariance with our kernels, and bad ones."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bad_files import f32, text
from conftest import N_THREADS
from gguf_bytes import ARRAY, TENSOR_F16, TENSOR_F32, TENSOR_Q4_0, U32, File, Tensor, Value, tensor_size
from gguf_mutations import Mutator
from maskprobe import ArgumentError, Engine, Model, ModelError, SamplingParams, Session, TokenTree
from maskprobe.cli import run

RANK = 4
ALPHA = 8.0
PROMPT = [5, 9, 20, 7, 31, 44]
N_FUZZ = 300
KINDS = {TENSOR_F32: np.float32, TENSOR_F16: np.float16}


def adapter_of(path, *, rank=RANK, kind=TENSOR_F32, seed=1, arch="llama"):
    """A random adapter of all matrices in the layers of a model."""
    file = File()
    file.set("general.type", text("adapter"))
    file.set("general.architecture", text(arch))
    file.set("adapter.type", text("lora"))
    file.set("adapter.lora.alpha", f32(ALPHA))
    draw = np.random.default_rng(seed)
    for tensor in File.parse(path.read_bytes()).tensors:
        if tensor.name.startswith(b"blk.") and len(tensor.dims) >= 2:
            n_in, n_out, *stack = tensor.dims
            for end, dims in ((b".lora_a", [n_in, rank]), (b".lora_b", [rank, n_out])):
                values = draw.normal(0, 0.2, [*stack, *dims[::-1]]).astype(KINDS[kind])
                file.tensors.append(Tensor(tensor.name + end, [*dims, *stack], kind, values.tobytes()))
    assert file.tensors
    return file


def write(folder, file, name="adapter.gguf"):
    path = folder / name
    path.write_bytes(file.pack())
    return path


def matrix(tensor):
    return np.frombuffer(tensor.data, KINDS[tensor.type]).reshape(tensor.dims[::-1]).astype(np.float32)


def merged(path, adapter, scale):
    """The model's file with the adapter added to its weights."""
    file = File.parse(path.read_bytes())
    names = {tensor.name for tensor in adapter.tensors}
    for tensor in file.tensors:
        if tensor.name + b".lora_a" in names:
            name = tensor.name.decode()
            a, b = (matrix(adapter.tensor(f"{name}.lora_{end}")) for end in "ab")
            tensor.data = (matrix(tensor) + scale * ALPHA / RANK * (b @ a)).astype(np.float32).tobytes()
    return file


def logits_of(model, n_rows=1, n_threads=N_THREADS):
    """Those of the root, with some candidates beside it."""
    tree = TokenTree(8)
    for i in range(n_rows - 1):
        tree.add(0, 10 + i, 0.0)
    with Session(model, n_ctx=256, n_rows_max=64, n_threads=n_threads) as session:
        session.set_prefix(PROMPT)
        session.decode(tree, 2)
        return session.logits(0)


@pytest.mark.parametrize("kernels", ["ours", "stock"])
@pytest.mark.parametrize("scale", [1.0, 0.5, -0.25])
def test_an_adapter_is_a_change_of_the_weights(tiny_model_path, tmp_path, kernels, scale):
    path = tiny_model_path("tiny-llama")
    adapter = adapter_of(path)
    settings = {"kernels": kernels, "n_threads": N_THREADS}
    expected = logits_of(Model(write(tmp_path, merged(path, adapter, scale), "merged.gguf"), **settings))
    adapted = logits_of(Model(path, loras=[(write(tmp_path, adapter), scale)], **settings))
    plain = logits_of(Model(path, **settings))
    assert np.abs(adapted - expected).max() < 1e-3 * expected.std()
    assert np.abs(adapted - plain).max() > 0.1 * expected.std()


@pytest.mark.parametrize("kernels", ["ours", "stock"])
def test_adapters_add_up(tiny_model_path, tmp_path, kernels):
    path = tiny_model_path("tiny-llama")
    first, second = adapter_of(path), adapter_of(path, seed=2, rank=3)
    first_path, second_path = write(tmp_path, first), write(tmp_path, second, "second.gguf")
    settings = {"kernels": kernels, "n_threads": N_THREADS}
    on_merged = Model(write(tmp_path, merged(path, first, 1.0), "merged.gguf"), loras=[(second_path, 0.5)], **settings)
    both = Model(path, loras=[first_path, (second_path, 0.5)], **settings)
    assert both.loras == ((first_path, 1.0), (second_path, 0.5))
    expected = logits_of(on_merged)
    assert np.abs(logits_of(both) - expected).max() < 1e-3 * expected.std()


def test_an_adapter_of_the_token_embeddings(tiny_model_path, tmp_path):
    """Rows are looked up in its first matrix. Embedding rows do not pass there, so mask vectors would be others."""
    path = tiny_model_path("tiny-llama", tied_head=False)
    file = File.parse(path.read_bytes())
    adapter = adapter_of(path)
    table, draw = file.tensor("token_embd.weight"), np.random.default_rng(3)
    a = draw.normal(0, 0.2, [table.dims[1], RANK]).astype(np.float32)
    b = draw.normal(0, 0.2, [table.dims[0], RANK]).astype(np.float32)
    adapter.tensors = [
        Tensor(table.name + b".lora_a", [RANK, table.dims[1]], TENSOR_F32, a.tobytes()),
        Tensor(table.name + b".lora_b", [RANK, table.dims[0]], TENSOR_F32, b.tobytes()),
    ]
    table.data = (matrix(table) + ALPHA / RANK * (a @ b.T)).astype(np.float32).tobytes()
    settings = {"kernels": "ours", "n_threads": N_THREADS}
    model = Model(path, loras=[write(tmp_path, adapter)], **settings)
    assert not model.info.can_probe and "an adapter changes token_embd.weight" in model.info.note
    expected = logits_of(Model(write(tmp_path, file, "merged.gguf"), **settings))
    assert np.abs(logits_of(model) - expected).max() < 1e-3 * expected.std()


def test_scale_zero_is_no_adapter(tiny_model_path, tmp_path):
    path = tiny_model_path("tiny-llama", weight_type="q8_0")
    settings = {"kernels": "ours", "n_threads": N_THREADS}
    with_it = Model(path, loras=[(write(tmp_path, adapter_of(path)), 0.0)], **settings)
    np.testing.assert_array_equal(logits_of(with_it), logits_of(Model(path, **settings)))


@pytest.mark.parametrize("kind", [TENSOR_F32, TENSOR_F16], ids=["f32", "f16"])
@pytest.mark.parametrize("rank", [1, RANK, 32])
@pytest.mark.parametrize("shape", ["tiny-llama", "tiny-qwen3", "tiny-qwen3moe"])
def test_a_row_is_the_same_in_any_pass(tiny_model_path, tmp_path, shape, rank, kind):
    path = tiny_model_path(shape, weight_type="q8_0")
    adapter = write(tmp_path, adapter_of(path, rank=rank, kind=kind, arch=shape.removeprefix("tiny-")))
    settings = {"kernels": "ours", "n_threads": N_THREADS}
    model, plain = Model(path, loras=[(adapter, 0.25)], **settings), Model(path, **settings)
    assert model.info.packed_size > plain.info.packed_size and model.info.note == plain.info.note
    alone = logits_of(model)
    assert np.isfinite(alone).all() and np.abs(alone - logits_of(plain)).max() > 0.01 * alone.std()
    for n_rows, n_threads in ((2, 1), (5, 1), (8, 2), (17, 1), (40, 2)):
        np.testing.assert_array_equal(logits_of(model, n_rows, n_threads), alone)


def test_drafted_is_plain(tiny_model_path, tmp_path):
    path = tiny_model_path("tiny-llama", weight_type="q4_0")
    model = Model(path, loras=[write(tmp_path, adapter_of(path))], kernels="ours", n_threads=N_THREADS)
    texts, accepted = [], []
    with Engine(model, n_ctx=256, rows=8, n_threads=N_THREADS) as engine:
        for proposer in ("none", "recycle", "all"):
            results = engine.generate(
                PROMPT, SamplingParams(temp=0.0), max_tokens=60, ignore_eos=True, proposer=proposer
            )
            texts.append([(r.token, r.margin) for r in results])
            accepted.append(results.stats.n_accepted)
    assert texts[1] == texts[0] and texts[2] == texts[0] and accepted[0] == 0 and accepted[1] > 0


def test_what_was_learned_is_kept_apart(tiny_model_path, tmp_path):
    """A model with adapters is another one; the same adapter under another name is not."""
    path = tiny_model_path("tiny-llama")
    one, two = write(tmp_path, adapter_of(path)), write(tmp_path, adapter_of(path, seed=2), "two.gguf")
    copy = write(tmp_path, adapter_of(path), "copy.gguf")

    def states(*loras):
        """How many states there are once this one has been kept."""
        with (
            Model(path, loras=loras, self_check=False) as model,
            Engine(model, n_ctx=256, state="", n_threads=N_THREADS) as engine,
        ):
            list(engine.generate(PROMPT, max_tokens=5))
        return len(list(Path(os.environ["MASKPROBE_STATE_DIR"]).glob("*.state")))

    assert [states(), states(one), states(two), states((one, 0.5)), states(one, two)] == [1, 2, 3, 4, 5]
    assert states(copy) == states((one, 0.0)) == 5


# --- bad ones --------------------------------------------------------------------------------------------------------


def without(name):
    def edit(file):
        file.tensors = [tensor for tensor in file.tensors if tensor.name != name]

    return edit


def renamed(old, new):
    def edit(file):
        file.tensor(old).name = new.encode()

    return edit


def resized(name, dims, kind=TENSOR_F32):
    def edit(file):
        tensor = file.tensor(name)
        tensor.dims, tensor.type = dims, kind
        tensor.data = bytes(tensor_size(dims, kind))

    return edit


Q_A, Q_B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"
BAD = {
    "a model": (lambda file: file.set("general.type", text("model")), "general.type is 'model'"),
    "no type": (lambda file: file.set("general.type", None), "expected 'adapter'"),
    "type is a number": (lambda file: file.set("general.type", Value(U32, 1)), "general.type"),
    "another kind": (lambda file: file.set("adapter.type", text("dora")), "'dora'"),
    "another architecture": (lambda file: file.set("general.architecture", text("gpt2")), "'gpt2'"),
    "alpha is text": (lambda file: file.set("adapter.lora.alpha", text("8")), "adapter.lora.alpha"),
    "alpha is infinite": (lambda file: file.set("adapter.lora.alpha", f32(float("inf"))), "alpha is not finite"),
    "activated": (lambda file: file.set("adapter.alora.invocation_tokens", Value(ARRAY, [1, 2], U32)), "aLoRA"),
    "empty": (lambda file: file.tensors.clear(), "no tensors"),
    "half of a pair": (without(Q_B.encode()), f"'{Q_B}' is missing"),
    "unknown weight": (
        lambda file: [renamed(f"{Q_A[:-1]}{end}", f"blk.9.attn_q.weight.lora_{end}")(file) for end in "ab"],
        "'blk.9.attn_q.weight', which the model does not have",
    ),
    "unknown ending": (renamed(Q_A, "blk.0.attn_q.weight.lora_c"), "names end in .lora_a or .lora_b"),
    "two endings": (renamed(Q_A, "blk.0.attn_q.weight.lora_a.lora_a"), "two endings"),
    "other width": (resized(Q_A, [32, RANK]), "as a matrix of 32 x"),
    "other height": (resized(Q_B, [RANK, 96]), " x 96, the model's has"),
    "other rank": (resized(Q_B, [RANK + 1, 64]), "the ranks 4 and 5"),
    "a stack": (resized(Q_B, [RANK, 64, 2]), "1 and 2 matrices"),
    "no rank": (resized(Q_B, [RANK]), "as a matrix of"),
    "another type": (resized(Q_A, [64, RANK], TENSOR_Q4_0), "has type q4_0"),
    "the tied head": (
        lambda file: [renamed(f"{Q_A[:-1]}{end}", f"token_embd.weight.lora_{end}")(file) for end in "ab"],
        "output matrix as well",
    ),
    "a key twice": (lambda file: file.values.append(file.values[0]), "general.type"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_adapters_are_refused(tiny_model_path, tmp_path, name):
    path = tiny_model_path("tiny-llama")
    edit, words = BAD[name]
    file = adapter_of(path)
    edit(file)
    with pytest.raises(ModelError) as caught:
        Model(path, loras=[write(tmp_path, file)])
    assert "\n" not in str(caught.value) and "adapter.gguf" in str(caught.value) and words in str(caught.value)


def test_what_is_no_file(tiny_model_path, tmp_path):
    path = tiny_model_path("tiny-llama")
    adapter = adapter_of(path).pack()
    for data, words in ((adapter[:-5], "truncated"), (b"GGUF", "truncated"), (b"", "empty"), (b"PK" * 99, "GGUF")):
        (tmp_path / "adapter.gguf").write_bytes(data)
        with pytest.raises(ModelError, match=words):
            Model(path, loras=[tmp_path / "adapter.gguf"])
    with pytest.raises(ModelError, match="nowhere"):
        Model(path, loras=[tmp_path / "nowhere.gguf"])
    with pytest.raises(ModelError, match="directory"):
        Model(path, loras=[tmp_path])
    with pytest.raises(ArgumentError, match="finite"):
        Model(path, loras=[(write(tmp_path, adapter_of(path)), float("nan"))])
    with pytest.raises(ArgumentError, match="NUL"):
        Model(path, loras=["a\0b"])


def test_damaged_adapters_never_kill_the_process(tiny_model_path, tmp_path):
    """Each is loaded and used; the worker is this file."""
    path = tiny_model_path("tiny-llama")
    data = adapter_of(path).pack()
    folder = tmp_path / "cases"
    folder.mkdir()
    (folder / "sound.gguf").write_bytes(data)
    for case in range(N_FUZZ):
        mutated = Mutator(random.Random(f"adapter-{case}"), [data]).mutate(data)
        (folder / f"{case:04d}.gguf").write_bytes(mutated)
    command = [sys.executable, __file__, str(path), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    answers = [line.split(": ", 1) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(answers) == N_FUZZ + 1, (answers[-1:], done.stderr[-2000:])
    statuses = [answer for _, answer in answers]
    assert ["sound.gguf", "ran"] in answers and statuses.count("ran") > 10 and statuses.count("format") > N_FUZZ // 4
    assert set(statuses) <= {"ran", "format", "file", "unsupported", "memory", "numeric"}


def load_damaged(path, folder):
    import maskprobe

    for adapter in sorted(Path(folder).iterdir()):
        try:
            with Model(path, loras=[adapter], kernels="ours", self_check=False, n_threads=1) as model:
                logits_of(model, 3)
            answer = "ran"
        except maskprobe.Error as error:
            answer = error.status if "\n" not in str(error) else "more than one line"
        print(f"{adapter.name}: {answer}", flush=True)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command(tiny_model_path, tmp_path, capfd):
    path = tiny_model_path("tiny-llama")
    adapter = write(tmp_path, adapter_of(path))
    stats = tmp_path / "stats.json"

    def tokens(*options):
        command = ["-m", str(path), "-p", "ab", "-n", "12", "--temp", "0", "-t", "1", "-c", "128", "--ignore-eos"]
        assert run.main([*command, "--stats-json", str(stats), *options]) == 0, capfd.readouterr().err
        return json.loads(stats.read_text())["tokens"]

    plain, whole = tokens(), tokens("--lora", str(adapter))
    assert plain != whole and tokens("--lora", f"{adapter}:0") == plain and tokens("--lora", f"{adapter}:1.0") == whole
    assert tokens("--lora", str(adapter), "--lora", f"{adapter}:-1") == plain
    assert tokens("--lora", str(adapter), "--propose", "none") == whole
    odd = write(tmp_path, adapter_of(path), "a:0")
    assert tokens("--lora", str(odd)) == whole


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        ("FILE:much", 2, "argument --lora: the scale 'much'"),
        ("FILE:nan", 2, "argument --lora: the scale 'nan'"),
        (":1", 2, "argument --lora"),
        ("nowhere.gguf", 1, "nowhere.gguf"),
        ("MODEL", 1, "it is no LoRA adapter"),
    ],
)
def test_the_command_refuses(tiny_model_path, tmp_path, capfd, value, status, words):
    path = tiny_model_path("tiny-llama")
    value = value.replace("FILE", str(write(tmp_path, adapter_of(path)))).replace("MODEL", str(path))
    command = ["-m", str(path), "-p", "ab", "-n", "2", "--lora", value]
    if status == 2:
        with pytest.raises(SystemExit) as stopped:
            run.main(command)
        assert stopped.value.code == 2
    else:
        assert run.main(command) == 1
    error = capfd.readouterr().err
    assert words in error and "Traceback" not in error


if __name__ == "__main__":
    load_damaged(*sys.argv[1:])

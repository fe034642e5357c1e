"""Trained masks: their matrices act on mask rows as in numpy, on no other row by a bit, and never change the output."""

import json

import numpy as np
import pytest

from bad_files import text, u32
from contexts import F32, opened, random_tree, rows_of, text_of
from gguf_bytes import File
from mask_files import NumpyLlama, random_masks, written
from maskprobe import (
    ArgumentError,
    Engine,
    Model,
    ModelError,
    SamplingParams,
    Session,
    StateError,
    TokenTree,
    TrainedMasks,
    mask_embedding,
)
from maskprobe.cli import run
from maskprobe.mtp.mask_file import MaskFile

PREFIX = text_of(30, seed=3)


@pytest.fixture(scope="module")
def path(tiny_model_path):
    return tiny_model_path("tiny-llama")


@pytest.fixture(scope="module")
def model(path):
    return Model(path, kernels="ours", n_threads=1)


@pytest.fixture(scope="module")
def masks(model, path):
    return random_masks(model, path)


@pytest.fixture(scope="module")
def trained(model, masks, tmp_path_factory):
    return TrainedMasks(model, written(tmp_path_factory.mktemp("masks"), masks))


def trees(model, n: int, trained: TrainedMasks | None):
    draw = np.random.default_rng(5)
    for _ in range(n):
        tree = random_tree(draw, int(draw.integers(2, 30)), model.info.n_embd)
        tree.trained = trained
        yield tree


def logits_of(model, tree, prefix=PREFIX, **settings):
    with Session(model, **{"n_ctx": 256, "n_rows_max": 32, **F32, "flash_attn": 1, **settings}) as session:
        session.set_prefix(prefix)
        session.decode(tree, 1)
        return rows_of(session, tree)


def test_mask_rows_are_those_of_numpy(model, path, masks, trained):
    reference = NumpyLlama(path)
    n_masks = 0
    for tree in trees(model, 6, trained):
        expected = reference.logits(PREFIX, tree, dict(masks.pairs))
        np.testing.assert_allclose(logits_of(model, tree), expected, atol=0.02)
        n_masks += tree.n_masks
    assert n_masks > 10


def test_no_bit_of_any_other_row_changes(model, trained):
    n_masks = 0
    for with_pairs, without in zip(trees(model, 10, trained), trees(model, 10, None), strict=True):
        found, plain = logits_of(model, with_pairs), logits_of(model, without)
        nodes = slice(0, with_pairs.n_nodes)
        assert found[nodes].tobytes() == plain[nodes].tobytes()
        for row in range(with_pairs.n_nodes, with_pairs.n_rows):
            assert np.abs(found[row] - plain[row]).max() > 0.01
            n_masks += 1
    assert n_masks > 20


@pytest.mark.parametrize("n_threads", [2, 3])
def test_threads_do_not_change_a_bit(model, trained, n_threads):
    for tree in trees(model, 4, trained):
        assert logits_of(model, tree).tobytes() == logits_of(model, tree, n_threads=n_threads).tobytes()


def test_each_session_of_a_pass_has_its_own(model, path, masks, trained, tmp_path):
    other = TrainedMasks(model, written(tmp_path, random_masks(model, path, rank=5, seed=2)))
    context = opened(model, n_rows_max=64)
    sessions = [context.session() for _ in range(4)]
    prefixes = [text_of(n, seed=n) for n in (4, 9, 17, 25)]
    draw = np.random.default_rng(7)
    made = [random_tree(draw, 14, model.info.n_embd) for _ in sessions]
    for tree, of in zip(made, (trained, None, other, trained), strict=True):
        tree.trained = of
        tree.add_masks(0, draw.normal(0, 0.3, (2, model.info.n_embd)).astype(np.float32))
    for session, prefix in zip(sessions, prefixes, strict=True):
        session.set_prefix(prefix)
    context.decode(list(zip(sessions, made, strict=True)), 1)
    for session, prefix, tree in zip(sessions, prefixes, made, strict=True):
        np.testing.assert_allclose(rows_of(session, tree), logits_of(model, tree, prefix), atol=1e-5)


def test_nothing_is_left_for_later_passes(model, trained):
    tree = next(trees(model, 1, trained))
    tree.add_masks(0, trained.vectors[:1])
    plain = TokenTree(tree.tokens[0])
    plain.add_masks(0, trained.vectors[:1])
    with Session(model, n_ctx=256, n_rows_max=32, flash_attn=1, **F32) as session:
        session.set_prefix(PREFIX)
        session.decode(tree, 1)
        session.rollback()
        session.set_prefix(text_of(20, seed=9))
        session.decode(plain, 1)
        found = rows_of(session, plain)
    assert np.abs(found - logits_of(model, plain, text_of(20, seed=9))).max() < 1e-5


def test_matrices_of_zeros_are_plain_masks(model, path, tmp_path):
    zero = TrainedMasks(model, written(tmp_path, random_masks(model, path, scale=0.0)))
    bare = random_masks(model, path)
    bare.pairs = {}
    none = TrainedMasks(model, written(tmp_path, bare, "bare.gguf"))
    for tree in trees(model, 5, None):
        plain = logits_of(model, tree)
        for tree.trained in (zero, none):
            assert np.array_equal(logits_of(model, tree), plain)


@pytest.mark.parametrize("rank, dtype", [(1, np.float32), (16, np.float16), (33, np.float16), (64, np.float32)])
def test_ranks_and_types(model, path, tmp_path, rank, dtype):
    masks = random_masks(model, path, rank=rank)
    trained = TrainedMasks(model, written(tmp_path, masks, dtype=dtype))
    tree = next(trees(model, 1, trained))
    tree.add_masks(0, trained.vectors)
    np.testing.assert_allclose(
        logits_of(model, tree), NumpyLlama(path).logits(PREFIX, tree, dict(masks.pairs)), atol=0.02
    )


@pytest.mark.parametrize("shape", ["tiny-qwen2", "tiny-qwen3", "tiny-gpt2", "tiny-gemma3"])
def test_other_architectures(tiny_model_path, tmp_path, shape):
    path = tiny_model_path(shape)
    model = Model(path, kernels="ours", n_threads=1)
    trained = TrainedMasks(model, written(tmp_path, random_masks(model, path)))
    for with_pairs, without in zip(trees(model, 3, trained), trees(model, 3, None), strict=True):
        found, plain = logits_of(model, with_pairs), logits_of(model, without)
        assert found[: with_pairs.n_nodes].tobytes() == plain[: with_pairs.n_nodes].tobytes()
        if with_pairs.n_masks:
            assert np.abs(found[with_pairs.n_nodes :] - plain[with_pairs.n_nodes :]).max() > 0.01


# --- the engine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [SamplingParams(temp=0.0), SamplingParams(temp=0.8, seed=4)])
def test_the_output_is_that_of_plain_decoding(model, path, masks, tmp_path, sampling):
    file = written(tmp_path, masks)
    prompts = [text_of(12, seed=seed) for seed in range(3)]
    with Engine(model, n_ctx=256, n_threads=1, proposer="none") as engine:
        expected = [[t.token for t in engine.generate(prompt, sampling, max_tokens=60)] for prompt in prompts]
    with Engine(model, n_ctx=256, n_threads=1, n_parallel=3, rows=8, masks=f"file:{file}") as engine:
        running = [engine.generate(prompt, sampling, max_tokens=60) for prompt in prompts]
        assert [[t.token for t in generation] for generation in running] == expected
        assert sum(generation.stats.n_drafted for generation in running) > 0


@pytest.mark.parametrize("children", ["all", "last"])
def test_the_output_of_linear_and_quadratic_decoding(model, masks, tmp_path, children):
    from maskprobe import MaskProbe

    file = written(tmp_path, masks)
    sampling, prompt = SamplingParams(temp=0.8, seed=4), text_of(12, seed=1)
    with Engine(model, n_ctx=256, n_threads=1, proposer="none") as engine:
        expected = [t.token for t in engine.generate(prompt, sampling, max_tokens=60)]
    source = MaskProbe(model, tree="1,1,1", mask_children=children, mask=mask_embedding(f"file:{file}", model))
    assert source.n_rows_max == (16 if children == "all" else 7)
    with Engine(model, n_ctx=256, n_threads=1, proposer=source, n_rows_max=32) as engine:
        assert [t.token for t in engine.generate(prompt, sampling, max_tokens=60)] == expected


def test_the_command(path, masks, tmp_path, capfd):
    file, stats = written(tmp_path, masks), tmp_path / "stats.json"

    def tokens(*options):
        command = ["-m", str(path), "-p", "ab", "-n", "20", "--temp", "0", "-t", "1", "-c", "128", "--kernels", "ours"]
        assert run.main([*command, "--stats-json", str(stats), *options]) == 0, capfd.readouterr().err
        return json.loads(stats.read_text())["tokens"]

    plain = tokens("--propose", "none")
    assert tokens("--trained-masks", str(file), "--rows", "6") == plain
    esp = ("--propose", "esp", "--tree", "1,1", "--mask-init", f"file:{file}")
    assert tokens(*esp) == tokens(*esp, "--mask-children", "last") == plain
    with pytest.raises(SystemExit):
        tokens(*esp, "--trained-masks", str(file))
    assert "argument --trained-masks: it is for --propose all, not for esp" in capfd.readouterr().err
    assert run.main(["-m", str(path), "-p", "ab", "-t", "1", "--trained-masks", str(path)]) == 1
    assert "it is no file of trained masks" in capfd.readouterr().err


# --- what is refused -------------------------------------------------------------------------------------------------


def set_key(key: str, value):
    return lambda file: file.set(key, value)


def drop(name: str):
    def change(file: File) -> None:
        file.tensors = [tensor for tensor in file.tensors if tensor.name != name.encode()]

    return change


def rename(name: str, new: str):
    def change(file: File) -> None:
        for tensor in file.tensors:
            if tensor.name == name.encode():
                tensor.name = new.encode()

    return change


def rename_pair(name: str, new: str):
    return lambda file: [rename(name + end, new + end)(file) for end in (".lora_a", ".lora_b")]


def poison(name: str, at: int, value: bytes):
    def change(file: File) -> None:
        for tensor in file.tensors:
            if tensor.name == name.encode():
                tensor.data = tensor.data[:at] + value + tensor.data[at + len(value) :]

    return change


def shape(name: str, *dims: int):
    def change(file: File) -> None:
        for tensor in file.tensors:
            if tensor.name == name.encode():
                assert np.prod(dims) == np.prod(tensor.dims)
                tensor.dims = list(dims)

    return change


Q, F32_NAN, F16_INF = "blk.0.attn_q.weight", np.float32("nan").tobytes(), np.float16("inf").tobytes()
BAD = {
    "another kind of file": (set_key("general.architecture", text("llama")), "it is no file of trained masks"),
    "version": (set_key("maskprobe.masks.version", u32(2)), "version 2 of its format, this program reads version 1"),
    "width": (set_key("maskprobe.masks.n_embd", u32(63)), "with 63 values in an embedding, this one has 64"),
    "vocabulary": (set_key("maskprobe.masks.n_vocab", u32(511)), "with 511 tokens, this one has 512"),
    "another model": (
        set_key("maskprobe.masks.model", text("llama\nother")),
        "made for another model: for 'llama other'",
    ),
    "a key of another type": (set_key("maskprobe.masks.n_masks", text("4")), "maskprobe.masks.n_masks"),
    "too many masks": (set_key("maskprobe.masks.n_masks", u32(65)), "n_masks is 65, expected 1 to 64"),
    "other masks": (set_key("maskprobe.masks.n_masks", u32(3)), "4 vectors of 64 values, expected 3 of 64"),
    "no vectors": (drop("mask.embd"), "tensor 'mask.embd' is missing"),
    "half a pair": (drop(f"{Q}.lora_b"), f"tensor '{Q}.lora_b' is missing"),
    "no such weight": (
        rename_pair(Q, "blk.7.attn_q.weight"),
        "it changes 'blk.7.attn_q.weight', which the model does not",
    ),
    "no matrix": (rename("mask.embd", "mask.embed"), "tensor 'mask.embed' is not known in a file of masks"),
    "shape": (shape(f"{Q}.lora_b", 64, 4), "the two matrices of 'blk.0.attn_q.weight'|a matrix of 64 x 4"),
    "NaN in a vector": (poison("mask.embd", 8, F32_NAN), "tensor 'mask.embd' has NaN or infinite values"),
    "infinite matrix": (poison(f"{Q}.lora_a", 2, F16_INF), f"tensor '{Q}.lora_a' has NaN or infinite values"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(model, masks, tmp_path, name):
    change, message = BAD[name]
    file = File.parse(written(tmp_path, masks).read_bytes())
    change(file)
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(file.pack())
    with pytest.raises(ModelError, match=message) as refused:
        TrainedMasks(model, bad)
    assert "\n" not in str(refused.value)
    with pytest.raises(ModelError, match=message):
        Engine(model, n_ctx=64, n_threads=1, masks=f"file:{bad}")


def test_pairs_of_no_matrix_of_a_layer_are_refused(model, path, tmp_path):
    for name in ("output_norm.weight", "token_embd.weight", "blk.0.attn_norm.weight"):
        masks = random_masks(model, path)
        masks.pairs = {name: (np.zeros((2, 64), np.float32), np.zeros((64, 2), np.float32))}
        with pytest.raises(ModelError, match=f"it changes '{name}', which is no matrix of a layer"):
            TrainedMasks(model, written(tmp_path, masks))


def test_truncated_files_are_refused(model, masks, tmp_path):
    whole = written(tmp_path, masks).read_bytes()
    for size in (0, 3, 20, 200, len(whole) // 2, len(whole) - 40):
        part = tmp_path / "part.gguf"
        part.write_bytes(whole[:size])
        with pytest.raises(ModelError) as refused:
            TrainedMasks(model, part)
        assert "\n" not in str(refused.value)


def test_other_models_and_kernels_are_refused(path, masks, tiny_model_path, tmp_path):
    file = written(tmp_path, masks)
    with pytest.raises(ModelError, match="trained masks need maskprobe's kernels"):
        TrainedMasks(Model(path, kernels="stock", n_threads=1), file)
    with pytest.raises(ModelError, match="made for"):
        TrainedMasks(Model(tiny_model_path("tiny-qwen3"), kernels="ours", n_threads=1), file)
    with pytest.raises(ModelError, match="cannot open"):
        TrainedMasks(Model(path, kernels="ours", n_threads=1), tmp_path / "none.gguf")


def test_masks_of_another_opening_or_closed_ones(model, path, masks, tmp_path):
    file = written(tmp_path, masks)
    other = Model(path, kernels="ours", n_threads=1)
    tree = TokenTree(120)
    tree.trained = TrainedMasks(other, file)
    tree.add_masks(0, tree.trained.vectors)
    with Session(model, n_ctx=64, n_rows_max=8, **F32) as session:
        with pytest.raises(ArgumentError, match="opened for another model"):
            session.decode(tree, 1)
        tree.trained.close()
        with pytest.raises(StateError, match="closed"):
            session.decode(tree, 1)


def test_more_masks_than_the_file_has(model, masks, tmp_path):
    mask = mask_embedding(f"file:{written(tmp_path, masks)}", model)
    mask.begin(PREFIX, 4)
    assert mask.vectors([1])[0].shape == (4, model.info.n_embd)
    with pytest.raises(ArgumentError, match="5 masks after a node are too many: the file has 4"):
        mask.begin(PREFIX, 5)


def test_what_the_file_keeps(model, path, tmp_path):
    made = random_masks(model, path)
    found = TrainedMasks(model, written(tmp_path, made))
    assert np.array_equal(found.vectors, made.vectors)
    assert isinstance(made, MaskFile) and not list(tmp_path.glob(".*"))

"""Training of masks: torch computes what the engine computes, many places of a text at once, and learns."""

import json

import gguf
import numpy as np
import pytest

from contexts import F32, rows_of, text_of
from maskprobe import ArgumentError, Model, ModelError, Session, TokenTree, TrainedMasks

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'maskprobe[train]'")

from maskprobe.mtp import train_masks as command  # noqa: E402
from maskprobe.mtp.gguf_weights import FrozenModel  # noqa: E402
from maskprobe.mtp.mask_file import write_masks  # noqa: E402
from maskprobe.mtp.mask_layout import MaskRows, places  # noqa: E402
from maskprobe.mtp.mask_training import MaskSettings, Text, contents_of, measure, train_masks  # noqa: E402
from maskprobe.mtp.masked_model import MaskedModel  # noqa: E402


@pytest.fixture(scope="module")
def paths(tiny_model_path):
    return {arch: tiny_model_path(f"tiny-{arch}") for arch in ("llama", "qwen2", "gpt2")}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def masked_model(path, *, n_masks: int = 3, rank: int = 4, head: bool = False) -> MaskedModel:
    """With matrices that add something."""
    torch.manual_seed(1)
    masked = MaskedModel(FrozenModel(path, torch.float32), n_masks, rank, head=head)
    for _, b in masked.pairs().values():
        b.data.normal_(0, 0.2)
    return masked


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_torch_computes_what_the_engine_computes(paths, tmp_path, arch):
    masked = masked_model(paths[arch])
    model = Model(paths[arch], kernels="ours", n_threads=1)
    write_masks(tmp_path / "masks.gguf", contents_of(masked, model.identity, {}), dtype=np.float32)
    trained = TrainedMasks(model, tmp_path / "masks.gguf")
    tokens = text_of(20, seed=2)
    owners = torch.tensor([3, 4, 11, 19])
    with torch.no_grad():
        beside = masked.text_rows(torch.tensor(tokens))
        rows = MaskRows.after(owners, 3)
        of_text = masked.model.logits(beside.latents).numpy()
        of_masks = masked.model.logits(masked.mask_rows(beside, rows)).numpy().reshape(4, 3, -1)
    for i, owner in enumerate(owners.tolist()):
        tree = TokenTree(tokens[owner])
        tree.trained = trained
        tree.add_masks(0, trained.vectors)
        with Session(model, n_ctx=64, n_rows_max=8, flash_attn=1, **F32) as session:
            session.set_prefix(tokens[:owner])
            session.decode(tree, 1)
            found = rows_of(session, tree)
        np.testing.assert_allclose(found[0], of_text[owner], atol=0.02)
        np.testing.assert_allclose(found[1:], of_masks[i], atol=0.02)
    assert np.abs(of_masks[0] - of_masks[1]).max() > 0.1


def test_who_sees_whom():
    rows = MaskRows.after(torch.tensor([1, 2]), 2)
    assert rows.positions.tolist() == [2, 3, 3, 4] and rows.targets.tolist() == [3, 4, 4, 5]
    assert rows.visible(4).int().tolist() == [
        [1, 1, 0, 0, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 0, 1, 0],
        [1, 1, 1, 0, 0, 0, 1, 1],
    ]


def test_places_have_all_their_tokens():
    generator = torch.Generator().manual_seed(1)
    assert places(5, 12, 3, 99, generator).tolist() == [4, 5, 6, 7]  # the last: masks for 8..10, which name 9..11
    assert len(places(5, 40, 3, 6, generator)) == 6
    assert places(5, 8, 3, 9, generator).tolist() == [] and places(0, 6, 1, 9, generator).tolist() == [0, 1, 2, 3]


def test_no_gradient_reaches_the_model(paths):
    masked = masked_model(paths["llama"], head=True)
    beside = masked.text_rows(torch.tensor(text_of(16, seed=1)))
    assert not beside.latents.requires_grad
    masked.mask_rows(beside, MaskRows.after(torch.tensor([4, 9]), 3)).square().sum().backward()
    assert all(tensor.grad is None for tensor in masked.model._weights.values())
    assert all(a.grad is not None and b.grad is not None for a, b in masked.pairs().values())


def test_a_head_starts_as_nothing(paths):
    masked = masked_model(paths["llama"], head=True)
    latents = torch.randn(5, 64)
    assert torch.equal(masked.head(torch.randn(5, 64), latents), latents)


def repeated(n: int) -> list[Text]:
    """Texts whose tokens come again and again: a mask can know what comes."""
    texts = []
    for seed in range(n):
        pattern = np.random.default_rng(seed % 3).integers(100, 500, 4).tolist()
        texts.append(Text(pattern * 12, 4))
    return texts


@pytest.mark.parametrize("head", [False, True])
def test_training_learns_and_its_file_loads(paths, tmp_path, head):
    texts = repeated(30)
    settings = MaskSettings(n_masks=2, rank=4, head=head, n_steps=60, n_owners=8, n_texts=2, rate=5e-3, seed=1)
    torch.manual_seed(1)
    before = measure(MaskedModel(FrozenModel(paths["llama"]), 2, 4), texts[:4], settings)
    steps = []
    after = train_masks(
        paths["llama"], texts, tmp_path / "masks.gguf", minutes=5, settings=settings, progress=steps.append
    )
    assert len(steps) == 60 and set(steps[-1].losses) == {"base", "consistency", *(["head"] if head else [])}
    assert max(after.loss) < 0.8 * min(before.loss) and len(after.head_top1) == (2 if head else 0)
    model = Model(paths["llama"], kernels="ours", n_threads=1)
    assert TrainedMasks(model, tmp_path / "masks.gguf").vectors.shape == (2, 64)
    fields = gguf.GGUFReader(tmp_path / "masks.gguf").fields
    assert json.loads(fields["maskprobe.masks.training"].contents())["steps"] == 60


def test_what_cannot_be_trained(paths, tmp_path):
    out = tmp_path / "masks.gguf"
    with pytest.raises(ArgumentError, match="is a gpt2 model: masks are trained for llama and qwen2 models"):
        train_masks(paths["gpt2"], repeated(30), out, minutes=1)
    with pytest.raises(ArgumentError, match="0 of 3 texts have answers of more than 9 tokens: at least 8 are needed"):
        train_masks(paths["llama"], [Text([1, 2, 3], 1)] * 3, out, minutes=1)
    with pytest.raises(ModelError):
        train_masks(tmp_path / "none.gguf", repeated(30), out, minutes=1)
    assert not out.exists()


def test_files_of_texts(tmp_path):
    np.savez(tmp_path / "b.npz", tokens=np.arange(7), length=[3, 4], n_prompt=[1, 2])
    np.savez(tmp_path / "a.npz", tokens=np.arange(2), length=[2], n_prompt=[1])
    assert command.read_texts(tmp_path) == [Text([0, 1], 1), Text([0, 1, 2], 1), Text([3, 4, 5, 6], 2)]
    bad = tmp_path / "bad.npz"
    for arrays in ({"tokens": np.arange(7)}, {"tokens": np.arange(7), "length": [3, 5], "n_prompt": [1, 2]}):
        np.savez(bad, **arrays)
        with pytest.raises(ArgumentError, match="is no file of texts"):
            command.read_texts(bad)
    bad.write_bytes(b"PK no zip")
    with pytest.raises(ArgumentError, match="is no file of texts"):
        command.read_texts(bad)

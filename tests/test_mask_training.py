"""Training of masks: torch computes what the engine computes, many places of a text at once, and learns."""

import json

import gguf
import numpy as np
import pytest

from contexts import F32, rows_of, text_of
from maskprobe import ArgumentError, Model, Session, TokenTree, TrainedMasks

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'maskprobe[train]'")

from maskprobe.mtp import gguf_weights, text_store  # noqa: E402
from maskprobe.mtp.gguf_weights import FrozenModel  # noqa: E402
from maskprobe.mtp.mask_file import write_masks  # noqa: E402
from maskprobe.mtp.mask_layout import MaskRows, places  # noqa: E402
from maskprobe.mtp.mask_texts import Text, texts_of  # noqa: E402
from maskprobe.mtp.mask_training import MaskSettings, MaskTraining, contents_of, measure  # noqa: E402
from maskprobe.mtp.masked_model import MaskedModel  # noqa: E402
from maskprobe.mtp.text_store import TextStore  # noqa: E402


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
        texts.append(Text(np.array(pattern * 12, np.int32), 4))
    return texts


def training_of(path, *, head: bool = False, consistency: float = 1.0) -> MaskTraining:
    settings = MaskSettings(n_masks=2, rank=4, head=head, consistency=consistency, n_owners=16, rate=5e-3, seed=1)
    torch.manual_seed(1)
    return MaskTraining(MaskedModel(FrozenModel(path), 2, 4, head=head), repeated(30)[4:], settings)


@pytest.mark.parametrize("head, consistency", [(False, 1.0), (True, 1.0), (False, 0.0)])
def test_training_learns_and_its_file_loads(paths, tmp_path, head, consistency):
    training, held_out = training_of(paths["llama"], head=head, consistency=consistency), repeated(4)
    before = measure(training.masked, held_out, training.settings)
    for step in range(80):
        training.step(step / 80)
    after = measure(training.masked, held_out, training.settings)
    assert set(training.losses) == {"base", *(["consistency"] if consistency else []), *(["head"] if head else [])}
    assert max(after.loss) < 0.8 * min(before.loss) and len(after.head_top1) == (2 if head else 0)
    assert after.n == 4 * 16
    model = Model(paths["llama"], kernels="ours", n_threads=1)
    write_masks(tmp_path / "masks.gguf", contents_of(training.masked, model.identity, {"steps": 80}))
    assert TrainedMasks(model, tmp_path / "masks.gguf").vectors.shape == (2, 64)
    fields = gguf.GGUFReader(tmp_path / "masks.gguf").fields
    assert json.loads(fields["maskprobe.masks.training"].contents()) == {"steps": 80}


def test_what_was_kept_of_a_training_goes_on_as_if_nothing_had_happened(paths, tmp_path):
    whole = training_of(paths["llama"])
    for _ in range(3):
        whole.step(0.5)
    whole.save(tmp_path / "checkpoint.pt")
    again = training_of(paths["llama"])
    again.resume(tmp_path / "checkpoint.pt")
    for training in (whole, again):
        for _ in range(2):
            training.step(0.6)
    assert again.n_steps == whole.n_steps == 5 and again.losses == whole.losses
    for one, other in zip(again.masked.parameters(), whole.masked.parameters(), strict=True):
        assert torch.equal(one, other)


def test_all_texts_come_once_before_one_comes_again(paths):
    training = training_of(paths["llama"])
    n = len(training._texts)
    seen = []
    for training.n_steps in range(2 * n):
        seen.append(id(training._text()))
    assert len(set(seen[:n])) == len(set(seen[n:])) == n and seen[:n] != seen[n:]


def test_texts_are_answers_behind_the_beginning_of_a_conversation(tmp_path):
    store = TextStore(tmp_path / "text", 8)
    lengths = [5, 9, 3, 7]
    store.add([text_with(range(10 * i, 10 * i + n), 8) for i, n in enumerate(lengths)])
    found = [texts_of(store.shards, held_out, [1, 2], 3) for held_out in (True, False)]
    assert [[text.tokens.tolist() for text in part] for part in found] == [
        [[1, 2, *range(5)]],
        [[1, 2, *range(10, 19)], [1, 2, *range(30, 37)]],
    ]
    assert all(text.n_prompt == 2 for part in found for text in part)


def text_with(tokens, n_embd: int) -> text_store.Text:
    n, n_top = len(tokens), text_store.N_TOP
    return text_store.Text(
        tokens=np.array(tokens, np.int32),
        hidden=np.zeros((n, n_embd), np.float16),
        between=np.zeros((n, 0, n_embd), np.float16),
        top=np.zeros((n, n_top), np.int32),
        logprobs=np.zeros((n, n_top), np.float16),
    )


def test_models_that_cannot_be_trained_for(paths, tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match="is a gpt2 model: masks are trained for llama and qwen2 models"):
        FrozenModel(paths["gpt2"])
    with pytest.raises(ArgumentError, match="cannot be read as a GGUF file"):
        FrozenModel(tmp_path / "none.gguf")
    monkeypatch.setattr(gguf_weights, "PARTS", ("ffn_gate_exps",))
    with pytest.raises(ArgumentError, match=r"has no blk\.0\.ffn_gate_exps\.weight: masks are trained"):
        FrozenModel(paths["llama"])

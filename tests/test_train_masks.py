"""maskprobe-train --kind masks: a run learns, says what it is worth, goes on when it was killed, refuses in a line."""

import json
import signal

import gguf
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch (pip install 'maskprobe[train]')")

from maskprobe import ArgumentError, Engine, Error, Model, SamplingParams, TrainedMasks  # noqa: E402
from maskprobe.cli import train  # noqa: E402
from maskprobe.mtp import train_masks, training_run  # noqa: E402
from maskprobe.mtp.gguf_weights import FrozenModel  # noqa: E402
from maskprobe.mtp.mask_texts import beginning_of, texts_of  # noqa: E402
from maskprobe.mtp.mask_training import MaskSettings, measure  # noqa: E402
from maskprobe.mtp.masked_model import MaskedModel  # noqa: E402
from maskprobe.mtp.train_masks import Run, rank_for  # noqa: E402
from maskprobe.mtp.training_run import Settings  # noqa: E402
from training_texts import begun, impatient, quiet, stopped_and_resumed, written  # noqa: E402

N_TOKENS = 5000


@pytest.fixture(scope="module")
def model(bundled_model_path):
    torch.set_num_threads(1)
    with Model(bundled_model_path, kernels="ours", n_threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    """Text that the model wrote."""
    return written(model, tmp_path_factory.mktemp("written") / "text", N_TOKENS)


def test_a_run_writes_masks_that_learned_and_that_change_no_output(model, store, tmp_path):
    out = tmp_path / "masks.gguf"
    begun(model, store, out, 20.0, "masks")
    progress = []
    result = Run(model, out, Settings(20.0, 1), lambda *step: progress.append(step))()
    assert result.n_steps == len(progress) > 2 and result.n_tokens == store.n_tokens
    assert {label for label, _, _ in progress} == {"training"} and progress[-1][1] >= progress[-1][2] == 20.0
    torch.manual_seed(0)
    settings = MaskSettings()
    held_out = texts_of(store.shards, True, beginning_of(model), settings.n_masks)
    untrained = measure(MaskedModel(FrozenModel(model.path), 8, 16), held_out, settings)
    assert sum(result.quality.loss) < 0.9 * sum(untrained.loss)
    fields = gguf.GGUFReader(out).fields
    assert fields["maskprobe.masks.model"].contents() == model.identity
    assert fields["general.name"].contents().startswith("Trained masks for ")
    said = json.loads(fields["maskprobe.masks.training"].contents())
    assert said["steps"] == result.n_steps and said["held_out_places"] == result.quality.n > 0
    assert said["held_out_loss"] == pytest.approx(result.quality.loss, abs=1e-3)
    assert out.stat().st_size < 16e6 and TrainedMasks(model, out).vectors.shape == (8, model.info.n_embd)
    prompt, sampling = model.tokenize("def area("), SamplingParams(temp=0.8, seed=3)
    texts = []
    for masks in ("none", f"file:{out}"):
        with Engine(model, n_ctx=256, n_threads=1, rows=8, masks=masks) as engine:
            texts.append([token.token for token in engine.generate(prompt, sampling, max_tokens=60)])
    assert texts[0] == texts[1]


def test_a_run_after_one_that_ended_adds_text_and_goes_on_with_the_masks(model, store, tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "TRAINING_SHARE_MIN", 0.5)
    monkeypatch.setattr(train_masks, "seconds_per_text", lambda _masked, _settings: 0.0)
    monkeypatch.setattr(train_masks, "TRAINING_S_MIN", 1.0)
    out = tmp_path / "masks.gguf"
    begun(model, store, out, 2.0, "masks")
    first = Run(model, out, Settings(2.0, 1), quiet)()
    again = Run(model, out, Settings(12.0, 1), quiet)
    assert again.left_s == 0
    second = again()
    assert second.n_tokens > first.n_tokens and second.n_steps > first.n_steps


def test_what_cannot_be_trained_is_one_line_and_leaves_nothing(model, tiny_model_path, tmp_path, monkeypatch):
    out = tmp_path / "masks.gguf"
    with Model(tiny_model_path("tiny-gpt2"), n_threads=1) as other, pytest.raises(ArgumentError, match="gpt2 model"):
        Run(other, out, Settings(60.0, 1), quiet)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(training_run, "TOKENS_MIN", 10**9)
    with pytest.raises(Error, match=r"the model wrote \d+ tokens in \d+ s, at least 1000000000 are needed"):
        Run(model, out, Settings(1.0, 1), quiet)()
    assert not out.exists()


def test_a_checkpoint_of_something_else_is_one_line(model, store, tmp_path):
    out = tmp_path / "masks.gguf"
    begun(model, store, out, 5.0, "masks")
    (tmp_path / "masks.gguf.work" / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(Error, match="delete it to train anew") as error:
        Run(model, out, Settings(5.0, 1), quiet)()
    assert "\n" not in str(error.value) and not out.exists()


def test_the_rank_is_what_a_file_has_room_for():
    class Matrices:
        def __init__(self, n):
            self.n = n

        def matrices(self):
            return {"blk.0.attn_q.weight": (self.n, self.n)}

    for n, rank in ((576, 16), (400_000, 9), (10**8, 1)):
        assert rank_for(Matrices(n)) == rank


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_training_that_is_stopped_leaves_the_old_file_and_goes_on(model, store, tmp_path, sign):
    out = tmp_path / "masks.gguf"
    begun(model, store, out, 15.0, "masks")
    options = ["--kind", "masks", "-m", str(model.path), "-o", str(out), "-t", "1", "--minutes", "1"]
    said = stopped_and_resumed([*impatient("train_masks", "KEEPING_S", 0.5), *options], out, sign)
    assert f"use        --trained-masks {out}" in said and "its best guess comes" in said
    assert TrainedMasks(model, out).vectors.shape[0] == 8


def test_masks_lie_beside_the_heads(model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MASKPROBE_STATE_DIR", raising=False)
    with Model(model.path, n_threads=1) as again:
        heads, masks = (train.default_place(again, kind) for kind in ("sampler", "masks"))
    assert heads.parent == masks.parent and heads.name.removesuffix(".heads.gguf") == masks.name.removesuffix(
        ".masks.gguf"
    )

"""MTP heads learn from what a small model writes; their file; a training that is killed goes on."""

import signal

import gguf
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch (pip install 'maskprobe[train]')")

import heads as heads_of_tests  # noqa: E402
from conftest import SHARED  # noqa: E402
from heads import look_ahead  # noqa: E402
from maskprobe import Engine, Error, Model, SamplingParams  # noqa: E402
from maskprobe.mtp import train_mtp, train_sampler  # noqa: E402
from maskprobe.mtp.head_weights import MtpHeadsWeights, quantised  # noqa: E402
from maskprobe.mtp.heads_file import read_heads, write_heads  # noqa: E402
from maskprobe.mtp.model_tables import tables_of  # noqa: E402
from maskprobe.mtp.mtp_heads import MtpHeads  # noqa: E402
from maskprobe.mtp.sampler_batches import batches, places  # noqa: E402
from maskprobe.mtp.sampler_training import DEPTH, Training  # noqa: E402
from maskprobe.mtp.training_run import Settings  # noqa: E402
from training_texts import begun, impatient, quiet, stopped_and_resumed, written  # noqa: E402

N_TOKENS = 6000
N_SHORT = 400


@pytest.fixture(scope="module")
def model(bundled_model_path):
    torch.set_num_threads(1)
    with Model(bundled_model_path, n_threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def layers(model):
    return train_mtp.layers_for(model)


@pytest.fixture(scope="module")
def store(model, layers, tmp_path_factory):
    """Text that the model wrote, with the states after layers."""
    return written(model, tmp_path_factory.mktemp("written") / "text", N_TOKENS, layers)


def random_heads(model, layers) -> MtpHeads:
    torch.manual_seed(1)
    heads = MtpHeads(model.info.n_embd, 64, len(layers), DEPTH).eval()
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return heads


def test_the_texts_have_the_states_of_each_place_after_layers(model, store, layers):
    assert 1 <= len(layers) < model.info.n_layer and layers == sorted(set(layers))
    shard = store.shards[0]
    assert shard.between.shape == (len(shard.tokens), len(layers), model.info.n_embd)
    sizes = np.sqrt(np.mean(shard.between.astype(np.float32) ** 2, -1))
    assert np.allclose(sizes, 1, atol=1e-2)
    batch = next(batches(store.shards, False, tables_of(model, store.shards, N_SHORT)[0], DEPTH, 32))
    expected = shard.between[places(shard, False)[:32]].astype(np.float32)
    assert np.array_equal(batch.between.numpy(), expected)


def test_torch_computes_the_formula_of_the_file(model, store, layers, monkeypatch):
    """Of the weights as they are in the file, but with inputs that are not rounded."""
    monkeypatch.setattr(heads_of_tests, "rounded", lambda values: values)
    tables, short = tables_of(model, store.shards, N_SHORT)
    heads = random_heads(model, layers)
    read = np.array([*layers, model.info.n_layer], np.int32)
    weights = quantised(heads.weights(read, short.tokens, short.weight))
    batch = next(batches(store.shards, True, tables, DEPTH, 8))
    with torch.no_grad():
        states = list(MtpHeads.of(weights).eval().guesses(batch))
    for row in range(8):
        given = np.append(batch.between[row].numpy(), batch.hidden[row : row + 1].numpy(), 0)
        odds = look_ahead(weights.tensors(), given)
        assert len(odds) == len(states) == DEPTH
        for depth, guess in enumerate(states):
            found = torch.softmax(guess[row] @ torch.from_numpy(weights.short).T, -1).numpy()
            assert np.allclose(found, odds[depth], rtol=2e-2, atol=1e-6)  # between is rounded to 16 bits


def test_a_file_has_what_was_written(model, layers, tmp_path):
    read = np.array([*layers, model.info.n_layer], np.int32)
    random = np.random.default_rng(0)
    short = random.standard_normal((40, model.info.n_embd)).astype(np.float32)
    written = random_heads(model, layers).weights(read, np.arange(0, 80, 2, dtype=np.int32), short)
    write_heads(tmp_path / "heads.gguf", written, model.identity, model.info.n_vocab, {})
    found, expected = read_heads(tmp_path / "heads.gguf"), quantised(written)
    assert isinstance(found, MtpHeadsWeights) and found.tensors().keys() == written.tensors().keys()
    for name, values in expected.tensors().items():
        assert np.array_equal(found.tensors()[name], values), name
    again = MtpHeads.of(found).weights(read, found.short_tokens, found.short)
    for name, values in found.tensors().items():
        assert np.allclose(again.tensors()[name], values, atol=1e-6), name
    assert found.n_bytes == sum(values.size for values in written.tensors().values() if values.ndim == 2) * 34 // 32


def test_heads_learn_and_what_was_kept_of_them_goes_on(model, store, layers, tmp_path):
    tables, _ = tables_of(model, store.shards, N_SHORT)
    torch.manual_seed(0)
    training = Training(MtpHeads(model.info.n_embd, 64, len(layers), DEPTH), tables)
    mix = training.head.mix.detach().clone()
    assert training.judge(store.shards, 2000)
    before = training.best_quality
    order = np.random.default_rng(0)
    for _ in range(2):
        for batch in batches(store.shards, False, tables, DEPTH, 64, order):
            training.step(batch, 0.5)
    assert training.judge(store.shards, 2000)
    after = training.best_quality
    assert after.total < 0.8 * before.total and after.top8[0] > before.top8[0] + 0.1
    assert not torch.equal(training.head.mix, mix)
    training.save(tmp_path / "checkpoint.pt")
    again = Training(MtpHeads(model.info.n_embd, 64, len(layers), DEPTH), tables)
    again.resume(tmp_path / "checkpoint.pt")
    batch = next(batches(store.shards, False, tables, DEPTH, 128))
    torch.manual_seed(1)
    expected = training.step(batch, 0.6)
    torch.manual_seed(1)
    assert again.step(batch, 0.6) == expected


def test_a_run_writes_heads_that_an_engine_takes_and_that_change_no_token(model, store, layers, tmp_path, monkeypatch):
    monkeypatch.setattr(train_sampler, "EVALUATION_S_MIN", 1.0)
    out = tmp_path / "heads.gguf"
    begun(model, store, out, 8.0, "mtp")
    result = train_mtp.Run(model, out, Settings(8.0, 1), quiet)()
    fields = gguf.GGUFReader(out).fields
    assert fields["maskprobe.heads.kind"].contents() == "mtp"
    assert fields["maskprobe.heads.distances"].contents() == DEPTH
    assert fields["maskprobe.train.top8.2"].contents() == pytest.approx(result.quality.top8[1])
    assert fields["general.name"].contents().startswith("MTP heads for ")
    assert read_heads(out).tensors()["mix.layers"].tolist() == [*layers, model.info.n_layer]
    found = []
    for heads in (None, out):
        with Engine(model, n_ctx=256, rows=8, heads=heads, **SHARED) as engine:
            sampling = SamplingParams(temp=0.8, seed=3)
            generation = engine.generate(model.tokenize("def "), sampling, max_tokens=60, ignore_eos=True)
            found.append([r.token for r in generation])
    assert found[0] == found[1]
    with pytest.raises(Error, match="training of another kind"):
        train_sampler.Run(model, out, Settings(8.0, 1), quiet)


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_training_that_is_killed_leaves_the_old_file_and_goes_on(model, store, tmp_path):
    out = tmp_path / "heads.gguf"
    begun(model, store, out, 8.0, "mtp")
    options = ["-m", str(model.path), "-o", str(out), "-t", "1", "--minutes", "1", "--kind", "mtp"]
    command = [*impatient("train_sampler", "EVALUATION_S_MIN", 1.0), *options]
    assert "one of the eight best comes" in stopped_and_resumed(command, out, signal.SIGKILL)
    assert isinstance(read_heads(out), MtpHeadsWeights)

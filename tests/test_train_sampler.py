"""A sampler head learns from what a small model writes; a training that is killed goes on; what it refuses."""

import itertools
import signal

import gguf
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs PyTorch (pip install 'maskprobe[train]')")

from maskprobe import Error, Model, ModelError  # noqa: E402
from maskprobe.cli import train  # noqa: E402
from maskprobe.mtp import model_tables, train_sampler, training_run  # noqa: E402
from maskprobe.mtp.heads_file import read_heads  # noqa: E402
from maskprobe.mtp.model_tables import Unembedding, input_scale, logit_scale, tables_of  # noqa: E402
from maskprobe.mtp.sampler_batches import batches, places  # noqa: E402
from maskprobe.mtp.sampler_head import SamplerHead  # noqa: E402
from maskprobe.mtp.sampler_training import DEPTH, Training  # noqa: E402
from maskprobe.mtp.train_sampler import Run  # noqa: E402
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
def store(model, tmp_path_factory):
    """Text that the model wrote."""
    return written(model, tmp_path_factory.mktemp("written") / "text", N_TOKENS)


def test_the_short_list_has_the_models_own_logits(model, store):
    shard = store.shards[0]
    unembedding = Unembedding(model.path)
    assert logit_scale(unembedding, shard) == pytest.approx(1.0, abs=0.02)
    tables, short = tables_of(model, store.shards, N_SHORT)
    assert (np.diff(short.tokens) > 0).all() and len(short.tokens) == N_SHORT
    logits = shard.hidden[:200].astype(np.float32) @ short.weight.T
    best = short.tokens[logits.argmax(-1)]
    listed = np.isin(shard.top[:200, 0], short.tokens)
    assert (best == shard.top[:200, 0])[listed].mean() > 0.95
    assert (tables.short_of[torch.from_numpy(short.tokens.astype(np.int64))] == torch.arange(N_SHORT)).all()


def test_logits_that_are_made_in_another_way_are_refused(model, store):
    shuffled = Unembedding(model.path)
    rows = shuffled.rows
    shuffled.rows = lambda tokens: rows(tokens[::-1])
    with pytest.raises(ModelError, match="cannot use that matrix"):
        logit_scale(shuffled, store.shards[0])


def test_a_batch_has_what_comes_after_each_place_and_nothing_of_the_next_text(model, store):
    tables, short = tables_of(model, store.shards, N_SHORT)
    shard = store.shards[0]
    at = places(shard, False)
    batch = next(batches(store.shards[:1], False, tables, DEPTH, 64))
    for row, place in enumerate(at[:64]):
        assert np.array_equal(batch.hidden[row].numpy(), shard.hidden[place].astype(np.float32))
        for depth in range(DEPTH):
            inside = shard.left[place] > depth + 1
            assert bool(batch.inside[depth, row]) == inside
            if not inside:
                assert batch.targets[depth, row] == -1 and not batch.weights[depth, row].any()
                continue
            token, came = int(shard.tokens[place + depth]), int(shard.tokens[place + depth + 1])
            assert np.allclose(batch.inputs[depth, row].numpy(), model.embedding_rows([token])[0])
            target = int(batch.targets[depth, row])
            assert (short.tokens[target] == came) if target >= 0 else (came not in short.tokens)
            assert np.array_equal(batch.states[depth, row].numpy(), shard.hidden[place + depth + 1].astype(np.float32))


def test_a_head_learns_and_what_was_kept_of_it_goes_on(model, store, tmp_path):
    tables, _ = tables_of(model, store.shards, N_SHORT)
    torch.manual_seed(0)
    scale = input_scale(tables, store.shards[0])
    training = Training(SamplerHead(model.info.n_embd, 64, scale), tables)
    assert training.judge(store.shards, 2000)
    before = training.best_quality
    order = np.random.default_rng(0)
    for _ in range(2):
        for batch in batches(store.shards, False, tables, DEPTH, 64, order):
            training.step(batch, 0.5)
    assert training.judge(store.shards, 2000)
    after = training.best_quality
    assert after.total < 0.8 * before.total and after.top8[0] > before.top8[0] + 0.1
    training.save(tmp_path / "checkpoint.pt")
    again = Training(SamplerHead(model.info.n_embd, 64, scale), tables)
    again.resume(tmp_path / "checkpoint.pt")
    assert again.best_quality == after and again.n_steps == training.n_steps
    batch = next(batches(store.shards, False, tables, DEPTH, 128))
    torch.manual_seed(1)
    expected = training.step(batch, 0.6)
    torch.manual_seed(1)
    assert again.step(batch, 0.6) == expected
    for one, other in zip(training.head.parameters(), again.head.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_writes_heads_that_say_what_they_are_worth(model, store, tmp_path, monkeypatch):
    monkeypatch.setattr(train_sampler, "EVALUATION_S_MIN", 1.0)
    out = tmp_path / "heads.gguf"
    begun(model, store, out, 8.0)
    result = Run(model, out, Settings(8.0, 1), quiet)()
    fields = gguf.GGUFReader(out).fields
    assert fields["maskprobe.heads.model"].contents() == model.identity
    assert fields["maskprobe.train.tokens"].contents() == store.n_tokens == result.n_tokens
    assert fields["maskprobe.train.top8.1"].contents() == pytest.approx(result.quality.top8[0])
    weights = read_heads(out)
    assert weights.layers[0].weight.shape[1] == 2 * model.info.n_embd == 2 * weights.short.shape[1]
    assert result.quality.top8[0] > 0.05


def test_a_run_after_one_that_ended_has_new_time_more_text_and_the_same_head(model, store, tmp_path, monkeypatch):
    monkeypatch.setattr(train_sampler, "EVALUATION_S_MIN", 1.0)
    monkeypatch.setattr(train_sampler, "EPOCHS", 0)  # all but a fifth of the time is for text
    out = tmp_path / "heads.gguf"
    begun(model, store, out, 4.0)
    first = Run(model, out, Settings(4.0, 1), quiet)()
    again = Run(model, out, Settings(20.0, 1), quiet)
    assert again.left_s == 0
    second = again()
    assert second.n_tokens > first.n_tokens and second.n_steps > first.n_steps


def test_too_little_text_is_one_line(model, tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "TOKENS_MIN", 10**9)
    with pytest.raises(Error, match=r"the model wrote \d+ tokens in \d+ s, at least 1000000000 are needed") as error:
        Run(model, tmp_path / "heads.gguf", Settings(1.0, 1), quiet)()
    assert "\n" not in str(error.value) and not (tmp_path / "heads.gguf").exists()


def test_a_model_of_another_width_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(train_sampler, "BLOCK", 7)
    with pytest.raises(ModelError, match="n_embd is a multiple of 7"):
        Run(model, tmp_path / "heads.gguf", Settings(1.0, 1), quiet)


def test_a_head_never_takes_more_than_its_share(model):
    class Info:
        def __init__(self, n_embd, size):
            self.n_embd, self.size, self.n_vocab = n_embd, size, 150_000

    class Large:
        def __init__(self, *values):
            self.info = Info(*values)

    sizes = (64, 10**6), (576, 96 * 10**6), (896, 485 * 10**6), (4096, 5 * 10**9), (8192, 4 * 10**10)
    for (n_embd, size), n_widths in itertools.product(sizes, (3, 6)):
        n_hidden, n_short = model_tables.sizes_for(Large(n_embd, size), n_widths)
        n_bytes = (n_widths * n_embd * n_hidden + n_short * n_embd) * 34 / 32
        assert n_hidden % 32 == 0 and n_hidden >= 32 and n_short >= 256
        assert n_bytes <= max(0.05 * size, 1.05e6) and n_bytes < 16e6


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_training_that_is_stopped_leaves_the_old_file_and_goes_on(model, store, tmp_path, sign):
    out = tmp_path / "heads.gguf"
    begun(model, store, out, 8.0)
    options = ["-m", str(model.path), "-o", str(out), "-t", "1", "--minutes", "1"]
    said = stopped_and_resumed([*impatient("train_sampler", "EVALUATION_S_MIN", 1.0), *options], out, sign)
    assert "one of the eight best comes" in said
    assert len(read_heads(out).short_tokens) > 0


@pytest.mark.parametrize(
    "args, said",
    [
        (["--kind", "magic"], "--kind"),
        (["--minutes", "0"], "--minutes: must be a number, above 0"),
        (["-o", "/nowhere/heads.gguf"], "-o/--output: there is no directory '/nowhere'"),
        (["-o", "."], "-o/--output: '.' is no plain file"),
        (["--prompts", "/nowhere/prompts.txt"], "--prompts: cannot read the prompts"),
    ],
)
def test_what_is_wrong_with_an_option_is_one_line(args, said, capsys):
    with pytest.raises(SystemExit) as error:
        train.main(args)
    assert error.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[0]


def test_a_file_that_is_no_model_is_one_line(tmp_path, capsys):
    path = tmp_path / "no.gguf"
    path.write_bytes(b"no model")
    assert train.main(["-m", str(path), "-o", str(tmp_path / "heads.gguf"), "--minutes", "1"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("maskprobe-train: error: ")

"""maskprobe-analyze: each subcommand's table, files and picture, and what it refuses."""

import csv
import json
import sys

import numpy as np
import pytest

from maskprobe import ArgumentError, Model, Session, TokenTree, mask_embedding
from maskprobe.analysis import Text, sweep
from maskprobe.analysis.align import align_rows
from maskprobe.analysis.layers import layer_rows
from maskprobe.analysis.mask_search import MaskSearch, Vector
from maskprobe.analysis.second_tokens import MarginalPredictor, MaskPredictor, accuracy_rows
from maskprobe.cli.analyze import command
from maskprobe.masks import read_tuned, tuned_place, write_tuned
from test_marginal import after

COMMANDS = {
    "align": ["--masks", "2", "--candidates", "3"],
    "marginal": ["--rows", "16"],
    "layers": [],
    "entropy": [],
    "masks": ["--places", "8", "--rounds", "2", "--rows", "8"],
}
SIGNATURES = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


def silent(done: float, total: float) -> None:
    assert 0 <= done <= total


@pytest.fixture(scope="module")
def model(tiny_model_path):
    return Model(tiny_model_path("tiny-llama"), n_threads=1)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "p.jsonl"
    entries = [{"prompt": text, "task": task} for text, task in (("a b a b", "ab"), ("x y x", "xy"))]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


@pytest.fixture
def arguments(model, prompts):
    return ["-m", str(model.path), "--prompts", str(prompts), "-n", "12", "-t", "1"]


@pytest.fixture(scope="module")
def text():
    tokens = np.random.default_rng(5).integers(100, 500, 60).tolist()
    return Text("random", "1", tokens, 10)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_prints_a_table_and_writes_files(capfd, arguments, tmp_path, name):
    files = [f"--json={tmp_path / 'a.json'}", f"--csv={tmp_path / 'a.csv'}"]
    assert command.main([name, *arguments, *COMMANDS[name], *files]) == 0
    out, error = capfd.readouterr()
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len(table) >= 4 and len({line.count("|") for line in table}) == 1
    assert "tiny-llama" in out and "error" not in error
    rows = json.loads((tmp_path / "a.json").read_text())
    with (tmp_path / "a.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(rows) == len(lines) > 0 and all(row["model_filename"] == "tiny-llama.gguf" for row in rows)
    assert set(rows[0]) == set(lines[0])


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_draws_a_picture(arguments, tmp_path, name):
    pytest.importorskip("matplotlib")
    suffix = "png" if name != "layers" else "svg"
    picture = tmp_path / f"a.{suffix}"
    assert command.main([name, *arguments, *COMMANDS[name], "--picture", str(picture)]) == 0
    assert picture.read_bytes().startswith(SIGNATURES[suffix])


def error_of(capfd, *words) -> str:
    assert command.main(list(map(str, words))) == 1
    out, error = capfd.readouterr()
    assert out == ""
    (line,) = [line for line in error.splitlines() if "error:" in line]
    return line


def test_what_is_refused(capfd, arguments, tmp_path, tiny_model_path, prompts, monkeypatch):
    pytest.importorskip("matplotlib")
    one = str(tmp_path / "a.png")
    assert "must name different files" in error_of(capfd, "layers", *arguments, "--json", one, "--picture", one)
    assert "must end in .png, .svg or .pdf" in error_of(capfd, "layers", *arguments, "--picture", tmp_path / "a.txt")
    gpt2 = ["-m", tiny_model_path("tiny-gpt2"), *arguments[2:]]
    assert "no logit lens for gpt2 models" in error_of(capfd, "layers", *gpt2)
    mamba = ["-m", tiny_model_path("tiny-mamba"), *arguments[2:]]
    assert "this model cannot be looked into" in error_of(capfd, "entropy", *mamba)
    short = tmp_path / "short.txt"
    short.write_text("a\n")
    words = ["-m", arguments[1], "--prompts", short, "-n", "0"]
    assert "no prompt has four tokens" in error_of(capfd, "entropy", *words)
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    assert "--picture needs matplotlib: pip install 'maskprobe[analyze]'" in error_of(
        capfd, "layers", *arguments, "--picture", one
    )


def test_cosines_are_there_without_a_lens(capfd, arguments, tiny_model_path):
    assert command.main(["align", "-m", str(tiny_model_path("tiny-gpt2")), *arguments[2:]]) == 0
    out = capfd.readouterr().out
    assert "no logit lens for gpt2 models" in out and "| last norm |" in out


def test_the_prompts_themselves(capfd, arguments, model, tmp_path):
    arguments[arguments.index("-n") + 1] = "0"
    assert command.main(["entropy", *arguments, "--json", str(tmp_path / "a.json")]) == 0
    rows = json.loads((tmp_path / "a.json").read_text())
    tokens = model.tokenize("a b a b")
    assert [row["token"] for row in rows if row["task"] == "ab"] == tokens[1:]
    with Session(model, n_ctx=64, n_threads=1) as session:
        expected = after(session, tokens[:3])
    assert rows[2]["logprob"] == pytest.approx(np.log(expected[tokens[3]]), abs=0.01)
    assert rows[2]["entropy"] == pytest.approx(-(expected * np.log(expected)).sum(), abs=0.01)


# --- what is computed ------------------------------------------------------------------------------------------------


def test_a_sweep_visits_every_place_once(model, text):
    with Session(model, n_ctx=128, n_rows_max=7, n_threads=1) as session:
        for n_masks, n_ahead in ((0, 0), (1, 1), (2, 2), (3, 0)):
            mask = mask_embedding("soft", model) if n_masks else None
            places = []
            for part in sweep(session, text, mask, n_masks, n_ahead=n_ahead):
                places += part.places
                assert part.tree.n_nodes == part.n_owners + n_ahead
                for i in range(part.tree.n_nodes):
                    assert part.tree.tokens[i] == text.tokens[part.begin + i]
                rows = [part.mask_row(i, j) for i in range(part.n_owners) for j in range(n_masks)]
                assert rows == list(range(part.tree.n_nodes, part.tree.n_rows))
            assert places == list(range(9, 59 - n_ahead))


def test_the_last_layer_is_the_final_distribution(model, text):
    with Session(model, n_ctx=128, n_rows_max=16, n_threads=1, taps=True) as session:
        rows = layer_rows(session, [text], silent)
    assert [row["layer"] for row in rows] == [0, 1]
    assert rows[-1]["kl_to_final"] < 1e-3 and rows[-1]["same_best"] == 1.0
    assert rows[0]["kl_to_final"] > 0.1 and rows[0]["n_places"] == 50


def test_a_mask_that_is_the_true_token_aligns_fully(model):
    """Where every token is the same one, its embedding as a mask is the row of the token that really comes."""
    text = Text("same", "1", [321] * 40, 5)
    with Session(model, n_ctx=128, n_rows_max=16, n_threads=1, taps=True, type_k="f32", type_v="f32") as session:
        same, reason = align_rows(session, [text], mask_embedding("token:321", model), 2, 4, silent)
        other, _ = align_rows(session, [text], mask_embedding("token:400", model), 2, 4, silent)
    assert reason == ""
    assert {row["outcome"] for row in same} == {"accepted"} and all(row["cosine"] > 0.999 for row in same)
    last = [row for row in same if row["layer"] == 2]
    assert all(row["lens_top1"] == 1.0 and row["n"] == 33 for row in last if row["mask"] == 2)
    assert max(row["cosine"] for row in other if row["layer"] == 0) < 0.999


def test_accuracy_by_hand(model, text):
    with Session(model, n_ctx=128, n_rows_max=32, n_threads=1) as session:
        marginal = MarginalPredictor(0.99, 2)
        predictors = [marginal, MaskPredictor("mean mask", mask_embedding("mean", model), 2)]
        rows = accuracy_rows(session, [text, text], predictors, silent)
        assert [(row["token"], row["by"], row["n"]) for row in rows] == [
            ("t+2", "marginal", 98),
            ("t+2", "mean mask", 98),
            ("t+3", "marginal", 96),
            ("t+3", "mean mask", 96),
        ]
        assert all(0 <= row["top1"] <= row["top5"] <= 1 for row in rows)
        sizes = marginal.sizes
        assert len(sizes.nucleus[0.9]) == 100 and all(
            a <= b for a, b in zip(sizes.nucleus[0.9], sizes.nucleus[0.99], strict=True)
        )
        assert max(sizes.taken[1]) <= 31


def test_a_predictor_that_knows_the_text_is_always_right(model, text):
    class Knows:
        name = "knows"

        def ranks(self, session, text):
            return ((1, 0) for _ in text.places)

    with Session(model, n_ctx=128, n_threads=1) as session:
        (row,) = accuracy_rows(session, [text], [Knows()], silent)
    assert row["top1"] == row["top5"] == 1.0


def test_the_search_scores_vectors_as_masks(model, text):
    """What it says of the mean is what a mask of the mean says in a pass of its own."""
    with Session(model, n_ctx=128, n_rows_max=16, n_threads=1, type_k="f32", type_v="f32") as session:
        search = MaskSearch(session, [text], 12)
        assert len(search.seen) == len(search.unseen) == 6
        assert not {place.at for place in search.seen} & {place.at for place in search.unseen}
        zero = np.zeros(model.info.n_embd)
        scores = search._scores([Vector("other", 0.0, zero + 0.1), Vector("mean", 1.0, zero)], search.seen)
        mask = mask_embedding("mean", model)
        logprobs = []
        for place in search.seen:
            session.set_prefix(text.tokens[: place.at])
            mask.begin(text.tokens[: text.n_prompt], 1)
            tree = TokenTree(text.tokens[place.at])
            tree.add_masks(0, mask.vectors([0])[0])
            session.decode(tree, 1)
            logprobs.append(session.logprob(1, text.tokens[place.at + 2]))
        assert scores[1, 0] == pytest.approx(np.mean(logprobs), abs=1e-4)


def test_the_search_finds_something_better_at_the_places_it_sees(model, text):
    with Session(model, n_ctx=128, n_rows_max=16, n_threads=1) as session:
        chosen, rows = MaskSearch(session, [text], 12).run(4, silent)
    (kept,) = [row for row in rows if row["chosen"]]
    assert kept["vector"] == chosen.name == "searched"
    assert kept["seen_logprob"] == max(row["seen_logprob"] for row in rows) > rows[0]["seen_logprob"]
    with pytest.raises(ArgumentError, match="have 1 places with two tokens after them: 4 are needed"):
        MaskSearch(session, [Text("t", "1", [1, 2, 3, 4], 2)], 12)


# --- masks that were tuned -------------------------------------------------------------------------------------------


def test_a_tuned_mask_is_kept_and_found(capfd, arguments, model):
    assert command.main(["masks", *arguments, *COMMANDS["masks"]]) == 0
    assert "is kept: --propose esp --mask-init tuned" in capfd.readouterr().err
    assert tuned_place(model).is_file()
    mask = mask_embedding("tuned", model)
    mask.begin([300, 301], 2)
    mean = model.embedding_rows([300, 301]).mean(axis=0)
    np.testing.assert_allclose(mask.vectors([5])[0], [mask.scale * mean + mask.offset] * 2, rtol=1e-5, atol=1e-6)


def test_files_that_are_no_tuned_mask(model, tiny_model_path, tmp_path):
    path = tmp_path / "m.npz"
    with pytest.raises(ArgumentError, match=r"there is no tuned mask at .*m.npz: maskprobe-analyze masks makes one"):
        mask_embedding(f"tuned:{path}", model)
    write_tuned(path, model, 0.5, np.ones(model.info.n_embd))
    whole = path.read_bytes()
    assert read_tuned(path, model).scale == 0.5
    for damaged in (b"", b"x" * 100, whole[:-40], whole[:50]):
        path.write_bytes(damaged)
        with pytest.raises(ArgumentError, match=r"is not a file of maskprobe-analyze masks|cannot be read"):
            read_tuned(path, model)
    path.write_bytes(whole)
    with pytest.raises(ArgumentError, match="is the mask of another model: random tiny-llama"):
        read_tuned(path, Model(tiny_model_path("tiny-qwen3"), n_threads=1))
    write_tuned(path, model, 1.0, np.full(model.info.n_embd, np.nan))
    with pytest.raises(ArgumentError, match="holds NaN or infinite values"):
        read_tuned(path, model)
    np.savez(path.with_suffix(""), scale=1.0, offset=np.ones(3), model=np.array(["llama", "", "1"]))
    with pytest.raises(ArgumentError, match="has 3 values, the model's embeddings have 64"):
        read_tuned(path, model)

"""Pictures: one for each question, and a clear line where matplotlib is missing."""

import sys

import pytest

from maskprobe.cli import bench, bench_pictures
from maskprobe.cli.bench_measure import CALIBRATION_BINS, calibration_bins

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def model(tiny_model_path) -> str:
    return str(tiny_model_path("tiny-llama"))


def test_without_matplotlib_nothing_is_measured(capfd, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for command in ("run", "cost"):
        assert bench.main([command, "-m", model, "--pictures", str(tmp_path / "none")]) == 1
        out, error = capfd.readouterr()
        assert out == "" and "error: --pictures needs matplotlib: pip install 'maskprobe[pictures]'" in error
    assert not (tmp_path / "none").exists()


def test_a_run_gives_four_pictures_for_each_temperature(capfd, model, tmp_path):
    pytest.importorskip("matplotlib")
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "a b a b", "task": "ab"}\n{"prompt": "x y", "task": "xy"}\n')
    arguments = ["run", "-m", model, "--prompts", str(prompts), "--propose", "lookup,ngram", "--temp", "0,0.8"]
    folder = tmp_path / "new" / "folder"
    assert bench.main([*arguments, "-n", "12", "-t", "1", "--pictures", str(folder)]) == 0
    names = ("speed_up_by_task", "tokens_against_rows", "acceptance_by_depth", "reliability")
    assert {path.name for path in folder.iterdir()} == {f"{name}-temp{t}.png" for name in names for t in ("0", "0.8")}
    assert all(path.read_bytes().startswith(PNG) for path in folder.iterdir())
    assert bench.main([*arguments, "--pictures", str(prompts)]) == 1
    assert "cannot make the folder" in capfd.readouterr().err


def test_cost_gives_one_picture(capfd, model, tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ["cost", "-m", model, "--rows", "1,2", "-r", "1", "-t", "1", "-d", "8", "--kernels", "stock"]
    assert bench.main([*arguments, "--pictures", str(tmp_path)]) == 0
    assert (tmp_path / "cost.png").read_bytes().startswith(PNG)


def test_reliability_of_single_candidates(tmp_path):
    pytest.importorskip("matplotlib")
    path = bench_pictures.reliability_of([0.1, 0.5, 0.9], [False, True, True], tmp_path / "r.png", "planner")
    assert path.read_bytes().startswith(PNG)


def test_bins_keep_every_candidate():
    bins = calibration_bins([0.0, 0.12, 0.13, 1.0], [False, True, False, True])
    assert len(bins) == CALIBRATION_BINS
    assert bins[0] == [1.0, 0.0, 0.0] and bins[2] == [2.0, 0.25, 1.0] and bins[-1] == [1.0, 1.0, 1.0]
    assert calibration_bins([], []) == [[0.0, 0.0, 0.0]] * CALIBRATION_BINS

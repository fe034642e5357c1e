"""Which kernels a model is loaded for, what is said about it, and which weights are named as llama.cpp's."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import llama_cpp
import pytest
from gguf import GGMLQuantizationType

import quantise
import random_gguf
from conftest import N_THREADS
from maskprobe import ArgumentError, Model, Session, TokenTree
from maskprobe.cli import run

LEFT = re.compile(r"(\S+) % of the weights \((.*)\) are computed by llama\.cpp, .*: drafting may change a token")


@pytest.fixture(scope="module")
def foreign(bundled_model_path, tmp_path_factory):
    """The bundled model, most of its weights in a type that has no kernel of ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(quantise.FILE_TYPES, "iq3_s", llama_cpp.LLAMA_FTYPE_MOSTLY_IQ3_S)
        return quantise.quantise(bundled_model_path, tmp_path_factory.mktemp("models") / "iq3_s.gguf", "iq3_s")


def info_of(path, **settings):
    with Model(path, n_threads=N_THREADS, **settings) as model:
        return model.info


def test_covered_weights_are_ours_by_default(bundled_model_path):
    info = info_of(bundled_model_path)
    assert info.kernels == info_of(bundled_model_path, kernels="ours").kernels != "llama.cpp"
    assert info.kernels_reason == "100 % of the weights"
    assert info.note == ""
    assert info.packed_size > 0


def test_other_weights_are_llama_cpp_s_by_default(foreign):
    info = info_of(foreign)
    assert (info.kernels, info.packed_size) == ("llama.cpp", 0)
    found = re.fullmatch(r"only (\d+) % of the weights have a type of ours \(IQ3_S (\d+) %\)", info.kernels_reason)
    assert int(found[1]) < 50 and int(found[1]) + int(found[2]) == 100
    left = LEFT.fullmatch(info.note)
    assert left[1] == "100" and f"IQ3_S {found[2]} %" in left[2]


def test_ours_where_asked_for_names_the_rest(foreign):
    with Model(foreign, kernels="ours", n_threads=N_THREADS) as model:
        assert model.info.kernels != "llama.cpp"
        covered = int(re.fullmatch(r"(\d+) % of the weights", model.info.kernels_reason)[1])
        left = LEFT.fullmatch(model.info.note)
        assert (int(left[1]), left[2]) == (100 - covered, "IQ3_S")
        session = Session(model, n_ctx=256, n_rows_max=8, n_threads=N_THREADS)
        session.decode(TokenTree(1), 1)
        ours = set(session.parts())
    assert "attention" in ours and "iq3_s" not in ours


def test_stock_where_asked_for(bundled_model_path, tiny_model_path):
    info = info_of(bundled_model_path, kernels="stock")
    assert (info.kernels, info.kernels_reason, info.packed_size) == ("llama.cpp", "asked for", 0)
    assert LEFT.fullmatch(info.note)[2] == "Q8_0"
    assert info_of(tiny_model_path("tiny-llama"), kernels="stock").note == ""  # floats alone are not named


@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_counts_where_it_is_the_head(tied, tmp_path, monkeypatch):
    """Both files have a token embedding of a type that has no kernel of ours; one has a head beside it."""
    default_params = llama_cpp.llama_model_quantize_default_params

    def with_foreign_embedding():
        params = default_params()
        params.token_embedding_type = GGMLQuantizationType.TQ2_0
        return params

    shape = replace(random_gguf.SHAPES["tiny-llama"], width=256, head_dim=64, tied_head=tied)
    monkeypatch.setitem(random_gguf.SHAPES, "tiny-llama", shape)
    monkeypatch.setattr(llama_cpp, "llama_model_quantize_default_params", with_foreign_embedding)
    source = random_gguf.write_random_gguf(tmp_path / "f32.gguf", "tiny-llama")
    info = info_of(quantise.quantise(source, tmp_path / "q8_0.gguf", "q8_0"))
    assert info.kernels != "llama.cpp"
    if tied:
        assert LEFT.fullmatch(info.note)[2] == "TQ2_0"
    else:
        assert (info.kernels_reason, info.note) == ("100 % of the weights", "")


def test_both_notes_stand_in_one_line(tiny_model_path):
    note = info_of(tiny_model_path("tiny-mamba", weight_type="q8_0"), kernels="stock").note
    probing, _, left = note.partition("; 100 %")
    assert probing.startswith("probing is off: mamba keeps a recurrent state") and left and "\n" not in note


@pytest.mark.parametrize("kernels", ["foo", "", "OURS", None, True, 1])
def test_a_choice_that_is_none(tiny_model_path, kernels):
    with pytest.raises(ArgumentError, match="must be one of auto, ours, stock"):
        Model(tiny_model_path("tiny-llama"), kernels=kernels)


def test_an_instruction_set_that_is_not_there(tiny_model_path):
    code = "import sys, maskprobe; print(maskprobe.Model(sys.argv[1], kernels=sys.argv[2], n_threads=1).info.kernels)"
    outcomes = {}
    for kernels in ("auto", "ours", "stock"):
        command = [sys.executable, "-c", code, str(tiny_model_path("tiny-llama")), kernels]
        env = {**os.environ, "MASKPROBE_ISA": "avx9000"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        outcomes[kernels] = (done.stdout + done.stderr).strip().splitlines()[-1]
    assert outcomes["stock"] == "llama.cpp"
    assert outcomes["auto"] == outcomes["ours"]
    assert "MASKPROBE_ISA is 'avx9000'" in outcomes["auto"]


@pytest.mark.parametrize("propose", ["all", "esp", "lookup", "none"])
def test_the_command_says_it_once(foreign, propose, tmp_path, capfd):
    stats = tmp_path / "stats.json"
    arguments = ["-m", str(foreign), "-p", "def ", "-n", "4", "--propose", propose, "--stats-json", str(stats)]
    assert run.main(["-t", "1", *arguments]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("kernels: ")] == [
        "kernels:    llama.cpp's: " + json.loads(stats.read_text())["kernels_reason"]
    ]
    notes = [line for line in lines if line.startswith("maskprobe-run: ")]
    assert len(notes) == (propose != "none")
    assert all(LEFT.search(line) for line in notes)
    assert run.main(["-t", "1", *arguments, "--kernels", "ours"]) == 0
    found = json.loads(stats.read_text())
    assert f"kernels:    {found['kernels']}, {found['kernels_reason']}" in capfd.readouterr().err.splitlines()

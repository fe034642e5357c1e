"""What maskprobe-run refuses, each in one line that names the option."""

import json
import os
import re
from pathlib import Path

import pytest

from cli_process import command, one_error_line
from maskprobe import bundled_models
from maskprobe.cli import run


@pytest.fixture(scope="module")
def tiny(tiny_model_path) -> Path:
    """With a context that a test does not come to the end of by chance."""
    return tiny_model_path("tiny-llama", n_ctx=65536)


def test_full_context_is_a_normal_end(tiny, tmp_path):
    path = tmp_path / "stats.json"
    done = command("-m", tiny, "-p", "def ", "-c", 256, "--ignore-eos", "--stats-json", path)
    assert done.returncode == 0
    assert b"the context of 256 tokens is full" in done.stderr
    stats = json.loads(path.read_text())
    assert stats["finish_reason"] == "context"
    assert stats["n_prompt"] + stats["n_gen"] == 257  # the newest token needs no place


def test_prompt_longer_than_the_context(tiny):
    done = command("-m", tiny, "-p", "-", "-c", 256, stdin=b"x y z " * 100)
    assert done.returncode == 1
    line = one_error_line(done.stderr)
    assert "256" in line
    assert re.search(r"prompt has [3-9]\d\d tokens", line)
    assert done.stdout == b""


@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "garbage", "cut"])
def test_bad_model(tiny, tmp_path, kind):
    path = tmp_path / "model.gguf"
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"empty": b"", "garbage": b"garbage" * 99, "cut": tiny.read_bytes()[:5000]}[kind])
    done = command("-m", path, "-p", "x")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [one_error_line(done.stderr)]
    if kind == "missing":
        assert next(iter(bundled_models())) in done.stderr.decode()


BAD_OPTIONS = [
    (["-p", "x", "-n", "-2"], "-n/--predict"),
    (["-p", "x", "-n", "many"], "-n/--predict"),
    (["-p", "x", "-c", "-1"], "-c/--ctx-size"),
    (["-p", "x", "-b", "0"], "-b/--batch-size"),
    (["-p", "x", "-ub", "-1"], "-ub/--ubatch-size"),
    (["-p", "x", "-t", "-2"], "-t/--threads"),
    (["-p", "x", "-tb", "1.5"], "-tb/--threads-batch"),
    (["-p", "x", "-ngl", "some"], "-ngl/--gpu-layers"),
    (["-p", "x", "-s", "-2"], "-s/--seed"),
    (["-p", "x", "-s", "4294967295"], "-s/--seed"),
    (["-p", "x", "--temp", "nan"], "--temp"),
    (["-p", "x", "--temp", "-0.1"], "--temp"),
    (["-p", "x", "--temp", "inf"], "--temp"),
    (["-p", "x", "--top-k", "-1"], "--top-k"),
    (["-p", "x", "--top-p", "1.1"], "--top-p"),
    (["-p", "x", "--min-p", "nan"], "--min-p"),
    (["-p", "x", "--repeat-penalty", "-1"], "--repeat-penalty"),
    (["-p", "x", "--repeat-last-n", "-2"], "--repeat-last-n"),
    (["-p", "x", "--presence-penalty", "nan"], "--presence-penalty"),
    (["-p", "x", "--frequency-penalty", "x"], "--frequency-penalty"),
    (["-p", "x", "-l", "15"], "-l/--logit-bias"),
    (["-p", "x", "-l", "15+inf"], "-l/--logit-bias"),
    (["-p", "x", "-l", "15+nan"], "-l/--logit-bias"),
    (["-p", "x", "-l", "x+1"], "-l/--logit-bias"),
    (["-p", "x", "-fa", "maybe"], "-fa/--flash-attn"),
    (["-p", "x", "--kernels", "foo"], "--kernels"),
    (["-p", "x", "-st", "-no-cnv"], "-no-cnv/--no-conversation"),
    (["-p", "x", "-sys", "y", "-no-cnv"], "-sys/--system-prompt"),
    (["-p", "x", "-ctk", "q2_k"], "-ctk/--cache-type-k"),
    (["-p", "x", "-ctv", "int8"], "-ctv/--cache-type-v"),
    (["-p", "x", "--color", "sometimes"], "--color"),
    (["-p", "x", "--propose", "magic"], "--propose"),
    (["-p", "x", "--tree", "0"], "--tree"),
    (["-p", "x", "--tree", "7,,2"], "--tree"),
    (["-p", "x", "--tree", "wide"], "--tree"),
    (["-p", "x", "--rows", "257"], "--rows"),
    (["-p", "x", "--rows", "0"], "--rows"),
    (["-p", "x", "--rows", "most"], "--rows"),
    (["-p", "x", "--propose", "esp", "--rows", "30"], "--rows"),
    (["-p", "x", "--tree", "7,2"], "--tree"),
    (["-p", "x", "--propose", "recycle", "--state", "f"], "--state"),
    (["-p", "x", "--propose", "esp", "--no-state"], "--no-state"),
    (["-p", "x", "--state", "f", "--no-state"], "--no-state"),
    (["-p", "x", "--state", "f", "--rows", "8"], "--state"),
    (["-p", "x", "--heads", "no-such-file"], "--heads"),
    (["-p", "x", "--heads", __file__, "--propose", "recycle"], "--heads"),
    (["-p", "x", "--masks", "0"], "--masks"),
    (["-p", "x", "--mask-children", "-1"], "--mask-children"),
    (["-p", "x", "--mask-init", "median"], "--mask-init"),
    (["-p", "x", "--mask-init", "last-k:0"], "--mask-init"),
    (["-p", "x", "--mask-update", "2"], "--mask-update"),
    (["-p", "x", "--compare", "--propose", "none"], "--compare"),
    (["-p", "x", "--stats-json", "-"], "--stats-json"),
    (["-p", "x", "--stats-json", "/"], "--stats-json"),
    (["-p", "x", "--stats-json", "no/such/directory/x"], "--stats-json"),
    (["-p", "x", "-j", "{"], "-j/--json-schema"),
    (["-p", "x", "-j", '{"$ref": "#/nowhere"}'], "-j/--json-schema"),
    (["-p", "x", "-jf", "no-such-file"], "-jf/--json-schema-file"),
    (["-p", "x", "--grammar-file", "no-such-file"], "--grammar-file"),
    (["-p", "x", "--grammar", "a", "-j", "{}"], "-j/--json-schema"),
    (["-p", "x", "-m", "a", "-hf", "b/c"], "-hf/--hf-repo"),
    (["-p", "x", "-r", ""], "-r/--reverse-prompt"),
    (["-p", "x", "-sys", ""], "-sys/--system-prompt"),
    (["-p", "x", "-f", "y"], "-f/--file"),
    (["-p", ""], "-p/--prompt"),
    (["-p", "a\\x00b"], "-p/--prompt"),
    (["-p", "\\xff"], "-p/--prompt"),
    (["-p", os.fsdecode(b"\xff")], "-p/--prompt"),
    (["-f", "no-such-file"], "-f/--file"),
    (["-f", "/"], "-f/--file"),
    ([], "-p/--prompt"),
    (["-p"], "-p/--prompt"),
    (["-p", "x", "--no-such-option"], "--no-such-option"),
    (["-p", "x", "--temperature", "1"], "--temperature"),
]


@pytest.mark.parametrize(("arguments", "option"), BAD_OPTIONS, ids=lambda value: " ".join(value)[:40] or "nothing")
def test_bad_options(arguments, option, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        run.main(arguments)
    assert caught.value.code == 2
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    first, hint = stderr.splitlines()
    assert first.startswith("maskprobe-run: error: ")
    assert option in first
    assert hint == "maskprobe-run --help lists the options"


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["-l", "100000+1"], "-l/--logit-bias"),
        (["--grammar", "root ::= ("], "--grammar"),
        (["--propose", "esp", "--mask-init", "token:100000"], "--mask-init"),
        (["--propose", "esp", "--mask-init", "file:no-such-file"], "--mask-init"),
        (["--propose", "esp", "--tree", "200"], "--tree"),
        (["--propose", "esp", "--tree", "7,2", "--masks", "1"], "--masks"),
        (["--propose", "esp", "--tree", "dynamic", "--rows", "2"], "--rows"),
        (["-ub", "4"], "-ub"),
        (["-ctv", "q8_0", "-fa", "off"], "-ctv"),
    ],
    ids=lambda value: " ".join(value),
)
def test_options_that_do_not_fit_the_model(tiny, arguments, option, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        run.main(["-t", "1", "-m", str(tiny), "-p", "x", "-n", "1", *arguments])
    assert caught.value.code == 2
    stdout, stderr = capfd.readouterr()
    assert stdout == ""
    assert option in one_error_line(stderr.encode())


@pytest.mark.parametrize("content", [b"", b"\n", b"a\xffb", b"a\0b", b"\xc3"], ids=repr)
def test_bad_prompt_content(tmp_path, content):
    file = tmp_path / "prompt.txt"
    file.write_bytes(content)
    for arguments, option in ((["-f", file], "-f/--file"), (["-p", "-"], "-p/--prompt")):
        done = command(*arguments, stdin=content)
        assert done.returncode == 2
        assert done.stdout == b""
        assert option in one_error_line(done.stderr)

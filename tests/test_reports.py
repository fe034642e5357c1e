"""The inputs of public bug reports that lie in the shared folder: each gives the right thing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli_process import command
from maskprobe import DecodeError, Engine, Model, SamplingParams

GREEDY = SamplingParams(temp=0.0)
KERNELS = pytest.mark.parametrize("kernels", ["ours", "stock"])
SOURCES = ["none", "all", "esp", "esp-soft", "lookup", "ngram", "lookahead", "recycle", "logits", "marginal"]
BAD_TOKEN = 262


@pytest.fixture(scope="module")
def reports(shared_folder) -> Path:
    folder = shared_folder / "reports"
    if not folder.is_dir():
        pytest.skip("no reports in the shared folder")
    return folder


@pytest.fixture(scope="module")
def stories(shared_folder) -> Path:
    return shared_folder / "models" / "stories260K.gguf"


@pytest.fixture(scope="module")
def damaged(reports, stories, tmp_path_factory) -> Path:
    """The model with NaN in one row of its embeddings."""
    path = tmp_path_factory.mktemp("damaged") / "nan.gguf"
    subprocess.run(
        [sys.executable, reports / "nanmodel.py", stories, path, str(BAD_TOKEN)], check=True, stdout=subprocess.DEVNULL
    )
    return path


# --- structured output -----------------------------------------------------------------------------------------------


def is_chain(value) -> bool:
    return value is None or (isinstance(value, dict) and is_chain(value["next"]))


RIGHT = {
    "int_range": lambda value: isinstance(value, int) and 3 <= value <= 12,
    "enum_escape": lambda value: value in ("line1\nline2", "C:\\new"),
    "enum_quote": lambda value: value in ('say "hi"', "no"),
    "recursive": is_chain,
    "text": lambda value: isinstance(value["text"], str),
    "maxlen1500": lambda value: isinstance(value, str) and len(value) <= 1500,
}
MAY_BE_CUT = {"recursive", "text", "maxlen1500"}  # what has no bound, or a far one


@pytest.mark.parametrize("sampling", [["--temp", "0"], ["--temp", "1.5", "--seed", "4"]], ids=["greedy", "hot"])
@pytest.mark.parametrize("name", RIGHT)
def test_a_schema(reports, stories, name, sampling):
    n = {"maxlen1500": 40}.get(name, 120)
    settings = [*sampling, "-n", n, "-c", 512, "-jf", reports / f"{name}.json", "-p", "The answer is"]
    done = command("-m", stories, "--no-display-prompt", *settings)
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode()
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        assert name in MAY_BE_CUT and text.strip()[0] in '"{'
        assert not [c for c in text.rstrip("\n") if c < " "], "a raw control character"
        return
    assert RIGHT[name](value), text


@pytest.mark.parametrize("n", [100_000, 100_000_000])
def test_a_far_bound(stories, n):
    """Refused in one line, or obeyed: never a crash."""
    schema = json.dumps({"type": "string", "maxLength": n})
    done = command("-m", stories, "--temp", "0", "-n", 20, "-j", schema, "-p", "The answer is")
    assert done.returncode in (0, 2), done.stderr.decode()
    if done.returncode == 2:
        assert [line for line in done.stderr.decode().splitlines() if "error:" in line and "-j" in line]
        assert len(done.stderr) < 2000


# --- numbers ---------------------------------------------------------------------------------------------------------


@KERNELS
def test_a_row_that_is_not_accepted_is_spoilt(damaged, kernels):
    with Model(damaged, kernels=kernels, n_threads=1) as model:
        prompt = model.tokenize("Once upon a time")
        tokens = {}
        for source in SOURCES:
            with Engine(model, n_ctx=256, n_threads=1) as engine:
                tokens[source] = [r.token for r in engine.generate(prompt, GREEDY, max_tokens=60, proposer=source)]
        assert len(tokens["none"]) == 60
        assert {source for source in SOURCES if tokens[source] != tokens["none"]} == set()


@KERNELS
def test_good_prompts_after_a_spoilt_one(damaged, kernels):
    with Model(damaged, kernels=kernels, n_threads=1) as model, Engine(model, n_ctx=256, n_threads=1) as engine:
        good = model.tokenize("Once upon a time")
        expected = [r.token for r in engine.generate(good, GREEDY, max_tokens=20)]
        for _ in range(2):
            with pytest.raises(DecodeError) as caught:
                list(engine.generate([*good, BAD_TOKEN, *good[1:]], GREEDY, max_tokens=5))
            assert caught.value.status == "numeric"
            assert [r.token for r in engine.generate(good, GREEDY, max_tokens=20)] == expected
        with Engine(model, n_ctx=256, n_threads=1) as other:
            assert [r.token for r in other.generate(good, GREEDY, max_tokens=20)] == expected


# --- fork ------------------------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
from maskprobe import Engine, Model, SamplingParams, StateError
path, kernels, what = sys.argv[1:]
def generate(model):
    with Engine(model, n_ctx=256, n_threads=2) as engine:
        list(engine.generate(model.tokenize("Once upon a time"), SamplingParams(temp=0.0), max_tokens=10))
model = Model(path, kernels=kernels, n_threads=2)
if what != "unused":
    generate(model)
if os.fork() == 0:
    signal.alarm(20)
    status = 3
    try:
        generate(Model(path, kernels=kernels, n_threads=2) if what == "newmodel" else model)
    except StateError as error:
        print(error, flush=True)
        status = 0
    finally:
        os._exit(status)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@KERNELS
@pytest.mark.parametrize("what", ["session", "unused", "newmodel"])
def test_a_forked_child(stories, kernels, what):
    command = [sys.executable, "-c", CHILD, stories, kernels, what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "spawn" in done.stdout and done.stdout.count("\n") == 1, done

"""docs/llama-cpp-python.md names every argument of llama-cpp-python, and what it says of them holds."""

import inspect
import re

import llama_cpp
import numpy as np
import pytest

from conftest import PROJECT
from maskprobe import ArgumentError, ContextFull, Llama

CALLS = {
    "Llama()": "__init__",
    "create_completion()": "create_completion",
    "create_chat_completion()": "create_chat_completion",
}
ROW = re.compile(r"\| `(\w+)` \| (\w+) \|")

# A value that means something, for each argument that is refused.
VALUES = {
    "split_mode": 2,
    "main_gpu": 1,
    "vocab_only": True,
    "kv_overrides": {"llama.context_length": 5},
    "rope_scaling_type": 1,
    "pooling_type": 3,
    "attention_type": 1,
    "rope_freq_base": 1e6,
    "rope_freq_scale": 0.5,
    "yarn_ext_factor": 1.0,
    "yarn_attn_factor": 0.5,
    "yarn_beta_fast": 16.0,
    "yarn_beta_slow": 2.0,
    "yarn_orig_ctx": 4096,
    "op_offload": True,
    "swa_full": True,
    "lora_base": "base.gguf",
    "numa": True,
    "tokenizer": object(),
    "typical_p": 0.9,
    "tfs_z": 0.9,
    "mirostat_mode": 2,
}
# Where the default is another one; the table says "different" there.
OTHER_DEFAULTS = {"flash_attn": None, "stop": ()}


def rows(section: str) -> dict[str, str]:
    """Argument -> same, different or refused."""
    text = (PROJECT / "docs" / "llama-cpp-python.md").read_text("utf-8")
    part = text.split(f"## {section}\n")[1].split("\n## ")[0]
    found = ROW.findall(part)
    assert len(dict(found)) == len(found)
    return dict(found)


def arguments(owner: type, name: str) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(getattr(owner, name)).parameters
    return {name: p for name, p in parameters.items() if name != "self" and p.kind != p.VAR_KEYWORD}


@pytest.mark.parametrize("section", CALLS)
def test_every_argument_is_in_the_table(section):
    theirs = arguments(llama_cpp.Llama, CALLS[section])
    assert list(rows(section)) == list(theirs)
    assert set(rows(section).values()) <= {"same", "different", "refused"}


@pytest.mark.parametrize("section", CALLS)
def test_every_argument_is_taken_with_its_default(section):
    theirs, ours = arguments(llama_cpp.Llama, CALLS[section]), arguments(Llama, CALLS[section])
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        expected = OTHER_DEFAULTS.get(name, parameter.default)
        assert ours[name].default == expected and ours[name].kind == parameter.kind, name


@pytest.mark.parametrize("name", [name for name, kind in rows("Llama()").items() if kind == "refused"])
def test_what_a_model_refuses(bundled_model_path, name):
    with pytest.raises(TypeError, match=name) as raised:
        Llama(bundled_model_path, verbose=False, **{name: VALUES[name]})
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def llama(bundled_model_path):
    with Llama(bundled_model_path, verbose=False, n_threads=1) as llama:
        yield llama


@pytest.mark.parametrize(
    "section, name", [(s, name) for s in list(CALLS)[1:] for name, kind in rows(s).items() if kind == "refused"]
)
def test_what_a_request_refuses(llama, section, name):
    first = "x" if section == "create_completion()" else [{"role": "user", "content": "x"}]
    with pytest.raises(TypeError, match=name):
        getattr(llama, CALLS[section])(first, **{name: VALUES[name]})


def test_defaults_may_be_written_out(bundled_model_path):
    """A program that names every argument with llama-cpp-python's default runs."""
    settings = {name: p.default for name, p in arguments(llama_cpp.Llama, "__init__").items() if name != "model_path"}
    with Llama(str(bundled_model_path), **{**settings, "verbose": False, "n_threads": 1}) as llama:
        for call, first in (("create_completion", "x"), ("create_chat_completion", [{"role": "user", "content": "x"}])):
            parameters = arguments(llama_cpp.Llama, call)
            named = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
            assert getattr(llama, call)(first, **{**named, "max_tokens": 2})["usage"]["completion_tokens"] == 2


def test_embeddings(llama, bundled_model_path):
    """The mean of the hidden states, as llama-cpp-python's with that pooling, whatever else the engine does."""
    texts = ["Once upon a time", "there was a little girl. " * 20]
    theirs = llama_cpp.Llama(str(bundled_model_path), embedding=True, pooling_type=1, n_ctx=512, verbose=False)
    ours = llama.embed(texts)
    for mine, one in zip(ours, theirs.embed(texts), strict=True):
        cosine = np.dot(mine, one) / np.linalg.norm(mine) / np.linalg.norm(one)
        assert cosine > 0.999
    assert llama.embed(texts[0]) == ours[0]
    assert np.linalg.norm(llama.embed(texts[0], normalize=True)) == pytest.approx(1, abs=1e-5)
    made, usage = llama.create_embedding(texts, model="m"), theirs.create_embedding(texts)["usage"]
    assert made["usage"] == usage and made["model"] == "m"
    assert [d["embedding"] for d in made["data"]] == ours
    _, n_tokens = llama.embed(texts, return_count=True)
    assert n_tokens == usage["total_tokens"]
    for bad in ([5], ["\0"]):
        with pytest.raises(ArgumentError):
            llama.embed(bad)
    for error in (ContextFull, ValueError):
        with pytest.raises(error, match="tokens, the context"):
            llama.embed("word " * 5000, truncate=False)

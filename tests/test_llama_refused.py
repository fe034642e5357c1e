"""What Llama refuses: one line that names the argument, and the next request is none the worse."""

import warnings

import pytest

from maskprobe import ArgumentError, ContextFull, Llama, ModelError, StateError

PROMPT = "class Foo:\n"
QUIET = {"verbose": False, "n_threads": 1}


@pytest.fixture(scope="module")
def llama(bundled_model_path):
    with Llama(bundled_model_path, **QUIET) as llama:
        yield llama


def choice_of(result) -> dict:
    return result["choices"][0]


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"temperature": "hot"}, ValueError, "temperature"),
        ({"temperature": float("nan")}, ValueError, "temperature"),
        ({"top_k": 1.5}, ValueError, "top_k"),
        ({"max_tokens": "16"}, ValueError, "max_tokens"),
        ({"seed": 2**40}, ValueError, "seed"),
        ({"stop": [""]}, ValueError, r"stop\[0\]"),
        ({"stop": 5}, ValueError, "stop"),
        ({"stop": ["a", None]}, ValueError, r"stop\[1\]"),
        ({"logit_bias": {"x": 1}}, ValueError, "logit_bias"),
        ({"logit_bias": {1: "much"}}, ValueError, "logit_bias"),
        ({"logit_bias": {10**6: 1.0}}, ValueError, "1000000"),
        ({"logprobs": 65}, ValueError, "logprobs = 65"),
        ({"logprobs": -1}, ValueError, "logprobs"),
        ({"echo": 1}, ValueError, "echo"),
        ({"repeat_penalty": 0}, ValueError, "penalty_repeat"),
        ({"grammar": "no grammar"}, ValueError, "grammar"),
        ({"grammar": 5}, TypeError, "grammar"),
        ({"logits_processor": 5}, ValueError, "logits_processor"),
        ({"stream_options": {"speed": 1}}, TypeError, "stream_options.speed"),
        ({"typical_p": 0.9}, TypeError, "typical_p"),
        ({"tfs_z": 0.9}, TypeError, "tfs_z"),
        ({"mirostat_mode": 2}, TypeError, "mirostat_mode"),
        ({"best_of": 2}, TypeError, "best_of"),
        ({"prompt": []}, ValueError, "empty"),
        ({"prompt": [1, -1]}, ValueError, r"prompt\[1\]"),
        ({"prompt": [1, 10**9]}, ValueError, r"prompt\[1\]"),
        ({"prompt": "a\0b"}, ValueError, "NUL"),
        ({"prompt": 5}, ValueError, "prompt"),
        ({"prompt": "x " * 1000}, ValueError, "512"),
        ({"prompt": "x " * 1000}, ContextFull, "512"),
    ],
    ids=str,
)
def test_refused_requests(llama, settings, error, message):
    with pytest.raises(error, match=message) as raised:
        llama(**{"prompt": PROMPT, **settings})
    assert "\n" not in str(raised.value)
    assert choice_of(llama(PROMPT, max_tokens=1, temperature=0))["text"]


def test_refused_models(bundled_model_path, tmp_path):
    with pytest.raises(ValueError, match=r"no file .*none\.gguf"):
        Llama(tmp_path / "none.gguf", **QUIET)
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError):
        Llama(tmp_path / "bad.gguf", **QUIET)
    for settings, error in [({"chat_format": "nobody's"}, ArgumentError), ({"type_k": 99}, ArgumentError)]:
        with pytest.raises(error, match=str(next(iter(settings.values())))):
            Llama(bundled_model_path, **QUIET, **settings)
    with pytest.raises(TypeError, match="n_gqa"):
        Llama(bundled_model_path, n_gqa=8, **QUIET)


def test_two_tokens_that_begin_a_text_are_warned_of(llama):
    bos = llama.token_bos()
    with pytest.warns(RuntimeWarning, match="begin"):
        llama([bos, bos, 5], max_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llama(PROMPT, max_tokens=1)


def test_after_close(bundled_model_path):
    closed = Llama(bundled_model_path, **QUIET)
    closed.close()
    closed.close()
    with pytest.raises(StateError, match="closed"):
        closed(PROMPT)

"""What Llama refuses: one line that names the argument, and the next request is none the worse."""

import functools
import warnings

import numpy as np
import pytest

from maskprobe import ArgumentError, ContextFull, Llama, ModelError, StateError
from maskprobe.openai.values import Unsupported

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
        ({"logit_bias": {1.5: 1.0}}, ValueError, "1.5 is no token id"),
        ({"logit_bias": {True: 1.0}}, ValueError, "True is no token id"),
        ({"logit_bias": {1: 10**400}}, ValueError, "bias of token 1"),
        ({"temperature": 10**400}, ValueError, "temperature"),
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


class Nameless:
    def __repr__(self) -> str:
        raise RuntimeError


# Values that are hard to show.
STRANGE = {
    "beyond floats": 10**400,
    "beyond int()": -(10**5000),
    "long": "x" * 10**5,
    "two lines": "a\n\x1b[2J",
    "mapping": {"\n" * 500: "\n" * 500},
    "array": np.zeros(3),
    "no repr": Nameless(),
}
NUMBERS = ("temperature", "top_p", "min_p", "top_k", "seed", "max_tokens", "logprobs", "repeat_penalty")
OTHERS = ("typical_p", "tfs_z", "mirostat_mode", "echo", "stop", "logit_bias", "grammar", "draft", "stream_options")


@pytest.mark.parametrize("value", STRANGE.values(), ids=STRANGE)
def test_errors_show_any_value_in_one_line(llama, bundled_model_path, value):
    requests = [{name: value} for name in (*NUMBERS, *OTHERS)]
    requests += [{"logit_bias": {5: value}}, {"stop": ["a", value]}, {"prompt": [1, value]}]
    requests += [{"logit_bias": {value: 1.0}}] if value.__hash__ else []
    messages = [{"role": value, "content": "x"}, {"role": "user", "content": [{"type": value}]}]
    messages += [{"role": "user", "content": [{"type": "text", "text": value}]}]
    chats = [{"messages": [message]} for message in messages]
    chats += [{name: value} for name in ("tools", "tool_choice", "response_format", "chat_template_kwargs")]
    chats += [{"response_format": {"type": value}}, {"tools": [{"type": value}]}, {"tool_choice": {"type": value}}]
    chats += [{"tool_choice": {"type": "function", "function": {"name": value}}}]
    chats += [{"tools": [{"type": "function", "function": {"name": value}}]}]
    calls = [functools.partial(llama, **{"prompt": PROMPT, "max_tokens": 1, **request}) for request in requests]
    user = [{"role": "user", "content": "x"}]
    calls += [functools.partial(llama.create_chat_completion, **{"messages": user, **chat}) for chat in chats]
    calls += [functools.partial(llama.sample, idx=value)]
    calls += [
        functools.partial(Llama, bundled_model_path, **QUIET, **{name: value})
        for name in ("split_mode", "tensor_split", "kv_overrides", "type_k", "chat_format")
    ]
    n_refused = 0
    for call in calls:
        try:
            call()
        except (ArgumentError, Unsupported, ContextFull) as error:
            n_refused += 1
            assert str(error).isprintable() and len(str(error)) < 400, call.keywords.keys()
    assert n_refused > len(calls) / 2


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

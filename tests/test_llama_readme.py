"""Programs as llama-cpp-python's readme shows them, in our own words: as they are, and with the import changed."""

import json
import shutil

import numpy as np
import pytest

from maskprobe import Llama

IMPORT = "from llama_cpp import Llama"

# Each ends with `result`. `model_path` is there, a model of any kind.
COMPLETION = """
from llama_cpp import Llama
llm = Llama(model_path=model_path, seed=1337, n_ctx=256, verbose=False)
result = llm("Q: Which modules read arguments? A: ", max_tokens=16, stop=["Q:", "\\n\\n"], echo=True, temperature=0)
"""

BY_NAME = """
from llama_cpp import Llama
llm = Llama(model_path=model_path, n_gpu_layers=-1, verbose=False)
result = llm.create_completion("import os\\n", max_tokens=None, temperature=0, top_k=10)
"""

STREAM = """
from llama_cpp import Llama
llm = Llama(model_path=model_path, verbose=False)
text = ""
for chunk in llm("import os\\n", max_tokens=12, temperature=0, stream=True):
    text += chunk["choices"][0]["text"]
    result = chunk
"""

CHAT = """
from llama_cpp import Llama
llm = Llama(model_path=model_path, chat_format="llama-2", verbose=False)
result = llm.create_chat_completion(
    messages=[
        {"role": "system", "content": "You describe programs."},
        {"role": "user", "content": "Describe this one."},
    ],
    max_tokens=16,
)
"""

CHAT_STREAM = """
from llama_cpp import Llama
llm = Llama(model_path=model_path, chat_format="chatml", verbose=False)
chunks = list(llm.create_chat_completion(messages=[{"role": "user", "content": "x"}], max_tokens=5, stream=True))
result = chunks[0]
"""

JSON_MODE = """
from llama_cpp import Llama
llm = Llama(model_path=model_path, chat_format="chatml", verbose=False)
result = llm.create_chat_completion(
    messages=[
        {"role": "system", "content": "You answer in JSON."},
        {"role": "user", "content": "Who wrote it?"},
    ],
    response_format={"type": "json_object"},
    temperature=0.7,
    max_tokens=60,
)
"""

SCHEMA_MODE = """
from llama_cpp import Llama
llm = Llama(model_path=model_path, chat_format="chatml", verbose=False)
result = llm.create_chat_completion(
    messages=[
        {"role": "system", "content": "You answer in JSON."},
        {"role": "user", "content": "Which team?"},
    ],
    response_format={
        "type": "json_object",
        "schema": {
            "type": "object",
            "properties": {"team": {"enum": ["red", "blue"]}},
            "required": ["team"],
            "additionalProperties": False,
        },
    },
    temperature=0.7,
    max_tokens=60,
)
"""

TOOLS = """
from llama_cpp import Llama
llm = Llama(model_path=model_path, chat_format={chat_format!r}, verbose=False)
result = llm.create_chat_completion(
    messages=[
        {{"role": "system", "content": "You call functions where that helps."}},
        {{"role": "user", "content": "Ann is 31"}},
    ],
    tools=[
        {{
            "type": "function",
            "function": {{
                "name": "Person",
                "parameters": {{
                    "type": "object",
                    "title": "Person",
                    "properties": {{
                        "name": {{"title": "Name", "enum": ["Ann", "Bob"]}},
                        "age": {{"title": "Age", "enum": [31, 32]}},
                    }},
                    "required": ["name", "age"],
                    "additionalProperties": False,
                }},
            }},
        }}
    ],
    tool_choice={{"type": "function", "function": {{"name": "Person"}}}},
    max_tokens=80,
)
"""

LOGPROBS = """
from llama_cpp import Llama
llm = Llama(model_path=model_path, logits_all=True, verbose=False)
result = llm("import os\\n", max_tokens=6, logprobs=3, temperature=0)
"""

SPECULATIVE = """
from llama_cpp import Llama
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
llm = Llama(model_path=model_path, draft_model=LlamaPromptLookupDecoding(num_pred_tokens=4), verbose=False)
result = llm("import os\\n", max_tokens=24, temperature=0)
"""

CONTEXT = """
from llama_cpp import Llama
llm = Llama(model_path=model_path, n_ctx=768, verbose=False)
assert llm.n_ctx() == 768
result = llm("x " * 300, max_tokens=4, temperature=0)
"""

PROGRAMS = {
    "completion": COMPLETION,
    "by name": BY_NAME,
    "stream": STREAM,
    "chat": CHAT,
    "chat stream": CHAT_STREAM,
    "logprobs": LOGPROBS,
    "speculative": SPECULATIVE,
    "context": CONTEXT,
    "tools of their own format": TOOLS.format(chat_format="chatml-function-calling"),
}
WITH_SCHEMAS = {
    "json": JSON_MODE,
    "schema": SCHEMA_MODE,
    "tools": TOOLS.format(chat_format="chatml"),
}


def run(program: str, model_path) -> dict:
    names = {"model_path": str(model_path)}
    exec(program, names)
    close = getattr(names["llm"], "close")  # noqa: B009
    close()
    return names["result"]


def keys(value):
    """The keys of a result, of its lists those of the first item; "usage" may have more than theirs."""
    if isinstance(value, dict):
        return {key: keys(item) for key, item in value.items() if key not in ("usage", "top_logprobs", "function_call")}
    if isinstance(value, list):
        return [keys(item) for item in value[:1]]
    return float if isinstance(value, float | np.floating) else type(value)


def with_ours(program: str) -> str:
    assert program.count(IMPORT) >= 1
    return program.replace(IMPORT + "\n", IMPORT.replace("llama_cpp", "maskprobe") + "\n", 1)


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_with_the_import_changed(program, bundled_model_path):
    theirs, ours = run(program, bundled_model_path), run(with_ours(program), bundled_model_path)
    assert keys(ours) == keys(theirs)
    assert ours["object"] == theirs["object"] and ours["model"] == theirs["model"]
    for name in theirs.get("usage", ()):
        assert type(ours["usage"][name]) is type(theirs["usage"][name])


@pytest.mark.parametrize("program", WITH_SCHEMAS.values(), ids=WITH_SCHEMAS)
def test_with_a_schema(program, bundled_model_path):
    pytest.importorskip("maskprobe.structured")
    theirs, ours = run(program, bundled_model_path), run(with_ours(program), bundled_model_path)
    assert keys(ours) == keys(theirs)
    choice = ours["choices"][0]
    if program is JSON_MODE:
        assert choice["message"]["content"].startswith("{")
        return
    if program is SCHEMA_MODE:
        assert json.loads(choice["message"]["content"])["team"] in ("red", "blue")
        return
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "Person" and choice["finish_reason"] == "tool_calls"
    arguments = json.loads(call["function"]["arguments"])
    assert arguments["name"] in ("Ann", "Bob") and arguments["age"] in (31, 32)


REPO = "someone/small-GGUF"
FILES = ["README.md", "small-Q4_0.gguf", "small-Q8_0.gguf", "more/part.gguf"]


@pytest.fixture
def hub(monkeypatch, tmp_path, bundled_model_path):
    """A stand-in for the Hub: what it was asked for, and whether it can be reached."""
    import huggingface_hub

    asked: list[tuple[str, str]] = []

    def download(repo_id, filename, *, local_dir=None, local_files_only=False, **_settings):
        asked.append((repo_id, filename))
        target = tmp_path / filename
        if local_files_only and not target.exists():
            raise huggingface_hub.errors.LocalEntryNotFoundError("it is not here")
        target.parent.mkdir(exist_ok=True)
        shutil.copy(bundled_model_path, target)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, repo_id: FILES)
    return asked


def test_from_the_hub(hub):
    with Llama.from_pretrained(repo_id=REPO, filename="*Q8_0.gguf", verbose=False, n_threads=1) as llm:
        assert llm.model_path.endswith("small-Q8_0.gguf")
        assert llm("import os\n", max_tokens=2)["usage"]["completion_tokens"] == 2
    assert hub == [(REPO, "small-Q8_0.gguf")]
    settings = {"additional_files": ["more/*"], "verbose": False, "n_threads": 1}
    Llama.from_pretrained(REPO, "small-Q4*", **settings).close()
    assert hub[1:] == [(REPO, "small-Q4_0.gguf"), (REPO, "more/part.gguf")]


@pytest.mark.parametrize("pattern, message", [("*.gguf", "3 files"), ("*Q5*", "no file"), ("", "no file")])
def test_from_the_hub_refused(hub, pattern, message):
    with pytest.raises(Exception, match=message) as raised:
        Llama.from_pretrained(REPO, pattern)
    assert "small-Q4_0.gguf" in str(raised.value) and "\n" not in str(raised.value) and not hub


def test_from_the_hub_without_a_network(hub, monkeypatch):
    import huggingface_hub

    def unreachable(self, repo_id):
        raise ConnectionError("no route to host")

    Llama.from_pretrained(REPO, "*Q8_0.gguf", verbose=False, n_threads=1).close()
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    Llama.from_pretrained(REPO, "small-Q8_0.gguf", verbose=False, n_threads=1).close()
    with pytest.raises(Exception, match="no route to host"):
        Llama.from_pretrained(REPO, "small-Q4_0.gguf", verbose=False)


def test_pydantic_models(bundled_model_path):
    pytest.importorskip("openai")
    with Llama(bundled_model_path, verbose=False, n_threads=1) as llm:
        messages = [{"role": "user", "content": "x"}]
        answer = llm.create_chat_completion_openai_v1(messages, max_tokens=3)
        assert answer.choices[0].message.role == "assistant" and answer.usage.completion_tokens == 3
        chunks = list(llm.create_chat_completion_openai_v1(messages, max_tokens=3, stream=True))
        assert chunks[-1].choices[0].finish_reason == "length"

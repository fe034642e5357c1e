"""Llama beside llama_cpp.Llama on one model: the same texts, the same shapes; and what only ours can do."""

import asyncio
import gc
import json
import pickle
import threading
import weakref

import llama_cpp
import numpy as np
import pytest
from llama_cpp import llama_chat_format
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from chat_models import FILL, with_metadata
from maskprobe import (
    Llama,
    LlamaGrammar,
    LogitsProcessorList,
    MinTokensLogitsProcessor,
    StateError,
    StoppingCriteriaList,
    TokenResult,
)

PROMPT = "class Foo:\n"
QUIET = {"verbose": False, "n_threads": 1}
STOCK = {**QUIET, "kernels": "stock", "flash_attn": False, "rows": 8}  # as llama-cpp-python computes


@pytest.fixture(scope="module")
def ours(bundled_model_path):
    with Llama(bundled_model_path, **STOCK) as llama:
        yield llama


@pytest.fixture(scope="module")
def crowd(bundled_model_path):
    with Llama(bundled_model_path, n_parallel=4, **QUIET) as llama:
        yield llama


@pytest.fixture(scope="module")
def theirs(bundled_model_path):
    llama = llama_cpp.Llama(str(bundled_model_path), logits_all=True, n_threads_batch=1, **QUIET)
    yield llama
    llama.close()


def shape(value):
    """Keys and types. Numbers of numpy count as Python's."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return float if isinstance(value, float | np.floating) else type(value)


def choice_of(result) -> dict:
    return result["choices"][0]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 0.8, "seed": 5},
        {"temperature": 1.2, "seed": 9, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
        {"temperature": -1, "seed": 3},
        {"temperature": 0, "stop": ["\n\n"]},
        {"temperature": 0, "stop": "import"},
        {"temperature": 0.7, "seed": 2, "logit_bias": {10: 3.0}},
        {"temperature": 0, "echo": True},
        {"temperature": 0, "logprobs": 2},
        {"temperature": 0, "logprobs": 3, "echo": True},
        {"temperature": 0, "max_tokens": None},
        {"temperature": 0, "max_tokens": -1},
        {"temperature": 0, "max_tokens": 5000},
    ],
    ids=str,
)
def test_a_completion_is_theirs(ours, theirs, settings):
    settings = {"max_tokens": 40, **settings}
    mine, other = ours(PROMPT, **settings), theirs(PROMPT, **settings)
    assert mine.keys() == other.keys()
    assert choice_of(mine)["text"] == choice_of(other)["text"]
    assert choice_of(mine)["finish_reason"] == choice_of(other)["finish_reason"]
    assert shape(choice_of(mine)) == shape(choice_of(other))
    for name, count in other["usage"].items():
        assert mine["usage"][name] == count
    if settings.get("logprobs"):
        mine, other = choice_of(mine)["logprobs"], choice_of(other)["logprobs"]
        assert mine["tokens"] == other["tokens"] and mine["text_offset"] == other["text_offset"]
        assert [t and t.keys() for t in mine["top_logprobs"]] == [t and t.keys() for t in other["top_logprobs"]]
        pairs = zip(mine["token_logprobs"], other["token_logprobs"], strict=True)
        assert all(a == b if a is None else a == pytest.approx(b, abs=1e-3) for a, b in pairs)


def test_a_stream_is_theirs(ours, theirs):
    settings = {"max_tokens": 12, "temperature": 0, "stream": True}
    mine, other = list(ours(PROMPT, **settings)), list(theirs(PROMPT, **settings))
    assert [choice_of(chunk)["text"] for chunk in mine] == [choice_of(chunk)["text"] for chunk in other]
    assert [shape(chunk) for chunk in mine] == [shape(chunk) for chunk in other]
    assert len({chunk["id"] for chunk in mine}) == 1


@pytest.mark.parametrize("chat_format", ["llama-2", "chatml", "vicuna", "alpaca", "zephyr", "mistral-instruct", None])
def test_a_chat_format_is_theirs(bundled_model_path, chat_format):
    messages = [{"role": "system", "content": "You write Python."}, {"role": "user", "content": "import os"}]
    settings = {"temperature": 0, "max_tokens": 10, "logprobs": True, "top_logprobs": 2}
    other = llama_cpp.Llama(str(bundled_model_path), chat_format=chat_format, logits_all=True, **QUIET)
    with Llama(bundled_model_path, chat_format=chat_format, **STOCK) as llama:
        assert llama.chat_format == other.chat_format
        for stream in (False, True):
            a = llama.create_chat_completion(messages, stream=stream, **settings)
            b = other.create_chat_completion(messages, stream=stream, **settings)
            for mine, his in zip(a, b, strict=True) if stream else [(a, b)]:
                assert mine.keys() == his.keys()
                assert {k: v for k, v in choice_of(mine).items() if k != "logprobs"} == {
                    k: v for k, v in choice_of(his).items() if k != "logprobs"
                }
        assert list(llama.eval_tokens)[: other.n_tokens] == list(other.eval_tokens)  # his last token waits for the next
    other.close()


def test_a_real_chat_is_theirs(real_model_path):
    """In the model's own template."""
    messages = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "Name three planets."}]
    other = llama_cpp.Llama(str(real_model_path), **QUIET)
    expected = other.create_chat_completion(messages, temperature=0, max_tokens=16)
    other.close()
    with Llama(real_model_path, draft=False, **STOCK) as llama:
        answer = llama.create_chat_completion(messages, temperature=0, max_tokens=16)
    assert answer["choices"] == expected["choices"]
    assert answer["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]


def test_tokens_and_metadata_are_theirs(ours, theirs):
    text = "def f():\n\treturn 'ä€' # <s>".encode()
    for add_bos in (True, False):
        for special in (True, False):
            tokens = ours.tokenize(text, add_bos, special)
            assert tokens == theirs.tokenize(text, add_bos, special)
            assert ours.detokenize(tokens, special=special) == theirs.detokenize(tokens, special=special)
    assert ours.tokenizer().encode("import os") == theirs.tokenizer().encode("import os")
    assert ours.metadata == theirs.metadata
    for name in ("token_bos", "token_eos", "token_nl", "n_vocab", "n_ctx", "n_embd"):
        assert getattr(ours, name)() == getattr(theirs, name)()
    rows = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    np.testing.assert_allclose(ours.logits_to_logprobs(rows), theirs.logits_to_logprobs(rows), rtol=1e-6)
    assert ours.longest_token_prefix([1, 2, 3], [1, 2]) == theirs.longest_token_prefix([1, 2, 3], [1, 2]) == 2


def test_a_processor_and_a_criterion_are_asked_as_theirs(ours, theirs):
    def run(llama):
        seen = []

        def no_line_breaks(tokens, scores):
            scores[llama.token_nl()] = -np.inf
            return scores

        def five(tokens, logits):
            seen.append(len(tokens))
            return len(tokens) >= len(llama.tokenize(PROMPT.encode())) + 5

        settings = {"max_tokens": 20, "temperature": 0}
        plain = llama(PROMPT, logits_processor=LogitsProcessorList([no_line_breaks]), **settings)
        stopped = llama(PROMPT, stopping_criteria=StoppingCriteriaList([five]), **settings)
        return choice_of(plain)["text"], choice_of(stopped)

    assert run(ours) == run(theirs)
    assert run(ours)[1]["finish_reason"] == "stop"


def test_a_processor_that_keeps_the_text_going(ours):
    ends = ours.token_eos()
    least = MinTokensLogitsProcessor(20, ends)
    answer = ours("x = 1\n", logit_bias={ends: 100.0}, logits_processor=least, temperature=0, max_tokens=30)
    assert answer["usage"]["completion_tokens"] == 20 and choice_of(answer)["finish_reason"] == "stop"
    with pytest.raises(ZeroDivisionError):
        ours("x", logits_processor=lambda tokens, scores: 1 // 0)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= [0-9]+ "\\n"',
        LlamaGrammar.from_string('root ::= [0-9]+ "\\n"'),
        llama_cpp.LlamaGrammar.from_string('root ::= [0-9]+ "\\n"'),
    ],
    ids=["text", "ours", "theirs"],
)
def test_a_grammar(ours, theirs, grammar):
    answer = choice_of(ours("x = ", grammar=grammar, temperature=0, max_tokens=8))
    expected = llama_cpp.LlamaGrammar.from_string('root ::= [0-9]+ "\\n"')
    assert answer["text"] == choice_of(theirs("x = ", grammar=expected, temperature=0, max_tokens=8))["text"]
    assert answer["text"].strip().isdigit()


def test_a_grammar_file(ours, tmp_path):
    file = tmp_path / "yes.gbnf"
    file.write_text('root ::= "yes"', "utf-8")
    answer = ours("x", grammar=LlamaGrammar.from_file(file))
    assert (choice_of(answer)["text"], choice_of(answer)["finish_reason"]) == ("yes", "stop")
    with pytest.raises(OSError):
        LlamaGrammar.from_file(tmp_path / "none")
    (tmp_path / "empty").write_text("", "utf-8")
    with pytest.raises(ValueError, match="empty"):
        LlamaGrammar.from_file(tmp_path / "empty")


def test_a_schema_as_grammar(ours):
    pytest.importorskip("maskprobe.structured")
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"], "additionalProperties": False}
    answer = ours("x", grammar=LlamaGrammar.from_json_schema(json.dumps(schema)), max_tokens=30)
    assert json.loads(choice_of(answer)["text"]) == {"n": 7} and choice_of(answer)["finish_reason"] == "stop"


def test_lower_level_is_theirs(ours, bundled_model_path):
    theirs = llama_cpp.Llama(str(bundled_model_path), logits_all=True, **QUIET)  # it keeps samplers of completions
    tokens = ours.tokenize(PROMPT.encode())
    for llama in (ours, theirs):
        llama.reset()
        llama.eval(tokens[:-1])
        llama.eval(tokens[-1:])
    assert ours.n_tokens == theirs.n_tokens == len(tokens) and list(ours.eval_tokens) == list(theirs.eval_tokens)
    np.testing.assert_allclose(ours.eval_logits[0], theirs.scores[len(tokens) - 1], atol=1e-3)
    assert ours.sample(temp=0) == theirs.sample(temp=0, idx=len(tokens) - 1)

    def first(llama):
        found = llama.generate(tokens, temp=0)
        return [next(found) for _ in range(8)]

    assert first(ours) == first(theirs)
    theirs.close()
    with pytest.raises(TypeError, match="logits_processor"):
        ours.sample(logits_processor=lambda tokens, scores: scores)
    with pytest.raises(TypeError, match="idx"):
        ours.sample(idx=0)
    ours.reset()
    with pytest.raises(StateError, match="eval"):
        ours.sample()


def test_states(ours):
    first = ours(PROMPT, max_tokens=6, temperature=0)
    state = pickle.loads(pickle.dumps(ours.save_state()))
    following = ours.sample(temp=0)
    ours("something else", max_tokens=3)
    ours.load_state(state)
    assert ours.n_tokens == state.n_tokens == first["usage"]["total_tokens"]
    assert ours.sample(temp=0) == following
    assert next(iter(ours.generate([following], temp=0, reset=False))) == ours_continued(ours, first, following)


def ours_continued(llama, first, following) -> int:
    text = [*llama.tokenize(PROMPT.encode()), *(result.token for result in first.tokens), following]
    return llama(text, max_tokens=1, temperature=0).tokens[0].token


def test_evidence_and_counts(ours):
    answer = ours(PROMPT, max_tokens=40, temperature=0)
    assert "".join(result.text for result in answer.tokens) == choice_of(answer)["text"]
    assert all(isinstance(result, TokenResult) for result in answer.tokens)
    details = answer["usage"]["completion_tokens_details"]
    accepted = sum(result.from_draft for result in answer.tokens)
    assert 0 < accepted <= details["accepted_tokens"] <= details["draft_tokens"]
    assert details["passes"] == answer.stats.passes < 39
    assert json.loads(json.dumps(answer)) == answer
    theirs = {"accepted_prediction_tokens", "rejected_prediction_tokens"}
    assert details.keys() - theirs == {"draft_tokens", "accepted_tokens", "passes"}

    plain = ours(PROMPT, max_tokens=40, temperature=0, draft=False)
    assert choice_of(plain)["text"] == choice_of(answer)["text"]
    assert plain["usage"]["completion_tokens_details"]["draft_tokens"] == 0
    few = ours(PROMPT, max_tokens=40, temperature=0, rows=2)
    assert few["choices"] == plain["choices"] and few.stats.rows <= 2 * few.stats.passes
    assert few.stats.n_drafted > 0 == ours(PROMPT, max_tokens=40, temperature=0, rows=1).stats.n_drafted
    for bad in (0, 65, 1.5, "many", True):
        with pytest.raises(ValueError, match="rows"):
            ours(PROMPT, rows=bad)

    chunks = list(ours(PROMPT, max_tokens=40, temperature=0, stream=True, stream_options={"include_usage": True}))
    assert [result.token for chunk in chunks for result in chunk.tokens] == [result.token for result in answer.tokens]
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 40
    assert chunks[-2].stats is not None and choice_of(chunks[-2])["finish_reason"] == "length"


def test_a_draft_model_changes_nothing(bundled_model_path, ours):
    draft = LlamaPromptLookupDecoding(num_pred_tokens=4)
    with Llama(bundled_model_path, draft_model=draft, **STOCK) as llama:
        answer = llama(PROMPT, max_tokens=40, temperature=0)
    assert choice_of(answer)["text"] == choice_of(ours(PROMPT, max_tokens=40, temperature=0))["text"]
    assert answer["usage"]["completion_tokens_details"]["accepted_tokens"] > 0
    assert "proposer" in {result.source for result in answer.tokens}


def test_threads_share_one_llama(crowd):
    """Each has the text that it has alone; more of them than n_parallel wait."""
    prompts = [f"def function_{i}(" for i in range(9)]
    settings = {"max_tokens": 12, "temperature": 0.8}
    alone = [choice_of(crowd(prompt, seed=i, **settings))["text"] for i, prompt in enumerate(prompts)]
    found: dict[int, str] = {}

    def run(i: int) -> None:
        found[i] = choice_of(crowd(prompts[i], seed=i, **settings))["text"]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(prompts))] == alone


def test_event_loops(crowd):
    settings = {"max_tokens": 12, "temperature": 0}
    alone = choice_of(crowd(PROMPT, **settings))["text"]

    async def run():
        chunks = crowd.acreate_completion(PROMPT, stream=True, **settings)
        streamed = "".join([choice_of(chunk)["text"] async for chunk in chunks])
        messages = [{"role": "user", "content": "import"}]
        wholes = await asyncio.gather(
            crowd.acreate_completion(PROMPT, **settings), crowd.acreate_chat_completion(messages, **settings)
        )
        given_up = crowd.acreate_completion(PROMPT, stream=True, max_tokens=None)
        async for _ in given_up:
            break
        await given_up.aclose()
        assert [chunk async for chunk in given_up] == []
        return streamed, wholes

    streamed, (whole, chat) = asyncio.run(run())
    assert streamed == choice_of(whole)["text"] == alone
    assert choice_of(chat)["message"]["role"] == "assistant"


def test_a_stream_that_is_given_up_ends_its_generation(crowd):
    with crowd(PROMPT, max_tokens=None, temperature=1.0, stream=True) as chunks:
        next(chunks)
    passes = chunks.stats.passes
    crowd("x", max_tokens=20)
    assert chunks.stats.passes == passes and list(chunks) == []
    chunks = crowd(PROMPT, max_tokens=None, stream=True)
    next(chunks)
    generation = weakref.ref(chunks._generation)
    del chunks
    assert generation() is None


def test_cancel(crowd):
    chunks = crowd(PROMPT, max_tokens=None, temperature=1.0, seed=1, ignore_eos=True, stream=True)
    next(chunks)
    chunks.cancel()
    last = list(chunks)[-1]
    assert choice_of(last)["finish_reason"] == "length" and last.stats.finish_reason == "cancelled"

    answers = []
    begun = threading.Event()

    def slow(tokens, scores):
        begun.set()
        return scores

    thread = threading.Thread(
        target=lambda: answers.append(crowd(PROMPT, max_tokens=None, ignore_eos=True, logits_processor=slow))
    )
    thread.start()
    assert begun.wait(60)
    crowd.cancel()
    thread.join(60)
    assert answers and answers[0].stats.finish_reason in ("cancelled", "length")


def test_seeds(bundled_model_path):
    def texts(llama, n=3):
        return [choice_of(llama(PROMPT, max_tokens=12, temperature=1.0))["text"] for _ in range(n)]

    with Llama(bundled_model_path, seed=7, **QUIET) as one, Llama(bundled_model_path, seed=7, **QUIET) as two:
        first = texts(one)
        assert len(set(first)) > 1 and texts(two) == first
        two.set_seed(7)
        assert texts(two) == first
        copy = pickle.loads(pickle.dumps(two))
        assert texts(copy) == first and copy.n_ctx() == two.n_ctx()
        copy.close()
    with Llama(bundled_model_path, **QUIET) as llama:
        assert len(set(texts(llama, 4))) > 1


def test_filling_in_the_middle(bundled_model_path, tmp_path, ours):
    path = with_metadata(bundled_model_path, tmp_path / "fill.gguf", **FILL)
    for suffix_first in (False, True):
        with Llama(path, spm_infill=suffix_first, **QUIET) as llama:
            answer = llama("def f(", suffix="return 1", max_tokens=3, temperature=0)
            before = [5, *llama.tokenize(b"def f(", add_bos=False)]
            after = [6, *llama.tokenize(b"return 1", add_bos=False)]
            expected = [llama.token_bos(), *(after + before if suffix_first else before + after), 7]
            assert llama.eval_tokens[: len(expected)] == expected
            assert answer["usage"]["prompt_tokens"] == len(expected)
    with pytest.raises(TypeError, match="suffix"):
        ours("def f(", suffix="return 1")


def test_a_handler_of_theirs(bundled_model_path, ours, theirs):
    """It works with our Llama as it does with theirs, and has none of our own arguments."""
    source = "{% for message in messages %}{{ message.content }}{% endfor %}"
    eos, bos = ours.token_eos(), ours.token_bos()
    formatter = llama_chat_format.Jinja2ChatFormatter(source, "<eos>", "<bos>", stop_token_ids=[eos])
    messages = [{"role": "user", "content": PROMPT}]
    with Llama(bundled_model_path, chat_handler=formatter.to_chat_handler(), **STOCK) as llama:
        answer = llama.create_chat_completion(messages, temperature=0, max_tokens=8)
        text = choice_of(answer)["message"]["content"]
        prompt = theirs.tokenize(PROMPT.encode(), add_bos=False)
        assert text == choice_of(theirs(prompt, temperature=0, max_tokens=8))["text"] and bos not in prompt
        chunks = llama.create_chat_completion(messages, temperature=0, max_tokens=8, stream=True)
        assert "".join(choice_of(chunk)["delta"].get("content", "") for chunk in chunks) == text
        with pytest.raises(TypeError, match="draft"):
            llama.create_chat_completion(messages, draft=False)
        with pytest.raises(TypeError, match="event loop"):
            llama.acreate_chat_completion(messages)


@pytest.mark.parametrize("settings", [{"n_batch": 8, "n_ubatch": 8}, {"n_ctx": 0}, {"type_k": 8, "type_v": "q8_0"}])
def test_contexts(bundled_model_path, settings):
    with Llama(bundled_model_path, **QUIET, **settings) as llama:
        assert llama.n_ctx() == (1024 if "n_ctx" in settings else 512)
        answer = llama(PROMPT, max_tokens=4, temperature=0, echo=True, logprobs=1)
        assert choice_of(answer)["text"] == PROMPT + "".join(result.text for result in answer.tokens)


def test_a_recurrent_model(tiny_model_path):
    with Llama(tiny_model_path("tiny-mamba"), n_ctx=128, **QUIET) as llama:
        answer = llama([5, 6, 7, 8], max_tokens=4, temperature=0, echo=True, logprobs=1)
        assert len(choice_of(answer)["logprobs"]["tokens"]) == 8


def test_a_llama_that_is_dropped_is_freed(bundled_model_path):
    """At once, not when the garbage collector comes by: it holds the weights."""
    gc.disable()
    try:
        llama = Llama(bundled_model_path, **QUIET)
        llama.create_chat_completion([{"role": "user", "content": "x"}], max_tokens=2)
        left = weakref.ref(llama), weakref.ref(llama.model)
        del llama
        assert [ref() for ref in left] == [None, None]
    finally:
        gc.enable()

"""Llama's answers under way: cancelled from anywhere, streams that several ask, event loops that go on."""

import asyncio
import sys
import threading

import pytest

from maskprobe import Llama, StateError

PROMPT = "class Foo:\n"


@pytest.fixture(scope="module")
def llama(bundled_model_path):
    with Llama(bundled_model_path, n_parallel=2, verbose=False, n_threads=1) as llama:
        yield llama


def text_of(chunks) -> str:
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


class Started:
    """Stands for a generation."""

    def cancel(self) -> None:
        pass


def test_cancel_while_answers_begin(llama):
    """Others begin and end meanwhile."""
    kept, failures = [], []

    def begin() -> None:
        try:
            for _ in range(20000):
                kept.append(llama._noted(Started()))
                if len(kept) > 50:
                    kept.clear()
        except Exception as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=begin) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            llama.cancel()
    finally:
        sys.setswitchinterval(interval)
    kept.clear()
    assert not failures and not llama._running


def test_generate_is_cancelled_too(llama):
    tokens = llama.generate(llama.tokenize(PROMPT.encode()), temp=1.0, logits_processor=without_end(llama))
    next(tokens)
    llama.cancel()
    assert len(list(tokens)) < 100


def without_end(llama):
    def forbid(_tokens, scores):
        scores[llama.token_eos()] = -float("inf")
        return scores

    return forbid


def test_a_second_reader_of_a_stream_takes_nothing_from_the_first(llama):
    expected = text_of(llama(PROMPT, max_tokens=8, temperature=0, stream=True))
    inside, go_on = threading.Event(), threading.Event()

    def wait(_tokens, scores):
        inside.set()
        assert go_on.wait(60)
        return scores

    chunks = llama(PROMPT, max_tokens=8, temperature=0, stream=True, logits_processor=wait)
    found = []
    first = threading.Thread(target=lambda: found.extend(chunks))
    first.start()
    assert inside.wait(60)
    for call in (chunks.close, lambda: next(chunks)):
        with pytest.raises(StateError, match="one thread at a time"):
            call()
    go_on.set()
    first.join(60)
    assert text_of(found) == expected and found[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_scores_of_an_echoed_prompt_do_not_block_an_event_loop(llama, monkeypatch, stream):
    settings = {"max_tokens": 3, "temperature": 0, "echo": True, "logprobs": 1}
    expected = llama(PROMPT, **settings)["choices"][0]
    score, has_gone_on = llama._by_hand.prompt_logprobs, threading.Event()

    def slow(*args):
        assert has_gone_on.wait(60)  # set by the event loop
        return score(*args)

    monkeypatch.setattr(llama._by_hand, "prompt_logprobs", slow)

    async def run():
        async def ask():
            answer = llama.acreate_completion(PROMPT, stream=stream, **settings)
            return [chunk async for chunk in answer] if stream else [await answer]

        task = asyncio.ensure_future(ask())
        await asyncio.sleep(0.01)
        has_gone_on.set()
        return await task

    found = asyncio.run(run())
    assert text_of(found) == expected["text"]
    parts = [chunk["choices"][0]["logprobs"] for chunk in found]
    tokens = [token for part in parts if part is not None for token in part["tokens"]]
    assert tokens == expected["logprobs"]["tokens"]


def test_scores_that_fail_end_the_generation(llama, monkeypatch):
    def fail(*_args):
        raise ZeroDivisionError

    monkeypatch.setattr(llama._by_hand, "prompt_logprobs", fail)
    settings = {"echo": True, "logprobs": 1}

    async def run():
        chunks = llama.acreate_completion(PROMPT, stream=True, **settings)
        with pytest.raises(ZeroDivisionError):
            await anext(chunks)
        assert [chunk async for chunk in chunks] == []
        with pytest.raises(ZeroDivisionError):
            await llama.acreate_completion(PROMPT, **settings)

    asyncio.run(run())
    assert not any(reference() for reference in llama._running)

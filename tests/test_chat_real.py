"""maskprobe-chat on the real models that are there: what it takes from the cache, and that it remembers."""

import pytest
from real_plan import find_models

from chat_process import chat, log_lines
from maskprobe import Engine, Model, SamplingParams
from maskprobe.cli.conversation import Conversation

TURNS = (
    "My name is Anna and I like café au lait 🎉.",
    "What is my name?",
    "Write two lines of Python.",
    "And now in C.",
)


@pytest.fixture(params=find_models(), ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.mark.parametrize("n_max", [30, 7], ids=["to its end", "cut"])
@pytest.mark.parametrize("temp", [0.0, 1.0])
def test_each_turn_evaluates_its_own_message_only(path, n_max, temp):
    """All earlier turns come from the cache, also where an answer was cut, or drawn as the tokenizer would not cut."""
    with Model(path, n_threads=1) as model, Engine(model, n_ctx=2048, n_threads=1) as engine:
        talk = Conversation(model, engine.context.n_ctx)
        talk.system = "You are brief."
        n_known = 0
        for i, text in enumerate(TURNS):
            prompt = talk.ask(text, n_max)
            with engine.generate(prompt.tokens, SamplingParams(temp=temp, seed=i), max_tokens=n_max) as generation:
                answer = "".join(result.text for result in generation)
                stats = generation.stats
            assert stats.n_prompt_reused >= n_known - 3  # a character that was cut is three tokens at most
            talk.answered(answer, stats.tokens)
            n_known = len(prompt.tokens) + len(stats.tokens)


def test_it_remembers_and_can_be_piped(path):
    done = chat("-m", path, "--temp", 0, "-n", 40, "-sys", "You are brief.", turns="My name is Anna.\nWhat is my name?")
    assert done.returncode == 0 and "Anna" in done.stdout.decode()
    assert sum("from the cache" in line for line in log_lines(done.stderr)) == 2

"""Engines in this process and in a child, and what tests ask of both."""

import time

from maskprobe import SamplingParams

GREEDY = SamplingParams(temp=0.0)
ENGINE = {"n_ctx": 512, "n_threads": 1, "n_parallel": 3}
PROMPTS = ["def add(a, b):", "import os\n\n", "class Stack:\n    def push", "for i in range(10):"]
SOON_S = 30.0  # nothing here takes a tenth of it on a machine that has nothing else to do


def prompt(engine, i=0):
    return engine.model.tokenize(PROMPTS[i])


def results(engine, i=0, sampling=GREEDY, **settings):
    """All that does not depend on what was drafted before."""
    found = list(engine.generate(prompt(engine, i), sampling, **{"max_tokens": 30, **settings}))
    return [(r.text, r.token, r.n_gen, r.finish_reason, [token for token, _ in r.top]) for r in found]


def tokens(engine, i=0, **settings):
    return [token for _, token, *_ in results(engine, i, **settings)]


def long_text(engine, i=0):
    return engine.generate(prompt(engine, i), GREEDY, max_tokens=400, ignore_eos=True)


def is_gone(pid):
    """A process that nobody has waited for yet counts as gone: it is not ours to wait for."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until(is_so):
    end = time.monotonic() + SOON_S
    while not is_so():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)

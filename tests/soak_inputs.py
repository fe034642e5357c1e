"""What the soak generates from: prompts, sampling, grammars, limits, at random."""

import random
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskprobe import Model, SamplingParams
from soak_callbacks import random_rules
from soak_text import BRIEF, SPECIAL, random_text

N_CTX_LEAST = 256  # tokens of the smallest context that the soak opens

# GBNF, and what a text that is complete matches.
GRAMMARS = {
    "root ::= [0-9]+": r"[0-9]+",
    'root ::= "yes" | "no" | "maybe"': r"yes|no|maybe",
    'root ::= "[" item ("," item)* "]"\nitem ::= [a-z]{1,5}': r"\[[a-z]{1,5}(,[a-z]{1,5})*\]",
    'root ::= "(" root? ")"': r"\(+\)+",
    "root ::= [^\\x00-\\x7F]{1,6}": r"[^\x00-\x7f]{1,6}",
    'root ::= ("a" | "ab" | "abc")* "."': r"(a|ab|abc)*\.",
}


@dataclass
class Vocabulary:
    """What the toy constraints need of a model's tokens."""

    n_vocab: int
    ends: tuple[int, ...]
    letters: np.ndarray  # bool (n_vocab,): lower case letters and blanks
    digits: np.ndarray

    @classmethod
    def of(cls, model: Model) -> "Vocabulary":
        n_vocab = model.info.n_vocab
        pieces = [model.token_bytes(token) for token in range(n_vocab)]
        masks = [
            np.array([re.fullmatch(kind, piece) is not None for piece in pieces]) for kind in (b"[a-z ]+", b"[0-9]+")
        ]
        return cls(n_vocab, model.end_tokens, *masks)


# --- what is generated -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A prompt and all that decides which tokens follow it."""

    prompt: tuple[int, ...]
    sampling: dict[str, Any]
    limits: dict[str, Any] = field(default_factory=dict)
    rules: tuple | None = None  # a kind of toy constraint and its arguments, see make_rules()

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(**self.sampling)

    @property
    def stops(self) -> list[str]:
        stop = self.limits.get("stop", ())
        return [stop] if isinstance(stop, str) else list(stop)


def random_prompt(rng: random.Random, model: Model, n_ctx: int) -> list[int]:
    """At least one token and at most n_ctx."""
    kind = rng.choices(["text", "special", "ids", "brief", "long", "shared"], [6, 2, 2, 1, 1, 3])[0]
    n_vocab = model.info.n_vocab
    if kind == "text":
        tokens = model.tokenize(random_text(rng, rng.randint(1, 60)), parse_special=rng.random() < 0.5)
    elif kind == "special":
        parts = [rng.choice(SPECIAL) + random_text(rng, rng.randint(0, 6)) for _ in range(rng.randint(1, 5))]
        tokens = model.tokenize("".join(parts), rng.random() < 0.5, parse_special=rng.random() < 0.7)
    elif kind == "ids":
        tokens = [rng.randrange(n_vocab) for _ in range(rng.randint(1, 40))]
    elif kind == "brief":
        tokens = model.tokenize(rng.choice(BRIEF), add_special=rng.random() < 0.5)
    elif kind == "long":
        tokens = model.tokenize(random_text(rng, n_ctx))
        tokens = (tokens * (1 + n_ctx // max(len(tokens), 1)))[: n_ctx - rng.choice([0, 1, 2, 5, 20, 60])]
    else:
        same = random.Random(rng.randrange(4))
        tokens = model.tokenize(random_text(same, 90)) + model.tokenize(random_text(rng, rng.randint(1, 12)), False)
    return tokens[:n_ctx] or [rng.randrange(n_vocab)]


def random_sampling(rng: random.Random, vocabulary: Vocabulary, seed: int | None = None) -> dict[str, Any]:
    settings: dict[str, Any] = {"seed": rng.choice([-1, 0, 1, rng.randrange(2**32 - 1)]) if seed is None else seed}
    settings["temp"] = rng.choice([0.0, 0.0, 0.3, 0.8, 0.8, 1.0, 2.0, 50.0, 1e-6, 1e-30])
    for name, values in (
        ("top_k", [-1, 0, 1, 5, 40, 10**6]),
        ("top_p", [0.0, 0.5, 0.95, 1.0, 3.0]),
        ("min_p", [-1.0, 0.0, 0.05, 0.5, 1.0]),
        ("penalty_last_n", [-1, 0, 1, 64]),
        ("penalty_repeat", [1.0, 1.1, 2.0]),
        ("penalty_frequency", [0.0, -0.1, 0.5]),
        ("penalty_presence", [0.0, -0.1, 0.5]),
    ):
        if rng.random() < 0.3:
            settings[name] = rng.choice(values)
    if rng.random() < 0.2:
        biases = [-float("inf"), -100.0, -1.0, 3.0, 100.0]
        some = [rng.randrange(vocabulary.n_vocab) for _ in range(rng.randint(1, 5))]
        settings["logit_bias"] = {token: rng.choice(biases) for token in some}
    if rng.random() < 0.12:
        settings["grammar"] = rng.choice(list(GRAMMARS))
    return settings


def random_limits(rng: random.Random, n_most: int) -> dict[str, Any]:
    limits: dict[str, Any] = {"max_tokens": rng.choice([0, 1, 2, rng.randint(1, n_most), rng.randint(1, n_most)])}
    if rng.random() < 0.3:
        stops = [random_text(rng, rng.randint(1, 2)) or "e" for _ in range(rng.randint(1, 4))]
        limits["stop"] = rng.choice([stops, stops[0], [*stops, "e", "\n\n"], [rng.choice(SPECIAL)]])
    if rng.random() < 0.3:
        limits["top_logprobs"] = rng.choice([1, 3, 8])
    if rng.random() < 0.4:
        limits["ignore_eos"] = True
    return limits


def random_job(rng: random.Random, model: Model, vocabulary: Vocabulary, n_ctx: int, n_most: int) -> Job:
    limits = random_limits(rng, n_most)
    if rng.random() < 0.04:
        limits["max_tokens"] = -1  # until the context is full
    sampling = random_sampling(rng, vocabulary)
    rules = random_rules(rng, model) if rng.random() < 0.15 else None
    return Job(tuple(random_prompt(rng, model, n_ctx)), sampling, limits, rules)


def repeatable_job(rng: random.Random, model: Model, vocabulary: Vocabulary, n_most: int) -> Job:
    """One that has the same tokens whenever it is generated, in any context of the soak."""
    prompt = random_prompt(rng, model, N_CTX_LEAST)[: N_CTX_LEAST - n_most]
    rules = random_rules(rng, model) if rng.random() < 0.2 else None
    return Job(tuple(prompt), random_sampling(rng, vocabulary, rng.randrange(1000)), random_limits(rng, n_most), rules)

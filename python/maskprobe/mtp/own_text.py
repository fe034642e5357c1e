"""Text that a model writes itself: questions after the empty user turn of its chat template, and answers to them.

Xu et al. 2024 (Magpie) get a model's own questions so. All texts share the passes of one engine.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .._capi import shown
from ..chat_template import TEMPLATE_KEY
from ..engine import Engine
from ..errors import ArgumentError, ModelError, OutOfMemory
from ..generation import Generation, TokenResult
from ..model import Model
from ..sampler import SamplingParams
from .text_store import N_TOP, Text, of_size_one

# Temperatures of answers and their shares: the usual one mostly, some greedily.
TEMPERATURES, SHARES = (0.8, 0.0, 1.0), (0.75, 0.12, 0.13)
QUESTION = {"temp": 1.0, "top_k": 256, "top_p": 1.0, "min_p": 0.02}
QUESTION_TOKENS = 200  # at most; longer ones are dropped
FIRST_TOKENS = 8  # of a text without a question: drawn as questions are, so that texts differ
ANSWER_TOKENS = 320  # of one text at most
N_PARALLEL = 48
OWN_SHARE = 0.5  # of questions of the model's own, where the user gave prompts

# What half of the questions begin with: left alone, a model asks for little else than advice and explanations.
OPENINGS = (
    "Summarize the following text:\n\n",
    "Translate the following text into English:\n",
    "Answer the question from the text below.\n\n",
    "Rewrite this text so that it is easier to read:\n\n",
    "List the names, places and dates in this text:\n\n",
    "Continue this text:\n\n",
    "Solve this problem step by step:",
    "Write a story about",
    "Write a poem about",
    "Write an email",
    "Write a function that",
    "What is wrong with this code?\n\n",
    "Explain the difference between",
    "Who was",
    "Why",
    "I need advice:",
)
OPENED_SHARE = 0.5

MARK = "(the question)"


class Turns(NamedTuple):
    """What the model's chat template puts around a user's question."""

    before: list[int]
    after: list[int]


@dataclass(slots=True)
class Slot:
    """A text that is under way."""

    generation: Generation
    is_question: bool
    prompt: list[int]
    opening: str = ""  # of the question, which the model did not write
    rows: list[TokenResult] = field(default_factory=list)


class Writer:
    """Writes texts for as long as it is asked to. A model without a chat template begins with its BOS. `layers`: whose
    hidden states are kept beside those after the last norm.

    Raises ArgumentError for a prompt that is too long, ModelError where there is nothing to begin with, OutOfMemory."""

    def __init__(
        self,
        model: Model,
        prompts: Sequence[str],
        seed: int,
        n_threads: int,
        layers: Sequence[int] = (),
        n_parallel: int = N_PARALLEL,
    ) -> None:
        self._model = model
        self._random = random.Random(seed)
        self._asked: set[str] = set()
        self._turns = turns_of(model)
        bos = [model.info.token_bos] if model.info.token_bos >= 0 else []
        self._start = bos if self._turns is None else self._turns.before
        if not self._start and not prompts:
            raise ModelError("this model has no chat template and no BOS to begin a text with: give it prompts")
        n_ctx = min(len(self._prompt(MARK)) + QUESTION_TOKENS + ANSWER_TOKENS, model.info.n_ctx_train)
        n_prompt_max = max(n_ctx - ANSWER_TOKENS, n_ctx // 2)
        given = [self._prompt(text) for text in prompts]
        for text, prompt in zip(prompts, given, strict=True):
            if len(prompt) > n_prompt_max:
                raise ArgumentError(f"the prompt {shown(text)} has {len(prompt)} tokens, {n_prompt_max} are possible")
        self._random.shuffle(given)
        self._given = itertools.cycle(given) if given else None
        self._engine = opened(model, n_ctx, n_threads, layers, n_parallel)
        self._slots: list[Slot] = []

    def texts(self) -> Iterator[Text | None]:
        """One after another, as they end; None after each round, so that the caller can look around."""
        self._slots = slots = [self._next() for _ in range(self._engine.context.n_sessions_max)]
        while True:
            for i, slot in enumerate(slots):
                result = next(slot.generation)  # the first makes a step for all, the others find their tokens there
                if result.token >= 0:
                    slot.rows.append(result)
                if slot.is_question and self._is_asked(slot.rows):
                    slot.generation.close()
                    slots[i] = self._answer_to(slot)
                elif result.finish_reason is not None:
                    if not slot.is_question and len(slot.rows) > 1:
                        yield text_of(slot.rows)
                    slots[i] = self._next()
            yield None

    def prompts(self, n: int) -> list[list[int]]:
        """The first `n` prompts, or a few more, that answers would be written after."""
        for _ in self.texts():
            found = [slot.prompt for slot in self._slots if not slot.is_question]
            if len(found) >= n:
                break
        return found

    def unfinished(self) -> list[Text]:
        """The answers that are under way, as far as they are."""
        return [text_of(slot.rows) for slot in self._slots if not slot.is_question and len(slot.rows) > 1]

    def close(self) -> None:
        self._engine.close()

    def _next(self) -> Slot:
        """A question of the model's own, or an answer to one that the user gave."""
        if self._given is not None and (not self._start or self._random.random() > OWN_SHARE):
            return self._answer(next(self._given))
        if self._turns is None:
            return self._question("", FIRST_TOKENS + 1)
        return self._question(
            self._random.choice(OPENINGS) if self._random.random() < OPENED_SHARE else "", QUESTION_TOKENS
        )

    def _question(self, opening: str, n_max: int) -> Slot:
        prompt = self._start + self._model.tokenize(opening, add_special=False)
        generation = self._engine.generate(prompt, self._drawn(**QUESTION), max_tokens=n_max)
        return Slot(generation, True, prompt, opening)

    def _is_asked(self, rows: Sequence[TokenResult]) -> bool:
        """The question is complete: what comes is an end token or what the template puts after a question."""
        if self._turns is None:
            return len(rows) == FIRST_TOKENS
        return len(rows) > 0 and (rows[-1].token == self._turns.after[0] or self._model.is_end(rows[-1].token))

    def _answer_to(self, slot: Slot) -> Slot:
        tokens = [row.token for row in slot.rows]
        if self._turns is None:
            return self._answer(self._start + tokens)
        question = (slot.opening + self._model.detokenize(tokens[:-1]).decode("utf-8", "ignore")).strip()
        if not question or question in self._asked:
            return self._next()
        self._asked.add(question)
        return self._answer(self._prompt(question))

    def _answer(self, prompt: list[int]) -> Slot:
        (temperature,) = self._random.choices(TEMPERATURES, SHARES)
        sampling = self._drawn(temp=temperature)
        generation = self._engine.generate(prompt, sampling, max_tokens=ANSWER_TOKENS, top_logprobs=N_TOP, hidden=True)
        return Slot(generation, False, prompt)

    def _prompt(self, question: str) -> list[int]:
        """The tokens that stand before the answer."""
        if self._turns is None:
            return self._model.tokenize(question)
        return conversation(self._model, question)

    def _drawn(self, **settings: float) -> SamplingParams:
        return SamplingParams(**settings, seed=self._random.randrange(2**31))  # type: ignore[arg-type]


def opened(model: Model, n_ctx: int, n_threads: int, layers: Sequence[int], n_parallel: int) -> Engine:
    """An engine for so many texts, or as many as memory holds."""
    while True:
        try:
            return Engine(
                model,
                n_ctx=n_ctx,
                n_parallel=n_parallel,
                n_threads=n_threads,
                proposer="none",
                n_top_max=N_TOP,
                layers=layers,
            )
        except OutOfMemory:
            n_parallel //= 2
            if n_parallel == 0:
                raise


def conversation(model: Model, question: str) -> list[int]:
    """The tokens of a conversation that begins with a question, up to the answer."""
    text = model.chat_format([{"role": "user", "content": question}])
    bos = model.info.token_bos
    has_bos = bos >= 0 and text.encode().startswith(model.token_bytes(bos, special=True) or b"\0")
    return model.tokenize(text, add_special=not has_bos, parse_special=True)


def turns_of(model: Model) -> Turns | None:
    """None without a chat template, or with one that does not keep a question as it is."""
    if model.metadata(TEMPLATE_KEY) is None:
        return None
    before, mark, after = model.chat_format([{"role": "user", "content": MARK}]).partition(MARK)
    if not mark or not before or not after:
        return None
    begins = conversation(model, MARK)
    tail = model.tokenize(after, add_special=False, parse_special=True)
    head = model.tokenize(before, add_special=False, parse_special=True)
    first = begins[: len(begins) - len(tail)]  # with a BOS where the tokenizer adds one
    n_added = next((i for i in range(2) if first[i : i + len(head)] == head), 0)
    return Turns(begins[:n_added] + head, tail)


def text_of(rows: Sequence[TokenResult]) -> Text:
    states = np.stack([np.atleast_2d(row.hidden) for row in rows if row.hidden is not None])
    return Text(
        tokens=np.array([row.token for row in rows], np.int32),
        hidden=states[:, -1].astype(np.float16),
        between=of_size_one(states[:, :-1]).astype(np.float16),
        top=np.array([[token for token, _ in row.top] for row in rows], np.int32),
        logprobs=np.array([[logprob for _, logprob in row.top] for row in rows], np.float16),
    )

"""Llama's lower level: tokens evaluated and drawn by hand, one sequence, apart from the engine's generations."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import StateError
from .openai.prompt_scores import ROWS, prompt_logprobs
from .sampler import Sampler, SamplingParams
from .session import Session
from .tree import TokenTree


@dataclass(frozen=True, slots=True)
class LlamaState:
    """What Llama.save_state() keeps: which tokens there are, not what the cache holds of them. After load_state() they
    are evaluated again when they are needed, as far as the cache does not hold them still."""

    input_ids: np.ndarray  # int32 (n_tokens,)
    n_tokens: int
    seed: int


class ByHand:
    """A sequence of tokens, and a session that holds them once something asks for it. Any thread may call.

    `open_session` opens that session, with the `n_rows_max` that it is given."""

    def __init__(self, open_session: Callable[..., Session]) -> None:
        self._open = open_session
        self._session: Session | None = None
        self._lock = threading.RLock()
        self._tokens: list[int] = []
        self._evaluated: list[int] = []  # the session's last pass is the row of the last of these; []: there is none

    @property
    def tokens(self) -> list[int]:
        with self._lock:
            return list(self._tokens)

    def hold(self, tokens: Sequence[int]) -> None:
        """These tokens and no others; nothing is evaluated yet."""
        with self._lock:
            self._tokens = list(tokens)

    def evaluate(self, tokens: Sequence[int]) -> None:
        """Adds tokens. Raises what Session raises; then the tokens are as before."""
        with self._lock:
            if not tokens:
                return
            before = self._tokens
            self._tokens = [*before, *tokens]
            try:
                self._evaluate()
            except BaseException:
                self._tokens = before
                raise

    def draw(self, params: SamplingParams) -> int:
        """A token that may follow; it is not added. Penalties look back at the tokens that are there."""
        with self._lock:
            if not self._tokens:
                raise StateError("there is nothing to sample from: eval() some tokens first")
            session = self._evaluate()
            with Sampler(session.model, params) as sampler:
                sampler.prime(self._tokens)
                return sampler.sample(session, 0)

    def logits(self) -> np.ndarray:
        """What follows the last token, float32 (n_vocab,)."""
        with self._lock:
            return self._evaluate().logits(0)

    def prompt_logprobs(self, tokens: Sequence[int], n_top: int) -> dict[str, Any]:
        """See openai.prompt_scores."""
        with self._lock:
            self._evaluated = []
            return prompt_logprobs(self._opened(), tokens, n_top)

    def close(self) -> None:
        with self._lock:
            if self._session is not None:
                self._session.close()
            self._session, self._evaluated = None, []

    def _opened(self) -> Session:
        if self._session is None:
            self._session = self._open(n_rows_max=ROWS)
        return self._session

    def _evaluate(self) -> Session:
        """The session, whose last pass is the last token's row."""
        session, before = self._opened(), self._evaluated
        if before == self._tokens:
            return session
        self._evaluated = []
        if before and before == self._tokens[: len(before)]:
            session.commit([0])  # of the last pass: its token is in the cache and stays there
        session.set_prefix(self._tokens[:-1])
        session.decode(TokenTree(self._tokens[-1]), 1)
        self._evaluated = self._tokens
        return session

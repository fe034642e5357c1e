"""Engine: one step of lossless decoding, and generation as a stream of tokens built on it."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .acceptance import accept
from .errors import ArgumentError, ContextFull, StateError
from .proposers import NoProposer, Proposer
from .sampler import Sampler, SamplingParams
from .session import Pass, Session
from .text import TextStream
from .tree import TokenTree

DEFAULT_SAMPLING = SamplingParams()


class Step(NamedTuple):
    """What one pass brought. The lists have one entry per emitted token; token i was drawn behind node path[i]."""

    tokens: list[int]
    texts: list[str]
    logprobs: list[float]
    margins: list[float]  # log-probability gap of the model's two best tokens
    path: list[int]  # the root and the accepted nodes
    n_rows: int
    decode_ms: float  # inside llama_decode
    engine_ms: float  # all else


class TokenResult(NamedTuple):
    """One emitted token."""

    text: str  # new text, "" while a UTF-8 character or a possible stop string is incomplete
    token: int
    logprob: float  # of the token in the model's own distribution, before the sampler
    from_draft: bool  # the token was an accepted candidate
    margin: float  # log-probability gap of the model's two best tokens at this place
    n_gen: int  # tokens emitted so far
    prompt_tps: float  # prompt tokens evaluated per second
    generation_tps: float  # tokens emitted per second
    finish_reason: str | None  # None until the last: "stop", "length" (max_tokens), "context" (context full)


@dataclass(slots=True)
class Stats:
    """Counts and times of one generation. n_prompt_reused prompt tokens were in the cache already."""

    n_prompt: int = 0
    n_prompt_reused: int = 0
    n_gen: int = 0
    passes: int = 0
    rows: int = 0
    accept_hist: list[int] = field(default_factory=list)  # [d]: passes that accepted d candidates
    prompt_ms: float = 0.0
    gen_ms: float = 0.0
    decode_ms: float = 0.0  # of gen_ms, inside llama_decode
    engine_ms: float = 0.0  # of gen_ms, all else
    tokens: list[int] = field(default_factory=list)  # emitted
    finish_reason: str | None = None

    @property
    def tokens_per_pass(self) -> float:
        """1 is plain decoding."""
        return self.n_gen / self.passes if self.passes else 0.0

    @property
    def rows_per_pass(self) -> float:
        return self.rows / self.passes if self.passes else 0.0

    @property
    def prompt_tps(self) -> float:
        """Prompt tokens evaluated per second. The last one belongs to the first pass, not to the prompt."""
        n_evaluated = self.n_prompt - 1 - self.n_prompt_reused
        return 1000.0 * n_evaluated / self.prompt_ms if self.prompt_ms > 0.0 else 0.0

    @property
    def gen_tps(self) -> float:
        return 1000.0 * self.n_gen / self.gen_ms if self.gen_ms > 0.0 else 0.0

    def add(self, step: Step) -> None:
        """Counts one pass."""
        n_accepted = len(step.path) - 1
        self.accept_hist.extend([0] * (n_accepted + 1 - len(self.accept_hist)))
        self.accept_hist[n_accepted] += 1
        self.passes += 1
        self.rows += step.n_rows
        self.n_gen += len(step.tokens)
        self.tokens += step.tokens
        self.decode_ms += step.decode_ms
        self.engine_ms += step.engine_ms
        self.gen_ms += step.decode_ms + step.engine_ms


class Engine:
    """Decodes with a session and a proposer; without a proposer, plainly.

    The output is that of plain decoding with the same seed, whatever the proposer offers. One generation at a time: a
    new one ends the one before.

    Raises ArgumentError where the session was opened for smaller passes than the proposer makes.
    """

    def __init__(self, session: Session, proposer: Proposer | None = None) -> None:
        self.session = session
        self.proposer = proposer or NoProposer()
        self.stats = Stats()
        self._generation: _Generation | None = None
        for what, needed, opened in (
            ("rows in a tree", self.proposer.n_rows_max, session.n_rows_max),
            ("candidates per row", max(self.proposer.n_top, 2), session.n_top_max),
        ):
            if needed > opened:
                raise ArgumentError(f"the proposer needs {needed} {what}, the session was opened for {opened}")
        self.proposer.attach(session)

    def generate(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams = DEFAULT_SAMPLING,
        *,
        max_tokens: int = -1,
        stop: str | Sequence[str] = (),
        ignore_eos: bool = False,
    ) -> Iterator[TokenResult]:
        """Emits the tokens that follow `prompt`, one TokenResult each, until an end token, a stop string, `max_tokens`
        (-1: no limit) or the end of the context. `ignore_eos` forbids end tokens. The text ends before a stop string.

        The arguments are checked at once; work starts with the first token asked for. However it ends, the session is
        left with the committed tokens alone: prompt and emitted tokens but for the newest.

        Raises ArgumentError, ContextFull (the prompt is longer than the context), Cancelled, DecodeError, StateError.
        """
        return self._results(self._open(prompt, sampling, max_tokens, stop, ignore_eos))

    def begin(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams = DEFAULT_SAMPLING,
        *,
        max_tokens: int = -1,
        stop: str | Sequence[str] = (),
        ignore_eos: bool = False,
    ) -> None:
        """Evaluates the prompt, for those who call step() themselves. Arguments and errors are those of generate()."""
        self._start(self._open(prompt, sampling, max_tokens, stop, ignore_eos))

    def step(self) -> Step:
        """One pass: propose, decode, accept, commit, learn.

        The root, the newest token, is not in the cache yet; of the tree, the root and the accepted path stay there.
        After the last step, stats.finish_reason is set. Raises StateError where no generation is under way."""
        now = self._current_generation()
        started = time.perf_counter_ns()
        room = self._room() if now.n_left > 1 else 1  # the last token needs no candidates
        tree = self._checked(self.proposer.propose(now.tokens, min(room, self.session.max_rows)))
        result = self.session.decode(tree, max(self.proposer.n_top, 2))  # two for the margin
        path, emitted = accept(tree, now.draw, now.takes_last, now.n_left)
        logprobs, margins = self._scores(result, path, emitted)
        self.session.commit(path)
        now.tokens += emitted
        self.proposer.observe(tree, result, path, emitted)
        texts = now.end_of_pass(context_full=self._room() == 0)
        total_us = (time.perf_counter_ns() - started) / 1000
        decode_ms, engine_ms = result.decode_us / 1000, (total_us - result.decode_us) / 1000
        step = Step(emitted, texts, logprobs, margins, path, tree.n_rows, decode_ms, engine_ms)
        self.stats.add(step)
        self.stats.finish_reason = now.finish_reason
        return step

    def _results(self, now: "_Generation") -> Iterator[TokenResult]:
        try:
            self._start(now)
            while now.finish_reason is None:
                if now is not self._generation:
                    raise StateError("another generation was started on this engine: this one cannot go on")
                n_before = self.stats.n_gen
                step = self.step()
                for i, token in enumerate(step.tokens):
                    yield TokenResult(
                        text=step.texts[i],
                        token=token,
                        logprob=step.logprobs[i],
                        from_draft=i + 1 < len(step.path),
                        margin=step.margins[i],
                        n_gen=n_before + i + 1,
                        prompt_tps=self.stats.prompt_tps,
                        generation_tps=self.stats.gen_tps,
                        finish_reason=now.finish_reason if i + 1 == len(step.tokens) else None,
                    )
        finally:
            now.sampler.close()
            if now is self._generation:
                self._generation = None
                if not self.session.closed:
                    self.session.rollback()
                self.proposer.end()

    def _open(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams,
        max_tokens: int,
        stop: str | Sequence[str],
        ignore_eos: bool,
    ) -> "_Generation":
        """Checks the arguments; nothing is evaluated yet."""
        if len(prompt) == 0:
            raise ArgumentError("the prompt has no tokens: it needs one at least")
        if len(prompt) > self.session.n_ctx:
            raise ContextFull(f"the prompt has {len(prompt)} tokens, the context holds {self.session.n_ctx}")
        if max_tokens < -1:
            raise ArgumentError(f"max_tokens = {max_tokens} must be -1 (no limit) or a number from 0")
        model = self.session.model
        if ignore_eos:
            forbidden = dict.fromkeys(model.end_tokens, -math.inf)
            sampling = replace(sampling, logit_bias={**sampling.logit_bias, **forbidden})
        limit = sys.maxsize if max_tokens == -1 else max_tokens
        return _Generation(self.session, [int(t) for t in prompt], model.sampler(sampling), TextStream(stop), limit)

    def _start(self, now: "_Generation") -> None:
        """Brings the prompt, all but its last token, into the cache."""
        self._generation = now
        self.stats = Stats(n_prompt=len(now.tokens))
        started = time.perf_counter_ns()
        now.sampler.prime(now.tokens)
        proposer = self.proposer
        prefix = self.session.set_prefix(now.tokens[:-1], proposer.n_prompt_rows, proposer.n_top)
        self.stats.n_prompt_reused = prefix.n_reused
        proposer.begin(now.tokens)
        if len(prefix.top_tokens):
            proposer.learn_prompt(prefix.top_tokens, prefix.top_logprobs)
        self.stats.prompt_ms = (time.perf_counter_ns() - started) / 1e6
        self.stats.finish_reason = now.finish_reason

    def _current_generation(self) -> "_Generation":
        now = self._generation
        if now is None or now.finish_reason is not None:
            raise StateError("no generation is under way: it has ended, or begin() was not called")
        if self.session.n_past != len(now.tokens) - 1:
            raise StateError(
                f"the session was used by another: it holds {self.session.n_past} tokens, not {len(now.tokens) - 1}"
            )
        return now

    def _room(self) -> int:
        """Rows that still fit into the context, where the newest token is not yet."""
        return self.session.n_ctx - len(self._generation.tokens) + 1

    def _checked(self, tree: TokenTree) -> TokenTree:
        """A proposer must never change the output: a wrong root would. Where there can be no tree, its best chain."""
        newest = self._generation.tokens[-1]
        if tree.tokens[0] != newest:
            raise StateError(f"the proposer's root is token {tree.tokens[0]}, the newest token is {newest}", "internal")
        return tree if self.session.model.info.can_tree else tree.best_chain()

    def _scores(self, result: Pass, path: list[int], emitted: list[int]) -> tuple[list[float], list[float]]:
        """Log-probability of each emitted token, and the gap of the two best tokens at its place."""
        top, best = result.top_logprobs.item, result.best.item
        margins = [top(row, 0) - top(row, 1) for row in path]
        logprobs = [
            top(row, 0) if token == best(row) else self.session.logprob(row, token)
            for row, token in zip(path, emitted, strict=True)
        ]
        return logprobs, margins


class _Generation:
    """What one generation knows: its tokens (the last is the next root), its sampler, its text and where it ends."""

    def __init__(self, session: Session, tokens: list[int], sampler: Sampler, text: TextStream, n_left: int) -> None:
        self.tokens = tokens
        self.sampler = sampler
        self.n_left = n_left  # tokens that may still be emitted
        self.finish_reason: str | None = "length" if n_left == 0 else None
        self._session = session
        self._text = text
        self._texts: list[str] = []  # of the pass under way

    def draw(self, row: int) -> int:
        """The token that the sampler puts behind a row of the pass."""
        return self.sampler.sample(self._session, row)

    def takes_last(self, token: int) -> bool:
        """Takes an emitted token into the text. True where the text ends with it."""
        self.n_left -= 1
        model = self._session.model
        if model.is_end(token):
            self._texts.append("")
            self.finish_reason = "stop"
        else:
            self._texts.append(self._text.push(model.token_bytes(token)))
            if self._text.stopped:
                self.finish_reason = "stop"
        return self.finish_reason is not None

    def end_of_pass(self, context_full: bool) -> list[str]:
        """Decides whether the generation ends here, and hands out the texts of the pass: all of it, if so."""
        if self.finish_reason is None and self.n_left == 0:
            self.finish_reason = "length"
        if self.finish_reason is None and context_full:
            self.finish_reason = "context"
        texts, self._texts = self._texts, []
        if self.finish_reason is not None:
            texts[-1] += self._text.finish()
        return texts

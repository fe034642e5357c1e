"""One generation measured, and what many of them come to."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import Engine, Pass, Proposer, SamplingParams, TokenTree

CALIBRATION_BINS = 20
PLAIN = "none"  # plain decoding among the sources of candidates

WHAT_IS_TIMED = (
    "Timed are all passes of a generation, from asking for candidates to learning from the pass; not timed are\n"
    "loading, prompt evaluation with the first token, and output"
)


@dataclass
class Measured:
    """One generation. All of it goes into a line of JSON and comes back."""

    tokens: list[int]
    margins: list[float]  # log-probability gap of the model's two best tokens, one per token
    n_prompt: int
    passes: int
    rows: int
    gen_ns: int  # of all passes: of the tokens without the first
    n_draft: int  # candidates decoded
    accept_hist: list[int]  # [d]: passes that accepted d candidates
    calibration: list[list[float]] = field(default_factory=list)  # per bin: candidates, sum of probabilities, accepted
    prompt_ns: int = 0  # until the first token, not part of gen_ns
    n_prompt_reused: int = 0  # tokens of the prompt that were in the cache
    engine_ns: int = 0  # of gen_ns, outside llama_decode: candidates, heads, sampling, learning

    @property
    def n_timed(self) -> int:
        """Tokens generated in gen_ns."""
        return max(len(self.tokens) - 1, 0)

    @property
    def n_accepted(self) -> int:
        return sum(depth * count for depth, count in enumerate(self.accept_hist))


class Watched(Proposer):
    """A proposer, with what is decoded of its trees counted: passes by their rows, and how often candidates of some
    probability were accepted.

    A candidate's probability is that of its whole path, as the proposer put it into the tree."""

    def __init__(self, proposer: Proposer) -> None:
        self.n_rows_max, self.n_top, self.whole = proposer.n_rows_max, proposer.n_top, proposer.whole
        self.begin, self.propose = proposer.begin, proposer.propose  # type: ignore[method-assign]
        self._observe = proposer.observe
        self.reset()

    def reset(self) -> None:
        self.passes_of: Counter[int] = Counter()  # by their rows
        self._outcomes: list[tuple[list[float], list[int]]] = []  # log-probabilities of a tree's nodes, accepted nodes

    def observe(self, tree: TokenTree, result: Pass, path: Sequence[int], emitted: Sequence[int]) -> None:
        self.passes_of[tree.n_rows] += 1
        self._outcomes.append((tree.logprobs, list(path)))
        self._observe(tree, result, path, emitted)

    def calibration(self) -> list[list[float]]:
        """calibration_bins() of all candidates decoded since reset()."""
        probabilities: list[float] = []
        accepted: list[bool] = []
        for logprobs, path in self._outcomes:
            probabilities += [math.exp(min(logprob, 0.0)) for logprob in logprobs[1:]]  # without the root
            accepted += [node in path for node in range(1, len(logprobs))]
        return calibration_bins(probabilities, accepted)


def calibration_bins(probabilities: Sequence[float], accepted: Sequence[bool]) -> list[list[float]]:
    """What candidates came to, for each of CALIBRATION_BINS equal ranges of the probability: how many there were, the
    sum of their probabilities, how many were accepted."""
    bins = np.zeros((CALIBRATION_BINS, 3))
    p = np.asarray(probabilities, float)
    which = np.minimum((p * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    np.add.at(bins, which, np.stack([np.ones(len(p)), p, np.asarray(accepted, float)], axis=1))
    return bins.tolist()


def measure(
    engine: Engine,
    prompt: Sequence[int],
    sampling: SamplingParams,
    n: int,
    ignore_eos: bool = False,
    watched: Watched | None = None,
    on_first: Callable[[], object] | None = None,
) -> Measured:
    """Generates at most `n` tokens after the prompt, with candidates of `watched` or of the engine's own proposer.
    `on_first` is called once the first token is there.

    Raises what Engine.generate raises."""
    if watched is not None:
        watched.reset()
    generation = engine.generate(prompt, sampling, max_tokens=n, ignore_eos=ignore_eos, proposer=watched)
    margins: list[float] = []
    for result in generation:
        if result.token >= 0:
            if on_first is not None and not margins:
                on_first()
            margins.append(result.margin)
    stats = generation.stats
    return Measured(
        tokens=list(stats.tokens),
        margins=margins,
        n_prompt=stats.n_prompt,
        passes=stats.passes,
        rows=stats.rows,
        gen_ns=round(1e6 * stats.gen_ms),
        n_draft=stats.n_drafted,
        accept_hist=list(stats.accept_hist),
        calibration=watched.calibration() if watched is not None and stats.n_drafted else [],
        prompt_ns=round(1e6 * stats.prompt_ms),
        n_prompt_reused=stats.n_prompt_reused,
        engine_ns=round(1e6 * stats.engine_ms),
    )


def warm_up(engine: Engine, token: int) -> None:
    """The first passes of a context are slower. Nothing is learned from these."""
    for _ in engine.generate([token] * 16, SamplingParams(temp=0.0), max_tokens=2, ignore_eos=True, draft=False):
        pass


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """Index of the first token that differs; a text that ends earlier differs there."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), None if len(a) == len(b) else n)


@dataclass(frozen=True)
class Spread:
    """A ratio of medians, and the quartiles of the single ratios."""

    ratio: float
    low: float
    high: float


def speed_up(plain: Sequence[float], other: Sequence[float]) -> Spread:
    """How much faster `other` is: times per token, pairwise of the same work."""
    ratios = [a / b for a, b in zip(plain, other, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Spread(statistics.median(plain) / statistics.median(other), quartiles[0], quartiles[2])


def timing_keys(samples_ns: Sequence[int], n_tokens: Sequence[int]) -> dict[str, Any]:
    """llama-bench's keys for generations of so many tokens each."""
    rates = [1e9 * n / ns for n, ns in zip(n_tokens, samples_ns, strict=True)]
    return {
        "avg_ns": round(statistics.mean(samples_ns)),
        "stddev_ns": round(statistics.pstdev(samples_ns)),
        "avg_ts": statistics.mean(rates),
        "stddev_ts": statistics.pstdev(rates),
        "samples_ns": list(samples_ns),
        "samples_ts": rates,
    }


def draft_keys(runs: Sequence[Measured]) -> dict[str, Any]:
    """What was decoded and accepted, pooled over generations of more than a token."""
    passes = sum(run.passes for run in runs)
    depths = max(len(run.accept_hist) for run in runs)
    return {
        "draft_n": sum(run.n_draft for run in runs),
        "draft_n_accepted": sum(run.n_accepted for run in runs),
        "rows_per_step": sum(run.rows for run in runs) / passes,
        "tokens_per_step": sum(run.n_timed for run in runs) / passes,
        "engine_us_per_step": sum(run.engine_ns for run in runs) / passes / 1e3 or None,  # None: of another program
        "accept_hist": [sum(run.accept_hist[d] for run in runs if d < len(run.accept_hist)) for d in range(depths)],
    }

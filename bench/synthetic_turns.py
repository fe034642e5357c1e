"""The ways to decode that a stated acceptance compares, and one turn after another of each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from maskprobe import Engine, Model, SamplingParams, Stats
from maskprobe.cli.bench_measure import PLAIN, Watched, measure
from maskprobe.proposers.oracle import DEPTH_MAX, Oracle, tau_of

ORACLE, PLANNED = "oracle", "planned"
FIXED_ROWS = (2, 3, 4, 6, 8, 12, 16)  # that the planner is held against, beside plain decoding
SLACK = 64  # tokens of the text known beyond those that are asked for
GREEDY = SamplingParams(temp=0.0)


@dataclass(frozen=True)
class Offer:
    """Trees of `rows` rows with which `tau` tokens per pass come out, by a chain `depth` deep and siblings. `planned`:
    what the planner takes of them."""

    tau: float
    rows: int
    depth: int = DEPTH_MAX
    planned: bool = False

    def proposer(self, text: Sequence[int], n_vocab: int) -> Watched:
        """Raises ArgumentError for what the oracle cannot do."""
        oracle = Oracle(text, n_vocab, tau=self.tau, rows=self.rows, depth_max=self.depth)
        oracle.whole = not self.planned
        return Watched(oracle)


def sweep(right: float) -> list[Offer]:
    """A chain of each of FIXED_ROWS, and the planner on the longest one. Every candidate is right at the rate `right`,
    given that the one before it is."""
    chains = [Offer(tau_of(right, n - 1), n, depth=n - 1) for n in FIXED_ROWS]
    longest = chains[-1]
    return [*chains, Offer(longest.tau, longest.rows, longest.depth, planned=True)]


@dataclass
class Series:
    """All repetitions of one way to decode. Without an offer it is plain decoding."""

    kernels: str
    propose: str
    offer: Offer | None = None
    n_tokens: list[int] = field(default_factory=list)
    samples_ns: list[int] = field(default_factory=list)
    passes_of: Counter[int] = field(default_factory=Counter)  # by their rows
    n_splits: int = 0  # places where the text left the recorded one

    @property
    def planned(self) -> bool:
        return self.offer is not None and self.offer.planned

    @property
    def passes(self) -> int:
        return self.passes_of.total()

    @property
    def rows(self) -> int:
        """Rows of all passes."""
        return sum(n * count for n, count in self.passes_of.items())

    @property
    def per_token(self) -> list[float]:
        """Nanoseconds, for each repetition."""
        return [ns / n for ns, n in zip(self.samples_ns, self.n_tokens, strict=True)]


class Decoder:
    """One set of kernels: an engine for plain decoding, one for trees and one that plans, and the text that they bring
    forth, n_predict tokens of it in each turn."""

    def __init__(
        self, kernels: str, model: Model, offers: Sequence[Offer], *, depth: int, n_predict: int, n_threads: int
    ) -> None:
        self._n_vocab, self._n_predict = model.info.n_vocab, n_predict
        self.prompt = [(37 * i + 11) % self._n_vocab for i in range(depth)]
        widest = max(offer.rows for offer in offers)
        settings = {"n_ctx": depth + n_predict + SLACK + widest, "n_threads": n_threads}
        self._plain = Engine(model, proposer=PLAIN, n_rows_max=1, **settings)
        self._trees = Engine(model, proposer=PLAIN, rows=widest, n_rows_max=widest, **settings)
        self._plans = Engine(model, proposer=PLAIN, n_rows_max=widest, **settings)  # it learns times by itself
        self.n_threads = self._plain.context.n_threads
        self.series = [
            Series(kernels, PLAIN),
            *(Series(kernels, PLANNED if offer.planned else ORACLE, offer) for offer in offers),
        ]
        self._sources: list[Watched | None] = []  # of the series
        self._text: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for engine in (self._plain, self._trees, self._plans):
            engine.close()

    def record(self) -> None:
        """What follows the prompt; then a turn of each series that is not kept: graphs are made, the planner learns.

        Raises ArgumentError where the oracle cannot do what is asked for."""
        recorded = measure(self._plain, self.prompt, GREEDY, self._n_predict + SLACK, ignore_eos=True)
        self._text = self.prompt + recorded.tokens
        self._sources = [s.offer and s.offer.proposer(self._text, self._n_vocab) for s in self.series]
        for series, source in zip(self.series, self._sources, strict=True):
            self._turn(Series(series.kernels, series.propose, series.offer), source)

    def measure(self) -> None:
        """One turn of each series."""
        for series, source in zip(self.series, self._sources, strict=True):
            self._turn(series, source)

    def _turn(self, series: Series, source: Watched | None) -> None:
        n_known, n_tokens, milliseconds = len(self.prompt), 0, 0.0
        while n_tokens < self._n_predict:
            n_same, stats = self._as_recorded(series, source, n_known, self._n_predict - n_tokens + 1)
            n_tokens += stats.n_gen - 1
            milliseconds += stats.gen_ms
            series.passes_of += Counter({1: stats.passes}) if source is None else source.passes_of
            if n_same < stats.n_gen:
                series.n_splits += 1
                n_known += max(n_same, 1)
        series.n_tokens.append(n_tokens)
        series.samples_ns.append(round(1e6 * milliseconds))

    def _as_recorded(self, series: Series, source: Watched | None, n_known: int, n: int) -> tuple[int, Stats]:
        """Generates after the first n_known tokens of the text, n tokens at most, until rounding makes another token
        the best one. Returns how many were those of the text."""
        if source is not None:
            source.reset()
        engine = self._plain if source is None else self._plans if series.planned else self._trees
        settings = {"max_tokens": n, "ignore_eos": True, "proposer": source}
        n_same = 0
        with engine.generate(self._text[:n_known], GREEDY, **settings) as generation:
            for result, recorded in zip(generation, self._text[n_known:], strict=False):
                if result.token != recorded:
                    break
                n_same += 1
        return n_same, generation.stats

"""The ways to decode that maskprobe-bench synthetic compares, and one turn after another of each."""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from .. import Engine, Model, NoProposer, Planned, Proposer, SamplingParams, Session
from ..planner import SHAPES
from ..proposers.oracle import DEPTH_MAX, Oracle, tau_of
from .bench_measure import PLAIN

ORACLE, PLANNED = "oracle", "planned"
SWEEP_WIDEST = 16  # rows
SLACK = 64  # tokens of the text known beyond those that are asked for


@dataclass(frozen=True)
class Offer:
    """Trees of `rows` rows with which `tau` tokens per pass come out, by a chain `depth` deep and siblings. `planned`:
    what the planner takes of them."""

    tau: float
    rows: int
    depth: int = DEPTH_MAX
    planned: bool = False

    def proposer(self, text: Sequence[int], n_vocab: int) -> Proposer:
        """Raises ArgumentError for what the oracle cannot do."""
        oracle = Oracle(text, n_vocab, tau=self.tau, rows=self.rows, depth_max=self.depth)
        return Planned(oracle) if self.planned else oracle


def sweep(right: float) -> list[Offer]:
    """A chain of each number of rows that the planner chooses from, SWEEP_WIDEST at most, and the planner on the
    longest one. Every candidate is right at the rate `right`, given that the one before it is."""
    sizes = [n for n in SHAPES if 2 <= n <= SWEEP_WIDEST]
    chains = [Offer(tau_of(right, n - 1), n, depth=n - 1) for n in sizes]
    return [*chains, Offer(chains[-1].tau, sizes[-1], depth=sizes[-1] - 1, planned=True)]


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
    """One set of kernels: a session for plain decoding and one for trees, and the text that they bring forth."""

    def __init__(self, kernels: str, model: Model, offers: Sequence[Offer], args: argparse.Namespace) -> None:
        self._args, self._model = args, model
        self.prompt = [(37 * i + 11) % model.info.n_vocab for i in range(args.depth)]
        widest = max(offer.rows for offer in offers)
        settings = {"n_ctx": args.depth + args.predict + SLACK + widest, "n_threads": max(args.threads, 0)}
        self._plain = Session(model, n_rows_max=1, n_top_max=2, **settings)
        self._trees = Session(model, n_rows_max=widest, n_top_max=2, **settings)
        self.n_threads = self._plain.n_threads
        self.series = [
            Series(kernels, PLAIN),
            *(Series(kernels, PLANNED if offer.planned else ORACLE, offer) for offer in offers),
        ]
        self._engines: list[Engine] = []
        self._text: list[int] = []

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._plain.close()
        self._trees.close()

    def record(self) -> None:
        """What follows the prompt; then what comes before a measurement: graphs are made, the planner learns.

        Raises ArgumentError where the oracle cannot do what is asked for."""
        plain = Engine(self._plain, NoProposer())
        recorded = plain.generate(
            self.prompt, SamplingParams(temp=0.0), max_tokens=self._args.predict + SLACK, ignore_eos=True
        )
        self._text = self.prompt + [result.token for result in recorded]
        self._engines = [plain]
        for series in self.series[1:]:
            proposer = series.offer.proposer(self._text, self._model.info.n_vocab)
            engine = Engine(self._trees, proposer)
            self._engines.append(engine)
            if series.planned:
                self._turn(engine, Series(series.kernels, series.propose, series.offer))
            else:
                self._begin(engine, len(self.prompt))
                engine.step()  # the first pass of a shape makes its graph

    def measure(self) -> None:
        """One turn of each series."""
        for engine, series in zip(self._engines, self.series, strict=True):
            self._turn(engine, series)

    def _turn(self, engine: Engine, series: Series) -> None:
        n_known = len(self.prompt)
        self._begin(engine, n_known)
        n_tokens, milliseconds = 0, 0.0
        while n_tokens < self._args.predict:
            step = engine.step()
            n_tokens += len(step.tokens)
            milliseconds += step.decode_ms + step.engine_ms
            series.passes_of[step.n_rows] += 1
            n_same = same(step.tokens, self._text[n_known:])
            n_known += n_same
            if n_same < len(step.tokens):  # rounding made another token the best one
                series.n_splits += 1
                self._begin(engine, n_known)
        series.n_tokens.append(n_tokens)
        series.samples_ns.append(round(1e6 * milliseconds))

    def _begin(self, engine: Engine, n_known: int) -> None:
        engine.begin(self._text[:n_known], SamplingParams(temp=0.0), ignore_eos=True)


def same(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens the two have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))

"""Section planner: rows as many as pay against every fixed number of rows and plain decoding, in one run.

Real models write answers to prompts, with candidates from all evidence. Random weights in the shape of a model of a
billion write what they write, and a source that knows that text beforehand is right at a stated rate. An adversary
knows it too: it claims much and is never right.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from real_plan import Plan, random_model
from real_report import Asked
from real_speed import prompts_of
from synthetic_turns import FIXED_ROWS, Decoder, sweep

from maskprobe import Engine, Generation, Model, Proposer, SamplingParams, TokenTree
from maskprobe.cli.bench_decoders import jobs_of, turned
from maskprobe.cli.bench_measure import PLAIN, Watched, warm_up
from maskprobe.cli.bench_measure import measure as generate
from maskprobe.cli.bench_prompts import Prompt, spread
from maskprobe.cli.bench_run import AUTO, ROWS_ROOM
from maskprobe.cli.bench_table import PER_PASS, Column, Row, decimals, markdown, plain_text, quartiles
from maskprobe.cli.terminal import Progress

OF_BEST_FIXED, OF_PLAIN = 0.97, 0.98  # asked
RATES = (0.6, 0.85)
CLAIMED, WRONG = 0.9, 7  # by the adversary, of each of so many candidates
PIECE = 64  # tokens by which plain decoding and the adversary alternate

HOW = (
    "`auto`: rows as many as pay. A number: rows of every pass, as far as there are candidates. Each begins with "
    "nothing learned, in a context of its own, and keeps what it learns from prompt to prompt. They take turns, and "
    "write the same text. Of the best fixed: the median and the quartiles of single prompts, turns or pieces; in all, "
    "and of plain: the time for all tokens. The best fixed number, plain decoding's one row among them, is found by "
    f"the times of the same run, so a little of its lead is luck. The adversary offers a chain of {WRONG} wrong "
    f"candidates for every pass and claims that each is right with {CLAIMED}; its turns are pieces of {PIECE} tokens. "
    "It is written in Python: its own work, and the way there and back, are in its time."
)


def seconds(plan: Plan) -> float:
    """About how long the section takes on one core that reads 20 GB/s, prompts included."""
    n_runs = len(plan.temps) * 6 * plan.n_planned * (2 + len(FIXED_ROWS))
    n_tokens = 2 * plan.n_adversary + n_runs * (2 * plan.n_predict)
    stated = 4 * plan.n_stated * (plan.rounds + 1) * len(RATES) + 2 * plan.n_adversary
    bytes_read = sum(path.stat().st_size * n_tokens for path in plan.models)
    return 20.0 + (bytes_read + stated * (1e7 if plan.is_quick else 8e8)) / 20e9


def measure(plan: Plan) -> Iterator[tuple[str, Row]]:
    """One model and temperature, rate or adversary after another."""
    prompts, _ = prompts_of(plan)
    prompts = spread(prompts, plan.n_planned)
    for path in plan.models:
        for temp in plan.temps:
            yield f"{path.name}, temperature {temp:g}", of_prompts(path, prompts, temp, plan)
        yield f"{path.name}, adversary", of_adversary(path, plan)
    with random_model("q4_0", plan) as path:
        for rate in RATES:
            yield f"{path.name}, right at {rate:g}", of_rate(path, rate, plan)
        yield f"{path.name}, adversary", of_adversary(path, plan)


def row_of(name: str, tokens: Sequence[int], samples_ns: Sequence[int], passes: int, n_rows: int) -> Row:
    """What one way to decode came to; one sample for each prompt, turn or piece."""
    samples = {"samples_n": list(tokens), "samples_ns": list(samples_ns)}
    return {"name": name, **samples, "passes": passes, "n_rows": n_rows}


def of_prompts(path: Path, prompts: Sequence[Prompt], temp: float, plan: Plan) -> Row:
    with ExitStack() as opened, Progress(f"{path.name}, temperature {temp:g}") as progress:
        threads = plan.threads[0]
        model = opened.enter_context(Model(path, n_threads=threads))
        jobs, _, _ = jobs_of(model, prompts, plan.n_predict)
        wanted = max(len(job.tokens) for job in jobs) + plan.n_predict + ROWS_ROOM
        settings = {"n_ctx": min(wanted, model.info.n_ctx_train), "n_threads": threads}
        engines = {PLAIN: Engine(model, proposer=PLAIN, n_rows_max=1, **settings), AUTO: Engine(model, **settings)}
        engines |= {str(n): Engine(model, rows=n, **settings) for n in FIXED_ROWS}
        for engine in engines.values():
            opened.enter_context(engine)
            warm_up(engine, jobs[0].tokens[0])
        runs = {name: [] for name in engines}
        for i, job in enumerate(jobs):
            progress(i, len(jobs))
            sampling = SamplingParams(temp=temp, seed=plan.seed)
            for name in turned(list(engines), i):
                runs[name].append(generate(engines[name], job.tokens, sampling, plan.n_predict))
    kept = [i for i, run in enumerate(runs[PLAIN]) if run.n_timed]  # the first token did not end the text
    same = sum(run.tokens == plain.tokens for run, plain in zip(runs[AUTO], runs[PLAIN], strict=True))
    rows = []
    for name, of_name in runs.items():
        chosen = [of_name[i] for i in kept]
        counts = sum(run.passes for run in chosen), sum(run.rows for run in chosen)
        rows.append(row_of(name, [run.n_timed for run in chosen], [run.gen_ns for run in chosen], *counts))
    return {"rows": rows, "n_identical": same, "n_runs": len(jobs)}


def of_rate(path: Path, rate: float, plan: Plan) -> Row:
    with ExitStack() as opened, Progress(f"{path.name}, right at {rate:g}") as progress:
        model = opened.enter_context(Model(path, self_check=False, n_threads=plan.threads[0]))
        sizes = {"depth": plan.depth, "n_predict": plan.n_stated, "n_threads": plan.threads[0]}
        decoder = opened.enter_context(Decoder("", model, sweep(rate), **sizes))
        decoder.record()
        for i in range(plan.rounds):
            progress(i, plan.rounds)
            decoder.measure()
    rows = []
    for series in decoder.series:
        name = PLAIN if series.offer is None else AUTO if series.planned else str(series.offer.rows)
        rows.append(row_of(name, series.n_tokens, series.samples_ns, series.passes, series.rows))
    n_turns = plan.rounds * len(rows)
    return {"rows": rows, "n_identical": n_turns - sum(s.n_splits for s in decoder.series), "n_runs": n_turns}


class Adversary(Proposer):
    """Knows the text, which may still grow, and offers what does not come."""

    n_rows_max = 1 + WRONG
    whole = False

    def __init__(self, text: Sequence[int], n_vocab: int) -> None:
        self._text, self._n_vocab = text, n_vocab

    def propose(self, context: Sequence[int], room: int) -> TokenTree:
        tree = TokenTree(context[-1])
        for token in self._text[len(context) : len(context) + min(room - 1, WRONG)]:
            tree.add(tree.n_nodes - 1, (token + 1) % self._n_vocab, math.log(CLAIMED))
        return tree


def of_adversary(path: Path, plan: Plan) -> Row:
    """Plain decoding goes ahead by a piece, so that the text is known."""
    with ExitStack() as opened, Progress(f"{path.name}, adversary") as progress:
        threads = plan.threads[0]
        model = opened.enter_context(Model(path, n_threads=threads))
        n_vocab = model.info.n_vocab
        text = [(37 * i + 11) % n_vocab for i in range(plan.depth)]
        n = min(plan.n_adversary, model.info.n_ctx_train - len(text) - ROWS_ROOM)
        settings = {"n_ctx": len(text) + n + ROWS_ROOM, "n_threads": threads}
        engines = {name: opened.enter_context(Engine(model, proposer=PLAIN, **settings)) for name in (PLAIN, AUTO)}
        for engine in engines.values():
            warm_up(engine, text[0])
        source = Watched(Adversary(text, n_vocab))
        limits = {"max_tokens": n, "ignore_eos": True}
        greedy = SamplingParams(temp=0.0)
        pieces = {PLAIN: Pieces(engines[PLAIN].generate(text, greedy, **limits))}
        text += pieces[PLAIN].take(2 * PIECE)
        pieces[AUTO] = Pieces(engines[AUTO].generate(text[: plan.depth], greedy, proposer=source, **limits))
        while len(pieces[AUTO].tokens) < n:
            progress(len(pieces[AUTO].tokens), n)
            text += pieces[PLAIN].take(PIECE)
            pieces[AUTO].take(PIECE)
        rows = [piece.row(name) for name, piece in pieces.items()]
    return {"rows": rows, "n_identical": int(pieces[AUTO].tokens == pieces[PLAIN].tokens), "n_runs": 1}


class Pieces:
    """A generation that is read piece by piece, with the time of each."""

    def __init__(self, generation: Generation) -> None:
        self.tokens: list[int] = []
        self._generation = generation
        self._read = [(1, 0.0)]  # tokens and milliseconds after each piece

    def take(self, n: int) -> list[int]:
        """The next n tokens, or those that are left."""
        new = [result.token for _, result in zip(range(n), self._generation, strict=False)]
        self.tokens += new
        stats = self._generation.stats
        if stats.n_gen > self._read[-1][0]:
            self._read.append((stats.n_gen, stats.gen_ms))
        return new

    def row(self, name: str) -> Row:
        stats = self._generation.stats
        pairs = list(zip(self._read, self._read[1:], strict=False))
        tokens = [after[0] - before[0] for before, after in pairs]
        return row_of(name, tokens, [round(1e6 * (b[1] - a[1])) for a, b in pairs], stats.passes, stats.rows)


def summaries(case: Row) -> list[Row]:
    """A line for each way to decode, against plain decoding and the best fixed number of rows."""
    rows = {row["name"]: row for row in case["rows"]}
    fixed = [name for name in rows if name != AUTO]
    best = max(fixed, key=lambda name: median(ratios(rows[PLAIN], rows[name])))
    lines = []
    for name, row in rows.items():
        singles = ratios(rows[best], row)
        low, middle, high = quantiles(singles, n=4, method="inclusive") if len(singles) > 1 else singles * 3
        lines.append(
            {
                "name": name,
                "tokens_per_step": sum(row["samples_n"]) / row["passes"],
                "rows_per_step": row["n_rows"] / row["passes"],
                "ts": 1e9 / ns_per_token(row),
                "of_plain": ns_per_token(rows[PLAIN]) / ns_per_token(row),
                "of_best": middle,
                "of_best_quartiles": [low, high],
                "of_best_in_all": ns_per_token(rows[best]) / ns_per_token(row),
                "best": best,
            }
        )
    return lines


def ns_per_token(row: Row) -> float:
    return sum(row["samples_ns"]) / sum(row["samples_n"])


def ratios(slow: Row, fast: Row) -> list[float]:
    """How much faster one is than the other, sample by sample. Pieces end where passes do: there may be one less."""
    times = [[ns / n for ns, n in zip(row["samples_ns"], row["samples_n"], strict=True)] for row in (slow, fast)]
    return [a / b for a, b in zip(*times, strict=False)]


def asked(cases: dict[str, Row]) -> Iterator[Asked]:
    for name, case in cases.items():
        (auto,) = [line for line in summaries(case) if line["name"] == AUTO]
        line = partial(Asked, name, at_least=True)
        if len(case["rows"]) > 2:
            note = f"{auto['of_best_in_all']:.2f} in all"
            yield line(f"of the best fixed number of rows, {auto['best']}", auto["of_best"], OF_BEST_FIXED, note=note)
        else:
            yield line("of plain decoding", auto["of_plain"], OF_PLAIN)
        yield line("texts identical to plain decoding's", case["n_identical"], case["n_runs"], unit="runs")


COLUMNS: list[Column] = [
    ("rows", plain_text("name")),
    *PER_PASS,
    ("t/s", decimals("ts", 1)),
    ("of plain", decimals("of_plain", 3)),
    ("of the best fixed", decimals("of_best", 3)),
    quartiles("of_best_quartiles"),
    ("in all", decimals("of_best_in_all", 3)),
]


def tables(cases: dict[str, Row]) -> str:
    parts = [HOW + "\n"]
    for name, case in cases.items():
        n_tokens = round(median(sum(row["samples_n"]) for row in case["rows"]))
        about = f"{name}: {n_tokens} tokens in {len(case['rows'][0]['samples_n'])} samples"
        parts.append(f"{about}\n\n{markdown(summaries(case), COLUMNS)}")
    return "\n".join(parts)

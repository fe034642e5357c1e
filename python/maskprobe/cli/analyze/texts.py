"""What the subcommands of maskprobe-analyze share: their options, the model, its session, and the texts to look at."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from ... import ArgumentError, Engine, Model, SamplingParams, Session
from ...analysis import Text
from .. import bench_options, options, values
from ..bench_prompts import Job, read_prompts, tokenized
from ..bench_table import Row, facts_of
from ..parser import Parser
from ..terminal import Progress, say
from . import results

PROG = "maskprobe-analyze"


@dataclass
class Analysis:
    """What a subcommand works with."""

    session: Session
    texts: list[Text]
    facts: Row  # of every row of the result
    notes: list[str]  # above the table


def add_options(parser: Parser) -> None:
    add = partial(options.option, parser)
    bench_options.add_model(add)
    add("--prompts", metavar="SET|FILE", nargs="+", default=[], help="code, stories, or files; default: both sets")
    add("--limit", metavar="N", type=values.integer(1), help="prompts of each task at most, evenly spread")
    parser.add_argument("--single-turn", "-st", action="store_true", help="prompts in the model's chat template")
    add(
        "-n",
        "--predict",
        metavar="N",
        type=values.integer(0),
        default=64,
        help="tokens that the model adds to each prompt, greedily, and that are looked at; 0 = those of the prompt",
    )
    bench_options.add_threads(add)
    add("--kernels", choices=options.KERNELS, metavar="|".join(options.KERNELS), default="auto", help="CPU kernels")
    results.add_options(add)


@contextmanager
def opened(args: argparse.Namespace, *, taps: bool = False, n_rows_max: int = 64) -> Iterator[Analysis]:
    """The model with a session, and the texts. Raises ArgumentError and ModelError."""
    results.check(args)
    prompts, notes = read_prompts(args.prompts)
    path = bench_options.model_path(args, PROG)
    with ExitStack() as stack:
        model = stack.enter_context(Model(path, kernels=args.kernels, n_threads=max(args.threads, 0)))
        if not (model.info.can_tree and model.info.can_probe):
            raise ArgumentError(f"this model cannot be looked into: {model.info.note}")
        if args.single_turn:
            prompts = [replace(p, text=model.chat_format([{"role": "user", "content": p.text}])) for p in prompts]
        room = model.info.n_ctx_train - n_rows_max
        jobs, left_out = tokenized(model, prompts, max(args.predict, 1), room, args.limit)
        texts = read_as_they_are(jobs) if args.predict == 0 else written(model, jobs, args)
        longest = max(len(text.tokens) for text in texts)
        session = stack.enter_context(
            Session(
                model,
                n_ctx=min(longest + n_rows_max, model.info.n_ctx_train),
                n_rows_max=n_rows_max,
                n_threads=max(args.threads, 0),
                taps=taps,
            )
        )
        facts = facts_of(path, model, session.n_threads)
        n_places = sum(len(text.places) for text in texts)
        about = f"{path.name} ({model.info.description}), {len(texts)} texts, {n_places} places"
        for note in (notes := notes + left_out):
            say(f"{PROG}: {note}")
        yield Analysis(session, texts, facts, [about, *notes])


def read_as_they_are(jobs: list[Job]) -> list[Text]:
    """Raises ArgumentError where no prompt has four tokens."""
    texts = [Text(job.task, job.name, tuple(job.tokens), 1) for job in jobs if len(job.tokens) >= 4]
    if not texts:
        raise ArgumentError("no prompt has four tokens: give longer ones, or let the model write some (-n)")
    return texts


def written(model: Model, jobs: list[Job], args: argparse.Namespace) -> list[Text]:
    """Greedy texts after the prompts. Raises ArgumentError where each ends after fewer than four tokens."""
    texts = []
    settings = {"n_ctx": max(len(job.tokens) for job in jobs) + args.predict + 64, "n_threads": max(args.threads, 0)}
    settings["n_ctx"] = min(settings["n_ctx"], model.info.n_ctx_train)
    with Engine(model, **settings) as engine, Progress("writing") as progress:
        for done, job in enumerate(jobs):
            progress(done, len(jobs))
            generation = engine.generate(job.tokens, SamplingParams(temp=0.0), max_tokens=args.predict)
            added = [result.token for result in generation if result.token >= 0]
            if len(added) >= 4:
                texts.append(Text(job.task, job.name, (*job.tokens, *added), len(job.tokens)))
    if not texts:
        raise ArgumentError("the model ends every text after fewer than four tokens: give other prompts")
    return texts

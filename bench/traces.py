"""Sources of candidates replayed on recorded texts, without running the model.

python bench/traces.py --texts answers.jsonl --propose lookup,ngram
"""

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from maskprobe import ArgumentError, Model, Proposer, accept, proposer_named
from maskprobe.cli import bench_options, options, values
from maskprobe.cli.bench import print_result
from maskprobe.cli.bench_prompts import Prompt, read_prompts, spread
from maskprobe.cli.bench_run import ALL_TASKS, AUTO, names, widths
from maskprobe.cli.bench_table import PER_PASS, Column, Row, decimals, facts_of, plain_text, render
from maskprobe.cli.parser import Parser
from maskprobe.cli.terminal import Progress, say, secure_streams
from maskprobe.proposers import source_named

PROG = "traces.py"

DESCRIPTION = """\
Tokens per pass that a source of candidates would reach if the model wrote just these texts. The model is there for its
tokenizer only. Sources that learn from the model's outputs are refused: a text has none.

Texts are JSON lines with a prompt (prompt, question or turns) and what was answered (answer, completion, response,
canonical_solution or reference); GSM8K and HumanEval are such files. An answer follows its prompt on a new line unless
the prompt ends with a space or a line break.
"""


@dataclass(frozen=True)
class Text:
    task: str
    tokens: list[int]
    n_prompt: int  # of the tokens


@dataclass
class Count:
    """What one source came to on the texts of a task."""

    n_texts: int = 0
    n_tokens: int = 0
    passes: int = 0
    rows: int = 0
    n_draft: int = 0
    source_ns: int = 0  # the source's own work
    accept_hist: list[int] = field(default_factory=list)

    def add(self, other: "Count") -> None:
        depths = itertools.zip_longest(self.accept_hist, other.accept_hist, fillvalue=0)
        self.accept_hist = [a + b for a, b in depths]
        for name in ("n_texts", "n_tokens", "passes", "rows", "n_draft", "source_ns"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class OutputsWanted(Exception):
    """A source asked for what only a model can give."""


class NoOutputs:
    """Stands where the outputs of a pass would be."""

    def __getattr__(self, name: str) -> Any:
        raise OutputsWanted


def setup_arg_parser() -> Parser:
    parser = Parser(prog=PROG, description=DESCRIPTION)
    add = partial(options.option, parser)
    add(
        "-m",
        "--model",
        metavar="FILE",
        help="whose tokenizer: a GGUF file or a known model's name (default: smollm2)",
    )
    parser.add_argument("--texts", metavar="FILE", nargs="+", required=True, help="recorded prompts and answers")
    add("--limit", metavar="N", type=values.integer(1), help="texts of each task at most, evenly spread")
    add("--propose", metavar="NAME,...", type=names, default="lookup,ngram", help="sources of candidates")
    add(
        "--rows",
        metavar="auto|N,N,...",
        type=widths,
        default=AUTO,
        help="rows of a pass; auto = the source's own",
    )
    add("-n", "--predict", metavar="N", type=values.integer(1), help="tokens of each answer at most; default: all")
    bench_options.add_form(add)
    return parser


def run(args: argparse.Namespace) -> str:
    """The result as text."""
    prompts, notes = read_prompts(args.texts)
    path = bench_options.model_path(args, PROG)
    with Model(path, self_check=False) as model:
        answered = [prompt for prompt in prompts if prompt.answer]
        if len(answered) < len(prompts):
            notes.append(f"{len(prompts) - len(answered)} of {len(prompts)} texts have no answer and are left out")
        texts = tokenized(model, spread(answered, args.limit), args.predict)
        for line in notes:
            say(f"{PROG}: {line}")
        facts = facts_of(path, model, 0)
        tasks = list(dict.fromkeys(text.task for text in texts))
        rows = []
        sources = list(itertools.product(args.propose, args.rows))
        with Progress("replaying") as progress:
            for done, (name, n_rows) in enumerate(sources):
                progress(done, len(sources))
                counts = {task: Count() for task in tasks}
                try:
                    if source_named(name).probes:
                        raise OutputsWanted
                    source = proposer_named(name, model, rows=n_rows)
                    for text in texts:
                        counts[text.task].add(replay(source, text))
                except OutputsWanted:
                    raise ArgumentError(
                        f"{name} works with the model's outputs, a recorded text has none: use maskprobe-bench run"
                    ) from None
                about = {**facts, "propose": name, "rows": AUTO if n_rows is None else str(n_rows)}
                rows += [{**about, **row_of(task, count)} for task, count in counts.items()]
                if len(tasks) > 1:
                    together = Count()
                    for count in counts.values():
                        together.add(count)
                    rows.append({**about, **row_of(ALL_TASKS, together)})
    rows.sort(key=lambda row: [*tasks, ALL_TASKS].index(row["task"]))
    what = "Replayed on recorded texts: no model ran, nothing here is a speed-up."
    return render(rows, args.output, COLUMNS, [f"Tokenizer of {path.name}. {what}", *notes])


def tokenized(model: Model, prompts: Sequence[Prompt], n_predict: int | None) -> list[Text]:
    """The texts that have an answer. Raises ArgumentError where none has."""
    texts = []
    for prompt in prompts:
        between = "" if prompt.text[-1].isspace() else "\n"
        before = model.tokenize(prompt.text, add_special=True, parse_special=True)
        whole = model.tokenize(prompt.text + between + prompt.answer, add_special=True, parse_special=True)
        n_same = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
        n_prompt = max(n_same, 1)  # a source wants a root
        whole = whole if n_predict is None else whole[: n_prompt + n_predict]
        if len(whole) > n_prompt:
            texts.append(Text(prompt.task, whole, n_prompt))
    if not texts:
        raise ArgumentError("the texts have no answers: each line needs a field answer, completion or response")
    return texts


def replay(source: Proposer, text: Text) -> Count:
    """Generates the answer with candidates of `source`, as an engine does with a model.

    Raises OutputsWanted."""
    count = Count(n_texts=1, n_tokens=len(text.tokens) - text.n_prompt)
    context = text.tokens[: text.n_prompt]
    started = time.perf_counter_ns()
    source.begin(context)
    count.source_ns += time.perf_counter_ns() - started
    while (n_left := len(text.tokens) - len(context)) > 0:
        coming = iter(text.tokens[len(context) :])
        started = time.perf_counter_ns()
        tree = source.propose(context, room_of(source, n_left))
        count.source_ns += time.perf_counter_ns() - started
        path, emitted = accept(tree, lambda _row, coming=coming: next(coming), lambda _token: False, n_left)
        context += emitted
        started = time.perf_counter_ns()
        source.observe(tree, NoOutputs(), path, emitted)
        count.source_ns += time.perf_counter_ns() - started
        count.passes += 1
        count.rows += tree.n_rows
        count.n_draft += tree.n_nodes - 1
        count.accept_hist += [0] * (len(path) - len(count.accept_hist))
        count.accept_hist[len(path) - 1] += 1
    return count


def room_of(source: Proposer, n_left: int) -> int:
    """The last token needs no candidates."""
    return source.n_rows_max if n_left > 1 else 1


def row_of(task: str, count: Count) -> Row:
    return {
        "task": task,
        "n_texts": count.n_texts,
        "n_gen": count.n_tokens,
        "draft_n": count.n_draft,
        "draft_n_accepted": count.n_tokens - count.passes,
        "rows_per_step": count.rows / count.passes,
        "tokens_per_step": count.n_tokens / count.passes,
        "source_us_per_step": count.source_ns / count.passes / 1000,
        "accept_hist": count.accept_hist,
    }


COLUMNS: list[Column] = [
    ("task", plain_text("task")),
    ("propose", plain_text("propose")),
    ("rows", plain_text("rows")),
    ("texts", plain_text("n_texts")),
    ("tokens", plain_text("n_gen")),
    *PER_PASS,
    ("µs of the source per pass", decimals("source_us_per_step", 0)),
]


def main(argv: Sequence[str] | None = None) -> int:
    secure_streams()
    return print_result(PROG, run, setup_arg_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

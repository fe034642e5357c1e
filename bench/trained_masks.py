"""Tokens per pass of trained masks against untrained ones, at equal rows; linear against quadratic decoding.

    python bench/trained_masks.py -m MODEL --masks full=masks.gguf --masks plain=other.gguf \
        --prompts bench/prompts/code.txt -n 80

Each --masks has a name and a file of trained masks, as training with and without the latents' loss leaves them. Two
tables:

masks alone   chains of k candidates from k masks (arXiv 2507.11851): after every node (quadratic, (k + 1)^2 rows),
              or after the last one alone (linear, 2 k + 1 rows). `mean` and `soft` have the same trees.
in the tree   the engine's own evidence at --rows rows, with masks where they are worth more than nodes.

What is counted does not depend on how busy the machine is. `differs`: prompts whose tokens are not those of plain
decoding.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from maskprobe import Engine, MaskProbe, Model, Proposer, SamplingParams, mask_embedding, resolve_model

DEPTHS = (1, 2, 4, 8)
LAYOUTS = {"quadratic": "all", "linear": "last"}
UNTRAINED = {"mean": "mean", "soft": "soft"}


@dataclass
class Row:
    table: str
    masks: str
    n_masks: int
    layout: str
    rows: int  # of a pass at most
    tokens: int = 0  # after the first of each prompt
    passes: int = 0
    differs: int = 0

    @property
    def per_pass(self) -> float:
        return self.tokens / max(self.passes, 1)


def prompts_of(path: Path, n: int) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":  # Spec-Bench: the first turn of each question
        lines = [json.loads(line)["turns"][0] for line in text.splitlines() if line]
        return lines[:: max(1, len(lines) // n)][:n]
    return [line for line in text.splitlines() if line][:n]


def run(
    engine: Engine, prompts: list[list[int]], sampling: SamplingParams, n: int, expected: list[list[int]], row: Row
) -> Row:
    for prompt, plain in zip(prompts, expected, strict=True):
        generation = engine.generate(prompt, sampling, max_tokens=n)
        tokens = [result.token for result in generation]
        row.tokens += len(tokens) - 1
        row.passes += generation.stats.passes
        row.differs += tokens != plain
    return row


def alone(
    model: Model, kinds: dict[str, str], args: argparse.Namespace
) -> Iterator[tuple[Row, Callable[[], Proposer]]]:
    for depth in args.depths:
        for layout, children in LAYOUTS.items():
            for name, spec in kinds.items():
                tree = ",".join(["1"] * depth)

                def source(tree: str = tree, children: str = children, spec: str = spec) -> Proposer:
                    return MaskProbe(model, tree=tree, mask_children=children, mask=mask_embedding(spec, model))

                rows = (depth + 1) ** 2 if layout == "quadratic" else 2 * depth + 1
                yield Row("masks alone", name, depth, layout, rows), source


def shown(row: Row) -> str:
    return (
        f"| {row.table} | {row.masks} | {row.n_masks or ''} | {row.layout} | {row.rows} "
        f"| {row.per_pass:.3f} | {row.differs} |"
    )


def named_file(text: str) -> tuple[str, str]:
    name, equal, path = text.partition("=")
    if not equal or not name or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"must look like NAME=FILE with a file that is there, not {text!r}")
    return name, f"file:{path}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--masks", action="append", type=named_file, default=[], metavar="NAME=FILE")
    parser.add_argument("--prompts", type=Path, required=True, help="a prompt per line, or Spec-Bench's question.jsonl")
    parser.add_argument("--n-prompts", type=int, default=12)
    parser.add_argument("-n", "--n-tokens", type=int, default=80)
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--rows", type=int, default=8, help="of a pass, in the second table")
    parser.add_argument("--temp", type=float, default=0.0)
    parser.add_argument("--chat", action="store_true", help="put each prompt into the model's chat format")
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = Model(resolve_model(args.model), n_threads=args.threads, kernels="ours")
    texts = prompts_of(args.prompts, args.n_prompts)
    if args.chat:
        texts = [model.chat_format([{"role": "user", "content": text}], True) for text in texts]
    prompts = [model.tokenize(text, add_special=not args.chat, parse_special=args.chat) for text in texts]
    sampling = SamplingParams(temp=args.temp, seed=1)
    settings = {"n_ctx": 1024, "n_threads": args.threads, "n_rows_max": 128}
    with Engine(model, proposer="none", **settings) as engine:
        expected = [
            [result.token for result in engine.generate(p, sampling, max_tokens=args.n_tokens)] for p in prompts
        ]
    trained = dict(args.masks)
    print(
        "| table | masks | k | layout | rows | tokens per pass | differs |\n|---|---|---|---|---|---|---|", flush=True
    )
    done = []
    for row, source in alone(model, {**UNTRAINED, **trained}, args):
        with Engine(model, proposer=source, **settings) as engine:
            done.append(run(engine, prompts, sampling, args.n_tokens, expected, row))
        print(shown(row), flush=True)
    for name, spec in {"none": "none", **UNTRAINED, **trained}.items():
        with Engine(model, rows=args.rows, masks=spec, **settings) as engine:
            row = Row("in the tree", name, 0, "", args.rows)
            done.append(run(engine, prompts, sampling, args.n_tokens, expected, row))
        print(shown(row), flush=True)
    if args.json:
        args.json.write_text(json.dumps([{**asdict(row), "per_pass": row.per_pass} for row in done], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Tokens per pass of trained masks against untrained ones, at equal rows; linear against quadratic decoding.

    python bench/trained_masks.py -m MODEL --masks full=full.gguf --masks no-consistency=no-consistency.gguf \
        --prompts question.jsonl --chat --n-prompts 6 -n 48

Each --masks has a name and a file of trained masks, as bench/train_mask_variants.py leaves them. Three tables:

masks alone   chains of k candidates from k masks (arXiv 2507.11851), greedy: after every node (quadratic, (k + 1)^2
              rows), or after the last one alone (linear, 2 k + 1 rows). `mean` and `soft` have the same trees.
with head     the same chains, the candidates named by the file's sampler head, where it has one.
in the tree   the engine's own evidence at --rows rows, with masks where they are worth more than nodes; greedy, and at
              --temp.

What is counted does not depend on how busy the machine is. `differs`: prompts whose tokens are not those of plain
decoding.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mask_head import HeadProbe, NumpyHead, greedy

from maskprobe import Engine, MaskProbe, Model, SamplingParams, Session, mask_embedding, resolve_model

DEPTHS = (1, 2, 4, 8)
LAYOUTS = {"quadratic": "all", "linear": "last"}
UNTRAINED = {"mean": "mean", "soft": "soft"}
SEED = 1


@dataclass
class Row:
    table: str
    masks: str
    n_masks: int
    layout: str
    rows: int  # of a pass at most
    temp: float = 0.0
    tokens: int = 0  # after the first of each prompt
    passes: int = 0
    differs: int = 0

    @property
    def per_pass(self) -> float:
        return self.tokens / max(self.passes, 1)

    def add(self, tokens: list[int], n_passes: int, plain: list[int]) -> None:
        self.tokens += len(tokens) - 1
        self.passes += n_passes
        self.differs += tokens != plain

    def __str__(self) -> str:
        return (
            f"| {self.table} | {self.masks} | {self.n_masks or ''} | {self.layout} | {self.rows} | {self.temp} "
            f"| {self.per_pass:.3f} | {self.differs} |"
        )


def prompts_of(path: Path, n: int) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":  # Spec-Bench: the first turn of questions, as many of each task
        lines = [json.loads(line)["turns"][0] for line in text.splitlines() if line]
        step = len(lines) // n
        return lines[step // 2 :: step][:n]
    return [line for line in text.splitlines() if line][:n]


def chains(model: Model, session: Session, specs: dict[str, str], depths: list[int]) -> Iterator[tuple[Row, MaskProbe]]:
    """Each row of the first two tables, with where its candidates come from."""
    heads = {name: NumpyHead(model, path) for name, path in files_of(specs).items() if NumpyHead.is_in(path)}
    for depth in depths:
        for layout, children in LAYOUTS.items():
            n_rows = (depth + 1) ** 2 if layout == "quadratic" else 2 * depth + 1
            for name, spec in specs.items():
                settings = {"tree": ",".join(["1"] * depth), "mask_children": children}
                mask = mask_embedding(spec, model)
                yield Row("masks alone", name, depth, layout, n_rows), MaskProbe(model, mask=mask, **settings)
                if name in heads:
                    source = HeadProbe(model, session, heads[name], mask=mask, **settings)
                    yield Row("with head", name, depth, layout, n_rows), source


def files_of(specs: dict[str, str]) -> dict[str, Path]:
    return {name: Path(spec.removeprefix("file:")) for name, spec in specs.items() if spec.startswith("file:")}


def in_the_tree(
    model: Model,
    specs: dict[str, str],
    prompts: list[list[int]],
    n: int,
    settings: dict[str, int],
    rows: int,
    temp: float,
) -> Iterator[Row]:
    sampling = SamplingParams(temp=temp, seed=SEED)
    expected: list[list[int]] = []
    for name, spec in {"plain": "none", "none": "none", **specs}.items():
        source = {"proposer": "none"} if name == "plain" else {"rows": rows, "masks": spec}
        row = Row("in the tree", name, 0, "", rows, temp)
        with Engine(model, **source, **settings) as engine:
            for i, prompt in enumerate(prompts):
                generation = engine.generate(prompt, sampling, max_tokens=n)
                tokens = [result.token for result in generation if result.token >= 0]
                if name == "plain":
                    expected.append(tokens)
                row.add(tokens, generation.stats.passes, expected[i])
        if name != "plain":
            yield row


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
    parser.add_argument("--rows", type=int, default=8, help="of a pass, in the last table")
    parser.add_argument("--temp", type=float, default=0.8, help="of the last table, beside greedy")
    parser.add_argument("--chat", action="store_true", help="put each prompt into the model's chat format")
    parser.add_argument("-c", "--ctx-size", type=int, default=2048)
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = Model(resolve_model(args.model), n_threads=args.threads, kernels="ours")
    texts = prompts_of(args.prompts, args.n_prompts)
    if args.chat:
        texts = [model.chat_format([{"role": "user", "content": text}], True) for text in texts]
    prompts = [model.tokenize(text, add_special=not args.chat, parse_special=args.chat) for text in texts]
    settings = {"n_ctx": args.ctx_size, "n_threads": args.threads, "n_rows_max": 128}
    specs = {**UNTRAINED, **dict(args.masks)}
    with Session(model, taps=True, **settings) as session:
        sources = list(chains(model, session, specs, args.depths))
        for i, prompt in enumerate(prompts):  # whose cells are kept from one chain to the next
            plain, _ = greedy(session, None, prompt, args.n_tokens)
            for row, source in sources:
                row.add(*greedy(session, source, prompt, args.n_tokens), plain)
            print(f"prompt {i + 1} of {len(prompts)}", file=sys.stderr, flush=True)
    done = [row for row, _ in sources]
    for temp in (0.0, args.temp):
        done += in_the_tree(model, specs, prompts, args.n_tokens, settings, args.rows, temp)
    print("| table | masks | k | layout | rows | temp | tokens per pass | differs |\n|---|---|---|---|---|---|---|---|")
    print(*done, sep="\n")
    if args.json:
        args.json.write_text(json.dumps([{**asdict(row), "per_pass": row.per_pass} for row in done], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

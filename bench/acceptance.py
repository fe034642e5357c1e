"""Tokens per pass, rows per pass and exactness of embedding-space probing, against plain decoding of the same engine.

    python bench/acceptance.py -m MODEL --prompts bench/prompts/stories.txt -n 120
    python bench/acceptance.py -m MODEL --prompts bench/prompts/code.txt -n 100 --propose lookup recycle --rows 8 16

--propose measures other sources of candidates instead, each at each of the row budgets.

Every configuration decodes every prompt right after plain decoding did, in one run, so the speed-ups (medians over the
prompts) compare like with like; on a busy machine they are still only ratios. `identical` counts the prompts whose
tokens equal plain decoding; where one differs, the log-probability gap of plain decoding's two best tokens at the first
difference is listed. --reference adds llama-cpp-python's own greedy decoding to the comparison.
"""

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import maskprobe
from maskprobe import Engine, MaskProbe, Model, SamplingParams, Stats, mask_embedding, resolve_model
from maskprobe.cli.bench_measure import first_difference
from maskprobe.proposers import SOURCES

CONFIGURATIONS = {
    "4": {"tree": "4"},
    "14": {"tree": "14"},
    "29": {"tree": "29"},
    "7,2": {"tree": "7,2"},
    "dynamic": {"tree": "dynamic", "rows": 30},
    "4 soft": {"tree": "4", "mask": "soft"},
    "14 soft": {"tree": "14", "mask": "soft"},
    "29 soft": {"tree": "29", "mask": "soft"},
    "14 sparse": {"tree": "14", "mask_children": 2},
}


@dataclass
class Difference:
    prompt: int
    index: int  # of the first token that differs
    margin: float  # log-probability gap of plain decoding's two best tokens there


@dataclass
class Row:
    """One line of the table, pooled over the prompts."""

    name: str
    n_gen: int = 0  # without the first of each prompt, which comes with it
    passes: int = 0
    rows: int = 0
    speed_ups: list[float] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)


def generate(
    engine: Engine, prompt: list[int], sampling: SamplingParams, n: int
) -> tuple[list[int], list[float], Stats]:
    """Token ids, and the margin at each place."""
    generation = engine.generate(prompt, sampling, max_tokens=n, ignore_eos=True)
    results = list(generation)
    return [r.token for r in results], [r.margin for r in results], generation.stats


def llama_cpp_tokens(path: Path, prompts: list[list[int]], n: int, n_ctx: int, exact: bool) -> list[list[int]]:
    """llama-cpp-python's own greedy decoding; with its defaults, or with an F32 cache and flash attention off."""
    import llama_cpp

    settings = {"flash_attn": False, "type_k": 0, "type_v": 0} if exact else {}
    llama = llama_cpp.Llama(str(path), n_ctx=n_ctx, verbose=False, **settings)
    outputs = []
    for prompt in prompts:
        tokens: list[int] = []
        for token in llama.generate(prompt, temp=0.0, repeat_penalty=1.0):
            tokens.append(int(token))
            if len(tokens) == n:
                break
        outputs.append(tokens)
    return outputs


def engines_of(args: argparse.Namespace, model: Model) -> dict[str, Engine]:
    """What is to be measured, by the names of the table's lines."""
    settings = {"n_ctx": args.ctx_size, "n_threads": args.threads, "type_k": args.cache_type, "type_v": args.cache_type}
    if args.propose:
        return {
            f"{name} {rows or ''}".strip(): Engine(model, proposer=name, rows=rows or "auto", **settings)
            for name in args.propose
            for rows in args.rows
        }
    engines = {}
    for name in args.configurations or CONFIGURATIONS:
        of = dict(CONFIGURATIONS[name])
        mask = mask_embedding(of.pop("mask", "mean"), model)
        engines[name] = Engine(model, proposer=MaskProbe(model, mask=mask, **of), **settings)
    return engines


def measure(args: argparse.Namespace) -> list[Row]:
    path = resolve_model(args.model)
    model = Model(path, n_threads=args.threads, kernels=args.kernels)
    cache = {"type_k": args.cache_type, "type_v": args.cache_type}
    plain = Engine(model, n_ctx=args.ctx_size, n_threads=args.threads, proposer="none", **cache)
    sampling = SamplingParams(temp=args.temp, seed=args.seed)
    prompts = [model.tokenize(text) for text in args.prompts.read_text("utf-8").splitlines() if text]
    engines = engines_of(args, model)
    table = [Row("plain")] + [Row(name) for name in engines]
    plain_outputs, margins = [], []
    for i, prompt in enumerate(prompts):
        if args.cold and i > 0:
            for engine in engines.values():
                engine.close()
            engines = engines_of(args, model)
        expected, gaps, plain_stats = generate(plain, prompt, sampling, args.predict)
        plain_outputs.append(expected)
        margins.append(gaps)
        for row in table:
            stats = plain_stats
            if row.name != "plain":
                tokens, _, stats = generate(engines[row.name], prompt, sampling, args.predict)
                if (index := first_difference(expected, tokens)) is not None:
                    row.differences.append(Difference(i, index, gaps[index]))
            row.n_gen += stats.n_gen - 1
            row.passes += stats.passes
            row.rows += stats.rows
            row.speed_ups.append(stats.gen_tps / plain_stats.gen_tps)
        if sys.stderr.isatty():
            print(f"\r{i + 1} of {len(prompts)} prompts", end="", file=sys.stderr)
    if args.reference:
        for name, exact in (("llama-cpp-python, F32 cache", True), ("llama-cpp-python, defaults", False)):
            row = Row(name)
            outputs = llama_cpp_tokens(path, prompts, args.predict, args.ctx_size, exact)
            for i, tokens in enumerate(outputs):
                if (index := first_difference(plain_outputs[i], tokens)) is not None:
                    row.differences.append(Difference(i, index, margins[i][index]))
            table.append(row)
    return table


def print_markdown(table: list[Row], n_prompts: int) -> None:
    print(
        "| source | tokens per pass | rows per pass | speed-up over plain, median | identical | margins at the splits |"
    )
    print("|---|---|---|---|---|---|")
    for row in table:
        margins = ", ".join(f"{d.margin:.2g}" for d in row.differences) or "-"
        counts = "- | - | -"
        if row.passes:
            speed = f"{statistics.median(row.speed_ups):.2f}"
            counts = f"{row.n_gen / row.passes:.3f} | {row.rows / row.passes:.1f} | {speed}"
        print(f"| {row.name} | {counts} | {n_prompts - len(row.differences)} of {n_prompts} | {margins} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="a GGUF file or a known model's name (default: smollm2)")
    parser.add_argument("--prompts", type=Path, required=True, help="a text file, one prompt per line")
    parser.add_argument("-n", "--predict", type=int, default=120)
    parser.add_argument("-c", "--ctx-size", type=int, default=512)
    parser.add_argument("-t", "--threads", type=int, default=0)
    parser.add_argument("--temp", type=float, default=0.0)
    parser.add_argument("-s", "--seed", type=int, default=1)
    parser.add_argument(
        "--kernels", choices=["auto", "ours", "stock"], default="auto", help="CPU kernels (default auto)"
    )
    parser.add_argument("--cache-type", default="f32", help="of K and V (default f32)")
    parser.add_argument(
        "--configurations", nargs="*", choices=list(CONFIGURATIONS), metavar="TREE", help="default: all"
    )
    parser.add_argument("--propose", nargs="+", choices=list(SOURCES), metavar="NAME", help="other sources instead")
    parser.add_argument(
        "--rows", nargs="+", type=int, default=[None], metavar="N", help="their rows (default: their own)"
    )
    parser.add_argument("--cold", action="store_true", help="sources forget between prompts what they learned")
    parser.add_argument("--reference", action="store_true", help="compare with llama-cpp-python's greedy decoding too")
    parser.add_argument("-o", "--output", choices=["md", "json"], default="md")
    args = parser.parse_args()
    table = measure(args)
    if args.output == "json":
        json.dump({"maskprobe": maskprobe.__version__, "rows": [asdict(row) for row in table]}, sys.stdout, indent=1)
        print()
    else:
        print_markdown(table, len(args.prompts.read_text("utf-8").split("\n")) - 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What masks bring beside all other evidence, in tokens per pass at a fixed number of rows.

    python bench/mask_worth.py --spec-bench question.jsonl -m SmolLM2.gguf qwen.gguf

Every prompt is a user's turn in the model's chat template. Each line has one engine, which goes on learning from prompt
to prompt. Times do not matter: the rows are fixed.
"""

import argparse
import json
from pathlib import Path

from maskprobe import Engine, Model, SamplingParams

LONGEST = 1000  # tokens of a prompt


def prompts_of(path: Path, model: Model, n: int) -> list[list[int]]:
    """n prompts from all over the file."""
    turns = [json.loads(line)["turns"][0] for line in path.read_text("utf-8").splitlines()]
    chosen = turns[:: max(1, len(turns) // n)][:n]
    chats = [model.chat_format([{"role": "user", "content": text}]) for text in chosen]
    return [model.tokenize(chat, parse_special=True)[:LONGEST] for chat in chats]


def tokens_per_pass(model: Model, prompts: list[list[int]], masks: str, args: argparse.Namespace, temp: float) -> float:
    n_tokens = n_passes = 0
    with Engine(model, n_ctx=2048, n_threads=1, rows=args.rows, masks=masks) as engine:
        for prompt in prompts:
            with engine.generate(prompt, SamplingParams(temp=temp, seed=7), max_tokens=args.predict) as generation:
                for _ in generation:
                    pass
            n_tokens += generation.stats.n_gen - 1
            n_passes += generation.stats.passes
    return n_tokens / n_passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--models", nargs="+", type=Path, required=True, metavar="FILE")
    parser.add_argument("--spec-bench", type=Path, required=True, metavar="FILE", help="Spec-Bench's question.jsonl")
    parser.add_argument("--prompts", type=int, default=24, metavar="N")
    parser.add_argument("-n", "--predict", type=int, default=60, metavar="N")
    parser.add_argument("--rows", type=int, default=8, metavar="N")
    args = parser.parse_args()
    print(f"{args.rows} rows, {args.prompts} prompts x {args.predict} tokens\n")
    print("| model | temperature | no masks | mean | soft |")
    print("|---|---|---|---|---|")
    for path in args.models:
        with Model(path, n_threads=1) as model:
            prompts = prompts_of(args.spec_bench, model, args.prompts)
            for temp in (0.0, 0.8):
                found = [tokens_per_pass(model, prompts, masks, args, temp) for masks in ("none", "mean", "soft")]
                print(f"| {path.name} | {temp} | " + " | ".join(f"{value:.3f}" for value in found) + " |", flush=True)


if __name__ == "__main__":
    main()

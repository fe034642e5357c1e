"""Trees against chains of the same number of rows: tokens per pass of the drafter, on real texts.

    python bench/compare_shapes.py -m SMOLLM2.gguf QWEN.gguf --prompts spec_bench_question.jsonl --keep texts

cold: a new drafter for every text; warm: one for all texts of a model and a temperature. All drafts are made on the
same texts, so the machine's load changes nothing.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from draft_library import Drafter
from replay import TEMPERATURES, recorded, save, tokens_per_pass

from maskprobe import Model, Session

ROWS = (4, 8, 16)
DRAFTERS = ("cold", "warm")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--models", nargs="+", type=Path, required=True, help="GGUF files with a chat template")
    parser.add_argument("--prompts", nargs="+", required=True, help="files of prompts: text or JSON lines")
    parser.add_argument("--limit", type=int, default=2, help="prompts of each task (default 2)")
    parser.add_argument("-n", "--predict", type=int, default=80, help="tokens of an answer at most (default 80)")
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, required=True, help="a directory for the texts")
    parser.add_argument("--drafters", nargs="+", choices=DRAFTERS, default=["warm"], help="(default warm)")
    args = parser.parse_args()
    print("| model | drafter | temperature | rows | trees | chains | trees / chains |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for path in args.models:
        session = Session(Model(path, n_threads=args.threads, kernels="ours"), n_ctx=1024, n_threads=args.threads)
        keep = args.keep / f"{path.stem}.shapes"
        drafters = [partial(Drafter, session.model.info.n_vocab, chains_only=chains) for chains in (False, True)]
        texts = recorded(session, args.prompts, args.limit, args.predict, by_turns=False, keep=keep)
        for kind in args.drafters:
            for temp in TEMPERATURES:
                for rows in ROWS:
                    trees, chains = (tokens_per_pass(session, texts, temp, rows, new, kind) for new in drafters)
                    line = (
                        f"{path.stem} | {kind} | {temp:g} | {rows} | {trees:.3f} | {chains:.3f} | {trees / chains:.2f}"
                    )
                    print(f"| {line} |", flush=True)
                save(texts, keep)  # with the rows that were evaluated
    return 0


if __name__ == "__main__":
    sys.exit(main())

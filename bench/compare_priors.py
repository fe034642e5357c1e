"""What first weights of the acceptance model are worth: tokens per pass with fixed numbers of rows, on real texts.

    git show REVISION:csrc/draft/acceptance_prior.h > old.h
    python bench/compare_priors.py -m SMOLLM2.gguf QWEN.gguf --prompts spec_bench_question.jsonl --keep texts \\
        --priors old.h csrc/draft/acceptance_prior.h

cold: a new drafter for every text; warm: one for all texts of a model and a temperature; again: after the answer to the
same prompt at temperature 0 and nothing else. All drafts are made on the same texts, so the machine's load changes
nothing.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from draft_library import Drafter
from learn_prior import read_header, state
from replay import TEMPERATURES, recorded, tokens_per_pass

from maskprobe import Model, Session

ROWS = (8, 16)
DRAFTERS = ("cold", "warm", "again")


def drafter_with(prior: bytes, n_vocab: int) -> Drafter:
    drafter = Drafter(n_vocab)
    drafter.load(prior)
    return drafter


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--models", nargs="+", type=Path, required=True, help="GGUF files with a chat template")
    parser.add_argument("--prompts", nargs="+", required=True, help="files of prompts: text or JSON lines")
    parser.add_argument("--limit", type=int, default=4, help="prompts of each task (default 4)")
    parser.add_argument("-n", "--predict", type=int, default=64, help="tokens of an answer at most (default 64)")
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, required=True, help="a directory for the texts")
    parser.add_argument(
        "--priors", nargs="+", type=Path, required=True, help="files like csrc/draft/acceptance_prior.h"
    )
    parser.add_argument("--drafters", nargs="+", choices=DRAFTERS, default=["cold"], help="(default cold)")
    args = parser.parse_args()
    priors = [state(read_header(path)) for path in args.priors]
    names = [f"{kind} {path.stem}" for kind in args.drafters for path in args.priors]
    print(f"| model | temperature | rows | {' | '.join(names)} |")
    print("|" + "---|" * (3 + len(names)), flush=True)
    for path in args.models:
        session = Session(Model(path, n_threads=args.threads, kernels="ours"), n_ctx=1024, n_threads=args.threads)
        keep = args.keep / f"{path.stem}.compare"
        drafters = [partial(drafter_with, prior, session.model.info.n_vocab) for prior in priors]
        texts = recorded(session, args.prompts, args.limit, args.predict, by_turns=False, keep=keep)
        for temp in TEMPERATURES:
            for rows in ROWS:
                cells = [
                    f"{tokens_per_pass(session, texts, temp, rows, new, kind):.3f}"
                    for kind in args.drafters
                    for new in drafters
                ]
                print(f"| {path.stem} | {temp:g} | {rows} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Learns where the acceptance model starts (csrc/draft/acceptance_prior.h), from texts of real models.

    python bench/learn_prior.py -m SMOLLM2.gguf QWEN.gguf --prompts gsm8k_train.jsonl bench/prompts/learning.txt \\
        --keep texts -o csrc/draft/acceptance_prior.h && clang-format -i csrc/draft/acceptance_prior.h

Each model answers the prompts in its chat template, by turns at temperature 0 and 0.8. The texts are then drafted with
a fixed number of rows and the first weights of this checkout, by a new drafter for every text and then by one for all
texts of a model. Of every candidate after an accepted token it is known which evidence it had and whether it was right:
the new weights are those that foretell this best, drawn towards GUESSES where few candidates say anything. No
benchmark's prompts belong in here.

--keep DIR: the texts, with the rows that were evaluated; another run goes on with them.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from draft_library import Drafter
from replay import Text, recorded, replay

from maskprobe import Model, Session

N_DEPTHS, N_LEVELS = 3, 25
FIRST_SQUARE = 0.3  # csrc/draft/acceptance_model.cpp
N_TABLES = 4  # after the model in a drafter's bytes
FIXED = 1e9
N_STEPS = 12
PULL = 4.0  # of a guess, as much as that many examples with a slope of 1 hold against it

PROBABILITY = [130, 60, 25, -5, -50, -90, -125, -160, 130, 60, 25, -5, -50, -90, -125, -160, 0, 0]
NGRAM = [
    -20,
    25,
    -20,
    -80,
    75,
    10,
    -65,
    85,
    35,
    20,
    125,
    85,
    50,
    180,
    100,
    85,
    230,
    150,
    145,
    250,
    230,
    190,
    255,
    275,
    235,
]
GUESSES = {
    "BY_TOKEN": PROBABILITY,
    "BY_PAIR": PROBABILITY,
    "BY_TRIPLE": PROBABILITY,
    "BY_NGRAM": NGRAM,
    "BY_MASK": PROBABILITY,
    "BY_LAST": PROBABILITY,
    "BY_SIBLING": PROBABILITY,
    "BY_EARLIER": [0, 40, 10, -20, 90, 60, 40, 160, 120, 100, 220, 180, 150],
    "BY_HEAD": [225, 150, 100, 45, 5, -60, -110, -160, 220, 120, 80, 40, 15, -20, -60, -120, 0, -60],
}
BIAS = -200

HEADER = """\
// Where the acceptance model starts, in hundredths: what it came to over answers of SmolLM2-135M-Instruct and
// Qwen2.5-Coder-0.5B-Instruct, %s rows. Written by bench/learn_prior.py.
#pragma once

#include "draft/acceptance_model.h"

namespace mp {

constexpr int16_t FIRST_BIAS[N_DEPTHS] = {%s};

// The rows of a depth are the kinds of evidence, in their order. No mask and no head was learned from: their levels are
// guesses.
constexpr int16_t FIRST_WEIGHTS[N_DEPTHS][N_EVIDENCE][N_LEVELS] = {
%s};

} // namespace mp
"""


def guessed() -> np.ndarray:
    """Weights as a drafter's bytes begin with them, float32 (N_DEPTHS, 1 + kinds * N_LEVELS)."""
    levels = [guesses + [0] * (N_LEVELS - len(guesses)) for guesses in GUESSES.values()]
    return np.tile(np.array([BIAS, *np.ravel(levels)], np.float32) / 100, (N_DEPTHS, 1))


def read_header(path: Path) -> np.ndarray:
    """The weights of an acceptance_prior.h; kinds that it has not are guesses."""
    source = re.sub(r"//.*", "", path.read_text("utf-8"))
    bias, weights = (
        re.search(rf"{name}\[.*?= (.*?);", source, re.DOTALL)[1] for name in ("FIRST_BIAS", "FIRST_WEIGHTS")
    )
    found = guessed()
    found[:, 0] = [int(value) / 100 for value in re.findall(r"-?\d+", bias)]
    rows = [[int(value) / 100 for value in re.findall(r"-?\d+", row)] for row in re.findall(r"{([^{}]*)}", weights)]
    for i, row in enumerate(rows):
        depth, kind = divmod(i, len(rows) // N_DEPTHS)
        start = 1 + kind * N_LEVELS
        found[depth, start : start + len(row)] = row
    return found


def header(weights: np.ndarray, rows: Sequence[int]) -> str:
    """The text of acceptance_prior.h, `rows`: of the passes that were learned from."""
    hundredths = np.rint(100 * weights).astype(int).tolist()
    depths = []
    for of in hundredths:
        depths.append("    {\n")
        for kind, (name, guesses) in enumerate(GUESSES.items()):
            start = 1 + kind * N_LEVELS
            depths.append(f"        {{{', '.join(map(str, of[start : start + len(guesses)]))}}}, // {name}\n")
        depths.append("    },\n")
    return HEADER % (" and ".join(map(str, rows)), ", ".join(str(of[0]) for of in hundredths), "".join(depths))


def state(weights: np.ndarray) -> bytes:
    """A drafter's bytes that begins with these weights, and with nothing in its tables."""
    return weights.tobytes() + np.full_like(weights, FIRST_SQUARE).tobytes() + bytes(4 * N_TABLES)


def fitted(examples: np.ndarray, start: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Logistic weights of examples, uint8 (n, 2 + kinds), as Drafter.examples has them. The best ones for all examples
    at once, with PULL towards `start`; those that are not `free` stay."""
    weights = start.copy()
    for depth in range(N_DEPTHS):
        distinct, counts = np.unique(examples[examples[:, 0] == depth], axis=0, return_counts=True)
        right, levels = distinct[:, 1].astype(float), distinct[:, 2:].astype(int)
        inputs = np.zeros((len(distinct), start.shape[1]))  # the bias, then a 1 for the level of each kind
        inputs[:, 0] = 1
        np.put_along_axis(inputs, 1 + np.arange(levels.shape[1]) * N_LEVELS + levels, 1, axis=1)
        pull = np.where(free, PULL, FIXED)
        pull[1:][np.repeat(np.ptp(levels, axis=0) == 0, N_LEVELS)] = FIXED  # nothing is known of this kind
        now = start[depth].astype(float)
        for _ in range(N_STEPS):  # Newton's
            predicted = 1 / (1 + np.exp(-inputs @ now))
            slope = inputs.T @ (counts * (predicted - right)) + pull * (now - start[depth])
            curve = (inputs.T * (counts * predicted * (1 - predicted))) @ inputs + np.diag(pull)
            now -= np.linalg.solve(curve, slope)
        weights[depth] = now
    return weights


def learned(cold: np.ndarray, warm: np.ndarray) -> np.ndarray:
    """All weights from examples of drafters that knew nothing; those of n-grams of earlier texts, which these cannot
    have, from the others."""
    kinds = np.repeat(np.arange(len(GUESSES)), N_LEVELS)
    is_earlier = np.concatenate([[False], kinds == list(GUESSES).index("BY_EARLIER")])
    weights = fitted(cold, guessed(), ~is_earlier)
    is_earlier[np.flatnonzero(is_earlier)[0]] = False  # none of them: as it was
    return fitted(warm, weights, is_earlier)


def examples(session: Session, texts: list[Text], rows: int, *, cold: bool) -> np.ndarray:
    """Of all candidates after accepted nodes, as drafters with the first weights of the checkout have them."""
    found: list[np.ndarray] = []
    n_passes = 0
    drafter = Drafter(session.model.info.n_vocab)
    for text in texts:
        if cold:
            drafter = Drafter(session.model.info.n_vocab)
        n_passes += replay(session, text, drafter, rows, found)
    n_written = sum(len(text.tokens) - text.n_prompt for text in texts)
    told = f"{session.model.path.name}, {rows} rows, {'cold' if cold else 'warm'}"
    print(f"{told}: {n_written / n_passes:.3f} tokens per pass", file=sys.stderr, flush=True)
    return np.concatenate(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--models", nargs="+", type=Path, required=True, help="GGUF files with a chat template")
    parser.add_argument("--prompts", nargs="+", required=True, help="files of prompts: text or JSON lines")
    parser.add_argument("--limit", type=int, default=32, help="prompts of each file (default 32)")
    parser.add_argument("-n", "--predict", type=int, default=48, help="tokens of an answer at most (default 48)")
    parser.add_argument("--rows", nargs="+", type=int, default=[16], help="of a pass (default 16)")
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, required=True, help="a directory for the texts")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the header")
    args = parser.parse_args()
    texts = []
    for path in args.models:
        session = Session(Model(path, n_threads=args.threads, kernels="ours"), n_ctx=1024, n_threads=args.threads)
        of = recorded(
            session, args.prompts, args.limit, args.predict, by_turns=True, keep=args.keep / f"{path.stem}.learn"
        )
        texts.append((session, [text for _, text in sorted(of.items())]))  # task by task, as people ask
    cold, warm = (
        np.concatenate([examples(session, of, rows, cold=cold) for session, of in texts for rows in args.rows])
        for cold in (True, False)
    )
    args.output.write_text(header(learned(cold, warm), args.rows), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Learns where the acceptance model starts (csrc/draft/acceptance_prior.h), from texts of real models.

    python bench/learn_prior.py -m SMOLLM2.gguf QWEN.gguf --prompts gsm8k_train.jsonl bench/prompts/learning.txt \\
        --keep texts -o csrc/draft/acceptance_prior.h

Each model answers the prompts in its chat template, by turns at temperature 0 and 0.8. The texts are then drafted again
and again with fixed numbers of rows, half of the time by drafters that know nothing, half of the time by one that goes
from text to text; the acceptance model learns from all of them, as it does while decoding. What it comes to is drawn
towards GUESSES where it saw few candidates of a kind. No benchmark's prompts belong in here.

--keep DIR: the texts, with the rows that were evaluated; another run goes on with them.
"""

import argparse
import random
import re
import sys
from pathlib import Path

import numpy as np
from replay import Text, recorded, replay

from maskprobe import Evidence, Model, Session

ROWS = (8, 16)
N_DEPTHS, N_LEVELS = 3, 25
FIRST_SQUARE = 0.3  # csrc/draft/acceptance_model.cpp
N_TABLES = 4  # behind the model in a drafter's bytes
N_EPOCHS = 3
HELD = 30.0  # squared gradients at which a weight is half way between its guess and what was learned

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
    "BY_EARLIER": [-20, 40, 10, -20, 90, 60, 40, 160, 120, 100, 220, 180, 150],
}
BIAS = -200

HEADER = """\
// Where the acceptance model starts, in hundredths: what it came to over answers of SmolLM2-135M-Instruct and
// Qwen2.5-Coder-0.5B-Instruct. Written by bench/learn_prior.py.
#pragma once

#include "acceptance_model.h"

namespace mp {

constexpr int16_t FIRST_BIAS[N_DEPTHS] = {%s};

// The rows of a depth are the kinds of evidence, in their order. No mask was learned from: its levels are guesses.
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


def header(weights: np.ndarray) -> str:
    """The text of acceptance_prior.h."""
    hundredths = np.rint(100 * weights).astype(int).tolist()
    depths = []
    for of in hundredths:
        depths.append("    {\n")
        for kind, (name, guesses) in enumerate(GUESSES.items()):
            start = 1 + kind * N_LEVELS
            depths.append(f"        {{{', '.join(map(str, of[start : start + len(guesses)]))}}}, // {name}\n")
        depths.append("    },\n")
    return HEADER % (", ".join(str(of[0]) for of in hundredths), "".join(depths))


def state(weights: np.ndarray, squares: np.ndarray) -> bytes:
    """A drafter's bytes, with nothing in its tables."""
    return weights.tobytes() + squares.tobytes() + bytes(4 * N_TABLES)


class Learner:
    """Weights that go from one drafter to the next, and their mean over the last epoch."""

    def __init__(self) -> None:
        self.weights = guessed()
        self.squares = np.full_like(self.weights, FIRST_SQUARE)

    def give(self, source: Evidence) -> None:
        """To a drafter, which knows nothing else then."""
        source.load(state(self.weights, self.squares))

    def take(self, source: Evidence) -> None:
        learned = np.frombuffer(source.save(), np.float32, 2 * self.weights.size).reshape(2, *self.weights.shape)
        self.weights, self.squares = learned[0].copy(), learned[1].copy()


def learn(texts: list[tuple[Session, list[Text]]]) -> np.ndarray:
    """From each model's texts. The order is random, the same in every run."""
    order, learner = random.Random(1), Learner()
    for epoch in range(N_EPOCHS):
        means: list[np.ndarray] = []
        rounds = [(session, of, rows, cold) for session, of in texts for rows in ROWS for cold in (True, False)]
        order.shuffle(rounds)
        for session, of, rows, cold in rounds:
            source, n_passes = Evidence(session.model, rows=rows), 0
            learner.give(source)
            for text in order.sample(of, len(of)):
                if cold:
                    learner.give(source)
                n_passes += replay(session, text, source, rows)
                learner.take(source)
                means.append(learner.weights)
            n_written = sum(len(text.tokens) - text.n_prompt for text in of)
            told = f"epoch {epoch + 1}: {session.model.path.name}, {rows} rows, {'cold' if cold else 'warm'}"
            print(f"{told}: {n_written / n_passes:.3f} tokens per pass", file=sys.stderr)
    seen = learner.squares - FIRST_SQUARE
    return guessed() + (np.mean(means, axis=0) - guessed()) * seen / (seen + HELD)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--models", nargs="+", type=Path, required=True, help="GGUF files with a chat template")
    parser.add_argument("--prompts", nargs="+", required=True, help="files of prompts: text or JSON lines")
    parser.add_argument("--limit", type=int, default=58, help="prompts of each file (default 58)")
    parser.add_argument("-n", "--predict", type=int, default=64, help="tokens of an answer at most (default 64)")
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, required=True, help="a directory for the texts")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the header")
    args = parser.parse_args()
    texts = []
    for path in args.models:
        session = Session(Model(path, n_threads=args.threads, use_kernels=True), n_ctx=1024, n_threads=args.threads)
        of = recorded(
            session, args.prompts, args.limit, args.predict, by_turns=True, keep=args.keep / f"{path.stem}.learn"
        )
        texts.append((session, list(of.values())))
    args.output.write_text(header(learn(texts)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

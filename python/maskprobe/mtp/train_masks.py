"""Trains masks for a GGUF model on texts that it wrote: python -m maskprobe.mtp.train_masks MODEL TEXTS OUT

TEXTS is a folder of .npz files, or one of them: `tokens`, all texts one after another; `length` and `n_prompt` of
each."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from ..errors import ArgumentError, Error
from .mask_training import MaskSettings, Progress, Text, train_masks

PROG = "python -m maskprobe.mtp.train_masks"
STEPS_BETWEEN_LINES = 20


def read_texts(path: Path) -> list[Text]:
    """The texts of a file, or of all such files of a folder in the order of their names.

    Raises ArgumentError for a file that cannot be read or does not hold what it should."""
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    return [text for file in files for text in _texts_of(file)]


def _texts_of(path: Path) -> Iterator[Text]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            tokens, lengths, prompts = arrays["tokens"], arrays["length"], arrays["n_prompt"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ArgumentError(f"{path} is no file of texts: {error}") from None
    if any(part.ndim != 1 or part.dtype.kind not in "iu" for part in (tokens, lengths, prompts)):
        raise ArgumentError(f"{path} is no file of texts: its arrays are no lists of whole numbers")
    ends = np.cumsum(lengths)
    if len(prompts) != len(lengths) or lengths.min(initial=0) < 0 or (ends[-1] if len(ends) else 0) != len(tokens):
        raise ArgumentError(f"{path} is no file of texts: the lengths of {len(lengths)} texts do not fit its tokens")
    for begin, end, n_prompt in zip(ends - lengths, ends, prompts, strict=True):
        yield Text(tokens[begin:end].tolist(), int(n_prompt))


def _parser() -> argparse.ArgumentParser:
    defaults = MaskSettings()
    parser = argparse.ArgumentParser(prog=PROG, description="Trains masks for a model, on texts that it wrote.")
    parser.add_argument("model", type=Path, help="GGUF file of a llama or qwen2 model")
    parser.add_argument("texts", type=Path, help=".npz file of texts, or a folder of such files")
    parser.add_argument("out", type=Path, help="the file of trained masks that is written")
    parser.add_argument("--minutes", type=float, default=60.0, help="time of the training (default: 60)")
    parser.add_argument("--steps", type=int, default=None, help="steps at most (default: as many as the time has)")
    parser.add_argument("--masks", type=int, default=defaults.n_masks, help=f"masks ({defaults.n_masks})")
    parser.add_argument("--rank", type=int, default=defaults.rank, help=f"of the matrices, 0: none ({defaults.rank})")
    parser.add_argument("--rate", type=float, default=defaults.rate, help=f"of learning ({defaults.rate})")
    parser.add_argument(
        "--consistency", type=float, default=defaults.consistency, help="weight of the latents' loss (1)"
    )
    parser.add_argument("--head", action="store_true", help="train a sampler head with them")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    return parser


def main() -> int:
    args = _parser().parse_args()
    torch.set_num_threads(args.threads)
    settings = MaskSettings(
        n_masks=args.masks,
        rank=args.rank,
        head=args.head,
        consistency=args.consistency,
        n_steps=args.steps,
        rate=args.rate,
    )

    def show(progress: Progress) -> None:
        if progress.step % STEPS_BETWEEN_LINES == 0:
            losses = ", ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
            print(f"step {progress.step}, {100 * progress.share:.0f} %: {losses}", file=sys.stderr, flush=True)

    try:
        texts = read_texts(args.texts)
        quality = train_masks(args.model, texts, args.out, minutes=args.minutes, settings=settings, progress=show)
    except Error as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    print("mask   loss   top-1" + ("   top-1 with head" if quality.head_top1 else ""))
    for number, (loss, top1) in enumerate(zip(quality.loss, quality.top1, strict=True), 1):
        head = f"   {quality.head_top1[number - 1]:.3f}" if quality.head_top1 else ""
        print(f"{number:4}  {loss:5.3f}   {top1:.3f}{head}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

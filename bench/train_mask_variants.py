"""Trains masks with and without the latents' loss, by turns: the same texts, places, steps and rate of learning.

    maskprobe-train -m MODEL --kind masks -o masks.gguf --minutes 60      # whose text is used here
    python bench/train_mask_variants.py -m MODEL --text masks.gguf.work/text --minutes 60 --out FOLDER

The files go to bench/trained_masks.py. Each has a sampler head, which the core passes over.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

VARIANTS = {"full": {}, "no-consistency": {"consistency": 0.0}, "vectors-only": {"rank": 0}}
N_EVALUATED = 64  # texts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--text", type=Path, required=True, help="the folder `text` of a training's work")
    parser.add_argument("--minutes", type=float, default=60.0, help="for all variants together")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["full", "no-consistency"])
    parser.add_argument("--n-masks", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--n-owners", type=int, default=12, help="places of a text that are trained at once")
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    parser.add_argument("-t", "--threads", type=int, default=1)
    return train(parser.parse_args())


def train(args: argparse.Namespace) -> int:
    # Here, so that the options can be read without PyTorch.
    import torch

    from maskprobe import Model, resolve_model
    from maskprobe.mtp.gguf_weights import FrozenModel
    from maskprobe.mtp.mask_file import write_masks
    from maskprobe.mtp.mask_texts import beginning_of, texts_of
    from maskprobe.mtp.mask_training import MaskSettings, MaskTraining, contents_of, measure
    from maskprobe.mtp.masked_model import MaskedModel
    from maskprobe.mtp.text_store import TextStore

    torch.set_num_threads(args.threads)
    base = MaskSettings(n_masks=args.n_masks, rank=args.rank, head=True, n_owners=args.n_owners)
    with Model(resolve_model(args.model), n_threads=args.threads) as model:
        identity, beginning, path = model.identity, beginning_of(model), model.path
        shards = TextStore(args.text, model.info.n_embd).shards
    held_out, texts = (texts_of(shards, part, beginning, base.n_masks) for part in (True, False))
    frozen = FrozenModel(path)
    trainings: dict[str, MaskTraining] = {}
    for name in args.variants:
        settings = replace(base, **VARIANTS[name])
        torch.manual_seed(settings.seed)
        trainings[name] = MaskTraining(MaskedModel(frozen, settings.n_masks, settings.rank, head=True), texts, settings)
    began, share = time.monotonic(), 0.0
    while share < 1.0:
        for training in trainings.values():
            training.step(share)
        share = (time.monotonic() - began) / (60 * args.minutes)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, training in trainings.items():
        found = measure(training.masked, held_out[:N_EVALUATED], training.settings)
        said = {
            "steps": training.n_steps,
            "rank": training.settings.rank,
            "consistency": training.settings.consistency,
            "held_out_loss": [round(value, 4) for value in found.loss],
            "held_out_top1": [round(value, 4) for value in found.top1],
            "held_out_head_top1": [round(value, 4) for value in found.head_top1],
        }
        write_masks(args.out / f"{name}.gguf", contents_of(training.masked, identity, said))
        print(name, said)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Trains the project's small Python language model and writes it as a GGUF.

Usage: python models/train.py WORK_DIR --minutes 100 --out models

The schedule runs on wall-clock minutes, so the run ends on time on whatever machine it is given. WORK_DIR receives
the tokenizer, a checkpoint every few minutes (continue with --resume) and log.csv.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer

from corpus import Batches, Corpus, load_corpus, validation_windows
from export_gguf import write_gguf
from nano_llama import NanoLlama, Shape

SEED = 20240229
TOKENS_PER_STEP = 8192
SHORT_LENGTH = 512
WARM_UP = 0.02  # fractions of the run's minutes
DECAY = 0.35
LONG_CONTEXT = 0.25  # the last part trains on the full context length
MATRIX_LR = 4e-3
OTHER_LR = 3e-3
CHECKPOINT_MINUTES = 4.0
VALIDATION_BATCH = 8
QUICK_VALIDATION_BATCHES = 4
LOG_FIELDS = ["step", "tokens", "minutes", "lr_factor", "train_loss", "validation_loss"]


def lr_factor(progress: float) -> float:
    """Warm up, stay, then fall linearly to zero at progress 1."""
    return max(0.0, min(1.0, (progress + 0.002) / WARM_UP, (1.0 - progress) / DECAY))


class Trainer:
    def __init__(self, work_dir: Path, minutes: float):
        torch.manual_seed(SEED)
        self.work_dir = work_dir
        self.minutes = minutes
        self.corpus: Corpus = load_corpus(work_dir)
        self.shape = Shape()
        self.model = NanoLlama(self.shape)
        self.compiled = torch.compile(self.model, dynamic=False)
        windows = validation_windows(self.corpus.validation_files, self.shape.context)
        # Whole batches only: another batch size would be compiled anew.
        self.validation = windows[: len(windows) // VALIDATION_BATCH * VALIDATION_BATCH]

        # Muon learns the hidden matrices from markedly fewer tokens than AdamW, but is not meant for the rest.
        matrices = [p for name, p in self.model.named_parameters() if p.ndim == 2 and name.startswith("blk.")]
        others = [p for name, p in self.model.named_parameters() if p.ndim == 1 or not name.startswith("blk.")]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=MATRIX_LR, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=OTHER_LR, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.base_lrs = [MATRIX_LR, OTHER_LR]

        self.step = 0
        self.tokens = 0
        self.minutes_before = 0.0
        self.batches = self.new_batches(SHORT_LENGTH)

    def new_batches(self, length: int) -> Batches:
        return Batches(self.corpus.train_files, length, TOKENS_PER_STEP, SEED)

    def checkpoint_path(self) -> Path:
        return self.work_dir / "checkpoint.pt"

    def save(self, minutes: float) -> None:
        state = {
            "shape": asdict(self.shape),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "tokens": self.tokens,
            "minutes": minutes,
            "data": (self.batches.length, self.batches.epoch, self.batches.position),
        }
        unfinished = self.checkpoint_path().with_suffix(".part")
        torch.save(state, unfinished)
        os.replace(unfinished, self.checkpoint_path())

    def resume(self) -> None:
        state = torch.load(self.checkpoint_path(), weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens, self.minutes_before = state["step"], state["tokens"], state["minutes"]
        length, epoch, position = state["data"]
        self.batches = self.new_batches(length)
        self.batches.skip_to(epoch, position)

    def loss(self, windows: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.compiled(windows[:, :-1], windows[:, 1:])

    def train_step(self, progress: float) -> float:
        for optimizer, base in zip(self.optimizers, self.base_lrs, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * lr_factor(progress)
        if progress > 1.0 - LONG_CONTEXT and self.batches.length < self.shape.context:
            self.batches = self.new_batches(self.shape.context)
        loss = self.loss(torch.from_numpy(self.batches.next()))
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.tokens += TOKENS_PER_STEP
        return loss.item()

    @torch.no_grad()
    def validation_loss(self, batches: int | None = None) -> float:
        """Mean loss per token over the held-out files, or over that many batches spread evenly over them."""
        count = len(self.validation) // VALIDATION_BATCH
        chosen = range(count) if batches is None else range(0, count, max(1, count // batches))
        rows = [self.validation[i * VALIDATION_BATCH : (i + 1) * VALIDATION_BATCH] for i in chosen]
        return sum(self.loss(torch.from_numpy(batch)).item() for batch in rows) / len(rows)

    def run(self, log_path: Path) -> None:
        fresh = self.step == 0
        start = time.monotonic() - self.minutes_before * 60
        last_save = self.minutes_before
        losses: list[float] = []
        with log_path.open("w" if fresh else "a", newline="") as log_file:
            log = csv.writer(log_file)
            if fresh:
                log.writerow(LOG_FIELDS)

            def report(minutes: float, validation: float) -> None:
                factor = lr_factor(minutes / self.minutes)
                train = sum(losses) / max(1, len(losses))
                numbers = [f"{minutes:.2f}", f"{factor:.4f}", f"{train:.4f}", f"{validation:.4f}"]
                log.writerow([self.step, self.tokens, *numbers])
                log_file.flush()
                losses.clear()

            while (minutes := (time.monotonic() - start) / 60) < self.minutes:
                losses.append(self.train_step(minutes / self.minutes))
                if minutes - last_save >= CHECKPOINT_MINUTES:
                    report(minutes, self.validation_loss(QUICK_VALIDATION_BATCHES))
                    self.save(minutes)
                    last_save = minutes
            self.save(self.minutes)
            # The last row holds the loss over every held-out window, not a sample.
            report(self.minutes, self.validation_loss())


def export(work_dir: Path, out_dir: Path) -> Path:
    state = torch.load(work_dir / "checkpoint.pt", weights_only=True)
    parameters = sum(tensor.numel() for tensor in state["model"].values())
    path = out_dir / f"maskprobe-py-{round(parameters / 1e6)}m-q8_0.gguf"
    tokenizer = Tokenizer.from_file(str(work_dir / "tokenizer.json"))
    write_gguf(path, Shape(**state["shape"]), state["model"], tokenizer)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--minutes", type=float, default=100.0, help="wall-clock length of the whole run")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the GGUF")
    parser.add_argument("--resume", action="store_true", help="continue from WORK_DIR's checkpoint")
    parser.add_argument("--export-only", action="store_true", help="write the GGUF of WORK_DIR's checkpoint and stop")
    arguments = parser.parse_args()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)

    if not arguments.export_only:
        trainer = Trainer(arguments.work_dir, arguments.minutes)
        if arguments.resume:
            trainer.resume()
        trainer.run(arguments.work_dir / "log.csv")
    print(export(arguments.work_dir, arguments.out))


if __name__ == "__main__":
    main()

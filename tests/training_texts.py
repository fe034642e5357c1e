"""Text that a model wrote, and runs of a training that have it already."""

import shutil
from pathlib import Path

from maskprobe import Model
from maskprobe.mtp.own_text import Writer
from maskprobe.mtp.text_store import TextStore
from maskprobe.mtp.work_folder import TRAINING, WorkFolder


def written(model: Model, folder: Path, n_tokens: int) -> TextStore:
    """Two shards with a few more tokens than that."""
    store = TextStore(folder, model.info.n_embd)
    writer = Writer(model, [], seed=1, n_threads=1)
    pending = []
    for text in writer.texts():
        if text is not None:
            pending.append(text)
        if sum(len(text.tokens) for text in pending) > n_tokens:
            break
    writer.close()
    half = len(pending) // 2
    store.add(pending[:half])
    store.add(pending[half:])
    return store


def begun(model: Model, store: TextStore, out: Path, budget_s: float, kind: str = "sampler") -> None:
    """Makes the folder of a run whose text is written."""
    work = WorkFolder(out.with_name(f"{out.name}.work"), model.identity, budget_s, kind)
    work.journal.phase = TRAINING
    work.note()
    work.close()
    shutil.copytree(store.folder, work.folder / "text")

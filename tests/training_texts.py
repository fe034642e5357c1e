"""Text that a model wrote, and runs of a training that have it already: also such that are stopped and go on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from maskprobe import Model
from maskprobe.mtp.own_text import Writer
from maskprobe.mtp.text_store import TextStore
from maskprobe.mtp.work_folder import TRAINING, WorkFolder


def quiet(_label: str, _done: float, _total: float) -> None:
    pass


def written(model: Model, folder: Path, n_tokens: int, layers: Sequence[int] = ()) -> TextStore:
    """Two shards with a few more tokens than that, and with the states after these layers."""
    store = TextStore(folder, model.info.n_embd, layers)
    writer = Writer(model, [], seed=1, n_threads=1, layers=layers)
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


def impatient(module: str, constant: str, seconds: float) -> list[str]:
    """The command, with a shorter time between what it keeps."""
    lines = [
        f"from maskprobe.mtp import {module}",
        f"{module}.{constant} = {seconds}",
        "from maskprobe.cli.train import main",
        "raise SystemExit(main())",
    ]
    return [sys.executable, "-c", "\n".join(lines)]


def stopped_and_resumed(command: list[str], out: Path, sign: signal.Signals) -> str:
    """Stops a training at its first checkpoint and calls it again: what the second call says. The old file stays until
    the new one is complete."""
    out.write_bytes(b"the old file")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    checkpoint = out.with_name(f"{out.name}.work") / "checkpoint.pt"
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(sign)
    _, said = process.communicate(timeout=60)
    assert out.read_bytes() == b"the old file"
    if sign == signal.SIGINT:
        assert process.returncode == 130 and "the same command goes on from here" in said
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "goes on with a run that was cut short" in result.stderr
    assert not [each for each in os.listdir(out.parent) if each.endswith(".tmp")]
    return result.stdout

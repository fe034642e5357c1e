"""Random use of one model by several threads, for as long as wanted: nothing may die, hang, grow or surprise.

    python tests/soak.py -m MODEL --minutes 40 --threads 4 --seed 1

The threads share an engine that is closed and opened anew every few seconds with other settings. They generate in all
ways there are, cancel, drop, close, fail in callbacks, give bad arguments, drive sessions by hand and fork. A text that
is known already must come again. Only errors that the action's documentation names may come out. Between two engines
nothing but the models and one standing engine is open: there memory, threads and open files are counted.

It ends with a table of these, with what was done and what came of it, and with 1 where anything was wrong.
"""

import argparse
import contextlib
import ctypes
import faulthandler
import gc
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from maskprobe import Engine, Error, Model, resolve_model
from soak_actions import ACTIONS
from soak_inputs import N_CTX_LEAST, Vocabulary, repeatable_job
from soak_world import N_KNOWN, STATE_NAME, Round, Turn, World

ROUND_S = 10.0  # of one engine
HANG_S = 240.0  # that one action may take
SETTLE_S = 0.3  # after which helper threads that nobody needs have ended
LEAST_SAMPLES = 16  # for a verdict on memory
GROWTH = 0.02  # of memory that is allowed, from the third quarter to the last
N_LINES = 24  # of the table
M_MMAP_THRESHOLD, LARGE_BLOCK = -3, 256 << 10  # of glibc's malloc.h; bytes


# --- memory, threads, files ------------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """What the process has while no round is open."""

    seconds: float
    own_kib: int  # of memory that is no file's
    resident_kib: int
    n_threads: int
    n_files: int


def give_back_freed_memory() -> None:
    """Large blocks go back to the system when they are freed. Else glibc keeps ever larger ones between small blocks
    that stay, and what the process has says little about what is in use."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


def take_sample(started: float) -> Sample | None:
    """None on systems without /proc."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        status = {name: value for name, _, value in (line.partition(":") for line in lines)}
        own, resident = (int(status[name].split()[0]) for name in ("RssAnon", "VmRSS"))
        n_files = len(os.listdir("/proc/self/fd"))
    except (OSError, KeyError):
        return None
    return Sample(time.monotonic() - started, own, resident, int(status["Threads"]), n_files)


def judge(samples: Sequence[Sample]) -> tuple[list[str], list[str]]:
    """(lines to print, what is wrong). Medians of the last two quarters are compared: what is filled once, tables and
    caches, is filled by then. Threads and files may not be more than they were in the first half."""
    if len(samples) < LEAST_SAMPLES:
        return [f"memory: no verdict from {len(samples)} samples, {LEAST_SAMPLES} are needed"], []
    wrong = []
    n = len(samples)
    quarters = [samples[n * i // 4 : n * (i + 1) // 4] for i in range(4)]
    medians = [statistics.median(sample.own_kib for sample in quarter) for quarter in quarters]
    lines = ["medians of the quarters, own memory: " + ", ".join(f"{value / 1024:.1f} MiB" for value in medians)]
    growth = medians[3] / medians[2] - 1
    lines.append(f"from the third quarter to the last: {100 * growth:+.2f} %, allowed are {100 * GROWTH:.0f} %")
    if growth > GROWTH:
        wrong.append(f"memory grew by {100 * growth:.2f} % from the third quarter to the last")
    for name in ("n_threads", "n_files"):
        before = max(getattr(sample, name) for sample in samples[: n // 2])
        after = statistics.median(getattr(sample, name) for sample in quarters[3])
        lines.append(f"{name[2:]}: at most {before} in the first half, {after:g} in the last quarter")
        if after > before:
            wrong.append(f"{name[2:]}: {after:g} are open in the last quarter, at most {before} were in the first half")
    return lines, wrong


def table(samples: Sequence[Sample]) -> list[str]:
    step = max(1, -(-len(samples) // N_LINES))
    shown = [sample for i, sample in enumerate(samples) if i % step == 0 or i == len(samples) - 1]
    lines = ["| s | own MiB | resident MiB | threads | files |", "|---|---|---|---|---|"]
    return lines + [
        f"| {s.seconds:.0f} | {s.own_kib / 1024:.1f} | {s.resident_kib / 1024:.1f} | {s[3]} | {s[4]} |" for s in shown
    ]


# --- threads ---------------------------------------------------------------------------------------------------------


@dataclass
class Worker:
    """One thread's actions, drawn from its own random numbers."""

    number: int
    n_done: int = 0
    action: str = ""
    began: float = 0.0  # 0: it rests


class Soak:
    def __init__(self, world: World, seed: int, n_threads: int, actions: dict[Callable[[Turn], str], float]) -> None:
        self.world, self.seed, self.actions = world, seed, actions
        self.counts: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []
        self.samples: list[Sample] = []
        self.round: Round | None = None
        self.n_rounds = 0
        self._condition = threading.Condition()
        self._is_over = False
        self.workers = [Worker(number) for number in range(n_threads)]
        self._threads = [threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in self.workers]

    def run(self, seconds: float, progress: Callable[["Soak", float], None]) -> None:
        started = time.monotonic()
        for thread in self._threads:
            thread.start()
        rng = random.Random(f"{self.seed}-rounds")
        while not self.failures and time.monotonic() - started < seconds:
            until = min(time.monotonic() + ROUND_S, started + seconds)
            with self._condition:
                self.round = Round(self.world, rng)
                self.n_rounds += 1
                self._condition.notify_all()
            while time.monotonic() < until and not self.failures and not self._hung():
                time.sleep(0.1)
                progress(self, time.monotonic() - started)
            self._end_round(under_way=rng.random() < 0.5)
            if not self.failures:
                time.sleep(SETTLE_S)
                if (sample := take_sample(started)) is not None:
                    self.samples.append(sample)
        with self._condition:
            self._is_over = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join(HANG_S)

    def _end_round(self, under_way: bool) -> None:
        """Closes the engine, under way or when all rest."""
        with self._condition:  # a worker looks at it and takes it in one go
            ending, self.round = self.round, None
        if under_way:
            ending.close()
        while any(worker.began for worker in self.workers) and not self._hung():
            time.sleep(0.02)
        ending.close()

    def _hung(self) -> bool:
        """Ends the process where an action takes for ever: its thread cannot be stopped."""
        for worker in self.workers:
            if worker.began and time.monotonic() - worker.began > HANG_S:
                print(f"\nHANG: seed {self.seed}, thread {worker.number} is in {worker.action} for {HANG_S:.0f} s")
                print(f"engine: {self.round}", flush=True)
                faulthandler.dump_traceback(all_threads=True)
                os._exit(1)
        return False

    def _work(self, worker: Worker) -> None:
        self._warm_up()
        names, weights = list(self.actions), list(self.actions.values())
        while True:
            with self._condition:
                worker.began = 0.0
                while self.round is None and not self._is_over and not self.failures:
                    self._condition.wait()
                if self._is_over or self.failures:
                    return
                here = self.round
                worker.began = time.monotonic()
            rng = random.Random(f"{self.seed}-{worker.number}-{worker.n_done}")
            act = rng.choices(names, weights)[0]
            worker.action = act.__name__
            worker.n_done += 1
            self._count(worker, act, Turn(self.world, here, rng))

    def _warm_up(self) -> None:
        """OpenMP, which llama.cpp's kernels use, keeps helper threads for each thread that has called it."""
        with Engine(self.world.models["stock"], n_ctx=N_CTX_LEAST, n_threads=2) as engine:
            list(engine.generate([1], max_tokens=2))

    def _count(self, worker: Worker, act: Callable[[Turn], str], turn: Turn) -> None:
        try:
            outcome = act(turn)
        except Error as error:
            if turn.round.expects(error) and "\n" not in str(error):
                outcome = f"{type(error).__name__} ({error.status})"
            else:
                return self._fail(worker, turn)
        except BaseException:
            return self._fail(worker, turn)
        with self.world.lock:
            self.counts[act.__name__, outcome] += 1

    def _fail(self, worker: Worker, turn: Turn) -> None:
        lines = [
            f"FAILED: seed {self.seed}, thread {worker.number}, action {worker.n_done - 1}: {worker.action}",
            f"engine: {turn.round}",
            f"with: {turn.doing[:2000]}",
            traceback.format_exc(),
        ]
        self.failures.append("\n".join(lines))


# --- the program -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened_world(path: Path, seed: int, n_most: int, may_fork: bool) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = {kernels: stack.enter_context(Model(path, kernels=kernels)) for kernels in ("ours", "stock")}
        model = models["ours"]
        vocabulary = Vocabulary.of(model)
        standing = stack.enter_context(Engine(model, n_ctx=N_CTX_LEAST, n_parallel=2, n_threads=1))
        rng = random.Random(f"{seed}-known")
        known = [repeatable_job(rng, model, vocabulary, n_most) for _ in range(N_KNOWN)]
        yield World(path, folder, models, vocabulary, standing, known, n_most, may_fork)


def show_progress(soak: Soak, seconds: float) -> None:
    own = f"{soak.samples[-1].own_kib / 1024:.0f} MiB" if soak.samples else "-"
    done = f"{soak.n_rounds} engines  {soak.counts.total()} actions  {soak.world.n_tokens} tokens  {own}"
    print(f"\r{seconds:6.0f} s  {done}  ", end="", file=sys.stderr, flush=True)


def summary(soak: Soak) -> list[str]:
    lines = table(soak.samples) if soak.samples else []
    lines += ["", "| action | outcome | times |", "|---|---|---|"]
    lines += [f"| {action} | {outcome} | {n} |" for (action, outcome), n in sorted(soak.counts.items())]
    world = soak.world
    total = f"{soak.n_rounds} engines, {soak.counts.total()} actions, {world.n_tokens} tokens"
    return [*lines, "", f"{total}, {world.n_compared} texts compared with what they were before"]


def main(arguments: Sequence[str] | None = None, actions: dict[Callable[[Turn], str], float] = ACTIONS) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "-m", "--model", help="a GGUF file or the name of a model that is here (default: the default model)"
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=48, help="of a generation, at most (default: %(default)s)")
    parser.add_argument("--no-fork", action="store_true", help="fork no children")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    give_back_freed_memory()
    path = resolve_model(options.model)
    progress = show_progress if sys.stderr.isatty() else lambda soak, seconds: None
    may_fork = not options.no_fork and hasattr(os, "fork")
    with opened_world(path, options.seed, options.tokens, may_fork) as world:
        soak = Soak(world, options.seed, options.threads, actions)
        print(f"{path.name}: {options.minutes:g} minutes, {options.threads} threads, seed {options.seed}", flush=True)
        soak.run(60 * options.minutes, progress)
        lines, wrong = judge(soak.samples)
        left = sorted(entry.name for entry in world.folder.iterdir() if entry.name != STATE_NAME)
        if left:
            wrong.append(f"files are left: {', '.join(left)}")
        print("\n".join(["", *summary(soak), *lines, *soak.failures, *(f"WRONG: {line}" for line in wrong)]))
    print("failed" if wrong or soak.failures else "all well")
    return 1 if wrong or soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())

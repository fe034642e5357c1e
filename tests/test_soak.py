"""The soak: some seconds of it, and that it fails where something is wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import soak
from maskprobe import Cancelled, StateError
from soak_generations import generates
from soak_world import Turn

SOAK = Path(soak.__file__)


def run(path, *options: str, minutes: float = 0.15) -> tuple[int, str]:
    command = [sys.executable, SOAK, "-m", path, "--minutes", str(minutes), "--seed", "3", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_some_seconds(tiny_model_path):
    status, said = run(tiny_model_path("tiny-llama"))
    assert status == 0, said
    assert "all well" in said and "generates | " in said and re.search(r", [1-9]\d* texts compared", said)


def raises_what_is_not_documented(turn: Turn) -> str:
    raise KeyError("nobody said so")


def raises_what_nobody_did(turn: Turn) -> str:
    raise Cancelled("without a cancel")


def raises_that_it_is_closed(turn: Turn) -> str:
    raise StateError("the engine is closed")


def says_too_much(turn: Turn) -> str:
    turn.round.n_cancels += 1
    raise Cancelled("one line\nand another")


def gives_another_text(turn: Turn) -> str:
    job = turn.job()
    results = list(turn.generate(job))
    return turn.checked([results[-1], *results], job, turn.engine)


@pytest.mark.parametrize(
    "wrong",
    [
        raises_what_is_not_documented,
        raises_what_nobody_did,
        raises_that_it_is_closed,
        says_too_much,
        gives_another_text,
    ],
    ids=lambda action: action.__name__,
)
def test_what_is_wrong_fails_it(tiny_model_path, wrong, capfd):
    options = ["-m", str(tiny_model_path("tiny-llama")), "--minutes", "0.1", "--threads", "2", "--seed", "5"]
    assert soak.main(options, {generates: 1, wrong: 1}) == 1
    said = capfd.readouterr().out
    assert "FAILED: seed 5, thread " in said and wrong.__name__ in said and "Traceback" in said
    assert said.rstrip().endswith("failed")


def samples(own_mib, n_threads=lambda i: 6, n_files=lambda i: 9):
    return [soak.Sample(10.0 * i, int(1024 * own_mib(i)), 0, n_threads(i), n_files(i)) for i in range(40)]


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (samples(lambda i: 200), ""),
        (samples(lambda i: 200 + (i % 5)), ""),
        (samples(lambda i: 200 + 2 * min(i, 20)), ""),  # it fills and stays
        (samples(lambda i: 200 + 0.6 * i), "memory grew by 2."),
        (samples(lambda i: 200, n_threads=lambda i: 6 + i // 20), "threads: 7 are open"),
        (samples(lambda i: 200, n_files=lambda i: 9 + i // 15), "files: 11 are open"),
        (samples(lambda i: 200, n_files=lambda i: 9 + (i == 30)), ""),
    ],
)
def test_the_verdict_on_growth(measured, said):
    _, wrong = soak.judge(measured)
    assert [line for line in wrong if said in line] == wrong and bool(wrong) == bool(said)


def test_no_verdict_from_a_few_samples():
    lines, wrong = soak.judge(samples(lambda i: 100 * i)[:8])
    assert wrong == [] and "no verdict" in lines[0]

"""What is learned of a model, kept between engines, runs and processes, and sudden death."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from conftest import EXACT
from maskprobe import ArgumentError, Engine, Model, SamplingParams
from maskprobe.cli import run

GREEDY = SamplingParams(temp=0.0)
SAMPLED = SamplingParams(temp=0.8, seed=5)
PROMPT = [5, 6, 7, 5, 6]
ROWS = 16
N = 60


@pytest.fixture(scope="module")
def model_path(tiny_model_path):
    return tiny_model_path("tiny-llama", n_ctx=65536)


@pytest.fixture(scope="module")
def model(model_path):
    with Model(model_path, n_threads=1) as model:
        yield model


def opened(model, state, rows=ROWS) -> Engine:
    return Engine(model, n_ctx=256, rows=rows, state=state, **EXACT)


def generated(engine, proposer="all", n: int = N):
    """The tokens, and how many of them were candidates."""
    generation = engine.generate(PROMPT, SAMPLED, max_tokens=n, ignore_eos=True, proposer=proposer)
    return [r.token for r in generation], generation.stats.n_accepted


@pytest.fixture(scope="module")
def plain(model):
    with opened(model, None) as engine:
        return generated(engine, "none")[0]


@pytest.fixture(scope="module")
def fewest(model, plain):
    """Accepted candidates of an engine that begins with nothing."""
    with opened(model, None) as engine:
        tokens, accepted = generated(engine)
    assert tokens == plain
    return accepted


def assert_knows(model, path, plain, fewest) -> None:
    """An engine that begins with this state foretells more of the text."""
    with opened(model, path) as engine:
        tokens, accepted = generated(engine)
        assert engine.note == ""
    assert tokens == plain and accepted > fewest


# --- between engines -------------------------------------------------------------------------------------------------


def test_the_second_run_begins_with_what_the_first_learned(model, plain, fewest, tmp_path):
    path = tmp_path / "x.state"
    with opened(model, path) as engine:
        assert generated(engine) == (plain, fewest)
    assert_knows(model, path, plain, fewest)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.state"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_run_of_less_than_a_second_is_there_in_the_next(model, plain, fewest, tmp_path):
    """However short it was, and however many came right before it."""
    path = tmp_path / "x.state"
    for n in (2, 3, N):
        with opened(model, path) as engine:
            generated(engine, n=n)
    assert_knows(model, path, plain, fewest)


def test_two_engines_on_one_model_learn_into_one_table(model, plain, fewest, tmp_path):
    path = tmp_path / "x.state"
    with opened(model, path) as first, opened(model, path) as second:
        assert generated(first) == (plain, fewest)
        tokens, accepted = generated(second)
        assert tokens == plain and accepted > fewest  # while neither has been closed
    assert_knows(model, path, plain, fewest)


def test_engines_without_a_state_share_nothing(model, plain, fewest):
    with opened(model, None) as first, opened(model, None) as second:
        assert generated(first) == generated(second) == (plain, fewest)


def test_what_a_late_engine_learned_is_not_lost(model, plain, fewest, tmp_path):
    """The one that closes first does not write over what the other learned later."""
    path = tmp_path / "x.state"
    first, second = opened(model, path), opened(model, path)
    first.close()
    generated(second)
    second.close()
    assert_knows(model, path, plain, fewest)


def test_an_engine_that_is_not_closed(model, model_path, plain, fewest, tmp_path):
    """At the end of the interpreter too."""
    path = tmp_path / "x.state"
    code = f"""
from maskprobe import Engine, Model, SamplingParams
model = Model({str(model_path)!r}, n_threads=1)
engine = Engine(model, n_ctx=256, rows={ROWS}, state={str(path)!r}, **{EXACT!r})
for _ in engine.generate({PROMPT!r}, SamplingParams(temp=0.8, seed=5), max_tokens={N}, ignore_eos=True):
    pass
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert_knows(model, path, plain, fewest)


def test_its_place(model, tiny_model_path, monkeypatch, tmp_path):
    monkeypatch.setenv("MASKPROBE_STATE_DIR", str(tmp_path / "a" / "b"))
    with Model(tiny_model_path("tiny-qwen3"), n_threads=1) as other:
        for one in (model, other, model):
            with opened(one, "") as engine:
                generated(engine, n=5)
    assert len(list((tmp_path / "a" / "b").iterdir())) == 2  # models have files of their own


# --- what cannot be used ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:-9] + b"x" + data[-8:]], ids=["cut", "bit"]
)
def test_a_damaged_file_is_set_aside(model, plain, fewest, tmp_path, damage):
    path = tmp_path / "x.state"
    with opened(model, path) as engine:
        generated(engine)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with opened(model, path) as engine:
        assert generated(engine) == (plain, fewest)
        assert str(path) in engine.note and "x.state.bad" in engine.note and "\n" not in engine.note
    assert (tmp_path / "x.state.bad").read_bytes() == damaged
    assert_knows(model, path, plain, fewest)  # a sound one is in its place


def test_a_file_that_is_no_state_is_left_alone(model, tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Dear Mr. State,\n")
    with pytest.raises(ArgumentError, match=r"letter\.txt"):
        opened(model, path)
    assert path.read_text() == "Dear Mr. State,\n"


def test_a_place_where_nothing_can_be_written(model, plain, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with opened(model, tmp_path / "file" / "x.state") as engine:
        assert generated(engine)[0] == plain
        assert "cannot be written" in engine.note


# --- on the command line ---------------------------------------------------------------------------------------------


def command_line(capfd, model_path, *arguments: object) -> list[str]:
    """The notes of a run that succeeds."""
    common = ["-t", "1", "-m", str(model_path), "-p", "a b a b a", "-n", "20", "--ignore-eos", "-c", "256"]
    assert run.main([*common, *map(str, arguments)]) == 0
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("maskprobe-run: ")]


def test_the_options(model_path, tmp_path, monkeypatch, capfd):
    folder, file = tmp_path / "states", tmp_path / "mine"
    monkeypatch.setenv("MASKPROBE_STATE_DIR", str(folder))
    assert command_line(capfd, model_path, "--no-state") == []
    assert command_line(capfd, model_path, "--rows", 8) == []
    assert command_line(capfd, model_path, "--propose", "esp") == []
    assert not folder.exists()
    assert command_line(capfd, model_path, "--state", file) == []
    assert file.stat().st_size > 0 and not folder.exists()
    assert command_line(capfd, model_path) == []
    (kept,) = folder.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    (note,) = command_line(capfd, model_path)
    assert "set aside" in note
    assert sorted(entry.name for entry in folder.iterdir()) == [kept.name, f"{kept.name}.bad"]
    (note,) = command_line(capfd, model_path, "--state", tmp_path / "states" / kept.name / "below")
    assert "cannot be written" in note


# --- many processes --------------------------------------------------------------------------------------------------

# Imports once, then forks a child at each line of its input, before any model is opened: "PID" on its output. A child
# opens an engine, generates and closes it, on and on, and puts what goes wrong into a file.
CHILDREN = """
import os, signal, sys
from maskprobe import Engine, Model, SamplingParams

model_path, path, warnings, rows = sys.argv[1:4] + [int(sys.argv[4])]
signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def generate_for_ever(seed):
    model = Model(model_path, self_check=False, n_threads=1)
    while True:
        seed += 1
        with Engine(model, n_ctx=256, rows=rows, state=path, n_threads=1) as engine:
            for _ in engine.generate([5, 6, 7, seed % 100], SamplingParams(seed=seed), max_tokens=3 + seed % 9):
                pass
            if engine.note:
                raise RuntimeError(engine.note)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            generate_for_ever(int(line))
        except BaseException as error:
            with open(warnings, "a") as file:
                print(repr(error), file=file)
        os._exit(1)
    print(pid, flush=True)
"""


@pytest.fixture
def children(model_path, tmp_path):
    """start(seed): a child of CHILDREN, its process id."""
    script = [sys.executable, "-c", CHILDREN, model_path, tmp_path / "x.state", tmp_path / "warnings", str(ROWS)]
    parent = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(seed: int) -> int:
        parent.stdin.write(f"{seed}\n")
        parent.stdin.flush()
        return int(parent.stdout.readline())

    yield start
    parent.stdin.close()
    parent.wait(60)
    parent.stdout.close()


def wait_for_another(path, before: tuple, seconds: float = 60.0) -> tuple:
    """Until another file lies there; its identity."""
    until = time.monotonic() + seconds
    while True:
        try:
            status = path.stat()
            if (status.st_ino, status.st_mtime_ns) != before:
                return status.st_ino, status.st_mtime_ns
        except FileNotFoundError:
            pass
        assert time.monotonic() < until
        time.sleep(0.001)


def assert_whole(model, path) -> None:
    with opened(model, path) as engine:
        assert engine.note == ""


def test_killed_a_hundred_times(children, model, plain, tmp_path):
    path, random_, identity = tmp_path / "x.state", random.Random(7), ()
    for i in range(100):
        child = children(1000 * i)
        identity = wait_for_another(path, identity)
        time.sleep(random_.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert_whole(model, path)
    assert not (tmp_path / "warnings").exists(), (tmp_path / "warnings").read_text()
    for entry in tmp_path.glob(".*.tmp"):  # half written
        os.utime(entry, (0, 0))
    with opened(model, path) as engine:
        assert generated(engine)[0] == plain and engine.note == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.state"]


def test_two_processes_write_at_once(children, model, plain, tmp_path):
    path = tmp_path / "x.state"
    pids, identity = [children(1), children(50_000)], ()
    for _ in range(60):
        identity = wait_for_another(path, identity)
        assert_whole(model, path)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert not (tmp_path / "warnings").exists(), (tmp_path / "warnings").read_text()
    with opened(model, path) as engine:
        assert generated(engine)[0] == plain and engine.note == ""

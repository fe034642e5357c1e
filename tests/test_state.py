"""What is kept of a model between runs: damage, other files, other processes, and sudden death."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from conftest import EXACT
from maskprobe import Engine, Evidence, Model, Planned, SamplingParams, Session, StateFile
from maskprobe import state as state_module
from maskprobe.cli import run
from maskprobe.planner import Planner

GREEDY = SamplingParams(temp=0.0)
SAMPLED = SamplingParams(temp=0.8, seed=5)
PROMPT = [5, 6, 7, 5, 6]
ROWS = 16


@pytest.fixture(scope="module")
def model_path(tiny_model_path):
    return tiny_model_path("tiny-llama", n_ctx=65536)


@pytest.fixture(scope="module")
def model(model_path):
    with Model(model_path) as model:
        yield model


class Run:
    """One generation with a state file, as a process would do it: what came out and what was warned of."""

    def __init__(self, model, path, sampling=SAMPLED, n: int = 60) -> None:
        self.warnings: list[str] = []
        self.planned = Planned(Evidence(model, rows=ROWS))
        self.file = self.planned.state = StateFile(model, path, warn=self.warnings.append)
        with Session(model, n_ctx=256, n_rows_max=ROWS, **EXACT) as session:
            engine = Engine(session, self.planned)
            self.known_at_start = len(self.planned.source.save())
            self.measured_at_start = bool(self.planned.planner.costs())
            results = engine.generate(PROMPT, sampling, max_tokens=n, ignore_eos=True)
            self.tokens = [result.token for result in results]
        self.stats = engine.stats
        assert all(len(line.splitlines()) == 1 for line in self.warnings)


@pytest.fixture
def plain(model):
    with Session(model, n_ctx=256, n_rows_max=1, **EXACT) as session:
        return [r.token for r in Engine(session).generate(PROMPT, SAMPLED, max_tokens=60, ignore_eos=True)]


def accepted(source: Evidence, model, text: list[int]) -> int:
    """How many tokens of a text a drafter foretells: of passes with all the rows, no planner in between."""
    with Session(model, n_ctx=256, n_rows_max=ROWS, **EXACT) as session:
        engine = Engine(session, source)
        tokens = [r.token for r in engine.generate(PROMPT, SAMPLED, max_tokens=len(text), ignore_eos=True)]
    assert tokens == text
    return engine.stats.n_gen - engine.stats.passes


# --- between two runs ------------------------------------------------------------------------------------------------


def test_the_second_run_begins_with_what_the_first_learned(model, plain, tmp_path):
    path = tmp_path / "x.state"
    first, second = Run(model, path), Run(model, path)
    assert first.tokens == second.tokens == plain
    assert not first.measured_at_start and second.measured_at_start
    assert second.known_at_start > first.known_at_start
    assert first.warnings == second.warnings == []


def test_what_was_learned_helps_after_it_was_restored(model, plain, tmp_path):
    first, second = Planned(Evidence(model, rows=ROWS)), Planned(Evidence(model, rows=ROWS))
    unknown = accepted(first.source, model, plain)
    path = tmp_path / "x.state"
    with Session(model, n_ctx=256, n_rows_max=ROWS, **EXACT) as session:
        StateFile(model, path, warn=pytest.fail).keep(first, session)
        StateFile(model, path, warn=pytest.fail).restore(second, session)
    assert accepted(second.source, model, plain) > unknown


def test_what_is_restored_is_what_was_kept(model, tmp_path):
    path = tmp_path / "x.state"
    first = Run(model, path)
    other = Planned(Evidence(model, rows=ROWS))
    with Session(model, n_ctx=256, n_rows_max=ROWS, **EXACT) as session:
        StateFile(model, path, warn=pytest.fail).restore(other, session)
    assert sorted(other.source.save()) == sorted(first.planned.source.save())
    assert other.planner.costs() == first.planned.planner.costs() != []
    assert other.planner.learned() == first.planned.planner.learned() != Planner(ROWS).learned()


def test_its_place_and_who_may_read_it(model, monkeypatch, tmp_path):
    monkeypatch.setenv("MASKPROBE_STATE_DIR", str(tmp_path / "a" / "b"))
    done = Run(model, None)
    assert done.file.path.parent == tmp_path / "a" / "b"
    assert [entry.name for entry in (tmp_path / "a" / "b").iterdir()] == [done.file.path.name]
    assert done.file.path.stat().st_mode & 0o777 == 0o600
    monkeypatch.delenv("MASKPROBE_STATE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if sys.platform != "darwin":
        assert state_module.state_directory() == tmp_path / "cache" / "maskprobe" / "state"


def test_models_have_files_of_their_own(model, tiny_model_path):
    with Model(tiny_model_path("tiny-qwen3")) as other:
        paths = {StateFile(m, warn=pytest.fail).path for m in (model, other, model)}
    assert len(paths) == 2


def test_cost_curves_of_other_machines_stay(model, tmp_path, monkeypatch):
    path = tmp_path / "x.state"
    for i in range(20):
        monkeypatch.setattr(state_module.platform, "node", lambda i=i: f"machine {i}")
        done = Run(model, path, n=2)
        assert not done.measured_at_start
    header = json.loads(path.read_bytes().partition(b"\n")[0])
    assert [setting.split(",")[0] for setting in header["costs"]] == [f"machine {i}" for i in range(4, 20)]


def test_not_written_too_often(model, tmp_path, monkeypatch):
    path = tmp_path / "x.state"
    planned = Planned(Evidence(model, rows=ROWS))
    planned.state = StateFile(model, path, warn=pytest.fail)
    monkeypatch.setattr(state_module, "KEEP_EVERY", 1e9)
    with Session(model, n_ctx=256, n_rows_max=ROWS, **EXACT) as session:
        engine = Engine(session, planned)
        for _ in range(3):
            for _ in engine.generate(PROMPT, SAMPLED, max_tokens=4):
                pass
            written = path.stat().st_mtime_ns, path.stat().st_ino
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == written
        inode = path.stat().st_ino
        planned.state.keep(planned, session)
        assert path.stat().st_ino == inode
        planned.state.keep(planned, session, now=True)
        assert path.stat().st_ino != inode


# --- what cannot be used ---------------------------------------------------------------------------------------------


def header_changed(data: bytes, **changes) -> bytes:
    line, _, blob = data.partition(b"\n")
    return json.dumps({**json.loads(line), **changes}).encode() + b"\n" + blob


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


LEARNED = ("claimed", "accepted")  # of the planner

DAMAGE = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "half": lambda data: data[: len(data) // 2],
    "all but a byte": lambda data: data[:-1],
    "a byte too many": lambda data: data + b"x",
    "header only": lambda data: data.partition(b"\n")[0],
    "a bit of the drafter": lambda data: flipped(data, len(data) - 100),
    "a bit of the last byte": lambda data: flipped(data, len(data) - 1),
    "the first bit": lambda data: flipped(data, 0),
    "zeros": lambda data: b"\0" * len(data),
    "noise": lambda data: random.Random(1).randbytes(5000),
    "text": lambda data: b"a file\nof somebody else\n",
    "a list": lambda data: b"[]\nx",
    "a number": lambda data: b"7\nx",
    "deep brackets": lambda data: b"[" * 200_000 + b"\n",
    "not UTF-8": lambda data: b'{"maskprobe_state": "\xff"}\n',
    "another version": lambda data: header_changed(data, maskprobe_state=99),
    "the version before": lambda data: header_changed(data, maskprobe_state=2),
    "nothing of the planner": lambda data: header_changed(data, planner=None),
    "a calibration that is too short": lambda data: header_changed(data, planner={"claimed": [], "accepted": []}),
    "a calibration that makes no sense": lambda data: header_changed(data, planner=dict.fromkeys(LEARNED, [-1.0] * 16)),
    "a calibration of texts": lambda data: header_changed(data, planner=dict.fromkeys(LEARNED, ["x"] * 16)),
    "costs are a text": lambda data: header_changed(data, costs="abc"),
    "a cost beyond all numbers": lambda data: data.replace(b'"costs": {', b'"costs": {"x": 1' + b"0" * 5000 + b", ", 1),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_set_aside(kind, model, plain, tmp_path):
    path = tmp_path / "x.state"
    Run(model, path)
    damaged = DAMAGE[kind](path.read_bytes())
    path.write_bytes(damaged)
    done = Run(model, path)
    assert done.tokens == plain
    assert len(done.warnings) == 1 and str(path) in done.warnings[0] and "x.state.bad" in done.warnings[0]
    assert (tmp_path / "x.state.bad").read_bytes() == damaged
    after = Run(model, path)  # a sound one is in its place
    assert after.warnings == [] and after.measured_at_start and after.tokens == plain


def test_curves_of_this_machine_that_make_no_sense(model, plain, tmp_path):
    path = tmp_path / "x.state"
    Run(model, path)
    data = path.read_bytes()
    setting = next(iter(json.loads(data.partition(b"\n")[0])["costs"]))
    for curve in (
        "abc",
        7,
        [[9, 1]],
        [[9, 1, -1.0]],
        [[9, 4, 3.0]],
        [[9, 1, 5.0], [10, 4, 5.0]],
        [[10**9, 1, 5.0]],
        [[9, 1, 10**400]],
        {"9": {"1": [5.0]}},
    ):
        path.write_bytes(header_changed(data, costs={setting: curve}))
        done = Run(model, path)
        assert len(done.warnings) == 1 and done.tokens == plain, curve


def test_a_file_of_another_model_is_not_used_and_replaced(model, plain, tiny_model_path, tmp_path):
    path = tmp_path / "x.state"
    with Model(tiny_model_path("tiny-qwen3")) as other:
        Run(other, path, n=10)
    done = Run(model, path)
    assert done.tokens == plain and not done.measured_at_start
    assert len(done.warnings) == 1 and "another model" in done.warnings[0]
    assert Run(model, path).warnings == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.state"]


def test_a_place_where_nothing_can_be_written(model, plain, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    done = Run(model, tmp_path / "file" / "x.state")
    assert done.tokens == plain
    assert len(done.warnings) == 1 and "cannot be written" in done.warnings[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_directory_without_permission(model, plain, tmp_path):
    tmp_path.chmod(0o500)
    done = Run(model, tmp_path / "x.state")
    tmp_path.chmod(0o700)
    assert done.tokens == plain
    assert len(done.warnings) == 1 and "cannot be written" in done.warnings[0]


def test_a_full_disk_is_told_once(model, tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    path = tmp_path / "x.state"
    Run(model, path)
    before = path.read_bytes()
    monkeypatch.setattr(state_module.os, "fsync", full)
    monkeypatch.setattr(state_module, "KEEP_EVERY", 0.0)
    warnings = []
    planned = Planned(Evidence(model, rows=ROWS))
    planned.state = StateFile(model, path, warn=warnings.append)
    with Session(model, n_ctx=256, n_rows_max=ROWS, **EXACT) as session:
        engine = Engine(session, planned)
        for _ in range(3):
            for _ in engine.generate(PROMPT, SAMPLED, max_tokens=4):
                pass
    assert len(warnings) == 1 and "No space left" in warnings[0]
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.state"]


def test_a_directory_in_its_place(model, plain, tmp_path):
    path = tmp_path / "x.state"
    path.mkdir()
    done = Run(model, path)
    assert done.tokens == plain
    assert 1 <= len(done.warnings) <= 2


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
    kept.write_bytes(b"damaged")
    (note,) = command_line(capfd, model_path)
    assert "set aside" in note
    assert sorted(entry.name for entry in folder.iterdir()) == [kept.name, f"{kept.name}.bad"]


# --- many processes --------------------------------------------------------------------------------------------------

# Imports once, then forks a child at each line of its input, before any model is opened: "PID" on its output. A child
# generates on and on, writes the state at the end of each text, and puts what it is warned of into a file.
CHILDREN = """
import os, signal, sys
from maskprobe import Engine, Evidence, Model, Planned, SamplingParams, Session, StateFile, state

state.KEEP_EVERY = 0.0
model_path, path, warnings, rows = sys.argv[1:4] + [int(sys.argv[4])]
signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def warn(line):
    with open(warnings, "a") as file:
        file.write(line + "\\n")

def generate_for_ever(seed):
    model = Model(model_path, self_check=False)
    planned = Planned(Evidence(model, rows=rows))
    planned.state = StateFile(model, path, warn=warn)
    session = Session(model, n_ctx=256, n_rows_max=rows, n_threads=1)
    engine = Engine(session, planned)
    while True:
        seed += 1
        for _ in engine.generate([5, 6, 7, seed % 100], SamplingParams(seed=seed), max_tokens=3 + seed % 9):
            pass

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            generate_for_ever(int(line))
        except BaseException as error:
            warn(repr(error))
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


def half_written(folder) -> list:
    return [entry for entry in folder.iterdir() if entry.name.endswith(".tmp")]


def test_killed_a_hundred_times(children, model, plain, tmp_path):
    path, random_, identity = tmp_path / "x.state", random.Random(7), ()
    for i in range(100):
        child = children(1000 * i)
        identity = wait_for_another(path, identity)
        time.sleep(random_.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        state_module._parse(path.read_bytes())  # raises if it is not whole
    assert not (tmp_path / "warnings").exists(), (tmp_path / "warnings").read_text()
    left = half_written(tmp_path)
    for entry in left:
        os.utime(entry, (0, 0))
    done = Run(model, path)
    assert done.warnings == [] and done.tokens == plain
    assert done.known_at_start > len(Evidence(model).save())
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.state"]


def test_two_processes_write_at_once(children, model, plain, tmp_path):
    path = tmp_path / "x.state"
    pids, identity = [children(1), children(50_000)], ()
    for _ in range(60):
        identity = wait_for_another(path, identity)
        state_module._parse(path.read_bytes())
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert not (tmp_path / "warnings").exists(), (tmp_path / "warnings").read_text()
    done = Run(model, path)
    assert done.warnings == [] and done.tokens == plain


def test_half_written_files_of_others_stay_while_they_are_young(model, tmp_path):
    path = tmp_path / "x.state"
    young, old, foreign = (tmp_path / name for name in (".x.state.a.tmp", ".x.state.b.tmp", ".y.state.c.tmp"))
    for entry in (young, old, foreign):
        entry.write_bytes(b"half")
    for entry in (old, foreign):
        os.utime(entry, (0, 0))
    assert Run(model, path, n=2).warnings == []
    assert young.exists() and foreign.exists() and not old.exists()

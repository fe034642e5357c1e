"""maskprobe-bench peers: every peer is a row, and one that cannot run says why."""

import json
import stat
import sys
from pathlib import Path

import pytest

from maskprobe import ArgumentError
from maskprobe.cli import bench_llama_tools as tools
from maskprobe.cli import bench_peer as peer_module
from maskprobe.cli.bench import main
from maskprobe.cli.bench_peers_table import places, speed_up_cell

N = 12
STAND_INS = Path(__file__).with_name("stand_ins") / "peers"
SETTINGS = ["-t", "1", "-n", str(N)]

# What stands in for a program of llama.cpp: it writes the prompt and says how long it took.
PROGRAM = """#!/bin/sh
case "$0 $*" in
    *ngram-mod*) echo "error: cannot do that" >&2; exit 3 ;;
    *ngram-cache*) exit 0 ;;
esac
while [ "$1" != -bf ]; do shift; done
cat "$2"
echo " and more"
case "$0" in
    *completion) echo "p: sampling time = 1.00 ms"; echo "p: prompt eval time = 9.0 ms / 4 tokens"
                 echo "p:        eval time =      99.00 ms /    10 runs   ( 9.9 ms per token)" ;;
    *) echo "decoded   12 tokens in    0.060 seconds, speed:  200.000 t/s"
       echo "encoded 5 tokens in 0.010 seconds"; echo "n_drafted = 20"; echo "n_accept  = 8"
       echo "p: prompt eval time = 9.0 ms / 44 tokens"; echo "p:        eval time = 0.00 ms / 1 runs" ;;
esac
"""
CMAKE = f"""#!{sys.executable}
import os, sys
if "--build" in sys.argv:
    folder = os.path.join(sys.argv[sys.argv.index("--build") + 1], "bin")
    os.makedirs(folder)
    for name in sys.argv[sys.argv.index("--target") + 1 : sys.argv.index("-j")]:
        with open(os.path.join(folder, name), "w") as file:
            file.write({PROGRAM!r})
        os.chmod(file.name, 0o755)
elif not os.path.exists(os.path.join(sys.argv[sys.argv.index("-S") + 1], "sound")):
    sys.exit("CMake Error: nothing sound here")
"""


@pytest.fixture(scope="module")
def arguments(tiny_model_path, tmp_path_factory):
    prompts = tmp_path_factory.mktemp("prompts") / "mine.jsonl"
    entries = [{"prompt": text, "task": task} for text, task in (("a b a b", "ab"), ("one two", "ab"), ("x y x", "xy"))]
    prompts.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    model = str(tiny_model_path("tiny-llama"))
    return ["-m", model, "--prompts", str(prompts), "--propose", "lookup", "--kernels", "stock", *SETTINGS]


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A source tree of llama.cpp, as far as is looked at, and a cmake that makes programs of it."""
    tree = tmp_path / "llama.cpp"
    (tree / "examples" / "lookahead").mkdir(parents=True)
    (tree / "CMakeLists.txt").touch()
    (tree / "sound").touch()
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "cmake").write_text(CMAKE)
    (folder / "cmake").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(tools, "cache_folder", lambda name: tmp_path / "cache")
    return tree


@pytest.fixture
def other_python(tmp_path):
    """An interpreter that has stand-ins for ik-llama-cpp-python and xllamacpp, as another environment's would be."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{STAND_INS}" exec "{sys.executable}" "$@"\n')
    path.chmod(stat.S_IRWXU)
    return path


def rows_of(capfd, *arguments) -> dict[tuple[str, str], dict]:
    assert main(["peers", *arguments, "-o", "json"]) == 0
    return {(row["task"], row["peer"]): row for row in json.loads(capfd.readouterr().out)}


def test_every_peer_is_a_row(capfd, arguments, source):
    modes = "ngram-simple,ngram-mod,ngram-cache,lookup,lookahead"
    arguments = [*arguments, "--kernels", "both", "--llama-source", str(source), "--modes", modes]
    rows = rows_of(capfd, *arguments)
    plain = rows["all", "llama.cpp"]
    assert (plain["tokens_per_step"], plain["rows_per_step"], plain["speed_up"]) == (1.0, 1.0, 1.0)
    for name in ("maskprobe none, stock", "maskprobe lookup, stock", "llama-cpp-python prompt lookup"):
        for task, n in (("ab", 2), ("xy", 1), ("all", 3)):
            row = rows[task, name]
            assert (row["n_identical"], row["n_runs"]) == (n, n)
            assert row["speed_up"] > 0.0 and row["own_plain_speed_up"] > 0.0
    for kernels in ("stock", "ours"):
        assert rows["all", f"maskprobe none, {kernels}"]["tokens_per_step"] == 1.0
    ours, theirs = rows["all", "maskprobe lookup, stock"], rows["all", "llama-cpp-python prompt lookup"]
    for row in (ours, theirs):
        assert 1.0 < row["tokens_per_step"] < row["rows_per_step"]

    completion = rows["all", "llama-completion"]
    assert completion["avg_ts"] == pytest.approx(100.0) and completion["tokens_per_step"] == 1.0
    simple = rows["ab", "llama-speculative-simple ngram-simple"]
    assert (simple["tokens_per_step"], simple["rows_per_step"]) == (3.0, 6.0)
    assert simple["own_plain_speed_up"] == pytest.approx(2.0)
    assert simple["n_identical"] == 0  # its text is not the model's
    lookup, lookahead = rows["ab", "llama-lookup"], rows["ab", "llama-lookahead"]
    assert (lookup["tokens_per_step"], lookup["rows_per_step"]) == (11 / 3, 23 / 3)  # the first token is the prompt's
    assert (lookahead["tokens_per_step"], lookahead["rows_per_step"]) == (3.0, 10.0)
    failure = rows["all", "llama-speculative-simple ngram-mod"]["failure"]
    assert failure == "llama-speculative-simple ended with status 3: error: cannot do that"
    assert ("ab", "llama-speculative-simple ngram-mod") not in rows
    failure = rows["all", "llama-speculative-simple ngram-cache"]["failure"]
    assert failure == "llama-speculative-simple printed no times"


def test_packages_of_another_python(capfd, arguments, other_python):
    arguments = [*arguments, "--peers", "ik-llama-cpp-python,xllamacpp", "--peer-python", str(other_python)]
    rows = rows_of(capfd, *arguments, "--draft", "5")
    names = ("ik-llama-cpp-python", "xllamacpp none", "xllamacpp ngram-simple")
    for name in (*names, "ik-llama-cpp-python, fast draw", "ik-llama-cpp-python, fast draw, repacked"):
        row = rows["all", name]
        assert row["n_identical"] == row["n_runs"] == 3, name
    assert rows["all", "ik-llama-cpp-python"]["tokens_per_step"] == 1.0
    plain, drafted = rows["ab", "xllamacpp none"], rows["ab", "xllamacpp ngram-simple"]
    assert (plain["avg_ts"], plain["tokens_per_step"]) == (pytest.approx(100.0), 1.0)
    assert drafted["tokens_per_step"] > 1.5 and drafted["draft_n"] > drafted["draft_n_accepted"]
    assert rows["all", "xllamacpp draft-mtp"]["failure"].endswith("RuntimeError: Failed to init server")
    assert not [name for _, name in rows if "draft-simple" in name or "transformers" in name or "prompt lookup" in name]


def test_what_is_not_installed_is_a_line(capfd, arguments, tmp_path):
    arguments = [*arguments, "--peers", "ik-llama-cpp-python,xllamacpp", "--peer-python"]
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho boom >&2\nexit 3\n")
    failing.chmod(stat.S_IRWXU)
    for python, why in ((str(tmp_path / "none"), "cannot be run"), (str(failing), "ended with status 3: boom")):
        rows = rows_of(capfd, *arguments, python)
        for name in ("ik-llama-cpp-python", "xllamacpp none"):
            assert why in rows["all", name]["failure"]


def test_ours_beside_the_fastest_other(capfd, arguments, other_python):
    arguments = [*arguments, "--peers", "xllamacpp", "--peer-python", str(other_python)]
    assert main(["peers", *arguments]) == 0
    table, matrix, details = capfd.readouterr().out.split("\n\n")[-3:]
    assert table.startswith("| task | ours | over llama.cpp | fastest other |")
    lines = table.splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| ab", "| xy", "| all"]
    assert all("maskprobe lookup, stock" in line for line in lines)
    header = "| over llama.cpp | llama.cpp | maskprobe none, stock | maskprobe lookup, stock | xllamacpp none |"
    assert matrix.startswith(header) and len(matrix.splitlines()) == 5
    assert "| ab | xllamacpp ngram-simple |" in details


def test_a_place_that_is_not_the_first_says_by_how_much():
    def row(peer, speed_up, per_pass, n_identical=4):
        facts = {"task": "ab", "peer": peer, "is_ours": peer.startswith("maskprobe all"), "n_runs": 4}
        times = {"speed_up": speed_up, "ours_speed_up": 2.0 / speed_up, "tokens_per_step": per_pass}
        return {**facts, **times, "n_identical": n_identical}

    rows = [row("llama.cpp", 1.0, 1.0), row("maskprobe all, ours", 2.0, 1.5), row("maskprobe none, ours", 4.0, 1.0)]
    (place,) = places([*rows, {"task": "ab", "peer": "gone", "is_ours": False, "failure": "boom"}])
    assert (place["best"], place["lead"], place["place"]) == ("llama.cpp", 2.0, "first")
    (place,) = places([*rows, row("other", 2.5, 3.25)])
    assert (place["best"], place["lead"]) == ("other", 0.8)
    assert place["place"] == "20 % slower; tokens/pass of ours and of it: 1.50 and 3.25"
    assert speed_up_cell(row("other", 2.5, 3.25, n_identical=3)) == "2.50 (1 of 4 differ)"


def test_the_table_says_what_is_timed_and_what_could_not_run(capfd, arguments):
    assert main(["peers", *arguments]) == 0
    text = capfd.readouterr().out
    assert "Timed is generation alone" in text
    assert "| llama.cpp's programs | - | - | - | - | - | - | - | no source tree named (--llama-source) |" in text


def test_programs_are_built_once(source, tmp_path, monkeypatch):
    folder = tools.build(source)
    assert sorted(path.name for path in folder.iterdir()) == sorted({mode.program for mode in tools.MODES.values()})
    (source / "sound").unlink()
    assert tools.build(source) == folder
    monkeypatch.setattr(tools, "cache_folder", lambda name: tmp_path / "another")
    with pytest.raises(ArgumentError, match="CMake Error: nothing sound here"):
        tools.build(source)
    with pytest.raises(ArgumentError, match="not a source tree"):
        tools.build(tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ArgumentError, match="there is no cmake"):
        tools.build(source)


def test_a_peer_that_dies_is_a_line(capfd, arguments, monkeypatch):
    script = "import sys; print('{}', flush=True); sys.stdin.readline(); sys.exit('boom')"
    start = peer_module.Worker.__init__

    def doomed(worker, *arguments):
        start(worker, *arguments)
        worker._command = [sys.executable, "-c", script]

    monkeypatch.setattr(peer_module.Worker, "__init__", doomed)
    rows = rows_of(capfd, *arguments)
    assert rows["all", "llama-cpp-python prompt lookup"]["failure"] == "ended with status 1: boom"
    assert rows["all", "llama.cpp"]["n_identical"] == 3


def test_unknown_names_are_refused(capfd, arguments):
    for option, name in (("--modes", "ngram-magic"), ("--propose", "magic"), ("--peers", "magic")):
        assert main(["peers", *arguments, option, name]) == 1
        assert name in capfd.readouterr().err

"""maskprobe-bench report: what its files have and what they must not have, energy, and two machines beside each other.

The times mean nothing here: a tiny model decodes two prompts.
"""

import importlib.util
import itertools
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from conftest import PROJECT
from maskprobe import ArgumentError
from maskprobe.cli import bench, bench_energy, bench_report
from maskprobe.cli.bench_compare import comparison
from maskprobe.cli.bench_report_file import as_text, read_report
from maskprobe.cli.bench_report_prompts import TASKS, report_prompts

WHOSE = "zaphod"  # in all names of this machine that could get into a report
SMALL = ["-t", "1", "-n", "8", "--minutes", "0.0001"]


@pytest.fixture(scope="module")
def model(tiny_model_path, tmp_path_factory):
    path = tmp_path_factory.mktemp(WHOSE) / f"{WHOSE}.gguf"
    shutil.copy(tiny_model_path("tiny-llama", n_ctx=2048), path)
    return path


def write_package(powercap, number, uj, max_uj=1_000_000):
    folder = powercap / f"intel-rapl:{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"package-{number}\n")
    (folder / "max_energy_range_uj").write_text(f"{max_uj}\n")
    (folder / "new").write_text(f"{uj}\n")
    os.replace(folder / "new", folder / "energy_uj")  # a reader never sees half of it


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """The report and its page, from a machine whose processor takes energy."""
    folder = tmp_path_factory.mktemp("report")
    taken, read = itertools.count(0, 20_000), bench_energy.Meter._read

    def read_after_more_was_taken(meter):
        write_package(folder / "powercap", 0, next(taken))
        return read(meter)

    write_package(folder / "powercap", 0, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_energy, "POWERCAP", folder / "powercap")
        patch.setattr(bench_energy.Meter, "_read", read_after_more_was_taken)
        patch.setattr(sys, "platform", "linux")
        for name in ("USER", "LOGNAME", "HOSTNAME"):
            patch.setenv(name, WHOSE)
        patch.setenv("HOME", f"/home/{WHOSE}")
        patch.setattr(socket, "gethostname", lambda: WHOSE)
        patch.setattr(platform, "node", lambda: WHOSE)
        (folder / WHOSE).mkdir()
        patch.chdir(folder / WHOSE)
        assert bench.main(["report", "-m", str(model), *SMALL, "-o", "mine.json"]) == 0
    return folder / WHOSE / "mine.json"


def test_what_a_report_has(made):
    report = read_report(made)
    assert {path.name for path in made.parent.iterdir()} == {"mine.json", "mine.md"}
    machine = report["machine"]
    assert machine.keys() >= {"date", "cpu_info", "n_cpus", "memory_bytes", "system", "maskprobe", "llama_cpp_python"}
    assert machine["ceilings"]["1"]["read_bytes_per_second"] > 0
    assert {(row["kernels"], row["n_rows"]) for row in report["passes"]} == {
        (kernels, n) for kernels in ("stock", "ours") for n in bench_report.ROWS
    }
    assert all(len(row["samples_ns"]) == 1 and row["median_ns"] > 0 for row in report["passes"])  # no time for more
    assert [row["temp"] for row in report["speed"]] == [0.0, 0.8]
    for row in report["speed"]:
        assert row["n_runs"] == row["n_identical"] == bench_report.N_PROMPTS_MIN
        assert row["tokens_per_step"] >= 1.0 and row["ts"].keys() == {"llama.cpp", "ours, plain", "ours, all"}
        for name, joules in row["joules_per_token"].items():  # 20 mJ were taken by each generation
            n_gen = sum(run["n_gen"] for run in report["runs"] if (run["temp"], run["decoder"]) == (row["temp"], name))
            assert joules == pytest.approx(0.04 / n_gen)
    runs = [(row["task"], row["temp"], row["decoder"]) for row in report["runs"]]
    assert len(set(runs)) == len(runs) == 12  # two prompts, two temperatures, three decoders
    assert {row["task"] for row in report["runs"]} == set(list(TASKS)[:2])


def test_nothing_tells_whose_machine_it_is(made):
    for path in (made, made.with_suffix(".md")):
        text = path.read_text()
        assert WHOSE not in text.lower()
        assert not re.search(r"/(home|root|tmp|Users|work|var)/|\\u00", text)
        assert re.search(r"\b\d{4}-\d\d-\d\d\b", text) and not re.search(r"\d\d:\d\d", text)  # the day, not the hour
        real = socket.gethostname()
        assert len(real) < 5 or real not in text
    assert "fibonacci" not in made.read_text().lower()


def test_the_page(made):
    text = made.with_suffix(".md").read_text()
    assert text.startswith("# Report of ")
    for line in (
        "## Passes",
        "| rows | llama.cpp ms |",
        "## Speed",
        "ours, all J/token |",
        "one package of the processor",
    ):
        assert line in text
    assert len(re.findall(r"^\| (?:0\.0|0\.8) \| 2 \|", text, re.MULTILINE)) == 2


def other(made, tmp_path, **changed):
    """The report of a machine that differs in `changed`, by "key.key"."""
    report = read_report(made)
    for name, value in changed.items():
        *keys, last = name.split("__")
        place = report
        for key in keys:
            place = place[key]
        place[last] = value
    path = tmp_path / "other.json"
    path.write_text(as_text(report))
    return path


def test_two_machines(made, tmp_path, capfd):
    report = read_report(made)
    speed = [{**row, "ts": {name: 2 * ts for name, ts in row["ts"].items()}} for row in report["speed"]]
    reads = 4 * report["machine"]["ceilings"]["1"]["read_bytes_per_second"]
    ceilings = {"1": {"read_bytes_per_second": reads, "int8_macs_per_second": 0.0}}
    machine = {**report["machine"], "cpu_info": "A board", "ceilings": ceilings, "maskprobe": "9.9"}
    there = other(made, tmp_path, machine=machine, speed=speed, settings__n_threads=1)
    assert bench.main(["report", "--read", str(made), "--expect", str(there)]) == 0
    page, title, text = capfd.readouterr().out.partition("## Beside A board, ")
    assert page.rstrip() == made.with_suffix(".md").read_text().rstrip() and title
    rows = {cells[1].strip(): cells[-2].strip() for line in text.splitlines() if len(cells := line.split("|")) > 3}
    assert rows["ours, plain, temperature 0.8, t/s"] == rows["llama.cpp, temperature 0, t/s"] == "0.50"
    assert rows["reads, 1 thread, GB/s"] == "0.25" and rows["computes, 1 thread, GMAC/s"] == "-"
    assert rows["T(8)/T(1), ours"] == rows["ours, all, temperature 0, tokens per pass"] == "1.00"
    assert f"maskprobe: {report['machine']['maskprobe']} here, 9.9 there" in text
    assert "has 0.50 of the speed there; what the memory reads is 0.25 of that there" in text
    assert "Greedy texts of our plain decoding: 2 of 2 have the same tokens" in text


def test_another_model_is_not_compared(made, tmp_path):
    there = read_report(other(made, tmp_path, model__n_params=5, model__name="Other"))
    text = comparison(read_report(made), there)
    assert "Another model: " in text and "only the machines are compared" in text
    assert "reads, 1 thread" in text and "t/s" not in text and "Greedy" not in text


def test_other_texts_are_counted(made, tmp_path):
    report = read_report(made)
    report["runs"] = [{**row, "digest": "0"} if row["task"] == "code" else row for row in report["runs"]]
    assert "1 of 2 have the same tokens" in comparison(read_report(made), report)


def error_of(capfd, *arguments) -> str:
    try:
        status = bench.main(["report", *map(str, arguments)])
    except SystemExit as exit:
        status = exit.code
    out, error = capfd.readouterr()
    assert status in (1, 2) and out == ""
    (line,) = [line for line in error.splitlines() if "error:" in line]
    return line


BROKEN = {
    "text": (b"hello", "is not JSON"),
    "empty": (b"", "is not JSON"),
    "bytes": (b"\xff\xfe", "is not JSON"),
    "deep": (b"[" * 100_000, "is not JSON"),
    "list": (b"[1, 2]", "no report of maskprobe-bench"),
    "other": (b'{"sections": {}}', "no report of maskprobe-bench"),
    "later": (b'{"maskprobe_report": 2}', "of version 2: this program reads 1"),
    "bare": (b'{"maskprobe_report": 1}', "is not whole"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_line(kind, model, made, tmp_path, capfd):
    content, why = BROKEN[kind]
    file = tmp_path / "there.json"
    file.write_bytes(content)
    for arguments in (["-m", model, *SMALL, "-o", tmp_path / "new.json"], ["--read", made]):
        line = error_of(capfd, *arguments, "--expect", file)
        assert str(file) in line and why in line
    assert list(tmp_path.iterdir()) == [file]  # nothing was measured


@pytest.mark.parametrize("key", ["machine", "model", "settings", "passes", "speed", "runs", "energy", "took_s"])
def test_a_part_that_is_missing_is_found(key, made, tmp_path):
    whole = read_report(made)
    bad = [{name: value for name, value in whole.items() if name != key}]
    bad += [{**whole, key: value} for value in (3, [{}]) if key not in ("energy", "took_s")]
    for report in bad:
        path = tmp_path / "there.json"
        path.write_text(as_text(report))
        with pytest.raises(ArgumentError, match="is not whole"):
            read_report(path)


def test_texts_of_others_move_no_cursor(made, tmp_path):
    there = other(made, tmp_path, machine__cpu_info="\x1b[2J\x9bboard")
    assert read_report(there)["machine"]["cpu_info"] == "\\x1b[2J\\x9bboard"


def test_other_files_are_left_alone(made, tmp_path, capfd):
    for name, content in (("a.json", "{}"), ("b.md", "# Notes\n")):
        file = tmp_path / name
        file.write_text(content)
        assert "it is left as it is" in error_of(capfd, "-o", file.with_suffix(".json"))
        assert file.read_text() == content
    assert "must end in .json" in error_of(capfd, "-o", tmp_path / "report")
    assert "there is no file" in error_of(capfd, "--expect", tmp_path / "none.json")
    assert "leave -o out" in error_of(capfd, "--read", made, "-o", tmp_path / "c.json")


def test_ctrl_c_leaves_nothing(model, tmp_path):
    command = [sys.executable, "-m", "maskprobe.cli.bench", "report", "-m", str(model), "-t", "1", "-o", "mine.json"]
    for stage in ("about 5 minutes", "now the prompts"):
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        said = next(line for line in process.stderr if stage in line)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 130, said + error
        assert out == "" and "Traceback" not in error and "interrupted" in error
        assert list(tmp_path.iterdir()) == []


# --- energy -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def powercap(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_energy, "POWERCAP", tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    return tmp_path


def test_packages_are_added_and_counters_begin_again(powercap):
    write_package(powercap, 0, 900_000)
    write_package(powercap, 1, 100)
    core = powercap / "intel-rapl:0:0"  # a part of a package
    core.mkdir()
    (core / "name").write_text("core\n")
    meter, line = bench_energy.find_meter()
    assert "2 packages" in line
    write_package(powercap, 0, 200_000)  # past its range of a joule
    write_package(powercap, 1, 500_100)
    assert meter.joules() == pytest.approx(0.8)
    meter.start()
    assert meter.joules() == 0.0


def test_why_there_is_no_energy(powercap, monkeypatch):
    assert bench_energy.find_meter() == (None, f"Energy was not measured: {no_counter(powercap)}")
    write_package(powercap, 0, 1)
    (powercap / "intel-rapl:0" / "energy_uj").write_text("none\n")
    meter, line = bench_energy.find_meter()
    assert meter is None and "cannot be read" in line

    def refused(_folder):
        raise PermissionError

    monkeypatch.setattr(bench_energy.Meter, "_read", refused)
    meter, line = bench_energy.find_meter()
    assert meter is None and "only root may read" in line
    monkeypatch.setattr(sys, "platform", "darwin")
    meter, line = bench_energy.find_meter()
    assert meter is None and "powermetrics" in line


def no_counter(powercap) -> str:
    return f"{powercap} has no counter of the processor's packages."


def test_prompts_of_all_kinds_come_in_turns():
    prompts = report_prompts()
    assert [prompt.task for prompt in prompts] == list(TASKS) * 4
    assert len({prompt.text for prompt in prompts}) == 24
    assert json.dumps([prompt.text for prompt in prompts]).isascii()


def test_the_table_of_machines_has_every_report(made, tmp_path):
    shutil.copy(made, tmp_path / "report-one.json")
    shutil.copy(made, tmp_path / "report-two.json")
    shutil.copy(made, tmp_path / "other.json")
    spec = importlib.util.spec_from_file_location("write_machines", PROJECT / "docs" / "write_machines.py")
    spec.loader.exec_module(writer := importlib.util.module_from_spec(spec))
    text = writer.written(tmp_path)
    assert [text.count(f"(../bench/results/{name}.md)") for name in ("report-one", "report-two", "other")] == [1, 1, 0]
    assert len(re.findall(r"^\|.*\| (?:0\.0|0\.8) \|", text, re.MULTILINE)) == 4

"""bench/real_models.py: what its result file has, how sections come together, and what it says was asked and held.

What it measures here means nothing: the bundled model stands for a real one, with a few tokens.
"""

import json
from pathlib import Path

import pytest
import real_first_token
import real_models
import real_passes
import real_planner
import real_report
import real_speed

from conftest import PROJECT

BUNDLED = PROJECT / "models" / "maskprobe-py-10m-q8_0.gguf"
SMALL = ["-m", str(BUNDLED), "-t", "1", "--quick"]


@pytest.fixture(scope="module")
def name(tmp_path_factory):
    """Of a result with all sections."""
    name = tmp_path_factory.mktemp("results") / "machine"
    assert real_models.main([*SMALL, "-o", str(name)]) == 0
    return name


@pytest.fixture
def result(name):
    return json.loads(name.with_name("machine-real.json").read_text())


def test_machine_and_versions(result):
    machine = result["machine"]
    assert machine.keys() >= {"date", "cpu_info", "n_cpus", "memory_bytes", "maskprobe", "llama_cpp_python", "compiler"}
    assert machine["ceilings"]["1"]["read_bytes_per_second"] > 0
    assert list(result["sections"]) == list(real_models.SECTIONS)


def test_passes(result):
    cases = result["sections"]["passes"]
    assert {BUNDLED.name, "random-1b-q4_0.gguf", "random-1b-q4_k.gguf"} <= cases.keys()
    for case in cases.values():
        kinds = [(row["n_rows"], row["kernels"]) for row in case["rows"]]
        assert sorted(kinds) == [(n, kernels) for n in (1, 8, 16) for kernels in ("ours", "stock")]
        for row in case["rows"]:
            assert len(row["samples_ns"]) == 1 and row["n_threads"] == 1
            if row["kernels"] == "ours":
                products = sum(part["ns"] for name, part in row["parts"].items() if name != "attention")
                assert row["products_ns"] == products
                assert row["of_ceiling"] == pytest.approx(row["products_floor_ns"] / products)
                assert 0.0 < row["rest_percent"] < 100.0


def test_speed(result):
    (case,) = result["sections"]["speed"].values()
    assert {row["task"] for row in case["rows"]} == {"code", "stories"}  # the project's own prompts
    decoders = [(row["task"], row["temp"], row["decoder"]) for row in case["rows"]]
    assert len(set(decoders)) == len(decoders) == 2 * 2 * 3
    for row in case["rows"]:
        assert 1 <= row["n_gen"] <= 11 and row["gen_ns"] > 0  # the first token comes with the prompt
    summaries = real_speed.summaries(case)
    assert [(row["temp"], row["task"]) for row in summaries] == [
        (temp, task) for temp in (0.0, 0.8) for task in ("code", "stories", "all")
    ]
    assert all(row["n_identical"] == row["n_runs"] for row in summaries)


def test_identity(result):
    cases = result["sections"]["identity"]
    assert {BUNDLED.name, f"{BUNDLED.stem}, as q4_0"} <= cases.keys()
    for case in cases.values():
        assert case["n_runs"] == 2
        if not case["note"]:
            assert case["n_identical"] == 2 and case["splits"] == []


def test_load(result):
    for case in result["sections"]["load"].values():
        assert case["file_size"] > 0
        for kernels in ("ours", "stock"):
            assert case[kernels]["peak"] >= case[kernels]["loaded"] >= case[kernels]["bare"] > 0
            assert case[kernels]["seconds"] > 0


def test_markdown_has_all_that_is_asked(name, result):
    text = name.with_name("machine-real.md").read_text()
    for section, module in real_models.SECTIONS.items():
        assert f"## {section.capitalize()}\n" in text
        for line in module.asked(result["sections"][section]):
            assert f"| {line.model} | {line.what}" in text
    assert str(Path.home()) not in text and str(PROJECT) not in text


def test_a_section_comes_beside_the_others(name, result, monkeypatch):
    one = {"load": real_models.SECTIONS["load"]}
    monkeypatch.setattr(one["load"], "of_model", lambda path, plan: result["sections"]["load"][BUNDLED.name])
    assert real_models.main([*SMALL, "-o", str(name), "--sections", "load"]) == 0
    again = json.loads(name.with_name("machine-real.json").read_text())
    assert again["sections"].keys() == result["sections"].keys()
    assert again["sections"]["passes"] == result["sections"]["passes"]


def test_what_was_done_before_an_interruption_is_kept(tmp_path, monkeypatch, capsys):
    def interrupted(_plan):
        yield "first", {"splits": []}
        raise KeyboardInterrupt

    module = real_models.SECTIONS["identity"]
    monkeypatch.setattr(module, "measure", interrupted)
    monkeypatch.setattr(module, "asked", lambda cases: iter(()))
    monkeypatch.setattr(module, "tables", lambda cases: "")
    assert real_models.main([*SMALL, "-o", str(tmp_path / "half"), "--sections", "identity"]) == 130
    assert "interrupted" in capsys.readouterr().err
    kept = json.loads((tmp_path / "half-real.json").read_text())
    assert list(kept["sections"]["identity"]) == ["first"]


def test_wrong_arguments(tmp_path, capsys):
    with pytest.raises(SystemExit):
        real_models.main([*SMALL, "--sections", "passes,nothing"])
    assert "no section 'nothing'" in capsys.readouterr().err
    assert real_models.main(["-m", str(tmp_path / "none.gguf"), "-o", str(tmp_path / "x")]) == 1
    assert "none.gguf" in capsys.readouterr().err
    other = tmp_path / "x-real.json"
    other.write_text("[]")
    assert real_models.main([*SMALL, "-o", str(tmp_path / "x")]) == 1
    assert "no sections" in capsys.readouterr().err and other.read_text() == "[]"


def pass_of(n_rows: int, kernels: str, ms: float, threads: int = 1) -> dict:
    """A pass at a machine of 10 GB/s and 100 GMAC/s, where two threads read no more and compute twice as much."""
    macs = 1e8 * n_rows
    parts = {
        "q4_0": {"ns": 0.8e6 * ms, "bytes": 5e7, "macs": macs},
        "attention": {"ns": 0.1e6 * ms, "bytes": 1, "macs": 1},
    }
    return real_passes.with_ceilings(
        {
            "n_threads": threads,
            "kernels": kernels,
            "n_rows": n_rows,
            "median_ns": 1e6 * ms,
            "parts": parts if kernels == "ours" else {},
            "cpu_info": "some Xeon",
            "machine_read_bytes_per_second": 1e10,
            "machine_int8_macs_per_second": 1e11 * threads,
        }
    )


def test_what_is_asked_of_passes():
    rows = [pass_of(n, "stock", ms) for n, ms in ((1, 20.0), (8, 60.0), (16, 120.0))]
    rows += [pass_of(n, "ours", ms) for n, ms in ((1, 10.0), (8, 20.0), (16, 40.0))]
    rows += [pass_of(1, "stock", 11.0, 2), pass_of(1, "ours", 10.0, 2)]
    rows += [pass_of(8, "stock", 40.0, 2), pass_of(8, "ours", 14.0, 2)]
    asked = {line.what: line for line in real_passes.asked({"SmolLM2.gguf": {"rows": rows}})}
    found = {what: (round(line.measured, 3), line.holds) for what, line in asked.items()}
    assert found == {
        "T(1) of stock's": (0.5, True),
        "T(8) of stock's": (0.333, False),
        "T(16) of stock's": (0.333, True),
        "T(8) / T(1)": (2.0, False),
        "T(16) / T(1)": (4.0, False),
        "products, n = 1: share of the ceiling": (0.625, True),  # 5 of 8 ms, reading
        "products, n = 8: share of the ceiling": (0.5, False),  # 8 of 16 ms, computing
        "products, n = 16: share of the ceiling": (0.5, False),
        "rest of a pass, n = 1": (10.0, True),
        "2 threads, n = 1: times stock": (1.1, False),
        "2 threads, n = 8: times one thread": (1.429, False),
    }
    assert asked["T(8) of stock's"].ceiling == pytest.approx(12.0 / 60.0)  # 20 ms - 16 ms of products + 8 ms
    assert asked["2 threads, n = 8: times one thread"].ceiling == pytest.approx(8.0 / 5.0)
    assert asked["2 threads, n = 8: times one thread"].limit == pytest.approx(0.9 * 8.0 / 5.0)


def test_a_line_says_whether_it_holds():
    lines = [
        real_report.Asked("m", "at most", 1.0, 1.3),
        real_report.Asked("m", "at least", 1.0, 1.3, at_least=True, ceiling=1.2),
        real_report.Asked("m", "not measured", None, 1.3),
        real_report.Asked("m", "of another machine", 9.0, 1.3, applies=False),
    ]
    assert [line.holds for line in lines] == [True, False, None, None]
    text = real_report.asked_table(lines)
    assert text.startswith("1 of 2 held.") and text.count("**not held**") == 1
    assert "| at least | >= 1.30 x | 1.00 x | 1.20 x | **not held** |" in text


def planner_row(name: str, *ms_per_token: float) -> dict:
    n = [10] * len(ms_per_token)
    samples_ns = [round(1e7 * ms) for ms in ms_per_token]
    return {"name": name, "samples_n": n, "samples_ns": samples_ns, "passes": sum(n), "n_rows": 2 * sum(n)}


def test_the_planner_is_held_against_the_best_fixed_number():
    rows = [planner_row("none", 2, 2, 2), planner_row("auto", 1, 1, 5), planner_row("4", 0.9, 0.9, 5)]
    cases = {
        "prompts": {"rows": rows, "n_identical": 3, "n_runs": 3},
        "adversary": {"rows": [planner_row("none", 1, 1), planner_row("auto", 1, 1.2)], "n_identical": 0, "n_runs": 1},
    }
    asked = {(line.model, line.what): (line.measured, line.holds) for line in real_planner.asked(cases)}
    assert asked == {
        ("prompts", "of the best fixed number of rows, 4"): (pytest.approx(0.9), False),
        ("prompts", "texts identical to plain decoding's"): (3, True),
        ("adversary", "of plain decoding"): (pytest.approx(2 / 2.2), False),
        ("adversary", "texts identical to plain decoding's"): (0, False),
    }
    (auto,) = [line for line in real_planner.summaries(cases["prompts"]) if line["name"] == "auto"]
    assert auto["of_plain"] == pytest.approx(6 / 7) and auto["of_best_in_all"] == pytest.approx(6.8 / 7)


def test_the_first_token_is_held_against_plain_decoding():
    case = {"n_prompt": 210, "samples_ms": {"none": [[10, 20], [10, 20]], "all": [[10.4, 18], [10.4, 18]]}}
    (line,) = real_first_token.asked({"m": case})
    assert (line.measured, line.holds) == (pytest.approx(1.04), False)


def test_sections_of_the_planner(result):
    cases = result["sections"]["planner"]
    assert len(cases) == 6  # two temperatures and an adversary, two rates and an adversary
    for case in cases.values():
        assert case["n_identical"] == case["n_runs"]
        names = [row["name"] for row in case["rows"]]
        assert names[0] == "none" and "auto" in names and len(names) in (2, 9)
        assert all(ns > 0 for row in case["rows"] for ns in row["samples_ns"])
    (case,) = result["sections"]["first"].values()
    assert all(0 < first < later for runs in case["samples_ms"].values() for first, later in runs)

"""What is installed besides the modules, and what has to be said in several places."""

import importlib.util
import re
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest

from maskprobe import _capi

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SCRIPTS = PROJECT["project"]["scripts"]
PAGE = ROOT / "python/maskprobe/server/page"


@pytest.fixture(scope="module")
def build_wheels():
    spec = importlib.util.spec_from_file_location("build_wheels", ROOT / "packaging/build_wheels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_data_is_installed():
    package = resources.files("maskprobe")
    names = ["py.typed", *(f"server/page/{path.name}" for path in PAGE.glob("*.*"))]
    assert [name for name in names if not package.joinpath(name).is_file()] == []


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_scripts_are_installed(name):
    (script,) = metadata.entry_points(group="console_scripts", name=name)
    assert script.value == SCRIPTS[name]
    if importlib.util.find_spec(script.module) is None:
        pytest.skip(f"{script.module} is not there yet")
    assert callable(script.load())


def test_one_llama_cpp_python_is_named_everywhere():
    cmake = (ROOT / "cmake/llama_cpp.cmake").read_text(encoding="utf-8")
    (built_against,) = re.findall(r"set\(MASKPROBE_LLAMA_CPP_PYTHON ([0-9.]+)\)", cmake)
    named = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
    pins = [line.partition("==")[2] for line in named if line.startswith("llama-cpp-python")]
    assert pins == [built_against, built_against]
    assert built_against == _capi.LLAMA_CPP_PYTHON


def test_the_version_has_its_changes():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {PROJECT['project']['version']}" in changes


@pytest.mark.parametrize(
    ("version", "has_bug"),
    [
        ("__clang__ 10 2", True),
        ("__clang__ 11 4", True),
        ("__clang__ 11 5", False),
        ("__clang__ 12 2", True),
        ("__clang__ 12 4", False),
        ("__clang__ 13 2", True),
        ("__clang__ 13 3", False),
        ("__clang__ 14 2", False),
        ("__clang__ 15 1", False),
        ("1 4 2", False),  # clang calls itself GCC 4.2
    ],
)
def test_wheels_know_compilers_that_break_amx(build_wheels, monkeypatch, tmp_path, version, has_bug):
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\necho '{version}'\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setattr(build_wheels.platform, "machine", lambda: "x86_64")
    assert build_wheels.has_amx_bug() is has_bug
    monkeypatch.setattr(build_wheels.platform, "machine", lambda: "aarch64")
    assert not build_wheels.has_amx_bug()

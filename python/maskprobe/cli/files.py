"""The files that a command writes: which it may, that none of them is another file of the run, and how."""

import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from .terminal import write_all
from .values import fail, quoted

STANDARD_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
STREAM_NAMES = {0: "standard input", 1: "standard output", 2: "standard error"}
COMPLETION_ONLY = "standard output carries the completion only: give a file"
N_LINKS_MAX = 40  # followed one after another, as Linux does

# What a file begins with that is never overwritten by another kind of file.
KEPT = {
    b"GGUF": "a GGUF model",
    b"maskprobe-state ": "a state of maskprobe",
    b'{"maskprobe_state"': "a state of maskprobe",
}


# --- values of options ------------------------------------------------------------------------------------------------


def output_file(text: str) -> Path:
    """Where something can be written when the work is done: a file, a pipe, a device. What stands against it is said
    now rather than then."""
    if text == "":
        raise fail("the name of the file is empty")
    if text == "-":
        raise fail(COMPLETION_ONLY)
    if text.endswith("/"):
        raise fail(f"'{quoted(text)}' is a directory")
    path = Path(text)
    try:
        descriptor = own_descriptor(path)
        if descriptor is None:
            check_place(path)
        else:
            check_descriptor(descriptor, text)
    except OSError as error:
        raise fail(f"cannot write '{quoted(text)}': {error.strerror}") from None
    return path


def plain_output_file(text: str) -> Path:
    """The same for a file that is also read."""
    path = output_file(text)
    if path.exists() and not path.is_file():
        raise fail(f"'{quoted(text)}' is no plain file")
    return path


def state_file(text: str) -> str:
    """What lies there is looked at when it is opened."""
    if text in ("", "-") or own_descriptor(text) is not None:
        raise fail(f"'{quoted(text)}' names no file that can be replaced")
    return text


def check_descriptor(descriptor: int, text: str) -> None:
    """Raises OSError where there is no such descriptor."""
    if descriptor == 1:
        raise fail(COMPLETION_ONLY)
    access = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    if not os.get_inheritable(descriptor):  # one of this program's own
        raise fail(f"'{quoted(text)}' is not open")
    if access == os.O_RDONLY:
        raise fail(f"'{quoted(text)}' is open for reading only")


def check_place(path: Path) -> None:
    """Raises OSError where a part of the path is none."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:  # the target of a link too
        mode = None
    name = quoted(str(path))
    if mode is not None and not stat.S_ISREG(mode):
        if not (stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
            what = "a directory" if stat.S_ISDIR(mode) else "a socket" if stat.S_ISSOCK(mode) else "a disk"
            raise fail(f"'{name}' is {what}")
        if not os.access(path, os.W_OK):
            raise fail(f"cannot write '{name}': no permission")
        return
    place = Path(os.path.realpath(path))
    if not place.parent.is_dir():
        raise fail(f"there is no directory '{quoted(str(place.parent))}'")
    if not os.access(place if mode is not None else place.parent, os.W_OK):
        raise fail(f"cannot write '{name}': no permission")
    if mode is not None and (kept := kept_kind(place)) is not None:
        raise fail(f"'{name}' is {kept}: it is left as it is, name another")


def kept_kind(path: Path) -> str | None:
    """What a file is that must not be overwritten; None for others."""
    try:
        with path.open("rb") as file:
            start = file.read(max(map(len, KEPT)))
    except PermissionError:  # it can be written and not read
        return None
    return next((kind for magic, kind in KEPT.items() if start.startswith(magic)), None)


# --- several files of a run -------------------------------------------------------------------------------------------


def check_apart(path: str | Path, others: Mapping[str, str | Path | None]) -> None:
    """That a file which is replaced is no other file of the run, nor where a standard stream leads. `others` by the
    options that name them."""
    if own_descriptor(path) is not None:
        return  # not replaced
    mine = identity(path)
    for name, other in others.items():
        if other is not None and mine is not None and identity(other) == mine:
            raise fail(f"'{quoted(str(path))}' is the file of {name} too: name another")
    for descriptor, name in STREAM_NAMES.items():
        if mine is not None and identity(descriptor) == mine:
            raise fail(f"{name} goes to '{quoted(str(path))}': name another file")


def identity(path: str | Path | int) -> object:
    """What is the same for two names of one file; None for pipes and devices, which several may share."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path) if isinstance(path, str | Path) else None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def own_descriptor(path: str | Path) -> int | None:
    """The descriptor of this process that a path names, as /dev/stderr and /proc/self/fd/3 do; None for other paths."""
    name = os.path.join(os.getcwd(), path)
    for _ in range(N_LINKS_MAX):
        folder, last = os.path.split(name)
        folder = os.path.realpath(folder)
        name = os.path.join(folder, last)
        if name in STANDARD_STREAMS:
            return STANDARD_STREAMS[name]
        if re.fullmatch("[0-9]{1,9}", last) and re.fullmatch(rf"/dev/fd|/proc/{os.getpid()}(/task/[0-9]+)?/fd", folder):
            return int(last)
        try:
            name = os.path.join(folder, os.readlink(name))
        except OSError:
            return None
    return None


# --- writing ----------------------------------------------------------------------------------------------------------


def write_file(path: Path, text: str) -> None:
    """A reader never sees half a file: it is written beside and renamed, and a link stays a link. What is no plain
    file, or lies in a folder that takes no other, is written directly. Raises OSError."""
    data = text.encode("utf-8")
    descriptor = own_descriptor(path)
    if descriptor is not None:
        write_all(descriptor, data)
        return
    place = Path(os.path.realpath(path))
    if place.exists() and not (place.is_file() and os.access(place.parent, os.W_OK)):
        with place.open("wb", buffering=0) as file:
            write_all(file.fileno(), data)
        return
    beside = place.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        beside.write_bytes(data)
        if place.exists():
            shutil.copymode(place, beside)
        beside.replace(place)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise

"""The C core through cffi: the library is opened here, handles are owned here, status codes become exceptions here."""

import math
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from cffi import FFI

from .errors import (
    ArgumentError,
    CallbackError,
    Cancelled,
    ContextFull,
    DecodeError,
    Error,
    ModelError,
    OutOfMemory,
    StateError,
)

LLAMA_CPP_PYTHON = "0.3.36"  # the core is built against the llama.cpp of exactly this release
LONGEST_SHOWN = 80  # characters of a value in an error
CLOSING_STEP_S = 0.0005  # between two looks whether the last call is over

ERROR_CLASSES = {
    1: ArgumentError,
    2: ModelError,
    3: ModelError,
    4: ModelError,
    5: OutOfMemory,
    6: ContextFull,
    7: Cancelled,
    8: DecodeError,
    9: DecodeError,
    10: StateError,
    11: StateError,
    12: StateError,
    13: CallbackError,
}


def _declarations(header: str) -> str:
    """The part of maskprobe.h that cffi understands: without the preprocessor's lines, extern "C" and MP_API."""
    header = re.sub(r"#ifdef __cplusplus\n.*?#endif\n", "", header, flags=re.DOTALL)
    header = re.sub(r"(?m)^#.*\n", "", header)
    return header.replace("MP_API ", "")


def _load_llama_cpp() -> None:
    """Brings libllama and ggml into the process. The core resolves to these very copies, so they must come first."""
    needed = f"pip install llama-cpp-python=={LLAMA_CPP_PYTHON}"
    try:
        import llama_cpp
    except Exception as error:  # a missing package, or a shared library in it that does not load
        raise ImportError(
            f"maskprobe needs llama-cpp-python {LLAMA_CPP_PYTHON}, which cannot be imported ({error}): {needed}"
        ) from error
    if llama_cpp.__version__ != LLAMA_CPP_PYTHON:
        raise ImportError(
            f"maskprobe needs llama-cpp-python {LLAMA_CPP_PYTHON}, installed is {llama_cpp.__version__}: {needed}"
        )


def _installed(name: str) -> Path:
    """A file that the build puts into the package. In an editable installation the package has two folders."""
    for folder in sys.modules[__package__].__path__:
        path = Path(folder, name)
        if path.exists():
            return path
    raise ImportError(f"the compiled core is missing ({name}): install maskprobe with pip")


def prefix() -> Path:
    """The folder with include/maskprobe.h, lib/pkgconfig and lib/cmake, for C and C++ programs that link the core."""
    return _installed("include/maskprobe.h").parents[1]


def _open_library() -> Any:
    suffix = "dylib" if sys.platform == "darwin" else "so"
    path = _installed(f"lib/libmaskprobe.{suffix}")
    try:
        return ffi.dlopen(str(path))
    except OSError as error:
        raise ImportError(f"the compiled core cannot be loaded: {error}") from error


_load_llama_cpp()
ffi = FFI()
ffi.cdef(_declarations(_installed("include/maskprobe.h").read_text(encoding="utf-8")))
lib = _open_library()
NULL = ffi.NULL


def text(pointer: Any) -> str:
    """A C string as Python text."""
    return ffi.string(pointer).decode("utf-8", errors="replace")


def check(status: int) -> None:
    """Raises the exception of a status that is not MP_OK, with the core's own line."""
    if status:
        name = text(lib.mp_status_name(status))
        raise ERROR_CLASSES.get(status, Error)(text(lib.mp_last_error()) or name, name)


def c_string(value: str, what: str) -> bytes:
    """Text as the bytes of a C string. `what` names it in the error about an embedded NUL or a lone surrogate."""
    try:
        data = value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ArgumentError(f"{what} is not valid Unicode: {error.reason} at character {error.start}") from None
    if b"\0" in data:
        raise ArgumentError(f"{what} contains a NUL character at byte {data.index(0)}")
    return data


def c_path(path: str | os.PathLike[str], what: str) -> bytes:
    """A path as the bytes of a C string. `what` names it in the error about an embedded NUL."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise ArgumentError(f"the {what} path {os.fspath(path)!r} contains a NUL character")
    return name


def shown(value: Any) -> str:
    """A value as an error may show it: in one short line, and an object by its type."""
    try:
        text = repr(value)
    except Exception:  # of a number with thousands of digits, of lists within lists without end
        text = ""
    is_plain = isinstance(value, str) or "<" not in text  # of a function, a class, an array of them
    is_short = 0 < len(text) <= LONGEST_SHOWN
    return text if is_plain and is_short and text.isprintable() else f"({type(value).__name__})"


def fill(struct: Any, **fields: Any) -> None:
    """Sets the fields of a C struct. A value of the wrong type or beyond the C type is an ArgumentError."""
    for name, value in fields.items():
        try:
            setattr(struct, name, value)
        except (TypeError, OverflowError) as error:
            raise ArgumentError(f"{name} = {shown(value)} is not possible: {error}") from None


def token_array(tokens: Sequence[int] | np.ndarray) -> tuple[np.ndarray, Any]:
    """Token ids as int32 (n,), and the C pointer to them, which lives as long as the array."""
    ids = np.asarray(tokens)
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise ArgumentError(f"token ids must be integers in one dimension, not {ids.dtype} of shape {ids.shape}")
    if len(ids) and (ids.min() < -(2**31) or ids.max() >= 2**31):
        raise ArgumentError(f"token ids from {ids.min()} to {ids.max()} do not fit 32 bits")
    ids = np.ascontiguousarray(ids, np.int32)
    return ids, ffi.from_buffer("int32_t[]", ids)


def float_array(numbers: Sequence[float], what: str) -> Any:
    """Numbers as a C array of floats. Raises ArgumentError."""
    values = np.asarray(numbers)
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise ArgumentError(f"{what} = {shown(numbers)} must be a list of numbers")
    return ffi.new("float[]", values.tolist())


def progress_callback(progress: Callable[[float], bool | None], failures: list[BaseException]) -> Any:
    """A C callback for `progress`. What `progress` raises cancels the load and goes into `failures`."""

    def call(fraction: float, _user_data: Any) -> bool:
        try:
            return progress(fraction) is not False
        except BaseException as error:
            failures.append(error)
            return False

    return ffi.callback("mp_progress_callback", call)


def array_of(pointer: Any, dtype: type, *shape: int) -> np.ndarray:
    """The memory of a C array as numpy, without a copy: valid as long as C says so."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(ffi.buffer(pointer, n_bytes), dtype).reshape(shape)


class Bridge:
    """An object of Python whose methods the core calls. What one of them raises is kept in `failure`, and the core is
    told that it failed.

    `pointer` is C's struct of its functions. `handle` is what C has as its user pointer; it must live as long as C may
    call."""

    pointer: Any

    def __init__(self) -> None:
        self.handle: Any = ffi.new_handle(self)
        self.failure: BaseException | None = None

    def guarded(self, call: Callable[..., int | None], *args: Any) -> int:
        """The result of the call, 0 for None; -1 where it raised something."""
        try:
            return call(*args) or 0
        except BaseException as error:
            self.failure = error
            return -1

    def release(self) -> None:
        """The core will not call again."""


n_forks = 0  # that lie between the process that imported this and the one that runs


def _count_fork() -> None:
    global n_forks
    n_forks += 1


os.register_at_fork(after_in_child=_count_fork)


def wait_for_exit() -> None:
    """For what daemon threads still ask while the interpreter ends: they wait with it, rather than fail on stderr."""
    if threading.current_thread().daemon:
        threading.Event().wait()


class _Memory:
    """A C object, freed once: with the last Handle on it, or at exit. Never while a call is inside, or in a forked
    child."""

    def __init__(self, pointer: Any, free: Callable[[Any], None]) -> None:
        self.pointer = pointer
        self.calls: list[int] = []  # one entry per call that is inside; append and pop are atomic
        self.finalizer = weakref.finalize(self, _free_unless_in_use, pointer, free, n_forks, self.calls)


def _free_unless_in_use(pointer: Any, free: Callable[[Any], None], made_after: int, calls: list[int]) -> None:
    if n_forks == made_after and not calls:
        free(pointer)


class Handle:
    """Owns a C object, alone or together with others that share() gave. It is let go of by close(), by the garbage
    collector, or at exit.

    `with handle as pointer:` brackets every call into the core, from any thread; close() refuses while another thread
    is inside one. In a forked child every call raises StateError, unless the object `can_be_read` there; close()
    forgets the object, and nothing is ever freed.
    """

    def __init__(self, memory: _Memory | None, what: str, can_be_read: bool = False) -> None:
        self._memory: _Memory | None = memory
        self._what = what
        self._can_be_read = can_be_read
        self._n_forks = n_forks
        self._calls: list[int] = []  # as those of the memory, through this handle alone
        self._closing = threading.Lock()
        self._refusing = False

    @classmethod
    def of(cls, pointer: Any, free: Callable[[Any], None], what: str, can_be_read: bool = False) -> Self:
        """Of an object that was just made."""
        return cls(_Memory(pointer, free), what, can_be_read)

    def share(self) -> "Handle":
        """Another one: the object stays in memory until both are closed. Raises StateError where this one is."""
        with self:
            return Handle(self._memory, self._what, self._can_be_read)

    @property
    def closed(self) -> bool:
        memory = self._memory
        return memory is None or not memory.finalizer.alive  # at exit it is freed without close()

    @property
    def is_inherited(self) -> bool:
        """Whether a parent of this process made the object."""
        return self._n_forks != n_forks

    def check_process(self) -> None:
        """Raises StateError where a parent of this process made the object. To be called before a lock is taken: there,
        it may be held by a thread that is not."""
        if self.is_inherited:
            check(lib.mp_device_get(0, NULL))  # as any other call there: the core says why

    def __enter__(self) -> Any:
        if not self._can_be_read:
            self.check_process()
        while (memory := self._memory) is not None:
            self._calls.append(1)
            memory.calls.append(1)
            if not self._refusing and self._memory is memory and memory.finalizer.alive:
                return memory.pointer
            memory.calls.pop()
            self._calls.pop()
            if not memory.finalizer.alive:
                wait_for_exit()
                break
            with self._closing:  # it is being closed, or cannot be now
                pass
        raise StateError(f"the {self._what} is closed")

    def __exit__(self, *_exception: object) -> None:
        if (memory := self._memory) is not None:  # close() waits for the end of the call
            memory.calls.pop()
            self._calls.pop()

    def close(self, waits: bool = False) -> None:
        """Lets go of the object; further calls are errors. Closing twice is fine.

        While another thread is inside a call, it waits for the end of that or raises StateError ("busy")."""
        if self.is_inherited:
            self._memory = None
            return
        with self._closing:
            self._refusing = True  # from here on nobody comes in, so the list below can only shrink
            while self._calls and waits:
                time.sleep(CLOSING_STEP_S)
            if not self._calls:
                self._memory = None
            self._refusing = False
        if self._memory is not None:
            raise StateError(f"another thread is inside this {self._what}: it cannot be closed now", "busy")


class Owner:
    """What owns an object of the core. `with owner:` closes it."""

    _handle: Handle

    @property
    def closed(self) -> bool:
        return self._handle.closed

    def close(self) -> None:
        """Frees it; closing twice is fine. Raises StateError ("busy") while another thread is inside."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

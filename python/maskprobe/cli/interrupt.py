"""Ctrl-C while the main thread may be deep in a C call.

Python runs its signal handlers between bytecodes, so a handler waits until the pass is over. The signal's number is
also written to a wakeup descriptor at once; a thread reads it there and acts: the first Ctrl-C cancels the session, the
second ends the process. Outside a `cancels` block Ctrl-C is a KeyboardInterrupt, as everywhere in Python.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import ClassVar, Self

EXIT_STATUS = 130  # 128 + SIGINT, what a shell reports for a command that Ctrl-C ended


class Interrupt:
    """Takes over SIGINT between __enter__ and __exit__, unless it is ignored. For the main thread. Without `may_exit` a
    second Ctrl-C changes nothing."""

    _newest: ClassVar["Interrupt | None"] = None  # between __enter__ and __exit__

    def __init__(self, may_exit: bool = True) -> None:
        self.requested = False
        self._may_exit = may_exit
        self._cancel: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        self._outer, Interrupt._newest = Interrupt._newest, self
        self._old_handler = signal.getsignal(signal.SIGINT)
        if self._old_handler is signal.SIG_IGN:  # a shell does so for what it runs in the background
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._old_descriptor = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._in_main_thread)
        self._thread = threading.Thread(target=self._watch, name="interrupt", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        Interrupt._newest = self._outer
        if self._old_handler is signal.SIG_IGN:
            return
        signal.signal(signal.SIGINT, self._old_handler)
        signal.set_wakeup_fd(self._old_descriptor)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    @classmethod
    def came(cls) -> bool:
        """Whether the newest one has been requested to cancel, for what knows none."""
        return cls._newest is not None and cls._newest.requested

    @contextmanager
    def cancels(self, cancel: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Within the block Ctrl-C sets `requested` and calls `cancel`, from another thread, instead of raising
        KeyboardInterrupt: nothing may be raised in a function that C calls."""
        self._cancel = cancel
        try:
            if self.requested:  # it came just before
                raise KeyboardInterrupt
            yield
        finally:
            self._cancel = None

    def _watch(self) -> None:
        while numbers := self._reader.recv(16):
            for number in numbers:
                if number == signal.SIGINT:
                    self._pressed()

    def _pressed(self) -> None:
        if self.requested and self._may_exit:
            os._exit(EXIT_STATUS)
        self.requested = True
        cancel = self._cancel
        if cancel is not None:
            cancel()

    def _in_main_thread(self, _number: int, _frame: FrameType | None) -> None:
        if self._cancel is None:
            raise KeyboardInterrupt

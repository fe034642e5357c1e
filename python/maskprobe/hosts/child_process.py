"""The parent's side of one child process: what it is asked, what comes back, and how it ended."""

import itertools
import os
import pickle
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import ArgumentError, Cancelled, EngineLost, StateError
from .inbox import Inbox
from .messages import Allow, Answer, Cancel, Channel, Close, Do, Ended, FromChild, Generate, Loading, Part

HANG_S = 10.0  # a child that takes longer to take a generation, or to end one, is ended
CLOSE_S = 10.0  # for a child to end by itself: its engine writes what it learned
REAP_S = 5.0  # for the end of a process that has closed its end of the pair
LOOK_S = 0.2  # between two calls of a progress callback
KEPT_LINES = 50  # of its standard error
LONGEST_REASON = 200  # characters
START = "import sys; sys.path[:] = sys.argv[3:]; from maskprobe.hosts.child import main; main(*map(int, sys.argv[1:3]))"
# "/build/tree/ggml-rpc.cpp:354: what happened": where ggml aborts, without the directories.
ABORTED = re.compile(r"(?:^|[\s/])([\w.-]+\.(?:c|cc|cpp|cu|h|hpp|m|mm):\d+: .*)")
SIGNALS = {number.value: number.name for number in signal.Signals}


class ChildProcess:
    """A child, from its start to its end. Any thread may call. `folder`: where relative paths begin.

    Raises StateError where no process can be started."""

    def __init__(self, folder: str, verbose: bool) -> None:
        self.lost: EngineLost | None = None  # set when it has ended
        self._verbose = verbose
        self._doing = ""  # what it is said to have ended at
        self._killed = ""  # why it was ended from here
        self._closing = False
        self._ids = itertools.count()
        self._lock = threading.Lock()  # for what follows
        self._inboxes: dict[int, Inbox] = {}
        self._generations: set[int] = set()  # of these
        self._limits: dict[int, float] = {}  # when those that were told to end have to have ended
        self._to_end: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._outgoing: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._process = self._started(folder)
        self._errors = self._in_thread(self._read_errors)
        self._writer = self._in_thread(self._write)
        self._in_thread(self._watch)
        self._reader = self._in_thread(self._receive)

    @property
    def pid(self) -> int:
        return self._process.pid

    def load(self, path: Any, options: dict[str, Any], progress: Callable[[float], bool | None]) -> Any:
        """A LoadedModel. `progress` is called with 0..1.

        Raises what opening the model raises, Cancelled where `progress` returns False, and EngineLost."""
        self._doing = f" while it loaded {path.name}"
        id, inbox = self._register()
        fraction = 0.0
        try:
            self.post(Do(id, "load", (path, options, self._verbose)))
            while not isinstance(message := inbox.take(), Answer):
                if isinstance(message, Loading):
                    fraction = message.fraction
                elif progress(fraction) is False:
                    raise Cancelled(f"loading '{path}' was cancelled")
                else:
                    inbox.wait(LOOK_S)
        finally:
            self._forget(id)
        self._doing = ""
        return _value(message)

    def ask(self, action: str, *arguments: Any, patience_s: float | None = None) -> Any:
        """What one of child.ACTIONS gives, or raises. Where no answer comes within `patience_s`, the child is ended.

        Raises EngineLost."""
        id, inbox = self._register()
        try:
            self.post(Do(id, action, arguments))
            return self._answer(inbox, patience_s)
        finally:
            self._forget(id)

    def generate(self, tokens: Any, sampling: Any, settings: dict[str, Any], rules: Any) -> tuple[int, Inbox]:
        """Its id, and where its results come. Raises what Engine.generate() raises, and EngineLost."""
        id, inbox = self._register(is_generation=True)
        try:
            self.post(Generate(id, tokens, sampling, settings, rules))
        except ArgumentError:
            self._forget(id)
            raise
        try:
            self._answer(inbox, None if rules else HANG_S)  # a schema may take a while
        except BaseException:
            self.end(id)
            raise
        return id, inbox

    def allow(self, id: int, n: int) -> None:
        """The generation may send n more results."""
        self.post(Allow(id, n))

    def end(self, id: int) -> None:
        """Ends a generation after its pass. Where that takes longer than HANG_S, the child is ended. Takes no lock: the
        garbage collector may call it anywhere."""
        self._to_end.put(id)

    def post(self, message: Any) -> None:
        """Never waits: a child that hangs takes nothing. Raises ArgumentError for what cannot be sent."""
        try:
            self._outgoing.put(pickle.dumps(message))
        except Exception as error:
            raise ArgumentError(f"an argument cannot be handed to the engine's process: {error}") from None

    def end_all(self) -> None:
        with self._lock:
            ids = list(self._generations)
        for id in ids:
            self.end(id)

    def fail_generations(self, error: BaseException) -> None:
        """Their readers get this error."""
        with self._lock:
            for id in self._generations:
                self._inboxes[id].fail(error)

    def kill(self, why: str) -> None:
        """Ends it at once. `why` continues "the process of the engine"."""
        with self._lock:
            self._killed = self._killed or why
        self._process.kill()

    def close(self) -> None:
        """Lets it end by itself, with what it writes, and waits for that."""
        self._closing = True
        self.post(Close())
        self._reader.join(CLOSE_S)
        if self._reader.is_alive():
            self.kill(f"did not end within {CLOSE_S:g} s and was ended")
            self._reader.join(REAP_S)

    def _started(self, folder: str) -> "subprocess.Popen[bytes]":
        if not sys.executable:
            raise StateError("an engine in a process of its own needs a Python interpreter that can be started")
        ours, its = socket.socketpair()
        self._channel = Channel(ours.detach())
        paths = [os.path.abspath(path) for path in sys.path]
        try:
            with its:
                return subprocess.Popen(
                    [sys.executable, "-P", "-c", START, str(its.fileno()), str(os.getpid()), *paths],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(its.fileno(),),
                    cwd=folder,
                    env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # a debugger would take seconds at each abort
                    start_new_session=True,  # Ctrl-C is for the parent
                )
        except OSError as error:
            raise StateError(f"the process of an engine cannot be started: {error}") from None

    def _answer(self, inbox: Inbox, patience_s: float | None) -> Any:
        inbox.wait(patience_s)
        if (message := inbox.take()) is None:
            self.kill(f"did not answer for {patience_s:g} s and was ended")
            return _value(inbox.until(inbox.take))
        return _value(message)

    def _register(self, is_generation: bool = False) -> tuple[int, Inbox]:
        inbox = Inbox()
        with self._lock:
            if self.lost is not None:
                raise EngineLost(str(self.lost))
            id = next(self._ids)
            self._inboxes[id] = inbox
            if is_generation:
                self._generations.add(id)
        return id, inbox

    def _forget(self, id: int) -> Inbox | None:
        with self._lock:
            self._generations.discard(id)
            self._limits.pop(id, None)
            return self._inboxes.pop(id, None)

    # --- threads ------------------------------------------------------------------------------------------------------

    def _in_thread(self, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, name="maskprobe-child", daemon=True)
        thread.start()
        return thread

    def _write(self) -> None:
        try:
            while data := self._outgoing.get():
                self._channel.send_pickled(data)
        except OSError:
            pass  # it has ended, which _receive() finds out

    def _watch(self) -> None:
        """Tells generations to end, and looks whether they do."""
        while True:
            with self._lock:
                limit = min(self._limits.values(), default=None)
            try:
                id = self._to_end.get(timeout=None if limit is None else max(0.0, limit - time.monotonic()))
            except queue.Empty:
                with self._lock:
                    is_late = limit in self._limits.values()
                if is_late:
                    self.kill(f"did not end a generation within {HANG_S:g} s and was ended")
                    return
                continue
            if id is None:
                return
            with self._lock:
                is_new = id in self._generations and id not in self._limits
                if is_new:
                    self._limits[id] = time.monotonic() + HANG_S
            if is_new:
                self.post(Cancel(id))

    def _receive(self) -> None:
        try:
            while True:
                self._deliver(self._channel.receive())
        except (EOFError, OSError):
            pass
        except Exception as error:
            self.kill(f"said what cannot be read ({error}) and was ended")
        self._bury()

    def _deliver(self, message: FromChild) -> None:
        is_last = isinstance(message, Ended) or (
            isinstance(message, Part) and message.result is not None and message.result.finish_reason is not None
        )
        failed = isinstance(message, Answer) and message.error is not None
        inbox = self._forget(message.id) if is_last or failed else self._inboxes.get(message.id)
        if inbox is not None:
            inbox.put(message)

    def _bury(self) -> None:
        """It has closed its end of the pair: no more comes from it."""
        try:
            self._process.wait(REAP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._outgoing.put(b"")  # ends _write()
        self._to_end.put(None)
        self._errors.join(REAP_S)  # what it wrote last; a process that it left behind may hold the pipe
        self._writer.join(REAP_S)
        if not self._writer.is_alive():
            self._channel.close()
        with self._lock:
            n = len(self._generations)
            self.lost = EngineLost("the engine is closed" if self._closing else self._obituary(n))
            inboxes = list(self._inboxes.values())
        for inbox in inboxes:
            inbox.fail(EngineLost(str(self.lost)))  # each of its own: whoever raises it adds to it

    def _obituary(self, n_generations: int) -> str:
        status = self._process.returncode
        if self._killed:
            how = self._killed
        elif status < 0:
            how = f"was ended by {SIGNALS.get(-status, f'signal {-status}')}"
        else:
            how = f"ended with exit status {status}"
        by_itself = not self._killed and status in (-signal.SIGABRT, *range(256))
        line = f"the process of the engine {how}{self._doing}{_reason(list(self._lines)) if by_itself else ''}"
        if self._doing:
            return line
        ended = {0: "", 1: "; its generation ended with it"}.get(
            n_generations, f"; its {n_generations} generations ended with it"
        )
        return f"{line}{ended}; the next one starts it again"

    def _read_errors(self) -> None:
        """llama.cpp's lines: shown where they are wanted, and kept for what they say of its end."""
        pipe = self._process.stderr
        assert pipe is not None
        with pipe:
            for line in pipe:
                self._lines.append(line.decode("utf-8", "replace").strip())
                if self._verbose:
                    try:
                        os.write(2, line)
                    except OSError:
                        self._verbose = False


def _value(message: Any) -> Any:
    if message.error is not None:
        raise message.error
    return message.value


def _reason(lines: list[str]) -> str:
    """ggml's last word, or the last line that there is."""
    found = [match[1] for line in lines if (match := ABORTED.search(line))] or [line for line in lines if line]
    return f": {found[-1][:LONGEST_REASON]}" if found else ""

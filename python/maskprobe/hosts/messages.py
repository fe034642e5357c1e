"""What a process and the child with its engine say to each other: pickled tuples with their length before them, over a
pair of sockets. Each reads what it started, or was started by, and nothing else."""

import dataclasses
import pickle
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from ..errors import Error
from ..generation import Draft, Stats, TokenResult
from ..model import ModelInfo
from ..sampler import SamplingParams

WINDOW = 64  # results of a generation that the child sends before it is told that they were read
COUNTS = [field.name for field in dataclasses.fields(Stats) if field.name not in ("tokens", "finish_reason")]


# --- to the child. An id is that of the call or generation, from its first message to its last one


class Do(NamedTuple):
    """Call one of child.ACTIONS; an Answer comes back."""

    id: int
    action: str
    arguments: tuple[Any, ...] = ()


class Generate(NamedTuple):
    """Open a generation: an Answer comes back, and if that is no error, Parts and perhaps an Ended."""

    id: int
    tokens: Any  # int32 (n,)
    sampling: SamplingParams
    settings: dict[str, Any]  # further arguments of Engine.generate()
    rules: tuple[str, str] | None  # a constraint: what structured.Rules were made of


class Allow(NamedTuple):
    """So many more results may be sent."""

    id: int
    n: int


class Cancel(NamedTuple):
    """End a generation after the pass that is under way."""

    id: int


class Refill(NamedTuple):
    """Evaluate these texts while nothing else is asked for, so that the cache has them."""

    texts: list[Any]  # int32 (n,) each


class Close(NamedTuple):
    """End."""


# --- from the child


class Loading(NamedTuple):
    id: int
    fraction: float


class Answer(NamedTuple):
    id: int
    value: Any = None
    error: BaseException | None = None


class Part(NamedTuple):
    """A result of a generation; without one, how far it is."""

    id: int
    result: TokenResult | None
    counts: list[Any]  # of COUNTS
    draft: Draft | None = None  # the newest tree, where it is another one than before


class Ended(NamedTuple):
    """A generation failed."""

    id: int
    error: BaseException


FromChild = Loading | Answer | Part | Ended


class LoadedModel(NamedTuple):
    """What "load" gives."""

    info: ModelInfo
    identity: tuple[str, str]  # Model.identity, Model.heads_path


class OpenedEngine(NamedTuple):
    """What "open_engine" gives: attributes of the context, and the engine's note."""

    n_ctx: int
    n_threads: int
    max_chain: int
    n_rows_max: int
    n_top_max: int
    n_sessions_max: int
    note: str


def counts_of(stats: Stats) -> list[Any]:
    return [getattr(stats, name) for name in COUNTS]


def set_counts(stats: Stats, counts: Sequence[Any]) -> None:
    for name, value in zip(COUNTS, counts, strict=True):
        setattr(stats, name, value)


def portable(error: BaseException) -> BaseException:
    """The error, or what it says where it is of a kind that cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return Error(f"{type(error).__name__}: {' '.join(str(error).split())}")
    return error


class Channel:
    """One end of the pair. Any thread may send, one receives."""

    def __init__(self, descriptor: int) -> None:
        self._connection = Connection(descriptor)
        self._sending = threading.Lock()

    def send(self, message: Any) -> None:
        """Waits where the other end does not read. Raises OSError where it is closed."""
        self.send_pickled(pickle.dumps(message))

    def send_pickled(self, data: bytes) -> None:
        with self._sending:
            self._connection.send_bytes(data)

    def receive(self, seconds: float | None = None) -> Any:
        """The next message; None where none came within so many seconds. Raises EOFError or OSError where the other
        end is closed."""
        if not self._connection.poll(seconds):
            return None
        return pickle.loads(self._connection.recv_bytes())

    def close(self) -> None:
        self._connection.close()

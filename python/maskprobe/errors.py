"""The exceptions of maskprobe. Each carries `status`, the name of the C core's status code, and reads as one line."""


class Error(Exception):
    """Base of all failures that maskprobe reports."""

    status = "internal"

    def __init__(self, message: str, status: str | None = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status


class ArgumentError(Error, ValueError):
    """A value that the caller gave is out of range."""

    status = "argument"


class ModelError(Error):
    """The file cannot be read ("file"), is not a sound model ("format"), or is of a kind not run ("unsupported")."""

    status = "format"


class OutOfMemory(Error, MemoryError):
    """Weights or cache do not fit in memory."""

    status = "memory"


class ContextFull(Error):
    """No room is left in the context."""

    status = "context full"


class Cancelled(Error):
    """Stopped by Context.cancel() or by a progress callback that returned False."""

    status = "cancelled"


class DecodeError(Error):
    """llama.cpp failed the pass ("decode"), or the model produced NaN or infinite logits ("numeric")."""

    status = "decode"


class CallbackError(Error):
    """A callback of a generation failed. What a proposer or a constraint of Python raised comes out as it is."""

    status = "callback"


class EngineLost(Error):
    """The process that an engine had for itself has ended, or did not answer and was ended. Its generations end with
    this error; the next one starts it again."""

    status = "lost"


class StateError(Error):
    """A call out of order: after close ("state"), from a second thread ("busy"), or a fault ("internal").

    Also in a child that was forked after the first model was opened ("state"): the threads that compute do not exist
    there. Such processes are to be spawned: multiprocessing.set_start_method("spawn")."""

    status = "state"

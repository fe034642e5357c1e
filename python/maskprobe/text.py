"""TextStream: bytes of tokens in, text out, never half a character and nothing of a stop string."""

import codecs
from collections.abc import Sequence

from .errors import ArgumentError


class TextStream:
    """Turns the bytes of one token after another into text.

    Held back: an incomplete UTF-8 character, and text that may be the beginning of a stop string. The text stops
    before the stop string that is complete first; what comes out in total does not depend on how the bytes were cut.
    Invalid bytes become U+FFFD.

    Raises ArgumentError for an empty stop string. One string alone is taken as one stop string.
    """

    def __init__(self, stop: str | Sequence[str] = ()) -> None:
        self._stop = (stop,) if isinstance(stop, str) else tuple(stop)
        for i, string in enumerate(self._stop):
            if not isinstance(string, str) or not string:
                raise ArgumentError(f"stop string {i} must be non-empty text, not {string!r}")
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped = False

    def push(self, data: bytes) -> str:
        """The text that is certain once `data` has come. Sets `stopped` when a stop string is complete."""
        return self._release(self._decoder.decode(data), final=False)

    def finish(self) -> str:
        """The end of the bytes: the text still held back. An incomplete character becomes U+FFFD."""
        return self._release(self._decoder.decode(b"", final=True), final=True)

    def _release(self, text: str, final: bool) -> str:
        if not self._stop:
            return text
        if self.stopped:
            return ""
        text = self._held + text
        cut = self._first_stop(text)
        if cut is not None:
            self.stopped = True
            self._held = ""
            return text[:cut]
        n_held = 0 if final else self._possible_stop(text)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def _first_stop(self, text: str) -> int | None:
        """Where the stop string begins that ends first; of several with the same end, the longest."""
        found = [(begin + len(stop), begin) for stop in self._stop if (begin := text.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _possible_stop(self, text: str) -> int:
        """Length of the longest end of `text` that is the beginning of a stop string."""
        for n in range(min(len(text), max(map(len, self._stop), default=1) - 1), 0, -1):
            if any(stop.startswith(text[-n:]) for stop in self._stop):
                return n
        return 0

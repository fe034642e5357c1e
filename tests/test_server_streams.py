"""A streamed response by itself: what it sends, and when it gives up."""

import asyncio

import pytest

from serving import chat_model  # noqa: F401 (skips without starlette)

from maskprobe.server.answering import ClientGone, EventStream  # isort: skip
from maskprobe.server.errors import ApiError  # isort: skip


class Wire:
    """What an ASGI server gives to an application. From the `stuck_at`-th message on, nobody takes any; `gone` tells
    that the client has closed."""

    def __init__(self, stuck_at: int = 10**6) -> None:
        self.sent: list[dict] = []
        self.gone = asyncio.Event()
        self._stuck_at = stuck_at

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if len(self.sent) == self._stuck_at:
            await asyncio.sleep(3600)
        self.sent.append(message)

    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


class Pieces:
    """Some pieces, then an exception or an endless wait; `closed` when nobody wants more."""

    def __init__(self, *pieces: bytes, then: Exception | str = "end") -> None:
        self._pieces, self._then = pieces, then
        self.closed = False

    async def __aiter__(self):
        try:
            for piece in self._pieces:
                yield piece
            if isinstance(self._then, Exception):
                raise self._then
            if self._then == "wait":
                await asyncio.sleep(3600)
        finally:
            self.closed = True


def stream(pieces: Pieces, patience_s: float = 60.0) -> EventStream:
    return EventStream(aiter(pieces), "text/plain", lambda error: f"failed: {error.message}".encode(), patience_s)


def run(pieces: Pieces, wire: Wire, patience_s: float = 60.0, leaves: bool = False) -> None:
    async def work():
        if leaves:
            asyncio.get_running_loop().call_later(0.05, wire.gone.set)
        await asyncio.wait_for(stream(pieces, patience_s)({}, wire.receive, wire.send), 30)

    asyncio.run(work())


def test_all_pieces_are_sent():
    pieces, wire = Pieces(b"a", b"b"), Wire()
    run(pieces, wire)
    assert wire.sent[0]["status"] == 200 and wire.body() == b"ab"
    assert wire.sent[-1].get("more_body", False) is False and pieces.closed


def test_what_fails_before_the_first_piece_has_its_own_status():
    wire = Wire()
    with pytest.raises(ApiError):
        run(Pieces(then=ApiError(429, "full")), wire)
    assert wire.sent == []


@pytest.mark.parametrize(("error", "says"), [(ApiError(503, "no more"), "no more"), (ZeroDivisionError(), "failed")])
def test_what_fails_later_is_the_last_piece(error, says):
    wire = Wire()
    run(Pieces(b"a", then=error), wire)
    assert wire.body().startswith(b"afailed: ") and says in wire.body().decode()
    assert wire.sent[-1].get("more_body", False) is False


@pytest.mark.parametrize("started", [False, True])
def test_who_closes_the_connection_is_sent_nothing_more(started):
    pieces, wire = Pieces(*[b"a"] * started, then="wait"), Wire()
    if started:
        run(pieces, wire, leaves=True)
    else:
        with pytest.raises(ClientGone):
            run(pieces, wire, leaves=True)
    assert pieces.closed and len(wire.sent) == 2 * started


def test_who_takes_nothing_is_given_up():
    pieces, wire = Pieces(b"a", b"b", b"c"), Wire(stuck_at=2)
    run(pieces, wire, patience_s=0.05)
    assert wire.body() == b"a" and pieces.closed

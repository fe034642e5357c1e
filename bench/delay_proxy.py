"""A TCP proxy that delays: what a network far away does to a program, on one machine.

python bench/delay_proxy.py --listen 50061 --to 127.0.0.1:50052 --ms 200

Half of the added time goes to each direction. Only the time that a byte arrives is moved: what follows it does not wait
for it, so the throughput stays.
"""

import argparse
import contextlib
import queue
import socket
import threading
import time
from typing import Self

CHUNK = 1 << 18  # bytes that are read at once
N_WAITING = 4096  # chunks under way: a sender that is faster than the receiver is held back, as TCP does


class DelayProxy:
    """Listens at `port` of 127.0.0.1 (0: a free one) until it is closed, and passes connections on to `target`."""

    def __init__(self, target: tuple[str, int], round_trip_s: float, port: int = 0) -> None:
        self._target = target
        self.delay_s = round_trip_s / 2  # may be changed; what is under way keeps its time
        self.n_round_trips = 0  # answers that began after a request: the times that the client had to wait
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port = self._socket.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends its connections too."""
        for end in [self._socket, *self._open]:  # threads wait in them: closing alone would not end that
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            asked = threading.Event()  # since the last answer
            for source, sink, is_request in ((client, server, True), (server, client, False)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                under_way: queue.Queue[tuple[float, bytes]] = queue.Queue(N_WAITING)
                threading.Thread(target=self._read, args=(source, under_way, asked, is_request), daemon=True).start()
                threading.Thread(target=self._write, args=(sink, under_way), daemon=True).start()

    def _read(
        self,
        source: socket.socket,
        under_way: "queue.Queue[tuple[float, bytes]]",
        asked: threading.Event,
        is_request: bool,
    ) -> None:
        while True:
            try:
                data = source.recv(CHUNK)
            except OSError:
                data = b""
            if data and is_request:
                asked.set()
            elif data and asked.is_set():
                asked.clear()
                self.n_round_trips += 1
            under_way.put((time.monotonic() + self.delay_s, data))
            if not data:
                return

    def _write(self, sink: socket.socket, under_way: "queue.Queue[tuple[float, bytes]]") -> None:
        while True:
            due, data = under_way.get()
            time.sleep(max(due - time.monotonic(), 0))
            try:
                if not data:
                    sink.shutdown(socket.SHUT_RDWR)
                    return
                sink.sendall(data)
            except OSError:
                return


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", metavar="PORT", type=int, required=True, help="port of 127.0.0.1")
    parser.add_argument("--to", metavar="HOST:PORT", type=address, required=True)
    parser.add_argument("--ms", metavar="X", type=float, required=True, help="milliseconds for each round trip")
    args = parser.parse_args()
    with DelayProxy(args.to, args.ms / 1000, args.listen):
        threading.Event().wait()


if __name__ == "__main__":
    main()

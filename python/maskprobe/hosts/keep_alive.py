"""Connections to hosts that may vanish: without this a process waits for them for ever."""

import contextlib
import os
import socket
import stat

# A host is asked after so many seconds of silence, as often, at such intervals: it is given up after nine. Its kernel
# answers, however long its programs compute. Data on the way is another matter: TCP_USER_TIMEOUT would also end
# connections to workers that are too busy to read, so it is not set.
IDLE_S, INTERVAL_S, COUNT = 3, 2, 3
IDLE_OPTION = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)


def keep_connections_alive() -> int:
    """Has the kernel look after all TCP connections of this process. Returns how many there are."""
    n = 0
    for name in os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"):
        with contextlib.suppress(OSError):
            descriptor = int(name)
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                with socket.socket(fileno=os.dup(descriptor)) as connection:
                    n += _kept_alive(connection)
    return n


def _kept_alive(connection: socket.socket) -> bool:
    is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM
    if not is_tcp or connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if IDLE_OPTION is not None:
        connection.setsockopt(socket.IPPROTO_TCP, IDLE_OPTION, IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, COUNT)
    return True

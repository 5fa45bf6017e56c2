"""Accept connections. Strangers may connect too; they must not slow down the members."""
from __future__ import absolute_import, division, print_function

import errno
import socket
import sys
from collections import Counter, deque

from ..errors import ConnectionFailed
from ..logs import log
from .addresses import BACKLOG, listen, prepare
from .connection import Connection  # noqa: F401 # in a type comment
from .limits import ACCEPTS_PER_CYCLE, HALF_OPEN_MAX, HALF_OPEN_SHARE, PAUSE_SECONDS
from .loop import Handler, Loop  # noqa: F401 # the latter in a type comment

if sys.platform != "win32":
    import resource

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Callable  # noqa: F401 # novm

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener(Handler):
    """Accepts connections on one port.

    accepted: called as ``accepted(sock, where)``; it returns the new Connection, or None if it refuses. expected: how
    many members may connect at once, beside strangers (default 0). descriptors: how many each connection takes.
    """

    def __init__(self, loop, host, port, accepted, expected=0, descriptors=1):
        # type: (Loop, str, int, Callable[[socket.socket, str], Connection | None], int, int) -> None
        self._loop, self._accepted, self._expected, self._descriptors = loop, accepted, expected, descriptors
        self._open = True
        self._unproved = deque()  # type: deque[Connection] # oldest first; some may have proved the key meanwhile
        self._sockets = listen(host, port, max(BACKLOG, 2 * expected))
        self.port = self._sockets[0].getsockname()[1]
        self._watch()

    def _watch(self):
        # type: () -> None
        for sock in self._sockets:
            self._loop.add(sock, self)

    def readable(self):
        # type: () -> bool
        for sock in self._sockets:
            for _ in range(ACCEPTS_PER_CYCLE):
                try:
                    accepted, address = sock.accept()
                except (OSError, socket.error) as error:
                    if error.errno in _EXHAUSTED:
                        self._pause(error)
                        return False
                    break  # the queue is empty, or the peer has closed already
                self._take(accepted, "%s:%d" % address[:2])
        return False

    def _take(self, sock, where):
        # type: (socket.socket, str) -> None
        try:
            prepare(sock)
            connection = self._accepted(sock, where)
        except (OSError, socket.error) as error:
            sock.close()  # the peer has closed already, or the poller takes no more
            if error.errno in _EXHAUSTED:
                self._pause(error)
            return
        if connection is not None:
            while self._unproved and not self._unproved[0].unproved:  # it would keep the buffers of a node that is gone
                self._unproved.popleft()
            self._unproved.append(connection)
            self._keep_room()

    def _keep_room(self):
        # type: () -> None
        """Close the oldest connections of the address that has the most: so strangers at one address cannot push out a
        member that comes from another."""
        most = _half_open_max(self._descriptors) + self._expected
        if len(self._unproved) <= most:
            return
        self._unproved = deque(each for each in self._unproved if each.unproved)
        if len(self._unproved) <= most:
            return
        crowds = Counter(_host_of(each) for each in self._unproved)
        for _ in range(len(self._unproved) - most + most // 16):  # a few extra: not every stranger costs a new count
            crowd = crowds.most_common(1)[0][0]
            oldest = next(each for each in self._unproved if _host_of(each) == crowd)
            crowds[crowd] -= 1
            self._unproved.remove(oldest)
            oldest.close(ConnectionFailed("too many connections that have not proved themselves"))

    def _pause(self, error):
        # type: (BaseException) -> None
        """Stop accepting for a while. The waiting connections keep the socket readable, so without a pause the loop
        would spin, and the running work would get no time."""
        log.error("port %d takes no connections for %.0f s: %s; running work goes on", self.port, PAUSE_SECONDS, error)
        for sock in self._sockets:
            self._loop.drop(sock)
        self._loop.later(PAUSE_SECONDS, self._go_on)

    def failed(self, error):
        # type: (BaseException) -> None
        self._pause(error)

    def _go_on(self):
        # type: () -> None
        if self._open:
            self._watch()

    def close(self, error=None):
        # type: (BaseException | None) -> None
        if self._open:
            self._open = False
            for sock in self._sockets:
                self._loop.drop(sock)
                sock.close()


def _half_open_max(descriptors):
    # type: (int) -> int
    if sys.platform == "win32":
        return HALF_OPEN_MAX
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return min(HALF_OPEN_MAX, max(1, soft // HALF_OPEN_SHARE // descriptors)) if soft > 0 else HALF_OPEN_MAX


def _host_of(connection):
    # type: (Connection) -> str
    return connection.where.rpartition(":")[0]

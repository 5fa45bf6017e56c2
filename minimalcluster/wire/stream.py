"""Bytes to and from a socket, without waiting. ``TlsStream`` (tls.py) has the same methods.

Nothing here knows of messages.
"""
from __future__ import absolute_import, division, print_function

import os
import socket
import sys
from collections import deque  # noqa: F401 # in a type comment

from ..compat import joined
from .addresses import WOULD_BLOCK

RECEIVE_BYTES = 1 << 18
#: Buffers that one call of ``sendmsg`` writes. POSIX allows at least 16 (IOV_MAX), Linux and macOS allow 1024.
BUFFERS_PER_WRITE = 64
JOIN_BYTES_MAX = 1 << 16
_TCP_NOTSENT_LOWAT = {"linux": 25, "linux2": 25, "darwin": 0x201}.get(sys.platform)  # Python names it from 3.12 on
#: A program may have restored SIGPIPE's default (as tools do for "| head"). Then a write to one of our broken
#: connections would kill it, unless each call says that it wants no SIGPIPE.
NO_SIGPIPE = getattr(socket, "MSG_NOSIGNAL", 0x4000 if sys.platform.startswith("linux") else 0)


def drop_front(buffers, count):
    # type: (deque, int) -> None
    """Remove so many bytes, which were sent, from the front of these buffers."""
    while buffers and count >= len(buffers[0]):
        count -= len(buffers.popleft())
    if count:
        buffers[0] = memoryview(buffers[0])[count:]


class SocketStream(object):
    """A non-blocking socket, connected or connecting. Every method may raise OSError (2.7: socket.error).

    ``has_unsent``: it holds bytes that have to be sent, although the last ``send`` did not return 0. ``encrypts``,
    ``stands`` and ``certificate_hash``: see ``TlsStream``.
    """

    encrypts = stands = has_unsent = False
    certificate_hash = None  # type: bytes | None

    def __init__(self, sock, connecting=False):
        # type: (socket.socket, bool) -> None
        self.socket = sock
        self.is_connecting = connecting
        self.has_more = False  # the last ``receive`` filled its buffer, so more may be there

    def finish_connecting(self):
        # type: () -> None
        """Call it when the socket is writable for the first time. Raises OSError with the reason of a failure."""
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        self.is_connecting = False

    def receive(self):
        # type: () -> bytes | None
        """The bytes that have arrived; ``b""`` if the peer has closed, None if nothing is there now."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except (OSError, socket.error) as error:
            if error.errno not in WOULD_BLOCK:
                raise
            self.has_more = False
            return None
        self.has_more = len(data) == RECEIVE_BYTES
        return data

    def send(self, buffers):
        # type: (deque) -> int
        """Write from the front of these buffers, with one system call at most. Returns the number of bytes written; 0
        if the socket takes none now."""
        if self.is_connecting:
            return 0
        try:
            return self._send_some(buffers)
        except (OSError, socket.error) as error:
            if error.errno in WOULD_BLOCK:
                return 0
            raise

    def _send_some(self, buffers):
        # type: (deque) -> int
        if len(buffers) == 1 or len(buffers[0]) > JOIN_BYTES_MAX:
            return self.socket.send(buffers[0], NO_SIGPIPE)
        if hasattr(self.socket, "sendmsg"):
            some = [buffers[n] for n in range(min(len(buffers), BUFFERS_PER_WRITE))]
            return self.socket.sendmsg(some, [], NO_SIGPIPE)
        small = []
        for buffer in buffers:  # 2.7 and Windows
            if len(buffer) > JOIN_BYTES_MAX:
                break
            small.append(buffer)
        return self.socket.send(joined(small), NO_SIGPIPE)

    def keep_little_unsent(self, size):
        # type: (int) -> None
        """Where the kernel can: let it take no more than this many bytes beyond those that it can send at once."""
        if _TCP_NOTSENT_LOWAT is not None:
            try:
                self.socket.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, size)
            except (OSError, socket.error):
                pass  # an old kernel: urgent messages wait longer there

    def close(self):
        # type: () -> None
        self.socket.close()

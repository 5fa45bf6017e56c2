"""A connection: a handshake, then messages both ways.

The owner is called for all bytes that arrive, also while a message is incomplete: bytes are a sign of life.
"""
from __future__ import absolute_import, division, print_function

import socket
from collections import deque

from ..compat import monotonic
from ..errors import ConnectionFailed
from ..logs import log
from . import frames  # noqa: F401 # in a type comment
from .handshakes import ClientHandshake, Peer, ServerHandshake  # noqa: F401 # in type comments
from .limits import HANDSHAKE_SECONDS, TLS_SECONDS
from .loop import Handler, Loop  # noqa: F401 # the latter in a type comment
from .stream import SocketStream, drop_front

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable, Protocol  # noqa: F401 # novm

    class Owner(Protocol):
        """Who made the connection, and answers for it."""

        def opened(self, connection):
            # type: (Connection) -> None
            """The peer has proved that it knows the key."""

        def received(self, connection, messages):
            # type: (Connection, list[tuple]) -> None
            """Bytes have come, and with them the ends of these messages."""

        def closed(self, connection, error):
            # type: (Connection, BaseException | None) -> None
            """It is over; error is None if we wanted it so."""

RECEIVES_PER_CYCLE = 8
#: A member may send small messages without end. So received bytes are read in slices, and no more slices in a cycle in
#: which this many messages have come. One slice has 1,450 of the smallest messages: 0.1 s of work. (2 MiB of them would
#: be 2 s, and no node could join beside such a member: its handshake takes some cycles.) What a large frame still lacks
#: is one slice: no message ends before.
SLICE_BYTES, MESSAGES_PER_CYCLE = 64 << 10, 500
#: How much the kernel may hold that it cannot send yet. An urgent message has to wait for these bytes.
UNSENT_BYTES_MAX = 256 << 10
_NOTHING = memoryview(b"")


class Connection(Handler):
    """One TCP connection: handshake, then messages both ways.

    owner: is called as ``opened(connection)`` after the proof, as ``received(connection, messages)`` for all bytes that
    arrive (``messages`` is empty while one is incomplete), and as ``closed(connection, error)`` at the end (``error``
    is None if we closed the connection on purpose). where: the peer, "host:port", for errors. connecting: the socket
    is still connecting. patience: seconds to wait for the proof (default: HANDSHAKE_SECONDS). secured: makes the stream
    that encrypts if the handshake wants TLS; called as ``secured(socket, plain bytes that come first, where)``.
    """

    def __init__(
        self,
        loop,  # type: Loop
        sock,  # type: socket.socket
        handshake,  # type: ServerHandshake | ClientHandshake
        owner,  # type: Owner
        where,  # type: str
        connecting=False,  # type: bool
        patience=None,  # type: float | None
        secured=None,  # type: Callable[[socket.socket, bytes, str], SocketStream] | None
    ):
        # type: (...) -> None
        self._loop, self._handshake, self._owner = loop, handshake, owner
        self._secured = secured
        self._stream = SocketStream(sock, connecting)
        self.where = where
        self.peer = None  # type: Peer | None
        self.about = None  # type: Any # whatever the owner keeps with it
        self._channel = None  # type: frames.Channel | None
        self._out = deque()  # type: deque[bytes | memoryview]
        self._writing = False
        self._open = True
        self._unread = _NOTHING  # received bytes that wait for the next cycle
        self._heard = self.left_silently = False  # the latter: the peer has closed it, and never said a byte
        self.taken_at = 0.0
        self.patience = HANDSHAKE_SECONDS if patience is None else patience
        self.expires_at = loop.waited + self.patience
        loop.add(sock, self)
        loop.await_proof(self)
        if connecting:
            self._set_writing(True)
        self._send_raw(handshake.start())
        self._advance_tls()

    # -- out --------------------------------------------------------------------------------------

    @property
    def is_open(self):
        # type: () -> bool
        return self._open

    def send(self, message):
        # type: (tuple) -> None
        if self._open and self._channel is not None:
            self._channel.send(message)
            self._loop.write_soon(self)

    def under_way(self):
        # type: () -> tuple
        """(``Channel.sending()``: large messages that wait to be sent; received bytes of an incomplete message)."""
        return (self._channel.sending(), self._channel.receiving) if self._channel is not None else ([], 0)

    @property
    def has_unsent(self):
        # type: () -> bool
        return self._open and self._writing

    @property
    def unproved(self):
        # type: () -> bool
        return self._open and self._channel is None

    def _send_raw(self, data):
        # type: (bytes) -> None
        if data:
            self._out.append(data)
            self._loop.write_soon(self)

    def write(self):
        # type: () -> None
        if not self._open or self._stream.is_connecting:
            return
        try:
            while self._has_more() or self._stream.has_unsent:
                count = self._stream.send(self._out)
                if not count:
                    break
                self._sent(count)
        except ConnectionFailed as error:
            self.close(error)
            return
        except (OSError, socket.error) as error:
            self.close(ConnectionFailed("the connection to %s broke: %s" % (self.where, error)))
            return
        self._set_writing(bool(self._out) or self._stream.has_unsent)

    def _has_more(self):
        # type: () -> bool
        """Whether there are bytes to write. The next frames are taken from the channel only when all earlier bytes have
        gone: a message that is sent meanwhile and may pass others then goes first."""
        if not self._out and self._channel is not None:
            self._out.extend(self._channel.pull())
        return bool(self._out)

    def _sent(self, count):
        # type: (int) -> None
        drop_front(self._out, count)
        self.taken_at = monotonic()

    def _set_writing(self, wanted):
        # type: (bool) -> None
        if wanted is not self._writing:
            self._writing = wanted
            self._loop.want_write(self._stream.socket, wanted)
            self._watch_for_stuck(wanted)

    def _watch_for_stuck(self, wanted):
        # type: (bool) -> None
        """Close the link of a node if the peer takes no bytes. Not that of a worker process: a task may keep the
        worker process from reading for any time."""
        if wanted and self._channel is not None and not self._channel.local:
            self.taken_at = monotonic()
            self._loop.await_progress(self)
        else:
            self._loop.took_all(self)

    # -- in ---------------------------------------------------------------------------------------

    def writable(self):
        # type: () -> None
        if self._stream.is_connecting:
            try:
                self._stream.finish_connecting()
            except (OSError, socket.error) as error:
                self.close(ConnectionFailed("cannot connect to %s: %s" % (self.where, error.strerror)))
                return
        self.write()

    def readable(self):
        # type: () -> bool
        """Read what has arrived. True: there may be more to read."""
        try:
            count = 0
            for _ in range(RECEIVES_PER_CYCLE):
                if not self._unread:
                    data = self._receive() if self._open else None
                    if data is None:
                        return False
                    if not data:
                        self.left_silently = not self._heard
                        raise ConnectionFailed("%s closed the connection" % self.where)
                    self._unread = memoryview(data)
                while self._unread and self._open:
                    size = SLICE_BYTES if self._channel is None else max(SLICE_BYTES, self._channel.lacking)
                    part, self._unread = self._unread[:size], self._unread[size:]
                    count += self._feed(part)
                    if count > MESSAGES_PER_CYCLE:
                        return self._open
                self._unread = self._unread or _NOTHING  # an empty view would keep all of the bytes
                if not self._stream.has_more:
                    return False
            return self._open
        except ConnectionFailed as error:
            self._send_raw(error.reply)
            self.write()
            self.close(error)
        except (OSError, socket.error) as error:
            text = "cannot connect to %s: %s" if self._stream.is_connecting else "the connection to %s broke: %s"
            self.close(ConnectionFailed(text % (self.where, error)))
        return False

    def _receive(self):
        # type: () -> bytes | None
        data = self._stream.receive()
        if self._stream.has_unsent:
            self._loop.write_soon(self)  # TLS answers by itself
        self._advance_tls()
        return data

    def _advance_tls(self):
        # type: () -> None
        """Begin TLS when the handshake wants it. When it stands, the handshake goes on."""
        if not self._handshake.wants_tls:
            return
        if not self._stream.encrypts:
            plain = b"".join(self._out)
            self._out.clear()
            self._stream = self._secured(self._stream.socket, plain, self.where)  # type: ignore[misc]
            self._loop.write_soon(self)
            self.patience += TLS_SECONDS
            self.expires_at += TLS_SECONDS
        elif self._stream.stands:
            shown = self._stream.certificate_hash
            self._send_raw(self._handshake.secured(shown))

    def _feed(self, data):
        # type: (memoryview) -> int
        """Returns how many messages these bytes complete."""
        self._heard = True
        if self._channel is None:
            self._send_raw(self._handshake.receive(data.tobytes()))
            self._advance_tls()
            self._channel = self._handshake.channel
            if self._channel is None:
                return 0
            self.peer = self._handshake.peer
            data = memoryview(self._handshake.leftover())
            self._loop.proved(self)
            if not self._channel.local:
                self._stream.keep_little_unsent(UNSENT_BYTES_MAX)
            self._owner.opened(self)
        if not data:
            return 0  # nothing followed the handshake's last bytes
        messages = self._channel.feed(data)
        if self._open:
            self._owner.received(self, messages)
        return len(messages)

    def failed(self, error):
        # type: (BaseException) -> None
        """Called by the loop when reading or writing raised an unexpected error: only this connection ends."""
        log.exception("the connection to %s is closed: %s", self.where, error)
        self.close(ConnectionFailed("%s: %s" % (type(error).__name__, error)))

    def close(self, error=None):
        # type: (BaseException | None) -> None
        if not self._open:
            return
        self._open = False
        self._loop.drop(self._stream.socket)
        self._stream.close()
        self._out.clear()
        self._unread = _NOTHING
        self._owner.closed(self, error)

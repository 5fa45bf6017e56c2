"""Sockets, a poller, a wake-up and one deadline: moves bytes, knows no job.

::

    Loop.run:  wait until something is readable, writable or due
               read everything that has arrived      -> each connection's owner
               run what other threads asked for
               one step of every participant         (its brain's pass)
               write everything

That order makes batches by itself: whatever came in together is decided and answered together.

What fails is that connection, that call, that step: it is closed or logged, and the loop goes on. Only a brain's broken
invariant (InternalError) ends it; and in the main thread what is no Exception: Ctrl-C, a signal handler's SystemExit.
"""
from __future__ import absolute_import, division, print_function

import errno
import os
import select
import socket
import threading
from collections import deque

from . import protocol  # noqa: F401 # in type comments
from .compat import WINDOWS, in_main_thread, joined, monotonic, socketpair
from .errors import ConnectionFailed, HandshakeTimeout, InternalError
from .logs import log

HANDSHAKE_SECONDS = 5.0
#: Peers that have not proved themselves yet; the oldest goes first (SECURITY.md, "Limits").
HALF_OPEN_MAX = 64
RECEIVE_BYTES = 1 << 18
RECEIVES_PER_CYCLE = 8
#: Buffers a single call may write; POSIX promises at least 16 (IOV_MAX), Linux and macOS have 1024.
BUFFERS_PER_WRITE = 64
JOIN_BYTES_MAX = 1 << 16
BACKLOG = 128
#: Keepalive behind the heartbeats: idle time, interval, probes.
KEEPALIVE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES = 10, 5, 3

#: How long a listener rests when the process has no descriptor or memory left (FAULTS.md 22).
PAUSE_SECONDS = 1.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

#: FD_SETSIZE: of Windows' Pythons a number of sockets, elsewhere one that no descriptor reaches.
SELECT_SOCKETS_MAX, SELECT_DESCRIPTOR_MAX = 512, 1024

_WOULD_BLOCK = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINPROGRESS, errno.EINTR, getattr(errno, "WSAEWOULDBLOCK", -1))


class _Poller(object):
    """epoll, else poll, else select: readiness of file descriptors."""

    def __init__(self):
        # type: () -> None
        self._interest = {}  # type: dict # descriptor -> wants to write
        if hasattr(select, "epoll"):
            self._poll = select.epoll()  # type: select.epoll | select.poll | None
            self._unit, self._read, self._write = 1.0, select.EPOLLIN, select.EPOLLOUT
        elif hasattr(select, "poll"):
            self._poll = select.poll()
            self._unit, self._read, self._write = 1000.0, select.POLLIN, select.POLLOUT
        else:
            self._poll = None  # Windows

    def set(self, descriptor, writing):
        # type: (int, bool) -> None
        known = self._interest.get(descriptor)
        if self._poll is None and known is None:
            self._check_room(descriptor)
        self._interest[descriptor] = writing
        if self._poll is not None and known is not writing:
            mask = self._read | self._write if writing else self._read
            if known is None:
                self._poll.register(descriptor, mask)
            else:
                self._poll.modify(descriptor, mask)

    def _check_room(self, descriptor):
        # type: (int) -> None
        """select() takes so many sockets (Windows), or descriptors below a number; beyond that it always raises."""
        if len(self._interest) >= SELECT_SOCKETS_MAX or not WINDOWS and descriptor >= SELECT_DESCRIPTOR_MAX:
            raise OSError(errno.EMFILE, "this system's select() watches no more than %d sockets" % len(self._interest))

    def drop(self, descriptor):
        # type: (int) -> None
        if self._interest.pop(descriptor, None) is not None and self._poll is not None:
            self._poll.unregister(descriptor)

    def wait(self, seconds):
        # type: (float | None) -> list
        """(descriptor, readable, writable) of those that are ready; an error counts as readable."""
        try:
            if self._poll is None:
                return self._select(seconds)
            ready = self._poll.poll(-1 if seconds is None else _rounded_up(seconds * self._unit, self._unit))
        except (select.error, OSError) as error:
            if error.args[0] == errno.EINTR:  # before 3.5 a signal ends the wait
                return []
            raise
        return [(fd, mask & ~self._write, mask & self._write) for fd, mask in ready]

    def _select(self, seconds):
        # type: (float | None) -> list
        reading = list(self._interest)
        writing = [fd for fd, wanted in self._interest.items() if wanted]
        readable, writable, failed = select.select(reading, writing, writing, seconds)
        ready = set(readable) | set(failed)
        return [(fd, fd in ready, fd in writable) for fd in ready | set(writable)]

    def close(self):
        # type: () -> None
        if hasattr(self._poll, "close"):
            self._poll.close()  # type: ignore[union-attr]


def _rounded_up(amount, unit):
    # type: (float, float) -> float
    # poll() takes whole milliseconds: rounded down it would spin until the deadline.
    return amount if unit == 1.0 else int(amount) + 1


class Loop(object):
    """One thread's I/O. Participants have ``step(now)`` and ``deadline()``; handlers ``failed(error)``, too."""

    def __init__(self):
        # type: () -> None
        self._poller = _Poller()
        self._handlers = {}  # type: dict # descriptor -> object with readable(), writable()
        self._participants = []  # type: list
        self._calls = deque()  # type: deque
        self._later = []  # type: list # (moment, function)
        self._dirty = set()  # type: set # connections with something to write
        self._half_open = []  # type: list # connections before their proof, oldest first
        self._waker, self._wakes = socketpair()
        self._waker.setblocking(False)
        self._wakes.setblocking(False)
        self._awake = False  # or woken: it will see what it is asked for before it waits again
        self._thread = None  # type: int | None
        self._stopping = False
        self._spared = (Exception,)  # type: tuple
        self.add(self._wakes, self)

    # -- from any thread --------------------------------------------------------------------------

    def call(self, function, *arguments):
        # type: (object, *object) -> None
        """Run function(*arguments) in the loop's thread, soon."""
        self._calls.append((function, arguments))
        if not self._awake and self._thread != threading.current_thread().ident:
            self._awake = True
            try:
                self._waker.send(b"w")
            except (OSError, socket.error):
                pass  # full: it is awake; closed: nobody is there to be woken
            except BaseException:  # Ctrl-C: whoever calls next must wake it
                self._awake = False
                raise

    def stop(self):
        # type: () -> None
        self.call(self._stop)

    def _stop(self):
        # type: () -> None
        self._stopping = True

    # -- in its own thread ------------------------------------------------------------------------

    def run(self):
        # type: () -> None
        """Until ``stop``; what is left to write is written as far as the peers take it at once."""
        self._thread = threading.current_thread().ident
        self._spared = (Exception,) if in_main_thread() else (BaseException,)
        while not self._stopping:
            self.cycle()

    def spare(self, function, argument, failed):
        # type: (object, object, object) -> None
        """function(argument); failed(argument, error) if it raises, whatever it raises but a broken invariant."""
        try:
            function(argument)  # type: ignore[operator]
        except InternalError:
            raise
        except self._spared as error:
            failed(argument, error)  # type: ignore[operator]

    def cycle(self):
        # type: () -> None
        self._awake = False
        ready = self._poller.wait(self._seconds_to_wait())
        self._awake = True
        for descriptor, readable, writable in ready:
            handler = self._handlers.get(descriptor)
            if handler is not None and readable:
                self.spare(_readable, handler, _failed)
            if writable and self._handlers.get(descriptor) is handler and handler is not None:
                self.spare(_writable, handler, _failed)
        for _ in range(len(self._calls)):
            self.spare(_call, self._calls.popleft(), _call_failed)
        self.spare(_call, (self._expire_half_open, ()), _call_failed)
        now = monotonic()
        for due in [due for due in self._later if now >= due[0]]:
            self._later.remove(due)
            self.spare(_call, (due[1], ()), _call_failed)
        for participant in list(self._participants):
            self.spare(_call, (participant.step, (now,)), _call_failed)
        while self._dirty:
            self.spare(_write, self._dirty.pop(), _failed)

    def _seconds_to_wait(self):
        # type: () -> float | None
        if self._calls or self._stopping:
            return 0.0
        moments = [participant.deadline() for participant in self._participants]
        moments += [connection.expires_at for connection in self._half_open]
        moments += [moment for moment, _ in self._later]
        moments = [moment for moment in moments if moment is not None]
        return max(0.0, min(moments) - monotonic()) if moments else None

    def _expire_half_open(self):
        # type: () -> None
        now = monotonic()
        while len(self._half_open) > HALF_OPEN_MAX:
            self._half_open[0].close(ConnectionFailed("too many connections that have not proved themselves"))
        for connection in [each for each in self._half_open if now >= each.expires_at]:
            connection.close(HandshakeTimeout("no answer from %s in %.0f s" % (connection.where, HANDSHAKE_SECONDS)))

    def readable(self):
        # type: () -> None
        """The wake-up itself."""
        try:
            self._wakes.recv(4096)
        except (OSError, socket.error):
            pass

    def failed(self, error):
        # type: (BaseException) -> None
        log.error("the loop's wake-up failed: %s", error)

    def add(self, sock, handler):
        # type: (socket.socket, object) -> None
        self._poller.set(sock.fileno(), False)
        self._handlers[sock.fileno()] = handler

    def later(self, seconds, function):
        # type: (float, object) -> None
        self._later.append((monotonic() + seconds, function))

    def want_write(self, sock, wanted):
        # type: (socket.socket, bool) -> None
        self._poller.set(sock.fileno(), wanted)

    def drop(self, sock):
        # type: (socket.socket) -> None
        self._handlers.pop(sock.fileno(), None)
        self._poller.drop(sock.fileno())

    def left(self):
        # type: () -> list
        """After ``run`` has returned: (function, arguments) of the calls that it has not made."""
        return list(self._calls)

    def join(self, participant):
        # type: (object) -> None
        self._participants.append(participant)

    def leave(self, participant):
        # type: (object) -> None
        if participant in self._participants:
            self._participants.remove(participant)

    def close(self):
        # type: () -> None
        """After ``run`` has returned: give the descriptors back."""
        for handler in list(self._handlers.values()):
            if handler is not self:
                self.spare(_close, handler, _failed)
        self._waker.close()
        self._wakes.close()
        self._poller.close()


def _readable(handler):
    # type: (object) -> None
    handler.readable()  # type: ignore[attr-defined]


def _writable(handler):
    # type: (object) -> None
    handler.writable()  # type: ignore[attr-defined]


def _close(handler):
    # type: (object) -> None
    handler.close(None)  # type: ignore[attr-defined]


def _write(connection):
    # type: (Connection) -> None
    connection.write()


def _failed(handler, error):
    # type: (object, BaseException) -> None
    handler.failed(error)  # type: ignore[attr-defined]


def _call(asked):
    # type: (tuple) -> None
    function, arguments = asked
    function(*arguments)


def _call_failed(asked, error):
    # type: (tuple, BaseException) -> None
    log.exception("%r failed, and the rest goes on; please report this", asked[0])


class Connection(object):
    """One TCP connection: handshake, then messages both ways.

    The owner has ``opened(connection)``, ``received(connection, messages)`` and
    ``closed(connection, error)``; error is None when we closed it on purpose.
    """

    def __init__(self, loop, sock, handshake, owner, where, connecting=False):
        # type: (Loop, socket.socket, object, object, str, bool) -> None
        self._loop, self._socket, self._handshake, self._owner = loop, sock, handshake, owner
        self.where = where
        self.peer = None  # type: protocol.Peer | None
        self.about = None  # type: object # the owner's
        self._channel = None  # type: protocol.Channel | None
        self._out = deque()  # type: deque
        self._connecting = connecting
        self._writing = False
        self._open = True
        self.expires_at = monotonic() + HANDSHAKE_SECONDS
        loop.add(sock, self)
        loop._half_open.append(self)
        if connecting:
            self._set_writing(True)
        self._send_raw(handshake.start())  # type: ignore[attr-defined]

    # -- out --------------------------------------------------------------------------------------

    def send(self, message):
        # type: (tuple) -> None
        if self._open and self._channel is not None:
            self._out.extend(self._channel.frame(message))
            self._loop._dirty.add(self)

    def _send_raw(self, data):
        # type: (bytes) -> None
        if data:
            self._out.append(data)
            self._loop._dirty.add(self)

    def write(self):
        # type: () -> None
        if not self._open or self._connecting:
            return
        try:
            while self._out:
                self._sent(self._send_some())
        except (OSError, socket.error) as error:
            if error.errno not in _WOULD_BLOCK:
                self.close(ConnectionFailed("the connection to %s broke: %s" % (self.where, error)))
                return
        self._set_writing(bool(self._out))

    def _send_some(self):
        # type: () -> int
        if len(self._out) == 1 or len(self._out[0]) > JOIN_BYTES_MAX:
            return self._socket.send(self._out[0])
        if hasattr(self._socket, "sendmsg"):
            return self._socket.sendmsg([self._out[n] for n in range(min(len(self._out), BUFFERS_PER_WRITE))])
        small = []
        for buffer in self._out:  # 2.7 and Windows
            if len(buffer) > JOIN_BYTES_MAX:
                break
            small.append(buffer)
        return self._socket.send(joined(small))

    def _sent(self, count):
        # type: (int) -> None
        while self._out and count >= len(self._out[0]):
            count -= len(self._out.popleft())
        if count:
            self._out[0] = memoryview(self._out[0])[count:]

    def _set_writing(self, wanted):
        # type: (bool) -> None
        if wanted is not self._writing:
            self._writing = wanted
            self._loop.want_write(self._socket, wanted)

    # -- in ---------------------------------------------------------------------------------------

    def writable(self):
        # type: () -> None
        if self._connecting:
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.close(ConnectionFailed("cannot connect to %s: %s" % (self.where, os.strerror(code))))
                return
            self._connecting = False
        self.write()

    def readable(self):
        # type: () -> bool
        """Take in what has arrived; True when there may be more."""
        if not self._open:
            return False
        try:
            for _ in range(RECEIVES_PER_CYCLE):
                data = self._socket.recv(RECEIVE_BYTES)
                if not data:
                    raise ConnectionFailed("%s closed the connection" % self.where)
                self._feed(data)
                if not self._open or len(data) < RECEIVE_BYTES:
                    return False
            return True
        except ConnectionFailed as error:
            self._send_raw(getattr(error, "reply", b""))
            self.write()
            self.close(error)
        except (OSError, socket.error) as error:
            if error.errno not in _WOULD_BLOCK:
                text = "cannot connect to %s: %s" if self._connecting else "the connection to %s broke: %s"
                self.close(ConnectionFailed(text % (self.where, error)))
        return False

    def _feed(self, data):
        # type: (bytes) -> None
        if self._channel is None:
            began_at = monotonic()
            self._send_raw(self._handshake.receive(data))  # type: ignore[attr-defined]
            self.expires_at += monotonic() - began_at  # stretching a key (seconds on 2.7) is not the peer's delay
            self._channel = self._handshake.channel  # type: ignore[attr-defined]
            if self._channel is None:
                return
            self.peer = self._handshake.peer  # type: ignore[attr-defined]
            data = self._handshake.leftover()  # type: ignore[attr-defined]
            self._handshake = None
            self._loop._half_open.remove(self)
            self._owner.opened(self)  # type: ignore[attr-defined]
        messages = self._channel.feed(data)
        if messages and self._open:
            self._owner.received(self, messages)  # type: ignore[attr-defined]

    def failed(self, error):
        # type: (BaseException) -> None
        """What came or went here raised: it costs this connection."""
        log.exception("the connection to %s is closed: %s", self.where, error)
        self.close(ConnectionFailed("%s: %s" % (type(error).__name__, error)))

    def close(self, error=None):
        # type: (BaseException | None) -> None
        if not self._open:
            return
        self._open = False
        if self in self._loop._half_open:
            self._loop._half_open.remove(self)
        self._loop.drop(self._socket)
        self._socket.close()
        self._out.clear()
        self._owner.closed(self, error)  # type: ignore[attr-defined]


class Listener(object):
    """Accepts on one port; ``accepted(sock, where)`` makes a Connection of each."""

    def __init__(self, loop, host, port, accepted):
        # type: (Loop, str, int, object) -> None
        self._loop, self._accepted = loop, accepted
        self._open = True
        self._socket = listen(host, port)
        self.port = self._socket.getsockname()[1]
        loop.add(self._socket, self)

    def readable(self):
        # type: () -> None
        while True:
            try:
                sock, address = self._socket.accept()
            except (OSError, socket.error) as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                return  # nobody (left) in the queue, or one that has gone again
            try:
                prepare(sock)
                self._accepted(sock, "%s:%d" % address[:2])  # type: ignore[operator]
            except (OSError, socket.error) as error:
                sock.close()  # gone again, or one too many
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return

    def _pause(self, error):
        # type: (BaseException) -> None
        """What waits stays readable: without a pause the loop would spin, and the running work starve."""
        log.error("port %d takes no connections for %.0f s: %s; running work goes on", self.port, PAUSE_SECONDS, error)
        self._loop.drop(self._socket)
        self._loop.later(PAUSE_SECONDS, self._go_on)

    def failed(self, error):
        # type: (BaseException) -> None
        self._pause(error)

    def _go_on(self):
        # type: () -> None
        if self._open:
            self._loop.add(self._socket, self)

    def close(self, error=None):
        # type: (BaseException | None) -> None
        if self._open:
            self._open = False
            self._loop.drop(self._socket)
            self._socket.close()


def listen(host, port):
    # type: (str, int) -> socket.socket
    """A listening socket. Raises OSError (socket.error on 2.7) that names address and remedy."""
    try:
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
        family, kind, number, _, address = found[0]
        sock = socket.socket(family, kind, number)
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: no name at all, such as "a..b"
        number = getattr(error, "errno", socket.EAI_NONAME)
        raise socket.error(number, "the name %r of HOST cannot be resolved: %s" % (host, error))
    try:
        if os.name == "nt":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)  # type: ignore[attr-defined]
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        return sock
    except (OSError, socket.error) as error:
        sock.close()
        remedy = {
            errno.EADDRINUSE: "another program listens there; PORT=0 takes a free port",
            errno.EADDRNOTAVAIL: "no address of this machine; '0.0.0.0' means all of them",
            errno.EACCES: "ports below 1024 are reserved",
        }.get(error.errno or 0, "")
        raise socket.error(error.errno, "cannot listen on %s:%d: %s (%s)" % (host, port, error.strerror, remedy))


def dial(host, port):
    # type: (str, int) -> socket.socket
    """A socket that is connecting. Raises ConnectionFailed when the name cannot be resolved."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)[0]
    except (OSError, socket.error, UnicodeError) as error:
        raise ConnectionFailed("the name %r cannot be resolved: %s" % (host, error))
    sock = socket.socket(family, kind, number)
    prepare(sock)
    code = sock.connect_ex(address)
    if code and code not in _WOULD_BLOCK:
        sock.close()
        raise ConnectionFailed("cannot connect to %s:%d: %s" % (host, port, os.strerror(code)))
    return sock


def prepare(sock):
    # type: (socket.socket) -> None
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


__all__ = ["Connection", "Listener", "Loop", "dial", "listen", "prepare"]

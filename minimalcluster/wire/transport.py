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

A connection's owner hears of all bytes that arrive, also of a part of a message: they are a sign of life. A peer that
takes no bytes for ``STUCK_SECONDS`` is given up here. Limits for strangers count only the time that was spent waiting
for them, never what this process was held up by itself.
"""
from __future__ import absolute_import, division, print_function

import errno
import os
import select
import socket
import sys
import threading
from collections import Counter, deque

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from ..compat import WINDOWS, in_main_thread, joined, monotonic, socketpair
from ..errors import ConnectionFailed, HandshakeTimeout, InternalError
from ..logs import log
from . import protocol  # noqa: F401 # in type comments
from .addresses import BACKLOG, WOULD_BLOCK, listen, prepare

HANDSHAKE_SECONDS = 5.0
#: Peers of one listener that have not proved themselves yet; of too many the oldest goes, of the address that has most.
#: 1,000 strangers a second leave each a quarter of a second: a round trip, and time to spare.
HALF_OPEN_MAX = 256
#: And no more than this part of the descriptors that the process may have.
HALF_OPEN_SHARE = 4
#: New connections a cycle, so that strangers who call without end do not keep us from the rest.
ACCEPTS_PER_CYCLE = 64
#: A peer that takes nothing for so long is gone, though its own words may still arrive.
STUCK_SECONDS = 10.0
RECEIVE_BYTES = 1 << 18
RECEIVES_PER_CYCLE = 8
#: Buffers a single call may write; POSIX promises at least 16 (IOV_MAX), Linux and macOS have 1024.
BUFFERS_PER_WRITE = 64
JOIN_BYTES_MAX = 1 << 16
#: The kernel may hold so much that is not on its way yet; more would only stand before what has to pass.
UNSENT_BYTES_MAX = 256 << 10
_TCP_NOTSENT_LOWAT = {"linux": 25, "linux2": 25, "darwin": 0x201}.get(sys.platform)  # unnamed before 3.12
#: A program may have set SIGPIPE to end it, as for "| head": that is not for our connections.
_NO_SIGPIPE = getattr(socket, "MSG_NOSIGNAL", 0x4000 if sys.platform.startswith("linux") else 0)

#: How long a listener rests when the process has no descriptor or memory left (FAULTS.md 22).
PAUSE_SECONDS = 1.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

#: FD_SETSIZE: of Windows' Pythons a number of sockets, elsewhere one that no descriptor reaches.
SELECT_SOCKETS_MAX, SELECT_DESCRIPTOR_MAX = 512, 1024


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
        if len(self._interest) >= SELECT_SOCKETS_MAX or (not WINDOWS and descriptor >= SELECT_DESCRIPTOR_MAX):
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
        self._writing = set()  # type: set # connections whose peer has not taken all yet
        self.waited = 0.0  # seconds spent waiting so far: the clock of limits for strangers
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
                self._waker.send(b"w", _NO_SIGPIPE)
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
        ready = self._wait(self._seconds_to_wait())
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
        self.spare(_call, (self._expire_stuck, (now,)), _call_failed)

    def _wait(self, seconds):
        # type: (float | None) -> list
        began_at = monotonic()
        ready = self._poller.wait(seconds)
        passed = monotonic() - began_at
        self.waited += passed if seconds is None else min(passed, seconds)  # longer: this process was stopped
        return ready

    def _seconds_to_wait(self):
        # type: () -> float | None
        if self._calls or self._stopping:
            return 0.0
        moments = [participant.deadline() for participant in self._participants]
        moments += [moment for moment, _ in self._later]
        moments += [connection.taken_at + STUCK_SECONDS for connection in self._writing]
        moments = [moment for moment in moments if moment is not None]
        lengths = [min(moments) - monotonic()] if moments else []
        lengths += [connection.expires_at - self.waited for connection in self._half_open]
        return max(0.0, min(lengths)) if lengths else None

    def _expire_half_open(self):
        # type: () -> None
        for connection in [each for each in self._half_open if self.waited >= each.expires_at]:
            connection.close(HandshakeTimeout("no answer from %s in %.0f s" % (connection.where, connection.patience)))

    def _expire_stuck(self, now):
        # type: (float) -> None
        for connection in [each for each in self._writing if now >= each.taken_at + STUCK_SECONDS]:
            connection.close(ConnectionFailed("%s has taken nothing for %.0f s" % (connection.where, STUCK_SECONDS)))

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
        """Raises OSError when the system watches no more."""
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

    The owner has ``opened(connection)``, ``received(connection, messages)``, also with none of them when only a part
    of one has come, and ``closed(connection, error)``; error is None when we closed it on purpose.
    patience: seconds that we wait for the proof.
    """

    def __init__(self, loop, sock, handshake, owner, where, connecting=False, patience=None):
        # type: (Loop, socket.socket, object, object, str, bool, float | None) -> None
        self._loop, self._socket, self._handshake, self._owner = loop, sock, handshake, owner
        self.where = where
        self.peer = None  # type: protocol.Peer | None
        self.about = None  # type: object # the owner's
        self._channel = None  # type: protocol.Channel | None
        self._out = deque()  # type: deque
        self._connecting = connecting
        self._writing = False
        self._open = True
        self.taken_at = 0.0  # when the peer last took something of what waits
        self.patience = HANDSHAKE_SECONDS if patience is None else patience
        self.expires_at = loop.waited + self.patience
        loop.add(sock, self)
        loop._half_open.append(self)
        if connecting:
            self._set_writing(True)
        self._send_raw(handshake.start())  # type: ignore[attr-defined]

    # -- out --------------------------------------------------------------------------------------

    @property
    def is_open(self):
        # type: () -> bool
        return self._open

    def send(self, message):
        # type: (tuple) -> None
        if self._open and self._channel is not None:
            self._channel.send(message)
            self._loop._dirty.add(self)

    def under_way(self):
        # type: () -> tuple
        """(what waits to be sent, as ``Channel.sending``; bytes that have come of a large message)."""
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
            self._loop._dirty.add(self)

    def write(self):
        # type: () -> None
        if not self._open or self._connecting:
            return
        try:
            while self._has_more():
                self._sent(self._send_some())
        except (OSError, socket.error) as error:
            if error.errno not in WOULD_BLOCK:
                self.close(ConnectionFailed("the connection to %s broke: %s" % (self.where, error)))
                return
        self._set_writing(bool(self._out))

    def _has_more(self):
        # type: () -> bool
        """What has to pass is taken when the last piece has gone, no earlier: then nothing stands before it."""
        if not self._out and self._channel is not None:
            self._out.extend(self._channel.pull())
        return bool(self._out)

    def _send_some(self):
        # type: () -> int
        if len(self._out) == 1 or len(self._out[0]) > JOIN_BYTES_MAX:
            return self._socket.send(self._out[0], _NO_SIGPIPE)
        if hasattr(self._socket, "sendmsg"):
            some = [self._out[n] for n in range(min(len(self._out), BUFFERS_PER_WRITE))]
            return self._socket.sendmsg(some, [], _NO_SIGPIPE)
        small = []
        for buffer in self._out:  # 2.7 and Windows
            if len(buffer) > JOIN_BYTES_MAX:
                break
            small.append(buffer)
        return self._socket.send(joined(small), _NO_SIGPIPE)

    def _sent(self, count):
        # type: (int) -> None
        while self._out and count >= len(self._out[0]):
            count -= len(self._out.popleft())
        if count:
            self._out[0] = memoryview(self._out[0])[count:]
        self.taken_at = monotonic()

    def _set_writing(self, wanted):
        # type: (bool) -> None
        if wanted is not self._writing:
            self._writing = wanted
            self._loop.want_write(self._socket, wanted)
            self._watch_for_stuck(wanted)

    def _watch_for_stuck(self, wanted):
        # type: (bool) -> None
        """Of a node's link; a worker process may be busy for longer."""
        if wanted and self._channel is not None and self._channel.tagged:
            self.taken_at = monotonic()
            self._loop._writing.add(self)
        else:
            self._loop._writing.discard(self)

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
            if error.errno not in WOULD_BLOCK:
                text = "cannot connect to %s: %s" if self._connecting else "the connection to %s broke: %s"
                self.close(ConnectionFailed(text % (self.where, error)))
        return False

    def _feed(self, data):
        # type: (bytes) -> None
        if self._channel is None:
            self._send_raw(self._handshake.receive(data))  # type: ignore[attr-defined]
            self._channel = self._handshake.channel  # type: ignore[attr-defined]
            if self._channel is None:
                return
            self.peer = self._handshake.peer  # type: ignore[attr-defined]
            data = self._handshake.leftover()  # type: ignore[attr-defined]
            self._handshake = None
            self._loop._half_open.remove(self)
            self._keep_little_unsent()
            self._owner.opened(self)  # type: ignore[attr-defined]
        if not data:
            return  # the handshake's end came alone
        messages = self._channel.feed(data)
        if self._open:
            self._owner.received(self, messages)  # type: ignore[attr-defined]

    def failed(self, error):
        # type: (BaseException) -> None
        """What came or went here raised: it costs this connection."""
        log.exception("the connection to %s is closed: %s", self.where, error)
        self.close(ConnectionFailed("%s: %s" % (type(error).__name__, error)))

    def _keep_little_unsent(self):
        # type: () -> None
        if _TCP_NOTSENT_LOWAT is not None and self._channel.tagged:  # type: ignore[union-attr]
            try:
                self._socket.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
            except (OSError, socket.error):
                pass  # an old kernel: what has to pass takes longer there

    def close(self, error=None):
        # type: (BaseException | None) -> None
        if not self._open:
            return
        self._open = False
        self._loop._writing.discard(self)
        if self in self._loop._half_open:
            self._loop._half_open.remove(self)
        self._loop.drop(self._socket)
        self._socket.close()
        self._out.clear()
        self._owner.closed(self, error)  # type: ignore[attr-defined]


class Listener(object):
    """Accepts on one port; ``accepted(sock, where)`` makes a Connection of each, and returns it.

    expected: so many peers of our own may come at once, beside strangers.
    """

    def __init__(self, loop, host, port, accepted, expected=0):
        # type: (Loop, str, int, object, int) -> None
        self._loop, self._accepted, self._expected = loop, accepted, expected
        self._open = True
        self._unproved = []  # type: list # connections, oldest first, and some that have proved themselves since
        self._sockets = listen(host, port, max(BACKLOG, 2 * expected))
        self.port = self._sockets[0].getsockname()[1]
        self._watch()

    def _watch(self):
        # type: () -> None
        for sock in self._sockets:
            self._loop.add(sock, self)

    def readable(self):
        # type: () -> None
        for sock in self._sockets:
            for _ in range(ACCEPTS_PER_CYCLE):
                try:
                    accepted, address = sock.accept()
                except (OSError, socket.error) as error:
                    if error.errno in _EXHAUSTED:
                        self._pause(error)
                        return
                    break  # nobody (left) in the queue, or one that has gone again
                self._take(accepted, "%s:%d" % address[:2])

    def _take(self, sock, where):
        # type: (socket.socket, str) -> None
        try:
            prepare(sock)
            connection = self._accepted(sock, where)  # type: ignore[operator]
        except (OSError, socket.error) as error:
            sock.close()  # gone again, or one too many
            if error.errno in _EXHAUSTED:
                self._pause(error)
            return
        if connection is not None:
            self._unproved.append(connection)
            self._keep_room()

    def _keep_room(self):
        # type: () -> None
        """Strangers of one address push out one another, and no member that comes from elsewhere."""
        most = _half_open_max() + self._expected
        if len(self._unproved) <= most:
            return
        self._unproved = [each for each in self._unproved if each.unproved]
        if len(self._unproved) <= most:
            return
        crowds = Counter(_host_of(each) for each in self._unproved)
        for _ in range(len(self._unproved) - most + most // 16):  # some more, so that not each stranger costs a count
            crowd = crowds.most_common(1)[0][0]
            oldest = next(each for each in self._unproved if _host_of(each) == crowd)
            crowds[crowd] -= 1
            self._unproved.remove(oldest)
            oldest.close(ConnectionFailed("too many connections that have not proved themselves"))

    def _pause(self, error):
        # type: (BaseException) -> None
        """What waits stays readable: without a pause the loop would spin, and the running work starve."""
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


def _half_open_max():
    # type: () -> int
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if resource else 0
    return min(HALF_OPEN_MAX, max(1, soft // HALF_OPEN_SHARE)) if soft > 0 else HALF_OPEN_MAX


def _host_of(connection):
    # type: (Connection) -> str
    return connection.where.rpartition(":")[0]


__all__ = ["Connection", "Listener", "Loop"]

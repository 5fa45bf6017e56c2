"""One thread's I/O, in a fixed rhythm.

::

    Loop.run:  wait until a socket is ready, another thread calls, or a deadline comes
               read everything that has arrived      -> each connection's owner
               run the calls of other threads
               one step of every participant         (one pass of its brain)
               write everything

This order makes batches: all that arrives together is decided in one pass and answered together.

An error ends only the connection, call or step in which it was raised; the loop logs it and goes on. Only two things
end the loop: a broken invariant of a brain (InternalError), and, in the main thread, what is not an Exception (Ctrl-C,
the SystemExit of a signal handler).

A peer that takes no bytes for ``STUCK_SECONDS`` is given up. The time limit for proving the key counts only the time
that this loop spent waiting, so a peer does not fail because this process was busy or stopped.
"""
from __future__ import absolute_import, division, print_function

import errno
import select
import socket
import threading
from collections import deque

from ..compat import WINDOWS, in_main_thread, monotonic, socketpair
from ..errors import ConnectionFailed, HandshakeTimeout, InternalError
from ..logs import log
from .stream import NO_SIGPIPE

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable, Protocol, TypeVar  # novm

    T = TypeVar("T")
    Call = tuple[Callable[..., object], tuple[Any, ...]]  # a function and its arguments

    class Participant(Protocol):
        """What the loop runs: a master, a node."""

        def step(self, now):
            # type: (float) -> None
            """One pass: everything that has arrived since the last one, and what is due."""

        def deadline(self):
            # type: () -> float | None
            """When the next step is due, whatever happens; None: only after something has arrived."""

#: A peer that takes no bytes for this long is given up, even if it still sends some.
STUCK_SECONDS = 10.0

#: FD_SETSIZE: in Python for Windows a number of sockets; elsewhere every descriptor must be below it.
SELECT_SOCKETS_MAX, SELECT_DESCRIPTOR_MAX = 512, 1024


class _Poller(object):
    """Which file descriptors are ready, by epoll, else poll, else select."""

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
        """Raises OSError if select() cannot watch one more: with too many it would raise in every cycle."""
        if len(self._interest) >= SELECT_SOCKETS_MAX or (not WINDOWS and descriptor >= SELECT_DESCRIPTOR_MAX):
            raise OSError(errno.EMFILE, "this system's select() watches no more than %d sockets" % len(self._interest))

    def drop(self, descriptor):
        # type: (int) -> None
        if self._interest.pop(descriptor, None) is not None and self._poll is not None:
            self._poll.unregister(descriptor)

    def wait(self, seconds):
        # type: (float | None) -> list
        """(descriptor, readable, writable) of each that is ready. An error of a descriptor counts as readable."""
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
        close = getattr(self._poll, "close", None)
        if close is not None:
            close()


def _rounded_up(amount, unit):
    # type: (float, float) -> float
    # poll() takes whole milliseconds: rounded down, the loop would spin in the last millisecond before a deadline.
    return amount if unit == 1.0 else int(amount) + 1


class Handler(object):
    """What stands behind a socket: a connection, a listener."""

    # Of those that ``await_proof`` or ``await_progress``:
    where = ""  # the peer, for errors
    patience = 0.0  # seconds for the proof of the key
    expires_at = 0.0  # by ``Loop.waited``: until then the key is to be proved
    taken_at = 0.0  # when the peer last took some of the bytes that wait to be sent

    def readable(self):
        # type: () -> bool
        """Read what has arrived. True: there may be more than the poller sees, so the next cycle calls it again."""
        raise NotImplementedError

    def writable(self):
        # type: () -> None
        """Called for those that ``want_write``."""

    def write(self):
        # type: () -> None
        """Write as much as the peer takes at once. Called after ``write_soon``."""

    def failed(self, error):
        # type: (BaseException) -> None
        """One of the others has raised an error that nobody expected."""
        raise NotImplementedError

    def close(self, error=None):
        # type: (BaseException | None) -> None
        raise NotImplementedError


class _WakeUp(Handler):
    """By a pair of sockets other threads wake the loop."""

    def __init__(self):
        # type: () -> None
        self._far, self.socket = socketpair()
        self._far.setblocking(False)
        self.socket.setblocking(False)

    def ring(self):
        # type: () -> None
        try:
            self._far.send(b"w", NO_SIGPIPE)
        except (OSError, socket.error):
            pass  # full: the loop has a wake-up to read; closed: the loop has ended

    def readable(self):
        # type: () -> bool
        try:
            self.socket.recv(4096)
        except (OSError, socket.error):
            pass
        return False

    def failed(self, error):
        # type: (BaseException) -> None
        log.error("the loop's wake-up failed: %s", error)

    def close(self, error=None):
        # type: (BaseException | None) -> None
        self._far.close()
        self.socket.close()


class Loop(object):
    """One thread's I/O. ``call`` and ``stop`` are for any thread, everything else for the loop's own."""

    def __init__(self):
        # type: () -> None
        self._poller = _Poller()
        self._handlers = {}  # type: dict[int, Handler] # by descriptor
        self._participants = []  # type: list[Participant]
        self._calls = deque()  # type: deque[Call]
        self._later = []  # type: list[tuple[float, Callable[[], object]]] # (moment, function)
        self._unread = []  # type: list[Handler] # those whose ``readable`` returned True in the last cycle
        self._dirty = set()  # type: set[Handler] # connections with something to write
        self._unproved = []  # type: list[Handler] # connections that have not proved the key yet, oldest first
        self._writing = set()  # type: set[Handler] # connections whose peer has not taken all bytes yet
        self.waited = 0.0  # seconds spent waiting so far: the clock by which the proof of the key has a limit
        self._wake_up = _WakeUp()
        self._awake = False  # True: the loop runs ``_calls`` before it waits again, so nobody has to wake it
        self._thread = None  # type: int | None
        self._stopping = False
        self._spared = (Exception,)  # type: tuple
        self.add(self._wake_up.socket, self._wake_up)

    # -- from any thread --------------------------------------------------------------------------

    def call(self, function, *arguments):
        # type: (Callable[..., object], *object) -> None
        """Run function(*arguments) in the loop's thread, soon."""
        self._calls.append((function, arguments))
        if not self._awake and self._thread != threading.current_thread().ident:
            self._awake = True
            try:
                self._wake_up.ring()
            except BaseException:  # Ctrl-C before the byte was sent: the next call must wake the loop
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
        """Run until ``stop``. The last cycle writes as much as the peers take at once."""
        self._thread = threading.current_thread().ident
        self._spared = (Exception,) if in_main_thread() else (BaseException,)
        while not self._stopping:
            self.cycle()

    def spare(self, function, argument, failed):
        # type: (Callable[[T], object], T, Callable[[T, BaseException], object]) -> None
        """Call function(argument); if it raises, call failed(argument, error) and go on. InternalError is raised."""
        try:
            function(argument)
        except InternalError:
            raise
        except self._spared as error:
            failed(argument, error)

    def cycle(self):
        # type: () -> None
        self._awake = False
        ready = self._wait(self._seconds_to_wait())
        self._awake = True
        unread, self._unread = self._unread, []
        for each in unread:
            self.spare(self._read, each, _failed)
        for descriptor, readable, writable in ready:
            handler = self._handlers.get(descriptor)
            if handler is not None and readable:
                self.spare(self._read, handler, _failed)
            if writable and self._handlers.get(descriptor) is handler and handler is not None:
                self.spare(_writable, handler, _failed)
        for _ in range(len(self._calls)):
            self.spare(_call, self._calls.popleft(), _call_failed)
        self.spare(_call, (self._expire_unproved, ()), _call_failed)
        now = monotonic()
        for due in [due for due in self._later if now >= due[0]]:
            self._later.remove(due)
            self.spare(_call, (due[1], ()), _call_failed)
        for participant in list(self._participants):
            self.spare(_call, (participant.step, (now,)), _call_failed)
        while self._dirty:
            self.spare(_write, self._dirty.pop(), _failed)
        self.spare(_call, (self._expire_stuck, (now,)), _call_failed)

    def _read(self, handler):
        # type: (Handler) -> None
        if handler.readable() and handler not in self._unread:
            self._unread.append(handler)

    def _wait(self, seconds):
        # type: (float | None) -> list
        began_at = monotonic()
        ready = self._poller.wait(seconds)
        passed = monotonic() - began_at
        self.waited += passed if seconds is None else min(passed, seconds)  # more passes if this process was stopped
        return ready

    def _seconds_to_wait(self):
        # type: () -> float | None
        if self._calls or self._unread or self._stopping:
            return 0.0
        deadlines = [participant.deadline() for participant in self._participants]
        moments = [moment for moment in deadlines if moment is not None]
        moments += [moment for moment, _ in self._later]
        moments += [connection.taken_at + STUCK_SECONDS for connection in self._writing]
        lengths = [min(moments) - monotonic()] if moments else []
        lengths += [connection.expires_at - self.waited for connection in self._unproved]
        return max(0.0, min(lengths)) if lengths else None

    def _expire_unproved(self):
        # type: () -> None
        for connection in [each for each in self._unproved if self.waited >= each.expires_at]:
            connection.close(HandshakeTimeout("no answer from %s in %.0f s" % (connection.where, connection.patience)))

    def _expire_stuck(self, now):
        # type: (float) -> None
        for connection in [each for each in self._writing if now >= each.taken_at + STUCK_SECONDS]:
            connection.close(ConnectionFailed("%s has taken nothing for %.0f s" % (connection.where, STUCK_SECONDS)))

    def add(self, sock, handler):
        # type: (socket.socket, Handler) -> None
        """Watch a socket. Raises OSError if the system can watch no more."""
        self._poller.set(sock.fileno(), False)
        self._handlers[sock.fileno()] = handler

    def later(self, seconds, function):
        # type: (float, Callable[[], object]) -> None
        """Call function() in this thread after so many seconds."""
        self._later.append((monotonic() + seconds, function))

    # -- for connections --------------------------------------------------------------------------

    def write_soon(self, connection):
        # type: (Handler) -> None
        """Call the connection's ``write`` at the end of this cycle."""
        self._dirty.add(connection)

    def await_proof(self, connection):
        # type: (Handler) -> None
        """Close the connection when ``waited`` reaches its ``expires_at``, unless ``proved`` is called first."""
        self._unproved.append(connection)

    def proved(self, connection):
        # type: (Handler) -> None
        self._unproved.remove(connection)

    def await_progress(self, connection):
        # type: (Handler) -> None
        """Close the connection ``STUCK_SECONDS`` after its ``taken_at``, unless its peer takes something."""
        self._writing.add(connection)

    def took_all(self, connection):
        # type: (Handler) -> None
        self._writing.discard(connection)

    def want_write(self, sock, wanted):
        # type: (socket.socket, bool) -> None
        self._poller.set(sock.fileno(), wanted)

    def drop(self, sock):
        # type: (socket.socket) -> None
        """Stop watching a socket; its handler is not called any more."""
        handler = self._handlers.pop(sock.fileno(), None)
        self._poller.drop(sock.fileno())
        if handler is None:
            return
        self._writing.discard(handler)
        for waiting in (self._unproved, self._unread):
            if handler in waiting:
                waiting.remove(handler)

    def left(self):
        # type: () -> list[Call]
        """After ``run`` has returned: (function, arguments) of the calls that were not made."""
        return list(self._calls)

    def join(self, participant):
        # type: (Participant) -> None
        self._participants.append(participant)

    def leave(self, participant):
        # type: (Participant) -> None
        if participant in self._participants:
            self._participants.remove(participant)

    def close(self):
        # type: () -> None
        """After ``run`` has returned: close all handlers and sockets."""
        for handler in list(self._handlers.values()):
            self.spare(_close, handler, _failed)
        self._wake_up.close()
        self._poller.close()


def _writable(handler):
    # type: (Handler) -> None
    handler.writable()


def _close(handler):
    # type: (Handler) -> None
    handler.close(None)


def _write(connection):
    # type: (Handler) -> None
    connection.write()


def _failed(handler, error):
    # type: (Handler, BaseException) -> None
    handler.failed(error)


def _call(call):
    # type: (Call) -> None
    function, arguments = call
    function(*arguments)


def _call_failed(call, error):
    # type: (Call, BaseException) -> None
    log.exception("%r failed, and the rest goes on; please report this", call[0])

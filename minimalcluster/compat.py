"""Every difference between the Pythons (2.7, 3.6 to 3.14) and the systems, under Python 3's names.

Outside of this file a branch on a version carries the marker ``# py2`` so that grep finds it.
"""
from __future__ import absolute_import, division, print_function

import binascii
import errno
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from functools import partial

from . import cgroups
from .errors import StateError

PY2 = sys.version_info[0] == 2
WINDOWS = os.name == "nt"

if PY2:  # py2
    from collections import OrderedDict as ordered_dict

    import cPickle as pickle  # type: ignore[import-not-found] # novm
    import Queue as queue  # type: ignore[import-not-found] # novm

    text_type = unicode  # type: ignore[name-defined] # noqa: F821
    range_type = xrange  # type: ignore[name-defined] # noqa: F821
    integer_types = (int, long)  # type: ignore[name-defined] # noqa: F821 # novm
    # The only wall-clock-proof clocks there: ticks since boot, and Windows' performance counter.
    monotonic = time.clock if WINDOWS else (lambda: os.times()[4])  # type: ignore[attr-defined]
    # Durations of a few microseconds matter more here than jumps of the wall clock.
    perf_counter = time.time
else:
    import pickle
    import queue  # novm

    ordered_dict = dict
    text_type = str
    range_type = range
    integer_types = (int,)
    # Programs freeze the clock in their tests: they put another one in place of ``time.monotonic``, and of all that is
    # the same object elsewhere. Silence and deadlines go on all the same, so these are objects of our own.
    _linux = sys.platform.startswith("linux")  # both are this clock there, also where they are frozen already
    monotonic = partial(time.clock_gettime, time.CLOCK_MONOTONIC) if _linux else partial(time.monotonic)  # novm
    perf_counter = monotonic if _linux else partial(time.perf_counter)  # novm

#: What every supported Python of the same major version can read (PEP 3154: 3.4 and later).
PICKLE_PROTOCOL = min(pickle.HIGHEST_PROTOCOL, 4)

#: The newest one this Python has, for data whose readers have said what they can read.
PICKLE_PROTOCOL_MAX = pickle.HIGHEST_PROTOCOL

#: 3.12.0 and 3.12.1 start no thread while the interpreter ends, though work goes on (gh-113964): they want it earlier.
STARTS_THREADS_AT_EXIT = not (3, 12) <= sys.version_info[:3] < (3, 12, 2)

#: What ``lock_file`` says: it is ours; somebody else has it; this file system cannot lock.
LOCKED, TAKEN, NO_LOCKS = "locked", "taken", "no locks"
_TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK) if WINDOWS else (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, getattr(errno, "ENOTSUP", errno.EOPNOTSUPP))

#: Types whose values always survive a pickle, one by one or by the thousand.
SCALARS = frozenset([bool, int, float, complex, bytes, text_type, type(None)]) | frozenset(integer_types)

#: What replaces parts of the standard library with its own, how it is asked, and with which of them we do not work.
_PATCHERS = (
    ("gevent", "gevent.monkey", "is_module_patched", ("threading", "select", "subprocess", "queue", "socket", "os")),
    ("eventlet", "eventlet.patcher", "is_monkey_patched", ("thread",)),
)
#: Taken here, so that no task's monkey_patch changes what a worker process waits with.
_allocate_lock = threading.Lock

__all__ = [
    "LOCKED", "NO_LOCKS", "PICKLE_PROTOCOL", "PICKLE_PROTOCOL_MAX", "PY2", "SCALARS", "STARTS_THREADS_AT_EXIT",
    "TAKEN", "WINDOWS", "Mailbox", "as_bytes", "as_text", "cpu_count", "forbid_patched_threads", "hexadecimal",
    "in_main_thread", "integer_types", "joined", "lock_file", "monotonic", "native", "ordered_dict", "perf_counter",
    "pickle", "queue", "raise_from", "range_type", "socketpair", "standard_library", "text_type", "unlock_file",
    "write_quietly",
]  # fmt: skip


class _Mailbox(object):
    """A queue with one reader, which holds no lock that Ctrl-C, or a ``put`` in the middle of another one, could meet.

    From 3.7 to 3.12 queue.SimpleQueue.get(timeout) waits for ever when its time has passed before it has begun
    to wait: a short one often, any one when the machine pauses just there.
    """

    def __init__(self):
        # type: () -> None
        self._items = deque()  # type: deque
        self._news = _allocate_lock()  # free: something may have come
        self._news.acquire()

    def put(self, item):
        # type: (object) -> None
        self._items.append(item)
        try:
            self._news.release()
        except RuntimeError:
            pass  # it is free already

    def get(self, block=True, timeout=None):
        # type: (bool, float | None) -> object
        """The oldest. Raises queue.Empty when there is none within so many seconds."""
        if not block:
            timeout = 0.0
        until = None if timeout is None else monotonic() + timeout
        while not self._items:
            seconds = -1 if until is None else max(0.0, until - monotonic())
            if not self._news.acquire(True, seconds) and not self._items:  # novm
                raise queue.Empty
        return self._items.popleft()

    def empty(self):
        # type: () -> bool
        return not self._items

    def qsize(self):
        # type: () -> int
        return len(self._items)


#: 2.7's locks cannot be waited for with a timeout, and its queue.Queue is none of those that fail.
Mailbox = queue.Queue if PY2 else _Mailbox  # type: type[queue.Queue] # type: ignore[assignment] # py2


def as_bytes(value):
    # type: (object) -> bytes
    """Text as UTF-8, bytes as they are."""
    if isinstance(value, text_type):
        return value.encode("utf-8")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    raise TypeError("expected text or bytes, not %s" % type(value).__name__)


def as_text(value):
    # type: (object) -> str
    """Text for JSON: on 2.7 that is unicode."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value  # type: ignore[return-value]


def in_main_thread():
    # type: () -> bool
    """Whether signals, and so Ctrl-C, come in the thread that asks."""
    return isinstance(threading.current_thread(), threading._MainThread)  # type: ignore[attr-defined]


def hexadecimal(data):
    # type: (bytes) -> str
    return native(binascii.hexlify(data))


def native(value):
    # type: (object) -> str
    """Text or bytes as this Python's ``str``; what cannot be shown is escaped."""
    if PY2:  # py2
        return value.encode("utf-8") if isinstance(value, text_type) else value
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value  # type: ignore[return-value]


def joined(buffers):
    # type: (object) -> bytes
    """One bytes object of several bytes-like ones; 2.7 can neither join memoryviews nor turn them into bytes."""
    if PY2:  # py2
        return b"".join([each.tobytes() if isinstance(each, memoryview) else bytes(each) for each in buffers])  # type: ignore[attr-defined]
    return b"".join(buffers)  # type: ignore[arg-type]


def write_quietly(file, data):
    # type: (object, bytes) -> None
    """Write to a pipe whose reader may be gone. OSError then, and no SIGPIPE, which a program may let end it."""
    write = file.write  # type: ignore[attr-defined]
    if WINDOWS:
        write(data)
    elif PY2:  # py2: no masks there; who looks first meets a reader that ends in this very moment only
        poll = select.poll()
        poll.register(file, select.POLLOUT)  # type: ignore[arg-type]
        if any(mask & select.POLLERR for _, mask in poll.poll(0)):
            raise IOError(errno.EPIPE, os.strerror(errno.EPIPE))
        write(data)
    else:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])  # novm
        try:
            write(data)
        finally:
            if signal.SIGPIPE not in before and signal.SIGPIPE in signal.sigpending():  # novm
                signal.sigwait([signal.SIGPIPE])  # novm
            signal.pthread_sigmask(signal.SIG_SETMASK, before)  # novm


def raise_from(error, cause):
    # type: (BaseException, BaseException) -> None
    """``raise error from cause``, which 2.7 cannot parse."""
    error.__cause__ = cause
    raise error


def forbid_patched_threads():
    # type: () -> None
    """Of gevent and eventlet: with their threads no master's or node's loop ever comes to its turn."""
    for library, module, question, needed in _PATCHERS:
        patcher = sys.modules.get(module)
        patched = [name for name in needed if patcher is not None and getattr(patcher, question)(name)]
        if patched:
            raise StateError(
                "%s has replaced what a cluster's threads need (%s): make the cluster in a process of its own, or "
                "leave these out of its monkey_patch" % (library, ", ".join(patched))
            )


def cpu_count():
    # type: () -> int
    """Processors this process may use (at least 1): as Python was told, else by affinity and its container's quota."""
    count = _processors()
    if getattr(os, "process_cpu_count", _processors) is getattr(os, "cpu_count", None):
        return count  # since 3.13 it can be told: -X cpu_count, PYTHON_CPU_COUNT
    quota = cgroups.quota()
    return count if quota is None else max(1, min(count, int(-(-quota // 1))))


def _processors():
    # type: () -> int
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1  # novm
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1  # novm
    if hasattr(os, "cpu_count"):
        return os.cpu_count() or 1  # novm
    if WINDOWS:  # py2
        return int(os.environ.get("NUMBER_OF_PROCESSORS", "1"))
    return max(1, os.sysconf("SC_NPROCESSORS_ONLN"))  # py2


def lock_file(file, wait=False):
    # type: (object, bool) -> str
    """LOCKED until it is closed, also by the end of the process; else TAKEN or NO_LOCKS. Raises OSError."""
    try:
        if WINDOWS:
            import msvcrt

            how = msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK  # type: ignore[attr-defined]
            msvcrt.locking(file.fileno(), how, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))  # type: ignore[attr-defined]
    except (OSError, IOError) as error:
        if error.errno in _NO_LOCKS:
            return NO_LOCKS
        if error.errno in _TAKEN:
            return TAKEN
        raise
    return LOCKED


def unlock_file(file):
    # type: (object) -> None
    """A process that was forked meanwhile has the file open too, and would keep the lock."""
    if not WINDOWS:
        import fcntl

        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_UN)  # type: ignore[attr-defined]
        except (OSError, IOError):
            pass  # where there are no locks


def socketpair():
    # type: () -> tuple
    """Two connected sockets; 2.7 on Windows has no such call, so there over loopback."""
    if hasattr(socket, "socketpair"):
        return socket.socketpair()
    listener = socket.socket()  # py2
    try:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        ours = socket.create_connection(listener.getsockname())
        theirs, address = listener.accept()
        if address != ours.getsockname():
            ours.close()
            theirs.close()
            raise OSError("a stranger connected to our wake-up socket")
        return ours, theirs
    finally:
        listener.close()


def standard_library():
    # type: () -> frozenset
    """Names of its modules, without what lies below packages. Before 3.10: those that are there on this machine."""
    names = getattr(sys, "stdlib_module_names", None)
    if names is None:
        folder = os.path.dirname(os.path.abspath(os.__file__))
        names = set(sys.builtin_module_names)
        for each in (folder, os.path.join(folder, "lib-dynload")):
            names.update(name.partition(".")[0] for name in (os.listdir(each) if os.path.isdir(each) else ()))
    return frozenset(names)

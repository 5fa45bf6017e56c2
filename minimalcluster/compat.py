"""The differences between the Pythons (2.7, 3.6 to 3.14) and between systems, under Python 3's names.

Outside of this file, a branch for 2.7 has the comment ``# py2``, so that grep finds it.
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

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import IO, Any, Iterable  # noqa: F401 # novm

# Spelled out: mypy then knows that it need not look at what 2.7 alone has.
if sys.version_info[0] == 2:  # py2
    from collections import OrderedDict as ordered_dict

    import cPickle as pickle  # novm
    import Queue as queue  # novm

    text_type = unicode  # noqa: F821
    range_type = xrange  # noqa: F821
    integer_types = (int, long)  # noqa: F821 # novm
    # The only clocks of 2.7 that do not jump with the wall clock: Windows' performance counter, ticks since boot.
    monotonic = time.clock if WINDOWS else (lambda: os.times()[4])
    # For perf_counter, a resolution of microseconds matters more than jumps of the wall clock.
    perf_counter = time.time
else:
    import pickle
    import queue  # novm

    ordered_dict = dict
    text_type = str
    range_type = range
    integer_types = (int,)
    # Tests of programs freeze the clock: they replace ``time.monotonic``, and every variable that is the same object.
    # Our heartbeats and deadlines need real time, so these two are objects of our own.
    _linux = sys.platform.startswith("linux")  # both are this clock there; it works even if time.monotonic is frozen
    monotonic = partial(time.clock_gettime, time.CLOCK_MONOTONIC) if _linux else partial(time.monotonic)  # novm
    perf_counter = monotonic if _linux else partial(time.perf_counter)  # novm

#: Every supported Python of the same major version can read this protocol (PEP 3154: 3.4 and later).
PICKLE_PROTOCOL = min(pickle.HIGHEST_PROTOCOL, 4)

#: The newest protocol of this Python, for data whose readers have said that they can read it.
PICKLE_PROTOCOL_MAX = pickle.HIGHEST_PROTOCOL

#: False: the interpreter starts no thread at its end (gh-113964), so threads that are needed then are started earlier.
STARTS_THREADS_AT_EXIT = not (3, 12) <= sys.version_info[:3] < (3, 12, 2)

#: Results of ``lock_file``: locked now; another process has the lock; this file system has no locks.
LOCKED, TAKEN, NO_LOCKS = "locked", "taken", "no locks"
_TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK) if WINDOWS else (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, getattr(errno, "ENOTSUP", errno.EOPNOTSUPP))

#: Types whose values can always be pickled and unpickled.
SCALARS = frozenset([bool, int, float, complex, bytes, text_type, type(None)]) | frozenset(integer_types)

#: Libraries that replace modules of the standard library: how to ask them, and which replacements we cannot work with.
_PATCHERS = (
    ("gevent", "gevent.monkey", "is_module_patched", ("threading", "select", "subprocess", "queue", "socket", "os")),
    ("eventlet", "eventlet.patcher", "is_monkey_patched", ("thread",)),
)
#: Kept here, so that a monkey_patch in a task does not change the locks of the worker process.
_allocate_lock = threading.Lock

__all__ = [
    "LOCKED", "NO_LOCKS", "PICKLE_PROTOCOL", "PICKLE_PROTOCOL_MAX", "PY2", "SCALARS", "STARTS_THREADS_AT_EXIT",
    "TAKEN", "WINDOWS", "Mailbox", "as_bytes", "as_text", "cpu_count", "forbid_patched_threads", "hexadecimal",
    "in_main_thread", "integer_types", "joined", "lock_file", "monotonic", "native", "ordered_dict", "perf_counter",
    "pickle", "queue", "raise_from", "range_type", "socketpair", "standard_library", "text_type", "unlock_file",
    "write_quietly",
]  # fmt: skip


class Mailbox(object):
    """A queue with one reader. It holds no lock, so Ctrl-C at any point, or a ``put`` inside another, cannot block it.

    It is not queue.SimpleQueue, whose get(timeout) from 3.7 to 3.12 may wait for ever: if the timeout is over before it
    begins to wait. That is often so with a short timeout, and with any if the machine pauses just then.
    """

    def __init__(self):
        # type: () -> None
        self._items = deque()  # type: deque[object]
        self._news = _allocate_lock()  # released: there may be an item
        self._news.acquire()

    def put(self, item):
        # type: (object) -> None
        self._items.append(item)
        try:
            self._news.release()
        except RuntimeError:
            pass  # it is released already

    def get(self, block=True, timeout=None):
        # type: (bool, float | None) -> Any
        """The oldest item. Raises queue.Empty if there is none within ``timeout`` seconds."""
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


if sys.version_info[0] == 2:  # py2
    # A lock of 2.7 has no timeout; its queue.Queue does not have the problem of SimpleQueue.
    Mailbox = queue.Queue


def as_bytes(value):
    # type: (object) -> bytes
    """Text as UTF-8; bytes unchanged. Raises TypeError for anything else."""
    if isinstance(value, text_type):
        return value.encode("utf-8")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    raise TypeError("expected text or bytes, not %s" % type(value).__name__)


def as_text(value):
    # type: (bytes | str) -> str
    """Text for JSON, which is unicode on 2.7."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def in_main_thread():
    # type: () -> bool
    """Whether the caller is in the main thread, which receives signals such as Ctrl-C."""
    return isinstance(threading.current_thread(), threading._MainThread)  # type: ignore[attr-defined]


def hexadecimal(data):
    # type: (bytes) -> str
    return native(binascii.hexlify(data))


def native(value):
    # type: (bytes | str) -> str
    """Text or bytes as this Python's ``str``; bytes that are not UTF-8 are escaped."""
    if sys.version_info[0] == 2:  # py2
        return value.encode("utf-8") if isinstance(value, text_type) else value
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def joined(buffers):
    # type: (Iterable[bytes | memoryview]) -> bytes
    """Several bytes-like objects as one bytes object. 2.7 can neither join memoryviews nor convert them by bytes()."""
    if sys.version_info[0] == 2:  # py2
        return b"".join([each.tobytes() if isinstance(each, memoryview) else bytes(each) for each in buffers])
    return b"".join(buffers)


def write_quietly(file, data):
    # type: (IO[bytes], bytes) -> None
    """Write to a pipe. If its reader has ended: raises OSError, without a SIGPIPE, which might end the program."""
    write = file.write
    if WINDOWS:
        write(data)
    elif PY2:  # py2: it cannot block signals. Ask first; only if the reader ends just now, SIGPIPE comes
        poll = select.poll()
        poll.register(file.fileno(), select.POLLOUT)
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
    """Raise StateError if gevent or eventlet has replaced threads: with theirs, a loop's thread never runs."""
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
    """The number of processors for this process, at least 1: Python's option for it, else by affinity and quota."""
    count = _processors()
    if getattr(os, "process_cpu_count", _processors) is getattr(os, "cpu_count", None):
        return count  # since 3.13 the user can set it: -X cpu_count, PYTHON_CPU_COUNT
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
    # type: (IO[Any], bool) -> str
    """Lock an open file. LOCKED: until it is closed or the process ends; else TAKEN or NO_LOCKS. Raises OSError."""
    try:
        if sys.platform == "win32":
            import msvcrt

            how = msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK
            msvcrt.locking(file.fileno(), how, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (OSError, IOError) as error:
        if error.errno in _NO_LOCKS:
            return NO_LOCKS
        if error.errno in _TAKEN:
            return TAKEN
        raise
    return LOCKED


def unlock_file(file):
    # type: (IO[Any]) -> None
    """Unlock before closing: a process that was forked meanwhile also has the file open, and would keep the lock."""
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_UN)
        except (OSError, IOError):
            pass  # this file system has no locks


def socketpair():
    # type: () -> tuple
    """Two connected sockets. Over loopback TCP for 2.7 on Windows, which has no socket.socketpair."""
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
    """Top-level names of the standard library. Before 3.10: those that this machine has."""
    names = getattr(sys, "stdlib_module_names", None)
    if names is None:
        folder = os.path.dirname(os.path.abspath(os.__file__))
        names = set(sys.builtin_module_names)
        for each in (folder, os.path.join(folder, "lib-dynload")):
            names.update(name.partition(".")[0] for name in (os.listdir(each) if os.path.isdir(each) else ()))
    return frozenset(names)

"""A worker process: it runs the user's code, nothing else.

::

    node --Grant--> reader thread --queue--> main thread: runs tasks in blocks --Done--> node
         --Revoke-> reader thread: gives back the tasks that the main thread has not begun

* It is a fresh interpreter. On its standard input it reads how to connect to its node, and the key of that connection;
  its arguments and environment variables hold no secret.
* User code may use file descriptors 0 to 2 as usual: 0 is empty, 1 and 2 lead to the node.
* It ends with its node, in two ways. The reader thread sees the connection close. And where the system has SIGIO, the
  kernel sends that when the pipe of the standard input closes: this works also while C code holds the interpreter's
  lock.
* How it runs the tasks of a chunk is in ``chunks.py``.
"""
from __future__ import absolute_import, division, print_function

import io
import json
import os
import signal
import socket
import sys
import threading

from ..compat import PICKLE_PROTOCOL, PICKLE_PROTOCOL_MAX, PY2, Mailbox, joined
from ..errors import StateError
from ..payload import shares
from ..wire import checks, frames, handshakes, protocol  # noqa: F401 # frames in a type comment
from . import boot
from .chunks import WATCH_SECONDS, ChunkRunner, Known

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable, Iterable, Iterator, TextIO  # noqa: F401 # novm

    Failure = tuple[dict[str, Any], list[Any]]  # an exception for a message: (info, buffers)

RECEIVE_BYTES = 1 << 18
JOIN_BYTES_MAX = 1 << 16


#: Each message that a worker process gets -> the method that takes it: at once in the reader thread, or when the main
#: thread comes to it. The simulation's worker processes, and the places of an engine, have the same messages.
READ = {
    protocol.Revoke: "_give_back",
    protocol.Fetched: "_fetched",
    protocol.Drop: "_drop_shared",
}  # type: dict[type, str]
SERVED = {
    protocol.DefineJob: "_define",
    protocol.Grant: "_grant",
    protocol.ForgetJob: "_forget",
    protocol.Farewell: "_leave",
}  # type: dict[type, str]


class Worker(object):
    """Runs the tasks that come over one connection to the node, until it closes."""

    def __init__(self, connection, channel):
        # type: (socket.socket, frames.Channel) -> None
        self._socket, self._channel = connection, channel
        self._inbox = Mailbox()
        self._send_lock = threading.Lock()
        self._fetch_lock = threading.Lock()  # guards ``_fetches``
        self._fetches = {}  # type: dict[int, Mailbox] # request -> where its answer goes
        self._next_fetch = 1
        self._pid = os.getpid()
        self._known = Known(self.fetch)
        self.runner = ChunkRunner(self._known, self._send)
        self._chunks = 0  # how many chunks were run for jobs with a "leave_after"
        self.is_leaving = False  # the main thread ends the process: the reader must not
        self._is_done = False  # the last chunk for this process has come

    # -- reader thread ----------------------------------------------------------------------------

    def read(self):
        # type: () -> None
        try:
            while True:
                data = self._socket.recv(RECEIVE_BYTES)
                if not data:
                    break
                for message in self._channel.feed(data):
                    self.take(message)
        finally:
            # The node is gone, or sends malformed messages: no result can be delivered any more.
            if not self.is_leaving:
                os._exit(0)

    def take(self, message):
        # type: (tuple) -> None
        """Also of the messages that came with the end of the handshake, before this thread began."""
        checks.check(message, checks.MASTER)
        name = READ.get(type(message))
        if name is None:
            self._inbox.put(message)
        else:
            getattr(self, name)(message)

    def _fetched(self, message):
        # type: (protocol.Fetched) -> None
        self._fetches.pop(message.request).put(message)

    def _drop_shared(self, message):
        # type: (protocol.Drop) -> None
        self._known.shared.pop(message.info["name"], None)

    def _give_back(self, message):
        # type: (protocol.Revoke) -> None
        self.runner.give_back(message.attempt)

    # -- any thread -------------------------------------------------------------------------------

    def fetch(self, what, name):
        # type: (str, str) -> tuple
        """Ask the master, through the node, and wait for the answer: (info, buffers).

        what: the kind of thing ("module", "share", ...). Raises StateError in a process that a task has forked.
        """
        if os.getpid() != self._pid:
            raise StateError("a process that a task has forked cannot ask the master for anything")
        answer = Mailbox()
        with self._fetch_lock:
            request = self._next_fetch
            self._next_fetch += 1
            self._fetches[request] = answer
        self._send(protocol.Fetch(request, {"what": what, "name": name, "pickle": PICKLE_PROTOCOL_MAX}))
        fetched = answer.get()  # type: protocol.Fetched
        return fetched.info, fetched.payload

    # -- main thread ------------------------------------------------------------------------------

    def serve(self):
        # type: () -> None
        finders = sys.meta_path  # type: list[Any] # its type asks for more than finders have to be
        finders.insert(0, self._known.finder)
        shares.resolver, shares.in_worker_process = self._known.resolve, True
        while not (self.is_leaving or self._is_done):
            message = self._inbox.get()
            getattr(self, SERVED[type(message)])(message)
            message = None  # free its payload before waiting for the next message

    def _grant(self, grant):
        # type: (protocol.Grant) -> None
        if self._is_last(grant.job):
            self._is_done = True
            self._send(protocol.Leaving())
        self.runner.run(grant)

    def _leave(self, message):
        # type: (protocol.Farewell) -> None
        self.is_leaving = True
        self.runner.end()

    def _define(self, message):
        # type: (protocol.DefineJob) -> None
        self._known.define(message)

    def _forget(self, message):
        # type: (protocol.ForgetJob) -> None
        self._known.forget(message.job)

    def drop_user_objects(self):
        # type: () -> None
        self._known.drop_user_objects()

    def _is_last(self, job):
        # type: (int) -> bool
        """Count a chunk; whether it is the last one. A job may want worker processes to be replaced after "leave_after"
        chunks (multiprocessing's maxtasksperchild)."""
        known = self._known.definitions
        leave_after = known[job].info.get("leave_after") if job in known else None
        self._chunks += leave_after is not None
        return leave_after is not None and self._chunks >= leave_after

    def _send(self, message):
        # type: (tuple) -> None
        if os.getpid() != self._pid:
            os._exit(0)
        with self._send_lock:
            try:
                _send_all(self._socket, self._channel.frame(message))
            except (OSError, socket.error):
                os._exit(0)  # the node is gone


def _start_thread(function, name):
    # type: (Callable[[], object], str) -> threading.Thread
    thread = threading.Thread(target=function, name=name)
    thread.daemon = True
    thread.start()
    return thread


def _start_for_later(name):
    # type: (str) -> tuple[Callable[[Callable[[], object]], object], threading.Thread]
    """(a function, a thread): the thread waits until the function is called with another function, and runs that."""
    given = Mailbox()

    def work():
        # type: () -> None
        given.get()()
        if not PY2:  # py2 # a thread that ended would be looked up by its number, for which a task may have put
            given.get()  # another one (gevent): the thread waits here and, a daemon, ends with the process

    return given.put, _start_thread(work, name)


def _send_all(connection, buffers):
    # type: (socket.socket, list) -> None
    """Send all buffers. Small ones are joined, large ones are not copied."""
    small = []  # type: list
    for buffer in buffers:
        if len(buffer) < JOIN_BYTES_MAX:
            small.append(buffer)
            continue
        if small:
            connection.sendall(joined(small))
            small = []
        connection.sendall(buffer)
    if small:
        connection.sendall(joined(small))


# -- start ----------------------------------------------------------------------------------------


def _take_standard_input():
    # type: () -> tuple
    """(the node's settings, the descriptor of a pipe that closes when the node ends).

    Afterwards standard input is empty, for user code.
    """
    lifeline = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    text = b""
    while not text.endswith(b"\n"):
        byte = os.read(lifeline, 1)
        if not byte:
            os._exit(0)
        text += byte
    return json.loads(text.decode("ascii")), lifeline


def _die_with(lifeline):
    # type: (int) -> None
    """Let the kernel send SIGIO, which ends this process, when the node's end of the pipe closes."""
    try:
        import fcntl
    except ImportError:
        return  # Windows: there only the reader thread notices the node's end
    flag = getattr(os, "O_ASYNC", getattr(fcntl, "FASYNC", 0))
    if flag and hasattr(signal, "SIGIO"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | flag)


def _introduce(number, lifeline):
    # type: (int, int) -> None
    """Tell multiprocessing who this process is: user code asks it, for a label, a device, or a guard of its own."""
    from multiprocessing import process

    this = process.current_process()
    this.name, this._identity = "ClusterPoolWorker-%d" % number, (number,)
    if hasattr(process, "_ParentProcess"):  # Python 3.8
        parent = process._ParentProcess("MainProcess", os.getppid(), lifeline)
        process._parent_process = parent  # type: ignore[attr-defined]


def _inherited(descriptor):
    # type: (int) -> socket.socket
    """The inherited end of a pair of sockets. Processes that tasks start do not inherit it."""
    os.set_inheritable(descriptor, False) # novm
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)


def _dialled(port):
    # type: (int) -> socket.socket
    """On 2.7 and Windows: a connection to the node over loopback."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _connect(settings):
    # type: (dict) -> tuple
    connection = _inherited(settings["descriptor"]) if "descriptor" in settings else _dialled(settings["port"])
    connection.setblocking(True)  # the program may have called socket.setdefaulttimeout, which holds for both ends
    node_id = ("slot%d" % settings["slot"]).encode("ascii").ljust(16, b"\0")
    handshake = handshakes.ClientHandshake(
        settings["key"], os.urandom(32), handshakes.CHILD, node_id, sys.version_info[:2], "the node", PICKLE_PROTOCOL
    )
    while handshake.channel is None:
        data = connection.recv(4096)
        if not data:
            os._exit(0)
        connection.sendall(handshake.receive(data))
    return connection, handshake


def _replace_stream(name, descriptor):
    # type: (str, int) -> None
    stream = _line_buffered(descriptor)
    for each in (name, "__%s__" % name):
        setattr(sys, each, stream)


def _line_buffered(descriptor):
    # type: (int) -> TextIO
    if PY2:  # py2
        return _encoding(os.fdopen(descriptor, "w", 1))
    return io.open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _encoding(stream):
    # type: (TextIO) -> TextIO
    """Let ``print`` write any unicode text, as to a terminal; a pipe's encoding is ASCII on 2.7. Only C code can."""
    try:
        from ctypes import py_object, pythonapi

        pythonapi.PyFile_SetEncodingAndErrors(py_object(stream), b"utf-8", b"backslashreplace")
    except (ImportError, AttributeError):  # not every Python has it
        pass
    return stream


def main():
    # type: () -> None
    settings, lifeline = _take_standard_input()
    _die_with(lifeline)
    _introduce(settings["slot"] + 1, lifeline)
    _replace_stream("stdout", 1)
    _replace_stream("stderr", 2)
    boot.use_paths(settings["path"])
    # Threads are started before the process connects: if the system allows none, the start fails, and no task is lost.
    read, _ = _start_for_later("minimalcluster-reader")
    watch, watching = _start_for_later("minimalcluster-watch")
    connection, handshake = _connect(settings)
    worker = Worker(connection, handshake.channel)
    for message in handshake.channel.feed(handshake.leftover()):
        worker.take(message)
    read(worker.read)
    watch(worker.runner.watch)
    worker.serve()
    if PY2 and worker.is_leaving:  # py2
        watching.join(WATCH_SECONDS * 5)  # 2.7 shows a traceback for a thread that ends with the interpreter
    worker.drop_user_objects()

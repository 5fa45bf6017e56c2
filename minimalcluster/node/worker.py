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
* Tasks run in blocks, which grow until a block takes some milliseconds. So a short task needs no clock reading, message
  or lock of its own, and a long task is reported as soon as it ends. If one task of a block takes long unexpectedly,
  the results before it are sent, and the tasks behind it can be given back, while it runs.
* If tasks have a time limit, each tells the node when its own code begins: after its argument has been unpickled.
"""
from __future__ import absolute_import, division, print_function

import io
import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager
from itertools import islice

from ..compat import PICKLE_PROTOCOL, PICKLE_PROTOCOL_MAX, PY2, SCALARS, Mailbox, joined, native, perf_counter
from ..errors import StateError
from ..payload import functions, script, shares, values
from ..payload.imports import ClusterFinder
from ..wire import checks, frames, handshakes, protocol  # noqa: F401 # frames in a type comment
from . import boot, orphans

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable, Iterable, Iterator, TextIO  # noqa: F401 # novm

    Failure = tuple[dict[str, Any], list[Any]]  # an exception for a message: (info, buffers)

#: How long the tasks of a block shall take together.
BLOCK_SECONDS = 0.005
BLOCK_GROWTH = 16
#: How long the main thread collects results before it sends them.
FLUSH_SECONDS = 0.02
#: If a long task keeps the main thread from sending, another thread sends them after twice this time at most.
WATCH_SECONDS = 0.1
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


class _Attempt(object):
    """The chunk that is being run: tasks [first, end). The main thread has taken [first, claimed) of them."""

    def __init__(self, grant):
        # type: (protocol.Grant) -> None
        self.number, self.job, self.one_by_one = grant.attempt, grant.job, bool(grant.careful)
        self.limited = False  # tell the node when each task's own code begins
        self.reported = self.claimed = grant.first  # the first task that was not reported, not claimed
        self.end = grant.first + grant.count
        self.items = []  # type: list # arguments of the current block; ``take_away`` may remove those not begun
        self.results = []  # type: list
        self.before = 0  # len(results) when the current block began
        self.sent = 0  # how many of the results have been sent
        self.flushed_at = 0.0

    def take_away(self):
        # type: () -> int
        """Remove the tasks that the main thread has not begun from its block; returns how many.

        Called under the lock of the claim, in another thread, while the main thread iterates over ``items``.
        """
        items, results = self.items, self.results
        done = len(results) - self.before
        rest = items[done + 1 :]  # the main thread is at the task before these
        del items[done + 1 :]  # so its loop ends there, unless it has finished that task in this moment
        if len(results) - self.before == done:
            return len(rest)
        items.extend(rest)  # it has: it may be at the next task already, so nothing is removed
        return 0


class _Helpers(object):
    """Finds processes that an initializer, the script's top level or a module's import starts.

    They stay, while processes that tasks leave behind are ended with the worker process. report: called with a Helpers
    message that has their pids.
    """

    def __init__(self, report):
        # type: (Callable[[tuple], object]) -> None
        self._report = report
        self._fresh = True  # no user code has run in this process yet
        self._mark = os.environ.get(orphans.VARIABLE, "").split(" ")[-1]

    @contextmanager
    def watched(self, info):
        # type: (dict) -> Iterator[None]
        """Within this context user code may start helpers. info: the job's definition."""
        if not (self._mark and orphans.looks_are_cheap()) or not (self._fresh or functions.will_initialize(info)):
            yield
            return
        before, newest = set() if self._fresh else set(orphans.marked(self._mark)), orphans.newest()
        self._fresh = False
        try:
            yield
        finally:
            if orphans.newest() != newest:
                started = set(orphans.marked(self._mark)) - before
                if started:
                    self._report(protocol.Helpers({"pids": sorted(started)}))


class Worker(object):
    """Runs the tasks that come over one connection to the node, until it closes."""

    def __init__(self, connection, channel):
        # type: (socket.socket, frames.Channel) -> None
        self._socket, self._channel = connection, channel
        self._inbox = Mailbox()
        self._lock = threading.Lock()  # guards which tasks the main thread has claimed, and ``_fetches``
        self._send_lock = threading.Lock()
        self._flush_lock = threading.Lock()  # guards which results have been sent
        self._watched = threading.Event()  # set: results or tasks may be waiting for the task that runs
        self._attempt = None  # type: _Attempt | None
        self._revoked = set()  # type: set # numbers of attempts that were revoked before they began
        self._definitions = {}  # type: dict[int, protocol.DefineJob] # by job
        self._functions = {}  # type: dict[int, Callable[[Any], object]] # by job
        self._task_seconds = {}  # type: dict[int, float | None] # job -> seconds that its last tasks took each
        self._chunks = 0  # how many chunks were run for jobs with a "leave_after"
        self._pid = os.getpid()
        self._helpers = _Helpers(self._send)
        self._finder = ClusterFinder(self.fetch)
        self._fetches = {}  # type: dict[int, Mailbox] # request -> where its answer goes
        self._next_fetch = 1
        self._shared = {}  # type: dict[str, object] # by name
        self._is_leaving = False  # the main thread ends the process: the reader must not
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
                    checks.check(message, checks.MASTER)
                    name = READ.get(type(message))
                    if name is None:
                        self._inbox.put(message)
                    else:
                        getattr(self, name)(message)
        finally:
            # The node is gone, or sends malformed messages: no result can be delivered any more.
            if not self._is_leaving:
                os._exit(0)

    def _fetched(self, message):
        # type: (protocol.Fetched) -> None
        self._fetches.pop(message.request).put(message)

    def _drop_shared(self, message):
        # type: (protocol.Drop) -> None
        self._shared.pop(message.info["name"], None)

    def _give_back(self, message):
        # type: (protocol.Revoke) -> None
        number = message.attempt
        with self._lock:
            attempt = self._attempt
            if attempt is None or attempt.number != number:
                self._revoked.add(number)
                return
            attempt.claimed -= attempt.take_away()
            attempt.end = attempt.claimed
        self._send(protocol.Released(0, number, attempt.end))

    # -- watch thread -----------------------------------------------------------------------------

    def _watch(self):
        # type: () -> None
        """Send the results that wait behind a task which takes unexpectedly long."""
        while True:
            self._watched.wait()
            if self._is_leaving:
                return
            time.sleep(WATCH_SECONDS)
            self._watched.clear()  # before looking at the attempt: a new attempt that begins after that sets it again
            attempt = self._attempt
            if attempt is not None and (len(attempt.items) > 1 or attempt.sent < len(attempt.results)):
                self._watched.set()
                if perf_counter() - attempt.flushed_at >= WATCH_SECONDS:
                    self._flush(attempt)

    # -- any thread -------------------------------------------------------------------------------

    def fetch(self, what, name):
        # type: (str, str) -> tuple
        """Ask the master, through the node, and wait for the answer: (info, buffers).

        what: the kind of thing ("module", "share", ...). Raises StateError in a process that a task has forked.
        """
        if os.getpid() != self._pid:
            raise StateError("a process that a task has forked cannot ask the master for anything")
        answer = Mailbox()
        with self._lock:
            request = self._next_fetch
            self._next_fetch += 1
            self._fetches[request] = answer
        self._send(protocol.Fetch(request, {"what": what, "name": name, "pickle": PICKLE_PROTOCOL_MAX}))
        fetched = answer.get()  # type: protocol.Fetched
        return fetched.info, fetched.payload

    def _resolve(self, name):
        # type: (str) -> object
        if name not in self._shared:
            info, _ = self.fetch("share", name)
            if not info.get("found"):
                raise StateError("the shared object %s cannot be had: %s" % (name, info.get("error", "it was dropped")))
            functions.prepare(native(info.get("needs", "")))
            self._shared[name] = shares.load(info)
        return self._shared[name]

    # -- main thread ------------------------------------------------------------------------------

    def serve(self):
        # type: () -> None
        finders = sys.meta_path  # type: list[Any] # its type asks for more than finders have to be
        finders.insert(0, self._finder)
        shares.resolver, shares.in_worker_process = self._resolve, True
        while not (self._is_leaving or self._is_done):
            message = self._inbox.get()
            getattr(self, SERVED[type(message)])(message)
            message = None  # free its payload before waiting for the next message

    def _grant(self, grant):
        # type: (protocol.Grant) -> None
        if self._is_last(grant.job):
            self._is_done = True
            self._send(protocol.Leaving())
        self._run(grant)

    def _leave(self, message):
        # type: (protocol.Farewell) -> None
        self._is_leaving = True
        self._watched.set()

    def _define(self, message):
        # type: (protocol.DefineJob) -> None
        self._finder.new_job()
        self._definitions[message.job] = message
        self._functions.pop(message.job, None)

    def _forget(self, message):
        # type: (protocol.ForgetJob) -> None
        self._definitions.pop(message.job, None)
        self._functions.pop(message.job, None)
        self._task_seconds.pop(message.job, None)
        self._finder.forget({each.info.get("code") for each in self._definitions.values()})

    def drop_user_objects(self):
        # type: () -> None
        """Drop the references to the user's functions and objects. At its end, the interpreter flushes an open file in
        a global of the user's module only if nothing else refers to it."""
        self._functions.clear()
        self._definitions.clear()
        self._shared.clear()
        self._attempt = None

    def _is_last(self, job):
        # type: (int) -> bool
        """Count a chunk; whether it is the last one. A job may want worker processes to be replaced after "leave_after"
        chunks (multiprocessing's maxtasksperchild)."""
        leave_after = self._definitions[job].info.get("leave_after") if job in self._definitions else None
        self._chunks += leave_after is not None
        return leave_after is not None and self._chunks >= leave_after

    def _run(self, grant):
        # type: (protocol.Grant) -> None
        attempt = _Attempt(grant)
        with _Caught(0) as caught:  # user code runs here: modules, the script, initializers
            self._use_code(grant.job)
            with self._helpers.watched(self._definitions[grant.job].info):
                function = self._function(grant.job)
                functions.prepare(values.needs_of(grant.payload))
        if caught.failure is not None:
            self._send(protocol.Unfit(0, attempt.number, attempt.reported, caught.failure[0]))
            return
        if "timeout" in self._definitions[grant.job].info:
            attempt.limited = attempt.one_by_one = True
        with self._lock:
            self._attempt = attempt
            if attempt.number in self._revoked:
                attempt.end = attempt.claimed
            # Cleared here, not when an attempt ends: a revocation of the next attempt may arrive in between.
            self._revoked.clear()
        if attempt.end == attempt.claimed:
            self._send(protocol.Released(0, attempt.number, attempt.end))
        try:
            self._run_blocks(attempt, function, *values.decode_arguments(grant.payload, grant.count))
        finally:
            with self._lock:
                self._attempt = None
            _flush_streams()
        if self._finder.versions:
            self._compare_versions()

    def _compare_versions(self):
        # type: () -> None
        for name, ours, theirs in self._finder.differing():
            where = native(socket.gethostname())
            self.fetch("version", "%s is %s on the node %s, and %s on the master" % (name, ours, where, theirs))

    def _use_code(self, job):
        # type: (int) -> None
        """Make imports find the project's modules as the master had loaded them when the job was given."""
        info = self._definitions[job].info
        if self._finder.use(info.get("code"), info.get("tops", ())):
            functions.forget_initializers()  # modules were replaced, and with them what initializers had set there

    def _function(self, job):
        # type: (int) -> Callable[[Any], object]
        if job not in self._functions:
            definition = self._definitions[job]
            self._functions[job] = functions.target(definition.info, definition.payload, self.fetch)
        return self._functions[job]

    def _run_blocks(self, attempt, function, items, load):
        # type: (_Attempt, Callable[[Any], object], Iterable[object], Callable[[Any], object] | None) -> None
        seconds = self._task_seconds.get(attempt.job)
        block = 1 if seconds is None or attempt.one_by_one else _block_size(seconds)
        attempt.flushed_at = perf_counter()
        while True:
            count = self._claim(attempt, items, block)
            if not count:
                break
            started_at = perf_counter()
            self._run_block(attempt, function, load)
            now = perf_counter()
            seconds = max(now - started_at, 1e-9) / count
            if attempt.one_by_one or now - attempt.flushed_at >= FLUSH_SECONDS:
                self._flush(attempt, True)
            if not attempt.one_by_one:
                block = min(_block_size(seconds), block * BLOCK_GROWTH)
        self._task_seconds[attempt.job] = seconds
        self._flush(attempt, True)

    def _claim(self, attempt, items, most):
        # type: (_Attempt, Iterable[object], int) -> int
        """Begin a block: take up to so many tasks; returns how many."""
        with self._lock:
            count = min(most, attempt.end - attempt.claimed)
            attempt.claimed += count
            attempt.items, attempt.before = list(islice(items, count)), len(attempt.results)
        if (count > 1 or attempt.results) and not self._watched.is_set():
            self._watched.set()
        return count

    def _run_block(self, attempt, function, load):
        # type: (_Attempt, Callable[[Any], object], Callable[[Any], object] | None) -> None
        while attempt.items:
            arguments = values.lazy_map(load, attempt.items) if load else attempt.items  # type: Iterable[object]
            if attempt.limited:
                arguments = values.lazy_map(lambda argument: self._begun(attempt, argument), arguments)
            failure = _apply(function, arguments, attempt.results)
            if os.getpid() != self._pid:
                os._exit(0)  # the task forked, and its child came back here: only the worker process itself may report
            with self._lock:
                done = len(attempt.results) - attempt.before + (failure is not None)
                attempt.items, attempt.before = attempt.items[done:], len(attempt.results)
            if failure is not None:
                self._flush(attempt, True)
                self._fail(attempt, failure)

    def _begun(self, attempt, argument):
        # type: (_Attempt, object) -> object
        self._send(protocol.Begun(attempt.number))
        return argument

    def _flush(self, attempt, in_main_thread=False):
        # type: (_Attempt, bool) -> None
        """Send the results that were not sent yet."""
        with self._flush_lock:
            now = perf_counter()
            seconds, attempt.flushed_at = now - attempt.flushed_at, now
            results = attempt.results[attempt.sent :]
            attempt.sent += len(results)
            self._send_results(attempt, results, seconds)
            if in_main_thread:  # only the main thread appends to the list, so it can be replaced now
                with self._lock:
                    attempt.results, attempt.sent, attempt.before = [], 0, 0

    def _send_results(self, attempt, results, seconds):
        # type: (_Attempt, list, float) -> None
        while results:
            buffers, good = values.encode_results(results), len(results)
            size = sum(map(len, buffers))
            if size > protocol.OBJECT_BYTES_MAX and good > 1:
                self._send_results(attempt, results[: good // 2], seconds)
                results, seconds = results[good // 2 :], 0.0
                continue
            if size > protocol.OBJECT_BYTES_MAX:
                self._fail(attempt, values.encode_exception(protocol.too_large("the result", size), 0))
            else:
                elapsed = int(seconds * 1e9)
                self._send(protocol.Done(0, attempt.number, attempt.reported, good, elapsed, buffers))
                attempt.reported += good
            return

    def _fail(self, attempt, failure):
        # type: (_Attempt, tuple) -> None
        info, buffers = failure
        message = protocol.Failed(0, attempt.number, attempt.reported, 0, info, buffers)
        self._send(message)
        attempt.reported += 1

    def _send(self, message):
        # type: (tuple) -> None
        if os.getpid() != self._pid:
            os._exit(0)
        with self._send_lock:
            try:
                _send_all(self._socket, self._channel.frame(message))
            except (OSError, socket.error):
                os._exit(0)  # the node is gone


def _flush_streams():
    # type: () -> None
    """Flush what the tasks printed, also a last line without an end: the node may kill this process after the chunk."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: S110 # the task has replaced or closed the stream
            pass


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


def _block_size(seconds):
    # type: (float) -> int
    return max(1, int(BLOCK_SECONDS / seconds))


class _Caught(object):
    """A context that keeps the exception raised inside as ``failure``: (info, buffers) for a message, or None.

    On 2.7 it also catches an instance of an old-style class, which ``except BaseException`` does not. frames_to_skip:
    the number of this package's own frames at the beginning of the traceback.
    """

    def __init__(self, frames_to_skip):
        # type: (int) -> None
        self._skip = frames_to_skip
        self.failure = None  # type: Failure | None

    def __enter__(self):
        # type: () -> _Caught
        return self

    def __exit__(self, kind, error, trace):
        # type: (object, BaseException, object) -> bool
        if kind is not None:
            script.explain(error)
            self.failure = values.encode_exception(error, self._skip)
        return True


def _apply(function, arguments, results):
    # type: (Callable[[Any], object], Iterable[object], list) -> Failure | None
    """Append function(argument) to results for each argument.

    Stops at the first task that raises, or whose result cannot be pickled, and returns that failure; otherwise None.
    A result that could change later is pickled right after its call, so that it travels as it was returned.
    A SystemExit or KeyboardInterrupt that a task raises is that task's error.
    """
    append, immutable = results.append, SCALARS
    with _Caught(1) as caught:
        for argument in arguments:
            result = function(argument)
            if type(result) not in immutable:
                result = values.Pickled(result)
                if result.failure is not None:
                    return result.failure
            append(result)
    return caught.failure


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
        worker._inbox.put(message)
    read(worker.read)
    watch(worker._watch)
    worker.serve()
    if PY2 and worker._is_leaving:  # py2
        watching.join(WATCH_SECONDS * 5)  # 2.7 shows a traceback for a thread that ends with the interpreter
    worker.drop_user_objects()

"""A worker process: runs user code, nothing else.

::

    node --Grant--> reader thread --queue--> main thread: runs tasks in blocks --Done--> node
         --Revoke-> reader thread: gives back what the main thread has not begun

* It is a fresh interpreter, told on its standard input where its node listens and by what key to
  prove itself; nothing secret is in its arguments or its environment.
* It leaves file descriptors 0 to 2 to the user's code: 0 is empty, 1 and 2 lead to the node.
* It ends with its node: the reader sees the connection close; and while user code holds the
  interpreter's lock, the kernel's SIGIO on the standard-input pipe still ends it (where there is SIGIO).
* Tasks run in blocks that grow until they take some milliseconds, so that a trivial task costs
  no clock reading, message or lock of its own, and a long one is reported as soon as it ends.
  What a block holds before and behind a task that takes unexpectedly long does not wait for it.
* Where tasks have a time limit, the node hears when each of them begins: behind its argument's unpickling.
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
    from typing import Iterator  # noqa: F401 # novm

#: A block's aim.
BLOCK_SECONDS = 0.005
BLOCK_GROWTH = 16
#: Results wait this long for company before they are sent.
FLUSH_SECONDS = 0.02
#: And no longer than twice this, if the main thread does not come to it.
WATCH_SECONDS = 0.1
RECEIVE_BYTES = 1 << 18
JOIN_BYTES_MAX = 1 << 16


class _Attempt(object):
    """The chunk at hand: [first, end), of which [first, claimed) is the main thread's."""

    def __init__(self, grant):
        # type: (protocol.Grant) -> None
        self.number, self.job, self.careful = grant.attempt, grant.job, bool(grant.careful)
        self.limited = False  # the node wants to hear when a task's own code begins
        self.reported = self.claimed = grant.first
        self.end = grant.first + grant.count
        self.items = []  # type: list # the block's: what the main thread has not begun may be taken away
        self.results = []  # type: list
        self.before = self.sent = 0  # so many of the results were there before the items, and are sent
        self.flushed_at = 0.0

    def take_away(self):
        # type: () -> int
        """Take what the main thread has not begun out of its block. Under the claim's lock; how many."""
        items, results = self.items, self.results
        done = len(results) - self.before
        rest = items[done + 1 :]  # it is at the one before
        del items[done + 1 :]  # its loop ends there, if it has not come further in this moment
        if len(results) - self.before == done:
            return len(rest)
        items.extend(rest)
        return 0


class _Helpers(object):
    """Finds what an initializer, a script's top or a module's import has started: unlike what tasks start, it stays."""

    def __init__(self, tell):
        # type: (object) -> None
        self._tell = tell
        self._fresh = True  # no code of the user's has run here
        self._mark = os.environ.get(orphans.VARIABLE, "").split(" ")[-1]

    @contextmanager
    def watched(self, info):
        # type: (dict) -> Iterator[None]
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
                    self._tell(protocol.Helpers({"pids": sorted(started)}))  # type: ignore[operator]


class Worker(object):
    """Serves one connection to the node until it closes."""

    def __init__(self, connection, channel):
        # type: (socket.socket, frames.Channel) -> None
        self._socket, self._channel = connection, channel
        self._inbox = Mailbox()
        self._lock = threading.Lock()  # guards the attempt's claim
        self._send_lock = threading.Lock()
        self._flush_lock = threading.Lock()  # guards which results are sent
        self._watched = threading.Event()  # there may be something that waits for what the main thread is at
        self._attempt = None  # type: _Attempt | None
        self._revoked = set()  # type: set # attempts taken back before they were begun
        self._definitions = {}  # type: dict # job -> DefineJob
        self._functions = {}  # type: dict # job -> callable
        self._task_seconds = {}  # type: dict # job -> seconds a task took lately
        self._chunks = 0  # run for jobs that count them
        self._pid = os.getpid()
        self._helpers = _Helpers(self._send)
        self._finder = ClusterFinder(self.fetch)
        self._fetches = {}  # type: dict # request -> the Mailbox for its answer
        self._next_fetch = 1
        self._shared = {}  # type: dict # name -> object
        self._is_leaving = False  # the interpreter ends by itself

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
                    if isinstance(message, protocol.Revoke):
                        self._give_back(message.attempt)
                    elif isinstance(message, protocol.Fetched):
                        self._fetches.pop(message.request).put(message)
                    elif isinstance(message, protocol.Drop):
                        self._shared.pop(message.info["name"], None)
                    else:
                        self._inbox.put(message)
        finally:
            # The node is gone or talks nonsense; whatever the main thread does is of no use to anybody.
            if not self._is_leaving:
                os._exit(0)

    def _give_back(self, number):
        # type: (int) -> None
        with self._lock:
            attempt = self._attempt
            if attempt is None or attempt.number != number:
                self._revoked.add(number)
                return
            attempt.claimed -= attempt.take_away()
            attempt.end = attempt.claimed
        self._send(protocol.Released(0, number, attempt.end))

    # -- a thread that looks after a task that takes unexpectedly long ------------------------------

    def _watch(self):
        # type: () -> None
        while True:
            self._watched.wait()
            if self._is_leaving:
                return
            time.sleep(WATCH_SECONDS)
            self._watched.clear()  # before the look: an attempt that is begun behind it sets it again
            attempt = self._attempt
            if attempt is not None and (len(attempt.items) > 1 or attempt.sent < len(attempt.results)):
                self._watched.set()
                if perf_counter() - attempt.flushed_at >= WATCH_SECONDS:
                    self._flush(attempt)

    # -- any thread -------------------------------------------------------------------------------

    def fetch(self, what, name):
        # type: (str, str) -> tuple
        """Ask the master, through the node: (info, buffers). Waits as long as it takes."""
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
        sys.meta_path.insert(0, self._finder)  # type: ignore[arg-type]
        shares.resolver, shares.in_worker_process = self._resolve, True
        while True:
            message = self._inbox.get()
            if isinstance(message, protocol.Grant):
                if self._is_last(message.job):
                    self._send(protocol.Leaving())
                    self._run(message)
                    return
                self._run(message)
            elif isinstance(message, protocol.Farewell):
                self._is_leaving = True
                self._watched.set()
                return
            elif isinstance(message, protocol.DefineJob):
                self._finder.new_job()
                self._definitions[message.job] = message
                self._functions.pop(message.job, None)
            elif isinstance(message, protocol.ForgetJob):
                self._definitions.pop(message.job, None)
                self._functions.pop(message.job, None)
                self._task_seconds.pop(message.job, None)
                self._finder.forget({each.info.get("code") for each in self._definitions.values()})
            message = None  # what was sent to us may be large

    def let_go(self):
        # type: () -> None
        """Of the user's objects: a file in a global is flushed at the interpreter's end if only that global has it."""
        self._functions.clear()
        self._definitions.clear()
        self._shared.clear()
        self._attempt = None

    def _is_last(self, job):
        # type: (int) -> bool
        """Its jobs may want a worker process replaced after so many chunks (multiprocessing's maxtasksperchild)."""
        leave_after = self._definitions[job].info.get("leave_after") if job in self._definitions else None
        self._chunks += leave_after is not None
        return leave_after is not None and self._chunks >= leave_after

    def _run(self, grant):
        # type: (protocol.Grant) -> None
        attempt = _Attempt(grant)
        with _Caught(0) as caught:  # the user's source runs here
            self._use_code(grant.job)
            with self._helpers.watched(self._definitions[grant.job].info):
                function = self._function(grant.job)
                functions.prepare(values.needs_of(grant.payload))
        if caught.failure is not None:
            self._send(protocol.Unfit(0, attempt.number, attempt.reported, caught.failure[0]))
            return
        if "timeout" in self._definitions[grant.job].info:
            attempt.limited = attempt.careful = True
        with self._lock:
            self._attempt = attempt
            if attempt.number in self._revoked:
                attempt.end = attempt.claimed
            # Not when an attempt ends: one for the next may have come before the next was begun.
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
        """The project's modules as the master had loaded them when it was given this job."""
        info = self._definitions[job].info
        if self._finder.use(info.get("code"), info.get("tops", ())):
            functions.forget_initializers()  # what they have set in those modules is not set any more

    def _function(self, job):
        # type: (int) -> object
        if job not in self._functions:
            definition = self._definitions[job]
            self._functions[job] = functions.target(definition.info, definition.payload, self.fetch)
        return self._functions[job]

    def _run_blocks(self, attempt, function, items, load):
        # type: (_Attempt, object, object, object) -> None
        seconds = self._task_seconds.get(attempt.job)
        block = 1 if seconds is None or attempt.careful else _block_size(seconds)
        attempt.flushed_at = perf_counter()
        while True:
            count = self._claim(attempt, items, block)
            if not count:
                break
            started_at = perf_counter()
            self._run_block(attempt, function, load)
            now = perf_counter()
            seconds = max(now - started_at, 1e-9) / count
            if attempt.careful or now - attempt.flushed_at >= FLUSH_SECONDS:
                self._flush(attempt, True)
            if not attempt.careful:
                block = min(_block_size(seconds), block * BLOCK_GROWTH)
        self._task_seconds[attempt.job] = seconds
        self._flush(attempt, True)

    def _claim(self, attempt, items, most):
        # type: (_Attempt, object, int) -> int
        with self._lock:
            count = min(most, attempt.end - attempt.claimed)
            attempt.claimed += count
            attempt.items, attempt.before = list(islice(items, count)), len(attempt.results)  # type: ignore[call-overload]
        if (count > 1 or attempt.results) and not self._watched.is_set():
            self._watched.set()
        return count

    def _run_block(self, attempt, function, load):
        # type: (_Attempt, object, object) -> None
        while attempt.items:
            arguments = values.lazy_map(load, attempt.items) if load else attempt.items  # type: ignore[call-overload]
            if attempt.limited:
                arguments = values.lazy_map(lambda argument: self._begun(attempt, argument), arguments)
            failure = _apply(function, arguments, attempt.results)
            if os.getpid() != self._pid:
                os._exit(0)  # the task forked and came back twice: only the first of them speaks
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
        """Send the results that are there."""
        with self._flush_lock:
            now = perf_counter()
            seconds, attempt.flushed_at = now - attempt.flushed_at, now
            results = attempt.results[attempt.sent :]
            attempt.sent += len(results)
            self._send_results(attempt, results, seconds)
            if in_main_thread:  # nobody appends to them
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
                os._exit(0)  # no node, nobody to work for


def _flush_streams():
    # type: () -> None
    """A last line without its end is on its way when the worker process may be ended."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: S110 # the task has put something else there, or closed it
            pass


def _start_thread(function, name):
    # type: (object, str) -> threading.Thread
    thread = threading.Thread(target=function, name=name)  # type: ignore[arg-type]
    thread.daemon = True
    thread.start()
    return thread


def _start_for_later(name):
    # type: (str) -> tuple
    """(what tells a thread what it shall do, the thread, which waits for that)."""
    told = Mailbox()

    def work():
        # type: () -> None
        told.get()()

    return told.put, _start_thread(work, name)


def _block_size(seconds):
    # type: (float) -> int
    return max(1, int(BLOCK_SECONDS / seconds))


class _Caught(object):
    """Keeps what is raised inside: on 2.7 also an old-style class's instance, which ``except BaseException`` misses."""

    def __init__(self, frames_to_skip):
        # type: (int) -> None
        self._skip = frames_to_skip
        self.failure = None  # type: tuple | None

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
    # type: (object, object, list) -> tuple | None
    """Append function(argument) for each; on the first that raises, or cannot be sent back, what was raised.

    What may change later is pickled right behind its call: a result is what was returned, as it was then.
    SystemExit and KeyboardInterrupt raised by a task are that task's errors.
    """
    append, immutable = results.append, SCALARS
    with _Caught(1) as caught:
        for argument in arguments:  # type: ignore[attr-defined]
            result = function(argument)  # type: ignore[operator]
            if type(result) not in immutable:
                result = values.Pickled(result)
                if result.failure is not None:
                    return result.failure
            append(result)
    return caught.failure


def _send_all(connection, buffers):
    # type: (socket.socket, list) -> None
    """Small buffers joined, large ones as they are."""
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
    """(what the node says, the pipe that stays open as long as it lives); user code gets an empty stdin."""
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
    """Ask the kernel for SIGIO, which ends the process, when the node's end of the pipe closes."""
    try:
        import fcntl
    except ImportError:
        return  # Windows; there the reader thread alone does it
    if hasattr(signal, "SIGIO") and hasattr(os, "O_ASYNC"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    elif hasattr(signal, "SIGIO") and hasattr(fcntl, "FASYNC"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | fcntl.FASYNC)


def _inherited(descriptor):
    # type: (int) -> socket.socket
    """Our end of a pair; what tasks start does not get it."""
    os.set_inheritable(descriptor, False) # novm
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)


def _dialled(port):
    # type: (int) -> socket.socket
    """2.7 and Windows: loopback."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _connect(told):
    # type: (dict) -> tuple
    connection = _inherited(told["descriptor"]) if "descriptor" in told else _dialled(told["port"])
    node_id = ("slot%d" % told["slot"]).encode("ascii").ljust(16, b"\0")
    handshake = handshakes.ClientHandshake(
        told["key"], os.urandom(32), handshakes.CHILD, node_id, sys.version_info[:2], "the node", PICKLE_PROTOCOL
    )
    while handshake.channel is None:
        data = connection.recv(4096)
        if not data:
            os._exit(0)
        connection.sendall(handshake.receive(data))
    return connection, handshake


def _line_buffered(descriptor):
    # type: (int) -> object
    if PY2:  # py2
        return os.fdopen(descriptor, "w", 1)
    return io.open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def main():
    # type: () -> None
    told, lifeline = _take_standard_input()
    _die_with(lifeline)
    sys.stdout = sys.__stdout__ = _line_buffered(1)  # type: ignore[misc,assignment]
    sys.stderr = sys.__stderr__ = _line_buffered(2)  # type: ignore[misc,assignment]
    boot.take_paths(told["path"])
    # Before the node hears of this process: one that can have no threads is a start that failed, and costs no task.
    read, _ = _start_for_later("minimalcluster-reader")
    watch, watching = _start_for_later("minimalcluster-watch")
    connection, handshake = _connect(told)
    worker = Worker(connection, handshake.channel)
    for message in handshake.channel.feed(handshake.leftover()):
        worker._inbox.put(message)
    read(worker.read)
    watch(worker._watch)
    worker.serve()
    if worker._is_leaving:
        watching.join(WATCH_SECONDS * 5)  # 2.7 shows a traceback for a thread that ends with the interpreter
    worker.let_go()

"""Chunks in the process that runs them: their tasks in blocks, whose results are sent as they come.

::

    Known: definitions, functions, modules, shared objects --> ChunkRunner.run(grant) --send--> Done, Failed, ...

A node's worker process has one of each (``worker.py``). An engine's has a ``Known`` for each master, and a
``ChunkRunner`` for each chunk (``engines/worker.py``).

* Tasks run in blocks, which grow until a block takes some milliseconds. So a short task needs no clock reading, message
  or lock of its own, and a long task is reported as soon as it ends. If one task of a block takes long unexpectedly,
  the results before it are sent, and the tasks behind it can be given back, while it runs.
* If tasks have a time limit, each tells the node when its own code begins: after its argument has been unpickled.
"""
from __future__ import absolute_import, division, print_function

import os
import socket
import sys
import threading
import time
from contextlib import contextmanager
from itertools import islice

from ..compat import SCALARS, native, perf_counter
from ..errors import StateError
from ..payload import functions, script, shares, values
from ..payload.imports import ClusterFinder
from ..wire import protocol
from . import orphans

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable, Iterable, Iterator, MutableMapping  # noqa: F401 # novm

    from ..payload.imports import Fetch  # noqa: F401

    Failure = tuple[dict[str, Any], list[Any]]  # an exception for a message: (info, buffers)

#: How long the tasks of a block shall take together.
BLOCK_SECONDS = 0.005
BLOCK_GROWTH = 16
#: How long the main thread collects results before it sends them: half of the chunk's time, within these limits. Chunks
#: are long where a master has many nodes (policy.py), which would otherwise send it too many messages.
FLUSH_SECONDS, FLUSH_SECONDS_MAX = 0.02, 2.0
#: If a long task keeps the main thread from sending, another thread looks so often whether to send them.
WATCH_SECONDS = 0.1


class Attempt(object):
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
        self.flush_seconds = FLUSH_SECONDS

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


class Known(object):
    """What a process has of the jobs of one master. fetch: asks that master, and waits for the answer.

    first: its modules come before any others of their names.
    """

    def __init__(self, fetch, first=True):
        # type: (Fetch, bool) -> None
        self.fetch = fetch
        self.definitions = {}  # type: MutableMapping[int, protocol.DefineJob] # by job
        self.functions = {}  # type: dict[int, Callable[[Any], object]] # by job
        self.task_seconds = {}  # type: dict[int, float | None] # job -> seconds that its last tasks took each
        self.shared = {}  # type: dict[str, object] # by name
        self.finder = ClusterFinder(fetch, first)

    def define(self, message):
        # type: (protocol.DefineJob) -> None
        self.finder.new_job()
        self.definitions[message.job] = message
        self.functions.pop(message.job, None)

    def forget(self, job):
        # type: (int) -> None
        self.definitions.pop(job, None)
        self.functions.pop(job, None)
        self.task_seconds.pop(job, None)
        self.finder.forget({each.info.get("code") for each in self.definitions.values()})

    def drop_user_objects(self):
        # type: () -> None
        """Drop the references to the user's functions and objects. At its end, the interpreter flushes an open file in
        a global of the user's module only if nothing else refers to it."""
        self.functions.clear()
        self.definitions.clear()
        self.shared.clear()

    def resolve(self, name):
        # type: (str) -> object
        """The shared object of this name. Raises StateError if it cannot be had."""
        if name not in self.shared:
            info, _ = self.fetch("share", name)
            if not info.get("found"):
                raise StateError("the shared object %s cannot be had: %s" % (name, info.get("error", "it was dropped")))
            functions.prepare(native(info.get("needs", "")))
            self.shared[name] = shares.load(info)
        return self.shared[name]

    def use_code(self, job):
        # type: (int) -> None
        """Make imports find the project's modules as the master had loaded them when the job was given."""
        info = self.definitions[job].info
        if self.finder.use(info.get("code"), info.get("tops", ())):
            functions.forget_initializers()  # modules were replaced, and with them what initializers had set there

    def function(self, job):
        # type: (int) -> Callable[[Any], object]
        if job not in self.functions:
            definition = self.definitions[job]
            self.functions[job] = functions.target(definition.info, definition.payload, self.fetch)
        return self.functions[job]

    def compare_versions(self):
        # type: () -> None
        """Tell the master of installed packages whose versions here are not those that it has."""
        for name, ours, theirs in self.finder.differing():
            where = native(socket.gethostname())
            self.fetch("version", "%s is %s on the node %s, and %s on the master" % (name, ours, where, theirs))


class ChunkRunner(object):
    """Runs one chunk after another. send: called with each message for the node.

    ``run`` is for one thread, the main thread of a worker process; ``give_back`` and ``watch`` are for others.
    """

    def __init__(self, known, send):
        # type: (Known, Callable[[tuple], object]) -> None
        self._known, self._send = known, send
        self._lock = threading.Lock()  # guards which tasks ``run`` has claimed
        self._flush_lock = threading.Lock()  # guards which results have been sent
        self._watched = threading.Event()  # set: results or tasks may be waiting for the task that runs
        self._attempt = None  # type: Attempt | None
        self._revoked = set()  # type: set[int] # numbers of attempts that were revoked before they began
        self._is_over = False
        self._pid = os.getpid()
        self._helpers = _Helpers(send)

    # -- any thread -------------------------------------------------------------------------------

    def give_back(self, number):
        # type: (int) -> None
        """Give back the tasks of this attempt that have not begun; all of them, if it has not."""
        with self._lock:
            attempt = self._attempt
            if attempt is None or attempt.number != number:
                self._revoked.add(number)
                return
            attempt.claimed -= attempt.take_away()
            attempt.end = attempt.claimed
        self._send(protocol.Released(0, number, attempt.end))

    def watch(self):
        # type: () -> None
        """Send the results that wait behind a task which takes unexpectedly long."""
        while True:
            self._watched.wait()
            if self._is_over:
                return
            time.sleep(WATCH_SECONDS)
            self._watched.clear()  # before looking at the attempt: a new attempt that begins after that sets it again
            attempt = self._attempt
            if attempt is not None and (len(attempt.items) > 1 or attempt.sent < len(attempt.results)):
                self._watched.set()
                if perf_counter() - attempt.flushed_at >= max(attempt.flush_seconds, WATCH_SECONDS):
                    self._flush(attempt)

    def end(self):
        # type: () -> None
        """No chunk comes any more: let ``watch`` return."""
        self._is_over = True
        self._watched.set()

    # -- the thread that runs them ----------------------------------------------------------------

    def run(self, grant):
        # type: (protocol.Grant) -> None
        attempt = Attempt(grant)
        with _Caught(0) as caught:  # user code runs here: modules, the script, initializers
            self._known.use_code(grant.job)
            with self._helpers.watched(self._known.definitions[grant.job].info):
                function = self._known.function(grant.job)
                functions.prepare(values.needs_of(grant.payload))
        if caught.failure is not None:
            self._send(protocol.Unfit(0, attempt.number, attempt.reported, caught.failure[0]))
            return
        if "timeout" in self._known.definitions[grant.job].info:
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
        if self._known.finder.versions:
            self._known.compare_versions()

    def _run_blocks(self, attempt, function, items, load):
        # type: (Attempt, Callable[[Any], object], Iterable[object], Callable[[Any], object] | None) -> None
        seconds = self._known.task_seconds.get(attempt.job)
        block = 1 if seconds is None or attempt.one_by_one else block_size(seconds)
        attempt.flushed_at = perf_counter()
        attempt.flush_seconds = flush_seconds(attempt.end - attempt.claimed, seconds)
        while True:
            count = self._claim(attempt, items, block)
            if not count:
                break
            started_at = perf_counter()
            self._run_block(attempt, function, load)
            now = perf_counter()
            seconds = max(now - started_at, 1e-9) / count
            if attempt.one_by_one or now - attempt.flushed_at >= attempt.flush_seconds:
                self._flush(attempt, True)
            if not attempt.one_by_one:
                block = min(block_size(seconds), block * BLOCK_GROWTH)
        self._known.task_seconds[attempt.job] = seconds
        self._flush(attempt, True)

    def _claim(self, attempt, items, most):
        # type: (Attempt, Iterable[object], int) -> int
        """Begin a block: take up to so many tasks; returns how many."""
        with self._lock:
            count = min(most, attempt.end - attempt.claimed)
            attempt.claimed += count
            attempt.items, attempt.before = list(islice(items, count)), len(attempt.results)
        if (count > 1 or attempt.results) and not self._watched.is_set():
            self._watched.set()
        return count

    def _run_block(self, attempt, function, load):
        # type: (Attempt, Callable[[Any], object], Callable[[Any], object] | None) -> None
        while attempt.items:
            arguments = values.lazy_map(load, attempt.items) if load else attempt.items  # type: Iterable[object]
            if attempt.limited:
                arguments = values.lazy_map(lambda argument: self._begun(attempt, argument), arguments)
            failure = _apply(function, arguments, attempt.results)
            if os.getpid() != self._pid:
                os._exit(0)  # the task forked, and its child came back here: only the worker process itself may report
            if failure is None and load:
                failure = _failed_load(load, attempt.items, len(attempt.results) - attempt.before)
            with self._lock:
                done = len(attempt.results) - attempt.before + (failure is not None)
                attempt.items, attempt.before = attempt.items[done:], len(attempt.results)
            if failure is not None:
                self._flush(attempt, True)
                self._fail(attempt, failure)

    def _begun(self, attempt, argument):
        # type: (Attempt, object) -> object
        self._send(protocol.Begun(attempt.number))
        return argument

    def _flush(self, attempt, in_main_thread=False):
        # type: (Attempt, bool) -> None
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
        # type: (Attempt, list, float) -> None
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
        # type: (Attempt, tuple) -> None
        info, buffers = failure
        message = protocol.Failed(0, attempt.number, attempt.reported, 0, info, buffers)
        self._send(message)
        attempt.reported += 1


def _flush_streams():
    # type: () -> None
    """Flush what the tasks printed, also a last line without an end: the node may kill this process after the chunk."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: S110 # the task has replaced or closed the stream
            pass


def block_size(seconds):
    # type: (float) -> int
    """How many tasks a block has if each takes so long."""
    return max(1, int(BLOCK_SECONDS / seconds))


def flush_seconds(count, seconds):
    # type: (int, float | None) -> float
    """How long results are collected, in a chunk of so many tasks. seconds: for each; None: that is not known."""
    return min(max(FLUSH_SECONDS, count * (seconds or 0.0) / 2), FLUSH_SECONDS_MAX)


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


def _failed_load(load, items, done):
    # type: (Callable[[Any], object], list, int) -> Failure | None
    """The failure of a StopIteration that unpickling the item behind those done raised: the iteration over the
    arguments took it for its end."""
    with _Caught(0) as caught:
        for item in items[done : done + 1]:
            load(item)
    return caught.failure


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
                result = values.settled(result)
                if type(result) is values.Pickled and result.failure is not None:
                    return result.failure
            append(result)
    return caught.failure

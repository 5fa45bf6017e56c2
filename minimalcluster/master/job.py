"""A job as the running cluster uses it: what the cluster asks of a job, and what a job asks of the cluster.

::

    the user's thread            the cluster's thread                     the user's thread
    submit(job) ---------------> definition, encode ---> nodes
                                 deliver, deliver_failure,
                                 deliver_poison, finished <--- nodes ----> take ----> outcomes

Deliveries only queue; ``take`` unpickles them in whatever thread wants the outcomes. So a result that is slow to
unpickle delays no heartbeat.
"""
from __future__ import absolute_import, division, print_function

import logging
import os
import threading
from collections import namedtuple

from .. import errors
from ..brain import scheduler  # noqa: F401 # in type comments
from ..brain.options import DEFAULTS
from ..brain.status import ClusterStatus, JobStatus  # noqa: F401 # in a type comment
from ..compat import Mailbox, monotonic, native, queue
from ..payload import fingerprints, sources, values
from . import journal
from .window import Window  # noqa: F401 # in a type comment

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable, Iterable, Sequence  # noqa: F401 # novm

log = logging.getLogger("minimalcluster")

#: Longer waits are cut to this: the timeout of a lock is bounded (Windows: 2^32 ms, 49 days).
WAIT_SECONDS_MAX = 1e6

#: values: one per task from ``first`` on; a ``Failure`` in place of each that failed.
Outcomes = namedtuple("Outcomes", "first values")
#: The job is over: error is None, or why it ended early.
End = namedtuple("End", "error")


class Failure(object):
    """In place of a result: the exception, the node, and the task's argument where somebody will ask for it."""

    __slots__ = ("argument", "error", "node")

    def __init__(self, error, node):
        # type: (BaseException, str) -> None
        self.error, self.node = error, node
        self.argument = None  # type: object


def check_process(pid):
    # type: (int) -> None
    """Nothing ever comes to a forked process: raise StateError instead of waiting for it."""
    if pid != os.getpid():
        raise errors.StateError("these results belong to the process that asked for them; a fork gets none")


def seconds_until(moment):
    # type: (float) -> float
    """How long to wait for this moment of ``monotonic``. A wait may end before the moment, so look again after it."""
    return min(max(0.0, moment - monotonic()), WAIT_SECONDS_MAX)


class Runner(object):
    """What a job asks of the cluster that runs it, from any thread. See ``Cluster``."""

    def submit(self, job):
        # type: (Job) -> int
        """Run the job; the number by which the other calls name it."""
        raise NotImplementedError

    def grew(self, number, job):
        # type: (int, Job) -> None
        """The job's ``total`` or ``closed``, or the limit of its window, has changed."""
        raise NotImplementedError

    def cancel(self, number):
        # type: (int) -> None
        """End what runs and deliver nothing more."""
        raise NotImplementedError

    def stop_job(self, number):
        # type: (int) -> None
        """Hand out nothing more; what runs may end and counts."""
        raise NotImplementedError

    def cancel_task(self, number, task):
        # type: (int, int) -> None
        """Deliver nothing for this task; end the worker process that runs it."""
        raise NotImplementedError

    def status(self, numbers=None):
        # type: (Iterable[int] | None) -> ClusterStatus
        """How far these jobs are. Raises StateError if the cluster does not run."""
        raise NotImplementedError


class Job(object):
    """A job: what the cluster reads of it and calls on it, and where its outcomes wait for the user's thread.

    A subclass has ``options``, ``total``, ``closed``, ``definition`` and ``encode``. What the cluster calls in its own
    thread must not block: ``definition``, ``encode``, ``granted``, ``slots_changed``, ``taken_back``, the
    three ``deliver...``, ``limit``, ``is_ahead``, ``blocked_reason``, ``finished`` and ``crashed``.
    """

    #: For people: the job's, and its function's.
    name = function_name = "job"
    #: By which the cluster knows it; 0 before ``submit_to``.
    number = 0
    #: How it is run.
    options = DEFAULTS
    #: The sources of the project's modules that its tasks run; the cluster sets it at ``submit``.
    code = sources.Code(0, {})
    #: What unpickles results and exceptions; the cluster sets it at ``submit``.
    load = staticmethod(values.loads)  # type: Callable[[Any], Any]
    #: The cluster has been told that ``total`` or ``closed`` changed, and has not looked at them since.
    announced = False
    #: How far it may be handed out ahead of the results that were taken. None: any number of results may wait.
    window = None  # type: Window | None
    #: Where the outcomes are kept. The cluster acknowledges a result to its node only after ``sync``.
    journal = None  # type: journal.OutcomeLog | None
    #: What the journal knows: (spans of tasks with outcomes, attempts that may still run as (number, first, end)).
    resumed = None  # type: tuple[list[tuple[int, int]], list[tuple[int, int, int]]] | None

    def __init__(self):
        # type: () -> None
        self._pid = os.getpid()
        self._outcomes_count = self._failures_count = 0
        self.known = 0  # how many outcomes the journal has brought
        self._arrivals = Mailbox()
        self.over = threading.Event()  # nothing more will arrive
        self._runner = None  # type: Runner | None
        self.cancelled = False
        self._stopped_before = False  # by a failure in an earlier run, says the journal

    @property
    def total(self):
        # type: () -> int
        """How many tasks there are so far. Whoever changes this or ``closed`` calls ``Runner.grew``."""
        raise NotImplementedError

    @property
    def closed(self):
        # type: () -> bool
        """No more tasks follow."""
        raise NotImplementedError

    def definition(self):
        # type: () -> tuple[dict[str, Any], list[bytes]]
        """(info, buffers) of DefineJob: the function and what a worker process needs for it."""
        raise NotImplementedError

    def encode(self, first, count):
        # type: (int, int) -> list[bytes]
        """The arguments of these tasks, as the buffers of a Grant."""
        raise NotImplementedError

    # -- in the cluster's thread ------------------------------------------------------------------

    def granted(self, attempt, first, count):
        # type: (int, int, int) -> None
        """These tasks go to a node of another machine, which may finish them for the next master, too."""
        if self.journal is not None:
            self.journal.grant(attempt, first, count)

    def blocked_reason(self):
        # type: () -> str | None
        """Why nothing of it runs although more may come, for people; None if there is no such reason."""
        window = self.window
        return None if window is None else window.wait()

    def limit(self, slots):
        # type: (int) -> int | None
        """How far it may be handed out now, to so many worker processes; None: as far as it goes."""
        window = self.window  # once: another thread may take it away
        return None if window is None else window.limit_for(slots)

    def is_ahead(self):
        # type: () -> bool
        """Too many results wait to be taken since now: its limit has changed."""
        window = self.window
        return window is not None and window.has_filled()

    def _came(self, first, count, buffers):
        # type: (int, int, list[Any]) -> None
        window = self.window
        if window is not None:
            window.came(first, count, sum(map(len, buffers)))

    def slots_changed(self, slots):
        # type: (int) -> None
        """The nodes that take work have so many worker processes: at the begin of the job, and after each change."""

    def taken_back(self, first, end):
        # type: (int, int) -> None
        """A node has given these tasks back; none of them had begun."""

    def deliver(self, first, count, skip, buffers):
        # type: (int, int, int, list[Any]) -> None
        """Results of ``count`` tasks from ``first`` on; the first ``skip`` of them were delivered before."""
        self._outcomes_count += count - skip
        if self.journal is not None:
            self.journal.done(first, count, buffers)
        self._came(first + skip, count - skip, buffers)
        self.arrive(_results, self.load, first, count, skip, buffers)

    def deliver_failure(self, first, node, info, buffers):
        # type: (int, str, dict[str, Any], list[Any]) -> None
        """The task raised this exception on this node."""
        self._outcomes_count += 1
        self._failures_count += 1
        if self.journal is not None:
            self.journal.failed(first, info, buffers)
        self._came(first, 1, [info.get("traceback", "")] + list(buffers))
        self.arrive(_failure, self.load, first, node, info, buffers)

    def deliver_poison(self, first, deaths):
        # type: (int, Sequence[scheduler.Death]) -> None
        """The task ended its worker process each time it ran."""
        self._outcomes_count += 1
        self._failures_count += 1
        error = _worker_died(deaths)
        if self.journal is not None:
            self.journal.failed(first, *values.encode_exception(error, 0))
        error.argument = self.argument(first)
        self._came(first, 1, [str(error)])
        self.arrive(Outcomes, first, [Failure(error, deaths[-1].node)])

    def arrive(self, *arrival):
        # type: (*Any) -> None
        """Queue a function and its arguments; ``take`` calls it in the thread that wants the outcome."""
        self._arrivals.put(arrival)

    def argument(self, index):
        # type: (int) -> object
        """The task's argument, for errors; None if no single argument stands for the task."""

    def finished(self, unfit):
        # type: (dict[str, Any] | None) -> None
        """All outcomes were delivered; or no node can run the job, and ``unfit`` is the last node's exception."""
        self.close_journal()
        self.arrive(_end, unfit)
        self.over.set()

    def crashed(self, error):
        # type: (BaseException) -> None
        """The job ends early: the cluster was stopped, or the job itself raised."""
        self.close_journal()
        self.arrive(End, error)
        self.over.set()

    def close_journal(self):
        # type: () -> None
        """Called before the end is told: the next job may open the same file."""
        if self.journal is not None:
            self.journal.close()

    # -- in the user's threads --------------------------------------------------------------------

    def submit_to(self, runner):
        # type: (Runner) -> None
        """Raises what the runner raises; an engine may refuse a job."""
        try:
            self.number = runner.submit(self)
        except BaseException:
            self.close_journal()
            raise
        self._runner = runner
        if self._stopped_before:
            runner.stop_job(self.number)

    def cancel(self):
        # type: () -> None
        """End what runs; nothing more is delivered. May be called again, and when the job is over."""
        if not self.cancelled:
            self.cancelled = True
            if self._runner is not None:
                self._runner.cancel(self.number)
            self.close_journal()

    def stop(self):
        # type: () -> None
        """Hand out nothing more; what runs may end and counts."""
        if self._runner is not None:
            self._runner.stop_job(self.number)

    def status(self):
        # type: () -> JobStatus
        """How far it is; when it is over, how far it came."""
        try:
            for status in self._runner.status([self.number]).jobs if self._runner is not None else ():
                return status
        except errors.StateError:
            pass  # shut down
        done, failed = self._outcomes_count, self._failures_count
        return JobStatus(self.name, self.total, done, failed, 0, 0, 0, None, None, "it is over")

    # What a ``Reader`` asks for.

    def wanted(self):
        # type: () -> None
        """Somebody asks for a result."""

    def read_ahead(self):
        # type: () -> None
        """No outcome is there that can be given: the thread that waits for one may do something for it."""
        window = self.window
        if window is not None and window.waits():
            self.grew()

    def took(self, first, count):
        # type: (int, int) -> None
        """The outcomes of these tasks, which came together, are being given."""
        window = self.window
        if window is not None and window.took(first, count):
            self.grew()

    def grew(self):
        # type: () -> None
        """Tell the cluster that ``total``, ``closed`` or the limit has changed."""
        if self._runner is not None:
            self._runner.grew(self.number, self)

    def argument_in(self, first, index):
        # type: (int, int) -> object
        """The argument of the task ``index``, whose outcome came with that of the task ``first``."""
        return self.argument(index)

    def error_of(self, error):
        # type: (BaseException) -> BaseException
        """What the user is told of an early end by this error."""
        return error

    def error_behind(self):
        # type: () -> BaseException | None
        """What is to be raised behind the last result of a job that was not ended early."""

    # The journal.

    def resume(self, target, items):
        # type: (str, Sequence[Any]) -> None
        """Keep a journal; what earlier runs have left in it arrives first. See ``keep_journal``."""
        for outcomes in self.keep_journal(target, items):
            self.arrive(Outcomes, *outcomes)
            if self.options.stop_on_error and Failure in map(type, outcomes.values):
                self._stopped_before = True

    def keep_journal(self, target, items):
        # type: (str, Sequence[Any]) -> list[Outcomes]
        """Write the journal of its options. Returns what it knows already. Raises JournalError, OSError.

        target: a digest of all that a result depends on, but for the items.
        """
        keys = _Keys(items)
        arguments = keys.digest()
        path = self.options.journal
        opened = journal.Journal(path)
        try:
            found, failed = [], 0
            for known in opened.outcomes(target, arguments, keys, len(items)):
                found += _from_journal(known, items, path)
                failed += len(known.tasks) if isinstance(known, journal.Failed) else 0
            opened.begin(target, arguments, len(items), self.name, keys)
        except BaseException:
            opened.close()
            raise
        found.sort(key=lambda outcomes: outcomes.first)
        done = sum(len(outcomes.values) for outcomes in found)
        if done:
            text = "%d of %d outcomes are taken from %s, %d of them failures"
            log.info(text, done, len(items), path, failed)
        elif opened.runs_count:
            log.warning("nothing in %s is of this function, its source and these arguments: all of it runs", path)
        self._outcomes_count, self._failures_count = done, failed
        self.known = done
        spans = merged_spans((first, first + len(outcomes)) for first, outcomes in found)
        self.resumed = (spans, [(attempt, first, first + count) for attempt, first, count in opened.grants])
        self.journal = opened
        return found

    def take(self, seconds=None):
        # type: (float | None) -> Any
        """The next arrival, decoded: Outcomes, End, or what else ``arrive`` was given. None if none comes in time.

        Raises StateError in a forked process, where nothing ever arrives.
        """
        check_process(self._pid)
        try:
            arrival = self._arrivals.get(True, seconds)
        except queue.Empty:
            return None
        return arrival[0](*arrival[1:])


def _results(load, first, count, skip, buffers):
    # type: (Callable[[Any], Any], int, int, int, list) -> Outcomes
    return Outcomes(first + skip, with_failures(values.decode_results(buffers, count, skip, load), "this machine"))


def with_failures(results, node):
    # type: (list[Any], str) -> list[Any]
    """The results, with a Failure in place of each that could not be unpickled or sent."""
    if type(results) is not values.Plain:
        for index, result in enumerate(results):
            if isinstance(result, values.Misfit):
                results[index] = Failure(result.error, node)
    return results


def _from_journal(known, items, path):
    # type: (journal.Done | journal.Failed, Sequence[Any], str) -> list[Outcomes]
    if isinstance(known, journal.Done):
        results = with_failures(values.decode_results(known.buffers, known.size), "the journal")
        return [Outcomes(first, results[place : place + count]) for first, place, count in known.spans]
    found = []
    for task in known.tasks:
        error = values.decode_exception(known.info, known.buffers)
        if isinstance(error, errors.WorkerDied):
            error.argument = items[task]
        found.append(Outcomes(task, [Failure(error, "an earlier run (kept in %s; remove it to run all again)" % path)]))
    return found


def _failure(load, first, node, info, buffers):
    # type: (Callable[[Any], Any], int, str, dict, list) -> Outcomes
    return Outcomes(first, [Failure(values.decode_exception(info, buffers, load), node)])


def _worker_died(deaths):
    # type: (Sequence[scheduler.Death]) -> errors.WorkerDied
    nodes = [death.node for death in deaths]
    last = deaths[-1].info
    how = native(last.get("exit", "?"))
    lines = [native(line) for line in last.get("lines", ())]
    text = "the worker process died each of %d times it ran this task: %s, on %s" % (
        len(deaths), how, ", ".join(sorted(set(nodes))),
    )  # fmt: skip
    peak = last.get("peak_memory")
    if peak:
        text += "; it had up to %.0f MB of memory" % (peak / 1e6)
    if lines:
        text += "; it last wrote:\n  " + "\n  ".join(lines)
    return errors.WorkerDied(text, how, nodes, lines, peak)


def _end(unfit):
    # type: (dict | None) -> End
    if unfit is None:
        return End(None)
    if unfit.get("type") == "StartError":
        return End(errors.StartError(native(unfit["text"])))
    cause = values.decode_exception(unfit, [])
    error = errors.SourceError("no node can run this job; the last one said: %s" % cause)
    error.__cause__ = cause
    return End(error)


class _Keys(object):
    """The arguments' journal keys, 16 bytes each, made once and only if somebody asks: they take their time."""

    def __init__(self, arguments):
        # type: (Sequence[Any]) -> None
        self._arguments = arguments
        self._keys = None  # type: list[bytes] | None

    def __call__(self):
        # type: () -> list[bytes]
        if self._keys is None:
            content = fingerprints.Contents().of_value
            self._keys = [journal.content_key(content(value)) for value in self._arguments]
        return self._keys

    def digest(self):
        # type: () -> str
        return values.digest([b"".join(self())])


def merged_spans(sorted_spans):
    # type: (Iterable[tuple[int, int]]) -> list[tuple[int, int]]
    """(first, end) of tasks, without those that begin where another one ends: the two are one."""
    spans = []  # type: list[tuple[int, int]]
    for first, end in sorted_spans:
        spans.append((spans.pop()[0] if spans and spans[-1][1] == first else first, end))
    return spans


_NOT_OF_THE_JOB = ("main", "main_digest", "main_module", "main_is_code", "argv", "initializer")


def target_digest(info, parts):
    # type: (dict[str, Any], Iterable[bytes]) -> str
    """Whether it is still the same job, says a journal. parts: the contents of its definition's buffers.

    How the script was called this time does not count, nor the token that an initializer has in each run. The script's
    source counts with what names something of it.
    """
    about = sorted((name, value) for name, value in info.items() if name not in _NOT_OF_THE_JOB)
    return values.digest([repr(about).encode("utf-8")] + list(parts))

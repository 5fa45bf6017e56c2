"""The user's side of a job: what arrives in the cluster's thread is taken in the user's own.

``Job`` is what ``Cluster`` expects of a job (see there): its deliveries only queue; ``take`` decodes
them in whatever thread wants the outcomes, so that nobody's slow unpickling delays a heartbeat.
"""
from __future__ import absolute_import, division, print_function

import logging
import os
import threading
from collections import namedtuple

from .. import errors
from ..brain import leases
from ..brain.status import JobStatus
from ..compat import Mailbox, integer_types, monotonic, native, ordered_dict, queue, text_type
from ..payload import fingerprints, values
from . import journal
from .progress import progress_for
from .terminable import Terminable

log = logging.getLogger("minimalcluster")

FINISH, STOP, RETURN = "finish", "stop", "return"  # on_error
#: How long running tasks may still end after the first Ctrl-C.
INTERRUPT_SECONDS = 1.5
#: So many bytes of results may wait for who iterates; then nothing more is handed out until half of them are read.
UNREAD_BYTES = 64 << 20
#: Wake up this often while waiting, so that Ctrl-C is heard where a lock's wait cannot be interrupted.
WAIT_SECONDS = 1.0
#: No system can wait for any time at once; Windows for 49 days.
WAIT_SECONDS_MAX = 1e6

#: What to run: its name for people, and its definition for the nodes (see functions.py).
#: contents: gives what a journal knows it by, several bytes.
Target = namedtuple("Target", "name info buffers contents")
#: values: one per task from ``first`` on; a ``Failure`` in place of each that failed.
Outcomes = namedtuple("Outcomes", "first values")
#: The job is over: error is None, or why it ended early.
End = namedtuple("End", "error")


class Terms(namedtuple("Terms", "on_error chunksize retries attempts_max timeout deadline journal idempotent")):
    """How a job is run. on_error: "finish" runs everything, then raises; "stop" hands out nothing
    more after the first failure; "return" gives exceptions as results. chunksize: tasks shipped
    together, None lets the cluster measure. retries: how often a task that raises is tried again
    (0). attempts_max: how many worker processes a task may take with it (3). timeout: seconds for
    each task's own code (none); then its process is ended. deadline: seconds for the whole job (none).
    journal: path of a file that keeps every outcome (none). idempotent: at the job's end a task that
    takes too long may run on a second node too (False). After a loss a task runs again either way.
    """

    __slots__ = ()

    @classmethod
    def of(
        cls, on_error=FINISH, chunksize=None, retries=0, attempts_max=3, timeout=None, deadline=None, journal=None,
        idempotent=False,
    ):  # fmt: skip
        # type: (str, int | None, int, int, float | None, float | None, str | None, bool) -> Terms
        """Raises ValueError that names the option and what it may be."""
        if on_error not in (FINISH, STOP, RETURN):
            raise ValueError("on_error must be 'finish', 'stop' or 'return', not %r" % (on_error,))
        checked_chunksize(chunksize)
        for name, number, least in (("retries", retries, 0), ("attempts_max", attempts_max, 1)):
            if not isinstance(number, integer_types) or number < least:
                raise ValueError("%s must be a whole number from %d on, not %r" % (name, least, number))
        for name, seconds in (("timeout", timeout), ("deadline", deadline)):
            is_number = isinstance(seconds, integer_types + (float,)) and not isinstance(seconds, bool)
            if seconds is not None and not (is_number and seconds > 0):
                raise ValueError("%s must be a number of seconds greater than 0, not %r" % (name, seconds))
        is_path = isinstance(journal, (bytes, text_type)) or hasattr(journal, "__fspath__")
        if journal is not None and (not is_path or not journal):
            raise ValueError("journal must be the path of a file, not %r" % (journal,))
        if not isinstance(idempotent, bool):
            raise ValueError("idempotent must be True or False, not %r" % (idempotent,))
        return cls(on_error, chunksize, retries, attempts_max, timeout, deadline, journal, idempotent)

    def options(self):
        # type: () -> leases.Options
        """The scheduler's part of them."""
        return leases.DEFAULTS._replace(
            # A limit in time is for one task: its chunk is ended with it.
            chunksize=self.chunksize if self.timeout is None else 1,
            retries=self.retries, attempts_max=self.attempts_max, stop_on_error=self.on_error == STOP,
            idempotent=self.idempotent,
        )  # fmt: skip


def check_process(pid):
    # type: (int) -> None
    """Nothing ever comes to a forked process: raise StateError instead of waiting for it."""
    if pid != os.getpid():
        raise errors.StateError("these results belong to the process that asked for them; a fork gets none")


def seconds_until(moment):
    # type: (float) -> float
    """To be waited at once; whoever waits looks then whether the moment, of ``monotonic``, has come."""
    return min(max(0.0, moment - monotonic()), WAIT_SECONDS_MAX)


def checked_chunksize(chunksize):
    # type: (int | None) -> int | None
    if chunksize is not None and (not isinstance(chunksize, integer_types) or chunksize < 1):
        raise ValueError(
            "chunksize must be a whole number from 1 on, or None to let the cluster measure, not %r" % (chunksize,)
        )
    return chunksize


class Failure(object):
    """In place of a result: the exception, the node, and the task's argument where somebody will ask for it."""

    __slots__ = ("argument", "error", "node")

    def __init__(self, error, node):
        # type: (BaseException, str) -> None
        self.error, self.node = error, node
        self.argument = None  # type: object


class Job(object):
    """Subclasses set ``total``, ``closed``, ``options`` and have ``definition()`` and ``encode(first, count)``."""

    name = "job"  # for people

    def __init__(self):
        # type: () -> None
        self._pid = os.getpid()
        self._outcomes_told = self._failures_told = 0
        self._arrivals = Mailbox()  # type: queue.Queue
        self.over = threading.Event()  # all has arrived that will
        self.announced = False  # the cluster will look at ``total`` and ``closed`` anyway
        self.unread_max = None  # type: int | None # bytes; None: results are taken as they come, or kept anyway
        self.paused = False
        self._bytes_in = self._bytes_out = 0  # delivered, in the cluster's thread; taken, in the user's
        self.journal = None  # type: journal.Journal | None # synced by the cluster before it acknowledges
        self.resumed = None  # type: tuple | None # (spans done, attempts that may still run), from the journal

    # -- in the cluster's thread ------------------------------------------------------------------

    def granted(self, attempt, first, count):
        # type: (int, int, int) -> None
        if self.journal is not None:
            self.journal.grant(attempt, first, count)

    def held_up(self):
        # type: () -> str | None
        """Why nothing is handed out though more may come."""
        if self.paused:
            return "%.0f MB of results wait for who reads them; nothing is handed out meanwhile" % (self._unread / 1e6)
        return None

    @property
    def _unread(self):
        # type: () -> int
        return self._bytes_in - self._bytes_out

    def crowded(self):
        # type: () -> bool
        most = self.unread_max  # once: another thread may take the limit away
        return most is not None and self._unread > (most // 2 if self.paused else most)

    def taken_back(self, first, end):
        # type: (int, int) -> None
        """A node has given these tasks back; none of them had begun."""

    def deliver(self, first, count, skip, buffers):
        # type: (int, int, int, list) -> None
        self._outcomes_told += count - skip
        if self.journal is not None:
            self.journal.done(first, count, buffers)
        if self.unread_max is not None:
            self._bytes_in += sum(map(len, buffers))
        self.arrive(_results, first, count, skip, buffers)

    def deliver_failure(self, first, node, info, buffers):
        # type: (int, str, dict, list) -> None
        self._outcomes_told += 1
        self._failures_told += 1
        if self.journal is not None:
            self.journal.failed(first, info, buffers)
        self.arrive(_failure, first, node, info, buffers)

    def deliver_poison(self, first, deaths):
        # type: (int, tuple) -> None
        self._outcomes_told += 1
        self._failures_told += 1
        error = _worker_died(deaths)
        if self.journal is not None:
            self.journal.failed(first, *values.encode_exception(error, 0))
        error.argument = self.argument(first)
        self.arrive(Outcomes, first, [Failure(error, deaths[-1].node)])

    def arrive(self, *arrival):
        # type: (*object) -> None
        """What ``take`` makes an outcome of, in whatever thread wants it: a function and its arguments."""
        self._arrivals.put(arrival)

    def argument(self, index):
        # type: (int) -> object
        """What its user calls this task by, for errors; None where it has no argument that is all of it."""

    def finished(self, unfit):
        # type: (dict | None) -> None
        self.close_journal()
        self.arrive(_end, unfit)
        self.over.set()

    def crashed(self, error):
        # type: (BaseException) -> None
        self.close_journal()
        self.arrive(End, error)
        self.over.set()

    def close_journal(self):
        # type: () -> None
        """Before anybody hears of the end: the next job may want the file."""
        if self.journal is not None:
            self.journal.close()

    # -- in the user's thread ---------------------------------------------------------------------

    def keep_journal(self, path, target, items):
        # type: (str, str, range | tuple | list) -> list[Outcomes]
        """Write a journal of this job. Returns what it knows already. Raises JournalError, OSError.

        target: a digest of all that a result depends on, but for the items.
        """
        keys = _Keys(items)
        arguments = keys.digest()
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
        self._outcomes_told, self._failures_told = done, failed
        spans = _spans((first, first + len(outcomes)) for first, outcomes in found)
        self.resumed = (spans, [(attempt, first, first + count) for attempt, first, count in opened.grants])
        self.journal = opened
        return found

    def status(self, cluster, number):
        # type: (object, int) -> JobStatus
        """How far it is; when it is over, how far it came."""
        try:
            for told in cluster.status([number]).jobs:  # type: ignore[attr-defined]
                return told
        except errors.StateError:
            pass  # shut down
        done, failed = self._outcomes_told, self._failures_told
        return JobStatus(self.name, self.total, done, failed, 0, 0, 0, None, None, "it is over")  # type: ignore[attr-defined]

    def take(self, seconds=None):
        # type: (float | None) -> Outcomes | End | None
        """The next arrival, decoded; None when nothing comes within the time, StateError where nothing ever can."""
        check_process(self._pid)
        try:
            arrival = self._arrivals.get(True, seconds)
        except queue.Empty:
            return None
        if self.unread_max is not None and arrival[0] is _results:
            self._bytes_out += sum(map(len, arrival[-1]))
        return arrival[0](*arrival[1:])


def _results(first, count, skip, buffers):
    # type: (int, int, int, list) -> Outcomes
    return Outcomes(first + skip, with_failures(values.decode_results(buffers, count, skip), "this machine"))


def with_failures(results, node):
    # type: (list, str) -> list
    if not values.all_scalars(results):
        for index, result in enumerate(results):
            if isinstance(result, values.Misfit):
                results[index] = Failure(result.error, node)
    return results


def _from_journal(known, items, path):
    # type: (journal.Done | journal.Failed, range | tuple | list, str) -> list[Outcomes]
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


def _failure(first, node, info, buffers):
    # type: (int, str, dict, list) -> Outcomes
    return Outcomes(first, [Failure(values.decode_exception(info, buffers), node)])


def _worker_died(deaths):
    # type: (tuple) -> errors.WorkerDied
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


class ListedJob(Job):
    """One function over arguments that are all there: ``run`` gives a dict by key, ``iterate`` pairs as they come."""

    closed = True

    def __init__(self, target, keys, arguments, terms, shown=None):
        # type: (Target, range | tuple | list, values.AnyArguments, Terms, range | list | None) -> None
        super(ListedJob, self).__init__()
        self._target, self._keys, self._arguments = target, keys, arguments
        self.name = target.name
        self._terms, self._on_error = terms, terms.on_error
        self._shown = keys if shown is None else shown  # what an error names as the argument
        self.total = len(arguments)
        self.options = terms.options()
        self._outcomes = [_MISSING] * self.total  # type: list
        self._failed = {}  # type: dict # index -> node
        self._known = self._done = 0  # outcomes that the journal brought; all that are there
        if terms.journal is not None:
            digest = target_digest(target.info, target.contents())
            for outcomes in self.keep_journal(terms.journal, digest, self._shown):
                self._known += len(outcomes.values)
                self._keep(outcomes)

    def _submit(self, cluster):
        # type: (object) -> int
        try:
            number = cluster.submit(self)  # type: ignore[attr-defined]
        except BaseException:  # an engine may refuse it
            self.close_journal()
            raise
        if self._failed and self._on_error == STOP:
            cluster.stop_job(number)  # type: ignore[attr-defined] # the journal knows what stopped it
        return number

    def definition(self):
        # type: () -> tuple
        info = self._target.info
        return (info if self._terms.timeout is None else dict(info, timeout=self._terms.timeout)), self._target.buffers

    def encode(self, first, count):
        # type: (int, int) -> list
        return self._arguments.encode(first, count)

    def argument(self, index):
        # type: (int) -> object
        return self._shown[index]

    def run(self, cluster, progress):
        # type: (object, object) -> dict
        number = self._submit(cluster)
        self._done = self._known
        try:
            with Terminable():
                end = self._collect(progress, self._terms.deadline)
            if end is None:
                self._end_early(cluster, number, 0.0)
        except KeyboardInterrupt:
            self._end_early(cluster, number, INTERRUPT_SECONDS)
            raise errors.Interrupted(*self._parted())
        finally:
            cluster.cancel(number)  # type: ignore[attr-defined] # over already, or nobody wants the rest
            try:
                progress.end(self._done)  # type: ignore[attr-defined]
            finally:
                self.close_journal()
        if end is None:
            raise self._too_late()
        return self._result(end.error)

    def _collect(self, progress, seconds):
        # type: (object, float | None) -> End | None
        """Keep what comes until the job's end; None when that does not come within the time."""
        until = None if seconds is None else monotonic() + seconds
        while True:
            wait = WAIT_SECONDS if until is None else min(WAIT_SECONDS, until - monotonic())
            if wait < 0 and not self.over.is_set():
                return None
            arrival = self.take(max(0.0, wait))
            if isinstance(arrival, End):
                return arrival
            if arrival is not None:
                self._keep(arrival)
                self._done += len(arrival.values)
            progress.show(self._done)  # type: ignore[attr-defined]

    def _end_early(self, cluster, number, seconds):
        # type: (object, int, float) -> None
        """Hand out nothing more and take what is done; a second Ctrl-C does not wait for what still runs."""
        cluster.stop_job(number)  # type: ignore[attr-defined]
        try:
            self._collect(progress_for(False, self.total), seconds)
        except KeyboardInterrupt:
            pass

    def _parted(self):
        # type: () -> tuple[dict, dict]
        """(results, errors) of what is there."""
        results, failures = ordered_dict(), ordered_dict()
        for index, (key, outcome) in enumerate(zip(self._keys, self._outcomes)):
            if index in self._failed:
                failures[key] = outcome
            elif outcome is not _MISSING and outcome is not _GIVEN:
                results[key] = outcome
        return results, failures

    def _too_late(self):
        # type: () -> errors.DeadlineExceeded
        results, failures = self._parted()
        text = "the deadline of %g s has passed: %d of %d tasks have an outcome, in .results and .errors" % (
            self._terms.deadline or 0.0, sum(outcome is not _MISSING for outcome in self._outcomes), self.total,
        )  # fmt: skip
        return errors.DeadlineExceeded(text, results, failures)

    def iterate(self, cluster, ordered):
        # type: (object, bool) -> object
        """Submits now; (key, result) as they come. What has been given is not kept."""
        seconds = self._terms.deadline
        until = None if seconds is None else monotonic() + seconds
        self.unread_max = UNREAD_BYTES
        number = self._submit(cluster)
        pairs = self._pairs(cluster, number, ordered, until)
        next(pairs)  # type: ignore[call-overload] # entered: its end cancels the job, though nobody may ever ask it
        return Pairs(pairs, lambda: self.status(cluster, number))

    def _pairs(self, cluster, number, ordered, until):
        # type: (object, int, bool, float | None) -> object
        frontier, arrival = 0, None
        indexes = [index for index, outcome in enumerate(self._outcomes) if outcome is not _MISSING]  # the journal's
        try:
            yield
            while not isinstance(arrival, End):
                if ordered:
                    start = frontier
                    while frontier < self.total and self._outcomes[frontier] is not _MISSING:
                        frontier += 1
                    indexes = list(range(start, frontier))
                for index in indexes:
                    if index not in self._failed or self._on_error == RETURN:
                        pair = self._keys[index], self._outcomes[index]
                        self._outcomes[index] = _GIVEN
                        yield pair
                indexes = []
                wait = WAIT_SECONDS if until is None else min(WAIT_SECONDS, until - monotonic())
                if wait < 0 and not self.over.is_set():  # who reads slowly is not late for what is done
                    raise self._too_late()
                with Terminable():
                    arrival = self.take(max(0.0, wait))
                cluster.read(number, self)  # type: ignore[attr-defined]
                if isinstance(arrival, Outcomes):
                    self._keep(arrival)
                    indexes = list(range(arrival.first, arrival.first + len(arrival.values)))
        except KeyboardInterrupt:
            raise errors.Interrupted(*self._parted())
        finally:
            cluster.cancel(number)  # type: ignore[attr-defined] # over already, or nobody wants the rest
            self.close_journal()
        if arrival.error is not None:
            raise arrival.error
        if self._failed and self._on_error != RETURN:
            raise self._task_error()

    def _keep(self, outcomes):
        # type: (Outcomes) -> None
        first, found = outcomes
        self._outcomes[first : first + len(found)] = found
        if values.all_scalars(found):
            return
        for index, outcome in enumerate(found, first):
            if isinstance(outcome, Failure):
                self._failed[index] = outcome.node
                self._outcomes[index] = outcome.error

    def _result(self, error):
        # type: (BaseException | None) -> dict
        if error is not None:
            raise error
        if not self._failed or self._on_error == RETURN:
            return ordered_dict(zip(self._keys, self._outcomes))
        raise self._task_error()

    def _task_error(self):
        # type: () -> errors.TaskError
        results, failures = self._parted()
        first = min(self._failed)
        told = self._shown[first], self._failed[first], self._outcomes[first]
        return task_error(self._target.name, self.total, told, results, failures, self._on_error == STOP)


def task_error(name, total, first, results, failures, stopped):
    # type: (str, int, tuple, dict, dict, bool) -> errors.TaskError
    """Of a job with failed tasks. first: argument, node and exception of the first of them."""
    argument, node, cause = first
    text = "%d of %d tasks failed, the first of them %s(%s) on %s with %s: %s" % (
        len(failures), total, name, values.shortened(argument), node, type(cause).__name__, cause,
    )  # fmt: skip
    if stopped:
        text += " (stopped there: %d tasks were not run)" % (total - len(results) - len(failures))
    remote = getattr(cause, "__cause__", None)  # py2: only who was given one has one
    if isinstance(remote, errors.RemoteTraceback):
        text += "\n" + remote.tb
    error = errors.TaskError(text, argument, node, results, failures)
    error.__cause__ = cause
    return error


class Pairs(object):
    """What ``imap`` gives: an iterator of (argument, result). ``close`` cancels the rest, as dropping it does."""

    def __init__(self, pairs, status):
        # type: (object, object) -> None
        self._pairs, self._status = pairs, status

    def __iter__(self):
        # type: () -> Pairs
        return self

    def __next__(self):
        # type: () -> tuple
        return next(self._pairs)  # type: ignore[call-overload]

    next = __next__  # py2

    def close(self):
        # type: () -> None
        self._pairs.close()  # type: ignore[attr-defined]

    def status(self):
        # type: () -> JobStatus
        """How far the job is, and what it waits for; from any thread. ``str`` of it is one line."""
        return self._status()  # type: ignore[operator]


def _spans(sorted_spans):
    # type: (object) -> list[tuple[int, int]]
    """(first, end) of tasks, without those that begin where another one ends: the two are one."""
    spans = []  # type: list[tuple[int, int]]
    for first, end in sorted_spans:  # type: ignore[attr-defined]
        spans.append((spans.pop()[0] if spans and spans[-1][1] == first else first, end))
    return spans


_NOT_OF_THE_JOB = ("main", "main_digest", "main_module", "main_is_code", "argv", "initializer")


def target_digest(info, parts):
    # type: (dict, object) -> str
    """Whether it is still the same job, says a journal. parts: the contents of its definition's buffers.

    How the script was called this time does not count, nor the token that an initializer has in each run. The script's
    source counts with what names something of it.
    """
    about = sorted((name, value) for name, value in info.items() if name not in _NOT_OF_THE_JOB)
    return values.digest([repr(about).encode("utf-8")] + list(parts))  # type: ignore[call-overload]


class _Keys(object):
    """The arguments' journal keys, 16 bytes each, made once and only if somebody asks: they take their time."""

    def __init__(self, arguments):
        # type: (range | tuple | list) -> None
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


_MISSING, _GIVEN = object(), object()

"""A job over arguments that are all there, for ``MasterNode``'s calls: in the user's thread."""
from __future__ import absolute_import, division, print_function

from collections import namedtuple

from .. import errors
from ..brain import leases
from ..brain.status import JobStatus  # noqa: F401 # in a type comment
from ..compat import integer_types, monotonic, ordered_dict, text_type
from ..payload import values
from .job import End, Failure, Job, Outcomes, Runner, target_digest  # noqa: F401 # in a type comment
from .progress import Progress, progress_for  # noqa: F401 # in a type comment
from .terminable import Terminable

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable, Generator, Sequence  # noqa: F401 # novm

FINISH, STOP, RETURN = "finish", "stop", "return"  # on_error
#: How long running tasks may still end after the first Ctrl-C.
INTERRUPT_SECONDS = 1.5
#: So many bytes of results may wait for who iterates; then nothing more is handed out until half of them are read.
UNREAD_BYTES = 64 << 20
#: Wake up this often while waiting, so that Ctrl-C is heard where a lock's wait cannot be interrupted.
WAIT_SECONDS = 1.0

#: What to run: its name for people, and its definition for the nodes (see functions.py).
#: contents: gives what a journal knows it by, several bytes.
Target = namedtuple("Target", "name info buffers contents")


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


def checked_chunksize(chunksize):
    # type: (int | None) -> int | None
    if chunksize is not None and (not isinstance(chunksize, integer_types) or chunksize < 1):
        raise ValueError(
            "chunksize must be a whole number from 1 on, or None to let the cluster measure, not %r" % (chunksize,)
        )
    return chunksize


class ListedJob(Job):
    """One function over arguments that are all there: ``run`` gives a dict by key, ``iterate`` pairs as they come."""

    total = 0
    closed = True

    def __init__(self, target, keys, arguments, terms, shown=None):
        # type: (Target, Sequence[Any], values.AnyArguments, Terms, Sequence[Any] | None) -> None
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
        # type: (Runner) -> int
        try:
            number = cluster.submit(self)
        except BaseException:  # an engine may refuse it
            self.close_journal()
            raise
        if self._failed and self._on_error == STOP:
            cluster.stop_job(number) # the journal knows what stopped it
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
        # type: (Runner, Progress) -> dict[Any, Any]
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
            cluster.cancel(number) # over already, or nobody wants the rest
            try:
                progress.end(self._done)
            finally:
                self.close_journal()
        if end is None:
            raise self._too_late()
        return self._result(end.error)

    def _collect(self, progress, seconds):
        # type: (Progress, float | None) -> End | None
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
            progress.show(self._done)

    def _end_early(self, cluster, number, seconds):
        # type: (Runner, int, float) -> None
        """Hand out nothing more and take what is done; a second Ctrl-C does not wait for what still runs."""
        cluster.stop_job(number)
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
        # type: (Runner, bool) -> Pairs
        """Submits now; (key, result) as they come. What has been given is not kept."""
        seconds = self._terms.deadline
        until = None if seconds is None else monotonic() + seconds
        self.unread_max = UNREAD_BYTES
        number = self._submit(cluster)
        pairs = self._pairs(cluster, number, ordered, until)
        next(pairs) # entered: its end cancels the job, though nobody may ever ask it
        return Pairs(pairs, lambda: self.status(cluster, number))

    def _pairs(self, cluster, number, ordered, until):
        # type: (Runner, int, bool, float | None) -> Generator[Any, None, None]
        frontier, arrival = 0, None  # type: int, Any
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
                cluster.read(number, self)
                if isinstance(arrival, Outcomes):
                    self._keep(arrival)
                    indexes = list(range(arrival.first, arrival.first + len(arrival.values)))
        except KeyboardInterrupt:
            raise errors.Interrupted(*self._parted())
        finally:
            cluster.cancel(number) # over already, or nobody wants the rest
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
        len(failures), total, name, values.shortened(argument), node, type(cause).__name__, values.text_of(cause),
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
        # type: (Generator[Any, None, None], Callable[[], JobStatus]) -> None
        self._pairs, self._status = pairs, status

    def __iter__(self):
        # type: () -> Pairs
        return self

    def __next__(self):
        # type: () -> tuple[Any, Any]
        return next(self._pairs)

    next = __next__  # py2

    def close(self):
        # type: () -> None
        self._pairs.close()

    def status(self):
        # type: () -> JobStatus
        """How far the job is, and what it waits for; from any thread. ``str`` of it is one line."""
        return self._status()


_MISSING, _GIVEN = object(), object()

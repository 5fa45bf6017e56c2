"""Reads the outcomes of one job, in the thread that wants them. Every face gives results through this.

::

    job.take --> waiting: runs of outcomes that have come --> current: the run that is being given --> next
                                                     |
                                                     +--> kept: all of them, for errors that have .results

* Order: a run is given when all tasks before it have been given, or (not ordered) as soon as it comes.
* ``on_error``: "return" gives exceptions as results; "finish" and "stop" leave failed tasks out, and raise TaskError
  behind the last result; None gives each Failure, and the face decides.
* The deadline counts while the job runs: outcomes of a job that is over can be read at any time.
* An end before all outcomes (deadline, Ctrl-C) says what there is: what has come and was not given, and all that
  is kept.
"""
from __future__ import absolute_import, division, print_function

import itertools

from .. import errors
from ..brain.options import FINISH, RETURN, STOP
from ..compat import monotonic, ordered_dict
from ..payload import values
from .job import End, Failure, Job, Outcomes, seconds_until  # noqa: F401 # in a type comment
from .terminable import Terminable

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable, Iterator, Sequence  # noqa: F401 # novm

#: How long running tasks may still end after the first Ctrl-C.
INTERRUPT_SECONDS = 1.5
#: A run of so many plain outcomes has no large one: chunks are cut by their results' bytes, too.
PLAIN_MIN = 16
#: Wake up this often while waiting, so that Ctrl-C is heard where a lock's wait cannot be interrupted.
WAIT_SECONDS = 1.0


class NotYetError(Exception):
    """No outcome has come until the moment that the caller gave. Nothing has changed: ask again."""


def _as_it_is(error):
    # type: (BaseException) -> BaseException
    return error


class Reader(object):
    """See the module's text. For one thread at a time.

    keeps: hold on to all outcomes until the end. keys: what stands for the tasks in ``.results`` and ``.errors``;
    their positions if None. translated: what a face makes of an exception that it shows.
    """

    def __init__(self, job, ordered=True, keeps=False, keys=None, translated=_as_it_is):
        # type: (Job, bool, bool, Sequence[Any] | None, Callable[[BaseException], BaseException]) -> None
        self.job, self.on_error, self._seconds = job, job.options.on_error, job.options.deadline
        self.deadline = None if self._seconds is None else monotonic() + self._seconds
        self._ordered, self._keeps, self._keys, self._translated = ordered, keeps, keys, translated
        self._waiting = {}  # type: dict[int, list[Any]] # by the first task of each run
        self._kept = {}  # type: dict[int, list[Any]] # the same
        self._failed = {}  # type: dict[int, Failure] # those that are left out
        self.current = []  # type: list[Any] # backwards: the last one is the next
        self._is_plain = False  # the current run came as one pickle
        self._rest = iter(())  # type: Iterator[Any] # of a run that was given as a whole
        self.end = 0  # the task behind the current run
        self.count = 0  # outcomes that have come
        self.has_failures = False  # one of these is a Failure
        self._ended = False  # nothing more will come
        self.closed = False  # nothing more is given

    # -- one after the other ----------------------------------------------------------------------

    def fill(self, moment=None):
        # type: (float | None) -> bool
        """Return True when ``current`` has an outcome, False behind the last one.

        Raises NotYetError at the moment, TaskError behind the last result, and what ends the job early.
        """
        if not self.current:
            run = self._run(moment)
            if run is None:
                return False
            self.current, self._is_plain = run[::-1], type(run) is values.Plain
        return True

    def is_plain(self):
        # type: () -> bool
        """Whether ``rest`` may be used: no outcome of the current run is a Failure, nor large."""
        return self._is_plain and len(self.current) >= PLAIN_MIN

    def rest(self):
        # type: () -> Iterator[Any]
        """The current run as a whole. What is not taken of it counts as not given."""
        self._rest, self.current = iter(self.current[::-1]), []
        return self._rest

    def _run(self, moment):
        # type: (float | None) -> list[Any] | None
        """The next run, None behind the last one. Raises as ``fill``."""
        self.job.wanted()
        self._check_deadline()  # also when outcomes are there: an endless input always has some
        while True:
            run = self._next_run()
            if run is not None:
                return run
            if self._ended:
                self._finish()
                return None
            arrival = self.job.take(0.0)
            if arrival is None:
                self.job.read_ahead()  # only now: what is there comes first
                arrival = self._wait(moment)
            if arrival is not None:
                self._arrived(arrival)

    def next(self, moment=None):
        # type: (float | None) -> Any
        """The next result, or what ``on_error`` makes of a failure. Raises StopIteration, and as ``fill``."""
        while self.current or self.fill(moment):
            outcome = self.current.pop()
            if type(outcome) is not Failure or self.on_error is None:
                return outcome
            if self.on_error == RETURN:
                return self._translated(outcome.error)
        raise StopIteration

    def index(self):
        # type: () -> int
        """The task whose outcome was given last."""
        return self.end - len(self.current) - 1

    def is_late(self):
        # type: () -> bool
        return self.deadline is not None and monotonic() >= self.deadline

    def _check_deadline(self):
        # type: () -> None
        if self.is_late() and not (self.closed or self.job.over.is_set()):
            results, failures = self._give_up(0.0)
            text = "the deadline of %g s has passed: %d of %d tasks have an outcome; what was not taken is in .results "
            text = (text + "and .errors") % (self._seconds or 0.0, self.count, self.job.total)
            raise self._translated(errors.DeadlineExceeded(text, results, failures))

    def _next_run(self):
        # type: () -> list[Any] | None
        first = self.end if self._ordered else next(iter(self._waiting), None)
        if first not in self._waiting and self._ended and self._keeps and self.on_error == STOP:
            first = min(self._waiting) if self._waiting else None  # tasks that were not run have no outcome
        if first is None or first not in self._waiting:
            return None
        run = self._waiting.pop(first)
        self.end = first + len(run)
        self.job.took(first, len(run))
        return run

    def _wait(self, moment):
        # type: (float | None) -> Any
        seconds = [seconds_until(each) for each in (moment, self.deadline) if each is not None]
        with Terminable():
            arrival = self.job.take(min(seconds + [WAIT_SECONDS]))
        if arrival is None:
            self._check_deadline()
            if moment is not None and monotonic() >= moment:
                raise NotYetError
        return arrival

    def _arrived(self, arrival):
        # type: (Any) -> None
        if isinstance(arrival, Outcomes):
            self._keep(arrival)
        elif isinstance(arrival, End):
            self._ended = True
            if arrival.error is not None and not self.closed:
                raise self.job.error_of(arrival.error)

    def _keep(self, arrival):
        # type: (Outcomes) -> None
        if self.closed:
            return
        first, outcomes = arrival
        self.count += len(outcomes)
        self._waiting[first] = outcomes
        if self._keeps:
            self._kept[first] = outcomes
        if type(outcomes) is values.Plain:
            return
        self.has_failures = self.has_failures or Failure in set(map(type, outcomes))
        if self.on_error in (FINISH, STOP):
            for index, outcome in enumerate(outcomes, first):
                if type(outcome) is Failure:
                    outcome.argument = self.job.argument_in(first, index)
                    self._failed[index] = outcome

    def _finish(self):
        # type: () -> None
        """Raise what is to be raised behind the last result, once."""
        if not self.closed:
            self.closed = True
            error = self._task_error() if self._failed else self.job.error_behind()
            if error is not None:
                raise error

    # -- all of them ------------------------------------------------------------------------------

    def gather(self, moment=None, tell=None):
        # type: (float | None, Callable[[int], None] | None) -> list[Any]
        """All outcomes in order, once the job is over. Goes on after NotYetError when it is called again.

        Raises as ``fill``. tell: is called with the number of outcomes each time when some have come.
        """
        while self._run(moment) is not None:
            if tell is not None:
                tell(self.count)
        kept, self._kept = self._kept, {}
        outcomes = list(itertools.chain.from_iterable(kept[first] for first in sorted(kept)))
        if self.on_error is not None and self.has_failures:
            outcomes = [self._translated(each.error) if type(each) is Failure else each for each in outcomes]
        return outcomes

    # -- an early end -----------------------------------------------------------------------------

    def close(self):
        # type: () -> None
        """Cancel the rest of the job and forget its outcomes."""
        self.job.cancel()
        self._ended = self.closed = True
        list(self._rest)  # whoever iterates over it finds nothing more
        self.current, self._waiting, self._kept, self._failed = [], {}, {}, {}

    def interrupted(self, seconds=0.0):
        # type: (float) -> errors.Interrupted
        """After Ctrl-C: what to raise. Running tasks may end within so many seconds; a second Ctrl-C does not wait."""
        return errors.Interrupted(*self._give_up(seconds))

    def _give_up(self, seconds):
        # type: (float) -> tuple[dict[Any, Any], dict[Any, BaseException]]
        """Close; (results, errors) of what there is."""
        self.job.stop()
        try:
            self._drain(monotonic() + seconds)
        except KeyboardInterrupt:
            pass
        found = self._parted()
        self.close()
        return found

    def _drain(self, moment):
        # type: (float) -> None
        while not self._ended:
            arrival = self.job.take(min(seconds_until(moment), WAIT_SECONDS))
            if isinstance(arrival, Outcomes):
                self._keep(arrival)
            elif isinstance(arrival, End):
                self._ended = True
            elif monotonic() >= moment:
                return

    def _parted(self):
        # type: () -> tuple[dict[Any, Any], dict[Any, BaseException]]
        found = dict(self._failed)  # type: dict[int, Any]
        given = list(self._rest) or self.current[::-1]
        found.update(enumerate(given, self.end - len(given)))
        for first, run in itertools.chain(self._waiting.items(), self._kept.items()):
            found.update(enumerate(run, first))
        results, failures = ordered_dict(), ordered_dict()  # type: dict[Any, Any], dict[Any, BaseException]
        for index in sorted(found):
            key, outcome = self._key(index), found[index]
            if type(outcome) is Failure:
                failures[key] = self._translated(outcome.error)
            else:
                results[key] = outcome
        return results, failures

    def _key(self, index):
        # type: (int) -> Any
        return index if self._keys is None else self._keys[index]

    def _task_error(self):
        # type: () -> errors.TaskError
        results, failures = self._parted()
        index = min(self._failed)
        first, cause = self._failed[index], failures[self._key(index)]
        job, stopped = self.job, self.on_error == STOP
        text = "%d of %d tasks failed, the first of them %s(%s) on %s with %s: %s" % (
            len(failures), job.total, job.function_name, values.shortened(first.argument), first.node,
            type(cause).__name__, values.text_of(cause),
        )  # fmt: skip
        if stopped:
            text += " (stopped there: %d tasks were not run)" % (job.total - self.count)
        remote = getattr(cause, "__cause__", None)  # py2: only who was given one has one
        if isinstance(remote, errors.RemoteTraceback):
            text += "\n" + remote.tb
        self._kept, self._failed = {}, {}
        error = errors.TaskError(text, first.argument, first.node, results, failures)
        error.__cause__ = cause
        return error

"""The results of a map: taken by the thread that iterates; where none waits, by one that the executor has for that."""

import weakref
from concurrent.futures import CancelledError, TimeoutError as FutureTimeoutError
from typing import Any, Dict, Iterator, List, Optional, Tuple, TypeVar

from .. import errors
from ..brain.status import JobStatus
from ..compat import monotonic
from ..master import jobs
from ..master.job import End, Failure, Outcomes, seconds_until
from ..master.jobs import FINISH, RETURN, STOP, task_error
from ..master.terminable import Terminable
from .calls import until
from .futures import DeadlineExceededError, raisable, standard
from .maps import MapJob

T = TypeVar("T")


class NotYetError(FutureTimeoutError):
    """There is no result yet. (A task's or an input's own TimeoutError is another one.)"""


class MapResults(Iterator[T]):
    """The results of ``map``: in order, or as they come. ``close`` cancels the rest; so does dropping it half-way."""

    def __init__(self, job: MapJob, timeout: Optional[float], ordered: bool) -> None:
        """timeout: the moment from which on waiting raises TimeoutError."""
        self._job, self._timeout, self._ordered = job, timeout, ordered
        self._deadline, self.on_error = until(job.terms), job.terms.on_error
        self._chunks: Dict[int, List[Any]] = {}
        self._current: List[Any] = []  # the last one is the next
        self._end = 0  # the position behind the current ones
        # Whoever wants an error at the end wants it to have all results: ``list()`` would lose them.
        self._collects = self.on_error in (FINISH, STOP)
        self._results: Dict[int, Any] = {}
        self._failed: Dict[int, Failure] = {}
        self._gathered: List[Any] = []  # by ``outcomes``, from the first one on
        self._rest: List[Any] = []  # by ``rest``
        self._ended = self._closed = False
        self._finalizer = weakref.finalize(self, _drop, weakref.ref(job))  # the cluster has it as long as it runs
        self._finalizer.atexit = False
        try:
            job.submit()
        except BaseException:  # Ctrl-C
            self.close()
            raise

    expected: Optional[int] = None  # items, where whoever made it knows

    def __iter__(self) -> "MapResults[T]":
        return self

    def __next__(self) -> T:
        try:
            if self._current and not self._collects:  # as ``next`` would, in half the time
                outcome = self._current.pop()
                if type(outcome) is not Failure:
                    return outcome
                self._current.append(outcome)
            return self.next(self._timeout)
        except KeyboardInterrupt:
            self.interrupt()
            raise  # a task's own
        except NotYetError:
            self.close()
            raise FutureTimeoutError from None

    def next(self, timeout: Optional[float]) -> T:
        """The next result, or what on_error makes of a failure. Raises NotYetError and leaves all as it is."""
        while True:
            if not self._current:
                self._refill(timeout)
            outcome = self._current.pop()
            if type(outcome) is not Failure:
                if self._collects:
                    self._results[self._end - len(self._current) - 1] = outcome
                return outcome
            if self.on_error is None:
                self.close()
                raise raisable(standard(outcome.error))
            if self.on_error == RETURN:
                return standard(outcome.error)  # type: ignore[return-value]
            self._failed[self._end - len(self._current) - 1] = outcome

    def close(self) -> None:
        """Hand out nothing more, end what runs and forget what there is."""
        self._finalizer.detach()
        self._job.cancel()
        self._ended = self._closed = True
        self._current, self._chunks = [], {}
        self._results, self._failed, self._gathered = {}, {}, []

    def interrupt(self) -> None:
        """At Ctrl-C: close, and raise Interrupted with what is there. Nothing happens when it is closed already."""
        if not self._closed:
            # A notebook's traceback may keep this object for long.
            found = self._partial()
            self.close()
            raise errors.Interrupted(*found) from None

    def status(self) -> JobStatus:
        """How far it is, and what it waits for; from any thread. ``str`` of it is one line."""
        return self._job.status(self._job._core.cluster, self._job.number)

    def outcome(self, timeout: Optional[float]) -> object:
        """The next result, or Failure. Raises StopIteration, or NotYetError and leaves all as it is."""
        if not self._current:
            self._refill(timeout)
        return self._current.pop()

    def is_over(self) -> bool:
        return self._job.over.is_set()

    def length(self) -> Optional[int]:
        """Of the input, where it is known or once all of it is read."""
        return self._job.total if self._job.closed else self.expected

    def has_some(self) -> bool:
        return bool(self._current)

    def fill(self, timeout: Optional[float]) -> bool:
        """Whether a result is there, once one is there or the end is. Raises NotYetError, and what ends it early."""
        try:
            if not self._current:
                self._refill(timeout)
        except StopIteration:
            return False
        return True

    def look(self, member: Any) -> None:
        self._job._core.collecting.call(member)

    def outcomes(self, timeout: Optional[float]) -> List[Any]:
        """All results and Failures, in order. Raises NotYetError, and goes on when it is called again."""
        try:
            while True:
                self._refill(timeout)
                self._gathered += reversed(self._current)
                self._current = []
        except StopIteration:
            return self._gathered

    def rest(self, timeout: Optional[float]) -> List[T]:
        """As ``list`` of it. Raises NotYetError, and goes on when it is called again."""
        try:
            while True:
                self._rest.append(self.next(timeout))
        except StopIteration:
            return self._rest

    def watch(self, member: Any) -> None:
        """The member has a turn in the executor's thread for that now, when something has come, and at the deadline."""
        turns = self._job._core.collecting
        turns.add(member)  # which holds it until its last turn
        self._job.watcher = weakref.ref(member)
        turns.call(member)  # for what came before it was known
        if self._deadline is not None:
            turns.call_at(self._deadline, member)

    def _refill(self, timeout: Optional[float]) -> None:
        self._job.started = True
        if self._is_late() and not (self._closed or self._job.over.is_set()):
            self._expire()  # there may always be a result: of an input without end
        while not self._next_chunk():
            if self._ended:
                self._raise_end()
            arrival = self._job.take(0.0)
            if arrival is None:
                self._job.read_ahead()  # only now: what is there comes first
                arrival = self._wait(timeout)
            if arrival is not None:
                self._keep(arrival)

    def _next_chunk(self) -> bool:
        first = self._job.taken if self._ordered else next(iter(self._chunks), None)
        if self._ended and self.on_error == STOP and first not in self._chunks:
            first = min(self._chunks, default=None)  # what was not run any more has no outcome
        chunk = self._chunks.pop(first, None)  # type: ignore[arg-type]
        if chunk is None:
            return False
        self._end = first + len(chunk)  # type: ignore[operator]
        self._job.took(first, len(chunk))  # type: ignore[arg-type]
        chunk.reverse()
        self._current = chunk
        return True

    def _wait(self, timeout: Optional[float]) -> Any:
        """What comes next, or None. Raises NotYetError at the timeout."""
        seconds = [seconds_until(moment) for moment in (timeout, self._deadline) if moment is not None]
        with Terminable():
            arrival = self._job.take(min(seconds + [jobs.WAIT_SECONDS]))
        if arrival is None:
            if self._is_late():
                self._expire()
            if timeout is not None and monotonic() >= timeout:
                raise NotYetError
        return arrival

    def _keep(self, arrival: Any) -> None:
        job = self._job
        job._core.cluster.read(job.number, job)
        if isinstance(arrival, End):
            self._ended = True
            if arrival.error is not None and not self._closed:
                raise job._core.ended(job, arrival.error)  # type: ignore[misc]
        elif not self._closed:
            self._keep_outcomes(arrival)

    def _keep_outcomes(self, arrival: Outcomes) -> None:
        if self._collects:
            for index, outcome in enumerate(arrival.values, arrival.first):
                if type(outcome) is Failure:
                    outcome.argument = self._job.argument_in(arrival.first, index)
        self._chunks[arrival.first] = arrival.values

    def _partial(self) -> Tuple[Dict[int, Any], Dict[int, BaseException]]:
        """Results and errors by position: what waits to be taken, and what this has collected. Before the end."""
        for arrival in iter(lambda: self._job.take(0.0), None):
            if isinstance(arrival, Outcomes):
                self._keep_outcomes(arrival)
        found = dict(enumerate(self._gathered))
        found.update(self._results)
        found.update(self._failed)
        found.update(enumerate(reversed(self._current), self._end - len(self._current)))
        for first, chunk in self._chunks.items():
            found.update(enumerate(chunk, first))
        results = {index: found[index] for index in sorted(found) if type(found[index]) is not Failure}
        return results, {index: standard(found[index].error) for index in sorted(found) if index not in results}

    def _is_late(self) -> bool:
        return self._deadline is not None and monotonic() >= self._deadline

    def _expire(self) -> None:
        found = self._partial()
        self.close()
        text = "the deadline of %g s has passed; what has an outcome and was not taken is in .results and .errors"
        raise DeadlineExceededError(text % self._job.terms.deadline, *found)

    def _raise_end(self) -> None:
        job = self._job
        if not self._closed:
            self._closed = True
            if self._failed:
                raise self._task_error()
            if job.taken < job.total or job.cut_short:
                raise job._core.ended(job, None) or CancelledError()
            if job.input.error is not None:
                raise job.input.error
        raise StopIteration

    def _task_error(self) -> errors.TaskError:
        results, failures = self._partial()
        first = min(failures)
        told = self._failed[first].argument, self._failed[first].node, failures[first]
        self._results, self._failed = {}, {}
        job = self._job
        return task_error(job.function_name, job.total, told, results, failures, self.on_error == STOP)


def _drop(job: "weakref.ReferenceType[MapJob]") -> None:
    """Finalizers live as long as the program, and what they refer to; a job may refer to its results, by an error."""
    found = job()
    if found is not None:
        found.dropped()

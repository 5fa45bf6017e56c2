"""Submitted calls with equal options: a job that grows. A thread of the job gives each outcome to its future.

::

    add ──> [ tasks, each a pickled call ] ──> cluster ──> results ──┐
     │                                                               v
     └──> deadlines, outcomes that a journal has ──> the job's thread ──> futures

A single plain result of a future without callbacks is given to it at once, in the cluster's thread.
"""

import heapq
import threading
from collections import namedtuple
from concurrent.futures import CancelledError
from typing import Any, Dict, List, Optional, Tuple

from .. import errors
from ..brain.options import Options
from ..compat import monotonic
from ..logs import log
from ..master.job import End, Failure, Job, Outcomes, seconds_until
from ..payload import values
from .call_journal import CallJournal, CallsLog
from .futures import ClusterFuture
from .order import Run
from .plain import is_plain

#: When the heap has so many deadlines more than twice the waiting calls, those of finished calls are removed.
_STALE_MAX = 64

#: What the job's thread gets beside outcomes: a call's deadline, and the outcome of a call from a journal.
_Until = namedtuple("_Until", "moment index")
_Known = namedtuple("_Known", "waiting given outcome")
#: The thread is to look: calls need not wait for earlier ones any more, perhaps, or the job may end.
_Look = namedtuple("_Look", "")

#: The arguments as the user gave them: (arguments, keywords). Errors name these, since unpickling may kill a process.
Given = Tuple[Any, Any]
#: A future: ``hand_out`` is called when the call goes to a node, ``resolve`` with its result or Failure.
Waiting = Any


#: Sent in place of a cancelled call: it does nothing and cannot fail, so it is not retried.
_NOTHING = values.dumps((bool, (), {}))
_NOBODY: Tuple[Waiting, values.Packed, Given, None] = (None, values.Packed(b"", values.NOTHING), ((), {}), None)


class Calls(Job):
    """Calls submitted one by one; each task is a pickled (function, arguments, keywords)."""

    total = 0  # tasks that the scheduler may hand out: see order.py
    name = "calls"

    def __init__(self, core: Any, key: Tuple[str, Options], kept: Optional[CallJournal]) -> None:
        """key: by which the core keeps it: what its calls' pickles need, and its options."""
        super().__init__()
        self._key = needs, options = key
        self.options = core.scheduled(options)
        self._core = core
        self._definition = core.definition("calls", needs, options.timeout)
        self._kept = None if kept is None else CallsLog(kept, self._definition)
        self.journal = self._kept
        self._deadlines: List[Tuple[float, int]] = []  # a heap
        self._waiting: Dict[int, Tuple[Waiting, values.Packed, Given, Optional[Run]]] = {}
        self._count = 0  # tasks
        self._closing = False  # no call is added any more
        self._handed_out = 0  # tasks before this number have been sent to a node
        self._arrived = self._told = 0  # outcomes: queued for the job's thread, given by it to their futures
        self.number = core.cluster.submit(self)
        self.thread = threading.Thread(target=self._deliver_all, name="minimalcluster-results", daemon=True)
        self.thread.start()

    def definition(self) -> Tuple[Dict[str, object], List[bytes]]:
        return self._definition

    def add(self, waiting: Waiting, packed: values.Packed, until: Optional[float], given: Given) -> None:
        """Called with the core's lock held."""
        if self._kept is not None:
            key = self._kept.key(packed.data)
            known = self._kept.kept.take(key)
            if known:
                self._arrivals.put((_Known, waiting, given, known[0]))
                return
            self._kept.keys[self._count] = key
        index, self._count = self._count, self._count + 1
        waiting.place = self, index
        run = self._core.run_of(self, index)
        self._waiting[index] = waiting, packed, given, run
        if until is not None:
            self._arrivals.put((_Until, until, index))
        if run is None or self._core.is_first(run):
            self.release(self._count)

    @property
    def closed(self) -> bool:
        """Whether ``total`` is final."""
        return self._closing and self.total == self._count

    def release(self, end: int) -> None:
        """The tasks before this number may be handed out."""
        self.total = max(self.total, end)
        self._core.cluster.grew(self.number, self)

    def encode(self, first: int, count: int) -> List[bytes]:
        self._handed_out = max(self._handed_out, first + count)  # before ``hand_out``: ``cancel_running`` reads it
        buffers = [b"E"]
        for index in range(first, first + count):
            waiting, packed, _, _ = self._waiting.get(index, _NOBODY)
            buffers.append(packed.data if waiting is not None and waiting.hand_out() else _NOTHING)
        return buffers

    def slots_changed(self, slots: int) -> None:
        if slots > 1:
            self._arrivals.put((_Look,))

    def taken_back(self, first: int, end: int) -> None:
        for index in range(first, end):
            waiting = self._waiting.get(index)
            if waiting is not None:
                waiting[0].take_back()

    def arrive(self, *arrival: Any) -> None:
        self._arrived += 1
        super().arrive(*arrival)

    def deliver(self, first: int, count: int, skip: int, buffers: List[Any]) -> None:
        if count == 1 and not skip and self._resolve_at_once(first, buffers):
            self._outcomes_count += 1
        else:
            super().deliver(first, count, skip, buffers)

    def _resolve_at_once(self, index: int, buffers: List[Any]) -> bool:
        """In the cluster's thread: give a plain result to its future right here, unless code of the user might run: a
        callback, or the end of an argument. Whoever waits for it then waits for one thread less."""
        if self._told != self._arrived or self._kept is not None or not is_plain(buffers):
            return False
        waiting, packed, (arguments, keywords), run = self._waiting.get(index, _NOBODY)
        if type(waiting) is not ClusterFuture or run is not None or packed.held or keywords:
            return False
        result = values.decode_results(buffers, 1, 0, self.load)[0]
        if not values.all_scalars([result, *arguments]) or not waiting.resolve_unless_watched(result):
            return False
        self._pop(index)
        if not self._waiting and self._core.has_many_jobs():
            self._arrivals.put((_Look,))
        return True

    def is_idle(self) -> bool:
        """Whether no call of this job waits for its outcome. Called with the core's lock held."""
        return not self._waiting

    def close(self) -> None:
        self._closing = True
        self._core.cluster.grew(self.number, self)
        self._end_if_nobody_waits()

    def forget(self, index: int) -> None:
        """The call was cancelled before it was handed out."""
        self._drop(index)
        self._end_if_nobody_waits()

    def _drop(self, index: int) -> None:
        """Forget the call: its outcome is not wanted."""
        self._pop(index)
        if self._kept is not None:
            self._kept.keys.pop(index, None)

    def _end_if_nobody_waits(self) -> None:
        """The scheduler ends a closed job when its tasks are done. Cancelled ones never are if there is no node."""
        if self._closing and not self._waiting:
            self._core.cluster.cancel(self.number)

    def cancel_waiting(self) -> None:
        for waiting, _, _, _ in list(self._waiting.values()):
            waiting.cancel()

    def cancel_running(self, index: int) -> None:
        """Forget the call. If it runs, end it; if it was not handed out, ``encode`` sends nothing to run for it."""
        self._drop(index)
        if index < self._handed_out:
            self._core.cluster.cancel_task(self.number, index)
        self._end_if_nobody_waits()

    def _deliver_all(self) -> None:
        while True:
            arrival: Any = self.take(self._seconds_left())
            if isinstance(arrival, End):
                break
            if isinstance(arrival, Outcomes):
                self._deliver(arrival)
                self._told += 1
            elif isinstance(arrival, _Until):
                self._watch(arrival)
            elif isinstance(arrival, _Known):
                _tell(arrival.waiting, arrival.outcome, arrival.given)
            elif isinstance(arrival, _Look):
                self._core.look_at_order()
            arrival = None  # do not hold the result while waiting for the next one
            self._expire()
            if not self._waiting and self._core.has_many_jobs():
                self._core.close_if_idle(self._key, self)
        error = self._core.ended(self, arrival.error) or CancelledError()  # after ``ended`` no call is added
        for index in sorted(self._waiting):
            self._resolve(index, Failure(error, ""))
        for arrival in iter(lambda: self.take(0.0), None):
            if isinstance(arrival, _Known):
                _tell(arrival.waiting, arrival.outcome, arrival.given)
        self._core.delivering.discard(self)

    def _seconds_left(self) -> Optional[float]:
        return seconds_until(self._deadlines[0][0]) if self._deadlines else None

    def _watch(self, arrival: _Until) -> None:
        heapq.heappush(self._deadlines, tuple(arrival))
        if len(self._deadlines) > _STALE_MAX + 2 * len(self._waiting):
            self._deadlines = [each for each in self._deadlines if each[1] in self._waiting]
            heapq.heapify(self._deadlines)

    def _expire(self) -> None:
        """Resolve calls whose deadlines have passed, and end those that run."""
        while self._deadlines and self._deadlines[0][0] <= monotonic():
            _, index = heapq.heappop(self._deadlines)
            if index in self._waiting:
                self._resolve(index, Failure(errors.DeadlineExceeded("the call's deadline has passed"), ""))
                self.cancel_running(index)

    def _deliver(self, outcomes: Outcomes) -> None:
        index = outcomes.first
        outcomes.values.reverse()
        while outcomes.values:
            self._resolve(index, outcomes.values.pop())
            index += 1

    def _resolve(self, index: int, outcome: object) -> None:
        waiting, given = self._pop(index)
        if waiting is not None:
            _tell(waiting, outcome, given)

    def _pop(self, index: int) -> Tuple[Waiting, Given]:
        waiting, _, given, run = self._waiting.pop(index, _NOBODY)
        if run is not None:
            self._core.is_done(run)
        return waiting, given


def _tell(waiting: Waiting, outcome: object, given: Given) -> None:
    """Whatever a callback raises, SystemExit included, this thread goes on: other calls need it."""
    try:
        if type(outcome) is Failure and isinstance(outcome.error, errors.WorkerDied):
            outcome.error.argument = argument_of(*given)
        waiting.resolve(outcome)
    except BaseException:
        log.exception("a callback of %r raised", waiting)


def argument_of(arguments: Tuple[Any, ...], keywords: Any) -> object:
    """A call's argument in errors: its only one, or the tuple of them; (arguments, keywords) if it has keywords."""
    if keywords:
        return arguments, keywords
    return arguments[0] if len(arguments) == 1 else arguments

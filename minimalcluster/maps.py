"""``map``: one function over many items, read a window ahead of what was taken, and its results."""

import itertools
import sys
import threading
import weakref
from concurrent.futures import CancelledError, TimeoutError as FutureTimeoutError
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, TypeVar, Union

from . import errors, functions, jobs, shares, values
from .calls import AFTER_SHUTDOWN, Core, until
from .compat import Mailbox, monotonic
from .contents import of_definition
from .futures import DeadlineExceededError, raisable, standard
from .jobs import FINISH, RETURN, STOP, End, Failure, Job, Outcomes, Terms, target_digest, task_error
from .status import JobStatus
from .terminable import Terminable

T = TypeVar("T")

#: How far ``map`` reads ahead of what has been taken, unless ``buffersize`` says otherwise.
WINDOW_ITEMS = 1 << 18
WINDOW_BYTES = 64 << 20
#: How long it reads at a time from what may be slow; what has been read is at work meanwhile.
READ_SECONDS = 0.05
READ_ITEMS_MIN, READ_ITEMS_MAX = 1 << 6, 1 << 12
#: Never large.
_NUMBERS = frozenset([bool, int, float, complex, type(None)])


class NotYetError(FutureTimeoutError):
    """There is no result yet. (A task's or an input's own TimeoutError is another one.)"""


class MapJob(Job):
    """One function over many items, read as far ahead as the window allows."""

    closed = False  # no item will follow
    started = False  # somebody has asked for a result
    abandoned = False  # nobody will
    _has_failed = False  # in an earlier run, says its journal, and that stops it
    number = 0

    def __init__(
        self, core: "Core", function: Callable[..., Any], iterables: Tuple[Iterable[Any], ...], terms: Terms,
        window: Optional[int] = None, star: Optional[bool] = None, lazy: bool = True,
    ) -> None:  # fmt: skip
        """lazy=False is multiprocessing's way: whatever becomes of the results, a finite input is worked on."""
        super().__init__()
        self._core = core
        self.options = terms.options()
        self.terms = terms
        self._lazy = lazy
        self.unread_max = jobs.UNREAD_BYTES
        self.input_error: Optional[BaseException] = None  # raised behind all results
        self.star = len(iterables) != 1 if star is None else star
        self._finite = any(hasattr(each, "__len__") for each in iterables)
        self._quick = all(hasattr(each, "__len__") for each in iterables)
        self._source = iter(iterables[0]) if len(iterables) == 1 else iter(zip(*iterables))
        self._window = window
        self._items: List[Any] = []  # read and not delivered, from task self._base on
        self._base = self._delivered = 0
        self._arguments: Optional[values.RangeArguments] = None
        given: Union[range, List[Any], None] = None  # the whole input, if it is there
        self.total = 0
        self.taken = 0
        self._bytes = 0
        self._held: List[Any] = []
        self._read_lock = threading.Lock()
        self._items_lock = threading.Lock()
        if not self.star and isinstance(iterables[0], range) and window is None:
            self._arguments = values.RangeArguments(iterables[0])
            given = iterables[0]
            self.total, self.closed = len(given), True
        elif window is None and _are_here(iterables):
            given = list(self._source)
            self._items = list(given)
            self.total, self.closed = len(self._items), True
        self.function_name = getattr(function, "__name__", None) or type(function).__name__
        self.name = "map of %s" % self.function_name
        self._define(function, terms.timeout)
        if terms.journal is not None:
            self._go_on(terms.journal, given)

    def submit(self) -> None:
        try:
            self._core.submit_map(self)
        except BaseException:
            self.close_journal()
            raise
        if self._has_failed:
            self._core.cluster.stop_job(self.number)

    def _define(self, function: Callable[..., Any], timeout: Optional[float]) -> None:
        """What cannot be sent is the first result's error; an error of the input is raised as it is."""
        self.read_ahead()
        if self.input_error is not None and self._lazy:
            raise self.input_error
        try:
            packed = self._core.pack(function)
            info, buffers = self._core.definition("function", packed.needs, timeout)
            self._definition = dict(info, star=self.star), buffers + [packed.data]
        except Exception as error:
            self._definition = {}, []
            self.input_error, self.total, self.closed = error, 0, True

    def _go_on(self, path: str, items: Union[range, List[Any], None]) -> None:
        """With what an earlier run has left in the journal."""
        if items is None:
            raise ValueError("journal= needs an input of known length, a list, tuple or range, and no buffersize")
        if self.input_error is not None:
            return  # there is no function to run
        info, buffers = self._definition
        for outcomes in self.keep_journal(path, target_digest(info, of_definition(info, buffers)), items):
            self._arrivals.put((Outcomes, *outcomes))
            if self.terms.on_error == STOP and Failure in map(type, outcomes.values):
                self._has_failed = True

    def definition(self) -> Tuple[Dict[str, object], List[bytes]]:
        return self._definition

    def encode(self, first: int, count: int) -> List[bytes]:
        if self._arguments is not None:
            return self._arguments.encode(first, count)
        with self._items_lock:
            items = self._items[first - self._base : first - self._base + count]
        if not self.star and values.all_scalars(items):
            return [b"P", values.dumps(items)]
        return values.each([self._packed(item) for item in items])

    def _packed(self, item: object) -> functions.Packed:
        try:
            packed = self._core.packed_item(item, self.star)
            self._held += packed.held
            return packed
        except BaseException as error:  # its class's own code runs here, in the cluster's thread
            return functions.pack(_Unsendable(error))

    # -- in the cluster's thread ------------------------------------------------------------------

    def argument(self, index: int) -> object:
        if self._arguments is not None:
            return self._arguments[index]
        with self._items_lock:
            item = self._items[index - self._base]
        return tuple(map(_as_given, item)) if self.star else _as_given(item)

    def arrive(self, *arrival: Any) -> None:
        if not self.abandoned:
            super().arrive(*arrival)

    def crowded(self) -> bool:
        """Until somebody reads, work on what is there goes on, as the standard's; an input without end is held up."""
        return (self.started or not self._finite) and not self.abandoned and super().crowded()

    def held_up(self) -> Optional[str]:
        if self.paused:
            return super().held_up()
        if self.closed or self.abandoned or not self._pending:
            return None
        return "%d results wait for who reads them; the input is read no further meanwhile" % self._pending

    def finished(self, unfit: Optional[Dict[str, Any]]) -> None:
        self._core.maps.discard(self)
        super().finished(unfit)

    def crashed(self, error: BaseException) -> None:
        self._core.maps.discard(self)
        super().crashed(error)

    # -- in the user's threads --------------------------------------------------------------------

    def read_ahead(self, everything: bool = False) -> None:
        """Read what the window still allows; of a slow input, no more than keeps all worker processes busy."""
        if self.closed:
            return
        with self._read_lock:
            stop_at = monotonic() + READ_SECONDS
            begun_at = self.total
            while not self.closed and (everything or self._room()):
                size = self.total - begun_at if self.total - begun_at >= READ_ITEMS_MIN else 1
                size = READ_ITEMS_MAX if self._quick else min(size, READ_ITEMS_MAX)
                self._read(size if everything or self._window is None else min(size, self._window - self._pending))
                slow = not self._quick and monotonic() > stop_at
                if slow and not everything and self._pending >= 2 * self._core.slots():
                    break
        if self.number:
            self._core.cluster.grew(self.number, self)

    @property
    def _pending(self) -> int:
        return self.total - self.taken

    def _room(self) -> bool:
        if self._window is not None:
            return self._pending < self._window
        return self._pending < WINDOW_ITEMS and self._bytes * self._pending < WINDOW_BYTES * max(self.total, 1)

    def _read(self, count: int) -> None:
        items: List[Any] = []
        try:
            items.extend(itertools.islice(self._source, count))  # keeps what came before an error
            ended = len(items) < count
        except Exception as error:
            self.input_error, ended = error, True
        finally:
            self._bytes += sum(map(sys.getsizeof, items))
            with self._items_lock:
                self._items += items
            self.total += len(items)
        if ended:  # else it stays as it is: another thread may have closed it meanwhile
            self.closed = True

    def delivered(self, upto: int) -> None:
        """Arguments below ``upto`` are needed no more, whatever dies."""
        with self._items_lock:
            if upto > self._delivered and self._arguments is None:
                self._items[self._delivered - self._base : upto - self._base] = [None] * (upto - self._delivered)
                self._delivered = upto
                if 2 * (upto - self._base) > len(self._items):  # now and then: what is behind must move
                    del self._items[: upto - self._base]
                    self._base = upto

    def dropped(self) -> None:
        """Nobody holds the results any more. As with the standard's: what was never asked for is done all the same."""
        if self.started and (self._lazy or not self._finite):
            self.cancel()
        else:
            self.abandoned = True
            self._arrivals = Mailbox()  # what has come is nobody's either
            self.wait_for_nobody()

    def cancel(self) -> None:
        self.closed = True  # read no further
        self._core.cluster.cancel(self.number)
        self.close_journal()

    def stop(self) -> None:
        """As ``cancel``, but what runs may end and counts."""
        self.closed = True
        self._core.cluster.stop_job(self.number)

    def wait_for_nobody(self) -> None:
        """Somebody waits for its end, and may be the one who reads its results."""
        self.unread_max = None
        self._core.cluster.read(self.number, self)

    def finish_reading(self) -> None:
        """The executor was shut down: what was promised is finished, the rest of a half-read input is refused."""
        if self._finite or not self.started or not self._lazy:
            try:
                self.read_ahead(everything=True)
            except BaseException as error:  # the input's own SystemExit
                self._end_input(error)
        else:
            self._end_input(RuntimeError(AFTER_SHUTDOWN))

    def _end_input(self, error: BaseException) -> None:
        with self._read_lock:
            if not self.closed:
                self.input_error, self.closed = error, True
        self._core.cluster.grew(self.number, self)


def _are_here(iterables: Tuple[Iterable[Any], ...]) -> bool:
    """Their items need not be read: they lie in memory, or are as many as those that do."""
    kinds = set(map(type, iterables))
    return bool(kinds & {list, tuple}) and kinds <= {list, tuple, range}


def _as_given(item: object) -> object:
    return item.get() if isinstance(item, shares.Shared) else item


class _Unsendable:
    """In place of an argument that cannot be pickled: raises the pickling's own error where it would be used."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> Tuple[Any, ...]:
        return _raise_unsendable, values.encode_exception(self._error, 0)


def _raise_unsendable(info: Dict[str, Any], buffers: List[bytes]) -> None:
    raise values.decode_exception(info, buffers)


class MapResults(Iterator[T]):
    """The results of ``map``: in order, or as they come. ``close`` cancels the rest; so does dropping it half-way."""

    def __init__(self, job: MapJob, timeout: Optional[float], ordered: bool) -> None:
        """timeout: the moment from which on waiting raises TimeoutError."""
        self._job, self._timeout, self._ordered = job, timeout, ordered
        self._deadline, self.on_error = until(job.terms), job.terms.on_error
        self._chunks: Dict[int, List[Any]] = {}
        self._covered: Dict[int, int] = {}  # delivered out of order: first -> end
        self._frontier = 0
        self._current: List[Any] = []  # the last one is the next
        self._end = 0  # the position behind the current ones
        # Whoever wants an error at the end wants it to have all results: ``list()`` would lose them.
        self._collects = self.on_error in (FINISH, STOP)
        self._results: Dict[int, Any] = {}
        self._failed: Dict[int, Failure] = {}
        self._gathered: List[Any] = []  # by ``outcomes``, from the first one on
        self._ended = self._closed = False
        self._finalizer = weakref.finalize(self, job.dropped)
        self._finalizer.atexit = False
        try:
            job.submit()
        except BaseException:  # Ctrl-C
            self.close()
            raise

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

    def outcomes(self) -> List[Any]:
        """All results and Failures, in order."""
        try:
            while True:
                self._refill(None)
                self._gathered += reversed(self._current)
                self._current = []
        except StopIteration:
            return self._gathered

    def _refill(self, timeout: Optional[float]) -> None:
        self._job.started = True
        if self._is_late() and not (self._closed or self._job.over.is_set()):
            self._expire()  # there may always be a result: of an input without end
        while not self._current:
            if not self._next_chunk():
                if self._ended:
                    self._raise_end()
                self._wait(timeout)

    def _next_chunk(self) -> bool:
        first = self._job.taken if self._ordered else next(iter(self._chunks), None)
        if self._ended and self.on_error == STOP and first not in self._chunks:
            first = min(self._chunks, default=None)  # what was not run any more has no outcome
        chunk = self._chunks.pop(first, None)  # type: ignore[arg-type]
        if chunk is None:
            return False
        self._end = first + len(chunk)  # type: ignore[operator]
        self._job.taken += len(chunk)
        chunk.reverse()
        self._current = chunk
        self._job.read_ahead()
        return True

    def _wait(self, timeout: Optional[float]) -> None:
        job = self._job
        if job.taken == job.total and not job.closed:
            job.read_ahead()
            return
        seconds = [jobs.seconds_until(moment) for moment in (timeout, self._deadline) if moment is not None]
        with Terminable():
            arrival = job.take(min(seconds + [jobs.WAIT_SECONDS]))
        job._core.cluster.read(job.number, job)
        if arrival is None:
            if self._is_late():
                self._expire()
            if timeout is not None and monotonic() >= timeout:
                raise NotYetError
        elif isinstance(arrival, End):
            self._ended = True
            if arrival.error is not None and not self._closed:
                raise job._core.ended(job, arrival.error)  # type: ignore[misc]
        elif not self._closed:
            self._keep(arrival)

    def _keep(self, arrival: Outcomes) -> None:
        if self._collects:
            for index, outcome in enumerate(arrival.values, arrival.first):
                if type(outcome) is Failure:
                    outcome.argument = self._job.argument(index)  # not known any more when all are delivered
        self._chunks[arrival.first] = arrival.values
        self._covered[arrival.first] = arrival.first + len(arrival.values)
        while self._frontier in self._covered:
            self._frontier = self._covered.pop(self._frontier)
        self._job.delivered(self._frontier)

    def _partial(self) -> Tuple[Dict[int, Any], Dict[int, BaseException]]:
        """Results and errors by position: what waits to be taken, and what this has collected. Before the end."""
        for arrival in iter(lambda: self._job.take(0.0), None):
            if isinstance(arrival, Outcomes):
                self._keep(arrival)
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
            if job.taken < job.total:
                raise job._core.ended(job, None) or CancelledError()
            if job.input_error is not None:
                raise job.input_error
        raise StopIteration

    def _task_error(self) -> errors.TaskError:
        results, failures = self._partial()
        first = min(failures)
        told = self._failed[first].argument, self._failed[first].node, failures[first]
        self._results, self._failed = {}, {}
        job = self._job
        return task_error(job.function_name, job.total, told, results, failures, self.on_error == STOP)

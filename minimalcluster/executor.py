"""``ClusterExecutor``: a ``concurrent.futures.Executor`` whose workers may be on any machine.

::

    submit ──> _Stream (a job that grows) ──┐                  ┌──> nodes
    map ─────> _MapJob (one function) ──────┴──> Cluster ──────┘
                                                  │ results
    futures <── the stream's thread  <────────────┤
    iterator <── the consumer's own thread <──────┘

A stream's results are unpickled and given to futures in a thread of its own, so a callback that
takes its time delays nobody's heartbeat. The face (what the user holds) never is referenced from
below, so dropping it closes it: what was submitted is finished, then the workers leave.
"""

import asyncio
import atexit
import itertools
import os
import sys
import threading
import time
import weakref
from collections import namedtuple
from concurrent.futures import CancelledError, Executor, Future, TimeoutError as FutureTimeoutError
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Callable,
    Dict,
    Generic,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Set,
    Tuple,
    TypeVar,
    Union,
)

from . import errors, functions, protocol, scheduler, shares, values
from .cluster import Cluster
from .compat import cpu_count, hexadecimal
from .jobs import End, Failure, Job, Outcomes
from .master import MasterNode, _check_key

if sys.version_info >= (3, 7):
    from concurrent.futures import BrokenExecutor
else:
    BrokenExecutor = RuntimeError  # what 3.7 derives it from

T = TypeVar("T")

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")
    _Future = Future[T]
else:

    class _Future(Future, Generic[T]):
        pass


#: How far ``map`` reads ahead of what has been taken, unless ``buffersize`` says otherwise.
WINDOW_ITEMS = 1 << 18
WINDOW_BYTES = 64 << 20
#: How long it reads at a time from what may be slow; what has been read is at work meanwhile.
READ_SECONDS = 0.05
READ_ITEMS_MIN, READ_ITEMS_MAX = 1 << 6, 1 << 12

AFTER_SHUTDOWN = "cannot schedule new futures after shutdown"

#: What the calls made through one view of an executor have in common; timeout: seconds for each call.
Terms = namedtuple("Terms", "options timeout")
TERMS = Terms(scheduler.DEFAULTS, None)


class BrokenClusterExecutor(BrokenExecutor, errors.ClusterError):
    """No work can ever be done: a failing initializer, a master that was shut down."""


class WorkerDiedError(errors.WorkerDied, BrokenExecutor):
    """The worker process died each time it ran this call; the others are not touched."""


class CallTimeoutError(FutureTimeoutError, errors.TaskTimeout):
    """The call took longer than its ``timeout`` and was ended with its worker process."""


def standard(error: BaseException) -> BaseException:
    """What programs written for concurrent.futures expect of what the node tells of a call."""
    if type(error) is errors.WorkerDied:
        return WorkerDiedError(str(error), error.exit, error.nodes, error.lines)
    if type(error) is errors.TaskTimeout:
        return CallTimeoutError(str(error))
    if type(error) is errors.ResultError and error.__context__ is not None:
        cause = error.__context__  # the pickling's own error
        cause.__cause__ = error.__cause__  # its text says which result
        return cause
    return error


class ClusterFuture(_Future[T]):
    """A standard Future, whose call may also be cancelled while it runs."""

    _handed_out = False  # to a node, maybe before it runs
    _decided = False  # its outcome is on the way into it
    place: "Optional[Tuple[_Stream, int]]" = None

    def cancel(self) -> bool:
        """As the standard's; ``wait()`` returns for it at once, not when a worker would have got to it."""
        cancelled = super().cancel()
        with self._condition:
            if self._state == "CANCELLED":
                self.set_running_or_notify_cancel()
        return cancelled

    def cancel_running(self) -> bool:
        """Cancel it even while it runs: its worker process is ended. False if it has an outcome already."""
        if self.cancel():
            return True
        with self._condition:
            if self._decided:
                return False
            self._state = "CANCELLED"
            self._condition.notify_all()
            self.set_running_or_notify_cancel()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        if self.place is not None:
            stream, index = self.place
            stream.cancel_running(index)
        return True

    def hand_out(self) -> bool:
        """It goes to a node now; False if it was cancelled before."""
        with self._condition:
            if not self._handed_out and not self.cancelled():
                self._handed_out = self.set_running_or_notify_cancel()
            return self._handed_out and not self.cancelled()

    def resolve(self, outcome: object) -> None:
        with self._condition:
            self._decided = self.hand_out()
        self.place = None
        if not self._decided:
            return  # cancelled
        if isinstance(outcome, Failure):
            self.set_exception(standard(outcome.error))
        else:
            self.set_result(outcome)  # type: ignore[arg-type]


#: What waits for a call: it is asked to be handed out, and told what came of it.
_Waiting = Any


class _Stream(Job):
    """Calls submitted one by one; each task is a pickled (function, arguments, keywords)."""

    closed = False

    def __init__(self, core: "_Core", needs: str, terms: Terms) -> None:
        super().__init__()
        self.total = 0
        self.options = core.options(terms)
        self._core = core
        self._definition = core.definition("calls", needs, terms.timeout)
        self._waiting: Dict[int, Tuple[_Waiting, bytes]] = {}
        self.number = core.cluster.submit(self)
        self.thread = threading.Thread(target=self._deliver_all, name="minimalcluster-results", daemon=True)
        self.thread.start()

    def definition(self) -> Tuple[Dict[str, object], List[bytes]]:
        return self._definition

    def add(self, future: _Waiting, data: bytes) -> None:
        """Under the core's lock."""
        future.place = self, self.total
        self._waiting[self.total] = future, data
        self.total += 1
        self._core.cluster.grew(self.number, self)

    def encode(self, first: int, count: int) -> List[bytes]:
        buffers = [b"E"]
        for index in range(first, first + count):
            future, data = self._waiting.get(index, (None, b""))
            # Of one that was cancelled there is nothing to run, and its outcome interests nobody.
            buffers.append(data if future is not None and future.hand_out() else b"")
        return buffers

    def close(self) -> None:
        self.closed = True
        self._core.cluster.grew(self.number, self)

    def cancel_waiting(self) -> None:
        for future, _ in list(self._waiting.values()):
            future.cancel()

    def cancel_running(self, index: int) -> None:
        self._waiting.pop(index, None)
        self._core.cluster.cancel_task(self.number, index)

    def _deliver_all(self) -> None:
        while True:
            arrival = self.take(None)
            if isinstance(arrival, End):
                break
            if arrival is not None:
                self._deliver(arrival)
                arrival = None  # nothing here keeps a result while the next one is waited for
        error = self._core.ended(self, arrival.error) or CancelledError()
        for index in sorted(self._waiting):
            self._resolve(index, Failure(error, ""))
        self._core.delivering.discard(self)

    def _deliver(self, outcomes: Outcomes) -> None:
        index = outcomes.first
        outcomes.values.reverse()
        while outcomes.values:
            self._resolve(index, outcomes.values.pop())
            index += 1

    def _resolve(self, index: int, outcome: object) -> None:
        future, _ = self._waiting.pop(index, (None, b""))
        if future is not None:
            future.resolve(outcome)


#: Never large.
_NUMBERS = frozenset([bool, int, float, complex, type(None)])


class _MapJob(Job):
    """One function over many items, read as far ahead as the window allows."""

    closed = False  # no item will follow
    started = False  # somebody has asked for a result
    abandoned = False  # nobody will
    number = 0

    def __init__(
        self, core: "_Core", function: Callable[..., Any], iterables: Tuple[Iterable[Any], ...], terms: Terms,
        window: Optional[int] = None, star: Optional[bool] = None, lazy: bool = True,
    ) -> None:  # fmt: skip
        """lazy=False is multiprocessing's way: whatever becomes of the results, a finite input is worked on."""
        super().__init__()
        self._core = core
        self.options = terms.options if terms.timeout is None else core.options(terms)
        self._lazy = lazy
        self.over = threading.Event()
        self.input_error: Optional[BaseException] = None  # raised behind all results
        self.star = len(iterables) != 1 if star is None else star
        self._finite = any(hasattr(each, "__len__") for each in iterables)
        self._quick = all(hasattr(each, "__len__") for each in iterables)
        self._source = iter(iterables[0]) if len(iterables) == 1 else iter(zip(*iterables))
        self._window = window
        self._items: List[Any] = []  # read and not delivered, from task self._base on
        self._base = self._delivered = 0
        self._arguments: Any = None
        self.total = 0
        self.taken = 0
        self._bytes = 0
        self._read_lock = threading.Lock()
        self._items_lock = threading.Lock()
        if not self.star and isinstance(iterables[0], range) and window is None:
            self._arguments = values.RangeArguments(iterables[0])
            self.total, self.closed = len(iterables[0]), True
        elif window is None and all(type(each) in (list, tuple) for each in iterables):
            self._items = self._swapped(list(self._source))
            self.total, self.closed = len(self._items), True
        self._define(function, terms.timeout)

    def submit(self) -> None:
        self._core.submit_map(self)

    def _define(self, function: Callable[..., Any], timeout: Optional[float]) -> None:
        """What cannot be sent is the first result's error; an error of the input is raised as it is."""
        self.read_ahead()
        if self.input_error is not None and self._lazy:
            raise self.input_error
        self._needs = functions.NOTHING
        try:
            packed = functions.pack(function)
            self._needs = packed.needs
            if self._items and self._needs == functions.NOTHING:
                self._needs = _needs_of(self._items[0])
            info, buffers = self._core.definition("function", self._needs, timeout)
            self._definition = dict(info, star=self.star), buffers + [packed.data]
        except Exception as error:
            self._definition = {}, []
            self.input_error, self.total, self.closed = error, 0, True

    def definition(self) -> Tuple[Dict[str, object], List[bytes]]:
        return self._definition

    def encode(self, first: int, count: int) -> List[bytes]:
        if self._arguments is not None:
            return self._arguments.encode(first, count)
        with self._items_lock:
            items = self._items[first - self._base : first - self._base + count]
        if not self.star and values.all_scalars(items):
            return [b"P", values.dumps(items)]
        return [b"E"] + [_packed_item(item, self._needs) for item in items]

    # -- in the cluster's thread ------------------------------------------------------------------

    def deliver(self, first: int, count: int, skip: int, buffers: List[Any]) -> None:
        if not self.abandoned:
            super().deliver(first, count, skip, buffers)

    def finished(self, unfit: Optional[Dict[str, Any]]) -> None:
        super().finished(unfit)
        self._end()

    def crashed(self, error: BaseException) -> None:
        super().crashed(error)
        self._end()

    def _end(self) -> None:
        self._core.maps.discard(self)
        self.over.set()

    # -- in the user's threads --------------------------------------------------------------------

    def read_ahead(self, everything: bool = False) -> None:
        """Read what the window still allows; of a slow input, no more than keeps all worker processes busy."""
        if self.closed:
            return
        with self._read_lock:
            stop_at = time.monotonic() + READ_SECONDS
            begun_at = self.total
            while not self.closed and (everything or self._room()):
                size = self.total - begun_at if self.total - begun_at >= READ_ITEMS_MIN else 1
                size = READ_ITEMS_MAX if self._quick else min(size, READ_ITEMS_MAX)
                self._read(size if everything or self._window is None else min(size, self._window - self._pending))
                slow = not self._quick and time.monotonic() > stop_at
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
            items = self._swapped(items)
            self._bytes += sum(map(sys.getsizeof, items))
            with self._items_lock:
                self._items += items
            self.total += len(items)
        self.closed = ended

    def _swapped(self, items: List[Any]) -> List[Any]:
        """Large arguments that repeat are shared objects from then on."""
        if _NUMBERS.issuperset(map(type, items)):
            return items
        large = self._core.repeats.swapped
        return [tuple(map(large, item)) for item in items] if self.star else list(map(large, items))

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

    def cancel(self) -> None:
        self.closed = True  # read no further
        self._core.cluster.cancel(self.number)

    def finish_reading(self) -> None:
        """The executor was shut down: what was promised is finished, the rest of a half-read input is refused."""
        if self._finite or not self.started or not self._lazy:
            self.read_ahead(everything=True)
            return
        with self._read_lock:
            if not self.closed:
                self.input_error = RuntimeError(AFTER_SHUTDOWN)
                self.closed = True
        self._core.cluster.grew(self.number, self)


def _needs_of(item: object) -> str:
    try:
        return functions.pack(item).needs
    except Exception:
        return functions.NOTHING  # its own place will tell


def _packed_item(item: object, needs: str) -> bytes:
    try:
        packed = functions.pack(item)
        if packed.needs not in (functions.NOTHING, needs):
            raise errors.ArgumentsError(
                "an argument that refers to __main__, or travels by value, follows others that do not: %s"
                % values.shortened(item)
            )
        return packed.data
    except BaseException as error:  # its class's own code runs here, in the cluster's thread
        return functions.pack(_Unsendable(error)).data


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

    def __init__(self, job: _MapJob, deadline: Optional[float], ordered: bool) -> None:
        self._job, self._deadline, self._ordered = job, deadline, ordered
        self._chunks: Dict[int, List[Any]] = {}
        self._covered: Dict[int, int] = {}  # delivered out of order: first -> end
        self._frontier = 0
        self._current: List[Any] = []
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
        if not self._current:
            try:
                self._refill(self._deadline)
            except (FutureTimeoutError, KeyboardInterrupt):
                # After Ctrl-C or a notebook's stop button the traceback may keep this object for long.
                self.close()
                raise
        outcome = self._current.pop()
        if type(outcome) is Failure:
            self.close()
            raise standard(outcome.error)
        return outcome

    def close(self) -> None:
        """Hand out nothing more, end what runs and forget what there is."""
        self._finalizer.detach()
        self._job.cancel()
        self._ended = self._closed = True
        self._current, self._chunks = [], {}

    def outcome(self, deadline: Optional[float]) -> object:
        """The next result, or Failure. Raises StopIteration, or TimeoutError and leaves all as it is."""
        if not self._current:
            self._refill(deadline)
        return self._current.pop()

    def outcomes(self) -> Iterator[List[object]]:
        """Results and Failures, as many at a time as have come together."""
        while True:
            try:
                self._refill(None)
            except StopIteration:
                return
            chunk, self._current = self._current, []
            chunk.reverse()
            yield chunk

    def _refill(self, deadline: Optional[float]) -> None:
        self._job.started = True
        while not self._current:
            if not self._next_chunk():
                if self._ended:
                    self._raise_end()
                self._wait(deadline)

    def _next_chunk(self) -> bool:
        first = self._job.taken if self._ordered else next(iter(self._chunks), None)
        chunk = self._chunks.pop(first, None)  # type: ignore[arg-type]
        if chunk is None:
            return False
        self._job.taken += len(chunk)
        chunk.reverse()
        self._current = chunk
        self._job.read_ahead()
        return True

    def _wait(self, deadline: Optional[float]) -> None:
        job = self._job
        if job.taken == job.total and not job.closed:
            job.read_ahead()
            return
        arrival = job.take(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if arrival is None:
            raise FutureTimeoutError
        if isinstance(arrival, End):
            self._ended = True
            if arrival.error is not None and not self._closed:
                raise job._core.ended(job, arrival.error)  # type: ignore[misc]
        elif not self._closed:
            self._keep(arrival)

    def _keep(self, arrival: Outcomes) -> None:
        self._chunks[arrival.first] = arrival.values
        self._covered[arrival.first] = arrival.first + len(arrival.values)
        while self._frontier in self._covered:
            self._frontier = self._covered.pop(self._frontier)
        self._job.delivered(self._frontier)

    def _raise_end(self) -> None:
        job = self._job
        if not self._closed:
            self._closed = True
            if job.taken < job.total:
                raise job._core.ended(job, None) or CancelledError()
            if job.input_error is not None:
                raise job.input_error
        raise StopIteration


class _Core:
    """What an executor is without its face: cluster, streams, initializer. Outlives a dropped face until idle."""

    def __init__(
        self, cluster: Cluster, owned: bool, initializer: "Optional[functions.Packed]", leave_after: Optional[int]
    ) -> None:
        self.cluster, self._owned = cluster, owned
        self._lock = threading.RLock()  # re-entered when garbage collection drops the face right here
        self._streams: Dict[Tuple[str, Terms], _Stream] = {}
        self.delivering: Set[_Stream] = set()  # also those that take no more calls
        self.maps: Set[_MapJob] = set()
        self._shut = False
        self._stopping: Optional[threading.Thread] = None
        self.broken: Optional[BrokenClusterExecutor] = None
        self.pid = os.getpid()
        self.ends_at_exit = False  # do not finish what waits when the interpreter ends
        self._token = hexadecimal(os.urandom(8))
        self._initializer, self._leave_after = initializer, leave_after
        self.repeats = shares.Repeats(cluster.share)
        _open_cores.add(self)

    def packed_call(
        self, function: Callable[..., Any], args: Iterable[Any], keywords: Mapping[str, Any]
    ) -> functions.Packed:
        """The pickle of one call; large arguments that have come before as handles. Raises what pickling raises."""
        large = self.repeats.swapped
        return functions.pack((function, tuple(map(large, args)), {name: large(keywords[name]) for name in keywords}))

    def definition(self, kind: str, needs: str, timeout: Optional[float]) -> Tuple[Dict[str, object], List[bytes]]:
        wanted = {needs} if self._initializer is None else {needs, self._initializer.needs}
        info: Dict[str, object] = {"kind": kind}
        buffers: List[bytes] = []
        for need in sorted(wanted):
            more, brought = functions.requirements(need)
            info.update(more)
            buffers += brought
        if self._initializer is not None:
            info["initializer"] = self._token
            buffers.append(self._initializer.data)
        if self._leave_after is not None:
            info["leave_after"] = self._leave_after
        if timeout is not None:
            info["timeout"] = timeout
        return info, buffers

    def options(self, terms: Terms) -> scheduler.Options:
        """A call that may be ended with its worker process, or is the last one there, travels alone."""
        alone = terms.timeout is not None or self._leave_after is not None
        return terms.options._replace(chunksize=1) if alone else terms.options

    def slots(self) -> int:
        """Worker processes, everywhere and now."""
        return sum(each.nprocs for each in self.cluster.workers() if each.connected)

    def check(self) -> None:
        if self.pid != os.getpid():
            raise RuntimeError(
                "this executor belongs to the process that made it; a fork cannot use it: make a new one"
            )
        if self.broken is not None:
            error = BrokenClusterExecutor(str(self.broken))
            raise error from self.broken.__cause__
        if self._shut:
            raise RuntimeError(AFTER_SHUTDOWN)

    def submit(self, waiting: _Waiting, packed: functions.Packed, terms: Terms) -> None:
        with self._lock:
            self.check()
            stream = self._streams.get((packed.needs, terms))
            if stream is None:
                stream = self._streams[packed.needs, terms] = _Stream(self, packed.needs, terms)
                self.delivering.add(stream)
            stream.add(waiting, packed.data)

    def submit_map(self, job: _MapJob) -> None:
        with self._lock:
            self.check()
            job.number = self.cluster.submit(job)  # an engine may refuse it
            self.maps.add(job)

    def ended(self, job: Job, error: Optional[BaseException]) -> Optional[BaseException]:
        """A job is over; what those who still wait for it are told. Later calls too, if it cannot get better."""
        with self._lock:
            for key in [key for key, stream in self._streams.items() if stream is job]:
                del self._streams[key]
            if error is None:
                return self.broken
            broken = BrokenClusterExecutor(str(error))
            broken.__cause__ = error
            cause = getattr(error.__cause__, "type_name", None)
            if self.broken is None and (not isinstance(error, errors.SourceError) or cause == "InitializerError"):
                self.broken = broken
            return broken

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        if self.pid != os.getpid():
            return  # a fork's copy; the executor lives on where it was made
        with self._lock:
            first, self._shut = not self._shut, True
            streams, maps = list(self.delivering), list(self.maps)
        if cancel_futures:
            self.cluster.settle()
            for stream in streams:
                stream.cancel_waiting()
            for job in maps:
                self.cluster.stop_job(job.number)
        if first:
            for stream in streams:
                stream.close()
            self._stopping = threading.Thread(
                target=self._stop, args=(streams, maps), name="minimalcluster-shutdown", daemon=True
            )
            self._stopping.start()
        stopping, current = self._stopping, threading.current_thread()
        if wait and stopping is not None and current is not stopping and current not in [s.thread for s in streams]:
            stopping.join()

    def terminate(self, why: str) -> None:
        """End everything now: what waits and what runs."""
        if self.pid != os.getpid():
            return
        with self._lock:
            if self.broken is None:
                self.broken = BrokenClusterExecutor(why)
            streams, maps = list(self.delivering), list(self.maps)
        for job in maps:
            job.cancel()
        for stream in streams:
            self.cluster.cancel(stream.number)
        self.shutdown(False, False)

    def join(self) -> None:
        if self._stopping is not None:
            self._stopping.join()

    def _stop(self, streams: List[_Stream], maps: List[_MapJob]) -> None:
        """When everything submitted is done, the workers leave."""
        for job in maps:
            job.finish_reading()
        for job in maps:
            job.over.wait()
        for stream in streams:
            stream.thread.join()
        self.repeats.drop()
        if self._owned:
            self.cluster.stop()
        _open_cores.discard(self)


class ClusterExecutor(Executor):
    """An executor on this machine's processors and on every node that joins at ``address`` with ``authkey``.

    max_workers: worker processes on this machine, also beyond its processors; None: one per
    processor. host, port: where other nodes join (port 0: any free one). authkey: None makes a
    strong one. master: ride on a running MasterNode instead. join=False: no worker processes on
    this machine. engine: work on Dask, Ray or another Executor (``minimalcluster.engines``) instead of
    worker processes of ours. initializer(*initargs) runs once in every worker process before its first call.
    max_tasks_per_child: chunks (a submitted call is one) after which a worker process is replaced.

    Raises ValueError for max_workers <= 0, TypeError for an initializer that cannot be called.
    """

    def __init__(
        self,
        max_workers: Optional[int] = None,
        host: str = "127.0.0.1",
        port: int = 0,
        authkey: Union[str, bytes, None] = None,
        *,
        master: Optional[MasterNode] = None,
        engine: Any = None,
        initializer: Optional[Callable[..., object]] = None,
        initargs: Tuple[Any, ...] = (),
        join: bool = True,
        max_tasks_per_child: Optional[int] = None,
    ) -> None:
        if max_workers is not None and max_workers <= 0 and not (max_workers == 0 and not join):
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        _check_whole("max_tasks_per_child", max_tasks_per_child, 1)
        functions.forbid_a_cluster_while_main_loads()
        packed = None if initializer is None else functions.pack((initializer, tuple(initargs)))
        self.authkey: object
        if master is not None:
            cluster, self.authkey, host = master._running(), master.AUTHKEY, master.HOST
        elif engine is not None:
            if max_workers is not None:
                raise ValueError("max_workers is for worker processes of ours; an engine has its own number of them")
            cluster, self.authkey, host = engine.cluster(), None, ""
            cluster.start()
        else:
            self.authkey = protocol.generate_key(os.urandom(32)) if authkey is None else authkey
            _check_key(host, protocol.as_bytes(self.authkey))
            cluster = Cluster(host, port, self.authkey)
            cluster.start()
            if join:
                cluster.join_local(max_workers or cpu_count())
        self.address = (host, cluster.port)
        self._terms = TERMS
        self._core = _Core(cluster, master is None, packed, max_tasks_per_child)
        self._finalizer = weakref.finalize(self, self._core.shutdown, False, False)
        self._finalizer.atexit = False

    def options(
        self, *, timeout: Optional[float] = None, retries: Optional[int] = None, attempts_max: Optional[int] = None
    ) -> "ClusterExecutor":
        """The same executor with other terms for the calls made through this view.

        timeout: seconds a call may take in its worker process; then it is ended with that process
        and fails with TimeoutError. retries: how often a call that raises is tried again (0).
        attempts_max: how many worker processes a call may kill before it is reported (3).
        """
        _check_whole("retries", retries, 0)
        _check_whole("attempts_max", attempts_max, 1)
        if timeout is not None and not timeout > 0:
            raise ValueError("timeout must be a number of seconds greater than 0, not %r" % (timeout,))
        changes = {"retries": retries, "attempts_max": attempts_max}
        options = self._terms.options._replace(**{name: value for name, value in changes.items() if value is not None})
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._terms = Terms(options, self._terms.timeout if timeout is None else float(timeout))
        view._viewed = self  # type: ignore[attr-defined] # a view keeps its executor open
        return view

    def share(self, value: T) -> T:
        """A handle for the object, to be used in arguments: sent once to each node. ``drop()`` frees it."""
        return self._core.cluster.share(value)  # type: ignore[return-value] # where it arrives it is the object

    def submit(
        __self,
        __fn: "Callable[P, T]",
        *args: "P.args",
        **kwargs: "P.kwargs",
    ) -> "ClusterFuture[T]":
        """Run fn(*args, **kwargs) in a worker process; its Future. Whatever cannot be sent is that future's error."""
        core = __self._core
        core.check()
        future: ClusterFuture[T] = ClusterFuture()
        try:
            packed = core.packed_call(__fn, args, kwargs)
        except (Exception, SystemExit) as error:  # pickling runs the classes' own code
            future.resolve(Failure(error, ""))
        else:
            core.submit(future, packed, __self._terms)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: Optional[float] = None,
        chunksize: Optional[int] = None,
        buffersize: Optional[int] = None,
    ) -> "MapResults[T]":
        """The results of fn over the zipped iterables, in order.

        Work begins at once; the input is read only a window ahead of what was taken (buffersize
        tasks, if given), so it may be endless. chunksize: tasks shipped together, None lets the
        cluster measure. timeout: seconds from now until the whole of it must be there.
        """
        return self._map(fn, iterables, timeout, chunksize, buffersize, True)

    def map_unordered(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: Optional[float] = None,
        chunksize: Optional[int] = None,
        buffersize: Optional[int] = None,
    ) -> "MapResults[T]":
        """As ``map``, but results come as soon as they are there."""
        return self._map(fn, iterables, timeout, chunksize, buffersize, False)

    def _map(
        self, fn: Callable[..., T], iterables: Tuple[Iterable[Any], ...], timeout: Optional[float],
        chunksize: Optional[int], buffersize: Optional[int], ordered: bool,
    ) -> "MapResults[T]":  # fmt: skip
        for name, value in (("chunksize", chunksize), ("buffersize", buffersize)):
            if value is not None and value < 1:
                raise ValueError("%s must be >= 1." % name)
        self._core.check()
        deadline = None if timeout is None else time.monotonic() + timeout
        terms = self._terms._replace(options=self._terms.options._replace(chunksize=chunksize))
        return MapResults(_MapJob(self._core, fn, iterables, terms, buffersize), deadline, ordered)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with ``wait`` return when everything is done and the workers have left."""
        self._core.shutdown(wait, cancel_futures)

    # -- asyncio ----------------------------------------------------------------------------------

    async def run(__self, __fn: "Callable[P, T]", *args: "P.args", **kwargs: "P.kwargs") -> T:
        """``await ex.run(fn, ...)``: the call's result. Cancelling it ends the call, also while it runs."""
        future = __self.submit(__fn, *args, **kwargs)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.cancel_running()
            raise

    async def amap(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        chunksize: Optional[int] = None,
        buffersize: Optional[int] = None,
    ) -> AsyncIterator[T]:
        """``async for result in ex.amap(fn, items)``: in order. Leaving the loop ends the rest."""
        loop = asyncio.get_event_loop()
        nothing = object()
        results = self.map(fn, *iterables, chunksize=chunksize, buffersize=buffersize)
        try:
            while True:
                result = await loop.run_in_executor(None, next, results, nothing)
                if result is nothing:
                    return
                yield result  # type: ignore[misc]
        finally:
            results.close()

    async def __aenter__(self) -> "ClusterExecutor":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.get_event_loop().run_in_executor(None, self.shutdown)


def _check_whole(name: str, value: Optional[int], least: int) -> None:
    if value is not None and (not isinstance(value, int) or value < least):
        raise ValueError("%s must be a whole number from %d on, not %r" % (name, least, value))


_open_cores: "weakref.WeakSet[_Core]" = weakref.WeakSet()


def _finish_all() -> None:
    """Work submitted before the interpreter's exit is finished, as the standard's executors do."""
    for core in list(_open_cores):
        if core.ends_at_exit:
            core.terminate("the interpreter ends")
        core.shutdown(True, False)


if hasattr(threading, "_register_atexit"):
    threading._register_atexit(_finish_all)  # before the interpreter refuses new threads (3.9 on)
else:
    atexit.register(_finish_all)

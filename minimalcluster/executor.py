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
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Generic,
    Iterable,
    Iterator,
    List,
    Optional,
    Tuple,
    TypeVar,
    Union,
)

from . import errors, functions, protocol, scheduler, values
from .cluster import Cluster
from .compat import cpu_count
from .jobs import End, Failure, Job, Outcomes

if sys.version_info >= (3, 7):
    from concurrent.futures import BrokenExecutor
else:
    BrokenExecutor = RuntimeError  # what 3.7 derives it from

if TYPE_CHECKING:
    from .master import MasterNode

T = TypeVar("T")

log = logging.getLogger("minimalcluster")

#: How far ``map`` reads ahead of what has been taken, unless ``buffersize`` says otherwise.
WINDOW_ITEMS = 1 << 18
WINDOW_BYTES = 64 << 20
#: Stop a stream's thread from waiting for ever should its job be lost.
WAIT_SECONDS = 1.0


class BrokenClusterExecutor(BrokenExecutor, errors.ClusterError):
    """No work can ever be done: a failing initializer, a failed master."""


class WorkerDiedError(BrokenExecutor, errors.WorkerDied):
    """The worker process died each time it ran this call; the others are not touched."""


class ClusterFuture(Future, Generic[T]):
    """A standard Future; ``wait()`` returns for it as soon as it is cancelled, not when a worker would get to it."""

    def __init__(self) -> None:
        super().__init__()
        self._handed_out = False

    def cancel(self) -> bool:
        with self._condition:
            fresh = not self.cancelled()
            cancelled = super().cancel()
            if cancelled and fresh:
                self.set_running_or_notify_cancel()
        return cancelled

    def _hand_out(self) -> bool:
        """It goes to a node now; False if it was cancelled before."""
        with self._condition:
            if not self._handed_out and not self.cancelled():
                self._handed_out = self.set_running_or_notify_cancel()
        return self._handed_out


class _Stream(Job):
    """Calls submitted one by one; each task is a pickled (function, arguments, keywords)."""

    closed = False

    def __init__(self, core: "_Core", needs: str, options: scheduler.Options) -> None:
        super().__init__()
        self.total = 0
        self.options = options
        self._core, self._needs = core, needs
        self._lock = threading.Lock()
        self._waiting: Dict[int, Tuple[ClusterFuture[Any], bytes]] = {}
        self.number = core.cluster.submit(self)
        self.thread = threading.Thread(target=self._deliver_all, name="minimalcluster-results", daemon=True)
        self.thread.start()

    def definition(self) -> Tuple[Dict[str, object], List[bytes]]:
        return self._core.definition("calls", self._needs)

    def add(self, future: "ClusterFuture[Any]", data: bytes) -> None:
        with self._lock:
            self._waiting[self.total] = future, data
            self.total += 1
        self._core.cluster.grew(self.number, self)

    def encode(self, first: int, count: int) -> List[bytes]:
        buffers = [b"E"]
        for index in range(first, first + count):
            future, data = self._waiting[index]
            buffers.append(data if future._hand_out() else b"")  # nothing to run: its outcome interests nobody
        return buffers

    def close(self) -> None:
        self.closed = True
        self._core.cluster.grew(self.number, self)

    def cancel_waiting(self) -> None:
        for future, _ in list(self._waiting.values()):
            future.cancel()

    def _deliver_all(self) -> None:
        while True:
            arrival = self.take(None)
            if isinstance(arrival, End):
                break
            if arrival is not None:
                self._deliver(arrival)
                del arrival
        error = arrival.error
        broken = None if error is None else self._core.break_(error)
        for index in sorted(self._waiting):
            future, _ = self._waiting.pop(index)
            _resolve(future, Failure(broken or CancelledError(), ""))

    def _deliver(self, outcomes: Outcomes) -> None:
        index = outcomes.first
        outcomes.values.reverse()
        while outcomes.values:
            future, _ = self._waiting.pop(index)
            _resolve(future, outcomes.values.pop())
            del future
            index += 1


def _resolve(future: "ClusterFuture[Any]", outcome: object) -> None:
    if not future._hand_out():
        return  # cancelled before it was handed out
    if isinstance(outcome, Failure):
        future.set_exception(_standard(outcome.error))
    else:
        future.set_result(outcome)


def _standard(error: BaseException) -> BaseException:
    """What programs written for concurrent.futures expect of a worker's death."""
    if type(error) is errors.WorkerDied:
        return WorkerDiedError(str(error), error.exit, error.nodes, error.lines)
    return error


class _MapJob(Job):
    """One function over zipped iterables, read as far ahead as the window allows."""

    closed = False

    def __init__(
        self, core: "_Core", function: Callable[..., Any], iterables: Tuple[Iterable[Any], ...],
        options: scheduler.Options, window: Optional[int],
    ) -> None:  # fmt: skip
        super().__init__()
        self._core, self.options = core, options
        packed = functions.pack(function)
        self._function, self._needs = packed.data, packed.needs
        self._star = len(iterables) > 1
        self._source = iter(iterables[0]) if len(iterables) == 1 else iter(zip(*iterables))
        self._window = window
        self._items: "deque[Any]" = deque()  # read and not delivered, from task self._base on
        self._base = 0
        self._arguments: Any = None
        self.total = 0
        self.taken = 0
        self._bytes = 0
        if len(iterables) == 1 and isinstance(iterables[0], range) and window is None:
            self._arguments = values.RangeArguments(iterables[0])
            self.total, self.closed = len(iterables[0]), True
        self._read_lock = threading.Lock()
        self._items_lock = threading.Lock()
        if not self.closed:
            self.read_ahead()
        self.number = core.cluster.submit(self)

    def definition(self) -> Tuple[Dict[str, object], List[bytes]]:
        info, buffers = self._core.definition("function", self._needs)
        return dict(info, star=self._star), buffers + [self._function]

    def encode(self, first: int, count: int) -> List[bytes]:
        if self._arguments is not None:
            return self._arguments.encode(first, count)
        with self._items_lock:
            start = first - self._base
            items = list(itertools.islice(self._items, start, start + count))
        if not self._star and values.all_scalars(items):
            return [b"P", values.dumps(items)]
        return [b"E"] + [_packed_item(item, self._needs) for item in items]

    def read_ahead(self, everything: bool = False) -> None:
        """Read from the iterables what the window still allows; their own errors are raised as they are."""
        if self.closed:
            return
        with self._read_lock:
            while not self.closed and (everything or self._room()):
                try:
                    item = next(self._source)
                except StopIteration:
                    self.closed = True
                    break
                with self._items_lock:
                    self._items.append(item)
                self._bytes += sys.getsizeof(item)
                self.total += 1
        if hasattr(self, "number"):
            self._core.cluster.grew(self.number, self)

    def _room(self) -> bool:
        pending = self.total - self.taken
        if self._window is not None:
            return pending < self._window
        return pending < WINDOW_ITEMS and self._bytes * pending < WINDOW_BYTES * max(self.total, 1)

    def delivered(self, upto: int) -> None:
        """Arguments below ``upto`` are needed no more, whatever dies."""
        with self._items_lock:
            while self._items and self._base < upto:
                self._items.popleft()
                self._base += 1


def _packed_item(item: object, needs: str) -> bytes:
    try:
        packed = functions.pack(item)
        return packed.data
    except Exception as error:
        return functions.pack(_Unsendable(error)).data


class _Unsendable:
    """In place of an argument that cannot be pickled: raises the pickling's own error where it would be used."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> Tuple[Any, ...]:
        info, buffers = values.encode_exception(self._error, 0)
        return _raise_unsendable, (info, buffers)


def _raise_unsendable(info: Dict[str, Any], buffers: List[bytes]) -> None:
    raise values.decode_exception(info, buffers)


class MapResults(Iterator[T]):
    """The results of ``map``: in order, or as they come. ``close`` cancels the rest; so does dropping it."""

    def __init__(self, job: _MapJob, deadline: Optional[float], ordered: bool) -> None:
        self._job, self._deadline, self._ordered = job, deadline, ordered
        self._chunks: Dict[int, List[Any]] = {}
        self._covered: Dict[int, int] = {}  # delivered out of order: first -> end
        self._frontier = 0
        self._current: List[Any] = []
        self._next = 0
        self._ended = False
        self._finalizer = weakref.finalize(self, job._core.cluster.cancel, job.number)
        self._finalizer.atexit = False

    def __iter__(self) -> "MapResults[T]":
        return self

    def __next__(self) -> T:
        while not self._current:
            if self._next_chunk():
                continue
            if self._ended:
                raise StopIteration
            self._wait()
        outcome = self._current.pop()
        if isinstance(outcome, Failure):
            self.close()
            raise _standard(outcome.error)
        return outcome

    def close(self) -> None:
        """Hand out nothing more and forget what there is."""
        self._finalizer()
        self._ended = True
        self._current, self._chunks = [], {}

    def _next_chunk(self) -> bool:
        first = self._next if self._ordered else next(iter(self._chunks), None)
        chunk = self._chunks.pop(first, None)  # type: ignore[arg-type]
        if chunk is None:
            return False
        self._next += len(chunk)
        self._job.taken += len(chunk)
        chunk.reverse()
        self._current = chunk
        try:
            self._job.read_ahead()
        except BaseException:
            self.close()
            raise
        return True

    def _wait(self) -> None:
        seconds = None if self._deadline is None else self._deadline - time.monotonic()
        arrival = self._job.take(None if seconds is None else max(0.0, seconds))
        if arrival is None:
            self.close()
            raise FutureTimeoutError
        self._keep(arrival)

    def _keep(self, arrival: Union[Outcomes, End]) -> None:
        if isinstance(arrival, End):
            self._ended = True
            if arrival.error is not None:
                raise self._job._core.break_(arrival.error)
            return
        self._chunks[arrival.first] = arrival.values
        self._covered[arrival.first] = arrival.first + len(arrival.values)
        while self._frontier in self._covered:
            self._frontier = self._covered.pop(self._frontier)
        self._job.delivered(self._frontier)

    def _collect_everything(self) -> None:
        """At shutdown: read the rest of the input and keep what comes, for whoever still iterates."""
        self._job.read_ahead(everything=True)
        while not self._ended:
            arrival = self._job.take(None)
            if arrival is not None:
                self._keep(arrival)


class _Core:
    """What an executor is without its face: cluster, streams, initializer. Outlives a dropped face until idle."""

    def __init__(
        self, cluster: Cluster, owned: bool, initializer: Optional[Callable[..., object]], initargs: Tuple[Any, ...]
    ):
        self.cluster, self._owned = cluster, owned
        self._lock = threading.Lock()
        self._streams: Dict[Tuple[str, scheduler.Options], _Stream] = {}
        self._maps: "weakref.WeakSet[MapResults[Any]]" = weakref.WeakSet()
        self._shut = False
        self._stopping: Optional[threading.Thread] = None
        self.broken: Optional[BaseException] = None
        self._pid = os.getpid()
        self._token = "".join("%02x" % byte for byte in os.urandom(8))
        self._initializer = None if initializer is None else functions.pack((initializer, initargs))
        _open_cores.add(self)

    def definition(self, kind: str, needs: str) -> Tuple[Dict[str, object], List[bytes]]:
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
        return info, buffers

    def check(self) -> None:
        if self._pid != os.getpid():
            raise RuntimeError(
                "this executor belongs to the process that made it; a fork cannot use it: make a new one"
            )
        if self.broken is not None:
            raise self.broken
        if self._shut:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def stream(self, needs: str, options: scheduler.Options) -> _Stream:
        with self._lock:
            self.check()
            if (needs, options) not in self._streams:
                self._streams[needs, options] = _Stream(self, needs, options)
            return self._streams[needs, options]

    def remember(self, results: MapResults[Any]) -> None:
        self._maps.add(results)

    def break_(self, error: BaseException) -> BaseException:
        """Nothing can be done any more; the reason is everybody's."""
        with self._lock:
            if self.broken is None:
                self.broken = BrokenClusterExecutor(str(error))
                self.broken.__cause__ = error
            return self.broken

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        with self._lock:
            first, self._shut = not self._shut, True
            streams = list(self._streams.values())
        if cancel_futures:
            for stream in streams:
                stream.cancel_waiting()
            for results in list(self._maps):
                results.close()
        if first:
            for stream in streams:
                stream.close()
            self._stopping = threading.Thread(target=self._stop, name="minimalcluster-shutdown", daemon=True)
            self._stopping.start()
        stopping = self._stopping
        if wait and stopping is not None and threading.current_thread() not in [stopping] + [s.thread for s in streams]:
            stopping.join()

    def _stop(self) -> None:
        """When everything submitted is done, the workers leave."""
        for results in list(self._maps):
            try:
                results._collect_everything()
            except BaseException:
                results.close()  # its own iteration says what was wrong with the input
        for stream in list(self._streams.values()):
            stream.thread.join()
        if self._owned:
            self.cluster.stop()
        _open_cores.discard(self)


class ClusterExecutor(Executor):
    """An executor on this machine's processors and on every node that joins at ``address`` with ``authkey``.

    max_workers: worker processes on this machine, also beyond its processors; None: one per
    processor. host, port: where other nodes join (port 0: any free one). authkey: None makes a
    strong one. master: ride on a running MasterNode instead. join=False: no worker processes on
    this machine. initializer(*initargs) runs once in every worker process before its first call.

    Raises ValueError for max_workers <= 0, TypeError for an initializer that cannot be called.
    """

    def __init__(
        self,
        max_workers: Optional[int] = None,
        host: str = "127.0.0.1",
        port: int = 0,
        authkey: Union[str, bytes, None] = None,
        *,
        master: "Optional[MasterNode]" = None,
        initializer: Optional[Callable[..., object]] = None,
        initargs: Tuple[Any, ...] = (),
        join: bool = True,
    ) -> None:
        if max_workers is not None and max_workers <= 0 and not (max_workers == 0 and not join):
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if functions.MAIN_NAME in sys.modules:
            raise RuntimeError(
                "a script that a worker process has loaded makes an executor of its own; put that part of it "
                "under: if __name__ == '__main__':"
            )
        self._options = scheduler.DEFAULTS
        if master is not None:
            cluster, self.authkey = master._running(), master.AUTHKEY
            host = master.HOST
        else:
            self.authkey = protocol.generate_key(os.urandom(32)) if authkey is None else authkey
            from .master import _check_key

            _check_key(host, protocol.as_bytes(self.authkey))
            cluster = Cluster(host, port, self.authkey)
            cluster.start()
            if join:
                cluster.join_local(max_workers or cpu_count())
        self.address = (host, cluster.port)
        self._core = _Core(cluster, master is None, initializer, tuple(initargs))
        self._finalizer = weakref.finalize(self, self._core.shutdown, False, False)
        self._finalizer.atexit = False

    def options(self, *, retries: Optional[int] = None, attempts_max: Optional[int] = None) -> "ClusterExecutor":
        """The same executor with other options for the calls made through this view.

        retries: how often a call that raises is tried again (0). attempts_max: how many worker
        processes a call may kill before it is reported (3).
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        changes = {"retries": retries, "attempts_max": attempts_max}
        for name, value in changes.items():
            least = 0 if name == "retries" else 1
            if value is not None and (not isinstance(value, int) or value < least):
                raise ValueError("%s must be a whole number from %d on, not %r" % (name, least, value))
        view._options = self._options._replace(**{name: value for name, value in changes.items() if value is not None})
        view._finalizer = self._finalizer
        view._viewed = self  # type: ignore[attr-defined] # a view keeps its executor open
        return view

    def submit(__self, __fn, *args, **kwargs):  # type: ignore[no-untyped-def] # noqa: N805
        """Run fn(*args, **kwargs) in a worker process; its Future. Whatever cannot be sent is that future's error."""
        core = __self._core
        core.check()
        future = ClusterFuture()  # type: ignore[var-annotated]
        try:
            packed = functions.pack((__fn, args, kwargs))
        except Exception as error:
            future.set_running_or_notify_cancel()
            future.set_exception(error)
            return future
        core.stream(packed.needs, __self._options).add(future, packed.data)
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
        if not iterables:
            raise TypeError("map() needs at least one iterable")
        self._core.check()
        deadline = None if timeout is None else time.monotonic() + timeout
        options = self._options._replace(chunksize=chunksize)
        results = MapResults(_MapJob(self._core, fn, iterables, options, buffersize), deadline, ordered)  # type: MapResults[T]
        self._core.remember(results)
        return results

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with ``wait`` return when everything is done and the workers have left."""
        self._core.shutdown(wait, cancel_futures)

    # -- asyncio ----------------------------------------------------------------------------------

    async def run(__self, __fn, *args, **kwargs):  # type: ignore[no-untyped-def] # noqa: N805
        """``await ex.run(fn, ...)``: the call's result."""
        return await asyncio.wrap_future(__self.submit(__fn, *args, **kwargs))

    async def amap(self, fn: Callable[..., T], *iterables: Iterable[Any]) -> Any:
        """``async for result in ex.amap(fn, items)``: in order."""
        results = self.map(fn, *iterables)
        loop = asyncio.get_event_loop()
        nothing = object()
        try:
            while True:
                result = await loop.run_in_executor(None, next, results, nothing)
                if result is nothing:
                    return
                yield result
        finally:
            results.close()

    async def __aenter__(self) -> "ClusterExecutor":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.get_event_loop().run_in_executor(None, self.shutdown)


_open_cores: "weakref.WeakSet[_Core]" = weakref.WeakSet()


def _finish_all() -> None:
    """Work submitted before the interpreter's exit is finished, as the standard's executors do."""
    for core in list(_open_cores):
        if core._pid == os.getpid():
            core.shutdown(True, False)


if hasattr(threading, "_register_atexit"):
    threading._register_atexit(_finish_all)  # before the interpreter refuses new threads (3.9 on)
else:
    atexit.register(_finish_all)

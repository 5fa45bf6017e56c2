"""``Pool``: multiprocessing.pool.Pool's methods, on an executor's core.

    apply_async ──> submit ──> future ──callback──> AsyncResult
    map, starmap ──> MapJob ──> the caller's own thread
    map_async ──> MapJob ──> one thread for all of them ──> MapResult
    imap ──> MapJob ──> IMapIterator, in the consumer's thread
      input ──^ what lies in memory: as map's; else read in a thread of its own, as multiprocessing's task handler

What differs from multiprocessing: a worker process that dies fails only the call that killed it,
and a pool that was terminated answers what it had not done with an error instead of never.
"""

import multiprocessing
import multiprocessing.pool
import threading
import warnings
import weakref
from concurrent.futures import CancelledError, TimeoutError as FutureTimeoutError
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined] # not in its stubs
from typing import Any, Callable, Dict, Generic, Iterable, List, Mapping, Optional, TypeVar, Union

from .. import errors
from ..brain.status import ClusterStatus, JobStatus
from ..compat import cpu_count, monotonic
from ..logs import log
from ..master.job import Failure
from ..master.masternode import MasterNode
from ..master.reader import NotYetError
from .core import until
from .executor import ClusterExecutor
from .futures import ClusterFuture, raisable, standard
from .maps import MapJob
from .results import MapResults

T = TypeVar("T")
R = TypeVar("R")

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"
#: multiprocessing cuts a map into so many chunks for each process. Used if ``maxtasksperchild`` counts chunks.
CHUNKS_PER_PROCESS = 4


class _Text:
    """For MaybeEncodingError, which takes the repr of its arguments: this repr was taken in the worker process."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _pool_error(error: BaseException) -> BaseException:
    if isinstance(error, errors.ResultError):
        encoding = MaybeEncodingError(error.__context__, _Text(error.value))
        encoding.__cause__ = error.__cause__
        return encoding
    return standard(error)


class _Outcome(ClusterFuture[T]):
    """The future of an AsyncResult. The callback is called before ``get`` returns, as in multiprocessing."""

    def __init__(
        self, callback: Optional[Callable[[T], object]], error_callback: Optional[Callable[[BaseException], object]]
    ) -> None:
        super().__init__()
        self._callback, self._error_callback = callback, error_callback

    _shown = staticmethod(_pool_error)

    def set_result(self, result: T) -> None:
        try:
            if self._callback is not None:
                self._call(self._callback, result)
        finally:
            super().set_result(result)

    def set_exception(self, exception: Optional[BaseException]) -> None:
        try:
            if self._error_callback is not None:
                self._call(self._error_callback, exception)
        finally:
            super().set_exception(exception)

    def _call(self, callback: Callable[[Any], object], value: Any) -> None:
        self._callback = self._error_callback = None  # free what they refer to
        try:
            callback(value)
        except Exception:
            log.exception("the callback of %r raised", self)


class AsyncResult(Generic[T], multiprocessing.pool.AsyncResult):
    """What apply_async returns."""

    def __init__(
        self, callback: Optional[Callable[[T], object]], error_callback: Optional[Callable[[BaseException], object]]
    ) -> None:
        self._future = _Outcome(callback, error_callback)

    def ready(self) -> bool:
        return self._future.done()

    def successful(self) -> bool:
        if not self.ready():
            raise ValueError("%r not ready" % (self,))
        return self._error() is None

    def wait(self, timeout: Optional[float] = None) -> None:
        try:
            self._future.exception(timeout)
        except (FutureTimeoutError, CancelledError):
            pass

    def get(self, timeout: Optional[float] = None) -> T:
        try:
            return self._future.result(timeout)
        except FutureTimeoutError:
            if not self.ready():
                raise multiprocessing.TimeoutError from None
        return self._future.result()  # it has just come; or the task has raised this

    def _error(self) -> Optional[BaseException]:
        return CancelledError() if self._future.cancelled() else self._future.exception()

    # Programs read these private names of multiprocessing.

    @property
    def _success(self) -> bool:
        return self.ready() and self._error() is None

    @property
    def _value(self) -> Any:
        """The result or the exception."""
        error = self._error() if self.ready() else None
        return self._future.result() if self.ready() and error is None else error


ApplyResult = AsyncResult


class MapResult(AsyncResult[List[T]], multiprocessing.pool.MapResult):
    """What map_async returns. ``status()``: its progress and what it waits for; ``str`` of it is one line."""

    def __init__(
        self,
        callback: Optional[Callable[[List[T]], object]],
        error_callback: Optional[Callable[[BaseException], object]],
        status: Callable[[], JobStatus],
        length: int,
    ) -> None:
        super().__init__(callback, error_callback)
        self.status = status
        self._length = length

    # Programs read these private names of multiprocessing to compute what is left. A chunk counts as one task here.
    _chunksize = 1

    @property
    def _number_left(self) -> int:
        return 0 if self.ready() else self._length - self.status().done


class _Gathering:
    """Collects a map's results for its MapResult, in turns in a thread of the executor."""

    def __init__(self, results: "MapResults[Any]", result: MapResult[Any]) -> None:
        self._results, self._result = results, result

    def turn(self) -> bool:
        try:
            value = _collected(self._results, 0.0)
        except NotYetError:
            return False
        except BaseException as error:
            self._result._future.resolve(Failure(error, ""))
        else:
            self._result._future.resolve(value)
        return True


class _Telling:
    """Gives a call that could not be sent its error, in another thread, since callbacks never run in the caller's."""

    def __init__(self, result: AsyncResult[Any], error: BaseException) -> None:
        self._result, self._error = result, error

    def turn(self) -> bool:
        self._result._future.resolve(Failure(self._error, ""))
        return True


class IMapIterator(Generic[T], multiprocessing.pool.IMapIterator):
    """What imap returns. After an error at its place, the later results can still be read."""

    def __init__(self, results: "MapResults[T]") -> None:
        self._results = results
        self._lock = threading.Lock()

    def __iter__(self) -> "IMapIterator[T]":
        return self

    def next(self, timeout: Optional[float] = None) -> T:
        """As ``__next__``; raises multiprocessing.TimeoutError if no result comes within so many seconds."""
        try:
            return self._next(None if timeout is None else monotonic() + timeout)
        except NotYetError:
            raise multiprocessing.TimeoutError from None

    __next__ = next  # noqa: A003

    def status(self) -> JobStatus:
        """How far it is, and what it waits for; from any thread. ``str`` of it is one line."""
        return self._results.status()

    def ready(self) -> bool:
        return self._results.is_over()

    @property
    def _index(self) -> int:
        """The number of results that have come. Programs read this private name of multiprocessing."""
        return self.status().done

    @property
    def _length(self) -> Optional[int]:
        """The number of items, once all of the input is read."""
        return self._results.length()

    def _next(self, moment: Optional[float]) -> T:
        with self._lock:
            try:
                outcome = self._results.reader.next(moment)
            except KeyboardInterrupt:
                self._results.interrupt()
                raise
        if type(outcome) is Failure:
            raise raisable(_pool_error(outcome.error))
        return outcome


class IMapUnorderedIterator(IMapIterator[T], multiprocessing.pool.IMapUnorderedIterator):
    """What imap_unordered returns."""


class _Life:
    """The state that a pool shares with its views."""

    state = RUN

    def __init__(self) -> None:
        self.given: "weakref.WeakSet[Any]" = weakref.WeakSet()  # the results and iterators that somebody still holds


class _Process:
    """Stands for a worker process where programs look at ``Pool._pool``. pid: None on another machine."""

    exitcode = None

    def __init__(self, pid: Optional[int]) -> None:
        self.pid = self.ident = pid
        self.name = "worker process %s" % ("elsewhere" if pid is None else pid)

    def is_alive(self) -> bool:
        return True


class _Waiting:
    """Stands for multiprocessing's task queue: the tasks that no worker process has yet."""

    def __init__(self, status: Callable[[], ClusterStatus]) -> None:
        self._status = status

    def qsize(self) -> int:
        return sum(job.queued for job in self._status().jobs)

    def empty(self) -> bool:
        return not self.qsize()


class Pool(multiprocessing.pool.Pool):
    """multiprocessing.Pool, whose worker processes may be on any machine.

    processes, initializer, initargs, maxtasksperchild: as multiprocessing's. context is ignored:
    worker processes are fresh interpreters. host, port, authkey, key_file, master, engine, join,
    encrypt, ssl_context, results: as ClusterExecutor's; other nodes join at ``address`` with ``authkey``.

    chunksize: where it is not said the cluster measures; imap's default of 1 is taken for that too.
    """

    _life: Optional["_Life"] = None  # for ``__del__``, which is called even if __init__ raised
    _viewed: Optional["Pool"] = None

    def __init__(
        self,
        processes: Optional[int] = None,
        initializer: Optional[Callable[..., object]] = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: Optional[int] = None,
        context: object = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        authkey: Union[str, bytes, None] = None,
        master: Optional[MasterNode] = None,
        engine: Any = None,
        join: bool = True,
        key_file: Optional[str] = None,
        encrypt: Optional[bool] = None,
        ssl_context: Any = None,
        results: str = "any",
    ) -> None:
        if processes is None and join and master is None and engine is None:
            processes = cpu_count()
        if processes is not None and processes < 1 and join:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        initargs = tuple(initargs)
        self._executor = ClusterExecutor(
            processes, host, port, authkey, master=master, engine=engine, initializer=initializer,
            initargs=initargs, join=join, max_tasks_per_child=maxtasksperchild, key_file=key_file,
            encrypt=encrypt, ssl_context=ssl_context, results=results,
        )  # fmt: skip
        self._core = self._executor._core
        self._core.ends_at_exit = True
        self._maxtasksperchild, self._initializer, self._initargs = maxtasksperchild, initializer, initargs
        self.address, self.authkey = self._executor.address, self._executor.authkey
        self._life = _Life()

    # Private names of multiprocessing that programs read. The numbers change as nodes join and leave.

    @property
    def _processes(self) -> int:
        return self._core.size()

    @property
    def _pool(self) -> List[_Process]:
        here = [] if self._state != RUN else self._core.cluster.local_pids()
        return [_Process(pid) for pid in here + [None] * (self._processes - len(here))]

    @property
    def _cache(self) -> Dict[int, Any]:
        """Results and iterators that are not ready, of those that somebody holds."""
        return {id(each): each for each in list(self._life.given) if not each.ready()} if self._life else {}

    @property
    def _taskqueue(self) -> _Waiting:
        return _Waiting(self.status)

    @property
    def _state(self) -> str:
        return CLOSE if self._life is None else self._life.state

    def options(
        self,
        *,
        on_error: Optional[str] = None,
        retries: Optional[int] = None,
        attempts_max: Optional[int] = None,
        timeout: Optional[float] = None,
        deadline: Optional[float] = None,
        journal: Optional[str] = None,
        idempotent: Optional[bool] = None,
    ) -> "Pool":
        """The same pool with other options for calls made through what this returns, as ``ClusterExecutor.options``.

        on_error: None, multiprocessing's way: ``map`` raises the first error when all is done, ``imap`` each in
        its place. "return", "finish" and "stop" are for maps, as an executor's. deadline: of ``apply_async``,
        from the call to its result.
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._executor = self._executor.options(
            on_error=on_error, retries=retries, attempts_max=attempts_max, timeout=timeout, deadline=deadline,
            journal=journal, idempotent=idempotent,
        )  # fmt: skip
        view._viewed = self  # while the view lives, its pool is not collected
        return view

    def share(self, value: T) -> T:
        """A handle for the object, for use in arguments. The object is sent once to each node. ``drop()`` frees it."""
        return self._executor.share(value)

    def status(self) -> ClusterStatus:
        """The progress of this pool's calls and maps, and what they wait for. From any thread."""
        return self._executor.status()

    # -- calls ------------------------------------------------------------------------------------

    def apply(self, func: Callable[..., T], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> T:
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Optional[Callable[[T], object]] = None,
        error_callback: Optional[Callable[[BaseException], object]] = None,
    ) -> AsyncResult[T]:
        self._check_running()
        result: AsyncResult[T] = self._given(AsyncResult(callback, error_callback))
        try:
            options = self._executor._options
            args = tuple(args)
            packed = self._core.packed_call(func, args, kwds, options)
            self._core.submit(result._future, packed, options, until(options), (args, kwds))
        except (Exception, SystemExit) as error:  # an error of pickling, or of a broken pool
            self._core.collecting.add(_Telling(result, error))
        return result

    def map(self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: Optional[int] = None) -> List[T]:
        return _collected(self._start(func, iterable, chunksize, False))

    def starmap(
        self, func: Callable[..., T], iterable: Iterable[Iterable[Any]], chunksize: Optional[int] = None
    ) -> List[T]:
        return _collected(self._start(func, iterable, chunksize, True))

    def map_async(
        self,
        func: Callable[[Any], T],
        iterable: Iterable[Any],
        chunksize: Optional[int] = None,
        callback: Optional[Callable[[List[T]], object]] = None,
        error_callback: Optional[Callable[[BaseException], object]] = None,
    ) -> MapResult[T]:
        return self._collect(self._start(func, iterable, chunksize, False), callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: Optional[int] = None,
        callback: Optional[Callable[[List[T]], object]] = None,
        error_callback: Optional[Callable[[BaseException], object]] = None,
    ) -> MapResult[T]:
        return self._collect(self._start(func, iterable, chunksize, True), callback, error_callback)

    def imap(
        self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: Optional[int] = 1
    ) -> IMapIterator[T]:
        return self._given(IMapIterator(self._lazily(func, iterable, chunksize, True)))

    def imap_unordered(
        self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: Optional[int] = 1
    ) -> IMapIterator[T]:
        return self._given(IMapUnorderedIterator(self._lazily(func, iterable, chunksize, False)))

    def _given(self, result: R) -> R:
        if self._life is not None:
            self._life.given.add(result)
        return result

    def _start(self, func: Callable[..., T], iterable: Any, chunksize: Optional[int], star: bool) -> "MapResults[T]":
        self._check_running()
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        count = len(iterable)  # OverflowError if a range is too long for a list of results, as in multiprocessing
        if chunksize is not None and chunksize < 1:
            raise ValueError("Chunksize must be 1+, not %r" % (chunksize,))
        chunks = CHUNKS_PER_PROCESS * self._core.size()
        standard = max(1, -(-count // chunks)) if chunksize is None else chunksize  # multiprocessing's
        if self._maxtasksperchild is not None:
            chunksize = standard
        apart = standard == 1
        results = self._mapped(func, iterable, chunksize, star, True, True, apart)
        results.expected = count
        return results

    def _lazily(
        self, func: Callable[[Any], T], iterable: Iterable[Any], chunksize: Optional[int], ordered: bool
    ) -> "MapResults[T]":
        self._check_running()
        chunksize = 1 if chunksize is None else chunksize
        if chunksize < 1:
            raise ValueError("Chunksize must be 1+, not %r" % (chunksize,))
        measured = chunksize == 1 and self._maxtasksperchild is None
        return self._mapped(func, iterable, None if measured else chunksize, False, ordered, False, chunksize == 1)

    def _mapped(
        self, func: Callable[..., T], iterable: Iterable[Any], chunksize: Optional[int], star: bool, ordered: bool,
        keeps: bool, apart: bool,
    ) -> "MapResults[T]":  # fmt: skip
        """apart: multiprocessing would send the function with each item; with longer chunks calls share it."""
        options = self._executor._options._replace(chunksize=chunksize)
        job = MapJob(self._core, func, (iterable,), options, star=star, lazy=False, own_thread=True, apart=apart)
        return MapResults(job, None, ordered, keeps)

    def _collect(
        self,
        results: "MapResults[T]",
        callback: Optional[Callable[[List[T]], object]],
        error_callback: Optional[Callable[[BaseException], object]],
    ) -> MapResult[T]:
        result: MapResult[T] = self._given(MapResult(callback, error_callback, results.status, results.length() or 0))
        results.watch(_Gathering(results, result))
        return result

    # -- the end ----------------------------------------------------------------------------------

    def _end(self, state: str) -> None:
        if self._life is not None:
            self._life.state = state

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")
        self._core.check_process()  # a forked process has no thread that reads a map's input

    def close(self) -> None:
        """Take no more calls. The worker processes end when all work is done."""
        if self._state == RUN:
            self._end(CLOSE)
            self._core.shutdown(False, False)

    def terminate(self) -> None:
        """Kill the worker processes now."""
        self._end(TERMINATE)
        self._core.terminate("the pool was terminated")
        self._core.shutdown(True, False)

    def join(self) -> None:
        """After ``close`` or ``terminate``: wait until the worker processes have ended."""
        if self._state == RUN:
            raise ValueError("Pool is still running")
        self._core.shutdown(True, False)

    def __enter__(self) -> "Pool":
        self._check_running()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()

    def __del__(self) -> None:
        if self._state == RUN and self._viewed is None:
            text = "unclosed running minimalcluster pool %r" % (self,)
            warnings.warn(text, ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        return "<%s.%s state=%s>" % (type(self).__module__, type(self).__qualname__, self._state)

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")


def _collected(results: "MapResults[T]", moment: Optional[float] = None) -> List[T]:
    """All results. Raises the first error when all tasks are done, or what ``on_error`` says.

    Raises NotYetError at the moment, and goes on when it is called again.
    """
    try:
        found = results.reader.gather(moment)
    except KeyboardInterrupt:
        results.interrupt()  # cancels the rest; the pool stays usable
        raise
    if results.reader.has_failures and Failure in set(map(type, found)):
        raise _pool_error(next(each.error for each in found if type(each) is Failure))
    return found

"""``ClusterExecutor``: a ``concurrent.futures.Executor`` whose workers may be on any machine.

::

    submit ──> Calls (a job that grows) ───┐                  ┌──> nodes
    map ─────> MapJob (one function) ──────┴──> Cluster ──────┘
                                                  │ results
    futures <── the thread of Calls  <────────────┤
    iterator <── the consumer's own thread <──────┘

Results of calls are unpickled and given to futures in a thread of their job, so a slow callback delays no heartbeat.
Nothing below refers to the face (what the user holds), so the face is collected when it is dropped: then submitted
work is finished, and the worker processes end.
"""

import logging
import weakref
from concurrent.futures import Executor
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Callable,
    Dict,
    Iterable,
    Optional,
    Tuple,
    TypeVar,
    Union,
)

from ..brain.options import STANDARD
from ..brain.status import ClusterStatus
from ..compat import cpu_count, monotonic
from ..master.cluster import Cluster
from ..master.job import Failure
from ..master.master_keys import master_key
from ..master.masternode import MasterNode
from ..payload import functions, script
from ..payload.loaders import loader
from ..wire import addresses, encryption
from .core import Core, until
from .futures import (
    BrokenClusterExecutor,
    BrokenExecutor,
    CallTimeoutError,
    ClusterFuture,
    DeadlineExceededError,
    WorkerDiedError,
)
from .maps import MapJob
from .results import MapResults

__all__ = [
    "BrokenClusterExecutor",
    "BrokenExecutor",
    "CallTimeoutError",
    "ClusterExecutor",
    "ClusterFuture",
    "DeadlineExceededError",
    "WorkerDiedError",
]

T = TypeVar("T")
F = TypeVar("F", bound=Any)

log = logging.getLogger("minimalcluster")

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")


def _positional_only(function: F) -> F:
    """Make the first two parameters what ``def f(self, fn, /, ...)`` makes them, which 3.6 and 3.7 cannot parse: so a
    call may have keywords of these names, and an error names them as the standard library's does."""
    code = function.__code__
    if hasattr(code, "co_posonlyargcount"):
        names = ("self", "fn") + code.co_varnames[2:]
        function.__code__ = code.replace(co_posonlyargcount=2, co_varnames=names)
    return function


class ClusterExecutor(Executor):
    """An executor on this machine's processors and on every node that joins at ``address`` with ``authkey``.

    max_workers: worker processes on this machine, also beyond its processors; None: one per
    processor. host, port: where other nodes join (None or "": on all networks; port 0: any free one).
    authkey: None makes a strong one. key_file: in place of authkey, a file that holds the key; it is made if it is not
    there. master: ride on a running MasterNode instead. join=False: no worker processes on
    this machine. engine: work on Dask, Ray or another Executor (``minimalcluster.engines``) instead of
    worker processes of ours. initializer(*initargs) runs once in every worker process before its first call.
    max_tasks_per_child: chunks (a submitted call is one) after which a worker process is replaced.
    encrypt, ssl_context, results: as MasterNode's.

    Raises ValueError for max_workers <= 0, TypeError for an initializer that cannot be called.
    """

    _viewed: Optional["ClusterExecutor"] = None

    def __init__(
        self,
        max_workers: Optional[int] = None,
        host: Optional[str] = "127.0.0.1",
        port: int = 0,
        authkey: Union[str, bytes, None] = None,
        *,
        master: Optional[MasterNode] = None,
        engine: Any = None,
        initializer: Optional[Callable[..., object]] = None,
        initargs: Tuple[Any, ...] = (),
        join: bool = True,
        max_tasks_per_child: Optional[int] = None,
        key_file: Optional[str] = None,
        encrypt: Optional[bool] = None,
        ssl_context: Any = None,
        results: str = "any",
    ) -> None:
        if max_workers is not None and max_workers <= 0 and not (max_workers == 0 and not join):
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        _check_whole("max_tasks_per_child", max_tasks_per_child, 1)
        script.starts_a_cluster()
        runs_scripts = engine is None and (master is None or master._running().runs_scripts)
        packed = None if initializer is None else functions.pack((initializer, tuple(initargs)), runs_scripts)
        if packed is not None and functions.SAME_MINOR in packed.needs and functions.globals_set(initializer):
            log.warning(
                "the initializer sets the global variables %s, and travels by value: functions that travel so have "
                "globals of their own and do not see that; put it and them into a module",
                functions.globals_set(initializer),
            )  # fmt: skip
        load = loader(results, engine)
        encryption.check(encrypt, ssl_context)
        if master is not None and results != "any":
            raise ValueError("results is the master's: MasterNode(results='safe')")
        if (encrypt is not None or ssl_context is not None) and (master is not None or engine is not None):
            raise ValueError("encrypt and ssl_context are the master's; here there is no port of the executor's own")
        self.authkey: object
        host, port = addresses.checked_host(host, "host", everywhere=True), addresses.checked_port(port, "port")
        if master is not None:
            cluster, self.authkey, host = master._running(), master.AUTHKEY, master.HOST
        elif engine is not None:
            if max_workers is not None:
                raise ValueError("max_workers is for worker processes of ours; an engine has its own number of them")
            cluster, self.authkey, host = engine.cluster(), None, ""
            cluster.start()
        else:
            self.authkey = master_key(host, authkey, key_file)
            cluster = Cluster(host, port, self.authkey, encrypt=encrypt, ssl_context=ssl_context, load=load)
            cluster.start()
            if join:
                _join_or_stop(cluster, max_workers or cpu_count())
        self.address = (addresses.reachable(host), cluster.port)
        self._options = STANDARD
        self._core = Core(cluster, master is None, packed, max_tasks_per_child)
        self._finalizer = weakref.finalize(self, self._core.shutdown, False, False)
        self._finalizer.atexit = False

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
    ) -> "ClusterExecutor":
        """The same executor with other options for the calls made through this view.

        on_error: what a ``map`` does with a call that fails. None, the standard's way: its exception is raised
        in its place, and the rest is cancelled. "return" gives exceptions as results; "finish" leaves them out
        and raises TaskError behind the last result, with ``.results`` and ``.errors`` by position; "stop" too,
        and hands out nothing more after the first.
        retries: how often a call that raises is tried again (0). attempts_max: how many worker processes a call
        may kill before it is reported (3). timeout: seconds a call may take in its worker process, from where
        its own code begins; then it is ended with that process and fails with TimeoutError. deadline: seconds for
        the whole of a ``map``, or from a ``submit`` to its result; then what is not done is cancelled with
        DeadlineExceeded.
        journal: a file for the outcomes: the same calls in a program that is run again are not made again. A
        ``map`` must be over a list, a tuple or a range, and has the file to itself meanwhile.
        idempotent: when nothing else is left to do, a call that takes too long may run on a second node too (False).
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._options = self._options.changed(
            on_error=on_error, retries=retries, attempts_max=attempts_max, timeout=timeout, deadline=deadline,
            journal=journal, idempotent=idempotent,
        )  # fmt: skip
        self._core.cluster.check_options(view._options)
        view._viewed = self  # while the view lives, its executor is not collected
        return view

    @property
    def _max_workers(self) -> int:
        """The number of worker processes on all nodes now; programs read this of concurrent.futures' executors."""
        return self._core.size()

    def share(self, value: T) -> T:
        """A handle for the object, for use in arguments. The object is sent once to each node. ``drop()`` frees it."""
        handle: Any = self._core.cluster.share(value)  # in the task it is the object again
        return handle

    def status(self) -> ClusterStatus:
        """The progress of this executor's calls and maps, and what they wait for. From any thread."""
        return self._core.status()

    @_positional_only
    def submit(
        __self,
        __fn: "Callable[P, T]",
        *args: "P.args",
        **kwargs: "P.kwargs",
    ) -> "ClusterFuture[T]":
        """Run fn(*args, **kwargs) in a worker process. Returns its Future, which also gets the errors of pickling."""
        return __self._submit(ClusterFuture(), __fn, args, kwargs)

    def _submit(
        self, future: "ClusterFuture[T]", fn: Callable[..., T], args: Tuple[Any, ...], keywords: Dict[str, Any]
    ) -> "ClusterFuture[T]":
        core, options = self._core, self._options
        core.check()
        try:
            packed = core.packed_call(fn, args, keywords, options)
        except (Exception, SystemExit) as error:  # pickling runs code of the arguments' classes
            future.resolve(Failure(error, ""))
        else:
            core.submit(future, packed, options, until(options), (args, keywords))
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
        """As ``map``, but each result is given as soon as it has come."""
        return self._map(fn, iterables, timeout, chunksize, buffersize, False)

    def _map(
        self, fn: Callable[..., T], iterables: Tuple[Iterable[Any], ...], timeout: Optional[float],
        chunksize: Optional[int], buffersize: Optional[int], ordered: bool, own_thread: bool = False,
    ) -> "MapResults[T]":  # fmt: skip
        for name, value in (("chunksize", chunksize), ("buffersize", buffersize)):
            if value is not None and value < 1:
                raise ValueError("%s must be >= 1." % name)
        self._core.check()
        deadline = None if timeout is None else monotonic() + timeout
        options = self._options._replace(chunksize=chunksize)
        apart = chunksize is None or chunksize == 1
        job = MapJob(self._core, fn, iterables, options, buffersize, own_thread=own_thread, apart=apart)
        return MapResults(job, deadline, ordered)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. With ``wait``, return when all work is done and the worker processes have ended."""
        self._core.shutdown(wait, cancel_futures)

    def __exit__(self, exc_type: Optional[type], *exc_info: object) -> None:
        """Wait for the calls; but after Ctrl-C cancel and end them. (With the standard's, Ctrl-C at a terminal reaches
        the worker processes, too.)"""
        if exc_type is not None and issubclass(exc_type, KeyboardInterrupt):
            self._core.terminate("Ctrl-C has ended the with block of the executor")
        self.shutdown()

    # -- asyncio: its import takes as long as that of this package, so it waits until one of these is called ----------

    @_positional_only
    async def run(__self, __fn: "Callable[P, T]", *args: "P.args", **kwargs: "P.kwargs") -> T:
        """``await ex.run(fn, ...)`` gives the call's result. Cancelling it ends the call, even while it runs."""
        from .awaiting import AwaitedFuture, outcome_of

        found: T = await outcome_of(__self._submit(AwaitedFuture(), __fn, args, kwargs))
        return found

    def amap(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        chunksize: Optional[int] = None,
        buffersize: Optional[int] = None,
    ) -> AsyncIterator[T]:
        """``async for result in ex.amap(fn, items)``, in order. Leaving the loop cancels the rest."""
        from .awaiting import each_of

        return each_of(lambda: self._map(fn, iterables, None, chunksize, buffersize, True, own_thread=True))

    async def __aenter__(self) -> "ClusterExecutor":
        return self

    async def __aexit__(self, exc_type: Optional[type], *exc_info: object) -> None:
        """Wait for the calls; but if the block was cancelled, end them, as a TaskGroup does. (Under ``asyncio.run``,
        Ctrl-C cancels the block, and nothing tells it from another reason.)"""
        from .awaiting import LEAVE_AT_ONCE, in_thread

        if exc_type is not None and issubclass(exc_type, LEAVE_AT_ONCE):
            self._core.terminate("the async with block of the executor was cancelled")
        await in_thread(self.shutdown)


def _join_or_stop(cluster: Cluster, slots: int) -> None:
    try:
        cluster.join_local(slots)
    except BaseException:
        cluster.stop()
        raise


def _check_whole(name: str, value: Optional[int], least: int) -> None:
    if value is not None and (not isinstance(value, int) or value < least):
        raise ValueError("%s must be a whole number from %d on, not %r" % (name, least, value))

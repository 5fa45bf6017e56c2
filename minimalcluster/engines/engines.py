"""The engines: Dask, Ray and any ``concurrent.futures.Executor``, each as one small class."""

import concurrent.futures.process
import sys
import threading
from concurrent.futures import Executor, Future
from typing import Any, Callable, Optional, Tuple, Type, Union

from .. import errors
from ..faces import core
from ..master.cluster import Cluster
from .cluster import OnEngine
from .courier import Backend
from .worker import Brought, run_chunk

if sys.version_info >= (3, 7):
    _BROKEN: Tuple[Type[BaseException], ...] = (concurrent.futures.BrokenExecutor,)
else:
    _BROKEN = (concurrent.futures.process.BrokenProcessPool,)


class Engine(Backend):
    """Base of the engines: how it runs calls is in courier.py's Backend."""

    def cluster(self) -> Cluster:
        """What MasterNode and ClusterExecutor run on: a cluster without port and key, whose own node is this engine."""
        return Cluster(None, 0, b"", OnEngine(self))


class ExecutorEngine(Engine):
    """Any ``concurrent.futures.Executor``: ProcessPoolExecutor, MPIPoolExecutor, loky's, ipyparallel's, Parsl's.

    executor: the executor, which stays yours: shut it down yourself. Or a function that makes one:
    then it is made, replaced when a dying worker process breaks it, and shut down at the end.
    workers: how many calls it runs at a time, if it does not tell.
    """

    died = _BROKEN

    def __init__(self, executor: Union[Executor, Callable[[], Executor]], workers: Optional[int] = None) -> None:
        self._executor: Optional[Executor] = None
        self._make: Optional[Callable[[], Executor]] = None
        if isinstance(executor, Executor):
            self._executor = executor
        elif callable(executor):
            self._make = executor
        else:
            raise TypeError("an Executor or a function that makes one is needed, not %r" % (executor,))
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise ValueError("workers must be a whole number from 1 on, or None, not %r" % (workers,))
        self._workers = workers

    def workers(self) -> int:
        executor = self._made()
        if self._workers is None:
            self._workers = _workers_of(executor)
        return self._workers

    def _made(self) -> Executor:
        if self._executor is None and self._make is not None:
            self._executor = self._make()
        if not isinstance(self._executor, Executor):
            raise TypeError("%r made no Executor, but %r" % (self._make, self._executor))
        self.name = type(self._executor).__name__
        return self._executor

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        try:
            return self._made().submit(function, *arguments)
        except _BROKEN as error:
            let_go(self._made())
            if self._make is None:
                raise errors.StateError(
                    "a worker process died, and %s does not work after that (%s); give ExecutorEngine a function that "
                    "makes one, and it is replaced: ExecutorEngine(lambda: %s(...))" % (self.name, error, self.name)
                )
        # 3.7's and 3.8's pool closes its pipes under its own thread, which never ends then (bpo-39104).
        self._shut_down(wait=(3, 7) <= sys.version_info < (3, 9))
        return self._made().submit(function, *arguments)

    def close(self) -> None:
        # From 3.7 on the interpreter's end wakes pools, also one that is just closing the pipe which that goes through.
        self._shut_down(wait=sys.version_info >= (3, 7))

    def _shut_down(self, wait: bool) -> None:
        if self._make is not None and self._executor is not None:
            self._executor.shutdown(wait=wait)
            self._executor = None


def let_go(pool: Executor) -> None:
    """Of a broken pool. Before 3.7 its farewell to its worker processes, at its shutdown, when it is collected or at
    the interpreter's end, may wait for ever: for a lock that a killed one had, or for one that reads."""
    if sys.version_info < (3, 7) and isinstance(pool, concurrent.futures.process.ProcessPoolExecutor):
        pool._result_queue.put = lambda farewell: None
        pool._call_queue.cancel_join_thread()


def _workers_of(executor: Executor) -> int:
    for name in ("num_workers", "_max_workers"):  # mpi4py's; the standard library's and loky's
        number = getattr(executor, name, None)
        if isinstance(number, int) and number > 0:
            return number
    kind = type(executor).__name__
    raise ValueError("%s does not tell how many workers it has: ExecutorEngine(..., workers=)" % kind)


class DaskEngine(Engine):
    """The workers of a ``distributed.Client``. options: resources=, workers= ... of ``Client.get_executor``.

    Dask runs several tasks at a time in the threads of one process unless it is told otherwise
    (``threads_per_worker=1``): an environment's global variables are shared by those.
    """

    name = "Dask"
    elastic = True

    def __init__(self, client: Any, **options: Any) -> None:
        from distributed import KilledWorker

        self.died = (KilledWorker,)
        self._client, self._executor = client, client.get_executor(**dict(options, pure=False))

    def workers(self) -> int:
        return sum(self._client.nthreads().values())

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        return self._executor.submit(function, *arguments)

    def keep(self, brought: Brought) -> object:
        return self._client.scatter([brought], hash=False)[0]

    def cancel(self, future: "Future[Any]", running: bool) -> None:
        if running:  # whether it has begun, only the far scheduler knows: what may count is left alone
            future.cancel()


class RayEngine(Engine):
    """Ray's tasks: on the cluster ``ray.init`` has connected to, or else what ``ray.init()`` finds or starts.

    options: those of ``ray.remote``, for example num_cpus=1, resources={...}, runtime_env={...}.
    """

    name = "Ray"
    elastic = exact = True

    def __init__(self, **options: Any) -> None:
        import ray

        if not ray.is_initialized():
            ray.init()
        self._ray = ray
        self._cpus = options.get("num_cpus", 1) or 1
        # Retries are ours: a task that kills its process again and again is to be named.
        self._remote = ray.remote(run_chunk).options(**dict({"max_retries": 0}, **options))
        exceptions = ray.exceptions
        self.died = (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError)

    def workers(self) -> int:
        return int(self._ray.cluster_resources().get("CPU", 0) // self._cpus)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        reference = self._remote.remote(*arguments)
        future: "Future[Any]" = reference.future()
        future.reference = reference  # type: ignore[attr-defined] # it must live as long as its future
        return future

    def keep(self, brought: Brought) -> object:
        return self._ray.put(brought)

    def cancel(self, future: "Future[Any]", running: bool) -> None:
        if running:  # Ray interrupts what it cancels: what may count is left alone
            self._ray.cancel(future.reference, force=True)  # type: ignore[attr-defined]


# The standard library's executors take no more work at the interpreter's exit, and the last registered is
# asked first: what waits for its end here must come before them.
if hasattr(threading, "_register_atexit"):
    threading._register_atexit(core.finish_all)

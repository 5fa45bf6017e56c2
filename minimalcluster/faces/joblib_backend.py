"""The joblib backend "minimalcluster": scikit-learn and every other user of joblib, on the cluster.

::

    joblib.Parallel --batches--> ClusterBackend --pickled calls--> ClusterExecutor --> nodes
          ^                                                             | futures
          +---- joblib's callback of each batch, in its job's thread <---+

joblib cuts the work into batches, keeps some under way and takes the results in callbacks; this
module pickles a batch, sends it as one call, and ends the running ones when joblib gives up. Large
NumPy arrays in a batch, wherever they are, travel once to each node and call of Parallel.
"""

import logging
import multiprocessing
import os
import sys
import threading
import time
import weakref
from collections import ChainMap, OrderedDict
from concurrent.futures import CancelledError, TimeoutError as FutureTimeoutError
from typing import Any, Callable, Dict, List, Optional, Set, Tuple, Union

from .. import errors
from ..brain.options import RETURN, STANDARD
from ..compat import PICKLE_PROTOCOL, monotonic
from ..master.job import Failure
from ..master.masternode import MasterNode
from ..payload import by_value, functions, shares, values
from ..wire import encryption
from .calls import argument_of
from .core import until
from .executor import ClusterExecutor
from .futures import ClusterFuture, standard

try:
    from joblib.parallel import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend
except ImportError:  # register_joblib_backend() raises then
    AutoBatchingMixin = type("AutoBatchingMixin", (), {})
    ParallelBackendBase = FallbackToBackend = SequentialBackend = object
    _without_joblib = True
else:
    _without_joblib = False
    try:
        import cloudpickle
    except ImportError:  # joblib before 1.6 has its own copy
        from joblib.externals import cloudpickle

log = logging.getLogger("minimalcluster")

NAME = "minimalcluster"
#: Shared arrays that no current batch uses are kept on the nodes for later batches, up to so many bytes.
IDLE_BYTES_MAX = 256 << 20
#: How often to look for new nodes while Parallel runs, and while there is no node yet.
LOOK_SECONDS = 1.0
POLL_SECONDS = 0.05


def register_joblib_backend(name: str = NAME, make_default: bool = False) -> None:
    """Make ``joblib.parallel_config(backend="minimalcluster")`` known to joblib. May be called again.

    Its options, all of them optional: executor, a ClusterExecutor to work on; master, a running
    MasterNode; address ("host:port" or a pair) with authkey or key_file, where a cluster of this process lets
    other nodes join, and encrypt, ssl_context, results, as MasterNode's; max_workers, that cluster's worker processes
    on this machine. With none of them there is one cluster of this machine's processors, which all share and which ends
    at exit.
    on_error, retries, attempts_max, timeout, deadline, journal, idempotent: as ``ClusterExecutor.options``, where
    a call is a task and a map is a call of Parallel. on_error is "return", or nothing for joblib's own way.
    """
    if _without_joblib:
        raise ImportError("there is no joblib here: pip install 'minimalcluster[joblib]'")
    from joblib import register_parallel_backend

    register_parallel_backend(name, ClusterBackend, make_default=make_default)


class ClusterBackend(AutoBatchingMixin, ParallelBackendBase):
    """A backend for joblib 1.1 and later. One instance serves one Parallel at a time."""

    parallel: Any
    nesting_level: Optional[int]

    supports_retrieve_callback = True
    supports_timeout = True
    supports_sharedmem = False
    uses_threads = False
    default_n_jobs = -1  # all worker processes of the cluster

    def __init__(
        self,
        nesting_level: Optional[int] = None,
        *,
        executor: Optional[ClusterExecutor] = None,
        master: Optional[MasterNode] = None,
        address: Union[str, Tuple[str, int], None] = None,
        authkey: Union[str, bytes, None] = None,
        key_file: Optional[str] = None,
        encrypt: Optional[bool] = None,
        ssl_context: Any = None,
        results: str = "any",
        max_workers: Optional[int] = None,
        wait_for_workers_timeout: float = 30.0,
        on_error: Optional[str] = None,
        retries: Optional[int] = None,
        attempts_max: Optional[int] = None,
        timeout: Optional[float] = None,
        deadline: Optional[float] = None,
        journal: Optional[str] = None,
        idempotent: Optional[bool] = None,
    ) -> None:
        super().__init__(nesting_level=nesting_level)
        if on_error not in (None, RETURN):
            raise ValueError("on_error must be %r, or None for joblib's own way, not %r" % (RETURN, on_error))
        self._changes: Dict[str, Any] = {
            "on_error": on_error, "retries": retries, "attempts_max": attempts_max, "timeout": timeout,
            "deadline": deadline, "journal": journal, "idempotent": idempotent,
        }  # fmt: skip
        STANDARD.changed(**self._changes)  # raises for a wrong option
        if executor is not None and not isinstance(executor, ClusterExecutor):
            raise TypeError("executor must be a ClusterExecutor, not %r" % (executor,))
        if sum(each is not None for each in (executor, master, address)) > 1:
            raise ValueError("executor, master and address are three ways to name one cluster: give one of them")
        if (address is None) != (authkey is None and key_file is None):
            raise ValueError("address and authkey (or key_file) go together: other nodes join there with that key")
        encryption.check(encrypt, ssl_context)
        secured = encrypt is not None or ssl_context is not None or results != "any"
        if secured and (executor is not None or master is not None):
            raise ValueError("encrypt, ssl_context and results are the executor's or the master's: give them there")
        self._cluster_terms: Dict[str, Any] = {
            "max_workers": max_workers, "address": address, "authkey": authkey, "key_file": key_file,
            "encrypt": encrypt, "ssl_context": ssl_context, "results": results,
        }  # fmt: skip
        self._options: Dict[str, Any] = {
            "executor": executor, "master": master, "wait_for_workers_timeout": wait_for_workers_timeout,
        }  # fmt: skip
        self._options.update(self._cluster_terms)
        self._options.update(self._changes)
        self._executor: Optional[ClusterExecutor] = None
        self._lock = threading.RLock()  # reentrant: the garbage collector may run callbacks anywhere
        self._busy = False  # a Parallel has configured it and not yet terminated it
        self._over = True  # no call of Parallel is running
        self._futures: "Set[_BatchFuture]" = set()  # batches that were sent and are not done
        self._arrays: "Optional[_Arrays]" = None
        self._n_jobs = 0
        self._look_at = 0.0
        self._bytes_min: Optional[int] = None
        self._until: Optional[float] = None

    # -- how many ---------------------------------------------------------------------------------

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: Optional[str] = None,
        require: Optional[str] = None,
        max_nbytes: Optional[int] = None,
        mmap_mode: Optional[str] = None,
        **others: Any,
    ) -> int:
        """Called by each Parallel before it begins. Returns the number of jobs."""
        if _in_worker_process():
            raise FallbackToBackend(self._nested())
        if self._busy and self.parallel is not parallel:
            # Two generators can run in one parallel_config: each gets a backend.
            raise FallbackToBackend(ClusterBackend(self.nesting_level, **self._options))
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel, self._busy = parallel, True
        # Shared arrays are read-only. In other modes tasks may write, so each batch has copies.
        self._bytes_min = max_nbytes if mmap_mode == "r" else None
        return n_jobs

    def effective_n_jobs(self, n_jobs: Optional[int]) -> int:
        """-1: the number of worker processes of the cluster now; -2: one less."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if _in_worker_process():
            return int(self._nested().effective_n_jobs(n_jobs))
        return n_jobs if n_jobs > 0 else max(self._workers() + 1 + n_jobs, 1)

    def _nested(self) -> Any:
        """In a worker process: a backend that runs right there. Waiting for other worker processes could deadlock."""
        if self.nesting_level is None:
            self.nesting_level = 0
        return self.get_nested_backend()[0]

    def _workers(self) -> int:
        """The number of worker processes. Waits for the first one."""
        core = self._cluster()._core
        seconds = self._options["wait_for_workers_timeout"]
        deadline = monotonic() + seconds
        said = False
        while True:
            found = _count(core)
            if found:
                return found
            if not said:
                said = True
                log.warning("no node has joined the cluster at port %d yet; waiting for one", core.cluster.port)
            if monotonic() > deadline:
                raise TimeoutError(
                    "no node has joined the cluster at port %d within %g s; start one, or wait longer: "
                    "wait_for_workers_timeout" % (core.cluster.port, seconds)
                )
            time.sleep(POLL_SECONDS)

    def _cluster(self) -> ClusterExecutor:
        if self._executor is None:
            options = self._options
            executor: Optional[ClusterExecutor] = options["executor"]
            if executor is None and options["master"] is not None:
                executor = _on_master(options["master"])
            if executor is None:
                executor = _own(**self._cluster_terms)
            self._executor = executor.options(**self._changes)
        return self._executor

    # -- a call of Parallel -----------------------------------------------------------------------

    def start_call(self) -> None:
        share = self._cluster()._core.cluster.share
        self._arrays = None if self._bytes_min is None else _Arrays(share, self._bytes_min)
        self._n_jobs, self._look_at = self.effective_n_jobs(self.parallel.n_jobs), monotonic() + LOOK_SECONDS
        self._until = until(self._cluster()._options)
        self._over = False

    def stop_call(self) -> None:
        with self._lock:
            self._over = True
        if self._arrays is not None:
            # The caller may change the arrays before the next call, which must see that.
            self._arrays.close()

    def submit(self, func: Any, callback: Optional[Callable[[Any], None]] = None) -> "_BatchFuture":
        """Send a batch. All errors go into the future: in a callback's thread, nobody could catch them."""
        future = _BatchFuture()
        with self._lock:
            if self._over:  # called by a callback after ``abort_everything``
                future.cancel()
                return future
            self._futures.add(future)
        arrays = self._arrays
        try:
            executor = self._cluster()
            used, packed = _pack((run_batch, (func,), {}), arrays, executor._core.cluster.runs_scripts)
            future.add_done_callback(lambda _: arrays.release(used) if arrays is not None else None)
            future.add_done_callback(lambda _: self._done(future, callback))
            options = executor._options
            future.errors_returned = len(func.items) if options.on_error == RETURN else 0
            executor._core.submit(future, packed, options, self._until, ((func,), {}))
        except BaseException as error:
            future.resolve(Failure(error, ""))
            self._done(future, callback)
        return future

    apply_async = submit  # the name before joblib 1.5

    def _done(self, future: "_BatchFuture", callback: Optional[Callable[[Any], None]]) -> None:
        with self._lock:
            wanted = future in self._futures
            self._futures.discard(future)
        if wanted and callback is not None:
            callback(future)

    def retrieve_result_callback(self, out: "_BatchFuture") -> Any:
        return out.get()

    def compute_batch_size(self) -> int:
        """With options for tasks (timeout, retries, journal ...) a batch must be one task, not several."""
        options = self._cluster()._options._replace(deadline=None, idempotent=False)
        return super().compute_batch_size() if options == STANDARD else 1

    def batch_completed(self, batch_size: int, duration: float) -> None:
        super().batch_completed(batch_size, duration)
        if self.parallel.n_jobs < 0 and monotonic() >= self._look_at:
            self._look_at = monotonic() + LOOK_SECONDS
            self._grow()

    def _grow(self) -> None:
        """When nodes have joined, dispatch more batches: as many as joblib would have dispatched at the start."""
        parallel, before = self.parallel, self._n_jobs
        try:
            n_jobs = _count(self._cluster()._core) + 1 + parallel.n_jobs
        except RuntimeError:
            # The executor was shut down, and all batches get that error. If this raised, joblib would wait for ever.
            return
        if n_jobs <= before or not isinstance(parallel.pre_dispatch, str):
            return
        with parallel._lock:
            self._n_jobs = parallel._cached_effective_n_jobs = n_jobs
            for _ in range(parallel._pre_dispatch_amount * (n_jobs - before) // before):
                if parallel._original_iterator is not None:
                    parallel.dispatch_next()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel all batches, also those that run."""
        with self._lock:
            self._over = True
            futures, self._futures = self._futures, set()
        for future in futures:
            future.cancel_running()

    def terminate(self) -> None:
        """The end of a Parallel. The worker processes stay for the next one."""
        self._busy = False
        self.reset_batch_stats()


class _BatchFuture(ClusterFuture[List[Any]]):
    errors_returned = 0  # the number of results that an exception replaces

    def resolve(self, outcome: object) -> None:
        if type(outcome) is Failure and isinstance(outcome.error, errors.WorkerDied):
            calls: Optional[List[Any]] = getattr(outcome.error.argument, "items", None)  # of the batch that died
            told = None if calls is None else [argument_of(*call[1:]) for call in calls]
            outcome.error.argument = told[0] if told and len(told) == 1 else told
        if self.errors_returned and type(outcome) is Failure and outcome.node:  # an error of a task, not of the cluster
            outcome = [standard(outcome.error)] * self.errors_returned
        super().resolve(outcome)

    def get(self, timeout: Optional[float] = None) -> Any:
        """As AsyncResult.get of multiprocessing: joblib before 1.3 calls it."""
        try:
            return self.result(timeout)
        except CancelledError:
            raise RuntimeError("the cluster was shut down before this call of Parallel had ended") from None
        except FutureTimeoutError:
            if self.done():
                raise  # an error of the task
            raise multiprocessing.TimeoutError from None


# -- what is sent ---------------------------------------------------------------------------------


def run_batch(batch: Callable[[], List[Any]]) -> List[Any]:
    """Run a batch, in a worker process. Tasks may name this backend, and return objects of classes sent by value."""
    global _batches
    register_joblib_backend()
    values.by_value = values.by_value or by_value.dumper(cloudpickle)
    with _lock:
        _batches += 1
    try:
        return batch()
    finally:
        with _lock:
            _batches -= 1


def _pack(call: object, arrays: "Optional[_Arrays]", with_script: bool) -> Tuple[List[int], functions.Packed]:
    """(ids of the shared arrays, the pickle). Functions that worker processes cannot import are pickled by value."""
    used: List[int] = []
    table = None
    numpy = sys.modules.get("numpy")
    if arrays is not None and numpy is not None:

        def reduce_array(array: Any) -> Any:
            return arrays.reduce(array, used)

        def table(others: Any) -> Any:
            return ChainMap({numpy.ndarray: reduce_array, numpy.memmap: reduce_array}, others)

    try:
        return used, functions.packed(by_value.dump(cloudpickle, call, with_script, table))
    except BaseException:
        if arrays is not None:
            arrays.release(used)
        raise


class _Shared:
    """A large array on the nodes. While this refers to the array, no other array can get its id."""

    def __init__(self, array: Any, handle: Any) -> None:
        self.array, self.handle, self.users = array, handle, 0


class _Arrays:
    """The large arrays of one call of Parallel. Batches contain their handles only."""

    def __init__(self, share: Callable[[object], Any], bytes_min: int) -> None:
        self._share, self._bytes_min = share, bytes_min
        self._shared: "OrderedDict[int, _Shared]" = OrderedDict()  # by the array's id; the longest idle come first
        self._lock = threading.RLock()

    def reduce(self, array: Any, used: List[int]) -> Any:
        """Used as the array's __reduce_ex__. Adds its id to ``used`` if it is shared."""
        if array.nbytes < self._bytes_min or array.dtype.hasobject:
            return array.__reduce_ex__(PICKLE_PROTOCOL)
        with self._lock:
            shared = self._shared.get(id(array))
            if shared is None:
                try:
                    handle = self._share(array.view(sys.modules["numpy"].ndarray))
                except OSError as error:
                    log.warning("a large array goes with each batch: it could not be written to a file (%s)", error)
                    return array.__reduce_ex__(PICKLE_PROTOCOL)
                shared = self._shared[id(array)] = _Shared(array, handle)
            shared.users += 1
            used.append(id(array))
            return shared.handle.__reduce__()

    def release(self, used: List[int]) -> None:
        """A batch is done. Drop unused arrays beyond IDLE_BYTES_MAX, those idle for longest first."""
        with self._lock:
            for name in used:
                if name in self._shared:
                    self._shared[name].users -= 1
                    self._shared.move_to_end(name)
            del used[:]
            idle = [(name, shared) for name, shared in self._shared.items() if not shared.users]
            surplus = sum(shared.array.nbytes for _, shared in idle) - IDLE_BYTES_MAX
            for name, shared in idle:
                if surplus <= 0:
                    break
                surplus -= shared.array.nbytes
                shared.handle.drop()
                del self._shared[name]

    def close(self) -> None:
        with self._lock:
            while self._shared:
                self._shared.popitem()[1].handle.drop()


# -- which cluster --------------------------------------------------------------------------------


def _count(core: Any) -> int:
    """The number of worker processes. Raises RuntimeError after a shutdown."""
    core.check()
    core.cluster.check_runs()
    return int(core.cluster.slots)


def _in_worker_process() -> bool:
    return shares.in_worker_process or _batches > 0


_lock = threading.Lock()
_batches = 0  # batches that run in this process, which may be an engine's worker
_own_executors = {}  # type: Dict[object, ClusterExecutor] # options -> the executor of this process
_masters = weakref.WeakKeyDictionary()  # type: weakref.WeakKeyDictionary[MasterNode, ClusterExecutor]


def _own(max_workers: Optional[int], address: Union[str, Tuple[str, int], None], **terms: Any) -> ClusterExecutor:
    """The executor of this process with these options. It is made at the first call and ended at exit."""
    host, port = _split(address)
    key = (os.getpid(), max_workers, host, port) + tuple(sorted(terms.items()))
    with _lock:
        executor = _own_executors.get(key)
        if executor is not None:
            try:
                executor._core.check()
            except RuntimeError:
                executor = None  # it was shut down
        if executor is None:
            executor = _own_executors[key] = ClusterExecutor(max_workers, host, port, **terms)
            executor._core.ends_at_exit = True
        return executor


def _on_master(master: MasterNode) -> ClusterExecutor:
    with _lock:
        if master not in _masters:
            _masters[master] = ClusterExecutor(master=master)
        return _masters[master]


def _split(address: Union[str, Tuple[str, int], None]) -> Tuple[str, int]:
    if address is None:
        return "127.0.0.1", 0
    if isinstance(address, str):
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError("address must be 'host:port' or (host, port), not %r" % (address,))
        return host.strip("[]"), int(port)
    return address[0], int(address[1])

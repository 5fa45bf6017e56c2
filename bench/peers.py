"""This project's faces and the programs beside which it is measured, each used as its own documentation advises.

A peer that needs a chunk size gets a quarter of a worker process's share, which is the rule of multiprocessing.Pool:
with the default of 1, ProcessPoolExecutor would be 50 times slower. Whatever a peer cannot do raises CannotError.
"""

import functools
import itertools
import os
import subprocess
import sys
import tempfile

import tasks

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class CannotError(Exception):
    """The peer has no such call."""


class Peer:
    """One program with its worker processes running. ``with Peer(2) as peer``."""

    name = ""
    #: What pip installs for it, and a module that is there then.
    packages, module = (), ""
    #: Takes seconds to start: it runs all workloads of a round in one process, and fewer rounds.
    slow = False
    #: Workloads that take it minutes, or that it never ends.
    without = ()
    #: 10^4 single calls take it less than some seconds.
    fast_submit = True
    #: A call is under way while the caller goes on.
    has_futures = True
    #: Its map chooses well by itself how many calls go out together.
    map_spreads = False

    def __init__(self, workers):
        self.workers = workers
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    @classmethod
    def command(cls, python, workers):
        """What comes before the program's name on the command line."""
        return [python]

    def share_size(self, count):
        return max(1, count // (4 * self.workers))

    def submit(self, function, *arguments):
        """A function without arguments that waits for the result."""
        raise CannotError

    def map(self, function, items):
        """A list of the results."""
        raise CannotError

    def each(self, function, items):
        """A list of the results, each call submitted alone."""
        results = [self.submit(function, item) for item in items]
        return [result() for result in results]

    def spread(self, function, items):
        """A list of the results of few calls that differ much."""
        return self.map(function, items) if self.map_spreads else self.each(function, items)

    def shared(self, function, array, items):
        """[function(array, item) for each item], where the large array is sent as few times as the peer can."""
        raise CannotError


# -- this project -----------------------------------------------------------------------------------


class Executor(Peer):
    name = "ClusterExecutor"
    map_spreads = True

    def start(self):
        from minimalcluster import ClusterExecutor

        self.executor = ClusterExecutor(self.workers)

    def submit(self, function, *arguments):
        return self.executor.submit(function, *arguments).result

    def map(self, function, items):
        return list(self.executor.map(function, items))

    def shared(self, function, array, items):
        handle = self.executor.share(array)
        return list(self.executor.map(function, itertools.repeat(handle), items))

    def close(self):
        self.executor.shutdown()


class Pool(Peer):
    name = "minimalcluster.Pool"

    def start(self):
        from minimalcluster import Pool

        self.pool = Pool(self.workers)

    def submit(self, function, *arguments):
        return self.pool.apply_async(function, arguments).get

    def map(self, function, items):
        return self.pool.map(function, items)

    def close(self):
        self.pool.close()
        self.pool.join()


class Execute(Peer):
    name = "MasterNode.execute"
    map_spreads = True
    fast_submit = has_futures = False

    def start(self):
        from minimalcluster import MasterNode

        self.master = MasterNode(PORT=0)
        self.master.start_master_server()
        self.master.load_envir("from tasks import *", from_file=False)

    def map(self, function, items):
        self.master.register_target_function(function.__name__)
        self.master.load_args(items)
        results = self.master.execute(progress=False)
        return list(results.values())

    def submit(self, function, *arguments):
        return functools.partial(self._one, function, *arguments)

    def _one(self, function, argument):
        return self.map(function, [argument])[0]

    def close(self):
        self.master.shutdown()


class OverTcp(Executor):
    """The product: the worker processes belong to a node in another process, over TCP; messages have tags."""

    name = "a node over TCP, tags"
    encrypt = False
    NODE = """
import sys
from minimalcluster import WorkerNode
WorkerNode("127.0.0.1", int(sys.argv[1]), sys.stdin.readline().strip(), int(sys.argv[2]), quiet=True).join_cluster()
"""

    def start(self):
        from minimalcluster import ClusterExecutor

        self.executor = ClusterExecutor(join=False, encrypt=self.encrypt)
        self.nodes = [self._node(each) for each in self.shares()]

    def shares(self):
        """The number of worker processes of each node."""
        return [self.workers]

    def _node(self, slots):
        words = [sys.executable, "-c", self.NODE, str(self.executor.address[1]), str(slots)]
        node = subprocess.Popen(words, stdin=subprocess.PIPE)
        node.stdin.write(self.executor.authkey.encode("ascii") + b"\n")
        node.stdin.close()
        return node

    def close(self):
        super().close()
        for node in self.nodes:
            node.wait(30)


class OverTls(OverTcp):
    name = "a node over TCP, TLS"
    encrypt = True


class NodeEach(OverTcp):
    """Each worker process on a node of its own."""

    name = "a node for each worker process"

    def shares(self):
        return [1] * self.workers


# -- pools on one machine ------------------------------------------------------------------------------


class Initialized(Peer):
    """Its worker processes get a large shared object as they start. ``start`` takes their initializer."""

    def shared(self, function, array, items):
        self.close()
        self.start(initializer=tasks.keep, initargs=(array,))
        return self.map(tasks.pick_kept, items)


class StandardPool(Initialized, Pool):
    name = "multiprocessing.Pool"

    def start(self, **options):
        import multiprocessing

        self.pool = multiprocessing.Pool(self.workers, **options)


class ProcessPool(Initialized):
    name = "ProcessPoolExecutor"

    def start(self, **options):
        import concurrent.futures

        self.executor = concurrent.futures.ProcessPoolExecutor(self.workers, **options)

    def submit(self, function, *arguments):
        return self.executor.submit(function, *arguments).result

    def map(self, function, items):
        return list(self.executor.map(function, items, chunksize=self.share_size(len(items))))

    def close(self):
        self.executor.shutdown()


class Loky(ProcessPool):
    name = "loky"
    packages, module = ("loky",), "loky"

    def start(self, **options):
        import loky

        self.executor = loky.get_reusable_executor(self.workers, **options)


class Joblib(Peer):
    name = "joblib"
    map_spreads = True
    fast_submit = has_futures = False
    packages, module = ("joblib",), "joblib"

    def start(self):
        import joblib

        self.delayed = joblib.delayed
        self.parallel = joblib.Parallel(n_jobs=self.workers)
        self.parallel.__enter__()

    def submit(self, function, *arguments):
        return functools.partial(self._one, function, *arguments)

    def _one(self, function, *arguments):
        return self.parallel([self.delayed(function)(*arguments)])[0]

    def map(self, function, items):
        call = self.delayed(function)
        return self.parallel(call(item) for item in items)

    def shared(self, function, array, items):  # joblib maps large arrays from a file by itself
        call = self.delayed(function)
        return self.parallel(call(array, item) for item in items)

    def close(self):
        self.parallel.__exit__(None, None, None)


class Pebble(Initialized):
    name = "pebble"
    packages, module = ("pebble",), "pebble"

    def start(self, **options):
        import pebble

        self.pool = pebble.ProcessPool(self.workers, **options)

    def submit(self, function, *arguments):
        return self.pool.schedule(function, args=arguments).result

    def map(self, function, items):
        return list(self.pool.map(function, items, chunksize=self.share_size(len(items))).result())

    close = Pool.close


class Mpire(Peer):
    name = "mpire"
    packages, module = ("mpire",), "mpire"

    def start(self):
        self.pools = {}

    def pool(self, use, **options):
        """Of its own for each use: after apply_async, map passes its functions an argument too many (mpire 2.10)."""
        if use not in self.pools:
            import mpire

            self.pools[use] = mpire.WorkerPool(self.workers, keep_alive=True, **options)
        return self.pools[use]

    def submit(self, function, *arguments):
        return self.pool("submit").apply_async(function, arguments).get

    def map(self, function, items):
        from mpire.utils import make_single_arguments

        single = items if isinstance(items, range) else make_single_arguments(items, generator=False)
        return self.pool("map").map(function, single, concatenate_numpy_output=False)

    def shared(self, function, array, items):
        return self.pool("shared", shared_objects=array).map(function, items)

    def close(self):
        for pool in self.pools.values():
            pool.stop_and_join()


# -- engines -------------------------------------------------------------------------------------------


class Dask(Peer):
    name = "Dask"
    fast_submit = False
    packages, module = ("distributed", "dask"), "distributed"
    slow = True

    def start(self):
        import logging

        import distributed

        folder = tempfile.mkdtemp()
        self.client = distributed.Client(
            n_workers=self.workers, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL,
            local_directory=folder,
        )  # fmt: skip

    def submit(self, function, *arguments):
        return self.client.submit(function, *arguments, pure=False).result

    def map(self, function, items):
        import dask.bag

        return dask.bag.from_sequence(items, npartitions=4 * self.workers).map(function).compute()

    def shared(self, function, array, items):
        there = self.client.scatter(array, broadcast=True)
        return self.client.gather(self.client.map(function, [there] * len(items), items, pure=False))

    def close(self):
        self.client.shutdown()


class Ray(Peer):
    name = "Ray"
    fast_submit = False
    packages, module = ("ray[default]",), "ray"
    slow = True

    def start(self):
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # else it warns on each start
        import logging

        import ray
        from ray.util.multiprocessing import Pool

        ray.init(
            num_cpus=self.workers, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL,
            object_store_memory=1 << 30,
        )  # fmt: skip
        self.ray, self.pool_type, self.remote, self.pool = ray, Pool, functools.lru_cache(None)(ray.remote), None

    def submit(self, function, *arguments):
        return functools.partial(self.ray.get, self.remote(function).remote(*arguments))

    def map(self, function, items):
        pool = self.pool_type(self.workers)  # its actors hold the processors, so that tasks would wait for ever
        try:
            return pool.map(function, items, chunksize=self.share_size(len(items)))
        finally:
            pool.terminate()
            pool.join()

    def shared(self, function, array, items):
        there = self.ray.put(array)
        remote = self.remote(function)
        return self.ray.get([remote.remote(there, item) for item in items])

    def close(self):
        self.ray.shutdown()


class Mpi(Peer):
    name = "mpi4py.futures"
    packages, module = ("mpi4py", "mpich"), "mpi4py"
    without = ("metg", "kill", "shared")  # the whole program dies with a worker process

    @classmethod
    def command(cls, python, workers):
        mpiexec = os.path.join(os.path.dirname(python), "mpiexec")
        return [mpiexec, "-n", str(workers + 1), python, "-m", "mpi4py.futures"]

    def start(self):
        from mpi4py.futures import MPIPoolExecutor

        self.executor = MPIPoolExecutor()

    submit = ProcessPool.submit
    map = ProcessPool.map
    close = ProcessPool.close


class Ipyparallel(Peer):
    name = "ipyparallel"
    fast_submit = False
    packages, module = ("ipyparallel",), "ipyparallel"
    slow = True

    def start(self):
        import logging

        import ipyparallel

        self.cluster = ipyparallel.Cluster(n=self.workers, log_level=logging.CRITICAL)
        self.client = self.cluster.start_and_connect_sync(activate=False)
        self.view = self.client.load_balanced_view()

    def submit(self, function, *arguments):
        return self.view.apply_async(function, *arguments).get

    def map(self, function, items):
        return self.view.map_sync(function, items, chunksize=self.share_size(len(items)))

    def shared(self, function, array, items):
        everywhere = self.client[:]
        everywhere.apply_sync(tasks.keep, array)
        return self.map(tasks.pick_kept, items)

    def close(self):
        self.client.close()
        self.cluster.stop_cluster_sync()


class Parsl(ProcessPool):
    name = "Parsl"
    fast_submit = False
    packages, module = ("parsl",), "parsl"
    slow = True
    without = ("payloads",)

    def start(self):
        from parsl.concurrent import ParslPoolExecutor
        from parsl.config import Config
        from parsl.executors import HighThroughputExecutor
        from parsl.providers import LocalProvider

        provider = LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1)
        workers = HighThroughputExecutor(
            label="workers", address="127.0.0.1", max_workers_per_node=self.workers, provider=provider
        )
        config = Config(executors=[workers], run_dir=tempfile.mkdtemp(), initialize_logging=False)
        self.executor = ParslPoolExecutor(config)
        self.executor.__enter__()

    def shared(self, function, array, items):
        raise CannotError

    def close(self):
        self.executor.__exit__(None, None, None)


class Of2017(Peer):
    """The package of 2017, from PyPI: it has this project's name, and a folder of its own."""

    name = "minimalcluster of 2017"
    map_spreads = True
    fast_submit = has_futures = False
    packages, module = ("minimalcluster==0.1.0.dev13",), ""
    slow = True
    without = ("payloads", "metg", "kill")

    def start(self):
        from minimalcluster import MasterNode

        self.master = MasterNode(PORT=free_port())
        with silence():
            self.master.start_master_server()
        self.master.load_envir("from tasks import *", from_file=False)

    def map(self, function, items):
        items = list(items)
        self.master.chunksize = self.share_size(len(items))
        self.master.register_target_function(function.__name__)
        self.master.load_args(items)
        with silence():
            return list(self.master.execute().values())

    submit = Execute.submit
    _one = Execute._one

    def close(self):
        with silence():
            self.master.shutdown()


def silence():
    import contextlib

    return contextlib.redirect_stdout(open(os.devnull, "w"))


def free_port():
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


OURS = [Executor, Pool, Execute, OverTcp, OverTls]
LOCAL = [StandardPool, ProcessPool, Loky, Joblib, Pebble, Mpire]
ENGINES = [Dask, Ray, Mpi, Ipyparallel, Parsl, Of2017]
ALL = {each.__name__: each for each in [*OURS, NodeEach, *LOCAL, *ENGINES]}

"""The same jobs on other engines: one made for tests, whose every call the test ends, and the real ones."""
from __future__ import absolute_import, division, print_function

import os
import re
import shutil
import subprocess
import sys
import threading
import time
import unittest

from minimalcluster import ArgumentsError, MasterNode, RemoteTraceback, SourceError, StateError, TaskError, UsageError, WorkerDied, compat
from tests import support

PYTHON_3 = sys.version_info >= (3, 6)
if PYTHON_3:
    import concurrent.futures
    from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor

    from minimalcluster import ClusterExecutor
    from minimalcluster.brain import scheduler
    from minimalcluster.engines import DaskEngine, Engine, ExecutorEngine, RayEngine, courier
    from minimalcluster.engines.engines import let_go
else:
    Engine = object

ENVIRONMENT = """
import os, time

class Point(object):
    def __init__(self, x):
        self.x = x
    def __eq__(self, other):
        return self.x == other.x

calls = []

def point(x):
    return Point(x)

def double(x):
    return 2 * x

def fail_at_7(x):
    if x == 7:
        raise ValueError("seven")
    return x

def die_at_7(x):
    if x == 7:
        os._exit(3)
    return x

def where(x):
    time.sleep(0.01)
    return os.getpid()
"""


def prepared(master, name, arguments, source=ENVIRONMENT):
    if not master._shut_down and master._cluster is None:
        master.start_master_server()
    master.load_envir(source, from_file=False)
    master.register_target_function(name)
    master.load_args(arguments)
    return master


def module_or_skip(name):
    try:
        return __import__(name, fromlist=["_"])
    except ImportError as error:
        raise unittest.SkipTest("%s is not installed for this Python (%s)" % (name, error))


# -- functions for worker processes ---------------------------------------------------------------


def add(a, b=0):
    return a + b


def fail_twice(folder):
    names = os.listdir(folder)
    support.write(os.path.join(folder, str(len(names))))
    if len(names) < 2:
        raise ValueError("failure %d" % len(names))
    return len(names)


def length_and_pid(data, index):
    time.sleep(0.01)
    return len(data), os.getpid()


def be_far_away():
    """What the master's machine keeps in files is not here."""
    os.path.exists = lambda path: False


def note_and_wait(folder, name):
    support.write(os.path.join(folder, name))
    support.wait_until(lambda: os.path.exists(os.path.join(folder, "go on")))
    return name


def pid_of_initialized():
    return os.getpid(), INITIALIZED


INITIALIZED = 0


def initialize(value):
    global INITIALIZED
    INITIALIZED += value


def fail_to_initialize():
    raise ValueError("no such device")


# -- the engine of the test -----------------------------------------------------------------------


class Crash(Exception):
    """What the engine says of a dead worker process."""


class Call(object):
    def __init__(self, function, arguments):
        self.future, self.function, self.arguments = Future(), function, arguments
        self.grant = arguments[2]
        self.brought = [thing[0] for thing in arguments[3:]]

    def run(self):
        self.future.set_result(self.function(*self.arguments))

    def crash(self):
        self.future.set_exception(Crash("gone"))


class Puppet(Engine):
    """It runs what the test says, when the test says."""

    name = "Puppet"
    died = (Crash,)

    def __init__(self, workers=2, elastic=False):
        self.number, self.elastic = workers, elastic
        self._lock = threading.Lock()
        self._calls = []
        self.kept = []
        self.closed = False

    def workers(self):
        return self.number

    def submit(self, function, *arguments):
        call = Call(function, arguments)
        with self._lock:
            self._calls.append(call)
        return call.future

    def keep(self, brought):
        self.kept.append(brought[0])
        return brought

    def close(self):
        self.closed = True

    def open_calls(self):
        with self._lock:
            return [call for call in self._calls if not call.future.done()]

    def calls(self, count):
        """Wait until so many are on their way."""
        support.wait_until(lambda: len(self.open_calls()) >= count, what="%d calls" % count)
        return self.open_calls()

    def run_until(self, done):
        def step():
            for call in self.open_calls():
                call.run()
            return done()

        support.wait_until(step)


@unittest.skipUnless(PYTHON_3, "engines are for Python 3")
class EngineTest(unittest.TestCase):
    def master(self, engine):
        master = MasterNode(engine=engine)
        self.addCleanup(master.shutdown)
        return master

    def executor(self, engine, **options):
        executor = ClusterExecutor(engine=engine, **options)
        self.addCleanup(executor.shutdown, cancel_futures=True)
        return executor

    def pool(self, *arguments, **options):
        pool = ProcessPoolExecutor(*arguments, **options)
        self.addCleanup(pool.shutdown)
        return pool


class PuppetTest(EngineTest):
    def execute(self, master, name, arguments, **options):
        prepared(master, name, arguments)
        return support.Background(master.execute, **options)

    def test_a_job(self):
        puppet = Puppet()
        execution = self.execute(self.master(puppet), "point", range(100))
        puppet.run_until(execution.done)
        results = execution.result()
        self.assertEqual(list(range(100)), list(results))
        self.assertEqual([each.x for each in results.values()], list(range(100)))

    def test_those_that_a_crash_may_have_been_run_alone(self):
        puppet = Puppet(3)
        execution = self.execute(self.master(puppet), "double", range(6), chunksize=2)
        first = puppet.calls(3)
        alone = []
        for call in first:
            call.crash()
        while not execution.done():
            support.wait_until(lambda: execution.done() or puppet.open_calls())
            calls = puppet.open_calls()
            alone += [(call.grant.first, call.grant.count) for call in calls]
            self.assertLessEqual(len(calls), 1)
            for call in calls:
                call.run()
        self.assertEqual([(index, 1) for index in range(6)], sorted(alone))
        self.assertEqual(execution.result(), {index: 2 * index for index in range(6)})

    def test_only_the_one_that_dies_alone_is_blamed(self):
        puppet = Puppet(2)
        execution = self.execute(self.master(puppet), "double", range(20), on_error="return")

        def step():
            calls = puppet.open_calls()
            deadly = [call for call in calls if call.grant.first <= 7 < call.grant.first + call.grant.count]
            for call in calls:  # as with ProcessPoolExecutor: all of them end so
                call.crash() if deadly else call.run()
            return execution.done()

        support.wait_until(step)
        results = execution.result()
        self.assertIsInstance(results.pop(7), WorkerDied)
        self.assertEqual(results, {index: 2 * index for index in range(20) if index != 7})

    def test_an_engine_that_names_the_dead_is_believed(self):
        puppet = Puppet(2)
        puppet.exact = True
        execution = self.execute(self.master(puppet), "double", range(4), chunksize=1, on_error="return")
        crashes = []

        def step():
            for call in puppet.open_calls():
                if call.grant.first == 2:
                    crashes.append(call)
                    call.crash()
                else:
                    call.run()
            return execution.done()

        support.wait_until(step)
        self.assertEqual(3, len(crashes))
        self.assertIn("Puppet says Crash: gone", str(execution.result()[2]))

    def test_what_the_engine_cancels_runs_again(self):
        puppet = Puppet()
        execution = self.execute(self.master(puppet), "double", range(3), chunksize=1)
        for call in puppet.calls(2):
            call.future.cancel()
            call.future.set_running_or_notify_cancel()
        puppet.run_until(execution.done)
        self.assertEqual({0: 0, 1: 2, 2: 4}, execution.result())

    def test_workers_come_and_go(self):
        puppet = Puppet(1, elastic=True)
        master = self.master(puppet)
        execution = self.execute(master, "double", range(5), chunksize=1)
        held = puppet.calls(1)
        self.assertEqual([("Puppet", 1)], [each[:2] for each in master.list_workers()])
        puppet.number = 4
        support.wait_until(lambda: master.list_workers()[0].nprocs == 4)
        self.assertEqual(1, len(master.list_workers()))
        puppet.calls(4)
        self.assertIn(held[0], puppet.open_calls())
        puppet.run_until(execution.done)
        self.assertEqual({index: 2 * index for index in range(5)}, execution.result())

    def test_no_workers_is_said(self):
        puppet = Puppet(0, elastic=True)
        with support.Log() as log:
            execution = self.execute(self.master(puppet), "double", range(3))
            support.wait_until(lambda: log.having("Puppet has no workers"))
            puppet.run_until(execution.done)
        self.assertEqual({0: 0, 1: 2, 2: 4}, execution.result())

    def test_a_long_definition_goes_to_whom_it_lacks(self):
        puppet = Puppet(2)
        master = self.master(puppet)
        source = ENVIRONMENT + "#" * courier.ATTACH_BYTES_MAX
        prepared(master, "double", range(50), source)
        execution = support.Background(master.execute)
        brought = []

        def step():
            for call in puppet.open_calls():
                brought.append(call.brought)
                call.run()
            return execution.done()

        support.wait_until(step)
        self.assertEqual(50, len(execution.result()))
        self.assertEqual([], brought[0])
        # This test's process is the only one: as many chunks lack it as are on their way before it has come.
        self.assertIn([("definition", brought_job(brought))], brought)
        self.assertEqual([], brought[-1])
        self.assertEqual(1, len(puppet.kept))

    def test_an_error_of_the_engine_ends_the_job_with_its_words(self):
        puppet = Puppet()
        execution = self.execute(self.master(puppet), "double", range(3))
        for call in puppet.calls(2):
            call.future.set_exception(OSError("the queue is closed for repairs"))
        with self.assertRaisesRegex(SourceError, "the queue is closed for repairs"):
            execution.result()

    def test_workers_without_this_package_are_told_of(self):
        puppet = Puppet(1)
        execution = self.execute(self.master(puppet), "double", range(3))
        puppet.calls(1)[0].future.set_exception(ImportError("No module named 'minimalcluster'"))
        with self.assertRaisesRegex(SourceError, "install it there"):
            execution.result()

    def test_what_is_cancelled_is_cancelled_there(self):
        puppet = Puppet(2)
        executor = self.executor(puppet)
        results = executor.map(add, range(100), chunksize=1)
        calls = puppet.calls(2)
        results.close()
        support.wait_until(lambda: all(call.future.cancelled() for call in calls))
        future = executor.submit(add, 1, b=2)
        puppet.run_until(future.done)
        self.assertEqual(3, future.result())

    def test_a_late_result_of_something_cancelled_changes_nothing(self):
        puppet = Puppet(1)
        executor = self.executor(puppet)
        results = executor.map(add, range(3), chunksize=1)
        call = puppet.calls(1)[0]
        call.future.set_running_or_notify_cancel()  # so that it cannot be cancelled any more
        results.close()
        future = executor.submit(add, 1, b=2)
        support.wait_until(lambda: len(puppet.open_calls()) == 2)
        puppet.run_until(future.done)
        self.assertEqual(3, future.result())

    def test_shutdown_cancels_and_closes(self):
        puppet = Puppet()
        master = self.master(puppet)
        execution = self.execute(master, "double", range(10), chunksize=1)
        calls = puppet.calls(2)
        master.shutdown()
        with self.assertRaises(StateError):
            execution.result()
        support.wait_until(lambda: puppet.closed and all(call.future.cancelled() for call in calls))

    def test_it_is_not_taken_for_lost_when_all_of_the_process_was_held_up(self):
        with support.patched(scheduler, "NODE_LOST_SECONDS", 0.2):
            puppet = Puppet()
            master = self.master(puppet)
            execution = self.execute(master, "double", range(10))
            master._cluster._loop.call(time.sleep, 0.5)
            puppet.run_until(execution.done)
            self.assertEqual(10, len(execution.result()))

    def test_one_thread_more_while_it_runs_and_none_afterwards(self):
        def ours():
            return [each.name for each in threading.enumerate() if each.name == "minimalcluster-engine"]

        support.wait_until(lambda: not ours())
        master = self.master(Puppet())
        master.start_master_server()
        self.assertEqual(1, len(ours()))
        master.shutdown()
        support.wait_until(lambda: not ours())


def brought_job(brought):
    return next(needs[0][1] for needs in brought if needs)


class Refusals(EngineTest):
    def test_what_is_no_engine(self):
        with ThreadPoolExecutor(1) as pool:
            with self.assertRaisesRegex(TypeError, "ExecutorEngine"):
                MasterNode(engine=pool)
        with self.assertRaisesRegex(TypeError, "a function that makes one"):
            ExecutorEngine("four")
        for workers in (0, -1, 1.5, "2"):
            with self.assertRaisesRegex(ValueError, "workers"):
                ExecutorEngine(ThreadPoolExecutor, workers=workers)

    def test_an_executor_that_does_not_tell_its_workers(self):
        class Silent(concurrent.futures.Executor):
            pass

        with self.assertRaisesRegex(ValueError, r"ExecutorEngine\(\.\.\., workers=\)"):
            self.master(ExecutorEngine(Silent())).start_master_server()
        with self.assertRaisesRegex(TypeError, "made no Executor"):
            self.master(ExecutorEngine(lambda: None)).start_master_server()

    def test_what_it_refuses_leaves_no_journal_open(self):
        with support.directory() as folder, support.patched(os, "environ", dict(os.environ, HOME=folder)):
            path = os.path.join(folder, "run.journal")
            with ThreadPoolExecutor(1) as pool, ClusterExecutor(engine=ExecutorEngine(pool)) as executor:
                master = self.master(ExecutorEngine(pool))
                master.start_master_server()
                for call in (master, executor.options(journal=path, timeout=3)):
                    terms = {"journal": path, "timeout": 3} if call is master else {}
                    self.assertRaisesRegex(UsageError, "timeout", call.map, abs, [1, 2], **terms)
                    self.assertEqual([1, 2], master.map(abs, [-1, -2], journal=path))

    def test_this_machine_is_no_worker(self):
        master = self.master(Puppet())
        master.start_master_server()
        with self.assertRaisesRegex(StateError, "works on Puppet: add workers there"):
            master.join_as_worker()
        with self.assertRaisesRegex(StateError, "works on Puppet"):
            master.stop_as_worker()
        with self.assertRaisesRegex(ValueError, "max_workers"):
            ClusterExecutor(2, engine=Puppet())

    def test_no_port_is_opened(self):
        master = self.master(Puppet())
        master.start_master_server()
        self.assertEqual(0, master.PORT)
        self.assertIsNone(master._cluster._listener)

    def test_hard_timeouts(self):
        executor = self.executor(Puppet())
        with self.assertRaisesRegex(UsageError, "timeout=1.* is not possible on Puppet"):
            executor.options(timeout=1).submit(add, 1).result()
        with self.assertRaisesRegex(UsageError, "timeout=1.* is not possible on Puppet"):
            list(executor.options(timeout=1).map(add, [1]))

    def test_second_copies(self):
        executor = self.executor(Puppet())
        with self.assertRaisesRegex(UsageError, "idempotent=True is not possible on Puppet"):
            executor.options(idempotent=True).submit(add, 1).result()

    def test_replacing_worker_processes(self):
        executor = self.executor(Puppet(), max_tasks_per_child=3)
        with self.assertRaisesRegex(UsageError, "max_tasks_per_child=3 is not possible on Puppet"):
            executor.submit(add, 1).result()

    def test_the_users_mistakes_are_found_as_ever(self):
        master = prepared(self.master(Puppet()), "double", range(3))
        with self.assertRaises(ArgumentsError):
            master.load_args([1, 1])


class RealEngineTest(object):
    """What every real engine is to do."""

    processes = True

    def engine(self):
        raise NotImplementedError

    def test_the_seeds_calls(self):
        master = prepared(self.master(self.engine()), "double", range(1000))
        workers = master.list_workers()
        self.assertEqual([2], [each.nprocs for each in workers])
        self.assertEqual({index: 2 * index for index in range(1000)}, master.execute())
        self.assertEqual(1000, master.list_workers()[0].tasks_done)

        self.assertEqual({(1, "a"): (1, "a") * 2}, prepared(master, "double", [(1, "a")]).execute())
        other = "def double(x):\n    return 'other'\n"
        self.assertEqual({1: "other"}, prepared(master, "double", [1], other).execute())
        self.assertEqual([0, 1, 2], [each.x for each in prepared(master, "point", range(3)).execute().values()])

        prepared(master, "fail_at_7", range(20))
        with self.assertRaises(TaskError) as caught:
            master.execute()
        self.assertIn('raise ValueError("seven")', str(caught.exception))
        self.assertIsInstance(caught.exception.__cause__.__cause__, RemoteTraceback)
        self.assertEqual([7], list(caught.exception.errors))
        self.assertEqual(19, len(caught.exception.results))
        self.assertIsInstance(master.execute(on_error="return")[7], ValueError)

        told = []
        prepared(master, "where", range(40)).execute(progress=lambda done, total: told.append((done, total)))
        self.assertEqual((40, 40), told[-1])
        pids = set(prepared(master, "where", range(40)).execute().values())
        if self.processes:
            self.assertNotIn(os.getpid(), pids)
        self.assertEqual({}, prepared(master, "double", []).execute())

    def test_futures_shared_data_and_retries(self):
        executor = self.executor(self.engine())
        self.assertEqual([add(a, 1) for a in range(300)], list(executor.map(add, range(300), [1] * 300)))
        self.assertEqual(5, executor.submit(add, 2, b=3).result(support.SECONDS))
        with self.assertRaises(TypeError):
            executor.submit(add, 2, b="").result(support.SECONDS)
        with support.directory() as folder:
            self.assertEqual(2, executor.options(retries=2).submit(fail_twice, folder).result(support.SECONDS))
        data = executor._core.cluster.share(b"x" * 1000000)
        lengths = list(executor.map(length_and_pid, [data] * 20, range(20)))
        self.assertEqual({1000000}, {length for length, _ in lengths})
        data.drop()

    def test_modules_of_the_master(self):
        executor = self.executor(self.engine())
        executor.submit(add, 1).result(support.SECONDS)  # the workers' processes are there, and know no more than now
        with support.directory() as folder:
            name = "made_for_%s" % type(self).__name__.lower()
            support.write(os.path.join(folder, name + ".py"), "from %s_too import two\ndef twice(x):\n    return two * x\n" % name)
            support.write(os.path.join(folder, name + "_too.py"), "two = 2\n")
            sys.path.insert(0, folder)
            try:
                module = __import__(name)
                self.assertEqual([0, 2, 4], list(executor.map(module.twice, range(3))))
            finally:
                sys.path.remove(folder)


class ProcessPoolTest(RealEngineTest, EngineTest):
    def engine(self):
        return ExecutorEngine(self.pool(2))

    def test_a_broken_pool_is_not_waited_for(self):
        """Python 3.6's shutdown() of one took a lock that a killed process had had, and never returned."""
        pool = ProcessPoolExecutor(1)
        self.assertRaises(Exception, pool.submit(os._exit, 1).result)  # noqa: B017 # on 3.6 BrokenProcessPool is another
        if sys.version_info < (3, 7):
            pool._result_queue._wlock.acquire()
        let_go(pool)
        support.Background(pool.shutdown).result()

    def test_the_executor_stays_the_users(self):
        pool = self.pool(2)
        for _ in range(2):
            master = prepared(self.master(ExecutorEngine(pool)), "double", range(10))
            self.assertEqual(10, len(master.execute()))
            master.shutdown()
        self.assertEqual(3, pool.submit(add, 1, 2).result())

    def test_one_made_for_us_is_shut_down(self):
        """While it was, the interpreter might end, which it answered with OSError: Bad file descriptor."""
        ended = []

        class Pool(ThreadPoolExecutor):
            def shutdown(self, wait=True):
                super().shutdown(wait=wait)
                time.sleep(0.2)  # whoever does not wait for it is gone before
                ended.append(wait)

        master = prepared(self.master(ExecutorEngine(lambda: Pool(2))), "double", range(10))
        self.assertEqual(10, len(master.execute()))
        master.shutdown()
        self.assertEqual([sys.version_info >= (3, 7)], ended)

    def test_a_dying_worker_process_and_a_function_that_makes_pools(self):
        engine = ExecutorEngine(lambda: ProcessPoolExecutor(2))
        results = prepared(self.master(engine), "die_at_7", range(60)).execute(on_error="return")
        death = results.pop(7)
        self.assertIsInstance(death, WorkerDied)
        self.assertIn("died each of 3 times", str(death))
        self.assertEqual(results, {index: index for index in range(60) if index != 7})

    def test_a_dying_worker_process_and_a_pool_that_is_given(self):
        master = prepared(self.master(self.engine()), "die_at_7", range(20))
        with self.assertRaisesRegex(SourceError, "give ExecutorEngine a function that makes one"):
            master.execute()

    def test_shared_data_on_another_machine(self):
        if sys.version_info < (3, 7):
            self.skipTest("ProcessPoolExecutor has no initializer before 3.7")
        executor = self.executor(ExecutorEngine(self.pool(2, initializer=be_far_away)))
        executor.submit(add, 1).result(support.SECONDS)
        data = executor._core.cluster.share({"a": b"x" * 100000})
        self.assertEqual([1, 1, 1], [length for length, _ in executor.map(length_and_pid, [data] * 3, range(3))])

    def test_an_initializer_runs_once_a_process(self):
        executor = self.executor(self.engine(), initializer=initialize, initargs=(5,))
        found = set(executor.submit(pid_of_initialized).result(support.SECONDS) for _ in range(20))
        self.assertEqual({5}, {value for _, value in found})

    def test_a_failing_initializer_is_told(self):
        executor = self.executor(self.engine(), initializer=fail_to_initialize)
        with self.assertRaisesRegex(Exception, "no such device"):
            executor.submit(add, 1).result(support.SECONDS)

    @unittest.skipUnless(compat.STARTS_THREADS_AT_EXIT, "this Python's own pool cannot start processes at its exit")
    def test_work_submitted_before_exit_is_finished(self):
        code = """
import sys
from concurrent.futures import ProcessPoolExecutor
from minimalcluster import ClusterExecutor
from minimalcluster.engines import ExecutorEngine
ex = ClusterExecutor(engine=ExecutorEngine(ProcessPoolExecutor(2)))
for index in range(20):
    ex.submit(pow, 2, index).add_done_callback(lambda future: print("result", future.result()))
"""
        with support.Process(code) as process:
            self.assertEqual(0, process.wait(), process.output())
            self.assertEqual(20, process.output().count("result "), process.output())

    def test_a_script_without_cloudpickle(self):
        code = """
import sys
sys.modules["cloudpickle"] = None
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
from minimalcluster import ClusterExecutor
from minimalcluster.engines import ExecutorEngine

def double(x):
    return 2 * x

if __name__ == "__main__":
    for method in multiprocessing.get_all_start_methods():
        # The module's global context serves 3.6 too, where the pool takes no context of its own.
        multiprocessing.set_start_method(method, force=True)
        with ProcessPoolExecutor(2) as pool, ClusterExecutor(engine=ExecutorEngine(pool)) as ex:
            print("sum", sum(ex.map(double, range(10))))
"""
        with support.directory() as folder:
            file = support.write(os.path.join(folder, "script.py"), code)
            with support.Process(file=file) as process:
                self.assertEqual(0, process.wait(), process.output())
                self.assertNotIn("Error", process.output())
                self.assertRegex(process.output(), "^(sum 90\r?\n)+$")


class ThreadPoolTest(RealEngineTest, EngineTest):
    processes = False

    def engine(self):
        pool = ThreadPoolExecutor(2)
        self.addCleanup(pool.shutdown)
        return ExecutorEngine(pool)


# -- where the libraries are ----------------------------------------------------------------------


class DaskTest(RealEngineTest, EngineTest):
    @classmethod
    def setUpClass(cls):
        if not PYTHON_3:
            return
        distributed = module_or_skip("distributed")
        import dask
        import logging

        dask.config.set({"distributed.scheduler.allowed-failures": 0})
        for name in ("distributed", "distributed.scheduler", "distributed.nanny", "distributed.worker"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # processes die here on purpose
        cls.cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0")
        cls.client = distributed.Client(cls.cluster)

    @classmethod
    def tearDownClass(cls):
        if PYTHON_3:
            cls.client.close()
            cls.cluster.close()

    def engine(self):
        self.client.wait_for_workers(2)
        return DaskEngine(self.client)

    def test_a_dying_worker_process(self):
        results = prepared(self.master(self.engine()), "die_at_7", range(30)).execute(on_error="return")
        self.assertIsInstance(results.pop(7), WorkerDied)
        self.assertEqual(results, {index: index for index in range(30) if index != 7})

    def test_threads_of_one_process(self):
        import distributed

        with distributed.LocalCluster(
            n_workers=1, threads_per_worker=4, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster, distributed.Client(cluster) as client:
            master = prepared(self.master(DaskEngine(client)), "point", range(2000))
            self.assertEqual(4, master.list_workers()[0].nprocs)
            self.assertEqual([each.x for each in master.execute().values()], list(range(2000)))
            master.shutdown()

    def test_the_example(self):
        example = os.path.join(support.ROOT, "examples", "outgrow_to_dask.py")
        for arguments, where in (([], r"on \S+ with \d+ workers"), ([self.cluster.scheduler_address], "on Dask with 2 workers")):
            self.client.wait_for_workers(2)
            process = subprocess.run(
                [sys.executable, example] + arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=dict(os.environ, PYTHONPATH=support.ROOT), timeout=120, check=False,
            )  # fmt: skip
            output = process.stdout.decode()
            self.assertEqual(0, process.returncode, output)
            self.assertRegex(output, r"^%s\r?\n9592 primes below 100000\r?\n$" % where)


class RayTest(RealEngineTest, EngineTest):
    @classmethod
    def setUpClass(cls):
        if not PYTHON_3:
            return
        cls.ray = module_or_skip("ray")
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = support.ROOT + (os.pathsep + path if path else "")
        try:
            cls.ray.init(address="local", num_cpus=2, _node_ip_address="127.0.0.1", include_dashboard=False, log_to_driver=False, configure_logging=False)
        finally:
            if path is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = path

    @classmethod
    def tearDownClass(cls):
        if PYTHON_3:
            cls.ray.shutdown()

    def engine(self):
        return RayEngine()

    def test_a_dying_worker_process(self):
        results = prepared(self.master(self.engine()), "die_at_7", range(30)).execute(on_error="return")
        self.assertIsInstance(results.pop(7), WorkerDied)
        self.assertEqual(results, {index: index for index in range(30) if index != 7})

    def test_what_runs_is_ended_when_nobody_wants_it(self):
        executor = self.executor(self.engine())
        with support.directory() as folder:
            results = executor.map(note_and_wait, [folder] * 2, ["a", "b"])
            support.wait_until(lambda: set(os.listdir(folder)) == {"a", "b"})
            results.close()
            # Both of its CPUs were taken, and nobody ever says "go on".
            self.assertEqual(3, executor.submit(add, 1, 2).result(support.SECONDS))


MPI_PROGRAM = """
import sys
from mpi4py.futures import MPIPoolExecutor
from minimalcluster import MasterNode, ClusterExecutor, TaskError
from minimalcluster.engines import ExecutorEngine
from tests.engines.test_engines import ENVIRONMENT, add, length_and_pid, prepared

with MPIPoolExecutor() as pool:
    with MasterNode(engine=ExecutorEngine(pool)) as master:
        print("sum", sum(prepared(master, "double", range(1000)).execute().values()))
        print("workers", master.list_workers()[0][:2])
        print("processes", len(set(prepared(master, "where", range(200)).execute().values())))
        try:
            prepared(master, "fail_at_7", range(20)).execute()
        except TaskError as error:
            print("failed", list(error.errors), 'raise ValueError("seven")' in str(error))
    with ClusterExecutor(engine=ExecutorEngine(pool)) as executor:
        print("map", sum(executor.map(add, range(100), range(100))))
        data = executor._core.cluster.share(b"x" * 100000)
        print("lengths", set(length for length, _ in executor.map(length_and_pid, [data] * 10, range(10))))
"""


class MPITest(EngineTest):
    def test_a_program_under_mpiexec(self):
        module_or_skip("mpi4py")
        mpiexec = shutil.which("mpiexec")
        if mpiexec is None:
            self.skipTest("there is no mpiexec on this machine")
        loaded = subprocess.run([sys.executable, "-c", "import mpi4py.MPI"], stderr=subprocess.PIPE, check=False)
        if loaded.returncode:  # the wheels of mpi4py look for the library by another name than Debian's MPICH has
            self.skipTest("mpi4py cannot load this machine's MPI: " + loaded.stderr.decode().strip().split("\n")[-1])
        version = subprocess.run([mpiexec, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        # Open MPI minds being root and more processes than processors; MPICH has no such options.
        options = ["--allow-run-as-root", "--oversubscribe"] if re.search(b"Open(MPI|RTE| MPI)", version.stdout) else []
        with support.directory() as folder:
            file = support.write(os.path.join(folder, "program.py"), MPI_PROGRAM)
            process = subprocess.run(
                [mpiexec] + options + ["-n", "3", sys.executable, "-m", "mpi4py.futures", file],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False,
                env=dict(os.environ, PYTHONPATH=support.ROOT),
            )  # fmt: skip
        output = process.stdout.decode()
        self.assertEqual(0, process.returncode, output)
        for line in (
            "sum 999000", "workers ('MPIPoolExecutor', 2)", "processes 2", "failed [7] True", "map 9900", "lengths {100000}",
        ):  # fmt: skip
            self.assertIn(line, output)


if __name__ == "__main__":
    unittest.main()

"""joblib and scikit-learn on the cluster."""
from __future__ import absolute_import, division, print_function

import os
import shutil
import sys
import threading
import time
import unittest
import warnings

from minimalcluster import ClusterError, MasterNode, UnsafeResult, WorkerDied
from tests import commands, support

try:
    import joblib
    from joblib import Parallel, delayed
    from joblib.parallel import BACKENDS, AutoBatchingMixin, ParallelBackendBase

    from concurrent.futures import ThreadPoolExecutor

    from minimalcluster import ClusterExecutor, register_joblib_backend
    from minimalcluster.faces import joblib_backend
    from minimalcluster.engines import ExecutorEngine
    from minimalcluster.faces.executor import CallTimeoutError, DeadlineExceededError
    from minimalcluster.master.job import Failure
    from minimalcluster.faces.joblib_backend import ClusterBackend, _BatchFuture
    from tests.wire.independent_client import Client
except ImportError:
    joblib = None
    VERSION = (0, 0)
else:
    VERSION = tuple(int(part) for part in joblib.__version__.split(".")[:2])
    #: joblib before 1.3 has only the older one.
    use = getattr(joblib, "parallel_config", joblib.parallel_backend)
try:
    import numpy
except ImportError:
    numpy = None

needs_joblib = unittest.skipUnless(joblib, "joblib is not installed for this Python")
needs_numpy = unittest.skipUnless(joblib and numpy, "joblib and NumPy are not both installed for this Python")
needs_generators = unittest.skipUnless(VERSION >= (1, 4), "joblib has return_as='generator_unordered' from 1.4 on")
ON = "minimalcluster"


# -- what the tasks do ----------------------------------------------------------------------------


def square(x):
    return x * x


class Plain(object):
    pass


def pid(_=None):
    return os.getpid()


def slow_pid(_):
    time.sleep(0.05)
    return os.getpid()


class Trouble(Exception):
    def __init__(self, where, number):
        Exception.__init__(self, where, number)
        self.number = number


def troubled(x):
    if x == 5:
        raise Trouble("at five", x)
    return x


def note(folder, name):
    path = support.write(os.path.join(folder, "%s.part%d" % (name, os.getpid())), str(os.getpid()))
    os.rename(path, os.path.join(folder, str(name)))


def noted(folder):
    return set(name for name in os.listdir(folder) if ".part" not in name)


def wait_for(folder, name):
    support.wait_until(lambda: str(name) in noted(folder), what="the note %s" % name)
    return name


def wait_or_fail(folder, x):
    """The second one stays until it is ended; the first fails once that runs."""
    note(folder, x)
    if x == 0:
        wait_for(folder, 1)
        raise Trouble("early", x)
    if x == 1:
        time.sleep(600)
    return x


def at_once(folder, x, count):
    """Whether so many ran at the same time."""
    note(folder, x)
    try:
        support.wait_until(lambda: len(noted(folder)) >= count, 10.0)
    except AssertionError:
        return False
    return True


def inner_backend(_):
    return type(Parallel(n_jobs=2)._backend).__name__


def outer(x, backend):
    return sum(Parallel(n_jobs=3, backend=backend)(delayed(square)(x + i) for i in range(5)))


def die(x):
    if x == 3:
        os._exit(3)
    return x


def fail_once(folder, x):
    if str(x) in noted(folder):
        return x
    note(folder, x)
    raise Trouble("the first time", x)


def writable(array, _):
    return array.flags.writeable, float(array.sum())


def writable_inside(holder, _):
    return writable(holder["deep"][0], _)


class OnTwo(object):
    """A cluster of two worker processes for all tests of a class."""

    @classmethod
    def setUpClass(cls):
        register_joblib_backend()
        cls.executor = ClusterExecutor(2)

    @classmethod
    def tearDownClass(cls):
        cls.executor.shutdown()

    def on(self, **options):
        return use(backend=ON, executor=self.executor, **options)


@needs_joblib
class Register(unittest.TestCase):
    def test_the_name_is_the_class(self):
        register_joblib_backend()
        register_joblib_backend()
        self.assertIs(BACKENDS[ON], ClusterBackend)
        self.assertTrue(issubclass(ClusterBackend, AutoBatchingMixin))
        self.assertTrue(issubclass(ClusterBackend, ParallelBackendBase))
        backend = ClusterBackend()
        self.assertTrue(backend.supports_retrieve_callback)
        self.assertTrue(backend.supports_timeout)
        self.assertFalse(backend.supports_sharedmem)
        self.assertFalse(backend.uses_threads)

    def test_another_name(self):
        register_joblib_backend("another")
        try:
            self.assertIs(BACKENDS["another"], ClusterBackend)
        finally:
            del BACKENDS["another"]

    def test_wrong_options(self):
        with MasterNode(PORT=0) as master, ClusterExecutor(0, join=False) as executor:
            for options, error in [
                ({"executor": 3}, TypeError),
                ({"executor": executor, "master": master}, ValueError),
                ({"address": "127.0.0.1:0"}, ValueError),
                ({"authkey": "k" * 20}, ValueError),
                ({"nonsense": 3}, TypeError),
                ({"retries": -1}, ValueError),
                ({"on_error": "finish"}, ValueError),
                ({"encrypt": "yes"}, TypeError),
                ({"encrypt": True, "executor": executor}, ValueError),
                ({"results": "safe", "master": master}, ValueError),
            ]:
                self.assertRaises(error, ClusterBackend, **options)
            for wrong in ({"address": "no port"}, {"address": "127.0.0.1:0", "results": "any kind"}):
                backend = ClusterBackend(authkey="k" * 20, **wrong)
                self.assertRaises(ValueError, backend.effective_n_jobs, -1)


class Without(unittest.TestCase):
    @unittest.skipUnless(sys.version_info >= (3, 6), "the backend is for Python 3")
    def test_a_machine_without_joblib_has_everything_else(self):
        code = (
            "import sys; sys.modules['joblib'] = None\n"
            "from minimalcluster import *\n"
            "print(MasterNode.__name__, ClusterExecutor.__name__)\n"
            "try: register_joblib_backend()\n"
            "except ImportError as error: print(error)\n"
        )
        exit_code, output = commands.run(["-c", code])
        self.assertEqual(exit_code, 0, output)
        self.assertIn("MasterNode ClusterExecutor", output)
        self.assertIn("pip install 'minimalcluster[joblib]'", output)


@needs_joblib
class Calls(OnTwo, unittest.TestCase):
    def test_the_results_are_the_serial_ones(self):
        expected = [square(x) for x in range(300)]
        with self.on(n_jobs=2):
            self.assertEqual(Parallel()(delayed(square)(x) for x in range(300)), expected)
            self.assertEqual(Parallel(batch_size=7)(delayed(square)(x) for x in range(300)), expected)
            self.assertEqual(Parallel(pre_dispatch="all")(delayed(square)(x) for x in range(300)), expected)
            self.assertEqual(Parallel()([]), [])

    def test_the_older_context_manager(self):
        with joblib.parallel_backend(ON, executor=self.executor) as (_, n_jobs):
            self.assertEqual(n_jobs, -1)
            self.assertEqual(Parallel()(delayed(square)(x) for x in range(9)), [x * x for x in range(9)])

    def test_who_names_it_gets_all_of_it(self):
        with self.on():
            self.assertNotIn(os.getpid(), Parallel()(delayed(slow_pid)(x) for x in range(6)))

    def test_one_job_runs_here(self):
        with self.on(n_jobs=1):
            self.assertEqual(Parallel()(delayed(pid)(x) for x in range(3)), [os.getpid()] * 3)
        with use(backend=ON, executor=self.executor, n_jobs=-2):  # two less one
            self.assertEqual(Parallel()(delayed(pid)(x) for x in range(3)), [os.getpid()] * 3)

    def test_effective_n_jobs(self):
        backend = ClusterBackend(executor=self.executor)
        found = [backend.effective_n_jobs(n_jobs) for n_jobs in (None, 1, 5, -1, -2, -9)]
        self.assertEqual(found, [1, 1, 5, 2, 1, 1])
        with self.assertRaisesRegex(ValueError, "n_jobs == 0 in Parallel has no meaning"):
            backend.effective_n_jobs(0)
        with self.on():
            self.assertEqual(joblib.effective_n_jobs(-1), 2)

    def test_trivial_tasks_are_batched(self):
        with self.on(n_jobs=2):
            parallel = Parallel()
            parallel(delayed(square)(x) for x in range(2000))
        self.assertEqual(parallel.n_dispatched_tasks, 2000)
        self.assertLess(parallel.n_dispatched_batches, 1000)

    def test_the_worker_processes_live_on(self):
        with self.on(n_jobs=2):
            first = set(Parallel()(delayed(slow_pid)(x) for x in range(8)))
            second = set(Parallel()(delayed(slow_pid)(x) for x in range(8)))
            with Parallel() as parallel:
                third = set(parallel(delayed(slow_pid)(x) for x in range(8)))
                third |= set(parallel(delayed(slow_pid)(x) for x in range(8)))
        self.assertLessEqual(len(first | second | third), 2)

    def test_from_several_threads(self):
        def work(start):
            with self.on(n_jobs=2):
                return [Parallel()(delayed(square)(x) for x in range(start, start + 50)) for _ in range(3)]

        threads = [support.Background(work, start) for start in (0, 100, 200, 300)]
        for start, thread in zip((0, 100, 200, 300), threads):
            self.assertEqual(thread.result(), [[x * x for x in range(start, start + 50)]] * 3)

    def test_by_value_both_ways(self):
        class Local(object):
            def __init__(self, x):
                self.x = x

        offset = 3
        with self.on(n_jobs=2):
            made = Parallel()(delayed(lambda x: Local(x + offset))(x) for x in range(5))
            self.assertEqual([type(each) for each in made], [Local] * 5)
            self.assertEqual([each.x for each in made], [3, 4, 5, 6, 7])
            functions = Parallel()(delayed(lambda x: lambda y: x + y)(x) for x in range(5))
            self.assertEqual([function(1) for function in functions], [1, 2, 3, 4, 5])

    @unittest.skipUnless(VERSION >= (1, 4), "older ones lose an error of the input that comes in a callback")
    def test_the_input_raises(self):
        def items():
            for x in range(20):
                if x == 15:
                    raise Trouble("the input", x)
                yield delayed(square)(x)

        with self.on(n_jobs=2):
            self.assertRaises(Trouble, Parallel(), items())
            self.assertEqual(Parallel()(delayed(square)(x) for x in range(3)), [0, 1, 4])

    def test_what_cannot_be_sent_is_raised(self):
        with self.on(n_jobs=2):
            with self.assertRaisesRegex(TypeError, "pickle"):
                Parallel()(delayed(square)(x) for x in [1, 2, threading.Lock(), 4])
            with self.assertRaisesRegex((ClusterError, TypeError), "pickle"):
                Parallel()(delayed(lambda: threading.Lock())() for x in range(3))
            self.assertEqual(Parallel()(delayed(square)(x) for x in range(3)), [0, 1, 4])


@needs_joblib
class Failures(OnTwo, unittest.TestCase):
    def test_an_exception_has_its_class_and_traceback(self):
        with self.on(n_jobs=2):
            with self.assertRaises(Trouble) as caught:
                Parallel()(delayed(troubled)(x) for x in range(20))
        self.assertEqual((caught.exception.args, caught.exception.number), (("at five", 5), 5))
        self.assertIn('raise Trouble("at five", x)', caught.exception.__cause__.tb)

    def test_an_exception_class_that_came_by_value(self):
        class Local(Exception):
            pass

        def fail(x):
            raise Local("here", x)

        with self.on(n_jobs=2):
            with self.assertRaises(Local) as caught:
                Parallel()(delayed(fail)(x) for x in range(3))
        self.assertEqual(caught.exception.args[0], "here")

    def test_exits_are_exceptions(self):
        for error in (SystemExit, KeyboardInterrupt):

            def leave(x, error=error):
                raise error("from the task")

            with self.on(n_jobs=2):
                self.assertRaises(error, Parallel(), [delayed(leave)(x) for x in range(3)])

    def test_the_first_error_ends_the_rest(self):
        with support.directory() as folder, self.on(n_jobs=2):
            with self.assertRaises(Trouble) as caught:
                Parallel(batch_size=1)(delayed(wait_or_fail)(folder, x) for x in range(100))
            self.assertEqual(caught.exception.number, 0)
            ended = int(support.read(os.path.join(folder, "1")))
            support.wait_until(lambda: not _lives(ended), what="the end of the task that nobody waits for")
            # Both worker processes are free again, and nothing of the rest was begun meanwhile.
            self.assertEqual(Parallel()(delayed(square)(x) for x in range(20)), [x * x for x in range(20)])
            self.assertLess(len(noted(folder)), 50)

    def test_timeout(self):
        with support.directory() as folder, self.on(n_jobs=2):
            with self.assertRaises((TimeoutError, joblib.parallel.TimeoutError) if VERSION >= (1, 3) else Exception):
                Parallel(timeout=0.3)(delayed(time.sleep)(600) for _ in range(3))
            self.assertEqual(Parallel(timeout=60)(delayed(square)(x) for x in range(9)), [x * x for x in range(9)])
            self.assertEqual(noted(folder), set())

    def test_a_task_that_kills_its_worker_process(self):
        with self.on(n_jobs=2):
            with self.assertRaisesRegex(ClusterError, "exit code 3"):
                Parallel()(delayed(die)(x) for x in range(8))
            self.assertEqual(Parallel()(delayed(square)(x) for x in range(3)), [0, 1, 4])

    def test_retries_of_a_view(self):
        with support.directory() as folder, use(backend=ON, executor=self.executor.options(retries=1), n_jobs=2):
            self.assertEqual(Parallel(batch_size=1)(delayed(fail_once)(folder, x) for x in range(4)), [0, 1, 2, 3])

    def test_after_shutdown(self):
        executor = ClusterExecutor(2)
        with use(backend=ON, executor=executor):
            executor.shutdown()
            with self.assertRaisesRegex(RuntimeError, "after shutdown"):
                Parallel()(delayed(square)(x) for x in range(3))

    def test_a_master_that_is_shut_down_meanwhile(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server()

            def call():
                with use(backend=ON, master=master, n_jobs=2):
                    Parallel()(delayed(wait_for)(folder, "never") for x in range(3))

            with support.directory() as folder:
                caller = support.Background(call)
                support.wait_until(lambda: any(worker.busy for worker in master.list_workers()))
                master.shutdown()
                self.assertRaises(RuntimeError, caller.result)


@needs_joblib
class Terms(OnTwo, unittest.TestCase):
    """The master's words for terms, as options of the backend."""

    def test_errors_as_results(self):
        with self.on(n_jobs=2, on_error="return"):
            found = Parallel()(delayed(troubled)(x) for x in range(20))
            self.assertEqual((Trouble, 5), (type(found[5]), found[5].number))
            self.assertEqual([x for x in range(20) if x != 5], found[:5] + found[6:])
            found = Parallel(batch_size=4)(delayed(troubled)(x) for x in range(16))
            self.assertEqual([0, 1, 2, 3] + [Trouble] * 4 + list(range(8, 16)), found[:4] + list(map(type, found[4:8])) + found[8:])
        with self.on(n_jobs=2, on_error="return", attempts_max=1):
            found = Parallel()(delayed(die)(x) for x in range(8))
            self.assertEqual(([0, 1, 2], 3, [4, 5, 6, 7]), (found[:3], found[3].argument, found[4:]))

    def test_a_batch_is_of_one_where_calls_have_terms_of_their_own(self):
        with ClusterExecutor(0, join=False) as executor:
            for terms, alone in (({}, False), ({"deadline": 60}, False), ({"attempts_max": 1}, True), ({"retries": 1}, True)):
                backend = ClusterBackend(executor=executor, **terms)
                backend._effective_batch_size = 8
                backend._smoothed_batch_duration = backend.MIN_IDEAL_BATCH_DURATION * 2
                self.assertEqual(1 if alone else 8, backend.compute_batch_size(), terms)

    def test_a_batch_that_cannot_be_read_again_has_no_argument(self):
        future = _BatchFuture()
        future.resolve(Failure(WorkerDied("it died", "exit code 1", ["here"]), "here"))
        self.assertIsNone(future.exception().argument)

    def test_limits(self):
        with support.directory() as folder:
            with self.on(n_jobs=2, retries=1):
                self.assertEqual(Parallel()(delayed(fail_once)(folder, x) for x in range(4)), [0, 1, 2, 3])
            with self.on(n_jobs=2, timeout=0.3, on_error="return"):
                found = Parallel()(delayed(time.sleep)(seconds) for seconds in (0, 600, 0))
                self.assertEqual([None, CallTimeoutError, None], [each and type(each) for each in found])
            with self.on(n_jobs=2, deadline=0.5, on_error="return"):
                with self.assertRaises(DeadlineExceededError):
                    Parallel()(delayed(time.sleep)(600) for _ in range(3))
            with self.on(n_jobs=2, deadline=600):
                self.assertEqual([0, 1, 4], Parallel()(delayed(square)(x) for x in range(3)))

    def test_journal(self):
        with support.directory() as folder, support.patched(os, "environ", dict(os.environ, HOME=folder)):
            path, ran = os.path.join(folder, "run.journal"), os.path.join(folder, "ran")
            for count, new in ((30, range(30)), (40, range(30, 40)), (40, ())):
                os.mkdir(ran)
                # From a known outcome on joblib hands out the next one: that may not go deeper each time.
                with ClusterExecutor(2) as executor, use(backend=ON, executor=executor, journal=path, n_jobs=2):
                    found = Parallel()(delayed(noted_square)(ran, x) for x in range(count))
                    more = Parallel(return_as="generator")(delayed(square)(x) for x in range(500)) if VERSION >= (1, 4) else ()
                    self.assertIn(list(more), ([], [x * x for x in range(500)]))
                self.assertEqual([x * x for x in range(count)], found)
                self.assertEqual({str(x) for x in new}, noted(ran))
                shutil.rmtree(ran)


def noted_square(folder, x):
    note(folder, x)
    return x * x


def _lives(pid):
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


@needs_generators
class Generators(OnTwo, unittest.TestCase):
    def test_ordered(self):
        with self.on(n_jobs=2):
            results = Parallel(return_as="generator")(delayed(square)(x) for x in range(100))
            self.assertEqual(next(results), 0)
            self.assertEqual(list(results), [x * x for x in range(1, 100)])

    def test_unordered(self):
        with support.directory() as folder, self.on(n_jobs=2):
            tasks = [delayed(wait_for)(folder, "go"), delayed(square)(2), delayed(square)(3)]
            results = Parallel(return_as="generator_unordered", batch_size=1)(tasks)
            self.assertEqual({next(results), next(results)}, {4, 9})
            note(folder, "go")
            self.assertEqual(list(results), ["go"])

    def test_an_error_at_its_place(self):
        with self.on(n_jobs=2):
            results = Parallel(return_as="generator", batch_size=1)(delayed(troubled)(x) for x in range(8))
            self.assertRaises(Trouble, list, results)

    def test_dropping_one_ends_what_runs(self):
        with support.directory() as folder, self.on(n_jobs=2), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib says that results were not used
            results = Parallel(return_as="generator", batch_size=1)(delayed(wait_for)(folder, x) for x in range(50))
            note(folder, 0)
            self.assertEqual(next(results), 0)
            results.close()
            self.assertEqual(Parallel()(delayed(square)(x) for x in range(9)), [x * x for x in range(9)])

    def test_two_at_once(self):
        with support.directory() as folder, self.on(n_jobs=2), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first = Parallel(return_as="generator")(delayed(square)(x) for x in range(60))
            second = Parallel(return_as="generator")(delayed(wait_for)(folder, "go") for x in range(4))
            third = Parallel(return_as="generator")(delayed(square)(x) for x in range(60))
            second.close()  # ends its own calls only
            self.assertEqual(list(zip(first, third)), [(x * x, x * x) for x in range(60)])


@needs_joblib
class Nested(OnTwo, unittest.TestCase):
    def test_by_default_in_threads(self):
        with self.on(n_jobs=2):
            self.assertEqual(set(Parallel()(delayed(inner_backend)(x) for x in range(3))), {"ThreadingBackend"})
            expected = [sum((x + i) ** 2 for i in range(5)) for x in range(10)]
            self.assertEqual(Parallel()(delayed(outer)(x, None) for x in range(10)), expected)

    def test_by_name_it_cannot_wait_for_itself(self):
        # As many as there are worker processes, and more, all of them waiting for calls of their own.
        expected = [sum((x + i) ** 2 for i in range(5)) for x in range(10)]
        with self.on(n_jobs=2):
            self.assertEqual(Parallel()(delayed(outer)(x, ON) for x in range(10)), expected)

    def test_below_threads_of_this_process(self):
        def work(x):
            with self.on(n_jobs=2):
                return Parallel()(delayed(square)(x + i) for i in range(5))

        found = Parallel(n_jobs=3, backend="threading")(delayed(work)(x) for x in range(6))
        self.assertEqual(found, [[(x + i) ** 2 for i in range(5)] for x in range(6)])


@needs_joblib
class Clusters(unittest.TestCase):
    def setUp(self):
        register_joblib_backend()

    def test_on_a_master(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master, 2), use(backend=ON, master=master):
                self.assertEqual(joblib.effective_n_jobs(-1), 2)
                pids = set(Parallel()(delayed(slow_pid)(x) for x in range(10)))
                self.assertNotIn(os.getpid(), pids)
                self.assertEqual(Parallel()(delayed(square)(x) for x in range(9)), [x * x for x in range(9)])

    def test_at_an_address(self):
        port, key = support.free_port(), "a key of enough letters"
        with use(backend=ON, address="127.0.0.1:%d" % port, authkey=key, max_workers=1):
            with support.start_node(port, key, 2):
                support.wait_until(lambda: joblib.effective_n_jobs(-1) == 3, what="three worker processes")
                pids = set(Parallel()(delayed(slow_pid)(x) for x in range(30)))
                self.assertEqual(len(pids), 3)
        cluster = dict(encrypt=None, ssl_context=None, results="any", key_file=None)
        joblib_backend._own(1, "127.0.0.1:%d" % port, authkey=key, **cluster).shutdown()

    def test_encrypted_and_with_safe_results(self):
        port, key = support.free_port(), "a key of enough letters"
        with use(backend=ON, address=("127.0.0.1", port), authkey=key, encrypt=True, results="safe"):
            self.assertEqual(Parallel()(delayed(square)(x) for x in range(9)), [x * x for x in range(9)])
            client = Client(port, key.encode())
            self.assertTrue(client.tls)
            client.close()
            self.assertRaises(UnsafeResult, Parallel(), [delayed(square)(1), delayed(Plain)()])
        cluster = dict(encrypt=True, ssl_context=None, results="safe", key_file=None)
        joblib_backend._own(None, ("127.0.0.1", port), authkey=key, **cluster).shutdown()

    def test_on_an_engine_of_this_process(self):
        with ThreadPoolExecutor(2) as pool, ClusterExecutor(engine=ExecutorEngine(pool)) as executor:
            with use(backend=ON, executor=executor, n_jobs=2):
                for _ in range(2):  # a second time, when the engine has run something here
                    parallel = Parallel()
                    self.assertEqual(parallel(delayed(outer)(x, ON) for x in range(3)), [30, 55, 90])
                    self.assertIsInstance(parallel._backend, ClusterBackend)

    def test_nobody_is_there(self):
        with ClusterExecutor(0, join=False) as executor, support.Log() as log:
            with use(backend=ON, executor=executor, wait_for_workers_timeout=0.1, n_jobs=-1):
                with self.assertRaisesRegex(TimeoutError, "no node has joined .*port %d" % executor.address[1]):
                    Parallel()(delayed(square)(x) for x in range(3))
            self.assertTrue(log.having("no node has joined"))

    def test_nodes_that_join_get_work_of_the_running_call(self):
        look_seconds, joblib_backend.LOOK_SECONDS = joblib_backend.LOOK_SECONDS, 0.0
        nodes = []
        try:
            with ClusterExecutor(2) as executor, support.directory() as folder:

                def tasks():
                    for _ in range(5):
                        yield delayed(at_once)(folder, "x", 1)
                    nodes.append(support.start_node(executor.address[1], executor.authkey, 2))
                    while parallel._backend._n_jobs < 4 and len(nodes) < 5000:
                        nodes.append(None)
                        yield delayed(at_once)(folder, "x", 1)
                    for x in range(4):
                        yield delayed(at_once)(folder, x, 5)

                with use(backend=ON, executor=executor, n_jobs=-1):
                    parallel = Parallel(batch_size=1, pre_dispatch="n_jobs")
                    self.assertEqual(set(parallel(tasks())), {True})
        finally:
            joblib_backend.LOOK_SECONDS = look_seconds
            for node in filter(None, nodes):
                node.kill()

    def test_a_script_needs_nothing_and_leaves_nothing(self):
        script = """
import os, joblib, minimalcluster
from joblib import Parallel, delayed

minimalcluster.register_joblib_backend()
def triple(x):
    return 3 * x

with getattr(joblib, "parallel_config", joblib.parallel_backend)(backend="minimalcluster", n_jobs=2):
    print(sum(Parallel()(delayed(triple)(x) for x in range(100))))
    first = set(Parallel(batch_size=1)(delayed(os.getpid)() for x in range(100)))
print(os.getpid() in first)
first |= set(Parallel(n_jobs=2, backend="minimalcluster", batch_size=1)(delayed(os.getpid)() for x in range(100)))
from minimalcluster.compat import cpu_count
print(len(first) <= cpu_count())
if hasattr(joblib, "parallel_config"):
    from time import sleep
    left = Parallel(n_jobs=2, backend="minimalcluster", return_as="generator")(delayed(sleep)(600) for x in range(9))
print(*[os.getpid()] + sorted(first))
"""
        with support.directory() as folder:
            code, output = commands.run([support.write(os.path.join(folder, "script.py"), script)])
        self.assertEqual(code, 0, output)
        self.assertTrue(output.startswith("14850\nFalse\nTrue\n"), output)
        pids = set(map(int, output.splitlines()[3].split()))
        support.wait_until(lambda: not pids & support.living(), what="the end of %s" % sorted(pids))


@needs_numpy
class Arrays(OnTwo, unittest.TestCase):
    def setUp(self):
        self.array = numpy.arange(3e5)
        self.sum = float(self.array.sum())
        self.shared = []
        cluster = self.executor._core.cluster
        original = cluster.share
        cluster.share = lambda value: self.shared.append(original(value)) or self.shared[-1]
        self.addCleanup(cluster.__dict__.pop, "share")

    def test_a_large_one_travels_once(self):
        with self.on(n_jobs=2):
            found = Parallel(batch_size=1)(delayed(writable)(self.array, x) for x in range(20))
        self.assertEqual(found, [(False, self.sum)] * 20)
        self.assertEqual(len(self.shared), 1)
        self.assertEqual(self.executor._core.cluster._library._shared, {})  # and is forgotten afterwards

    def test_wherever_it_is_and_with_functions_by_value(self):
        holder = {"deep": (self.array, self.array)}
        with self.on(n_jobs=2):
            found = Parallel(batch_size=1)(delayed(writable_inside)(holder, x) for x in range(4))
            found += Parallel(batch_size=1)(delayed(lambda array, x: writable(array, x))(self.array, x) for x in range(4))
        self.assertEqual(found, [(False, self.sum)] * 8)
        self.assertEqual(len(self.shared), 2)

    def test_a_memory_map(self):
        with support.directory() as folder:
            path = os.path.join(folder, "array.npy")
            numpy.save(path, self.array)
            mapped = numpy.load(path, mmap_mode="r")
            with self.on(n_jobs=2):
                found = Parallel(batch_size=1)(delayed(writable)(mapped, x) for x in range(4))
        self.assertEqual(found, [(False, self.sum)] * 4)
        self.assertEqual(len(self.shared), 1)

    def test_small_ones_and_objects_travel_with_the_batch(self):
        small, objects = numpy.arange(10.0), numpy.array([1.5] * 200000, dtype=object)
        with self.on(n_jobs=2):
            self.assertEqual(Parallel()(delayed(writable)(small, x) for x in range(4)), [(True, 45.0)] * 4)
            self.assertEqual(Parallel()(delayed(writable)(objects, x) for x in range(2)), [(True, 300000.0)] * 2)
        self.assertEqual(self.shared, [])

    def test_joblibs_own_limits(self):
        with self.on(n_jobs=2):
            for options in ({"max_nbytes": None}, {"max_nbytes": "100M"}, {"mmap_mode": "c"}, {"mmap_mode": None}):
                found = Parallel(**options)(delayed(writable)(self.array, x) for x in range(2))
                self.assertEqual(found, [(True, self.sum)] * 2)
            self.assertEqual(self.shared, [])
            found = Parallel(max_nbytes=10)(delayed(writable)(numpy.arange(10.0), x) for x in range(2))
            self.assertEqual(found, [(False, 45.0)] * 2)

    def test_a_change_between_two_calls_is_seen(self):
        with self.on(n_jobs=2), Parallel() as parallel:
            self.assertEqual(parallel(delayed(writable)(self.array, x) for x in range(2)), [(False, self.sum)] * 2)
            self.array[0] += 1.0
            self.assertEqual(parallel(delayed(writable)(self.array, x) for x in range(2)), [(False, self.sum + 1)] * 2)

    def test_many_of_them_do_not_pile_up(self):
        kept, joblib_backend.IDLE_BYTES_MAX = joblib_backend.IDLE_BYTES_MAX, 2 * self.array.nbytes
        most = []

        def tasks():
            for x in range(30):
                most.append(len(self.executor._core.cluster._library._shared))
                yield delayed(writable)(numpy.full(300000, float(x)), x)

        try:
            with self.on(n_jobs=2):
                found = Parallel(batch_size=1)(tasks())
        finally:
            joblib_backend.IDLE_BYTES_MAX = kept
        self.assertEqual(found, [(False, 300000.0 * x) for x in range(30)])
        self.assertLessEqual(max(most), 10)  # 2 idle, 4 under way, 2 joblib has read ahead

    def test_without_room_on_the_disk(self):
        def full(value):
            raise OSError(28, "No space left on device")

        self.executor._core.cluster.share = full
        with self.on(n_jobs=2), support.Log() as log:
            self.assertEqual(Parallel()(delayed(writable)(self.array, x) for x in range(2)), [(True, self.sum)] * 2)
        self.assertTrue(log.having("No space left"))


@needs_numpy
class ScikitLearn(OnTwo, unittest.TestCase):
    """The same seeds give the same results, wherever they run."""

    @classmethod
    def setUpClass(cls):
        try:
            from sklearn.datasets import make_classification
        except ImportError as error:
            raise unittest.SkipTest("scikit-learn is not installed for this Python (%s)" % error)
        super(ScikitLearn, cls).setUpClass()
        cls.X, cls.y = make_classification(300, 12, n_informative=5, random_state=1)

    def both(self, function):
        """What it gives here, and on the cluster."""
        here = function(1)
        with self.on():
            return here, function(-1)

    def test_grid_search(self):
        from sklearn.model_selection import GridSearchCV
        from sklearn.svm import SVC

        def search(n_jobs):
            grid = {"C": [0.1, 1.0, 10.0], "gamma": [0.01, 0.1]}
            return GridSearchCV(SVC(random_state=0), grid, cv=3, n_jobs=n_jobs).fit(self.X, self.y)

        here, there = self.both(search)
        self.assertEqual(here.best_params_, there.best_params_)
        for name, found in here.cv_results_.items():
            if "time" not in name:
                numpy.testing.assert_array_equal(found, there.cv_results_[name])

    def test_cross_validation_of_a_pipeline(self):
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression())
        numpy.testing.assert_array_equal(*self.both(lambda n: cross_val_score(model, self.X, self.y, cv=5, n_jobs=n)))

    def test_a_forest(self):
        from sklearn.ensemble import RandomForestClassifier

        def grow(n_jobs):
            forest = RandomForestClassifier(20, random_state=7, n_jobs=n_jobs).fit(self.X, self.y)
            return forest.predict_proba(self.X)

        numpy.testing.assert_array_equal(*self.both(grow))

    def test_a_forest_inside_of_a_search(self):
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.model_selection import GridSearchCV

        def search(n_jobs):
            forest = RandomForestClassifier(10, random_state=7, n_jobs=n_jobs)
            return GridSearchCV(forest, {"max_depth": [2, 4]}, cv=3, n_jobs=n_jobs).fit(self.X, self.y)

        here, there = self.both(search)
        numpy.testing.assert_array_equal(here.cv_results_["mean_test_score"], there.cv_results_["mean_test_score"])

    def test_permutation_importance(self):
        from sklearn.inspection import permutation_importance
        from sklearn.tree import DecisionTreeClassifier

        tree = DecisionTreeClassifier(random_state=3).fit(self.X, self.y)

        def importance(n_jobs):
            return permutation_importance(tree, self.X, self.y, n_repeats=4, random_state=5, n_jobs=n_jobs).importances

        numpy.testing.assert_array_equal(*self.both(importance))

    def test_large_data(self):
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import cross_val_score

        rng = numpy.random.RandomState(0)
        X = rng.rand(20000, 20)
        y = X.sum(axis=1) + rng.rand(20000)
        numpy.testing.assert_array_equal(*self.both(lambda n: cross_val_score(Ridge(), X, y, cv=4, n_jobs=n)))

    @unittest.skipUnless(VERSION >= (1, 3), "the example uses parallel_config")
    def test_the_example(self):
        code, output = commands.run([os.path.join(support.ROOT, "examples", "joblib_grid_search.py")])
        self.assertEqual(code, 0, output)
        self.assertIn("36 models fitted\nbest: C=10, gamma=0.001\n", output)

    @unittest.skipUnless(VERSION >= (1, 3), "the example uses parallel_config")
    def test_the_example_open_to_other_nodes(self):
        with support.directory() as folder:
            key_file = support.write_key(os.path.join(folder, "key"), "a key of enough letters\n")
            script = [os.path.join(support.ROOT, "examples", "joblib_grid_search.py"), str(support.free_port()), key_file]
            code, output = commands.run(script)
        self.assertEqual(code, 0, output)
        self.assertIn("best: C=10, gamma=0.001\n", output)


if __name__ == "__main__":
    unittest.main()

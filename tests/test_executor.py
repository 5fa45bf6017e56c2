"""ClusterExecutor beside the documentation of ``concurrent.futures`` and CPython's own tests of its executors.

Where the documentation's sentences are tested (Doc/library/concurrent.futures.rst, 3.14; CPython's test in brackets):

    Executor.submit: schedules fn(*args, **kwargs), returns a Future           Submit
    Executor.map: collects immediately unless buffersize; concurrently;
        timeout from the original call; int or float; None: no limit; an
        exception is raised when its value is retrieved; chunksize             Map
    map's buffersize: at most so many not yet yielded                          Map.test_buffersize
    shutdown: RuntimeError afterwards; wait=False returns immediately and
        the program does not exit before all is done; with-statement;
        cancel_futures cancels what has not started, the rest completes        Shutdown
    Future.cancel/cancelled/running/done/result/exception/add_done_callback    Futures
    Future callbacks: called with the future, in order, in a thread of the
        process; Exception is logged and ignored; at once if done              Futures.test_callbacks
    wait, as_completed                                                         Futures
    BrokenExecutor, InvalidStateError, CancelledError, TimeoutError            Broken, Futures
    initializer, initargs; if it raises, BrokenProcessPool for what waits
        and for later submits [test_init]                                      Broken
    ProcessPoolExecutor: max_workers defaults to the processors, ValueError
        below 1; __main__ must be importable: here with or without it          Construction, Main
    max_tasks_per_child: processes are replaced after so many                  Workers.test_max_tasks_per_child
    "picklable objects can be executed and returned"                           Pickling

Not applicable, and why:

    ThreadPoolExecutor's thread_name_prefix; InterpreterPoolExecutor           other executors' own
    mp_context; "fork" with max_tasks_per_child is refused                     worker processes are fresh interpreters, never forked
    max_workers <= 61 on Windows                                               a limit of WaitForMultipleObjects, which is not used
    the first example's deadlocks (a task that waits for another)              the same here, by construction
    ProcessPoolExecutor.terminate_workers, kill_workers (3.14)                 Pool.terminate; ClusterFuture.cancel_running for one call
    BrokenProcessPool for *every* future when one process dies                 on purpose not: only the culprit fails, see Broken
    Executor.map "if timeout": the rest "is cancelled" is 3.x's own            Map.test_timeout_ends_the_rest
"""
from __future__ import absolute_import, division, print_function

import gc
import itertools
import os
import pickle
import signal
import sys
import threading
import time
import unittest
import weakref

from tests import support

PYTHON_3 = sys.version_info >= (3, 6)
if PYTHON_3:
    import asyncio
    import concurrent.futures
    from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError, Executor, Future
    from concurrent.futures import TimeoutError as FutureTimeoutError

    from minimalcluster import ClusterError, ClusterExecutor, MasterNode, RemoteTraceback, errors
    from minimalcluster.executor import (
        BrokenClusterExecutor,
        BrokenExecutor,
        CallTimeoutError,
        ClusterFuture,
        WorkerDiedError,
    )

faces = unittest.skipUnless(PYTHON_3, "the faces are for Python 3.6 and later")
SECONDS = support.SECONDS


# -- what runs in worker processes ----------------------------------------------------------------


def mul(x, y):
    return x * y


def capture(*args, **kwargs):
    return args, kwargs


def pid_of(_=None):
    return os.getpid()


def pid_after(seconds):
    time.sleep(seconds)
    return os.getpid()


def fail(error):
    raise error


def fail_on(x, bad):
    if x == bad:
        raise ValueError("not %d" % x)
    return x


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def leave(error_class):
    raise error_class("left")


def touch(path):
    support.write(path, str(os.getpid()))


def touch_and_wait(path, gate):
    touch(path)
    end = time.time() + 60
    # A test that failed takes the folder with it: its tasks must not hold up the tests that follow.
    while not os.path.exists(gate) and os.path.exists(path) and time.time() < end:
        time.sleep(0.005)
    return path


def note_and_return(folder, value):
    support.write(os.path.join(folder, str(value)), "ran")
    return value


def noted_and_fails_once(path):
    """Raises until its third run."""
    with open(path, "a") as file:
        file.write(".")
    if len(support.read(path)) < 3:
        raise OSError("not yet")
    return "at last"


def chained():
    try:
        {}["missing"]
    except KeyError as error:
        outer = ValueError("outer", 7)
        outer.__cause__ = error
        if hasattr(outer, "add_note"):
            outer.add_note("a note for you")
        raise outer


def in_context():
    try:
        int("x")
    except ValueError:
        raise LookupError("while handling")


_status = []


def initialize(value):
    _status.append(value)


def fail_to_initialize(why):
    raise ValueError(why)


def status():
    return list(_status)


class Thing(object):
    def method(self):
        return "called"


def make_thing(_):
    return Thing()


class Two(Exception):
    """Its pickle comes back, and so do its attributes."""

    def __init__(self, a, b):
        Exception.__init__(self, a, b)
        self.a, self.b = a, b


class Unloadable(Exception):
    """Can be pickled and not unpickled."""

    def __init__(self, a, b):
        Exception.__init__(self, "%s and %s" % (a, b))


class CannotPickle(object):
    def __reduce__(self):
        raise pickle.PicklingError("made not to be pickled")


class ExitAtPickle(object):
    def __reduce__(self):
        raise SystemExit(3)


def fail_to_load(error_class, text):
    raise error_class(text)


class CannotLoad(object):
    def __reduce__(self):
        return fail_to_load, (pickle.UnpicklingError, "made not to be unpickled")


class CannotLoadHere(object):
    """Loads in worker processes, not where the executor is."""

    def __init__(self, pid):
        self.pid = pid

    def __reduce__(self):
        return load_elsewhere, (self.pid,)


def load_elsewhere(pid):
    if os.getpid() == pid:
        raise ValueError("not here")
    return CannotLoadHere(pid)


class ExitAtLoad(object):
    def __reduce__(self):
        return fail_to_load, (SystemExit, "at load")


def instance_of(kind):
    return kind()


def collected_arguments():
    gc.collect()
    return sum(isinstance(each, Thing) for each in gc.get_objects())


def length(value):
    return len(value)


# -- the tests ------------------------------------------------------------------------------------


class Running(unittest.TestCase):
    """Tests that share one executor with two worker processes."""

    @classmethod
    def setUpClass(cls):
        cls.executor = ClusterExecutor(2)

    @classmethod
    def tearDownClass(cls):
        cls.executor.shutdown(wait=True)
        del cls.executor

    def raised(self, future, kind):
        """The future's exception, which must be of exactly this kind."""
        error = future.exception(SECONDS)
        self.assertIs(kind, type(error), "%r" % error)
        return error


@faces
class Construction(unittest.TestCase):
    def test_it_is_an_executor(self):
        with ClusterExecutor(1) as executor:
            self.assertIsInstance(executor, Executor)
            self.assertIsInstance(executor.submit(abs, -1), Future)

    def test_max_workers_must_be_greater_than_0(self):
        for number in (0, -1):
            for arguments in ((number,), ()):
                with self.assertRaises(ValueError) as caught:
                    ClusterExecutor(*arguments, **({} if arguments else {"max_workers": number}))
                self.assertEqual("max_workers must be greater than 0", str(caught.exception))

    def test_an_initializer_must_be_callable(self):
        self.assertRaises(TypeError, ClusterExecutor, 1, initializer=3)

    def test_a_refused_one_leaves_nothing(self):
        before, threads = support.descendants(), threading.active_count()
        self.assertRaises(Exception, ClusterExecutor, 1, initializer=length, initargs=(threading.Lock(),))
        self.assertRaises(ValueError, ClusterExecutor, 1, max_tasks_per_child=0)
        self.assertRaises(ValueError, ClusterExecutor, 1, "0.0.0.0", 0, "short")
        self.assertEqual((before, threads), (support.descendants(), threading.active_count()))

    def test_exactly_as_many_workers_as_said(self):
        before = support.descendants()
        with ClusterExecutor(5) as executor:
            executor.submit(abs, -1).result(SECONDS)
            support.wait_until(lambda: len(support.descendants() - before) == 5, what="5 worker processes")

    def test_default_is_the_processors(self):
        from minimalcluster.compat import cpu_count

        with ClusterExecutor() as executor:
            info = executor._core.cluster.workers()
            self.assertEqual([cpu_count()], [each.nprocs for each in info])

    def test_other_nodes_join_by_address_and_key(self):
        with ClusterExecutor(0, join=False) as executor:
            future = executor.submit(os.getppid)
            self.assertFalse(future.running())
            node = support.start_node(executor.address[1], executor.authkey)
            with node:
                self.assertEqual(node.pid, future.result(SECONDS))
                self.assertEqual([0, 1, 4], list(executor.map(mul, range(3), range(3))))
                executor.shutdown()
                self.assertEqual(0, node.wait())

    def test_on_a_running_master(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            with ClusterExecutor(master=master) as executor, master.executor() as second:
                self.assertEqual((master.HOST, master.PORT), executor.address)
                self.assertEqual(master.AUTHKEY, executor.authkey)
                self.assertEqual([6, 8], [executor.submit(mul, 2, 3).result(SECONDS), second.submit(mul, 2, 4).result(SECONDS)])
            # Its end is not the master's.
            master.load_envir("def f(x): return -x", from_file=False)
            master.register_target_function("f")
            master.load_args([1])
            self.assertEqual({1: -1}, master.execute())
            third = ClusterExecutor(master=master)
            waiting = third.submit(time.sleep, 60)
        # The master's end is an executor's.
        self.assertIsInstance(waiting.exception(SECONDS), BrokenExecutor)
        self.assertRaises((BrokenExecutor, RuntimeError), third.submit, abs, 1)

    def test_a_master_that_does_not_run(self):
        self.assertRaises(errors.StateError, ClusterExecutor, master=MasterNode(PORT=0))

    def test_ten_one_after_another(self):
        before = support.descendants()
        for number in range(10):
            with ClusterExecutor(1) as executor:
                self.assertEqual(number, executor.submit(int, number).result(SECONDS))
        self.assertEqual(before, support.descendants())

    def test_several_at_once_do_not_mix(self):
        with ClusterExecutor(1, initializer=initialize, initargs=("a",)) as one:
            with ClusterExecutor(1, initializer=initialize, initargs=("b",)) as two:
                self.assertEqual([["a"], ["b"]], [each.submit(status).result(SECONDS) for each in (one, two)])
        with ClusterExecutor(1) as executor, MasterNode(PORT=0) as master:
            master.start_master_server()
            riders = [ClusterExecutor(master=master, initializer=initialize, initargs=(name,)) for name in "ab"]
            for rider, name in zip(riders, "ab"):
                self.assertIn(name, rider.submit(status).result(SECONDS))
            self.assertEqual([], executor.submit(status).result(SECONDS))


@faces
class Submit(Running):
    def test_submit(self):
        self.assertEqual(256, self.executor.submit(pow, 2, 8).result(SECONDS))

    def test_keywords(self):
        self.assertEqual(16, self.executor.submit(mul, 2, y=8).result(SECONDS))
        future = self.executor.submit(capture, 1, self=2, fn=3)
        self.assertEqual(((1,), {"self": 2, "fn": 3}), future.result(SECONDS))
        self.assertRaises(TypeError, lambda: self.executor.submit(fn=capture, arg=1))
        self.assertRaises(TypeError, lambda: self.executor.submit(arg=1))
        self.assertRaises(TypeError, lambda: self.executor.submit())

    def test_bound_methods_and_classes(self):
        self.assertEqual("called", self.executor.submit(Thing().method).result(SECONDS))
        self.assertIsInstance(self.executor.submit(Thing).result(SECONDS), Thing)

    def test_from_many_threads(self):
        def work(base):
            futures = [self.executor.submit(mul, base, index) for index in range(50)]
            return [future.result(SECONDS) for future in futures]

        threads = [support.Background(work, base) for base in range(8)]
        for base, thread in enumerate(threads):
            self.assertEqual([base * index for index in range(50)], thread.result())

    def test_it_does_not_wait_for_a_large_job(self):
        large = self.executor.map(pid_after, [0.001] * 20000)
        next(large)
        self.assertEqual(1, self.executor.submit(abs, -1).result(SECONDS))
        self.assertEqual([1], list(self.executor.map(abs, [-1])))
        self.assertFalse(large._job.over.is_set())
        large.close()

    def test_no_stale_references(self):
        # [test_no_stale_references] The future is dropped on purpose.
        thing = Thing()
        collected = threading.Event()
        reference = weakref.ref(thing, lambda _: collected.set())
        self.executor.submit(thing.method)
        del thing
        support.wait_until(lambda: gc.collect() is not None and collected.is_set(), what="the argument's collection")
        self.assertIsNone(reference())

    def test_workers_drop_arguments(self):
        # [test_ressources_gced_in_workers]
        with ClusterExecutor(1) as executor:
            executor.submit(id, Thing()).result(SECONDS)
            self.assertEqual(0, executor.submit(collected_arguments).result(SECONDS))

    def test_options(self):
        with support.directory() as folder:
            path = os.path.join(folder, "runs")
            patient = self.executor.options(retries=5)
            self.assertIsInstance(patient, ClusterExecutor)
            self.assertEqual("at last", patient.submit(noted_and_fails_once, path).result(SECONDS))
            self.assertEqual(3, len(support.read(path)))
            self.assertEqual(["at last"], list(patient.map(noted_and_fails_once, [os.path.join(folder, "map")])))
            error = self.executor.submit(noted_and_fails_once, os.path.join(folder, "impatient")).exception(SECONDS)
            self.assertIsInstance(error, OSError)

    def test_options_are_checked(self):
        for wrong in ({"retries": -1}, {"retries": 1.5}, {"attempts_max": 0}, {"timeout": 0}, {"timeout": -1}):
            self.assertRaises(ValueError, self.executor.options, **wrong)
        self.assertRaises(TypeError, self.executor.options, unknown=1)

    def test_timeout_of_a_call(self):
        with support.directory() as folder:
            gate, started = os.path.join(folder, "gate"), os.path.join(folder, "started")
            brief = self.executor.options(timeout=0.2)
            error = brief.submit(touch_and_wait, started, gate).exception(SECONDS)
            self.assertIsInstance(error, (FutureTimeoutError, CallTimeoutError))
            self.assertIsInstance(error, errors.TaskTimeout)
            self.assertIn("0.2 s", str(error))
            results = brief.map(touch_and_wait, [started] * 2, [gate] * 2)
            self.assertRaises(FutureTimeoutError, next, results)
            # The others do not pay for it, and in time it changes nothing.
            self.assertEqual(list(range(20)), list(self.executor.options(timeout=60).map(int, range(20))))
            self.assertEqual(4, self.executor.options(timeout=60).submit(mul, 2, 2).result(SECONDS))

    def test_shared_objects(self):
        handle = self.executor.share(list(range(1000)))
        self.assertEqual(1000, self.executor.submit(length, handle).result(SECONDS))
        self.assertEqual([1000, 1000], list(self.executor.map(length, [handle, handle])))

    def test_what_tasks_print_comes_here(self):
        code = """
from minimalcluster import ClusterExecutor
ex = ClusterExecutor(1)
for number in range(3):
    ex.submit(print, "line", number)
ex.shutdown()
"""
        with support.Process(code) as process:
            self.assertEqual(0, process.wait())
            self.assertEqual(["line 0", "line 1", "line 2"], process.output().splitlines())


@faces
class Map(Running):
    def test_several_iterables(self):
        for options in ({}, {"chunksize": 3}, {"buffersize": 2}):
            self.assertEqual(
                list(map(pow, range(10), range(10))), list(self.executor.map(pow, range(10), range(10), **options))
            )
        self.assertEqual([0, 1], list(self.executor.map(mul, [0, 1], itertools.count(1))) and [0, 1])
        self.assertEqual([0, 2, 6], list(self.executor.map(mul, iter([0, 1, 2]), itertools.count(1))))
        self.assertEqual([], list(self.executor.map(mul, [], [1])))
        self.assertEqual([], list(self.executor.map(mul)))

    def test_chunksizes(self):
        # [test_map_chunksize]
        expected = list(map(pow, range(40), range(40)))
        for chunksize in (1, 6, 40, 50):
            self.assertEqual(expected, list(self.executor.map(pow, range(40), range(40), chunksize=chunksize)))
        for wrong in (0, -1):
            with self.assertRaises(ValueError) as caught:
                self.executor.map(pow, range(4), range(4), chunksize=wrong)
            self.assertEqual("chunksize must be >= 1.", str(caught.exception))
        self.assertRaises(ValueError, self.executor.map, abs, [1], buffersize=0)

    def test_every_kind_of_input(self):
        self.assertEqual(list(range(0, 1000, 7)), list(self.executor.map(abs, range(0, 1000, 7))))
        self.assertEqual(["1", "2.5", "None"], list(self.executor.map(str, [1, 2.5, None])))
        self.assertEqual([1, 2], list(self.executor.map(length, [[0], (0, 1)])))
        self.assertEqual(sorted("abc"), sorted(self.executor.map(str, {"a": 1, "b": 2, "c": 3})))
        many = self.executor.map(str, (number for number in range(10000)))
        self.assertEqual([str(number) for number in range(10000)], list(many))

    def test_an_exception_at_its_place(self):
        # [test_map_exception]
        results = self.executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
        self.assertEqual((0, 1), next(results))
        self.assertEqual((0, 1), next(results))
        self.assertRaises(ZeroDivisionError, next, results)
        self.assertRaises(StopIteration, next, results)

    def test_timeout(self):
        # [test_map_timeout]
        with support.directory() as folder:
            paths, gate = [os.path.join(folder, str(number)) for number in range(3)], os.path.join(folder, "gate")
            gates = [os.path.join(folder, "0"), os.path.join(folder, "0"), gate]
            got = []
            with self.assertRaises(FutureTimeoutError):
                for result in self.executor.map(touch_and_wait, paths, gates, timeout=2.5):
                    got.append(result)
            self.assertEqual(paths[:2], got)

    def test_timeout_ends_the_rest(self):
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            results = self.executor.map(touch_and_wait, [gate + "never"] * 50, [gate] * 50, timeout=0.1)
            self.assertRaises(FutureTimeoutError, next, results)
            # Both worker processes are free again, though nobody opened the gate.
            self.assertEqual(1, self.executor.submit(abs, -1).result(SECONDS))
            self.assertEqual([1, 1], list(self.executor.map(abs, [-1, 1])))

    def test_close_ends_the_rest(self):
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            results = self.executor.map(touch_and_wait, [gate + "never"] * 50, [gate] * 50)
            results.close()
            self.assertRaises(StopIteration, next, results)
            self.assertEqual(1, self.executor.submit(abs, -1).result(SECONDS))

    def test_dropping_it_half_way_ends_the_rest(self):
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            paths = [os.path.join(folder, "first")] + [gate + "never"] * 20
            results = self.executor.map(touch_and_wait, paths, [paths[0]] + [gate] * 20)
            self.assertEqual(paths[0], next(results))
            del results
            gc.collect()
            self.assertEqual(1, self.executor.submit(abs, -1).result(SECONDS))

    def test_work_begins_without_iterating(self):
        with support.directory() as folder:
            results = self.executor.map(touch, [os.path.join(folder, str(number)) for number in range(4)])
            support.wait_until(lambda: len(os.listdir(folder)) == 4, what="all tasks' files")
            self.assertEqual([None] * 4, list(results))

    def test_dropped_before_it_is_iterated_it_is_done_all_the_same(self):
        with support.directory() as folder:
            self.executor.map(touch, [os.path.join(folder, str(number)) for number in range(6)])
            gc.collect()
            support.wait_until(lambda: len(os.listdir(folder)) == 6, what="all tasks' files")

    def test_endless_generators(self):
        for options in ({}, {"chunksize": 5}, {"buffersize": 10}):
            results = self.executor.map(str, itertools.count(), **options)
            self.assertEqual(["0", "1", "2"], [next(results) for _ in range(3)])
            results.close()

    def test_buffersize(self):
        read = []

        def numbers():
            for number in itertools.count():
                read.append(number)
                yield number

        results = self.executor.map(str, numbers(), buffersize=4)
        self.assertEqual([0, 1, 2, 3], read)
        for number in range(20):
            self.assertEqual(str(number), next(results))
            self.assertLessEqual(len(read), number + 1 + 4)
        results.close()

    def test_without_buffersize_reading_is_bounded_too(self):
        read = [0]

        def numbers():
            while True:
                read[0] += 1
                yield read[0]

        results = self.executor.map(abs, numbers())
        self.assertEqual(1, next(results))
        self.assertLess(read[0], 1 << 20)
        results.close()

    def test_a_slow_generator_does_not_hold_up_the_call(self):
        read = []

        def numbers():
            for number in range(200):
                time.sleep(0.03)
                read.append(number)
                yield number

        results = self.executor.map(str, numbers())
        self.assertLess(len(read), 200)
        self.assertEqual("0", next(results))
        self.assertLess(len(read), 200)
        results.close()

    def test_errors_of_the_input(self):
        def early():
            yield 1
            raise LookupError("early")

        def late():
            for number in range(1, 21):
                time.sleep(0.02)
                yield number
            raise LookupError("late")

        with self.assertRaises(LookupError) as caught:
            self.executor.map(abs, early())
        self.assertEqual("early", str(caught.exception))
        results = self.executor.map(abs, late())
        self.assertEqual(list(range(1, 21)), [next(results) for _ in range(20)])
        self.assertRaises(LookupError, next, results)
        self.assertRaises(StopIteration, next, results)
        self.assertRaises(TypeError, self.executor.map, abs, 5)

    def test_unordered(self):
        with support.directory() as folder:
            gate, path = os.path.join(folder, "gate"), os.path.join(folder, "path")
            results = self.executor.map_unordered(touch_and_wait, [path, gate], [gate, path], chunksize=1)
            # The first waits for what the second makes, and the second for the first's: both run at once.
            self.assertEqual({path, gate}, set(results))
            results = self.executor.map_unordered(abs, range(1000))
            self.assertEqual(set(range(1000)), set(results))
            results = self.executor.map_unordered(touch_and_wait, [path, gate + "2"], [gate + "3", path], chunksize=1)
            self.assertEqual(gate + "2", next(results))
            support.write(gate + "3")
            self.assertEqual([path], list(results))

    def test_free_reference(self):
        # [test_free_reference]
        for thing in self.executor.map(make_thing, range(10)):
            reference = weakref.ref(thing)
            del thing
            gc.collect()
            self.assertIsNone(reference())

    def test_an_unpicklable_argument_reaches_its_own_place(self):
        things = [[1], [2], CannotPickle(), [3]]
        results = self.executor.map(length, things)
        self.assertEqual([1, 1], [next(results), next(results)])
        with self.assertRaises(pickle.PicklingError) as caught:
            next(results)
        self.assertEqual("made not to be pickled", str(caught.exception))
        # Also one that leaves: it is pickled in a thread that must live on.
        results = self.executor.map(length, [[1], ExitAtPickle(), [3]])
        self.assertEqual(1, next(results))
        self.assertRaises(SystemExit, next, results)
        self.assertEqual([3], list(self.executor.map(length, [[1, 2, 3]])))

    def test_an_unloadable_argument_reaches_its_own_place(self):
        results = self.executor.map(str, [[1], CannotLoad(), [3]])
        self.assertEqual("[1]", next(results))
        self.assertRaises(pickle.UnpicklingError, next, results)

    def test_an_unpicklable_function_is_the_first_results_error(self):
        results = self.executor.map(CannotPickle().__reduce__, [1, 2])
        self.assertRaises(pickle.PicklingError, next, results)

    def test_shutdown_race(self):
        # [test_shutdown_race_issue12456]
        executor = ClusterExecutor(2)
        executor.map(str, [2] * 3)
        executor.shutdown()


@faces
class Futures(Running):
    def test_life_of_a_future(self):
        with support.directory() as folder:
            path, gate = os.path.join(folder, "path"), os.path.join(folder, "gate")
            future = self.executor.submit(touch_and_wait, path, gate)
            self.assertIsInstance(future, ClusterFuture)
            support.wait_until(future.running, 5, "running()")
            self.assertFalse(future.done())
            self.assertFalse(future.cancel())
            self.assertRaises(FutureTimeoutError, future.result, 0.01)
            self.assertRaises(FutureTimeoutError, future.exception, 0.01)
            support.write(gate)
            self.assertEqual(path, future.result(SECONDS))
            self.assertEqual((True, False, False), (future.done(), future.running(), future.cancelled()))
            self.assertIsNone(future.exception())
            self.assertFalse(future.cancel())
            self.assertFalse(future.cancel_running())
            self.assertEqual(path, future.result())

    @unittest.skipIf(sys.version_info < (3, 8), "InvalidStateError is 3.8's")
    def test_results_cannot_be_set_twice(self):
        future = self.executor.submit(abs, -1)
        self.assertEqual(1, future.result(SECONDS))
        self.assertRaises(concurrent.futures.InvalidStateError, future.set_result, 2)
        self.assertRaises(concurrent.futures.InvalidStateError, future.set_exception, ValueError())

    def test_cancel(self):
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            running = [self.executor.submit(touch_and_wait, os.path.join(folder, name), gate) for name in "ab"]
            support.wait_until(lambda: len(os.listdir(folder)) == 2, what="both running")
            waiting = [self.executor.submit(touch, os.path.join(folder, "never%d" % number)) for number in range(50)]
            called = []
            # Not the first ones: what was granted ahead to a busy worker process counts as running.
            waiting[-1].add_done_callback(called.append)
            cancelled = [future for future in waiting if future.cancel()]
            self.assertGreater(len(cancelled), 40)
            # They are notified now, not when a worker gets to them.
            self.assertEqual(set(cancelled), concurrent.futures.wait(cancelled, SECONDS).done)
            for future in cancelled:
                self.assertTrue(future.cancelled() and future.done() and future.cancel())
                self.assertRaises(CancelledError, future.result)
                self.assertRaises(CancelledError, future.exception)
            self.assertEqual([waiting[-1]], called)
            support.write(gate)
            for future in running + [future for future in waiting if future not in cancelled]:
                future.result(SECONDS)
            self.executor.submit(abs, 1).result(SECONDS)
            ran = [name for name in os.listdir(folder) if name.startswith("never")]
            self.assertEqual(len(waiting) - len(cancelled), len(ran))

    def test_cancel_while_it_runs(self):
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            futures = [self.executor.submit(touch_and_wait, os.path.join(folder, str(n)), gate) for n in range(3)]
            support.wait_until(lambda: len(os.listdir(folder)) == 2, what="two running")
            called = []
            futures[0].add_done_callback(called.append)
            self.assertFalse(futures[0].cancel())
            self.assertTrue(futures[0].cancel_running())
            self.assertTrue(futures[0].cancel_running())
            self.assertTrue(futures[0].cancelled())
            self.assertRaises(CancelledError, futures[0].result)
            self.assertEqual([futures[0]], called)
            # Its worker process's successor runs the third; the second was not touched.
            support.wait_until(lambda: os.path.exists(os.path.join(folder, "2")), what="the third's start")
            support.write(gate)
            self.assertEqual([os.path.join(folder, name) for name in "12"], [each.result(SECONDS) for each in futures[1:]])

    def test_callbacks(self):
        order, threads = [], set()
        with support.directory() as folder, support.Log() as ours:
            gate = os.path.join(folder, "gate")
            future = self.executor.submit(touch_and_wait, gate + "1", gate)

            def note(name):
                def callback(done):
                    order.append((name, done is future))
                    threads.add(threading.current_thread())
                    if name == "fails":
                        raise ValueError("of a callback")

                return callback

            for name in ("first", "fails", "last"):
                future.add_done_callback(note(name))
            with self.assertLogs("concurrent.futures") as logged:
                support.write(gate)
                future.result(SECONDS)
                support.wait_until(lambda: len(order) == 3, what="three callbacks")
            self.assertEqual([("first", True), ("fails", True), ("last", True)], order)
            self.assertEqual(1, len(logged.records))
            self.assertNotIn(threading.current_thread(), threads)
            self.assertEqual([], ours.having("callback"))
        future.add_done_callback(note("late"))
        self.assertEqual(("late", True), order[-1])
        self.assertIn(threading.current_thread(), threads)
        # Nothing of this was fatal.
        self.assertEqual(2, self.executor.submit(abs, -2).result(SECONDS))

    def test_a_callback_that_submits(self):
        followers = []
        ready = threading.Event()

        def follow(future):
            followers.append(self.executor.submit(mul, future.result(), 10))
            followers.append(self.executor.map(abs, [-1, -2]))
            ready.set()

        self.executor.submit(mul, 2, 3).add_done_callback(follow)
        self.assertTrue(ready.wait(SECONDS))
        self.assertEqual(60, followers[0].result(SECONDS))
        self.assertEqual([1, 2], list(followers[1]))

    def test_a_slow_callback_holds_up_no_worker(self):
        release, entered = threading.Event(), threading.Event()

        def slow(_):
            entered.set()
            release.wait(SECONDS)

        with support.directory() as folder:
            self.executor.submit(abs, 1).add_done_callback(slow)
            self.assertTrue(entered.wait(SECONDS))
            self.executor.submit(touch, os.path.join(folder, "ran"))
            support.wait_until(lambda: os.listdir(folder), what="the other task's file")
            self.assertEqual([3], list(self.executor.map(abs, [-3])))
            release.set()

    def test_wait(self):
        # [WaitTests]
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            quick, slow = self.executor.submit(mul, 21, 2), self.executor.submit(touch_and_wait, gate + "1", gate)
            done, left = concurrent.futures.wait([quick, slow], return_when=FIRST_COMPLETED)
            self.assertEqual(({quick}, {slow}), (done, left))
            done, left = concurrent.futures.wait([quick, slow], timeout=0.05, return_when=ALL_COMPLETED)
            self.assertEqual(({quick}, {slow}), (done, left))
            bad = self.executor.submit(fail, ValueError())
            done, left = concurrent.futures.wait([slow, bad], return_when=FIRST_EXCEPTION)
            self.assertEqual(({bad}, {slow}), (done, left))
            support.write(gate)
            done, left = concurrent.futures.wait([quick, slow, bad])
            self.assertEqual(({quick, slow, bad}, set()), (done, left))
            self.assertEqual(set(), concurrent.futures.wait([]).done)

    def test_as_completed(self):
        # [AsCompletedTests]
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            slow, quick = self.executor.submit(touch_and_wait, gate + "1", gate), self.executor.submit(mul, 7, 6)
            come = concurrent.futures.as_completed([slow, quick, quick])
            self.assertIs(quick, next(come))
            with self.assertRaises(FutureTimeoutError) as caught:
                list(concurrent.futures.as_completed([slow, quick], timeout=0))
            self.assertEqual("1 (of 2) futures unfinished", str(caught.exception))
            support.write(gate)
            self.assertEqual([slow], list(come))

    def test_a_dropped_future_is_collected(self):
        future = self.executor.submit(abs, -1)
        future.result(SECONDS)
        reference = weakref.ref(future)
        del future
        support.wait_until(lambda: gc.collect() is not None and reference() is None, what="the future's collection")


@faces
class Exceptions(Running):
    def test_type_arguments_and_remote_traceback(self):
        # [test_traceback]
        error = self.raised(self.executor.submit(fail, RuntimeError(123)), RuntimeError)
        self.assertEqual((123,), error.args)
        self.assertIsInstance(error.__cause__, RemoteTraceback)
        self.assertIn("raise error", error.__cause__.tb)
        self.assertIn("test_executor.py", error.__cause__.tb)
        import traceback

        printed = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.assertIn("raise error", printed)

    def test_attributes_survive(self):
        error = self.raised(self.executor.submit(fail, Two("x", [1])), Two)
        self.assertEqual(("x", [1]), (error.a, error.b))

    def test_causes_and_notes_survive(self):
        error = self.raised(self.executor.submit(chained), ValueError)
        self.assertEqual(("outer", 7), error.args)
        self.assertIn("KeyError: 'missing'", error.__cause__.tb)
        self.assertIsInstance(error.__context__, KeyError)
        self.assertEqual(("missing",), error.__context__.args)
        self.assertTrue(error.__suppress_context__)
        if hasattr(error, "add_note"):
            self.assertEqual(["a note for you"], error.__notes__)
            self.assertIn("a note for you", error.__cause__.tb)
        with self.assertRaises(LookupError) as caught:
            list(self.executor.map(lambda_free_context, [0]))
        self.assertIsInstance(caught.exception.__context__, ValueError)

    def test_what_is_no_exception_is_a_result_too(self):
        # [test_exit_during_func_exec_on_worker]
        for kind in (SystemExit, KeyboardInterrupt, GeneratorExit):
            error = self.raised(self.executor.submit(leave, kind), kind)
            self.assertEqual(("left",), error.args)
            results = self.executor.map(leave, [kind])
            self.assertRaises(kind, next, results)
        self.raised(self.executor.submit(sys.exit, 1), SystemExit)

    def test_stop_iteration_stays_what_it_is(self):
        self.assertEqual("s", self.raised(self.executor.submit(leave, StopAsyncIteration), StopAsyncIteration) and "s")
        self.raised(self.executor.submit(leave, StopIteration), StopIteration)

    def test_one_that_cannot_be_rebuilt(self):
        error = self.raised(self.executor.submit(make_unloadable), errors.RemoteError)
        self.assertIn("Unloadable: a and b", str(error))
        self.assertEqual("Unloadable", error.type_name)
        self.assertIn("raise Unloadable", error.__cause__.tb)


def lambda_free_context(_):
    in_context()


def make_unloadable():
    raise Unloadable("a", "b")


@faces
class Pickling(Running):
    """[test_deadlock] Whatever cannot be pickled or unpickled, on either side, reaches its own future only."""

    def tearDown(self):
        self.assertEqual([4, 5], [self.executor.submit(abs, -4).result(SECONDS), next(self.executor.map(abs, [5]))])

    def test_a_call_that_cannot_be_pickled(self):
        error = self.raised(self.executor.submit(id, CannotPickle()), pickle.PicklingError)
        self.assertEqual(("made not to be pickled",), error.args[:1] and (str(error)[:22],))
        self.raised(self.executor.submit(id, ExitAtPickle()), SystemExit)

    def test_the_attribute_that_cannot_travel_is_named(self):
        thing = Thing()
        thing.parts = {"inner": Thing()}
        thing.parts["inner"].lock = threading.Lock()
        error = self.raised(self.executor.submit(id, thing), TypeError)
        self.assertIn("argument 0, .parts, ['inner'], .lock", str(error))

    def test_a_call_that_cannot_be_unpickled(self):
        error = self.raised(self.executor.submit(id, CannotLoad()), pickle.UnpicklingError)
        self.assertEqual("made not to be unpickled", str(error))
        self.raised(self.executor.submit(id, ExitAtLoad()), SystemExit)

    def test_a_result_that_cannot_be_pickled(self):
        error = self.raised(self.executor.submit(instance_of, CannotPickle), pickle.PicklingError)
        self.assertIn("the result cannot be sent back", error.__cause__.tb)
        self.assertIn("CannotPickle", error.__cause__.tb)
        self.raised(self.executor.submit(instance_of, ExitAtPickle), SystemExit)
        self.raised(self.executor.submit(threading.Lock), TypeError)

    def test_a_result_that_cannot_be_unpickled(self):
        for future in (self.executor.submit(CannotLoadHere, os.getpid()), self.executor.submit(instance_of, CannotLoad)):
            error = future.exception(SECONDS)
            self.assertIsInstance(error, errors.RemoteError)
            self.assertIsInstance(error.__cause__, (ValueError, pickle.UnpicklingError))

    def test_the_neighbours_are_not_touched(self):
        futures = [
            self.executor.submit(length, each) for each in ([1], CannotPickle(), [2], CannotLoad(), ExitAtPickle(), [3])
        ]
        kinds = [type(future.exception(SECONDS)) for future in futures]
        nothing = type(None)
        self.assertEqual([nothing, pickle.PicklingError, nothing, pickle.UnpicklingError, SystemExit, nothing], kinds)


@faces
class Broken(unittest.TestCase):
    def test_the_types(self):
        for kind in (BrokenClusterExecutor, WorkerDiedError):
            self.assertTrue(issubclass(kind, BrokenExecutor) and issubclass(kind, ClusterError))
            self.assertTrue(issubclass(kind, RuntimeError))
        self.assertTrue(issubclass(WorkerDiedError, errors.WorkerDied))

    def test_only_the_culprit_fails(self):
        with ClusterExecutor(2) as executor:
            futures = [executor.submit(abs, -number) for number in range(10)]
            culprit = executor.submit(die)
            futures += [executor.submit(abs, -number) for number in range(10, 20)]
            self.assertEqual(list(range(20)), [future.result(SECONDS) for future in futures])
            error = culprit.exception(SECONDS)
            self.assertIsInstance(error, WorkerDiedError)
            self.assertIn("SIGKILL", str(error))
            self.assertEqual(3, len(error.nodes))
            self.assertEqual(1, executor.submit(abs, 1).result(SECONDS))
            once = executor.options(attempts_max=1).submit(die).exception(SECONDS)
            self.assertEqual(1, len(once.nodes))

    def test_a_killed_worker_process_costs_nothing_but_time(self):
        with ClusterExecutor(2) as executor, support.directory() as folder:
            gate = os.path.join(folder, "gate")
            futures = [executor.submit(touch_and_wait, os.path.join(folder, str(number)), gate) for number in range(2)]
            support.wait_until(lambda: len(os.listdir(folder)) == 2, what="both running")
            support.wait_until(lambda: support.read(os.path.join(folder, "0")), what="its process id")
            os.kill(int(support.read(os.path.join(folder, "0"))), signal.SIGKILL)
            support.write(gate)
            self.assertEqual([os.path.join(folder, name) for name in "01"], [each.result(SECONDS) for each in futures])

    def test_an_initializer_runs_once_per_worker_process(self):
        # [InitializerMixin]
        with ClusterExecutor(2, initializer=initialize, initargs=("ready",)) as executor:
            futures = [executor.submit(status) for _ in range(20)]
            self.assertEqual([["ready"]] * 20, [future.result(SECONDS) for future in futures])
            self.assertEqual([["ready"]] * 3, list(executor.map(lambda_free_status, range(3))))

    def test_a_failing_initializer(self):
        # [FailingInitializerMixin]
        with ClusterExecutor(2, initializer=fail_to_initialize, initargs=("no license",)) as executor:
            futures = [executor.submit(status) for _ in range(3)]
            for future in futures:
                error = future.exception(SECONDS)
                self.assertIsInstance(error, BrokenExecutor)
                self.assertIn("fail_to_initialize", str(error))
                self.assertIn("ValueError: no license", str(error))
            for call in (lambda: executor.submit(status), lambda: executor.map(abs, [1])):
                with self.assertRaises(BrokenExecutor) as caught:
                    call()
                self.assertIn("no license", str(caught.exception))
        with ClusterExecutor(1, initializer=leave, initargs=(SystemExit,)) as executor:
            self.assertRaises(BrokenExecutor, list, executor.map(abs, [1]))
            self.assertRaises(BrokenExecutor, executor.submit, abs, 1)

    @unittest.skipUnless(hasattr(os, "fork"), "this system has no fork")
    def test_after_a_fork(self):
        code = """
import os
from minimalcluster import ClusterExecutor
ex = ClusterExecutor(1)
assert ex.submit(abs, -1).result() == 1
pid = os.fork()
if pid == 0:
    for call in (lambda: ex.submit(abs, 1), lambda: ex.map(abs, [1])):
        try:
            call()
        except RuntimeError as error:
            print("refused:", error, flush=True)
    ex.shutdown()
    os._exit(0)
os.waitpid(pid, 0)
print("and here", ex.submit(abs, -2).result())
ex.shutdown()
"""
        with support.Process(code, variables={"PYTHONWARNINGS": "ignore"}) as process:
            self.assertEqual(0, process.wait(), process.output())
            lines = process.output().splitlines()
            self.assertEqual(3, len(lines), lines)
            self.assertIn("fork", lines[0])
            self.assertEqual("and here 2", lines[2])


def lambda_free_status(_):
    return status()


@faces
class Workers(unittest.TestCase):
    def test_max_tasks_per_child(self):
        # [test_max_tasks_per_child]
        with ClusterExecutor(1, max_tasks_per_child=3) as executor:
            pids = [executor.submit(os.getpid).result(SECONDS) for _ in range(9)]
            self.assertEqual([pids[0]] * 3 + [pids[3]] * 3 + [pids[6]] * 3, pids)
            self.assertEqual(3, len(set(pids)))
            self.assertEqual(list(range(10)), list(executor.map(abs, range(10), chunksize=1)))

    def test_max_tasks_per_child_at_once(self):
        # [test_max_tasks_early_shutdown]
        executor = ClusterExecutor(2, max_tasks_per_child=1)
        futures = [executor.submit(os.getpid) for _ in range(6)]
        executor.shutdown()
        self.assertEqual(6, len({future.result(0) for future in futures}))

    def test_leaving_runs_exit_handlers(self):
        with support.directory() as folder:
            with ClusterExecutor(1, max_tasks_per_child=1) as executor:
                executor.submit(at_exit_touch, os.path.join(folder, "left")).result(SECONDS)
                support.wait_until(lambda: os.path.exists(os.path.join(folder, "left")), what="the exit handler's file")


def at_exit_touch(path):
    import atexit

    atexit.register(touch, path)


@faces
class Shutdown(unittest.TestCase):
    def test_submit_afterwards(self):
        # [test_run_after_shutdown]
        executor = ClusterExecutor(1)
        executor.shutdown()
        for call in (lambda: executor.submit(pow, 2, 5), lambda: executor.map(abs, [1])):
            with self.assertRaises(RuntimeError) as caught:
                call()
            self.assertEqual("cannot schedule new futures after shutdown", str(caught.exception))

    def test_it_finishes_what_waits_and_its_workers_leave(self):
        # [test_hang_issue12364, test_context_manager_shutdown]
        before = support.descendants()
        with ClusterExecutor(2) as executor:
            futures = [executor.submit(time.sleep, 0.01) for _ in range(50)]
            results = executor.map(abs, range(-5, 5))
        self.assertTrue(all(future.done() for future in futures))
        self.assertEqual([5, 4, 3, 2, 1, 0, 1, 2, 3, 4], list(results))
        self.assertEqual(before, support.descendants())

    def test_cancel_futures(self):
        # [test_cancel_futures]
        executor = ClusterExecutor(2)
        futures = [executor.submit(time.sleep, 0.1) for _ in range(50)]
        executor.shutdown(cancel_futures=True)
        cancelled = [future for future in futures if future.cancelled()]
        self.assertGreater(len(cancelled), 40)
        others = [future for future in futures if not future.cancelled()]
        self.assertGreater(len(others), 0)
        for future in others:
            self.assertTrue(future.done())
            self.assertIsNone(future.exception())
        self.assertEqual(set(futures), concurrent.futures.wait(futures, 0).done)

    def test_cancel_futures_of_a_map(self):
        executor = ClusterExecutor(1)
        results = executor.map(time.sleep, [0.1] * 50)
        self.assertIsNone(next(results))
        executor.shutdown(cancel_futures=True)
        with self.assertRaises(CancelledError):
            while True:
                next(results)

    def test_a_later_call_still_cancels(self):
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            executor = ClusterExecutor(1)
            running = executor.submit(touch_and_wait, gate + "1", gate)
            support.wait_until(lambda: os.listdir(folder), what="its start")
            waiting = [executor.submit(abs, number) for number in range(20)]
            executor.shutdown(wait=False)
            self.assertFalse(any(future.cancelled() for future in waiting))
            executor.shutdown(wait=False, cancel_futures=True)
            self.assertTrue(all(future.cancelled() for future in waiting[1:]))
            support.write(gate)
            executor.shutdown()
            executor.shutdown()
            self.assertEqual(gate + "1", running.result(0))

    def test_a_call_that_was_cancelled_a_moment_before(self):
        # [test_hang_gh94440]
        executor = ClusterExecutor(1)
        executor.submit(int).result(SECONDS)
        executor.submit(int).cancel()
        support.Background(executor.shutdown).result()

    def test_without_waiting(self):
        # [test_shutdown_no_wait]
        before = support.descendants()
        executor = ClusterExecutor(2)
        results = executor.map(abs, range(-5, 5))
        future = executor.submit(mul, 3, 4)
        executor.shutdown(wait=False)
        self.assertEqual([5, 4, 3, 2, 1, 0, 1, 2, 3, 4], list(results))
        self.assertEqual(12, future.result(SECONDS))
        support.wait_until(lambda: support.descendants() == before, what="the workers' end")

    def test_from_a_callback(self):
        executor = ClusterExecutor(1)
        called = threading.Event()

        def end(_):
            executor.shutdown(wait=True)
            called.set()

        executor.submit(abs, 1).add_done_callback(end)
        self.assertTrue(called.wait(SECONDS))
        self.assertRaises(RuntimeError, executor.submit, abs, 1)
        support.Background(executor.shutdown).result()

    def test_input_that_is_still_to_be_read(self):
        executor = ClusterExecutor(1)
        listed = executor.map(abs, list(range(20)), buffersize=2)
        endless = executor.map(abs, itertools.count(), buffersize=2)
        self.assertEqual([0, 1], [next(endless), next(endless)])
        executor.shutdown()
        self.assertEqual(list(range(20)), list(listed))
        with self.assertRaises(RuntimeError) as caught:
            list(endless)
        self.assertIn("cannot schedule new futures", str(caught.exception))

    def test_a_dropped_executor_finishes_and_is_gone(self):
        # [test_del_shutdown]
        before = support.descendants()
        executor = ClusterExecutor(2)
        results = executor.map(abs, range(-5, 5))
        future = executor.submit(pid_after, 0.2)
        reference = weakref.ref(executor)
        del executor
        gc.collect()
        self.assertIsNone(reference())
        self.assertEqual([5, 4, 3, 2, 1, 0, 1, 2, 3, 4], list(results))
        self.assertIsInstance(future.result(SECONDS), int)
        support.wait_until(lambda: support.descendants() == before, what="the workers' end")

    def test_a_view_keeps_its_executor(self):
        view = ClusterExecutor(1).options(retries=1)
        gc.collect()
        self.assertEqual(1, view.submit(abs, -1).result(SECONDS))
        view.shutdown()

    def test_its_threads_end(self):
        before = set(threading.enumerate())
        with ClusterExecutor(1) as executor:
            executor.submit(abs, 1).result(SECONDS)
            list(executor.map(abs, [1]))
        support.wait_until(lambda: set(threading.enumerate()) <= before, what="the end of its threads")


#: Scripts that end in some way; each prints what a later check wants, and their children's fate is looked at.
_SLOW = """
import os, sys, time
from minimalcluster import ClusterExecutor
from tests.test_executor import touch, pid_after
ex = ClusterExecutor(2)
print("worker", ex.submit(os.getpid).result(), flush=True)
"""


@faces
class Exit(unittest.TestCase):
    """[test_interpreter_shutdown and its like] Each in a process of its own."""

    def run_it(self, code, exit_code=0):
        with support.Process(_SLOW + code) as process:
            process.wait_for_output("worker")
            workers = support.descendants(process.pid)
            self.assertEqual(exit_code, process.wait(), process.output())
            support.wait_for_death(workers)
            return [line for line in process.output().splitlines() if not line.startswith("worker")]

    def test_queued_work_is_finished(self):
        code = "for number in range(6): ex.submit(print, 'apple', number)\n"
        for end in ("", "ex.shutdown(wait=False)\n", "del ex\n", "print('last', flush=True); sys.exit()\n"):
            lines = [line for line in self.run_it(code + end) if line != "last"]
            self.assertEqual(["apple %d" % number for number in range(6)], sorted(lines), end)

    def test_a_map_nobody_iterated_is_finished(self):
        code = "results = ex.map(print, range(6))\nex.map(print, (n for n in 'ab'))\n"
        self.assertEqual(list("012345ab"), sorted(self.run_it(code)))

    def test_an_error_at_the_end(self):
        lines = self.run_it("ex.submit(print, 'apple')\nraise ValueError('of the program')\n", 1)
        self.assertIn("apple", lines)
        self.assertIn("ValueError: of the program", lines)

    def test_a_half_read_endless_map(self):
        self.assertEqual(["0"], self.run_it("import itertools\nr = ex.map(str, itertools.count())\nprint(next(r))\n"))

    def test_cancelled_without_waiting(self):
        # [test_cancel_futures_wait_false]
        lines = self.run_it("for n in range(100): ex.submit(pid_after, 0.1)\nex.shutdown(wait=False, cancel_futures=True)\n")
        self.assertEqual([], lines)

    def test_submit_while_the_interpreter_ends(self):
        # [test_submit_after_interpreter_shutdown] On 3.6 to 3.8 exit handlers run in one order for all:
        # one that was registered before ours runs after it.
        code = """
import atexit
@atexit.register
def run_last():
    try:
        ex.submit(id, None)
    except RuntimeError as error:
        print(error, flush=True)
from minimalcluster import ClusterExecutor
ex = ClusterExecutor(1)
print(ex.submit(abs, -42).result(), flush=True)
"""
        with support.Process(code) as process:
            self.assertEqual(0, process.wait())
            self.assertEqual(["42", "cannot schedule new futures after shutdown"], process.output().splitlines())

    def test_killed(self):
        with support.Process(_SLOW + "for n in range(9): ex.submit(time.sleep, 600)\ntime.sleep(600)\n") as process:
            process.wait_for_output("worker")
            workers = support.descendants(process.pid)
            self.assertEqual(2, len(workers))
            process.kill()
            support.wait_for_death(workers)


_MAIN = """
import sys
from minimalcluster import ClusterExecutor

class Point:
    def __init__(self, x):
        self.x = x
    def __eq__(self, other):
        return type(self) is type(other) and self.x == other.x

class Oops(Exception):
    pass

def shift(point, by=1):
    return Point(point.x + by)

def oops(x):
    raise Oops(x)

READY = []
def ready(what):
    READY.append(what)

def state():
    return READY

def check(ex):
    assert ex.submit(shift, Point(1), by=2).result() == Point(3)
    assert list(ex.map(shift, [Point(1), Point(2)])) == [Point(2), Point(3)]
    assert list(ex.map(str.upper, ["a"])) == ["A"]
    assert [type(p) for p in ex.map(vars, [Point(1)])] == [dict]
    try:
        ex.submit(oops, 5).result()
    except Oops as error:
        assert error.args == (5,), error
    assert ex.submit(state).result() in ([], ["steady"]), ex.submit(state).result()
%(lambdas)s

if %(guard)s:
    assert ("cloudpickle" in sys.modules or True)
    with ClusterExecutor(1) as ex:
        check(ex)
    with ClusterExecutor(1, initializer=ready, initargs=("steady",)) as ex:
        check(ex)
    print("all well")
"""

_WITH_LAMBDAS = """
    k = 10
    assert ex.submit(lambda x: x + k, 1).result() == 11
    assert list(ex.map(lambda x: x + k, range(3))) == [10, 11, 12]
    def local(point):
        return Point(point.x * k)
    assert ex.submit(local, Point(2)).result() == Point(20)
    assert ex.submit(lambda: (lambda x: x * 2)).result()(4) == 8
"""

_WITHOUT_LAMBDAS = """
    for call in (lambda: ex.submit(lambda x: x, 1).result(), lambda: next(ex.map(lambda x: x, [1]))):
        try:
            call()
        except Exception as error:
            assert "cloudpickle" in str(error), error
        else:
            raise AssertionError("a lambda travelled")
"""

#: In front of a script: as if cloudpickle were not installed, in it and in its worker processes.
_NO_CLOUDPICKLE = """
import sys
sys.modules["cloudpickle"] = None
"""


def _has_cloudpickle():
    try:
        import cloudpickle  # noqa: F401
    except ImportError:
        return False
    return True


@faces
class Main(unittest.TestCase):
    """Functions and classes of the script itself."""

    def run_script(self, text):
        with support.directory() as folder:
            with support.Process(file=support.write(os.path.join(folder, "script.py"), text)) as process:
                process.wait()
                return process.output()

    def test_without_cloudpickle_the_script_travels(self):
        text = _NO_CLOUDPICKLE + _MAIN % {"lambdas": _WITHOUT_LAMBDAS, "guard": "__name__ == '__main__'"}
        self.assertEqual("all well\n", self.run_script(text))

    def test_without_cloudpickle_and_guard_it_is_refused(self):
        text = _NO_CLOUDPICKLE + _MAIN % {"lambdas": _WITHOUT_LAMBDAS, "guard": "True"}
        output = self.run_script(text)
        self.assertIn("if __name__ == '__main__'", output)
        self.assertNotIn("all well", output)

    def test_without_cloudpickle_and_script(self):
        code = _NO_CLOUDPICKLE + "from minimalcluster import ClusterExecutor\ndef f(x): return x\n" + (
            "with ClusterExecutor(1) as ex:\n"
            "    for call in (ex.submit(f, 1).result, ex.map(f, [1]).__next__):\n"
            "        try: call()\n"
            "        except Exception as error: print(error)\n"
        )
        with support.Process(code) as process:
            self.assertEqual(0, process.wait(), process.output())
            lines = process.output().splitlines()
            self.assertEqual(2, len(lines), lines)
            for line in lines:
                self.assertIn("pip install cloudpickle", line)

    @unittest.skipUnless(PYTHON_3 and _has_cloudpickle(), "cloudpickle is not installed here")
    def test_with_cloudpickle_by_value(self):
        # Neither a guard nor a file is needed.
        text = _MAIN % {"lambdas": _WITH_LAMBDAS, "guard": "True"}
        self.assertEqual("all well\n", self.run_script(text))
        with support.Process(text) as process:
            process.wait()
            self.assertEqual("all well\n", process.output())

    def test_an_executor_inside_of_a_task(self):
        with ClusterExecutor(1) as executor:
            self.assertEqual([1, 2], executor.submit(nested, [-1, -2]).result(SECONDS))


def nested(numbers):
    with ClusterExecutor(1) as executor:
        return list(executor.map(abs, numbers))


#: 2.7 cannot parse it.
_COROUTINES = """
async def run_all(ex):
    assert await ex.run(mul, 6, y=7) == 42
    assert await asyncio.gather(*[ex.run(abs, -n) for n in range(10)]) == list(range(10))
    try:
        await ex.run(fail, ValueError("from afar"))
    except ValueError as error:
        assert isinstance(error.__cause__, RemoteTraceback)
    else:
        raise AssertionError("no error")
    assert await asyncio.wrap_future(ex.submit(abs, -3)) == 3
    loop = asyncio.get_event_loop()
    assert await loop.run_in_executor(ex, mul, 2, 3) == 6

async def map_all(ex):
    got = []
    async for result in ex.amap(str, range(100)):
        got.append(result)
    assert got == [str(n) for n in range(100)]
    import itertools
    got = []
    iterator = ex.amap(mul, itertools.count(), itertools.count(), buffersize=4)
    async for result in iterator:
        got.append(result)
        if len(got) == 5:
            break
    await iterator.aclose()
    assert got == [0, 1, 4, 9, 16]
    try:
        async for result in ex.amap(fail_on, [1, 2], [2, 2]):
            assert result == 1
    except ValueError:
        pass
    else:
        raise AssertionError("no error")

async def cancel(ex, path, gate):
    task = asyncio.ensure_future(ex.run(touch_and_wait, path, gate))
    while not os.path.exists(path):
        await asyncio.sleep(0.01)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    else:
        raise AssertionError("not cancelled")
    # The only worker process is free, though nobody opened the gate.
    assert await ex.run(abs, -1) == 1

async def context():
    async with ClusterExecutor(1) as ex:
        assert await ex.run(abs, -1) == 1
    try:
        await ex.run(abs, 1)
    except RuntimeError:
        return
    raise AssertionError("still open")
"""
if PYTHON_3:
    exec(_COROUTINES)


@faces
class Asyncio(unittest.TestCase):
    def run_it(self, name, *arguments):
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(asyncio.wait_for(globals()[name](*arguments), 2 * SECONDS))
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def test_run(self):
        with ClusterExecutor(2) as executor:
            self.run_it("run_all", executor)

    def test_amap(self):
        with ClusterExecutor(2) as executor:
            self.run_it("map_all", executor)

    def test_cancellation_reaches_the_running_task(self):
        with ClusterExecutor(1) as executor, support.directory() as folder:
            self.run_it("cancel", executor, os.path.join(folder, "path"), os.path.join(folder, "gate"))

    def test_async_with(self):
        self.run_it("context")


if __name__ == "__main__":
    unittest.main()

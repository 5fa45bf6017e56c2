"""Pool beside the documentation of ``multiprocessing.pool`` and CPython's own tests of it (_TestPool).

Where the documentation's sentences are tested (Doc/library/multiprocessing.rst, "Process Pools"):

    processes: None means as many as processors; initializer(*initargs) when
        each worker process starts; maxtasksperchild; context                  Construction, Workers
    "should have its resources managed ... close() or terminate()";
        ResourceWarning                                                        End.test_a_dropped_pool_warns
    apply: blocks; apply_async: callback with one argument when ready,
        error_callback with the exception                                      Apply
    map: one iterable, blocks, chunksize; map_async; starmap: the elements
        are unpacked; starmap_async                                            Map
    imap: lazily, chunksize, next(timeout) raises TimeoutError;
        imap_unordered: order arbitrary (one worker: in order)                 Imap
    close, terminate, join ("One must call close() or terminate() before")     End
    context manager: __enter__ returns the pool, __exit__ calls terminate()    End
    AsyncResult: get(timeout) raises multiprocessing.TimeoutError, re-raises;
        wait; ready; successful raises ValueError if not ready                 Apply
    "callbacks should complete immediately"                                    Apply.test_a_callback_that_raises
    "the methods of a pool should only ever be used by the process which
        created it"                                                            End.test_after_a_fork, test_not_picklable

Not applicable, and why:

    ThreadPool                                        threads are no matter of ours
    context= chooses the start method                 worker processes are fresh interpreters; it is accepted and ignored
    "terminate() will be called when garbage
        collected"                                    on purpose not: what was submitted is finished, as for the executor
    a call whose process is killed never returns      on purpose not: it is run again, and at last answered (Workers)
    the initializer runs when a process starts        here before a process's first call: without calls nobody can tell
"""
from __future__ import absolute_import, division, print_function

import gc
import itertools
import multiprocessing
import multiprocessing.pool
import os
import pickle
import sys
import threading
import time
import unittest
import warnings

from tests import support
from tests.wire.independent_client import Client
from tests.sent import (
    CannotLoad, CannotPickle, Journaled, PYTHON_3, SECONDS, Two, capture, die, die_at, fail, fail_to_initialize, faces,
    initialize, instance_of, interrupting, length, mul, note_and_return, noted_and_fails_once, pid_of, status, touch_and_wait, touch,
)  # fmt: skip

if PYTHON_3:
    import queue
    from multiprocessing.pool import MaybeEncodingError

    from minimalcluster import Interrupted, MasterNode, Pool, RemoteTraceback, TaskError
    from minimalcluster.faces import inputs
    from minimalcluster.faces.executor import BrokenExecutor, CallTimeoutError, DeadlineExceededError, WorkerDiedError
    from minimalcluster.faces.maps import MapJob
    from minimalcluster.faces.pool import AsyncResult, IMapIterator, _collected


def square(x, wait=0.0):
    time.sleep(wait)
    return x * x


def who(seconds):
    time.sleep(seconds)
    this, parent = multiprocessing.current_process(), getattr(multiprocessing, "parent_process", lambda: None)()
    return this.name, this._identity, parent and (parent.name, parent.pid, parent.is_alive())


def touched_and_waited(given):
    return touch_and_wait(*given)


def not_three(x):
    if x == 3:
        raise ValueError("three")
    return x


def status_of(_):
    return status()


def numbers_then_error(count, error=None):
    for number in range(count):
        yield number
    raise error or LookupError("of the input")


class BadList(list):
    """Has a length, and cannot be read."""

    def __iter__(self):
        yield 1
        raise LookupError("of the input")


def living(kind):
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is kind]


class Running(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.pool = Pool(2)

    @classmethod
    def tearDownClass(cls):
        cls.pool.terminate()
        cls.pool.join()
        del cls.pool


@faces
class Construction(unittest.TestCase):
    def test_wrong_arguments(self):
        # [test_pool_maxtasksperchild_invalid]
        for wrong in (0, -1):
            with self.assertRaises(ValueError) as caught:
                Pool(wrong)
            self.assertEqual("Number of processes must be at least 1", str(caught.exception))
        for wrong in (0, -1, 0.5, "12"):
            self.assertRaises(ValueError, Pool, 1, maxtasksperchild=wrong)
        self.assertRaises(TypeError, Pool, 1, initializer=5)
        self.assertRaises(TypeError, Pool, 1, unknown=5)

    def test_positions(self):
        with Pool(1, initialize, ("ready",), 5, multiprocessing.get_context()) as pool:
            self.assertEqual(["ready"], pool.apply(status))
        with Pool(processes=1, initializer=initialize, initargs=["ready"], maxtasksperchild=5, context=None) as pool:
            self.assertEqual(["ready"], pool.apply(status))

    def test_as_many_processes_as_said(self):
        before = support.descendants()
        with Pool(3) as pool:
            pool.apply(abs, (1,))
            support.wait_until(lambda: len(support.descendants() - before) == 3, what="3 worker processes")
        self.assertLessEqual(support.descendants(), before)

    def test_other_nodes_and_masters(self):
        with Pool(0, join=False) as pool:
            result = pool.map_async(square, range(10))
            self.assertFalse(result.ready())
            with support.start_node(pool.address[1], pool.authkey):
                self.assertEqual([x * x for x in range(10)], result.get(SECONDS))
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            with Pool(master=master) as pool:
                self.assertEqual([1, 4], pool.map(square, [1, 2]))
            self.assertEqual(1, len(master.list_workers()))

    def test_encryption_is_as_a_masters(self):
        with Pool(0, join=False, encrypt=True) as pool:
            client = Client(pool.address[1], pool.authkey.encode())
            self.assertTrue(client.tls)
            client.close()
            with support.start_node(pool.address[1], pool.authkey):
                self.assertEqual([1, 4], pool.map(square, [1, 2]))
        self.assertRaises(TypeError, Pool, 1, encrypt="yes")

    def test_on_another_engine(self):
        from concurrent.futures import ProcessPoolExecutor

        from minimalcluster.engines import ExecutorEngine

        with ProcessPoolExecutor(1) as executor:
            with Pool(engine=ExecutorEngine(executor)) as pool:
                self.assertEqual([1, 4, 9], pool.map(square, [1, 2, 3]))
                self.assertEqual(8, pool.apply(pow, (2, 3)))


@faces
class Apply(Running):
    def test_apply(self):
        # [test_apply]
        self.assertEqual(25, self.pool.apply(square, (5,)))
        self.assertEqual(9, self.pool.apply(square, (), {"x": 3}))
        self.assertEqual(((1,), {"self": 2, "func": 3}), self.pool.apply(capture, [1], {"self": 2, "func": 3}))
        self.assertEqual(((), {}), self.pool.apply(capture))
        self.assertEqual(4, self.pool.apply(func=square, args=(2,), kwds={}))

    def test_errors(self):
        with self.assertRaises(Two) as caught:
            self.pool.apply(fail, (Two("x", 1),))
        # [test_traceback]
        self.assertEqual(("x", 1), (caught.exception.a, caught.exception.b))
        self.assertIsInstance(caught.exception.__cause__, RemoteTraceback)
        self.assertIn("raise error", caught.exception.__cause__.tb)
        self.assertRaises(SystemExit, self.pool.apply, sys.exit, (1,))

    def test_async_result(self):
        # [test_async, test_async_timeout]
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            result = self.pool.apply_async(touch_and_wait, (gate + "1", gate))
            self.assertIsInstance(result, AsyncResult)
            self.assertFalse(result.ready())
            self.assertRaises(ValueError, result.successful)
            self.assertIsNone(result.wait(0.01))
            self.assertRaises(multiprocessing.TimeoutError, result.get, timeout=0.01)
            support.write(gate)
            result.wait(SECONDS)
            self.assertTrue(result.ready() and result.successful())
            self.assertEqual([gate + "1"] * 2, [result.get(), result.get(0)])
        failed = self.pool.apply_async(fail, (KeyError("k"),))
        failed.wait()
        self.assertTrue(failed.ready())
        self.assertFalse(failed.successful())
        self.assertRaises(KeyError, failed.get)

    def test_callbacks(self):
        seen = []

        def note(value):
            seen.append((value, threading.current_thread()))

        # The callback has been called when get() returns.
        self.assertEqual(9, self.pool.apply_async(square, (3,), {}, note, note).get(SECONDS))
        self.assertEqual(9, seen[0][0])
        self.assertIsNot(threading.current_thread(), seen[0][1])
        result = self.pool.apply_async(fail, (ValueError("x"),), callback=seen.clear, error_callback=note)
        self.assertRaises(ValueError, result.get, SECONDS)
        self.assertIs(result._value, seen[1][0])
        self.assertEqual(2, len(seen))
        # Also for what could not even be sent.
        result = self.pool.apply_async(length, (CannotPickle(),), error_callback=note)
        self.assertRaises(pickle.PicklingError, result.get, SECONDS)
        self.assertIsInstance(seen[2][0], pickle.PicklingError)
        self.assertIsNot(threading.current_thread(), seen[2][1])

    def test_a_callback_that_raises(self):
        with support.Log() as log:
            result = self.pool.apply_async(square, (3,), callback=lambda value: value.nothing)
            self.assertEqual(9, result.get(SECONDS))
            self.assertTrue(log.having("callback"))
        self.assertEqual(16, self.pool.apply(square, (4,)))

    def test_a_callback_that_submits(self):
        followers, ready = [], threading.Event()

        def follow(value):
            followers.append(self.pool.apply_async(square, (value,)))
            ready.set()

        self.pool.apply_async(square, (2,), callback=follow)
        self.assertTrue(ready.wait(SECONDS))
        self.assertEqual(16, followers[0].get(SECONDS))

    def test_what_cannot_travel(self):
        # [test_unpickleable_result]
        for call in (self.pool.apply, lambda func, args: self.pool.map(func, args)):
            with self.assertRaises(MaybeEncodingError) as caught:
                call(instance_of, (CannotPickle,))
            self.assertIn("made not to be pickled", caught.exception.exc)
            self.assertIn("CannotPickle object", caught.exception.value)
            self.assertIn("Error sending result", str(caught.exception))
        self.assertRaises(pickle.PicklingError, self.pool.apply, length, (CannotPickle(),))
        self.assertRaises(pickle.UnpicklingError, self.pool.apply, length, (CannotLoad(),))
        errors = []
        result = self.pool.apply_async(instance_of, (CannotPickle,), error_callback=errors.append)
        self.assertRaises(MaybeEncodingError, result.get, SECONDS)
        self.assertEqual([result._value], errors)
        self.assertEqual(4, self.pool.apply(square, (2,)))

    def test_keyword_arguments_everywhere(self):
        self.assertEqual([1, 4], self.pool.map(func=square, iterable=[1, 2], chunksize=1))
        self.assertEqual([2], self.pool.starmap(func=mul, iterable=[(1, 2)], chunksize=1))
        self.assertEqual([1], list(self.pool.imap(func=square, iterable=[1], chunksize=1)))
        self.assertEqual([1], list(self.pool.imap_unordered(func=square, iterable=[1], chunksize=1)))
        for method in (self.pool.map_async, self.pool.starmap_async):
            method(func=capture, iterable=[()], chunksize=1, callback=None, error_callback=None).get(timeout=SECONDS)


@faces
class Map(Running):
    def test_map(self):
        # [test_map, test_map_chunksize, test_empty_iterable]
        for options in ((), (1,), (7,), (1000,)):
            self.assertEqual([x * x for x in range(100)], self.pool.map(square, range(100), *options))
            self.assertEqual([x * x for x in range(10)], self.pool.map(square, list(range(10)), *options))
            self.assertEqual([1, 1, 2], self.pool.map(length, ["a", [1], (1, 2)], *options))
        self.assertEqual([0, 1, 4], self.pool.map(square, iter(range(3))))
        self.assertEqual([], self.pool.map(square, []))
        self.assertEqual([], self.pool.map_async(square, [], chunksize=1).get(SECONDS))
        self.assertEqual(list(range(20000)), self.pool.map(abs, range(0, -20000, -1)))
        for wrong in (0, -1):
            self.assertRaises(ValueError, self.pool.map, square, [1], wrong)

    def test_starmap(self):
        # [test_starmap]
        pairs = list(zip(range(10), range(9, -1, -1)))
        self.assertEqual(list(itertools.starmap(mul, pairs)), self.pool.starmap(mul, pairs))
        self.assertEqual(list(itertools.starmap(mul, pairs)), self.pool.starmap(mul, iter(pairs), chunksize=3))
        self.assertEqual(list(itertools.starmap(mul, pairs)), self.pool.starmap_async(mul, pairs).get(SECONDS))
        self.assertEqual([6], self.pool.starmap(mul, [[2, 3]]))
        self.assertRaises(TypeError, self.pool.starmap, mul, [3])

    def test_map_async(self):
        # [test_map_async_callbacks]
        seen = []
        result = self.pool.map_async(square, [1, 2, 3], callback=seen.append, error_callback=seen.append)
        self.assertEqual([1, 4, 9], result.get(SECONDS))
        self.assertTrue(result.successful())
        result = self.pool.map_async(not_three, range(5), callback=seen.append, error_callback=seen.append)
        self.assertRaises(ValueError, result.get, SECONDS)
        self.assertFalse(result.successful())
        self.assertEqual([[1, 4, 9], result._value], seen)
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            result = self.pool.starmap_async(touch_and_wait, [(gate + "1", gate)])
            self.assertFalse(result.ready())
            self.assertRaises(multiprocessing.TimeoutError, result.get, 0.01)
            support.write(gate)
            self.assertEqual([gate + "1"], result.get(SECONDS))

    def test_what_programs_read_of_a_pool(self):
        """As private as multiprocessing's are; see docs/executor.md."""
        self.assertIsInstance(self.pool, multiprocessing.pool.Pool)
        self.assertEqual((2, 2), (self.pool._processes, len(self.pool._pool)))
        self.assertIn(self.pool.apply(pid_of), [each.pid for each in self.pool._pool])
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            result = self.pool.starmap_async(touch_and_wait, [(gate + str(number), gate) for number in range(8)], 1)
            call = self.pool.apply_async(abs, (-1,))
            self.assertEqual(8, result._number_left * result._chunksize)
            self.assertIn(result, self.pool._cache.values())
            self.assertGreater(self.pool._taskqueue.qsize(), 0)
            support.write(gate)
            self.assertEqual(8, len(result.get(SECONDS)))
            self.assertEqual(1, call.get(SECONDS))
        self.assertEqual((True, 1), (call._success, call._value))
        self.assertEqual(0, result._number_left)
        self.assertFalse({result, call} & set(self.pool._cache.values()))
        for each in (result, call):
            self.assertIsInstance(each, multiprocessing.pool.AsyncResult)
        with Pool(1) as pool:
            pool.close()
            pool.join()
            self.assertEqual((1, 1), (pool._processes, len(pool._pool)))

    def test_row_70_many_at_once(self):
        threads = threading.active_count()
        waiting = [self.pool.map_async(abs, [-number, number]) for number in range(300)]
        waiting += [self.pool.options(on_error="return").starmap_async(mul, [(number, 2)]) for number in range(20)]
        waiting += [self.pool.apply_async(abs, (threading.Lock(),)) for _ in range(20)]
        self.assertLess(threading.active_count(), threads + 10)
        self.assertEqual([[number, number] for number in range(300)], [each.get(SECONDS) for each in waiting[:300]])
        self.assertEqual([[2 * number] for number in range(20)], [each.get(SECONDS) for each in waiting[300:320]])
        for each in waiting[320:]:
            self.assertRaises(TypeError, each.get, SECONDS)

    def test_nothing_is_kept_of_what_is_done(self):
        for given in (
            lambda: self.pool.map_async(square, range(5), callback=length).get(SECONDS),
            lambda: self.pool.options(deadline=3600).map_async(square, range(5)).get(SECONDS),
            lambda: self.pool.map_async(not_three, range(5)).wait(SECONDS),
            lambda: self.pool.map_async(square, [threading.Lock()]).wait(SECONDS),
            lambda: self.pool.map_async(square, range(5)),
            lambda: self.assertRaises(LookupError, list, self.pool.imap(square, numbers_then_error(3))),
            lambda: self.assertRaises(TypeError, self.pool.map, threading.Lock().acquire, [1]),
            lambda: list(self.pool.imap(square, range(5))),
            lambda: next(self.pool.imap(square, itertools.count())),
        ):
            given()
            support.wait_until(lambda: not living(MapJob), what="its end")

    def test_an_error_after_all_is_done(self):
        with support.directory() as folder:
            calls = [(os.path.join(folder, str(number)), folder) for number in range(4)]
            calls[1] += ("one argument too many",)
            self.assertRaises(TypeError, self.pool.starmap, touch_and_wait, calls, 1)
            self.assertEqual(["0", "2", "3"], sorted(os.listdir(folder)))

    def test_errors_of_the_input(self):
        # [test_map_handle_iterable_exception]
        error = LookupError("this very one")
        for method in (self.pool.map, self.pool.starmap, self.pool.map_async, self.pool.starmap_async):
            with self.assertRaises(LookupError) as caught:
                method(square, numbers_then_error(3, error))
            self.assertIs(error, caught.exception)
        self.assertRaises(LookupError, self.pool.map, square, BadList([1, 2]))
        self.assertRaises(LookupError, self.pool.map_async(square, BadList([1, 2])).get, SECONDS)
        self.assertRaises(TypeError, self.pool.map, square, 5)

    def test_an_unpicklable_argument(self):
        # [test_map_unpicklable]
        self.assertRaises(pickle.PicklingError, self.pool.map, length, [[1], CannotPickle(), [2]])
        self.assertRaises(pickle.PicklingError, self.pool.map, CannotPickle().__reduce__, [1])
        self.assertEqual([1], self.pool.map(length, [[1]]))

    def test_from_many_threads(self):
        threads = [support.Background(self.pool.map, square, range(base, base + 50)) for base in range(6)]
        for base, thread in enumerate(threads):
            self.assertEqual([x * x for x in range(base, base + 50)], thread.result())


@faces
class Imap(Running):
    def test_imap(self):
        # [test_imap]
        for chunksize in (1, 7, 1000):
            results = self.pool.imap(square, list(range(100)), chunksize)
            self.assertIs(results, iter(results))
            self.assertEqual([x * x for x in range(100)], list(results))
            self.assertRaises(StopIteration, next, results)
            self.assertRaises(StopIteration, results.next)
            self.assertEqual({x * x for x in range(100)}, set(self.pool.imap_unordered(square, range(100), chunksize)))
        self.assertIsInstance(self.pool.imap(abs, [1]), IMapIterator)
        self.assertEqual([], list(self.pool.imap(square, [])))
        for method in (self.pool.imap, self.pool.imap_unordered):
            for wrong in (0, -1):
                self.assertRaises(ValueError, method, square, [1], wrong)

    def test_next_with_timeout(self):
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            for method in (self.pool.imap, self.pool.imap_unordered):
                results = method(touch_or_wait, [(gate + "1", gate)])
                self.assertRaises(multiprocessing.TimeoutError, results.next, 0.05)
                self.assertRaises(multiprocessing.TimeoutError, results.next, timeout=0)
                support.write(gate)
                self.assertEqual(gate + "1", results.next(timeout=SECONDS))
                self.assertRaises(StopIteration, results.next, SECONDS)
                os.remove(gate)

    def test_what_programs_read_of_it(self):
        """As private as multiprocessing's are."""
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            results = self.pool.imap(touched_and_waited, [(gate + "1", folder), (gate + "2", gate)])
            support.wait_until(lambda: results._index == 1)
            self.assertEqual(2, results._length)
            support.write(gate)
            self.assertEqual([gate + "1", gate + "2"], list(results))
        self.assertIsInstance(results, multiprocessing.pool.IMapIterator)

    def test_row_69_the_input_is_read_in_a_thread_of_its_own(self):
        """[multiprocessing's task handler]"""
        for method in (self.pool.imap, self.pool.imap_unordered):
            to_visit, seen = queue.Queue(), []
            to_visit.put(1)
            for page in method(abs, iter(to_visit.get, None)):
                seen.append(page)
                to_visit.put(page + 1 if page < 5 else None)
            self.assertEqual([1, 2, 3, 4, 5], seen)
            # The first is asked for after its result is there; the second comes only then.
            arrived = threading.Event()
            results = method(abs, (number for number in (1, 2) if number == 1 or arrived.wait(60)))
            self.assertEqual(1, results.next(SECONDS))
            self.assertRaises(multiprocessing.TimeoutError, results.next, timeout=0.05)
            arrived.set()
            self.assertEqual([2], list(results))
        support.wait_until(lambda: "minimalcluster-input" not in [each.name for each in threading.enumerate()])

    def test_row_69_an_item_is_taken_as_it_was_when_it_was_given(self):
        def records():
            record = {}
            for number in range(300):
                record["n"] = number
                yield record

        for chunksize in (1, 7):
            found = list(self.pool.imap(dict, records(), chunksize))
            self.assertEqual([{"n": number} for number in range(300)], found)

    def test_an_input_that_cannot_be_iterated(self):
        # As there, the first result tells.
        self.assertRaises(TypeError, next, self.pool.imap(abs, 5))

    def test_inputs_of_inputs(self):
        squares = self.pool.imap(square, (number for number in range(500)))
        self.assertEqual([x ** 4 for x in range(500)], list(self.pool.imap(square, (each for each in squares))))

    def test_dropped_unread_it_is_worked_on(self):
        with support.directory() as folder, support.patched(inputs, "WINDOW_ITEMS", 3):
            self.pool.imap(touch, (os.path.join(folder, str(number)) for number in range(20)))
            gc.collect()
            support.wait_until(lambda: len(os.listdir(folder)) == 20, what="all tasks' files")

    def test_an_input_that_never_comes_holds_up_no_end(self):
        arrived = threading.Event()
        self.addCleanup(arrived.set)
        with Pool(1) as pool:
            results = pool.imap(abs, iter(arrived.wait, True))
            self.assertEqual(4, pool.apply(abs, (-4,)))
        self.assertRaises(BrokenExecutor, results.next, SECONDS)  # not the end of the results

    def test_a_stop_iteration_of_a_task_does_not_end_it(self):
        for results in (self.pool.imap(fail, [StopIteration()]), self.pool.imap_unordered(fail, [StopIteration()])):
            self.assertRaises(RuntimeError, next, results)

    def test_a_timeout_error_of_a_task_or_of_the_input_is_its_own(self):
        def items():
            yield TimeoutError("a task's")
            raise TimeoutError("the input's")

        for results in (self.pool.imap(fail, items()), self.pool.options(on_error="return").imap(fail, items())):
            for text in ("a task's", "the input's"):
                try:
                    found = results.next(timeout=SECONDS)
                except TimeoutError as error:
                    found = error
                self.assertEqual((TimeoutError, text), (type(found), str(found)))
            self.assertRaises(StopIteration, results.next, SECONDS)

    def test_an_error_leaves_later_items_readable(self):
        # [test_imap_handle_iterable_exception]
        for chunksize in (1, 4):
            results = self.pool.imap(not_three, range(6), chunksize)
            self.assertEqual([0, 1, 2], [next(results) for _ in range(3)])
            self.assertRaises(ValueError, next, results)
            self.assertEqual([4, 5], list(results))
        results, got, errors = self.pool.imap_unordered(not_three, range(6)), set(), 0
        for _ in range(6):
            try:
                got.add(next(results))
            except ValueError:
                errors += 1
        self.assertEqual(({0, 1, 2, 4, 5}, 1), (got, errors))
        self.assertRaises(StopIteration, next, results)

    def test_what_cannot_travel_leaves_later_items_readable(self):
        results = self.pool.imap(length, [[1], CannotPickle(), [1, 2], CannotLoad(), [1, 2, 3]])
        self.assertEqual(1, next(results))
        self.assertRaises(pickle.PicklingError, next, results)
        self.assertEqual(2, next(results))
        self.assertRaises(pickle.UnpicklingError, next, results)
        self.assertEqual([3], list(results))

    def test_errors_of_the_input_at_their_place(self):
        for count in (0, 5):
            error = LookupError("this very one")
            results = self.pool.imap(square, numbers_then_error(count, error))
            self.assertEqual([x * x for x in range(count)], [next(results) for _ in range(count)])
            with self.assertRaises(LookupError) as caught:
                next(results)
            self.assertIs(error, caught.exception)
            self.assertRaises(StopIteration, next, results)
            self.assertRaises(LookupError, list, self.pool.imap_unordered(square, numbers_then_error(count)))

    def test_endless_input(self):
        results = self.pool.imap(square, itertools.count())
        self.assertEqual([0, 1, 4], [next(results) for _ in range(3)])
        results = self.pool.imap_unordered(square, itertools.count())
        self.assertEqual(3, len({next(results) for _ in range(3)}))
        self.assertEqual([4], self.pool.map(square, [2]))

    def test_from_several_threads(self):
        results = self.pool.imap(abs, range(2000))
        threads = [support.Background(list, results) for _ in range(4)]
        self.assertEqual(list(range(2000)), sorted(itertools.chain(*[thread.result() for thread in threads])))


def touch_or_wait(call):
    return touch_and_wait(*call)


@faces
class Options(Running):
    """options(): the master's words for terms, on a pool."""

    def test_maps(self):
        for pool, starmap in ((self.pool.options(on_error="return"), False), (self.pool.options(on_error="return"), True)):
            given = [(x,) for x in range(5)] if starmap else range(5)
            run, run_async = (pool.starmap, pool.starmap_async) if starmap else (pool.map, pool.map_async)
            for found in (run(not_three, given), run_async(not_three, given).get(SECONDS)):
                self.assertEqual(([0, 1, 2, 4], ValueError), (found[:3] + found[4:], type(found[3])))
        for on_error in ("finish", "stop"):
            with self.assertRaises(TaskError) as caught:
                self.pool.options(on_error=on_error).map(not_three, range(5), 1)
            self.assertEqual(([3], 3), (list(caught.exception.errors), caught.exception.argument))
            results = dict(caught.exception.results)
            if on_error == "stop":  # those that were not begun have no outcome
                results = {x: results.get(x, x) for x in set(results) | {0, 1, 2, 4}}
            self.assertEqual({0: 0, 1: 1, 2: 2, 4: 4}, results)
        self.assertRaises(ValueError, self.pool.map, not_three, range(5))

    def test_imap(self):
        found = list(self.pool.options(on_error="return").imap(not_three, range(5)))
        self.assertEqual(([0, 1, 2, 4], ValueError), (found[:3] + found[4:], type(found[3])))
        results = self.pool.options(on_error="finish").imap_unordered(not_three, iter(range(5)))
        self.assertEqual({0, 1, 2, 4}, {results.next(SECONDS) for _ in range(4)})
        with self.assertRaises(TaskError) as caught:
            next(results)
        self.assertEqual([3], list(caught.exception.errors))

    def test_limits(self):
        with support.directory() as folder:
            names = [os.path.join(folder, name) for name in ("started", "gate")]
            brief = self.pool.options(timeout=0.2, retries=0)
            self.assertRaises(CallTimeoutError, brief.apply, touch_and_wait, names)
            self.assertRaises(CallTimeoutError, brief.starmap, touch_and_wait, [names])
            brief = self.pool.options(deadline=0.3)
            for call in (lambda: brief.apply(touch_and_wait, names), lambda: brief.starmap(touch_and_wait, [names] * 3)):
                self.assertRaises(DeadlineExceededError, call)
            results = brief.imap(length, endless(names))
            with self.assertRaises(DeadlineExceededError):
                while True:
                    self.assertEqual(2, results.next(SECONDS))
            error = self.pool.options(attempts_max=1).apply_async(die_at, ("a", "a"))
            with self.assertRaises(WorkerDiedError) as caught:
                error.get(SECONDS)
            self.assertEqual((1, ("a", "a")), (len(caught.exception.nodes), caught.exception.argument))
            once = os.path.join(folder, "once")
            self.assertEqual("at last", self.pool.options(retries=5).apply(noted_and_fails_once, (once,)))

    def test_what_is_there_is_kept(self):
        """In the errors of a deadline and of Ctrl-C, also what map had taken already."""
        with support.directory() as folder:
            names = [os.path.join(folder, str(number)) for number in range(3)]
            given = list(zip(names, [folder, os.path.join(folder, "gate"), folder]))  # the second waits for ever
            done = {0: names[0], 2: names[2]}
            brief = self.pool.options(deadline=5.0)
            for call in (brief.starmap, lambda *arguments: brief.starmap_async(*arguments).get(SECONDS)):
                with self.assertRaises(DeadlineExceededError) as caught:
                    call(touch_and_wait, given, 1)
                self.assertEqual((done, {}), (caught.exception.results, caught.exception.errors))
            results = self.pool._start(touch_and_wait, given, 1, True)
            support.wait_until(lambda: results.status().done == 2, what="two results")
            with self.assertRaises(Interrupted) as caught:
                with interrupting(results, lambda: results.reader.count):
                    _collected(results)
            self.assertEqual((done, {}), (caught.exception.results, caught.exception.errors))
            for on_error, found in ((None, {2: names[2]}), ("finish", done)):
                iterator = self.pool.options(on_error=on_error).imap(touched_and_waited, given)
                support.wait_until(lambda: iterator.status().done == 2, what="two results")  # noqa: B023
                self.assertEqual(names[0], next(iterator))
                with self.assertRaises(Interrupted) as caught:
                    with interrupting(iterator._results):
                        next(iterator)
                self.assertEqual((found, {}), (caught.exception.results, caught.exception.errors))
                self.assertRaises(StopIteration, next, iterator)
            self.assertEqual(3, self.pool.apply(abs, (-3,)))

    def test_status(self):
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            result = self.pool.starmap_async(touch_and_wait, [(os.path.join(folder, "started"), gate)])
            support.wait_until(lambda: result.status().running == 1, what="its start")
            (job,) = [each for each in self.pool.status().jobs if each.name.startswith("map")]  # beside the calls
            self.assertEqual(("map of touch_and_wait", 1), (job.name, job.running))
            self.assertIn("worker processes: 2", str(self.pool.status()))
            support.write(gate)
            self.assertEqual(1, len(result.get(SECONDS)))
            self.assertEqual((1, "it is over"), (result.status().done, result.status().why))

    def test_they_are_checked(self):
        for wrong in ({"retries": -1}, {"on_error": "raise"}, {"deadline": 0}, {"timeout": "3"}):
            self.assertRaises(ValueError, self.pool.options, **wrong)
        self.assertRaises(TypeError, self.pool.options, unknown=1)

    def test_a_view_lives_and_ends_with_its_pool(self):
        pool = Pool(1)
        view = pool.options(retries=1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pool.options(retries=2)
            gc.collect()
        self.assertNotIn(ResourceWarning, [each.category for each in caught])
        self.assertEqual(9, view.apply(square, (3,)))
        view.close()
        self.assertRaises(ValueError, pool.apply, square, (3,))
        self.assertRaises(ValueError, view.options(retries=1).map, square, [3])
        pool.join()
        self.assertIn("CLOSE", repr(view))


def endless(names):
    while True:
        time.sleep(0.01)
        yield names


@faces
class PoolsJournal(Journaled):
    def test_maps_and_calls(self):
        for new in ([0, 1, 2, 3], []):
            with Pool(2) as pool:
                view = pool.options(journal=self.path)
                given = [(self.ran, value) for value in range(3)]
                self.assertEqual([0, 1, 2], view.starmap(note_and_return, given))
                self.assertEqual([0, 1, 2], view.starmap_async(note_and_return, given).get(SECONDS))
                calls = pool.options(journal=self.path + ".calls")
                called = threading.Event()
                result = calls.apply_async(note_and_return, (self.ran, 3), callback=lambda _: called.set())
                self.assertEqual(3, result.get(SECONDS))
                self.assertTrue(called.is_set())
                self.assertRaisesRegex(ValueError, "journal=", view.imap, square, iter([1]))
            self.assertEqual(new, self.executed())


@faces
class Workers(unittest.TestCase):
    def test_initializer(self):
        # [test_initializer]
        with Pool(2, initialize, ("ready",)) as pool:
            self.assertEqual([["ready"]] * 10, pool.map(status_of, range(10)))
            self.assertEqual(["ready"], pool.apply(status))

    def test_a_failing_initializer_is_told(self):
        with Pool(1, fail_to_initialize, ("no license",)) as pool:
            for _ in range(2):
                with self.assertRaises(BrokenExecutor) as caught:
                    pool.apply(abs, (1,))
                self.assertIn("no license", str(caught.exception))
            self.assertRaises(BrokenExecutor, pool.map, abs, [1])

    def test_maxtasksperchild(self):
        # [_TestPoolWorkerLifetime.test_pool_worker_lifetime]
        with Pool(1, maxtasksperchild=2) as pool:
            pids = [pool.apply(os.getpid) for _ in range(6)]
            self.assertEqual([pids[0]] * 2 + [pids[2]] * 2 + [pids[4]] * 2, pids)
            self.assertEqual(3, len(set(pids)))
            results = [pool.apply_async(pid_of) for _ in range(6)]
            self.assertEqual(3, len({result.get(SECONDS) for result in results}))
            self.assertEqual(3, len(set(pool.map(pid_of, range(6), 1))))
            self.assertEqual(3, len(set(pool.imap(pid_of, range(6)))))
            # A chunk is one task; without a chunksize there are four for each process.
            self.assertEqual(1, len(set(pool.map(pid_of, range(6), 3))))
            self.assertEqual(2, len(set(pool.map(pid_of, range(100)))))

    def test_maxtasksperchild_and_close(self):
        # [test_pool_worker_lifetime_early_close, test_worker_finalization_via_atexit_handler_of_multiprocessing]
        pool = Pool(2, maxtasksperchild=1)
        results = [pool.apply_async(square, (number, 0.01)) for number in range(6)]
        pool.close()
        pool.join()
        self.assertEqual([number * number for number in range(6)], [result.get(0) for result in results])

    def test_a_worker_process_knows_that_it_is_one(self):
        with Pool(2, maxtasksperchild=1) as pool:
            found = pool.map(who, [0.1] * 6, 1)
        self.assertEqual({("ClusterPoolWorker-1", (1,)), ("ClusterPoolWorker-2", (2,))}, {each[:2] for each in found})
        if hasattr(multiprocessing, "parent_process"):
            self.assertEqual({("MainProcess", os.getpid(), True)}, {each[2] for each in found})

    def test_a_killed_workers_call_is_answered(self):
        with Pool(2) as pool:
            self.assertRaises(WorkerDiedError, pool.apply, die)
            results = [pool.apply_async(square, (number,)) for number in range(10)]
            killer = pool.apply_async(die)
            self.assertEqual([number * number for number in range(10)], [result.get(SECONDS) for result in results])
            self.assertRaises(WorkerDiedError, killer.get, SECONDS)
            self.assertRaises(WorkerDiedError, pool.starmap, die, [()])


@faces
class End(unittest.TestCase):
    def test_close_and_join(self):
        before = support.descendants()
        pool = Pool(2)
        self.assertRaises(ValueError, pool.join)
        results = [pool.apply_async(square, (number, 0.01)) for number in range(20)]
        lazily = pool.imap(square, (number for number in range(20)))
        self.assertEqual(0, next(lazily))
        pool.close()
        pool.close()
        for call in (pool.apply, pool.apply_async, pool.map, pool.map_async, pool.imap, pool.imap_unordered, pool.starmap):
            with self.assertRaises(ValueError) as caught:
                call(square, [1])
            self.assertEqual("Pool not running", str(caught.exception))
        with self.assertRaises(ValueError), pool:
            pass
        pool.join()
        pool.join()
        self.assertLessEqual(support.descendants(), before)
        self.assertEqual([number * number for number in range(20)], [result.get(0) for result in results])
        self.assertEqual([number * number for number in range(1, 20)], list(lazily))

    def test_terminate_while_an_endless_input_is_read(self):
        pool = Pool(1)
        pool.imap(abs, itertools.count())
        pool.close()
        support.Background(pool.terminate).result()

    def test_terminate(self):
        # [test_terminate] 10,000 queued tasks of hours are no reason to wait.
        before = support.descendants()
        pool = Pool(2)
        results = [pool.apply_async(time.sleep, (3600,)) for _ in range(10000)]
        mapped = pool.map_async(time.sleep, [3600] * 10000)
        lazily = pool.imap(time.sleep, itertools.repeat(3600))
        self.assertEqual(1, len(support.Background(lambda: [pool.terminate()]).result(15.0)))
        pool.join()
        self.assertLessEqual(support.descendants(), before)
        for result in (results[0], results[-1], mapped):
            self.assertRaises(BrokenExecutor, result.get, SECONDS)
        self.assertRaises(BrokenExecutor, next, lazily)
        self.assertRaises(ValueError, pool.apply, abs, (1,))
        pool.terminate()
        pool.close()

    def test_context_manager(self):
        # [test_context]
        with Pool(2) as pool:
            self.assertIsInstance(pool, Pool)
            result = pool.map_async(square, range(10))
            self.assertEqual([x * x for x in range(10)], result.get(SECONDS))
            pool.apply_async(time.sleep, (3600,))
        self.assertRaises(ValueError, pool.map_async, square, range(10))
        self.assertRaises(ValueError, pool.__enter__)

    def test_a_dropped_pool_warns(self):
        # [test_del_pool]
        before = support.descendants()
        pool = Pool(1)
        result = pool.apply_async(square, (3, 0.1))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del pool
            gc.collect()
        self.assertIn(ResourceWarning, [each.category for each in caught])
        del caught  # it has the pool as its source
        gc.collect()
        self.assertEqual(9, result.get(SECONDS))
        support.wait_until(lambda: support.descendants() <= before, what="the worker's end")

    def test_a_result_outlives_its_pool(self):
        # [test_release_task_refs and its like]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.assertEqual([1, 4], list(Pool(1).imap(square, [1, 2])))
            self.assertEqual([1, 4], Pool(1).map_async(square, [1, 2]).get(SECONDS))

    def test_not_picklable(self):
        pool = Pool(1)
        self.assertRaises(NotImplementedError, pickle.dumps, pool)
        self.assertIn("state=RUN", repr(pool))
        pool.terminate()
        self.assertIn("state=TERMINATE", repr(pool))

    def run_it(self, code):
        with support.Process("import time\nfrom minimalcluster import Pool\n" + code) as process:
            process.wait_for_output("ready")
            workers = support.descendants(process.pid)
            code = process.wait(15.0)
            support.wait_for_death(workers)
            return code, process.output().replace("ready\n", "")

    def test_exit_without_close(self):
        # multiprocessing ends its processes then, whatever they do.
        code = "pool = Pool(2)\nfor n in range(99): pool.apply_async(time.sleep, (3600,))\nprint(pool.apply(str, ('ready',)) if 0 else 'ready', flush=True)\n"
        self.assertEqual((0, ""), self.run_it(code))
        self.assertEqual((0, ""), self.run_it(code + "pool.close()\n"))

    def test_with_statement_in_a_script(self):
        code = "with Pool(2) as pool:\n    print('ready', flush=True)\n    print(sum(pool.map(abs, range(-100, 0))))\n"
        self.assertEqual((0, "5050\n"), self.run_it(code))

    @unittest.skipUnless(hasattr(os, "fork"), "this system has no fork")
    def test_after_a_fork(self):
        code = """
import os
from minimalcluster import Pool
pool = Pool(1)
assert pool.apply(abs, (-1,)) == 1
pid = os.fork()
if pid == 0:
    for call in (lambda: pool.apply(abs, (1,)), lambda: pool.map(abs, [1])):
        try:
            call()
        except RuntimeError as error:
            print("refused:", error, flush=True)
    pool.terminate()
    os._exit(0)
os.waitpid(pid, 0)
print("and here", pool.apply(abs, (-2,)))
pool.terminate()
"""
        with support.Process(code, variables={"PYTHONWARNINGS": "ignore"}) as process:
            self.assertEqual(0, process.wait(), process.output())
            lines = process.output().splitlines()
            self.assertEqual(3, len(lines), lines)
            self.assertIn("fork", lines[0])
            self.assertEqual("and here 2", lines[2])

    @unittest.skipUnless(hasattr(os, "setsid"), "this system has no process groups")
    def test_interrupted_map_leaves_the_pool_usable(self):
        code = """
import sys
from minimalcluster import Pool
from tests.sent import touch_and_wait
pool = Pool(1)
try:
    pool.starmap(touch_and_wait, [(%r, %r)] * 10)
except KeyboardInterrupt as error:
    print(type(error).__name__, error.results, pool.map(abs, [-1, -2]))
pool.terminate()
"""
        with support.directory() as folder:
            running, gate = os.path.join(folder, "running"), os.path.join(folder, "gate")
            with support.Process(code % (running, gate)) as process:
                support.wait_until(lambda: os.path.exists(running), what="the first task's start")
                process.interrupt()
                self.assertEqual(0, process.wait(), process.output())
                self.assertEqual("Interrupted {} [1, 2]\n", process.output())


# -- programs that take a pool --------------------------------------------------------------------


class Sampler(object):
    """As emcee 3 uses a pool: ``pool.map`` if there is one, with a callable object that holds the arguments."""

    def __init__(self, log_probability, args, pool=None):
        self.function = Wrapper(log_probability, args)
        self.pool = pool

    def compute(self, coordinates):
        map_function = self.pool.map if self.pool is not None else map
        return list(map_function(self.function, (coordinates[i] for i in range(len(coordinates)))))


class Wrapper(object):
    def __init__(self, function, args):
        self.function, self.args = function, args

    def __call__(self, x):
        return self.function(x, *self.args)


def log_probability(x, mean, width):
    return -sum((each - mean) ** 2 for each in x) / (2 * width)


def minimize(function, candidates, workers):
    """As scipy.optimize.differential_evolution uses ``workers``: any map-like callable, called again and again."""
    best = None
    for _ in range(3):
        energies = list(workers(function, candidates))
        best = min(zip(energies, candidates))
        candidates = [[(a + b) / 2 for a, b in zip(best[1], each)] for each in candidates]
    return best


def bowl(x):
    return sum(each * each for each in x)


@faces
class Programs(Running):
    def test_emcee(self):
        walkers = [[0.1 * walker, -0.2 * walker, 1.0] for walker in range(32)]
        serial = Sampler(log_probability, [0.5, 2.0]).compute(walkers)
        self.assertEqual(serial, Sampler(log_probability, [0.5, 2.0], self.pool).compute(walkers))

    def test_scipys_workers(self):
        candidates = [[float(i), float(7 - i), float(i * i % 5)] for i in range(16)]
        self.assertEqual(minimize(bowl, candidates, map), minimize(bowl, candidates, self.pool.map))

    def test_scipy_itself(self):
        try:
            from scipy.optimize import differential_evolution
        except ImportError:
            self.skipTest("scipy is not installed here")
        options = {"maxiter": 5, "popsize": 4, "updating": "deferred", "polish": False, "tol": 0}
        outcomes = [
            differential_evolution(bowl, [(-5, 5)] * 2, seed=1, workers=workers, **options)
            for workers in (map, self.pool.map)
        ]
        self.assertEqual(list(outcomes[0].x), list(outcomes[1].x))

    def test_emcee_itself(self):
        try:
            import emcee
            import numpy
        except ImportError:
            self.skipTest("emcee is not installed here")
        start = numpy.random.RandomState(1).rand(8, 2)
        chains = []
        for pool in (None, self.pool):
            sampler = emcee.EnsembleSampler(8, 2, log_probability, args=[0.5, 2.0], pool=pool)
            sampler.random_state = numpy.random.RandomState(2).get_state()
            sampler.run_mcmc(start, 5)
            chains.append(sampler.get_chain().tolist())
        self.assertEqual(chains[0], chains[1])


if __name__ == "__main__":
    unittest.main()

"""A call's future: its life, its callbacks, and what becomes of exceptions."""
from __future__ import absolute_import, division, print_function

import gc
import os
import sys
import threading
import unittest
import weakref

from tests import support
from tests.sent import (
    Empty, PYTHON_3, SECONDS, Running, Two, chained, faces, fail, lambda_free_context, leave, make_unloadable, mul,
    touch, touch_and_wait,
)

if PYTHON_3:
    import concurrent.futures
    from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError
    from concurrent.futures import TimeoutError as FutureTimeoutError

    from minimalcluster import RemoteTraceback, errors
    from minimalcluster.faces.executor import ClusterFuture


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

    def test_cancel_beside_a_result(self):
        """The result takes the place away when cancel() has just looked at it."""
        forgotten = []

        class Stream(object):
            forget = forgotten.append

        class Future(ClusterFuture):
            places = [(Stream, 7)]

            @property
            def place(self):
                return self.places.pop() if self.places else None

        self.assertTrue(Future().cancel())
        self.assertEqual([7], forgotten)

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
        self.assertIn("sent.py", error.__cause__.tb)
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

    def test_one_that_is_false_is_raised_all_the_same(self):
        for face in (lambda error: self.executor.submit(fail, error).result(SECONDS), lambda error: list(self.executor.map(fail, [error]))):
            with self.assertRaises(Empty):
                face(Empty())

    def test_one_that_cannot_be_rebuilt(self):
        error = self.raised(self.executor.submit(make_unloadable), errors.RemoteError)
        self.assertIn("Unloadable: a and b", str(error))
        self.assertEqual("Unloadable", error.type_name)
        self.assertIn("raise Unloadable", error.__cause__.tb)


if __name__ == "__main__":
    unittest.main()

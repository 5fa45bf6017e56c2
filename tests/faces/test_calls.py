"""Submitted calls as a job: deadlines, and what a death names. Their options and pickles: test_core.py."""
from __future__ import absolute_import, division, print_function

import os
import sys
import threading
import unittest

from tests import support
from tests.sent import (
    PYTHON_3, SECONDS, DeadlyToLoad, RaisesHere, Running, Unheard, die, die_at, faces, mul, raise_what_raises_here,
    touch_and_wait,
)

if PYTHON_3:
    from concurrent.futures import TimeoutError as FutureTimeoutError

    from minimalcluster import ClusterExecutor, errors
    from minimalcluster.payload import functions, values
    from minimalcluster.faces.executor import DeadlineExceededError, WorkerDiedError
    from minimalcluster.faces.futures import ClusterFuture


@faces
class Cancelled(unittest.TestCase):
    """Of a cancelled call nothing runs, nothing fails, nothing is tried again; the scheduler need not hear of it."""

    def setUp(self):
        self.alone = ClusterExecutor(0, join=False)
        self.addCleanup(self.end)
        self.futures = [self.alone.options(retries=3).submit(mul, 2, number) for number in range(6)]
        self.job = self.futures[0].place[0]
        self.told = []
        self.job._core.cluster.cancel_task = lambda number, task: self.told.append(task)

    def end(self):
        for future in self.futures:  # some count as handed out, to no node
            future.cancel_running()
        self.alone.shutdown()

    def test_row_82_in_its_place_travels_a_call_of_nothing(self):
        for future in self.futures[::2]:
            self.assertTrue(future.cancel())
        calls = values.decode_arguments(self.job.encode(0, 6), 6)[0]
        self.assertEqual([False, 2, False, 6, False, 10], [functions._call(values.loads(call)) for call in calls])
        self.assertEqual([], self.told)

    def test_row_82_only_what_was_handed_out_is_ended(self):
        self.job.encode(0, 2)
        for future in self.futures[:4]:
            self.assertTrue(future.cancel_running())
        self.assertEqual([0, 1], self.told)

    def test_row_82_a_deadline_that_passes_before_it_is_handed_out_tells_nobody(self):
        late = self.alone.options(deadline=0.1).submit(mul, 2, 3)
        with self.assertRaises(DeadlineExceededError):
            late.result(SECONDS)
        self.assertEqual([], self.told)
        self.assertFalse(functions._call(values.loads(self.job.encode(6, 1)[1])))


@faces
class Deadline(Running):
    def setUp(self):
        self.folder = support.directory_for(self)
        self.started, self.gate = (os.path.join(self.folder, name) for name in ("started", "gate"))

    def test_what_runs_is_ended(self):
        brief = self.executor.options(deadline=0.5)
        future = brief.submit(touch_and_wait, self.started, self.gate)
        error = self.raised(future, DeadlineExceededError)
        self.assertIsInstance(error, FutureTimeoutError)
        self.assertIsInstance(error, errors.DeadlineExceeded)
        self.assertEqual(("the call's deadline has passed", {}, {}), (str(error), error.results, error.errors))
        if os.path.exists(self.started):  # else the machine was too slow to begin with it
            support.wait_until(lambda: not support.alive([int(support.read(self.started))]), what="the call's end")
        self.assertEqual(6, self.executor.submit(mul, 2, 3).result(SECONDS))

    def test_what_no_node_has_yet(self):
        with ClusterExecutor(0, join=False) as alone:
            brief = alone.options(deadline=0.1)
            futures = [brief.submit(mul, 2, number) for number in range(5)]
            for future in futures:
                self.raised(future, DeadlineExceededError)

    def test_shutdown_where_no_node_is(self):
        """It did not return when one call was cancelled and the others had expired."""
        alone = ClusterExecutor(0, join=False)
        future = alone.options(deadline=0.3).submit(mul, 2, 3)
        self.assertTrue(alone.options(deadline=0.3).submit(mul, 2, 4).cancel())
        shut = support.Background(alone.shutdown)
        self.raised(future, DeadlineExceededError)
        shut.result()

    def test_a_callback_that_ends_the_program_does_not_end_the_job(self):
        with support.Log() as log:
            for _ in range(3):
                future = self.executor.submit(mul, 2, 3)
                future.add_done_callback(lambda done: sys.exit(3))
                self.assertEqual(6, future.result(SECONDS))
            self.assertEqual(8, self.executor.submit(mul, 2, 4).result(SECONDS))
            support.wait_until(lambda: log.having("a callback of"))

    def test_in_time_it_changes_nothing_and_each_call_has_its_own(self):
        patient, brief = self.executor.options(deadline=600), self.executor.options(deadline=0.2)
        futures = [patient.submit(mul, 2, number) for number in range(50)]
        late = brief.submit(touch_and_wait, self.started, self.gate)
        later = patient.submit(touch_and_wait, self.started, self.gate)
        self.assertEqual([2 * number for number in range(50)], [future.result(SECONDS) for future in futures])
        self.raised(late, DeadlineExceededError)
        self.assertFalse(later.done())
        support.write(self.gate)
        self.assertEqual(self.started, later.result(SECONDS))

    def test_deadlines_of_calls_that_are_done_are_not_kept(self):
        patient = self.executor.options(deadline=6000)
        first = patient.submit(touch_and_wait, self.started, self.gate)
        for future in [patient.submit(mul, 2, number) for number in range(500)]:
            future.result(SECONDS)
        (job,) = [each for each in self.executor._core.delivering if each._deadlines]
        self.assertEqual(4, patient.submit(mul, 2, 2).result(SECONDS))
        self.assertLess(len(job._deadlines), 200)
        self.assertIn(first.place[1], [index for _, index in job._deadlines])
        support.write(self.gate)
        self.assertEqual(self.started, first.result(SECONDS))

    def test_one_that_was_cancelled_before(self):
        future = self.executor.options(deadline=0.2).submit(touch_and_wait, self.started, self.gate)
        self.assertTrue(future.cancel_running())
        self.raised(self.executor.options(deadline=0.3).submit(touch_and_wait, self.started, self.gate), DeadlineExceededError)
        self.assertTrue(future.cancelled())

    def test_from_many_threads(self):
        def work(seconds):
            brief = self.executor.options(deadline=seconds)
            return [brief.submit(touch_and_wait, self.started, self.gate) for _ in range(20)]

        threads = [support.Background(work, 0.1 + 0.1 * number) for number in range(4)]
        for thread in threads:
            for future in thread.result():
                self.raised(future, DeadlineExceededError)


@faces
class Threads(unittest.TestCase):
    """In which thread a future gets its result: the cluster's runs no code of the user."""

    def setUp(self):
        self.executor = ClusterExecutor(2)
        self.addCleanup(self.executor.shutdown)
        self.threads = []
        real = ClusterFuture.resolve

        def resolve(future, outcome):
            self.threads.append(threading.current_thread().name)
            real(future, outcome)

        ClusterFuture.resolve = resolve
        self.addCleanup(setattr, ClusterFuture, "resolve", real)

    def thread_of(self, function, *arguments):
        return self.threads_of([self.executor.submit(function, *arguments)])[0]

    def threads_of(self, futures):
        del self.threads[:]
        for each in futures:
            each.exception(SECONDS)
        return self.threads

    def test_a_plain_result_in_the_clusters(self):
        for arguments in ((int, 5), (str, 1.5), (bool, "x"), (bytes, b"x")):
            self.assertEqual("minimalcluster-master", self.thread_of(*arguments))

    def test_any_other_in_the_jobs(self):
        for arguments in ((list, "ab"), (str, "x" * 1000), (complex, 1), (int, "no number"), (len, [1])):
            self.assertEqual("minimalcluster-results", self.thread_of(*arguments))

    def test_with_a_callback_in_the_jobs(self):
        with support.directory() as folder:
            gate = os.path.join(folder, "gate")
            future = self.executor.submit(touch_and_wait, os.path.join(folder, "path"), gate)
            seen = []
            future.add_done_callback(lambda done: seen.append((threading.current_thread().name, done.result())))
            support.write(gate)
            self.assertEqual(["minimalcluster-results"], self.threads_of([future]))
            support.wait_until(lambda: seen)
            self.assertEqual([("minimalcluster-results", os.path.join(folder, "path"))], seen)

    @unittest.skipIf(sys.version_info < (3, 8), "a future takes a second result, as the standard library's does")
    def test_one_that_the_program_resolved_itself_ends_nothing(self):
        with support.directory() as folder, support.Log() as log:
            gate = os.path.join(folder, "gate")
            future = self.executor.submit(touch_and_wait, os.path.join(folder, "path"), gate)
            support.wait_until(future.running)
            future.set_result("mine")
            support.write(gate)
            support.wait_until(lambda: log.having("a callback of"))
            self.assertEqual("mine", future.result())
            self.assertEqual(3, self.executor.submit(int, 3).result(SECONDS))


@faces
class Results(Running):
    def test_row_55_whatever_unpickling_a_result_raises_is_that_calls_error(self):
        for kind in (KeyboardInterrupt, SystemExit, GeneratorExit, Unheard, ValueError):
            future = self.executor.submit(RaisesHere, os.getpid(), kind)
            error = self.raised(future, errors.RemoteError)
            self.assertIn(kind.__name__, str(error))
            self.assertEqual(6, self.executor.submit(mul, 2, 3).result(SECONDS))

    def test_an_exception_of_a_task_that_cannot_be_unpickled_here_ends_nothing(self):
        for kind in (KeyboardInterrupt, SystemExit, Unheard):
            future = self.executor.submit(raise_what_raises_here, os.getpid(), kind)
            self.assertIn("RaisesHereError", str(self.raised(future, errors.RemoteError)))
            self.assertEqual(6, self.executor.submit(mul, 2, 3).result(SECONDS))


@faces
class Deaths(Running):
    def test_the_argument_is_named(self):
        once = self.executor.options(attempts_max=1)
        for arguments, keywords, named in (((1,), {}, 1), ((1, 2), {}, (1, 2)), ((), {}, ()), ((1,), {"y": 2}, ((1,), {"y": 2}))):
            error = self.raised(once.submit(die_at_once, *arguments, **keywords), WorkerDiedError)
            self.assertEqual(named, error.argument)
        self.assertEqual(("x", 2), self.raised(once.submit(die_at, "x", "x", 2), WorkerDiedError).argument[1:])
        self.assertEqual((), self.raised(once.submit(die), WorkerDiedError).argument)

    def test_row_56_what_kills_where_it_is_unpickled_is_not_unpickled_here(self):
        """It may end the program; so the argument is what the user passed, not a copy."""
        deadly, folder = DeadlyToLoad(), support.directory_for(self)
        for options in ({"attempts_max": 1}, {"attempts_max": 1, "journal": os.path.join(folder, "journal")}):
            error = self.raised(self.executor.options(**options).submit(mul, deadly, 2), WorkerDiedError)
            self.assertEqual(2, error.argument[1])
            self.assertIs(deadly, error.argument[0])

    def test_row_56_nor_in_a_later_run_with_the_journal(self):
        path = os.path.join(support.directory_for(self), "journal")
        for _ in range(2):
            deadly = DeadlyToLoad()
            with ClusterExecutor(1) as executor:
                once = executor.options(attempts_max=1, journal=path)
                self.assertIs(deadly, self.raised(once.submit(mul, deadly), WorkerDiedError).argument)

    def test_many_end_at_once(self):
        before = threading.active_count()
        once = self.executor.options(attempts_max=1)
        futures = [once.submit(die_at, number % 2, 1) for number in range(10)]
        for number, future in enumerate(futures):
            if number % 2:
                self.assertEqual((1, 1), self.raised(future, WorkerDiedError).argument)
            else:
                self.assertEqual(1, future.result(SECONDS))
        support.wait_until(lambda: threading.active_count() <= before + 1)  # of the job with the new options


def die_at_once(*arguments, **keywords):
    die()


if __name__ == "__main__":
    unittest.main()

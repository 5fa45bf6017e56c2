"""Calls of several jobs begin in the order of their submission, where one worker process runs them."""
from __future__ import absolute_import, division, print_function

import itertools
import os
import unittest

from minimalcluster import errors
from tests import support
from tests.sent import PYTHON_3, touch_and_wait

if PYTHON_3:
    from minimalcluster import ClusterExecutor
    from minimalcluster.faces.order import Order


class Job(object):
    def __init__(self):
        self.released = self.calls = 0

    def release(self, end):
        self.released = end
        self.calls += 1


@unittest.skipUnless(PYTHON_3, "the faces are for Python 3")
class OrderTest(unittest.TestCase):
    def setUp(self):
        self.order, self.jobs = Order(), {"a": Job(), "b": Job()}

    def add(self, name, task):
        run = self.order.add(self.jobs[name], task)
        if self.order.is_first(run):
            self.jobs[name].release(run.end)
        return run

    def released(self):
        return self.jobs["a"].released, self.jobs["b"].released

    def test_calls_of_one_job_wait_for_nothing(self):
        for task in range(3):
            self.add("a", task)
        self.assertEqual((3, 0), self.released())
        self.assertEqual(1, len(self.order))

    def test_a_run_waits_until_those_before_it_are_done(self):
        first, second = [self.add("a", task) for task in range(2)]
        third = self.add("b", 0)
        fourth = self.add("a", 2)
        self.assertEqual((2, 0), self.released())
        self.order.done(second)
        self.assertEqual((2, 0), self.released())
        self.order.done(first)
        self.assertEqual((2, 1), self.released())
        self.order.done(third)
        self.assertEqual((3, 1), self.released())
        self.order.done(fourth)
        self.assertEqual(0, len(self.order))

    def test_cancelled_runs_are_passed_over(self):
        first = self.add("a", 0)
        second, _ = self.add("b", 0), self.add("a", 1)
        self.order.done(second)
        self.assertEqual((1, 0), self.released())
        self.order.done(first)
        self.assertEqual((2, 0), self.released())

    def test_a_map_waits_for_calls_before_it_and_no_call_waits_for_a_map(self):
        maps = [Job(), Job(), Job()]
        self.assertFalse(self.order.hold(maps[0]))
        first = self.add("a", 0)
        self.assertTrue(self.order.hold(maps[1]))
        second = self.add("a", 1)
        self.assertTrue(self.order.hold(maps[2]))
        self.assertEqual([1, 0, 0, 0], [self.jobs["a"].released] + [each.calls for each in maps])
        self.order.done(first)
        self.assertEqual(2, self.jobs["a"].released)
        self.assertEqual([0, 1, 0], [each.calls for each in maps])
        self.order.done(second)
        self.assertEqual([0, 1, 1], [each.calls for each in maps])
        self.assertEqual(0, len(self.order))

    def test_with_more_worker_processes_no_run_waits(self):
        first = self.add("a", 0)
        self.add("b", 0)
        self.order.release_all()
        self.assertEqual((1, 1), self.released())
        self.order.done(first)
        self.assertEqual((1, 1), self.released())


@unittest.skipUnless(PYTHON_3, "the faces are for Python 3")
class InAnExecutor(unittest.TestCase):
    def test_what_one_call_writes_the_next_one_removes(self):
        with support.directory() as folder, ClusterExecutor(1) as executor:
            other = executor.options(timeout=60)  # in a job of its own
            found = []
            for number in range(50):
                path = os.path.join(folder, str(number))
                found.append((executor.submit(support.write, path, "x"), other.submit(os.remove, path)))
            for written, removed in found:
                written.result(60)
                self.assertIsNone(removed.result(60))
            self.assertEqual([], os.listdir(folder))

    def test_a_map_sees_what_calls_before_it_have_written(self):
        with support.directory() as folder, ClusterExecutor(1) as executor:
            paths = [os.path.join(folder, str(number)) for number in range(20)]
            for path in paths:
                executor.submit(support.write, path, "x")
            self.assertEqual([True] * 20, list(executor.map(os.path.exists, reversed(paths))))

    def test_a_map_that_waits(self):
        with support.directory() as folder, ClusterExecutor(1) as executor:
            first, gate = os.path.join(folder, "first"), os.path.join(folder, "gate")
            running = executor.submit(touch_and_wait, first, gate)
            support.wait_until(lambda: os.path.exists(first), what="a call that runs")
            dropped, waits = executor.map(abs, [-1]), executor.map(abs, [-2, -3])
            endless = executor.map(abs, itertools.count())
            self.assertEqual([], list(executor.map(abs, [])))
            why = [job.why for job in executor.status().jobs if job.name == waits._job.name]
            self.assertEqual(["it waits for calls that were submitted before it"] * 3, why)
            dropped.close()
            support.write(gate, "")
            self.assertEqual([2, 3], list(waits))
            self.assertEqual([0, 1], [next(endless), next(endless)])
            self.assertEqual(5, executor.submit(abs, -5).result(60))
            self.assertTrue(running.done())

    def test_a_map_in_a_callback_does_not_wait_for_calls_that_this_thread_delivers(self):
        with support.directory() as folder, ClusterExecutor(1) as executor:
            first, gate, found = os.path.join(folder, "first"), os.path.join(folder, "gate"), []
            running = executor.submit(touch_and_wait, first, gate)
            running.add_done_callback(lambda future: found.extend(executor.map(abs, [-1, -2])))
            last = executor.submit(abs, -3)
            support.write(gate, "")
            self.assertEqual(3, last.result(60))
            self.assertEqual([1, 2], found)

    def test_what_waits_can_be_cancelled_and_has_a_deadline_and_the_end_waits_for_it(self):
        with support.directory() as folder:
            first, gate = os.path.join(folder, "first"), os.path.join(folder, "gate")
            with ClusterExecutor(1) as executor:
                running = executor.submit(touch_and_wait, first, gate)
                other = executor.options(timeout=60)
                cancelled, last = other.submit(abs, -1), other.submit(abs, -2)
                late = other.options(deadline=0.01).submit(abs, -3)
                support.wait_until(lambda: os.path.exists(first), what="a call that runs")
                self.assertTrue(cancelled.cancel())
                self.assertIsInstance(late.exception(60), errors.DeadlineExceeded)
                self.assertFalse(last.done())
                waits = [calls._seconds_left() for calls in executor._core.delivering]
                self.assertEqual([None, None], waits)  # no thread looks from time to time
                support.write(gate, "")
            self.assertTrue(running.done())
            self.assertEqual(2, last.result(0))

    def test_more_worker_processes_end_the_order(self):
        with support.directory() as folder, ClusterExecutor(1, authkey="a key for this test") as executor:
            first, gate = os.path.join(folder, "first"), os.path.join(folder, "gate")
            running = executor.submit(touch_and_wait, first, gate)
            waits = executor.options(timeout=60).submit(abs, -1)
            support.wait_until(lambda: os.path.exists(first), what="a call that runs")
            with support.start_node(executor.address[1], executor.authkey, 2):
                self.assertEqual(1, waits.result(60))
                self.assertFalse(running.done())
                support.write(gate, "")
                running.result(60)


if __name__ == "__main__":
    unittest.main()

"""Calls of several jobs begin in the order of their submission, where one worker process runs them."""
from __future__ import absolute_import, division, print_function

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
        self.released = 0

    def release(self, end):
        self.released = end


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

"""The one reader of outcomes, without a face: order, on_error, deadline, what is kept, and early ends."""
from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster import errors
from minimalcluster.brain.options import DEFAULTS
from minimalcluster.compat import monotonic
from minimalcluster.master.job import Failure, Job
from minimalcluster.master.reader import NotYetError, Reader
from tests import support
from tests.master.test_job import Cluster, done, failed, finish


class Numbered(Job):
    """Its tasks are called t0, t1, ..."""

    total, closed = 4, True
    function_name = "f"

    def argument(self, index):
        return "t%d" % index


class Reading(unittest.TestCase):
    def reader(self, script, ordered=True, keeps=False, **options):
        self.cluster, self.job = Cluster(script), Numbered()
        self.job.options = DEFAULTS._replace(**options)
        self.job.submit_to(self.cluster)
        return Reader(self.job, ordered, keeps)

    def read(self, reader):
        return list(iter_of(reader))

    def test_in_order_or_as_they_come(self):
        script = [done(2, [20, 30]), done(0, [0]), done(1, [10]), finish()]
        self.assertEqual([0, 10, 20, 30], self.read(self.reader(script)))
        self.assertEqual([20, 30, 0, 10], self.read(self.reader(script, False)))
        self.assertEqual([], self.cluster.asked)  # it has ended by itself

    def test_index_names_what_was_given(self):
        reader, indexes = self.reader([done(2, [20, 30]), done(0, [0, 10]), finish()], False), []
        for _ in iter_of(reader):
            indexes.append(reader.index())
        self.assertEqual([2, 3, 0, 1], indexes)

    def test_not_yet_changes_nothing(self):
        reader = self.reader([done(1, [10])])
        for _ in range(2):
            self.assertRaises(NotYetError, reader.next, monotonic())
        done(0, [0])(self.job)
        self.assertEqual([0, 10], [reader.next(monotonic()), reader.next(monotonic())])
        self.assertRaises(NotYetError, reader.next, monotonic() + 0.01)

    def test_none_leaves_failures_to_the_face(self):
        outcomes = self.read(self.reader([done(0, [0]), failed(1, ValueError("one")), finish()], on_error=None))
        self.assertEqual([int, Failure], [type(each) for each in outcomes])

    def test_finish_raises_behind_the_last_result(self):
        script = [failed(1, ValueError("one")), done(0, [0]), done(2, [20, 30]), finish()]
        for keeps, results in ((False, {}), (True, {0: 0, 2: 20, 3: 30})):
            reader, given = self.reader(script, keeps=keeps), []
            with self.assertRaises(errors.TaskError) as caught:
                for result in iter_of(reader):
                    given.append(result)
            self.assertEqual(([0, 20, 30], results), (given, caught.exception.results))
            self.assertEqual(("t1", [1]), (caught.exception.argument, list(caught.exception.errors)))
            self.assertIs(caught.exception.__cause__, caught.exception.errors[1])
            self.assertRaises(StopIteration, reader.next)

    def test_stop_leaves_a_gap(self):
        script = [failed(1, ValueError("one")), done(0, [0]), done(3, [30]), finish()]
        for keeps, expected in ((True, ([0, 30], {0: 0, 3: 30})), (False, ([0], {3: 30}))):
            reader, given = self.reader(script, keeps=keeps, on_error="stop"), []
            with self.assertRaises(errors.TaskError) as caught:
                for result in iter_of(reader):
                    given.append(result)
            self.assertEqual(expected, (given, caught.exception.results))
            self.assertIn("1 tasks were not run", str(caught.exception))

    def test_all_of_them(self):
        script = [done(2, [20, 30]), failed(1, ValueError("one")), done(0, [0]), finish()]
        for ordered in (True, False):
            told = []
            outcomes = self.reader(script, ordered, True, on_error="return").gather(tell=told.append)
            self.assertEqual((0, [20, 30]), (outcomes[0], outcomes[2:]))
            self.assertIsInstance(outcomes[1], ValueError)
            self.assertEqual(4, told[-1])

    def test_gathering_goes_on(self):
        reader = self.reader([done(0, [0])], keeps=True)
        self.assertRaises(NotYetError, reader.gather, monotonic())
        for call in (done(1, [10, 20, 30]), finish()):
            call(self.job)
        self.assertEqual([0, 10, 20, 30], reader.gather())

    def test_the_deadline_tells_what_was_not_taken(self):
        for keeps, results in ((False, {2: 20}), (True, {0: 0, 2: 20})):
            reader = self.reader([done(0, [0]), done(2, [20])], keeps=keeps, deadline=0.01)
            self.assertEqual(0, reader.next())
            with self.assertRaises(errors.DeadlineExceeded) as caught:
                reader.next()
            self.assertEqual(results, caught.exception.results)
            self.assertIn("2 of 4 tasks have an outcome", str(caught.exception))
            self.assertEqual([("stop", 7), ("cancel", 7)], self.cluster.asked)
            self.assertRaises(StopIteration, reader.next)

    def test_ctrl_c_waits_for_what_runs(self):
        reader = self.reader([done(1, [10])])
        self.assertRaises(NotYetError, reader.next, monotonic())
        late = support.Background(reader.interrupted, support.SECONDS)
        support.wait_until(lambda: self.cluster.asked)
        for call in (done(0, [0]), failed(3, ValueError("three")), finish()):
            call(self.job)
        error = late.result()
        self.assertIsInstance(error, KeyboardInterrupt)
        self.assertEqual(({0: 0, 1: 10}, [3]), (error.results, list(error.errors)))

    def test_closing_forgets(self):
        reader = self.reader([done(0, [0, 10]), done(3, [30])])
        self.assertEqual(0, reader.next())
        reader.close()
        reader.close()
        self.assertEqual([("cancel", 7)], self.cluster.asked)
        self.assertRaises(StopIteration, reader.next)
        done(2, [20])(self.job)
        self.assertRaises(StopIteration, reader.next)

    def test_an_early_end(self):
        broken = errors.StateError("shut down")
        reader = self.reader([done(0, [0]), lambda job: job.crashed(broken)])
        self.assertEqual(0, reader.next())
        with self.assertRaises(errors.StateError) as caught:
            reader.next()
        self.assertIs(broken, caught.exception)


def iter_of(reader):
    while True:
        try:
            outcome = reader.next()
        except StopIteration:
            return
        yield outcome


if __name__ == "__main__":
    unittest.main()

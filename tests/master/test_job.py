"""What arrives for a job, and how it is taken."""
from __future__ import absolute_import, division, print_function

import threading
import unittest

from minimalcluster import errors
from minimalcluster.brain import scheduler
from minimalcluster.master.job import End, Failure, Job, Outcomes, merged_spans
from minimalcluster.payload import values
from tests import support


def described(error):
    """As a worker process tells it."""
    try:
        raise error
    except type(error) as caught:
        return values.encode_exception(caught, 0)


class Cluster(object):
    """submit() lets the script deliver; what else the job asks for is written down."""

    def __init__(self, script=()):
        self.script, self.asked = list(script), []

    def submit(self, job):
        self.job = job
        for call in self.script:
            call(job)
        return 7

    def stop_job(self, number):
        self.asked.append(("stop", number))

    def cancel(self, number):
        self.asked.append(("cancel", number))

    def read(self, number, job):
        pass


def done(first, results, skip=0):
    return lambda job: job.deliver(first, len(results), skip, support.encoded(results))


def failed(index, error, node="somewhere/1"):
    return lambda job: job.deliver_failure(index, node, *described(error))


def finish(unfit=None):
    return lambda job: job.finished(unfit)


class Unloadable(object):
    def __reduce__(self):
        return fail_to_load, ()


def fail_to_load():
    raise ValueError("made to fail")


class Arrivals(unittest.TestCase):
    def setUp(self):
        self.job = Job()

    def test_results(self):
        self.job.deliver(0, 3, 0, support.encoded([1, 2, 3]))
        self.job.deliver(3, 2, 0, support.encoded([(4,), [5]]))
        self.assertEqual(Outcomes(0, [1, 2, 3]), self.job.take())
        self.assertEqual(Outcomes(3, [(4,), [5]]), self.job.take())

    def test_what_was_delivered_before_is_skipped(self):
        for results in ([1, 2, 3, 4], [(1,), (2,), (3,), (4,)]):
            self.job.deliver(10, 4, 3, support.encoded(results))
            self.assertEqual(Outcomes(13, results[3:]), self.job.take())

    def test_what_is_beyond_its_piece_is_cut(self):
        self.job.deliver(0, 2, 0, support.encoded([1, 2, 3]))
        self.assertEqual(Outcomes(0, [1, 2]), self.job.take())
        self.job.deliver(0, 3, 1, support.encoded([(1,), (2,), (3,), (4,)]))
        self.assertEqual(Outcomes(1, [(2,), (3,)]), self.job.take())

    def test_one_that_cannot_be_unpickled(self):
        self.job.deliver(0, 3, 0, support.encoded([(1,), Unloadable(), (3,)]))
        first, (good, bad, last) = self.job.take()
        self.assertEqual((0, (1,), (3,)), (first, good, last))
        self.assertIsInstance(bad, Failure)
        self.assertIn("made to fail", str(bad.error))

    def test_it_is_decoded_where_it_is_taken(self):
        # Not in the cluster's thread: a slow unpickling must not delay a heartbeat.
        self.job.deliver(0, 1, 0, [b"E", values.dumps(Whoami())])
        taken = support.Background(self.job.take).result()
        self.assertNotEqual(threading.current_thread().ident, taken.values[0])

    def test_a_failure(self):
        self.job.deliver_failure(5, "there/1", *described(KeyError("k")))
        first, (failure,) = self.job.take()
        self.assertEqual((5, "there/1"), (first, failure.node))
        self.assertIsInstance(failure.error, KeyError)
        self.assertIn("KeyError", failure.error.__cause__.tb)

    def test_poison(self):
        deaths = (
            scheduler.Death("a/1", {"exit": "exit code 3", "lines": ["early"]}),
            scheduler.Death("b/2", {"exit": "killed by signal 9 (SIGKILL)", "lines": [u"caf\xe9", "last words"]}),
        )
        self.job.deliver_poison(4, deaths)
        first, (failure,) = self.job.take()
        self.assertEqual((4, "b/2"), (first, failure.node))
        error = failure.error
        self.assertIsInstance(error, errors.WorkerDied)
        self.assertEqual(("killed by signal 9 (SIGKILL)", ["a/1", "b/2"]), (error.exit, error.nodes))
        self.assertEqual("last words", error.lines[-1])
        for part in ("each of 2 times", "SIGKILL", "a/1, b/2", "last words"):
            self.assertIn(part, str(error))
        self.job.deliver_poison(0, (scheduler.Death("a/1", {}),))
        self.assertIn("each of 1 times", str(self.job.take().values[0].error))

    def test_the_end(self):
        self.job.finished(None)
        self.assertEqual(End(None), self.job.take())
        info, _ = described(ImportError("no numpy"))
        self.job.finished(info)
        error = self.job.take().error
        self.assertIsInstance(error, errors.SourceError)
        self.assertIn("no numpy", str(error))
        self.assertEqual("ImportError", error.__cause__.type_name)
        broken = RuntimeError("the master's own")
        self.job.crashed(broken)
        self.assertIs(broken, self.job.take().error)

    def test_nothing_in_time(self):
        self.assertIsNone(self.job.take(0.001))


class Whoami(object):
    def __reduce__(self):
        return thread_of, ()


def thread_of():
    return threading.current_thread().ident


class Spans(unittest.TestCase):
    def test_runs_of_indexes(self):
        for indexes, spans in (
            ([], []), ([3], [(3, 4)]), ([0, 1, 2], [(0, 3)]), ([0, 2, 3, 7], [(0, 1), (2, 4), (7, 8)]),
        ):  # fmt: skip
            self.assertEqual(spans, merged_spans((index, index + 1) for index in indexes))


if __name__ == "__main__":
    unittest.main()

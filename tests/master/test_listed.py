"""The user's side of a job, with a cluster that delivers what the test tells it to."""
from __future__ import absolute_import, division, print_function

import itertools
import unittest

from minimalcluster import errors
from minimalcluster.payload import values
from minimalcluster.brain.options import Options
from minimalcluster.master import reader
from minimalcluster.master.listed import ListedJob, Target
from tests import support
from tests.master.test_job import Cluster, described, done, failed, finish

TARGET = Target("f", {"kind": "source", "function": "f"}, [b"source"], lambda: [b"source"])


def raiser(error):
    def raises(count):
        raise error

    return raises


class Shown(object):
    def __init__(self):
        self.shown, self.ended = [], None

    def show(self, count):
        self.shown.append(count)

    def end(self, count):
        self.ended = count


class WithoutText(Exception):
    def __str__(self):
        raise ValueError("no text")


class Listed(unittest.TestCase):
    def job(self, keys=(1, 2, 3), shown=None, **options):
        return ListedJob(TARGET, keys, values.arguments(keys), Options(**options), shown)

    def run_it(self, script, keys=(1, 2, 3), **options):
        self.cluster, self.progress = Cluster(script), Shown()
        return self.job(keys, **options).run(self.cluster, self.progress)

    def error_of(self, script, kind=errors.TaskError, **options):
        with self.assertRaises(kind) as caught:
            self.run_it(script, **options)
        return caught.exception

    def test_what_the_cluster_needs(self):
        job = self.job(range(5), chunksize=2, retries=1, attempts_max=4, on_error="stop", idempotent=True)
        self.assertEqual((5, True), (job.total, job.closed))
        self.assertEqual((2, 1, 4), (job.options.chunksize, job.options.retries, job.options.attempts_max))
        self.assertEqual((True, True), (job.options.stop_on_error, job.options.idempotent))
        self.assertEqual((TARGET.info, TARGET.buffers), job.definition())
        self.assertEqual([2, 3], list(values.decode_arguments(job.encode(2, 2), 2)[0]))

    def test_a_limit_in_time_is_for_one_task(self):
        job = self.job(chunksize=5, timeout=1.5)
        self.assertEqual(1, job.options.chunksize)
        self.assertEqual(dict(TARGET.info, timeout=1.5), job.definition()[0])
        self.assertNotIn("timeout", TARGET.info)

    def test_results_in_the_arguments_order(self):
        result = self.run_it([done(2, [30]), done(0, [10, 20]), finish()])
        self.assertEqual([(1, 10), (2, 20), (3, 30)], list(result.items()))
        self.assertEqual(([1, 3], 3), (self.progress.shown, self.progress.ended))
        self.assertEqual([("cancel", 7)], self.cluster.asked)
        self.assertEqual({}, self.run_it([finish()], ()))

    def test_a_failure_whose_text_cannot_be_made(self):
        error = self.error_of([failed(1, WithoutText()), done(0, [10]), done(2, [30]), finish()])
        self.assertIn("with WithoutText: <its text cannot be made>", str(error))

    def test_a_failure_is_raised_when_all_is_done(self):
        error = self.error_of([failed(1, ValueError("two")), done(0, [10]), done(2, [30]), finish()])
        self.assertEqual((2, "somewhere/1"), (error.argument, error.node))
        self.assertEqual({1: 10, 3: 30}, error.results)
        self.assertEqual([2], list(error.errors))
        self.assertIs(error.errors[2], error.__cause__)
        for part in ("1 of 3 tasks failed", "f(2)", "somewhere/1", "ValueError: two", "Traceback"):
            self.assertIn(part, str(error))
        self.assertNotIn("not run", str(error))

    def test_the_first_in_order_is_named(self):
        error = self.error_of([failed(2, ValueError("three")), failed(0, KeyError("one")), done(1, [20]), finish()])
        self.assertIsInstance(error.__cause__, KeyError)
        self.assertEqual((1, [1, 3]), (error.argument, list(error.errors)))

    def test_stop(self):
        error = self.error_of([done(0, [10]), failed(1, ValueError("two")), finish()], on_error="stop")
        self.assertEqual(({1: 10}, [2]), (error.results, list(error.errors)))
        self.assertIn("1 tasks were not run", str(error))

    def test_return(self):
        result = self.run_it([done(0, [10]), failed(1, ValueError("two")), done(2, [30]), finish()], on_error="return")
        self.assertEqual([10, 30], [result[1], result[3]])
        self.assertIsInstance(result[2], ValueError)

    def test_an_end_before_its_time(self):
        info, _ = described(ImportError("no numpy"))
        self.assertIn("no numpy", str(self.error_of([finish(info)], errors.SourceError)))
        broken = errors.StateError("shut down")
        self.assertIs(broken, self.error_of([done(0, [1]), lambda job: job.crashed(broken)], errors.StateError))
        self.assertEqual(1, self.progress.ended)

    def test_row_67_the_journal_is_closed_whatever_the_progress_function_raises(self):
        for error in (ValueError("bar is closed"), SystemExit(1), KeyboardInterrupt()):
            job, shown, closed = self.job(), Shown(), []
            shown.show = shown.end = raiser(error)
            job.close_journal = lambda closed=closed: closed.append(True)
            with self.assertRaises(type(error)):
                job.run(Cluster([done(0, [10])]), shown)
            self.assertEqual([True], closed)

    def test_deadline(self):
        error = self.error_of([done(0, [10]), failed(1, ValueError("two"))], errors.DeadlineExceeded, deadline=0.01)
        self.assertEqual(({1: 10}, [2]), (error.results, list(error.errors)))
        self.assertIn("0.01 s", str(error))
        self.assertIn("2 of 3", str(error))
        self.assertEqual([("stop", 7), ("cancel", 7)], self.cluster.asked)

    def test_no_deadline_for_what_is_done(self):
        """Who reads slowly gets it all the same; and a sleeping laptop's job may be done when it wakes up."""
        script = [done(0, [10]), failed(1, ValueError("two")), done(2, [30]), finish()]
        with support.patched(reader, "monotonic", lambda moments=itertools.count(): next(moments)):
            self.assertEqual(3, len(self.run_it(script, on_error="return", deadline=0.01)))
            pairs = self.job(on_error="return", deadline=0.01).iterate(Cluster(script), True)
            self.assertEqual([1, 2, 3], [argument for argument, _ in pairs])

    def test_ctrl_c(self):
        class Interrupting(Shown):
            def show(self, count):
                raise KeyboardInterrupt

        cluster, shown = Cluster([done(0, [10]), finish()]), Interrupting()
        with self.assertRaises(KeyboardInterrupt) as caught:
            self.job().run(cluster, shown)
        self.assertEqual({1: 10}, caught.exception.results)
        self.assertEqual([("stop", 7), ("cancel", 7)], cluster.asked)
        self.assertEqual(1, shown.ended)


class Iterated(unittest.TestCase):
    def iterate(self, script, ordered=True, keys=(1, 2, 3), **options):
        self.cluster = Cluster(script)
        return ListedJob(TARGET, keys, values.arguments(keys), Options(**options)).iterate(self.cluster, ordered)

    def test_it_submits_at_once(self):
        self.iterate([])
        self.assertTrue(self.cluster.job)

    def test_in_order(self):
        script = [done(2, [30]), done(0, [10]), done(1, [20]), finish()]
        self.assertEqual([(1, 10), (2, 20), (3, 30)], list(self.iterate(script)))
        self.assertEqual([("cancel", 7)], self.cluster.asked)

    def test_as_they_come(self):
        script = [done(2, [30]), done(0, [10]), done(1, [20]), finish()]
        self.assertEqual([(3, 30), (1, 10), (2, 20)], list(self.iterate(script, False)))

    def test_each_as_soon_as_its_turn_has_come(self):
        pairs = self.iterate([done(0, [10])])
        self.assertEqual((1, 10), next(pairs))
        for call in (done(2, [30]), done(1, [20]), finish()):
            call(self.cluster.job)
        self.assertEqual([(2, 20), (3, 30)], list(pairs))

    def test_nothing_given_is_kept(self):
        pairs = self.iterate([done(0, [(10,)])])
        self.assertEqual((1, (10,)), next(pairs))
        self.cluster.job.deliver(1, 1, 0, support.encoded([(20,)]))
        next(pairs)
        reader_ = pairs._reader
        runs = list(reader_._waiting.values()) + list(reader_._kept.values()) + [reader_.current]
        self.assertNotIn((10,), list(itertools.chain(*runs)))

    def test_leaving_it_ends_the_job(self):
        pairs = self.iterate([done(0, [10])])
        next(pairs)
        pairs.close()
        self.assertEqual([("cancel", 7)], self.cluster.asked)

    def test_failures(self):
        script = [done(0, [10]), failed(1, ValueError("two")), done(2, [30]), finish()]
        for ordered in (True, False):
            got = []
            with self.assertRaises(errors.TaskError) as caught:
                for pair in self.iterate(script, ordered):
                    got.append(pair)
            self.assertEqual([(1, 10), (3, 30)], got)
            self.assertEqual([2], list(caught.exception.errors))
            pairs = list(self.iterate(script, ordered, on_error="return"))
            self.assertEqual([1, 2, 3], [key for key, _ in pairs])
            self.assertIsInstance(pairs[1][1], ValueError)

    def test_an_end_before_its_time(self):
        pairs = self.iterate([done(0, [10]), lambda job: job.crashed(errors.StateError("shut down"))])
        self.assertEqual((1, 10), next(pairs))
        self.assertRaises(errors.StateError, next, pairs)


if __name__ == "__main__":
    unittest.main()

"""``map``: its input, its results and what ends it; beside the documentation of ``concurrent.futures``."""
from __future__ import absolute_import, division, print_function

import functools
import gc
import itertools
import os
import pickle
import time
import unittest
import weakref

from tests import support
from tests.sent import (
    PYTHON_3, SECONDS, CannotLoad, CannotPickle, ExitAtPickle, Journaled, Running, die_at, fail, fail_on, faces, first_dies_and_waits, interrupting, length,
    long_text, make_thing, mul, note_and_count, note_and_fail_on, note_and_return, touch, touch_and_wait,
)

if PYTHON_3:
    from concurrent.futures import CancelledError
    from concurrent.futures import TimeoutError as FutureTimeoutError

    from minimalcluster import ClusterExecutor, Interrupted, JournalError, Pool, TaskError
    from minimalcluster.master import job as jobs
    from minimalcluster.master import window
    from minimalcluster.faces.executor import DeadlineExceededError, WorkerDiedError


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

    def test_what_a_call_changes_in_the_function_no_other_sees(self):
        grow = functools.partial(note_and_count, [])
        with ClusterExecutor(1) as executor:
            for results in (executor.map(grow, range(3)), executor.map(grow, range(3), chunksize=1), executor.map_unordered(grow, range(3))):
                self.assertEqual([1, 1, 1], list(results))
            self.assertEqual(6, sum(executor.map(grow, range(3), chunksize=3)))
        with Pool(1) as pool:
            for results in (pool.imap(grow, range(3)), pool.imap_unordered(grow, range(3)), pool.map(grow, range(3), 1), pool.map(grow, range(3))):
                self.assertEqual([1, 1, 1], list(results))
            self.assertLess(5, sum(pool.map(grow, range(5))))

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

    def test_a_stop_iteration_of_a_task_does_not_end_it(self):
        for results in (self.executor.map(fail, [StopIteration("mine")]), self.executor.map_unordered(fail, [StopIteration("mine")])):
            with self.assertRaises(RuntimeError) as caught:
                list(results)
            self.assertEqual((StopIteration, ("mine",)), (type(caught.exception.__cause__), caught.exception.__cause__.args))

    def test_a_keyboard_interrupt_of_a_task_is_no_ctrl_c(self):
        with self.assertRaises(KeyboardInterrupt) as caught:
            list(self.executor.map(fail, [KeyboardInterrupt("from afar", 2)]))
        self.assertEqual((KeyboardInterrupt, ("from afar", 2)), (type(caught.exception), caught.exception.args))

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

    def test_row_38_status_of_a_map_whose_results_nobody_reads(self):
        results = self.executor.map(str, itertools.count(), buffersize=4)
        self.addCleanup(results.close)
        with support.Log() as log:
            support.wait_until(lambda: "4 results wait to be taken" in str(results.status()))
            self.assertEqual((4, 4, 0), results.status()[1:4])
            self.assertIn("map of str", str(self.executor.status()))
            support.wait_until(lambda: log.having("4 results wait"), what="a word about it")
            results.close()
            support.wait_until(lambda: results.status().why == "it is over")
            support.wait_until(lambda: "map of str" not in str(self.executor.status()))

    def test_row_38_who_reads_slowly_holds_up_the_work(self):
        self.addCleanup(setattr, window, "BYTES_MAX", window.BYTES_MAX)
        window.BYTES_MAX = 1 << 16
        expected = ["%d" % number * 16384 for number in range(300)]
        for items in (list(range(300)), range(300), iter(range(300))):
            results = self.executor.map(long_text, items, chunksize=1)
            found = [next(results)]
            support.wait_until(lambda: "wait to be taken" in results.status().why, what="its word")
            support.wait_until(lambda: not results.status().running, what="the end of what ran")
            self.assertLess(results.status().done, 200)
            self.assertEqual(expected, found + list(results))
            self.assertIn("it is over", str(results.status()))

    def test_row_38_results_behind_a_slow_one_are_bounded_and_it_runs_again_when_it_is_lost(self):
        with support.directory() as folder, support.patched(window, "BYTES_MAX", 1 << 16):
            with support.patched(window, "RESULTS_EACH", 4):
                results = self.executor.map(first_dies_and_waits, range(200), [folder] * 200, chunksize=1)
            first = support.Background(next, results)
            for begun, goes_on in (("first", "die"), ("again", "end")):
                support.wait_until(lambda: os.path.exists(os.path.join(folder, begun)), what="task 0")
                support.wait_until(lambda: results.status().running == 1 and results.status().done, what="the others' end")
                self.assertLess(results.status().done, 30)
                self.assertGreater(results.status().queued, 150)
                support.write(os.path.join(folder, goes_on), "")
            self.assertEqual(["%d" % number * 16384 for number in range(200)], [first.result()] + list(results))

    def test_row_38_an_endless_input_is_held_up_unread(self):
        self.addCleanup(setattr, window, "BYTES_MAX", window.BYTES_MAX)
        window.BYTES_MAX = 1 << 16
        results = self.executor.map(long_text, itertools.count(), chunksize=1)
        support.wait_until(lambda: "wait to be taken" in results.status().why, what="its word")
        results.close()
        with support.directory() as folder:  # of what nobody will ever read, nothing is held up
            paths = [os.path.join(folder, str(number)) for number in range(20)]
            window.BYTES_MAX = 1
            self.executor.map(touch, (path for path in paths))
            gc.collect()
            support.wait_until(lambda: len(os.listdir(folder)) == 20, what="all tasks' files")

    def test_row_38_until_it_is_read_it_goes_on_and_at_the_end_it_is_finished(self):
        self.addCleanup(setattr, window, "BYTES_MAX", window.BYTES_MAX)
        window.BYTES_MAX = 1 << 16
        results = self.executor.map(long_text, range(100), chunksize=1)
        support.wait_until(lambda: results.status().done == 100, what="the work's end")
        self.assertEqual(100, len(list(results)))
        with ClusterExecutor(2) as executor:
            results = executor.map(long_text, range(100), chunksize=1)
            next(results)
            support.wait_until(lambda: "wait to be taken" in results.status().why, what="its word")
        self.assertEqual(99, len(list(results)))

    def test_none_is_kept_that_is_over_before_it_has_begun(self):
        with support.switching_often():
            for _ in range(300):
                self.assertEqual([], list(self.executor.map(abs, [])))
        support.wait_until(lambda: not self.executor._core.maps)

    def test_an_input_that_is_never_asked_for_and_has_no_end(self):
        executor = ClusterExecutor(1)
        results = executor.map(str, itertools.count(), buffersize=4)
        support.Background(executor.shutdown, cancel_futures=True).result()
        self.assertLess(results._job.total, 100)
        self.assertRaises((CancelledError, StopIteration), lambda: [next(results) for _ in range(100)])

    def test_an_input_that_ends_the_program_does_not_keep_shutdown(self):
        def items():
            for number in range(6):
                yield number
            raise SystemExit(3)

        executor = ClusterExecutor(1)
        results = executor.map(str, items(), buffersize=2)
        support.Background(executor.shutdown).result()
        self.assertEqual(list("012345"), [next(results) for _ in range(6)])
        self.assertRaises(SystemExit, next, results)

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
class OnError(Running):
    """options(on_error=, deadline=): what becomes of failures and of what is not done in time."""

    def mapped(self, on_error, *arguments, **options):
        return self.executor.options(on_error=on_error).map(fail_on, *arguments, **options)

    def test_return_gives_exceptions_in_their_places(self):
        for chunksize in (None, 1, 7):
            found = list(self.mapped("return", range(20), [5] * 20, chunksize=chunksize))
            self.assertEqual((ValueError, "not 5"), (type(found[5]), str(found[5])))
            self.assertEqual([x for x in range(20) if x != 5], found[:5] + found[6:])
        once = self.executor.options(on_error="return", attempts_max=1)
        found = list(once.map(die_at, ["a", "b", "c"], ["x", "b", "x"]))
        self.assertEqual((1, WorkerDiedError, 1), (found[0], type(found[1]), found[2]))

    def test_finish_runs_all_and_has_all_in_the_error(self):
        for chunksize in (None, 1, 7):
            results, found = self.mapped("finish", range(20), [5] * 20, chunksize=chunksize), []
            with self.assertRaises(TaskError) as caught:
                for result in results:
                    found.append(result)
            everything = [x for x in range(20) if x != 5]
            self.assertEqual(everything, found)
            error = caught.exception
            self.assertEqual(({x: x for x in everything}, [5], (5, 5)), (error.results, list(error.errors), error.argument))
            self.assertEqual(("not 5", error.errors[5]), (str(error.errors[5]), error.__cause__))
            self.assertIn("1 of 20 tasks failed, the first of them fail_on((5, 5)) on", str(error))
            self.assertRaises(StopIteration, next, results)
        self.assertEqual([1, 2], list(self.mapped("finish", [1, 2], [0, 0])))

    def test_finish_unordered_and_of_a_generator(self):
        view = self.executor.options(on_error="finish")
        with self.assertRaises(TaskError) as caught:
            list(view.map_unordered(fail_on, (x for x in range(100)), itertools.repeat(7)))
        self.assertEqual((set(range(100)) - {7}, {7}), (set(caught.exception.results), set(caught.exception.errors)))

    def test_stop_hands_out_nothing_more(self):
        with support.directory() as folder:
            results = self.executor.options(on_error="stop").map(note_and_fail_on, [folder] * 500, range(500), [3] * 500, chunksize=1)
            with self.assertRaises(TaskError) as caught:
                list(results)
            error = caught.exception
            self.assertEqual([3], list(error.errors))
            self.assertEqual({int(name) for name in os.listdir(folder)}, set(error.results) | {3})
            self.assertLess(len(error.results), 400)
            self.assertIn("(stopped there: %d tasks were not run)" % (499 - len(error.results)), str(error))

    def test_deadline_keeps_what_is_there(self):
        with support.directory() as folder:
            gate, names = os.path.join(folder, "gate"), [os.path.join(folder, str(number)) for number in range(3)]
            gates = [folder, gate, folder]  # the second waits for ever
            for on_error, given in ((None, {2: names[2]}), ("finish", {0: names[0], 2: names[2]})):
                results = self.executor.options(deadline=5.0, on_error=on_error).map(touch_and_wait, names, gates, chunksize=1)
                self.assertEqual(names[0], next(results))
                with self.assertRaises(DeadlineExceededError) as caught:
                    next(results)
                self.assertEqual((given, {}), (caught.exception.results, caught.exception.errors))
                self.assertIn("the deadline of 5 s has passed", str(caught.exception))
                self.assertIsInstance(caught.exception, FutureTimeoutError)
                self.assertRaises(StopIteration, next, results)
            self.assertEqual([4], list(self.executor.options(deadline=600).map(abs, [-4])))

    def test_longer_than_a_system_can_wait_at_once(self):
        with support.patched(jobs, "WAIT_SECONDS_MAX", 1e-4), support.directory() as folder:
            gate = os.path.join(folder, "gate")
            results = self.executor.options(deadline=SECONDS).map(touch_and_wait, [os.path.join(folder, "begun")], [gate])
            late = support.Background(next, results)
            support.wait_until(lambda: os.listdir(folder))
            support.write(gate)
            self.assertTrue(late.result())
        for seconds in (1e300, float("inf")):
            self.assertEqual([4], list(self.executor.options(deadline=seconds).map(abs, [-4], timeout=seconds)))
            self.assertEqual(4, self.executor.options(deadline=seconds).submit(abs, -4).result(SECONDS))

    def test_deadline_of_an_input_without_end(self):
        results = self.executor.options(deadline=0.5).map(abs, itertools.count())
        with self.assertRaises(DeadlineExceededError):
            for _ in results:
                pass
        # What was done in time may be read later.
        results = self.executor.options(deadline=0.5).map(abs, range(10))
        self.assertEqual(0, next(results))
        support.wait_until(lambda: results.reader.is_late() and results._job.over.is_set(), what="the deadline")
        self.assertEqual(list(range(1, 10)), list(results))

    def test_ctrl_c_keeps_what_is_there(self):
        with support.directory() as folder:
            names = [os.path.join(folder, str(number)) for number in range(3)]
            view = self.executor.options(on_error="finish")
            results = view.map(touch_and_wait, names, [folder, os.path.join(folder, "gate"), folder], chunksize=1)
            self.assertEqual(names[0], next(results))
            support.wait_until(lambda: os.path.exists(names[2]), what="the last task's start")
            with self.assertRaises(Interrupted) as caught:
                with interrupting(results):
                    next(results)
            self.assertEqual((names[0], {}), (caught.exception.results[0], caught.exception.errors))
            self.assertEqual([5], list(self.executor.map(abs, [-5])))

    def test_what_came_while_nobody_read_is_there(self):
        for on_error in (None, "finish"):
            with support.directory() as folder:
                names = [os.path.join(folder, str(number)) for number in range(3)]
                gates = [folder, os.path.join(folder, "gate"), folder]
                results = self.executor.options(on_error=on_error).map(touch_and_wait, names, gates, chunksize=1)
                support.wait_until(lambda: results.status().done == 2, what="two results")  # noqa: B023
                with self.assertRaises(Interrupted) as caught:
                    with interrupting(results):
                        next(results)
                self.assertEqual(({0: names[0], 2: names[2]}, {}), (caught.exception.results, caught.exception.errors))


@faces
class Journal(Journaled):
    """options(journal=): the same map of a program that is run again."""

    def test_what_is_known_does_not_run_again(self):
        for count, new in ((3, [0, 1, 2]), (5, [3, 4]), (5, [])):
            found = list(self.view().map(note_and_return, [self.ran] * count, range(count)))
            self.assertEqual((list(range(count)), new), (found, self.executed()))

    def test_half_of_it(self):
        view = self.view()
        results = view.map_unordered(note_and_return, [self.ran] * 200, range(200), chunksize=1)
        given = [next(results) for _ in range(10)]
        results.close()
        view.shutdown()
        ran = self.executed()
        self.assertLessEqual(set(given), set(ran))
        again = self.view().map_unordered(note_and_return, [self.ran] * 200, range(200))
        self.assertEqual(list(range(200)), sorted(again))
        self.assertFalse(set(given) & set(self.executed()))

    def test_results_that_nobody_wants_are_written_and_not_kept(self):
        view = self.view()
        results = view.map(long_text, range(40))
        job = results._job
        del results
        gc.collect()
        self.assertTrue(job.over.wait(SECONDS))
        self.assertTrue(job._arrivals.empty())
        view.shutdown()
        with support.Log() as log:
            self.assertEqual(["%d" % number * 16384 for number in range(40)], list(self.view().map(long_text, range(40))))
        self.assertTrue(log.having("40 of 40 outcomes are taken"))

    def test_ranges_failures_and_other_functions(self):
        for _ in range(2):
            view = self.view()
            self.assertEqual([1, 0, 1], list(view.map(abs, range(-1, 2))))
            self.assertEqual(["-1", "0", "1"], list(view.map(str, range(-1, 2))))
            results = view.map(fail_on, [1, 2], [2, 2])
            self.assertEqual(1, next(results))
            self.assertRaises(ValueError, next, results)

    def test_a_failure_that_is_known_stops_it_again(self):
        for ran in ([1, 2], []):
            executor = ClusterExecutor(1)
            view = executor.options(journal=self.path, on_error="stop")
            with self.assertRaises(TaskError) as caught:
                list(view.map(note_and_fail_on, [self.ran] * 2, [1, 2], [2, 2], chunksize=1))
            self.assertEqual(({0: 1}, [1], ran), (caught.exception.results, list(caught.exception.errors), self.executed()))
            executor.shutdown()

    def test_one_at_a_time(self):
        view = self.view()
        results = view.map(touch_and_wait, [self.path + ".a"], [self.path + ".gate"])
        with self.assertRaises(JournalError) as caught:
            view.map(abs, [1])
        self.assertIn("in use", str(caught.exception))
        support.write(self.path + ".gate")
        self.assertEqual(1, len(list(results)))
        self.assertEqual([1], list(view.map(abs, [1])))

    def test_it_is_free_when_an_error_is_there(self):
        view = self.view()
        gate = os.path.join(self.folder, "gate")
        for number in range(5):
            self.assertRaises(ValueError, list, view.map(fail_on, [1, 2], [2, 2]))
            names = [os.path.join(self.folder, "started-%d" % number)]
            self.assertRaises(DeadlineExceededError, list, view.options(deadline=0.05).map(touch_and_wait, names, [gate]))
            results = view.map(touch_and_wait, names, [gate])
            with self.assertRaises(Interrupted), interrupting(results):
                next(results)
            view.map(touch_and_wait, names, [gate]).close()
            for result in view.map(abs, range(number, 100)):
                self.assertEqual(number, result)
                break
        self.assertEqual([1], list(view.map(abs, [1])))

    def test_what_has_none(self):
        view = self.view()
        for refused in (
            lambda: view.map(abs, iter([1])), lambda: view.map(abs, [1], buffersize=2),
        ):  # fmt: skip
            self.assertRaisesRegex(ValueError, "journal=", refused)
        self.assertRaises(pickle.PicklingError, next, view.map(CannotPickle().__reduce__, [1]))
        view.shutdown()
        self.assertRaises(RuntimeError, view.map, abs, [1])


if __name__ == "__main__":
    unittest.main()

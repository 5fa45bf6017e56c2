"""The results of maps: what is read before one is given, who waits for them, and whose error ends what."""
from __future__ import absolute_import, division, print_function

import gc
import itertools
import threading
import unittest

from tests import support
from tests.sent import PYTHON_3, SECONDS, Running, faces, length, mul

if PYTHON_3:
    import queue
    from concurrent.futures import CancelledError

    from minimalcluster import Pool
    from minimalcluster.faces import inputs
    from minimalcluster.faces.executor import BrokenExecutor


@faces
class Given(Running):
    def test_row_69_nothing_is_read_while_a_result_is_there(self):
        # As a crawler: what is found is put into the input.
        for mapped in (self.executor.map, self.executor.map_unordered):
            to_visit, seen = queue.Queue(), []
            to_visit.put(1)
            for page in mapped(abs, iter(to_visit.get, None), buffersize=1):
                seen.append(page)
                to_visit.put(page + 1 if page < 5 else None)
            self.assertEqual([1, 2, 3, 4, 5], seen)

    def test_the_caller_reads(self):
        readers = set()

        def items():
            for number in range(2000):
                readers.add(threading.current_thread())
                yield [number]

        self.assertEqual([1] * 2000, list(self.executor.map(length, items(), buffersize=100)))
        self.assertEqual({threading.current_thread()}, readers)

    def test_what_lies_in_memory_is_worked_on_though_nobody_asks(self):
        with support.patched(inputs, "WINDOW_BYTES", 1 << 14):
            job = self.executor.map(length, [[number] * 200 for number in range(2000)])._job
            gc.collect()  # nobody holds the results
            self.assertTrue(job.over.wait(SECONDS))
            self.assertEqual(2000, job.total)
            self.assertLess(job.input._bytes_in, 1 << 24)
        support.wait_until(lambda: "minimalcluster-packing" not in [each.name for each in threading.enumerate()])

    def test_arguments_in_errors(self):
        for items in ([[1], [], [2]], iter([[1], [], [2]])):
            view = self.executor.options(on_error="finish")
            with self.assertRaises(Exception) as caught:
                list(view.map(first_of, items))
            self.assertEqual(([], [1]), (caught.exception.argument, list(caught.exception.errors)))

    def test_an_error_of_ours_costs_its_own_map(self):
        def broken(first, count):
            raise ValueError("of this map")

        with support.patched(inputs.Range, "encode", lambda self, first, count: broken(first, count)):
            results = self.executor.map(abs, range(3))
            with self.assertRaises(ValueError) as caught:
                next(results)
        self.assertEqual("of this map", str(caught.exception))
        self.assertNotIsInstance(caught.exception, (BrokenExecutor, CancelledError))
        self.assertEqual([1, 2], list(self.executor.map(abs, [-1, -2])))
        self.assertEqual(3, self.executor.submit(abs, -3).result(SECONDS))

    def test_row_71_ranges_that_no_machine_word_holds(self):
        big = 10 ** 5000
        self.assertEqual([True, True], list(self.executor.map(bool, range(big, big + 2))))
        self.assertEqual([0, -1, -2], list(itertools.islice(self.executor.map(int, range(0, -(10 ** 30), -1)), 3)))
        self.assertEqual([0, 2], list(itertools.islice(self.executor.map(mul, range(10 ** 20), itertools.repeat(2)), 2)))
        with Pool(1) as pool:
            self.assertEqual([0, 1], list(itertools.islice(pool.imap(abs, range(10 ** 20)), 2)))
            self.assertRaises(OverflowError, pool.map, abs, range(10 ** 20))
            self.assertEqual([False, True], pool.map(bool, range(0, 2 * big, big)))


def first_of(items):
    return items[0]


if __name__ == "__main__":
    unittest.main()

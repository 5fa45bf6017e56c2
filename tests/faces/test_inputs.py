"""A map's input: what is read when, what is pickled when, and how much is kept."""
from __future__ import absolute_import, division, print_function

import itertools
import sys
import unittest
from collections import deque

from tests import support
from tests.sent import PYTHON_3

if PYTHON_3:
    from minimalcluster.payload import functions, values
    from minimalcluster.faces import inputs


class Told(object):
    """In place of a job."""

    announced = False

    def __init__(self):
        self.grown = 0

    def grew(self):
        self.grown += 1


def made(*iterables, **options):
    pack = options.pop("pack", functions.pack)
    star = options.pop("star", len(iterables) != 1)
    return inputs.of(iterables, star, options.pop("window", None), lambda item, star: pack(item), options.pop("later", False))


def read(source, enough=lambda: False):
    if not source.closed:
        source.read(Told(), 0.0, enough)


def back(source, first=0, count=None):
    """The items of a chunk as they arrive."""
    count = source.total - first if count is None else count
    items, load = values.decode_arguments(source.encode(first, count), count)
    return [load(item) if load else item for item in items]


def loaded(*iterables, **options):
    source = made(*iterables, **options)
    read(source)
    return back(source)


class Graph(object):
    """Counts how often it is pickled, and by whom."""

    pickled = 0

    def __reduce__(self):
        Graph.pickled += 1
        return Graph, ()


@unittest.skipUnless(PYTHON_3, "the faces are for Python 3")
class Reading(unittest.TestCase):
    def test_every_kind_of_input(self):
        for items in (range(5), [1, "a"], (1, (2, "b"), [3]), "abc", b"abc", {"k": 1}, deque([1, [2]]), iter([1, {}]), {1}.copy()):
            expected = list(items) if not hasattr(items, "__next__") else [1, {}]
            self.assertEqual(expected, loaded(items))
            expected = [(item, 7) for item in expected]
            self.assertEqual(expected, loaded(iter([one for one, _ in expected]), itertools.repeat(7)))
        self.assertEqual([(1, 0), (2, 1)], loaded([1, 2], itertools.count()))
        self.assertEqual([], loaded())
        self.assertEqual([(1, 2)], loaded([[1, 2]], star=True))

    def test_what_lies_in_memory_is_all_there_at_once(self):
        for iterables in (([1, 2],), ([1], itertools.count()), (range(3),), ({1: 2}.items(),), (range(3), range(4))):
            source = made(*iterables)
            self.assertTrue(source.in_memory and source.closed, iterables)
        for iterables in ((iter([1]),), (itertools.repeat(1),), (itertools.count(),), (range(10 ** 9), range(10 ** 9)), (range(10 ** 20),)):
            self.assertFalse(made(*iterables).in_memory, iterables)

    def test_ranges_of_any_numbers(self):
        # Their texts have thousands of digits; their length does not fit into a machine's word.
        big = 10 ** 5000
        for numbers in (range(big, big + 3), range(big, -big, -big), range(-5, 5, 3), range(0), range(7, 0, -2), range(0, 10 * big, big)):
            self.assertEqual(list(numbers), loaded(numbers))
            source = made(numbers)
            self.assertEqual(list(numbers)[1:], back(source, 1) if len(numbers) > 1 else [])
            chunk = source.encode(0, source.total)
            if source.total > 1:
                items, _ = values.decode_arguments(values.part_of(chunk, 1, 1), 1)
                self.assertEqual([numbers[1]], list(items))
        for numbers in (range(10 ** 20), range(0, -(10 ** 30), -1), range(big)):
            source = made(numbers)
            read(source, lambda: source.total >= 3)  # noqa: B023
            self.assertEqual(list(numbers[:3]), back(source, 0, 3))

    def test_an_item_is_taken_as_it_was_when_it_was_given(self):
        def records():
            record = {}
            for number in range(5):
                record["n"] = number
                yield record

        self.assertEqual([{"n": number} for number in range(5)], loaded(records()))
        self.assertEqual([({"n": number}, number) for number in range(5)], loaded(records(), itertools.count()))

    def test_an_item_is_pickled_once_and_where_it_is_read(self):
        graphs = [Graph(), Graph()]
        for source in (made(graphs), made(iter(graphs)), made(iter(graphs), [1, 2])):
            Graph.pickled = 0
            read(source)
            self.assertEqual(2, Graph.pickled)
            for _ in range(3):
                source.encode(0, 2)
            self.assertEqual(2, Graph.pickled)

    def test_one_that_cannot_be_pickled_is_raised_where_it_would_be_used(self):
        source = made(iter([[1], lambda: 1, [2]]), pack=lambda item: functions.Packed(values.dumps(item), functions.NOTHING))
        read(source)
        items, load = values.decode_arguments(source.encode(0, 3), 3)
        first, bad, last = items
        self.assertEqual(([1], [2]), (load(first), load(last)))
        self.assertRaisesRegex(Exception, "lambda", load, bad)

    def test_plain_lists_and_dicts_are_copied_when_they_are_read(self):
        one, two = [1], {"a": 1}

        def changing():
            for value in range(3):
                one[0] = two["a"] = value
                yield one
                yield two

        source = made(changing())
        read(source)
        buffers = source.encode(0, 6)
        self.assertEqual(b"P", buffers[0])  # one pickle of all
        items = list(values.decode_arguments(buffers, 6)[0])
        self.assertEqual([[0], {"a": 0}, [1], {"a": 1}, [2], {"a": 2}], items)

    def test_what_stands_in_two_items_is_two_objects(self):
        shared = [1]
        for given in ([shared, shared], [[shared], [shared]]):
            source = made(iter(given))
            read(source)
            items, load = values.decode_arguments(source.encode(0, 2), 2)
            first, second = [load(item) if load else item for item in items]
            (first[0] if first[0] == shared else first).append(2)
            self.assertEqual(given[1], second)

    def test_a_chunk_tells_what_its_own_items_need(self):
        def pack(item):
            return functions.Packed(values.dumps(item), functions.SAME_MINOR if item == {"minor"} else functions.NOTHING)

        source = made(iter([{"a"}, {"minor"}, {"b"}, 5]), pack=pack)
        read(source)
        said = [values.needs_of(source.encode(first, 1)) for first in range(4)]
        self.assertEqual(["", values.with_version(functions.SAME_MINOR), "", ""], said)
        self.assertEqual(said[1], values.needs_of(source.encode(0, 4)))
        source.let_go(0, 2)
        self.assertEqual("", values.needs_of(source.encode(2, 2)))

    def test_each_item_is_told_before_the_next_is_waited_for(self):
        told, seen = Told(), []

        def live():
            for number in range(4):
                seen.append((source.total, told.grown))
                yield number

        source = made(live())
        source.read(told, None, lambda: True)
        self.assertEqual([(0, 0), (1, 1), (2, 2), (3, 3)], seen)

    def test_errors(self):
        def broken():
            yield 1
            raise LookupError("mine")

        source = made(broken())
        read(source)
        self.assertEqual((True, 1, LookupError), (source.closed, source.total, type(source.error)))
        self.assertRaises(TypeError, made, 5)
        for iterables in ((5,), (5, [1])):
            source = made(*iterables, later=True)
            read(source)
            self.assertEqual((True, 0, TypeError), (source.closed, source.total, type(source.error)))

    def test_ended_while_somebody_reads(self):
        def endless():
            for number in itertools.count():
                if number == 3:
                    source.end(None)
                yield number

        source = made(endless())
        read(source)
        self.assertEqual((3, True), (source.total, source.closed))


@unittest.skipUnless(PYTHON_3, "the faces are for Python 3")
class Window(unittest.TestCase):
    def filled(self, source):
        read(source)
        return source.total

    def test_in_bytes_however_deep_they_are(self):
        block = b"x" * (800 << 10)
        for item in (block, (block, 1), [block], {"a": [block]}, ((block, 1), 2)):
            for source in (made(itertools.repeat(item)), made(iter(itertools.repeat(item)), itertools.count())):
                self.assertEqual(inputs.WINDOW_BYTES // (800 << 10) + 1, self.filled(source))
                size, _ = source.let_go(0, 10)
                self.assertEqual(0, source.room())  # their results are not taken yet
                source.took(10, size)
                self.assertEqual(inputs.WINDOW_BYTES // (800 << 10) + 11, self.filled(source))

    def test_in_items(self):
        with support.patched(inputs, "WINDOW_ITEMS", 1000):
            source = made(itertools.count())
            self.assertEqual(1000, self.filled(source))
            source.let_go(0, 300)
            source.took(300, 0)
            self.assertEqual(1300, self.filled(source))
            source.limited = False
            read(source, lambda: source.total >= 5000)
            self.assertEqual(5000, source.total)
        source = made(iter([b"x" * (1 << 20)] * 200), window=150)
        self.assertEqual(150, self.filled(source))

    def test_of_a_list_only_what_has_no_result_counts(self):
        with support.patched(inputs, "WINDOW_BYTES", 1 << 16):
            source = made([[b"x" * 5000] for _ in range(100)])
            self.assertEqual(14, self.filled(source))
            size, _ = source.let_go(3, 5)
            source.took(0, size)
            self.assertEqual(19, self.filled(source))
            self.assertFalse(source.closed)

    def test_what_has_results_is_let_go_of_in_any_order(self):
        for items in ([[number] for number in range(100)], list(range(100)), range(100)):
            source = made(items)
            read(source)
            for first in (50, 0, 90, 10, 20, 30, 40, 80, 70, 60):
                _, gone = source.let_go(first, 10)
                self.assertEqual(list(items[first : first + 10]), [source.shown(item) for item in gone])
            if source.total and not isinstance(items, range):
                self.assertEqual([], source._items + source._pickles)

    def test_numbers_of_any_size_count_alike_on_both_sides(self):
        source = made(iter([1, 10 ** 4000, 2.5, None, "text", (1, 2), ("a", b"b"), [1]]))
        read(source)
        size, _ = source.let_go(0, 8)
        self.assertEqual(size, source._bytes_in)
        self.assertLess(size, sys.maxsize)


if __name__ == "__main__":
    unittest.main()

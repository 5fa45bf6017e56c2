"""The structures that find something without a look at all there is."""
from __future__ import absolute_import, division, print_function

import random
import unittest

from minimalcluster.brain import indexes, leases
from tests.support import patched

class RankedTest(unittest.TestCase):
    def test_in_the_nodes_order_whatever_the_order_of_filing(self):
        nodes = [leases.Node(rank, 1, 1, "", 0.0, rank) for rank in range(5)]
        ranked = indexes.Ranked()
        for rank in (3, 0, 4, 0):
            ranked.file(nodes[rank], True)
        self.assertEqual([node.rank for node in ranked], [0, 3, 4])
        self.assertEqual([getattr(ranked.after(rank), "rank", None) for rank in (-1, 0, 1, 3, 4)], [0, 3, 3, 4, None])
        for rank in (3, 1):
            ranked.file(nodes[rank], False)
        self.assertEqual((len(ranked), nodes[3] in ranked, nodes[4] in ranked), (2, False, True))


class BestTest(unittest.TestCase):
    def setUp(self):
        self.keys = {"a": 3, "b": 1, "c": None}
        self.best = indexes.Best(lambda thing, now: self.keys[thing])
        for thing in self.keys:
            self.best.note(thing)

    def change(self, thing, key):
        self.keys[thing] = key
        self.best.note(thing)

    def test_the_least_key(self):
        self.assertEqual("b", self.best.first(0.0))
        self.change("c", 0)
        self.assertEqual("c", self.best.first(0.0))
        self.change("c", 9)
        self.change("b", None)
        self.assertEqual("a", self.best.first(0.0))
        self.best.drop("a")
        self.assertEqual("c", self.best.first(0.0))
        self.change("c", None)
        self.assertIsNone(self.best.first(0.0))

    def test_whether_it_is_looked_at(self):
        self.best.first(0.0)
        self.assertEqual([True, True, False], [self.best.knows(thing) for thing in "abc"])
        self.best.note("c")
        self.assertTrue(self.best.knows("c"))
        self.best.drop("c")
        self.assertFalse(self.best.knows("c"))

    def test_former_keys_are_dropped_sooner_or_later(self):
        for key in range(10 * indexes.STALE_MIN):
            self.change("a", 10 + key)
            self.assertEqual("b", self.best.first(0.0))
        self.assertLess(len(self.best._heap), 2 * indexes.STALE_MIN)


class AgendaTest(unittest.TestCase):
    def setUp(self):
        self.moments = {"a": 3.0, "b": 1.0, "c": None}
        self.agenda = indexes.Agenda(self.moments.get)
        for thing in self.moments:
            self.agenda.note(thing)

    def first(self, now):
        """The earliest moment, when what was due by now and put off has been noticed."""
        self.assertEqual(self.agenda.take(now), [])
        return self.agenda.not_before()

    def test_the_first(self):
        self.assertEqual(self.agenda.not_before(), 1.0)
        self.moments["b"] = 5.0  # it was put off
        self.assertEqual(self.agenda.not_before(), 1.0)  # a lower bound
        self.assertEqual(self.first(1.0), 3.0)
        self.moments["c"] = 2.0
        self.agenda.note("c")  # it was brought forward
        self.assertEqual(self.first(1.5), 2.0)
        self.agenda.drop("c")
        self.assertEqual(self.first(2.5), 3.0)
        self.moments.update(a=None, b=None)
        self.assertIsNone(self.first(9.0))

    def test_what_is_due(self):
        self.assertEqual(self.agenda.take(0.5), [])
        self.moments["a"] = 4.0
        self.assertEqual(self.agenda.take(3.5), ["b"])
        self.assertEqual(self.agenda.take(9.0), ["a"])
        self.assertEqual(self.agenda.take(9.0), [])

    def test_brought_forward_and_put_off_again(self):
        self.moments["a"] = 0.5
        self.agenda.note("a")
        self.moments["a"] = 3.0
        self.assertEqual(self.agenda.take(3.0), ["b", "a"])
        self.assertIsNone(self.agenda.not_before())

    def test_whether_it_notices(self):
        self.assertTrue(self.agenda.knows("a") and self.agenda.knows("c"))
        self.moments["a"] = 2.0
        self.assertFalse(self.agenda.knows("a"))


class GapsTest(unittest.TestCase):
    def test_what_no_span_covers(self):
        for spans, gaps in (
            ([], [(0, 10)]),
            ([(0, 10)], []),
            ([(0, 3), (5, 6)], [(3, 5), (6, 10)]),
            ([(5, 6), (0, 3), (2, 5)], [(6, 10)]),
            ([(8, 99)], [(0, 8)]),
        ):
            self.assertEqual(indexes.gaps_between(spans, 10), gaps, spans)
        self.assertEqual(indexes.gaps_between([], 0), [])

    def test_the_last_part_is_taken_from_them(self):
        for first, end, found, left in (
            (0, 20, (8, 10), [(0, 3), (5, 7)]),
            (6, 8, (6, 7), [(0, 3), (5, 6), (8, 10)]),
            (1, 2, (1, 2), [(0, 1), (2, 3), (5, 7), (8, 10)]),
            (2, 5, (2, 3), [(0, 2), (5, 7), (8, 10)]),
            (3, 5, None, [(0, 3), (5, 7), (8, 10)]),
            (10, 12, None, [(0, 3), (5, 7), (8, 10)]),
        ):
            for block in (1, 2, 500):
                with patched(indexes, "GAPS_BLOCK", block):
                    gaps = indexes.Gaps([(0, 3), (5, 7), (8, 10)])
                    self.assertEqual((gaps.take(first, end), list(gaps)), (found, left), (first, end))

    def test_what_was_taken_is_not_found_again(self):
        for block in (1, 2, 500):
            with patched(indexes, "GAPS_BLOCK", block):
                gaps = indexes.Gaps([(0, 3), (5, 7), (8, 10)])
                taken = [gaps.take(0, 10) for _ in range(4)]
                self.assertEqual(([(8, 10), (5, 7), (0, 3), None], []), (taken, list(gaps)))


class PlacesTest(unittest.TestCase):
    def setUp(self):
        self.job = leases.Job(1, 10 ** 6, leases.DEFAULTS, 0.0)
        self.places = indexes.Places(leases.DONE)

    def put(self, lo, hi):
        piece = leases.Piece(self.job, lo, hi)
        self.places.put(piece)
        return piece

    def test_in_any_order(self):
        middle, last, first = self.put(10, 20), self.put(20, 21), self.put(0, 5)
        self.assertEqual(list(self.places), [first, middle, last])
        for task, piece in ((0, first), (4, first), (5, None), (9, None), (10, middle), (19, middle), (20, last), (21, None)):
            self.assertIs(self.places.having(task), piece)

    def test_what_was_delivered_is_not_found(self):
        piece = self.put(0, 10)
        again = self.put(20, 30)
        piece.lo = 6
        self.assertIs(self.places.having(6), piece)
        self.assertIsNone(self.places.having(5))
        piece.state = leases.DONE
        part = self.put(7, 8)  # of the one that is no more
        self.assertEqual([self.places.having(task) for task in (6, 7, 8, 25)], [None, part, None, again])

    def test_what_is_done_is_dropped_sooner_or_later(self):
        for lo in range(10 * indexes.PLACES_BLOCK):
            self.put(lo, lo + 1).state = leases.DONE if lo % 100 else leases.QUEUED
        self.assertEqual([piece.lo for piece in self.places], list(range(0, 10 * indexes.PLACES_BLOCK, 100)))
        self.assertLess(sum(map(len, self.places._blocks)), 2 * indexes.PLACES_BLOCK)

    def test_the_same_with_blocks_of_any_size(self):
        for block in (2, 3, 5, 500):
            with patched(indexes, "PLACES_BLOCK", block):
                order = list(range(40))
                random.Random(block).shuffle(order)
                places, pieces = indexes.Places(leases.DONE), {}
                places.fill([pieces.setdefault(lo, leases.Piece(self.job, lo, lo + 1)) for lo in range(40, 50)])
                for lo in order:
                    places.put(pieces.setdefault(lo, leases.Piece(self.job, lo, lo + 1)))
                    pieces[order[0]].state = leases.DONE
                    found = [lo for lo, piece in pieces.items() if places.having(lo) is piece]
                    self.assertEqual(sorted(found), sorted(set(pieces) - set(order[:1])))
                self.assertEqual([piece.lo for piece in places], sorted(set(pieces) - set(order[:1])))
                self.assertLessEqual(max(map(len, places._blocks)), block)

    def test_twice_as_many_pieces_take_little_more_than_twice_as_many_steps(self):
        class Counted(object):
            """A piece of one task, which counts how often it is looked at."""

            looks, state = 0, leases.QUEUED

            def __init__(self, task):
                self.task, self.hi = task, task + 1

            @property
            def lo(self):
                Counted.looks += 1
                return self.task

        def steps(count):
            places, order, Counted.looks = indexes.Places(leases.DONE), list(range(count)), 0
            random.Random(1).shuffle(order)
            for task in order:
                places.put(Counted(task))
            self.assertLess(max(map(len, places._blocks)), indexes.PLACES_BLOCK)  # so many are moved by an insertion
            for task in order:
                self.assertEqual(places.having(task).task, task)
            return Counted.looks

        self.assertLess(steps(4000), 2.3 * steps(2000))


if __name__ == "__main__":
    unittest.main()

"""What the scheduler keeps."""
from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster.brain.leases import DEFAULTS, PLACES_MIN, Job, Node, Piece, Places, Speed, gaps_between, taken_from


class GapsTest(unittest.TestCase):
    def test_what_no_span_covers(self):
        for spans, gaps in (
            ([], [(0, 10)]),
            ([(0, 10)], []),
            ([(0, 3), (5, 6)], [(3, 5), (6, 10)]),
            ([(5, 6), (0, 3), (2, 5)], [(6, 10)]),
            ([(8, 99)], [(0, 8)]),
        ):
            self.assertEqual(gaps_between(spans, 10), gaps, spans)
        self.assertEqual(gaps_between([], 0), [])

    def test_the_last_part_is_taken_from_them(self):
        for first, end, found, left in (
            (0, 20, (8, 10), [(0, 3), (5, 7)]),
            (6, 8, (6, 7), [(0, 3), (5, 6), (8, 10)]),
            (1, 2, (1, 2), [(0, 1), (2, 3), (5, 7), (8, 10)]),
            (2, 5, (2, 3), [(0, 2), (5, 7), (8, 10)]),
            (3, 5, None, [(0, 3), (5, 7), (8, 10)]),
            (10, 12, None, [(0, 3), (5, 7), (8, 10)]),
        ):
            gaps = [(0, 3), (5, 7), (8, 10)]
            self.assertEqual((taken_from(gaps, first, end), gaps), (found, left), (first, end))


class PlacesTest(unittest.TestCase):
    def setUp(self):
        self.job = Job(1, 10 ** 6, DEFAULTS, 0.0)
        self.places = Places()

    def put(self, lo, hi):
        piece = Piece(self.job, lo, hi)
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
        piece.live = False
        part = self.put(7, 8)  # of the one that is no more
        self.assertEqual([self.places.having(task) for task in (6, 7, 8, 25)], [None, part, None, again])

    def test_what_is_done_is_dropped_sooner_or_later(self):
        for lo in range(100 * PLACES_MIN):
            self.put(lo, lo + 1).live = lo % 100 == 0
        self.assertEqual(len(list(self.places)), PLACES_MIN)
        self.assertLess(len(self.places._pieces), 3 * PLACES_MIN)


class SpeedTest(unittest.TestCase):
    def test_the_newest_counts_as_much_as_all_before(self):
        speed = Speed()
        speed.measured(10, 1.0, 1000)
        self.assertEqual((speed.seconds, speed.bytes, speed.largest), (0.1, 100.0, 10))
        speed.measured(2, 0.6, 20)
        self.assertAlmostEqual(speed.seconds, 0.2)
        self.assertEqual((speed.bytes, speed.largest), (50.0, 10))  # large ones are forgotten slowly


class JobTest(unittest.TestCase):
    def test_its_end(self):
        for total, finished in ((0, True), (2, False), (None, False)):
            self.assertEqual(Job(1, total, DEFAULTS, 0.0).finished, finished)
        job = Job(1, 2, DEFAULTS, 0.0)
        job.delivered = 2
        self.assertTrue(job.finished)
        job.delivered, job.stopped = 1, True
        job.leases[1] = None
        self.assertFalse(job.finished)
        del job.leases[1]
        self.assertTrue(job.finished)

    def test_what_may_be_handed_out(self):
        job = Job(1, 2, DEFAULTS, 0.0)
        self.assertTrue(job.ready)
        job.paused = True
        self.assertFalse(job.ready)
        self.assertFalse(Job(1, 0, DEFAULTS, 0.0).ready)

    def test_what_runs_apart_waits_apart(self):
        job = Job(1, 10, DEFAULTS, 0.0)
        job.cursor, job.queued = 10, 0
        for piece, apart in ((Piece(job, 0, 4), False), (Piece(job, 4, 5), False), (Piece(job, 5, 6, apart=True), True)):
            piece.enqueue()
            self.assertTrue(piece.queued)
            self.assertEqual((piece.apart, list(job.apart if apart else job.pieces), job.queued), (apart, [piece], piece.size))
            self.assertEqual(job.ready, not apart)
            piece.dequeue()
            self.assertEqual((piece.queued, job.queued), (False, 0))

    def test_pieces_and_nodes(self):
        self.assertEqual(Piece(Job(1, 9, DEFAULTS, 0.0), 3, 7).size, 4)
        node = Node("n", 1, 2, "name", 0.0)
        self.assertTrue(node.serving)
        node.draining = True
        self.assertFalse(node.serving)


if __name__ == "__main__":
    unittest.main()

"""What the scheduler keeps."""
from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster.leases import DEFAULTS, Job, Node, Piece, Speed, gaps_between


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

    def test_within_others(self):
        self.assertEqual(gaps_between([(2, 7)], 10, [(0, 3), (6, 8)]), [(0, 2), (7, 8)])


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
        job.delivered, job.stopped, job.leased = 1, True, 1
        self.assertFalse(job.finished)
        job.leased = 0
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

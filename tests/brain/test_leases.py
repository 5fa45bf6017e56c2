"""The data of the ledger, and the tables of its states."""
from __future__ import absolute_import, division, print_function

import os
import sys
import unittest

from minimalcluster.brain import leases
from minimalcluster.brain.leases import DEFAULTS, Job, Node, Piece, Speed
from tests.support import ROOT

sys.path.insert(0, os.path.join(ROOT, "tools"))
import state_pictures  # noqa: E402

class StatesTest(unittest.TestCase):
    def test_each_state_is_reached_and_is_left_but_the_last(self):
        for first, last, table in (
            (leases.NEW, leases.DONE, leases.PIECE_TRANSITIONS),
            (leases.NEW, leases.OVER, leases.LEASE_TRANSITIONS),
        ):
            reached, found = set(), {first}
            while found:
                state = found.pop()
                reached.add(state)
                found.update(set(table[state].values()) - reached)
            self.assertEqual(set(table), reached)
            self.assertEqual([last], [state for state, row in table.items() if not row])

    @unittest.skipIf(sys.version_info < (3, 7), "a table has no order")
    def test_the_pictures_in_the_architecture_are_made_from_the_tables(self):
        text = state_pictures.read()
        self.assertTrue(text == state_pictures.with_pictures(text), "run python3 tools/state_pictures.py")


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
        job.limit = 1
        self.assertTrue(job.ready)
        job.cursor, job.queued = 1, 1
        self.assertEqual((job.ready, job.held_back), (False, True))
        job.pieces[Piece(job, 0, 1)] = None  # what was cut once
        self.assertEqual((job.ready, job.held_back), (True, False))
        self.assertFalse(Job(1, 0, DEFAULTS, 0.0).ready)

    def test_whether_its_next_piece_is_exclusive(self):
        job = Job(1, 10, DEFAULTS, 0.0)
        self.assertFalse(job.next_is_exclusive)
        for exclusive in (True, False):  # the last one comes first
            job.pieces[Piece(job, 5, 6, exclusive=exclusive)] = None
            self.assertEqual(exclusive, job.next_is_exclusive)

    def test_pieces_and_nodes(self):
        self.assertEqual(Piece(Job(1, 9, DEFAULTS, 0.0), 3, 7).size, 4)
        node = Node("n", 1, 2, "name", 0.0)
        self.assertTrue(node.serving)
        node.draining = True
        self.assertFalse(node.serving)


if __name__ == "__main__":
    unittest.main()

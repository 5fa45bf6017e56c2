"""How far a job may be handed out ahead of its reader."""
from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster.master.window import STEPS, Window

SLOTS = 2


class WindowTest(unittest.TestCase):
    def setUp(self):
        self.window = Window(100 * STEPS, 1000, 3)
        self.assertEqual(self.limit(), 100 * STEPS)

    def limit(self):
        return self.window.limit_for(SLOTS)

    def came(self, first, count, size):
        self.window.came(first, count, size)
        return self.window.has_filled()

    def test_it_rises_with_what_is_taken_and_is_told_in_steps(self):
        self.assertEqual([self.came(first, 50, 1) for first in (0, 50, 100, 150)], [False] * 4)
        self.assertEqual([self.window.took(first, 50) for first in (0, 50, 100)], [False, True, True])
        self.assertEqual(self.limit(), 150 + 100 * STEPS)
        self.assertEqual([self.window.took(150, 50), self.window.took(200, 50)], [False, True])

    def test_row_38_large_results_hold_it_at_the_last_of_them_until_half_are_taken(self):
        self.assertEqual([self.came(0, 1, 500), self.came(1, 1, 500), self.came(7, 2, 1)], [False, False, True])
        self.assertEqual(self.limit(), 9)
        self.assertFalse(self.came(3, 1, 300))  # it is told already
        self.assertEqual(self.limit(), 9)
        self.assertEqual([self.window.took(0, 1), self.window.took(1, 1)], [False, True])
        self.assertEqual(self.limit(), 2 + 100 * STEPS)

    def test_while_the_reader_waits_as_many_more_may_wait_as_keep_the_worker_processes_busy(self):
        self.assertFalse(self.window.waits())
        self.assertEqual([self.came(first, 1, 900) for first in range(1, 8)], [False] * 6 + [True])
        self.assertEqual(self.limit(), 8)
        self.assertFalse(self.came(0, 1, 1))
        self.assertEqual([self.window.took(first, 1) for first in range(8)], [False] * 7 + [True])

    def test_a_reader_that_waits_makes_room_itself(self):
        self.assertTrue(self.came(1, 2, 2000))
        self.assertEqual(self.limit(), 3)
        self.assertTrue(self.window.waits())
        self.assertEqual(self.limit(), 100 * STEPS)

    def test_what_a_journal_had_is_taken_and_did_not_come(self):
        self.assertTrue(self.window.took(0, 100))
        self.assertEqual(self.limit(), 100 + 100 * STEPS)
        self.assertTrue(self.came(200, 1, 2000))

    def test_why_a_job_waits(self):
        self.assertIsNone(Window().wait())  # nothing has been told
        self.came(0, 100 * STEPS - 1, 1)
        self.assertIsNone(self.window.wait())
        self.came(100 * STEPS - 1, 1, 1)
        self.assertIn("800 results (0 MB) wait to be taken", self.window.wait())

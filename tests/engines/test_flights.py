"""Which chunks start when, and which of them are suspects after a worker process has died."""
from __future__ import absolute_import, division, print_function

import sys
import unittest

from minimalcluster.payload import values
from minimalcluster.wire import protocol

PYTHON_3 = sys.version_info >= (3, 6)
if PYTHON_3:
    from minimalcluster.engines import flights
    from minimalcluster.engines.flights import Flight, Flights


def flight(slot, first=0, count=2, job=1, careful=0):
    payload = values.ScalarArguments(list(range(first, first + count))).encode(0, count)
    return Flight(slot, protocol.Grant(100 + slot, job, first, count, careful, payload))


@unittest.skipUnless(PYTHON_3, "engines are for Python 3")
class FlightsTest(unittest.TestCase):
    def setUp(self):
        self.lines = Flights()

    def add(self, *added):
        for each in added:
            self.lines.add(each)
        return added

    def started(self):
        return list(iter(self.lines.next, None))

    def test_all_start_in_their_order(self):
        added = self.add(flight(1), flight(0))
        self.assertTrue(self.lines.has_not_started(added[0]))
        self.assertEqual(list(added), self.started())
        self.assertFalse(self.lines.has_not_started(added[0]))
        self.assertTrue(all(map(self.lines.flies, added)))
        self.assertFalse(any(map(self.lines.is_alone, added)))

    def test_suspects_start_when_nothing_else_flies_and_each_alone(self):
        first, second, neighbour = self.add(flight(0), flight(1), flight(2))
        self.started()
        self.lines.suspect(first)
        self.lines.suspect(second)
        later = self.add(flight(3))[0]
        self.assertEqual([], self.started())
        self.lines.remove(neighbour)
        self.assertEqual([first], self.started())
        self.assertTrue(self.lines.is_alone(first))
        self.assertEqual((0, 1), (first.part().first, first.part().count))
        self.lines.remove(first)
        self.assertEqual([second], self.started())
        self.lines.remove(second)
        self.assertEqual([later], self.started())

    def test_a_task_that_is_to_blame_flies_alone_in_each_later_grant(self):
        deadly, other = self.add(flight(0, first=4), flight(1, first=6))
        self.started()
        deadly.next = 5
        self.lines.blame(deadly)
        self.lines.remove(other)
        again, job_2 = self.add(flight(2, first=5), flight(3, first=5, job=2))
        self.assertEqual([again], self.started())
        self.lines.remove(again)
        self.assertEqual([job_2], self.started())
        self.lines.remove(job_2)
        self.lines.forget(1)
        added = self.add(flight(4, first=5), flight(5, first=6))
        self.assertEqual(list(added), self.started())

    def test_what_is_remembered_of_deaths_is_bounded(self):
        for number in range(flights.DEADLY_MAX + 10):
            self.lines.blame(flight(0, first=number))
        self.assertEqual(flights.DEADLY_MAX, len(self.lines._deadly))

    def test_what_is_removed_does_not_start(self):
        waiting, suspect, flying = self.add(flight(0), flight(1), flight(2))
        self.lines.remove(waiting)
        self.started()
        self.lines.suspect(suspect)
        self.lines.remove(suspect)
        self.lines.remove(flying)
        self.assertEqual([], self.started())
        self.assertFalse(self.lines.flies(flying))


@unittest.skipUnless(PYTHON_3, "engines are for Python 3")
class FlightTest(unittest.TestCase):
    def arguments(self, part):
        items, load = values.decode_arguments(part.payload, part.count)
        return [load(item) if load else item for item in items]

    def test_the_next_call_has_the_rest(self):
        each = flight(0, first=3, count=5)
        self.assertEqual([3, 4, 5, 6, 7], self.arguments(each.part()))
        each.next = 6
        self.assertEqual((6, 2), each.part()[2:4])
        self.assertEqual([6, 7], self.arguments(each.part()))

    def test_one_by_one(self):
        each = flight(0, first=3, count=5, careful=1)
        self.assertEqual([3], self.arguments(each.part()))
        each.next = 4
        self.assertEqual([4], self.arguments(each.part()))


if __name__ == "__main__":
    unittest.main()

"""What a brain remembers: of the right thing, in order, bounded, and told when it breaks."""
from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster import InternalError
from minimalcluster.brain.history import WithHistory


class WithHistoryTest(unittest.TestCase):
    def test_what_is_remembered_of_one_thing(self):
        brain = WithHistory(3)
        for now, words in ((1.0, ("node", "a")), (2.0, ("node", "b")), (3.0, ("node", "a", "left"))):
            brain._now = now
            brain._remember(*words)
        self.assertEqual([(1.0, ("node", "a")), (3.0, ("node", "a", "left"))], brain.story("a"))
        brain._remember("node", "c")  # the oldest makes room
        self.assertEqual([(3.0, ("node", "a", "left"))], brain.story("a"))

    def test_an_error_remembers_it(self):
        brain = WithHistory(3)
        brain._remember("node", "a", "joined")
        brain._remember("node", "b", "joined")
        with self.assertRaises(InternalError) as caught:
            brain._broken("a is lost", "a")
        self.assertEqual("a is lost\n0.000 ('node', 'a', 'joined')", str(caught.exception))


if __name__ == "__main__":
    unittest.main()

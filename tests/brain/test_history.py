"""What a brain remembers: of the right thing, in order, bounded, and told when it breaks."""
from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster import InternalError
from minimalcluster.brain.history import Storied


class StoriedTest(unittest.TestCase):
    def test_what_is_remembered_of_one_thing(self):
        brain = Storied(3)
        for now, words in ((1.0, ("node", "a")), (2.0, ("node", "b")), (3.0, ("node", "a", "left"))):
            brain._now = now
            brain._tell(*words)
        self.assertEqual([(1.0, ("node", "a")), (3.0, ("node", "a", "left"))], brain.story("a"))
        brain._tell("node", "c")  # the oldest makes room
        self.assertEqual([(3.0, ("node", "a", "left"))], brain.story("a"))

    def test_an_error_tells_it(self):
        brain = Storied(3)
        brain._tell("node", "a", "joined")
        brain._tell("node", "b", "joined")
        with self.assertRaises(InternalError) as caught:
            brain._broken("a is lost", "a")
        self.assertEqual("a is lost\n0.000 ('node', 'a', 'joined')", str(caught.exception))


if __name__ == "__main__":
    unittest.main()

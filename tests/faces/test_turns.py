"""A thread for many: turns, the order in which they come, and that the thread ends with its members."""
from __future__ import absolute_import, division, print_function

import threading
import unittest

from tests import support
from tests.sent import PYTHON_3

if PYTHON_3:
    from minimalcluster.compat import monotonic
    from minimalcluster.faces.turns import Turns


class Member(object):
    """turns: how many it wants; then it is over."""

    def __init__(self, turns=1, error=None):
        self.left, self.error, self.threads = turns, error, []
        self.over = threading.Event()

    def turn(self):
        self.threads.append(threading.current_thread())
        self.left -= 1
        if self.error is not None:
            raise self.error
        if not self.left:
            self.over.set()
        return not self.left


@unittest.skipUnless(PYTHON_3, "the faces are for Python 3")
class TurnsTest(unittest.TestCase):
    def setUp(self):
        self.turns = Turns("of " + self.id())

    def running(self):
        return [thread for thread in threading.enumerate() if thread.name == "of " + self.id()]

    def test_one_thread_for_all_and_none_when_all_are_over(self):
        for _ in range(3):
            members = [Member(2) for _ in range(50)]
            for member in members:
                self.turns.add(member)
            support.wait_until(lambda: all(member.left == 1 for member in members))  # noqa: B023
            self.assertEqual(1, len(self.running()))
            for member in members:
                self.turns.call(member)
                self.turns.call(member)  # no second turn
            support.wait_until(lambda: not self.running(), what="the thread's end")
            self.assertEqual({0}, {member.left for member in members})
            self.assertEqual(1, len(set(thread for member in members for thread in member.threads)))

    def test_whoever_is_no_member_is_not_called(self):
        member = Member(5)
        self.turns.call(member)
        self.turns.add(Member())
        support.wait_until(lambda: not self.running(), what="the thread's end")
        self.assertEqual(5, member.left)

    def test_called_at_a_moment(self):
        late, early = Member(2), Member(2)
        for member in (late, early):
            self.turns.add(member)
        support.wait_until(lambda: late.left == early.left == 1)
        self.turns.call_at(monotonic() + 3600, late)
        self.turns.call_at(monotonic(), early)
        self.assertTrue(early.over.wait(support.SECONDS))
        self.assertEqual(1, late.left)
        self.turns.call(late)
        support.wait_until(lambda: not self.running(), what="the thread's end")

    def test_what_one_raises_is_the_others_business_not(self):
        with support.Log() as log:
            bad, good = Member(3, SystemExit("mine")), Member()
            self.turns.add(bad)
            self.turns.add(good)
            self.assertTrue(good.over.wait(support.SECONDS))
            support.wait_until(lambda: log.having("failed; please report this"))
        support.wait_until(lambda: not self.running(), what="the thread's end")

    def test_from_many_threads(self):
        members = [Member(50) for _ in range(4)]
        for member in members:
            self.turns.add(member)

        def call(member):
            while not member.over.wait(0.0001):
                self.turns.call(member)

        with support.switching_often():
            callers = [support.Background(call, member) for member in members]
            for caller in callers:
                caller.result()
        support.wait_until(lambda: not self.running(), what="the thread's end")


if __name__ == "__main__":
    unittest.main()

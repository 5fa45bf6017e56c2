"""The loop: its rhythm, its wake-up, its limits."""
from __future__ import absolute_import, division, print_function

import os
import threading
import unittest

from minimalcluster.compat import monotonic
from minimalcluster.wire.loop import Loop
from tests import support
from tests.support import wait_until
from tests.wire.links import Owner, connected, in_loop, open_descriptors, running


class Cycles(unittest.TestCase):
    def test_calls_of_many_threads_all_run_there_in_order(self):
        with running() as loop:
            ran = []
            own = in_loop(loop, threading.current_thread)

            def work(name):
                for number in range(500):
                    loop.call(lambda n=number: ran.append((name, n, threading.current_thread() is own)))

            for worker in [support.Background(work, name) for name in range(4)]:
                worker.result()
            wait_until(lambda: len(ran) == 2000, what="2000 calls")
            for name in range(4):
                self.assertEqual([(name, n, True) for n in range(500)], [each for each in ran if each[0] == name])

    def test_a_call_wakes_a_loop_that_waits_for_nothing(self):
        with running() as loop:
            for _ in range(200):  # one lost wake-up would leave it asleep for ever
                self.assertEqual(1, in_loop(loop, lambda: 1))

    def test_ctrl_c_while_it_is_woken_does_not_leave_it_asleep(self):
        class Interrupted(object):
            def send(self, data, flags):
                raise KeyboardInterrupt

        with running() as loop:
            ran = []
            in_loop(loop, lambda: None)
            support.wait_until(lambda: not loop._awake, what="its waiting")
            with support.patched(loop._wake_up, "_far", Interrupted()):
                self.assertRaises(KeyboardInterrupt, loop.call, ran.append, 1)
            loop.call(ran.append, 2)
            wait_until(lambda: ran == [1, 2], what="both calls")

    def test_a_call_from_the_loop_itself_runs_in_its_next_cycle(self):
        with running() as loop:
            ran = []
            loop.call(lambda: loop.call(lambda: loop.call(ran.append, 1)))
            wait_until(lambda: ran, what="a call of a call")

    def test_a_call_before_it_runs_is_not_lost(self):
        loop = Loop()
        ran = []
        loop.call(ran.append, 1)
        loop.stop()
        loop.run()
        loop.close()
        self.assertEqual([1], ran)

    def test_a_participant_is_stepped_when_it_is_due(self):
        class Participant(object):
            def __init__(self):
                self.moments = [monotonic() + 0.02, monotonic() + 0.04]

            def deadline(self):
                return self.moments[0] if self.moments else None

            def step(self, now):
                while self.moments and now >= self.moments[0]:
                    self.moments.pop(0)

        participant = Participant()
        with running() as loop:
            loop.call(loop.join, participant)
            wait_until(lambda: not participant.moments, what="both moments")
            in_loop(loop, loop.leave, participant)
            in_loop(loop, loop.leave, participant)  # twice does no harm

    @unittest.skipUnless(os.path.exists("/proc/self/fd"), "descriptors are counted in /proc")
    def test_it_gives_its_descriptors_back(self):
        with running() as loop:
            connected(loop, Owner(), Owner())
        before = open_descriptors()
        for _ in range(3):
            with running() as loop:
                connected(loop, Owner(), Owner())
        self.assertEqual(before, open_descriptors())


if __name__ == "__main__":
    unittest.main()

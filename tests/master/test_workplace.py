"""Where a cluster's own node works, if nobody says otherwise: on this machine."""
from __future__ import absolute_import, division, print_function

import sys
import unittest

from minimalcluster import errors
from minimalcluster.master.workplace import ThisMachine
from minimalcluster.node.node import Node
from minimalcluster.wire.loop import Loop
from tests import support


class ThisMachineTest(unittest.TestCase):
    def test_it_joins_when_the_user_says_so(self):
        self.assertIsNone(ThisMachine().slots_at_start())
        self.assertTrue(ThisMachine.runs_scripts)
        ThisMachine().check_leave()

    def test_without_a_python_for_worker_processes_it_does_not_join(self):
        ThisMachine().check_join()
        with support.patched(sys, "executable", ""):
            self.assertRaises(errors.StartError, ThisMachine().check_join)

    def test_its_node_has_worker_processes(self):
        loop = Loop()
        self.addCleanup(loop.close)
        self.assertIsInstance(ThisMachine().node(loop, 1, None, None, None), Node)


if __name__ == "__main__":
    unittest.main()

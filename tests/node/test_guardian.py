"""The process that ends what a killed node has started: it starts anywhere, and without the key."""
from __future__ import absolute_import, division, print_function

import os
import sys
import unittest

from minimalcluster.node import boot, guardian
from tests import support


@unittest.skipIf(os.name == "nt", "job objects stand in for it")
class GuardianTest(unittest.TestCase):
    def start(self, **variables):
        before = dict(os.environ)
        os.environ.update(variables)
        try:
            process = guardian.start(self.node_id)
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.addCleanup(process.stdin.close)
        return process

    def setUp(self):
        self.node_id = os.urandom(16)

    @unittest.skipUnless(os.path.exists("/proc/self/environ"), "this system has no /proc to find processes in")
    def test_row_78_it_has_no_key(self):
        process = self.start(**{boot.KEY_VARIABLE: "secret"})
        with support.Log() as log:
            self.assertTrue(guardian.has_forked(process))
        mark = guardian.node_mark(self.node_id)
        found = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if mark in support._command(pid)]
        self.assertEqual(1, len(found))
        self.assertNotIn("secret", support.read("/proc/%d/environ" % found[0]))
        self.assertEqual([], log.messages)

    def test_row_78_one_that_cannot_start_is_no_secret(self):
        real = boot.command
        for code, words in (("raise OSError('no memory')", "no memory"), ("import os; os._exit(3)", "exit code 3")):
            with support.patched(boot, "command", lambda *arguments: [sys.executable, "-c", code]):  # noqa: B023
                process = self.start()
            with support.Log() as log:
                self.assertFalse(guardian.has_forked(process))
                support.wait_until(lambda: log.having(words), what="a word of it")  # noqa: B023
            self.assertTrue(log.having("what its tasks have started stays"))
        self.assertIs(real, boot.command)

    def test_row_78_it_starts_beside_a_backport_that_is_no_match_for_python(self):
        folder = support.directory_for(self)
        support.write(os.path.join(folder, "enum.py"), "class Enum(object):\n    pass\n")
        support.write(os.path.join(folder, "socket.py"), "raise ImportError('an old one')\n")
        with support.Log() as log:
            self.assertTrue(guardian.has_forked(self.start(PYTHONPATH=folder)))
        self.assertEqual([], log.messages)


if __name__ == "__main__":
    unittest.main()

"""The demo, as a person meets it: from a bare checkout, interrupted, and with wrong answers."""
from __future__ import absolute_import, division, print_function

import os
import re
import shutil
import unittest

import minimalcluster
from minimalcluster.command import demo
from tests import commands, support

QUICK = commands.minimalcluster("demo", "--quick")


class ProgressTest(unittest.TestCase):
    def test_the_time_left_is_told_once_there_is_something_to_tell_it_from(self):
        code = (
            "from minimalcluster.command import demo\n"
            "now = [100.0]\n"
            "demo.monotonic = lambda: now[0]\n"
            "shown = demo._Display(now[0])\n"
            "for done in range(1, 101):\n"
            "    now[0] += 0.1\n"
            "    shown(done, 100)\n"
        )
        status, output = commands.run(["-c", code])
        self.assertEqual(status, 0, output)
        lines = output.splitlines()
        self.assertEqual(len(lines), 6, output)  # after half a second, then every two, and the last
        self.assertTrue(re.match(r" +[56]/100 .* left$", lines[0]), output)
        self.assertIn("100/100", lines[-1])
        self.assertNotIn("left", lines[-1])


class RunTest(unittest.TestCase):
    def test_from_a_bare_checkout(self):
        with support.directory() as path:
            package = os.path.join(support.ROOT, "minimalcluster")
            shutil.copytree(package, os.path.join(path, "minimalcluster"), ignore=shutil.ignore_patterns("*.pyc"))
            code, output = commands.run(QUICK, directory=path, bare=True)
        self.assertEqual(code, 0, output)
        self.assertTrue(output.startswith("minimalcluster %s, Python " % minimalcluster.__version__), output)
        for text in (
            "(the master's process)", "127.0.0.1:", "tasks/s", "times as fast on",
            "1. pi from 100,000 random throws", "ok     100000 results, pi is roughly 3.1",
            "2. the factors of 201 numbers from 999,999,999,999 on",
            "999999999999 = 3 x 3 x 3 x 7 x 11 x 13 x 37 x 101 x 9901",
            "3. several arguments as one tuple", "(1, 2): 3", "(7, 8): 15", "ok     both nodes worked",
        ):  # fmt: skip
            self.assertIn(text, output)
        self.assertTrue(output.endswith("\neverything checked out\n"), output)
        for text in ("WRONG", "Traceback", "WARNING"):
            self.assertNotIn(text, output)

    def test_wrong_answers(self):
        code = (
            "import sys\n"
            "from minimalcluster.command import demo\n"
            "demo.PI_SOURCE = 'throw = lambda _: 0'\n"
            "demo.FACTORIZE_SOURCE = 'factorize = lambda n: [n]'\n"
            "demo.PAIRS_SOURCE = 'add = lambda pair: pair[0] - pair[1]'\n"
            "sys.exit(demo.run(quick=True))\n"
        )
        status, output = commands.run(["-c", code])
        self.assertEqual(status, 1, output)
        self.assertEqual(output.count("   WRONG  "), 3, output)
        self.assertIn("SOMETHING IS WRONG", output)
        self.assertNotIn("everything checked out", output)


#: The second node is stopped before it can join: it hears nothing, from whomever.
STOPPED_NODE = """
import os, signal, sys
from minimalcluster.command import cli, demo
start = demo._start_second_node
def start_and_stop(master):
    node = start(master)
    os.kill(node.pid, signal.SIGSTOP)
    print("stopped %d." % node.pid)
    return node
demo._start_second_node = start_and_stop
demo.JOIN_SECONDS = float(sys.argv[1])
sys.exit(cli.main(["demo", "--quick"]))
"""


@unittest.skipUnless(hasattr(os, "killpg"), "Ctrl-C cannot be sent to another process here")
class InterruptTest(unittest.TestCase):
    def interrupted(self, demo, interrupt):
        """Status 130, one last line, no traceback, no process left."""
        family = support.descendants(demo.pid)
        interrupt()
        self.assertEqual(demo.wait(), 130, demo.output())
        self.assertTrue(demo.output().endswith("\ninterrupted: the nodes and their worker processes have ended\n"), demo.output())
        self.assertNotIn("Traceback", demo.output())
        support.wait_for_death(family)

    def test_in_the_middle(self):
        with commands.Command(commands.minimalcluster("demo")) as process:
            process.wait_for_output("\n2. the factors of")
            self.assertGreater(len(support.descendants(process.pid)), 2)
            self.interrupted(process, process.interrupt)

    def test_while_the_second_node_joins(self):
        with commands.Command(["-c", STOPPED_NODE, "60"]) as process:
            process.wait_for_output("stopped ")
            support.wait_until(lambda: len(support.descendants(process.pid)) > 1, what="the worker processes")
            self.interrupted(process, process.interrupt_alone)

    def test_a_second_node_that_does_not_join(self):
        with commands.Command(["-c", STOPPED_NODE, "0.2"]) as process:
            self.assertEqual(process.wait(), 1, process.output())
            self.assertIn("\nminimalcluster: ", process.output())
            self.assertIn("the second node did not join", process.output())
            self.assertNotIn("Traceback", process.output())
            pid = int(process.output().split("stopped ")[1].split(".")[0])
            self.assertRaises(OSError, os.kill, pid, 0)


class CheckTest(unittest.TestCase):
    """The checks themselves, which decide over the exit status."""

    def test_primes(self):
        sieve = [n for n in range(2, 3000) if all(n % p for p in range(2, int(n ** 0.5) + 1))]
        self.assertEqual([n for n in range(-5, 3000) if demo.is_prime(n)], sieve)
        self.assertTrue(demo.is_prime(999999999989))
        for strong_pseudoprime in (2047, 1373653, 25326001, 3215031751, 2152302898747, 3474749660383):  # A014233
            self.assertFalse(demo.is_prime(strong_pseudoprime))

    def test_factors(self):
        self.assertTrue(demo._right_factors(12, [2, 2, 3]))
        for wrong in (None, [], [2, 3], [4, 3], [12], [1, 2, 2, 3], [2, 2, 2, 3]):
            self.assertFalse(demo._right_factors(12, wrong), wrong)


if __name__ == "__main__":
    unittest.main()

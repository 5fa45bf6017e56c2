"""Every example, run for real."""
from __future__ import absolute_import, division, print_function

import io
import os
import re
import socket
import sys
import unittest

from minimalcluster import MasterNode
from tests import commands, support

PYTHON_3 = sys.version_info >= (3, 6)
EXAMPLES = os.path.join(support.ROOT, "examples")
KEY = MasterNode(PORT=0).AUTHKEY


def example(name):
    return os.path.join(EXAMPLES, name)


def text_of(path):
    with io.open(path, encoding="utf-8") as file:
        return file.read()


class ExamplesTest(unittest.TestCase):
    def run_example(self, name, *arguments):
        code, output = commands.run([example(name)] + list(arguments))
        self.assertEqual(code, 0, output)
        return output

    def test_each_is_run_by_a_test(self):
        tests = [os.path.join(folder, name) for folder, _, names in os.walk(os.path.join(support.ROOT, "tests")) for name in names]
        text = u"".join(text_of(path) for path in tests if path.endswith(".py"))
        # word_counts.py is no program but the environment of environment_file.py; its test names it too.
        names = [name for name in os.listdir(EXAMPLES) if name.endswith(".py")]
        self.assertEqual([name for name in names if '"%s"' % name not in text], [])

    def test_no_guard_is_needed(self):
        for name in ("environment_file.py", "factorize.py", "join.py", "pi.py", "several_arguments.py", "word_counts.py"):
            self.assertNotIn("__main__", text_of(example(name)))

    def test_pi(self):
        output = self.run_example("pi.py", "20000")
        found = re.match(r"20000 throws: pi is roughly (3\.\d{6})\n$", output)
        self.assertTrue(found, output)
        # Five standard deviations of such an estimate are 0.058: missed once in 1.7 million runs.
        self.assertLess(abs(float(found.group(1)) - 3.141593), 0.0581)

    def test_factorize(self):
        output = self.run_example("factorize.py", "20")
        self.assertRegex(output, r"^\S+, process \d+: 20 tasks\n")
        self.assertIn("\n999999999999 = 3 x 3 x 3 x 7 x 11 x 13 x 37 x 101 x 9901\n", output)
        self.assertIn("\n1000000000007 = 34519 x 28969553\n", output)
        self.assertTrue(output.endswith("\n20 numbers, of which 0 are prime\n"), output)

    def test_several_arguments(self):
        output = self.run_example("several_arguments.py")
        self.assertEqual(len(output.splitlines()), 6)
        self.assertTrue(output.startswith("  100 at 1 % for 10 years: 110.46\n"), output)
        self.assertTrue(output.endswith("\n 1000 at 4 % for 10 years: 1480.24\n"), output)

    def test_environment_file(self):
        with support.directory() as path:
            poem = os.path.join(path, "poem.txt")
            with io.open(poem, "w", encoding="utf-8") as file:
                file.write(u"Der Mond ist aufgegangen,\ndie goldnen Sternlein prangen\nam H\u00edmmel hell und klar.\n")
            absent = os.path.join(path, "absent.txt")
            output = self.run_example("environment_file.py", poem, absent)
            self.assertIn("       13  %s\n" % poem, output)
            self.assertIn("   failed  %s\n" % absent, output)
            self.assertIn("No such file", output)
            self.assertTrue(output.endswith("\n       13  in all\n"), output)

    def test_environment_file_counts_its_own_folder(self):
        output = self.run_example("environment_file.py")
        self.assertIn(example("word_counts.py"), output)
        self.assertNotIn("failed", output)

    @unittest.skipUnless(PYTHON_3, "the executor is for Python 3")
    def test_monte_carlo_comes_out_the_same_on_every_cluster(self):
        alone = self.run_example("monte_carlo.py", "7", "1")
        self.assertEqual(alone, "3500 paths: 2.179110969, give or take 0.054\n")
        self.assertEqual(self.run_example("monte_carlo.py", "7", "3"), alone)

    @unittest.skipUnless(PYTHON_3, "the pool is for Python 3")
    def test_from_pool_to_cluster_it_is_one_line(self):
        with support.directory() as path:
            key_file = support.write_key(os.path.join(path, "key"), KEY + "\n")
            output = self.run_example("pool_to_cluster.py", str(support.free_port()), key_file)
            text = text_of(example("pool_to_cluster.py"))
            theirs = text.replace("from minimalcluster import Pool\n", "").replace("# from multi", "from multi")
            self.assertEqual(len(text.splitlines()) - len(theirs.splitlines()), 1)
            script = support.write(os.path.join(path, "theirs.py"), theirs)
            self.assertEqual(commands.run([script]), (0, output))
        self.assertEqual(
            output,
            "1472 primes from 1000000 to 1019999\nthe first is 1000003\n10^12 + 39 is prime: True\n",
        )


class JoinTest(unittest.TestCase):
    def test_join(self):
        with support.directory() as path, MasterNode(PORT=0, AUTHKEY=KEY) as master:
            master.start_master_server(if_join_as_worker=False)
            file = support.write_key(os.path.join(path, "key"), KEY + "\n")
            with commands.Command([example("join.py"), "127.0.0.1", str(master.PORT), file]) as node:
                self.assertEqual(support.run(master, "f = lambda x: x * 2", "f", range(5)), dict((x, 2 * x) for x in range(5)))
                self.assertEqual([worker.pid for worker in master.list_workers()], [node.pid])
                master.shutdown()
                self.assertEqual(node.wait(), 0, node.output())
                self.assertIn("connected to the master at 127.0.0.1:%d\n" % master.PORT, node.output())
                self.assertTrue(node.output().endswith("\nthe master has shut down\n"), node.output())
                self.assertNotIn(KEY, node.output())

    def test_join_without_arguments(self):
        self.assertEqual(commands.run([example("join.py")]), (1, "usage: join.py HOST PORT KEY_FILE\n"))

    def test_factorize_on_two_machines(self):
        """factorize.py as the master, join.py as the other machine."""
        with support.directory() as path:
            port = support.free_port()
            where = ["127.0.0.1", str(port), support.write_key(os.path.join(path, "key"), KEY + "\n")]
            # 600 numbers keep the master busy for ten times as long as a node needs to join.
            with commands.Command([example("factorize.py"), "600"] + where) as master:
                support.wait_until(lambda: listening(port), what="the master's port")
                with commands.Command([example("join.py")] + where) as node:
                    self.assertEqual(master.wait(), 0, master.output())
                    self.assertEqual(node.wait(), 0, node.output())
        for pid in (master.pid, node.pid):
            self.assertIn(", process %d: " % pid, master.output())
        self.assertIn("\n600 numbers, of which", master.output())


def listening(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    except (OSError, socket.error):
        return False


if not hasattr(unittest.TestCase, "assertRegex"):  # py2
    ExamplesTest.assertRegex = unittest.TestCase.assertRegexpMatches

if __name__ == "__main__":
    unittest.main()

"""The document this project was asked from, word for word: what it shows must run."""
from __future__ import absolute_import, division, print_function

import sys
import unittest

from minimalcluster import MasterNode
from tests import support

PI = """
envir_statement = '''
from random import random
example_pi_estimate_throw = lambda x: 1 if (random() * 2 - 1)**2 + (random() * 2 - 1)**2 < 1 else 0
'''
master.load_envir(envir_statement, from_file = False)
master.register_target_function("example_pi_estimate_throw")
N = int(1e6)
master.load_args(range(N))
result = master.execute()
print("Pi is roughly %f" % (4.0 * sum([x2 for x1, x2 in result.items()]) / N))
"""

FACTORIZE = """
envir_statement = '''
# A naive factorization method. Take integer 'n', return list of factors.
# Ref: https://eli.thegreenplace.net/2012/01/24/distributed-computing-in-python-with-multiprocessing
def example_factorize_naive(n):
    if n < 2:
        return []
    factors = []
    p = 2
    while True:
        if n == 1:
            return factors
        r = n % p
        if r == 0:
            factors.append(p)
            n = n / p
        elif p * p >= n:
            factors.append(n)
            return factors
        elif p > 2:
            p += 2
        else:
            p += 1
    assert False, "unreachable"
'''
#Create N large numbers to factorize.
def make_nums(N):
    nums = [999999999999]
    for i in range(N):
        nums.append(nums[-1] + 2)
    return nums
master.load_args(make_nums(5000))
master.load_envir(envir_statement, from_file = False)
master.register_target_function("example_factorize_naive")
result = master.execute()
for x in result.items()[:10]: # if running on Python 3, use `list(result.items())` rather than `result.items()`
    print(x)
"""

SEVERAL_ARGUMENTS = """
envir_statement = '''
f = lambda x:x[0]+x[1]
'''
master.load_envir(envir_statement, from_file = False)
master.register_target_function("f")
master.load_args([(1,2), (3,4), (5, 6), (7, 8)])
result = master.execute()
print(result)
"""

START = """
from minimalcluster import MasterNode
your_host = '127.0.0.1'
your_port= %d
your_authkey = 'a key for the seed, long enough'
master = MasterNode(HOST = your_host, PORT = your_port, AUTHKEY = your_authkey)
master.start_master_server()
"""

JOIN = """
from minimalcluster import WorkerNode
your_host = '127.0.0.1'
your_port= %d
your_authkey = 'a key for the seed, long enough'
N_processors_to_use = 1
worker = WorkerNode(your_host, your_port, your_authkey, nprocs = N_processors_to_use)
worker.join_cluster()
"""

#: The seed's 5,000 numbers take a minute; so many show as well that the calls are right.
NUMBERS = 24


def factorize(numbers):
    """The seed's second example, with fewer numbers, and with the change it asks for on Python 3."""
    text = FACTORIZE.replace("make_nums(5000)", "make_nums(%d)" % numbers)
    if sys.version_info[0] > 2:  # py2
        text = text.replace("in result.items()[:10]", "in list(result.items())[:10]")
    return text


class SeedTest(unittest.TestCase):
    """One master and one WorkerNode in a second process serve all examples, as in the seed."""

    @classmethod
    def setUpClass(cls):
        cls.master = MasterNode(HOST="127.0.0.1", PORT=0)
        cls.master.start_master_server()
        try:
            cls.node = support.node_of(cls.master)
        except BaseException:
            cls.master.shutdown()
            raise

    @classmethod
    def tearDownClass(cls):
        cls.master.shutdown()
        cls.node.kill()

    def run_example(self, text):
        names = {"master": self.master, "print": lambda *values: None}
        exec(compile(text, "seed", "exec"), names)
        return names["result"]

    def test_pi(self):
        result = self.run_example(PI)
        self.assertEqual(list(result), list(range(10 ** 6)))
        self.assertLessEqual(set(result.values()), set([0, 1]))
        # Five standard deviations of the mean of a million throws.
        self.assertAlmostEqual(4.0 * sum(result.values()) / 10 ** 6, 3.141593, delta=5 * 0.001642)

    def test_factorize(self):
        result = self.run_example(factorize(NUMBERS))
        self.assertEqual(list(result), [999999999999 + 2 * n for n in range(NUMBERS + 1)])
        for number, factors in result.items():
            product = 1
            for factor in factors:
                product *= factor
            self.assertEqual(product, number)
        self.assertEqual(result[999999999999], [3, 3, 3, 7, 11, 13, 37, 101, 9901])

    def test_several_arguments(self):
        result = self.run_example(SEVERAL_ARGUMENTS)
        self.assertEqual(result, {(1, 2): 3, (3, 4): 7, (5, 6): 11, (7, 8): 15})

    def test_list_workers(self):
        workers = sorted(self.master.list_workers(), key=lambda worker: worker.pid == self.node.pid)
        self.assertEqual(len(workers), 2)
        for worker in workers:
            hostname, nprocs, pid, busy = worker[:4]
            self.assertEqual((worker.hostname, worker.nprocs, worker.pid, worker.busy), (hostname, nprocs, pid, busy))
            self.assertEqual(busy, 0)
        self.assertEqual(workers[1].nprocs, 1)


class SeedAsScriptTest(unittest.TestCase):
    def test_whole_document_without_a_guard(self):
        """A plain script without ``if __name__ == '__main__'``, and a node started as the seed starts it."""
        port = support.free_port()
        with support.directory() as path:
            script = START % port + (
                "import time\n"
                "while len(master.list_workers()) < 2: time.sleep(0.01)\n"
                "print('workers %d' % len(master.list_workers()))\n"
            ) + PI + factorize(4) + SEVERAL_ARGUMENTS + (
                "master.stop_as_worker()\n"
                "print('workers then %d' % len(master.list_workers()))\n"
                "master.join_as_worker()\n"
                "print('workers at last %d' % len(master.list_workers()))\n"
                "master.shutdown()"
            )  # fmt: skip
            with support.Process(file=support.write(path + "/master.py", script)) as master:
                with support.Process(file=support.write(path + "/node.py", JOIN % port)) as node:
                    self.assertEqual(master.wait(), 0, master.output())
                    self.assertEqual(node.wait(), 0, node.output())
            output = master.output()
        for line in ("workers 2\n", "workers then 1\n", "workers at last 2\n", "Pi is roughly 3.1"):
            self.assertIn(line, output)
        self.assertIn("(999999999999, [3, 3, 3, 7, 11", output)
        self.assertIn("(1, 2), 3" if sys.version_info[0] == 2 else "{(1, 2): 3, (3, 4): 7", output)  # py2
        self.assertNotIn("Traceback", output)

    def test_environment_from_a_file(self):
        with support.directory() as path:
            support.write(path + "/environment.py", "# coding: utf-8\ndef f(x):\n    return x * 2\n")
            with MasterNode(PORT=0) as master:
                master.start_master_server()
                master.load_envir(path + "/environment.py")
                master.register_target_function("f")
                master.load_args([1, 2, 3])
                self.assertEqual(master.execute(), {1: 2, 2: 4, 3: 6})

    def test_not_as_worker(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            self.assertEqual(master.list_workers(), [])


if __name__ == "__main__":
    unittest.main()

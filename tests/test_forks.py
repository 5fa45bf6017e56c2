"""A process that the user's program has forked: it ends nothing of its parent's, and uses nothing of it (row 77)."""
from __future__ import absolute_import, division, print_function

import os
import sys
import unittest

from minimalcluster import JournalError, MasterNode, StateError
from minimalcluster.master import journal
from tests import support

PYTHON_3 = sys.version_info >= (3, 6)
if PYTHON_3:
    from minimalcluster import ClusterExecutor, Pool

SECONDS = 60.0

#: Ends forked processes in all ways there are; what they would take with them is needed behind that.
SCRIPT = """
import atexit, gc, os, sys, threading, warnings
warnings.simplefilter("ignore")  # 3.12 says of each fork that there are threads
from minimalcluster import MasterNode

def ended(leave):
    child = os.fork()
    if child == 0:
        leave()
        os._exit(9)
    return os.waitpid(child, 0)[1]

def collected():
    global text, master
    del text, master
    gc.collect()
    sys.exit(0)

def raised():
    with master:
        sys.exit(0)

if __name__ == "__main__":
    master = MasterNode(PORT=0)
    master.start_master_server()
    text = master.share("x" * 1000)
    for leave in (lambda: sys.exit(0), lambda: os._exit(0), collected, raised, master.shutdown):
        ended(leave)
    if sys.version_info[0] > 2:
        import multiprocessing
        process = multiprocessing.get_context("fork").Process(target=master.shutdown)
        process.start()
        process.join()
    master.stop_as_worker()
    master.join_as_worker()  # worker processes that have not seen it
    sys.stdout.write("%r\\n" % master.map(len, [text, text]))
    master.shutdown()
"""


def held(path):
    """A task that ends when there is a file of this name."""
    support.wait_until(lambda: os.path.exists(path), SECONDS)
    return 7


@unittest.skipUnless(hasattr(os, "fork"), "there is no fork")
class ForkTest(unittest.TestCase):
    def in_forks(self, *calls):
        """Each in a process of its own: all return, in time."""
        for call in calls:
            self.assertEqual(0, support.in_a_fork(call), call)

    def refused_in_forks(self, *calls):
        for call in calls:
            self.assertEqual(0, support.in_a_fork(lambda: self.assertRaises(RuntimeError, call)), call)  # noqa: B023

    def test_row_77_however_a_master_is_left(self):
        with support.Process(SCRIPT) as script:
            self.assertEqual(0, script.wait(), script.output())
            self.assertEqual("[1000, 1000]\n", script.output())

    def test_row_77_a_master(self):
        path = os.path.join(support.directory_for(self), "run.journal")
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            shared = master.share(list(range(1000)))
            support.prepare(master, "def f(x):\n    return x * 2\n", "f", range(3))
            results = master.imap(journal=path)
            self.refused_in_forks(
                master.execute, lambda: master.map(len, [shared]), master.list_workers, master.status,
                lambda: master.share([1]), master.start_master_server, master.join_as_worker, master.stop_as_worker,
                lambda: list(results),
            )
            self.in_forks(shared.drop, results.close, master.__exit__)
            with master._turn:  # another thread has it at the moment of the fork
                self.refused_in_forks(master.execute, lambda: master.map(len, [[]]))
            self.assertEqual([(0, 0), (1, 2), (2, 4)], list(results))
            self.assertEqual([1000], master.map(len, [shared]))
        kept = journal.Journal(path, reading=True)
        self.addCleanup(kept.close)
        self.assertEqual([True], [run.ended for run in kept.runs()])

    def test_a_master_that_a_fork_makes_is_its_own(self):
        def in_the_child():
            with MasterNode(PORT=0) as own:
                own.start_master_server()
                assert own.map(len, [own.share("abc")]) == [3]

        with MasterNode(PORT=0) as master:
            master.start_master_server()
            shared = master.share("x" * 1000)
            self.in_forks(in_the_child)
            self.assertEqual([1000], master.map(len, [shared]))

    @unittest.skipUnless(PYTHON_3, "faces are for Python 3")
    def test_row_77_an_executor(self):
        gate = os.path.join(support.directory_for(self), "gate")
        with ClusterExecutor(1) as executor:
            shared = executor.share(list(range(1000)))
            future, results = executor.submit(held, gate), executor.map(len, [shared])
            self.refused_in_forks(
                lambda: executor.submit(len, "a"), lambda: executor.map(len, ["a"]), lambda: next(results),
                executor.status, lambda: executor.share([1]), future.result, future.exception,
            )
            self.in_forks(
                executor.shutdown, lambda: executor.shutdown(cancel_futures=True),
                lambda: executor.__exit__(None, None, None), results.close,
                future.cancel, shared.drop,
            )
            support.write(gate)
            self.assertEqual((7, [1000]), (future.result(SECONDS), list(results)))
            self.in_forks(lambda: self.assertEqual(7, future.result()))  # it is there
            self.assertEqual(1000, executor.submit(len, shared).result(SECONDS))

    @unittest.skipUnless(PYTHON_3, "faces are for Python 3")
    def test_row_77_a_pool(self):
        gate = os.path.join(support.directory_for(self), "gate")
        with Pool(1) as pool:
            shared = pool.share(list(range(1000)))
            result, results, many = pool.apply_async(held, (gate,)), pool.imap(len, [shared]), pool.map_async(len, [shared])
            self.refused_in_forks(
                lambda: pool.map(len, ["a"]), lambda: pool.apply(len, ("a",)), lambda: pool.imap(len, ["a"]),
                lambda: next(results), result.get, result.wait, many.get,
            )
            self.in_forks(pool.close, pool.terminate, lambda: (pool.close(), pool.join()), pool.__exit__)
            support.write(gate)
            self.assertEqual((7, [1000], [1000]), (result.get(SECONDS), list(results), many.get(SECONDS)))
            self.assertEqual([1000], pool.map(len, [shared]))

    @unittest.skipUnless(PYTHON_3, "faces are for Python 3")
    def test_row_77_a_journal_of_calls(self):
        path = os.path.join(support.directory_for(self), "calls.journal")
        for _ in range(2):
            with ClusterExecutor(1) as executor:
                view = executor.options(journal=path)
                self.assertEqual(3, view.submit(len, "abc").result(SECONDS))
                self.in_forks(view.shutdown, executor.shutdown)
                with self.assertRaises(JournalError):
                    journal.Journal(path)

    def test_the_error_says_what_to_do(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(False)

            def in_the_child():
                with self.assertRaises(StateError) as caught:
                    master.status()
                self.assertIn("make a new one", str(caught.exception))

            self.in_forks(in_the_child)


if __name__ == "__main__":
    unittest.main()

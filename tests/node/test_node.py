"""WorkerNode: joining, refusals, lost masters, dying worker processes."""
from __future__ import absolute_import, division, print_function

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

from minimalcluster import MasterNode
from minimalcluster.wire.loop import Loop
from minimalcluster.brain import agent
from minimalcluster.node import node
from minimalcluster.compat import cpu_count
from minimalcluster.node.boot import KEY_VARIABLE
from minimalcluster.node.node import THREAD_VARIABLES, child_environment, exit_in_words
from tests import support

DOUBLE = "f = lambda x: x * 2"
DOUBLE = "f = lambda x: x * 2"

#: A master in a process of its own, so that it can be killed.
MASTER = """
import json, sys
from minimalcluster import MasterNode
told = json.loads(sys.stdin.readline())
master = MasterNode("127.0.0.1", told["port"], told["key"])
master.start_master_server(if_join_as_worker=False)
master.load_envir(told["source"], from_file=False)
master.register_target_function("f")
master.load_args(told["arguments"])
print("started")
print(sorted(master.execute().items()))
master.shutdown()
"""


def start_master(port, key, source=DOUBLE, arguments=(1, 2)):
    told = {"port": port, "key": key, "source": source, "arguments": list(arguments)}
    return support.Process(MASTER, told)




class WorkerProcessTest(unittest.TestCase):
    """What a worker process is given, and how its end is told."""

    def test_environment_variables(self):
        before = dict(os.environ)
        os.environ[KEY_VARIABLE] = "secret"
        os.environ["MKL_NUM_THREADS"] = "3"
        try:
            variables = child_environment(1)
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.assertNotIn(KEY_VARIABLE, variables)
        self.assertEqual(variables["MKL_NUM_THREADS"], "3")
        for name in set(THREAD_VARIABLES) - set(before) - set(["MKL_NUM_THREADS"]):
            self.assertEqual(variables[name], str(cpu_count()))

    def test_exit_in_words(self):
        self.assertEqual(exit_in_words(3), "exit code 3")
        self.assertEqual(exit_in_words(-signal.SIGTERM), "killed by signal 15 (SIGTERM)")
        self.assertEqual(exit_in_words(-200), "killed by signal 200")


class ShortageTest(unittest.TestCase):
    """What the system refuses once is tried again; what was half started is ended; running work goes on."""

    def refuse(self, where, name, error, times):
        """The next calls of this function in a master's thread raise the error."""
        real, left = getattr(where, name), [times]

        def refusing(*arguments, **named):
            if left[0] and threading.current_thread().name == "minimalcluster-master":
                left[0] -= 1
                raise error
            return real(*arguments, **named)

        return support.patched(where, name, refusing), left

    def check(self, where, name, error, times=3):
        started = []
        real = node._Child.__init__

        def noted(child, slot, process, *rest):
            started.append(process)
            real(child, slot, process, *rest)

        patch, left = self.refuse(where, name, error, times)
        with support.patched(node._Child, "__init__", noted), patch:
            with MasterNode("127.0.0.1", 0) as master:
                master.start_master_server()
                self.assertEqual(support.run(master, DOUBLE, "f", [1, 2]), {1: 2, 2: 4})
                support.wait_until(lambda: not left[0], what="all refusals")
        for process in started:
            self.assertIsNotNone(process.poll(), "a half started process was left")

    def test_row_61_no_thread_for_its_output(self):
        self.check(node, "_thread", threading.ThreadError("can't start new thread"))

    def test_row_61_no_process(self):
        self.check(node.subprocess, "Popen", OSError(errno.EAGAIN, "Resource temporarily unavailable"))

    def test_row_61_no_descriptor(self):
        self.check(node.guardian, "start", OSError(errno.EMFILE, "Too many open files"))

    def test_row_61_no_thread_for_its_end(self):
        real = node._thread

        def refusing(name, function, *arguments):
            if name == "waiter" and not refused:
                refused.append(name)
                raise threading.ThreadError("can't start new thread")
            return real(name, function, *arguments)

        refused = []
        with support.patched(node, "_thread", refusing):
            with MasterNode("127.0.0.1", 0) as master:
                master.start_master_server()
                self.assertEqual(support.run(master, DOUBLE, "f", [1, 2]), {1: 2, 2: 4})
        self.assertEqual(["waiter"], refused)

    def test_row_61_a_guardian_that_fails_is_followed_by_another(self):
        loop = Loop()
        self.addCleanup(loop.close)
        worker = node.Node(loop, 1, None, None, None)
        code = "import sys; sys.exit(1)"
        worker._guardian = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(worker._guardian.stdin.close)
        worker._wait_for_guardian(worker._guardian)
        loop.cycle()
        self.assertIsNone(worker._guardian)

    def test_no_thread_of_a_node_outlives_it(self):
        """2.7 shows a traceback for a thread that ends with the interpreter."""
        loop = Loop()
        self.addCleanup(loop.close)
        worker = node.Node(loop, 1, None, None, None)
        waited_for = threading.Event()
        worker._start_thread("look", waited_for.wait)
        thread = worker._threads[0]
        real = thread.join
        thread.join = lambda seconds: (waited_for.set(), real(seconds))
        self.addCleanup(waited_for.set)
        worker._dismiss()
        self.assertFalse(thread.is_alive())


class ChannelTest(unittest.TestCase):
    """How a node and its worker processes are connected: by an inherited pair of sockets, or by loopback where there is none."""

    def check(self):
        with MasterNode("127.0.0.1", 0) as master:
            master.start_master_server()
            self.assertEqual(support.run(master, DOUBLE, "f", [1, 2]), {1: 2, 2: 4})

    @unittest.skipUnless(node.PAIRS, "no descriptor can be inherited alone")
    def test_row_64_no_network_is_needed(self):
        def refusing(*arguments, **named):
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

        with support.patched(node, "Listener", refusing):
            self.check()

    @unittest.skipUnless(node.PAIRS, "no descriptor can be inherited alone")
    def test_what_a_task_starts_does_not_inherit_it(self):
        source = (
            "import os, subprocess, sys\n"
            "def f(x):\n"
            "    found = subprocess.check_output([sys.executable, '-c', 'import os; print(len([n for n in range(3, 64) if "
            "os.path.exists(\"/dev/fd/%d\" % n)]))'], close_fds=False)\n"
            "    return int(found)"
        )
        if not os.path.exists("/dev/fd/0"):
            self.skipTest("this system does not show a process its descriptors")
        with MasterNode("127.0.0.1", 0) as master:
            master.start_master_server()
            self.assertEqual(support.run(master, source, "f", [1]), {1: 0})

    def test_a_default_timeout_of_the_programs_sockets_is_no_limit_of_ours(self):
        socket.setdefaulttimeout(0.05)
        self.addCleanup(socket.setdefaulttimeout, None)
        self.check()
        with support.patched(node, "PAIRS", False):
            self.check()

    def test_without_pairs_it_is_loopback(self):
        with support.patched(node, "PAIRS", False):
            self.check()


class LeavingTest(unittest.TestCase):
    """Worker processes with nothing to do end as programs do, and what does not end is killed."""

    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = os.path.join(self.folder, "notes")

    def run_and_read(self, source, **named):
        with MasterNode("127.0.0.1", 0) as master:
            master.start_master_server()
            support.run(master, source % self.path, "f", [1, 2, 3], **named)
        with open(self.path) as file:
            return sorted(file.read().split())

    def test_row_62_a_file_that_a_global_has_open_is_flushed(self):
        source = "log = open(%r, 'a')\ndef f(x): log.write('%%d\\n' %% x)"
        self.assertEqual(["1", "2", "3"], self.run_and_read(source))

    def test_row_62_exit_handlers_run(self):
        source = (
            "import atexit, os\n"
            "def end(): os.write(os.open(%r, os.O_CREAT | os.O_WRONLY | os.O_APPEND), b'end\\n')\n"
            "def f(x):\n"
            "    if not globals().get('once'): atexit.register(end)\n"
            "    globals()['once'] = True"
        )
        self.assertIn("end", self.run_and_read(source))

    def test_row_62_one_that_does_not_end_is_killed(self):
        source = "import atexit, time\nwith open(%r, 'w') as file: file.write('begun')\ndef f(x): atexit.register(time.sleep, 1000)"
        with support.patched(agent, "LEAVE_SECONDS", 0.2):
            self.assertEqual(["begun"], self.run_and_read(source))


class DeathTest(unittest.TestCase):
    def test_worker_process_killed_while_it_works(self):
        with support.directory() as path, MasterNode(PORT=0) as master:
            gates = support.Gates(path)
            source = gates.source + (
                "def f(x):\n"
                "    note('run')\n"
                "    if x == 3:\n"
                "        note('three')\n"
                "        wait_for('gate')\n"
                "    return x * 2\n"
            )
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master) as node:
                support.prepare(master, source, "f", range(10))
                job = support.Background(master.execute)
                gates.wait_for("three")
                worker, = support.worker_processes(node.pid, 1)
                support.kill(worker)
                gates.wait_for("three", 2)
                gates.open("gate")
                self.assertEqual(job.result(), dict((x, x * 2) for x in range(10)))
                self.assertEqual(gates.noted("three"), 2)
                self.assertNotEqual(support.worker_processes(node.pid, 1), set([worker]))

    def test_idle_worker_process_killed(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master) as node:
                for _ in range(3):
                    worker, = support.worker_processes(node.pid, 1)
                    support.kill(worker)
                    support.wait_until(lambda: support.descendants(node.pid) - set([worker]), what="a new process")
                self.assertEqual(support.run(master, DOUBLE, "f", range(9)), dict((x, x * 2) for x in range(9)))
                self.assertNotIn("Traceback", node.output())


if __name__ == "__main__":
    unittest.main()

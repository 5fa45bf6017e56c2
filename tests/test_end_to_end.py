"""Real processes, real sockets, real kill -9: the rows of docs/reliability.md by their numbers, and clusters of mixed Pythons."""
from __future__ import absolute_import, division, print_function

import contextlib
import errno
import os
import pickle
import random
import re
import signal
import socket
import sys
import threading
import unittest

import minimalcluster.wire.addresses
from minimalcluster import (
    ArgumentsError, MasterNode, RemoteError, SourceError, TargetError, TaskError, UsageError, WorkerDied, WorkerNode,
)
from minimalcluster.wire import frames, handshakes, keys
from tests import support
from tests.support import MasterCase, mistake

DOUBLE = "f = lambda x: x * 2"


def doubled(count):
    return dict((x, x * 2) for x in range(count))


class TaskFaults(MasterCase):
    """Part A: what a task may do. Every test ends with the same cluster still in order."""

    def setUp(self):
        self.path = support.directory_for(self)
        self.gates = support.Gates(self.path)

    def tearDown(self):
        self.assertEqual(support.run(self.master, DOUBLE, "f", range(100)), doubled(100))
        slots = self.master.list_workers()[0].nprocs
        support.wait_until(lambda: len(support.descendants()) == slots, what="%d worker processes again" % slots)

    def run_job(self, source, arguments, **options):
        return support.run(self.master, self.gates.source + source, "f", arguments, **options)

    def fails_for(self, argument, source, count=20):
        """The exception of the one task that fails; all others have their results."""
        error = mistake(self.run_job, source, range(count))
        self.assertIsInstance(error, TaskError)
        expected = doubled(count)
        del expected[argument]
        self.assertEqual(error.results, expected)
        self.assertEqual(list(error.errors), [argument])
        self.assertIs(error.__cause__, error.errors[argument])
        return error.__cause__

    def test_row_01_one_task_raises(self):
        cause = self.fails_for(7, "def f(x):\n    if x == 7: raise ValueError('seven')  # here\n    return x * 2\n")
        self.assertIs(type(cause), ValueError)
        self.assertIn("raise ValueError('seven')  # here", str(cause.__cause__))

    def test_row_02_worker_process_dies_once(self):
        for death in ("os._exit(3)", "os.kill(os.getpid(), 9)", "import ctypes; ctypes.string_at(0)"):
            name = "tried %d" % len(death)
            source = (
                "def f(x):\n"
                "    if x == 7 and not os.path.exists(os.path.join(DIRECTORY, %r)):\n"
                "        note(%r)\n"
                "        %s\n"
                "    return x * 2\n" % (name, name, death)
            )
            self.assertEqual(self.run_job(source, range(50)), doubled(50))
            self.assertEqual(self.gates.noted(name), 1)

    def test_row_03_poison(self):
        source = (
            "def f(x):\n"
            "    if x == 7:\n"
            "        note('poison')\n"
            "        print('the last words')\n"
            "        os.kill(os.getpid(), 9)\n"
            "    return x * 2\n"
        )
        cause = self.fails_for(7, source, 50)
        self.assertIsInstance(cause, WorkerDied)
        self.assertEqual(self.gates.noted("poison"), 3)
        self.assertEqual(cause.nodes, ["%s/%d" % (socket.gethostname(), os.getpid())] * 3)
        self.assertEqual(cause.lines[-1:], ["the last words"])
        for text in ("SIGKILL", "3 times", socket.gethostname(), "the last words"):
            self.assertIn(text, str(cause))

    def test_row_05_exit_and_interrupt_in_a_task(self):
        workers = support.worker_processes(os.getpid(), self.master.list_workers()[0].nprocs)
        for statement, kind in (
            ("import sys; sys.exit('bye')", SystemExit),
            ("raise KeyboardInterrupt('mine')", KeyboardInterrupt),
            ("raise GeneratorExit('mine')", GeneratorExit),
        ):
            cause = self.fails_for(7, "def f(x):\n    if x == 7:\n        %s\n    return x * 2\n" % statement)
            self.assertIs(type(cause), kind)
        self.assertEqual(support.descendants(), workers)

    def test_row_06_result_that_cannot_be_pickled(self):
        for value in ("threading.Lock()", "lambda: 1", "(y for y in [1])"):
            cause = self.fails_for(7, "import threading\nf = lambda x: (%s) if x == 7 else x * 2\n" % value)
            self.assertIsInstance(cause, TypeError)
            self.assertIn("cannot be sent back", str(cause))

    def test_row_07_exception_that_cannot_be_unpickled(self):
        source = (
            "class Two(Exception):\n"
            "    def __init__(self, a, b):\n"
            "        Exception.__init__(self, 'a is %s' % a)\n"
            "def f(x):\n"
            "    if x == 7: raise Two(x, 1)  # here\n"
            "    return x * 2\n"
        )
        cause = self.fails_for(7, source)
        self.assertIsInstance(cause, RemoteError)
        self.assertEqual(cause.type_name, "Two")
        self.assertIn("Two: a is 7", str(cause))
        self.assertIn("raise Two(x, 1)  # here", str(cause.__cause__))

    def test_row_07_exception_whose_text_raises(self):
        source = (
            "class Mute(Exception):\n"
            "    def __str__(self): raise RuntimeError('no text')\n"
            "    def __reduce__(self): raise RuntimeError('no pickle')\n"
            "def f(x):\n"
            "    if x == 7: raise Mute()\n"
            "    return x * 2\n"
        )
        cause = self.fails_for(7, source)
        self.assertIsInstance(cause, RemoteError)
        self.assertEqual(cause.type_name, "Mute")

    def test_row_08_class_that_the_master_does_not_have(self):
        source = (
            "import sys, types\n"
            "def f(x):\n"
            "    if x != 7: return x * 2\n"
            "    module = sys.modules['only_here'] = types.ModuleType('only_here')\n"
            "    exec('class Thing(object): pass', module.__dict__)\n"
            "    module.Thing.__module__ = 'only_here'\n"
            "    return module.Thing()\n"
        )
        cause = self.fails_for(7, source)
        self.assertIsInstance(cause, RemoteError)
        self.assertIn("only_here", str(cause))
        self.assertIn(b"only_here", cause.pickled)

    def test_row_09_bad_input_is_refused_at_once(self):
        self.master.load_envir(DOUBLE, from_file=False)
        self.assertEqual(support.run(self.master, DOUBLE, "f", []), {})
        for arguments in ([1, 2, 1], [[1]], [threading.Lock()], iter([1])):
            self.assertIsInstance(mistake(self.master.load_args, arguments), ArgumentsError)
        self.assertIsInstance(mistake(self.master.register_target_function, "g"), TargetError)
        self.assertIsInstance(mistake(self.master.load_envir, "def f(x) x", from_file=False), SyntaxError)
        self.assertIsInstance(mistake(self.master.load_envir, "1 / 0", from_file=False), SourceError)

    def test_row_12_task_leaves_a_child(self):
        source = (
            "import subprocess, sys\n"
            "def f(x):\n"
            "    if x < 3: subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
            "    return x * 2\n"
        )
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            before = support.descendants()
            self.assertEqual(support.run(master, source, "f", range(20)), doubled(20))
            left = support.descendants() - before
            self.assertEqual(len(left), 3)
            self.assertEqual(support.run(master, DOUBLE, "f", range(20)), doubled(20))
        support.wait_for_death(left)

    @unittest.skipUnless(hasattr(os, "fork"), "this system has no fork")
    def test_row_13_task_forks_and_returns_twice(self):
        source = "def f(x):\n    if x == 7: os.fork()\n    note(x)\n    return x * 2\n"
        self.assertEqual(self.run_job(source, range(20)), doubled(20))
        self.assertLessEqual(self.gates.noted(7), 2)

    def test_row_13_task_closes_every_descriptor(self):
        cause = self.fails_for(7, "def f(x):\n    if x == 7: os.closerange(0, 256)\n    return x * 2\n")
        self.assertIsInstance(cause, WorkerDied)

    def test_row_13_task_changes_its_process(self):
        source = (
            "import signal, sys\n"
            "def f(x):\n"
            "    os.chdir('/')\n"
            "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "    sys.stdout = sys.stderr = None\n"
            "    os.environ.clear()\n"
            "    return x * 2\n"
        )
        self.assertEqual(self.run_job(source, range(20)), doubled(20))

    def test_row_13_task_prints_without_end(self):
        """8 MB in a moment: the task is not held up, the master prints a bounded part, and says what it leaves out."""
        code = (
            "from minimalcluster import MasterNode; from minimalcluster.node import output as printed\n"
            "printed.AT_ONCE_MAX = 1 << 18\n"
            "master = MasterNode(PORT=0)\n"
            "master.start_master_server()\n"
            "master.load_envir('def f(x):\\n    for _ in range(2000): print(\"x\" * 1000)\\n    return x * 2\\n', from_file=False)\n"
            "master.register_target_function('f')\n"
            "master.load_args(range(4))\n"
            "result = master.execute()\n"
            "master.shutdown()\n"
            "print(sorted(result.items()))\n"
        )
        with support.Process(code) as script:
            self.assertEqual(script.wait(), 0, script.output()[-1000:])
            self.assertIn("[(0, 0), (1, 2), (2, 4), (3, 6)]", script.output())
            shown = script.output().count("x") / 1000.0
            dropped = sum(int(lines) for lines in re.findall(r"(\d+) lines dropped", script.output()))
            self.assertGreater(dropped, 0)
            # A line of which a part was shown, or left out by itself, is counted there too.
            self.assertAlmostEqual(8000, shown + dropped, delta=10)

    PRINTS = (
        "import os, sys\n"
        "def f(x):\n"
        "    sys.stdout.write('a' * 300000 + '\\n')\n"
        "    sys.stdout.flush()\n"
        "    os.write(2, b'half way')\n"
        "    os.system('echo a child')\n"
        "    sys.stdout.write('.')\n"
        "    return x\n"
    )

    def test_row_65_what_tasks_print_comes_out_where_it_was_printed_whole_and_to_the_last_character(self):
        code = (
            "import os\n"
            "from minimalcluster import MasterNode\n"
            "os.dup2(os.open(%r, os.O_WRONLY | os.O_CREAT), 2)\n"
            "with MasterNode(PORT=0) as master:\n"
            "    master.start_master_server(if_join_as_worker=%r)\n"
            "    print('%%d %%s' %% (master.PORT, master.AUTHKEY))\n"
            "    master.load_envir(%r, from_file=False)\n"
            "    master.register_target_function('f')\n"
            "    master.load_args([1])\n"
            "    master.execute()\n"
        )
        with support.directory() as folder:
            for local in (True, False):
                errors = os.path.join(folder, "errors of %s" % local)
                with support.Process(code % (errors, local, self.PRINTS)) as script:
                    port, key = script.wait_for_output("\n").split()[:2]
                    if local:
                        self.assertEqual(script.wait(), 0)
                    else:
                        with support.start_node(int(port), key):
                            self.assertEqual(script.wait(), 0)
                    said = support.read(errors)
                    prefix = said[: -len("half way")]
                    self.assertEqual((prefix + "half way", not local), (said, prefix.startswith("[")))
                    expected = ["a" * 300000, "a child", "."]
                    self.assertEqual("\n".join(prefix + line for line in expected), script.output().split("\n", 1)[1])


class NodeFaults(unittest.TestCase):
    """Parts B and C: nodes and what lies between."""

    HELD = (
        "def f(x):\n"
        "    note('%s %d' % (os.environ['NODE_NAME'], x))\n"
        "    wait_for('%s %d may end' % (os.environ['NODE_NAME'], x))\n"
        "    note('%s %d ended' % (os.environ['NODE_NAME'], x))\n"
        "    return '%s %d' % (os.environ['NODE_NAME'], x)\n"
    )

    @contextlib.contextmanager
    def cluster(self, **options):
        with support.directory() as path, MasterNode(PORT=0, **options) as master:
            master.start_master_server(if_join_as_worker=False)
            yield master, support.Gates(path)

    @contextlib.contextmanager
    def node_behind(self, proxy, master, name="far"):
        before = len(master.list_workers())
        with support.start_node(proxy.port, master.AUTHKEY, name=name) as node:
            support.wait_until(lambda: len(master.list_workers()) > before, what="a node behind the proxy")
            yield node

    def test_row_14_agent_killed(self):
        with self.cluster() as (master, gates):
            with support.node_of(master, name="first") as first:
                support.prepare(master, gates.source + self.HELD, "f", [1])
                job = support.Background(master.execute)
                gates.wait_for("first 1")
                workers = support.worker_processes(first.pid, 1)
                first.kill()
                support.wait_for_death(workers)
                with support.node_of(master, name="second"):
                    gates.wait_for("second 1")
                    gates.open("second 1 may end")
                    self.assertEqual(job.result(), {1: "second 1"})

    def test_row_14_agent_killed_while_a_task_holds_the_interpreter(self):
        """C code that never gives the lock back: no thread of the worker process can notice anything."""
        with self.cluster() as (master, gates), support.node_of(master) as node:
            source = gates.source + "import ctypes\ndef f(x):\n    note('run')\n    ctypes.PyDLL(None).sleep(1000)\n"
            support.prepare(master, source, "f", [1])
            job = support.Background(master.execute)
            gates.wait_for("run")
            workers = support.worker_processes(node.pid, 1)
            node.kill()
            support.wait_for_death(workers)
            master.shutdown()
            self.assertIsInstance(mistake(job.result), UsageError)

    def cut_off(self, proxy, gates, job, master):
        """A task runs at the node behind the proxy, which is cut off until another node has the task too."""
        gates.wait_for("far 1")
        proxy.refusing = True
        proxy.cut()
        gates.wait_for("near 1")
        self.assertFalse(job.done())

    def test_row_17_second_copy_of_a_task_that_takes_too_long(self):
        """The one that ends first is the result; the other's worker process is ended and replaced."""
        source = (
            "def f(x):\n"
            "    if x == 0:\n"
            "        note(os.environ['NODE_NAME'])\n"
            "        wait_for(os.environ['NODE_NAME'] + ' may end')\n"
            "    return x or os.environ['NODE_NAME']\n"
        )
        with self.cluster() as (master, gates), support.node_of(master, name="one") as one, support.node_of(master, name="two"):
            support.prepare(master, gates.source + source, "f", range(20))
            job = support.Background(master.execute, chunksize=1, idempotent=True)
            gates.wait_for("one")
            gates.wait_for("two")
            worker, = support.worker_processes(one.pid, 1)
            gates.open("two may end")
            self.assertEqual(job.result()[0], "two")
            support.wait_for_death([worker])
            self.assertEqual((gates.noted("one"), gates.noted("two")), (1, 1))
            self.assertEqual(support.run(master, DOUBLE, "f", range(100)), doubled(100))

    def test_row_18_late_result(self):
        """The other node was first: what the lost one offers when it is back is acknowledged and dropped."""
        with self.cluster() as (master, gates), support.Proxy(master.PORT) as proxy:
            with self.node_behind(proxy, master) as far:
                support.prepare(master, gates.source + self.HELD, "f", [1])
                job = support.Background(master.execute)
                gates.wait_for("far 1")
                with support.node_of(master, name="near"):
                    self.cut_off(proxy, gates, job, master)
                    gates.open("near 1 may end")
                    self.assertEqual(job.result(), {1: "near 1"})
                    gates.open("far 1 may end")
                    gates.wait_for("far 1 ended")
                    proxy.refusing = False
                    support.wait_until(lambda: len(master.list_workers()) == 2, what="the lost node's return")
                    support.run(master, DOUBLE, "f", range(100))
                    self.assertEqual([worker.busy for worker in master.list_workers()], [0, 0])
                    self.assertEqual(far.output().count("connected to the master"), 2)

    def test_row_18_lost_node_is_first_after_all(self):
        """It comes back with the result while the copy still runs: it counts, and the copy is ended."""
        with self.cluster() as (master, gates), support.Proxy(master.PORT) as proxy:
            with self.node_behind(proxy, master):
                support.prepare(master, gates.source + self.HELD, "f", [1])
                job = support.Background(master.execute)
                gates.wait_for("far 1")
                with support.node_of(master, name="near") as near:
                    self.cut_off(proxy, gates, job, master)
                    worker, = support.worker_processes(near.pid, 1)
                    gates.open("far 1 may end")
                    gates.wait_for("far 1 ended")
                    proxy.refusing = False
                    self.assertEqual(job.result(), {1: "far 1"})
                    support.wait_for_death([worker])
                    self.assertEqual(support.run(master, DOUBLE, "f", range(100)), doubled(100))

    def test_row_23_nodes_come_and_go_during_a_job(self):
        with self.cluster() as (master, gates):
            source = gates.source + "def f(x):\n    note('run')\n    time.sleep(0.002)\n    return x * 2\n"
            support.prepare(master, source, "f", range(600))
            job = support.Background(master.execute)  # nobody is there
            with support.node_of(master):
                gates.wait_for("run", 50)
                with support.node_of(master) as late:
                    gates.wait_for("run", 150)
                    late.interrupt()  # leaves tidily
                    late.wait()
                gates.wait_for("run", 250)
                self.assertEqual(job.result(), doubled(600))

    def test_row_23_the_only_node_is_killed_then_another_joins(self):
        with self.cluster() as (master, gates):
            source = gates.source + "def f(x):\n    note('run')\n    time.sleep(0.002)\n    return x * 2\n"
            support.prepare(master, source, "f", range(300))
            job = support.Background(master.execute)
            with support.node_of(master) as only:
                gates.wait_for("run", 50)
                only.kill()
                support.wait_until(lambda: not master.list_workers(), what="an empty list of workers")
                self.assertFalse(job.done())
            with support.node_of(master):
                self.assertEqual(job.result(), doubled(300))

    def test_row_23_two_nodes_of_one_machine_are_two(self):
        with self.cluster() as (master, gates):
            with support.node_of(master, name="same") as one, support.node_of(master, name="same") as other:
                workers = master.list_workers()
                self.assertEqual(sorted(worker.pid for worker in workers), sorted([one.pid, other.pid]))
                self.assertEqual(len(set(worker.hostname for worker in workers)), 1)

    def test_row_25_connection_reset(self):
        """The running task goes on, its result is offered again: it runs once."""
        with self.cluster() as (master, gates), support.Proxy(master.PORT) as proxy:
            with self.node_behind(proxy, master) as far:
                support.prepare(master, gates.source + self.HELD, "f", range(3))
                job = support.Background(master.execute, chunksize=1)
                for x in range(3):
                    gates.wait_for("far %d" % x)
                    proxy.cut()
                    gates.open("far %d may end" % x)
                self.assertEqual(job.result(), dict((x, "far %d" % x) for x in range(3)))
                self.assertEqual([gates.noted("far %d" % x) for x in range(3)], [1, 1, 1])
                self.assertGreater(far.output().count("connected to the master"), 1)

    def test_row_30_one_byte_at_a_time_and_glued(self):
        data = "x" * 3000
        with self.cluster() as (master, gates), support.Proxy(master.PORT) as proxy:
            proxy.piece_bytes = 1
            with self.node_behind(proxy, master):
                self.assertEqual(support.run(master, "f = lambda x: x + 'y'", "f", [data, "z"]), {data: data + "y", "z": "zy"})
                self.assertEqual(support.run(master, DOUBLE, "f", range(300)), doubled(300))
                proxy.piece_bytes = None
                proxy.stall()
                support.prepare(master, gates.source + "def f(x):\n    note(x)\n    return x * 2\n", "f", range(50))
                job = support.Background(master.execute, chunksize=1)
                support.wait_until(lambda: [worker.busy for worker in master.list_workers()] == [1])
                self.assertEqual(gates.noted(0), 0)
                proxy.flow()
                self.assertEqual(job.result(), doubled(50))
                self.assertEqual(proxy.accepted, 1)

    def test_row_31_bit_flip(self):
        self.bits_flip(False, "tag")

    def test_row_31_bit_flip_in_tls(self):
        self.bits_flip(True, "SSL")

    def bits_flip(self, encrypt, noticed_by):
        with self.cluster(encrypt=encrypt) as (master, gates), support.Proxy(master.PORT) as proxy, support.Log() as log:
            with self.node_behind(proxy, master) as far:
                for number, direction in enumerate(("up", "down", "up", "down"), 1):
                    proxy.flip = direction
                    self.assertEqual(support.run(master, DOUBLE, "f", range(1000)), doubled(1000))
                    support.wait_until(lambda: proxy.flipped == number, what="a flipped bit")
                    support.wait_until(lambda: far.output().count("connected to the master") > number)
                self.assertTrue(log.having(noticed_by) or noticed_by in far.output())

    def test_row_37_addresses_that_cannot_be_had(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            busy = mistake(MasterNode(PORT=master.PORT).start_master_server)
            self.assertEqual(busy.errno, errno.EADDRINUSE)
            self.assertIn("127.0.0.1:%d" % master.PORT, str(busy))
        foreign = mistake(MasterNode("192.0.2.1", 0).start_master_server)  # TEST-NET-1: nobody has it
        self.assertEqual(foreign.errno, errno.EADDRNOTAVAIL)
        self.assertIn("192.0.2.1", str(foreign))

        def unknown(*_):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        before, socket.getaddrinfo = socket.getaddrinfo, unknown
        try:
            error = mistake(MasterNode("no.such.host.invalid", 0).start_master_server)
            self.assertIn("no.such.host.invalid", str(error))
            error = mistake(minimalcluster.wire.addresses.resolve, "no.such.host.invalid", 8888)
            self.assertIn("no.such.host.invalid", str(error))
        finally:
            socket.getaddrinfo = before
        error = mistake(MasterNode, "a..b", 0)
        self.assertIsInstance(error, ValueError)
        self.assertIn("a..b", str(error))

    def test_row_37_a_script_at_a_busy_port_ends(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            code = "from minimalcluster import MasterNode\nMasterNode(PORT=%d).start_master_server()\n" % master.PORT
            with support.Process(code) as script:
                self.assertEqual(script.wait(), 1)
                self.assertIn("127.0.0.1:%d" % master.PORT, script.output().strip().splitlines()[-1])

    @unittest.skipUnless(socket.has_ipv6, "this Python has no IPv6")
    def test_row_37_ipv6(self):
        try:
            socket.socket(socket.AF_INET6).bind(("::1", 0))
        except (OSError, socket.error) as error:
            raise unittest.SkipTest("this machine has no ::1 (%s)" % error)
        with MasterNode("::1", 0) as master:
            master.start_master_server(if_join_as_worker=False)
            node = support.Background(WorkerNode("::1", master.PORT, master.AUTHKEY, 1).join_cluster)
            self.assertEqual(support.run(master, DOUBLE, "f", range(9)), doubled(9))
            master.shutdown()
            node.result()


class MasterFaults(unittest.TestCase):
    """Parts D and E: the master's own death, and strangers."""

    DRIVER = (
        "import os, sys\n"
        "from minimalcluster import MasterNode\n"
        "master = MasterNode(PORT=0)\n"
        "master.start_master_server()\n"
        "master.load_envir('import ctypes, time\\n'\n"
        "                  'def f(x):\\n    print(\"task %d\" % x)\\n'\n"
        "                  '    time.sleep(1000) if x % 2 else ctypes.PyDLL(None).sleep(1000)', from_file=False)\n"
        "master.register_target_function('f')\n"
        "master.load_args(range(master.list_workers()[0].nprocs))\n"
        "print('started')\n"
        "sys.stdout.flush()\n"
        "master.execute(chunksize=1)\n"
    )

    def test_row_35_driver_killed(self):
        with support.Process(self.DRIVER) as driver:
            driver.wait_for_output("task 0")
            workers = support.descendants(driver.pid)
            self.assertTrue(workers)
            driver.kill()
            support.wait_for_death(workers)

    def test_row_35_driver_terminated(self):
        with support.Process(self.DRIVER) as driver:
            driver.wait_for_output("task 0")
            workers = support.descendants(driver.pid)
            os.kill(driver.pid, signal.SIGTERM)
            driver.wait()
            support.wait_for_death(workers)

    def test_row_39_rogue_master(self):
        """A server that takes any proof and invents its own: the node sends it nothing more."""
        hello = handshakes.ServerHandshake("a key of its own, 16 bytes", b"s" * 16, b"n" * 32, 1, 1, key=b"k" * 32)
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        key = MasterNode(PORT=0).AUTHKEY

        def rogue():
            peer = listener.accept()[0]
            peer.sendall(hello.start())
            received = peer.recv(4096)
            peer.sendall(b"\0" + b"x" * 45)  # as long as a real OK
            rest = peer.recv(4096)
            peer.close()
            return received, rest

        answers = support.Background(rogue)
        with support.start_node(listener.getsockname()[1], key) as node:
            self.assertEqual(node.wait(), 1, node.output())
            self.assertIn("AuthenticationError", node.output())
            self.assertIn("could not prove that it knows the key", node.output())
        received, rest = answers.result()
        self.assertEqual(rest, b"")
        self.assertNotIn(keys.as_bytes(key), received)
        listener.close()

    def test_row_39_a_stranger_learns_one_byte(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            handshake = handshakes.ClientHandshake(b"k" * 32, b"n" * 32, handshakes.NODE, b"i" * 16, (3, 6), "there", 2)
            handshake._key = b"not the key"
            protocol_key, keys.proof_key = keys.proof_key, lambda *_: b"not the key"
            try:
                answer = handshake.receive(self.greeting(master))
            finally:
                keys.proof_key = protocol_key
            self.assertEqual(self.said_after(master, answer, fresh=handshake), b"\x01")

    def greeting(self, master):
        self.peer = socket.create_connection(("127.0.0.1", master.PORT), support.SECONDS)
        self.addCleanup(self.peer.close)
        return self.peer.recv(4096)

    def said_after(self, master, data, fresh=None):
        """What the master answers to data before it closes."""
        if fresh is None:
            self.greeting(master)
        try:
            self.peer.sendall(data)
            self.peer.shutdown(socket.SHUT_WR)
            said = b""
            while True:
                more = self.peer.recv(4096)
                if not more:
                    return said
                said += more
        except (OSError, socket.error):
            return b""  # it closed while we were still talking

    def test_row_42_pickle_before_the_proof(self):
        """A canary: a file that appears as soon as anybody unpickles what a stranger sends."""
        with support.directory() as path, MasterNode(PORT=0) as master:
            canary = os.path.join(path, "canary")
            poison = pickle.dumps(_Canary(canary), 2)
            pickle.loads(poison)
            self.assertTrue(os.path.exists(canary))
            os.rmdir(canary)
            master.start_master_server(if_join_as_worker=False)
            auth = handshakes._AUTH.pack(handshakes.MAGIC, handshakes.VERSION, b"n" * 32, handshakes.NODE, b"i" * 16, 2, 3, 6)
            whole = auth + b"p" * 32
            for length in range(0, len(whole) + 1, 3):
                self.said_after(master, whole[:length] + poison)
            for prefix in (b"", b"\0\0\0\x40", frames._FRAME.pack(16, len(poison)), whole + frames._FRAME.pack(18, len(poison))):
                self.said_after(master, prefix + poison)
            with support.node_of(master):
                self.assertEqual(support.run(master, DOUBLE, "f", range(9)), doubled(9))
            self.assertFalse(os.path.exists(canary))

    def test_row_48_only_loopback_by_default(self):
        if not os.path.exists("/proc/net/tcp"):
            raise unittest.SkipTest("this system has no /proc to look for open ports in")
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            with support.node_of(master) as node:
                support.worker_processes(node.pid, 1)  # its own port is open then
                pids = [os.getpid(), node.pid] + [pid for pid, _ in support.descendants()]
                addresses = _listening(pids)
            # The master's port; on 2.7 one for each agent's worker processes, which have a pair of sockets elsewhere.
            self.assertEqual(3 if sys.version_info[0] == 2 else 1, len(addresses))
            self.assertEqual(set(addresses), set(["0100007F"]))


class _Canary(object):
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def _listening(pids):
    """The addresses, as /proc has them, that these processes listen on."""
    inodes = set()
    for pid in pids:
        folder = "/proc/%d/fd" % pid
        for name in os.listdir(folder) if os.path.exists(folder) else ():  # it may have ended meanwhile
            try:
                inodes.add(os.readlink(os.path.join(folder, name)))
            except OSError:
                pass  # closed meanwhile
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in support.read(table).splitlines()[1:] if os.path.exists(table) else ():
            fields = line.split()
            if fields[3] == "0A" and "socket:[%s]" % fields[9] in inodes:
                found.append(fields[1].split(":")[0])
    return found


class MixedPythons(unittest.TestCase):
    def test_row_24_every_python_3_in_one_cluster(self):
        """Each node has to run something: plain data, instances, exceptions, state and imports cross all minors."""
        if sys.version_info[0] == 2:  # py2
            raise unittest.SkipTest("2.7 is the only minor of its major version")
        found = dict((version, path) for version, path in support.interpreters().items() if version[0] == 3)
        if len(found) < 2:
            raise unittest.SkipTest("only one Python 3 is on this machine")
        source = (
            "import sys, decimal, datetime\n"
            "class Point(object):\n"
            "    def __init__(self, x): self.x = x\n"
            "    def __eq__(self, other): return self.x == other.x\n"
            "    def __hash__(self): return hash(self.x)\n"
            "class Odd(ValueError):\n"
            "    pass\n"
            "def f(point):\n"
            "    note('%d.%d' % sys.version_info[:2])\n"
            "    wait_for('all')\n"
            "    if point.x % 2: raise Odd('odd %d' % point.x)\n"
            "    return [Point(point.x), {'a': (1.5, None, b'b', u'\\xe9'), frozenset([2]): decimal.Decimal('1.1')},\n"
            "            datetime.date(2020, 2, 29), 7 / 2, list(map(str, range(2)))]\n"
        )
        with support.directory() as path, MasterNode(PORT=0) as master, contextlib.ExitStack() as nodes:
            master.start_master_server(if_join_as_worker=False)
            started = [nodes.enter_context(support.start_node(master.PORT, master.AUTHKEY, python=p)) for p in found.values()]
            support.wait_until(lambda: len(master.list_workers()) == len(found), what="a node of each interpreter")
            self.assertEqual(
                sorted(tuple(int(part) for part in worker.python.split(".")[:2]) for worker in master.list_workers()),
                sorted(found),
            )
            gates = support.Gates(path)
            master.load_envir(gates.source + source, from_file=False)
            Point, Odd = master.environment.Point, master.environment.Odd
            master.register_target_function("f")
            points = [Point(x) for x in range(4 * len(found))]
            master.load_args(points)
            job = support.Background(master.execute, on_error="return", chunksize=1)
            for major, minor in found:
                gates.wait_for("%d.%d" % (major, minor))
            gates.open("all")
            result = job.result()
            self.assertEqual(list(result), points)
            for point, outcome in result.items():
                if point.x % 2:
                    self.assertIs(type(outcome), Odd)
                    self.assertEqual(str(outcome), "odd %d" % point.x)
                    self.assertIn("raise Odd('odd %d' % point.x)", str(outcome.__cause__))
                else:
                    import datetime
                    import decimal

                    plain = {"a": (1.5, None, b"b", u"\xe9"), frozenset([2]): decimal.Decimal("1.1")}
                    self.assertEqual(outcome, [point, plain, datetime.date(2020, 2, 29), 3.5, ["0", "1"]])
            master.shutdown()
            self.assertEqual([node.wait() for node in started], [0] * len(started))

    def test_row_24_two_and_three_do_not_mix(self):
        other = support.other_major()
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            with support.start_node(master.PORT, master.AUTHKEY, python=other) as node:
                self.assertEqual(node.wait(), 1)
                last = node.output().strip().splitlines()[-1]
            for text in ("VersionMismatch", "Python 2.", "Python 3.", "do not mix"):
                self.assertIn(text, last)
            self.assertEqual(support.run(master, DOUBLE, "f", range(9)), doubled(9))


class KillsTest(unittest.TestCase):
    """kill -9 of worker processes and of nodes at many moments: every result, once, and right.

    A job sees two deaths of worker processes and one of a node. A third death could meet the task that
    met the other two, which is then rightly reported as poison; a lost node blames no task.
    """

    JOBS, TASKS = 12, 90

    def test_kills_at_many_moments(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            nodes = [support.node_of(master) for _ in range(2)]
            try:
                killed = sum(self.one_job(master, nodes, number) for number in range(self.JOBS))
            finally:
                for node in nodes:
                    node.kill()
            self.assertGreater(killed, 2 * self.JOBS)

    def one_job(self, master, nodes, number):
        with support.directory() as path:
            gates = support.Gates(path)
            source = gates.source + "def f(x):\n    note('run')\n    time.sleep(0.003)\n    return x * 2\n"
            support.prepare(master, source, "f", range(self.TASKS))
            counted = []
            job = support.Background(master.execute, progress=lambda done, total: counted.append(done))
            killed = 0
            for moment, victim in zip((5 + number, 25 + 2 * number, 55 + number), self.order(number)):
                support.wait_until(lambda: job.done() or gates.noted("run") >= moment, what="%d tasks begun" % moment)
                if job.done():
                    break
                killed += self.kill_node(master, nodes) if victim == "node" else self.kill_worker_process(nodes)
            self.assertEqual(job.result(60), doubled(self.TASKS))
            self.assertEqual(counted[-1], self.TASKS)
            return killed

    @staticmethod
    def order(number):
        kinds = ["process", "process"]
        kinds.insert(number % 3, "node")
        return kinds

    @staticmethod
    def kill_node(master, nodes):
        nodes.pop(0).kill()
        nodes.append(support.start_node(master.PORT, master.AUTHKEY))
        return 1

    @staticmethod
    def kill_worker_process(nodes):
        pids = [node.pid for node in nodes]
        victims = [each for each in sorted(support.descendants()) if each[0] not in pids]
        if victims:
            support.kill(random.choice(victims))
        return len(victims[:1])


if __name__ == "__main__":
    unittest.main()

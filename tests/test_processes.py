"""Rows 3, 4, 13 and 36 with real processes: what becomes of a worker process, and a terminal's Ctrl-C."""
from __future__ import absolute_import, division, print_function

import contextlib
import os
import signal
import subprocess
import sys
import threading
import unittest

from minimalcluster import MasterNode, RemoteError, TaskTimeout, WorkerDied
from tests import support

CGROUP = "/sys/fs/cgroup"


@contextlib.contextmanager
def memory_limit(limit):
    """The file that takes process numbers into a new cgroup of so much memory; skips where there can be none."""
    second = os.path.exists(CGROUP + "/cgroup.controllers")
    path = os.path.join(CGROUP if second else CGROUP + "/memory", "minimalcluster-test-%d" % os.getpid())
    try:
        os.mkdir(path)
    except OSError as error:
        raise unittest.SkipTest("no memory cgroup can be made (%s)" % error)
    try:
        try:
            support.write(os.path.join(path, "memory.max" if second else "memory.limit_in_bytes"), str(limit))
        except (OSError, IOError) as error:
            raise unittest.SkipTest("a cgroup's memory cannot be limited (%s)" % error)
        yield os.path.join(path, "cgroup.procs")
    finally:
        support.wait_until(lambda: not support.read(os.path.join(path, "cgroup.procs")).strip(), what="an empty cgroup")
        os.rmdir(path)


class DeathTest(unittest.TestCase):
    def test_row_03_what_is_told_of_a_death(self):
        source = (
            "import os\n"
            "def f(x):\n"
            "    if x != 'bad': return x\n"
            "    data = b'x' * (1 << 30)\n"
            "    for n in range(30): print('line %d' % n)\n"
            "    os._exit(len(data) % 256 + 3)\n"
        )
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master):  # it counts the peak of these tests, which is smaller, as its own
                support.prepare(master, source, "f", ["good", "bad"])
                outcome = master.execute(on_error="return", attempts_max=2)
        self.assertEqual(outcome["good"], "good")
        error = outcome["bad"]
        self.assertIsInstance(error, WorkerDied)
        self.assertEqual((error.argument, error.exit, len(error.nodes)), ("bad", "exit code 3", 2))
        self.assertEqual(error.lines, ["line %d" % n for n in range(10, 30)])
        if os.name != "nt":
            self.assertGreater(error.peak_memory, 1 << 30)
            self.assertIn(" MB of memory", str(error))

    def test_row_11_a_task_that_nothing_reaches_is_ended(self):
        """One holds the interpreter's lock in C code, and ignores what can be ignored; one blocks all signals."""
        body = (
            "import ctypes, os, signal\n"
            "def f(x):\n"
            "    if x < 2: open(os.path.join(DIRECTORY, 'pid %d %d' % (x, os.getpid())), 'w').close()\n"
            "    if x == 0:\n"
            "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "        ctypes.PyDLL(None).sleep(1000)\n"
            "    if x == 1:\n"
            "        block = 0 if os.uname()[0] == 'Linux' else 1\n"
            "        ctypes.CDLL(None).sigprocmask(block, (ctypes.c_ubyte * 128)(*[255] * 128), None)\n"
            "        time.sleep(1000)\n"
            "    return x\n"
        )
        with support.directory() as path, MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master, 2) as node:
                support.prepare(master, support.Gates(path).source + body, "f", range(6))
                outcome = master.execute(on_error="return", timeout=3.0)
                self.assertEqual([type(outcome.pop(n)) for n in range(2)], [TaskTimeout] * 2)
                self.assertEqual(outcome, dict((n, n) for n in range(2, 6)))
                ended = set(int(name.split()[2]) for name in os.listdir(path) if name.startswith("pid"))
                self.assertEqual(len(ended), 2)
                replaced = support.worker_processes(node.pid, 2)  # the slots are back
                self.assertFalse(ended & set(pid for pid, _ in replaced))
                self.assertEqual(support.run(master, "def f(x): return x", "f", range(10))[9], 9)

    def test_row_04_memory_error_is_an_items_error(self):
        resource = support_resource()
        source = (
            "import resource\n"
            "def f(x):\n"
            "    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, %d))\n"
            "    return len(b'x' * (2 << 30 if x == 1 else 10))\n" % resource.getrlimit(resource.RLIMIT_AS)[1]
        )
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            support.prepare(master, source, "f", [0, 1, 2])
            outcome = master.execute(on_error="return")
        self.assertIsInstance(outcome.pop(1), MemoryError)
        self.assertEqual(outcome, {0: 10, 2: 10})

    def test_row_04_killed_by_the_system_for_its_memory(self):
        source = "def f(x):\n    return len(b'x' * (400 << 20 if x == 1 else 10))\n"
        with memory_limit(200 << 20) as members, MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master) as node:
                workers = support.worker_processes(node.pid, 1)
                for pid in [node.pid] + [pid for pid, _ in workers]:
                    support.write(members, str(pid))
                support.prepare(master, source, "f", [0, 1, 2])
                outcome = master.execute(on_error="return")
                master.shutdown()
                node.wait()
        error = outcome.pop(1)
        self.assertEqual(outcome, {0: 10, 2: 10})
        self.assertEqual((type(error), len(error.nodes)), (WorkerDied, 3))
        self.assertEqual(error.exit, "killed by signal 9 (SIGKILL), perhaps out of memory")

    def test_row_04_is_tried_again_alone(self):
        """Two of these tasks at a time have no room, one has."""
        source = "import time\ndef f(x):\n    data = b'x' * (130 << 20)\n    time.sleep(0.5)\n    return len(data) + x\n"
        with memory_limit(200 << 20) as members, MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master, 2) as node:
                for pid in [node.pid] + [pid for pid, _ in support.worker_processes(node.pid, 2)]:
                    support.write(members, str(pid))
                outcome = support.run(master, source, "f", range(4), attempts_max=2)
                master.shutdown()
                node.wait()
        self.assertEqual(outcome, {x: (130 << 20) + x for x in range(4)})

    def test_row_04_is_counted_apart(self):
        """Two crashes and then two deaths that may have been the system's: neither is three of a kind."""
        with support.directory() as path, MasterNode(PORT=0) as master:
            master.start_master_server()
            gates = support.Gates(path)
            source = gates.source + (
                "def f(x):\n"
                "    deaths = [name for name in 'abcd' if os.path.exists(os.path.join(DIRECTORY, name))]\n"
                "    if len(deaths) == 4: return x\n"
                "    open(os.path.join(DIRECTORY, 'abcd'[len(deaths)]), 'w').close()\n"
                "    os._exit(3) if len(deaths) < 2 else os.kill(os.getpid(), 9)\n"
            )
            self.assertEqual(support.run(master, source, "f", [7]), {7: 7})

    @unittest.skipUnless(sys.version_info[0] == 2, "only there is something raised that is no exception")
    def test_row_01_an_exception_of_the_old_style(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            support.prepare(master, "class Old: pass\ndef f(x):\n    if x == 1: raise Old\n    return x\n", "f", range(3))
            outcome = master.execute(on_error="return", attempts_max=1)
        self.assertIsInstance(outcome[1], RemoteError)
        self.assertEqual((outcome[1].type_name, outcome[0], outcome[2]), ("Old", 0, 2))


def support_resource():
    try:
        import resource
    except ImportError:
        raise unittest.SkipTest("this system has no limits of a process")
    return resource


class Terminal(object):
    """A command at a terminal of its own, as a shell starts it in the foreground."""

    def __init__(self, arguments):
        import fcntl
        import pty
        import termios

        self.keyboard, terminal = pty.openpty()

        def take_the_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self._popen = subprocess.Popen(
            [sys.executable] + arguments, stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True,
            env=dict(os.environ, PYTHONPATH=support.ROOT, PYTHONUNBUFFERED="1"), preexec_fn=take_the_terminal,
        )  # fmt: skip
        os.close(terminal)
        self.pid = self._popen.pid
        self._text = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.daemon = True
        self._reader.start()

    def _read(self):
        while True:
            try:
                data = os.read(self.keyboard, 4096)
            except OSError:
                return
            if not data:
                return
            self._text += data

    def output(self):
        return self._text.decode("utf-8", "replace").replace("\r\n", "\n")

    def wait_for_output(self, text):
        support.wait_until(lambda: text in self.output(), what=lambda: "%r in %r" % (text, self.output()))

    def ctrl_c(self):
        os.write(self.keyboard, b"\x03")

    def wait(self):
        support.wait_until(lambda: self._popen.poll() is not None, what=lambda: "the end after %r" % self.output())
        self._reader.join(5.0)
        return self._popen.poll()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
        os.close(self.keyboard)


@unittest.skipIf(os.name == "nt", "Windows has no such terminals")
class TerminalTest(unittest.TestCase):
    SCRIPT = (
        "from minimalcluster import Interrupted, MasterNode\n"
        "SOURCE = 'import time\\ndef f(x):\\n    print(\"task %d\" % x)\\n    if x: time.sleep(1000)\\n    return x\\n'\n"
        "with MasterNode(PORT=0) as master:\n"
        "    master.start_master_server()\n"
        "    master.load_envir(SOURCE, from_file=False)\n"
        "    master.register_target_function('f')\n"
        "    master.load_args([0, 1, 2, 3])\n"
        "    try:\n"
        "        master.execute(chunksize=1, progress=False)\n"
        "    except Interrupted as error:\n"
        "        print('partial results: %r' % dict(error.results))\n"
        "    master.load_args([0])\n"
        "    print('usable again: %r' % dict(master.execute(progress=False)))\n"
    )

    def begun(self, arguments):
        terminal = Terminal(arguments)
        self.addCleanup(terminal.__exit__)
        return terminal

    def test_row_36_once_in_a_script(self):
        script = self.begun(["-c", self.SCRIPT])
        script.wait_for_output("task 1")
        workers = support.descendants(script.pid)
        script.ctrl_c()
        self.assertEqual(script.wait(), 0, script.output())
        self.assertIn("partial results: {0: 0}", script.output())
        self.assertIn("usable again: {0: 0}", script.output())
        self.assertNotIn("Traceback", script.output())
        support.wait_for_death(workers)

    def test_row_36_uncaught_in_a_script(self):
        """One traceback, the script's own: none of its worker processes."""
        script = self.begun(["-c", self.SCRIPT.replace("except Interrupted", "except ZeroDivisionError")])
        script.wait_for_output("task 1")
        workers = support.descendants(script.pid)
        script.ctrl_c()
        self.assertNotEqual(script.wait(), 0)
        self.assertNotIn("worker.py", script.output())
        self.assertNotIn("/node.py", script.output())
        self.assertIn("Interrupted", script.output())
        support.wait_for_death(workers)

    @unittest.skipIf(sys.version_info < (3,), "the faces are for Python 3")
    def test_row_36_uncaught_while_a_future_is_waited_for(self):
        """In a with block of the executor or without one: the script does not wait for what runs."""
        for before, after in (("with ClusterExecutor(1) as executor:", "executor"), ("if True:", "ClusterExecutor(1)")):
            text = "import time\nfrom minimalcluster import ClusterExecutor\n%s\n    future = %s.submit(time.sleep, 1000)\n"
            text += "    while not future.running(): time.sleep(0.01)\n    print('it runs')\n    future.result()\n"
            script = self.begun(["-c", text % (before, after)])
            script.wait_for_output("it runs")
            workers = support.descendants(script.pid)
            script.ctrl_c()
            self.assertNotEqual(script.wait(), 0)
            self.assertIn("KeyboardInterrupt", script.output())
            support.wait_for_death(workers)

    def test_row_36_again_and_again_in_a_script(self):
        """Whoever presses on gets out, whatever it is at."""
        script = self.begun(["-c", self.SCRIPT.replace("except Interrupted", "except ZeroDivisionError")])
        script.wait_for_output("task 1")
        workers = support.descendants(script.pid)
        script.ctrl_c()
        script.ctrl_c()
        self.assertNotEqual(script.wait(), 0)
        self.assertNotIn("worker.py", script.output())
        support.wait_for_death(workers)

    @unittest.skipUnless(hasattr(os, "register_at_fork"), "before 3.7 SIGTERM ends a script, as ever")
    def test_row_36_terminated_script(self):
        """As one Ctrl-C; the next one ends it, whatever it is at."""
        ending = "        print('partial results: %r' % dict(error.results))\n"
        script = self.begun(["-c", self.SCRIPT.replace(ending, ending + "        __import__('time').sleep(1000)\n")])
        script.wait_for_output("task 1")
        workers = support.descendants(script.pid)
        os.kill(script.pid, signal.SIGTERM)
        script.wait_for_output("partial results: {0: 0}")
        os.kill(script.pid, signal.SIGTERM)
        self.assertEqual(script.wait(), -signal.SIGTERM, script.output())
        self.assertNotIn("Traceback", script.output())
        support.wait_for_death(workers)

    @unittest.skipUnless(hasattr(os, "register_at_fork"), "before 3.7 SIGTERM ends a script, as ever")
    def test_row_36_terminated_script_goes_on(self):
        script = self.begun(["-c", self.SCRIPT])
        script.wait_for_output("task 1")
        os.kill(script.pid, signal.SIGTERM)
        self.assertEqual(script.wait(), 0, script.output())
        self.assertIn("partial results: {0: 0}", script.output())
        self.assertIn("usable again: {0: 0}", script.output())

    @unittest.skipUnless(hasattr(os, "register_at_fork"), "before 3.7 SIGTERM ends a script, as ever")
    def test_row_36_terminated_while_an_iterator_is_read(self):
        for calls in (self.EXECUTOR, self.IMAP):
            with support.directory() as folder:
                script = self.begun(["-c", self.ITERATING % {"folder": folder, "calls": calls}])
                script.wait_for_output("got the first")
                workers = support.descendants(script.pid)
                os.kill(script.pid, signal.SIGTERM)
                self.assertEqual(script.wait(), 0, script.output())
                self.assertIn("partial results: ", script.output())
                self.assertIn("usable again: 5", script.output())
                support.wait_for_death(workers)

    #: It says "got the first" when the main thread waits for the next one: from then on SIGTERM acts as Ctrl-C.
    ITERATING = (
        "import os, signal, threading, time\n"
        "from minimalcluster import ClusterExecutor, Interrupted, MasterNode\n"
        "from tests.sent import touch_and_wait\n"
        "tasks = [(os.path.join(%(folder)r, name), os.path.join(%(folder)r, gate)) for name, gate in ('a.', 'b-')]\n"
        "def say_when_it_waits():\n"
        "    while signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:\n"
        "        time.sleep(0.001)\n"
        "    print('got the first')\n"
        "%(calls)s"
    )
    EXECUTOR = (
        "with ClusterExecutor(2) as executor:\n"
        "    try:\n"
        "        for _ in executor.options(on_error='finish').map(touch_and_wait, *zip(*tasks), chunksize=1):\n"
        "            threading.Thread(target=say_when_it_waits, daemon=True).start()\n"
        "    except Interrupted as error:\n"
        "        print('partial results: %r' % error.results[0])\n"
        "    print('usable again: %d' % executor.submit(abs, -5).result())\n"
    )
    IMAP = (
        "with MasterNode(PORT=0) as master:\n"
        "    master.start_master_server()\n"
        "    master.load_envir('from tests.sent import touch_and_wait\\nf = lambda both: touch_and_wait(*both)', False)\n"
        "    master.register_target_function('f')\n"
        "    master.load_args(tasks)\n"
        "    try:\n"
        "        for _ in master.imap(chunksize=1):\n"
        "            threading.Thread(target=say_when_it_waits, daemon=True).start()\n"
        "    except Interrupted as error:\n"
        "        print('partial results: %r' % error.results)\n"
        "    print('usable again: %d' % master.map(abs, [-5])[0])\n"
    )

    def test_row_36_a_script_with_its_own_handler(self):
        """Whoever has a handler of SIGTERM is not meddled with."""
        handler = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))\n"
        script = self.begun(["-c", handler + self.SCRIPT])
        script.wait_for_output("task 1")
        workers = support.descendants(script.pid)
        os.kill(script.pid, signal.SIGTERM)
        self.assertEqual(script.wait(), 7, script.output())
        self.assertNotIn("partial", script.output())
        support.wait_for_death(workers)

    def leaves(self, send, expected):
        with support.directory() as path, MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            gates = support.Gates(path)
            key = support.write_key(os.path.join(path, "key"), master.AUTHKEY)
            os.chmod(key, 0o600)
            where = "127.0.0.1:%d" % master.PORT
            node = self.begun(["-m", "minimalcluster", "node", where, "--nprocs", "1", "--key-file", key])
            support.wait_until(master.list_workers, what="a node")
            source = gates.source + "def f(x):\n    note('run')\n    if gates_closed(): time.sleep(1000)\n    return x\n"
            source = source.replace("gates_closed()", "not os.path.exists(os.path.join(DIRECTORY, 'open'))")
            support.prepare(master, source, "f", [5])
            job = support.Background(master.execute)
            gates.wait_for("run")
            workers = support.worker_processes(node.pid, 1)
            support.write(os.path.join(path, "open"))
            send(node)
            self.assertIn(node.wait(), expected, node.output())
            for noise in ("Traceback", "Error", "Fatal"):
                self.assertNotIn(noise, node.output())
            support.wait_for_death(workers)
            with support.node_of(master):
                self.assertEqual(job.result(), {5: 5})  # it has run again

    def test_row_36_ctrl_c_at_a_node(self):
        self.leaves(Terminal.ctrl_c, [130])

    def test_row_36_ctrl_c_twice_at_a_node(self):
        """The second ends it at whatever it is."""

        def twice(node):
            node.ctrl_c()
            node.ctrl_c()

        self.leaves(twice, [130, -signal.SIGINT])  # two at once are one

    def test_row_36_terminated_node(self):
        self.leaves(lambda node: os.kill(node.pid, signal.SIGTERM), [143])


if __name__ == "__main__":
    unittest.main()

"""Rows 12, 14 and 35 with tasks that leave processes behind: children, other sessions, daemons."""
from __future__ import absolute_import, division, print_function

import os
import signal
import subprocess
import sys
import threading
import unittest

from minimalcluster import MasterNode
from minimalcluster.node import guardian, node, orphans
from tests import support

CODE = "import time; time.sleep(1000)"
#: Each task leaves a child, one in a session of its own, and a daemon made by two forks.
LITTER = (
    "import os, subprocess, sys, time\n"
    "CODE = '" + CODE + "'\n"
    "def f(x):\n"
    "    subprocess.Popen([sys.executable, '-c', CODE])\n"
    "    subprocess.Popen([sys.executable, '-c', 'import os; os.setsid(); ' + CODE])\n"
    "    if os.fork() == 0:\n"
    "        os.setsid()\n"
    "        if os.fork() == 0: os.execv(sys.executable, [sys.executable, '-c', CODE])\n"
    "        os._exit(0)\n"
    "    print('task %d' % x)\n"
)
WAIT = "    time.sleep(1000)\n"
PER_TASK = 3

DRIVER = (
    "from minimalcluster import MasterNode\n"
    "master = MasterNode(PORT=0)\n"
    "master.start_master_server()\n"
    "master.load_envir(%r, from_file=False)\n"
    "master.register_target_function('f')\n"
    "master.load_args([0])\n"
    "master.execute()\n"
)


@unittest.skipUnless(os.path.exists("/proc/self/environ"), "this system has no /proc to find processes in")
class LitterTest(unittest.TestCase):
    def setUp(self):
        """Whatever is started below here bears this mark, guardians included."""
        self.mark = "test%d.%d." % (os.getpid(), id(self))
        before = os.environ.get(orphans.VARIABLE)
        os.environ[orphans.VARIABLE] = self.mark
        self.addCleanup(orphans.sweep, self.mark)
        self.addCleanup(lambda: os.environ.pop(orphans.VARIABLE) if before is None else os.environ.update({orphans.VARIABLE: before}))

    def left(self):
        return orphans.marked(self.mark)

    def litter(self):
        """Not drivers, which have the same text in theirs, nor what was forked a moment ago and has the command of another."""
        ends = tuple(" -c %s%s " % (before, CODE) for before in ("", "import os; os.setsid(); "))
        return [pid for pid in self.left() if command(pid).endswith(ends)]

    def wait_for_litter(self, tasks=1):
        """All that the tasks leave has been started: nothing is in the middle of its forks any more."""
        support.wait_until(lambda: len(self.litter()) == PER_TASK * tasks, what="what the tasks leave behind")

    def assert_gone(self):
        support.wait_until(lambda: not self.left(), what=lambda: "the end of %r" % [command(pid) for pid in self.left()])

    def test_row_12_tidy_end(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            support.run(master, LITTER, "f", [1])
        self.assert_gone()

    def test_row_12_none_is_left_a_moment_after_the_job(self):
        """The master is still there; a worker process that left nothing is the same one as before."""
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master, 2) as node:
                source = LITTER + "    return os.getpid()\n" + "def g(x):\n    time.sleep(0.05)\n    return os.getpid()\n"
                others = set(support.run(master, source, "g", range(20)).values())
                litterer = support.run(master, source, "f", [1])[1]
                workers = set(pid for pid, _ in support.worker_processes(node.pid, 2))
                support.wait_until(lambda: litterer not in support.living(), what="the end of who left something")
                support.wait_until(lambda: not self.litter(), what="the end of what was left")
                after = set(support.run(master, source, "g", range(20)).values())
                self.assertNotIn(litterer, after)
                self.assertLessEqual((others & workers) - set([litterer]), set(pid for pid, _ in support.descendants(node.pid)))

    def test_row_12_none_is_left_by_who_takes_all_threads_there_may_be(self):
        """As a fork bomb does: the node, which can start no thread to look for it, looks all the same."""
        start = node._thread

        def refuse(name, *arguments):
            if name == "look":
                raise threading.ThreadError("can't start new thread")
            return start(name, *arguments)

        self.addCleanup(setattr, node, "_thread", start)
        node._thread = refuse
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            self.assertEqual(support.run(master, LITTER + "    return x\n", "f", [1]), {1: 1})
            support.wait_until(lambda: not self.litter(), what="the end of what was left")
            self.assertEqual(support.run(master, "f = abs", "f", [-1]), {-1: 1})

    def test_row_12_worker_process_killed(self):
        """Also what has left its process group goes with it; what others have started stays."""
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master), support.node_of(master):
                support.prepare(master, LITTER + WAIT, "f", [1, 2])
                job = support.Background(master.execute, chunksize=1, attempts_max=1, on_error="return")
                self.wait_for_litter(2)
                victim, other = [pid for pid in self.left() if "minimalcluster.node.worker" in command(pid)]
                self.assertEqual(len(orphans.marked(mark_of(victim))), 1 + PER_TASK)
                mark = mark_of(victim)
                os.kill(victim, signal.SIGKILL)
                support.wait_until(lambda: not orphans.marked(mark), what="the end of what the dead one's task has left")
                self.assertEqual(len(orphans.marked(mark_of(other))), 1 + PER_TASK)
                master.shutdown()
                self.assertRaises(Exception, job.result)
        self.assert_gone()

    def test_row_12_task_ended_by_its_timeout(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            support.prepare(master, LITTER + WAIT, "f", [1])
            outcome = master.execute(timeout=0.7, on_error="return")
            self.assertIn("longer than 0.7 s", str(outcome[1]))
            support.wait_until(lambda: not self.litter(), what="the end of what it has left")
            self.assertEqual(support.run(master, "f = abs", "f", [-1]), {-1: 1})
        self.assert_gone()

    def test_row_14_node_killed(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master) as node:
                support.prepare(master, LITTER + WAIT, "f", [1])
                job = support.Background(master.execute)
                self.wait_for_litter()
                node.kill()
                self.assert_gone()
            master.shutdown()
            self.assertRaises(Exception, job.result)

    def test_row_35_driver_killed(self):
        with support.Process(DRIVER % (LITTER + WAIT)) as driver:
            self.wait_for_litter()
            driver.kill()
            self.assert_gone()

    def test_row_35_driver_killed_that_has_forked(self):
        """What it has forked holds its ends of all pipes open."""
        fork = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(1000)\n"
        code = (DRIVER % (LITTER + WAIT)).replace("master.execute()", fork + "master.execute()")
        with support.Process(code) as driver:
            self.wait_for_litter()
            driver.kill()
            support.wait_until(lambda: len(self.left()) == 1, what="the end of all but the fork, which is the driver's own")
            self.assertNotIn("minimalcluster.node.worker", command(self.left()[0]))

    def test_row_35_driver_terminated(self):
        with support.Process(DRIVER % (LITTER + WAIT)) as driver:
            self.wait_for_litter()
            os.kill(driver.pid, signal.SIGTERM)
            driver.wait()
            self.assert_gone()


@unittest.skipUnless(os.path.exists("/proc/self/environ"), "this system has no /proc to find processes in")
class HelpersTest(unittest.TestCase):
    """What the environment's top (or an initializer, or an import) starts belongs to its worker process, not to a task."""

    SOURCE = (
        "import os, subprocess, sys\n"
        "def start(): return subprocess.Popen([sys.executable, '-c', '" + CODE + "'])\n"
        "helper = start()\n"
        "def f(x): return os.getpid(), helper.pid, helper.poll()\n"
        "def g(x): return os.getpid(), start().pid, None\n"
    )

    def run_and_look(self, master, looks, function):
        seen = len(looks)
        worker, helper, code = support.run(master, self.SOURCE, function, [1])[1]
        support.wait_until(lambda: len(looks) > seen, what="a look at what the job has left")
        return worker, helper, code

    def test_row_12_it_stays_as_long_as_that_does(self):
        looks, look = [], node.Node._look

        def counted(self, children, known):
            look(self, children, known)
            looks.append(children)

        with support.patched(node, "LOOK_SECONDS", 0.05), support.patched(node.Node, "_look", counted):
            with support.patched(node, "cpu_count", lambda: 1), MasterNode(PORT=0) as master:
                master.start_master_server(if_join_as_worker=False)
                master._cluster.join_local(1)
                first = self.run_and_look(master, looks, "f")
                here = master.environment.helper  # load_envir() runs the source in this process, too
                self.addCleanup(here.wait)
                self.addCleanup(here.kill)
                self.assertEqual(first, self.run_and_look(master, looks, "f"))
                worker, left, _ = self.run_and_look(master, looks, "g")
                support.wait_until(lambda: left not in support.living(), what="the end of what a task has left")
                support.wait_until(lambda: worker not in support.living(), what="the end of its worker process")
                support.wait_until(lambda: first[1] not in support.living(), what="the end of that one's helper")


class MarkTest(unittest.TestCase):
    @unittest.skipUnless(os.path.exists("/proc/self/environ"), "this system has no /proc to find processes in")
    def test_a_process_is_found_from_its_first_moment(self):
        """Linux shows no environment while a process becomes another program, though ``Popen`` has returned."""
        mark = "test%d.%d." % (os.getpid(), id(self))
        for _ in range(50):
            process = subprocess.Popen([sys.executable, "-S", "-c", CODE], env=dict(os.environ, **{orphans.VARIABLE: mark}))
            try:
                self.assertEqual([process.pid], orphans.marked(mark))
            finally:
                process.kill()
                process.wait()
            self.assertEqual([], orphans.marked(mark))

    def test_an_outer_mark_is_kept(self):
        """A task can be a master itself: what its nodes start goes with the outer worker process too."""
        outer = guardian.Family(b"outer", 1).variable()[orphans.VARIABLE]
        before = dict(os.environ)
        os.environ[orphans.VARIABLE] = outer
        try:
            both = guardian.Family(b"inner", 12).variable()[orphans.VARIABLE]
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.assertTrue(both.startswith(outer + " "))
        self.assertNotIn(guardian.Family(b"inner", 1).variable()[orphans.VARIABLE], both)


def command(pid):
    try:
        return support.read("/proc/%d/cmdline" % pid).replace("\0", " ")
    except (IOError, OSError):
        return ""


def mark_of(pid):
    """A worker process's innermost mark."""
    entries = support.read("/proc/%d/environ" % pid).split("\0")
    return [entry.split()[-1] for entry in entries if entry.startswith(orphans.VARIABLE + "=")][0]

"""Do real harm to real processes, and see that nothing is lost: the rows 1-38 of the list of faults.

    python3 tools/chaos.py                        every row, then the killing run
    python3 tools/chaos.py --row 27 --row 33      some rows
    python3 tools/chaos.py --kills 1000           the killing run alone
    python3 tools/chaos.py --list                 what there is, and what this machine can run

Rows that the suite shows are run by their tests. The others are here: they freeze, take away networks, descriptors
and processor time, and most need root on Linux. What a machine cannot run is skipped, with the reason. The exit status
is 1 if a row failed or a result was lost or doubled, else 0.

Everything happens on this machine: networks are namespaces with a pair of virtual cables, and are removed at the end.
"""

import argparse
import collections
import contextlib
import io
import os
import queue
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from minimalcluster import MasterNode  # noqa: E402 # the checkout's, not an installed one
from minimalcluster.wire import keys  # noqa: E402 # the checkout's, not an installed one
from tests import support  # noqa: E402

# -- what the suite shows -------------------------------------------------------------------------

_END = "test_end_to_end"
#: {row: (how the fault is injected, the tests)}: as docs/reliability.md names them.
SUITE = {
    1: ("raise", _END + ".TaskFaults.test_row_01_one_task_raises"),
    2: ("os._exit(3), a crash in C", _END + ".TaskFaults.test_row_02_worker_process_dies_once"),
    3: ("kill -9 of itself, always", _END + ".TaskFaults.test_row_03_poison"),
    5: ("sys.exit, KeyboardInterrupt", _END + ".TaskFaults.test_row_05_exit_and_interrupt_in_a_task"),
    6: ("return a lock", _END + ".TaskFaults.test_row_06_result_that_cannot_be_pickled"),
    7: ("exception with two arguments", _END + ".TaskFaults.test_row_07_exception_that_cannot_be_unpickled"),
    8: ("class of the worker's __main__", _END + ".TaskFaults.test_row_08_class_that_the_master_does_not_have"),
    9: ("bad calls", _END + ".TaskFaults.test_row_09_bad_input_is_refused_at_once"),
    10: ("over the limit", "master.test_cluster.SizeTest.test_row_10_result_over_the_limit"),
    11: ("endless task", "master.test_masternode.LimitsTest.test_row_11_a_task_that_takes_too_long_is_ended"),
    12: ("task leaves children and daemons", "node.test_orphans"),
    13: ("fork in a task", _END + ".TaskFaults.test_row_13_task_forks_and_returns_twice"),
    14: ("kill -9 of a node", _END + ".NodeFaults.test_row_14_agent_killed"),
    18: ("late result", _END + ".NodeFaults.test_row_18_late_result"),
    21: ("a full tmpfs", "master.test_journal.FileTest.test_row_21_a_disk_that_is_really_full"),
    23: ("nodes come and go", _END + ".NodeFaults.test_row_23_nodes_come_and_go_during_a_job"),
    24: ("all Pythons at once", _END + ".MixedPythons.test_row_24_every_python_3_in_one_cluster"),
    30: ("proxy: 1 byte at a time", _END + ".NodeFaults.test_row_30_one_byte_at_a_time_and_glued"),
    31: ("proxy: bit flips", _END + ".NodeFaults.test_row_31_bit_flip"),
    33: ("kill -9 of the master", "master.test_journal.KilledMasterTest.test_row_33_killed_at_random_moments"),
    34: ("cut at every byte", "master.test_journal.FileTest.test_row_34_cut_at_every_byte"),
    35: ("kill -9 of the script", _END + ".MasterFaults.test_row_35_driver_killed"),
    36: ("Ctrl-C", "master.test_masternode.LimitsTest.test_row_36_ctrl_c_keeps_what_is_done"),
    37: ("address in use", _END + ".NodeFaults.test_row_37_addresses_that_cannot_be_had"),
    38: ("results nobody reads", "faces.test_maps.Map.test_row_38_status_of_a_map_whose_results_nobody_reads"),
}


class Skip(Exception):
    """This machine cannot run the row; the text says why."""


class Wrong(Exception):
    """The row's right behaviour did not come."""


#: {row: (how the fault is injected, function)}; a function returns (outcome in words, seconds to recover or None).
ROWS = {}


def row(number, injected):
    def add(function):
        ROWS[number] = (injected, function)
        return function

    return add


def check(condition, text):
    if not condition:
        raise Wrong(text)


def run_tests(name):
    """A row by the suite's test."""
    stream = io.StringIO()
    suite = unittest.defaultTestLoader.loadTestsFromName("tests." + name)
    with contextlib.redirect_stdout(io.StringIO()):  # what the tests' tasks print
        result = unittest.TextTestRunner(stream=stream).run(suite)
    if result.skipped:
        raise Skip(result.skipped[0][1])
    check(result.wasSuccessful() and result.testsRun, "%s\n%s" % (name, stream.getvalue()))
    return "test passed", None


# -- a machine of its own for a node --------------------------------------------------------------

_NODE = """
import json, logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
from minimalcluster import WorkerNode
told = json.loads(sys.stdin.readline())
WorkerNode(told["host"], told["port"], told["key"], told["nprocs"]).join_cluster()
"""


def start_node(host, port, key, nprocs=1, name="", prefix=""):
    """A node in a process of its own; prefix: shell words that start its command ("exec ...")."""
    told = {"host": host, "port": port, "key": key, "nprocs": nprocs}
    if not prefix:
        return support.Process(_NODE, told, None, {"NODE_NAME": name})
    return support.Process(_NODE, told, _launcher(prefix), {"NODE_NAME": name})


def _launcher(prefix):
    """A script that stands for the interpreter, started with the prefix's words."""
    path = os.path.join(_folder(), "launch-%s" % os.urandom(4).hex())
    support.write(path, '#!/bin/sh\n%s "%s" "$@"\n' % (prefix, sys.executable))
    os.chmod(path, 0o700)
    return path


_folders = []


def _folder():
    if not _folders:
        _folders.append(tempfile.mkdtemp(prefix="minimalcluster-chaos-"))
    return _folders[0]


def need(*tools):
    for tool in tools:
        if shutil.which(tool) is None:
            raise Skip("needs %s" % tool)
    if not sys.platform.startswith("linux"):
        raise Skip("needs Linux")
    if os.geteuid() != 0:
        raise Skip("needs root")


def shell(*words, **options):
    done = subprocess.run(words, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    if done.returncode and not options.get("may_fail"):
        raise Skip("%s: %s" % (" ".join(words), done.stdout.strip()))
    return done.stdout


class Network:
    """A network namespace, joined to this machine by a virtual cable: here is ``.host``, there is ``.there``."""

    def __init__(self):
        need("ip")
        self.name = "mc%d" % os.getpid()
        low = os.getpid() % 250 + 1
        self.host, self.there = "10.213.%d.1" % low, "10.213.%d.2" % low
        self.near, self.far = "mch%d" % os.getpid(), "mcn%d" % os.getpid()

    def __enter__(self):
        shell("ip", "netns", "add", self.name)
        try:
            shell("ip", "link", "add", self.near, "type", "veth", "peer", "name", self.far)
            shell("ip", "link", "set", self.far, "netns", self.name)
            shell("ip", "addr", "add", self.host + "/30", "dev", self.near)
            shell("ip", "link", "set", self.near, "up")
            self.inside("ip", "addr", "add", self.there + "/30", "dev", self.far)
            self.inside("ip", "link", "set", self.far, "up")
            self.inside("ip", "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info):
        shell("ip", "link", "del", self.near, may_fail=True)
        shell("ip", "netns", "del", self.name, may_fail=True)

    def inside(self, *words):
        return shell("ip", "netns", "exec", self.name, *words)

    def prefix(self):
        return "exec ip netns exec %s" % self.name

    def part(self):
        """Both neighbours become black holes: packets leave, and nobody has that address."""
        nowhere = "02:00:00:00:00:99"
        shell("ip", "neigh", "replace", self.there, "lladdr", nowhere, "dev", self.near, "nud", "permanent")
        self.inside("ip", "neigh", "replace", self.host, "lladdr", nowhere, "dev", self.far, "nud", "permanent")

    def heal(self):
        shell("ip", "neigh", "del", self.there, "dev", self.near)
        self.inside("ip", "neigh", "del", self.host, "dev", self.far)


# -- a job that is held while harm is done --------------------------------------------------------

_TASK = """
def f(x):
    note("run")
    if os.environ.get("NODE_NAME") == "far":
        note("far")
        wait_for("go")
    return x * x
"""


class Held:
    """A cluster of a node "far", whose tasks wait for a gate, and a job of ``count`` tasks that has begun there."""

    def __init__(self, count=4, host="127.0.0.1", prefix="", port=None, nprocs=2):
        self.count, self._host, self._prefix, self._port, self._nprocs = count, host, prefix, port, nprocs
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        try:
            self.gates = support.Gates(self._stack.enter_context(support.directory()))
            self.log = self._stack.enter_context(support.Log())
            self.master = MasterNode(HOST=self._host, PORT=0)
            self._stack.callback(self.master.shutdown)
            self.master.start_master_server(if_join_as_worker=False)
            port = self._port(self.master.PORT) if self._port else self.master.PORT
            self.far = self._add(self._host if self._port is None else "127.0.0.1", port, "far", self._prefix)
            source = self.gates.source.replace("+ 60", "+ 600") + _TASK
            self.job = support.Background(support.run, self.master, source, "f", list(range(self.count)))
            self.gates.wait_for("far", self._nprocs)
        except BaseException:
            self._stack.close()
            raise
        return self

    def _add(self, host, port, name, prefix=""):
        before = len(self.master.list_workers())
        node = start_node(host, port, self.master.AUTHKEY, self._nprocs, name, prefix)
        self._stack.callback(self._end, node)
        support.wait_until(
            lambda: len(self.master.list_workers()) > before or not node.running(), what="a node's joining"
        )
        check(node.running(), node.output())
        return node

    @staticmethod
    def _end(node):
        family = support.descendants(node.pid)
        node.kill()
        for identity in family:
            support.kill(identity)

    def __exit__(self, *exc_info):
        self.gates.open("go")
        self._stack.close()

    def add_near(self):
        return self._add(self._host, self.master.PORT, "near")

    def results(self, seconds=60.0):
        found = self.job.result(seconds)
        check(found == {x: x * x for x in range(self.count)}, "wrong results: %r" % found)

    def results_elsewhere(self, seconds):
        """Another node finishes the job, within so many seconds from now; how long it took."""
        began = time.monotonic()
        self.results(seconds + 20)
        took = time.monotonic() - began
        check(took <= seconds, "recovered only after %.1f s, %.0f s are allowed" % (took, seconds))
        return took

    def ran_once(self):
        times = self.gates.noted("run")
        check(times == self.count, "%d executions of %d tasks" % (times, self.count))

    def far_works_again(self, seconds=60.0):
        """The far node is back: it works on a second job, and nothing of the first one comes twice."""
        began = time.monotonic()
        before = self.gates.noted("far")
        self.gates.open("go")

        def worked():
            again = support.run(self.master, self.gates.source + _TASK, "f", list(range(100, 140)), chunksize=1)
            check(again == {x: x * x for x in range(100, 140)}, "the next job's results are wrong: %r" % again)
            return self.gates.noted("far") > before

        support.wait_until(worked, seconds, "work on the node that came back")
        return time.monotonic() - began


def family(node):
    return [node.pid] + [pid for pid, _ in support.descendants(node.pid)]


def signal_all(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


# -- the rows that are here -----------------------------------------------------------------------


@row(15, "link down, then kill -9 of the node")
def power_cut():
    with Network() as network, Held(host=network.host, prefix=network.prefix()) as held:
        held.add_near()
        network.inside("ip", "link", "set", network.far, "down")
        signal_all(family(held.far), signal.SIGKILL)
        return "run elsewhere, right", held.results_elsewhere(12.0)


@row(16, "SIGSTOP of a node for 60 s")
def frozen_node():
    with Held() as held:
        held.add_near()
        pids = family(held.far)
        signal_all(pids, signal.SIGSTOP)
        try:
            began = time.monotonic()
            took = held.results_elsewhere(12.0)
            time.sleep(max(0.0, 60.0 - (time.monotonic() - began)))
        finally:
            signal_all(pids, signal.SIGCONT)
        back = held.far_works_again()
        return "run elsewhere; the node worked again %.1f s after SIGCONT" % back, took


@row(20, "SIGSTOP of master and node for 15 s, and of a program alone; wall clock +1 h, -1 h")
def clocks():
    with support.directory() as folder:
        gates = support.Gates(folder)
        support.write(os.path.join(folder, "sitecustomize.py"), _SHIFTED % folder)
        port, key = support.free_port(), keys.generate_key(os.urandom(32))
        told = {"port": port, "key": key, "nprocs": 2}
        variables = {"NODE_NAME": "far"}
        here = "import sys; sys.path.insert(0, %r); import sitecustomize; sitecustomize.shift()\n" % folder
        source = gates.source.replace("+ 60", "+ 6000") + _TASK
        code = here + _SCRIPT % (ROOT, port, key, source)
        with support.Process(code) as script, support.Process(here + _NODE_HERE, told, None, variables) as node:
            gates.wait_for("far", 2)
            pids = family(script) + family(node)
            signal_all(pids, signal.SIGSTOP)
            time.sleep(15)
            signal_all(pids, signal.SIGCONT)
            for hours in ("3600", "-3600"):
                support.write(os.path.join(folder, "shift"), hours)
                time.sleep(12)
            began = time.monotonic()
            gates.open("go")
            check_each_ran_once(script, gates)
            took = time.monotonic() - began
    suspended_alone()
    return "nothing expired, nothing ran twice", took


def check_each_ran_once(script, gates):
    """``_SCRIPT`` ends well, with the results of its four tasks."""
    check(script.wait(60) == 0, script.output())
    check("{0: 0, 1: 1, 2: 4, 3: 9}" in script.output(), script.output())
    check(gates.noted("run") == 4, "%d executions of 4 tasks" % gates.noted("run"))


def suspended_alone():
    """The program only, as by Ctrl-Z; its own worker processes go on."""
    with support.directory() as folder:
        gates, key = support.Gates(folder), keys.generate_key(os.urandom(32))
        code = _SCRIPT.replace("(False)", "(True)") % (ROOT, support.free_port(), key, gates.source + _TASK)
        with support.Process(code, None, None, {"NODE_NAME": "far"}) as script:
            gates.wait_for("far", min(2, os.cpu_count()))
            os.kill(script.pid, signal.SIGSTOP)
            time.sleep(15)
            gates.open("go")
            os.kill(script.pid, signal.SIGCONT)
            check_each_ran_once(script, gates)


#: Takes the place of time.time, also where it was imported by name later.
_SHIFTED = """
import os, time
real = time.time
def shifted():
    try:
        with open(os.path.join(%r, "shift")) as file:
            return real() + float(file.read() or 0)
    except IOError:
        return real()
def shift():
    time.time = shifted
"""
_NODE_HERE = _NODE.replace('told["host"]', '"127.0.0.1"')
_SCRIPT = """
import logging, sys
sys.path.insert(0, %r)
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%%(levelname)s %%(message)s")
from minimalcluster import MasterNode
master = MasterNode(PORT=%d, AUTHKEY=%r)
master.start_master_server(False)
master.load_envir(%r, from_file=False)
master.register_target_function("f")
master.load_args(range(4))
print(master.execute())
master.shutdown()
"""


def lowest_free_descriptor(pid):
    taken = set(map(int, os.listdir("/proc/%d/fd" % pid)))
    return min(set(range(len(taken) + 1)) - taken)


@row(22, "no descriptor left on the master, 60 connections")
def no_descriptors():
    with support.directory() as folder, contextlib.ExitStack() as stack:
        gates = support.Gates(folder)
        port, key = support.free_port(), keys.generate_key(os.urandom(32))
        source = gates.source.replace("+ 60", "+ 600") + _TASK
        script = stack.enter_context(support.Process(_SCRIPT % (ROOT, port, key, source)))
        stack.enter_context(start_node("127.0.0.1", port, key, 2, "far"))
        gates.wait_for("far", 2)
        none_left = lowest_free_descriptor(script.pid)
        resource.prlimit(script.pid, resource.RLIMIT_NOFILE, (none_left, none_left))
        strangers = []
        for _ in range(60):
            strangers.append(stack.enter_context(contextlib.closing(socket.socket())))
            strangers[-1].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                strangers[-1].connect(("127.0.0.1", port))
        script.wait_for_output("running work goes on")
        for each in strangers:
            each.close()
        began = time.monotonic()
        gates.open("go")
        check_each_ran_once(script, gates)
        return "said so; the work went on, nothing ran twice", time.monotonic() - began


@row(25, "ss -K")
def reset():
    need("ss")
    with Network() as network, Held(host=network.host, prefix=network.prefix()) as held:
        began = time.monotonic()
        if network.host not in network.inside("ss", "-K", "dst", network.host):
            raise Skip("this kernel's ss -K resets nothing (the suite's row 25 resets through a proxy)")
        support.wait_until(lambda: len(held.log.having(" joined ")) == 2, what="the node's return")
        back = time.monotonic() - began
        held.gates.open("go")
        held.results()
        held.ran_once()
        return "back, nothing ran twice", back


@row(26, "neighbour black hole for 3 s")
def short_partition():
    with Network() as network, Held(host=network.host, prefix=network.prefix()) as held:
        network.part()
        held.gates.open("go")
        time.sleep(3)
        network.heal()
        began = time.monotonic()
        held.results()
        took = time.monotonic() - began
        held.ran_once()
        check(not held.log.having("WARNING"), "it was noticed: %r" % held.log.having("WARNING"))
        return "unnoticed, nothing ran twice", took


def _long_partition(network, part, heal):
    with Held(host=network.host, prefix=network.prefix()) as held:
        held.add_near()
        part()
        began = time.monotonic()
        took = held.results_elsewhere(12.0)
        time.sleep(max(0.0, 60.0 - (time.monotonic() - began)))
        heal()
        back = held.far_works_again()
        return "run elsewhere; the node worked again %.1f s after the heal" % back, took


@row(27, "neighbour black hole for 60 s")
def partition():
    with Network() as network:
        return _long_partition(network, network.part, network.heal)


@row(28, "nft drops what the node sends, for 60 s")
def one_way():
    need("nft")
    with Network() as network:

        def part():
            network.inside("nft", "add table inet chaos")
            network.inside("nft", "add chain inet chaos out { type filter hook output priority 0 ; }")
            network.inside("nft", "add rule inet chaos out drop")

        return _long_partition(network, part, lambda: network.inside("nft", "delete table inet chaos"))


class Delay(support.Proxy):
    """Passes everything on, late."""

    seconds = 0.15  # each way

    def _pump(self, source, sink, direction):
        waiting = queue.Queue()

        def late():
            while True:
                due, data = waiting.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    self._close(source, sink)
                    return
                with contextlib.suppress(OSError):
                    sink.sendall(data)

        threading.Thread(target=late, daemon=True).start()
        data = b"begin"
        while data:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            waiting.put((time.monotonic() + self.seconds, data))


@row(29, "10 % loss (nft), 1 Mbit/s (tbf), 300 ms (proxy)")
def bad_line():
    need("nft", "tc")
    with Network() as network, support.directory() as folder, contextlib.ExitStack() as stack:
        queue_discipline = "tc qdisc add dev %s root tbf rate 1mbit burst 16kb latency 400ms" % network.far
        network.inside(*queue_discipline.split())
        network.inside("nft", "add table inet chaos")
        for hook, interface in (("input", "iifname"), ("output", "oifname")):
            network.inside("nft", "add chain inet chaos %s { type filter hook %s priority 0 ; }" % (hook, hook))
            network.inside("nft", 'add rule inet chaos %s %s != "lo" numgen random mod 10 0 drop' % (hook, interface))
        gates = support.Gates(folder)
        log = stack.enter_context(support.Log())
        master = stack.enter_context(MasterNode(HOST=network.host, PORT=0))
        master.start_master_server(if_join_as_worker=False)
        relay = _relay(network, master.PORT, stack)
        node = start_node("127.0.0.1", relay, master.AUTHKEY, 2, "bad", network.prefix())
        stack.callback(Held._end, node)
        began = time.monotonic()
        body = "def f(x):\n    note('run')\n    return b'x' * 20000 + str(x).encode()\n"
        found = support.Background(support.run, master, gates.source + body, "f", list(range(40))).result(240)
        check(found == {x: b"x" * 20000 + str(x).encode() for x in range(40)}, "wrong results")
        check(gates.noted("run") == 40, "%d executions of 40 tasks" % gates.noted("run"))
        check(not log.having(" lost"), "a false death: %r" % log.having(" lost"))
        return "right, no false death; 800 kB in %.0f s" % (time.monotonic() - began), None


_RELAY = """
import sys, threading
sys.path.insert(0, %r)
from tools import chaos
proxy = chaos.Delay(%d, %r)
print("port %%d." %% proxy.port)
threading.Event().wait()
"""


def _relay(network, port, stack):
    """The delaying proxy, inside the namespace: the node speaks to it, and it over the bad line to the master."""
    code = _RELAY % (ROOT, port, network.host)
    process = stack.enter_context(support.Process(code, python=_launcher(network.prefix())))
    text = process.wait_for_output("port ")
    support.wait_until(lambda: "." in process.output())
    return int(text.split("port ")[1].split(".")[0])


class HalfOpen(support.Proxy):
    """``forget()`` closes the node's side only: the master keeps a connection that nobody is at."""

    kept = ()

    def forget(self):
        self.kept = [far for _, far in self._pairs]
        for near, _ in self._pairs:
            support.Proxy._close(near)

    def _close(self, *socks):
        support.Proxy._close(*[sock for sock in socks if sock not in self.kept])


@row(32, "proxy closes the node's side only")
def half_open():
    proxies = []

    def through(port):
        proxies.append(HalfOpen(port))
        return proxies[0].port

    with Held(port=through) as held:
        began = time.monotonic()
        proxies[0].forget()
        support.wait_until(lambda: proxies[0].accepted == 2, what="a second connection")
        back = time.monotonic() - began
        held.gates.open("go")
        held.results()
        held.ran_once()
        check(len(held.master.list_workers()) == 1, "the old session is still listed")
        proxies[0].kept = ()
        return "the new session took over, nothing ran twice", back


@contextlib.contextmanager
def cgroup(controller, **settings):
    """A control group, version 1; its shell words put a process into it."""
    need()
    parent = os.path.join("/sys/fs/cgroup", controller)
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK):
        raise Skip("needs cgroup v1 with %s" % controller)
    path = os.path.join(parent, "minimalcluster-%d" % os.getpid())
    try:
        os.mkdir(path)
        for name, value in settings.items():
            support.write(os.path.join(path, "%s.%s" % (controller, name)), str(value))
    except OSError as error:
        raise Skip("cgroup %s: %s" % (controller, error)) from None
    try:
        yield "echo $$ > %s/cgroup.procs; exec" % path
    finally:
        with contextlib.suppress(AssertionError):
            support.wait_until(lambda: not support.read(os.path.join(path, "cgroup.procs")).strip(), 10.0)
        os.rmdir(path)


@row(4, "cgroup with 64 MiB of memory")
def out_of_memory():
    body = "def f(x):\n    if x == 1:\n        return len(b'x' * (300 << 20))\n    return x\n"
    with cgroup("memory", limit_in_bytes=64 << 20) as prefix, contextlib.ExitStack() as stack:
        master = stack.enter_context(MasterNode(PORT=0))
        master.start_master_server(if_join_as_worker=False)
        node = start_node("127.0.0.1", master.PORT, master.AUTHKEY, 1, "small", prefix)
        stack.callback(Held._end, node)
        began = time.monotonic()
        found = support.Background(support.run, master, body, "f", list(range(6)), on_error="return").result(60)
        check({x: found[x] for x in found if x != 1} == {0: 0, 2: 2, 3: 3, 4: 4, 5: 5}, "wrong results: %r" % found)
        error = str(found[1])
        check("memory" in error.lower(), error)
        return "%s; the rest right" % type(found[1]).__name__, time.monotonic() - began


_BUSY = """
def f(x):
    note("run")
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    return x
"""


@row(17, "cgroup with a tenth of a processor")
def slow_node():
    count = 100

    def seconds(prefix):
        with support.directory() as folder, contextlib.ExitStack() as stack:
            gates = support.Gates(folder)
            master = stack.enter_context(MasterNode(PORT=0))
            master.start_master_server(if_join_as_worker=False)
            for number, words in enumerate([""] + ([prefix] if prefix else [])):
                node = start_node("127.0.0.1", master.PORT, master.AUTHKEY, 1, "node-%d" % number, words)
                stack.callback(Held._end, node)
            wanted = 2 if prefix else 1
            support.wait_until(lambda: len(master.list_workers()) == wanted, what="nodes")
            began = time.monotonic()
            found = support.run(master, gates.source + _BUSY, "f", list(range(count)), idempotent=True)
            took = time.monotonic() - began
            check(found == {x: x for x in range(count)}, "wrong results")
            return took, gates.noted("run") - count

    with cgroup("cpu", cfs_quota_us=10000) as prefix:
        # Before and after: the machine's other load changes.
        before, (together, extra), after = seconds("")[0], seconds(prefix), seconds("")[0]
    alone = (before + after) / 2
    text = "%.2f times the fast node alone, %d of %d ran twice" % (together / alone, extra, count)
    check(together <= 1.3 * alone and extra <= count // 10, text)
    return text, None


_HUGE = """
import resource, sys
sys.path.insert(0, %r)
from minimalcluster import MasterNode
from tests import support
master = MasterNode(PORT=%d, AUTHKEY=%r)
master.start_master_server(False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for size in (1 << 30, 3 << 30):
    found = support.run(master, "f = bytes", "f", [1, size], on_error="return")
    assert found[1] == bytes(1), found[1]
    print(type(found[size]).__name__, len(found[size]) if size < 2 << 30 else found[size])
    del found
print("peak", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024.0 / 1024)
master.shutdown()
"""


@row(10, "results of 1 GiB and of 3 GiB")
def huge_results():
    if not sys.platform.startswith("linux"):
        raise Skip("needs Linux")
    free = int(support.read("/proc/meminfo").split("MemAvailable:")[1].split()[0]) / 1024.0 / 1024
    if free < 9:
        raise Skip("needs 9 GiB of free memory, %.1f are" % free)
    port, key = support.free_port(), keys.generate_key(os.urandom(32))
    with contextlib.ExitStack() as stack:
        script = stack.enter_context(support.Process(_HUGE % (ROOT, port, key)))
        stack.callback(Held._end, start_node("127.0.0.1", port, key, 1))
        check(script.wait(240) == 0, script.output())
        check("bytes 1073741824" in script.output() and "FrameTooLarge" in script.output(), script.output())
        peak = float(script.output().split("peak ")[1].split()[0])
        check(peak <= 2.1, "the master needed %.2f GiB for a result of 1 GiB" % peak)
        return "1 GiB came, the master needed %.2f GiB for it; 3 GiB: FrameTooLarge" % peak, None


_FORKS = """
import os, time
def f(x):
    while x == 1:
        if os.fork() == 0:
            time.sleep(1000)
            os._exit(0)
    return x
"""


@row(12, "forks until the pids cgroup of 64 is full")
def fork_bomb():
    with cgroup("pids", max=64) as prefix, MasterNode(PORT=0) as master:
        procs = prefix.split()[3].rstrip(";")
        master.start_master_server(if_join_as_worker=False)
        node = start_node("127.0.0.1", master.PORT, master.AUTHKEY, 2, "small", prefix)
        try:
            found = support.Background(support.run, master, _FORKS, "f", list(range(6)), on_error="return").result(60)
            check({x: found[x] for x in found if x != 1} == {0: 0, 2: 2, 3: 3, 4: 4, 5: 5}, "wrong results: %r" % found)
            check(isinstance(found[1], OSError), "not the system's refusal: %r" % found[1])
            support.wait_until(lambda: len(support.read(procs).split()) <= 5, 10.0, "the end of what was forked")
            again = support.Background(support.run, master, _FORKS, "f", [6, 7]).result(60)
            check(again == {6: 6, 7: 7}, "the node does not work any more: %r" % again)
            master.shutdown()
            node.wait(60)
            began = time.monotonic()
            support.wait_until(lambda: not support.read(procs).strip(), 2.0, "the end of what was forked")
            return "that task's OSError; the node worked on; none left after it", time.monotonic() - began
        finally:
            Held._end(node)
            for pid in support.read(procs).split():
                signal_all([int(pid)], signal.SIGKILL)


_FILL = """
import os
def f(x):
    if x == 1:
        with open(os.path.join(os.environ["TMPDIR"], "big"), "wb") as file:
            file.write(b"x" * (4 << 20))
    return x
"""


@row(21, "a node whose directory for temporary files is a full tmpfs")
def full_node():
    need("mount", "umount")
    with support.directory() as folder, contextlib.ExitStack() as stack:
        shell("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
        stack.callback(shell, "umount", "-l", folder, may_fail=True)
        master = stack.enter_context(MasterNode(PORT=0))
        master.start_master_server(if_join_as_worker=False)
        node = start_node("127.0.0.1", master.PORT, master.AUTHKEY, 2, "full", "export TMPDIR=%s; exec" % folder)
        stack.callback(Held._end, node)
        found = support.Background(support.run, master, _FILL, "f", list(range(6)), on_error="return").result(60)
        check({x: found[x] for x in found if x != 1} == {0: 0, 2: 2, 3: 3, 4: 4, 5: 5}, "wrong results: %r" % found)
        check("No space left" in str(found[1]), "not ENOSPC: %r" % found[1])
        shared = master.share(b"y" * (8 << 20))  # what a node keeps in a file, if it can
        lengths = support.Background(master.map, len, [shared, shared, b""]).result(60)
        check(lengths == [8 << 20, 8 << 20, 0], "wrong with a shared object: %r" % lengths)
        return "that task's ENOSPC; the rest right, a shared object of 8 MiB too", None


_READ_SLOWLY = """
import resource, sys, time
sys.path.insert(0, %r)
from minimalcluster import MasterNode
master = MasterNode(PORT=%d, AUTHKEY=%r)
master.start_master_server(False)
master.load_envir("def f(x):\\n    return bytes(1 << 20)\\n", from_file=False)
master.register_target_function("f")
master.load_args(range(2000))
before, count = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
if %r == "imap":
    results = (result for _, result in master.imap_unordered())
else:
    results = master.executor().map(bytes, [1 << 20] * 2000)
for result in results:
    count += len(result) == 1 << 20
    if count <= 5:
        time.sleep(1)
print("read", count, "peak", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024.0)
master.shutdown()
"""


@row(38, "2,000 results of 1 MiB, five seconds for the first five")
def slow_reader():
    peaks = tuple(_peak_of_slow_reader(face) for face in ("imap", "map"))
    return "all came; the master's memory grew by %.0f MiB at most (imap), %.0f MiB (an executor's map)" % peaks, None


def _peak_of_slow_reader(face):
    port, key = support.free_port(), keys.generate_key(os.urandom(32))
    with contextlib.ExitStack() as stack:
        script = stack.enter_context(support.Process(_READ_SLOWLY % (ROOT, port, key, face)))
        stack.callback(Held._end, start_node("127.0.0.1", port, key, 2))
        check(script.wait(240) == 0 and "read 2000" in script.output(), script.output())
        peak = float(script.output().split("peak ")[1].split()[0])
        check(peak < 256, "the master's memory grew by %.0f MiB" % peak)
        return peak


@row(19, "kill -9 of the master of many nodes, another one at its port")
def all_return():
    count = int(os.environ.get("AGENTS", "200"))
    port, key = support.free_port(), keys.generate_key(os.urandom(32))
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(support.Process(_GATHER % (ROOT, port, key, count)))
        for part in range(4):
            many = len(range(part, count, 4))
            node = support.Process(_MANY, {"port": port, "key": key, "nprocs": many})
            stack.callback(Held._end, node)
        first.wait_for_output("all there", 300)
        first.kill()
        began = time.monotonic()
        second = stack.enter_context(support.Process(_GATHER % (ROOT, port, key, count)))
        second.wait_for_output("all there", 120)
        took = time.monotonic() - began
        check(took <= 30, "%d nodes were back after %.1f s only" % (count, took))
        return "%d nodes were back" % count, took


_GATHER = """
import sys, time
sys.path.insert(0, %r)
from minimalcluster import MasterNode
master = MasterNode(PORT=%d, AUTHKEY=%r)
master.start_master_server(False)
while len(master.list_workers()) < %d:
    time.sleep(0.05)
print("all there")
time.sleep(600)
"""
_MANY = """
import json, sys, threading
from minimalcluster import WorkerNode
told = json.loads(sys.stdin.readline())
for _ in range(told["nprocs"]):
    threading.Thread(target=WorkerNode("127.0.0.1", told["port"], told["key"], 1).join_cluster).start()
"""


# -- the killing run ------------------------------------------------------------------------------


class Tally:
    """What the user was given, against what is right."""

    def __init__(self):
        self.kills = collections.Counter()
        self.delivered = self.lost = self.doubled = self.wrong = 0

    def count(self, expected, pairs):
        found = collections.Counter(argument for argument, _ in pairs)
        self.delivered += len(pairs)
        self.lost += sum(1 for argument in expected if argument not in found)
        self.doubled += sum(times - 1 for times in found.values())
        self.wrong += sum(1 for argument, value in pairs if expected.get(argument) != value)

    def good(self):
        return not self.lost and not self.doubled and not self.wrong

    def __str__(self):
        kills = ", ".join("%d %s" % (self.kills[kind], kind) for kind in sorted(self.kills))
        return "%d kills (%s): %d results delivered, %d lost, %d doubled, %d wrong" % (
            sum(self.kills.values()), kills, self.delivered, self.lost, self.doubled, self.wrong,
        )  # fmt: skip


def kill_one(identity, tally, kind):
    if support.alive([identity]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity[0], signal.SIGKILL)
            tally.kills[kind] += 1


class Herd:
    """Nodes of a master, and a thread that kills them and their worker processes at random moments."""

    def __init__(self, master, tally, kills, chance):
        self._master, self._tally, self._kills, self._chance = master, tally, kills, chance
        self._nodes = [self._start() for _ in range(3)]
        self.work = support.Background(self._run)

    def _start(self):
        return start_node("127.0.0.1", self._master.PORT, self._master.AUTHKEY, 2)

    def _run(self):
        while sum(self._tally.kills.values()) < self._kills:
            time.sleep(self._chance.random() * 0.1)
            place = int(self._chance.random() * len(self._nodes))
            node = self._nodes[place]
            if self._chance.random() < 0.12:
                if node.running():
                    node.kill()
                    self._tally.kills["nodes"] += 1
                self._nodes[place] = self._start()
                continue
            children = sorted(support.descendants(node.pid))
            if children:
                kill_one(children[int(self._chance.random() * len(children))], self._tally, "worker processes")

    def end(self):
        for node in self._nodes:
            Held._end(node)


def kill_workers(kills, chance, tally):
    source = "import time\ndef f(x):\n    time.sleep(0.002)\n    return x * x + 1\n"
    with MasterNode(PORT=0) as master:
        master.start_master_server(if_join_as_worker=False)
        herd = Herd(master, tally, kills, chance)
        try:
            start = 0
            while not herd.work.done():
                arguments = range(start, start + 2000)
                start += 2000
                support.prepare(master, source, "f", arguments)
                # Attempts without end: here a task is killed because it is there, not because it is bad. The deadline
                # is far off: it ends a run that lost something.
                pairs = list(master.imap_unordered(attempts_max=10**6, deadline=300))
                tally.count({x: x * x + 1 for x in arguments}, pairs)
            herd.work.result()
        finally:
            herd.end()


_JOURNALED = """
import sys
sys.path.insert(0, %(root)r)
from minimalcluster import MasterNode
master = MasterNode(PORT=%(port)d, AUTHKEY=%(key)r)
master.start_master_server(False)
master.load_envir("import time\\ndef f(x):\\n    time.sleep(0.002)\\n    return x * x + 1\\n", from_file=False)
master.register_target_function("f")
master.load_args(range(%(count)d))
with open(%(told)r, "w") as file:
    for argument, value in master.imap_unordered(journal=%(journal)r, attempts_max=10**6):
        file.write("%%d %%d\\n" %% (argument, value))
        file.flush()
master.shutdown()
print("finished")
"""


def kill_masters(kills, chance, tally):
    """Jobs with a journal whose script is killed and started again until it ends."""
    with support.directory() as folder, contextlib.ExitStack() as stack:
        port, key, count = support.free_port(), keys.generate_key(os.urandom(32)), 3000
        told = os.path.join(folder, "told")
        job = 0

        def start():
            node = start_node("127.0.0.1", port, key, 2)
            stack.callback(Held._end, node)
            return node

        while tally.kills["masters"] < kills:
            job += 1
            code = _JOURNALED % {
                "root": ROOT, "port": port, "key": key, "told": told, "count": count,
                "journal": os.path.join(folder, "journal-%d" % job),
            }  # fmt: skip
            node = start()
            while not _finished(code, chance, tally, kills, told):
                if not node.running():  # its master was killed in the moment after its farewell
                    check(node.wait() == 0, node.output())
                    node = start()
            Held._end(node)  # it has gone, unless all was in the journal and the master quicker than it
            tally.count({x: x * x + 1 for x in range(count)}, _told(told))


def _finished(code, chance, tally, kills, told):
    """Start the script; kill it at a random moment, unless it was quicker or enough have been killed."""
    if os.path.exists(told):
        os.remove(told)
    with support.Process(code) as script:
        support.wait_until(lambda: _told(told) or not script.running(), 60, lambda: "results from %r" % script.output())
        end = time.monotonic() + chance.random() * 1.0
        while tally.kills["masters"] < kills and script.running() and time.monotonic() < end:
            time.sleep(0.005)
        if tally.kills["masters"] < kills and script.running():
            script.kill()
            tally.kills["masters"] += 1
            given = _told(told)
            tally.doubled += len(given) - len({argument for argument, _ in given})
            return False
        check(script.wait(120) == 0 and "finished" in script.output(), script.output())
        return True


def _told(path):
    """What the script was given; a last line without its end was not yet."""
    if not os.path.exists(path):
        return []
    lines = support.read(path).split("\n")[:-1]
    return [tuple(int(word) for word in line.split()) for line in lines]


def killing_run(kills, seed):
    print("killing %d processes at random moments, seed %d" % (kills, seed), flush=True)
    began, tally, chance = time.monotonic(), Tally(), random.Random(seed)
    masters = kills // 10
    kill_masters(masters, chance, tally)
    kill_workers(kills, chance, tally)
    print("%s; %.0f s" % (tally, time.monotonic() - began))
    return tally.good() and sum(tally.kills.values()) >= kills


# -- the command line -----------------------------------------------------------------------------


def rows():
    """{row: (how the fault is injected, what runs it)}; of a row that is here and in the suite, both are run."""
    found = {number: (injected, _test(name)) for number, (injected, name) in SUITE.items()}
    for number, (injected, function) in ROWS.items():
        if number in SUITE:
            how, name = SUITE[number]
            found[number] = "%s; %s" % (how, injected), _test(name, function)
        else:
            found[number] = injected, function
    return found


def _test(name, then=None):
    def run():
        passed = run_tests(name)
        if then is None:
            return passed
        outcome, seconds = then()
        return "%s; %s" % (passed[0], outcome), seconds

    return run


def run_row(number, injected, function):
    """Run one row and print its line; true unless it failed."""
    began = time.monotonic()
    try:
        outcome, seconds = function()
        word = "ok"
    except (Skip, unittest.SkipTest) as reason:
        word, outcome, seconds = "skipped", str(reason), None
    except (Exception, AssertionError) as error:
        word, outcome, seconds = "FAILED", "%s: %s" % (type(error).__name__, error), None
    took = time.monotonic() - began
    recovery = "-" if seconds is None else "%.1f" % seconds
    print("%3d  %-7s  %8s  %6.1f  %-58s  %s" % (number, word, recovery, took, injected, outcome), flush=True)
    return word != "FAILED"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", type=int, action="append", metavar="N", help="only this row; may be given again")
    parser.add_argument("--kills", type=int, metavar="N", help="so many kills; without --row, no row is run")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the killing run's random moments")
    parser.add_argument("--list", action="store_true", help="list the rows, run none")
    arguments = parser.parse_args()
    table = rows()
    if arguments.list:
        for number, (injected, _) in sorted(table.items()):
            print("%3d  %-58s  %s" % (number, injected, SUITE[number][1] if number in SUITE else "here"))
        return 0
    wanted = arguments.row or ([] if arguments.kills else sorted(table))
    unknown = [number for number in wanted if number not in table]
    if unknown:
        parser.error("no such row: %s" % unknown)
    failed = []
    try:
        if wanted:
            print("row  outcome  recovery    took  injected how")
            print("             (s)         (s)")
        for number in wanted:
            if not run_row(number, *table[number]):
                failed.append(number)
        kills = arguments.kills or (0 if arguments.row else 1000)
        if kills and not killing_run(kills, arguments.seed):
            failed.append("kills")
    finally:
        for folder in _folders:
            shutil.rmtree(folder, ignore_errors=True)
    if failed:
        print("FAILED: %s" % ", ".join(str(each) for each in failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

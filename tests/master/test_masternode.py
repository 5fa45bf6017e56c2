"""MasterNode: every call of the seed's face, with right and with wrong input."""
from __future__ import absolute_import, division, print_function

import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
import unittest

from minimalcluster import (
    ArgumentsError, DeadlineExceeded, Interrupted, MasterNode, RemoteError, RemoteTraceback, SourceError, StateError, TargetError,
    TaskError, TaskTimeout, UnsafeResult, UsageError, WorkerDied,
)
from minimalcluster.master import window
from tests import commands, support
from tests.support import MasterCase, mistake

DOUBLE = "f = lambda x: x * 2\nnumber = 7\n"


class MistakesTest(MasterCase):
    """Wrong calls: an exception at once that names the value, and the state before the call kept."""

    def setUp(self):
        support.prepare(self.master, DOUBLE, "f", [1, 2, 3])

    def tearDown(self):
        self.assertEqual(self.master.execute(), {1: 2, 2: 4, 3: 6})

    def refused(self, kind, call, arguments, *texts):
        error = mistake(call, *arguments)
        self.assertIsInstance(error, kind)
        for text in texts:
            self.assertIn(text, str(error))
        return error

    def test_duplicate_arguments(self):
        self.refused(ArgumentsError, self.master.load_args, [["a", "b", "a"]], "argument 2", "argument 0", "'a'")
        self.refused(ArgumentsError, self.master.load_args, [[1, True]], "argument 1", "True")

    def test_unhashable_argument(self):
        self.refused(ArgumentsError, self.master.load_args, [[(1,), [2]]], "argument 1", "[2]", "list")

    def test_argument_that_cannot_be_pickled(self):
        self.refused(ArgumentsError, self.master.load_args, [["fine", threading.Lock()]], "argument 1", "lock")

    def test_no_sequence(self):
        for value in (5, None, (x for x in [1]), set([1]), {1: 2}):
            self.refused(ArgumentsError, self.master.load_args, [value], type(value).__name__)

    def test_missing_file(self):
        error = self.refused(IOError, self.master.load_envir, ["/no/such/file.py"], "/no/such/file.py")
        self.assertEqual(error.filename, "/no/such/file.py")

    def test_syntax_error(self):
        error = self.refused(SyntaxError, self.master.load_envir, ["a = 1\ndef f(x) return x\n", False])
        self.assertEqual(error.lineno, 2)

    def test_syntax_error_in_a_file(self):
        with support.directory() as path:
            support.write(path + "/wrong.py", "a = 1\n\nb = = 2\n")
            error = self.refused(SyntaxError, self.master.load_envir, [path + "/wrong.py"])
        self.assertEqual((error.lineno, error.filename), (3, path + "/wrong.py"))

    def test_environment_that_raises(self):
        error = self.refused(SourceError, self.master.load_envir, ["a = 1\nb = a / 0\n", False], "line 2", "division")
        self.assertIsInstance(error.__cause__, ZeroDivisionError)

    def test_environment_that_exits(self):
        self.refused(SourceError, self.master.load_envir, ["import sys\nsys.exit(4)\n", False], "SystemExit", "line 2")

    def test_environment_that_is_no_text(self):
        self.refused(TypeError, self.master.load_envir, [42, False], "int")

    def test_function_that_is_not_defined(self):
        self.refused(TargetError, self.master.register_target_function, ["g"], "'g'", "f")

    def test_function_that_cannot_be_called(self):
        self.refused(TargetError, self.master.register_target_function, ["number"], "'number'", "int")

    def test_function_that_is_neither_name_nor_callable(self):
        self.refused(TypeError, self.master.register_target_function, [42], "42")

    def test_options_of_execute(self):
        self.refused(ValueError, self.master.execute, ["ignore"], "'ignore'")
        for chunksize in (0, -1, 1.5, "2"):
            self.refused(ValueError, self.master.execute, ["finish", chunksize], repr(chunksize))


class EarlyAndLateTest(unittest.TestCase):
    def test_before_the_start(self):
        master = MasterNode(PORT=0)
        for call in (master.execute, master.list_workers, master.join_as_worker, master.stop_as_worker):
            error = mistake(call)
            self.assertIsInstance(error, StateError)
            self.assertIn("start_master_server()", str(error))
        master.shutdown()

    def test_a_master_that_does_not_run_opens_no_journal(self):
        with support.directory() as folder:
            path = os.path.join(folder, "run.journal")
            master = MasterNode(PORT=0)
            for call in (master.map, master.imap, master.imap_unordered):
                arguments = (abs, [1]) if call == master.map else ()
                self.assertIsInstance(mistake(call, *arguments, journal=path), StateError)
            self.assertFalse(os.path.exists(path))
            master.shutdown()

    def test_each_missing_call_is_named(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            self.assertIn("load_envir()", str(mistake(master.register_target_function, "f")))
            self.assertIn("load_envir()", str(mistake(master.execute)))
            master.load_envir(DOUBLE, from_file=False)
            self.assertIn("register_target_function()", str(mistake(master.execute)))
            master.register_target_function("f")
            self.assertIn("load_args()", str(mistake(master.execute)))

    def test_after_the_shutdown(self):
        master = MasterNode(PORT=0)
        master.start_master_server(if_join_as_worker=False)
        support.prepare(master, DOUBLE, "f", [1])
        master.shutdown()
        for call in (master.execute, master.list_workers, master.join_as_worker, master.start_master_server):
            error = mistake(call)
            self.assertIsInstance(error, StateError)
            self.assertIn("shut down", str(error))

    def test_shutdown_ends_a_waiting_execute(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            support.prepare(master, DOUBLE, "f", [1])
            job = support.Background(master.execute)
            support.wait_until(lambda: master._cluster.snapshot()["jobs"])
            master.shutdown()
            self.assertIsInstance(mistake(job.result), StateError)

    def test_ports_and_keys(self):
        for port in (-1, 65536, "8888", None):
            self.assertIn(repr(port), str(mistake(MasterNode, "127.0.0.1", port)))
        for host, key in (("127.0.0.1", ""), ("0.0.0.0", "short"), ("0.0.0.0", b"short")):
            self.assertIn("AUTHKEY", str(mistake(MasterNode, host, 0, key)))
        self.assertIsInstance(mistake(MasterNode, "127.0.0.1", 0, 42), TypeError)
        with support.Log() as log:
            MasterNode("127.0.0.1", 0, "short")
        self.assertTrue(log.having("WARNING AUTHKEY has 5 bytes"))


class JobsTest(MasterCase):
    """One master with this machine as its node."""

    def run_job(self, source, arguments, name="f", **options):
        return support.run(self.master, source, name, arguments, **options)

    # -- arguments and results

    def test_no_arguments(self):
        for arguments in ([], (), range(0)):
            self.assertEqual(self.run_job(DOUBLE, arguments), {})

    def test_order_of_the_arguments(self):
        arguments = [(7919 * n) % 1009 for n in range(1009)]
        self.assertEqual(list(self.run_job(DOUBLE, arguments).items()), [(x, x * 2) for x in arguments])

    def test_kinds_of_sequences(self):
        for arguments in ([3, 1], (3, 1), range(3, 0, -2), "ba", b"ba", [u"\xe9", u"b"], [(1, (2, None)), 4.5]):
            expected = dict((x, x * 2) for x in arguments)
            self.assertEqual(self.run_job(DOUBLE, arguments), expected)
        self.assertEqual(self.run_job(DOUBLE, range(10 ** 12, 10 ** 12 + 30, 7)), dict((x, 2 * x) for x in range(10 ** 12, 10 ** 12 + 30, 7)))

    def test_arguments_are_those_at_the_time_of_the_call(self):
        arguments = [1, 2]
        support.prepare(self.master, DOUBLE, "f", arguments)
        arguments.append(3)
        self.assertEqual(self.master.execute(), {1: 2, 2: 4})

    def test_chunksize(self):
        for chunksize in (1, 3, 1000):
            self.assertEqual(self.run_job(DOUBLE, range(50), chunksize=chunksize), dict((x, x * 2) for x in range(50)))

    def test_large_argument_and_result(self):
        source = "f = lambda data: data + b'.'"
        data = os.urandom(5 << 20)
        self.assertEqual(self.run_job(source, [data, b"small"]), {data: data + b".", b"small": b"small."})

    def test_progress(self):
        told = []
        self.run_job(DOUBLE, range(100), progress=lambda done, total: told.append((done, total)))
        self.assertEqual(told[-1], (100, 100))
        self.assertEqual(told, sorted(told))

    # -- tasks that raise

    RAISING = (
        "class Odd(Exception):\n"
        "    pass\n"
        "def check(x):\n"
        "    raise Odd('%d is odd' % x)  # the line of the user\n"
        "def f(x):\n"
        "    return check(x) if x % 2 else x * 10\n"
    )

    def test_task_error(self):
        error = mistake(self.run_job, self.RAISING, [4, 3, 2, 1])
        self.assertIsInstance(error, TaskError)
        cause = error.__cause__
        self.assertIs(type(cause), self.master.environment.Odd)
        self.assertEqual(cause.args, ("3 is odd",))
        self.assertIsInstance(cause.__cause__, RemoteTraceback)
        for text in (str(cause.__cause__), str(error)):
            self.assertIn("raise Odd('%d is odd' % x)  # the line of the user", text)
            self.assertIn("return check(x) if x % 2 else x * 10", text)
            self.assertNotIn("worker.py", text)
        self.assertEqual(error.argument, 3)
        node = "%s/%d" % (socket.gethostname(), os.getpid())
        self.assertEqual(error.node, node)
        self.assertEqual(list(error.results.items()), [(4, 40), (2, 20)])
        self.assertEqual([(x, str(each)) for x, each in error.errors.items()], [(3, "3 is odd"), (1, "1 is odd")])
        self.assertIs(error.errors[3], cause)
        for text in ("2 of 4 tasks failed", "f(3)", node, "Odd: 3 is odd"):
            self.assertIn(text, str(error))
        if sys.version_info[0] > 2:  # py2
            self.assertIn("# the line of the user", "".join(traceback.format_exception(type(error), error, None)))

    def test_source_lines_of_an_environment_file(self):
        with support.directory() as path:
            support.write(path + "/mine.py", self.RAISING)
            self.master.load_envir(path + "/mine.py")
            self.master.register_target_function("f")
            self.master.load_args([1])
            text = str(mistake(self.master.execute))
        self.assertIn('%s/mine.py", line 4, in check' % path, text)
        self.assertIn("# the line of the user", text)

    def test_exceptions_of_python(self):
        error = mistake(self.run_job, "f = lambda x: {}[x]", ["missing"])
        self.assertIs(type(error.__cause__), KeyError)
        self.assertEqual(error.__cause__.args, ("missing",))

    def test_stop_on_error(self):
        with support.directory() as path:
            gates = support.Gates(path)
            source = gates.source + (
                "def f(x):\n"
                "    note('run')\n"
                "    if x == 0: raise ValueError('the first')\n"
                "    time.sleep(0.01)\n"
                "    return x\n"
            )
            error = mistake(self.run_job, source, range(300), on_error="stop", chunksize=1)
            self.assertIsInstance(error.__cause__, ValueError)
            self.assertEqual(list(error.errors), [0])
            self.assertEqual(error.results, dict((x, x) for x in error.results))
            self.assertLess(len(error.results), 299)
            self.assertIn("%d tasks were not run" % (299 - len(error.results)), str(error))
            # Nothing of it is still on its way: the next job begins with every worker process free.
            self.assertEqual(self.run_job(DOUBLE, range(9)), dict((x, x * 2) for x in range(9)))
            self.assertLess(gates.noted("run"), 300)

    def test_return_errors(self):
        result = self.run_job(self.RAISING, [1, 2, 3], on_error="return")
        self.assertEqual(list(result), [1, 2, 3])
        self.assertEqual(result[2], 20)
        for x in (1, 3):
            self.assertIs(type(result[x]), self.master.environment.Odd)
            self.assertIn("# the line of the user", str(result[x].__cause__))

    # -- again and again

    def test_again_without_a_restart(self):
        workers = support.worker_processes(os.getpid(), self.master.list_workers()[0].nprocs)
        support.prepare(self.master, "f = lambda x: x + 1\ng = lambda x: x - 1", "f", [1, 2])
        for _ in range(3):
            self.assertEqual(self.master.execute(), {1: 2, 2: 3})
        self.master.load_args([5])
        self.assertEqual(self.master.execute(), {5: 6})
        self.master.register_target_function("g")
        self.assertEqual(self.master.execute(), {5: 4})
        self.master.load_envir("g = lambda x: x * 100", from_file=False)
        self.assertEqual(self.master.execute(), {5: 500})
        self.assertEqual(support.descendants(), workers)

    def test_new_environment_without_the_function(self):
        support.prepare(self.master, DOUBLE, "f", [1])
        self.master.load_envir("h = lambda x: x", from_file=False)
        self.assertIn("register_target_function()", str(mistake(self.master.execute)))
        self.master.register_target_function("h")
        self.assertEqual(self.master.execute(), {1: 1})

    def test_two_threads_are_served_in_turn(self):
        with support.directory() as path:
            gates = support.Gates(path)
            source = gates.source + "def f(x):\n    note('run')\n    wait_for('gate')\n    return x * 2\n"
            slots = self.master.list_workers()[0].nprocs
            support.prepare(self.master, source, "f", range(slots))
            first = support.Background(self.master.execute)
            gates.wait_for("run", slots)
            second = support.Background(self.master.execute)
            self.assertEqual(len(self.master._cluster.snapshot()["jobs"]), 1)
            gates.open("gate")
            expected = dict((x, x * 2) for x in range(slots))
            self.assertEqual((first.result(), second.result()), (expected, expected))
            self.assertEqual(gates.noted("run"), 2 * slots)

    # -- the environment

    def test_recursion_and_imports_and_functions_that_call_others(self):
        source = (
            "import math, os.path\n"
            "from collections import OrderedDict as OD\n"
            "LIMIT = 2\n"
            "def fib(n):\n"
            "    return n if n < LIMIT else fib(n - 1) + fib(n - 2)\n"
            "def f(n):\n"
            "    return [fib(n), math.factorial(n), os.path.join('a', str(n)), list(OD([(n, g(n))]))]\n"
            "g = lambda x: [y for y in range(x) if y < LIMIT]\n"
        )
        self.assertEqual(self.run_job(source, [10]), {10: [55, 3628800, os.path.join("a", "10"), [10]]})

    def test_state_of_the_module(self):
        source = "import os\ncalls = []\ndef f(x):\n    calls.append(x)\n    return os.getpid(), len(calls)\n"
        result = self.run_job(source, range(40), chunksize=1)
        for pid in set(pid for pid, _ in result.values()):
            numbers = [number for each, number in result.values() if each == pid]
            self.assertEqual(sorted(numbers), list(range(1, len(numbers) + 1)))

    def test_names_that_shadow_builtins(self):
        source = "len = lambda x: 'my len of %s' % x\ndef sum(x):\n    return len(x)\nmap = print = list = None\n"
        if sys.version_info[0] == 2:  # py2
            source = source.replace("print = ", "")
        self.assertEqual(self.run_job(source, [3], "sum"), {3: "my len of 3"})

    def test_classes_as_arguments_and_results(self):
        source = (
            "class Point(object):\n"
            "    def __init__(self, x, y): self.x, self.y = x, y\n"
            "    def __eq__(self, other): return type(self) is type(other) and vars(self) == vars(other)\n"
            "    def __ne__(self, other): return not self == other\n"
            "    def __hash__(self): return hash((self.x, self.y))\n"
            "def mirror(point): return Point(point.y, point.x)\n"
        )
        self.master.load_envir(source, from_file=False)
        Point = self.master.environment.Point
        self.master.register_target_function("mirror")
        self.master.load_args([Point(1, 2), Point(3, 4)])
        self.assertEqual(self.master.execute(), {Point(1, 2): Point(2, 1), Point(3, 4): Point(4, 3)})

    def test_whatever_can_be_called(self):
        source = (
            "import functools, math\n"
            "from math import sqrt\n"
            "twice = functools.partial(pow, 2)\n"
            "class Box(object):\n"
            "    def __init__(self, x): self.x = x\n"
            "    @staticmethod\n"
            "    def make(x): return [x]\n"
            "class Adder(object):\n"
            "    def __call__(self, x): return x + 1\n"
            "add = Adder()\n"
        )
        for name, expected in (("twice", 16), ("sqrt", 2.0), ("add", 5), ("math.sqrt", 2.0), ("Box.make", [4])):
            self.assertEqual(self.run_job(source, [4], name), {4: expected})
        box = self.run_job(source, [4], "Box")[4]
        self.assertIs(type(box), self.master.environment.Box)
        self.assertEqual(box.x, 4)

    def test_environments_do_not_mix(self):
        first = "value = 'first'\nsecret = 1\nf = lambda x: value\n"
        second = "value = 'second'\ndef f(x):\n    return value, secret\n"
        self.assertEqual(self.run_job(first, [1, 2]), {1: "first", 2: "first"})
        error = mistake(self.run_job, second, [1, 2])
        self.assertIs(type(error.__cause__), NameError)
        self.assertIn("secret", str(error))
        self.assertEqual(self.run_job(first, [1, 2]), {1: "first", 2: "first"})

    def test_an_environment_does_not_see_this_package(self):
        error = mistake(self.run_job, "def f(x):\n    return protocol, division\n", [1])
        self.assertIs(type(error.__cause__), NameError)
        self.assertEqual(self.run_job("f = lambda x: 7 / x", [2]), {2: 3 if sys.version_info[0] == 2 else 3.5})  # py2

    def test_source_with_and_without_a_coding_line(self):
        for text in (u"f = lambda x: u'\xe9\u20ac'", u"f = lambda x: u'\xe9\u20ac'".encode("utf-8")):
            if isinstance(text, bytes):
                text = b"# -*- coding: utf-8 -*-\n" + text
            self.assertEqual(self.run_job(text, [1]), {1: u"\xe9\u20ac"})

    def test_text_of_an_exception_beyond_ascii(self):
        for raised in ("u'caf\\xe9'", "u'caf\\xe9'.encode('utf-8')"):
            with self.assertRaises(TaskError) as caught:
                self.run_job("def f(x):\n    raise ValueError(%s)\n" % raised, [1])
            self.assertIn("caf", str(caught.exception))


THINGS = """
from minimalcluster import MasterNode

class Thing(object):
    def __init__(self, x):
        self.x = x

    def __abs__(self):
        return self.x

def of(thing):
    return thing.x

def more(thing):
    return Thing(thing.x + 1)

if __name__ == "__main__":
    things = [Thing(1), Thing(2)]
    with MasterNode(PORT=0) as master:
        master.start_master_server()
        print(master.map(of, things))
        print(master.map(abs, things))
        print([thing.x for thing in master.map(more, things)])
"""


class CallablesTest(MasterCase):
    """What goes beyond the seed: callables, map, imap, imap_unordered."""

    SOURCE = "def inverse(x):\n    return 60 // x\ndef long(x):\n    return '%d' % x * 16384\n"

    def test_a_callable_is_registered(self):
        self.load(abs, [-2, -1, 3])
        self.assertEqual(self.master.execute(), {-2: 2, -1: 1, 3: 3})
        self.load("inverse", [1, 2])
        self.assertEqual(self.master.execute(), {1: 60, 2: 30})

    def test_map_takes_items_that_repeat_and_cannot_be_hashed(self):
        self.assertEqual(self.master.map(len, [[1], [1], [], "ab"]), [1, 1, 0, 2])
        self.assertEqual(self.master.map(abs, range(-2, 3)), [2, 1, 0, 1, 2])
        self.assertEqual(self.master.map(abs, (x for x in [-1, -1])), [1, 1])
        self.assertEqual(self.master.map(len, []), [])

    def test_map_takes_instances_of_the_scripts_classes(self):
        with support.directory() as folder:
            for start in ("", "import sys\nsys.modules['cloudpickle'] = None\n"):
                script = support.write(os.path.join(folder, "script.py"), start + THINGS)
                self.assertEqual(commands.run([script]), (0, "[1, 2]\n[1, 2]\n[2, 3]\n"))

    def test_map_names_the_item_that_failed(self):
        with self.assertRaises(TaskError) as caught:
            self.master.map(len, [[1], 7, [1, 2]])
        self.assertEqual(caught.exception.results, {0: 1, 2: 2})
        self.assertEqual(list(caught.exception.errors), [1])
        self.assertEqual(caught.exception.argument, 7)
        self.assertIsInstance(self.master.map(len, [[1], 7], on_error="return")[1], TypeError)

    def test_map_names_the_item_that_killed(self):
        outcomes = self.master.map(os._exit, [[1], "seven", 7], attempts_max=1, on_error="return")
        self.assertEqual([type(outcome) for outcome in outcomes], [TypeError, TypeError, WorkerDied])
        self.assertEqual(outcomes[2].argument, 7)

    def test_map_wants_a_callable(self):
        with self.assertRaises(TypeError):
            self.master.map("inverse", [1])

    def test_imap_gives_pairs_in_order(self):
        self.load("inverse", [5, 3, 2])
        self.assertEqual(list(self.master.imap()), [(5, 12), (3, 20), (2, 30)])
        self.assertEqual(sorted(self.master.imap_unordered()), [(2, 30), (3, 20), (5, 12)])

    def test_imap_tells_the_failed_ones_at_the_end(self):
        self.load("inverse", [0, 3, 2])
        pairs = []
        with self.assertRaises(TaskError) as caught:
            for pair in self.master.imap():
                pairs.append(pair)
        self.assertEqual(pairs, [(3, 20), (2, 30)])
        self.assertEqual(list(caught.exception.errors), [0])
        self.assertIsInstance(dict(self.master.imap(on_error="return"))[0], ZeroDivisionError)

    def test_closing_imap_leaves_the_cluster_usable(self):
        self.load("inverse", range(1, 1001))
        pairs = self.master.imap()
        self.assertEqual(next(pairs), (1, 60))
        pairs.close()
        self.assertEqual(len(self.master.execute()), 1000)

    def test_an_imap_nobody_iterates_ends_when_it_is_dropped(self):
        self.load(time.sleep, [1000, 1001])
        for end in (lambda pairs: pairs.close(), lambda pairs: None):
            pairs = self.master.imap()
            support.wait_until(lambda: self.master.status().jobs, what="the job's begin")
            end(pairs)
            del pairs
            support.wait_until(lambda: not self.master.status().jobs, what="the job's end")

    def test_imap_gives_what_the_journal_has(self):
        self.load("inverse", [5, 3, 2])
        with support.directory() as path:
            home, os.environ["HOME"] = os.environ.get("HOME", ""), path  # the user's key is there
            try:
                for imap in (self.master.imap, self.master.imap, self.master.imap_unordered):
                    found = list(imap(journal=os.path.join(path, "outcomes")))
                    self.assertEqual(sorted(found), [(2, 30), (3, 20), (5, 12)])
            finally:
                os.environ["HOME"] = home

    def test_row_38_who_reads_slowly_holds_up_the_work(self):
        self.addCleanup(setattr, window, "BYTES_MAX", window.BYTES_MAX)
        window.BYTES_MAX = 1 << 16
        self.load("long", range(300))
        for iterate in (self.master.imap, self.master.imap_unordered):
            with support.Log() as log:
                pairs = iterate(chunksize=1)
                found = [next(pairs)]
                support.wait_until(lambda: "wait to be taken" in pairs.status().why, what="its word")
                support.wait_until(lambda: not pairs.status().running, what="the end of what ran")
                self.assertLess(pairs.status().done, 200)
                support.wait_until(lambda: log.having("wait to be taken"), what="its line in the log")
                found += list(pairs)
            self.assertEqual(dict(found), {x: "%d" % x * 16384 for x in range(300)})
            self.assertEqual(len(found), 300)

    def test_imap_with_a_deadline(self):
        self.load(time.sleep, [60])
        with self.assertRaises(DeadlineExceeded) as caught:
            list(self.master.imap(deadline=0.1))
        self.assertIn("0 of 1 tasks have an outcome", str(caught.exception))


class LimitsTest(MasterCase):
    """retries, timeout, deadline and Ctrl-C of a job."""

    SOURCE = """
import os, time
def sleep(seconds):
    time.sleep(seconds)
    return seconds
def hang(x):
    while x == 3:
        pass
    return x
def second_time(path):
    if not os.path.exists(path):
        open(path, "w").close()
        raise ValueError(path)
    return True
"""

    def test_row_11_a_task_that_takes_too_long_is_ended(self):
        self.load("hang", range(6))
        with self.assertRaises(TaskError) as caught:
            self.master.execute(timeout=0.5)
        self.assertEqual(list(caught.exception.errors), [3])
        self.assertIsInstance(caught.exception.errors[3], TaskTimeout)
        self.assertEqual(caught.exception.results, {0: 0, 1: 1, 2: 2, 4: 4, 5: 5})

    def test_retries(self):
        with support.directory() as folder:
            paths = [os.path.join(folder, "%d" % n) for n in range(5)]
            self.load("second_time", paths)
            with self.assertRaises(TaskError) as caught:
                self.master.execute()
            self.assertEqual(len(caught.exception.errors), 5)
            for path in paths:
                os.remove(path)
            self.assertEqual(set(self.master.execute(retries=1).values()), {True})

    def test_deadline_keeps_what_is_done(self):
        self.load("sleep", [0.01, 0.02, 600, 601, 602])
        with self.assertRaises(DeadlineExceeded) as caught:
            self.master.execute(deadline=2.0)
        self.assertEqual(caught.exception.results, {0.01: 0.01, 0.02: 0.02})
        self.load("sleep", [0.01])
        self.assertEqual(self.master.execute(), {0.01: 0.01})

    def test_options_that_make_no_sense(self):
        self.load("sleep", [0])
        for options in ({"retries": -1}, {"timeout": 0}, {"deadline": "x"}, {"attempts_max": 0}, {"timeout": -1.5}):
            with self.assertRaises(ValueError) as caught:
                self.master.execute(**options)
            self.assertIn(list(options)[0], str(caught.exception))
        with self.assertRaises(TypeError):
            self.master.execute(no_such_option=1)
        self.assertEqual(self.master.execute(), {0: 0})

    @unittest.skipIf(os.name == "nt", "os.kill does not interrupt there")
    def test_row_36_ctrl_c_keeps_what_is_done(self):
        self.load("sleep", [0.01, 0.02, 600, 601, 602])

        sent = []

        def interrupt(done, total):
            if done == 2 and not sent:
                sent.append(True)
                os.kill(os.getpid(), signal.SIGINT)

        with self.assertRaises(Interrupted) as caught:
            self.master.execute(progress=interrupt)
        self.assertIsInstance(caught.exception, KeyboardInterrupt)
        self.assertEqual(caught.exception.results, {0.01: 0.01, 0.02: 0.02})
        self.load("sleep", [0.01])
        self.assertEqual(self.master.execute(), {0.01: 0.01})


class NodesTest(unittest.TestCase):
    """Masters whose nodes come and go."""

    def test_listed_at_once(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            worker, = master.list_workers()
            self.assertEqual(worker[:4], (socket.gethostname(), worker.nprocs, os.getpid(), 0))
            self.assertEqual(worker.python, "%d.%d.%d" % sys.version_info[:3])
            self.assertTrue(worker.platform and worker.nprocs >= 1)
            support.run(master, DOUBLE, "f", range(1000))
            worker, = master.list_workers()
            self.assertEqual((worker.tasks_done, worker.busy), (1000, 0))
            self.assertGreater(worker.tasks_per_second, 0)

    def test_busy_while_it_works(self):
        with support.directory() as path, MasterNode(PORT=0) as master:
            gates = support.Gates(path)
            master.start_master_server()
            support.prepare(master, gates.source + "def f(x):\n    note('run')\n    wait_for('gate')\n", "f", [1])
            job = support.Background(master.execute)
            gates.wait_for("run")
            self.assertEqual([worker.busy for worker in master.list_workers()], [1])
            gates.open("gate")
            self.assertEqual(job.result(), {1: None})

    def test_join_and_stop_any_number_of_times(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            master.stop_as_worker()
            for _ in range(3):
                master.join_as_worker()
                master.join_as_worker()
                self.assertEqual(len(master.list_workers()), 1)
                workers = support.worker_processes(os.getpid(), master.list_workers()[0].nprocs)
                self.assertEqual(support.run(master, DOUBLE, "f", [1]), {1: 2})
                master.stop_as_worker()
                master.stop_as_worker()
                self.assertEqual(master.list_workers(), [])
                support.wait_for_death(workers)

    def test_join_and_stop_before_worker_processes_are_ready(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            for _ in range(5):
                master.join_as_worker()
                master.stop_as_worker()
            support.wait_until(lambda: not support.descendants(), what="no worker process")

    def test_join_and_stop_during_a_job(self):
        with support.directory() as path, MasterNode(PORT=0) as master:
            gates = support.Gates(path)
            master.start_master_server()
            source = gates.source + "def f(x):\n    note('run')\n    time.sleep(0.003)\n    return x * 2\n"
            support.prepare(master, source, "f", range(400))
            job = support.Background(master.execute)
            for moment in (20, 100, 200):
                gates.wait_for("run", moment)
                master.stop_as_worker()
                self.assertEqual(master.list_workers(), [])
                self.assertFalse(job.done())
                master.join_as_worker()
            self.assertEqual(job.result(), dict((x, x * 2) for x in range(400)))
            # What ran may end before a stop: nothing was begun twice.
            self.assertEqual(gates.noted("run"), 400)

    def test_waiting_without_a_node_says_so(self):
        with MasterNode(PORT=0) as master, support.Log() as log:
            master.start_master_server(if_join_as_worker=False)
            support.prepare(master, DOUBLE, "f", [1, 2])
            job = support.Background(master.execute)
            support.wait_until(lambda: log.having("no node"), what="the reason why nothing happens")
            self.assertFalse(job.done())
            with support.node_of(master):
                self.assertEqual(job.result(), {1: 2, 2: 4})
            self.assertEqual(len(log.having("no node")), 1)

    def test_status_while_execute_runs_in_another_thread(self):
        with support.directory() as path, MasterNode(PORT=0) as master:
            gates = support.Gates(path)
            self.assertIsInstance(mistake(master.status), StateError)
            master.start_master_server(if_join_as_worker=False)
            self.assertEqual(str(master.status()), "nodes: 0, worker processes: 0, jobs: 0")
            source = gates.source + "def f(x):\n    wait_for('%d' % (x > 0))\n    return x * 2\n"
            support.prepare(master, source, "f", range(3))
            job = support.Background(master.execute)
            support.wait_until(lambda: master.status().jobs and "no node is connected" in master.status().jobs[0].why)
            self.assertEqual(master.status().jobs[0][:6], ("f", 3, 0, 0, 0, 3))
            with support.node_of(master):
                support.wait_until(lambda: master.status().jobs[0].running, what="a task that runs")
                gates.open("0")
                support.wait_until(lambda: master.status().jobs[0].done == 1)
                support.wait_until(lambda: " tasks run on " in str(master.status()), what="what it waits for")
                told = master.status()
                self.assertEqual((told.nodes, told.workers, told.jobs[0][1:4]), (1, 1, (3, 1, 0)))
                self.assertEqual(told.jobs[0].running + told.jobs[0].queued, 2)  # maybe one is there in advance
                self.assertGreater(told.jobs[0].left_seconds, 0.0)
                gates.open("1")
                self.assertEqual(job.result(), {0: 0, 1: 2, 2: 4})
            support.wait_until(lambda: not master.status().jobs, what="the end of the job")

    def test_status_of_an_iterator(self):
        with support.directory() as path, MasterNode(PORT=0) as master:
            gates = support.Gates(path)
            master.start_master_server(if_join_as_worker=False)
            source = gates.source + "def f(x):\n    wait_for(x)\n    return 1 // x\n"
            support.prepare(master, source, "f", range(3))
            with support.node_of(master):
                pairs = master.imap_unordered(on_error="return")
                support.wait_until(lambda: pairs.status().running, what="a task that runs")
                gates.open(0)
                self.assertEqual(next(pairs)[0], 0)
                self.assertEqual(pairs.status()[:4], ("f", 3, 1, 1))
                gates.open(1)
                gates.open(2)
                self.assertEqual(list(pairs), [(1, 1), (2, 0)])
                self.assertEqual(str(pairs.status()), "f: 3 of 3 tasks done, 1 failed; it is over")
            self.assertEqual(master.status().jobs, ())
        self.assertEqual(pairs.status().done, 3)

    def test_environment_that_fails_on_the_node(self):
        source = (
            "import os\n"
            "if os.environ.get('NODE_NAME') == 'poor':\n"
            "    raise RuntimeError('this node lacks it')\n"
            "f = lambda x: x * 2\n"
        )
        with MasterNode(PORT=0) as master:
            master.start_master_server(if_join_as_worker=False)
            with support.node_of(master, name="poor"):
                error = mistake(support.run, master, source, "f", [1, 2, 3])
                self.assertIsInstance(error, SourceError)
                self.assertIn("this node lacks it", str(error))
                with support.node_of(master, name="rich"):
                    self.assertEqual(support.run(master, source, "f", [1, 2, 3]), {1: 2, 2: 4, 3: 6})
                self.assertEqual(support.run(master, DOUBLE, "f", [1]), {1: 2})

    def test_keys(self):
        with MasterNode(PORT=0) as first, MasterNode(PORT=0) as second:
            self.assertNotEqual(first.AUTHKEY, second.AUTHKEY)
            self.assertGreaterEqual(len(first.AUTHKEY), 32)
        with support.Log(level=0) as log, MasterNode(PORT=0, AUTHKEY=u"caf\xe9 for the cluster".encode("utf-8")) as master:
            master.start_master_server(if_join_as_worker=False)
            with support.start_node(master.PORT, u"caf\xe9 for the cluster") as node:
                node.wait_for_output("connected to the master")
                self.assertEqual(support.run(master, DOUBLE, "f", [1]), {1: 2})
                self.assertNotIn("for the cluster", node.output())
        self.assertEqual(log.having("for the cluster"), [])


#: An environment whose results and exceptions run code where they are unpickled.
EVIL = """
import os
class Point(object):
    def __init__(self, x):
        self.x = x
    def __eq__(self, other):
        return self.x == other.x
def mark(path):  # where it is loaded; a worker process loads its exceptions, to see whether that works
    os.mkdir("%s-%d" % (path, os.getpid()))
class Evil(object):
    def __init__(self, path):
        self.path = path
    def __reduce__(self):
        return mark, (self.path,)
class EvilError(Exception):
    def __reduce__(self):
        return mark, self.args
def f(x):
    if x == "raise":
        raise ValueError(x)
    if x.startswith("error:"):
        raise EvilError(x[6:])
    return {"point": Point, "evil": Evil}.get(x[:5].strip(), Evil)(x) if x[:1] in "p/" else [x, 1.5, {"a": x}]
"""


class SafeResultsTest(unittest.TestCase):
    """Row 49: a node whose user has changed it sends a pickle that runs a command on the master."""

    def test_row_49_nothing_that_a_result_names_runs(self):
        path = os.path.join(support.directory_for(self), "canary")
        with MasterNode(PORT=0, results="safe") as master:
            master.start_master_server()
            arguments = ["a", "point", path, "error:" + path, "raise"]
            results = support.run(master, EVIL, "f", arguments, on_error="return")
            self.assertEqual(["a", 1.5, {"a": "a"}], results["a"])
            self.assertEqual(master.environment.Point("point"), results["point"])
            self.assertIsInstance(results[path], UnsafeResult)
            self.assertIn("mark", str(results[path]))
            self.assertIsInstance(results["error:" + path], RemoteError)  # its text, and nothing rebuilt
            self.assertIsInstance(results["raise"], ValueError)
            self.assertFalse(os.path.exists("%s-%d" % (path, os.getpid())))
            self.assertIsInstance(mistake(master.execute, journal=path), UsageError)
            self.assertFalse(os.path.exists(path))

    def test_by_default_results_are_any(self):
        path = os.path.join(support.directory_for(self), "canary")
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            support.run(master, EVIL, "f", [path])
        self.assertTrue(os.path.exists("%s-%d" % (path, os.getpid())))

    def test_row_49_executors_on_such_a_master_too(self):
        if sys.version_info < (3, 6):
            raise unittest.SkipTest("the executor is for Python 3")
        with MasterNode(PORT=0, results="safe") as master:
            master.start_master_server()
            with master.executor() as executor:
                self.assertEqual(8, executor.submit(pow, 2, 3).result(support.SECONDS))
                self.assertIsInstance(executor.submit(eval, "__import__('types').SimpleNamespace(a=1)").exception(support.SECONDS), UnsafeResult)
                self.assertEqual([1, 2], list(executor.map(abs, [-1, -2])))

    def test_row_49_executors_and_pools_of_their_own(self):
        if sys.version_info < (3, 6):
            raise unittest.SkipTest("the executor is for Python 3")
        from minimalcluster import ClusterExecutor, Pool

        odd = "__import__('types').SimpleNamespace(a=1)"
        with ClusterExecutor(1, results="safe") as executor:
            self.assertIsInstance(executor.submit(eval, odd).exception(support.SECONDS), UnsafeResult)
            self.assertEqual([1], list(executor.map(abs, [-1])))
            self.assertIsInstance(mistake(executor.options, journal="never made"), UsageError)
        with Pool(1, results="safe") as pool:
            self.assertEqual([1, 4], pool.map(abs, [-1, 4]))
            self.assertIsInstance(mistake(pool.apply, eval, (odd,)), UnsafeResult)
        self.assertFalse(os.path.exists("never made"))

    def test_what_it_may_be(self):
        self.assertIsInstance(mistake(MasterNode, results="unsafe"), ValueError)


class EndTest(unittest.TestCase):
    """Whatever ends the master, nothing is left behind."""

    def test_shutdown(self):
        with support.Log() as log:
            master = MasterNode(PORT=0)
            self.addCleanup(master.shutdown)
            master.start_master_server()
            port = master.PORT
            self.assertGreater(port, 0)
            with support.node_of(master) as node:
                workers = support.worker_processes(os.getpid(), master.list_workers()[0].nprocs + 1)  # and the node's
                master.shutdown()
                self.assertEqual(node.wait(), 0)
            support.wait_for_death(workers)
            master.shutdown()
            with MasterNode(PORT=port) as again:
                again.start_master_server(if_join_as_worker=False)
                self.assertEqual(again.PORT, port)
        self.assertEqual(log.having("ERROR") + log.having("CRITICAL"), [])

    def test_context_manager(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            workers = support.worker_processes(os.getpid(), master.list_workers()[0].nprocs)
        support.wait_for_death(workers)
        self.assertIsInstance(mistake(master.execute), StateError)

    def test_start_again_joins_only_once(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            master.start_master_server()
            self.assertEqual(len(master.list_workers()), 1)

    @staticmethod
    def is_a_masters(thread):
        return thread.name.startswith("minimalcluster") and thread.name != "minimalcluster-log"

    def test_nothing_stays_open(self):
        if not os.path.exists("/proc/self/fd"):
            raise unittest.SkipTest("this system has no /proc to count descriptors in")

        def once():
            with MasterNode(PORT=0) as master:
                master.start_master_server()
                support.run(master, DOUBLE, "f", [1])
            support.wait_until(lambda: not [t for t in threading.enumerate() if self.is_a_masters(t)])
            return len(os.listdir("/proc/self/fd"))

        self.assertEqual(once(), once())

    SCRIPT = (
        "import json, sys\n"
        "from minimalcluster import MasterNode\n"
        "master = MasterNode(PORT=0)\n"
        "master.start_master_server()\n"
        "master.load_envir('import time\\ndef f(x):\\n    print(\"task %s says hello\" % x)\\n    return x * 2\\n'\n"
        "                  'def sleep(x):\\n    print(\"asleep\")\\n    time.sleep(100)\\n', from_file=False)\n"
        "master.register_target_function('f')\n"
        "master.load_args([1, 2, 3])\n"
        "print(str(sorted(master.execute().items())))\n"  # 2.7 writes a list piece by piece
        "print(json.dumps([master.PORT, master.AUTHKEY]))\n"
        "sys.stdout.flush()\n"
    )

    @staticmethod
    def address(script):
        """Port and key of its master; other lines may come between the key's and its end."""
        address = r'\[(\d+), "(mck-[0-9a-f]{64})"\]'
        found = support.wait_until(lambda: re.search(address, script.output()), what=lambda: "a key in %r" % script.output())
        return int(found.group(1)), found.group(2)

    def test_exit_without_shutdown(self):
        for last_lines, code in (("", 0), ("sys.exit(3)\n", 3), ("raise ValueError('mine')\n", 1)):
            with support.directory() as path:
                wait = "import os, time\nwhile not os.path.exists(%r): time.sleep(0.01)\n" % (path + "/go")
                with support.Process(self.SCRIPT + wait + last_lines) as script:
                    port, key = self.address(script)
                    workers = support.descendants(script.pid)
                    self.assertTrue(workers)
                    with support.start_node(port, key) as node:
                        node.wait_for_output("connected to the master")
                        support.write(path + "/go")
                        self.assertEqual(script.wait(), code, script.output())
                        self.assertEqual(node.wait(), 0, node.output())
                    support.wait_for_death(workers)
                    self.assertIn("[(1, 2), (2, 4), (3, 6)]", script.output())
                    self.assertEqual("Traceback" in script.output(), code == 1)

    def test_what_tasks_print_is_printed(self):
        with support.Process(self.SCRIPT + "master.shutdown()\n") as script:
            self.assertEqual(script.wait(), 0, script.output())
        for x in (1, 2, 3):
            self.assertEqual(script.output().count("task %d says hello\n" % x), 1, script.output())

    def test_what_tasks_on_other_nodes_print_names_the_node(self):
        code = self.SCRIPT.replace("start_master_server()", "start_master_server(False)").replace(
            "master.load_envir", "print(json.dumps([master.PORT, master.AUTHKEY])); sys.stdout.flush()\nmaster.load_envir"
        )
        with support.Process(code) as script:
            port, key = self.address(script)
            with support.start_node(port, key):
                self.assertEqual(script.wait(), 0, script.output())
        for x in (1, 2, 3):
            self.assertRegex_(script.output(), r"\[%s/\d+\] task %d says hello\n" % (socket.gethostname(), x))

    def assertRegex_(self, text, pattern):
        getattr(self, "assertRegex", getattr(self, "assertRegexpMatches", None))(text, pattern)  # py2

    def test_interrupt_leaves_the_cluster_usable(self):
        script = self.SCRIPT + (
            "master.register_target_function('sleep')\n"
            "try:\n"
            "    master.execute()\n"
            "except KeyboardInterrupt:\n"
            "    print('interrupted')\n"
            "master.register_target_function('f')\n"
            "master.load_args([7])\n"
                "print(dict(master.execute()))\n"
        )
        with support.Process(script) as master:
            master.wait_for_output("asleep")
            master.interrupt()
            self.assertEqual(master.wait(), 0, master.output())
        self.assertIn("interrupted\n", master.output())
        self.assertIn("{7: 14}", master.output())
        self.assertNotIn("Traceback", master.output())


if __name__ == "__main__":
    unittest.main()

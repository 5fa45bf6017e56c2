"""Submitted calls: their arguments, their terms, and what cannot be pickled."""
from __future__ import absolute_import, division, print_function

import gc
import importlib
import os
import pickle
import random
import sys
import threading
import time
import unittest
import weakref

from tests import commands, support
from tests.sent import (
    PYTHON_3, SECONDS, CannotLoad, CannotLoadHere, CannotPickle, ExitAtLoad, ExitAtPickle, Running, Thing,
    capture, collected_arguments, faces, instance_of, length, mul, noted_and_fails_once, pid_after,
    touch_and_wait,
)

if PYTHON_3:
    from concurrent.futures import ThreadPoolExecutor, TimeoutError as FutureTimeoutError

    from minimalcluster import ClusterExecutor, errors
    from minimalcluster.faces.executor import CallTimeoutError


@faces
class Submit(Running):
    def test_submit(self):
        self.assertEqual(256, self.executor.submit(pow, 2, 8).result(SECONDS))

    def test_keywords(self):
        self.assertEqual(16, self.executor.submit(mul, 2, y=8).result(SECONDS))
        future = self.executor.submit(capture, 1, self=2, fn=3)
        self.assertEqual(((1,), {"self": 2, "fn": 3}), future.result(SECONDS))
        self.assertRaises(TypeError, lambda: self.executor.submit(fn=capture, arg=1))
        self.assertRaises(TypeError, lambda: self.executor.submit(arg=1))
        self.assertRaises(TypeError, lambda: self.executor.submit())

    @unittest.skipIf(sys.version_info < (3, 9), "before, the standard library has another sentence")
    def test_a_missing_function_is_named_as_by_the_standard_library(self):
        for keywords in ({}, {"fn": capture}):
            theirs = str(support.mistake(ThreadPoolExecutor(1).submit, **keywords))
            self.assertIn("'fn'", theirs)
            ours = str(support.mistake(self.executor.submit, **keywords))
            self.assertEqual(theirs.replace("ThreadPool", "Cluster"), ours)
        self.assertEqual(((), {"_ClusterExecutor__fn": 1}), self.executor.submit(capture, _ClusterExecutor__fn=1).result(SECONDS))

    def test_bound_methods_and_classes(self):
        self.assertEqual("called", self.executor.submit(Thing().method).result(SECONDS))
        self.assertIsInstance(self.executor.submit(Thing).result(SECONDS), Thing)

    def test_from_many_threads(self):
        def work(base):
            futures = [self.executor.submit(mul, base, index) for index in range(50)]
            return [future.result(SECONDS) for future in futures]

        threads = [support.Background(work, base) for base in range(8)]
        for base, thread in enumerate(threads):
            self.assertEqual([base * index for index in range(50)], thread.result())

    def test_row_70_ever_new_options_are_no_ever_more_threads(self):
        before = threading.active_count()
        for number in range(60):
            self.assertEqual(number, self.executor.options(timeout=1000 + number).submit(abs, -number).result(SECONDS))
        support.wait_until(lambda: threading.active_count() < before + 20, what="the end of threads")
        views = [self.executor.options(timeout=2000 + number) for number in range(20)]  # all of them at work at once
        futures = [view.submit(abs, -number) for number, view in enumerate(views)]
        self.assertEqual(list(range(20)), [future.result(SECONDS) for future in futures])
        support.wait_until(lambda: threading.active_count() < before + 10, what="the end of threads")  # of all but eight

    def test_it_does_not_wait_for_a_large_job(self):
        large = self.executor.map(pid_after, [0.001] * 20000)
        next(large)
        self.assertEqual(1, self.executor.submit(abs, -1).result(SECONDS))
        self.assertEqual([1], list(self.executor.map(abs, [-1])))
        self.assertFalse(large._job.over.is_set())
        large.close()

    def test_no_stale_references(self):
        # [test_no_stale_references] The future is dropped on purpose.
        thing = Thing()
        collected = threading.Event()
        reference = weakref.ref(thing, lambda _: collected.set())
        self.executor.submit(thing.method)
        del thing
        support.wait_until(lambda: gc.collect() is not None and collected.is_set(), what="the argument's collection")
        self.assertIsNone(reference())

    def test_workers_drop_arguments(self):
        # [test_ressources_gced_in_workers]
        with ClusterExecutor(1) as executor:
            executor.submit(id, Thing()).result(SECONDS)
            self.assertEqual(0, executor.submit(collected_arguments).result(SECONDS))

    def test_options(self):
        with support.directory() as folder:
            path = os.path.join(folder, "runs")
            patient = self.executor.options(retries=5)
            self.assertIsInstance(patient, ClusterExecutor)
            self.assertEqual("at last", patient.submit(noted_and_fails_once, path).result(SECONDS))
            self.assertEqual(3, len(support.read(path)))
            self.assertEqual(["at last"], list(patient.map(noted_and_fails_once, [os.path.join(folder, "map")])))
            error = self.executor.submit(noted_and_fails_once, os.path.join(folder, "impatient")).exception(SECONDS)
            self.assertIsInstance(error, OSError)

    def test_idempotent_calls_go_into_a_job_of_their_own(self):
        jobs = [self.executor.submit(mul, 2, 3), self.executor.options(idempotent=True).submit(mul, 3, 4)]
        self.assertEqual([6, 12], [each.result(SECONDS) for each in jobs])
        self.assertEqual({False, True}, {terms.idempotent for _, terms in self.executor._core._calls})

    def test_options_are_checked(self):
        for wrong in ({"retries": -1}, {"retries": 1.5}, {"attempts_max": 0}, {"timeout": 0}, {"timeout": -1}, {"timeout": True},
                      {"idempotent": 1}, {"journal": 5}, {"journal": ""}, {"deadline": 0}, {"on_error": "raise"}, {"on_error": ""}):  # fmt: skip
            self.assertRaises(ValueError, self.executor.options, **wrong)
        self.assertRaises(TypeError, self.executor.options, unknown=1)

    def test_timeout_of_a_call(self):
        with support.directory() as folder:
            gate, started = os.path.join(folder, "gate"), os.path.join(folder, "started")
            brief = self.executor.options(timeout=0.2)
            error = brief.submit(touch_and_wait, started, gate).exception(SECONDS)
            self.assertIsInstance(error, (FutureTimeoutError, CallTimeoutError))
            self.assertIsInstance(error, errors.TaskTimeout)
            self.assertIn("0.2 s", str(error))
            results = brief.map(touch_and_wait, [started] * 2, [gate] * 2)
            self.assertRaises(FutureTimeoutError, next, results)
            # The others do not pay for it, and in time it changes nothing.
            self.assertEqual(list(range(20)), list(self.executor.options(timeout=60).map(int, range(20))))
            self.assertEqual(4, self.executor.options(timeout=60).submit(mul, 2, 2).result(SECONDS))

    def test_row_66_a_timeout_is_not_for_what_comes_before_the_call(self):
        with ClusterExecutor(1, initializer=time.sleep, initargs=(1.5,)) as executor:
            brief = executor.options(timeout=0.7, retries=0)
            self.assertEqual([0, 1, 2], list(brief.map(abs, range(3))))
            self.assertEqual(6, brief.submit(mul, 2, 3).result(SECONDS))

    def test_shared_objects(self):
        handle = self.executor.share(list(range(1000)))
        self.assertEqual(1000, self.executor.submit(length, handle).result(SECONDS))
        self.assertEqual([1000, 1000], list(self.executor.map(length, [handle, handle])))

    def test_what_tasks_print_comes_here(self):
        code = """
from minimalcluster import ClusterExecutor
ex = ClusterExecutor(1)
for number in range(3):
    ex.submit(print, "line", number)
ex.shutdown()
"""
        with support.Process(code) as process:
            self.assertEqual(0, process.wait())
            self.assertEqual(["line 0", "line 1", "line 2"], process.output().splitlines())


@faces
class Pickling(Running):
    """[test_deadlock] Whatever cannot be pickled or unpickled, on either side, reaches its own future only."""

    def tearDown(self):
        self.assertEqual([4, 5], [self.executor.submit(abs, -4).result(SECONDS), next(self.executor.map(abs, [5]))])

    def test_a_call_that_cannot_be_pickled(self):
        error = self.raised(self.executor.submit(id, CannotPickle()), pickle.PicklingError)
        self.assertEqual(("made not to be pickled",), error.args[:1] and (str(error)[:22],))
        self.raised(self.executor.submit(id, ExitAtPickle()), SystemExit)

    def test_the_attribute_that_cannot_travel_is_named(self):
        thing = Thing()
        thing.parts = {"inner": Thing()}
        thing.parts["inner"].lock = threading.Lock()
        error = self.raised(self.executor.submit(id, thing), TypeError)
        self.assertIn("argument 0, .parts, ['inner'], .lock", str(error))

    def test_a_call_that_cannot_be_unpickled(self):
        error = self.raised(self.executor.submit(id, CannotLoad()), pickle.UnpicklingError)
        self.assertEqual("made not to be unpickled", str(error))
        self.raised(self.executor.submit(id, ExitAtLoad()), SystemExit)

    def test_a_result_that_cannot_be_pickled(self):
        error = self.raised(self.executor.submit(instance_of, CannotPickle), pickle.PicklingError)
        self.assertIn("the result cannot be sent back", error.__cause__.tb)
        self.assertIn("CannotPickle", error.__cause__.tb)
        self.raised(self.executor.submit(instance_of, ExitAtPickle), SystemExit)
        self.raised(self.executor.submit(threading.Lock), TypeError)

    def test_a_result_that_cannot_be_unpickled(self):
        for future in (self.executor.submit(CannotLoadHere, os.getpid()), self.executor.submit(instance_of, CannotLoad)):
            error = future.exception(SECONDS)
            self.assertIsInstance(error, errors.RemoteError)
            self.assertIsInstance(error.__cause__, (ValueError, pickle.UnpicklingError))

    def test_the_neighbours_are_not_touched(self):
        futures = [
            self.executor.submit(length, each) for each in ([1], CannotPickle(), [2], CannotLoad(), ExitAtPickle(), [3])
        ]
        kinds = [type(future.exception(SECONDS)) for future in futures]
        nothing = type(None)
        self.assertEqual([nothing, pickle.PicklingError, nothing, pickle.UnpicklingError, SystemExit, nothing], kinds)


_PROJECT = {
    "__init__": "",
    "numbers": "def five():\n    return 5\n",
    "work": "import pkgutil\nfrom .numbers import five\n\ndef answer(x):\n"
    "    return x + five() + int(pkgutil.get_data(__package__, 'data.txt'))\n",
}


_NEXT_MASTER = """
import sys, time
sys.path.insert(0, %r)
from %s import answer
from minimalcluster import MasterNode
master = MasterNode(PORT=%d, AUTHKEY=%r)
master.start_master_server(if_join_as_worker=False)
print("answer %%d" %% master.map(answer, [0])[0])
time.sleep(600)
"""


_DIES = """
import os
died = %r
def work(n):
    from . import late
    if n == 20 and not os.path.exists(died):
        open(died, "w").close()
        os._exit(1)
    return n, late.number
"""

_SETTINGS = """
limit, calls = None, []
def prepare(value):
    global limit
    limit = value
def count(_):
    calls.append(1)
    return limit, len(calls)
"""

_FORKS = """
import os
def work():
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            from . import late
            os.write(writing, b"%d" % late.number)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    return os.read(reading, 100)
"""


@faces
class ProjectModules(unittest.TestCase):
    """A node that has none of the program's files."""

    def setUp(self):
        self.folder, self.time = support.directory_for(self), 1000000000
        sys.path.insert(0, self.folder)
        self.addCleanup(sys.path.remove, self.folder)
        self.name = "project_%d" % random.getrandbits(60)
        os.mkdir(os.path.join(self.folder, self.name))
        for name, text in _PROJECT.items():
            self.write(name + ".py", text)
        self.write("data.txt", "100")

    def write(self, name, text):
        path = support.write(os.path.join(self.folder, self.name, name), text)
        self.time += 2  # Python takes two files of one size and second for the same
        os.utime(path, (self.time, self.time))

    def test_a_node_that_outlives_its_master_reads_them_anew_for_the_next(self):
        port, key, name = support.free_port(), "k" * 32, "helper_%d" % random.getrandbits(60)
        with support.start_node(port, key):
            for answer in (5, 6):
                with support.directory() as folder:  # on its own machine the node would look at the file's time
                    support.write(os.path.join(folder, name + ".py"), "def answer(x):\n    return x + %d\n" % answer)
                    script = support.write(os.path.join(folder, "script.py"), _NEXT_MASTER % (support.ROOT, name, port, key))
                    with commands.Command([script]) as process:
                        process.wait_for_output("answer %d\n" % answer)  # behind news of waiting for the node, perhaps
                        process.kill()

    def test_row_72_a_job_keeps_its_code_whatever_is_saved_meanwhile(self):
        """In worker processes that are there, and in one that takes the place of another."""
        self.write("late.py", "number = 1\n")
        self.write("dies.py", _DIES % os.path.join(self.folder, "died"))
        dies = importlib.import_module(self.name + ".dies")
        with ClusterExecutor(2) as executor:
            results = executor.map(dies.work, range(40), chunksize=1)
            found = [next(results)]
            for name in ("late.py", "dies.py"):
                self.write(name, "number = 2\ndef half(a fi")
            found += list(results)
            self.assertEqual([(n, 1) for n in range(40)], found)
            self.assertTrue(os.path.exists(os.path.join(self.folder, "died")))
            self.assertEqual((7, 1), executor.submit(dies.work, 7).result(SECONDS))

    def test_row_73_what_was_set_stays_set_until_the_module_is_another(self):
        self.write("settings.py", _SETTINGS)
        settings = importlib.import_module(self.name + ".settings")
        other = importlib.import_module(self.name + ".numbers")
        with ClusterExecutor(1, initializer=settings.prepare, initargs=(7,)) as executor:
            def now():
                return list(executor.map(settings.count, [1]))[0], executor.submit(settings.count, 1).result(SECONDS)

            self.assertEqual(((7, 1), (7, 2)), now())
            self.write("settings.py", _SETTINGS + "# saved, and not reloaded\n")
            self.assertEqual(((7, 3), (7, 4)), now())
            self.write("settings.py", _SETTINGS)
            importlib.reload(settings)
            self.assertEqual(((7, 5), (7, 6)), now(), "it is the same as before")
            self.write("numbers.py", "def five():\n    return 5 * 1000\n")
            importlib.reload(other)
            self.assertEqual(((7, 7), (7, 8)), now(), "another one is another now")
            self.write("settings.py", _SETTINGS.replace("len(calls)", "-len(calls)"))
            importlib.reload(settings)
            self.assertEqual(((7, -1), (7, -2)), now(), "the initializer runs again for it")

    def test_row_73_two_jobs_at_once_each_with_its_code(self):
        self.write("settings.py", _SETTINGS)
        settings = importlib.import_module(self.name + ".settings")
        with ClusterExecutor(1) as executor:
            one = executor.map(settings.count, range(30), chunksize=1)
            found = [next(one)]
            self.write("settings.py", _SETTINGS.replace("len(calls)", "-len(calls)"))
            importlib.reload(settings)
            two = executor.map(settings.count, range(30), chunksize=1)
            for _ in range(29):
                found += [next(one), next(two)]
            found.append(next(two))
        numbers = [number for _, number in found]
        self.assertEqual([list(range(1, 31)), list(range(-1, -31, -1))], [[n for n in numbers if n > 0], [n for n in numbers if n < 0]])

    @unittest.skipUnless(hasattr(os, "fork"), "this system has no fork")
    def test_a_tasks_fork_imports_what_lies_here(self):
        self.write("late.py", "number = 1\n")
        self.write("forks.py", _FORKS)
        forks = importlib.import_module(self.name + ".forks")
        with ClusterExecutor(1) as executor:
            self.assertEqual(b"1", executor.submit(forks.work).result(SECONDS))

    def test_a_call_runs_what_was_loaded_when_it_was_submitted(self):
        work = importlib.import_module(self.name + ".work")
        numbers = sys.modules[self.name + ".numbers"]
        with ClusterExecutor(0, join=False) as executor, support.start_node(executor.address[1], executor.authkey):
            self.assertEqual(106, executor.submit(work.answer, 1).result(SECONDS))
            waiting = [executor.submit(work.answer, n) for n in range(100)]
            self.write("numbers.py", "def five():\n    return 5 * 1000\n")
            saved = [executor.submit(work.answer, n) for n in range(100)]
            importlib.reload(numbers)
            half = [executor.submit(work.answer, n) for n in range(100)]  # work has its function from before, here too
            importlib.reload(work)
            reloaded = [executor.submit(work.answer, n) for n in range(100)]
            for futures, right in ((waiting, 105), (saved, 105), (half, 105), (reloaded, 5100)):
                self.assertEqual({right}, {future.result(SECONDS) - n for n, future in enumerate(futures)})
            self.assertEqual([5100, 5101], list(executor.map(work.answer, range(2))))


if __name__ == "__main__":
    unittest.main()

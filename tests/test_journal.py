"""The journal: what it keeps, what it refuses, and a master that is killed at any moment (rows 21, 33, 34)."""
from __future__ import absolute_import, division, print_function

import os
import random
import shutil
import stat
import tempfile
import unittest

from minimalcluster import JournalError, MasterNode, TaskError, journal, protocol, values
from tests import support

TARGET, ARGUMENTS = "t" * 64, "a" * 64


def keys(count):
    return lambda: journal.argument_keys(range(count))


class JournalTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = os.path.join(self.folder, "run.journal")
        # The user's own key file is not touched.
        before = os.environ.get("HOME"), os.environ.get("USERPROFILE")
        os.environ["HOME"] = os.environ["USERPROFILE"] = os.path.join(self.folder, "home")
        os.mkdir(os.environ["HOME"])
        self.addCleanup(self.restore, *before)

    def restore(self, home, profile):
        for name, value in (("HOME", home), ("USERPROFILE", profile)):
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def written(self, count=20):
        """A journal with some results, one failure and one grant, of a master that was killed."""
        kept = journal.Journal(self.path)
        kept.begin(TARGET, ARGUMENTS, count, "f", keys(count))
        kept.grant(77, 0, 5)
        kept.done(0, 3, values.encode_results([0, 1, 4])[0])
        kept.done(3, 2, values.encode_results([[9], "sixteen"])[0])
        kept.failed(7, {"type": "ValueError", "text": "seven", "traceback": "there"}, [])
        kept.sync()
        kept._file.close()
        with open(self.path, "rb") as file:
            return file.read()

    def read(self, count=20, target=TARGET, arguments=ARGUMENTS):
        kept = journal.Journal(self.path)
        try:
            known = kept.known(target, arguments, count, keys(count))
            return journal.results_of(known), sorted(known.failed), known.grants
        finally:
            kept.close()

    def put(self, data):
        with open(self.path, "wb") as file:
            file.write(data)


class FileTest(JournalTest):
    RESULTS = {0: 0, 1: 1, 2: 4, 3: [9], 4: "sixteen"}

    def test_what_was_kept_is_known(self):
        self.written()
        self.assertEqual(self.read(), (self.RESULTS, [7], [(77, 0, 5)]))

    def test_another_function_knows_nothing(self):
        self.written()
        self.assertEqual(self.read(target="x" * 64), ({}, [], []))

    def test_changed_arguments_keep_what_is_the_same(self):
        kept = journal.Journal(self.path)
        kept.begin(TARGET, ARGUMENTS, 4, "f", lambda: journal.argument_keys(["a", "b", "c", "d"]))
        kept.done(0, 4, values.encode_results([1, 2, 3, 4])[0])
        kept.close()
        again = journal.Journal(self.path)
        known = again.known(TARGET, "other", 3, lambda: journal.argument_keys(["d", "new", "b"]))
        again.close()
        self.assertEqual(journal.results_of(known), {0: 4, 2: 2})

    def test_it_is_the_users_alone(self):
        self.written()
        if os.name != "nt":
            self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
            key = os.path.join(os.environ["HOME"], ".minimalcluster", "journal.key")
            self.assertEqual(stat.S_IMODE(os.stat(key).st_mode), 0o600)
            os.chmod(key, 0o644)
            with self.assertRaises(JournalError) as caught:
                journal.Journal(self.path)
            self.assertIn("chmod 600", str(caught.exception))

    def test_row_34_cut_at_every_byte(self):
        data = self.written()
        with support.Log():
            for size in range(len(data)):
                self.put(data[:size])
                results, failed, _ = self.read()
                for index, result in results.items():
                    self.assertEqual(result, self.RESULTS[index])
                self.assertIn(failed, ([], [7]))
        self.put(data)
        self.assertEqual(self.read()[0], self.RESULTS)

    def test_row_34_a_torn_tail_is_cut_off_and_written_on(self):
        data = self.written()
        self.put(data[:-3])
        with support.Log() as log:
            kept = journal.Journal(self.path)
            self.assertTrue(log.having("torn"))
        kept.begin(TARGET, ARGUMENTS, 20, "f", keys(20))
        kept.done(10, 1, values.encode_results([100])[0])
        kept.close()
        expected = dict(self.RESULTS)
        expected[10] = 100
        self.assertEqual(self.read()[0], expected)

    def test_row_34_every_byte_flipped(self):
        data = self.written()
        last = len(data) - 60  # within the last record a flip looks like a torn write
        for at in range(len(data)):
            self.put(data[:at] + bytes(bytearray([bytearray(data)[at] ^ 0x20])) + data[at + 1 :])
            try:
                with support.Log():
                    results, failed, _ = self.read()
            except JournalError:
                continue
            self.assertGreater(at, last - 120, "byte %d was changed and nobody noticed" % at)
            for index, result in results.items():
                self.assertEqual(result, self.RESULTS[index])

    def test_row_34_foreign_files_and_keys(self):
        self.put(b"#!/usr/bin/env python\nprint('no journal')\n" * 5)
        with self.assertRaises(JournalError):
            journal.Journal(self.path)
        os.remove(self.path)
        self.written()
        shutil.rmtree(os.path.join(os.environ["HOME"], ".minimalcluster"))
        with self.assertRaises(JournalError) as caught:
            journal.Journal(self.path)
        self.assertIn(self.path, str(caught.exception))

    def test_row_34_records_moved_from_their_place(self):
        data = self.written()
        kept = journal.Journal(self.path)
        spans = [(record.at, len(record.body) + 29) for record in kept._records]
        kept.close()
        (first, size), (second, other) = spans[3], spans[4]
        swapped = data[:first] + data[second : second + other] + data[first : first + size] + data[second + other :]
        self.assertEqual(len(swapped), len(data))
        self.put(swapped)
        with self.assertRaises(JournalError):
            journal.Journal(self.path)

    @unittest.skipIf(os.name == "nt", "needs POSIX links")
    def test_a_link_is_refused(self):
        os.symlink(os.path.join(self.folder, "elsewhere"), self.path)
        with self.assertRaises(JournalError):
            journal.Journal(self.path)

    def test_two_runs_cannot_share_it(self):
        kept = journal.Journal(self.path)
        with self.assertRaises(JournalError) as caught:
            journal.Journal(self.path)
        self.assertIn("in use", str(caught.exception))
        kept.close()

    def test_row_21_a_full_disk_is_loud_and_tears_nothing(self):
        self.written()
        kept = journal.Journal(self.path)
        kept.begin(TARGET, ARGUMENTS, 20, "f", keys(20))
        kept._file = _Full(kept._file)
        with support.Log() as log:
            kept.done(10, 1, values.encode_results(["x" * 1000])[0])
            kept.sync()
            kept.done(11, 1, values.encode_results([1])[0])
            kept.sync()
            self.assertEqual(len(log.having("has stopped")), 1)
        kept.close()
        self.assertEqual(self.read()[0], self.RESULTS)


class _Full(object):
    """A file on a disk that takes half of what it is given."""

    def __init__(self, file):
        self._file = file

    def write(self, data):
        self._file.write(data[: len(data) // 2])
        raise IOError(28, "No space left on device")

    def __getattr__(self, name):
        return getattr(self._file, name)


class ExecuteTest(JournalTest):
    SOURCE = """
import os
def f(x):
    with open(%r, "a") as file:
        file.write("%%d\\n" %% x)
    if x == 5:
        raise ValueError("five")
    return x * 2
"""

    def execute(self, source, arguments, **options):
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            return support.run(master, source, "f", arguments, journal=self.path, **options)

    def executed(self):
        path = os.path.join(self.folder, "log")
        if not os.path.exists(path):
            return []
        with open(path) as file:
            return sorted(int(line) for line in file)

    def source(self):
        return self.SOURCE % os.path.join(self.folder, "log")

    def test_the_second_run_runs_nothing(self):
        first = self.execute(self.source(), range(5))
        self.assertEqual(self.execute(self.source(), range(5)), first)
        self.assertEqual(self.executed(), list(range(5)))

    def test_more_arguments_run_only_those(self):
        self.execute(self.source(), range(3))
        self.assertEqual(self.execute(self.source(), [4, 2, 1, 3, 0]), {4: 8, 2: 4, 1: 2, 3: 6, 0: 0})
        self.assertEqual(self.executed(), list(range(5)))

    def test_changed_code_runs_again(self):
        self.execute(self.source(), range(3))
        self.assertEqual(self.execute(self.source().replace("x * 2", "x * 3"), range(3)), {0: 0, 1: 3, 2: 6})
        self.assertEqual(self.executed(), [0, 0, 1, 1, 2, 2])

    def test_failures_are_remembered(self):
        for _ in range(2):
            with self.assertRaises(TaskError) as caught:
                self.execute(self.source(), range(7))
            self.assertEqual(list(caught.exception.errors), [5])
            self.assertIsInstance(caught.exception.errors[5], ValueError)
        self.assertEqual(self.executed(), list(range(7)))


class KilledMasterTest(JournalTest):
    """Row 33, with a node that survives its master."""

    SCRIPT = """
import sys
sys.path.insert(0, %(root)r)
from minimalcluster import MasterNode
master = MasterNode(PORT=%(port)d, AUTHKEY=%(key)r)
master.start_master_server(False)
master.load_envir(%(source)r, from_file=False)
master.register_target_function("f")
master.load_args(range(%(count)d))
result = master.execute(journal=%(path)r)
print("right" if result == {x: x * 2 for x in range(%(count)d)} else "WRONG %%r" %% result)
sys.stdout.flush()
master.shutdown()
"""
    SOURCE = """
import time
def f(x):
    time.sleep(0.02)
    with open(%r, "a") as file:
        file.write("%%d\\n" %% x)
    return x * 2
"""
    COUNT, KILLS = 150, 6

    def test_row_33_killed_at_random_moments(self):
        log = os.path.join(self.folder, "log")
        port, key = support.free_port(), protocol.generate_key(os.urandom(32))
        code = self.SCRIPT % {
            "root": support.ROOT, "port": port, "key": key, "source": self.SOURCE % log, "count": self.COUNT,
            "path": self.path,
        }  # fmt: skip
        choose = random.Random(33)

        def executions():
            if not os.path.exists(log):
                return 0
            with open(log) as file:
                return len(file.readlines())

        with support.start_node(port, key, 2):
            for _ in range(self.KILLS):
                seen = executions()
                with support.Process(code) as script:
                    more = choose.randrange(1, self.COUNT // self.KILLS // 2)
                    support.wait_until(lambda: executions() >= seen + more, what="some more tasks")
                    script.kill()
            with support.Process(code) as script:
                self.assertEqual(script.wait(), 0, script.output())
                self.assertIn("right", script.output())
        with open(log) as file:
            ran = [int(line) for line in file]
        self.assertEqual(set(ran), set(range(self.COUNT)))
        # Each kill may lose what two worker processes had not got on the disk yet, and no more.
        self.assertLessEqual(len(ran), self.COUNT + self.KILLS * 30)


if __name__ == "__main__":
    unittest.main()

"""The journal: what it keeps, what it refuses, and a master that is killed at any moment (rows 21, 33, 34)."""
from __future__ import absolute_import, division, print_function

import contextlib
import errno
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import unittest

from minimalcluster import JournalError, MasterNode, TaskError, WorkerDied, compat
from minimalcluster.payload import values
from minimalcluster.wire.keys import generate_key
from minimalcluster.master import journal
from tests import support

TARGET, ARGUMENTS = "t" * 64, "a" * 64


def keys(count):
    return lambda: keys_of(range(count))


def known_of(kept, target, arguments, keys, total):
    """(results, tasks that have failed, grants) that a journal knows of."""
    results, failed = {}, []
    for found in kept.outcomes(target, arguments, keys, total):
        if isinstance(found, journal.Done):
            decoded = values.decode_results(found.buffers, found.size)
            for first, place, count in found.spans:
                results.update(zip(range(first, first + count), decoded[place : place + count]))
        else:
            failed += found.tasks
    return results, sorted(failed), kept.grants


def keys_of(arguments):
    return [journal.content_key(values.dumps(value)) for value in arguments]


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
        kept.done(0, 3, support.encoded([0, 1, 4]))
        kept.done(3, 2, support.encoded([[9], "sixteen"]))
        kept.failed(7, {"type": "ValueError", "text": "seven", "traceback": "there"}, [])
        kept.sync()
        kept._file.close()
        with open(self.path, "rb") as file:
            return file.read()

    def read(self, count=20, target=TARGET, arguments=ARGUMENTS):
        kept = journal.Journal(self.path)
        try:
            return known_of(kept, target, arguments, keys(count), count)
        finally:
            kept.close()

    def refused(self, *texts):
        with self.assertRaises(JournalError) as caught:
            journal.Journal(self.path)
        for text in (self.path,) + texts:
            self.assertIn(text, str(caught.exception))
        return str(caught.exception)

    def put(self, data):
        with open(self.path, "wb") as file:
            file.write(data)


class OddRecordTest(JournalTest):
    """Records with right tags, which another version may have written, or another program with this key."""

    def refused(self, kind, body):
        self.written()
        kept = journal.Journal(self.path)
        kept._append(kind, [body])
        kept._file.close()
        try:
            kept = journal.Journal(self.path, reading=True)
            known_of(kept, TARGET, ARGUMENTS, keys(20), 20)
            list(kept.runs())
            for at, place in kept.calls()[0].values():
                kept.result(at, place)
        except JournalError as error:
            self.assertIn("none that this version can have written", str(error))
            self.assertIn(self.path, str(error))
        else:
            self.fail("%d %r is taken" % (kind, body))
        os.remove(self.path)

    def test_it_is_refused(self):
        spans = journal._SPAN
        for kind, body in (
            (journal.RUN, b""), (journal.RUN, b"[]"), (journal.RUN, b"{}"), (journal.RUN, b"[" * 100000), (journal.RUN, b"\xff"),
            (journal.GRANT, b"short"), (journal.GRANT, journal._GRANT.pack(1, 19, 2)),
            (journal.DONE, b""), (journal.DONE, spans.pack(0, 2**60)), (journal.DONE, spans.pack(2**63, 2**63)), (journal.DONE, spans.pack(19, 2)),
            (journal.DONE, spans.pack(8, 1) + b"\xff\xff\xff\xff"), (journal.DONE, spans.pack(8, 1) + b"\0\0\0\1" + b"\x7f" * 8),
            (journal.FAILED, b""), (journal.FAILED, b"\0" * 7 + b"\x14"), (journal.FAILED, b"\0" * 7 + b"\x09" + b"\0\0\0\2[]\0\0\0\0"),
            (journal.CALLS, b"\x7f" * 8), (journal.CALLS, b""), (journal.CALL_FAILED, b"k" * 16 + b"\xff" * 9),
        ):  # fmt: skip
            self.refused(kind, body)


class FileTest(JournalTest):
    RESULTS = {0: 0, 1: 1, 2: 4, 3: [9], 4: "sixteen"}

    def test_what_was_kept_is_known(self):
        self.written()
        self.assertEqual(self.read(), (self.RESULTS, [7], [(77, 0, 5)]))

    @unittest.skipUnless(hasattr(os, "fork"), "no process is forked there")
    def test_a_process_that_was_forked_meanwhile_does_not_keep_it(self):
        kept = journal.Journal(self.path)
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        try:
            kept.close()
            journal.Journal(self.path).close()
        finally:
            os.close(writer)
            os.waitpid(pid, 0)
            os.close(reader)

    def test_another_function_knows_nothing(self):
        self.written()
        self.assertEqual(self.read(target="x" * 64), ({}, [], []))

    def test_changed_arguments_keep_what_is_the_same(self):
        kept = journal.Journal(self.path)
        kept.begin(TARGET, ARGUMENTS, 4, "f", lambda: keys_of(["a", "b", "c", "d"]))
        kept.done(0, 4, support.encoded([1, 2, 3, 4]))
        kept.close()
        again = journal.Journal(self.path)
        results, _, _ = known_of(again, TARGET, "other", lambda: keys_of(["d", "new", "b"]), 3)
        again.close()
        self.assertEqual(results, {0: 4, 2: 2})

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
        kept.done(10, 1, support.encoded([100]))
        kept.close()
        expected = dict(self.RESULTS)
        expected[10] = 100
        self.assertEqual(self.read()[0], expected)

    def test_row_34_every_byte_flipped(self):
        data = self.written()
        kept = journal.Journal(self.path)
        last = list(kept._read_again())[-1].at + 13  # behind its head: such a flip looks like a torn write
        kept.close()
        for at in range(len(data)):
            self.put(data[:at] + bytes(bytearray([bytearray(data)[at] ^ 0x20])) + data[at + 1 :])
            if at < last:
                self.refused()
                continue
            with support.Log() as log:
                self.assertEqual(self.read(), (self.RESULTS, [], [(77, 0, 5)]))
                self.assertTrue(log.having("torn"))

    def test_row_34_nothing_of_a_changed_record_is_unpickled(self):
        seen = os.path.join(self.folder, "seen")
        kept = journal.Journal(self.path)
        kept.begin(TARGET, ARGUMENTS, 20, "f", keys(20))
        kept.done(0, 1, [b"E", values.dumps(Canary(seen))])
        kept.done(1, 1, support.encoded([1]))
        kept.close()
        with open(self.path, "rb") as file:
            data = file.read()
        self.put(data.replace(b"seen", b"sEEn"))
        self.refused("was changed")
        self.assertEqual([name for name in os.listdir(self.folder) if name.lower() == "seen"], [])
        self.put(data)
        self.read()
        self.assertTrue(os.path.exists(seen))  # else this test could not fail

    def test_row_34_a_file_that_grew_without_its_data(self):
        self.put(self.written() + b"\0" * 5000)
        with support.Log():
            self.assertEqual(self.read(), (self.RESULTS, [7], [(77, 0, 5)]))

    def test_row_34_a_power_cut_in_the_middle_of_records(self):
        """The file had grown by two records, and the disk had got a part of the first."""
        short = len(self.written())
        kept = journal.Journal(self.path)
        for task in (8, 9):
            kept.done(task, 1, support.encoded(["no"]))
        with open(self.path, "rb") as file:
            data = file.read()
        kept.close()
        for solid in range(short, (short + len(data)) // 2 - 1):
            self.put(data[:solid] + b"\0" * (len(data) - solid))
            with support.Log():
                self.assertEqual(self.read(), (self.RESULTS, [7], [(77, 0, 5)]))

    def test_row_34_a_tail_of_an_older_copy(self):
        """What was once valid at this very place is not, after another past."""
        short = self.written()
        endings = []
        for result in (["no"], ["ok"]):
            self.put(short)
            kept = journal.Journal(self.path)
            kept.done(8, 1, support.encoded(result))
            kept.done(9, 1, support.encoded(result))
            kept.close()
            with open(self.path, "rb") as file:
                endings.append(file.read()[len(short) :])
        size = len(endings[0]) // 2
        self.put(short + endings[0][:size] + endings[1][size:])
        self.refused("was changed")

    def test_row_34_another_version(self):
        data = self.written()
        self.put(b"minijrn0" + data[8:])
        self.refused("no journal of this version")

    def test_row_34_foreign_files_and_keys(self):
        for text in (b"#", b"#!/usr/bin/env python\nprint('no journal')\n" * 5):
            self.put(text)
            self.refused("no journal")
            with open(self.path, "rb") as file:
                self.assertEqual(file.read(), text)
        os.remove(self.path)
        self.written()
        shutil.rmtree(os.path.join(os.environ["HOME"], ".minimalcluster"))
        self.refused("another user")

    def test_row_34_records_moved_from_their_place(self):
        data = self.written()
        kept = journal.Journal(self.path)
        spans = [(record.at, len(record.body) + 29) for record in kept._read_again()]
        kept.close()
        (first, size), (second, other) = spans[3], spans[4]
        swapped = data[:first] + data[second : second + other] + data[first : first + size] + data[second + other :]
        self.assertEqual(len(swapped), len(data))
        self.put(swapped)
        self.refused("was changed")

    @unittest.skipIf(os.name == "nt", "needs POSIX links")
    def test_a_link_is_refused(self):
        os.symlink(os.path.join(self.folder, "elsewhere"), self.path)
        self.refused("symbolic link")
        os.remove(self.path)
        key = self.key_file()
        os.rename(key, key + ".real")
        os.symlink(key + ".real", key)
        with self.assertRaises(JournalError) as caught:
            journal.Journal(self.path)
        self.assertIn(key, str(caught.exception))

    def key_file(self):
        journal.Journal(self.path).close()
        return os.path.join(os.environ["HOME"], ".minimalcluster", "journal.key")

    def test_a_damaged_key_file(self):
        key = self.key_file()
        os.remove(self.path)
        support.write(key)  # a crash before it was written
        journal.Journal(self.path).close()
        self.assertEqual(os.path.getsize(key), 32)
        support.write(key, "short")
        with self.assertRaises(JournalError) as caught:
            journal.Journal(self.path)
        self.assertIn("damaged", str(caught.exception))

    def test_the_first_runs_of_all_make_one_key(self):
        paths = [os.path.join(self.folder, "%d.journal" % number) for number in range(4)]
        code = "import json, sys\nfrom minimalcluster.master import journal\njournal.Journal(json.loads(sys.stdin.readline()))"
        processes = [support.Process(code, path) for path in paths]
        for process in processes:
            self.assertEqual(process.wait(), 0, process.output())
        for path in paths:
            journal.Journal(path).close()

    def test_two_runs_cannot_share_it(self):
        kept = journal.Journal(self.path)
        self.refused("in use")
        kept.close()
        journal.Journal(self.path).close()

    def test_row_78_a_file_system_without_locks_is_said_and_no_obstacle(self):
        with support.patched(journal, "lock_file", lambda file, wait=False: compat.NO_LOCKS), support.Log() as log:
            self.written()
            self.assertEqual([self.path in message for message in log.messages], [True])
            self.assertEqual(self.read()[0], self.RESULTS)

    def test_row_78_only_a_lock_that_is_held_means_in_use(self):
        for number in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            with failing_lock(number):
                self.assertEqual(compat.NO_LOCKS, compat.lock_file(sys.stdin))
        for number in (errno.EAGAIN, errno.EACCES):
            with failing_lock(number):
                self.assertEqual(compat.TAKEN, compat.lock_file(sys.stdin))
                self.refused("in use")
        with failing_lock(errno.EIO):
            text = self.refused(os.strerror(errno.EIO))
        self.assertNotIn("in use", text)
        self.assertEqual(["home"], os.listdir(self.folder))

    def test_row_78_what_was_refused_leaves_no_file(self):
        shutil.rmtree(os.environ["HOME"])
        support.write(os.environ["HOME"], "no folder")
        with self.assertRaises(JournalError) as caught:
            journal.Journal(self.path)
        self.assertIn(journal.HOME_VARIABLE, str(caught.exception))
        self.assertEqual(["home"], os.listdir(self.folder))

    def test_row_78_another_folder_for_the_key(self):
        shutil.rmtree(os.environ["HOME"])
        os.environ[journal.HOME_VARIABLE] = os.path.join(self.folder, "mine")
        self.addCleanup(os.environ.pop, journal.HOME_VARIABLE)
        self.written()
        self.assertEqual(self.read()[0], self.RESULTS)
        self.assertEqual(["journal.key"], os.listdir(os.environ[journal.HOME_VARIABLE]))
        self.assertFalse(os.path.exists(os.environ["HOME"]))

    @unittest.skipIf(os.name == "nt", "Windows asks elsewhere")
    def test_row_78_no_home_at_all(self):
        with support.patched(os.path, "expanduser", lambda path: path):
            with self.assertRaises(JournalError) as caught:
                journal.Journal(self.path)
        self.assertIn("no home", str(caught.exception))
        self.assertIn(journal.HOME_VARIABLE, str(caught.exception))
        self.assertEqual(["home"], os.listdir(self.folder))

    @unittest.skipIf(os.name == "nt" or os.geteuid() != 0, "only root can give files away")
    def test_row_78_another_users_key(self):
        os.chown(self.key_file(), 12345, 12345)
        with self.assertRaises(JournalError) as caught:
            journal.Journal(self.path)
        self.assertIn("belongs to another user (uid 12345, you are 0)", str(caught.exception))
        self.assertIn(journal.HOME_VARIABLE, str(caught.exception))

    def test_row_78_a_home_that_can_only_be_read_will_do_when_the_key_is_there(self):
        self.written()
        real = journal._descriptor

        def readable_only(path, flags):
            if path.endswith(".key") and flags & (os.O_RDWR | os.O_CREAT):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
            return real(path, flags)

        with support.patched(journal, "_descriptor", readable_only):
            self.assertEqual(self.read()[0], self.RESULTS)
            os.remove(os.path.join(os.environ["HOME"], ".minimalcluster", "journal.key"))
            with self.assertRaises(JournalError) as caught:
                journal.Journal(self.path)
        self.assertIn(os.strerror(errno.EROFS), str(caught.exception))

    @unittest.skipUnless(hasattr(os, "fork"), "there is no fork")
    def test_row_77_a_fork_writes_nothing_and_keeps_the_lock(self):
        kept = journal.Journal(self.path)
        kept.begin(TARGET, ARGUMENTS, 20, "f", keys(20))
        kept.done(0, 3, support.encoded([0, 1, 4]))
        self.assertEqual(0, support.in_a_fork(kept.close))
        self.refused("in use")
        kept.done(3, 2, support.encoded([[9], "sixteen"]))
        kept.close()
        self.assertEqual(self.read()[0], self.RESULTS)

    @unittest.skipIf(compat.PY2, "it cannot count its memory")
    def test_row_79_what_nobody_asks_for_is_not_kept(self):
        import tracemalloc

        kept = journal.Journal(self.path)
        kept.begin("other", ARGUMENTS, 64, "f", keys(64))
        for first in range(64):
            kept.done(first, 1, support.encoded([b"x" * (1 << 20)]))
        kept.close()
        tracemalloc.start()
        try:
            self.assertEqual(self.read(), ({}, [], []))
            kept = journal.Journal(self.path)
            self.assertEqual([64], [len(run.done) for run in kept.runs(with_buffers=False)])
            kept.close()
            self.assertLess(tracemalloc.get_traced_memory()[1], 16 << 20)
        finally:
            tracemalloc.stop()

    def test_row_79_results_of_calls_are_read_when_they_are_wanted(self):
        kept = journal.Journal(self.path)
        all_keys = keys_of(range(40))
        for first in range(0, 40, 4):
            kept.calls_done(all_keys[first : first + 4], support.encoded(list(range(first, first + 4))))
        kept.close()
        kept = journal.Journal(self.path)
        with support.patched(journal, "KEPT_BYTES", 200):  # of two records
            done, failed = kept.calls()
            order = list(range(40))
            random.Random(1).shuffle(order)
            for number in order:
                self.assertEqual(number, kept.result(*done[all_keys[number]]))
                kept.calls_done([b"k" * 16], support.encoded([number]))  # others are written meanwhile
                self.assertLessEqual(len(kept._decoded), 2)
        kept.close()
        kept = journal.Journal(self.path, reading=True)
        self.assertEqual(41, len(kept.calls()[0]))
        kept.close()

    def test_row_21_a_full_disk_is_loud_and_tears_nothing(self):
        self.written()
        kept = journal.Journal(self.path)
        kept.begin(TARGET, ARGUMENTS, 20, "f", keys(20))
        kept._file = _Full(kept._file)
        with support.Log() as log:
            kept.done(10, 1, support.encoded(["x" * 1000]))
            kept.sync()
            kept.done(11, 1, support.encoded([1]))
            kept.sync()
            self.assertEqual(len(log.having("has stopped")), 1)
            self.assertFalse(kept.dirty)
        kept.close()
        with support.Log() as log:
            self.assertEqual(self.read()[0], self.RESULTS)
            self.assertEqual(log.messages, [])

    def test_row_21_a_disk_that_is_really_full(self):
        with small_disk(self.folder) as path:
            self.path = os.path.join(path, "run.journal")
            self.written()
            kept = journal.Journal(self.path)
            kept.begin(TARGET, ARGUMENTS, 20, "f", keys(20))
            with support.Log() as log:
                kept.done(10, 1, support.encoded(["x" * (1 << 20)]))
                kept.sync()
                self.assertEqual(len(log.having("has stopped")), 1)
            kept.close()
            with support.Log() as log:
                self.assertEqual(self.read()[0], self.RESULTS)
                self.assertEqual(log.messages, [])

    def test_row_21_a_disk_that_is_full_before(self):
        with small_disk(self.folder) as path:
            self.path = os.path.join(path, "run.journal")
            try:
                with open(os.path.join(path, "other"), "wb", 0) as other:
                    while True:
                        other.write(b"x" * 4096)
            except (OSError, IOError):
                pass
            for _ in range(2):
                with self.assertRaises((OSError, IOError)) as caught:
                    journal.Journal(self.path)
                self.assertIn("No space left on device: %r" % self.path, str(caught.exception))
                with self.assertRaises(JournalError) as caught:
                    journal.Journal(self.path, reading=True)
                self.assertIn("is empty", str(caught.exception))
            os.remove(other.name)
            self.written()
            self.assertEqual(self.read()[0], self.RESULTS)

    def test_an_ended_run_has_nothing_to_wait_for(self):
        self.written()  # killed: its attempt may still run
        kept = journal.Journal(self.path)
        kept.begin(TARGET, ARGUMENTS, 20, "f", keys(20))
        kept.grant(78, 5, 5)
        kept.close()
        self.assertEqual(self.read()[2], [])

    def test_an_iterator_that_is_collected_in_the_middle_of_a_record_does_not_close_it(self):
        kept = journal.Journal(self.path)
        kept.begin(TARGET, ARGUMENTS, 20, "f", keys(20))
        tag = kept._tag

        def collecting(*parts):
            kept.close()
            return tag(*parts)

        with support.patched(kept, "_tag", collecting):
            support.Background(kept.done, 0, 1, support.encoded([0])).result()
        kept.done(1, 1, support.encoded([1]))
        kept.close()
        kept.close()
        self.assertEqual(self.read()[0], {0: 0, 1: 1})

    def test_arguments_that_repeat(self):
        kept = journal.Journal(self.path)
        kept.begin(TARGET, ARGUMENTS, 2, "f", lambda: keys_of(["a", "b"]))
        kept.done(0, 2, support.encoded([1, 2]))
        kept.close()
        again = journal.Journal(self.path)
        results, _, _ = known_of(again, TARGET, "other", lambda: keys_of(["b", "a", "b"]), 3)
        again.close()
        self.assertEqual(results, {0: 2, 1: 1, 2: 2})

    def test_reading_changes_nothing(self):
        data = self.written() + b"torn"
        self.put(data)
        journal.Journal(self.path, reading=True).close()
        with open(self.path, "rb") as file:
            self.assertEqual(file.read(), data)


class Canary(object):
    """Unpickling it leaves a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return support.write, (self.path,)


@contextlib.contextmanager
def failing_lock(number):
    """No file can be locked, for this reason."""
    if os.name == "nt":
        raise unittest.SkipTest("locks are others there")
    import fcntl

    def flock(file, operation):
        raise (IOError if compat.PY2 else OSError)(number, os.strerror(number))

    with support.patched(fcntl, "flock", flock):
        yield


@contextlib.contextmanager
def small_disk(folder):
    path = os.path.join(folder, "disk")
    os.mkdir(path)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", path]
    try:
        mounted = subprocess.Popen(mount, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = mounted.communicate()
    except OSError as error:
        raise unittest.SkipTest("no mount: %s" % error)
    if mounted.returncode:
        raise unittest.SkipTest("a small disk cannot be mounted here: %r" % output)
    try:
        yield path
    finally:
        subprocess.check_call(["umount", path])


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
        with support.Log() as log:
            self.assertEqual(self.execute(self.source(), range(5)), first)
        self.assertTrue(log.having("5 of 5 outcomes are taken from %s" % self.path))
        self.assertEqual(self.executed(), list(range(5)))

    def test_more_arguments_run_only_those(self):
        self.execute(self.source(), range(3))
        self.assertEqual(self.execute(self.source(), [4, 2, 1, 3, 0]), {4: 8, 2: 4, 1: 2, 3: 6, 0: 0})
        self.assertEqual(self.executed(), list(range(5)))

    def test_shared_objects_are_known_again(self):
        source = self.source().replace("x * 2", "sum(many) * x").replace("def f(x):", "def f(pair):\n    x, many = pair")
        for equals, (many, executed) in enumerate((([1, 2], [1, 3]), ([1, 2], [1, 3]), ([1, 9], [1, 1, 3, 3]))):
            with MasterNode(PORT=0) as master:
                master.start_master_server()
                handle = [master.share(many) for _ in range(equals + 1)][-1]
                results = support.run(master, source, "f", [(1, handle), (3, handle)], journal=self.path)
            self.assertEqual(list(results.values()), [sum(many), 3 * sum(many)])
            self.assertEqual(self.executed(), executed)

    def test_changed_code_runs_again(self):
        self.execute(self.source(), range(3))
        with support.Log() as log:
            self.assertEqual(self.execute(self.source().replace("x * 2", "x * 3"), range(3)), {0: 0, 1: 3, 2: 6})
        self.assertTrue(log.having("WARNING nothing in %s is of this function" % self.path))
        self.assertEqual(self.executed(), [0, 0, 1, 1, 2, 2])

    def test_failures_are_remembered(self):
        for _ in range(2):
            with self.assertRaises(TaskError) as caught:
                self.execute(self.source(), range(7))
            self.assertEqual(list(caught.exception.errors), [5])
            self.assertIsInstance(caught.exception.errors[5], ValueError)
        self.assertIn("on an earlier run (kept in %s; remove it" % self.path, str(caught.exception))
        self.assertEqual(self.executed(), list(range(7)))


    def test_the_modules_edit_runs_a_named_function_again(self):
        module = os.path.join(self.folder, "worked_on.py")
        sys.path.insert(0, self.folder)
        self.addCleanup(sys.path.remove, self.folder)
        self.addCleanup(sys.modules.pop, "worked_on", None)
        for factor in (2, 3, 3):
            support.write(module, "def f(x):\n    return x * %d\n" % factor)
            sys.modules.pop("worked_on", None)
            for name in os.listdir(self.folder):  # of the same second and size, perhaps
                if name == "__pycache__":
                    shutil.rmtree(os.path.join(self.folder, name))
                elif name == "worked_on.pyc":
                    os.remove(os.path.join(self.folder, name))
            function = __import__("worked_on").f
            with MasterNode(PORT=0) as master:
                master.start_master_server()
                self.assertEqual(master.map(function, [1, 2], journal=self.path), [factor, 2 * factor])
        kept = journal.Journal(self.path)
        self.assertEqual([len(run.done) > 0 for run in kept.runs()], [True, True, False])
        kept.close()

    def test_the_edit_of_a_module_that_is_imported_runs_all_again(self):
        sys.path.insert(0, self.folder)
        self.addCleanup(sys.path.remove, self.folder)
        names = "rates_used", "rates_base"
        support.write(os.path.join(self.folder, "rates_used.py"), "def price(x):\n    import rates_base\n    return x * rates_base.RATE\n")
        source = "import rates_used\ndef f(x):\n    return rates_used.price(x)\n"
        for rate in (2, 3, 3):
            support.write(os.path.join(self.folder, "rates_base.py"), "RATE = %d%s\n" % (rate, " " * rate))
            for name in names:
                sys.modules.pop(name, None)
                self.addCleanup(sys.modules.pop, name, None)
            self.assertEqual(self.execute(source, [1, 2]), {1: rate, 2: 2 * rate})
            price = __import__("rates_used").price
            with MasterNode(PORT=0) as master:
                master.start_master_server()
                self.assertEqual(master.map(price, [1, 2], journal=self.path + ".map"), [rate, 2 * rate])
        for path in (self.path, self.path + ".map"):
            kept = journal.Journal(path)
            self.assertEqual([len(run.done) > 0 for run in kept.runs()], [True, True, False])
            kept.close()

    def test_poison_is_remembered(self):
        source = self.source().replace('raise ValueError("five")', "os.kill(os.getpid(), 9)")
        for _ in range(2):
            with self.assertRaises(TaskError) as caught:
                self.execute(source, [4, 5], attempts_max=2)
            self.assertEqual(caught.exception.results, {4: 8})
            error = caught.exception.errors[5]
            self.assertIsInstance(error, WorkerDied)
            self.assertIn("2 times", str(error))
            self.assertEqual((error.argument, len(error.nodes)), (5, 2))
        self.assertEqual(self.executed(), [4, 5, 5])

    def test_a_remembered_failure_stops_too(self):
        for _ in range(2):
            with self.assertRaises(TaskError) as caught:
                self.execute(self.source(), [5, 1, 2, 3, 4], on_error="stop", chunksize=1)
            self.assertEqual(list(caught.exception.errors), [5])
        self.assertEqual(self.executed().count(5), 1)

    def test_progress_begins_at_what_is_known(self):
        self.execute(self.source(), range(4))
        shown = []
        self.execute(self.source(), [0, 1, 2, 3], progress=lambda done, total: shown.append((done, total)))
        self.assertEqual(set(shown), set([(4, 4)]))

    def test_row_67_a_progress_function_that_raises_leaves_the_journal_free(self):
        def bar(done, total):
            raise ValueError("bar is closed")

        with self.assertRaises(ValueError):
            self.execute(self.source(), range(4), progress=bar)
        self.assertEqual(4, len(self.execute(self.source(), range(4))))

    def test_a_result_that_cannot_be_loaded_is_an_error(self):
        kept = journal.Journal(self.path)
        self.execute_known(kept, [b"E", values.dumps(Unloadable())])
        with self.assertRaises(TaskError) as caught:
            self.execute(self.source(), [1])
        self.assertIn("cannot be unpickled", str(caught.exception.errors[1]))

    def execute_known(self, kept, buffers):
        """As if an earlier run of the same had brought these buffers for its only task."""
        kept.close()
        self.execute(self.source(), [1])
        runs = journal.Journal(self.path)
        about = next(runs.runs()).about
        runs.close()
        os.remove(self.path)
        kept = journal.Journal(self.path)
        kept.begin(about["target"], about["arguments"], 1, "f", lambda: keys_of([1]))
        kept.done(0, 1, buffers)
        kept.close()

    def test_row_21_the_run_goes_on_without_its_journal(self):
        real = journal._write

        def failing(file, data):
            if file.tell() > 300:  # behind the header and the run's first records
                raise IOError(28, "No space left on device")
            real(file, data)

        journal._write = failing
        try:
            with support.Log() as log:
                self.assertEqual(self.execute(self.source(), range(5)), dict((x, 2 * x) for x in range(5)))
                self.assertEqual(len(log.having("has stopped")), 1)
        finally:
            journal._write = real
        self.assertEqual(self.execute(self.source(), range(5)), dict((x, 2 * x) for x in range(5)))

    def test_after_a_refusal_nothing_is_left_locked(self):
        with MasterNode(PORT=0) as master:
            master.start_master_server()
            support.prepare(master, self.source(), "f", range(3))
            journal.Journal(self.path).close()
            with support.patched(journal.Journal, "outcomes", None):
                self.assertRaises(TypeError, master.execute, journal=self.path)
            self.assertEqual(master.execute(journal=self.path), {0: 0, 1: 2, 2: 4})


class Unloadable(object):
    def __reduce__(self):
        return int, ("made to fail",)


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
    COUNT, KILLS = 400, 25

    def test_row_33_killed_at_random_moments(self):
        log = os.path.join(self.folder, "log")
        port, key = support.free_port(), generate_key(os.urandom(32))
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
                    more = int(choose.random() * self.COUNT / self.KILLS)
                    support.wait_until(
                        lambda: executions() >= seen + more or not script.running(), what="some more tasks"
                    )
                    time.sleep(choose.random() * 0.05)  # at any moment
                    script.kill()
            with support.Process(code) as script:
                self.assertEqual(script.wait(), 0, script.output())
                self.assertIn("right", script.output())
        with open(log) as file:
            ran = [int(line) for line in file]
        self.assertEqual(set(ran), set(range(self.COUNT)))
        self.assertEqual(len(ran), self.COUNT, "nothing ran twice: the node kept its work, and every master took it over")


if __name__ == "__main__":
    unittest.main()

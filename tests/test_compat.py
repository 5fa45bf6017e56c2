"""The same names do the same on every Python."""
from __future__ import absolute_import, division, print_function

import errno
import os
import pickle as pickle_here
import signal
import socket
import subprocess
import sys
import unittest

from minimalcluster import compat
from minimalcluster.compat import as_bytes, as_text, joined, native, raise_from, text_type
from tests import support

TEXT = u"\u00e4\u4e2d"
UTF_8 = b"\xc3\xa4\xe4\xb8\xad"


@unittest.skipUnless(hasattr(signal, "SIGPIPE"), "this system has no SIGPIPE")
class Pipes(unittest.TestCase):
    def setUp(self):
        self.addCleanup(signal.signal, signal.SIGPIPE, signal.signal(signal.SIGPIPE, signal.SIG_DFL))
        self.reader, writer = os.pipe()
        self.writer = os.fdopen(writer, "wb", 0)
        self.addCleanup(self.writer.close)

    def test_row_54_a_reader_that_has_gone_is_an_error_and_no_signal(self):
        os.close(self.reader)
        for _ in range(3):
            with self.assertRaises((OSError, IOError)) as caught:
                compat.write_quietly(self.writer, b"to nobody")
            self.assertEqual(errno.EPIPE, caught.exception.errno)
        if hasattr(signal, "pthread_sigmask"):
            self.assertNotIn(signal.SIGPIPE, signal.pthread_sigmask(signal.SIG_BLOCK, []))
            self.assertNotIn(signal.SIGPIPE, signal.sigpending())

    def test_what_is_written_arrives(self):
        compat.write_quietly(self.writer, b"to somebody")
        self.assertEqual(b"to somebody", os.read(self.reader, 100))
        os.close(self.reader)


class _Patcher(object):
    """gevent.monkey, or eventlet.patcher, that have patched these."""

    def __init__(self, *patched):
        self.is_module_patched = self.is_monkey_patched = lambda name: name in patched


class Patched(unittest.TestCase):
    def test_what_we_cannot_work_with_is_named(self):
        for module, patched, named in (
            ("gevent.monkey", ("threading", "time", "socket"), "gevent has replaced what a cluster's threads need (threading, socket)"),
            ("gevent.monkey", ("time", "ssl"), None), ("eventlet.patcher", ("thread", "os"), "eventlet has replaced"),
            ("eventlet.patcher", ("os", "select"), None),
        ):  # fmt: skip
            former = sys.modules.get(module)
            sys.modules[module] = _Patcher(*patched)
            try:
                error = support.mistake(compat.forbid_patched_threads) if named else compat.forbid_patched_threads()
            finally:
                sys.modules.pop(module)
                if former is not None:
                    sys.modules[module] = former
            self.assertIn(named or "None", str(error))


class Strings(unittest.TestCase):
    def test_as_bytes(self):
        for value in (TEXT, UTF_8, bytearray(UTF_8)):
            self.assertEqual(UTF_8, as_bytes(value))
            self.assertIs(bytes, type(as_bytes(value)))
        for wrong in (None, 5, ["a"]):
            self.assertRaises(TypeError, as_bytes, wrong)

    def test_as_text(self):
        for value in (TEXT, UTF_8):
            self.assertEqual(TEXT, as_text(value))
            self.assertIs(text_type, type(as_text(value)))
        self.assertIn(u"a", as_text(b"a\xff"))

    def test_native(self):
        for value in (TEXT, UTF_8):
            self.assertIs(str, type(native(value)))
            self.assertEqual(as_bytes(TEXT), as_bytes(native(value)))
        self.assertIs(str, type(native(b"a\xff")))

    def test_joined(self):
        buffers = [b"a", bytearray(b"b"), memoryview(b"c"), memoryview(bytearray(b"xdx"))[1:2], b""]
        self.assertEqual(b"abcd", joined(buffers))
        self.assertIs(bytes, type(joined(buffers)))
        self.assertEqual(b"", joined([]))


class Numbers(unittest.TestCase):
    def test_types(self):
        for number in (0, 10**30):
            self.assertIsInstance(number, compat.integer_types)
            self.assertIn(type(number), compat.SCALARS)
        self.assertIsInstance(compat.range_type(3), compat.range_type)
        for value in (1.5, True, None, 1j, TEXT, UTF_8):
            self.assertIn(type(value), compat.SCALARS)
        for value in ([], (), {}, object(), bytearray()):
            self.assertNotIn(type(value), compat.SCALARS)

    def test_clocks_do_not_go_back(self):
        for clock in (compat.monotonic, compat.perf_counter):
            moments = [clock() for _ in range(1000)]
            self.assertEqual(sorted(moments), moments)

    @unittest.skipIf(compat.PY2, "there is nothing of that name to be replaced")
    def test_clocks_go_on_where_a_program_has_frozen_its_own(self):
        program = (
            "import time, sys\n"
            "real = time.monotonic\n"
            "frozen = lambda: 5.0\n"
            "if sys.argv[1] == 'before':\n"
            "    time.monotonic = time.perf_counter = time.time = frozen\n"
            "from minimalcluster import compat; from minimalcluster.faces import maps\n"
            "for name, value in list(vars(compat).items()) + list(vars(maps).items()):\n"  # as freezegun does
            "    assert value is not real, name\n"
            "time.monotonic = time.perf_counter = time.time = frozen\n"
            "for clock in (compat.monotonic, compat.perf_counter, maps.monotonic):\n"
            "    before = clock()\n"
            "    while clock() == before:\n"
            "        pass\n"
        )
        moments = ["before", "after"] if sys.platform.startswith("linux") else ["after"]
        for moment in moments:
            subprocess.check_call([sys.executable, "-c", program, moment], cwd=support.ROOT)

    def test_the_monotonic_clock_is_not_the_wall_clock(self):
        # Which jumps, by hand or by a time server (row 20).
        self.assertNotIn(getattr(compat.monotonic, "__name__", ""), ("time", "perf_counter"))

    def test_there_is_a_processor(self):
        self.assertIsInstance(compat.cpu_count(), compat.integer_types)
        self.assertGreaterEqual(compat.cpu_count(), 1)

    def test_a_containers_quota_counts_rounded_up(self):
        for processors, quota, count in ((4, None, 4), (4, 0.5, 1), (4, 1.0, 1), (4, 1.5, 2), (4, 2.01, 3), (4, 16.0, 4), (1, 0.01, 1)):
            with support.patched(compat, "_processors", lambda processors=processors: processors):
                with support.patched(compat.cgroups, "quota", lambda quota=quota: quota):
                    self.assertEqual(count, compat.cpu_count())

    @unittest.skipIf(sys.version_info < (3, 13), "Python could not be told before")
    def test_what_python_was_told_counts_whatever_the_quota(self):
        code = "from minimalcluster import compat; compat.cgroups.quota = lambda: 1.0; print(compat.cpu_count())"
        ways = ((["-X", "cpu_count=5"], {}, "5"), ([], {"PYTHON_CPU_COUNT": "7"}, "7"), (["-X", "cpu_count=default"], {}, "1"))
        for options, variables, count in ways:
            output = subprocess.check_output(
                [sys.executable] + options + ["-c", code], cwd=support.ROOT, env=dict(os.environ, **variables)
            )
            self.assertEqual(count, native(output).strip())


class Containers(unittest.TestCase):
    def test_ordered_dict(self):
        keys = [3, 1, 2, "b", "a"]
        self.assertEqual(keys, list(compat.ordered_dict((key, None) for key in keys)))
        self.assertIsInstance(compat.ordered_dict(), dict)

    def test_queues(self):
        for kind in (compat.Mailbox, compat.queue.Queue):
            made = kind()
            made.put(1)
            made.put(2)
            self.assertFalse(made.empty())
            self.assertEqual([1, 2], [made.get(timeout=1), made.get()])
            self.assertRaises(compat.queue.Empty, made.get, False)
            self.assertTrue(made.empty())

    def test_a_mailbox_waits_no_longer_than_it_should(self):
        """queue.SimpleQueue does, from 3.7 to 3.12: one time in a thousand for ever."""

        def wait(seconds):
            for _ in range(3000):
                self.assertRaises(compat.queue.Empty, compat.Mailbox().get, True, seconds)

        for seconds in (0.0, 1e-9, 1e-6, 1e-5):
            support.Background(wait, seconds).result()

    def test_a_mailbox_loses_nothing(self):
        made, count = compat.Mailbox(), 4000

        def write(writer):
            for number in range(count):
                made.put((writer, number))

        def read():
            found = []
            while len(found) < 3 * count:
                try:
                    found.append(made.get(True, (None, 1e-6, 1.0)[len(found) % 3]))
                except compat.queue.Empty:
                    pass
            return found

        with support.switching_often():
            reader = support.Background(read)
            for writer in [support.Background(write, name) for name in "abc"]:
                writer.result()
            found = reader.result()
        for name in "abc":
            self.assertEqual([(name, number) for number in range(count)], [each for each in found if each[0] == name])

    def test_the_pickle_protocol_is_one_that_every_minor_version_reads(self):
        self.assertEqual(2 if compat.PY2 else 4, compat.PICKLE_PROTOCOL)
        self.assertEqual(pickle_here.HIGHEST_PROTOCOL, compat.PICKLE_PROTOCOL_MAX)
        self.assertEqual([1], compat.pickle.loads(compat.pickle.dumps([1], compat.PICKLE_PROTOCOL)))

    def test_all_that_is_announced_is_there(self):
        for name in compat.__all__:
            self.assertTrue(hasattr(compat, name), name)


class Raising(unittest.TestCase):
    def test_raise_from(self):
        cause = KeyError("first")
        with self.assertRaises(ValueError) as caught:
            raise_from(ValueError("second"), cause)
        self.assertIs(cause, caught.exception.__cause__)


class Sockets(unittest.TestCase):
    def talk(self):
        one, two = compat.socketpair()
        try:
            for sender, receiver in ((one, two), (two, one)):
                sender.sendall(b"hello")
                receiver.settimeout(10)
                self.assertEqual(b"hello", receiver.recv(5))
        finally:
            one.close()
            two.close()

    def test_socketpair(self):
        self.talk()

    def test_socketpair_where_the_system_has_none(self):
        if not hasattr(socket, "socketpair"):
            self.skipTest("that is this system: tested above")
        before = socket.socketpair
        del socket.socketpair
        try:
            self.talk()
        finally:
            socket.socketpair = before

    def test_such_a_pair_is_not_joined_by_a_stranger(self):
        # Whoever is quicker to connect to the listener of the moment is not taken for our other end.
        class Intruded(object):
            """The socket module, with a stranger who is always first."""

            def __getattr__(self, name):
                if name == "socketpair":
                    raise AttributeError(name)
                return getattr(socket, name)

            def create_connection(self, address):
                strangers.append(socket.create_connection(address))
                return socket.create_connection(address)

        strangers = []
        before, compat.socket = compat.socket, Intruded()
        try:
            self.assertRaises(OSError, compat.socketpair)
        finally:
            compat.socket = before
            for each in strangers:
                each.close()
        self.assertEqual(1, len(strangers))


if __name__ == "__main__":
    unittest.main()

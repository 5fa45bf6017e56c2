"""Shared objects: files, handles, what a worker process makes of them."""
from __future__ import absolute_import, division, print_function

import errno
import gc
import os
import pickle
import unittest

from minimalcluster import MasterNode, StateError, scratch, shares
from tests import support

SOURCE = """
import os
total = lambda pair: (sum(pair[1]), os.getpid())
nested = lambda pair: len(pair[1]["inside"][0])
same = lambda pair: pair[1] is pair[2]
"""


class FilesTest(unittest.TestCase):
    def setUp(self):
        self.files = shares.Files()
        self.addCleanup(self.files.close)

    def test_what_is_kept_is_loaded(self):
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            value = {"list": [1, 2.5, None], "bytes": b"x" * 1000, "text": u"\u00e9"}
            info = self.files.keep("name%d" % protocol, shares.dump(value, protocol))
            self.assertEqual(shares.load(info), value)
            self.assertEqual(b"".join(bytes(view.tobytes()) for view in shares.read(info)), b"".join(shares.dump(value, protocol)))

    @unittest.skipIf(pickle.HIGHEST_PROTOCOL < 5, "buffers out of band came with protocol 5")
    def test_buffers_are_read_only_views_of_the_file(self):
        value = [pickle.PickleBuffer(bytearray(b"a" * 100)), pickle.PickleBuffer(bytearray(b"b" * 3))]
        info = self.files.keep("name", shares.dump(value, 5))
        self.assertEqual(len(info["sizes"]), 3)
        first, second = shares.load(info)
        self.assertEqual((bytes(first), bytes(second)), (b"a" * 100, b"bbb"))
        with self.assertRaises(TypeError):
            memoryview(first)[0] = 1

    def test_an_interrupted_write_leaves_no_torn_file(self):
        class Full(object):
            def __len__(self):
                return 3

        with self.assertRaises(Exception):
            self.files.keep("torn", [b"abc", Full()])
        self.files.keep("whole", [b"abc"])
        folder = self.files._scratch.path()
        self.assertEqual(sorted([scratch.MARK, "whole" + scratch.ENDING]), sorted(os.listdir(folder)))

    def test_discard_and_close_remove(self):
        info = self.files.keep("name", [b"abc"])
        self.files.discard("name")
        self.files.discard("name")
        self.assertFalse(os.path.exists(info["path"]))
        folder = os.path.dirname(info["path"])
        self.files.close()
        self.assertFalse(os.path.exists(folder))

    def test_an_error_names_the_file(self):
        class Full(bytes):
            def __len__(self):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with self.assertRaises(OSError) as caught:
            self.files.keep("name", [Full(b"abc")])
        self.assertEqual(os.path.join(self.files._scratch.path(), "name" + scratch.ENDING), caught.exception.filename)

    def test_nothing_is_written_outside_of_the_folder(self):
        for name in ("../name", "/tmp/name", "a/b"):
            with self.assertRaises(OSError):
                self.files.keep(name, [b"abc"])

    @unittest.skipUnless(hasattr(os, "fork"), "there is no fork")
    def test_a_fork_removes_nothing(self):
        info = self.files.keep("name", [b"abc"])

        def in_the_child():
            self.files.discard("name")
            self.files.close()

        self.assertEqual(0, support.in_a_fork(in_the_child))
        self.assertEqual([b"abc"], [view.tobytes() for view in shares.read(info)])


class HandleTest(unittest.TestCase):
    def test_it_pickles_as_its_name(self):
        handle = shares.Shared("n", [1, 2], lambda name: None)
        self.assertLess(len(pickle.dumps(shares.Shared("m", b"x" * 10000, lambda name: None), 2)), 200)
        self.assertIs(pickle.loads(pickle.dumps(handle, 2)), handle.get())
        self.assertIn("n", repr(handle))

    def test_equal_objects_of_two_masters_have_one_name(self):
        first = shares.Shared("n", [1, 2], lambda name: None)
        second = shares.Shared("n", [1, 2], lambda name: None)
        first.drop()
        del first
        gc.collect()
        self.assertEqual(pickle.loads(pickle.dumps(second, 2)), [1, 2])
        data = pickle.dumps(second, 2)
        del second
        gc.collect()
        with self.assertRaises(StateError):
            pickle.loads(data)

    def test_a_dropped_one_stands_in_for_no_other(self):
        value = [1, 2]
        first = shares.Shared("n", value, lambda name: None)
        first.drop()
        value.append(3)
        second = shares.Shared("n", [1, 2], lambda name: None)
        self.assertEqual(pickle.loads(pickle.dumps(second, 2)), [1, 2])

    def test_a_dropped_one_says_so(self):
        dropped = []
        handle = shares.Shared("n", [1, 2], dropped.append)
        handle.drop()
        handle.drop()
        self.assertEqual(dropped, ["n"])
        with self.assertRaises(StateError):
            pickle.dumps(handle, 2)


class RepeatsTest(unittest.TestCase):
    def setUp(self):
        self.shared = []
        self.repeats = shares.Repeats(self.share)

    def share(self, value):
        self.shared.append(value)
        return shares.Shared("n%d" % len(self.shared), value, lambda name: None)

    def test_the_second_time_it_is_shared(self):
        large = b"x" * shares.LARGE_BYTES
        self.assertIs(self.repeats.swapped(large), large)
        handle = self.repeats.swapped(bytes(bytearray(large)))
        self.assertIsInstance(handle, shares.Shared)
        self.assertIs(self.repeats.swapped(large), handle)
        self.assertEqual(self.shared, [large])

    def test_small_different_and_changed_values_travel_as_they_are(self):
        for value in (b"x" * 1000, 5, None, [1] * 10, u"t" * 10):
            for _ in range(3):
                self.assertIs(self.repeats.swapped(value), value)
        changing = bytearray(shares.LARGE_BYTES)
        for n in range(5):
            changing[0] = n
            self.assertIs(self.repeats.swapped(changing), changing)
        self.assertEqual(self.shared, [])

    def test_a_full_disk_is_no_reason_to_fail(self):
        def full(value):
            raise IOError("no space left on device")

        repeats, large = shares.Repeats(full), b"x" * shares.LARGE_BYTES
        for _ in range(3):
            self.assertIs(repeats.swapped(large), large)

    def test_drop(self):
        large = b"x" * shares.LARGE_BYTES
        self.repeats.swapped(large)
        handle = self.repeats.swapped(large)
        self.repeats.drop()
        with self.assertRaises(StateError):
            pickle.dumps(handle, 2)


class ClusterTest(unittest.TestCase):
    def setUp(self):
        self.master = MasterNode(PORT=0)
        self.addCleanup(self.master.shutdown)

    def prepare(self, function, arguments):
        self.master.load_envir(SOURCE, from_file=False)
        self.master.register_target_function(function)
        self.master.load_args(arguments)

    def test_it_arrives_in_every_process_of_this_machine(self):
        self.master.start_master_server()
        handle = self.master.share(list(range(1000)))
        self.prepare("total", [(n, handle) for n in range(50)])
        self.assertEqual(set(total for total, _ in self.master.execute().values()), {499500})

    def test_it_is_the_same_object_for_all_tasks_of_a_process(self):
        self.master.start_master_server()
        handle = self.master.share(tuple(range(1000)))
        self.prepare("same", [(n, handle, handle) for n in range(20)])
        self.assertEqual(set(self.master.execute().values()), {True})

    def test_a_node_gets_it_over_the_wire(self):
        self.master.start_master_server(False)
        with support.node_of(self.master, 1):
            handle = self.master.share(b"x" * 3000000)
            self.prepare("nested", [(n, _Frozen(inside=(handle,))) for n in range(5)])
            self.assertEqual(set(self.master.execute().values()), {3000000})

    def test_what_cannot_be_pickled_is_refused_at_once(self):
        self.master.start_master_server(False)
        with self.assertRaises(Exception):
            self.master.share(lambda: None)


class _Frozen(dict):
    """A hashable dict that travels as a plain one."""

    def __hash__(self):
        return id(self)

    def __reduce__(self):
        return dict, (list(self.items()),)


if __name__ == "__main__":
    unittest.main()

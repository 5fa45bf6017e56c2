"""Shared objects: files, handles, what a worker process makes of them."""
from __future__ import absolute_import, division, print_function

import errno
import gc
import os
import pickle
import threading
import unittest

from minimalcluster import MasterNode, StateError
from minimalcluster.payload import by_value, scratch, shares
from minimalcluster.compat import PY2
from tests import support

try:
    import numpy
except ImportError:
    numpy = None

SOURCE = """
import os
total = lambda pair: (sum(pair[1]), os.getpid())
nested = lambda pair: len(pair[1]["inside"][0])
same = lambda pair: pair[1] is pair[2]
"""


def dump(value, protocol):
    buffers = []
    if protocol < 5:
        return [pickle.dumps(value, protocol)]
    return [by_value.plain(value, buffers)] + [buffer.raw() for buffer in buffers]


class FilesTest(unittest.TestCase):
    def setUp(self):
        self.files = shares.Files()
        self.addCleanup(self.files.close)

    def test_what_is_kept_is_loaded(self):
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            value = {"list": [1, 2.5, None], "bytes": b"x" * 1000, "text": u"\u00e9"}
            info = self.files.keep("name%d" % protocol, dump(value, protocol))
            self.assertEqual(shares.load(info), value)
            self.assertEqual(b"".join(bytes(view.tobytes()) for view in shares.read(info)), b"".join(dump(value, protocol)))

    @unittest.skipIf(pickle.HIGHEST_PROTOCOL < 5, "buffers out of band came with protocol 5")
    def test_buffers_are_read_only_views_of_the_file(self):
        value = [pickle.PickleBuffer(bytearray(b"a" * 100)), pickle.PickleBuffer(bytearray(b"b" * 3))]
        info = self.files.keep("name", dump(value, 5))
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
    """Unasked only what nobody can change is shared, by identity, and as long as calls with it are under way."""

    def setUp(self):
        self.shared, self.dropped = [], []
        self.repeats = shares.Repeats(self.share)
        self.held = []

    def share(self, value):
        self.shared.append(value)
        return shares.Unasked("n%d" % len(self.shared), value, self.dropped.append)

    def swapped(self, value):
        (found,), held = self.repeats.swapped([value])
        self.held.append(held)
        return found

    def test_the_second_time_it_is_shared(self):
        for large in (b"x" * shares.LARGE_BYTES, u"x" * shares.LARGE_BYTES):
            self.assertIs(large, self.swapped(large))
            handle = self.swapped(large)
            self.assertIsInstance(handle, shares.Unasked)
            self.assertIs(handle, self.swapped(large))
            self.assertIs(large, self.shared[-1])
            self.assertEqual(large, pickle.loads(pickle.dumps(handle, 2)))
            equal = large[:1] + large[1:]
            self.assertIs(equal, self.swapped(equal))  # it is another object

    def test_what_can_be_changed_or_is_small_travels_as_it_is(self):
        class Mine(bytes):
            pass

        values = [b"x" * 1000, 5, None, [1] * 10, u"t" * 10, bytearray(shares.LARGE_BYTES), Mine(shares.LARGE_BYTES)]
        for value in values + [[b"x" * shares.LARGE_BYTES], memoryview(b"x" * shares.LARGE_BYTES)]:
            for _ in range(3):
                self.assertIs(value, self.swapped(value))
        self.assertEqual([], self.shared)

    @unittest.skipIf(numpy is None, "NumPy is not installed")
    def test_arrays_that_are_read_only_as_a_copy_for_each_call(self):
        array = numpy.asfortranarray(numpy.arange(2 * shares.LARGE_BYTES // 8, dtype="f8").reshape(2, -1))
        view = array[:]
        view.setflags(write=False)
        constant = array.copy("K")
        constant.setflags(write=False)
        objects = numpy.array([None] * shares.LARGE_BYTES, dtype=object)
        objects.setflags(write=False)
        masked = numpy.ma.masked_array(constant, constant > 5)
        masked.setflags(write=False)
        for value in (array, view, objects, masked, numpy.frombuffer(bytearray(shares.LARGE_BYTES), "u1")):
            self.assertEqual([True, True], [self.swapped(value) is value for _ in range(2)])
        self.assertIs(constant, self.swapped(constant))
        first, second = [pickle.loads(pickle.dumps(self.swapped(constant), 2)) for _ in range(2)]
        first[0, 0] = -1
        self.assertEqual((-1, 0, True), (first[0, 0], second[0, 0], first.flags.f_contiguous))

    @unittest.skipIf(numpy is None, "NumPy is not installed")
    def test_an_array_arrives_in_one_layout_however_often_it_goes(self):
        count = shares.LARGE_BYTES // 8
        cube = numpy.arange(count, dtype="f8").reshape(4, 2, -1)
        cube.setflags(write=False)
        swapped = cube.astype(">f8")
        swapped.setflags(write=False)
        broad = numpy.broadcast_to(numpy.frombuffer(b"x" * 16, "f8"), (count, 2))
        for value in (cube, cube.T, cube.transpose(1, 0, 2), swapped, broad):
            arrived = [pickle.loads(pickle.dumps(self.swapped(value), 4)) for _ in range(2)]
            kinds = {(each.dtype.str, each.strides) for each in arrived}
            self.assertEqual(1, len(kinds), kinds)

    def test_it_goes_with_the_last_call_that_has_it(self):
        larger = b"x" * (shares.KEPT_BYTES_MAX + 1)
        self.swapped(larger)
        handle = self.swapped(larger)
        self.assertEqual(shares.Unasked, type(handle))
        del handle, self.held[:]
        gc.collect()
        self.assertEqual(["n1"], self.dropped)
        self.assertIs(larger, self.swapped(larger))

    def test_what_is_not_too_large_is_kept_until_the_next_one_comes(self):
        large, other = [b"x" * (shares.LARGE_BYTES + n) for n in range(2)]
        self.swapped(large)
        del self.held[:]
        self.assertEqual(shares.Unasked, type(self.swapped(large)))
        del self.held[:]
        gc.collect()
        self.assertEqual([], self.dropped)
        self.swapped(other)
        gc.collect()
        self.assertEqual(["n1"], self.dropped)
        self.repeats.drop()

    def test_not_more_than_the_limit_at_a_time(self):
        with support.patched(shares, "REPEATS_BYTES_MAX", shares.LARGE_BYTES + 10):
            first, second = b"x" * shares.LARGE_BYTES, b"y" * shares.LARGE_BYTES
            for value, kind in ((first, shares.Unasked), (second, bytes)):
                self.swapped(value)
                self.assertEqual(kind, type(self.swapped(value)))

    def test_a_full_disk_is_no_reason_to_fail(self):
        def full(value):
            raise IOError("no space left on device")

        repeats, large = shares.Repeats(full), b"x" * shares.LARGE_BYTES
        for _ in range(3):
            self.assertIs(large, repeats.swapped([large])[0][0])

    def test_who_sends_the_same_large_object_again_and_again_is_told_once(self):
        table, held = [0] * 10, []
        with support.Log() as log:
            for number in range(3 * shares.SENT_MAX):
                self.repeats.count([table, number, "text", len, [number]], held, lambda value: shares.LARGE_BYTES)
        self.assertEqual(1, len(log.messages), log.messages)
        self.assertIn("the same list of 1.0 MB was sent 8 times: with share(it)", log.messages[0])

    def test_who_does_not_is_not(self):
        held = []
        with support.Log() as log:
            for _ in range(3 * shares.SENT_MAX):
                self.repeats.count([{"small": 1}], held, lambda value: shares.LARGE_BYTES)
                self.repeats.count([held], held, lambda value: 10)
        self.assertEqual([], log.messages)


@unittest.skipIf(PY2, "the faces are for Python 3")
class OwnTest(unittest.TestCase):
    """An argument is the call's own, whatever came before; what was shared is as it was then."""

    @classmethod
    def setUpClass(cls):
        from minimalcluster import ClusterExecutor, Pool

        cls.executor, cls.pool = ClusterExecutor(1), Pool(1)

    @classmethod
    def tearDownClass(cls):
        cls.executor.shutdown()
        cls.pool.terminate()

    def everywhere(self, function, value, times=3):
        """What the calls of all faces find, one after the other."""
        found = [self.executor.submit(function, value).result() for _ in range(times)]
        found += [future.result() for future in [self.executor.submit(function, x=value) for _ in range(times)]]
        found += list(self.executor.map(function, [value] * times)) + self.pool.map(function, [value] * times)
        found += list(self.executor.map(function, *zip(*[(value, n) for n in range(times)])))
        found += self.pool.starmap(function, [(value, n) for n in range(times)])
        return found + list(self.pool.imap_unordered(function, iter([value] * times)))

    def test_what_it_writes_is_its_own(self):
        self.assertEqual({1}, set(self.everywhere(written, bytearray(2 * shares.LARGE_BYTES))))
        self.assertEqual({1}, set(self.everywhere(written, [0] * shares.LARGE_BYTES)))

    @unittest.skipIf(numpy is None, "NumPy is not installed")
    def test_arrays_are_its_own_too(self):
        array = numpy.zeros(shares.LARGE_BYTES, "u1")
        self.assertEqual({1}, set(self.everywhere(written, array)))
        array.setflags(write=False)
        self.assertEqual({1}, set(self.everywhere(written, array)))
        objects = numpy.array([[number] for number in range(shares.LARGE_BYTES // 8)] + [None], dtype=object)
        for number in range(3):
            objects[0][0] = number
            self.assertEqual({number}, set(self.everywhere(first_of_first, objects, 2)))
        masks = [numpy.ma.masked_array(array, numpy.arange(len(array)) < count) for count in (1, 2, 3)]
        self.assertEqual([1, 2, 3], list(self.executor.map(numpy.ma.count_masked, masks)))

    def test_the_same_object_twice_in_one_call_stays_one(self):
        large = u"x" * shares.LARGE_BYTES
        for _ in range(3):
            self.assertTrue(self.executor.submit(is_same, large, x=large).result())
            self.assertEqual([True], self.pool.starmap(is_same, [(large, large)]))

    def test_a_snapshot(self):
        box = [1]
        handle = self.executor.share(box)
        box[0] = 2
        self.assertEqual([1, 1], [self.executor.submit(list, handle).result()[0] for _ in range(2)])


class Snapshot(unittest.TestCase):
    def test_for_readers_of_every_protocol(self):
        master = MasterNode(PORT=0)
        self.addCleanup(master.shutdown)
        master.start_master_server(False)
        box = [1]
        handle = master.share(box)
        box[0] = 2
        library = master._running()._library
        for protocol in (2, 4, 5):
            self.assertEqual([1], shares.load(library._share(handle.name, protocol, True)[0]))


def written(x, number=0):
    x[0] += 1
    return int(x[0])


def first_of_first(x, number=0):
    return x[0][0]


def is_same(a, x):
    return a is x


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
            self.master.share(threading.Lock())


class _Frozen(dict):
    """A hashable dict that travels as a plain one."""

    def __hash__(self):
        return id(self)

    def __reduce__(self):
        return dict, (list(self.items()),)


if __name__ == "__main__":
    unittest.main()

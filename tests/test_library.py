"""What the master serves, and above all what it does not."""
from __future__ import absolute_import, division, print_function

import gc
import os
import shutil
import sys
import tempfile
import threading
import unittest

from minimalcluster import library
from minimalcluster.compat import PY2
from minimalcluster.library import Library
from tests import support


class Collected(object):
    """Drops what it has shared when it is collected, wherever that happens."""

    def __init__(self, shared):
        self.shared = shared
        self.name = shared.share(b"collected")
        self.me = self  # a cycle

    def __del__(self):
        self.shared.drop(self.shared.share(b"collected"))
        self.shared.drop(self.name)


class LibraryTest(unittest.TestCase):
    def setUp(self):
        self.folder = os.path.realpath(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        sys.path.insert(0, self.folder)
        self.addCleanup(sys.path.remove, self.folder)
        self.addCleanup(sys.modules.pop, "lib_package", None)  # asking for a submodule imports it
        os.makedirs(os.path.join(self.folder, "lib_package", "sub"))
        self.write("lib_package/__init__.py", "name = 1\n")
        self.write("lib_package/data.txt", "data")
        self.write("lib_package/sub/more.txt", "more")
        self.write("secret.txt", "secret")
        self.library = Library(lambda function, message: function(message))
        self.addCleanup(self.library.close)

    def write(self, name, text):
        with open(os.path.join(self.folder, *name.split("/")), "w") as file:
            file.write(text)

    def ask(self, what, name, local=False, **more):
        answers, answered = [], threading.Event()

        def send(message):
            answers.append(message)
            answered.set()

        self.library.ask(send, 5, dict(more, what=what, name=name), local)
        self.assertTrue(answered.wait(30))
        self.assertEqual(answers[0].request, 5)
        return answers[0].info, [bytes(memoryview(each).tobytes()) for each in answers[0].payload]

    def test_what_is_dropped_in_the_middle_of_a_share_goes_behind_it(self):
        first, keep = self.library.share(b"first"), self.library._files.keep

        def keep_and_drop(name, buffers):
            self.library._files.keep = keep  # the nested one is as ever
            self.library.drop(first)
            inner.append(self.library.share(b"second"))
            return keep(name, buffers)

        inner = []
        with support.patched(self.library._files, "keep", keep_and_drop):
            outer = support.Background(self.library.share, b"second").result()
        self.assertFalse(self.library.has(first))
        self.assertEqual([True, True], [self.library.has(name) for name in inner + [outer]])
        self.assertNotEqual(inner, [outer])

    @unittest.skipIf(PY2, "2.7 does not collect cycles with __del__")
    def test_garbage_may_be_collected_at_any_point(self):
        def work():
            for number in range(300):
                gc.set_threshold(1 + number % 40)
                Collected(self.library)
                self.library.drop(self.library.share(b"%d" % number))

        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        support.Background(work).result()
        gc.collect()
        self.assertEqual({}, self.library._shared)

    def test_project_modules(self):
        info, buffers = self.ask("module", "lib_package")
        self.assertTrue(info["found"] and info["package"])
        self.assertEqual(buffers, [b"name = 1\n"])

    def test_neither_the_standard_library_nor_installed_packages_nor_nonsense(self):
        for name in ("json", "os", "pip", "setuptools", "sys", "no_such_module", "", "..", "lib_package.nothing", "a b"):
            self.assertFalse(self.ask("module", name)[0]["found"], name)

    def test_package_data(self):
        self.assertEqual(self.ask("resource", "lib_package:data.txt"), ({"found": True}, [b"data"]))
        self.assertEqual(self.ask("resource", "lib_package:sub/more.txt"), ({"found": True}, [b"more"]))
        self.assertEqual(self.ask("contents", "lib_package:")[0]["names"][:2], ["__init__.py", "data.txt"])
        self.assertEqual(self.ask("contents", "lib_package:sub")[0]["names"], ["more.txt"])
        self.assertFalse(self.ask("contents", "lib_package:..")[0]["found"])

    def test_nothing_outside_of_the_package(self):
        os.symlink(os.path.join(self.folder, "secret.txt"), os.path.join(self.folder, "lib_package", "link.txt"))
        for name in ("../secret.txt", "sub/../../secret.txt", "/etc/passwd", "", "sub", "link.txt", "sub//more.txt"):
            self.assertFalse(self.ask("resource", "lib_package:" + name)[0]["found"], name)
        self.assertFalse(self.ask("resource", "json:decoder.py")[0]["found"])

    def test_the_version_changes_with_a_served_file(self):
        self.ask("module", "lib_package")
        before = self.library.version()
        self.assertEqual(self.library.version(), before)
        os.utime(os.path.join(self.folder, "lib_package", "__init__.py"), (5, 5))
        self.assertNotEqual(self.library.version(), before)

    def test_shared_objects_by_path_here_and_by_value_elsewhere(self):
        name = self.library.share(list(range(100)))
        info, buffers = self.ask("share", name, local=True, pickle=2)
        self.assertTrue(os.path.exists(info["path"]))
        self.assertEqual(buffers, [])
        info, buffers = self.ask("share", name, pickle=2)
        self.assertNotIn("path", info)
        self.assertTrue(buffers)
        self.library.drop(name)
        self.assertFalse(self.ask("share", name, pickle=2)[0]["found"])

    def test_a_shared_objects_name_is_its_content_and_its_place_among_equals(self):
        names = [self.library.share(value) for value in ([1, 2], [1, 2], [1, 2, 3], [1, 2])]
        self.assertEqual(len(set(names)), 4)
        again = Library(None)
        self.addCleanup(again.close)
        self.assertEqual([again.share(value) for value in ([1, 2], [1, 2], [1, 2, 3], [1, 2])], names)
        self.library.drop(names[0])
        self.assertTrue(self.ask("share", names[1], pickle=2)[0]["found"])
        self.assertEqual(self.library.share([1, 2]), names[0])

    def test_a_slow_disk_does_not_hold_up_who_asks_for_the_version(self):
        kept, going = threading.Event(), threading.Event()
        keep = self.library._files.keep
        self.library._files.keep = lambda *told: (going.set(), kept.wait(30), keep(*told))[2]
        sharing = threading.Thread(target=self.library.share, args=([1],))
        sharing.start()
        self.assertTrue(going.wait(30))
        self.library.version()  # the cluster's thread does: it would be taken for lost
        kept.set()
        sharing.join()

    def test_an_unknown_question(self):
        self.assertFalse(self.ask("nonsense", "n")[0]["found"])

    def test_its_thread_ends_with_it(self):
        self.addCleanup(setattr, library, "CLOSE_SECONDS", library.CLOSE_SECONDS)
        library.CLOSE_SECONDS = 30.0
        before = set(threading.enumerate())
        self.ask("nonsense", "n")
        answering, = set(threading.enumerate()) - before
        self.library.close()
        self.assertFalse(answering.is_alive())


if __name__ == "__main__":
    unittest.main()

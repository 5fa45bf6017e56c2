"""What the master serves, and above all what it does not."""
from __future__ import absolute_import, division, print_function

import contextlib
import gc
import os
import shutil
import sys
import tempfile
import threading
import types
import unittest
import zipfile

from minimalcluster.payload import sources, values
from minimalcluster.master import serving
from minimalcluster.compat import PY2
from minimalcluster.master.serving import Library
from tests import support
from tests.sent import PYTHON_3

if PYTHON_3:
    from importlib import reload
    from importlib.machinery import EXTENSION_SUFFIXES

try:
    import cloudpickle
except ImportError:
    cloudpickle = None


@contextlib.contextmanager
def opened():
    """The paths of the files that are opened meanwhile; from Python 3.8 on, else none."""
    paths = []
    _opened.append(paths)
    if len(_opened) == 1 and hasattr(sys, "addaudithook"):  # a hook stays for ever
        sys.addaudithook(lambda event, args: _opened[-1].append(os.fsdecode(args[0])) if event == "open" and isinstance(args[0], (str, bytes)) else None)
    yield paths
    _opened.append([])


_opened = []


class Collected(object):
    """Drops what it has shared when it is collected, wherever that happens."""

    def __init__(self, shared):
        self.shared = shared
        self.name = shared.share([values.dumps(b"collected")], "")
        self.me = self  # a cycle

    def __del__(self):
        self.shared.drop(self.shared.share([values.dumps(b"collected")], ""))
        self.shared.drop(self.name)


class LibraryTest(unittest.TestCase):
    def setUp(self):
        before = set(sys.modules)
        self.addCleanup(lambda: [sys.modules.pop(name) for name in set(sys.modules) - before if name.startswith("lib_")])
        self.folder = os.path.realpath(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        sys.path.insert(0, self.folder)
        self.addCleanup(sys.path.remove, self.folder)
        os.makedirs(os.path.join(self.folder, "lib_package", "sub"))
        os.makedirs(os.path.join(self.folder, "lib_folder"))
        self.write("lib_package/__init__.py", "name = 1\n")
        self.write("lib_package/data.txt", "data")
        self.write("lib_package/sub/more.txt", "more")
        self.write("secret.txt", "secret")
        sources.loaded.current()  # a job is given: what a former test had in its folder is gone
        self.library = Library(lambda function, message: function(message))
        self.library.start()
        self.addCleanup(self.library.close)

    def write(self, name, text):
        path = os.path.join(self.folder, *name.split("/"))
        if not os.path.isdir(os.path.dirname(path)):
            os.makedirs(os.path.dirname(path))
        with open(path, "w") as file:
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
        first, keep = self.library.share([values.dumps(b"first")], ""), self.library._files.keep

        def keep_and_drop(name, buffers):
            self.library._files.keep = keep  # the nested one is as ever
            self.library.drop(first)
            inner.append(self.library.share([values.dumps(b"second")], ""))
            return keep(name, buffers)

        inner = []
        with support.patched(self.library._files, "keep", keep_and_drop):
            outer = support.Background(self.library.share, [values.dumps(b"second")], "").result()
        self.assertFalse(self.library.has(first))
        self.assertEqual([True, True], [self.library.has(name) for name in inner + [outer]])
        self.assertNotEqual(inner, [outer])

    @unittest.skipIf(PY2, "2.7 does not collect cycles with __del__")
    def test_garbage_may_be_collected_at_any_point(self):
        def work():
            for number in range(300):
                gc.set_threshold(1 + number % 40)
                Collected(self.library)
                self.library.drop(self.library.share([values.dumps(b"%d" % number)], ""))

        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        support.Background(work).result()
        gc.collect()
        self.assertEqual({}, self.library._shared)

    def test_project_modules(self):
        info, buffers = self.ask("module", "5:lib_package")
        self.assertTrue(info["found"] and info["package"])
        self.assertEqual((info["kind"], info["local"], buffers), ("source", False, [b"name = 1\n"]))
        modules = self.ask("code", "5:lib_package,lib_none")[0]["modules"]
        self.assertEqual(modules, {"lib_package": info["stamp"]})

    def test_of_the_code_that_is_asked_for(self):
        module = __import__("lib_package")
        code = sources.loaded.current()
        self.write("lib_package/__init__.py", "name = 22\n")
        os.utime(os.path.join(self.folder, "lib_package", "__init__.py"), (5, 5))
        reload(module)
        now = sources.loaded.current()
        self.assertNotEqual(code.number, now.number)
        for number, text in ((code.number, b"name = 1\n"), (now.number, b"name = 22\n"), ("nonsense", b"name = 22\n")):
            self.assertEqual([text], self.ask("module", "%s:lib_package" % number)[1])

    def test_a_slow_package_is_not_imported_to_look_into_it(self):
        self.write("lib_package/__init__.py", "raise RuntimeError('it was imported')\n")
        self.write("lib_package/part.py", "x = 1\n")
        self.assertEqual([b"x = 1\n"], self.ask("module", "5:lib_package.part")[1])
        self.assertFalse(self.ask("module", "5:this.x")[0]["found"])
        self.assertFalse({"lib_package", "this"} & set(sys.modules))

    @unittest.skipUnless(PYTHON_3, "2.7 has no packages without __init__.py")
    def test_files_of_a_folder_without_init_only_if_it_is_in_use_as_a_package(self):
        self.write("lib_folder/part.py", "x = 1\n")
        self.write("lib_folder/data.txt", "data")
        info, buffers = self.ask("module", "5:lib_folder")
        self.assertEqual(("folder", False, [b""]), (info["kind"], info["imported"], buffers))
        self.assertFalse(self.ask("resource", "5:lib_folder:data.txt")[0]["found"])
        __import__("lib_folder.part")
        self.assertTrue(self.ask("module", "5:lib_folder")[0]["imported"])
        self.assertEqual([b"data"], self.ask("resource", "5:lib_folder:data.txt")[1])

    def test_an_extension_is_named_but_not_sent(self):
        suffix = __import__("imp").get_suffixes()[0][0] if not PYTHON_3 else EXTENSION_SUFFIXES[0]
        self.write("lib_fast" + suffix, "")
        info, buffers = self.ask("module", "5:lib_fast", local=True)
        self.assertFalse(info["found"] or buffers)
        self.assertEqual(os.path.join(self.folder, "lib_fast" + suffix), info["foreign"])

    @unittest.skipIf(cloudpickle is None, "cloudpickle is not installed")
    def test_cloudpickle_is_served(self):
        info, buffers = self.ask("module", "5:cloudpickle")
        self.assertTrue(info["found"] and info["package"] and buffers)
        self.assertTrue(self.ask("module", "5:cloudpickle.cloudpickle")[1])

    def test_neither_the_standard_library_nor_installed_packages_nor_nonsense(self):
        for name in ("json", "os", "pip", "setuptools", "sys", "no_such_module", "", "..", "lib_package.nothing", "a b"):
            self.assertFalse(self.ask("module", "5:" + name)[0]["found"], name)

    def test_package_data(self):
        self.assertEqual(self.ask("resource", "5:lib_package:data.txt"), ({"found": True}, [b"data"]))
        self.assertEqual(self.ask("resource", "5:lib_package:sub/more.txt"), ({"found": True}, [b"more"]))
        self.assertEqual(self.ask("contents", "5:lib_package:")[0]["names"][:2], ["__init__.py", "data.txt"])
        self.assertEqual(self.ask("contents", "5:lib_package:sub")[0]["names"], ["more.txt"])
        self.assertFalse(self.ask("contents", "5:lib_package:..")[0]["found"])

    def test_the_modules_of_a_package(self):
        self.write("lib_many/__init__.py", "1 / 0\n")
        for name in ("one.py", "two/__init__.py", "three/no_package.txt", "data.txt"):
            self.write("lib_many/" + name, "")
        self.assertEqual(["one", "two/"], self.ask("modules", "5:lib_many:")[0]["names"])
        for name in ("json", "os", "lib_none", "", "..", "lib_many.one"):
            self.assertEqual([], self.ask("modules", "5:%s:" % name)[0]["names"], name)
        self.write("lib_bare/one.py", "")  # any folder could be a package without __init__.py
        self.assertEqual([], self.ask("modules", "5:lib_bare:")[0]["names"])
        with zipfile.ZipFile(os.path.join(self.folder, "lib.zip"), "w") as file:
            for name in ("lib_zipped/__init__.py", "lib_zipped/one.py"):
                file.writestr(name, "")
        sys.path.insert(0, file.filename)
        self.addCleanup(sys.path.remove, file.filename)
        self.assertEqual(["one"], self.ask("modules", "5:lib_zipped:")[0]["names"])

    def test_nothing_outside_of_the_package(self):
        os.symlink(os.path.join(self.folder, "secret.txt"), os.path.join(self.folder, "lib_package", "link.txt"))
        for name in ("../secret.txt", "sub/../../secret.txt", "/etc/passwd", "", "sub", "link.txt", "sub//more.txt"):
            self.assertFalse(self.ask("resource", "5:lib_package:" + name)[0]["found"], name)
        self.assertFalse(self.ask("resource", "5:json:decoder.py")[0]["found"])

    def test_a_node_cannot_make_the_master_import_or_read_anything_else(self):
        """What a hostile node may ask. Whatever is opened lies in the folders in which modules are looked for."""
        self.write("lib_package/bad.py", "raise RuntimeError('it was imported')\n")
        self.write("lib_loud.py", "raise RuntimeError('it was imported')\n")
        os.symlink("/etc", os.path.join(self.folder, "lib_package", "etc"))
        modules = ["lib_loud", "lib_package.bad", "lib_package.bad.x", "lib_package.etc.passwd", "distutils", "distutils.core", "pip",
                   "this", "antigravity", "__main__", "lib_package..bad", ".lib_loud", "/etc/passwd", "..secret", "lib_package\0x", "C:lib_loud",
                   "lib_loud:x", "minimalcluster.master", "sitecustomize", "idlelib.idle", "test.__main__",
                   "lib_package%2ebad", "%s", u"lib_lo\u00fcd", u"lib_\uff0e\uff0e", u"\ud800", "lib_loud\n", "~", "*", "x." * 20000 + "x", "1" * 5000,
                   "cloudpickle/../secret", "cloudpickle...secret", "lib_package.__init__", "lib_package.__main__", "lib_loud.__loader__"]  # fmt: skip
        files = ["etc/passwd", "../secret.txt", "/etc/passwd", "sub/../../secret.txt", "..\\secret.txt", "C:/secret.txt", "\0", ".",
                 "//etc/passwd", "./data.txt", "data.txt/", "sub/../data.txt", "data.txt/../../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "~/secret.txt", "$HOME",
                 u"\uff0e\uff0e/secret.txt", u"..\u2215secret.txt", u"..\u2044secret.txt", u"\ud800", u"\udcff", "data.txt\0.py", "data.txt\n", "d" * 60000, "sub/" * 10000 + "x",
                 "data.txt:stream", "data.txt::$DATA", "\\\\server\\share\\secret.txt", "//?/C:/secret.txt", "etc", "etc/../secret.txt", "*", "../lib_package/data.txt"]  # fmt: skip
        for what in ("module", "modules"):
            self.ask(what, "5:lib_package")  # what Python itself needs for its first search is imported now
        before = set(sys.modules)
        with opened() as paths:
            for name in modules:
                self.ask("module", "5:" + name)
                self.ask("resource", "5:%s:data.txt" % name)
                self.ask("contents", "5:%s:" % name)
                self.ask("modules", "5:%s:" % name)
            self.ask("code", "5:" + ",".join(modules))
            for name in files:
                self.assertFalse(self.ask("resource", "5:lib_package:" + name)[0]["found"], name)
                self.assertFalse(self.ask("contents", "5:lib_package:" + name)[0]["found"], name)
        self.assertEqual(set(), set(sys.modules) - before)
        outside = [path for path in paths if not os.path.realpath(path).startswith(tuple(map(os.path.realpath, filter(None, sys.path))))]
        self.assertEqual([], outside)
        self.assertEqual([], [path for path in paths if path.endswith((".txt", "passwd"))])

    @unittest.skipUnless(PYTHON_3, "2.7's search asks no finders")
    def test_finders_of_installed_packages_are_not_asked_for_what_a_node_wants(self):
        finder = "class Finder(object):\n    asked = []\n    def find_spec(self, name, path=None, target=None):\n        self.asked.append(name)\n"
        os.makedirs(os.path.join(self.folder, "site-packages"))
        for name in ("site-packages/lib_installed_finder.py", "lib_own_finder.py"):
            self.write(name, finder)
        sys.path.insert(0, os.path.join(self.folder, "site-packages"))
        self.addCleanup(sys.path.remove, sys.path[0])
        kinds = [__import__(name).Finder for name in ("lib_installed_finder", "lib_own_finder")]
        for kind in kinds:
            sys.meta_path.insert(0, kind())
            self.addCleanup(sys.meta_path.remove, sys.meta_path[0])
        self.ask("module", "5:lib_nowhere")
        self.assertEqual([[], True], [kinds[0].asked, "lib_nowhere" in kinds[1].asked])

    def test_a_package_whose_file_is_gone_serves_no_links(self):
        __import__("lib_package")
        os.symlink(os.path.join(self.folder, "secret.txt"), os.path.join(self.folder, "lib_package", "link.txt"))
        os.remove(os.path.join(self.folder, "lib_package", "__init__.py"))
        self.assertFalse(self.ask("resource", "5:lib_package:link.txt")[0]["found"])

    def test_odd_protocols_of_a_shared_object_make_no_more_files(self):
        name = self.library.share([values.dumps([1, 2])], "")
        for odd in list(range(-20, 2)) + [10**9]:
            self.assertTrue(self.ask("share", name, pickle=odd)[0]["found"])
        self.assertLessEqual(len(self.library._shared[name]), 2)

    def test_shared_objects_by_path_here_and_by_value_elsewhere(self):
        name = self.library.share([values.dumps(list(range(100)))], "")
        info, buffers = self.ask("share", name, local=True, pickle=2)
        self.assertTrue(os.path.exists(info["path"]))
        self.assertEqual(buffers, [])
        info, buffers = self.ask("share", name, pickle=2)
        self.assertNotIn("path", info)
        self.assertTrue(buffers)
        self.library.drop(name)
        self.assertFalse(self.ask("share", name, pickle=2)[0]["found"])

    def test_a_shared_objects_name_is_its_content_and_its_place_among_equals(self):
        names = [self.library.share([values.dumps(value)], "") for value in ([1, 2], [1, 2], [1, 2, 3], [1, 2])]
        self.assertEqual(len(set(names)), 4)
        again = Library(None)
        self.addCleanup(again.close)
        self.assertEqual([again.share([values.dumps(value)], "") for value in ([1, 2], [1, 2], [1, 2, 3], [1, 2])], names)
        self.library.drop(names[0])
        self.assertTrue(self.ask("share", names[1], pickle=2)[0]["found"])
        self.assertEqual(self.library.share([values.dumps([1, 2])], ""), names[0])

    def test_versions_of_installed_packages(self):
        installed = types.ModuleType("lib_installed")
        installed.__version__ = "1.0"
        sys.modules["lib_installed"] = installed
        self.assertEqual("1.0", self.ask("module", "5:lib_installed")[0]["version"])
        with support.Log() as log:
            for _ in range(2):
                self.ask("version", "lib_installed is 2.0 on the node x, and 1.0 on the master")
            support.wait_until(lambda: log.having("lib_installed is 2.0"), what="the line")
            self.assertEqual(1, len(log.having("lib_installed is 2.0")))

    def test_an_unknown_question(self):
        self.assertFalse(self.ask("nonsense", "n")[0]["found"])

    def test_its_thread_ends_with_it(self):
        self.addCleanup(setattr, serving, "CLOSE_SECONDS", serving.CLOSE_SECONDS)
        serving.CLOSE_SECONDS = 30.0
        before = set(threading.enumerate())
        other = Library(None)
        other.start()
        answering, = set(threading.enumerate()) - before
        other.close()
        self.assertFalse(answering.is_alive())


if __name__ == "__main__":
    unittest.main()

"""What a worker process lacks it gets from the master; what was edited it reads anew."""
from __future__ import absolute_import, division, print_function

import os
import shutil
import sys
import tempfile
import unittest

from minimalcluster import MasterNode, imports
from minimalcluster.imports import ClusterFinder, Edited, is_project_file
from tests import support


class Answer(bytes):
    def tobytes(self):
        return bytes(self)


class FinderTest(unittest.TestCase):
    """The finder over a dictionary instead of a master."""

    def setUp(self):
        self.sources = {
            "served_package": (True, "from .part import value\nname = __name__\n"),
            "served_package.part": (False, "value = 7\ndef fail():\n    raise ValueError('here')\n"),
            "served_broken": (False, "1 / 0\n"),
        }
        self.asked = []
        self.finder = ClusterFinder(self.fetch)
        sys.meta_path.append(self.finder)
        self.addCleanup(self.clean)

    def clean(self):
        sys.meta_path.remove(self.finder)
        for name in [name for name in sys.modules if name.startswith("served_")]:
            del sys.modules[name]

    def fetch(self, what, name):
        self.asked.append((what, name))
        if what == "resource":
            return {"found": name == "served_package:data.txt"}, [Answer(b"data")]
        if what == "contents":
            return {"found": True, "names": ["data.txt"]}, []
        if name not in self.sources:
            return {"found": False}, []
        package, source = self.sources[name]
        path = os.path.join(os.sep + "far", name.replace(".", os.sep)) + (os.sep + "__init__.py" if package else ".py")
        return {"found": True, "package": package, "filename": path}, [Answer(source.encode("ascii"))]

    def test_packages_with_relative_imports(self):
        import served_package

        self.assertEqual((served_package.value, served_package.name), (7, "served_package"))
        self.assertEqual(served_package.part.__package__, "served_package")

    def test_what_is_missing_is_asked_for_once_a_job(self):
        for _ in range(3):
            with self.assertRaises(ImportError):
                __import__("served_nowhere")
        self.assertEqual(self.asked.count(("module", "served_nowhere")), 1)
        self.sources["served_nowhere"] = (False, "")
        self.finder.new_job(0)
        __import__("served_nowhere")

    def test_a_module_that_fails_is_not_kept(self):
        with self.assertRaises(ZeroDivisionError):
            __import__("served_broken")
        self.assertNotIn("served_broken", sys.modules)

    def test_a_new_version_is_read_anew(self):
        self.finder.new_job(1)
        import served_package

        self.sources["served_package.part"] = (False, "value = 8\n")
        self.finder.new_job(1)
        self.assertIs(__import__("served_package"), served_package)
        self.finder.new_job(2)
        self.assertEqual(__import__("served_package").value, 8)

    def test_our_own_package_is_never_asked_for(self):
        self.assertIsNone(self.finder.find_module("minimalcluster.no_such"))
        self.assertEqual(self.asked, [])

    def test_tracebacks_show_its_lines(self):
        import traceback

        import served_package

        try:
            served_package.part.fail()
        except ValueError:
            self.assertIn("raise ValueError('here')", traceback.format_exc())

    def test_package_data(self):
        import pkgutil

        import served_package

        self.assertEqual(pkgutil.get_data("served_package", "data.txt"), b"data")
        with self.assertRaises(IOError):
            pkgutil.get_data("served_package", "other.txt")
        self.assertTrue(served_package)

    @unittest.skipIf(sys.version_info < (3, 7), "importlib.resources came with 3.7")
    def test_importlib_resources(self):
        from importlib import resources

        import served_package

        if sys.version_info >= (3, 10):  # 3.9's files() wants a folder on disk
            folder = resources.files(served_package)
            self.assertEqual((folder / "data.txt").read_bytes(), b"data")
            self.assertEqual(folder.joinpath("data.txt").read_text(), "data")
            self.assertEqual([each.name for each in folder.iterdir()], ["data.txt"])
            self.assertTrue(folder.is_dir() and folder.joinpath("data.txt").is_file())
            with folder.joinpath("data.txt").open() as file:
                self.assertEqual(file.read(), "data")
            with self.assertRaises(FileNotFoundError):
                folder.joinpath("other.txt").read_bytes()
        else:
            self.assertEqual(resources.read_binary("served_package", "data.txt"), b"data")
            self.assertTrue(resources.is_resource("served_package", "data.txt"))
            self.assertFalse(resources.is_resource("served_package", "other.txt"))
            self.assertEqual(list(resources.contents("served_package")), ["data.txt"])


class ProjectTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def write(self, name, text, time):
        path = os.path.join(self.folder, name)
        with open(path, "w") as file:
            file.write(text)
        os.utime(path, (time, time))
        return path

    def test_what_is_the_projects(self):
        self.assertTrue(is_project_file(self.write("own.py", "", 1)))
        self.assertFalse(is_project_file(os.path.join(self.folder, "own.so")))
        self.assertFalse(is_project_file(os.path.join(self.folder, "site-packages", "own.py")))
        self.assertFalse(is_project_file(os.__file__.replace(".pyc", ".py")))

    def test_an_edited_module_is_unloaded(self):
        sys.path.insert(0, self.folder)
        self.addCleanup(sys.path.remove, self.folder)
        self.write("edited_module.py", "value = 1\n", 1000000000)
        edited = Edited()
        self.addCleanup(setattr, imports, "is_project_file", imports.is_project_file)
        imports.is_project_file = lambda path: path.startswith(self.folder)  # not this test's own modules
        import edited_module

        self.assertEqual(edited_module.value, 1)
        edited.refresh()
        self.write("edited_module.py", "value = 22\n", 1000000005)
        self.assertFalse(edited.refresh(), "it looks at most once a second")
        edited._checked_at -= 10
        self.assertTrue(edited.refresh())
        self.assertNotIn("edited_module", sys.modules)
        self.assertEqual(__import__("edited_module").value, 22)
        # The next job looks at once, and what was imported by the last one was noticed then.
        edited.notice()
        self.write("edited_module.py", "value = 333\n", 1000000009)
        self.assertTrue(edited.refresh(at_once=True))
        self.assertEqual(__import__("edited_module").value, 333)
        edited.notice()
        os.remove(os.path.join(self.folder, "edited_module.py"))
        self.assertFalse(edited.refresh(at_once=True))
        del sys.modules["edited_module"]

    def test_a_node_imports_the_masters_module(self):
        # The node's process knows nothing of this folder: a real WorkerNode in a process of its own.
        self.write("only_here.py", "def double(x):\n    return x * 2\n", 1000000000)
        sys.path.insert(0, self.folder)
        self.addCleanup(sys.path.remove, self.folder)
        self.addCleanup(sys.modules.pop, "only_here", None)
        with MasterNode(PORT=0) as master:
            master.start_master_server(False)
            master.load_envir("import only_here\nf = lambda x: only_here.double(x)", from_file=False)
            master.register_target_function("f")
            master.load_args(range(5))
            with support.node_of(master, 1):
                self.assertEqual(list(master.execute().values()), [0, 2, 4, 6, 8])
                self.write("only_here.py", "def double(x):\n    return [x, x]\n", 1000000009)
                self.assertEqual(list(master.execute().values())[1], [1, 1])


class SourcesTest(unittest.TestCase):
    """What of the project a source stands on."""

    def setUp(self):
        self.folder = os.path.realpath(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        sys.path.insert(0, self.folder)
        self.addCleanup(sys.path.remove, self.folder)
        os.mkdir(os.path.join(self.folder, "of_package"))
        for name, text in (
            ("of_one.py", "import json, of_two\n"),
            ("of_two.py", "def f():\n    from of_package import part\n"),
            ("of_broken.py", "def f(:\n"),
            ("of_package/__init__.py", ""),
            ("of_package/part.py", "from . import other\nfrom .other import x\nimport of_one\n"),
            ("of_package/other.py", "x = 1\n"),
        ):
            support.write(os.path.join(self.folder, *name.split("/")), text)

    def test_what_it_imports_and_what_that_imports(self):
        found = imports.project_sources(b"import of_one, os.path, no_such_module\nimport of_broken\n")
        everything = ["of_broken", "of_one", "of_package", "of_package.other", "of_package.part", "of_two"]
        self.assertEqual(sorted(found), everything)
        self.assertEqual(found["of_one"], b"import json, of_two\n")
        self.assertNotIn("of_package", sys.modules)
        __import__("of_package.part")
        for name in everything:
            self.addCleanup(sys.modules.pop, name, None)
        self.assertEqual(sorted(imports.project_sources(b"from of_two import f\n")), everything[1:])
        self.assertEqual(sorted(imports.project_sources(b"from .other import x", "of_package")), ["of_package", "of_package.other"])

    def test_what_is_no_source(self):
        for source in (b"", b"def f(:", b"\0", b"import"):
            self.assertEqual(imports.project_sources(source), {})


if __name__ == "__main__":
    unittest.main()

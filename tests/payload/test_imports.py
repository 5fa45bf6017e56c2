"""A worker process's imports come from the master: whatever the node has itself, in the code of the job that is run."""
from __future__ import absolute_import, division, print_function

import os
import subprocess
import sys
import types
import unittest

from minimalcluster import MasterNode
from minimalcluster.payload import imports
from minimalcluster.payload.imports import ClusterFinder
from tests import support
from tests.sent import PYTHON_3
from tests.payload.test_sources import ProjectTest

if PYTHON_3:
    from importlib import reload


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
            "served_other": (False, "kept = []\n"),
        }
        self.more = {}  # name -> what else is said of it
        self.loads = {}  # name -> (how often before, in which order)
        self.asked = []
        self.finder = ClusterFinder(self.fetch)
        sys.meta_path.insert(0, self.finder)
        self.addCleanup(self.clean)
        self.finder.use(1)

    def clean(self):
        sys.meta_path.remove(self.finder)
        if self.finder._listing in sys.path_hooks:
            sys.path_hooks.remove(self.finder._listing)
        for path in [path for path in sys.path_importer_cache if path.startswith(os.path.join(os.sep, "far"))]:
            del sys.path_importer_cache[path]
        for name in [name for name in sys.modules if name.startswith("served_")]:
            del sys.modules[name]

    def stamp(self, name):
        return [self.sources[name][1]] + list(self.loads.get(name, (0, 0)))

    def fetch(self, what, name):
        code, _, name = name.partition(":")
        self.asked.append((what, name))
        if what == "resource":
            return {"found": name == "served_package:data.txt"}, [Answer(b"data")]
        if what == "modules":
            return {"found": True, "names": ["more/", "part"] if name == "served_package:" else []}, []
        if what == "contents":
            return {"found": True, "names": ["data.txt"]}, []
        if what == "code":
            names = [each for each in name.split(",") if each in self.sources]
            return {"found": True, "modules": {each: self.stamp(each) for each in names}}, []
        if name not in self.sources:
            return dict({"found": False}, **self.more.get(name, {})), []
        package, source = self.sources[name]
        path = os.path.join(os.sep + "far", name.replace(".", os.sep)) + (os.sep + "__init__.py" if package else ".py")
        info = {"found": True, "kind": "source", "package": package, "filename": path, "local": False, "stamp": self.stamp(name)}
        info.update(self.more.get(name, {}))
        return info, [Answer(source.encode("ascii"))]


class Finder(FinderTest):
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
        self.finder.new_job()
        __import__("served_nowhere")

    def test_nobody_is_asked_for_the_standard_library_and_what_is_below_others_packages(self):
        for name in ("os", "json.nothing", "sys", "minimalcluster.no_such"):
            self.assertIsNone(self.finder._ask(name))
        self.assertEqual([], self.asked)
        for name in ("installed.one", "installed.two.three", "installed"):
            self.assertIsNone(self.finder._ask(name))
        self.assertEqual([("module", "installed")], self.asked)

    def test_a_name_of_the_standard_library_that_is_the_projects_on_the_master(self):
        self.sources["served_names"] = self.sources["colorsys"] = (False, "mine = 1\n")
        self.finder.use(1, ["colorsys"])
        sys.modules.pop("colorsys", None)
        self.addCleanup(sys.modules.pop, "colorsys")
        self.assertEqual(1, __import__("colorsys").mine)

    def test_a_module_that_fails_is_not_kept(self):
        with self.assertRaises(ZeroDivisionError):
            __import__("served_broken")
        self.assertNotIn("served_broken", sys.modules)

    def test_tracebacks_show_its_lines(self):
        import traceback

        import served_package

        try:
            served_package.part.fail()
        except ValueError:
            self.assertIn("raise ValueError('here')", traceback.format_exc())

    def test_a_fork_asks_nobody(self):
        self.finder._pid = -1
        self.assertIsNone(self.finder._ask("served_other"))
        self.assertFalse(self.finder.resource("resource", "served_package", "data.txt")[0]["found"])
        self.assertEqual([], self.asked)

    def test_the_nodes_own_fallback_is_not_asked_for(self):
        name = "unittest"
        with support.patched(imports, "FALLBACKS", (name, "served_other")):
            self.finder._standard = ()
            self.assertIsNone(self.finder._ask(name))
            self.assertIsNotNone(self.finder._ask("served_other"))
        self.assertEqual([("module", "served_other")], self.asked)

    def test_a_folder_that_only_lies_there_hides_no_package_of_the_nodes(self):
        self.finder._standard = ()
        for imported, found in ((False, False), (True, True)):
            self.sources["unittest"] = (True, "")
            self.more["unittest"] = {"kind": "folder", "folders": ["/far/unittest"], "imported": imported}
            self.finder._known.clear()
            self.assertEqual(found, self.finder._ask("unittest") is not None)

    @unittest.skipUnless(PYTHON_3, "2.7 has no packages without __init__.py")
    def test_folders_without_init(self):
        self.sources["served_folder"] = (True, "")
        self.more["served_folder"] = {"kind": "folder", "folders": [os.sep + "far"], "imported": True}
        self.sources["served_folder.part"] = (False, "x = 5\n")
        import served_folder.part

        self.assertEqual(5, served_folder.part.x)
        self.assertIn(os.sep + "far", list(served_folder.__path__))

    @unittest.skipUnless(PYTHON_3, "on 2.7 only what has its source is served")
    def test_what_is_no_python_source_has_an_error_that_says_so(self):
        self.more["served_fast"] = {"foreign": "/far/served_fast.so", "local": False}
        with self.assertRaisesRegex(ImportError, "served_fast is no Python source on the master .*served_fast.so.*install it here"):
            __import__("served_fast")
        self.more["served_here"] = {"foreign": "/far/served_here.so", "local": True}
        self.assertIsNone(self.finder._ask("served_here"))

    def test_installed_packages_of_another_version_are_told_of_once(self):
        for name, version in (("other_one", "2.0"), ("other_two", "1.0"), ("other_three", "1.0")):
            self.more[name] = {"version": version}
            self.assertIsNone(self.finder._ask(name))
        self.assertEqual([], self.finder.differing(), "they are not imported yet")
        for name, version in (("other_one", "1.0"), ("other_two", "1.0"), ("other_three", None)):
            sys.modules[name] = types.ModuleType(name)
            self.addCleanup(sys.modules.pop, name)
            sys.modules[name].__version__ = version
        self.assertEqual([("other_one", "1.0", "2.0")], self.finder.differing())
        self.assertEqual({}, self.finder.versions)

    def test_without_its_source_for_the_same_python_only(self):
        self.sources["served_compiled"] = (False, "")
        self.more["served_compiled"] = {"kind": "compiled", "minor": "1.4"}
        with self.assertRaises(ImportError) as caught:
            __import__("served_compiled")
        self.assertIn("compiled by Python 1.4", str(caught.exception))


class Reloads(FinderTest):
    """A job that brings other code."""

    def test_what_is_another_is_run_anew_in_its_place_and_the_rest_stays(self):
        import served_other
        import served_package

        served_other.kept.append(1)
        part = served_package.part
        self.assertFalse(self.finder.use(1))
        self.sources["served_package.part"] = (False, "value = 8\n")
        self.assertTrue(self.finder.use(2))
        self.assertIs(part, sys.modules["served_package.part"])
        self.assertEqual((8, 7, [1]), (part.value, served_package.value, served_other.kept))

    def test_other_code_in_which_nothing_is_another(self):
        import served_other

        served_other.kept.append(1)
        self.assertFalse(self.finder.use(2))
        self.assertEqual([1], served_other.kept)

    def test_in_the_masters_order(self):
        import served_package

        self.sources["served_package.part"] = (False, "value = 8\n")
        self.loads.update({"served_package.part": (1, 5), "served_package": (1, 6)})
        self.finder.use(2)
        self.assertEqual(8, served_package.value)
        self.sources["served_package.part"] = (False, "value = 9\n")
        self.loads.update({"served_package.part": (2, 8), "served_package": (2, 7)})
        self.finder.use(3)
        self.assertEqual((8, 9), (served_package.value, served_package.part.value))

    def test_a_reload_keeps_what_it_does_not_set(self):
        import served_other

        self.sources["served_other"], self.loads["served_other"] = (False, "kept.append(2)\n"), (1, 5)
        self.finder.use(2)
        self.assertEqual([2], served_other.kept)

    def test_back_and_forth_each_as_it_was_left(self):
        import served_other
        import served_package

        one, kept, first = dict(self.sources), [], served_package.part.fail
        two = dict(one, **{"served_package.part": (False, "value = 8\n"), "served_other": (False, "kept = [2]\n")})
        for code in (1, 2, 1, 2, 1):
            self.sources = two if code == 2 else one
            self.loads = {"served_package.part": (1, 5), "served_package": (1, 6), "served_other": (1, 7)} if code == 2 else {}
            self.finder.use(code)
            served_other.kept.append(code)
            kept.append((served_package.value, served_package.part.value, list(served_other.kept)))
        self.assertEqual([(7, 7, [1]), (8, 8, [2, 2]), (7, 7, [1, 1]), (8, 8, [2, 2, 2]), (7, 7, [1, 1, 1])], kept)
        self.assertIs(first, served_package.part.fail)
        self.assertIs(served_package, sys.modules["served_package"])

    def test_older_code_for_the_first_time(self):
        self.sources.update(served_a=(False, "from served_z import x\n"), served_z=(False, "x = 2\n"))
        self.loads.update(served_z=(1, 5), served_a=(1, 6))
        self.finder.use(2)
        import served_a

        self.sources["served_z"], self.loads = (False, "x = 1\n"), {"served_a": (0, 2), "served_z": (0, 3)}
        self.assertTrue(self.finder.use(1))
        self.assertEqual((1, 1), (served_a.x, sys.modules["served_z"].x))

    def test_what_is_below_a_package_stays_in_it(self):
        import served_package

        self.sources["served_package"] = (True, "")
        self.finder.use(2)
        self.assertEqual(7, served_package.part.value)
        self.assertFalse(hasattr(served_package, "value"))

    def test_what_no_job_needs_any_more_is_let_go_of(self):
        import served_other

        for code in (2, 3):
            self.sources["served_other"] = (False, "kept = [%d]\n" % code)
            self.finder.use(code)
        self.assertEqual(2, len(self.finder._variables))
        self.finder.forget({2})
        self.assertEqual([[2]], [each["kept"] for each in self.finder._variables.values()])
        self.finder.forget(set())
        self.assertEqual({}, self.finder._variables)
        self.assertEqual([3], served_other.kept)

    def test_one_that_fails_is_tried_again(self):
        import served_other

        served_other.kept.append(1)
        self.sources["served_other"] = (False, "1 / 0\n")
        for _ in range(2):
            with self.assertRaises(ZeroDivisionError):
                self.finder.use(2)
        self.sources["served_other"] = (False, "kept = []\n")
        self.assertFalse(self.finder.use(1))
        self.assertEqual([1], served_other.kept)
        self.sources["served_other"] = (False, "kept = 5\n")
        self.assertTrue(self.finder.use(2))
        self.assertEqual(5, served_other.kept)

    def test_what_is_the_projects_no_more_is_not_found_and_comes_back_with_the_older_code(self):
        import served_other

        served_other.kept.append(1)
        source = self.sources.pop("served_other")
        for code in (2, 3):
            self.finder.use(code)
            with self.assertRaises(ImportError):
                __import__("served_other")
        self.sources["served_other"] = source
        self.finder.use(1)
        self.assertIs(served_other, sys.modules["served_other"])
        self.assertEqual([1], served_other.kept)
        del self.sources["served_other"]
        self.finder.use(3)
        self.finder.forget({3})
        self.assertEqual({}, self.finder._away)

    def test_a_master_that_cannot_say_takes_nothing_away(self):
        import served_other

        with support.patched(self.finder, "_fetch", lambda *asked: ({"found": False, "error": "no"}, [])):
            self.finder.use(2)
        self.assertIs(served_other, sys.modules["served_other"])

    def test_one_that_has_put_something_else_in_its_place(self):
        self.sources["served_odd"] = (False, "import sys\nsys.modules[__name__] = 1\n")
        self.assertEqual(1, __import__("served_odd"))
        self.sources["served_odd"] = (False, "x = 5\n")
        self.assertTrue(self.finder.use(2))
        self.assertEqual(5, __import__("served_odd").x)


class Data(FinderTest):
    def test_package_data(self):
        import pkgutil

        import served_package

        self.assertEqual(pkgutil.get_data("served_package", "data.txt"), b"data")
        with self.assertRaises(IOError):
            pkgutil.get_data("served_package", "other.txt")
        loader, part = served_package.__loader__, served_package.part
        self.assertEqual(b"data", loader.get_data(os.path.join(os.path.dirname(served_package.__file__), "data.txt")))
        self.assertEqual(b"data", part.__loader__.get_data(os.path.join(os.path.dirname(part.__file__), "data.txt")))
        self.assertEqual(self.sources["served_package.part"][1].encode("ascii"), part.__loader__.get_data(part.__file__))
        import served_other

        with self.assertRaises(IOError) as caught:
            served_other.__loader__.get_data(os.path.join(os.path.dirname(served_other.__file__), "data.txt"))
        self.assertIn("the files in its packages do", str(caught.exception))

    def test_pkgutil_lists_what_is_on_the_master(self):
        import pkgutil

        import served_package

        hooks = list(sys.path_hooks)
        self.assertEqual([("x.more", True), ("x.part", False)], [each[1:] for each in pkgutil.iter_modules(served_package.__path__, "x.")])
        self.assertEqual([], list(pkgutil.iter_modules([os.path.join(os.sep, "far", "else")])))
        with self.assertRaises(ImportError):
            __import__("served_package.nothing")
        self.finder.listed("served_other", os.path.join(os.sep, "far", "other"))
        self.assertEqual(hooks, sys.path_hooks)

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


class OnANode(ProjectTest):
    """A real WorkerNode in a process of its own, which knows nothing of this test's folder."""

    def run_there(self, code, arguments, folder=None):
        """f of this source, on a node that is started in that folder."""
        with MasterNode(PORT=0) as master:
            master.start_master_server(False)
            support.prepare(master, code, "f", arguments)
            command = [sys.executable, "-m", "minimalcluster", "node", "127.0.0.1:%d" % master.PORT, "--nprocs", "1", "--quiet"]
            told = dict(os.environ, MINIMALCLUSTER_KEY=master.AUTHKEY, PYTHONPATH=support.ROOT)
            node = subprocess.Popen(command, cwd=folder or os.sep, env=told)
            try:
                return list(master.execute().values())
            finally:
                node.kill()
                node.wait()

    def test_it_imports_the_masters_module_and_after_a_reload_there_the_new_one(self):
        self.write("only_here.py", "def double(x):\n    return x * 2\n")
        with MasterNode(PORT=0) as master:
            master.start_master_server(False)
            support.prepare(master, "import only_here\nf = lambda x: only_here.double(x)", "f", range(5))
            with support.node_of(master, 1):
                self.assertEqual(list(master.execute().values()), [0, 2, 4, 6, 8])
                self.write("only_here.py", "def double(x):\n    return [x, x]\n")
                self.assertEqual(list(master.execute().values()), [0, 2, 4, 6, 8])
                reload(sys.modules["only_here"])
                self.assertEqual(list(master.execute().values())[1], [1, 1])

    def test_row_74_the_masters_and_no_other_file_or_folder_of_that_name(self):
        self.write("elsewhere/on_both.py", "name = 'the node'\n")
        self.write("elsewhere/on_both_folder/README", "")
        self.write("on_both.py", "name = 'the master'\n")
        self.write("on_both_folder/__init__.py", "name = 'the master'\n")
        code = "import on_both, on_both_folder\nf = lambda x: (on_both.name, on_both_folder.name)"
        self.assertEqual([("the master",) * 2], self.run_there(code, [1], os.path.join(self.folder, "elsewhere")))

    @unittest.skipUnless(PYTHON_3, "2.7 has no packages without __init__.py")
    def test_row_74_a_folder_without_init_and_a_part_that_only_the_task_imports(self):
        self.write("plain_folder/inner/part.py", "x = 5\n")
        self.assertEqual([5], self.run_there("def f(x):\n    from plain_folder.inner import part\n    return part.x\n", [1]))
        self.assertNotIn("plain_folder", sys.modules)

    def test_row_74_out_of_a_zip(self):
        import zipfile

        path = os.path.join(self.folder, "zipped.zip")
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("in_zip/__init__.py", "")
            file.writestr("in_zip/part.py", "x = 5\n")
            file.writestr("in_zip/data.txt", "data")
        sys.path.insert(0, path)
        self.addCleanup(sys.path.remove, path)
        code = "import pkgutil\nfrom in_zip import part\nf = lambda x: (part.x, pkgutil.get_data('in_zip', 'data.txt').decode())"
        self.assertEqual([(5, u"data")], self.run_there(code, [1]))


if __name__ == "__main__":
    unittest.main()

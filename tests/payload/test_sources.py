"""Which modules are the project's, and which of their sources a job runs: those that were loaded when it was given."""
from __future__ import absolute_import, division, print_function

import os
import py_compile
import sys
import types
import unittest
import zipfile

import minimalcluster.master.serving  # noqa: F401 # from here on imports are watched
from minimalcluster.payload import sources
from minimalcluster.payload.sources import find
from tests import support
from tests.sent import PYTHON_3

if PYTHON_3:
    from importlib import reload


class ProjectTest(unittest.TestCase):
    """A folder on sys.path; its modules are forgotten afterwards."""

    def setUp(self):
        self.folder = os.path.realpath(support.directory_for(self))
        sys.path.insert(0, self.folder)
        self.addCleanup(sys.path.remove, self.folder)
        before = set(sys.modules)
        self.addCleanup(lambda: [sys.modules.pop(name) for name in set(sys.modules) - before])
        self.addCleanup(lambda: [sys.path_importer_cache.pop(path) for path in list(sys.path_importer_cache) if path.startswith(self.folder)])
        self.time = 1000000000

    def write(self, name, text):
        """Each with a time of its own: Python takes two files of one size and second for the same."""
        path = os.path.join(self.folder, *name.split("/"))
        if not os.path.isdir(os.path.dirname(path)):
            os.makedirs(os.path.dirname(path))
        support.write(path, text)
        self.time += 2
        os.utime(path, (self.time, self.time))
        return path

    def kind(self, name):
        found = find(name)
        return None if found is None else found.kind


class Find(ProjectTest):
    def test_modules_and_packages_imported_or_not(self):
        self.write("fi_package/__init__.py", "")
        path = self.write("fi_package/part.py", "")
        for _ in range(2):
            self.assertEqual(("source", path, False), find("fi_package.part")[:3])
            self.assertEqual(("source", True, [os.path.join(self.folder, "fi_package")]), find("fi_package")[:1] + find("fi_package")[2:4])
            __import__("fi_package.part")
        self.assertEqual([None, None], [find("fi_package.none"), find("fi_none")])

    def test_nothing_is_imported_to_find_something(self):
        self.write("fi_slow/__init__.py", "raise RuntimeError('it was imported')\n")
        self.write("fi_slow/part.py", "")
        self.assertEqual("source", self.kind("fi_slow.part"))
        for name in ("this.x", "antigravity.x", "json.decoder", "fi_slow.none"):
            self.assertIsNone(find(name), name)
        self.assertFalse({"this", "antigravity", "fi_slow", "fi_slow.part"} & set(sys.modules))

    @unittest.skipUnless(PYTHON_3, "2.7 has no packages without __init__.py")
    def test_folders_without_init(self):
        self.write("fi_folder/inner/deep.py", "")
        os.mkdir(os.path.join(self.folder, "second"))
        sys.path.insert(0, os.path.join(self.folder, "second"))
        self.addCleanup(sys.path.remove, os.path.join(self.folder, "second"))
        self.write("second/fi_folder/other.py", "")
        for _ in range(2):
            kinds = [self.kind("fi_folder" + rest) for rest in ("", ".inner", ".inner.deep", ".other", ".none")]
            self.assertEqual(["folder", "folder", "source", "source", None], kinds)
            self.assertEqual(2, len(find("fi_folder").folders))
            __import__("fi_folder.inner.deep")

    def test_in_a_zip(self):
        path = os.path.join(self.folder, "fi_zip.zip")
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("fi_zipped.py", "x = 1\n")
            file.writestr("fi_zip_package/__init__.py", "")
            file.writestr("fi_zip_package/part.py", "y = 2\n")
        sys.path.insert(0, path)
        self.addCleanup(sys.path.remove, path)
        for _ in range(2):
            for name, text in (("fi_zipped", b"x = 1\n"), ("fi_zip_package.part", b"y = 2\n")):
                self.assertEqual("source", self.kind(name))
                self.assertEqual(text, sources.read(find(name), name)[0])
                __import__(name)

    def test_without_their_source_and_extensions(self):
        path = self.write("fi_compiled.py", "x = 1\n")
        py_compile.compile(path, path + "c", doraise=True)
        os.remove(path)
        suffix = ".so" if not PYTHON_3 else __import__("importlib.machinery", fromlist=["x"]).EXTENSION_SUFFIXES[0]
        self.write("fi_fast" + suffix, "")
        self.assertEqual(["compiled", "foreign"], [self.kind("fi_compiled"), self.kind("fi_fast")])
        __import__("fi_compiled")
        self.assertEqual("compiled", self.kind("fi_compiled"))

    def test_neither_the_library_nor_installed_packages_nor_we_nor_nonsense(self):
        self.write("site-packages/fi_installed.py", "")
        sys.path.insert(0, os.path.join(self.folder, "site-packages"))
        self.addCleanup(sys.path.remove, os.path.join(self.folder, "site-packages"))
        self.write("secret.py", "")
        self.write("fi_place/__init__.py", "")
        for name in (
            "json", "os", "sys", "_io", "fi_installed", "minimalcluster", "minimalcluster.payload.sources", "__main__", "", ".", "a b",
            "fi_place..x", "../secret", "fi_place.../secret", "fi_place.\\x", "fi_place.x\0",
        ):  # fmt: skip
            self.assertIsNone(find(name), name)
        self.assertIsNotNone(find("fi_installed", own=False))

    def test_what_pip_has_installed_into_a_folder_of_the_programs(self):
        self.write("fi_target.py", "")
        self.write("fi_target_package/__init__.py", "")
        self.write("fi_own.py", "")
        record = "fi_target.py,sha256=x,0\nfi_target_package/__init__.py,,\nfi_target-1.0.dist-info/RECORD,,\n"
        self.write("fi_target-1.0.dist-info/RECORD", record)
        kinds = [self.kind(name) for name in ("fi_target", "fi_target_package", "fi_own")]
        self.assertEqual([None, None, "source"], kinds)

    def test_names_that_only_begin_like_ours(self):
        self.write("minimalcluster_tasks.py", "")
        self.write("minimalclusters/__init__.py", "")
        self.assertEqual(["source", "source"], [self.kind("minimalcluster_tasks"), self.kind("minimalclusters")])

    def test_what_is_no_module_or_answers_with_errors_hurts_nobody(self):
        class Lazy(types.ModuleType):
            def __getattribute__(self, name):
                raise RuntimeError("install the optional part first")

        class Late(types.ModuleType):
            def __getattr__(self, name):
                raise SystemExit(name)

        class Odd(object):
            def __getattribute__(self, name):
                raise KeyboardInterrupt

        late = Late("fi_odd")
        late.__dict__.update(__spec__=Odd(), __loader__=Odd(), __path__=Odd(), __file__=5)
        for odd in (Lazy("fi_odd"), Late("fi_odd"), Odd(), None, 5, "text"):
            sys.modules["fi_odd"] = odd
            self.assertIsNone(find("fi_odd"))
            sources.loaded.current()
        sys.modules["fi_odd"] = late
        with self.assertRaises(KeyboardInterrupt):
            find("fi_odd")  # only errors are kept from harm: Ctrl-C may come at any place
        del late.__dict__["__path__"], late.__dict__["__loader__"]
        self.assertIsNone(find("fi_odd"))

    def test_a_module_that_has_put_something_else_in_its_place(self):
        self.write("fi_replaced.py", "import sys\nsys.modules[__name__] = 7\n")
        __import__("fi_replaced")
        self.assertEqual("source", self.kind("fi_replaced"))


class Jobs(ProjectTest):
    """What a job that is given now would run."""

    def now(self, name):
        """The source, and the number of the code."""
        code = sources.loaded.current()
        found = sources.loaded.of(code, name)
        return found and found.data.decode("ascii").strip(), code.number

    @unittest.skipUnless(PYTHON_3, "2.7 has nothing that could watch")
    def test_what_was_imported_whatever_was_saved_since(self):
        self.write("so_early.py", "x = 1\n")
        __import__("so_early")
        self.write("so_early.py", "x = 'half a fi")
        self.assertEqual("x = 1", self.now("so_early")[0])

    def test_no_other_code_until_it_is_reloaded(self):
        self.write("so_one.py", "x = 1\n")
        module = __import__("so_one")
        text, number = self.now("so_one")
        self.write("so_one.py", "x = 22\n")
        self.assertEqual((text, number), self.now("so_one"))
        reload(module)
        self.assertEqual(("x = 22", number + 1), self.now("so_one"))
        self.write("so_one.py", "x = 333\n")
        del sys.modules["so_one"]
        __import__("so_one")
        self.assertEqual(("x = 333", number + 2), self.now("so_one"))

    @unittest.skipUnless(PYTHON_3, "2.7 has nothing that could watch")
    def test_what_was_reloaded_whatever_was_saved_since(self):
        self.write("so_again.py", "x = 1\n")
        module = __import__("so_again")
        self.now("so_again")
        self.write("so_again.py", "x = 22\n")
        reload(module)
        self.write("so_again.py", "x = 333\n")
        self.assertEqual("x = 22", self.now("so_again")[0])

    def test_modules_above_a_reloaded_one_only_where_ipython_changes_what_they_have_from_it(self):
        self.write("so_low.py", "x = 1\n")
        self.write("so_middle.py", "def f():\n    from so_low import x\n")
        self.write("so_high.py", "import so_middle\n")
        self.write("so_aside.py", "x = 1\n")
        names = ["so_low", "so_middle", "so_high", "so_aside"]
        modules = [__import__(name) for name in reversed(names)]
        found = []
        for text, loaded in (("x = 22\n", {}), ("x = 333\n", {sources._AUTORELOAD: types.ModuleType("autoreload")})):
            sources.loaded.current()
            self.write("so_low.py", text)
            with support.patched(sys, "modules", dict(sys.modules, **loaded)):
                reload(modules[-1])
                code = sources.loaded.current()
            found.append([sources.loaded.of(code, name) for name in names])
        self.assertEqual([[1, 0, 0, 0], [2, 1, 1, 0]], [[each.loads for each in row] for row in found])
        self.assertEqual(sorted(each.serial for each in found[1][:3]), [each.serial for each in found[1][:3]])

    def test_what_ipython_puts_into_a_module_without_running_it_again(self):
        class Reloader(object):
            modules_mtimes, failed = {}, {}

        class Shell(object):
            class magics_manager(object):
                registry = {"AutoreloadMagics": types.ModuleType("magics")}

        Shell.magics_manager.registry["AutoreloadMagics"]._reloader = Reloader
        ipython = types.ModuleType("IPython")
        ipython.get_ipython = Shell
        path = self.write("so_patched.py", "x = 1\n")
        self.write("so_has_it.py", "from so_patched import x\n")
        __import__("so_has_it")
        number = self.now("so_patched")[1]
        about = {"IPython": ipython, sources._AUTORELOAD: types.ModuleType("autoreload")}
        with support.patched(sys, "modules", dict(sys.modules, **about)):
            Reloader.modules_mtimes["so_patched"] = self.time - 2  # at its first look, which changes nothing
            self.assertEqual(("x = 1", number), self.now("so_patched"))
            self.write("so_patched.py", "x = 22\n")
            self.assertEqual(("x = 1", number), self.now("so_patched"))  # saved, and not yet in the module
            Reloader.modules_mtimes["so_patched"] = Reloader.failed[path] = self.time
            self.assertEqual(("x = 1", number), self.now("so_patched"))
            Reloader.failed.clear()
            code = sources.loaded.current(look=False)
            self.assertEqual((b"x = 22\n", number + 1), (sources.loaded.of(code, "so_patched").data, code.number))
            self.assertEqual([1, 1], [sources.loaded.of(code, name).loads for name in ("so_patched", "so_has_it")])
            Reloader.modules_mtimes["so_patched"] = self.time + 2
            self.write("so_patched.py", "x = 333\n")
            self.write("so_patched.py", "x = 4444\n")
            self.assertEqual(("x = 22", number + 1), self.now("so_patched"))  # 333 is gone, and 4444 not yet in the module
            Reloader.modules_mtimes["so_patched"] = self.time
            self.assertEqual(("x = 4444", number + 2), self.now("so_patched"))
            ipython.get_ipython = lambda: None
            self.assertEqual(("x = 4444", number + 2), self.now("so_patched"))

    def test_a_reload_that_failed_has_changed_nothing(self):
        self.write("so_broken.py", "x = 1\n")
        module = __import__("so_broken")
        before = self.now("so_broken")
        self.write("so_broken.py", "x = (\n")
        with self.assertRaises(SyntaxError):
            reload(module)
        self.assertEqual(before, self.now("so_broken"))

    def test_a_job_keeps_its_code(self):
        self.write("so_kept.py", "x = 1\n")
        module = __import__("so_kept")
        code = sources.loaded.current()
        self.write("so_kept.py", "x = 22\n")
        reload(module)
        self.assertEqual("x = 22", self.now("so_kept")[0])
        self.assertEqual(b"x = 1\n", sources.loaded.of(code, "so_kept").data)
        self.assertIs(code, sources.loaded.numbered(code.number))

    def test_code_that_no_job_has_any_more_is_forgotten(self):
        self.write("so_gone.py", "x = 1\n")
        module = __import__("so_gone")
        number = sources.loaded.current().number
        self.write("so_gone.py", "x = 22\n")
        reload(module)
        current = sources.loaded.current()
        self.assertIs(current, sources.loaded.numbered(number))
        self.assertIs(current, sources.loaded.numbered(7))

    def test_what_is_not_imported_is_read_when_it_is_asked_for_and_kept_for_the_job(self):
        self.write("so_late.py", "x = 1\n")
        code = sources.loaded.current()
        self.assertEqual(b"x = 1\n", sources.loaded.of(code, "so_late").data)
        self.write("so_late.py", "x = 22\n")
        self.assertEqual(b"x = 1\n", sources.loaded.of(code, "so_late").data)
        self.assertIs(code, sources.loaded.current(look=False))
        self.assertEqual(("x = 22", code.number + 1), self.now("so_late"))
        self.assertEqual(b"x = 1\n", sources.loaded.of(code, "so_late").data)

    def test_saved_without_a_change(self):
        path = self.write("so_same.py", "x = 1\n")
        before = self.now("so_same")
        os.utime(path, (5, 5))
        self.assertEqual(before, self.now("so_same"))
        __import__("so_same")
        os.utime(path, (7, 7))
        self.assertEqual(before, self.now("so_same"))

    def test_what_was_missing_may_be_there_later(self):
        self.assertIsNone(self.now("so_new")[0])
        self.write("so_new.py", "x = 1\n")
        self.assertEqual("x = 1", self.now("so_new")[0])

    @unittest.skipUnless(PYTHON_3, "2.7 has nothing that could watch")
    def test_an_import_that_failed_is_forgotten(self):
        self.write("so_fails.py", "1 / 0\n")
        with self.assertRaises(ZeroDivisionError):
            __import__("so_fails")
        sources.loaded.current()
        self.assertNotIn("so_fails", sources.loaded._begun)

    def test_a_reload_is_noticed_by_the_next_call(self):
        self.write("so_call.py", "x = 1\n")
        module = __import__("so_call")
        code = sources.loaded.current()
        self.assertIs(code, sources.loaded.current(look=False))
        self.write("so_call.py", "x = 22\n")
        reload(module)
        self.assertIsNot(code, sources.loaded.current(look=not PYTHON_3))

    def test_the_names_that_are_the_projects(self):
        self.write("secrets.py", "x = 1\n")  # also where a node has something of that name
        former = sys.modules.pop("secrets", None)

        def restore():
            # Worker processes of later tests must have Python's own.
            sys.modules.pop("secrets", None)
            if former is not None:
                sys.modules["secrets"] = former

        self.addCleanup(restore)
        __import__("secrets")
        code = sources.loaded.current()
        self.assertIn("secrets", code.tops())
        self.assertNotIn("json", code.tops())

    def test_what_was_removed_and_is_found_no_more_is_not_the_projects_in_later_jobs(self):
        path = self.write("so_removed.py", "x = 1\n")
        __import__("so_removed")
        code = sources.loaded.current()
        del sys.modules["so_removed"]
        self.assertEqual(("x = 1", code.number), self.now("so_removed"))  # its file counts now
        os.remove(path)
        with support.patched(sys, "path", [each for each in sys.path if each != self.folder]):
            self.assertEqual((None, code.number + 1), self.now("so_removed"))
        self.assertNotIn("so_removed", sources.loaded.current().tops())
        self.assertEqual(b"x = 1\n", sources.loaded.of(code, "so_removed").data)

    def test_a_name_that_the_librarys_module_has_again(self):
        self.write("sched.py", "x = 1\n")
        former = sys.modules.pop("sched", None)
        __import__("sched")
        self.assertIn("sched", sources.loaded.current().tops())
        del sys.modules["sched"]
        with support.patched(sys, "path", [each for each in sys.path if each != self.folder]):
            sys.modules["sched"] = former or __import__("sched")
            self.assertNotIn("sched", sources.loaded.current().tops())

    @unittest.skipUnless(PYTHON_3, "2.7 has nothing that could watch")
    def test_the_watcher_harms_no_import(self):
        self.write("so_watched.py", "x = 1\n")
        watcher = next(finder for finder in sys.meta_path if isinstance(finder, sources._Watcher))
        with support.patched(sources.loaded, "begun", lambda name, spec: 1 / 0):
            self.assertEqual(1, __import__("so_watched").x)
        self.assertIsNone(watcher.find_spec("so_none"))
        with support.patched(sys, "meta_path", [watcher, object()]):
            self.assertIsNone(watcher.find_spec("so_none"))
        self.assertIsNone(sources._Watcher().find_spec("os"))


class WhatASourceStandsOn(ProjectTest):
    def setUp(self):
        super(WhatASourceStandsOn, self).setUp()
        for name, text in (
            ("of_one.py", "import json, of_two\n"),
            ("of_two.py", "def f():\n    from of_package import part\n"),
            ("of_broken.py", "def f(:\n"),
            ("of_package/__init__.py", ""),
            ("of_package/part.py", "from . import other\nfrom .other import x\nimport of_one\n"),
            ("of_package/other.py", "x = 1\n"),
            ("of_folder/part.py", "import of_one\n"),
        ):
            self.write(name, text)

    def test_what_it_imports_and_what_that_imports(self):
        found = sources.project_sources(b"import of_one, os.path, no_such_module\nimport of_broken\n")
        everything = ["of_broken", "of_one", "of_package", "of_package.other", "of_package.part", "of_two"]
        self.assertEqual(sorted(found), everything)
        self.assertEqual(found["of_one"], b"import json, of_two\n")
        self.assertNotIn("of_package", sys.modules)
        __import__("of_package.part")
        self.assertEqual(sorted(sources.project_sources(b"from of_two import f\n")), everything[1:])
        self.assertEqual(sorted(sources.project_sources(b"from .other import x", "of_package")), ["of_package", "of_package.other"])

    @unittest.skipUnless(PYTHON_3, "2.7 has no packages without __init__.py")
    def test_below_a_folder_without_init(self):
        self.assertIn("of_folder.part", sources.project_sources(b"def f():\n    from of_folder import part\n"))
        self.assertIn("of_two", sources.project_sources(b"import of_folder.part\n"))

    def test_what_is_no_source(self):
        for source in (b"", b"def f(:", b"\0", b"import"):
            self.assertEqual(sources.project_sources(source), {})

    def test_the_imported_ones(self):
        __import__("of_package.other")
        names = sources.project_modules()
        self.assertTrue({"of_package", "of_package.other"} <= set(names))
        self.assertFalse({"of_one", "os", "minimalcluster"} & set(names))


if __name__ == "__main__":
    unittest.main()

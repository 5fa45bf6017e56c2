"""How another Python process of ours is started: with which interpreter and options, and from where it imports."""
from __future__ import absolute_import, division, print_function

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import unittest

from minimalcluster import MasterNode, StartError, WorkerNode
from minimalcluster.node import boot, guardian
from minimalcluster.compat import PY2
from tests import support

#: Prints what the options of an interpreter have made of it.
SHOWN = "[list(sys.flags), sys.warnoptions, sorted(getattr(sys, '_xoptions', {}).items())]"
SHOW = "import sys; print(repr(%s))" % SHOWN
#: The same of this process and of one that has been given its options.
COMPARE = (
    "import json, subprocess, sys; sys.path.insert(0, %r); from minimalcluster.node import boot\n"
    "print(repr(%s)); sys.stdout.flush()\n"
    "subprocess.check_call([sys.executable] + boot.options() + ['-c', %r])"
) % (support.ROOT, SHOWN, SHOW)

#: A module of the standard library that worker processes import, and what a folder of the user's may have in its place.
STANDARD = ["json", "enum", "socket", "threading", "struct", "random", "pickle", "signal"]

MASTER = textwrap.dedent("""\
    import os, sys
    sys.path.append(%r)
    from minimalcluster import MasterNode
    if __name__ == "__main__":
        %%s
        master = MasterNode("127.0.0.1", 0, chunksize=1)
        master.start_master_server()
        master.load_envir("def f(x):\\n    import sys, os\\n    return %%s", from_file=False)
        master.register_target_function("f")
        master.load_args([1])
        print(repr(master.execute()[1]))
        master.shutdown()
    """) % support.ROOT


#: Not that of a virtual environment with an editable install: its .pth file imports standard modules before any code of ours.
_PLAIN = getattr(sys, "_base_executable", sys.executable)


def output_of(command, **named):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **named)
    return process.communicate()[0].decode("utf-8", "replace")


class Options(unittest.TestCase):
    def check(self, *options, **variables):
        lines = output_of([sys.executable] + list(options) + ["-c", COMPARE], env=dict(os.environ, **variables))
        here, there = lines.strip().splitlines()[-2:]
        self.assertEqual(here, there)

    def test_none(self):
        self.check()

    def test_the_letters(self):
        for option in ["-O", "-OO", "-B", "-s", "-S", "-E", "-b", "-d"]:
            self.check(option)

    def test_warnings(self):
        self.check("-W", "error")
        self.check("-Wignore::UserWarning", "-Wdefault")
        self.check("-bb", "-Werror")

    def test_what_the_environment_says_is_not_said_twice(self):
        self.check("-Werror", PYTHONWARNINGS="ignore::UserWarning,default", PYTHONOPTIMIZE="1")
        self.check("-E", "-Werror", PYTHONWARNINGS="ignore")

    def test_warnings_set_at_run_time_go_too(self):
        before = sys.warnoptions[:]
        sys.warnoptions.append("error::FutureWarning")
        try:
            self.assertIn("-Werror::FutureWarning", boot.options())
            del sys.warnoptions[:]
            self.assertEqual([], [option for option in boot.options() if option.startswith("-W")])
        finally:
            sys.warnoptions[:] = before

    @unittest.skipIf(PY2, "options of Python 3")
    def test_options_of_python_3(self):
        for option in ["-I", "-q", "-Xdev", "-Xutf8", "-Xfaulthandler", "-Xcpu_count=3", "-Xmine=a b"]:
            if option != "-Xcpu_count=3" or sys.version_info >= (3, 13):
                self.check(option)

    @unittest.skipIf(sys.version_info < (3, 11), "-P came with 3.11")
    def test_safe_path(self):
        self.check("-P")

    @unittest.skipUnless(PY2, "options of Python 2")
    def test_options_of_python_2(self):
        for option in ["-3", "-R", "-t", "-tt", "-Qnew", "-Qwarn", "-Qwarnall"]:
            self.check(option)

    def test_worker_processes_get_them(self):
        script = MASTER % ("pass", "sys.flags.optimize, sys.warnoptions")
        told = output_of([sys.executable, "-O", "-Werror::UserWarning", "-c", script])
        self.assertEqual("(1, ['error::UserWarning'])", told.strip())


class Places(unittest.TestCase):
    """Whatever lies where the new interpreter looks for modules."""

    def setUp(self):
        self.folder = os.path.realpath(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        for name in STANDARD:
            with open(os.path.join(self.folder, name + ".py"), "w") as file:
                file.write("raise SystemError('the user has this module')\n")

    def run_script(self, before="pass", returned="abs(-x)", python=sys.executable, **named):
        path = os.path.join(tempfile.mkdtemp(), "script.py")
        self.addCleanup(shutil.rmtree, os.path.dirname(path))
        with open(path, "w") as file:
            file.write(MASTER % (before, returned))
        return output_of([python, path], **named).strip()

    def test_standard_names_in_the_current_folder(self):
        self.assertEqual("1", self.run_script(cwd=self.folder))

    def test_standard_names_beside_the_package(self):
        shutil.copytree(os.path.join(support.ROOT, "minimalcluster"), os.path.join(self.folder, "minimalcluster"))
        before = "assert sys.modules['minimalcluster'].__file__.startswith(%r), minimalcluster" % self.folder
        code = (MASTER % (before, "abs(-x)")).replace(repr(support.ROOT), repr(self.folder))
        self.assertEqual("1", output_of([sys.executable, "-c", code], cwd="/").strip())

    def test_standard_names_in_a_folder_that_the_environment_names_by_then(self):
        self.assertEqual("1", self.run_script("os.environ['PYTHONPATH'] = %r" % self.folder, python=_PLAIN))

    def test_another_package_of_our_name(self):
        os.mkdir(os.path.join(self.folder, "minimalcluster"))
        with open(os.path.join(self.folder, "minimalcluster", "__init__.py"), "w") as file:
            file.write("raise SystemError('an older one')\n")
        before = "os.environ['PYTHONPATH'] = %r" % self.folder
        self.assertEqual("1", self.run_script(before, python=_PLAIN, cwd=self.folder))

    def test_afterwards_the_path_is_what_the_program_has(self):
        returned = "sys.path, os.getcwd()"
        before = "here = repr((sys.path, os.getcwd())); print(here)"
        here, there = self.run_script(before, returned, cwd=self.folder).splitlines()
        self.assertEqual(here, there)

    def test_the_guardian_starts_there_too(self):
        before = os.environ.get("PYTHONPATH"), os.getcwd()
        os.environ["PYTHONPATH"] = self.folder
        try:
            process = guardian.start(os.urandom(16))
            self.addCleanup(process.stdin.close)
            self.assertTrue(guardian.has_forked(process))  # it has forked: it is up
        finally:
            os.environ.pop("PYTHONPATH")
            os.environ.update({"PYTHONPATH": before[0]} if before[0] else {})


class Paths(unittest.TestCase):
    def setUp(self):
        before = sys.path[:]
        self.addCleanup(lambda: sys.path.__setitem__(slice(None), before))

    def told(self, *entries):
        sys.path[:] = entries
        told = json.loads(json.dumps(boot.search_paths()))
        boot.use_paths(told)
        return sys.path

    def test_text_arrives_as_it_is(self):
        odd = "/a/\xff\xe9" if PY2 else "/a/\udcff\xe9"
        self.assertEqual(["/x y", odd], self.told("/x y", odd))

    def test_the_folder_in_which_the_program_was_started(self):
        self.assertEqual([boot._FOLDER, "/x"], self.told("", "/x"))

    def test_what_python_does_not_import_from_is_left_out(self):
        class Odd(object):
            def __repr__(self):
                raise ValueError("no text")

        self.assertEqual(["/x"], self.told(None, 5, Odd(), ["/y"], "/x"))

    @unittest.skipIf(PY2, "2.7 has no pathlib")
    def test_a_path_object(self):
        import pathlib

        self.assertEqual(["/x"], self.told(pathlib.Path("/y"), "/x"))

    def test_the_other_kind_of_text(self):
        self.assertEqual(["/x"], self.told(u"/x" if PY2 else b"/x"))


class Executables(unittest.TestCase):
    """An interpreter that is not there is one sentence at once, not a node that tries for ever."""

    def setUp(self):
        self.addCleanup(setattr, sys, "executable", sys.executable)
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def check(self, executable, *words):
        sys.executable = executable
        error = support.mistake(boot.executable)
        self.assertIsInstance(error, StartError)
        for word in ("sys.executable",) + words:
            self.assertIn(word, str(error))
        self.assertIsInstance(support.mistake(WorkerNode("127.0.0.1", 1, "k", 1).join_cluster), StartError)
        master = MasterNode("127.0.0.1", 0)
        self.assertIsInstance(support.mistake(master.start_master_server), StartError)
        master.shutdown()

    def test_an_embedded_python_has_none(self):
        self.check(None, "None", "embeds")
        self.check("", "''", "embeds")

    def test_one_that_is_not_there(self):
        self.check("/nowhere/python", "/nowhere/python", "is not there")

    def test_one_that_cannot_be_executed(self):
        path = os.path.join(self.folder, "python")
        open(path, "w").close()
        self.check(path, path, "cannot be executed")
        self.check(self.folder, self.folder, "cannot be executed")

    def test_a_frozen_program_would_run_itself(self):
        sys.frozen = True
        self.addCleanup(delattr, sys, "frozen")
        self.check(sys.executable, "frozen")

    @unittest.skipIf(PY2, "2.7 has no pathlib")
    def test_a_path_object_is_fine(self):
        import pathlib

        before = sys.executable
        sys.executable = pathlib.Path(before)
        self.assertEqual(before, boot.executable())


if __name__ == "__main__":
    unittest.main()

"""The running script: its guard, what pickles name of it, and what its functions find in a worker process."""
from __future__ import absolute_import, division, print_function

import os
import pickle
import py_compile
import subprocess
import sys
import unittest
import zipfile

from minimalcluster.payload import script
from minimalcluster.compat import PICKLE_PROTOCOL, PY2
from tests import support

ran = []

GUARDED = """
x = 1
if __name__ == "__main__":
    here = 4
    with open("x"):
        here = 6
else:
    there = 8
if "__main__" != __name__:
    there = 10
elif x:
    here = 12
try:
    if x and __name__ == "__main__":
        here = 15
finally:
    there = 17
if __name__.endswith("main__") and __name__[2] == "m":  # the other name ends in it, too
    unknown = 19
while __name__ in ("__main__",):
    here = 21
"""


class Guard(unittest.TestCase):
    def test_which_lines_run_elsewhere_too(self):
        found = script.Script("script.py", GUARDED.encode("ascii"))
        for number, line in enumerate(GUARDED.splitlines(), 1):
            if line.startswith("    ") and "with" not in line:
                self.assertIs(" here" not in line, found.runs_elsewhere(number), "%d: %s" % (number, line))

    def test_one_that_cannot_be_parsed(self):
        self.assertFalse(script.Script("script.py", b"x = = 1\n").runs_elsewhere(1))

    def test_what_it_hides_is_no_part_of_what_others_run(self):
        left = script.Script("script.py", GUARDED.encode("ascii")).without_guarded().decode("ascii")
        self.assertNotIn("here = 4", left)
        for kept in ("x = 1", "there = 8", "there = 10"):
            self.assertIn(kept, left)

    def test_which_names_others_find(self):
        found = script.Script("script.py", GUARDED.encode("ascii") + b"import os.path as p, sys\ndef f():\n    global g\n")
        for name in ("x", "there", "unknown", "p", "sys", "f", "g", "never_seen"):
            self.assertTrue(found.defines([name]), name)
        self.assertFalse(found.defines(["x", "here"]))
        with support.patched(script, "is_interactive", lambda: True):  # it may have been typed in
            self.assertFalse(found.defines(["never_seen"]))


class Names(unittest.TestCase):
    """What a pickle takes from ``__main__``."""

    def setUp(self):
        support.keep_main(self)
        self.folder = support.directory_for(self)
        self.main = support.be_script("class P(object): pass\ndef f(): pass\n", self.folder)

    def test_its_functions_and_classes(self):
        main = self.main
        for value, names in ((main.P, {"P"}), (main.P(), {"P"}), ([main.f, main.P], {"P", "f"}), (["__main__", main.P], {"P"})):
            data = pickle.dumps(value, PICKLE_PROTOCOL)
            self.assertEqual(names, script.names_in(data))
            self.assertTrue(script.may_be_named_in(data))

    def test_a_quick_look_is_never_wrong_about_what_is_hidden(self):
        support.be_script("class P(object): pass\nif __name__ == '__main__':\n    def hidden(): pass\n", self.folder)
        sys.modules["__main__"].hidden = hidden = type("hidden", (object,), {"__module__": "__main__"})
        found, P = script.known(), sys.modules["__main__"].P
        for value, sure in ((P, True), ([P, 1], True), (hidden, False), ([P, hidden], False), ([P(), [hidden()]], False)):
            self.assertEqual(sure, found.surely_defines(pickle.dumps(value, PICKLE_PROTOCOL)))

    def test_data_that_looks_like_them(self):
        inner = pickle.dumps(self.main.P, PICKLE_PROTOCOL)
        for value in ("__main__", u"__main__", inner, {"__main__": [1]}, "if __name__ == '__main__':\n", os.path.join):
            self.assertEqual(set(), script.names_in(pickle.dumps(value, PICKLE_PROTOCOL)))


class Run(unittest.TestCase):
    def setUp(self):
        support.keep_main(self)
        del ran[:]

    def run_script(self, text, needed=True, **info):
        found = script.Script("/somewhere/script.py", text.encode("ascii"), argv=["script.py", "-v"])
        script.run(dict(found.described(), **info), support.serve_script(text), needed)

    def test_its_guard_stays_closed(self):
        self.run_script("import sys\nhere = __name__\nwhere = __file__\ntold = list(sys.argv)\nif __name__ == '__main__':\n    raise ValueError\n")
        main = sys.modules["__main__"]
        self.assertEqual((script.MAIN_NAME, "/somewhere/script.py"), (main.here, main.where))
        self.assertEqual(["script.py", "-v"], main.told)

    def test_it_runs_once(self):
        for needed in (False, True, True):
            self.run_script("import tests.payload.test_script as t\nt.ran.append(1)\n", needed)
        self.assertEqual([1], ran)

    def test_another_one_takes_its_place(self):
        self.run_script("x = 1\n")
        self.run_script("x = 2\n")
        self.assertEqual(2, sys.modules["__main__"].x)

    def test_one_that_raises_is_run_again_when_it_is_needed(self):
        before = sys.modules["__main__"]
        for _ in range(2):
            self.assertRaises(ZeroDivisionError, self.run_script, "import tests.payload.test_script as t\nt.ran.append(1)\n1 // 0\n")
        self.assertEqual([1, 1], ran)
        self.assertNotIn(script.MAIN_NAME, sys.modules)
        self.assertIs(before, sys.modules["__main__"])

    def test_one_that_raises_and_is_not_needed_is_tried_once(self):
        with support.quiet_stderr() as said:
            for _ in range(2):
                self.run_script("import tests.payload.test_script as t\nt.ran.append(1)\n1 // 0\n", needed=False)
        self.assertEqual([1], ran)
        self.assertIn("ZeroDivisionError", said.getvalue())

    def test_one_that_raises_leaves_no_module_that_it_has_not_filled(self):
        text = "import sys, types\nmade = sys.modules['sc_plugin'] = types.ModuleType('sc_plugin')\nmade.__file__ = '/mine/sc_plugin.py'\n"
        self.addCleanup(sys.modules.pop, "sc_plugin", None)
        self.run_script(text)
        self.assertIn("sc_plugin", sys.modules)
        del sys.modules["sc_plugin"]
        self.assertRaises(ZeroDivisionError, self.run_script, text + "1 // 0\n")
        self.assertNotIn("sc_plugin", sys.modules)  # its next import asks the master

    def test_imports_with_a_dot(self):
        self.run_script("from .payload.script import MAIN_NAME as found\n", main_module="minimalcluster.app")
        self.assertEqual(script.MAIN_NAME, sys.modules["__main__"].found)

    def test_no_cluster_while_it_loads(self):
        script.starts_a_cluster()
        text = "from minimalcluster.payload import script\nscript.starts_a_cluster()\n"
        with self.assertRaises(RuntimeError) as caught:
            self.run_script(text)
        self.assertIn("if __name__ == '__main__':", str(caught.exception))
        self.assertIn("/somewhere/script.py", str(caught.exception))
        script.starts_a_cluster()
        # Its functions may, later.
        self.run_script(text.replace("script.starts", "def later(): script.starts"))
        sys.modules["__main__"].later()

    def test_a_nested_master_sends_it_on(self):
        self.run_script("def f(x):\n    return x\n")
        found = script.known()
        self.assertEqual(("/somewhere/script.py", b"def f(x):\n    return x\n"), (found.path, found.data))
        self.assertEqual(["script.py", "-v"], found.described()["argv"])


#: In front of a script: as if cloudpickle were not installed, in it and in its worker processes.
_NO_CLOUDPICKLE = "import sys\nsys.modules['cloudpickle'] = None\n"

#: What a program of the standard library finds under the start method spawn.
_STATE = """
import decimal, functools, pickle, random, threading, sys
from minimalcluster import ClusterExecutor, Pool, MasterNode

decimal.getcontext().prec = 50
lock, cache, setting, rng = threading.Lock(), {}, None, random.Random()


class Point(object):
    made = 0
    __slots__ = ("x",)
    def __init__(self, x):
        self.x = x


def prepare(value):
    global setting
    setting = value


@functools.lru_cache(None)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def look(x):
    with lock:
        known = x in cache
        cache[x] = Point(x)
        return setting, known, rng.random(), str(decimal.Decimal(1) / 7)


def copied(point):
    return pickle.loads(pickle.dumps(point))


def given(_):
    return fib


def count(point):
    point.__class__.made += 1
    return point


if __name__ == "__main__":
    Point.made = 7
    with ClusterExecutor(1, initializer=prepare, initargs=("set",)) as ex, Pool(1, prepare, ("set",)) as pool:
        looks = [ex.submit(look, 1).result(), ex.submit(look, 1).result()]
        looks += list(ex.map(look, [1, 2])) + pool.map(look, [5, 5]) + [pool.apply(look, (5,))]
        print([each[:2] for each in looks])
        print(len({each[2] for each in looks}), {each[3] for each in looks})
        print(ex.submit(fib, 30).result(), list(ex.map(fib, [30])), pool.map(fib, [30]))
        print(ex.submit(copied, Point(3)).result().x, type(pool.apply(copied, (Point(1),))) is Point)
        print(ex.submit(given, 0).result() is fib, list(map(type, ex.map(count, [Point(1)]))) == [Point], Point.made)
        print(list(ex.map(str, ["-", Point])), list(ex.map(len, [[Point(1)], "ab", [given]])))
        shared = ex.share({"p": Point(4)})
        print(ex.submit(lambda_or_function, shared).result())
    with MasterNode(PORT=0) as master:
        master.start_master_server()
        print(master.map(copied, [Point(1)])[0].x, [type(p) for p in master.map(type, [Point(1), 2])] == [type, type])
        master.load_envir("f = lambda p: p.x", from_file=False)
        master.register_target_function("f")
        points = [Point(2), Point(3)]
        master.load_args(points)
        print([master.execute()[p] for p in points])
"""
_MULTIPROCESSING = """
import concurrent.futures, multiprocessing
from minimalcluster import ClusterExecutor, Pool
class Own(object):
    def __init__(self, x): self.x = x
    def __repr__(self): return "Own(%d)" % self.x
def square(x): return x * x
def nested(numbers):
    with multiprocessing.get_context("spawn").Pool(1) as pool: return pool.map(square, numbers)
def nested_executor(x):
    with concurrent.futures.ProcessPoolExecutor(1) as executor: return executor.submit(Own, x).result()
def makes_a_cluster():
    with Pool(1) as pool: print(pool.map(square, [5, 6]), flush=True)
if __name__ == "__main__":
    with ClusterExecutor(1) as executor:
        print(list(executor.map(nested, [[1, 2], [3, 4]])))
        print(list(executor.map(nested_executor, [3])), flush=True)
    process = multiprocessing.get_context("spawn").Process(target=makes_a_cluster)
    process.start()
    process.join()
"""
_STATE_FINDS = """[('set', False), ('set', True), ('set', True), ('set', False), ('set', False), ('set', True), ('set', True)]
7 {'0.14285714285714285714285714285714285714285714285714'}
832040 [832040] [832040]
3 True
True True 7
['-', "<class '__main__.Point'>"] [1, 2, 1]
4
1 True
[2, 3]
"""


@unittest.skipIf(PY2, "the faces are for Python 3")
class Programs(unittest.TestCase):
    """Whole programs, with cloudpickle (where it is installed) and without."""

    def setUp(self):
        self.folder = support.directory_for(self)

    def output(self, command, cwd=None):
        environment = dict(os.environ, PYTHONPATH=support.ROOT, PWD=cwd or self.folder)  # as a shell's
        process = subprocess.Popen(
            [sys.executable] + command, cwd=cwd or self.folder, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, stdin=subprocess.PIPE,
        )  # fmt: skip
        self.addCleanup(process.kill)
        out, err = process.communicate(b"", **({} if PY2 else {"timeout": 60}))
        return out.decode("utf-8"), err.decode("utf-8")

    def script(self, text, name="program.py"):
        return support.write(os.path.join(self.folder, *name.split("/")), text)

    def test_its_functions_run_in_its_module(self):
        with_lambda = _STATE.replace("lambda_or_function", "lambda d: d['p'].x")
        without = _NO_CLOUDPICKLE + _STATE.replace("lambda_or_function", "first").replace("if __", "def first(d): return d['p'].x\nif __", 1)
        for text in [without] + [with_lambda] * _has_cloudpickle():
            out, err = self.output([self.script(text)])
            self.assertEqual(_STATE_FINDS, out.replace(script.MAIN_NAME, "__main__"), err)

    def test_what_stands_behind_the_guard(self):
        """By value with cloudpickle; without it a sentence. (Under spawn: AttributeError in the worker process.)"""
        text = _SQUARES.replace("    with Cl", "    def late(x): return square(x) + 1\n    with Cl").replace("map(square", "map(late")
        out, err = self.output([self.script(_NO_CLOUDPICKLE + text)])
        self.assertIn("late stands behind  if __name__ == '__main__':", err)
        if _has_cloudpickle():
            self.assertEqual("[2, 5]\n", self.output([self.script(text)])[0])

    def test_what_is_set_behind_the_guard(self):
        """As under spawn a NameError, but one that says why."""
        text = _SQUARES.replace("x * x", "x * factor").replace("'__main__':\n", "'__main__':\n    factor = 2\n")
        for front in [_NO_CLOUDPICKLE] + [""] * _has_cloudpickle():
            err = self.output([self.script(front + text)])[1]
            self.assertIn("NameError: name 'factor' is not defined: ", err)
            self.assertIn("give it to the function as an argument", err)

    def test_lambdas_and_closures_name_the_scripts_own(self):
        if not _has_cloudpickle():
            self.skipTest("cloudpickle is not installed")
        out, err = self.output([self.script(_LAMBDAS)])
        self.assertEqual("[1, 2, 3]\nTrue True True\n[4, 5]\n[[10], [(20, 4)], [11], [(21, 5)], [12], [(22, 6)]]\n", out, err)

    def test_processes_of_multiprocessing_find_its_functions(self):
        """In a task, whether the script has imported multiprocessing or not; and such a process may make a cluster."""
        for front in [_NO_CLOUDPICKLE] + [""] * _has_cloudpickle():
            out, err = self.output([self.script(front + _MULTIPROCESSING)])
            self.assertEqual("[[1, 4], [9, 16]]\n[Own(3)]\n[25, 36]\n", out, err)

    def test_settings_hold_for_functions_of_modules_too(self):
        self.script("import decimal\ndef third(_):\n    return str(decimal.Decimal(1) / 3)\n", "lib_of_test.py")
        text = (
            "import decimal, lib_of_test\nfrom minimalcluster import ClusterExecutor\ndecimal.getcontext().prec = 5\n"
            "if __name__ == '__main__':\n    with ClusterExecutor(1) as ex: print(list(ex.map(lib_of_test.third, [1])))\n"
        )
        out, err = self.output([self.script(text)])
        self.assertEqual("['0.33333']\n", out, err)

    def test_no_guard(self):
        """By value with cloudpickle; without it a sentence, and nothing starts anew."""
        text = "from minimalcluster import ClusterExecutor\nprint('begins', flush=True)\nfactor = 10\ndef f(x): return x * factor\n"
        text += "with ClusterExecutor(1) as ex:\n    print(list(ex.map(abs, [-1])), flush=True)\n    print(ex.submit(f, 1).result())\n"
        out, err = self.output([self.script(_NO_CLOUDPICKLE + text)])
        self.assertEqual("begins\n[1]\n", out)
        self.assertIn("in line 7, outside of  if __name__ == '__main__':", err)
        if _has_cloudpickle():
            self.assertEqual("begins\n[1]\n10\n", self.output([self.script(text)])[0])

    def test_as_a_module_of_a_package(self):
        os.mkdir(os.path.join(self.folder, "shop"))
        self.script("", "shop/__init__.py")
        self.script("def square(x): return x * x\n", "shop/sums.py")
        text = "from . import sums\n" + _SQUARES.replace("x * x", "sums.square(x)")
        self.script(text, "shop/__main__.py")
        self.script(text, "shop/main.py")
        for command in (["-m", "shop"], ["-m", "shop.main"]):
            self.assertEqual("[1, 4]\n", self.output(command)[0])

    def test_in_an_archive_and_as_code(self):
        path = os.path.join(self.folder, "program.pyz")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("__main__.py", _SQUARES.replace("x * x", "sums.square(x)").replace("import sys", "import sys, sums"))
            archive.writestr("sums.py", "def square(x): return x * x\n")
        self.assertEqual("[1, 4]\n", self.output([path])[0])
        code = py_compile.compile(self.script(_SQUARES), os.path.join(self.folder, "other.pyc"))
        os.remove(os.path.join(self.folder, "program.py"))
        self.assertEqual("[1, 4]\n", self.output([code])[0])

    def test_from_another_folder_and_saved_meanwhile(self):
        os.mkdir(os.path.join(self.folder, "data"))
        self.script(_SQUARES.replace("x * x", "'another'"), "data/program.py")
        gone = "    import os\n    os.chdir('data')\n"
        self.script(_SQUARES.replace("'__main__':\n", "'__main__':\n" + gone))
        self.assertEqual("[1, 4]\n", self.output(["program.py"])[0])
        first = _SQUARES.replace("import sys\n", "import os, sys\nif __name__ == '__main__': os.chdir('data')\n")
        self.script(first)
        self.assertEqual("[1, 4]\n", self.output(["program.py"])[0])
        saved = "    open('program.py', 'w').write('half of it (')\n"
        self.script(_SQUARES.replace("'__main__':\n", "'__main__':\n" + saved))
        self.assertEqual("[1, 4]\n", self.output(["program.py"])[0])

    def test_typed_in_behind_it(self):
        environment = dict(os.environ, PYTHONPATH=support.ROOT)
        lines = "def typed(x): return 5\n\nex = ClusterExecutor(1)\nprint(list(ex.map(square, [3])))\nprint(list(ex.map(typed, [3])))\n"
        for text in [_NO_CLOUDPICKLE + _SQUARES] + [_SQUARES] * _has_cloudpickle():
            process = subprocess.Popen(
                [sys.executable, "-i", self.script(text)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                stdin=subprocess.PIPE,
            )  # fmt: skip
            out, err = process.communicate(lines.encode("ascii"))
            self.assertIn("[1, 4]\n[9]\n", out.decode("ascii"))
            self.assertIn("[5]\n" if text is _SQUARES else "typed in", (out + err).decode("utf-8"))

    def test_what_stands_in_sys_argv(self):
        text = "import sys, pathlib\n" + _SQUARES.replace("x * x", "sys.argv[1:]").replace(
            "'__main__':\n", "'__main__':\n    sys.argv[1:] = [pathlib.Path('p'), b'b', 7]\n"
        )
        self.assertEqual("[['p', 'b', '7'], ['p', 'b', '7']]\n", self.output([self.script(text)])[0])

    def test_a_traceback_shows_its_lines(self):
        text = _SQUARES.replace("return x * x", "return 1 / (x - x)  # this line")
        for front in [_NO_CLOUDPICKLE] + [""] * _has_cloudpickle():
            _, err = self.output([self.script(front + text)])
            self.assertIn("program.py\", line %d, in square" % (text.splitlines().index("    return 1 / (x - x)  # this line") + 1 + front.count("\n")), err)
            self.assertIn("return 1 / (x - x)  # this line", err.split("RemoteTraceback")[1])


_SQUARES = """import sys
from minimalcluster import ClusterExecutor


def square(x):
    return x * x


if __name__ == '__main__':
    with ClusterExecutor(1) as executor:
        print(list(executor.map(square, [1, 2])), flush=True)
"""

_LAMBDAS = """
from minimalcluster import ClusterExecutor
counter = []


class Point:
    pass


def note():
    counter.append(0)
    return len(counter)


if __name__ == "__main__":
    with ClusterExecutor(1) as ex:
        def inner(_):
            return note()
        print([ex.submit(lambda: note()).result(), list(ex.map(inner, [0]))[0], ex.submit(note).result()])
        made = ex.submit(lambda: Point()).result()
        kept = lambda: Point
        print(type(made) is Point, ex.submit(kept).result() is Point, ex.submit(lambda: kept).result() is kept)
        print(list(ex.map(lambda x: len(counter) + x, [1, 2])))
        found = []
        for k in range(3):
            found.append(ex.map(lambda x: x + k, [10]))
            found.append([ex.submit(lambda x: (x + k, note()), 20).result()])
        print([list(each) for each in found])
"""


def _has_cloudpickle():
    try:
        import cloudpickle  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    unittest.main()

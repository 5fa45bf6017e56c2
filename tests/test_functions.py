"""The ways a function travels: what ``pack`` makes of a value, and what ``target`` makes of a definition."""
from __future__ import absolute_import, division, print_function

import os
import sys
import threading
import types
import unittest

from minimalcluster import environment, functions, values
from minimalcluster.compat import PY2, pickle
from minimalcluster.errors import InitializerError, TargetError, UsageError
from tests import support

ran = []


def double(x):
    return 2 * x


def add(a, b=0):
    return a + b


def note(*arguments):
    ran.append(arguments)


def note_and_fail(text):
    ran.append(text)
    raise ValueError(text)


def leave():
    raise SystemExit(3)


class Holder(object):
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Stubborn(object):
    def __reduce__(self):
        raise LookupError("its own")


def views(*buffers):
    """As they arrive."""
    return [memoryview(buffer) for buffer in buffers]


def packed(value):
    found = functions.pack(value)
    return found.data


class WithoutCloudpickle(unittest.TestCase):
    """As on a machine that has only a Python; what is done to ``__main__`` is undone."""

    def setUp(self):
        self._kept = functions._cloudpickle, values.by_value, sys.modules["__main__"], sys.argv
        functions._cloudpickle = lambda: None
        values.by_value = None
        sys.modules.pop(functions.MAIN_NAME, None)
        functions._initialized.clear()
        del ran[:]

    def tearDown(self):
        functions._cloudpickle, values.by_value, sys.modules["__main__"], sys.argv = self._kept
        sys.modules.pop(functions.MAIN_NAME, None)

    def script(self, text, folder):
        """Let ``__main__`` be this script."""
        path = support.write(os.path.join(folder, "script.py"), text)
        main = types.ModuleType("__main__")
        main.__file__ = path
        sys.modules["__main__"] = main
        exec(compile(text, path, "exec"), main.__dict__)
        return main


class Pack(WithoutCloudpickle):
    def test_by_reference(self):
        for value in (double, Holder, len, {"a": [1, double]}, (add, (1,), {"b": 2}), Holder(x=1)):
            found = functions.pack(value)
            self.assertEqual(functions.NOTHING, found.needs)
            values.loads(found.data)
        self.assertEqual(({}, []), functions.requirements(functions.NOTHING))

    def test_the_pickling_raises_what_it_raises(self):
        self.assertRaises(LookupError, functions.pack, Stubborn())
        self.assertRaises(LookupError, functions.pack, [1, Holder(x=Stubborn())])

    def test_a_lambda_says_what_helps(self):
        for value in (lambda x: x, (lambda: 1, (), {}), Holder(f=lambda: 1)):
            with self.assertRaises((pickle.PicklingError, AttributeError, TypeError)) as caught:
                functions.pack(value)
            self.assertIn("cloudpickle", str(caught.exception))

    def test_what_cloudpickle_could_not_send_either_does_not_ask_for_it(self):
        with self.assertRaises(TypeError) as caught:
            functions.pack(threading.Lock())
        self.assertNotIn("cloudpickle", str(caught.exception))

    def test_the_place_of_what_cannot_travel(self):
        lock = threading.Lock()
        for value, place in (
            ((add, (1, lock), {}), "argument 1"),
            ((add, (1,), {"b": lock}), "argument b"),
            ((add, (Holder(a=1, inner=Holder(lock=lock)),), {}), "argument 0, .inner, .lock"),
            ([1, [2, lock]], "[1], [1]"),
            ({"x": {"y": lock}}, "['x'], ['y']"),
            (Holder(lock=lock), ".lock"),
        ):
            with self.assertRaises(TypeError) as caught:
                functions.pack(value)
            self.assertIn("(in %s)" % place, str(caught.exception))

    def test_main_travels_with_its_script(self):
        with support.directory() as folder:
            main = self.script("def f(x):\n    return x + 1\n", folder)
            found = functions.pack(main.f)
            self.assertEqual(functions.MAIN_SCRIPT, found.needs)
            info, buffers = functions.requirements(found.needs)
            self.assertEqual({"main": main.__file__, "argv": sys.argv}, info)
            self.assertEqual([b"def f(x):\n    return x + 1\n"], buffers)

    def test_what_the_script_made_elsewhere_is_known_here(self):
        with support.directory() as folder:
            main = self.script("class Point(object):\n    pass\n", folder)
            functions.pack(main.Point)
            # As a worker process pickles it: there the module has the other name.
            elsewhere = pickle.dumps(main.Point, 2).replace(b"__main__", functions.MAIN_NAME.encode("ascii"))
            self.assertIs(main.Point, pickle.loads(elsewhere))

    def test_no_script_no_journey(self):
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec("def f(x):\n    return x\n", main.__dict__)
        for path in (None, "<stdin>", os.path.join(os.sep, "no", "such", "file.py")):
            if path is not None:
                main.__file__ = path
            with self.assertRaises(UsageError) as caught:
                functions.pack(main.f)
            self.assertIn("pip install cloudpickle", str(caught.exception))
            self.assertIn("module", str(caught.exception))


class FakeCloudpickle(object):
    """By value, as far as a test must see it."""

    def __init__(self):
        self.sent = []

    def dumps(self, value, protocol):
        self.sent.append((value, protocol))
        return pickle.dumps("by value", 2)


class PackByValue(WithoutCloudpickle):
    def setUp(self):
        super(PackByValue, self).setUp()
        self.fake = FakeCloudpickle()
        functions._cloudpickle = lambda: self.fake

    def test_only_what_needs_it(self):
        self.assertEqual(functions.NOTHING, functions.pack(double).needs)
        self.assertEqual([], self.fake.sent)
        found = functions.pack(lambda: 1)
        self.assertEqual(functions.SAME_MINOR, found.needs)
        self.assertEqual("by value", pickle.loads(found.data))
        self.assertEqual(({"minor": "%d.%d" % sys.version_info[:2]}, []), functions.requirements(found.needs))

    def test_main_goes_by_value(self):
        with support.directory() as folder:
            main = self.script("def f(x):\n    return x\n", folder)
            self.assertEqual(functions.SAME_MINOR, functions.pack(main.f).needs)
            self.assertEqual(functions.SAME_MINOR, functions.pack((double, (main.f,), {})).needs)

    def test_its_own_failure_is_the_error(self):
        def fail(value, protocol):
            raise TypeError("not even so")

        self.fake.dumps = fail
        with self.assertRaises(TypeError) as caught:
            functions.pack(Holder(f=lambda: 1, lock=threading.Lock()))
        self.assertIn("not even so", str(caught.exception))


class Target(WithoutCloudpickle):
    def test_source(self):
        source = environment.from_text("def f(x):\n    return 3 * x\n")
        info = {
            "kind": "source", "module": source.module, "filename": source.filename, "is_text": source.is_text,
            "function": "f",
        }  # fmt: skip
        self.assertEqual(6, functions.target(info, views(source.data))(2))
        self.assertRaises(TargetError, functions.target, dict(info, function="g"), views(source.data))

    def test_function(self):
        info = {"kind": "function", "star": False}
        self.assertEqual(8, functions.target(info, views(packed(double)))(4))
        self.assertEqual(5, functions.target(dict(info, star=True), views(packed(add)))((2, 3)))

    def test_calls(self):
        run = functions.target({"kind": "calls"}, [])
        self.assertEqual([4, 5, 6], [run((double, (2,), {})), run((add, (2,), {"b": 3})), run((add, (6,), {}))])

    def test_another_minor_is_told(self):
        info = {"kind": "calls", "minor": "3.0"}
        with self.assertRaises(UsageError) as caught:
            functions.target(info, [])
        self.assertIn("Python 3.0", str(caught.exception))
        self.assertIn("%d.%d" % sys.version_info[:2], str(caught.exception))

    def test_the_same_minor_may_answer_by_value(self):
        fake = FakeCloudpickle()
        functions._cloudpickle = lambda: fake
        functions.target({"kind": "calls"}, [])
        self.assertRaises((pickle.PicklingError, AttributeError, TypeError), values.dumps_by_value, lambda: 1)
        functions.target({"kind": "calls", "minor": functions.minor()}, [])
        self.assertEqual("by value", values.loads(values.dumps_by_value(lambda: 1)))

    def test_initializer_once(self):
        data = packed((note, (1, "x")))
        for token in ("a", "a", "b"):
            functions.target({"kind": "calls", "initializer": token}, views(data))
        self.assertEqual([(1, "x")] * 2, ran)

    def test_a_failing_initializer(self):
        data = packed((note_and_fail, ("no license",)))
        for times in (1, 2):
            with self.assertRaises(InitializerError) as caught:
                functions.target({"kind": "calls", "initializer": "a"}, views(data))
            for part in ("note_and_fail", "ValueError", "no license"):
                self.assertIn(part, str(caught.exception))
            self.assertIsInstance(caught.exception.__cause__, ValueError)
            self.assertEqual(times, len(ran))
        with self.assertRaises(InitializerError):
            functions.target({"kind": "calls", "initializer": "b"}, views(packed((leave, ()))))

    def test_all_at_once(self):
        with support.directory() as folder:
            main = self.script("ready = []\ndef prepare(x): ready.append(x)\ndef f(x): return ready + [x]\n", folder)
            source = support.read(main.__file__).encode("ascii")
            info = {"kind": "function", "star": False, "main": main.__file__, "argv": ["it"], "initializer": "t"}
            data = views(source, packed((main.prepare, (1,))), packed(main.f))
            sys.modules.pop(functions.MAIN_NAME)  # as in another process
            self.assertEqual([1, 2], functions.target(info, data)(2))
            # It was not the master's own that ran.
            self.assertEqual([], main.ready)


class MainScript(WithoutCloudpickle):
    def run_script(self, text, kind="calls"):
        info = {"kind": kind, "main": "/somewhere/script.py", "argv": ["script.py", "-v"]}
        return functions.target(info, views(text.encode("ascii")))

    def test_its_guard_stays_closed(self):
        self.run_script("import sys\nhere = __name__\nwhere = __file__\ntold = list(sys.argv)\nif __name__ == '__main__':\n    raise ValueError\n")
        main = sys.modules["__main__"]
        self.assertEqual((functions.MAIN_NAME, "/somewhere/script.py"), (main.here, main.where))
        self.assertEqual(["script.py", "-v"], main.told)

    def test_it_runs_once(self):
        for _ in range(3):
            self.run_script("import tests.test_functions as t\nt.ran.append(1)\n")
        self.assertEqual([1], ran)

    def test_one_that_raises_is_run_again(self):
        for _ in range(2):
            self.assertRaises(ZeroDivisionError, self.run_script, "import tests.test_functions as t\nt.ran.append(1)\n1 // 0\n")
        self.assertEqual([1, 1], ran)
        self.assertNotIn(functions.MAIN_NAME, sys.modules)
        self.assertIs(self._kept[2], sys.modules["__main__"])

    def test_no_cluster_while_it_loads(self):
        functions.forbid_a_cluster_while_main_loads()
        text = "from minimalcluster import functions\nfunctions.forbid_a_cluster_while_main_loads()\n"
        with self.assertRaises(RuntimeError) as caught:
            self.run_script(text)
        self.assertIn("if __name__ == '__main__':", str(caught.exception))
        self.assertIn("/somewhere/script.py", str(caught.exception))
        functions.forbid_a_cluster_while_main_loads()
        # Its functions may, later.
        self.run_script(text.replace("functions.forb", "def later(): functions.forb"))
        sys.modules["__main__"].later()

    @unittest.skipIf(PY2, "classes of a worker process's script are pickled by the name 3.x gives them")
    def test_a_nested_master_sends_it_on(self):
        with support.directory() as folder:
            path = support.write(os.path.join(folder, "script.py"), "def f(x):\n    return x\n")
            functions.target({"kind": "calls", "main": path, "argv": [path]}, views(b"def f(x):\n    return x\n"))
            found = functions.pack(sys.modules["__main__"].f)
            self.assertEqual(functions.MAIN_SCRIPT, found.needs)
            self.assertEqual(path, functions.requirements(found.needs)[0]["main"])


if __name__ == "__main__":
    unittest.main()

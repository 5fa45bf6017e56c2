"""The ways a function travels: what ``pack`` makes of a value, and what ``target`` makes of a definition."""
from __future__ import absolute_import, division, print_function

import functools as standard
import math
import os
import sys
import threading
import types
import unittest

from minimalcluster.payload import by_value, environment, functions, script, values
from minimalcluster.compat import PICKLE_PROTOCOL, pickle
from minimalcluster.errors import InitializerError, SourceError, TargetError, UsageError
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

    def count(self, *more):
        return len(self.__dict__) + len(more)

    @classmethod
    def made(cls):
        return cls()


def pop(stack):
    """As many as were left."""
    return len([stack.pop() for _ in stack[:]])


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
        support.keep_main(self)
        self._kept = functions._cloudpickle, values.by_value, functions.by_value
        functions._cloudpickle = lambda: None
        values.by_value = None
        functions._initialized.clear()
        del ran[:]

    def tearDown(self):
        functions._cloudpickle, values.by_value, functions.by_value = self._kept

    def script(self, text, folder):
        return support.be_script(text, folder)


class Pack(WithoutCloudpickle):
    def test_by_reference(self):
        for value in (double, Holder, len, {"a": [1, double]}, (add, (1,), {"b": 2}), Holder(x=1)):
            found = functions.pack(value)
            self.assertEqual(functions.NOTHING, found.needs)
            values.loads(found.data)
        self.assertEqual({}, functions.requirements(functions.NOTHING))

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

    def test_what_goes_by_its_name_has_no_parts(self):
        function = eval("lambda: lock", {"lock": threading.Lock(), "__name__": __name__})
        for value in (function, type(str("Local"), (object,), {"lock": threading.Lock()})):
            with self.assertRaises((pickle.PicklingError, AttributeError)) as caught:
                functions.pack((add, (value,), {}))
            self.assertIn(" (in argument 0)", str(caught.exception))

    def test_what_the_script_has_travels_by_its_name(self):
        with support.directory() as folder:
            main = self.script("def f(x):\n    return x + 1\n", folder)
            found = functions.pack(main.f)
            self.assertEqual(functions.SCRIPT, found.needs)
            info = functions.requirements(found.needs)
            digest = script.known().digest
            self.assertEqual({"main": main.__file__, "main_digest": digest, "argv": sys.argv, "needs": "s"}, info)
            self.assertEqual(b"def f(x):\n    return x + 1\n", script.known().data)

    def test_the_script_comes_also_where_nothing_names_it(self):
        with support.directory() as folder:
            main = self.script("x = 1\n", folder)
            self.assertEqual(main.__file__, functions.requirements(functions.NOTHING)["main"])
            self.assertEqual({}, functions.requirements(functions.NOTHING, with_script=False))

    def test_what_the_script_made_elsewhere_is_known_here(self):
        with support.directory() as folder:
            main = self.script("class Point(object):\n    pass\n", folder)
            functions.pack(main.Point)
            # As a worker process pickles it: there the module has the other name.
            elsewhere = pickle.dumps(main.Point, 2).replace(b"__main__", script.MAIN_NAME.encode("ascii"))
            self.assertIs(main.Point, pickle.loads(elsewhere))

    def test_texts_are_no_names(self):
        self.no_script()
        pickled = pickle.dumps(sys.modules["__main__"].f, PICKLE_PROTOCOL)
        for value in ("__main__", ["if __name__ == '__main__':", u"__main__"], b"c__main__\nf\n", pickled, {"__main__": 1}):
            self.assertEqual(functions.NOTHING, functions.pack(value).needs)

    def test_no_script_no_journey(self):
        main = self.no_script()
        for path in (None, "<stdin>", os.path.join(os.sep, "no", "such", "file.py")):
            if path is not None:
                main.__file__ = path
            for value in (main.f, [main.f], ["__main__", main.f], (double, (main.f,), {})):
                with self.assertRaises(UsageError) as caught:
                    functions.pack(value)
                self.assertIn("pip install cloudpickle", str(caught.exception))
                self.assertIn("module", str(caught.exception))

    def no_script(self):
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        script._script = None
        exec("def f(x):\n    return x\n", main.__dict__)
        return main


class FakeByValue(object):
    """by_value.py with a cloudpickle that pickles everything as a text, or raises."""

    def __init__(self):
        self.sent, self.error = [], None

    plain = staticmethod(by_value.plain)

    def dump(self, cloudpickle, value, with_script=True, buffers=None):
        self.sent.append(value)
        if self.error is not None:
            raise self.error
        return by_value.Pickled(pickle.dumps("by value", 2), False, True)

    def dumper(self, cloudpickle):
        return lambda value: self.dump(cloudpickle, value).data


class PackByValue(WithoutCloudpickle):
    def setUp(self):
        super(PackByValue, self).setUp()
        functions._cloudpickle = object
        functions.by_value = self.fake = FakeByValue()

    def test_only_what_needs_it(self):
        self.assertEqual(functions.NOTHING, functions.pack(double).needs)
        self.assertEqual([], self.fake.sent)
        found = functions.pack(lambda: 1)
        self.assertEqual(functions.SAME_MINOR, found.needs)
        self.assertEqual("by value", pickle.loads(found.data))
        told = "v%d.%d" % sys.version_info[:2]
        self.assertEqual(told, functions.requirements(found.needs)["needs"])

    def test_what_the_script_has_travels_by_its_name(self):
        with support.directory() as folder:
            main = self.script("def f(x):\n    return x\n", folder)
            for value in (main.f, (double, (main.f,), {})):
                self.assertEqual(functions.SCRIPT, functions.pack(value).needs)
            # An engine's worker process may not run the script.
            self.assertEqual(functions.SAME_MINOR, functions.pack(main.f, with_script=False).needs)

    def test_a_script_without_its_guard_goes_by_value(self):
        with support.directory() as folder:
            main = self.script("def f(x):\n    return x\n", folder)
            script._unguarded.append(3)
            self.assertEqual(functions.SAME_MINOR, functions.pack(main.f).needs)
            functions._cloudpickle = lambda: None
            with self.assertRaises(UsageError) as caught:
                functions.pack(main.f)
            self.assertIn("in line 3, outside of  if __name__ == '__main__':", str(caught.exception))

    def test_what_is_too_deep_is_not_tried_again(self):
        deep = []
        for _ in range(100000):
            deep = [deep]
        try:
            self.assertRaises(RuntimeError, functions.pack, deep)
        finally:
            while deep:  # step by step: the interpreter's own way would be too deep, too
                deep = deep.pop()
        self.assertEqual([], self.fake.sent)

    def test_its_own_failure_is_the_error_and_the_place_is_told(self):
        lock = threading.Lock()

        def held():
            return lock

        self.fake.error = TypeError("not even so")
        with self.assertRaises(TypeError) as caught:
            functions.pack((held, (), {}))
        self.assertIn("not even so", str(caught.exception))
        self.assertIn("(in the function, closure's lock)", str(caught.exception))


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

    def test_a_function_with_state_is_new_for_each_call(self):
        stack = [1]
        for state, found in ((True, [1, 1, 1]), (False, [1, 0, 0])):
            call = functions.target({"kind": "function", "star": True, "state": state}, views(packed(standard.partial(pop, stack))))
            self.assertEqual(found, [call(()) for _ in range(3)])
        self.assertEqual([1], stack)

    def test_which_functions_have_state(self):
        holder = Holder(x=[])
        partial = standard.partial
        for function in (holder, holder.count, [1].append, partial(add, [1]), partial(add, b={}), partial(partial(add, [1]), 2)):
            self.assertTrue(functions.has_state(function), function)
        for function in (double, lambda: 1, len, Holder, Holder.made, dict.fromkeys, math.sqrt, partial(add, 1, b="b")):
            self.assertFalse(functions.has_state(function), function)

    def test_calls(self):
        run = functions.target({"kind": "calls"}, [])
        self.assertEqual([4, 5, 6], [run((double, (2,), {})), run((add, (2,), {"b": 3})), run((add, (6,), {}))])

    def test_another_minor_is_told(self):
        for what in (lambda: functions.target({"kind": "calls", "needs": "v3.0"}, []), lambda: functions.prepare("sv3.0")):
            with self.assertRaises(UsageError) as caught:
                what()
            self.assertIn("Python 3.0", str(caught.exception))
            self.assertIn("%d.%d" % sys.version_info[:2], str(caught.exception))

    def test_the_same_minor_may_answer_by_value(self):
        functions._cloudpickle, functions.by_value = object, FakeByValue()
        functions.target({"kind": "calls"}, [])
        self.assertRaises((pickle.PicklingError, AttributeError, TypeError), values.dumps_by_value, lambda: 1)
        functions.target({"kind": "calls", "needs": values.with_version(functions.SAME_MINOR)}, [])
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
            info = dict(functions.requirements("s"), kind="function", star=False, initializer="t")
            data = views(packed((main.prepare, (1,))), packed(main.f))
            fetch = support.serve_script(support.read(main.__file__))
            sys.modules.pop(script.MAIN_NAME)  # as in another process
            self.assertEqual([1, 2], functions.target(info, data, fetch)(2))
            # It was not the master's own that ran.
            self.assertEqual([], main.ready)

    def test_a_script_that_cannot_run_here_fails_only_what_needs_it(self):
        info = {"kind": "calls", "main": "/somewhere/script.py", "main_digest": "d", "argv": []}
        with support.quiet_stderr() as said:
            functions.target(info, [], support.serve_script("import no_such_module\n"))
        self.assertIn("no_such_module", said.getvalue())
        functions.prepare("")
        for what in (lambda: functions.prepare("s"), lambda: sys.modules["__main__"].anything):
            with self.assertRaises(SourceError) as caught:
                what()
            self.assertIn("/somewhere/script.py", str(caught.exception))
            self.assertIn("no_such_module", str(caught.exception))


if __name__ == "__main__":
    unittest.main()

"""Pickles by value: what they name of the script, and that what comes back is what was sent."""
from __future__ import absolute_import, division, print_function

import os
import pickle
import sys
import types
import unittest

from minimalcluster.payload import by_value
from tests import support

try:
    import cloudpickle
except ImportError:
    cloudpickle = None

#: The other side: loads what it is sent, does something with it, and sends back what comes of it, by value.
_OTHER = """
import sys, struct
from minimalcluster.payload import by_value, script
import cloudpickle, pickle
stream_in, stream_out = sys.stdin.buffer, sys.stdout.buffer
def read():
    head = stream_in.read(4)
    return stream_in.read(struct.unpack(">I", head)[0]) if head else None
source = read()
if source:
    about = script.Script("/there/script.py", source, argv=[]).described()
    script.run(about, lambda what, digest: ({"found": True}, [memoryview(source)]), True)
while True:
    data = read()
    if data is None:
        break
    function, arguments = pickle.loads(data)
    answer = by_value.dump(cloudpickle, function(*arguments)).data
    stream_out.write(struct.pack(">I", len(answer)) + answer)
    stream_out.flush()
"""


class Other(object):
    """Another process, with the script's source."""

    def __init__(self, test, source=b""):
        import struct
        import subprocess

        self._struct = struct
        environment = dict(os.environ, PYTHONPATH=support.ROOT)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        test.addCleanup(self._end)
        self._write(source)

    def _end(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _write(self, data):
        self._process.stdin.write(self._struct.pack(">I", len(data)) + data)
        self._process.stdin.flush()

    def call(self, function, *arguments):
        self._write(by_value.dump(cloudpickle, (function, arguments)).data)
        (size,) = self._struct.unpack(">I", self._process.stdout.read(4))
        return pickle.loads(self._process.stdout.read(size))


def square(x):
    return x * x


@unittest.skipIf(cloudpickle is None, "cloudpickle is not installed")
class ByValue(unittest.TestCase):
    enum = __import__("enum") if sys.version_info[0] > 2 else None

    def setUp(self):
        support.keep_main(self)

    def test_what_it_says_of_a_pickle(self):
        folder = support.directory_for(self)
        main = support.be_script("def f(x):\n    return x\nclass P(object):\n    pass\n", folder)
        lambda_of_main = eval("lambda x: f(x)", main.__dict__)
        for value, names_script, is_by_value in (
            (square, False, False), (main.f, True, False), (main.P(), True, False), (lambda_of_main, True, True),
            (lambda x: x, False, True), ((square, main.f, lambda: 1), True, True), ("cloudpickle __main__", False, False),
        ):  # fmt: skip
            made = by_value.dump(cloudpickle, value)
            self.assertEqual((names_script, is_by_value), (made.names_script, made.by_value), value)
            self.assertFalse(by_value.dump(cloudpickle, value, with_script=False).names_script)

    def test_a_function_comes_back_as_itself(self):
        other = Other(self)
        shift = 3
        add = lambda x: x + shift  # noqa: E731
        back = other.call(lambda f: [f, f(1)], add)
        self.assertIs(add, back[0])
        self.assertEqual(4, back[1])
        self.assertIs(add, other.call(lambda f: {"f": f}, add)["f"])

    def test_a_class_comes_back_as_itself_and_keeps_its_attributes(self):
        other = Other(self)

        class Parcel(object):
            count = 0

            def __init__(self, x):
                self.x = x

        class Colour(self.enum.Enum):
            RED = 1

        for number in range(1, 4):
            Parcel.count = number * 10
            back = other.call(lambda parcel: [type(parcel), parcel, parcel.x + 1], Parcel(number))
            self.assertIs(Parcel, back[0])
            self.assertIs(Parcel, type(back[1]))
            self.assertEqual((number + 1, number * 10), (back[2], Parcel.count))
        self.assertIs(Colour.RED, other.call(lambda x: x, Colour.RED))

    def test_what_the_other_side_has_made(self):
        other = Other(self)

        def make(n):
            class Made(object):
                number = n

            return Made, lambda: Made.number + 1, Made()

        kind, function, instance = other.call(make, 5)
        self.assertEqual((5, 6, True), (kind.number, function(), type(instance) is kind))
        kind.number = 7
        # It goes on to others that have never seen it, and comes back from there.
        back = Other(self).call(lambda kind, function: [kind, function, kind.number], kind, function)
        self.assertEqual([kind, function], back[:2])
        self.assertEqual((7, 7), (kind.number, back[2]))

    def test_what_was_forgotten_here_is_made_anew(self):
        other = Other(self)
        back = other.call(lambda f: f, eval("lambda: 3"))
        self.assertEqual(3, back())

    def test_functions_that_name_each_other(self):
        other = Other(self)

        def even(n):
            return n == 0 or odd(n - 1)

        def odd(n):
            return n != 0 and even(n - 1)

        back = other.call(lambda f, g, n: [f, g, f(n)], even, odd, 6)
        self.assertEqual([even, odd, True], back)

    def test_a_function_with_a_cache_that_calls_itself(self):
        import functools

        @functools.lru_cache(maxsize=7)
        def fib(n):
            return n if n < 2 else fib(n - 1) + fib(n - 2)

        fib.note = "its own"
        value, size, note, back = Other(self).call(lambda f: [f(60), f.cache_info().maxsize, f.note, f], fib)
        self.assertEqual((1548008755920, 7, "its own", 0), (value, size, note, fib.cache_info().currsize))
        if sys.version_info >= (3, 9):  # before that nothing can refer weakly to such a function
            self.assertIs(fib, back)

    def test_what_annotations_name(self):
        import typing

        made_of = {"NewType": [int], "ParamSpec": [], "TypeVarTuple": [], "TypeAliasType": [list]}
        for name, more in made_of.items():
            if isinstance(getattr(typing, name, None), type):
                made = getattr(typing, name)("Local", *more)
                function = eval("lambda x: x")
                function.__annotations__ = {"x": made}
                found = Other(self).call(lambda f: (f(3), type(f.__annotations__["x"]).__name__, f.__annotations__["x"].__name__), function)
                self.assertEqual((3, name, "Local"), found)

    @unittest.skipIf(sys.version_info < (3, 8), "the pickler in Python asks nobody")
    def test_what_pickles_as_a_name_that_is_not_there(self):
        main = sys.modules["__main__"]

        class Sentinel(object):
            __module__ = "__main__"

            def __reduce__(self):
                return "MISSING"

        main.MISSING = Sentinel()
        self.addCleanup(delattr, main, "MISSING")
        with self.assertRaisesRegex(pickle.PicklingError, "it pickles as its name, __main__.MISSING"):
            by_value.dump(cloudpickle, [main.MISSING, lambda: 1], with_script=False)

    def test_it_uses_the_scripts_own_globals(self):
        source = b"seen = []\ndef note(x):\n    seen.append(x)\n    return len(seen)\nclass P(object):\n    pass\n"
        folder = support.directory_for(self)
        main = support.be_script(source.decode("ascii"), folder)
        other = Other(self, source)
        call = eval("lambda x: note(x)", main.__dict__)
        self.assertEqual([1, 2, 3], [other.call(call, 1), other.call(main.note, 1), other.call(call, 1)])
        self.assertEqual([], main.seen)
        self.assertIs(main.P, other.call(eval("lambda: P", main.__dict__)))

    def test_it_uses_the_globals_of_the_projects_modules_wherever_these_lie(self):
        class Loader(object):
            def get_source(self, name):
                return SOURCE

        SOURCE = "kept = []\ndef adder():\n    return lambda value: kept.append(value)\n"
        for name, about in (("bv_file", {"__file__": os.path.join(os.sep, "mine", "bv_file.py")}), ("bv_memory", {"__loader__": Loader()})):
            module = types.ModuleType(name)
            module.__dict__.update(about)
            exec(SOURCE, module.__dict__)
            sys.modules[name] = module
            self.addCleanup(sys.modules.pop, name)
            copy = pickle.loads(by_value.dump(cloudpickle, module.adder()).data)
            copy(1)
            self.assertEqual([1], module.kept)

    def test_what_stands_behind_the_guard_travels_as_it_is_now(self):
        text = "def f(x):\n    return x\nif __name__ == '__main__':\n    k = 1\n"
        main = support.be_script(text, support.directory_for(self))
        other = Other(self, text.encode("ascii"))
        add = eval("lambda x: f(x) + k", main.__dict__)
        main.k = 5
        self.assertEqual(7, other.call(add, 2))
        main.k = 6
        self.assertEqual(8, other.call(add, 2))


if __name__ == "__main__":
    unittest.main()

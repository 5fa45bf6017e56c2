# -*- coding: utf-8 -*-
"""The user's source as a module: whatever may be in a file, on every Python."""
from __future__ import absolute_import, division, print_function

import io
import os
import pickle
import sys
import traceback
import unittest

from minimalcluster.payload import environment
from minimalcluster.compat import PY2, text_type
from minimalcluster.errors import SourceError, TargetError
from tests import support


def loaded(text):
    return environment.load(environment.from_text(text))


def found(text, name="f"):
    return environment.find(loaded(text), name)


def forget(source):
    """As in another process, which has not loaded it yet."""
    sys.modules.pop(source.module, None)


class Base(unittest.TestCase):
    def setUp(self):
        self._before = set(sys.modules)

    def tearDown(self):
        for name in set(sys.modules) - self._before:
            if name.startswith("minimalcluster_environment_"):
                del sys.modules[name]


class Definitions(Base):
    def test_functions_and_lambdas(self):
        self.assertEqual(6, found("def f(x):\n    return x * 2")(3))
        self.assertEqual(6, found("f = lambda x: x * 2")(3))
        self.assertEqual(6, found("def outer(n):\n    def inner(x):\n        return x * n\n    return inner\nf = outer(2)")(3))

    def test_recursion(self):
        self.assertEqual(120, found("def f(n):\n    return 1 if n < 2 else n * f(n - 1)")(5))

    def test_functions_see_each_other(self):
        # What exec() into a function's locals() cannot give since PEP 667: names that are looked up later.
        text = "def f(x):\n    return g(x) + CONSTANT\ndef g(x):\n    return h(x)\nh = lambda x: x + 1\nCONSTANT = 10"
        self.assertEqual(12, found(text)(1))

    def test_it_can_be_loaded_inside_of_a_function(self):
        def inner():
            shadow = 5
            f = found("def f(x):\n    return [g(y) for y in range(x)]\ndef g(y):\n    return y * factor\nfactor = 3")
            return shadow, f(3)

        self.assertEqual((5, [0, 3, 6]), inner())

    def test_comprehensions_see_the_module(self):
        self.assertEqual([2, 4], found("k = 2\nf = lambda x: [k * n for n in x]")([1, 2]))

    def test_imports(self):
        text = "import math, os.path\nfrom functools import partial\nf = partial(math.pow, 2)"
        self.assertEqual(8.0, found(text)(3))

    def test_classes(self):
        text = "class Base(object):\n    n = 1\nclass C(Base):\n    def __init__(self, x):\n        self.x = x + self.n"
        self.assertEqual(4, found(text, "C")(3).x)

    @unittest.skipIf(sys.version_info < (3, 7), "no dataclasses there")
    def test_dataclasses_and_enums(self):
        text = "import dataclasses, enum\n@dataclasses.dataclass\nclass D:\n    x: 'int' = 1\nclass E(enum.Enum):\n    A = 1"
        module = loaded(text)
        self.assertEqual(module.D(2), pickle.loads(pickle.dumps(module.D(2))))
        self.assertIs(module.E.A, pickle.loads(pickle.dumps(module.E.A)))

    def test_names_that_shadow_builtins(self):
        text = "def list(x):\n    return 'mine'\nsum = max = lambda x: list(x)\ndef f(x):\n    return sum(x)"
        self.assertEqual("mine", found(text)([1]))
        self.assertEqual([1], list((1,)))
        self.assertEqual(3, sum((1, 2)))

    def test_state_of_the_module(self):
        f = found("calls = []\ntotal = 0\ndef f(x):\n    global total\n    total += x\n    calls.append(x)\n    return total")
        self.assertEqual([1, 3, 6], [f(1), f(2), f(3)])

    def test_a_guarded_main_part_does_not_run(self):
        module = loaded("ran = False\nif __name__ == '__main__':\n    ran = True")
        self.assertFalse(module.ran)

    def test_loading_it_again_gives_the_same_module(self):
        self.assertIs(loaded("a = object()"), loaded("a = object()"))

    def test_two_environments_with_the_same_names_never_mix(self):
        one = loaded("def f(x):\n    return g(x)\ndef g(x):\n    return 'one'\nclass C(object):\n    pass")
        two = loaded("def f(x):\n    return g(x)\ndef g(x):\n    return 'two'\nclass C(object):\n    pass")
        self.assertEqual(["one", "two", "one"], [one.f(0), two.f(0), one.f(0)])
        self.assertIsNot(one.C, two.C)
        self.assertFalse(hasattr(loaded("h = 1"), "f"))

    def test_an_instance_is_found_again_in_another_process(self):
        source = environment.from_text(
            "class C(object):\n    def __init__(self, x):\n        self.x = x\n    def twice(self):\n        return 2 * self.x"
        )
        data = pickle.dumps(environment.load(source).C(5), 2)
        forget(source)
        other = environment.load(source)
        instance = pickle.loads(data)
        self.assertIs(other.C, type(instance))
        self.assertEqual(10, instance.twice())


class Text(Base):
    def test_line_ends_of_every_system(self):
        for end in ("\n", "\r\n"):
            text = end.join(["def f(x):", "    if x:", "        return '''a", "b'''", "    return 2", "f.y = 3"])
            for tail in ("", end, end + end):
                self.assertEqual("a\nb", found(text + tail)(1))

    def test_the_future_is_the_sources_own(self):
        # This module's division must not leak into the user's.
        self.assertEqual(3 if PY2 else 3.5, found("def f(x):\n    return 7 / x")(2))
        self.assertEqual(3.5, found("'''Text.'''\nfrom __future__ import division\ndef f(x):\n    return 7 / x")(2))
        if PY2:
            self.assertEqual(1, found("def f(x):\n    print >>open('/dev/null', 'w'), x\n    return 1")(2))

    def test_text_beyond_ascii(self):
        for text in (u"f = lambda x: u'\u00e4\u4e2d' + x", u"# -*- coding: utf-8 -*-\nf = lambda x: u'\u00e4\u4e2d' + x"):
            self.assertEqual(u"\u00e4\u4e2d!", found(text)(u"!"))

    def test_a_declared_coding_of_text_does_not_count(self):
        # It was true of the file; what was read from it is text already.
        self.assertEqual(u"\u00e4", found(u"# vim: set fileencoding=latin-1 :\nf = lambda x: u'\u00e4'")(0))

    def test_bytes_in_their_declared_coding(self):
        for coding in ("latin-1", "utf-8"):
            text = u"#!/usr/bin/python\n# -*- coding: %s -*-\nf = lambda x: u'\u00e4'" % coding
            self.assertEqual(u"\u00e4", found(text.encode(coding))(0))

    def test_only_text_will_do(self):
        for wrong in (None, 5, ["def f(): pass"], loaded("")):
            self.assertRaises(TypeError, environment.from_text, wrong)

    def test_a_syntax_error_names_its_line(self):
        with self.assertRaises(SyntaxError) as caught:
            loaded("a = 1\nb = = 2\n")
        self.assertEqual(2, caught.exception.lineno)


class Files(Base):
    def in_file(self, data, function):
        with support.directory() as folder:
            path = os.path.join(folder, "work.py")
            with open(path, "wb") as file:
                file.write(data)
            return function(path)

    def test_a_file_is_a_module_that_knows_its_name(self):
        def check(path):
            module = environment.load(environment.from_file(path))
            self.assertEqual(path, module.f())

        self.in_file(b"def f():\n    return __file__", check)

    def test_codings(self):
        line = u"f = lambda: u'\u00e4'\n"
        for data in (
            b"# -*- coding: latin-1 -*-\n" + line.encode("latin-1"),
            b"# -*- coding: utf-8 -*-\r\n" + line.encode("utf-8"),
            b"\xef\xbb\xbf" + line.encode("utf-8"),
        ):
            self.assertEqual(u"\u00e4", self.in_file(data, lambda path: environment.load(environment.from_file(path)).f()))

    def test_the_path_may_be_of_any_kind(self):
        def check(path):
            kinds = [path, text_type(path)]
            if not PY2:
                import pathlib

                kinds.append(pathlib.Path(path))
            for each in kinds:
                self.assertEqual(1, environment.load(environment.from_file(each)).f())

        self.in_file(b"f = lambda: 1", check)

    def test_two_files_of_the_same_text_are_two(self):
        first = self.in_file(b"state = []", environment.from_file)
        second = self.in_file(b"state = []", environment.from_file)
        self.assertIsNot(environment.load(first), environment.load(second))

    def test_a_missing_file_is_named(self):
        with self.assertRaises(IOError) as caught:
            environment.from_file("/nowhere/work.py")
        self.assertIn("/nowhere/work.py", str(caught.exception))

    def test_a_syntax_error_names_file_and_line(self):
        def check(path):
            with self.assertRaises(SyntaxError) as caught:
                environment.load(environment.from_file(path))
            self.assertEqual((path, 3), (caught.exception.filename, caught.exception.lineno))

        self.in_file(b"a = 1\n\ndef f(:\n", check)

    def test_a_traceback_shows_its_lines_also_when_the_file_is_gone(self):
        source = self.in_file(b"def f(x):\n    return 1 // x  # here\n", environment.from_file)
        try:
            environment.load(source).f(0)
        except ZeroDivisionError:
            text = traceback.format_exc()
        self.assertIn("return 1 // x  # here", text)
        self.assertIn('%s", line 2, in f' % source.filename, text)


class Tracebacks(Base):
    def lines_shown(self, text):
        try:
            found(text)(0)
        except ZeroDivisionError:
            return traceback.format_exc()

    def test_they_show_the_lines_of_text(self):
        self.assertIn("return 1 // x  # here", self.lines_shown("\ndef f(x):\n    return 1 // x  # here"))

    def test_they_show_lines_in_any_coding(self):
        text = u"# -*- coding: latin-1 -*-\ndef f(x):\n    return 1 // x  # h\u00e4re".encode("latin-1")
        self.assertIn("return 1 // x", self.lines_shown(text))

    def test_each_environment_shows_its_own(self):
        first = found("def f(x):\n    return 1 // x  # first")
        self.assertIn("# second", self.lines_shown("def f(x):\n    return 1 // x  # second"))
        try:
            first(0)
        except ZeroDivisionError:
            self.assertIn("# first", traceback.format_exc())


class Failures(Base):
    def refused(self, text):
        source = environment.from_text(text)
        with self.assertRaises(SourceError) as caught:
            environment.load(source)
        self.assertNotIn(source.module, sys.modules)  # half of a module is none
        return caught.exception

    def test_what_it_raises_is_named_with_its_line(self):
        error = self.refused("import os\n\nx = {}['key']\n")
        self.assertIn("KeyError", str(error))
        self.assertIn("line 3", str(error))
        self.assertIsInstance(error.__cause__, KeyError)

    def test_the_line_is_its_own_also_when_a_library_raises(self):
        error = self.refused("import json\ndef g():\n    json.loads('{')\n\ng()\n")
        self.assertIn("line 3", str(error))

    def test_a_missing_module_is_named(self):
        self.assertIn("no_such_module_anywhere", str(self.refused("import no_such_module_anywhere")))

    def test_it_cannot_end_the_process(self):
        for text in ("import sys\nsys.exit(3)", "raise SystemExit", "class E(BaseException): pass\nraise E"):
            self.refused(text)

    def test_ctrl_c_is_the_users(self):
        source = environment.from_text("raise KeyboardInterrupt")
        self.assertRaises(KeyboardInterrupt, environment.load, source)
        self.assertNotIn(source.module, sys.modules)

    def test_it_can_be_tried_again(self):
        with support.directory() as folder:
            path = os.path.join(folder, "there")
            source = environment.from_text("open(%r).close()\nf = len" % path)
            self.assertRaises(SourceError, environment.load, source)
            io.open(path, "w").close()
            self.assertEqual(2, environment.load(source).f("ab"))


class Find(Base):
    TEXT = (
        "import math, functools\nNUMBER = 5\n_hidden = len\n"
        "class C(object):\n    @staticmethod\n    def s(x):\n        return x\n    def __call__(self, x):\n        return -x\n"
        "instance = C()\npartial = functools.partial(max, 3)\n"
    )

    def test_whatever_can_be_called(self):
        for name, expected in (
            ("math.sqrt", 3.0), ("C.s", 9), ("instance", -9), ("partial", 9), ("instance.s", 9), ("_hidden", TypeError)
        ):  # fmt: skip
            function = found(self.TEXT, name)
            if expected is TypeError:
                self.assertRaises(TypeError, function, 9)
            else:
                self.assertEqual(expected, function(9))

    def test_what_is_missing(self):
        for name in ("nothing", "math.nothing", "C.nothing.at.all", "", ".", "C.", "with space"):
            with self.assertRaises(TargetError) as caught:
                found(self.TEXT, name)
            self.assertIn(repr(name), str(caught.exception))
            for other in ("C", "instance", "partial"):
                self.assertIn(other, str(caught.exception))
            self.assertNotIn("NUMBER", str(caught.exception))

    def test_what_cannot_be_called(self):
        for name, kind in (("NUMBER", "int"), ("math", "module"), ("math.pi", "float")):
            with self.assertRaises(TargetError) as caught:
                found(self.TEXT, name)
            self.assertIn(kind, str(caught.exception))

    def test_an_environment_of_nothing(self):
        with self.assertRaises(TargetError) as caught:
            found("", "f")
        self.assertIn("nothing", str(caught.exception))


if __name__ == "__main__":
    unittest.main()

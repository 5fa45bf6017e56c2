"""``results="safe"``: plain values arrive, and nothing that a pickle can name runs."""
from __future__ import absolute_import, division, print_function

import collections
import datetime
import decimal
import fractions
import os
import pickle
import struct
import sys
import types
import unittest
import uuid

from minimalcluster import errors
from minimalcluster.compat import PY2, range_type
from minimalcluster.payload import safe
from minimalcluster.payload.environment import PREFIX
from tests import support

try:
    import numpy
except ImportError:
    numpy = None

WITH_NUMPY = unittest.skipIf(numpy is None, "NumPy is not installed")
PROTOCOLS = (2,) if PY2 else (2, 3, 4)


class Named(object):
    """A pickle that calls this with these arguments, and then may give the result a state."""

    def __init__(self, function, *arguments):
        self._reduced = function, arguments

    def __reduce__(self):
        return self._reduced


class Values(unittest.TestCase):
    def test_plain_values_arrive(self):
        counter = collections.Counter("abca")
        ordered = collections.OrderedDict([("b", 1), ("a", 2)])
        many = collections.defaultdict(set)
        many["x"].add(1)
        for value in (
            None, True, 10**40, -1.5, 2 + 3j, b"bytes", u"t\u00e4xt", (1, [2, {"a": set([3]), "b": frozenset([4])}]),
            datetime.datetime(2020, 1, 2, 3, 4, 5, 6), datetime.date(2020, 1, 2), datetime.time(1, 2), datetime.timedelta(5, 6),
            decimal.Decimal("1.50"), fractions.Fraction(1, 3), uuid.UUID(int=5), collections.deque([1, 2], 5), counter, ordered, many,
        ):  # fmt: skip
            for protocol in PROTOCOLS[-1:]:
                again = safe.loads(memoryview(pickle.dumps([value, value], protocol)))
                self.assertEqual([value, value], again)
                self.assertIs(type(value), type(again[0]))

    def test_exceptions_arrive(self):
        for error in (ValueError("x", 1), KeyError(u"k"), OSError(2, "no such file"), errors.ResultError("text", "value")):
            again = safe.loads(pickle.dumps(error, 2))
            self.assertIs(type(error), type(again))
            self.assertEqual(str(error), str(again))

    def test_classes_of_an_environment_arrive_and_no_other_names_of_it(self):
        module = types.ModuleType(PREFIX + "test")
        sys.modules[module.__name__] = module
        self.addCleanup(sys.modules.pop, module.__name__)
        exec("import os\nclass Point(object):\n    pass\ndef f(): pass\nfrom decimal import Context as Other", module.__dict__)
        point = module.Point()
        point.x = 5
        self.assertEqual(5, safe.loads(pickle.dumps(point, 2)).x)
        for name in ("os", "f", "Other", "nothing", "os.system", "Point.__init__"):
            self.refused(b"c" + module.__name__.encode("ascii") + b"\n" + name.encode("ascii") + b"\n.")

    def refused(self, data):
        error = support.mistake(safe.loads, data)
        self.assertIsInstance(error, errors.UnsafeResult, repr(error))
        self.assertIn("results='safe' refuses", str(error))

    def test_row_49_nothing_else_is_called(self):
        with support.directory() as folder:
            path = os.path.join(folder, "canary")
            names = [
                Named(os.mkdir, path), Named(eval, "1"), Named(getattr, "", "join"), Named(__import__, "this"), Named(open, path, "w"),
                Named(type, "X", (), {}), Named(os.system, "true"), Named(pickle.loads, b"N."), Named(super, object), Named(object),
                Named(sys.exit), Named(map, len, ()), Named(bytearray, 5), Named(str, "x"),
            ]  # fmt: skip
            for named in names:
                for protocol in PROTOCOLS:
                    self.refused(pickle.dumps(named, protocol))
                    self.refused(pickle.dumps([1, {"a": named}, decimal.Decimal(1)], protocol))
            self.assertFalse(os.path.exists(path))
            for name in (b"posix\nsystem", b"nt\nsystem", b"subprocess\nPopen", b"builtins\nexec", b"__builtin__\neval", b"numpy\nload",
                         b"numpy.core.multiarray\nfromfile", b"copyreg\n_reconstructor", b"minimalcluster.errors\nClusterError.__init__",
                         b"functools\npartial", b"operator\nattrgetter", b"collections\nnamedtuple", b"uuid\nos", b"datetime\nsys"):  # fmt: skip
                self.refused(b"c" + name + b"\n.")
                self.refused(b"(i" + name + b"\n.")

    def test_row_49_few_letters_do_not_fill_the_memory(self):
        endless = range_type(10**9)
        self.assertEqual(repr(endless), repr(safe.loads(pickle.dumps(endless, PROTOCOLS[-1]))))
        for kind in (collections.deque, collections.Counter, set, frozenset, collections.OrderedDict):
            self.refused(pickle.dumps(Named(kind, endless), PROTOCOLS[-1]))
        for number in ("1e999999999", decimal.Decimal("1e999999999")):
            self.refused(pickle.dumps(Named(fractions.Fraction, number), 2))
        module = types.ModuleType(PREFIX + "test")
        sys.modules[module.__name__] = module
        self.addCleanup(sys.modules.pop, module.__name__)
        exec("class Set(frozenset):\n    pass", module.__dict__)
        name = b"c" + module.__name__.encode("ascii") + b"\nSet\n"
        self.refused(b"\x80\x02" + name + pickle.dumps(endless, 2 if PY2 else 3)[2:-1] + b"\x85\x81.")  # NEWOBJ
        if not PY2:
            self.refused(b"\x80\x04" + name + pickle.dumps(endless, 2 if PY2 else 3)[2:-1] + b"\x85}\x92.")  # NEWOBJ_EX

    def test_row_49_what_is_registered_with_copyreg_is_refused_whatever_was_loaded_before(self):
        copyreg = __import__("copy_reg" if PY2 else "copyreg")
        copyreg.add_extension("posixpath", "join", 200)
        self.addCleanup(copyreg.remove_extension, "posixpath", "join", 200)
        pickle.loads(b"\x80\x02\x82\xc8.")  # now it is in the cache
        for opcode in (b"\x82\xc8", b"\x83\xc8\x00", b"\x84\xc8\x00\x00\x00"):
            self.refused(b"\x80\x02" + opcode + b".")

    def test_row_49_odd_pickles_are_errors(self):
        """By hand: stack and memo that are not there, lengths that lie, other ways to name and to call things."""
        for data in (
            b"", b".", b"\0", b"\x80\xff.", b"\x80\x020.", b"\x80\x021.", b"\x80\x02R.", b"\x80\x02b.", b"\x80\x02NNs.", b"\x80\x02N(Ne.", b"Pname\n.", b"\x80\x02NQ.",
            b"\x80\x02\x82\x01.", b"\x80\x02h\x05.", b"\x80\x02j\xff\xff\xff\x7f.", b"\x80\x02\x8b\xff\xff\xff\xff.", b"\x80\x02\x8b\xff\xff\xff\x7fx.",
            b"(N" + b"iposix\nsystem\n.", b"(cposix\nsystem\nNo.", b"\x80\x02cbuiltins\nlist\n)\x81.",
            b"\x80\x02ccollections\ndeque\nNa.", b"\x80\x02ccollections\nCounter\nNNs.", b"\x80\x02ccollections\ndefaultdict\ncposix\nsystem\n\x85R.",
        ) + (() if PY2 else (
            b"\x80\x04\x95" + b"\xff" * 7 + b"\x7fN.", b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fN.", b"\x80\x05\x97.", b"\x80\x05N\x98.", b"\x80\x05\x96" + b"\xff" * 7 + b"\x7fN.",
            b"\x80\x04cbuiltins\nobject\n)}\x92.", b"\x80\x04\x8c\x0bcollections\x8c\x15deque.__init__.__name__\x93.",
        )):  # fmt: skip
            self.assertIsInstance(support.mistake(safe.loads, data), Exception, repr(data))

    def test_no_class_on_the_list_can_be_changed(self):
        for name in (b"collections\nCounter", b"fractions\nFraction", b"uuid\nUUID", b"minimalcluster.errors\nTaskError"):
            # BUILD with (None, {"update": None}): setattr(class, "update", None)
            self.refused(b"c" + name + b"\nN}U\x06updateNs\x86b.")
        self.assertTrue(callable(collections.Counter.update))
        for name in (b"datetime\ndate", b"collections\ndeque", b"builtins\nValueError", b"builtins\nset"):
            error = support.mistake(safe.loads, b"c" + name + b"\nN}X\x06\x00\x00\x00appendNs\x86b.")
            self.assertIsInstance(error, (TypeError, AttributeError, errors.UnsafeResult), repr(error))

    def named(self, module, name):
        return ("c%s\n%s\n" % (module, name)).encode("ascii")

    def test_row_49_a_small_pickle_does_not_become_large(self):
        """Each of these took all memory, or held the whole process for ever, or ended it."""
        builtin = "__builtin__" if PY2 else "builtins"
        numbers = self.named(builtin, "xrange" if PY2 else "range") + b"J\xff\xff\xff\x7f\x85R"
        for module, name in ((builtin, "set"), (builtin, "frozenset"), ("collections", "deque"), ("collections", "Counter")):
            self.refused(b"\x80\x02" + self.named(module, name) + numbers + b"\x85R.")
            self.refused(b"\x80\x02" + self.named(module, name) + numbers + b"\x85\x81.")
        self.refused(b"\x80\x02" + self.named(builtin, "SyntaxError") + b"U\x01x" + numbers + b"\x86R.")
        self.refused(b"\x80\x02" + self.named(builtin, "ValueError") + b")R}U\x04args" + numbers + b"sb.")
        copied = b"h\x00\x85R".join([self.named("collections", "deque")] * 1000)
        self.refused(b"\x80\x02](" + b"K\x01" * 10000 + b"eq\x00(" + copied + b"t.")
        for text in (b"1e1000000000", b"1" * 30000):
            self.refused(b"\x80\x02" + self.named("fractions", "Fraction") + b"X" + struct.pack("<I", len(text)) + text + b"\x85R.")
        self.refused(b"\x80\x02" + self.named("fractions", "Fraction") + self.named("decimal", "Decimal") + b"U\x0c1e1000000000\x85R\x85R.")
        if PROTOCOLS[-1] >= 4 and hasattr(pickle, "PickleBuffer"):
            self.refused(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.")
        self.refused(b"\x80\x02L" + b"1" * 5000 + b"L\n.")

    def test_row_49_keys_that_cannot_be_hashed_in_time_or_depth(self):
        self.refused(b"\x80\x02})" + b"\x85" * 200 + b"Ns.")
        self.refused(b"\x80\x02}(" + b")" + b"\x85" * 200 + b"Nu.")
        self.refused(b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"Ns.")
        if not PY2:
            self.refused(b"\x80\x04\x8f()" + b"\x85" * 200 + b"\x90.")
            self.refused(b"\x80\x04()" + b"\x85" * 200 + b"\x91.")
        builtin = "__builtin__" if PY2 else "builtins"
        self.refused(b"\x80\x02" + self.named(builtin, "set") + b"](" + b")" + b"\x85" * 200 + b"e\x85R.")
        self.refused(b"\x80\x02" + self.named("uuid", "UUID") + b")\x81}U\x03int)\x85sb.")

    def test_what_is_large_by_itself_arrives(self):
        many = [(number, "x" * (number % 50), (1, (2, 3))) for number in range(2000)]
        for value in (
            set(many), {each: each for each in many}, collections.deque(many), collections.Counter(many), frozenset(range(5000)), [tuple(many)] * 50,
            [ValueError("the same text" * 100)] * 2 + [ValueError(many)], fractions.Fraction(10**1000, 3), range(10**6) if not PY2 else 0,
            collections.OrderedDict((each, 1) for each in many),
        ):  # fmt: skip
            again = safe.loads(pickle.dumps(value, PROTOCOLS[-1]))
            self.assertEqual(repr(value) if isinstance(value, list) else value, repr(again) if isinstance(value, list) else again)


@WITH_NUMPY
class Arrays(unittest.TestCase):
    def test_arrays_of_plain_types_arrive(self):
        for array in (
            numpy.arange(6).reshape(2, 3), numpy.arange(6, dtype=">i2"), numpy.array(1.5), numpy.zeros((0, 3)), numpy.array([True, False]),
            numpy.array(["a", u"\u00e4bc"]), numpy.array([b"a", b"abc"]), numpy.array(["2020-01-02"], "M8[D]"), numpy.array([1, 2], "m8[ns]"),
            numpy.array([1j, 2]), numpy.asfortranarray(numpy.arange(6).reshape(2, 3)), numpy.arange(6)[::2], numpy.array([{"a": 1}, None], object),
        ):  # fmt: skip
            data = pickle.dumps([array, array], PROTOCOLS[-1])
            array = pickle.loads(data)[0]  # which may have this machine's byte order then
            for each in safe.loads(data):
                self.assertEqual((array.dtype, array.shape), (each.dtype, each.shape))
                self.assertTrue((array == each).all())
        for scalar in (numpy.float64(1.5), numpy.int8(3), numpy.bool_(True), numpy.datetime64("2020-01-02"), numpy.str_("abc"), numpy.str_("")):
            again = safe.loads(pickle.dumps(scalar, PROTOCOLS[-1]))
            self.assertEqual((scalar, type(scalar)), (again, type(again)))

    def test_row_49_arrays_that_lie_are_refused(self):
        good = numpy.arange(3)
        dtype = numpy.dtype("V8").__reduce__()
        for named in (
            numpy.zeros(2, [("a", int), ("b", object)]), Named(numpy.ndarray, (5,)), Named(numpy.dtype, "i4,i4"), Named(numpy.load, "x"),
            numpy.matrix([1]), Named(numpy.frombuffer, b"x"), numpy.ma.masked_array([1]), Named(dtype[0], *dtype[1]),
        ):  # fmt: skip
            error = support.mistake(safe.loads, pickle.dumps(named, PROTOCOLS[-1]))
            self.assertIsInstance(error, (errors.UnsafeResult, TypeError), repr(error))

        class Lying(object):
            def __init__(self, code, state):
                self._code, self._state = code, state

            def __reduce__(self):
                return numpy.dtype, (self._code, False, True), self._state

        # NumPy takes objects from beyond the end of a list that is too short.
        for shape, content in (((1000,), [1]), ((2, 2), [1]), ((-1,), [1]), ((2**33,), [1]), ((1,), [1, 2]), ([1], [1]), ((1,), b"x" * 8)):
            for state in ((1, shape, numpy.dtype("O"), False, content), (shape, numpy.dtype("O"), False, content)):
                lying = Named(numpy.arange(1).__reduce__()[0], numpy.ndarray, (0,), b"b")
                lying._reduced += (state,)
                error = support.mistake(safe.loads, pickle.dumps(lying, PROTOCOLS[-1]))
                self.assertIsInstance(error, errors.UnsafeResult, repr(error))

        honest = numpy.dtype("O").__reduce__()[2]
        self.assertEqual(63, honest[7])
        for lying in (
            Lying("O8", honest[:7] + (0,)), Lying("f8", (3, "<", None, None, None, 1 << 40, 1, 0)), Lying("f8", (3, "<", (numpy.dtype("f8"), (9,)), None, None, 72, 8, 0)),
            Lying("f8", (3, "<", None, ("a",), {"a": (numpy.dtype("f8"), 1 << 30)}, 8, 1, 0)), Lying("f8", {"a": 1}),
            Lying("S5", (3, "|", None, None, None, -1, -1, 0)), Lying("S5", (3, "|", None, None, None, 6, 1, 0)), Lying("U5", (3, "<", None, None, None, -1, -1, 8)),
            Lying("O8", honest[:1] + (">",) + honest[2:]), Lying("i8", (3, "x", None, None, None, -1, -1, 0)), Lying("i8", (1, "<", None, None, None, -1, -1, 0)),
            Lying("i8", (4, "<", None, None, None, -1, -1, 0, ({}, (b"s", 1, 1, 1)))), Lying("M8", (4, "<", None, None, None, -1, -1, 0, ({}, (b"s", 0, 1, 1)))),
            Lying("M8", (4, "<", None, None, None, -1, -1, 0, ({}, (b"s", 1, 0, 1)))), Lying("M8", (4, "<", None, None, None, -1, -1, 0, None)), Lying("M8", (3, "<", None, None, None, -1, -1, 0)),
            Lying("M8", (4, "<", None, None, None, -1, -1, 0, ({}, (b"s" * 99, 1, 1, 1)))),
        ):  # fmt: skip
            error = support.mistake(safe.loads, pickle.dumps([good, lying], PROTOCOLS[-1]))
            self.assertIsInstance(error, (errors.UnsafeResult, TypeError), repr(error))

        class LyingArray(object):
            def __init__(self, *state):
                self._state = state

            def __reduce__(self):
                return good.__reduce__()[:2] + (self._state,)

        objects, numbers = numpy.dtype("O"), numpy.dtype("i8")
        for lying in (
            LyingArray(1, (1 << 20,), objects, False, [1]), LyingArray(1, (2,), objects, False, [1, 2, 3]), LyingArray(1, (-1, -2), objects, False, [1, 2]), LyingArray(1, 2, objects, False, [1, 2]),
            LyingArray(1, (2,), objects, False, b"x" * 16), LyingArray(1, (2,), objects, False, u"x" * 16), LyingArray(1, (2,), objects, False, (1, 2)),
            LyingArray((2,), objects, False, [1, 2]), LyingArray(1, (2,), "O", False, [1, 2]), LyingArray(1, (2,), numbers, False, b"x"), LyingArray(1, (2,), numbers, False, [1, 2]),
            LyingArray(1, (-2,), numbers, False, b"x" * 16), LyingArray(1, (1 << 62, 8), numbers, False, b""), LyingArray(1, None, numbers, False, b"x" * 16),
        ):  # fmt: skip
            self.assertIsInstance(support.mistake(safe.loads, pickle.dumps([good, lying], PROTOCOLS[-1])), Exception, repr(lying._state))


if __name__ == "__main__":
    unittest.main()

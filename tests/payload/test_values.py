"""User data: every form of arguments, results that will not travel, exceptions that will not come back."""
from __future__ import absolute_import, division, print_function

import functools
import json
import sys
import threading
import traceback
import unittest
from collections import namedtuple

from minimalcluster.payload import values
from minimalcluster.compat import PY2, native, range_type
from minimalcluster.errors import ArgumentsError, RemoteError, RemoteTraceback
from tests import support

Point = namedtuple("Point", "x y")


class Celsius(float):
    """A subclass of a scalar: its pickle runs its own code."""


def fail_to_load():
    raise ValueError("made to fail")


class Unloadable(object):
    """Can be pickled, cannot be unpickled."""

    def __reduce__(self):
        return fail_to_load, ()


class Unprintable(object):
    def __repr__(self):
        raise ValueError("no repr")

    def __reduce__(self):
        raise TypeError("not me")


class TwoArguments(Exception):
    """The classic: pickles as TwoArguments(text), which its own __init__ refuses."""

    def __init__(self, code, reason):
        super(TwoArguments, self).__init__("%s: %s" % (code, reason))


class Custom(Exception):
    def __init__(self, code):
        super(Custom, self).__init__(code)
        self.code = code


class WithLock(Exception):
    def __init__(self):
        super(WithLock, self).__init__("locked")
        self.lock = threading.Lock()


class Disguised(Exception):
    def __reduce__(self):
        return str, ("I am a text",)


class Harmful(Exception):
    def __reduce__(self):
        return sys.exit, (3,)


class Frozen(Exception):
    """As a frozen dataclass: it takes no attribute."""

    def __setattr__(self, name, value):
        raise TypeError("frozen")


class WithoutText(Exception):
    def __str__(self):
        raise ValueError("no text")


class WithoutTruth(Exception):
    def __bool__(self):
        raise ValueError("neither true nor false")


class Delegating(Exception):
    """As programs write it: every unknown attribute is looked up, and what is missing is a KeyError."""

    def __init__(self, *arguments):
        super(Delegating, self).__init__(*arguments)
        self.fields = {"size": 3}

    def __getattr__(self, name):
        return self.fields[name]


class WithoutClass(Exception):
    @property
    def __class__(self):
        raise ValueError("no class")


class Unheard(BaseException):
    """No ``except Exception`` meets it."""


class Raiser(object):
    """Raises when it is unpickled."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        return throw, (self.error,)


def received(buffers):
    """As they come out of a frame: views."""
    return [memoryview(bytearray(buffer)) for buffer in buffers]


def sent(arguments, first, count):
    form = values.arguments(arguments)
    return decoded(form.encode(first, count), count)


def decoded(buffers, count):
    items, load = values.decode_arguments(received(buffers), count)
    return [load(item) if load else item for item in items]


def caught(function, *arguments):
    """The description and pickle of what function raises, made where a worker process makes it."""
    try:
        function(*arguments)
    except BaseException as error:
        info, buffers = values.encode_exception(error)
        # A description is plain data: it goes through JSON.
        return json.loads(json.dumps(info)), received(buffers)
    raise AssertionError("it did not raise")


def come_back(function, *arguments):
    return values.decode_exception(*caught(function, *arguments))


def throw(error):
    raise error


class Arguments(unittest.TestCase):
    def same(self, arguments):
        """All of them, and each part of them, arrive as they are: value and type."""
        expected = list(arguments)
        self.assertEqual(len(expected), len(values.arguments(arguments)))
        for first in range(0, len(expected), max(1, len(expected) // 3)):
            for count in (1, len(expected) // 2, len(expected) - first):
                part = expected[first : first + count]
                got = sent(arguments, first, len(part))
                self.assertEqual(part, got)
                self.assertEqual([type(each) for each in part], [type(each) for each in got])

    def test_ranges(self):
        for arguments in (
            range_type(10), range_type(5, 50, 7), range_type(10, -10, -3), range_type(3, 4), range_type(-5, 5),
            range_type(999999999999, 999999999999 + 40, 2), range_type(0, 10, 100),
        ):  # fmt: skip
            self.assertIsInstance(values.arguments(arguments), values.RangeArguments)
            self.same(arguments)

    def test_empty_ranges(self):
        for arguments in (range_type(0), range_type(5, 1), range_type(0, 10, -1)):
            self.assertEqual(0, len(values.arguments(arguments)))

    @unittest.skipIf(PY2, "xrange is for machine integers")
    def test_ranges_of_huge_numbers(self):
        self.same(range(10**30, 10**30 + 100, 7))
        self.same(range(-(10**30), -(10**30) - 100, -7))

    def test_a_chunk_of_a_range_travels_as_two_numbers(self):
        form = values.arguments(range_type(10**6))
        self.assertLess(sum(map(len, form.encode(1000, 500000))), 30)

    def test_scalars(self):
        for arguments in (
            [1, -1, 0, 2**100, -(2**100)], [0.5, float("inf"), -0.0], [True, False, 1, 0], [None], [1j, 2 + 3j],
            [u"", u"\u00e4\u4e2d\U0001f600", "text"], [b"", b"\0\xff"], (1, u"a", None, 2.5),
        ):  # fmt: skip
            self.assertIsInstance(values.arguments(arguments), values.ScalarArguments)
            self.same(arguments)
        self.assertTrue(sent([float("nan")], 0, 1)[0] != sent([float("nan")], 0, 1)[0])

    def test_objects(self):
        for arguments in (
            [(1, 2), (3, 4)], [Point(1, 2), 3], [frozenset([1]), u"a"], [Celsius(1.5), 1.5], [[1], [2]], [{"a": [1]}],
        ):  # fmt: skip
            self.assertIsInstance(values.arguments(arguments), values.ObjectArguments)
            self.same(arguments)

    def test_what_cannot_be_pickled_is_named_by_index_and_value(self):
        for bad in (lambda: 1, threading.Lock(), Unprintable(), (1, threading.Lock())):
            try:
                values.arguments([1, 2, bad, 3])
            except ArgumentsError as error:
                self.assertIn("argument 2 ", str(error))
                self.assertIn(values.shortened(bad), str(error))
            else:
                self.fail("%s was accepted" % values.shortened(bad))

    def test_what_is_too_deep_to_pickle_is_named_too(self):
        deep = []
        for _ in range(100000):
            deep = [deep]
        try:
            self.assertRaises(ArgumentsError, values.arguments, [deep])
        finally:
            while deep:  # from outside in: freeing it at once would recurse, too
                deep = deep[0]

    def test_one_that_cannot_be_unpickled_harms_no_other(self):
        form = values.arguments([(1,), Unloadable(), (3,)])
        items, load = values.decode_arguments(received(form.encode(0, 3)), 3)
        self.assertEqual((1,), load(next(items)))
        self.assertRaises(ValueError, load, next(items))
        self.assertEqual((3,), load(next(items)))
        self.assertRaises(StopIteration, next, items)


class Results(unittest.TestCase):
    def setUp(self):
        """Other tests of this process may have allowed results by value."""
        self.addCleanup(setattr, values, "by_value", values.by_value)
        values.by_value = None

    def back(self, results, skip=0):
        return values.decode_results(received(support.encoded(results)), len(results), skip)

    def test_scalars_and_objects(self):
        for results in ([1, 2.5, None, u"\u00e4", b"\xff"], [(1,), [2], Point(3, 4), 5], [], [None]):
            self.assertEqual(results, self.back(results))

    def test_some_may_be_skipped(self):
        # The master has had the first ones from another attempt.
        for results in ([1, 2, 3, 4], [(1,), (2,), (3,), (4,)]):
            for skip in range(5):
                self.assertEqual(results[skip:], self.back(results, skip))

    def test_one_that_cannot_be_pickled(self):
        for bad in (lambda: 1, threading.Lock(), Unprintable(), (n for n in ())):
            misfit = values.decode_exception(*values.Pickled(bad).failure)
            self.assertIsInstance(misfit, TypeError)
            self.assertIn(type(bad).__name__, str(misfit))
            self.assertIn(values.shortened(bad), str(misfit))

    def test_one_is_as_it_was_when_it_was_pickled(self):
        grows = [1]
        pickled = [values.Pickled(grows), 5]
        grows.append(2)
        self.assertEqual([[1], 5], values.decode_results(received(values.encode_results(pickled)), 2))

    def test_a_plain_one_is_as_it_was_when_it_was_returned(self):
        grows, changes, both = [1], {1: 2}, (3, "x")
        kept = [values.settled(each) for each in (grows, changes, both, grows)]
        grows.append(2)
        changes[1] = 3
        buffers = received(values.encode_results(kept))
        self.assertEqual(b"P", buffers[0])  # one pickle of all
        results = values.decode_results(buffers, 4)
        self.assertEqual([[1], {1: 2}, both, [1]], results)
        self.assertIsNot(results[0], results[3])

    def test_only_short_ones_of_scalars_are_plain(self):
        class Own(list):
            pass

        for value in ([[1]], (1, [2]), {1: ()}, {(): 1}, [0] * (values.PLAIN_MAX + 1), {1}, Own([1]), 5, (True, Own())):
            self.assertIsNone(values.plain_copy(value))
            self.assertIsInstance(values.settled(value), values.Pickled)
        for value in ([], (), {}, [1, None, u"x", b"y"], (2.5, 1j, True), {u"a": 1, None: b"b"}):
            self.assertEqual(value, values.plain_copy(value))

    def test_one_that_cannot_be_unpickled_here(self):
        good, bad, last = self.back([1, Unloadable(), (3,)])
        self.assertEqual((1, (3,)), (good, last))
        self.assertIsInstance(bad, values.Misfit)
        self.assertIsInstance(bad.error, RemoteError)
        self.assertIn("made to fail", str(bad.error))
        self.assertEqual("made to fail", str(bad.error.__cause__))
        # Its bytes are kept: nothing that was computed is lost.
        self.assertEqual(values.dumps(Unloadable()), bad.error.pickled)

    def test_whatever_unpickling_raises_is_that_results_error(self):
        for error in (KeyboardInterrupt(), SystemExit(3), GeneratorExit(), Unheard("u"), WithoutText()):
            results = [1, Raiser(error), (3,)]
            good, bad, last = support.Background(self.back, results).result()  # as streams: no Ctrl-C comes there
            self.assertEqual((1, (3,)), (good, last))
            self.assertIn(type(error).__name__, str(bad.error))

    def test_in_the_main_thread_ctrl_c_goes_to_whoever_waits_there(self):
        self.assertRaises(KeyboardInterrupt, self.back, [Raiser(KeyboardInterrupt()), (2,)])

    def test_results_that_are_none_or_too_few_are_errors(self):
        pickled = values.dumps([1, 2])
        for buffers, good in (
            ([], []), ([b"P"], []), ([b"P", b"no pickle"], []), ([b"P", values.dumps(5)], []), ([b"P", pickled], [1, 2]),
            ([b"E"], []), ([b"E", values.dumps(1)], [1]), ([b"?"], []),
        ):  # fmt: skip
            results = values.decode_results(received(buffers), 3)
            self.assertEqual(good, results[: len(good)])
            self.assertEqual([values.Misfit] * (3 - len(good)), list(map(type, results[len(good) :])))

    def test_results_that_are_too_many_are_left_out(self):
        for buffers in ([b"P", values.dumps([1, 2, 3])], [b"E"] + list(map(values.dumps, [1, 2, 3]))):
            self.assertEqual([2], values.decode_results(received(buffers), 2, 1))


class Exceptions(unittest.TestCase):
    def test_it_comes_back_as_itself(self):
        for error in (
            ValueError("wrong", 3), KeyError("k"), OSError(2, "No such file"), Custom(5), SystemExit(3),
            KeyboardInterrupt(), MemoryError(), StopIteration(7),
        ):  # fmt: skip
            got = come_back(throw, error)
            self.assertIs(type(error), type(got))
            self.assertEqual(error.args, got.args)
        self.assertEqual(5, come_back(throw, Custom(5)).code)

    def test_one_with_code_of_its_own_that_fails_comes_as_its_text(self):
        for error, text in (
            (TwoArguments(1, "because"), "1: because"), (WithLock(), "locked"), (Disguised("d"), "d"), (Harmful("h"), "h")
        ):  # fmt: skip
            info, buffers = caught(throw, error)
            self.assertEqual([], buffers)
            got = values.decode_exception(info, buffers)
            self.assertIs(RemoteError, type(got))
            self.assertEqual(type(error).__name__, got.type_name)
            self.assertEqual("%s: %s" % (type(error).__name__, text), str(got))
            self.assertIn("in throw", got.__cause__.tb)

    def test_one_that_fails_on_this_side_only_comes_as_its_text(self):
        info, _ = caught(throw, ValueError("v"))
        for bad in (values.dumps(Unloadable()), values.dumps(Harmful("h")), values.dumps(Frozen("f")), values.dumps(42), b"no pickle"):
            got = values.decode_exception(info, received([bad]))
            self.assertIs(RemoteError, type(got))
            self.assertEqual("ValueError: v", str(got))

    def test_an_odd_description_is_an_error_too(self):
        for info in ({}, {"chain": 5}, {"notes": 5}, {"chain": [7]}, {"type": 3, "text": []}, {"traceback": 4}):
            self.assertIsInstance(values.decode_exception(info, []), BaseException)

    def test_one_whose_class_raises_where_it_is_described(self):
        for error in (WithoutTruth("w"), Delegating("d"), WithoutClass("c")):
            info, buffers = caught(throw, error)
            self.assertIn("in throw", info["traceback"])
            self.assertIn("%s: %s" % (type(error).__name__, error.args[0]), info["traceback"])
            got = values.decode_exception(info, received(buffers))
            kind = RemoteError if type(error) is WithoutClass else type(error)
            self.assertIs(kind, type(got))

    def test_one_without_a_text(self):
        info, _ = caught(throw, WithoutText())
        self.assertIn("cannot be made", info["text"])

    def test_a_text_beyond_ascii(self):
        text = u"Gr\u00f6\u00dfe \u4e2d"
        for argument in (text, text.encode("utf-8")) if PY2 else (text,):
            info, _ = caught(throw, ValueError(argument))
            self.assertEqual(text, info["text"])
            self.assertIn(native(text), str(values.decode_exception(info, [])))

    @unittest.skipIf(PY2, "its text is bytes")
    def test_a_text_that_is_no_utf_8(self):
        info, _ = caught(throw, ValueError("half a pair: \udc80"))
        self.assertIn("half a pair", str(values.decode_exception(info, [])))

    def test_the_traceback_has_the_users_lines_and_not_ours(self):
        tb = come_back(throw, ValueError("wrong")).__cause__.tb
        self.assertIn("raise error", tb)
        self.assertIn("in throw", tb)
        self.assertIn("ValueError: wrong", tb)
        self.assertNotIn("in caught", tb)

    @unittest.skipIf(PY2, "no chained exceptions there")
    def test_what_it_came_from_is_in_the_traceback(self):
        def chained():
            try:
                throw(KeyError("first"))
            except KeyError:
                throw(ValueError("second"))

        tb = come_back(chained).__cause__.tb
        self.assertIn("KeyError: 'first'", tb)
        self.assertIn("ValueError: second", tb)

    @unittest.skipIf(PY2, "an exception's cause is not printed there")
    def test_the_remote_traceback_is_printed_with_it(self):
        error = come_back(throw, ValueError("wrong"))
        self.assertIsInstance(error.__cause__, RemoteTraceback)
        self.assertIn("in throw", "".join(traceback.format_exception(type(error), error, None)))

    @unittest.skipUnless(hasattr(BaseException, "add_note"), "notes came with 3.11")
    def test_notes_come_along(self):
        error = ValueError("wrong")
        error.add_note("seen on a Tuesday")
        got = come_back(throw, error)
        self.assertEqual(["seen on a Tuesday"], got.__notes__)
        self.assertIn("seen on a Tuesday", got.__cause__.tb)

    def test_a_recursion_errors_traceback_is_bounded(self):
        def ping(n):
            return pong(n)

        def pong(n):
            # Two functions in turn: Python shortens only repetitions of one line.
            return ping(n)

        info, _ = caught(ping, 1)
        self.assertLessEqual(len(info["traceback"]), values.TRACEBACK_CHARACTERS_MAX)
        self.assertIn("recursion", info["traceback"][-200:])
        self.assertIn(info["type"], ("RecursionError", "RuntimeError"))


class Shortened(unittest.TestCase):
    def test_the_name_of_a_function(self):
        class Proxy(object):
            def __getattr__(self, name):
                raise RuntimeError("nothing is here yet")

        for function, name in ((throw, "throw"), (len, "len"), (functools.partial(len), "partial"), (Proxy(), "Proxy")):
            self.assertEqual(name, values.name_of(function))

    def test_it_is_the_repr_or_what_there_is_instead(self):
        self.assertEqual("[1, 2]", values.shortened([1, 2]))
        self.assertEqual(80, len(values.shortened("x" * 1000)))
        self.assertIn("Unprintable", values.shortened(Unprintable()))


if __name__ == "__main__":
    unittest.main()

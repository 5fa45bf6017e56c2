# -*- coding: utf-8 -*-
"""The tree of exceptions: as it is drawn, caught as it promises, alive after a journey."""
from __future__ import absolute_import, division, print_function

import pickle
import re
import traceback
import unittest

import minimalcluster
from minimalcluster import errors
from minimalcluster.compat import PY2, as_text

CLASSES = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, BaseException)
}


def drawn():
    """(name, its parent's name or None) of each line of the picture in the docstring."""
    above = []
    for line in as_text(errors.__doc__).splitlines():
        match = re.match(u"^    ([│├└─ ]*)([A-Z]\\w+)( {2,}.*)?$", line)
        if match is not None:
            depth = len(match.group(1)) // 4
            del above[depth:]
            yield match.group(2), above[-1] if above else None
            above.append(match.group(2))


class Tree(unittest.TestCase):
    def test_it_is_as_it_is_drawn(self):
        found = list(drawn())
        for name, parent in found:
            self.assertIn(name, CLASSES)
            if parent is not None:
                self.assertIn(CLASSES[parent], CLASSES[name].__bases__, "%s under %s" % (name, parent))
        self.assertEqual(sorted(CLASSES), sorted(name for name, _ in found))

    def test_everyone_can_import_them_all(self):
        for name in CLASSES:
            self.assertIn(name, minimalcluster.__all__)
            self.assertIs(CLASSES[name], getattr(minimalcluster, name))

    def test_one_except_catches_all_that_is_ours(self):
        for name in set(CLASSES) - {"RemoteTraceback", "Interrupted"}:  # a text; a KeyboardInterrupt
            self.assertTrue(issubclass(CLASSES[name], errors.ClusterError), name)

    def test_pythons_own_names_catch_them_too(self):
        for kind, bases in (
            (errors.ArgumentsError, (TypeError, ValueError)), (errors.TargetError, (ValueError,)),
            (errors.StateError, (RuntimeError,)),
        ):  # fmt: skip
            for base in bases:
                self.assertTrue(issubclass(kind, base))

    def test_each_says_what_it_is(self):
        for name, value in CLASSES.items():
            self.assertTrue(vars(value).get("__doc__"), name)


class Journey(unittest.TestCase):
    def test_they_survive_a_pickle_with_all_they_hold(self):
        samples = [
            errors.TaskError("m", argument=3, node="n", results={1: 2}, errors={3: "e"}),
            errors.WorkerDied("m", exit="exit code 3", nodes=["a", "b"], lines=["last words"]),
            errors.RemoteError("m", "ValueError"), errors.RemoteTraceback("trace\n"),
        ]  # fmt: skip
        samples += [CLASSES[name]("m") for name in sorted(CLASSES)]
        for error in samples:
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
                got = pickle.loads(pickle.dumps(error, protocol))
                self.assertIs(type(error), type(got))
                self.assertEqual((str(error), vars(error)), (str(got), vars(got)))

    def test_what_is_not_given_is_empty_and_nobody_elses(self):
        one, two = errors.TaskError("m"), errors.TaskError("m")
        one.results["a"] = 1
        self.assertEqual(({}, {}), (two.results, two.errors))
        self.assertEqual(("", [], []), (errors.WorkerDied("m").exit, errors.WorkerDied("m").nodes, errors.WorkerDied("m").lines))

    @unittest.skipIf(PY2, "a cause is not printed there")
    def test_a_remote_traceback_is_printed_above_its_exception(self):
        error = ValueError("mine")
        error.__cause__ = errors.RemoteTraceback("  in the user's function\n")
        text = "".join(traceback.format_exception(ValueError, error, None))
        self.assertLess(text.index("in the user's function"), text.index("ValueError: mine"))


if __name__ == "__main__":
    unittest.main()

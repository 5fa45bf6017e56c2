"""Which function unpickles results."""
from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster.payload import safe, values
from minimalcluster.payload.loaders import loader


class LoaderTest(unittest.TestCase):
    def test_by_the_argument(self):
        self.assertIs(values.loads, loader("any"))
        self.assertIs(values.loads, loader("any", "an engine"))
        self.assertIs(safe.loads, loader("safe"))

    def test_others_are_refused(self):
        for arguments in (("all",), (None,), ("safe", "an engine")):
            with self.assertRaises(ValueError) as caught:
                loader(*arguments)
            self.assertIn(repr(arguments[0]), str(caught.exception))


if __name__ == "__main__":
    unittest.main()

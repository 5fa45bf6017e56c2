"""Rules that hold for all values (``properties.py``), where Hypothesis is installed."""
from __future__ import absolute_import, division, print_function

import unittest

try:
    import hypothesis
except ImportError:  # before 3.10 no version of it is kept up
    hypothesis = None

if hypothesis is None:

    class Properties(unittest.TestCase):
        @unittest.skip("Hypothesis is not installed")
        def test_properties(self):
            pass

else:
    from tests.fuzz.properties import Targets, Values, Wire  # noqa: F401


if __name__ == "__main__":
    unittest.main()

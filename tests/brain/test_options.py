"""How a job is run: defaults, checks, the scheduler's part."""
from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster.brain.options import Options


class OptionsTest(unittest.TestCase):
    def test_defaults(self):
        options = Options()
        self.assertEqual(("finish", None, 0, 3), options[:4])
        self.assertEqual({None}, set(options[4:7]))
        self.assertIs(False, options.idempotent)

    def test_mistakes_are_named(self):
        for name, wrong in (
            ("on_error", "ignore"), ("chunksize", 0), ("chunksize", 1.5), ("retries", -1), ("retries", "2"),
            ("attempts_max", 0), ("timeout", 0), ("timeout", "soon"), ("deadline", -1), ("idempotent", 1),
        ):  # fmt: skip
            with self.assertRaises(ValueError) as caught:
                Options(**{name: wrong})
            self.assertIn(name, str(caught.exception))
            self.assertIn(repr(wrong), str(caught.exception))
        self.assertRaises(TypeError, Options, unknown=1)


if __name__ == "__main__":
    unittest.main()

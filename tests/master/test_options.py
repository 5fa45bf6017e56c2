"""How a job is run: defaults, checks, the scheduler's part."""
from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster.master.options import Terms


class TermsTest(unittest.TestCase):
    def test_defaults(self):
        terms = Terms.of()
        self.assertEqual(("finish", None, 0, 3), terms[:4])
        self.assertEqual({None}, set(terms[4:7]))
        self.assertIs(False, terms.idempotent)

    def test_mistakes_are_named(self):
        for name, wrong in (
            ("on_error", "ignore"), ("chunksize", 0), ("chunksize", 1.5), ("retries", -1), ("retries", "2"),
            ("attempts_max", 0), ("timeout", 0), ("timeout", "soon"), ("deadline", -1), ("idempotent", 1),
        ):  # fmt: skip
            with self.assertRaises(ValueError) as caught:
                Terms.of(**{name: wrong})
            self.assertIn(name, str(caught.exception))
            self.assertIn(repr(wrong), str(caught.exception))
        self.assertRaises(TypeError, Terms.of, unknown=1)


if __name__ == "__main__":
    unittest.main()

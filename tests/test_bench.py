"""The tables of bench/: ratios round by round, what falls short, and where a document gets them."""
from __future__ import absolute_import, division, print_function

import json
import os
import sys
import unittest

from tests import support

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@unittest.skipUnless(sys.version_info >= (3, 7), "the bench is for Python 3")
class ReportTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        sys.path.insert(0, os.path.join(ROOT, "bench"))
        try:
            import report
        finally:
            del sys.path[0]
        cls.report = report

    def results(self, **figures):
        loaded = {"machine": {}, "versions": {}, "notes": {}, "rounds": 3, "quick": True, "skipped": {}, "figures": figures}
        with support.directory() as folder:
            return self.report.Results(support.write(os.path.join(folder, "results.json"), json.dumps(loaded)))

    def test_a_ratio_is_taken_in_each_round_that_both_have(self):
        drifting = self.results(trip_us={"Executor": {"0": 50.0, "1": 100.0, "2": 7.0}, "ProcessPool": {"0": 100.0, "1": 200.0}})
        bound = self.report.beside("trip_us", "<=", 0.5, "ProcessPool")
        self.assertEqual(("0.5 (0.5 - 0.5) x", True), self.report.judged(drifting, bound))
        self.assertEqual(False, self.report.judged(drifting, bound._replace(limit=0.49))[1])
        self.assertEqual("150 (100 - 200) x 2.00", self.report.cell(drifting, "ProcessPool", "trip_us"))

    def test_what_falls_short_is_named_and_what_is_missing_is_not_reached(self):
        text, short_of = self.report.check_table(self.results(heavy_efficiency={"Executor": {"0": 0.9}}))
        self.assertEqual(1, len(short_of))
        self.assertIn("reached 0.9", short_of[0])
        self.assertEqual(sum(len(goal.bounds) for goal in self.report.GOALS) - 1, text.count("| not measured |  |"))

    def test_more_is_better_turns_the_ratio_round(self):
        rates = self.results(submits_rate={"Executor": {"0": 300.0}, "ProcessPool": {"0": 100.0}})
        self.assertEqual("100 x 3.00", self.report.cell(rates, "ProcessPool", "submits_rate"))

    def test_a_document_keeps_what_is_around_its_tables(self):
        with support.directory() as folder:
            path = support.write(os.path.join(folder, "document.md"), "a\n<!-- tables -->\nold\n<!-- end -->\nb\n")
            self.report.write(r"new \1", path)
            self.assertEqual("a\n<!-- tables -->\nnew \\1\n<!-- end -->\nb\n", support.read(path))


if __name__ == "__main__":
    unittest.main()

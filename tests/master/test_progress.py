"""How far a job is, told at the right moments: by a clock that the test turns."""
from __future__ import absolute_import, division, print_function

import io
import sys
import unittest

from minimalcluster.master import progress
from minimalcluster.compat import PY2
from minimalcluster.master.progress import duration, line, progress_for
from tests import support


class Terminal(object):
    """Standard error that remembers."""

    def __init__(self, is_terminal=True):
        self._is_terminal = is_terminal
        self.text = ""

    def isatty(self):
        return self._is_terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


class WriteOnly(object):
    """What ``print`` is content with."""

    text = ""

    def write(self, text):
        self.text += text


class Raising(object):
    def isatty(self):
        raise RuntimeError("no terminal, no answer")

    def write(self, text):
        raise RuntimeError("no terminal")


class Line(unittest.TestCase):
    def test_while_it_runs(self):
        self.assertEqual("     1234/5001   24 %  411 tasks/s  9.2 s left", line(1234, 5001, 3.0))

    def test_before_the_first_task(self):
        for seconds in (0.0, 5.0):
            self.assertIn("0/10    0 %", line(0, 10, seconds))
        self.assertNotIn("left", line(0, 10, 5.0))  # nobody knows

    def test_at_the_end(self):
        self.assertIn("100 %", line(10, 10, 2.0))
        self.assertIn("in 2.0 s", line(10, 10, 2.0))
        self.assertIn("100 %", line(0, 0, 0.0))

    def test_it_rounds_no_job_up_to_its_end(self):
        self.assertIn(" 99 %", line(999, 1000, 1.0))

    def test_rates(self):
        for done, seconds, text in ((1, 10.0, "0.1 tasks/s"), (50, 1.0, "50.0 tasks/s"), (10**6, 1.0, "1,000,000 tasks/s")):
            self.assertIn(text, line(done, 10**7, seconds))

    def test_durations(self):
        for seconds, text in (
            (0, "0.0 s"), (9.94, "9.9 s"), (10, "10 s"), (59.4, "59 s"), (60, "1:00 min"), (61, "1:01 min"),
            (3599, "59:59 min"), (3600, "1:00 h"), (5400, "1:30 h"), (100 * 3600, "100:00 h"),
        ):  # fmt: skip
            self.assertEqual(text, duration(seconds))

    def test_durations_at_the_edge_of_a_unit(self):
        self.assertEqual("10 s", duration(9.96))
        self.assertEqual("1:00 min", duration(59.6))
        self.assertEqual("1:00 h", duration(3599.6))


class Moments(unittest.TestCase):
    def setUp(self):
        self.now = 1000.0
        self._before = progress.monotonic, sys.stderr
        progress.monotonic = lambda: self.now
        self.terminal = sys.stderr = Terminal()

    def tearDown(self):
        progress.monotonic, sys.stderr = self._before

    def work(self, shown, seconds, steps=1000):
        """A job of so many seconds that shows how far it is all the time."""
        for step in range(steps):
            shown.show(step)
            self.now += seconds / steps
        shown.end(steps)

    def test_a_function_is_told_all_along_and_at_the_end(self):
        told = []
        self.work(progress_for(lambda done, total: told.append((done, total)), 1000), 10.0)
        self.assertEqual((0, 1000), told[0])
        self.assertEqual((1000, 1000), told[-1])
        self.assertEqual(sorted(told), told)
        # Not for each of the tasks: it may be slow.
        self.assertLess(len(told), 10.0 / progress.EVERY_SECONDS + 3)
        self.assertEqual("", self.terminal.text)

    def test_a_function_is_told_the_end_of_the_shortest_job(self):
        told = []
        self.work(progress_for(lambda done, total: told.append((done, total)), 3), 0.0, 3)
        self.assertEqual((3, 3), told[-1])

    def test_a_line_when_asked_for(self):
        self.work(progress_for(True, 1000), 1.0)
        self.assertGreater(self.terminal.text.count("\r"), 4)
        self.assertIn("1000/1000", self.terminal.text)
        self.assertTrue(self.terminal.text.startswith("\r"))
        self.assertTrue(self.terminal.text.endswith("\n"))
        self.assertEqual(1, self.terminal.text.count("\n"))

    def test_no_line_when_not_asked_for(self):
        self.work(progress_for(False, 1000), 100.0)
        self.assertEqual("", self.terminal.text)

    def test_by_itself_only_on_a_terminal_and_for_a_long_job(self):
        self.work(progress_for(None, 1000), 1.0)
        self.assertEqual("", self.terminal.text)
        self.work(progress_for(None, 1000), 10.0)
        self.assertIn("1000/1000", self.terminal.text)
        self.assertTrue(self.terminal.text.endswith("\n"))
        sys.stderr = Terminal(False)
        self.work(progress_for(None, 1000), 10.0)
        self.assertEqual("", sys.stderr.text)

    def test_where_there_is_no_standard_error(self):
        for nothing in (None, io.StringIO() if not PY2 else io.BytesIO()):  # pythonw has None
            sys.stderr = nothing
            self.work(progress_for(None, 10), 10.0, 10)

    def test_where_standard_error_cannot_be_written(self):
        closed = io.StringIO()
        closed.close()
        for broken in (None, closed, object(), Raising()):
            sys.stderr = broken
            for wish in (True, None):
                self.work(progress_for(wish, 10), 10.0, 10)

    def test_an_object_with_write_alone_shows_the_line(self):
        sys.stderr = WriteOnly()
        self.work(progress_for(True, 10), 10.0, 10)
        self.assertIn("10/10", sys.stderr.text)
        self.assertTrue(sys.stderr.text.endswith("\n"))

    def test_a_function_that_raises_is_not_called_again(self):
        called = []
        shown = progress_for(lambda done, total: called.append(done) or {}[done], 10)
        self.assertRaises(KeyError, shown.show, 1)
        self.now += 10.0
        shown.show(2)
        shown.end(3)
        self.assertEqual([1], called)

    def test_a_function_that_raises_at_the_end_costs_nothing_and_is_told_of(self):
        with support.Log() as log:
            progress_for(lambda done, total: {}[done], 10).end(10)
            self.assertEqual(1, len(log.having("progress function")))

    def test_a_shorter_line_covers_a_longer_one(self):
        shown = progress_for(True, 10**9)
        for done in (10**9 - 1, 1):
            shown.show(done)
            self.now += 1.0
        longest, shortest = self.terminal.text.split("\r")[1:]
        self.assertEqual(len(longest), len(shortest))


class Quiet(unittest.TestCase):
    def test_the_progress_that_is_off_takes_what_jobs_tell(self):
        quiet = progress_for(False, 3)
        quiet.show(1)
        quiet.end(3)


if __name__ == "__main__":
    unittest.main()

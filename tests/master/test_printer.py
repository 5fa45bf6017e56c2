# coding: utf-8
"""What tasks print, where the program's output goes: whatever stands for sys.stdout there."""
from __future__ import absolute_import, division, print_function

import io
import os
import sys
import unittest

from minimalcluster.master import printer
from minimalcluster.compat import PY2
from minimalcluster.master.printer import Printer
from tests import support

HERE, THERE = ("n1", 7), ("n2", 8)


class Collected(object):
    """What ``print`` is content with: ``write`` alone."""

    def __init__(self):
        self.texts = []

    def write(self, text):
        self.texts.append(text)

    def text(self):
        return "".join(self.texts)


class Picky(Collected):
    """Takes some lines and not others, in its own way."""

    def __init__(self, error):
        Collected.__init__(self)
        self.error = error

    def write(self, text):
        if "odd" in text:
            raise self.error
        Collected.write(self, text)

    def flush(self):
        raise self.error


class Case(unittest.TestCase):
    def setUp(self):
        self._before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = self.out, self.err = Collected(), Collected()
        self.printer, self.error_printer = Printer("stdout"), Printer("stderr")

    def tearDown(self):
        self.printer.close()
        self.error_printer.close()
        sys.stdout, sys.stderr = self._before

    def show(self, *texts, **told):
        shown = self.error_printer if told.get("stream") == "stderr" else self.printer
        for text in texts:
            shown.show(told.get("source", HERE), told.get("prefix", ""), text)

    def end(self):
        self.printer.close()
        self.error_printer.close()
        sys.stdout, sys.stderr = self._before


class Shown(Case):
    def test_row_65_each_stream_goes_where_it_belongs(self):
        self.show("1,2\n", "3,4\n")
        self.show("half way\n", stream="stderr")
        self.end()
        self.assertEqual(("1,2\n3,4\n", "half way\n"), (self.out.text(), self.err.text()))

    def test_what_this_machines_tasks_print_is_not_touched(self):
        self.show("\r 10 %")
        self.show(".", source=THERE)
        self.show("\r 20 %")
        self.end()
        self.assertEqual("\r 10 %.\r 20 %", self.out.text())

    def test_lines_of_other_machines_have_its_name_in_front(self):
        self.show("one\ntwo\n", "thr", "ee\nfour", prefix="[n1/7] ")
        self.end()
        self.assertEqual("[n1/7] one\n[n1/7] two\n[n1/7] three\n[n1/7] four", self.out.text())

    def test_two_machines_share_no_line(self):
        self.show("10 %", prefix="[n1/7] ")
        self.show("20 %", prefix="[n2/8] ", source=THERE)
        self.show(".", source=("here", 1))
        self.show(" more\n", prefix="[n2/8] ", source=THERE)
        self.end()
        self.assertEqual("[n1/7] 10 %\n[n2/8] 20 %\n.\n[n2/8]  more\n", self.out.text())

    def test_a_bar_of_another_machine_is_drawn_behind_its_name(self):
        self.show("10 %", "\r20 %", "\n", prefix="[n1/7] ")
        self.end()
        self.assertEqual("[n1/7] 10 %\r[n1/7] 20 %\n", self.out.text())

    def test_a_stream_that_is_changed_meanwhile(self):
        """A notebook's, or contextlib.redirect_stdout."""
        self.show("one\n")
        support.wait_until(lambda: self.out.texts)
        sys.stdout = later = Collected()
        self.show("two\n")
        self.end()
        self.assertEqual(("one\n", "two\n"), (self.out.text(), later.text()))


class Odd(Case):
    """Streams that fail cost no other line, and nobody else anything."""

    def test_row_65_none(self):
        sys.stdout = None
        self.show("one\n")
        self.show("two\n", stream="stderr")
        self.end()
        self.assertEqual("two\n", self.err.text())

    def test_row_65_one_line_that_cannot_be_written_costs_no_other(self):
        for error in (ValueError("odd"), OSError(5, "odd"), SystemExit(3), KeyboardInterrupt()):
            with support.Log() as log:
                sys.stdout = picky = Picky(error)
                shown = Printer("stdout")
                shown.show(HERE, "", "one\nodd\ntwo\n")
                shown.show(HERE, "", "three\n")
                shown.close()
                self.assertEqual("one\ntwo\nthree\n", picky.text())
                self.assertEqual(1, len(log.having("cannot be shown")))

    def test_row_65_closed(self):
        sys.stdout = io.StringIO()
        sys.stdout.close()
        self.show("one\n" * 3)
        support.wait_until(lambda: not self.printer._texts)
        sys.stdout = self.out
        self.show("two\n")
        self.end()
        self.assertEqual("two\n", self.out.text())

    @unittest.skipIf(PY2, "its str is bytes")
    def test_row_65_characters_that_the_stream_does_not_have_are_escaped(self):
        for encoding, text in (("ascii", "na\\xefve \\u20ac"), ("cp1252", u"na\u00efve \u20ac"), ("latin-1", u"na\u00efve \\u20ac")):
            raw = io.BytesIO()
            sys.stdout = io.TextIOWrapper(raw, encoding)
            shown = Printer("stdout")
            shown.show(HERE, "", u"before\nna\u00efve \u20ac\nafter\n")
            shown.close()
            self.assertEqual(u"before\n%s\nafter\n" % text, raw.getvalue().decode(encoding))

    def test_row_65_where_no_thread_is_to_be_had_the_end_shows_all(self):
        def start(self):
            raise RuntimeError("can't start new thread")

        with support.patched(printer.threading.Thread, "start", start):
            self.show("one\n", "two\n")
            self.assertEqual("", self.out.text())
            self.end()
        self.assertEqual("one\ntwo\n", self.out.text())


class Slow(Case):
    """Standard output that is a pipe, and somebody who reads slowly, or not at all."""

    def setUp(self):
        super(Slow, self).setUp()
        reading, writing = os.pipe()
        self.reading = os.fdopen(reading, "rb")
        sys.stdout = os.fdopen(writing, "w")
        self.addCleanup(self.reading.close)

    def test_row_65_it_holds_up_nobody_and_loses_nothing(self):
        pipe, lines = sys.stdout, ["%06d %s\n" % (number, "x" * 93) for number in range(10000)]
        self.show(*lines)
        read = support.Background(self.reading.read)
        self.end()
        pipe.close()
        self.assertEqual("".join(lines).encode("ascii"), read.result())

    @unittest.skipIf(os.name == "nt", "there is no way to ask a pipe")
    def test_row_65_who_does_not_read_is_not_waited_for_without_end_and_may_write_himself(self):
        """The stream's lock is free: the program's own print would wait for it, and the interpreter's end, for ever."""
        pipe = sys.stdout
        with support.patched(printer, "STALLED_SECONDS", 0.05), support.Log() as log:
            self.show(*["x" * 99 + "\n"] * 5000)
            self.printer.close()
            self.assertTrue(self.printer._texts)
            self.assertEqual(1, len(log.having("are not shown yet")))
        self.show("others are\n", stream="stderr")
        support.wait_until(lambda: self.err.text() == "others are\n")
        taken = support.Background(pipe.flush)
        taken.result()
        read = support.Background(self.reading.read)  # so that its thread ends
        support.wait_until(lambda: not self.printer._texts)
        self.printer._thread.join(support.SECONDS)
        pipe.close()
        read.result()

    def test_row_65_what_waits_is_bounded_and_what_is_left_out_is_said(self):
        pipe = sys.stdout
        with support.patched(printer, "WAITING_CHARACTERS_MAX", 1 << 18), support.Log() as log:
            self.show(*["x" * 99 + "\n"] * 10000)
            read = support.Background(self.reading.read)
            self.printer.close()
            pipe.close()
            lines = len(read.result().splitlines())
            self.assertLess(lines, 10000)
            self.assertEqual(1, len(log.having("%d lines dropped" % (10000 - lines))))


if __name__ == "__main__":
    unittest.main()

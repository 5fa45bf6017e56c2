# coding: utf-8
"""What a worker process prints: bytes of pipes to pieces of text."""
from __future__ import absolute_import, division, print_function

import os
import unittest

from minimalcluster.node import output
from minimalcluster.compat import PY2
from minimalcluster.node.output import ERR, OUT, Allowance, Reader, Stream
from tests import support


class Streams(unittest.TestCase):
    def setUp(self):
        self.stream = Stream(OUT, None)

    def test_whole_lines_are_passed_on_at_once(self):
        self.assertEqual(u"one\ntwo\n", self.stream.feed(b"one\ntwo\nth", 10.0))
        self.assertEqual(u"three\n", self.stream.feed(b"ree\n", 10.0))
        self.assertIsNone(self.stream.due)

    def test_a_part_of_a_line_waits_a_moment(self):
        self.assertEqual(u"", self.stream.feed(b"50", 10.0))
        self.assertEqual(10.0 + output.PART_SECONDS, self.stream.due)
        self.assertEqual(u"", self.stream.feed(b" %", 10.05))
        self.assertEqual(10.0 + output.PART_SECONDS, self.stream.due)  # whoever draws all the time is seen, too
        self.assertEqual(u"50 %", self.stream.part())
        self.assertIsNone(self.stream.due)
        self.assertEqual(u"\rdone\n", self.stream.feed(b"\rdone\n", 11.0))

    def test_the_moment_begins_with_the_part(self):
        self.stream.feed(b"a", 10.0)
        self.stream.feed(b"b\nc", 10.05)
        self.assertEqual(10.05 + output.PART_SECONDS, self.stream.due)

    def test_no_character_is_cut(self):
        data = u"n\u00e4 \u20ac \U0001f600\n".encode("utf-8")
        text = u"".join(self.stream.feed(data[at : at + 1], 1.0) + self.stream.part() for at in range(len(data)))
        self.assertEqual(u"n\u00e4 \u20ac \U0001f600\n", text)

    def test_a_character_that_is_never_completed_is_shown_escaped_at_the_end(self):
        self.assertEqual(u"", self.stream.feed(b"\xe2\x82", 1.0))
        text = self.stream.feed(b"", 1.0, True)
        self.assertEqual(u"\ufffd" if PY2 else u"\\xe2\\x82", text)

    def test_a_very_long_line_does_not_wait_for_its_end(self):
        text = self.stream.feed(b"x" * (output.PART_CHARACTERS_MAX + 1), 1.0)
        self.assertEqual(output.PART_CHARACTERS_MAX + 1, len(text))

    def test_at_the_end_all_is_passed_on(self):
        self.stream.feed(b"the last", 1.0)
        self.assertEqual(u"the last", self.stream.feed(b"", 1.0, True))

    def test_the_last_lines_are_cut_and_few(self):
        lines = self.stream.lines(u"".join(u"%d\n" % number for number in range(100)) + u"x" * 2000)
        self.assertEqual([u"%d" % number for number in range(80, 100)], lines)
        self.assertEqual([u"x" * output.LAST_CHARACTERS_MAX], self.stream.last_line())
        self.assertEqual([u"x" * output.LAST_CHARACTERS_MAX], self.stream.lines(u"y\n"))


class Allowances(unittest.TestCase):
    def test_row_13_a_flood_is_cut_and_counted(self):
        allowance = Allowance(0.0)
        line = u"x" * 999 + u"\n"
        admitted = sum(allowance.admits(line, 0.0) for _ in range(20000))
        self.assertEqual(output.AT_ONCE_MAX // 1000, admitted)
        self.assertIn("%d lines dropped" % (20000 - admitted), allowance.report())
        self.assertEqual("", allowance.report())

    def test_what_is_left_out_is_due_a_second_later_and_then_there_is_room(self):
        allowance = Allowance(0.0)
        self.assertTrue(allowance.admits(u"x" * output.AT_ONCE_MAX, 0.0))
        self.assertFalse(allowance.admits(u"lost", 0.0))
        self.assertFalse(allowance.admits(u"lost\n", 0.9))  # not half of a text: all, until it is said
        self.assertEqual(1.0, allowance.due)
        self.assertIn("2 lines dropped", allowance.report())
        self.assertTrue(allowance.admits(u"x" * 1000, 1.0))

    def test_who_prints_little_may_do_it_for_ever(self):
        allowance = Allowance(0.0)
        for second in range(100):
            self.assertTrue(allowance.admits(u"x" * output.PER_SECOND, float(second)))


class Readers(unittest.TestCase):
    """Both pipes of a process, with the test as the process."""

    def setUp(self):
        pipes = [os.pipe(), os.pipe()]
        self.out, self.err = [os.fdopen(write, "wb", 0) for _, write in pipes]
        self.told, self.holds = [], False
        self.reader = Reader(os.fdopen(pipes[0][0], "rb", 0), os.fdopen(pipes[1][0], "rb", 0), self.tell)
        self.reader.start()
        self.addCleanup(self.end)

    def tell(self, name, text):
        self.told.append((name, text))
        if not self.holds:
            self.reader.taken()

    def end(self):
        for pipe in (self.out, self.err):
            pipe.close()
        self.reader.close()
        for thread in self.reader._threads:
            thread.join(support.SECONDS)

    def text(self, name):
        return u"".join(text for stream, text in self.told if stream == name)

    def test_row_65_each_stream_by_its_name(self):
        os.write(self.out.fileno(), b"a result\n")
        os.write(self.err.fileno(), b"half way\n")
        support.wait_until(lambda: len(self.told) == 2)
        self.assertEqual([(ERR, u"half way\n"), (OUT, u"a result\n")], sorted(self.told))

    def test_row_65_a_part_of_a_line_comes_while_the_process_goes_on(self):
        os.write(self.err.fileno(), b"\r 10 %")
        support.wait_until(lambda: self.told == [(ERR, u"\r 10 %")])

    def test_row_65_the_end_brings_all(self):
        os.write(self.out.fileno(), b"x" * 5000 + b"\nno end")
        self.out.close()
        self.err.close()
        self.reader.finish()
        self.assertEqual(u"x" * 5000 + u"\nno end", self.text(OUT))

    def test_row_65_the_end_waits_for_a_loop_that_is_slow(self):
        """For longer than the silence of a pipe that something else holds open."""
        self.holds = True
        os.write(self.out.fileno(), b"first\n")
        support.wait_until(lambda: self.told)
        os.write(self.out.fileno(), b"second\n")
        self.out.close()
        self.err.close()
        with support.patched(output, "SILENT_SECONDS", 0.01):
            looks, thread = [], self.reader._threads[0]
            join, thread.join = thread.join, lambda seconds: looks.append(join(seconds))
            end = support.Background(self.reader.finish)
            support.wait_until(lambda: len(looks) > 5)
            self.assertFalse(end.done())
            self.holds = False
            self.reader.taken()
            end.result()
        self.assertEqual(u"first\nsecond\n", self.text(OUT))

    def test_the_end_does_not_wait_for_what_holds_a_pipe_open(self):
        os.write(self.out.fileno(), b"the last\n")
        self.reader.finish()
        self.assertEqual(u"the last\n", self.text(OUT))

    def test_who_prints_faster_than_it_is_taken_is_held_up(self):
        self.holds = True
        written = []

        def write():
            for _ in range(64):
                os.write(self.out.fileno(), b"x" * (1 << 14) + b"\n")
                written.append(True)

        writer = support.Background(write)
        support.wait_until(lambda: self.told)
        self.assertLess(len(written), 64)
        self.holds = False
        self.reader.taken()
        writer.result()
        self.out.close()
        self.err.close()
        self.reader.finish()
        self.assertEqual(64, self.text(OUT).count(u"\n"))

    def test_row_13_what_is_left_out_is_said_also_at_the_end(self):
        with support.patched(output, "AT_ONCE_MAX", 1 << 10):
            self.end()
            self.setUp()
            os.write(self.out.fileno(), b"x\n" * 1000)
            self.out.close()
            self.err.close()
            self.reader.finish()
        self.assertIn("1000 lines dropped", self.text(ERR))
        self.assertEqual([u"x"] * output.LAST_LINES, self.reader.last_lines())

    def test_what_is_still_read_is_not_closed(self):
        """Its descriptor's number would be that of whatever is opened next, and the reader would read that."""
        self.holds = True
        os.write(self.out.fileno(), b"its line\n")
        support.wait_until(lambda: self.told)
        pipe = self.reader._streams[0].pipe
        self.assertFalse(pipe.closed)
        self.reader.close()
        support.wait_until(lambda: pipe.closed)

    def test_the_last_lines_are_of_both(self):
        os.write(self.err.fileno(), b"Traceback\n")
        support.wait_until(lambda: self.told)
        os.write(self.out.fileno(), b"so far")
        support.wait_until(lambda: len(self.told) == 2)
        self.assertEqual([u"Traceback", u"so far"], self.reader.last_lines())


if __name__ == "__main__":
    unittest.main()

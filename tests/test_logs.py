"""The log of threads that must not wait: whatever a program's handlers do, only the log's own thread meets it."""
from __future__ import absolute_import, division, print_function

import logging
import os
import subprocess
import sys
import threading
import time
import unittest

from minimalcluster import logs
from tests import support


class Held(logging.Handler):
    """Waits with each record until it is let go."""

    def __init__(self):
        logging.Handler.__init__(self)
        self.records, self.go = [], threading.Event()

    def emit(self, record):
        self.go.wait(support.SECONDS)
        self.records.append(record)


class Stream(object):
    """In the place of sys.stderr."""

    text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


class Case(unittest.TestCase):
    def setUp(self):
        self.name = "minimalcluster.test." + self.id()
        self.log, self.logger = logs.Log(self.name), logging.getLogger(self.name)
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        self.handler = Held()
        self.logger.addHandler(self.handler)
        self.addCleanup(self.logger.removeHandler, self.handler)
        self.addCleanup(self.handler.go.set)

    def said(self):
        self.handler.go.set()
        self.log.flush(support.SECONDS)
        return [record.getMessage() for record in self.handler.records]


class WhatIsKept(Case):
    def test_a_record_is_as_logging_would_have_made_it(self):
        before = time.time()
        self.log.warning("%s of %d", "two", 3)
        after = time.time()
        self.assertEqual(["two of 3"], self.said())
        record = self.handler.records[0]
        self.assertEqual((logging.WARNING, self.name), (record.levelno, record.name))
        self.assertTrue(before <= record.created <= after)
        self.assertEqual(threading.current_thread().name, record.threadName)
        self.assertEqual("test_a_record_is_as_logging_would_have_made_it", record.funcName)
        self.assertEqual("test_logs", record.module)
        self.assertAlmostEqual((record.created - int(record.created)) * 1000, record.msecs, delta=1)

    def test_an_exception_comes_with_its_traceback(self):
        try:
            raise ValueError("wrong")
        except ValueError:
            self.log.exception("it failed")
        self.said()
        self.assertIs(ValueError, self.handler.records[0].exc_info[0])

    def test_levels_are_the_loggers(self):
        for level in ("debug", "info", "warning", "error"):
            getattr(self.log, level)(level)
        self.log.log(logging.DEBUG, "debug too")
        self.assertEqual(["info", "warning", "error"], self.said())

    def test_what_does_not_fit_is_counted_and_said(self):
        with support.patched(logs, "WAITING_MAX", 3):
            for number in range(9):
                self.log.info("line %d", number)
        said = self.said()
        lines = [text for text in said if text.startswith("line")]
        self.assertLessEqual(3, len(lines))
        self.assertEqual(["line %d" % number for number in range(len(lines))], lines)
        self.assertIn("%d lines of this log were dropped" % (9 - len(lines)), said[1])


class WhatHandlersDo(Case):
    def test_one_that_waits_holds_nobody_up(self):
        for number in range(100):
            self.log.info("line %d", number)
        self.log.flush(0.01)
        self.assertEqual([], self.handler.records)
        self.assertEqual(100, len(self.said()))

    def test_one_that_raises_ends_nothing(self):
        class Raising(logging.Handler):
            raised = 0

            def emit(self, record):
                self.raised += 1
                raise (KeyboardInterrupt, SystemExit, ValueError, GeneratorExit)[self.raised % 4]

        raising = Raising()
        self.logger.addHandler(raising)
        stderr = Stream()
        with support.patched(sys, "stderr", stderr):
            for number in range(8):
                self.log.info("line %d", number)
            self.said()
        self.assertEqual(8, raising.raised)
        self.assertEqual(1, stderr.text.count("this program's handler raises"))

    def test_a_filter_and_an_argument_that_raise_cost_their_line_only(self):
        class Odd(object):
            def __str__(self):
                raise KeyboardInterrupt

        def refuse(record):
            if "odd filter" in record.msg:
                raise SystemExit
            return True

        self.logger.addFilter(type("Filter", (logging.Filter,), {"filter": lambda self, record: refuse(record)})())
        with support.patched(sys, "stderr", Stream()), support.patched(logging, "raiseExceptions", False):
            self.log.info("odd filter")
            self.handler.setFormatter(logging.Formatter("%(message)s"))
            self.handler.emit = lambda record: self.handler.records.append(record) or record.getMessage()
            self.log.info("%s", Odd())
            self.log.info("the last one")
            self.log.flush(support.SECONDS)
        self.assertEqual(["%s", "the last one"], [record.msg for record in self.handler.records])


class TheEnd(unittest.TestCase):
    def run_program(self, text):
        process = subprocess.Popen(
            [sys.executable, "-c", text], cwd=support.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output = process.communicate()[0].decode("utf-8")
        self.assertEqual(0, process.returncode, output)
        return output

    def test_what_was_said_last_is_said(self):
        output = self.run_program(
            "import atexit, logging; from minimalcluster import logs; logging.basicConfig(level='INFO')\n"
            "logs.log.info('first'); atexit.register(logs.log.info, 'last')"
        )
        self.assertIn("first", output)
        self.assertIn("last", output)

    def test_a_handler_that_waits_for_ever_does_not_hold_up_the_end(self):
        self.run_program(
            "import logging, threading; from minimalcluster import logs; handler = logging.Handler()\n"
            "handler.emit = lambda record: threading.Event().wait(1000)\n"
            "handler.acquire = handler.release = lambda: None\n"
            "logging.getLogger('minimalcluster').addHandler(handler); logs.log.warning('x')"
        )

    @unittest.skipIf(not hasattr(os, "fork"), "there is no fork here")
    def test_a_fork_has_its_own_lines_and_not_its_parents(self):
        output = self.run_program(
            "import logging, os, warnings; from minimalcluster import logs; logging.basicConfig(level='INFO')\n"
            "warnings.simplefilter('ignore'); logs.log.info('of the parent'); pid = os.fork()\n"
            "if pid: os.waitpid(pid, 0)\n"
            "else: logs.log.info('of the child'); logs.log.flush(); os._exit(0)"
        )
        self.assertEqual(1, output.count("of the parent"))
        self.assertEqual(1, output.count("of the child"))


if __name__ == "__main__":
    unittest.main()

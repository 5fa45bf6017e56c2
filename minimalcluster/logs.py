"""The log of threads that must not wait: a line is kept at once, and a thread of its own gives it to ``logging``.

A program's handlers, filters and formatters may raise, take locks, or write to a pipe that nobody reads. Only the
thread that hands lines over meets them. A line keeps the time, the thread and the place that it comes from.
"""
from __future__ import absolute_import, division, print_function

import atexit
import logging
import os
import sys
import threading
import traceback

from .compat import Mailbox, queue

#: Lines that may wait; more are dropped, and counted.
WAITING_MAX = 10000
#: How long the interpreter's end waits for lines that are on their way.
FLUSH_SECONDS = 1.0
#: What a record has of the moment and the thread that it was made in.
_OF_THEN = ("created", "msecs", "relativeCreated", "thread", "threadName")


class Log(object):
    """``logging``'s calls, for its logger of this name. None of them waits, and none raises."""

    def __init__(self, name):
        # type: (str) -> None
        self._logger = logging.getLogger(name)
        self._begin()

    def _begin(self):
        # type: () -> None
        self._pid = os.getpid()
        self._lines = Mailbox()  # type: queue.Queue
        self._dropped = 0
        self._starting = threading.Lock()
        self._thread = None  # type: threading.Thread | None
        self._has_raised = False

    # -- from any thread --------------------------------------------------------------------------

    def debug(self, text, *arguments):
        # type: (str, *object) -> None
        self._keep(logging.DEBUG, text, arguments)

    def info(self, text, *arguments):
        # type: (str, *object) -> None
        self._keep(logging.INFO, text, arguments)

    def warning(self, text, *arguments):
        # type: (str, *object) -> None
        self._keep(logging.WARNING, text, arguments)

    def error(self, text, *arguments):
        # type: (str, *object) -> None
        self._keep(logging.ERROR, text, arguments)

    def exception(self, text, *arguments):
        # type: (str, *object) -> None
        """An error, with the traceback of the exception at hand."""
        self._keep(logging.ERROR, text, arguments, sys.exc_info())

    def log(self, level, text, *arguments):
        # type: (int, str, *object) -> None
        self._keep(level, text, arguments)

    def _keep(self, level, text, arguments, error=None):
        # type: (int, str, tuple, tuple | None) -> None
        if self._pid != os.getpid():
            self._begin()  # a fork: the thread is not in it, and the lines that wait are its parent's
        if self._lines.qsize() >= WAITING_MAX:
            self._dropped += 1
            return
        frame = sys._getframe(2)
        place = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
        now = logging.LogRecord("", level, "", 0, "", (), None)  # knows the time and the thread
        self._lines.put((level, place, text, arguments, error, now))
        self.start()

    def start(self):
        # type: () -> None
        """Its thread, unless it runs; else with the first line."""
        if self._thread is None and self._starting.acquire(False):
            try:
                if self._thread is None:
                    thread = threading.Thread(target=self._work, args=(self._lines,), name="minimalcluster-log")
                    thread.daemon = True
                    thread.start()
                    self._thread = thread
            except (RuntimeError, threading.ThreadError):
                pass  # none can be had now; the next line, or the end, tries again
            finally:
                self._starting.release()

    def flush(self, seconds=FLUSH_SECONDS):
        # type: (float) -> None
        """Return when all lines so far have been handed over; or, at the latest, after so many seconds."""
        if self._pid != os.getpid() or (self._thread is None and self._lines.empty()):
            return
        done = threading.Event()
        self._lines.put(done)
        self.start()
        if self._thread is None:  # the interpreter ends, and starts none
            self._hand_over_all()
        done.wait(seconds)

    # -- its own thread ---------------------------------------------------------------------------

    def _work(self, lines):
        # type: (queue.Queue) -> None
        while True:
            self._hand_over(lines.get())

    def _hand_over_all(self):
        # type: () -> None
        while True:
            try:
                self._hand_over(self._lines.get(False))
            except queue.Empty:
                return

    def _hand_over(self, line):
        # type: (tuple | threading.Event) -> None
        if not isinstance(line, tuple):
            line.set()
            return
        self._say(*line)
        dropped, self._dropped = self._dropped, 0
        if dropped:
            text = "%d lines of this log were dropped: it was not read as fast as they came"
            self._say(logging.WARNING, ("", 0, ""), text, (dropped,), None, None)

    def _say(self, level, place, text, arguments, error, then):
        # type: (int, tuple, str, tuple, tuple | None, logging.LogRecord | None) -> None
        """The program's own handlers, filters and formatters run here; and what the arguments' ``str`` does."""
        try:
            if not self._logger.isEnabledFor(level):
                return
            file, number, function = place
            record = self._logger.makeRecord(
                self._logger.name, level, file, number, text, arguments, error, function
            )
            if then is not None:
                vars(record).update((name, getattr(then, name)) for name in _OF_THEN)
            self._logger.handle(record)
        except BaseException:
            self._tell_of_trouble()

    def _tell_of_trouble(self):
        # type: () -> None
        """Once: it would be said of every line."""
        if not self._has_raised:
            self._has_raised = True
            try:
                sys.stderr.write("minimalcluster: a line of the log is lost, since this program's handler raises:\n")
                traceback.print_exc()
            except BaseException:  # noqa: S110 # there is nowhere to say it
                pass


log = Log("minimalcluster")
atexit.register(log.flush)

__all__ = ["Log", "log"]

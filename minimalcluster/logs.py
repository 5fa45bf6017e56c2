"""A log for threads that must not wait: it queues lines, and a thread of its own gives them to ``logging``.

A program's handlers, filters and formatters may raise, take locks, or write to a pipe that is full because no process
reads it. So only the log's thread calls them. A line keeps the time, the thread and the place of the call.
"""
from __future__ import absolute_import, division, print_function

import atexit
import logging
import os
import sys
import threading
import traceback

from .compat import Mailbox, queue

#: So many lines are queued at most. Further ones are dropped, and counted.
WAITING_MAX = 10000
#: At its end, the interpreter waits so long for queued lines.
FLUSH_SECONDS = 1.0
#: A record's attributes for the time and the thread of the call.
_OF_CALL = ("created", "msecs", "relativeCreated", "thread", "threadName")


class Log(object):
    """The calls of the ``logging.Logger`` of this name. None of them waits or raises."""

    def __init__(self, name):
        # type: (str) -> None
        self._logger = logging.getLogger(name)
        self._begin()

    def _begin(self):
        # type: () -> None
        self._pid = os.getpid()
        self._lines = Mailbox()
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
        """An error, with the traceback of the exception that is being handled."""
        self._keep(logging.ERROR, text, arguments, sys.exc_info())

    def log(self, level, text, *arguments):
        # type: (int, str, *object) -> None
        self._keep(level, text, arguments)

    def _keep(self, level, text, arguments, error=None):
        # type: (int, str, tuple, tuple | None) -> None
        if self._pid != os.getpid():
            self._begin()  # in a forked process: the thread is missing, and the queued lines are the parent's
        if self._lines.qsize() >= WAITING_MAX:
            self._dropped += 1
            return
        frame = sys._getframe(2)
        place = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
        call = logging.LogRecord("", level, "", 0, "", (), None)  # for the time and the thread
        self._lines.put((level, place, text, arguments, error, call))
        self.start()

    def start(self):
        # type: () -> None
        """Start the log's thread now, if it does not run. Otherwise the first line starts it."""
        if self._thread is None and self._starting.acquire(False):
            try:
                if self._thread is None:
                    thread = threading.Thread(target=self._work, args=(self._lines,), name="minimalcluster-log")
                    thread.daemon = True
                    thread.start()
                    self._thread = thread
            except (RuntimeError, threading.ThreadError):
                pass  # the system starts no thread now; the next line, or ``flush``, tries again
            finally:
                self._starting.release()

    def flush(self, seconds=FLUSH_SECONDS):
        # type: (float) -> None
        """Wait until all lines so far are given to ``logging``, up to so many seconds."""
        if self._pid != os.getpid() or (self._thread is None and self._lines.empty()):
            return
        done = threading.Event()
        self._lines.put(done)
        self.start()
        if self._thread is None:  # the interpreter is ending and starts no thread
            self._hand_over_all()
        done.wait(seconds)

    # -- in the log's thread ----------------------------------------------------------------------

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
            text = "%d lines of this log were dropped: its handlers were too slow"
            self._say(logging.WARNING, ("", 0, ""), text, (dropped,), None, None)

    def _say(self, level, place, text, arguments, error, call):
        # type: (int, tuple, str, tuple, tuple | None, logging.LogRecord | None) -> None
        """Runs code of the program: handlers, filters, formatters, and ``__str__`` of the arguments."""
        try:
            if not self._logger.isEnabledFor(level):
                return
            file, number, function = place
            record = self._logger.makeRecord(
                self._logger.name, level, file, number, text, arguments, error, function
            )
            if call is not None:
                vars(record).update((name, getattr(call, name)) for name in _OF_CALL)
            self._logger.handle(record)
        except BaseException:
            self._report_failure()

    def _report_failure(self):
        # type: () -> None
        """Only once: probably every line fails."""
        if not self._has_raised:
            self._has_raised = True
            try:
                sys.stderr.write("minimalcluster: a line of the log is lost, since this program's handler raises:\n")
                traceback.print_exc()
            except BaseException:  # noqa: S110 # there is nowhere to report it
                pass


log = Log("minimalcluster")
atexit.register(log.flush)

__all__ = ["Log", "log"]

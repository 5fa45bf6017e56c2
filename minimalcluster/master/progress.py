"""A line on the terminal with a job's progress, its rate and the time left."""
from __future__ import absolute_import, division, print_function

import sys

from ..brain.status import seconds_left
from ..compat import monotonic
from ..logs import log

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Callable  # noqa: F401 # novm

#: A shorter job shows no line.
FIRST_SECONDS = 2.0
EVERY_SECONDS = 0.2


class Progress(object):
    """Calls ``report(done, seconds)`` for a job from time to time, however often ``show`` is called.

    If ``report`` is a user's function and raises while the job runs, that ends the job, as it would end a loop. After
    the last result its exception is only logged, since the results are complete.
    """

    def __init__(self, report, first_seconds):
        # type: (Callable[[int, float], object], float) -> None
        self._report = report
        self._started_at = monotonic()
        self._next_at = self._started_at + first_seconds

    def show(self, done):
        # type: (int) -> None
        now = monotonic()
        if now >= self._next_at:
            self._next_at = float("inf")  # a function that raises is not called again
            self._report(done, now - self._started_at)
            self._next_at = now + EVERY_SECONDS

    def end(self, done):
        # type: (int) -> None
        """Report for the last time, also after an exception. Not for a job that was too short to show."""
        now = monotonic()
        if now >= self._next_at - EVERY_SECONDS:
            try:
                self._report(done, now - self._started_at)
            except Exception:
                log.exception("the progress function failed after the end of the job; the results are complete")


class _Line(Progress):
    """Progress as a line on standard error that is drawn again and again. Errors of writing are ignored."""

    def __init__(self, total, first_seconds):
        # type: (int, float) -> None
        super(_Line, self).__init__(self._draw, first_seconds)
        self._total = total

    def _draw(self, done, seconds):
        # type: (int, float) -> None
        _write("\r%-70s" % line(done, self._total, seconds))

    def end(self, done):
        # type: (int) -> None
        super(_Line, self).end(done)
        if monotonic() >= self._next_at - EVERY_SECONDS:
            _write("\n")


class _Silent(Progress):
    """For a job without progress."""

    def __init__(self):
        # type: () -> None
        super(_Silent, self).__init__(lambda done, seconds: None, float("inf"))

    def show(self, done):
        # type: (int) -> None
        pass

    end = show


def progress_for(wish, total):
    # type: (object, int) -> Progress
    """wish: True, False, None (a line, if stderr is a terminal and the job is long), or a function (done, total)."""
    if callable(wish):
        return Progress(lambda done, seconds: wish(done, total), 0.0)
    if wish:
        return _Line(total, 0.0)
    if wish is None and _is_terminal():
        return _Line(total, FIRST_SECONDS)
    return _Silent()


def _is_terminal():
    # type: () -> bool
    try:
        return bool(sys.stderr.isatty())
    except Exception:  # None, closed, or another object of the program
        return False


def _write(text):
    # type: (str) -> None
    """Write to standard error. A job must not fail because its progress cannot be shown."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except Exception:  # noqa: S110 # None, closed, full, an object without flush
        pass


def line(done, total, seconds):
    # type: (int, int, float) -> str
    """For example: ``  1234/5001   24 %   410 tasks/s   9 s left``."""
    rate = done / seconds if seconds > 0 else 0.0
    if rate and done < total:
        left = duration(seconds_left(total - done, seconds, done)) + " left"
    else:
        left = "in " + duration(seconds)
    share = 100.0 * done / total if total else 100.0
    return "%9d/%d  %3d %%  %s tasks/s  %s" % (done, total, share, _rounded(rate), left)


def _rounded(rate):
    # type: (float) -> str
    return "%.1f" % rate if rate < 100 else "{:,.0f}".format(rate)


def duration(seconds):
    # type: (float) -> str
    if seconds < 59.5:  # 60 s are shown as a minute
        return "%.1f s" % seconds if seconds < 9.95 else "%.0f s" % seconds
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return "%d:%02d min" % (minutes, rest) if minutes < 60 else "%d:%02d h" % divmod(minutes, 60)

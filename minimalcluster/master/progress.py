"""A line on the terminal that says how far a job is, at what rate, and how long it will still take."""
from __future__ import absolute_import, division, print_function

import sys

from ..compat import monotonic
from ..logs import log

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Callable  # noqa: F401 # novm

#: A job shorter than this needs no line.
FIRST_SECONDS = 2.0
EVERY_SECONDS = 0.2


class Progress(object):
    """Somebody who wants to hear how far a job is: ``show`` may be called often, ``tell`` is called rarely.

    What a user's function raises while the job runs ends the job, as it would end a loop. When the job is over it is
    only logged: the results are there.
    """

    def __init__(self, tell, first_seconds):
        # type: (Callable[[int, float], object], float) -> None
        self._tell = tell
        self._started_at = monotonic()
        self._next_at = self._started_at + first_seconds

    def show(self, done):
        # type: (int) -> None
        now = monotonic()
        if now >= self._next_at:
            self._next_at = float("inf")  # a function that raises is not called again
            self._tell(done, now - self._started_at)
            self._next_at = now + EVERY_SECONDS

    def end(self, done):
        # type: (int) -> None
        """The last word, also after an exception; nothing if the job was too short to speak of."""
        now = monotonic()
        if now >= self._next_at - EVERY_SECONDS:
            try:
                self._tell(done, now - self._started_at)
            except Exception:
                log.exception("the progress function failed when the job was over, which costs no result")


class _Line(Progress):
    """Progress as a line on standard error, drawn over itself; nothing where that cannot be written."""

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
    """For a job whose progress nobody wants to hear of."""

    def __init__(self):
        # type: () -> None
        super(_Silent, self).__init__(lambda done, seconds: None, float("inf"))

    def show(self, done):
        # type: (int) -> None
        pass

    end = show


def progress_for(wish, total):
    # type: (object, int) -> Progress
    """wish: True, False, None (only on a terminal, only if it takes long) or a function of (done, total)."""
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
    except Exception:  # there is none, it is closed, or the program has put something else there
        return False


def _write(text):
    # type: (str) -> None
    """No job fails for want of somebody who looks on."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except Exception:  # noqa: S110 # None, closed, full, an object without flush: there is nowhere to say it
        pass


def line(done, total, seconds):
    # type: (int, int, float) -> str
    """For example: ``  1234/5001   24 %   410 tasks/s   9 s left``."""
    rate = done / seconds if seconds > 0 else 0.0
    left = duration((total - done) / rate) + " left" if rate and done < total else "in " + duration(seconds)
    share = 100.0 * done / total if total else 100.0
    return "%9d/%d  %3d %%  %s tasks/s  %s" % (done, total, share, _rounded(rate), left)


def _rounded(rate):
    # type: (float) -> str
    return "%.1f" % rate if rate < 100 else "{:,.0f}".format(rate)


def duration(seconds):
    # type: (float) -> str
    if seconds < 59.5:  # what is rounded up to 60 is a minute
        return "%.1f s" % seconds if seconds < 9.95 else "%.0f s" % seconds
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return "%d:%02d min" % (minutes, rest) if minutes < 60 else "%d:%02d h" % divmod(minutes, 60)

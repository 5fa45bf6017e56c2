"""What a worker process prints: a thread makes pieces of text of the bytes in its two pipes.

* A piece consists of whole lines. A line that is not complete is passed on after a moment, when it is very long, and at
  the end of the process. No character is divided between two pieces.
* The pieces of one stream stay in order. Pieces of different streams may change places, as in any program.
* ``on_text`` is called with a piece; ``taken`` is to be called when it has been handled. Until then the pipe is not
  read: a process that prints faster than the node's loop handles it has to wait, and the loop does not.
* Nothing is left out, except that of more than ``AT_ONCE_MAX`` characters at once the rest is dropped and counted.
"""
from __future__ import absolute_import, division, print_function

import codecs
import errno
import os
import select
import threading
from collections import deque

from ..compat import PY2, WINDOWS, monotonic

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import IO, Callable  # noqa: F401 # novm

OUT, ERR = "stdout", "stderr"
#: How many characters a process may print at once before some are dropped, and how many a second after that.
AT_ONCE_MAX, PER_SECOND = 16 << 20, 1 << 20
#: How long an incomplete line waits for its end, so that a line which is printed word by word stays in one piece.
PART_SECONDS = 0.1
#: An incomplete line of this length does not wait.
PART_CHARACTERS_MAX = 1 << 20
READ_BYTES = 1 << 16
#: How many of a process's last lines, and how many characters of each, an error report has.
LAST_LINES, LAST_CHARACTERS_MAX = 20, 1000
#: When a process has ended, another process that its task started may hold the pipe open, or still write to it. Reading
#: ends when nothing has come for SILENT_SECONDS, and after REST_SECONDS in any case.
SILENT_SECONDS, REST_SECONDS = 0.3, 5.0

_ERRORS = "replace" if PY2 else "backslashreplace"  # py2
_POLLS = hasattr(select, "poll")  # without it (Windows), each pipe has a thread of its own


class Stream(object):
    """One pipe's bytes as pieces of text."""

    def __init__(self, name, pipe):
        # type: (str, IO[bytes]) -> None
        self.name, self.pipe = name, pipe
        self.due = None  # type: float | None # when the incomplete line is passed on
        self._decoder = codecs.getincrementaldecoder("utf-8")(_ERRORS)
        self._part = u""  # an incomplete line that waits for its end
        self._line = u""  # the beginning of the last line, for ``last_line``

    def feed(self, data, now, is_last=False):
        # type: (bytes, float, bool) -> str
        """Take bytes; returns the text to pass on now. is_last: the pipe has ended."""
        text = self._part + self._decoder.decode(data, is_last)
        end = len(text) if is_last or len(text) > PART_CHARACTERS_MAX else text.rfind(u"\n") + 1
        if end or not self._part:
            self.due = now + PART_SECONDS if end < len(text) else None
        self._part = text[end:]
        return text[:end].replace(u"\r\n", u"\n") if WINDOWS else text[:end]

    def part(self):
        # type: () -> str
        """Take the incomplete line, to pass it on."""
        text, self._part, self.due = self._part, u"", None
        return text

    def lines(self, text):
        # type: (str) -> list[str]
        """The lines that this text completes: the last LAST_LINES of them, each shortened to LAST_CHARACTERS_MAX."""
        lines = (self._line + text).rsplit(u"\n", LAST_LINES + 1)
        lines = [line[:LAST_CHARACTERS_MAX] for line in lines[-LAST_LINES - 1 :]]
        self._line = lines.pop()
        return [line.rstrip(u"\r") for line in lines]

    def last_line(self):
        # type: () -> list[str]
        return [self._line] if self._line else []


class Allowance(object):
    """How much one process may still print. The time is an argument (seconds)."""

    def __init__(self, now):
        # type: (float) -> None
        self._left, self._at = float(AT_ONCE_MAX), now
        self._lines = 0  # dropped lines that were not reported yet
        self.due = None  # type: float | None # when to report them; until then everything is dropped

    def admits(self, text, now):
        # type: (str, float) -> bool
        self._left = min(AT_ONCE_MAX, self._left + (now - self._at) * PER_SECOND)
        self._at = now
        if self.due is None and len(text) <= self._left:
            self._left -= len(text)
            return True
        if self.due is None:
            self.due = now + 1.0
        self._lines += text.count(u"\n") or 1
        return False

    def report(self):
        # type: () -> str
        """A line that says how many lines were dropped; "" if none were. From now on text is admitted again."""
        lines, self._lines, self.due = self._lines, 0, None
        text = "[minimalcluster: %d lines dropped: a worker process has printed more than %d MB at once]\n"
        return text % (lines, AT_ONCE_MAX >> 20) if lines else ""


class Reader(object):
    """Reads a process's pipes in one thread (Windows: two).

    on_text: called as ``on_text(name of the stream, text)`` in a thread of the Reader. It must not wait. Call ``taken``
    when the text has been handled.
    """

    def __init__(self, out, err, on_text):
        # type: (IO[bytes], IO[bytes], Callable[[str, str], object]) -> None
        self._on_text = on_text
        self._streams = [Stream(OUT, out), Stream(ERR, err)]
        self._allowance = Allowance(monotonic())
        self._last = deque(maxlen=LAST_LINES)  # type: deque[str]
        self._room = threading.Semaphore(0)
        self._waits = False  # a thread waits for ``taken``
        self._reads = 0
        self._over = False  # no more output is wanted
        self._groups = [self._streams] if _POLLS else [[stream] for stream in self._streams]
        self._threads = [threading.Thread(target=self._read, args=(group,)) for group in self._groups]

    def start(self):
        # type: () -> None
        """Start the threads. Raises ThreadError if the system allows no more."""
        for group, thread in zip(self._groups, self._threads):
            thread.name, thread.daemon = "minimalcluster-output", True
            try:
                thread.start()
            except threading.ThreadError:
                _close(group)
                raise

    # -- from other threads -----------------------------------------------------------------------

    def taken(self):
        # type: () -> None
        """The text of the last ``on_text`` has been handled."""
        self._room.release()

    def finish(self):
        # type: () -> None
        """When the process has ended: wait until its output is passed on. Another process may have its pipes for ever,
        so this stops after a silence (SILENT_SECONDS), and after REST_SECONDS in any case."""
        until, before = monotonic() + REST_SECONDS, -1
        for thread in self._threads:
            while thread.is_alive() and monotonic() < until and (before != self._reads or self._waits):
                before = self._reads
                thread.join(SILENT_SECONDS)
        self._over = True

    def close(self):
        # type: () -> None
        """No more output is wanted: the threads end."""
        self._over = True
        self._room.release()

    def last_lines(self):
        # type: () -> list[str]
        return list(self._last) + [line for stream in self._streams for line in stream.last_line()]

    # -- in its own threads -----------------------------------------------------------------------

    def _read(self, streams):
        # type: (list[Stream]) -> None
        # Only this thread closes the pipe: closed elsewhere, its descriptor could be reused by the next worker process
        # between two reads here.
        try:
            poller = _Poller(streams)
            while poller.streams and not self._over:
                for stream in poller.wait(self._seconds(poller.streams)):
                    data = _next_bytes(stream.pipe)
                    self._reads += 1
                    self._pass_on(stream, stream.feed(data, monotonic(), not data))
                    if not data:
                        poller.drop(stream)
                self._pass_on_what_is_due(poller.streams)
            self._report_dropped()
        finally:
            _close(streams)

    def _seconds(self, streams):
        # type: (list[Stream]) -> float | None
        dues = [due for due in [self._allowance.due] + [each.due for each in streams] if due is not None]
        return max(0.0, min(dues) - monotonic()) if dues else None

    def _pass_on_what_is_due(self, streams):
        # type: (list[Stream]) -> None
        for stream in streams:
            if stream.due is not None and (monotonic() >= stream.due or not _POLLS):
                self._pass_on(stream, stream.part())
        if self._allowance.due is not None and monotonic() >= self._allowance.due:
            self._report_dropped()

    def _pass_on(self, stream, text):
        # type: (Stream, str) -> None
        self._last.extend(stream.lines(text))
        if text and self._allowance.admits(text, monotonic()):
            self._hand_over(stream.name, text)

    def _report_dropped(self):
        # type: () -> None
        text = self._allowance.report()
        if text:
            self._hand_over(ERR, text)

    def _hand_over(self, name, text):
        # type: (str, str) -> None
        self._on_text(name, text)
        self._waits = True
        self._room.acquire()
        self._waits = False


class _Poller(object):
    """Waits until one of these streams can be read."""

    def __init__(self, streams):
        # type: (list[Stream]) -> None
        self.streams = list(streams)
        self._poll = select.poll() if _POLLS else None
        if self._poll is not None:
            for stream in streams:
                self._poll.register(stream.pipe.fileno(), select.POLLIN)

    def drop(self, stream):
        # type: (Stream) -> None
        self.streams.remove(stream)
        if self._poll:
            self._poll.unregister(stream.pipe.fileno())

    def wait(self, seconds):
        # type: (float | None) -> list[Stream]
        if not self._poll:
            return list(self.streams)  # there is only one, and reading it waits for bytes
        try:
            found = self._poll.poll(None if seconds is None else int(1000 * seconds) + 1)
        except select.error:  # py2: a signal
            return []
        ready = [descriptor for descriptor, _ in found]
        return [stream for stream in self.streams if stream.pipe.fileno() in ready]


def _close(streams):
    # type: (list[Stream]) -> None
    for stream in streams:
        stream.pipe.close()


def _next_bytes(pipe):
    # type: (IO[bytes]) -> bytes
    """The next bytes; ``b""`` at the end."""
    while True:
        try:
            return os.read(pipe.fileno(), READ_BYTES)
        except (OSError, IOError) as error:
            if error.errno != errno.EINTR:  # py2: a signal
                return b""

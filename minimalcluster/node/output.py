"""What a worker process prints: from the bytes of its two pipes to pieces of text, in a thread beside it.

* A piece is whole lines. A part of a line is passed on when its end has not come for a moment, when it is very long,
  and at the end of the process. No character is cut, and nothing but what is too much is left out.
* Each stream is in order; what is written to different streams at once comes in any order, as from any program.
* ``tell`` takes a piece, and ``taken`` says that there is room for the next. Until then the pipe is not read: so a
  process that prints faster than the node's loop goes on is held up, and the loop is not.
* A flood is not held up without end: what a process prints beyond ``AT_ONCE_MAX`` at once is counted, and left out.
"""
from __future__ import absolute_import, division, print_function

import codecs
import errno
import os
import select
import threading
from collections import deque

from ..compat import PY2, WINDOWS, monotonic

OUT, ERR = "stdout", "stderr"
#: So many characters may a process print at once before something is left out, and then so many a second.
AT_ONCE_MAX, PER_SECOND = 16 << 20, 1 << 20
#: The part of a line waits so long for the line's end: a line that is printed word by word stays in one piece.
PART_SECONDS = 0.1
#: And a part this long does not wait.
PART_CHARACTERS_MAX = 1 << 20
READ_BYTES = 1 << 16
#: Of the last words of a process that dies.
LAST_LINES, LAST_CHARACTERS_MAX = 20, 1000
#: What a task has left behind may hold a pipe open, or write to it, when the process has ended.
SILENT_SECONDS, REST_SECONDS = 0.3, 5.0

_ERRORS = "replace" if PY2 else "backslashreplace"  # py2
_POLLS = hasattr(select, "poll")  # Windows has none, and a thread for each pipe


class Stream(object):
    """One pipe's bytes as pieces of text."""

    def __init__(self, name, pipe=None):
        # type: (str, object) -> None
        self.name, self.pipe = name, pipe
        self.due = None  # type: float | None # when the part that waits is passed on
        self._decoder = codecs.getincrementaldecoder("utf-8")(_ERRORS)
        self._part = u""
        self._line = u""  # the beginning of the line that is not at its end, for the last words

    def feed(self, data, now, is_last=False):
        # type: (bytes, float, bool) -> object
        """The text that is to be passed on now."""
        text = self._part + self._decoder.decode(data, is_last)
        end = len(text) if is_last or len(text) > PART_CHARACTERS_MAX else text.rfind(u"\n") + 1
        if end or not self._part:
            self.due = now + PART_SECONDS if end < len(text) else None
        self._part = text[end:]
        return text[:end].replace(u"\r\n", u"\n") if WINDOWS else text[:end]

    def part(self):
        # type: () -> object
        """What there is of a line whose end has not come."""
        text, self._part, self.due = self._part, u"", None
        return text

    def lines(self, text):
        # type: (object) -> list
        """The last of the lines that this text ends, cut."""
        lines = (self._line + text).rsplit(u"\n", LAST_LINES + 1)  # type: ignore[operator]
        lines = [line[:LAST_CHARACTERS_MAX] for line in lines[-LAST_LINES - 1 :]]
        self._line = lines.pop()
        return [line.rstrip(u"\r") for line in lines]

    def last_line(self):
        # type: () -> list
        return [self._line] if self._line else []


class Allowance(object):
    """How much one process may print, by a clock that is told."""

    def __init__(self, now):
        # type: (float) -> None
        self._left, self._at = float(AT_ONCE_MAX), now
        self._lines = 0  # left out, and not said
        self.due = None  # type: float | None # when there is room again, and it is to be said

    def admits(self, text, now):
        # type: (object, float) -> bool
        self._left = min(AT_ONCE_MAX, self._left + (now - self._at) * PER_SECOND)
        self._at = now
        if self.due is None and len(text) <= self._left:  # type: ignore[arg-type]
            self._left -= len(text)  # type: ignore[arg-type]
            return True
        if self.due is None:
            self.due = now + 1.0
        self._lines += text.count(u"\n") or 1  # type: ignore[attr-defined]
        return False

    def word(self):
        # type: () -> str
        """A line that says what was left out, if something was."""
        lines, self._lines, self.due = self._lines, 0, None
        text = "[minimalcluster: %d lines dropped: a worker process has printed more than %d MB at once]\n"
        return text % (lines, AT_ONCE_MAX >> 20) if lines else ""


class Reader(object):
    """Reads a process's pipes. ``tell(stream's name, text)`` is called in its threads, and must not wait."""

    def __init__(self, out, err, tell):
        # type: (object, object, object) -> None
        self._tell = tell
        self._streams = [Stream(OUT, out), Stream(ERR, err)]
        self._allowance = Allowance(monotonic())
        self._last = deque(maxlen=LAST_LINES)  # type: deque
        self._room = threading.Semaphore(0)
        self._waits = False  # for room
        self._reads = 0
        self._over = False  # nobody wants more
        self._groups = [self._streams] if _POLLS else [[stream] for stream in self._streams]
        self._threads = [threading.Thread(target=self._read, args=(group,)) for group in self._groups]

    def start(self):
        # type: () -> None
        """Raises ThreadError where there can be no more threads."""
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
        """What was told is where it belongs."""
        self._room.release()

    def finish(self):
        # type: () -> None
        """When the process has ended: wait until all is told. Something else may have the pipes, and never end."""
        until, before = monotonic() + REST_SECONDS, -1
        for thread in self._threads:
            while thread.is_alive() and monotonic() < until and (before != self._reads or self._waits):
                before = self._reads
                thread.join(SILENT_SECONDS)
        self._over = True

    def close(self):
        # type: () -> None
        """No more is wanted."""
        self._over = True
        self._room.release()

    def last_lines(self):
        # type: () -> list
        return list(self._last) + [line for stream in self._streams for line in stream.last_line()]

    # -- in its own threads -----------------------------------------------------------------------

    def _read(self, streams):
        # type: (list) -> None
        # Closed by who reads it: its number would be another file's, perhaps the next process's, before the next read.
        try:
            poller = _Poller(streams)
            while poller.streams and not self._over:
                for stream in poller.wait(self._seconds(poller.streams)):
                    data = _some(stream.pipe)
                    self._reads += 1
                    self._pass_on(stream, stream.feed(data, monotonic(), not data))
                    if not data:
                        poller.drop(stream)
                self._pass_on_what_is_due(poller.streams)
            self._say_what_is_left_out()
        finally:
            _close(streams)

    def _seconds(self, streams):
        # type: (list) -> float | None
        dues = [each.due for each in streams + [self._allowance] if each.due is not None]
        return max(0.0, min(dues) - monotonic()) if dues else None

    def _pass_on_what_is_due(self, streams):
        # type: (list) -> None
        for stream in streams:
            if stream.due is not None and (monotonic() >= stream.due or not _POLLS):
                self._pass_on(stream, stream.part())
        if self._allowance.due is not None and monotonic() >= self._allowance.due:
            self._say_what_is_left_out()

    def _pass_on(self, stream, text):
        # type: (Stream, object) -> None
        self._last.extend(stream.lines(text))
        if text and self._allowance.admits(text, monotonic()):
            self._say(stream.name, text)

    def _say_what_is_left_out(self):
        # type: () -> None
        word = self._allowance.word()
        if word:
            self._say(ERR, word)

    def _say(self, name, text):
        # type: (str, object) -> None
        self._tell(name, text)  # type: ignore[operator]
        self._waits = True
        self._room.acquire()
        self._waits = False


class _Poller(object):
    """Waits for one of these streams."""

    def __init__(self, streams):
        # type: (list) -> None
        self.streams = list(streams)
        self._poll = select.poll() if _POLLS else None
        for stream in streams if self._poll else ():
            self._poll.register(stream.pipe.fileno(), select.POLLIN)  # type: ignore[union-attr]

    def drop(self, stream):
        # type: (Stream) -> None
        self.streams.remove(stream)
        if self._poll:
            self._poll.unregister(stream.pipe.fileno())  # type: ignore[attr-defined]

    def wait(self, seconds):
        # type: (float | None) -> list
        if not self._poll:
            return list(self.streams)  # one, and reading it waits
        try:
            found = self._poll.poll(None if seconds is None else int(1000 * seconds) + 1)
        except select.error:  # py2: a signal
            return []
        ready = [descriptor for descriptor, _ in found]
        return [stream for stream in self.streams if stream.pipe.fileno() in ready]


def _close(streams):
    # type: (list) -> None
    for stream in streams:
        stream.pipe.close()


def _some(pipe):
    # type: (object) -> bytes
    """The next bytes; none at the end."""
    while True:
        try:
            return os.read(pipe.fileno(), READ_BYTES)  # type: ignore[attr-defined]
        except (OSError, IOError) as error:
            if error.errno != errno.EINTR:  # py2: a signal
                return b""

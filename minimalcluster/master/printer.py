"""Writes what tasks print to the program's own output, in a thread of its own: no other waits for a terminal.

* stdout goes to ``sys.stdout``, stderr to ``sys.stderr``, whatever these are at that moment: a notebook's stream, None,
  an object that has only ``write``, closed, full. If writing one piece of text fails, the others are still written.
* Text from other machines has the node's name before each line. Text from this machine is written unchanged.
* A file of the system is written in small pieces, each only when the file has room. So this thread never holds the
  stream's lock while it waits for a reader, and the program itself can print, and end.
"""
from __future__ import absolute_import, division, print_function

import io
import re
import select
import sys
import threading
import types
from collections import deque

from ..compat import monotonic
from ..logs import log

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any  # noqa: F401 # novm

#: So much text is queued for a slow terminal at most. Further text is dropped, and its lines are counted.
WAITING_CHARACTERS_MAX = 64 << 20
#: At the end, a terminal that takes no text at all is waited for so long.
STALLED_SECONDS = 3.0
#: In UTF-8 this fits into any pipe that has room (on Linux 4096 bytes; POSIX promises 512).
PIECE_CHARACTERS = 1000
_LOOK_SECONDS = 0.05


class Printer(object):
    """For one stream of ``sys``. ``show`` is called by one thread only, ``close`` by any; neither raises."""

    def __init__(self, name):
        # type: (str) -> None
        self._name = name
        self._texts = deque()  # type: deque # (source, prefix, text)
        # Only one thread changes each of these, so they need no lock.
        self._put = self._shown = 0  # characters
        self._dropped = self._dropped_logged = 0  # lines
        self._news = threading.Event()
        self._thread = None  # type: threading.Thread | None
        self._closing = False
        self._pieces = 0  # number of pieces written so far
        self._in_line = None  # type: tuple | None # (source, prefix) of an unfinished line
        self._has_failed = False

    def show(self, source, prefix, text):
        # type: (object, str, str) -> None
        """source: the process that printed the text. prefix: for each of its lines; "" for this machine."""
        if not text:
            return
        if self._put - self._shown > WAITING_CHARACTERS_MAX:
            self._dropped += text.count("\n") or 1
        else:
            self._put += len(text)
            self._texts.append((source, prefix, text))
        self.start()
        self._news.set()

    def start(self):
        # type: () -> None
        """Start the thread now, if it does not run; otherwise the first text starts it. If the system starts no thread,
        ``close`` writes the text."""
        if self._thread is None:
            try:
                thread = threading.Thread(target=self._work, name="minimalcluster-printer")
                thread.daemon = True
                thread.start()
                self._thread = thread
            except (RuntimeError, threading.ThreadError):
                pass

    def close(self):
        # type: () -> None
        """Write all queued text. If the stream takes none for STALLED_SECONDS, log that and give up."""
        self._closing = True
        self._news.set()
        if self._thread is None:
            self._show_all()
            return
        pieces, until = -1, 0.0
        while self._thread.is_alive() and (pieces != self._pieces or monotonic() < until):
            if pieces != self._pieces:
                pieces, until = self._pieces, monotonic() + STALLED_SECONDS
            self._thread.join(_LOOK_SECONDS)
        if self._thread.is_alive():
            text = "sys.%s has taken nothing for %g s: %d characters that tasks have printed are not shown yet"
            log.warning(text, self._name, STALLED_SECONDS, self._put - self._shown)

    # -- in the printer's thread ------------------------------------------------------------------

    def _work(self):
        # type: () -> None
        while not self._closing or self._texts:
            self._news.wait()
            self._news.clear()
            self._show_all()

    def _show_all(self):
        # type: () -> None
        while self._texts:
            source, prefix, text = self._texts.popleft()
            self._write(self._with_prefix(source, prefix, text))
            self._shown += len(text)
            lines = self._dropped - self._dropped_logged
            if lines and not self._texts:
                self._dropped_logged += lines
                log.warning("%d lines dropped that tasks have printed: sys.%s was too slow", lines, self._name)

    def _with_prefix(self, source, prefix, text):
        # type: (object, str, str) -> str
        """The text with its prefix.

        It begins a new line if the last line is unfinished and of another process, and one of the two has a prefix.
        """
        before, self._in_line = self._in_line, None if text.endswith("\n") else (source, prefix)
        continues = before is not None and before[0] == source
        breaks = before is not None and not continues and (prefix or before[1])
        if prefix:
            text = (prefix if not continues else "") + text[:-1].replace("\n", "\n" + prefix) + text[-1:]
            text = text.replace("\r", "\r" + prefix)
        return ("\n" if breaks else "") + text

    def _write(self, text):
        # type: (str) -> None
        """Raises nothing, whatever object the program has put in place of the stream."""
        file = getattr(sys, self._name, None)
        if file is None:  # for example with pythonw
            return
        room = _Room(file)
        for piece in room.pieces(text):
            try:
                room.wait()
                _write_escaped(file, piece)
                if room.is_known:
                    file.flush()
            except BaseException as error:  # an object of the program's may raise anything
                self._failed(error)
            self._pieces += 1
        try:
            if not room.is_known and hasattr(file, "flush"):
                file.flush()
        except BaseException as error:
            self._failed(error)

    def _failed(self, error):
        # type: (BaseException) -> None
        """Logged once: probably every line fails."""
        if not self._has_failed:
            self._has_failed = True
            log.warning("what tasks print cannot be shown: sys.%s: %s: %s", self._name, type(error).__name__, error)


#: Only a stream of this type certainly writes to its descriptor. A notebook's stream has one, too, but does not use it.
_FILE = getattr(types, "FileType", io.TextIOWrapper)  # py2


class _Room(object):
    """Waits until a file of the system has room for a piece. Other objects get the text line by line, at once."""

    def __init__(self, file):
        # type: (object) -> None
        self.is_known = False
        if isinstance(file, _FILE):
            try:
                self._poll = select.poll()
                self._poll.register(file.fileno(), select.POLLOUT)
                self.is_known = True
            except Exception:  # noqa: S110 # closed, or not a file of the system; Windows
                pass

    def pieces(self, text):
        # type: (str) -> list
        if self.is_known:
            return [text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS)]
        return re.findall("[^\n]*\n|[^\n]+", text)

    def wait(self):
        # type: () -> None
        try:
            while self.is_known and not self._poll.poll():
                pass
        except select.error:  # py2: a signal. Any other error comes again when writing
            pass


def _write_escaped(file, text):
    # type: (Any, str) -> None
    try:
        file.write(text)
    except UnicodeEncodeError:
        encoding = getattr(file, "encoding", None) or "ascii"
        file.write(text.encode(encoding, "backslashreplace").decode(encoding))

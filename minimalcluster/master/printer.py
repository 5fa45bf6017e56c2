"""Shows what tasks print where the program's own output goes, in a thread of its own: nobody waits for a terminal.

* stdout goes to ``sys.stdout``, stderr to ``sys.stderr``, whatever these are at that moment: a notebook's, None, an
  object with ``write`` alone, closed, full. What one piece of text meets there costs no other, and no other stream.
* Text of other machines has the node's name in front of each line; text of this machine comes as it was printed.
* A file of the system is written in small pieces, when it has room. So this thread never holds a stream's lock while it
  waits for somebody who does not read, and the program can print, and end.
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

#: Text that may wait for a slow terminal; what comes then is left out, and counted.
WAITING_CHARACTERS_MAX = 64 << 20
#: How long the end waits for a terminal that takes nothing at all.
STALLED_SECONDS = 3.0
#: Fewer than fit into a pipe that has room at all (POSIX: 512 bytes, Linux: 4096), in UTF-8.
PIECE_CHARACTERS = 1000
_LOOK_SECONDS = 0.05


class Printer(object):
    """For one of ``sys``'s streams. ``show`` may be called in one thread, and ``close`` in any; neither raises."""

    def __init__(self, name):
        # type: (str) -> None
        self._name = name
        self._texts = deque()  # type: deque # (source, prefix, text)
        # Each of these is changed in one thread alone.
        self._put = self._shown = 0  # characters
        self._left_out = self._said = 0  # lines
        self._something = threading.Event()
        self._thread = None  # type: threading.Thread | None
        self._closing = False
        self._pieces = 0  # shown so far
        self._in_line = None  # type: tuple | None # (source, prefix) of the line that has no end yet
        self._has_failed = False

    def show(self, source, prefix, text):
        # type: (object, str, str) -> None
        """source: the process that has printed it. prefix: for its lines; none for this machine's."""
        if not text:
            return
        if self._put - self._shown > WAITING_CHARACTERS_MAX:
            self._left_out += text.count("\n") or 1
        else:
            self._put += len(text)
            self._texts.append((source, prefix, text))
        self.start()
        self._something.set()

    def start(self):
        # type: () -> None
        """Its thread, unless it runs; else with the first text. Where none is to be had, ``close`` shows all."""
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
        """Show all there is; give up, with a word, when nothing has been taken for some seconds."""
        self._closing = True
        self._something.set()
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

    # -- its own thread ---------------------------------------------------------------------------

    def _work(self):
        # type: () -> None
        while not self._closing or self._texts:
            self._something.wait()
            self._something.clear()
            self._show_all()

    def _show_all(self):
        # type: () -> None
        while self._texts:
            source, prefix, text = self._texts.popleft()
            self._write(self._laid_out(source, prefix, text))
            self._shown += len(text)
            lines = self._left_out - self._said
            if lines and not self._texts:
                self._said += lines
                log.warning("%d lines dropped that tasks have printed: sys.%s was too slow for them", lines, self._name)

    def _laid_out(self, source, prefix, text):
        # type: (object, str, str) -> str
        """With its prefix, and on a line of its own, where one of the two on a line is another machine's."""
        before, self._in_line = self._in_line, None if text.endswith("\n") else (source, prefix)
        continues = before is not None and before[0] == source
        breaks = before is not None and not continues and (prefix or before[1])
        if prefix:
            text = (prefix if not continues else "") + text[:-1].replace("\n", "\n" + prefix) + text[-1:]
            text = text.replace("\r", "\r" + prefix)
        return ("\n" if breaks else "") + text

    def _write(self, text):
        # type: (str) -> None
        file = getattr(sys, self._name, None)
        if file is None:  # pythonw
            return
        room = _Room(file)
        for piece in room.pieces(text):
            try:
                room.wait()
                _write_escaped(file, piece)
                if room.is_known:
                    file.flush()
            except BaseException as error:  # whatever the program has put there
                self._failed(error)
            self._pieces += 1
        try:
            if not room.is_known and hasattr(file, "flush"):
                file.flush()
        except BaseException as error:
            self._failed(error)

    def _failed(self, error):
        # type: (BaseException) -> None
        """Said once: it would be said of every line."""
        if not self._has_failed:
            self._has_failed = True
            log.warning("what tasks print cannot be shown: sys.%s: %s: %s", self._name, type(error).__name__, error)


#: What leads to a descriptor for certain; a notebook's stream has one too, and text goes another way.
_FILE = getattr(types, "FileType", io.TextIOWrapper)  # py2


class _Room(object):
    """Waits until a file of the system's has room for a piece. What else stands for a stream gets line by line."""

    def __init__(self, file):
        # type: (object) -> None
        self.is_known = False
        if isinstance(file, _FILE):
            try:
                self._poll = select.poll()
                self._poll.register(file.fileno(), select.POLLOUT)
                self.is_known = True
            except Exception:  # noqa: S110 # closed, or none of the system's after all; Windows
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
        except select.error:  # py2: a signal; else the writing says what is wrong
            pass


def _write_escaped(file, text):
    # type: (Any, str) -> None
    try:
        file.write(text)
    except UnicodeEncodeError:
        encoding = getattr(file, "encoding", None) or "ascii"
        file.write(text.encode(encoding, "backslashreplace").decode(encoding))

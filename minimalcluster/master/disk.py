"""What may hang on a disk, one thing after the other, in a thread of its own: nobody else waits for it."""
from __future__ import absolute_import, division, print_function

import threading

from ..compat import Mailbox, queue  # noqa: F401 # in a type comment
from ..logs import log

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable  # noqa: F401 # novm


class Disk(object):
    """``do(function, ...)`` runs it soon, in the order of the calls."""

    def __init__(self):
        # type: () -> None
        self._asked = Mailbox()  # type: queue.Queue
        self._thread = None  # type: threading.Thread | None

    def start(self):
        # type: () -> None
        """Its thread, unless it runs; else with the first call. It is one thread that calls this and ``do``."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="minimalcluster-disk")
            thread.daemon = True
            thread.start()
            self._thread = thread

    def do(self, function, *arguments):
        # type: (Callable[..., object], *object) -> None
        try:
            self.start()
        except (RuntimeError, threading.ThreadError):  # no thread is to be had: better slow than never
            _do(function, arguments)
        else:
            self._asked.put((function, arguments))

    def close(self, seconds):
        # type: (float) -> None
        """Wait until all is done, at most so long."""
        if self._thread is not None:
            self._asked.put(None)
            self._thread.join(seconds)

    def _work(self):
        # type: () -> None
        asked = self._asked.get()
        while asked is not None:
            _do(*asked)
            asked = ()  # nothing here keeps a job while the next one is waited for
            asked = self._asked.get()


def _do(function, arguments):
    # type: (Callable[..., object], tuple) -> None
    try:
        function(*arguments)
    except BaseException:
        log.exception("%r failed, and the rest goes on; please report this", function)

"""A thread for work that may hang on a disk, so that the cluster's thread never waits for one."""
from __future__ import absolute_import, division, print_function

import threading

from ..compat import Mailbox, queue  # noqa: F401 # in a type comment
from ..logs import log

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable  # noqa: F401 # novm


class Disk(object):
    """``do(function, ...)`` calls the function in the disk's thread; functions run in the order of the calls."""

    def __init__(self):
        # type: () -> None
        self._calls = Mailbox()
        self._thread = None  # type: threading.Thread | None

    def start(self):
        # type: () -> None
        """Start the thread now, if it does not run; else the first ``do`` starts it. Call both in one thread."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="minimalcluster-disk")
            thread.daemon = True
            thread.start()
            self._thread = thread

    def do(self, function, *arguments):
        # type: (Callable[..., object], *object) -> None
        try:
            self.start()
        except (RuntimeError, threading.ThreadError):  # the system starts no thread: then call the function here
            _do(function, arguments)
        else:
            self._calls.put((function, arguments))

    def close(self, seconds):
        # type: (float) -> None
        """Wait until all functions have run, up to so many seconds."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join(seconds)

    def _work(self):
        # type: () -> None
        call = self._calls.get()
        while call is not None:
            _do(*call)
            call = ()  # release the job of the last call while waiting for the next one
            call = self._calls.get()


def _do(function, arguments):
    # type: (Callable[..., object], tuple) -> None
    try:
        function(*arguments)
    except BaseException:
        log.exception("%r failed, and the rest goes on; please report this", function)

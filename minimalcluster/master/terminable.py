"""SIGTERM as Ctrl-C, while somebody waits who can give what is done.

A handler in Python is a danger to processes that are forked meanwhile: of a signal that comes in such a process's first
moment nothing remains (``PyOS_AfterFork_Child`` clears what is pending), and whoever sent it to end that process, as
multiprocessing's and concurrent.futures' pools do, waits for ever. So SIGTERM is blocked from before a fork until the
new process has the default again. Before 3.7 nobody is told of forks: there SIGTERM ends the process, as ever.
"""
from __future__ import absolute_import, division, print_function

import os
import signal
import threading

#: The one whose handler is in place, and whether the interpreter tells us of forks.
_active = []  # type: list
_told = []  # type: list
_forking = threading.local()


class Terminable(object):
    """While in it, SIGTERM is as Ctrl-C, once: the next one ends the process, as one does outside.

    Only in the main thread, and where nobody else has a handler.
    """

    def __enter__(self):
        # type: () -> Terminable
        if not hasattr(os, "register_at_fork"):
            return self
        if not _told:
            os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)  # novm
            _told.append(True)
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            _active.append(self)  # before the handler is there, so that no fork misses it
            try:
                signal.signal(signal.SIGTERM, self._terminated)
            except ValueError:
                _active.remove(self)  # not the main thread: it cannot be told
        return self

    def __exit__(self, *exc_info):
        # type: (object) -> None
        if self in _active:
            if signal.getsignal(signal.SIGTERM) == self._terminated:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _active.remove(self)

    def _terminated(self, number, frame):
        # type: (int, object) -> None
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt


def _before():
    # type: () -> None
    if _active:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # novm


def _in_parent():
    # type: () -> None
    mask = _forking.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # novm


def _in_child():
    # type: () -> None
    mask = _forking.__dict__.pop("mask", None)
    if mask is not None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        del _active[:]
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # novm

"""Makes SIGTERM act as Ctrl-C while the main thread waits for results, so that partial results can be returned.

A Python signal handler is a danger to processes that are forked meanwhile. If a signal arrives just after the fork, the
new process loses it (``PyOS_AfterFork_Child`` clears pending signals), and a pool of multiprocessing or
concurrent.futures that sent SIGTERM waits for ever for the end of that process. So SIGTERM is blocked from before a
fork until the new process has the default handler again. Before 3.7 Python has no hooks for forks: there SIGTERM ends
the process, as without this module.
"""
from __future__ import absolute_import, division, print_function

import os
import signal
import threading

try:
    # What module signal is made of. On 3.7 signal.getsignal raises and catches an error that refers to itself: all its
    # callers' frames, and so a map's results, would live until the next garbage collection.
    from _signal import getsignal, signal as set_handler  # type: ignore[import-not-found]
except ImportError:  # 2.7
    from signal import getsignal, signal as set_handler

_DEFAULT = int(signal.SIG_DFL)  # module _signal takes the number alone
_active = []  # type: list # the Terminable whose handler is set
_has_fork_hooks = []  # type: list # [True] when the hooks are registered
_forking = threading.local()


class Terminable(object):
    """In this context, the first SIGTERM raises KeyboardInterrupt; the next one ends the process.

    Only in the main thread, and if the program has no handler of its own for SIGTERM.
    """

    def __enter__(self):
        # type: () -> Terminable
        if not hasattr(os, "register_at_fork"):
            return self
        if not _has_fork_hooks:
            os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)  # novm
            _has_fork_hooks.append(True)
        if getsignal(signal.SIGTERM) == _DEFAULT:
            _active.append(self)  # before setting the handler, so that no fork comes between
            try:
                set_handler(signal.SIGTERM, self._terminated)
            except ValueError:
                _active.remove(self)  # not the main thread
        return self

    def __exit__(self, *exc_info):
        # type: (object) -> None
        if self in _active:
            if getsignal(signal.SIGTERM) == self._terminated:
                set_handler(signal.SIGTERM, _DEFAULT)
            _active.remove(self)

    def _terminated(self, number, frame):
        # type: (int, object) -> None
        set_handler(signal.SIGTERM, _DEFAULT)
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
        set_handler(signal.SIGTERM, _DEFAULT)
        del _active[:]
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # novm

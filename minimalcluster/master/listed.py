"""A job over arguments that are all there: ``MasterNode``'s ``execute``, ``imap`` and ``map``, in the user's thread."""
from __future__ import absolute_import, division, print_function

from collections import namedtuple

from ..brain.options import Options  # noqa: F401 # in a type comment
from ..brain.status import JobStatus  # noqa: F401 # in a type comment
from ..compat import monotonic, ordered_dict
from ..payload import values  # noqa: F401 # in a type comment
from .job import Failure, Job, Runner, target_digest  # noqa: F401 # in a type comment
from .progress import Progress  # noqa: F401 # in a type comment
from .reader import INTERRUPT_SECONDS, WAIT_SECONDS, NotYetError, Reader
from .terminable import Terminable
from .window import Window

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Sequence  # noqa: F401 # novm

#: What to run: its name for people, and its definition for the nodes (see functions.py).
#: contents: gives what a journal knows it by, several bytes.
Target = namedtuple("Target", "name info buffers contents")


class ListedJob(Job):
    """One function over arguments that are all there: ``run`` gives a dict by key, ``iterate`` pairs as they come."""

    total = 0
    closed = True

    def __init__(self, target, keys, arguments, options, shown=None):
        # type: (Target, Sequence[Any], values.AnyArguments, Options, Sequence[Any] | None) -> None
        """shown: what errors name as the tasks' arguments, if not the keys."""
        super(ListedJob, self).__init__()
        self._target, self._keys, self._arguments, self.options = target, keys, arguments, options.scheduled()
        self.name = self.function_name = target.name
        self._shown = keys if shown is None else shown
        self.total = len(arguments)
        if options.journal is not None:
            self.resume(target_digest(target.info, target.contents()), self._shown)

    def definition(self):
        # type: () -> tuple[dict[str, Any], list[bytes]]
        info, seconds = self._target.info, self.options.timeout
        return (info if seconds is None else dict(info, timeout=seconds)), self._target.buffers

    def encode(self, first, count):
        # type: (int, int) -> list[bytes]
        return self._arguments.encode(first, count)

    def argument(self, index):
        # type: (int) -> object
        return self._shown[index]

    def run(self, runner, progress):
        # type: (Runner, Progress) -> dict[Any, Any]
        """Submit it and wait for its end. Raises as ``Reader.gather``, and Interrupted."""
        self.submit_to(runner)
        reader = Reader(self, ordered=False, keeps=True, keys=self._keys)
        try:
            with Terminable():
                return ordered_dict(zip(self._keys, self._gathered(reader, progress)))
        except KeyboardInterrupt:
            raise reader.interrupted(INTERRUPT_SECONDS)
        finally:
            count = reader.count
            reader.close()  # it is over already, or nobody wants the rest
            progress.end(count)

    def _gathered(self, reader, progress):
        # type: (Reader, Progress) -> list[Any]
        def show(count):
            # type: (int) -> None
            progress.show(max(count, self.known))  # the journal's outcomes arrive one run after the other

        while True:
            try:
                return reader.gather(monotonic() + WAIT_SECONDS, show)
            except NotYetError:
                show(reader.count)

    def iterate(self, runner, ordered):
        # type: (Runner, bool) -> Pairs
        """Submit it; an iterator of (key, result) as they come. What has been given is not kept."""
        self.window = Window()
        reader = Reader(self, ordered, keys=self._keys)
        self.submit_to(runner)
        return Pairs(reader, self._keys)


class Pairs(object):
    """What ``imap`` gives: an iterator of (argument, result). ``close`` cancels the rest, as dropping it does."""

    def __init__(self, reader, keys):
        # type: (Reader, Sequence[Any]) -> None
        self._reader, self._keys = reader, keys

    def __iter__(self):
        # type: () -> Pairs
        return self

    def __next__(self):
        # type: () -> tuple[Any, Any]
        reader = self._reader
        if reader.current:  # as ``Reader.next``, in half the time
            outcome = reader.current.pop()
            if type(outcome) is not Failure:
                return self._keys[reader.end - len(reader.current) - 1], outcome
            reader.current.append(outcome)
        try:
            outcome = reader.next()
        except KeyboardInterrupt:
            raise reader.interrupted()
        except BaseException:  # its end, too
            reader.close()
            raise
        return self._keys[reader.index()], outcome

    next = __next__  # py2

    def close(self):
        # type: () -> None
        self._reader.close()

    __del__ = close

    def status(self):
        # type: () -> JobStatus
        """How far the job is, and what it waits for; from any thread. ``str`` of it is one line."""
        return self._reader.job.status()

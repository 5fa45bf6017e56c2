"""The results of a map, as an iterator.

The thread that iterates unpickles them; for ``map_async`` and ``amap``, a thread of the executor (``watch``).
"""

import itertools
import weakref
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, Generic, Iterator, Optional, Type, TypeVar

from ..brain.options import FINISH, STOP
from ..brain.status import JobStatus
from ..master.job import Failure
from ..master.reader import NotYetError, Reader
from .futures import raisable, standard
from .maps import MapJob

T = TypeVar("T")


if TYPE_CHECKING:

    class _Chain(itertools.chain[T]):
        pass

else:

    class _Chain(itertools.chain, Generic[T]):
        pass


class MapResults(_Chain[T]):
    """The results of ``map``: in order, or as they come. ``close`` cancels the rest; so does dropping it half-way.

    It is a chain of runs of results, so that iterating runs no code of Python for each result.
    """

    #: The number of items, if the caller of the map knows it.
    expected: Optional[int] = None

    def __new__(cls, job: MapJob, timeout: Optional[float], ordered: bool, keeps: bool = False) -> "MapResults[T]":
        # A TaskError at the end needs all results: ``list(results)`` loses those that it has taken.
        keeps = keeps or job.options.on_error in (FINISH, STOP)
        if keeps:
            job.window = None  # it has all results at the end, taken or not
        reader = Reader(job, ordered, keeps, translated=standard)
        made: Any = cls.from_iterable(_runs(reader, timeout))
        made.reader = reader
        return made

    def __init__(self, job: MapJob, timeout: Optional[float], ordered: bool, keeps: bool = False) -> None:
        """timeout: the moment at which waiting raises TimeoutError. keeps: keep all results, for ``Reader.gather``."""
        self._job = job
        self.reader: Reader  # made by ``__new__``
        self._finalizer = weakref.finalize(self, _drop, weakref.ref(job))  # the cluster holds the job while it runs
        self._finalizer.atexit = False
        try:
            job.submit()
        except BaseException:  # Ctrl-C
            self.close()
            raise

    def next(self, moment: Optional[float]) -> T:
        """The next result, or what on_error makes of a failure. Raises NotYetError at the moment, and StopIteration.

        For those who do not iterate over this.
        """
        return _next(self.reader, moment)

    def close(self) -> None:
        """Cancel the map: hand out no more tasks, end running ones, forget all outcomes."""
        self._finalizer.detach()
        self.reader.close()

    def interrupt(self) -> None:
        """At Ctrl-C: close, and raise Interrupted with all outcomes that have come. Does nothing if it is closed."""
        _interrupt(self.reader)

    def status(self) -> JobStatus:
        """How far it is, and what it waits for; from any thread. ``str`` of it is one line."""
        return self._job.status()

    def is_over(self) -> bool:
        return self._job.over.is_set()

    def length(self) -> Optional[int]:
        """The number of items, if it is known, or once all of the input is read."""
        return self._job.total if self._job.closed else self.expected

    def watch(self, member: Any) -> None:
        """Give the member a turn in the executor's thread for results now, at each arrival, and at the deadline."""
        turns = self._job._core.collecting
        turns.add(member)  # the thread holds the member until its last turn
        self._job.watcher = weakref.ref(member)
        turns.call(member)  # results may have arrived before ``watcher`` was set
        if self.reader.deadline is not None:
            turns.call_at(self.reader.deadline, member)

    def look(self, member: Any) -> None:
        self._job._core.collecting.call(member)


def _runs(reader: Reader, timeout: Optional[float]) -> Iterator[Iterator[Any]]:
    """Refers to no MapResults, which must end when the program drops it."""
    with _Told(reader):
        while reader.fill(timeout):
            yield reader.rest() if reader.is_plain() else _one_by_one(reader, timeout)


def _one_by_one(reader: Reader, timeout: Optional[float]) -> Iterator[Any]:
    """What is given is not held."""
    with _Told(reader):
        while reader.current:
            try:
                yield _next(reader, timeout)
            except StopIteration:
                return  # failures that are left out were the last ones


def _next(reader: Reader, moment: Optional[float]) -> Any:
    outcome = reader.next(moment)
    if type(outcome) is Failure:
        reader.close()
        raise raisable(standard(outcome.error))
    return outcome


class _Told:
    """``with``: early ends, as they are told to those who iterate.

    No contextlib.contextmanager: a map may be dropped at the interpreter's end, when names of modules are None already.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Optional[Type[BaseException]], *_: object) -> None:
        if kind is None or kind is GeneratorExit:
            return
        if issubclass(kind, KeyboardInterrupt):
            _interrupt(self._reader)  # if it raises nothing, a task has raised KeyboardInterrupt
        elif issubclass(kind, NotYetError):
            self._reader.close()
            raise FutureTimeoutError from None


def _interrupt(reader: Reader) -> None:
    if not reader.closed:
        raise reader.interrupted() from None


def _drop(job: "weakref.ReferenceType[MapJob]") -> None:
    """Takes a weak reference: a finalizer lives as long as the program, and a job may hold results, by an error."""
    found = job()
    if found is not None:
        found.dropped()

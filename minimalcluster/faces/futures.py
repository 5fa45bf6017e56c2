"""``ClusterFuture``, the standard's whose call may also be cancelled while it runs, and the errors it holds."""

import asyncio
import os
import sys
from concurrent.futures import CancelledError, Future, TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, Dict, Generic, Optional, Tuple, Type, TypeVar

from .. import errors
from ..master.job import Failure, check_process

if sys.version_info >= (3, 7):
    from concurrent.futures import BrokenExecutor
else:
    BrokenExecutor = RuntimeError  # what 3.7 derives it from

T = TypeVar("T")

if TYPE_CHECKING:
    _Future = Future[T]
else:

    class _Future(Future, Generic[T]):
        pass


class BrokenClusterExecutor(BrokenExecutor, errors.ClusterError):
    """No work can ever be done: a failing initializer, a master that was shut down."""


class WorkerDiedError(errors.WorkerDied, BrokenExecutor):
    """The worker process died each time it ran this call; the others are not touched."""


class CallTimeoutError(FutureTimeoutError, errors.TaskTimeout):
    """The call took longer than its ``timeout`` and was ended with its worker process."""


class DeadlineExceededError(FutureTimeoutError, errors.DeadlineExceeded):
    """The ``deadline`` of the call, or of the map, has passed. results, errors: of a map, by position."""

    def __init__(
        self, message: str, results: Optional[Dict[int, Any]] = None, errors: Optional[Dict[int, Any]] = None
    ) -> None:
        super().__init__(message)
        self.results, self.errors = results or {}, errors or {}


def standard(error: BaseException) -> BaseException:
    """What programs written for concurrent.futures expect of what the node tells of a call."""
    if type(error) is errors.WorkerDied:
        return WorkerDiedError(str(error), error.exit, error.nodes, error.lines, error.peak_memory, error.argument)
    if type(error) is errors.TaskTimeout:
        return CallTimeoutError(str(error))
    if type(error) is errors.DeadlineExceeded:
        return DeadlineExceededError(str(error), error.results, error.errors)
    if type(error) is errors.ResultError and error.__context__ is not None:
        cause = error.__context__  # the pickling's own error
        cause.__cause__ = error.__cause__  # its text says which result
        return cause
    return error


#: Raised by an ``await``, they would be taken for the end, or for the cancelling of whoever waits. (Before Python 3.8
#: the last two are one.)
AWAITED = (StopIteration, CancelledError, asyncio.CancelledError)


def raisable(error: BaseException, signs: Tuple[Type[BaseException], ...] = (StopIteration,)) -> BaseException:
    """In an iterator, and in a coroutine, StopIteration would be taken for the end (PEP 479), and so other signs."""
    if not isinstance(error, signs):
        return error
    found = RuntimeError("the task raised %s" % type(error).__name__)
    found.__cause__ = error
    return found


class ClusterFuture(_Future[T]):
    """A standard Future, whose call may also be cancelled while it runs."""

    _handed_out = False  # to a node, maybe before it runs
    _decided = False  # its outcome is on the way into it
    place: Optional[Tuple[Any, int]] = None  # the job that it waits in, its task there

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()

    def result(self, timeout: Optional[float] = None) -> T:
        """As the standard's; in a forked process, which it never comes to, StateError instead of waiting."""
        self._check_process()
        found = super().exception(timeout)
        if found is not None:  # the standard's asks whether it is true, and gives None where it is not
            try:
                raise found
            finally:
                del found, self  # their traceback must not refer to them
        return super().result(0)

    def exception(self, timeout: Optional[float] = None) -> Optional[BaseException]:
        self._check_process()
        return super().exception(timeout)

    def _check_process(self) -> None:
        if self._state not in ("FINISHED", "CANCELLED_AND_NOTIFIED"):
            check_process(self._pid)

    def cancel(self) -> bool:
        """As the standard's; ``wait()`` returns for it at once, not when a worker would have got to it."""
        cancelled = super().cancel()
        with self._condition:
            if self._state == "CANCELLED":
                self.set_running_or_notify_cancel()
        place = self.place  # once: an outcome that comes right now takes it away
        if cancelled and place is not None:
            job, index = place
            job.forget(index)
        return cancelled

    def cancel_running(self) -> bool:
        """Cancel it even while it runs: its worker process is ended. False if it has an outcome already."""
        if self.cancel():
            return True
        with self._condition:
            if self._decided:
                return False
            self._state = "CANCELLED"
            self._condition.notify_all()
            self.set_running_or_notify_cancel()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        place = self.place
        if place is not None:
            job, index = place
            job.cancel_running(index)
        return True

    def hand_out(self) -> bool:
        """It goes to a node now; False if it was cancelled before."""
        with self._condition:
            if not self._handed_out and not self.cancelled():
                self._handed_out = self.set_running_or_notify_cancel()
            return self._handed_out and not self.cancelled()

    def take_back(self) -> None:
        """It was handed out, and no worker process had begun with it: it waits again, and can be cancelled."""
        with self._condition:
            if self._state == "RUNNING" and not self._decided:
                self._handed_out, self._state = False, "PENDING"

    def resolve(self, outcome: Any) -> None:
        with self._condition:
            self._decided = self.hand_out()
        self.place = None
        if not self._decided:
            return  # cancelled
        if isinstance(outcome, Failure):
            self.set_exception(standard(outcome.error))
        else:
            self.set_result(outcome)


class AwaitedFuture(ClusterFuture[T]):
    """For asyncio.wrap_future: before Python 3.12 an ``await`` never ends with a StopIteration, and with a
    CancelledError a TaskGroup says nothing."""

    def resolve(self, outcome: object) -> None:
        if isinstance(outcome, Failure):
            outcome = Failure(raisable(outcome.error, AWAITED), outcome.node)
        super().resolve(outcome)

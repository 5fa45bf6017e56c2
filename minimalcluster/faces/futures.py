"""``ClusterFuture``, a concurrent.futures.Future whose call can be cancelled while it runs, and its exceptions."""

import os
import sys
from concurrent.futures import Future, TimeoutError as FutureTimeoutError
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
    """The executor cannot work any more: its initializer failed, or its master was shut down."""


class WorkerDiedError(errors.WorkerDied, BrokenExecutor):
    """The worker process died each time it ran this call. Other calls go on."""


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
    """The exception that programs written for concurrent.futures expect, for one that a node sent."""
    if type(error) is errors.WorkerDied:
        return WorkerDiedError(str(error), error.exit, error.nodes, error.lines, error.peak_memory, error.argument)
    if type(error) is errors.TaskTimeout:
        return CallTimeoutError(str(error))
    if type(error) is errors.DeadlineExceeded:
        return DeadlineExceededError(str(error), error.results, error.errors)
    if type(error) is errors.ResultError and error.__context__ is not None:
        cause = error.__context__  # the error of the pickling
        cause.__cause__ = error.__cause__  # its text says which result
        return cause
    return error


def raisable(error: BaseException, signs: Tuple[Type[BaseException], ...] = (StopIteration,)) -> BaseException:
    """The error, or a RuntimeError caused by it if its class is one of ``signs``: StopIteration would look like the
    end of an iterator or a coroutine (PEP 479)."""
    if not isinstance(error, signs):
        return error
    found = RuntimeError("the task raised %s" % type(error).__name__)
    found.__cause__ = error
    return found


_CANCELLED = ("CANCELLED", "CANCELLED_AND_NOTIFIED")


class ClusterFuture(_Future[T]):
    """A Future whose call can be cancelled while it runs."""

    _handed_out = False  # the call was sent to a node; it may not have begun
    _decided = False  # ``resolve`` is setting the outcome
    place: Optional[Tuple[Any, int]] = None  # (its job, its task there)

    #: The exception that this future has, for one that a node sent.
    _shown = staticmethod(standard)

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()

    def result(self, timeout: Optional[float] = None) -> T:
        """As Future.result. In a forked process, where no outcome comes, it raises StateError instead of waiting."""
        self._check_process()
        found = super().exception(timeout)
        if found is not None:  # Future.result ignores an exception that is false
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
        """As Future.cancel; but waiters are notified at once, not when a worker process gets to the call."""
        cancelled = super().cancel()
        with self._condition:
            if self._state == "CANCELLED":
                self.set_running_or_notify_cancel()
        place = self.place  # read it once: ``resolve`` in another thread sets it to None
        if cancelled and place is not None:
            job, index = place
            job.forget(index)
        return cancelled

    def cancel_running(self) -> bool:
        """Cancel the call, even while it runs: then its worker process is killed. False if it has an outcome."""
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
        """The call is about to be sent to a node. Returns False if it was cancelled."""
        with self._condition:
            if self._state in _CANCELLED:
                return False
            if not self._handed_out:
                self._handed_out = self.set_running_or_notify_cancel()
            return self._handed_out

    def take_back(self) -> None:
        """The node gave the call back before it began: it waits again, and can be cancelled."""
        with self._condition:
            if self._state == "RUNNING" and not self._decided:
                self._handed_out, self._state = False, "PENDING"

    def resolve_unless_watched(self, result: T) -> bool:
        """As ``resolve``, in a thread that may run no callback; False if there is one, or the call does not run."""
        with self._condition:
            if self._done_callbacks or self._state != "RUNNING":  # type: ignore[attr-defined]
                return False
            self.resolve(result)  # under the lock: so no callback is added meanwhile
            return True

    def resolve(self, outcome: Any) -> None:
        with self._condition:
            self._decided = self._state == "RUNNING" or self.hand_out()
        self.place = None
        if not self._decided:
            return  # cancelled
        if isinstance(outcome, Failure):
            self.set_exception(self._shown(outcome.error))
        else:
            self.set_result(outcome)

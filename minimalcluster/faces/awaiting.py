"""What coroutines wait for: a call's outcome, each result of a map, the end of an executor.

Only this file imports asyncio, and ``executor.py`` imports this one when it is used: the import of asyncio takes as
long as that of all the rest.
"""

import asyncio
from concurrent.futures import CancelledError
from typing import Any, AsyncIterator, Callable, Optional, TypeVar

from ..compat import monotonic
from ..master.reader import NotYetError
from .futures import ClusterFuture, raisable, standard
from .results import MapResults

T = TypeVar("T")

#: A loop over ``amap`` lets others of its event loop run after this time, however many results are there.
HOLD_LOOP_SECONDS = 0.005

#: If an ``await`` raised these, they would look like its end, or like a cancellation of the waiting coroutine. (Before
#: Python 3.8 the last two are one class.)
AWAITED = (StopIteration, CancelledError, asyncio.CancelledError)
#: What leaves an ``async with`` block that shall end at once.
LEAVE_AT_ONCE = (asyncio.CancelledError, KeyboardInterrupt)


class AwaitedFuture(ClusterFuture[T]):
    """For asyncio.wrap_future. Before Python 3.12 an ``await`` that raises StopIteration never ends; a TaskGroup
    ignores a task that raises CancelledError."""

    _shown = staticmethod(lambda error: standard(raisable(error, AWAITED)))


async def outcome_of(future: ClusterFuture[T]) -> T:
    """Cancelling it ends the call, even while it runs."""
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        future.cancel_running()
        raise


async def each_of(begin: "Callable[[], MapResults[T]]") -> AsyncIterator[T]:
    """begin: makes the map, when its first result is asked for."""
    results = begin()
    waiting = _Waiting(results, asyncio.get_event_loop())
    results.watch(waiting)
    try:
        while await waiting.more():
            try:
                result = results.next(0.0)
            except NotYetError:
                continue  # it was a failure, which is raised at the end
            except (GeneratorExit, *AWAITED) as error:
                raise raisable(error, (GeneratorExit, *AWAITED)) from error
            yield result
    finally:
        waiting.over = True
        results.close()
        results.look(waiting)  # ``over`` makes this its last turn


async def in_thread(function: Callable[[], object]) -> None:
    """Call a function that waits, without holding the event loop."""
    await asyncio.get_event_loop().run_in_executor(None, function)


class _Waiting:
    """Lets a coroutine wait for results without a thread: the executor's thread unpickles them and wakes it."""

    over = False

    def __init__(self, results: "MapResults[Any]", loop: asyncio.AbstractEventLoop) -> None:
        self._results, self._loop = results, loop
        self._waiter: "Optional[asyncio.Future[bool]]" = None
        self._yield_at = monotonic() + HOLD_LOOP_SECONDS

    async def more(self) -> bool:
        """Wait for a result: True, or False at the end. Raises what ends the map early."""
        if self._results.reader.current:
            if monotonic() >= self._yield_at:  # a chunk may have a million results
                await asyncio.sleep(0)
                self._yield_at = monotonic() + HOLD_LOOP_SECONDS
            return True
        self._waiter = self._loop.create_future()
        self._results.look(self)
        found = await self._waiter
        self._yield_at = monotonic() + HOLD_LOOP_SECONDS
        return found

    def turn(self) -> bool:
        waiter = self._waiter
        if waiter is None or self.over:
            return self.over
        error: Optional[BaseException] = None
        try:
            found = self._results.reader.fill(0.0)
        except NotYetError:
            return False
        except BaseException as caught:
            error, found = caught, False
        self._waiter = None  # the next result waits until ``more`` is called
        try:
            self._loop.call_soon_threadsafe(_tell, waiter, found, error)
        except RuntimeError:  # the loop is closed
            return True
        return not found


def _tell(waiter: "asyncio.Future[bool]", found: bool, error: Optional[BaseException]) -> None:
    if waiter.done():
        return  # cancelled
    if error is None:
        waiter.set_result(found)
    else:
        waiter.set_exception(error)

"""One thread for many members: it calls ``turn()`` of each member that was called, and ends when it has no members.

::

    add(member), call(member), call_at(moment, member) ──> queue ──> the thread: member.turn() ──> over, or called again

An executor has one that pickles what its maps have in memory, and one that takes the results of maps for which no
thread of the user's waits. An input that may block has one of its own.
"""

import heapq
import itertools
import threading
import weakref
from collections import deque
from typing import Any, Deque, List, Optional, Set, Tuple

from ..compat import monotonic
from ..logs import log
from ..master.job import seconds_until


class Turns:
    """See the module's text. A member's ``turn()`` returns True if it needs no more turns."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition(threading.RLock())  # reentrant: a garbage collection here may end a map
        self._members: Set[Any] = set()
        self._called: Deque[Any] = deque()
        self._waiting: Set[Any] = set()  # the members in ``_called``
        self._moments: List[Tuple[float, int, Any]] = []  # a heap
        self._numbers = itertools.count()  # the heap compares these, since members have no order
        self._thread: Optional[threading.Thread] = None

    def add(self, member: Any) -> None:
        """Add a member and call it. Raises RuntimeError if no thread can be started."""
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()  # it waits for the lock
                self._thread = thread
            self._members.add(member)
            self.call(member)

    def call(self, member: Any) -> None:
        """From any thread: give the member a turn. Does nothing if it is no member, or is in the queue already."""
        if member in self._waiting:
            return
        with self._changed:
            if member in self._members and member not in self._waiting:
                self._waiting.add(member)
                self._called.append(member)
                self._changed.notify()

    def call_at(self, moment: float, member: Any) -> None:
        """Call the member at that moment. Only a weak reference is held: its last turn may be long before."""
        with self._changed:
            heapq.heappush(self._moments, (moment, next(self._numbers), weakref.ref(member)))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                member = self._next()
                if member is None:
                    self._thread = None
                    return
            over = _turn(member)
            if over:
                with self._changed:
                    self._members.discard(member)
            member = None  # do not hold it while waiting: it may be large

    def _next(self) -> Any:
        """Wait for the next member that was called; None when there are no members."""
        while self._members:
            while self._moments and self._moments[0][0] <= monotonic():
                self.call(heapq.heappop(self._moments)[2]())
            if self._called:
                member = self._called.popleft()
                self._waiting.discard(member)  # from now on it can be called again, also during its turn
                if member in self._members:
                    return member
            else:
                self._changed.wait(seconds_until(self._moments[0][0]) if self._moments else None)
        self._moments, self._called = [], deque()
        self._waiting.clear()
        return None


def _turn(member: Any) -> bool:
    try:
        return bool(member.turn())
    except BaseException:  # the other members need this thread
        log.exception("%r failed; please report this", member)
        return True

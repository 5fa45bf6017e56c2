"""A thread for many: each member of it gets a turn when it is called. It runs while it has members.

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
    """See the module's text. A member has ``turn()``, which returns whether that was its last one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition(threading.RLock())  # re-entered when garbage collection ends a map here
        self._members: Set[Any] = set()
        self._called: Deque[Any] = deque()
        self._waiting: Set[Any] = set()  # those in the queue
        self._moments: List[Tuple[float, int, Any]] = []  # a heap
        self._numbers = itertools.count()  # members have no order
        self._thread: Optional[threading.Thread] = None

    def add(self, member: Any) -> None:
        """Its first turn comes at once. Raises RuntimeError if no thread can be started."""
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()  # it waits for the lock
                self._thread = thread
            self._members.add(member)
            self.call(member)

    def call(self, member: Any) -> None:
        """Any thread: it shall have a turn. What is no member, or is in the queue, is passed over."""
        if member in self._waiting:
            return
        with self._changed:
            if member in self._members and member not in self._waiting:
                self._waiting.add(member)
                self._called.append(member)
                self._changed.notify()

    def call_at(self, moment: float, member: Any) -> None:
        """The moment may be long after the member's last turn, and does not keep it."""
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
            member = None  # it may be large

    def _next(self) -> Any:
        """Whose turn it is; None when there are no members."""
        while self._members:
            while self._moments and self._moments[0][0] <= monotonic():
                self.call(heapq.heappop(self._moments)[2]())
            if self._called:
                member = self._called.popleft()
                self._waiting.discard(member)  # from here on it may be called again
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
    except BaseException:  # a member's own business: the others' turns come all the same
        log.exception("%r failed; please report this", member)
        return True

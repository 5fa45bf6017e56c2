"""Which chunks are on their way through an engine, and which of them start now. It only decides; nothing is sent here.

When a worker process dies, most engines cannot say which chunk did it. All that were on their way are suspects: each
runs alone, task by task, and only a task that dies alone is blamed.
"""

from collections import deque
from concurrent.futures import Future
from typing import Any, Deque, List, Optional, Set, Tuple

from ..payload import values
from ..wire import protocol
from .worker import Need

#: So many tasks of which a worker process died are remembered, for all jobs together.
DEADLY_MAX = 1000


class Flight:
    """A grant on its way through the engine, in one call or in several after each other."""

    __slots__ = ("end", "future", "grant", "needs", "next", "number", "one_by_one", "request", "slot")

    def __init__(self, slot: int, grant: protocol.Grant) -> None:
        self.slot, self.grant = slot, grant
        self.next = grant.first  # the first task without an outcome
        self.end = grant.first + grant.count
        self.one_by_one = bool(grant.careful) and grant.count > 1  # so that a death is one task's
        self.needs: List[Need] = []
        self.number = 0  # of its calls so far
        self.request: Optional[int] = None  # what it has asked the master for
        self.future: "Optional[Future[Any]]" = None

    def part(self) -> protocol.Grant:
        """What its next call runs."""
        grant = self.grant
        count = 1 if self.one_by_one else self.end - self.next
        payload = grant.payload
        if count < grant.count:
            payload = values.part_of(payload, self.next - grant.first, count)
        return grant._replace(first=self.next, count=count, payload=payload)


class Flights:
    """The flights of one node, by the line in which they stand."""

    def __init__(self) -> None:
        self._waiting: Deque[Flight] = deque()
        self._suspects: Deque[Flight] = deque()
        self._flying: Set[Flight] = set()
        self._alone: Optional[Flight] = None  # the suspect that flies now
        self._deadly: Deque[Tuple[int, int]] = deque(maxlen=DEADLY_MAX)  # (job, task) that a worker process died of

    def add(self, flight: Flight) -> None:
        is_deadly = (flight.grant.job, flight.grant.first) in self._deadly
        (self._suspects if is_deadly else self._waiting).append(flight)

    def next(self) -> Optional[Flight]:
        """The flight to start now; it flies from now on. None: there is none, or a suspect is to be alone."""
        if self._alone is not None:
            return None
        if self._suspects:
            if self._flying:
                return None
            self._alone = flight = self._suspects.popleft()
            flight.one_by_one = True
        elif self._waiting:
            flight = self._waiting.popleft()
        else:
            return None
        self._flying.add(flight)
        return flight

    def has_not_started(self, flight: Flight) -> bool:
        return flight in self._waiting

    def flies(self, flight: Flight) -> bool:
        return flight in self._flying

    def is_alone(self, flight: Flight) -> bool:
        return flight is self._alone

    def remove(self, flight: Flight) -> None:
        """It is over, or what comes of it does not matter any more."""
        self._flying.discard(flight)
        for line in (self._waiting, self._suspects):
            if flight in line:
                line.remove(flight)
        if self._alone is flight:
            self._alone = None

    def suspect(self, flight: Flight) -> None:
        """A worker process died, perhaps of this one: later it flies alone."""
        self._flying.discard(flight)
        self._suspects.append(flight)

    def blame(self, flight: Flight) -> None:
        """A worker process died of its next task, which flies alone from now on, also in other grants."""
        self.remove(flight)
        self._deadly.append((flight.grant.job, flight.next))

    def forget(self, job: int) -> None:
        deadly = [task for task in self._deadly if task[0] != job]
        self._deadly.clear()
        self._deadly.extend(deadly)

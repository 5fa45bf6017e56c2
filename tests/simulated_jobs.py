"""A job of the simulation, as its user sees it: what may come back, and what has come back."""
from __future__ import absolute_import, division, print_function

import struct
from random import Random

from minimalcluster.brain.options import Options
from minimalcluster.master import journal  # noqa: F401 # in a type comment
from minimalcluster.master import window

#: Seconds of a task that never ends by itself.
HANG_SECONDS = 1e6

class Job(object):
    """A job as its user sees it: what may come back, and what has come back."""

    def __init__(self, world, number):
        # type: (World, int) -> None
        draw = world.random
        self.number = number
        self.total = int(2001 ** draw()) - 1
        self.attempts_max = 1 + int(draw() * 3)
        self.retries = int(draw() * 3) if draw() < 0.3 else 0
        copies = world.makes_copies and draw() < 0.7
        chunksize = 1 + int(draw() * 30) if copies or draw() < 0.4 else None
        self.stop_on_error = draw() < 0.15
        # Drawn apart: what else this seed means stays as it was.
        apart = Random(world.seed * 8 + number).random
        self.idempotent = apart() < 0.4
        self.options = Options(
            "stop" if self.stop_on_error else "finish", chunksize, self.retries, self.attempts_max,
            idempotent=self.idempotent,
        )
        if self.attempts_max == 1 or chunksize:
            self.total = min(self.total, 120)  # they report each task
        # The work of the whole run; less of it where it means many messages.
        work = 10.0 if copies else world.slots * 10 ** (-1 + 2 * draw()) * (3 if chunksize else 1)
        seconds = min(work, 20.0 if self.total <= 150 else 2.0) / max(1, self.total)
        heavy = draw() < 0.2
        self.seconds = [seconds * (0.5 + draw()) * (20 if heavy and draw() < 0.03 else 1) for _ in range(self.total)]
        self.poison = self._some(world, "poison", 3)
        self.raises = {index: 1 if draw() < 0.5 else 99 for index in sorted(self._some(world, "raises", 20))}
        self.grows = draw() < 0.15
        self.known = 0 if self.grows else self.total  # how many tasks the master has been told of
        self.outcomes = [None] * self.total
        self.executions = [0] * self.total
        self.raised = [0] * self.total
        self.errors = 0
        self.submitted = self.cancelled = self.finished = False
        self.id = 0  # the master's number for it
        self.stopping = False  # interrupted, or too late: what runs may end
        self.draw_reader(world.readers_random)
        self.hangs, self.fetches, self.timeout = set(), set(), None  # type: set, set, float | None
        if self.total:
            self._late_conditions(world, apart)
        self.large, self.source = {}, b"source"  # type: dict, bytes # task -> bytes that its argument and its result have more
        if world.thin:
            self._large(world, Random(world.seed * 8 + number + 5).random)
        self.journal = None  # type: journal.Journal | None
        self.journaled = apart() < 0.6 and not self.grows  # a list of arguments: execute(), map()
        self.path = "journal %d" % number
        self.delivered = []  # type: list # tasks with outcomes from nodes, as they came
        self.durable = 0  # so many of those a node was told of: it has forgotten them

    def draw_reader(self, apart):
        # type: (object) -> None
        """Its user takes its results as they come, in order, or (``window`` None) at the end, as ``execute`` does."""
        self.is_read, self.in_order = apart() < 0.4, apart() < 0.6
        self.window_size = int(2 * 200 ** apart()), int(100 * 1000 ** apart()), 1 + int(4 * apart())
        self.read_seconds = 0.02 * apart() ** 3 if apart() < 0.5 else 0.0  # between what came together and the next
        self.read_again()

    def read_again(self):
        # type: () -> None
        """A master begins: nothing has come."""
        self.window = window.Window(*self.window_size) if self.is_read else None
        self.paused = self.reading = self.announced = False  # paused: nothing is taken; reading: the next is, soon
        self.runs, self.taken = {}, 0  # type: dict, int # first -> how many outcomes that came together and wait
        self.waiting = self.adopted = 0  # outcomes of nodes that wait; tasks that a former master had handed out
        self.was_cut = bytearray(self.total)  # tasks that were handed out once

    def limit(self, slots):
        # type: (int) -> int | None
        return None if self.window is None else self.window.limit_for(slots)

    def adopt(self, first, end):
        # type: (int, int) -> None
        self.adopted += end - first
        self.was_cut[first:end] = b"\1" * (end - first)

    def may_be_cut(self, first, end):
        # type: (int, int) -> bool
        """What was handed out once always, the rest up to the limit. From now on it was."""
        limit = None if self.window is None else self.window.limit
        may = limit is None or all(self.was_cut[max(first, limit) : end])
        self.was_cut[first:end] = b"\1" * (end - first)
        return may

    def came(self, first, count, size):
        # type: (int, int, int) -> None
        """Outcomes from a node."""
        if self.window is not None:
            self.window.came(first, count, size)
            self.runs[first] = count
            self.waiting += count

    def has_too_many(self):
        # type: () -> bool
        return self.waiting > self.window_size[0] + self.adopted

    def take(self):
        # type: () -> bool | None
        """The next run of outcomes. Returns whether the master is to hear of it; None if there was none to take."""
        first = self.taken if self.in_order else min(self.runs or [self.total])
        if first not in self.runs:
            return None
        count = self.runs.pop(first)
        self.taken += count
        self.waiting -= count if first in self.window._sizes else 0  # else a journal had them
        return self.window.took(first, count)

    def _late_conditions(self, world, apart):
        # type: (World, object) -> None
        """Tasks that hang, in jobs with a limit in time; tasks that ask the master for a module or a shared object."""
        if "hang" in world.late_conditions and apart() < 0.7:
            self.timeout = 0.5 + 3 * max(self.seconds)
            self.options = self.options._replace(chunksize=1)  # as jobs.ListedJob
            del self.seconds[60:], self.outcomes[60:], self.executions[60:], self.raised[60:]
            self.total = len(self.seconds)
            self.known = min(self.known, self.total)
            self.poison = set(index for index in self.poison if index < self.total)
            self.raises = {index: times for index, times in self.raises.items() if index < self.total}
            self.hangs = set(int(apart() * self.total) for _ in range(1 + int(apart() * 3))) - self.poison
            self.raises = {index: times for index, times in self.raises.items() if index not in self.hangs}
            for index in self.hangs:
                self.seconds[index] = HANG_SECONDS
            world.count("hang")
        elif "fetch" in world.late_conditions and apart() < 0.7:
            self.fetches = set(int(apart() * self.total) for _ in range(1 + int(apart() * 20)))
            world.count("fetch")

    def _large(self, world, apart):
        # type: (World, object) -> None
        """Arguments, results and definitions that take a while on a thin link."""
        for _ in range(int(1 + 2 * apart()) if self.total else 0):
            self.large[int(apart() * self.total)] = int(world.rate * 15 ** apart())
        if apart() < 0.3:
            self.source += b"x" * int(world.rate * 8 ** apart())

    def arguments(self, first, count):
        # type: (int, int) -> list
        return [struct.pack(">qq", first, count)] + self.padding(first, count)

    def padding(self, first, count):
        # type: (int, int) -> list
        return [b"x" * self.large[index] for index in sorted(self.large) if first <= index < first + count]

    def sizes(self, first, count):
        # type: (int, int) -> list
        return [8 * count] + [len(buffer) for buffer in self.padding(first, count)]

    def bytes(self):
        # type: () -> int
        """About so many go to a node and back when each task runs once."""
        return 400 * self.total + 2 * sum(self.large.values()) + len(self.source)

    def work(self):
        # type: () -> list
        """Seconds that each task may take at most."""
        return self.seconds if self.timeout is None else [min(each, self.timeout) for each in self.seconds]

    def keys(self):
        # type: () -> list
        """A journal's: 16 bytes for each argument."""
        return [struct.pack(">QQ", self.number, index) for index in range(self.total)]

    def may_be_late(self, world, index):
        # type: (World, int) -> bool
        # A process whose end is noticed late has had its time too.
        slow = {"slow_child", "freeze", "child_crash", "poison"}.intersection(world.faults) or "slow_node" in world.conditions
        return self.timeout is not None and (index in self.hangs or bool(slow))

    def told(self, index, what):
        # type: (int, str) -> None
        self.outcomes[index] = what
        self.delivered.append(index)

    def _some(self, world, fault, most):
        # type: (World, str, int) -> set
        if fault not in world.conditions or world.random() < 0.3 or not self.total:
            return set()
        world.count(fault)
        return set(int(world.random() * self.total) for _ in range(1 + int(world.random() * most)))

    def value(self, index):
        # type: (int) -> int
        return index * 7 + self.number

    def values(self, first, count):
        # type: (int, int) -> list
        values = struct.pack(">%dq" % count, *[index * 7 + self.number for index in range(first, first + count)])
        return [b"P", b"".join([values] + self.padding(first, count))]

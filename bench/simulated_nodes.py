"""Many simulated nodes in one process, for ``scale.py``: real connections and messages, no worker processes.

    python bench/simulated_nodes.py PORT NODES SLOTS TASK_SECONDS     the key is the first line of standard input

A task only lets time pass: TASK_SECONDS, or none, which is answered at once and counts as a microsecond. The result of
each is None. At the end (the master says farewell), a line of JSON tells how many chunks and tasks there were.
"""

import heapq
import json
import os
import pickle
import random
import sys
import time
from collections import OrderedDict, deque

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from minimalcluster.node import chunks  # noqa: E402
from minimalcluster.node.link import RETRY_SECONDS_MIN  # noqa: E402
from minimalcluster.node.node import describe  # noqa: E402
from minimalcluster.wire import addresses, handshakes, protocol  # noqa: E402
from minimalcluster.wire.connection import Connection  # noqa: E402
from minimalcluster.wire.loop import Loop  # noqa: E402

HEARTBEAT_SECONDS = 2.0
NO_TIME_NS = 1000

_pickled = {}


def nothing(count):
    """The results of so many tasks, as a worker process sends plain values."""
    if count not in _pickled:
        _pickled[count] = pickle.dumps([None] * count, 4)
    return [b"P", _pickled[count]]


class Run:
    """A chunk in a slot: [0, sent) of its tasks are reported, [sent, end) are to run."""

    def __init__(self, grant, task_seconds):
        self.grant, self.began, self.sent, self.end = grant, time.monotonic(), 0, grant.count
        self._task_seconds = task_seconds
        collected = chunks.flush_seconds(grant.count, task_seconds)
        self.at_a_time = max(1, int(collected / task_seconds)) if task_seconds else grant.count

    def moment(self, stop):
        return self.began + stop * self._task_seconds

    def begun(self):
        return int((time.monotonic() - self.began) / self._task_seconds) + 1 if self._task_seconds else self.end


class Node:
    """One node's side of its connection: what it holds, and what runs in its slots."""

    def __init__(self, all_nodes, number, slots):
        self._all, self._slots = all_nodes, slots
        self._id = os.urandom(16)
        self._reports = 0
        self._waiting = OrderedDict()  # attempt -> Grant
        self._running = {}  # attempt -> Run
        self._number = number
        self._connection = None

    def dial(self, port, key):
        self._again = lambda: self.dial(port, key)
        handshake = handshakes.ClientHandshake(
            key, os.urandom(32), handshakes.NODE, self._id, sys.version_info[:2], "the master", 4, encrypt=None
        )
        sock = addresses.dial(addresses.resolve("127.0.0.1", port)[0])
        Connection(self._all.loop, sock, handshake, self, "the master", True, 60.0)

    # -- the connection's owner ------------------------------------------------------------------------

    def opened(self, connection):
        self._connection = connection
        about = dict(describe(), id=self._id.hex(), slots=self._slots, held=[], shared=[])
        connection.send(protocol.Join(about))

    def received(self, connection, messages):
        for message in messages:
            kind = type(message)
            if kind is protocol.Grant:
                self._waiting[message.attempt] = message
                self._all.chunks += 1
                self._all.tasks += message.count
                self._fill()
            elif kind is protocol.Revoke:
                self._give_back(message.attempt)
            elif kind is protocol.Joined:
                self._all.joined += 1
                self.beat()
            elif kind is protocol.Farewell:
                connection.send(protocol.Farewell({"left": True}))

    def closed(self, connection, error):
        if self._connection is None:  # a master takes so many at a time that have not proved the key yet
            self._all.at(time.monotonic() + random.uniform(RETRY_SECONDS_MIN / 2, 1.0), self._again)
            return
        self._connection = None
        self._all.left += 1

    # -- tasks -----------------------------------------------------------------------------------------

    def beat(self):
        if self._connection is not None:
            self._connection.send(protocol.Heartbeat({}))
            self._all.at(time.monotonic() + HEARTBEAT_SECONDS, self.beat)

    def _fill(self):
        while self._waiting and len(self._running) < self._slots:
            _, grant = self._waiting.popitem(last=False)
            run = self._running[grant.attempt] = Run(grant, self._all.task_seconds)
            self._go_on(run)

    def _go_on(self, run):
        """Up to where a worker process would send results."""
        stop = min(run.end, run.sent + run.at_a_time)
        if self._all.task_seconds:
            self._all.at(run.moment(stop), lambda: self._reached(run, stop))
        else:
            self._reached(run, stop)

    def _reached(self, run, stop):
        stop = min(stop, run.end)
        if stop > run.sent:
            count = stop - run.sent
            first, run.sent = run.grant.first + run.sent, stop
            nanoseconds = int(count * self._all.task_seconds * 1e9) or count * NO_TIME_NS
            self._say(lambda n: protocol.Done(n, run.grant.attempt, first, count, nanoseconds, nothing(count)))
        if run.sent < run.end:
            self._go_on(run)
        elif self._running.pop(run.grant.attempt, None) is not None:
            self._fill()

    def _give_back(self, attempt):
        """All of it, if it waits; of what runs, the tasks that have not begun."""
        waiting, run = self._waiting.pop(attempt, None), self._running.get(attempt)
        if waiting is not None:
            self._say(lambda n: protocol.Released(n, attempt, waiting.first))
        elif run is not None:
            run.end = min(run.end, run.begun())
            self._say(lambda n: protocol.Released(n, attempt, run.grant.first + run.end))
            self._all.at(run.moment(run.end), lambda: self._reached(run, run.end))

    def _say(self, message):
        if self._connection is not None:
            self._reports += 1
            self._connection.send(message(self._reports))


class Nodes:
    """All nodes of this process: their loop, and what is due when."""

    def __init__(self, task_seconds):
        self.loop, self.task_seconds = Loop(), task_seconds
        self.chunks = self.tasks = self.joined = self.left = 0
        self._due = []
        self._order = 0

    def at(self, moment, function):
        self._order += 1
        heapq.heappush(self._due, (moment, self._order, function))

    def run(self, port, key, count, slots):
        self.loop.join(self)
        waiting = deque(Node(self, number, slots) for number in range(count))
        while self.left < count:
            for _ in range(min(50, len(waiting))):  # a machine's backlog of connections has an end
                waiting.popleft().dial(port, key)
            self.loop.cycle()
        print(json.dumps({"chunks": self.chunks, "tasks": self.tasks}))

    def step(self, now):
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()

    def deadline(self):
        return self._due[0][0] if self._due else None


def main():
    port, count, slots = map(int, sys.argv[1:4])
    key = sys.stdin.readline().strip()
    Nodes(float(sys.argv[4])).run(port, key, count, slots)


if __name__ == "__main__":
    main()

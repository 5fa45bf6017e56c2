"""The simulation's time and network: who is woken when, and connections of bytes that are delayed, cut, lost, flipped."""
from __future__ import absolute_import, division, print_function

from collections import deque

from minimalcluster import protocol

class Pipe(object):
    """One direction of a connection: an ordered stream of bytes, and its end (None)."""

    def __init__(self, world, arrive, stalled_until):
        # type: (World, object, float) -> None
        self.world, self.arrive, self.stalled_until = world, arrive, stalled_until
        self.queue = deque()  # type: deque # (time, data)
        self.last = 0.0
        self.lost = False  # silently: both ends believe it is there
        self.flipped = False  # a flipped length may make the receiver wait for what never comes
        self.busy = False

    def send(self, data):
        # type: (bytes) -> None
        world = self.world
        if self.lost:
            return
        if data is None:
            self._put(None)
            return
        if world.flip_rate and world.random() < world.flip_rate:
            world.count("bit_flip")
            self.flipped = True
            at = int(world.random() * len(data))
            flipped = bytearray(data)
            flipped[at] ^= 1 << int(world.random() * 8)
            data = bytes(flipped)
        if world.cut_rate and world.random() < world.cut_rate:
            world.count("cuts")
            if len(data) < 200 and world.random() < 0.1:
                for at in range(len(data)):
                    self._put(data[at : at + 1])
                return
            at = int(world.random() * len(data))
            self._put(data[:at])
            data = data[at:]
        self._put(data)

    def _put(self, data):
        # type: (bytes) -> None
        world = self.world
        self.last = max(self.last, world.now + world.delay())
        self.queue.append((self.last, data))
        if not self.busy:
            self.busy = True
            world.at(max(self.last, self.stalled_until), self._pump)

    def _pump(self):
        # type: () -> None
        queue, now = self.queue, self.world.now
        self.busy = False
        if now >= self.stalled_until:
            while queue and queue[0][0] <= now:
                self.arrive(queue.popleft()[1])
        if queue:
            self.busy = True
            self.world.at(max(queue[0][0], self.stalled_until), self._pump)

    def flow(self):
        # type: () -> None
        """The stall is over."""
        self.stalled_until = self.world.now
        self._pump()

    def cut(self):
        # type: () -> None
        """What was on its way is lost, and the receiver hears of it."""
        self.queue.clear()
        self._put(None)


class Link(object):
    """One proved connection. Each end has its Channel and collects what it writes in a pass."""

    def __init__(self, world, node):
        # type: (World, Node) -> None
        self.node = node
        self.node_channel = protocol.Channel(b"node", b"master")
        self.master_channel = protocol.Channel(b"master", b"node")
        self.to_master = Pipe(world, self._at_master, node.stalled_until)
        self.to_node = Pipe(world, self._at_node, node.stalled_until)
        self.from_node, self.from_master = [], []  # type: list, list
        self.node_open = self.master_open = True
        self.session = None  # type: Session | None
        self.world, self.master = world, world.master

    def _at_master(self, data):
        # type: (bytes) -> None
        self.master.arrived(self, data)

    def _at_node(self, data):
        # type: (bytes) -> None
        if self.node_open:
            self.node.tell((self, data))

    def sound(self):
        # type: () -> bool
        pipes = (self.to_master, self.to_node)
        return self.node_open and self.master_open and not any(pipe.lost or pipe.flipped for pipe in pipes)

    def flush_node(self):
        # type: () -> None
        if self.from_node:
            data, self.from_node = b"".join(self.from_node), []
            self.to_master.send(data)

    def flush_master(self):
        # type: () -> None
        if self.from_master:
            data, self.from_master = b"".join(self.from_master), []
            self.to_node.send(data)

    def close_node(self):
        # type: () -> None
        if self.node_open:
            self.node_open = False
            self.flush_node()
            self.to_master.send(None)

    def close_master(self):
        # type: () -> None
        if self.master_open:
            self.master_open = False
            self.from_master = []
            self.to_node.send(None)


class Timer(object):
    """One wake-up of one shell; the earliest wish wins."""

    def __init__(self, world, call):
        # type: (World, object) -> None
        self.world, self.call, self.due = world, call, None  # type: World, object, float | None

    def set(self, moment):
        # type: (float | None) -> None
        if moment is not None and (self.due is None or moment < self.due):
            self.due = moment
            self.world.at(moment, self._ring, moment)

    def _ring(self, moment):
        # type: (float) -> None
        if self.due == moment:
            self.due = None
            self.call()

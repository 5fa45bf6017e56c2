"""The simulation's time and network: who is woken when, and connections of bytes that are delayed, cut, lost, flipped."""
from __future__ import absolute_import, division, print_function

from collections import deque

from minimalcluster.wire import frames
from minimalcluster.compat import joined

class Pipe(object):
    """One direction of a connection: an ordered stream of bytes, and its end (None).

    A thin one takes time for each byte, and more bytes only while its sender's kernel has room for them.
    """

    def __init__(self, world, arrive, stalled_until, rate, buffer_seconds):
        # type: (World, object, float, float | None, float) -> None
        self.world, self.arrive, self.stalled_until = world, arrive, stalled_until
        self.rate, self.buffer_seconds = rate, buffer_seconds
        self.free_at = 0.0  # when all is on its way that it was given
        self.waiting = False  # for room
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
        if self.rate is not None and data:
            self.free_at = max(self.free_at, world.now) + len(data) / self.rate
        self.last = max(self.last, max(self.free_at, world.now) + world.delay())
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

    def has_room(self):
        # type: () -> bool
        return self.rate is None or self.free_at <= self.world.now + self.buffer_seconds

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
        self.node_channel = frames.Channel(b"node", b"master")
        self.master_channel = frames.Channel(b"master", b"node")
        rate, piece_bytes = world.thinness(node)
        for channel in (self.node_channel, self.master_channel):
            channel._piece_bytes = piece_bytes
        self.to_master = Pipe(world, self._at_master, node.stalled_until, rate, world.buffer_seconds)
        self.to_node = Pipe(world, self._at_node, node.stalled_until, rate, world.buffer_seconds)
        self.dirty = False  # the master has something to write
        self.opened_at = self.heard_at = self.node_heard_at = world.now  # the master's last bytes came here, the node's
        self.node_open = self.master_open = True
        self.session = None  # type: Session | None
        self.world, self.master = world, world.master

    def quiet_for(self, seconds, pipe):
        # type: (float, Pipe) -> bool
        """Whether nothing may have come through this pipe for so long: the link is new, or was disturbed."""
        since = self.world.now - seconds
        disturbed = max(self.opened_at, pipe.stalled_until, self.node.frozen_until, self.node.stalled_until)
        return not self.sound() or disturbed > since - 1.0

    def busy(self):
        # type: () -> bool
        """More than a beat is on its way."""
        pipes = (self.to_master, self.to_node)
        return self.sound() and any(pipe.waiting or pipe.free_at > self.world.now + 0.5 for pipe in pipes)

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
        self._flush(self.node_channel, self.to_master)

    def flush_master(self):
        # type: () -> None
        self.dirty = False
        self._flush(self.master_channel, self.to_node)

    def _flush(self, channel, pipe):
        # type: (frames.Channel, Pipe) -> None
        """As Connection: what has to pass is taken when there is room, not earlier."""
        data = b""
        while not pipe.waiting:
            if not pipe.has_room():
                pipe.waiting = True
                self.world.at(pipe.free_at - 0.9 * pipe.buffer_seconds, self._go_on, channel, pipe)
                break
            more = joined(channel.pull())
            if not more:
                break
            if pipe.rate is None:
                data += more
            else:
                pipe.send(more)
        if data:
            pipe.send(data)

    def _go_on(self, channel, pipe):
        # type: (frames.Channel, Pipe) -> None
        pipe.waiting = False
        if self.node_open if pipe is self.to_master else self.master_open and self.master.alive:
            self._flush(channel, pipe)

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

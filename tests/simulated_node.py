"""The simulation's node: node.py's part around the real agent, and worker.py as a function of virtual time."""
from __future__ import absolute_import, division, print_function

from collections import deque

from minimalcluster import errors
from minimalcluster.wire import checks, protocol
from minimalcluster.brain import agent
from minimalcluster.compat import native
from minimalcluster.node import hands, worker
from minimalcluster.node.chunks import BLOCK_GROWTH, block_size, flush_seconds
from minimalcluster.node.link import RETRY_SECONDS_MAX, RETRY_SECONDS_MIN
from minimalcluster.wire.connection import HANDSHAKE_SECONDS
from tests.simulated_wire import Link, Timer



class Node(object):
    """node.py's part around one real agent."""

    def __init__(self, world, number, slots):
        # type: (World, int, int) -> None
        self.world, self.number, self.slots = world, number, slots
        name = 1 if "twins" in world.late_conditions else number
        about = {"id": "%d" % number, "hostname": "n%d" % name, "pid": name}
        self.agent = agent.Agent(slots, about)
        self.children = {}  # type: dict # slot -> Child
        self.files = set()  # type: set # names of the shared objects it keeps
        self.inbox = deque()  # type: deque
        self.timer = Timer(world, self.step)
        self.link = None  # type: Link | None
        self.alive, self.draining, self.joined, self.unfit = True, False, False, False
        self.frozen_until = self.stalled_until = 0.0
        self.tries = self.looks = self.lines = 0
        self.slow = 1.0
        self.fails_to_start = 0.0
        self.stuck_at = None  # type: float | None # since then none of its worker processes is there, and none starts
        self.effects = {effect: getattr(self, name) for effect, name in hands.EFFECTS.items()}
        self.dial()

    def tell(self, item):
        # type: (object) -> None
        self.inbox.append(item)
        if self.alive:
            self.timer.set(self.world.now)

    def step(self):
        # type: () -> None
        world = self.world
        if not self.alive:
            return
        if world.now < self.frozen_until:
            self.timer.set(self.frozen_until)
            return
        while self.inbox and self.alive:
            item = self.inbox.popleft()
            if type(item) is tuple:
                self.receive(*item)
            else:
                self.event(item)
        self.event(agent.TimePassed())
        self.agent.validate()
        self.stuck_at = None if self.agent._stuck is None else world.now if self.stuck_at is None else self.stuck_at
        if self.link is not None:
            self.link.flush_node()
        due = self.agent.deadline()
        if due is not None and due <= world.now:
            world.fail("the deadline %r of node %d's agent has passed: the node would spin" % (due, self.number))
        self.timer.set(due)

    def event(self, event):
        # type: (tuple) -> None
        if type(event) is not agent.TimePassed:
            self.world.note("node", self.number, type(event).__name__, event[:1] if type(event) is not agent.MasterSaid else type(event.message).__name__)  # fmt: skip
        effects = self.agent.handle(event, self.world.now)
        for effect in effects:
            self.effects[type(effect)](effect)

    # -- the link -----------------------------------------------------------------------------------

    def dial(self):
        # type: () -> None
        world = self.world
        if not self.alive or self.link is not None:
            return
        opens = max(world.now + 3 * world.delay(), self.stalled_until, self.frozen_until)
        if opens - world.now > HANDSHAKE_SECONDS:
            world.at(world.now + HANDSHAKE_SECONDS, self.try_again)
        else:
            world.at(opens, self.opened)

    def opened(self):
        # type: () -> None
        if not self.alive:
            return
        if not self.world.master.alive:  # refused
            self.try_again()
            return
        self.tries = 0
        self.link = Link(self.world, self)
        self.world.links.append(self.link)
        self.world.master.accept(self.link)
        self.tell(agent.LinkUp())

    def try_again(self):
        # type: () -> None
        self.tries += 1
        longest = min(RETRY_SECONDS_MAX, RETRY_SECONDS_MIN * 2 ** min(self.tries, 10))
        wait = RETRY_SECONDS_MIN / 2 + (longest - RETRY_SECONDS_MIN / 2) * self.world.random()
        self.world.at(self.world.now + wait, self.dial)

    def receive(self, link, data):
        # type: (Link, bytes) -> None
        if link is not self.link:
            return
        if data is None:
            self.closed()
            return
        link.heard_at = self.world.now
        self.event(agent.MasterHeard())
        try:
            messages = link.node_channel.feed(data)
        except errors.ProtocolError:
            if "bit_flip" not in self.world.conditions:
                raise
            self.closed()
            return
        for message in messages:
            if self.alive and self.link is link:
                try:
                    checks.check(message, checks.MASTER)
                except errors.ProtocolError as error:
                    self.world.expected_odd(message, error)
                    self.closed()
                    return
                self.world.is_not_odd(message)
                if type(message) is protocol.Joined:
                    self.joined, self.joined_at = True, self.world.now
                self.event(agent.MasterSaid(message))

    def closed(self):
        # type: () -> None
        self.link.close_node()
        self.world.links.remove(self.link)
        self.link, self.joined = None, False
        self.event(agent.LinkDown())
        self.try_again()

    def to_master(self, effect):
        # type: (agent.ToMaster) -> None
        if self.link is not None:
            self.link.node_channel.send(self.world.maybe_odd(effect.message))

    def warn(self, effect):
        # type: (agent.Warn) -> None
        if effect.text.startswith("no master"):
            self.world.alone += 1
        self.world.note("warn", self.number, native(effect.text))

    def look_behind(self, effect):
        # type: (agent.LookBehind) -> None
        """Now and then a job's tasks have left processes; what finds them may find the slot at work again."""
        self.looks += 1
        if self.looks % 5 == 0:
            self.tell(agent.LeftBehind(effect.slot))

    def keep(self, effect):
        # type: (agent.Keep) -> None
        if b"".join(buffer.tobytes() for buffer in effect.payload) != effect.name.encode("ascii"):
            self.world.fail("node %d is to keep another object as %s" % (self.number, effect.name))
        self.files.add(effect.name)
        self.tell(agent.Kept(effect.name, dict(effect.info, path="a file")))

    def discard(self, effect):
        # type: (agent.Discard) -> None
        self.files.discard(effect.name)

    def drop_link(self, effect):
        # type: (agent.DropLink) -> None
        if "silent" not in effect.reason:
            self.world.fail("node %d gives the master up: %s" % (self.number, effect.reason))
        if self.link is not None:
            self.world.check_silence(self.link, self.link.to_node, self.link.heard_at, agent.MASTER_LOST_SECONDS)
        if self.link is not None:
            self.closed()

    def finished(self, effect):
        # type: (agent.Finished) -> None
        if not self.draining:
            self.world.fail("node %d has finished: %s" % (self.number, effect.reason))
        self.end()

    def end(self):
        # type: () -> None
        """The process is gone; the kernel closes its connection."""
        if self.alive:
            self.alive = False
            if self.link is not None:
                self.link.close_node()
                self.world.links.remove(self.link)
                self.link = None
            for slot in sorted(self.children):
                self.children[slot].alive = False

    # -- worker processes ---------------------------------------------------------------------------

    def start_child(self, effect):
        # type: (agent.StartChild) -> None
        if effect.slot in self.children:
            self.world.fail("slot %d of node %d has two worker processes" % (effect.slot, self.number))
        self.children[effect.slot] = child = Child(self, effect.slot)
        seconds = 0.05 + 0.15 * self.world.random()
        if self.fails_to_start and self.world.random() < self.fails_to_start:
            self.world.count("failing_start")
            if self.world.random() < 0.5:
                self.world.at(self.world.now + seconds, child.die, "exit code 1")
            else:  # no thread, process or descriptor was left for it
                del self.children[effect.slot]
                self.tell(agent.ChildExited(effect.slot, {"exit": "cannot start", "shortage": True}))
        else:
            self.world.at(self.world.now + seconds, child.start)

    def to_child(self, effect):
        # type: (agent.ToChild) -> None
        message = effect.message
        if type(message) is protocol.Fetched and "path" in message.info and message.info["name"] not in self.files:
            self.world.fail("node %d answers with a file that it has dropped: %r" % (self.number, message.info))
        child = self.children.get(effect.slot)
        if child is not None and child.alive:
            child.hear(message)
        elif child is not None and type(message) is protocol.Grant:
            child.grant = message

    def kill_child(self, effect):
        # type: (agent.KillChild) -> None
        child = self.children.get(effect.slot)
        if child is not None:
            if not child.alive and child.grant is not None:  # it is dead already, and its node has not noticed
                job = self.world.by_id[child.grant.job]
                if job.timeout is not None:
                    job.raised[child.grant.first] += 1
            child.die("killed by its node")


class Child(object):
    """worker.py as a function of virtual time: one call for each block, or part of one that ends early."""

    def __init__(self, node, slot):
        # type: (Node, int) -> None
        self.node, self.slot, self.world = node, slot, node.world
        self.alive, self.slow = True, 1.0
        self.odd = False  # it has said what cannot be; nothing more is heard of it
        self.inbox = deque()  # type: deque
        self.definitions = set()  # type: set
        self.revoked = set()  # type: set
        self.task_seconds = {}  # type: dict
        self.grant = None  # type: protocol.Grant | None # the attempt at hand
        self.has_begun = False  # its tasks' own code
        self.prepared = set()  # type: set # jobs whose initializer has run here
        self.first = self.stop = 0  # tasks [first, stop) run in this part of a block, since part_at
        self.got = set()  # type: set # names of what the master has sent
        self.asked, self.asks = None, 0  # type: tuple | None, int # (request, name) that the task waits for

    def start(self):
        # type: () -> None
        if self.alive:
            self.node.tell(agent.ChildReady(self.slot))

    def send(self, message):
        # type: (tuple) -> None
        if self.odd:
            return
        message = self.world.maybe_odd(message)
        try:
            checks.check(message, checks.CHILD)
        except errors.ProtocolError as error:
            self.world.expected_odd(message, error)
            self.odd = True
            self.world.at(self.world.now, self.die, "killed by its node")
            return
        self.world.is_not_odd(message)
        self.node.tell(agent.ChildSaid(self.slot, message))

    def die(self, how):
        # type: (str) -> None
        if not self.alive:
            return
        self.alive = False
        running = None
        if self.grant is not None and self.has_begun:
            at, index = self.part_at, self.first
            while index < self.stop - 1 and at + self.seconds(index) <= self.world.now:
                at += self.seconds(index)
                index += 1
            self.ran(self.first, index + 1)
            running = None if self.odd else [self.job.number, index]  # else its node does not know how far it was
            if self.job.timeout is not None and self.world.now >= self.part_at + 0.99 * self.job.timeout:
                self.job.raised[index] += 1  # that was a try
        info = {"exit": how, "lines": [], "death": self.world.next_number(), "running": running}
        if self.world.short_of_memory and info["death"] % 3:
            info["memory"] = True
        self.world.at(self.world.now + (0.001 if self.world.random() < 0.8 else self.world.random()), self.gone, info)

    def gone(self, info):
        # type: (dict) -> None
        if self.node.children.get(self.slot) is self:
            del self.node.children[self.slot]
        self.node.tell(agent.ChildExited(self.slot, info))

    # -- its reader thread --------------------------------------------------------------------------

    def hear(self, message):
        # type: (tuple) -> None
        name = worker.READ.get(type(message))
        if name is not None:
            getattr(self, name)(message)
            return
        self.inbox.append(message)
        if self.grant is None:
            self.serve()

    def _give_back(self, message):
        # type: (protocol.Revoke) -> None
        if self.grant is None or self.grant.attempt != message.attempt:
            self.revoked.add(message.attempt)
        else:
            self.end = self.claimed
            self.send(protocol.Released(0, message.attempt, self.end))

    def _drop_shared(self, message):
        # type: (protocol.Drop) -> None
        self.got.discard(message.info["name"])

    def _fetched(self, message):
        # type: (protocol.Fetched) -> None
        if self.asked is None or message.request != self.asked[0]:
            self.world.fail("an answer to request %d, which waits no more: %r" % (message.request, self.asked))
        name, self.asked = self.asked[1], None
        if message.info.get("name") != name:
            self.world.fail("asked for %s, a worker process gets %r" % (name, message.info))
        self.got.add(name)
        self.run()

    # -- its main thread ----------------------------------------------------------------------------

    def serve(self):
        # type: () -> None
        while self.inbox and self.grant is None:
            message = self.inbox.popleft()
            getattr(self, worker.SERVED[type(message)])(message)

    def _leave(self, message):
        # type: (protocol.Farewell) -> None
        """It ends with its node."""

    def _define(self, message):
        # type: (protocol.DefineJob) -> None
        self.definitions.add(message.job)

    def _forget(self, message):
        # type: (protocol.ForgetJob) -> None
        self.definitions.discard(message.job)
        self.task_seconds.pop(message.job, None)

    def _grant(self, grant):
        # type: (protocol.Grant) -> None
        if self.world.tasks_print:
            self.node.lines += 1
            text = "%d\n" % self.node.lines
            output = protocol.Output({"pid": self.slot, "stream": "stdout", "text": text})
            self.node.tell(agent.ChildSaid(self.slot, output))
        if self.node.unfit or grant.job not in self.definitions:
            self.send(protocol.Unfit(0, grant.attempt, grant.first, {"text": "no numpy here", "type": "ImportError"}))
            return
        arguments = self.world.by_id[grant.job].arguments(grant.first, grant.count)
        if [len(buffer) for buffer in grant.payload] != [len(buffer) for buffer in arguments]:
            self.world.fail("the arguments of %r have other sizes than they had" % (grant[:5],))
        if grant.payload[0].tobytes() != arguments[0]:
            self.world.fail("the arguments of %r are not its own" % (grant,))
        self.grant, self.job = grant, self.world.by_id[grant.job]
        self.careful = grant.careful
        self.reported = self.claimed = grant.first
        self.end = grant.first + grant.count
        self.pending = 0  # results from ``reported`` on, not sent
        if grant.attempt in self.revoked:
            self.end = self.claimed
            self.send(protocol.Released(0, grant.attempt, self.end))
        self.revoked.clear()
        seconds = self.task_seconds.get(grant.job)
        self.block = 1 if seconds is None or self.careful else block_size(seconds)
        self.flushed_at = self.world.now
        self.flush_seconds = flush_seconds(self.end - self.claimed, seconds)
        self.has_begun = False
        if self.job.timeout is not None and grant.job not in self.prepared and (grant.job + self.slot) % 2:
            # An initializer that takes longer than a task may, which is no business of the limit's.
            self.world.count("slow_initializer")
            self.world.at(self.world.now + 2 * self.job.timeout, self.is_prepared, grant)
        else:
            self.claim()

    def is_prepared(self, grant):
        # type: (protocol.Grant) -> None
        if self.alive and self.grant is grant:
            self.prepared.add(grant.job)
            self.claim()

    def claim(self):
        # type: () -> None
        count = min(self.block, self.end - self.claimed)
        if not count:
            self.flush()
            self.grant = None
            self.serve()
            return
        self.block_first, self.block_at = self.claimed, self.world.now
        self.claimed += count
        self.first = self.block_first
        self.run()

    def seconds(self, index):
        # type: (int) -> float
        return self.job.seconds[index] * max(self.slow, self.node.slow)

    def run(self):
        # type: () -> None
        """Up to the block's end, or to the first task that raises or kills, or asks for what is not here."""
        job, stop, seconds, self.has_begun = self.job, self.first, 0.0, True
        if job.timeout is not None:
            self.send(protocol.Begun(self.grant.attempt))
        slow = max(self.slow, self.node.slow)
        if job.fetches and stop in job.fetches and self.wants(stop) not in self.got:
            self.part_at, self.stop, self.asks = self.world.now, stop + 1, self.asks + 1
            name = self.wants(stop)
            self.asked = self.asks, name
            what = "share" if name.startswith("s") else "module"
            self.send(protocol.Fetch(self.asks, {"what": what, "name": name}))
            return
        while stop < self.claimed:
            if job.fetches and stop in job.fetches and self.wants(stop) not in self.got:
                break
            seconds += job.seconds[stop] * slow
            stop += 1
            if stop - 1 in job.poison or stop - 1 in job.raises:
                break
        self.part_at, self.stop = self.world.now, stop
        self.world.at(self.world.now + seconds, self.ended)

    def wants(self, index):
        # type: (int) -> str
        """The name of what a task asks the master for."""
        return "%s%d" % ("sm"[index % 2], index % 3)

    def ran(self, first, stop):
        # type: (int, int) -> None
        for index in range(first, stop):
            self.job.executions[index] += 1
        self.world.executed += stop - first

    def ended(self):
        # type: () -> None
        if not self.alive or self.grant is None:
            return
        if self.node.frozen_until > self.world.now and self.node.freezes_children:
            self.world.at(self.node.frozen_until, self.ended)
            return
        job, last = self.job, self.stop - 1
        if last in job.poison:
            self.die("killed by signal 9 (SIGKILL)")
            return
        self.ran(self.first, self.stop)
        raised = job.raised[last] < job.raises.get(last, 0)
        self.pending += self.stop - self.first - raised
        if raised:
            job.raised[last] += 1
            self.flush()
            self.send(protocol.Failed(0, self.grant.attempt, self.reported, 0, {"raised": last}, []))
            self.reported += 1
        if self.stop < self.claimed:
            self.first = self.stop
            self.run()
            return
        now = self.world.now
        seconds = max(now - self.block_at, 1e-9) / (self.claimed - self.block_first)
        self.task_seconds[self.grant.job] = seconds
        if self.careful or now - self.flushed_at >= self.flush_seconds:
            self.flush()
        if not self.careful:
            self.block = min(block_size(seconds), self.block * BLOCK_GROWTH)
        self.claim()

    def flush(self):
        # type: () -> None
        if self.pending:
            elapsed = int((self.world.now - self.flushed_at) * 1e9)
            payload = self.job.values(self.reported, self.pending)
            self.send(protocol.Done(0, self.grant.attempt, self.reported, self.pending, elapsed, payload))
            self.reported += self.pending
            self.pending = 0
        self.flushed_at = self.world.now

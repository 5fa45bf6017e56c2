"""A whole cluster inside a ``for`` loop, with a seed: virtual clock, network, nodes, worker processes.

::

    World: heap of (time, call) -----------------------------------------------------+
      |                                                                              |
    Master  real scheduler.Scheduler   \\                                             |
      |     real protocol.Channel       }  one Link per connection: two Pipes of      |
    Node    real protocol.Channel       }  bytes: delayed, cut, stalled, lost, flipped|
      |     real agent.Agent           /                                             |
    Child   modelled after child.py: blocks, flush, careful, Released ---------------+

Only the shells are modelled (what cluster.py, node.py and child.py do around the brains). The
journal is real too, on a disk that fills up and a master that dies at any byte of it (see
simulated_disk.py), and so is the rule when an outcome is acknowledged (``Cluster._answer``). Each
seed draws *which* faults exist at all and their rates; after a moment they stop, and everything
must come to its end within bounded virtual time. Safety is checked after every event.

Rules:

* Randomness comes from ``Random.random()`` alone: the rest of that class differs between 2.7 and 3.x.
* A seed's run is the same everywhere: the event log's hash says so.

``python -m tests.simulation --seeds 2000`` prints a report; ``--first N`` begins at seed N.
"""
from __future__ import absolute_import, division, print_function

import argparse
import gc
import heapq
import math
import multiprocessing
import struct
import sys
import time
import zlib
from collections import OrderedDict, deque
from random import Random

from minimalcluster import agent, cluster, errors, jobs, journal, leases, protocol, scheduler
from minimalcluster.compat import native
from tests import simulated_disk

TAIL_LENGTH = 60
CALM_SECONDS = 60.0  # beyond the work itself; a node that is alone takes 60 s to give up, within the faults' time
QUIET_SECONDS = 1.5  # after the last job: revoked tasks are killed after 0.5 s, everything is acknowledged
HANDSHAKE_SECONDS = 5.0  # transport.py
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.2, 10.0  # node.py
BLOCK_SECONDS, BLOCK_GROWTH, FLUSH_SECONDS = 0.005, 16, 0.02  # child.py
INTERRUPT_SECONDS = 1.5  # jobs.py
HANG_SECONDS = 1e6

#: Faults that strike at random moments, each by the World's method of that name.
STRIKES = (
    "reset", "away", "silence", "stall", "stall_one_way", "freeze", "crash", "power_cut", "child_crash", "slow_child",
    "duplicate_connection", "drain", "all_gone", "cancel", "stale_replay",
)  # fmt: skip
#: More of them, drawn apart. The master's: killed at once, at a byte of a journal, or with its machine.
LATE_STRIKES = (
    "cancel_task", "interrupt", "master_kill", "master_kill_at_byte", "master_power_cut", "disk_full", "wall_clock",
)  # fmt: skip
#: The newest, drawn apart from those: nobody reads the results; a shared object is dropped while tasks may want it.
LATEST_STRIKES = ("pause", "drop_shared")
#: Faults that are a property of the run.
CONDITIONS = ("bit_flip", "cuts", "slow_link", "poison", "raises", "unfit", "failing_start", "late_nodes", "slow_node")
#: More of them, drawn apart: a property of a job, but for twins (nodes of one name).
LATE_CONDITIONS = ("hang", "fetch", "twins")
#: What makes the cluster run a task again. A reset does not: the node is back in time, with what it holds.
LOSSES = frozenset(STRIKES) - {"reset", "slow_child", "drain", "cancel", "stale_replay"} | {
    "bit_flip", "slow_link", "cancel_task", "master_power_cut", "disk_full"
}  # fmt: skip
#: Faults that cost nothing: with these alone every task runs once.
HARMLESS = tuple(name for name in STRIKES if name not in LOSSES)
#: These cost nothing either: with a journal, what runs when the master is killed is adopted by the next one.
KILLS = ("master_kill", "master_kill_at_byte")
ADOPTED = frozenset(KILLS + LATEST_STRIKES) | {
    "drain", "raises", "cuts", "fetch", "twins", "wall_clock", "cancel", "interrupt"
}  # fmt: skip
#: Faults that make two nodes hold the same tasks.
COPIES = ("away", "child_crash", "drain")


#: Seeds that a process takes at a time.
PART = 50


class Failure(AssertionError):
    """A rule of the cluster was broken; the text says which, in which run, after what."""


class Job(object):
    """A job as its user sees it: what may come back, and what has come back."""

    def __init__(self, world, number):
        # type: (World, int) -> None
        draw = world.random
        self.number = number
        self.total = int(2001 ** draw()) - 1
        self.attempts_max = 1 + int(draw() * 3)
        self.retries = int(draw() * 3) if draw() < 0.3 else 0
        copies = world.strikes is COPIES and draw() < 0.7
        chunksize = 1 + int(draw() * 30) if copies or draw() < 0.4 else None
        self.stop_on_error = draw() < 0.15
        # Drawn apart: what else this seed means stays as it was.
        apart = Random(world.seed * 8 + number).random
        self.idempotent = apart() < 0.4
        self.options = leases.Options(
            chunksize, self.retries, self.attempts_max, self.stop_on_error, self.idempotent
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
        self.paused = False  # nobody reads its results
        self.hangs, self.fetches, self.timeout = set(), set(), None  # type: set, set, float | None
        if self.total:
            self._late_conditions(world, apart)
        self.journal = None  # type: journal.Journal | None
        self.journaled = apart() < 0.6 and not self.grows  # a list of arguments: execute(), map()
        self.path = "journal %d" % number
        self.delivered = []  # type: list # tasks with outcomes from nodes, as they came
        self.durable = 0  # so many of those a node was told of: it has forgotten them

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

    def work(self):
        # type: () -> list
        """Seconds that each task may take at most."""
        return self.seconds if self.timeout is None else [min(each, self.timeout) for each in self.seconds]

    def keys(self):
        # type: () -> list
        """As journal.argument_keys: 16 bytes for each argument."""
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
        return [struct.pack(">%dq" % count, *[index * 7 + self.number for index in range(first, first + count)])]


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


# -- the master, as cluster.py -----------------------------------------------------------------------


class Session(object):
    def __init__(self, master, number, link):
        # type: (Master, int, Link) -> None
        self.master, self.number, self.link = master, number, link
        self.node = None  # type: int | None
        self.report = self.answered = 0
        self.owes_answer = self.draining = False

    def send(self, message):
        # type: (tuple) -> None
        self.master.send(self, message)


class Master(object):
    """cluster.py's part: messages become events, effects become messages."""

    def __init__(self, world, epoch):
        # type: (World, int) -> None
        self.world = world
        self.epoch = epoch
        self.scheduler = scheduler.Scheduler(epoch)
        self.alive = True
        self.sessions = self._sessions = OrderedDict()  # type: dict # node id -> Session
        self.jobs = self._jobs = OrderedDict()  # type: dict # number -> Job
        self._sync_at = 0.0  # the names with _ are those that Cluster._answer knows
        self.stale = []  # type: list # events of closed sessions, to be replayed
        self.inbox = deque()  # type: deque
        self.next_session = 1
        self.step_timer = Timer(world, self.step)
        self.links = []  # type: list # with something to write
        self.acting = None  # type: tuple | None # the event at hand
        self.replaying = False
        self.effects = {
            scheduler.Define: self.define, scheduler.Grant: self.grant, scheduler.Revoke: self.revoke,
            scheduler.Forget: self.forget, scheduler.Deliver: self.deliver,
            scheduler.DeliverFailure: self.deliver_failure, scheduler.DeliverPoison: self.deliver_poison,
            scheduler.Finish: self.finish, scheduler.Disconnect: self.disconnect, scheduler.Explain: self.explain,
            scheduler.Idle: lambda effect: None,
        }  # fmt: skip

    def accept(self, link):
        # type: (Link) -> None
        link.session = Session(self, self.next_session, link)
        self.next_session += 1

    def arrived(self, link, data):
        # type: (Link, bytes) -> None
        if self.alive:
            self.inbox.append((link, data))
            self.step_timer.set(self.world.now)

    def call(self, event):
        # type: (tuple) -> None
        """Something a user asks for."""
        self.event(event)
        self.step_timer.set(self.world.now)

    def step(self):
        # type: () -> None
        if not self.alive:
            return
        while self.inbox:
            self.receive(*self.inbox.popleft())
        self.event(scheduler.TimePassed())
        vars(cluster.Cluster)["_answer"](self, self.world.now)
        links, self.links = self.links, []
        for link in links:
            link.flush_master()
        due = self.scheduler.deadline()
        if self._dirty_journals():
            due = self._sync_at if due is None else min(due, self._sync_at)
        if due is not None and due <= self.world.now:
            self.world.fail("the scheduler's deadline %r has passed: the master would spin" % due)
        self.step_timer.set(due)

    def _dirty_journals(self):
        # type: () -> list
        return vars(cluster.Cluster)["_dirty_journals"](self)

    def died(self, silently):
        # type: (bool) -> None
        """The process is gone; the kernel closes its connections, or its machine is gone too."""
        self.alive = False
        for link in list(self.world.links):
            if link.master is self:
                if silently:
                    link.to_node.lost = link.to_master.lost = True
                link.close_master()

    def receive(self, link, data):
        # type: (Link, bytes) -> None
        session = link.session
        if not link.master_open:
            return
        if data is None:
            self.close(session)
            return
        try:
            messages = link.master_channel.feed(data)
        except errors.ProtocolError:
            if "bit_flip" not in self.world.conditions:
                raise
            self.close(session)
            return
        for message in messages:
            if link.master_open:
                self.said(session, message)

    def close(self, session):
        # type: (Session) -> None
        if session.link.master_open:
            session.link.close_master()
            if session.node is not None:
                self.event(scheduler.NodeDisconnected(session.node, session.number))
                if self.sessions.get(session.node) is session:
                    del self.sessions[session.node]

    def said(self, session, message):
        # type: (Session, tuple) -> None
        kind = type(message)
        if session.node is None:
            if kind is not protocol.Join:
                self.world.fail("%r before Join" % (message,))
            self.joined(session, message.info)
            return
        if kind is protocol.Farewell:
            left = message.info.get("left")
            session.draining = True
            self.event((scheduler.NodeLeft if left else scheduler.NodeDraining)(session.node, session.number))
            if left:
                self.close(session)
            return
        node, number = session.node, session.number
        if kind is protocol.Fetch:
            self.world.at(self.world.now + 0.5 * self.world.random() ** 3, self.fetched, session, message)
            return
        if kind is protocol.Heartbeat:
            session.owes_answer = True
            event = scheduler.NodeHeard(node, number)
        else:
            if message.report <= session.report:
                self.world.fail("report %d comes after report %d" % (message.report, session.report))
            session.report = message.report
            if kind is protocol.Done:
                event = scheduler.TasksDone(
                    node, number, message.attempt, message.first, message.count, message.elapsed_ns / 1e9, message.payload
                )
            elif kind is protocol.Failed:
                event = scheduler.TaskFailed(
                    node, number, message.attempt, message.first, message.elapsed_ns / 1e9, message.info, message.payload
                )
            elif kind is protocol.Released:
                event = scheduler.AttemptReleased(node, number, message.attempt, message.first)
            elif kind is protocol.Died:
                event = scheduler.AttemptDied(node, number, message.attempt, message.first, message.info)
            else:
                event = scheduler.AttemptUnfit(node, number, message.attempt, message.first, message.info)
                job = self.jobs.get(self.world.granted[message.attempt])
                if job is not None and not self.world.nodes[node].unfit:
                    self.world.fail("node %d is unfit for a job it could run: %r" % (node, message.info))
            if len(self.stale) < 200:
                self.stale.append(event)
        self.event(event)

    def fetched(self, session, message):
        # type: (Session, protocol.Fetch) -> None
        """library.py answers from a thread of its own."""
        if self.alive and session.link.master_open:
            info = {"found": True, "name": message.info["name"]}
            self.send(session, protocol.Fetched(message.request, info, [message.info["name"].encode("ascii")]))
            session.link.flush_master()

    def joined(self, session, info):
        # type: (Session, dict) -> None
        older = self.sessions.get(info["id"])
        if older is not None and older.number > session.number:
            self.close(session)
            return
        session.node = info["id"]
        self.sessions[session.node] = session
        name = native("%s/%s" % (info["hostname"], info["pid"]))
        self.event(scheduler.NodeJoined(session.node, session.number, info["slots"], name, info["held"]))
        if older is not None:
            self.close(older)
        self.send(session, protocol.Joined({"epoch": self.epoch}))

    def send(self, session, message):
        # type: (Session, tuple) -> None
        link = session.link
        if link.master_open:
            if type(message) is protocol.Acknowledge:
                self.check_durable()
            if not link.from_master:
                self.links.append(link)
            link.from_master.extend(link.master_channel.frame(message))

    def check_durable(self):
        # type: () -> None
        """A node is about to forget results: they are on the disk, or the journal has said that it stopped."""
        for job in self.world.jobs.values():
            if job.journal is not None and job.durable < len(job.delivered):
                disk = self.world.disks[job.path]
                if disk.synced < len(disk.data) and job.journal.dirty and not disk.stopped:
                    self.world.fail("job %d: results are acknowledged before they are on the disk" % job.number)
                job.durable = len(job.delivered)

    def event(self, event):
        # type: (tuple) -> None
        world = self.world
        self.acting = event
        if type(event) is not scheduler.TimePassed:
            world.note("master", type(event).__name__, event[:4])
        effects = self.scheduler.handle(event, world.now)
        if effects or type(event) not in (scheduler.TimePassed, scheduler.NodeHeard):  # else nothing has changed
            self.scheduler.validate()
        for effect in effects:
            self.effects[type(effect)](effect)

    def replay(self):
        # type: () -> None
        """Events of sessions that are closed, once more: nothing may change, nothing may happen."""
        for event in self.stale:
            session = self.sessions.get(event.node)
            if session is None or session.number != event.session:
                before = self.scheduler.snapshot(), self.scheduler.deadline()
                effects = self.scheduler.handle(event, self.world.now)
                if effects or before != (self.scheduler.snapshot(), self.scheduler.deadline()):
                    self.world.fail("an event of a closed session changed something: %r, %r" % (event, effects))
        self.stale = []

    # -- effects ------------------------------------------------------------------------------------

    def live_job(self, number):
        # type: (int) -> Job
        job = self.jobs.get(number)
        if job is None:
            self.world.fail("an effect for job %d, which is finished or unknown" % number)
        return job  # type: ignore[return-value]

    def define(self, effect):
        # type: (scheduler.Define) -> None
        self.live_job(effect.job)
        info = {"job": effect.job, "timeout": self.jobs[effect.job].timeout}
        self.send(self.sessions[effect.node], protocol.DefineJob(effect.job, info, [b"source"]))

    def grant(self, effect):
        # type: (scheduler.Grant) -> None
        world, job = self.world, self.live_job(effect.job)
        world.note("grant", effect.node, effect.attempt, effect.first, effect.count, effect.careful)
        if effect.attempt in world.granted:
            world.fail("attempt %d is granted twice" % effect.attempt)
        world.granted[effect.attempt] = effect.job
        if effect.count < 1 or effect.first + effect.count > job.known:
            world.fail("a grant of tasks that are not there: %r" % (effect,))
        if any(job.outcomes[effect.first : effect.first + effect.count]):
            world.fail("a grant of tasks that have outcomes: %r" % (effect,))
        if job.cancelled or job.stopping or (job.stop_on_error and job.errors):
            world.fail("a grant after the end: %r" % (effect,))
        if job.paused:
            world.fail("a grant of a paused job: %r" % (effect,))
        if effect.node not in self.sessions or self.sessions[effect.node].draining:
            world.fail("a grant to a node that is not there or wants no more: %r" % (effect,))
        node = self.scheduler._nodes[effect.node]
        if len(node.leases) > 2 * node.slots:
            world.fail("a grant to a node that has no credit: %r" % (effect,))
        piece = node.leases[effect.attempt].piece
        if piece.apart and len(node.leases) > 1 or node.reserved not in (None, piece):
            world.fail("a grant beside a task that runs apart: %r" % (effect,))
        if job.journal is not None:
            job.journal.grant(effect.attempt, effect.first, effect.count)
        self.send(
            self.sessions[effect.node],
            protocol.Grant(
                effect.attempt, effect.job, effect.first, effect.count, int(effect.careful),
                [struct.pack(">qq", effect.first, effect.count)],
            ),
        )  # fmt: skip

    def revoke(self, effect):
        # type: (scheduler.Revoke) -> None
        self.world.note("revoke", *effect)
        session = self.sessions.get(effect.node)
        if session is not None:
            self.send(session, protocol.Revoke(effect.attempt, int(effect.kill)))

    def forget(self, effect):
        # type: (scheduler.Forget) -> None
        session = self.sessions.get(effect.node)
        if session is not None:
            self.send(session, protocol.ForgetJob(effect.job))

    def outcome(self, job, index, what):
        # type: (Job, int, str) -> None
        if job.outcomes[index] is not None:
            self.world.fail("task %d of job %d has a second outcome: %s, %s" % (index, job.number, job.outcomes[index], what))
        job.told(index, what)
        if self.world.crashed_at is not None:
            self.world.master_recovery = max(self.world.master_recovery, self.world.now - self.world.crashed_at)
            self.world.crashed_at = None

    def deliver(self, effect):
        # type: (scheduler.Deliver) -> None
        job = self.live_job(effect.job)
        if job.journal is not None:
            job.journal.done(effect.first, effect.count, effect.payload)
        data = b"".join(buffer.tobytes() for buffer in effect.payload)
        values = struct.unpack(">%dq" % (len(data) // 8), data)[effect.skip : effect.count]
        if len(values) != effect.count - effect.skip or not values:
            self.world.fail("%d values for %r" % (len(values), effect[:4]))
        for index, value in enumerate(values, effect.first + effect.skip):
            if value != job.value(index):
                self.world.fail("task %d of job %d: value %r is wrong" % (index, job.number, value))
            if index in job.poison or index in job.hangs:
                self.world.fail("task %d of job %d kills or hangs, and has a value" % (index, job.number))
            self.outcome(job, index, "value")

    def deliver_failure(self, effect):
        # type: (scheduler.DeliverFailure) -> None
        job = self.live_job(effect.job)
        self.sessions[effect.node]  # cluster.py looks there who it was
        # No retries once it is stopped.
        tries = 1 if job.stopping or job.stop_on_error and job.errors else job.retries + 1
        late = effect.info.get("type") == "TaskTimeout"
        if late and not job.may_be_late(self.world, effect.first):
            self.world.fail("task %d of job %d had not taken too long: %r" % (effect.first, job.number, effect[:4]))
        if not late and effect.info != {"raised": effect.first} or job.raised[effect.first] < tries:
            self.world.fail("a failure of a task that raised %d times: %r" % (job.raised[effect.first], effect[:4]))
        if job.journal is not None:
            job.journal.failed(effect.first, effect.info, effect.payload)
        job.errors += 1
        self.outcome(job, effect.first, "failure")

    def deliver_poison(self, effect):
        # type: (scheduler.DeliverPoison) -> None
        job, deaths = self.live_job(effect.job), [death.info for death in effect.deaths]
        # The first may be that of a whole chunk: one of its tasks did it. All others must be exact, except
        # that a process which was dead already when it was given the task cannot be told from one it killed.
        exact = [death for death in (deaths if job.attempts_max == 1 else deaths[1:]) if death["running"] is not None]
        killed = sum("memory" in death for death in deaths)
        if (
            max(killed, len(deaths) - killed) != job.attempts_max
            or len(set(death["death"] for death in deaths)) != len(deaths)
            or any(death["running"] != [job.number, effect.first] for death in exact)
            or any(death["running"] is not None and death["running"][0] != job.number for death in deaths)
        ):
            self.world.fail("task %d of job %d is blamed for deaths that are not its own: %r" % (effect.first, job.number, deaths))
        if job.journal is not None:
            job.journal.failed(effect.first, {"poison": effect.first}, [])
        job.errors += 1
        self.outcome(job, effect.first, "poison")

    def finish(self, effect):
        # type: (scheduler.Finish) -> None
        world, job = self.world, self.live_job(effect.job)
        world.note("finish", effect.job, bool(effect.unfit))
        left = job.outcomes[: job.known].count(None)
        if effect.unfit is not None:
            if job.cancelled or job.stopping or job.errors and job.stop_on_error:
                world.fail("job %d was stopped for another reason than %r" % (job.number, effect.unfit))
            fit = [node for node in world.nodes.values() if node.alive and not node.draining and not node.unfit]
            if any(node.joined and node.link.master is self and node.link.master_open for node in fit):
                world.fail("job %d ends as unfit, and there is a node that is fit" % job.number)
        elif left and not job.cancelled and not job.stopping and not (job.stop_on_error and job.errors):
            world.fail("job %d is finished without %d outcomes" % (job.number, left))
        elif job.known < job.total and not job.cancelled and not job.stopping and not job.errors:
            world.fail("job %d is finished and still grows" % job.number)
        if job.journal is not None:
            job.journal.sync()  # as cluster.py, before its user is told
        job.finished = True
        world.unfinished -= 1
        del self.jobs[effect.job]
        if job.journal is not None:
            job.journal.close()
            job.journal = None
            world.check_journal(job, len(job.delivered))

    def disconnect(self, effect):
        # type: (scheduler.Disconnect) -> None
        self.world.note("disconnect", *effect[:2])
        session = self.sessions.get(effect.node)
        if session is not None and session.number == effect.session:
            self.close(session)

    def explain(self, effect):
        # type: (scheduler.Explain) -> None
        self.world.note("explain", native(effect.text))


# -- a node, as node.py ------------------------------------------------------------------------------


class Node(object):
    """node.py's part around one real agent."""

    def __init__(self, world, number, slots):
        # type: (World, int, int) -> None
        self.world, self.number, self.slots = world, number, slots
        name = 1 if "twins" in world.late_conditions else number
        about = {"id": number, "hostname": "n%d" % name, "pid": name}
        self.agent = agent.Agent(slots, about)
        self.children = {}  # type: dict # slot -> Child
        self.files = set()  # type: set # names of the shared objects it keeps
        self.inbox = deque()  # type: deque
        self.timer = Timer(world, self.step)
        self.link = None  # type: Link | None
        self.alive, self.draining, self.joined, self.unfit = True, False, False, False
        self.frozen_until = self.stalled_until = 0.0
        self.tries = self.looks = 0
        self.slow = 1.0
        self.fails_to_start = 0.0
        self.effects = {
            agent.ToMaster: self.to_master, agent.ToChild: self.to_child, agent.StartChild: self.start_child,
            agent.KillChild: self.kill_child, agent.DropLink: self.drop_link, agent.Finished: self.finished,
            agent.Warn: self.warn, agent.Keep: self.keep, agent.Discard: lambda effect: self.files.discard(effect.name),
            agent.LookBehind: self.look_behind,
        }  # fmt: skip
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
        try:
            messages = link.node_channel.feed(data)
        except errors.ProtocolError:
            if "bit_flip" not in self.world.conditions:
                raise
            self.closed()
            return
        for message in messages:
            if self.alive:
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
            self.link.from_node.extend(self.link.node_channel.frame(effect.message))

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

    def drop_link(self, effect):
        # type: (agent.DropLink) -> None
        if "silent" not in effect.reason:
            self.world.fail("node %d gives the master up: %s" % (self.number, effect.reason))
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
            self.world.at(self.world.now + seconds, child.die, "exit code 1")
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


# -- a worker process, as child.py -------------------------------------------------------------------


class Child(object):
    """child.py as a function of virtual time: one call for each block, or part of one that ends early."""

    def __init__(self, node, slot):
        # type: (Node, int) -> None
        self.node, self.slot, self.world = node, slot, node.world
        self.alive, self.slow = True, 1.0
        self.inbox = deque()  # type: deque
        self.definitions = set()  # type: set
        self.revoked = set()  # type: set
        self.task_seconds = {}  # type: dict
        self.grant = None  # type: protocol.Grant | None # the attempt at hand
        self.first = self.stop = 0  # tasks [first, stop) run in this part of a block, since part_at
        self.got = set()  # type: set # names of what the master has sent
        self.asked, self.asks = None, 0  # type: tuple | None, int # (request, name) that the task waits for

    def start(self):
        # type: () -> None
        if self.alive:
            self.node.tell(agent.ChildReady(self.slot))

    def send(self, message):
        # type: (tuple) -> None
        self.node.tell(agent.ChildSaid(self.slot, message))

    def die(self, how):
        # type: (str) -> None
        if not self.alive:
            return
        self.alive = False
        running = None
        if self.grant is not None:
            at, index = self.part_at, self.first
            while index < self.stop - 1 and at + self.seconds(index) <= self.world.now:
                at += self.seconds(index)
                index += 1
            self.ran(self.first, index + 1)
            running = [self.job.number, index]
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
        if isinstance(message, protocol.Revoke):
            if self.grant is None or self.grant.attempt != message.attempt:
                self.revoked.add(message.attempt)
            else:
                self.end = self.claimed
                self.send(protocol.Released(0, message.attempt, self.end))
            return
        if isinstance(message, protocol.Fetched):
            self.answered(message)
            return
        if isinstance(message, protocol.Drop):
            self.got.discard(message.info["name"])
            return
        self.inbox.append(message)
        if self.grant is None:
            self.serve()

    def answered(self, message):
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
            if isinstance(message, protocol.DefineJob):
                self.definitions.add(message.job)
            elif isinstance(message, protocol.ForgetJob):
                self.definitions.discard(message.job)
                self.task_seconds.pop(message.job, None)
            else:
                self.begin(message)

    def begin(self, grant):
        # type: (protocol.Grant) -> None
        if self.node.unfit or grant.job not in self.definitions:
            self.send(protocol.Unfit(0, grant.attempt, grant.first, {"text": "no numpy here", "type": "ImportError"}))
            return
        if grant.payload[0].tobytes() != struct.pack(">qq", grant.first, grant.count):
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
        self.block = 1 if seconds is None or self.careful else _block_size(seconds)
        self.flushed_at = self.world.now
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
        job, stop, seconds = self.job, self.first, 0.0
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
        if self.careful or now - self.flushed_at >= FLUSH_SECONDS:
            self.flush()
        if not self.careful:
            self.block = min(_block_size(seconds), self.block * BLOCK_GROWTH)
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


def _block_size(seconds):
    # type: (float) -> int
    return max(1, int(BLOCK_SECONDS / seconds))


# -- the world ---------------------------------------------------------------------------------------


class World(object):
    """One seed's run. ``run()`` returns when every job has ended and the cluster is quiet, or raises Failure."""

    def __init__(self, seed):
        # type: (int) -> None
        self.seed, self.now = seed, 0.0
        self.random = Random(seed).random
        self.heap = []  # type: list
        self.number = 0
        self.events = self.executed = 0
        self.hash = 0
        self.tail = deque(maxlen=TAIL_LENGTH)  # type: deque
        self.faults = {}  # type: dict # kind -> how often
        self.last_fault = None  # type: str | None
        self.nodes, self.jobs, self.links = {}, {}, []  # type: dict, dict, list
        self.by_id = {}  # type: dict # a master's number for a job -> Job
        self.granted = {}  # type: dict # attempt -> the master's number for its job
        self.disks = {}  # type: dict # path -> Disk
        self.crashes = 0  # of the master
        self.crashed_at = None  # type: float | None
        self.master_recovery = 0.0  # the longest time from a master's end to the next outcome
        self.wall_offset = 0.0
        self.alone = 0  # nodes that had no master for so long that they dropped everything
        self.calm_at = None  # type: float | None
        self.draw()

    # -- what exists in this run ----------------------------------------------------------------------

    def draw(self):
        # type: () -> None
        draw = self.random
        many = draw() * 0.7
        self.conditions = set(name for name in CONDITIONS if draw() < many)
        theme = draw()
        self.strikes = HARMLESS if theme < 0.25 else COPIES if theme < 0.5 else STRIKES
        self.delay_seconds = 10 ** (-4 + 2 * draw()) * (20 if "slow_link" in self.conditions else 1)
        if "slow_link" in self.conditions:
            self.count("slow_link")
        elif self.strikes is HARMLESS and draw() < 0.7:
            self.delay_seconds = 0.05  # so that most resets catch something on its way
        if self.strikes is STRIKES:
            rates = {name: 0.1 * 40 ** draw() for name in STRIKES if draw() < many}
        else:
            rates = {name: 0.5 * 8 ** draw() for name in self.strikes if draw() < 0.7}
            if "reset" in rates:
                rates["reset"] *= 3
        self.draw_late(rates)
        self.rates = rates
        self.flip_rate = 0.1 * draw() ** 3 if "bit_flip" in self.conditions else 0.0
        self.cut_rate = draw() if "cuts" in self.conditions else 0.0
        self.faults_end = 0.5 + 5 * draw() if draw() < 0.95 else 10 + 110 * draw()
        count = 1 + int((4 if draw() < 0.95 else 50) * draw())
        if self.strikes is COPIES:
            count += 1
        slots = [1 + int(4 * draw() ** 2) for _ in range(count)]
        self.slots = sum(slots)
        self.master = Master(self, 1 + int(draw() * 1000))
        for each in slots:
            late = "late_nodes" in self.conditions
            self.at(draw() * (self.faults_end if late else 0.1), self.new_node, each)
        for number in range(1, 3 if draw() < 0.3 else 2):
            self.jobs[number] = job = Job(self, number)
            self.disks[job.path] = simulated_disk.Disk(job.path)
            self.at(draw() ** 2 * self.faults_end * 0.5, self.submit, job)
        self.unfinished = len(self.jobs)
        for name in sorted(rates):
            self.at(self.next_strike(rates[name]), self.strike, name, rates[name])
        self.at(self.faults_end, self.calm)
        self.limit = self.faults_end + 1000.0

    def draw_late(self, rates):
        # type: (dict) -> None
        """Drawn apart, so that what else a seed means stays as it was."""
        apart = Random(self.seed * 8 + 7).random
        self.late_conditions = set(name for name in LATE_CONDITIONS if apart() < 0.2)
        if "twins" in self.late_conditions:
            self.count("twins")
        kind = apart()
        if kind < 0.15:  # the master's end alone: with a journal nothing may run twice
            rates.clear()
            rates.update((name, 0.3 * 5 ** apart()) for name in KILLS + ("drain",))
            self.conditions -= {"bit_flip", "slow_link", "poison"}
        elif kind < 0.6:
            rates.update((name, 0.1 * 10 ** apart()) for name in LATE_STRIKES if apart() < 0.4)
        apart = Random(self.seed * 8 + 6).random
        rates.update((name, 0.3 * 10 ** apart()) for name in LATEST_STRIKES if apart() < 0.15)
        if "drop_shared" in rates:
            self.late_conditions.add("fetch")  # else there is nothing to drop
        self.cancels_journaled = apart() < 0.5
        self.short_of_memory = apart() < 0.3

    def delay(self):
        # type: () -> float
        return self.delay_seconds * (0.5 + self.random())

    def next_number(self):
        # type: () -> int
        self.number += 1
        return self.number

    def new_node(self, slots):
        # type: (int) -> None
        number = self.next_number()
        self.nodes[number] = node = Node(self, number, slots)
        if self.calm_at is None:
            node.unfit = "unfit" in self.conditions and self.random() < 0.3
            if node.unfit:
                self.count("unfit")
            node.fails_to_start = 0.5 * self.random() if "failing_start" in self.conditions else 0.0
            node.slow = 10.0 if "slow_node" in self.conditions and self.random() < 0.3 else 1.0

    def submit(self, job):
        # type: (Job) -> None
        job.submitted = True
        if not self.master.alive:
            return  # the next one gets it
        known = self.open_journal(job) if job.journaled else None
        job.id = (self.master.epoch << cluster.JOB_SHIFT) + job.number
        self.by_id[job.id] = self.master.jobs[job.id] = job
        self.master.call(scheduler.JobSubmitted(job.id, None if job.grows else job.total, job.options))
        if known is not None:
            done = sorted(set(known.done) | set(known.failed))
            spans = vars(jobs)["_spans"](done)
            attempts = [(attempt, first, first + count) for attempt, first, count in known.grants]
            self.master.call(scheduler.JobResumed(job.id, spans, attempts))
            if known.failed and job.stop_on_error:
                self.master.call(scheduler.JobStopped(job.id))
        if job.grows:
            self.grow(job, self.master)

    def grow(self, job, master):
        # type: (Job, Master) -> None
        if job.finished or not master.alive:
            return
        job.known = min(job.total, job.known + 1 + int(self.random() * 200))
        closed = job.known == job.total
        if not closed:
            self.at(self.now + 0.2 * self.random(), self.grow, job, master)
        master.call(scheduler.JobGrew(job.id, job.known, closed))

    # -- journals, and a master that ends -------------------------------------------------------------

    def open_journal(self, job):
        # type: (Job) -> journal.Known
        """As jobs.ListedJob: what is known counts, the rest is to be run."""
        opened = journal.Journal(job.path)
        if len(self.disks[job.path].data) != opened._good:
            self.fail("the journal of job %d is written on behind a torn record" % job.number)
        known = self.known(opened, job)
        self.agrees(job, known)
        opened.begin("target %d" % job.number, "arguments", job.total, "f", job.keys)
        for index in known.done:
            job.outcomes[index] = "value"
        for index, (info, _) in known.failed.items():
            job.outcomes[index] = "poison" if "poison" in info else "failure"
        job.errors = len(known.failed)
        job.journal = opened
        return known

    def agrees(self, job, known):
        # type: (Job, journal.Known) -> None
        """A journal knows nothing that its user was not told."""
        for index, (buffers, offset) in known.done.items():
            data = b"".join(buffer.tobytes() for buffer in buffers)
            if struct.unpack(">q", data[8 * offset : 8 * offset + 8])[0] != job.value(index):
                self.fail("the journal has a wrong value for task %d of job %d" % (index, job.number))
            self.told_so(job, index, "value")
        for index, (info, _) in known.failed.items():
            self.told_so(job, index, "poison" if "poison" in info else "failure")

    def told_so(self, job, index, what):
        # type: (Job, int, str) -> None
        if job.outcomes[index] not in (None, what):  # None: the master ended between the record and the word
            self.fail("task %d of job %d is a %s in the journal, and was a %s" % (index, job.number, what, job.outcomes[index]))

    @staticmethod
    def known(opened, job):
        # type: (journal.Journal, Job) -> journal.Known
        return opened.known("target %d" % job.number, "arguments", job.total, job.keys)

    def check_journal(self, job, durable):
        # type: (Job, int) -> None
        """What the journal owes after an end of the master, or the job's: all that was durable. Then its file is harmed."""
        disk = self.disks[job.path]
        opened = journal.Journal(job.path, reading=True)
        count, end, last_at = len(opened._records), opened._good, opened._records[-1].at if opened._records else 0
        known = self.known(opened, job)
        self.agrees(job, known)
        lost = [index for index in job.delivered[:durable] if index not in known.done and index not in known.failed]
        if lost and not disk.stopped:
            self.fail("the journal of job %d has lost tasks %r, which a node has forgotten" % (job.number, lost[:9]))
        good = bytes(disk.data)
        try:
            del disk.data[int(self.random() * len(disk.data)) :]
            try:
                part = self.known(journal.Journal(job.path, reading=True), job)
                if not set(part.done).issubset(known.done) or not set(part.failed).issubset(known.failed):
                    self.fail("a part of the journal of job %d knows more than all of it" % job.number)
            except errors.JournalError:
                if len(disk.data) >= 40:  # its header
                    raise
            disk.data[:] = good
            at = int(self.random() * end)
            disk.data[at] ^= 1 << int(self.random() * 8)
            try:
                records = journal.Journal(job.path, reading=True)._records
            except errors.JournalError:
                return
            # The last record may be taken for a torn one.
            if len(records) >= count or at < last_at:
                self.fail("a flipped bit in the journal of job %d was not noticed" % job.number)
        finally:
            disk.data[:] = good

    def master_down(self, silently):
        # type: (bool) -> None
        """Its process ends; its script is started again. Of a job without a journal nothing is left."""
        self.crashes += 1
        self.crashed_at = self.now
        self.master.died(silently)
        self.note("master", "down", self.master.epoch)
        for disk in self.disks.values():
            disk.dies_in = None
        for number in sorted(self.jobs):
            job = self.jobs[number]
            if job.submitted and not job.finished:
                self.forget(job, silently)
        pause = 5 * self.random() ** 3 if self.random() < 0.9 else 30 * self.random()
        self.at(self.now + 0.01 + pause, self.restart)

    def forget(self, job, silently):
        # type: (Job, bool) -> None
        disk = self.disks[job.path]
        if silently and disk.data:  # its page cache is lost, but for a part; or the file has grown and has no data
            kept = disk.synced + int(self.random() * (len(disk.data) - disk.synced + 1))
            zeros = self.random() < 0.3
            disk.data[kept:] = b"\0" * (len(disk.data) - kept) if zeros else b""
        if job.journaled and len(disk.data) >= 40:
            self.check_journal(job, job.durable)
        job.journal, job.durable = None, 0
        job.outcomes[:] = [None] * job.total
        del job.delivered[:]
        job.errors, job.stopping, job.paused = 0, False, False
        job.known = 0 if job.grows else job.total
        if job.cancelled:  # its user wanted no more of it
            job.finished = True
            self.unfinished -= 1

    def restart(self):
        # type: () -> None
        self.master = Master(self, 1 + self.crashes + int(self.random() * 2**22))
        self.note("master", "up", self.master.epoch)
        for number in sorted(self.jobs):
            job = self.jobs[number]
            if job.submitted and not job.finished:
                self.submit(job)

    def master_kill(self):
        # type: () -> None
        if self.master.alive:
            self.count("master_kill")
            self.master_down(False)

    def master_kill_at_byte(self):
        # type: () -> None
        job = self.pick([self.jobs[number] for number in sorted(self.jobs) if self.jobs[number].journal is not None])
        if job is not None and self.master.alive:
            self.count("master_kill_at_byte")
            self.disks[job.path].dies_in = 1 + int(300 * self.random())

    def master_power_cut(self):
        # type: () -> None
        if self.master.alive:
            self.count("master_power_cut")
            self.master_down(True)

    def disk_full(self):
        # type: () -> None
        job = self.pick([self.jobs[number] for number in sorted(self.jobs) if self.jobs[number].journal is not None])
        if job is not None:
            self.count("disk_full")
            self.disks[job.path].room = int(500 * self.random())

    def wall_clock(self):
        # type: () -> None
        self.count("wall_clock")
        self.wall_offset += 7200 * (self.random() - 0.5)

    # -- faults ---------------------------------------------------------------------------------------

    def next_strike(self, rate):
        # type: (float) -> float
        return self.now - math.log(1.0 - self.random()) / rate

    def strike(self, name, rate):
        # type: (str, float) -> None
        if self.calm_at is None:
            try:
                getattr(self, name)()
            finally:
                self.at(self.next_strike(rate), self.strike, name, rate)

    def pick(self, things):
        # type: (list) -> object
        return things[int(self.random() * len(things))] if things else None

    def pick_node(self):
        # type: () -> Node | None
        return self.pick([self.nodes[number] for number in sorted(self.nodes) if self.nodes[number].alive])  # type: ignore[return-value]

    def reset(self):
        # type: () -> None
        """Of a connection that works: two in a row would be longer than the master waits."""
        link = self.pick([link for link in self.links if link.node.joined])
        if link is not None:
            self.count("reset")
            link.to_master.cut()
            link.to_node.cut()

    def away(self):
        # type: () -> None
        """A reset, and no way back until the node's tasks run elsewhere."""
        link = self.pick(self.links)
        if link is not None:
            self.count("away")
            link.node.stalled_until = max(link.node.stalled_until, self.now + 0.9 + 3 * self.random())
            link.to_master.cut()
            link.to_node.cut()

    def silence(self):
        # type: () -> None
        """Nothing passes any more, and nobody is told."""
        link = self.pick(self.links)
        if link is not None:
            self.count("silence")
            link.to_master.lost = link.to_node.lost = True

    def stall(self):
        # type: () -> None
        self.stall_node("stall", True, True)

    def stall_one_way(self):
        # type: () -> None
        up = self.random() < 0.5
        self.stall_node("stall_one_way", up, not up)

    def stall_node(self, name, up, down):
        # type: (str, bool, bool) -> None
        node = self.pick_node()
        if node is not None:
            self.count(name)
            until = self.now + 10 ** (-1 + 2.9 * self.random())
            node.stalled_until = max(node.stalled_until, until)
            if node.link is not None:
                for pipe in [node.link.to_master] * up + [node.link.to_node] * down:
                    pipe.stalled_until = max(pipe.stalled_until, until)

    def freeze(self):
        # type: () -> None
        node = self.pick_node()
        if node is not None:
            self.count("freeze")
            node.frozen_until = self.now + 10 ** (-1 + 2.5 * self.random())
            node.freezes_children = self.random() < 0.5

    def crash(self):
        # type: () -> None
        node = self.pick_node()
        if node is not None:
            self.count("crash")
            self.lose(node, silently=False)

    def power_cut(self):
        # type: () -> None
        node = self.pick_node()
        if node is not None:
            self.count("power_cut")
            self.lose(node, silently=True)

    def lose(self, node, silently):
        # type: (Node, bool) -> None
        if silently and node.link is not None:
            node.link.to_master.lost = node.link.to_node.lost = True
        node.end()
        if self.random() < 0.8:
            self.at(self.now + 0.2 + 5 * self.random(), self.new_node, node.slots)

    def all_gone(self):
        # type: () -> None
        self.count("all_gone")
        for number in sorted(self.nodes):
            if self.nodes[number].alive:
                self.lose(self.nodes[number], silently=self.random() < 0.3)

    def pick_child(self):
        # type: () -> Child | None
        node = self.pick_node()
        return self.pick([node.children[slot] for slot in sorted(node.children)]) if node is not None else None  # type: ignore[return-value]

    def child_crash(self):
        # type: () -> None
        child = self.pick_child()
        if child is not None:
            self.count("child_crash")
            child.die("killed by signal 11 (SIGSEGV)")

    def slow_child(self):
        # type: () -> None
        child = self.pick_child()
        if child is not None:
            self.count("slow_child")
            child.slow = 10.0

    def duplicate_connection(self):
        # type: () -> None
        """The node gives its connection up and dials again; the master hears of the end late or never."""
        node = self.pick_node()
        if node is not None and node.link is not None:
            self.count("duplicate_connection")
            pipe = node.link.to_master
            if self.random() < 0.5:
                pipe.lost = True
            else:
                pipe.stalled_until = max(pipe.stalled_until, self.now + 3 * self.random())
            node.tell((node.link, None))

    def drain(self):
        # type: () -> None
        node = self.pick_node()
        if node is not None:
            self.count("drain")
            node.draining = True
            node.tell(agent.DrainAsked())
            self.at(self.now + 5 * self.random(), self.new_node, node.slots)

    def cancel(self):
        # type: () -> None
        job = self.pick_job()
        if job is not None and self.random() < 0.2:
            self.count("cancel")
            self.end_job(job, self.master)

    def end_job(self, job, master):
        # type: (Job, Master) -> None
        if master.alive and not job.finished:
            job.cancelled = True
            master.call(scheduler.JobCancelled(job.id))
            if not job.finished:
                self.fail("job %d goes on after it was cancelled" % job.number)

    def pick_job(self):
        # type: () -> Job | None
        """One that the master has."""
        jobs = [self.jobs[number] for number in sorted(self.jobs)]
        return self.pick([job for job in jobs if self.master.jobs.get(job.id) is job and self.master.alive])  # type: ignore[return-value]

    def interrupt(self):
        # type: () -> None
        """Ctrl-C, or a deadline: what runs may still end, for a while."""
        job = self.pick_job()
        if job is not None and self.random() < 0.4:
            self.count("interrupt")
            job.stopping = True
            self.master.call(scheduler.JobStopped(job.id))
            seconds = INTERRUPT_SECONDS if self.random() < 0.5 else 0.0
            self.at(self.now + seconds, self.end_job, job, self.master)

    def cancel_task(self):
        # type: () -> None
        """Nobody wants this task's outcome any more."""
        job = self.pick_job()
        if job is None or job.stopping or job.stop_on_error and job.errors or not job.known:
            return
        if job.journaled and not self.cancels_journaled:
            return
        index = int(self.random() * job.known)
        if job.outcomes[index] is None:
            self.count("cancel_task")
            job.outcomes[index] = "cancelled"
            self.master.call(scheduler.TaskCancelled(job.id, index))

    def pause(self):
        # type: () -> None
        job = self.pick_job()
        if job is not None and not job.paused:
            self.count("pause")
            job.paused = True
            self.master.call(scheduler.JobPaused(job.id, True))
            self.at(self.now + 4 * self.random() ** 3, self.go_on, job, self.master)

    def go_on(self, job, master):
        # type: (Job, Master) -> None
        if master.alive and not job.finished:
            job.paused = False
            master.call(scheduler.JobPaused(job.id, False))

    def drop_shared(self):
        # type: () -> None
        """The master shares it again at once, under the same name: who still has it, or has asked for it, is told to drop it."""
        self.count("drop_shared")
        name = "s%d" % int(self.random() * 3)
        if self.master.alive:
            for session in list(self.master.sessions.values()):
                self.master.send(session, protocol.Drop({"name": name}))
                session.link.flush_master()

    def stale_replay(self):
        # type: () -> None
        self.count("stale_replay")
        self.master.replay()

    # -- the calm ---------------------------------------------------------------------------------------

    def calm(self):
        # type: () -> None
        self.note("calm")
        self.calm_at = self.now
        self.flip_rate = 0.0
        for disk in self.disks.values():
            disk.room = disk.dies_in = None
        for _, node in sorted(self.nodes.items()):
            node.stalled_until = node.frozen_until = min(node.frozen_until, self.now)
            node.fails_to_start, node.slow = 0.0, 1.0
            node.timer.set(self.now)
            for child in node.children.values():
                child.slow = 1.0  # what runs there already goes on slowly
        for link in self.links:
            link.to_master.flow()
            link.to_node.flow()
        if not any(node.alive and not node.draining and not node.unfit for node in self.nodes.values()):
            self.new_node(1 + int(3 * self.random()))
        slots = sum(node.slots for node in self.nodes.values() if node.alive and not node.draining and not node.unfit)
        work = sum(
            sum(job.work()) * (1 + job.retries + 3 * len(job.poison)) / slots + 10 * max(job.work() or [0])
            for job in self.jobs.values()
        )
        self.limit = self.now + CALM_SECONDS + 3 * work

    def quiet(self):
        # type: () -> None
        """All jobs have ended, and what follows from that has happened: nothing may be left anywhere."""
        left = self.master.scheduler.snapshot()
        if left["jobs"] or any(node["leases"] for node in left["nodes"]):
            self.fail("all jobs have ended, and the scheduler holds %r" % left)
        for number in sorted(self.nodes):
            node = self.nodes[number]
            if not (node.alive and node.joined and self.calm_at is not None):
                continue
            if node.link.sound() and self.now > max(node.joined_at, self.calm_at) + QUIET_SECONDS:
                held = node.agent.snapshot()
                if held["held"] or held["reports"] or held["jobs"]:
                    self.fail("all jobs have ended, and node %d holds %r" % (number, held))
        for job in self.jobs.values():
            self.check_executions(job)

    def check_executions(self, job):
        # type: (Job) -> None
        losses = sum(count for name, count in self.faults.items() if name in LOSSES)
        for index, executions in enumerate(job.executions):
            if index in job.poison:
                most = job.attempts_max + (job.retries if job.may_be_late(self, index) else 0)
                if self.short_of_memory:  # deaths of two kinds
                    most += job.attempts_max - 1
            else:  # a poison task takes others with it: those before it in its chunk, or in its chunk's rest
                tries = 99 if job.may_be_late(self, index) else job.raises.get(index, 0)
                most = 1 + min(job.retries, tries) + 2 * len(job.poison)
            if job.idempotent:
                most += 1 + job.retries
            if self.crashes and not (job.journaled and set(self.faults).issubset(ADOPTED) and not self.alone):
                most *= 1 + self.crashes
            elif index in job.raises:
                most += self.crashes * job.retries  # the next master does not know how often it has raised
            if executions > most + 2 * losses:
                self.fail("task %d of job %d ran %d times, with %d losses" % (index, job.number, executions, losses))

    # -- the loop -----------------------------------------------------------------------------------------

    def at(self, moment, call, *arguments):
        # type: (float, object, *object) -> None
        self.events += 1
        heapq.heappush(self.heap, (moment, self.events, call, arguments))

    def run(self):
        # type: () -> None
        wall = time.time
        if "wall_clock" in self.rates:
            time.time = lambda: 1e9 + self.now + self.wall_offset
        try:
            with simulated_disk.installed(self):
                self.loop()
        except Failure:
            raise
        except Exception as error:
            self.fail("%s: %s" % (type(error).__name__, error))
        finally:
            time.time = wall

    def loop(self):
        # type: () -> None
        heap = self.heap
        ended_at = None  # type: float | None
        while ended_at is None or heap[0][0] < ended_at + 2 * QUIET_SECONDS + 20 * self.delay_seconds:
            self.now, _, call, arguments = heapq.heappop(heap)
            try:
                call(*arguments)  # type: ignore[operator]
            except simulated_disk.MasterDied:
                self.master_down(False)
            if ended_at is None:
                if not self.unfinished:
                    ended_at = self.now
                elif self.now > self.limit:
                    left = [(job.number, job.outcomes.count(None)) for job in self.jobs.values() if not job.finished]
                    self.fail(
                        "no end %.0f s after the calm: (job, tasks without outcome) %r, %r"
                        % (self.now - self.faults_end, left, self.master.scheduler.snapshot())
                    )
        self.recovery = max(0.0, ended_at - self.calm_at) if self.calm_at is not None else 0.0
        self.quiet()

    def count(self, fault):
        # type: (str) -> None
        self.note("fault", fault)
        self.faults[fault] = self.faults.get(fault, 0) + 1
        self.last_fault = fault

    def note(self, *words):
        # type: (*object) -> None
        line = "%.6f %r" % (self.now, words)
        self.tail.append(line)
        self.hash = zlib.crc32(line.encode("ascii", "replace"), self.hash)

    def fail(self, what):
        # type: (str) -> None
        raise Failure(
            "seed %d, event log %08x: at %.6f s %s\nafter:\n  %s"
            % (self.seed, self.hash & 0xFFFFFFFF, self.now, what, "\n  ".join(self.tail))
        )


class Report(object):
    """What many runs amount to; the order of the seeds does not matter."""

    def __init__(self):
        # type: () -> None
        self.seeds = self.events = self.executed = self.tasks = self.crashes = 0
        self.seconds = 0.0
        self.hash = 0
        self.faults, self.recovery = {}, {}  # type: dict, dict # by kind of fault; recovery: (seconds, seed)
        self.failures = []  # type: list # (seed, text)

    def run(self, seed):
        # type: (int) -> None
        """Raises Failure when it breaks a rule."""
        world = World(seed)
        world.run()
        self.seeds += 1
        self.events += world.events
        self.seconds += world.now
        self.executed += world.executed
        self.crashes += world.crashes
        self.tasks += sum(len(job.outcomes) - job.outcomes.count(None) for job in world.jobs.values())
        self.hash = (self.hash + zlib.crc32(b"%d %08x" % (seed, world.hash & 0xFFFFFFFF))) & 0xFFFFFFFF
        for name, count in world.faults.items():
            self.faults[name] = self.faults.get(name, 0) + count
        self._recovered(world.last_fault or "none", world.recovery, seed)
        if world.crashes:
            self._recovered("master's end, to the next outcome", world.master_recovery, seed)

    def _recovered(self, fault, seconds, seed):
        # type: (str, float, int) -> None
        self.recovery[fault] = max(self.recovery.get(fault, (0.0, seed)), (seconds, seed))

    def add(self, other):
        # type: (Report) -> None
        for name in ("seeds", "events", "executed", "tasks", "crashes", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.hash = (self.hash + other.hash) & 0xFFFFFFFF
        for name, count in other.faults.items():
            self.faults[name] = self.faults.get(name, 0) + count
        for fault, (seconds, seed) in other.recovery.items():
            self._recovered(fault, seconds, seed)
        self.failures += other.failures

    def lines(self):
        # type: () -> list
        wasted = self.executed - self.tasks
        return [
            "%d seeds, %d events, %.2f virtual hours, event logs %08x"
            % (self.seeds, self.events, self.seconds / 3600, self.hash),
            "%d tasks with outcomes, %d executions, %d of them wasted (%.1f %%), %d ends of the master"
            % (self.tasks, self.executed, wasted, 100.0 * wasted / max(1, self.executed), self.crashes),
            "faults: " + ", ".join("%s %d" % (name, self.faults[name]) for name in sorted(self.faults)),
            "worst recovery after the calm, by the last fault: "
            + ", ".join("%s %.1f s (seed %d)" % ((name,) + self.recovery[name]) for name in sorted(self.recovery)),
        ]


def run_seeds(seeds):
    # type: (object) -> Report
    """Run each seed; raises Failure at the first that breaks a rule."""
    report = Report()
    before = gc.get_threshold()
    gc.set_threshold(50000)  # a world is one large cycle; looking for it often costs a tenth of the time
    try:
        for seed in seeds:  # type: ignore[attr-defined]
            report.run(seed)
    finally:
        gc.set_threshold(*before)
    return report


def try_seeds(seeds):
    # type: (object) -> Report
    """Run each seed; those that break a rule are in the report's ``failures``."""
    report = Report()
    for seed in seeds:  # type: ignore[attr-defined]
        try:
            report.run(seed)
        except Failure as failure:
            report.failures.append((seed, str(failure)))
    return report


def main():
    # type: () -> int
    parser = argparse.ArgumentParser(description="Simulate clusters with faults, one for each seed.")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="processes (default: %(default)s)")
    parser.add_argument("--keep-going", action="store_true", help="list every failing seed instead of stopping at the first")
    parser.add_argument("--record", metavar="FILE", help="append failing seeds to this file, which the tests replay")
    told = parser.parse_args()
    started_at, report = time.time(), Report()
    first, end = told.first, told.first + told.seeds
    parts = [list(range(at, min(at + PART, end))) for at in range(first, end, PART)]
    pool = multiprocessing.Pool(told.jobs) if told.jobs > 1 and len(parts) > 1 else None
    try:
        for part in pool.imap_unordered(try_seeds, parts) if pool else map(try_seeds, parts):
            report.add(part)
            for seed, text in part.failures:
                print(text.split("\n")[0][:300] if told.keep_going else text)
                sys.stdout.flush()
                if told.record:
                    with open(told.record, "a") as file:
                        file.write("%d  # %s\n" % (seed, text.split("\n")[0].split(" s ", 1)[-1][:90]))
            if part.failures and not told.keep_going:
                return 1
    finally:
        if pool:
            pool.terminate()
    print("\n".join(report.lines()))
    print(
        "%.1f s on Python %d.%d, %d seeds failed"
        % ((time.time() - started_at,) + sys.version_info[:2] + (len(report.failures),))
    )
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())

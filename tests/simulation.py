"""A whole cluster inside a ``for`` loop, with a seed: virtual clock, network, nodes, worker processes.

::

    World: heap of (time, call) -----------------------------------------------------+
      |                                                                              |
    Master  real scheduler.Scheduler   \\                                             |
      |     real protocol.Channel       }  one Link per connection: two Pipes of      |
    Node    real protocol.Channel       }  bytes: delayed, cut, stalled, lost, flipped|
      |     real agent.Agent           /                                             |
    Child   modelled after child.py: blocks, flush, careful, Released ---------------+

Only the shells are modelled (what cluster.py, node.py and child.py do around the brains). Each
seed draws *which* faults exist at all and their rates; after a moment they stop, and everything
must come to its end within bounded virtual time. Safety is checked after every event.

Rules:

* Randomness comes from ``Random.random()`` alone: the rest of that class differs between 2.7 and 3.x.
* A seed's run is the same everywhere: the event log's hash says so.

``python -m tests.simulation --seeds 2000`` prints a report; ``--first N`` begins at seed N.
"""
from __future__ import absolute_import, division, print_function

import argparse
import heapq
import math
import struct
import sys
import time
import zlib
from collections import deque
from random import Random

from minimalcluster import agent, errors, protocol, scheduler
from minimalcluster.compat import native

TAIL_LENGTH = 60
CALM_SECONDS = 60.0  # beyond the work itself; a node that is alone takes 60 s to give up, within the faults' time
QUIET_SECONDS = 1.5  # after the last job: revoked tasks are killed after 0.5 s, everything is acknowledged
HANDSHAKE_SECONDS = 5.0  # transport.py
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.2, 10.0  # node.py
BLOCK_SECONDS, BLOCK_GROWTH, FLUSH_SECONDS = 0.005, 16, 0.02  # child.py

#: Faults that strike at random moments, each by the World's method of that name.
STRIKES = (
    "reset", "away", "silence", "stall", "stall_one_way", "freeze", "crash", "power_cut", "child_crash", "slow_child",
    "duplicate_connection", "drain", "all_gone", "cancel", "stale_replay",
)  # fmt: skip
# Part 3 adds "master_crash" here: World.master is replaced by Master(world, epoch + 1) on its journal.
#: Faults that are a property of the run.
CONDITIONS = ("bit_flip", "cuts", "slow_link", "poison", "raises", "unfit", "failing_start", "late_nodes", "slow_node")
#: What makes the cluster run a task again. A reset does not: the node is back in time, with what it holds.
LOSSES = frozenset(STRIKES) - {"reset", "slow_child", "drain", "cancel", "stale_replay"} | {"bit_flip", "slow_link"}
#: Faults that cost nothing: with these alone every task runs once.
HARMLESS = tuple(name for name in STRIKES if name not in LOSSES)
#: Faults that make two nodes hold the same tasks.
COPIES = ("away", "child_crash", "drain")


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
        self.idempotent = Random(world.seed * 8 + number).random() < 0.4
        self.options = scheduler.Options(
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
        self.world = world

    def _at_master(self, data):
        # type: (bytes) -> None
        self.world.master.arrived(self, data)

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
    def __init__(self, number, link):
        # type: (int, Link) -> None
        self.number, self.link = number, link
        self.node = None  # type: int | None
        self.report = self.answered = 0
        self.owes_answer = self.draining = False


class Master(object):
    """cluster.py's part: messages become events, effects become messages."""

    def __init__(self, world, epoch):
        # type: (World, int) -> None
        self.world = world
        self.epoch = epoch
        self.scheduler = scheduler.Scheduler(epoch)
        self.sessions = {}  # type: dict # node id -> Session
        self.jobs = {}  # type: dict # number -> Job
        self.granted = {}  # type: dict # attempt -> job number
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
        link.session = Session(self.next_session, link)
        self.next_session += 1

    def arrived(self, link, data):
        # type: (Link, bytes) -> None
        self.inbox.append((link, data))
        self.step_timer.set(self.world.now)

    def call(self, event):
        # type: (tuple) -> None
        """Something a user asks for."""
        self.event(event)
        self.step_timer.set(self.world.now)

    def step(self):
        # type: () -> None
        while self.inbox:
            self.receive(*self.inbox.popleft())
        self.event(scheduler.TimePassed())
        for node in sorted(self.sessions):
            session = self.sessions[node]
            if session.report > session.answered or session.owes_answer:
                session.answered, session.owes_answer = session.report, False
                self.send(session, protocol.Acknowledge(session.report))
        links, self.links = self.links, []
        for link in links:
            link.flush_master()
        due = self.scheduler.deadline()
        if due is not None and due <= self.world.now:
            self.world.fail("the scheduler's deadline %r has passed: the master would spin" % due)
        self.step_timer.set(due)

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
                job = self.jobs.get(self.granted[message.attempt])
                if job is not None and not self.world.nodes[node].unfit:
                    self.world.fail("node %d is unfit for a job it could run: %r" % (node, message.info))
            if len(self.stale) < 200:
                self.stale.append(event)
        self.event(event)

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
            if not link.from_master:
                self.links.append(link)
            link.from_master.extend(link.master_channel.frame(message))

    def event(self, event):
        # type: (tuple) -> None
        world = self.world
        self.acting = event
        if type(event) is not scheduler.TimePassed:
            world.note("master", type(event).__name__, event[:4])
        effects = self.scheduler.handle(event, world.now)
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
        self.send(self.sessions[effect.node], protocol.DefineJob(effect.job, {"job": effect.job}, [b"source"]))

    def grant(self, effect):
        # type: (scheduler.Grant) -> None
        world, job = self.world, self.live_job(effect.job)
        world.note("grant", effect.node, effect.attempt, effect.first, effect.count, effect.careful)
        if effect.attempt in self.granted:
            world.fail("attempt %d is granted twice" % effect.attempt)
        self.granted[effect.attempt] = effect.job
        if effect.count < 1 or effect.first + effect.count > job.known:
            world.fail("a grant of tasks that are not there: %r" % (effect,))
        if any(job.outcomes[effect.first : effect.first + effect.count]):
            world.fail("a grant of tasks that have outcomes: %r" % (effect,))
        if job.cancelled or (job.stop_on_error and job.errors):
            world.fail("a grant after the end: %r" % (effect,))
        if effect.node not in self.sessions or self.sessions[effect.node].draining:
            world.fail("a grant to a node that is not there or wants no more: %r" % (effect,))
        node = self.scheduler._nodes[effect.node]
        if len(node.leases) > 2 * node.slots:
            world.fail("a grant to a node that has no credit: %r" % (effect,))
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
        job.outcomes[index] = what

    def deliver(self, effect):
        # type: (scheduler.Deliver) -> None
        job = self.live_job(effect.job)
        data = b"".join(buffer.tobytes() for buffer in effect.payload)
        values = struct.unpack(">%dq" % (len(data) // 8), data)[effect.skip : effect.count]
        if len(values) != effect.count - effect.skip or not values:
            self.world.fail("%d values for %r" % (len(values), effect[:4]))
        for index, value in enumerate(values, effect.first + effect.skip):
            if value != job.value(index):
                self.world.fail("task %d of job %d: value %r is wrong" % (index, job.number, value))
            if index in job.poison:
                self.world.fail("poison task %d of job %d has a value" % (index, job.number))
            self.outcome(job, index, "value")

    def deliver_failure(self, effect):
        # type: (scheduler.DeliverFailure) -> None
        job = self.live_job(effect.job)
        self.sessions[effect.node]  # cluster.py looks there who it was
        tries = 1 if job.stop_on_error and job.errors else job.retries + 1  # no retries once it is stopped
        if effect.info != {"raised": effect.first} or job.raised[effect.first] < tries:
            self.world.fail("a failure of a task that raised %d times: %r" % (job.raised[effect.first], effect[:4]))
        job.errors += 1
        self.outcome(job, effect.first, "failure")

    def deliver_poison(self, effect):
        # type: (scheduler.DeliverPoison) -> None
        job, deaths = self.live_job(effect.job), [death.info for death in effect.deaths]
        # The first may be that of a whole chunk: one of its tasks did it. All others must be exact, except
        # that a process which was dead already when it was given the task cannot be told from one it killed.
        exact = [death for death in (deaths if job.attempts_max == 1 else deaths[1:]) if death["running"] is not None]
        if (
            len(deaths) != job.attempts_max
            or len(set(death["death"] for death in deaths)) != len(deaths)
            or any(death["running"] != [job.number, effect.first] for death in exact)
            or any(death["running"] is not None and death["running"][0] != job.number for death in deaths)
        ):
            self.world.fail("task %d of job %d is blamed for deaths that are not its own: %r" % (effect.first, job.number, deaths))
        job.errors += 1
        self.outcome(job, effect.first, "poison")

    def finish(self, effect):
        # type: (scheduler.Finish) -> None
        world, job = self.world, self.live_job(effect.job)
        world.note("finish", effect.job, bool(effect.unfit))
        left = job.outcomes[: job.known].count(None)
        if effect.unfit is not None:
            if job.cancelled or job.errors and job.stop_on_error:
                world.fail("job %d was stopped for another reason than %r" % (job.number, effect.unfit))
            if any(not node.unfit and node.joined for node in world.nodes.values() if node.alive and not node.draining):
                world.fail("job %d ends as unfit, and there is a node that is fit" % job.number)
        elif left and not job.cancelled and not (job.stop_on_error and job.errors):
            world.fail("job %d is finished without %d outcomes" % (job.number, left))
        elif job.known < job.total and not job.cancelled and not job.errors:
            world.fail("job %d is finished and still grows" % job.number)
        job.finished = True
        world.unfinished -= 1
        del self.jobs[job.number]

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
        about = {"id": number, "hostname": "n%d" % number, "pid": number}
        self.agent = agent.Agent(slots, about)
        self.children = {}  # type: dict # slot -> Child
        self.inbox = deque()  # type: deque
        self.timer = Timer(world, self.step)
        self.link = None  # type: Link | None
        self.alive, self.draining, self.joined, self.unfit = True, False, False, False
        self.frozen_until = self.stalled_until = 0.0
        self.tries = 0
        self.slow = 1.0
        self.fails_to_start = 0.0
        self.effects = {
            agent.ToMaster: self.to_master, agent.ToChild: self.to_child, agent.StartChild: self.start_child,
            agent.KillChild: self.kill_child, agent.DropLink: self.drop_link, agent.Finished: self.finished,
            agent.Warn: lambda effect: None,
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

    def drop_link(self, effect):
        # type: (agent.DropLink) -> None
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
        child = self.children.get(effect.slot)
        if child is not None and child.alive:
            child.hear(effect.message)

    def kill_child(self, effect):
        # type: (agent.KillChild) -> None
        child = self.children.get(effect.slot)
        if child is not None:
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
        info = {"exit": how, "lines": [], "death": self.world.next_number(), "running": running}
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
        self.inbox.append(message)
        if self.grant is None:
            self.serve()

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
        self.grant, self.job = grant, self.world.jobs[grant.job]
        self.careful = grant.careful
        self.reported = self.claimed = grant.first
        self.end = grant.first + grant.count
        self.pending = 0  # results from ``reported`` on, not sent
        if grant.attempt in self.revoked:
            self.end = self.claimed
            self.send(protocol.Released(0, grant.attempt, self.end))
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
            self.revoked.clear()
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
        """Up to the block's end, or to the first task that raises or kills."""
        job, stop, seconds = self.job, self.first, 0.0
        slow = max(self.slow, self.node.slow)
        while stop < self.claimed:
            seconds += job.seconds[stop] * slow
            stop += 1
            if stop - 1 in job.poison or stop - 1 in job.raises:
                break
        self.part_at, self.stop = self.world.now, stop
        self.world.at(self.world.now + seconds, self.ended)

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
        self.task_seconds[job.number] = seconds
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
            self.at(draw() ** 2 * self.faults_end * 0.5, self.submit, job)
        self.unfinished = len(self.jobs)
        for name in sorted(rates):
            self.at(self.next_strike(rates[name]), self.strike, name, rates[name])
        self.at(self.faults_end, self.calm)
        self.limit = self.faults_end + 1000.0

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
        self.master.jobs[job.number] = job
        self.master.call(scheduler.JobSubmitted(job.number, None if job.grows else job.total, job.options))
        if job.grows:
            self.grow(job)

    def grow(self, job):
        # type: (Job) -> None
        if job.finished:
            return
        job.known = min(job.total, job.known + 1 + int(self.random() * 200))
        closed = job.known == job.total
        if not closed:
            self.at(self.now + 0.2 * self.random(), self.grow, job)
        self.master.call(scheduler.JobGrew(job.number, job.known, closed))

    # -- faults ---------------------------------------------------------------------------------------

    def next_strike(self, rate):
        # type: (float) -> float
        return self.now - math.log(1.0 - self.random()) / rate

    def strike(self, name, rate):
        # type: (str, float) -> None
        if self.calm_at is None:
            getattr(self, name)()
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
        job = self.pick([job for job in self.jobs.values() if job.submitted and not job.finished])
        if job is not None and self.random() < 0.2:
            self.count("cancel")
            job.cancelled = True
            self.master.call(scheduler.JobCancelled(job.number))
            if not job.finished:
                self.fail("job %d goes on after it was cancelled" % job.number)

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
            sum(job.seconds) * (1 + job.retries + 3 * len(job.poison)) / slots + 10 * max(job.seconds or [0])
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
            if node.link.sound() and self.now > node.joined_at + QUIET_SECONDS:
                held = node.agent.snapshot()
                if held["held"] or held["reports"]:
                    self.fail("all jobs have ended, and node %d holds %r" % (number, held))
        for job in self.jobs.values():
            self.check_executions(job)

    def check_executions(self, job):
        # type: (Job) -> None
        losses = sum(count for name, count in self.faults.items() if name in LOSSES)
        for index, executions in enumerate(job.executions):
            if index in job.poison:
                most = job.attempts_max
            else:  # a poison task takes others with it: those before it in its chunk, or in its chunk's rest
                most = 1 + min(job.retries, job.raises.get(index, 0)) + 2 * len(job.poison)
            if job.idempotent:
                most += 1 + job.retries
            if executions > most + 2 * losses:
                self.fail("task %d of job %d ran %d times, with %d losses" % (index, job.number, executions, losses))

    # -- the loop -----------------------------------------------------------------------------------------

    def at(self, moment, call, *arguments):
        # type: (float, object, *object) -> None
        self.events += 1
        heapq.heappush(self.heap, (moment, self.events, call, arguments))

    def run(self):
        # type: () -> None
        try:
            self.loop()
        except Failure:
            raise
        except Exception as error:
            self.fail("%s: %s" % (type(error).__name__, error))

    def loop(self):
        # type: () -> None
        heap = self.heap
        ended_at = None  # type: float | None
        while ended_at is None or heap[0][0] < ended_at + 2 * QUIET_SECONDS + 20 * self.delay_seconds:
            self.now, _, call, arguments = heapq.heappop(heap)
            call(*arguments)  # type: ignore[operator]
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
    """What many runs amount to."""

    def __init__(self):
        # type: () -> None
        self.seeds = self.events = self.executed = self.tasks = 0
        self.seconds = 0.0
        self.hash = 0
        self.faults, self.recovery = {}, {}  # type: dict, dict # by kind of fault; recovery: (seconds, seed)

    def add(self, world):
        # type: (World) -> None
        self.seeds += 1
        self.events += world.events
        self.seconds += world.now
        self.executed += world.executed
        self.tasks += sum(len(job.outcomes) - job.outcomes.count(None) for job in world.jobs.values())
        self.hash = zlib.crc32(b"%08x" % (world.hash & 0xFFFFFFFF), self.hash)
        for name, count in world.faults.items():
            self.faults[name] = self.faults.get(name, 0) + count
        key = world.last_fault or "none"
        self.recovery[key] = max(self.recovery.get(key, (0.0, 0)), (world.recovery, world.seed))

    def lines(self):
        # type: () -> list
        wasted = self.executed - self.tasks
        return [
            "%d seeds, %d events, %.2f virtual hours, event log %08x"
            % (self.seeds, self.events, self.seconds / 3600, self.hash & 0xFFFFFFFF),
            "%d tasks, %d executions, %d of them wasted (%.1f %%)"
            % (self.tasks, self.executed, wasted, 100.0 * wasted / max(1, self.executed)),
            "faults: " + ", ".join("%s %d" % (name, self.faults[name]) for name in sorted(self.faults)),
            "worst recovery after the calm, by the last fault: "
            + ", ".join("%s %.1f s (seed %d)" % ((name,) + self.recovery[name]) for name in sorted(self.recovery)),
        ]


def run_seeds(seeds):
    # type: (object) -> Report
    """Run each seed; raises Failure at the first that breaks a rule."""
    report = Report()
    for seed in seeds:  # type: ignore[attr-defined]
        world = World(seed)
        world.run()
        report.add(world)
    return report


def main():
    # type: () -> int
    parser = argparse.ArgumentParser(description="Simulate clusters with faults, one for each seed.")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep-going", action="store_true", help="list every failing seed instead of stopping at the first")
    told = parser.parse_args()
    started_at, report, failures = time.time(), Report(), 0
    for seed in range(told.first, told.first + told.seeds):
        world = World(seed)
        try:
            world.run()
            report.add(world)
        except Failure as failure:
            failures += 1
            print(str(failure).split("\n")[0][:300] if told.keep_going else failure)
            if not told.keep_going:
                return 1
    print("\n".join(report.lines()))
    print("%.1f s on Python %d.%d, %d seeds failed" % ((time.time() - started_at,) + sys.version_info[:2] + (failures,)))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

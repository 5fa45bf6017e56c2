"""The simulation's master: cluster.py's part, around the real scheduler and the real journal."""
from __future__ import absolute_import, division, print_function

import struct
from collections import deque

from minimalcluster import errors
from minimalcluster.wire import checks, protocol
from minimalcluster.brain import agent, scheduler
from minimalcluster.master import sessions
from minimalcluster.compat import native
from tests.simulated_wire import Timer

class Session(sessions.Session):
    def __init__(self, master, number, link):
        # type: (Master, int, Link) -> None
        self.master, self.link = master, link
        channel = link.master_channel
        super(Session, self).__init__(
            number, lambda message: master.send(self, message), "elsewhere", self.end,
            lambda: (channel.sending(), channel.receiving),
        )  # fmt: skip
        self.outcomes = []  # type: list # (its report, job, how many were delivered then, bytes written to its journal)
        self.draining = False

    def end(self, error):
        # type: (BaseException | None) -> None
        if isinstance(error, errors.ProtocolError):
            self.master.world.fail("%s: %s" % (self.name, error))
        self.master.close(self)


class SlowDisk(object):
    """disk.py as a function of virtual time: what it does may take long, and nobody waits for it."""

    def __init__(self, master):
        # type: (Master) -> None
        self.master = master

    def do(self, function, *arguments):
        # type: (object, *object) -> None
        world = self.master.world
        world.at(world.now + world.disk_seconds(), self.done, function, arguments)

    def done(self, function, arguments):
        # type: (object, tuple) -> None
        if self.master.alive:
            function(*arguments)  # type: ignore[operator]

    def call(self, function):
        # type: (object) -> None
        """The cluster's Loop.call."""
        function()  # type: ignore[operator]
        self.master.step_timer.set(self.master.world.now)


class Master(sessions.Sessions):
    """cluster.py's part of a master, in virtual time and on a simulated disk."""

    def __init__(self, world, epoch):
        # type: (World, int) -> None
        self.world = world
        disk = SlowDisk(self)
        super(Master, self).__init__(epoch, disk.call, disk.do)
        self.sessions, self.jobs = self._sessions, self._jobs
        self.scheduler = scheduler.Scheduler(epoch)
        if world.scripts_are_late:
            self.scheduler.handle(scheduler.JobAwaited(), world.now)
        self.alive = True
        self.stale = []  # type: list # events of closed sessions, to be replayed
        self.inbox = deque()  # type: deque
        self.next_session = 1
        self.step_timer = Timer(world, self.step)
        self.links = []  # type: list # with something to write
        self.acting = None  # type: tuple | None # the event at hand
        self.replaying = False

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
        self._acknowledge(self.world.now)
        self._beat(self.world.now)
        links, self.links = self.links, []
        for link in links:
            link.flush_master()
        moments = [self.scheduler.deadline()] + self._moments()
        due = min([moment for moment in moments if moment is not None] or [None])
        if due is not None and due <= self.world.now:
            self.world.fail("the scheduler's deadline %r has passed: the master would spin" % due)
        self.step_timer.set(due)

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
        link.node_heard_at = self.world.now
        if session.node is not None:
            self.event(scheduler.NodeHeard(session.node, session.number))
        try:
            messages = link.master_channel.feed(data)
        except errors.ProtocolError:
            if "bit_flip" not in self.world.conditions:
                raise
            self.close(session, scheduler.NodeLeft)
            return
        for message in messages:
            if link.master_open:
                try:
                    checks.check(message, checks.NODE)
                except errors.ProtocolError as error:
                    self.world.expected_odd(message, error)
                    self.close(session, scheduler.NodeLeft)
                    return
                self.world.is_not_odd(message)
                self._said(session, message)

    def close(self, session, event=scheduler.NodeDisconnected):
        # type: (Session, object) -> None
        if session.link.master_open:
            session.link.close_master()
            if session.node is not None:
                self.event(event(session.node, session.number))  # type: ignore[operator]
                if self.sessions.get(session.node) is session:
                    del self.sessions[session.node]

    def _id_of(self, info):
        # type: (dict) -> int
        return int(info["id"])

    def _joined(self, session, message):
        # type: (Session, protocol.Join) -> None
        super(Master, self)._joined(session, message)
        if session.node is not None and not session.is_admitted:
            self.world.count("parked")

    def _outcome(self, session, message):
        # type: (Session, tuple) -> None
        if message.report <= session.report:
            self.world.fail("report %d comes after report %d" % (message.report, session.report))
        if type(message) is protocol.Unfit:
            job = self.jobs.get(self.world.granted[message.attempt])
            if job is not None and not self.world.nodes[session.node].unfit:
                self.world.fail("node %d is unfit for a job it could run: %r" % (session.node, message.info))
        if len(self.stale) < 200:
            self.stale.append(sessions.OUTCOMES[type(message)](session.node, session.number, message))
        super(Master, self)._outcome(session, message)

    def _fetch(self, session, message):
        # type: (Session, protocol.Fetch) -> None
        self.world.at(self.world.now + 0.5 * self.world.random() ** 3, self.fetched, session, message)

    def fetched(self, session, message):
        # type: (Session, protocol.Fetch) -> None
        """serving.py answers from a thread of its own."""
        if self.alive and session.link.master_open:
            info = {"found": True, "name": message.info["name"]}
            self.send(session, protocol.Fetched(message.request, info, [message.info["name"].encode("ascii")]))
            session.link.flush_master()

    def _printed(self, session, message):
        # type: (Session, protocol.Output) -> None
        self.world.printed(session.node, int(message.info["text"]))

    def _farewell(self, session, message):
        # type: (Session, protocol.Farewell) -> None
        session.draining = True
        super(Master, self)._farewell(session, message)

    def send(self, session, message):
        # type: (Session, tuple) -> None
        link = session.link
        if link.master_open:
            if type(message) is protocol.Acknowledge:
                self.check_durable(session, message.report)
            if not link.dirty:
                link.dirty = True
                self.links.append(link)
            link.master_channel.send(self.world.maybe_odd(message))

    def check_durable(self, session, report):
        # type: (Session, int) -> None
        """A node is about to forget results: they are on the disk, or the journal has said that it stopped."""
        for _, job, position, written in [each for each in session.outcomes if each[0] <= report]:
            disk = self.world.disks[job.path]
            if job.journal is not None:  # else it is closed
                if disk.synced < written and not disk.stopped:
                    self.world.fail("job %d: results are acknowledged before they are on the disk" % job.number)
                job.durable = max(job.durable, position)
        session.outcomes = [each for each in session.outcomes if each[0] > report]

    def _event(self, event):
        # type: (tuple) -> None
        self.event(event)

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
            self._effects[type(effect)](effect)

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

    def _define(self, effect):
        # type: (scheduler.Define) -> None
        self.live_job(effect.job)
        info = {"job": effect.job, "timeout": self.jobs[effect.job].timeout}
        self.send(self.sessions[effect.node], protocol.DefineJob(effect.job, info, [self.jobs[effect.job].source]))

    def _grant(self, effect):
        # type: (scheduler.Grant) -> None
        world, job = self.world, self.live_job(effect.job)
        world.note("grant", effect.node, effect.attempt, effect.first, effect.count, effect.one_by_one)
        if effect.attempt in world.granted:
            world.fail("attempt %d is granted twice" % effect.attempt)
        world.granted[effect.attempt] = effect.job
        if effect.count < 1 or effect.first + effect.count > job.known:
            world.fail("a grant of tasks that are not there: %r" % (effect,))
        if any(job.outcomes[effect.first : effect.first + effect.count]):
            world.fail("a grant of tasks that have outcomes: %r" % (effect,))
        if job.cancelled or job.stopping or (job.stop_on_error and job.errors):
            world.fail("a grant after the end: %r" % (effect,))
        if not job.may_be_cut(effect.first, effect.first + effect.count):
            world.fail("a grant beyond the limit %d of results that may wait: %r" % (job.window.limit, effect))
        if effect.node not in self.sessions or self.sessions[effect.node].draining:
            world.fail("a grant to a node that is not there or wants no more: %r" % (effect,))
        node = self.scheduler._nodes[effect.node]
        if len(node.leases) > 2 * node.slots:
            world.fail("a grant to a node that has no credit: %r" % (effect,))
        before = [lease for lease in node.leases.values() if lease.attempt < effect.attempt]  # the pass may have given more
        if any(lease.piece.exclusive for lease in before):
            world.fail("a grant beside a task that wants its node alone: %r" % (effect,))
        if job.journal is not None:
            job.journal.grant(effect.attempt, effect.first, effect.count)
        self.send(
            self.sessions[effect.node],
            protocol.Grant(
                effect.attempt, effect.job, effect.first, effect.count, sessions.careful(effect),
                job.arguments(effect.first, effect.count),
            ),
        )  # fmt: skip

    def _revoke(self, effect):
        # type: (scheduler.Revoke) -> None
        self.world.note("revoke", *effect)
        super(Master, self)._revoke(effect)

    def grew(self, job):
        # type: (Job) -> None
        """As Cluster.grew: the loop looks when the effects at hand are carried out."""
        if not job.announced:
            job.announced = True
            self.world.at(self.world.now, self.tell_growth, job)

    def tell_growth(self, job):
        # type: (Job) -> None
        if self.alive and self.jobs.get(job.id) is job:
            job.announced = False
            limit = job.limit(self.scheduler.slots)
            self.call(scheduler.JobGrew(job.id, job.known, job.known == job.total, limit))

    def came(self, job, first, count, size):
        # type: (Job, int, int, int) -> None
        """Its user may take these outcomes."""
        job.came(first, count, size)
        if job.window is not None:
            if job.has_too_many():
                self.world.fail("%d results of job %d wait to be taken" % (job.waiting, job.number))
            if job.window.has_filled():
                self.grew(job)
            self.world.read_soon(job, self)

    def outcome(self, job, index, what):
        # type: (Job, int, str) -> None
        if job.outcomes[index] is not None:
            self.world.fail("task %d of job %d has a second outcome: %s, %s" % (index, job.number, job.outcomes[index], what))
        job.told(index, what)
        if job.journal is not None:
            session = self.sessions[self.acting.node]  # type: ignore[union-attr]
            self._unsynced[job.journal] = None
            session.outcomes.append((session.report, job, len(job.delivered), len(self.world.disks[job.path].data)))
        if self.world.crashed_at is not None:
            self.world.master_recovery = max(self.world.master_recovery, self.world.now - self.world.crashed_at)
            self.world.crashed_at = None

    def _deliver(self, effect):
        # type: (scheduler.Deliver) -> None
        job = self.live_job(effect.job)
        if job.journal is not None:
            job.journal.done(effect.first, effect.count, effect.payload)
        # Of what the node brought: more than is wanted, where what it had been granted was cut while it was away.
        if [len(buffer) for buffer in effect.payload] != [1, sum(job.sizes(effect.first, self.acting.count))]:
            self.world.fail("the results of %r have other sizes than they had" % (effect[:4],))
        data = effect.payload[1].tobytes()[: 8 * effect.count]
        values = struct.unpack(">%dq" % (len(data) // 8), data)[effect.skip : effect.count]
        if len(values) != effect.count - effect.skip or not values:
            self.world.fail("%d values for %r" % (len(values), effect[:4]))
        for index, value in enumerate(values, effect.first + effect.skip):
            if value != job.value(index):
                self.world.fail("task %d of job %d: value %r is wrong" % (index, job.number, value))
            if index in job.poison or index in job.hangs:
                self.world.fail("task %d of job %d kills or hangs, and has a value" % (index, job.number))
            self.outcome(job, index, "value")
        self.came(job, effect.first + effect.skip, effect.count - effect.skip, len(effect.payload[1]))

    def _deliver_failure(self, effect):
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
        self.came(job, effect.first, 1, 8)

    def _deliver_poison(self, effect):
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
        self.came(job, effect.first, 1, 8)

    def _finish(self, effect):
        # type: (scheduler.Finish) -> None
        world, job = self.world, self.live_job(effect.job)
        world.note("finish", effect.job, bool(effect.unrunnable))
        left = job.outcomes[: job.known].count(None)
        if effect.unrunnable is not None:
            if job.cancelled or job.stopping or job.errors and job.stop_on_error:
                world.fail("job %d was stopped for another reason than %r" % (job.number, effect.unrunnable))
            fit = [node for node in world.nodes.values() if node.alive and not node.draining and not node.unfit]
            if effect.unrunnable["type"] == "StartError":  # else what it says is on its way
                fit = [node for node in fit if node.stuck_at is None or world.now - node.stuck_at < agent.STUCK_SECONDS]
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

    def _disconnect(self, effect):
        # type: (scheduler.Disconnect) -> None
        self.world.note("disconnect", *effect[:2])
        session = self.sessions.get(effect.node)
        if session is not None and session.number == effect.session:
            if effect.reason.startswith("silent"):
                link = session.link
                self.world.check_silence(link, link.to_master, link.node_heard_at, scheduler.NODE_LOST_SECONDS)
            self.close(session)

    def _taken_back(self, effect):
        # type: (scheduler.TakenBack) -> None
        job = self.live_job(effect.job)
        if any(job.outcomes[index] is not None for index in range(effect.first, effect.end)):
            self.world.fail("tasks [%d, %d) are taken back, and some have an outcome" % effect[1:])

    def _explain(self, effect):
        # type: (scheduler.Explain) -> None
        self.world.note("explain", native(effect.text))

    def _idle(self, effect):
        # type: (scheduler.Idle) -> None
        """cluster.py then asks the job why no task of it is handed out."""

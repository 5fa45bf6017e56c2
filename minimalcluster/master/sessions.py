"""A master's nodes: what they say becomes events of the scheduler, and what it wants of them becomes messages.

Nothing here touches a socket, a thread, a clock or a file. ``Cluster`` adds these; the simulation's master has them in
virtual time. Both use the tables below, so what is new in one cannot be forgotten in the other.
"""
from __future__ import absolute_import, division, print_function

from collections import OrderedDict

from .. import errors
from ..brain import scheduler
from ..compat import native
from ..wire import protocol
from .journal import SYNC_SECONDS, OutcomeLog  # noqa: F401 # the latter in a type comment

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable  # noqa: F401 # novm

    from .job import Job  # noqa: F401

#: Nodes take a master for lost of which no byte comes for 10 s: it says something unasked, whatever else goes on.
BEAT_SECONDS = 2.0

#: Each message of a node -> the method that takes it.
SAID = {
    protocol.Join: "_joined",
    protocol.Done: "_outcome",
    protocol.Failed: "_outcome",
    protocol.Released: "_outcome",
    protocol.Died: "_outcome",
    protocol.Unfit: "_outcome",
    protocol.Heartbeat: "_heartbeat",
    protocol.Fetch: "_fetch",
    protocol.Output: "_printed",
    protocol.Farewell: "_farewell",
}  # type: dict[type, str]

#: Each effect of the scheduler -> the method that carries it out.
EFFECTS = {
    scheduler.Admit: "_admit",
    scheduler.Define: "_define",
    scheduler.Grant: "_grant",
    scheduler.Revoke: "_revoke",
    scheduler.Forget: "_forget",
    scheduler.TakenBack: "_taken_back",
    scheduler.Deliver: "_deliver",
    scheduler.DeliverFailure: "_deliver_failure",
    scheduler.DeliverPoison: "_deliver_poison",
    scheduler.Finish: "_finish",
    scheduler.Disconnect: "_disconnect",
    scheduler.Explain: "_explain",
    scheduler.Idle: "_idle",
}  # type: dict[type, str]

#: What a node says of attempts -> the scheduler's event.
OUTCOMES = {
    protocol.Done: lambda node, session, m: scheduler.TasksDone(
        node, session, m.attempt, m.first, m.count, max(0, m.elapsed_ns) / 1e9, m.payload
    ),
    protocol.Failed: lambda node, session, m: scheduler.TaskFailed(
        node, session, m.attempt, m.first, max(0, m.elapsed_ns) / 1e9, m.info, m.payload
    ),
    protocol.Released: lambda node, session, m: scheduler.AttemptReleased(node, session, m.attempt, m.first),
    protocol.Died: lambda node, session, m: scheduler.AttemptDied(node, session, m.attempt, m.first, m.info),
    protocol.Unfit: lambda node, session, m: scheduler.AttemptUnfit(node, session, m.attempt, m.first, m.info),
}  # type: dict[type, Callable[[Any, int, Any], tuple]]


class Session(object):
    """One connection of one node, from its Join on. ``send(message)`` goes there; ``close(error)`` ends it.

    address: of the node; "" for the one in this process. under_way: a function that returns (large messages that are
    being sent, received bytes of an incomplete message).
    """

    def __init__(
        self,
        number,  # type: int
        send,  # type: Callable[[tuple[Any, ...]], None]
        address,  # type: str
        close,  # type: Callable[[BaseException | None], None]
        under_way=lambda: ([], 0),  # type: Callable[[], tuple[list[Any], int]]
    ):
        # type: (...) -> None
        self.number, self.send, self.address, self.close = number, send, address, close
        self.under_way = under_way
        self.node = None  # type: Any # the node's id
        self.info = {}  # type: dict[str, Any]
        self.is_admitted = False  # the scheduler has taken the node in
        self.report = 0  # the last one received
        self.answered = 0  # the last one acknowledged
        self.unanswered = 0  # questions (Fetch)
        self.busy = ((), 0)  # type: tuple # what ``under_way`` said when the scheduler was told
        self.starting = (0, "", None)  # how many worker processes are not there, said its last heartbeat, and why

    @property
    def name(self):
        # type: () -> str
        """The node as people know it."""
        return native("%s/%s" % (self.info.get("hostname"), self.info.get("pid")))


class Sessions(object):
    """The part of a master that is about its nodes.

    later: a function that runs another in the master's thread. do: one that runs another with its arguments where it
    may wait for a disk.
    """

    def __init__(self, epoch, later, do):
        # type: (int, Callable[..., None], Callable[..., None]) -> None
        self._epoch, self._later, self._do = epoch, later, do
        self._sessions = OrderedDict()  # type: OrderedDict[Any, Session] # by node id
        self._jobs = OrderedDict()  # type: OrderedDict[int, Job] # by number
        self._reported = OrderedDict()  # type: OrderedDict[Session, None] # those that brought something, unanswered yet
        self._unsynced = OrderedDict()  # type: OrderedDict[OutcomeLog, None] # their last outcomes may not be on the disk
        self._sync_at = 0.0  # when journals may be synced again
        self._syncing = None  # type: list | None # while that goes on: (session, the report that will be on the disk)
        self._beat_at = 0.0
        self._said_methods = {kind: getattr(self, name) for kind, name in SAID.items()}
        self._effects = {kind: getattr(self, name) for kind, name in EFFECTS.items()}

    def _event(self, event):
        # type: (tuple) -> None
        """Let the scheduler handle it, and carry out the effects."""
        raise NotImplementedError

    def _moments(self):
        # type: () -> list[float]
        """When ``_acknowledge`` and ``_beat`` are due."""
        moments = [self._sync_at] if self._syncing is None and self._unsynced else []
        return moments + ([self._beat_at] if self._sessions else [])

    # -- what nodes say ---------------------------------------------------------------------------

    def _said(self, session, message):
        # type: (Session, Any) -> None
        kind = type(message)
        is_join = kind is protocol.Join
        if not is_join and not session.is_admitted:
            session.close(errors.ProtocolError("%s before Joined" % kind.__name__))
        elif kind not in SAID or (is_join and session.node is not None):
            session.close(errors.ProtocolError("a second %s" % kind.__name__))
        else:
            self._said_methods[kind](session, message)

    def _joined(self, session, message):
        # type: (Session, protocol.Join) -> None
        session.info = info = message.info
        session.node = self._id_of(info)
        older = self._sessions.get(session.node)
        if older is not None and older.number > session.number:
            session.node = None
            session.close(errors.ConnectionFailed("it was held up, and its node has joined again since"))
            return
        self._sessions[session.node] = session
        self._event(scheduler.NodeJoined(session.node, session.number, info["slots"], session.name, info["held"]))
        if older is not None:
            older.close(errors.ConnectionFailed("replaced by a newer connection of the same node"))

    def _id_of(self, info):
        # type: (dict[str, Any]) -> Any
        return native(info["id"])

    def _outcome(self, session, message):
        # type: (Session, Any) -> None
        session.report = max(session.report, message.report)
        self._reported[session] = None
        self._event(OUTCOMES[type(message)](session.node, session.number, message))

    def _heartbeat(self, session, message):
        # type: (Session, protocol.Heartbeat) -> None
        info = message.info
        starting, trouble, stuck = said = info.get("starting", 0), info.get("trouble", ""), info.get("stuck")
        if said != session.starting:
            session.starting = said
            self._event(scheduler.NodeStarting(session.node, session.number, starting, native(trouble), stuck))
        self._event(scheduler.NodeHeard(session.node, session.number))

    def _farewell(self, session, message):
        # type: (Session, protocol.Farewell) -> None
        left = message.info.get("left")
        event = scheduler.NodeLeft if left else scheduler.NodeDraining
        self._event(event(session.node, session.number))
        if left:
            session.close(None)

    def _fetch(self, session, message):
        # type: (Session, protocol.Fetch) -> None
        raise NotImplementedError

    def _printed(self, session, message):
        # type: (Session, protocol.Output) -> None
        raise NotImplementedError

    # -- what nodes are told ----------------------------------------------------------------------

    def _admit(self, effect):
        # type: (scheduler.Admit) -> None
        session = self._sessions[effect.node]
        session.is_admitted = True
        session.send(protocol.Joined({"epoch": self._epoch}))

    def _revoke(self, effect):
        # type: (scheduler.Revoke) -> None
        session = self._sessions.get(effect.node)
        if session is not None:
            session.send(protocol.Revoke(effect.attempt, int(effect.kill)))

    def _forget(self, effect):
        # type: (scheduler.Forget) -> None
        session = self._sessions.get(effect.node)
        if session is not None:
            session.send(protocol.ForgetJob(effect.job))

    def _acknowledge(self, now):
        # type: (float) -> None
        """Acknowledge what has been delivered, and is on the disk if it shall be; a disk may take its time for that."""
        if self._syncing is None:
            dirty = list(self._unsynced)
            if dirty and now < self._sync_at:
                return
            delivered = [(session, session.report) for session in self._reported]
            self._reported.clear()
            self._unsynced.clear()
            if not dirty:
                self._durable(delivered)
            else:
                self._sync_at = now + SYNC_SECONDS
                self._syncing = delivered
                self._do(sync, dirty, self._later, self._synced)

    def _job_of_outcome(self, number):
        # type: (int) -> Job
        """The job, whose journal gets an outcome now. It is to be synced even if the job ends meanwhile."""
        job = self._jobs[number]
        if job.journal is not None:
            self._unsynced[job.journal] = None
        return job

    def _synced(self):
        # type: () -> None
        delivered, self._syncing = self._syncing or [], None
        self._durable(delivered)

    def _durable(self, delivered):
        # type: (list[tuple[Session, int]]) -> None
        """What these reports brought is where it shall be."""
        for session, report in delivered:
            if report > session.answered:
                session.answered = report
                session.send(protocol.Acknowledge(report))

    def _beat(self, now):
        # type: (float) -> None
        """Unasked, and passing what is large: what the nodes know already, as a sign of life."""
        if now < self._beat_at:
            return
        self._beat_at = now + BEAT_SECONDS
        for session in self._sessions.values():
            session.send(protocol.Acknowledge(session.answered))
            busy = _busy(*session.under_way())
            if busy != session.busy:
                session.busy = busy
                self._event(scheduler.LinkBusy(session.node, session.number, *busy))

    # -- the other effects ------------------------------------------------------------------------

    def _define(self, effect):
        # type: (scheduler.Define) -> None
        raise NotImplementedError

    def _grant(self, effect):
        # type: (scheduler.Grant) -> None
        raise NotImplementedError

    def _taken_back(self, effect):
        # type: (scheduler.TakenBack) -> None
        raise NotImplementedError

    def _deliver(self, effect):
        # type: (scheduler.Deliver) -> None
        raise NotImplementedError

    def _deliver_failure(self, effect):
        # type: (scheduler.DeliverFailure) -> None
        raise NotImplementedError

    def _deliver_poison(self, effect):
        # type: (scheduler.DeliverPoison) -> None
        raise NotImplementedError

    def _finish(self, effect):
        # type: (scheduler.Finish) -> None
        raise NotImplementedError

    def _disconnect(self, effect):
        # type: (scheduler.Disconnect) -> None
        raise NotImplementedError

    def _explain(self, effect):
        # type: (scheduler.Explain) -> None
        raise NotImplementedError

    def _idle(self, effect):
        # type: (scheduler.Idle) -> None
        raise NotImplementedError


def sync(journals, then, argument):
    # type: (list[OutcomeLog], Callable[..., None], object) -> None
    """Where it may wait for a disk: sync these journals, then call then(argument)."""
    try:
        for journal in journals:
            journal.sync()
    finally:
        then(argument)


def careful(effect):
    # type: (scheduler.Grant) -> int
    """How the node runs these tasks, as protocol.Grant says it."""
    return protocol.EXCLUSIVE if effect.exclusive else protocol.ONE_BY_ONE if effect.one_by_one else 0


def _busy(sending, received):
    # type: (list, int) -> tuple
    """What is on its way, as the scheduler knows it."""
    told = []
    for message, sent, size in sending:
        kind = type(message)
        name = "attempt" if kind is protocol.Grant else "job" if kind is protocol.DefineJob else ""
        told.append((name, getattr(message, name, 0), sent, size))
    return tuple(told), received

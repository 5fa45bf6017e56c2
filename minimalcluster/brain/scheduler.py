"""The master's brain: which node runs which tasks. Pure: events and time in, effects out.

::

    JobSubmitted --> [ cursor ........ total )      tasks that no node has had yet
                         | grant: cut a piece off the front
                         v
     queued pieces --> leased pieces --> delivered       piece [lo, hi): lo moves up as results come
          ^                |
          +-- lost, died, released --+

Rules:

* A piece is a run of consecutive tasks [lo, hi). Its results are delivered from the front, so ``lo``
  alone says what has been delivered: a result below it is a duplicate and is dropped.
* An attempt is one lease of a piece to one node. Its number is unique across restarts of the
  master (epoch, then a counter) and is the fencing token: an unknown number changes nothing. Nor
  does an event of a session that is closed or replaced.
* A lost attempt may deliver until its piece is done: if its node comes back first, its
  results count. The first result wins; the other attempts are revoked.
* A task that raises has an outcome. Only a task that was running when its worker process died is
  suspected: it runs next alone, and after ``attempts_max`` deaths it is reported as poison. Deaths by a SIGKILL that
  is not ours (the system was out of memory, perhaps) are counted by themselves: the task's next node runs it alone.
* A master that has just started awaits its script's job (JobAwaited). Until then a node that brings a former master's
  attempts is parked: it is not admitted yet, since only the job's journal tells which of these attempts still count.
* At the end of a job of idempotent tasks, what takes too long is leased a second time (a copy). A copy that
  dies, is lost, times out, or raises while retries are left ends alone: the other goes on in its place.
* A job is cut in the order of its tasks, and no further than its limit: its reader has not taken what came before.
  What was cut once is never held back, so the task that a reader waits for runs again wherever the limit is.
* Every change goes through ``handle``; ``deadline`` says when to call it again at the latest.
* The rules are here. The ledger (ledger.py) keeps the state of jobs, pieces, leases and nodes, with the indexes that
  spare a pass to go through all of them.
"""
from __future__ import absolute_import, division, print_function

from collections import OrderedDict, namedtuple

from ..compat import native
from . import policy, status
from .history import WithHistory
from .indexes import Agenda, Ranked  # noqa: F401 # one in type comments
from .leases import Job, Lease, Node, Piece  # noqa: F401 # some in type comments
from .ledger import Ledger

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Iterable  # noqa: F401 # novm

#: A node that was asked for what it has not started has answered by then, or is stuck.
ANSWER_SECONDS = 0.2
#: Heartbeats come every 2 s; five in a row must be missed (docs/reliability.md, row 16).
NODE_LOST_SECONDS = 10.0
#: How long a node may reconnect after its connection broke before its tasks run elsewhere (its rows 14, 25).
RECONNECT_SECONDS = 0.8
#: How long nodes of a killed master have to come back with what they run; their longest pause is 10 s.
ADOPT_SECONDS = 12.0
#: How long nodes that bring a former master's attempts wait for the first job, which may resume these. A node without
#: any master keeps them for the same time.
PARK_SECONDS = 60.0
#: After so long without progress it is explained what a job waits for; if its tasks run, much later.
EXPLAIN_FIRST_SECONDS = 2.0
EXPLAIN_RUNNING_SECONDS = 60.0
#: And again, for the same reason; of tasks that run, each time twice as long after.
EXPLAIN_AGAIN_SECONDS = 60.0
#: A job that waits is looked at again so much later for each other job, since all may wait: a look takes 10 us.
EXPLAIN_EACH_SECONDS = 0.001
#: A look for second copies goes through all leases of a job. It takes a microsecond a lease: many leases are looked at
#: again after so many seconds a lease, a tenth of the master's time.
COPY_LOOK_SECONDS = 1e-5
COPY_LOOK_LEASES = 100
HISTORY_LENGTH = 2000

EPOCH_SHIFT = 40  # attempts per epoch: 10^12

# -- events: what happened ------------------------------------------------------------------------
JobAwaited = namedtuple("JobAwaited", "")  # the master has just started: its script gives it a job soon, perhaps
JobSubmitted = namedtuple("JobSubmitted", "job total options")
JobResumed = namedtuple("JobResumed", "job done attempts")
JobGrew = namedtuple("JobGrew", "job total closed limit")
JobGrew.__new__.__defaults__ = (None,)  # limit: it may be cut as far as this task; None: as far as it goes
JobCancelled = namedtuple("JobCancelled", "job")
JobStopped = namedtuple("JobStopped", "job")
TaskCancelled = namedtuple("TaskCancelled", "job task")
NodeJoined = namedtuple("NodeJoined", "node session slots name held")
NodeHeard = namedtuple("NodeHeard", "node session")
NodeStarting = namedtuple("NodeStarting", "node session starting trouble stuck")
NodeStarting.__new__.__defaults__ = (None,)  # stuck: so many seconds the master waits for it
LinkBusy = namedtuple("LinkBusy", "node session sending received")  # for people: what is on its way
NodeDraining = namedtuple("NodeDraining", "node session")
NodeDisconnected = namedtuple("NodeDisconnected", "node session")
NodeLeft = namedtuple("NodeLeft", "node session")
TasksDone = namedtuple("TasksDone", "node session attempt first count seconds payload")
TaskFailed = namedtuple("TaskFailed", "node session attempt first seconds info payload")
AttemptSized = namedtuple("AttemptSized", "node session attempt size")
AttemptReleased = namedtuple("AttemptReleased", "node session attempt first")
AttemptDied = namedtuple("AttemptDied", "node session attempt first info")
AttemptUnfit = namedtuple("AttemptUnfit", "node session attempt first info")
TimePassed = namedtuple("TimePassed", "")

# -- effects: what to do --------------------------------------------------------------------------
Admit = namedtuple("Admit", "node session")  # tell the node that it has joined
Define = namedtuple("Define", "node job")
Grant = namedtuple("Grant", "node job attempt first count one_by_one exclusive")
Grant.__new__.__defaults__ = (False,)  # exclusive: nothing else may run on the node meanwhile
Revoke = namedtuple("Revoke", "node attempt kill")
Forget = namedtuple("Forget", "node job")
Deliver = namedtuple("Deliver", "job first count skip payload")
DeliverFailure = namedtuple("DeliverFailure", "job first node info payload")
DeliverPoison = namedtuple("DeliverPoison", "job first deaths")
Finish = namedtuple("Finish", "job unrunnable")
TakenBack = namedtuple("TakenBack", "job first end")
Disconnect = namedtuple("Disconnect", "node session reason")
Explain = namedtuple("Explain", "text")
Idle = namedtuple("Idle", "job")

Death = namedtuple("Death", "node info")

#: Events after which nothing else is to be taken back or copied than before.
_SIGNS_OF_LIFE = frozenset([NodeHeard, LinkBusy, TimePassed])


class Scheduler(WithHistory):
    """See the module's text. ``epoch`` must differ from one start of the master to the next (it is random)."""

    def __init__(self, epoch=1):
        # type: (int) -> None
        super(Scheduler, self).__init__(HISTORY_LENGTH)
        self._next_attempt = epoch << EPOCH_SHIFT
        self._ledger = Ledger(self._broken)
        self._jobs, self._nodes, self._attempts = self._ledger.jobs, self._ledger.nodes, self._ledger.attempts
        self._lost_at, self._queued_again_at = Agenda(_lost_at), Agenda(_queued_again_at)
        self._explained_at = Agenda(_explained_at)
        self._given_up_at = Agenda(_given_up_at)  # nodes on which no worker process can start
        self._given_up = set()  # type: set # those of them that were waited for long enough
        self._parked = OrderedDict()  # type: OrderedDict # nodes that bring a former master's attempts -> NodeJoined
        self._park_until = None  # type: float | None # None: the first job has come, or no job is awaited any more
        self._changed = False  # something but signs of life, since tasks were last taken back and copied
        self._take_back_at = self._copy_at = None  # type: float | None
        self._copy_rest_until = 0.0
        self.duplicates = 0
        self.requeued = 0
        self._effects = []  # type: list
        self._handlers = {
            JobAwaited: self._job_awaited,
            JobSubmitted: self._job_submitted,
            JobResumed: self._job_resumed,
            JobGrew: self._job_grew,
            JobCancelled: self._job_cancelled,
            JobStopped: self._job_stopped,
            TaskCancelled: self._task_cancelled,
            NodeJoined: self._node_joined,
            TimePassed: self._time_passed,
        }  # type: dict
        self._session_handlers = {
            NodeHeard: self._node_heard,
            NodeStarting: self._node_starting,
            LinkBusy: self._link_busy,
            NodeDraining: self._node_draining,
            NodeDisconnected: self._node_disconnected,
            NodeLeft: self._node_left,
            TasksDone: self._tasks_done,
            TaskFailed: self._task_failed,
            AttemptSized: self._attempt_sized,
            AttemptReleased: self._attempt_released,
            AttemptDied: self._attempt_died,
            AttemptUnfit: self._attempt_unfit,
        }  # type: dict

    # -- the one door -----------------------------------------------------------------------------

    def handle(self, event, now):
        # type: (tuple, float) -> list
        """All changes go through here. ``TimePassed`` hands out work: send it once after each batch."""
        self._effects = []
        self._now = now
        kind = type(event)
        if kind not in _SIGNS_OF_LIFE:
            self._changed = True
        handler = self._session_handlers.get(kind)
        if handler is None:
            self._handlers[kind](event)
        else:
            node = self._nodes.get(event.node)  # type: ignore[attr-defined]
            if node is not None and node.connected and node.session == event.session:  # type: ignore[attr-defined]
                node.heard_at = now
                handler(node, event)
            elif event.node in self._parked:  # type: ignore[attr-defined]
                self._parked_said(event)
        if self._ledger.touched:
            self._ledger.file_touched()
        if self._ledger.done:
            self._finish_what_is_done()
        return self._effects

    def deadline(self):
        # type: () -> float | None
        """When ``TimePassed`` is due next, whatever happens; None: only after another event. It may be too early."""
        moments = (
            self._lost_at.not_before(), self._queued_again_at.not_before(), self._explained_at.not_before(),
            self._given_up_at.not_before(), self._take_back_at, self._copy_at,
            self._park_until if self._parked else None,
        )  # fmt: skip
        due = [moment for moment in moments if moment is not None]  # type: list[float]
        return min(due) if due else None

    # -- jobs -------------------------------------------------------------------------------------

    def _job_awaited(self, event):
        # type: (JobAwaited) -> None
        self._park_until = self._now + PARK_SECONDS

    def _job_submitted(self, event):
        # type: (JobSubmitted) -> None
        if event.job in self._jobs:
            self._broken("job %d is submitted twice" % event.job, event.job)
        self._explained_at.note(self._ledger.add_job(event.job, event.total, event.options, self._now))
        if self._park_until is not None:
            self._park_until = self._now  # the next pass admits parked nodes: JobResumed comes before it
        self._remember("job", event.job, "submitted", event.total)

    def _job_resumed(self, event):
        # type: (JobResumed) -> None
        """A former master's job: done are its delivered spans (first, end), attempts its (attempt, first, end),
        the newest last: it has what an older one gave back.

        A node that still runs one of those attempts has a while to come back with it; then it is queued.
        """
        job = self._jobs.get(event.job)
        if job is not None:
            self._ledger.resume(job, event.done, event.attempts, self._now + ADOPT_SECONDS)
            self._queued_again_at.note(job)
            self._remember("job", job.id, "resumed", job.delivered)

    def _job_grew(self, event):
        # type: (JobGrew) -> None
        job = self._jobs.get(event.job)
        if job is None or job.stopped:
            return
        if job.held_back or job.delivered == job.total:
            job.moved_at = self._now  # it had nothing to do
            job.explain_at = min(job.explain_at, self._now)
        self._ledger.grow(job, event.total, event.closed, event.limit)
        self._explained_at.note(job)

    def _job_cancelled(self, event):
        # type: (JobCancelled) -> None
        job = self._jobs.get(event.job)
        if job is not None:
            self._stop(job, kill=True)

    def _job_stopped(self, event):
        # type: (JobStopped) -> None
        """As cancelled, but what runs may end and counts."""
        job = self._jobs.get(event.job)
        if job is not None:
            self._stop(job, kill=False)

    def _task_cancelled(self, event):
        # type: (TaskCancelled) -> None
        """This task's outcome is not wanted: its worker process is ended, the rest of its piece runs again."""
        job, task = self._jobs.get(event.job), event.task
        piece = None if job is None or job.stopped else self._ledger.having(job, task)
        if piece is not None:
            self._revoke(self._ledger.cancel(piece, task), True)

    def _stop(self, job, kill):
        # type: (Job, bool) -> None
        """Hand out nothing more; what has not started comes back, what runs ends or is killed."""
        if not job.stopped:
            self._remember("job", job.id, "stopped", kill)
        self._revoke(self._ledger.stop(job, kill), kill)

    def _finish_what_is_done(self):
        # type: () -> None
        """The one place where a job ends: after each event, for the jobs that it has touched."""
        for job in self._ledger.take_done():
            for node_id in sorted(job.nodes):  # a set's order differs from run to run
                if self._nodes[node_id].connected:
                    self._do(Forget(node_id, job.id))
            self._ledger.remove_job(job)
            self._explained_at.drop(job)
            self._queued_again_at.drop(job)
            self._remember("job", job.id, "finished", job.delivered)
            self._do(Finish(job.id, job.unrunnable))

    # -- nodes ------------------------------------------------------------------------------------

    def _node_joined(self, event):
        # type: (NodeJoined) -> None
        parked = self._parked.pop(event.node, None)
        if parked is not None and parked.session > event.session:  # its connection took longer than a later one
            self._parked[event.node] = parked
            self._do(Disconnect(event.node, event.session, "older than another connection of the same node"))
        elif event.held and self._park_until is not None and event.node not in self._nodes:
            self._parked[event.node] = event
            self._remember("node", event.node, "parked", event.session)
        else:
            self._admit(event)

    def _parked_said(self, event):
        # type: (tuple) -> None
        """A parked node has nothing to say but that it goes: its reports come after it was admitted."""
        node, session = event[:2]
        if type(event) in (NodeDisconnected, NodeLeft) and self._parked[node].session == session:
            del self._parked[node]
            self._remember("node", node, "left", session)

    def _admit_parked(self):
        # type: () -> None
        """From here on an attempt that no job knows is revoked: the first job has named its own, or none has come."""
        if self._park_until is None or self._now < self._park_until:
            return
        self._park_until = None
        parked, self._parked = self._parked, OrderedDict()
        for event in parked.values():
            self._changed = True
            self._admit(event)

    def _admit(self, event):
        # type: (NodeJoined) -> None
        node = self._nodes.get(event.node)
        if node is None:
            node = self._ledger.add_node(event.node, event.session, event.slots, event.name, self._now)
        elif event.session < node.session:  # its connection took longer than a later one
            self._do(Disconnect(node.id, event.session, "older than another connection of the same node"))
            return
        else:
            if node.connected:
                self._do(Disconnect(node.id, node.session, "replaced by a newer connection of the same node"))
            self._ledger.forget_session(node)
            node.session, node.slots, node.name = event.session, event.slots, event.name
            node.heard_at, node.gone_at = self._now, None
            node.connected, node.draining = True, False
            node.starting, node.trouble, node.sending, node.received = 0, "", (), 0
            node.stuck_until = None
            self._given_up.discard(node)
        self._remember("node", node.id, "joined", event.session)
        self._connection_changed(node)
        self._reconcile(node, event.held)
        self._do(Admit(node.id, node.session))

    def _connection_changed(self, node):
        # type: (Node) -> None
        self._ledger.file_connection(node)
        self._lost_at.note(node)

    def _reconcile(self, node, held):
        # type: (Node, list | set) -> None
        """After a (re)connection: leases on both sides agree again."""
        held = set(held)
        for attempt in list(node.leases):
            if attempt not in held:
                self._lose(node.leases[attempt])
        for attempt in sorted(held):
            lease = self._attempts.get(attempt)
            if lease is None or lease.node not in (None, node):
                self._do(Revoke(node.id, attempt, True))
                continue
            job = lease.piece.job
            if lease.node is None:
                self._ledger.take_up(lease, node, self._now)
            self._ledger.may_be_asked(lease)  # the last question may have been lost with the connection
            if job.stopped:
                self._do(Revoke(node.id, attempt, False))
            # The node must hear when that job ends; and after a restart of the master the job has a new number.
            if not self._ledger.knows(node, job):
                self._do(Define(node.id, job.id))

    def _node_heard(self, node, event):
        # type: (Node, NodeHeard) -> None
        pass

    def _node_starting(self, node, event):
        # type: (Node, NodeStarting) -> None
        node.starting, node.trouble = event.starting, event.trouble
        if (event.stuck is None) != (node.stuck_until is None):
            node.stuck_until = None if event.stuck is None else self._now + event.stuck
            self._remember("node", node.id, "stuck" if event.stuck else "not stuck")
            self._given_up.discard(node)
            self._given_up_at.note(node)
            self._connection_changed(node)
            self._changed = True

    def _link_busy(self, node, event):
        # type: (Node, LinkBusy) -> None
        """sending: ("attempt" or "job" and its number, or "" and 0; bytes sent; bytes in all) of each large message."""
        node.sending, node.received = event.sending, event.received

    def _node_draining(self, node, event):
        # type: (Node, NodeDraining) -> None
        node.draining = True
        self._connection_changed(node)
        self._remember("node", node.id, "draining")
        for attempt in node.leases:
            self._do(Revoke(node.id, attempt, False))

    def _node_disconnected(self, node, event):
        # type: (Node, NodeDisconnected) -> None
        node.connected = False
        node.gone_at = self._now + RECONNECT_SECONDS
        self._connection_changed(node)
        self._remember("node", node.id, "disconnected", event.session)

    def _node_left(self, node, event):
        # type: (Node, NodeLeft) -> None
        self._remove(node, "left")

    def _remove(self, node, why):
        # type: (Node, str) -> None
        self._remember("node", node.id, why)
        for lease in list(node.leases.values()):
            self._lose(lease)
        self._ledger.remove_node(node)
        self._lost_at.drop(node)
        self._given_up_at.drop(node)
        self._given_up.discard(node)
        self._changed = True

    # -- outcomes ---------------------------------------------------------------------------------

    def _tasks_done(self, node, event):
        # type: (Node, TasksDone) -> None
        piece = self._piece_of(node, event)
        if piece is None:
            self.duplicates += event.count
            return
        job, first, lo = piece.job, event.first, piece.lo
        self._ledger.measure(node, job, event.count, event.seconds, sum(map(len, event.payload)))
        end = min(first + event.count, piece.hi)
        self.duplicates += min(lo - first, event.count)
        if end > piece.lo:
            node.tasks_done += end - lo
            self._do(Deliver(job.id, first, end - first, lo - first, event.payload))
            self._revoke(self._ledger.deliver(piece, end, self._now), True)

    def _task_failed(self, node, event):
        # type: (Node, TaskFailed) -> None
        piece = self._piece_of(node, event)
        if piece is None or event.first < piece.lo or event.first >= piece.hi:
            self.duplicates += 1
            return
        job, index = piece.job, event.first
        self._ledger.failed(node, job, event.seconds)
        failures = job.failures.get(index, 0) + 1
        retried = failures <= job.options.retries and not job.stopped
        if retried:
            job.failures[index] = failures
        if self._gives_way(node, event, piece, retried):
            return
        if retried:
            deaths = piece.deaths if piece.size == 1 else ()  # of more tasks, this one is not the suspect
            self._revoke(self._ledger.advance(piece, index + 1, self._now), True)
            self._ledger.enqueue(Piece(job, index, index + 1, deaths, piece.exclusive))
            return
        job.failures.pop(index, None)
        node.tasks_done += 1
        job.failed += 1
        self._do(DeliverFailure(job.id, index, node.id, event.info, event.payload))
        self._revoke(self._ledger.deliver(piece, index + 1, self._now), True)
        if job.options.stop_on_error and not job.stopped:
            self._stop(job, kill=False)

    def _gives_way(self, node, event, piece, retried):
        # type: (Node, TaskFailed, Piece, bool) -> bool
        """Another copy runs, and may still succeed: it is the retry. What was too late here may be in time there."""
        lease = node.leases.get(event.attempt)
        if lease is None or piece.held < 2 or piece.size > 1:
            return False
        if not retried and event.info.get("type") != "TaskTimeout":
            return False
        self._ledger.end(lease)
        return True

    def _piece_of(self, node, event):
        # type: (Node, TasksDone | TaskFailed) -> Piece | None
        """The piece this result belongs to; None for a fenced attempt."""
        lease = self._attempts.get(event.attempt)
        if lease is None or lease.node not in (None, node):
            return None
        if lease.node is not None:
            self._ledger.may_be_asked(lease)  # it makes progress: it may be worth taking back again
            lease.moved_at = self._now
        piece = lease.piece
        if event.first > piece.lo:
            # Results come in order, so it brings no others. A former master has had those run again, perhaps.
            if event.first < piece.hi:
                self._ledger.divide(piece, event.first)
                return piece
            self._do(Revoke(node.id, event.attempt, True))
            if lease.node is not None:
                self._lose(lease)
            if lease in piece.attempts:
                self._ledger.end(lease)
            return None
        return piece

    def _revoke(self, held, kill):
        # type: (list | tuple, bool) -> None
        """held: (node, attempt). A node that has finished one ignores this."""
        for node, attempt in held:
            self._do(Revoke(node.id, attempt, kill))

    def _attempt_sized(self, node, event):
        # type: (Node, AttemptSized) -> None
        """How many bytes its arguments have: chunks of large arguments stay small."""
        lease = node.leases.get(event.attempt)
        if lease is not None:
            self._ledger.weigh(lease, event.size)

    def _attempt_released(self, node, event):
        # type: (Node, AttemptReleased) -> None
        """The node gives back [first, hi) unstarted; it goes on with [lo, first), if anything is there."""
        lease = node.leases.get(event.attempt)
        if lease is None:
            return
        piece = lease.piece
        first = max(event.first, piece.lo)
        self._ledger.answer(lease, self._now)
        if first == piece.lo and piece.held > 1:  # it gives all of it back: the other holder goes on
            self._ledger.end(lease)
            return
        rest = self._ledger.give_back(piece, first)
        if piece.lo == piece.hi:
            self._revoke(self._ledger.finish(piece), True)
        if rest is not None:
            self._do(TakenBack(rest.job.id, rest.lo, rest.hi))

    def _attempt_died(self, node, event):
        # type: (Node, AttemptDied) -> None
        """The worker process died while it ran this attempt."""
        lease = node.leases.get(event.attempt)
        if lease is None:
            return
        piece = lease.piece
        self._ledger.end(lease)
        if piece.held:
            return  # the other copy goes on
        job, lo, hi = piece.job, piece.lo, piece.hi
        self._ledger.finish(piece)
        if job.stopped:
            return
        self.requeued += 1
        if event.first != lo:  # another attempt has overtaken it: the task that ran here is not known
            self._ledger.enqueue(Piece(job, lo, hi, piece.deaths))
            return
        deaths = list(piece.deaths) + [Death(node.name, event.info)]
        if not lease.one_by_one and hi - lo > 1:
            # One of these tasks did it. They run again, one result at a time, to see which.
            self._ledger.enqueue(Piece(job, lo, hi, deaths))
            return
        piece.clear()
        if hi - lo > 1:
            self._ledger.enqueue(Piece(job, lo + 1, hi))
        self._suspect(job, lo, deaths)

    def _suspect(self, job, task, deaths):
        # type: (Job, int, list) -> None
        """This task ran at each of these deaths: it runs again, alone, or it is poison."""
        short_of_memory = sum(bool(death.info.get("memory")) for death in deaths)  # its neighbours' fault, perhaps
        if max(short_of_memory, len(deaths) - short_of_memory) < job.options.attempts_max:
            self._ledger.enqueue(Piece(job, task, task + 1, deaths, short_of_memory > 0))
            return
        self._do(DeliverPoison(job.id, task, tuple(deaths)))
        job.delivered += 1
        job.failed += 1
        if job.options.stop_on_error:
            self._stop(job, kill=False)

    def _attempt_unfit(self, node, event):
        # type: (Node, AttemptUnfit) -> None
        """This node cannot run this job at all (its environment fails there): pass it over."""
        lease = node.leases.get(event.attempt)
        if lease is None:
            return
        job = lease.piece.job
        self._lose(lease)
        if node.id not in job.ineligible:
            self._ledger.exclude(node, job, event.info)
            why = native(event.info.get("text", "?"))
            self._do(Explain("node %s cannot run this job and is passed over: %s" % (node.name, why)))
        if self._may_run(job, ()) or len(self._ledger.draining) == len(self._nodes) or job.stopped:
            return
        if not job.proven.difference(job.ineligible):  # else it ran on a node that is away and may come back
            job.unrunnable = event.info
            self._stop(job, kill=True)

    def _may_run(self, job, given_up):
        # type: (Job, set | tuple) -> bool
        """Is there a node, connected or not, that does not leave, is not given up, and may be able to run the job?"""
        nodes = self._ledger.nodes
        if len(job.ineligible) < len(nodes) - len(self._ledger.draining) - len(given_up):
            return True
        return any(
            not node.draining and node not in given_up and node.id not in job.ineligible for node in nodes.values()
        )

    def _lose(self, lease):
        # type: (Lease) -> None
        """The node is gone, or does not hold it: back to the queue. Its late results may still count."""
        self._remember("attempt", lease.attempt, "lost")
        self.requeued += 1
        self._ledger.lose(lease)

    # -- handing out ------------------------------------------------------------------------------

    def _time_passed(self, event):
        # type: (TimePassed) -> None
        self._admit_parked()
        self._expire()
        self._give_up_stuck()
        self._ledger.file_touched()
        self._grant_all(self._ledger.idle, False)
        self._grant_all(self._ledger.roomy, True)
        if self._changed or self._is_due(self._take_back_at) or self._is_due(self._copy_at):
            self._changed = False
            self._ledger.file_touched()
            self._take_back()
            self._copy_stragglers()
        self._explain()

    def _is_due(self, moment):
        # type: (float | None) -> bool
        return moment is not None and self._now >= moment

    def _expire(self):
        # type: () -> None
        for node in sorted(self._lost_at.take(self._now), key=lambda node: node.rank):
            if node.connected:
                self._do(Disconnect(node.id, node.session, "silent for %.0f s" % (self._now - node.heard_at)))
                self._remove(node, "silent")
            else:
                self._remove(node, "lost")
        for job in self._queued_again_at.take(self._now):
            for piece in [piece for piece, until in job.awaited.items() if self._now >= until]:
                self._ledger.enqueue(piece)
            self._queued_again_at.note(job)
            self._changed = True

    def _give_up_stuck(self):
        # type: () -> None
        """Jobs that only nodes could run on which, for long enough, no worker process can start."""
        found = self._given_up_at.take(self._now)
        self._given_up.update(found)
        if not self._given_up or not (found or self._changed):
            return
        all_are = len(self._nodes) - len(self._ledger.draining) <= len(self._given_up)
        for job in list(self._jobs.values() if all_are else self._ledger.choosy):
            is_waiting = job.ready and not (job.leases or job.awaited or job.stopped)
            if is_waiting and not self._may_run(job, self._given_up):
                left = [node for node in self._given_up if not node.draining and node.id not in job.ineligible]
                if left:
                    why = status.why_stuck(sorted(left, key=lambda node: node.rank))
                    job.unrunnable = {"type": "StartError", "text": why}
                    self._stop(job, kill=True)

    def _grant_all(self, nodes, prefetch):
        # type: (Ranked, bool) -> None
        """A chunk for each of these nodes in turn, again and again, while they have room and anything is to be done."""
        if not len(nodes) or not self._is_worth_a_look(prefetch):
            return
        refused, rank, given = set(), -1, False  # type: set, int, bool
        while True:
            node = nodes.after(rank)
            if node is None and not given:
                return
            rank, given = (-1, False) if node is None else (node.rank, given)
            if node is None or node in refused:
                continue
            job = self._job_for(node, prefetch)
            if job is not None:
                self._grant(node, job)
                given = True
            elif self._is_worth_a_look(prefetch):
                refused.add(node)
            else:
                return

    def _is_worth_a_look(self, prefetch):
        # type: (bool) -> bool
        """Is anything to be handed out, and is there a node that may take it?"""
        front = self._ledger.front()
        if front is None or (prefetch and front.next_is_exclusive):
            return False
        return bool(not prefetch or front.short or front.ineligible)

    def _job_for(self, node, prefetch):
        # type: (Node, bool) -> Job | None
        job = self._ledger.next_job(node)
        if job is None or (prefetch and (job.id not in node.short or job.next_is_exclusive)):
            # Do not prefetch other jobs' tasks either, or every slot always has a next chunk and this job never gets an
            # idle one.
            return None
        self._ledger.served(job)
        return job

    def _grant(self, node, job):
        # type: (Node, Job) -> None
        piece = self._ledger.cut(job, policy.chunk_size(node, job, self._ledger.slots))
        if piece.exclusive:
            node = policy.emptiest(self._ledger.idle, job)
            for lease in node.leases.values():  # what it has not started does not keep the piece waiting
                self._ask_back(lease)
        self._lease_out(piece, node)

    def _lease_out(self, piece, node):
        # type: (Piece, Node) -> None
        job, attempt = piece.job, self._next_attempt
        self._next_attempt += 1
        job.moved_at = self._now
        lease = self._ledger.lease(piece, node, attempt, self._now)
        self._changed = True
        if not self._ledger.knows(node, job):
            self._do(Define(node.id, job.id))
        self._remember("attempt", attempt, "granted", node.id, job.id, piece.lo, piece.hi)
        self._do(Grant(node.id, job.id, attempt, piece.lo, piece.size, lease.one_by_one, piece.exclusive))

    def _take_back(self):
        # type: () -> None
        """While slots are idle and nothing is queued, ask busy nodes for what they have not started."""
        self._take_back_at = None
        if self._ledger.front() is not None or not self._ledger.idle:
            return
        for lease in self._ledger.to_take_back(self._now):
            self._ask_back(lease)
        self._take_back_at = self._ledger.take_back_at()

    def _ask_back(self, lease):
        # type: (Lease) -> None
        """What has not been started of it."""
        self._ledger.ask_back(lease, self._now + ANSWER_SECONDS)
        self._changed = True
        self._do(Revoke(lease.node.id, lease.attempt, False))

    def _copy_stragglers(self):
        # type: () -> None
        """At the end of a job of idempotent tasks, what takes too long also runs on an idle slot."""
        self._copy_at = None
        if self._take_back_at is not None or not self._ledger.copyable or not self._ledger.idle:
            return  # unstarted tasks go first
        self._copy_at = self._ledger.asked_until(self._now)
        if self._copy_at is not None:
            return
        if self._now < self._copy_rest_until:
            self._copy_at = self._copy_rest_until
            return
        leases = 0
        for job in sorted(self._ledger.copyable, key=lambda job: job.turn):
            copies, again_at = policy.to_copy(job, self._ledger.idle, self._now)
            self._copy_at = policy.earlier(self._copy_at, again_at)
            leases += len(job.leases)
            for lease, node in copies:
                lease.piece.copied = True
                job.copied += lease.piece.size
                self._lease_out(lease.piece, node)
        self._copy_rest_until = self._now + COPY_LOOK_SECONDS * max(0, leases - COPY_LOOK_LEASES)

    # -- explaining -------------------------------------------------------------------------------

    def _explain(self):
        # type: () -> None
        """A job that makes no progress says what it waits for: once soon, then rarely."""
        jobs = self._explained_at.take(self._now)
        if not jobs:
            return
        cluster = self._overview()
        for job in sorted(jobs, key=lambda job: job.turn):
            if job.finished:
                continue
            wait = status.wait_of(job, cluster, self._now, NODE_LOST_SECONDS)
            job.explain_at = self._now + EXPLAIN_FIRST_SECONDS + EXPLAIN_EACH_SECONDS * (len(self._jobs) - 1)
            kind = status.IDLE if wait is None else wait.kind
            again_at, interval = job.explained.get(kind, (self._now, EXPLAIN_AGAIN_SECONDS))
            if wait is not None and kind == status.RUNNING:
                again_at = max(again_at, wait.since + EXPLAIN_RUNNING_SECONDS)
            if self._now >= again_at:
                # The shell may know why it has nothing to do: its results are read slowly.
                self._do(Idle(job.id) if wait is None else Explain(wait.text))
                again_at = self._now + interval
                job.explained[kind] = again_at, interval * (2 if kind in (status.RUNNING, status.IDLE) else 1)
            job.explain_at = again_at if wait is None else min(job.explain_at, again_at)
            self._explained_at.note(job)

    def _overview(self):
        # type: () -> status.Overview
        if self._ledger.overview is None:
            self._ledger.overview = status.overview(self._nodes.values())
        return self._ledger.overview

    @property
    def slots(self):
        # type: () -> int
        """How many worker processes the nodes have that take work."""
        return self._ledger.slots

    def status(self, now, numbers=None):
        # type: (float, Iterable[int] | None) -> list[tuple[int, status.JobStatus]]
        """(id, JobStatus without its name) of each job, or of those with these numbers."""
        cluster, found = self._overview(), []
        jobs = self._jobs.values() if numbers is None else [self._jobs[n] for n in numbers if n in self._jobs]
        for job in jobs:
            waits = now >= job.moved_at + EXPLAIN_FIRST_SECONDS
            wait = status.wait_of(job, cluster, now, NODE_LOST_SECONDS) if waits else None
            found.append((job.id, status.status_of(job, cluster, now, wait)))
        return found

    def _do(self, effect):
        # type: (tuple) -> None
        self._effects.append(effect)

    def nodes(self):
        # type: () -> tuple[list[dict[str, Any]], list[dict[str, Any]]]
        """Plain data of the nodes, and of those that wait to be taken in."""
        nodes = [
            {
                "id": node.id, "name": node.name, "slots": node.slots, "connected": node.connected,
                "draining": node.draining, "leases": len(node.leases), "tasks_done": node.tasks_done,
                "busy_seconds": node.busy_seconds,
            }
            for node in self._nodes.values()
        ]  # fmt: skip
        parked = [
            {
                "id": event.node, "name": event.name, "slots": event.slots, "connected": True, "draining": False,
                "leases": len(event.held), "tasks_done": 0, "busy_seconds": 0.0,
            }
            for event in self._parked.values()
        ]  # fmt: skip
        return nodes, parked

    def snapshot(self):
        # type: () -> dict[str, Any]
        """The state as plain data, without what changes by time alone (see ``status``)."""
        nodes, parked = self.nodes()
        jobs = [
            {
                "id": job.id, "total": job.total, "delivered": job.delivered, "queued": job.queued,
                "leases": job.leased, "stopped": job.stopped,
            }
            for job in self._jobs.values()
        ]  # fmt: skip
        return {
            "nodes": nodes, "parked": parked, "jobs": jobs, "duplicates": self.duplicates, "requeued": self.requeued,
        }  # fmt: skip

    def validate(self):
        # type: () -> None
        """Every invariant, for tests: raises InternalError with the history of what broke."""
        self._ledger.validate()
        for job in self._jobs.values():
            if not self._explained_at.knows(job) or not self._queued_again_at.knows(job):
                self._broken("job %d is due before anything looks at it" % job.id, job.id)
        for node in self._nodes.values():
            if not self._lost_at.knows(node):
                self._broken("node %s is lost before anything looks at it" % node.id, node.id)


def _lost_at(node):
    # type: (Node) -> float
    """From when on a node that says nothing is given up."""
    return node.gone_at if node.gone_at is not None else node.heard_at + NODE_LOST_SECONDS


def _given_up_at(node):
    # type: (Node) -> float | None
    """When it is given up that a worker process starts there."""
    return node.stuck_until


def _queued_again_at(job):
    # type: (Job) -> float | None
    """When what a former master's nodes may still run is queued: all of it at once."""
    return next(iter(job.awaited.values())) if job.awaited else None


def _explained_at(job):
    # type: (Job) -> float
    """When a job that makes no progress may have to say what it waits for."""
    return max(job.explain_at, job.moved_at + EXPLAIN_FIRST_SECONDS)

"""The master's brain: which node runs which tasks. Pure: events and time in, effects out.

::

    JobSubmitted --> [ cursor ........ total )      tasks nobody has had yet
                         | grant: cut a piece off the front
                         v
     queued pieces --> leased pieces --> delivered       piece [lo, hi): lo moves up as results come
          ^                |
          +-- lost, died, released --+

Rules:

* A piece is a run of consecutive tasks [lo, hi). Its results are delivered from the front, so ``lo``
  alone says what has been delivered: whatever arrives below it is a duplicate and is dropped.
* An attempt is one lease of a piece to one node. Its number is unique across restarts of the
  master (epoch, then a counter) and is the fencing token: an unknown number changes nothing. Nor
  does an event of a session that is closed or replaced.
* A lost attempt's number is remembered until its piece is done: if its node comes back first, its
  results count. Whoever is first wins; the others are revoked.
* A task that raises has an outcome. Only a task that was running when its worker process died is
  suspected: it runs next alone, and after ``attempts_max`` deaths it is reported as poison. Deaths by a SIGKILL that
  is not ours (the system was out of memory, perhaps) are counted apart from the others.
* At the end of a job of idempotent tasks, what takes too long is leased a second time (a copy). A copy that
  dies, is lost, times out, or raises while retries are left ends alone: the other goes on in its place.
* Every change goes through ``handle``; ``deadline`` says when to call it again at the latest.
"""
from __future__ import absolute_import, division, print_function

from collections import OrderedDict, deque, namedtuple

from . import status
from .stories import Storied

#: A chunk's aim: long against a round trip (0.1 ms here, some ms on a network), short against a job's tail.
CHUNK_SECONDS = 0.05
#: Growth from one chunk to the next, so that one unusual task cannot make a huge chunk.
CHUNK_GROWTH = 16
CHUNK_BYTES = 4 << 20
CHUNK_TASKS_MAX = 1 << 20
#: Of a job that still grows, each slot gets this small a part of the queue: its calls may differ from those
#: that were measured, and what has been handed out cannot be cancelled any more.
OPEN_JOB_SHARES = 16.0
#: Tasks longer than this gain nothing from prefetch, and could be run elsewhere meanwhile.
PREFETCH_TASK_SECONDS = 0.1
#: A lease younger than this is not worth taking back.
TAKE_BACK_SECONDS = 0.05
#: A second copy is for a task that has run, or will run, so many times longer than the copy would.
COPY_FACTOR = 1.5
#: What a copy may save must be worth the end and the start of a worker process, about 0.1 s each.
COPY_SECONDS_MIN = 0.2
#: One task in so many may get a second copy, and one in any case (FAULTS.md 17: 10 % more work).
COPY_SHARE = 10
#: A node that was asked for what it has not started has answered by then, or is stuck.
ANSWER_SECONDS = 0.2
#: Heartbeats come every 2 s; five in a row must be missed (FAULTS.md 16).
NODE_LOST_SECONDS = 10.0
#: How long a node may reconnect after its connection broke before its tasks run elsewhere (FAULTS.md 14, 25).
RECONNECT_SECONDS = 0.8
#: How long nodes of a killed master have to come back with what they run; their longest pause is 10 s.
ADOPT_SECONDS = 12.0
#: After so long without progress a job says what it waits for; tasks that run are worth a word much later.
EXPLAIN_FIRST_SECONDS = 2.0
EXPLAIN_RUNNING_SECONDS = 60.0
#: And again, for the same reason; of tasks that run, each time twice as long after.
EXPLAIN_AGAIN_SECONDS = 60.0
STORY_LENGTH = 2000

EPOCH_SHIFT = 40  # attempts per epoch: 10^12

# -- events: what happened ------------------------------------------------------------------------
JobSubmitted = namedtuple("JobSubmitted", "job total options")
JobResumed = namedtuple("JobResumed", "job done attempts")
JobGrew = namedtuple("JobGrew", "job total closed")
JobCancelled = namedtuple("JobCancelled", "job")
JobStopped = namedtuple("JobStopped", "job")
JobPaused = namedtuple("JobPaused", "job paused")
TaskCancelled = namedtuple("TaskCancelled", "job task")
NodeJoined = namedtuple("NodeJoined", "node session slots name held")
NodeHeard = namedtuple("NodeHeard", "node session")
NodeStarting = namedtuple("NodeStarting", "node session starting trouble")
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
Define = namedtuple("Define", "node job")
Grant = namedtuple("Grant", "node job attempt first count careful")
Revoke = namedtuple("Revoke", "node attempt kill")
Forget = namedtuple("Forget", "node job")
Deliver = namedtuple("Deliver", "job first count skip payload")
DeliverFailure = namedtuple("DeliverFailure", "job first node info payload")
DeliverPoison = namedtuple("DeliverPoison", "job first deaths")
Finish = namedtuple("Finish", "job unfit")
Disconnect = namedtuple("Disconnect", "node session reason")
Explain = namedtuple("Explain", "text")
Idle = namedtuple("Idle", "job")

#: chunksize: None sizes chunks by time. retries: for tasks that raise. attempts_max: deaths of a worker process.
#: idempotent: a task may run twice at a time.
Options = namedtuple("Options", "chunksize retries attempts_max stop_on_error idempotent")
DEFAULTS = Options(chunksize=None, retries=0, attempts_max=3, stop_on_error=False, idempotent=False)

Death = namedtuple("Death", "node info")


class _Piece(object):
    """Consecutive tasks [lo, hi) of a job that share a fate."""

    __slots__ = ("attempts", "copied", "deaths", "hi", "job", "leases", "lo", "queued")

    def __init__(self, job, lo, hi, deaths=None):
        # type: (_Job, int, int, list | None) -> None
        self.job, self.lo, self.hi = job, lo, hi
        # Deaths that one of these tasks is suspected of. Pieces cut from one share the list: the first
        # task that is caught takes it all, and the others are cleared.
        self.deaths = [] if deaths is None else deaths  # type: list
        self.queued = False
        self.copied = False  # had its second copy; there is no third
        self.leases = {}  # type: dict # attempt -> _Lease, live
        # Every attempt that may still deliver, and whether it is careful: a result is sent after each task,
        # so that a death blames the one that was running.
        self.attempts = {}  # type: dict


class _Lease(object):
    __slots__ = ("attempt", "granted_at", "moved_at", "node", "piece", "revoked", "settled_at")

    def __init__(self, attempt, piece, node, now):
        # type: (int, _Piece, _Node, float) -> None
        self.attempt, self.piece, self.node, self.granted_at = attempt, piece, node, now
        self.moved_at = now  # its last result came
        self.revoked = False
        self.settled_at = None  # type: float | None # from when on it gives nothing back any more


class _Speed(object):
    """What one node needs for one task of one job, as measured there."""

    __slots__ = ("bytes", "largest", "seconds")

    def __init__(self):
        # type: () -> None
        self.seconds = None  # type: float | None
        self.bytes = 0.0
        self.largest = 1

    def measured(self, count, seconds, size):
        # type: (int, float, int) -> None
        each = seconds / count
        self.seconds = each if self.seconds is None else (self.seconds + each) / 2
        self.weighed(count, size)
        self.largest = max(self.largest, count)

    def weighed(self, count, size):
        # type: (int, int) -> None
        self.bytes = max(size / count, self.bytes / 2)


class _Node(object):
    __slots__ = (
        "busy_seconds", "connected", "draining", "gone_at", "heard_at", "id", "jobs", "leases", "name", "session",
        "slots", "speeds", "starting", "tasks_done", "trouble",
    )  # fmt: skip

    def __init__(self, event, now):
        # type: (NodeJoined, float) -> None
        self.id, self.name, self.slots = event.node, event.name, event.slots
        self.session = event.session
        self.heard_at = now
        self.gone_at = None  # type: float | None
        self.connected, self.draining = True, False
        self.leases = OrderedDict()  # type: OrderedDict # attempt -> _Lease
        self.jobs = set()  # type: set # defined there in this session
        self.speeds = {}  # type: dict # job id -> _Speed
        self.starting, self.trouble = 0, ""  # its worker processes that are not there yet, and why not
        self.tasks_done = 0
        self.busy_seconds = 0.0

    @property
    def serving(self):
        # type: () -> bool
        return self.connected and not self.draining


class _Job(object):
    __slots__ = (
        "awaited", "began_at", "busy_seconds", "closed", "copied", "cursor", "delivered", "explain_at", "failed",
        "failures", "fit", "hopeless", "id", "leased", "measured", "moved_at", "nodes", "options", "paused", "pieces",
        "queued", "said", "stopped", "total", "unfit",
    )  # fmt: skip

    def __init__(self, event, now):
        # type: (JobSubmitted, float) -> None
        self.id, self.options = event.job, event.options
        self.began_at = self.moved_at = self.explain_at = now  # moved_at: tasks were handed out, or had outcomes
        self.said = {}  # type: dict # kind of waiting -> (when it may be said again, seconds to the time after)
        self.busy_seconds, self.measured = 0.0, 0  # of worker processes, for so many tasks
        self.failed = 0  # of those delivered
        self.closed = event.total is not None
        self.total = event.total or 0
        self.cursor = 0
        self.awaited = OrderedDict()  # type: OrderedDict # pieces of a former master's attempts -> until when
        self.pieces = deque()  # type: deque # queued pieces, before the cursor's turn
        self.queued = self.total  # tasks waiting for a grant
        self.leased = 0  # live leases
        self.copied = 0  # tasks that were given a second copy
        self.delivered = 0
        self.failures = {}  # type: dict # index -> times it raised, while retries are left
        self.nodes = set()  # type: set # ids of nodes that know this job
        self.fit = set()  # type: set # ids of nodes that have run some of it
        self.unfit = OrderedDict()  # type: OrderedDict # node id -> why it cannot run this job
        self.stopped = False
        self.paused = False  # what runs may end, nothing more is handed out
        self.hopeless = None  # type: dict | None # what the last node said when none could run it

    @property
    def finished(self):
        # type: () -> bool
        if self.stopped:
            return not self.leased
        return self.closed and self.delivered == self.total

    @property
    def ready(self):
        # type: () -> bool
        return self.queued > 0 and not self.paused


def _gaps(spans, total, within=None):
    # type: (list, int, list | None) -> list
    """What of [0, total), or of the spans ``within`` it, no span covers: (lo, hi), in order."""
    gaps = [(0, total)] if within is None else within
    for first, end in spans:
        cut = []  # type: list
        for lo, hi in gaps:
            cut += [(lo, min(hi, first)), (max(lo, end), hi)] if lo < end and first < hi else [(lo, hi)]
        gaps = [(lo, hi) for lo, hi in cut if lo < hi]
    return gaps


def _copies_max(job):
    # type: (_Job) -> int
    return max(1, job.total // COPY_SHARE)


class Scheduler(Storied):
    """See the module's text. ``epoch`` must grow from one start of the master to the next."""

    def __init__(self, epoch=1):
        # type: (int) -> None
        super(Scheduler, self).__init__(STORY_LENGTH)
        self._next_attempt = epoch << EPOCH_SHIFT
        self._jobs = OrderedDict()  # type: OrderedDict # id -> _Job, the next one served first
        self._nodes = OrderedDict()  # type: OrderedDict # id -> _Node, the next one served first
        self._attempts = {}  # type: dict # attempt -> _Piece, until the piece is done
        self._slots = 0
        self._take_back_at = self._copy_at = None  # type: float | None
        self.duplicates = 0
        self.requeued = 0
        self._effects = []  # type: list
        self._handlers = {
            JobSubmitted: self._job_submitted,
            JobResumed: self._job_resumed,
            JobGrew: self._job_grew,
            JobCancelled: self._job_cancelled,
            JobStopped: self._job_stopped,
            JobPaused: self._job_paused,
            TaskCancelled: self._task_cancelled,
            NodeJoined: self._node_joined,
            TimePassed: self._time_passed,
        }  # type: dict
        self._session_handlers = {
            NodeHeard: self._node_heard,
            NodeStarting: self._node_starting,
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
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)
        else:
            node = self._nodes.get(event.node)  # type: ignore[attr-defined]
            if node is not None and node.connected and node.session == event.session:  # type: ignore[attr-defined]
                node.heard_at = now
                self._session_handlers[type(event)](node, event)
        return self._effects

    def deadline(self):
        # type: () -> float | None
        """When ``TimePassed`` is due next, whatever happens; None: only after another event."""
        moments = []
        for job in self._jobs.values():
            moments.append(max(job.explain_at, job.moved_at + EXPLAIN_FIRST_SECONDS))
            moments.extend(job.awaited.values())
        moments.extend(moment for moment in (self._take_back_at, self._copy_at) if moment is not None)
        for node in self._nodes.values():
            moments.append(node.gone_at if node.gone_at is not None else node.heard_at + NODE_LOST_SECONDS)
        return min(moments) if moments else None

    # -- jobs -------------------------------------------------------------------------------------

    def _job_submitted(self, event):
        # type: (JobSubmitted) -> None
        if event.job in self._jobs:
            self._broken("job %d is submitted twice" % event.job, event.job)
        self._jobs[event.job] = job = _Job(event, self._now)
        self._tell("job", event.job, "submitted", event.total)
        self._finish_if_done(job)

    def _job_resumed(self, event):
        # type: (JobResumed) -> None
        """A former master's job: done are its delivered spans (first, end), attempts its (attempt, first, end),
        the newest last: it has what an older one gave back.

        Whoever still runs one of those attempts has a while to come back with it; then it is queued.
        """
        job = self._jobs.get(event.job)
        if job is None:
            return
        job.cursor, job.queued = job.total, 0
        gaps = _gaps(event.done, job.total)
        job.delivered = job.total - sum(hi - lo for lo, hi in gaps)
        careful = job.options.attempts_max == 1  # as they were granted, but for those suspected of a death
        same = {}  # type: dict # (first, end) -> the piece of the newest attempt of just these
        for attempt, first, end in reversed(event.attempts):
            for lo, hi in gaps:
                if lo < end and first < hi and attempt not in self._attempts:
                    piece = _Piece(job, max(lo, first), min(hi, end))
                    piece.attempts[attempt] = careful
                    self._attempts[attempt] = piece
                    job.awaited[piece] = self._now + ADOPT_SECONDS
                    gaps = _gaps([(piece.lo, piece.hi)], job.total, gaps)
            newest = same.setdefault((first, end), self._attempts.get(attempt))
            if attempt not in self._attempts and newest is not None and job.options.idempotent:  # they are two copies
                newest.attempts[attempt] = careful
                self._attempts[attempt] = newest
        for lo, hi in reversed(gaps):
            self._queue(_Piece(job, lo, hi))
        self._tell("job", job.id, "resumed", job.delivered)
        self._finish_if_done(job)

    def _job_grew(self, event):
        # type: (JobGrew) -> None
        job = self._jobs.get(event.job)
        if job is None or job.stopped:
            return
        if job.delivered == job.total:
            job.moved_at = self._now  # it had nothing to do
            job.explain_at = min(job.explain_at, self._now)
        job.queued += event.total - job.total
        job.total = event.total
        job.closed = event.closed
        self._finish_if_done(job)

    def _job_cancelled(self, event):
        # type: (JobCancelled) -> None
        job = self._jobs.get(event.job)
        if job is not None:
            self._stop(job, kill=True)
            self._finish_if_done(job)

    def _job_stopped(self, event):
        # type: (JobStopped) -> None
        """As cancelled, but what runs may end and counts."""
        job = self._jobs.get(event.job)
        if job is not None:
            self._stop(job, kill=False)
            self._finish_if_done(job)

    def _job_paused(self, event):
        # type: (JobPaused) -> None
        """Too many of its results wait for who reads them, or no more."""
        job = self._jobs.get(event.job)
        if job is not None:
            job.paused = event.paused
            job.moved_at = self._now

    def _task_cancelled(self, event):
        # type: (TaskCancelled) -> None
        """Nobody wants this task's outcome: what runs it is ended, the rest of its piece runs again."""
        job, task = self._jobs.get(event.job), event.task
        piece = None if job is None or job.stopped else self._piece_with(job, task)
        if job is None or piece is None:
            return
        for lease in piece.leases.values():
            self._do(Revoke(lease.node.id, lease.attempt, True))
        self._retire(piece)
        job.delivered += 1
        job.failures.pop(task, None)
        for lo, hi in ((task + 1, piece.hi), (piece.lo, task)):
            if lo < hi:
                self._queue(_Piece(job, lo, hi, piece.deaths))
        self._finish_if_done(job)

    def _piece_with(self, job, task):
        # type: (_Job, int) -> _Piece | None
        """The piece that has this task: it runs, is awaited or queued; None when it has an outcome."""
        if job.cursor <= task < job.total:
            piece = _Piece(job, job.cursor, task + 1)
            job.queued -= piece.hi - piece.lo
            job.cursor = piece.hi
            return piece
        for piece in list(job.pieces) + list(self._attempts.values()):
            if piece.job is job and piece.lo <= task < piece.hi:
                return piece
        return None

    def _stop(self, job, kill):
        # type: (_Job, bool) -> None
        """Hand out nothing more; what has not started comes back, what runs ends or is killed."""
        if not job.stopped:
            job.stopped = True
            self._tell("job", job.id, "stopped", kill)
        job.pieces.clear()
        job.awaited.clear()
        job.queued = 0
        for node in self._nodes.values():
            for lease in list(node.leases.values()):
                if lease.piece.job is job:
                    self._do(Revoke(node.id, lease.attempt, kill))
                    if kill:
                        self._end_lease(lease)
        for attempt in [attempt for attempt, piece in self._attempts.items() if piece.job is job]:
            if kill or not self._attempts[attempt].leases:
                del self._attempts[attempt]

    def _finish_if_done(self, job):
        # type: (_Job) -> None
        if job.finished and self._jobs.pop(job.id, None) is not None:
            for node_id in sorted(job.nodes):  # a set's order differs from run to run
                node = self._nodes[node_id]
                node.jobs.discard(job.id)
                node.speeds.pop(job.id, None)
                if node.connected:
                    self._do(Forget(node_id, job.id))
            self._tell("job", job.id, "finished", job.delivered)
            self._do(Finish(job.id, job.hopeless))

    # -- nodes ------------------------------------------------------------------------------------

    def _node_joined(self, event):
        # type: (NodeJoined) -> None
        node = self._nodes.get(event.node)
        if node is None:
            self._nodes[event.node] = node = _Node(event, self._now)
        elif event.session < node.session:  # it was held up on the way
            self._do(Disconnect(node.id, event.session, "older than another connection of the same node"))
            return
        else:
            if node.connected:
                self._do(Disconnect(node.id, node.session, "replaced by a newer connection of the same node"))
            self._forget_session(node)
            node.session, node.slots, node.name = event.session, event.slots, event.name
            node.heard_at, node.gone_at = self._now, None
            node.connected, node.draining = True, False
            node.starting, node.trouble = 0, ""
        self._tell("node", node.id, "joined", event.session)
        self._count_slots()
        self._reconcile(node, event.held)

    def _forget_session(self, node):
        # type: (_Node) -> None
        for job_id in node.jobs:
            if job_id in self._jobs:
                self._jobs[job_id].nodes.discard(node.id)
        node.jobs, node.speeds = set(), {}

    def _reconcile(self, node, held):
        # type: (_Node, list | set) -> None
        """After a (re)connection: leases on both sides agree again."""
        held = set(held)
        for attempt in list(node.leases):
            if attempt not in held:
                self._lose(node.leases[attempt])
        for attempt in sorted(held):
            piece = self._attempts.get(attempt)
            if piece is None:
                self._do(Revoke(node.id, attempt, True))
                continue
            if attempt not in node.leases:
                if piece.queued:
                    self._unqueue(piece)
                piece.job.awaited.pop(piece, None)
                self._begin_lease(attempt, piece, node)
            node.leases[attempt].revoked = False  # that request may have been lost with the connection
            if piece.job.stopped:
                self._do(Revoke(node.id, attempt, False))
            # It is to be told when that job ends; and after a restart of the master the job has a new number.
            if piece.job.id not in node.jobs:
                node.jobs.add(piece.job.id)
                piece.job.nodes.add(node.id)
                self._do(Define(node.id, piece.job.id))

    def _node_heard(self, node, event):
        # type: (_Node, NodeHeard) -> None
        pass

    def _node_starting(self, node, event):
        # type: (_Node, NodeStarting) -> None
        node.starting, node.trouble = event.starting, event.trouble

    def _node_draining(self, node, event):
        # type: (_Node, NodeDraining) -> None
        node.draining = True
        self._count_slots()
        self._tell("node", node.id, "draining")
        for attempt in node.leases:
            self._do(Revoke(node.id, attempt, False))

    def _node_disconnected(self, node, event):
        # type: (_Node, NodeDisconnected) -> None
        node.connected = False
        node.gone_at = self._now + RECONNECT_SECONDS
        self._count_slots()
        self._tell("node", node.id, "disconnected", event.session)

    def _node_left(self, node, event):
        # type: (_Node, NodeLeft) -> None
        self._remove(node, "left")

    def _remove(self, node, why):
        # type: (_Node, str) -> None
        self._tell("node", node.id, why)
        for lease in list(node.leases.values()):
            self._lose(lease)
        self._forget_session(node)
        del self._nodes[node.id]
        self._count_slots()
        for job in list(self._jobs.values()):
            job.unfit.pop(node.id, None)
            self._finish_if_done(job)

    def _count_slots(self):
        # type: () -> None
        self._slots = sum(node.slots for node in self._nodes.values() if node.serving)

    # -- outcomes ---------------------------------------------------------------------------------

    def _tasks_done(self, node, event):
        # type: (_Node, TasksDone) -> None
        piece = self._piece_of(node, event)
        if piece is None:
            self.duplicates += event.count
            return
        job = piece.job
        job.fit.add(node.id)
        speed = node.speeds.setdefault(job.id, _Speed())
        speed.measured(event.count, event.seconds, sum(map(len, event.payload)))
        node.busy_seconds += event.seconds
        job.busy_seconds += event.seconds
        job.measured += event.count
        skip = piece.lo - event.first
        end = min(event.first + event.count, piece.hi)
        self.duplicates += min(skip, event.count)
        if end > piece.lo:
            node.tasks_done += end - piece.lo
            self._do(Deliver(job.id, event.first, end - event.first, skip, event.payload))
            self._advance(piece, end)

    def _task_failed(self, node, event):
        # type: (_Node, TaskFailed) -> None
        piece = self._piece_of(node, event)
        if piece is None or event.first < piece.lo or event.first >= piece.hi:
            self.duplicates += 1
            return
        job, index = piece.job, event.first
        job.fit.add(node.id)
        node.busy_seconds += event.seconds
        if event.seconds:
            job.busy_seconds += event.seconds
            job.measured += 1
        failures = job.failures.get(index, 0) + 1
        retried = failures <= job.options.retries and not job.stopped
        if retried:
            job.failures[index] = failures
        if self._gives_way(node, event, piece, retried):
            return
        if retried:
            self._advance(piece, index + 1, delivered=False)
            self._queue(_Piece(job, index, index + 1))
            return
        job.failures.pop(index, None)
        node.tasks_done += 1
        job.failed += 1
        self._do(DeliverFailure(job.id, index, node.id, event.info, event.payload))
        self._advance(piece, index + 1)
        if job.options.stop_on_error and not job.stopped:
            self._stop(job, kill=False)
            self._finish_if_done(job)

    def _gives_way(self, node, event, piece, retried):
        # type: (_Node, TaskFailed, _Piece, bool) -> bool
        """Another copy runs, and may still succeed: it is the retry. What was too late here may be in time there."""
        lease = node.leases.get(event.attempt)
        if lease is None or len(piece.leases) < 2 or piece.hi - piece.lo > 1:
            return False
        if not retried and event.info.get("type") != "TaskTimeout":
            return False
        self._end_lease(lease)
        self._fence(piece, event.attempt)
        return True

    def _piece_of(self, node, event):
        # type: (_Node, TasksDone | TaskFailed) -> _Piece | None
        """The piece this result belongs to; None for a fenced attempt."""
        piece = self._attempts.get(event.attempt)
        if piece is None:
            return None
        lease = node.leases.get(event.attempt)
        if lease is not None:
            lease.revoked = False  # it makes progress: it may be worth taking back again
            lease.moved_at = self._now
        if event.first > piece.lo:
            # Results come in order on one connection, so this node has lost some: let another run them.
            self._do(Revoke(node.id, event.attempt, True))
            if lease is not None:
                self._lose(lease)
            if event.attempt in piece.attempts:
                self._fence(piece, event.attempt)
            self._finish_if_done(piece.job)
            return None
        return piece

    def _advance(self, piece, end, delivered=True):
        # type: (_Piece, int, bool) -> None
        job = piece.job
        job.moved_at = self._now
        if delivered:
            job.delivered += end - piece.lo
        if piece.queued:
            job.queued -= end - piece.lo
        piece.lo = end
        if piece.lo == piece.hi:
            self._retire(piece)
        self._finish_if_done(job)

    def _retire(self, piece):
        # type: (_Piece) -> None
        """Nothing is left to run of it: end its leases, fence its attempts."""
        if piece.queued:
            self._unqueue(piece)
        piece.job.awaited.pop(piece, None)
        for attempt in piece.attempts:
            self._attempts.pop(attempt, None)
        for _, lease in sorted(piece.leases.items()):
            self._end_lease(lease)
            if len(piece.attempts) > 1:  # a copy may still run somewhere; who has finished ignores this
                self._do(Revoke(lease.node.id, lease.attempt, True))

    def _attempt_sized(self, node, event):
        # type: (_Node, AttemptSized) -> None
        """How many bytes its arguments have: chunks of large arguments stay small."""
        lease = node.leases.get(event.attempt)
        if lease is not None:
            piece = lease.piece
            node.speeds.setdefault(piece.job.id, _Speed()).weighed(piece.hi - piece.lo, event.size)

    def _attempt_released(self, node, event):
        # type: (_Node, AttemptReleased) -> None
        """The node gives back [first, hi) unstarted; it goes on with [lo, first), if anything is there."""
        lease = node.leases.get(event.attempt)
        if lease is None:
            return
        piece = lease.piece
        first = max(event.first, piece.lo)
        lease.settled_at = self._now
        if first == piece.lo and len(piece.leases) > 1:  # it gives all of it back: the other holder goes on
            self._end_lease(lease)
            self._fence(piece, event.attempt)
            return
        rest = None
        if first < piece.hi:
            if not piece.job.stopped:  # whoever else holds it and goes on beyond is ended by _retire
                rest = _Piece(piece.job, first, piece.hi, piece.deaths)
            piece.hi = first
        if piece.lo == piece.hi:
            self._retire(piece)
        if rest is not None:
            self._queue(rest)
        self._finish_if_done(piece.job)

    def _attempt_died(self, node, event):
        # type: (_Node, AttemptDied) -> None
        """The worker process died while it ran this attempt."""
        lease = node.leases.get(event.attempt)
        if lease is None:
            return
        piece = lease.piece
        careful = piece.attempts[event.attempt]
        self._end_lease(lease)
        self._fence(piece, event.attempt)
        if piece.leases or piece.job.stopped:
            self._abandon_if_stopped(piece)
            self._finish_if_done(piece.job)
            return
        self.requeued += 1
        job, lo, hi = piece.job, piece.lo, piece.hi
        self._retire(piece)
        if event.first != lo:  # another attempt has overtaken it: nobody here is known to have been running
            self._queue(_Piece(job, lo, hi, piece.deaths))
            return
        deaths = piece.deaths + [Death(node.name, event.info)]
        if not careful:
            # One of these tasks did it. They run again, one result at a time, to see which.
            self._queue(_Piece(job, lo, hi, deaths))
            return
        del piece.deaths[:]
        if hi - lo > 1:
            self._queue(_Piece(job, lo + 1, hi))
        short_of_memory = sum(bool(death.info.get("memory")) for death in deaths)  # its neighbours' fault, perhaps
        if max(short_of_memory, len(deaths) - short_of_memory) < job.options.attempts_max:
            self._queue(_Piece(job, lo, lo + 1, deaths))
            return
        self._do(DeliverPoison(job.id, lo, tuple(deaths)))
        job.delivered += 1
        job.failed += 1
        if job.options.stop_on_error:
            self._stop(job, kill=False)
        self._finish_if_done(job)

    def _attempt_unfit(self, node, event):
        # type: (_Node, AttemptUnfit) -> None
        """This node cannot run this job at all (its environment fails there): pass it over."""
        lease = node.leases.get(event.attempt)
        if lease is None:
            return
        job = lease.piece.job
        self._lose(lease)
        if node.id not in job.unfit:
            job.unfit[node.id] = event.info
            why = event.info.get("text")
            self._do(Explain("node %s cannot run this job and is passed over: %s" % (node.name, why)))
        others = [other.id for other in self._nodes.values() if not other.draining]  # one may be reconnecting
        if others and all(other in job.unfit for other in others) and not job.stopped and not job.fit - set(job.unfit):
            # (A node that could run it, and is only away, may come back: then the job waits.)
            job.hopeless = event.info
            self._stop(job, kill=True)
        self._finish_if_done(job)

    # -- leases and queue -------------------------------------------------------------------------

    def _begin_lease(self, attempt, piece, node):
        # type: (int, _Piece, _Node) -> None
        node.leases[attempt] = piece.leases[attempt] = _Lease(attempt, piece, node, self._now)
        piece.job.leased += 1

    def _end_lease(self, lease):
        # type: (_Lease) -> None
        del lease.node.leases[lease.attempt]
        del lease.piece.leases[lease.attempt]
        lease.piece.job.leased -= 1

    def _fence(self, piece, attempt):
        # type: (_Piece, int) -> None
        self._attempts.pop(attempt, None)
        del piece.attempts[attempt]

    def _lose(self, lease):
        # type: (_Lease) -> None
        """The node is gone, or does not hold it: back to the queue. Its late results may still count."""
        piece = lease.piece
        self._tell("attempt", lease.attempt, "lost")
        self._end_lease(lease)
        self.requeued += 1
        if not piece.leases and not piece.job.stopped:
            self._queue(piece)
        self._abandon_if_stopped(piece)

    def _abandon_if_stopped(self, piece):
        # type: (_Piece) -> None
        if piece.job.stopped and not piece.leases:
            self._retire(piece)
            self._finish_if_done(piece.job)

    def _queue(self, piece):
        # type: (_Piece) -> None
        piece.queued = True
        piece.job.pieces.appendleft(piece)
        piece.job.queued += piece.hi - piece.lo

    def _unqueue(self, piece):
        # type: (_Piece) -> None
        piece.queued = False
        piece.job.pieces.remove(piece)
        piece.job.queued -= piece.hi - piece.lo

    # -- handing out ------------------------------------------------------------------------------

    def _time_passed(self, event):
        # type: (TimePassed) -> None
        self._expire()
        for job in self._jobs.values():
            for piece in [piece for piece, until in job.awaited.items() if self._now >= until]:
                del job.awaited[piece]
                self._queue(piece)
        self._grant_all()
        self._take_back()
        self._copy_at = None
        for job in self._jobs.values():
            if job.options.idempotent and job.leased and not (job.queued or job.stopped or job.paused):
                self._copy_stragglers(job)
        self._explain()

    def _expire(self):
        # type: () -> None
        for node in list(self._nodes.values()):
            if node.connected and self._now >= node.heard_at + NODE_LOST_SECONDS:
                self._do(Disconnect(node.id, node.session, "silent for %.0f s" % (self._now - node.heard_at)))
                self._remove(node, "silent")
            elif node.gone_at is not None and self._now >= node.gone_at:
                self._remove(node, "lost")

    def _grant_all(self):
        # type: () -> None
        """First one chunk for every idle slot, in turn; then the prefetch."""
        for prefetch in (False, True):
            if not any(job.ready for job in self._jobs.values()):
                return
            hungry = deque(node for node in self._nodes.values() if node.serving)
            while hungry:
                node = hungry.popleft()
                if len(node.leases) >= node.slots * (2 if prefetch else 1):
                    continue
                job = self._job_for(node, prefetch)
                if job is not None:
                    self._grant(node, job)
                    hungry.append(node)

    def _job_for(self, node, prefetch):
        # type: (_Node, bool) -> _Job | None
        for job in self._jobs.values():
            if job.ready and node.id not in job.unfit:
                speed = node.speeds.get(job.id)
                if prefetch and (speed is None or speed.seconds is None or speed.seconds > PREFETCH_TASK_SECONDS):
                    return None  # it waits for an idle slot; prefetch for others would keep all of them busy for ever
                if len(self._jobs) > 1:  # jobs are served in turn
                    self._jobs[job.id] = self._jobs.pop(job.id)
                return job
        return None

    def _grant(self, node, job):
        # type: (_Node, _Job) -> None
        self._lease_out(self._cut(job, self._chunk_size(node, job)), node)

    def _lease_out(self, piece, node):
        # type: (_Piece, _Node) -> None
        job, attempt = piece.job, self._next_attempt
        self._next_attempt += 1
        job.moved_at = self._now
        self._attempts[attempt] = piece
        piece.attempts[attempt] = careful = bool(piece.deaths) or job.options.attempts_max == 1
        self._begin_lease(attempt, piece, node)
        if job.id not in node.jobs:
            node.jobs.add(job.id)
            job.nodes.add(node.id)
            self._do(Define(node.id, job.id))
        self._tell("attempt", attempt, "granted", node.id, job.id, piece.lo, piece.hi)
        self._do(Grant(node.id, job.id, attempt, piece.lo, piece.hi - piece.lo, careful))

    def _cut(self, job, size):
        # type: (_Job, int) -> _Piece
        """The next piece of at most ``size`` tasks, taken out of the queue."""
        if not job.pieces:
            piece = _Piece(job, job.cursor, min(job.cursor + size, job.total))
            job.cursor = piece.hi
            job.queued -= piece.hi - piece.lo
            return piece
        piece = job.pieces[0]
        self._unqueue(piece)
        if piece.hi - piece.lo > size:
            self._queue(_Piece(job, piece.lo + size, piece.hi, piece.deaths))
            piece.hi = piece.lo + size
        return piece

    def _chunk_size(self, node, job):
        # type: (_Node, _Job) -> int
        if job.options.chunksize:
            return job.options.chunksize
        speed = node.speeds.get(job.id)
        if speed is None or speed.seconds is None:
            return 1
        size = min(
            CHUNK_SECONDS / max(speed.seconds, 1e-9),
            CHUNK_BYTES / max(speed.bytes, 1.0),
            job.queued / ((2.0 if job.closed else OPEN_JOB_SHARES) * self._slots),
            speed.largest * CHUNK_GROWTH,
            CHUNK_TASKS_MAX,
        )
        return max(1, int(size))

    def _take_back(self):
        # type: () -> None
        """While slots are idle and nothing is queued, ask busy nodes for what they have not started."""
        self._take_back_at = None
        idle = [node for node in self._nodes.values() if node.serving and len(node.leases) < node.slots]
        if not idle or any(job.ready for job in self._jobs.values()):
            return
        candidates = []
        for node in self._nodes.values():
            waiting = len(node.leases) - node.slots
            for lease in reversed(list(node.leases.values())):
                size = lease.piece.hi - lease.piece.lo
                unfit = lease.piece.job.unfit
                if (
                    not lease.revoked and (size > 1 or waiting > 0) and node.connected and not lease.piece.job.paused
                    and not (lease.piece.copied and len(lease.piece.leases) > 1)
                    and any(other.id not in unfit for other in idle)
                ):  # fmt: skip
                    candidates.append((waiting > 0, size * self._seconds(lease), lease))
                waiting -= 1
        candidates.sort(key=lambda candidate: candidate[:2], reverse=True)
        for _, _, lease in candidates[: sum(node.slots - len(node.leases) for node in idle)]:
            ripe_at = lease.granted_at + TAKE_BACK_SECONDS
            if self._now >= ripe_at:
                lease.revoked, lease.settled_at = True, self._now + ANSWER_SECONDS
                self._do(Revoke(lease.node.id, lease.attempt, False))
            elif self._take_back_at is None or ripe_at < self._take_back_at:
                self._take_back_at = ripe_at

    def _seconds(self, lease):
        # type: (_Lease) -> float
        speed = lease.node.speeds.get(lease.piece.job.id)
        return (speed.seconds or 0.0) if speed is not None else 0.0

    # -- second copies ----------------------------------------------------------------------------

    def _copy_stragglers(self, job):
        # type: (_Job) -> None
        """Nothing is left to hand out: what has run too long also runs on an idle slot, the oldest first."""
        idle = [node for node in self._nodes.values() if node.serving and len(node.leases) < node.slots]
        idle = [node for node in idle if node.id not in job.unfit]
        if not idle or job.options.attempts_max == 1 or self._take_back_at is not None:
            return
        candidates = []
        for node in self._nodes.values():
            for place, lease in enumerate(node.leases.values()):
                if lease.settled_at is not None and self._now < lease.settled_at:  # unstarted tasks go first
                    self._look_again(lease.settled_at)
                    return
                started = lease.piece.hi - lease.piece.lo == 1 and place < node.slots
                if lease.piece.job is job and (started or lease.settled_at is not None):
                    candidates.append(lease)
        candidates.sort(key=lambda lease: (lease.moved_at, lease.attempt))
        for lease in candidates:
            piece = lease.piece
            size = piece.hi - piece.lo
            if piece.copied or len(piece.leases) > 1 or piece.deaths or job.copied + size > _copies_max(job):
                continue
            # Another node than its own, if there is one: what is slow there is slow there again.
            for node in sorted(idle, key=lambda node: node is lease.node):
                if self._is_worth_a_copy(lease, node):
                    piece.copied = True
                    job.copied += size
                    self._lease_out(piece, node)
                    if len(node.leases) >= node.slots:
                        idle.remove(node)
                    break

    def _is_worth_a_copy(self, lease, node):
        # type: (_Lease, _Node) -> bool
        """Is the node likely to have it done much earlier? If not yet, ``_copy_at`` is when it will be."""
        piece, seconds = lease.piece, self._copy_seconds(node, lease.piece.job)
        if seconds is None:
            return False  # nothing to compare with
        least = max(COPY_FACTOR * seconds * (piece.hi - piece.lo), COPY_SECONDS_MIN)
        expected = self._seconds(lease) * (piece.hi - piece.lo)
        if lease.moved_at + expected - self._now >= least:
            return True
        due = lease.moved_at + max(least, expected)  # it is late, by any measure
        if self._now < due:
            self._look_again(due)
        return self._now >= due

    def _look_again(self, moment):
        # type: (float) -> None
        self._copy_at = moment if self._copy_at is None else min(self._copy_at, moment)

    def _copy_seconds(self, node, job):
        # type: (_Node, _Job) -> float | None
        """What this node will need for one task: as measured there, or else on the middle one of the others."""
        own = node.speeds.get(job.id)
        if own is not None and own.seconds is not None:
            return own.seconds
        speeds = [other.speeds[job.id].seconds for other in self._nodes.values() if job.id in other.speeds]
        known = sorted(seconds for seconds in speeds if seconds is not None)
        return known[(len(known) - 1) // 2] if known else None

    # -- telling ----------------------------------------------------------------------------------

    def _explain(self):
        # type: () -> None
        """A job that makes no progress says what it waits for: once soon, then rarely."""
        for job in self._jobs.values():
            if self._now < max(job.explain_at, job.moved_at + EXPLAIN_FIRST_SECONDS):
                continue
            wait = status.wait_of(job, list(self._nodes.values()), self._now, NODE_LOST_SECONDS)
            job.explain_at = self._now + EXPLAIN_FIRST_SECONDS
            kind = status.IDLE if wait is None else wait.kind
            again_at, interval = job.said.get(kind, (self._now, EXPLAIN_AGAIN_SECONDS))
            if wait is not None and kind == status.RUNNING:
                again_at = max(again_at, wait.since + EXPLAIN_RUNNING_SECONDS)
            if self._now >= again_at:
                # Somebody may know why it has nothing to do: who reads its results is slow.
                self._do(Idle(job.id) if wait is None else Explain(wait.text))
                again_at = self._now + interval
                job.said[kind] = again_at, interval * (2 if kind in (status.RUNNING, status.IDLE) else 1)
            job.explain_at = again_at if wait is None else min(job.explain_at, again_at)

    def status(self, now):
        # type: (float) -> list
        """(id, JobStatus without its name) of each job."""
        nodes, found = list(self._nodes.values()), []
        for job in self._jobs.values():
            left = job.total - job.delivered
            pieces = {lease.piece for node in nodes for lease in node.leases.values() if lease.piece.job is job}
            slots = sum(node.slots for node in nodes if node.serving and node.id not in job.unfit)
            known = job.closed and slots and job.measured
            wait = None
            if now >= job.moved_at + EXPLAIN_FIRST_SECONDS:
                wait = status.wait_of(job, nodes, now, NODE_LOST_SECONDS)
            told = status.JobStatus(
                "", job.total, job.delivered, job.failed, sum(piece.hi - piece.lo for piece in pieces), job.queued,
                job.copied, now - job.began_at, left * job.busy_seconds / job.measured / slots if known else None,
                wait.text if wait is not None else "",
            )  # fmt: skip
            found.append((job.id, told))
        return found

    def _do(self, effect):
        # type: (tuple) -> None
        self._effects.append(effect)

    def snapshot(self):
        # type: () -> dict
        """The state for people: plain data, safe to keep."""
        return {
            "nodes": [
                {
                    "id": node.id, "name": node.name, "slots": node.slots, "connected": node.connected,
                    "draining": node.draining, "leases": len(node.leases), "tasks_done": node.tasks_done,
                    "busy_seconds": node.busy_seconds,
                }
                for node in self._nodes.values()
            ],
            "jobs": [
                {
                    "id": job.id, "total": job.total, "delivered": job.delivered, "queued": job.queued,
                    "leases": job.leased, "stopped": job.stopped,
                }
                for job in self._jobs.values()
            ],
            "duplicates": self.duplicates,
            "requeued": self.requeued,
        }  # fmt: skip

    def validate(self):
        # type: () -> None
        """Every invariant, for tests: raises InternalError with the story of what broke."""
        for job in self._jobs.values():
            self._validate_job(job)
        for node in self._nodes.values():
            for attempt, lease in node.leases.items():
                if lease.node is not node or lease.piece.leases.get(attempt) is not lease:
                    self._broken("lease %d of node %s is not its piece's" % (attempt, node.id), attempt)
                if attempt not in self._attempts:
                    self._broken("lease %d of node %s is fenced" % (attempt, node.id), attempt)
            if len(node.leases) > 2 * node.slots and node.connected and not node.draining:
                held = sum(1 for lease in node.leases.values() if lease.granted_at > node.heard_at)
                if held > 2 * node.slots:
                    self._broken("node %s holds %d leases for %d slots" % (node.id, held, node.slots), node.id)
        for attempt, piece in self._attempts.items():
            if attempt not in piece.attempts or piece.job.id not in self._jobs:
                self._broken("attempt %d outlives its piece" % attempt, attempt)

    def _validate_job(self, job):
        # type: (_Job) -> None
        if job.finished:
            self._broken("job %d is finished and still here" % job.id, job.id)
        queued = sum(piece.hi - piece.lo for piece in job.pieces) + (0 if job.stopped else job.total - job.cursor)
        if queued != job.queued:
            self._broken("job %d counts %d queued tasks, and has %d" % (job.id, job.queued, queued), job.id)
        leases = [lease for node in self._nodes.values() for lease in node.leases.values() if lease.piece.job is job]
        if len(leases) != job.leased:
            self._broken("job %d counts %d leases, and has %d" % (job.id, job.leased, len(leases)), job.id)
        pieces = {lease.piece for lease in leases}
        leased = sum(piece.hi - piece.lo for piece in pieces | set(job.awaited))
        if not job.stopped and queued + leased + job.delivered != job.total:
            self._broken(
                "job %d: %d queued + %d leased + %d delivered is not %d"
                % (job.id, queued, leased, job.delivered, job.total),
                job.id,
            )
        copied = sum(piece.hi - piece.lo for piece in pieces if piece.copied)
        if not copied <= job.copied <= (_copies_max(job) if job.options.idempotent else 0):
            self._broken("job %d has copies of %d tasks, and %d made" % (job.id, copied, job.copied), job.id)
        if any(piece.queued and piece.leases for piece in job.pieces):
            self._broken("job %d has a piece both queued and leased" % job.id, job.id)

"""What the scheduler keeps: jobs, their pieces, the leases on them, the nodes that hold these. Pure.

A job's tasks are behind its cursor (nobody has had them), in its queued pieces, in pieces that are leased or
awaited, or delivered: ``Scheduler.validate`` counts them. Only the scheduler changes what is here.
"""
from __future__ import absolute_import, division, print_function

from collections import OrderedDict, deque, namedtuple

#: chunksize: None sizes chunks by time. retries: for tasks that raise. attempts_max: deaths of a worker process.
#: idempotent: a task may run twice at a time.
Options = namedtuple("Options", "chunksize retries attempts_max stop_on_error idempotent")
DEFAULTS = Options(chunksize=None, retries=0, attempts_max=3, stop_on_error=False, idempotent=False)


class Piece(object):
    """Consecutive tasks [lo, hi) of a job that share a fate."""

    __slots__ = ("apart", "attempts", "copied", "cut", "deaths", "hi", "job", "leases", "lo", "queue")

    def __init__(self, job, lo, hi, deaths=None, apart=False):
        # type: (Job, int, int, list | None, bool) -> None
        self.job, self.lo, self.hi = job, lo, hi
        # Deaths that one of these tasks is suspected of. Pieces cut from one share the list: the first
        # task that is caught takes it all, and the others are cleared.
        self.deaths = [] if deaths is None else deaths  # type: list
        self.queue = None  # type: deque | None # of its job's, the one it waits in
        self.apart = apart  # nothing runs beside it: one task that was caught when the system was short of memory
        self.copied = False  # had its second copy; there is no third
        self.cut = False  # one of its attempts may have been granted more, and go on beyond its end
        self.leases = {}  # type: dict # attempt -> Lease, live
        # Every attempt that may still deliver, and whether it is careful: a result is sent after each task,
        # so that a death blames the one that was running.
        self.attempts = {}  # type: dict

    @property
    def size(self):
        # type: () -> int
        return self.hi - self.lo

    @property
    def queued(self):
        # type: () -> bool
        return self.queue is not None

    def is_of_another(self, attempt, node):
        # type: (int, Node) -> bool
        """Another node holds that attempt: what this one says of it is not so."""
        lease = self.leases.get(attempt)
        return lease is not None and lease.node is not node

    def enqueue(self):
        # type: () -> None
        """To be handed out next."""
        self.queue = self.job.apart if self.apart else self.job.pieces
        self.queue.appendleft(self)
        self.job.queued += self.size

    def dequeue(self):
        # type: () -> None
        self.queue.remove(self)  # type: ignore[union-attr]
        self.queue = None
        self.job.queued -= self.size


class Lease(object):
    __slots__ = ("attempt", "granted_at", "moved_at", "node", "piece", "revoked", "settled_at")

    def __init__(self, attempt, piece, node, now):
        # type: (int, Piece, Node, float) -> None
        self.attempt, self.piece, self.node, self.granted_at = attempt, piece, node, now
        self.moved_at = now  # its last result came
        self.revoked = False
        self.settled_at = None  # type: float | None # from when on it gives nothing back any more


class Speed(object):
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


class Node(object):
    __slots__ = (
        "busy_seconds", "connected", "draining", "gone_at", "heard_at", "id", "jobs", "leases", "name", "received",
        "reserved", "sending", "session", "slots", "speeds", "starting", "tasks_done", "trouble",
    )  # fmt: skip

    def __init__(self, node_id, session, slots, name, now):
        # type: (object, int, int, str, float) -> None
        self.id, self.session, self.slots, self.name = node_id, session, slots, name
        self.heard_at = now
        self.gone_at = None  # type: float | None
        self.connected, self.draining = True, False
        self.leases = OrderedDict()  # type: OrderedDict # attempt -> Lease
        self.reserved = None  # type: Piece | None # an apart one: nothing else is handed out here
        self.jobs = set()  # type: set # defined there in this session
        self.speeds = {}  # type: dict # job id -> Speed
        self.sending, self.received = (), 0  # type: tuple, int # large messages on their way, as LinkBusy has them
        self.starting, self.trouble = 0, ""  # its worker processes that are not there yet, and why not
        self.tasks_done = 0
        self.busy_seconds = 0.0

    @property
    def serving(self):
        # type: () -> bool
        return self.connected and not self.draining

    @property
    def idle(self):
        # type: () -> bool
        return self.serving and self.reserved is None and len(self.leases) < self.slots


class Job(object):
    __slots__ = (
        "apart", "awaited", "began_at", "busy_seconds", "closed", "copied", "cursor", "delivered", "explain_at",
        "failed", "failures", "fit", "hopeless", "id", "leased", "measured", "moved_at", "nodes", "options", "paused",
        "pieces", "queued", "said", "stopped", "total", "unfit",
    )  # fmt: skip

    def __init__(self, job_id, total, options, now):
        # type: (int, int | None, Options, float) -> None
        self.id, self.options = job_id, options
        self.began_at = self.moved_at = self.explain_at = now  # moved_at: tasks were handed out, or had outcomes
        self.said = {}  # type: dict # kind of waiting -> (when it may be said again, seconds to the time after)
        self.busy_seconds, self.measured = 0.0, 0  # of worker processes, for so many tasks
        self.failed = 0  # of those delivered
        self.closed = total is not None
        self.total = total or 0
        self.cursor = 0
        self.awaited = OrderedDict()  # type: OrderedDict # pieces of a former master's attempts -> until when
        self.pieces = deque()  # type: deque # queued pieces, before the cursor's turn
        self.apart = deque()  # type: deque # queued pieces that run where nothing else does
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
        return self.queued > len(self.apart) and not self.paused


def gaps_between(spans, total, within=None):
    # type: (list, int, list | None) -> list
    """What of [0, total), or of the spans ``within`` it, no span covers: (lo, hi), in order."""
    gaps = within if within is not None else [(0, total)] if total else []
    for first, end in spans:
        cut = []  # type: list
        for lo, hi in gaps:
            cut += [(lo, min(hi, first)), (max(lo, end), hi)] if lo < end and first < hi else [(lo, hi)]
        gaps = [(lo, hi) for lo, hi in cut if lo < hi]
    return gaps

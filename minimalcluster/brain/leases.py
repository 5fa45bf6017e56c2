"""What the scheduler keeps: jobs, their pieces, the leases on them, the nodes that hold these. Pure.

A job's tasks are behind its cursor (nobody has had them), in its queued pieces, in pieces that are leased or
awaited, or delivered: ``Ledger.validate`` counts them. Only the ledger and the scheduler change what is here.
"""
from __future__ import absolute_import, division, print_function

from bisect import bisect_left
from collections import OrderedDict, namedtuple

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Iterator  # noqa: F401 # novm

#: chunksize: None sizes chunks by time. retries: for tasks that raise. attempts_max: deaths of a worker process.
#: idempotent: a task may run twice at a time.
Options = namedtuple("Options", "chunksize retries attempts_max stop_on_error idempotent")
DEFAULTS = Options(chunksize=None, retries=0, attempts_max=3, stop_on_error=False, idempotent=False)

#: So many pieces of a job may be done and still in its ``places``.
PLACES_MIN = 64


class Piece(object):
    """Consecutive tasks [lo, hi) of a job that share a fate."""

    __slots__ = ("apart", "attempts", "copied", "cut", "deaths", "hi", "job", "leases", "live", "lo", "queue")

    def __init__(self, job, lo, hi, deaths=None, apart=False):
        # type: (Job, int, int, list | None, bool) -> None
        self.job, self.lo, self.hi = job, lo, hi
        # Deaths that one of these tasks is suspected of. Pieces cut from one share the list: the first
        # task that is caught takes it all, and the others are cleared.
        self.deaths = [] if deaths is None else deaths  # type: list
        self.queue = None  # type: OrderedDict | None # of its job's, the one it waits in
        self.live = False  # its job's ``places`` has it, and some of its tasks have no outcome
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
        self.queue[self] = None
        self.job.queued += self.size

    def dequeue(self):
        # type: () -> None
        del self.queue[self]  # type: ignore[union-attr]
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


class Places(object):
    """A job's pieces in the order of their tasks, to find the one that has a task.

    A piece's ``lo`` may move up here to its ``hi``: that keeps the order. Those that are not live any more stay until
    they are as many as the others; none of them hides a live one, whose tasks are always a part of theirs.
    """

    __slots__ = ("_most", "_pieces")

    def __init__(self):
        # type: () -> None
        self._pieces = []  # type: list
        self._most = PLACES_MIN  # then those that are not live are dropped

    def put(self, piece):
        # type: (Piece) -> None
        piece.live = True
        if len(self._pieces) >= self._most:
            self.fill(self)
        self._pieces.insert(self._end(piece.lo), piece)

    def fill(self, pieces):
        # type: (object) -> None
        """These are all there are, in the order of their tasks."""
        self._pieces = list(pieces)  # type: ignore[call-overload]
        self._most = max(PLACES_MIN, 2 * len(self._pieces))
        for piece in self._pieces:
            piece.live = True

    def having(self, task):
        # type: (int) -> Piece | None
        """The live piece that has this task."""
        end = self._end(task)
        piece = self._pieces[end - 1] if end else None
        return piece if piece is not None and piece.live and task < piece.hi else None

    def _end(self, task):
        # type: (int) -> int
        """How many pieces begin with this task or before it. (bisect knows no key before Python 3.10.)"""
        low, high = 0, len(self._pieces)
        if high and self._pieces[-1].lo <= task:  # as nearly always: a new piece is the last one
            return high
        while low < high:
            middle = (low + high) // 2
            if self._pieces[middle].lo <= task:
                low = middle + 1
            else:
                high = middle
        return low

    def __iter__(self):
        # type: () -> Iterator[Piece]
        return (piece for piece in self._pieces if piece.live)


class Node(object):
    __slots__ = (
        "busy_seconds", "connected", "draining", "filed", "gone_at", "heard_at", "id", "jobs", "leases", "measured",
        "name", "rank", "received", "reserved", "sending", "session", "short", "slots", "starting", "stuck_until",
        "tasks_done", "trouble", "unfit",
    )  # fmt: skip

    def __init__(self, node_id, session, slots, name, now, rank=0):
        # type: (object, int, int, str, float, int) -> None
        self.id, self.session, self.slots, self.name = node_id, session, slots, name
        self.rank = rank  # nodes are served in this order
        self.filed = (False, False, False)  # among the ledger's nodes that are idle, roomy, crowded
        self.heard_at = now
        self.gone_at = None  # type: float | None
        self.connected, self.draining = True, False
        self.leases = OrderedDict()  # type: OrderedDict # attempt -> Lease
        self.reserved = None  # type: Piece # type: ignore[assignment] # an apart one: nothing else is handed out here
        self.jobs = set()  # type: set # defined there in this session
        # Jobs (their ids) that were measured here in this session, whose tasks are short here, that cannot run here.
        self.measured, self.short, self.unfit = set(), set(), set()  # type: set, set, set
        self.sending, self.received = (), 0  # type: tuple, int # large messages on their way, as LinkBusy has them
        self.stuck_until = None  # type: float | None # no worker process of it can start; then it is given up
        self.starting, self.trouble = 0, ""  # its worker processes that are not there yet, and why not
        self.tasks_done = 0
        self.busy_seconds = 0.0

    @property
    def serving(self):
        # type: () -> bool
        return self.connected and not self.draining and self.stuck_until is None

    @property
    def idle(self):
        # type: () -> bool
        return self.serving and self.reserved is None and len(self.leases) < self.slots


class Job(object):
    __slots__ = (
        "apart", "attempts", "awaited", "began_at", "busy_seconds", "closed", "copied", "cursor", "delivered",
        "explain_at", "failed", "failures", "fit", "hopeless", "id", "leases", "lined_up", "measured", "moved_at",
        "nodes", "options", "paused", "pieces", "places", "queued", "said", "short", "speeds", "stopped", "total",
        "turn", "unfit",
    )  # fmt: skip

    def __init__(self, job_id, total, options, now, turn=0):
        # type: (int, int | None, Options, float, int) -> None
        self.id, self.options = job_id, options
        self.turn = turn  # jobs are served in this order; who was served gets a new one
        self.lined_up = False  # the ledger's line has it
        self.began_at = self.moved_at = self.explain_at = now  # moved_at: tasks were handed out, or had outcomes
        self.said = {}  # type: dict # kind of waiting -> (when it may be said again, seconds to the time after)
        self.busy_seconds, self.measured = 0.0, 0  # of worker processes, for so many tasks
        self.failed = 0  # of those delivered
        self.closed = total is not None
        self.total = total or 0
        self.cursor = 0
        self.awaited = OrderedDict()  # type: OrderedDict # pieces of a former master's attempts -> until when
        self.pieces = OrderedDict()  # type: OrderedDict # queued pieces, before the cursor's turn; the last one first
        self.apart = OrderedDict()  # type: OrderedDict # queued pieces that run where nothing else does, in the same way
        self.places = Places()  # all its pieces
        self.attempts = {}  # type: dict # attempt -> Piece, until the piece is done
        self.queued = self.total  # tasks waiting for a grant
        self.leases = OrderedDict()  # type: OrderedDict # attempt -> Lease, live
        self.copied = 0  # tasks that were given a second copy
        self.delivered = 0
        self.failures = {}  # type: dict # index -> times it raised, while retries are left
        self.nodes = set()  # type: set # ids of nodes that know this job
        self.speeds = {}  # type: dict # node id -> Speed
        self.short = set()  # type: set # ids of nodes on which its tasks are so short that prefetch pays
        self.fit = set()  # type: set # ids of nodes that have run some of it
        self.unfit = OrderedDict()  # type: OrderedDict # node id -> why it cannot run this job
        self.stopped = False
        self.paused = False  # what runs may end, nothing more is handed out
        self.hopeless = None  # type: dict | None # what the last node said when none could run it

    @property
    def leased(self):
        # type: () -> int
        """Live leases."""
        return len(self.leases)

    @property
    def finished(self):
        # type: () -> bool
        if self.stopped:
            return not self.leases
        return self.closed and self.delivered == self.total

    @property
    def ready(self):
        # type: () -> bool
        return self.queued > len(self.apart) and not self.paused


def gaps_between(spans, total):
    # type: (list, int) -> list
    """What of [0, total) no span covers: (lo, hi), in order."""
    gaps, at = [], 0
    for first, end in sorted(spans):
        if at < min(first, total):
            gaps.append((at, min(first, total)))
        at = max(at, end)
    return gaps + [(at, total)] if at < total else gaps


def taken_from(gaps, first, end):
    # type: (list, int, int) -> tuple | None
    """The last part of these gaps that lies in [first, end): (lo, hi), no longer a gap; None if there is none."""
    at = bisect_left(gaps, (end,)) - 1
    if at < 0 or gaps[at][1] <= first:
        return None
    lo, hi = max(gaps[at][0], first), min(gaps[at][1], end)
    gaps[at : at + 1] = [gap for gap in ((gaps[at][0], lo), (hi, gaps[at][1])) if gap[0] < gap[1]]
    return lo, hi

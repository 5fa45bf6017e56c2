"""The data of the scheduler's ledger: jobs, their pieces, the leases on these, the nodes that hold them. Pure.

A task of a job is in one of four places: not cut yet (from the job's ``cursor`` on, but for ``skips``: no node has had
it), in a piece that is queued or awaited, in a piece that is leased, or delivered. ``Ledger.validate`` counts them.
Only the ledger changes a state.
"""
from __future__ import absolute_import, division, print_function

from collections import OrderedDict

from ..compat import ordered_dict
from .indexes import Places
from .options import DEFAULTS, Options  # noqa: F401 # in a type comment; for tests and tools

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any  # noqa: F401 # novm

#: States of a piece; a lease begins as NEW, too.
NEW, QUEUED, AWAITED, LEASED, DONE = "new", "queued", "awaited", "leased", "done"
#: What may become of a piece: state -> what happens -> next state; docs/inside.md has its picture.
PIECE_TRANSITIONS = {
    NEW: {"queue": QUEUED, "lease": LEASED, "await": AWAITED},  # await: a former master had leased it
    QUEUED: {"lease": LEASED, "return": LEASED, "finish": DONE},  # return: a lost lease's node is back with it
    AWAITED: {"return": LEASED, "queue": QUEUED, "finish": DONE},  # queue: no node came back with it in time
    LEASED: {"lease": LEASED, "return": LEASED, "queue": QUEUED, "finish": DONE},  # lease: a second copy
    DONE: {},
}  # type: dict

#: States of a lease. HELD: its node may be asked to give back what it has not started. ASKED: it has not answered yet.
#: KEPT: it has answered, or is stuck: it is not asked again before the lease makes progress. LOST: the node is gone,
#: and its late results count.
HELD, ASKED, KEPT, LOST, OVER = "held", "asked", "kept", "lost", "over"
#: As above, for a lease. Each number of an attempt that may still deliver has a lease that is not over.
LEASE_TRANSITIONS = {
    NEW: {"lease": HELD, "await": LOST},
    HELD: {"ask": ASKED, "answer": HELD, "progress": HELD, "lose": LOST, "end": OVER},
    ASKED: {"ask": ASKED, "answer": KEPT, "progress": HELD, "lose": LOST, "end": OVER},
    KEPT: {"ask": ASKED, "answer": KEPT, "progress": HELD, "lose": LOST, "end": OVER},
    LOST: {"return": HELD, "end": OVER},
    OVER: {},
}  # type: dict

NO_DEATHS = ()  # type: tuple
#: The ``limit`` of a job that may be cut as far as it goes.
NO_LIMIT = float("inf")  # type: Any


class Piece(object):
    """Consecutive tasks [lo, hi) of a job that share a fate."""

    __slots__ = ("attempts", "copied", "deaths", "exclusive", "held", "hi", "job", "lo", "shortened", "state")

    def __init__(self, job, lo, hi, deaths=NO_DEATHS, exclusive=False):
        # type: (Job, int, int, list | tuple, bool) -> None
        self.job, self.lo, self.hi = job, lo, hi
        self.state = NEW
        # Deaths of worker processes that one of these tasks is suspected of. Pieces that were divided share the list:
        # the first task that is caught takes all of it, and the other pieces are cleared.
        self.deaths = deaths
        # One task that was caught when its machine was short of memory: its node runs it when nothing else runs there.
        self.exclusive = exclusive
        self.copied = False  # it had its second copy; there is no third
        self.shortened = False  # an attempt may have been granted more tasks, and go on beyond ``hi``
        self.attempts = []  # type: list[Lease] # those that may still deliver; nearly always one
        self.held = 0  # how many of these leases are live: a node has them

    @property
    def size(self):
        # type: () -> int
        return self.hi - self.lo

    @property
    def leases(self):
        # type: () -> list
        """The live ones, in the order of their attempts."""
        return sorted((lease for lease in self.attempts if lease.node is not None), key=_attempt)

    def clear(self):
        # type: () -> None
        """Another task was caught: none of these is suspected any more."""
        if self.deaths:
            del self.deaths[:]  # type: ignore[union-attr]


class Lease(object):
    """One attempt at a piece, and the node that has it."""

    __slots__ = ("attempt", "granted_at", "moved_at", "node", "one_by_one", "piece", "settled_at", "state")

    def __init__(self, attempt, piece, one_by_one):
        # type: (int, Piece, bool) -> None
        self.attempt, self.piece = attempt, piece
        # A result is sent after each task, so that a death of the worker process blames the task that was running.
        self.one_by_one = one_by_one
        self.node = None  # type: Node # type: ignore[assignment] # while it is live
        self.state = NEW
        self.granted_at = self.moved_at = 0.0  # moved_at: when the last result came
        self.settled_at = None  # type: float | None # from when on its node gives nothing back any more


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
        if count > self.largest:
            self.largest = count

    def weighed(self, count, size):
        # type: (int, int) -> None
        new, old = size / count, self.bytes / 2
        self.bytes = new if new > old else old


class Node(object):
    __slots__ = (
        "busy_seconds", "connected", "draining", "exclusive", "gone_at", "heard_at", "id", "idle_slots", "ineligible",
        "jobs", "leases", "measured", "name", "open_slots", "rank", "received", "ripe_at", "roomy", "sending",
        "serving_slots", "session", "short", "slots", "starting", "stuck_until", "tasks_done", "trouble",
    )  # fmt: skip

    def __init__(self, node_id, session, slots, name, now, rank=0):
        # type: (object, int, int, str, float, int) -> None
        self.id, self.session, self.slots, self.name = node_id, session, slots, name
        self.rank = rank  # nodes are served in this order
        self.idle_slots, self.roomy = 0, False  # as the ledger has filed it
        self.serving_slots = self.open_slots = 0  # its slots as the ledger counts them; those open to any piece
        self.heard_at = now
        self.gone_at = None  # type: float | None
        self.connected, self.draining = True, False
        self.leases = ordered_dict()  # type: dict # attempt -> Lease, in the order of granting
        self.ripe_at = None  # type: float | None # when one more of them may be taken back
        self.exclusive = 0  # how many of them are of exclusive pieces: meanwhile it gets no other
        self.jobs = set()  # type: set # defined there in this session
        # Jobs (their ids) that were measured here in this session, whose tasks are short here, that cannot run here.
        self.measured, self.short, self.ineligible = set(), set(), set()  # type: set, set, set
        self.sending, self.received = (), 0  # type: tuple, int # large messages on their way, as LinkBusy has them
        self.stuck_until = None  # type: float | None # none of its worker processes can start; then it is given up
        self.starting, self.trouble = 0, ""  # its worker processes that are not there yet, and why not
        self.tasks_done = 0
        self.busy_seconds = 0.0

    @property
    def serving(self):
        # type: () -> bool
        """It takes work."""
        return self.connected and not self.draining and self.stuck_until is None

    @property
    def idle(self):
        # type: () -> bool
        return self.serving and not self.exclusive and len(self.leases) < self.slots


class Job(object):
    __slots__ = (
        "awaited", "began_at", "busy_seconds", "closed", "copied", "cursor", "delivered", "explain_at",
        "explained", "failed", "failures", "id", "ineligible", "leases", "limit", "lined_up", "measured", "moved_at",
        "nodes", "options", "pieces", "places", "proven", "queued", "short", "skips", "speeds", "stopped", "total",
        "turn", "unrunnable",
    )  # fmt: skip

    def __init__(self, job_id, total, options, now, turn=0):
        # type: (int, int | None, Options, float, int) -> None
        self.id, self.options = job_id, options
        self.turn = turn  # jobs are served in this order; a job that was served gets a new turn
        self.lined_up = False  # the ledger's line has it
        self.began_at = self.moved_at = self.explain_at = now  # moved_at: tasks were handed out, or had outcomes
        self.explained = {}  # type: dict # kind of waiting -> (when it may be explained again, seconds to the time after)
        self.busy_seconds, self.measured = 0.0, 0  # of worker processes, for so many tasks
        self.failed = 0  # of those delivered
        self.closed = total is not None
        self.total = total or 0
        self.cursor = 0  # the first task that is not cut yet
        self.skips = []  # type: list # (first, end) behind the cursor that a former master had cut, the next one last
        self.limit = NO_LIMIT  # it may be cut as far as this task; what was cut is never held back
        self.awaited = OrderedDict()  # type: OrderedDict # pieces of a former master's attempts -> until when
        self.pieces = OrderedDict()  # type: OrderedDict # queued pieces, before the cursor's turn; the last one first
        self.places = Places(DONE)  # all its pieces that are not done
        self.queued = self.total  # tasks waiting for a grant
        self.leases = {}  # type: dict # attempt -> Lease, live
        self.copied = 0  # tasks that were given a second copy
        self.delivered = 0
        self.failures = {}  # type: dict # index -> times it raised, while retries are left
        self.nodes = set()  # type: set # ids of nodes that know this job
        self.speeds = {}  # type: dict # node id -> Speed
        self.short = set()  # type: set # ids of nodes on which its tasks are so short that prefetch pays
        self.proven = set()  # type: set # ids of nodes that have run some of it
        self.ineligible = OrderedDict()  # type: OrderedDict # node id -> why it cannot run this job
        self.stopped = False
        self.unrunnable = None  # type: dict | None # what the last node said when none could run it

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
        """May anything be handed out? What was cut once may: a reader may wait for just this, and the limit with it."""
        return self.queued > 0 and (bool(self.pieces) or self.cursor < self.limit)

    @property
    def held_back(self):
        # type: () -> bool
        """Has it nothing to do before its limit rises?"""
        return self.queued > 0 and not (self.ready or self.leases or self.awaited)

    @property
    def next_is_exclusive(self):
        # type: () -> bool
        """Will its next piece run alone on its node?"""
        return bool(self.pieces) and next(reversed(self.pieces)).exclusive


def _attempt(lease):
    # type: (Lease) -> int
    return lease.attempt

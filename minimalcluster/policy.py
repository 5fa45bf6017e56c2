"""How much a node is given at a time, what is taken back from it, what runs a second time. Pure: it only looks.

Chunks size themselves: one task at first, then what takes ``CHUNK_SECONDS`` by the node's own measured
speed, and near a job's end so little that slow and fast nodes finish together. The tail is kept short by
taking back what has not started, and by second copies of what has.
"""
from __future__ import absolute_import, division, print_function

from collections import OrderedDict

from . import leases  # noqa: F401 # in type comments

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


def chunk_size(node, job, slots):
    # type: (leases.Node, leases.Job, int) -> int
    """How many tasks this node gets next; slots: the worker processes of all nodes."""
    if job.options.chunksize:
        return job.options.chunksize
    speed = node.speeds.get(job.id)
    if speed is None or speed.seconds is None:
        return 1
    size = min(
        CHUNK_SECONDS / max(speed.seconds, 1e-9),
        CHUNK_BYTES / max(speed.bytes, 1.0),
        job.queued / ((2.0 if job.closed else OPEN_JOB_SHARES) * slots),
        speed.largest * CHUNK_GROWTH,
        CHUNK_TASKS_MAX,
    )
    return max(1, int(size))


def is_worth_prefetching(node, job):
    # type: (leases.Node, leases.Job) -> bool
    """Is the round trip long, beside this job's tasks on this node?"""
    speed = node.speeds.get(job.id)
    return speed is not None and speed.seconds is not None and speed.seconds <= PREFETCH_TASK_SECONDS


# -- tasks that run apart -------------------------------------------------------------------------


def to_reserve(piece, nodes):
    # type: (leases.Piece, list) -> leases.Node | None
    """The node that will have this piece alone, if none has it yet. Half of the nodes stay for other work."""
    serving = [node for node in nodes if node.serving]
    reserved = [node.reserved for node in nodes if node.reserved is not None]
    if piece in reserved or len(reserved) >= max(1, len(serving) // 2):
        return None
    fit = [node for node in serving if node.reserved is None and node.id not in piece.job.unfit]
    return min(fit, key=lambda node: len(node.leases)) if fit else None


def stays_reserved(node, piece):
    # type: (leases.Node, leases.Piece) -> bool
    """Does the piece run there, or will it?"""
    job = piece.job
    if any(lease.node is node for lease in piece.leases.values()):
        return True
    if not piece.queued or job.paused or job.stopped:
        return False
    return node.serving and node.id not in job.unfit


# -- taking back ----------------------------------------------------------------------------------


def to_take_back(nodes, now):
    # type: (list, float) -> tuple[list, float | None]
    """(leases of which idle slots may get something, when to look again or None)."""
    idle = _idle(nodes)
    if not idle:
        return [], None
    candidates = []
    for node in nodes:
        waiting = len(node.leases) - node.slots
        for lease in reversed(list(node.leases.values())):
            piece = lease.piece
            if _may_give_back(lease, waiting > 0) and any(other.id not in piece.job.unfit for other in idle):
                candidates.append((waiting > 0, piece.size * _seconds_each(lease), lease))
            waiting -= 1
    candidates.sort(key=lambda candidate: candidate[:2], reverse=True)
    chosen, again_at = [], None  # type: list, float | None
    for _, _, lease in candidates[: sum(node.slots - len(node.leases) for node in idle)]:
        ripe_at = lease.granted_at + TAKE_BACK_SECONDS
        if now >= ripe_at:
            chosen.append(lease)
        else:
            again_at = earlier(again_at, ripe_at)
    return chosen, again_at


def _may_give_back(lease, is_waiting):
    # type: (leases.Lease, bool) -> bool
    piece = lease.piece
    if lease.revoked or not lease.node.connected or piece.job.paused or (piece.copied and len(piece.leases) > 1):
        return False
    return is_waiting or piece.size > 1


# -- second copies --------------------------------------------------------------------------------


def copies_max(job):
    # type: (leases.Job) -> int
    """How many of its tasks may get a second copy."""
    return max(1, job.total // COPY_SHARE)


def to_copy(job, nodes, now):
    # type: (leases.Job, list, float) -> tuple[list, float | None]
    """([(lease, node for its copy)], when to look again or None): what takes too long, the oldest first."""
    free = OrderedDict((node, node.slots - len(node.leases)) for node in _idle(nodes) if node.id not in job.unfit)
    if not free or job.options.attempts_max == 1:
        return [], None
    candidates = []
    for node in nodes:
        for place, lease in enumerate(node.leases.values()):
            if lease.settled_at is not None and now < lease.settled_at:  # unstarted tasks go first
                return [], lease.settled_at
            started = lease.piece.size == 1 and place < node.slots
            if lease.piece.job is job and (started or lease.settled_at is not None):
                candidates.append(lease)
    candidates.sort(key=lambda lease: (lease.moved_at, lease.attempt))
    chosen, again_at, left = [], None, copies_max(job) - job.copied  # type: list, float | None, int
    for lease in candidates:
        piece = lease.piece
        if piece.copied or len(piece.leases) > 1 or piece.deaths or piece.size > left:
            continue
        # Another node than its own, if there is one: what is slow there is slow there again.
        for node in sorted(free, key=lambda node: node is lease.node):
            due = _copy_due_at(lease, node, nodes, now)
            if due is None:
                continue
            if now < due:
                again_at = earlier(again_at, due)
                continue
            chosen.append((lease, node))
            left -= piece.size
            free[node] -= 1
            if not free[node]:
                del free[node]
            break
    return chosen, again_at


def _copy_due_at(lease, node, nodes, now):
    # type: (leases.Lease, leases.Node, list, float) -> float | None
    """From when on the node is likely to have it done much earlier; None: there is nothing to compare with."""
    size, seconds = lease.piece.size, _copy_seconds_each(node, lease.piece.job, nodes)
    if seconds is None:
        return None
    least = max(COPY_FACTOR * seconds * size, COPY_SECONDS_MIN)
    expected = _seconds_each(lease) * size
    if lease.moved_at + expected - now >= least:
        return now
    return lease.moved_at + max(least, expected)  # then it is late, by any measure


def _copy_seconds_each(node, job, nodes):
    # type: (leases.Node, leases.Job, list) -> float | None
    """What this node will need for one task: as measured there, or else on the middle one of the others."""
    own = node.speeds.get(job.id)
    if own is not None and own.seconds is not None:
        return own.seconds
    speeds = [other.speeds[job.id].seconds for other in nodes if job.id in other.speeds]
    known = sorted(seconds for seconds in speeds if seconds is not None)
    return known[(len(known) - 1) // 2] if known else None


# -- for both -------------------------------------------------------------------------------------


def _idle(nodes):
    # type: (list) -> list
    return [node for node in nodes if node.idle]


def _seconds_each(lease):
    # type: (leases.Lease) -> float
    """Of its tasks, as measured on its node; 0.0 when nothing is known."""
    speed = lease.node.speeds.get(lease.piece.job.id)
    return (speed.seconds or 0.0) if speed is not None else 0.0


def earlier(moment, other):
    # type: (float | None, float | None) -> float | None
    """The first of two moments, where None is never."""
    moments = [each for each in (moment, other) if each is not None]
    return min(moments) if moments else None

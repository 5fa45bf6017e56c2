"""How much a node is given at a time, what is taken back from it, what runs a second time. Pure: it only looks.

Chunks size themselves: one task at first, then what takes ``chunk_seconds`` by the node's own measured
speed, and near a job's end so little that slow and fast nodes finish together. The tail is kept short by
taking back what has not started, and by second copies of what has.
"""
from __future__ import absolute_import, division, print_function

from itertools import islice

from . import indexes, leases  # noqa: F401 # one in type comments

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Iterable, Iterator  # noqa: F401 # novm

#: A chunk's aim: long against a round trip (0.1 ms here, some ms on a network), short against a job's tail.
CHUNK_SECONDS = 0.05
#: The chunks of all nodes together that a master serves in a second. Each costs it some 0.1 ms, with its results, so
#: these keep it busy for a fifth of the time (docs/scale.md). With more than a hundred slots, chunks take longer.
CHUNKS_PER_SECOND = 2000.0
#: Not even near a job's end is a chunk smaller than this: handing it out costs a tenth of a millisecond.
CHUNK_SECONDS_MIN = 0.001
#: Near a job's end a master serves this many chunks in a second: all it can. Smaller ones would make the end longer.
CHUNKS_PER_SECOND_MAX = 8000.0
#: Growth from one chunk to the next, so that one unusual task cannot make a huge chunk.
CHUNK_GROWTH = 64
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
#: One task in so many may get a second copy, and one in any case (docs/reliability.md, row 17: 10 % more work).
COPY_SHARE = 10


def chunk_size(node, job, slots):
    # type: (leases.Node, leases.Job, int) -> int
    """How many tasks this node gets next; slots: the worker processes of all nodes."""
    if job.options.chunksize:
        return job.options.chunksize
    speed = job.speeds.get(node.id)
    if speed is None or speed.seconds is None:
        return 1
    seconds = max(speed.seconds, 1e-9)
    if job.closed:
        share = max(job.queued / (2.0 * slots), chunk_seconds_min(slots) / seconds)
    else:
        share = job.queued / (OPEN_JOB_SHARES * slots)
    size = min(
        chunk_seconds(slots) / seconds,
        CHUNK_BYTES / max(speed.bytes, 1.0),
        share,
        speed.largest * CHUNK_GROWTH,
        CHUNK_TASKS_MAX,
    )
    return max(1, int(size))


def chunk_seconds(slots):
    # type: (int) -> float
    """How long a chunk is to take, where the nodes have so many worker processes together."""
    return max(CHUNK_SECONDS, slots / CHUNKS_PER_SECOND)


def chunk_seconds_min(slots):
    # type: (int) -> float
    """How long a chunk is to take at least, also near a job's end."""
    return max(CHUNK_SECONDS_MIN, slots / CHUNKS_PER_SECOND_MAX)


def is_worth_prefetching(speed):
    # type: (leases.Speed) -> bool
    """Is the round trip long, beside one task at this speed?"""
    return speed.seconds is not None and speed.seconds <= PREFETCH_TASK_SECONDS


# -- tasks that run alone on their node --------------------------------------------------------------


def emptiest(nodes, job):
    # type: (Iterable[leases.Node], leases.Job) -> leases.Node
    """Of these nodes, one of which at least can run the job, that with the least to do."""
    able = [node for node in nodes if node.id not in job.ineligible]
    return min(able, key=lambda node: (len(node.leases), node.rank))


# -- taking back ----------------------------------------------------------------------------------


def to_take_back(givers, idle, slots, now):
    # type: (indexes.Best, indexes.Ranked, int, float) -> Iterator[leases.Lease]
    """Leases of which ``slots`` idle slots may get something, the best first. Each is asked back before the next is
    taken, and so changes what its node gives next.

    givers: the nodes, by ``to_give``. idle: the nodes with such slots.
    """
    runs, passed = {}, []  # type: dict, list # runs: whether an idle node can run the job; passed: nodes without one
    while slots > 0:
        node = givers.first(now)
        if node is None:
            break
        lease = to_give(node, now, lambda lease: _is_wanted(lease, idle, runs))[0]
        if lease is None:
            givers.drop(node)
            passed.append(node)
        else:
            slots -= 1
            yield lease
    for node in passed:
        givers.note(node)


def _is_wanted(lease, nodes, known):
    # type: (leases.Lease, indexes.Ranked, dict) -> bool
    """Can one of these nodes run it? known: answers for jobs so far."""
    job = lease.piece.job
    if lease.piece.exclusive:  # it goes on waiting in any other place
        return any(not node.leases and node.id not in job.ineligible for node in nodes)
    if job not in known:
        known[job] = not job.ineligible or any(node.id not in job.ineligible for node in nodes)
    return known[job]


def to_give(node, now, is_wanted=None):
    # type: (leases.Node, float, Any) -> tuple[leases.Lease | None, tuple, float | None]
    """(the lease of which this node gives back first, its place among those of all nodes, when one more may be).

    What waits for a slot goes before the rest of what runs, then what takes longest. is_wanted: which leases may go.
    """
    best, key, ripe_at = None, (), None  # type: leases.Lease | None, tuple, float | None
    waiting = len(node.leases) - node.slots
    for lease in reversed(list(node.leases.values())):
        is_waiting = waiting > 0 or (lease.piece.exclusive and len(node.leases) > 1)
        waiting -= 1
        if not _may_give_back(lease, is_waiting) or not (is_wanted is None or is_wanted(lease)):
            continue
        if now < lease.granted_at + TAKE_BACK_SECONDS:
            ripe_at = earlier(ripe_at, lease.granted_at + TAKE_BACK_SECONDS)
            continue
        its_key = (not is_waiting, -lease.piece.size * _seconds_each(lease), node.rank)
        if best is None or its_key < key:
            best, key = lease, its_key
    return best, key, ripe_at


def _may_give_back(lease, is_waiting):
    # type: (leases.Lease, bool) -> bool
    piece = lease.piece
    if lease.state != leases.HELD or not lease.node.connected or (piece.copied and piece.held > 1):
        return False
    return is_waiting or piece.size > 1


# -- second copies --------------------------------------------------------------------------------


def copies_max(job):
    # type: (leases.Job) -> int
    """How many of its tasks may get a second copy."""
    return max(1, job.total // COPY_SHARE)


def to_copy(job, idle, now):
    # type: (leases.Job, Iterable[leases.Node], float) -> tuple[list, float | None]
    """([(lease, node for its copy)], when to look again or None): what takes too long, the oldest first.

    idle: the nodes with idle slots, in their order. A copy goes to the one that will have it done first.
    """
    left, middle = copies_max(job) - job.copied, _middle_seconds(job)
    if middle is None or left < 1:
        return [], None
    own = [(node, _own_seconds(node, job)) for node in idle if node.id not in job.ineligible]
    seconds = {node: middle if each is None else each for node, each in own}
    free = {node: node.slots - len(node.leases) for node in seconds}
    fastest = sorted(seconds, key=lambda node: (seconds[node], node.rank))
    chosen, again_at = [], None  # type: list, float | None
    for lease in sorted(filter(_may_be_copied, job.leases.values()), key=lambda lease: (lease.moved_at, lease.attempt)):
        if not fastest or left < 1:
            break
        if lease.piece.size > left:
            continue
        for node in _targets(fastest, lease.node, free):
            due = _copy_due_at(lease, seconds[node], now)
            if now < due:
                again_at = earlier(again_at, due)
                continue
            chosen.append((lease, node))
            left -= lease.piece.size
            free[node] -= 1
            if not free[node]:
                del free[node]
                fastest.remove(node)
            break
    return chosen, again_at


def _may_be_copied(lease):
    # type: (leases.Lease) -> bool
    """Its only task has begun, or nothing of it can be taken back; and it is no copy, nor suspected of a death."""
    piece, node = lease.piece, lease.node
    if piece.copied or piece.held > 1 or piece.deaths:
        return False
    if lease.settled_at is not None:
        return True
    return piece.size == 1 and (len(node.leases) <= node.slots or lease.attempt in islice(node.leases, node.slots))


def _targets(fastest, own, free):
    # type: (list, leases.Node, dict) -> list
    """Where its copy may run: not on its own node, if there is another; what is slow there is slow there again."""
    others = [node for node in fastest[:2] if node is not own]
    return others[:1] + ([own] if own in free else [])


def _copy_due_at(lease, seconds, now):
    # type: (leases.Lease, float, float) -> float
    """From when on a node that needs so long for one task is likely to have it done much earlier."""
    size = lease.piece.size
    least = max(COPY_FACTOR * seconds * size, COPY_SECONDS_MIN)
    expected = _seconds_each(lease) * size
    if lease.moved_at + expected - now >= least:
        return now
    return lease.moved_at + max(least, expected)  # then it is late, by any measure


def _middle_seconds(job):
    # type: (leases.Job) -> float | None
    """What the middle one of the nodes needs for a task of it; None when nothing was measured."""
    known = sorted(speed.seconds for speed in job.speeds.values() if speed.seconds is not None)
    return known[(len(known) - 1) // 2] if known else None


def _own_seconds(node, job):
    # type: (leases.Node, leases.Job) -> float | None
    """What one of its tasks takes on this node, as measured there."""
    speed = job.speeds.get(node.id)
    return speed.seconds if speed is not None else None


# -- for both -------------------------------------------------------------------------------------


def _seconds_each(lease):
    # type: (leases.Lease) -> float
    """Of its tasks, as measured on its node; 0.0 when nothing is known."""
    return _own_seconds(lease.node, lease.piece.job) or 0.0


def earlier(moment, other):
    # type: (float | None, float | None) -> float | None
    """The first of two moments, where None is never."""
    moments = [each for each in (moment, other) if each is not None]
    return min(moments) if moments else None

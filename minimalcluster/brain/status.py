"""How far a job is and what it waits for, in words. Pure: the scheduler's objects and the time in, text out.

``wait_of`` looks for the first of these that is so::

    no node can take its tasks        none is connected, all are leaving, none can run them
    a former master's nodes           may come back with what they run
    nodes with its tasks in trouble   silent, cannot start worker processes, are starting them
    a slow link                       what its tasks need, or a result, is on its way
    a task killed for its memory      perhaps; now it waits for a node of its own
    other jobs' tasks run everywhere
    its tasks run                     for long
"""
from __future__ import absolute_import, division, print_function

from collections import namedtuple

from ..compat import native
from . import leases  # noqa: F401 # in type comments

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Iterable  # noqa: F401 # novm

#: Heartbeats come every 2 s: a node that has missed three is worth a word.
SILENT_SECONDS = 6.0
#: Names in one sentence.
NAMES_MAX = 5

#: Kinds of waiting.
NODES, FORMER, SILENT, STARTING, LINK = "nodes", "former", "silent", "starting", "link"
EXCLUSIVE, BUSY, RUNNING, IDLE = "exclusive", "busy", "running", "idle"

#: kind: one of those above. text: for people. since: the moment it began.
Wait = namedtuple("Wait", "kind text since")


class JobStatus(namedtuple("JobStatus", "name total done failed running queued copied seconds left_seconds why")):
    """One job now. total: tasks so far, if more may come. done: with an outcome; failed: of those, errors.
    running: handed to nodes. queued: not yet. copied: had a second copy. seconds: since it began.
    left_seconds: an estimate, or None. why: what it waits for, or "". ``str`` makes one line of it.
    """

    __slots__ = ()

    def __str__(self):
        # type: () -> str
        parts = ["%d of %d tasks done" % (self.done, self.total)]
        for count, what in ((self.failed, "failed"), (self.running, "running"), (self.queued, "queued")):
            if count:
                parts.append("%d %s" % (count, what))
        if self.left_seconds is not None and self.done < self.total:
            parts.append("about %.3g s left" % self.left_seconds)
        return "%s: %s%s" % (self.name, ", ".join(parts), "; " + self.why if self.why else "")


class ClusterStatus(namedtuple("ClusterStatus", "nodes workers jobs")):
    """The cluster now. nodes: connected. workers: their worker processes. jobs: a JobStatus of each until its end."""

    __slots__ = ()

    @classmethod
    def of(cls, snapshot):
        # type: (dict[str, Any]) -> ClusterStatus
        nodes = [node for node in snapshot["nodes"] if node["connected"]]
        jobs = [JobStatus(*[job[name] for name in JobStatus._fields]) for job in snapshot["jobs"]]
        return cls(len(nodes), sum(node["slots"] for node in nodes), tuple(jobs))

    def __str__(self):
        # type: () -> str
        head = "nodes: %d, worker processes: %d, jobs: %d" % (self.nodes, self.workers, len(self.jobs))
        return "\n".join([head] + ["  " + str(job) for job in self.jobs])


#: What all jobs wait for alike, gathered once for many of them. serving: the nodes that take work, slots: their worker
#: processes. connected: whether any node is; stuck: those on which none can start; reserved: whether any is kept for a
#: task that runs alone.
Overview = namedtuple("Overview", "serving slots connected stuck reserved")


def overview(nodes):
    # type: (Iterable[leases.Node]) -> Overview
    """Of the scheduler's nodes."""
    nodes = list(nodes)
    serving = [node for node in nodes if node.serving]
    return Overview(
        serving, sum(node.slots for node in serving), any(node.connected for node in nodes),
        [node for node in nodes if node.connected and not node.draining and node.stuck_until is not None],
        any(node.exclusive for node in nodes),
    )  # fmt: skip


def seconds_left(tasks, seconds, measured, slots=1):
    # type: (int, float, int, int) -> float
    """How long so many tasks will take, if ``measured`` of them took so many seconds of a slot."""
    return tasks * seconds / measured / slots


def status_of(job, cluster, now, wait):
    # type: (leases.Job, Overview, float, Wait | None) -> JobStatus
    """How far this job of the scheduler's is; without a name."""
    running = sum(piece.size for piece in {lease.piece for lease in job.leases.values()})
    slots = _slots(job, cluster) if job.closed and job.measured else 0
    left_seconds = None
    if slots:
        left_seconds = seconds_left(job.total - job.delivered, job.busy_seconds, job.measured, slots)
    return JobStatus(
        "", job.total, job.delivered, job.failed, running, job.queued, job.copied, now - job.began_at, left_seconds,
        "" if wait is None else wait.text,
    )  # fmt: skip


def wait_of(job, cluster, now, lost_seconds):
    # type: (leases.Job, Overview, float, float) -> Wait | None
    """Why this job of the scheduler's makes no progress; None while there is nothing it could do."""
    if job.held_back:  # the shell has set the limit and knows why
        return None
    found, held = None, _tasks_by_node(job)
    for look in _REASONS:
        found = found or look(job, cluster, held, now, lost_seconds)
    return found


def _tasks_by_node(job):
    # type: (leases.Job) -> list
    """(node, how many of its tasks this node has), in the nodes' order."""
    held = {}  # type: dict
    for lease in job.leases.values():
        held[lease.node] = held.get(lease.node, 0) + lease.piece.size
    return sorted(held.items(), key=lambda each: each[0].rank)


def _slots(job, cluster):
    # type: (leases.Job, Overview) -> int
    """Worker processes that can run its tasks."""
    if not job.ineligible:
        return cluster.slots
    return sum(node.slots for node in cluster.serving if node.id not in job.ineligible)


def _for_nodes(job, cluster, held, now, lost_seconds):
    # type: (leases.Job, Overview, list, float, float) -> Wait | None
    if not job.queued or job.leases or any(node.id not in job.ineligible for node in cluster.serving):
        return None
    if cluster.serving:
        reasons = ["%s: %s" % (node.name, native(job.ineligible[node.id].get("text", "?"))) for node in cluster.serving]
        why = "no node that can run them (%s)" % _listed(reasons, "; ")
    elif cluster.stuck:
        seconds = max([0.0] + [node.stuck_until - now for node in cluster.stuck])
        text = "%d tasks wait: %s; given up in %.0f s" % (job.queued, why_stuck(cluster.stuck), seconds)
        return Wait(STARTING, text, job.moved_at)
    elif cluster.connected:
        why = "all nodes are leaving"
    else:
        why = "no node is connected"
    text = "%d tasks wait: %s; they go on when one joins" % (job.queued, why)
    return Wait(NODES, text, job.moved_at)


def why_stuck(nodes):
    # type: (list) -> str
    """Of nodes without a worker process, why none starts."""
    return "worker processes cannot start: %s" % _listed(["%s: %s" % (node.name, node.trouble) for node in nodes], "; ")


def _for_former(job, cluster, held, now, lost_seconds):
    # type: (leases.Job, Overview, list, float, float) -> Wait | None
    if not job.awaited or job.leases or job.ready:
        return None
    count = sum(piece.size for piece in job.awaited)
    left = max(job.awaited.values()) - now
    text = "%d tasks may still run on nodes of the former master; they are handed out anew in %.0f s" % (count, left)
    return Wait(FORMER, text, job.moved_at)


def _for_silent(job, cluster, held, now, lost_seconds):
    # type: (leases.Job, Overview, list, float, float) -> Wait | None
    silent = [(node, tasks) for node, tasks in held if now - node.heard_at >= SILENT_SECONDS]
    if not silent:
        return None
    names = ["%s (for %.0f s)" % (node.name, now - node.heard_at) for node, _ in silent]
    text = "%d tasks are on nodes that are silent: %s; given up after %.0f s, they run elsewhere" % (
        sum(tasks for _, tasks in silent), _listed(names), lost_seconds,
    )  # fmt: skip
    return Wait(SILENT, text, min(node.heard_at for node, _ in silent))


def _for_starting(job, cluster, held, now, lost_seconds):
    # type: (leases.Job, Overview, list, float, float) -> Wait | None
    """Of each node that has some of its tasks, no worker process has begun yet."""
    if not held or any(node.starting < node.slots for node, _ in held):
        return None
    troubles = ["%s: %s" % (node.name, node.trouble) for node, _ in held if node.trouble]
    if troubles:
        text = "worker processes cannot start: %s" % _listed(troubles, "; ")
    else:
        text = "worker processes are still starting on %s" % _listed([node.name for node, _ in held])
    return Wait(STARTING, text, job.moved_at)


def _for_link(job, cluster, held, now, lost_seconds):
    # type: (leases.Job, Overview, list, float, float) -> Wait | None
    """Large arguments, results, definitions and shared objects: bytes move, and so far that is all that does."""
    transfers, count = [], 0
    for node, tasks in held:
        moving = [each for each in node.sending if _concerns(each, job, node)]
        if moving:
            sent, size = sum(each[2] for each in moving), sum(each[3] for each in moving)
            transfers.append("%s of %s sent to node %s" % (_in_megabytes(sent), _in_megabytes(size), node.name))
        elif node.received:
            transfers.append("%s of a result have come from node %s" % (_in_megabytes(node.received), node.name))
        count += tasks if moving or node.received else 0
    if not transfers:
        return None
    return Wait(LINK, "%d tasks wait for what is on its way: %s" % (count, _listed(transfers)), job.moved_at)


def _concerns(moving, job, node):
    # type: (tuple, leases.Job, leases.Node) -> bool
    """Is this transfer for the job? A shared object or a module is for any job of the node."""
    kind, number = moving[:2]
    if kind == "attempt":
        return number in node.leases and node.leases[number].piece.job is job
    return kind == "" or number == job.id


def _in_megabytes(size):
    # type: (int) -> str
    return "%.1f MB" % (size / 1e6)


def _for_exclusive(job, cluster, held, now, lost_seconds):
    # type: (leases.Job, Overview, list, float, float) -> Wait | None
    waiting = [lease for lease in job.leases.values() if lease.piece.exclusive and len(lease.node.leases) > 1]
    if not waiting or job.ready or len(waiting) < len(job.leases):
        return None
    text = "%d tasks that were killed, perhaps for want of memory, wait for a node that does nothing else"
    return Wait(EXCLUSIVE, text % len(waiting), job.moved_at)


def _for_busy(job, cluster, held, now, lost_seconds):
    # type: (leases.Job, Overview, list, float, float) -> Wait | None
    if not job.queued or job.leases:
        return None
    kept = ", or kept for a task that needs a node of its own" if cluster.reserved else ""
    text = "%d tasks wait: all %d worker processes that can run them are busy with other jobs%s, for %.0f s" % (
        job.queued, _slots(job, cluster), kept, now - job.moved_at,
    )  # fmt: skip
    return Wait(BUSY, text, job.moved_at)


def _for_running(job, cluster, held, now, lost_seconds):
    # type: (leases.Job, Overview, list, float, float) -> Wait | None
    if not held:
        return None
    oldest = min(lease.moved_at for lease in job.leases.values())
    names = sorted({node.name for node, _ in held})
    count = sum(piece.size for piece in {lease.piece for lease in job.leases.values()})
    text = "%d tasks run on %s, the oldest for %.0f s" % (count, _listed(names), now - oldest)
    return Wait(RUNNING, text, oldest)


_REASONS = (
    _for_nodes, _for_former, _for_silent, _for_starting, _for_link, _for_exclusive, _for_busy, _for_running,
)  # fmt: skip


def _listed(names, between=", "):
    # type: (list, str) -> str
    more = len(names) - NAMES_MAX
    return between.join(names[:NAMES_MAX]) + (" and %d more" % more if more > 0 else "")

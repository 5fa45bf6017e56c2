"""The scheduler's books: who has which tasks, and what a pass looks at without going through all of it. Pure.

Each change of a job, a piece, a lease or a node goes through a method here, which keeps the indexes true:

    which jobs may be handed out, in turn        ``front``, ``next_job``
    which nodes have an idle slot, or room       ``idle``, ``roomy``
    which nodes may give something back          ``crowded``, ``divisible``, ``asked``
    which jobs may get second copies             ``copyable``
    what is to run alone, and where              ``apart``, ``reserved``
    which piece of a job has a task              ``Job.places``
    what an event has touched                    ``touched``: the scheduler ends those that are done

So a pass costs what has changed, not what there is. ``validate`` compares each index with what it is made from.
"""
from __future__ import absolute_import, division, print_function

import heapq
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from itertools import count

from . import policy
from .leases import DEFAULTS, Job, Lease, Node, Piece, Speed

__all__ = ["DEFAULTS", "Agenda", "Ledger", "Ranked"]

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Iterator  # noqa: F401 # novm


class Ranked(object):
    """Some of the nodes, in their order."""

    def __init__(self):
        # type: () -> None
        self._ranks, self._nodes = [], {}  # type: list, dict

    def file(self, node, belongs):
        # type: (Node, bool) -> None
        if belongs is (node.rank in self._nodes):
            return
        if belongs:
            self._nodes[node.rank] = node
            insort(self._ranks, node.rank)
        else:
            del self._nodes[node.rank]
            del self._ranks[bisect_left(self._ranks, node.rank)]

    def after(self, rank):
        # type: (int) -> Node | None
        """The next one; -1 is before the first."""
        at = bisect_right(self._ranks, rank)
        return self._nodes[self._ranks[at]] if at < len(self._ranks) else None

    def __contains__(self, node):
        # type: (object) -> bool
        return node.rank in self._nodes  # type: ignore[attr-defined]

    def __len__(self):
        # type: () -> int
        return len(self._ranks)

    def __iter__(self):
        # type: () -> Iterator[Node]
        return iter([self._nodes[rank] for rank in self._ranks])


class Agenda(object):
    """When each of many things is due, where most are put off again and again before that: by signs of life, results.

    ``due_at(thing)`` is its moment now, or None. Whoever may have brought it forward calls ``note``; that it was put
    off is noticed when its old moment is the first one.
    """

    def __init__(self, due_at):
        # type: (object) -> None
        self._due_at = due_at
        self._heap, self._noted = [], {}  # type: list, dict
        self._count = count()  # things cannot be compared

    def note(self, thing):
        # type: (object) -> None
        moment = self._due_at(thing)  # type: ignore[operator]
        if moment is not None and (thing not in self._noted or moment < self._noted[thing]):
            self._noted[thing] = moment
            heapq.heappush(self._heap, (moment, next(self._count), thing))

    def drop(self, thing):
        # type: (object) -> None
        self._noted.pop(thing, None)

    def first(self):
        # type: () -> float | None
        """The earliest moment of all."""
        while self._heap:
            moment, _, thing = self._heap[0]
            if self._noted.get(thing) == moment:
                if self._due_at(thing) == moment:  # type: ignore[operator]
                    return moment
                del self._noted[thing]
                self.note(thing)
            heapq.heappop(self._heap)
        return None

    def take(self, now):
        # type: (float) -> list
        """What is due by now, no longer noted."""
        found, moment = [], self.first()
        while moment is not None and moment <= now:
            found.append(heapq.heappop(self._heap)[2])
            del self._noted[found[-1]]
            moment = self.first()
        return found

    def knows(self, thing):
        # type: (object) -> bool
        """Will it be noticed in time? For ``validate``."""
        moment = self._due_at(thing)  # type: ignore[operator]
        return moment is None or self._noted.get(thing, moment + 1.0) <= moment


class Ledger(object):
    """See the module's text."""

    def __init__(self, broken):
        # type: (object) -> None
        self._broken = broken  # raises an error with the story of what broke
        self.jobs = OrderedDict()  # type: OrderedDict # id -> Job
        self.nodes = OrderedDict()  # type: OrderedDict # id -> Node
        self.attempts = {}  # type: dict # attempt -> Piece, until the piece is done
        self.touched = set()  # type: set # jobs
        self._turns, self._ranks = count(), count()
        self._line = []  # type: list # a heap: (turn, Job), among them those that were served or wait for nothing since
        self.slots = self.serving = 0  # of the nodes that take work: their worker processes, and how many they are
        self.idle, self.roomy, self.crowded, self.reserved = Ranked(), Ranked(), Ranked(), Ranked()
        self.divisible = set()  # type: set # leases of more than one task that were not asked for any
        self.asked = OrderedDict()  # type: OrderedDict # leases that were asked and have not answered, the first first
        self.copyable, self.apart = set(), set()  # type: set, set # jobs

    # -- jobs -------------------------------------------------------------------------------------

    def add_job(self, job_id, total, options, now):
        # type: (int, int | None, object, float) -> Job
        self.jobs[job_id] = job = Job(job_id, total, options, now, next(self._turns))  # type: ignore[arg-type]
        self.touched.add(job)
        return job

    def remove_job(self, job):
        # type: (Job) -> None
        """It is finished: nothing of it is leased."""
        del self.jobs[job.id]
        for node_id in job.speeds:
            node = self.nodes[node_id]
            node.measured.discard(job.id)
            if job.id in node.short:
                node.short.discard(job.id)
                self.file(node)
        for node_id in job.unfit:
            self.nodes[node_id].unfit.discard(job.id)
        for node_id in job.nodes:
            self.nodes[node_id].jobs.discard(job.id)
        self.copyable.discard(job)
        self.apart.discard(job)

    def settle(self):
        # type: () -> list
        """Put each touched job where it belongs; those that are finished are returned, in turn."""
        finished = []
        for job in self.touched:
            if job.id not in self.jobs:
                continue
            if job.finished:
                finished.append(job)
                continue
            if job.ready and not job.lined_up:
                job.lined_up = True
                heapq.heappush(self._line, (job.turn, job))
            if job.options.idempotent:
                _file(self.copyable, job, _may_be_copied(job))
            if job.apart or job in self.apart:
                _file(self.apart, job, bool(job.apart))
        self.touched.clear()
        return sorted(finished, key=_turn) if len(finished) > 1 else finished

    def front(self):
        # type: () -> Job | None
        """The job whose turn it is, if anything can be handed out."""
        while self._line:
            turn, job = self._line[0]
            if turn == job.turn and job.ready:
                return job
            heapq.heappop(self._line)
            if turn == job.turn:
                job.lined_up = False
        return None

    def next_job(self, node):
        # type: (Node) -> Job | None
        """As ``front``, of the jobs that this node can run."""
        passed = []  # type: list
        job = self.front()
        while job is not None and node.id in job.unfit:
            passed.append(heapq.heappop(self._line))
            job = self.front()
        for entry in passed:
            heapq.heappush(self._line, entry)
        return job

    def served(self, job):
        # type: (Job) -> None
        """The others come first now."""
        if len(self.jobs) > 1:
            job.turn = next(self._turns)
            heapq.heappush(self._line, (job.turn, job))

    def stop(self, job):
        # type: (Job) -> None
        """Nothing more of it is handed out; what is leased stays so."""
        job.stopped = True
        job.pieces.clear()
        job.apart.clear()
        job.awaited.clear()
        job.queued = 0
        job.places.fill(())
        for attempt in [attempt for attempt, piece in job.attempts.items() if not piece.leases]:
            self._unknow(job, attempt)
        self.touched.add(job)

    # -- nodes ------------------------------------------------------------------------------------

    def add_node(self, node_id, session, slots, name, now):
        # type: (object, int, int, str, float) -> Node
        self.nodes[node_id] = node = Node(node_id, session, slots, name, now, next(self._ranks))
        return node

    def remove_node(self, node):
        # type: (Node) -> None
        """It has no leases any more."""
        self.forget_session(node)
        for job_id in node.unfit:
            del self.jobs[job_id].unfit[node.id]
        node.connected = False
        self.reserve(node, None)
        del self.nodes[node.id]

    def forget_session(self, node):
        # type: (Node) -> None
        """What it knows, and what is known of its speed, was of a connection that is no more."""
        for job_id in node.jobs:
            self.jobs[job_id].nodes.discard(node.id)
        for job_id in node.measured:
            del self.jobs[job_id].speeds[node.id]
            self.jobs[job_id].short.discard(node.id)
        node.jobs, node.measured, node.short = set(), set(), set()
        self.file(node)

    def file(self, node):
        # type: (Node) -> None
        """Put it where it belongs: after each change of its leases, its connection, its slots."""
        held, slots = len(node.leases), node.slots
        open_ = node.serving and node.reserved is None
        filed = open_ and held < slots, open_ and held < 2 * slots and bool(node.short), held > slots
        if filed != node.filed:
            node.filed = filed
            self.idle.file(node, filed[0])
            self.roomy.file(node, filed[1])
            self.crowded.file(node, filed[2])

    def count_slots(self):
        # type: () -> None
        """After a node came, went, or changed."""
        serving = [node.slots for node in self.nodes.values() if node.serving]
        self.slots, self.serving = sum(serving), len(serving)

    def reserve(self, node, piece):
        # type: (Node, Piece | None) -> None
        """For this piece alone, or no longer."""
        node.reserved = piece  # type: ignore[assignment]
        self.reserved.file(node, piece is not None)
        self.file(node)

    def knows(self, node, job):
        # type: (Node, Job) -> bool
        """Was the job defined there in this session? From now on it is."""
        if job.id in node.jobs:
            return True
        node.jobs.add(job.id)
        job.nodes.add(node.id)
        return False

    def speed(self, node, job):
        # type: (Node, Job) -> Speed
        """To be written to; then ``measured`` is to be told."""
        speed = job.speeds.get(node.id)
        if speed is None:
            node.measured.add(job.id)
            job.speeds[node.id] = speed = Speed()
        return speed

    def measured(self, node, job):
        # type: (Node, Job) -> None
        short = policy.is_worth_prefetching(node, job)
        if short is not (job.id in node.short):
            _file(node.short, job.id, short)
            _file(job.short, node.id, short)
            self.file(node)

    def unfit(self, node, job, why):
        # type: (Node, Job, dict) -> None
        job.unfit[node.id] = why
        node.unfit.add(job.id)

    # -- pieces -----------------------------------------------------------------------------------

    def enqueue(self, piece):
        # type: (Piece) -> None
        """To be handed out next."""
        if not piece.live:
            piece.job.places.put(piece)
        piece.enqueue()
        self.touched.add(piece.job)

    def dequeue(self, piece):
        # type: (Piece) -> None
        piece.dequeue()
        self.touched.add(piece.job)

    def adopt(self, piece, attempt, careful):
        # type: (Piece, int, bool) -> None
        """This attempt may deliver for it."""
        piece.attempts[attempt] = careful
        self.attempts[attempt] = piece.job.attempts[attempt] = piece

    def fence(self, piece, attempt):
        # type: (Piece, int) -> None
        """This attempt delivers nothing any more."""
        self._unknow(piece.job, attempt)
        del piece.attempts[attempt]

    def _unknow(self, job, attempt):
        # type: (Job, int) -> None
        self.attempts.pop(attempt, None)
        job.attempts.pop(attempt, None)

    def cut(self, job, size):
        # type: (Job, int) -> Piece
        """The next piece of at most ``size`` tasks, taken out of the queue."""
        if not job.pieces:
            piece = Piece(job, job.cursor, min(job.cursor + size, job.total))
            job.places.put(piece)
            job.cursor = piece.hi
            job.queued -= piece.size
        else:
            piece = next(reversed(job.pieces))
            self.dequeue(piece)
            if piece.size > size:
                rest = Piece(job, piece.lo + size, piece.hi, piece.deaths)
                piece.hi = rest.lo
                piece.cut = piece.cut or bool(piece.attempts)
                self.enqueue(rest)
        self.touched.add(job)
        return piece

    def having(self, job, task):
        # type: (Job, int) -> Piece | None
        """The piece that has this task: it runs, is awaited or queued; None when it has an outcome."""
        if job.cursor <= task < job.total:
            return self.cut_behind(job, task + 1)
        return job.places.having(task)

    def cut_behind(self, job, end):
        # type: (Job, int) -> Piece
        """What nobody has had yet before ``end``, as a piece that is queued."""
        piece = Piece(job, job.cursor, end)
        job.cursor = end
        job.queued -= piece.size
        self.enqueue(piece)
        return piece

    def move(self, piece, lo, hi):
        # type: (Piece, int, int) -> None
        """Less is left of it: the rest is delivered, given back, or runs elsewhere."""
        if piece.queued:
            piece.job.queued -= piece.size - (hi - lo)
        piece.lo, piece.hi = lo, hi
        if hi - lo == 1:
            self.divisible.difference_update(piece.leases.values())
        self.touched.add(piece.job)

    def retire(self, piece):
        # type: (Piece) -> list
        """Nothing is left to run of it: its attempts are fenced, its leases ended and returned."""
        job = piece.job
        if piece.queued:
            piece.dequeue()
        job.awaited.pop(piece, None)
        piece.live = False
        for attempt in piece.attempts:
            self._unknow(job, attempt)
        ended = [lease for _, lease in sorted(piece.leases.items())]
        for lease in ended:
            self.end(lease)
        self.touched.add(job)
        return ended

    # -- leases -----------------------------------------------------------------------------------

    def begin(self, attempt, piece, node, now):
        # type: (int, Piece, Node, float) -> None
        lease = Lease(attempt, piece, node, now)
        node.leases[attempt] = piece.leases[attempt] = piece.job.leases[attempt] = lease
        if piece.hi - piece.lo > 1:
            self.divisible.add(lease)
        if piece.apart:
            node.reserved = piece
            self.reserved.file(node, True)
        self.file(node)
        self.touched.add(piece.job)

    def end(self, lease):
        # type: (Lease) -> None
        attempt, piece = lease.attempt, lease.piece
        del lease.node.leases[attempt]
        del piece.leases[attempt]
        del piece.job.leases[attempt]
        self.divisible.discard(lease)
        self.asked.pop(lease, None)
        self.file(lease.node)
        self.touched.add(piece.job)

    def ask_back(self, lease, until):
        # type: (Lease, float) -> None
        """Its node is asked for what it has not started of it; it has answered by then, or is stuck."""
        self.answered(lease)  # then it is the last one again
        lease.revoked, lease.settled_at = True, until
        self.asked[lease] = None
        self.file_lease(lease)

    def answered(self, lease):
        # type: (Lease) -> None
        self.asked.pop(lease, None)

    def may_be_asked(self, lease):
        # type: (Lease) -> None
        """It makes progress, or the question may have been lost with a connection."""
        if lease.revoked:
            lease.revoked = False
            self.file_lease(lease)

    def file_lease(self, lease):
        # type: (Lease) -> None
        _file(self.divisible, lease, lease.piece.size > 1 and not lease.revoked)

    def asked_until(self, now):
        # type: (float) -> float | None
        """When the first of those that were asked, and may still answer, has answered or is stuck."""
        while self.asked:
            lease = next(iter(self.asked))
            if now < lease.settled_at:
                return lease.settled_at
            del self.asked[lease]
        return None

    def givers(self):
        # type: () -> list
        """The nodes that may give something back, in their order."""
        found = {lease.node for lease in self.divisible}
        found.update(self.crowded)
        return sorted(found, key=_rank)

    # -- for tests --------------------------------------------------------------------------------

    def validate(self):
        # type: () -> None
        """Every invariant: raises InternalError with the story of what broke."""
        for job in self.jobs.values():
            self._validate_job(job)
            self._validate_job_indexes(job)
        for node in self.nodes.values():
            self._validate_node(node)
        for attempt, piece in self.attempts.items():
            job = piece.job
            if attempt not in piece.attempts or job.id not in self.jobs or job.attempts.get(attempt) is not piece:
                self._broken("attempt %d outlives its piece" % attempt, attempt)  # type: ignore[operator]
        self._validate_counts()

    def _validate_job(self, job):
        # type: (Job) -> None
        broken = self._broken  # type: object
        if job.finished:
            broken("job %d is finished and still here" % job.id, job.id)  # type: ignore[operator]
        waiting = list(job.pieces) + list(job.apart)
        queued = sum(piece.size for piece in waiting) + (0 if job.stopped else job.total - job.cursor)
        if queued != job.queued:
            broken("job %d counts %d queued tasks, and has %d" % (job.id, job.queued, queued), job.id)  # type: ignore[operator]
        pieces = {lease.piece for lease in job.leases.values()}
        leased = sum(piece.size for piece in pieces | set(job.awaited))
        if not job.stopped and queued + leased + job.delivered != job.total:
            broken(  # type: ignore[operator]
                "job %d: %d queued + %d leased + %d delivered is not %d"
                % (job.id, queued, leased, job.delivered, job.total),
                job.id,
            )
        copied = sum(piece.size for piece in pieces if piece.copied)
        if not copied <= job.copied <= (policy.copies_max(job) if job.options.idempotent else 0):
            broken("job %d has copies of %d tasks, and %d made" % (job.id, copied, job.copied), job.id)  # type: ignore[operator]
        if any(piece.leases for piece in waiting):
            broken("job %d has a piece both queued and leased" % job.id, job.id)  # type: ignore[operator]
        if not job.stopped:
            self._validate_places(job, pieces.union(waiting, job.awaited))

    def _validate_places(self, job, pieces):
        # type: (Job, set) -> None
        places = list(job.places)
        are_there = set(places) == pieces and len(places) == len(pieces)
        if not are_there or any(job.places.having(each.lo) is not each for each in places):
            self._broken("job %d does not find its pieces by their tasks" % job.id, job.id)  # type: ignore[operator]

    def _validate_job_indexes(self, job):
        # type: (Job) -> None
        nodes = list(self.nodes.values())
        short = {node.id for node in nodes if policy.is_worth_prefetching(node, job)}
        for what, is_so in (
            ("in line", job in self.touched or not job.ready or (job.turn, job) in self._line),
            ("where its tasks are short", job.short == short),
            ("where it was measured", set(job.speeds) == {node.id for node in nodes if job.id in node.measured}),
            ("where it cannot run", set(job.unfit) == {node.id for node in nodes if job.id in node.unfit}),
            ("where it is known", job.nodes == {node.id for node in nodes if job.id in node.jobs}),
            ("among those that may be copied", job in self.touched or (job in self.copyable) == _may_be_copied(job)),
            ("among those with tasks that run alone", job in self.touched or (job in self.apart) == bool(job.apart)),
        ):
            if not is_so:
                self._broken("job %d is not %s" % (job.id, what), job.id)  # type: ignore[operator]

    def _validate_node(self, node):
        # type: (Node) -> None
        for attempt, lease in node.leases.items():
            is_its = lease.piece.leases.get(attempt) is lease and lease.piece.job.leases.get(attempt) is lease
            if lease.node is not node or not is_its:
                self._broken("lease %d of node %s is not its piece's" % (attempt, node.id), attempt)  # type: ignore[operator]
            if attempt not in self.attempts:
                self._broken("lease %d of node %s is fenced" % (attempt, node.id), attempt)  # type: ignore[operator]
            if (lease in self.divisible) != (lease.piece.size > 1 and not lease.revoked):
                self._broken("lease %d of node %s is not where it can be taken back" % (attempt, node.id), attempt)  # type: ignore[operator]
        if not (node.jobs | node.measured | node.short | node.unfit).issubset(self.jobs):
            self._broken("node %s remembers jobs that are over" % node.id, node.id)  # type: ignore[operator]
        if len(node.leases) > 2 * node.slots and node.connected and not node.draining:
            held = sum(1 for lease in node.leases.values() if lease.granted_at > node.heard_at)
            if held > 2 * node.slots:
                self._broken("node %s holds %d leases for %d slots" % (node.id, held, node.slots), node.id)  # type: ignore[operator]
        is_open = node.serving and node.reserved is None
        for what, index, belongs in (
            ("idle", self.idle, node.idle),
            ("roomy", self.roomy, is_open and len(node.leases) < 2 * node.slots and bool(node.short)),
            ("crowded", self.crowded, len(node.leases) > node.slots),
            ("reserved", self.reserved, node.reserved is not None),
        ):
            if (node in index) != belongs:
                self._broken("node %s is %s%s" % (node.id, "" if belongs else "not ", what), node.id)  # type: ignore[operator]

    def _validate_counts(self):
        # type: () -> None
        nodes = list(self.nodes.values())
        leases = sum(len(node.leases) for node in nodes)
        here = {lease for node in nodes for lease in node.leases.values()}
        serving = [node.slots for node in nodes if node.serving]
        for what, is_so in (
            ("a lease of no node", sum(len(job.leases) for job in self.jobs.values()) == leases),
            ("a lease that has ended and may be taken back", here.issuperset(set(self.divisible).union(self.asked))),
            ("slots of nodes that are gone", (self.slots, self.serving) == (sum(serving), len(serving))),
            ("a job that is gone", set(self.copyable | self.apart).issubset(self.jobs.values())),
            ("a node that is gone", set(self.crowded).union(self.idle, self.roomy, self.reserved).issubset(nodes)),
            ("an attempt of no job", sum(len(job.attempts) for job in self.jobs.values()) == len(self.attempts)),
        ):
            if not is_so:
                self._broken("the ledger has %s" % what, "ledger")  # type: ignore[operator]


def _file(where, thing, belongs):
    # type: (set, object, bool) -> None
    if belongs:
        where.add(thing)
    else:
        where.discard(thing)


def _may_be_copied(job):
    # type: (Job) -> bool
    """A second copy may run on another node: with ``attempts_max=1`` a task may not begin again whatever happens."""
    terms = job.options
    may_run = not (job.queued or job.stopped or job.paused)
    return bool(terms.idempotent and terms.attempts_max > 1 and job.leases and may_run)


def _turn(job):
    # type: (Job) -> int
    return job.turn


def _rank(node):
    # type: (Node) -> int
    return node.rank

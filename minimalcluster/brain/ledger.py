"""The scheduler's ledger: which node has which tasks, and what a pass looks at without a look at all there is. Pure.

Each change of a job, a piece, a lease or a node is a method here. It keeps the counters and these indexes true:

    which jobs may be handed out, in turn        ``front``, ``next_job``
    which nodes have an idle slot, or room       ``idle``, ``roomy``
    which node gives something back first        ``givers``; ``asked``: its leases that have not answered
    which jobs may get second copies             ``copyable``
    which piece of a job has a task              ``Job.places``
    which job an attempt is for                  ``attempts``, ``Piece.attempts``
    what an event has touched                    ``touched``, then ``done``: the jobs at their end

So a pass costs what has changed, not what there is. ``validate`` compares each index with what it is made from.
What may become of a piece and of a lease is in two tables in leases.py. No rule is here, and no effect: a method
returns the (node, attempt) of the leases that are to be revoked.
"""
from __future__ import absolute_import, division, print_function

import heapq
from collections import OrderedDict
from itertools import count

from . import policy
from .indexes import Agenda, Best, Gaps, Ranked, gaps_between
from .leases import (  # fmt: skip
    ASKED,
    AWAITED,
    DEFAULTS,
    DONE,
    HELD,
    LEASE_TRANSITIONS,
    LEASED,
    LOST,
    NEW,
    NO_LIMIT,
    PIECE_TRANSITIONS,
    QUEUED,
    Job,
    Lease,
    Node,
    Options,  # noqa: F401 # in a type comment
    Piece,
    Speed,
)

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable, Iterator  # noqa: F401 # novm

__all__ = ["DEFAULTS", "Ledger"]


class Ledger(object):
    """See the module's text."""

    def __init__(self, broken):
        # type: (Callable[[str, object], None]) -> None
        self._broken = broken  # raises an error with the history of what broke
        self.jobs = OrderedDict()  # type: OrderedDict # id -> Job
        self.nodes = OrderedDict()  # type: OrderedDict # id -> Node
        self.attempts = {}  # type: dict # attempt -> Lease, until it is over
        self.touched = set()  # type: set # jobs that may have to be filed elsewhere
        self.done = []  # type: list # jobs that are finished and still here
        self._turns, self._ranks = count(), count()
        self._line = []  # type: list # a heap: (turn, Job); some were served since, or have nothing to hand out
        self.slots = self.serving = 0  # of the nodes that take work: their worker processes, and how many they are
        self.draining = set()  # type: set # nodes
        self.overview = None  # type: Any # the scheduler's survey of the nodes, until a connection changes
        self.idle, self.roomy = Ranked(), Ranked()
        self.idle_slots = 0  # of the idle nodes
        self.givers = Best(self._giving_key)  # the nodes of which a lease may be taken back
        self._ripe_at = Agenda(_ripe_at)  # nodes that have a lease which is too young for that
        self.asked = OrderedDict()  # type: OrderedDict # leases that are ASKED, in the order of their questions
        self.copyable, self.choosy = set(), set()  # type: set, set # jobs that may get copies, that some node cannot run

    # -- jobs -------------------------------------------------------------------------------------

    def add_job(self, job_id, total, options, now):
        # type: (int, int | None, Options, float) -> Job
        self.jobs[job_id] = job = Job(job_id, total, options, now, next(self._turns))
        self.touched.add(job)
        return job

    def grow(self, job, total, closed, limit):
        # type: (Job, int, bool, int | None) -> None
        job.queued += total - job.total
        job.total, job.closed = total, closed
        job.limit = NO_LIMIT if limit is None else limit
        self.touched.add(job)

    def resume(self, job, spans, attempts, until):
        # type: (Job, list, list, float) -> None
        """A former master's job: the spans (first, end) are delivered, the attempts (number, first, end), the newest
        last, may still be under way: they are awaited ``until`` then. The rest is still to be cut."""
        gaps = Gaps(gaps_between(spans, job.total))
        job.delivered = job.total - sum(hi - lo for lo, hi in gaps)
        one_by_one = job.options.attempts_max == 1  # as they were granted, but for those suspected of a death
        same, adopted = {}, []  # type: dict, list # (first, end) -> the piece of the newest attempt of just these
        for attempt, first, end in reversed(attempts):
            found = None if attempt in self.attempts else gaps.take(first, end)
            if found is not None:  # a part that is not the last gap is a task that raised, and is to be tried again
                piece = Piece(job, *found)
                piece.shortened = piece.hi < end
                self._adopt(Lease(attempt, piece, one_by_one), "await")
                self._await(piece, until)
                adopted.append(piece)
            known = self.attempts.get(attempt)
            newest = same.setdefault((first, end), known and known.piece)
            if known is None and newest is not None and job.options.idempotent:  # they are two copies
                self._adopt(Lease(attempt, newest, one_by_one), "await")
        left = list(gaps)
        ends, begins = [0] + [hi for _, hi in left], [lo for lo, _ in left] + [job.total]
        job.cursor, job.queued = 0, sum(hi - lo for lo, hi in left)
        job.skips = [skip for skip in zip(ends, begins) if skip[0] < skip[1]][::-1]
        self._skip(job)
        job.places.fill(sorted(adopted, key=_lo))
        self.touched.add(job)

    def _skip(self, job):
        # type: (Job) -> None
        """The cursor stands at a task that is still to be cut, or at the end."""
        if job.skips and job.skips[-1][0] == job.cursor:
            job.cursor = job.skips.pop()[1]

    def stop(self, job, kill):
        # type: (Job, bool) -> list
        """Nothing more of it is handed out. Its leases, which are returned, may deliver or are over."""
        leases = sorted(job.leases.items())
        held = [(lease.node, attempt) for attempt, lease in leases]
        for _, lease in leases if kill else ():
            self.end(lease)
        for piece in set(job.places).union(lease.piece for _, lease in leases):
            if not piece.held:
                self.finish(piece)
        job.stopped = True
        job.queued = 0
        job.places.fill([])
        self.touched.add(job)
        return held

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
        for node_id in job.ineligible:
            self.nodes[node_id].ineligible.discard(job.id)
        for node_id in job.nodes:
            self.nodes[node_id].jobs.discard(job.id)
        self.copyable.discard(job)
        self.choosy.discard(job)

    def file_touched(self):
        # type: () -> None
        """Put each touched job where it belongs; those that are finished into ``done``."""
        while self.touched:
            job = self.touched.pop()
            if job.finished:
                self.done.append(job)
                continue
            if not job.lined_up and job.ready:
                job.lined_up = True
                heapq.heappush(self._line, (job.turn, job))
            if job.options.idempotent:
                _file(self.copyable, job, _may_be_copied(job))

    def take_done(self):
        # type: () -> list
        """The jobs that are finished, in turn, for the last time."""
        done, self.done = self.done, []
        return sorted(done, key=_turn) if len(done) > 1 else done

    def front(self):
        # type: () -> Job | None
        """The job whose turn it is, if anything can be handed out. Jobs that were touched are to be filed before."""
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
        job = self.front()
        if job is None or node.id not in job.ineligible:
            return job
        passed = []  # type: list
        while job is not None and node.id in job.ineligible:
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

    # -- nodes ------------------------------------------------------------------------------------

    def add_node(self, node_id, session, slots, name, now):
        # type: (object, int, int, str, float) -> Node
        self.nodes[node_id] = node = Node(node_id, session, slots, name, now, next(self._ranks))
        return node

    def remove_node(self, node):
        # type: (Node) -> None
        """It has no leases any more."""
        self.forget_session(node)
        for job_id in node.ineligible:
            job = self.jobs[job_id]
            del job.ineligible[node.id]
            _file(self.choosy, job, bool(job.ineligible))
        node.connected = node.draining = False
        self.file_connection(node)
        self.givers.drop(node)
        self._ripe_at.drop(node)
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

    def file_connection(self, node):
        # type: (Node) -> None
        """Count it, and put it where it belongs: after each change of its connection, slots or exclusive leases."""
        slots = node.slots if node.serving else 0
        self.serving += (slots > 0) - (node.serving_slots > 0)
        self.slots += slots - node.serving_slots
        node.serving_slots = slots
        node.open_slots = 0 if node.exclusive else slots
        _file(self.draining, node, node.draining)
        self.overview = None
        self.file(node)

    def file(self, node):
        # type: (Node) -> None
        """Put it where it belongs: after each change of its leases."""
        held, slots = len(node.leases), node.open_slots
        idle_slots = slots - held if held < slots else 0
        roomy = held < 2 * slots and bool(node.short)
        if idle_slots != node.idle_slots:
            self.idle_slots += idle_slots - node.idle_slots
            node.idle_slots = idle_slots
            self.idle.file(node, idle_slots > 0)
        if roomy is not node.roomy:
            node.roomy = roomy
            self.roomy.file(node, roomy)
        self.givers.note(node)

    def knows(self, node, job):
        # type: (Node, Job) -> bool
        """Was the job defined there in this session? From now on it is."""
        if job.id in node.jobs:
            return True
        node.jobs.add(job.id)
        job.nodes.add(node.id)
        return False

    def measure(self, node, job, tasks, seconds, size):
        # type: (Node, Job, int, float, int) -> None
        """This node has run so many tasks of the job in so many seconds; their results have so many bytes."""
        speed = job.speeds.get(node.id) or self._new_speed(node, job)
        if speed.seconds is None:
            job.proven.add(node.id)
        speed.measured(tasks, seconds, size)
        short = policy.is_worth_prefetching(speed)
        if short is not (job.id in node.short):
            _file(node.short, job.id, short)
            _file(job.short, node.id, short)
            self.file(node)
        self._worked(node, job, tasks, seconds)

    def weigh(self, lease, size):
        # type: (Lease, int) -> None
        """The arguments of this lease have so many bytes."""
        node, piece = lease.node, lease.piece
        speed = piece.job.speeds.get(node.id) or self._new_speed(node, piece.job)
        speed.weighed(piece.size, size)

    def failed(self, node, job, seconds):
        # type: (Node, Job, float) -> None
        """A task of the job raised there, after so many seconds. It says nothing of the time that others take."""
        job.proven.add(node.id)
        self._worked(node, job, 1 if seconds else 0, seconds)

    def _worked(self, node, job, tasks, seconds):
        # type: (Node, Job, int, float) -> None
        node.busy_seconds += seconds
        job.busy_seconds += seconds
        job.measured += tasks

    def _new_speed(self, node, job):
        # type: (Node, Job) -> Speed
        node.measured.add(job.id)
        job.speeds[node.id] = speed = Speed()
        return speed

    def exclude(self, node, job, why):
        # type: (Node, Job, dict) -> None
        """This node cannot run the job."""
        job.ineligible[node.id] = why
        node.ineligible.add(job.id)
        self.choosy.add(job)

    # -- pieces -----------------------------------------------------------------------------------

    def enqueue(self, piece):
        # type: (Piece) -> None
        """To be handed out next."""
        if piece.state is NEW:
            piece.job.places.put(piece)
        piece.job.awaited.pop(piece, None)
        self._queue(piece)

    def _queue(self, piece):
        # type: (Piece) -> None
        job = piece.job
        piece.state = PIECE_TRANSITIONS[piece.state]["queue"]
        job.pieces[piece] = None
        job.queued += piece.hi - piece.lo
        self.touched.add(job)

    def _dequeue(self, piece):
        # type: (Piece) -> None
        job = piece.job
        del job.pieces[piece]
        job.queued -= piece.hi - piece.lo

    def _await(self, piece, until):
        # type: (Piece, float) -> None
        piece.state = PIECE_TRANSITIONS[piece.state]["await"]
        piece.job.awaited[piece] = until

    def cut(self, job, size):
        # type: (Job, int) -> Piece
        """The next piece of at most ``size`` tasks, to be leased now."""
        if not job.pieces:
            piece = self._cut_next(job, min(job.cursor + size, job.limit))
            job.places.put(piece)
            return piece
        piece = next(reversed(job.pieces))
        if piece.size > size:
            rest = Piece(job, piece.lo + size, piece.hi, piece.deaths)
            self.move(piece, piece.lo, rest.lo)
            piece.shortened = piece.shortened or bool(piece.attempts)
            self.enqueue(rest)
        return piece

    def having(self, job, task):
        # type: (Job, int) -> Piece | None
        """The piece that has this task: it runs, is awaited or queued; None when it has an outcome."""
        while job.cursor <= task < job.total:
            self.enqueue(self._cut_next(job, task + 1))
        return job.places.having(task)

    def _cut_next(self, job, end):
        # type: (Job, int) -> Piece
        """What no node has had yet, from the cursor on and before ``end``, as far as it goes in one piece."""
        first, end = job.cursor, min(end, job.skips[-1][0] if job.skips else job.total)
        job.cursor = end
        job.queued -= end - first
        self._skip(job)
        return Piece(job, first, end)

    def move(self, piece, lo, hi):
        # type: (Piece, int, int) -> None
        """Less is left of it: the rest is delivered, given back, or runs elsewhere."""
        if piece.state is QUEUED:
            piece.job.queued -= piece.size - (hi - lo)
        piece.lo, piece.hi = lo, hi
        if piece.held:
            self._note_givers(piece)

    def divide(self, piece, end):
        # type: (Piece, int) -> None
        """The tasks before ``end`` are not what its attempt runs: they are queued, as a piece of their own."""
        before = Piece(piece.job, piece.lo, end, piece.deaths)
        self.move(piece, end, piece.hi)
        if not piece.job.stopped:
            self.enqueue(before)

    def deliver(self, piece, end, now):
        # type: (Piece, int, float) -> list
        """The tasks before ``end`` have their outcomes. What ``finish`` returns is returned."""
        piece.job.delivered += end - piece.lo
        return self.advance(piece, end, now)

    def advance(self, piece, end, now):
        # type: (Piece, int, float) -> list
        """The tasks before ``end`` are no longer its own. What ``finish`` returns is returned."""
        job = piece.job
        job.moved_at = now
        self.touched.add(job)
        if end < piece.hi:
            self.move(piece, end, piece.hi)
            return []
        return self.finish(piece, end)

    def give_back(self, piece, first):
        # type: (Piece, int) -> Piece | None
        """Its node has not started the tasks from ``first`` on. They are queued as a piece, which is returned."""
        if first >= piece.hi:
            return None
        rest = Piece(piece.job, first, piece.hi, piece.deaths, piece.exclusive)
        self.move(piece, piece.lo, first)
        piece.shortened = piece.shortened or len(piece.attempts) > 1
        if piece.job.stopped:
            return None
        self.enqueue(rest)
        return rest

    def finish(self, piece, lo=None):
        # type: (Piece, int | None) -> list
        """Nothing is left to run of it, from ``lo`` on: its attempts are over. Those that may go on are returned: they
        were given more tasks than it has now, or the same tasks as another one."""
        if piece.state is QUEUED:
            self._dequeue(piece)
        elif piece.state is AWAITED:
            del piece.job.awaited[piece]
        piece.state = PIECE_TRANSITIONS[piece.state]["finish"]
        if lo is not None:
            piece.lo = lo
        going_on = _held(piece) if piece.shortened or len(piece.attempts) > 1 else []
        for lease in list(piece.attempts):
            self.end(lease)
        self.touched.add(piece.job)
        return going_on

    def cancel(self, piece, task):
        # type: (Piece, int) -> list
        """No outcome is wanted for this task: the rest of its piece is queued. What ran it is returned."""
        job, held = piece.job, _held(piece)
        self.finish(piece)
        job.delivered += 1
        job.failures.pop(task, None)
        for lo, hi in ((task + 1, piece.hi), (piece.lo, task)):
            if lo < hi:
                self.enqueue(Piece(job, lo, hi, piece.deaths))
        return held

    # -- leases -----------------------------------------------------------------------------------

    def lease(self, piece, node, attempt, now):
        # type: (Piece, Node, int, float) -> Lease
        """A new attempt at the piece, which is new, queued, or has another lease: then this is its second copy."""
        if piece.state is QUEUED:
            self._dequeue(piece)
        piece.state = PIECE_TRANSITIONS[piece.state]["lease"]
        lease = Lease(attempt, piece, bool(piece.deaths) or piece.job.options.attempts_max == 1)
        self._adopt(lease, "lease")
        self._begin(lease, node, now)
        return lease

    def take_up(self, lease, node, now):
        # type: (Lease, Node, float) -> None
        """A lost attempt: this node has come back with it."""
        piece = lease.piece
        if piece.state is QUEUED:
            self._dequeue(piece)
        piece.job.awaited.pop(piece, None)
        piece.state = PIECE_TRANSITIONS[piece.state]["return"]
        lease.state = LEASE_TRANSITIONS[lease.state]["return"]
        lease.settled_at = None
        self._begin(lease, node, now)

    def _adopt(self, lease, what):
        # type: (Lease, str) -> None
        """This attempt may deliver for its piece. what: see LEASE_TRANSITIONS."""
        lease.state = LEASE_TRANSITIONS[lease.state][what]
        self.attempts[lease.attempt] = lease
        lease.piece.attempts.append(lease)

    def _begin(self, lease, node, now):
        # type: (Lease, Node, float) -> None
        piece, attempt = lease.piece, lease.attempt
        lease.node, lease.granted_at, lease.moved_at = node, now, now
        node.leases[attempt] = piece.job.leases[attempt] = lease
        piece.held += 1
        if piece.exclusive:
            node.exclusive += 1
            self.file_connection(node)
        self.file(node)
        self.touched.add(piece.job)

    def lose(self, lease):
        # type: (Lease) -> None
        """Its node is gone, or does not have it: the piece is queued, and late results of the attempt still count."""
        piece = lease.piece
        self._leave(lease)
        lease.state = LEASE_TRANSITIONS[lease.state]["lose"]
        if piece.job.stopped and not piece.held:
            self.finish(piece)
        elif not piece.held:
            self.enqueue(piece)

    def end(self, lease):
        # type: (Lease) -> None
        """This attempt delivers nothing any more."""
        if lease.node is not None:
            self._leave(lease)
        lease.state = LEASE_TRANSITIONS[lease.state]["end"]
        del self.attempts[lease.attempt]
        lease.piece.attempts.remove(lease)

    def _leave(self, lease):
        # type: (Lease) -> None
        """Its node does not have it any more."""
        node, piece, attempt = lease.node, lease.piece, lease.attempt
        lease.node = None  # type: ignore[assignment]
        piece.held -= 1
        del node.leases[attempt]
        del piece.job.leases[attempt]
        if piece.held:
            self._note_givers(piece)
        if lease.state is ASKED:
            del self.asked[lease]
        if piece.exclusive:
            node.exclusive -= 1
            self.file_connection(node)
        self.file(node)
        self.touched.add(piece.job)

    def ask_back(self, lease, until):
        # type: (Lease, float) -> None
        """Its node is asked for what it has not started of it; it has answered by then, or is stuck."""
        self.asked.pop(lease, None)  # then it is the last one again
        lease.state = LEASE_TRANSITIONS[lease.state]["ask"]
        lease.settled_at = until
        self.asked[lease] = None
        self.givers.note(lease.node)

    def answer(self, lease, now):
        # type: (Lease, float) -> None
        """Its node has said what it gives back."""
        self.asked.pop(lease, None)
        lease.state = LEASE_TRANSITIONS[lease.state]["answer"]
        lease.settled_at = now

    def may_be_asked(self, lease):
        # type: (Lease) -> None
        """It makes progress, or the question may have been lost with a connection."""
        if lease.state is not HELD:
            self.asked.pop(lease, None)
            lease.state = LEASE_TRANSITIONS[lease.state]["progress"]
            self.givers.note(lease.node)

    def asked_until(self, now):
        # type: (float) -> float | None
        """When the first of those that were asked, and may still answer, has answered or is stuck."""
        while self.asked:
            lease = next(iter(self.asked))
            if now < lease.settled_at:
                return lease.settled_at
            self.answer(lease, lease.settled_at)
        return None

    def to_take_back(self, now):
        # type: (float) -> Iterator[Lease]
        """Leases of which the idle slots may get something. Each is to be asked back before the next is taken."""
        for node in self._ripe_at.take(now):
            self.givers.note(node)
        return policy.to_take_back(self.givers, self.idle, self.idle_slots, now)

    def take_back_at(self):
        # type: () -> float | None
        """When more may be taken back, as far as the nodes were looked at."""
        return self._ripe_at.not_before()

    def _giving_key(self, node, now):
        # type: (Node, float) -> tuple | None
        lease, key, node.ripe_at = policy.to_give(node, now)
        self._ripe_at.note(node)
        return key if lease is not None else None

    def _note_givers(self, piece):
        # type: (Piece) -> None
        for lease in piece.attempts:
            if lease.node is not None:
                self.givers.note(lease.node)

    # -- for tests --------------------------------------------------------------------------------

    def validate(self):
        # type: () -> None
        """Every invariant: raises InternalError with the history of what broke."""
        for job in self.jobs.values():
            self._validate_job(job)
            self._validate_job_indexes(job)
        for node in self.nodes.values():
            self._validate_node(node)
        for attempt, lease in self.attempts.items():
            piece = lease.piece
            is_its_own = lease.attempt == attempt and lease in piece.attempts
            if not is_its_own or piece.job.id not in self.jobs or piece.state in (NEW, DONE):
                self._broken("attempt %d outlives its piece" % attempt, attempt)
            is_live = lease.state is not LOST
            if is_live != (lease.node is not None) or is_live != (piece.job.leases.get(attempt) is lease):
                self._broken("attempt %d is %s, and it is not" % (attempt, lease.state), attempt)
        self._validate_counts()

    def _validate_job(self, job):
        # type: (Job) -> None
        broken = self._broken
        if job.finished:
            broken("job %d is finished and still here" % job.id, job.id)
        leased = {lease.piece for lease in job.leases.values()}
        by_state = {QUEUED: list(job.pieces), AWAITED: list(job.awaited), LEASED: list(leased)}
        for state, pieces in by_state.items():
            if any(piece.state is not state for piece in pieces):
                broken("job %d has a piece that is not %s" % (job.id, state), job.id)
        if any(piece.held != len(piece.leases) for pieces in by_state.values() for piece in pieces):
            broken("job %d has a piece that does not know its leases" % job.id, job.id)
        uncut = 0 if job.stopped else job.total - job.cursor - sum(end - first for first, end in job.skips)
        queued = sum(piece.size for piece in by_state[QUEUED]) + uncut
        if queued != job.queued:
            broken("job %d counts %d queued tasks, and has %d" % (job.id, job.queued, queued), job.id)
        under_way = sum(piece.size for piece in by_state[LEASED] + by_state[AWAITED])
        if not job.stopped and queued + under_way + job.delivered != job.total:
            broken(
                "job %d: %d queued + %d leased + %d delivered is not %d"
                % (job.id, queued, under_way, job.delivered, job.total),
                job.id,
            )
        copied = sum(piece.size for piece in leased if piece.copied)
        if not copied <= job.copied <= (policy.copies_max(job) if job.options.idempotent else 0):
            broken("job %d has copies of %d tasks, and %d made" % (job.id, copied, job.copied), job.id)
        if not job.stopped:
            self._validate_places(job, set().union(*by_state.values()))

    def _validate_places(self, job, pieces):
        # type: (Job, set) -> None
        places = list(job.places)
        are_there = set(places) == pieces and len(places) == len(pieces)
        if not are_there or any(job.places.having(each.lo) is not each for each in places):
            self._broken("job %d does not find its pieces by their tasks" % job.id, job.id)

    def _validate_job_indexes(self, job):
        # type: (Job) -> None
        nodes, is_filed = list(self.nodes.values()), job not in self.touched
        short = {node_id for node_id, speed in job.speeds.items() if policy.is_worth_prefetching(speed)}
        for what, is_so in (
            ("in line", not is_filed or not job.ready or (job.turn, job) in self._line),
            ("where its tasks are short", job.short == short),
            ("where it was measured", set(job.speeds) == {node.id for node in nodes if job.id in node.measured}),
            ("where it cannot run", set(job.ineligible) == {node.id for node in nodes if job.id in node.ineligible}),
            ("where it is known", job.nodes == {node.id for node in nodes if job.id in node.jobs}),
            ("among those that may be copied", not is_filed or (job in self.copyable) == _may_be_copied(job)),
        ):
            if not is_so:
                self._broken("job %d is not %s" % (job.id, what), job.id)

    def _validate_node(self, node):
        # type: (Node) -> None
        for attempt, lease in node.leases.items():
            if lease.node is not node or self.attempts.get(attempt) is not lease:
                self._broken("lease %d of node %s is not its own" % (attempt, node.id), attempt)
            if (lease in self.asked) != (lease.state is ASKED):
                self._broken("lease %d of node %s is not where it is asked for" % (attempt, node.id), attempt)
        is_looked_at = self.givers.knows(node) or (node.ripe_at is not None and self._ripe_at.knows(node))
        if policy.to_give(node, float("inf"))[0] is not None and not is_looked_at:
            self._broken("node %s is not where it can give back" % node.id, node.id)
        if not (node.jobs | node.measured | node.short | node.ineligible).issubset(self.jobs):
            self._broken("node %s remembers jobs that are over" % node.id, node.id)
        if len(node.leases) > 2 * node.slots and node.connected and not node.draining:
            held = sum(1 for lease in node.leases.values() if lease.granted_at > node.heard_at)
            if held > 2 * node.slots:
                self._broken("node %s holds %d leases for %d slots" % (node.id, held, node.slots), node.id)
        is_open = node.serving and not node.exclusive
        if node.exclusive != sum(lease.piece.exclusive for lease in node.leases.values()):
            self._broken("node %s does not know its exclusive leases" % node.id, node.id)
        for what, index, belongs in (
            ("idle", self.idle, node.idle),
            ("roomy", self.roomy, is_open and len(node.leases) < 2 * node.slots and bool(node.short)),
        ):
            if (node in index) != belongs:
                self._broken("node %s is %s%s" % (node.id, "" if belongs else "not ", what), node.id)

    def _validate_counts(self):
        # type: () -> None
        nodes = list(self.nodes.values())
        leases = sum(len(node.leases) for node in nodes)
        here = {lease for node in nodes for lease in node.leases.values()}
        idle = sum(node.slots - len(node.leases) for node in nodes if node.idle)
        serving = [node.slots for node in nodes if node.serving]
        indexed = set(self.idle).union(self.roomy)
        for what, is_so in (
            ("a lease of no node", sum(len(job.leases) for job in self.jobs.values()) == leases),
            ("a lease that has ended and is asked for", here.issuperset(self.asked)),
            ("idle slots that it does not count", self.idle_slots == idle),
            ("slots of nodes that are gone", (self.slots, self.serving) == (sum(serving), len(serving))),
            ("a job that is gone", (self.copyable | self.choosy).issubset(self.jobs.values())),
            ("a draining node too many", self.draining == {node for node in nodes if node.draining}),
            ("a choosy job too many", self.choosy == {job for job in self.jobs.values() if job.ineligible}),
            ("a node that is gone", indexed.issubset(nodes)),
            ("a job that is at its end", not self.done),
        ):
            if not is_so:
                self._broken("the ledger has %s" % what, "ledger")


def _file(where, thing, belongs):
    # type: (set, object, bool) -> None
    if belongs:
        where.add(thing)
    else:
        where.discard(thing)


def _held(piece):
    # type: (Piece) -> list
    """The (node, attempt) of its leases."""
    return [(lease.node, lease.attempt) for lease in piece.leases]


def _may_be_copied(job):
    # type: (Job) -> bool
    """A second copy may run on another node: with ``attempts_max=1`` a task may not begin again whatever happens."""
    terms = job.options
    may_run = not (job.ready or job.stopped)
    return bool(terms.idempotent and terms.attempts_max > 1 and job.leases and may_run)


def _turn(job):
    # type: (Job) -> int
    return job.turn


def _ripe_at(node):
    # type: (Node) -> float | None
    return node.ripe_at


def _lo(piece):
    # type: (Piece) -> int
    return piece.lo

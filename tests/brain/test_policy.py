"""Chunk sizes, what is taken back, what is copied: of states made by hand. test_scheduler.py has the same in action."""
from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster.brain import indexes, policy
from minimalcluster.brain.leases import ASKED, DEFAULTS, HELD, KEPT, LEASED, Job, Lease, Node, Piece, Speed


def new_node(name, slots=1, job=None, seconds=None, size=0, count=1):
    node = Node(name, 1, slots, name, 0.0)
    if seconds is not None:
        job.speeds.setdefault(node.id, Speed()).measured(count, seconds * count, size * count)
    return node


def leased(job, node, lo, hi, attempt, now=0.0):
    piece = Piece(job, lo, hi)
    piece.state = LEASED
    return held(piece, node, attempt, now)


def held(piece, node, attempt, now=0.0):
    """One more lease of the piece, live."""
    node.leases[attempt] = piece.job.leases[attempt] = lease = Lease(attempt, piece, False)
    piece.attempts.append(lease)
    lease.node, lease.state, lease.granted_at, lease.moved_at = node, HELD, now, now
    piece.held += 1
    return lease


class ChunkSizeTest(unittest.TestCase):
    def setUp(self):
        self.job = Job(1, 10 ** 6, DEFAULTS, 0.0)

    def size(self, slots=1, **speed):
        return policy.chunk_size(new_node("a", job=self.job, **speed), self.job, slots)

    def test_one_to_measure(self):
        self.assertEqual(self.size(), 1)

    def test_by_time(self):
        self.assertEqual(self.size(seconds=policy.CHUNK_SECONDS / 10, count=100), 10)
        self.assertEqual(self.size(seconds=1.0), 1)

    def test_it_does_not_grow_too_fast(self):
        self.assertEqual(self.size(seconds=1e-6, count=3), 3 * policy.CHUNK_GROWTH)

    def test_longer_where_many_worker_processes_ask_one_master(self):
        self.job.queued = 10 ** 9
        for slots, seconds in ((100, policy.CHUNK_SECONDS), (8000, 4.0)):
            self.assertEqual(self.size(slots=slots, seconds=0.01, count=1000), round(seconds / 0.01))
            self.assertLessEqual(slots / policy.chunk_seconds(slots), policy.CHUNKS_PER_SECOND)

    def test_by_bytes(self):
        self.assertEqual(self.size(seconds=1e-6, count=1000, size=policy.CHUNK_BYTES // 7), 7)

    def test_near_the_end(self):
        self.job.queued = 40
        self.assertEqual(self.size(slots=4, seconds=0.002, count=1000), 5)
        self.job.closed = False
        self.assertEqual(self.size(slots=1, seconds=1e-6, count=1000), int(40 / policy.OPEN_JOB_SHARES))

    def test_row_83_not_even_near_the_end_is_a_chunk_smaller_than_a_millisecond(self):
        self.job.queued = 4000
        self.assertEqual(self.size(slots=40, seconds=1e-6, count=1), policy.CHUNK_GROWTH)  # it has not grown yet
        for slots, seconds in ((4, policy.CHUNK_SECONDS_MIN), (40, 0.005), (8000, 1.0)):  # nor than a master can serve
            self.assertEqual(self.size(slots=slots, seconds=1e-6, count=10 ** 6), int(round(seconds / 1e-6)))
        self.job.closed = False
        self.assertEqual(self.size(slots=40, seconds=1e-6, count=1000), 6)  # its next calls may be longer

    def test_by_hand(self):
        self.job.options = DEFAULTS._replace(chunksize=17)
        self.assertEqual(self.size(seconds=1.0), 17)

    def test_long_tasks_are_not_prefetched(self):
        for seconds, worth in ((None, False), (policy.PREFETCH_TASK_SECONDS, True), (1.0, False)):
            speed = Speed()
            speed.seconds = seconds
            self.assertEqual(policy.is_worth_prefetching(speed), worth)


class ExclusiveTest(unittest.TestCase):
    def test_the_node_with_the_least_to_do_runs_it(self):
        job = Job(1, 100, DEFAULTS, 0.0)
        nodes = [new_node(name) for name in "abcd"]
        for number, node in enumerate(nodes[:2]):
            leased(job, node, number, number + 1, attempt=number)
        self.assertIs(policy.emptiest(nodes[:3], job), nodes[2])
        job.ineligible["c"] = {}
        self.assertIs(policy.emptiest(nodes[:3], job).leases, nodes[0].leases)

    def test_what_waits_to_be_alone_goes_where_nothing_runs(self):
        job = Job(1, 100, DEFAULTS, 0.0)
        busy, idle = new_node("busy", slots=4), new_node("idle", slots=2)
        leased(job, busy, 0, 1, attempt=1)
        alone = leased(job, busy, 1, 2, attempt=2)
        alone.piece.exclusive = True
        self.assertIs(policy.to_give(busy, 1.0)[0], alone)
        self.assertTrue(policy._is_wanted(alone, [idle], {}))
        leased(job, idle, 2, 3, attempt=3)
        self.assertFalse(policy._is_wanted(alone, [idle], {}))


class TakeBackTest(unittest.TestCase):
    def setUp(self):
        self.job = Job(1, 100, DEFAULTS, 0.0)
        self.busy, self.idle = new_node("busy", job=self.job, seconds=1.0), new_node("idle")
        self.nodes = [self.busy, self.idle]
        self.running = leased(self.job, self.busy, 0, 1, attempt=1)
        self.waiting = leased(self.job, self.busy, 1, 9, attempt=2)

    def taken(self, now=1.0):
        """(leases of which the idle slots get something, when there may be more)"""
        givers, found = indexes.Best(lambda node, now: policy.to_give(node, now)[1] or None), []
        for node in self.nodes:
            givers.note(node)
        idle = [node for node in self.nodes if node.idle]
        for lease in policy.to_take_back(givers, idle, sum(node.slots - len(node.leases) for node in idle), now):
            found.append(lease)
            lease.state = ASKED
            givers.note(lease.node)
        ripe_at = [policy.to_give(node, now)[2] for node in self.nodes if idle]
        return found, min([moment for moment in ripe_at if moment is not None] or [None])

    def test_what_waits(self):
        self.assertEqual(self.taken(), ([self.waiting], None))

    def test_not_at_once(self):
        self.assertEqual(self.taken(0.0), ([], policy.TAKE_BACK_SECONDS))

    def test_not_for_nobody(self):
        leased(self.job, self.idle, 9, 10, attempt=3)
        self.assertEqual(self.taken(), ([], None))

    def test_not_more_than_the_idle_slots(self):
        leased(self.job, self.busy, 9, 12, attempt=3)
        self.assertEqual(self.taken(), ([self.waiting], None))  # it has more to give

    def test_the_rest_of_a_running_chunk(self):
        del self.busy.leases[2]
        self.assertEqual(self.taken(), ([], None))
        self.running.piece.hi = 2
        self.assertEqual(self.taken(), ([self.running], None))

    def test_what_cannot_be_asked_for(self):
        def revoked():
            self.waiting.state = KEPT

        def away():
            self.busy.connected = False

        def ineligible():
            self.job.ineligible["idle"] = {}

        def copied():
            self.waiting.piece.copied = True
            self.waiting.piece.held = 2

        for change in (revoked, away, ineligible, copied):
            self.setUp()
            change()
            self.assertEqual(self.taken(), ([], None), change.__name__)


class CopiesTest(unittest.TestCase):
    def setUp(self):
        self.job = Job(1, 30, DEFAULTS._replace(idempotent=True), 0.0)
        self.slow, self.fast = new_node("slow", job=self.job, seconds=9.0), new_node("fast", job=self.job, seconds=1.0)
        self.nodes = [self.slow, self.fast]
        self.late = leased(self.job, self.slow, 0, 1, attempt=1)

    def copies(self, now=0.0):
        return policy.to_copy(self.job, [node for node in self.nodes if node.idle], now)

    def test_what_another_node_has_done_much_earlier(self):
        self.assertEqual(self.copies(), ([(self.late, self.fast)], None))

    def test_not_when_it_is_nearly_done(self):
        due = self.late.moved_at + 9.0
        self.assertEqual(self.copies(8.0), ([], due))
        self.assertEqual(self.copies(due), ([(self.late, self.fast)], None))

    def test_the_oldest_first_and_one_for_each_idle_slot(self):
        younger = leased(self.job, self.slow, 1, 2, attempt=2, now=1.0)
        self.slow.slots = 2
        self.assertEqual(self.copies(2.0)[0], [(self.late, self.fast)])
        self.fast.slots = 2
        self.assertEqual(self.copies(2.0)[0], [(self.late, self.fast), (younger, self.fast)])

    def test_not_more_than_a_tenth_of_the_tasks(self):
        self.assertEqual(policy.copies_max(self.job), 3)
        self.assertEqual(policy.copies_max(Job(2, 5, DEFAULTS, 0.0)), 1)
        self.job.copied = 3
        self.assertEqual(self.copies()[0], [])

    def test_on_its_own_node_only_if_there_is_no_other(self):
        self.slow.slots = 2
        self.job.speeds["slow"].measured(1, 0.001, 0)
        del self.nodes[1]
        self.assertEqual(self.copies(20.0)[0], [(self.late, self.slow)])

    def test_what_is_not_copied(self):
        def had_one():
            self.late.piece.copied = True

        def suspected():
            self.late.piece.deaths = ["a death"]

        def ineligible():
            self.job.ineligible["fast"] = {}

        def unstarted():
            self.late.piece.hi = 2

        def nothing_to_compare_with():
            self.job.speeds.clear()

        for change in (had_one, suspected, ineligible, unstarted, nothing_to_compare_with):
            self.setUp()
            change()
            self.assertEqual(self.copies(99.0), ([], None), change.__name__)

    def test_of_what_gives_nothing_back_all_is_copied(self):
        self.late.piece.hi = 2
        self.late.settled_at = 5.0
        self.assertEqual(self.copies(5.0)[0], [(self.late, self.fast)])

    def test_on_the_node_that_has_it_done_first(self):
        self.nodes.append(new_node("fastest", job=self.job, seconds=0.5))
        self.assertEqual(self.copies()[0], [(self.late, self.nodes[2])])
        leased(self.job, self.nodes[2], 5, 6, attempt=9)
        self.assertEqual(self.copies()[0], [(self.late, self.fast)])
        self.nodes.append(new_node("unknown", job=self.job))  # as fast as the middle one of the others
        self.fast.slots = 0
        self.assertEqual(self.copies()[0], [(self.late, self.nodes[3])])


if __name__ == "__main__":
    unittest.main()

"""The ledger: each index against what it is made from, and what a pass costs, counted in steps."""
from __future__ import absolute_import, division, print_function

import sys
import unittest
from random import Random

from minimalcluster.brain import indexes, leases, ledger, policy, scheduler as s, status
from minimalcluster.errors import InternalError
from minimalcluster.brain.leases import DEFAULTS, DONE
from tests.support import only
from tests.brain.test_scheduler import ONE, Master

#: n log n, with room for what is rounded: ten times as much work may take so many times the steps.
LINEAR = 15


def steps(function, *arguments):
    """Lines of the brain's code that this call runs: what it costs, whatever else the machine does."""
    files = {module.__file__.replace(".pyc", ".py") for module in (indexes, leases, ledger, policy, s, status)}
    count = [0]

    def local(frame, event, argument):
        count[0] += event == "line"
        return local

    before = sys.gettrace()
    sys.settrace(lambda frame, event, argument: local if frame.f_code.co_filename in files else None)
    try:
        function(*arguments)
    finally:
        sys.settrace(before)
    return count[0]


class ValidateTest(unittest.TestCase):
    """Each index, made wrong by hand: ``validate`` must find it."""

    def setUp(self):
        self.master = Master()
        for node in "ab":
            self.master.join(node)
        self.master.submit(90, DEFAULTS._replace(chunksize=3, idempotent=True))
        self.first, self.second = self.master.grants()
        self.master.done(self.first, 1)
        self.ledger = self.master.brain._ledger
        self.job, = self.ledger.jobs.values()
        self.a, self.b = self.ledger.nodes.values()
        self.lease, = self.a.leases.values()

    def breaks(self):
        """(name, change) of each."""
        book, job, a, b = self.ledger, self.job, self.a, self.b
        return (
            ("line", book._line.pop),
            ("idle", lambda: book.idle.file(a, True)),
            ("roomy", lambda: book.roomy.file(a, False)),
            ("givers", lambda: book.givers.drop(a)),
            ("idle slots", lambda: setattr(book, "idle_slots", 3)),
            ("exclusive", lambda: setattr(a, "exclusive", 1)),
            ("slots", lambda: setattr(book, "slots", 3)),
            ("ended, asked", lambda: book.asked.update({None: None})),
            ("copyable", lambda: book.copyable.add(job)),
            ("gone, copyable", lambda: book.copyable.add(None)),
            ("short on the node", lambda: job.short.add("b")),
            ("speeds", lambda: job.speeds.pop("a")),
            ("measured", lambda: b.measured.add(job.id)),
            ("ineligible", lambda: b.ineligible.add(job.id)),
            ("known", lambda: b.jobs.clear()),
            ("over", lambda: a.short.add(99)),
            ("leases", lambda: job.leases.popitem()),
            ("attempts", lambda: self.lease.piece.attempts.pop()),
            ("places", lambda: setattr(self.lease.piece, "state", DONE)),
            ("order of places", lambda: job.places._blocks[0].reverse()),
        )

    def test_every_index_is_compared(self):
        for number, (name, _) in enumerate(self.breaks()):
            self.setUp()
            self.master.brain.validate()
            self.breaks()[number][1]()
            with self.assertRaises(InternalError):
                self.master.brain.validate()
                self.fail(name)

    def test_what_is_due_too_early(self):
        def not_explained():
            self.job.explain_at = self.job.moved_at = 0.0

        def not_lost():
            self.a.heard_at = 0.0

        for change in (not_explained, not_lost):
            self.setUp()
            change()
            with self.assertRaises(InternalError):
                self.master.brain.validate()


class StepsTest(unittest.TestCase):
    """What was quadratic: ten times as much may take some ten times the steps; what is not touched costs nothing."""

    def setUp(self):
        self.master = Master()

    def joined(self, count, slots=2):
        self.master = Master()
        brain = self.master.brain
        for number in range(count):
            self.master.sessions[number] = number + 1
            brain.handle(s.NodeJoined(number, number + 1, slots, "n%d" % number, []), 100.0)
        return brain

    def grows(self, cost, few, most=LINEAR):
        self.assertLess(cost(10 * few), most * cost(few))

    def test_row_81_a_sign_of_life_costs_the_same_whatever_there_is(self):
        def cost(count):
            brain = self.joined(count)
            for job in range(count):
                brain.handle(s.JobSubmitted(job, None, DEFAULTS), 100.0)
            brain.handle(s.TimePassed(), 100.0)
            brain.deadline()

            def beats():
                for number in range(count):  # each once: what was put off is noticed in time
                    brain.handle(s.NodeHeard(number, number + 1), 101.0)
                    brain.handle(s.TimePassed(), 101.0)
                    brain.deadline()

            return steps(beats) / count

        self.assertLess(cost(300), 1.5 * cost(30))

    def test_row_81_nor_do_jobs_that_run_cost_more_beside_others(self):
        def cost(count):
            brain = self.joined(count)
            for job in range(count):
                brain.handle(s.JobSubmitted(job, None, DEFAULTS), 100.0)
            brain.handle(s.JobSubmitted(-1, 10 ** 6, ONE), 100.0)
            grants = only(s.Grant, brain.handle(s.TimePassed(), 100.0))

            def work():
                for grant in grants[:20]:
                    done = s.TasksDone(grant.node, grant.node + 1, grant.attempt, grant.first, 1, 0.5, [b"x"])
                    brain.handle(done, 100.5)
                    brain.handle(s.TimePassed(), 100.5)
                    brain.deadline()

            return steps(work)

        self.assertLess(cost(300), 1.5 * cost(30))

    def test_row_80_second_copies_at_the_end_of_a_job(self):
        def cost(count):
            brain = self.joined(count)
            brain.handle(s.JobSubmitted(1, count, DEFAULTS._replace(idempotent=True)), 100.0)
            grants = only(s.Grant, brain.handle(s.TimePassed(), 100.0))
            for grant in grants[: count // 10]:
                done = s.TasksDone(grant.node, grant.node + 1, grant.attempt, grant.first, 1, 30.0, [b"x"])
                brain.handle(done, 101.0)
            return steps(brain.handle, s.TimePassed(), 102.0)

        self.grows(cost, 20)

    def test_row_80_nothing_is_looked_at_again_before_something_has_changed_or_is_due(self):
        brain = self.joined(50)
        brain.handle(s.JobSubmitted(1, 50, DEFAULTS._replace(idempotent=True)), 100.0)
        grant = only(s.Grant, brain.handle(s.TimePassed(), 100.0))[0]
        brain.handle(s.TasksDone(grant.node, grant.node + 1, grant.attempt, 0, 1, 1.0, [b"x"]), 101.0)
        first = steps(brain.handle, s.TimePassed(), 101.0)
        self.assertLess(steps(brain.handle, s.TimePassed(), 101.1), first / 10)
        self.assertEqual(len(only(s.Grant, brain.handle(s.TimePassed(), brain.deadline()))), policy.copies_max(brain._jobs[1]))

    def test_row_80_taking_back(self):
        def cost(count):
            brain = self.joined(count)
            brain.handle(s.JobSubmitted(1, 10 * count, DEFAULTS._replace(chunksize=10)), 100.0)
            brain.handle(s.TimePassed(), 100.0)
            return steps(brain.handle, s.TimePassed(), 101.0)

        self.grows(cost, 20)

    def end_of_a_job(self, count, options):
        """(the brain, its grants) when nothing is queued any more and each node has prefetched."""
        brain = self.joined(count)
        brain.handle(s.JobSubmitted(1, 5 * count, options), 100.0)
        queue = only(s.Grant, brain.handle(s.TimePassed(), 100.0))
        for grant in queue[:count]:
            done = s.TasksDone(grant.node, grant.node + 1, grant.attempt, grant.first, 1, 0.05, [b"x"])
            brain.handle(done, 100.1)
        queue = queue[count:] + only(s.Grant, brain.handle(s.TimePassed(), 100.1))
        self.assertEqual(5 * count, count + len(queue))
        return brain, queue

    def test_row_80_a_result_at_the_end_of_a_job_costs_the_same_on_many_nodes(self):
        def cost(count, options):
            brain, queue = self.end_of_a_job(count, options)
            now = [100.1]

            def work(grants):
                for grant in grants:
                    now[0] += 0.001
                    if grant.attempt in brain._attempts:
                        done = s.TasksDone(grant.node, grant.node + 1, grant.attempt, grant.first, 1, 0.05, [b"x"])
                        brain.handle(done, now[0])
                    brain.handle(s.TimePassed(), now[0])

            work(queue[:1])  # each node is looked at once
            return steps(work, queue[1:60])

        for options in (ONE, ONE._replace(idempotent=True)):
            self.assertLess(cost(1000, options), 3 * cost(100, options), options)

    def test_row_81_jobs_that_wait_cost_no_look_at_all_nodes(self):
        def cost(count):
            brain = self.joined(count, 1)
            for job in range(20 + count):
                brain.handle(s.JobSubmitted(job, 10, ONE), 100.0)
            brain.handle(s.TimePassed(), 100.0)
            brain.handle(s.TimePassed(), 102.0)  # all are explained

            def wait():
                for number in range(200):
                    brain.handle(s.TimePassed(), 102.0 + 0.02 * number)

            return steps(wait) / (20.0 + count)

        self.assertLess(cost(300), 2 * cost(30))

    def test_row_81_a_job_that_waits_for_an_idle_slot_is_not_offered_to_every_node(self):
        def cost(count):
            brain = self.joined(count, 4)
            brain.handle(s.JobSubmitted(1, 10 ** 6, ONE), 100.0)
            queue = only(s.Grant, brain.handle(s.TimePassed(), 100.0))
            now = [100.0]

            def work(grants):
                for grant in grants:
                    now[0] += 0.001
                    done = s.TasksDone(grant.node, grant.node + 1, grant.attempt, grant.first, 1, 0.01, [b"x"])
                    brain.handle(done, now[0])
                    queue.extend(only(s.Grant, brain.handle(s.TimePassed(), now[0])))

            work(queue[: 4 * count])  # each node is measured, and has its prefetch
            brain.handle(s.JobSubmitted(2, 10 ** 6, ONE), now[0])
            work(queue[4 * count : 7 * count])  # each has room for more, and this job's prefetch waits for the other job
            return steps(work, queue[7 * count : 7 * count + 20])

        self.assertLess(cost(300), 1.5 * cost(30))

    def test_row_81_nodes_that_cannot_run_a_job(self):
        def cost(count):
            brain = self.joined(count, 1)
            brain.handle(s.JobSubmitted(1, count, ONE), 100.0)
            grants = only(s.Grant, brain.handle(s.TimePassed(), 100.0))

            def refuse():
                for grant in grants[:-1]:
                    event = s.AttemptUnfit(grant.node, grant.node + 1, grant.attempt, grant.first, {"text": "no"})
                    brain.handle(event, 100.0)

            return steps(refuse)

        self.grows(cost, 30)

    def test_row_82_a_journal_with_many_gaps_in_any_order_and_many_attempts(self):
        def cost(gaps):
            brain = self.joined(1)
            brain.handle(s.JobSubmitted(1, 2 * gaps, DEFAULTS), 100.0)
            done = [(n, n + 1) for n in range(0, 2 * gaps, 2)]
            Random(1).shuffle(done)
            attempts = [(n, first, first + 3) for n, (first, _) in enumerate(done)]
            return steps(brain.handle, s.JobResumed(1, done, attempts), 100.0)

        self.grows(cost, 100)

    def test_row_82_tasks_cancelled_in_any_order(self):
        def cost(count):
            brain = self.joined(1)
            brain.handle(s.JobSubmitted(1, count, DEFAULTS), 100.0)
            order = list(range(count))
            Random(1).shuffle(order)

            def cancel():
                for task in order:
                    brain.handle(s.TaskCancelled(1, task), 100.0)

            spent = steps(cancel)
            self.assertEqual(brain.snapshot()["jobs"], [])
            return spent

        self.grows(cost, 100, 20)

    def test_row_83_status_of_many_jobs_on_many_nodes(self):
        def cost(count):
            brain = self.joined(count)
            for job in range(count):
                brain.handle(s.JobSubmitted(job, 10 * count, DEFAULTS), 100.0)
            brain.handle(s.TimePassed(), 100.0)
            return steps(brain.status, 103.0)

        self.grows(cost, 20)


if __name__ == "__main__":
    unittest.main()

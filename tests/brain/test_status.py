"""What a job waits for, said in words: from the real scheduler, under a hand-held clock."""
from __future__ import absolute_import, division, print_function

import re
import unittest

from minimalcluster.brain import scheduler as s
from minimalcluster.brain.status import ClusterStatus, JobStatus
from tests.support import only
from tests.brain.test_scheduler import JOB, ONE, Master


class WaitTest(unittest.TestCase):
    def setUp(self):
        self.master = Master()

    def start(self, total, nodes=("a",), slots=1):
        for node in nodes:
            self.master.join(node, slots)
        self.master.submit(total, ONE)
        return self.master.grants()

    def pass_time(self, seconds, silent=()):
        """Time passes with heartbeats, as far as the deadlines; what is explained meanwhile."""
        end, said = self.master.now + seconds, []
        while self.master.now < end:
            due = self.master.brain.deadline()
            self.master.now = min([end, self.master.now + 2.0] + ([] if due is None else [due]))
            for node in list(self.master.brain._nodes):
                if node not in silent and self.master.brain._nodes[node].connected:
                    self.master.say(s.NodeHeard, node)
            said += only(s.Explain, self.master.tick())
        return [effect.text for effect in said]

    def status(self, job=JOB):
        return dict(self.master.brain.status(self.master.now))[job]

    def said_and_told(self, seconds=3.0, **named):
        """The one thing that is said, which is also in the status."""
        said = self.pass_time(seconds, **named)
        self.assertEqual(len(said), 1)
        self.assertEqual(re.sub("[0-9]+ s", "N s", self.status().why), re.sub("[0-9]+ s", "N s", said[0]))
        return said[0]

    def test_no_node(self):
        self.start(5, nodes=())
        self.assertEqual(self.said_and_told(), "5 tasks wait: no node is connected; they go on when one joins")

    def test_all_nodes_leave(self):
        self.master.join("a")
        self.master.say(s.NodeDraining, "a")
        self.master.submit(5, ONE)
        self.assertIn("5 tasks wait: all nodes are leaving", self.said_and_told())

    def test_row_51_an_argument_on_a_slow_link(self):
        grant = self.start(1)[0]
        self.master.say(s.LinkBusy, "a", (("attempt", grant.attempt, 30 * 10**6, 40 * 10**6),), 0)
        self.assertEqual(self.said_and_told(), "1 tasks wait for what is on its way: 30.0 MB of 40.0 MB sent to node a")

    def test_row_51_a_definition_and_a_shared_object_on_a_slow_link(self):
        self.start(1)
        for kind, number in (("job", JOB), ("", 0)):
            self.master.say(s.LinkBusy, "a", ((kind, number, 10**6, 2 * 10**6),), 0)
            self.pass_time(3.0)
            self.assertIn("1.0 MB of 2.0 MB sent to node a", self.status().why)

    def test_row_51_a_result_on_a_slow_link(self):
        self.start(1)
        self.master.say(s.LinkBusy, "a", (), 12500000)
        self.assertEqual(self.said_and_told(), "1 tasks wait for what is on its way: 12.5 MB of a result have come from node a")

    def test_row_51_what_is_on_its_way_for_another_job_is_no_reason(self):
        self.start(1)
        for moving in (("attempt", 77, 1, 2), ("job", JOB + 1, 1, 2)):
            self.master.say(s.LinkBusy, "a", (moving,), 0)
            self.pass_time(3.0)
            self.assertNotIn("on its way", self.status().why)

    def test_row_51_a_link_that_is_made_anew_has_nothing_on_its_way(self):
        grant = self.start(1)[0]
        self.master.say(s.LinkBusy, "a", (("attempt", grant.attempt, 1, 2),), 3)
        self.master.say(s.NodeDisconnected, "a")
        self.master.join("a", held=[grant.attempt])
        self.pass_time(3.0)
        self.assertNotIn("on its way", self.status().why)

    def test_a_task_waits_for_a_node_of_its_own(self):
        grants = self.start(2, nodes=("a",), slots=2)
        self.master.submit(50, ONE, job=JOB + 1)
        self.master.done(grants[1])
        self.master.tick()
        self.master.say(s.AttemptDied, "a", grants[0].attempt, 0, {"memory": True})
        self.master.tick()
        self.assertIn("wait for a node that does nothing else", self.said_and_told())

    def test_no_node_can_run_them(self):
        first, second = self.start(4, nodes=("a", "b"))
        self.master.done(second)
        self.master.unfit(first)
        self.master.say(s.NodeLeft, "b")
        self.assertIn("no node that can run them (a: no numpy)", self.said_and_told())

    def test_a_former_masters_nodes(self):
        self.master.submit(100)
        self.master.do(s.JobResumed(JOB, [(0, 98)], [(77, 98, 100)]))
        self.assertIn("2 tasks may still run on nodes of the former master", self.said_and_told())

    def test_a_silent_node(self):
        self.start(1)
        self.assertEqual(
            self.said_and_told(8.5, silent=("a",)),
            "1 tasks are on nodes that are silent: a (for 6 s); given up after 10 s, they run elsewhere",
        )

    def test_worker_processes_that_start_or_cannot(self):
        self.start(1)
        self.master.say(s.NodeStarting, "a", 1, "")
        self.assertEqual(self.said_and_told(), "worker processes are still starting on a")
        self.master.say(s.NodeStarting, "a", 1, "exit code 1: no room")
        self.assertEqual(self.status().why, "worker processes cannot start: a: exit code 1: no room")
        self.master.say(s.NodeStarting, "a", 0, "")
        self.assertIn("1 tasks run on a", self.status().why)

    def test_other_jobs_have_all_worker_processes(self):
        self.start(1, slots=2, nodes=("a",))
        self.master.submit(1, ONE, job=8)
        self.master.tick()
        self.master.submit(3, ONE, job=9)
        self.assertEqual(
            self.pass_time(3.0),
            ["3 tasks wait: all 2 worker processes that can run them are busy with other jobs, for 2 s"],
        )
        self.assertIn("busy with other jobs, for 3 s", self.status(9).why)

    def test_tasks_that_run_for_long_are_worth_a_word_after_a_minute_then_ever_more_rarely(self):
        self.start(3, nodes=("a", "b"))
        self.assertEqual(self.pass_time(s.EXPLAIN_RUNNING_SECONDS - 1), [])
        self.assertEqual(self.status().why, "2 tasks run on a, b, the oldest for 59 s")
        self.assertEqual(self.pass_time(2.0), ["2 tasks run on a, b, the oldest for 60 s"])
        self.assertEqual(len(self.pass_time(3600.0)), 5)  # after 2, 4, 8, 16 and 32 minutes

    def test_a_job_that_goes_on_explains_nothing(self):
        grants = self.start(9)
        for _ in range(8):
            self.assertEqual(self.pass_time(1.5), [])
            self.assertEqual(self.status().why, "")
            self.master.done(grants[0])
            grants = self.master.grants()
        self.assertEqual(self.status().done, 8)

    def test_a_job_that_has_nothing_to_do_asks_who_knows_why_and_rarely(self):
        self.master.join("a")
        self.master.submit(None)
        asked = []
        for _ in range(1000):
            self.master.say(s.NodeHeard, "a")
            effects = self.master.tick(1.0)
            asked += [self.master.now - 100.0] * len(only(s.Idle, effects))
        self.assertEqual(asked, [2.0, 62.0, 182.0, 422.0, 902.0])
        self.master.do(s.JobGrew(JOB, 1, False))
        grant, = self.master.grants()
        self.assertEqual(only(s.Finish, self.master.done(grant)), [])
        self.assertEqual(self.pass_time(5.0), [])

    def test_at_most_five_nodes_are_named(self):
        self.start(7, nodes="abcdefg")
        self.pass_time(3.0)
        self.assertIn("7 tasks run on a, b, c, d, e and 2 more, the oldest for 3 s", self.status().why)


class StatusTest(unittest.TestCase):
    def test_numbers(self):
        master = Master()
        master.join("a", 2)
        master.submit(20, ONE._replace(idempotent=True))
        grants = master.grants()
        for _ in range(4):
            master.now += 1.0
            master.done(grants[0], seconds=1.0)
            master.failed(grants[1])
            grants = master.grants()
        told = dict(master.brain.status(master.now))[JOB]
        self.assertEqual(told[:8], ("", 20, 8, 4, 2, 10, 0, 4.0))
        self.assertAlmostEqual(told.left_seconds, 12 * (4 * 1.01 / 8) / 2)

    def test_as_text(self):
        job = JobStatus("f", 100, 40, 2, 4, 56, 0, 3.0, 4.49, "")
        self.assertEqual(str(job), "f: 40 of 100 tasks done, 2 failed, 4 running, 56 queued, about 4.49 s left")
        waiting = JobStatus("g", 5, 0, 0, 0, 5, 0, 3.0, None, "5 tasks wait")
        self.assertEqual(str(waiting), "g: 0 of 5 tasks done, 5 queued; 5 tasks wait")
        self.assertEqual(
            str(ClusterStatus(2, 8, (waiting,))),
            "nodes: 2, worker processes: 8, jobs: 1\n  g: 0 of 5 tasks done, 5 queued; 5 tasks wait",
        )


if __name__ == "__main__":
    unittest.main()

"""The master's brain, rule by rule: events in, effects out; every invariant checked after each."""
from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster.brain import policy
from minimalcluster.brain import scheduler as s
from minimalcluster.errors import InternalError
from minimalcluster.brain.leases import DEFAULTS
from tests.support import only

JOB = 7
ONE = DEFAULTS._replace(chunksize=1)


class Master(object):
    """A scheduler under a hand-held clock. Every method returns the effects."""

    def __init__(self, epoch=1):
        self.brain = s.Scheduler(epoch)
        self.now = 100.0
        self.sessions = {}
        self.next_session = 1

    def do(self, event):
        effects = self.brain.handle(event, self.now)
        self.brain.validate()
        return effects

    def tick(self, seconds=0.0):
        self.now += seconds
        return self.do(s.TimePassed())

    def submit(self, total, options=ONE, job=JOB):
        return self.do(s.JobSubmitted(job, total, options))

    def join(self, node, slots=1, held=(), name=None):
        self.sessions[node] = self.next_session
        self.next_session += 1
        effects = self.do(s.NodeJoined(node, self.sessions[node], slots, name or node, list(held)))
        return [effect for effect in effects if type(effect) is not s.Admit]

    def say(self, kind, node, *fields):
        return self.do(kind(node, self.sessions[node], *fields))

    def grants(self, seconds=0.0):
        return only(s.Grant, self.tick(seconds))

    def done(self, grant, count=None, first=None, seconds=0.01, node=None, size=1):
        first = grant.first if first is None else first
        count = grant.count if count is None else count
        return self.say(s.TasksDone, node or grant.node, grant.attempt, first, count, seconds, [b"x" * size])

    def failed(self, grant, first=None, node=None):
        first = grant.first if first is None else first
        return self.say(s.TaskFailed, node or grant.node, grant.attempt, first, 0.01, {"text": "no"}, [])

    def died(self, grant, first=None, how="signal 9"):
        first = grant.first if first is None else first
        return self.say(s.AttemptDied, grant.node, grant.attempt, first, {"exit": how})

    def released(self, grant, first):
        return self.say(s.AttemptReleased, grant.node, grant.attempt, first)

    def unfit(self, grant):
        return self.say(s.AttemptUnfit, grant.node, grant.attempt, grant.first, {"text": "no numpy"})

    def lose(self, node):
        """Its connection breaks and it does not come back in time."""
        self.say(s.NodeDisconnected, node)
        return self.tick(s.RECONNECT_SECONDS)


def spans(grants):
    return [(grant.first, grant.first + grant.count) for grant in grants]


class SchedulerTest(unittest.TestCase):
    def setUp(self):
        self.master = Master()

    def start(self, total, options=ONE, slots=1, nodes=("a",)):
        for node in nodes:
            self.master.join(node, slots)
        self.master.submit(total, options)
        return self.master.grants()

    def take_by_two(self):
        """From now on its chunks have two tasks, as those of a slower node would."""
        job, = self.master.brain._jobs.values()
        job.options = job.options._replace(chunksize=2)


class JobsTest(SchedulerTest):
    def test_a_task_is_granted_delivered_and_the_job_finished(self):
        self.master.join("a")
        self.master.submit(1)
        effects = self.master.tick()
        self.assertEqual([type(effect) for effect in effects], [s.Define, s.Grant])
        grant = effects[1]
        self.assertEqual(grant[:2] + grant[3:], ("a", JOB, 0, 1, False, False))
        effects = self.master.done(grant)
        self.assertEqual(effects, [s.Deliver(JOB, 0, 1, 0, [b"x"]), s.Forget("a", JOB), s.Finish(JOB, None)])
        self.assertEqual(self.master.brain.snapshot()["jobs"], [])

    def test_a_job_is_defined_once_a_session(self):
        first, = self.start(3)
        self.master.done(first)
        self.assertEqual([type(effect) for effect in self.master.tick()], [s.Grant, s.Grant])  # and a prefetch
        self.master.join("a")
        self.assertEqual(len(only(s.Define, self.master.tick())), 1)

    def test_an_empty_job_finishes_at_once(self):
        self.assertEqual(self.master.submit(0), [s.Finish(JOB, None)])

    def test_row_38_a_job_is_cut_up_to_its_limit_and_what_it_has_counts(self):
        self.master.join("a")
        self.master.submit(3)
        first, = self.master.grants()
        self.master.do(s.JobGrew(JOB, 3, True, 1))
        self.assertEqual(self.master.done(first), [s.Deliver(JOB, 0, 1, 0, [b"x"])])
        self.assertEqual(self.master.grants(), [])
        self.assertEqual(self.master.tick(3.0), [s.Idle(JOB)])  # the shell may say why
        self.master.submit(1, job=8)
        other, = self.master.grants()
        self.assertEqual(other.job, 8)
        self.master.done(other)
        self.master.do(s.JobGrew(JOB, 3, True, 2))
        self.assertEqual([(each.job, each.first) for each in self.master.grants()], [(JOB, 1)])
        self.master.do(s.JobGrew(JOB, 3, True))
        self.assertEqual([(each.job, each.first) for each in self.master.grants()], [(JOB, 2)])
        self.assertEqual(self.master.do(s.JobGrew(99, 3, True, 1)), [])  # it may be over by then

    def test_a_chunk_ends_at_the_limit(self):
        self.master.join("a")
        self.master.submit(10, DEFAULTS._replace(chunksize=4))
        self.master.do(s.JobGrew(JOB, 10, True, 6))
        first, = self.master.grants()
        self.master.done(first)
        self.assertEqual(spans(self.master.grants()), [(4, 6)])

    def test_what_was_cut_once_is_not_held_back(self):
        first, other = self.start(9, DEFAULTS._replace(chunksize=2), nodes=("a", "b"))
        self.master.do(s.JobGrew(JOB, 9, True, 4))
        self.master.done(other)
        self.master.say(s.NodeLeft, "a")
        self.assertEqual(spans(self.master.grants()), [(0, 2)])  # the reader may wait for just this
        self.master.do(s.JobGrew(JOB, 9, True, 0))
        self.master.say(s.NodeLeft, "b")
        self.master.join("c")
        self.assertEqual(spans(self.master.grants()), [(0, 2)])

    def test_below_its_limit_idle_nodes_take_tasks_of_busy_ones(self):
        self.master.join("a")
        self.master.submit(20, DEFAULTS._replace(chunksize=10))
        self.master.do(s.JobGrew(JOB, 20, True, 10))
        self.master.tick()
        self.master.join("b")
        self.assertEqual(len(only(s.Revoke, self.master.tick(5.0))), 1)

    def test_a_job_submitted_twice_is_our_defect(self):
        self.master.submit(1)
        with self.assertRaises(InternalError) as caught:
            self.master.submit(1)
        self.assertIn("submitted", str(caught.exception))  # the history

    def test_a_growing_job_ends_when_it_is_closed(self):
        self.master.join("a")
        self.master.submit(None)
        self.assertEqual(self.master.grants(), [])
        self.master.do(s.JobGrew(JOB, 2, False))
        grant, = self.master.grants()
        self.master.done(grant)
        grant, = self.master.grants()
        self.assertEqual(only(s.Finish, self.master.done(grant)), [])
        self.assertEqual(self.master.do(s.JobGrew(JOB, 2, True))[-1], s.Finish(JOB, None))

    def test_cancelling_kills_what_runs_and_fences_it(self):
        grants = self.start(5, slots=2)
        effects = self.master.do(s.JobCancelled(JOB))
        self.assertEqual(sorted(only(s.Revoke, effects)), sorted(s.Revoke("a", grant.attempt, True) for grant in grants))
        self.assertEqual(effects[-1], s.Finish(JOB, None))
        self.assertEqual(self.master.done(grants[0]), [])
        self.assertEqual(self.master.tick(), [])
        self.assertEqual(self.master.do(s.JobCancelled(JOB)), [])

    def test_two_jobs_are_served_in_turn(self):
        self.master.submit(100, ONE, job=1)
        self.master.submit(100, ONE, job=2)
        self.master.join("a", slots=6)
        self.assertEqual([grant.job for grant in self.master.grants()], [1, 2, 1, 2, 1, 2])

    def test_nodes_are_served_in_turn(self):
        grants = self.start(6, slots=3, nodes=("a", "b"))
        self.assertEqual([grant.node for grant in grants], ["a", "b", "a", "b", "a", "b"])

    def test_attempts_are_unique_also_across_epochs(self):
        attempts = [grant.attempt for grant in self.start(50, slots=50)]
        self.master = Master(epoch=2)
        attempts += [grant.attempt for grant in self.start(50, slots=50)]
        self.assertEqual(len(set(attempts)), 100)
        self.assertLess(max(attempts[:50]), min(attempts[50:]))


class OutcomesTest(SchedulerTest):
    def test_a_duplicate_is_dropped_and_counted(self):
        grant, = self.start(2, DEFAULTS._replace(chunksize=2))
        self.master.done(grant, 1)
        self.assertEqual(self.master.done(grant, 1), [])
        self.assertEqual(self.master.brain.duplicates, 1)

    def test_of_an_overlapping_result_only_the_new_part_counts(self):
        grant, = self.start(5, DEFAULTS._replace(chunksize=5))
        self.master.done(grant, 2)
        deliver, = only(s.Deliver, self.master.done(grant, 4, first=0))
        self.assertEqual((deliver.first, deliver.count, deliver.skip), (0, 4, 2))
        self.assertEqual(self.master.brain.snapshot()["jobs"][0]["delivered"], 4)

    def test_an_unknown_attempt_changes_nothing(self):
        grant, = self.start(2)
        for strange in (grant._replace(attempt=grant.attempt + 1), grant._replace(attempt=0)):
            for effects in (
                self.master.done(strange), self.master.failed(strange), self.master.died(strange),
                self.master.released(strange, 0), self.master.unfit(strange),
            ):  # fmt: skip
                self.assertEqual(effects, [])
        self.assertEqual(self.master.brain.snapshot()["jobs"][0]["delivered"], 0)

    def test_row_49_what_one_node_says_of_anothers_attempt_changes_nothing(self):
        grant, = self.start(2, DEFAULTS._replace(chunksize=2))
        self.master.join("b")
        before = self.master.brain.snapshot()
        foreign = grant._replace(node="b")
        for effects in (
            self.master.done(foreign, 2), self.master.failed(foreign), self.master.died(foreign), self.master.released(foreign, 0), self.master.unfit(foreign),
        ):  # fmt: skip
            self.assertEqual(effects, [])
        after = self.master.brain.snapshot()
        self.assertEqual(before["jobs"], after["jobs"])
        self.assertEqual(before["nodes"], after["nodes"])
        self.assertEqual(2, only(s.Deliver, self.master.done(grant, 2))[0].count)

    def test_what_a_node_skipped_runs_again(self):
        grant, = self.start(5, DEFAULTS._replace(chunksize=5))
        deliver, = self.master.done(grant, 1, first=2, seconds=1.0)
        self.assertEqual((deliver.first, deliver.count), (2, 1))
        self.assertEqual(self.master.done(grant, 2, first=0), [])  # too late
        self.master.join("b")
        again, = self.master.grants()
        self.assertEqual(spans([again]), [(0, 2)])
        self.assertEqual(len(only(s.Deliver, self.master.done(grant, 2, first=3))), 1)
        self.assertIn(s.Finish(JOB, None), self.master.done(again))

    def test_a_node_that_skipped_all_of_a_piece_loses_the_attempt(self):
        grant, = self.start(5, DEFAULTS._replace(chunksize=5))
        effects = self.master.done(grant, 1, first=5)
        self.assertEqual(effects, [s.Revoke("a", grant.attempt, True)])
        again, = self.master.grants()
        self.assertEqual(spans([again]), [(0, 5)])
        self.assertEqual(self.master.done(grant, 5), [])  # fenced

    def test_a_failure_is_an_outcome_and_the_others_go_on(self):
        grant, = self.start(3, DEFAULTS._replace(chunksize=3))
        self.master.done(grant, 1)
        self.assertEqual(self.master.failed(grant, 1), [s.DeliverFailure(JOB, 1, "a", {"text": "no"}, [])])
        self.assertEqual(self.master.failed(grant, 1), [])  # again: a duplicate
        effects = self.master.done(grant, 1, first=2)
        self.assertEqual([type(effect) for effect in effects], [s.Deliver, s.Forget, s.Finish])

    def test_retries_run_a_raising_task_again_that_often(self):
        grant, = self.start(1, ONE._replace(retries=2))
        for _ in range(2):
            self.assertEqual(self.master.failed(grant), [])
            grant, = self.master.grants()
        effects = self.master.failed(grant)
        self.assertEqual([type(effect) for effect in effects], [s.DeliverFailure, s.Forget, s.Finish])

    def test_a_retry_that_succeeds_is_a_result(self):
        grant, = self.start(3, DEFAULTS._replace(chunksize=3, retries=1))
        self.assertEqual(self.master.failed(grant, 0), [])
        self.master.done(grant, 2, first=1)
        again, = self.master.grants()
        self.assertEqual(spans([again]), [(0, 1)])
        self.assertEqual([type(effect) for effect in self.master.done(again)], [s.Deliver, s.Forget, s.Finish])

    def test_a_task_killed_for_its_memory_is_tried_again_alone(self):
        killed, other = self.start(9, nodes=("a",), slots=2)
        self.master.say(s.AttemptDied, "a", killed.attempt, 0, {"memory": True})
        effects = self.master.tick()
        self.assertEqual(effects[0], s.Revoke("a", other.attempt, False))  # what has not begun makes room
        alone, = only(s.Grant, effects)  # the node begins it when nothing else runs: see test_agent.py
        self.assertEqual((spans([alone]), alone.one_by_one, alone.exclusive), ([(0, 1)], True, True))
        self.assertEqual(self.master.grants(9.0), [])
        self.master.done(other, seconds=1.0)
        self.master.say(s.NodeHeard, "a")
        self.assertEqual(self.master.grants(9.0), [])
        self.master.done(alone, seconds=1.0)
        self.assertEqual(spans(self.master.grants()), [(2, 3), (3, 4)])

    def test_of_a_chunk_that_was_killed_only_who_is_caught_runs_alone(self):
        grant, = self.start(2, DEFAULTS._replace(chunksize=2), nodes=("a",), slots=1)
        self.master.say(s.AttemptDied, "a", grant.attempt, 0, {"memory": True})
        one_by_one, = self.master.grants()
        self.assertEqual(self.master.released(one_by_one, 1), [s.TakenBack(JOB, 1, 2)])  # the other task is as likely innocent
        self.assertFalse(self.master.brain._jobs[JOB].next_is_exclusive)
        self.master.say(s.AttemptDied, "a", one_by_one.attempt, 0, {"memory": True})
        self.master.join("b", slots=2)
        self.assertEqual([(g.node, g.first, g.one_by_one) for g in self.master.grants()], [("a", 0, True), ("b", 1, False)])

    def test_two_nodes_that_had_it_and_come_back_without_it(self):
        killed, = self.start(1, nodes=("a",))
        self.master.say(s.AttemptDied, "a", killed.attempt, 0, {"memory": True})
        alone, = self.master.grants()
        self.master.join("b")
        self.master.lose("a")
        self.master.grants()
        self.master.join("a", held=[alone.attempt])
        self.master.tick()
        self.master.join("a")
        self.master.join("b")
        self.assertEqual(len(self.master.grants()), 1)

    def test_other_nodes_go_on_meanwhile(self):
        killed, other = self.start(9, nodes=("a", "b"))
        self.master.say(s.AttemptDied, "a", killed.attempt, 0, {"memory": True})
        alone, = self.master.grants()
        self.assertEqual((alone.node, spans([alone])), ("a", [(0, 1)]))
        self.master.done(other, seconds=1.0)
        third, = self.master.grants()
        self.assertEqual((third.node, third.first), ("b", 2))
        self.master.lose("a")
        self.assertEqual(self.master.grants(), [])  # now b is to run it
        self.master.done(third, seconds=1.0)
        self.assertEqual(spans(self.master.grants()), [(0, 1)])

    def test_it_goes_to_the_node_with_the_least_to_do_and_from_there_to_one_with_nothing(self):
        grants = self.start(9, nodes=("a", "b"), slots=3)
        for node in "ab":
            for grant in [grant for grant in grants if grant.node == node][: 1 if node == "a" else 2]:
                self.master.done(grant, seconds=1.0)
        self.master.submit(0, job=JOB + 1)
        left = self.master.grants()
        self.assertEqual(3, len(left))
        killed, others = left[0], [each for each in grants + left if each.attempt in self.master.brain._attempts]
        self.master.say(s.AttemptDied, killed.node, killed.attempt, killed.first, {"memory": True})
        busy = [grant for grant in others if grant.node == "b" and grant is not killed]
        for grant in busy[1:]:
            self.master.done(grant, seconds=1.0)
        alone, = self.master.grants()
        self.assertEqual((alone.node, alone.exclusive), ("b", True))
        self.master.join("c")
        self.assertIn(s.Revoke("b", alone.attempt, False), self.master.tick(policy.TAKE_BACK_SECONDS))
        self.master.released(alone, alone.first)
        again, = self.master.grants()
        self.assertEqual((again.node, again.first, again.exclusive), ("c", alone.first, True))

    def test_a_retry_does_not_clear_a_task_of_its_deaths(self):
        grant, = self.start(1, ONE._replace(retries=1, attempts_max=2))
        self.master.died(grant)
        grant, = self.master.grants()
        self.master.failed(grant)
        grant, = self.master.grants()
        self.assertTrue(grant.one_by_one)
        self.assertEqual(len(only(s.DeliverPoison, self.master.died(grant))), 1)

    def test_stop_on_error_hands_out_nothing_more_and_lets_end_what_runs(self):
        first, second = self.start(10, DEFAULTS._replace(chunksize=3, on_error="stop"), slots=2)
        effects = self.master.failed(first)
        self.assertIsInstance(effects[0], s.DeliverFailure)
        self.assertEqual(set(only(s.Revoke, effects)), {s.Revoke("a", g.attempt, False) for g in (first, second)})
        self.assertEqual(self.master.grants(), [])
        self.master.released(first, 1)  # nothing of it has begun
        self.assertEqual(only(s.Finish, self.master.released(second, 4)), [])  # one of it runs
        self.assertEqual(self.master.grants(), [])
        effects = self.master.done(second, 1)
        self.assertEqual([type(effect) for effect in effects], [s.Deliver, s.Forget, s.Finish])

    def test_a_stopped_job_ends_also_when_its_last_node_is_lost_or_has_forgotten(self):
        for end in (lambda: self.master.lose("b"), lambda: self.master.join("b", held=[])):
            self.master = Master()
            first, _ = self.start(2, ONE._replace(on_error="stop"), nodes=("a", "b"))
            self.assertEqual(only(s.Finish, self.master.failed(first)), [])
            self.assertEqual(only(s.Finish, end()), [s.Finish(JOB, None)])

    def test_poison_with_stop_on_error_stops(self):
        options = DEFAULTS._replace(chunksize=1, attempts_max=1, on_error="stop")
        grant, = self.start(5, options)
        self.assertEqual([type(effect) for effect in self.master.died(grant)], [s.DeliverPoison, s.Forget, s.Finish])


class DeathTest(SchedulerTest):
    def run_to_the_end(self, grants, poison):
        """Work as a node does: results one by one where careful, a death at a poison task. Returns executions."""
        executions, outcomes, queue = {}, {}, list(grants)
        while queue:
            grant = queue.pop(0)
            effects, reported, at = [], grant.first, grant.first
            while at < grant.first + grant.count:
                executions[at] = executions.get(at, 0) + 1
                if at in poison:
                    effects = self.master.died(grant, reported)
                    break
                at += 1
                if grant.one_by_one:
                    effects += self.master.done(grant, 1, first=reported)
                    reported = at
            else:
                if not grant.one_by_one:
                    effects = self.master.done(grant)
            for effect in effects:
                if type(effect) is s.DeliverPoison:
                    outcomes[effect.first] = effect.deaths
            queue += self.master.grants()
        self.assertEqual(self.master.brain.snapshot()["jobs"], [])
        return executions, outcomes

    def test_poison_is_reported_after_exactly_attempts_max_executions(self):
        for attempts_max in (1, 2, 3, 5):
            for total, poison in ((1, 0), (10, 0), (10, 4), (10, 9)):
                self.master = Master()
                options = DEFAULTS._replace(chunksize=total, attempts_max=attempts_max)
                executions, outcomes = self.run_to_the_end(self.start(total, options), {poison})
                self.assertEqual(list(outcomes), [poison])
                self.assertEqual(len(outcomes[poison]), attempts_max)
                self.assertEqual(executions[poison], attempts_max)
                self.assertLessEqual(max(executions.values()), attempts_max)

    def test_each_of_several_poison_tasks_in_a_chunk_gets_its_own_deaths(self):
        options = DEFAULTS._replace(chunksize=12)
        executions, outcomes = self.run_to_the_end(self.start(12, options), {2, 3, 11})
        self.assertEqual(sorted(outcomes), [2, 3, 11])
        self.assertEqual([executions[index] for index in (2, 3, 11)], [3, 3, 3])

    def test_after_a_chunk_died_it_runs_again_carefully_and_blames_the_one_that_ran(self):
        grant, = self.start(4, DEFAULTS._replace(chunksize=4))
        self.assertFalse(grant.one_by_one)
        self.assertEqual(self.master.died(grant), [])
        again, = self.master.grants()
        self.assertEqual((spans([again]), again.one_by_one), ([(0, 4)], True))
        self.master.done(again, 2)
        self.master.died(again, 2)
        suspect, rest = self.master.grants()  # the rest is prefetched
        self.assertEqual((spans([suspect]), suspect.one_by_one), ([(2, 3)], True))  # alone
        self.assertEqual((spans([rest]), rest.one_by_one), ([(3, 4)], False))

    def test_attempts_max_1_is_careful_from_the_start_and_runs_nothing_twice(self):
        grant, = self.start(4, DEFAULTS._replace(chunksize=4, attempts_max=1))
        self.assertTrue(grant.one_by_one)
        self.master.done(grant, 1)
        self.assertEqual([type(effect) for effect in self.master.died(grant, 1)], [s.DeliverPoison])
        rest, = self.master.grants()
        self.assertEqual(spans([rest]), [(2, 4)])

    def test_one_death_of_a_piece_that_was_cut_is_held_against_one_task(self):
        # Chunk [0, 4) dies and is cut; both parts know of the one death.
        master = self.master
        grant, = self.start(4, DEFAULTS._replace(chunksize=4, attempts_max=2))
        master.died(grant)
        self.take_by_two()
        first, = master.grants()
        master.join("b")
        second, = master.grants()
        self.assertEqual(spans([first, second]), [(0, 2), (2, 4)])
        poison, = only(s.DeliverPoison, master.died(first))
        self.assertEqual((poison.first, len(poison.deaths)), (0, 2))
        self.assertEqual(only(s.DeliverPoison, master.died(second)), [])

    def test_the_rest_of_a_careful_piece_stays_suspected(self):
        grant, = self.start(4, DEFAULTS._replace(chunksize=4))
        self.master.died(grant)
        again, = self.master.grants()
        self.master.released(again, 1)
        self.master.join("b")
        rest, = self.master.grants()
        self.assertEqual((spans([rest]), rest.one_by_one), ([(1, 4)], True))

    def test_a_death_on_a_task_another_node_has_delivered_blames_nobody(self):
        grant, = self.start(2, DEFAULTS._replace(chunksize=2, attempts_max=1))
        self.master.lose("a")
        self.master.join("b")
        copy, = self.master.grants()
        self.master.join("a", held=[grant.attempt])
        self.master.done(copy, 1)
        self.master.lose("b")
        effects = self.master.died(grant, 0)
        self.assertEqual(only(s.DeliverPoison, effects), [])
        again, = self.master.grants()
        self.assertEqual(spans([again]), [(1, 2)])

    def test_a_death_names_node_and_exit(self):
        self.master.join("a", name="host/12")
        self.master.submit(1, ONE._replace(attempts_max=1))
        grant, = self.master.grants()
        poison, = only(s.DeliverPoison, self.master.died(grant, how="signal 11"))
        self.assertEqual(poison.deaths, (s.Death("host/12", {"exit": "signal 11"}),))


class ParkingTest(SchedulerTest):
    """Nodes of a killed master come to a master that has no job yet."""

    def setUp(self):
        super(ParkingTest, self).setUp()
        self.master.do(s.JobAwaited())

    def join(self, node, *held):
        self.master.sessions[node] = session = self.master.next_session
        self.master.next_session += 1
        return self.master.do(s.NodeJoined(node, session, 1, node, list(held)))

    def test_a_node_that_holds_nothing_is_admitted_at_once(self):
        self.assertEqual([s.Admit("a", 1)], self.join("a"))

    def test_a_former_masters_attempts_wait_until_the_first_job_has_named_its_own(self):
        self.assertEqual([], self.join("a", 77, 78))
        self.assertEqual([], self.master.tick(1.0))
        self.assertEqual([2], [node["leases"] for node in self.master.brain.snapshot()["parked"]])
        self.master.submit(100)
        self.master.do(s.JobResumed(JOB, [], [(77, 0, 100)]))
        effects = self.master.tick()
        self.assertEqual([s.Define("a", JOB), s.Revoke("a", 78, True), s.Admit("a", 1)], effects)
        self.assertEqual([s.Revoke("b", 79, True), s.Admit("b", 2)], self.join("b", 79))  # from then on no node waits

    def test_they_do_not_wait_for_ever(self):
        self.join("a", 77)
        self.assertEqual(self.master.now + s.PARK_SECONDS, self.master.brain.deadline())
        self.assertEqual([s.Revoke("a", 77, True), s.Admit("a", 1)], self.master.tick(s.PARK_SECONDS))

    def test_a_parked_node_that_goes_is_forgotten(self):
        self.join("a", 77)
        self.join("b", 78)
        self.master.say(s.NodeDisconnected, "a")
        self.master.say(s.NodeLeft, "b")
        self.assertEqual([], self.master.brain.snapshot()["parked"])
        self.assertIsNone(self.master.brain.deadline())
        self.assertEqual([], self.master.tick(s.PARK_SECONDS))

    def test_of_two_connections_of_a_parked_node_the_newer_one_counts(self):
        self.join("a", 77)
        self.join("a", 77, 78)
        older = s.NodeJoined("a", 1, 1, "a", [77])
        self.assertEqual(s.Disconnect("a", 1, "older than another connection of the same node"), *self.master.do(older))
        self.master.do(s.NodeDisconnected("a", 1))
        effects = self.master.tick(s.PARK_SECONDS)
        self.assertEqual([s.Revoke("a", 77, True), s.Revoke("a", 78, True), s.Admit("a", 2)], effects)

    def test_a_parked_node_that_comes_back_with_nothing_is_admitted(self):
        self.join("a", 77)
        self.assertEqual([s.Admit("a", 2)], self.join("a"))
        self.assertEqual(1, len(self.master.brain.snapshot()["nodes"]))

    def test_an_event_of_a_parked_node_changes_nothing(self):
        self.join("a", 77)
        self.assertEqual([], self.master.say(s.TasksDone, "a", 77, 0, 1, 0.1, [b"x"]))
        self.assertEqual(0, self.master.brain.duplicates)


class LossTest(SchedulerTest):
    def test_a_node_may_reconnect_within_a_moment_and_keeps_what_it_holds(self):
        grant, = self.start(1)
        self.master.say(s.NodeDisconnected, "a")
        self.assertEqual(self.master.tick(s.RECONNECT_SECONDS / 2), [])
        self.master.join("b")
        self.assertEqual(self.master.grants(), [])
        self.master.join("a", held=[grant.attempt])
        self.assertEqual(self.master.tick(), [])
        self.assertEqual(len(only(s.Deliver, self.master.done(grant))), 1)

    def test_a_node_that_does_not_reconnect_is_lost_and_its_tasks_run_elsewhere(self):
        grant, = self.start(1)
        self.master.say(s.NodeDisconnected, "a")
        self.assertAlmostEqual(self.master.brain.deadline(), self.master.now + s.RECONNECT_SECONDS)
        self.master.tick(s.RECONNECT_SECONDS)
        self.assertEqual(self.master.brain.snapshot()["nodes"], [])
        self.assertEqual(self.master.brain.requeued, 1)
        self.master.join("b")
        again, = self.master.grants()
        self.assertEqual((again.node, spans([again])), ("b", spans([grant])))
        self.assertNotEqual(again.attempt, grant.attempt)

    def test_a_silent_node_is_disconnected_and_lost(self):
        self.start(1)
        explain, = self.master.tick(s.NODE_LOST_SECONDS - 0.1)
        self.assertIn("silent: a (for 10 s)", explain.text)
        self.master.say(s.NodeHeard, "a")
        self.assertEqual(self.master.tick(s.NODE_LOST_SECONDS - 0.1), [])
        effects = self.master.tick(0.2)
        self.assertEqual([effect[:2] for effect in only(s.Disconnect, effects)], [("a", 1)])
        self.assertEqual(self.master.brain.snapshot()["nodes"], [])

    def test_late_results_of_a_lost_node_count_once(self):
        grant, = self.start(1)
        self.master.lose("a")
        self.master.join("b")
        copy, = self.master.grants()
        self.master.join("a", held=[grant.attempt])
        effects = self.master.done(grant)
        self.assertEqual(len(only(s.Deliver, effects)), 1)
        self.assertIn(s.Revoke("b", copy.attempt, True), effects)  # whoever is second is ended
        self.assertEqual(effects[-1], s.Finish(JOB, None))
        self.assertEqual(self.master.done(copy), [])

    def test_a_former_masters_attempt_is_awaited_and_adopted(self):
        self.submit_resumed([(0, 10), (40, 50)], [(77, 10, 20), (78, 5, 15), (79, 60, 70)])
        self.master.join("a", slots=3)
        granted = self.master.grants()
        self.assertNotIn(10, [index for grant in granted for index in range(grant.first, grant.first + grant.count)])
        effects = self.master.join("b", held=[77])
        self.assertEqual([effect for effect in effects if type(effect) is not s.Define], [])
        self.assertIn(s.Define("b", JOB), effects)
        self.assertEqual(self.master.brain.snapshot()["jobs"][0]["delivered"], 20)
        adopted = s.Grant("b", JOB, 77, 15, 5, False)  # 78 is the newer one of tasks 10 to 14
        self.assertEqual([type(effect) for effect in self.master.done(adopted)], [s.Deliver])

    def test_the_newer_of_two_former_attempts_is_the_later_one_not_the_higher_number(self):
        """Each master's numbers begin at a random epoch."""
        self.submit_resumed([(0, 10), (20, 100)], [(78, 10, 20), (77, 15, 20)])
        self.master.join("a", held=[77])
        self.master.join("b", held=[78])
        self.assertEqual(only(s.Revoke, self.master.tick()), [])
        self.assertEqual(len(only(s.Deliver, self.master.done(s.Grant("a", JOB, 77, 15, 5, False)))), 1)
        self.assertEqual(len(only(s.Deliver, self.master.done(s.Grant("b", JOB, 78, 10, 5, False)))), 1)

    def test_row_33_of_what_was_adopted_only_a_task_to_be_retried_runs_elsewhere(self):
        """The former master heard that task 15 raised, and would have had it tried again."""
        self.submit_resumed([(0, 15), (16, 18), (20, 100)], [(77, 10, 20)])
        self.master.join("b", slots=4)
        again, = self.master.grants()
        self.assertEqual(spans([again]), [(15, 16)])
        self.master.join("a", held=[77])
        self.assertEqual(self.master.grants(), [])
        rest = s.Grant("a", JOB, 77, 18, 2, False)
        self.assertEqual(len(only(s.Deliver, self.master.done(rest))), 1)
        self.assertIn(s.Finish(JOB, None), self.master.done(again))

    def test_a_former_masters_attempt_that_nobody_brings_is_queued(self):
        self.submit_resumed([(0, 98)], [(77, 98, 100)])
        self.master.join("a")
        self.assertEqual(self.master.grants(), [])
        while self.master.now < 100.0 + s.ADOPT_SECONDS:
            self.master.say(s.NodeHeard, "a")
            granted = self.master.grants(1.0)
        self.assertEqual([grant.first for grant in granted], [98])

    def test_a_former_masters_careful_attempt_that_dies_is_blamed_at_once(self):
        self.master.submit(1, DEFAULTS._replace(attempts_max=1))
        self.master.do(s.JobResumed(JOB, [], [(77, 0, 1)]))
        self.master.join("a", held=[77])
        poison, _, finish = self.master.say(s.AttemptDied, "a", 77, 0, {"exit": "signal 9"})
        self.assertEqual((len(poison.deaths), type(finish)), (1, s.Finish))

    def test_a_cancelled_task_that_waits_is_never_handed_out(self):
        grant, = self.start(4)
        self.assertEqual(self.master.do(s.TaskCancelled(JOB, 2)), [])
        self.master.lose("a")
        self.assertEqual(self.master.do(s.TaskCancelled(JOB, 0)), [])  # granted once, and queued again
        self.assertEqual(self.master.do(s.TaskCancelled(JOB, 0)), [])
        self.master.join("b", slots=4)
        self.assertEqual([grant.first for grant in self.master.grants()], [1, 3])

    def test_a_cancelled_task_of_a_former_master_ends_alone(self):
        self.submit_resumed([(0, 97)], [(77, 97, 100)])
        self.master.do(s.TaskCancelled(JOB, 98))
        self.assertEqual(self.master.join("a", held=[77])[0], s.Revoke("a", 77, True))
        self.assertEqual([grant.first for grant in self.master.grants()], [97])
        self.assertEqual(self.master.brain.snapshot()["jobs"][0]["delivered"], 98)

    def submit_resumed(self, done, attempts):
        self.master = Master()
        self.master.submit(100)
        self.master.do(s.JobResumed(JOB, done, attempts))

    def test_row_38_what_a_former_master_did_not_have_done_is_cut_in_order_and_up_to_the_limit(self):
        self.master.submit(100, DEFAULTS._replace(chunksize=10))
        self.master.do(s.JobGrew(JOB, 100, True, 35))
        self.master.do(s.JobResumed(JOB, [(0, 3), (5, 20), (40, 50)], [(77, 22, 24), (78, 60, 70)]))
        granted = []
        for node in "abcd":
            self.master.join(node)
            granted += spans(self.master.grants())
        self.assertEqual(granted, [(3, 5), (20, 22), (24, 34), (34, 35)])
        self.master.join("e")
        self.assertEqual(self.master.grants(), [])
        self.master.do(s.JobGrew(JOB, 100, True))
        self.assertEqual(spans(self.master.grants()), [(35, 40)])

    def test_what_a_former_master_had_cut_beyond_the_limit_runs_again(self):
        self.master.submit(100)
        self.master.do(s.JobGrew(JOB, 100, True, 5))
        self.master.do(s.JobResumed(JOB, [(0, 20)], [(77, 60, 61)]))
        self.master.tick(s.ADOPT_SECONDS)
        self.master.join("a")
        self.assertEqual(spans(self.master.grants()), [(60, 61)])

    def test_a_task_behind_what_a_former_master_had_cut_is_cancelled(self):
        self.submit_resumed([(10, 50)], [(77, 60, 70)])
        for task in (20, 55, 65):  # it has an outcome, no node has had it, a node may run it
            self.assertEqual(self.master.do(s.TaskCancelled(JOB, task)), [])
        self.master.join("a")
        ran = []  # type: list
        for grants in iter(self.master.grants, []):
            for grant in grants:
                ran += range(grant.first, grant.first + grant.count)
                self.master.done(grant)
        self.assertEqual(sorted(ran), [task for task in list(range(10)) + list(range(50, 100)) if task not in (55, 65)])

    def test_a_piece_that_waits_goes_back_to_the_node_that_still_runs_it(self):
        grant, = self.start(1)
        self.master.lose("a")
        # The job is defined again: a node cannot tell a broken connection from a new master.
        self.assertEqual(self.master.join("a", held=[grant.attempt]), [s.Define("a", JOB)])
        self.assertEqual(self.master.grants(), [])
        self.assertEqual(len(only(s.Deliver, self.master.done(grant))), 1)

    def test_a_piece_is_not_queued_while_a_second_node_runs_it(self):
        grant, = self.start(1)
        self.master.lose("a")
        self.master.join("b")
        self.master.grants()
        self.master.join("a", held=[grant.attempt])
        self.master.lose("b")
        self.master.join("c")
        self.assertEqual(self.master.grants(), [])

    def test_results_beyond_a_piece_that_was_cut_are_run_again(self):
        grant, = self.start(10, DEFAULTS._replace(chunksize=10))
        self.master.lose("a")
        self.take_by_two()
        self.master.join("b")
        copy, = self.master.grants()
        self.assertEqual(spans([copy]), [(0, 2)])
        self.master.join("a", held=[grant.attempt])
        deliver, = only(s.Deliver, self.master.done(grant, 6))
        self.assertEqual((deliver.first, deliver.count), (0, 2))
        self.assertEqual(spans(self.master.grants()), [(2, 4), (4, 6), (6, 8)])

    def test_what_is_given_back_by_one_of_two_holders_is_not_lost(self):
        grant, = self.start(10, DEFAULTS._replace(chunksize=10))
        self.master.lose("a")
        self.master.join("b")
        self.master.grants()
        self.master.join("a", held=[grant.attempt])
        self.master.released(grant, 4)  # validate() counts the tasks
        self.master.join("c")
        rest, = self.master.grants()
        self.assertEqual(spans([rest]), [(4, 10)])

    def test_who_was_granted_more_than_is_left_of_a_piece_is_stopped_at_its_end(self):
        grant, = self.start(10, DEFAULTS._replace(chunksize=10))
        self.master.lose("a")
        self.master.join("b")
        again, = self.master.grants()
        self.master.join("a", held=[grant.attempt])
        self.master.released(again, 4)
        self.master.died(again)  # now a alone has the rest of it, and knows of no end but 10
        self.assertIn(s.Revoke("a", grant.attempt, True), self.master.done(grant, 4))

    def test_a_node_that_rejoins_is_relieved_of_what_is_not_its_any_more(self):
        grant, = self.start(1)
        effects = self.master.join("a", held=[grant.attempt, 12345])
        self.assertEqual([type(effect) for effect in effects], [s.Disconnect, s.Revoke, s.Define])
        self.assertEqual((effects[0][:2], effects[1]), (("a", 1), s.Revoke("a", 12345, True)))

    def test_a_node_that_rejoins_without_what_it_was_granted_has_lost_it(self):
        self.start(1)
        self.master.join("a", held=[])
        again, = self.master.grants()
        self.assertEqual(spans([again]), [(0, 1)])

    def test_a_node_that_rejoins_knows_the_jobs_of_what_it_holds(self):
        grant, _ = self.start(2, slots=2)
        self.master.say(s.NodeDisconnected, "a")
        self.master.join("a", slots=2, held=[grant.attempt])
        self.assertEqual([type(effect) for effect in self.master.tick()], [s.Grant])
        effects = self.master.do(s.JobCancelled(JOB))
        self.assertIn(s.Forget("a", JOB), effects)

    def test_an_event_of_a_closed_or_replaced_session_changes_nothing(self):
        grant, = self.start(2)
        events = [
            s.NodeHeard("a", 1), s.NodeDraining("a", 1), s.NodeDisconnected("a", 1), s.NodeLeft("a", 1),
            s.TasksDone("a", 1, grant.attempt, 0, 1, 0.1, [b"x"]), s.TaskFailed("a", 1, grant.attempt, 0, 0.1, {}, []),
            s.AttemptReleased("a", 1, grant.attempt, 0), s.AttemptDied("a", 1, grant.attempt, 0, {}),
            s.AttemptUnfit("a", 1, grant.attempt, 0, {}),
        ]  # fmt: skip
        for close in (lambda: self.master.say(s.NodeDisconnected, "a"), lambda: self.master.join("a", held=[grant.attempt])):
            close()
            before = self.master.brain.snapshot(), self.master.brain.deadline()
            self.master.now += 0.01
            for event in events:
                self.assertEqual(self.master.do(event), [])
            self.assertEqual((self.master.brain.snapshot(), self.master.brain.deadline()), before)
        for event in events:
            self.assertEqual(self.master.do(event._replace(node="stranger")), [])

    def test_a_join_that_was_held_up_does_not_replace_a_newer_one(self):
        grant, = self.start(1)
        self.master.join("a", held=[grant.attempt])
        effects = self.master.do(s.NodeJoined("a", 1, 1, "a", []))
        self.assertEqual([effect[:2] for effect in effects], [("a", 1)])
        self.assertIsInstance(effects[0], s.Disconnect)
        self.assertEqual(len(only(s.Deliver, self.master.done(grant))), 1)


class LeavingTest(SchedulerTest):
    def test_a_draining_node_gives_back_what_has_not_begun_and_gets_no_more(self):
        first, second = self.start(4, DEFAULTS._replace(chunksize=2), slots=2)
        effects = self.master.say(s.NodeDraining, "a")
        self.assertEqual(effects, [s.Revoke("a", first.attempt, False), s.Revoke("a", second.attempt, False)])
        self.master.released(first, 1)
        self.master.done(first, 1)
        self.assertEqual(self.master.grants(), [])
        self.master.join("b")
        self.assertEqual([(g.node, g.first, g.count) for g in self.master.grants()], [("b", 1, 1)])
        self.assertEqual(len(only(s.Deliver, self.master.done(second))), 1)

    def test_a_node_that_left_is_gone_and_what_it_held_runs_elsewhere(self):
        self.start(1)
        self.master.say(s.NodeLeft, "a")
        self.assertEqual(self.master.brain.snapshot()["nodes"], [])
        self.master.join("b")
        self.assertEqual(spans(self.master.grants()), [(0, 1)])

    def test_an_unfit_node_is_passed_over_and_said_so_once(self):
        first, second = self.start(4, nodes=("a", "b"))
        effects = self.master.unfit(first)
        self.assertIn("no numpy", only(s.Explain, effects)[0].text)
        self.assertEqual(only(s.Finish, effects), [])
        self.master.done(second)
        grants = self.master.grants()
        self.assertEqual({grant.node for grant in grants}, {"b"})

    def test_a_job_no_node_can_run_ends_and_says_why(self):
        first, second = self.start(4, nodes=("a", "b"))
        self.master.unfit(first)
        effects = self.master.unfit(second)
        self.assertEqual(effects[-1], s.Finish(JOB, {"text": "no numpy"}))

    def test_a_job_waits_for_a_fit_node_that_is_reconnecting_or_has_run_part_of_it(self):
        first, second = self.start(4, nodes=("a", "b"))
        self.master.say(s.NodeDisconnected, "b")
        self.assertEqual(only(s.Finish, self.master.unfit(first)), [])
        self.master = Master()
        first, second = self.start(4, nodes=("a", "b"))
        self.master.done(second)
        self.master.lose("b")
        self.master.say(s.NodeHeard, "a")
        self.assertEqual(only(s.Finish, self.master.unfit(first)), [])

    def test_a_job_ends_when_the_only_node_that_could_run_it_no_longer_can(self):
        (first,) = self.start(4)
        self.master.done(first)
        second = self.master.grants()[0]
        self.assertEqual(self.master.unfit(second)[-1], s.Finish(JOB, {"text": "no numpy"}))

    def test_an_unfit_node_does_not_explain_another_end(self):
        first, second = self.start(4, ONE._replace(on_error="stop"), nodes=("a", "b"))
        self.master.unfit(first)
        self.assertEqual(self.master.failed(second)[-1], s.Finish(JOB, None))


class StuckTest(SchedulerTest):
    """On a node no worker process starts: it gets nothing, others do; if there are none for long enough, jobs end."""

    def stuck(self, node, seconds=8.0):
        return self.master.say(s.NodeStarting, node, 1, "exit code 3", seconds)

    def test_it_gets_nothing_and_what_it_gives_back_goes_elsewhere(self):
        first, second = self.start(4, nodes=("a", "b"))
        self.stuck("a")
        effects = self.master.released(first, first.first)
        self.assertEqual([s.TakenBack(JOB, first.first, first.first + 1)], only(s.TakenBack, effects))
        self.assertEqual([], self.master.grants())
        self.master.done(second)
        self.assertEqual({"b"}, {grant.node for grant in self.master.grants()})

    def test_it_is_given_work_when_one_starts(self):
        first, = self.start(1)
        self.stuck(first.node)
        self.master.released(first, 0)
        self.assertEqual([], self.master.grants(1.0))
        self.master.say(s.NodeStarting, first.node, 0, "", None)
        self.assertEqual(1, len(self.master.grants()))

    def test_row_63_without_another_node_the_job_ends_and_says_why(self):
        first, = self.start(1)
        self.stuck(first.node)
        self.master.released(first, 0)
        self.assertEqual([], only(s.Finish, self.master.tick(7.9)))
        self.assertLessEqual(self.master.brain.deadline(), self.master.now + 0.1)
        finish, = only(s.Finish, self.master.tick(0.1))
        self.assertEqual("StartError", finish.unrunnable["type"])
        self.assertIn("a: exit code 3", finish.unrunnable["text"])
        self.master.submit(1, job=JOB + 1)
        self.assertEqual([JOB + 1], [each.job for each in only(s.Finish, self.master.tick())])

    def test_not_while_another_node_may_come_back_or_what_it_waits_for_is_shorter(self):
        first, second = self.start(2, nodes=("a", "b"))
        for grant in (first, second):
            self.stuck(grant.node, 8.0 if grant is first else 60.0)
            self.master.released(grant, grant.first)
        self.assertEqual([], only(s.Finish, self.master.tick(9.0)))

    def test_status_says_so(self):
        first, = self.start(1)
        self.stuck(first.node)
        self.master.released(first, 0)
        self.master.tick(3.0)
        (_, told), = self.master.brain.status(self.master.now)
        self.assertIn("worker processes cannot start: a: exit code 3; given up in 5 s", told.why)


class ChunkSizeTest(SchedulerTest):
    def chunks(self, total, seconds, slots=1, size=1):
        """Counts of the chunks one node gets, each task taking that long."""
        grants, counts = self.start(total, DEFAULTS, slots), []
        while grants:
            counts.append(grants[0].count)
            self.master.done(grants[0], seconds=seconds * grants[0].count, size=size * grants[0].count)
            grants = grants[1:] + self.master.grants(0.001)
        self.assertEqual(sum(counts), total)
        return counts

    def test_chunks_begin_at_one_and_grow_fast_to_their_aim(self):
        counts = self.chunks(10 ** 6, 1e-5)
        self.assertEqual(counts[0], 1)
        self.assertEqual(counts[1:3], [policy.CHUNK_GROWTH] * 2)  # the idle slot's and the prefetched one
        aim = int(round(policy.CHUNK_SECONDS / 1e-5))
        self.assertTrue(all(abs(count - aim) < aim * 0.01 for count in counts[8:50]), counts[:50])

    def test_chunks_shrink_towards_the_end(self):
        counts = self.chunks(200, 0.002, slots=2)
        self.assertEqual(counts[-1], 1)
        self.assertLess(max(counts), 200 // 4 + 1)

    def test_row_83_no_chunk_of_tiny_tasks_is_smaller_than_a_millisecond(self):
        counts = self.chunks(10 ** 6, 1e-7, slots=4)
        grown = counts[counts.index(max(counts)) : -1]  # the last one has what is left
        self.assertGreaterEqual(min(grown) * 1e-7, policy.CHUNK_SECONDS_MIN, counts)

    def test_long_tasks_go_one_by_one_and_are_not_prefetched(self):
        grants = self.start(100, DEFAULTS, slots=2)
        for _ in range(5):
            for grant in grants:
                self.assertEqual(grant.count, 1)
                self.master.done(grant, seconds=1.0)
            grants = self.master.grants(1.0)
            self.assertEqual(len(grants), 2)

    def test_short_tasks_are_prefetched_up_to_the_credit(self):
        grants = self.start(10 ** 6, DEFAULTS, slots=2)
        for grant in grants:
            self.master.done(grant, seconds=1e-4)
        self.assertEqual(len(self.master.grants()), 4)
        self.assertEqual(self.master.grants(), [])

    def test_chunks_are_bounded_by_bytes(self):
        counts = self.chunks(2000, 1e-6, size=policy.CHUNK_BYTES // 10)
        self.assertLessEqual(max(counts), 10)

    def test_each_node_has_its_own_speed(self):
        fast, slow = self.start(10 ** 6, DEFAULTS, nodes=("fast", "slow"))
        for _ in range(20):
            self.master.done(fast, seconds=1e-5 * fast.count)
            self.master.done(slow, seconds=1e-3 * slow.count)
            for grant in self.master.grants(0.01):
                if grant.node == "fast":
                    fast = grant
                else:
                    slow = grant
        self.assertAlmostEqual(fast.count / float(slow.count), 100.0, delta=10.0)

    def test_chunksize_by_hand(self):
        counts = []
        grants = self.start(10, DEFAULTS._replace(chunksize=4))
        while grants:
            counts.append(grants[0].count)
            self.master.done(grants.pop(0), seconds=1e-6)
            grants += self.master.grants()
        self.assertEqual(counts, [4, 4, 2])


class TakeBackTest(SchedulerTest):
    def test_unstarted_tasks_are_taken_back_for_an_idle_node(self):
        grant, = self.start(8, DEFAULTS._replace(chunksize=8))
        self.master.join("b")
        self.assertEqual(self.master.tick(), [])  # too young
        self.assertAlmostEqual(self.master.brain.deadline(), self.master.now + policy.TAKE_BACK_SECONDS)
        effects = self.master.tick(policy.TAKE_BACK_SECONDS)
        self.assertEqual(effects, [s.Revoke("a", grant.attempt, False)])
        self.assertEqual(self.master.tick(1.0), [])  # once
        self.master.released(grant, 2)
        rest, = self.master.grants()
        self.assertEqual((rest.node, spans([rest])), ("b", [(2, 8)]))
        self.assertEqual(len(only(s.Deliver, self.master.done(grant, 2))), 1)

    def test_a_request_lost_with_the_connection_is_made_again(self):
        grant, = self.start(8, DEFAULTS._replace(chunksize=8))
        self.master.join("b")
        self.assertEqual(len(only(s.Revoke, self.master.tick(1.0))), 1)
        self.master.say(s.NodeDisconnected, "a")
        self.master.join("a", held=[grant.attempt])
        self.assertEqual(self.master.tick(1.0), [s.Revoke("a", grant.attempt, False)])

    def test_a_single_running_task_is_left_alone(self):
        self.start(1)
        self.master.join("b")
        self.assertEqual(self.master.tick(1.0), [])

    def test_nothing_is_taken_back_for_a_node_that_cannot_run_it(self):
        first, second = self.start(16, DEFAULTS._replace(chunksize=8), nodes=("a", "b"))
        self.master.unfit(second)
        self.master.done(first, 1, seconds=0.2)
        self.master.tick(1.0)
        self.master.done(first, 7, first=1, seconds=1.4)
        last, = self.master.grants()
        self.assertEqual(last.node, "a")
        self.assertEqual(only(s.Revoke, self.master.tick(1.0)), [])


class CopiesTest(SchedulerTest):
    """Row 17: second copies at a job's end, for jobs that are declared idempotent."""

    OPTIONS = ONE._replace(idempotent=True)

    def straggler(self, options=OPTIONS, total=20):
        """Every task is done in a second but the first, which runs on a; b is idle. Its grant."""
        first, second = self.start(total, options, nodes=("a", "b"))
        for _ in range(total - 1):
            self.master.now += 1.0
            self.master.say(s.NodeHeard, "a")
            self.master.done(second, seconds=1.0)
            if second.first < total - 1:
                second, = self.master.grants()
        return first

    def copy_of(self, first):
        copy, = self.master.grants()
        self.assertEqual((copy.node, spans([copy])), ("b", spans([first])))
        return copy

    def test_what_takes_too_long_runs_a_second_time_and_the_first_result_wins(self):
        first = self.straggler()
        copy = self.copy_of(first)
        self.assertEqual(self.master.grants(5.0), [])  # not a third time
        effects = self.master.done(copy)
        self.assertEqual(len(only(s.Deliver, effects)), 1)
        self.assertIn(s.Revoke("a", first.attempt, True), effects)
        self.assertEqual(effects[-1], s.Finish(JOB, None))
        self.assertEqual(self.master.done(first), [])
        self.assertEqual(self.master.brain.duplicates, 1)

    def test_the_first_may_win_too(self):
        first = self.straggler()
        copy = self.copy_of(first)
        effects = self.master.done(first)
        self.assertIn(s.Revoke("b", copy.attempt, True), effects)
        self.assertEqual(effects[-1], s.Finish(JOB, None))
        self.assertEqual(self.master.done(copy), [])

    def test_only_for_idempotent_jobs(self):
        for options in (ONE, self.OPTIONS._replace(attempts_max=1)):
            self.master = Master()
            self.straggler(options)
            self.assertEqual(self.master.grants(5.0), [])

    def test_when_what_is_left_is_held_back(self):
        first = self.straggler()
        job, = self.master.brain._jobs.values()
        self.master.do(s.JobGrew(JOB, job.total + 5, True, job.total))
        self.copy_of(first)  # the limit may wait for just this

    def test_not_before_it_is_late(self):
        grants = self.start(11, self.OPTIONS, nodes=("a", "b"))
        for _ in range(5):
            for grant in grants:
                self.master.done(grant, seconds=1.0)
            grants = self.master.grants(1.0)
        (last,) = grants
        self.assertEqual(self.master.grants(1.0), [])
        due = self.master.now - 1.0 + policy.COPY_FACTOR
        self.assertAlmostEqual(self.master.brain.deadline(), due)
        copy, = self.master.grants(due - self.master.now)
        self.assertEqual(spans([copy]), spans([last]))

    def test_at_once_where_a_node_is_known_to_be_slow(self):
        slow, fast = self.start(30, self.OPTIONS, nodes=("a", "b"))
        for _ in range(2):
            for _ in range(10):
                self.master.now += 1.0
                self.master.say(s.NodeHeard, "a")
                self.master.done(fast, seconds=1.0)
                fast, = self.master.grants()
            self.master.done(slow, seconds=10.0)
            slow, = self.master.grants()
        for _ in range(7):
            self.master.now += 0.01
            self.master.done(fast, seconds=1.0)
            fast = (self.master.grants() or [None])[0]
        self.assertEqual((fast.node, spans([fast])), ("b", spans([slow])))

    def test_not_while_something_waits_and_not_without_a_measure(self):
        self.start(1, self.OPTIONS)
        self.master.join("b")
        self.assertEqual(self.master.grants(9.0), [])  # nothing is known of how long such a task takes
        self.master = Master()
        first = self.straggler()
        self.master.submit(3, ONE, job=8)
        other, = self.master.grants()
        self.assertEqual((other.job, other.node), (8, "b"))
        self.assertEqual(first.node, "a")

    def test_one_task_in_ten_at_most(self):
        names = "abcdefgh"
        grants = self.start(40, self.OPTIONS, nodes=names)
        rest = list(grants[4:])  # the first four nodes are stuck
        done = 0
        while done < 36:
            self.master.now += 0.5
            for name in names:
                self.master.say(s.NodeHeard, name)
            for grant in rest:
                self.master.done(grant, seconds=0.5)
                done += 1
            rest = self.master.grants()
            if len(rest) and rest[0].first < 8 and done >= 36:
                break
        self.assertEqual(sorted(grant.first for grant in rest), [0, 1, 2, 3])
        brain = list(self.master.brain._jobs.values())[0]
        self.assertEqual(brain.copied, 4)
        for grant in rest:
            self.master.died(grant)
        self.assertEqual(self.master.grants(3.0), [])  # 4 of 40: no more, whatever becomes of them

    def test_an_unstarted_chunk_is_taken_back_and_not_copied(self):
        options = DEFAULTS._replace(chunksize=4, idempotent=True)
        slow, fast = self.start(8, options, nodes=("a", "b"))
        effects = self.master.done(fast, seconds=0.4)
        effects = self.master.tick(1.0)
        self.assertEqual(effects, [s.Revoke("a", slow.attempt, False)])
        self.master.released(slow, 1)
        rest, = self.master.grants()
        self.assertEqual(spans([rest]), [(1, 4)])

    def test_what_a_stuck_node_does_not_give_back_is_copied(self):
        options = DEFAULTS._replace(chunksize=4, idempotent=True)
        slow, fast = self.start(80, options, nodes=("a", "b"))
        for _ in range(19):
            self.master.now += 0.8
            self.master.say(s.NodeHeard, "a")
            self.master.done(fast, seconds=0.8)
            effects = self.master.tick()
            fast = (only(s.Grant, effects) or [None])[0]
        self.assertEqual(effects, [s.Revoke("a", slow.attempt, False)])
        self.assertEqual(self.master.grants(s.ANSWER_SECONDS / 2), [])
        copy, = self.master.grants(s.ANSWER_SECONDS)
        self.assertEqual((copy.node, spans([copy])), ("b", [(0, 4)]))
        self.assertEqual(only(s.Revoke, self.master.tick(1.0)), [])  # nobody takes back what two hold
        self.master.done(copy, 2)
        self.master.done(slow, 3)
        self.assertEqual(self.master.done(copy, 2, first=2)[-1], s.Finish(JOB, None))

    def test_a_copy_that_dies_is_not_held_against_the_task_while_the_other_runs(self):
        first = self.straggler(self.OPTIONS._replace(attempts_max=2))
        copy = self.copy_of(first)
        self.assertEqual(self.master.died(copy), [])
        self.assertEqual(self.master.died(first), [])  # the first death that counts
        again, = self.master.grants()
        self.assertTrue(again.one_by_one)
        self.assertEqual(self.master.grants(9.0), [])  # a suspect runs alone
        poison, = only(s.DeliverPoison, self.master.died(again))
        self.assertEqual(len(poison.deaths), 2)

    def test_the_other_goes_on_when_a_node_of_the_two_is_lost_drains_or_is_unfit(self):
        for end in (
            lambda first, copy: self.master.lose("a"), lambda first, copy: self.master.lose("b"),
            lambda first, copy: self.master.say(s.NodeLeft, "a"), lambda first, copy: self.master.unfit(copy),
            lambda first, copy: self.master.released(copy, copy.first),
        ):  # fmt: skip
            self.master = Master()
            first = self.straggler()
            copy = self.copy_of(first)
            effects = end(first, copy)
            self.assertEqual(only(s.Finish, effects) + only(s.Grant, effects) + self.master.grants(), [])
            attempt, = [attempt for node in self.master.brain._nodes.values() for attempt in node.leases]
            winner = first if attempt == first.attempt else copy
            self.assertEqual(self.master.done(winner)[-1], s.Finish(JOB, None))

    def test_the_copy_of_a_task_that_raises_is_its_retry(self):
        for winner in (0, 1):
            self.master = Master()
            first = self.straggler(self.OPTIONS._replace(retries=1))
            two = [first, self.copy_of(first)]
            self.assertEqual(self.master.failed(two[winner]), [])
            self.assertEqual(self.master.grants(), [])
            effects = self.master.failed(two[1 - winner])
            self.assertEqual([type(effect) for effect in effects], [s.DeliverFailure, s.Forget, s.Forget, s.Finish])

    def test_without_retries_the_first_failure_is_the_outcome(self):
        first = self.straggler()
        copy = self.copy_of(first)
        effects = self.master.failed(copy)
        self.assertEqual(len(only(s.DeliverFailure, effects)), 1)
        self.assertIn(s.Revoke("a", first.attempt, True), effects)
        self.assertEqual(self.master.done(first), [])

    def test_a_copy_that_runs_out_of_time_leaves_the_other_its_own(self):
        first = self.straggler()
        copy = self.copy_of(first)
        late = {"type": "TaskTimeout", "text": "the call took longer than 20 s and was ended"}
        self.assertEqual(self.master.say(s.TaskFailed, "a", first.attempt, first.first, 20.0, late, []), [])
        self.assertEqual(self.master.done(copy)[-1], s.Finish(JOB, None))
        self.master = Master()
        first = self.straggler()
        copy = self.copy_of(first)
        self.master.say(s.TaskFailed, "a", first.attempt, first.first, 20.0, late, [])
        effects = self.master.say(s.TaskFailed, "b", copy.attempt, copy.first, 20.0, late, [])
        self.assertEqual(len(only(s.DeliverFailure, effects)), 1)

    def test_cancelling_ends_both(self):
        for event in (s.JobCancelled(JOB), s.TaskCancelled(JOB, 0)):
            self.master = Master()
            first = self.straggler()
            copy = self.copy_of(first)
            effects = self.master.do(event)
            self.assertLessEqual(
                {s.Revoke("a", first.attempt, True), s.Revoke("b", copy.attempt, True)}, set(only(s.Revoke, effects))
            )
            self.assertEqual(effects[-1], s.Finish(JOB, None))

    def test_a_stopped_job_ends_with_the_first_of_two(self):
        first = self.straggler()
        copy = self.copy_of(first)
        self.assertEqual(only(s.Finish, self.master.do(s.JobStopped(JOB))), [])
        effects = self.master.done(copy)
        self.assertIn(s.Revoke("a", first.attempt, True), effects)
        self.assertEqual(effects[-1], s.Finish(JOB, None))

    def test_both_copies_of_a_former_master_are_adopted(self):
        self.master.submit(20, self.OPTIONS)
        self.master.do(s.JobResumed(JOB, [(1, 20)], [(77, 0, 1), (78, 0, 1)]))
        self.assertEqual(only(s.Revoke, self.master.join("a", held=[77]) + self.master.join("b", held=[78])), [])
        effects = self.master.done(s.Grant("a", JOB, 77, 0, 1, False))
        self.assertIn(s.Revoke("b", 78, True), effects)
        self.assertEqual(effects[-1], s.Finish(JOB, None))


class PlayedCluster(object):
    """Nodes whose tasks take as long as they are told, on the master's virtual clock; each grant is one task."""

    def __init__(self, paces, slots):
        self.master, self.paces, self.slots = Master(), paces, slots
        self.waiting = {name: [] for name in paces}
        self.running = []  # (end, node, grant, begun at)
        self.executions = 0

    def run(self, total, options, seconds):
        """How long the job took."""
        master, began_at = self.master, self.master.now
        for name in sorted(self.paces):
            master.join(name, self.slots)
        effects = master.submit(total, options) + master.tick()
        while not only(s.Finish, effects):
            self.take(effects, seconds)
            end = min(self.running)[0]
            due = master.brain.deadline()
            master.now = end if due is None else min(end, due)
            for name in self.paces:
                master.say(s.NodeHeard, name)
            if master.now == end:
                _, name, grant, begun_at = min(self.running)
                self.running.remove(min(self.running))
                effects = master.done(grant, seconds=end - begun_at) + master.tick()
            else:
                effects = master.tick()
        return master.now - began_at

    def take(self, effects, seconds):
        for grant in only(s.Grant, effects):
            self.waiting[grant.node].append(grant)
        ended = {effect.attempt for effect in only(s.Revoke, effects) if effect.kill}
        self.running = [run for run in self.running if run[2].attempt not in ended]
        for name, pace in sorted(self.paces.items()):
            while self.waiting[name] and sum(run[1] == name for run in self.running) < self.slots:
                now, grant = self.master.now, self.waiting[name].pop(0)
                self.running.append((now + seconds * pace, name, grant, now))
                self.executions += 1


class SlowNodeTest(unittest.TestCase):
    def test_row_17_a_node_ten_times_slower_costs_three_tenths_of_the_time_and_a_tenth_more_work_at_most(self):
        fast = {"a": 1, "b": 1, "c": 1}
        slow = dict(fast, d=10)
        options, held_up = ONE._replace(idempotent=True), 0
        for total in range(20, 200, 12):
            for seconds in (0.5, 3.0):
                alone = PlayedCluster(fast, 2).run(total, ONE, seconds)
                cluster = PlayedCluster(slow, 2)
                together = cluster.run(total, options, seconds)
                self.assertLessEqual(together, 1.3 * alone, (total, seconds))
                self.assertLessEqual(cluster.executions, 1.1 * total, (total, seconds))
                held_up += PlayedCluster(slow, 2).run(total, ONE, seconds) > 1.3 * alone
        self.assertGreater(held_up, 3)  # which is what happens without copies


class TellingTest(SchedulerTest):
    def test_a_job_without_a_node_says_so_soon_then_rarely(self):
        self.master.submit(5)
        self.assertEqual(self.master.tick(), [])
        self.assertAlmostEqual(self.master.brain.deadline(), self.master.now + s.EXPLAIN_FIRST_SECONDS)
        explain, = self.master.tick(s.EXPLAIN_FIRST_SECONDS)
        self.assertEqual(explain, s.Explain("5 tasks wait: no node is connected; they go on when one joins"))
        self.assertEqual(self.master.tick(s.EXPLAIN_AGAIN_SECONDS - 1), [])
        self.assertEqual(len(self.master.tick(1.0)), 1)
        self.master.join("a")
        self.assertEqual(only(s.Explain, self.master.tick()), [])
        self.assertEqual(only(s.Explain, self.master.tick(5.0)), [])

    def test_a_job_whose_nodes_are_all_unfit_says_so(self):
        first, second = self.start(4, nodes=("a", "b"))
        self.master.done(second)
        self.master.unfit(first)
        self.master.say(s.NodeLeft, "b")
        self.master.tick()
        self.assertIn("no node that can run them", self.master.tick(s.EXPLAIN_FIRST_SECONDS)[-1].text)

    def test_the_history_of_an_attempt_and_its_bounds(self):
        grant, = self.start(1)
        self.master.lose("a")
        words = [words for _, words in self.master.brain.story(grant.attempt)]
        self.assertEqual([word[:3] for word in words], [("attempt", grant.attempt, "granted"), ("attempt", grant.attempt, "lost")])
        for _ in range(s.HISTORY_LENGTH):
            self.master.join("b")
        self.assertEqual(self.master.brain.story(grant.attempt), [])

    def test_nothing_is_due_when_nothing_is_there(self):
        self.assertIsNone(self.master.brain.deadline())

    def test_validate_finds_what_is_broken(self):
        grant, = self.start(3)
        list(self.master.brain._jobs.values())[0].queued += 1
        with self.assertRaises(InternalError):
            self.master.brain.validate()

    def test_nothing_is_kept_of_a_finished_job(self):
        grants = self.start(4, slots=2, nodes=("a", "b"))
        for grant in grants:
            self.master.done(grant)
        brain = self.master.brain
        self.assertEqual((brain._attempts, dict(brain._jobs)), ({}, {}))
        for node in brain._nodes.values():
            self.assertEqual((dict(node.leases), node.jobs, node.measured, node.short), ({}, set(), set(), set()))


if __name__ == "__main__":
    unittest.main()
